"""How near to the reference each kernel must come, and how far it is.

Errors are counted in ulp: units in the last place, at the exact result, of the result's type. The table gives them for
float32 and float64. float16 and bfloat16 are computed in float32 and rounded once, which leaves half a unit and the
float32 bound, 2**13 or 2**16 times smaller. float64 bounds hold the reference's own rounding too.
"""

from typing import NamedTuple

import numpy as np


class Bound(NamedTuple):
    f32: float
    f64: float
    why: str
    condition: float = 0.0  # plus this many times what the result changes by if the input changes by its last place
    floor: float = 0.0  # plus this many times the last place of the largest term
    reach: float = np.inf  # and for inputs no larger than this
