"""What the training layer asks of arrays beyond smelt's own functions: the library they come from."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

Array = Any  # of NumPy or CuPy


def factor_for(x: Array, value: float) -> Any:
    """A number to multiply x by: half types in float32, for they could not hold it."""
    return np.float32(value) if x.dtype.itemsize == 2 else value


def product(a: Array, b: Array) -> Array:
    """a @ b in their dtype: NumPy multiplies bfloat16 into float32."""
    c = a @ b
    return c if c.dtype is a.dtype else c.astype(a.dtype, copy=False)


def mean(x: Array, axis: int | tuple[int, ...]) -> Array:
    """The mean over axes in the dtype of x; half types are added up in float32."""
    return x.mean(axis=axis, dtype=np.float32 if x.dtype.itemsize == 2 else x.dtype).astype(x.dtype, copy=False)


def namespace(x: Array) -> Any:
    """The library of an array, numpy or cupy, to call by the names that both have.

    Raises TypeError for anything else.
    """
    if isinstance(x, np.ndarray):
        return np
    library = sys.modules.get("cupy")
    if library is not None and isinstance(x, library.ndarray):
        return library
    raise TypeError(f"an array of NumPy or CuPy is needed, got {type(x).__name__}")
