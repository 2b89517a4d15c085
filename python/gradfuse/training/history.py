"""What a training run was like: its figures by epoch, their curves, and what they say."""

from __future__ import annotations

import math
import os
from typing import Any

from gradfuse._optional import needed

Metrics = dict[str, float]


class History:
    """The figures of every epoch: `history["loss"]`, `history["val_loss"]`, the metrics and "lr", a list each."""

    def __init__(self) -> None:
        self.epochs: dict[str, list[float]] = {}

    def add(self, figures: Metrics) -> None:
        """Adds an epoch. Raises ValueError where its names are not those of the epochs before."""
        if self.epochs and figures.keys() != self.epochs.keys():
            raise ValueError(f"History.add: figures must be {', '.join(self.epochs)}, got {', '.join(figures)}")
        for name, value in figures.items():
            self.epochs.setdefault(name, []).append(float(value))

    def __getitem__(self, name: str) -> list[float]:
        return self.epochs[name]

    def __contains__(self, name: str) -> bool:
        return name in self.epochs

    def __len__(self) -> int:
        return len(next(iter(self.epochs.values()), []))

    def state_dict(self) -> dict[str, list[float]]:
        """A copy of all figures."""
        return {name: list(values) for name, values in self.epochs.items()}

    def load_state_dict(self, state: dict[str, list[float]]) -> None:
        """Takes on the figures of state_dict()."""
        self.epochs = {name: list(map(float, values)) for name, values in state.items()}

    def verdict(self) -> str:
        """What the curves look like, in a sentence or two: under- or overfitting, unstable, unfinished, or well fitted.

        Rules of thumb: a training loss that ends above its start is unstable; one that has fallen by less than a tenth
        is underfitting; one that in its last fifth of epochs fell by a twentieth or more of all it has fallen is
        unfinished; a validation loss that has risen by a tenth above its minimum is overfitting; one that is half as
        high again as the training loss is a gap.
        """
        if len(self) < 2:
            return "Too few epochs to tell: at least two are needed."
        loss = self["loss"]
        if not all(map(math.isfinite, loss + self.epochs.get("val_loss", []))):
            return "A loss is not finite: lower the learning rate, or clip the gradients."
        if loss[-1] > loss[0]:
            return "The training loss rises: lower the learning rate."
        said = []
        fallen = loss[0] - min(loss)
        fifth = max(1, len(loss) // 5)
        if fallen < 0.1 * abs(loss[0]):
            said.append("Underfitting: the training loss hardly falls; try a larger net, another learning rate.")
        elif loss[-1 - fifth] - loss[-1] >= 0.05 * fallen:
            said.append("Unfinished: the training loss is still falling; train longer.")
        if "val_loss" in self:
            val = self["val_loss"]
            best = min(range(len(val)), key=val.__getitem__)
            if val[-1] - val[best] > 0.1 * abs(val[best]):
                said.append(
                    f"Overfitting: the validation loss was lowest, {val[best]:.3g}, after epoch {best + 1}, and has "
                    f"risen to {val[-1]:.3g} since; stop there, regularise, or find more data."
                )
            elif val[-1] - loss[-1] > 0.5 * abs(loss[-1]) and not said:
                said.append("A gap: the validation loss is well above the training loss; regularisation may narrow it.")
        level = "the training loss has levelled off"
        level += ", and validation keeps up with it" if "val_loss" in self else ""
        return " ".join(said) or f"Well fitted: {level}; if that is still too high, try a larger net."

    def plot(self, path: str | os.PathLike[str] | None = None) -> Any:
        """Draws training and validation curves, a panel for each figure; path: where the picture is written too.

        Raises ImportError where matplotlib is missing.
        """
        Figure = needed("History.plot", "matplotlib.figure").Figure
        names = [name for name in self.epochs if not name.startswith("val_")]
        figure = Figure(figsize=(4.5 * max(1, len(names)), 3.6), layout="constrained")
        epochs = range(1, len(self) + 1)
        for axes, name in zip(figure.subplots(1, max(1, len(names)), squeeze=False)[0], names, strict=False):
            axes.plot(epochs, self[name], label="training" if f"val_{name}" in self else name)
            if f"val_{name}" in self:
                axes.plot(epochs, self[f"val_{name}"], label="validation")
                axes.legend()
            axes.set_xlabel("epoch")
            axes.set_title(name)
        figure.suptitle(self.verdict(), fontsize=9)
        if path is not None:
            figure.savefig(path, dpi=120)
        return figure
