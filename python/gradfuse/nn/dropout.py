"""Dropout as layers, and the predictions of Monte Carlo dropout."""

from __future__ import annotations

from typing import Any

import gradfuse
from gradfuse._arrays import Array, namespace
from gradfuse._checks import SHARE, integer, number
from gradfuse._core import Generator
from gradfuse.nn.epilogue import Epilogue, as_given, in_memory_order, in_order
from gradfuse.nn.layer import Layer, Random, modes_kept


class Dropout(Random):
    """y = x / (1 - p) where an element is kept, 0 where it is dropped, which happens with probability p in training.

    rng: a gradfuse.Generator, or the seed of one. Every forward draws a new mask; none is stored. Which elements of a
    mask go with which of x is decided by their order in memory.
    Raises ValueError for p outside [0, 1]. Source: Srivastava et al. 2014; torch.nn.Dropout.
    """

    always = False  # in inference too

    def __init__(self, p: float = 0.5, *, rng: Generator | int | None = None) -> None:
        self.p = number(f"{type(self).__name__}: p", p, SHARE)
        super().__init__(rng)
        self._epilogue = Epilogue(-1, dropout=self)

    @property
    def active(self) -> bool:
        """Whether a forward drops anything now."""
        return self.training or self.always

    def forward(self, x: Array) -> Array:
        return self._epilogue.forward(x, self.training)

    def backward(self, grad: Array, *, input_grad: bool = True) -> Array | None:
        return self._epilogue.backward(grad)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.p})"


class MCDropout(Dropout):
    """Dropout that drops in inference too: each forward is a sample. Raises as Dropout.

    Source: Gal and Ghahramani 2016.
    """

    always = True


class AlphaDropout(Dropout):
    """Dropout that keeps mean 0 and variance 1 of self-normalizing nets: kept a x + b, dropped a a' + b.

    a' = -1.7580993408473766, a = ((1 - p)(1 + p a'^2))^(-1/2), b = -a p a'; p = 1 gives 0.
    Raises as Dropout. Source: Klambauer et al. 2017; torch.nn.AlphaDropout.
    """

    def forward(self, x: Array) -> Array:
        if not self.active:
            self._saved = None
            return x
        x, _, order = in_memory_order(x, 0)
        y, context = gradfuse.alpha_dropout_forward(x, self.p, rng=self.rng)
        self._saved = (order, context) if self.training else None
        return as_given(y, order)

    def backward(self, grad: Array, *, input_grad: bool = True) -> Array | None:
        order, context = self._take()
        return as_given(gradfuse.alpha_dropout_backward(in_order(grad, order), context), order)


def monte_carlo(model: Layer, x: Array, samples: int = 100, *, transform: Any = None) -> tuple[Array, Array]:
    """Mean and standard deviation of `samples` predictions for x with dropout on and batch statistics frozen.

    transform: applied to each prediction first, for example gradfuse.softmax. Both results have a prediction's shape.
    The model's modes are left as they were. Raises ValueError for fewer than two samples.
    Source: Gal and Ghahramani 2016.
    """
    integer("monte_carlo: samples", samples, least=2)
    with modes_kept(model):
        for _, layer in model.layers():
            layer.training = isinstance(layer, Dropout)
        predictions = [model.forward(x) for _ in range(samples)]
    if transform is not None:
        predictions = [transform(p) for p in predictions]
    xp = namespace(x)
    stacked = xp.stack(predictions)
    return stacked.mean(axis=0), stacked.std(axis=0)
