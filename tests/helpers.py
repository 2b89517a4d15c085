"""What the tests of the functions share: devices, memory layouts, and every function behind one form of call."""

import inspect
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import ml_dtypes
import numpy as np

import gradfuse
import gradfuse.reference as ref
from gradfuse import _core
from gradfuse.reference._float64 import narrow

DTYPES = ["float16", "bfloat16", "float32", "float64"]
BFLOAT16 = np.dtype(ml_dtypes.bfloat16)  # its import makes NumPy know the name


def cast(values, dtype):
    """`values` rounded once to dtype, overflow in silence."""
    return narrow(np.asarray(values, np.float64), dtype)


def python(*arguments, **environment):
    """A fresh interpreter that finds gradfuse and the tests' helpers as this one does."""
    here = Path(__file__).parent
    path = os.pathsep.join([str(Path(gradfuse.__file__).parent.parent), str(here)])
    environment = {**os.environ, "PYTHONPATH": path, **environment}
    return subprocess.run(
        [sys.executable, *arguments], env=environment, capture_output=True, text=True, timeout=300, cwd=here
    )


def assert_identical(actual, expected):
    """The same dtype, shape and bits."""
    assert (actual.dtype, actual.shape) == (expected.dtype, expected.shape)
    assert actual.tobytes() == expected.tobytes()


def assert_writes(call, out, expected):
    """That call() returns `out` with the bits of `expected`, and changes nothing around it in the memory it views."""
    root = root_of(out)
    before, original = root.tobytes(), out.copy()
    assert call() is out
    assert_identical(np.ascontiguousarray(out), expected)
    out[...] = original
    assert root.tobytes() == before


# Devices. The functions are called with NumPy arrays and answer with them; what another device needs is in these.


def _devices():
    """Those of this build, on this machine."""
    if "emulated" in _core.build_info()["cuda"]:
        sys.path.insert(0, str(Path(__file__).parent / "emulator"))  # its CuPy
        return ["cpu", "cuda-emulated"]
    return ["cpu"] + ["cuda"] * gradfuse.cuda.is_available()


DEVICES = _devices()


def root_of(a):
    while isinstance(a.base, np.ndarray):
        a = a.base
    return a


def memory_of(a):
    """All bytes of the memory that `a` views, as they lie there."""
    root = root_of(a)
    bytes_ = root.ravel(order="K").view(np.uint8)
    assert root.size == 0 or np.shares_memory(bytes_, root)
    return bytes_


class Copies:
    """Arrays on a device, in the layouts they have here: of each memory that they view there is one copy."""

    def __init__(self, device):
        self._device = device
        self._copies = {}  # by address: of the memory here, and there

    def to_device(self, a):
        if self._device == "cpu":
            return a
        import cupy

        here = memory_of(a)
        _, there = self._copies.setdefault(
            address(here), (here, cupy.asarray(here if here.size else np.zeros(1, "u1")))
        )
        return cupy.ndarray(a.shape, a.dtype, there.data + (address(a) - address(here) if a.size else 0), a.strides)

    def to_host(self):
        """Brings home whatever has changed, around the arrays too."""
        for here, there in self._copies.values():
            now = there.get()[: here.size]
            if (now != here).any():
                here[...] = now


def address(a):
    return a.__array_interface__["data"][0]


def to_device(a, device):
    """`a` on the device, in the same layout."""
    return Copies(device).to_device(a)


def to_numpy(a):
    """An array of the device as it lies there: its bytes, for CuPy's kernels fault on misaligned elements."""
    if type(a).__module__ != "cupy":
        return a
    if a.size == 0:
        return np.empty(a.shape, a.dtype)
    import cupy

    reach = [(n - 1) * step for n, step in zip(a.shape, a.strides, strict=True)]
    low, high = sum(r for r in reach if r < 0), sum(r for r in reach if r > 0)
    bytes_ = cupy.ndarray((high - low + a.itemsize,), np.uint8, a.data + low).get()
    return np.ndarray(a.shape, a.dtype, bytes_, -low, a.strides)


def fault():
    """Why this process can no longer use its CUDA device; empty where it can, or has none."""
    if len(DEVICES) > 1:
        import cupy

        try:
            cupy.cuda.Device().synchronize()
        except RuntimeError as error:
            return str(error)
    return ""


class DeviceOptimizer:
    """One of gradfuse's optimizers on a device, as tests that know of NumPy arrays alone see it."""

    def __init__(self, name, device, params, **options):
        self._arrays = []  # of the test, and on the device
        self._device, self._copies = device, Copies(device)
        groups = list(params)
        if groups and isinstance(groups[0], dict):
            groups = [{**group, "params": self._moved(group["params"])} for group in groups]
        else:
            groups = self._moved(groups)
        self._optimizer = COMPILED[name](groups, **options)
        self.params = [a for a, _ in self._arrays]

    def _moved(self, arrays):
        arrays = [arrays] if isinstance(arrays, np.ndarray) else arrays
        moved = [self._copies.to_device(a) for a in arrays]
        self._arrays += zip(arrays, moved, strict=True)
        return moved

    def step(self, grads, **options):
        known = {id(a): b for a, b in self._arrays}
        grads = [known[id(g)] if id(g) in known else g if g is None else to_device(g, self._device) for g in grads]
        try:
            self._optimizer.step(grads, **options)
        finally:
            self._copies.to_host()

    @property
    def last_grad_norm(self):
        norm = self._optimizer.last_grad_norm
        return None if norm is None else float(to_numpy(norm))

    @property
    def state(self):
        return [{slot: to_numpy(a) for slot, a in s.items()} for s in self._optimizer.state]

    def state_dict(self):
        state = self._optimizer.state_dict()
        return {**state, "state": [{slot: to_numpy(a) for slot, a in s.items()} for s in state["state"]]}

    def __getattr__(self, name):
        return getattr(self._optimizer, name)

    def __setattr__(self, name, value):
        own = name in ("params", "_arrays", "_device", "_copies", "_optimizer")
        object.__setattr__(self if own else self._optimizer, name, value)


COMPILED = {name: getattr(gradfuse.optim, name) for name in gradfuse.optim.__all__ if name != "Optimizer"}


def in_place(function, device):
    """A function that changes a list of arrays, or one, for NumPy arrays."""

    def call(arrays, *args, **kwargs):
        many, copies = isinstance(arrays, (list, tuple)), Copies(device)
        moved = [copies.to_device(a) if isinstance(a, np.ndarray) else a for a in (arrays if many else [arrays])]
        result = function(type(arrays)(moved) if many else moved[0], *args, **kwargs)
        copies.to_host()
        if result is None or isinstance(result, (float, list)):
            return result
        return to_numpy(result).tolist()

    return call


def on_device(device, monkeypatch):
    """Makes gradfuse's optimizers and clipping functions work on a device, on NumPy arrays as before."""
    if device == "cpu":
        return
    for name in COMPILED:
        monkeypatch.setattr(gradfuse.optim, name, partial(DeviceOptimizer, name, device))
    for name in ("clip_grad_norm_", "clip_grad_value_", "max_norm_"):
        monkeypatch.setattr(gradfuse, name, in_place(getattr(gradfuse, name), device))


class Kernels:
    """gradfuse on a device, watched: inputs stay unchanged, results are C-contiguous, in memory that was poisoned."""

    def __init__(self, device):
        self.device = device

    def __getattr__(self, name):
        return partial(self._call, getattr(gradfuse, name))

    def _call(self, function, *args, **kwargs):
        arguments = inspect.signature(function).bind(*args, **kwargs).arguments
        arrays = {name: a for name, a in arguments.items() if isinstance(a, np.ndarray)}
        if isinstance(moments := arguments.get("moments"), list):
            arrays |= {f"moments[{i}]": a for i, a in enumerate(moments)}
        updates = function.__name__ in ("batch_norm_forward", "batch_norm_apply") and not arguments.get("frozen")
        written = {"out", "running_mean", "running_var"} if updates else {"out"}
        outputs = [a for name, a in arrays.items() if name in written]
        inputs = [a for a in arrays.values() if not any(np.shares_memory(a, out) for out in outputs)]
        before = [a.copy() for a in inputs]
        copies = Copies(self.device)
        moved = {id(a): copies.to_device(a) for a in arrays.values()}
        for a in inputs:
            np.full(a.nbytes, 0xFF, np.uint8)  # NaN, and free again

        def there(a):
            return list(map(there, a)) if isinstance(a, list) else moved.get(id(a), a)

        result = function(*map(there, args), **{k: there(a) for k, a in kwargs.items()})
        copies.to_host()
        for a, unchanged in zip(inputs, before, strict=True):
            assert a.tobytes() == unchanged.tobytes()
        if isinstance(arguments.get("out"), np.ndarray):
            y, *others = result if isinstance(result, tuple) else (result,)
            assert y is moved[id(arguments["out"])]
            return (arguments["out"], *map(self._home, others)) if others else arguments["out"]
        return tuple(map(self._home, result)) if isinstance(result, tuple) else self._home(result)

    @staticmethod
    def _home(result):
        home = to_numpy(result)
        assert not isinstance(home, np.ndarray) or home.flags.c_contiguous
        return home


class Exact:
    """gradfuse.reference on its arguments in float64: nothing is rounded at the end."""

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


# Off-default values by the parameter's name; any other parameter takes 1.3 times its default. beta and threshold are so
# simple that both sides take the same branch, and so low that the branches differ.
OFF_DEFAULT = {"beta": 0.5, "threshold": 2.0, "min_val": -0.6, "max_val": 1.7}


def off_default(parameters):
    """Parameters of a formula, from their defaults."""
    return {name: OFF_DEFAULT.get(name, 1.3 * value or 0.3) for name, value in parameters.items()}


# Every function that takes arrays, as operation(gradfuse or the like, x, g) -> arrays. x and g are alike, of two
# dimensions or more, and have an even number of channels on axis 1.


OPERATIONS = {}


def operation(f):
    OPERATIONS[f.__name__] = f
    return f


def activation(name, s, x, g):
    y = getattr(s, name)(x)
    return y, getattr(s, f"{name}_backward")(g, x if gradfuse.saves(name) == "x" else y)


for name in gradfuse.activations():
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


def row_operation(name, s, x, g):
    y = getattr(s, name)(x, axis=1)
    saved = x if _core.row_info(name)["saves"] == "x" else y
    return y, getattr(s, f"{name}_backward")(g, saved, axis=1)


for name in _core.row_operations():
    OPERATIONS[name] = partial(row_operation, name)


@operation
def cross_entropy(s, x, g):
    x, g = (a.reshape(a.shape[0], -1) if a.ndim > 2 else a for a in (x, g))
    labels = np.arange(x.shape[0]) % x.shape[1]
    others = np.arange(x.shape[1]) % x.shape[0]
    options = {"weight": abs(_channels(g)), "z_loss": 0.1}
    return (
        *s.cross_entropy(x, labels, label_smoothing=0.1),
        *s.cross_entropy(x, abs(g), reduction="none"),
        *s.cross_entropy(x, labels, **options, ignore_index=1, label_smoothing=0.1),
        *s.cross_entropy(x, abs(g), **options),
        *s.cross_entropy(x, others, axis=0, reduction="none"),
    )


def loss(name, parameters, s, x, g):
    f = partial(getattr(s, name), x, g)
    return (*f(), *f(**parameters, reduction="none"))


for entry in _core.losses():
    OPERATIONS[entry["name"]] = partial(loss, entry["name"], off_default(entry["parameters"]))


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


@operation
def batch_norm_phases(s, x, g):
    moments = s.merge_moments([s.batch_moments(x), s.batch_moments(g)])
    y, ctx = s.batch_norm_apply(
        x, moments, None, None, _channels(g), _channels(x), activation="elu", dropout=0.2, residual=g, rng=3
    )
    sums = s.batch_norm_sums(g, ctx)
    return (moments, y, sums, *s.batch_norm_finish(g, ctx, sums))


def norm(name, s, x, g):
    """In inference, with vectors alone, and with all options."""
    info = _core.norm_info(name)
    of_rows = info["groups"] == "rows"
    if info["groups"] == "channels" and x.ndim == 2:
        x, g = (a.reshape(a.shape[0], 2, -1) for a in (x, g))

    def arguments(vector):
        return [2] * (info["groups"] == "channel_groups") + [vector(g), vector(x)][: 1 + info["has_bias"]]

    inference, forward, backward = (getattr(s, f"{name}{form}") for form in ("", "_forward", "_backward"))
    plain = inference(x, *arguments(_channels), axis=1)
    y, ctx = forward(x, *arguments(_channels), axis=1)
    options = {k: True for k, v in info["parameters"].items() if v is False}
    options |= {"activation": "silu", "dropout": 0.2, "rng": 3} | ({"add": g} if of_rows else {})
    *after, other = forward(x, *arguments(_row if of_rows else _channels), **options)
    return (plain, y, *backward(g, ctx), *after, *backward(g, other, *[x] * of_rows))


for name in _core.norms():
    OPERATIONS[name] = partial(norm, name)


@operation
def gated(s, x, g):
    return (s.gated(x, g, "gelu"), *s.gated_backward(g, x, g, "gelu"))


@operation
def glu(s, x, g):
    y, ctx = s.glu_forward(x, ("silu", {"beta": 1.5}), axis=1)
    return y, s.glu_backward(g[:, ::2], ctx)


def _row(a):
    """One value per element of the last axis."""
    while a.ndim > 1:
        a = a[0]
    return a


def _channels(a):
    """One value per channel."""
    a = a[0]
    while a.ndim > 1:
        a = a[:, 0]
    return a
