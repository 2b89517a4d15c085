"""Training: a loop to use or to read, checkpoints, and the history of a run."""

from smelt.training.checkpoint import load, save
from smelt.training.history import History
from smelt.training.loop import Run, accuracy, evaluate, fit

__all__ = ["History", "Run", "accuracy", "evaluate", "fit", "load", "save"]
