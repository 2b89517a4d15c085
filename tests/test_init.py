"""Initialisers: their moments and limits, what orthogonal means, and PyTorch's beside them."""

import copy
import itertools
import math
import pickle
import re

import numpy as np
import pytest
from helpers import BFLOAT16, DTYPES, assert_identical

import gradfuse
from gradfuse import init

DISTRIBUTIONS = ["uniform", "normal", "truncated"]
DENSE = (1000, 600)
CONVOLUTION = (128, 64, 5, 7)  # (out, in, height, width)
AXES = {DENSE: {}, CONVOLUTION: {"in_axis": 1, "out_axis": 0}}
FANS = {DENSE: (1000, 600), CONVOLUTION: (64 * 35, 128 * 35)}

# A mean's or variance's error is a few times its standard error: 5 of them once in two million times, for one seed.
SIGMAS = 5
KURTOSIS = {"uniform": 9 / 5, "normal": 3.0, "truncated": 2.3655}  # of the last: E x^4 / (E x^2)^2 within +-2


def assert_moments(values, std, distribution):
    n = values.size
    assert abs(values.mean()) < SIGMAS * std / math.sqrt(n)
    of_variance = math.sqrt((KURTOSIS[distribution] - 1) / n)
    assert values.var() / std**2 == pytest.approx(1, abs=SIGMAS * of_variance)


def limit(std, distribution):
    return {"uniform": math.sqrt(3), "normal": math.inf, "truncated": 2 / 0.87962566103423978}[distribution] * std


def assert_drawn(values, variance, distribution):
    """That they have this variance and the shape of that distribution."""
    values, std = values.astype(np.float64), math.sqrt(variance)
    assert_moments(values, std, distribution)
    largest = abs(values).max()
    assert largest <= limit(std, distribution) * (1 + 1e-7)
    if distribution == "normal":
        assert largest > 4 * std
    else:
        assert largest > limit(std, distribution) * 0.999
    within = np.mean(abs(values) < std)
    expected = {"uniform": 1 / math.sqrt(3), "normal": math.erf(math.sqrt(0.5))}
    cut = 0.87962566103423978  # in units of the uncut standard deviation
    expected["truncated"] = math.erf(cut * math.sqrt(0.5)) / math.erf(2 * math.sqrt(0.5))
    share = expected[distribution]
    assert within == pytest.approx(share, abs=SIGMAS * math.sqrt(share * (1 - share) / values.size))


every_shape = pytest.mark.parametrize("shape", [DENSE, CONVOLUTION], ids=["dense", "convolution"])
every_distribution = pytest.mark.parametrize("distribution", DISTRIBUTIONS)


@every_shape
@every_distribution
@pytest.mark.parametrize("mode", ["fan_in", "fan_out", "fan_avg"])
@pytest.mark.parametrize("slope", [0.0, 0.7])
def test_he(shape, distribution, mode, slope):
    fan_in, fan_out = FANS[shape]
    fan = {"fan_in": fan_in, "fan_out": fan_out, "fan_avg": (fan_in + fan_out) / 2}[mode]
    values = init.he(distribution, negative_slope=slope, mode=mode)(shape, 1, **AXES[shape])
    assert_drawn(values, 2 / (1 + slope**2) / fan, distribution)


@every_shape
@every_distribution
@pytest.mark.parametrize("gain", [1.0, 1.7])
def test_glorot(shape, distribution, gain):
    values = init.glorot(distribution, gain=gain)(shape, 2, **AXES[shape])
    assert_drawn(values, gain**2 * 2 / sum(FANS[shape]), distribution)


@every_shape
@every_distribution
def test_lecun(shape, distribution):
    assert_drawn(init.lecun(distribution)(shape, 3, **AXES[shape]), 1 / FANS[shape][0], distribution)


def test_defaults():
    assert init.he() == init.he("normal", negative_slope=0.0, mode="fan_in")
    assert init.glorot() == init.glorot("uniform", gain=1.0)
    assert init.lecun() == init.lecun("normal")
    assert init.normal() == init.normal(0.01)
    assert init.orthogonal() == init.orthogonal(1.0)
    assert_identical(init.he()((4, 3), 7), init.he()((4, 3), 7, dtype="float32", in_axis=0, out_axis=1))


PYTORCH = [
    ("kaiming_normal_", {"mode": "fan_out"}, init.he(mode="fan_out"), "normal"),
    ("kaiming_uniform_", {"a": 0.3}, init.he("uniform", negative_slope=0.3), "uniform"),
    ("kaiming_normal_", {"nonlinearity": "linear"}, init.lecun(), "normal"),
    ("xavier_uniform_", {"gain": 1.4}, init.glorot(gain=1.4), "uniform"),
    ("xavier_normal_", {}, init.glorot("normal"), "normal"),
    ("normal_", {"std": 0.3}, init.normal(0.3), "normal"),
]


@every_shape
@pytest.mark.parametrize(("name", "options", "initialiser", "distribution"), PYTORCH)
def test_beside_pytorch(shape, name, options, initialiser, distribution):
    """Both are of one variance: their ratio is 1 but for the errors of the two."""
    torch = pytest.importorskip("torch")
    generator = torch.Generator().manual_seed(0)
    order = (1, 0) if len(shape) == 2 else range(4)  # PyTorch's dense weights are (out, in)
    theirs = torch.empty([shape[i] for i in order], dtype=torch.float64)
    getattr(torch.nn.init, name)(theirs, **options, generator=generator)
    ours = initialiser(shape, 4, dtype="float64", **AXES[shape])
    error = math.sqrt(2 * (KURTOSIS[distribution] - 1) / ours.size)
    assert ours.var() / float(theirs.var()) == pytest.approx(1, abs=SIGMAS * error)
    if distribution == "uniform":
        assert abs(ours).max() == pytest.approx(float(theirs.abs().max()), rel=1e-3)


def test_the_other_axes_are_the_receptive_field():
    """Wherever they are: axes are counted from either end, and a transposed shape has the same fans."""
    std = math.sqrt(2 / (30 * 4 * 5))
    for axes in itertools.permutations(range(4)):
        shape = np.empty(4, int)
        shape[list(axes)] = 30, 40, 4, 5
        for back in (0, 4):
            values = init.he()(tuple(shape), 5, in_axis=axes[0] - back, out_axis=np.int64(axes[1] - back))
            assert values.shape == tuple(shape)
            assert_moments(values.astype(float), std, "normal")


def test_normal_goes_by_no_fans():
    assert_moments(init.normal(0.3)((10, 10_000), 6, dtype="float64"), 0.3, "normal")
    assert init.normal(0.3)((100_000,), 6).std() == pytest.approx(0.3, rel=0.02)
    assert not init.normal(0)((3, 4)).any()
    assert isinstance(init.normal()(()), np.ndarray)


def test_constants():
    for shape in [(), (5,), [2, 3], (2, 0)]:
        assert_identical(init.zeros()(shape), np.zeros(shape, np.float32))
        assert_identical(init.constant(-0.3)(shape, 1, dtype="float16"), np.full(shape, -0.3, np.float16))


# Orthogonal matrices.


@pytest.mark.parametrize(("shape", "in_axis", "out_axis"), [
    ((60, 40), 0, 1), ((40, 60), 0, 1), ((50, 50), 0, 1), ((40, 60), 1, 0),
    ((32, 8, 3, 3), 1, 0), ((90, 8, 3, 3), 1, 0), ((3, 3, 8, 90), -2, -1), ((3, 7, 5), 0, 1), ((30, 1), 0, 1),
])  # fmt: skip
def test_orthogonal(shape, in_axis, out_axis):
    for gain in (1.0, 1.7):
        w = init.orthogonal(gain)(shape, 8, dtype="float64", in_axis=in_axis, out_axis=out_axis)
        assert w.shape == shape
        assert w.flags.c_contiguous
        matrix = np.moveaxis(w, out_axis, -1).reshape(-1, shape[out_axis])
        if matrix.shape[0] < matrix.shape[1]:
            matrix = matrix.T
        np.testing.assert_allclose(matrix.T @ matrix, gain**2 * np.eye(matrix.shape[1]), atol=1e-13)


def test_orthogonal_as_pytorch():
    """The same sides of the same shape are orthonormal in both."""
    torch = pytest.importorskip("torch")
    for shape in [(40, 60), (60, 40), (32, 8, 3, 3), (90, 8, 3, 3)]:
        theirs = torch.nn.init.orthogonal_(torch.empty(shape, dtype=torch.float64)).numpy().reshape(shape[0], -1)
        ours = init.orthogonal()(shape, 8, dtype="float64", in_axis=1, out_axis=0).reshape(shape[0], -1)
        for gram in (lambda w: w @ w.T, lambda w: w.T @ w):
            assert np.allclose(gram(ours), np.eye(len(gram(ours)))) == np.allclose(
                gram(theirs), np.eye(len(gram(ours)))
            )


def test_all_orthogonal_matrices_are_equally_likely():
    """Without the correction of signs the elements on the diagonal would mostly be of one."""
    rng = np.random.default_rng(9)
    drawn = np.array([init.orthogonal()((3, 3), rng, dtype="float64") for _ in range(4000)])
    bound = SIGMAS / math.sqrt(4000)
    assert abs(drawn.mean(axis=0)).max() < bound * math.sqrt(1 / 3)
    np.testing.assert_allclose((drawn**2).mean(axis=0), 1 / 3, atol=bound * math.sqrt(1 / 5 - 1 / 9))
    assert abs(np.mean(np.linalg.det(drawn))) < bound


# By activation.

GLOROT = {"sigmoid", "tanh", "softsign", "hardtanh", "hardsigmoid", "logsigmoid", "softmax"}


def test_for_activation():
    assert init.for_activation() == init.for_activation(None) == init.glorot("uniform")
    for name in [*gradfuse.activations(), "maxout", "softmax"]:
        expected = init.glorot("uniform") if name in GLOROT else init.he("normal")
        expected = {"selu": init.lecun("normal"), "leaky_relu": init.he(negative_slope=0.01)}.get(name, expected)
        assert init.for_activation(name) == init.for_activation((name, {})) == expected, name
    assert init.for_activation("prelu") == init.he(negative_slope=0.25)
    assert init.for_activation("rrelu") == init.he(negative_slope=11 / 48)
    assert set(gradfuse.activations()) > GLOROT - {"softmax"}


def test_for_activation_goes_by_the_slope():
    for activation, slope in [
        (("leaky_relu", {"negative_slope": 0.3}), 0.3),
        (("leaky_relu", {"negative_slope": np.float32(0.5)}), 0.5),
        (("prelu", {"init": 0.4}), 0.4),
        (("rrelu", {"lower": 0.2}), (0.2 + 1 / 3) / 2),
        (("rrelu", {"upper": 0.7, "lower": 0.1}), 0.4),
        (("elu", {"alpha": 0.3}), 0.0),
        (("maxout", {"num_pieces": 4}), 0.0),
    ]:
        assert init.for_activation(activation).scale == pytest.approx(2 / (1 + slope**2), rel=1e-15)


ALL = {
    **{f"he {d}": init.he(d, negative_slope=0.1, mode="fan_avg") for d in DISTRIBUTIONS},
    "orthogonal": init.orthogonal(1.5),
    "normal": init.normal(0.3),
    "zeros": init.zeros(),
    "constant": init.constant(0.3),
}
every = pytest.mark.parametrize("initialiser", ALL.values(), ids=ALL)
every_random = pytest.mark.parametrize("initialiser", [*ALL.values()][:5], ids=[*ALL][:5])


# Seeds, dtypes, objects.


@every_random
def test_seeds(initialiser):
    first = initialiser((6, 5), 3)
    assert_identical(initialiser((6, 5), 3), first)
    assert_identical(initialiser((6, 5), np.int64(3)), first)
    rng = np.random.default_rng(3)
    assert_identical(initialiser((6, 5), rng), first)
    assert (initialiser((6, 5), rng) != first).all()
    assert (initialiser((6, 5), 4) != first).all()
    assert (initialiser((6, 5)) != initialiser((6, 5))).all()


@every
@pytest.mark.parametrize("dtype", DTYPES)
def test_dtypes(initialiser, dtype):
    """Each is the cast of what is drawn in float64."""
    wide = initialiser((6, 5), 3, dtype=np.float64)
    dtype = BFLOAT16 if dtype == "bfloat16" else np.dtype(dtype)
    for given in (dtype, dtype.name, dtype.type):
        assert_identical(initialiser((6, 5), 3, dtype=given), wide.astype(dtype))


@every
def test_arrays_without_elements(initialiser):
    for shape in [(0, 3), (3, 0), (0, 0), (2, 3, 0), [0, 3]]:
        assert initialiser(shape, 1).shape == tuple(shape)


@every
def test_objects(initialiser):
    for again in (
        copy.deepcopy(initialiser),
        pickle.loads(pickle.dumps(initialiser)),
        eval(repr(initialiser), vars(init)),
    ):
        assert again == initialiser
        assert hash(again) == hash(initialiser)
        assert_identical(again((3, 4), 5), initialiser((3, 4), 5))
    with pytest.raises(AttributeError):
        initialiser.scale = 3.0


# Errors.

FINITE = [(value, ValueError) for value in (math.nan, math.inf, -math.inf, 10**400)]
FINITE += [(value, TypeError) for value in (None, "1", True, 1j, [1.0])]
NAME = [("gaussian", ValueError), (None, ValueError), (3, ValueError), (["normal"], ValueError)]

ARGUMENTS = [
    (init.he, "distribution", NAME),
    (init.he, "negative_slope", FINITE),
    (init.he, "mode", NAME),
    (init.glorot, "distribution", NAME),
    (init.glorot, "gain", FINITE),
    (init.lecun, "distribution", NAME),
    (init.orthogonal, "gain", FINITE),
    (init.normal, "std", [(-0.1, ValueError), *FINITE]),
    (init.constant, "value", FINITE),
]


@pytest.mark.parametrize(("make", "name", "wrong"), ARGUMENTS, ids=lambda v: getattr(v, "__name__", None))
def test_arguments(make, name, wrong):
    for value, error in wrong:
        with pytest.raises(error, match=rf"^{make.__name__}: {name} must be .*, got {re.escape(repr(value))}$"):
            make(**{name: value})


CALLS = [
    ({"shape": 3}, TypeError, "shape must be a tuple of integers, got 3"),
    ({"shape": (3, 4.0)}, TypeError, "shape must be a tuple of integers, got (3, 4.0)"),
    ({"shape": (3, True)}, TypeError, "shape must be a tuple of integers, got (3, True)"),
    ({"shape": "34"}, TypeError, "shape must be a tuple of integers, got '34'"),
    ({"shape": (3, -4)}, ValueError, "shape must be of integers >= 0, got (3, -4)"),
    ({"rng": 0.5}, TypeError, "rng must be a seed, a numpy.random.Generator or None, got 0.5"),
    ({"rng": True}, TypeError, "rng must be a seed, a numpy.random.Generator or None, got True"),
    ({"rng": np.random}, TypeError, "rng must be a seed, a numpy.random.Generator or None, got <module"),
    ({"rng": -1}, ValueError, "rng must be a seed >= 0, got -1"),
    *(
        ({"dtype": d}, TypeError, f"dtype must be float16, bfloat16, float32 or float64, got {d!r}")
        for d in ("int32", "complex64", ">f4", "nonsense", None, 3, int)
    ),
]


@every
@pytest.mark.parametrize(("options", "error", "text"), CALLS, ids=str)
def test_calls(initialiser, options, error, text):
    with pytest.raises(error, match="^" + re.escape(f"{type(initialiser).__name__}: {text}")):
        initialiser(**{"shape": (3, 4), **options})


@pytest.mark.parametrize(("shape", "axes", "error", "text"), [
    ((3,), {}, ValueError, "out_axis must be an axis of the shape (3,), got 1"),
    ((), {}, ValueError, "in_axis must be an axis of the shape (), got 0"),
    ((3, 4), {"in_axis": 2}, ValueError, "in_axis must be an axis of the shape (3, 4), got 2"),
    ((3, 4), {"out_axis": -3}, ValueError, "out_axis must be an axis of the shape (3, 4), got -3"),
    ((3, 4), {"in_axis": 1.0}, TypeError, "in_axis must be an integer, got 1.0"),
    ((3, 4), {"out_axis": True}, TypeError, "out_axis must be an integer, got True"),
    ((3, 4), {"out_axis": None}, TypeError, "out_axis must be an integer, got None"),
    ((3, 4), {"in_axis": 1}, ValueError, "in_axis and out_axis must differ, got 1 and 1"),
    ((3, 4), {"in_axis": -1}, ValueError, "in_axis and out_axis must differ, got -1 and 1"),
])  # fmt: skip
def test_axes(shape, axes, error, text):
    with pytest.raises(error, match="^" + re.escape(f"VarianceScaling: {text}") + "$"):
        init.he()(shape, **axes)
    if text.startswith("out_axis"):
        with pytest.raises(error, match="^" + re.escape(f"Orthogonal: {text}") + "$"):
            init.orthogonal()(shape, **axes)


@pytest.mark.parametrize(("activation", "error", "text"), [
    ("rellu", ValueError, "activation must be one of relu, leaky_relu, "),
    ("", ValueError, "activation must be one of relu, leaky_relu, "),
    (("rellu", {}), ValueError, "activation must be one of relu, leaky_relu, "),
    (3, TypeError, "activation must be a name, a pair (name, {parameter: value}) or None, got 3"),
    (("elu",), TypeError, "activation must be a name, a pair (name, {parameter: value}) or None, got ('elu',)"),
    (("elu", 0.3), TypeError, "activation must be a name, a pair (name, {parameter: value}) or None, got ('elu', 0.3)"),
    ((None, {}), TypeError, "activation must be a name, a pair (name, {parameter: value}) or None, got (None, {})"),
    (("leaky_relu", {"slope": 0.3}), ValueError, "leaky_relu has no parameter 'slope'"),
    (("softmax", {"axis": 1}), ValueError, "softmax has no parameter 'axis'"),
    (("rrelu", {"lower": "0.3"}), TypeError, "lower must be a finite number, got '0.3'"),
    (("prelu", {"init": math.nan}), ValueError, "init must be a finite number, got nan"),
])  # fmt: skip
def test_activations_it_refuses(activation, error, text):
    with pytest.raises(error, match="^" + re.escape(f"for_activation: {text}")):
        init.for_activation(activation)
