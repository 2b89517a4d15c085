"""`python -m benchmarks --device cuda`: a GPU, beside PyTorch, CuPy, JAX and Triton where installed."""

from __future__ import annotations

import argparse
import gc
import re
import shutil
import subprocess
import sys
import time
import warnings
from typing import Any

import gradfuse
from benchmarks import report
from benchmarks.cuda import report as cuda_report
from benchmarks.cuda.arrays import TOLERANCES, Memory, as_float32, disagreement, poison_pool, torch_on_gpu
from benchmarks.cuda.cases import MAIN_ACTIVATIONS, Case, Contest, all_cases, case_names, ceilings
from benchmarks.cuda.marks import missed
from benchmarks.cuda.timing import Contender, Unit, error_text, measure, unit_of, work_on
from benchmarks.peers import optional
from benchmarks.progress import progress_bar
from gradfuse import _core

PEERS = ("cupy", "torch", "triton", "jax")
UNIT_BYTES = 4e9  # that the calls of a unit move: a millisecond, in which a launch is not seen
PICTURE_EVERY = 30.0  # seconds


def why_not() -> str:
    """Why nothing can be measured on a GPU here; empty where it can."""
    kernels = _core.build_info()["cuda"]
    if reason := gradfuse.cuda.why_not():
        return reason
    if "emulated" in kernels:
        return f"the CUDA kernels of this build are {kernels}"
    return "" if optional("cupy") else "CuPy is not installed"


def machine(common: dict[str, str]) -> dict[str, str]:
    """The GPU, before what is known of the machine."""
    import cupy

    properties = cupy.cuda.runtime.getDeviceProperties(cupy.cuda.runtime.getDevice())
    name = properties["name"]
    return {
        "gpu": name.decode() if isinstance(name, bytes) else str(name),
        "driver": _driver(),
        "CUDA": f"{cupy.cuda.runtime.driverGetVersion()}, CuPy's {cupy.cuda.runtime.runtimeGetVersion()}",
        "gradfuse's kernels": _core.build_info()["cuda"],
        **common,
    }


def _driver() -> str:
    if not (tool := shutil.which("nvidia-smi")):
        return "unknown"
    query = [tool, "--query-gpu=driver_version", "--format=csv,noheader"]
    lines = subprocess.run(query, capture_output=True, text=True, check=False).stdout.splitlines()
    return lines[0].strip() if lines else "unknown"


def _first_results(contest: Contest, contender: Contender) -> list[Any]:
    """What the first calls of a contender give, as float32, less the contest's base."""
    results, undo = [], []
    try:
        for change, back in contest.first_calls:
            change()
            undo.append(back)
            results = contender.call(0)
        found = [as_float32(r) for r in results]
    finally:
        for back in reversed(undo):
            back()
    return [a - as_float32(b) for a, b in zip(found, contest.base, strict=True)] if contest.base else found


def _agreeing(contest: Contest) -> dict[str, Contender]:
    """Those whose results are gradfuse's, or the first one's where gradfuse has none; the others are noted."""
    agreeing: dict[str, Contender] = {}
    expected: list[Any] = []
    tolerance = TOLERANCES[contest.dtype]
    for name, contender in contest.contenders.items():
        try:
            poison_pool(contest.like)
            found = _first_results(contest, contender)
            problem = disagreement(found, expected or found, tolerance, contest.where_kept)
        except Exception as error:
            problem = error_text(error)
        if problem:
            contest.problems[name] = problem
        else:
            agreeing[name] = contender
            expected = expected or found
        if "gradfuse" in contest.problems:
            return {}  # nothing to compare with
    return agreeing


def run_case(case: Case, memory: Memory, stream: Any, seconds: float, copy: float | None) -> report.Row:
    """A row of the table; copy is the speed of one, in bytes a second."""
    contest = Contest(memory, case.dtype, case.sets, case.clock)
    row: report.Row = {
        "case": case.name,
        "dtype": case.dtype,
        "shape": case.shape,
        "clock": case.clock,
        "bytes": case.bytes,
        "gbs": None,
        "copy_share": None,
        "seconds": {},
        "eager": {},
        "problems": contest.problems,
    }
    with work_on(stream):
        try:
            case.build(contest)
        except Exception as error:  # those that are in by then take part
            contest.problems["peers" if "gradfuse" in contest.contenders else "all"] = error_text(error)
        calls = case.calls or case.sets * max(1, round(UNIT_BYTES / (case.sets * case.bytes)))
        units: dict[str, Unit] = {}
        for name, contender in _agreeing(contest).items():
            try:
                units[name], reason = unit_of(contender, case.sets, calls, case.clock, stream)
                if reason:
                    row["eager"][name] = reason
            except Exception as error:
                contest.problems[name] = error_text(error)
        if units:
            row["seconds"] = {name: vars(sample) for name, sample in measure(units, seconds, stream).items()}
    if "gradfuse" in row["seconds"] and case.bytes:
        row["gbs"] = case.bytes / row["seconds"]["gradfuse"]["median"] / 1e9
        row["copy_share"] = row["gbs"] * 1e9 / copy if copy else None
    return row


def _row(case: Case, memory: Memory, stream: Any, seconds: float, copy: float | None) -> report.Row:
    """The same, or a row that says why there is none."""
    try:
        return run_case(case, memory, stream, seconds, copy)
    except Exception as error:
        row = {"case": case.name, "dtype": case.dtype, "shape": case.shape, "clock": case.clock, "bytes": case.bytes}
        problems = {"all": error_text(error)}
        return {**row, "gbs": None, "copy_share": None, "seconds": {}, "eager": {}, "problems": problems}


def _clear() -> None:
    """Gives back what a case has held, and forgets what torch.compile made for it."""
    import cupy

    if "torch._dynamo" in sys.modules:
        sys.modules["torch._dynamo"].reset()
    free, total = cupy.cuda.runtime.memGetInfo()
    if free < total // 2:
        gc.collect()
        cupy.get_default_memory_pool().free_all_blocks()
        if torch := torch_on_gpu():
            torch.cuda.empty_cache()


def is_full(names: list[str]) -> bool:
    """Whether every row of the table is asked for."""
    return set(names) >= set(case_names(MAIN_ACTIVATIONS))


def run(args: argparse.Namespace, common: dict[str, str]) -> int:
    """Measures until all is done or args.deadline has come; the exit status. `common`: the machine without its GPU."""
    began = time.monotonic()
    import cupy

    warnings.simplefilter("ignore")  # PyTorch's on calling what is made for graphs
    stream = cupy.cuda.Stream(non_blocking=True)
    with work_on(stream):
        memory = Memory()
    full = is_full(args.only)
    activations = MAIN_ACTIVATIONS if full else tuple(gradfuse.activations())
    first = ceilings()
    queue = [*first, *(case for case in all_cases(memory.dtypes, activations) if case.name in args.only)]
    results: dict[str, Any] = {
        "machine": machine(common),
        "ceilings": [],
        "rows": [],
        "not_measured": [],
        "stopped": "",
    }
    stem = "cuda-" + re.sub(r"[^A-Za-z0-9]+", "-", results["machine"]["gpu"]).strip("-")
    drawn = time.monotonic()

    def save() -> None:
        nonlocal drawn
        draw = time.monotonic() - drawn > PICTURE_EVERY
        report.write(results, args.output, stem, False, cuda_report.text, cuda_report.picture if draw else None)
        drawn = time.monotonic() if draw else drawn

    copy: float | None = None
    broken = False
    try:
        for case in (bar := progress_bar(queue)):
            bar.set_description(f"{case.name}, {case.dtype}, {case.shape}")
            if time.monotonic() - began > args.deadline:
                results["stopped"] = f"for {args.deadline:g} seconds had passed"
                break
            row = _row(case, memory, stream, args.seconds, copy)
            results["ceilings" if case in first else "rows"].append(row)
            try:
                stream.synchronize()
                _clear()
            except Exception as error:  # a fault on the device: nothing works from here on in this process
                broken = True
                results["stopped"] = f"for the GPU failed in {case.name}: {error_text(error)}"
                break
            speeds = [gbs * 1e9 for kind, _, _, gbs in cuda_report.ceiling_rows(results) if kind == "copy"]
            copy = max(speeds, default=None)
            save()
    except KeyboardInterrupt:
        results["stopped"] = "for it was interrupted"
    done = len(results["ceilings"]) + len(results["rows"])
    results["not_measured"] = [f"{c.name}, {c.dtype}, {c.shape}" for c in queue[done:]]
    full = full and not results["stopped"]
    paths = report.write(results, args.output, stem, full, cuda_report.text, cuda_report.picture)
    print(cuda_report.text(results))
    print("\nslower than their marks:", *(missed(results) or ["none"]), sep="\n")
    print(f"\n{time.monotonic() - began:.0f} seconds")
    print(*(f"wrote {path}" for path in paths), sep="\n")
    failed = any({"gradfuse", "all"} & row["problems"].keys() for row in results["rows"])
    return 1 if broken or failed or "interrupted" in results["stopped"] else 0
