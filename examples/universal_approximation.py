"""Six ReLUs that follow a sine: what the theorem of universal approximation promises, built by hand.

A sum of relu(x - x_i), each with a factor of its own, is a piecewise linear function whose kinks are the x_i. The one
through the points (x_i, f(x_i)) needs no training: the factors are the changes of slope. Between points h apart it
misses f by at most h^2 / 8 max|f''|: six units miss a sine over [0, 2 pi] by at most 0.137, and twice as many by a
quarter of that. Training moves the kinks and lets the lines float, which about halves the error. From random kinks the
same six units often end worse: the theorem says that good weights exist, not that gradients lead to them.
"""

from pathlib import Path

import numpy as np
from common import figure_path
from matplotlib.figure import Figure
from tqdm import tqdm

from gradfuse.nn import Linear, ReLU, Sequential, mse_loss
from gradfuse.optim import Adam
from gradfuse.schedules import cosine

END, UNITS, STEPS, SEEDS = 2 * np.pi, 6, 3000, range(8)
X = np.linspace(0, END, 1001, dtype=np.float32)[:, None]
Y = np.sin(X)


def bound(units):
    """h^2 / 8 max|f''| for a sine."""
    return (END / units) ** 2 / 8


def by_hand(units):
    """f(x_0) + sum of (slope after x_i - slope before x_i) relu(x - x_i), the x_i equally spaced."""
    points = np.linspace(0, END, units + 1)
    slopes = np.diff(np.sin(points)) / np.diff(points)
    net = Sequential(Linear(1, units), ReLU(), Linear(units, 1))
    net[0].weight.data[:] = 1
    net[0].bias.data[:] = -points[:-1]
    net[2].weight.data[:, 0] = np.diff(slopes, prepend=0)
    net[2].bias.data[:] = np.sin(points[0])
    return net


def at_random(units, seed):
    """He's weights, and kinks anywhere."""
    net = Sequential(Linear(1, units), ReLU(), Linear(units, 1), rng=seed)
    net[0].bias.data[:] = -net[0].weight.data[0] * np.random.default_rng(seed).uniform(0, END, units)
    return net


def train(net):
    """Least squares, all points at once."""
    optimizer = Adam(net.parameters(), lr=cosine(0.02, STEPS))
    for _ in range(STEPS):
        _, grad = mse_loss(net(X), Y)
        net.zero_grad()
        net.backward(grad, input_grad=False)
        optimizer.step()
    return net


def error(net):
    return float(np.abs(net(X) - Y).max())


def draw(path, hand, trained, random_errors):
    figure = Figure(figsize=(12, 4.5), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    left.plot(X, Y, "k:", label="sine")
    for name, net in {"by hand": hand, "trained from there": trained}.items():
        left.plot(X, net(X), label=name)
        middle.plot(X, net(X) - Y, label=name)
    middle.axhline(bound(UNITS), color="gray", linestyle=":", label="bound")
    middle.axhline(-bound(UNITS), color="gray", linestyle=":")
    left.set(title="six ReLUs", xlabel="x")
    middle.set(title="deviation from the sine", xlabel="x", ylim=(-0.2, 0.25))
    units = (2, 4, UNITS, 8, 16, 32, 64)
    right.loglog(units, [error(by_hand(n)) for n in units], "o-", label="by hand")
    right.loglog(units, [bound(n) for n in units], ":", color="gray", label="bound")
    right.loglog(UNITS, error(trained), "s", color="tab:orange", label="trained from there")
    right.loglog([UNITS] * len(random_errors), random_errors, "x", color="tab:red", label="from random kinks")
    right.set(title="largest deviation", xlabel="units")
    right.minorticks_off()
    right.set_xticks(units, units)
    for axes in left, middle, right:
        axes.legend()
    figure.savefig(path, dpi=120)


def main(figure: Path) -> dict[str, float]:
    hand, trained = by_hand(UNITS), train(by_hand(UNITS))
    random_errors = [error(train(at_random(UNITS, seed))) for seed in tqdm(SEEDS, desc="from random kinks")]
    numbers = {
        "bound": bound(UNITS),
        "by hand": error(hand),
        "trained from there": error(trained),
        "from random kinks, best": min(random_errors),
        "from random kinks, worst": max(random_errors),
    }
    print("largest deviation of six ReLUs from a sine")
    for name, value in numbers.items():
        print(f"  {name:26}{value:.3f}")
    draw(figure, hand, trained, random_errors)
    return numbers


if __name__ == "__main__":
    main(figure_path(__file__))
