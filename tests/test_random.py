"""Dropout and its kin: masks bit for bit those of the reference, whatever the seed, stream, layout or dtype."""

import copy
import pickle

import numpy as np
import pytest
from helpers import DTYPES, LAYOUTS, assert_identical, cast, exact, wide
from ulp import assert_within

import gradfuse
import gradfuse.reference as ref

SEEDS = [0, 1, 2**32 + 5, 2**63 + 11, 2**64 - 1]
RATES = [0.0, 2**-18, 2**-16, 0.1, 0.5, 0.9, 1 - 2**-16, 1 - 2**-18, 1.0]
SIZES = [0, 1, 7, 8, 9, 2047, 2048, 2049, 40_001]


def stream(library, seed, number):
    generator = library.Generator(seed)
    generator.load_state_dict({"seed": seed, "stream": number})
    return generator


def keeps(kernels, size, p, rng, dtype="float32"):
    return kernels.dropout_forward(np.ones(size, dtype), p, rng=rng)[0] != 0


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("p", RATES)
def test_masks(kernels, seed, p):
    for size in SIZES:
        np.testing.assert_array_equal(keeps(kernels, size, p, seed), ref.keep_mask((size,), p, seed))


@pytest.mark.parametrize("number", [1, 2**32 - 1, 2**32, 2**40 + 3])
def test_masks_of_streams(kernels, number):
    actual, expected = stream(gradfuse, 17, number), stream(ref, 17, number)
    for _ in range(2):  # the one after it too
        np.testing.assert_array_equal(keeps(kernels, 5000, 0.5, actual), ref.keep_mask((5000,), 0.5, expected))
    assert actual.stream == expected.stream == number + 2


def test_masks_of_every_dtype_and_layout(kernels):
    expected = ref.keep_mask((33, 67), 0.4, 7)
    for dtype in DTYPES:
        for layout in LAYOUTS.values():
            y, ctx = kernels.dropout_forward(layout(np.ones((33, 67), dtype)), 0.4, rng=7)
            np.testing.assert_array_equal(y != 0, expected)
            np.testing.assert_array_equal(
                kernels.dropout_backward(layout(np.ones((33, 67), dtype)), ctx) != 0, expected
            )


@pytest.mark.parametrize("shape", [(33, 7), (5, 2, 70), (400, 130)], ids=str)
def test_masks_of_fused_functions(kernels, shape):
    x, expected = np.ones(shape, np.float32), ref.keep_mask(shape, 0.4, 7)
    zero, one = np.zeros(shape[1], np.float32), np.ones(shape[1], np.float32)
    y, _ = kernels.bias_act_forward(x, dropout=0.4, rng=7)
    np.testing.assert_array_equal(y != 0, expected)
    y, _ = kernels.batch_norm_forward(x, zero, one, dropout=0.4, rng=7, frozen=True)
    np.testing.assert_array_equal(y != 0, expected)


@pytest.mark.parametrize("name", ["dropout", "alpha_dropout"])
@pytest.mark.parametrize("p", RATES)
def test_dropout(kernels, rng, dtype, name, p):
    x, g = (cast(rng.normal(size=(41, 53)), dtype) for _ in range(2))
    results = []
    for s in (kernels, exact):
        y, ctx = getattr(s, f"{name}_forward")(x, p, rng=2**35)
        results.append((y, getattr(s, f"{name}_backward")(g, ctx)))
    for actual, expected in zip(*results, strict=True):
        assert actual.dtype == x.dtype
        assert_within(actual, expected, name, scale=abs(expected).max())


@pytest.mark.parametrize("p", [0.5, 1.0])
def test_dropped_is_zero(kernels, dtype, p):
    x = np.resize(np.array([np.inf, -np.inf, np.nan, 1]), 1000).astype(dtype)
    keep = ref.keep_mask(x.shape, p, 3)
    y, ctx = kernels.dropout_forward(x, p, rng=3)
    assert not y[~keep].any()
    np.testing.assert_array_equal(wide(y[keep]), wide(x[keep]) / (1 - p if p < 1 else 1))
    assert not kernels.dropout_backward(x, ctx)[~keep].any()
    dropped = kernels.alpha_dropout_forward(x, p, rng=3)[0][~keep]
    assert (dropped == dropped[0]).all()


@pytest.mark.parametrize("name", ["dropout_forward", "alpha_dropout_forward"])
def test_rate_of_zero_is_the_identity(kernels, rng, dtype, name):
    x, generator = cast(rng.normal(size=1001), dtype), gradfuse.Generator(3)
    y, _ = getattr(kernels, name)(x, 0.0, rng=generator)
    assert_identical(y, x)
    assert generator.stream == 0


@pytest.mark.parametrize("shape", [(), (0,), (3, 0, 2)], ids=str)
def test_small_shapes(kernels, dtype, shape):
    x = np.full(shape, -2.0, dtype)
    for name in ("dropout", "alpha_dropout", "rrelu"):
        y, ctx = getattr(kernels, f"{name}_forward")(x, rng=3)
        assert y.shape == getattr(kernels, f"{name}_backward")(x, ctx).shape == shape


@pytest.mark.parametrize(
    "options", [{}, {"lower": 0.0, "upper": 0.5}, {"lower": -0.25, "upper": -0.25}, {"training": False}], ids=str
)
def test_rrelu(kernels, rng, dtype, options):
    x, g = (cast(rng.normal(size=(41, 53)), dtype) for _ in range(2))
    x[0, :4] = cast([0, -np.inf, np.inf, np.nan], dtype)
    results = []
    for s in (kernels, exact):
        y, ctx = s.rrelu_forward(x, rng=2**35, **options)
        results.append((y, s.rrelu_backward(g, ctx)))
    for actual, expected in zip(*results, strict=True):
        assert actual.dtype == x.dtype
        assert_within(actual, expected, "rrelu")


def test_rrelu_in_every_layout(kernels, rng):
    x, g = (cast(rng.normal(size=(41, 53)), "float32") for _ in range(2))
    y, ctx = kernels.rrelu_forward(x, rng=3)
    dx = kernels.rrelu_backward(g, ctx)
    for layout in LAYOUTS.values():
        y2, ctx = kernels.rrelu_forward(layout(x), rng=3)
        assert_identical(y2, y)
        assert_identical(kernels.rrelu_backward(layout(g), ctx), dx)


# Statistics, 6 standard deviations wide


@pytest.mark.parametrize("p", [0.001, 0.1, 0.5, 0.9])
def test_share_of_dropped(kernels, p):
    n = 1_000_000
    share = 1 - keeps(kernels, n, p, 11).mean()
    assert abs(share - p) < 6 * np.sqrt(p * (1 - p) / n) + 2**-17


def test_streams_are_independent(kernels):
    generator = gradfuse.Generator(5)
    masks = np.array([keeps(kernels, 100_000, 0.5, generator) for _ in range(4)] + [keeps(kernels, 100_000, 0.5, 6)])
    correlation = np.corrcoef(np.c_[masks[:, :-1], masks[:, 1:]].reshape(10, -1))  # and shifted by one
    assert abs(correlation - np.eye(10)).max() < 6 / np.sqrt(99_999)


def test_alpha_dropout_keeps_mean_and_variance(kernels, rng):
    y, _ = kernels.alpha_dropout_forward(rng.normal(size=1_000_000), 0.3, rng=2)
    assert abs(y.mean()) < 0.006
    assert abs(y.var() - 1) < 0.01


def test_rrelu_slopes_are_uniform(kernels):
    y, _ = kernels.rrelu_forward(np.full(1_000_000, -1.0), 0.2, 0.6, rng=2)
    assert (y <= -0.2).all()
    assert (y >= -0.6).all()
    histogram, _ = np.histogram(-y, 20, (0.2, 0.6))
    assert abs(histogram - 50_000).max() < 6 * np.sqrt(50_000)


# Where the randomness comes from


@pytest.mark.parametrize(
    "draw",
    [
        lambda k, x, rng: k.dropout_forward(x, 0.5, rng=rng)[0],
        lambda k, x, rng: k.alpha_dropout_forward(x, 0.5, rng=rng)[0],
        lambda k, x, rng: k.rrelu_forward(-x, rng=rng)[0],
        lambda k, x, rng: k.bias_act_forward(x, dropout=0.5, rng=rng)[0],
        lambda k, x, rng: k.batch_norm_forward(x, x[0] * 0, x[0], dropout=0.5, frozen=True, rng=rng)[0],
    ],
    ids=["dropout", "alpha_dropout", "rrelu", "bias_act", "batch_norm"],
)
def test_sources(kernels, draw):
    x = np.ones((30, 8), np.float32)
    generator = gradfuse.Generator(9)
    first, second = draw(kernels, x, generator), draw(kernels, x, generator)
    assert generator.stream == 2
    assert (first != second).any()
    for seed in (9, np.int64(9), np.uint8(9)):
        assert_identical(draw(kernels, x, seed), first)  # an int is a seed, at its stream 0
    assert_identical(draw(kernels, x, stream(gradfuse, 9, 1)), second)
    assert (draw(kernels, x, None) != draw(kernels, x, None)).any()


def test_what_draws_nothing_advances_nothing(kernels):
    x, generator = np.ones((30, 8), np.float32), gradfuse.Generator(9)
    kernels.bias_act_forward(x, rng=generator)
    kernels.batch_norm_forward(x, None, None, rng=generator)
    kernels.rrelu_forward(x, training=False, rng=generator)
    assert generator.stream == 0


def test_backward_draws_nothing(kernels):
    x, generator = np.ones((30, 8), np.float32), gradfuse.Generator(9)
    _, ctx = kernels.dropout_forward(x, rng=generator)
    first = kernels.dropout_backward(x, ctx)
    generator.load_state_dict({"seed": 1, "stream": 50})
    assert_identical(kernels.dropout_backward(x, ctx), first)
    assert generator.stream == 50


@pytest.mark.parametrize(
    "clone", [copy.copy, copy.deepcopy, lambda g: pickle.loads(pickle.dumps(g))], ids=["copy", "deepcopy", "pickle"]
)
def test_generator_is_copied(clone):
    generator = stream(gradfuse, 2**64 - 1, 2**63)
    other = clone(generator)
    assert other is not generator
    assert other.state_dict() == generator.state_dict() == {"seed": 2**64 - 1, "stream": 2**63}
    other.load_state_dict({"seed": 1, "stream": 0})
    assert generator.seed == 2**64 - 1


def test_generator_shows_itself():
    generator = gradfuse.Generator(5)
    assert (generator.seed, generator.stream, repr(generator)) == (5, 0, "Generator(seed=5, stream=0)")
    for attribute in ("seed", "stream"):
        with pytest.raises(AttributeError):
            setattr(generator, attribute, 3)
