"""Layers with a forward and a backward, for loops of your own."""

from gradfuse._parameter import Parameter
from gradfuse.nn import activations as _activations
from gradfuse.nn.activations import *
from gradfuse.nn.convolution import AvgPool2D, Conv2D, Flatten, GlobalAvgPool2D, MaxPool2D
from gradfuse.nn.dropout import AlphaDropout, Dropout, MCDropout, monte_carlo
from gradfuse.nn.layer import Layer
from gradfuse.nn.linear import Linear
from gradfuse.nn.losses import binary_cross_entropy_with_logits, cross_entropy, huber, mse_loss
from gradfuse.nn.normalization import BatchNorm
from gradfuse.nn.presets import Preset, deploy, low_latency_mlp, mlp, self_normalizing_mlp, sparse_mlp
from gradfuse.nn.regularizers import L1, L2, MaxNorm, prune, sparsity
from gradfuse.nn.sequential import Residual, Sequential

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
