"""`python -m gradfuse.bench --device cuda`: a GPU, beside PyTorch, CuPy, JAX and Triton where installed."""

from __future__ import annotations

import argparse
import gc
import re
import shutil
import subprocess
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import gradfuse
from gradfuse import _core
from gradfuse.bench import report
from gradfuse.bench.cases import optional
from gradfuse.bench.cuda import report as cuda_report
from gradfuse.bench.cuda.arrays import TOLERANCES, Memory, as_float32, disagreement, poison_pool, torch_on_gpu
from gradfuse.bench.cuda.cases import Case, Contest, all_cases, ceilings
from gradfuse.bench.cuda.timing import Contender, Unit, error_text, measure, unit_of, work_on

PEERS = ("cupy", "torch", "triton", "jax")
UNIT_BYTES = 4e9  # that the calls of a unit move: a millisecond, in which a launch is not seen
PICTURE_EVERY = 30.0  # seconds


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
        except Exception as error:  # whoever is in by then takes part
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


def _failed(case: Case, error: BaseException) -> report.Row:
    row = {"case": case.name, "dtype": case.dtype, "shape": case.shape, "clock": case.clock, "bytes": case.bytes}
    return {**row, "gbs": None, "copy_share": None, "seconds": {}, "eager": {}, "problems": {"all": error_text(error)}}


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


def run(args: argparse.Namespace, common: dict[str, str]) -> None:
    """Measures until all is done or args.deadline has come. `common` is what the machine is besides its GPU."""
    began = time.monotonic()
    if reason := gradfuse.cuda.why_not():
        sys.exit(f"python -m gradfuse.bench --device cuda: {reason}")
    import cupy

    warnings.simplefilter("ignore")  # PyTorch's on calling what is made for graphs
    stream = cupy.cuda.Stream(non_blocking=True)
    with work_on(stream):
        memory = Memory()
    first, cases = ceilings(), all_cases(memory.dtypes, args.only)
    results: dict[str, Any] = {
        "machine": machine(common),
        "ceilings": [],
        "rows": [],
        "not_measured": [],
        "stopped": "",
    }
    stem = "cuda-" + re.sub(r"[^A-Za-z0-9]+", "-", results["machine"]["gpu"]).strip("-")
    drawn = time.monotonic()

    def write(draw: bool) -> list[Path]:
        nonlocal drawn
        if draw:
            drawn = time.monotonic()
        drawer = cuda_report.picture if draw else lambda results, path: None
        paths = report.write(results, args.output, stem, cuda_report.text, drawer)
        return [path for path in paths if path.exists()]

    queue = [*first, *cases]
    tqdm = optional("tqdm")
    bar = tqdm.tqdm(total=len(queue), unit="case") if tqdm else None
    copy: float | None = None
    broken = False
    for case in queue:
        if bar:
            bar.set_description(f"{case.name}, {case.dtype}, {case.shape}")
        if time.monotonic() - began > args.deadline:
            results["stopped"] = f"for {args.deadline:g} seconds had passed"
        else:
            try:
                row = run_case(case, memory, stream, args.seconds, copy)
            except Exception as error:
                row = _failed(case, error)
            results["ceilings" if case in first else "rows"].append(row)
            try:
                stream.synchronize()
                _clear()
            except Exception as error:  # a fault on the device: nothing works from here on in this process
                broken = True
                results["stopped"] = f"for the GPU failed in {case.name}: {error_text(error)}"
            speeds = [gbs * 1e9 for kind, _, _, gbs in cuda_report.ceiling_rows(results) if kind == "copy"]
            copy = max(speeds, default=None)
        if results["stopped"]:
            done = len(results["ceilings"]) + len(results["rows"])
            results["not_measured"] = [f"{c.name}, {c.dtype}, {c.shape}" for c in queue[done:]]
            break
        write(draw=time.monotonic() - drawn > PICTURE_EVERY)
        if bar:
            bar.update()
    if bar:
        bar.close()
    paths = write(draw=True)
    print(cuda_report.text(results))
    print(f"\n{time.monotonic() - began:.0f} seconds")
    for path in paths:
        print(f"wrote {path}")
    if broken or any({"gradfuse", "all"} & row["problems"].keys() for row in results["rows"]):
        sys.exit(1)
