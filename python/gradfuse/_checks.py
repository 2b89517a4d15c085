"""Checks of arguments: the value as it is meant, or one sentence that says who wanted what and got what."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from gradfuse import _interop

Bounds = tuple[str, Callable[[float], bool]]
NUMBER: Bounds = "a number", lambda x: not math.isnan(x)
FINITE: Bounds = "a finite number", math.isfinite
NOT_NEGATIVE: Bounds = "a finite number >= 0", lambda x: 0 <= x < math.inf
POSITIVE: Bounds = "a finite number > 0", lambda x: 0 < x < math.inf
AT_LEAST_ONE: Bounds = "a finite number >= 1", lambda x: 1 <= x < math.inf
SHARE: Bounds = "a number in [0, 1]", lambda x: 0 <= x <= 1
BELOW_ONE: Bounds = "a number in [0, 1)", lambda x: 0 <= x < 1


def is_integer(value: Any) -> bool:
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)


def number(where: str, value: Any, bounds: Bounds = NOT_NEGATIVE) -> float:
    """TypeError for what is no number, or a bool; ValueError for one out of bounds."""
    text, holds = bounds
    if isinstance(value, bool) or not isinstance(value, (float, int, np.floating, np.integer)):
        raise TypeError(f"{where} must be {text}, got {value!r}")
    try:
        x = float(value)
    except OverflowError:
        x = math.inf
    if not holds(x):
        raise ValueError(f"{where} must be {text}, got {value!r}")
    return x


def integer(where: str, value: Any, least: int = 0) -> int:
    """TypeError for what is no integer, or a bool; ValueError for one below `least`."""
    if not is_integer(value):
        raise TypeError(f"{where} must be an integer >= {least}, got {value!r}")
    if value < least:
        raise ValueError(f"{where} must be an integer >= {least}, got {value!r}")
    return int(value)


def flag(where: str, value: Any) -> bool:
    """TypeError for what is neither True nor False."""
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{where} must be True or False, got {value!r}")
    return bool(value)


def state_of(where: str, state: Any, keys: Iterable[str]) -> None:
    """TypeError for what is no dict with these keys."""
    if not isinstance(state, dict) or state.keys() != set(keys):
        given = list(state) if isinstance(state, dict) else type(state).__name__
        raise TypeError(f"{where} must be what state_dict() returned, got {given}")


def float_dtype(where: str, value: Any) -> np.dtype[Any]:
    """TypeError for what is none of the four floating types that arrays have here."""
    wanted = TypeError(f"{where} must be float16, bfloat16, float32 or float64, got {value!r}")
    try:
        dtype: np.dtype[Any] = np.dtype(_interop.numpy_dtype(value))
    except TypeError:
        raise wanted from None
    if value is None or not dtype.isnative or dtype.name not in ("float16", "bfloat16", "float32", "float64"):
        raise wanted  # NumPy takes None for float64
    return dtype


def generator(where: str, rng: Any) -> np.random.Generator:
    """The generator itself, that of a seed, or for None one of fresh entropy."""
    if not (rng is None or is_integer(rng) or isinstance(rng, np.random.Generator)):
        raise TypeError(f"{where}: rng must be a seed, a numpy.random.Generator or None, got {rng!r}")
    if is_integer(rng) and rng < 0:
        raise ValueError(f"{where}: rng must be a seed >= 0, got {rng}")
    return np.random.default_rng(rng)


def choice(where: str, value: Any, *choices: str) -> str:
    """ValueError for what is none of the choices."""
    if value not in choices:
        raise ValueError(f"{where} must be {' or '.join(map(repr, choices))}, got {value!r}")
    return str(value)
