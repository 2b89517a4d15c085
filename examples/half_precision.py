"""Half precision: how much room float16 has for the gradients of a net, and what a loss scale makes of it.

The same net learns the handwritten digits in float32, float16 and bfloat16. With float32 master weights all end alike,
in float16 without a scale (2^0) too: it holds the gradients of so small a net. Without master weights bfloat16 falls
behind: its numbers lie so far apart that many an update is rounded away. How far the gradients are from the ends of
float16 is shown by runs with fixed scales. At 2^-24, which stands for a loss so much smaller, all of them are 0 and
nothing is learned; at 2^20 they overflow, and every step is skipped. At 2^16 those are skipped from which most is to
be learned. A dynamic scale begins there and is halved where a gradient overflows; doubled after 2000 steps without, it
follows the gradients as these become smaller. Source: Micikevicius et al. 2018.
"""

from pathlib import Path

import numpy as np
from common import digits, figure_path
from matplotlib.figure import Figure
from tqdm import tqdm

from gradfuse.data import Batches, standardize
from gradfuse.nn import Linear, ReLU, Sequential
from gradfuse.optim import NAdam
from gradfuse.training import fit

EPOCHS, LONG = 25, 100
SCALES = {2.0**k: f"float16, scale 2^{k}" for k in range(-24, 21, 4)}

RUNS = {  # dtype, loss scale, master weights, epochs
    "float32": ("float32", None, False, EPOCHS),
    "float16, dynamic scale": ("float16", "dynamic", True, LONG),
    **{name: ("float16", scale, True, EPOCHS) for scale, name in SCALES.items()},
    "bfloat16": ("bfloat16", None, True, EPOCHS),
    "bfloat16, no master weights": ("bfloat16", None, False, EPOCHS),
}
SHOWN = ["float32", "float16, dynamic scale", SCALES[1], "bfloat16", "bfloat16, no master weights"]


def train(dtype, scale, master_weights, epochs):
    """Training loss and loss scale after each epoch."""
    (x, t), _ = digits(0.8, 0.2)
    net = Sequential(Linear(64, 32), ReLU(), Linear(32, 32), ReLU(), Linear(32, 10), rng=0).astype(dtype)
    batches = Batches(standardize(x)[0].astype(net[0].weight.data.dtype), t, batch_size=16)
    optimizer = NAdam(net.parameters(), lr=1e-3, master_weights=master_weights, nonfinite="skip")
    options = {"epochs": epochs, "loss_scale": scale, "progress": False}
    scales = []
    with np.errstate(over="ignore", invalid="ignore"):
        history = fit(net, batches, optimizer, callbacks=[lambda run: scales.append(run.scale.value)], **options)
    return history["loss"], scales


def draw(path, results):
    figure = Figure(figsize=(12, 4.5), layout="constrained")
    curves, ends, course = figure.subplots(1, 3)
    for name, style in zip(SHOWN, ("-", "--", "-.", ":", "-"), strict=True):
        curves.semilogy(range(1, EPOCHS + 1), results[name][0][:EPOCHS], style, label=name)
    curves.set(title="training loss", xlabel="epoch")
    curves.legend()
    ends.loglog(list(SCALES), [results[name][0][-1] for name in SCALES.values()], "o-", label="float16")
    ends.axhline(results["float32"][0][-1], color="gray", label="float32")
    ends.set_xscale("log", base=2)
    ends.set(title=f"training loss after {EPOCHS} epochs", xlabel="loss scale")
    ends.legend(loc="upper center")
    ends.text(2**-15, 0.05, "gradients\nbecome 0")
    ends.text(2**13, 0.05, "gradients\noverflow", ha="right")
    course.semilogy(range(1, LONG + 1), results["float16, dynamic scale"][1], base=2, drawstyle="steps-post")
    course.set(title="dynamic loss scale", xlabel="epoch")
    figure.savefig(path, dpi=120)


def main(figure: Path) -> dict[str, float]:
    results = {name: train(*run) for name, run in tqdm(RUNS.items(), desc="runs")}
    draw(figure, results)
    numbers = {name: losses[EPOCHS - 1] for name, (losses, _) in results.items()}
    print(f"training loss after {EPOCHS} epochs")
    for name, loss in numbers.items():
        print(f"  {name:28}{loss:9.4f}")
    scales = results["float16, dynamic scale"][1]
    print(f"the dynamic scale falls from 65536 to {min(scales):.0f}, and in {LONG} epochs rises to {scales[-1]:.0f}")
    return numbers | {"least scale": min(scales), "last scale": scales[-1]}


if __name__ == "__main__":
    main(figure_path(__file__))
