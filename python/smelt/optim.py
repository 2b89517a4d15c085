"""Optimizers: parameters are arrays, updated in place, in one compiled call however many there are.

The classes are made from the compiled list: constructor, defaults, checks and documentation all come from there.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from smelt import _core
from smelt._interop import as_numpy, state_array

_COMMON = {
    "decoupled_weight_decay": False,
    "maximize": False,
    "max_grad_norm": None,
    "nonfinite": "propagate",
    "master_weights": False,
}
_PER_GROUP = ("decoupled_weight_decay", "maximize")

Schedule = Callable[[int], float]


def _in_interval(value: float, interval: tuple[float, float, bool, bool]) -> bool:
    low, high, open_low, open_high = interval
    return (value > low if open_low else value >= low) and (value < high if open_high else value <= high)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)


class Optimizer:
    """What every optimizer has: parameter groups, a step, and a state that can be saved."""

    _row: int
    _spec: dict[str, Any]

    def __init__(self, params: Iterable[Any], options: dict[str, Any]) -> None:
        self.defaults = options
        self.max_grad_norm = options.pop("max_grad_norm")
        self.nonfinite = options.pop("nonfinite")
        self.master_weights = options.pop("master_weights")
        self._check_common()
        self.groups = self._make_groups(params)
        self.params = [p for group in self.groups for p in group["params"]]
        self._refuse_duplicates()
        steps = [self._group_step(group) for group in self.groups]
        bits = [_core.optimizer_slots(self._row, values) for values, _, _ in steps]
        self.state: list[dict[str, np.ndarray]] = []
        masters: list[np.ndarray | None] = []
        for group, used in zip(self.groups, bits, strict=True):
            initial = group[self._spec["initial_value"]] if self._spec["initial_value"] else 0.0
            for p in group["params"]:
                slots = [slot for k, slot in enumerate(self._spec["slots"]) if used >> k & 1]
                self.state.append({slot: state_array(p, self._where("params"), initial) for slot in slots})
                master = self._master_of(p) if self.master_weights else None
                masters.append(master)
                if master is not None:
                    self.state[-1]["master"] = master
        states = [[s.get(slot) for slot in self._spec["slots"]] for s in self.state]
        sizes = [len(group["params"]) for group in self.groups]
        self._plan = _core.Plan(self._row, self.params, sizes, states, masters)
        self.last_grad_norm: float | None = None

    # -- construction

    def _where(self, argument: str) -> str:
        return f"{self._spec['name']}: {argument}"

    def _make_groups(self, params: Iterable[Any]) -> list[dict[str, Any]]:
        if hasattr(params, "__dlpack__") or isinstance(params, (str, dict)):
            raise TypeError(
                f"{self._where('params')} must be a list of arrays or of groups, got {type(params).__name__}"
            )
        items = list(params)
        if not items or not isinstance(items[0], dict):
            items = [{"params": items}]
        groups = []
        for item in items:
            if not isinstance(item, dict) or "params" not in item:
                raise TypeError(f"{self._where('params')} must be arrays, or dicts with the key 'params', not both")
            unknown = set(item) - set(self.defaults) - {"params"}
            if unknown:
                raise ValueError(f"{self._where('params')}: a group has no hyper-parameter {min(unknown)!r}")
            arrays = item["params"]
            arrays = [arrays] if hasattr(arrays, "__dlpack__") else list(arrays)
            groups.append({**self.defaults, **item, "params": arrays})
        return groups

    def _refuse_duplicates(self) -> None:
        seen: set[int] = set()
        for p in self.params:
            if id(p) in seen:
                raise ValueError(f"{self._where('params')} must hold each array once, got one of them twice")
            seen.add(id(p))

    def _master_of(self, p: Any) -> np.ndarray | None:
        values = as_numpy(p)
        return values.astype(np.float32, order="C") if values is not None and values.dtype.itemsize == 2 else None

    def _check_common(self) -> None:
        norm = self.max_grad_norm
        if norm is not None and not (_is_number(norm) and 0 <= norm < np.inf):
            raise ValueError(f"{self._where('max_grad_norm')} must be None or a finite number >= 0, got {norm!r}")
        if self.nonfinite not in ("propagate", "skip", "raise"):
            raise ValueError(
                f"{self._where('nonfinite')} must be 'propagate', 'skip' or 'raise', got {self.nonfinite!r}"
            )
        if not isinstance(self.master_weights, bool):
            raise TypeError(f"{self._where('master_weights')} must be True or False, got {self.master_weights!r}")

    # -- hyper-parameters

    @property
    def t(self) -> int:
        """The number of steps taken."""
        return int(self._plan.clocks[0][0]) if self.groups else 0

    @property
    def lr(self) -> float:
        """The learning rate of the next step, of the first group. Setting it sets that of every group."""
        return self._lr_of(self.groups[0])

    @lr.setter
    def lr(self, value: float | Schedule) -> None:
        for group in self.groups:
            group["lr"] = value

    def _lr_of(self, group: dict[str, Any]) -> float:
        lr = group["lr"]
        return float(lr(self.t)) if callable(lr) else lr

    def _group_step(self, group: dict[str, Any]) -> tuple[tuple[float, ...], bool, bool]:
        """The values of a group's hyper-parameters in the order of the list, checked, and its two flags."""
        values: list[float] = []
        for hyper in self._spec["hypers"]:
            name, kind = hyper["name"], hyper["kind"]
            given = self._lr_of(group) if name == "lr" and "_plan" in self.__dict__ else group[name]
            if name == "lr" and callable(given):  # before the first step
                given = given(0)
            if kind == "flag":
                if not isinstance(given, bool):
                    raise TypeError(f"{self._where(name)} must be True or False, got {given!r}")
                values.append(given)
                continue
            if kind == "pair" and not (isinstance(given, (tuple, list)) and len(given) == 2):
                raise TypeError(f"{self._where(name)} must be two numbers, got {given!r}")
            for number in given if kind == "pair" else (given,):
                if not _is_number(number):
                    raise TypeError(f"{self._where(name)} must be {hyper['text']}, got {given!r}")
                if not _in_interval(number, hyper["interval"]):
                    each = "two of: " if kind == "pair" else ""
                    raise ValueError(f"{self._where(name)} must be {each}{hyper['text']}, got {given!r}")
                values.append(number)
        for name in _PER_GROUP:
            if not isinstance(group[name], bool):
                raise TypeError(f"{self._where(name)} must be True or False, got {group[name]!r}")
        return tuple(values), group["maximize"], group["decoupled_weight_decay"]

    # -- the step

    def step(self, grads: Sequence[Any] | None = None) -> None:
        """One update of all parameters, in place.

        grads: one array per parameter in the order of `params`, each of its parameter's shape and dtype, or None to leave
        that parameter and its state alone. Without grads every parameter's `.grad` is taken.
        After it `last_grad_norm` is the global norm of the gradients where max_grad_norm or nonfinite asked for one.
        Raises TypeError or ValueError for gradients unlike their parameters and for hyper-parameters out of range,
        ValueError for a non-finite norm under nonfinite="raise", RuntimeError where another thread is at a step. Then
        parameters, state and t are as they were.
        """
        if grads is None:
            grads = [self._grad_of(p) for p in self.params]
        elif not isinstance(grads, (list, tuple)):
            raise TypeError(
                f"{self._spec['name']}.step: grads must be a list or tuple of arrays, got {type(grads).__name__}"
            )
        self._check_common()
        steps = [self._group_step(group) for group in self.groups]
        self.last_grad_norm = self._plan.step(grads, steps, self.max_grad_norm, self.nonfinite)

    def _grad_of(self, p: Any) -> Any:
        try:
            return p.grad
        except AttributeError:
            raise TypeError(
                f"{self._spec['name']}.step: grads must be given, for a parameter of type {type(p).__name__} has no .grad"
            ) from None

    # -- saving

    def state_dict(self) -> dict[str, Any]:
        """Everything the next step depends on besides the parameters: copies, safe to keep.

        A schedule given as lr is not part of it: only its place, the step, is.
        """
        return {
            "optimizer": self._spec["name"],
            "clocks": [list(c) for c in self._plan.clocks],
            "groups": [
                {k: v for k, v in group.items() if k != "params" and not (k == "lr" and callable(v))}
                for group in self.groups
            ],
            "state": [{slot: array.copy() for slot, array in s.items()} for s in self.state],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes on a state from state_dict(): the steps that follow are exactly those that would have followed then.

        Raises ValueError where the state is of another optimizer or other shapes, and then changes nothing.
        """
        where = f"{self._spec['name']}.load_state_dict: state"
        try:
            name, clocks = state["optimizer"], state["clocks"]
            groups, arrays = state["groups"], state["state"]
        except (KeyError, TypeError) as error:
            raise ValueError(f"{where} must be what state_dict() returned, got one without {error}") from None
        if name != self._spec["name"]:
            raise ValueError(f"{where} must be of {self._spec['name']}, got one of {name}")
        if len(groups) != len(self.groups) or len(clocks) != len(self.groups) or len(arrays) != len(self.state):
            raise ValueError(
                f"{where} must have {len(self.groups)} groups and {len(self.state)} parameters, "
                f"got {len(groups)} and {len(arrays)}"
            )
        for mine, theirs in zip(self.state, arrays, strict=True):
            if mine.keys() != theirs.keys() or any(
                np.shape(theirs[k]) != v.shape or theirs[k].dtype != v.dtype for k, v in mine.items()
            ):
                raise ValueError(f"{where} must hold arrays of this optimizer's names, shapes and dtypes, got others")
        merged = [{**group, **saved} for group, saved in zip(self.groups, groups, strict=True)]
        for group in merged:
            self._group_step(group)
        pairs = [(int(t), float(product)) for t, product in clocks]
        self._plan.clocks = pairs
        for group, new in zip(self.groups, merged, strict=True):
            group.update(new)
        for mine, theirs in zip(self.state, arrays, strict=True):
            for slot, array in mine.items():
                array[...] = theirs[slot]

    def __repr__(self) -> str:
        shown = ", ".join(f"{k}={v!r}" for k, v in self.groups[0].items() if k != "params") if self.groups else ""
        return f"{self._spec['name']}({len(self.params)} parameters, {shown})"


def _documentation(spec: dict[str, Any]) -> str:
    lines = [
        spec["formula"],
        "",
        "params: arrays (float16, bfloat16, float32 or float64, any strides), updated in place, or groups: dicts with the",
        "key 'params' and hyper-parameters of their own. State is float32, float64 for float64 parameters.",
    ]
    for hyper in spec["hypers"]:
        kind = {"pair": f"two of: {hyper['text']}", "flag": "True or False", "number": hyper["text"]}[hyper["kind"]]
        also = ", or a function of the step from 0" if hyper["name"] == "lr" else ""
        lines.append(f"{hyper['name']}: {kind}{also}.")
    lines += [
        "decoupled_weight_decay: p *= 1 - lr * weight_decay before the update, in place of g += weight_decay * p.",
        "maximize: climb instead of descend.",
        "max_grad_norm: the global norm of all gradients is brought down to it first.",
        "nonfinite: where that norm is not finite, 'propagate', 'skip' the step or 'raise' ValueError.",
        "master_weights: keep a float32 copy of half-precision parameters and update that.",
        "Results below the smallest normal number are flushed to zero within a step.",
        "Raises TypeError for a wrong kind or dtype, ValueError for a value out of range or an array given twice.",
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
