"""The reference's norms within a sample, batch norm's phases, and gates: gradients against central differences."""

import numpy as np
import pytest
from test_reference import assert_gradient

import gradfuse.reference as ref
from gradfuse import _core

# The function, its options, and the shape of its weight for an x of shape (4, 6, 5).
NORMS = {
    "layer": ("layer_norm", {}, (5,)),
    "layer of axes": ("layer_norm", {"axis": (-1, 0)}, (4, 5)),
    "layer of the middle": ("layer_norm", {"axis": 1}, (6,)),
    "rms": ("rms_norm", {}, (5,)),
    "rms of axes": ("rms_norm", {"axis": (1, 2), "eps": 0.1}, (6, 5)),
    "rms with an offset": ("rms_norm", {"axis": 0, "unit_offset": True}, (4,)),
    "group": ("group_norm", {"num_groups": 3}, (6,)),
    "group of one": ("group_norm", {"num_groups": 1, "axis": -1}, (5,)),
    "group of channels": ("group_norm", {"num_groups": 6}, (6,)),
    "instance": ("instance_norm", {}, (6,)),
    "instance, last": ("instance_norm", {"axis": 2}, (5,)),
}
OTHERS = {"rows": ({}, (5,)), "channel_groups": ({"num_groups": 3}, (6,)), "channels": ({}, (6,))}
for norm in sorted(set(_core.norms()) - {name for name, _, _ in NORMS.values()}):
    NORMS[norm] = (norm, *OTHERS[_core.norm_info(norm)["groups"]])
norms = pytest.mark.parametrize(("name", "options", "vector"), NORMS.values(), ids=NORMS)


@norms
@pytest.mark.parametrize("after", [{}, {"activation": ("elu", {"alpha": 0.7}), "dropout": 0.3, "rng": 3}], ids=str)
@pytest.mark.parametrize("given", [["weight", "bias"], ["bias"], ["weight"], []], ids=str)
def test_gradient(name, options, vector, after, given, rng):
    has_bias = _core.norm_info(name)["has_bias"]
    if not has_bias and "bias" in given:
        given = ["weight"]
    x, g = 2 * rng.standard_normal((2, 4, 6, 5)) + 1
    arrays = {"x": x, **{v: rng.standard_normal(vector) for v in given}}
    forward, backward = getattr(ref, f"{name}_forward"), getattr(ref, f"{name}_backward")
    y, ctx = forward(**arrays, **options, **after)
    gradients = dict(zip(["x", "weight", "bias"], backward(g, ctx), strict=has_bias))
    for v, gradient in gradients.items():
        if v not in arrays:
            assert gradient is None
            continue
        assert gradient.shape == arrays[v].shape
        assert_gradient(
            gradient, lambda a, v=v: (forward(**{**arrays, v: a}, **options, **after)[0] * g).sum(), arrays[v]
        )
    assert y.shape == x.shape
    if "dropout" not in after:
        out = np.empty_like(x)
        assert getattr(ref, name)(**arrays, **options, **after, out=out) is out
        np.testing.assert_array_equal(out, y)


@pytest.mark.parametrize("name", ["layer_norm", "rms_norm"])
def test_add(name, rng):
    forward, backward = getattr(ref, f"{name}_forward"), getattr(ref, f"{name}_backward")
    x, h, g, g_total = rng.standard_normal((4, 3, 5))
    weight = rng.standard_normal(5)
    y, total, ctx = forward(x, weight, add=h, activation="tanh", dropout=0.2, rng=5)
    np.testing.assert_array_equal(total, x + h)
    alone, alone_ctx = forward(total, weight, activation="tanh", dropout=0.2, rng=5)
    np.testing.assert_array_equal(y, alone)

    def loss(x, h):
        y, total, _ = forward(x, weight, add=h, activation="tanh", dropout=0.2, rng=5)
        return (y * g).sum() + (total * g_total).sum()

    dx = backward(g, ctx, g_total)[0]
    assert_gradient(dx, lambda x: loss(x, h), x)
    assert_gradient(dx, lambda h: loss(x, h), h)
    np.testing.assert_array_equal(backward(g, ctx)[0], backward(g, alone_ctx)[0])
    with pytest.raises(ValueError, match=f"{name}_backward: grad_total must be None if the forward had no add"):
        backward(g, alone_ctx, g_total)
    y, total = getattr(ref, name)(x, weight, add=h)
    np.testing.assert_array_equal(total, x + h)
    np.testing.assert_array_equal(y, getattr(ref, name)(total, weight))


@pytest.mark.parametrize("name", ["layer_norm", "rms_norm"])
def test_the_rounded_total_is_normalized(name, rng):
    x, h = (100 * rng.standard_normal((2, 3, 50))).astype(np.float16)
    y, total, _ = getattr(ref, f"{name}_forward")(x, add=h)
    assert total.dtype == np.float16
    np.testing.assert_array_equal(total, x + h)  # NumPy rounds a sum of float16 once
    np.testing.assert_array_equal(y, getattr(ref, name)(total))


@norms
def test_dtypes(name, options, vector, rng):
    x = rng.standard_normal((4, 6, 5)).astype(np.float16)
    for dtype in (np.float16, np.float32):
        weight = rng.standard_normal(vector).astype(dtype)
        vectors = [weight] * (1 + _core.norm_info(name)["has_bias"])
        y, ctx = getattr(ref, f"{name}_forward")(x, **options, **dict(zip(["weight", "bias"], vectors, strict=False)))
        dx, *gradients = getattr(ref, f"{name}_backward")(x, ctx)
        assert y.dtype == dx.dtype == np.float16
        assert [v.dtype for v in gradients] == [dtype] * len(vectors)
    with pytest.raises(TypeError, match=f"{name}: weight must be float16 or float32 as x is, got float64"):
        getattr(ref, name)(x, **options, weight=weight.astype(float))


@pytest.mark.parametrize("name", [name for name in NORMS if "axis" not in NORMS[name][1]])
def test_empty_batch(name):
    name, options, vector = NORMS[name]
    x, weight = np.zeros((0, 6, 5)), np.ones(vector)
    y, ctx = getattr(ref, f"{name}_forward")(x, **options, weight=weight)
    dx, dweight, *_ = getattr(ref, f"{name}_backward")(y, ctx)
    assert y.shape == dx.shape == x.shape
    np.testing.assert_array_equal(dweight, np.zeros(vector))


def test_groups_are_standard(rng):
    x = 1e4 + rng.standard_normal((3, 8, 7))
    y = ref.group_norm(x, 4, eps=0.0).reshape(3, 4, -1)
    np.testing.assert_allclose(y.mean(-1), 0, atol=1e-8)
    np.testing.assert_allclose(y.std(-1), 1)
    np.testing.assert_allclose(ref.rms_norm(x) ** 2 @ np.ones(7), 7)
    np.testing.assert_array_equal(ref.instance_norm(x), ref.group_norm(x, 8))
    weight = rng.standard_normal(7)
    np.testing.assert_array_equal(ref.rms_norm(x, weight, unit_offset=True), ref.rms_norm(x, weight + 1))
    np.testing.assert_array_equal(ref.instance_norm(x), ref.layer_norm(x))
    np.testing.assert_array_equal(ref.layer_norm(x, axis=(2, -2)), ref.layer_norm(x.reshape(3, -1)).reshape(x.shape))
    last = ref.group_norm(np.moveaxis(x, 1, -1), 4, axis=-1)
    np.testing.assert_allclose(np.moveaxis(last, -1, 1), ref.group_norm(x, 4), rtol=0, atol=1e-7)


def test_groups_of_one_element():
    x, bias = np.array([[3.0], [-4.0]]), np.array([7.0])
    np.testing.assert_array_equal(ref.layer_norm(x, None, bias), [[7], [7]])
    np.testing.assert_allclose(ref.rms_norm(x, bias), [[7], [-7]])
    np.testing.assert_array_equal(ref.group_norm(x, 1, None, bias), [[7], [7]])


def test_eps_of_rms_norm():
    for dtype, eps in ((np.float16, 2.0**-23), (np.float32, 2.0**-23), (np.float64, 2.0**-52)):
        x = np.full((1, 4), 2.0**-12, dtype)
        np.testing.assert_array_equal(ref.rms_norm(x), ref.rms_norm(x, eps=eps))
        assert ref.rms_norm(x)[0, 0] != ref.rms_norm(x, eps=2 * eps)[0, 0]


X = np.ones((2, 6, 3))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ref.layer_norm(X, axis=(1, -2)), r"layer_norm: axis must name .* only once, got \(1, -2\)"),
        (lambda: ref.rms_norm(X, axis=()), r"rms_norm: axis must name at least one axis"),
        (lambda: ref.rms_norm_forward(X, axis=3), "rms_norm_forward: axis must be an axis of an array of 3 dimensions"),
        (lambda: ref.layer_norm(X, X[0, 0], axis=(1, 2)), r"layer_norm: weight must have shape \(6, 3\), got \(3,\)"),
        (lambda: ref.layer_norm(X, add=X[0]), r"layer_norm: add must have the shape of x, \(2, 6, 3\), got \(6, 3\)"),
        (
            lambda: ref.group_norm(X, 4),
            "group_norm: num_groups must be a positive divisor of the 6 channels of x, got 4",
        ),
        (lambda: ref.group_norm(X, 0), "group_norm: num_groups must be a positive divisor"),
        (lambda: ref.group_norm(X, 1, axis=-3), "group_norm: axis must not be 0"),
        (
            lambda: ref.group_norm_forward(X[:1, :, :1], 6),
            "group_norm_forward: x must have more than one value per group",
        ),
        (
            lambda: ref.instance_norm(X[:, :, :1]),
            "instance_norm: x must have more than one value per sample and channel",
        ),
        (lambda: ref.glu_forward(X), "glu_forward: x must have an even number of elements on axis 2"),
        (lambda: ref.merge_moments([]), "merge_moments: moments must not be empty"),
        (lambda: ref.merge_moments([X[0], X[0, :3]]), "merge_moments: moments must have one shape"),
    ],
    ids=lambda v: v[:30] if isinstance(v, str) else "",
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()


# Batch norm with its phases apart


@pytest.mark.parametrize("axis", [1, -1, 0])
@pytest.mark.parametrize("momentum", [0.3, None])
@pytest.mark.parametrize("unbiased", [True, False])
def test_two_halves_are_the_whole(axis, momentum, unbiased, rng):
    x, g, residual = 3 * rng.standard_normal((3, 8, 6, 4)) + 100
    cut = 1 if axis == 0 else 0
    halves = [np.split(a, [3], cut) for a in (x, g, residual)]
    weight, bias, mean, var = rng.uniform(0.5, 2, (4, x.shape[axis]))
    options = {"momentum": momentum, "axis": axis, "activation": "silu", "unbiased": unbiased, "num_batches": 2}

    whole_statistics = mean.copy(), var.copy()
    y, ctx = ref.batch_norm_forward(x, *whole_statistics, weight, bias, residual=residual, **options)
    expected = ref.batch_norm_backward(g, ctx)

    moments = ref.merge_moments([ref.batch_moments(part, axis=axis) for part in halves[0]])
    np.testing.assert_allclose(moments, ref.batch_moments(x, axis=axis), rtol=1e-12)
    results = []
    for part, _, r in zip(*halves, strict=True):
        statistics = mean.copy(), var.copy()
        results.append(ref.batch_norm_apply(part, moments, *statistics, weight, bias, residual=r, **options))
        np.testing.assert_allclose(statistics, whole_statistics, rtol=1e-12)
    np.testing.assert_allclose(np.concatenate([y for y, _ in results], cut), y, rtol=1e-10)
    sums = sum(ref.batch_norm_sums(part, ctx) for part, (_, ctx) in zip(halves[1], results, strict=True))
    parts = [ref.batch_norm_finish(part, ctx, sums) for part, (_, ctx) in zip(halves[1], results, strict=True)]
    dx, dweight, dbias, dresidual = zip(*parts, strict=True)
    for actual, whole in ((dx, expected[0]), (dresidual, expected[3])):
        np.testing.assert_allclose(np.concatenate(actual, cut), whole, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(sum(dweight), expected[1], rtol=1e-10)
    np.testing.assert_allclose(sum(dbias), expected[2], rtol=1e-10)


def test_moments(rng):
    x = 1e4 + rng.standard_normal((10, 3))
    moments = ref.batch_moments(x)
    assert moments.dtype == np.float64
    np.testing.assert_allclose(moments, [np.full(3, 10), x.mean(0), 10 * x.var(0)])
    empty = ref.batch_moments(x[:0])
    np.testing.assert_array_equal(empty, np.zeros((3, 3)))
    for many in ([empty, moments], [moments, empty], [moments], [empty, empty, moments, empty]):
        np.testing.assert_array_equal(ref.merge_moments(many), moments)
    np.testing.assert_array_equal(ref.merge_moments([empty, empty]), empty)
    rows = [ref.batch_moments(row[None]) for row in x]
    np.testing.assert_allclose(ref.merge_moments(rows), moments, rtol=1e-9)
    assert ref.batch_moments(x.astype(np.float16)).dtype == np.float64


def test_a_part_without_samples(rng):
    x, mean, var = rng.standard_normal((6, 3)), np.zeros(3), np.ones(3)
    expected = mean.copy(), var.copy()
    ref.batch_norm_forward(x, *expected)
    y, ctx = ref.batch_norm_apply(x[:0], ref.batch_moments(x), mean, var, np.ones(3))
    np.testing.assert_allclose((mean, var), expected)
    sums = ref.batch_norm_sums(y, ctx)
    np.testing.assert_array_equal(sums, np.zeros((2, 3)))
    dx, dweight, dbias = ref.batch_norm_finish(y, ctx, np.ones((2, 3)))
    assert y.shape == dx.shape == (0, 3)
    np.testing.assert_array_equal(dweight, np.zeros(3))
    assert dbias is None


def test_a_whole_without_samples():
    mean, var = np.full(3, 2.0), np.full(3, 4.0)
    y, _ = ref.batch_norm_apply(np.zeros((0, 3)), np.zeros((3, 3)), mean, var)
    assert y.shape == (0, 3)
    np.testing.assert_array_equal((mean, var), ([2.0] * 3, [4.0] * 3))
    generator = ref.Generator()
    one = np.ones((1, 3))
    with pytest.raises(ValueError, match="batch_norm_apply: training needs more than one value per channel"):
        ref.batch_norm_apply(one, ref.batch_moments(one), mean, var, dropout=0.5, rng=generator)
    assert generator.stream == 0


# Gates


@pytest.mark.parametrize("activation", [*ref.activations(), ("elu", {"alpha": 0.7})], ids=str)
def test_gated(activation, rng):
    a, gate, g = rng.standard_normal((3, 4, 5))
    da, dgate = ref.gated_backward(g, a, gate, activation)
    assert_gradient(da, lambda a: (ref.gated(a, gate, activation) * g).sum(), a)
    assert_gradient(dgate, lambda z: (ref.gated(a, z, activation) * g).sum(), gate)


@pytest.mark.parametrize("axis", [-1, 0, 1])
def test_glu(axis, rng):
    x = rng.standard_normal((4, 6, 2)).astype(np.float32)
    y, ctx = ref.glu_forward(x, "gelu", axis=axis)
    a, gate = np.split(x, 2, axis)
    np.testing.assert_array_equal(y, ref.gated(a, gate, "gelu"))
    dx = ref.glu_backward(y, ctx)
    np.testing.assert_array_equal(dx, np.concatenate(ref.gated_backward(y, a, gate, "gelu"), axis))
    assert dx.dtype == y.dtype == np.float32
    out = np.empty_like(y)
    assert ref.gated(a, gate, out=out) is out
    np.testing.assert_allclose(out, a * gate / (1 + np.exp(-gate)), rtol=1e-6)
