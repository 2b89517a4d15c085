"""Search for hyper-parameters on Optuna: at random, in log space, coarse then fine, cross-validated, pruned, resumable.

    space = {"lr": log_uniform(1e-4, 1), "units": integer(16, 256, log=True), "activation": choice("relu", "elu")}
    result = coarse_to_fine(cross_validated(train, x, t), space, storage="search.journal", workers=4)
    print(result)
    result.plot("search.png")

A search is a study of Optuna's, `result.study`: whatever Optuna has works on it. Optuna is imported where a search
begins (pip install smelt[search]).
"""

from __future__ import annotations

import math
import os
import pickle
import tempfile
import threading
import traceback
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from itertools import starmap
from multiprocessing import get_context, parent_process
from multiprocessing.connection import wait
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

import smelt
from smelt import _checks
from smelt._arrays import Array
from smelt.data import _samples, _take, k_fold

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from optuna import Study
    from optuna.trial import Trial

Parameters = dict[str, Any]
Direction = Literal["minimize", "maximize"]
Objective = Callable[[Parameters, "Report"], Any]

BETWEEN: _checks.Bounds = "a number in (0, 1)", lambda x: 0 < x < 1

# -- what is searched


class Distribution:
    """What the values of a hyper-parameter are drawn from."""

    log: bool = False

    def suggest(self, trial: Trial, name: str) -> Any:
        """A value, drawn by a trial of Optuna's."""
        raise NotImplementedError

    def around(self, value: Any, share: float) -> Distribution:
        """The part that has `share` of the width and a value in its middle, as far as it is within the bounds."""
        raise NotImplementedError


@dataclass(frozen=True)
class _Range(Distribution):
    low: float
    high: float

    def __post_init__(self) -> None:
        name = type(self).__name__
        for end in ("low", "high"):
            object.__setattr__(self, end, self._checked(f"{name}: {end}", getattr(self, end)))
        if self.low > self.high:
            raise ValueError(f"{name}: high must be at least low, {self.low!r}, got {self.high!r}")

    def _checked(self, where: str, end: Any) -> float:
        return _checks.number(where, end, _checks.POSITIVE if self.log else _checks.FINITE)

    def suggest(self, trial: Trial, name: str) -> float:
        return trial.suggest_float(name, self.low, self.high, log=self.log)

    def around(self, value: Any, share: float) -> _Range:
        low, high = self._part(value, share)
        return replace(self, low=low, high=high)

    def _part(self, value: float, share: float) -> tuple[float, float]:
        to, back = (math.log, math.exp) if self.log else (float, float)
        half = share * (to(self.high) - to(self.low)) / 2
        left, right = to(value) - half, to(value) + half
        low = self.low if left <= to(self.low) else min(value, back(left))
        high = self.high if right >= to(self.high) else max(value, back(right))
        return low, high


class uniform(_Range):
    """Numbers in [low, high], all equally likely.

    Raises TypeError for a wrong kind, ValueError unless low <= high, both finite. Source: optuna.Trial.suggest_float.
    """


class log_uniform(_Range):
    """Numbers in [low, high] whose logarithms are all equally likely: where it is the order of magnitude that matters.

    Raises TypeError for a wrong kind, ValueError unless 0 < low <= high, both finite.
    Source: Bergstra and Bengio 2012, Random search for hyper-parameter optimization; optuna.Trial.suggest_float.
    """

    log = True


@dataclass(frozen=True)
class integer(_Range):
    """The integers from low to high, both included, all equally likely, or with log=True their logarithms.

    Raises TypeError for a wrong kind, ValueError unless low <= high, and 1 <= low where log is True.
    Source: optuna.Trial.suggest_int.
    """

    low: int
    high: int
    log: bool = False

    def __post_init__(self) -> None:
        _checks.flag("integer: log", self.log)
        super().__post_init__()

    def _checked(self, where: str, end: Any) -> int:
        if not _checks.is_integer(end):
            raise TypeError(f"{where} must be an integer, got {end!r}")
        return _checks.integer(where, end, least=1) if self.log else int(end)

    def suggest(self, trial: Trial, name: str) -> int:
        return trial.suggest_int(name, self.low, self.high, log=self.log)

    def around(self, value: Any, share: float) -> integer:
        low, high = self._part(value, share)
        return replace(self, low=math.floor(low), high=math.ceil(high))


@dataclass(frozen=True, init=False)
class choice(Distribution):
    """One of some values, all equally likely: strings, numbers, booleans, None. Narrowing leaves it as it is.

    Raises TypeError for values of another kind, ValueError for none, and for two that are equal.
    Source: optuna.Trial.suggest_categorical.
    """

    values: tuple[str | int | float | bool | None, ...]

    def __init__(self, *values: str | int | float | bool | None) -> None:
        plain = tuple(value.item() if isinstance(value, np.generic) else value for value in values)
        for value in plain:
            if value is not None and not isinstance(value, (str, int, float)):
                raise TypeError(f"choice: values must be strings, numbers, booleans or None, got {value!r}")
        if not plain or len(set(plain)) < len(plain):
            raise ValueError(f"choice: values must be one or more that differ, got {plain!r}")
        object.__setattr__(self, "values", plain)

    def suggest(self, trial: Trial, name: str) -> Any:
        return trial.suggest_categorical(name, self.values)

    def around(self, value: Any, share: float) -> choice:
        return self


# -- what is to be made small, or large


class Report:
    """What an objective tells while it is at work: `report(value, step)`. `trial` is Optuna's."""

    def __init__(self, trial: Trial) -> None:
        self.trial = trial

    def __call__(self, value: float, step: int) -> None:
        """Notes an intermediate figure of a step, an integer from 0. Each step counts once.

        Raises optuna.TrialPruned, which the objective lets pass, where the trial is to be given up.
        """
        import optuna

        self.trial.report(value, step)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # NumPy's, of a median over NaN
            hopeless = self.trial.should_prune()
        if hopeless:
            raise optuna.TrialPruned


@dataclass(frozen=True, eq=False)
class CrossValidated:
    """See `cross_validated`, which makes it."""

    train: Callable[[Parameters, Any, Any], Any]
    arrays: tuple[Array, ...] = field(repr=False)
    k: int
    stratify: Array | None = field(repr=False)
    seed: int

    def __call__(self, parameters: Parameters, report: Report | None = None) -> float:
        """The mean figure over the folds; `report` is told the mean so far after each."""
        total = 0.0
        folds = k_fold(len(self.arrays[0]), self.k, stratify=self.stratify, seed=self.seed)
        for fold, (training, validation) in enumerate(folds):
            figure = self.train(parameters, _take(self.arrays, training), _take(self.arrays, validation))
            total += _figure("cross_validated: train", figure)
            if report is not None:
                report(total / (fold + 1), fold)
        return total / self.k


def cross_validated(
    train: Callable[[Parameters, Any, Any], Any],
    *arrays: Array,
    k: int = 5,
    stratify: Array | None = None,
    seed: int = 0,
) -> CrossValidated:
    """An objective: the mean over k folds of train(parameters, training, validation).

    train: trains a model on the training part and returns its figure on the validation part, both tuples with a part of
    every array (the part itself where only one was given; numpy.arange(n) gives indices). What is learned of the data,
    a mean to subtract for example, is to be learned of the training part alone.
    arrays: one or more, with the same number of samples. k, stratify, seed: those of smelt.data.k_fold.
    The mean so far is reported after each fold: settings without hope are given up after the first ones, which are the
    same for all. The result can also be called by itself: cross_validated(...)(parameters).
    Raises TypeError and ValueError as smelt.data.k_fold does, and where train is no function.
    Source: Stone 1974, Cross-validatory choice and assessment of statistical predictions.
    """
    _check_callable("cross_validated: train", train)
    k_fold(_samples("cross_validated", arrays), k, stratify=stratify, seed=seed)  # which checks them
    return CrossValidated(train, arrays, k, stratify, seed)


# -- what was found


@dataclass(frozen=True)
class Result:
    """What a search has tried; str() is a table of the best. `study` is Optuna's.

    trials: those that came to an end, as dicts: number (from 0), round (from 1), parameters, value (of a pruned one the
    last that it reported, or None) and state ("complete" or "pruned"). Number and round are also the user_attrs of the
    study's trials, whose own numbers say in which order they began.
    """

    study: Study = field(repr=False)
    space: dict[str, Distribution]
    direction: str
    trials: list[dict[str, Any]] = field(repr=False)

    @property
    def best(self) -> Parameters:
        """The parameters of the best complete trial, of equals the first. ValueError where there is none."""
        return dict(_best(self.trials, self.direction)["parameters"])

    @property
    def value(self) -> float:
        """The value of the best complete trial. ValueError where there is none."""
        return float(_best(self.trials, self.direction)["value"])

    def __str__(self) -> str:
        ranking = _ranking(self.trials, self.direction)
        rows = [["value", "number", "round", *self.space]]
        for t in ranking[:10]:
            cells = (t["value"], t["number"], t["round"], *t["parameters"].values())
            rows.append([f"{cell:.4g}" if isinstance(cell, float) else str(cell) for cell in cells])
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        table = ("  ".join(map(str.rjust, row, widths)) for row in rows)
        pruned = len(self.trials) - len(ranking)
        return "\n".join([f"{len(self.trials)} trials, {pruned} of them pruned; the best:", *table])

    def plot(self, path: str | os.PathLike[str] | None = None) -> Figure:
        """Draws what was tried: a panel for each hyper-parameter with the values against it, a colour for each round.

        Crosses are pruned trials at what they last reported, the ring is the best; what is infinite is at the edge.
        Axes are logarithmic where a parameter was drawn so, and for values that are positive and span a factor of ten.
        path: where the picture is written too, its format by the ending.
        Raises ImportError without matplotlib.
        """
        try:
            from matplotlib.figure import Figure
            from matplotlib.ticker import LogFormatter
        except ImportError:
            raise ImportError("Result.plot: matplotlib is needed: pip install smelt[training]") from None
        columns = min(3, len(self.space))
        rows = math.ceil(len(self.space) / columns)
        figure = Figure(figsize=(4 * columns, 3.5 * rows), layout="constrained")
        panels = figure.subplots(rows, columns, squeeze=False, sharey=True).flatten()
        values = np.array([trial["value"] for trial in self.trials], float)  # NaN where a pruned one reported none
        finite = values[np.isfinite(values)]
        if finite.size and 0 < 10 * finite.min() < finite.max():
            panels[0].set_yscale("log")
        panels[0].set_ylabel("value")
        for axes, (name, distribution) in zip(panels, self.space.items(), strict=False):
            self._draw(axes, name, distribution, values)
        for axis in (panels[0].yaxis, *(axes.xaxis for axes in panels)):
            if axis.get_scale() == "log":
                axis.set_major_formatter(LogFormatter())
                axis.set_minor_formatter(LogFormatter(minor_thresholds=(2, 0.5)))
        for axes in panels[len(self.space) :]:
            axes.set_axis_off()
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper center", ncols=5, fontsize="small")
        if path is not None:
            figure.savefig(path, dpi=120)
        return figure

    def _draw(self, axes: Any, name: str, distribution: Distribution, y: Array) -> None:
        x = [trial["parameters"][name] for trial in self.trials]
        axes.set(xlabel=name, xscale="log" if distribution.log else "linear")
        axes.grid(alpha=0.3)
        if isinstance(distribution, choice):
            x = list(map(distribution.values.index, x))
            axes.set_xticks(range(len(distribution.values)), list(map(str, distribution.values)))

        at, groups = np.array(x, float), [(trial["round"], trial["state"]) for trial in self.trials]
        for group in sorted(set(groups)):
            round_, state = group
            look: dict[str, Any] = {"color": f"C{round_ - 1}", "alpha": 0.7, "linestyle": "none"}
            look["marker"], ending = {"complete": ("o", ""), "pruned": ("x", ", pruned")}[state]
            of_group = np.array([other == group for other in groups])
            here, beyond = of_group & np.isfinite(y), of_group & np.isinf(y)
            axes.plot(at[here], y[here], label=f"round {round_}{ending}", **look)
            if beyond.any():
                edge = np.where(y[beyond] > 0, 1, 0)
                axes.plot(at[beyond], edge, transform=axes.get_xaxis_transform(), clip_on=False, **look)
        best = _ranking(self.trials, self.direction)[:1]
        ring = np.array([trial in best for trial in self.trials], bool) & np.isfinite(y)
        axes.plot(at[ring], y[ring], "o", color="black", fillstyle="none", markersize=11, label="best")


def _best(trials: list[dict[str, Any]], direction: str) -> dict[str, Any]:
    if ranking := _ranking(trials, direction):
        return ranking[0]
    raise ValueError(f"Result: at least one trial must be complete, got none of {len(trials)}")


def _ranking(trials: list[dict[str, Any]], direction: str) -> list[dict[str, Any]]:
    """The complete trials, the best first."""
    complete = [trial for trial in trials if trial["state"] == "complete"]
    return sorted(complete, key=lambda trial: trial["value"] if direction == "minimize" else -trial["value"])


# -- the search


def search(
    objective: Objective,
    space: Mapping[str, Distribution],
    *,
    trials: int = 20,
    storage: str | os.PathLike[str] | None = None,
    name: str = "search",
    seed: int = 0,
    workers: int = 1,
    prune: bool = True,
    direction: Direction = "minimize",
    progress: bool = True,
) -> Result:
    """Random search: trials with parameters drawn from the space, each independently of the others.

    objective: objective(parameters, report) -> the value, a number; NaN counts as infinitely bad. report(value, step)
    tells an intermediate figure; see `Report`. An exception ends the search and reaches the caller.
    space: {name: uniform, log_uniform, integer or choice}.
    trials: how many there are to be in all. The parameters of each depend on its number, the seed and the space alone.
    storage: the path of a file in which the search `name` is kept, a journal of Optuna's (JournalFileBackend); None
    keeps it in memory. Where the file holds the search already, that goes on: trials that came to an end are not
    repeated, those that were cut short by an exception or with their process are (the study has them as failed), with
    the same parameters. One search at a time can use a file, and its processes must be on one machine.
    workers: how many processes run trials, each on one thread, BLAS and smelt. They are spawned: the objective must be
    picklable, and a script's own code stand under `if __name__ == "__main__":`. 1 is this process. Which trials are
    pruned may depend on it, for that depends on those that are over.
    prune: give up a trial that, by what it has reported, is worse than the median of the complete ones at that step,
    of which there must be five: optuna.pruners.MedianPruner.
    direction: "minimize" or "maximize". progress: a bar with the best value so far.
    Raises TypeError for a wrong kind, ValueError for a wrong value, for a file that is no journal and for a search
    begun with another space, seed or direction, RuntimeError where another search uses the file and where a worker
    process dies, ImportError without Optuna.
    Source: Bergstra and Bengio 2012, Random search for hyper-parameter optimization; Akiba et al. 2019, Optuna.
    """
    total = _checks.integer("search: trials", trials, least=1)
    options = storage, name, seed, workers, prune, direction, progress
    with _opened("search", objective, space, {}, total, *options) as session:
        session.run(range(total), 1, session.space)
        return session.result()


def coarse_to_fine(
    objective: Objective,
    space: Mapping[str, Distribution],
    *,
    rounds: int = 2,
    trials: int = 20,
    shrink: float = 0.25,
    storage: str | os.PathLike[str] | None = None,
    name: str = "search",
    seed: int = 0,
    workers: int = 1,
    prune: bool = True,
    direction: Direction = "minimize",
    progress: bool = True,
) -> Result:
    """Random search in rounds, each around the best of those before it: the Result of all of them together.

    A round has `trials` trials. In round r numbers are drawn from shrink^(r - 1) of the width of their range, that of
    its logarithms where these are drawn, with the best in the middle and nothing beyond the bounds; ranges of integers
    are rounded outwards, choices stay as they are. All else is as in `search`. A search that goes on may be given more
    rounds, but no other number of trials and no other shrink.
    Raises as `search` does, and ValueError unless rounds >= 1 and 0 < shrink < 1, and where none of the trials before a
    round is complete. Source: Goodfellow, Bengio and Courville 2016, Deep learning, 11.4.
    """
    where = "coarse_to_fine"
    rounds = _checks.integer(f"{where}: rounds", rounds, least=1)
    trials = _checks.integer(f"{where}: trials", trials, least=1)
    shrink = _checks.number(f"{where}: shrink", shrink, BETWEEN)
    options = storage, name, seed, workers, prune, direction, progress
    with _opened(where, objective, space, {"trials": trials, "shrink": shrink}, rounds * trials, *options) as session:
        for before in range(rounds):
            numbers = range(before * trials, (before + 1) * trials)
            narrow = session.space
            if before:
                earlier = [t for t in _tried(session.study, session.space) if t["number"] < numbers.start]
                best = _best(earlier, direction)["parameters"]
                narrow = {name: d.around(best[name], shrink**before) for name, d in narrow.items()}
            session.run(numbers, before + 1, narrow)
        return session.result()


# -- how it is carried out

Call = tuple[int, int, dict[str, Distribution]]  # of a trial: number, round, space


@dataclass(frozen=True)
class _Runner:
    """Runs the trials of a search, in this process."""

    where: str
    objective: Objective
    path: Path | None
    name: str
    seed: int
    prune: bool
    direction: Direction

    @cached_property
    def study(self) -> Study:
        """The study of this name in the journal, or in memory: a new one where there is none."""
        import optuna
        from optuna.storages import InMemoryStorage, JournalStorage
        from optuna.storages.journal import JournalFileBackend

        storage = JournalStorage(JournalFileBackend(str(self.path))) if self.path else InMemoryStorage()
        pruner = optuna.pruners.MedianPruner() if self.prune else optuna.pruners.NopPruner()
        try:
            return optuna.load_study(study_name=self.name, storage=storage, pruner=pruner)
        except KeyError:
            with _quiet():
                return optuna.create_study(
                    study_name=self.name, storage=storage, pruner=pruner, direction=self.direction
                )

    def __call__(self, number: int, round_: int, space: dict[str, Distribution]) -> None:
        import optuna
        from optuna.trial import TrialState

        (state,) = np.random.SeedSequence(self.seed, spawn_key=(number,)).generate_state(1)
        self.study.sampler = optuna.samplers.RandomSampler(int(state))
        trial = self.study.ask()
        try:
            trial.set_user_attr("number", number)
            trial.set_user_attr("round", round_)
            parameters = {name: distribution.suggest(trial, name) for name, distribution in space.items()}
            value = _figure(f"{self.where}: objective", self.objective(parameters, Report(trial)))
        except optuna.TrialPruned:
            self.study.tell(trial, state=TrialState.PRUNED)
        except BaseException:
            self.study.tell(trial, state=TrialState.FAIL)
            raise
        else:
            worst = math.inf if self.direction == "minimize" else -math.inf
            self.study.tell(trial, worst if math.isnan(value) else value)


@dataclass(frozen=True)
class _Session:
    """A search that is under way."""

    study: Study
    space: dict[str, Distribution]
    direction: str
    execute: Callable[[list[Call]], Iterator[None]]
    bar: Any
    temporary: bool  # whether the study's file goes with the session

    def run(self, numbers: range, round_: int, space: dict[str, Distribution]) -> None:
        """The trials of these numbers that are not over."""
        over = {trial["number"] for trial in _tried(self.study, self.space)}
        for _ in self.execute([(number, round_, space) for number in numbers if number not in over]):
            self.bar.update()
            for best in _ranking(_tried(self.study, self.space), self.direction)[:1]:
                self.bar.set_postfix_str(f"best {best['value']:.4g}")

    def result(self) -> Result:
        study = _in_memory(self.study) if self.temporary else self.study
        return Result(study, self.space, self.direction, _tried(study, self.space))


def _tried(study: Study, space: dict[str, Distribution]) -> list[dict[str, Any]]:
    """The trials that are over, as Result has them."""
    from optuna.trial import TrialState

    trials = [
        {
            "number": trial.user_attrs["number"],
            "round": trial.user_attrs["round"],
            "parameters": {name: trial.params[name] for name in space},
            "value": trial.value,
            "state": trial.state.name.lower(),
        }
        for trial in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))
        if "number" in trial.user_attrs  # what the user has added to the study has none
    ]
    return sorted(trials, key=lambda trial: trial["number"])


@contextmanager
def _opened(
    where: str,
    objective: Objective,
    space: Mapping[str, Distribution],
    rounds: dict[str, Any],
    total: int,
    storage: str | os.PathLike[str] | None,
    name: str,
    seed: int,
    workers: int,
    prune: bool,
    direction: Direction,
    progress: bool,
) -> Iterator[_Session]:
    """A search that is begun or taken up, and this process's alone as long as it is open."""
    _check_callable(f"{where}: objective", objective)
    space = _checked_space(where, space)
    path = _checked_path(where, storage)
    if not isinstance(name, str):
        raise TypeError(f"{where}: name must be a string, got {name!r}")
    seed = _checks.integer(f"{where}: seed", seed)
    workers = _checks.integer(f"{where}: workers", workers, least=1)
    prune = _checks.flag(f"{where}: prune", prune)
    _checks.choice(f"{where}: direction", direction, "minimize", "maximize")
    progress = _checks.flag(f"{where}: progress", progress)
    try:
        import optuna  # noqa: F401
        from tqdm import tqdm
    except ImportError:
        raise ImportError(f"{where}: optuna is needed: pip install smelt[search]") from None

    with ExitStack() as stack:
        temporary = path is None and workers > 1
        if temporary:
            path = Path(stack.enter_context(tempfile.TemporaryDirectory()), "journal")
        runner = _Runner(where, objective, path, name, seed, prune, direction)
        pickled = _pickled(runner) if workers > 1 else b""
        if path is not None:
            stack.enter_context(_held(where, path))
        _take_up(runner, {"function": where, "space": repr(space), "seed": seed, "direction": direction, **rounds})
        execute: Callable[[list[Call]], Iterator[None]] = partial(starmap, runner)
        if workers > 1:
            execute = stack.enter_context(_workers(where, workers, pickled))
        over = sum(trial["number"] < total for trial in _tried(runner.study, space))
        bar = stack.enter_context(tqdm(total=total, initial=over, desc=name, unit="trial", disable=not progress))
        yield _Session(runner.study, space, direction, execute, bar, temporary)


def _in_memory(study: Study) -> Study:
    """A copy that needs no file."""
    import optuna

    with _quiet():
        copied = optuna.create_study(study_name=study.study_name, direction=study.direction)
    copied.add_trials(study.trials)
    for key, value in study.user_attrs.items():
        copied.set_user_attr(key, value)
    return copied


@contextmanager
def _quiet() -> Iterator[None]:
    """Without Optuna's messages on every study."""
    import optuna

    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(max(before, optuna.logging.WARNING))
    try:
        yield
    finally:
        optuna.logging.set_verbosity(before)


@contextmanager
def _held(where: str, path: Path) -> Iterator[None]:
    """Keeps other searches from a journal, and brings it in order if processes have died at work on it."""
    import fcntl

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


def _take_up(runner: _Runner, plan: dict[str, Any]) -> None:
    """Sees that a study that is not new is that of the same search. What it has as running died, and has failed."""
    from optuna.trial import TrialState

    study = runner.study
    begun = study.user_attrs.get("plan")
    if begun is None:
        if study.get_trials(deepcopy=False):
            raise ValueError(f"{runner.where}: name must be that of a search, got {runner.name!r}, another study")
        study.set_user_attr("plan", plan)
        return
    for key, value in plan.items():
        if begun.get(key) != value:
            known = f"{begun.get(key)!r}, as {runner.name!r} in storage was begun"
            raise ValueError(f"{runner.where}: {key} must be {known}, got {value!r}")
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        study.tell(trial.number, state=TrialState.FAIL)


# -- worker processes, with a pipe each and nothing shared: what is shared may be locked by one that is killed

_ONE_THREAD = {f"{library}_NUM_THREADS": "1" for library in ("MKL", "OMP", "OPENBLAS")}


@contextmanager
def _workers(where: str, count: int, pickled: bytes) -> Iterator[Callable[[list[Call]], Iterator[None]]]:
    """What runs trials in so many processes at most, and yields as often as one is over."""
    context = get_context("spawn")
    processes: dict[Any, Any] = {}  # by our end of their pipes

    def start() -> Any:
        ours, theirs = context.Pipe()
        process = context.Process(target=_work, args=(theirs, pickled))
        with _environment(_ONE_THREAD):
            process.start()
        theirs.close()
        processes[ours] = process
        return ours

    @contextmanager
    def alive() -> Iterator[None]:
        try:
            yield
        except (EOFError, ConnectionError):
            for process in processes.values():
                process.terminate()  # which may wait for the journal's lock, and the dead one have it
            raise RuntimeError(
                f"{where}: a worker process has died; with a storage, the same call goes on from what is over"
            ) from None

    def execute(calls: list[Call]) -> Iterator[None]:
        waiting, idle = deque(calls), list(processes)
        busy: set[Any] = set()
        while waiting or busy:
            while waiting and (idle or len(processes) < count):
                pipe = idle.pop() if idle else start()
                busy.add(pipe)
                with alive():
                    pipe.send(waiting.popleft())
            ready: list[Any] = wait(busy)
            for pipe in ready:
                with alive():
                    error, trace = pipe.recv()
                if error is not None:
                    raise error from RuntimeError(f"in a worker process:\n{trace}")
                busy.remove(pipe)
                idle.append(pipe)
                yield

    try:
        yield execute
    finally:
        for pipe in processes:
            pipe.close()  # at which a worker ends, when the trial is over that it is at
        for process in processes.values():
            process.join()


def _work(pipe: Any, pickled: bytes) -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    smelt.set_num_threads(1)
    runner = pickle.loads(pickled)
    with suppress(EOFError, ConnectionError, KeyboardInterrupt):  # of the pipe: the search is over
        while True:
            call = pipe.recv()
            try:
                runner(*call)
                outcome: Any = None, ""
            except BaseException as error:
                outcome = _portable(error), traceback.format_exc()
            pipe.send(outcome)


def _end_with_parent() -> None:
    """A search that is killed leaves no workers behind."""
    parent = parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _portable(error: BaseException) -> BaseException:
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(repr(error))
    return error


@contextmanager
def _environment(variables: dict[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


# -- checks


def _figure(where: str, value: Any) -> float:
    if isinstance(value, bool) or not hasattr(value, "__float__"):
        raise TypeError(f"{where} must return a number, got {value!r}")
    return float(value)


def _check_callable(where: str, value: Any) -> None:
    if not callable(value):
        raise TypeError(f"{where} must be a function, got {value!r}")


def _checked_space(where: str, space: Any) -> dict[str, Distribution]:
    if not isinstance(space, Mapping) or not all(
        isinstance(name, str) and isinstance(distribution, Distribution) for name, distribution in space.items()
    ):
        raise TypeError(
            f"{where}: space must be a dict of uniform, log_uniform, integer, choice by name, got {space!r}"
        )
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


def _pickled(runner: _Runner) -> bytes:
    try:
        return pickle.dumps(runner)
    except Exception as error:
        raise TypeError(
            f"{runner.where}: objective must be picklable where workers > 1, as a module's functions are: {error}"
        ) from error


__all__ = [
    "CrossValidated",
    "Distribution",
    "Report",
    "Result",
    "choice",
    "coarse_to_fine",
    "cross_validated",
    "integer",
    "log_uniform",
    "search",
    "uniform",
]
