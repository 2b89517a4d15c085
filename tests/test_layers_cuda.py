"""The training layer on CuPy's arrays: everything gives what it gives with NumPy's, and stays on the device."""

import copy

import helpers
import numpy as np
import pytest
from helpers import assert_identical, to_numpy
from test_nn import IMAGES, LAYERS
from test_training import net, setting, toy

import gradfuse
from gradfuse import data, diagnostics, nn, schedules, training

pytestmark = pytest.mark.parametrize("device", helpers.DEVICES[1:], indirect=True)


@pytest.fixture
def device(request):
    """CuPy, which the emulated device has one of its own for."""
    import cupy

    return cupy


def assert_close(actual, expected, tolerance=2e-5):
    assert type(actual).__module__ == "cupy"
    actual = to_numpy(actual)
    assert (actual.dtype, actual.shape) == (expected.dtype, expected.shape)
    np.testing.assert_allclose(actual, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", LAYERS)
def test_layers(device, name):
    make, shape = LAYERS[name]
    x = np.random.default_rng(2).normal(size=shape).astype(np.float32)
    ours, host = make().to(device), make()
    for _ in range(2):
        y, expected = ours(device.asarray(x)), host(x)
        assert_close(y, expected)
        grad = np.random.default_rng(3).normal(size=y.shape).astype(np.float32)
        assert_close(ours.backward(device.asarray(grad)), host.backward(grad))
    for (of, p), q in zip(ours.named_parameters(), host.parameters(), strict=True):
        assert type(p.grad).__module__ == "cupy", of
        assert_close(p.grad, q.grad, 1e-4)
    assert_close(ours.eval()(device.asarray(x)), host.eval()(x))
    state = {of: to_numpy(array) for of, array in ours.state_dict().items()}
    assert make().load_state_dict(state) == list(state)


def images(device=None):
    layers = [nn.Conv2D(6, 8, 3, padding="same"), nn.BatchNorm(8), nn.ReLU(), nn.MaxPool2D(2), nn.Dropout(0.1)]
    body = nn.Sequential(nn.Conv2D(8, 8, 3, padding=1), nn.BatchNorm(8))
    model = nn.Sequential(*layers, nn.Residual(body, activation=nn.ELU()), nn.GlobalAvgPool2D(), nn.Linear(8, 3), rng=0)
    return model if device is None else model.to(device)


@pytest.mark.parametrize("fuse", [True, False])
def test_models(device, fuse):
    x = np.random.default_rng(2).normal(size=IMAGES).astype(np.float32)
    t = np.arange(len(x)) % 3
    results = []
    for model, batch, target in ((images(device), device.asarray(x), device.asarray(t)), (images(), x, t)):
        model.fuse(fuse)
        optimizer = gradfuse.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        for _ in range(3):
            loss, grad = gradfuse.cross_entropy(model(batch), target)
            model.backward(grad, input_grad=False)
            optimizer.step()
            model.zero_grad()
        results.append((model.eval()(batch), model.fold()(batch), loss))
    for ours, host in zip(*results, strict=True):
        assert_close(ours, host, 1e-4)
    mean, deviation = nn.monte_carlo(images(device), device.asarray(x), 4, transform=gradfuse.softmax)
    assert type(mean) is type(deviation) is device.ndarray


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("loss", [nn.huber, nn.binary_cross_entropy_with_logits, nn.mse_loss])
def test_losses(device, loss, reduction):
    rng = np.random.default_rng(1)
    p, t = rng.normal(size=(4, 3)).astype(np.float32), rng.random((4, 3)).astype(np.float32)
    found = loss(device.asarray(p), device.asarray(t), reduction=reduction)
    for ours, host in zip(found, loss(p, t, reduction=reduction), strict=True):
        assert_close(ours, np.asarray(host))


def on(device, arrays):
    return tuple(map(device.asarray, arrays))


def test_fit(device, tmp_path):
    """A run with everything, as on the CPU; interrupted and resumed it ends in the same bits."""
    options = {
        "regularisers": [nn.L2(1e-3), nn.L1(1e-4)],
        "constraints": [nn.MaxNorm(2.0)],
        "accumulate": 2,
        "patience": 9,
        "progress": False,
    }
    path = tmp_path / "run.safetensors"

    def run(epochs, make_model, place, **more):
        model, optimizer = make_model(), None
        plateau = schedules.warmup(schedules.Plateau(0.05, patience=1), 5)
        optimizer = gradfuse.optim.SGD(model.parameters(), lr=plateau, momentum=0.9, max_grad_norm=1.0)
        batches = data.Batches(*place(toy()), batch_size=16, seed=3)
        history = training.fit(
            model, batches, optimizer, epochs=epochs, validation=place(toy(seed=5)), **options, **more
        )
        return model, history

    def placed(arrays):
        return on(device, arrays)

    model, history = run(4, lambda: net().to(device), placed)
    _, expected = run(4, net, tuple)
    for name, figures in expected.epochs.items():
        assert history[name] == pytest.approx(figures, rel=1e-2), name
    run(2, lambda: net().to(device), placed, checkpoint=path)
    resumed, _ = run(4, lambda: net().to(device), placed, checkpoint=path)
    for p, q in zip(resumed.parameters(), model.parameters(), strict=True):
        assert_identical(to_numpy(p.data), to_numpy(q.data))


@pytest.mark.parametrize("loss_scale", [None, 256.0])
def test_no_step_waits(device, loss_scale):
    """What fit copies from the device, and so waits for, does not depend on how many steps there are."""
    if not hasattr(device, "COPIED"):
        pytest.skip("the emulated CuPy's count")
    counts = []
    for batch_size in (50, 10):
        model = net().to(device)
        optimizer = gradfuse.optim.NAdam(model.parameters(), lr=schedules.cosine(0.01, 30), nonfinite="skip")
        before = len(device.COPIED)
        batches = data.Batches(*on(device, toy()), batch_size=batch_size)
        training.fit(model, batches, optimizer, epochs=2, loss_scale=loss_scale, progress=False)
        counts.append(len(device.COPIED) - before)
    assert counts[0] == counts[1]


def test_mixed_precision(device):
    x, t = toy()
    model = net().astype("float16").to(device)
    optimizer = gradfuse.optim.NAdam(model.parameters(), lr=0.01, nonfinite="skip", master_weights=True)
    batches = data.Batches(*on(device, (x.astype(np.float16), t)), batch_size=16, seed=3)
    history = training.fit(model, batches, optimizer, epochs=5, loss_scale="dynamic", progress=False)
    assert history["loss"][-1] < 0.7 * history["loss"][0]
    nn.prune(model, 0.05)
    optimizer.refresh_master_weights()
    for state, p in zip(optimizer.state, model.parameters(), strict=True):
        if "master" in state:
            assert_identical(to_numpy(state["master"]), to_numpy(p.data).astype(np.float32))


def test_data(device):
    rng = np.random.default_rng(0)
    x, t = rng.normal(3, 2, (40, 1, 8, 8)).astype(np.float32), np.arange(40) % 4
    for axis in (0, (0, 2, 3)):
        for ours, host in zip(
            data.standardize(*on(device, (x, x[:5])), axis=axis), data.standardize(x, x[:5], axis=axis), strict=True
        ):
            assert_close(ours, host)
    assert_close(data.one_hot(device.asarray(t)), data.one_hot(t))
    for ours, host in zip(
        data.split(*on(device, (x, t)), stratify=device.asarray(t)), data.split(x, t, stratify=t), strict=True
    ):
        assert_close(ours[0], host[0])
    for ours, host in zip(data.k_fold(40, stratify=device.asarray(t)), data.k_fold(40, stratify=t), strict=True):
        assert_identical(ours[1], host[1])
    change = data.augment(data.flip(), data.shift(1), data.crop(8, 2), data.noise(0.1))
    options = {"batch_size": 16, "transform": change, "prefetch": 2}
    for ours, host in zip(data.Batches(*on(device, (x, t)), **options), data.Batches(x, t, **options), strict=True):
        assert_close(ours[0], host[0])
        assert_close(ours[1], host[1])


def test_diagnostics(device, tmp_path):
    x, t = toy()
    host, model = net(), net().to(device)
    placed = on(device, (x, t))
    assert diagnostics.initial_loss(model, *placed).loss == pytest.approx(
        diagnostics.initial_loss(host, x, t).loss, rel=1e-4
    )
    assert diagnostics.overfits(model, *placed)
    assert diagnostics.gradcheck_layer(nn.Sequential(nn.Linear(6, 3), nn.Tanh(), rng=0).to(device), placed[0][:5])
    batches = data.Batches(*placed)
    found = diagnostics.lr_range_test(model, batches, gradfuse.optim.NAdam, steps=20)
    found.plot(tmp_path / "rates.png")
    optimizer = gradfuse.optim.NAdam(model.parameters(), lr=1e-2)
    with diagnostics.Watch(model, every=2) as watch:
        training.fit(model, batches, optimizer, epochs=2, progress=False)
    watch.plot(tmp_path / "watch.png")
    assert str(watch)
    _, grad = gradfuse.cross_entropy(model.train()(placed[0]), placed[1])
    model.backward(grad, input_grad=False)
    assert str(diagnostics.update_ratios(model, optimizer.step))


def test_transfer_and_pretraining(device):
    x, _ = toy()
    source, target = net(1).to(device), net(2).to(device)
    assert len(training.transfer(source, target)) == 9
    stacked = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3), rng=0)
    ours = copy.deepcopy(stacked).to(device)
    options = {"epochs": 2, "noise": 0.2, "progress": False}
    for a, b in zip(
        training.pretrain_layers(ours, device.asarray(x), **options),
        training.pretrain_layers(stacked, x, **options),
        strict=True,
    ):
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-3)
    assert nn.sparsity(ours) == 0
    assert type(setting()[0].to(device).to(np)[0].weight.data) is np.ndarray
