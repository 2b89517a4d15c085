"""What is measured: every row of the lists, forward and backward, and the fused operations."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

import gradfuse
from benchmarks import peers
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


def _softmax(n: int) -> Calls:
    x = _random(max(1, n // COLUMNS), COLUMNS)
    y = other = _filled(x)

    def numpy() -> None:
        np.subtract(x, x.max(axis=1, keepdims=True), out=other)
        np.exp(other, out=other)
        np.divide(other, other.sum(axis=1, keepdims=True), out=other)

    calls: Calls = {"gradfuse": lambda: gradfuse.softmax(x, out=y), "numpy": numpy}
    if torch := optional("torch"):
        tx, ty = _torch(x, other)
        calls["torch"] = lambda: torch.ops.aten._softmax.out(tx, 1, False, out=ty)
    return calls


def _softmax_backward(n: int) -> Calls:
    y = gradfuse.softmax(_random(max(1, n // COLUMNS), COLUMNS))
    dy = _random(*y.shape)
    dx = other = _filled(y)
    calls: Calls = {
        "gradfuse": lambda: gradfuse.softmax_backward(dy, y, out=dx),
        "numpy": lambda: np.multiply(dy - (dy * y).sum(axis=1, keepdims=True), y, out=other),
    }
    if torch := optional("torch"):
        tdy, ty, tdx = _torch(dy, y, other)
        op = torch.ops.aten._softmax_backward_data.out
        calls["torch"] = lambda: op(tdy, ty, 1, torch.float32, grad_input=tdx)
    return calls


def _cross_entropy(n: int) -> Calls:
    x = _random(max(1, n // COLUMNS), COLUMNS)
    labels = np.random.default_rng(1).integers(0, COLUMNS, len(x))

    def numpy() -> None:
        e = np.exp(x - x.max(axis=1, keepdims=True))
        e /= e.sum(axis=1, keepdims=True)
        rows = np.arange(len(x))
        np.log(e[rows, labels]).mean()
        e[rows, labels] -= 1
        e /= len(x)

    calls: Calls = {"gradfuse": lambda: gradfuse.cross_entropy(x, labels), "numpy": numpy}
    if torch := optional("torch"):
        tx, tl = _torch(x, labels)
        tx = tx.clone().requires_grad_()

        def run() -> None:
            tx.grad = None
            torch.nn.functional.cross_entropy(tx, tl).backward()

        calls["torch"] = run
    return calls


def _mse(n: int) -> Calls:
    x, target = _random(n), _random(n)[::-1].copy()

    def numpy() -> None:
        d = x - target
        np.dot(d, d)
        d *= F(2 / n)

    calls: Calls = {"gradfuse": lambda: gradfuse.mse_loss(x, target), "numpy": numpy}
    if torch := optional("torch"):
        tx, tt = _torch(x, target)
        tx = tx.clone().requires_grad_()

        def run() -> None:
            tx.grad = None
            torch.nn.functional.mse_loss(tx, tt).backward()

        calls["torch"] = run
    return calls


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
        return calls

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
    return calls


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
    cases += [
        Case("dropout", "random", 8, _dropout),
        Case("dropout backward", "random", 8, _dropout_backward),
        Case("rrelu", "random", 8, _rrelu),
        Case("softmax", "rows", 8, _softmax),
        Case("softmax backward", "rows", 12, _softmax_backward),
        Case("cross-entropy with gradient", "rows", 8, _cross_entropy),
        Case("mse with gradient", "rows", 12, _mse),
        Case("maxout of 4", "rows", 5, _maxout),
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
