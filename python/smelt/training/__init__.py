"""Training: a loop to use or to read, checkpoints, the history of a run, and what comes before it."""

from smelt.training.checkpoint import load, save
from smelt.training.history import History
from smelt.training.loop import Run, accuracy, evaluate, fit
from smelt.training.pretraining import groups, pretrain_layers, transfer

__all__ = ["History", "Run", "accuracy", "evaluate", "fit", "groups", "load", "pretrain_layers", "save", "transfer"]
