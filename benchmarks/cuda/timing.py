"""Timing on a GPU: CUDA graphs of several calls over rotating buffers, replayed in turn on one stream.

What cannot be captured is timed as it is called, and marked.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from benchmarks.cuda.arrays import torch_on_gpu
from benchmarks.peers import optional
from benchmarks.timing import Sample


@dataclass(frozen=True)
class Contender:
    """`call(k)` queues work on the k-th set of buffers and returns its results; `library` says by whose means."""

    call: Callable[[int], list[Any]]
    library: str  # cupy, torch or jax


@dataclass(frozen=True)
class Unit:
    """What is timed at once: `run` makes `calls` calls."""

    run: Callable[[], object]
    calls: int
    how: str  # graph; eager, between events too; host, by the host's clock


@contextlib.contextmanager
def work_on(stream: Any) -> Iterator[None]:
    """Makes a CuPy stream the current one of CuPy and PyTorch."""
    torch = torch_on_gpu()
    with stream, torch.cuda.stream(torch.cuda.ExternalStream(stream.ptr)) if torch else contextlib.nullcontext():
        yield


def _loop(contender: Contender, sets: int, calls: int) -> list[Any]:
    """The calls, one after another. The last results of every set live until its next, as in a training loop."""
    kept: list[Any] = [None] * sets
    for k in range(calls):
        kept[k % sets] = contender.call(k % sets)
    return kept


def _captured_by_cupy(contender: Contender, sets: int, calls: int) -> Callable[[], object]:
    import cupy

    stream, pool = cupy.cuda.Stream(non_blocking=True), cupy.cuda.MemoryPool()
    with cupy.cuda.using_allocator(pool.malloc), stream:
        stream.begin_capture()
        try:
            _loop(contender, sets, calls)
        except BaseException:
            with contextlib.suppress(Exception):
                stream.end_capture()
            raise
        graph = stream.end_capture()

    def replay(pool: Any = pool) -> None:  # the graph's memory stays the pool's for as long as it may be replayed
        graph.launch()

    return replay


def _captured_by_torch(contender: Contender, sets: int, calls: int) -> Callable[[], object]:
    torch = torch_on_gpu()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.stream(torch.cuda.Stream()):
        graph.capture_begin(capture_error_mode="relaxed")
        try:
            _loop(contender, sets, calls)
        except BaseException:
            with contextlib.suppress(Exception):
                graph.capture_end()
            raise
        graph.capture_end()
    replay: Callable[[], object] = graph.replay
    return replay


def unit_of(contender: Contender, sets: int, calls: int, clock: str, stream: Any) -> tuple[Unit, str]:
    """The unit, warm, and why it is no graph where it should be one. Raises where it cannot run.

    The clock: "device" times its work alone; "step" a call with all its work; "host" the host's part, launch included.
    """
    stream.synchronize()
    reason = ""
    if clock == "device" and contender.library == "jax":
        jax = optional("jax")
        unit = Unit(lambda: jax.block_until_ready(_loop(contender, sets, calls)), calls, "host")
        reason = "JAX queues its work itself"
    elif clock == "device":
        capture = _captured_by_torch if contender.library == "torch" else _captured_by_cupy
        try:
            unit = Unit(capture(contender, sets, calls), calls, "graph")
        except Exception as error:
            reason = error_text(error)
            unit = Unit(lambda: _loop(contender, sets, calls), calls, "eager")
    elif clock == "step":

        def steps() -> None:
            _loop(contender, sets, calls)
            stream.synchronize()

        unit = Unit(steps, calls, "host")
    else:

        def issue() -> None:
            for _ in range(calls):
                contender.call(0)

        unit = Unit(issue, calls, "host")
    for _ in range(2):
        unit.run()
        stream.synchronize()
    return unit, reason


def _round(units: dict[str, Unit], order: list[str], stream: Any) -> dict[str, float]:
    """Seconds of one call of each, run one after another."""
    import cupy

    seconds, events = {}, {}
    for name in order:
        unit = units[name]
        if unit.how != "graph":
            stream.synchronize()
        if unit.how == "host":
            start = time.perf_counter()
            unit.run()
            seconds[name] = (time.perf_counter() - start) / unit.calls
            stream.synchronize()
        else:
            first, last = cupy.cuda.Event(), cupy.cuda.Event()
            first.record(stream)
            unit.run()
            last.record(stream)
            events[name] = first, last
    stream.synchronize()
    for name, (first, last) in events.items():
        seconds[name] = cupy.cuda.get_elapsed_time(first, last) / 1e3 / units[name].calls
    return seconds


def measure(units: dict[str, Unit], seconds: float, stream: Any) -> dict[str, Sample]:
    """Times the units against each other for about `seconds` each."""
    names = list(units)
    first = _round(units, names, stream)
    longest = max(units[name].calls * first[name] for name in names)
    rounds = min(100, max(7, int(seconds / longest)))
    times: dict[str, list[float]] = {name: [] for name in names}
    for k in range(rounds):
        shift = k % len(names)  # another one goes first each round
        for name, value in _round(units, names[shift:] + names[:shift], stream).items():
            times[name].append(value)
    return {name: Sample.of(values) for name, values in times.items()}


def error_text(error: BaseException) -> str:
    """An exception in a line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = f"{type(error).__name__}: {lines[0] if lines else ''}"
    return text if len(text) <= 200 else text[:197] + "..."
