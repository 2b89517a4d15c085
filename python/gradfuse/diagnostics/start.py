"""Before a long run: is the loss at the start that of a model that knows nothing, and can the model learn at all?"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from gradfuse import cross_entropy
from gradfuse._arrays import Array, namespace
from gradfuse._checks import POSITIVE, generator, integer, number
from gradfuse._parameter import Parameter
from gradfuse.data import take
from gradfuse.diagnostics.report import Report, optimizer_of, train_step, twin
from gradfuse.nn.layer import Layer
from gradfuse.nn.losses import Loss
from gradfuse.optim import Adam, Optimizer


@dataclass(frozen=True)
class InitialLoss(Report):
    """The loss at the start, and that of a model that knows nothing."""

    loss: float
    expected: float
    tolerance: float

    @property
    def ok(self) -> bool:
        return 0.5 * self.expected <= self.loss <= self.expected + self.tolerance

    def verdict(self) -> str:
        figures = f"the loss is {self.loss:.3g}, that of a model that knows nothing {self.expected:.3g}"
        if not math.isfinite(self.loss):
            return f"Not finite: {figures}; look at the inputs, and at the scale of the weights."
        if self.ok:
            return f"As expected: {figures}."
        if self.loss < self.expected:
            return f"Too low: {figures}; either it has been trained, or its inputs hold the target."
        return (
            f"Too high: {figures}; it is sure of itself before it has learned: standardise the inputs, or draw smaller "
            "weights for the last layer."
        )


def initial_loss(
    model: Layer,
    x: Array,
    target: Any,
    loss: Loss = cross_entropy,
    classes: int | None = None,
    *,
    tolerance: float = 1.5,
) -> InitialLoss:
    """Compares the loss of the first batch with that of logits that are all 0: log C for cross_entropy and C classes.

    The loss is that of the first training step without regularisers: batch norm uses the batch, dropout drops nothing.
    Everything happens to a copy of the model. loss: (prediction, target) -> (loss, gradient). classes: log(classes) is
    expected, for losses of something else than logits. tolerance: the report is ok where the loss is from half of what
    is expected to so much above it: logits of variance v add about v / 2, and Glorot's and He's rules give v up to
    about 2.
    Raises TypeError or ValueError unless classes is an integer of at least 2 and tolerance a positive number.
    """
    tolerance = number("initial_loss: tolerance", tolerance, POSITIVE)
    if classes is not None:
        classes = integer("initial_loss: classes", classes, least=2)
    with np.errstate(over="ignore", invalid="ignore"):
        logits = twin(model, dropout=False).forward(x)
        first, _ = loss(logits, target)
        nothing = math.log(classes) if classes else loss(namespace(logits).zeros_like(logits), target)[0]
    return InitialLoss(float(first), float(nothing), tolerance)


@dataclass(frozen=True)
class Overfit(Report):
    """The losses of training on a few samples, the first of them before any step."""

    losses: tuple[float, ...]
    samples: int
    goal: float

    @property
    def ok(self) -> bool:
        return len(self.losses) > 1 and self.losses[-1] <= self.goal

    def verdict(self) -> str:
        first, last, steps = self.losses[0], self.losses[-1], len(self.losses) - 1
        course = f"the loss goes from {first:.3g} to {last:.3g} in {steps} steps"
        if self.ok:
            return f"It learns {self.samples} samples by heart: {course}."
        if last <= self.goal:
            return (
                f"Nothing to learn: the loss is {first:.3g} before any step; give a smaller goal or an untrained model."
            )
        if not math.isfinite(last):
            return f"Not finite: {course}; lower the learning rate, or look at the inputs and the weights."
        return (
            f"It does not learn {self.samples} samples by heart: {course}; look for targets of other samples, a wrong "
            "gradient (gradcheck_layer), dead or saturated layers (Watch), another learning rate (lr_range_test)."
        )


def overfits(
    model: Layer,
    x: Array,
    target: Any,
    make_optimizer: Callable[[list[Parameter]], Optimizer] = Adam,
    *,
    loss: Loss = cross_entropy,
    samples: int = 32,
    steps: int = 1000,
    goal: float = 0.1,
    dropout: bool = False,
    rng: np.random.Generator | int | None = 0,
) -> Overfit:
    """Trains a copy of the model on a few samples until it knows them by heart, as any sound model and loop can.

    The model itself stays as it is, its random streams too. make_optimizer: from the copy's parameters to an optimizer.
    samples: so many, or all there are, drawn from x and target by `rng`. steps: at most so many. goal: what counts as a
    loss of 0; losses with a unit need their own. dropout: False switches it off.
    Raises TypeError or ValueError unless make_optimizer is a function, samples and steps are integers of at least 1,
    goal is a positive number, and x and target have the same number of samples.
    """
    samples = integer("overfits: samples", samples, least=1)
    steps = integer("overfits: steps", steps, least=1)
    goal = number("overfits: goal", goal, POSITIVE)
    if not 0 < len(x) == len(target):
        raise ValueError(f"overfits: x and target must hold the same number of samples, got {len(x)} and {len(target)}")
    rows = generator("overfits", rng).permutation(len(x))[:samples]
    few, wanted = take((x, target), rows)
    trial = twin(model, dropout=dropout)
    optimizer = optimizer_of(trial, "overfits", make_optimizer)
    losses: list[float] = []
    while len(losses) <= steps:
        losses.append(train_step(trial, optimizer, loss, few, wanted))
        if not goal < losses[-1] < math.inf:
            break
    return Overfit(tuple(losses), len(rows), goal)
