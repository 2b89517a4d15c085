"""Layers one after another, joined into fused calls where that is possible."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from typing import Any

import numpy as np

import gradfuse
from gradfuse._arrays import Array
from gradfuse._parameter import Parameter
from gradfuse.nn.activations import Activation, Maxout, PReLU, RReLU
from gradfuse.nn.dropout import Dropout
from gradfuse.nn.epilogue import Epilogue
from gradfuse.nn.layer import Layer, Seeds
from gradfuse.nn.linear import LinearMap
from gradfuse.nn.normalization import BatchNorm


class Fused(Layer):
    """A linear map, or none, and the epilogue that follows it. It owns nothing: parameters are those of its layers."""

    def __init__(self, first: Layer, linear: LinearMap | None, epilogue: Epilogue) -> None:
        self.first, self.linear, self.epilogue = first, linear, epilogue

    def forward(self, x: Array) -> Array:
        if self.linear is not None:
            x = self.linear.forward(x) if self.epilogue.norm else self.linear.map(x)
        return self.epilogue.forward(x, self.first.training)

    def backward(self, grad: Array, *, input_grad: bool = True) -> Array | None:
        grad = self.epilogue.backward(grad)
        if self.linear is None:
            return grad
        if self.epilogue.norm:
            return self.linear.backward(grad, input_grad=input_grad)
        return self.linear.map_backward(grad, input_grad)


class Sequential(Layer):
    """layers[-1](... layers[0](x)).

    Weights of layers that were given no seed are drawn to suit the activation that follows them, but for those that
    have been trained, loaded or set. rng: the seed of those weights and of the dropout's streams, for runs that can be
    repeated; an outer Sequential's reaches those within.
    fuse: Linear or Conv2D, BatchNorm, an activation of the list and Dropout that follow each other in this order, or
    the activation before the BatchNorm, run as one call of gradfuse's each; results are equal but for the rounding of
    half-precision intermediates. reset=False leaves the layers' weights and streams as they are.
    Raises TypeError for what is no layer, ValueError for one that is there twice: each remembers a single forward.
    """

    def __init__(
        self, *layers: Layer, fuse: bool = True, rng: np.random.Generator | int | None = None, reset: bool = True
    ) -> None:
        for i, layer in enumerate(layers):
            if not isinstance(layer, Layer):
                raise TypeError(f"Sequential: layers[{i}] must be a layer, got {type(layer).__name__}")
        self._layers = layers
        self._joined = tuple(_joined(layers))
        self._check_once()
        self.fuse(fuse)
        if not reset:
            return
        seeds, followed, after = Seeds("Sequential", rng), [], None
        for layer in reversed(layers):
            pairs, after = _followed(layer, after)
            followed += reversed(pairs if layer.is_new() else [])
        for leaf, activation in reversed(followed):
            leaf.reset(seeds, activation)

    def _check_once(self) -> None:
        names: dict[int, str] = {}
        for name, layer in self.layers():
            if (first := names.setdefault(id(layer), name)) != name:
                raise ValueError(f"Sequential: layer {name} must be one of its own, got layer {first} once more")

    def children(self) -> dict[str, Layer]:
        return {str(i): layer for i, layer in enumerate(self._layers)} | super().children()

    def fuse(self, fuse: bool = True) -> Sequential:
        """Joins layers into fused calls, or runs each by itself, for those who look at what lies between."""
        self._stages = self._joined if fuse else self._layers
        return self

    @property
    def fused(self) -> bool:
        """Whether layers are joined into fused calls."""
        return self._stages is self._joined

    def forward(self, x: Array) -> Array:
        for stage in self._stages:
            x = stage.forward(x)
        return x

    def backward(self, grad: Array, *, input_grad: bool = True) -> Array | None:
        """Adds to the parameters' gradients; where the input's is not wanted, frozen first layers are left out."""
        first = 0 if input_grad else self._first_learning()
        for i in range(len(self._stages) - 1, first - 1, -1):
            wanted = self._stages[i].backward(grad, input_grad=input_grad or i > first)
            if wanted is not None:
                grad = wanted
        return grad if input_grad else None

    def fold(self) -> Sequential:
        """A copy for inference, each BatchNorm right after a Linear or Conv2D folded into that layer's weight and bias.

        W' = W weight / sqrt(running_var + eps), b' = (b - running_mean) weight / sqrt(running_var + eps) + bias.
        What follows a Linear with axis 1 is taken to be of inputs (N, features).
        Source: gradfuse.fold_batch_norm.
        """
        return copy.deepcopy(self)._folded()

    def _folded(self) -> Sequential:
        if type(self).forward is not Sequential.forward:
            return self.eval()  # what a subclass makes of its layers is its own
        folded: list[Layer] = []
        for layer in self._layers:
            before = folded[-1] if folded else None
            if isinstance(layer, BatchNorm) and isinstance(before, LinearMap) and _folds(before, layer):
                folded[-1] = _with_norm(before, layer)
            elif isinstance(layer, Sequential):
                folded.append(layer._folded())
            else:
                if isinstance(layer, Residual):
                    layer._fold()
                folded.append(layer)
        return Sequential(*folded, fuse=self.fused, reset=False).eval()

    def _first_learning(self) -> int:
        for i, stage in enumerate(self._stages):
            linear = stage.linear if isinstance(stage, Fused) else stage
            if isinstance(linear, LinearMap) and not linear.frozen:
                return i  # the usual case, at once
            layers = [linear, stage.epilogue.norm] if isinstance(stage, Fused) else [stage]
            if any(layer is not None and _learns(layer) for layer in layers):
                return i
        return len(self._stages)

    def __len__(self) -> int:
        return len(self._layers)

    def __getitem__(self, i: int | slice) -> Any:
        """A layer; of a slice a Sequential of the very same layers."""
        return Sequential(*self._layers[i], fuse=self.fused, reset=False) if isinstance(i, slice) else self._layers[i]

    def __iter__(self) -> Iterator[Layer]:
        return iter(self._layers)

    def __repr__(self) -> str:
        return f"Sequential({', '.join(map(repr, self._layers))})"


class Residual(Layer):
    """y = f(body(x) + shortcut(x)), the shortcut x itself and f nothing unless given.

    activation: a layer of the list's, for example ReLU(). The sum and f are one call.
    Raises TypeError for what is no layer or activation of the list, ValueError where the two have different shapes.
    Source: He et al. 2016.
    """

    def __init__(self, body: Layer, shortcut: Layer | None = None, activation: Activation | None = None) -> None:
        for name, given in ("body", body), ("shortcut", shortcut):
            if not isinstance(given, Layer) and (given is not None or name == "body"):
                raise TypeError(f"Residual: {name} must be a layer, got {given!r}")
        if activation is not None and (not isinstance(activation, Layer) or _letter(activation) != "A"):
            raise TypeError(f"Residual: activation must be a layer of the list of activations, got {activation!r}")
        self.body, self.shortcut, self.activation = body, shortcut, activation

    def forward(self, x: Array) -> Array:
        side = x if self.shortcut is None else self.shortcut.forward(x)
        spec = self.activation.spec if self.activation else None
        y, context = gradfuse.bias_act_forward(self.body.forward(x), None, spec, residual=side)
        self._saved = (context,) if self.training else None
        return y

    def backward(self, grad: Array, *, input_grad: bool = True) -> Array | None:
        dbody, _, dside = gradfuse.bias_act_backward(grad, *self._take())
        dx = self.body.backward(dbody, input_grad=input_grad)
        if self.shortcut is not None:
            dside = self.shortcut.backward(dside, input_grad=input_grad)
        return dx + dside if input_grad else None

    def __repr__(self) -> str:
        return f"Residual({self.body!r})"

    def _fold(self) -> None:
        """Folds the batch norms of body and shortcut, in place."""
        if isinstance(self.body, Sequential):
            self.body = self.body._folded()
        if isinstance(self.shortcut, Sequential):
            self.shortcut = self.shortcut._folded()


def _folds(before: LinearMap, norm: BatchNorm) -> bool:
    return _letter(before) + _letter(norm) == "LN" and norm.axis in (1, before.axis)


def _with_norm(linear: LinearMap, norm: BatchNorm) -> LinearMap:
    mean, var, weight, bias = norm.arrays
    b = linear.bias.data if linear.bias else None
    w, b = gradfuse.fold_batch_norm(linear.weight.data, b, mean, var, weight, bias, norm.eps, axis=linear.out_axis)
    linear.weight, linear.bias = Parameter(w), Parameter(b)
    return linear


def _followed(layer: Layer, after: Any) -> tuple[list[tuple[Layer, Any]], Any]:
    """The layers within a layer, each with the activation that follows it, and the first activation of them all.

    As gradfuse.init.for_activation takes them; None where a linear map comes first. after: what follows the layer.
    """
    if isinstance(layer, LinearMap):
        return [(layer, after)], None
    if isinstance(layer, Activation):
        return [(layer, after)], layer.spec
    if isinstance(layer, (Maxout, PReLU, RReLU)):
        return [(layer, after)], type(layer).__name__.lower()
    if isinstance(layer, Residual):
        after = layer.activation.spec if layer.activation else after
        body, first = _followed(layer.body, after)
        return body + (_followed(layer.shortcut, after)[0] if layer.shortcut else []), first
    found: list[tuple[Layer, Any]] = []
    for child in reversed(layer.children().values()):
        pairs, after = _followed(child, after)
        found = pairs + found
    return found or [(layer, after)], after


def _learns(layer: Layer) -> bool:
    return any(inner.own_parameters() and not inner.frozen for _, inner in layer.layers())


# What a fused call is made of, by letters; a subclass with a forward or backward of its own is left by itself.
_KINDS: dict[str, type[Layer]] = {"L": LinearMap, "N": BatchNorm, "A": Activation, "D": Dropout}


def _letter(layer: Layer) -> str:
    kind = type(layer)
    letters = (k for k, known in _KINDS.items() if (kind.forward, kind.backward) == (known.forward, known.backward))
    return next(letters, "-")


def _joined(layers: tuple[Layer, ...]) -> Iterator[Layer]:
    for match in re.finditer("-|L?(?:NA?|AN?)?D?", "".join(map(_letter, layers))):
        found = layers[match.start() : match.end()]
        if len(found) < 2:
            yield from found
            continue
        part: dict[str, Any] = dict(zip(match[0], found, strict=True))
        linear, norm = part.get("L"), part.get("N")
        axis = norm.axis if norm else linear.axis if linear else -1
        epilogue = Epilogue(axis, None if norm else linear, norm, part.get("A"), part.get("D"), "AN" in match[0])
        yield Fused(found[0], linear, epilogue)
