"""Layers with a forward and a backward, for loops of your own."""

from smelt._parameter import Parameter
from smelt.nn import activations as _activations
from smelt.nn.activations import *
from smelt.nn.convolution import AvgPool2D, Conv2D, Flatten, GlobalAvgPool2D, MaxPool2D
from smelt.nn.dropout import AlphaDropout, Dropout, MCDropout, monte_carlo
from smelt.nn.layer import Layer
from smelt.nn.linear import Linear
from smelt.nn.losses import binary_cross_entropy_with_logits, cross_entropy, huber, mse_loss
from smelt.nn.normalization import BatchNorm
from smelt.nn.presets import Preset, deploy, low_latency_mlp, mlp, self_normalizing_mlp, sparse_mlp
from smelt.nn.regularizers import L1, L2, MaxNorm, prune, sparsity
from smelt.nn.sequential import Residual, Sequential

__all__ = [
    *_activations.__all__,
    "AlphaDropout",
    "AvgPool2D",
    "BatchNorm",
    "Conv2D",
    "Dropout",
    "Flatten",
    "GlobalAvgPool2D",
    "L1",
    "L2",
    "Layer",
    "Linear",
    "MCDropout",
    "MaxNorm",
    "MaxPool2D",
    "Parameter",
    "Preset",
    "Residual",
    "Sequential",
    "binary_cross_entropy_with_logits",
    "cross_entropy",
    "deploy",
    "huber",
    "low_latency_mlp",
    "mlp",
    "monte_carlo",
    "mse_loss",
    "prune",
    "self_normalizing_mlp",
    "sparse_mlp",
    "sparsity",
]
