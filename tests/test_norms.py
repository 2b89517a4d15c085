"""Layer, RMS, group and instance norm, and batch norm with its phases apart, against the reference."""

import gc

import numpy as np
import pytest
from helpers import LAYOUTS, assert_identical, assert_writes, cast, wide
from ulp import BOUNDS, assert_within, epsilon

import gradfuse
import gradfuse.reference as ref
from gradfuse import _core
from gradfuse.reference._float64 import narrow

HALF = ["float16", "bfloat16"]

# One element, few and many, tails of tiles, groups longer than a part; the axis last, first, between, and several.
ROWS = [
    ((5,), -1),
    ((6, 10), -1),
    ((6, 10), 0),
    ((3, 1), -1),
    ((4, 3, 33), 1),
    ((4, 3, 33), -1),
    ((4, 3, 33), (1, 2)),
    ((4, 3, 33), (-1, 0)),
    ((4, 3, 33), (0, 1, 2)),
    ((2, 3, 5, 7), (3, 1)),
    ((700, 101), -1),
    ((3, 5000), 1),
    ((1300, 5), 1),
]
LARGE_ROWS = [
    ((3, 100_000), -1),
    ((2, 20_000), -1),
    ((2, 40_000), -1),
    ((4000, 130), -1),
    ((100_000, 3), -1),
    ((7, 3000, 9), 1),
    ((2, 50, 40, 30), (1, 3)),
]
GROUPS = [
    ((6, 8), 1, 2),
    ((6, 8), 1, 8),
    ((1, 8), 1, 1),
    ((4, 6, 33), 1, 1),
    ((4, 6, 33), 1, 3),
    ((4, 6, 33), 1, 6),
    ((4, 33, 6), -1, 2),
    ((2, 6, 4, 5), 1, 2),
    ((2, 9, 7, 3), 3, 3),
    ((3, 7, 8, 5), 2, 4),
    ((700, 16, 3), 1, 4),
    ((3, 4, 1500), 1, 2),
]
LARGE_GROUPS = [((2, 4, 70_000), 1, 2), ((300, 64, 17), 1, 8), ((2, 9000, 32), -1, 8), ((3, 30, 11, 70), 1, 30)]

# One of each, for what does not depend on the shape.
EACH_ROW = [((41, 70), -1), ((4, 70, 9), (0, 1)), ((4, 70, 9), 1)]
EACH_GROUP = [((4, 6, 70), 1, 2), ((4, 70, 6), 2, 3)]

INFO = {name: _core.norm_info(name) for name in _core.norms()}
OF_ROWS = [name for name, info in INFO.items() if info["groups"] == "rows"]


def cases(rows, groups):
    """(name, shape, options) of every norm."""
    for name, info in INFO.items():
        if info["groups"] == "rows":
            yield from ((name, shape, {"axis": axis}) for shape, axis in rows)
        elif info["groups"] == "channel_groups":
            yield from ((name, shape, {"axis": axis, "num_groups": n}) for shape, axis, n in groups)
        else:
            yield from ((name, shape, {"axis": axis}) for shape, axis, _ in groups if len(shape) > 2)


CASES, LARGE, EACH = map(list, (cases(ROWS, GROUPS), cases(LARGE_ROWS, LARGE_GROUPS), cases(EACH_ROW, EACH_GROUP)))
of_rows = pytest.mark.parametrize("name", OF_ROWS)


def named(case):
    name, shape, options = case
    return f"{name}-{shape}-{','.join(map(str, options.values()))}".replace(" ", "")


def over(cases):
    return pytest.mark.parametrize(("name", "shape", "where"), cases, ids=map(named, cases))


activations = pytest.mark.parametrize("activation", gradfuse.activations())


def inputs(rng, name, shape, where, dtype, vectors=None, scale=1.0, mean=0.0):
    """x, a gradient, and the vectors that the function takes."""
    x, g = cast(mean + scale * rng.normal(size=shape), dtype), cast(rng.normal(size=shape), dtype)
    default = -1 if name in OF_ROWS else 1
    axes = sorted(i % len(shape) for i in np.atleast_1d(where.get("axis", default)))
    names = ["weight", "bias"][: 1 + INFO[name]["has_bias"]]
    return x, g, {v: cast(rng.normal(size=[shape[i] for i in axes]), vectors or dtype) for v in names}


def run(s, name, x, g, vectors, grad_total=None, **options):
    """All that a step gives, by name, and the context."""
    y, *total, ctx = getattr(s, f"{name}_forward")(x, **vectors, **options)
    totals = () if grad_total is None else (grad_total,)
    gradients = getattr(s, f"{name}_backward")(g, ctx, *totals)
    names = ["dx", "dweight", "dbias"][: 2 + INFO[name]["has_bias"]]
    result = {"y": y, **dict(zip(names, gradients, strict=True))}
    return (result | {"total": total[0]} if total else result), ctx


def compare(kernels, name, x, g, vectors, grad_total=None, **options):
    actual, _ = run(kernels, name, x, g, vectors, grad_total, **options)
    if "add" in options:
        total = narrow(wide(x) + wide(options.pop("add")), x.dtype)
        assert_identical(actual.pop("total"), total)
        x = total  # what is normalized is the rounded sum
    if INFO[name]["parameters"]["eps"] is None and options.get("eps") is None:
        options["eps"] = epsilon(x.dtype)
    expected, c = run(ref, name, wide(x), wide(g), {k: wide(v) for k, v in vectors.items()}, **options)
    if grad_total is not None:
        expected["dx"] = expected["dx"] + wide(grad_total)

    activation = options.get("activation") or "relu"
    activation = activation if isinstance(activation, str) else activation[0]
    terms = sizes(c, g, grad_total)
    for key, value in expected.items():
        like = vectors.get(key[1:], x)
        if key != "y" and key != "dx" and key[1:] not in vectors:
            assert actual[key] is None
            continue
        assert (actual[key].dtype, actual[key].shape) == (like.dtype, like.shape)
        part = {"y": "", "dx": "_backward"}.get(key, "_sum")
        row = f"{name}{part}" if f"{name}{part}" in BOUNDS else f"norm{part}"
        after = activation if key == "y" else f"{activation}_backward"
        assert_within(actual[key], value, row, after, scale=terms[key])


def sizes(c, g, grad_total):
    """The sizes of the terms. A mean in the compute type is off by an ulp of the largest element it is taken of."""
    layout = c.layout

    def top(v):
        return v.max(layout.axes, keepdims=True, initial=0.0)

    off = top(abs(c.u)) / c.sigma if layout.centered else 0.0
    x_hat = abs(c.x_hat) + off
    gamma, ones = abs(c.gamma), np.ones(layout.shape)
    z = abs(c.gamma) * top(x_hat) + abs(c.z).reshape(layout.shape) + 1
    through = z if c.activation else ones  # an activation's slope is off by as much as its input, its curvature below 1
    g = np.where(c.keep, abs(wide(g)) * c.scale, 0).reshape(layout.shape) * through
    dx = top(g * gamma) / c.sigma * (1 + abs(c.x_hat)) * (1 + top(x_hat))
    dx = dx.reshape(c.x.shape) + (0.0 if grad_total is None else abs(wide(grad_total)))
    apart = tuple(i for i, n in enumerate(layout.vector) if n == 1)
    shape = lambda v: v.sum(apart).reshape((c.weight if c.weight is not None else c.bias).shape)  # noqa: E731
    terms = {"y": (c.scale * z * ones).reshape(c.x.shape), "dx": dx}
    if c.weight is not None:
        terms["dweight"] = shape(g * (x_hat + off))
    if c.bias is not None:
        terms["dbias"] = shape(g * ones)
    return terms


OPTIONS = {
    "plain": {},
    "eps": {"eps": 0.3},
    "activation": {"activation": "silu"},
    "parameter": {"activation": ("elu", {"alpha": 1.3})},
    "dropout": {"dropout": 0.3, "rng": 9},
    "everything": {"activation": "tanh", "dropout": 0.4, "eps": 0.1, "rng": 2**40},
}


@over(CASES)
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_norm(kernels, rng, dtype, name, shape, where, options):
    x, g, vectors = inputs(rng, name, shape, where, dtype)
    compare(kernels, name, x, g, vectors, **where, **options)


@over(LARGE)
@pytest.mark.parametrize("options", [{}, OPTIONS["everything"]], ids=["plain", "everything"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_large(kernels, rng, dtype, name, shape, where, options):
    x, g, vectors = inputs(rng, name, shape, where, dtype, "float32")
    compare(kernels, name, x, g, vectors, **where, **options)


@over(EACH)
@activations
def test_activations(kernels, rng, activation, name, shape, where):
    x, g, vectors = inputs(rng, name, shape, where, "float32")
    compare(kernels, name, x, g, vectors, **where, activation=activation)


@over(EACH)
@pytest.mark.parametrize("given", [("weight",), ("bias",), ()], ids=str)
def test_optional_vectors(kernels, rng, given, name, shape, where):
    x, g, vectors = inputs(rng, name, shape, where, "float32")
    vectors = {v: vectors[v] for v in vectors if v in given}
    compare(kernels, name, x, g, vectors, **where, activation="gelu")


@over(EACH)
@pytest.mark.parametrize("half", HALF)
def test_half_with_float32_vectors(kernels, rng, half, name, shape, where):
    x, g, vectors = inputs(rng, name, shape, where, half, "float32")
    compare(kernels, name, x, g, vectors, **where)


@over(EACH)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("mean", [1e4, -1e4])
def test_far_from_zero(kernels, rng, dtype, mean, name, shape, where):
    """E[x^2] - E[x]^2 has no digit left here."""
    x, g, vectors = inputs(rng, name, shape, where, dtype, mean=mean)
    compare(kernels, name, x, g, vectors, **where)


@over(EACH)
@pytest.mark.parametrize("scale", [1e-6, 1e4])
def test_sizes(kernels, rng, scale, name, shape, where):
    """Where eps is most of the variance, and where it is nothing; a square would overflow float16."""
    for dtype in ("float32", "bfloat16", "float16"):
        x, g, vectors = inputs(rng, name, shape, where, dtype, "float32", scale=scale)
        compare(kernels, name, x, g, vectors, **where)


@pytest.mark.parametrize("axis", [-1, 0, (0, 1)])
@pytest.mark.parametrize("eps", [None, 1e-3])
def test_rms_norm_with_an_offset(kernels, rng, dtype, axis, eps):
    x, g, vectors = inputs(rng, "rms_norm", (37, 10), {"axis": axis}, dtype)
    compare(kernels, "rms_norm", x, g, vectors, axis=axis, eps=eps, unit_offset=True)
    compare(kernels, "rms_norm", x, g, {}, axis=axis, eps=eps, unit_offset=True)  # an offset of nothing


@of_rows
@pytest.mark.parametrize(("shape", "axis"), ROWS, ids=str)
@pytest.mark.parametrize("options", [{}, {"activation": "silu", "dropout": 0.3, "rng": 4}], ids=["plain", "everything"])
def test_add(kernels, rng, dtype, name, shape, axis, options):
    x, g, vectors = inputs(rng, name, shape, {"axis": axis}, dtype)
    add, grad_total = (cast(rng.normal(size=shape), dtype) for _ in range(2))
    compare(kernels, name, x, g, vectors, grad_total, axis=axis, add=add, **options)
    compare(kernels, name, x, g, vectors, axis=axis, add=add, **options)


@of_rows
def test_add_gives_the_bits_of_the_sum_alone(kernels, rng, dtype, name):
    x, g, vectors = inputs(rng, name, (33, 129), {}, dtype)
    add = cast(rng.normal(size=x.shape), dtype)
    fused, _ = run(kernels, name, x, g, vectors, add=add)
    alone, _ = run(kernels, name, fused["total"], g, vectors)
    for key, value in alone.items():
        assert_identical(fused[key], value)
    y, total = getattr(kernels, name)(x, **vectors, add=add)
    assert_identical(y, fused["y"])
    assert_identical(total, fused["total"])


@over([*EACH, *cases([((50, 1000), -1), ((21, 1024), 0)], [((40, 16, 7, 7), 1, 4), ((5, 8, 40, 30), 1, 2)])])
def test_bits_of_a_group_do_not_depend_on_the_other_groups(kernels, rng, dtype, name, shape, where):
    x, g, vectors = inputs(rng, name, shape, where, dtype)
    reduced = [i % x.ndim for i in np.atleast_1d(where["axis"])] if name in OF_ROWS else range(1, x.ndim)
    axis = min(set(range(x.ndim)) - set(reduced))
    some = (*[np.s_[:]] * axis, np.s_[1:-1])
    whole, _ = run(kernels, name, x, g, vectors, **where)
    part, _ = run(kernels, name, x[some].copy(), g[some].copy(), vectors, **where)
    for key in ("y", "dx"):
        assert_identical(part[key], whole[key][some])


@over([(name, shape, where) for name, shape, where in EACH if 0 not in np.atleast_1d(where.get("axis", 1))])
def test_empty_batch(kernels, dtype, name, shape, where):
    x, g, vectors = inputs(np.random.default_rng(0), name, (0, *shape[1:]), where, dtype)
    result, _ = run(kernels, name, x, g, vectors, **where, activation="relu", dropout=0.5, rng=1)
    assert result["y"].shape == result["dx"].shape == x.shape
    for v in vectors:
        assert result[f"d{v}"].shape == vectors[v].shape
        assert not wide(result[f"d{v}"]).any()


@of_rows
def test_groups_of_no_elements(kernels, dtype, name):
    x = np.zeros((4, 0), dtype)
    result, _ = run(kernels, name, x, x, {"weight": x[0]})
    assert result["y"].shape == result["dx"].shape == (4, 0)
    assert result["dweight"].shape == (0,)


@over(EACH)
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_bad_element_stays_in_its_group(kernels, rng, bad, name, shape, where):
    x, g, vectors = inputs(rng, name, shape, where, "float32")
    good, _ = run(kernels, name, x, g, vectors, **where)
    spoiled = x.copy()
    spoiled.flat[0] = bad
    result, _ = run(kernels, name, spoiled, g, vectors, **where)
    _, c = run(ref, name, wide(spoiled), wide(g), {k: wide(v) for k, v in vectors.items()}, **where)
    group = np.broadcast_to(~np.isfinite(c.sigma), c.layout.shape).reshape(x.shape)
    assert 0 < group.sum() < x.size
    for key in ("y", "dx"):
        assert_identical(result[key][~group], good[key][~group])
    assert np.isnan(result["y"].flat[0])


@over(EACH)
@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_out(kernels, rng, dtype, name, shape, where, layout):
    """Inference is training without dropout, to any layout, also in place."""
    f = getattr(kernels, name)
    x, _, vectors = inputs(rng, name, shape, where, dtype)
    options = {**where, **vectors, "activation": "gelu"}
    y = f(x, **options)
    assert_identical(getattr(kernels, f"{name}_forward")(x, **options)[0], y)
    new, x2 = layout(np.full_like(x, np.nan)), layout(x)
    assert_writes(lambda: f(x, **options, out=new), new, y)
    assert_writes(lambda: f(x2, **options, out=x2), x2, y)


@of_rows
def test_out_with_add(kernels, rng, dtype, name):
    f = getattr(kernels, name)
    x, add, vectors = inputs(rng, name, (41, 70), {}, dtype)
    y, total = f(x, **vectors, add=add)
    for out in (np.full_like(x, np.nan), x, add):
        given = {"x": x.copy(), "add": add.copy()}
        for key, a in (("x", x), ("add", add)):
            if out is a:
                given[key] = out = a.copy()
        first, second = f(given["x"], **vectors, add=given["add"], out=out)
        assert first is out
        assert_identical(out, y)
        assert_identical(second, total)


@pytest.mark.parametrize("name", INFO)
@pytest.mark.parametrize("width", [1, 5, 64, 257, 1023, 5000])
@pytest.mark.parametrize("dtype", ["bfloat16", "float32", "float64"])
def test_a_sample_does_not_depend_on_its_neighbors(kernels, rng, dtype, name, width):
    """Neither on how many there are, nor on its place among them."""
    shape = (67, width) if name in OF_ROWS else (67, 4, width + 1)
    where = {"num_groups": 2} if INFO[name]["groups"] == "channel_groups" else {}
    x, g, vectors = inputs(rng, name, shape, where, dtype)
    everything, _ = run(kernels, name, x, g, vectors, **where, activation="silu")
    for rows in (slice(0, 1), slice(66, 67), slice(3, 5), slice(10, 17), slice(1, 34)):
        few, _ = run(kernels, name, x[rows].copy(), g[rows].copy(), vectors, **where, activation="silu")
        for key in ("y", "dx"):
            assert_identical(few[key], everything[key][rows])


@over(
    [
        *EACH,
        ("layer_norm", (3001, 130), {}),
        ("rms_norm", (3, 100_000), {}),
        ("group_norm", (2, 6, 40_000), {"num_groups": 2}),
    ]
)
def test_number_of_threads(cpu, rng, threads, name, shape, where):
    x, g, vectors = inputs(rng, name, shape, where, "float32")
    results = []
    for n in (1, 4, 7):
        threads(n)
        results.append(run(cpu, name, x, g, vectors, **where, activation="silu", dropout=0.2, rng=3)[0])
    for other in results[1:]:
        for key, value in results[0].items():
            assert_identical(other[key], value)


@over(EACH)
def test_dropout_is_that_of_dropout(kernels, rng, name, shape, where):
    """The same mask and scale, and one stream of the generator."""
    x, _, vectors = inputs(rng, name, shape, where, "float64")
    generator = gradfuse.Generator(5)
    y, _ = getattr(kernels, f"{name}_forward")(x, **vectors, **where, dropout=0.3, rng=generator)
    assert generator.stream == 1
    alone, _ = kernels.dropout_forward(getattr(kernels, name)(x, **vectors, **where), 0.3, rng=gradfuse.Generator(5))
    np.testing.assert_array_equal(y == 0, alone == 0)
    # A kernel with dropout may cut its groups into other parts: their statistics are rounded otherwise.
    np.testing.assert_allclose(y, alone, rtol=0, atol=16 * epsilon("float64") * abs(alone).max())


@over(EACH)
def test_contexts_keep_their_arrays_alive(kernels, rng, name, shape, where):
    """And may be used again."""
    x, g, vectors = inputs(rng, name, shape, where, "float32")
    copies = {v: a.copy() for v, a in vectors.items()}
    *_, ctx = getattr(kernels, f"{name}_forward")(x.copy(), **copies, **where, activation="silu")
    del copies
    backward = getattr(kernels, f"{name}_backward")
    first = backward(g, ctx)
    gc.collect()
    for _ in range(3):
        np.full_like(x, np.nan)
        for a, b in zip(backward(g, ctx), first, strict=True):
            assert_identical(a, b)


@over(
    [
        ("layer_norm", (41, 70), {}),
        ("group_norm", (4, 6, 70), {"num_groups": 2}),
        ("instance_norm", (4, 6, 70), {}),
    ]
)
def test_against_torch(kernels, rng, name, shape, where):
    torch = pytest.importorskip("torch")
    x, g, vectors = inputs(rng, name, shape, where, "float64", mean=3.0)
    actual, _ = run(kernels, name, x, g, vectors, **where)
    tx, weight, bias = (torch.from_numpy(a.copy()).requires_grad_() for a in (x, vectors["weight"], vectors["bias"]))
    function = getattr(torch.nn.functional, name)
    arguments = {"layer_norm": [shape[1:]], "group_norm": [where.get("num_groups")], "instance_norm": []}[name]
    y = function(tx, *arguments, weight=weight, bias=bias)
    y.backward(torch.from_numpy(g))
    for key, value in {"y": y.detach(), "dx": tx.grad, "dweight": weight.grad, "dbias": bias.grad}.items():
        np.testing.assert_allclose(actual[key], value.numpy(), rtol=1e-11, atol=1e-12)  # hundreds of terms


# Bad input: one sentence, and nothing has happened

X, V = np.ones((3, 4, 5), np.float32), np.ones(5, np.float32)
F16, F64 = X.astype(np.float16), X.astype(np.float64)
GROUPED = "num_groups must be a positive divisor of the 4 channels of x, got"
AXIS = "axis must be an axis of an array of 3 dimensions, got"
TWICE = "axis must name at least one axis, each only once, got"
EITHER = "must be float16 or float32 as x is, got float64"
SHAPED, TYPED = "must have the shape of x, (3, 4, 5), got", "must have the dtype of x, float32, got"
SAMPLES = "axis must not be 0, the axis of the samples, got 0"
FEW = "x must have more than one value per"
BAD = [
    (ValueError, f"layer_norm: {AXIS} 3", "layer_norm", (X,), {"axis": 3}),
    (ValueError, f"rms_norm_forward: {AXIS} -4", "rms_norm_forward", (X,), {"axis": (0, -4)}),
    (ValueError, f"layer_norm: {TWICE} (2, -1)", "layer_norm", (X,), {"axis": (2, -1)}),
    (ValueError, f"rms_norm: {TWICE} ()", "rms_norm", (X,), {"axis": ()}),
    (ValueError, "layer_norm: weight must have shape (5,), got (4,)", "layer_norm", (X, V[:4]), {}),
    (ValueError, "layer_norm: bias must have shape (4, 5), got (5,)", "layer_norm", (X, None, V), {"axis": (1, 2)}),
    (ValueError, "rms_norm: weight must have shape (3, 5), got (5, 3)", "rms_norm", (X, X[:, 0].T), {"axis": (2, 0)}),
    (TypeError, "layer_norm: weight must be float32 as x is, got float64", "layer_norm", (X, F64[0, 0]), {}),
    (TypeError, f"rms_norm: weight {EITHER}", "rms_norm", (F16, F64[0, 0]), {}),
    (ValueError, f"layer_norm: add {SHAPED} (4, 5)", "layer_norm", (X,), {"add": X[0]}),
    (TypeError, f"rms_norm_forward: add {TYPED} float64", "rms_norm_forward", (X,), {"add": F64}),
    (ValueError, f"group_norm: {GROUPED} 3", "group_norm", (X, 3), {}),
    (ValueError, f"group_norm_forward: {GROUPED} 0", "group_norm_forward", (X, 0), {}),
    (ValueError, f"group_norm: {SAMPLES}", "group_norm", (X, 1), {"axis": -3}),
    (ValueError, f"instance_norm_forward: {SAMPLES}", "instance_norm_forward", (X,), {"axis": 0}),
    (ValueError, f"group_norm: {FEW} group, got shape (1, 4, 1)", "group_norm", (X[:1, :, :1], 4), {}),
    (ValueError, "group_norm: weight must have shape (4,), got (5,)", "group_norm", (X, 2, V), {}),
    (ValueError, f"instance_norm: {FEW} sample and channel, got shape (3, 4, 1)", "instance_norm", (X[:, :, :1],), {}),
    (
        TypeError,
        "instance_norm: bias must be float32 as x is, got float16",
        "instance_norm",
        (X, None, F16[0, :, 0]),
        {},
    ),
]


@pytest.mark.parametrize(("error", "message", "name", "args", "options"), BAD, ids=lambda v: str(v)[:40])
def test_bad_input(kernels, error, message, name, args, options):
    generator, out = gradfuse.Generator(1), np.full_like(args[0], 7)
    written = {"dropout": 0.5, "rng": generator} if name.endswith("_forward") else {"out": out}
    with pytest.raises(error) as raised:
        getattr(kernels, name)(*args, **options, **written)
    assert str(raised.value) == message
    assert generator.stream == 0
    assert (out == 7).all()


@of_rows
def test_a_gradient_of_no_total(kernels, name):
    _, ctx = getattr(kernels, f"{name}_forward")(X)
    with pytest.raises(
        ValueError, match=f"^{name}_backward: grad_total must be None if the forward had no add, got an array$"
    ):
        getattr(kernels, f"{name}_backward")(X, ctx, X)


# Batch norm with its phases apart

SHAPES = [((60, 5), 1), ((5, 1300), 1), ((1300, 6), 1), ((6, 3, 33), 1), ((6, 4, 9, 3), -1), ((8, 2, 2500), 1)]
shapes = pytest.mark.parametrize(("shape", "axis"), SHAPES, ids=str)


def channels(rng, shape, axis, dtype):
    """Running mean and variance, weight and bias."""
    mean, weight, bias = rng.normal(size=(3, shape[axis]))
    return tuple(cast(v, dtype) for v in (mean, 0.5 + rng.random(shape[axis]), weight, bias))


def compare_moments(actual, x, axis):
    expected = ref.batch_moments(wide(x), axis=axis)
    assert (actual.dtype, actual.shape) == (np.float64, expected.shape)
    assert_identical(actual[0], expected[0])
    n, mean, M2 = expected
    top = abs(wide(x)).max(tuple(i for i in range(x.ndim) if i != axis % x.ndim), initial=0.0)
    # In float64, but with terms rounded to the compute type.
    coarse = epsilon(x.dtype) / epsilon("float64")
    assert_within(actual[1], mean, "batch_moments", scale=top)
    off = (abs(wide(x)) + top.max(initial=0.0)).max(initial=0.0) * epsilon("float64")
    assert_within(
        actual[2],
        M2,
        "batch_moments",
        scale=coarse * M2 + n * off * (np.sqrt(M2 / np.maximum(n, 1)) + off) / epsilon("float64"),
    )


@shapes
@pytest.mark.parametrize("mean", [0.0, 1e4])
def test_batch_moments(kernels, rng, dtype, shape, axis, mean):
    x = cast(mean + rng.normal(size=shape), dtype)
    compare_moments(kernels.batch_moments(x, axis=axis), x, axis)
    parts = [kernels.batch_moments(part, axis=axis) for part in np.split(x, [1, 1, 4])]  # one of them empty
    compare_moments(kernels.merge_moments(parts), x, axis)
    for layout in LAYOUTS.values():
        assert_identical(kernels.batch_moments(layout(x), axis=axis), kernels.batch_moments(x, axis=axis))


def test_merge_moments(kernels, rng):
    x = rng.normal(size=(40, 3))
    parts = [kernels.batch_moments(part) for part in np.split(x, [3, 20])]
    merged = kernels.merge_moments(parts)
    np.testing.assert_allclose(merged, ref.merge_moments(parts), rtol=1e-14)
    assert_identical(kernels.merge_moments([kernels.merge_moments(parts[:2]), parts[2]]), merged)  # in the given order
    assert_identical(kernels.merge_moments(parts[:1]), parts[0])
    nothing = kernels.batch_moments(x[:0])
    assert not nothing.any()
    assert_identical(kernels.merge_moments([nothing, parts[0], nothing]), parts[0])


PHASES = {
    "plain": {},
    "momentum": {"momentum": 0.25, "eps": 0.1, "unbiased": False},
    "cumulative": {"momentum": None, "num_batches": 3},
    "everything": {"activation": "silu", "eps": 0.1, "momentum": 0.7},
}


@shapes
@pytest.mark.parametrize("options", PHASES.values(), ids=PHASES)
@pytest.mark.parametrize("residual", [False, True])
def test_phases_apart_are_batch_norm(kernels, rng, dtype, shape, axis, options, residual):
    """Of the whole batch, and of two halves whose moments and sums are merged."""
    x, g, r = (cast(rng.normal(size=shape), dtype) for _ in range(3))
    r = r if residual else None
    mean, var, weight, bias = channels(rng, shape, axis, "float32" if x.dtype.itemsize == 2 else dtype)
    options = {"axis": axis, **options}
    statistics = mean.copy(), var.copy()
    y, ctx = kernels.batch_norm_forward(x, *statistics, weight, bias, residual=r, **options)
    expected = {
        "y": y,
        **dict(zip(["dx", "dweight", "dbias", "dr"], kernels.batch_norm_backward(g, ctx), strict=False)),
    }

    for cuts in ([], [shape[0] // 3]):
        parts = [[None if a is None else p for p in np.split(a if a is not None else x, cuts)] for a in (x, g, r)]
        moments = kernels.merge_moments([kernels.batch_moments(p, axis=axis) for p in parts[0]])
        contexts, ys = [], []
        for p, _, q in zip(*parts, strict=True):
            updated = mean.copy(), var.copy()
            y, ctx = kernels.batch_norm_apply(p, moments, *updated, weight, bias, residual=q, **options)
            ys.append(y)
            contexts.append(ctx)
            for a, b in zip(updated, statistics, strict=True):
                np.testing.assert_allclose(a, b, rtol=8 * epsilon(dtype), atol=8 * epsilon(dtype))
        sums = [kernels.batch_norm_sums(p, ctx) for p, ctx in zip(parts[1], contexts, strict=True)]
        assert all((s.dtype, s.shape) == (np.float64, (2, shape[axis])) for s in sums)
        whole = np.sum(sums, axis=0)
        gradients = [kernels.batch_norm_finish(p, ctx, whole) for p, ctx in zip(parts[1], contexts, strict=True)]
        dx, dweight, dbias, *dr = zip(*gradients, strict=True)
        actual = {"y": np.concatenate(ys), "dx": np.concatenate(dx)}
        actual |= {"dweight": sum(map(wide, dweight)), "dbias": sum(map(wide, dbias))}
        assert len(dr) == residual
        if residual:
            actual["dr"] = np.concatenate(dr[0])
        # Twice what batch norm itself may be off by, in terms of size 4, and the sums of that many terms.
        count = x.size // shape[axis]
        for key, value in actual.items():
            unit = max(epsilon(dtype), 2.0**-10 if dtype == "float16" else 2.0**-7 if dtype == "bfloat16" else 0.0)
            size = 1.0 if key[1:] not in ("weight", "bias") else np.sqrt(count)
            if key[1:] in ("weight", "bias"):
                unit = epsilon(dtype)
            np.testing.assert_allclose(wide(value), wide(expected[key]), rtol=64 * unit, atol=64 * unit * size)


def test_sums_are_of_the_local_batch(kernels, rng):
    x, g = rng.normal(size=(2, 40, 6))
    mean, var, weight, bias = channels(rng, x.shape, 1, "float64")
    moments = ref.batch_moments(rng.normal(size=(500, 6)))
    _, ctx = kernels.batch_norm_apply(x, moments, mean, var, weight, bias, activation="silu")
    _, expected = ref.batch_norm_apply(x, moments, None, None, weight, bias, activation="silu")
    sums, theirs = kernels.batch_norm_sums(g, ctx), ref.batch_norm_sums(g, expected)
    x_hat = abs(expected.x_hat) + abs(expected.u / expected.sigma)
    for a, b, scale in zip(sums, theirs, [abs(g).sum(0), (abs(g) * x_hat).sum(0)], strict=True):
        assert_within(a, b, "batch_norm_sums", "silu_backward", scale=scale)
    merged = rng.normal(size=(2, 6))
    for a, b in zip(kernels.batch_norm_finish(g, ctx, merged), ref.batch_norm_finish(g, expected, merged), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-12)  # tens of terms


def test_phases_of_an_empty_part(kernels, rng, dtype):
    x = cast(rng.normal(size=(30, 4)), dtype)
    moments = kernels.batch_moments(x)
    mean, var, weight, bias = channels(rng, x.shape, 1, dtype)
    y, ctx = kernels.batch_norm_apply(x[:0], moments, mean, var, weight, bias)
    sums = kernels.batch_norm_sums(x[:0], ctx)
    assert not sums.any()
    dx, dweight, dbias = kernels.batch_norm_finish(x[:0], ctx, sums + 1)
    assert y.shape == dx.shape == (0, 4)
    assert not wide(dweight).any()
    assert not wide(dbias).any()
    before = mean.copy(), var.copy()
    kernels.batch_norm_apply(x[:0], kernels.batch_moments(x[:0]), mean, var)  # nothing anywhere: nothing moves
    assert_identical(np.stack([mean, var]), np.stack(before))


def test_moments_of_an_infinity(kernels):
    x = np.ones((5000, 2), np.float32)
    x[7, 0] = np.inf
    _, mean, squares = kernels.batch_moments(x)
    assert (mean == [np.inf, 1]).all()
    assert np.isnan(squares[0])
    running = np.zeros(2, np.float32), np.ones(2, np.float32)
    kernels.batch_norm_forward(x, *running)
    assert running[0][0] == np.inf


@pytest.mark.parametrize(("row", "value"), [(0, -4.0), (0, 0.3), (0, 0.0), (0, np.nan), (2, -1.0)])
def test_impossible_moments(row, value):
    x, mean, var = np.arange(8.0).reshape(4, 2), np.zeros(2), np.ones(2)
    moments = gradfuse.batch_moments(x)
    moments[row, 1] = value
    text = r"^batch_norm_apply: moments must hold counts of at least 2 and sums of squares >= 0, got a count of "
    with pytest.raises(ValueError, match=text):
        gradfuse.batch_norm_apply(x, moments, mean, var)
    assert not mean.any()


def test_phases_refuse_one_value(kernels):
    x, mean, var = np.ones((1, 4)), np.zeros(4), np.ones(4)
    generator, moments = gradfuse.Generator(1), kernels.batch_moments(x)
    if kernels.device == "cpu":  # on a device the host does not look at the moments
        with pytest.raises(ValueError, match=r"^batch_norm_apply: .*more than one value per channel"):
            kernels.batch_norm_apply(x, moments, mean, var, dropout=0.5, rng=generator)
        assert generator.stream == 0
        assert not mean.any()
    two = kernels.merge_moments([moments, moments])
    kernels.batch_norm_apply(x, two, mean, var)  # one value here, two in all
    assert mean.all()
