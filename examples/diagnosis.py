"""Diagnosing nets: three that differ in activation and first weights alone, and what tells the sick from the sound.

Six hidden layers learn the handwritten digits by plain SGD: sound ones of tanh; the same with weights of deviation 1;
and sigmoids. The large weights show in the loss at the start, and Watch sees why they learn badly: nearly all results
of the tanhs are at their bounds. The loss of the sigmoids begins where it should, but the test finds no rate that
lowers it: their gradients vanish, and the first layer is changed by a millionth. The figure shows the test over rates,
its suggestions as dots; and, by layer, saturation and gradients while the net learns, and the size of the first
updates, healthy in the grey band.
"""

from pathlib import Path

import numpy as np
from common import digits, figure_path
from matplotlib.figure import Figure

import gradfuse
from gradfuse.data import Batches
from gradfuse.diagnostics import Watch, initial_loss, lr_range_test, update_ratios
from gradfuse.init import normal
from gradfuse.nn import Linear, Sequential, Sigmoid, Tanh
from gradfuse.optim import SGD
from gradfuse.training import fit

DEPTH, EPOCHS, RATE = 6, 10, 0.02  # where the test suggests none

NETS = {"tanh": (Tanh, None), "tanh, large weights": (Tanh, normal(1.0)), "sigmoid": (Sigmoid, None)}


def diagnose(activation, init, training, validation):
    """What each diagnosis says, the first two before training; and the accuracy after it."""
    hidden = [layer for _ in range(DEPTH) for layer in (Linear(64, 64, init=init), activation())]
    net = Sequential(*hidden, Linear(64, 10, init=init), rng=0)
    start = initial_loss(net, *training)
    rates = lr_range_test(net, Batches(*training), SGD, steps=200, min_lr=1e-4)
    optimizer = SGD(net.parameters(), lr=rates.suggestion or RATE)
    x, t = next(iter(Batches(*training)))
    net.backward(gradfuse.cross_entropy(net.train()(x), t)[1], input_grad=False)
    updates = update_ratios(net, optimizer.step)
    with Watch(net) as watch:
        history = fit(net, Batches(*training), optimizer, epochs=EPOCHS, validation=validation, progress=False)
    return start, rates, updates, watch, history["val_accuracy"][-1]


def draw(path, reports):
    figure = Figure(figsize=(12, 7), layout="constrained")
    (test, saturated), (gradients, sizes) = figure.subplots(2, 2)
    for name, (_, rates, updates, watch, _) in reports.items():
        (line,) = test.loglog(rates.rates, rates.smoothed, label=name)
        if rate := rates.suggestion:
            test.plot(rate, np.interp(rate, rates.rates, rates.smoothed), "o", color=line.get_color())
        shares, ratios = watch.typical("saturated"), watch.gradient_ratios()
        saturated.plot(range(1, DEPTH + 1), list(shares.values()), "o-")
        gradients.semilogy(range(1, DEPTH + 1), [ratios[layer] for layer in shares], "o-")
        sizes.semilogy(range(1, DEPTH + 2), list(updates.ratios.values()), "o-")
    sizes.axhspan(1e-3, 1e-2, color="gray", alpha=0.2)
    test.set(title="test over learning rates", xlabel="rate", ylabel="loss, smoothed")
    saturated.set(title="saturated results", xlabel="hidden layer", ylabel="share", ylim=(-0.05, 1))
    gradients.set(title="gradients", xlabel="hidden layer", ylabel="norm / norm at the output")
    sizes.set(title="first updates", xlabel="layer", ylabel="norm / norm of the weights")
    test.legend()
    figure.savefig(path, dpi=120)


def main(figure: Path) -> dict[str, float]:
    training, validation = digits(0.8, 0.2)
    reports = {name: diagnose(*of, training, validation) for name, of in NETS.items()}
    draw(figure, reports)
    numbers = {}
    for name, (start, rates, updates, watch, accuracy) in reports.items():
        print(name, *(f"  {report.verdict()}" for report in (start, rates, updates, watch)), sep="\n")
        print(f"  {accuracy:.1%} of the held-out digits are read rightly")
        numbers |= {f"{name}: start": start.loss, f"{name}: lowest": min(rates.smoothed) / rates.smoothed[0]}
        numbers |= {f"{name}: saturated": min(watch.typical("saturated").values()), f"{name}: accuracy": accuracy}
        numbers |= {f"{name}: gradient": watch.gradient_ratios()["1 " + NETS[name][0].__name__]}
        numbers |= {f"{name}: update": updates.ratios["0.weight"]}
    return numbers


if __name__ == "__main__":
    main(figure_path(__file__))
