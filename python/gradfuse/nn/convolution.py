"""Convolution and pooling of images (N, channels, height, width), all by one pair of functions: windows and their sum.

Between such layers images lie in memory as (channels, height, width, N): a window's row of one channel is then one run
of bytes for the whole batch, and a convolution one product of large matrices. Shapes stay (N, C, H, W); only strides
tell.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np

import gradfuse
from gradfuse import _core
from gradfuse._arrays import Array, divided, is_half, mean, namespace
from gradfuse._checks import integer
from gradfuse.nn.layer import Layer
from gradfuse.nn.linear import LinearMap

Pair = tuple[int, int]

# Bytes of windows that are laid out at a time.
TILE = 4 << 20


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

    def images(self, x: Array) -> Array:
        """Images (N, C, H, W), contiguous as (C, H, W, N)."""
        if x.ndim != 4:
            raise ValueError(f"{self.layer}: x must have shape (N, channels, height, width), got {tuple(x.shape)}")
        return namespace(x).ascontiguousarray(x.transpose(1, 2, 3, 0))

    def gather(self, images: Array, windows: Array, row: int = 0, fill: float = 0.0) -> None:
        """Fills windows (C, kernel height, kernel width, rows, columns, N), those from `row` on; margins are `fill`."""
        _core.gather_windows(images, windows, row, self.stride, self.padding, self.dilation, fill)

    def add(self, windows: Array, images: Array, row: int = 0) -> None:
        """The transpose of gather: adds windows' elements to the places they came from."""
        _core.add_windows(images, windows, row, self.stride, self.padding, self.dilation)


class Conv2D(LinearMap):
    """y[n, o] = bias[o] + sum over c, i, j of weight[o, c, i, j] x[n, c, stride row + dilation i - padding, ...].

    c runs over the channels of o's group; it is a correlation. x (N, in_channels, H, W), weight (out_channels,
    in_channels / groups, kernel height, kernel width), y (N, out_channels, H', W') with H' = floor((H + 2 padding -
    dilation (kernel - 1) - 1) / stride) + 1. kernel_size, stride, padding, dilation: a number, or one for height and
    one for width; padding="same" keeps the size at stride 1.
    Windows are laid out in tiles of four megabytes (im2col) and multiplied by BLAS; no more is ever kept than x.
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

    def _tiles(self, images: Array) -> Iterator[tuple[int, int, tuple[int, ...]]]:
        """Output rows [first, end) and the form of their windows, so many that they fit TILE."""
        c, h, w, n = images.shape
        rows, columns = self.windows.output_size((h, w))
        kh, kw = self.windows.kernel
        step = max(1, TILE // max(1, c * kh * kw * columns * n * images.dtype.itemsize))
        for first in range(0, rows, step):
            end = min(first + step, rows)
            yield first, end, (c, kh, kw, end - first, columns, n)

    def _matrices(self, images: Array, first: int, form: tuple[int, ...]) -> Array:
        """The windows of some output rows as matrices (im2col), in memory that the next tile takes over."""
        if self._is_pointwise:
            windows = images[:, first : first + form[3]]
        else:
            windows = _scratch(images, form)
            self.windows.gather(images, windows, first)
        return windows.reshape(self.groups, math.prod(form[:3]) // self.groups, math.prod(form[3:]))

    @property
    def _is_pointwise(self) -> bool:
        """Whether windows are the images themselves."""
        w = self.windows
        return w.kernel == w.stride == (1, 1) and w.padding == (0, 0)

    def map(self, x: Array) -> Array:
        o, c = self.weight.shape[0], self.weight.shape[1] * self.groups
        if x.ndim == 4 and x.shape[1] != c:
            raise ValueError(f"Conv2D: x must have shape (N, {c}, height, width), got {tuple(x.shape)}")
        self._check(x, self.weight.data)
        xp = namespace(x)
        images = self.windows.images(x)
        weight = self.weight.data.reshape(self.groups, o // self.groups, -1)
        y = xp.empty((o, *self.windows.output_size(images.shape[1:3]), images.shape[3]), x.dtype)
        for first, end, form in self._tiles(images):
            tile = y[:, first:end].reshape(self.groups, o // self.groups, math.prod(form[3:]))
            xp.matmul(weight, self._matrices(images, first, form), out=tile)
        self._saved = (images,) if self.training else None
        return y.transpose(3, 0, 1, 2)

    def map_backward(self, grad: Array, input_grad: bool) -> Array | None:
        (images,) = self._take()
        xp = namespace(images)
        grad = grad.transpose(1, 2, 3, 0)
        weight = self.weight.data.reshape(self.groups, self.weight.shape[0] // self.groups, -1)
        dweight = xp.zeros(weight.shape, np.float32 if is_half(weight) else weight.dtype)
        dimages = xp.zeros_like(images) if input_grad else None
        for first, end, form in self._tiles(images):
            g = grad[:, first:end].reshape(self.groups, weight.shape[1], math.prod(form[3:]))
            if not self.frozen:
                dweight += g @ self._matrices(images, first, form).transpose(0, 2, 1)
            if dimages is not None:
                dwindows = _scratch(images, form)
                xp.matmul(weight.transpose(0, 2, 1), g, out=dwindows.reshape(self.groups, weight.shape[2], g.shape[-1]))
                self.windows.add(dwindows, dimages, first)
        if not self.frozen:
            self.weight.add_grad(dweight.astype(weight.dtype, copy=False).reshape(self.weight.shape))
        return None if dimages is None else dimages.transpose(3, 0, 1, 2)

    def __repr__(self) -> str:
        o, c = self.weight.shape[:2]
        return f"Conv2D({c * self.groups}, {o}, {self.windows.kernel})"


class Pool2D(Layer):
    """Windows of each channel become one number: x (N, C, H, W), y (N, C, H', W'), sizes as Conv2D's."""

    fill: float  # what margins hold

    def __init__(self, kernel_size: Any, stride: Any, padding: Any, dilation: Any = 1) -> None:
        name = type(self).__name__
        self.windows = Windows(name, kernel_size, kernel_size if stride is None else stride, padding, dilation)
        if any(2 * p > k for p, k in zip(self.windows.padding, self.windows.kernel, strict=True)):
            raise ValueError(f"{name}: padding must be at most half the kernel, got {padding}")

    def forward(self, x: Array) -> Array:
        images = self.windows.images(x)
        c, h, w, n = images.shape
        pieces = namespace(x).empty((*self.windows.kernel, c, *self.windows.output_size((h, w)), n), x.dtype)
        self.windows.gather(images, pieces.transpose(2, 0, 1, 3, 4, 5), fill=self.fill)
        y, context = self._reduce(pieces)
        self._saved = (images.shape, y.shape, context) if self.training else None
        return y.transpose(3, 0, 1, 2)

    def backward(self, grad: Array, *, input_grad: bool = True) -> Array | None:
        shape, out, context = self._take()
        _check_grad(type(self).__name__, grad, (out[3], *out[:3]))
        grad = namespace(grad).ascontiguousarray(grad.transpose(1, 2, 3, 0))
        dimages = namespace(grad).zeros(shape, grad.dtype)
        self.windows.add(self._spread(grad, context).transpose(2, 0, 1, 3, 4, 5), dimages)
        return dimages.transpose(3, 0, 1, 2)

    def _reduce(self, pieces: Array) -> tuple[Array, Any]:
        """Of (kernel height, kernel width, ...) the result (...), and what its backward needs."""
        raise NotImplementedError

    def _spread(self, grad: Array, context: Any) -> Array:
        """The gradient with respect to pieces."""
        raise NotImplementedError

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.windows.kernel})"


class MaxPool2D(Pool2D):
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
        super().__init__(kernel_size, stride, padding, dilation)

    def _reduce(self, pieces: Array) -> tuple[Array, Any]:
        kh, kw, c, *rest = pieces.shape
        result: tuple[Array, Any] = gradfuse.maxout_forward(pieces.reshape(kh * kw * c, *rest), kh * kw, axis=0)
        return result

    def _spread(self, grad: Array, context: Any) -> Array:
        return gradfuse.maxout_backward(grad, context).reshape(*self.windows.kernel, *grad.shape)


class AvgPool2D(Pool2D):
    """The mean of each window, margins of zeros counted: x (N, C, H, W), y (N, C, H', W'), sizes as Conv2D's.

    stride: the kernel's size unless given. Raises as MaxPool2D. Source: torch.nn.AvgPool2d.
    """

    fill = 0.0

    def __init__(self, kernel_size: int | Pair, stride: int | Pair | None = None, padding: int | Pair = 0) -> None:
        super().__init__(kernel_size, stride, padding)

    def _reduce(self, pieces: Array) -> tuple[Array, Any]:
        return mean(pieces, (0, 1)), None

    def _spread(self, grad: Array, context: Any) -> Array:
        kh, kw = self.windows.kernel
        return namespace(grad).broadcast_to(divided(grad, kh * kw), (kh, kw, *grad.shape))


class GlobalAvgPool2D(Layer):
    """The mean of each channel: (N, C, H, W) becomes (N, C).

    Raises ValueError for an x of another form, TypeError for integers. Source: Lin, Chen and Yan 2014.
    """

    def forward(self, x: Array) -> Array:
        if x.ndim != 4:
            raise ValueError(f"GlobalAvgPool2D: x must have shape (N, channels, height, width), got {tuple(x.shape)}")
        if x.dtype.kind in "biu":
            raise TypeError(f"GlobalAvgPool2D: x must hold floating numbers, got {x.dtype}")
        self._saved = (x.shape,) if self.training else None
        return mean(x, (2, 3))

    def backward(self, grad: Array, *, input_grad: bool = True) -> Array | None:
        (shape,) = self._take()
        _check_grad("GlobalAvgPool2D", grad, shape[:2])
        share = divided(grad, shape[2] * shape[3])
        return namespace(grad).broadcast_to(share[:, :, None, None], shape)


class Flatten(Layer):
    """(N, ...) becomes (N, the product of the rest), in C order. ValueError for an x without axes."""

    def forward(self, x: Array) -> Array:
        if x.ndim == 0:
            raise ValueError("Flatten: x must have shape (N, ...), got ()")
        self._saved = (x.shape,) if self.training else None
        return x.reshape(x.shape[0], math.prod(x.shape[1:]))

    def backward(self, grad: Array, *, input_grad: bool = True) -> Array | None:
        (shape,) = self._take()
        return grad.reshape(shape)


# What a thread's convolutions lay windows out in, by dtype: fresh memory would cost a page fault for every 4 KiB.
_memory = threading.local()


def _scratch(like: Array, shape: tuple[int, ...]) -> Array:
    """An array of this shape, its contents of no meaning, until the thread asks for the next."""
    if not isinstance(like, np.ndarray):
        return namespace(like).empty(shape, like.dtype)
    memory, name, size = vars(_memory), like.dtype.name, math.prod(shape)
    if name not in memory or memory[name].size < size:
        memory[name] = np.empty(size, like.dtype)
    return memory[name][:size].reshape(shape)


def _check_grad(layer: str, grad: Array, shape: tuple[int, ...]) -> None:
    if tuple(grad.shape) != tuple(shape):
        raise ValueError(f"{layer}.backward: grad must have shape {tuple(shape)}, got {tuple(grad.shape)}")


def _pair(layer: str, name: str, value: Any, least: int) -> Pair:
    if isinstance(value, (tuple, list)) and len(value) == 2:
        return integer(f"{layer}: {name}", value[0], least), integer(f"{layer}: {name}", value[1], least)
    both = integer(f"{layer}: {name}", value, least)
    return both, both
