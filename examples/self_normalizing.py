"""Self-normalizing nets: what is made of a signal by twenty layers, before training and after it.

Three nets learn the handwritten digits: the default preset, which has batch norm; the self-normalizing one, SELU with
LeCun's initialisation; and the default one without its batch norm. The figure shows the mean and the deviation of every
hidden layer's results, in the first batch and in the last, and the validation loss: means of five seeds, and its range.
Without a norm ELU lets both grow from layer to layer. SELU keeps them at 0 and 1, and learns first. That is a property
of the weights it begins with: training leads away from there, if less far than ELU. Batch norm holds (below 1, for ELU
comes after it), and ends lowest. Source: Klambauer et al. 2017.
"""

from pathlib import Path

import numpy as np
from common import digits, figure_path
from matplotlib.figure import Figure
from tqdm import tqdm

from gradfuse import nn
from gradfuse.data import Batches, standardize
from gradfuse.diagnostics import Watch

HIDDEN, EPOCHS, EARLY, SEEDS = 20 * [64], 20, 2, range(5)

NETS = {
    "default": lambda seed: nn.mlp(64, HIDDEN, 10, rng=seed),
    "self-normalizing": lambda seed: nn.self_normalizing_mlp(64, HIDDEN, 10, rng=seed),
    "default, no batch norm": lambda seed: nn.mlp(64, HIDDEN, 10, norm=False, rng=seed),
}


def train(preset, seed):
    """Mean and deviation of each hidden layer's results in the first and the last batch; the validation losses."""
    (x, t), (x_val, t_val) = digits(0.8, 0.2, seed=seed)
    x, x_val = standardize(x, x_val)
    batches = Batches(x, t, seed=seed)
    with Watch(preset.model, every=EPOCHS * len(batches) - 1) as watch:
        history = preset.fit(batches, epochs=EPOCHS, validation=(x_val, t_val), patience=None, progress=False)
    hidden = watch.figures["dead"]  # which only activations have
    moments = [[list(watch.figures[figure][layer].values()) for layer in hidden] for figure in ("mean", "std")]
    return np.array(moments), history["val_loss"]


def draw(path, moments, losses):
    figure = Figure(figsize=(12, 4.5), layout="constrained")
    panels = figure.subplots(1, 3)
    layers, epochs = range(1, len(HIDDEN) + 1), range(1, EPOCHS + 1)
    for name in NETS:
        loss = losses[name]
        (line,) = panels[2].semilogy(epochs, loss.mean(axis=0), label=name)
        panels[2].fill_between(epochs, loss.min(axis=0), loss.max(axis=0), color=line.get_color(), alpha=0.1)
        for axes, (before, after) in zip(panels, moments[name].transpose(0, 2, 1), strict=False):
            axes.plot(layers, before, color=line.get_color(), label=name)
            axes.plot(layers, after, "--", color=line.get_color())
    for axes, title, ideal in zip(panels, ("mean", "standard deviation"), (0, 1), strict=False):
        axes.axhline(ideal, color="gray", linewidth=0.8)
        axes.set(title=f"{title} (dashed: trained)", xlabel="hidden layer", xticks=range(2, len(HIDDEN) + 1, 2))
    panels[2].set(title="validation loss", xlabel="epoch", xticks=range(2, EPOCHS + 1, 2))
    panels[0].legend()
    figure.savefig(path, dpi=120)


def main(figure: Path) -> dict[str, float]:
    moments, losses, numbers = {}, {}, {}
    for name, preset in (bar := tqdm(NETS.items())):
        bar.set_description(name)
        runs = [train(preset(seed), seed) for seed in SEEDS]
        moments[name], losses[name] = np.mean([run[0] for run in runs], axis=0), np.array([run[1] for run in runs])

    print(f"{'the farthest layer':24}from mean 0, deviation 1   trained   loss after {EARLY} epochs   after {EPOCHS}")
    for name in NETS:
        (mean, mean_after), (std, std_after) = np.abs(moments[name] - [[[0]], [[1]]]).max(axis=1)
        early, end = losses[name].mean(axis=0)[[EARLY - 1, -1]]
        print(f"  {name:22}{mean:11.2f}{std:13.2f}{mean_after:7.2f}{std_after:5.2f}{early:22.2f}{end:11.2f}")
        numbers |= {f"{name}: mean": mean, f"{name}: deviation": std, f"{name}: trained deviation": std_after}
        numbers |= {f"{name}: early": early, f"{name}: end": end}
    draw(figure, moments, losses)
    return numbers


if __name__ == "__main__":
    main(figure_path(__file__))
