"""What fit refuses, before it has changed anything."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gradfuse._checks import integer
from gradfuse.data import Batches
from gradfuse.nn.layer import Layer
from gradfuse.optim import Optimizer
from gradfuse.schedules import Plateau
from gradfuse.training.scaling import LossScale


def kind(name: str, given: Any, wanted: type) -> None:
    if not isinstance(given, wanted):
        public = f"gradfuse.{wanted.__module__.split('.')[1]}.{wanted.__name__}"
        raise TypeError(f"fit: {name} must be a {public}, got {type(given).__name__}")


def parts(model: Any, data: Any, optimizer: Any, loss: Any) -> None:
    kind("model", model, Layer)
    kind("data", data, Batches)
    kind("optimizer", optimizer, Optimizer)
    if data.transform is None and len(data.arrays) != 2:
        raise ValueError(f"fit: data must be batches of (x, target), got of {len(data.arrays)} arrays")
    if not callable(loss):
        raise TypeError(f"fit: loss must be a function (prediction, target) -> (loss, gradient), got {loss!r}")
    learned = {id(p) for p in optimizer.params}
    if not any(id(p) in learned for p in model.parameters()):
        raise ValueError("fit: optimizer must have been given parameters of the model, got one of others")


def validation(given: Any, metrics: Any, patience: Any) -> None:
    if metrics is not None and (
        not isinstance(metrics, dict) or not all(map(callable, metrics.values())) or "loss" in metrics
    ):
        raise TypeError(f"fit: metrics must be functions by name, none of them named loss, got {metrics!r}")
    if patience is not None:
        integer("fit: patience", patience, least=1)
    if given is None:
        if metrics:
            raise ValueError("fit: validation must be given where metrics are, got none")
        if patience is not None:
            raise ValueError("fit: validation must be given where patience is, got none")
    elif not isinstance(given, (tuple, list, Batches)):
        wanted = "a pair (x, target), gradfuse.data.Batches or a list of pairs"
        raise TypeError(f"fit: validation must be {wanted}, got {type(given).__name__}")
    for pair in given if isinstance(given, list) else ():
        if not isinstance(pair, (tuple, list)) or len(pair) != 2:
            raise TypeError(f"fit: validation must be a list of pairs (x, target), got one of {type(pair).__name__}")


def functions(**lists: Any) -> None:
    for name, given in lists.items():
        if not isinstance(given, (tuple, list)) or not all(map(callable, given)):
            raise TypeError(f"fit: {name} must be a list of functions, got {given!r}")


def numbers(epochs: Any, accumulate: Any) -> None:
    integer("fit: epochs", epochs)
    integer("fit: accumulate", accumulate, least=1)


def optimizer(given: Optimizer, constraints: Sequence[Any], loss_scale: Any) -> None:
    if constraints and given.master_weights:
        raise ValueError(
            "fit: constraints must be none where the optimizer keeps master_weights, for those stay as they are"
        )
    LossScale(loss_scale)  # which checks it
    if loss_scale is not None and given.nonfinite != "skip":
        raise ValueError(f"fit: loss_scale needs an optimizer made with nonfinite='skip', got {given.nonfinite!r}")


def plateaus(given: Sequence[Plateau]) -> None:
    for plateau in given:
        if plateau.mode != "min":
            raise ValueError(f"fit: a Plateau must have mode='min', for it is told a loss, got {plateau.mode!r}")


def checkpoint(path: Any, every: Any) -> None:
    if every is not None:
        integer("fit: checkpoint_every", every, least=1)
    if path is None:
        if every is not None:
            raise ValueError("fit: checkpoint must be given where checkpoint_every is, got none")
    elif not isinstance(path, (str, os.PathLike)):
        raise TypeError(f"fit: checkpoint must be a path, got {path!r}")
    elif Path(path).is_dir() or not Path(path).absolute().parent.is_dir():
        raise ValueError(f"fit: checkpoint must be a file in a folder that exists, got {os.fspath(path)!r}")
