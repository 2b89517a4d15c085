"""Vanishing and exploding gradients: what twenty layers make of a signal, by initialiser and activation.

Numbers of variance 1 go into twenty layers of 256 units, and a gradient of variance 1 comes back from the top. On its
way back it is multiplied, at every layer, by the weights and by the slope of the activation. Where these together make
it smaller on average it vanishes, and the first layers do not learn; where they make it larger it explodes. The figure
follows the standard deviations, activations forwards and gradients backwards, from layer to layer.
"""

from pathlib import Path

import numpy as np
from common import figure_path
from matplotlib.figure import Figure

from gradfuse.init import glorot, he, lecun, normal
from gradfuse.nn import SELU, Linear, ReLU, Sequential, Sigmoid, Tanh

DEPTH, WIDTH, BATCH = 20, 256, 256

NETS = {
    "small random, tanh": (normal(0.01), Tanh),
    "large random, tanh": (normal(0.5), Tanh),
    "large random, ReLU": (normal(0.5), ReLU),
    "Glorot, sigmoid": (glorot(), Sigmoid),
    "Glorot, tanh": (glorot(), Tanh),
    "Glorot, ReLU": (glorot(), ReLU),
    "He, ReLU": (he(), ReLU),
    "LeCun, SELU": (lecun(), SELU),
}


def spread(init, activation, seed=0):
    """Standard deviations of each layer's activations, and of the loss's gradient with respect to these."""
    rng = np.random.default_rng(seed)
    layers = [Sequential(Linear(WIDTH, WIDTH, init=init, rng=rng), activation()) for _ in range(DEPTH)]
    x, grad = rng.standard_normal((2, BATCH, WIDTH), dtype=np.float32)
    activations, gradients = [], []
    for layer in layers:
        x = layer(x)
        activations.append(x.std())
    for layer in reversed(layers):
        gradients.append(grad.std())
        grad = layer.backward(grad)
    return np.array(activations), np.array(gradients[::-1])


def draw(path, spreads):
    figure = Figure(figsize=(12, 6), layout="constrained")
    panels = figure.subplots(1, 2)
    for name, curves in spreads.items():
        for axes, curve in zip(panels, curves, strict=True):
            axes.semilogy(range(1, DEPTH + 1), curve, ".-", label=name)
    for axes, name in zip(panels, ("activations, forwards", "gradients, backwards"), strict=True):
        axes.set(title=f"standard deviation of the {name}", xlabel="layer", xticks=range(2, DEPTH + 1, 2))
        axes.grid(alpha=0.3)
    panels[0].legend(loc="upper left")
    figure.savefig(path, dpi=120)


def main(figure: Path) -> dict[str, float]:
    spreads = {name: spread(*net) for name, net in NETS.items()}
    ratios = {name: float(gradients[0] / gradients[-1]) for name, (_, gradients) in spreads.items()}
    print(f"{'':20}{'activations of layer 20':>24}{'gradient at layer 1 / at layer 20':>36}")
    for name, (activations, _) in spreads.items():
        print(f"{name:20}{activations[-1]:24.1e}{ratios[name]:36.1e}")
    draw(figure, spreads)
    return ratios


if __name__ == "__main__":
    main(figure_path(__file__))
