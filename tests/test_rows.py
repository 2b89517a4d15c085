"""Softmax, the losses and maxout, against the reference."""

import numpy as np
import pytest
from helpers import LAYOUTS, assert_identical, assert_writes, cast, exact, wide
from ulp import assert_within, epsilon

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
variants = pytest.mark.parametrize("name", ["softmax", "log_softmax"])


def random(rng, dtype, *shape, scale=1.0):
    return cast(scale * rng.normal(size=shape), dtype)


def compare_softmax(kernels, name, x, g, axis):
    y, y_ = (getattr(s, name)(x, axis=axis) for s in (kernels, exact))
    assert y.dtype == x.dtype
    with np.errstate(invalid="ignore"):
        shifted = abs(wide(x) - wide(x).max(axis, keepdims=True, initial=-inf)) * epsilon(x.dtype)
        change = np.nan_to_num(y_ * shifted) if name == "softmax" else 0.0  # the rounding of x - max, in the exponent
    assert_within(y, y_, name, change=change, scale=1.0)

    dx, dx_ = (getattr(s, f"{name}_backward")(g, y, axis=axis) for s in (kernels, exact))
    p, size = wide(y), abs(wide(g))
    if name == "softmax":
        scale = abs(p) * (size + (size * abs(p)).sum(axis, keepdims=True))
    else:
        scale = size + np.exp(p) * size.sum(axis, keepdims=True)
    assert_within(dx, dx_, f"{name}_backward", scale=np.nan_to_num(scale))


@variants
@shapes
def test_softmax(kernels, rng, dtype, name, shape, axis):
    x, g = random(rng, dtype, *shape, scale=4), random(rng, dtype, *shape)
    compare_softmax(kernels, name, x, g, axis)


@variants
@pytest.mark.parametrize("scale", [1e-30, 100.0, 3e4])
def test_softmax_of_any_size(kernels, rng, dtype, name, scale):
    x, g = random(rng, dtype, 20, 50, scale=scale), random(rng, dtype, 20, 50)
    compare_softmax(kernels, name, x, g, 1)


@variants
def test_softmax_of_huge_rows(kernels, rng, dtype, name):
    x, g = random(rng, dtype, 3, 100_003, scale=4), random(rng, dtype, 3, 100_003)
    compare_softmax(kernels, name, x, g, 1)


@variants
@pytest.mark.parametrize(
    "row",
    [[-inf] * 4, [-inf, 0, 1, 2], [inf, 0, 1, 2], [nan, 0, 1, 2], [3e38, -3e38, 0, 1], [-inf, 5, -inf, 5]],
    ids=str,
)
def test_softmax_edges(kernels, dtype, name, row):
    x = cast([row, row[::-1], [1, 2, 3, 4]], dtype)
    compare_softmax(kernels, name, x, np.ones_like(x), 1)
    assert np.isnan(wide(getattr(kernels, name)(np.full((2, 3), -inf, dtype)))).all()


@variants
@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_softmax_out(kernels, rng, dtype, name, axis, layout):
    f, df = getattr(kernels, name), getattr(kernels, f"{name}_backward")
    x, g = random(rng, dtype, 37, 21), random(rng, dtype, 37, 21)
    y = f(x, axis=axis)
    dx = df(g, y, axis=axis)
    new, x2, g2, y2 = layout(np.full_like(x, nan)), layout(x), layout(g), layout(y)
    assert_writes(lambda: f(x, axis=axis, out=new), new, y)
    assert_writes(lambda: df(g, y, axis=axis, out=new), new, dx)
    assert_writes(lambda: f(x2, axis=axis, out=x2), x2, y)
    assert_writes(lambda: df(g2, y, axis=axis, out=g2), g2, dx)
    assert_writes(lambda: df(g, y2, axis=axis, out=y2), y2, dx)


# Cross-entropy


def compare_cross_entropy(kernels, x, target, **options):
    (loss, dx), (loss_, dx_) = (s.cross_entropy(x, target, **options) for s in (kernels, exact))
    assert loss.dtype == (np.float64 if x.dtype == np.float64 else np.float32)
    assert (loss.shape, dx.dtype, dx.shape) == (loss_.shape, x.dtype, x.shape)
    with np.errstate(invalid="ignore"):
        distance = np.nan_to_num(wide(x).max(1, initial=-inf) - wide(x).min(1, initial=inf), posinf=0.0, neginf=0.0)
    mass = 1.0 if target.ndim == 1 else abs(wide(target)).sum(1)
    size = (1 + distance) * mass
    reduction, rows = options.get("reduction", "mean"), max(len(x), 1)
    scale = {"mean": size.mean() if size.size else 0.0, "sum": size.sum(), "none": size}[reduction]
    assert_within(loss, loss_, "cross_entropy", scale=scale)
    share = (mass / rows if reduction == "mean" else mass) * np.ones(len(x))
    change = exact.softmax(x) * (share * distance)[:, None] * epsilon(x.dtype)  # the rounding of x - max, as in softmax
    assert_within(dx, dx_, "cross_entropy_backward", change=change, scale=share[:, None])


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("smoothing", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("shape", [(7, 5), (1, 1), (300, 10), (3, 5000), (0, 4)], ids=str)
def test_cross_entropy(kernels, rng, dtype, reduction, smoothing, shape):
    x, labels = random(rng, dtype, *shape, scale=4), rng.integers(0, shape[1], shape[0])
    compare_cross_entropy(kernels, x, labels, label_smoothing=smoothing, reduction=reduction)
    q = cast(rng.dirichlet(np.ones(shape[1]), shape[0]), dtype)
    compare_cross_entropy(kernels, x, q, label_smoothing=smoothing, reduction=reduction)


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
def test_cross_entropy_against_torch(kernels, rng, reduction, smoothing, probabilities):
    torch = pytest.importorskip("torch")
    x, labels = random(rng, "float64", 40, 11, scale=3), rng.integers(0, 11, 40)
    target = rng.dirichlet(np.ones(11), 40) if probabilities else labels
    loss, dx = kernels.cross_entropy(x, target, label_smoothing=smoothing, reduction=reduction)
    tx = torch.from_numpy(x).requires_grad_()
    expected = torch.nn.functional.cross_entropy(
        tx, torch.from_numpy(target), reduction=reduction, label_smoothing=smoothing
    )
    expected.sum().backward()
    np.testing.assert_allclose(loss, expected.detach().numpy(), rtol=1e-12)
    np.testing.assert_allclose(dx, tx.grad.numpy(), rtol=1e-12, atol=1e-14)


# Mean squared error


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("shape", [(), (0,), (7,), (3, 4, 5), (70001,)], ids=str)
def test_mse_loss(kernels, rng, dtype, reduction, shape):
    x, target = random(rng, dtype, *shape), random(rng, dtype, *shape)
    (loss, dx), (loss_, dx_) = (s.mse_loss(x, target, reduction=reduction) for s in (kernels, exact))
    assert loss.dtype == (np.float64 if dtype == "float64" else np.float32)
    assert (loss.shape, dx.dtype, dx.shape) == (loss_.shape, x.dtype, x.shape)
    assert_within(loss, loss_, "mse_loss")
    assert_within(dx, dx_, "mse_loss_backward")
    for layout in LAYOUTS.values():
        for a, b in zip(kernels.mse_loss(layout(x), layout(target), reduction=reduction), (loss, dx), strict=True):
            assert_identical(a, b)


def test_mse_loss_of_ten_million(kernels, rng):
    x = rng.random(10_000_000, np.float32)
    loss, _ = kernels.mse_loss(x, np.zeros_like(x))
    assert_within(loss, np.square(wide(x)).mean(), "mse_loss")


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
