"""The reference: gradients against central differences, dtypes, and the values that are promised."""

import inspect
import math

import numpy as np
import pytest

import gradfuse.reference as ref
from gradfuse import _core

inf, nan = math.inf, math.nan


def central_difference(f, x, h=1e-5):
    """The gradient at `x` of the scalar function `f`."""
    gradient = np.empty_like(x)
    for i in np.ndindex(x.shape):
        up, down = x.copy(), x.copy()
        up[i] += h
        down[i] -= h
        gradient[i] = (f(up) - f(down)) / (2 * h)
    return gradient


def assert_gradient(gradient, f, x):
    np.testing.assert_allclose(gradient, central_difference(f, x), rtol=1e-6, atol=1e-8)


def derivative(name, x, **params):
    x = np.asarray(x)
    saved = x if ref.saves(name) == "x" else getattr(ref, name)(x, **params)
    return getattr(ref, f"{name}_backward")(np.ones_like(x), saved, **params)


def off_default(name):
    parameters = inspect.signature(getattr(ref, name)).parameters.values()
    return {p.name: 1.3 * p.default for p in parameters if isinstance(p.default, float)}


@pytest.fixture
def rng():
    return np.random.default_rng(20)


# Activations

# No kink of any activation, at its defaults or off them, is near one of these.
POINTS = np.array([-40, -7.5, -4.1, -2.5, -1.2, -0.4, -0.03, 0.02, 0.5, 1.2, 2.8, 4.1, 5.5, 7.5, 27])


@pytest.mark.parametrize("name", ref.activations())
@pytest.mark.parametrize("params", [lambda name: {}, off_default], ids=["default", "off default"])
def test_activation_gradient(name, params):
    f, h = getattr(ref, name), 1e-5
    expected = (f(POINTS + h, **params(name)) - f(POINTS - h, **params(name))) / (2 * h)
    np.testing.assert_allclose(derivative(name, POINTS, **params(name)), expected, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("name", ref.activations())
def test_activation_signatures(name):
    f, df = (inspect.signature(getattr(ref, n)).parameters for n in (name, f"{name}_backward"))
    assert list(df)[:2] == ["grad_out", "saved"]
    assert [(p.name, p.default, p.kind) for p in list(f.values())[1:]] == [
        (p.name, p.default, p.kind) for p in list(df.values())[2:]
    ]
    assert next(iter(f)) == "x"
    assert list(f)[-1] == "out"


def test_saves():
    of_y = {"relu", "leaky_relu", "sigmoid", "tanh"}
    of_x = {"softplus", "silu", "gelu", "gelu_tanh", "mish", "logsigmoid", "softsign"}
    of_x |= {"relu6", "hardtanh", "hardsigmoid", "hardswish", "elu", "selu", "celu"}
    assert of_y | of_x <= set(ref.activations())
    assert {ref.saves(name) for name in of_y} == {"y"}
    assert {ref.saves(name) for name in of_x} == {"x"}


S = 1.0507009873554804934193349852946
SA = 1.6732632423543772848170429916717 * S


@pytest.mark.parametrize(
    ("name", "at_minus_inf", "at_inf", "slopes"),  # slopes at -inf, 0, inf and NaN
    [
        ("relu", 0, inf, (0, 0, 1, 1)),
        ("leaky_relu", -inf, inf, (0.01, 0.01, 1, 0.01)),
        ("elu", -1, inf, (0, 1, 1, nan)),
        ("celu", -1, inf, (0, 1, 1, nan)),
        ("selu", -SA, inf, (0, SA, S, nan)),
        ("softplus", 0, inf, (0, 0.5, 1, nan)),
        ("silu", 0, inf, (0, 0.5, 1, nan)),
        ("gelu", 0, inf, (0, 0.5, 1, nan)),
        ("gelu_tanh", 0, inf, (0, 0.5, 1, nan)),
        ("mish", 0, inf, (0, 0.6, 1, nan)),
        ("sigmoid", 0, 1, (0, 0.25, 0, nan)),
        ("tanh", -1, 1, (0, 1, 0, nan)),
        ("logsigmoid", -inf, 0, (1, 0.5, 0, nan)),
        ("softsign", nan, nan, (0, 1, 0, nan)),
        ("relu6", 0, 6, (0, 0, 0, 1)),
        ("hardtanh", -1, 1, (0, 1, 0, 1)),
        ("hardsigmoid", 0, 1, (0, 1 / 6, 0, 0)),
        ("hardswish", nan, inf, (0, 0.5, 1, 1)),
    ],
)
def test_activation_edges(name, at_minus_inf, at_inf, slopes):
    np.testing.assert_allclose(getattr(ref, name)([-inf, inf]), [at_minus_inf, at_inf], rtol=1e-15)
    np.testing.assert_allclose(derivative(name, [-inf, 0.0, inf, nan]), slopes, rtol=1e-15, atol=1e-15)
    if ref.saves(name) == "x":
        far = derivative(name, [-1e300, -1e30, 1e30, 1e300])
        np.testing.assert_allclose(far, np.repeat([slopes[0], slopes[2]], 2), atol=1e-15)


@pytest.mark.parametrize("name", ref.activations())
def test_nan_in_nan_out(name):
    assert np.isnan(getattr(ref, name)(nan))


@pytest.mark.parametrize(
    ("name", "zeros"),
    [
        ("relu", [-1.0, 0.0]),
        ("relu6", [-1.0, 0.0, 6.0, 7.0]),
        ("hardtanh", [-2.0, -1.0, 1.0, 2.0]),
        ("hardsigmoid", [-4.0, -3.0, 3.0, 4.0]),
        ("hardswish", [-4.0, -3.0]),
    ],
)
def test_zero_derivative_is_selected(name, zeros):
    zeros = np.array(zeros)
    saved = zeros if ref.saves(name) == "x" else getattr(ref, name)(zeros)
    for g in (inf, nan):
        assert not getattr(ref, f"{name}_backward")(np.full_like(zeros, g), saved).any()


def test_activation_values():
    def value(name, x, expected, **params):
        np.testing.assert_allclose(getattr(ref, name)(x, **params), expected, rtol=1e-14)

    value("elu", -1e-10, -9.9999999995e-11)
    value("elu", -1.0, -1.896361676485673, alpha=3.0)
    value("selu", -inf, -1.6732632423543772 * 1.0507009873554805)
    value("celu", -1.0, -0.7869386805747332, alpha=2.0)
    value("softplus", -50.0, 1.9287498479639178e-22)
    value("softplus", 21.0, 21.0)
    value("softplus", 0.0, math.log(2) / 3, beta=3.0)
    value("silu", 2.0, 2 / (1 + math.exp(-6)), beta=3.0)
    value("gelu", -10.0, -7.619853024160526e-23)
    value("gelu", 1.0, 0.8413447460685429)
    value("gelu_tanh", 1.0, 0.8411919906082768)
    value("gelu", 1.0, 0.8411919906082768, approximate="tanh")
    value("mish", 1.0, 0.8650983882673103)
    value("sigmoid", -50.0, 1.9287498479639178e-22)
    value("sigmoid", -700.0, math.exp(-700))
    value("logsigmoid", 40.0, -4.248354255291589e-18)
    value("hardswish", 1.0, 2 / 3)
    value("hardtanh", [-5.0, 1.5, 5.0], [-2, 1.5, 3], min_val=-2.0, max_val=3.0)
    value("leaky_relu", -1.0, -0.3, negative_slope=0.3)
    np.testing.assert_array_equal(ref.swish(POINTS), ref.silu(POINTS))


# Number formats


@pytest.fixture(params=["float16", "bfloat16", "float32", "float64"])
def dtype(request):
    if request.param == "bfloat16":
        return np.dtype(pytest.importorskip("ml_dtypes").bfloat16)
    return np.dtype(request.param)


def assert_rounded(y, exact):
    """No neighbour of `y` in its dtype is nearer to `exact`."""
    error = abs(y.astype(np.float64) - exact)
    for direction in (-inf, inf):
        neighbour = np.nextafter(y, y.dtype.type(direction)).astype(np.float64)
        assert (error <= abs(neighbour - exact)).all()


@pytest.mark.parametrize("name", ref.activations())
def test_rounded_to_the_dtype_of_the_input(name, dtype, rng):
    f, df = getattr(ref, name), getattr(ref, f"{name}_backward")
    x, g = (rng.standard_normal((2, 5, 7)) * 4).astype(dtype)
    x_before, g_before = x.copy(), g.copy()
    y = f(x)
    saved = x if ref.saves(name) == "x" else y
    dx = df(g, saved)
    assert y.dtype == dx.dtype == dtype
    assert_rounded(y, f(x.astype(np.float64)))
    assert_rounded(dx, df(g.astype(np.float64), saved.astype(np.float64)))
    assert x.tobytes() == x_before.tobytes()
    assert g.tobytes() == g_before.tobytes()


def test_rounded_once():
    just_above_a_tie = 1 + 2**-8 + 2**-40  # in float32 it is the tie, which would go down to 1
    bfloat16 = pytest.importorskip("ml_dtypes").bfloat16
    y = ref.leaky_relu(np.array([-1, -(2.0**-130), -inf, nan], bfloat16), -just_above_a_tie)
    np.testing.assert_array_equal(y.astype(float), [1 + 2**-7, 2.0**-130, inf, nan])
    assert ref.leaky_relu(np.full(1, -1, bfloat16), -1e39) == inf
    assert ref.elu(np.full(1, -9e-8, np.float16)) == np.float16(-9e-8)


def test_shapes_and_out(dtype):
    for shape in [(), (0,), (3, 0, 2), (1,), (7, 3)]:
        x = np.linspace(-2, 2, math.prod(shape)).reshape(shape).astype(dtype)
        assert ref.gelu(x).shape == ref.gelu_backward(x, x).shape == shape
    x = np.linspace(-2, 2, 24).reshape(4, 6).astype(dtype)
    expected = ref.elu(x)
    np.testing.assert_array_equal(ref.elu(np.asfortranarray(x)[::-1, ::2]), expected[::-1, ::2])
    wide = np.zeros((4, 12), dtype)
    out = wide[:, ::2]
    assert ref.elu(x, out=out) is out
    np.testing.assert_array_equal(wide[:, ::2], expected)
    assert ref.elu(x, out=x) is x
    np.testing.assert_array_equal(x, expected)


def test_integers_are_refused():
    with pytest.raises(TypeError, match="expected a floating-point array, got int64"):
        ref.elu(np.arange(3, dtype=np.int64))


# PReLU, RReLU, maxout


@pytest.mark.parametrize(
    ("axis", "weight"), [(1, [0.25]), (1, [0.3, -0.2, 0.0]), (-1, [0.1, 0.2]), (0, [1.0, 2, 3, 4])]
)
def test_prelu(axis, weight, rng):
    x, g, weight = rng.standard_normal((4, 3, 2)), rng.standard_normal((4, 3, 2)), np.array(weight)
    y, ctx = ref.prelu_forward(x, weight, axis=axis)
    dx, dweight = ref.prelu_backward(g, ctx)
    assert_gradient(dx, lambda x: (ref.prelu_forward(x, weight, axis=axis)[0] * g).sum(), x)
    assert_gradient(dweight, lambda w: (ref.prelu_forward(x, w, axis=axis)[0] * g).sum(), weight)
    assert y.shape == x.shape


def test_prelu_of_a_scalar():
    y, ctx = ref.prelu_forward(np.array(-2.0), np.array([0.25]))
    dx, dweight = ref.prelu_backward(np.array(3.0), ctx)
    assert (y, dx, dweight) == (-0.5, 0.75, [-6])
    assert (y.shape, dx.shape, dweight.shape) == ((), (), (1,))


def test_prelu_at_0():
    x = np.zeros((1, 1), np.float32)
    _, ctx = ref.prelu_forward(x, np.full(1, 0.25, np.float16))
    dx, dweight = ref.prelu_backward(np.ones_like(x), ctx)
    assert dx == 0.25
    assert dweight == 0
    assert (dx.dtype, dweight.dtype) == (np.float32, np.float16)
    _, dweight = ref.prelu_backward(np.full_like(x, inf), ctx)
    assert dweight == 0


def test_rrelu(rng):
    x, g = rng.standard_normal((5, 7)), rng.standard_normal((5, 7))
    y, ctx = ref.rrelu_forward(x, 0.1, 0.4, rng=5)
    dx = ref.rrelu_backward(g, ctx)
    assert_gradient(dx, lambda x: (ref.rrelu_forward(x, 0.1, 0.4, rng=5)[0] * g).sum(), x)
    slope = np.where(x > 0, 0.1, y / x)
    assert (slope >= 0.1).all()
    assert (slope < 0.4).all()
    expected = 0.1 + (0.4 - 0.1) * (ref.half_words(35, 5).reshape(5, 7) + 0.5) / 65536
    np.testing.assert_allclose(y, np.where(x > 0, x, expected * x))
    y, ctx = ref.rrelu_forward(-np.ones(2), training=False)
    np.testing.assert_allclose(y, -11 / 48)
    np.testing.assert_allclose(ref.rrelu_backward(np.ones(2), ctx), 11 / 48)


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_maxout(axis, rng):
    x = rng.standard_normal((6, 6, 6))
    y, ctx = ref.maxout_forward(x, 3, axis=axis)
    g = rng.standard_normal(y.shape)
    np.testing.assert_array_equal(y, np.max(np.split(x, 3, axis=axis), axis=0))
    dx = ref.maxout_backward(g, ctx)
    assert_gradient(dx, lambda x: (ref.maxout_forward(x, 3, axis=axis)[0] * g).sum(), x)


def test_maxout_ties_and_nan():
    x = np.array([[1, 5, 1, 5, 1, nan], [1, nan, 2, 7, 2, nan]], np.float32)
    y, ctx = ref.maxout_forward(x, 3)
    np.testing.assert_array_equal(y, np.array([[1, nan], [2, nan]], np.float32))
    dx = ref.maxout_backward(np.ones_like(y), ctx)
    np.testing.assert_array_equal(dx, [[1, 0, 0, 0, 0, 1], [0, 1, 1, 0, 0, 0]])


# Rows and losses


@pytest.mark.parametrize("axis", [0, 1, -1])
@pytest.mark.parametrize("name", _core.row_operations())
def test_row_gradient(name, axis, rng):
    f, df = getattr(ref, name), getattr(ref, f"{name}_backward")
    x, g = 3 * rng.standard_normal((3, 4, 2)), rng.standard_normal((3, 4, 2))
    saved = x if _core.row_info(name)["saves"] == "x" else f(x, axis=axis)
    assert_gradient(df(g, saved, axis=axis), lambda x: (f(x, axis=axis) * g).sum(), x)


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_softmax_is_a_distribution(axis, rng):
    x = 3 * rng.standard_normal((3, 4, 2))
    for p in (ref.softmax(x, axis=axis), np.exp(ref.log_softmax(x, axis=axis))):
        np.testing.assert_allclose(p.sum(axis), 1)


def test_softmax_edges():
    x = np.array([[-inf, -inf], [-inf, 0], [inf, 0], [nan, 0], [1e300, 1e300], [-1e300, 1e300]])
    p = [[nan, nan], [0, 1], [nan, nan], [nan, nan], [0.5, 0.5], [0, 1]]
    np.testing.assert_array_equal(ref.softmax(x), p)
    with np.errstate(divide="ignore"):
        expected = np.log(p)
    expected[5] = [-2e300, 0]
    np.testing.assert_allclose(ref.log_softmax(x), expected, rtol=1e-15)
    assert ref.softmax(np.zeros((2, 0))).shape == (2, 0)
    assert ref.softmax(np.zeros((0, 2))).shape == (0, 2)
    assert ref.softmax(np.ones(3, np.float16)).dtype == np.float16


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("kind", ["classes", "probabilities", "not normalised"])
def test_cross_entropy(kind, smoothing, reduction, rng):
    x = 3 * rng.standard_normal((5, 4))
    target = np.array([3, 0, 0, 2, 1])
    if kind != "classes":
        target = ref.softmax(rng.standard_normal((5, 4)))
    if kind == "not normalised":
        target[:2] *= 3

    def loss(x):
        return ref.cross_entropy(x, target, label_smoothing=smoothing, reduction=reduction)[0]

    _, dx = ref.cross_entropy(x, target, label_smoothing=smoothing, reduction=reduction)
    assert loss(x).shape == ((5,) if reduction == "none" else ())
    assert_gradient(dx, lambda x: loss(x).sum(), x)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("axis", [0, 1, -1])
@pytest.mark.parametrize("kind", ["classes", "ignored", "probabilities"])
@pytest.mark.parametrize(
    "options", [{}, {"label_smoothing": 0.2}, {"z_loss": 0.3}, {"label_smoothing": 0.2, "z_loss": 0.3}]
)
def test_cross_entropy_weighted(options, kind, axis, reduction, rng):
    x = 3 * rng.standard_normal((3, 4, 2))
    C = x.shape[axis]
    options = {**options, "axis": axis, "weight": rng.uniform(0.5, 2, C), "reduction": reduction}
    if kind == "probabilities":
        target = ref.softmax(rng.standard_normal(x.shape), axis=axis)
    else:
        target = rng.integers(0, C, np.delete(x.shape, axis))
    if kind == "ignored":
        options["ignore_index"] = -100
        target[0] = -100
    loss, dx = ref.cross_entropy(x, target, **options)
    assert loss.shape == (tuple(np.delete(x.shape, axis)) if reduction == "none" else ())
    assert_gradient(dx, lambda x: ref.cross_entropy(x, target, **options)[0].sum(), x)


def test_cross_entropy_z_loss(rng):
    x, target, weight = 3 * rng.standard_normal((5, 4)), np.array([3, 0, 1, 2, 0]), np.array([0.5, 1, 2, 3])
    log_Z = np.log(np.exp(x).sum(1))
    for reduction in ("none", "sum", "mean"):
        options = {"weight": weight, "ignore_index": 1, "reduction": reduction}
        without, with_z = (ref.cross_entropy(x, target, z_loss=z, **options)[0] for z in (0.0, 0.3))
        extra = 0.3 * np.where(target == 1, 0, log_Z**2)
        extra = {"none": extra, "sum": extra.sum(), "mean": extra.sum() / weight[target[target != 1]].sum()}[reduction]
        np.testing.assert_allclose(with_z, without + extra)


def test_cross_entropy_ignored_rows():
    """They are not read, and nothing comes of them."""
    x = np.array([[1.0, 2, 3], [nan, inf, -inf], [-inf, -inf, -inf], [0, 1, 0]])
    loss, dx = ref.cross_entropy(x, np.array([2, -1, -1, 0]), ignore_index=-1, z_loss=0.1)
    expected, expected_dx = ref.cross_entropy(x[[0, 3]], np.array([2, 0]), z_loss=0.1)
    np.testing.assert_array_equal(loss, expected)
    np.testing.assert_array_equal(dx, np.insert(expected_dx, [1, 1], 0, axis=0))
    loss, dx = ref.cross_entropy(x, np.full(4, 7, np.uint8), ignore_index=7, weight=np.ones(3))
    assert np.isnan(loss)
    assert not dx.any()
    assert ref.cross_entropy(x, np.full(4, 7), ignore_index=7, reduction="sum")[0] == 0
    with pytest.raises(ValueError, match="ignore_index must be None for probabilities, got 1"):
        ref.cross_entropy(x, x, ignore_index=1)


def test_cross_entropy_of_what_nobody_asks_for():
    """A share of 0 times a logit of -inf is 0."""
    x = np.array([[1.0, -inf, 0]])
    expected = math.log1p(math.exp(-1))
    for target, options in [
        (np.array([0]), {}),
        (np.array([[1.0, 0, 0]]), {}),
        (np.array([[1.0, 0, 0]]), {"label_smoothing": 0.3, "weight": np.array([1 / 0.8, 0, 0])}),
        (np.array([[1.0, 0.5, 0]]), {"weight": np.array([1.0, 0, 5])}),
    ]:
        loss, dx = ref.cross_entropy(x, target, **options)
        np.testing.assert_allclose(loss, expected)
        assert dx[0, 1] == 0


def test_cross_entropy_values():
    logits = np.log(np.array([[0.5, 0.25, 0.25], [0.1, 0.1, 0.8]]))
    loss, _ = ref.cross_entropy(logits, np.array([0, 2]), reduction="none")
    np.testing.assert_allclose(loss, -np.log([0.5, 0.8]))
    loss, _ = ref.cross_entropy(logits, np.array([0, 2]), label_smoothing=0.3)
    each = 0.7 * -np.log([0.5, 0.8]) + 0.1 * -np.log([[0.5, 0.25, 0.25], [0.1, 0.1, 0.8]]).sum(1)
    np.testing.assert_allclose(loss, each.mean())
    loss, dlogits = ref.cross_entropy(np.array([[1.0, -inf, 0]]), np.array([0]))
    np.testing.assert_allclose(loss, math.log1p(math.exp(-1)))
    assert dlogits[0, 1] == 0


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_mse_loss(reduction, rng):
    pred, target = rng.standard_normal((2, 3, 4))
    _, gradient = ref.mse_loss(pred, target, reduction=reduction)
    assert_gradient(gradient, lambda x: ref.mse_loss(x, target, reduction=reduction)[0].sum(), pred)


def test_loss_dtypes_and_empty_batches(dtype):
    x, classes = np.zeros((2, 3), dtype), np.array([0, 1])
    for loss, gradient in (ref.cross_entropy(x, classes), ref.mse_loss(x, x)):
        assert loss.dtype == (np.float64 if dtype == np.float64 else np.float32)
        assert loss.shape == ()
        assert (gradient.dtype, gradient.shape) == (dtype, (2, 3))
    x, classes = x[:0], classes[:0]
    for reduction, expected in (("mean", nan), ("sum", 0.0), ("none", np.zeros(0))):
        loss, gradient = ref.cross_entropy(x, classes, reduction=reduction)
        np.testing.assert_array_equal(loss, expected)
        assert gradient.shape == (0, 3)
    for reduction, expected in (("mean", nan), ("sum", 0.0), ("none", np.zeros((0, 3)))):
        loss, gradient = ref.mse_loss(x, x, reduction=reduction)
        np.testing.assert_array_equal(loss, expected)
        assert gradient.shape == (0, 3)


# Batch normalization and the end of a dense layer


@pytest.mark.parametrize(("shape", "axis"), [((5, 3), 1), ((4, 3, 2, 2), 1), ((2, 3, 4), -1), ((3, 6), 0)])
@pytest.mark.parametrize("order", ["bn_act", "act_bn"])
@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize(
    ("activation", "extras"),
    [
        (None, False),
        ("relu", True),
        (("elu", {"alpha": 0.7}), True),
        ("silu", False),
        (("gelu", {"approximate": "tanh"}), True),
        ("tanh", True),
    ],
)
def test_batch_norm_gradient(shape, axis, order, frozen, activation, extras, rng):
    C = shape[axis]
    x, g, residual = rng.standard_normal((3, *shape))
    weight, bias, mean, var = rng.uniform(0.5, 2, (4, C))
    arrays = {"x": 3 * x + 1, "weight": weight, "bias": bias}
    options = {"axis": axis, "order": order, "frozen": frozen, "activation": activation, "eps": 1e-2}
    if extras:
        arrays["residual"] = residual
        options |= {"dropout": 0.3, "rng": 3}

    def forward(arrays):
        return ref.batch_norm_forward(running_mean=mean.copy(), running_var=var.copy(), **arrays, **options)

    _, ctx = forward(arrays)
    gradients = ref.batch_norm_backward(g, ctx)
    assert len(gradients) == len(arrays)
    for (name, value), gradient in zip(arrays.items(), gradients, strict=True):
        assert_gradient(gradient, lambda v, n=name: (forward({**arrays, n: v})[0] * g).sum(), value)


def test_batch_norm_parts(rng):
    x = rng.standard_normal((4, 3, 5)).astype(np.float16)
    weight, bias = np.full(3, 2, np.float32), np.zeros(3, np.float64)
    residual = rng.standard_normal(x.shape).astype(np.float32)
    for w, b in [(weight, bias), (weight, None), (None, bias), (None, None)]:
        y, ctx = ref.batch_norm_forward(x, None, None, w, b, residual=residual)
        dx, dweight, dbias, dresidual = ref.batch_norm_backward(np.ones_like(x), ctx)
        assert y.dtype == dx.dtype == x.dtype
        assert dresidual.dtype == residual.dtype
        assert dweight is None if w is None else dweight.dtype == w.dtype
        assert dbias is None if b is None else dbias.dtype == b.dtype


def test_batch_norm_is_normal(rng):
    x = rng.normal(1000, 0.1, (500, 3)) * [1, 1e-3, 1e3]
    y, _ = ref.batch_norm_forward(x, None, None, eps=0.0)
    np.testing.assert_allclose(y.mean(0), 0, atol=1e-8)
    np.testing.assert_allclose(y.std(0), 1)
    shifted, _ = ref.batch_norm_forward(np.moveaxis(x, 1, 0), None, None, eps=0.0, axis=0)
    np.testing.assert_allclose(shifted.T, y)


def test_running_statistics(rng):
    batches = rng.standard_normal((3, 8, 2)) * 3 + 1
    mean, var = np.zeros(2, np.float32), np.ones(2, np.float32)
    ref.batch_norm_forward(batches[0], mean, var)
    np.testing.assert_allclose(mean, 0.1 * batches[0].mean(0), rtol=1e-6)
    np.testing.assert_allclose(var, 0.9 + 0.1 * batches[0].var(0, ddof=1), rtol=1e-6)

    mean, var = np.zeros(2), np.ones(2)
    ref.batch_norm_forward(batches[0], mean, var, momentum=0.3, unbiased=False)
    np.testing.assert_allclose(mean, 0.3 * batches[0].mean(0))
    np.testing.assert_allclose(var, 0.7 + 0.3 * batches[0].var(0))

    for k, batch in enumerate(batches):
        ref.batch_norm_forward(batch, mean, var, momentum=None, num_batches=k)
    np.testing.assert_allclose(mean, batches.mean((0, 1)))
    np.testing.assert_allclose(var, batches.var(1, ddof=1).mean(0))

    before = mean.copy(), var.copy()
    y, _ = ref.batch_norm_forward(batches[0], mean, var, frozen=True)
    np.testing.assert_allclose(y, (batches[0] - mean) / np.sqrt(var + 1e-5))
    np.testing.assert_array_equal((mean, var), before)

    mean, var = np.zeros(2), np.ones(2)
    ref.batch_norm_forward(batches[0], mean, var, activation="relu", order="act_bn", momentum=1.0)
    np.testing.assert_allclose(mean, ref.relu(batches[0]).mean(0))


def test_batch_norm_small_batches():
    mean, var = np.full(3, 2.0), np.full(3, 4.0)
    y, ctx = ref.batch_norm_forward(np.zeros((0, 3)), mean, var, np.ones(3), np.ones(3))
    assert y.shape == (0, 3)
    dx, dweight, dbias = ref.batch_norm_backward(y, ctx)
    assert dx.shape == (0, 3)
    np.testing.assert_array_equal((dweight, dbias), np.zeros((2, 3)))
    rng = ref.Generator()
    with pytest.raises(ValueError, match="more than one value per channel"):
        ref.batch_norm_forward(np.zeros((1, 3)), mean, var, dropout=0.5, rng=rng)
    with pytest.raises(ValueError, match="order"):
        ref.batch_norm_forward(np.zeros((2, 3)), mean, var, order="act-bn")
    with pytest.raises(ValueError, match=r"p must be in \[0, 1\]"):
        ref.batch_norm_forward(np.ones((2, 3)), mean, var, dropout=1.5)
    assert rng.stream == 0
    np.testing.assert_array_equal((mean, var), ([2.0] * 3, [4.0] * 3))
    y, _ = ref.batch_norm_forward(np.full((1, 3), 4.0), mean, var, frozen=True, eps=0.0)
    np.testing.assert_array_equal(y, np.ones((1, 3)))


def test_batch_norm_inference_and_folding(rng):
    x, residual = rng.standard_normal((2, 6, 4))
    W, b = rng.standard_normal((4, 3)), rng.standard_normal(3)
    mean, var, weight, bias = rng.uniform(0.5, 2, (4, 3))
    h = x @ W + b
    expected = (h - mean) / np.sqrt(var + 1e-3) * weight + bias
    np.testing.assert_allclose(ref.batch_norm(h, mean, var, weight, bias, 1e-3), expected)
    folded_W, folded_b = ref.fold_batch_norm(W, b, mean, var, weight, bias, 1e-3)
    np.testing.assert_allclose(x @ folded_W + folded_b, expected)

    W_out_in, b_only = ref.fold_batch_norm(W.T, None, mean, var, axis=0)
    np.testing.assert_allclose(x @ W_out_in.T + b_only, ref.batch_norm(x @ W, mean, var))

    out = np.empty_like(h)
    y = ref.batch_norm(h, mean, var, activation="elu", residual=residual[:, :3], out=out)
    assert y is out
    np.testing.assert_allclose(y, ref.elu(ref.batch_norm(h, mean, var) + residual[:, :3]))
    y, _ = ref.batch_norm_forward(h, mean, var, activation="elu", residual=residual[:, :3], frozen=True)
    np.testing.assert_array_equal(y, out)
    half = ref.batch_norm(h.astype(np.float16), mean, var)
    assert half.dtype == np.float16


@pytest.mark.parametrize("axis", [-1, 0])
@pytest.mark.parametrize("activation", [None, "selu", "gelu"])
@pytest.mark.parametrize("parts", [["x"], ["x", "bias"], ["x", "bias", "residual"]])
def test_bias_act(axis, activation, parts, rng):
    x, g, residual = rng.standard_normal((3, 4, 5))
    bias = rng.standard_normal(x.shape[axis])
    arrays = {"x": x, "bias": bias, "residual": residual}
    arrays = {name: arrays[name] for name in parts}

    def forward(arrays):
        return ref.bias_act_forward(**arrays, activation=activation, dropout=0.4, axis=axis, rng=9)

    y, ctx = forward(arrays)
    gradients = ref.bias_act_backward(g, ctx)
    if parts == ["x"]:
        assert gradients[1] is None
    for (name, value), gradient in zip(arrays.items(), gradients, strict=False):
        assert_gradient(gradient, lambda v, n=name: (forward({**arrays, n: v})[0] * g).sum(), value)
    assert len(gradients) == max(2, len(parts))

    z = sum(np.expand_dims(v, 1) if v.ndim == 1 and axis == 0 else v for v in arrays.values())
    a = z if activation is None else getattr(ref, activation)(z)
    np.testing.assert_allclose(y, ref.dropout_forward(a, 0.4, rng=9)[0])


# Gradients and weights in place


def test_clip_grad_norm(dtype):
    grads = [np.array([3.0, 0]).astype(dtype), np.array([[4.0]]).astype(dtype)]
    assert ref.clip_grad_norm_(grads, 5.0) == 5.0
    np.testing.assert_array_equal(grads[0].astype(float), [3, 0])
    norm = ref.clip_grad_norm_(grads, 2.5)
    assert (type(norm), norm) == (float, 5.0)
    np.testing.assert_array_equal(grads[0].astype(float), [1.5, 0])
    np.testing.assert_array_equal(grads[1].astype(float), [[2]])
    assert ref.clip_grad_norm_(grads, 1.75, per_array=True) == [1.5, 2.0]
    np.testing.assert_array_equal(grads[0].astype(float), [1.5, 0])
    np.testing.assert_array_equal(grads[1].astype(float), [[1.75]])
    assert ref.clip_grad_norm_([], 1.0) == 0


def test_clip_grad_norm_of_float16_does_not_overflow():
    g = np.full(1000, 300, np.float16)
    norm = ref.clip_grad_norm_([g], 1.0)
    np.testing.assert_allclose(norm, 300 * math.sqrt(1000))
    np.testing.assert_allclose(np.linalg.norm(g.astype(float)), 1, rtol=1e-3)


@pytest.mark.parametrize("bad", [nan, inf])
def test_clip_grad_norm_nonfinite(bad):
    def grads():
        return [np.array([1.0, bad]), np.array([2.0])]

    clipped = grads()
    np.testing.assert_equal(ref.clip_grad_norm_(clipped, 1.0), bad)
    np.testing.assert_array_equal(np.concatenate(clipped), [nan] * 3 if math.isnan(bad) else [0, nan, 0])
    clipped = grads()
    np.testing.assert_equal(ref.clip_grad_norm_(clipped, 1.0, "skip"), bad)
    np.testing.assert_array_equal(np.concatenate(clipped), np.concatenate(grads()))
    for per_array in (False, True):
        with pytest.raises(ValueError, match="norm of the gradients"):
            ref.clip_grad_norm_(clipped[::-1], 1.0, "raise", per_array=per_array)
        np.testing.assert_array_equal(np.concatenate(clipped), np.concatenate(grads()))


def test_clip_grad_value():
    g = np.array([-inf, -2, -0.5, 0.5, 2, inf, nan], np.float32)
    ref.clip_grad_value_([g], 1.0)
    np.testing.assert_array_equal(g, np.array([-1, -1, -0.5, 0.5, 1, 1, nan], np.float32))


def test_max_norm(rng):
    W = np.array([[3.0, 0.3, nan, 0], [4, 0.4, 1, 0]])
    ref.max_norm_(W, 2.0)
    np.testing.assert_allclose(W, [[1.2, 0.3, nan, 0], [1.6, 0.4, 1, 0]])
    assert W[0, 1] == 0.3
    K = rng.standard_normal((8, 3, 3, 3)).astype(np.float32)
    ref.max_norm_(K, 2.0, axis=(1, 2, 3))
    norms = np.sqrt((K.astype(float) ** 2).sum((1, 2, 3)))
    np.testing.assert_allclose(norms, 2, rtol=1e-6)
