"""Whole configurations for plain nets: the default one, the self-normalizing one, and two for special needs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from gradfuse import optim, schedules
from gradfuse._checks import choice, integer
from gradfuse.nn.activations import Activation
from gradfuse.nn.dropout import AlphaDropout, Dropout
from gradfuse.nn.layer import Layer
from gradfuse.nn.linear import Linear
from gradfuse.nn.normalization import BatchNorm
from gradfuse.nn.regularizers import L1, L2
from gradfuse.nn.sequential import Sequential

# How each optimizer is made of parameters and a 1cycle, and the cycle's peak unless told.
_OPTIMIZERS: dict[str, tuple[Callable[[Any, schedules.OneCycle], optim.Optimizer], float]] = {
    "nadam": (lambda p, cycle: optim.NAdam(p, lr=cycle), 2e-3),
    "rmsprop": (lambda p, cycle: optim.RMSprop(p, lr=cycle), 2e-3),
    "nesterov": (lambda p, cycle: optim.SGD(p, lr=cycle, momentum=cycle.momentum, nesterov=True), 0.05),
}

DEEP = 3  # hidden layers from which on batch norm is worth its cost


@dataclass
class Preset:
    """A model and how to train it: `preset.fit(data, epochs=...)`, or its parts in a loop of your own."""

    model: Sequential
    optimizer: str = "nadam"
    max_lr: float = 2e-3
    patience: int | None = 10
    regularisers: Sequence[Any] = field(default_factory=list)

    def make_optimizer(self, steps: int) -> optim.Optimizer:
        """The optimizer of the model's parameters, its rate 1cycle over so many steps.

        "nadam", "rmsprop" or "nesterov", whose momentum the cycle lowers as the rate rises. ValueError for another.
        """
        make, _ = _OPTIMIZERS[choice("Preset: optimizer", self.optimizer, *_OPTIMIZERS)]
        return make(self.model.parameters(), schedules.one_cycle(self.max_lr, steps))

    def fit(self, data: Any, *, epochs: int, **options: Any) -> Any:
        """Trains the model on gradfuse.data.Batches and returns the History; options as in gradfuse.training.fit.

        Where validation data is given, so many epochs without a lower validation loss as `patience` says end it.
        """
        from gradfuse.training.loop import fit, steps_in  # which import nn

        if options.get("validation") is not None:
            options.setdefault("patience", self.patience)
        options.setdefault("regularisers", self.regularisers)
        steps = max(1, steps_in(data, epochs, options.get("accumulate", 1)))
        return fit(self.model, data, self.make_optimizer(steps), epochs=epochs, **options)


def mlp(
    inputs: int,
    hidden: Sequence[int],
    outputs: int,
    *,
    activation: str = "elu",
    norm: bool | None = None,
    dropout: float = 0.0,
    l2: float = 0.0,
    optimizer: str = "nadam",
    max_lr: float | None = None,
    rng: int | None = None,
) -> Preset:
    """The default configuration: He's initialisation, ELU, batch norm if deep, early stopping, L2 if needed, 1cycle.

    hidden: the sizes of the hidden layers. norm: batch norm after each hidden map; unless told, from three on.
    optimizer: "nadam", "rmsprop" or "nesterov". max_lr: the cycle's peak, unless told 0.002 or, for Nesterov, 0.05.
    Raises ValueError for sizes below 1 and another optimizer.
    """
    sizes = _sizes("mlp", inputs, hidden, outputs)
    norm = len(hidden) >= DEEP if norm is None else norm
    layers: list[Layer] = []
    for n, m in pairwise(sizes[:-1]):
        layers.append(Linear(n, m, bias=not norm))
        layers += [BatchNorm(m)] if norm else []
        layers.append(Activation(activation))
        layers += [Dropout(dropout)] if dropout else []
    model = Sequential(*layers, Linear(sizes[-2], sizes[-1]), rng=rng)
    return _preset("mlp", model, optimizer, max_lr, [L2(l2)] if l2 else [])


def self_normalizing_mlp(
    inputs: int,
    hidden: Sequence[int],
    outputs: int,
    *,
    dropout: float = 0.0,
    optimizer: str = "nadam",
    max_lr: float | None = None,
    rng: int | None = None,
) -> Preset:
    """The self-normalizing configuration: LeCun's normal initialisation, SELU, no normalisation, alpha dropout, 1cycle.

    Inputs must be standardised (gradfuse.data.standardize). Otherwise as mlp. Source: Klambauer et al. 2017.
    """
    sizes = _sizes("self_normalizing_mlp", inputs, hidden, outputs)
    layers: list[Layer] = []
    for n, m in pairwise(sizes[:-1]):
        layers += [Linear(n, m), Activation("selu")]
        layers += [AlphaDropout(dropout)] if dropout else []
    return _preset(
        "self_normalizing_mlp", Sequential(*layers, Linear(sizes[-2], outputs), rng=rng), optimizer, max_lr, []
    )


def low_latency_mlp(
    inputs: int, hidden: Sequence[int], outputs: int, *, max_lr: float | None = None, rng: int | None = None
) -> Preset:
    """For fast predictions: leaky ReLU and batch norm, which `deploy` folds away. Arguments and errors as in mlp."""
    return mlp(inputs, hidden, outputs, activation="leaky_relu", norm=True, max_lr=max_lr, rng=rng)


def deploy(model: Sequential, dtype: Any = "float32") -> Sequential:
    """A copy for inference: batch norm folded into the maps, dropout off, arrays of dtype. TypeError for no dtype."""
    return model.fold().astype(dtype)


def sparse_mlp(
    inputs: int,
    hidden: Sequence[int],
    outputs: int,
    *,
    l1: float = 1e-4,
    max_lr: float | None = None,
    rng: int | None = None,
) -> Preset:
    """For small models: L1 in training; afterwards prune(model, threshold) sets small weights to 0 and says how many.

    Arguments and errors as in mlp; ValueError for a negative l1.
    """
    preset = mlp(inputs, hidden, outputs, max_lr=max_lr, rng=rng)
    preset.regularisers = [L1(l1)]
    return preset


def _sizes(function: str, inputs: int, hidden: Sequence[int], outputs: int) -> list[int]:
    return [integer(f"{function}: sizes", size, least=1) for size in (inputs, *hidden, outputs)]


def _preset(function: str, model: Sequential, optimizer: str, max_lr: float | None, regularisers: list[Any]) -> Preset:
    _, peak = _OPTIMIZERS[choice(f"{function}: optimizer", optimizer, *_OPTIMIZERS)]
    return Preset(model, optimizer, peak if max_lr is None else max_lr, regularisers=regularisers)
