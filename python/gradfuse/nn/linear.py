"""Linear maps: the dense layer, and what it shares with convolution."""

from __future__ import annotations

import math
import zlib
from typing import Any

import numpy as np

from gradfuse import init
from gradfuse._arrays import Array, product, to_numpy
from gradfuse._checks import float_dtype, generator, integer
from gradfuse._parameter import Parameter
from gradfuse.nn.epilogue import Epilogue
from gradfuse.nn.layer import Layer, Seeds


class LinearMap(Layer):
    """y = map(x) + bias, the weight drawn by `init`, or by what suits the activation that follows."""

    in_axis, out_axis = 0, 1  # of the weight
    axis = -1  # of the bias, in the result

    def __init__(
        self, shape: tuple[int, ...], bias: bool, initialiser: Any, bias_init: Any, dtype: Any, rng: Any
    ) -> None:
        self.init, self.bias_init = initialiser, bias_init or init.zeros()
        name = type(self).__name__
        dtype = float_dtype(f"{name}: dtype", dtype)
        for argument, given in (("init", initialiser), ("bias_init", bias_init)):
            if given is not None and not callable(given):
                raise TypeError(f"{name}: {argument} must be an initialiser of gradfuse.init, got {given!r}")
        self._seeded = rng is not None
        self.weight = Parameter(np.zeros(shape, dtype))
        self.bias = Parameter(np.zeros(shape[self.out_axis], dtype)) if bias else None
        self._epilogue = Epilogue(self.axis, self)
        self._draw(generator(name, rng), None)

    def _draw(self, rng: np.random.Generator, activation: Any) -> None:
        initialiser = self.init or init.for_activation(activation)
        self.weight.data[...] = initialiser(
            self.weight.shape, rng, dtype=self.weight.data.dtype, in_axis=self.in_axis, out_axis=self.out_axis
        )
        if self.bias is not None:
            self.bias.data[...] = self.bias_init(self.bias.shape, rng, dtype=self.bias.data.dtype)
        self._drawn = self._fingerprint()

    def _fingerprint(self) -> list[int]:
        """By which weights that were drawn are told from those that have been trained or set since."""
        arrays = [np.ascontiguousarray(to_numpy(p.data)) for p in self.own_parameters().values()]
        return [zlib.crc32(array.reshape(-1).view(np.uint8).data) for array in arrays]

    def _convert_own(self, f: Any) -> None:
        new = self.is_new()
        super()._convert_own(f)
        if new:
            self._drawn = self._fingerprint()

    def is_new(self) -> bool:
        return super().is_new() and self._fingerprint() == self._drawn

    def reset(self, seeds: Seeds, activation: Any = None) -> None:
        if not self._seeded:
            self._draw(seeds.weights, activation)
            self._seeded = seeds.given

    def _check(self, x: Array, weight: Array) -> None:
        """TypeError where x is not of the weight's dtype: NumPy would silently compute in the wider of the two."""
        if x.dtype is not weight.dtype and x.dtype != weight.dtype:
            name = type(self).__name__
            raise TypeError(f"{name}: x must have dtype {weight.dtype}, as its weight has, got {x.dtype}")

    def map(self, x: Array) -> Array:
        """The result without the bias."""
        raise NotImplementedError

    def map_backward(self, grad: Array, input_grad: bool) -> Array | None:
        """The backward of map."""
        raise NotImplementedError

    def forward(self, x: Array) -> Array:
        y = self.map(x)
        return y if self.bias is None else self._epilogue.forward(y, self.training)

    def backward(self, grad: Array, *, input_grad: bool = True) -> Array | None:
        return self.map_backward(grad if self.bias is None else self._epilogue.backward(grad), input_grad)


class Linear(LinearMap):
    """y = x @ weight + bias: x (..., in_features), weight (in_features, out_features), y (..., out_features).

    init: an initialiser of gradfuse.init; without one the weight is drawn to suit the activation that follows in a
    Sequential, and by Glorot's rule where none does. bias_init: likewise for the bias, which else begins as 0. rng: a
    seed of its own, else the Sequential's.
    Raises ValueError for an x of other features, TypeError for one of another dtype.
    Source: torch.nn.Linear, its weight transposed.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        *,
        init: Any = None,
        bias_init: Any = None,
        dtype: Any = "float32",
        rng: np.random.Generator | int | None = None,
    ) -> None:
        shape = integer("Linear: in_features", in_features), integer("Linear: out_features", out_features)
        super().__init__(shape, bias, init, bias_init, dtype, rng)

    def map(self, x: Array) -> Array:
        weight = self.weight.data
        if x.ndim == 0 or x.shape[-1] != weight.shape[0]:
            raise ValueError(f"Linear: x must have shape (..., {weight.shape[0]}), got {tuple(x.shape)}")
        self._check(x, weight)
        self._saved = (x,) if self.training else None
        return product(x, weight)

    def map_backward(self, grad: Array, input_grad: bool) -> Array | None:
        (x,) = self._take()
        if not self.frozen:
            if x.ndim == 2:
                self.weight.add_grad(product(x.T, grad))
            else:
                rows = math.prod(x.shape[:-1])
                self.weight.add_grad(product(x.reshape(rows, x.shape[-1]).T, grad.reshape(rows, grad.shape[-1])))
        return product(grad, self.weight.data.T) if input_grad else None

    def __repr__(self) -> str:
        n, m = self.weight.shape
        return f"Linear({n}, {m}{'' if self.bias else ', bias=False'})"
