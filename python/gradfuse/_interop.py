"""Arrays of other libraries: what they are and how their results are made. NumPy's own never come here."""

from __future__ import annotations

import contextlib
import sys
from typing import Any

import numpy as np

from gradfuse import _core


def _instance_of(x: Any, module: str, name: str) -> Any:
    """The module, if it has been imported and x is of its type `name`."""
    found = sys.modules.get(module)
    return found if found is not None and isinstance(x, getattr(found, name)) else None


def is_cupy(x: Any) -> bool:
    """Whether x is a CuPy array: those are read by their attributes."""
    return _instance_of(x, "cupy", "ndarray") is not None


def is_torch(x: Any) -> bool:
    """Whether x is a PyTorch tensor."""
    return _instance_of(x, "torch", "Tensor") is not None


def is_immutable(x: Any) -> bool:
    """Whether x is of a library whose arrays are never written, though its DLPack does not say so."""
    return _instance_of(x, "jax", "Array") is not None


def _cupy_for(x: Any) -> Any:
    try:
        import cupy
    except ImportError:
        kind = f"{type(x).__module__}.{type(x).__name__}"
        raise TypeError(f"results for CUDA arrays of type {kind} are made by CuPy: install cupy-cuda13x") from None
    return cupy


def numpy_dtype(dtype: Any) -> Any:
    """What NumPy takes for a dtype that may be called bfloat16, a name that it knows from ml_dtypes alone."""
    if dtype == "bfloat16":
        import ml_dtypes

        return ml_dtypes.bfloat16
    return dtype


def empty(x: Any, shape: tuple[int, ...], dtype: str, device: int) -> Any:
    """An uninitialised array of x's kind, on CUDA device `device` (-1: the CPU); None where a NumPy array must do."""
    torch = _instance_of(x, "torch", "Tensor")
    if torch is not None:
        return torch.empty(shape, dtype=getattr(torch, dtype), device=x.device)
    if device < 0:
        return None
    cupy = _cupy_for(x)
    with cupy.cuda.Device(device):
        return cupy.empty(shape, numpy_dtype(dtype))


def full(x: Any, shape: tuple[int, ...], dtype: str, device: int, value: float) -> Any:
    """An array of x's kind on a device, filled with one value."""
    result = empty(x, shape, dtype, device)
    with _at(result):
        result[...] = value
    return result


def assign(to: Any, values: Any) -> None:
    """to[...] = values, from whatever library they are."""
    torch = _instance_of(to, "torch", "Tensor")
    if torch is not None:
        to.copy_(values if isinstance(values, torch.Tensor) else torch.as_tensor(values))
        return
    with _at(to):
        if is_cupy(to):
            values = aligned(values if is_cupy(values) else _cupy_for(to).asarray(values))
        if is_misaligned(to):
            _copy(values.astype(to.dtype, copy=False), to)
        else:
            to[...] = values


def copied(x: Any) -> Any:
    """A copy of an array, where it is."""
    if is_misaligned(x):
        return aligned(x)
    with _at(x):
        return x.clone() if is_torch(x) else x.copy()


def is_misaligned(x: Any) -> bool:
    """Whether x is a CuPy array with elements off the boundaries of their size: CuPy's own kernels fault there."""
    return is_cupy(x) and x.size > 0 and any(n % x.itemsize for n in (x.data.ptr, *x.strides))


def aligned(x: Any) -> Any:
    """x itself, or a copy that CuPy's kernels can read."""
    if not is_misaligned(x):
        return x
    with _at(x):
        result = _cupy_for(x).empty(x.shape, x.dtype)
    _copy(x, result)
    return result


def _copy(x: Any, to: Any) -> None:
    """Copies an array of CuPy's to another of its dtype and shape, by a kernel that takes misaligned ones too."""
    bits = f"float{8 * x.itemsize}"  # for the core reads no other dtypes; it moves them as they are
    _core.copy_elements(x.view(bits), to.view(bits))


def _at(x: Any) -> Any:
    """A context in which CuPy works where x is."""
    return _cupy_for(x).cuda.Device(x.device.id) if is_cupy(x) else contextlib.nullcontext()


def wait_for(stream: int, device: int) -> None:
    """Makes CuPy's current stream of a device wait for another: what an array's owner has queued comes first."""
    cupy = _cupy_for(None)
    with cupy.cuda.Device(device):
        current = cupy.cuda.get_current_stream()
        if max(current.ptr, 1) != stream:  # 0 and 1 are the same
            current.wait_event(cupy.cuda.ExternalStream(stream).record())


def to_owner_kind(x: Any, result: Any) -> Any:
    """A result as an array of the library that owns x; unchanged if there is none, or if it cannot hold the dtype."""
    if not hasattr(x, "__array_namespace__"):
        return result
    library = x.__array_namespace__()
    if not isinstance(result, np.ndarray):
        return library.from_dlpack(result)
    owned = library.asarray(result)
    return owned if owned.dtype == result.dtype else result  # JAX rounds float64 unless it is enabled


def integers(x: Any) -> Any:
    """An array of integers: NumPy's on the CPU, of 32 or 64 bits on a device. None for anything else."""
    try:
        kind = str(x.dtype)
        if "int" not in kind:
            return None
        if hasattr(x, "__cuda_array_interface__"):
            if kind.endswith(("int32", "int64")) and "u" not in kind:
                return x
            return x.long() if _instance_of(x, "torch", "Tensor") is not None else aligned(x).astype("int64")
        return np.from_dlpack(x)
    except (AttributeError, TypeError, ValueError, RuntimeError, BufferError):
        return None  # whoever reads it as an array says what is wrong with it
