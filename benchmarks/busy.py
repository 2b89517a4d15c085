"""How much another process hurts: `python -m benchmarks.busy`.

A process keeps one core busy. Each case runs on all threads beside it, and is compared with itself on one thread while
the machine is quiet: a kernel that waited for a thread without a core would take many times as long.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator

import gradfuse
from benchmarks.cases import all_cases, case_names
from benchmarks.machine import instruction_set
from benchmarks.options import BOTH_KINDS, add_only, add_output, prepared
from benchmarks.progress import progress_bar
from benchmarks.report import PARTIAL
from benchmarks.timing import measure
from gradfuse.bench import Parser, between

SIZES = (1 << 16, 1 << 18, 1 << 20, 1 << 22)
DESCRIPTION = f"""Measures every case on all threads beside a process that keeps one core busy. A full run takes about
six minutes and writes busy-ISA.txt to the folder --output. {BOTH_KINDS}"""


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
    parser = Parser(prog="python -m benchmarks.busy", description=DESCRIPTION)
    add_only(parser)
    add_output(parser)
    parser.add_argument("--seconds", type=between(1e-6, 3600.0), default=0.1, help="for each measurement (0.1)")
    args = parser.parse_args()
    names = parser.selected(case_names(), args.only)
    if args.list:
        print(*names, sep="\n")
        return
    prepared(parser, args.output)
    threads = os.cpu_count() or 1
    lines = [
        f"{'case':36}{'elements':>9}{'us, one thread':>16}{f'us, {threads} threads, one core busy':>34}{'ratio':>7}"
    ]
    ratios = []
    chosen = [(case, n) for case in all_cases() if case.name in names for n in ([case.size] if case.size else SIZES)]
    for case, n in (bar := progress_bar(chosen)):
        bar.set_description(f"{case.name}, {n}")
        call = case.build(n)["gradfuse"]
        # Three times, the middle one kept: what else runs on this machine comes and goes.
        serial, busy = sorted((_pair(call, threads, args.seconds) for _ in range(3)), key=lambda t: t[1] / t[0])[1]
        ratios.append(busy / serial)
        lines.append(f"{case.name:36}{n:9}{serial * 1e6:16.1f}{busy * 1e6:34.1f}{ratios[-1]:7.2f}")
    ratios.sort()
    lines.append(f"\nratio: median {ratios[len(ratios) // 2]:.2f}, greatest {ratios[-1]:.2f}, of {len(ratios)}")
    print(*lines, sep="\n")
    path = args.output / f"busy-{instruction_set()}{'' if set(names) == set(case_names()) else PARTIAL}.txt"
    path.write_text("\n".join(lines) + "\n")
    print(f"wrote {path}")


if __name__ == "__main__":
    main()
