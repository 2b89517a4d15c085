"""Functions made of the compiled ones."""

from __future__ import annotations

from typing import Any, TypeVar

from gradfuse import _core

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
