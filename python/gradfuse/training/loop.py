"""The training loop: everything it does to a model is in Run.train_epoch, and `fit` is what surrounds it."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from gradfuse._arrays import Array
from gradfuse._checks import integer
from gradfuse._core import cross_entropy
from gradfuse._optional import needed
from gradfuse.data import Batches
from gradfuse.nn.layer import Layer, modes_kept
from gradfuse.nn.losses import Loss
from gradfuse.optim import Optimizer
from gradfuse.schedules import Plateau, Warmup
from gradfuse.training import arguments as check
from gradfuse.training import checkpoint as checkpoints
from gradfuse.training.history import History, Metrics
from gradfuse.training.scaling import LossScale

Metric = Callable[[Array, Any], Any]


def accuracy(prediction: Array, target: Any) -> Array:
    """The share of rows of `prediction` (..., classes) whose largest element is at the index in `target` (...).

    A target of the prediction's shape, one-hot or probabilities, is taken at its own largest element.
    Raises ValueError for another shape.
    """
    if target.shape == prediction.shape:
        target = target.argmax(axis=-1)
    elif target.shape != prediction.shape[:-1]:
        wanted = f"{tuple(prediction.shape[:-1])} or {tuple(prediction.shape)}"
        raise ValueError(f"accuracy: target must have shape {wanted}, got {tuple(target.shape)}")
    return (prediction.argmax(axis=-1) == target).mean()


def evaluate(
    model: Layer,
    data: Iterable[tuple[Array, Any]] | tuple[Array, Any],
    loss: Loss = cross_entropy,
    metrics: dict[str, Metric] | None = None,
    *,
    batch_size: int = 256,
) -> Metrics:
    """The mean loss and metrics of a model's predictions in inference mode, over all samples.

    data: a pair (x, target), or an iterable of batches of them. The model's modes, and the place of
    gradfuse.data.Batches, are left as they were.
    Raises TypeError for other data, ValueError where there are no samples.
    """
    integer("evaluate: batch_size", batch_size, least=1)
    sums: dict[str, Any] = {}
    count = 0
    with modes_kept(model):
        model.eval()
        for x, target in _batches(data, batch_size):
            prediction = model.forward(x)
            figures = {"loss": loss(prediction, target)[0]}
            figures |= {name: metric(prediction, target) for name, metric in (metrics or {}).items()}
            sums = {name: sums.get(name, 0.0) + np.float64(len(x)) * value for name, value in figures.items()}
            count += len(x)
    if not count:
        raise ValueError("evaluate: data must hold at least one sample, got none")
    return {name: float(value) / count for name, value in sums.items()}


def _batches(data: Any, batch_size: int) -> Iterator[tuple[Array, Any]]:
    if isinstance(data, tuple) and len(data) == 2:
        x, target = data
        if len(x) != len(target):
            raise ValueError(f"evaluate: x and target must have one number of samples, got {len(x)} and {len(target)}")
        data = (
            (x[start : start + batch_size], target[start : start + batch_size])
            for start in range(0, len(x), batch_size)
        )
    for batch in data.whole() if isinstance(data, Batches) else data:
        if not isinstance(batch, (tuple, list)) or len(batch) != 2:
            raise TypeError(f"evaluate: data must be a pair (x, target) or batches of them, got {type(data).__name__}")
        yield batch[0], batch[1]


class Run:
    """A training run between two steps: all that a checkpoint holds, and what callbacks may look at and change.

    `stop = True` ends it after the epoch. `step` counts the optimizer's steps, those that it skipped included.
    """

    def __init__(self, model: Layer, data: Any, optimizer: Optimizer, loss: Loss, accumulate: int, scale: Any) -> None:
        self.model, self.data, self.optimizer, self.loss = model, data, optimizer, loss
        self.accumulate = accumulate
        self._parameters = model.parameters()
        model.zero_grad()
        self.scale = LossScale(scale)
        self.history = History()
        self.epoch = self.step = 0
        self.stop = False
        self.patience_left: int | None = None
        self.best: dict[str, Any] | None = None  # {"value", "epoch", "model"}
        self.total, self.samples = 0.0, 0  # of this epoch: summed loss, and how many samples
        self._losses: list[tuple[int, Array]] = []  # of batches that are not yet in them
        self.figures: list[str] = []  # that the history holds of an epoch, where that is known

    def train_epoch(self, regularisers: Sequence[Any], constraints: Sequence[Any]) -> Iterator[None]:
        """The rest of an epoch, pausing after every batch that ends with a step. ValueError where it has no batch."""
        self.model.train()
        batches = 0  # since the last step
        length = len(self.data)
        if not length:
            raise ValueError("fit: data must have at least one batch an epoch, got none")
        for x, target in self.data:
            if self.scale.given is None:
                loss = self._gradients(x, target)
            else:  # overflow is expected: the step is skipped, and a dynamic scale falls
                with np.errstate(over="ignore", invalid="ignore"):
                    loss = self._gradients(x, target)
            self._losses.append((len(x), loss))
            batches += 1
            if batches < self.accumulate and self.data.position < length:
                continue
            factor = 1 / (batches * self.scale.value)
            for regularise in regularisers:
                regularise(self.model, 1 / factor)
            self.optimizer.step(grad_scale=factor)
            for p in self._parameters:
                p.grad = None
            self.scale.update(self.optimizer.last_grad_norm)
            for constrain in constraints:
                constrain(self.model)
            self.step += 1
            batches = 0
            yield

    def _gradients(self, x: Array, target: Any) -> Array:
        """The loss of a batch, its gradients added to those of the parameters."""
        loss, grad = self.scale.gradient(self.loss, self.model.forward(x), target)
        self.model.backward(grad, input_grad=False)
        return loss

    def end_epoch(self) -> float:
        """The mean training loss of the epoch, which is over."""
        self._sum_losses()
        mean = float(self.total) / max(1, self.samples)
        self.total, self.samples = 0.0, 0
        self.epoch += 1
        return mean

    def _sum_losses(self) -> None:
        for count, loss in self._losses:
            self.total = self.total + np.float64(count) * loss
            self.samples += count
        self._losses.clear()

    def watch(self, figures: Metrics, patience: int | None) -> None:
        """Remembers the best model so far, and stops where the validation loss has not fallen for `patience` epochs."""
        if patience is None:
            return
        value = figures["val_loss"]
        if self.best is None or value < self.best["value"] or math.isnan(self.best["value"]):
            self.best = {"value": value, "epoch": self.epoch, "model": self.model.state_dict()}
            self.patience_left = patience
        else:
            self.patience_left = (self.patience_left or 0) - 1
            self.stop = self.stop or self.patience_left <= 0

    def plateaus(self) -> list[Plateau]:
        """The schedules that go by more than the step, within warm-ups too."""
        found = {}
        for value in [value for group in self.optimizer.groups for value in group.values()]:
            while isinstance(value, Warmup):
                value = value.schedule
            if isinstance(value, Plateau):
                found[id(value)] = value
        return list(found.values())

    def state_dict(self) -> dict[str, Any]:
        """Everything that the rest of the run depends on."""
        self._sum_losses()
        return {
            "model": self.model.state_dict(),
            "generators": [g.state_dict() for g in self.model.generators()],
            "optimizer": self.optimizer.state_dict(),
            "schedules": [s.state_dict() for s in self.plateaus()],
            "data": self.data.state_dict(),
            "scale": self.scale.state_dict(),
            "history": self.history.state_dict(),
            "frozen": {name: layer.frozen for name, layer in self.model.layers()},
            "accumulate": self.accumulate,
            "epoch": self.epoch,
            "step": self.step,
            "total": float(self.total),
            "samples": self.samples,
            "stop": self.stop,
            "patience_left": self.patience_left,
            "best": self.best,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes on a state from state_dict(): what follows is what would have followed, bit for bit.

        Raises TypeError or ValueError where it is of another model, optimizer or data, and then changes nothing.
        """
        before = self.state_dict()
        if not isinstance(state, dict) or state.keys() != before.keys():
            given = f"a state of {', '.join(state)}" if isinstance(state, dict) else f"a {type(state).__name__}"
            raise ValueError(f"fit: checkpoint must be of a training run, got {given}")
        try:
            self._load(state)
        except Exception:
            self._load(before)
            raise

    def _load(self, state: dict[str, Any]) -> None:
        generators, schedules = self.model.generators(), self.plateaus()
        for name, mine in (("generators", generators), ("schedules", schedules)):
            if len(state[name]) != len(mine):
                raise ValueError(f"fit: the checkpoint must be of {len(mine)} {name}, got {len(state[name])}")
        if state["accumulate"] != self.accumulate:
            given = f"as in the checkpoint, got {self.accumulate}"
            raise ValueError(f"fit: accumulate must be {state['accumulate']}, {given}")
        if self.figures and state["history"] and state["history"].keys() != set(self.figures):
            told = ", ".join(state["history"])
            raise ValueError(f"fit: validation and metrics must be those of the checkpoint, whose history is of {told}")
        layers = dict(self.model.layers())
        if state["frozen"].keys() != layers.keys():
            raise ValueError(f"fit: the checkpoint must be of a model of {len(layers)} layers, got one of others")
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.data.load_state_dict(state["data"])
        self.scale.load_state_dict(state["scale"])
        self.history.load_state_dict(state["history"])
        for generator, saved in zip(generators, state["generators"], strict=True):
            generator.load_state_dict(saved)
        for schedule, saved in zip(schedules, state["schedules"], strict=True):
            schedule.load_state_dict(saved)
        for name, layer in layers.items():
            layer.frozen = state["frozen"][name]
        self._losses.clear()
        for name in ("epoch", "step", "total", "samples", "stop", "patience_left", "best"):
            setattr(self, name, state[name])


def fit(
    model: Layer,
    data: Any,
    optimizer: Optimizer,
    *,
    epochs: int,
    loss: Loss = cross_entropy,
    validation: Any = None,
    metrics: dict[str, Metric] | None = None,
    patience: int | None = None,
    regularisers: Sequence[Any] = (),
    constraints: Sequence[Any] = (),
    accumulate: int = 1,
    loss_scale: float | str | None = None,
    callbacks: Sequence[Callable[[Run], None]] = (),
    checkpoint: str | os.PathLike[str] | None = None,
    checkpoint_every: int | None = None,
    progress: bool = True,
) -> History:
    """Trains a model until `epochs` are over or it no longer improves, and returns the history of its figures.

    data: gradfuse.data.Batches of (x, target). optimizer: of model.parameters(); it clips (max_grad_norm) and holds the
    schedules. loss: (prediction, target) -> (loss, gradient). validation: a pair (x, target), Batches or a list of
    pairs, for the figures named val_..., the metrics ({name: f(prediction, target)}; the accuracy where the loss is
    cross_entropy) among them. patience: so many epochs without a lower validation loss end the run, and the best
    weights are restored. regularisers (gradfuse.nn.L1, L2: f(model, scale of the loss)) run before each step,
    constraints (MaxNorm: f(model)) after it. accumulate: batches to a step.
    loss_scale: a number, or "dynamic", for half-precision models; the optimizer must skip steps that are not finite.
    callbacks: called with the Run after every epoch. A Plateau schedule is given the validation loss (or the loss).
    checkpoint: a file that is written after every epoch, and every checkpoint_every steps; where it exists, the run it
    is of goes on, and ends bit for bit where the uninterrupted one does; one that has stopped stays so. progress: a bar
    with the figures.
    Raises TypeError or ValueError for arguments that do not fit together, and for a checkpoint of another run.
    """
    check.parts(model, data, optimizer, loss)
    check.validation(validation, metrics, patience)
    check.functions(regularisers=regularisers, constraints=constraints, callbacks=callbacks)
    check.numbers(epochs, accumulate)
    check.optimizer(optimizer, constraints, loss_scale)
    check.checkpoint(checkpoint, checkpoint_every)
    if metrics is None:
        metrics = {"accuracy": accuracy} if loss is cross_entropy else {}
    run = Run(model, data, optimizer, loss, accumulate, loss_scale)
    check.plateaus(run.plateaus())
    run.figures = ["loss", *(f"val_{name}" for name in ("loss", *metrics) if validation is not None), "lr"]
    if checkpoint is not None and Path(checkpoint).exists():
        run.load_state_dict(checkpoints.load(checkpoint))

    def save() -> None:
        if checkpoint is not None:
            checkpoints.save(checkpoint, run.state_dict())

    with _bar(run, epochs, progress) as bar:
        while run.epoch < epochs and not run.stop:
            for _ in run.train_epoch(regularisers, constraints):
                bar.update()
                if checkpoint_every and run.step % checkpoint_every == 0:
                    save()
            figures = {"loss": run.end_epoch()}
            if validation is not None:
                measured = evaluate(model, validation, loss, metrics)
                figures |= {f"val_{name}": value for name, value in measured.items()}
            figures["lr"] = optimizer.lr
            run.history.add(figures)
            bar.set_postfix({name: f"{value:.4g}" for name, value in figures.items()})
            run.watch(figures, patience)
            for schedule in run.plateaus():
                schedule.update(figures.get("val_loss", figures["loss"]))
            for callback in callbacks:
                callback(run)
            save()
    if patience is not None and run.best is not None:
        model.load_state_dict(run.best["model"])
        optimizer.refresh_master_weights()
    return run.history


def steps_in(data: Batches, epochs: int, accumulate: int) -> int:
    """How many steps an optimizer takes. Raises as fit."""
    check.kind("data", data, Batches)
    check.numbers(epochs, accumulate)
    return sum(-(-data.length(epoch) // accumulate) for epoch in range(epochs))


def _bar(run: Run, epochs: int, progress: bool) -> Any:
    if not progress:
        return nullcontext(SimpleNamespace(update=lambda: None, set_postfix=lambda figures: None))
    tqdm = needed("fit: progress", "tqdm").tqdm
    return tqdm(total=steps_in(run.data, epochs, run.accumulate), initial=run.step, desc="training", unit="step")
