"""Pre-training with few labels: four layers learn from all digits without a label, then the net from a few with one.

Four layers of sigmoids hardly learn from a random start: their gradients vanish. So each in turn is trained as a
denoising autoencoder on what the layers below make of the digits (greedy layer-wise pre-training), and then all of them
on the labelled digits. Beside it the same net learns from the labelled digits alone. The figure shows how many held-out
digits both read rightly, for four choices of labelled digits, and what the first layer looks for. (With ReLU and He's
initialisation the random start is as good: that is why nobody pre-trains so any more.)
"""

from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
from common import digits, figure_path
from matplotlib.figure import Figure
from tqdm import tqdm

import gradfuse
from gradfuse import data, nn
from gradfuse.training import accuracy, evaluate, fit, pretrain_layers, transfer

LABELS, SEEDS, EPOCHS, LAYERS = [2, 4, 8, 16], range(4), 60, 4

ADAM = partial(gradfuse.optim.Adam, lr=3e-3)


def net(seed):
    sizes = [64] + LAYERS * [200]
    hidden = [layer for n, m in pairwise(sizes) for layer in (nn.Linear(n, m), nn.Sigmoid())]
    return nn.Sequential(*hidden, nn.Linear(200, 10), rng=seed)


def fine_tune(model, x, t, seed):
    batches = data.Batches(x, t, batch_size=16, seed=seed)
    fit(model, batches, ADAM(model.parameters()), epochs=EPOCHS, progress=False)


def labelled(t, each, seed):
    order = np.random.default_rng(seed).permutation(len(t))
    return np.concatenate([order[t[order] == digit][:each] for digit in range(10)])


def draw(path, shares, weights):
    figure = Figure(figsize=(12, 4.5), layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=[3, 2])
    axes = left.subplots()
    for name, values in shares.items():
        axes.errorbar(LABELS, values.mean(axis=1), values.std(axis=1), marker="o", capsize=3, label=name)
    axes.set(xlabel="labelled examples of each digit", ylabel="held-out digits read rightly", xticks=LABELS)
    axes.legend()
    right.suptitle("what the first layer looks for")
    for panel, unit in zip(right.subplots(5, 8).flat, weights.T, strict=False):
        panel.imshow(unit.reshape(8, 8), cmap="gray")
        panel.set_axis_off()
    figure.savefig(path, dpi=120)


def main(figure: Path) -> dict[str, float]:
    (x, t), held_out = digits(0.7, 0.3)
    pretrained = net(0)
    pretrain_layers(pretrained, x, epochs=30, noise=0.3, make_optimizer=ADAM, progress=False)

    shares = {name: np.zeros((len(LABELS), len(SEEDS))) for name in ("pre-trained", "from scratch")}
    for i, each in enumerate(tqdm(LABELS, desc="labels")):
        for seed in SEEDS:
            chosen = labelled(t, each, seed)
            for name in shares:
                model = net(seed)
                if name == "pre-trained":
                    transfer(pretrained, model, where=lambda name: not name.startswith(f"{2 * LAYERS}."))
                fine_tune(model, x[chosen], t[chosen], seed)
                shares[name][i, seed] = evaluate(model, held_out, metrics={"accuracy": accuracy})["accuracy"]
    print("held-out digits read rightly, by labelled examples of each")
    for name, values in shares.items():
        print(f"  {name:14}", *(f"{n:3}: {share:.1%}" for n, share in zip(LABELS, values.mean(axis=1), strict=True)))
    draw(figure, shares, pretrained[0].weight.data)
    return {f"{name}, {n}": shares[name].mean(axis=1)[i] for name in shares for i, n in enumerate(LABELS)}


if __name__ == "__main__":
    main(figure_path(__file__))
