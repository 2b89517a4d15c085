"""Random search, in one round and in several."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from gradfuse._optional import needed
from gradfuse.search.objective import Direction, Objective
from gradfuse.search.result import Result
from gradfuse.search.space import Distribution


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
    workers: how many processes run trials, each on one thread, BLAS too. They are spawned: the objective must be
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
    options = storage, name, seed, workers, prune, direction, progress
    return _found("search", objective, space, trials, *options)


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
    options = storage, name, seed, workers, prune, direction, progress
    return _found("coarse_to_fine", objective, space, trials, *options, rounds, shrink)


def _found(where: str, *arguments: Any) -> Result:
    needed(where, "optuna", "search")
    from gradfuse.search.study import Search, run

    return run(Search(where, *arguments))
