"""What the training layer asks of arrays beyond gradfuse's own functions: the library they come from."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

from gradfuse import _interop

Array = Any  # of NumPy or CuPy


def is_half(x: Any) -> bool:
    """Whether x is an array of float16 or bfloat16."""
    return str(getattr(x, "dtype", "")) in ("float16", "bfloat16")


def factor_for(x: Array, value: float) -> Any:
    """A number to multiply x by: half types in float32, for they could not hold it."""
    return np.float32(value) if x.dtype.itemsize == 2 else value


def divided(x: Array, n: int) -> Array:
    """x / n in the dtype of x."""
    return (x / factor_for(x, n)).astype(x.dtype, copy=False)


def product(a: Array, b: Array) -> Array:
    """a @ b in their dtype: NumPy multiplies bfloat16 into float32."""
    c = a @ b
    return c if c.dtype is a.dtype else c.astype(a.dtype, copy=False)


def mean(x: Array, axis: int | tuple[int, ...]) -> Array:
    """The mean over axes in the dtype of x; half types are added up in float32."""
    return x.mean(axis=axis, dtype=np.float32 if x.dtype.itemsize == 2 else x.dtype).astype(x.dtype, copy=False)


def to_numpy(x: Any) -> Array:
    """An array or a scalar of NumPy or CuPy as an array of NumPy."""
    return np.asarray(_interop.aligned(x).get() if hasattr(x, "get") else x)


def namespace(x: Array, where: str = "x") -> Any:
    """The library of an array, numpy or cupy, to call by the names that both have. TypeError for anything else."""
    if isinstance(x, np.ndarray):
        return np
    library = sys.modules.get("cupy")
    if library is not None and isinstance(x, library.ndarray):
        return library
    raise TypeError(f"{where} must be an array of NumPy or CuPy, got {type(x).__name__}")
