"""The declarations of the compiled functions are right: parameters, types of results, and errors for bad arguments."""

import ast
import inspect
import re

import numpy as np
import pytest
from helpers import OPERATIONS

import gradfuse
from gradfuse import _core

nan = np.nan
ACTIVATION = "str | tuple[str, dict[str, float]] | None"
# By type: arguments of a wrong kind, and arguments with a wrong value.
WRONG = {
    "Array": ([None, 1.0, [1.0], "x"], []),
    "Array | None": ([1.0, [1.0], "x"], []),
    "Sequence[Array]": ([None, 1.0, [1.0]], [[]]),
    "Any": ([None, 1.0, [1.0]], []),
    "float": ([None, "1", True, [1.0]], [nan]),
    "float | None": (["1", True, [1.0]], [nan]),
    "int": ([None, "1", True, 1.0], [10**12]),
    "int | None": (["1", True, 1.0], []),
    "int | tuple[int, ...]": ([None, "1", True, 1.0, (1.0,)], [10**12, ()]),
    "bool": ([None, 1, "x"], []),
    "str": ([None, 1], ["nothing"]),
    ACTIVATION: ([1.0, ("elu",)], ["nothing"]),
    "Generator | int | None": ([1.0, "1", True], [-1]),
}


def declaration(name):
    """The parsed typed signature: {parameter: (type, default)} and the type of the result."""
    f = ast.parse(f"def f{_core.signatures[name]}: ...").body[0]
    parameters, defaults = [*f.args.args, *f.args.kwonlyargs], [*f.args.defaults, *f.args.kw_defaults]
    defaults = [None] * (len(parameters) - len(defaults)) + defaults
    return {p.arg: (ast.unparse(p.annotation), d) for p, d in zip(parameters, defaults, strict=True)}, f.returns


class Recorder:
    """gradfuse, with a record of the arguments and results of its compiled functions."""

    def __init__(self):
        self.calls = {}

    def __getattr__(self, name):
        f = getattr(gradfuse, name)

        def call(*args, **kwargs):
            result = f(*args, **kwargs)
            if f is getattr(_core, f.__name__):
                arguments = inspect.signature(f).bind(*args, **kwargs).arguments
                self.calls.setdefault(f.__name__, []).append((arguments, result))
            return result

        return call


def recorded():
    recorder = Recorder()
    for operation in OPERATIONS.values():
        operation(recorder, *np.random.default_rng(0).normal(size=(2, 6, 4)).astype(np.float32))
    return recorder.calls


CALLS = recorded()
PARAMETERS = [(name, p) for name in CALLS for p in declaration(name)[0]]


@pytest.mark.parametrize("name", _core.signatures)
def test_declaration_is_the_signature(name):
    signature = inspect.signature(getattr(_core, name)).parameters.values()
    parameters, _ = declaration(name)
    assert list(parameters) == [p.name for p in signature]
    for p in signature:
        default = parameters[p.name][1]
        assert (default is None) == (p.default is p.empty)
        assert default is None or ast.literal_eval(default) == p.default


def fits(value, kind):
    if not isinstance(kind, ast.Subscript):
        return ast.unparse(kind) == "Any" or isinstance(value, np.ndarray)
    kinds = kind.slice.elts
    if ast.unparse(kinds[-1]) == "...":
        return isinstance(value, tuple) and len(value) > 1
    return len(value) == len(kinds) and all(map(fits, value, kinds))


@pytest.mark.parametrize("name", CALLS)
def test_results(name):
    _, returns = declaration(name)
    for _, result in CALLS[name]:
        assert fits(result, returns)


@pytest.mark.parametrize(("name", "parameter"), PARAMETERS)
def test_every_argument_is_checked(name, parameter):
    kinds, values = WRONG[declaration(name)[0][parameter][0]]
    *_, (arguments, _) = CALLS[name]
    for error, wrong in [*((TypeError, w) for w in kinds), *((ValueError, w) for w in values)]:
        with pytest.raises(error, match=rf"^{name}: {parameter} must "):
            getattr(_core, name)(**{**arguments, parameter: wrong})


@pytest.mark.parametrize(("name", "parameter"), PARAMETERS)
def test_every_option_is_documented(name, parameter):
    kind = declaration(name)[0][parameter][0]
    assert "Array" in kind or kind == "Any" or re.search(rf"^{parameter}: ", getattr(_core, name).__doc__, re.MULTILINE)
