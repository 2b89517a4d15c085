"""Whether gradfuse can use a GPU here."""

from __future__ import annotations

from gradfuse import _core


def is_available() -> bool:
    """True where this build has CUDA kernels and a GPU can be used."""
    return not why_not()


def why_not() -> str:
    """Why is_available() is False, in a sentence; empty where it is True."""
    return _core.build_info()["why_not_cuda"]
