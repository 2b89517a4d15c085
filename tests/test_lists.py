"""The compiled list, the reference and the package's names agree."""

import inspect
from pathlib import Path

import numpy as np
import pytest
from helpers import OPERATIONS

import gradfuse
import gradfuse.reference as ref

# Functions that do not compute with arrays, and functions that other test files test.
SIMPLE = {"Generator", "activations", "saves", "show_config", "set_num_threads", "get_num_threads"}
ELSEWHERE = SIMPLE | {"clip_grad_norm_", "clip_grad_value_", "max_norm_"}
FUNCTIONS = [name for name in gradfuse.__all__ if callable(getattr(gradfuse, name))]


def parameters(f):
    return [(p.name, p.kind, p.default) for p in inspect.signature(f).parameters.values()]


def test_activations():
    assert sorted(gradfuse.activations()) == sorted(ref.activations())
    assert len(set(gradfuse.activations())) == len(gradfuse.activations())


@pytest.mark.parametrize("name", gradfuse.activations())
def test_activation(name):
    info = gradfuse._core.activation_info(name)
    assert gradfuse.saves(name) == ref.saves(name) == info["saves"]
    assert info["formula"]
    assert info["source"]
    for f, arrays in [(name, ["x"]), (f"{name}_backward", ["grad_out", "saved"])]:
        compiled = parameters(getattr(gradfuse._core, f))
        assert [p for p, _, _ in compiled] == [*arrays, *info["parameters"], "out"]
        assert [default for _, _, default in compiled[len(arrays) : -1]] == list(info["parameters"].values())
        assert info["formula"] in getattr(gradfuse._core, f).__doc__


@pytest.mark.parametrize("name", gradfuse._core.row_operations())
def test_row_operation(name):
    info = gradfuse._core.row_info(name)
    assert info["saves"] in ("x", "y")
    for f, arrays in [(name, ["x"]), (f"{name}_backward", ["grad_out", info["saves"]])]:
        compiled = parameters(getattr(gradfuse._core, f))
        assert [p for p, _, _ in compiled] == [*arrays, *info["parameters"], "axis", "out"]
        assert [default for _, _, default in compiled[len(arrays) : -2]] == list(info["parameters"].values())
        assert_documented(f, info)


@pytest.mark.parametrize("name", gradfuse._core.norms())
def test_norm(name):
    info = gradfuse._core.norm_info(name)
    groups = ["num_groups"] * (info["groups"] == "channel_groups")
    vectors = ["weight", "bias"][: 1 + info["has_bias"]]
    add = ["add"] * (info["groups"] == "rows")
    for form, rest in [("", ["out"]), ("_forward", ["dropout", "rng"])]:
        compiled = parameters(getattr(gradfuse._core, name + form))
        expected = ["x", *groups, *vectors, "axis", *info["parameters"], *add, "activation", *rest]
        assert [p for p, _, _ in compiled] == expected
        defaults = {p: default for p, _, default in compiled}
        assert {p: defaults[p] for p in info["parameters"]} == info["parameters"]
        assert_documented(name + form, info)
    assert [p for p, _, _ in parameters(getattr(gradfuse._core, f"{name}_backward"))] == [
        "grad_out",
        "ctx",
        *["grad_total"] * bool(add),
    ]


def assert_documented(f, info):
    doc = getattr(gradfuse._core, f).__doc__
    assert info["formula"] in doc
    assert info["source"]
    assert info["source"] in doc


@pytest.mark.parametrize(
    ("names", "info"), [("row_operations", "row_info"), ("norms", "norm_info")], ids=["rows", "norms"]
)
def test_lists_of_groups(names, info):
    """Names are unique and public, and any other name is an error."""
    listed = getattr(gradfuse._core, names)()
    assert len(set(listed)) == len(listed) > 0
    assert set(listed) <= set(gradfuse.__all__) & set(ref.__dict__)
    for wrong in ("nothing", None):
        with pytest.raises(ValueError, match=rf"^{info}: name must be one of {names}\(\), got {wrong!r}$"):
            getattr(gradfuse._core, info)(wrong)


def test_stubs_and_tables():
    """Every row is in the stubs and in the README's table, with its own description."""
    root = Path(__file__).resolve().parent.parent
    stubs, readme = (root / "python/gradfuse/_core.pyi").read_text(), (root / "README.md").read_text()
    for name in gradfuse._core.row_operations():
        info = gradfuse._core.row_info(name)
        assert f"\ndef {name}(" in stubs
        assert f"\ndef {name}_backward(" in stubs
        assert f"| `{name}` | {info['formula']} |" in readme
    for name in gradfuse._core.norms():
        info = gradfuse._core.norm_info(name)
        for form in ("", "_forward", "_backward"):
            assert f"\ndef {name}{form}(" in stubs
        assert f"| `{name}` | {info['formula']} |" in readme


@pytest.mark.parametrize("entry", gradfuse._core.losses(), ids=lambda entry: entry["name"])
def test_loss(entry):
    f = getattr(gradfuse, entry["name"])
    assert entry["formula"] in f.__doc__
    assert entry["source"] in f.__doc__
    names, _, defaults = zip(*parameters(f), strict=True)
    assert names == ("pred", "target", *entry["parameters"], "reduction")
    assert defaults[2:] == (*entry["parameters"].values(), "mean")


@pytest.mark.parametrize(
    "name", sorted(set(FUNCTIONS) - {"Generator", "show_config", "set_num_threads", "get_num_threads"})
)
def test_signatures(name):
    assert parameters(getattr(gradfuse, name)) == parameters(getattr(ref, name))


def test_every_function_is_an_operation():
    """The tests of layouts, threads and arrays of other libraries contain every function, also a new one."""

    class Recorder:
        def __getattr__(self, name):
            called.add(name)
            return getattr(ref, name)

    called = set()
    x, g = (np.random.default_rng(0).normal(size=(5, 4)) for _ in range(2))
    for run in OPERATIONS.values():
        run(Recorder(), x, g)
    assert called == set(FUNCTIONS) - ELSEWHERE
