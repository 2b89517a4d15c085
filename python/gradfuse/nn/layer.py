"""What every layer has: a forward that remembers, a backward, parameters, and a state that can be saved."""

from __future__ import annotations

from collections.abc import ItemsView, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import numpy as np

from gradfuse import _interop
from gradfuse._arrays import Array, namespace, to_numpy
from gradfuse._checks import float_dtype, generator
from gradfuse._core import Generator
from gradfuse._parameter import Parameter

Self = TypeVar("Self", bound="Layer")


class Remembers:
    """What a forward leaves for its backward, once. It is no part of a copy."""

    _saved: Any = None

    def _take(self) -> Any:
        saved, self._saved = self._saved, None
        if saved is None:
            raise RuntimeError(f"{self._owner()}.backward: forward must be called before it, in training mode")
        return saved

    def _owner(self) -> str:
        return type(self).__name__

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_saved"}


class Seeds:
    """Where the random numbers of a model come from: weights by NumPy, the streams of dropout by one Generator."""

    def __init__(self, where: str, rng: np.random.Generator | int | None) -> None:
        self.given = rng is not None
        self.weights = generator(where, rng)
        self.streams = Generator(int(self.weights.integers(2**63)))


def stream(where: str, rng: Generator | int | None) -> Generator:
    """The Generator itself, that of a seed, or for None one of fresh entropy."""
    if isinstance(rng, Generator):
        return rng
    return Generator(rng) if isinstance(rng, (int, np.integer)) else Seeds(where, rng).streams


class Layer(Remembers):
    """A function of one array with a backward of its own.

    `forward` in training mode keeps what `backward` needs, and `backward`, called once with the gradient of the loss
    with respect to the result, adds to the `.grad` of the layer's parameters and returns the gradient with respect to
    the input. Layers, parameters and generators that are attributes of a layer are its own; `buffers` names the arrays
    that are saved with it and not learned.
    """

    training: bool = True
    frozen: bool = False
    buffers: tuple[str, ...] = ()

    def forward(self, x: Array) -> Array:
        """The layer's result for x."""
        raise NotImplementedError

    def backward(self, grad: Array, *, input_grad: bool = True) -> Array | None:
        """Adds to the parameters' gradients; returns that of the input, or None where input_grad=False spares it."""
        raise NotImplementedError

    def __call__(self, x: Array) -> Array:
        """The layer's result for x. TypeError where x is no array of NumPy or CuPy."""
        namespace(x, f"{type(self).__name__}: x")
        return self.forward(x)

    def reset(self, seeds: Seeds, activation: Any = None) -> None:
        """Draws anew what is random in the layer and was given no seed; `activation` is what follows it."""

    def is_new(self) -> bool:
        """Whether nothing within has been frozen, trained, loaded or set."""
        return not self.frozen and all(child.is_new() for child in self.children().values())

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"

    # -- what the layer is made of

    def own_parameters(self) -> dict[str, Parameter]:
        """The parameters that are attributes of this layer itself, by name."""
        return {name: value for name, value in vars(self).items() if isinstance(value, Parameter)}

    def children(self) -> dict[str, Layer]:
        """The layers directly within this one, by name."""
        return {name: value for name, value in vars(self).items() if isinstance(value, Layer)}

    def layers(self) -> Iterator[tuple[str, Layer]]:
        """This layer and all within it, with their names: "" for itself, then for example "2.body"."""
        yield "", self
        for name, child in self.children().items():
            for within, layer in child.layers():
                yield f"{name}.{within}".rstrip("."), layer

    def named_parameters(self) -> ItemsView[str, Parameter]:
        """Pairs of a name and a parameter, for this layer and all within it, each once."""
        found: dict[int, tuple[str, Parameter]] = {}
        for prefix, layer in self.layers():
            for name, p in layer.own_parameters().items():
                found.setdefault(id(p), (f"{prefix}.{name}".lstrip("."), p))
        return dict(found.values()).items()

    def parameters(self) -> list[Parameter]:
        """The parameters of this layer and all within it, each once: what an optimizer takes."""
        return [p for _, p in self.named_parameters()]

    def generators(self) -> list[Generator]:
        """The sources of random streams of this layer and all within it, each once."""
        found = [v for _, layer in self.layers() for v in vars(layer).values() if isinstance(v, Generator)]
        return list({id(g): g for g in found}.values())

    # -- modes

    def train(self: Self, mode: bool = True) -> Self:
        """Sets training mode (batch statistics, dropout) or, with mode=False, inference for all layers within."""
        for _, layer in self.layers():
            layer.training = mode
        return self

    def eval(self: Self) -> Self:
        """Sets inference: running statistics, no dropout, and nothing kept for a backward."""
        return self.train(False)

    def freeze(self: Self, frozen: bool = True) -> Self:
        """Parameters within get no gradient, so that no optimizer moves them; batch norm uses running statistics."""
        for _, layer in self.layers():
            layer.frozen = frozen
        if frozen:
            self.zero_grad()
        return self

    def unfreeze(self: Self) -> Self:
        """Undoes freeze()."""
        return self.freeze(False)

    def zero_grad(self) -> None:
        """Forgets the gradients of all parameters."""
        for p in self.parameters():
            p.grad = None

    # -- arrays

    def _arrays(self) -> dict[str, Array]:
        arrays = {name: p.data for name, p in self.named_parameters()}
        for prefix, layer in self.layers():
            arrays |= {f"{prefix}.{name}".lstrip("."): getattr(layer, name) for name in layer.buffers}
        return arrays

    def state_dict(self) -> dict[str, Array]:
        """Copies of all parameters and buffers, by name."""
        return {name: _interop.copied(array) for name, array in self._arrays().items()}

    def load_state_dict(self, state: dict[str, Array], *, strict: bool = True) -> list[str]:
        """Writes a state's arrays into the layer's own; returns the names that were taken.

        strict=False takes those that are in both, for transfer from another model. An optimizer that keeps
        master_weights of these parameters is to be told by its refresh_master_weights().
        Raises TypeError for what is no dict, ValueError for names that are missing or unknown (strict), for a wrong
        shape or dtype, and then changes nothing.
        """
        where = f"{type(self).__name__}.load_state_dict: state"
        if not isinstance(state, dict):
            raise TypeError(f"{where} must be what state_dict() returned, got {type(state).__name__}")
        mine = self._arrays()
        for name in sorted(mine.keys() ^ state.keys()) if strict else ():
            raise ValueError(f"{where} must hold {', '.join(mine)}; {name!r} is in one of the two only")
        taken = [name for name in mine if name in state]
        for name in taken:
            a, b = mine[name], state[name]
            if not hasattr(b, "dtype"):
                raise TypeError(f"{where}[{name!r}] must be an array, got {type(b).__name__}")
            if tuple(a.shape) != tuple(b.shape) or str(a.dtype) != str(b.dtype):
                raise ValueError(f"{where}[{name!r}] must be {_form(a)}, got {_form(b)}")
        for name in taken:
            _interop.assign(mine[name], state[name])
        return taken

    def _convert(self: Self, f: Any) -> Self:
        for _, layer in self.layers():
            layer._convert_own(f)
        return self

    def _convert_own(self, f: Any) -> None:
        for p in self.own_parameters().values():
            p.data, p.grad = f(self, p.data), None
        for name in self.buffers:
            setattr(self, name, f(self, getattr(self, name)))

    def dtype_within(self, dtype: np.dtype[Any]) -> np.dtype[Any]:
        """The dtype of the layer's own arrays in a model of dtype."""
        return dtype

    def astype(self: Self, dtype: Any) -> Self:
        """Turns all floating arrays into dtype, batch norm's into float32 where that is a half type.

        To be called before an optimizer is given the parameters. Raises TypeError for another kind of dtype.
        """
        wanted = float_dtype(f"{type(self).__name__}.astype: dtype", dtype)
        return self._convert(
            lambda layer, a: a if a.dtype.kind in "iu" else a.astype(layer.dtype_within(wanted), copy=False)
        )

    def to(self: Self, library: Any) -> Self:
        """Turns all arrays into those of a library, the module `cupy` or `numpy`.

        To be called before an optimizer is made. Raises TypeError for another library.
        """
        if getattr(library, "__name__", None) not in ("numpy", "cupy"):
            raise TypeError(f"{type(self).__name__}.to: library must be the module numpy or cupy, got {library!r}")
        if library is np:
            return self._convert(lambda _, a: to_numpy(a))
        return self._convert(lambda _, a: a if a.dtype.kind in "iu" else library.asarray(a))


class Random(Layer):
    """A layer with a random stream: its own where it was given a Generator or a seed, else the Sequential's."""

    def __init__(self, rng: Generator | int | None) -> None:
        self._seeded = rng is not None
        self.rng = stream(type(self).__name__, rng)

    def reset(self, seeds: Seeds, activation: Any = None) -> None:
        if not self._seeded:
            self.rng, self._seeded = seeds.streams, seeds.given


@contextmanager
def modes_kept(model: Layer) -> Iterator[None]:
    """Whatever happens within, every layer is afterwards in the mode that it was in."""
    modes = [(layer, layer.training) for _, layer in model.layers()]
    try:
        yield
    finally:
        for layer, mode in modes:
            layer.training = mode


def _form(a: Array) -> str:
    return f"{a.dtype} with shape {tuple(a.shape)}"
