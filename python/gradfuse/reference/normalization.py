"""Batch normalization with activation and dropout, bias_act, and max-norm.

Ioffe and Szegedy, Batch Normalization, arXiv:1502.03167. In its symbols: mu and var of the batch,
x_hat the normalized input, gamma and beta the weight and the bias.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np

from ._float64 import Array, Float64, along, narrow, others, wide
from ._registry import Activation, lookup
from .random import keep_mask, keep_scale


@np.errstate(all="ignore")
def batch_norm(
    x: Array,
    running_mean: Array,
    running_var: Array,
    weight: Array | None = None,
    bias: Array | None = None,
    eps: float = 1e-5,
    *,
    axis: int = 1,
    activation: Activation = None,
    residual: Array | None = None,
    out: Array | None = None,
) -> Array:
    """Inference: act(bn(x) + residual) by the running statistics."""
    y, _ = batch_norm_forward(
        wide(x),
        running_mean,
        running_var,
        weight,
        bias,
        eps=eps,
        axis=axis,
        activation=activation,
        residual=residual,
        frozen=True,
    )
    return narrow(y, x.dtype, out)


@np.errstate(all="ignore")
def batch_norm_forward(
    x: Array,
    running_mean: Array | None,
    running_var: Array | None,
    weight: Array | None = None,
    bias: Array | None = None,
    momentum: float | None = 0.1,
    eps: float = 1e-5,
    *,
    axis: int = 1,
    activation: Activation = None,
    dropout: float = 0.0,
    residual: Array | None = None,
    order: str = "bn_act",
    unbiased: bool = True,
    frozen: bool = False,
    num_batches: int | None = None,
    rng: Any = None,
) -> tuple[Array, Any]:
    """bn_act: dropout(act(bn(x) + residual)). act_bn: dropout(bn(act(x)) + residual).

    The running statistics are updated in place, with `momentum` None as the mean of all batches, of
    which `num_batches` came before. `frozen` normalises by them instead and leaves them alone.
    """
    if order not in ("bn_act", "act_bn"):
        raise ValueError(f'batch_norm_forward: order must be "bn_act" or "act_bn", got {order!r}')
    f, _ = lookup(activation)
    axes = others(x.ndim, axis)
    n = math.prod(x.shape[i] for i in axes)
    if n == 1 and not frozen:
        raise ValueError("batch_norm_forward: training needs more than one value per channel")
    keep, scale = keep_mask(x.shape, dropout, rng), keep_scale(dropout)

    u = wide(x) if order == "bn_act" else f(wide(x))
    if frozen:
        mu, var = along(running_mean, x.ndim, axis), along(running_var, x.ndim, axis)
    else:
        mu = u.sum(axes, keepdims=True) / n
        lost = (u - mu).sum(axes, keepdims=True) / n  # by the sum's rounding
        mu = np.where(np.isfinite(mu), mu + lost, mu)
        var = ((u - mu) ** 2).sum(axes, keepdims=True) / n
        _update(running_mean, running_var, mu, var, n, momentum, unbiased, num_batches)

    gamma = 1.0 if weight is None else along(weight, x.ndim, axis)
    beta = 0.0 if bias is None else along(bias, x.ndim, axis)
    sigma = np.sqrt(var + eps)
    x_hat = (u - mu) / sigma
    z = gamma * x_hat + beta + (0.0 if residual is None else wide(residual))
    a = f(z) if order == "bn_act" else z
    y = narrow(np.where(keep, a * scale, 0), x.dtype)
    return y, SimpleNamespace(
        x=x, weight=weight, bias=bias, residual=residual, activation=activation, order=order, frozen=frozen,
        axis=axis, axes=axes, n=n, keep=keep, scale=scale, gamma=gamma, sigma=sigma, u=u, x_hat=x_hat, z=z, a=a,
    )  # fmt: skip


@np.errstate(all="ignore")
def batch_norm_backward(grad_out: Array, ctx: Any) -> tuple[Array | None, ...]:
    """(dx, dweight, dbias), and dresidual if there was a residual; None for what was None."""
    return batch_norm_finish(grad_out, ctx, batch_norm_sums(grad_out, ctx))


# Batch norm with its phases apart, for a batch that several processes share


@np.errstate(all="ignore")
def batch_moments(x: Array, *, axis: int = 1) -> Array:
    """(3, C): count, mean, and sum of the squared deviations from it. An empty batch has 0 in all."""
    u, axes = wide(x), others(x.ndim, axis)
    n = math.prod(x.shape[i] for i in axes)
    mu = u.sum(axes, keepdims=True) / max(n, 1)
    M2 = ((u - mu) ** 2).sum(axes)
    return np.stack([np.full(M2.shape, float(n)), mu.ravel(), M2])


@np.errstate(all="ignore")
def merge_moments(moments: Sequence[Array]) -> Array:
    """The moments of all batches, from the first to the last (Chan, Golub and LeVeque 1979, STAN-CS-79-773)."""
    if not moments:
        raise ValueError("merge_moments: moments must not be empty, got none")
    first, *rest = moments
    merged = first.copy()
    for other in rest:
        if other.shape != merged.shape:
            raise ValueError(f"merge_moments: moments must have one shape, {merged.shape}, got {other.shape}")
        (n_a, mu_a, M2_a), (n_b, mu_b, M2_b) = merged, other
        n, delta = n_a + n_b, mu_b - mu_a
        both = np.stack([n, mu_a + delta * n_b / n, M2_a + M2_b + delta**2 * n_a * n_b / n])
        merged = np.where(n_b == 0, merged, np.where(n_a == 0, other, both))
    return merged


@np.errstate(all="ignore")
def batch_norm_apply(
    x: Array,
    moments: Array,
    running_mean: Array | None,
    running_var: Array | None,
    weight: Array | None = None,
    bias: Array | None = None,
    momentum: float | None = 0.1,
    eps: float = 1e-5,
    *,
    axis: int = 1,
    activation: Activation = None,
    dropout: float = 0.0,
    residual: Array | None = None,
    unbiased: bool = True,
    num_batches: int | None = None,
    rng: Any = None,
) -> tuple[Array, Any]:
    """batch_norm_forward in the order bn_act, by the moments of the whole batch, of which x is a part."""
    n, mu, M2 = moments
    if n.max(initial=0) == 1:
        raise ValueError("batch_norm_apply: training needs more than one value per channel")
    n = float(n.max(initial=0))
    y, ctx = batch_norm_forward(
        x,
        mu,
        M2 / n,
        weight,
        bias,
        eps=eps,
        axis=axis,
        activation=activation,
        dropout=dropout,
        residual=residual,
        frozen=True,
        rng=rng,
    )
    ctx.frozen, ctx.n = False, n
    _update(running_mean, running_var, mu, M2 / n, n, momentum, unbiased, num_batches)
    return y, ctx


@np.errstate(all="ignore")
def batch_norm_sums(grad_out: Array, ctx: Any) -> Array:
    """(2, C), of the local batch: the sums of dz and of dz * x_hat, dz the gradient of what the activation is given."""
    dz = _before_activation(grad_out, ctx)
    return np.stack([dz.sum(ctx.axes), (dz * ctx.x_hat).sum(ctx.axes)])


@np.errstate(all="ignore")
def batch_norm_finish(grad_out: Array, ctx: Any, sums: Array) -> tuple[Array | None, ...]:
    """As batch_norm_backward: dx by the sums of the whole batch, dweight and dbias by those of the local one."""
    c = ctx
    dz = _before_activation(grad_out, c)
    dbeta, dgamma = (along(s, c.x.ndim, c.axis) for s in sums)
    through_statistics = 0 if c.frozen else dbeta / c.n + c.x_hat * dgamma / c.n
    du = c.gamma / c.sigma * (dz - through_statistics)
    dx = du if c.order == "bn_act" else lookup(c.activation)[1](du, wide(c.x), c.u)

    local = batch_norm_sums(grad_out, c)
    grads = narrow(dx, c.x.dtype), _like(c.weight, local[1]), _like(c.bias, local[0])
    return grads if c.residual is None else (*grads, _like(c.residual, dz))


def _before_activation(grad_out: Array, c: Any) -> Float64:
    da = np.where(c.keep, wide(grad_out) * c.scale, 0)
    return lookup(c.activation)[1](da, c.z, c.a) if c.order == "bn_act" else da


def _update(
    running_mean: Array | None,
    running_var: Array | None,
    mu: Array,
    var: Array,
    n: float,
    momentum: float | None,
    unbiased: bool,
    num_batches: int | None,
) -> None:
    m = 1 / ((num_batches or 0) + 1) if momentum is None else momentum
    var = var * n / (n - 1) if unbiased else var
    for running, batch in ((running_mean, mu), (running_var, var)):
        if running is not None and n > 0:
            narrow((1 - m) * wide(running) + m * batch.ravel(), running.dtype, out=running)


def _like(v: Array | None, gradient: Array) -> Array | None:
    return None if v is None else narrow(gradient.reshape(v.shape), v.dtype)


def fold_batch_norm(
    W: Array,
    b: Array | None,
    running_mean: Array,
    running_var: Array,
    weight: Array | None = None,
    bias: Array | None = None,
    eps: float = 1e-5,
    *,
    axis: int = -1,
) -> tuple[Array, Array]:
    """The layer (W, b) with the batch normalization behind it; `axis` of W is the output channel."""
    gamma = 1.0 if weight is None else wide(weight)
    beta = 0.0 if bias is None else wide(bias)
    s = gamma / np.sqrt(wide(running_var) + eps)
    b64, dtype = (0.0, W.dtype) if b is None else (wide(b), b.dtype)
    W_folded = wide(W) * along(s, W.ndim, axis)
    b_folded = (b64 - wide(running_mean)) * s + beta
    return narrow(W_folded, W.dtype), narrow(b_folded, dtype)


@np.errstate(all="ignore")
def bias_act_forward(
    x: Array,
    bias: Array | None = None,
    activation: Activation = None,
    dropout: float = 0.0,
    residual: Array | None = None,
    *,
    axis: int = -1,
    rng: Any = None,
) -> tuple[Array, Any]:
    """dropout(act(x + bias + residual)), the end of a dense layer."""
    f, _ = lookup(activation)
    keep, scale = keep_mask(x.shape, dropout, rng), keep_scale(dropout)
    z = wide(x)
    if bias is not None:
        z = z + along(bias, x.ndim, axis)
    if residual is not None:
        z = z + wide(residual)
    a = f(z)
    y = narrow(np.where(keep, a * scale, 0), x.dtype)
    axes = others(x.ndim, axis)
    return y, SimpleNamespace(
        x=x, bias=bias, residual=residual, activation=activation, axes=axes, keep=keep, scale=scale, z=z, a=a
    )


@np.errstate(all="ignore")
def bias_act_backward(grad_out: Array, ctx: Any) -> tuple[Array | None, ...]:
    """(dx, dbias), and dresidual if there was a residual; dbias is None if there was no bias."""
    c = ctx
    _, df = lookup(c.activation)
    dz = df(np.where(c.keep, wide(grad_out) * c.scale, 0), c.z, c.a)
    grads = narrow(dz, c.x.dtype), _like(c.bias, dz.sum(c.axes))
    return grads if c.residual is None else (*grads, _like(c.residual, dz))


@np.errstate(all="ignore")
def max_norm_(W: Array, r: float, *, axis: int | tuple[int, ...] = 0) -> None:
    """Scales the columns of W (the norm is over `axis`) whose norm is above r to norm r, in place."""
    W64 = wide(W)
    norm = np.sqrt((W64**2).sum(axis, keepdims=True))
    narrow(np.where(norm > r, W64 * (r / norm), W64), W.dtype, out=W)


# What `import *` takes: every function above. Type checkers would read a plain assignment as an empty list.
globals()["__all__"] = [
    name for name, f in list(globals().items()) if getattr(f, "__module__", "") == __name__ and name[0] != "_"
]
