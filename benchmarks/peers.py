"""How the others compute an activation: (x, out) forward, (dy, saved, out) backward; and a loss with its gradient.

No entry, no peer.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import numpy as np

Forward = Callable[[np.ndarray, np.ndarray], Any]
SELU = 1.6732632423543772848170429916717, 1.0507009873554804934193349852946  # alpha, scale


def optional(name: str) -> Any:
    """The module, or None where it is not installed."""
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


def _select(x: np.ndarray, out: np.ndarray, negative: Callable[[np.ndarray], np.ndarray]) -> None:
    np.copyto(out, np.where(x > 0, x, negative(np.minimum(x, 0))))


def _sigmoid(x: np.ndarray, out: np.ndarray) -> None:
    np.negative(x, out=out)
    np.exp(out, out=out)
    out += 1
    np.reciprocal(out, out=out)


def _gated(x: np.ndarray, out: np.ndarray, scale: float = 1.0) -> None:
    _sigmoid(x * np.float32(scale), out)
    out *= x


def _softplus(x: np.ndarray, out: np.ndarray) -> None:
    np.logaddexp(x, np.float32(0), out=out)


def _mish(x: np.ndarray, out: np.ndarray) -> None:
    _softplus(x, out)
    np.tanh(out, out=out)
    out *= x


def _gelu_tanh(x: np.ndarray, out: np.ndarray) -> None:
    np.multiply(x, x, out=out)
    out *= np.float32(0.044715)
    out += 1
    out *= x
    out *= np.float32(0.7978845608)
    np.tanh(out, out=out)
    out += 1
    out *= x
    out *= np.float32(0.5)


def _hard(x: np.ndarray, out: np.ndarray) -> None:
    np.add(x, 3, out=out)
    np.clip(out, 0, 6, out=out)
    out *= np.float32(1 / 6)


def _hardswish(x: np.ndarray, out: np.ndarray) -> None:
    _hard(x, out)
    out *= x


def _softsign(x: np.ndarray, out: np.ndarray) -> None:
    np.abs(x, out=out)
    out += 1
    np.divide(x, out, out=out)


def _logsigmoid(x: np.ndarray, out: np.ndarray) -> None:
    np.negative(x, out=out)
    _softplus(out, out)
    np.negative(out, out=out)


NUMPY: dict[str, Forward] = {
    "relu": lambda x, out: np.maximum(x, 0, out=out),
    "leaky_relu": lambda x, out: np.maximum(x, x * np.float32(0.01), out=out),
    "elu": lambda x, out: _select(x, out, np.expm1),
    "celu": lambda x, out: _select(x, out, np.expm1),
    "selu": lambda x, out: np.multiply(
        np.where(x > 0, x, np.float32(1.6732632) * np.expm1(np.minimum(x, 0))), np.float32(1.050701), out=out
    ),
    "softplus": _softplus,
    "silu": _gated,
    "gelu_tanh": _gelu_tanh,
    "mish": _mish,
    "sigmoid": _sigmoid,
    "tanh": lambda x, out: np.tanh(x, out=out),
    "logsigmoid": _logsigmoid,
    "softsign": _softsign,
    "relu6": lambda x, out: np.clip(x, 0, 6, out=out),
    "hardtanh": lambda x, out: np.clip(x, -1, 1, out=out),
    "hardsigmoid": _hard,
    "hardswish": _hardswish,
}

NUMPY_BACKWARD: dict[str, Callable[[np.ndarray, np.ndarray, np.ndarray], Any]] = {
    "relu": lambda dy, y, out: np.multiply(dy, y > 0, out=out),
    "sigmoid": lambda dy, y, out: np.multiply(dy * y, 1 - y, out=out),
    "tanh": lambda dy, y, out: np.multiply(dy, 1 - y * y, out=out),
    "elu": lambda dy, x, out: np.multiply(dy, np.exp(np.minimum(x, 0)), out=out),
}


def _mse_loss(pred: np.ndarray, target: np.ndarray) -> Any:
    d = pred - target
    loss = np.dot(d, d) / d.size
    d *= np.float32(2 / d.size)
    return loss, d


NUMPY_LOSSES: dict[str, Callable[[np.ndarray, np.ndarray], Any]] = {"mse_loss": _mse_loss}


def torch_forward(torch: Any) -> dict[str, Callable[[Any, Any], Any]]:
    """PyTorch's kernels, with the result written to `out`."""
    a = torch.ops.aten
    alpha, scale = SELU
    return {
        "relu": lambda x, out: a.relu.out(x, out=out),
        "leaky_relu": lambda x, out: a.leaky_relu.out(x, 0.01, out=out),
        "elu": lambda x, out: a.elu.out(x, 1.0, 1.0, 1.0, out=out),
        "celu": lambda x, out: a.elu.out(x, 1.0, 1.0, 1.0, out=out),
        "selu": lambda x, out: a.elu.out(x, alpha, scale, 1.0, out=out),
        "softplus": lambda x, out: a.softplus.out(x, 1.0, 20.0, out=out),
        "silu": lambda x, out: a.silu.out(x, out=out),
        "gelu": lambda x, out: a.gelu.out(x, approximate="none", out=out),
        "gelu_tanh": lambda x, out: a.gelu.out(x, approximate="tanh", out=out),
        "mish": lambda x, out: a.mish.out(x, out=out),
        "sigmoid": lambda x, out: a.sigmoid.out(x, out=out),
        "tanh": lambda x, out: a.tanh.out(x, out=out),
        "logsigmoid": lambda x, out: torch.nn.functional.logsigmoid(x),
        "softsign": lambda x, out: torch.nn.functional.softsign(x),
        "relu6": lambda x, out: a.hardtanh.out(x, 0.0, 6.0, out=out),
        "hardtanh": lambda x, out: a.hardtanh.out(x, -1.0, 1.0, out=out),
        "hardsigmoid": lambda x, out: a.hardsigmoid.out(x, out=out),
        "hardswish": lambda x, out: a.hardswish.out(x, out=out),
    }


def torch_backward(torch: Any) -> dict[str, Callable[[Any, Any, Any], Any]]:
    """PyTorch's backward kernels, with the result written to `out`."""
    a = torch.ops.aten
    alpha, scale = SELU
    buffers: dict[int, Any] = {}

    def logsigmoid(dy: Any, x: Any, out: Any) -> Any:
        if x.data_ptr() not in buffers:  # what its forward leaves for its backward
            buffers[x.data_ptr()] = a.log_sigmoid_forward(x)[1]
        return a.log_sigmoid_backward.grad_input(dy, x, buffers[x.data_ptr()], grad_input=out)

    def softsign(dy: Any, x: Any, out: Any) -> Any:
        d = 1 + x.abs()
        return torch.div(dy, d * d, out=out)

    return {
        "relu": lambda dy, s, out: a.threshold_backward.grad_input(dy, s, 0, grad_input=out),
        "leaky_relu": lambda dy, s, out: a.leaky_relu_backward.grad_input(dy, s, 0.01, True, grad_input=out),
        "elu": lambda dy, s, out: a.elu_backward.grad_input(dy, 1.0, 1.0, 1.0, False, s, grad_input=out),
        "celu": lambda dy, s, out: a.elu_backward.grad_input(dy, 1.0, 1.0, 1.0, False, s, grad_input=out),
        "selu": lambda dy, s, out: a.elu_backward.grad_input(dy, alpha, scale, 1.0, False, s, grad_input=out),
        "softplus": lambda dy, s, out: a.softplus_backward.grad_input(dy, s, 1.0, 20.0, grad_input=out),
        "silu": lambda dy, s, out: a.silu_backward.grad_input(dy, s, grad_input=out),
        "gelu": lambda dy, s, out: a.gelu_backward.grad_input(dy, s, approximate="none", grad_input=out),
        "gelu_tanh": lambda dy, s, out: a.gelu_backward.grad_input(dy, s, approximate="tanh", grad_input=out),
        "mish": lambda dy, s, out: a.mish_backward(dy, s),
        "sigmoid": lambda dy, s, out: a.sigmoid_backward.grad_input(dy, s, grad_input=out),
        "tanh": lambda dy, s, out: a.tanh_backward.grad_input(dy, s, grad_input=out),
        "logsigmoid": logsigmoid,
        "softsign": softsign,
        "relu6": lambda dy, s, out: a.hardtanh_backward.grad_input(dy, s, 0.0, 6.0, grad_input=out),
        "hardtanh": lambda dy, s, out: a.hardtanh_backward.grad_input(dy, s, -1.0, 1.0, grad_input=out),
        "hardsigmoid": lambda dy, s, out: a.hardsigmoid_backward.grad_input(dy, s, grad_input=out),
        "hardswish": lambda dy, s, out: a.hardswish_backward(dy, s),
    }


def _numpy_softmax(x: np.ndarray, axis: int, out: np.ndarray) -> None:
    np.subtract(x, x.max(axis=axis, keepdims=True), out=out)
    np.exp(out, out=out)
    np.divide(out, out.sum(axis=axis, keepdims=True), out=out)


# Operations on rows: (x, axis, out) forward, (dy, y, axis, out) backward.
NUMPY_ROWS: dict[str, Callable[..., Any]] = {
    "softmax": _numpy_softmax,
    "softmax backward": lambda dy, y, axis, out: np.multiply(dy - (dy * y).sum(axis=axis, keepdims=True), y, out=out),
}


def torch_rows(torch: Any) -> dict[str, Callable[..., Any]]:
    """The same by PyTorch's kernels."""
    a, single = torch.ops.aten, torch.float32
    softmax, log_softmax = a._softmax_backward_data.out, a._log_softmax_backward_data.out
    return {
        "softmax": lambda x, axis, out: a._softmax.out(x, axis, False, out=out),
        "softmax backward": lambda dy, y, axis, out: softmax(dy, y, axis, single, grad_input=out),
        "log_softmax": lambda x, axis, out: a._log_softmax.out(x, axis, False, out=out),
        "log_softmax backward": lambda dy, y, axis, out: log_softmax(dy, y, axis, single, out=out),
    }


def _numpy_rms_norm(x: np.ndarray, w: np.ndarray) -> None:
    y = x / np.sqrt(np.square(x).mean(axis=-1, keepdims=True) + np.float32(2**-23))
    y *= w


def _numpy_layer_norm(x: np.ndarray, w: np.ndarray, b: np.ndarray) -> None:
    d = x - x.mean(axis=-1, keepdims=True)
    d /= np.sqrt(np.square(d).mean(axis=-1, keepdims=True) + np.float32(1e-5))
    d *= w
    d += b


# Normalizations, which make a new array: (x, [groups], weight, [bias]).
NUMPY_NORMS: dict[str, Callable[..., Any]] = {"layer_norm": _numpy_layer_norm, "rms_norm": _numpy_rms_norm}


def torch_norms(torch: Any) -> dict[str, Callable[..., Any]]:
    f = torch.nn.functional
    found: dict[str, Callable[..., Any]] = {
        "layer_norm": lambda x, w, b: f.layer_norm(x, w.shape, w, b),
        "group_norm": f.group_norm,
        "instance_norm": lambda x, w, b: f.instance_norm(x, weight=w, bias=b),
    }
    if hasattr(f, "rms_norm"):
        found["rms_norm"] = lambda x, w: f.rms_norm(x, w.shape, w)
    return found


def torch_norms_backward(torch: Any) -> dict[str, Callable[..., Any]]:
    """Of dy and the forward's arguments: a call of the backward kernel. The others go through autograd."""
    a, everything = torch.ops.aten, [True, True, True]

    def layer_norm(dy: Any, x: Any, w: Any, b: Any) -> Callable[[], Any]:
        _, mean, invstd = a.native_layer_norm(x, w.shape, w, b, 1e-5)
        return lambda: a.native_layer_norm_backward(dy, x, w.shape, mean, invstd, w, b, everything)

    def group_norm(dy: Any, x: Any, groups: int, w: Any, b: Any) -> Callable[[], Any]:
        sizes = x.shape[0], x.shape[1], x[0, 0].numel(), groups
        _, mean, invstd = a.native_group_norm(x, w, b, *sizes, 1e-5)
        return lambda: a.native_group_norm_backward(dy, x, mean, invstd, w, *sizes, everything)

    return {"layer_norm": layer_norm, "group_norm": group_norm}


def jax_forward(jax: Any) -> dict[str, Callable[[Any], Any]]:
    """JAX's functions, to be compiled."""
    nn, np_ = jax.nn, jax.numpy
    return {
        "relu": lambda x: np_.maximum(x, 0),
        "leaky_relu": nn.leaky_relu,
        "elu": nn.elu,
        "celu": nn.celu,
        "selu": nn.selu,
        "softplus": nn.softplus,
        "silu": nn.silu,
        "gelu": lambda x: nn.gelu(x, approximate=False),
        "gelu_tanh": nn.gelu,
        "mish": nn.mish,
        "sigmoid": nn.sigmoid,
        "tanh": np_.tanh,
        "logsigmoid": nn.log_sigmoid,
        "softsign": nn.soft_sign,
        "relu6": nn.relu6,
        "hardtanh": nn.hard_tanh,
        "hardsigmoid": nn.hard_sigmoid,
        "hardswish": nn.hard_swish,
    }


NUMEXPR = {
    "relu": "where(x > 0, x, 0)",
    "elu": "where(x > 0, x, expm1(x))",
    "sigmoid": "1 / (1 + exp(-x))",
    "silu": "x / (1 + exp(-x))",
    "tanh": "tanh(x)",
    "softplus": "log1p(exp(x))",
}
