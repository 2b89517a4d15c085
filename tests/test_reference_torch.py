"""The reference against PyTorch, in float64."""

import numpy as np
import pytest

import gradfuse.reference as ref

torch = pytest.importorskip("torch")
F = torch.nn.functional


@pytest.fixture(autouse=True)
def float64():
    # NAdam keeps the product of its mu in the default dtype.
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture
def rng():
    return np.random.default_rng(30)


def tensor(x):
    return torch.tensor(x, requires_grad=True)


def assert_close(actual, expected, rtol=1e-12, atol=1e-14):
    np.testing.assert_allclose(actual, torch.as_tensor(expected).detach().numpy(), rtol, atol)


# Every kink is among these.
GRID = np.concatenate([np.linspace(-30.01, 30.02, 601), [-6, -3, -1, -0.0, 0, 1, 3, 6]])


@pytest.mark.parametrize(
    ("name", "params"),
    [
        ("relu", {}),
        ("leaky_relu", {}),
        ("leaky_relu", {"negative_slope": 0.3}),
        ("elu", {}),
        ("elu", {"alpha": 0.7}),
        ("celu", {}),
        ("celu", {"alpha": 1.7}),
        ("selu", {}),
        ("softplus", {}),
        ("softplus", {"beta": 2.5, "threshold": 10.0}),
        ("silu", {}),
        ("gelu", {}),
        ("gelu", {"approximate": "tanh"}),
        ("gelu_tanh", {}),
        ("mish", {}),
        ("sigmoid", {}),
        ("tanh", {}),
        ("logsigmoid", {}),
        ("softsign", {}),
        ("relu6", {}),
        ("hardtanh", {}),
        ("hardtanh", {"min_val": -3.0, "max_val": 6.0}),
        ("hardsigmoid", {}),
        ("hardswish", {}),
    ],
)
def test_activation(name, params, rng):
    x, g = tensor(GRID), rng.standard_normal(GRID.shape)
    y = F.gelu(x, approximate="tanh") if name == "gelu_tanh" else getattr(F, name)(x, **params)
    y.backward(torch.tensor(g))
    actual = getattr(ref, name)(GRID, **params)
    saved = GRID if ref.saves(name) == "x" else actual
    # In float64 too PyTorch has 1/6 and 1/alpha in float32; its 1 + erf and 1 + tanh cancel in the tail.
    rtol = {"hardsigmoid": 3e-8, "celu": 1e-6}.get(name, 1e-12)
    assert_close(actual, y, atol=1e-13)
    assert_close(getattr(ref, f"{name}_backward")(g, saved, **params), x.grad, rtol=rtol, atol=1e-13)


@pytest.mark.parametrize("weight", [[0.25], [0.3, -0.1, 0.0]])
def test_prelu(weight, rng):
    x, g = rng.standard_normal((2, 4, 3, 5))
    x[0, 0] = 0
    y, ctx = ref.prelu_forward(x, np.array(weight))
    dx, dweight = ref.prelu_backward(g, ctx)
    xt, wt = tensor(x), tensor(np.array(weight))
    yt = F.prelu(xt, wt)
    yt.backward(torch.tensor(g))
    for actual, expected in ((y, yt), (dx, xt.grad), (dweight, wt.grad)):
        assert_close(actual, expected)


def test_rrelu_evaluation(rng):
    x = rng.standard_normal(50)
    assert_close(ref.rrelu_forward(x, training=False)[0], F.rrelu(torch.tensor(x)))
    assert_close(ref.rrelu_forward(x, 0.2, 0.5, training=False)[0], F.rrelu(torch.tensor(x), 0.2, 0.5))


@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
@pytest.mark.parametrize("axis", [0, -1])
def test_softmax(name, axis, rng):
    x, g = 5 * rng.standard_normal((2, 4, 7))
    xt = tensor(x)
    yt = getattr(torch, name)(xt, axis)
    yt.backward(torch.tensor(g))
    y = getattr(ref, name)(x, axis=axis)
    assert_close(y, yt)
    assert_close(getattr(ref, f"{name}_backward")(g, y, axis=axis), xt.grad)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("kind", ["classes", "probabilities", "not normalised"])
def test_cross_entropy(kind, smoothing, reduction, rng):
    x = 5 * rng.standard_normal((6, 4))
    target = rng.integers(0, 4, 6) if kind == "classes" else ref.softmax(rng.standard_normal((6, 4)))
    if kind == "not normalised":
        target *= 2
    xt = tensor(x)
    expected = F.cross_entropy(xt, torch.tensor(target), label_smoothing=smoothing, reduction=reduction)
    expected.sum().backward()
    loss, dx = ref.cross_entropy(x, target, label_smoothing=smoothing, reduction=reduction)
    assert_close(loss, expected)
    assert_close(dx, xt.grad)


def test_cross_entropy_of_minus_inf():
    logits = np.array([[1.0, -np.inf, 0]])
    for target in (np.array([0]), np.array([[1.0, 0, 0]])):
        for smoothing in (0.0, 0.1):
            xt = tensor(logits)
            expected = F.cross_entropy(xt, torch.tensor(target), label_smoothing=smoothing)
            expected.backward()
            loss, dx = ref.cross_entropy(logits, target, label_smoothing=smoothing)
            if target.ndim == 2 and smoothing == 0:  # PyTorch: 0 times -inf is NaN
                expected = F.cross_entropy(xt, torch.tensor([0]))
            assert_close(loss, expected)
            assert_close(dx, xt.grad)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("kind", ["classes", "ignored", "all ignored", "probabilities"])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("shape", [(6, 4), (3, 5, 2), (2, 3, 2, 4)])
def test_cross_entropy_options(shape, weighted, kind, smoothing, reduction, rng):
    x, C = 5 * rng.standard_normal(shape), shape[1]
    target = rng.integers(0, C, (shape[0], *shape[2:]))
    if kind == "probabilities":
        target = ref.softmax(rng.standard_normal(shape), axis=1)
    elif kind != "classes":
        target[:2] = -100
        target[rng.random(target.shape) < (0.3 if kind == "ignored" else 2)] = -100
    weight = rng.uniform(0.5, 2, C) if weighted else None
    xt = tensor(x)
    options = {"label_smoothing": smoothing, "reduction": reduction}
    expected = F.cross_entropy(xt, torch.tensor(target), None if weight is None else torch.tensor(weight), **options)
    expected.sum().backward()
    if "ignored" in kind:
        options["ignore_index"] = -100
    loss, dx = ref.cross_entropy(x, target, weight=weight, **options)
    assert_close(loss, expected)
    assert_close(dx, xt.grad)
    if kind == "classes" and len(shape) == 3:
        loss, dx = ref.cross_entropy(np.moveaxis(x, 1, -1), target, axis=-1, weight=weight, **options)
        assert_close(loss, expected)
        assert_close(np.moveaxis(dx, -1, 1), xt.grad)


def test_cross_entropy_of_one_row(rng):
    x = 3 * rng.standard_normal(5)
    xt = tensor(x)
    expected = F.cross_entropy(xt, torch.tensor(2), label_smoothing=0.1)
    expected.backward()
    loss, dx = ref.cross_entropy(x, np.array(2), axis=0, label_smoothing=0.1)
    assert_close(loss, expected)
    assert_close(dx, xt.grad)


def test_cross_entropy_of_targets_without_weight(rng):
    x, target, weight = rng.standard_normal((3, 4)), np.array([1, 1, -100]), np.array([1.0, 0, 1, 1])
    xt = tensor(x)
    expected = F.cross_entropy(xt, torch.tensor(target), torch.tensor(weight))
    expected.backward()
    loss, dx = ref.cross_entropy(x, target, weight=weight, ignore_index=-100)
    assert_close(loss, expected)
    assert_close(dx, xt.grad)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_mse_loss(reduction, rng):
    pred, target = rng.standard_normal((2, 3, 4))
    xt = tensor(pred)
    expected = F.mse_loss(xt, torch.tensor(target), reduction=reduction)
    expected.sum().backward()
    loss, dpred = ref.mse_loss(pred, target, reduction=reduction)
    assert_close(loss, expected)
    assert_close(dpred, xt.grad)


@pytest.mark.parametrize("order", ["bn_act", "act_bn"])
@pytest.mark.parametrize("activation", [None, "silu", "elu"])
@pytest.mark.parametrize("momentum", [0.3, None])
@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("shape", [(6, 3), (4, 3, 2, 5)])
def test_batch_norm(shape, frozen, momentum, activation, order, rng):
    bn = torch.nn.BatchNorm1d if len(shape) == 2 else torch.nn.BatchNorm2d
    bn = bn(3, eps=1e-3, momentum=momentum, dtype=torch.float64)
    weight, bias = rng.uniform(0.5, 2, (2, 3))
    bn.weight.data, bn.bias.data = torch.tensor(weight), torch.tensor(bias)
    f = (lambda x: x) if activation is None else getattr(F, activation)
    mean, var = np.zeros(3), np.ones(3)
    for k in range(4):
        x, g, residual = rng.standard_normal((3, *shape)) * 2 + 1
        if frozen and k == 2:
            bn.eval()
        y, ctx = ref.batch_norm_forward(
            x,
            mean,
            var,
            weight,
            bias,
            momentum,
            1e-3,
            activation=activation,
            residual=residual,
            order=order,
            frozen=not bn.training,
            num_batches=k,
        )
        gradients = ref.batch_norm_backward(g, ctx)
        xt, rt = tensor(x), tensor(residual)
        bn.zero_grad()
        yt = f(bn(xt) + rt) if order == "bn_act" else bn(f(xt)) + rt
        yt.backward(torch.tensor(g))
        assert_close(y, yt)
        for actual, expected in zip(gradients, (xt.grad, bn.weight.grad, bn.bias.grad, rt.grad), strict=True):
            assert_close(actual, expected, atol=1e-12)
        assert_close(mean, bn.running_mean)
        assert_close(var, bn.running_var)


def compare_norm(y, gradients, yt, g, *tensors):
    """y and the gradients of what the tensors stand for."""
    yt.backward(torch.tensor(g))
    assert_close(y, yt, atol=1e-12)
    for actual, t in zip(gradients, tensors, strict=True):
        assert_close(actual, t.grad, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(("shape", "axes"), [((6, 5), 1), ((4, 3, 5), 2), ((4, 3, 5), 1), ((2, 3, 1), 1), ((0, 4), 1)])
def test_layer_norm(shape, axes, rng):
    axis, inner = tuple(range(-axes, 0)), shape[-axes:]
    x, g = 3 * rng.standard_normal((2, *shape)) + 1
    weight, bias = rng.standard_normal((2, *inner))
    y, ctx = ref.layer_norm_forward(x, weight, bias, axis=axis, eps=1e-3)
    tensors = xt, wt, bt = [tensor(v) for v in (x, weight, bias)]
    compare_norm(y, ref.layer_norm_backward(g, ctx), F.layer_norm(xt, inner, wt, bt, 1e-3), g, *tensors)


@pytest.mark.parametrize(("shape", "axes"), [((6, 5), 1), ((4, 3, 5), 2), ((2, 3, 1), 1), ((0, 4), 1)])
@pytest.mark.parametrize("eps", [None, 0.1])
def test_rms_norm(shape, axes, eps, rng):
    axis, inner = tuple(range(-axes, 0)), shape[-axes:]
    x, g = 1e-7 * rng.standard_normal((2, *shape))  # where float64's epsilon counts
    weight = rng.standard_normal(inner)
    y, ctx = ref.rms_norm_forward(x, weight, axis=axis, eps=eps)
    xt, wt = tensor(x), tensor(weight)
    compare_norm(y, ref.rms_norm_backward(g, ctx), F.rms_norm(xt, inner, wt, eps), g, xt, wt)


@pytest.mark.parametrize("shape", [(3, 6, 5), (2, 6), (2, 6, 4, 3), (0, 6, 2)])
@pytest.mark.parametrize("groups", [1, 2, 3, 6])
def test_group_norm(shape, groups, rng):
    x, g = 3 * rng.standard_normal((2, *shape)) + 1
    weight, bias = rng.standard_normal((2, 6))
    y, ctx = ref.group_norm_forward(x, groups, weight, bias, eps=1e-3)
    tensors = xt, wt, bt = [tensor(v) for v in (x, weight, bias)]
    compare_norm(y, ref.group_norm_backward(g, ctx), F.group_norm(xt, groups, wt, bt, 1e-3), g, *tensors)


@pytest.mark.parametrize("shape", [(3, 6, 5), (2, 6, 4, 3)])
def test_instance_norm(shape, rng):
    x, g = 3 * rng.standard_normal((2, *shape)) + 1
    weight, bias = rng.standard_normal((2, 6))
    y, ctx = ref.instance_norm_forward(x, weight, bias, eps=1e-3)
    tensors = xt, wt, bt = [tensor(v) for v in (x, weight, bias)]
    yt = F.instance_norm(xt, weight=wt, bias=bt, eps=1e-3)
    compare_norm(y, ref.instance_norm_backward(g, ctx), yt, g, *tensors)


@pytest.mark.parametrize(
    ("shape", "groups"),
    [((1, 3), 3), ((1, 3, 1), 3), ((2, 3), 3), ((1, 3), 1), ((0, 3), 3), ((1, 1), 1), ((2, 3, 1), 6)],
)
def test_group_norm_refuses_what_torch_refuses(shape, groups):
    x = np.ones(shape)

    def refused(call):
        try:
            call()
        except (ValueError, RuntimeError):
            return True
        return False

    theirs = refused(lambda: F.group_norm(torch.tensor(x), groups))
    assert refused(lambda: ref.group_norm(x, groups)) == theirs
    if x.ndim > 2:
        theirs = refused(lambda: F.instance_norm(torch.tensor(x)))
        assert refused(lambda: ref.instance_norm(x)) == theirs


@pytest.mark.parametrize("axis", [-1, 0, 1])
def test_glu(axis, rng):
    x = 3 * rng.standard_normal((4, 6, 2))
    y, ctx = ref.glu_forward(x, axis=axis)
    g = rng.standard_normal(y.shape)
    xt = tensor(x)
    compare_norm(y, [ref.glu_backward(g, ctx)], F.glu(xt, axis), g, xt)


@pytest.mark.parametrize("activation", ["silu", "gelu", "relu"])
def test_gated(activation, rng):
    a, gate, g = 3 * rng.standard_normal((3, 4, 6))
    at, gt = tensor(a), tensor(gate)
    y = ref.gated(a, gate, activation)
    compare_norm(y, ref.gated_backward(g, a, gate, activation), at * getattr(F, activation)(gt), g, at, gt)


def test_fold_batch_norm(rng):
    linear = torch.nn.Linear(4, 3, dtype=torch.float64)
    bn = torch.nn.BatchNorm1d(3, dtype=torch.float64)
    bn(linear(torch.tensor(rng.standard_normal((9, 4)))))
    bn.weight.data = torch.tensor(rng.uniform(0.5, 2, 3))
    fused = torch.nn.utils.fuse_linear_bn_eval(linear.eval(), bn.eval())
    arrays = (linear.weight, linear.bias, bn.running_mean, bn.running_var, bn.weight, bn.bias)
    W, b = ref.fold_batch_norm(*(v.detach().numpy() for v in arrays), axis=0)
    assert_close(W, fused.weight)
    assert_close(b, fused.bias)


def test_gradients(rng):
    g = rng.standard_normal((2, 5))
    clipped, by_value = list(g.copy()), g.copy()
    params = [torch.zeros(5, dtype=torch.float64, requires_grad=True) for _ in g]
    for p, value in zip(params, g, strict=True):
        p.grad = torch.tensor(value)
    norm = ref.clip_grad_norm_(clipped, 0.5)
    assert_close(norm, torch.nn.utils.clip_grad_norm_(params, 0.5))
    for p, value in zip(params, clipped, strict=True):
        assert_close(value, p.grad, rtol=1e-6)  # PyTorch adds 1e-6 to the norm
    ref.clip_grad_value_([by_value], 0.3)
    assert_close(by_value, torch.tensor(g).clamp(-0.3, 0.3))


def test_max_norm(rng):
    W = rng.standard_normal((5, 4)) * [0.1, 1, 2, 3]
    expected = torch.renorm(torch.tensor(W), 2, 1, 1.5)
    ref.max_norm_(W, 1.5)
    assert_close(W, expected, rtol=1e-6)  # PyTorch adds 1e-7 to the norm


ADAM = {"lr": 0.02, "betas": (0.8, 0.95), "eps": 1e-3, "weight_decay": 0.1}
CASES = [
    ("SGD", {"lr": 0.1}),
    ("SGD", {"lr": 0.1, "momentum": 0.8, "dampening": 0.3, "weight_decay": 0.1}),
    ("SGD", {"lr": 0.1, "momentum": 0.8, "weight_decay": 0.1, "nesterov": True}),
    ("Adagrad", {}),
    (
        "Adagrad",
        {"lr": 0.1, "lr_decay": 0.2, "weight_decay": 0.1, "initial_accumulator_value": 0.3, "eps": 1e-3},
    ),
    ("RMSprop", {}),
    ("RMSprop", {"lr": 0.02, "alpha": 0.8, "eps": 1e-3, "weight_decay": 0.1, "momentum": 0.7}),
    (
        "RMSprop",
        {"lr": 0.02, "alpha": 0.8, "eps": 1e-3, "weight_decay": 0.1, "momentum": 0.7, "centered": True},
    ),
    ("Adam", {}),
    ("Adam", ADAM),
    ("Adam", {**ADAM, "betas": (0.8, 0.5), "amsgrad": True}),
    ("Adam", {**ADAM, "decoupled_weight_decay": True}),
    ("AdamW", {}),
    ("AdamW", {**ADAM, "amsgrad": True}),
    ("NAdam", {}),
    ("NAdam", {**ADAM, "momentum_decay": 0.05}),
    ("NAdam", {**ADAM, "momentum_decay": 0.05, "decoupled_weight_decay": True}),
    ("Adamax", {}),
    ("Adamax", ADAM),
]


@pytest.mark.parametrize("maximize", [False, True])
@pytest.mark.parametrize(("name", "hyper"), CASES)
def test_optimizer(name, hyper, maximize, rng):
    params = [rng.standard_normal((3, 4)), rng.standard_normal(5)]
    torch_params = [tensor(p) for p in params]
    opt = getattr(ref, name)(params, **hyper, maximize=maximize)
    torch_opt = getattr(torch.optim, name)(torch_params, **hyper, maximize=maximize)
    for step in range(10):
        opt.lr *= 0.9
        torch_opt.param_groups[0]["lr"] *= 0.9
        grads = [rng.standard_normal(p.shape) for p in params]
        if step == 0:  # a gradient of 0 in the first step finds a state of 0
            grads[1][:2] = 0
        for p, g in zip(torch_params, grads, strict=True):
            p.grad = torch.tensor(g)
        opt.step(grads)
        torch_opt.step()
        for p, expected in zip(params, torch_params, strict=True):
            assert_close(p, expected)
        for state, p in zip(opt.state, torch_params, strict=True):
            for slot, value in state.items():
                assert_close(value, torch_opt.state[p][slot])
