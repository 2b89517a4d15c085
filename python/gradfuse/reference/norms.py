"""Normalization within a sample: layer, RMS, group and instance norm.

In the papers' symbols: mu and sigma of a group of elements, x_hat what is normalized, gamma and beta the weight and
the bias. Variances are biased.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np

from ._float64 import Array, Float64, axes_of, narrow, wide
from ._registry import Activation, lookup
from .random import keep_mask, keep_scale

Axes = int | tuple[int, ...]
Size = Callable[[Float64, tuple[int, ...], float], tuple[Float64, Float64]]


# Layer norm


@np.errstate(all="ignore")
def layer_norm(
    x: Array,
    weight: Array | None = None,
    bias: Array | None = None,
    *,
    axis: Axes = -1,
    eps: float = 1e-5,
    add: Array | None = None,
    activation: Activation = None,
    out: Array | None = None,
) -> Array | tuple[Array, Array]:
    """Inference: y, or (y, total) with `add`."""
    total = _total("layer_norm", x, add)
    y, _ = _layer("layer_norm", total, weight, bias, axis, eps, activation, 0.0, None)
    y = narrow(y, x.dtype, out)
    return y if add is None else (y, total)


@np.errstate(all="ignore")
def layer_norm_forward(
    x: Array,
    weight: Array | None = None,
    bias: Array | None = None,
    *,
    axis: Axes = -1,
    eps: float = 1e-5,
    add: Array | None = None,
    activation: Activation = None,
    dropout: float = 0.0,
    rng: Any = None,
) -> tuple[Array, ...]:
    """Ba et al., Layer Normalization, arXiv:1607.06450: (y, ctx), or (y, total, ctx) with `add`.

    y = dropout(act(x_hat * weight + bias)), of total = x + add, rounded. Both vectors have the shape of the axes.
    """
    total = _total("layer_norm_forward", x, add)
    y, ctx = _layer("layer_norm_forward", total, weight, bias, axis, eps, activation, dropout, rng)
    return _results(y, total, add, ctx)


@np.errstate(all="ignore")
def layer_norm_backward(grad_out: Array, ctx: Any, grad_total: Array | None = None) -> tuple[Array | None, ...]:
    """(dx, dweight, dbias), None for what was None. With `add`, dx is the gradient of x and of add."""
    return _backward("layer_norm_backward", grad_out, ctx, grad_total)


# RMS norm


@np.errstate(all="ignore")
def rms_norm(
    x: Array,
    weight: Array | None = None,
    *,
    axis: Axes = -1,
    eps: float | None = None,
    unit_offset: bool = False,
    add: Array | None = None,
    activation: Activation = None,
    out: Array | None = None,
) -> Array | tuple[Array, Array]:
    """Inference: y, or (y, total) with `add`."""
    total = _total("rms_norm", x, add)
    y, _ = _rms("rms_norm", total, weight, axis, eps, unit_offset, activation, 0.0, None)
    y = narrow(y, x.dtype, out)
    return y if add is None else (y, total)


@np.errstate(all="ignore")
def rms_norm_forward(
    x: Array,
    weight: Array | None = None,
    *,
    axis: Axes = -1,
    eps: float | None = None,
    unit_offset: bool = False,
    add: Array | None = None,
    activation: Activation = None,
    dropout: float = 0.0,
    rng: Any = None,
) -> tuple[Array, ...]:
    """Zhang and Sennrich, Root Mean Square Layer Normalization, arXiv:1910.07467: (y, ctx), or (y, total, ctx).

    y = dropout(act(x_hat * weight)), weight + 1 with `unit_offset`. eps None is the machine epsilon of float32, or of
    float64 for float64.
    """
    total = _total("rms_norm_forward", x, add)
    y, ctx = _rms("rms_norm_forward", total, weight, axis, eps, unit_offset, activation, dropout, rng)
    return _results(y, total, add, ctx)


@np.errstate(all="ignore")
def rms_norm_backward(grad_out: Array, ctx: Any, grad_total: Array | None = None) -> tuple[Array | None, ...]:
    """(dx, dweight); dweight is None if there was no weight."""
    return _backward("rms_norm_backward", grad_out, ctx, grad_total)[:2]


# Group and instance norm


@np.errstate(all="ignore")
def group_norm(
    x: Array,
    num_groups: int,
    weight: Array | None = None,
    bias: Array | None = None,
    *,
    axis: int = 1,
    eps: float = 1e-5,
    activation: Activation = None,
    out: Array | None = None,
) -> Array:
    """Inference, which is training without dropout."""
    y, _ = _group("group_norm", x, num_groups, weight, bias, axis, eps, activation, 0.0, None)
    return narrow(y, x.dtype, out)


@np.errstate(all="ignore")
def group_norm_forward(
    x: Array,
    num_groups: int,
    weight: Array | None = None,
    bias: Array | None = None,
    *,
    axis: int = 1,
    eps: float = 1e-5,
    activation: Activation = None,
    dropout: float = 0.0,
    rng: Any = None,
) -> tuple[Array, Any]:
    """Wu and He, Group Normalization, arXiv:1803.08494. A group is neighboring channels of a sample, all positions."""
    y, ctx = _group("group_norm_forward", x, num_groups, weight, bias, axis, eps, activation, dropout, rng)
    return narrow(y, x.dtype), ctx


@np.errstate(all="ignore")
def group_norm_backward(grad_out: Array, ctx: Any) -> tuple[Array | None, ...]:
    """(dx, dweight, dbias), None for what was None."""
    return _backward("group_norm_backward", grad_out, ctx, None)


@np.errstate(all="ignore")
def instance_norm(
    x: Array,
    weight: Array | None = None,
    bias: Array | None = None,
    *,
    axis: int = 1,
    eps: float = 1e-5,
    activation: Activation = None,
    out: Array | None = None,
) -> Array:
    """Inference, which is training without dropout."""
    y, _ = _instance("instance_norm", x, weight, bias, axis, eps, activation, 0.0, None)
    return narrow(y, x.dtype, out)


@np.errstate(all="ignore")
def instance_norm_forward(
    x: Array,
    weight: Array | None = None,
    bias: Array | None = None,
    *,
    axis: int = 1,
    eps: float = 1e-5,
    activation: Activation = None,
    dropout: float = 0.0,
    rng: Any = None,
) -> tuple[Array, Any]:
    """Ulyanov et al., Instance Normalization, arXiv:1607.08022: group norm with a group for each channel."""
    y, ctx = _instance("instance_norm_forward", x, weight, bias, axis, eps, activation, dropout, rng)
    return narrow(y, x.dtype), ctx


@np.errstate(all="ignore")
def instance_norm_backward(grad_out: Array, ctx: Any) -> tuple[Array | None, ...]:
    """(dx, dweight, dbias), None for what was None."""
    return _backward("instance_norm_backward", grad_out, ctx, None)


# What they share. A norm is given by its layout: `shape`, in which x is seen; `axes` of that shape over which the
# statistics are taken; `vector`, the shape in which weight and bias meet x; whether the mean is taken away; and `size`,
# which gives sigma of what is left, and its derivative by an element, times the number of elements.


def _layer(
    name: str, x: Array, weight: Array | None, bias: Array | None, axis: Axes, eps: float, *after: Any
) -> tuple[Float64, Any]:
    axes = axes_of(name, axis, x.ndim)
    layout = _last(x, axes, eps, centered=True)
    _check(name, x, tuple(x.shape[i] for i in axes), weight=weight, bias=bias)
    return _normalized(name, x, weight, bias, layout, *after)


def _rms(
    name: str, x: Array, weight: Array | None, axis: Axes, eps: float | None, unit_offset: bool, *after: Any
) -> tuple[Float64, Any]:
    axes = axes_of(name, axis, x.ndim)
    if eps is None:
        eps = float(np.finfo(np.promote_types(x.dtype, np.float32)).eps)
    layout = _last(x, axes, eps, centered=False)
    layout.offset = float(unit_offset)
    _check(name, x, tuple(x.shape[i] for i in axes), weight=weight)
    return _normalized(name, x, weight, None, layout, *after)


def _root_mean_square(u: Float64, axes: tuple[int, ...], eps: float) -> tuple[Float64, Float64]:
    sigma = np.sqrt(_mean(u**2, axes) + eps)
    return sigma, u / sigma


def _last(
    x: Array, axes: tuple[int, ...], eps: float, *, centered: bool, size: Size = _root_mean_square
) -> SimpleNamespace:
    vector = tuple(n if i in axes else 1 for i, n in enumerate(x.shape))
    return SimpleNamespace(shape=x.shape, axes=axes, vector=vector, eps=eps, centered=centered, size=size, offset=0.0)


def _group(
    name: str, x: Array, num_groups: int, weight: Array | None, bias: Array | None, axis: int, eps: float, *after: Any
) -> tuple[Float64, Any]:
    axis = _channel_axis(name, x, axis)
    C = x.shape[axis]
    if num_groups < 1 or C % num_groups != 0:
        raise ValueError(f"{name}: num_groups must be a positive divisor of the {C} channels of x, got {num_groups}")
    if x.size == num_groups:
        raise ValueError(f"{name}: x must have more than one value per group, got shape {x.shape}")
    return _grouped(name, x, num_groups, weight, bias, axis, eps, *after)


def _instance(
    name: str, x: Array, weight: Array | None, bias: Array | None, axis: int, eps: float, *after: Any
) -> tuple[Float64, Any]:
    axis = _channel_axis(name, x, axis)
    if math.prod(n for i, n in enumerate(x.shape) if i not in (0, axis)) == 1:
        raise ValueError(f"{name}: x must have more than one value per sample and channel, got shape {x.shape}")
    return _grouped(name, x, x.shape[axis], weight, bias, axis, eps, *after)


def _grouped(
    name: str, x: Array, groups: int, weight: Array | None, bias: Array | None, axis: int, eps: float, *after: Any
) -> tuple[Float64, Any]:
    C = x.shape[axis]
    _check(name, x, (C,), weight=weight, bias=bias)
    pieces = groups, C // max(groups, 1)
    layout = SimpleNamespace(
        shape=(*x.shape[:axis], *pieces, *x.shape[axis + 1 :]),
        axes=tuple(i for i in range(1, x.ndim + 1) if i != axis),
        vector=(*[1] * axis, *pieces, *[1] * (x.ndim - axis - 1)),
        eps=eps,
        centered=True,
        size=_root_mean_square,
        offset=0.0,
    )
    return _normalized(name, x, weight, bias, layout, *after)


def _channel_axis(name: str, x: Array, axis: int) -> int:
    (axis,) = axes_of(name, axis, x.ndim)
    if axis == 0:
        raise ValueError(f"{name}: axis must not be 0, the axis of the samples, got {axis}")
    return axis


def _normalized(
    name: str,
    x: Array,
    weight: Array | None,
    bias: Array | None,
    layout: SimpleNamespace,
    activation: Activation,
    dropout: float,
    rng: Any,
) -> tuple[Float64, Any]:
    f, _ = lookup(activation)
    keep, scale = keep_mask(x.shape, dropout, rng), keep_scale(dropout)
    u = wide(x).reshape(layout.shape)
    mu = _mean(u, layout.axes) if layout.centered else 0.0
    sigma, slope = layout.size(u - mu, layout.axes, layout.eps)
    x_hat = (u - mu) / sigma
    gamma = 1.0 if weight is None else wide(weight).reshape(layout.vector) + layout.offset
    beta = 0.0 if bias is None else wide(bias).reshape(layout.vector)
    z = (gamma * x_hat + beta).reshape(x.shape)
    a = f(z)
    y = np.where(keep, a * scale, 0)
    return y, SimpleNamespace(
        x=x, weight=weight, bias=bias, activation=activation, layout=layout, added=False,
        keep=keep, scale=scale, gamma=gamma, mu=mu, sigma=sigma, slope=slope, u=u, x_hat=x_hat, z=z, a=a,
    )  # fmt: skip


def _backward(name: str, grad_out: Array, c: Any, grad_total: Array | None) -> tuple[Array | None, ...]:
    if grad_total is not None and not c.added:
        raise ValueError(f"{name}: grad_total must be None if the forward had no add, got an array")
    _, df = lookup(c.activation)
    layout = c.layout
    dz = df(np.where(c.keep, wide(grad_out) * c.scale, 0), c.z, c.a).reshape(layout.shape)
    d = c.gamma * dz
    through_statistics = c.slope * _mean(d * c.x_hat, layout.axes)
    if layout.centered:
        through_statistics = through_statistics + _mean(d, layout.axes)
    dx = ((d - through_statistics) / c.sigma).reshape(c.x.shape)
    if grad_total is not None:
        dx = dx + wide(grad_total)
    apart = tuple(i for i, n in enumerate(layout.vector) if n == 1)  # an axis of one element is summed, or not: equal
    sums = ((dz * c.x_hat).sum(apart), dz.sum(apart))
    given = zip((c.weight, c.bias), sums, strict=True)
    vectors = (None if v is None else narrow(s.reshape(v.shape), v.dtype) for v, s in given)
    return (narrow(dx, c.x.dtype), *vectors)


def _mean(u: Float64, axes: tuple[int, ...]) -> Float64:
    mean: Float64 = u.sum(axes, keepdims=True) / math.prod(u.shape[i] for i in axes)
    return mean


def _total(name: str, x: Array, add: Array | None) -> Array:
    """x + add, rounded: it is a result, and what is normalized."""
    if add is None:
        return x
    if add.shape != x.shape:
        raise ValueError(f"{name}: add must have the shape of x, {x.shape}, got {add.shape}")
    if add.dtype != x.dtype:
        raise TypeError(f"{name}: add must have the dtype of x, {x.dtype}, got {add.dtype}")
    return narrow(wide(x) + wide(add), x.dtype)


def _results(y: Float64, total: Array, add: Array | None, ctx: Any) -> tuple[Array, ...]:
    ctx.added = add is not None
    rounded = narrow(y, total.dtype)
    return (rounded, total, ctx) if ctx.added else (rounded, ctx)


def _check(name: str, x: Array, shape: tuple[int, ...], **vectors: Array | None) -> None:
    """That each vector has that shape, and the dtype of x, or float32 where x is of a half type."""
    half = x.dtype.itemsize == 2
    expected = f"{x.dtype} or float32" if half else f"{x.dtype}"
    for argument, v in vectors.items():
        if v is None:
            continue
        if v.dtype != x.dtype and not (half and v.dtype == np.float32):
            raise TypeError(f"{name}: {argument} must be {expected} as x is, got {v.dtype}")
        if v.shape != shape:
            raise ValueError(f"{name}: {argument} must have shape {shape}, got {v.shape}")


# What `import *` takes: every function above. Type checkers would read a plain assignment as an empty list.
globals()["__all__"] = [
    name for name, f in list(globals().items()) if getattr(f, "__module__", "") == __name__ and name[0] != "_"
]
