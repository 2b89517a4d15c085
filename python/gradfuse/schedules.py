"""Schedules: hyper-parameters as functions of the step, from 0, to be given to an optimizer in place of numbers.

A schedule holds nothing but its arguments: an optimizer that resumes at a step resumes its schedules there. Steps past
the end hold the last value. `Plateau` alone goes by what it is told rather than by the step.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from os import PathLike
from textwrap import shorten
from typing import TYPE_CHECKING, Any, Generic, SupportsFloat, TypeVar

import numpy as np

from gradfuse._checks import AT_LEAST_ONE, BELOW_ONE, NUMBER, POSITIVE, SHARE, choice, integer, number, state_of
from gradfuse._optional import needed

if TYPE_CHECKING:
    from matplotlib.figure import Figure

T = TypeVar("T", covariant=True)


class Schedule(Generic[T]):
    """A function of the step, from 0, that can be printed, compared, copied, pickled and plotted."""

    def __call__(self, step: int) -> T:
        """The value for the step after `step` others. TypeError for no integer, ValueError for a negative one."""
        return self._at(integer(f"{type(self).__name__}: step", step))

    def _at(self, step: int) -> T:
        raise NotImplementedError

    def plot(self, steps: int, path: str | PathLike[str] | None = None) -> Figure:
        """Draws the first `steps` values; see `plot`."""
        return plot(self, steps=steps, path=path)


def _linear(start: float, end: float, share: float) -> float:
    return (end - start) * share + start


def _cosine(start: float, end: float, share: float) -> float:
    return end + (start - end) / 2 * (1 + math.cos(math.pi * share))


_ANNEAL = {"cos": _cosine, "linear": _linear}


@dataclass(frozen=True)
class Power(Schedule[float]):
    lr: float
    s: float
    c: float

    def _at(self, step: int) -> float:
        return self.lr * math.pow(1 + step / self.s, -self.c)


def power(lr: float, s: float, c: float = 1.0) -> Schedule[float]:
    """lr / (1 + step / s)^c: with c = 1 the rate is lr / 2 after s steps, lr / 3 after 2 s.

    Raises TypeError for a wrong kind, ValueError unless lr >= 0, s > 0 and c >= 0, all finite.
    Source: Robbins and Monro 1951; c = 1: keras.optimizers.schedules.InverseTimeDecay.
    """
    return Power(number("power: lr", lr), number("power: s", s, POSITIVE), number("power: c", c))


@dataclass(frozen=True)
class Exponential(Schedule[float]):
    lr: float
    s: float
    rate: float

    def _at(self, step: int) -> float:
        try:
            return self.lr * math.pow(self.rate, step / self.s)
        except OverflowError:
            return math.inf


def exponential(lr: float, s: float, rate: float = 0.1) -> Schedule[float]:
    """lr * rate^(step / s): `rate` times as much every s steps. With rate > 1 it climbs, to search for the best lr.

    Raises TypeError for a wrong kind, ValueError unless lr >= 0, s > 0 and rate > 0, all finite.
    Source: torch.optim.lr_scheduler.ExponentialLR, its gamma being rate^(1 / s).
    """
    return Exponential(
        number("exponential: lr", lr),
        number("exponential: s", s, POSITIVE),
        number("exponential: rate", rate, POSITIVE),
    )


@dataclass(frozen=True)
class Piecewise(Schedule[float]):
    boundaries: tuple[int, ...]
    values: tuple[float, ...]

    def _at(self, step: int) -> float:
        return self.values[bisect_right(self.boundaries, step)]


def piecewise(boundaries: Iterable[int], values: Iterable[float]) -> Schedule[float]:
    """values[i] from step boundaries[i - 1] on, up to but not including boundaries[i].

    boundaries: increasing steps > 0; values: one more, each finite and >= 0.
    Raises TypeError for a wrong kind, ValueError for a wrong value or number of values.
    Source: torch.optim.lr_scheduler.MultiStepLR.
    """
    for name, given in ("boundaries", boundaries), ("values", values):
        if not isinstance(given, Iterable):
            raise TypeError(f"piecewise: {name} must be a list of numbers, got {given!r}")
    steps = tuple(integer("piecewise: boundaries", b, least=1) for b in boundaries)
    rates = tuple(number("piecewise: values", v) for v in values)
    if list(steps) != sorted(set(steps)):
        raise ValueError(f"piecewise: boundaries must increase, got {steps}")
    if len(rates) != len(steps) + 1:
        raise ValueError(f"piecewise: values must be one more than boundaries, {len(steps) + 1}, got {len(rates)}")
    return Piecewise(steps, rates)


@dataclass(frozen=True)
class Linear(Schedule[float]):
    start: float
    end: float
    total_steps: int

    def _at(self, step: int) -> float:
        return _linear(self.start, self.end, min(step / self.total_steps, 1.0))


def linear(start: float, end: float, total_steps: int) -> Schedule[float]:
    """start + (end - start) * step / total_steps: `end` from step total_steps on.

    linear(0.0, lr, n) is a constant rate with a warm-up of n steps.
    Raises TypeError for a wrong kind, ValueError unless start, end >= 0, both finite, and total_steps > 0.
    Source: torch.optim.lr_scheduler.LinearLR.
    """
    return Linear(
        number("linear: start", start),
        number("linear: end", end),
        integer("linear: total_steps", total_steps, least=1),
    )


@dataclass(frozen=True)
class Cosine(Schedule[float]):
    lr: float
    total_steps: int
    min_lr: float
    restarts: int
    t_mult: int

    def _at(self, step: int) -> float:
        # In units of the first cycle's length / total_steps, so that every cycle's length is whole.
        place = min(step, self.total_steps) * sum(self.t_mult**i for i in range(self.restarts + 1))
        length = self.total_steps
        for _ in range(self.restarts):
            if place < length:
                break
            place -= length
            length *= self.t_mult
        return _cosine(self.lr, self.min_lr, place / length)


def cosine(lr: float, total_steps: int, *, min_lr: float = 0.0, restarts: int = 0, t_mult: int = 1) -> Schedule[float]:
    """min_lr + (lr - min_lr) / 2 * (1 + cos(pi * share)), share going from 0 to 1 within each cycle.

    total_steps: of all cycles together; from it on the rate is min_lr.
    restarts: how often the rate leaps back to lr on the way: there is one cycle more.
    t_mult: each cycle is that many times as long as the one before.
    Raises TypeError for a wrong kind, ValueError unless 0 <= min_lr <= lr, finite, total_steps and t_mult > 0 and
    restarts >= 0.
    Source: Loshchilov and Hutter 2017; torch.optim.lr_scheduler.CosineAnnealingLR, and CosineAnnealingWarmRestarts of
    T_0 = total_steps / (1 + t_mult + ... + t_mult^restarts).
    """
    schedule = Cosine(
        number("cosine: lr", lr),
        integer("cosine: total_steps", total_steps, least=1),
        number("cosine: min_lr", min_lr),
        integer("cosine: restarts", restarts),
        integer("cosine: t_mult", t_mult, least=1),
    )
    if schedule.min_lr > schedule.lr:
        raise ValueError(f"cosine: min_lr must be at most lr, {lr!r}, got {min_lr!r}")
    return schedule


@dataclass(frozen=True)
class InverseSqrt(Schedule[float]):
    lr: float
    warmup_steps: int

    def _at(self, step: int) -> float:
        share = (step + 1) / self.warmup_steps
        return self.lr * min(share, 1 / math.sqrt(share))


def inverse_sqrt(lr: float, warmup_steps: int) -> Schedule[float]:
    """lr * min(t / warmup_steps, sqrt(warmup_steps / t)), t = step + 1: its peak, lr, is at t = warmup_steps.

    Raises TypeError for a wrong kind, ValueError unless lr >= 0, finite, and warmup_steps > 0.
    Source: Vaswani et al. 2017, where lr is (model size * warmup_steps)^-0.5.
    """
    return InverseSqrt(number("inverse_sqrt: lr", lr), integer("inverse_sqrt: warmup_steps", warmup_steps, least=1))


@dataclass(frozen=True)
class OneCycle(Schedule[float]):
    """The rate of a 1cycle; `momentum` and `betas()` are what goes with it."""

    max_lr: float
    total_steps: int
    pct_start: float
    anneal: str
    div_factor: float
    final_div_factor: float
    max_momentum: float
    base_momentum: float

    def _at(self, step: int) -> float:
        initial = self.max_lr / self.div_factor
        return self._cycled(step, initial, self.max_lr, initial / self.final_div_factor)

    @property
    def momentum(self) -> Schedule[float]:
        """max_momentum -> base_momentum -> max_momentum as the rate goes up and down: momentum= of SGD and RMSprop."""
        return CycledMomentum(self)

    def betas(self, beta2: float = 0.999) -> Schedule[tuple[float, float]]:
        """The pair (momentum, beta2): betas= of Adam and its kin. Raises as one_cycle unless 0 <= beta2 < 1."""
        return CycledBetas(self, number("one_cycle.betas: beta2", beta2, BELOW_ONE))

    def _cycled(self, step: int, start: float, turn: float, end: float) -> float:
        """From start to turn and then to end, which the last step has."""
        between = _ANNEAL[self.anneal]
        last = self.total_steps - 1
        turning = self.pct_start * self.total_steps - 1  # as in PyTorch: rarely whole, below 0 for a tiny share
        step = min(step, last)
        if step <= turning:
            return between(start, turn, step / turning if turning else 1.0)
        return between(turn, end, (step - turning) / (last - turning))


@dataclass(frozen=True)
class CycledMomentum(Schedule[float]):
    cycle: OneCycle

    def _at(self, step: int) -> float:
        cycle = self.cycle
        return cycle._cycled(step, cycle.max_momentum, cycle.base_momentum, cycle.max_momentum)


@dataclass(frozen=True)
class CycledBetas(Schedule[tuple[float, float]]):
    cycle: OneCycle
    beta2: float

    def _at(self, step: int) -> tuple[float, float]:
        return self.cycle.momentum(step), self.beta2


def one_cycle(
    max_lr: float,
    total_steps: int,
    *,
    pct_start: float = 0.3,
    anneal: str = "cos",
    div_factor: float = 25.0,
    final_div_factor: float = 1e4,
    max_momentum: float = 0.95,
    base_momentum: float = 0.85,
) -> OneCycle:
    """1cycle: up from max_lr / div_factor to max_lr, then down to max_lr / div_factor / final_div_factor.

    The peak is at step pct_start * total_steps - 1, the end at total_steps - 1; to them lead half cosines, or straight
    lines with anneal="linear". `.momentum` is the schedule of the momentum, `.betas(beta2=0.999)` that of Adam's pair.
    Raises TypeError for a wrong kind, ValueError unless max_lr >= 0, total_steps > 0, 0 <= pct_start <= 1, anneal is
    "cos" or "linear", both factors are > 0 and both momenta in [0, 1).
    Source: Smith and Topin 2018; torch.optim.lr_scheduler.OneCycleLR, of two phases.
    """
    return OneCycle(
        number("one_cycle: max_lr", max_lr),
        integer("one_cycle: total_steps", total_steps, least=1),
        number("one_cycle: pct_start", pct_start, SHARE),
        choice("one_cycle: anneal", anneal, *_ANNEAL),
        number("one_cycle: div_factor", div_factor, POSITIVE),
        number("one_cycle: final_div_factor", final_div_factor, POSITIVE),
        number("one_cycle: max_momentum", max_momentum, BELOW_ONE),
        number("one_cycle: base_momentum", base_momentum, BELOW_ONE),
    )


@dataclass(frozen=True)
class Warmup(Schedule[float]):
    schedule: Callable[[int], float]
    steps: int
    start: float

    def _at(self, step: int) -> float:
        if step >= self.steps:
            return self.schedule(step - self.steps)
        return self.schedule(0) * _linear(self.start, 1.0, step / self.steps)


def warmup(schedule: Callable[[int], float], steps: int, start: float = 0.0) -> Schedule[float]:
    """schedule(0) * (start + (1 - start) * step / steps) for the first `steps` steps, then schedule(step - steps).

    The schedule begins, at its own step 0, after the warm-up, so that nothing of it is lost and nothing leaps. With
    start = 0 the very first step moves no parameter: it fills the optimizer's state.
    schedule: any function of the step, a Plateau too. linear(0.0, lr, steps) is the warm-up of a constant.
    Raises TypeError for a wrong kind, pairs among them, ValueError unless steps >= 0 and 0 <= start <= 1.
    Source: Goyal et al. 2017; torch.optim.lr_scheduler.SequentialLR of a LinearLR and the schedule.
    """
    if not callable(schedule):
        raise TypeError(f"warmup: schedule must be a function of the step, got {schedule!r}")
    number("warmup: schedule(0)", schedule(0))
    return Warmup(schedule, integer("warmup: steps", steps), number("warmup: start", start, SHARE))


@dataclass(frozen=True)
class GrowingBatch(Schedule[int]):
    batch_size: int
    factor: float
    every: int
    largest: int | None

    def _at(self, step: int) -> int:
        size = round(self.batch_size * Fraction(self.factor) ** (step // self.every))
        return size if self.largest is None else min(size, self.largest)


def growing_batch(batch_size: int, factor: float, every: int, largest: int | None = None) -> Schedule[int]:
    """The batch size of an epoch, from 0: batch_size * factor^floor(epoch / every), rounded, at most `largest`.

    Where a rate would be divided by `factor`, the batch grows by it, and the rate stays.
    Raises TypeError for a wrong kind, ValueError unless factor >= 1, finite, batch_size and every > 0 and
    largest >= batch_size.
    Source: Smith, Kindermans, Ying and Le, Don't decay the learning rate, increase the batch size, arXiv:1711.00489.
    """
    size = integer("growing_batch: batch_size", batch_size, least=1)
    if largest is not None:
        largest = integer("growing_batch: largest", largest, least=size)
    return GrowingBatch(
        size,
        number("growing_batch: factor", factor, AT_LEAST_ONE),
        integer("growing_batch: every", every, least=1),
        largest,
    )


@dataclass(eq=False)
class Plateau(Schedule[float]):
    """A rate that falls when a metric no longer gets better: given as lr= and told of each epoch by `update(metric)`.

    lr: the rate in force. When more than `patience` updates in a row have brought no improvement it becomes
    max(lr * factor, min_lr), unless that is less by no more than eps.
    mode: whether less ("min") or more ("max") is better.
    threshold: an improvement is one on best * (1 -+ threshold) with threshold_mode="rel", best -+ threshold with "abs".
    cooldown: after a fall so many updates count no failures.
    Called, it gives lr at any step; the optimizer's state_dict() does not hold it, its own does.
    Raises TypeError for a wrong kind, ValueError unless lr, threshold, min_lr and eps are finite and >= 0, factor is in
    [0, 1), patience and cooldown are >= 0 and the modes as above.
    Source: torch.optim.lr_scheduler.ReduceLROnPlateau. Keras waits for `patience` failures, not for more.
    """

    lr: float
    factor: float = 0.1
    patience: int = 10
    threshold: float = 1e-4
    mode: str = "min"
    threshold_mode: str = "rel"
    cooldown: int = 0
    min_lr: float = 0.0
    eps: float = 1e-8

    def __post_init__(self) -> None:
        self.factor = number("Plateau: factor", self.factor, BELOW_ONE)
        for name in ("lr", "threshold", "min_lr", "eps"):
            setattr(self, name, number(f"Plateau: {name}", getattr(self, name)))
        for name in ("patience", "cooldown"):
            setattr(self, name, integer(f"Plateau: {name}", getattr(self, name)))
        choice("Plateau: mode", self.mode, "min", "max")
        choice("Plateau: threshold_mode", self.threshold_mode, "rel", "abs")
        self.best = math.inf if self.mode == "min" else -math.inf
        self.failures = 0  # in a row
        self.resting = 0  # updates of the cooldown still to come

    def _at(self, step: int) -> float:
        return self.lr

    def update(self, metric: SupportsFloat) -> None:
        """Takes note of the metric of an epoch: a number, or an array without axes. NaN is no improvement.

        Raises TypeError for anything else.
        """
        if isinstance(metric, (bool, np.bool_)) or not hasattr(metric, "__float__") or getattr(metric, "ndim", 0) != 0:
            raise TypeError(f"Plateau.update: metric must be a number, got {metric!r}")
        value = float(metric)
        if self._improves(value):
            self.best, self.failures = value, 0
        else:
            self.failures += 1
        if self.resting:
            self.resting, self.failures = self.resting - 1, 0
        if self.failures > self.patience:
            lower = max(self.lr * self.factor, self.min_lr)
            if self.lr - lower > self.eps:
                self.lr = lower
            self.resting, self.failures = self.cooldown, 0

    def _improves(self, value: float) -> bool:
        margin = -self.threshold if self.mode == "min" else self.threshold
        goal = self.best * (1 + margin) if self.threshold_mode == "rel" else self.best + margin
        return value < goal if self.mode == "min" else value > goal

    def state_dict(self) -> dict[str, float]:
        """What updates have changed."""
        return {name: getattr(self, name) for name in ("lr", "best", "failures", "resting")}

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Takes on a state from state_dict(). Raises TypeError or ValueError for another, and then changes nothing."""
        where = "Plateau.load_state_dict: state"
        state_of(where, state, self.state_dict())
        lr, best = number(f"{where}['lr']", state["lr"]), number(f"{where}['best']", state["best"], NUMBER)
        failures, resting = (integer(f"{where}[{name!r}]", state[name]) for name in ("failures", "resting"))
        self.lr, self.best, self.failures, self.resting = lr, best, failures, resting


def plot(
    *schedules: Callable[[int], Any],
    steps: int,
    path: str | PathLike[str] | None = None,
    labels: Sequence[str] | None = None,
) -> Figure:
    """Draws the values of schedules, or of any functions of the step, for the first `steps` steps; pairs are two lines.

    path: where the picture is written too, its format by the ending.
    labels: one per schedule, else how each prints, shortened.
    Raises TypeError for a wrong kind or no schedules, ValueError for steps < 1 or another number of labels, ImportError
    without matplotlib.
    """
    new_figure = needed("plot", "matplotlib.figure").Figure
    steps = integer("plot: steps", steps, least=1)
    if not schedules or not all(map(callable, schedules)):
        raise TypeError(f"plot: schedules must be functions of the step, at least one, got {schedules}")
    names = [shorten(repr(schedule), 60, placeholder="...") for schedule in schedules] if labels is None else labels
    if len(names) != len(schedules):
        raise ValueError(f"plot: labels must be one per schedule, {len(schedules)}, got {len(names)}")

    figure: Figure = new_figure()
    axes = figure.add_subplot(xlabel="step")
    for schedule, name in zip(schedules, names, strict=True):
        axes.plot(range(steps), [schedule(step) for step in range(steps)], label=name)
    axes.legend(fontsize="small")
    if path is not None:
        figure.savefig(path)
    return figure


__all__ = [
    "Plateau",
    "Schedule",
    "cosine",
    "exponential",
    "growing_batch",
    "inverse_sqrt",
    "linear",
    "one_cycle",
    "piecewise",
    "plot",
    "power",
    "warmup",
]
