"""smelt: fused training kernels for NumPy, CuPy and any DLPack array."""

from smelt import _core, cuda, data, functional, init, nn, optim, schedules, training
from smelt._config import __version__, show_config
from smelt._core import *  # every function of the lists
from smelt.functional import gelu, gelu_backward, swish, swish_backward

__all__ = _core.__all__ + [  # noqa: RUF005 (the form type checkers can read)
    "__version__",
    "cuda",
    "data",
    "functional",
    "gelu",
    "gelu_backward",
    "init",
    "nn",
    "optim",
    "schedules",
    "show_config",
    "swish",
    "swish_backward",
    "training",
]
