"""Interleaved timing: in every round each candidate runs once, so that drift of the machine hits all alike."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Sample:
    """Seconds of one call."""

    median: float
    low: float  # 20th percentile
    high: float  # 80th percentile

    @classmethod
    def of(cls, times: list[float]) -> Sample:
        low, median, high = np.percentile(times, [20, 50, 80])
        return cls(float(median), float(low), float(high))


def _once(call: Callable[[], object], repeats: int) -> float:
    start = time.perf_counter()
    for _ in range(repeats):
        call()
    return (time.perf_counter() - start) / repeats


def _settle(call: Callable[[], object], seconds: float) -> None:
    """Calls, once at least: until one's data are in the cache and the threads of the one before asleep."""
    end = time.perf_counter() + seconds
    call()
    while time.perf_counter() < end:
        call()


def measure(calls: dict[str, Callable[[], object]], seconds: float, settle: float) -> dict[str, Sample]:
    """Times the calls against each other for about `seconds` each, each turn begun by `settle` seconds untimed."""
    repeats, estimates = {}, {}
    for name, call in calls.items():
        call()
        estimate = min(_once(call, 1) for _ in range(2))
        repeats[name] = max(1, int(max(5e-4, settle / 4) / estimate))  # half a millisecond at least
        estimates[name] = estimate * repeats[name]
    rounds = min(200, max(9, int(seconds / max(estimates.values()))))
    times: dict[str, list[float]] = {name: [] for name in calls}
    names = list(calls)
    for round_ in range(rounds):
        for k in range(len(names)):  # another one goes first each round
            name = names[(k + round_) % len(names)]
            _settle(calls[name], settle)
            times[name].append(_once(calls[name], repeats[name]))
    return {name: Sample.of(values) for name, values in times.items()}
