"""The operations on rows, cross-entropy and maxout, against the reference."""

import numpy as np
import pytest
from helpers import LAYOUTS, Kernels, assert_identical, assert_writes, cast, exact, wide
from ulp import BOUNDS, assert_within, epsilon

from gradfuse import _core

inf, nan = np.inf, np.nan

SHAPES = [
    ((5,), 0),
    ((1,), -1),
    ((6, 10), 1),
    ((6, 10), 0),
    ((3, 1), -1),
    ((4, 3, 33), 0),
    ((4, 3, 33), 1),
    ((4, 3, 33), -1),
    ((2, 3, 5, 7), 2),
    ((700, 101), 1),
    ((3, 5000), 1),
    ((0, 4), 1),
    ((4, 0), 1),
    ((4, 0), 0),
]
shapes = pytest.mark.parametrize(("shape", "axis"), SHAPES, ids=str)
ROWS = _core.row_operations()


def off_default(name):
    return {p: 1.3 * value or 0.3 for p, value in _core.row_info(name)["parameters"].items()}


CASES = [pytest.param(name, {}, id=name) for name in ROWS]
CASES += [pytest.param(name, off_default(name), id=f"{name}-off_default") for name in ROWS if off_default(name)]
every_row = pytest.mark.parametrize("name", ROWS)
every_case = pytest.mark.parametrize(("name", "options"), CASES)


def random(rng, dtype, *shape, scale=1.0):
    return cast(scale * rng.normal(size=shape), dtype)


def within_reach(name, x):
    """The default bound is for inputs of a usual size."""
    reach = BOUNDS.get(name, BOUNDS["default"]).reach
    return np.where(np.isfinite(x), np.clip(wide(x), -reach, reach), wide(x)).astype(x.dtype)


def largest(v, axis):
    return abs(v).max(axis, keepdims=True, initial=0.0)


@np.errstate(invalid="ignore", divide="ignore", over="ignore")
def term_sizes(name, x, y, g, dx, axis):
    """The effect of rounding x - max on y, where it is in an exponent, and the sizes of the terms of y and dx."""
    unit, x, g = epsilon(x.dtype), wide(x), wide(g)
    if name == "softmax":
        change = y * abs(x - x.max(axis, keepdims=True, initial=-inf)) * unit
        return change, 1.0, y * (abs(g) + (abs(g) * y).sum(axis, keepdims=True))
    if name == "log_softmax":
        return 0.0, 1.0, abs(g) + np.exp(y) * abs(g).sum(axis, keepdims=True)
    # Any other operation: the largest element of a row; a gradient may be the difference of terms with the slope y / x.
    slope = np.nan_to_num(largest(y, axis) / largest(x, axis), posinf=0.0)
    return 0.0, largest(y, axis), np.maximum(largest(dx, axis), largest(g, axis) * slope)


def compare(kernels, name, x, g, axis, **options):
    x = within_reach(name, x)
    y, y_ = (getattr(s, name)(x, **options, axis=axis) for s in (kernels, exact))
    assert y.dtype == x.dtype
    saved = x if _core.row_info(name)["saves"] == "x" else y
    dx, dx_ = (getattr(s, f"{name}_backward")(g, saved, **options, axis=axis) for s in (kernels, exact))
    change, of_y, of_dx = map(np.nan_to_num, term_sizes(name, x, y_, g, dx_, axis))
    assert_within(y, y_, name, change=change, scale=of_y)
    assert_within(dx, dx_, f"{name}_backward", scale=of_dx)


@every_case
@shapes
def test_row(kernels, rng, dtype, name, options, shape, axis):
    x, g = random(rng, dtype, *shape, scale=4), random(rng, dtype, *shape)
    compare(kernels, name, x, g, axis, **options)


@every_row
@pytest.mark.parametrize(("shape", "axis"), [((20000, 32), 1), ((64, 20000), 0)], ids=str)
def test_the_worst_of_many_rows(kernels, rng, name, shape, axis):
    """A sequential sum rarely has a large error, so many rows are tested."""
    x, g = random(rng, "float32", *shape, scale=4), random(rng, "float32", *shape)
    compare(kernels, name, x, g, axis)


@every_row
@pytest.mark.parametrize(
    ("shape", "axis"),
    [
        ((70, 10), 1),
        ((70, 33), 1),
        ((50, 1000), 1),
        ((9, 5000), 1),
        ((7, 20_000), 1),
        ((21, 1024), 0),
        ((300, 700), 0),
        ((3, 21, 512), 1),
    ],
    ids=str,
)
def test_bits_of_a_row_do_not_depend_on_the_other_rows(kernels, rng, dtype, name, shape, axis):
    f, df = getattr(kernels, name), getattr(kernels, f"{name}_backward")
    x, g = random(rng, dtype, *shape, scale=4), random(rng, dtype, *shape)
    some = np.s_[3:-2] if axis else np.s_[:, 3:-2]
    if x.ndim == 3:
        some = np.s_[..., 3:-2]

    def both(x, g):
        y = f(x, axis=axis)
        return y, df(g, x if _core.row_info(name)["saves"] == "x" else y, axis=axis)

    for part, whole in zip(both(x[some].copy(), g[some].copy()), both(x, g), strict=True):
        assert_identical(part, whole[some])


@every_row
@pytest.mark.parametrize(("shape", "axis"), [((4300, 1000), 1), ((70, 66_000), 0)], ids=str)
def test_bits_of_a_row_do_not_depend_on_the_size_of_the_array(rng, name, shape, axis):
    """An array too large for the cache is read in another order."""
    x = random(rng, "float32", *shape, scale=4)
    some = np.s_[:, 5:70] if axis == 0 else np.s_[5:70]
    cpu = Kernels("cpu")
    f, df = getattr(cpu, name), getattr(cpu, f"{name}_backward")
    for of_all, of_some in (
        (f(x, axis=axis), f(x[some], axis=axis)),
        (df(x, x, axis=axis), df(x[some], x[some], axis=axis)),
    ):
        assert_identical(of_some, of_all[some])


@every_row
@pytest.mark.parametrize("scale", [1e-30, 100.0, 3e4])
def test_row_of_any_size(kernels, rng, dtype, name, scale):
    x, g = random(rng, dtype, 20, 50, scale=scale), random(rng, dtype, 20, 50)
    compare(kernels, name, x, g, 1)


@every_row
@pytest.mark.parametrize("columns", [20_000, 40_000, 100_003])  # on a GPU: in shared memory, or read twice
def test_huge_row(kernels, rng, dtype, name, columns):
    x, g = random(rng, dtype, 3, columns, scale=4), random(rng, dtype, 3, columns)
    compare(kernels, name, x, g, 1)


@every_row
@pytest.mark.parametrize(
    "row",
    [[-inf] * 4, [-inf, 0, 1, 2], [inf, 0, 1, 2], [nan, 0, 1, 2], [3e38, -3e38, 0, 1], [-inf, 5, -inf, 5]],
    ids=str,
)
def test_row_edges(kernels, dtype, name, row):
    x = cast([row, row[::-1], [1, 2, 3, 4]], dtype)
    compare(kernels, name, x, np.ones_like(x), 1)


@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
def test_softmax_of_nothing_but_minus_infinity(kernels, dtype, name):
    assert np.isnan(wide(getattr(kernels, name)(np.full((2, 3), -inf, dtype)))).all()


@every_row
@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_row_out(kernels, rng, dtype, name, axis, layout):
    f, df = getattr(kernels, name), getattr(kernels, f"{name}_backward")
    x, g = random(rng, dtype, 37, 21), random(rng, dtype, 37, 21)
    y = f(x, axis=axis)
    saved = x if _core.row_info(name)["saves"] == "x" else y
    dx = df(g, saved, axis=axis)
    new, x2, g2, saved2 = layout(np.full_like(x, nan)), layout(x), layout(g), layout(saved)
    assert_writes(lambda: f(x, axis=axis, out=new), new, y)
    assert_writes(lambda: df(g, saved, axis=axis, out=new), new, dx)
    assert_writes(lambda: f(x2, axis=axis, out=x2), x2, y)
    assert_writes(lambda: df(g2, saved, axis=axis, out=g2), g2, dx)
    assert_writes(lambda: df(g, saved2, axis=axis, out=saved2), saved2, dx)


# Cross-entropy


def compare_cross_entropy(kernels, x, target, **options):
    (loss, dx), (loss_, dx_) = (s.cross_entropy(x, target, **options) for s in (kernels, exact))
    assert loss.dtype == (np.float64 if x.dtype == np.float64 else np.float32)
    assert (loss.shape, dx.dtype, dx.shape) == (loss_.shape, x.dtype, x.shape)
    axis, weight, ignored = (options.get(k, v) for k, v in (("axis", 1), ("weight", None), ("ignore_index", None)))
    rows = np.moveaxis(wide(x), axis, -1)
    with np.errstate(invalid="ignore"):
        distance = np.nan_to_num(rows.max(-1, initial=-inf) - rows.min(-1, initial=inf), posinf=0.0, neginf=0.0)
    classes = target.dtype.kind in "iu"
    counted = target != ignored if classes and ignored is not None else np.ones(distance.shape, bool)
    mass = np.ones(distance.shape) if classes else abs(np.moveaxis(wide(target), axis, -1)).sum(-1)
    total = counted.sum()
    if weight is not None:
        mass = mass * wide(weight).max()  # the largest class weight
        total = wide(weight)[target[counted]].sum() if classes else total
    top = np.nan_to_num(abs(rows), nan=0.0, posinf=0.0).max(-1, initial=0.0) + np.log(max(rows.shape[-1], 1))
    z_loss = options.get("z_loss", 0.0)
    size = np.where(counted, (1 + distance) * mass + z_loss * top**2, 0)
    reduction = options.get("reduction", "mean")
    scale = {"mean": size.sum() / max(total, 1e-30), "sum": size.sum(), "none": size}[reduction]
    assert_within(loss, loss_, "cross_entropy", scale=scale)
    share = mass + 2 * z_loss * top
    share = np.where(counted, share / max(total, 1e-30) if reduction == "mean" else share, 0)[..., None]
    # The rounding of x - max, as in softmax.
    change = np.nan_to_num(exact.softmax(rows)) * share * distance[..., None] * epsilon(x.dtype)
    change, share = np.moveaxis(change, -1, axis), np.moveaxis(share, -1, axis)
    assert_within(dx, dx_, "cross_entropy_backward", change=change, scale=share)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("smoothing", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("shape", [(7, 5), (1, 1), (300, 10), (3, 5000), (0, 4)], ids=str)
def test_cross_entropy(kernels, rng, dtype, reduction, smoothing, shape):
    x, labels = random(rng, dtype, *shape, scale=4), rng.integers(0, shape[1], shape[0])
    compare_cross_entropy(kernels, x, labels, label_smoothing=smoothing, reduction=reduction)
    q = cast(rng.dirichlet(np.ones(shape[1]), shape[0]), dtype)
    compare_cross_entropy(kernels, x, q, label_smoothing=smoothing, reduction=reduction)


CROSS_ENTROPY = {
    "weight": {},
    "smoothing": {"label_smoothing": 0.1},
    "ignored": {"ignore_index": 0},
    "ignored outside": {"ignore_index": -100, "label_smoothing": 0.2},
    "z_loss": {"z_loss": 1e-2},
    "everything": {"ignore_index": 1, "label_smoothing": 0.1, "z_loss": 0.3},
}
GRIDS = [
    ((7, 5), 1),
    ((7, 5), 0),
    ((4, 3, 6), 1),
    ((4, 3, 6), -1),
    ((2, 10, 3, 5), 1),
    ((6,), 0),
    ((300, 10), -1),
    ((3, 5000), 1),
    ((5000, 3), 0),
]


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("options", CROSS_ENTROPY.values(), ids=CROSS_ENTROPY)
@pytest.mark.parametrize(("shape", "axis"), GRIDS, ids=str)
@pytest.mark.parametrize("weighted", [False, True])
def test_cross_entropy_options(kernels, rng, dtype, reduction, options, shape, axis, weighted):
    x, C = random(rng, dtype, *shape, scale=4), shape[axis]
    options = {**options, "axis": axis, "reduction": reduction}
    if weighted:
        options["weight"] = cast(0.5 + rng.random(C), dtype)
    labels = rng.integers(0, C, np.delete(shape, axis))
    if options.get("ignore_index") == -100:
        labels = np.where(rng.random(labels.shape) < 0.3, -100, labels)
    labels = np.asarray(labels)
    if (labels != options.get("ignore_index")).any():
        compare_cross_entropy(kernels, x, labels, **options)
    options.pop("ignore_index", None)
    q = np.moveaxis(cast(rng.dirichlet(np.ones(C), labels.shape), dtype), -1, axis)
    compare_cross_entropy(kernels, x, q, **options)


@pytest.mark.parametrize("half", ["float16", "bfloat16"])
def test_cross_entropy_half_with_float32_weight(kernels, rng, half):
    x, labels, weight = random(rng, half, 50, 10), rng.integers(0, 10, 50), rng.random(10, np.float32)
    compare_cross_entropy(kernels, x, labels, weight=weight, label_smoothing=0.1)


def test_cross_entropy_ignored_rows(kernels, rng, dtype):
    """Bad logits and labels out of range are not read in ignored rows, even if all rows are ignored."""
    x, labels = random(rng, dtype, 40, 10), rng.integers(0, 10, 40)
    ignored = rng.random(40) < 0.5
    spoiled = np.where(ignored[:, None], np.array(nan, x.dtype), x)
    marked = np.where(ignored, -7, labels)
    for options in ({}, {"label_smoothing": 0.2, "z_loss": 0.1, "weight": np.ones(10, dtype)}):
        for reduction in ("mean", "sum", "none"):
            loss, dx = kernels.cross_entropy(spoiled, marked, ignore_index=-7, reduction=reduction, **options)
            clean, dclean = kernels.cross_entropy(x, marked, ignore_index=-7, reduction=reduction, **options)
            assert_identical(loss, clean)
            assert_identical(dx, dclean)
            assert not wide(dx[ignored]).any()
            if reduction == "none":
                assert not loss[ignored].any()
                alone, dalone = kernels.cross_entropy(x[~ignored], labels[~ignored], reduction=reduction, **options)
                assert_identical(loss[~ignored], alone)
                assert_identical(dx[~ignored], dalone)
        nothing, dnothing = kernels.cross_entropy(spoiled, np.full(40, -7), ignore_index=-7, **options)
        assert np.isnan(nothing)
        assert not wide(dnothing).any()


def test_cross_entropy_of_what_nobody_asks_for(kernels, dtype):
    """A logit of -inf times a probability of 0 or a class weight of 0 is 0."""
    x = cast([[1, -inf, 0], [0, 1, -inf]], dtype)
    compare_cross_entropy(kernels, x, cast([[1, 0, 0], [0.5, 0.5, 0]], dtype), reduction="none")
    weight = cast([1, 0, 2], dtype)
    loss, dx = kernels.cross_entropy(x[:1], np.array([0]), weight=weight, label_smoothing=0.3)
    assert np.isfinite(loss)
    assert np.isfinite(wide(dx)).all()
    compare_cross_entropy(kernels, x[:1], np.array([0]), weight=weight, label_smoothing=0.3)


@pytest.mark.parametrize("width", [1, 5, 64, 257, 1023, 5000])
def test_cross_entropy_of_a_row_does_not_depend_on_its_neighbors(kernels, rng, width):
    x, labels = random(rng, "float32", 67, width, scale=4), rng.integers(0, width, 67)
    loss, dx = kernels.cross_entropy(x, labels, reduction="none", label_smoothing=0.1)
    for rows in (slice(0, 1), slice(66, 67), slice(3, 5), slice(10, 17), slice(1, 34)):
        few, dfew = kernels.cross_entropy(x[rows].copy(), labels[rows], reduction="none", label_smoothing=0.1)
        assert_identical(few, loss[rows])
        assert_identical(dfew, dx[rows])


@pytest.mark.parametrize("name", ["softmax", "log_softmax", "layer_norm", "rms_norm"])
def test_a_single_row_along_an_outer_axis(kernels, rng, name):
    x = random(rng, "float32", 333, 8)
    whole = getattr(kernels, name)(x, axis=0)
    for columns in (1, 2, 3):
        assert_identical(getattr(kernels, name)(x[:, :columns].copy(), axis=0), whole[:, :columns].copy())


def test_cross_entropy_of_very_many_rows(kernels):
    """The mean of equal losses is that loss, up to a few eps of float64."""
    loss, _ = kernels.cross_entropy(np.zeros((300_000, 3)), np.zeros(300_000, np.int64), weight=np.full(3, 0.1))
    assert abs(loss / np.log(3) - 1) < 64 * epsilon("float64")


def test_cross_entropy_of_probabilities_ignores_none(kernels):
    x = np.ones((3, 4))
    with pytest.raises(ValueError, match=r"^cross_entropy: ignore_index must be None for probabilities, got 1$"):
        kernels.cross_entropy(x, x, ignore_index=1)


def test_cross_entropy_defaults(kernels, rng):
    x, labels = random(rng, "float32", 20, 10), rng.integers(0, 10, 20)
    for a, b in zip(
        kernels.cross_entropy(x, labels),
        kernels.cross_entropy(x, labels, label_smoothing=0.0, reduction="mean"),
        strict=True,
    ):
        assert_identical(a, b)


@pytest.mark.parametrize("kind", ["int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64"])
def test_cross_entropy_labels_of_any_integer(kernels, rng, kind):
    x, labels = random(rng, "float32", 20, 10), rng.integers(0, 10, 20)
    expected = kernels.cross_entropy(x, labels)
    for target in (labels.astype(kind), np.repeat(labels.astype(kind), 3)[::3], labels.astype(kind)[::-1].copy()[::-1]):
        for a, b in zip(kernels.cross_entropy(x, target), expected, strict=True):
            assert_identical(a, b)


@pytest.mark.parametrize("row", [[-inf, 0, 1], [-inf, -inf, -inf], [inf, 0, 1], [nan, 0, 1], [1e4, -1e4, 0]], ids=str)
@pytest.mark.parametrize("smoothing", [0.0, 0.3, 1.0])
def test_cross_entropy_edges(kernels, dtype, row, smoothing):
    x = cast([row] * 3, dtype)
    compare_cross_entropy(kernels, x, np.arange(3), label_smoothing=smoothing, reduction="none")
    compare_cross_entropy(kernels, x, np.eye(3).astype(dtype), label_smoothing=smoothing, reduction="none")


def test_cross_entropy_layouts(kernels, rng, dtype):
    x, q = random(rng, dtype, 50, 20), cast(rng.dirichlet(np.ones(20), 50), dtype)
    expected = kernels.cross_entropy(x, q, label_smoothing=0.1)
    for layout in LAYOUTS.values():
        for a, b in zip(kernels.cross_entropy(layout(x), layout(q), label_smoothing=0.1), expected, strict=True):
            assert_identical(a, b)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("probabilities", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
def test_cross_entropy_against_torch(kernels, rng, reduction, smoothing, probabilities, weighted):
    torch = pytest.importorskip("torch")
    x, labels = random(rng, "float64", 40, 11, scale=3), rng.integers(0, 11, 40)
    target = rng.dirichlet(np.ones(11), 40) if probabilities else labels
    weight = rng.random(11) if weighted else None
    options = {"reduction": reduction, "label_smoothing": smoothing}
    loss, dx = kernels.cross_entropy(x, target, weight=weight, **options)
    tx = torch.from_numpy(x).requires_grad_()
    tw = None if weight is None else torch.from_numpy(weight)
    expected = torch.nn.functional.cross_entropy(tx, torch.from_numpy(target), tw, **options)
    expected.sum().backward()
    np.testing.assert_allclose(loss, expected.detach().numpy(), rtol=1e-12)
    np.testing.assert_allclose(dx, tx.grad.numpy(), rtol=1e-12, atol=1e-14)


# Maxout


MAXOUT = [((6,), 0, 1), ((6,), 0, 2), ((6,), 0, 6), ((5, 12), 1, 3), ((12, 5), 0, 4), ((4, 6, 9), 1, 2)]
MAXOUT += [
    ((4, 6, 9), -1, 3),
    ((2, 4, 5000), 1, 2),
    ((3000, 8), 1, 4),
    ((0, 4), 1, 2),
    ((4, 0), 1, 2),
    ((4, 2, 0), 1, 2),
]


@pytest.mark.parametrize(("shape", "axis", "pieces"), MAXOUT, ids=str)
def test_maxout(kernels, rng, dtype, shape, axis, pieces):
    x = random(rng, dtype, *shape)
    x[rng.random(shape) < 0.3] = 0  # ties
    x[rng.random(shape) < 0.1] = nan
    x[rng.random(shape) < 0.1] = -inf
    expected, reference = exact.maxout_forward(x, pieces, axis=axis)
    g = random(rng, dtype, *expected.shape)
    for layout in LAYOUTS.values():
        y, ctx = kernels.maxout_forward(layout(x), pieces, axis=axis)
        dx = kernels.maxout_backward(layout(g), ctx)
        assert y.dtype == dx.dtype == x.dtype
        np.testing.assert_array_equal(wide(y), expected)
        np.testing.assert_array_equal(wide(dx), exact.maxout_backward(g, reference))


def test_maxout_ties_and_nan(kernels):
    x = np.array([[1, 2, 1, 2, 1, nan], [nan, -inf, nan, -inf, 0, -inf]], np.float32)  # three pieces of two units
    y, ctx = kernels.maxout_forward(x, 3)
    np.testing.assert_array_equal(y, [[1, nan], [nan, -inf]])
    dx = kernels.maxout_backward(np.array([[10, 20], [30, 40]], np.float32), ctx)
    np.testing.assert_array_equal(dx, [[10, 0, 0, 0, 0, 20], [30, 40, 0, 0, 0, 0]])
