"""A gallery of activations: each function that gradfuse has, its derivative, and a check of the one against the other.

The figure has a panel for each. Look at the slopes: a product of them is what a gradient meets on its way back through
a deep net. Sigmoid's is never above 1/4; tanh's and sigmoid's vanish on both sides, ReLU's is 0 on one side and 1 on
the other. The derivatives are those of gradfuse's backward; central differences of the function must give the same.
"""

from pathlib import Path

import numpy as np
from common import figure_path
from matplotlib.figure import Figure

import gradfuse
from gradfuse.nn import Activation

H = 1e-5  # in float64: the differences' errors, H^2 and 1e-16 / H, are both about 1e-10
X = np.linspace(-8, 8, 1000)  # none of these is within H of a kink


def value_and_slope(name, x):
    """f(x), and f'(x) by backward: the gradient of f(x) where that of the result is 1."""
    f = Activation(name)
    return f(x), f.backward(np.ones_like(x))


def central_difference(name, x):
    f = Activation(name)
    return (f(x + H) - f(x - H)) / (2 * H)


def draw(path, curves):
    figure = Figure(figsize=(12, 6), layout="constrained")
    panels = figure.subplots(3, 6, sharex=True)
    for axes, (name, (y, slope)) in zip(panels.flat, curves.items(), strict=True):
        axes.axhline(0, color="gray", linewidth=0.5)
        axes.axvline(0, color="gray", linewidth=0.5)
        axes.plot(X, y, label="f")
        axes.plot(X, slope, "--", label="f'")
        axes.set(title=name, xlim=(-8, 8), ylim=(-2, 4))
    panels[0, 0].legend()
    figure.savefig(path, dpi=120)


def main(figure: Path) -> dict[str, float]:
    curves = {name: value_and_slope(name, X) for name in gradfuse.activations()}
    deviations = {}
    print(f"{'':14}{'slope at -8':>12}{'steepest':>10}{'at 8':>8}{'off central differences by':>28}")
    for name, (_, slope) in curves.items():
        deviations[name] = np.abs(slope - central_difference(name, X)).max()
        print(f"{name:14}{slope[0]:12.4f}{slope.max():10.4f}{slope[-1]:8.4f}{deviations[name]:28.1e}")
    draw(figure, curves)
    return deviations


if __name__ == "__main__":
    main(figure_path(__file__))
