"""What is to be made small, or large: a function of the parameters, cross-validated or not."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from gradfuse._arrays import Array
from gradfuse.data import k_fold, sample_count, take

if TYPE_CHECKING:
    from optuna.trial import Trial

Parameters = dict[str, Any]
Direction = Literal["minimize", "maximize"]
Objective = Callable[[Parameters, "Report"], Any]
Train = Callable[[Parameters, Any, Any], Any]


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

    train: Train
    arrays: tuple[Array, ...] = field(repr=False)
    k: int
    stratify: Array | None = field(repr=False)
    seed: int

    def __call__(self, parameters: Parameters, report: Report | None = None) -> float:
        """The mean figure over the folds; `report` is told the mean so far after each."""
        total = 0.0
        folds = k_fold(len(self.arrays[0]), self.k, stratify=self.stratify, seed=self.seed)
        for fold, (training, validation) in enumerate(folds):
            figure = self.train(parameters, take(self.arrays, training), take(self.arrays, validation))
            total += as_float("cross_validated: train", figure)
            if report is not None:
                report(total / (fold + 1), fold)
        return total / self.k


def cross_validated(
    train: Train, *arrays: Array, k: int = 5, stratify: Array | None = None, seed: int = 0
) -> CrossValidated:
    """An objective: the mean over k folds of train(parameters, training, validation).

    train: trains a model on the training part and returns its figure on the validation part, both tuples with a part of
    every array (the part itself where only one was given; numpy.arange(n) gives indices). What is learned of the data,
    a mean to subtract for example, is to be learned of the training part alone.
    arrays: one or more, with the same number of samples. k, stratify, seed: those of gradfuse.data.k_fold.
    The mean so far is reported after each fold: settings without hope are given up after the first ones, which are the
    same for all. The result can also be called by itself: cross_validated(...)(parameters).
    Raises TypeError and ValueError as gradfuse.data.k_fold does, and where train is no function.
    Source: Stone 1974, Cross-validatory choice and assessment of statistical predictions.
    """
    if not callable(train):
        raise TypeError(f"cross_validated: train must be a function, got {train!r}")
    k_fold(sample_count("cross_validated", arrays), k, stratify=stratify, seed=seed)  # which checks them
    return CrossValidated(train, arrays, k, stratify, seed)


def as_float(where: str, value: Any) -> float:
    if isinstance(value, bool) or not hasattr(value, "__float__"):
        raise TypeError(f"{where} must return a number, got {value!r}")
    return float(value)
