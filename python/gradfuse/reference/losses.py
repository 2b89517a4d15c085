"""Losses that come with their gradient."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import wraps
from typing import Any

import numpy as np

from ._float64 import Array, Float64, narrow, wide
from .rows import log_softmax


@np.errstate(all="ignore")
def cross_entropy(
    logits: Array,
    target: Array,
    *,
    axis: int = 1,
    weight: Array | None = None,
    ignore_index: int | None = None,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    reduction: str = "mean",
) -> tuple[Array, Array]:
    """-sum q log p + z_loss (log Z)^2 of each row of `logits`, and its gradient. The classes are on `axis`.

    `target` is class indices, or probabilities in the shape of `logits`. q is the target, its share `label_smoothing`
    spread evenly (Szegedy et al., arXiv:1512.00567), times the class's weight. Z is softmax's denominator (z_loss:
    Chowdhery et al., PaLM, arXiv:2204.02311). Rows of the class `ignore_index` count for nothing. "mean" divides by the
    weights of the targets; for probabilities by the number of rows. Where that is 0 the mean is NaN; the gradient of an
    ignored row is 0 even so.
    """
    x = np.ascontiguousarray(np.moveaxis(wide(logits), axis, -1))  # NumPy adds contiguous rows in pairs
    C = x.shape[-1]
    w = np.ones(C) if weight is None else wide(weight)
    if target.dtype.kind in "iu":
        counted = np.ones(target.shape, bool) if ignore_index is None else target != ignore_index
        labels = np.where(counted, target, 0)
        q = (labels[..., None] == np.arange(C)).astype(np.float64)
        total = float(w[labels[counted]].sum())
    elif ignore_index is not None:
        raise ValueError(f"cross_entropy: ignore_index must be None for probabilities, got {ignore_index}")
    else:
        q = np.ascontiguousarray(np.moveaxis(wide(target), axis, -1))
        counted = np.ones(x.shape[:-1], bool)
        total = counted.size

    q = ((1 - label_smoothing) * q + label_smoothing / max(C, 1)) * w
    log_p = log_softmax(x)
    losses = np.where(q == 0, 0, -q * log_p).sum(-1)  # log p may be -inf where nothing is asked of it
    gradient = q.sum(-1, keepdims=True) * np.exp(log_p) - q
    if z_loss != 0:
        log_Z = x.max(-1, initial=-np.inf) - log_p.max(-1, initial=-np.inf)
        losses = losses + z_loss * log_Z**2
        gradient = gradient + 2 * z_loss * log_Z[..., None] * np.exp(log_p)

    losses, gradient = np.where(counted, losses, 0), np.moveaxis(gradient, -1, axis)
    loss, dlogits = _reduced(losses, gradient, total, logits.dtype, reduction)
    np.moveaxis(dlogits, axis, -1)[~counted] = 0
    return loss, dlogits


def _reduced(losses: Array, gradient: Array, n: float, dtype: np.dtype[Any], reduction: str) -> tuple[Array, Array]:
    """With "none" the gradient is that of the sum, which is each loss's own."""
    if reduction == "mean":
        losses, gradient = losses.sum() / n, gradient / n
    elif reduction == "sum":
        losses = losses.sum()
    elif reduction != "none":
        raise ValueError(f'reduction must be "mean", "sum" or "none", got {reduction!r}')
    return narrow(losses, np.promote_types(dtype, np.float32)), narrow(gradient, dtype)


# Elementwise losses: `formula(pred, target, ...)` gives the losses and their derivatives in pred.


def _elementwise(formula: Callable[..., tuple[Float64, Float64]]) -> Callable[..., tuple[Array, Array]]:
    """`formula` as `name(pred, target, ..., *, reduction="mean")` for every float dtype: the loss and its gradient."""

    @wraps(formula)
    def call(pred: Array, target: Array, *args: Any, reduction: str = "mean", **params: Any) -> tuple[Array, Array]:
        with np.errstate(all="ignore"):
            losses, gradient = formula(wide(pred), wide(target), *args, **params)
            return _reduced(losses, gradient, pred.size, pred.dtype, reduction)

    signature = inspect.signature(formula)
    last = inspect.Parameter("reduction", inspect.Parameter.KEYWORD_ONLY, default="mean", annotation="str")
    parameters = [*signature.parameters.values(), last]
    call.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    return call


@_elementwise
def mse_loss(pred: Float64, target: Float64) -> tuple[Float64, Float64]:
    error = pred - target
    return error**2, 2 * error


# What `import *` takes: every function above. Type checkers would read a plain assignment as an empty list.
globals()["__all__"] = [
    name for name, f in list(globals().items()) if getattr(f, "__module__", "") == __name__ and name[0] != "_"
]
