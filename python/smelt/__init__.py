"""smelt: fused training kernels for NumPy, CuPy and any DLPack array."""

from __future__ import annotations

from smelt import _core, cuda, functional, optim
from smelt._config import __version__, show_config
from smelt._core import *  # noqa: F403  (every function of the lists)
from smelt.functional import fold_batch_norm, gelu, gelu_backward, swish, swish_backward

__all__ = [
    *_core.__all__,
    "__version__",
    "cuda",
    "fold_batch_norm",
    "functional",
    "gelu",
    "gelu_backward",
    "optim",
    "show_config",
    "swish",
    "swish_backward",
]
