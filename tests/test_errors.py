"""Bad input: one sentence that names function, argument, expected and given; and nothing has happened."""

import re

import numpy as np
import pytest

import gradfuse

nan, inf = np.nan, np.inf


def f32(*shape):
    return np.ones(shape, np.float32)


def read_only(*shape):
    a = f32(*shape)
    a.flags.writeable = False
    return a


X, V = f32(3, 4), f32(4)
F16, F64 = X.astype(np.float16), X.astype(np.float64)
A = f32(13)
A, B = A[:12].reshape(3, 4), A[1:].reshape(3, 4)  # they overlap and are not the same

DROPOUT, ALPHA = gradfuse.dropout_forward(X)[1], gradfuse.alpha_dropout_forward(X)[1]
RRELU, PRELU, MAXOUT = gradfuse.rrelu_forward(X)[1], gradfuse.prelu_forward(X, V)[1], gradfuse.maxout_forward(X, 2)[1]
DENSE, NORM = gradfuse.bias_act_forward(X, V)[1], gradfuse.batch_norm_forward(X, None, None)[1]

CASES = []


def type_error(message, f, /, *args, **kwargs):
    CASES.append(pytest.param(TypeError, message, f, args, kwargs, id=f"{len(CASES)}-{message[:60]}"))


def value_error(message, f, /, *args, **kwargs):
    CASES.append(pytest.param(ValueError, message, f, args, kwargs, id=f"{len(CASES)}-{message[:60]}"))


def described(given):
    """A wrong object as messages show it."""
    plain = given is None or isinstance(given, (str, bool, int, float, complex, np.generic))
    return repr(given) if plain else f"an object of type {type(given).__name__}"


# Arguments as such

type_error("elu: missing argument x", gradfuse.elu)
type_error("elu_backward: missing argument saved", gradfuse.elu_backward, X)
type_error("elu: takes at most 2 positional arguments, got 3", gradfuse.elu, X, 1.0, X)
type_error("elu: argument alpha given twice", gradfuse.elu, X, 1.0, alpha=1.0)
type_error("elu: unexpected argument 'b'; the signature is elu(x, alpha=1.0, *, out=None)", gradfuse.elu, X, b=1.0)
type_error("softmax: takes at most 1 positional arguments, got 2", gradfuse.softmax, X, 1)

# Kinds and dtypes

ARRAY = "must be an array (NumPy, or any object with __dlpack__), got"
FLOAT = "must be float16, bfloat16, float32 or float64, got"
for given in ([1.0, 2.0], None, 1.5, 3, "x", np.float32(2)):
    type_error(f"relu: x {ARRAY} {described(given)}", gradfuse.relu, given)
    type_error(f"softmax_backward: y {ARRAY} {described(given)}", gradfuse.softmax_backward, X, given)
LONG = np.dtype(np.longdouble).name
for dtype in ("int32", "int64", "uint8", "bool", "complex64", "object", "<U1", LONG, "|V2", "datetime64[s]"):
    type_error(f"relu: x {FLOAT} {dtype}", gradfuse.relu, np.zeros((3, 4), dtype))
    type_error(
        f"batch_norm_forward: x {FLOAT} {dtype}", gradfuse.batch_norm_forward, np.zeros((3, 4), dtype), None, None
    )
for dtype in (">f2", ">f4", ">f8"):
    message = "relu: x must be in the machine's byte order, got a swapped array"
    type_error(message, gradfuse.relu, np.zeros((3, 4), dtype))
value_error("relu: x must have at most 16 dimensions, got 17", gradfuse.relu, f32(*[1] * 17))
for f, argument, first in [
    (gradfuse.elu_backward, "saved", "grad_out"),
    (gradfuse.softmax_backward, "y", "grad_out"),
    (gradfuse.log_softmax_backward, "y", "grad_out"),
    (gradfuse.mse_loss, "target", "pred"),
    (gradfuse.gated, "gate", "a"),
    (gradfuse.cross_entropy, "target", "logits"),
]:
    name = f.__name__
    type_error(f"{name}: {argument} must have the dtype of {first}, float32, got float64", f, X, F64)
    type_error(f"{name}: {argument} must have the dtype of {first}, float16, got float32", f, F16, X)
    value_error(f"{name}: {argument} must have the shape of {first}, (3, 4), got (4, 3)", f, X, f32(4, 3))
    value_error(f"{name}: {argument} must have the shape of {first}, (3, 4), got (4,)", f, X, V)
type_error("prelu_forward: weight must have the dtype of x, float32, got float64", gradfuse.prelu_forward, X, F64[0])

for args, argument in [((X, F64, X), "a"), ((X, X, F64), "gate")]:
    message = f"gated_backward: {argument} must have the dtype of grad_out, float32, got float64"
    type_error(message, gradfuse.gated_backward, *args)

for f, args in [(gradfuse.gated, (X, X)), (gradfuse.gated_backward, (X, X, X)), (gradfuse.glu_forward, (X,))]:
    message = f"{f.__name__}: activation must be one of gradfuse.activations(), got 'swoosh'"
    value_error(message, f, *args, "swoosh")

# Shapes and axes

for given, text in [(f32(3), "(3,)"), (f32(), "()"), (f32(1, 4), "(1, 4)")]:
    message = f"prelu_forward: weight must have shape (1,) or (4,), the channels of x, got {text}"
    value_error(message, gradfuse.prelu_forward, X, given)
for given in (3, 0, -2):
    message = f"maxout_forward: num_pieces must be a positive divisor of the 4 channels of x, got {given}"
    value_error(message, gradfuse.maxout_forward, X, given)
type_error("maxout_forward: num_pieces must be an integer, got 2.0", gradfuse.maxout_forward, X, 2.0)
value_error("cross_entropy: axis must be an axis of an array of 1 dimensions, got 1", gradfuse.cross_entropy, V, V)
message = "cross_entropy: logits must have at least one class on its axis 1, got shape (3, 0)"
value_error(message, gradfuse.cross_entropy, f32(3, 0), V)
message = "glu_forward: x must have an even number of elements on axis 0, got shape (3, 4)"
value_error(message, gradfuse.glu_forward, X, axis=0)
for f, args in [
    (gradfuse.glu_forward, (X,)),
    (gradfuse.softmax, (X,)),
    (gradfuse.softmax_backward, (X, X)),
    (gradfuse.log_softmax, (X,)),
    (gradfuse.log_softmax_backward, (X, X)),
    (gradfuse.prelu_forward, (X, V)),
    (gradfuse.maxout_forward, (X, 2)),
    (gradfuse.batch_norm, (X, V, V)),
    (gradfuse.batch_norm_forward, (X, V, V)),
    (gradfuse.bias_act_forward, (X, V)),
    (gradfuse.fold_batch_norm, (X, V, V, V)),
]:
    for axis in (2, -3, 10**12):
        message = f"{f.__name__}: axis must be an axis of an array of 2 dimensions, got {axis}"
        value_error(message, f, *args, axis=axis)
    for axis in (True, 1.0, "1", None, (0, 1)):
        type_error(f"{f.__name__}: axis must be an integer, got {described(axis)}", f, *args, axis=axis)

# Hyper-parameters of activations

value_error("elu: alpha must be a finite number >= 0, got nan", gradfuse.elu, X, nan)
value_error("elu: alpha must be a finite number >= 0, got -1.0", gradfuse.elu, X, -1)
value_error("celu: alpha must be a finite number > 0, got 0.0", gradfuse.celu, X, 0)
value_error("silu: beta must be a finite number, got inf", gradfuse.silu, X, inf)
value_error("softplus_backward: threshold must be a finite number, got nan", gradfuse.softplus_backward, X, X, 1.0, nan)
value_error("hardtanh: min_val must be at most max_val, got 2.0 > 1.0", gradfuse.hardtanh, X, 2.0)
value_error("hardtanh_backward: min_val must be at most max_val, got 3.0 > 1.0", gradfuse.hardtanh_backward, X, X, 3)
for given in (None, "1", True, 1j, [1.0]):
    type_error(f"elu: alpha must be a number, got {described(given)}", gradfuse.elu, X, given)
for given in ("erf", None, 1):
    value_error(f"gelu: approximate must be 'none' or 'tanh', got {given!r}", gradfuse.gelu, X, given)
    value_error(
        f"gelu_backward: approximate must be 'none' or 'tanh', got {given!r}", gradfuse.gelu_backward, X, X, given
    )
value_error("rrelu_forward: lower must be at most upper, got 0.5 > 0.25", gradfuse.rrelu_forward, X, 0.5, 0.25)
value_error("rrelu_forward: upper must be a finite number, got nan", gradfuse.rrelu_forward, X, 0.5, nan)
type_error("rrelu_forward: training must be True or False, got 1", gradfuse.rrelu_forward, X, training=1)
value_error("saves: name must be one of gradfuse.activations(), got 'swoosh'", gradfuse.saves, "swoosh")
type_error("saves: name must be a name, got None", gradfuse.saves, None)

# Outputs

WINDOWS = np.lib.stride_tricks.as_strided(f32(7), (3, 4), (4, 4))
for f, args, first in [
    (gradfuse.elu, (X,), "x"),
    (gradfuse.gelu, (X,), "x"),
    (gradfuse.elu_backward, (X, X), "grad_out"),
    (gradfuse.softmax, (X,), "x"),
    (gradfuse.log_softmax_backward, (X, X), "grad_out"),
    (gradfuse.gated, (X, X), "a"),
    (gradfuse.batch_norm, (X, V, V), "x"),
]:
    for out, text in [
        (read_only(3, 4), "must be writeable, got a read-only array"),
        (np.broadcast_to(V, (3, 4)), "must be writeable, got a read-only array"),
        (WINDOWS, "must not overlap itself, got strides that put two elements in one place"),
        (f32(4, 3), f"must have the shape of {first}, (3, 4), got (4, 3)"),
        (f32(1, 3, 4), f"must have the shape of {first}, (3, 4), got (1, 3, 4)"),
    ]:
        value_error(f"{f.__name__}: out {text}", f, *args, out=out)
    type_error(f"{f.__name__}: out must have the dtype of {first}, float32, got float64", f, *args, out=F64.copy())
    type_error(f"{f.__name__}: out {ARRAY} an object of type list", f, *args, out=[0.0])
for f, args, argument in [
    (gradfuse.elu, (A,), "x"),
    (gradfuse.elu_backward, (A, X), "grad_out"),
    (gradfuse.elu_backward, (X, A), "saved"),
    (gradfuse.softmax, (A,), "x"),
    (gradfuse.softmax_backward, (A, X), "grad_out"),
    (gradfuse.softmax_backward, (X, A), "y"),
    (gradfuse.gated, (A, X), "a"),
    (gradfuse.gated, (X, A), "gate"),
    (gradfuse.batch_norm, (A, V, V), "x"),
]:
    message = f"{f.__name__}: out must be {argument} itself or not overlap it, got an overlapping view"
    value_error(message, f, *args, out=B)
SQUARE = f32(4, 4)
value_error("elu: out must be x itself or not overlap it, got an overlapping view", gradfuse.elu, SQUARE, out=SQUARE.T)
message = "batch_norm: out must not overlap residual, got one that does"
value_error(message, gradfuse.batch_norm, X, V, V, residual=A, out=A)

# Losses

for labels, given in [([0, 4, 1], 4), ([0, 3, -1], -1), ([-100, 0, 0], -100)]:
    message = f"cross_entropy: target must hold classes in [0, 4), got {given}"
    value_error(message, gradfuse.cross_entropy, X, np.array(labels))
for labels, text in [([0, 1], "(2,)"), ([[0], [1], [2]], "(3, 1)")]:
    message = f"cross_entropy: target must have the shape of logits without its classes, (3,), got {text}"
    value_error(message, gradfuse.cross_entropy, X, np.array(labels))
type_error(f"cross_entropy: target {ARRAY} an object of type list", gradfuse.cross_entropy, X, [0, 1, 2])
type_error(f"cross_entropy: target {FLOAT} bool", gradfuse.cross_entropy, X, np.array([True, False, True]))
for given in (-0.1, 1.1, nan):
    message = f"cross_entropy: label_smoothing must be a number in [0, 1], got {given}"
    value_error(message, gradfuse.cross_entropy, X, X, label_smoothing=given)
for f in (gradfuse.cross_entropy, gradfuse.mse_loss):
    message = f"{f.__name__}: reduction must be 'none', 'mean' or 'sum', got 'max'"
    value_error(message, f, X, X, reduction="max")
    type_error(f"{f.__name__}: reduction must be a string, got None", f, X, X, reduction=None)

# Batch normalization and dense layers

for f, args, first in [
    (gradfuse.batch_norm, (X,), "x"),
    (gradfuse.batch_norm_forward, (X,), "x"),
    (gradfuse.fold_batch_norm, (X, V), "W"),
]:
    name, good = f.__name__, {"running_mean": f32(4), "running_var": f32(4)}
    for argument in ("running_mean", "running_var", "weight", "bias"):
        for given, text in [(f32(3), "(3,)"), (f32(4, 1), "(4, 1)"), (f32(), "()")]:
            value_error(f"{name}: {argument} must have shape (4,), got {text}", f, *args, **good | {argument: given})
        message = f"{name}: {argument} must be float32 as {first} is, got float64"
        type_error(message, f, *args, **good | {argument: np.ones(4)})
        message = f"{name}: {argument} must be float16 or float32 as {first} is, got float64"
        type_error(message, f, F16, *args[1:], **good | {argument: np.ones(4)})
        type_error(f"{name}: {argument} {ARRAY} 3", f, *args, **good | {argument: 3})
    for eps in (-1e-9, nan, inf):
        value_error(f"{name}: eps must be a finite number >= 0, got {eps}", f, *args, **good, eps=eps)
    type_error(f"{name}: eps must be a number, got '1'", f, *args, **good, eps="1")
for f, args in [(gradfuse.batch_norm, (X,)), (gradfuse.fold_batch_norm, (X, V))]:
    type_error(f"{f.__name__}: running_mean must be an array, got None", f, *args, None, V)
    type_error(f"{f.__name__}: running_var must be an array, got None", f, *args, V, None)


def training(x=X, **options):
    return gradfuse.batch_norm_forward(x, **{"running_mean": f32(4), "running_var": f32(4), **options})


NAME = "batch_norm_forward"
for given in (-0.1, 1.1, nan):
    value_error(f"{NAME}: momentum must be a number in [0, 1], got {given}", training, momentum=given)
SEEN = "must be the number of batches seen before if momentum is None"
type_error(f"{NAME}: num_batches {SEEN}, got None", training, momentum=None)
value_error(f"{NAME}: num_batches must be >= 0, got -1", training, momentum=None, num_batches=-1)
type_error(f"{NAME}: num_batches must be an integer, got 1.0", training, momentum=None, num_batches=1.0)
value_error(f"{NAME}: order must be 'bn_act' or 'act_bn', got 'act'", training, order="act")
type_error(f"{NAME}: order must be a string, got None", training, order=None)
type_error(f"{NAME}: unbiased must be True or False, got None", training, unbiased=None)
type_error(f"{NAME}: frozen must be True or False, got 1", training, frozen=1)
BOTH = "must be given with the other running statistic, or both None, got None"
NEITHER = {"running_mean": None, "running_var": None}
type_error(f"{NAME}: running_mean must be an array, got None", training, **NEITHER, frozen=True)
for argument in ("running_mean", "running_var"):
    type_error(f"{NAME}: {argument} {BOTH}", training, **{argument: None})
    message = f"{NAME}: {argument} must be writeable, got a read-only array"
    value_error(message, training, **{argument: read_only(4)})
    for other, array in {"x": X, "weight": X[0], "bias": X[0], "residual": X}.items():
        message = f"{NAME}: {argument} must not overlap {other}, got one that does"
        value_error(message, training, **{argument: X[0], "x": X.copy()} | {other: array})
value_error(
    f"{NAME}: running_mean must not overlap running_var, got one that does", training, running_mean=V, running_var=V
)
FEW = "must have more than one value per channel in training"
value_error(f"{NAME}: x {FEW}, got shape (1, 4)", training, X[:1])
value_error(f"{NAME}: x {FEW}, got shape (4,)", training, V, axis=0)

for f, args in [(training, ()), (gradfuse.bias_act_forward, (X, V)), (gradfuse.batch_norm, (X, V, V))]:
    name = NAME if f is training else f.__name__
    for given in ("swoosh", "", "prelu", "swish"):
        message = f"{name}: activation must be one of gradfuse.activations(), got '{given}'"
        value_error(message, f, *args, activation=given)
        value_error(message, f, *args, activation=(given, {}))
    for given in (3, gradfuse.elu, ("elu",), ["elu", {}], ("elu", 1.0)):
        message = (
            f"{name}: activation must be a name, a pair (name, {{parameter: value}}) or None, got {described(given)}"
        )
        type_error(message, f, *args, activation=given)
    value_error(f"{name}: activation: elu has no parameter 'beta'", f, *args, activation=("elu", {"beta": 1.0}))
    value_error(f"{name}: activation: elu has no parameter 1", f, *args, activation=("elu", {1: 1.0}))
    for value in (nan, -1.0):
        message = f"{name}: activation: alpha must be a finite number >= 0, got {value}"
        value_error(message, f, *args, activation=("elu", {"alpha": value}))
    for value in ("1", True, None):
        message = f"{name}: activation: alpha must be a number, got {value!r}"
        type_error(message, f, *args, activation=("elu", {"alpha": value}))
    message = f"{name}: activation: min_val must be at most max_val, got -1.0 > -2.0"
    value_error(message, f, *args, activation=("hardtanh", {"max_val": -2}))
    value_error(f"{name}: residual must have the shape of x, (3, 4), got (4,)", f, *args, residual=V)
    type_error(f"{name}: residual must have the dtype of x, float32, got float64", f, *args, residual=F64)
value_error("bias_act_forward: bias must have shape (4,), got (3,)", gradfuse.bias_act_forward, X, f32(3))
type_error("bias_act_forward: bias must be float32 as x is, got float16", gradfuse.bias_act_forward, X, F16[0])

# Randomness

for f, name, p in [
    (gradfuse.dropout_forward, "dropout_forward", "p"),
    (gradfuse.alpha_dropout_forward, "alpha_dropout_forward", "p"),
    (gradfuse.bias_act_forward, "bias_act_forward", "dropout"),
    (training, NAME, "dropout"),
]:
    for given in (-1e-9, 1.0000001, nan, inf):
        value_error(f"{name}: {p} must be a number in [0, 1], got {given}", f, X, **{p: given})
    type_error(f"{name}: {p} must be a number, got None", f, X, **{p: None})
    for rng in (1.0, "1", True):
        message = f"{name}: rng must be a Generator, an integer seed or None, got {described(rng)}"
        type_error(message, f, X, **{p: 0.5}, rng=rng)
    for seed in (-1, 2**64):
        value_error(f"{name}: rng must be in [0, 2**64), got {seed}", f, X, **{p: 0.5}, rng=seed)
for seed in (None, "1", 1.0, True):
    type_error(f"Generator: seed must be an integer, got {seed!r}", gradfuse.Generator, seed)
for seed in (-1, 2**64):
    value_error(f"Generator: seed must be in [0, 2**64), got {seed}", gradfuse.Generator, seed)

# Contexts

for name, wrong, text in [
    ("dropout", None, "None"),
    ("dropout", ALPHA, "an object of type gradfuse._core.DropoutContext"),
    ("alpha_dropout", DROPOUT, "an object of type gradfuse._core.DropoutContext"),
    ("rrelu", PRELU, "an object of type gradfuse._core.PReluContext"),
    ("prelu", RRELU, "an object of type gradfuse._core.RReluContext"),
    ("glu", MAXOUT, "an object of type gradfuse._core.MaxoutContext"),
    ("maxout", X, "an array of float32 with shape (3, 4)"),
    ("batch_norm", DENSE, "an object of type gradfuse._core.ChannelContext"),
    ("bias_act", NORM, "an object of type gradfuse._core.ChannelContext"),
    ("bias_act", (X, DENSE), "an object of type tuple"),
]:
    message = f"{name}_backward: ctx must be the context that {name}_forward returned, got {text}"
    type_error(message, getattr(gradfuse, f"{name}_backward"), X, wrong)
for f, ctx in [
    (gradfuse.dropout_backward, DROPOUT),
    (gradfuse.alpha_dropout_backward, ALPHA),
    (gradfuse.rrelu_backward, RRELU),
    (gradfuse.prelu_backward, PRELU),
    (gradfuse.batch_norm_backward, NORM),
    (gradfuse.bias_act_backward, DENSE),
]:
    value_error(f"{f.__name__}: grad_out must have the shape of x, (3, 4), got (4, 3)", f, f32(4, 3), ctx)
    type_error(f"{f.__name__}: grad_out must have the dtype of x, float32, got float16", f, F16, ctx)
message = "maxout_backward: grad_out must have the shape of the forward's result, (3, 2), got (3, 4)"
value_error(message, gradfuse.maxout_backward, X, MAXOUT)
message = "glu_backward: grad_out must have the shape of the forward's result, (3, 2), got (3, 4)"
value_error(message, gradfuse.glu_backward, X, gradfuse.glu_forward(X)[1])

# Threads

for n in (0, -1, 1025):
    value_error(f"set_num_threads: n must be in [1, 1024], got {n}", gradfuse.set_num_threads, n)
for n in (1.0, True, None, "2"):
    type_error(f"set_num_threads: n must be an integer, got {n!r}", gradfuse.set_num_threads, n)


@pytest.mark.parametrize(("error", "message", "f", "args", "kwargs"), CASES)
def test_message(error, message, f, args, kwargs):
    with pytest.raises(error, match=f"^{re.escape(message)}$"):
        f(*args, **kwargs)


@pytest.mark.parametrize(
    ("state", "error", "message"),
    [
        ([1, 2], TypeError, "state must be a dict, got an object of type list"),
        ({"seed": 1}, ValueError, "state must have the keys seed and stream, got ['seed']"),
        ({"seed": 1, "s": 0}, ValueError, "state must have the keys seed and stream, got ['seed', 's']"),
        ({"seed": 1, "stream": -1}, ValueError, "stream must be in [0, 2**64), got -1"),
        ({"seed": 1, "stream": 0.5}, TypeError, "stream must be an integer, got 0.5"),
        ({"seed": None, "stream": 0}, TypeError, "seed must be an integer, got None"),
    ],
)
def test_generator_state(state, error, message):
    generator = gradfuse.Generator(5)
    with pytest.raises(error, match=f"^{re.escape('Generator.load_state_dict: ' + message)}$"):
        generator.load_state_dict(state)
    assert generator.state_dict() == {"seed": 5, "stream": 0}


# Nothing has happened

BAD_LAYER = {
    "dropout": {"dropout": 1.5},
    "rng": {"rng": -1},
    "activation": {"activation": "swoosh"},
    "parameter": {"activation": ("elu", {"alpha": -1})},
    "residual": {"residual": f32(3, 3)},
    "axis": {"axis": 5},
}
BAD_TRAINING = BAD_LAYER | {
    "order": {"order": "x"},
    "eps": {"eps": -1.0},
    "momentum": {"momentum": 2.0},
    "running_mean": {"running_mean": read_only(4)},
    "running_var": {"running_var": read_only(4)},
}


@pytest.mark.parametrize("bad", BAD_TRAINING.values(), ids=BAD_TRAINING)
def test_failed_training_changes_nothing(bad):
    x, mean, var = np.random.default_rng(0).normal(size=(3, 40, 4)).astype(np.float32), 3 * V, 2 * V
    generator, before = gradfuse.Generator(1), x.copy()
    options = {"running_mean": mean, "running_var": var, "axis": 2, "dropout": 0.5, "rng": generator, **bad}
    with pytest.raises((ValueError, TypeError)):
        gradfuse.batch_norm_forward(x, **options)
    assert generator.stream == 0
    assert (mean == 3).all()
    assert (var == 2).all()
    assert x.tobytes() == before.tobytes()


@pytest.mark.parametrize("bad", BAD_LAYER.values(), ids=BAD_LAYER)
def test_failed_dense_layer_draws_nothing(bad):
    generator = gradfuse.Generator(1)
    with pytest.raises((ValueError, TypeError)):
        gradfuse.bias_act_forward(X, V, **{"dropout": 0.5, "rng": generator, **bad})
    assert generator.stream == 0


@pytest.mark.parametrize(
    ("f", "args"),
    [
        (gradfuse.dropout_forward, ([1.0],)),
        (gradfuse.dropout_forward, (X, 2.0)),
        (gradfuse.alpha_dropout_forward, (X, -1.0)),
        (gradfuse.rrelu_forward, (X, 1.0, 0.0)),
    ],
)
def test_failed_draws_draw_nothing(f, args):
    generator = gradfuse.Generator(1)
    with pytest.raises((ValueError, TypeError)):
        f(*args, rng=generator)
    assert generator.stream == 0


@pytest.mark.parametrize(
    ("f", "args", "kwargs"),
    [
        (gradfuse.elu, (X, -1.0), {}),
        (gradfuse.elu_backward, (X, V), {}),
        (gradfuse.gated, (X, X), {"activation": "swoosh"}),
        (gradfuse.softmax, (X,), {"axis": 7}),
        (gradfuse.softmax_backward, (X, F64), {}),
        (gradfuse.batch_norm, (X, V, V), {"eps": -1.0}),
    ],
)
def test_failed_call_writes_nothing(f, args, kwargs):
    out = np.full((3, 4), 7, np.float32)
    with pytest.raises((ValueError, TypeError)):
        f(*args, **kwargs, out=out)
    assert (out == 7).all()


# What a context keeps is the caller's own: by the time of the backward it may have changed


def resized(a):
    a.resize((2, 2), refcheck=False)


def reshaped(a):
    a.shape = (2, a.size // 2)


def retyped(a):
    a.dtype = np.int32


KEPT = {
    "rrelu": (lambda x, v, r: gradfuse.rrelu_forward(x), ["x"]),
    "prelu": (lambda x, v, r: gradfuse.prelu_forward(x, v), ["x", "weight"]),
    "glu": (lambda x, v, r: gradfuse.glu_forward(x), ["x"]),
    "maxout": (lambda x, v, r: gradfuse.maxout_forward(x, 2), ["x"]),
    "bias_act": (lambda x, v, r: gradfuse.bias_act_forward(x, v, residual=r), ["x", "bias", "residual"]),
    "batch_norm": (
        lambda x, v, r: gradfuse.batch_norm_forward(x, None, None, v, residual=r),
        ["x", "weight", "residual"],
    ),
}


@pytest.mark.parametrize(("name", "kept"), [(name, kept) for name, (_, all_kept) in KEPT.items() for kept in all_kept])
@pytest.mark.parametrize("change", [resized, reshaped, retyped])
@pytest.mark.filterwarnings("ignore:Setting the (shape|dtype):DeprecationWarning")
def test_arrays_changed_before_the_backward(name, kept, change):
    x, vector, residual = f32(50, 40), f32(40), f32(50, 40)
    y, ctx = KEPT[name][0](x, vector, residual)
    change({"x": x, "residual": residual}.get(kept, vector))
    with pytest.raises((ValueError, TypeError), match=rf"^{name}_backward: ctx\.{kept} must "):
        getattr(gradfuse, f"{name}_backward")(np.ones_like(y), ctx)
