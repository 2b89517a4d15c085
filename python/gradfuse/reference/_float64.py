"""The number format of the reference: float64 inside, one rounding at the end."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]  # what the caller has
Float64 = npt.NDArray[np.float64]  # what is computed with


def wide(x: Any) -> Float64:
    """`x` as float64, exactly."""
    array = np.asarray(x)
    if array.dtype.kind not in "fV":  # V: bfloat16
        raise TypeError(f"expected a floating-point array, got {array.dtype}")
    return array.astype(np.float64)


def narrow(value: npt.ArrayLike, dtype: npt.DTypeLike, out: Array | None = None) -> Array:
    """`value` rounded once to `dtype`; written to `out` if given."""
    dtype = np.dtype(dtype)
    value = np.asarray(value)
    with np.errstate(all="ignore"):
        if dtype.name == "bfloat16":
            value = np.asarray(_bfloat16(value))
        value = value.astype(dtype)
    if out is None:
        return value
    out[...] = value
    return out


def along(v: Any, ndim: int, axis: int) -> Float64:
    """The (C,) array `v` in float64, lying on `axis` of `ndim`."""
    shape = [1] * ndim
    shape[axis] = -1
    return wide(v).reshape(shape)


def others(ndim: int, axis: int) -> tuple[int, ...]:
    """All axes but `axis`."""
    return tuple(i for i in range(ndim) if i != axis % ndim)


def axes_of(name: str, axis: int | tuple[int, ...], ndim: int) -> tuple[int, ...]:
    """`axis` as axes >= 0 in ascending order; `name` is for the messages."""
    axes = (axis,) if isinstance(axis, int) else tuple(axis)
    for i in axes:
        if not -ndim <= i < ndim:
            raise ValueError(f"{name}: axis must be an axis of an array of {ndim} dimensions, got {i}")
    found = tuple(sorted({i % ndim for i in axes}))
    if len(found) < max(len(axes), 1):
        raise ValueError(f"{name}: axis must name at least one axis, each only once, got {axis}")
    return found


def _bfloat16(x: Float64) -> Float64:
    # ml_dtypes goes through float32 and so rounds twice. Here 8 bits are left, fewer below 2^-126.
    _, exponent = np.frexp(x)
    ulp = np.maximum(exponent, -125) - 8
    rounded: Float64 = np.ldexp(np.rint(np.ldexp(x, -ulp)), ulp)
    return rounded
