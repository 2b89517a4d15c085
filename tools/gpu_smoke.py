"""Every kind of CUDA kernel once, on small arrays, compared with the CPU: short enough for compute-sanitizer.

Usage: python tools/gpu_smoke.py [NAME...], with gradfuse and CuPy importable; `tools/gpu.sh --sanitize` runs it.
"""

import sys

import cupy
import numpy as np

import gradfuse

CHECKS = {}
RNG = np.random.default_rng(0)


def check(f):
    """f(to) -> arrays, where `to` brings a NumPy array to the device, or leaves it where it is."""
    CHECKS[f.__name__] = f
    return f


def normal(*shape, dtype=np.float32):
    return RNG.standard_normal(shape).astype(dtype)


def dtypes():
    """Those that CuPy has here."""
    found = [np.dtype(np.float16), np.dtype(np.float32), np.dtype(np.float64)]
    try:
        import ml_dtypes

        cupy.asarray(np.zeros(1, ml_dtypes.bfloat16))
        found.append(np.dtype(ml_dtypes.bfloat16))
    except Exception:
        print("no bfloat16 here")
    return found


DTYPES = dtypes()


@check
def elementwise(to):
    for dtype in DTYPES:
        x, g = normal(1003, dtype=dtype), normal(1003, dtype=dtype)
        for name in gradfuse.activations():
            y = getattr(gradfuse, name)(to(x))
            saved = to(x) if gradfuse.saves(name) == "x" else y
            yield from (y, getattr(gradfuse, f"{name}_backward")(to(g), saved))


@check
def strided(to):
    x, g = normal(37, 58), normal(37, 58)
    yield gradfuse.elu(to(x)[:, ::2])
    yield gradfuse.elu_backward(to(g)[:, ::2], to(x)[:, ::2])
    yield gradfuse.silu(to(x)[::-1, 1:-1])
    out = to(np.zeros((37, 58), np.float32))
    gradfuse.gelu(to(x)[3:, 5:20], out=out[3:, 5:20])
    yield out


@check
def misaligned(to):
    yield gradfuse.gelu_tanh(to(normal(1003))[1:])


@check
def dropout(to):
    x, g = normal(1003), normal(1003)
    for forward, backward in (
        (gradfuse.dropout_forward, gradfuse.dropout_backward),
        (gradfuse.alpha_dropout_forward, gradfuse.alpha_dropout_backward),
        (gradfuse.rrelu_forward, gradfuse.rrelu_backward),
    ):
        y, ctx = forward(to(x), rng=5)
        yield from (y, backward(to(g), ctx))
    rng = gradfuse.Generator(7, capturable=not isinstance(to(x), np.ndarray))
    for _ in range(2):
        yield gradfuse.dropout_forward(to(x), 0.3, rng=rng)[0]


LAYOUTS = (((4, 6, 9, 9), 1), ((40, 6), -1), ((4, 9, 9, 6), -1), ((2, 3, 150, 150), 1), ((5000, 3), 1))


@check
def prelu(to):
    for shape, axis in LAYOUTS:
        x = normal(*shape)
        y, ctx = gradfuse.prelu_forward(to(x), to(normal(shape[axis])), axis=axis)
        yield from (y, *gradfuse.prelu_backward(to(x), ctx))


@check
def channels(to):
    for dtype in DTYPES:
        for shape, axis in LAYOUTS:
            vectors = [normal(shape[axis], dtype=dtype) ** 2 + dtype.type(1) for _ in range(4)]
            x, g, residual = (normal(*shape, dtype=dtype) for _ in range(3))
            options = {"axis": axis, "activation": "gelu", "dropout": 0.5, "residual": to(residual), "rng": 3}
            for order in ("bn_act", "act_bn"):
                mean, var, weight, bias = map(to, vectors)
                y, ctx = gradfuse.batch_norm_forward(to(x), mean, var, weight, bias, order=order, **options)
                yield from (y, mean, var, *gradfuse.batch_norm_backward(to(g), ctx))
            y, ctx = gradfuse.batch_norm_forward(to(x), *map(to, vectors), axis=axis, frozen=True)
            yield from (y, *gradfuse.batch_norm_backward(to(g), ctx))
            yield gradfuse.batch_norm(to(x), *map(to, vectors), axis=axis, activation="relu")
            y, ctx = gradfuse.bias_act_forward(to(x), to(vectors[0]), **options)
            yield from (y, *gradfuse.bias_act_backward(to(g), ctx))
    W, vectors = normal(8, 5), [normal(5) ** 2 + np.float32(1) for _ in range(5)]
    yield from gradfuse.fold_batch_norm(to(W), *map(to, vectors))


@check
def rows(to):
    """Kept on the chip, too long for that, and along an axis whose elements lie apart."""
    for shape, axis in (((7, 33), -1), ((3, 5000), -1), ((2, 60001), -1), ((4, 11, 13), 1), ((300, 8), -1)):
        x, g = normal(*shape), normal(*shape)
        for forward, backward in (
            (gradfuse.softmax, gradfuse.softmax_backward),
            (gradfuse.log_softmax, gradfuse.log_softmax_backward),
        ):
            y = forward(to(x), axis=axis)
            yield from (y, backward(to(g), y, axis=axis))


@check
def losses(to):
    for shape in ((7, 33), (3, 5000), (2, 60001)):
        x, labels = normal(*shape), np.arange(shape[0], dtype=np.int64) % shape[1]
        q = abs(normal(*shape))
        for reduction in ("mean", "none"):
            yield from gradfuse.cross_entropy(to(x), to(labels), label_smoothing=0.1, reduction=reduction)
            yield from gradfuse.cross_entropy(to(x), to(labels.astype(np.int32)), reduction=reduction)
            yield from gradfuse.cross_entropy(to(x), to(q), reduction=reduction)
            for row in gradfuse._core.losses():
                yield from getattr(gradfuse, row["name"])(to(x), to(q), reduction=reduction)


@check
def gates(to):
    for shape in ((7, 34), (3, 5000), (2, 60002)):
        x, gate, g = (normal(*shape) for _ in range(3))
        for activation in ("silu", "gelu", "sigmoid", None):
            yield gradfuse.gated(to(x), to(gate), activation)
            yield from gradfuse.gated_backward(to(g), to(x), to(gate), activation)
        y, ctx = gradfuse.glu_forward(to(x))
        yield from (y, gradfuse.glu_backward(y, ctx))


@check
def maxout(to):
    for shape, axis in (((40, 24), 1), ((3, 8, 5, 5), 1)):
        x = normal(*shape)
        y, ctx = gradfuse.maxout_forward(to(x), 4, axis=axis)
        yield from (y, gradfuse.maxout_backward(y, ctx))


SHAPES = ((3,), (65, 33), (9001,), (1,))


@check
def optimizers(to):
    for name in gradfuse.optim.__all__:
        if name == "Optimizer":
            continue
        for dtype in DTYPES:
            for options in ({}, {"max_grad_norm": 0.1, "weight_decay": 0.01}, {"capturable": True}):
                params = [to(normal(*shape, dtype=dtype)) for shape in SHAPES] + [to(normal(8, 6, dtype=dtype))[:, ::2]]
                if isinstance(params[0], np.ndarray):
                    options = {k: v for k, v in options.items() if k != "capturable"}
                optimizer = getattr(gradfuse.optim, name)(params, master_weights=dtype.itemsize == 2, **options)
                for _ in range(2):
                    optimizer.step([to(normal(*p.shape, dtype=dtype)) for p in params])
                yield from params


@check
def norms(to):
    for dtype in DTYPES:
        for per_array in (False, True):
            grads = [to(normal(*shape, dtype=dtype)) for shape in SHAPES]
            norm = gradfuse.clip_grad_norm_(grads, 0.5, per_array=per_array)
            yield from (norm, *grads)
        gradfuse.clip_grad_value_(grads, 0.01)
        yield from grads
        for axis in (0, 1):
            w = to(normal(30, 40, dtype=dtype))
            gradfuse.max_norm_(w, 0.5, axis=axis)
            yield w


def on_host(a):
    """A copy: a check may go on to change what it has given."""
    return np.array(a.get() if isinstance(a, cupy.ndarray) else a)


def run(name):
    """How many arrays were compared; AssertionError where one differs."""
    results = []
    for to in (lambda a: a.copy(), cupy.asarray):
        RNG.bit_generator.state = STATE
        results.append([on_host(a) for a in CHECKS[name](to)])
    for number, (expected, actual) in enumerate(zip(*results, strict=True)):
        half = expected.dtype.itemsize == 2
        expected, actual = expected.astype(np.float64), actual.astype(np.float64)
        tolerance = 0.02 if half else 1e-4
        np.testing.assert_allclose(actual, expected, tolerance, tolerance, err_msg=f"{name}, result {number}")
    return len(results[0])


STATE = RNG.bit_generator.state

if __name__ == "__main__":
    if reason := gradfuse.cuda.why_not():
        sys.exit(reason)
    if hasattr(cupy.cuda, "set_allocator"):
        cupy.cuda.set_allocator(None)  # each array by itself: beyond its end is nobody's memory
    for name in sys.argv[1:] or CHECKS:
        print(f"{name}: {run(name)} arrays agree", flush=True)
