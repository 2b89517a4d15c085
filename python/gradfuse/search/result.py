"""What a search has found: the trials, a table of the best, a picture."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from gradfuse._arrays import Array
from gradfuse._optional import needed
from gradfuse.search.objective import Parameters
from gradfuse.search.space import Distribution, choice

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from optuna import Study


@dataclass(frozen=True)
class Result:
    """What a search has tried; str() is a table of the best. `study` is Optuna's.

    trials: those that came to an end, as dicts: number (from 0), round (from 1), parameters, value (of a pruned one the
    last that it reported, or None) and state ("complete" or "pruned"). Number and round are also the user_attrs of the
    study's trials, whose own numbers say in which order they began.
    """

    study: Study = field(repr=False)
    space: dict[str, Distribution]
    direction: str
    trials: list[dict[str, Any]] = field(repr=False)

    @property
    def best(self) -> Parameters:
        """The parameters of the best complete trial, of equals the first. ValueError where there is none."""
        return dict(self._best()["parameters"])

    @property
    def value(self) -> float:
        """The value of the best complete trial. ValueError where there is none."""
        return float(self._best()["value"])

    def _ranking(self) -> list[dict[str, Any]]:
        """The complete trials, the best first."""
        complete = [trial for trial in self.trials if trial["state"] == "complete"]
        return sorted(complete, key=lambda trial: trial["value"], reverse=self.direction == "maximize")

    def _best(self) -> dict[str, Any]:
        if ranking := self._ranking():
            return ranking[0]
        raise ValueError(f"Result: at least one trial must be complete, got none of {len(self.trials)}")

    def __str__(self) -> str:
        ranking = self._ranking()
        rows = [["value", "number", "round", *self.space]]
        for t in ranking[:10]:
            cells = (t["value"], t["number"], t["round"], *t["parameters"].values())
            rows.append([f"{cell:.4g}" if isinstance(cell, float) else str(cell) for cell in cells])
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        table = ("  ".join(map(str.rjust, row, widths)) for row in rows)
        pruned = len(self.trials) - len(ranking)
        return "\n".join([f"{len(self.trials)} trials, {pruned} of them pruned; the best:", *table])

    def plot(self, path: str | os.PathLike[str] | None = None) -> Figure:
        """Draws what was tried: a panel for each hyper-parameter with the values against it, a colour for each round.

        Crosses are pruned trials at what they last reported, the ring is the best; what is infinite is at the edge.
        Axes are logarithmic where a parameter was drawn so, and for values that are positive and span a factor of ten.
        path: where the picture is written too, its format by the ending.
        Raises ImportError without matplotlib.
        """
        new_figure = needed("Result.plot", "matplotlib.figure").Figure
        from matplotlib.ticker import LogFormatter

        columns = min(3, len(self.space))
        rows = math.ceil(len(self.space) / columns)
        figure: Figure = new_figure(figsize=(4 * columns, 3.5 * rows), layout="constrained")
        panels = figure.subplots(rows, columns, squeeze=False, sharey=True).flatten()
        values = np.array([trial["value"] for trial in self.trials], float)  # NaN where a pruned one reported none
        finite = values[np.isfinite(values)]
        wide = finite.size and 0 < 10 * finite.min() < finite.max()
        panels[0].set(ylabel="value", yscale="log" if wide else "linear")
        for axes, (name, distribution) in zip(panels, self.space.items(), strict=False):
            self._draw(axes, name, distribution, values)
        for axis in (panels[0].yaxis, *(axes.xaxis for axes in panels)):
            if axis.get_scale() == "log":
                axis.set_major_formatter(LogFormatter())
                axis.set_minor_formatter(LogFormatter(minor_thresholds=(2, 0.5)))
        for axes in panels[len(self.space) :]:
            axes.set_axis_off()
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper center", ncols=5, fontsize="small")
        if path is not None:
            figure.savefig(path, dpi=120)
        return figure

    def _draw(self, axes: Any, name: str, distribution: Distribution, y: Array) -> None:
        x = np.array([trial["parameters"][name] for trial in self.trials], object)
        axes.set(xlabel=name, xscale="log" if distribution.log else "linear")
        axes.grid(alpha=0.3)
        if isinstance(distribution, choice):
            x = np.array(list(map(distribution.values.index, x)))
            axes.set_xticks(range(len(distribution.values)), list(map(str, distribution.values)))

        groups = [(trial["round"], trial["state"]) for trial in self.trials]
        for round_, state in sorted(set(groups)):
            marker, ending = ("o", "") if state == "complete" else ("x", ", pruned")
            look = {"color": f"C{round_ - 1}", "marker": marker, "alpha": 0.7, "linestyle": "none"}
            group = np.array([each == (round_, state) for each in groups])
            here, beyond = group & np.isfinite(y), group & np.isinf(y)
            axes.plot(x[here], y[here], label=f"round {round_}{ending}", **look)
            if beyond.any():
                edge = np.where(y[beyond] > 0, 1, 0)
                axes.plot(x[beyond], edge, transform=axes.get_xaxis_transform(), clip_on=False, **look)
        best = [self.trials.index(trial) for trial in self._ranking()[:1] if math.isfinite(trial["value"])]
        axes.plot(x[best], y[best], "o", color="black", fillstyle="none", markersize=11, label="best")
