"""The compiled list, the reference and the package's names agree."""

import inspect

import numpy as np
import pytest
from helpers import OPERATIONS

import gradfuse
import gradfuse.reference as ref

# What takes no arrays to compute with, and what other test files are for.
ELSEWHERE = {"Generator", "activations", "saves", "show_config", "set_num_threads", "get_num_threads"}
ELSEWHERE |= {"clip_grad_norm_", "clip_grad_value_", "max_norm_"}
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


@pytest.mark.parametrize(
    "name", sorted(set(FUNCTIONS) - {"Generator", "show_config", "set_num_threads", "get_num_threads"})
)
def test_signatures(name):
    assert parameters(getattr(gradfuse, name)) == parameters(getattr(ref, name))


def test_every_function_is_an_operation():
    """That a new function cannot be forgotten by the tests of layouts, threads and arrays of other libraries."""

    class Recorder:
        def __getattr__(self, name):
            called.add(name)
            return getattr(ref, name)

    called = set()
    x, g = (np.random.default_rng(0).normal(size=(5, 4)) for _ in range(2))
    for run in OPERATIONS.values():
        run(Recorder(), x, g)
    assert called == set(FUNCTIONS) - ELSEWHERE
