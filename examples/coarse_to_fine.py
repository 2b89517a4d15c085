"""Coarse, then fine: the learning rate and the strength of the L2 penalty of a net that reads digits from 300 of them.

Nobody knows the right values beforehand, not even their order of magnitude, so they are drawn in log space: 20 pairs
over five and six orders, then 20 around the best of these. Each pair is tried by 5-fold cross-validation, and given up
after the first folds where it is worse than the median of those before it. The figure shows what was tried: the rate
decides, in a valley of one order or two; the penalty must only not be too strong. The best pair has about half the
loss of Adam's default rate without penalty. It is the best of 40 on the digits by which it was chosen, so the two are
compared once more on the 1500 that the search has never met.
"""

from pathlib import Path

from common import digits, figure_path

from gradfuse.data import Batches
from gradfuse.nn import L2, Linear, ReLU, Sequential
from gradfuse.optim import Adam
from gradfuse.search import coarse_to_fine, cross_validated, log_uniform
from gradfuse.training import evaluate, fit

SEED, EPOCHS = 0, 30

SPACE = {"learning rate": log_uniform(1e-5, 1), "L2 strength": log_uniform(1e-6, 1)}
DEFAULT = {"learning rate": 1e-3, "L2 strength": 0.0}


def validation_loss(parameters, training, validation):
    net = Sequential(Linear(64, 64), ReLU(), Linear(64, 10), rng=SEED)
    optimizer = Adam(net.parameters(), lr=parameters["learning rate"])
    penalty = L2(parameters["L2 strength"])
    fit(net, Batches(*training, seed=SEED), optimizer, epochs=EPOCHS, regularisers=[penalty], progress=False)
    return evaluate(net, validation)["loss"]


def main(figure: Path) -> dict[str, float]:
    known, test = digits(1 / 6, 5 / 6, seed=SEED)
    objective = cross_validated(validation_loss, *known, k=5, stratify=known[1], seed=SEED)
    result = coarse_to_fine(objective, SPACE, rounds=2, trials=20, seed=SEED)

    complete = [trial for trial in result.trials if trial["state"] == "complete"]
    numbers = {
        "worst": max(trial["value"] for trial in complete),
        "default": objective(DEFAULT),
        "coarse": min(trial["value"] for trial in complete if trial["round"] == 1),
        "fine": result.value,
        "default, test": validation_loss(DEFAULT, known, test),
        "fine, test": validation_loss(result.best, known, test),
    }
    print(result)
    print("loss, cross-validated")
    for name in ("worst", "default", "coarse", "fine"):
        print(f"  {name:15}{numbers[name]:8.3f}")
    print("loss on digits that the search has not met")
    for name in ("default", "fine"):
        print(f"  {name:15}{numbers[f'{name}, test']:8.3f}")
    result.plot(figure)
    return numbers


if __name__ == "__main__":
    main(figure_path(__file__))
