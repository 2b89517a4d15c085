"""Softmax, and losses that come with their gradient."""

from __future__ import annotations

from typing import Any

import numpy as np

from ._float64 import Array, Float64, narrow, wide

__all__ = ["cross_entropy", "log_softmax", "log_softmax_backward", "mse_loss", "softmax", "softmax_backward"]


@np.errstate(all="ignore")
def softmax(x: Array, *, axis: int = -1, out: Array | None = None) -> Array:
    e = np.exp(_shifted(wide(x), axis))
    return narrow(e / e.sum(axis, keepdims=True), x.dtype, out)


@np.errstate(all="ignore")
def softmax_backward(grad_out: Array, y: Array, *, axis: int = -1, out: Array | None = None) -> Array:
    g, y64 = wide(grad_out), wide(y)
    return narrow(y64 * (g - (g * y64).sum(axis, keepdims=True)), grad_out.dtype, out)


@np.errstate(all="ignore")
def log_softmax(x: Array, *, axis: int = -1, out: Array | None = None) -> Array:
    x64 = _shifted(wide(x), axis)
    return narrow(x64 - np.log(np.exp(x64).sum(axis, keepdims=True)), x.dtype, out)


@np.errstate(all="ignore")
def log_softmax_backward(grad_out: Array, y: Array, *, axis: int = -1, out: Array | None = None) -> Array:
    g = wide(grad_out)
    return narrow(g - np.exp(wide(y)) * g.sum(axis, keepdims=True), grad_out.dtype, out)


def _shifted(x: Float64, axis: int) -> Float64:
    """`x` less its maximum; a row of -inf, or with an inf, becomes NaN."""
    top: Float64 = x.max(axis, keepdims=True, initial=-np.inf)
    return x - top


@np.errstate(all="ignore")
def cross_entropy(
    logits: Array, target: Array, *, label_smoothing: float = 0.0, reduction: str = "mean"
) -> tuple[Array, Array]:
    """-sum q log p of each row of `logits` (N, C), and its gradient.

    `target` is classes (N,) or probabilities (N, C); q is the target, its share `label_smoothing`
    spread evenly (Szegedy et al., arXiv:1512.00567).
    """
    N, C = logits.shape
    if target.ndim == 1:
        q = np.zeros((N, C))
        q[np.arange(N), target] = 1
    else:
        q = wide(target)
    q = (1 - label_smoothing) * q + label_smoothing / C
    log_p = log_softmax(wide(logits))
    terms = -q * log_p
    if target.ndim == 1:
        terms = np.where(q == 0, 0, terms)  # a class that is not the target may have log p = -inf
    dlogits = q.sum(-1, keepdims=True) * np.exp(log_p) - q
    return _reduced(terms.sum(-1), dlogits, N, logits.dtype, reduction)


@np.errstate(all="ignore")
def mse_loss(pred: Array, target: Array, *, reduction: str = "mean") -> tuple[Array, Array]:
    """(pred - target)^2 and its gradient."""
    error = wide(pred) - wide(target)
    return _reduced(error**2, 2 * error, error.size, pred.dtype, reduction)


def _reduced(losses: Array, gradient: Array, n: int, dtype: np.dtype[Any], reduction: str) -> tuple[Array, Array]:
    """With "none" the gradient is that of the sum, which is each loss's own."""
    if reduction == "mean":
        losses, gradient = losses.sum() / n, gradient / n
    elif reduction == "sum":
        losses = losses.sum()
    elif reduction != "none":
        raise ValueError(f'reduction must be "mean", "sum" or "none", got {reduction!r}')
    return narrow(losses, np.promote_types(dtype, np.float32)), narrow(gradient, dtype)
