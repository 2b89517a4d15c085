"""Optimizers: parameters are arrays, updated in place, in one compiled call however many there are.

The classes are made from the compiled list: constructor, defaults, checks and documentation all come from there.
"""

from __future__ import annotations

import copy
import inspect
import math
from collections.abc import Callable, Iterable, Sequence
from operator import is_
from typing import Any

from gradfuse import _core, _interop
from gradfuse._checks import POSITIVE, Bounds, number, state_of
from gradfuse._parameter import Parameter

_COMMON = {
    "decoupled_weight_decay": False,
    "maximize": False,
    "max_grad_norm": None,
    "nonfinite": "propagate",
    "master_weights": False,
    "capturable": False,
}
_NORM: Bounds = "None or a finite number >= 0", lambda x: 0 <= x < math.inf

Schedule = Callable[[int], float]
Step = tuple[tuple[float, ...], bool, bool]  # of a group: hyper-parameters in the order of the list, and two flags


class Optimizer:
    """What every optimizer has: parameter groups, a step, and a state that can be saved."""

    _row: int
    _spec: dict[str, Any]

    def __init__(self, params: Iterable[Any], options: dict[str, Any]) -> None:
        self.max_grad_norm: float | None = options.pop("max_grad_norm")
        self.nonfinite: str = options.pop("nonfinite")
        self.master_weights: bool = self._flag("master_weights", options.pop("master_weights"))
        self.capturable: bool = self._flag("capturable", options.pop("capturable"))
        self._check_norm(self.max_grad_norm, self.nonfinite)
        self.defaults = options
        self.groups = self._make_groups(params)
        self.params = tuple(p for group in self.groups for p in group["params"])
        arrays = [p.data if isinstance(p, Parameter) else p for p in self.params]
        self._held = [(p, array) for p, array in zip(self.params, arrays, strict=True) if p is not array]
        sizes = [len(group["params"]) for group in self.groups]
        values = [self._step_of(group, 0)[0] for group in self.groups]
        self._plan = _core.Plan(self._row, arrays, sizes, values, self.master_weights, self.capturable)
        self.state: list[dict[str, Any]] = self._plan.state
        self._last: dict[int, tuple[dict[str, Any], Step | None]] = {}
        self.last_grad_norm: Any = None

    def _make_groups(self, params: Iterable[Any]) -> list[dict[str, Any]]:
        where = self._where("params")
        items = self._listed(params)
        if not items:
            raise ValueError(f"{where} must hold at least one array or group, got none")
        if not isinstance(items[0], dict):
            items = [{"params": items}]
        groups = []
        for item in items:
            if not isinstance(item, dict) or "params" not in item:
                raise TypeError(f"{where} must be arrays, or dicts with the key 'params', got {type(item).__name__}")
            for key in item.keys() - self.defaults.keys() - {"params"}:
                raise ValueError(f"{where}: a group may set {', '.join(self.defaults)}, got {key!r}")
            arrays = item["params"]
            alone = isinstance(arrays, Parameter) or hasattr(arrays, "__dlpack__")
            arrays = [arrays] if alone else self._listed(arrays)
            groups.append({**self.defaults, **item, "params": tuple(arrays)})
        return groups

    def _listed(self, params: Any) -> list[Any]:
        if hasattr(params, "__dlpack__") or isinstance(params, (str, dict)) or not isinstance(params, Iterable):
            kind = type(params).__name__
            raise TypeError(f"{self._where('params')} must be a list of arrays or of groups, got {kind}")
        return list(params)

    # -- hyper-parameters

    @property
    def t(self) -> int:
        """The number of steps taken. Where a GPU may have skipped or replayed some, this waits for it."""
        return self._plan.t

    @property
    def lr(self) -> float:
        """The learning rate of the next step, of the first group. Setting it sets that of every group."""
        lr = self.groups[0]["lr"]
        return float(lr(self.t) if callable(lr) else lr)

    @lr.setter
    def lr(self, value: float | Schedule) -> None:
        for group in self.groups:
            group["lr"] = value
        if self.capturable:
            self.refresh()

    def refresh(self) -> None:
        """Hands the hyper-parameters in force, as `groups` holds them, to the next replay of a captured step.

        Setting `lr` does so by itself. For optimizers with capturable=True; RuntimeError for others.
        """
        if not self.capturable:
            raise RuntimeError(f"{self._spec['name']}.refresh: capturable must be True, got False")
        self._plan.exclusively(self._refresh)

    def _refresh(self) -> None:
        self._plan.set_groups([self._step_of(group, 0) for group in self.groups])

    def refresh_master_weights(self) -> None:
        """Takes parameters that something else than step() has changed into their float32 copies.

        Without it the next step would undo the change: for example a state that was loaded, pruned or restored weights.
        Nothing happens where master_weights is False.
        """
        self._plan.exclusively(self._plan.refresh_master_weights)

    def _checked_step(self, g: int) -> Step:
        """A group's part of the next step: that of the last where the group still holds the same numbers."""
        group = self.groups[g]
        before, step = self._last.get(g, ({}, None))
        if step is not None and before.keys() == group.keys() and all(map(is_, group.values(), before.values())):
            return step
        scheduled = any(map(callable, group.values()))
        step = self._step_of(group, self.t if scheduled else 0)
        may_change = scheduled or any(isinstance(value, list) for value in group.values())
        self._last[g] = dict(group), None if may_change else step
        return step

    def _step_of(self, group: dict[str, Any], t: int) -> Step:
        """A group's part of the step after t: its hyper-parameters in the order of the list, checked, and its flags."""
        values: list[float] = []
        for hyper in self._spec["hypers"]:
            name, kind = hyper["name"], hyper["kind"]
            given = group[name]
            wanted = "two numbers" if kind == "pair" else "a number"
            if callable(given) and kind != "flag":
                if self.capturable:
                    raise ValueError(f"{self._where(name)} must be {wanted} where capturable is True, got a schedule")
                given = given(t)
            if kind == "flag":
                values.append(self._flag(name, given))
            elif kind == "number":
                values.append(self._number(hyper, given))
            elif isinstance(given, (tuple, list)) and len(given) == 2:
                values += [self._number(hyper, each) for each in given]
            else:
                raise TypeError(f"{self._where(name)} must be {wanted}, got {given!r}")
        flags = [self._flag(name, group[name]) for name in ("maximize", "decoupled_weight_decay")]
        return tuple(values), flags[0], flags[1]

    def _where(self, argument: str) -> str:
        return f"{self._spec['name']}: {argument}"

    def _number(self, hyper: dict[str, Any], given: Any) -> float:
        low, high, open_low, open_high = hyper["interval"]

        def holds(x: float) -> bool:
            return (x > low if open_low else x >= low) and (x < high if open_high else x <= high)

        return number(self._where(hyper["name"]), given, (hyper["text"], holds))

    def _flag(self, name: str, given: Any) -> bool:
        if not isinstance(given, bool):
            raise TypeError(f"{self._where(name)} must be True or False, got {given!r}")
        return given

    def _check_norm(self, max_grad_norm: Any, nonfinite: Any) -> None:
        if max_grad_norm is not None:
            number(self._where("max_grad_norm"), max_grad_norm, _NORM)
        if self.capturable and nonfinite == "raise":
            raise ValueError(f"{self._where('nonfinite')} must be 'propagate' or 'skip' where capturable is True")
        if nonfinite not in ("propagate", "skip", "raise"):
            raise ValueError(f"{self._where('nonfinite')} must be 'propagate', 'skip' or 'raise', got {nonfinite!r}")

    # -- the step

    def step(self, grads: Sequence[Any] | None = None, *, grad_scale: float = 1.0) -> None:
        """One update of all parameters, in place.

        grads: one array per parameter in the order of `params`, each of its parameter's shape and dtype, or None to
        leave that parameter and its state alone. Without grads every parameter's `.grad` is taken. A gradient may be
        its parameter itself, but must share no memory with others. grad_scale: what they are multiplied by first, in
        the type of the computation: 1 / the scale of a scaled loss, 1 / the number of batches whose gradients were
        added. After it `last_grad_norm` is the global norm of the gradients where max_grad_norm or nonfinite asked for
        one: a number, or a 0-d float64 array on the parameters' GPU.
        Raises TypeError or ValueError for gradients unlike their parameters and for hyper-parameters out of range,
        ValueError for a non-finite norm under nonfinite="raise", RuntimeError where another thread is at a step. Then
        parameters, state and t are as they were.
        """
        self._plan.exclusively(self._step, grads, grad_scale)

    def _step(self, grads: Sequence[Any] | None, grad_scale: float) -> None:
        if grads is None:
            grads = [p.grad if type(p) is Parameter else self._grad_of(p) for p in self.params]
        for p, array in self._held:
            if p.data is not array:
                where = f"{self._where('params')} must keep the arrays"
                raise ValueError(f"{where} that it was made with, got another in {p!r}: make a new optimizer")
        self._check_norm(self.max_grad_norm, self.nonfinite)
        if type(grad_scale) is not float or grad_scale != 1:
            grad_scale = number(self._where("grad_scale"), grad_scale, POSITIVE)
        steps = [self._checked_step(g) for g in range(len(self.groups))]
        norm = self._plan.step(grads, steps, self.max_grad_norm, self.nonfinite, grad_scale)
        self.last_grad_norm = norm if norm is None or grad_scale == 1 else norm * grad_scale

    def _grad_of(self, p: Any) -> Any:
        try:
            return p.grad
        except AttributeError:
            where, kind = f"{self._spec['name']}.step", type(p).__name__
            raise TypeError(f"{where}: grads must be given, for a parameter of type {kind} has no .grad") from None

    def zero_grad(self) -> None:
        """Forgets the gradients of all parameters that have a `.grad`."""
        for p in self.params:
            if hasattr(p, "grad"):
                p.grad = None

    # -- saving

    def __reduce__(self) -> Any:
        options = {name: getattr(self, name) for name in _COMMON if name not in self.defaults}
        return _remade, (type(self), self.groups, {**self.defaults, **options}, self.state_dict())

    def state_dict(self) -> dict[str, Any]:
        """Everything the next step depends on besides the parameters: copies, safe to keep.

        A schedule, given in place of a number, is not part of it: only its place, the step, is.
        """
        state: dict[str, Any] = self._plan.exclusively(self._saved)
        return state

    def _saved(self) -> dict[str, Any]:
        groups = [{k: v for k, v in group.items() if k != "params" and not callable(v)} for group in self.groups]
        return {
            "optimizer": self._spec["name"],
            "clocks": [list(clock) for clock in self._plan.clocks],
            "max_grad_norm": self.max_grad_norm,
            "nonfinite": self.nonfinite,
            "groups": copy.deepcopy(groups),
            "state": [{slot: _interop.copied(array) for slot, array in s.items()} for s in self.state],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes on a state from state_dict(): the steps that follow are exactly those that would have followed then.

        Raises TypeError or ValueError where the state is of another optimizer, other shapes or out of range, and then
        changes nothing.
        """
        self._plan.exclusively(self._load, state)

    def _load(self, state: dict[str, Any]) -> None:
        where = f"{self._spec['name']}.load_state_dict: state"
        counts = {"clocks": len(self.groups), "groups": len(self.groups), "state": len(self.params)}
        state_of(where, state, ("optimizer", "max_grad_norm", "nonfinite", *counts))
        if state["optimizer"] != self._spec["name"]:
            raise ValueError(f"{where} must be of {self._spec['name']}, got one of {state['optimizer']}")
        for key, count in counts.items():
            if not isinstance(state[key], list) or len(state[key]) != count:
                given = len(state[key]) if isinstance(state[key], list) else repr(state[key])
                raise ValueError(f"{where}[{key!r}] must be a list of {count}, got {given}")
        for i, (mine, theirs) in enumerate(zip(self.state, state["state"], strict=True)):
            if _layout(mine) != _layout(theirs):
                raise ValueError(f"{where}['state'][{i}] must hold {_layout(mine)}, got {_layout(theirs)}")
        clocks = []
        for clock in state["clocks"]:
            if not _is_clock(clock):
                raise ValueError(f"{where}['clocks'] must be pairs of a step and a number in [0, 1], got {clock!r}")
            clocks.append(tuple(clock))
        groups = []
        for group, saved in zip(self.groups, state["groups"], strict=True):
            if not isinstance(saved, dict) or not saved.keys() <= self.defaults.keys():
                raise ValueError(f"{where}['groups'] must be dicts of {', '.join(self.defaults)}, got {saved!r}")
            groups.append({**group, **copy.deepcopy(saved)})
            self._step_of(groups[-1], clocks[0][0])
        self._check_norm(state["max_grad_norm"], state["nonfinite"])

        self._plan.clocks = clocks
        self.max_grad_norm, self.nonfinite = state["max_grad_norm"], state["nonfinite"]
        for group, new in zip(self.groups, groups, strict=True):
            group.update(new)
        for mine, theirs in zip(self.state, state["state"], strict=True):
            for slot, array in mine.items():
                _interop.assign(array, theirs[slot])
        if self.capturable:
            self._refresh()

    def __repr__(self) -> str:
        shown = ", ".join(f"{k}={v!r}" for k, v in self.groups[0].items() if k != "params")
        return f"{self._spec['name']}({len(self.params)} parameters, {shown})"


def _remade(kind: type[Optimizer], groups: list[Any], options: dict[str, Any], state: dict[str, Any]) -> Optimizer:
    """A copy of an optimizer, of the parameters in `groups`."""
    made: Optimizer = kind(groups, **options)  # type: ignore[call-arg]  # a class of the list takes options by name
    made.load_state_dict(state)
    return made


def _layout(arrays: Any) -> Any:
    if not isinstance(arrays, dict):
        return arrays
    return {
        slot: f"{str(a.dtype).split('.')[-1]}{tuple(a.shape)}" if hasattr(a, "__dlpack__") else type(a).__name__
        for slot, a in arrays.items()
    }


def _is_clock(clock: Any) -> bool:
    if not isinstance(clock, (tuple, list)) or len(clock) != 2:
        return False
    t, product = clock
    return isinstance(t, int) and t >= 0 and isinstance(product, (int, float)) and 0 <= product <= 1


def _documentation(spec: dict[str, Any]) -> str:
    lines = [
        spec["formula"],
        "",
        "params: arrays (float16, bfloat16, float32 or float64, any strides) or gradfuse.nn.Parameters, updated in",
        "place, or groups: dicts with the key 'params' and their own hyper-parameters. State is float32, float64 for",
        "float64 parameters.",
    ]
    for hyper in spec["hypers"]:
        kind = {"pair": f"two of: {hyper['text']}", "flag": "True or False", "number": hyper["text"]}[hyper["kind"]]
        lines.append(f"{hyper['name']}: {kind}.")
    lines += [
        "Each of these but the flags may also be a function of the step, from 0, where capturable is False.",
        "decoupled_weight_decay: p *= 1 - lr * weight_decay before the update, in place of g += weight_decay * p.",
        "maximize: climb instead of descend.",
        "max_grad_norm: the global norm of all gradients is brought down to it first.",
        "nonfinite: where that norm is not finite, 'propagate', 'skip' the step or 'raise' ValueError.",
        "master_weights: keep a float32 copy of half-precision parameters and update that; see refresh_master_weights.",
        "capturable: a CUDA graph of a step can be replayed: t and the hyper-parameters in force are read on the GPU.",
        "Results below the smallest normal number are flushed to zero within a step.",
        "Raises TypeError for a wrong kind or dtype, ValueError for a value out of range or arrays that share memory.",
        f"Source: {spec['source']}.",
    ]
    return "\n".join(lines)


def _make_class(row: int, spec: dict[str, Any]) -> type[Optimizer]:
    parameter = inspect.Parameter
    arguments = [parameter("params", parameter.POSITIONAL_OR_KEYWORD)]
    # PyTorch's arguments come in its order; what it lacks follows, by keyword.
    keyword_only = ("lr_in_momentum",)
    for hyper in spec["hypers"]:
        kind = parameter.KEYWORD_ONLY if hyper["name"] in keyword_only else parameter.POSITIONAL_OR_KEYWORD
        arguments.append(parameter(hyper["name"], kind, default=hyper["default"]))
    common = {**_COMMON, "decoupled_weight_decay": spec["decoupled_weight_decay"]}
    arguments += [parameter(name, parameter.KEYWORD_ONLY, default=value) for name, value in common.items()]
    signature = inspect.Signature(arguments)

    def __init__(self: Optimizer, *args: Any, **kwargs: Any) -> None:
        try:
            bound = signature.bind(*args, **kwargs)
        except TypeError as error:
            raise TypeError(f"{spec['name']}: {error}") from None
        bound.apply_defaults()
        options = dict(bound.arguments)
        Optimizer.__init__(self, options.pop("params"), options)

    __init__.__signature__ = signature.replace(  # type: ignore[attr-defined]
        parameters=[parameter("self", parameter.POSITIONAL_OR_KEYWORD), *arguments]
    )
    return type(
        spec["name"],
        (Optimizer,),
        {
            "__init__": __init__,
            "__doc__": _documentation(spec),
            "__signature__": signature,
            "__module__": __name__,
            "_row": row,
            "_spec": spec,
        },
    )


_classes = {spec["name"]: _make_class(row, spec) for row, spec in enumerate(_core.optimizer_list())}
globals().update(_classes)

__all__ = ["Optimizer", *_classes]
