"""Random numbers that depend on (seed, stream, index) alone, and what is made of them.

Philox4x32-10: Salmon et al., Parallel Random Numbers: As Easy as 1, 2, 3, SC 2011.
"""

from __future__ import annotations

import math
import secrets
from typing import Any

import numpy as np

from ._float64 import Array, narrow, wide

__all__ = [
    "Generator",
    "alpha_dropout_backward",
    "alpha_dropout_forward",
    "dropout_backward",
    "dropout_forward",
    "half_words",
    "keep_mask",
    "philox4x32",
    "rrelu_backward",
    "rrelu_forward",
]

_U32 = np.uint64(0xFFFFFFFF)
_32 = np.uint64(32)


def philox4x32(counter: Array, key: Array) -> Array:
    """Ten rounds on `counter` (..., 4) with `key` (..., 2), in 32-bit words; returns uint32 (..., 4)."""
    c0, c1, c2, c3 = np.moveaxis(np.asarray(counter, np.uint64), -1, 0)
    k0, k1 = np.moveaxis(np.asarray(key, np.uint64), -1, 0)
    for _ in range(10):
        p0 = c0 * np.uint64(0xD2511F53)
        p1 = c2 * np.uint64(0xCD9E8D57)
        c0, c1, c2, c3 = (p1 >> _32) ^ c1 ^ k0, p1 & _U32, (p0 >> _32) ^ c3 ^ k1, p0 & _U32
        k0 = (k0 + np.uint64(0x9E3779B9)) & _U32
        k1 = (k1 + np.uint64(0xBB67AE85)) & _U32
    return np.stack([c0, c1, c2, c3], axis=-1).astype(np.uint32)


class Generator:
    """Hands out streams of `seed`, one for each call that draws."""

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed
        self.stream = 0

    def next(self) -> int:
        self.stream += 1
        return self.stream - 1

    def state_dict(self) -> dict[str, int]:
        return {"seed": self.seed, "stream": self.stream}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.seed, self.stream = state["seed"], state["stream"]


def half_words(size: int, rng: Any) -> Array:
    """The 16 random bits of each of `size` elements: block i // 8, in it half-word i % 8, low half first.

    `rng` is a Generator, which moves to its next stream, or a seed, for its stream 0, or None for any seed.
    """
    if rng is None:
        rng = secrets.randbits(64)
    seed, stream = (rng.seed, rng.next()) if hasattr(rng, "next") else (int(rng), 0)
    block = np.arange(-(-size // 8), dtype=np.uint64)
    low, high = np.full_like(block, stream & 0xFFFFFFFF), np.full_like(block, stream >> 32)
    counter = np.stack([block & _U32, block >> _32, low, high], axis=-1)
    words = philox4x32(counter, np.array([seed & 0xFFFFFFFF, seed >> 32 & 0xFFFFFFFF], np.uint64))
    return np.stack([words & 0xFFFF, words >> 16], axis=-1).reshape(-1)[:size]


def drop_threshold(p: float) -> int:
    """The T of 65536 half-words that drop an element."""
    if not 0 <= p <= 1:
        raise ValueError(f"dropout: p must be in [0, 1], got {p}")
    return math.floor(p * 65536 + 0.5)


def keep_mask(shape: tuple[int, ...], p: float, rng: Any = None) -> Array:
    """True where an element is kept; its index counts in C order. p = 0 draws nothing."""
    T = drop_threshold(p)
    if p == 0:
        return np.ones(shape, bool)
    return (half_words(math.prod(shape), rng) >= T).reshape(shape)


def keep_scale(p: float) -> float:
    return 65536 / max(65536 - drop_threshold(p), 1)


@np.errstate(all="ignore")
def dropout_forward(x: Array, p: float = 0.5, *, rng: Any = None) -> tuple[Array, Any]:
    """Srivastava et al., Dropout: A Simple Way to Prevent Neural Networks from Overfitting, JMLR 2014."""
    keep, scale = keep_mask(x.shape, p, rng), keep_scale(p)
    return narrow(np.where(keep, wide(x) * scale, 0), x.dtype), (keep, scale)


@np.errstate(all="ignore")
def dropout_backward(grad_out: Array, ctx: Any) -> Array:
    keep, scale = ctx
    return narrow(np.where(keep, wide(grad_out) * scale, 0), grad_out.dtype)


@np.errstate(all="ignore")
def alpha_dropout_forward(x: Array, p: float = 0.5, *, rng: Any = None) -> tuple[Array, Any]:
    """Klambauer et al., Self-Normalizing Neural Networks, arXiv:1706.02515."""
    keep = keep_mask(x.shape, p, rng)
    p = drop_threshold(p) / 65536
    if p == 1:
        return np.zeros_like(x), (keep, 1.0)
    alpha = -1.7580993408473766  # selu(-inf)
    a = ((1 - p) * (1 + p * alpha**2)) ** -0.5
    b = -a * p * alpha
    return narrow(np.where(keep, a * wide(x) + b, a * alpha + b), x.dtype), (keep, a)


def alpha_dropout_backward(grad_out: Array, ctx: Any) -> Array:
    return dropout_backward(grad_out, ctx)


@np.errstate(all="ignore")
def rrelu_forward(
    x: Array, lower: float = 1 / 8, upper: float = 1 / 3, *, training: bool = True, rng: Any = None
) -> tuple[Array, Any]:
    """Xu et al., Empirical Evaluation of Rectified Activations in Convolutional Network, arXiv:1505.00853."""
    a = np.full(x.shape, (lower + upper) / 2)
    if training:
        u = (half_words(x.size, rng) + 0.5) / 65536
        a = (lower + (upper - lower) * u).reshape(x.shape)
    return narrow(np.where(wide(x) > 0, wide(x), a * wide(x)), x.dtype), (x, a)


@np.errstate(all="ignore")
def rrelu_backward(grad_out: Array, ctx: Any) -> Array:
    x, a = ctx
    g = wide(grad_out)
    return narrow(np.where(wide(x) > 0, g, a * g), x.dtype)
