"""A search as a study of Optuna's: its arguments, its trials, the file that keeps it. A search alone imports it."""

from __future__ import annotations

import fcntl
import math
import os
import pickle
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import starmap
from operator import itemgetter
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import optuna
from optuna.storages import InMemoryStorage, JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState
from tqdm import tqdm

from gradfuse import _checks
from gradfuse.search.objective import Direction, Objective, Parameters, Report, as_float
from gradfuse.search.result import Result
from gradfuse.search.space import Distribution
from gradfuse.search.workers import worker_pool


@dataclass
class Search:
    """The arguments of a search, checked, and its study."""

    where: str  # the function that was given them
    objective: Objective
    space: dict[str, Distribution]
    trials: int
    storage: Path | None
    name: str
    seed: int
    workers: int
    prune: bool
    direction: Direction
    progress: bool
    rounds: int = 1
    shrink: float = 0.25

    def __post_init__(self) -> None:
        if not callable(self.objective):
            raise TypeError(f"{self.where}: objective must be a function, got {self.objective!r}")
        self.space = _checked_space(self.where, self.space)
        self.storage = _checked_path(self.where, self.storage)
        if not isinstance(self.name, str):
            raise TypeError(f"{self.where}: name must be a string, got {self.name!r}")
        for name, least in (("trials", 1), ("seed", 0), ("workers", 1), ("rounds", 1)):
            setattr(self, name, _checks.integer(f"{self.where}: {name}", getattr(self, name), least))
        for name in ("prune", "progress"):
            setattr(self, name, _checks.flag(f"{self.where}: {name}", getattr(self, name)))
        _checks.choice(f"{self.where}: direction", self.direction, "minimize", "maximize")
        between = "a number in (0, 1)", lambda x: 0 < x < 1
        self.shrink = _checks.number(f"{self.where}: shrink", self.shrink, between)

    @cached_property
    def study(self) -> optuna.Study:
        """The study of this name in the storage, or in memory: a new one where there is none."""
        storage = JournalStorage(JournalFileBackend(str(self.storage))) if self.storage else InMemoryStorage()
        pruner = optuna.pruners.MedianPruner() if self.prune else optuna.pruners.NopPruner()
        verbosity = optuna.logging.get_verbosity()
        try:
            return optuna.load_study(study_name=self.name, storage=storage, pruner=pruner)
        except KeyError:
            optuna.logging.set_verbosity(max(verbosity, optuna.logging.WARNING))  # no message on every study
            return optuna.create_study(study_name=self.name, storage=storage, pruner=pruner, direction=self.direction)
        finally:
            optuna.logging.set_verbosity(verbosity)

    def resume(self) -> None:
        """Sees that a study that is not new is that of the same search. What it has as running died, and has failed."""
        plan = {"function": self.where, "space": repr(self.space), "seed": self.seed, "direction": self.direction}
        if self.where == "coarse_to_fine":
            plan |= {"trials": self.trials, "shrink": self.shrink}
        begun = self.study.user_attrs.get("plan")
        if begun is None:
            if self.study.get_trials(deepcopy=False):
                raise ValueError(f"{self.where}: name must be that of a search, got {self.name!r}, another study")
            self.study.set_user_attr("plan", begun := plan)
        for key, value in plan.items():
            if begun.get(key) != value:
                known = f"{begun.get(key)!r}, as {self.name!r} in storage was begun"
                raise ValueError(f"{self.where}: {key} must be {known}, got {value!r}")
        for trial in self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            self.study.tell(trial.number, state=TrialState.FAIL)

    def remaining(self, round_: int) -> list[tuple[int, int, Parameters | None]]:
        """The trials of a round that are not over, each as number, round and the best of the rounds before."""
        numbers = range((round_ - 1) * self.trials, round_ * self.trials)
        best = self.result(before=numbers.start).best if round_ > 1 else None
        over = {trial["number"] for trial in self.result().trials}
        return [(number, round_, best) for number in numbers if number not in over]

    def __call__(self, number: int, round_: int, best: Parameters | None) -> None:
        """One of these trials, in this process."""
        (state,) = np.random.SeedSequence(self.seed, spawn_key=(number,)).generate_state(1)
        self.study.sampler = optuna.samplers.RandomSampler(int(state))
        trial = self.study.ask()
        try:
            trial.set_user_attr("number", number)
            trial.set_user_attr("round", round_)
            share, parameters = self.shrink ** (round_ - 1), {}
            for name, distribution in self.space.items():
                part = distribution.around(best[name], share) if best is not None else distribution
                parameters[name] = part.suggest(trial, name)
            value = as_float(f"{self.where}: objective", self.objective(parameters, Report(trial)))
        except optuna.TrialPruned:
            self.study.tell(trial, state=TrialState.PRUNED)
        except BaseException:
            self.study.tell(trial, state=TrialState.FAIL)
            raise
        else:
            worst = math.inf if self.direction == "minimize" else -math.inf
            self.study.tell(trial, worst if math.isnan(value) else value)

    def result(self, before: float = math.inf) -> Result:
        """The trials that are over, those whose number is less than `before`."""
        trials = [
            {
                "number": trial.user_attrs["number"],
                "round": trial.user_attrs["round"],
                "parameters": {name: trial.params[name] for name in self.space},
                "value": trial.value,
                "state": trial.state.name.lower(),
            }
            for trial in self.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))
            if trial.user_attrs.get("number", before) < before  # what the user has added to the study has none
        ]
        return Result(self.study, self.space, self.direction, sorted(trials, key=itemgetter("number")))


def run(search: Search) -> Result:
    """The result, after all that is left of the search."""
    if search.workers > 1 and search.storage is None:
        with TemporaryDirectory() as folder:
            found = run(replace(search, storage=Path(folder, "journal")))
            search.study.add_trials(found.study.trials)
            for key, value in found.study.user_attrs.items():
                search.study.set_user_attr(key, value)
        return replace(found, study=search.study)

    pool: Any = nullcontext(partial(starmap, search))
    if search.workers > 1:
        pool = worker_pool(search.where, _pickled(search), search.workers)
    with _held(search.where, search.storage) if search.storage else nullcontext():
        search.resume()
        total = search.rounds * search.trials
        over = len(search.result(before=total).trials)
        bar = tqdm(total=total, initial=over, desc=search.name, unit="trial", disable=not search.progress)
        with bar, pool as run_all:
            for round_ in range(1, search.rounds + 1):
                for _ in run_all(search.remaining(round_)):
                    bar.update()
                    with suppress(ValueError):  # where none is complete
                        bar.set_postfix_str(f"best {search.result().value:.4g}")
        return search.result()


@contextmanager
def _held(where: str, path: Path) -> Iterator[None]:
    """Keeps other searches from a journal, and brings it in order if processes have died at work on it."""
    with open(path, "ab+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # which the kernel undoes, however a process ends
        except BlockingIOError:
            raise RuntimeError(f"{where}: storage is in use by another search: {str(path)!r}") from None
        file.seek(0)
        journal = file.read()
        if journal and not journal.startswith(b'{"op_code":'):
            raise ValueError(f"{where}: storage must be new or a journal of Optuna's, got {str(path)!r}")
        file.truncate(journal.rfind(b"\n") + 1)  # an entry cut short would spoil the next
        lock = Path(f"{path}.lock")  # by which Optuna's writers take turns
        if lock.is_symlink():
            lock.unlink()
        yield


def _checked_space(where: str, space: Any) -> dict[str, Distribution]:
    named = isinstance(space, Mapping) and all(isinstance(name, str) for name in space)
    if not named or not all(isinstance(distribution, Distribution) for distribution in space.values()):
        kinds = "uniform, log_uniform, integer, choice"
        raise TypeError(f"{where}: space must be a dict of {kinds} by name, got {space!r}")
    if not space:
        raise ValueError(f"{where}: space must hold at least one hyper-parameter, got none")
    return dict(space)


def _checked_path(where: str, storage: Any) -> Path | None:
    if storage is None:
        return None
    if not isinstance(storage, (str, os.PathLike)):
        raise TypeError(f"{where}: storage must be a path or None, got {storage!r}")
    path = Path(storage).absolute()
    if path.is_dir() or not path.parent.is_dir():
        raise ValueError(f"{where}: storage must be a file in a folder that exists, got {os.fspath(storage)!r}")
    return path


def _pickled(search: Search) -> bytes:
    try:
        return pickle.dumps(search)
    except Exception as error:
        must = "must be picklable where workers > 1, as a module's functions are"
        raise TypeError(f"{search.where}: objective {must}: {error}") from error
