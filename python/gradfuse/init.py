"""Initialisers: what weights are drawn from before training, given their shape and a seed."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from gradfuse import _core
from gradfuse._checks import FINITE, float_dtype, generator, is_integer, number

Float64 = npt.NDArray[np.float64]
Shape = tuple[int, ...]


class Initialiser:
    """Draws arrays of a shape. It can be printed, compared, copied and pickled."""

    def __call__(
        self,
        shape: Shape,
        rng: np.random.Generator | int | None = None,
        *,
        dtype: npt.DTypeLike = "float32",
        in_axis: int = 0,
        out_axis: int = 1,
    ) -> npt.NDArray[Any]:
        """A NumPy array of this shape and dtype, its values drawn in float64 and cast.

        rng: a seed, a numpy.random.Generator, or None for other values at every call.
        dtype: float16, bfloat16, float32 or float64.
        in_axis, out_axis: where the shape has inputs and outputs; the other axes, the receptive field, multiply both
        fans. Dense weights (in, out) have 0 and 1, those of a convolution (out, in / groups, height, width) 1 and 0.
        Raises TypeError for a wrong kind or dtype, ValueError for a wrong value or axes that a shape lacks but needs.
        """
        where = type(self).__name__
        if not isinstance(shape, (tuple, list)) or not all(map(is_integer, shape)):
            raise TypeError(f"{where}: shape must be a tuple of integers, got {shape!r}")
        if any(n < 0 for n in shape):
            raise ValueError(f"{where}: shape must be of integers >= 0, got {shape!r}")
        dtype = float_dtype(f"{where}: dtype", dtype)
        return np.array(self._draw(tuple(shape), generator(where, rng), in_axis, out_axis), dtype, order="C")

    def _draw(self, shape: Shape, rng: np.random.Generator, in_axis: int, out_axis: int) -> Float64:
        raise NotImplementedError


# -- variance scaling


def _uniform(rng: np.random.Generator, shape: Shape) -> Float64:
    return rng.uniform(-math.sqrt(3), math.sqrt(3), shape)


def _normal(rng: np.random.Generator, shape: Shape) -> Float64:
    return rng.standard_normal(shape)


def _truncated(rng: np.random.Generator, shape: Shape) -> Float64:
    values = rng.standard_normal(shape)
    while (beyond := np.abs(values) > 2).any():
        values[beyond] = rng.standard_normal(np.count_nonzero(beyond))
    return values / 0.87962566103423978  # the standard deviation that the cut leaves


_DISTRIBUTIONS = {"uniform": _uniform, "normal": _normal, "truncated": _truncated}  # all of mean 0 and variance 1
_MODES = {"fan_in": (1.0, 0.0), "fan_out": (0.0, 1.0), "fan_avg": (0.5, 0.5)}


@dataclass(frozen=True)
class VarianceScaling(Initialiser):
    """Mean 0, variance scale / fan."""

    scale: float
    mode: str
    distribution: str

    def _draw(self, shape: Shape, rng: np.random.Generator, in_axis: int, out_axis: int) -> Float64:
        i = _axis("VarianceScaling: in_axis", in_axis, shape)
        o = _axis("VarianceScaling: out_axis", out_axis, shape)
        if i == o:
            raise ValueError(f"VarianceScaling: in_axis and out_axis must differ, got {in_axis} and {out_axis}")
        field = math.prod(n for axis, n in enumerate(shape) if axis not in (i, o))
        of_inputs, of_outputs = _MODES[self.mode]
        fan = (of_inputs * shape[i] + of_outputs * shape[o]) * field
        return math.sqrt(self.scale / max(fan, 1.0)) * _DISTRIBUTIONS[self.distribution](rng, shape)


def he(distribution: str = "normal", *, negative_slope: float = 0.0, mode: str = "fan_in") -> VarianceScaling:
    """Variance 2 / (1 + negative_slope^2) / fan: that of the activations stays, through layers of ReLU.

    distribution: "normal", "uniform" up to +-sqrt(3 variance), or "truncated": normal and cut at two standard
    deviations, after it was widened so that the cut leaves that variance.
    negative_slope: that of a leaky ReLU.
    mode: "fan_in", "fan_out", with which the gradients' variance stays, or "fan_avg", their mean.
    Raises TypeError for a wrong kind, ValueError for a wrong value.
    Source: He et al. 2015; torch.nn.init.kaiming_normal_, kaiming_uniform_; truncated: keras.initializers.HeNormal.
    """
    slope = number("he: negative_slope", negative_slope, FINITE)
    return _scaling("he", 2 / (1 + slope * slope), mode, distribution)


def glorot(distribution: str = "uniform", *, gain: float = 1.0) -> VarianceScaling:
    """Variance gain^2 * 2 / (fan_in + fan_out): a middle way between what keeps activations and what keeps gradients.

    distribution as in `he`. Raises TypeError for a wrong kind, ValueError for a wrong value.
    Source: Glorot and Bengio 2010; torch.nn.init.xavier_uniform_, xavier_normal_.
    """
    gain = number("glorot: gain", gain, FINITE)
    return _scaling("glorot", gain * gain, "fan_avg", distribution)


def lecun(distribution: str = "normal") -> VarianceScaling:
    """Variance 1 / fan_in, as SELU asks for. distribution as in `he`.

    Raises ValueError for another distribution.
    Source: LeCun, Bottou, Orr and Müller 1998; keras.initializers.LecunNormal; torch's "linear" gain.
    """
    return _scaling("lecun", 1.0, "fan_in", distribution)


def _scaling(where: str, scale: float, mode: str, distribution: str) -> VarianceScaling:
    for name, given, known in ("mode", mode, _MODES), ("distribution", distribution, _DISTRIBUTIONS):
        if given not in list(known):
            raise ValueError(f"{where}: {name} must be one of {', '.join(map(repr, known))}, got {given!r}")
    return VarianceScaling(scale, mode, distribution)


# -- others


@dataclass(frozen=True)
class Orthogonal(Initialiser):
    gain: float

    def _draw(self, shape: Shape, rng: np.random.Generator, in_axis: int, out_axis: int) -> Float64:
        axis = _axis("Orthogonal: out_axis", out_axis, shape)
        columns, others = shape[axis], shape[:axis] + shape[axis + 1 :]
        rows = math.prod(others)
        q, r = np.linalg.qr(rng.standard_normal((max(rows, columns), min(rows, columns))))
        q *= self.gain * np.sign(np.diag(r))  # without r's signs not all such matrices would be equally likely
        matrix = q if rows >= columns else q.T
        return np.moveaxis(matrix.reshape(*others, columns), -1, axis)


def orthogonal(gain: float = 1.0) -> Orthogonal:
    """gain * Q, flattened over all axes but out_axis: rows or columns, whichever are fewer, are orthonormal in Q.

    Q is drawn uniformly from all such matrices. Raises TypeError or ValueError unless gain is a finite number.
    Source: Saxe, McClelland and Ganguli 2014, Mezzadri 2007; torch.nn.init.orthogonal_.
    """
    return Orthogonal(number("orthogonal: gain", gain, FINITE))


@dataclass(frozen=True)
class Normal(Initialiser):
    std: float

    def _draw(self, shape: Shape, rng: np.random.Generator, in_axis: int, out_axis: int) -> Float64:
        return self.std * rng.standard_normal(shape)


def normal(std: float = 0.01) -> Normal:
    """Small random values: normal, of mean 0 and this standard deviation, whatever the fans.

    Raises TypeError or ValueError unless std is a finite number >= 0.
    Source: Krizhevsky, Sutskever and Hinton 2012; torch.nn.init.normal_.
    """
    return Normal(number("normal: std", std))


@dataclass(frozen=True)
class Constant(Initialiser):
    value: float

    def _draw(self, shape: Shape, rng: np.random.Generator, in_axis: int, out_axis: int) -> Float64:
        return np.full(shape, self.value)


def constant(value: float) -> Constant:
    """The same value everywhere. Raises TypeError or ValueError unless it is a finite number.

    Source: torch.nn.init.constant_.
    """
    return Constant(number("constant: value", value, FINITE))


def zeros() -> Constant:
    """Zero everywhere: biases. Source: torch.nn.init.zeros_."""
    return Constant(0.0)


# -- by activation

_SATURATING = {"hardsigmoid", "hardtanh", "logsigmoid", "sigmoid", "softmax", "softsign", "tanh"}
_LEAKY = {"leaky_relu", "prelu", "rrelu"}  # the mean of their parameters is the slope
_NOT_ELEMENTWISE: dict[str, dict[str, float]] = {
    "prelu": {"init": 0.25},
    "rrelu": {"lower": 1 / 8, "upper": 1 / 3},
    "maxout": {"num_pieces": 2},
    "softmax": {},
}


def for_activation(activation: str | tuple[str, dict[str, float]] | None = None) -> VarianceScaling:
    """What suits weights that an activation follows.

    Glorot's uniform for none and for those that saturate (sigmoid, tanh, softsign, hardtanh, hardsigmoid, logsigmoid,
    softmax), LeCun's normal for selu, He's normal for all others, with their slope for leaky_relu (0.01 unless given),
    prelu (`init`, 0.25) and rrelu (the mean of `lower` and `upper`).
    activation: a name of gradfuse.activations(), "prelu", "rrelu", "maxout" or "softmax", or a pair (name, {parameter:
    value}). Raises TypeError for a wrong kind, ValueError for an unknown name or parameter.
    Source: torch.nn.init.calculate_gain; selu: Klambauer, Unterthiner, Mayr and Hochreiter 2017.
    """
    if activation is None:
        return glorot()
    name, given = activation if isinstance(activation, tuple) and len(activation) == 2 else (activation, {})
    if not isinstance(name, str) or not isinstance(given, dict):
        wanted = "a name, a pair (name, {parameter: value}) or None"
        raise TypeError(f"for_activation: activation must be {wanted}, got {activation!r}")
    parameters = _parameters(name)
    for key in given.keys() - parameters.keys():
        raise ValueError(f"for_activation: {name} has no parameter {key!r}")
    if name in _SATURATING:
        return glorot()
    if name == "selu":
        return lecun()
    if name in _LEAKY:
        slopes = [number(f"for_activation: {key}", value, FINITE) for key, value in {**parameters, **given}.items()]
        return he(negative_slope=sum(slopes) / len(slopes))
    return he()


def _parameters(name: str) -> dict[str, float]:
    """An activation's parameters and their defaults."""
    if name in _NOT_ELEMENTWISE:
        return _NOT_ELEMENTWISE[name]
    if name not in _core.activations():
        known = ", ".join([*_core.activations(), *_NOT_ELEMENTWISE])
        raise ValueError(f"for_activation: activation must be one of {known}, got {name!r}")
    parameters: dict[str, float] = _core.activation_info(name)["parameters"]
    return parameters


# -- checks


def _axis(where: str, axis: Any, shape: Shape) -> int:
    """The axis, counted from the first."""
    if not is_integer(axis):
        raise TypeError(f"{where} must be an integer, got {axis!r}")
    if not -len(shape) <= axis < len(shape):
        raise ValueError(f"{where} must be an axis of the shape {shape}, got {axis}")
    return int(axis) % len(shape)


__all__ = [
    "Initialiser",
    "constant",
    "for_activation",
    "glorot",
    "he",
    "lecun",
    "normal",
    "orthogonal",
    "zeros",
]
