"""Search for hyper-parameters on Optuna: at random, in log space, coarse then fine, cross-validated, pruned, resumable.

    space = {"lr": log_uniform(1e-4, 1), "units": integer(16, 256, log=True), "activation": choice("relu", "elu")}
    result = coarse_to_fine(cross_validated(train, x, t), space, storage="search.journal", workers=4)
    print(result)
    result.plot("search.png")

A search is a study of Optuna's, `result.study`, and whatever Optuna has works on it. Optuna is imported where a search
begins: pip install smelt[search].
"""

from __future__ import annotations

import math
import os
import pickle
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from multiprocessing import get_context, parent_process
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import smelt
from smelt._arrays import Array
from smelt.data import _flag, _samples, _take, k_fold
from smelt.schedules import POSITIVE, Bounds, _choice, _integer, _number

if TYPE_CHECKING:
    import optuna
    from matplotlib.figure import Figure

Parameters = dict[str, Any]
Objective = Callable[[Parameters, "Report"], Any]

FINITE: Bounds = "a finite number", math.isfinite
BETWEEN: Bounds = "a number in (0, 1)", lambda x: 0 < x < 1

# -- what is searched


class Distribution:
    """What a hyper-parameter is drawn from."""

    log: bool = False

    def suggest(self, trial: optuna.Trial, name: str) -> Any:
        """A value, drawn by a trial of Optuna's."""
        raise NotImplementedError

    def around(self, value: Any, share: float) -> Distribution:
        """The part that is centred on a value, has so much of the width, and is not beyond the bounds."""
        raise NotImplementedError


@dataclass(frozen=True)
class uniform(Distribution):
    """Numbers in [low, high], all equally likely.

    Raises TypeError for a wrong kind, ValueError unless low <= high, both finite. Source: optuna.Trial.suggest_float.
    """

    low: float
    high: float

    def __post_init__(self) -> None:
        _set_bounds(self, *(_number(f"uniform: {end}", getattr(self, end), FINITE) for end in ("low", "high")))

    def suggest(self, trial: optuna.Trial, name: str) -> float:
        return trial.suggest_float(name, self.low, self.high)

    def around(self, value: float, share: float) -> uniform:
        return uniform(*_interval(self, value, share))


@dataclass(frozen=True)
class log_uniform(Distribution):
    """Numbers in [low, high] whose logarithms are all equally likely: for what matters by its order of magnitude.

    Raises TypeError for a wrong kind, ValueError unless 0 < low <= high, both finite.
    Source: Bergstra and Bengio 2012, Random search for hyper-parameter optimization; optuna.Trial.suggest_float.
    """

    low: float
    high: float
    log = True

    def __post_init__(self) -> None:
        _set_bounds(self, *(_number(f"log_uniform: {end}", getattr(self, end), POSITIVE) for end in ("low", "high")))

    def suggest(self, trial: optuna.Trial, name: str) -> float:
        return trial.suggest_float(name, self.low, self.high, log=True)

    def around(self, value: float, share: float) -> log_uniform:
        return log_uniform(*_interval(self, value, share))


@dataclass(frozen=True)
class integer(Distribution):
    """Integers from low to high, both included, all equally likely, or with log=True their logarithms.

    Raises TypeError for a wrong kind, ValueError unless low <= high, and 1 <= low where log is True.
    Source: optuna.Trial.suggest_int.
    """

    low: int
    high: int
    log: bool = False

    def __post_init__(self) -> None:
        least = 1 if _flag("integer: log", self.log) else -(2**53)
        _set_bounds(self, *(_integer(f"integer: {end}", getattr(self, end), least) for end in ("low", "high")))

    def suggest(self, trial: optuna.Trial, name: str) -> int:
        return trial.suggest_int(name, self.low, self.high, log=self.log)

    def around(self, value: int, share: float) -> integer:
        low, high = _interval(self, value, share)
        return replace(self, low=math.floor(low), high=math.ceil(high))  # the neighbours are always within


@dataclass(frozen=True, init=False)
class choice(Distribution):
    """One of some values, all equally likely: strings, numbers, booleans or None. It is never narrowed.

    Raises TypeError for values of another kind, ValueError for none and for two that are equal.
    Source: optuna.Trial.suggest_categorical.
    """

    values: tuple[str | int | float | bool | None, ...]

    def __init__(self, *values: str | int | float | bool | None) -> None:
        plain = tuple(v.item() if isinstance(v, np.generic) else v for v in values)
        for value in plain:
            if not isinstance(value, (str, int, float, bool, type(None))):
                raise TypeError(f"choice: values must be strings, numbers, booleans or None, got {value!r}")
        if not plain or len(set(plain)) < len(plain):
            raise ValueError(f"choice: values must be at least one, and differ, got {plain!r}")
        object.__setattr__(self, "values", plain)

    def suggest(self, trial: optuna.Trial, name: str) -> Any:
        return trial.suggest_categorical(name, self.values)

    def around(self, value: Any, share: float) -> choice:
        return self


def _set_bounds(range_: Any, low: float, high: float) -> None:
    if low > high:
        raise ValueError(f"{type(range_).__name__}: high must be at least low, {low!r}, got {high!r}")
    object.__setattr__(range_, "low", low)
    object.__setattr__(range_, "high", high)


def _interval(range_: Any, value: float, share: float) -> tuple[float, float]:
    if range_.log:
        factor = math.exp(share * math.log(range_.high / range_.low) / 2)
        low, high = value / factor, value * factor
    else:
        half = share * (range_.high - range_.low) / 2
        low, high = value - half, value + half
    return max(low, range_.low), min(high, range_.high)
