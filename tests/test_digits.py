"""The example: its gradients beside those of the plain NumPy loop, and what it learns."""

import importlib.util
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from helpers import DEVICES

import gradfuse
import gradfuse.reference as ref

pytest.importorskip("sklearn")
pytest.importorskip("matplotlib")
pytest.importorskip("tqdm")
threadpoolctl = pytest.importorskip("threadpoolctl")

EXAMPLES = Path(__file__).parents[1] / "examples"


def load(name):
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


digits_numpy = load("digits_numpy")
digits = load("digits")


@pytest.fixture(autouse=True)
def one_thread(threads):
    """Tests run side by side: each keeps to a thread of its own."""
    threads(1)
    with threadpoolctl.threadpool_limits(1, user_api="blas"):
        yield


def batch(rng, dtype):
    return rng.standard_normal((digits.BATCH, 64)).astype(dtype), rng.integers(0, 10, digits.BATCH)


def both_gradients(rng, dtype, dropout):
    """Of one batch: gradfuse's loss, gradients and running statistics in dtype, and NumPy's in float64."""
    x, t = batch(rng, dtype)
    p, r = digits.new_net(0, dtype)
    p = digits.Params(*(a + 0.1 * rng.standard_normal(a.shape).astype(dtype) for a in p))
    p64, r64 = (type(group)(*(a.astype(np.float64) for a in group)) for group in (p, r))
    mask_rng = ref.Generator(7)

    def keep(shape):
        return ref.keep_mask(shape, dropout, mask_rng)

    loss, grads = digits.gradients(p, r, x, t, gradfuse.Generator(7), dropout)
    loss64, grads64 = digits_numpy.gradients(p64, r64, x.astype(np.float64), t, keep, dropout, digits.SMOOTHING)
    return {"loss": loss, **grads._asdict(), **r._asdict()}, {"loss": loss64, **grads64._asdict(), **r64._asdict()}


@pytest.mark.parametrize("dropout", [0, digits.DROPOUT])
@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-13), ("float32", 3e-6)])
def test_gradients_are_those_of_numpy(rng, dtype, tolerance, dropout):
    actual, expected = both_gradients(rng, np.dtype(dtype), dropout)
    assert actual.keys() == expected.keys()
    for name, a in actual.items():
        assert a.dtype == dtype, name
        np.testing.assert_allclose(
            a, expected[name], rtol=0, atol=tolerance * np.abs(expected[name]).max(), err_msg=name
        )


def test_gradients_are_the_slopes_of_the_loss(rng):
    x, t = batch(rng, np.float64)
    p, r = digits.new_net(0, np.float64)
    directions = [rng.standard_normal(a.shape) for a in p]

    def loss_at(h):
        moved = digits.Params(*(a + h * d for a, d in zip(p, directions, strict=True)))
        return float(digits.gradients(moved, r, x, t, gradfuse.Generator(7))[0])

    _, grads = digits.gradients(p, r, x, t, gradfuse.Generator(7))
    slope = sum(np.vdot(g, d) for g, d in zip(grads, directions, strict=True))
    h = 1e-6
    assert (loss_at(h) - loss_at(-h)) / (2 * h) == pytest.approx(slope, rel=1e-6)


def test_numpy_loop_takes_the_same_steps(rng):
    x, t = batch(rng, np.float64)
    (p, r), (p_numpy, r_numpy) = digits.new_net(0, np.float64), digits.new_net(0, np.float64)
    optimizer, numpy_step = gradfuse.optim.NAdam(p), digits_numpy.nadam(p_numpy)
    keep = partial(np.ones, dtype=bool)
    for _ in range(5):
        optimizer.step(digits.gradients(p, r, x, t, None, dropout=0)[1])
        numpy_step(digits_numpy.gradients(p_numpy, r_numpy, x, t, keep, 0, digits.SMOOTHING)[1])
    for name, a, b in zip(p._fields + r._fields, p + r, p_numpy + r_numpy, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-11, err_msg=name)


def test_pixels_are_standardised_by_the_training_part():
    pixels = np.random.default_rng(0).integers(0, 17, (100, 64)).astype(float)
    pixels[:, 5] = 0
    x, (training, held_out) = digits.split(pixels, np.arange(100) % 10, seed=0)
    assert sorted([*training, *held_out]) == list(range(100))
    assert len(held_out) == 20
    assert not x[:, 5].any()
    inked = np.delete(x[training], 5, axis=1)
    np.testing.assert_allclose(inked.mean(axis=0), 0, atol=1e-6)
    np.testing.assert_allclose(inked.std(axis=0), 1, atol=1e-6)


def test_every_seed_reaches_the_goal(tmp_path, capsys):
    picture = tmp_path / "digits.png"
    digits.main(["--no-timing", "--picture", str(picture)])
    printed = capsys.readouterr().out
    assert all(f"seed {seed}" in printed for seed in (0, 1, 2))
    assert printed.endswith(f"{picture}\n")
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_a_few_epochs_reach_95_percent_and_fail_the_goal(tmp_path, monkeypatch):
    monkeypatch.setattr(digits, "GOAL", 0.95)
    digits.main(["--no-timing", "--epochs", "5", "--seeds", "0", "--picture", str(tmp_path / "5.png")])
    monkeypatch.setattr(digits, "GOAL", 1.0)
    with pytest.raises(SystemExit, match=r"seed 0 read 9\d\.\d\d% .* less than 100\.0%"):
        digits.main(["--no-timing", "--epochs", "5", "--seeds", "0", "--picture", str(tmp_path / "5.png")])


def test_the_steps_are_timed(rng):
    times = digits.step_times(*batch(rng, np.float32), turns=1, steps=2)
    assert {"gradfuse", "NumPy"} <= times.keys()
    assert all(seconds > 0 for seconds in times.values())


@pytest.mark.skipif(not gradfuse.cuda.is_available(), reason="needs a GPU, or the emulated build")
@pytest.mark.parametrize("on", DEVICES[1:])
def test_cupy(on):
    accuracy, _ = load("digits_cupy").train(*digits.load_digits(return_X_y=True), 0, 10)
    assert accuracy >= 0.95


@pytest.fixture
def on_torch():
    pytest.importorskip("torch")
    return load("digits_torch_graph")


def test_a_step_on_torch_tensors_is_that_on_numpy_s(on_torch, rng):
    torch = on_torch.torch
    training, (p, r) = on_torch.Training(0, "cpu"), digits.new_net(0)
    optimizer, generator = gradfuse.optim.NAdam(p, lr=digits.MAX_LR / 25), gradfuse.Generator(0)
    for _ in range(3):
        x, t = batch(rng, np.float32)
        training.x[...], training.t[...] = torch.from_numpy(x), torch.from_numpy(t)
        training.run()
        loss, grads = digits.gradients(p, r, x, t, generator)
        optimizer.step(grads)
        assert float(training.loss) == pytest.approx(float(loss), rel=1e-5)
    for name, a, b in zip(p._fields + r._fields, training.p + training.r, p + r, strict=True):
        # Sums of products in another order; NAdam's first steps take a gradient near 0 to lr or -lr.
        np.testing.assert_allclose(a.numpy(), b, rtol=1e-3, atol=1e-4, err_msg=name)


def test_torch_without_a_gpu(on_torch, monkeypatch):
    accuracy, _ = on_torch.train(*digits.load_digits(return_X_y=True), 0, 10, device="cpu")
    assert accuracy >= 0.95
    monkeypatch.setattr(sys, "argv", ["digits_torch_graph.py"])
    monkeypatch.setattr(on_torch.torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit, match=r"^digits_torch_graph\.py needs a GPU: [^\n]+$"):
        on_torch.main()


@pytest.mark.parametrize("on", ["cuda"])
def test_torch_captures_a_step(on_torch, on):
    if reason := on_torch.why_not():
        pytest.skip(reason)
    for captured in (False, True):
        accuracy, _ = on_torch.train(*digits.load_digits(return_X_y=True), 0, 10, captured)
        assert accuracy >= 0.95
