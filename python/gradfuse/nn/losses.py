"""Losses: each returns the loss and its gradient with respect to the prediction."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from gradfuse._arrays import Array, divided, is_half, namespace
from gradfuse._checks import POSITIVE, choice, number
from gradfuse._core import cross_entropy, mse_loss, sigmoid, softplus

Loss = Callable[[Array, Any], tuple[Array, Array]]  # of prediction and target: the loss and its gradient


def binary_cross_entropy_with_logits(logits: Array, target: Array, *, reduction: str = "mean") -> tuple[Array, Array]:
    """(loss, dlogits), loss = softplus(-abs(x)) + (1 - t) max(x, 0) + t max(-x, 0) = -t log s - (1 - t) log(1 - s).

    s = sigmoid(x) for logits x; target t, probabilities, has their shape and dtype. reduction: "mean", "sum" or "none"
    (a loss per element). The loss is float32 for half types, and dlogits = s - t, divided by the size for "mean".
    Raises ValueError for another shape or reduction, TypeError for another dtype.
    Source: torch.nn.functional.binary_cross_entropy_with_logits.
    """
    xp = _checked("binary_cross_entropy_with_logits", logits, target, reduction)
    x, t = _wide(logits), _wide(target)
    loss = softplus(-xp.abs(x)) + (1 - t) * xp.maximum(x, 0) + t * xp.maximum(-x, 0)
    return _reduced(xp, loss, sigmoid(logits) - target, reduction)


def huber(pred: Array, target: Array, delta: float = 1.0, *, reduction: str = "mean") -> tuple[Array, Array]:
    """(loss, dpred), loss = d^2 / 2 where abs(d) <= delta, else delta (abs(d) - delta / 2); d = pred - target.

    pred and target have the same shape and dtype; reduction as in binary_cross_entropy_with_logits. dpred = d clipped
    to [-delta, delta], divided by the size for "mean".
    Raises ValueError for a delta that is not positive, another shape or reduction, TypeError for another dtype.
    Source: Huber 1964; torch.nn.functional.huber_loss.
    """
    number("huber: delta", delta, POSITIVE)
    xp = _checked("huber", pred, target, reduction)
    d = _wide(pred) - _wide(target)
    clipped = xp.clip(d, -delta, delta).astype(d.dtype, copy=False)
    return _reduced(xp, clipped * (d - 0.5 * clipped), clipped.astype(pred.dtype, copy=False), reduction)


def _checked(function: str, pred: Array, target: Array, reduction: str) -> Any:
    if tuple(pred.shape) != tuple(target.shape):
        raise ValueError(f"{function}: target must have shape {tuple(pred.shape)}, got {tuple(target.shape)}")
    if pred.dtype != target.dtype:
        raise TypeError(f"{function}: target must have dtype {pred.dtype}, got {target.dtype}")
    choice(f"{function}: reduction", reduction, "mean", "sum", "none")
    return namespace(pred)


def _reduced(xp: Any, loss: Array, grad: Array, reduction: str) -> tuple[Array, Array]:
    if reduction == "none":
        return loss, grad
    if reduction == "sum":
        return xp.asarray(loss.sum()), grad
    return xp.asarray(loss.mean()), divided(grad, loss.size)


def _wide(x: Array) -> Array:
    """Half types in float32, in which losses are computed."""
    return x.astype("float32") if is_half(x) else x


__all__ = ["binary_cross_entropy_with_logits", "cross_entropy", "huber", "mse_loss"]
