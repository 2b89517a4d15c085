"""1cycle: a rate that rises to a peak and falls to nothing, and a momentum that does the opposite, over one run.

The same net learns the handwritten digits in ten epochs, at a constant rate and by a 1cycle that peaks at that rate.
The figure shows the schedule, the losses by epoch at a rate of 0.1, and the validation loss at the end for each rate:
means of five seeds. The cycle bears rates that are too high for a constant, and ends lower for it: large steps in
the middle go far, small ones at the end settle. Source: Smith and Topin 2018.
"""

from pathlib import Path

import numpy as np
from common import digits, figure_path
from matplotlib.figure import Figure
from tqdm import tqdm

from gradfuse.data import Batches
from gradfuse.nn import Linear, ReLU, Sequential
from gradfuse.optim import SGD
from gradfuse.schedules import one_cycle
from gradfuse.training import fit

EPOCHS, SEEDS, RATES, SHOWN = 10, range(5), (0.0125, 0.025, 0.05, 0.1, 0.2), 0.1


def constant(rate, steps):
    return {"lr": rate, "momentum": 0.9}


def cycle(rate, steps):
    schedule = one_cycle(rate, steps)
    return {"lr": schedule, "momentum": schedule.momentum}


def train(schedule, rate, seed):
    """Training and validation loss of every epoch."""
    training, validation = digits(0.8, 0.2, seed=seed)
    batches = Batches(*training, seed=seed)
    net = Sequential(Linear(64, 100), ReLU(), Linear(100, 100), ReLU(), Linear(100, 10), rng=seed)
    optimizer = SGD(net.parameters(), **schedule(rate, EPOCHS * len(batches)))
    history = fit(net, batches, optimizer, epochs=EPOCHS, validation=validation, progress=False)
    return history["loss"], history["val_loss"]


def draw(path, losses):
    """losses: {schedule: (rates, training or validation, epochs)}."""
    figure = Figure(figsize=(12, 4.5), layout="constrained")
    panels = figure.subplot_mosaic([["rate", "by epoch", "by rate"], ["momentum", "by epoch", "by rate"]])
    schedule, steps = one_cycle(SHOWN, 450), range(450)
    panels["rate"].plot(steps, [schedule(step) for step in steps])
    panels["momentum"].plot(steps, [schedule.momentum(step) for step in steps])
    panels["rate"].set(title="1cycle", ylabel="rate")
    panels["momentum"].set(xlabel="step", ylabel="momentum")
    epochs = range(1, EPOCHS + 1)
    for color, (name, loss) in zip(("tab:orange", "tab:blue"), losses.items(), strict=True):
        training, validation = loss[RATES.index(SHOWN)]
        panels["by epoch"].semilogy(epochs, training, "--", color=color, label=f"{name}, training")
        panels["by epoch"].semilogy(epochs, validation, color=color, label=f"{name}, validation")
        panels["by rate"].loglog(RATES, loss[:, 1, -1], "o-", color=color, label=name)
    panels["by epoch"].set(title=f"loss at a rate of {SHOWN}", xlabel="epoch")
    panels["by rate"].set(title="validation loss at the end", xlabel="rate, or its peak")
    panels["by rate"].minorticks_off()
    panels["by rate"].set_xticks(RATES, RATES)
    for axes in panels["by epoch"], panels["by rate"]:
        axes.legend()
        axes.grid(alpha=0.3)
    figure.savefig(path, dpi=120)


def main(figure: Path) -> dict[str, float]:
    losses = {}
    with tqdm(total=2 * len(RATES) * len(SEEDS), desc="runs") as bar:
        for name, schedule in (("constant", constant), ("1cycle", cycle)):
            losses[name] = np.empty((len(RATES), 2, EPOCHS))
            for i, rate in enumerate(RATES):
                runs = []
                for seed in SEEDS:
                    runs.append(train(schedule, rate, seed))
                    bar.update()
                losses[name][i] = np.mean(runs, axis=0)

    print(f"validation loss after {EPOCHS} epochs")
    print(f"{'rate, or its peak':20}" + "".join(f"{name:>12}" for name in losses))
    for i, rate in enumerate(RATES):
        print(f"{rate:<20}" + "".join(f"{loss[i, 1, -1]:12.3f}" for loss in losses.values()))
    draw(figure, losses)
    best = {f"{name}, best rate": loss[:, 1, -1].min() for name, loss in losses.items()}
    return best | {f"{name}, highest rate": loss[-1, 1, -1] for name, loss in losses.items()}


if __name__ == "__main__":
    main(figure_path(__file__))
