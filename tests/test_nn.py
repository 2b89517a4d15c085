"""Layers: against PyTorch's, against central differences, fused against unfused, and what they refuse."""

import copy
import pickle

import ml_dtypes
import numpy as np
import pytest
from helpers import BFLOAT16, assert_identical
from hypothesis import given, settings
from hypothesis import strategies as st

import gradfuse
from gradfuse import nn

IMAGES, ROWS = (5, 6, 7, 8), (6, 5)


def double(layer, rng=None):
    """The layer in float64, its parameters away from ones and zeros."""
    layer.astype("float64")
    rng = rng or np.random.default_rng(5)
    for p in layer.parameters():
        p.data += 0.2 * rng.normal(size=p.shape)
    return layer


def loss_and_gradients(layer, x, weights):
    """sum(weights * layer(x)) with its gradients; the generators' streams are those of the first call."""
    for g in layer.generators():
        g.load_state_dict({"seed": g.seed, "stream": 0})
    layer.zero_grad()
    y = layer(x)
    dx = layer.backward(weights.copy())
    return (y * weights).sum(), dx, {name: p.grad for name, p in layer.named_parameters()}


def assert_gradients(layer, x, tolerance=1e-6, tries=6):
    """Directional derivatives of a random function of the output, in x and in each parameter."""
    rng = np.random.default_rng(1)
    buffers = [(inner, name, getattr(inner, name).copy()) for _, inner in layer.layers() for name in inner.buffers]
    weights = rng.normal(size=layer(x).shape)
    _, dx, grads = loss_and_gradients(layer, x, weights)
    arrays = {"x": (x, dx)} | {name: (p.data, grads[name]) for name, p in layer.named_parameters()}
    for name, (array, grad) in arrays.items():
        assert grad.shape == array.shape, name
        for _ in range(tries):
            direction = rng.normal(size=array.shape)
            before = array.copy()
            values = []
            for h in (1e-6, -1e-6):
                array += h * direction
                values.append(loss_and_gradients(layer, x, weights)[0])
                array[...] = before
            slope = (values[0] - values[1]) / 2e-6
            expected = (grad * direction).sum()
            scale = np.sqrt((grad**2).sum() * (direction**2).sum()) + 1
            assert abs(slope - expected) < tolerance * scale, (name, slope, expected)
    for inner, name, value in buffers:
        getattr(inner, name)[...] = value


ACTIVATIONS = {name: getattr(nn, name) for name in nn.activations._classes}
LAYERS = {
    **{name: (cls, ROWS) for name, cls in ACTIVATIONS.items()},
    "PReLU": (nn.PReLU, ROWS),
    "PReLU of channels": (lambda: nn.PReLU(6), IMAGES),
    "RReLU": (lambda: nn.RReLU(rng=1), ROWS),
    "Maxout": (lambda: nn.Maxout(2), IMAGES),
    "Linear": (lambda: nn.Linear(5, 3, rng=0), ROWS),
    "Linear of sequences": (lambda: nn.Linear(8, 3, rng=0), IMAGES),
    "Linear without bias": (lambda: nn.Linear(5, 3, bias=False, rng=0), ROWS),
    "BatchNorm": (lambda: nn.BatchNorm(5), ROWS),
    "BatchNorm of images": (lambda: nn.BatchNorm(6, eps=0.1, momentum=None), IMAGES),
    "BatchNorm of the last axis": (lambda: nn.BatchNorm(8, axis=-1, affine=False), IMAGES),
    "Dropout": (lambda: nn.Dropout(0.3, rng=1), ROWS),
    "MCDropout": (lambda: nn.MCDropout(0.3, rng=1), ROWS),
    "AlphaDropout": (lambda: nn.AlphaDropout(0.3, rng=1), ROWS),
    "Flatten": (nn.Flatten, IMAGES),
    "Conv2D": (lambda: nn.Conv2D(6, 4, 3, rng=0), IMAGES),
    "Conv2D of groups": (lambda: nn.Conv2D(6, 4, (3, 2), (2, 1), (1, 2), (1, 2), groups=2, rng=0), IMAGES),
    "Conv2D 1 x 1": (lambda: nn.Conv2D(6, 4, 1, bias=False, rng=0), IMAGES),
    "MaxPool2D": (lambda: nn.MaxPool2D(2), IMAGES),
    "MaxPool2D that overlaps": (lambda: nn.MaxPool2D(3, 2, 1), IMAGES),
    "AvgPool2D": (lambda: nn.AvgPool2D((3, 2), (2, 1), 1), IMAGES),
    "GlobalAvgPool2D": (nn.GlobalAvgPool2D, IMAGES),
    "Residual": (lambda: nn.Residual(nn.Linear(5, 5, rng=0), activation=nn.ELU()), ROWS),
    "Residual with a shortcut": (lambda: nn.Residual(nn.Linear(5, 3, rng=0), nn.Linear(5, 3, False, rng=1)), ROWS),
}


@pytest.mark.parametrize("name", LAYERS)
def test_gradients(name):
    make, shape = LAYERS[name]
    x = np.random.default_rng(2).normal(size=shape)
    x += 0.05 * np.sign(x)  # away from kinks at 0
    assert_gradients(double(make()), x)


@pytest.mark.parametrize("name", LAYERS)
def test_layouts_and_dtypes(name):
    """The same for any strides, dtype kept, input unmodified, nothing to go back from in inference."""
    make, shape = LAYERS[name]
    values = np.random.default_rng(2).normal(size=shape)
    for dtype, tolerance in (("float64", 1e-13), ("float32", 2e-5), ("float16", 2e-2)):
        x = values.astype(dtype)
        strided = np.asfortranarray(x)
        first, second = (make().astype(dtype) for _ in range(2))
        y = first.eval()(x)
        z = second.eval()(strided)
        assert y.dtype == z.dtype == dtype
        if "Dropout" not in name:  # its masks follow the memory
            np.testing.assert_allclose(y.astype(float), z.astype(float), rtol=tolerance, atol=tolerance)
        np.testing.assert_array_equal(strided, x)
        with pytest.raises(RuntimeError, match="forward must be called before it, in training mode"):
            first.backward(np.ones_like(y))
        first.train()
        y = first(x)
        assert first.backward(np.ones_like(y)).dtype == dtype


# ---- against PyTorch


def torch_pairs():
    torch = pytest.importorskip("torch")
    return {
        "conv": (nn.Conv2D(4, 6, 3), torch.nn.Conv2d(4, 6, 3)),
        "conv, all arguments": (
            nn.Conv2D(4, 6, (3, 2), (2, 1), (1, 2), (1, 2), 2),
            torch.nn.Conv2d(4, 6, (3, 2), (2, 1), (1, 2), (1, 2), 2),
        ),
        "depthwise": (nn.Conv2D(4, 8, 3, padding="same", groups=4), torch.nn.Conv2d(4, 8, 3, padding=1, groups=4)),
        "stride beyond the kernel": (nn.Conv2D(4, 2, 2, 3), torch.nn.Conv2d(4, 2, 2, 3)),
        "max pool": (nn.MaxPool2D(2), torch.nn.MaxPool2d(2)),
        "max pool, all arguments": (nn.MaxPool2D((3, 2), (2, 1), 1, 2), torch.nn.MaxPool2d((3, 2), (2, 1), 1, 2)),
        "average pool": (nn.AvgPool2D(3, 2, 1), torch.nn.AvgPool2d(3, 2, 1)),
        "batch norm": (nn.BatchNorm(4, 1e-3, 0.3), torch.nn.BatchNorm2d(4, 1e-3, 0.3)),
        "cumulative batch norm": (nn.BatchNorm(4, momentum=None), torch.nn.BatchNorm2d(4, momentum=None)),
        "prelu": (nn.PReLU(4, 0.1), torch.nn.PReLU(4, 0.1)),
    }


@pytest.mark.parametrize("tile", [1, 3000, 1 << 22])
@pytest.mark.parametrize(
    "pair",
    [
        "conv",
        "conv, all arguments",
        "depthwise",
        "stride beyond the kernel",
        "max pool",
        "max pool, all arguments",
        "average pool",
        "batch norm",
        "cumulative batch norm",
        "prelu",
    ],
)
def test_pytorch(monkeypatch, pair, tile):
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(nn.convolution, "TILE", tile)
    ours, theirs = torch_pairs()[pair]
    double(ours)
    theirs.double()
    with torch.no_grad():
        for mine, its in zip(ours.parameters(), theirs.parameters(), strict=True):
            its.copy_(torch.from_numpy(mine.data))
    for step in range(3):  # running statistics follow
        x = np.random.default_rng(step).normal(size=(3, 4, 9, 8))
        t = torch.tensor(x, requires_grad=True)
        y, expected = ours(x), theirs(t)
        np.testing.assert_allclose(y, expected.detach().numpy(), rtol=1e-11, atol=1e-12)
        g = np.random.default_rng(9).normal(size=y.shape)
        ours.zero_grad()
        theirs.zero_grad()
        expected.backward(torch.from_numpy(g))
        np.testing.assert_allclose(ours.backward(g), t.grad.numpy(), rtol=1e-10, atol=1e-11)
        for mine, its in zip(ours.parameters(), theirs.parameters(), strict=True):
            np.testing.assert_allclose(mine.grad, its.grad.numpy(), rtol=1e-10, atol=1e-11)
    ours.eval()
    theirs.eval()
    np.testing.assert_allclose(ours(x), theirs(torch.from_numpy(x)).detach().numpy(), rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("name", ["binary_cross_entropy_with_logits", "huber", "huber of 0.3"])
def test_losses(name, reduction):
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    x = np.concatenate([3 * rng.normal(size=40), [0.0, 60.0, -60.0, 800.0, -800.0]])
    t = rng.random(45)
    t[40:] = 0.0, 1.0, 0.0, 1.0, 0.0
    delta = {"delta": 0.3} if name.endswith("0.3") else {}
    ours = getattr(nn, name.split()[0])
    reference = {"huber": "huber_loss"}.get(name.split()[0], name)
    loss, dx = ours(x, t, **delta, reduction=reduction)
    tx = torch.tensor(x, requires_grad=True)
    expected = getattr(torch.nn.functional, reference)(tx, torch.from_numpy(t), reduction=reduction, **delta)
    expected.sum().backward()
    np.testing.assert_allclose(loss, expected.detach().numpy(), rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(dx, tx.grad.numpy(), rtol=1e-12, atol=1e-15)
    loss16, dx16 = ours(x.astype(np.float16), t.astype(np.float16), **delta, reduction=reduction)
    assert (loss16.dtype, dx16.dtype) == (np.float32, np.float16)


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda: nn.huber(np.ones(3), np.ones(4)), ValueError, r"huber: target must have shape \(3,\), got \(4,\)"),
        (
            lambda: nn.huber(np.ones(3), np.ones(3, "f4")),
            TypeError,
            "huber: target must have dtype float64, got float32",
        ),
        (lambda: nn.huber(np.ones(3), np.ones(3), -1), ValueError, "huber: delta must be a finite number > 0, got -1"),
        (
            lambda: nn.huber(np.ones(3), np.ones(3), reduction="x"),
            ValueError,
            "huber: reduction must be 'mean' or 'sum' or",
        ),
        (
            lambda: nn.Linear(3, 2)(np.ones((2, 4), "f4")),
            ValueError,
            r"Linear: x must have shape \(..., 3\), got \(2, 4\)",
        ),
        (
            lambda: nn.Linear(3, 2)(np.ones((2, 3))),
            TypeError,
            "Linear: x must have dtype float32, as its weight has, got",
        ),
        (lambda: nn.Conv2D(1, 2, 1)(np.ones((1, 1, 3, 3))), TypeError, "Conv2D: x must have dtype float32, as its wei"),
        (
            lambda: nn.Conv2D(3, 2, 3)(np.ones((1, 2, 5, 5), "f4")),
            ValueError,
            r"Conv2D: x must have shape \(N, 3, height",
        ),
        (
            lambda: nn.Conv2D(3, 2, 3)(np.ones((3, 5, 5), "f4")),
            ValueError,
            r"Conv2D: x must have shape \(N, channels, h",
        ),
        (lambda: nn.Conv2D(1, 2, 3)(np.ones((1, 1, 2, 5), "f4")), ValueError, "as large as the kernel, got 2 x 5"),
        (lambda: nn.Conv2D(3, 2, 3, groups=2), ValueError, "Conv2D: groups must divide 3 and 2 channels, got 2"),
        (lambda: nn.Conv2D(3, 2, 3, groups=0), ValueError, "Conv2D: groups must be an integer >= 1, got 0"),
        (lambda: nn.Conv2D(-3, 2, 3), ValueError, "Conv2D: in_channels must be an integer >= 1, got -3"),
        (lambda: nn.MaxPool2D(2, 0), ValueError, "MaxPool2D: stride must be an integer >= 1, got 0"),
        (lambda: nn.Linear("3", 2), TypeError, "Linear: in_features must be an integer >= 0, got '3'"),
        (
            lambda: nn.Linear(3, 2, init="he"),
            TypeError,
            "Linear: init must be an initialiser of gradfuse.init, got 'he'",
        ),
        (lambda: nn.Linear(3, 2, rng="a"), TypeError, "Linear: rng must be a seed, a numpy.random.Generator or None"),
        (lambda: nn.Dropout(rng=-1.5), TypeError, "Dropout: rng must be a seed"),
        (lambda: nn.Sequential(rng=-1), ValueError, "Sequential: rng must be a seed >= 0, got -1"),
        (lambda: nn.BatchNorm(3, momentum=2), ValueError, r"BatchNorm: momentum must be a number in \[0, 1\], got 2"),
        (lambda: nn.BatchNorm(3, axis=2)(np.ones((3, 4), "f4").T), ValueError, "axis must be an axis of an array of 2"),
        (lambda: nn.PReLU(3, axis=2)(np.ones((3, 4), "f4").T), ValueError, "axis must be an axis of an array of 2"),
        (lambda: nn.PReLU(0), ValueError, "PReLU: channels must be an integer >= 1, got 0"),
        (lambda: nn.RReLU(0.5, 0.25), ValueError, "RReLU: upper must be at least lower, 0.5, got 0.25"),
        (
            lambda: nn.PReLU(2, dtype="int8"),
            TypeError,
            "PReLU: dtype must be float16, bfloat16, float32 or float64, got",
        ),
        (lambda: nn.BatchNorm(2, dtype=None), TypeError, "BatchNorm: dtype must be float16, bfloat16, float32 or floa"),
        (lambda: nn.Flatten()(np.float32(np.zeros(()))), TypeError, "Flatten: x must be an array of NumPy or CuPy"),
        (
            lambda: nn.GlobalAvgPool2D()(np.ones((1, 1, 2, 2), int)),
            TypeError,
            "GlobalAvgPool2D: x must hold floating n",
        ),
        (
            lambda: [f := nn.AvgPool2D(2), f(np.ones((4, 3, 4, 4), "f4")), f.backward(np.ones((4, 3, 1, 1), "f4"))],
            ValueError,
            r"AvgPool2D.backward: grad must have shape \(4, 3, 2, 2\), got \(4, 3, 1, 1\)",
        ),
        (
            lambda: [f := nn.GlobalAvgPool2D(), f(np.ones((4, 3, 4, 4), "f4")), f.backward(np.ones((1, 1), "f4"))],
            ValueError,
            r"GlobalAvgPool2D.backward: grad must have shape \(4, 3\), got \(1, 1\)",
        ),
        (
            lambda: nn.BatchNorm(3).backward(np.ones((2, 3), "f4")),
            RuntimeError,
            "BatchNorm.backward: forward must be ca",
        ),
        (lambda: nn.Maxout(0), ValueError, "Maxout: num_pieces must be an integer >= 1, got 0"),
        (lambda: nn.ReLU()([[1.0]]), TypeError, "ReLU: x must be an array of NumPy or CuPy, got list"),
        (lambda: nn.ReLU().to("cupy"), TypeError, "ReLU.to: library must be the module numpy or cupy, got 'cupy'"),
        (lambda: nn.Residual(3), TypeError, "Residual: body must be a layer, got 3"),
        (lambda: nn.Residual(nn.ReLU(), activation="relu"), TypeError, "Residual: activation must be a layer of the l"),
        (lambda: nn.Residual(nn.ReLU(), activation=nn.PReLU()), TypeError, "Residual: activation must be a layer of"),
        (
            lambda: nn.Linear(3, 2).load_state_dict({"weight": [[0.0, 0.0]] * 3, "bias": [0.0, 0.0]}),
            TypeError,
            r"Linear.load_state_dict: state\['weight'\] must be an array, got list",
        ),
        (lambda: nn.Conv2D(3, 2, 0), ValueError, "Conv2D: kernel_size must be an integer >= 1, got 0"),
        (lambda: nn.Conv2D(3, 2, 2.5), TypeError, "Conv2D: kernel_size must be an integer >= 1, got 2.5"),
        (lambda: nn.Conv2D(3, 2, 2, padding="same"), ValueError, "needs a stride of 1 and an odd kernel"),
        (lambda: nn.MaxPool2D(2, padding=2), ValueError, "padding must be at most half the kernel, got 2"),
        (lambda: nn.Dropout(1.5), ValueError, r"Dropout: p must be a number in \[0, 1\], got 1.5"),
        (lambda: nn.Dropout("a"), TypeError, "Dropout: p must be a number"),
        (lambda: nn.ELU(alpha=-1.0), ValueError, "alpha"),
        (lambda: nn.ELU(beta=1.0), TypeError, "ELU: parameters are alpha, got others"),
        (lambda: nn.ReLU(1.0), TypeError, "ReLU: parameters are none, got others"),
        (lambda: nn.Activation("relo"), ValueError, "relo"),
        (lambda: nn.Sequential(nn.ReLU(), 3), TypeError, r"Sequential: layers\[1\] must be a layer, got int"),
        (lambda: nn.L2(-1), ValueError, "L2: strength must be a finite number >= 0, got -1"),
        (lambda: nn.MaxNorm(-1), ValueError, "MaxNorm: r must be a finite number >= 0, got -1"),
        (lambda: nn.prune(nn.ReLU(), -1), ValueError, "prune: threshold must be a finite number >= 0, got -1"),
        (
            lambda: nn.monte_carlo(nn.ReLU(), np.ones(1), 1),
            ValueError,
            "monte_carlo: samples must be an integer >= 2, got 1",
        ),
    ],
)
def test_bad_input(call, error, text):
    with pytest.raises(error, match=text):
        call()


# ---- Sequential


def members(channels, images):
    """Layers that keep the shape of their input."""
    linear = (
        st.builds(lambda bias: nn.Conv2D(channels, channels, 3, padding=1, bias=bias), st.booleans())
        if images
        else st.builds(lambda bias: nn.Linear(channels, channels, bias), st.booleans())
    )
    smooth = [nn.ELU, nn.SiLU, nn.Tanh, nn.GELU, nn.Softplus, lambda: nn.CELU(0.5)]
    return st.one_of(
        linear,
        st.just(nn.BatchNorm).map(lambda c: c(channels)),
        st.sampled_from(smooth).map(lambda c: c()),
        st.builds(nn.Dropout, st.sampled_from([0.0, 0.2, 0.5])),
        st.builds(lambda: nn.AlphaDropout(0.2)),
        st.builds(lambda bias: nn.Residual(nn.Sequential(nn.BatchNorm(channels), nn.Tanh())), st.booleans()),
    )


@st.composite
def models(draw):
    images = draw(st.booleans())
    layers = draw(st.lists(members(3, images), min_size=1, max_size=9))
    return images, layers


@settings(max_examples=60, deadline=None, derandomize=True)
@given(models())
def test_random_models(model):
    """Fused equals unfused, forward and backward; the gradients are those of the function."""
    images, layers = model
    x = np.random.default_rng(3).normal(size=(4, 3, 5, 4) if images else (7, 3))
    fused = double(nn.Sequential(*layers, rng=1))
    plain = copy.deepcopy(fused).fuse(False)
    assert_gradients(fused, x, tolerance=1e-5, tries=1)
    weights = np.random.default_rng(4).normal(size=x.shape)
    results = [loss_and_gradients(m, x, weights) for m in (fused, plain)]
    np.testing.assert_allclose(results[0][0], results[1][0], rtol=1e-10)
    np.testing.assert_allclose(results[0][1], results[1][1], rtol=1e-9, atol=1e-10)
    for name, grad in results[0][2].items():
        np.testing.assert_allclose(grad, results[1][2][name], rtol=1e-9, atol=1e-9, err_msg=name)
    for name, array in fused.state_dict().items():
        np.testing.assert_allclose(array, plain.state_dict()[name], rtol=1e-9, atol=1e-12, err_msg=name)
    inferred = fused.eval()(x)
    np.testing.assert_allclose(inferred, plain.eval()(x), rtol=1e-9, atol=1e-10)
    np.testing.assert_allclose(inferred, fused.fold()(x), rtol=1e-8, atol=1e-9)


def stages(*layers):
    return [type(s).__name__ for s in nn.Sequential(*layers)._stages]


def test_what_is_joined():
    dense, norm, elu, drop = nn.Linear(3, 3), nn.BatchNorm(3), nn.ELU(), nn.Dropout(0.1)
    assert stages(dense, norm, elu, drop, nn.Linear(3, 3)) == ["Fused", "Linear"]
    assert stages(dense, elu, norm, drop) == ["Fused"]
    assert stages(dense, elu, drop, nn.Dropout(0.1)) == ["Fused", "Dropout"]
    assert stages(norm, elu) == ["Fused"]
    assert stages(dense, nn.PReLU(), norm) == ["Linear", "PReLU", "BatchNorm"]
    assert stages(dense, nn.AlphaDropout(0.1)) == ["Linear", "AlphaDropout"]
    assert stages(dense, norm, nn.BatchNorm(3)) == ["Fused", "BatchNorm"]


def mlp(rng=0, **options):
    return nn.Sequential(
        nn.Linear(5, 8), nn.BatchNorm(8), nn.ELU(), nn.Dropout(0.2), nn.Linear(8, 3), rng=rng, **options
    )


def test_seeds():
    """One seed makes weights and masks; layers that have their own keep it."""
    x = np.ones((4, 5), np.float32)
    a, b, other = mlp(), mlp(), mlp(1)
    assert_identical(a(x), b(x))
    assert not np.array_equal(a[0].weight.data, other[0].weight.data)
    own = nn.Linear(5, 8, rng=7)
    assert_identical(nn.Sequential(own, rng=3)[0].weight.data, nn.Linear(5, 8, rng=7).weight.data)
    inner = [nn.Sequential(nn.Sequential(nn.Linear(5, 8)), rng=4)[0][0].weight.data for _ in range(2)]
    assert_identical(*inner)
    assert len(a.generators()) == 1


def test_a_layer_is_there_once():
    """It remembers one forward; its parameters may be shared."""
    relu = nn.ReLU()
    with pytest.raises(ValueError, match="layer 3 must be one of its own, got layer 1 once more"):
        nn.Sequential(nn.Linear(3, 3), relu, nn.Linear(3, 3), relu)
    with pytest.raises(ValueError, match=r"layer 1\.body must be one of its own, got layer 0 once more"):
        nn.Sequential(relu, nn.Residual(relu))
    tied = nn.Sequential(nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 3), rng=0)
    tied[2].weight = tied[0].weight
    assert list(dict(tied.named_parameters())) == ["0.weight", "0.bias", "2.bias"]
    assert_gradients(double(tied), np.random.default_rng(1).normal(size=(4, 3)))


@pytest.mark.parametrize("set_by", ["training", "loading", "hand"])
def test_weights_that_were_learned_stay(set_by):
    """Layers that are put into another model keep what they have learned; those just made are drawn by its seed."""
    x = np.ones((4, 5), np.float32)
    learned = nn.Sequential(nn.Linear(5, 8), nn.ELU())
    weight = learned[0].weight.data
    if set_by == "training":
        learned(x)
        learned.backward(np.ones((4, 8), np.float32))
        gradfuse.optim.Adam(learned.parameters(), lr=1e-6).step()
    elif set_by == "loading":
        learned.load_state_dict(nn.Sequential(nn.Linear(5, 8), nn.ELU()).state_dict())
    else:
        weight[0, 0] += 1
    before = weight.copy()
    heads = [nn.Sequential(learned, nn.Linear(8, 3), rng=0)[1].weight.data for _ in range(2)]
    assert_identical(weight, before)
    assert_identical(*heads)
    converted = [nn.Sequential(nn.Linear(5, 8).astype("float16"), rng=0)[0].weight.data for _ in range(2)]
    assert_identical(*converted)


def test_frozen_weights_and_models_that_have_learned_stay():
    """A model is new or it is not: what was frozen in it, or did not move, is not drawn anew either."""
    projection = nn.Linear(5, 4).freeze()
    trained = nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 4))
    trained[2].weight.data *= -1
    for layer in (projection, trained):
        before = layer.state_dict()
        nn.Sequential(layer, nn.Linear(4, 2), rng=0)
        for name, array in layer.state_dict().items():
            assert_identical(array, before[name])


def test_what_a_subclass_does_is_its_own():
    class Doubled(nn.BatchNorm):
        def forward(self, x):
            return super().forward(x) * 2

    class Net(nn.Sequential):
        def __init__(self):
            super().__init__(nn.Linear(5, 4), nn.BatchNorm(4), rng=0)
            self.head = nn.Linear(4, 3, rng=1)

        def forward(self, x):
            return self.head(super().forward(x))

    class Steep(nn.ReLU):
        def forward(self, x):
            return super().forward(10 * x)

    x = np.random.default_rng(0).normal(size=(6, 5)).astype(np.float32)
    for model in (nn.Sequential(nn.Linear(5, 4), Doubled(4), rng=0), Net()):
        model(x)
        np.testing.assert_allclose(model.fold()(x), model.eval()(x), rtol=1e-5, atol=1e-6)
    assert dict(Net().named_parameters()).keys() >= {"head.weight", "head.bias"}
    with pytest.raises(TypeError, match="Residual: activation must be a layer of the list"):
        nn.Residual(nn.Linear(5, 5), activation=Steep())


def test_slices_are_models_of_the_same_layers():
    model = mlp()
    part = model[:2]
    assert part[0] is model[0]
    assert len(part) == 2
    x = np.ones((4, 5), np.float32)
    assert_identical(part.eval()(x), nn.Sequential(model[0], model[1], reset=False).eval()(x))


def test_empty_batches():
    for layer, shape, expected in [
        (nn.Conv2D(1, 2, 3), (0, 1, 5, 5), (0, 2, 3, 3)),
        (nn.MaxPool2D(2), (0, 1, 4, 4), (0, 1, 2, 2)),
        (nn.Flatten(), (0, 3, 2), (0, 6)),
        (nn.Linear(4, 0), (2, 3, 4), (2, 3, 0)),
    ]:
        x = np.zeros(shape, np.float32)
        y = layer(x)
        assert y.shape == expected
        assert layer.backward(np.zeros(expected, np.float32)).shape == shape


def test_losses_of_large_logits_and_half_types():
    """No cancellation, and no overflow before the loss is float32."""
    for dtype, logit in (("f4", 10), ("f4", 17), ("f4", 3e38), ("f2", 5), ("f2", 8), ("f2", 40000), ("f2", -9)):
        x = np.array([[logit]], dtype)
        for target in (0, 1):
            loss, _ = nn.binary_cross_entropy_with_logits(x, np.full_like(x, target))
            wide = float(x[0, 0]) * (1 if target else -1)
            exact = np.log1p(np.exp(-wide)) if wide > 0 else -wide + np.log1p(np.exp(wide))
            assert loss.dtype == np.float32
            assert float(loss) == pytest.approx(exact, rel=1e-5)
    loss, grad = nn.huber(np.float16([[500]]), np.float16([[0]]), 1000.0)
    assert (float(loss), float(grad[0, 0])) == (125000, 500)


def test_weight_gradients_of_many_tiles(monkeypatch):
    """Of half types they are added up in float32."""
    monkeypatch.setattr(nn.convolution, "TILE", 1)
    rng = np.random.default_rng(0)
    x, g = np.abs(rng.normal(size=(4, 2, 66, 5))), np.abs(rng.normal(size=(4, 1, 64, 3))) / 64
    grads = []
    for dtype in ("float16", "float32"):
        layer = nn.Conv2D(2, 1, 3, rng=0).astype(dtype)
        layer(x.astype("float16").astype(dtype))
        layer.backward(g.astype("float16").astype(dtype))
        grads.append(layer.weight.grad.astype(np.float32))
    # Half a unit for the product of each tile, half a unit for the sum of them all.
    np.testing.assert_allclose(*grads, rtol=np.finfo(np.float16).eps)


def test_folding_needs_the_same_channels():
    """A norm over another axis than that of the map before it stays."""
    x = np.random.default_rng(0).normal(size=(6, 4, 4)).astype(np.float32)
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm(4, axis=0 - 2), rng=0)
    model(x)
    assert len(model.fold()) == 2
    np.testing.assert_allclose(model.fold()(x), model.eval()(x), rtol=1e-5, atol=1e-6)
    flat = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm(4, axis=-1), rng=0)
    flat(x)
    assert len(flat.fold()) == 1
    np.testing.assert_allclose(flat.fold()(x), flat.eval()(x), rtol=1e-5, atol=1e-6)


def test_weights_suit_the_activation_that_follows():
    def variance(*layers):
        return nn.Sequential(nn.Linear(400, 600), *layers, rng=0)[0].weight.data.var()

    assert variance(nn.ReLU()) == pytest.approx(2 / 400, rel=0.02)
    assert variance(nn.BatchNorm(600), nn.Dropout(0.1), nn.ELU()) == pytest.approx(2 / 400, rel=0.02)
    assert variance(nn.SELU()) == pytest.approx(1 / 400, rel=0.02)
    assert variance(nn.Tanh()) == pytest.approx(2 / 1000, rel=0.02)
    assert variance() == pytest.approx(2 / 1000, rel=0.02)
    assert variance(nn.Linear(600, 3), nn.ReLU()) == pytest.approx(2 / 1000, rel=0.02)
    assert variance(nn.LeakyReLU(1.0)) == pytest.approx(1 / 400, rel=0.02)


def test_weights_suit_what_follows_branches_and_maxout():
    def deviation(layer):
        return layer.weight.data.std() * 20

    body, shortcut = nn.Sequential(nn.Linear(400, 400), nn.Tanh(), nn.Linear(400, 400)), nn.Linear(400, 400)
    nn.Sequential(nn.Residual(body, shortcut, nn.ReLU()), nn.Linear(400, 3), rng=0)
    assert deviation(body[2]) == pytest.approx(np.sqrt(2), rel=0.03)
    assert deviation(shortcut) == pytest.approx(np.sqrt(2), rel=0.03)
    before = nn.Linear(400, 400)
    nn.Sequential(before, nn.Residual(nn.Sequential(nn.BatchNorm(400), nn.ReLU(), nn.Linear(400, 400))), rng=0)
    assert deviation(before) == pytest.approx(np.sqrt(2), rel=0.03)
    pieces = nn.Linear(400, 400)
    nn.Sequential(pieces, nn.Maxout(2), nn.Linear(200, 1), rng=0)
    expected = gradfuse.init.for_activation("maxout")((400, 400), 0).std() * 20
    assert deviation(pieces) == pytest.approx(expected, rel=0.03)


def test_biases_are_drawn_where_told():
    model = nn.Sequential(nn.Linear(5, 400, bias_init=gradfuse.init.normal(0.5)), nn.Conv2D(2, 3, 1), rng=0)
    assert model[0].bias.data.std() == pytest.approx(0.5, rel=0.15)
    np.testing.assert_array_equal(model[1].bias.data, 0)


def test_state():
    a, b = mlp(0), mlp(1)
    x = np.random.default_rng(0).normal(size=(9, 5)).astype(np.float32)
    a[1].momentum = None  # where batches are counted
    a(x)
    state = a.state_dict()
    assert set(state) == {
        "0.weight",
        "0.bias",
        "1.weight",
        "1.bias",
        "1.running_mean",
        "1.running_var",
        "1.num_batches",
        "4.weight",
        "4.bias",
    }
    b.load_state_dict(state)
    assert_identical(a.eval()(x), b.eval()(x))
    assert state["1.num_batches"] == 1
    before = b.state_dict()
    for bad, text in [
        ({k: v for k, v in state.items() if k != "4.bias"}, "'4.bias' is in one of the two only"),
        ({**state, "5.bias": state["4.bias"]}, "'5.bias' is in one of the two only"),
        ({**state, "4.bias": np.zeros(4, np.float32)}, r"state\['4.bias'\] must be float32 with shape \(3,\), got .*4"),
        ({**state, "4.bias": np.zeros(3)}, "got float64 with shape"),
    ]:
        with pytest.raises(ValueError, match=text):
            b.load_state_dict({k: v + 1 for k, v in bad.items()})
        for name, array in b.state_dict().items():
            assert_identical(array, before[name])
    with pytest.raises(TypeError, match="must be what state_dict"):
        b.load_state_dict(3)
    assert b.load_state_dict({"0.weight": state["0.weight"], "x": 3}, strict=False) == ["0.weight"]


def test_copies():
    a = mlp()
    x = np.ones((4, 5), np.float32)
    a(x)  # and what it remembers is not copied
    for b in (copy.deepcopy(a), pickle.loads(pickle.dumps(a))):
        assert_identical(a.eval()(x), b.eval()(x))
        b.train()
        b[0].weight.data += 1
        assert not np.array_equal(a[0].weight.data, b[0].weight.data)
        y = b(x)
        b.backward(np.ones_like(y))
        a.train()


def test_frozen_layers():
    model = nn.Sequential(nn.Linear(5, 8), nn.BatchNorm(8), nn.ReLU(), nn.Linear(8, 3), rng=0)
    x = np.random.default_rng(0).normal(size=(9, 5)).astype(np.float32)
    model(x)
    model.backward(np.ones((9, 3), np.float32))
    model[0].freeze()
    model[1].freeze()
    assert model[0].weight.grad is None
    running = model[1].running_mean.copy()
    y = model(x)
    assert_identical(model[1].running_mean, running)
    np.testing.assert_allclose(y, model.eval()(x), rtol=1e-5, atol=1e-6)  # running statistics
    model.train().zero_grad()
    model(x)
    assert model.backward(np.ones((9, 3), np.float32), input_grad=False) is None
    assert [p.grad is None for p in model.parameters()] == [True] * 4 + [False] * 2
    model.unfreeze()
    model(x)
    model.backward(np.ones((9, 3), np.float32))
    assert all(p.grad is not None for p in model.parameters())


@pytest.mark.parametrize("fuse", [True, False])
def test_nothing_of_a_frozen_model_gets_a_gradient(fuse):
    model = nn.Sequential(
        nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 8), nn.PReLU(), nn.BatchNorm(8), nn.Linear(8, 3), rng=0, fuse=fuse
    ).freeze()
    x = np.random.default_rng(0).normal(size=(9, 5)).astype(np.float32)
    model(x)
    assert model.backward(np.ones((9, 3), np.float32)).shape == x.shape
    assert all(p.grad is None for p in model.parameters())


def test_layers_in_modes_of_their_own():
    """Batch norm in inference within a training model: fused as by itself."""
    models = [
        nn.Sequential(nn.Linear(5, 8), nn.BatchNorm(8, momentum=None), nn.ReLU(), nn.Dropout(0.5), rng=0, fuse=f)
        for f in (1, 0)
    ]
    x = 3 + np.random.default_rng(0).normal(size=(9, 5)).astype(np.float32)
    results = []
    for model in models:
        model(x)
        model[1].eval()
        model[3].eval()
        results.append(model(x))
        assert model[1].num_batches == 1
    np.testing.assert_allclose(*results, rtol=1e-5, atol=1e-6)


def test_gradients_add_up():
    model = nn.Sequential(nn.Linear(5, 8), nn.ELU(), nn.Linear(8, 3), rng=0)
    x = np.random.default_rng(0).normal(size=(8, 5)).astype(np.float32)
    g = np.random.default_rng(1).normal(size=(8, 3)).astype(np.float32)
    model(x)
    model.backward(g)
    whole = [p.grad for p in model.parameters()]
    model.zero_grad()
    for part in (slice(0, 3), slice(3, 8)):
        model(x[part])
        model.backward(g[part])
    for p, expected in zip(model.parameters(), whole, strict=True):
        np.testing.assert_allclose(p.grad, expected, rtol=1e-4, atol=1e-5)


# ---- dropout, regularisers, presets of weights


def test_monte_carlo():
    model = nn.Sequential(nn.Linear(5, 200), nn.BatchNorm(200), nn.ReLU(), nn.Dropout(0.5), nn.Linear(200, 3), rng=0)
    x = np.random.default_rng(0).normal(size=(6, 5)).astype(np.float32)
    model.train()
    modes = [layer.training for _, layer in model.layers()]
    before = model.state_dict()
    mean, std = nn.monte_carlo(model, x, 400)
    assert mean.shape == std.shape == (6, 3)
    assert (std > 0).all()
    assert modes == [layer.training for _, layer in model.layers()]
    assert_identical(model[1].running_mean, before["1.running_mean"])
    exact = model.eval()(x)
    assert (abs(mean - exact) < 5 * std / 20 + 1e-3).all()
    p, _ = nn.monte_carlo(model, x, 10, transform=gradfuse.softmax)
    np.testing.assert_allclose(p.sum(axis=1), 1, rtol=1e-5)


def test_dropouts_of_a_folded_model_stay_apart():
    model = nn.Sequential(nn.MCDropout(0.5), nn.Sequential(nn.MCDropout(0.5)), rng=0).eval()
    x = np.ones((1, 10000), np.float32)
    assert 0.2 < (model.fold()(x) != 0).mean() < 0.3
    assert 0.2 < (model(x) != 0).mean() < 0.3


def test_a_subclass_with_a_backward_of_its_own_is_not_joined():
    class Reversed(nn.ReLU):
        def backward(self, grad, *, input_grad=True):
            return -super().backward(grad)

    assert stages(nn.Linear(3, 3), Reversed()) == ["Linear", "Reversed"]


def test_bfloat16():
    model = mlp().astype("bfloat16")
    x = np.random.default_rng(0).normal(size=(16, 5)).astype(BFLOAT16)
    y = model(x)
    assert y.dtype == BFLOAT16
    assert model.backward(y).dtype == BFLOAT16
    assert model[0].weight.grad.dtype == BFLOAT16
    with pytest.raises(
        TypeError, match=r"Sequential.astype: dtype must be float16, bfloat16, float32 or float64, got 'int8'"
    ):
        model.astype("int8")


@pytest.mark.parametrize("dtype", [np.float16, BFLOAT16], ids=str)
def test_means_of_many_halves(dtype):
    x = np.full((1, 2, 256, 256), 100, dtype)
    eps = float(ml_dtypes.finfo(dtype).eps)  # 60000 is rounded to it, and the quotient again, by half of it each
    for layer in (nn.GlobalAvgPool2D(), nn.AvgPool2D(256)):
        np.testing.assert_array_equal(layer(x).ravel().astype(float), 100)
        dx = layer.backward(np.full(layer.forward(x).shape, 60000, dtype)).astype(float)
        np.testing.assert_allclose(dx, 60000 / 65536, rtol=eps)
    prediction = np.ones((1024, 100), dtype)
    grad = nn.huber(prediction, np.zeros_like(prediction))[1]
    assert grad.dtype == dtype
    # In float16 it is subnormal, a multiple of 2^-24.
    np.testing.assert_allclose(grad.astype(float), 1 / 102400, rtol=eps, atol=0 if dtype == BFLOAT16 else 2.0**-25)


def test_mc_dropout_is_on_in_inference():
    layer = nn.MCDropout(0.5, rng=0).eval()
    x = np.ones(1000, np.float32)
    assert 400 < (layer(x) == 0).sum() < 600
    assert_identical(nn.Dropout(0.5).eval()(x), x)


def test_regularisers():
    model = double(nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Conv2D(2, 2, 1), rng=0))
    for p in model.parameters():
        p.grad = np.ones_like(p.data)
    model[2].weight.grad = None
    nn.L2(0.1)(model)
    nn.L1(0.3)(model, scale=2.0)
    w = model[0].weight
    np.testing.assert_allclose(w.grad, 1 + 0.1 * w.data + 0.6 * np.sign(w.data), rtol=1e-14)
    np.testing.assert_array_equal(model[0].bias.grad, 1)
    assert model[2].weight.grad is None
    weights = np.concatenate([w.data.ravel(), model[2].weight.data.ravel()])
    assert nn.L2(0.1).penalty(model) == pytest.approx(0.05 * (weights**2).sum())
    assert nn.L1(0.1).penalty(model) == pytest.approx(0.1 * abs(weights).sum())
    nn.MaxNorm(0.2)(model)
    assert np.sqrt((w.data**2).sum(axis=0)).max() == pytest.approx(0.2)
    assert np.sqrt((model[2].weight.data ** 2).sum(axis=(1, 2, 3))).max() <= 0.2 * (1 + 1e-12)
    assert nn.sparsity(model) == 0
    assert nn.prune(model, 0.1) == nn.sparsity(model) > 0


@pytest.mark.parametrize("p", [0.0, 0.1])
def test_self_normalizing_nets_keep_mean_and_deviation(p):
    """50 layers, through training steps (Klambauer et al. 2017)."""
    layers = [layer for _ in range(50) for layer in (nn.Linear(256, 256), nn.SELU(), nn.AlphaDropout(p))]
    model = nn.Sequential(*layers, rng=0)
    optimizer = gradfuse.optim.SGD(model.parameters(), lr=1e-3)
    rng = np.random.default_rng(0)
    for _ in range(5):
        x = rng.normal(size=(256, 256)).astype(np.float32)
        for i, layer in enumerate(model):
            x = layer(x)
            if i % 3:
                assert abs(x.mean()) < 0.1
                assert abs(x.std() - 1) < 0.1
        target = rng.normal(size=x.shape).astype(np.float32)
        grad = gradfuse.mse_loss(x, target)[1]
        for layer in reversed(list(model)):
            grad = layer.backward(grad)
        optimizer.step()
        model.zero_grad()
