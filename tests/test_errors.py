"""Bad input: one sentence that names function, argument, expected and given; and nothing has happened."""

import re

import numpy as np
import pytest

import smelt

KIND = "must be an array (NumPy, or any object with __dlpack__), got"
FLOAT = "must be float16, bfloat16, float32 or float64, got"


def f32(*shape):
    return np.ones(shape, np.float32)


def overlapping():
    """Two views of one array that overlap but are not the same."""
    a = f32(13)
    return a[:12].reshape(3, 4), a[1:].reshape(3, 4)


def read_only(*shape):
    a = f32(*shape)
    a.flags.writeable = False
    return a


def self_overlapping(rows, columns):
    return np.lib.stride_tricks.as_strided(f32(rows + columns), (rows, columns), (4, 4))


X = f32(3, 4)
V = f32(4)
DROPOUT, ALPHA = smelt.dropout_forward(X)[1], smelt.alpha_dropout_forward(X)[1]
RRELU, PRELU, MAXOUT = smelt.rrelu_forward(X)[1], smelt.prelu_forward(X, V)[1], smelt.maxout_forward(X, 2)[1]
DENSE, NORM = smelt.bias_act_forward(X, V)[1], smelt.batch_norm_forward(X, None, None)[1]

CASES = {}


def case(error, message, call):
    CASES[f"{len(CASES)}: {message[:70]}"] = (error, message, call)


def type_error(message, call):
    case(TypeError, message, call)


def value_error(message, call):
    case(ValueError, message, call)


# Arguments as such

type_error("elu: missing argument x", lambda: smelt.elu())
type_error("elu_backward: missing argument saved", lambda: smelt.elu_backward(X))
type_error("elu: takes at most 2 positional arguments, got 3", lambda: smelt.elu(X, 1.0, X))
type_error("elu: argument alpha given twice", lambda: smelt.elu(X, 1.0, alpha=1.0))
type_error(
    "elu: unexpected argument 'beta'; the signature is elu(x, alpha=1.0, *, out=None)", lambda: smelt.elu(X, beta=1.0)
)
type_error("softmax: takes at most 1 positional arguments, got 2", lambda: smelt.softmax(X, 1))

# Kinds and dtypes

for given, text in [
    ([1.0, 2.0], "an object of type list"),
    (None, "None"),
    (1.5, "1.5"),
    (3, "3"),
    ("x", "'x'"),
    (np.float32(2), "np.float32(2.0)"),
]:
    type_error(f"relu: x {KIND} {text}", lambda given=given: smelt.relu(given))
    type_error(f"softmax_backward: y {KIND} {text}", lambda given=given: smelt.softmax_backward(X, given))
for dtype in [
    "int32",
    "int64",
    "uint8",
    "bool",
    "complex64",
    "object",
    "<U1",
    np.dtype(np.longdouble).name,
    "|V2",
    "datetime64[s]",
]:
    a = np.zeros((3, 4), dtype)
    type_error(f"relu: x {FLOAT} {dtype}", lambda a=a: smelt.relu(a))
    type_error(f"batch_norm_forward: x {FLOAT} {dtype}", lambda a=a: smelt.batch_norm_forward(a, None, None))
for order in [">f4", ">f8", ">f2"]:
    a = np.zeros((3, 4), order)
    type_error("relu: x must be in the machine's byte order, got a swapped array", lambda a=a: smelt.relu(a))
value_error("relu: x must have at most 16 dimensions, got 17", lambda: smelt.relu(f32(*[1] * 17)))
type_error(
    "elu_backward: saved must have the dtype of grad_out, float32, got float64",
    lambda: smelt.elu_backward(X, X.astype(np.float64)),
)
type_error(
    "prelu_forward: weight must have the dtype of x, float32, got float16",
    lambda: smelt.prelu_forward(X, V.astype("f2")),
)
type_error(
    "mse_loss: target must have the dtype of pred, float32, got float64",
    lambda: smelt.mse_loss(X, X.astype(np.float64)),
)
type_error(
    "cross_entropy: target must have the dtype of logits, float32, got float64",
    lambda: smelt.cross_entropy(X, X.astype(np.float64)),
)
type_error(
    "softmax_backward: y must have the dtype of grad_out, float32, got float16",
    lambda: smelt.softmax_backward(X, X.astype("f2")),
)

# Shapes and axes

value_error(
    "elu_backward: saved must have the shape of grad_out, (3, 4), got (4, 3)", lambda: smelt.elu_backward(X, X.T)
)
value_error("elu_backward: saved must have the shape of grad_out, (3, 4), got (4,)", lambda: smelt.elu_backward(X, V))
value_error(
    "softmax_backward: y must have the shape of grad_out, (3, 4), got (4,)", lambda: smelt.softmax_backward(X, V)
)
value_error(
    "mse_loss: target must have the shape of pred, (3, 4), got ()", lambda: smelt.mse_loss(X, np.array(1, np.float32))
)
value_error(
    "prelu_forward: weight must have shape (1,) or (4,), the channels of x, got (3,)",
    lambda: smelt.prelu_forward(X, f32(3)),
)
value_error(
    "prelu_forward: weight must have shape (1,) or (4,), the channels of x, got ()",
    lambda: smelt.prelu_forward(X, f32()),
)
value_error(
    "maxout_forward: num_pieces must be a positive divisor of the 4 channels of x, got 3",
    lambda: smelt.maxout_forward(X, 3),
)
value_error(
    "maxout_forward: num_pieces must be a positive divisor of the 4 channels of x, got 0",
    lambda: smelt.maxout_forward(X, 0),
)
type_error("maxout_forward: num_pieces must be an integer, got 2.0", lambda: smelt.maxout_forward(X, 2.0))
value_error("cross_entropy: logits must have shape (N, C) with C > 0, got (4,)", lambda: smelt.cross_entropy(V, V))
value_error(
    "cross_entropy: logits must have shape (N, C) with C > 0, got (3, 0)",
    lambda: smelt.cross_entropy(f32(3, 0), f32(3, 0)),
)
for name, call in {
    "softmax": lambda axis: smelt.softmax(X, axis=axis),
    "softmax_backward": lambda axis: smelt.softmax_backward(X, X, axis=axis),
    "log_softmax": lambda axis: smelt.log_softmax(X, axis=axis),
    "prelu_forward": lambda axis: smelt.prelu_forward(X, V, axis=axis),
    "maxout_forward": lambda axis: smelt.maxout_forward(X, 2, axis=axis),
    "batch_norm": lambda axis: smelt.batch_norm(X, V, V, axis=axis),
    "batch_norm_forward": lambda axis: smelt.batch_norm_forward(X, V, V, axis=axis),
    "bias_act_forward": lambda axis: smelt.bias_act_forward(X, V, axis=axis),
    "fold_batch_norm": lambda axis: smelt.fold_batch_norm(X, V, V, V, axis=axis),
}.items():
    for axis in (2, -3, 10**12):
        message = f"{name}: axis must be an axis of an array of 2 dimensions, got {axis}"
        value_error(message, lambda call=call, axis=axis: call(axis))
    for axis in (True, 1.0, "1", None, (0, 1)):
        text = "an object of type tuple" if axis == (0, 1) else repr(axis)
        type_error(f"{name}: axis must be an integer, got {text}", lambda call=call, axis=axis: call(axis))

# Hyper-parameters of activations

value_error("elu: alpha must be a finite number >= 0, got nan", lambda: smelt.elu(X, np.nan))
value_error("elu: alpha must be a finite number >= 0, got -1.0", lambda: smelt.elu(X, -1))
value_error("celu: alpha must be a finite number > 0, got 0.0", lambda: smelt.celu(X, 0))
value_error("silu: beta must be a finite number, got inf", lambda: smelt.silu(X, np.inf))
value_error(
    "softplus_backward: threshold must be a finite number, got nan",
    lambda: smelt.softplus_backward(X, X, threshold=np.nan),
)
value_error("hardtanh: min_val must be at most max_val, got 2.0 > 1.0", lambda: smelt.hardtanh(X, 2.0))
value_error(
    "hardtanh_backward: min_val must be at most max_val, got -1.0 > -2.0",
    lambda: smelt.hardtanh_backward(X, X, max_val=-2),
)
for given in (None, "1", True, 1j, [1.0]):
    text = "an object of type list" if isinstance(given, list) else repr(given)
    type_error(f"elu: alpha must be a number, got {text}", lambda given=given: smelt.elu(X, given))
for given in ("erf", None, 1):
    value_error(f"gelu: approximate must be 'none' or 'tanh', got {given!r}", lambda given=given: smelt.gelu(X, given))
value_error("gelu_backward: approximate must be 'none' or 'tanh', got 'tan'", lambda: smelt.gelu_backward(X, X, "tan"))
value_error("rrelu_forward: lower must be at most upper, got 0.5 > 0.25", lambda: smelt.rrelu_forward(X, 0.5, 0.25))
value_error("rrelu_forward: upper must be a finite number, got nan", lambda: smelt.rrelu_forward(X, 0.5, np.nan))
type_error("rrelu_forward: training must be True or False, got 1", lambda: smelt.rrelu_forward(X, training=1))
value_error("saves: name must be one of smelt.activations(), got 'swoosh'", lambda: smelt.saves("swoosh"))
type_error("saves: name must be a name, got None", lambda: smelt.saves(None))

# The outputs

for name, call in {
    "elu": lambda out: smelt.elu(X, out=out),
    "gelu": lambda out: smelt.gelu(X, out=out),
    "elu_backward": lambda out: smelt.elu_backward(X, X, out=out),
    "softmax": lambda out: smelt.softmax(X, out=out),
    "log_softmax_backward": lambda out: smelt.log_softmax_backward(X, X, out=out),
    "batch_norm": lambda out: smelt.batch_norm(X, V, V, out=out),
}.items():
    first = "grad_out" if name.endswith("backward") else "x"
    for out, text in [
        (read_only(3, 4), "must be writeable, got a read-only array"),
        (np.broadcast_to(V, (3, 4)), "must be writeable, got a read-only array"),
        (self_overlapping(3, 4), "must not overlap itself, got strides that put two elements in one place"),
        (f32(4, 3), f"must have the shape of {first}, (3, 4), got (4, 3)"),
        (f32(1, 3, 4), f"must have the shape of {first}, (3, 4), got (1, 3, 4)"),
    ]:
        value_error(f"{name}: out {text}", lambda call=call, out=out: call(out))
    type_error(
        f"{name}: out must have the dtype of {first}, float32, got float64", lambda call=call: call(np.ones((3, 4)))
    )
    type_error(f"{name}: out {KIND} an object of type list", lambda call=call: call([0.0]))
ITSELF = "itself or not overlap it, got an overlapping view"
a, b = overlapping()
value_error(f"elu: out must be x {ITSELF}", lambda a=a, b=b: smelt.elu(a, out=b))
value_error(f"elu_backward: out must be grad_out {ITSELF}", lambda a=a, b=b: smelt.elu_backward(a, X, out=b))
value_error(f"elu_backward: out must be saved {ITSELF}", lambda a=a, b=b: smelt.elu_backward(X, a, out=b))
value_error(f"softmax: out must be x {ITSELF}", lambda a=a, b=b: smelt.softmax(a, out=b))
value_error(f"softmax_backward: out must be grad_out {ITSELF}", lambda a=a, b=b: smelt.softmax_backward(a, X, out=b))
value_error(f"softmax_backward: out must be y {ITSELF}", lambda a=a, b=b: smelt.softmax_backward(X, a, out=b))
value_error(f"batch_norm: out must be x {ITSELF}", lambda a=a, b=b: smelt.batch_norm(a, V, V, out=b))
value_error(
    "batch_norm: out must not overlap residual, got one that does",
    lambda a=a: smelt.batch_norm(X, V, V, residual=a, out=a),
)
SQUARE = f32(4, 4)
value_error(f"elu: out must be x {ITSELF}", lambda: smelt.elu(SQUARE, out=SQUARE.T))

# Losses

value_error(
    "cross_entropy: target must hold classes in [0, 4), got 4", lambda: smelt.cross_entropy(X, np.array([0, 4, 1]))
)
value_error(
    "cross_entropy: target must hold classes in [0, 4), got -1", lambda: smelt.cross_entropy(X, np.array([0, 3, -1]))
)
value_error(
    "cross_entropy: target must be class indices of shape (3,), got shape (2,)",
    lambda: smelt.cross_entropy(X, np.array([0, 1])),
)
value_error(
    "cross_entropy: target must be class indices of shape (3,), got shape (3, 1)",
    lambda: smelt.cross_entropy(X, np.array([[0], [1], [2]])),
)
value_error("cross_entropy: target must have the shape of logits, (3, 4), got (4,)", lambda: smelt.cross_entropy(X, V))
type_error(f"cross_entropy: target {KIND} an object of type list", lambda: smelt.cross_entropy(X, [0, 1, 2]))
type_error(f"cross_entropy: target {FLOAT} bool", lambda: smelt.cross_entropy(X, np.array([True, False, True])))
for smoothing in (-0.1, 1.1, np.nan):
    value_error(
        f"cross_entropy: label_smoothing must be a number in [0, 1], got {smoothing}",
        lambda smoothing=smoothing: smelt.cross_entropy(X, X, label_smoothing=smoothing),
    )
value_error(
    "cross_entropy: reduction must be 'none', 'mean' or 'sum', got 'max'",
    lambda: smelt.cross_entropy(X, X, reduction="max"),
)
value_error("mse_loss: reduction must be 'none', 'mean' or 'sum', got ''", lambda: smelt.mse_loss(X, X, reduction=""))
type_error("mse_loss: reduction must be a string, got None", lambda: smelt.mse_loss(X, X, reduction=None))

# Batch normalization and dense layers

for name, call in {
    "batch_norm": lambda **k: smelt.batch_norm(X, **{"running_mean": V, "running_var": f32(4), **k}),
    "batch_norm_forward": lambda **k: smelt.batch_norm_forward(
        X, **{"running_mean": f32(4), "running_var": f32(4), **k}
    ),
    "fold_batch_norm": lambda **k: smelt.fold_batch_norm(X, V, **{"running_mean": V, "running_var": f32(4), **k}),
}.items():
    first = "W" if name == "fold_batch_norm" else "x"
    for argument in ("running_mean", "running_var", "weight", "bias"):
        for given, text in [(f32(3), "(3,)"), (f32(4, 1), "(4, 1)"), (f32(), "()")]:
            message = f"{name}: {argument} must have shape (4,), got {text}"
            value_error(message, lambda call=call, argument=argument, given=given: call(**{argument: given}))
        message = f"{name}: {argument} must be float32 as {first} is, got float64"
        type_error(message, lambda call=call, argument=argument: call(**{argument: np.ones(4)}))
        type_error(f"{name}: {argument} {KIND} 3", lambda call=call, argument=argument: call(**{argument: 3}))
    for eps in (-1e-9, np.nan, np.inf):
        value_error(f"{name}: eps must be a finite number >= 0, got {eps}", lambda call=call, eps=eps: call(eps=eps))
    type_error(f"{name}: eps must be a number, got '1'", lambda call=call: call(eps="1"))
for name, call in {
    "batch_norm": smelt.batch_norm,
    "fold_batch_norm": lambda x, *v: smelt.fold_batch_norm(x, V, *v),
}.items():
    type_error(f"{name}: running_mean must be an array, got None", lambda call=call: call(X, None, V))
    type_error(f"{name}: running_var must be an array, got None", lambda call=call: call(X, V, None))


def training(x=X, **options):
    return smelt.batch_norm_forward(x, **{"running_mean": f32(4), "running_var": f32(4), **options})


HALF = X.astype(np.float16)
type_error(
    "batch_norm_forward: weight must be float16 or float32 as x is, got float64",
    lambda: smelt.batch_norm_forward(HALF, None, None, np.ones(4)),
)
for momentum in (-0.1, 1.1, np.nan):
    message = f"batch_norm_forward: momentum must be a number in [0, 1], got {momentum}"
    value_error(message, lambda momentum=momentum: training(momentum=momentum))
type_error(
    "batch_norm_forward: num_batches must be the number of batches seen before where momentum is None, got None",
    lambda: training(momentum=None),
)
value_error("batch_norm_forward: num_batches must be >= 0, got -1", lambda: training(momentum=None, num_batches=-1))
type_error(
    "batch_norm_forward: num_batches must be an integer, got 1.0", lambda: training(momentum=None, num_batches=1.0)
)
value_error("batch_norm_forward: order must be 'bn_act' or 'act_bn', got 'act'", lambda: training(order="act"))
type_error("batch_norm_forward: order must be a string, got None", lambda: training(order=None))
type_error("batch_norm_forward: unbiased must be True or False, got None", lambda: training(unbiased=None))
type_error("batch_norm_forward: frozen must be True or False, got 1", lambda: training(frozen=1))
for given, missing in [("running_mean", "running_var"), ("running_var", "running_mean")]:
    type_error(
        f"batch_norm_forward: {missing} must be given with the other running statistic, or both None, got None",
        lambda missing=missing: training(**{missing: None}),
    )
type_error(
    "batch_norm_forward: running_mean must be an array, got None",
    lambda: smelt.batch_norm_forward(X, None, None, frozen=True),
)
for argument in ("running_mean", "running_var"):
    value_error(
        f"batch_norm_forward: {argument} must be writeable, got a read-only array",
        lambda argument=argument: training(**{argument: read_only(4)}),
    )
value_error(
    "batch_norm_forward: running_mean must not overlap running_var, got one that does",
    lambda: smelt.batch_norm_forward(X, V, V),
)
value_error("batch_norm_forward: running_var must not overlap x, got one that does", lambda: training(running_var=X[1]))
value_error(
    "batch_norm_forward: running_mean must not overlap bias, got one that does",
    lambda: training(running_mean=V, bias=V),
)
value_error(
    "batch_norm_forward: x must have more than one value per channel in training, got shape (1, 4)",
    lambda: training(X[:1]),
)
for name, call in {
    "batch_norm_forward": training,
    "bias_act_forward": lambda **k: smelt.bias_act_forward(X, V, **k),
}.items():
    for given, text in [
        ("swoosh", "one of smelt.activations(), got 'swoosh'"),
        ("", "one of smelt.activations(), got ''"),
        ("prelu", "one of smelt.activations(), got 'prelu'"),
        (("elu_", {}), "one of smelt.activations(), got 'elu_'"),
    ]:
        value_error(f"{name}: activation must be {text}", lambda call=call, given=given: call(activation=given))
    for given, text in [
        (3, "3"),
        (smelt.elu, "an object of type builtin_function_or_method"),
        (("elu",), "an object of type tuple"),
        (["elu", {}], "an object of type list"),
        (("elu", 1.0), "an object of type tuple"),
    ]:
        message = f"{name}: activation must be a name, a pair (name, {{parameter: value}}) or None, got {text}"
        type_error(message, lambda call=call, given=given: call(activation=given))
    for given, error, text in [
        ({"beta": 1.0}, value_error, "activation: elu has no parameter 'beta'"),
        ({1: 1.0}, value_error, "activation: elu has no parameter 1"),
        ({"alpha": np.nan}, value_error, "activation: alpha must be a finite number >= 0, got nan"),
        ({"alpha": "1"}, type_error, "activation: alpha must be a number, got '1'"),
        ({"alpha": True}, type_error, "activation: alpha must be a number, got True"),
    ]:
        error(f"{name}: {text}", lambda call=call, given=given: call(activation=("elu", given)))
    value_error(
        f"{name}: activation: min_val must be at most max_val, got -1.0 > -2.0",
        lambda call=call: call(activation=("hardtanh", {"max_val": -2})),
    )
    value_error(f"{name}: residual must have the shape of x, (3, 4), got (4,)", lambda call=call: call(residual=V))
    type_error(
        f"{name}: residual must have the dtype of x, float32, got float64",
        lambda call=call: call(residual=np.ones((3, 4))),
    )
    for p in (-0.1, 1.1, np.nan):
        value_error(f"{name}: dropout must be a number in [0, 1], got {p}", lambda call=call, p=p: call(dropout=p))
    type_error(
        f"{name}: rng must be a Generator, an integer seed or None, got 1.0",
        lambda call=call: call(dropout=0.5, rng=1.0),
    )
value_error("bias_act_forward: bias must have shape (4,), got (3,)", lambda: smelt.bias_act_forward(X, f32(3)))
type_error(
    "bias_act_forward: bias must be float32 as x is, got float16",
    lambda: smelt.bias_act_forward(X, V.astype(np.float16)),
)

# Randomness

for name in ("dropout_forward", "alpha_dropout_forward"):
    f = getattr(smelt, name)
    for p in (-1e-9, 1.0000001, np.nan, np.inf):
        value_error(f"{name}: p must be a number in [0, 1], got {p}", lambda f=f, p=p: f(X, p))
    type_error(f"{name}: p must be a number, got None", lambda f=f: f(X, None))
    for rng, text in [
        (1.0, "1.0"),
        ("1", "'1'"),
        (True, "True"),
        (np.random.default_rng(0), "an object of type numpy.random._generator.Generator"),
    ]:
        type_error(
            f"{name}: rng must be a Generator, an integer seed or None, got {text}", lambda f=f, rng=rng: f(X, rng=rng)
        )
    for seed in (-1, 2**64):
        value_error(f"{name}: rng must be in [0, 2**64), got {seed}", lambda f=f, seed=seed: f(X, rng=seed))
for seed in (None, "1", 1.0, True):
    type_error(f"Generator: seed must be an integer, got {seed!r}", lambda seed=seed: smelt.Generator(seed))
for seed in (-1, 2**64):
    value_error(f"Generator: seed must be in [0, 2**64), got {seed}", lambda seed=seed: smelt.Generator(seed))

# Contexts

for name, wrong, text in [
    ("dropout", None, "None"),
    ("dropout", ALPHA, "an object of type smelt._core.DropoutContext"),
    ("alpha_dropout", DROPOUT, "an object of type smelt._core.DropoutContext"),
    ("rrelu", PRELU, "an object of type smelt._core.PReluContext"),
    ("prelu", RRELU, "an object of type smelt._core.RReluContext"),
    ("maxout", X, "an array of float32 with shape (3, 4)"),
    ("batch_norm", DENSE, "an object of type smelt._core.ChannelContext"),
    ("bias_act", NORM, "an object of type smelt._core.ChannelContext"),
    ("bias_act", (X, DENSE), "an object of type tuple"),
]:
    message = f"{name}_backward: ctx must be the context that {name}_forward returned, got {text}"
    type_error(message, lambda name=name, wrong=wrong: getattr(smelt, f"{name}_backward")(X, wrong))
for name, ctx in {
    "dropout": DROPOUT,
    "alpha_dropout": ALPHA,
    "rrelu": RRELU,
    "prelu": PRELU,
    "batch_norm": NORM,
    "bias_act": DENSE,
}.items():
    f = getattr(smelt, f"{name}_backward")
    value_error(
        f"{name}_backward: grad_out must have the shape of x, (3, 4), got (4, 3)",
        lambda f=f, ctx=ctx: f(f32(4, 3), ctx),
    )
    type_error(
        f"{name}_backward: grad_out must have the dtype of x, float32, got float16", lambda f=f, ctx=ctx: f(HALF, ctx)
    )
value_error(
    "maxout_backward: grad_out must have the shape of the forward's result, (3, 2), got (3, 4)",
    lambda: smelt.maxout_backward(X, MAXOUT),
)

# Threads

for n in (0, -1, 1025):
    value_error(f"set_num_threads: n must be in [1, 1024], got {n}", lambda n=n: smelt.set_num_threads(n))
for n in (1.0, True, None, "2"):
    type_error(f"set_num_threads: n must be an integer, got {n!r}", lambda n=n: smelt.set_num_threads(n))


@pytest.mark.parametrize(("error", "message", "call"), CASES.values(), ids=CASES)
def test_message(error, message, call):
    with pytest.raises(error, match=f"^{re.escape(message)}$"):
        call()


# Nothing has happened


BAD = {
    "dropout": {"dropout": 1.5},
    "rng": {"dropout": 0.5, "rng": -1},
    "activation": {"activation": "swoosh"},
    "parameter": {"activation": ("elu", {"alpha": -1})},
    "residual": {"residual": f32(3, 3)},
    "axis": {"axis": 5},
}


@pytest.mark.parametrize(
    "bad", [*BAD.values(), {"order": "x"}, {"eps": -1.0}, {"momentum": 2.0}, {"running_var": read_only(4)}], ids=str
)
def test_failed_training_changes_nothing(bad):
    x, mean, var = (
        np.random.default_rng(0).normal(size=(3, 40, 4)).astype(np.float32),
        np.full(4, 3, np.float32),
        f32(4),
    )
    generator = smelt.Generator(1)
    options = {"running_mean": mean, "running_var": var, "axis": 2, "dropout": 0.5, "rng": generator, **bad}
    before = x.copy()
    with pytest.raises((ValueError, TypeError)):
        smelt.batch_norm_forward(x, **options)
    assert generator.stream == 0
    assert (mean == 3).all()
    assert (var == 1).all()
    assert x.tobytes() == before.tobytes()


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD)
def test_failed_dense_layer_draws_nothing(bad):
    generator = smelt.Generator(1)
    with pytest.raises((ValueError, TypeError)):
        smelt.bias_act_forward(X, V, **{"dropout": 0.5, "rng": generator, **bad})
    assert generator.stream == 0


def test_failed_draws_draw_nothing():
    generator = smelt.Generator(1)
    for call in (
        lambda: smelt.dropout_forward([1.0], rng=generator),
        lambda: smelt.dropout_forward(X, 2.0, rng=generator),
        lambda: smelt.alpha_dropout_forward(X, -1.0, rng=generator),
        lambda: smelt.rrelu_forward(X, 1.0, 0.0, rng=generator),
        lambda: smelt.rrelu_forward(X, training=3, rng=generator),
    ):
        with pytest.raises((ValueError, TypeError)):
            call()
    assert generator.stream == 0


@pytest.mark.parametrize("call", [lambda out: smelt.elu(X, -1.0, out=out), lambda out: smelt.elu_backward(X, V, out=out), lambda out: smelt.softmax(X, axis=7, out=out), lambda out: smelt.batch_norm(X, V, V, eps=-1.0, out=out)])  # fmt: skip
def test_failed_call_writes_nothing(call):
    out = np.full((3, 4), 7, np.float32)
    with pytest.raises(ValueError, match="must"):
        call(out)
    assert (out == 7).all()


@pytest.mark.parametrize(
    ("state", "error", "message"),
    [
        ([1, 2], TypeError, "Generator.load_state_dict: state must be a dict, got an object of type list"),
        ({"seed": 1}, ValueError, "Generator.load_state_dict: state must have the keys seed and stream, got ['seed']"),
        ({"seed": 1, "stream": 0, "x": 0}, ValueError, "Generator.load_state_dict: state must have the keys seed and stream, got ['seed', 'stream', 'x']"),
        ({"seed": 1, "stream": -1}, ValueError, "Generator.load_state_dict: stream must be in [0, 2**64), got -1"),
        ({"seed": 1, "stream": 0.5}, TypeError, "Generator.load_state_dict: stream must be an integer, got 0.5"),
        ({"seed": None, "stream": 0}, TypeError, "Generator.load_state_dict: seed must be an integer, got None"),
    ],
)  # fmt: skip
def test_generator_state(state, error, message):
    generator = smelt.Generator(5)
    with pytest.raises(error, match=f"^{re.escape(message)}$"):
        generator.load_state_dict(state)
    assert generator.state_dict() == {"seed": 5, "stream": 0}


# What a context keeps is the caller's own: it may have changed by the time of the backward


def resized(a):
    a.resize((2, 2), refcheck=False)


def reshaped(a):
    a.shape = (a.size,)  # in place


def retyped(a):
    a.dtype = np.int32


WITH_ARRAYS = {
    "rrelu": (lambda x, v, r: smelt.rrelu_forward(x), ["x"]),
    "prelu": (lambda x, v, r: smelt.prelu_forward(x, v), ["x", "weight"]),
    "maxout": (lambda x, v, r: smelt.maxout_forward(x, 2), ["x"]),
    "bias_act": (lambda x, v, r: smelt.bias_act_forward(x, v, residual=r), ["x", "bias", "residual"]),
    "batch_norm": (lambda x, v, r: smelt.batch_norm_forward(x, None, None, v, residual=r), ["x", "weight", "residual"]),
}


@pytest.mark.parametrize(
    ("name", "changed"), [(name, kept) for name, (_, all_kept) in WITH_ARRAYS.items() for kept in all_kept]
)
@pytest.mark.parametrize("change", [resized, reshaped, retyped])
@pytest.mark.filterwarnings("ignore:Setting the (shape|dtype):DeprecationWarning")
def test_arrays_changed_before_the_backward(name, changed, change):
    arrays = {"x": f32(50, 40), "vector": f32(40), "residual": f32(50, 40)}
    y, ctx = WITH_ARRAYS[name][0](*arrays.values())
    array = arrays.get(changed, arrays["vector"])
    shape = array.shape
    change(array)
    if array.shape == shape and array.dtype == np.float32:
        return  # a vector keeps its shape when flattened
    with pytest.raises((ValueError, TypeError), match=rf"^{name}_backward: ctx\.{changed} must "):
        getattr(smelt, f"{name}_backward")(np.ones_like(y), ctx)
