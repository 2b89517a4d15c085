"""Random arrays on the GPU, the same memory as each library sees it, and whether two results agree."""

from __future__ import annotations

import functools
import importlib
import math
import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

import gradfuse
from benchmarks.peers import optional

# A rounding more or less, relative to the array's root mean square: what is far off is wrong, not inexact.
TOLERANCES = {"float32": 1e-3, "bfloat16": 3e-2}


def _usable(find: Callable[[], Any]) -> Callable[[], Any]:
    """What `find` finds, asked once; None where it fails, and then the reason is printed."""

    @functools.cache
    @functools.wraps(find)
    def found() -> Any:
        try:
            return find()
        except Exception as error:  # an installation that is broken must not end the others' run
            print(f"{find.__name__}: {type(error).__name__}: {error}", file=sys.stderr)
            return None

    return found


@_usable
def torch_on_gpu() -> Any:
    """PyTorch, where it is installed and sees the GPU."""
    torch = optional("torch")
    return torch if torch and torch.cuda.is_available() else None


@_usable
def jax_on_gpu() -> Any:
    """JAX, where it is installed and sees the GPU."""
    jax = optional("jax")
    return jax if jax and jax.default_backend() in ("gpu", "cuda") else None


@_usable
def triton_peer() -> Any:
    """The module of Triton kernels, where PyTorch and Triton are installed."""
    return importlib.import_module("benchmarks.cuda.triton_peer") if torch_on_gpu() and optional("triton") else None


def is_torch(x: Any) -> bool:
    return type(x).__module__ == "torch"


class Memory:
    """Hands out arrays of normal random numbers, each from another place of one long sequence."""

    def __init__(self, length: int = 50_000_017) -> None:
        import cupy

        self._cupy = cupy
        self._numbers = cupy.asarray(np.random.default_rng(0).standard_normal(length, dtype=np.float32))
        self._at = 0
        self._bfloat16 = self._find_bfloat16()

    @property
    def dtypes(self) -> list[str]:
        """Those in which gradfuse can be given arrays here."""
        return ["float32", "bfloat16"] if self._bfloat16 else ["float32"]

    def _find_bfloat16(self) -> str:
        """Who has arrays of bfloat16 here: CuPy, else PyTorch, else nobody."""
        try:
            gradfuse.relu(self._as_bfloat16(self._cupy.zeros(8, np.uint16), "cupy"))
            return "cupy"
        except Exception:  # an older CuPy, or no ml_dtypes
            return "torch" if torch_on_gpu() else ""

    def _as_bfloat16(self, halves: Any, library: str) -> Any:
        if library == "cupy":
            return halves.view(np.dtype(importlib.import_module("ml_dtypes").bfloat16))
        torch = torch_on_gpu()
        return torch.from_dlpack(halves.view(np.int16)).view(torch.bfloat16)

    def random(self, *shape: int, dtype: str = "float32", scale: float = 1.0, shift: float = 0.0) -> Any:
        """scale * normal + shift; a CuPy array, or a torch tensor where CuPy has no such dtype."""
        x = self._cupy.empty(math.prod(shape), np.float32)
        done = 0
        while done < x.size:
            count = min(x.size - done, self._numbers.size - self._at)
            x[done : done + count] = self._numbers[self._at : self._at + count]
            done += count
            self._at = (self._at + count) % self._numbers.size
        if scale != 1:
            x *= np.float32(scale)
        if shift:
            x += np.float32(shift)
        if dtype == "float32":
            return x.reshape(shape)
        bits = x.view(np.uint32)
        bits += 0x7FFF + ((bits >> 16) & 1)  # to the nearest, ties to even
        return self._as_bfloat16((bits >> 16).astype(np.uint16), self._bfloat16).reshape(shape)

    def labels(self, rows: int, classes: int) -> Any:
        """Random class indices, of int64."""
        return self._cupy.asarray(np.random.default_rng(self._at).integers(0, classes, rows))


def poisoned(like: Any) -> Any:
    """An array of NaN of the same kind, shape and dtype."""
    if is_torch(like):
        torch = torch_on_gpu()
        y = torch.empty_like(like)
        y.view(torch.uint8).fill_(0xFF)
        return y
    import cupy

    y = cupy.empty(like.shape, like.dtype)
    y.reshape(-1).view(np.uint8)[...] = 0xFF
    return y


def poison_pool(arrays: Sequence[Any]) -> None:
    """Leaves NaN in memory that a call may get for its results: that of arrays as large as these, given back."""
    _ = [poisoned(a) for a in arrays]


def as_torch(x: Any) -> Any:
    """A tensor of the same memory."""
    if is_torch(x):
        return x
    torch = torch_on_gpu()
    if x.dtype.name == "bfloat16":
        return torch.from_dlpack(x.view(np.int16)).view(torch.bfloat16)
    return torch.from_dlpack(x)


def as_float32(x: Any) -> Any:
    """A new CuPy array of a result's values, as long as it has elements."""
    import cupy

    if is_torch(x):
        x = cupy.from_dlpack(x.detach().float().contiguous())
    elif type(x).__module__.startswith("jax"):
        x = cupy.from_dlpack(x)
    if x.dtype.name == "bfloat16":
        return (x.reshape(-1).view(np.uint16).astype(np.uint32) << 16).view(np.float32)
    return x.reshape(-1).astype(np.float32)  # a copy, always


def disagreement(results: list[Any], expected: list[Any], tolerance: float, where_kept: bool) -> str:
    """How flat float32 arrays differ from those expected, in words; empty where they agree.

    where_kept: zeros fall at random. Then their share is compared, and the rest where neither has one.
    """
    import cupy

    if len(results) != len(expected):
        return f"gave {len(results)} results, not {len(expected)}"
    for number, (a, b) in enumerate(zip(results, expected, strict=True)):
        if a.size != b.size:
            return f"result {number} has {a.size} elements, not {b.size}"
        if where_kept:
            shares = [float((each != 0).mean()) for each in (a, b)]
            if abs(shares[0] - shares[1]) > 0.01:
                return f"keeps {shares[0]:.3f} of result {number}, not {shares[1]:.3f}"
            kept = (a != 0) & (b != 0)
            a, b = a[kept], b[kept]
        error = cupy.abs(a - b) / (cupy.abs(b) + cupy.sqrt((b * b).mean()) + np.float32(1e-30))
        worst = float(error.max())
        if not worst <= tolerance:
            return f"result {number} differs by up to {worst:.2g}, relative to its size"
    return ""
