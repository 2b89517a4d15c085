"""`python -m benchmarks.training`: training steps through layers and `fit`, beside a loop by hand and PyTorch.

One process per thread count, the contenders in turns. The dense net is that of examples/digits.py (64-300-100-10, batch
norm, ELU, dropout, batches of 32, NAdam), its loop by hand the one written there; the convolutional net has two pairs
of 3 x 3 convolutions on 64 images of 8 x 8 (32 and 64 channels, batch norm, ReLU, max pool, dropout, Adam).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

import gradfuse
from benchmarks.cases import Calls
from benchmarks.cpu import thread_counts
from benchmarks.machine import environment, machine
from benchmarks.options import add_output, prepared
from benchmarks.peers import optional
from benchmarks.report import counted
from benchmarks.timing import measure
from gradfuse import data, nn
from gradfuse.bench import Parser, between
from gradfuse.training import Run, fit

STEPS, EPOCHS = 50, 4  # steps to an epoch, epochs to a run of the dense net
DESCRIPTION = """Measures steps of training beside a loop written by hand and PyTorch. A run takes about two minutes and
writes training.json to the folder --output when all is measured."""
DENSE, CONVOLUTIONAL = "dense net, batch 32", "convolutional net, batch 64"


def dense_layers(library: Any, linear: Any, norm: Any) -> list[Any]:
    hidden = [(64, 300), (300, 100)]
    layers = [(linear(n, m, bias=False), norm(m), library.ELU(), library.Dropout(0.25)) for n, m in hidden]
    return [layer for part in layers for layer in part] + [linear(100, 10)]


def by_hand() -> Callable[[], object]:
    """An epoch with gradfuse's functions alone."""
    rng = np.random.default_rng(0)
    x, t = samples((64,), 32)
    w = [rng.normal(0, (2 / n) ** 0.5, (n, m)).astype(np.float32) for n, m in [(64, 300), (300, 100), (100, 10)]]
    norms = [[f(n, np.float32) for f in (np.zeros, np.ones, np.ones, np.zeros)] for n in (300, 100)]
    bias = np.zeros(10, np.float32)
    (mean1, var1, gamma1, beta1), (mean2, var2, gamma2, beta2) = norms
    optimizer = gradfuse.optim.NAdam([w[0], gamma1, beta1, w[1], gamma2, beta2, w[2], bias])
    fused: dict[str, Any] = {"activation": "elu", "dropout": 0.25, "rng": gradfuse.Generator(0)}

    def epoch() -> None:
        order = rng.permutation(len(x))
        for start in range(0, len(x), 32):
            batch = order[start : start + 32]
            xb = x[batch]
            h1, ctx1 = gradfuse.batch_norm_forward(xb @ w[0], mean1, var1, gamma1, beta1, **fused)
            h2, ctx2 = gradfuse.batch_norm_forward(h1 @ w[1], mean2, var2, gamma2, beta2, **fused)
            _, dlogits = gradfuse.cross_entropy(h2 @ w[2] + bias, t[batch])
            dz2, dgamma2, dbeta2 = gradfuse.batch_norm_backward(dlogits @ w[2].T, ctx2)
            dz1, dgamma1, dbeta1 = gradfuse.batch_norm_backward(dz2 @ w[1].T, ctx1)
            dw = xb.T @ dz1, h1.T @ dz2, h2.T @ dlogits
            optimizer.step([dw[0], dgamma1, dbeta1, dw[1], dgamma2, dbeta2, dw[2], dlogits.sum(axis=0)])

    return epoch


def samples(shape: tuple[int, ...], batch: int) -> tuple[Any, Any]:
    rng = np.random.default_rng(1)
    return rng.normal(size=(STEPS * batch, *shape)).astype(np.float32), rng.integers(0, 10, STEPS * batch)


def by_fit() -> Callable[[], object]:
    model = nn.Sequential(*dense_layers(nn, nn.Linear, nn.BatchNorm), rng=0)
    batches = data.Batches(*samples((64,), 32), batch_size=32)
    optimizer = gradfuse.optim.NAdam(model.parameters())
    return lambda: fit(model, batches, optimizer, epochs=EPOCHS, progress=False)


def convolutional_layers(library: Any, conv: Any, norm: Any, pool: Any, linear: Any) -> list[Any]:
    def block(n: int, m: int) -> list[Any]:
        pairs = [(conv(i, m, 3, padding=1, bias=False), norm(m), library.ReLU()) for i in (n, m)]
        return [*pairs[0], *pairs[1], pool(2), library.Dropout(0.25)]

    head = [library.Flatten(), linear(256, 128), library.ReLU(), library.Dropout(0.5), linear(128, 10)]
    return [*block(1, 32), *block(32, 64), *head]


def by_layers() -> Callable[[], object]:
    layers = convolutional_layers(nn, nn.Conv2D, nn.BatchNorm, nn.MaxPool2D, nn.Linear)
    model = nn.Sequential(*layers, rng=0)
    batches = data.Batches(*samples((1, 8, 8), 64), batch_size=64)
    run = Run(model, batches, gradfuse.optim.Adam(model.parameters()), gradfuse.cross_entropy, 1, None)
    return lambda: [*run.train_epoch((), ()), run.end_epoch()]


def by_torch(torch: Any, layers: list[Any], optimizer: str, shape: tuple[int, ...], batch: int) -> Callable[[], object]:
    model = torch.nn.Sequential(*layers)
    step = getattr(torch.optim, optimizer)(model.parameters())
    loss = torch.nn.CrossEntropyLoss()
    x, t = map(torch.from_numpy, samples(shape, batch))

    def epoch() -> None:
        order = torch.randperm(len(x))
        for start in range(0, len(x), batch):
            rows = order[start : start + batch]
            step.zero_grad()
            loss(model(x[rows]), t[rows]).backward()
            step.step()

    return epoch


def repeated(epoch: Callable[[], object]) -> Callable[[], object]:
    return lambda: [epoch() for _ in range(EPOCHS)]


def contests() -> dict[str, Calls]:
    calls: dict[str, Calls] = {
        DENSE: {"fit": by_fit(), "loop by hand": repeated(by_hand())},
        CONVOLUTIONAL: {"gradfuse": by_layers()},
    }
    if torch := optional("torch"):
        t = torch.nn
        dense = dense_layers(t, t.Linear, t.BatchNorm1d)
        convolutional = convolutional_layers(t, t.Conv2d, t.BatchNorm2d, t.MaxPool2d, t.Linear)
        calls[DENSE]["PyTorch eager"] = repeated(by_torch(torch, dense, "NAdam", (64,), 32))
        calls[CONVOLUTIONAL]["PyTorch eager"] = by_torch(torch, convolutional, "Adam", (1, 8, 8), 64)
    return calls


def work(threads: int) -> None:
    """Measures with so many threads, in a process of its own; prints JSON lines."""
    gradfuse.set_num_threads(threads)
    if torch := optional("torch"):
        torch.set_num_threads(threads)
    print(json.dumps(machine(("torch",))), flush=True)
    for name, calls in contests().items():
        seconds = measure(calls, 4.0, settle=0.03)
        steps = STEPS * (EPOCHS if name == DENSE else 1)
        row = {"case": name, "threads": threads}
        print(json.dumps(row | {"ms": {k: 1e3 * s.median / steps for k, s in seconds.items()}}), flush=True)


def main() -> None:
    parser = Parser(prog="python -m benchmarks.training", description=DESCRIPTION)
    add_output(parser)
    parser.add_argument("--worker", type=between(1, 1024), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        work(args.worker)
        return
    prepared(parser, args.output)
    results: dict[str, Any] = {"rows": []}
    for threads in thread_counts():
        command = [sys.executable, "-m", "benchmarks.training", "--worker", str(threads)]
        run = subprocess.run(command, env=environment(threads), stdout=subprocess.PIPE, text=True, check=False)
        if run.returncode:
            sys.exit(f"python -m benchmarks.training: the process that measures ended with status {run.returncode}")
        results["machine"], *rows = map(json.loads, run.stdout.splitlines())
        results["rows"] += rows
        for row in rows:
            first = next(iter(row["ms"].values()))
            times = ", ".join(f"{name} {ms:.3f} ms ({ms / first:.2f})" for name, ms in row["ms"].items())
            print(f"{row['case']}, {counted(threads, 'thread')}: {times}", flush=True)
    path = args.output / "training.json"
    path.write_text(json.dumps(results, indent=1) + "\n")
    print(f"wrote {path}")


if __name__ == "__main__":
    main()
