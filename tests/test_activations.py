"""Every activation of the list, forward and backward, against the reference."""

import numpy as np
import pytest
from helpers import LAYOUTS, assert_identical, assert_writes, cast, exact, off_default
from ulp import BOUNDS, assert_within, epsilon

import gradfuse
import gradfuse.reference as ref

ACTIVATIONS = gradfuse.activations()

OFF_DEFAULT = {name: off_default(gradfuse._core.activation_info(name)["parameters"]) for name in ACTIVATIONS}

CASES = [pytest.param(name, {}, id=name) for name in ACTIVATIONS]
CASES += [pytest.param(name, given, id=f"{name}-off_default") for name, given in OFF_DEFAULT.items() if given]
CASES += [
    pytest.param("elu", {"alpha": 0.0}, id="elu-0"),
    pytest.param("leaky_relu", {"negative_slope": 0.0}, id="leaky_relu-0"),
    pytest.param("silu", {"beta": 0.0}, id="silu-0"),
    pytest.param("silu", {"beta": -1.3}, id="silu-negative"),
    pytest.param("hardtanh", {"min_val": 0.5, "max_val": 0.5}, id="hardtanh-closed"),
]


@np.errstate(all="ignore")
def sweep(rng, dtype, reach):
    """All values of a 16-bit type; of a wider one all exponents, the usual range, and every integer's neighbourhood."""
    if np.dtype(dtype).itemsize == 2:
        x = np.arange(2**16, dtype=np.uint16).view(dtype)
    else:
        bits, shift = f"u{np.dtype(dtype).itemsize}", 8 * np.dtype(dtype).itemsize - 14
        patterns = np.arange(2**14, dtype=bits) << shift | rng.integers(0, 2**shift, 2**14, bits)
        usual = [rng.normal(size=2**13) * np.exp(rng.normal(size=2**13)), np.linspace(-110, 110, 2**13)]
        usual += [np.linspace(-800, 800, 2**12), np.arange(-110, 111), [-0.0, np.inf, -np.inf, np.nan]]
        usual = np.concatenate(usual).astype(dtype)
        up, down = (np.nextafter(usual[-225:], usual.dtype.type(to)) for to in (np.inf, -np.inf))
        x = np.concatenate([patterns.view(dtype), usual, up, down])
    return x[~((abs(x.astype(np.float64)) > reach) & np.isfinite(x))]


def changes(f, at, dtype):
    """What the results of f change by when its input changes by an ulp of the type it is computed in."""
    return np.nan_to_num(abs(f(at * (1 + 64 * epsilon(dtype))) - f(at)) / 64, nan=0.0, posinf=0.0)


@np.errstate(all="ignore")
def compare(kernels, rng, dtype, name, params, backward):
    f, row = getattr(exact, name), name
    x = sweep(rng, dtype, BOUNDS.get(name, BOUNDS["default"]).reach)
    scale = np.maximum(1.0, np.nan_to_num(abs(x.astype(np.float64)), posinf=0.0))
    if not backward:
        actual, expected = getattr(kernels, name)(x, **params), f(x, **params)
        change = changes(lambda v: f(v, **params), x.astype(np.float64), dtype)
    else:
        row += "_backward"
        df = getattr(exact, row)
        saved = x if gradfuse.saves(name) == "x" else cast(f(x, **params), dtype)
        g = cast(rng.normal(size=x.shape), dtype)
        actual, expected = getattr(kernels, row)(g, saved, **params), df(g, saved, **params)
        change = changes(lambda v: df(g, v, **params), saved.astype(np.float64), dtype)
        scale = scale * np.maximum(1.0, abs(g.astype(np.float64)))
    assert actual.dtype == x.dtype
    approximate, slack = kernels.device != "cpu", 1.0 if params else 0.0
    assert_within(actual, expected, row, change=change, scale=scale, slack=slack, approximate=approximate)


@pytest.mark.parametrize(("name", "params"), CASES)
def test_forward(kernels, rng, dtype, name, params):
    compare(kernels, rng, dtype, name, params, backward=False)


@pytest.mark.parametrize(("name", "params"), CASES)
def test_backward(kernels, rng, dtype, name, params):
    compare(kernels, rng, dtype, name, params, backward=True)


@pytest.mark.parametrize("name", [name for name in ACTIVATIONS if name in BOUNDS])  # a new one may have no bound yet
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_nearly_all_results_of_16_bits_are_the_nearest_number(kernels, rng, dtype, name):
    """At most 6 in 10,000 results are a neighbor of the nearest number."""
    x = sweep(rng, dtype, BOUNDS.get(name, BOUNDS["default"]).reach)
    y, ones = getattr(exact, name)(x), np.ones_like(x)
    saved = x if gradfuse.saves(name) == "x" else cast(y, dtype)
    dx = getattr(exact, f"{name}_backward")(ones, saved)
    for actual, expected in (
        (getattr(kernels, name)(x), y),
        (getattr(kernels, f"{name}_backward")(ones, saved), dx),
    ):
        nearest = cast(expected, dtype).astype(np.float64)
        other = (actual.astype(np.float64) != nearest) & ~np.isnan(nearest)
        assert other.sum() <= 6e-4 * x.size


SHAPES = [(), (0,), (1,), (7,), (64,), (1023,), (65537,), (5, 0, 3), (2, 3, 5), (3, 1, 2, 5, 4)]


def arrays(rng, shape, dtype, name):
    """x, what the backward reads, and a gradient."""
    x, g = (cast(3 * rng.normal(size=shape), dtype) for _ in range(2))
    return x, x if gradfuse.saves(name) == "x" else getattr(ref, name)(x), g


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_shapes_and_layouts(kernels, rng, dtype, name):
    f, df = getattr(kernels, name), getattr(kernels, f"{name}_backward")
    for shape in SHAPES:
        x, saved, g = arrays(rng, shape, dtype, name)
        y, dx = f(x), df(g, saved)
        assert y.shape == dx.shape == shape
        for layout in LAYOUTS.values():
            assert_identical(f(layout(x)), y)
            assert_identical(df(layout(g), layout(saved)), dx)
            assert_identical(df(g, layout(saved)), dx)
        twice = np.broadcast_to(x, (2, *shape))  # a stride of 0
        assert_identical(f(twice), np.stack([y, y]))
        alone = x.reshape(-1)[-1:].copy()  # an element's place among the others does not change a bit
        assert_identical(f(alone), y.reshape(-1)[-1:])


@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_out(kernels, rng, dtype, name, layout):
    x, saved, g = arrays(rng, (37, 61), dtype, name)
    f, df = getattr(kernels, name), getattr(kernels, f"{name}_backward")
    y, dx = f(x), df(g, saved)

    new, x2, g2, saved2 = layout(np.full_like(x, np.nan)), layout(x), layout(g), layout(saved)
    assert_writes(lambda: f(x, out=new), new, y)
    assert_writes(lambda: df(g, saved, out=new), new, dx)
    assert_writes(lambda: f(x2, out=x2), x2, y)
    assert_writes(lambda: df(g2, saved, out=g2), g2, dx)
    assert_writes(lambda: df(g, saved2, out=saved2), saved2, dx)


# No kink and no zero of a derivative is near one of these.
POINTS = [-7.5, -4.1, -2.5, -0.4, -0.03, 0.02, 0.5, 1.2, 2.8, 4.1, 5.5, 7.5]


@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.parametrize("gradient", [0.0, np.inf, -np.inf, np.nan])
def test_special_gradients(kernels, dtype, name, gradient):
    """A gradient that is selected away leaves nothing behind, not even NaN."""
    x = cast(POINTS, dtype)
    saved, g = x if gradfuse.saves(name) == "x" else getattr(ref, name)(x), np.full_like(x, gradient)
    actual, expected = (getattr(s, f"{name}_backward")(g, saved) for s in (kernels, exact))
    np.testing.assert_array_equal(actual.astype(np.float64), expected)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_nan_in_nan_out(kernels, dtype, name):
    assert np.isnan(getattr(kernels, name)(np.full(100, np.nan, dtype)).astype(np.float64)).all()
