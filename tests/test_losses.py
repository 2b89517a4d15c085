"""Every elementwise loss of the list, with its gradient, against the reference."""

from functools import partial

import numpy as np
import pytest
from helpers import LAYOUTS, assert_identical, cast, exact, off_default, wide
from ulp import BOUNDS, assert_within, epsilon

import gradfuse
import gradfuse.reference as ref

LOSSES = {entry["name"]: entry["parameters"] for entry in gradfuse._core.losses()}
CASES = [pytest.param(name, {}, id=name) for name in LOSSES]
CASES += [pytest.param(name, off_default(p), id=f"{name}-off_default") for name, p in LOSSES.items() if p]
cases = pytest.mark.parametrize(("name", "params"), CASES)
losses = pytest.mark.parametrize("name", LOSSES)
reductions = pytest.mark.parametrize("reduction", ["mean", "sum", "none"])


def inputs(rng, shape, dtype):
    """Predictions, and targets of every kind: numbers, probabilities, and -1, 0 and 1."""
    pred, target = 2 * rng.normal(size=(2, *shape))
    kinds = np.stack([target, rng.random(shape), rng.integers(-1, 2, shape)])
    return cast(pred, dtype), cast(np.choose(rng.integers(0, 3, shape), kinds), dtype)


@np.errstate(all="ignore")
def changes(f, pred, target, dtype):
    """What losses and gradients change by when pred and target change by an ulp of the compute type."""
    step = 1 + 64 * epsilon(dtype)
    moved = zip(f(pred, target), f(step * pred, target), f(pred, step * target), strict=True)
    return [np.nan_to_num((abs(a - at) + abs(b - at)) / 64, nan=0.0, posinf=0.0) for at, a, b in moved]


@np.errstate(all="ignore")
def compare(kernels, name, pred, target, params, reduction):
    """The loss and its gradient within their bounds; a reduced loss may be wrong by what its terms are, together."""
    loss, dpred = getattr(kernels, name)(pred, target, **params, reduction=reduction)
    f = getattr(exact, name)
    loss_, dpred_ = f(pred, target, **params, reduction=reduction)
    assert loss.dtype == (np.float64 if pred.dtype == np.float64 else np.float32)
    assert (loss.shape, dpred.dtype, dpred.shape) == (loss_.shape, pred.dtype, pred.shape)

    p, t = wide(pred), wide(target)
    part = 1 / max(pred.size, 1) if reduction == "mean" else 1.0  # of the whole, that an element has
    sizes = np.nan_to_num(np.fmax(np.fmax(abs(p), abs(t)), 1.0), posinf=0.0)
    change, dchange = changes(partial(f, **params, reduction="none"), p, t, pred.dtype)
    change, scale = (e if reduction == "none" else part * e.sum() for e in (change, sizes))
    slack = 1.0 if params else 0.0
    assert_within(loss, loss_, name, change=change, scale=scale, slack=slack)
    assert_within(dpred, dpred_, f"{name}_backward", change=part * dchange, scale=part * sizes, slack=slack)
    return loss, dpred


@cases
@reductions
@pytest.mark.parametrize("shape", [(), (0,), (1,), (7,), (3, 4, 5), (70001,)], ids=str)
def test_loss(kernels, rng, dtype, name, params, reduction, shape):
    pred, target = inputs(rng, shape, dtype)
    expected = compare(kernels, name, pred, target, params, reduction)
    for layout in LAYOUTS.values():
        actual = getattr(kernels, name)(layout(pred), layout(target), **params, reduction=reduction)
        for a, b in zip(actual, expected, strict=True):
            assert_identical(a, b)


@cases
def test_edges(kernels, dtype, name, params):
    """All pairs of ends, as far as the bound holds, and what is no number."""
    limits = np.finfo("float32") if dtype == "bfloat16" else np.finfo(dtype)
    values = [float(limits.tiny), float(limits.smallest_subnormal), 0.0, 0.5, 1.0, 1e4, 0.9 * float(limits.max)]
    reach = BOUNDS.get(name, BOUNDS["default"]).reach
    values = [v for v in values if v <= reach] + [np.inf]
    values = np.array([*values, *(-v for v in values), np.nan])
    pred, target = (cast(a.ravel(), dtype) for a in np.meshgrid(values, values))
    compare(kernels, name, pred, target, params, "none")


@cases
def test_gradient(kernels, rng, name, params):
    """Central differences of the reference."""
    pred, target = inputs(rng, (500,), "float64")
    f, step = getattr(ref, name), 1e-6
    up, down = (f(pred + h, target, **params, reduction="none")[0] for h in (step, -step))
    for reduction, part in (("none", 1), ("sum", 1), ("mean", 500)):
        dpred = getattr(kernels, name)(pred, target, **params, reduction=reduction)[1]
        # The difference is right to step^2, and to the loss's rounding divided by the step.
        np.testing.assert_allclose(dpred * part, (up - down) / (2 * step), rtol=1e-6, atol=1e-7)


@losses
def test_ten_million(kernels, rng, name):
    """A sum of so many is right to float32's rounding."""
    pred = rng.random(10_000_000, np.float32)
    target = np.full_like(pred, 0.25)
    loss, _ = getattr(kernels, name)(pred, target)
    expected, _ = getattr(exact, name)(pred, target)
    assert_within(loss, expected, name, scale=1.0)


@losses
@pytest.mark.parametrize("shape", [(40,), (6, 7)], ids=str)
@reductions
def test_against_torch(kernels, rng, name, shape, reduction):
    """PyTorch's function of that name, where it has one."""
    torch = pytest.importorskip("torch")
    if (f := getattr(torch.nn.functional, name, None)) is None:
        return
    pred, target = rng.normal(size=shape), rng.random(shape)
    loss, dpred = getattr(kernels, name)(pred, target, reduction=reduction)
    leaf = torch.from_numpy(pred.copy()).requires_grad_()
    expected = f(leaf, torch.from_numpy(target), reduction=reduction)
    expected.sum().backward()
    np.testing.assert_allclose(loss, expected.detach().numpy(), rtol=1e-12)
    np.testing.assert_allclose(dpred, leaf.grad.numpy(), rtol=1e-12, atol=1e-15)


@losses
def test_defaults(kernels, rng, name):
    pred, target = inputs(rng, (50,), "float32")
    f = getattr(kernels, name)
    for a, b in zip(f(pred, target), f(pred, target, **LOSSES[name], reduction="mean"), strict=True):
        assert_identical(a, b)
