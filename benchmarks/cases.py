"""What is measured: every row of the lists, forward and backward, and the fused operations."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

import gradfuse
from benchmarks import peers
from benchmarks.compiled import compiled
from benchmarks.peers import optional
from gradfuse import _core

Calls = dict[str, Callable[[], object]]
F = np.float32


@dataclass(frozen=True)
class Case:
    """One row of the table: `build(n)` gives each contender's call on n elements."""

    name: str
    family: str
    bytes: float  # least bytes read and written per element
    build: Callable[[int], Calls]
    size: int | None = None  # where it has one of its own


def _random(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape, dtype=F)


def _filled(like: np.ndarray) -> np.ndarray:
    return np.full_like(like, np.nan)


def _torch(*arrays: np.ndarray) -> tuple[Any, ...]:
    torch = optional("torch")
    return tuple(torch.from_numpy(a) for a in arrays)


def _activation(name: str) -> Iterator[Case]:
    forward, backward = getattr(_core, name), getattr(_core, name + "_backward")

    def build_forward(n: int) -> Calls:
        x = 2 * _random(n)
        y = other = _filled(x)
        calls: Calls = {"gradfuse": lambda: forward(x, out=y)}
        if name in peers.NUMPY:
            calls["numpy"] = lambda: peers.NUMPY[name](x, other)
        if torch := optional("torch"):
            run = peers.torch_forward(torch).get(name)
            tx, ty = _torch(x, other)
            if run:
                calls["torch"] = lambda: run(tx, ty)
        if jax := optional("jax"):
            compiled = peers.jax_forward(jax).get(name)
            if compiled:
                jitted, jx = jax.jit(compiled), jax.numpy.asarray(x)
                calls["jax"] = lambda: jitted(jx).block_until_ready()
        if (numexpr := optional("numexpr")) and name in peers.NUMEXPR:
            calls["numexpr"] = lambda: numexpr.evaluate(peers.NUMEXPR[name], {"x": x}, out=other)
        if (numba := optional("numba")) and name == "elu":
            loop = numba.vectorize([numba.float32(numba.float32)])(lambda v: v if v > 0 else np.expm1(v))
            calls["numba"] = lambda: loop(x, out=other)
        return calls

    def build_backward(n: int) -> Calls:
        x, dy = 2 * _random(n), _random(n) + 1
        saved = forward(x) if gradfuse.saves(name) == "y" else x
        dx = other = _filled(x)
        calls: Calls = {"gradfuse": lambda: backward(dy, saved, out=dx)}
        if name in peers.NUMPY_BACKWARD:
            calls["numpy"] = lambda: peers.NUMPY_BACKWARD[name](dy, saved, other)
        if torch := optional("torch"):
            run = peers.torch_backward(torch).get(name)
            arrays = _torch(dy, saved, other)
            if run:
                calls["torch"] = lambda: run(*arrays)
        return calls

    yield Case(name, "activation", 8, build_forward)
    yield Case(name + " backward", "activation", 12, build_backward)


def _dropout(n: int) -> Calls:
    x = _random(n)
    calls: Calls = {
        "gradfuse": lambda: gradfuse.dropout_forward(x, 0.5, rng=1),
        "numpy": lambda: np.where(np.random.default_rng(1).random(n, dtype=F) >= 0.5, x * F(2), F(0)),
    }
    if torch := optional("torch"):
        (tx,) = _torch(x)
        calls["torch"] = lambda: torch.nn.functional.dropout(tx, 0.5, training=True)
    return calls


def _dropout_backward(n: int) -> Calls:
    x, dy = _random(n), _random(n)
    _, ctx = gradfuse.dropout_forward(x, 0.5, rng=1)
    calls: Calls = {"gradfuse": lambda: gradfuse.dropout_backward(dy, ctx)}
    if torch := optional("torch"):
        (tdy,) = _torch(dy)
        mask = torch.rand(n) > 0.5
        calls["torch"] = lambda: torch.ops.aten.native_dropout_backward(tdy, mask, 2.0)
    return calls


def _rrelu(n: int) -> Calls:
    x = _random(n)
    calls: Calls = {"gradfuse": lambda: gradfuse.rrelu_forward(x, rng=1)}
    if torch := optional("torch"):
        (tx,) = _torch(x)
        calls["torch"] = lambda: torch.nn.functional.rrelu(tx, training=True)
    return calls


COLUMNS = 1000


def _last(n: int) -> tuple[tuple[int, ...], int]:
    return (max(1, n // COLUMNS), COLUMNS), 1


def _pixels(n: int) -> tuple[tuple[int, ...], int]:
    """The classes of every pixel."""
    side = 32 if n >= COLUMNS << 10 else 8
    return (max(1, n // (COLUMNS * side * side)), COLUMNS, side, side), 1


def _first(n: int) -> tuple[tuple[int, ...], int]:
    """Long, few and apart."""
    columns = min(100_000, n // 16)
    return (n // columns, columns), 0


SHAPES = {"": _last, ", pixels": _pixels, ", axis 0": _first}  # of about n elements, and the axis of the rows


def _row(name: str, suffix: str) -> Iterator[Case]:
    forward, backward = getattr(_core, name), getattr(_core, name + "_backward")

    def peers_of(title: str, axis: int, *arrays: np.ndarray) -> Calls:
        """The last array receives the result."""
        *inputs, out = arrays
        calls: Calls = {}
        if run := peers.NUMPY_ROWS.get(title):
            calls["numpy"] = partial(run, *inputs, axis, out)
        if (torch := optional("torch")) and (run := peers.torch_rows(torch).get(title)):
            *tensors, result = _torch(*arrays)
            calls["torch"] = partial(run, *tensors, axis, result)
        return calls | compiled(title, *inputs, axis=axis)

    def build_forward(n: int) -> Calls:
        shape, axis = SHAPES[suffix](n)
        x = _random(*shape)
        y = _filled(x)
        return {"gradfuse": lambda: forward(x, axis=axis, out=y)} | peers_of(name, axis, x, y)

    def build_backward(n: int) -> Calls:
        shape, axis = SHAPES[suffix](n)
        x, dy = _random(*shape), _random(*shape) + 1
        saved = x if _core.row_info(name)["saves"] == "x" else forward(x, axis=axis)
        dx = _filled(x)
        others = peers_of(f"{name} backward", axis, dy, saved, dx)
        return {"gradfuse": lambda: backward(dy, saved, axis=axis, out=dx)} | others

    yield Case(f"{name}{suffix}", "rows", 8, build_forward)
    yield Case(f"{name}{suffix} backward", "rows", 12, build_backward)


def _cross_entropy(n: int, smoothing: float = 0.0) -> Calls:
    x = _random(max(1, n // COLUMNS), COLUMNS)
    labels = np.random.default_rng(1).integers(0, COLUMNS, len(x))

    def numpy() -> None:
        e = np.exp(x - x.max(axis=1, keepdims=True))
        e /= e.sum(axis=1, keepdims=True)
        rows = np.arange(len(x))
        np.log(e[rows, labels]).mean()
        e[rows, labels] -= 1
        e /= len(x)

    calls: Calls = {"gradfuse": lambda: gradfuse.cross_entropy(x, labels, label_smoothing=smoothing)}
    if not smoothing:
        calls["numpy"] = numpy
    if torch := optional("torch"):
        tx, tl = _torch(x, labels)
        tx = tx.clone().requires_grad_()

        def run() -> None:
            tx.grad = None
            torch.nn.functional.cross_entropy(tx, tl, label_smoothing=smoothing).backward()

        calls["torch"] = run
    return calls | compiled("cross_entropy", x, labels, smoothing=smoothing)


def _loss(name: str) -> Callable[[int], Calls]:
    def build(n: int) -> Calls:
        loss, x, target = getattr(gradfuse, name), _random(n), _random(n)[::-1].copy()
        calls: Calls = {"gradfuse": lambda: loss(x, target)}
        if name in peers.NUMPY_LOSSES:
            calls["numpy"] = lambda: peers.NUMPY_LOSSES[name](x, target)
        if (torch := optional("torch")) and (function := getattr(torch.nn.functional, name, None)):
            tx, tt = _torch(x, target)
            tx = tx.clone().requires_grad_()

            def run() -> None:
                tx.grad = None
                function(tx, tt).backward()

            calls["torch"] = run
        return calls | compiled(name, x, target)

    return build


def _gated(activation: str) -> Callable[[int], Calls]:
    def build(n: int) -> Calls:
        a, gate = _random(n), 2 * _random(n)[::-1].copy()
        y = other = _filled(a)
        calls: Calls = {"gradfuse": lambda: gradfuse.gated(a, gate, activation, out=y)}
        if activation in peers.NUMPY:

            def numpy() -> None:
                peers.NUMPY[activation](gate, other)
                np.multiply(other, a, out=other)

            calls["numpy"] = numpy
        if torch := optional("torch"):
            act, (ta, tgate) = getattr(torch.nn.functional, activation), _torch(a, gate)
            calls["torch"] = lambda: act(tgate) * ta
        return calls | compiled("gated", a, gate, activation=activation)

    return build


def _gated_backward(activation: str) -> Callable[[int], Calls]:
    def build(n: int) -> Calls:
        dy, a, gate = _random(n) + 1, _random(n), 2 * _random(n)[::-1].copy()
        calls: Calls = {"gradfuse": lambda: gradfuse.gated_backward(dy, a, gate, activation)}
        if torch := optional("torch"):
            act, (tdy, *arrays) = getattr(torch.nn.functional, activation), _torch(dy, a, gate)
            leaves = [t.requires_grad_() for t in arrays]
            y = act(leaves[1]) * leaves[0]
            calls["torch"] = lambda: torch.autograd.grad(y, leaves, tdy, retain_graph=True)
        return calls | compiled("gated backward", dy, a, gate, activation=activation)

    return build


def _maxout(n: int) -> Calls:
    x = _random(max(1, n // 512), 512)
    calls: Calls = {
        "gradfuse": lambda: gradfuse.maxout_forward(x, 4),
        "numpy": lambda: x.reshape(len(x), 4, 128).max(axis=1),
    }
    if optional("torch"):
        (tx,) = _torch(x)
        calls["torch"] = lambda: tx.view(len(x), 4, 128).max(1)
    return calls


def _images(n: int) -> np.ndarray:
    """About n elements of (N, 64, H, W)."""
    side = 56 if n >= 64 * 56 * 56 else 16
    return _random(max(2, n // (64 * side * side)), 64, side, side)


def _batch_norm(activation: str | None, p: float) -> Callable[[int], Calls]:
    def build(n: int) -> Calls:
        x = _images(n)
        mean, var, w, b = np.zeros(64, F), np.ones(64, F), np.ones(64, F), np.zeros(64, F)
        calls: Calls = {
            "gradfuse": lambda: gradfuse.batch_norm_forward(x, mean, var, w, b, activation=activation, dropout=p, rng=1)
        }
        if activation is None:

            def numpy() -> None:
                m = x.mean(axis=(0, 2, 3), keepdims=True)
                v = x.var(axis=(0, 2, 3), keepdims=True)
                d = x - m
                d /= np.sqrt(v + F(1e-5))
                d *= w[:, None, None]
                d += b[:, None, None]

            calls["numpy"] = numpy
        if torch := optional("torch"):
            tx, tm, tv, tw, tb = _torch(x, mean.copy(), var.copy(), w, b)

            def run() -> None:
                with torch.no_grad():
                    y = torch.nn.functional.batch_norm(tx, tm, tv, tw, tb, training=True)
                    if activation:
                        y = torch.relu(y)
                    if p:
                        torch.nn.functional.dropout(y, p, training=True)

            calls["torch"] = run
        return calls | compiled("batch_norm + relu + dropout" if activation else "batch_norm", x, w, b)

    return build


def _batch_norm_backward(activation: str | None, p: float) -> Callable[[int], Calls]:
    def build(n: int) -> Calls:
        x = _images(n)
        dy = _random(*x.shape)
        w, b = np.ones(64, F), np.zeros(64, F)
        _, ctx = gradfuse.batch_norm_forward(x, None, None, w, b, activation=activation, dropout=p, rng=1)
        calls: Calls = {"gradfuse": lambda: gradfuse.batch_norm_backward(dy, ctx)}
        if torch := optional("torch"):
            tx, tdy, tw, tb = _torch(x, dy, w, b)
            leaves = [t.clone().requires_grad_() for t in (tx, tw, tb)]
            y = torch.nn.functional.batch_norm(leaves[0], None, None, leaves[1], leaves[2], training=True)
            if activation:
                y = torch.relu(y)
            if p:
                y = torch.nn.functional.dropout(y, p, training=True)

            def run() -> None:
                torch.autograd.grad(y, leaves, tdy, retain_graph=True)

            calls["torch"] = run
        return calls

    return build


def _norm_arguments(name: str, n: int) -> tuple[np.ndarray, list[Any]]:
    """x, and what stands behind it: rows of the last axis, or images."""
    info = _core.norm_info(name)
    x = _random(*_last(n)[0]) if info["groups"] == "rows" else _images(n)
    vectors = [_random(x.shape[1]) for _ in range(1 + info["has_bias"])]
    return x, [8] * (info["groups"] == "channel_groups") + vectors


def _tensors(arguments: list[Any]) -> list[Any]:
    return [_torch(a)[0] if isinstance(a, np.ndarray) else a for a in arguments]


def _group_norms(name: str) -> Iterator[Case]:
    """A normalization within each sample."""
    forward, backward = getattr(_core, f"{name}_forward"), getattr(_core, f"{name}_backward")

    def build_forward(n: int) -> Calls:
        x, arguments = _norm_arguments(name, n)
        calls: Calls = {"gradfuse": lambda: forward(x, *arguments)}
        if run := peers.NUMPY_NORMS.get(name):
            calls["numpy"] = partial(run, x, *arguments)
        if (torch := optional("torch")) and (run := peers.torch_norms(torch).get(name)):
            calls["torch"] = partial(run, *_tensors([x, *arguments]))
        vectors = [a for a in arguments if isinstance(a, np.ndarray)]
        return calls | compiled(name, x, *vectors, **({"groups": 8} if name == "group_norm" else {}))

    def build_backward(n: int) -> Calls:
        x, arguments = _norm_arguments(name, n)
        dy = _random(*x.shape) + 1
        _, ctx = forward(x, *arguments)
        calls: Calls = {"gradfuse": lambda: backward(dy, ctx)}
        torch = optional("torch")
        if torch and (make := peers.torch_norms_backward(torch).get(name)):
            calls["torch"] = make(*_tensors([dy, x, *arguments]))
        elif torch and (run := peers.torch_norms(torch).get(name)):
            tdy, *tensors = _tensors([dy, x, *arguments])
            leaves = [t.requires_grad_() for t in tensors if isinstance(t, torch.Tensor)]
            y = run(*tensors)
            calls["torch"] = lambda: torch.autograd.grad(y, leaves, tdy, retain_graph=True)
        if name == "layer_norm":
            mean = x.mean(1, keepdims=True)
            invstd = 1 / np.sqrt(np.square(x - mean).mean(1, keepdims=True) + F(1e-5))
            calls |= compiled(f"{name} backward", dy, x, *arguments, mean, invstd)
        return calls

    yield Case(name, "norms", 8, build_forward)
    yield Case(f"{name} backward", "norms", 12, build_backward)


def _bias_act(n: int) -> Calls:
    x, b = _random(max(1, n // 256), 256), _random(256)
    calls: Calls = {"gradfuse": lambda: gradfuse.bias_act_forward(x, b, "elu")}

    def numpy() -> None:
        y = x + b
        peers.NUMPY["elu"](y, y)

    calls["numpy"] = numpy
    if torch := optional("torch"):
        tx, tb = _torch(x, b)
        calls["torch"] = lambda: torch.nn.functional.elu(tx + tb, inplace=True)
    return calls | compiled("bias + elu", x, b)


def _norm(n: int) -> Calls:
    x = _random(n)
    calls: Calls = {
        "gradfuse": lambda: gradfuse.clip_grad_norm_([x], 1e30),
        "numpy": lambda: np.sqrt(np.dot(x, x)),
    }
    if torch := optional("torch"):
        (tx,) = _torch(x)
        calls["torch"] = lambda: torch.linalg.vector_norm(tx)
    return calls


def _torch_optimizer(torch: Any, name: str, arrays: list[np.ndarray], grads: list[np.ndarray]) -> Callable[[], object]:
    params = [torch.from_numpy(a.copy()).requires_grad_() for a in arrays]
    for p, g in zip(params, grads, strict=True):
        p.grad = torch.from_numpy(g)
    make = getattr(torch.optim, name)
    try:
        optimizer = make(params, fused=True)
    except (TypeError, RuntimeError):
        optimizer = make(params)
    step: Callable[[], object] = optimizer.step
    return step


def _numpy_adam(arrays: list[np.ndarray], grads: list[np.ndarray]) -> Callable[[], object]:
    state = [(np.zeros_like(a), np.zeros_like(a)) for a in arrays]
    copies = [a.copy() for a in arrays]

    def step() -> None:
        for p, g, (m, v) in zip(copies, grads, state, strict=True):
            m += F(0.1) * (g - m)
            v += F(0.001) * (g * g - v)
            p -= F(1e-3) * m / (np.sqrt(v) + F(1e-8))

    return step


def _optimizer(name: str, count: int = 1) -> Callable[[int], Calls]:
    def build(n: int) -> Calls:
        arrays = [_random(n // count) for _ in range(count)]
        grads = [_random(n // count) * F(0.1) for _ in range(count)]
        ours = [a.copy() for a in arrays]
        optimizer = getattr(gradfuse.optim, name)(ours)
        calls: Calls = {"gradfuse": lambda: optimizer.step(grads)}
        if name == "Adam":
            calls["numpy"] = _numpy_adam(arrays, grads)
        torch = optional("torch")
        if torch and hasattr(torch.optim, name):
            calls["torch"] = _torch_optimizer(torch, name, arrays, grads)
        return calls

    return build


def optimizer_bytes(spec: dict[str, Any]) -> float:
    values: list[float] = []
    for hyper in spec["hypers"]:
        values += hyper["default"] if hyper["kind"] == "pair" else [hyper["default"]]
    slots = _core.optimizer_slots([s["name"] for s in _core.optimizer_list()].index(spec["name"]), tuple(values))
    return 12 + 8 * bin(slots).count("1")


def _call(n: int) -> Calls:
    x = _random(n)
    y = _filled(x)
    calls: Calls = {"gradfuse": lambda: gradfuse.relu(x, out=y), "numpy": lambda: np.maximum(x, 0, out=y)}
    if torch := optional("torch"):
        tx, ty = _torch(x, y)
        calls["torch"] = lambda: torch.ops.aten.relu.out(tx, out=ty)
    return calls


def all_cases() -> list[Case]:
    """Every row of the compiled lists, then the fused and row-wise operations, then the optimizers."""
    cases = [case for name in gradfuse.activations() for case in _activation(name)]
    for name, activation in (("SwiGLU", "silu"), ("GEGLU", "gelu")):
        cases.append(Case(name, "gate", 12, _gated(activation)))
        cases.append(Case(f"{name} backward", "gate", 20, _gated_backward(activation)))
    cases += [
        Case("dropout", "random", 8, _dropout),
        Case("dropout backward", "random", 8, _dropout_backward),
        Case("rrelu", "random", 8, _rrelu),
        *(case for name in _core.row_operations() for suffix in SHAPES for case in _row(name, suffix)),
        Case("cross-entropy with gradient", "rows", 8, _cross_entropy),
        Case("cross-entropy, label smoothing", "rows", 8, partial(_cross_entropy, smoothing=0.1)),
        *(Case(row["name"], "loss", 12, _loss(row["name"])) for row in _core.losses()),
        Case("maxout of 4", "rows", 5, _maxout),
        *(case for name in _core.norms() for case in _group_norms(name)),
        Case("batch norm", "channels", 12, _batch_norm(None, 0)),
        Case("batch norm backward", "channels", 20, _batch_norm_backward(None, 0)),
        Case("batch norm + relu + dropout", "channels", 12, _batch_norm("relu", 0.5)),
        Case("batch norm + relu + dropout backward", "channels", 20, _batch_norm_backward("relu", 0.5)),
        Case("bias + elu", "channels", 8, _bias_act),
        Case("L2 norm", "optimizer", 4, _norm),
    ]
    for spec in _core.optimizer_list():
        cases.append(Case(spec["name"], "optimizer", optimizer_bytes(spec), _optimizer(spec["name"])))
    cases += [
        Case("Adam, 200 tensors of 1000", "optimizer", 28, _optimizer("Adam", 200), 200_000),
        Case("Adam, 1000 tensors of 100", "optimizer", 28, _optimizer("Adam", 1000), 100_000),
        Case("a call on 16 floats", "call", 8, _call, 16),
    ]
    return cases


def case_names() -> list[str]:
    return [case.name for case in all_cases()]
