"""Arrays of other libraries: how their results are allocated. NumPy's own never come here."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np


def _torch_of(x: Any) -> Any:
    torch = sys.modules.get("torch")
    return torch if torch is not None and isinstance(x, torch.Tensor) else None


def empty_like_owner(x: Any, shape: tuple[int, ...], dtype: str) -> Any:
    """An uninitialised array from the library that owns x, or None where its arrays cannot be written."""
    torch = _torch_of(x)
    return None if torch is None else torch.empty(shape, dtype=getattr(torch, dtype), device=x.device)


def is_immutable(x: Any) -> bool:
    """Whether x is of a library whose arrays are never written, though its DLPack does not say so."""
    jax = sys.modules.get("jax")
    return jax is not None and isinstance(x, jax.Array)


def to_owner_kind(x: Any, result: np.ndarray) -> Any:
    """A NumPy result as an array of the library that owns x; as it is where x has no such library to name."""
    return x.__array_namespace__().asarray(result) if hasattr(x, "__array_namespace__") else result


def as_numpy(x: Any) -> np.ndarray | None:
    """A NumPy view of a host array, bfloat16 included, or None for what is no array."""
    if isinstance(x, np.ndarray):
        return x
    torch = _torch_of(x)
    if torch is not None and x.dtype == torch.bfloat16:
        import ml_dtypes

        values: np.ndarray = np.from_dlpack(x.view(torch.int16)).view(ml_dtypes.bfloat16)
        return values
    return np.from_dlpack(x) if hasattr(x, "__dlpack__") else None
