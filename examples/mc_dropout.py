"""Monte Carlo dropout: a net that says how sure it is, and what that is worth.

With dropout left on, every prediction is another; their spread is the uncertainty. On the left a regression: beyond
its data the band of two deviations opens, but in the gap between them it hardly does. It follows how far the active
units vary, not how far the data are, and is no guarantee. In the middle a net that has seen the digits 0 to 7 reads
others like them, and then 8 and 9, of which it has never heard: it is unsure of these, and of those that it misreads.
On the right the digits of which it is least sure are refused: of the rest ever fewer are misread.
Source: Gal and Ghahramani 2016.
"""

from pathlib import Path

import numpy as np
from common import digits, figure_path
from matplotlib.figure import Figure
from sklearn.metrics import roc_auc_score

import gradfuse
from gradfuse.data import Batches, split
from gradfuse.nn import Dropout, Linear, ReLU, Sequential, monte_carlo, mse_loss
from gradfuse.optim import Adam
from gradfuse.training import fit

SEED = 0


def new_net(inputs, outputs, dropout):
    hidden1 = Linear(inputs, 100), ReLU(), Dropout(dropout)
    hidden2 = Linear(100, 100), ReLU(), Dropout(dropout)
    return Sequential(*hidden1, *hidden2, Linear(100, outputs), rng=SEED)


# -- a regression whose data have a gap


def samples():
    """sin(2x) with a little noise, at 1 < |x| < 3."""
    rng = np.random.default_rng(SEED)
    x = rng.uniform(1, 3, (200, 1)) * rng.choice((-1, 1), (200, 1))
    return np.float32(x), np.float32(np.sin(2 * x) + 0.1 * rng.standard_normal(x.shape))


def regression(x, y, grid):
    """Mean and standard deviation of the predictions at the grid's points."""
    net = new_net(1, 1, dropout=0.05)
    kinks = np.random.default_rng(SEED).uniform(-4, 4, 100)
    net[0].bias.data[:] = -kinks * net[0].weight.data[0]  # with biases of 0 all kinks would begin at x = 0
    fit(net, Batches(x, y, seed=SEED), Adam(net.parameters(), lr=3e-3), epochs=200, loss=mse_loss, progress=False)
    mean, std = monte_carlo(net, np.float32(grid[:, None]), 200)
    return mean[:, 0], std[:, 0]


# -- digits, and digits of kinds that were never seen


def classification():
    """Of every digit that was held out: whether its kind was seen in training, whether it is read rightly, and the
    standard deviation of the probability of what was read."""
    x, t = digits()
    seen = t < 8
    training, test = split(x[seen], t[seen], fractions=(0.25, 0.75), stratify=t[seen], seed=SEED)
    net = new_net(64, 8, dropout=0.3)
    fit(net, Batches(*training, seed=SEED), Adam(net.parameters(), lr=3e-3), epochs=50, progress=False)

    x, t = (np.concatenate([held_out, unseen]) for held_out, unseen in zip(test, (x[~seen], t[~seen]), strict=True))
    mean, std = monte_carlo(net, x, 100, transform=gradfuse.softmax)
    read = mean.argmax(axis=1)
    return t < 8, read == t, std[np.arange(len(read)), read]


def draw_regression(axes, x, y, grid, mean, std):
    axes.plot(x, y, ".", color="gray", markersize=3, label="data")
    axes.plot(grid, np.sin(2 * grid), "k:", label="sin 2x")
    axes.plot(grid, mean, label="mean")
    axes.fill_between(grid, mean - 2 * std, mean + 2 * std, alpha=0.3, label="2 deviations")
    axes.set(title="a regression", xlabel="x", ylim=(-3, 3))
    axes.legend(ncols=2)


def draw_uncertainty(axes, seen, right, uncertainty):
    kinds = {"read rightly": seen & right, "misread": seen & ~right, "never seen: 8, 9": ~seen}
    for name, of_kind in kinds.items():
        axes.hist(uncertainty[of_kind], bins=20, range=(0, 0.5), density=True, alpha=0.5, label=name)
    axes.set(title="how unsure of digits", xlabel="deviation of the probability of what is read", ylabel="density")
    axes.legend()


def draw_refusals(axes, seen, right, uncertainty):
    for name, part in {"0 to 7": seen, "all": np.full(len(seen), True)}.items():
        wrong = ~right[part][np.argsort(uncertainty[part])]
        count = np.arange(1, len(wrong) + 1)
        axes.plot(1 - count / len(wrong), np.cumsum(wrong) / count, label=name)
    axes.set(title="the least sure refused", xlabel="share refused", ylabel="share misread of the rest")
    axes.legend(title="digits")


def main(figure: Path) -> dict[str, float]:
    (x, y), grid = samples(), np.linspace(-5, 5, 201)
    mean, std = regression(x, y, grid)
    among = std[(np.abs(grid) > 1) & (np.abs(grid) < 3)].mean()
    seen, right, uncertainty = classification()
    numbers = {
        "beyond": std[np.abs(grid) > 4].mean() / among,
        "gap": std[np.abs(grid) < 1].mean() / among,
        "misread": roc_auc_score(~right[seen], uncertainty[seen]),
        "unseen": roc_auc_score(~seen, uncertainty),
    }
    print("deviation of the regression, in units of that among the data")
    print(f"  beyond them             {numbers['beyond']:8.1f}")
    print(f"  in the gap              {numbers['gap']:8.1f}")
    print("probability (the area under the ROC curve) that the net is less sure")
    print(f"  of a digit it misreads  {numbers['misread']:8.3f}   than of one it reads rightly")
    print(f"  of an 8 or 9            {numbers['unseen']:8.3f}   than of a digit of a kind it has seen")

    drawing = Figure(figsize=(12, 4.5), layout="constrained")
    panels = drawing.subplots(1, 3)
    draw_regression(panels[0], x, y, grid, mean, std)
    draw_uncertainty(panels[1], seen, right, uncertainty)
    draw_refusals(panels[2], seen, right, uncertainty)
    drawing.savefig(figure, dpi=120)
    return numbers


if __name__ == "__main__":
    main(figure_path(__file__))
