"""What goes on within a model while it trains: the statistics of every layer's results and gradients, over time."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from statistics import median
from typing import Any

import numpy as np

import gradfuse
from gradfuse._arrays import Array
from gradfuse._checks import integer
from gradfuse.diagnostics.report import Report, few, new_figure
from gradfuse.nn.activations import Activation
from gradfuse.nn.layer import Layer
from gradfuse.nn.sequential import Residual, Sequential

FIGURES = {
    "mean": "mean",
    "std": "standard deviation",
    "dead": "dead units",
    "saturated": "saturated results",
    "grad_norm": "norm of the gradient",
    "grad_std": "standard deviation of the gradient",
}
DEAD = 0.5  # of a layer's units
SATURATED = 0.5  # of a layer's results
NEAR = 0.015  # of the distance of the bounds: abs(y) >= 0.97 for tanh
VANISHING, EXPLODING = 1e-3, 1e3  # of the gradient's norm at the model's output


class Watch(Report):
    """Records what the layers of a model do while it trains: `with Watch(model) as watch: fit(model, ...)`.

    model: any layer; it and all layers within are watched, but for Sequentials. every: of so many forwards in training
    mode the first is recorded, and its backward. While they are watched, Sequentials run their layers one by one, which
    changes no result but by the rounding of half-precision intermediates; afterwards, whatever was raised, all is as it
    was.

    figures[figure][layer][step] is a number. The layers' names are those of model.layers(), with their kinds; steps are
    forwards in training mode, from 0. The figures, computed in float64:
      mean, std: of the layer's results;
      dead: the share of an activation's units that are 0 for the whole batch; a unit is a channel of images
        (N, C, H, W), else an element of the last axis;
      saturated: the share of results near a bound, within 1.5 % of the bounds' distance, for activations that level off
        on both sides of 0, such as sigmoid and tanh;
      grad_norm, grad_std: of the gradient with respect to the layer's results.

    The verdict goes by medians over time: a layer is dead or saturated where more than half of it is; gradients vanish
    or explode where their norm is less than 1/1000 or more than 1000 times that at the model's output.
    Raises TypeError or ValueError unless every is an integer of at least 1, and RuntimeError on entering where the
    model is watched already.
    Source: Glorot and Bengio 2010; Lu, Shin, Su and Karniadakis 2019, Dying ReLU and initialization.
    """

    def __init__(self, model: Layer, every: int = 10) -> None:
        self.model = model
        self.every = integer("Watch: every", every, least=1)
        self.figures: dict[str, dict[str, dict[int, float]]] = {}
        self.steps = 0
        self._recorded: int | None = None  # the step under way, where it is recorded
        self._undo = ExitStack()

    def __enter__(self) -> Watch:
        layers = dict(self.model.layers())
        if any("forward" in vars(layer) for layer in layers.values()):
            raise RuntimeError("Watch: model must not be watched already, got one that is")
        with ExitStack() as undo:
            for name, layer in layers.items():
                if isinstance(layer, Sequential):
                    undo.callback(layer.fuse, layer.fused)
                    layer.fuse(False)
                undo.callback(_release, layer)
                probe = _Probe(self, name, layer)
                vars(layer).update(forward=probe.forward, backward=probe.backward)
            self._undo = undo.pop_all()
        return self

    def __exit__(self, *_: Any) -> None:
        self._undo.close()

    def _begin(self) -> None:
        """A forward of the model begins."""
        self._recorded = self.steps if self.model.training and self.steps % self.every == 0 else None
        self.steps += self.model.training

    # -- what it all means

    def typical(self, figure: str) -> dict[str, float]:
        """The median over time of a figure, for each layer that has it."""
        return {layer: median(values.values()) for layer, values in self.figures.get(figure, {}).items()}

    def gradient_ratios(self) -> dict[str, float]:
        """The norm of each layer's gradient over that at the model's output, the median over time."""
        norms = self.figures.get("grad_norm", {})
        output = next(iter(norms.values()), {})  # a backward comes by the output first
        ratios = {
            layer: [norm / output[step] for step, norm in values.items() if output.get(step)]
            for layer, values in norms.items()
        }
        return {layer: median(values) for layer, values in ratios.items() if values}

    @property
    def ok(self) -> bool:
        return bool(self.figures) and not any(self._faults())

    def verdict(self) -> str:
        if not self.figures:
            return "Nothing was recorded: the model made no forward in training mode while it was watched."
        healthy = "Healthy: no layer is dead or saturated, and gradients neither vanish nor explode."
        return " ".join(self._faults()) or healthy

    def _faults(self) -> Iterator[str]:
        broken = [
            (step, f"the {FIGURES[figure]} of {layer}")
            for figure, layers in self.figures.items()
            for layer, values in layers.items()
            for step, value in values.items()
            if not math.isfinite(value)
        ]
        if broken:
            step, what = min(broken, key=lambda found: found[0])
            yield f"Not finite: {what} at step {step}; lower the learning rate, or look at the inputs and the weights."
            return
        if dead := self._above("dead", DEAD):
            yield f"Dead units: {few(dead)}; lower the learning rate, or use LeakyReLU."
        if saturated := self._above("saturated", SATURATED):
            yield f"Saturated: {few(saturated)}; draw smaller weights, or put BatchNorm before."
        ratios = self.gradient_ratios()
        layers = sorted(ratios, key=ratios.__getitem__)
        if layers and ratios[layers[0]] < VANISHING:
            where = f"at {layers[0]} their norm is {ratios[layers[0]]:.1e} of that at the output"
            yield f"Vanishing gradients: {where}; use ReLU and its initialisation, BatchNorm or Residual."
        if layers and ratios[layers[-1]] > EXPLODING:
            where = f"at {layers[-1]} their norm is {ratios[layers[-1]]:.1e} of that at the output"
            yield f"Exploding gradients: {where}; draw smaller weights, or use BatchNorm."

    def _above(self, figure: str, limit: float) -> list[str]:
        shares = sorted(self.typical(figure).items(), key=lambda item: -item[1])
        return [f"{share:.0%} of {layer}" for layer, share in shares if share > limit]

    def __str__(self) -> str:
        """A table of the medians over time, and the verdict."""
        shown = {figure: self.typical(figure) for figure in FIGURES if figure in self.figures}
        rows = list(shown.get("mean", ()))
        width = max(map(len, rows), default=0)
        lines = [" " * width + "".join(f"{figure:>11}" for figure in shown)] if shown else []
        for layer in rows:
            cells = (f"{values[layer]:11.3g}" if layer in values else " " * 11 for values in shown.values())
            lines.append(f"{layer:{width}}{''.join(cells)}".rstrip())
        return "\n".join([*lines, self.verdict()])

    def plot(self, path: str | os.PathLike[str] | None = None) -> Any:
        """Draws a panel for each figure and in it a line for each layer, dark for the first layers, light for the last.

        Returns the Figure, saved where a path is given. Raises ImportError where matplotlib is missing.
        """
        drawn = new_figure("Watch.plot", figsize=(12, 7))
        from matplotlib import colormaps

        layers = list(self.figures.get("mean", ()))
        colours = dict(zip(layers, colormaps["viridis"](np.linspace(0, 0.9, len(layers))), strict=True))
        for place, figure in enumerate((figure for figure in FIGURES if figure in self.figures), 1):
            axes = drawn.add_subplot(2, 3, place, title=FIGURES[figure], xlabel="step")
            for layer, values in self.figures[figure].items():
                axes.plot(list(values), list(values.values()), color=colours[layer], label=layer)
            if figure.startswith("grad"):
                axes.set_yscale("log")
        lines = drawn.axes[0].lines if drawn.axes else []
        drawn.legend(handles=lines[:: len(lines) // 20 + 1], loc="outside right upper", fontsize="x-small")
        drawn.suptitle(self.verdict(), fontsize="small", wrap=True)
        if path is not None:
            drawn.savefig(path)
        return drawn


class _Probe:
    """Stands in for a layer's forward and backward, and records what passes. A copy of the layer has a copy of it."""

    def __init__(self, watch: Watch, name: str, layer: Layer) -> None:
        self.watch, self.layer = watch, layer
        self.label = f"{name} {type(layer).__name__}".lstrip()
        last = layer.activation if isinstance(layer, Residual) else layer
        self.activates = isinstance(last, Activation)
        self.bounds = _bounds(last) if isinstance(last, Activation) else None

    def forward(self, *args: Any, **options: Any) -> Array:
        if self.layer is self.watch.model:
            self.watch._begin()
        y = type(self.layer).forward(self.layer, *args, **options)
        self._record(y, self._activity)
        return y

    def backward(self, grad: Array, **options: Any) -> Array | None:
        self._record(grad, self._gradient)
        return type(self.layer).backward(self.layer, grad, **options)

    def _record(self, a: Array, figures: Callable[[Array], dict[str, Any]]) -> None:
        step = self.watch._recorded
        if step is None or isinstance(self.layer, Sequential) or not a.size:
            return
        with np.errstate(over="ignore", invalid="ignore"):
            for figure, value in figures(a.astype(np.float64)).items():
                self.watch.figures.setdefault(figure, {}).setdefault(self.label, {})[step] = float(value)

    def _activity(self, y: Array) -> dict[str, Any]:
        figures = {"mean": y.mean(), "std": y.std()}
        if self.activates:
            units = 1 if y.ndim == 4 else y.ndim - 1
            figures["dead"] = (y == 0).all(axis=tuple(d for d in range(y.ndim) if d != units)).mean()
        if self.bounds is not None:
            low, high = self.bounds
            near = NEAR * (high - low)
            figures["saturated"] = ((y <= low + near) | (y >= high - near)).mean()
        return figures

    def _gradient(self, grad: Array) -> dict[str, Any]:
        return {"grad_norm": (grad * grad).sum() ** 0.5, "grad_std": grad.std()}


def _release(layer: Layer) -> None:
    for name in ("forward", "backward"):
        vars(layer).pop(name, None)


def _bounds(activation: Activation) -> tuple[float, float] | None:
    """The limits of an activation that levels off on both sides of 0, and not at its value there, as ReLU6 does."""
    far = 1e30
    y, _ = gradfuse.bias_act_forward(np.array([-far, 0.0, far]), None, activation.spec)
    return (float(y[0]), float(y[2])) if -far < y[0] < y[1] < y[2] < far else None
