"""Gated units, against the reference."""

import gc

import numpy as np
import pytest
from helpers import LAYOUTS, assert_identical, assert_writes, cast, exact, wide
from ulp import BOUNDS, assert_within, epsilon

import gradfuse
import gradfuse.reference as ref

SHAPES = [(), (0,), (1,), (7,), (64,), (1023,), (65537,), (5, 0, 3), (2, 3, 5), (3, 1, 2, 5, 4)]
PARAMETERS = [("elu", {"alpha": 1.3}), ("silu", {"beta": -0.5}), ("leaky_relu", {"negative_slope": 0.3})]
ACTIVATIONS = [*gradfuse.activations(), *PARAMETERS, None]
activations = pytest.mark.parametrize("activation", ACTIVATIONS, ids=str)


def inputs(rng, shape, dtype, scale=3.0):
    """a, the gate and a gradient."""
    return tuple(cast(scale * rng.normal(size=shape), dtype) for _ in range(3))


@np.errstate(all="ignore")
def changes(f, at, dtype):
    """What the results of f change by when its input changes by an ulp of the compute type."""
    return np.nan_to_num(abs(f(at * (1 + 64 * epsilon(dtype))) - f(at)) / 64, nan=0.0, posinf=0.0)


def compare(kernels, a, gate, g, activation):
    name, params = activation if isinstance(activation, tuple) else (activation or "relu", {})
    f, df = ref._registry.lookup(activation)
    z, slack = wide(gate), 1.0 if params else 0.0
    rows = ["gated", name, name]
    terms = np.maximum(1.0, abs(wide(a))) * np.maximum(1.0, abs(z))
    change = changes(f, z, a.dtype)

    y = kernels.gated(a, gate, activation)
    da, dgate = kernels.gated_backward(g, a, gate, activation)
    for result in (y, da, dgate):
        assert (result.dtype, result.shape) == (a.dtype, a.shape)
    expected = exact.gated(a, gate, activation)
    assert_within(y, expected, *rows, change=abs(wide(a)) * change, slack=slack, scale=terms)
    expected, expected_dgate = exact.gated_backward(g, a, gate, activation)
    assert_within(da, expected, *rows, change=abs(wide(g)) * change, slack=slack, scale=terms)

    if activation and gradfuse.saves(name) == "y":  # the slope is made of y, which has errors too
        change = changes(lambda y: df(wide(g) * wide(a), z, y), f(z), a.dtype)
        slack += BOUNDS[name].f64 if a.dtype == np.float64 else BOUNDS[name].f32
    else:
        change = changes(lambda z: df(wide(g) * wide(a), z, f(z)), z, a.dtype)
    rows = ["gated", f"{name}_backward", f"{name}_backward"]
    terms = terms * np.maximum(1.0, abs(wide(g)))
    assert_within(dgate, expected_dgate, *rows, change=change, slack=slack, scale=terms)


@activations
def test_gated(kernels, rng, dtype, activation):
    compare(kernels, *inputs(rng, (5003,), dtype), activation)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_shapes_and_layouts(kernels, rng, dtype, shape):
    a, gate, g = inputs(rng, shape, dtype)
    compare(kernels, a, gate, g, "silu")
    y, (da, dgate) = kernels.gated(a, gate), kernels.gated_backward(g, a, gate)
    for layout in LAYOUTS.values():
        assert_identical(kernels.gated(layout(a), gate), y)
        assert_identical(kernels.gated(layout(a), layout(gate)), y)
        for first, second in zip(kernels.gated_backward(layout(g), a, layout(gate)), (da, dgate), strict=True):
            assert_identical(first, second)


@activations
def test_the_gate_is_the_activation(kernels, rng, activation):
    """A gate times 1 is the activation, bit for bit; but in float32 a backward is given a rounded y."""
    for dtype in ("float32", "float64"):
        ones, gate, g = np.ones(1003, dtype), *inputs(rng, 1003, dtype)[:2]
        name, params = activation if isinstance(activation, tuple) else (activation, {})
        y = gate if name is None else getattr(kernels, name)(gate, **params)
        assert_identical(kernels.gated(ones, gate, activation), y)
        if dtype == "float32" and name and gradfuse.saves(name) == "y":
            continue
        dgate = kernels.gated_backward(g, ones, gate, activation)[1]
        saved = None if name is None else gate if gradfuse.saves(name) == "x" else y
        assert_identical(dgate, g if name is None else getattr(kernels, f"{name}_backward")(g, saved, **params))


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_out(kernels, rng, dtype, layout):
    a, gate, _ = inputs(rng, (37, 61), dtype)
    y = kernels.gated(a, gate, "gelu")
    new, a2, gate2 = layout(np.full_like(a, np.nan)), layout(a), layout(gate)
    assert_writes(lambda: kernels.gated(a, gate, "gelu", out=new), new, y)
    assert_writes(lambda: kernels.gated(a2, gate, "gelu", out=a2), a2, y)
    assert_writes(lambda: kernels.gated(a, gate2, "gelu", out=gate2), gate2, y)


def test_edges(kernels, dtype):
    a = cast([np.inf, np.nan, 1, 2, 3], dtype)
    gate = cast([-1, -1, -np.inf, np.nan, np.inf], dtype)
    np.testing.assert_array_equal(wide(kernels.gated(a, gate, "relu")), [np.nan, np.nan, 0, np.nan, np.inf])
    np.testing.assert_array_equal(wide(kernels.gated(a[2:], gate[2:])), [0, np.nan, np.inf])
    _, dgate = kernels.gated_backward(np.full_like(a, np.inf), a, gate, "relu")
    np.testing.assert_array_equal(wide(dgate), [0, 0, 0, np.inf, np.inf])  # a closed gate lets nothing back


GLU = [
    ((10,), -1),
    ((6, 10), -1),
    ((6, 10), 0),
    ((4, 6, 33), 1),
    ((4, 3, 66), -1),
    ((2, 3, 4, 70), 2),
    ((0, 4), 1),
    ((4, 0), 1),
]


@pytest.mark.parametrize(("shape", "axis"), GLU, ids=str)
@pytest.mark.parametrize("activation", ["sigmoid", "gelu", ("silu", {"beta": 1.5})], ids=str)
def test_glu(kernels, rng, dtype, shape, axis, activation):
    """The bits of gated on the two halves, for every layout."""
    x = cast(3 * rng.normal(size=shape), dtype)
    a, gate = np.split(x, 2, axis)
    g = cast(rng.normal(size=a.shape), dtype)
    y = kernels.gated(a, gate, activation)
    dx = np.concatenate(kernels.gated_backward(g, a, gate, activation), axis)
    for layout in LAYOUTS.values():
        actual, ctx = kernels.glu_forward(layout(x), activation, axis=axis)
        assert_identical(actual, y)
        assert_identical(kernels.glu_backward(layout(g), ctx), dx)


def test_glu_defaults_and_context(kernels, rng):
    """Sigmoid, the last axis; the context keeps its array alive, and may be used again."""
    x, g = rng.normal(size=(7, 10)), rng.normal(size=(7, 5))
    y, ctx = kernels.glu_forward(x.copy())
    assert_identical(y, kernels.gated(x[:, :5], x[:, 5:], "sigmoid"))
    first = kernels.glu_backward(g, ctx)
    gc.collect()
    np.full_like(x, np.nan)
    assert_identical(kernels.glu_backward(g, ctx), first)
    np.testing.assert_allclose(y, x[:, :5] / (1 + np.exp(-x[:, 5:])), rtol=1e-14)


def test_number_of_threads(cpu, rng, threads):
    a, gate, g = inputs(rng, (3001, 130), "float32")
    results = []
    for n in (1, 4, 7):
        threads(n)
        results.append((cpu.gated(a, gate), *cpu.gated_backward(g, a, gate)))
    for other in results[1:]:
        for first, second in zip(other, results[0], strict=True):
            assert_identical(first, second)


def test_glu_needs_two_halves(kernels):
    with pytest.raises(
        ValueError, match=r"^glu_forward: x must have an even number of elements on axis 1, got shape \(4, 5\)$"
    ):
        kernels.glu_forward(np.ones((4, 5)))


def test_glu_against_torch(kernels, rng):
    torch = pytest.importorskip("torch")
    x, g = rng.normal(size=(4, 6, 8)), rng.normal(size=(4, 3, 8))
    y, ctx = kernels.glu_forward(x, axis=1)
    tx = torch.from_numpy(x.copy()).requires_grad_()
    expected = torch.nn.functional.glu(tx, 1)
    expected.backward(torch.from_numpy(g))
    np.testing.assert_allclose(y, expected.detach().numpy(), rtol=1e-14)
    np.testing.assert_allclose(kernels.glu_backward(g, ctx), tx.grad.numpy(), rtol=1e-13, atol=1e-15)
