"""All optimizers on three tasks: a net that reads digits, and two surfaces on which one can watch them walk.

Each has a learning rate of its own, that of a grid at which it ends lowest: no rate suits them all. Rosenbrock's valley
is steep across and nearly level along: plain SGD has to be slow enough for the walls and creeps along the floor, where
momentum picks up speed. The steps of the others do not grow with the slope, so they neither shoot over Beale's steep
edge nor stay on its plain; those of Adagrad only ever shrink. AdamW ends off Beale's minimum: its decay pulls it
towards 0.
"""

from functools import partial
from pathlib import Path

import numpy as np
from common import digits, figure_path
from matplotlib.figure import Figure
from tqdm import tqdm

from gradfuse import optim
from gradfuse.data import Batches
from gradfuse.nn import Linear, ReLU, Sequential
from gradfuse.training import fit

EPOCHS, STEPS = 10, 500
RATES = (1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1)

OPTIMIZERS = {
    "SGD": optim.SGD,
    "momentum": partial(optim.SGD, momentum=0.9),
    "Nesterov": partial(optim.SGD, momentum=0.9, nesterov=True),
    **{name: getattr(optim, name) for name in optim.__all__ if name not in ("Optimizer", "SGD")},
}


def rosenbrock(x, y):
    """(1 - x)^2 + 100 (y - x^2)^2 and its gradient; the minimum is 0 at (1, 1)."""
    a, b = 1 - x, y - x**2
    return a**2 + 100 * b**2, (-2 * a - 400 * x * b, 200 * b)


def beale(x, y):
    """The sum over k of (c_k - x + x y^k)^2 and its gradient; the minimum is 0 at (3, 1/2)."""
    terms = [(k, c - x + x * y**k) for k, c in ((1, 1.5), (2, 2.25), (3, 2.625))]
    dx = sum(2 * r * (y**k - 1) for k, r in terms)
    dy = sum(2 * r * k * x * y ** (k - 1) for k, r in terms)
    return sum(r**2 for _, r in terms), (dx, dy)


SURFACES = {  # function, start, minimum, and what the figure shows of x and y
    "Rosenbrock": (rosenbrock, (-0.5, 2.5), (1.0, 1.0), ((-2.0, 2.0), (-1.0, 3.0))),
    "Beale": (beale, (1.0, 1.5), (3.0, 0.5), ((-0.5, 4.0), (-2.5, 2.0))),
}


def descend(surface, start, optimizer, rate):
    """The value of the last point, infinite where the path led away, and all points."""
    point = np.array(start)
    step, path = optimizer([point], lr=rate).step, [point.copy()]
    with np.errstate(over="ignore", invalid="ignore"):
        for _ in range(STEPS):
            step([np.array(surface(*point)[1])])
            path.append(point.copy())
        value = surface(*point)[0]
    return (value if np.isfinite(value) else np.inf), np.array(path)


def learn(optimizer, rate):
    """The last training loss, infinite where it is none, and that of every epoch."""
    net = Sequential(Linear(64, 100), ReLU(), Linear(100, 100), ReLU(), Linear(100, 10), rng=0)
    batches = Batches(*digits())
    with np.errstate(over="ignore", invalid="ignore"):
        losses = fit(net, batches, optimizer(net.parameters(), lr=rate), epochs=EPOCHS, progress=False)["loss"]
    return (losses[-1] if np.isfinite(losses[-1]) else np.inf), losses


def draw(path, results):
    """results: {task: {optimizer: (value at the end, losses or path, rate)}}."""
    figure = Figure(figsize=(12, 4.8), layout="constrained")
    panels = dict(zip(results, figure.subplots(1, len(results)), strict=True))
    for name, (_, losses, _) in results["digits"].items():
        panels["digits"].semilogy(range(1, EPOCHS + 1), losses, label=name)
    panels["digits"].set(title="digits", xlabel="epoch", ylabel="training loss")
    for task, (surface, start, minimum, limits) in SURFACES.items():
        axes = panels[task]
        x, y = np.meshgrid(*(np.linspace(*each, 300) for each in limits))
        levels = 10 ** np.arange(-2, 4, 0.5)
        axes.contour(x, y, surface(x, y)[0], levels, colors="gray", linewidths=0.5)
        for _, points, _ in results[task].values():
            axes.plot(*points.T, "o-", markevery=[-1], linewidth=1)
        axes.plot(*start, "ko")
        axes.plot(*minimum, "k*", markersize=10)
        axes.set(title=f"{task}, {STEPS} steps", xlim=limits[0], ylim=limits[1])
    figure.legend(loc="outside lower center", ncols=len(OPTIMIZERS))
    figure.savefig(path, dpi=120)


def main(figure: Path) -> dict[str, float]:
    tasks = {"digits": learn} | {name: partial(descend, *surface[:2]) for name, surface in SURFACES.items()}
    results = {task: {} for task in tasks}
    for name, optimizer in (bar := tqdm(OPTIMIZERS.items())):
        bar.set_description(name)
        for task, run in tasks.items():
            runs = [(*run(optimizer, rate), rate) for rate in RATES]
            results[task][name] = min(runs, key=lambda each: each[0])

    print("value at the end, and the rate")
    print(f"{'':10}" + "".join(f"{task:>20}" for task in tasks))
    for name in OPTIMIZERS:
        ends = [results[task][name] for task in tasks]
        print(f"{name:10}" + "".join(f"{value:12.1e}{rate:8}" for value, _, rate in ends))
    draw(figure, results)
    return {f"{task}, {name}": value for task, ends in results.items() for name, (value, _, _) in ends.items()}


if __name__ == "__main__":
    main(figure_path(__file__))
