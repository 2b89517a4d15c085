"""Training: a loop to use or to read, checkpoints, the history of a run, and what comes before it."""

from gradfuse.training.checkpoint import load, save
from gradfuse.training.history import History
from gradfuse.training.loop import Run, accuracy, evaluate, fit
from gradfuse.training.pretraining import groups, pretrain_layers, transfer

__all__ = ["History", "Run", "accuracy", "evaluate", "fit", "groups", "load", "pretrain_layers", "save", "transfer"]
