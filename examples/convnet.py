"""A small VGG-style convolutional net reads handwritten digits: two pairs of 3 x 3 convolutions, each with a max pool.

The 8 x 8 images that come with scikit-learn are turned by a few degrees and made noisy in training, which teaches the
net what does not matter in a digit. A fifth of them is held out. The figure shows the curves,
the filters of the first layer, and the digits that are read wrongly.
"""

from pathlib import Path

import numpy as np
from common import digits, figure_path
from matplotlib.figure import Figure

import gradfuse
from gradfuse import data, nn, schedules
from gradfuse.training import fit

EPOCHS, BATCH = 40, 32


def block(channels_in, channels_out):
    """Two convolutions of 3 x 3 see as much as one of 5 x 5, with fewer weights and one more activation."""
    pairs = [(channels_in, channels_out), (channels_out, channels_out)]
    convolutions = [(nn.Conv2D(i, o, 3, padding="same", bias=False), nn.BatchNorm(o), nn.ReLU()) for i, o in pairs]
    return [*convolutions[0], *convolutions[1], nn.MaxPool2D(2), nn.Dropout(0.25)]


def vgg(seed):
    head = [nn.Flatten(), nn.Linear(64 * 2 * 2, 128), nn.ReLU(), nn.Dropout(0.5), nn.Linear(128, 10)]
    return nn.Sequential(*block(1, 32), *block(32, 64), *head, rng=seed)


def train(images, labels, held_out, seed):
    """The trained net and the history of its figures."""
    model = vgg(seed)
    augment = data.augment(data.rotate(10), data.noise(0.05))
    batches = data.Batches(images, labels, batch_size=BATCH, seed=seed, transform=augment)
    cycle = schedules.one_cycle(5e-3, EPOCHS * len(batches))
    optimizer = gradfuse.optim.NAdam(model.parameters(), lr=cycle)
    return model, fit(model, batches, optimizer, epochs=EPOCHS, validation=held_out)


def draw(path, history, model, images, labels, read):
    figure = Figure(figsize=(12, 4.5), layout="constrained")
    curves, filters, wrong = figure.subfigures(1, 3, width_ratios=[2, 1.2, 1.2])
    for axes, name in zip(curves.subplots(2, sharex=True), ["loss", "accuracy"], strict=True):
        if name in history:
            axes.plot(history[name], label="training, augmented")
        axes.plot(history[f"val_{name}"], label="held out")
        axes.set_ylabel(name)
        axes.legend()
    axes.set_xlabel("epoch")
    filters.suptitle("the first layer's filters")
    for axes, kernel in zip(filters.subplots(8, 4).flat, model[0].weight.data[:, 0], strict=True):
        axes.imshow(kernel, cmap="gray")
        axes.set_axis_off()
    wrong.suptitle("read wrongly")
    missed = np.flatnonzero(read != labels)
    for k, axes in enumerate(wrong.subplots(3, 2).flat):
        axes.set_axis_off()
        if k < len(missed):
            axes.imshow(images[missed[k], 0], cmap="gray_r")
            axes.set_title(f"{labels[missed[k]]}, read as {read[missed[k]]}", fontsize=9)
    figure.savefig(path, dpi=120)


def main(figure, seed=0):
    (x, t), held_out = digits(0.8, 0.2, shape=(1, 8, 8), seed=seed)
    model, history = train(x, t, held_out, seed)
    read = model.eval()(held_out[0]).argmax(axis=1)
    accuracy = float(np.mean(read == held_out[1]))
    print(f"{accuracy:.2%} of {len(read)} held-out digits are read rightly")
    draw(Path(figure), history, model, *held_out, read)
    return {"accuracy": accuracy}


if __name__ == "__main__":
    main(figure_path(__file__))
