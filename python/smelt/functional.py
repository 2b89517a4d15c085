"""Functions made of the compiled ones."""

from __future__ import annotations

from typing import Any, TypeVar

import numpy as np

from smelt import _core

Array = TypeVar("Array")

_GELU = {"none": (_core.gelu, _core.gelu_backward), "tanh": (_core.gelu_tanh, _core.gelu_tanh_backward)}


def _gelu(function: str, approximate: str, backward: bool) -> Any:
    try:
        return _GELU[approximate][backward]
    except (KeyError, TypeError):
        raise ValueError(f"{function}: approximate must be 'none' or 'tanh', got {approximate!r}") from None


def gelu(x: Array, approximate: str = "none", *, out: Array | None = None) -> Array:
    """y = x * Phi(x), Phi the standard normal distribution; with approximate="tanh" that of `gelu_tanh`.

    x and the result share shape and dtype (float16, bfloat16, float32 or float64).
    Raises TypeError for a wrong kind or dtype, ValueError for another `approximate` or an `out` that cannot be written.
    Source: Hendrycks and Gimpel 2016; torch.nn.functional.gelu.
    """
    return _gelu("gelu", approximate, False)(x, out=out)  # type: ignore[no-any-return]


def gelu_backward(grad_out: Array, saved: Array, approximate: str = "none", *, out: Array | None = None) -> Array:
    """dx = grad_out * dy/dx of gelu; saved is the forward's x.

    All arrays share shape and dtype (float16, bfloat16, float32 or float64).
    Raises TypeError for a wrong kind or dtype, ValueError for a wrong shape, another `approximate` or an `out` that
    cannot be written. Source: torch.nn.functional.gelu.
    """
    return _gelu("gelu_backward", approximate, True)(grad_out, saved, out=out)  # type: ignore[no-any-return]


swish = _core.silu
swish_backward = _core.silu_backward


def fold_batch_norm(
    W: np.ndarray,
    b: np.ndarray | None,
    running_mean: np.ndarray,
    running_var: np.ndarray,
    weight: np.ndarray | None = None,
    bias: np.ndarray | None = None,
    eps: float = 1e-5,
    *,
    axis: int = -1,
) -> tuple[np.ndarray, np.ndarray]:
    """(W', b') of the layer before a batch normalization, with its inference folded in.

    W' = W * weight / sqrt(running_var + eps), b' = (b - running_mean) * weight / sqrt(running_var + eps) + bias.
    W has its C output channels on `axis`: the last of (in, out), 0 for (out, in, ...). The vectors have shape (C,); b,
    weight and bias may be None. New arrays of W's dtype are returned.
    Raises TypeError for a wrong dtype, ValueError for a wrong shape, axis or eps.
    Source: Ioffe and Szegedy 2015; torch.nn.utils.fusion.fuse_linear_bn_weights.
    """
    where = "fold_batch_norm:"
    if not isinstance(axis, int) or not -W.ndim <= axis < W.ndim:
        raise ValueError(f"{where} axis must be an axis of an array of {W.ndim} dimensions, got {axis!r}")
    if not 0 <= eps < np.inf:
        raise ValueError(f"{where} eps must be a finite number >= 0, got {eps!r}")
    channels = W.shape[axis]
    vectors = {"b": b, "running_mean": running_mean, "running_var": running_var, "weight": weight, "bias": bias}
    for name, v in vectors.items():
        if v is None and name in ("running_mean", "running_var"):
            raise TypeError(f"{where} {name} must be an array, got None")
        if v is not None and v.shape != (channels,):
            raise ValueError(f"{where} {name} must have shape ({channels},), got {tuple(v.shape)}")
    double = "float64"
    scale = 1 / (running_var.astype(double) + eps) ** 0.5
    if weight is not None:
        scale = scale * weight.astype(double)
    shift = -running_mean.astype(double) if b is None else b.astype(double) - running_mean.astype(double)
    shift = shift * scale
    if bias is not None:
        shift = shift + bias.astype(double)
    shape = [1] * W.ndim
    shape[axis] = channels
    return (W.astype(double) * scale.reshape(shape)).astype(W.dtype), shift.astype(W.dtype)
