"""What the diagnoses share: the form of a report, a model to try things on, and a figure to draw in."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np

from gradfuse._arrays import Array
from gradfuse._optional import needed
from gradfuse._parameter import Parameter
from gradfuse.nn.dropout import Dropout
from gradfuse.nn.layer import Layer
from gradfuse.nn.losses import Loss
from gradfuse.optim import Optimizer

Model = TypeVar("Model", bound=Layer)


class Report:
    """What a diagnosis found: its figures, `verdict()` in words, which str() gives, and `ok`, which bool() gives."""

    @property
    def ok(self) -> bool:
        """Whether all is as it should be."""
        raise NotImplementedError

    def verdict(self) -> str:
        """What the figures mean, in a sentence or two."""
        raise NotImplementedError

    def __bool__(self) -> bool:
        return self.ok

    def __str__(self) -> str:
        return self.verdict()


def twin(model: Model, *, dropout: bool = True) -> Model:
    """A copy of a model to train in its place: without gradients, its random streams in the same states."""
    copied = copy.deepcopy(model).train()
    copied.zero_grad()
    for _, layer in copied.layers():
        if isinstance(layer, Dropout) and not dropout:
            layer.p = 0.0
    return copied


def learned(model: Layer) -> dict[str, Parameter]:
    """The parameters that are not frozen, by name."""
    frozen = {id(p) for _, layer in model.layers() if layer.frozen for p in layer.own_parameters().values()}
    return {name: p for name, p in model.named_parameters() if id(p) not in frozen}


def optimizer_of(model: Layer, where: str, make_optimizer: Any) -> Optimizer:
    """What make_optimizer makes of the model's parameters."""
    if not callable(make_optimizer):
        wanted = "a function of the parameters, such as gradfuse.optim.Adam"
        raise TypeError(f"{where}: make_optimizer must be {wanted}, got {type(make_optimizer).__name__}")
    optimizer: Optimizer = make_optimizer(model.parameters())
    return optimizer


def train_step(model: Layer, optimizer: Optimizer, loss: Loss, x: Array, target: Any) -> float:
    """One step on a batch, unless the loss before it, which is returned, is not finite."""
    with np.errstate(over="ignore", invalid="ignore"):
        value, grad = loss(model.forward(x), target)
        if math.isfinite(value):
            model.backward(grad, input_grad=False)
            optimizer.step()
            model.zero_grad()
    return float(value)


def few(parts: Sequence[str]) -> str:
    """The first three of them, and how many more there are."""
    return ", ".join(parts[:3]) + (f" and {len(parts) - 3} more" if len(parts) > 3 else "")


def new_figure(where: str, **options: Any) -> Any:
    """An empty matplotlib Figure. Raises ImportError where matplotlib is missing."""
    return needed(where, "matplotlib.figure").Figure(layout="constrained", **options)
