"""The reference's optimizers against the recurrences of one number, written out."""

import math

import numpy as np
import pytest

import gradfuse.reference as ref
from gradfuse.reference._float64 import narrow

GRADIENTS = [0.7, -1.3, 0.2, 2.1, -0.4, 0.05, -0.9]


def sgd(p, lr=0.1, momentum=0.9, dampening=0.2, weight_decay=0.03):
    buf = None
    for g in GRADIENTS:
        g += weight_decay * p
        buf = g if buf is None else momentum * buf + (1 - dampening) * g
        p -= lr * buf
        yield p


def nesterov(p, lr=0.1, momentum=0.9):
    buf = 0.0
    for g in GRADIENTS:
        buf = momentum * buf + g
        p -= lr * (g + momentum * buf)
        yield p


def keras_sgd(p, lr=lambda step: 0.1 / (step + 1), momentum=0.9, nesterov=False):
    velocity = 0.0
    for step, g in enumerate(GRADIENTS):
        velocity = momentum * velocity - lr(step) * g
        p += momentum * velocity - lr(step) * g if nesterov else velocity
        yield p


def adagrad(p, lr=0.2, lr_decay=0.1, initial_accumulator_value=0.5, eps=1e-3):
    s = initial_accumulator_value
    for t, g in enumerate(GRADIENTS):
        s += g * g
        p -= lr / (1 + t * lr_decay) * g / (math.sqrt(s) + eps)
        yield p


def rmsprop(p, lr=0.02, alpha=0.8, eps=1e-3, momentum=0.7):
    v = m = b = 0.0
    for g in GRADIENTS:
        v = alpha * v + (1 - alpha) * g * g
        m = alpha * m + (1 - alpha) * g
        b = momentum * b + g / (math.sqrt(v - m * m) + eps)
        p -= lr * b
        yield p


def adam(p, lr=0.02, beta1=0.8, beta2=0.95, eps=1e-3, weight_decay=0.0, amsgrad=False):
    m = v = top = 0.0
    for t, g in enumerate(GRADIENTS, 1):
        p -= lr * weight_decay * p
        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * g * g
        top = max(top, v) if amsgrad else v
        p -= lr * (m / (1 - beta1**t)) / (math.sqrt(top / (1 - beta2**t)) + eps)
        yield p


def nadam(p, lr=0.02, beta1=0.8, beta2=0.95, eps=1e-3, momentum_decay=0.1):
    m, v, P = 0.0, 0.0, 1.0
    for t, g in enumerate(GRADIENTS, 1):
        mu = beta1 * (1 - 0.5 * 0.96 ** (t * momentum_decay))
        mu_next = beta1 * (1 - 0.5 * 0.96 ** ((t + 1) * momentum_decay))
        P *= mu
        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * g * g
        p -= lr * ((1 - mu) / (1 - P) * g + mu_next / (1 - P * mu_next) * m) / (math.sqrt(v / (1 - beta2**t)) + eps)
        yield p


def adamax(p, lr=0.02, beta1=0.8, beta2=0.95, eps=1e-3):
    m = u = 0.0
    for t, g in enumerate(GRADIENTS, 1):
        m = beta1 * m + (1 - beta1) * g
        u = max(beta2 * u, abs(g) + eps)
        p -= lr / (1 - beta1**t) * m / u
        yield p


ADAM = {"lr": 0.02, "betas": (0.8, 0.95), "eps": 1e-3}


@pytest.mark.parametrize(
    ("make", "recurrence"),
    [
        (lambda p: ref.SGD(p, 0.1, 0.9, 0.2, 0.03), sgd),
        (lambda p: ref.SGD(p, lr=0.1, momentum=0.9, nesterov=True), nesterov),
        (
            lambda p: ref.SGD(p, lr=lambda step: 0.1 / (step + 1), momentum=0.9, lr_in_momentum=True),
            keras_sgd,
        ),
        (
            lambda p: ref.SGD(p, lambda step: 0.1 / (step + 1), 0.9, nesterov=True, lr_in_momentum=True),
            lambda p: keras_sgd(p, nesterov=True),
        ),
        (lambda p: ref.Adagrad(p, 0.2, 0.1, initial_accumulator_value=0.5, eps=1e-3), adagrad),
        (lambda p: ref.RMSprop(p, 0.02, 0.8, 1e-3, momentum=0.7, centered=True), rmsprop),
        (lambda p: ref.Adam(p, **ADAM), adam),
        (
            lambda p: ref.Adam(p, 0.02, (0.8, 0.5), 1e-3, amsgrad=True),
            lambda p: adam(p, beta2=0.5, amsgrad=True),
        ),
        (lambda p: ref.AdamW(p, **ADAM, weight_decay=0.3), lambda p: adam(p, weight_decay=0.3)),
        (
            lambda p: ref.Adam(p, **ADAM, weight_decay=0.3, decoupled_weight_decay=True),
            lambda p: adam(p, weight_decay=0.3),
        ),
        (lambda p: ref.NAdam(p, **ADAM, momentum_decay=0.1), nadam),
        (lambda p: ref.Adamax(p, **ADAM), adamax),
    ],
)
def test_recurrence(make, recurrence):
    p = np.array([0.5])
    opt = make([p])
    for g, expected in zip(GRADIENTS, recurrence(0.5), strict=True):
        opt.step([np.array([g])])
        np.testing.assert_allclose(p, expected, rtol=1e-14)


OPTIMIZERS = {
    ref.SGD: {"lr": 0.1, "momentum": 0.9, "dampening": 0.1},
    ref.Adagrad: {"lr": 0.1, "lr_decay": 0.1},
    ref.RMSprop: {"lr": 0.1, "momentum": 0.5, "centered": True},
    ref.Adam: {"lr": 0.1, "amsgrad": True},
    ref.AdamW: {"lr": 0.1},
    ref.NAdam: {"lr": 0.1},
    ref.Adamax: {"lr": 0.1},
}
every_optimizer = pytest.mark.parametrize(
    ("Optimizer", "hyper"), OPTIMIZERS.items(), ids=[o.__name__ for o in OPTIMIZERS]
)


@pytest.fixture
def rng():
    return np.random.default_rng(4)


def run(Optimizer, params, steps, **hyper):
    opt = Optimizer(params, **hyper)
    for grads in steps:
        opt.step(grads)
    return opt


def assert_same_state(a, b):
    for s, r in zip(a.state, b.state, strict=True):
        assert s.keys() == r.keys()
        for name in s:
            np.testing.assert_array_equal(s[name], r[name])


def test_state_names():
    def names(opt):
        return list(opt.state[0])

    p = [np.zeros((2, 3))]
    assert names(ref.SGD(p)) == []
    assert names(ref.SGD(p, momentum=0.9)) == ["momentum_buffer"]
    assert names(ref.Adagrad(p)) == ["sum"]
    assert names(ref.RMSprop(p)) == ["square_avg"]
    assert names(ref.RMSprop(p, momentum=0.9, centered=True)) == ["square_avg", "grad_avg", "momentum_buffer"]
    assert names(ref.Adam(p)) == names(ref.AdamW(p)) == names(ref.NAdam(p)) == ["exp_avg", "exp_avg_sq"]
    assert names(ref.Adam(p, amsgrad=True)) == ["exp_avg", "exp_avg_sq", "max_exp_avg_sq"]
    assert names(ref.Adamax(p)) == ["exp_avg", "exp_inf"]
    state = ref.Adagrad(p, initial_accumulator_value=0.5).state
    np.testing.assert_array_equal(state[0]["sum"], np.full((2, 3), 0.5))


@every_optimizer
def test_maximize(Optimizer, hyper, rng):
    start, steps = rng.standard_normal(5), rng.standard_normal((4, 1, 5))
    up, down = start.copy(), start.copy()
    run(Optimizer, [up], steps, maximize=True, weight_decay=0.1, **hyper)
    run(Optimizer, [down], -steps, weight_decay=0.1, **hyper)
    np.testing.assert_array_equal(up, down)


@every_optimizer
def test_weight_decay(Optimizer, hyper, rng):
    start, g = rng.standard_normal((2, 5))
    coupled, by_hand = start.copy(), start.copy()
    run(Optimizer, [coupled], [[g]], weight_decay=0.3, decoupled_weight_decay=False, **hyper)
    run(Optimizer, [by_hand], [[g + 0.3 * start]], weight_decay=0.0, **hyper)
    np.testing.assert_array_equal(coupled, by_hand)
    decoupled, by_hand = start.copy(), start * (1 - 0.1 * 0.3)
    run(Optimizer, [decoupled], [[g]], weight_decay=0.3, decoupled_weight_decay=True, **hyper)
    run(Optimizer, [by_hand], [[g]], weight_decay=0.0, **hyper)
    np.testing.assert_array_equal(decoupled, by_hand)


@every_optimizer
def test_clipping_by_the_norm_of_all_gradients(Optimizer, hyper, rng):
    start, steps = rng.standard_normal((2, 3)), rng.standard_normal((4, 2, 3))
    before = steps.copy()
    clipped, by_hand = list(start.copy()), list(start.copy())
    opt = run(Optimizer, clipped, steps, max_grad_norm=0.5, weight_decay=0.1, **hyper)
    np.testing.assert_array_equal(steps, before)
    np.testing.assert_allclose(opt.last_grad_norm, np.linalg.norm(steps[-1]))
    steps *= 0.5 / np.linalg.norm(steps, axis=(1, 2), keepdims=True)
    unclipped = run(Optimizer, by_hand, steps, weight_decay=0.1, **hyper)
    assert unclipped.last_grad_norm is None
    np.testing.assert_allclose(clipped, by_hand, rtol=1e-12)


@every_optimizer
@pytest.mark.parametrize("max_grad_norm", [None, 1.0])
def test_nonfinite_gradients(Optimizer, hyper, max_grad_norm, rng):
    start, steps = rng.standard_normal((2, 3)), rng.standard_normal((3, 2, 3))
    params = list(start.copy())
    opt = Optimizer(params, max_grad_norm=max_grad_norm, nonfinite="skip", **hyper)
    opt.step([np.full(3, math.inf), None])
    assert opt.last_grad_norm == math.inf
    np.testing.assert_array_equal(params, start)
    for grads in steps:
        opt.step(grads)
        before = [p.copy() for p in params]
        opt.step([grads[0], np.full(3, math.nan)])
        np.testing.assert_array_equal(params, before)
    clean = list(start.copy())
    expected = run(Optimizer, clean, steps, max_grad_norm=max_grad_norm, **hyper)
    np.testing.assert_array_equal(params, clean)
    assert_same_state(opt, expected)
    assert opt.t == 3

    opt.nonfinite = "raise"
    with pytest.raises(ValueError, match="norm of the gradients is inf"):
        opt.step([np.full(3, math.inf), None])
    np.testing.assert_array_equal(params, clean)
    assert_same_state(opt, expected)
    assert opt.t == 3

    opt.nonfinite = "propagate"
    opt.step([np.full(3, math.nan), steps[0, 1]])
    assert np.isnan(params[0]).all()
    assert np.isnan(params[1]).all() == (max_grad_norm is not None)


@every_optimizer
def test_no_gradient_changes_nothing(Optimizer, hyper, rng):
    p, q = rng.standard_normal((2, 3))
    opt = Optimizer([p, q], weight_decay=0.1, **hyper)
    opt.step(rng.standard_normal((2, 3)))
    p_before, state_before = p.copy(), {name: value.copy() for name, value in opt.state[0].items()}
    opt.step([None, np.ones(3)])
    np.testing.assert_array_equal(p, p_before)
    for name, value in state_before.items():
        np.testing.assert_array_equal(opt.state[0][name], value)
    assert opt.t == 2


@every_optimizer
def test_groups_and_schedules(Optimizer, hyper, rng):
    start, steps = rng.standard_normal((2, 3)), rng.standard_normal((4, 2, 3))

    def schedule(step):
        return 0.1 / (1 + step)

    p, q = start.copy()
    opt = Optimizer([{"params": [p]}, {"params": [q], "lr": schedule, "weight_decay": 0.2}], **hyper)
    for grads in steps:
        opt.step(grads)
    assert opt.lr == 0.1

    alone = start[0].copy()
    run(Optimizer, [alone], steps[:, :1], **hyper)
    np.testing.assert_array_equal(p, alone)

    alone = start[1].copy()
    opt = Optimizer([alone], **{**hyper, "weight_decay": 0.2})
    for step, grads in enumerate(steps):
        opt.lr = schedule(step)
        assert opt.lr == schedule(step)
        opt.step(grads[1:])
    np.testing.assert_array_equal(q, alone)
    opt.lr = schedule
    assert opt.lr == schedule(4)


@every_optimizer
@pytest.mark.parametrize("half", ["float16", "bfloat16"])
def test_half_parameters(Optimizer, hyper, half, rng):
    dtype = np.dtype(half) if half == "float16" else np.dtype(pytest.importorskip("ml_dtypes").bfloat16)
    start, steps = rng.standard_normal(50).astype(dtype), rng.standard_normal((5, 1, 50)).astype(dtype)
    exact = start.astype(np.float64)
    run(Optimizer, [exact], steps, **hyper)

    master = start.copy()
    run(Optimizer, [master], steps, master_weights=True, **hyper)
    np.testing.assert_array_equal(master, narrow(exact, dtype))

    rounded, by_hand = start.copy(), start.astype(np.float64)
    opt, twin = Optimizer([rounded], **hyper), Optimizer([by_hand], **hyper)
    for grads in steps:
        opt.step(grads)
        twin.step(grads)
        by_hand[:] = narrow(by_hand, dtype)
        np.testing.assert_array_equal(rounded, by_hand)
    assert (rounded != master).any()
    assert all(value.dtype == np.float64 for value in opt.state[0].values())


@every_optimizer
def test_shapes_and_strides(Optimizer, hyper, rng):
    start, g = rng.standard_normal((2, 4, 6))
    whole, plain = start.copy(), start.copy()
    empty, scalar = np.zeros((0, 3)), np.array(1.0)
    view = whole[::2, 1::2]
    run(Optimizer, [view, scalar, empty], [[g[::2, 1::2], np.array(0.5), empty]] * 2, **hyper)
    run(Optimizer, [plain], [[g]] * 2, **hyper)
    np.testing.assert_array_equal(view, plain[::2, 1::2])
    whole[::2, 1::2] = start[::2, 1::2]
    np.testing.assert_array_equal(whole, start)
    assert scalar.shape == ()
    assert scalar < 1


def test_adam_first_step_at_a_small_gradient():
    p = np.zeros(1)
    ref.Adam([p], lr=0.01).step([np.array([1e-6])])
    np.testing.assert_allclose(-p / 0.01, 1e-6 / (1e-6 + 1e-8))
    np.testing.assert_allclose(-p / 0.01, 0.990, atol=5e-4)


def test_adam_on_float16_keeps_its_eps():
    p = np.zeros(3, np.float16)
    ref.Adam([p], lr=0.1).step([np.array([0, 1, 2], np.float16)])
    np.testing.assert_array_equal(p, np.array([0, -0.1, -0.1], np.float16))


@pytest.mark.parametrize(("momentum_decay", "mu"), [(4e-3, 0.457), (1.0, 0.892)])
def test_nadam_mu_at_step_100(momentum_decay, mu):
    # After 99 gradients of 0, with beta2 = 0, the step is lr [(1 - mu) / (1 - P) g + mu' / (1 - P mu') m] / |g|;
    # P is 0 to the digits given, mu' the next mu, and m = 0.1 g.
    p = np.zeros(1)
    opt = ref.NAdam([p], lr=1.0, betas=(0.9, 0.0), eps=1e-30, momentum_decay=momentum_decay)
    for _ in range(99):
        opt.step([np.zeros(1)])
    assert p == 0
    opt.step([np.ones(1)])
    np.testing.assert_allclose(-p, 1 - mu + 0.1 * mu, atol=1e-3)


def test_rmsprop_centered_does_not_go_below_0():
    p = np.zeros(1)
    opt = ref.RMSprop([p], centered=True, alpha=0.5)
    for _ in range(100):  # the variance of a constant gradient vanishes, and rounds to either side of 0
        opt.step([np.array([1 / 3])])
    assert np.isfinite(p).all()


def test_defaults():
    p = [np.zeros(1)]
    defaults = {
        ref.SGD: {"lr": 1e-3, "momentum": 0, "dampening": 0, "nesterov": False, "lr_in_momentum": False},
        ref.Adagrad: {"lr": 1e-2, "lr_decay": 0, "initial_accumulator_value": 0, "eps": 1e-10},
        ref.RMSprop: {"lr": 1e-2, "alpha": 0.99, "eps": 1e-8, "momentum": 0, "centered": False},
        ref.Adam: {"lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-8, "amsgrad": False},
        ref.AdamW: {"lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-8, "amsgrad": False},
        ref.NAdam: {"lr": 2e-3, "betas": (0.9, 0.999), "eps": 1e-8, "momentum_decay": 4e-3},
        ref.Adamax: {"lr": 2e-3, "betas": (0.9, 0.999), "eps": 1e-8},
    }
    for Optimizer, expected in defaults.items():
        decoupled = Optimizer is ref.AdamW
        common = {"weight_decay": 0.01 * decoupled, "decoupled_weight_decay": decoupled, "maximize": False}
        assert vars(Optimizer(p).groups[0]) == {"params": p, **expected, **common}
    with pytest.raises(TypeError, match="momentumm"):
        ref.SGD(p, momentumm=0.9)
