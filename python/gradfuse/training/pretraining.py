"""Transfer and pre-training: what a net has learned elsewhere, or without labels, as the start of another."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from gradfuse import optim
from gradfuse._arrays import Array, namespace
from gradfuse._checks import BELOW_ONE, integer, number
from gradfuse.data import Batches
from gradfuse.nn.layer import Layer, modes_kept
from gradfuse.nn.linear import Linear
from gradfuse.nn.losses import mse_loss
from gradfuse.nn.sequential import Sequential
from gradfuse.training.history import History
from gradfuse.training.loop import fit

MakeOptimizer = Callable[[list[Any]], optim.Optimizer]


def transfer(source: Layer, target: Layer, *, where: Callable[[str], bool] | None = None) -> list[str]:
    """Copies the parameters and buffers that two models share by name, shape and dtype; returns their names.

    where: says of a name whether it may be taken. Nothing else of the target changes. For auxiliary tasks, and for the
    lower layers of a net that was trained on more data.
    """
    state, mine = source.state_dict(), target.state_dict()
    shared = {
        name: array
        for name, array in state.items()
        if name in mine
        and tuple(array.shape) == tuple(mine[name].shape)
        and array.dtype == mine[name].dtype
        and (where is None or where(name))
    }
    return target.load_state_dict(shared, strict=False)


def groups(layers: Sequence[tuple[Layer, dict[str, Any]]]) -> list[dict[str, Any]]:
    """Parameter groups for an optimizer, one for each (layer, its hyper-parameters), for example a lower rate below.

    Raises ValueError where a parameter is in two of them, or a layer has none.
    """
    seen: set[int] = set()
    made = []
    for i, (layer, hypers) in enumerate(layers):
        parameters = layer.parameters()
        if not parameters:
            raise ValueError(f"groups: layers[{i}] must have parameters, got {layer!r}")
        if seen & {id(p) for p in parameters}:
            raise ValueError(f"groups: layers[{i}] must share no parameter with those before, got one that does")
        seen |= {id(p) for p in parameters}
        made.append({"params": parameters, **hypers})
    return made


def pretrain_layers(
    model: Sequential,
    x: Array,
    *,
    epochs: int,
    noise: float = 0.0,
    make_optimizer: MakeOptimizer = optim.Adam,
    batch_size: int = 32,
    seed: int = 0,
    progress: bool = True,
) -> list[History]:
    """Greedy layer-wise pre-training: every Linear but the last learns to encode its input, one after the other.

    A block is a Linear and what follows it up to the next one. With a linear decoder on top it is trained to give back
    what the blocks below make of x (N, features), of which in training a share `noise` is set to 0 (a denoising
    autoencoder); the decoder is then thrown away. The model's weights are changed in place. make_optimizer: from the
    parameters of block and decoder. Returns the history of each block.
    Raises ValueError for a model without two Linear layers, or a noise outside [0, 1).
    Source: Hinton, Osindero and Teh 2006; Bengio et al. 2007; denoising: Vincent et al. 2008.
    """
    if not isinstance(model, Sequential):
        raise TypeError(f"pretrain_layers: model must be a Sequential, got {type(model).__name__}")
    seed = integer("pretrain_layers: seed", seed)
    starts = [i for i, layer in enumerate(model) if isinstance(layer, Linear)]
    if len(starts) < 2:
        raise ValueError(f"pretrain_layers: model must have at least two Linear layers, got {len(starts)}")
    number("pretrain_layers: noise", noise, BELOW_ONE)

    def corrupted(x: Array, target: Array, *, rng: np.random.Generator) -> tuple[Array, Array]:
        return x * namespace(x).asarray(rng.random(x.shape) >= noise), target

    histories = []
    with modes_kept(model):
        x = _outputs(list(model)[: starts[0]], x)
        for k, (first, end) in enumerate(pairwise(starts)):
            block = list(model)[first:end]
            n, m = model[first].own_parameters()["weight"].shape
            decoder = Linear(m, n, dtype=x.dtype, rng=np.random.default_rng([seed, k])).to(namespace(x))
            autoencoder = Sequential(*block, decoder, reset=False)
            data = Batches(x, x, batch_size=batch_size, seed=seed, transform=corrupted if noise else None)
            optimizer = make_optimizer(autoencoder.parameters())
            histories.append(
                fit(autoencoder, data, optimizer, epochs=epochs, loss=mse_loss, metrics={}, progress=progress)
            )
            x = _outputs(block, x)
    return histories


def _outputs(block: Sequence[Layer], x: Array) -> Array:
    for layer in block:
        x = layer.eval().forward(x)
    return x
