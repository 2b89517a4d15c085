"""The command line of the benchmark; see `python -m gradfuse.bench --help`."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

from gradfuse.bench.machine import environment, machine

# In elements of float32, per array: in L2, in L3, in DRAM.
SIZES = {"L2": 1 << 16, "L3": 1 << 20, "DRAM": 1 << 24}


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m gradfuse.bench", description="Measures gradfuse beside its peers.")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="where to measure")
    parser.add_argument(
        "--output", type=Path, default=Path("gradfuse-bench"), help="folder for table, JSON and picture"
    )
    parser.add_argument("--only", default="", help="cases whose name contains this")
    parser.add_argument("--where", nargs="+", choices=SIZES, default=list(SIZES), help="sizes to measure")
    parser.add_argument("--threads", nargs="+", type=int, help="thread counts (default: one, and all)")
    parser.add_argument("--seconds", type=float, default=0.04, help="time for each contender of a cell")
    parser.add_argument("--deadline", type=float, default=300, help="seconds after which nothing is begun, on CUDA")
    parser.add_argument("--worker", type=int, help=argparse.SUPPRESS)
    return parser.parse_args()


def _work(args: argparse.Namespace) -> None:
    """Measures with one thread count, in a process of its own; prints JSON lines."""
    import numpy as np

    import gradfuse
    from gradfuse.bench.cases import Calls, all_cases, optional
    from gradfuse.bench.timing import measure

    gradfuse.set_num_threads(args.worker)
    if torch := optional("torch"):
        torch.set_num_threads(args.worker)
    print(json.dumps({"machine": machine()}), flush=True)
    for case in all_cases():
        if args.only not in case.name:
            continue
        for where, n in {"own": case.sizes[0]}.items() if case.sizes else [(w, SIZES[w]) for w in args.where]:
            source, target = np.ones(n, np.float32), np.zeros(n, np.float32)
            calls: Calls = {**case.build(n), "copy": partial(np.copyto, target, source)}
            # Idle threads of OpenMP and OpenBLAS spin for milliseconds on the cores that the next contender needs.
            seconds = measure(calls, args.seconds, settle=0.03 if args.worker > 1 else 0.002)
            copy = seconds.pop("copy").median
            row = {
                "case": case.name,
                "family": case.family,
                "where": where,
                "threads": args.worker,
                "elements": n,
                "copy_share": None if where == "own" else case.bytes / 8 * copy / seconds["gradfuse"].median,
                "seconds": {k: vars(v) for k, v in seconds.items()},
            }
            print(json.dumps(row), flush=True)


def main() -> None:
    args = _arguments()
    if args.device == "cuda":
        # JAX would take most of the GPU's memory, and PyTorch's compiler start a process for every core.
        os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
        os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")
        from gradfuse.bench.cuda import run as cuda_run

        cuda_run.run(args, machine(cuda_run.PEERS))
        return
    if args.worker:
        _work(args)
        return
    from gradfuse.bench import report

    results: dict[str, Any] = {"machine": {}, "rows": []}
    for threads in args.threads or sorted({1, os.cpu_count() or 1}):
        command = [sys.executable, "-m", "gradfuse.bench", *sys.argv[1:], "--worker", str(threads)]
        print(f"\n{threads} thread{'s' if threads > 1 else ''}")
        first = True
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment(threads)) as worker:
            for line in worker.stdout or ():
                item = json.loads(line)
                if "machine" in item:
                    results["machine"] = item["machine"]
                    continue
                results["rows"].append(item)
                text = report.table([item]).splitlines()
                print(text[0] + "\n" + text[1] if first else text[1], flush=True)
                first = False
        if worker.returncode:
            sys.exit(worker.returncode)
        isa = results["machine"].get("instruction set", "cpu")  # written after each, lest a long run be lost
        paths = report.write(results, args.output, f"cpu-{isa}")
    print()
    print(report.table(results["rows"]))
    for path in paths:
        print(f"wrote {path}")


if __name__ == "__main__":
    main()
