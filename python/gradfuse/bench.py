"""`python -m gradfuse.bench`: every operation beside NumPy on this machine, in float32; every call makes a new result.

NumPy computes a plain formula in float32. Where none is given here, `gradfuse.reference` takes its place, which is
NumPy in float64; the table says so.
"""

from __future__ import annotations

import argparse
import contextlib
import fnmatch
import statistics
import timeit
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, NoReturn

import numpy as np

import gradfuse
from gradfuse import _core, reference

SIZES = {"L2": 1 << 16, "L3": 1 << 20, "DRAM": 1 << 24}  # elements of an array that fits in there
COLUMNS, CHANNELS = 256, 16  # of rows, and of images
ZEROS, ONES = np.zeros(COLUMNS, np.float32), np.ones(COLUMNS, np.float32)

Setup = Callable[..., Any]  # of gradfuse or its reference, x and a gradient: the call, a partial


def call_of(name: str, *arguments: Any, shape: tuple[int, ...] = (-1, COLUMNS), **options: Any) -> Setup:
    return lambda lib, x, g: partial(getattr(lib, name), x.reshape(shape), *arguments, **options)


def pair(name: str, *arguments: Any, title: str = "", saves: str = "context", **options: Any) -> dict[str, Setup]:
    """A function and its backward, which takes the function's x, its y or a context."""
    forward = call_of(f"{name}_forward" if saves == "context" else name, *arguments, **options)

    def backward(lib: Any, x: Any, g: Any) -> Any:
        function = getattr(lib, f"{name}_backward")
        if saves == "context":
            return partial(function, *forward(lib, x, g)())  # y is the gradient: it has the shape
        return partial(function, g, x if saves == "x" else forward(lib, x, g)(), **options)

    return {title or name: forward, f"{title or name} backward": backward}


def norm(name: str) -> dict[str, Setup]:
    """Of rows, or of images of CHANNELS channels in four groups."""
    info = _core.norm_info(name)
    rows = info["groups"] == "rows"
    shape = (-1, COLUMNS) if rows else (-1, CHANNELS, COLUMNS // CHANNELS)
    vectors = [v[: shape[1]] for v in (ONES, ZEROS)][: 1 + info["has_bias"]]
    arguments = [4, *vectors] if info["groups"] == "channel_groups" else vectors
    found = pair(name, *arguments, shape=shape) | {f"{name}, inference": call_of(name, *arguments, shape=shape)}
    if rows:
        found[f"{name} of a sum"] = lambda lib, x, g: partial(getattr(lib, f"{name}_forward"), x, *arguments, add=g)
    return found


def phases(lib: Any, x: Any, g: Any) -> Any:
    """Of batch norm, in one of two processes that have the same rows."""
    moments = lib.merge_moments([lib.batch_moments(x)] * 2)
    _, context = lib.batch_norm_apply(x, moments, None, None, ONES, ZEROS)
    return lib.batch_norm_finish(g, context, 2 * lib.batch_norm_sums(g, context))


def operations() -> dict[str, Setup]:
    """By name: the rows of the compiled lists, and the other functions."""
    found: dict[str, Setup] = {}
    for name in gradfuse.activations():
        found |= pair(name, saves=gradfuse.saves(name))
    for name in _core.row_operations():
        saves = _core.row_info(name)["saves"]
        found |= pair(name, saves=saves) | pair(name, title=f"{name}, axis 0", saves=saves, axis=0)
    for name in _core.norms():
        found |= norm(name)
    for row in _core.losses():
        found[row["name"]] = lambda lib, x, g, name=row["name"]: partial(getattr(lib, name), x, g)
    for row in _core.optimizer_list():
        found[row["name"]] = lambda lib, x, g, name=row["name"]: partial(getattr(lib.optim, name)([x.copy()]).step, [g])
    labels = np.arange(SIZES["DRAM"] // COLUMNS) % COLUMNS
    fused: dict[str, Any] = {"activation": "relu", "dropout": 0.5, "rng": 1}
    return {
        **found,
        **pair("glu"),
        **pair("prelu", ONES / 4),
        **pair("rrelu", rng=1),
        **pair("dropout", rng=1),
        **pair("alpha_dropout", rng=1),
        **pair("maxout", 4, title="maxout of 4"),
        "gated": lambda lib, x, g: partial(lib.gated, x, g),
        "gated backward": lambda lib, x, g: partial(lib.gated_backward, g, x, g),
        **pair("bias_act", ZEROS, "elu", title="bias + elu"),
        **pair("bias_act", ZEROS, title="bias + relu + dropout", **fused),
        **pair("batch_norm", None, None, ONES, ZEROS),
        **pair("batch_norm", None, None, ONES, ZEROS, title="batch_norm + relu + dropout", **fused),
        "batch_norm, phases apart": lambda lib, x, g: partial(phases, lib, x, g),
        "batch_norm, inference": call_of("batch_norm", ZEROS, ONES, ONES, ZEROS),
        "fold_batch_norm": call_of("fold_batch_norm", ZEROS, ZEROS, ONES, ONES, ZEROS),
        "cross_entropy": lambda lib, x, g: partial(lib.cross_entropy, x, labels[: len(x)]),
        "cross_entropy, label smoothing": lambda lib, x, g: partial(
            lib.cross_entropy, x, labels[: len(x)], label_smoothing=0.1
        ),
        "clip_grad_norm_": lambda lib, x, g: partial(lib.clip_grad_norm_, [g.copy()], 1e30),
        "clip_grad_value_": lambda lib, x, g: partial(lib.clip_grad_value_, [g.copy()], 1e30),
        "max_norm_": lambda lib, x, g: partial(lib.max_norm_, x.copy(), 1e30),
    }


# Of what gradfuse's function is given in its place, in float32.
NUMPY: dict[str, Callable[..., Any]] = {
    "relu": lambda x: np.maximum(x, 0),
    "relu backward": lambda g, y: g * (y > 0),
    "silu": lambda x: x / (1 + np.exp(-x)),
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "sigmoid backward": lambda g, y: g * y * (1 - y),
    "tanh": np.tanh,
    "tanh backward": lambda g, y: g * (1 - y * y),
    "softsign": lambda x: x / (1 + abs(x)),
    "gated": lambda a, gate: a * gate / (1 + np.exp(-gate)),
    "dropout": lambda x: x * (np.random.default_rng(1).random(x.shape, np.float32) >= 0.5) * 2,
    "softmax": lambda x: (e := np.exp(x - x.max(1, keepdims=True))) / e.sum(1, keepdims=True),
    "softmax backward": lambda g, y: y * (g - (g * y).sum(1, keepdims=True)),
    "mse_loss": lambda x, t: (np.square(x - t).mean(), (x - t) * (2 / x.size)),
    "layer_norm": lambda x, w, b: (x - x.mean(1, keepdims=True)) / np.sqrt(x.var(1, keepdims=True) + 1e-5) * w + b,
    "rms_norm": lambda x, w: x / np.sqrt(np.square(x).mean(1, keepdims=True) + 2**-23) * w,
    "batch_norm": lambda x, _, __, w, b: (x - x.mean(0)) / np.sqrt(x.var(0) + 1e-5) * w + b,
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
    end = timeit.default_timer() + seconds * len(calls)
    while timeit.default_timer() < end or len(times[0]) < 3:
        for call, taken in zip(calls.values(), times, strict=True):
            call()
            taken.append(timeit.timeit(call, number=1))
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
