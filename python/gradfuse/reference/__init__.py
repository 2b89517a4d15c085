"""The NumPy reference of gradfuse: the same names and arguments, float64 inside, nothing compiled.

It is written to be read, and to be the oracle of the kernels. A result is rounded once, to the dtype
of its input; inputs are not modified.
"""

from .activations import *  # isort: skip
from ._registry import activations as activations  # the function, over the module of that name
from ._registry import saves as saves
from .gates import *
from .gradients import *
from .losses import *
from .normalization import *
from .norms import *
from .optim import *
from .random import *
from .rows import *
