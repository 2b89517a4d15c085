"""Worker processes for the trials of a search, each on one thread."""

from __future__ import annotations

import os
import pickle
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from itertools import islice
from multiprocessing import get_context, parent_process
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

import gradfuse

Calls = Iterable[tuple[Any, ...]]
ONE_THREAD = {f"{library}_NUM_THREADS": "1" for library in ("MKL", "OMP", "OPENBLAS")}

function: Callable[..., None]  # a worker's
interrupt: Any


@contextmanager
def worker_pool(where: str, pickled: bytes, count: int) -> Iterator[Callable[[Calls], Iterator[None]]]:
    """A starmap of a pickled function in at most so many processes, which yields as often as a call is over.

    It raises what a call raises, caused by its traceback, and RuntimeError where a process dies.
    """

    def submitted(calls: Calls, most: int) -> set[Future[None]]:
        with _environment(ONE_THREAD):
            return {pool.submit(_call, *call) for call in islice(calls, most)}

    def starmap(calls: Calls) -> Iterator[None]:
        left = iter(calls)
        running = submitted(left, count)
        while running:
            over, running = wait(running, return_when=FIRST_COMPLETED)
            for future in over:
                future.result()
                running |= submitted(left, 1)  # and not before: the pool does what it has even after an exception
                yield

    with NamedTemporaryFile() as file:  # a pipe would stay full for ever where a process dies before it has read all
        file.write(pickled)
        file.flush()
        with ProcessPoolExecutor(count, get_context("spawn"), _prepare, (file.name,)) as pool:
            try:
                yield starmap
            except BrokenProcessPool as error:  # the pool ends the others, whatever lock they or the dead one may have
                going_on = "with a storage, the same call goes on from what is over"
                raise RuntimeError(f"{where}: a worker process has died; {going_on}") from error


def _prepare(path: str) -> None:
    global function, interrupt
    threading.Thread(target=_end_with, args=(parent_process(),), daemon=True).start()
    interrupt = signal.signal(signal.SIGINT, signal.SIG_IGN)  # while idle: the pool is ended by whose it is
    gradfuse.set_num_threads(1)
    function = pickle.loads(Path(path).read_bytes())


def _end_with(parent: Any) -> None:
    """A search that is killed leaves no workers behind."""
    parent.join()
    os._exit(1)


def _call(*arguments: Any) -> None:
    try:
        signal.signal(signal.SIGINT, interrupt)
        function(*arguments)
    except BaseException as error:
        try:
            pickle.loads(pickle.dumps(error))
        except Exception:
            raise RuntimeError(repr(error)) from error
        raise
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)


@contextmanager
def _environment(variables: dict[str, str]) -> Iterator[None]:
    before = {name: os.environ[name] for name in variables.keys() & os.environ.keys()}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name in variables:
            del os.environ[name]
        os.environ.update(before)
