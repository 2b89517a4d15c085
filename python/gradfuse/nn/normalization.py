"""Batch normalization as a layer."""

from __future__ import annotations

from typing import Any

import numpy as np

from gradfuse._arrays import Array
from gradfuse._checks import SHARE, float_dtype, integer, number
from gradfuse._parameter import Parameter
from gradfuse.nn.epilogue import Epilogue
from gradfuse.nn.layer import Layer


class BatchNorm(Layer):
    """y = (x - mean) / sqrt(var + eps) * weight + bias, for each channel on `axis`.

    x has shape (N, channels) or (N, channels, height, width), or any with its channels on `axis`. mean and var are
    those of the batch in training, and the running ones in inference and where the layer is frozen, which is the way to
    keep them in a model that trains. running = (1 - momentum) * running + momentum * batch; where momentum is None it
    is the mean of all batches so far, which num_batches counts. affine=False leaves weight and bias out.
    unbiased=False: the running variance is the biased one (Keras).
    Raises ValueError in training for one value per channel. Source: Ioffe and Szegedy 2015; torch.nn.BatchNorm1d, 2d.
    """

    buffers = ("running_mean", "running_var", "num_batches")

    def __init__(
        self,
        channels: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        *,
        axis: int = 1,
        unbiased: bool = True,
        dtype: Any = "float32",
    ) -> None:
        dtype = float_dtype("BatchNorm: dtype", dtype)
        channels = integer("BatchNorm: channels", channels)
        self.axis = axis
        self.momentum = None if momentum is None else number("BatchNorm: momentum", momentum, SHARE)
        self.eps = number("BatchNorm: eps", eps)
        self.unbiased = unbiased
        self.weight = Parameter(np.ones(channels, dtype)) if affine else None
        self.bias = Parameter(np.zeros(channels, dtype)) if affine else None
        self.running_mean, self.running_var = np.zeros(channels, dtype), np.ones(channels, dtype)
        self.num_batches = np.zeros((), np.int64)
        self._epilogue = Epilogue(axis, norm=self)

    @property
    def arrays(self) -> tuple[Array, Array, Array | None, Array | None]:
        """Running mean and variance, weight and bias."""
        if self.weight is None or self.bias is None:
            return self.running_mean, self.running_var, None, None
        return self.running_mean, self.running_var, self.weight.data, self.bias.data

    def dtype_within(self, dtype: np.dtype[Any]) -> np.dtype[Any]:
        return np.dtype(np.float32) if dtype.itemsize == 2 else dtype

    def add_grads(self, dweight: Array, dbias: Array) -> None:
        """Adds to the gradients of weight and bias, where they are learned."""
        if self.weight is not None and self.bias is not None and not self.frozen:
            self.weight.add_grad(dweight)
            self.bias.add_grad(dbias)

    def __repr__(self) -> str:
        return f"BatchNorm({self.running_mean.size})"

    def forward(self, x: Array) -> Array:
        return self._epilogue.forward(x, self.training)

    def backward(self, grad: Array, *, input_grad: bool = True) -> Array | None:
        return self._epilogue.backward(grad)
