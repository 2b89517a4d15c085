"""Batch normalization, bias_act (bias and activation of a dense layer), and PReLU, against the reference."""

import gc
import itertools

import numpy as np
import pytest
from helpers import LAYOUTS, assert_identical, assert_writes, cast, exact, wide
from ulp import assert_within, epsilon

import gradfuse
import gradfuse.reference as ref

HALF = ["float16", "bfloat16"]


def combinations(*values, repeat=1):
    return list(itertools.product(*values, repeat=repeat))


# Every axis, few and many channels, short and long runs of a channel, tails of tiles and of patterns.
SHAPES = [
    ((6, 5), 0),
    ((6, 5), 1),
    ((300, 1), 1),
    ((67, 3), -1),
    ((130, 7), 1),
    ((5, 1300), 1),
    ((1300, 5), 0),
    ((4, 3, 33), 0),
    ((4, 3, 33), 1),
    ((4, 3, 33), 2),
    ((30, 4, 3), 1),
    ((3, 2, 2500), 1),
    ((2, 6, 4, 5), 1),
    ((2, 9, 7, 3), -1),
]
LARGE = [
    ((4000, 130), 1),
    ((2, 3, 100, 100), 1),
    ((4, 2, 100, 100), 1),
    ((7, 5, 110, 90), 1),
    ((3, 2, 70000), 1),
    ((40, 1100, 7), 1),
    ((2, 100000), 0),
]
shapes = pytest.mark.parametrize(("shape", "axis"), SHAPES, ids=lambda v: str(v).replace(" ", ""))
large_shapes = pytest.mark.parametrize(("shape", "axis"), LARGE, ids=lambda v: str(v).replace(" ", ""))
activations = pytest.mark.parametrize("activation", gradfuse.activations())


def arrays(rng, shape, axis, dtype, vectors=None):
    """x, a gradient and a residual; running mean and variance, weight and bias."""
    channels = shape[axis]
    big = (cast(rng.normal(size=shape), dtype) for _ in range(3))
    mean, weight, bias = rng.normal(size=(3, channels))
    small = (cast(v, vectors or dtype) for v in (mean, 0.5 + rng.random(channels), weight, bias))
    return *big, tuple(small)


def train(s, x, g, residual, vectors, **options):
    """All results of a training step by name, and its context."""
    mean, var, weight, bias = (None if v is None else v.copy() for v in vectors)
    y, ctx = s.batch_norm_forward(x, mean, var, weight, bias, residual=residual, **options)
    gradients = zip(["dx", "dweight", "dbias", "dresidual"], s.batch_norm_backward(g, ctx), strict=residual is not None)
    return {"y": y, "mean": mean, "var": var, **dict(gradients)}, ctx


def compare_training(kernels, x, g, residual, vectors, **options):
    actual, _ = train(kernels, x, g, residual, vectors, **options)
    expected, c = train(ref, wide(x), wide(g), wide(residual), tuple(map(wide, vectors)), **options)
    # The sizes of the terms. x and its mean are exact in double, unless the arrays are float64 or x is rounded first.
    exactness = 1.0 if c.order == "act_bn" else np.finfo(np.float64).eps / epsilon(x.dtype)
    u = exactness * (abs(c.u) + abs(c.u - c.sigma * c.x_hat))
    x_hat, g = abs(c.x_hat) + u / c.sigma, np.where(c.keep, abs(wide(g)) * c.scale, 0)
    terms = {
        "y": ("batch_norm", c.scale * (abs(c.gamma) * x_hat).max(initial=0.0) + abs(expected["y"]).max(initial=1.0)),
        "mean": ("running_mean", u.max(initial=0.0)),
        "var": ("running_var", (u * (u + abs(c.u))).max(initial=0.0)),
        "dx": ("batch_norm_backward", (g * abs(c.gamma / c.sigma)).max(initial=0.0) * x_hat.max(initial=1.0)),
        "dweight": ("channel_sum", (g * x_hat).sum(c.axes)),
        "dbias": ("channel_sum", g.sum(c.axes)),
        "dresidual": ("batch_norm_backward", g.max(initial=0.0)),
    }
    compare_all(
        actual, expected, terms, dict(zip(["mean", "var", "dweight", "dbias"], vectors, strict=True)), x, options
    )


def compare_all(actual, expected, terms, vectors, x, options):
    """Every result has the right dtype and shape, and is within the bounds for its name and for the activation."""
    activation = options.get("activation") or "relu"
    activation = activation if isinstance(activation, str) else activation[0]
    for name, value in expected.items():
        if value is None:
            assert actual[name] is None
            continue
        like, (row, scale) = vectors.get(name, x), terms[name]
        assert (actual[name].dtype, actual[name].shape) == (like.dtype, like.shape)
        assert_within(actual[name], value, row, f"{activation}_backward" if name[0] == "d" else activation, scale=scale)


TRAINING = {
    "plain": {},
    "eps_momentum": {"eps": 0.3, "momentum": 0.25},
    "cumulative": {"momentum": None, "num_batches": 3},
    "biased": {"unbiased": False},
    "frozen": {"frozen": True},
    "dropout": {"dropout": 0.3, "rng": 9},
    "activation": {"activation": "silu"},
    "activation_before": {"activation": ("elu", {"alpha": 1.3}), "order": "act_bn"},
    "everything": {"activation": "softplus", "dropout": 0.4, "eps": 0.1, "momentum": 0.7, "rng": 2**40},
    "everything_before": {"activation": "gelu", "order": "act_bn", "dropout": 0.4, "unbiased": False, "rng": 3},
}


@pytest.mark.parametrize("options", TRAINING.values(), ids=TRAINING)
@shapes
def test_batch_norm_training(kernels, rng, dtype, shape, axis, options):
    x, g, residual, vectors = arrays(rng, shape, axis, dtype)
    compare_training(kernels, x, g, residual, vectors, axis=axis, **options)


@pytest.mark.parametrize(
    "options", [{}, TRAINING["everything"], TRAINING["everything_before"]], ids=["plain", "bn_act", "act_bn"]
)
@large_shapes
def test_batch_norm_large(kernels, rng, shape, axis, options):
    x, g, residual, vectors = arrays(rng, shape, axis, "float32")
    compare_training(kernels, x, g, residual, vectors, axis=axis, **options)


@activations
@pytest.mark.parametrize("order", ["bn_act", "act_bn"])
@pytest.mark.parametrize("shape", [(41, 6), (3, 4, 70)], ids=str)
def test_batch_norm_activations(kernels, rng, activation, order, shape):
    x, g, _, vectors = arrays(rng, shape, 1, "float32")
    compare_training(kernels, x, g, None, vectors, activation=activation, order=order)


@pytest.mark.parametrize("given", combinations([True, False], repeat=4), ids=lambda g: "".join("01"[v] for v in g))
@pytest.mark.parametrize("frozen", [False, True])
def test_batch_norm_optional_arrays(kernels, rng, given, frozen):
    statistics, weight, bias, residual = given
    if frozen and not statistics:
        pytest.skip("an error: see test_errors.py")
    x, g, r, vectors = arrays(rng, (41, 6), 1, "float32")
    present = (statistics, statistics, weight, bias)
    vectors = tuple(v if there else None for v, there in zip(vectors, present, strict=True))
    compare_training(kernels, x, g, r if residual else None, vectors, frozen=frozen)


@pytest.mark.parametrize("half", HALF)
@pytest.mark.parametrize("shape", [(130, 7), (3, 4, 70)], ids=str)
def test_batch_norm_half_with_float32_vectors(kernels, rng, half, shape):
    x, g, r, vectors = arrays(rng, shape, 1, half, "float32")
    compare_training(kernels, x, g, r, vectors, activation="elu", dropout=0.2, rng=1)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    ("shape", "axis"), [((500, 3), 1), ((4, 3, 500), 1), ((4, 40, 64), 1), ((2, 1, 70000), 1)], ids=str
)
def test_batch_norm_far_from_zero(kernels, rng, dtype, shape, axis):
    """E[x^2] - E[x]^2 would have no correct digit here."""
    x, g, _, vectors = arrays(rng, shape, axis, dtype)
    x = cast(1000 + 0.1 * wide(x), dtype)
    compare_training(kernels, x, g, None, vectors, axis=axis)
    var = np.zeros(shape[axis], dtype)
    kernels.batch_norm_forward(x, np.zeros_like(var), var, momentum=1.0, axis=axis)
    error = max(4 * epsilon(dtype), 1e4 * np.finfo(np.float64).eps)  # in double the digits of the mean limit accuracy
    np.testing.assert_allclose(var, wide(x).var(axis=(0, *range(2, x.ndim)), ddof=1), rtol=error)


def from_an_odd_place(a):
    """A copy that begins one element behind a boundary of 16 bytes."""
    copy = np.empty(a.size + 1, a.dtype)[1:].reshape(a.shape)
    copy[...] = a
    return copy


@pytest.mark.parametrize("options", [{}, {"activation": "relu"}, TRAINING["everything_before"]], ids=str)
@pytest.mark.parametrize("shape", [(40, 9), (700, 9), (4, 9, 33), (6, 9, 81), (64, 9, 7, 7), (8, 9, 64, 64)], ids=str)
def test_batch_norm_of_a_channel_is_the_same_bits_beside_others_and_anywhere(kernels, rng, shape, options):
    options = {k: v for k, v in options.items() if k not in ("dropout", "rng")}  # a part has another mask
    x, g, r, vectors = arrays(rng, shape, 1, "float64")
    expected, _ = train(kernels, x, g, r, vectors, **options)
    moved, _ = train(kernels, *map(from_an_odd_place, (x, g, r)), vectors, **options)
    first, _ = train(kernels, *(a[:, :1].copy() for a in (x, g, r)), [v[:1] for v in vectors], **options)
    for name, value in expected.items():
        assert_identical(moved[name], value)
        assert_identical(first[name], value[:1] if value.ndim == 1 else value[:, :1].copy())


@pytest.mark.parametrize("shape", [(0, 5), (5, 0), (3, 5, 0), (0, 0)], ids=str)
def test_batch_norm_empty(kernels, dtype, shape):
    x, channels = np.empty(shape, dtype), shape[1]
    mean, var, weight = np.full(channels, 3, dtype), np.full(channels, 2, dtype), np.ones(channels, dtype)
    y, ctx = kernels.batch_norm_forward(x, mean, var, weight, weight, activation="relu", dropout=0.5, rng=1)
    dx, dweight, dbias = kernels.batch_norm_backward(x, ctx)
    assert y.shape == dx.shape == kernels.batch_norm(x, mean, var).shape == shape
    assert not dweight.any()
    assert not dbias.any()
    assert (mean == 3).all()
    assert (var == 2).all()


def test_batch_norm_of_one_value_frozen(kernels, rng):
    x, g, r, vectors = arrays(rng, (1, 6), 1, "float32")
    compare_training(kernels, x, g, r, vectors, frozen=True, activation="tanh")


@shapes
def test_batch_norm_inference(kernels, rng, dtype, shape, axis):
    x, _, residual, vectors = arrays(rng, shape, axis, dtype)
    for options in ({}, {"activation": "mish", "residual": residual, "eps": 0.1}):
        for present in (vectors, (*vectors[:2], None, None)):
            actual, expected = (s.batch_norm(x, *present, axis=axis, **options) for s in (kernels, exact))
            assert actual.dtype == x.dtype
            assert_within(actual, expected, "batch_norm", scale=abs(expected).max())


@activations
def test_batch_norm_inference_activations(kernels, rng, activation):
    x, _, _, vectors = arrays(rng, (41, 6), 1, "float32")
    actual, expected = (s.batch_norm(x, *vectors, activation=activation) for s in (kernels, exact))
    assert_within(actual, expected, "batch_norm", scale=abs(expected).max())


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("shape", [(41, 6), (3, 4, 70)], ids=str)
def test_batch_norm_out(kernels, rng, dtype, shape, layout):
    x, _, residual, vectors = arrays(rng, shape, 1, dtype)
    y = kernels.batch_norm(x, *vectors, activation="gelu", residual=residual)
    new, x2 = layout(np.full_like(x, np.nan)), layout(x)
    assert_writes(lambda: kernels.batch_norm(x, *vectors, activation="gelu", residual=residual, out=new), new, y)
    assert_writes(lambda: kernels.batch_norm(x2, *vectors, activation="gelu", residual=residual, out=x2), x2, y)


def test_batch_norm_updates_strided_statistics(kernels, rng):
    x, _, _, (mean, var, *_) = arrays(rng, (41, 6), 1, "float32")
    pairs = np.stack([mean, var], axis=1)
    kernels.batch_norm_forward(x, mean, var)
    kernels.batch_norm_forward(x, pairs[:, 0], pairs[:, 1])
    assert_identical(pairs, np.stack([mean, var], axis=1))


@pytest.mark.parametrize(("shape", "axis"), [((12, 5), -1), ((5, 12), 0), ((5, 4, 3, 3), 0)], ids=str)
@pytest.mark.parametrize("bias", [True, False])
def test_fold_batch_norm(kernels, rng, dtype, shape, axis, bias):
    W, _, _, (mean, var, weight, beta) = arrays(rng, shape, axis, dtype)
    b = cast(rng.normal(size=5), dtype) if bias else None
    for present in ((weight, beta), (None, None)):
        folded, expected = (s.fold_batch_norm(W, b, mean, var, *present, 0.1, axis=axis) for s in (kernels, exact))
        size = (abs(wide(mean)) + 3) / np.sqrt(wide(var)) * abs(wide(weight)).max(initial=1.0) + 3
        for actual, value, scale in zip(folded, expected, (0.0, size), strict=True):
            assert actual.dtype == W.dtype
            assert_within(actual, value, "fold_batch_norm", scale=scale)


def test_fold_batch_norm_is_the_layer_and_its_inference(kernels, rng):
    W, _, _, (mean, var, weight, beta) = arrays(rng, (12, 5), 1, "float64")
    x, b = rng.normal(size=(20, 12)), rng.normal(size=5)
    folded, shift = kernels.fold_batch_norm(W, b, mean, var, weight, beta)
    np.testing.assert_allclose(
        x @ folded + shift, kernels.batch_norm(x @ W + b, mean, var, weight, beta), rtol=1e-12, atol=1e-12
    )


@pytest.mark.parametrize("half", HALF)
def test_fold_batch_norm_half_with_float32_vectors(kernels, rng, half):
    W, _, _, vectors = arrays(rng, (12, 5), 1, half, "float32")
    folded, shift = kernels.fold_batch_norm(W, vectors[0], *vectors)
    assert (folded.dtype, shift.dtype) == (W.dtype, np.float32)


@pytest.mark.parametrize("order", ["bn_act", "act_bn"])
@pytest.mark.parametrize(("shape", "dtype"), combinations([(20, 6), (4, 3, 7, 9)], ["float32", "float64"]), ids=str)
def test_batch_norm_against_torch(kernels, rng, order, shape, dtype):
    torch = pytest.importorskip("torch")
    x, g, r, vectors = arrays(rng, shape, 1, dtype)
    actual, _ = train(kernels, x, g, r, vectors, activation="elu", order=order, momentum=0.3)
    tx, tg, tr, mean, var, weight, bias = (torch.from_numpy(a.copy()) for a in (x, g, r, *vectors))
    for t in (tx, tr, weight, bias):
        t.requires_grad_()
    u = torch.nn.functional.elu(tx) if order == "act_bn" else tx
    z = torch.nn.functional.batch_norm(u, mean, var, weight, bias, training=True, momentum=0.3) + tr
    y = z if order == "act_bn" else torch.nn.functional.elu(z)
    y.backward(tg)
    expected = {"y": y.detach(), "mean": mean, "var": var, "dx": tx.grad, "dweight": weight.grad, "dbias": bias.grad}
    for name, value in (expected | {"dresidual": tr.grad}).items():
        np.testing.assert_allclose(actual[name], value.numpy(), rtol=100 * epsilon(dtype), atol=100 * epsilon(dtype))


# Bias and activation of a dense layer


def dense(s, x, bias, residual, g, **options):
    y, ctx = s.bias_act_forward(x, bias, residual=residual, **options)
    return dict(
        zip(["y", "dx", "dbias", "dresidual"], (y, *s.bias_act_backward(g, ctx)), strict=residual is not None)
    ), ctx


def compare_dense(kernels, x, bias, residual, g, **options):
    actual, _ = dense(kernels, x, bias, residual, g, **options)
    expected, c = dense(ref, *map(wide, (x, bias, residual, g)), **options)
    g = np.where(c.keep, abs(wide(g)) * c.scale, 0)
    terms = {
        "y": ("bias_act", abs(expected["y"]).max(initial=1.0)),
        "dx": ("bias_act_backward", g.max(initial=0.0)),
        "dbias": ("channel_sum", g.sum(c.axes)),
        "dresidual": ("bias_act_backward", g.max(initial=0.0)),
    }
    compare_all(actual, expected, terms, {"dbias": bias}, x, options)


DENSE = {
    "plain": {},
    "activation": {"activation": ("leaky_relu", {"negative_slope": 0.2})},
    "dropout": {"dropout": 0.3, "rng": 2**33 + 1},
    "everything": {"activation": "tanh", "dropout": 0.6, "rng": 5},
}


@pytest.mark.parametrize("options", DENSE.values(), ids=DENSE)
@shapes
def test_bias_act(kernels, rng, dtype, shape, axis, options):
    x, g, residual, (bias, *_) = arrays(rng, shape, axis, dtype)
    compare_dense(kernels, x, bias, residual, g, axis=axis, **options)


@activations
def test_bias_act_activations(kernels, rng, activation):
    x, g, residual, (bias, *_) = arrays(rng, (41, 6), -1, "float32")
    compare_dense(kernels, x, bias, residual, g, activation=activation)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@large_shapes
def test_bias_act_large(kernels, rng, dtype, shape, axis):
    x, g, _, (bias, *_) = arrays(rng, shape, axis, dtype, "float32")
    compare_dense(kernels, x, bias, None, g, axis=axis, activation="relu", dropout=0.2, rng=1)


@pytest.mark.parametrize("given", combinations([True, False], repeat=2), ids=str)
def test_bias_act_optional_arrays(kernels, rng, given):
    x, g, r, (bias, *_) = arrays(rng, (41, 6), 1, "float32")
    compare_dense(kernels, x, bias if given[0] else None, r if given[1] else None, g, activation="tanh")


@pytest.mark.parametrize("shape", [(0, 5), (5, 0), (0,)], ids=str)
def test_bias_act_empty(kernels, dtype, shape):
    x, bias = np.empty(shape, dtype), np.ones(shape[-1], dtype)
    y, ctx = kernels.bias_act_forward(x, bias, "elu")
    dx, dbias = kernels.bias_act_backward(x, ctx)
    assert y.shape == dx.shape == shape
    assert not dbias.any()


# PReLU


@pytest.mark.parametrize("shared", [True, False])
@shapes
def test_prelu(kernels, rng, dtype, shape, axis, shared):
    x, g, _, (weight, *_) = arrays(rng, shape, axis, dtype)
    x.flat[::7] = 0
    weight = weight[:1] if shared else weight
    (y, (dx, dweight)), (y_, (dx_, dweight_)) = (prelu(s, x, g, weight, axis) for s in (kernels, exact))
    assert_within(y, y_, "prelu")
    assert_within(dx, dx_, "prelu")
    size = abs(wide(x) * wide(g))
    size = (
        size.sum(keepdims=True).reshape(1)
        if shared
        else size.sum(tuple(d for d in range(x.ndim) if d != axis % x.ndim))
    )
    assert (dweight.dtype, dweight.shape) == (weight.dtype, weight.shape)
    assert_within(dweight, dweight_, "channel_sum", scale=size)


def prelu(s, x, g, weight, axis):
    y, ctx = s.prelu_forward(x, weight, axis=axis)
    return y, s.prelu_backward(g, ctx)


def test_prelu_edges(kernels):
    x = np.array([[-np.inf, -0.0, 0.0, np.nan, np.inf]], np.float32)
    y, ctx = kernels.prelu_forward(x, np.array([0.25], np.float32))
    np.testing.assert_array_equal(y, x)
    dx, dweight = kernels.prelu_backward(np.ones_like(x), ctx)
    np.testing.assert_array_equal(dx, [[0.25, 0.25, 0.25, 0.25, 1]])
    assert np.isnan(dweight).all()


def test_prelu_of_no_dimensions(kernels):
    y, ctx = kernels.prelu_forward(np.array(-2.0), np.array([0.25]))
    dx, dweight = kernels.prelu_backward(np.array(1.0), ctx)
    assert (y.shape, y, dx, dweight) == ((), -0.5, 0.25, [-2.0])


def test_contexts_keep_their_arrays_alive(kernels, rng):
    """A context may be used again."""
    x, g, r, (mean, var, weight, bias) = arrays(rng, (300, 70), 1, "float32")
    _, ctx = kernels.batch_norm_forward(x.copy(), mean, var, weight.copy(), bias.copy(), residual=r.copy())
    first = kernels.batch_norm_backward(g, ctx)
    gc.collect()
    for _ in range(3):
        np.full_like(x, np.nan)
        for a, b in zip(kernels.batch_norm_backward(g, ctx), first, strict=True):
            assert_identical(a, b)
