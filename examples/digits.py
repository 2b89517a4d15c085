"""Handwritten digits: a training loop written by hand, NumPy arrays and smelt's functions, nothing else.

A net of 64-300-100-10 with batch norm, ELU and dropout, trained with NAdam on the 1797 digits that come with
scikit-learn, over three seeds. It prints the accuracy on a held-out fifth and the time of a training step beside
plain NumPy (digits_numpy.py) and PyTorch, draws digits.png, and fails where a seed reads less than 97.5 %.
"""

import argparse
import math
import sys
import time
from pathlib import Path
from typing import NamedTuple

import digits_numpy
import numpy as np
from matplotlib.figure import Figure
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from tqdm import tqdm

import smelt

BATCH, DROPOUT, MAX_LR, GOAL = 32, 0.25, 3e-3, 0.975
PICTURE = Path(__file__).with_suffix(".png")


class Params(NamedTuple):
    """What is learned. Batch norm follows the first two layers, so they need no bias of their own."""

    W1: np.ndarray
    gamma1: np.ndarray
    beta1: np.ndarray
    W2: np.ndarray
    gamma2: np.ndarray
    beta2: np.ndarray
    W3: np.ndarray
    b3: np.ndarray


class Statistics(NamedTuple):
    """What batch norm remembers of the batches it has seen."""

    mean1: np.ndarray
    var1: np.ndarray
    mean2: np.ndarray
    var2: np.ndarray


def new_net(seed, dtype=np.float32):
    """He initialisation; batch norm begins as the identity."""
    rng = np.random.default_rng(seed)

    def he(fan_in, fan_out):
        return (rng.standard_normal((fan_in, fan_out)) * math.sqrt(2 / fan_in)).astype(dtype)

    def ones(n):
        return np.ones(n, dtype)

    def zeros(n):
        return np.zeros(n, dtype)

    params = Params(he(64, 300), ones(300), zeros(300), he(300, 100), ones(100), zeros(100), he(100, 10), zeros(10))
    return params, Statistics(zeros(300), ones(300), zeros(100), ones(100))


def gradients(p, s, x, target, rng, dropout=DROPOUT):
    """The loss of a batch and its gradient with respect to each parameter: forward, then backward."""
    fused = {"activation": "elu", "dropout": dropout, "rng": rng}
    h1, ctx1 = smelt.batch_norm_forward(x @ p.W1, s.mean1, s.var1, p.gamma1, p.beta1, **fused)
    h2, ctx2 = smelt.batch_norm_forward(h1 @ p.W2, s.mean2, s.var2, p.gamma2, p.beta2, **fused)
    loss, dlogits = smelt.cross_entropy(h2 @ p.W3 + p.b3, target)

    dz2, dgamma2, dbeta2 = smelt.batch_norm_backward(dlogits @ p.W3.T, ctx2)
    dz1, dgamma1, dbeta1 = smelt.batch_norm_backward(dz2 @ p.W2.T, ctx1)
    dW1, dW2, dW3 = x.T @ dz1, h1.T @ dz2, h2.T @ dlogits
    return loss, Params(dW1, dgamma1, dbeta1, dW2, dgamma2, dbeta2, dW3, dlogits.sum(axis=0))


def logits(p, s, x):
    """The trained net: running statistics, no dropout."""
    h1 = smelt.batch_norm(x @ p.W1, s.mean1, s.var1, p.gamma1, p.beta1, activation="elu")
    h2 = smelt.batch_norm(h1 @ p.W2, s.mean2, s.var2, p.gamma2, p.beta2, activation="elu")
    return h2 @ p.W3 + p.b3


def one_cycle(total):
    """The learning rate rises for the first 30 % of the steps, then falls to nothing, along cosines."""

    def lr(step):
        at = step / total
        phase = 1 - at / 0.3 if at < 0.3 else (at - 0.3) / 0.7
        return MAX_LR * 0.5 * (1 + math.cos(math.pi * min(phase, 1)))

    return lr


def train(x, t, parts, seed, epochs):
    p, s = new_net(seed)
    train, test = parts
    order = np.random.default_rng(seed)
    rng = smelt.Generator(seed)
    opt = smelt.optim.NAdam(p, lr=one_cycle(epochs * math.ceil(len(train) / BATCH)))
    history = []
    for _ in range(epochs):
        shuffled = order.permutation(train)
        for i in range(0, len(train), BATCH):
            batch = shuffled[i : i + BATCH]
            _, grads = gradients(p, s, x[batch], t[batch], rng)
            opt.step(grads)
        row = []
        for part in parts:
            out = logits(p, s, x[part])
            row += [smelt.cross_entropy(out, t[part])[0], np.mean(out.argmax(1) == t[part])]
        history.append(row)
    return history
