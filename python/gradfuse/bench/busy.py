"""How much another process hurts: `python -m gradfuse.bench.busy`.

A process keeps one core busy. Each case runs on all threads beside it, and is compared with itself on one thread while
the machine is quiet: a kernel that waited for a thread without a core would take many times as long.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import gradfuse
from gradfuse.bench.cases import all_cases
from gradfuse.bench.timing import measure

SIZES = (1 << 16, 1 << 18, 1 << 20, 1 << 22)


@contextlib.contextmanager
def one_core_busy() -> Iterator[None]:
    spin = "import os\nos.sched_setaffinity(0, {max(os.sched_getaffinity(0))})\nprint(flush=True)\nwhile True: pass"
    with subprocess.Popen([sys.executable, "-c", spin], stdout=subprocess.PIPE) as process:
        try:
            if process.stdout is not None:
                process.stdout.readline()  # it has begun
            yield
        finally:
            process.kill()


def _seconds(call: Callable[[], object], threads: int, budget: float) -> float:
    gradfuse.set_num_threads(threads)
    return measure({"gradfuse": call}, budget, settle=0.002)["gradfuse"].median


def _pair(call: Callable[[], object], threads: int, budget: float) -> tuple[float, float]:
    """Seconds on one thread in quiet, before and after, and on `threads` with one core busy."""
    before = _seconds(call, 1, budget)
    with one_core_busy():
        busy = _seconds(call, threads, budget)
    return (before + _seconds(call, 1, budget)) / 2, busy


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m gradfuse.bench.busy", description=__doc__.partition("\n")[0])
    parser.add_argument("--only", default="", help="cases whose name contains this")
    parser.add_argument("--seconds", type=float, default=0.1, help="time for each measurement")
    parser.add_argument("--output", type=Path, help="file to write the table to, too")
    args = parser.parse_args()
    threads = os.cpu_count() or 1
    lines = [
        f"{'case':36}{'elements':>9}{'us, one thread':>16}{f'us, {threads} threads, one core busy':>34}{'ratio':>7}"
    ]
    print(lines[0])
    ratios = []
    for case in all_cases():
        if args.only not in case.name:
            continue
        for n in case.sizes or SIZES:
            call = case.build(n)["gradfuse"]
            # Thrice, the middle one kept: what else this machine's owner runs comes and goes.
            serial, busy = sorted((_pair(call, threads, args.seconds) for _ in range(3)), key=lambda t: t[1] / t[0])[1]
            ratios.append(busy / serial)
            lines.append(f"{case.name:36}{n:9}{serial * 1e6:16.1f}{busy * 1e6:34.1f}{ratios[-1]:7.2f}")
            print(lines[-1], flush=True)
    ratios.sort()
    lines.append(f"\nratio: median {ratios[len(ratios) // 2]:.2f}, greatest {ratios[-1]:.2f}, of {len(ratios)}")
    print(lines[-1])
    if args.output:
        args.output.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
