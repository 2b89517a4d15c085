"""Penalties on weights, added to the gradients, and the constraint of max-norm.

They act on weights alone: parameters of two or more dimensions, not biases or batch norm's.
"""

from __future__ import annotations

import numpy as np

import gradfuse
from gradfuse._arrays import Array, factor_for, namespace
from gradfuse._checks import number
from gradfuse._parameter import Parameter
from gradfuse.nn.layer import Layer
from gradfuse.nn.linear import LinearMap


class Penalty:
    """strength times the sum of a measure of each weight. Called after backward, before the step."""

    def __init__(self, strength: float) -> None:
        self.strength = number(f"{type(self).__name__}: strength", strength)

    def __call__(self, model: Layer, scale: float = 1.0) -> None:
        """Adds to the gradients of the model's weights that have one; scale: that of the loss they are of."""
        for p in _weights(model):
            if p.grad is not None:
                p.grad += self._slope(p.data) * factor_for(p.data, scale * self.strength)

    def penalty(self, model: Layer) -> float:
        """What is added to the loss."""
        return self.strength * sum(self._size(p.data) for p in _weights(model))

    def _size(self, w: Array) -> float:
        """The sum of the measure, in float64."""
        raise NotImplementedError

    def _slope(self, w: Array) -> Array:
        """The measure's derivative."""
        raise NotImplementedError

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.strength})"


class L2(Penalty):
    """penalty = strength / 2 * sum(w^2); adds strength * w to each gradient. Called after backward, before the step.

    With plain SGD it is weight decay. Raises ValueError for a negative strength.
    """

    def _size(self, w: Array) -> float:
        return 0.5 * float((w.astype(np.float64) ** 2).sum())

    def _slope(self, w: Array) -> Array:
        return w


class L1(Penalty):
    """penalty = strength * sum(abs(w)); adds strength * sign(w) to each gradient. Called as L2, and raises as it."""

    def _size(self, w: Array) -> float:
        return float(abs(w).sum(dtype=np.float64))

    def _slope(self, w: Array) -> Array:
        return namespace(w).sign(w)


class MaxNorm:
    """Brings the incoming weights of every unit down to norm r. Called after the step.

    For Linear the columns of the weight, for Conv2D each filter. Raises ValueError for a negative r.
    Source: Srivastava et al. 2014; keras.constraints.MaxNorm.
    """

    def __init__(self, r: float = 3.0) -> None:
        self.r = number("MaxNorm: r", r)

    def __call__(self, model: Layer) -> None:
        for _, layer in model.layers():
            if isinstance(layer, LinearMap) and not layer.frozen:
                axes = tuple(d for d in range(len(layer.weight.shape)) if d != layer.out_axis)
                gradfuse.max_norm_(layer.weight.data, self.r, axis=axes)


def prune(model: Layer, threshold: float) -> float:
    """Sets to 0 the weights whose magnitude is at most `threshold`, in place; returns the share of zeros, as sparsity.

    After training with L1, which brings weights near 0 but not to it. Raises ValueError for a negative threshold.
    """
    number("prune: threshold", threshold)
    for p in _weights(model):
        p.data[abs(p.data) <= threshold] = 0
    return sparsity(model)


def sparsity(model: Layer) -> float:
    """The share of the model's weights that are 0."""
    weights = [p.data for p in _weights(model)]
    zeros = sum(int((w == 0).sum()) for w in weights)
    return zeros / max(1, sum(int(w.size) for w in weights))


def _weights(model: Layer) -> list[Parameter]:
    return [p for p in model.parameters() if len(p.shape) >= 2]
