"""Packages that only some functions need."""

from __future__ import annotations

from importlib import import_module
from typing import Any


def needed(where: str, module: str, extra: str = "training") -> Any:
    """The module. ImportError where it is missing says who needs it and what installs it."""
    try:
        return import_module(module)
    except ImportError:
        raise ImportError(f"{where}: {module.split('.')[0]} is needed: pip install gradfuse[{extra}]") from None
