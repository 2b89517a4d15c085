"""Measures on the CPU: a process for each thread count, whose rows are collected here."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np

import gradfuse
from benchmarks import report
from benchmarks.cases import Calls, Case, all_cases, case_names
from benchmarks.machine import environment, machine
from benchmarks.peers import optional
from benchmarks.progress import progress_bar
from benchmarks.timing import measure
from gradfuse.bench import SIZES


def thread_counts() -> list[int]:
    """Those of a full run: one, and all cores."""
    return sorted({1, os.cpu_count() or 1})


def cells(args: argparse.Namespace) -> list[tuple[Case, str, int]]:
    """What is measured with each thread count: a case, where its data fit, how many elements they have."""
    chosen = [case for case in all_cases() if case.name in args.only]
    return [
        (case, where, n)
        for case in chosen
        for where, n in ([("own", case.size)] if case.size else [(w, SIZES[w]) for w in args.where])
    ]


def work(args: argparse.Namespace) -> None:
    """Measures with args.worker threads, in a process of its own; prints JSON lines."""
    gradfuse.set_num_threads(args.worker)
    if torch := optional("torch"):
        torch.set_num_threads(args.worker)
    print(json.dumps({"machine": machine()}), flush=True)
    for case, where, n in cells(args):
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


def worker(threads: int) -> Iterator[dict[str, Any]]:
    """What a process that measures with so many threads prints. Raises CalledProcessError where it fails."""
    command = [sys.executable, "-m", "benchmarks", *sys.argv[1:], "--worker", str(threads)]
    # In a session of its own: Ctrl-C is for this process, which ends the other.
    options: dict[str, Any] = {"env": environment(threads), "start_new_session": True}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, **options) as process:
        try:
            yield from map(json.loads, process.stdout or ())
        except BaseException:
            process.kill()
            raise
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)


def is_full(args: argparse.Namespace) -> bool:
    """Whether every row of the table is asked for."""
    everything = (args.only, case_names()), (args.where, SIZES), (args.threads, thread_counts())
    return all(set(asked) >= set(known) for asked, known in everything)


def run(args: argparse.Namespace) -> int:
    """Measures, writes and shows the table; the exit status."""
    results: dict[str, Any] = {"machine": {}, "rows": []}
    stopped = ""
    try:
        for threads in args.threads:
            rows = worker(threads)
            results |= next(rows)  # the machine
            for case, where, _ in (bar := progress_bar(cells(args))):
                bar.set_description(f"{report.counted(threads, 'thread')}: {case.name}, {where}")
                results["rows"].append(next(rows))
            report.write(results, args.output, stem(results), full=False)  # what is measured must not be lost
    except KeyboardInterrupt:
        stopped = "interrupted"
    except subprocess.CalledProcessError as error:
        stopped = f"the process that measures ended with status {error.returncode}"
    if results["rows"]:
        paths = report.write(results, args.output, stem(results), full=is_full(args) and not stopped)
        print(report.table(results["rows"]))
        print(*(f"wrote {path}" for path in paths), sep="\n")
    if stopped:
        print(f"python -m benchmarks: {stopped}", file=sys.stderr)
    return 1 if stopped else 0


def stem(results: dict[str, Any]) -> str:
    return f"cpu-{results['machine']['instruction set']}"
