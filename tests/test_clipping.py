"""Gradient clipping and max-norm against the reference."""

import math
import re

import numpy as np
import pytest
from helpers import BFLOAT16, DTYPES, LAYOUTS, assert_identical, cast
from ulp import epsilon, ulp

import gradfuse
import gradfuse.reference as ref

every_device = pytest.mark.usefixtures("device")
every_layout = pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)


def wide(a):
    return a.astype(np.float64)


def arrays(rng, dtype, layout, sizes=((3, 5), (), (0, 4), (2, 3, 4), (20_000,), (0,))):
    return [layout(cast(rng.normal(size=s), dtype)) for s in sizes]


def assert_near(actual, exact):
    """Of a product and its factor a rounding each, in float64 those of both norms too; and the last."""
    allowed = (8 if actual.dtype == "float64" else 2) * epsilon(actual.dtype) * abs(exact)
    if actual.dtype.itemsize == 2:
        allowed = allowed + 0.5 * ulp(exact, actual.dtype)
    assert (abs(wide(actual) - exact) <= allowed).all()


def both(function, ours, **options):
    """The same call on the arrays and on float64 copies of them."""
    exact = [wide(a) for a in ours]
    results = getattr(gradfuse, function)(ours, **options), getattr(ref, function)(exact, **options)
    for a, e in zip(ours, exact, strict=True):
        assert_near(a, e)
    return results


@every_device
@every_layout
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("per_array", [False, True])
@pytest.mark.parametrize("max_norm", [0.0, 2.5, 1e4])
def test_clip_grad_norm(rng, max_norm, per_array, dtype, layout):
    norms, exact = both("clip_grad_norm_", arrays(rng, dtype, layout), max_norm=max_norm, per_array=per_array)
    assert type(norms) is type(exact)
    np.testing.assert_allclose(norms, exact, rtol=1e-14)


@every_device
@pytest.mark.parametrize("per_array", [False, True])
@pytest.mark.parametrize("places", [(0,), (1,), (0, 2, 3), (0, 1, 2)])
def test_parameters_without_a_gradient(rng, per_array, places):
    """As in the list that an optimizer's step takes."""
    grads = [rng.normal(size=n) for n in (3, 4)]
    for place in places:
        grads.insert(place, None)
    exact = [g if g is None else g.copy() for g in grads]
    norms = gradfuse.clip_grad_norm_(grads, 0.1, per_array=per_array)
    np.testing.assert_allclose(norms, ref.clip_grad_norm_(exact, 0.1, per_array=per_array), rtol=1e-14)
    gradfuse.clip_grad_value_(grads, 0.02)
    ref.clip_grad_value_(exact, 0.02)
    for g, e in zip(grads, exact, strict=True):
        assert (g is None) == (e is None)
        if e is not None:
            np.testing.assert_allclose(g, e, rtol=1e-14)


@every_device
@pytest.mark.parametrize("grads", [[], [None], [None, None]])
def test_no_gradient_at_all(grads):
    assert gradfuse.clip_grad_norm_(grads, 1.0) == 0
    assert gradfuse.clip_grad_norm_(grads, 1.0, per_array=True) == [0] * len(grads)
    gradfuse.clip_grad_value_(grads, 1.0)


@every_device
def test_dtypes_and_layouts_in_one_list(rng):
    mixed = [a for dtype in DTYPES for layout in LAYOUTS.values() for a in arrays(rng, dtype, layout)]
    norm, exact = both("clip_grad_norm_", mixed, max_norm=1.0)
    assert norm == pytest.approx(exact, rel=1e-14)
    both("clip_grad_value_", mixed, value=1e-3)


@every_device
@pytest.mark.parametrize("count", [2, 24, 25, 33, 1500])
def test_many_arrays(rng, count):
    """Their lengths differ, and some are empty. Each array has its own norm."""
    sizes = rng.choice([0, 0, 1, 3, 100, 8192, 8193], count, p=[0.1, 0.1, 0.3, 0.3, 0.18, 0.01, 0.01])
    grads = [rng.normal(size=n).astype(np.float32) for n in sizes]
    expected = [np.sqrt((g.astype(np.float64) ** 2).sum()) for g in grads]
    np.testing.assert_allclose(gradfuse.clip_grad_norm_(grads, 1e30, per_array=True), expected, rtol=1e-6)
    np.testing.assert_allclose(gradfuse.clip_grad_norm_(grads, 1e30), np.linalg.norm(expected), rtol=1e-6)


@every_device
@pytest.mark.parametrize("dtype", DTYPES)
def test_nothing_is_written_up_to_max_norm(dtype):
    grads = [cast([3.0, np.nextafter(0, 1)], dtype), cast(-4.0, dtype)]
    before = [g.copy() for g in grads]
    assert gradfuse.clip_grad_norm_(grads, 5.0) == 5.0
    assert gradfuse.clip_grad_norm_(grads, 4.0, per_array=True) == [3.0, 4.0]
    for g, b in zip(grads, before, strict=True):
        assert_identical(g, b)
    assert gradfuse.clip_grad_norm_(grads, np.nextafter(5.0, 0.0)) == 5.0


@every_device
def test_large_half_precision_gradients_are_not_zeroed():
    g = np.full(1000, 60_000, np.float16)
    assert gradfuse.clip_grad_norm_([g], 1.0) == pytest.approx(60_000 * 1000**0.5, rel=1e-14)
    np.testing.assert_allclose(wide(g), 1000**-0.5, rtol=2**-11)  # half an ulp of float16


@every_device
@pytest.mark.parametrize("scale", [1.0, 1e30, 1e-30])
def test_the_norm_of_ten_million_elements_is_right_to_rounding(rng, scale):
    g = rng.normal(size=10_000_000).astype(np.float32) * np.float32(scale)
    squares = wide(g) ** 2
    exact = math.sqrt(math.fsum(part.sum() for part in squares.reshape(1000, -1)))
    assert gradfuse.clip_grad_norm_([g], np.finfo(np.float64).max) == pytest.approx(exact, rel=1e-13)
    gradfuse.clip_grad_norm_([g], exact / 2)
    assert gradfuse.clip_grad_norm_([g[::-1]], 0.0) == pytest.approx(exact / 2, rel=1e-7)
    assert not g.any()


@every_device
def test_a_norm_beyond_float32():
    g = np.full(10_000, 3e38, np.float32)
    assert gradfuse.clip_grad_norm_([g], 1e-3) == pytest.approx(3e40, rel=1e-6)
    np.testing.assert_allclose(g, 1e-5, rtol=0.05)  # the factor is a denormal of float32
    p = np.zeros(10_000, np.float32)
    gradfuse.optim.SGD([p], lr=1.0, max_grad_norm=1e4).step([np.full(10_000, 3e38, np.float32)])
    np.testing.assert_allclose(p, -100, rtol=1e-6)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("per_array", [False, True])
@np.errstate(invalid="ignore")
def test_nonfinite_norms(bad, per_array):
    def grads():
        return [np.array([3.0, 4.0]), np.array([1.0, bad]), np.array([0.5])]

    propagated, expected, skipped = grads(), grads(), grads()
    norms = gradfuse.clip_grad_norm_(propagated, 1.0, per_array=per_array)
    assert np.array_equal(norms, ref.clip_grad_norm_(expected, 1.0, per_array=per_array), equal_nan=True)
    for a, b in zip(propagated, expected, strict=True):
        np.testing.assert_allclose(a, b)

    norms = gradfuse.clip_grad_norm_(skipped, 1.0, "skip", per_array=per_array)
    expected = grads()
    assert np.array_equal(norms, ref.clip_grad_norm_(expected, 1.0, "skip", per_array=per_array), equal_nan=True)
    for a, b in zip(skipped, expected, strict=True):
        np.testing.assert_allclose(a, b)

    refused = grads()
    where = r"grads\[1\]" if per_array else "grads"
    with pytest.raises(ValueError, match=f"^clip_grad_norm_: {where} must have a finite norm, got {abs(bad)}$"):
        gradfuse.clip_grad_norm_(refused, 1.0, "raise", per_array=per_array)
    for a, b in zip(refused, grads(), strict=True):
        assert_identical(a, b)


@every_device
def test_lists_without_elements():
    assert gradfuse.clip_grad_norm_([], 1.0) == 0.0
    assert gradfuse.clip_grad_norm_((), 1.0, per_array=True) == []
    assert gradfuse.clip_grad_norm_([np.zeros((0, 3))], 0.0, "raise", per_array=True) == [0.0]
    gradfuse.clip_grad_value_([], 1.0)


@every_device
@every_layout
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("value", [0.0, 0.3, 1e6])
def test_clip_grad_value(rng, value, dtype, layout):
    grads = arrays(rng, dtype, layout)
    grads[0][0, :3] = [np.inf, -np.inf, np.nan]
    expected = [g.copy() for g in grads]
    assert gradfuse.clip_grad_value_(grads, value) is None
    ref.clip_grad_value_(expected, value)
    for g, e in zip(grads, expected, strict=True):
        np.testing.assert_array_equal(wide(g), wide(e))


def test_thread_counts(rng, threads):
    start = [rng.normal(size=n).astype(np.float32) for n in (50_001, 0, 8192, 100_000, 3)]
    results = []
    for n in (1, 4, 7):
        threads(n)
        grads = [g.copy() for g in start]
        norm = gradfuse.clip_grad_norm_(grads, 1.0)
        gradfuse.clip_grad_value_(grads, 0.003)
        matrix = start[3].reshape(400, 250).copy()
        gradfuse.max_norm_(matrix, 10.0)
        results.append((norm, *(g.tobytes() for g in grads), matrix.tobytes()))
    assert results[0] == results[1] == results[2]


AXES = [0, 1, -1, np.int64(2), (), (0, 1), (1, 2), (0, -1), (0, 1, 2), (1,)]


@every_device
@pytest.mark.parametrize("axis", AXES, ids=repr)
@every_layout
@pytest.mark.parametrize("dtype", DTYPES)
def test_max_norm(rng, dtype, layout, axis):
    W = layout(cast(rng.normal(size=(4, 3, 5)) * np.linspace(0.5, 2, 5), dtype))
    exact = wide(W)
    r = np.median(np.sqrt((exact**2).sum(axis)))
    gradfuse.max_norm_(W, r, axis=axis)
    ref.max_norm_(exact, r, axis=axis)
    assert_near(W, exact)


@every_device
@pytest.mark.parametrize("shape", [(700, 300), (300, 700), (40_000, 3), (3, 40_000), (1, 9), (9, 1)])
@pytest.mark.parametrize("axis", [0, 1])
def test_max_norm_of_matrices(rng, shape, axis):
    W = rng.normal(size=shape).astype(np.float32)
    exact, untouched = wide(W), W.copy()
    r = 0.99 * shape[axis] ** 0.5
    gradfuse.max_norm_(W, r, axis=axis)
    ref.max_norm_(exact, r, axis=axis)
    assert_near(W, exact)
    small = np.sqrt((wide(untouched) ** 2).sum(axis, keepdims=True)) <= r
    np.testing.assert_array_equal(np.where(small, W, 0), np.where(small, untouched, 0))


@every_device
def test_max_norm_at_the_edges():
    for shape in [(0, 3), (3, 0), (0,)]:
        gradfuse.max_norm_(np.zeros(shape), 1.0)
    W = np.array([[1.0, np.nan, np.inf, 3e200, 0.0], [1.0, 5.0, 5.0, 4e200, 0.0]])
    expected = W.copy()
    gradfuse.max_norm_(W, 1.0)
    with np.errstate(invalid="ignore", over="ignore"):
        ref.max_norm_(expected, 1.0)
    np.testing.assert_allclose(W, expected)
    assert np.array_equal(W[:, 1], [np.nan, 5.0], equal_nan=True)
    large = np.full((1000, 2), 1e30, np.float32)
    gradfuse.max_norm_(large, 1.0)
    np.testing.assert_allclose(large, 1000**-0.5, rtol=1e-6)


# Bad input.


def error(kind, text):
    return pytest.raises(kind, match="^" + re.escape(text))


BASE = np.ones((4, 6), np.float32)
FROZEN = np.ones(3)
FROZEN.flags.writeable = False
LISTS = [
    (3, TypeError, " must be a list or tuple of arrays, got 3"),
    (np.ones((3, 3)), TypeError, " must be a list or tuple of arrays, got an array of float64 with shape (3, 3)"),
    (
        [BASE, [1.0]],
        TypeError,
        "[1] must be an array (NumPy, or any object with __dlpack__), got an object of type list",
    ),
    ([BASE, np.ones(3, int)], TypeError, "[1] must be float16, bfloat16, float32 or float64, got int64"),
    ([BASE, np.ones(3, ">f8")], TypeError, "[1] must be in the machine's byte order, got a swapped array"),
    ([BASE, FROZEN], ValueError, "[1] must be writeable, got a read-only array"),
    ([BASE, np.ones(3), BASE], ValueError, "[2] must not share memory with another of the arrays, got one that does"),
    ([BASE[:, 3:], BASE[1]], ValueError, "[1] must not share memory with another of the arrays, got one that does"),
    ([BASE[0], BASE.view(BFLOAT16)[:, ::2]], ValueError, "[1] must not share memory"),
]


@pytest.mark.parametrize(("grads", "kind", "text"), LISTS)
@pytest.mark.parametrize("function", ["clip_grad_norm_", "clip_grad_value_"])
def test_bad_lists(function, grads, kind, text):
    with error(kind, f"{function}: grads{text}"):
        getattr(gradfuse, function)(grads, 0.1)
    assert (BASE == 1).all()


LIMITS = [
    (-1.0, ValueError, " must be a finite number >= 0, got -1"),
    (np.nan, ValueError, " must be a finite number >= 0, got nan"),
    (np.inf, ValueError, " must be a finite number >= 0, got inf"),
    ("1", TypeError, " must be a number, got '1'"),
    (True, TypeError, " must be a number, got True"),
    (None, TypeError, " must be a number, got None"),
]


@pytest.mark.parametrize(("limit", "kind", "text"), LIMITS)
def test_bad_limits(limit, kind, text):
    with error(kind, f"clip_grad_norm_: max_norm{text}"):
        gradfuse.clip_grad_norm_([BASE], limit)
    with error(kind, f"clip_grad_value_: value{text}"):
        gradfuse.clip_grad_value_([BASE], limit)
    with error(kind, f"max_norm_: r{text}"):
        gradfuse.max_norm_(BASE, limit)
    assert (BASE == 1).all()


def test_bad_options():
    with error(ValueError, "clip_grad_norm_: nonfinite must be 'propagate', 'skip' or 'raise', got 'drop'"):
        gradfuse.clip_grad_norm_([BASE], 0.1, "drop")
    with error(TypeError, "clip_grad_norm_: nonfinite must be a string, got None"):
        gradfuse.clip_grad_norm_([BASE], 0.1, None)
    with error(TypeError, "clip_grad_norm_: per_array must be True or False, got 1"):
        gradfuse.clip_grad_norm_([BASE], 0.1, per_array=1)
    with error(TypeError, "max_norm_: takes at most 2 positional arguments, got 3"):
        gradfuse.max_norm_(BASE, 0.1, 1)
    assert (BASE == 1).all()


@pytest.mark.parametrize(("axis", "kind", "text"), [
    (2, ValueError, "must be different axes of an array of 2 dimensions, got 2"),
    (-3, ValueError, "must be different axes of an array of 2 dimensions, got -3"),
    ((0, 2), ValueError, "must be different axes of an array of 2 dimensions, got (0, 2)"),
    ((1, -1), ValueError, "must be different axes of an array of 2 dimensions, got (1, -1)"),
    (10**30, ValueError, "must be different axes of an array of 2 dimensions, got 1000"),
    (None, TypeError, "must be an integer or a tuple of them, got None"),
    (True, TypeError, "must be an integer or a tuple of them, got True"),
    (0.0, TypeError, "must be an integer or a tuple of them, got 0.0"),
    ([0, 1], TypeError, "must be an integer or a tuple of them, got an object of type list"),
    ((0, "1"), TypeError, "must be an integer or a tuple of them, got an object of type tuple"),
    (np.array([0, 1]), TypeError, "must be an integer or a tuple of them, got an array of int64 with shape (2,)"),
])  # fmt: skip
def test_bad_axes(axis, kind, text):
    with error(kind, f"max_norm_: axis {text}"):
        gradfuse.max_norm_(BASE, 0.1, axis=axis)
    assert (BASE == 1).all()


def test_bad_weights():
    with error(ValueError, "max_norm_: W must be writeable, got a read-only array"):
        gradfuse.max_norm_(FROZEN, 0.1)
    with error(TypeError, "max_norm_: W must be float16, bfloat16, float32 or float64, got int64"):
        gradfuse.max_norm_(np.ones((2, 2), int), 0.1)
    with error(ValueError, "max_norm_: axis must be different axes of an array of 0 dimensions, got 0"):
        gradfuse.max_norm_(np.ones(()), 0.1)
