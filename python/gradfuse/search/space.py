"""What is searched: the distributions that hyper-parameters are drawn from."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from gradfuse import _checks

if TYPE_CHECKING:
    from optuna.trial import Trial


class Distribution:
    """What the values of a hyper-parameter are drawn from."""

    log: bool = False

    def suggest(self, trial: Trial, name: str) -> Any:
        """A value, drawn by a trial of Optuna's."""
        raise NotImplementedError

    def around(self, value: Any, share: float) -> Distribution:
        """The part that has `share` of the width and a value in its middle, as far as it is within the bounds."""
        raise NotImplementedError


@dataclass(frozen=True)
class _Range(Distribution):
    low: float
    high: float

    def __post_init__(self) -> None:
        name = type(self).__name__
        for end in ("low", "high"):
            object.__setattr__(self, end, self._checked(f"{name}: {end}", getattr(self, end)))
        if self.low > self.high:
            raise ValueError(f"{name}: high must be at least low, {self.low!r}, got {self.high!r}")

    def _checked(self, where: str, end: Any) -> float:
        return _checks.number(where, end, _checks.POSITIVE if self.log else _checks.FINITE)

    def suggest(self, trial: Trial, name: str) -> float:
        return trial.suggest_float(name, self.low, self.high, log=self.log)

    def around(self, value: Any, share: float) -> _Range:
        low, high = self._part(value, share)
        return replace(self, low=low, high=high)

    def _part(self, value: float, share: float) -> tuple[float, float]:
        to, back = (math.log, math.exp) if self.log else (float, float)
        half = share * (to(self.high) - to(self.low)) / 2
        left, right = to(value) - half, to(value) + half
        low = self.low if left <= to(self.low) else min(value, back(left))
        high = self.high if right >= to(self.high) else max(value, back(right))
        return low, high


class uniform(_Range):
    """Numbers in [low, high], all equally likely.

    Raises TypeError for a wrong kind, ValueError unless low <= high, both finite. Source: optuna.Trial.suggest_float.
    """


class log_uniform(_Range):
    """Numbers in [low, high] whose logarithms are all equally likely: where it is the order of magnitude that matters.

    Raises TypeError for a wrong kind, ValueError unless 0 < low <= high, both finite.
    Source: Bergstra and Bengio 2012, Random search for hyper-parameter optimization; optuna.Trial.suggest_float.
    """

    log = True


@dataclass(frozen=True)
class integer(_Range):
    """The integers from low to high, both included, all equally likely, or with log=True their logarithms.

    Raises TypeError for a wrong kind, ValueError unless low <= high, and 1 <= low where log is True.
    Source: optuna.Trial.suggest_int.
    """

    low: int
    high: int
    log: bool = False

    def __post_init__(self) -> None:
        _checks.flag("integer: log", self.log)
        super().__post_init__()

    def _checked(self, where: str, end: Any) -> int:
        if not _checks.is_integer(end):
            raise TypeError(f"{where} must be an integer, got {end!r}")
        return _checks.integer(where, end, least=1) if self.log else int(end)

    def suggest(self, trial: Trial, name: str) -> int:
        return trial.suggest_int(name, self.low, self.high, log=self.log)

    def around(self, value: Any, share: float) -> integer:
        low, high = self._part(value, share)
        return replace(self, low=math.floor(low), high=math.ceil(high))


@dataclass(frozen=True, init=False)
class choice(Distribution):
    """One of some values, all equally likely: strings, numbers, booleans, None. Narrowing leaves it as it is.

    Raises TypeError for values of another kind, ValueError for none, and for two that are equal.
    Source: optuna.Trial.suggest_categorical.
    """

    values: tuple[str | int | float | bool | None, ...]

    def __init__(self, *values: str | int | float | bool | None) -> None:
        plain = tuple(value.item() if isinstance(value, np.generic) else value for value in values)
        for value in plain:
            if value is not None and not isinstance(value, (str, int, float)):
                raise TypeError(f"choice: values must be strings, numbers, booleans or None, got {value!r}")
        if not plain or len(set(plain)) < len(plain):
            raise ValueError(f"choice: values must be one or more that differ, got {plain!r}")
        object.__setattr__(self, "values", plain)

    def suggest(self, trial: Trial, name: str) -> Any:
        return trial.suggest_categorical(name, self.values)

    def around(self, value: Any, share: float) -> choice:
        return self
