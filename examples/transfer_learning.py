"""Transfer learning: a convnet that reads the digits 0 to 4 helps another to read 5 to 9 from five examples of each.

The first net is trained on all digits below 5. Its convolutions are copied into a net with a head of its own, which
then learns in two ways: all of it, or the head alone while the convolutions stay frozen. Beside them the same net
learns from a random start. The figure shows how many of the other digits are read rightly, epoch by epoch, for six
choices of examples. What is carried over is a start: after two epochs the net that learns on is well ahead, in the
end hardly. Convolutions that stay as they are, which were never shown a 7, need longest, but then only a twentieth of
the weights are learned.
"""

from pathlib import Path

import numpy as np
from common import digits, figure_path
from matplotlib.figure import Figure
from tqdm import tqdm

import gradfuse
from gradfuse import data, nn
from gradfuse.training import fit, transfer

EXAMPLES, SEEDS, EPOCHS, EARLY = 5, range(6), 25, 2
WAYS = ["all of it learns on", "convolutions frozen", "from scratch"]


def net(seed):
    def block(channels_in, channels_out):
        return (
            nn.Conv2D(channels_in, channels_out, 3, padding="same", bias=False),
            nn.BatchNorm(channels_out),
            nn.ReLU(),
        )

    body = [*block(1, 32), *block(32, 32), nn.MaxPool2D(2), *block(32, 64), nn.MaxPool2D(2), nn.Flatten()]
    return nn.Sequential(nn.Sequential(*body, nn.Dropout(0.25)), nn.Linear(256, 5), rng=seed)


def train(model, x, t, seed, **options):
    batches = data.Batches(x, t, batch_size=min(32, len(x) // 5), seed=seed)
    optimizer = gradfuse.optim.Adam(model.parameters(), lr=2e-3)
    return fit(model, batches, optimizer, progress=False, **options)


def few(t, seed):
    """Indices of so many examples of each class, and of the rest."""
    order = np.random.default_rng(seed).permutation(len(t))
    chosen = np.concatenate([order[t[order] == c][:EXAMPLES] for c in np.unique(t)])
    return chosen, np.setdiff1d(order, chosen)


def learn(way, source, x, t, seed):
    """The share of the other digits read rightly after each epoch."""
    chosen, rest = few(t, seed)
    model = net(seed)
    if way != "from scratch":
        transfer(source, model, where=lambda name: name.startswith("0."))
    model[0].freeze(way == "convolutions frozen")
    history = train(model, x[chosen], t[chosen], seed, epochs=EPOCHS, validation=(x[rest], t[rest]))
    return history["val_accuracy"]


def draw(path, curves):
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    for way, values in curves.items():
        (line,) = axes.plot(range(1, EPOCHS + 1), values.mean(axis=0), label=way)
        axes.fill_between(
            range(1, EPOCHS + 1), values.min(axis=0), values.max(axis=0), color=line.get_color(), alpha=0.15
        )
    axes.set(
        xlabel="epoch", ylabel="digits from 5 to 9 read rightly", title=f"learned from {EXAMPLES} examples of each"
    )
    axes.legend()
    figure.savefig(path, dpi=120)


def main(figure: Path) -> dict[str, float]:
    images, labels = digits(shape=(1, 8, 8))
    lower = labels < 5
    source = net(0)
    train(source, images[lower], labels[lower], 0, epochs=15)

    x, t = images[~lower], labels[~lower] - 5
    curves = {way: [] for way in WAYS}
    for seed in tqdm(SEEDS, desc="choices of examples"):
        for way in WAYS:
            curves[way].append(learn(way, source, x, t, seed))
    curves = {way: np.array(values) for way, values in curves.items()}
    print(f"digits from 5 to 9 read rightly   after {EARLY} epochs   after {EPOCHS}")
    for way, values in curves.items():
        print(f"  {way:30}{values[:, EARLY - 1].mean():14.1%}{values[:, -1].mean():11.1%}")
    draw(figure, curves)
    early = {f"{way}: early": values[:, EARLY - 1].mean() for way, values in curves.items()}
    return early | {f"{way}: end": values[:, -1].mean() for way, values in curves.items()}


if __name__ == "__main__":
    main(figure_path(__file__))
