"""Gated linear units: one array times an activation of another."""

from __future__ import annotations

from typing import Any

import numpy as np

from ._float64 import Array, axes_of, narrow, wide
from ._registry import Activation, lookup

__all__ = ["gated", "gated_backward", "glu_backward", "glu_forward"]


@np.errstate(all="ignore")
def gated(a: Array, gate: Array, activation: Activation = "silu", *, out: Array | None = None) -> Array:
    """Shazeer, GLU Variants Improve Transformer, arXiv:2002.05202: a * act(gate)."""
    f, _ = lookup(activation)
    return narrow(wide(a) * f(wide(gate)), a.dtype, out)


@np.errstate(all="ignore")
def gated_backward(grad_out: Array, a: Array, gate: Array, activation: Activation = "silu") -> tuple[Array, Array]:
    """(da, dgate)."""
    f, df = lookup(activation)
    g, z = wide(grad_out), wide(gate)
    y = f(z)
    return narrow(g * y, a.dtype), narrow(df(g * wide(a), z, y), gate.dtype)


def glu_forward(x: Array, activation: Activation = "sigmoid", *, axis: int = -1) -> tuple[Array, Any]:
    """Dauphin et al., Language Modeling with Gated Convolutional Networks, arXiv:1612.08083.

    The first half of `axis` times act of the second.
    """
    (axis,) = axes_of("glu_forward", axis, x.ndim)
    if x.shape[axis] % 2:
        raise ValueError(f"glu_forward: x must have an even number of elements on axis {axis}, got shape {x.shape}")
    a, gate = np.split(x, 2, axis)
    return gated(a, gate, activation), (a, gate, activation, axis)


def glu_backward(grad_out: Array, ctx: Any) -> Array:
    a, gate, activation, axis = ctx
    return np.concatenate(gated_backward(grad_out, a, gate, activation), axis)
