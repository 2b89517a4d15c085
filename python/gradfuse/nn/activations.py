"""Activations as layers: one class for each row of the list, and those with parameters of their own."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np

import gradfuse
from gradfuse import _core
from gradfuse._arrays import Array
from gradfuse._checks import FINITE, float_dtype, integer, number
from gradfuse._core import Generator
from gradfuse._parameter import Parameter
from gradfuse.nn.epilogue import Epilogue, as_given, in_memory_order, in_order
from gradfuse.nn.layer import Layer, Random

# Names as the papers spell them; those of other rows are capitalised word by word.
_SPELLED = {
    "relu": "ReLU",
    "leaky_relu": "LeakyReLU",
    "elu": "ELU",
    "celu": "CELU",
    "selu": "SELU",
    "silu": "SiLU",
    "gelu": "GELU",
    "gelu_tanh": "GELUTanh",
    "logsigmoid": "LogSigmoid",
    "relu6": "ReLU6",
}


class Activation(Layer):
    """y = f(x), element by element; `spec` is the pair (name, {parameter: value}) that fused functions take."""

    spec: tuple[str, dict[str, float]]

    def __init__(self, name: str, **parameters: float) -> None:
        """name: of gradfuse.activations(); parameters: its own. ValueError for an unknown name or a wrong value."""
        self.spec = (name, parameters)
        gradfuse.bias_act_forward(np.zeros(1, np.float32), None, self.spec)  # which checks it
        self._epilogue = Epilogue(-1, activation=self)

    def forward(self, x: Array) -> Array:
        return self._epilogue.forward(x, self.training)

    def backward(self, grad: Array, *, input_grad: bool = True) -> Array | None:
        return self._epilogue.backward(grad)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{k}={v}' for k, v in self.spec[1].items())})"


def _make_class(name: str) -> type[Activation]:
    info = _core.activation_info(name)
    parameters = info["parameters"]

    signature = inspect.Signature(
        [inspect.Parameter(k, inspect.Parameter.POSITIONAL_OR_KEYWORD, default=v) for k, v in parameters.items()]
    )

    def __init__(self: Activation, *args: float, **given: float) -> None:
        try:
            bound = signature.bind(*args, **given)
        except TypeError:
            raise TypeError(
                f"{type(self).__name__}: parameters are {', '.join(parameters) or 'none'}, got others"
            ) from None
        bound.apply_defaults()
        Activation.__init__(self, name, **bound.arguments)

    defaults = "".join(f"{k} = {v:g}. " for k, v in parameters.items())
    doc = f"y = {info['formula']}, for arrays of any shape.\n\n{defaults}Raises TypeError or ValueError for parameters"
    doc += f" that gradfuse.{name} refuses.\nSource: {info['source']}."
    spelled = _SPELLED.get(name) or name.title().replace("_", "")
    members = {"__init__": __init__, "__doc__": doc, "__module__": __name__, "__signature__": signature}
    return type(spelled, (Activation,), members)


_classes = {c.__name__: c for c in map(_make_class, _core.activations())}
globals().update(_classes)


class PReLU(Layer):
    """y = x if x > 0 else weight * x, the weight learned.

    channels: one weight for all (1), or one per channel on `axis`. init: where they begin.
    Raises ValueError for an x with another number of channels.
    Source: He et al. 2015; torch.nn.PReLU.
    """

    def __init__(self, channels: int = 1, init: float = 0.25, *, axis: int = 1, dtype: Any = "float32") -> None:
        channels, init = integer("PReLU: channels", channels, least=1), number("PReLU: init", init, FINITE)
        self.weight = Parameter(np.full(channels, init, float_dtype("PReLU: dtype", dtype)))
        self.axis = axis

    def forward(self, x: Array) -> Array:
        x, axis, order = in_memory_order(x, self.axis if self.weight.data.size > 1 else 0)
        y, context = gradfuse.prelu_forward(x, self.weight.data, axis=axis)
        self._saved = (order, context) if self.training else None
        return as_given(y, order)

    def backward(self, grad: Array, *, input_grad: bool = True) -> Array | None:
        order, context = self._take()
        dx, dweight = gradfuse.prelu_backward(in_order(grad, order), context)
        if not self.frozen:
            self.weight.add_grad(dweight)
        return as_given(dx, order)

    def __repr__(self) -> str:
        return f"PReLU({self.weight.data.size})"


class RReLU(Random):
    """y = x if x > 0 else a * x; a is drawn from U(lower, upper) per element in training, else (lower + upper) / 2.

    rng: a gradfuse.Generator, or the seed of one. Raises ValueError unless 0 <= lower <= upper.
    Source: Xu et al. 2015; torch.nn.RReLU.
    """

    def __init__(self, lower: float = 1 / 8, upper: float = 1 / 3, *, rng: Generator | int | None = None) -> None:
        self.lower, self.upper = number("RReLU: lower", lower), number("RReLU: upper", upper)
        if self.lower > self.upper:
            raise ValueError(f"RReLU: upper must be at least lower, {lower!r}, got {upper!r}")
        super().__init__(rng)

    def forward(self, x: Array) -> Array:
        x, _, order = in_memory_order(x, 0)
        y, context = gradfuse.rrelu_forward(x, self.lower, self.upper, training=self.training, rng=self.rng)
        self._saved = (order, context) if self.training else None
        return as_given(y, order)

    def backward(self, grad: Array, *, input_grad: bool = True) -> Array | None:
        order, context = self._take()
        return as_given(gradfuse.rrelu_backward(in_order(grad, order), context), order)


class Maxout(Layer):
    """y[c] = max over k of x[k C + c], channels on `axis`: (N, num_pieces * C) becomes (N, C).

    After Linear(n, num_pieces * C) it is the maxout unit.
    Raises ValueError where num_pieces does not divide the channels. Source: Goodfellow et al. 2013.
    """

    def __init__(self, num_pieces: int, *, axis: int = 1) -> None:
        self.num_pieces, self.axis = integer("Maxout: num_pieces", num_pieces, least=1), axis

    def forward(self, x: Array) -> Array:
        y, context = gradfuse.maxout_forward(x, self.num_pieces, axis=self.axis)
        self._saved = (context,) if self.training else None
        return y

    def backward(self, grad: Array, *, input_grad: bool = True) -> Array | None:
        return gradfuse.maxout_backward(grad, *self._take())

    def __repr__(self) -> str:
        return f"Maxout({self.num_pieces})"


__all__ = ["Activation", "Maxout", "PReLU", "RReLU", *_classes]
