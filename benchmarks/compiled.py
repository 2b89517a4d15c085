"""What the compilers of PyTorch and JAX make of operations: they fuse what the libraries call one kernel at a time.

Functions of arrays that return arrays, by the operation's name. No entry, no peer.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from benchmarks.peers import optional

Function = Callable[..., Any]
Call = Callable[[], object]


def _torch_functions(torch: Any) -> dict[str, Function]:
    f, a, everything = torch.nn.functional, torch.ops.aten, [True, True, True]

    def log_softmax_backward(dy: Any, y: Any, axis: int) -> Any:
        return dy - y.exp() * dy.sum(axis, keepdim=True)

    def cross_entropy(x: Any, labels: Any, smoothing: float) -> Any:
        return torch.func.grad_and_value(lambda x: f.cross_entropy(x, labels, label_smoothing=smoothing))(x)

    def gated_backward(dy: Any, x: Any, gate: Any, activation: str) -> Any:
        return torch.func.vjp(lambda x, gate: getattr(f, activation)(gate) * x, x, gate)[1](dy)

    def layer_norm_backward(dy: Any, x: Any, w: Any, b: Any, mean: Any, invstd: Any) -> Any:
        return a.native_layer_norm_backward(dy, x, w.shape, mean, invstd, w, b, everything)

    def batch_norm(x: Any, w: Any, b: Any) -> Any:
        return f.batch_norm(x, None, None, w, b, training=True)

    return {
        "softmax": torch.softmax,
        "softmax backward": lambda dy, y, axis: y * (dy - (dy * y).sum(axis, keepdim=True)),
        "log_softmax": torch.log_softmax,
        "log_softmax backward": log_softmax_backward,
        "cross_entropy": cross_entropy,
        "mse_loss": lambda x, target: torch.func.grad_and_value(lambda x: f.mse_loss(x, target))(x),
        "gated": lambda x, gate, activation: getattr(f, activation)(gate) * x,
        "gated backward": gated_backward,
        "layer_norm": lambda x, w, b: f.layer_norm(x, w.shape, w, b),
        "layer_norm backward": layer_norm_backward,
        "rms_norm": lambda x, w: f.rms_norm(x, w.shape, w),
        "group_norm": lambda x, w, b, groups: f.group_norm(x, groups, w, b),
        "instance_norm": lambda x, w, b: f.instance_norm(x, weight=w, bias=b),
        "batch_norm": batch_norm,
        "batch_norm + relu + dropout": lambda x, w, b: f.dropout(f.relu(batch_norm(x, w, b)), 0.5, training=True),
        "bias + elu": lambda x, b: f.elu(x + b),
    }


def _jax_functions(jax: Any) -> dict[str, Function]:
    nn, np_ = jax.nn, jax.numpy

    def cross_entropy(x: Any, labels: Any, smoothing: float) -> Any:
        def loss(x: Any) -> Any:
            logs = nn.log_softmax(x)
            hot = -np_.take_along_axis(logs, labels[:, None], 1).mean()
            return (1 - smoothing) * hot - smoothing * logs.mean()

        return jax.value_and_grad(loss)(x)

    def gated(x: Any, gate: Any, activation: str) -> Any:
        return (nn.silu(gate) if activation == "silu" else nn.gelu(gate, approximate=False)) * x

    def normalized(x: Any, axes: tuple[int, ...], eps: float) -> Any:
        d = x - x.mean(axes, keepdims=True)
        return d * jax.lax.rsqrt((d * d).mean(axes, keepdims=True) + eps)

    def group_norm(x: Any, w: Any, b: Any, groups: int) -> Any:
        y = normalized(x.reshape(len(x), groups, -1), (2,), 1e-5).reshape(x.shape)
        return y * w[:, None, None] + b[:, None, None]

    return {
        "softmax": nn.softmax,
        "softmax backward": lambda dy, y, axis: y * (dy - (dy * y).sum(axis, keepdims=True)),
        "log_softmax": nn.log_softmax,
        "log_softmax backward": lambda dy, y, axis: dy - np_.exp(y) * dy.sum(axis, keepdims=True),
        "cross_entropy": cross_entropy,
        "mse_loss": lambda x, target: jax.value_and_grad(lambda x: ((x - target) ** 2).mean())(x),
        "gated": gated,
        "gated backward": lambda dy, x, gate, activation: jax.vjp(partial(gated, activation=activation), x, gate)[1](
            dy
        ),
        "layer_norm": lambda x, w, b: normalized(x, (1,), 1e-5) * w + b,
        "rms_norm": lambda x, w: x * jax.lax.rsqrt((x * x).mean(1, keepdims=True) + 2**-23) * w,
        "group_norm": group_norm,
        "instance_norm": lambda x, w, b: normalized(x, (2, 3), 1e-5) * w[:, None, None] + b[:, None, None],
        "batch_norm": lambda x, w, b: normalized(x, (0, 2, 3), 1e-5) * w[:, None, None] + b[:, None, None],
        "bias + elu": lambda x, b: nn.elu(x + b),
    }


def _by_torch(torch: Any, function: Function, arrays: tuple[np.ndarray, ...], constants: dict[str, Any]) -> Call:
    torch.compiler.reset()  # else the shapes of earlier sizes count as recompilations
    run = torch.compile(lambda *tensors: function(*tensors, **constants), dynamic=False, fullgraph=True)
    return partial(run, *(torch.from_numpy(a) for a in arrays))


def _by_jax(jax: Any, function: Function, arrays: tuple[np.ndarray, ...], constants: dict[str, Any]) -> Call:
    run, on_device = jax.jit(partial(function, **constants)), [jax.numpy.asarray(a) for a in arrays]
    return lambda: jax.block_until_ready(run(*on_device))


def compiled(name: str, *arrays: np.ndarray, **constants: Any) -> dict[str, Call]:
    """The calls of the compilers that are installed, on these arrays; the constants are compiled in."""
    calls: dict[str, Call] = {}
    if (torch := optional("torch")) and (function := _torch_functions(torch).get(name)):
        call = _by_torch(torch, function, arrays, constants)
        try:
            call()
            calls["torch.compile"] = call
        except Exception as error:  # for example without a C++ compiler: the other contenders are measured
            print(f"{name}: torch.compile: {error}", file=sys.stderr)
    if (jax := optional("jax")) and (function := _jax_functions(jax).get(name)):
        calls["jax"] = _by_jax(jax, function, arrays, constants)
    return calls
