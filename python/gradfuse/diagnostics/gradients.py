"""Is a backward right? Gradients beside central differences of the forward, in float64."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gradfuse._arrays import Array, namespace
from gradfuse._checks import POSITIVE, generator, number
from gradfuse.diagnostics.report import Report, learned, twin
from gradfuse.nn.layer import Layer

EPSILON, TINY = float(np.finfo(np.float64).eps), float(np.finfo(np.float64).tiny)


@dataclass(frozen=True)
class Element:
    """An element of an array: its gradient by the backward and by central differences, and how far apart they are."""

    array: str
    index: tuple[int, ...]
    gradient: float
    difference: float
    error: float


@dataclass(frozen=True)
class GradCheck(Report):
    """`worst`: of each array the element with the largest relative error, the largest of all first."""

    worst: tuple[Element, ...]
    tolerance: float

    @property
    def error(self) -> float:
        """The largest relative error of all."""
        return self.worst[0].error

    @property
    def ok(self) -> bool:
        return self.error <= self.tolerance

    def verdict(self) -> str:
        if self.ok:
            return f"Right: the relative error is at most {self.error:.1e}, within {self.tolerance:g}."
        wrong = [
            f"{e.array} at {e.index} has the gradient {e.gradient:.6g}, by central differences {e.difference:.6g}"
            for e in self.worst
            if e.error > self.tolerance
        ]
        return f"Wrong: {'; '.join(wrong)}; the relative error is {self.error:.1e}, more than {self.tolerance:g}."


def gradcheck(
    f: Callable[..., Any],
    f_backward: Callable[..., Any],
    arrays: Array | Sequence[Array],
    *,
    eps: float = 1e-5,
    tolerance: float = 1e-5,
    rng: np.random.Generator | int | None = 0,
) -> GradCheck:
    """Compares a backward of anyone's with (f(x + h) - f(x - h)) / 2h, h = eps * max(1, abs(x)), in every element.

    f(*arrays) gives an array or a number; f_backward(grad_out, *arrays) the gradient of sum(grad_out * f) with respect
    to each array, None for those that are not to be checked; where there is one array, it alone. arrays are cast to
    float64 and copied; grad_out, of f's shape, is drawn from the normal distribution by `rng`. Labels and masks belong
    into f. No array may hold a kink of f, as ReLU has at 0, within h of an element: differences tell nothing there.

    An element's relative error is abs(a - b) / max(abs(a), abs(b), floor). Below the floor lies what the rounding of f
    does to b: 10 * 2.2e-16 * sum(abs(grad_out * f)) / eps is `tolerance` times the floor.
    A wrong gradient is in the report, which is then false: `assert report, report`. Raises TypeError for arrays of a
    wrong kind and for a result that is not float64, ValueError for one that is not finite or differs between two calls,
    for another number of gradients than of arrays or other shapes, and where nothing is left to be checked.
    Source: Karpathy, CS231n, Neural networks 3: gradient checks; torch.autograd.gradcheck.
    """
    given = [arrays] if hasattr(arrays, "dtype") else list(arrays)
    named = {f"arrays[{i}]": a for i, a in enumerate(given)}
    return _compared("gradcheck", f, f_backward, named, eps, tolerance, rng)


def gradcheck_layer(
    layer: Layer,
    x: Array,
    *,
    eps: float = 1e-5,
    tolerance: float = 1e-5,
    rng: np.random.Generator | int | None = 0,
) -> GradCheck:
    """Checks a layer's gradients with respect to x and to each of its parameters that is not frozen; see gradcheck.

    A copy of the layer in float64 and in training mode is checked: batch norm uses the batch, and dropout the same
    masks at every forward, for the states of layer.generators() are set back. The layer itself stays as it is.
    Raises as gradcheck, and TypeError where the layer's backward returns no gradient.
    """
    checked = twin(layer).astype(np.float64)
    parameters = learned(checked)
    generators = [(g, g.state_dict()) for g in checked.generators()]

    def f(x: Array, *data: Array) -> Array:
        for p, a in zip(parameters.values(), data, strict=True):
            p.data[...] = a
        for g, state in generators:
            g.load_state_dict(state)
        return checked.forward(x)

    def f_backward(grad_out: Array, x: Array, *data: Array) -> list[Array]:
        f(x, *data)
        dx = checked.backward(grad_out)
        if dx is None:
            raise TypeError("gradcheck_layer: layer.backward must return the gradient of x, got None")
        zeros = namespace(x).zeros  # of parameters that got no gradient
        return [dx, *(zeros(p.shape) if p.grad is None else p.grad for p in parameters.values())]

    arrays = {"x": x, **{name: p.data for name, p in parameters.items()}}
    return _compared("gradcheck_layer", f, f_backward, arrays, eps, tolerance, rng)


def _compared(
    where: str,
    f: Callable[..., Any],
    f_backward: Callable[..., Any],
    named: dict[str, Array],
    eps: float,
    tolerance: float,
    rng: np.random.Generator | int | None,
) -> GradCheck:
    eps = number(f"{where}: eps", eps, POSITIVE)
    tolerance = number(f"{where}: tolerance", tolerance, POSITIVE)
    arrays = [_float64(f"{where}: {name}", a) for name, a in named.items()]
    y = _result(where, f, arrays)
    if not namespace(y).isfinite(y).all():
        raise ValueError(f"{where}: f must give finite numbers, got {y}")
    if not (y == _result(where, f, arrays)).all():
        raise ValueError(f"{where}: f must give the same numbers at every call with the same arrays, got others")
    grad_out = namespace(y).asarray(generator(where, rng).standard_normal(y.shape))
    gradients = f_backward(grad_out, *(a.copy() for a in arrays))
    gradients = [gradients] if hasattr(gradients, "dtype") else list(gradients)
    if len(gradients) != len(arrays):
        raise ValueError(f"{where}: f_backward must return {len(arrays)} gradients, got {len(gradients)}")

    floor = 10 * EPSILON * float(abs(grad_out * y).sum()) / (eps * tolerance) + TINY
    worst = []
    for name, a, gradient in zip(named, arrays, gradients, strict=True):
        if gradient is None or not a.size:
            continue
        if tuple(gradient.shape) != a.shape:
            raise ValueError(f"{where}: the gradient of {name} must have shape {a.shape}, got {tuple(gradient.shape)}")
        difference = _differences(lambda: _result(where, f, arrays), a, grad_out, eps)
        worst.append(_worst(name, gradient, difference, floor))
    if not worst:
        raise ValueError(f"{where}: f_backward must return a gradient to be checked, got none")
    return GradCheck(tuple(sorted(worst, key=lambda e: -e.error)), tolerance)


def _float64(where: str, a: Array) -> Array:
    """A copy, C-contiguous."""
    xp = namespace(a, where)
    if a.dtype.kind in "bcOSUM":
        raise TypeError(f"{where} must hold real numbers, got {a.dtype}")
    return xp.array(a, np.float64, order="C")


def _result(where: str, f: Callable[..., Any], arrays: Sequence[Array]) -> Array:
    """A copy of f's result, which may be one of its arrays."""
    y = namespace(arrays[0]).array(f(*arrays))
    if y.dtype != np.float64:
        raise TypeError(f"{where}: f must compute in float64 where its arrays are float64, got {y.dtype}")
    return y


def _differences(f: Callable[[], Array], a: Array, grad_out: Array, eps: float) -> Array:
    """d sum(grad_out * f) / da by central differences; f depends on `a`, which is changed in place and set back."""
    elements = a.reshape(-1)
    slopes = namespace(a).empty_like(elements)
    for i in range(a.size):
        value = float(elements[i])
        h = eps * max(1.0, abs(value))
        elements[i] = above = value + h
        rise = f()
        elements[i] = below = value - h
        rise -= f()
        elements[i] = value
        slopes[i] = (grad_out * rise).sum() / (above - below)
    return slopes.reshape(a.shape)


def _worst(name: str, gradient: Array, difference: Array, floor: float) -> Element:
    xp = namespace(difference)
    with np.errstate(invalid="ignore", over="ignore"):
        size = xp.maximum(xp.maximum(abs(gradient), abs(difference)), floor)
        error = abs(gradient - difference) / size
    error = xp.where(xp.isfinite(error), error, np.inf)
    index = tuple(int(i) for i in np.unravel_index(int(error.argmax()), error.shape))
    return Element(name, index, float(gradient[index]), float(difference[index]), float(error[index]))
