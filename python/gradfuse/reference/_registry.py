"""What turns a pair of float64 formulas into an activation of the list."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import wraps
from typing import Any

import numpy as np
import numpy.typing as npt

from ._float64 import Array, narrow, wide

Function = Callable[..., Array]
Activation = str | tuple[str, dict[str, Any]] | None

_forward: dict[str, Function] = {}
_backward: dict[str, Function] = {}
_saves: dict[str, str] = {}


def activations() -> list[str]:
    """The names of the list."""
    return list(_forward)


def saves(name: str) -> str:
    """What the backward pass of the activation `name` reads: its input "x" or its output "y"."""
    return _saves[name]


def forward(*, saves: str) -> Callable[[Function], Function]:
    """Enter `formula(x, ...)` into the list as `name(x, ..., *, out=None)` for every float dtype."""

    def enter(formula: Function) -> Function:
        @wraps(formula)
        def call(x: npt.ArrayLike, *args: Any, out: Array | None = None, **params: Any) -> Array:
            x = np.asarray(x)
            with np.errstate(all="ignore"):
                return narrow(formula(wide(x), *args, **params), x.dtype, out)

        _sign(call, formula, "x")
        _forward[formula.__name__] = call
        _saves[formula.__name__] = saves
        return call

    return enter


def backward(formula: Function) -> Function:
    """The same for `formula(g, saved, ...)`, as `name(grad_out, saved, ..., *, out=None)`."""

    @wraps(formula)
    def call(
        grad_out: npt.ArrayLike, saved: npt.ArrayLike, *args: Any, out: Array | None = None, **params: Any
    ) -> Array:
        grad_out = np.asarray(grad_out)
        with np.errstate(all="ignore"):
            return narrow(formula(wide(grad_out), wide(saved), *args, **params), grad_out.dtype, out)

    _sign(call, formula, "grad_out", "saved")
    _backward[formula.__name__.removesuffix("_backward")] = call
    return call


def lookup(activation: Activation) -> tuple[Function, Function]:
    """The functions x -> y and (g, x, y) -> dx of None, a name or (name, parameters)."""
    if activation is None:
        return (lambda x: x), (lambda g, x, y: g)
    name, params = (activation, {}) if isinstance(activation, str) else activation
    f, df = _forward[name], _backward[name]
    if saves(name) == "x":
        return (lambda x: f(x, **params)), (lambda g, x, y: df(g, x, **params))
    return (lambda x: f(x, **params)), (lambda g, x, y: df(g, y, **params))


def _sign(call: Function, formula: Function, *arrays: str) -> None:
    signature = inspect.signature(formula)
    parameters = list(signature.parameters.values())
    named = [p.replace(name=name) for p, name in zip(parameters, arrays, strict=False)]
    out = inspect.Parameter("out", inspect.Parameter.KEYWORD_ONLY, default=None, annotation="Array | None")
    call.__signature__ = signature.replace(  # type: ignore[attr-defined]
        parameters=[*named, *parameters[len(arrays) :], out]
    )
