"""Whether smelt can use a GPU here."""

from __future__ import annotations


def is_available() -> bool:
    """True where this build has CUDA kernels and a GPU can be used."""
    return False


def why_not() -> str:
    """Why is_available() is False, in a sentence; empty where it is True."""
    return "this version of smelt has no CUDA kernels"
