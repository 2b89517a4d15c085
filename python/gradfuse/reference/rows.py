"""Operations on rows, the elements along one axis, forward and backward.

x is the input, y the output, g the gradient of the output.
"""

from __future__ import annotations

import numpy as np

from ._float64 import Array, Float64, narrow, wide


@np.errstate(all="ignore")
def softmax(x: Array, *, axis: int = -1, out: Array | None = None) -> Array:
    e = np.exp(_shifted(wide(x), axis))
    return narrow(e / e.sum(axis, keepdims=True), x.dtype, out)


@np.errstate(all="ignore")
def softmax_backward(grad_out: Array, y: Array, *, axis: int = -1, out: Array | None = None) -> Array:
    g, y64 = wide(grad_out), wide(y)
    return narrow(y64 * (g - (g * y64).sum(axis, keepdims=True)), grad_out.dtype, out)


@np.errstate(all="ignore")
def log_softmax(x: Array, *, axis: int = -1, out: Array | None = None) -> Array:
    x64 = _shifted(wide(x), axis)
    return narrow(x64 - np.log(np.exp(x64).sum(axis, keepdims=True)), x.dtype, out)


@np.errstate(all="ignore")
def log_softmax_backward(grad_out: Array, y: Array, *, axis: int = -1, out: Array | None = None) -> Array:
    g = wide(grad_out)
    return narrow(g - np.exp(wide(y)) * g.sum(axis, keepdims=True), grad_out.dtype, out)


def _shifted(x: Float64, axis: int) -> Float64:
    """`x` less its maximum; a row of -inf, or with an inf, becomes NaN."""
    top: Float64 = x.max(axis, keepdims=True, initial=-np.inf)
    return x - top


# What `import *` takes: every function above. Type checkers would read a plain assignment as an empty list.
globals()["__all__"] = [
    name for name, f in list(globals().items()) if getattr(f, "__module__", "") == __name__ and name[0] != "_"
]
