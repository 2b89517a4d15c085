"""Activations, forward and backward.

A pair is two formulas on float64 arrays in the paper's symbols: x the input, y the output, g the
gradient of the output. The decorators add the dtypes, `out` and the entry in the list. Where a
derivative is 0 by a branch it is selected, so that an infinite gradient does not become NaN.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from ._float64 import Array, Float64, along, narrow, others, wide
from ._registry import backward, forward

# Klambauer et al., Self-Normalizing Neural Networks, arXiv:1706.02515
_SELU_ALPHA = 1.6732632423543772848170429916717
_SELU_LAMBDA = 1.0507009873554804934193349852946

_SQRT_2_OVER_PI = math.sqrt(2 / math.pi)
_erfc: Callable[[Float64], Float64] = np.vectorize(math.erfc, otypes=[np.float64])


# Rectifiers


@forward(saves="y")
def relu(x: Float64) -> Float64:
    return np.where(x <= 0, 0, x)


@backward
def relu_backward(g: Float64, y: Float64) -> Float64:
    return np.where(y <= 0, 0, g)


@forward(saves="y")
def leaky_relu(x: Float64, negative_slope: float = 0.01) -> Float64:
    return np.where(x > 0, x, negative_slope * x)


@backward
def leaky_relu_backward(g: Float64, y: Float64, negative_slope: float = 0.01) -> Float64:
    return np.where(y > 0, g, negative_slope * g)


@forward(saves="x")
def elu(x: Float64, alpha: float = 1.0) -> Float64:
    """Clevert et al., Fast and Accurate Deep Network Learning by Exponential Linear Units, arXiv:1511.07289."""
    return np.where(x > 0, x, alpha * np.expm1(x))


@backward
def elu_backward(g: Float64, x: Float64, alpha: float = 1.0) -> Float64:
    return np.where(x > 0, g, g * (alpha * np.exp(x)))


@forward(saves="x")
def celu(x: Float64, alpha: float = 1.0) -> Float64:
    """Barron, Continuously Differentiable Exponential Linear Units, arXiv:1704.07483."""
    return np.where(x > 0, x, alpha * np.expm1(x / alpha))


@backward
def celu_backward(g: Float64, x: Float64, alpha: float = 1.0) -> Float64:
    return np.where(x > 0, g, g * np.exp(x / alpha))


@forward(saves="x")
def selu(x: Float64) -> Float64:
    return _SELU_LAMBDA * np.where(x > 0, x, _SELU_ALPHA * np.expm1(x))


@backward
def selu_backward(g: Float64, x: Float64) -> Float64:
    return g * np.where(x > 0, _SELU_LAMBDA, _SELU_LAMBDA * _SELU_ALPHA * np.exp(x))


@forward(saves="x")
def softplus(x: Float64, beta: float = 1.0, threshold: float = 20.0) -> Float64:
    return np.where(beta * x > threshold, x, np.logaddexp(0, beta * x) / beta)


@backward
def softplus_backward(g: Float64, x: Float64, beta: float = 1.0, threshold: float = 20.0) -> Float64:
    return np.where(beta * x > threshold, g, g * _sigmoid(beta * x))


# Gated units, x times a gate s(x) in [0, 1]


def _gated(x: Float64, s: Float64) -> Float64:
    """x s, and 0 behind a closed gate even for x = -inf."""
    return np.where(s == 0, 0, x * s)


def _tails(x: Float64, derivative: Float64) -> Float64:
    """Far out the derivative is 0 or 1, where the formula is 0 times infinity."""
    return np.where(abs(x) > 1e100, x > 0, derivative)


def _sigmoid(x: Float64) -> Float64:
    e = np.exp(-abs(x))
    return np.where(x >= 0, 1 / (1 + e), e / (1 + e))


@forward(saves="x")
def silu(x: Float64, beta: float = 1.0) -> Float64:
    """Ramachandran et al., Searching for Activation Functions, arXiv:1710.05941."""
    return _gated(x, _sigmoid(beta * x))


@backward
def silu_backward(g: Float64, x: Float64, beta: float = 1.0) -> Float64:
    t = beta * x
    return g * _tails(t, _sigmoid(t) * (1 + t * _sigmoid(-t)))


@forward(saves="x")
def gelu(x: Float64, approximate: str = "none") -> Float64:
    """Hendrycks and Gimpel, Gaussian Error Linear Units, arXiv:1606.08415."""
    if approximate == "tanh":
        return gelu_tanh(x)
    return _gated(x, _normal_cdf(x))


@backward
def gelu_backward(g: Float64, x: Float64, approximate: str = "none") -> Float64:
    if approximate == "tanh":
        return gelu_tanh_backward(g, x)
    density = np.exp(-x * x / 2) / math.sqrt(2 * math.pi)
    return g * _tails(x, _normal_cdf(x) + x * density)


def _normal_cdf(x: Float64) -> Float64:
    return 0.5 * _erfc(-x / math.sqrt(2))


@forward(saves="x")
def gelu_tanh(x: Float64) -> Float64:
    return _gated(x, _gelu_tanh_gate(x))


@backward
def gelu_tanh_backward(g: Float64, x: Float64) -> Float64:
    s = _gelu_tanh_gate(x)
    du = _SQRT_2_OVER_PI * (1 + 3 * 0.044715 * x**2)
    return g * _tails(x, s + x * s * _gelu_tanh_gate(-x) * 2 * du)


def _gelu_tanh_gate(x: Float64) -> Float64:
    # (1 + tanh u) / 2 = sigmoid(2 u), which does not cancel for u < 0
    return _sigmoid(2 * _SQRT_2_OVER_PI * (x + 0.044715 * x**3))


@forward(saves="x")
def mish(x: Float64) -> Float64:
    """Misra, Mish: A Self Regularized Non-Monotonic Activation Function, arXiv:1908.08681."""
    return _gated(x, np.tanh(np.logaddexp(0, x)))


@backward
def mish_backward(g: Float64, x: Float64) -> Float64:
    u = np.logaddexp(0, x)
    return g * _tails(x, np.tanh(u) + x * _sigmoid(x) / np.cosh(u) ** 2)


# Sigmoids


@forward(saves="y")
def sigmoid(x: Float64) -> Float64:
    return _sigmoid(x)


@backward
def sigmoid_backward(g: Float64, y: Float64) -> Float64:
    return g * y * (1 - y)


@forward(saves="y")
def tanh(x: Float64) -> Float64:
    return np.tanh(x)


@backward
def tanh_backward(g: Float64, y: Float64) -> Float64:
    return g * (1 - y) * (1 + y)


@forward(saves="x")
def logsigmoid(x: Float64) -> Float64:
    return -np.logaddexp(0, -x)


@backward
def logsigmoid_backward(g: Float64, x: Float64) -> Float64:
    return g * _sigmoid(-x)


@forward(saves="x")
def softsign(x: Float64) -> Float64:
    return x / (1 + abs(x))


@backward
def softsign_backward(g: Float64, x: Float64) -> Float64:
    return g / (1 + abs(x)) ** 2


# Piecewise linear


@forward(saves="x")
def relu6(x: Float64) -> Float64:
    return np.clip(x, 0, 6)


@backward
def relu6_backward(g: Float64, x: Float64) -> Float64:
    return np.where((x <= 0) | (x >= 6), 0, g)


@forward(saves="x")
def hardtanh(x: Float64, min_val: float = -1.0, max_val: float = 1.0) -> Float64:
    return np.clip(x, min_val, max_val)


@backward
def hardtanh_backward(g: Float64, x: Float64, min_val: float = -1.0, max_val: float = 1.0) -> Float64:
    return np.where((x <= min_val) | (x >= max_val), 0, g)


@forward(saves="x")
def hardsigmoid(x: Float64) -> Float64:
    return np.clip(x + 3, 0, 6) / 6


@backward
def hardsigmoid_backward(g: Float64, x: Float64) -> Float64:
    return np.where((x > -3) & (x < 3), g / 6, 0)


@forward(saves="x")
def hardswish(x: Float64) -> Float64:
    return x * (np.clip(x + 3, 0, 6) / 6)


@backward
def hardswish_backward(g: Float64, x: Float64) -> Float64:
    return np.where(x <= -3, 0, np.where(x < 3, g * (x / 3 + 0.5), g))


# Other names


swish, swish_backward = silu, silu_backward


# Not in the list: these need more than one array to go back


@np.errstate(all="ignore")
def prelu_forward(x: Array, weight: Array, *, axis: int = 1) -> tuple[Array, Any]:
    """He et al., Delving Deep into Rectifiers, arXiv:1502.01852. `weight`: (1,), or (C,) on `axis`."""
    if weight.size == 1:
        a, axes = wide(weight).reshape(()), None
    else:
        a, axes = along(weight, x.ndim, axis), others(x.ndim, axis)
    x64 = wide(x)
    return narrow(np.where(x64 > 0, x64, a * x64), x.dtype), (x, weight, a, axes)


@np.errstate(all="ignore")
def prelu_backward(grad_out: Array, ctx: Any) -> tuple[Array, Array]:
    x, weight, a, axes = ctx
    g, x64 = wide(grad_out), wide(x)
    dx = np.where(x64 > 0, g, a * g)
    da = np.where(x64 >= 0, 0, x64 * g).sum(axis=axes)
    return narrow(dx, x.dtype), narrow(da.reshape(weight.shape), weight.dtype)


def maxout_forward(x: Array, num_pieces: int, *, axis: int = 1) -> tuple[Array, Any]:
    """Goodfellow et al., Maxout Networks, arXiv:1302.4389. The channels are `num_pieces` groups in a row."""
    axis %= x.ndim
    pieces = wide(x).reshape(*x.shape[:axis], num_pieces, x.shape[axis] // num_pieces, *x.shape[axis + 1 :])
    winner = pieces.argmax(axis, keepdims=True)  # the first of equals; a NaN wins
    y = np.take_along_axis(pieces, winner, axis).squeeze(axis)
    return narrow(y, x.dtype), (x, pieces.shape, winner, axis)


def maxout_backward(grad_out: Array, ctx: Any) -> Array:
    x, shape, winner, axis = ctx
    dx = np.zeros(shape)
    np.put_along_axis(dx, winner, np.expand_dims(wide(grad_out), axis), axis)
    return narrow(dx.reshape(x.shape), x.dtype)


# What `import *` takes: every function above. Type checkers would read a plain assignment as an empty list.
globals()["__all__"] = [
    name for name, f in list(globals().items()) if getattr(f, "__module__", "") == __name__ and name[0] != "_"
]
