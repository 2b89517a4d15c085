"""Convolution and pooling of images (N, channels, height, width), all by one pair of functions: windows and their sum.

Between such layers images lie in memory as (channels, height, width, N): a window's row of one channel is then one run
of bytes for the whole batch, and a convolution one product of large matrices. Shapes stay (N, C, H, W); only strides
tell.
"""

from __future__ import annotations

import threading
from typing import Any

import numpy as np

import smelt
from smelt._arrays import Array, factor_for, mean, namespace
from smelt._checks import integer
from smelt.nn.layer import Layer
from smelt.nn.linear import LinearMap

Pair = tuple[int, int]

# Bytes of windows that are laid out at a time.
TILE = 1 << 20


class Windows:
    """The places of a kernel in images.

    output size = floor((size + 2 padding - dilation (kernel - 1) - 1) / stride) + 1
    """

    def __init__(self, layer: str, kernel: Any, stride: Any, padding: Any, dilation: Any) -> None:
        self.layer = layer
        self.kernel, self.stride = _pair(layer, "kernel_size", kernel, 1), _pair(layer, "stride", stride, 1)
        self.padding, self.dilation = _pair(layer, "padding", padding, 0), _pair(layer, "dilation", dilation, 1)

    def output_size(self, size: Pair) -> Pair:
        """Height and width of the result for images of a height and width. ValueError where none is left."""
        out = [
            (n + 2 * p - d * (k - 1) - 1) // s + 1
            for n, k, s, p, d in zip(size, self.kernel, self.stride, self.padding, self.dilation, strict=True)
        ]
        if min(out) < 1:
            raise ValueError(f"{self.layer}: images must be at least as large as the kernel, got {size[0]} x {size[1]}")
        return out[0], out[1]

    def padded(self, x: Array, fill: float = 0.0) -> Array:
        """Images (N, C, H, W) with their margins, contiguous as (C, H, W, N)."""
        xp = namespace(x)
        if x.ndim != 4:
            raise ValueError(f"{self.layer}: x must have shape (N, channels, height, width), got {tuple(x.shape)}")
        x = x.transpose(1, 2, 3, 0)
        (p, q) = self.padding
        if not (p or q):
            return xp.ascontiguousarray(x)
        c, h, w, n = x.shape
        padded = xp.full((c, h + 2 * p, w + 2 * q, n), fill, x.dtype)
        padded[:, p : p + h, q : q + w] = x
        return padded

    def of(self, padded: Array) -> Array:
        """A view of shape (C, kernel height, kernel width, output height, output width, N)."""
        c, h, w, n = padded.shape
        (s0, s1), (d0, d1) = self.stride, self.dilation
        out = self.output_size((h - 2 * self.padding[0], w - 2 * self.padding[1]))
        sc, sh, sw, sn = padded.strides
        strides = sc, d0 * sh, d1 * sw, s0 * sh, s1 * sw, sn
        return namespace(padded).lib.stride_tricks.as_strided(padded, (c, *self.kernel, *out, n), strides)

    def add(self, windows: Array, padded: Array) -> None:
        """The transpose of `of`: adds windows' elements to the places they came from."""
        (s0, s1), (d0, d1) = self.stride, self.dilation
        rows, columns = windows.shape[3:5]
        for i in range(self.kernel[0]):
            for j in range(self.kernel[1]):
                places = padded[:, i * d0 :: s0, j * d1 :: s1][:, :rows, :columns]
                places += windows[:, i, j]

    def without_margins(self, padded: Array) -> Array:
        """What padded() was made of, as (N, C, H, W)."""
        (p, q) = self.padding
        return padded[:, p : padded.shape[1] - p, q : padded.shape[2] - q].transpose(3, 0, 1, 2)


class Conv2D(LinearMap):
    """y[n, o] = bias[o] + sum over c, i, j of weight[o, c, i, j] x[n, c, stride row + dilation i, ...] (correlation).

    x (N, in_channels, H, W), weight (out_channels, in_channels / groups, kernel height, kernel width), y (N,
    out_channels, H', W') with H' = floor((H + 2 padding - dilation (kernel - 1) - 1) / stride) + 1. kernel_size,
    stride, padding, dilation: a number, or one for height and one for width; padding="same" keeps the size at stride 1.
    Windows are laid out in tiles of a megabyte (im2col) and multiplied by BLAS; no more is ever kept than x.
    init, bias_init and rng as in Linear. Raises ValueError for an x of other channels or smaller than the kernel,
    TypeError for one of another dtype.
    Source: torch.nn.Conv2d.
    """

    in_axis, out_axis = 1, 0
    axis = 1

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | Pair,
        stride: int | Pair = 1,
        padding: int | Pair | str = 0,
        dilation: int | Pair = 1,
        groups: int = 1,
        bias: bool = True,
        *,
        init: Any = None,
        bias_init: Any = None,
        dtype: Any = "float32",
        rng: np.random.Generator | int | None = None,
    ) -> None:
        for name, given in (("in_channels", in_channels), ("out_channels", out_channels), ("groups", groups)):
            integer(f"Conv2D: {name}", given, least=1)
        if in_channels % groups or out_channels % groups:
            raise ValueError(f"Conv2D: groups must divide {in_channels} and {out_channels} channels, got {groups}")
        self.groups = groups
        self.windows = Windows("Conv2D", kernel_size, stride, 0 if padding == "same" else padding, dilation)
        if padding == "same":
            self.windows.padding = self._same()
        super().__init__((out_channels, in_channels // groups, *self.windows.kernel), bias, init, bias_init, dtype, rng)

    def _same(self) -> Pair:
        reach = [d * (k - 1) for k, d in zip(self.windows.kernel, self.windows.dilation, strict=True)]
        if self.windows.stride != (1, 1) or any(r % 2 for r in reach):
            raise ValueError("Conv2D: padding='same' needs a stride of 1 and an odd kernel")
        return reach[0] // 2, reach[1] // 2

    def _tiles(self, windows: Array) -> list[slice]:
        """Output rows whose windows fit TILE."""
        c, kh, kw, rows, columns, n = windows.shape
        step = max(1, TILE // max(1, c * kh * kw * columns * n * windows.dtype.itemsize))
        return [slice(first, min(first + step, rows)) for first in range(0, rows, step)]

    def _matrices(self, windows: Array) -> Array:
        """A tile of windows as matrices (im2col), in memory that the next tile takes over."""
        if not windows.flags.c_contiguous:
            windows, given = _scratch(windows), windows
            windows[...] = given
        return windows.reshape(self.groups, -1, windows.shape[3] * windows.shape[4] * windows.shape[5])

    def map(self, x: Array) -> Array:
        o, c = self.weight.shape[0], self.weight.shape[1] * self.groups
        if x.ndim == 4 and x.shape[1] != c:
            raise ValueError(f"Conv2D: x must have shape (N, {c}, height, width), got {tuple(x.shape)}")
        self._check(x)
        xp = namespace(x)
        padded = self.windows.padded(x)
        windows = self.windows.of(padded)
        weight = self.weight.data.reshape(self.groups, o // self.groups, -1)
        y = xp.empty((o, *windows.shape[3:]), x.dtype)
        for rows in self._tiles(windows):
            tile = windows[:, :, :, rows]
            xp.matmul(weight, self._matrices(tile), out=y[:, rows].reshape(self.groups, o // self.groups, -1))
        self._saved = (padded,) if self.training else None
        return y.transpose(3, 0, 1, 2)

    def map_backward(self, grad: Array, input_grad: bool) -> Array | None:
        (padded,) = self._take()
        xp = namespace(padded)
        windows = self.windows.of(padded)
        grad = grad.transpose(1, 2, 3, 0)
        weight = self.weight.data.reshape(self.groups, self.weight.shape[0] // self.groups, -1)
        dweight = xp.zeros_like(weight)
        dpadded = xp.zeros_like(padded) if input_grad else None
        for rows in self._tiles(windows):
            tile = windows[:, :, :, rows]
            g = grad[:, rows].reshape(self.groups, weight.shape[1], -1)
            if not self.frozen:
                dweight += g @ self._matrices(tile).transpose(0, 2, 1)
            if dpadded is not None:
                dtile = _scratch(tile)
                xp.matmul(weight.transpose(0, 2, 1), g, out=dtile.reshape(self.groups, -1, g.shape[-1]))
                self.windows.add(dtile, dpadded[:, rows.start * self.windows.stride[0] :])
        if not self.frozen:
            self.weight.add_grad(dweight.reshape(self.weight.shape))
        return None if dpadded is None else self.windows.without_margins(dpadded)

    def __repr__(self) -> str:
        o, c = self.weight.shape[:2]
        return f"Conv2D({c * self.groups}, {o}, {self.windows.kernel})"


class MaxPool2D(Layer):
    """The maximum of each window: x (N, C, H, W), y (N, C, H', W'), sizes as Conv2D's. Ties: gradient to the first.

    stride: the kernel's size unless given.
    Raises TypeError or ValueError for a kernel, stride, padding or dilation that is none, ValueError for an x of
    another form or smaller than the kernel. Source: torch.nn.MaxPool2d.
    """

    fill = -np.inf

    def __init__(
        self,
        kernel_size: int | Pair,
        stride: int | Pair | None = None,
        padding: int | Pair = 0,
        dilation: int | Pair = 1,
    ) -> None:
        self.windows = Windows(
            type(self).__name__, kernel_size, kernel_size if stride is None else stride, padding, dilation
        )
        if any(2 * p > k for p, k in zip(self.windows.padding, self.windows.kernel, strict=True)):
            raise ValueError(f"{type(self).__name__}: padding must be at most half the kernel, got {padding}")

    def forward(self, x: Array) -> Array:
        padded = self.windows.padded(x, self.fill)
        windows = self.windows.of(padded)
        y, context = self._reduce(windows)
        self._saved = (padded.shape, context) if self.training else None
        return y.transpose(3, 0, 1, 2)

    def backward(self, grad: Array, *, input_grad: bool = True) -> Array | None:
        shape, context = self._take()
        grad = grad.transpose(1, 2, 3, 0)
        dpadded = namespace(grad).zeros(shape, grad.dtype)
        self.windows.add(self._spread(grad, context), dpadded)
        return self.windows.without_margins(dpadded)

    def _reduce(self, windows: Array) -> tuple[Array, Any]:
        c, kh, kw, *rest = windows.shape
        pieces = windows.transpose(1, 2, 0, 3, 4, 5).reshape(kh * kw * c, *rest)
        result: tuple[Array, Any] = smelt.maxout_forward(pieces, kh * kw, axis=0)
        return result

    def _spread(self, grad: Array, context: Any) -> Array:
        pieces = smelt.maxout_backward(grad, context)
        return pieces.reshape(*self.windows.kernel, *grad.shape).transpose(2, 0, 1, 3, 4, 5)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.windows.kernel})"


class AvgPool2D(MaxPool2D):
    """The mean of each window, margins of zeros counted: x (N, C, H, W), y (N, C, H', W'), sizes as Conv2D's.

    stride: the kernel's size unless given. Raises as MaxPool2D. Source: torch.nn.AvgPool2d.
    """

    fill = 0.0

    def __init__(self, kernel_size: int | Pair, stride: int | Pair | None = None, padding: int | Pair = 0) -> None:
        super().__init__(kernel_size, stride, padding)

    def _reduce(self, windows: Array) -> tuple[Array, Any]:
        return mean(windows, (1, 2)), None

    def _spread(self, grad: Array, context: Any) -> Array:
        kh, kw = self.windows.kernel
        share = (grad / factor_for(grad, kh * kw)).astype(grad.dtype)
        return namespace(grad).broadcast_to(share[:, None, None], (len(grad), kh, kw, *grad.shape[1:]))


class GlobalAvgPool2D(Layer):
    """The mean of each channel: (N, C, H, W) becomes (N, C).

    Raises ValueError for an x of another form. Source: Lin, Chen and Yan 2014.
    """

    def forward(self, x: Array) -> Array:
        if x.ndim != 4:
            raise ValueError(f"GlobalAvgPool2D: x must have shape (N, channels, height, width), got {tuple(x.shape)}")
        self._saved = (x.shape,) if self.training else None
        return mean(x, (2, 3))

    def backward(self, grad: Array, *, input_grad: bool = True) -> Array | None:
        (shape,) = self._take()
        share = (grad / factor_for(grad, shape[2] * shape[3])).astype(grad.dtype)
        return namespace(grad).broadcast_to(share[:, :, None, None], shape)


class Flatten(Layer):
    """(N, ...) becomes (N, the product of the rest), in C order."""

    def forward(self, x: Array) -> Array:
        self._saved = (x.shape,) if self.training else None
        return x.reshape(x.shape[0], -1)

    def backward(self, grad: Array, *, input_grad: bool = True) -> Array | None:
        (shape,) = self._take()
        return grad.reshape(shape)


class _Memory(threading.local):
    """What a thread's convolutions lay windows out in: fresh memory would cost a page fault for every 4 KiB."""

    def __init__(self) -> None:
        self.by_dtype: dict[Any, Array] = {}


_memory = _Memory()


def _scratch(like: Array) -> Array:
    """An array of this form, its contents of no meaning, until the thread asks for the next."""
    if not isinstance(like, np.ndarray):
        return namespace(like).empty(like.shape, like.dtype)
    if like.size > _memory.by_dtype.get(like.dtype, like[:0]).size:
        _memory.by_dtype[like.dtype] = np.empty(like.size, like.dtype)
    return _memory.by_dtype[like.dtype][: like.size].reshape(like.shape)


def _pair(layer: str, name: str, value: Any, least: int) -> Pair:
    if isinstance(value, (tuple, list)) and len(value) == 2:
        return integer(f"{layer}: {name}", value[0], least), integer(f"{layer}: {name}", value[1], least)
    both = integer(f"{layer}: {name}", value, least)
    return both, both
