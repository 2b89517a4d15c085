"""Gradients that a step scales first: those of a scaled loss, or of several batches added up."""

import math

import numpy as np
import pytest
from helpers import BFLOAT16, assert_identical
from optimizers import NAMES, make, unchanged

import gradfuse
import gradfuse.reference as ref

every_optimizer = pytest.mark.parametrize("name", NAMES)
every_device = pytest.mark.usefixtures("device")


def arrays(rng, dtype="float32", sizes=(7, 1000)):
    return [rng.normal(size=n).astype(dtype) for n in sizes]


@every_device
@every_optimizer
@pytest.mark.parametrize("max_grad_norm", [None, 0.5, 1e6])
def test_a_power_of_two_changes_no_bit(rng, name, max_grad_norm):
    params, plain = (arrays(np.random.default_rng(1)) for _ in range(2))
    scaled, expected = (make(name, p, max_grad_norm=max_grad_norm) for p in (params, plain))
    for scale in (2.0**10, 2.0**-7, 1.0):
        grads = arrays(rng)
        scaled.step([g * np.float32(scale) for g in grads], grad_scale=1 / scale)
        expected.step(grads)
        assert scaled.last_grad_norm == expected.last_grad_norm
    for p, q in zip(params, plain, strict=True):
        assert_identical(p, q)


@every_device
@every_optimizer
def test_the_reference_agrees(rng, name):
    params = arrays(rng, "float64")
    exact = [p.copy() for p in params]
    opt = make(name, params, max_grad_norm=0.7, nonfinite="skip")
    reference = getattr(ref.optim, name)(
        exact, **{k: v for k, v in opt.groups[0].items() if k != "params"}, max_grad_norm=0.7, nonfinite="skip"
    )
    for scale in (0.3, 7.0, 1e-5):
        grads = arrays(rng, "float64")
        opt.step(grads, grad_scale=scale)
        reference.step(grads, grad_scale=scale)
        assert opt.last_grad_norm == pytest.approx(reference.last_grad_norm, rel=1e-13)
    for p, q in zip(params, exact, strict=True):
        np.testing.assert_allclose(p, q, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("dtype", [np.float16, BFLOAT16], ids=str)
def test_half_gradients_are_unscaled_in_float32(dtype):
    """1e-9 is 0 in float16: scaled by 65536 it is not, and its update is that of float32."""
    p, q = np.ones(3, dtype), np.ones(3, np.float32)
    half = gradfuse.optim.SGD([p], lr=1e6, master_weights=True)
    full = gradfuse.optim.SGD([q], lr=1e6)
    g = (np.full(3, 1e-9) * 65536).astype(dtype)
    half.step([g], grad_scale=1 / 65536)
    full.step([g.astype(np.float32) / np.float32(65536)])
    np.testing.assert_array_equal(half.state[0]["master"], q)
    assert (q < 1).all()


def test_what_is_skipped_leaves_the_next_step_as_it_would_be(rng):
    params, plain = (arrays(np.random.default_rng(1)) for _ in range(2))
    opt, expected = (make("Adam", p, nonfinite="skip") for p in (params, plain))
    opt.step([np.full(7, np.inf, np.float32), None], grad_scale=1 / 65536)
    assert opt.last_grad_norm == math.inf
    for o in (opt, expected):
        o.step(arrays(np.random.default_rng(2)))
    assert_identical(params[1], plain[1])


@pytest.mark.parametrize(
    ("value", "error"),
    [
        (0, ValueError),
        (-1.0, ValueError),
        (math.nan, ValueError),
        (math.inf, ValueError),
        ("1", TypeError),
        (True, TypeError),
    ],
)
def test_other_scales_are_refused(value, error):
    opt = gradfuse.optim.Adam([np.ones(3)])
    with unchanged(opt), pytest.raises(error, match=r"^Adam: grad_scale must be a finite number > 0, got "):
        opt.step([np.ones(3)], grad_scale=value)


def test_parameters_of_layers():
    p, q = gradfuse.nn.Parameter(np.ones(3)), np.ones(3)
    opt, plain = (
        gradfuse.optim.Adam([{"params": p}, {"params": [gradfuse.nn.Parameter(np.ones(2))]}]),
        gradfuse.optim.Adam([q]),
    )
    opt.step()  # no gradient, no update
    np.testing.assert_array_equal(p.data, 1)
    p.grad = np.full(3, 0.5)
    opt.step()
    plain.step([None])
    plain.step([np.full(3, 0.5)])
    np.testing.assert_array_equal(p.data, q)
    assert opt.params[0] is p
