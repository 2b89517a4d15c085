"""Is the learning rate right? A test over a range of rates before a run, and a look at single updates within one."""

from __future__ import annotations

import copy
import math
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from gradfuse import cross_entropy
from gradfuse._arrays import Array, namespace
from gradfuse._checks import BELOW_ONE, POSITIVE, integer, number
from gradfuse._parameter import Parameter
from gradfuse.data import Batches
from gradfuse.diagnostics.report import Report, few, learned, new_figure, optimizer_of, train_step, twin
from gradfuse.nn.layer import Layer
from gradfuse.nn.losses import Loss
from gradfuse.optim import Optimizer
from gradfuse.schedules import exponential

# -- which rate


@dataclass(frozen=True)
class LRRange(Report):
    """The rate of each step, the loss before it, and the running mean of the losses."""

    rates: tuple[float, ...]
    losses: tuple[float, ...]
    smoothed: tuple[float, ...]

    @property
    def lowest(self) -> int:
        """The step at which the smoothed loss was lowest."""
        return self.smoothed.index(min(self.smoothed))

    @property
    def suggestion(self) -> float | None:
        """A tenth of the rate at which the smoothed loss was lowest; None where it never fell by a twentieth."""
        first, least = self.smoothed[0], self.smoothed[self.lowest]
        return self.rates[self.lowest] / 10 if least < first - 0.05 * abs(first) else None

    @property
    def ok(self) -> bool:
        """Whether the loss fell, and rose again before the range was over."""
        return self.suggestion is not None and self.lowest < len(self.rates) - 1

    def verdict(self) -> str:
        first, last = self.rates[0], self.rates[-1]
        if not math.isfinite(self.losses[0]):
            return "The loss is not finite before any step: look at the inputs and the weights."
        if self.suggestion is None:
            return (
                f"No rate from {first:.2g} to {last:.2g} lowers the loss: see whether the model overfits a few samples."
            )
        if not self.ok:
            return f"The loss is still falling at the highest rate, {last:.2g}: try higher ones."
        return f"A rate of {self.suggestion:.2g}: a tenth of {self.rates[self.lowest]:.2g}, where the loss is lowest."

    def plot(self, path: str | os.PathLike[str] | None = None) -> Any:
        """Draws the loss over the rate; returns the Figure, saved where a path is given.

        Raises ImportError where matplotlib is missing.
        """
        drawn = new_figure("LRRange.plot")
        axes = drawn.add_subplot(xscale="log", xlabel="learning rate", ylabel="loss", title=self.verdict())
        axes.plot(self.rates, self.losses, alpha=0.35, label="loss")
        axes.plot(self.rates, self.smoothed, label="smoothed")
        if self.suggestion is not None:
            axes.axvline(self.suggestion, color="black", linestyle=":", label=f"suggestion {self.suggestion:.2g}")
            fall = self.smoothed[0] - self.smoothed[self.lowest]
            axes.set_ylim(self.smoothed[self.lowest] - 0.2 * fall, self.smoothed[0] + fall)  # what diverges is cut off
        axes.title.set_fontsize("small")
        axes.legend(fontsize="small")
        if path is not None:
            drawn.savefig(path)
        return drawn


def lr_range_test(
    model: Layer,
    data: Iterable[tuple[Array, Any]] | tuple[Array, Any],
    make_optimizer: Callable[[list[Parameter]], Optimizer],
    *,
    loss: Loss = cross_entropy,
    min_lr: float = 1e-6,
    max_lr: float = 10.0,
    steps: int = 100,
    smoothing: float = 0.8,
) -> LRRange:
    """Trains a copy of the model at rates that grow exponentially from min_lr to max_lr until the loss diverges.

    The model itself stays as it is, its random streams and the place of a gradfuse.data.Batches too. data: batches,
    gone through again where they are fewer than steps, or a pair (x, target), which is the batch of every step.
    make_optimizer: from the copy's parameters to an optimizer, whose rate is then set, of all groups. smoothing: the
    factor of the running mean, (1 - smoothing) * sum(smoothing^i * loss[t - i]) with Adam's correction of its start.
    The test ends where that mean is more than four times the first loss, or the loss is not finite.
    Raises TypeError or ValueError unless 0 < min_lr < max_lr, steps is an integer of at least 2, smoothing in [0, 1),
    and there are enough batches.
    Source: Smith 2017, Cyclical learning rates; a tenth: Géron, Hands-On Machine Learning.
    """
    min_lr = number("lr_range_test: min_lr", min_lr, POSITIVE)
    max_lr = number("lr_range_test: max_lr", max_lr, POSITIVE)
    steps = integer("lr_range_test: steps", steps, least=2)
    smoothing = number("lr_range_test: smoothing", smoothing, BELOW_ONE)
    if not min_lr < max_lr:
        raise ValueError(f"lr_range_test: max_lr must be greater than min_lr, {min_lr!r}, got {max_lr!r}")
    trial = twin(model)
    optimizer = optimizer_of(trial, "lr_range_test", make_optimizer)
    schedule = exponential(min_lr, steps - 1, max_lr / min_lr)
    rates: list[float] = []
    losses: list[float] = []
    smoothed: list[float] = []
    mean = 0.0
    for step, (x, target) in zip(range(steps), _endless(data), strict=False):
        rates.append(schedule(step))
        optimizer.lr = rates[-1]
        losses.append(train_step(trial, optimizer, loss, x, target))
        mean = smoothing * mean + (1 - smoothing) * losses[-1]
        smoothed.append(mean / (1 - smoothing ** (step + 1)))
        if not smoothed[-1] <= losses[0] + 3 * abs(losses[0]):
            break
    return LRRange(tuple(rates), tuple(losses), tuple(smoothed))


def _endless(data: Any) -> Iterator[tuple[Array, Any]]:
    if isinstance(data, tuple):
        data = [data]
    elif isinstance(data, Batches):
        data = copy.copy(data)  # which has a place of its own
    while True:
        batch = None
        for batch in data:
            yield batch
        if batch is None:
            raise ValueError("lr_range_test: data must hold batches, and again when they are over, got none")


# -- the size of updates

# Up to which ratio it is called what, and what that means.
_BANDS = (
    (1e-4, "Too low", "see whether gradients arrive, or raise the learning rate"),
    (1e-3, "Low", "the learning rate may be raised"),
    (1e-2, "Healthy", "the learning rate suits them"),
    (1e-1, "High", "the learning rate may be lowered"),
    (math.inf, "Too high", "lower the learning rate"),
)


@dataclass(frozen=True)
class UpdateRatios(Report):
    """`ratios`: norm(update) / norm(weight) of each weight, by name; inf where the update is not finite."""

    ratios: dict[str, float]

    @property
    def ok(self) -> bool:
        return all(_band(ratio) == "Healthy" for ratio in self.ratios.values())

    def verdict(self) -> str:
        said = []
        for _, band, meaning in _BANDS:
            ratios = [f"{name} {ratio:.1e}" for name, ratio in self.ratios.items() if _band(ratio) == band]
            if ratios:
                said.append(f"{band}: {few(ratios)}; {meaning}.")
        return " ".join(said)

    def __str__(self) -> str:
        width = max(map(len, self.ratios))
        lines = [f"{name:{width}}  {ratio:.1e}  {_band(ratio)}" for name, ratio in self.ratios.items()]
        return "\n".join([*lines, self.verdict()])


def _band(ratio: float) -> str:
    return next((name for limit, name, _ in _BANDS if ratio < limit), _BANDS[-1][1])


def update_ratios(model: Layer | Optimizer, step: Callable[[], object]) -> UpdateRatios:
    """Calls step() once and compares the change of each weight with what the weight was.

    step: whatever changes the weights, for example `optimizer.step`. model: or its optimizer, whose weights are then
    named by their place in `params`. Weights are what has two or more dimensions, is not frozen and not all 0.
    A ratio from 1e-3 to 1e-2 is healthy; below it is low, below 1e-4 too low, above it high, above 1e-1 too high.
    Raises TypeError where model is neither, ValueError where it has no such weights.
    Source: Karpathy, CS231n, Neural networks 3: ratio of updates to weights.
    """
    weights = {name: a for name, a in _named(model).items() if a.ndim >= 2 and a.any()}
    if not weights:
        raise ValueError("update_ratios: model must have weights of two or more dimensions that are not all 0")
    before = {name: a.astype(np.float64) for name, a in weights.items()}
    step()
    ratios = {name: _norm(a - before[name]) / _norm(before[name]) for name, a in weights.items()}
    return UpdateRatios({name: ratio if math.isfinite(ratio) else math.inf for name, ratio in ratios.items()})


def _named(model: Any) -> dict[str, Array]:
    if isinstance(model, Layer):
        return {name: p.data for name, p in learned(model).items()}
    if isinstance(model, Optimizer):
        arrays = [p.data if isinstance(p, Parameter) else p for p in model.params]
        return {f"params[{i}]": a for i, a in enumerate(arrays)}
    raise TypeError(f"update_ratios: model must be a layer or an optimizer, got {type(model).__name__}")


def _norm(a: Array) -> float:
    with np.errstate(over="ignore", invalid="ignore"):
        return float(namespace(a).linalg.norm(a))
