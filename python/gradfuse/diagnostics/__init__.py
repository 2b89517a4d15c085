"""Diagnoses of models and training runs: each can be used alone, and each answers with figures and in words."""

from gradfuse.diagnostics.activity import Watch
from gradfuse.diagnostics.gradients import GradCheck, gradcheck, gradcheck_layer
from gradfuse.diagnostics.rates import LRRange, UpdateRatios, lr_range_test, update_ratios
from gradfuse.diagnostics.report import Report
from gradfuse.diagnostics.start import InitialLoss, Overfit, initial_loss, overfits

__all__ = [
    "GradCheck",
    "InitialLoss",
    "LRRange",
    "Overfit",
    "Report",
    "UpdateRatios",
    "Watch",
    "gradcheck",
    "gradcheck_layer",
    "initial_loss",
    "lr_range_test",
    "overfits",
    "update_ratios",
]
