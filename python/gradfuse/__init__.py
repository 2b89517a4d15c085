"""gradfuse: fused training kernels for NumPy, CuPy and any DLPack array."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from gradfuse import _core, cuda, functional, optim
from gradfuse._config import __version__, show_config
from gradfuse._core import *  # every function of the lists
from gradfuse.functional import gelu, gelu_backward, swish, swish_backward

if TYPE_CHECKING:
    from gradfuse import data, diagnostics, init, nn, schedules, search, training

# The training layer is imported when it is first used.
_TRAINING_LAYER = ("data", "diagnostics", "init", "nn", "schedules", "search", "training")

__all__ = _core.__all__ + [  # noqa: RUF005 (the form type checkers can read)
    "__version__",
    "cuda",
    "data",
    "diagnostics",
    "functional",
    "gelu",
    "gelu_backward",
    "init",
    "nn",
    "optim",
    "schedules",
    "search",
    "show_config",
    "swish",
    "swish_backward",
    "training",
]


def __getattr__(name: str) -> Any:
    if name in _TRAINING_LAYER:
        return import_module(f"gradfuse.{name}")
    raise AttributeError(f"module 'gradfuse' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_TRAINING_LAYER})
