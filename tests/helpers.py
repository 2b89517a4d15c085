"""What the tests of the functions share: devices, memory layouts, and every function behind one form of call."""

import inspect
from functools import partial

import ml_dtypes
import numpy as np

import smelt
import smelt.reference as ref
from smelt.reference._float64 import narrow

DTYPES = ["float16", "bfloat16", "float32", "float64"]
BFLOAT16 = np.dtype(ml_dtypes.bfloat16)  # its import makes NumPy know the name


def cast(values, dtype):
    """`values` rounded once to dtype, overflow in silence."""
    return narrow(np.asarray(values, np.float64), dtype)


def assert_identical(actual, expected):
    """The same dtype, shape and bits."""
    assert (actual.dtype, actual.shape) == (expected.dtype, expected.shape)
    assert actual.tobytes() == expected.tobytes()


def assert_writes(call, out, expected):
    """That call() returns `out` with the bits of `expected`, and changes nothing around it in the memory it views."""
    root = out
    while isinstance(root.base, np.ndarray):
        root = root.base
    before, original = root.tobytes(), out.copy()
    assert call() is out
    assert_identical(np.ascontiguousarray(out), expected)
    out[...] = original
    assert root.tobytes() == before


# Devices. The functions are called with NumPy arrays and answer with them; what another device needs is in these three.


DEVICES = ["cpu"]


def to_device(a, device):
    assert device == "cpu"
    return a


def to_numpy(a):
    return a


class Kernels:
    """smelt on a device, watched: inputs stay unchanged, results are C-contiguous, in memory that was poisoned."""

    def __init__(self, device):
        self.device = device

    def __getattr__(self, name):
        return partial(self._call, getattr(smelt, name))

    def _call(self, function, *args, **kwargs):
        arguments = inspect.signature(function).bind(*args, **kwargs).arguments
        arrays = {name: a for name, a in arguments.items() if isinstance(a, np.ndarray)}
        updates = function is smelt.batch_norm_forward and not arguments.get("frozen")
        written = {"out", "running_mean", "running_var"} if updates else {"out"}
        outputs = [a for name, a in arrays.items() if name in written]
        inputs = [a for a in arrays.values() if not any(np.shares_memory(a, out) for out in outputs)]
        before = [a.copy() for a in inputs]
        moved = {id(a): to_device(a, self.device) for a in arrays.values()}
        for a in inputs:
            np.full(a.nbytes, 0xFF, np.uint8)  # NaN, and free again
        result = function(*(moved.get(id(a), a) for a in args), **{k: moved.get(id(a), a) for k, a in kwargs.items()})
        for a, unchanged in zip(inputs, before, strict=True):
            assert to_numpy(moved[id(a)]).tobytes() == unchanged.tobytes()
        for a in outputs:
            if moved[id(a)] is not a:
                a[...] = to_numpy(moved[id(a)])
        if isinstance(arguments.get("out"), np.ndarray):
            assert result is moved[id(arguments["out"])]
            return arguments["out"]
        return tuple(map(self._home, result)) if isinstance(result, tuple) else self._home(result)

    @staticmethod
    def _home(result):
        home = to_numpy(result)
        assert not isinstance(home, np.ndarray) or home.flags.c_contiguous
        return home


class Exact:
    """smelt.reference on its arguments in float64: nothing is rounded at the end."""

    def __getattr__(self, name):
        function = getattr(ref, name)
        return lambda *args, **kwargs: function(*map(wide, args), **{k: wide(a) for k, a in kwargs.items()})


@np.errstate(all="ignore")
def wide(a):
    return a.astype(np.float64) if isinstance(a, np.ndarray) and a.dtype.kind in "fV" else a


exact = Exact()


# Layouts: the same values in other memory. What lies between them is NaN.


def contiguous(a):
    return a.copy()


def strided(a):
    if a.ndim == 0:
        return a.copy()
    base = np.full((*a.shape[:-1], 3 * a.shape[-1] + 1), np.nan, a.dtype)
    view = base[..., 1::3]
    view[...] = a
    return view


def reversed_(a):
    backwards = (slice(None, None, -1),) * a.ndim + (...,)
    return a[backwards].copy()[backwards]


def transposed(a):
    return a.T.copy().T


def misaligned(a):
    view = np.ndarray(a.shape, a.dtype, np.zeros(a.nbytes + 1, np.uint8), offset=1)
    view[...] = a
    return view


def padded(a):
    """Rows with room between them, as a slice of a wider matrix."""
    base = np.full([n + 2 for n in a.shape], np.nan, a.dtype)
    view = base[(slice(1, -1),) * a.ndim + (...,)]
    view[...] = a
    return view


LAYOUTS = {f.__name__.rstrip("_"): f for f in (contiguous, strided, reversed_, transposed, misaligned, padded)}


# Every function that takes arrays, as operation(smelt or the like, x, g) -> arrays. x and g are alike, of two
# dimensions or more, and have an even number of channels on axis 1.


OPERATIONS = {}


def operation(f):
    OPERATIONS[f.__name__] = f
    return f


def activation(name, s, x, g):
    y = getattr(s, name)(x)
    return y, getattr(s, f"{name}_backward")(g, x if smelt.saves(name) == "x" else y)


for name in smelt.activations():
    OPERATIONS[name] = partial(activation, name)


@operation
def swish(s, x, g):
    return s.swish(x), s.swish_backward(g, x)


@operation
def gelu_by_name(s, x, g):
    return s.gelu(x, "tanh"), s.gelu_backward(g, x, "tanh")


@operation
def prelu(s, x, g):
    shared = s.prelu_forward(x, x[0].reshape(-1)[:1])
    y, ctx = s.prelu_forward(x, _channels(x))
    return (y, shared[0], *s.prelu_backward(g, ctx), *s.prelu_backward(g, shared[1]))


@operation
def rrelu(s, x, g):
    y, ctx = s.rrelu_forward(x, rng=5)
    return y, s.rrelu_backward(g, ctx)


@operation
def softmax(s, x, g):
    y = s.softmax(x, axis=1)
    return y, s.softmax_backward(g, y, axis=1)


@operation
def log_softmax(s, x, g):
    y = s.log_softmax(x, axis=1)
    return y, s.log_softmax_backward(g, y, axis=1)


@operation
def cross_entropy(s, x, g):
    x, g = (a.reshape(a.shape[0], -1) if a.ndim > 2 else a for a in (x, g))
    labels = np.arange(x.shape[0]) % x.shape[1]
    return (*s.cross_entropy(x, labels, label_smoothing=0.1), *s.cross_entropy(x, abs(g), reduction="none"))


@operation
def mse_loss(s, x, g):
    return (*s.mse_loss(x, g), *s.mse_loss(x, g, reduction="none"))


@operation
def maxout(s, x, g):
    y, ctx = s.maxout_forward(x, 2)
    return y, s.maxout_backward(g[:, ::2], ctx)


@operation
def dropout(s, x, g):
    y, ctx = s.dropout_forward(x, 0.3, rng=2**40 + 7)
    return y, s.dropout_backward(g, ctx)


@operation
def alpha_dropout(s, x, g):
    y, ctx = s.alpha_dropout_forward(x, 0.3, rng=7)
    return y, s.alpha_dropout_backward(g, ctx)


@operation
def batch_norm(s, x, g):
    return (
        s.batch_norm(x, _channels(x), abs(_channels(g)) + 1, _channels(g), _channels(x), activation="elu", residual=g),
    )


@operation
def batch_norm_training(s, x, g):
    mean, var = _channels(x) * 0, _channels(x) * 0 + 1
    y, ctx = s.batch_norm_forward(
        x, mean, var, _channels(g), _channels(x), activation="elu", dropout=0.2, residual=g, rng=3
    )
    return (y, *s.batch_norm_backward(g, ctx), mean, var)


@operation
def batch_norm_after(s, x, g):
    y, ctx = s.batch_norm_forward(x, None, None, activation="mish", order="act_bn")
    return y, s.batch_norm_backward(g, ctx)[0]


@operation
def bias_act(s, x, g):
    y, ctx = s.bias_act_forward(x, _channels(g), "gelu", 0.1, g, axis=1, rng=3)
    return (y, *s.bias_act_backward(g, ctx))


@operation
def fold_batch_norm(s, x, g):
    return s.fold_batch_norm(x, _channels(g), _channels(x), abs(_channels(g)) + 1, _channels(x), axis=1)


def _channels(a):
    """One value per channel."""
    a = a[0]
    while a.ndim > 1:
        a = a[:, 0]
    return a
