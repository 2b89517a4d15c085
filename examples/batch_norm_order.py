"""Batch norm before the activation or after it: the same net of six layers on handwritten digits, three ways.

Its inventors put batch norm before the activation, many put it behind; nets without it are the third way. The figure
shows loss and accuracy by epoch, the mean of five seeds and the range from the worst to the best. With either order
the net starts faster than without, and the two end alike. Six layers of sigmoids learn nothing at all without batch
norm, and start fastest with it behind them: there it centres and widens what a sigmoid hands on, which is never
negative and never far from 1/2.
"""

from itertools import product
from pathlib import Path

import numpy as np
from common import digits, figure_path
from matplotlib.figure import Figure
from tqdm import tqdm

from gradfuse.data import Batches
from gradfuse.nn import BatchNorm, Linear, ReLU, Sequential, Sigmoid
from gradfuse.optim import SGD
from gradfuse.training import fit

SEEDS, EPOCHS, EARLY = range(5), 15, 3

ACTIVATIONS = {"ReLU": ReLU, "sigmoid": Sigmoid}
ORDERS = {
    "without": lambda activation: [Linear(64, 64), activation()],
    "before": lambda activation: [Linear(64, 64, bias=False), BatchNorm(64), activation()],  # it has a bias itself
    "after": lambda activation: [Linear(64, 64), activation(), BatchNorm(64)],
}


def train(activation, order, seed):
    """The history of a net of six layers of 64 units, trained on four fifths of the digits."""
    training, validation = digits(0.8, 0.2, seed=seed)
    layers = [layer for _ in range(6) for layer in ORDERS[order](ACTIVATIONS[activation])]
    net = Sequential(*layers, Linear(64, 10), rng=seed)
    optimizer = SGD(net.parameters(), lr=0.1)
    batches = Batches(*training, seed=seed)
    return fit(net, batches, optimizer, epochs=EPOCHS, validation=validation, progress=False)


def draw(path, curves):
    """curves: {(activation, order): (figures, seeds, epochs)}, the figures being loss and accuracy."""
    figure = Figure(figsize=(12, 6), layout="constrained")
    panels = figure.subplots(2, 2, sharex=True)
    epochs = range(1, EPOCHS + 1)
    for (activation, order), both in curves.items():
        column = panels[:, list(ACTIVATIONS).index(activation)]
        for axes, values in zip(column, both, strict=True):
            (line,) = axes.plot(epochs, values.mean(axis=0), label=order)
            axes.fill_between(epochs, values.min(axis=0), values.max(axis=0), color=line.get_color(), alpha=0.2)
        column[0].set(title=activation, ylabel="training loss", yscale="log")
        column[1].set(xlabel="epoch", ylabel="validation accuracy", ylim=(0, 1.02))
    panels[0, 0].legend(title="batch norm")
    figure.savefig(path, dpi=120)


def main(figure: Path) -> dict[str, float]:
    curves, numbers = {}, {}
    for activation, order in (bar := tqdm(list(product(ACTIVATIONS, ORDERS)), desc="nets")):
        bar.set_postfix_str(f"{activation}, {order}")
        histories = [train(activation, order, seed) for seed in SEEDS]
        curves[activation, order] = np.array([[h[name] for h in histories] for name in ("loss", "val_accuracy")])

    print(f"{'batch norm':20}{f'loss after {EARLY} epochs':>20}{f'accuracy after {EPOCHS}':>20}")
    for (activation, order), (loss, accuracy) in curves.items():
        name = f"{activation}, {order}"
        numbers[f"{name}: loss"] = loss[:, EARLY - 1].mean()
        numbers[f"{name}: accuracy"] = accuracy[:, -1].mean()
        print(f"{name:20}{numbers[f'{name}: loss']:20.3f}{numbers[f'{name}: accuracy']:20.1%}")
    draw(figure, curves)
    return numbers


if __name__ == "__main__":
    main(figure_path(__file__))
