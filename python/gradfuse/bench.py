"""`python -m gradfuse.bench`: every operation beside NumPy on this machine, in float32; every call makes a new result.

NumPy computes a plain formula in float32. Where none is given here, `gradfuse.reference` takes its place, which is
NumPy in float64; the table says so.
"""

from __future__ import annotations

import argparse
import contextlib
import fnmatch
import statistics
import time
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, NoReturn

import numpy as np

import gradfuse
from gradfuse import _core, reference

SIZES = {"L2": 1 << 16, "L3": 1 << 20, "DRAM": 1 << 24}  # elements of an array that fits in there
COLUMNS = 256
ZEROS, ONES = np.zeros(COLUMNS, np.float32), np.ones(COLUMNS, np.float32)

Setup = Callable[[Any, Any, Any], Any]  # of gradfuse or its reference, x and a gradient: the call, a partial


def from_saved(name: str, saves: str) -> dict[str, Setup]:
    """A function, and its backward, which takes the function's x or y."""

    def backward(lib: Any, x: Any, g: Any) -> Any:
        return partial(getattr(lib, f"{name}_backward"), g, x if saves == "x" else getattr(lib, name)(x))

    return {name: lambda lib, x, g: partial(getattr(lib, name), x), f"{name} backward": backward}


def from_context(title: str, name: str, *arguments: Any, **options: Any) -> dict[str, Setup]:
    """A function that gives y and a context, and its backward."""

    def forward(lib: Any, x: Any, g: Any) -> Any:
        return partial(getattr(lib, f"{name}_forward"), x, *arguments, **options)

    def backward(lib: Any, x: Any, g: Any) -> Any:
        return partial(getattr(lib, f"{name}_backward"), *forward(lib, x, g)())

    return {title: forward, f"{title} backward": backward}


def optimizer(name: str, lib: Any, x: Any, g: Any) -> Any:
    return partial(getattr(lib.optim, name)([x.copy()]).step, [g])


def operations() -> dict[str, Setup]:
    """By name: the rows of the compiled lists, and the fused and row-wise functions."""
    fused: dict[str, Any] = {"activation": "relu", "dropout": 0.5, "rng": 1}
    found: dict[str, Setup] = {}
    for name in gradfuse.activations():
        found |= from_saved(name, gradfuse.saves(name))
    found |= from_context("prelu", "prelu", ONES / 4) | from_context("rrelu", "rrelu", rng=1)
    found |= from_context("dropout", "dropout", rng=1) | from_context("alpha_dropout", "alpha_dropout", rng=1)
    found |= from_context("maxout of 4", "maxout", 4) | from_saved("softmax", "y") | from_saved("log_softmax", "y")
    found["cross_entropy"] = lambda lib, x, g: partial(lib.cross_entropy, x, np.arange(len(x)) % COLUMNS)
    found["mse_loss"] = lambda lib, x, g: partial(lib.mse_loss, x, g)
    found |= from_context("batch_norm", "batch_norm", None, None, ONES, ZEROS)
    found |= from_context("batch_norm + relu + dropout", "batch_norm", None, None, ONES, ZEROS, **fused)
    found["batch_norm, inference"] = lambda lib, x, g: partial(lib.batch_norm, x, ZEROS, ONES, ONES, ZEROS)
    found["fold_batch_norm"] = lambda lib, x, g: partial(lib.fold_batch_norm, x, ZEROS, ZEROS, ONES, ONES, ZEROS)
    found |= from_context("bias + elu", "bias_act", ZEROS, "elu")
    found |= from_context("bias + relu + dropout", "bias_act", ZEROS, **fused)
    found["clip_grad_norm_"] = lambda lib, x, g: partial(lib.clip_grad_norm_, [g.copy()], 1e30)
    found["clip_grad_value_"] = lambda lib, x, g: partial(lib.clip_grad_value_, [g.copy()], 1e30)
    found["max_norm_"] = lambda lib, x, g: partial(lib.max_norm_, x.copy(), 1e30)
    return found | {row["name"]: partial(optimizer, row["name"]) for row in _core.optimizer_list()}


def elu(x: Any) -> Any:
    return np.where(x > 0, x, np.expm1(np.minimum(x, 0)))


def softmax(x: Any) -> Any:
    e = np.exp(x - x.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def cross_entropy(x: Any, labels: Any) -> Any:
    p, rows = softmax(x), np.arange(len(x))
    loss = -np.log(p[rows, labels]).mean()
    p[rows, labels] -= 1
    return loss, p / np.float32(len(x))


# Of what gradfuse's function is given in its place, in float32.
NUMPY: dict[str, Callable[..., Any]] = {
    "relu": lambda x: np.maximum(x, 0),
    "relu backward": lambda g, y: g * (y > 0),
    "leaky_relu": lambda x: np.maximum(x, x * np.float32(0.01)),
    "elu": elu,
    "elu backward": lambda g, y: g * np.where(y > 0, np.float32(1), y + 1),
    "celu": elu,
    "softplus": lambda x: np.logaddexp(x, np.float32(0)),
    "silu": lambda x: x / (1 + np.exp(-x)),
    "mish": lambda x: x * np.tanh(np.logaddexp(x, np.float32(0))),
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "sigmoid backward": lambda g, y: g * y * (1 - y),
    "tanh": np.tanh,
    "tanh backward": lambda g, y: g * (1 - y * y),
    "logsigmoid": lambda x: -np.logaddexp(-x, np.float32(0)),
    "softsign": lambda x: x / (1 + abs(x)),
    "relu6": lambda x: np.clip(x, 0, 6),
    "hardtanh": lambda x: np.clip(x, -1, 1),
    "hardsigmoid": lambda x: np.clip(x + 3, 0, 6) / 6,
    "hardswish": lambda x: x * np.clip(x + 3, 0, 6) / 6,
    "dropout": lambda x: x * (np.random.default_rng(1).random(x.shape, np.float32) >= 0.5) * np.float32(2),
    "maxout of 4": lambda x, pieces: x.reshape(len(x), pieces, -1).max(axis=1),
    "softmax": softmax,
    "softmax backward": lambda g, y: y * (g - (g * y).sum(axis=1, keepdims=True)),
    "cross_entropy": cross_entropy,
    "mse_loss": lambda x, t: (np.square(x - t).mean(), (x - t) * np.float32(2 / x.size)),
    "batch_norm": lambda x, _, __, w, b: (x - x.mean(axis=0)) / np.sqrt(x.var(axis=0) + np.float32(1e-5)) * w + b,
    "bias + elu": lambda x, bias, _: elu(x + bias),
    "clip_grad_norm_": lambda grads, limit: np.linalg.norm(grads[0]),
    "clip_grad_value_": lambda grads, limit: np.clip(grads[0], -limit, limit, out=grads[0]),
}


def contenders(name: str, elements: int) -> dict[str, Callable[[], Any]]:
    x, g = 2 * np.random.default_rng(0).standard_normal((2, elements // COLUMNS, COLUMNS), np.float32)
    setup = operations()[name]
    ours = setup(gradfuse, x, g)
    if formula := NUMPY.get(name):
        return {"gradfuse": ours, "numpy": partial(formula, *ours.args)}
    return {"gradfuse": ours, "numpy (float64 reference)": setup(reference, x, g)}


def medians(calls: dict[str, Callable[[], Any]], seconds: float) -> list[float]:
    """Seconds of each call. They take turns, and the first call of a turn, which fetches its data, is not timed."""
    times: list[list[float]] = [[] for _ in calls]
    end = time.perf_counter() + seconds * len(calls)
    while time.perf_counter() < end or len(times[0]) < 3:
        for call, taken in zip(calls.values(), times, strict=True):
            call()
            start = time.perf_counter()
            call()
            taken.append(time.perf_counter() - start)
    return [statistics.median(taken) for taken in times]


class Parser(argparse.ArgumentParser):
    """Says in one sentence what is wrong. The repository's `benchmarks` use it too."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}\n")

    def selected(self, names: Iterable[str], only: str) -> list[str]:
        """The names that match `only`, which without a wildcard is one name."""
        found = [name for name in dict.fromkeys(names) if fnmatch.fnmatchcase(name, only)]
        return found or self.error(f"no case is called {only!r}; --list shows the names")


def between(low: Any, high: Any) -> Callable[[str], Any]:
    """An option's type: a number of the limits' kind."""

    def number(text: str) -> Any:
        with contextlib.suppress(ValueError):
            if low <= (value := type(low)(text)) <= high:
                return value
        raise argparse.ArgumentTypeError(f"must be from {low} to {high}, got {text!r}")

    return number


def main() -> None:
    about = "Measures every operation beside NumPy and prints a table. Takes about five minutes; writes no file."
    parser = Parser(prog="python -m gradfuse.bench", description=about)
    parser.add_argument("--list", action="store_true", help="show the names of the cases and end")
    parser.add_argument("--only", default="*", metavar="NAME", help="a case, or those that match, as in 'relu*'")
    parser.add_argument("--where", nargs="+", choices=SIZES, default=list(SIZES), help="where the data fit (all)")
    threads = gradfuse.get_num_threads()
    parser.add_argument("--threads", type=between(1, 1024), default=threads, help=f"gradfuse's threads ({threads})")
    parser.add_argument("--seconds", type=between(1e-6, 3600.0), default=0.1, help="for each contender of a line (0.1)")
    args = parser.parse_args()
    names = parser.selected(operations(), args.only)
    if args.list:
        print(*names, sep="\n")
        return
    gradfuse.set_num_threads(args.threads)
    print(f"{'operation':37}{'where':>5}{'threads':>9}{'ns/element':>12}  {'against':25}{'times as long':>15}")
    for name in names:
        for where in args.where:
            ours, theirs = medians(calls := contenders(name, SIZES[where]), args.seconds)
            ns, peer = ours / SIZES[where] * 1e9, list(calls)[1]
            print(f"{name:37}{where:>5}{args.threads:>9}{ns:12.3f}  {peer:25}{theirs / ours:15.2f}", flush=True)


if __name__ == "__main__":
    main()
