"""How near to the reference each kernel must come, and the measure of it.

Errors are counted in ulp: units in the last place of the exact result. float16 and bfloat16 are computed in float32
and rounded once, so they may be wrong by half an ulp more. On CUDA, activations of these two types use the GPU's
approximations of elementary functions. Before the rounding, their error is at most 2^-17. The float64 bounds include
the rounding errors of the reference.
"""

from typing import NamedTuple

import numpy as np


class Bound(NamedTuple):
    f32: float
    f64: float
    condition: float  # plus so many times what the result changes by when the input changes by an ulp
    why: str
    floor: float = 0.0  # plus so many ulp of the largest term
    reach: float = np.inf  # for inputs no larger than this


# The default serves a new activation as it is: a formula written down plainly, not for the ends of the range.
BOUNDS = {
    "default": Bound(4, 4, 2, "a few operations", floor=4, reach=1e4),
    # exact, or one or two operations
    "relu": Bound(0, 0, 0, "selects"),
    "relu_backward": Bound(0, 0, 0, "selects"),
    "relu6": Bound(0, 0, 0, "selects"),
    "relu6_backward": Bound(0, 0, 0, "selects"),
    "hardtanh": Bound(0.5, 0, 0, "selects; a limit rounded to float32"),
    "hardtanh_backward": Bound(0, 0, 0, "selects"),
    "leaky_relu": Bound(1.5, 1, 0, "a product with a slope rounded to float32"),
    "leaky_relu_backward": Bound(1.5, 1, 0, "a product with a slope rounded to float32"),
    "hardsigmoid": Bound(1.5, 1.5, 0, "a sum, and a product with a rounded sixth"),
    "hardsigmoid_backward": Bound(1, 1, 0, "a product with a rounded sixth"),
    "hardswish": Bound(2.5, 2, 0, "a sum, two products, one of them with a rounded sixth"),
    "hardswish_backward": Bound(2, 2, 1, "x / 3 + 1 / 2 cancels at -1.5"),
    "softsign": Bound(1.5, 1, 0, "a sum and a quotient"),
    "softsign_backward": Bound(5, 5, 0, "a quotient's error, squared"),
    # expm1 and what is made of it; backward, from x, exp
    "elu": Bound(2.5, 2.5, 0, "expm1 to 1 ulp, times alpha"),
    "elu_backward": Bound(2.5, 4, 0, "exp to 1 ulp, two products, alpha rounded to float32"),
    "celu": Bound(3, 4, 0.5, "expm1 to 1 ulp of a rounded quotient, times alpha"),
    "celu_backward": Bound(2, 3, 0.5, "exp to 1 ulp of a rounded quotient, a product"),
    "selu": Bound(2.5, 4, 0, "expm1 to 1 ulp, times a rounded constant"),
    "selu_backward": Bound(2.5, 4, 0, "exp to 1 ulp, times a rounded constant, a product"),
    # exp and its kin
    "sigmoid": Bound(2.5, 4, 0, "exp, a sum, a quotient"),
    "sigmoid_backward": Bound(2.5, 3, 0, "1 - y is exact near 1"),
    "tanh": Bound(2, 3, 0, "expm1 and a quotient"),
    "tanh_backward": Bound(1.5, 3, 1, "1 - y^2 cancels without a fused multiply-add"),
    "softplus": Bound(2.5, 4, 0, "exp and log1p"),
    "softplus_backward": Bound(3, 5, 0, "as sigmoid"),
    "logsigmoid": Bound(2.5, 3, 0, "exp and log1p"),
    "logsigmoid_backward": Bound(3, 5, 0, "as sigmoid"),
    "silu": Bound(3, 5, 0, "sigmoid and a product"),
    "silu_backward": Bound(24, 64, 1, "x (1 - s): x times the rounding of s, up to x = 17 (36)"),
    "mish": Bound(5, 6, 0, "exp, three products, a quotient"),
    "mish_backward": Bound(8, 18, 6, "two terms cancel at -1.19; of the float64 bound nine are the reference's"),
    # gates whose argument is a square or a cubic: ill-conditioned in the tail
    "gelu": Bound(4, 4, 1, "exp and a rational function; the reference rounds their arguments"),
    "gelu_backward": Bound(5, 8, 2, "two terms cancel at -0.75"),
    "gelu_tanh": Bound(5, 6, 1, "sigmoid of a cubic"),
    "gelu_tanh_backward": Bound(48, 128, 3, "x (1 - s) as in silu, with 3 x^3 for x"),
    # channels: the terms of a sum are rounded to the compute type, the sum is taken in double
    "batch_norm": Bound(2, 4, 0, "an affine map whose terms cancel, then an activation and a scale", floor=6),
    "batch_norm_backward": Bound(2, 4, 0, "three terms that cancel", floor=12),
    "channel_sum": Bound(2, 4, 0, "sums of rounded terms", floor=3),
    "running_mean": Bound(0.51, 1, 0, "a sum in double", floor=4),
    "running_var": Bound(2, 4, 0, "squares rounded to the compute type, summed in double", floor=4),
    "bias_act": Bound(2, 4, 0, "two sums, then an activation and a scale", floor=6),
    "bias_act_backward": Bound(2, 4, 0, "as bias_act", floor=6),
    "fold_batch_norm": Bound(2, 2, 0, "a product with a rounded scale", floor=2),
    "prelu": Bound(0.5, 0.5, 0, "a product"),
    "batch_moments": Bound(
        2, 8, 0, "squares rounded to the compute type, summed in double; in float64 rounded sums", floor=4
    ),
    "batch_norm_sums": Bound(2, 8, 0, "sums of rounded terms, x_hat's error among them", floor=8),
    # norms within a sample: mean and squares are summed in the compute type, in parts of a few thousand elements
    "norm": Bound(4, 8, 0, "an affine map whose terms cancel, then an activation and a scale", floor=8),
    "norm_backward": Bound(4, 8, 0, "three terms that cancel, two of them with sums in the compute type", floor=16),
    "norm_sum": Bound(2, 4, 0, "sums of rounded terms, and sigma's error, a sum in the compute type", floor=16),
    # gates
    "gated": Bound(
        1.5, 1.5, 0, "a product with an activation; the bound of that counts twice, for a product's smaller ulp"
    ),
    # rows
    "softmax": Bound(8, 12, 1, "exp of a rounded difference; sums of up to 2048 in the compute type"),
    "softmax_backward": Bound(2, 4, 0, "a sum of terms that cancel", floor=4),
    "log_softmax": Bound(2, 4, 0, "a difference and a logarithm", floor=4),
    "log_softmax_backward": Bound(2, 4, 0, "a sum of terms that cancel", floor=4),
    "cross_entropy": Bound(4, 6, 0, "a logarithm less the target's logit", floor=4),
    "cross_entropy_backward": Bound(4, 16, 1, "softmax less the target", floor=4),
    # losses: rounded to the compute type, summed in double
    "mse_loss": Bound(2, 4, 0, "a rounded difference, squared"),
    "mse_loss_backward": Bound(2, 2, 0, "a difference times a rounded scale"),
    # random
    "dropout": Bound(1, 1, 0, "a product with a rounded scale"),
    "alpha_dropout": Bound(1, 1, 0, "an affine map with rounded constants", floor=2),
    "rrelu": Bound(2, 1, 0, "a product with a slope of two roundings"),
}

FORMATS = {"float16": (10, -14), "bfloat16": (7, -126), "float32": (23, -126), "float64": (52, -1022)}


def compute_type(dtype):
    return "float64" if np.dtype(dtype).name == "float64" else "float32"


def epsilon(dtype):
    """An ulp of 1 in the type that dtype is computed in."""
    return float(np.finfo(compute_type(dtype)).eps)


def ulp(value, dtype):
    fraction, least = FORMATS[np.dtype(dtype).name]
    _, exponent = np.frexp(value)
    return np.ldexp(1.0, np.maximum(exponent - 1, least) - fraction)


@np.errstate(all="ignore")
def assert_within(actual, exact, *rows, change=0.0, scale=0.0, slack=0.0, approximate=False):
    """That `actual` is as near to `exact`, in float64, as the rows of the table allow together.

    `change` is what the result changes by when the input changes by an ulp, `scale` the size of the largest term;
    `slack` is for what the input itself has been rounded by, in changes. `approximate` is for activations on CUDA: in a
    type of 16 bits they may be 2^-17 off before they are rounded. The last eight bits of a denormal are free.
    """
    dtype, computed = actual.dtype.name, compute_type(actual.dtype)
    bounds = [BOUNDS.get(row, BOUNDS["default"]) for row in rows]
    ulps, condition, floor = (sum(getattr(b, k) for b in bounds) for k in (f"f{computed[-2:]}", "condition", "floor"))
    overflow = np.ldexp(1.0, 2 - FORMATS[dtype][1])
    a, e = np.clip(actual.astype(np.float64), -overflow, overflow), np.clip(exact, -overflow, overflow)
    assert a.shape == e.shape
    finite = np.where(np.isfinite(e), e, 0.0)
    allowed = ulps * ulp(finite, computed) + (condition + slack) * change
    allowed = allowed + (floor * epsilon(dtype) + 256 * np.finfo(computed).smallest_subnormal) * scale
    if dtype != computed:
        allowed = allowed + 0.5 * ulp(finite, dtype) + (2.0**-17 * abs(finite) if approximate else 0.0)
    wrong = ~((a == e) | (abs(a - e) <= allowed) | (np.isnan(a) & np.isnan(e)))
    if wrong.any():
        excess = np.where(wrong, np.nan_to_num(abs(a - e) / allowed, nan=np.inf), 0)
        i = np.unravel_index(excess.argmax(), excess.shape)
        unit = ulp(finite, dtype)[i]
        error, limit = abs(a - e)[i] / unit, np.broadcast_to(allowed, e.shape)[i] / unit
        raise AssertionError(
            f"{' + '.join(rows)} in {dtype}: {a[i]!r} for {e[i]!r} at {tuple(map(int, i))}, "
            f"{error:.4g} ulp ({limit:.4g} allowed); {wrong.sum()} of {wrong.size} wrong"
        )
