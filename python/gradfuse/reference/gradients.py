"""Gradient clipping, in place."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from ._float64 import Array, narrow, wide

__all__ = ["clip_grad_norm_", "clip_grad_value_"]


@np.errstate(all="ignore")
def clip_grad_norm_(
    grads: Sequence[Array | None], max_norm: float, nonfinite: str = "propagate", *, per_array: bool = False
) -> float | list[float]:
    """Scales `grads` to norm `max_norm` if theirs is above it; returns the norm they had.

    A norm that is not finite scales them all the same ("propagate"), leaves them alone ("skip"), or
    leaves them alone and is a ValueError ("raise"). `per_array` treats each array by itself. A None has norm 0.
    """
    arrays = [np.zeros(0) if g is None else g for g in grads]
    parts = [[g] for g in arrays] if per_array else [arrays]
    norms = [total_norm(part) for part in parts]
    factors = [clip_factor(norm, max_norm, nonfinite) for norm in norms]
    for part, factor in zip(parts, factors, strict=True):
        for g in part:
            narrow(wide(g) * factor, g.dtype, out=g)
    return norms if per_array else norms[0]


@np.errstate(all="ignore")
def total_norm(grads: Sequence[Array]) -> float:
    return math.sqrt(sum(float((wide(g) ** 2).sum()) for g in grads))


def clip_factor(norm: float, max_norm: float, nonfinite: str) -> float:
    """Exactly 1 at norm <= max_norm."""
    if not math.isfinite(norm):
        if nonfinite == "raise":
            raise ValueError(f"the norm of the gradients is {norm}")
        if nonfinite == "skip":
            return 1.0
    return 1.0 if norm <= max_norm else max_norm / norm


def clip_grad_value_(grads: Sequence[Array | None], value: float) -> None:
    """Clamps every element to [-value, value]."""
    for g in grads:
        if g is not None:
            narrow(np.clip(wide(g), -value, value), g.dtype, out=g)
