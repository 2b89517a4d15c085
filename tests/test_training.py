"""The loop, its checkpoints, and what it leaves behind when it is killed."""

import copy
import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from helpers import BFLOAT16, assert_identical

import gradfuse
from gradfuse import nn, schedules
from gradfuse.data import Batches
from gradfuse.training import History, accuracy, evaluate, fit, groups, load, pretrain_layers, save, transfer

pytest.importorskip("safetensors")


def toy(n=150, classes=3, seed=0):
    """Blobs: x (n, 6), labels (n,)."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, n)
    centres = 1.5 * np.random.default_rng(9).normal(size=(classes, 6))
    return (centres[labels] + rng.normal(size=(n, 6))).astype(np.float32), labels


def net(rng=0):
    return nn.Sequential(nn.Linear(6, 16), nn.BatchNorm(16), nn.ELU(), nn.Dropout(0.2), nn.Linear(16, 3), rng=rng)


def setting(steps=40, **options):
    model = net()
    data = Batches(*toy(), batch_size=16, seed=3)
    optimizer = gradfuse.optim.NAdam(model.parameters(), lr=schedules.one_cycle(0.02, steps), **options)
    return model, data, optimizer


def everything(model, optimizer):
    arrays = model.state_dict() | {f"{i}.{k}": a for i, s in enumerate(optimizer.state) for k, a in s.items()}
    return arrays, [g.state_dict() for g in model.generators()], optimizer.t


def assert_same_run(one, other):
    for a, b in zip(one[0].items(), other[0].items(), strict=True):
        assert a[0] == b[0]
        assert_identical(np.asarray(a[1]), np.asarray(b[1]))
    assert one[1:] == other[1:]


# ---- the loop


def test_fit_is_the_loop_written_by_hand():
    model, data, optimizer = setting()
    history = fit(model, data, optimizer, epochs=3, progress=False)
    mine, batches, opt = setting()
    for epoch in range(3):
        total = 0.0
        for x, t in batches:
            loss, grad = gradfuse.cross_entropy(mine(x), t)
            mine.backward(grad)
            opt.step()
            mine.zero_grad()
            total += float(loss) * len(x)
        assert history["loss"][epoch] == pytest.approx(total / 150, rel=1e-6)
    assert_same_run(everything(model, optimizer), everything(mine, opt))


def test_fit_learns():
    model, data, optimizer = setting(steps=300)
    history = fit(model, data, optimizer, epochs=30, validation=toy(seed=5), progress=False)
    assert history["val_accuracy"][-1] > 0.85
    assert history["loss"][-1] < 0.5 * history["loss"][0]
    assert len(history) == 30
    assert list(history.epochs) == ["loss", "val_loss", "val_accuracy", "lr"]
    assert model.training


def test_accumulated_gradients_are_those_of_the_larger_batch():
    """Without batch norm or dropout: a mean of means, batches being equally large."""
    models = [nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3), rng=0) for _ in range(2)]
    x, t = toy(128)
    for model, size, accumulate in zip(models, (32, 8), (1, 4), strict=True):
        data = Batches(x, t, batch_size=size, seed=1)
        optimizer = gradfuse.optim.SGD(model.parameters(), lr=0.1, max_grad_norm=0.5)
        fit(model, data, optimizer, epochs=2, accumulate=accumulate, progress=False)
        assert optimizer.t == 8
    for a, b in zip(models[0].parameters(), models[1].parameters(), strict=True):
        np.testing.assert_allclose(a.data, b.data, rtol=2e-4, atol=2e-5)


def test_what_is_left_of_an_epoch_is_a_step_too():
    model, _, optimizer = setting()
    fit(model, Batches(*toy(), batch_size=16), optimizer, epochs=1, accumulate=4, progress=False)  # 10 batches
    assert optimizer.t == 3


def test_patience_restores_the_best():
    model, data, optimizer = setting(steps=4000)
    x, t = toy(60, seed=5)
    seen = []
    history = fit(
        model,
        data,
        optimizer,
        epochs=200,
        validation=(x, np.roll(t, 1)),
        patience=4,
        progress=False,
        callbacks=[lambda run: seen.append(run.model.state_dict())],
    )
    best = int(np.argmin(history["val_loss"]))
    assert len(history) == best + 1 + 4 < 200
    for name, array in model.state_dict().items():
        assert_identical(np.asarray(array), np.asarray(seen[best][name]))


def test_callbacks_may_stop():
    model, data, optimizer = setting()

    def stop(run):
        run.stop = run.epoch == 2

    assert len(fit(model, data, optimizer, epochs=9, callbacks=[stop], progress=False)) == 2


@pytest.mark.parametrize("warmed", [False, True])
def test_plateau_is_told_the_validation_loss(warmed):
    model, data, _ = setting()
    plateau = schedules.Plateau(0.1, patience=1, factor=0.5, threshold=10.0, threshold_mode="abs")  # nothing is better
    if warmed:
        plateau = schedules.warmup(plateau, 0)
    optimizer = gradfuse.optim.SGD(model.parameters(), lr=plateau)
    history = fit(model, data, optimizer, epochs=6, validation=toy(seed=5), progress=False)
    assert history["lr"] == [0.1, 0.1, 0.1, 0.05, 0.05, 0.025]


def test_regularisers_and_constraints():
    finals = []
    for options in ({}, {"regularisers": [nn.L2(0.5)]}, {"constraints": [nn.MaxNorm(0.1)]}):
        model, data, optimizer = setting()
        fit(model, data, optimizer, epochs=4, progress=False, **options)
        finals.append(np.sqrt((model[0].weight.data ** 2).sum(axis=0)))
    assert finals[1].mean() < 0.9 * finals[0].mean()
    assert finals[2].max() <= 0.1 * (1 + 1e-6)


@pytest.mark.parametrize("scale", [1024.0, "dynamic"])
def test_mixed_precision(scale):
    model = net().astype("float16")
    assert model[1].weight.data.dtype == np.float32
    assert model[0].weight.data.dtype == np.float16
    x, t = toy()
    data = Batches(x.astype(np.float16), t, batch_size=16, seed=3)
    optimizer = gradfuse.optim.NAdam(model.parameters(), lr=0.01, nonfinite="skip", master_weights=True)
    history = fit(model, data, optimizer, epochs=15, loss_scale=scale, progress=False)
    assert history["loss"][-1] < 0.5 * history["loss"][0]
    assert all(np.isfinite(p.data).all() for p in model.parameters())


def test_gradients_are_scaled_before_they_are_rounded():
    """What a loss scale is for: gradients that float16 could not hold."""
    x, t = toy()
    x = x.astype(np.float16)
    ends = {}
    for scale in (None, 2.0**20):
        model = net().astype("float16")
        before = model.state_dict()
        optimizer = gradfuse.optim.SGD(model.parameters(), lr=2.0**24, nonfinite="skip", master_weights=True)

        def tiny(prediction, target):
            loss, grad = gradfuse.cross_entropy(prediction, target)
            return loss, grad * grad.dtype.type(2.0**-20) * grad.dtype.type(2.0**-4)

        fit(model, Batches(x, t), optimizer, epochs=3, loss=tiny, loss_scale=scale, progress=False)
        ends[scale] = np.abs(model.state_dict()["0.weight"] - before["0.weight"]).max()
    assert ends[None] == 0
    assert ends[2.0**20] > 0.1


def test_a_dynamic_scale_halves_where_gradients_overflow():
    model = net().astype("float16")
    x, t = toy()
    data = Batches(1000 * x.astype(np.float16), t, batch_size=16, seed=3)
    optimizer = gradfuse.optim.SGD(model.parameters(), lr=1e-5, nonfinite="skip", master_weights=True)
    runs = []
    fit(model, data, optimizer, epochs=2, loss_scale="dynamic", callbacks=[runs.append], progress=False)
    run = runs[-1]
    assert run.scale.value < 65536
    assert optimizer.t < run.step


def test_evaluate():
    model = net()
    x, t = toy(37)
    model.train()
    figures = evaluate(model, (x, t), metrics={"accuracy": accuracy}, batch_size=10)
    assert model.training
    logits = copy.deepcopy(model).eval()(x)
    assert figures["loss"] == pytest.approx(float(gradfuse.cross_entropy(logits, t)[0]), rel=1e-6)
    assert figures["accuracy"] == pytest.approx((logits.argmax(1) == t).mean())
    assert evaluate(model, Batches(x, t, batch_size=7), metrics={})["loss"] == pytest.approx(figures["loss"], rel=1e-6)
    with pytest.raises(ValueError, match="at least one sample"):
        evaluate(model, (x[:0], t[:0]))
    with pytest.raises(TypeError, match=r"data must be a pair \(x, target\) or batches of them, got ndarray"):
        evaluate(model, x)


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"epochs": -1}, ValueError, "fit: epochs must be an integer >= 0, got -1"),
        ({"accumulate": 0}, ValueError, "fit: accumulate must be an integer >= 1, got 0"),
        ({"patience": 2}, ValueError, "fit: validation must be given where patience is"),
        ({"checkpoint_every": 0}, ValueError, "fit: checkpoint_every must be an integer >= 1, got 0"),
        ({"regularisers": nn.L2(1.0)}, TypeError, r"fit: regularisers must be a list of functions, got L2\(1.0\)"),
        ({"callbacks": [3]}, TypeError, r"fit: callbacks must be a list of functions, got \[3\]"),
        ({"loss": "mse"}, TypeError, "fit: loss must be a function .* got 'mse'"),
        ({"metrics": [accuracy]}, TypeError, "fit: metrics must be functions by name"),
        ({"metrics": {"loss": accuracy}}, TypeError, "fit: metrics must be .* none of them named loss"),
        ({"metrics": {"accuracy": accuracy}}, ValueError, "fit: validation must be given where metrics are, got none"),
        ({"validation": list(toy())}, TypeError, "fit: validation must be a list of pairs .*, got one of ndarray"),
        ({"checkpoint": 5}, TypeError, "fit: checkpoint must be a path, got 5"),
        (
            {"checkpoint": "/no/such/folder/x"},
            ValueError,
            "fit: checkpoint must be a file in a folder that exists, got",
        ),
        ({"checkpoint_every": 2}, ValueError, "fit: checkpoint must be given where checkpoint_every is, got none"),
        (
            {"loss_scale": "auto"},
            TypeError,
            "fit: loss_scale must be 'dynamic', None or a finite number > 0, got 'auto'",
        ),
        ({"validation": iter([toy()])}, TypeError, "fit: validation must be a pair .* got list_iterator"),
        ({"validation": toy()[0]}, TypeError, "fit: validation must be a pair .* got ndarray"),
        ({"loss_scale": 8.0}, ValueError, "needs an optimizer made with nonfinite='skip', got 'propagate'"),
    ],
)
def test_arguments(options, error, text):
    model, data, optimizer = setting()
    before = everything(model, optimizer)
    with pytest.raises(error, match=text):
        fit(model, data, optimizer, **{"epochs": 1, "progress": False, **options})
    assert_same_run(everything(model, optimizer), before)


@pytest.mark.parametrize(
    ("part", "given", "error", "text"),
    [
        ("model", 3, TypeError, "fit: model must be a gradfuse.nn.Layer, got int"),
        ("optimizer", 3, TypeError, "fit: optimizer must be a gradfuse.optim.Optimizer, got int"),
        ("data", [toy()], TypeError, "fit: data must be a gradfuse.data.Batches, got list"),
        ("data", Batches(toy()[0]), ValueError, r"data must be batches of \(x, target\), got of 1 arrays"),
        ("data", Batches(*toy(), batch_size=999, drop_last=True), ValueError, "at least one batch an epoch, got none"),
    ],
)
def test_parts(part, given, error, text):
    parts = dict(zip(("model", "data", "optimizer"), setting(), strict=True)) | {part: given}
    with pytest.raises(error, match=text):
        fit(**parts, epochs=1, progress=False)


@pytest.mark.parametrize("inner", [False, True])
def test_master_weights_follow_what_changes_the_weights(inner):
    """After loading and refresh_master_weights() a step goes on from what was loaded; and from what fit restored."""
    x, t = toy()
    x = x.astype(np.float16)
    model = net().astype("float16")
    optimizer = gradfuse.optim.SGD(model.parameters(), lr=1e-3, master_weights=True)
    if inner:
        fit(model, Batches(x, t), optimizer, epochs=4, validation=(x, 2 - t), patience=1, progress=False)
    else:
        model.load_state_dict(net(rng=1).astype("float16").state_dict())
        optimizer.refresh_master_weights()
    masters = [s["master"] for s in optimizer.state if "master" in s]
    halves = [p.data for p in model.parameters() if p.data.dtype == np.float16]
    for half, master in zip(halves, masters, strict=True):
        assert_identical(half.astype(np.float32), np.asarray(master))


def test_evaluating_leaves_the_place(tmp_path):
    """Of batches under way, abandoned or loaded all samples are evaluated, and what comes next stays."""
    x, t = toy(40)
    model = net()
    whole = evaluate(model, (x, t), metrics={"accuracy": accuracy})
    batches = Batches(x, t, batch_size=8, seed=1)
    sizes = []
    for i, _ in enumerate(batches):
        if i == 2:
            assert evaluate(model, batches, metrics={"accuracy": accuracy}) == pytest.approx(whole)
    for _ in range(2):
        sizes.append(sum(1 for _ in batches))
    assert sizes == [5, 5]
    batches.load_state_dict({**batches.state_dict(), "position": 4})
    assert evaluate(model, batches)["loss"] == pytest.approx(whole["loss"])
    assert [sum(1 for _ in batches) for _ in range(2)] == [1, 5]
    for _ in batches:  # a place that is set on the way stands for this epoch alone
        batches.load_state_dict(batches.state_dict())
    assert sum(1 for _ in batches) == 5
    with pytest.raises(ValueError, match="evaluate: x and target must have one number of samples, got 40 and 20"):
        evaluate(model, (x, t[:20]), batch_size=20)
    with pytest.raises(ValueError, match="evaluate: batch_size must be an integer >= 1, got 0"):
        evaluate(model, (x, t), batch_size=0)


def test_a_plateau_for_what_is_to_grow_is_refused():
    model, data, _ = setting()
    rising = schedules.warmup(schedules.warmup(schedules.Plateau(0.1, mode="max"), 2), 2)
    with pytest.raises(ValueError, match="fit: a Plateau must have mode='min', for it is told a loss, got 'max'"):
        fit(model, data, gradfuse.optim.SGD(model.parameters(), lr=rising), epochs=1, progress=False)


def test_what_a_resumed_run_may_not_change(tmp_path):
    path = tmp_path / "run.safetensors"

    def run(**options):
        model, data, optimizer = setting(nonfinite="skip")
        return model, fit(model, data, optimizer, checkpoint=path, progress=False, **options)

    held_out = toy(40, seed=5)
    run(epochs=2, loss_scale=128.0, accumulate=2, validation=held_out, patience=9)
    for change, text in [
        ({"loss_scale": None}, "fit: loss_scale must be 128.0, as in the checkpoint, got None"),
        ({"loss_scale": 64.0}, "fit: loss_scale must be 128.0, as in the checkpoint, got 64.0"),
        ({"accumulate": 1}, "fit: accumulate must be 2, as in the checkpoint, got 1"),
        (
            {"validation": None, "patience": None},
            "validation and metrics must be those of the checkpoint, whose history is of loss, val_loss",
        ),
    ]:
        same = {"loss_scale": 128.0, "accumulate": 2, "validation": held_out, "patience": 9}
        with pytest.raises(ValueError, match=text):
            run(epochs=4, **{**same, **change})
    # Without patience there is no best to go back to.
    model, history = run(epochs=4, loss_scale=128.0, accumulate=2, validation=held_out)
    assert evaluate(model, held_out)["loss"] == pytest.approx(history["val_loss"][-1])


def test_accuracy():
    p = np.array([[0.1, 0.9], [0.8, 0.2], [0.6, 0.4]])
    assert accuracy(p, np.array([1, 0, 1])) == pytest.approx(2 / 3)
    assert accuracy(p, np.eye(2)[[1, 0, 1]]) == pytest.approx(2 / 3)
    with pytest.raises(ValueError, match=r"accuracy: target must have shape \(3,\) or \(3, 2\), got \(3, 1\)"):
        accuracy(p, np.array([[1], [0], [1]]))


def test_an_optimizer_of_another_model_is_refused():
    model, data, _ = setting()
    other = gradfuse.optim.SGD(copy.deepcopy(model).parameters())
    with pytest.raises(ValueError, match="optimizer must have been given parameters of the model"):
        fit(model, data, other, epochs=1, progress=False)
    half = model.astype("float16")
    masters = gradfuse.optim.SGD(half.parameters(), master_weights=True)
    with pytest.raises(ValueError, match="constraints must be none where the optimizer keeps master_weights"):
        fit(half, data, masters, epochs=1, constraints=[nn.MaxNorm(1)], progress=False)


# ---- history


def history_of(**figures):
    history = History()
    for values in zip(*figures.values(), strict=True):
        history.add(dict(zip(figures, values, strict=True)))
    return history


@pytest.mark.parametrize(
    ("figures", "word"),
    [
        ({"loss": [2, 1, 0.5, 0.3, 0.2, 0.1, 0.1, 0.1], "val_loss": [2, 1, 0.6, 0.6, 0.8, 1, 1.2, 1.5]}, "Overfitting"),
        ({"loss": [2.3, 2.29, 2.29, 2.28, 2.28], "val_loss": [2.3, 2.3, 2.3, 2.3, 2.3]}, "Underfitting"),
        ({"loss": [2, 1.8, 1.6, 1.4, 1.2], "val_loss": [2, 1.8, 1.7, 1.5, 1.3]}, "Unfinished"),
        ({"loss": [2, 1, 0.5, 0.4, 0.39, 0.39], "val_loss": [2, 1, 0.5, 0.45, 0.44, 0.44]}, "Well fitted"),
        ({"loss": [2, 0.5, 0.11, 0.1, 0.1, 0.1], "val_loss": [2, 0.7, 0.6, 0.55, 0.55, 0.55]}, "A gap"),
        ({"loss": [2, math.nan]}, "not finite"),
        ({"loss": [2, 3, 4]}, "rises"),
        ({"loss": [2]}, "Too few"),
        ({"loss": [0.5, 0.1, 0.05, 0.05], "val_loss": [0.5, 0.0, 0.1, 0.1]}, "Overfitting"),
        ({"loss": [0.5, -1, -1, -1.02, -1.01], "val_loss": [0.5, -1, -1, -1.02, -1.01]}, "Well fitted"),
        ({"loss": [2, 1, 0.5, 0.4, 0.39, 0.39]}, "Well fitted"),
    ],
)
def test_verdicts(figures, word):
    assert word in history_of(**figures).verdict()


def test_a_validation_loss_that_is_not_finite():
    assert "not finite" in history_of(loss=[3.0, 2.0, 1.9], val_loss=[3.0, float("nan"), float("nan")]).verdict()


def test_history_plots(tmp_path):
    history = history_of(loss=[2, 1], val_loss=[2, 1.5], lr=[0.1, 0.2])
    figure = history.plot(tmp_path / "h.png")
    assert [axes.get_title() for axes in figure.axes] == ["loss", "lr"]
    assert [len(axes.lines) for axes in figure.axes] == [2, 1]
    assert (tmp_path / "h.png").exists()
    with pytest.raises(ValueError, match="figures must be loss, val_loss, lr, got loss"):
        history.add({"loss": 1})


# ---- checkpoints


def tree(dtype="float32"):
    rng = np.random.default_rng(0)
    return {
        "a": [rng.normal(size=(3, 4)).astype(dtype), {"b": np.array(3), "c": None}],
        "numbers": [1, 2.5, -(2**63), math.inf, True, "text", np.float32(0.5), np.int64(7)],
        "empty": np.zeros((0, 3), dtype),
        "scalar": np.array(1.5, dtype),
        "strided": rng.normal(size=(6, 4)).astype(dtype)[::2, ::-1],
    }


@pytest.mark.parametrize("dtype", ["float16", BFLOAT16, "float32", "float64"], ids=str)
def test_round_trip(tmp_path, dtype):
    path = tmp_path / "state.safetensors"
    saved = tree(dtype)
    save(path, saved)
    loaded = load(path)
    assert loaded["numbers"] == saved["numbers"]
    assert loaded["a"][1]["c"] is None
    for one, other in [
        (saved["a"][0], loaded["a"][0]),
        (saved["empty"], loaded["empty"]),
        (saved["scalar"], loaded["scalar"]),
        (np.ascontiguousarray(saved["strided"]), loaded["strided"]),
    ]:
        assert_identical(one, other)
    assert os.listdir(tmp_path) == ["state.safetensors"]


@pytest.mark.parametrize(
    ("state", "text"),
    [
        ({"a": object()}, "save: state.a must be an array or a plain value, got object"),
        ({"a": [{1: 2}]}, r"save: state.a.0 must have plain strings as keys, got 1"),
        ({"__array__": 1}, "plain strings as keys"),
        ({"a": {"f": print}}, "save: state.a.f must be"),
        ({"a": np.zeros(3, complex)}, "save: state.a must be an array of numbers, got one of complex128"),
        ({"a": np.array(["x"])}, "save: state.a must be an array of numbers"),
    ],
)
def test_what_cannot_be_saved(tmp_path, state, text):
    path = tmp_path / "state.safetensors"
    save(path, {"old": 1})
    with pytest.raises(TypeError, match=text):
        save(path, state)
    assert load(path) == {"old": 1}
    assert os.listdir(tmp_path) == ["state.safetensors"]


def test_names_with_dots_and_bytes_of_another_order(tmp_path):
    path = tmp_path / "state.safetensors"
    save(path, {"a.b": np.zeros(2), "a": {"b": np.ones(2), "swapped": np.arange(3.0).astype(">f8")}})
    loaded = load(path)
    np.testing.assert_array_equal(loaded["a.b"], 0)
    np.testing.assert_array_equal(loaded["a"]["b"], 1)
    np.testing.assert_array_equal(loaded["a"]["swapped"], [0, 1, 2])


def test_checkpoints_of_the_old_name(tmp_path):
    """A file that was written when the package was called smelt."""
    import safetensors.numpy

    path = tmp_path / "state.safetensors"
    save(path, {"a": np.arange(3.0), "b": [1, "two"]})
    data = path.read_bytes()
    header = int.from_bytes(data[:8], "little")
    metadata = json.loads(data[8 : 8 + header])["__metadata__"]
    path.write_bytes(safetensors.numpy.save(safetensors.numpy.load(data), {"smelt": metadata["gradfuse"]}))
    loaded = load(path)
    np.testing.assert_array_equal(loaded["a"], np.arange(3.0))
    assert loaded["b"] == [1, "two"]


def test_damage_is_seen(tmp_path):
    """Every byte flipped, and cut short anywhere: an error, never another state."""
    path = tmp_path / "state.safetensors"
    save(path, {"a": np.arange(5.0), "b": {"c": [1, 2.5]}, "text": "words"})
    good = path.read_bytes()
    for at in range(len(good)):
        path.write_bytes(good[:at] + bytes([good[at] ^ 0x04]) + good[at + 1 :])
        with pytest.raises(ValueError, match=r"load: .* must be"):
            load(path)
    for length in range(len(good)):
        path.write_bytes(good[:length])
        with pytest.raises(ValueError, match="must be a checkpoint of gradfuse, undamaged"):
            load(path)
    path.write_bytes(good + b"x")
    with pytest.raises(ValueError, match="must be"):
        load(path)


def test_foreign_files(tmp_path):
    import safetensors.numpy

    path = tmp_path / "x"
    for content in (
        b"",
        b"\x80\x04K\x01.",
        json.dumps({"a": 1}).encode(),
        os.urandom(500),
        safetensors.numpy.save({"a": np.ones(3)}),
    ):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="must be a checkpoint of gradfuse"):
            load(path)
    with pytest.raises(FileNotFoundError):
        load(tmp_path / "nothing")


# ---- resuming


class StopHere(Exception):
    pass


@pytest.mark.parametrize("stop_at", [1, 9, 10, 11, 25, 29])
@pytest.mark.parametrize("accumulate", [1, 3])
def test_resuming_anywhere(tmp_path, monkeypatch, stop_at, accumulate):
    """Interrupted after any step, a run ends bit for bit where the uninterrupted one does, history included."""
    options = {"epochs": 3, "progress": False, "validation": toy(40, seed=5), "accumulate": accumulate, "patience": 2}
    model, data, optimizer = setting()
    whole = fit(model, data, optimizer, **options)
    expected = everything(model, optimizer)

    path = tmp_path / "run.safetensors"
    model, data, optimizer = setting()
    step = type(optimizer).step
    taken = 0

    def counted(*args, **kwargs):
        nonlocal taken
        if taken == stop_at:
            raise StopHere
        taken += 1
        step(*args, **kwargs)

    monkeypatch.setattr(type(optimizer), "step", counted)
    try:
        fit(model, data, optimizer, checkpoint=path, checkpoint_every=1, **options)
    except StopHere:
        pass
    else:
        assert accumulate > 1
    monkeypatch.undo()
    model, data, optimizer = setting()
    history = fit(model, data, optimizer, checkpoint=path, checkpoint_every=1, **options)
    assert history.state_dict() == whole.state_dict()
    assert_same_run(everything(model, optimizer), expected)


def test_resuming_with_batches_to_validate_on(tmp_path):
    """Each evaluation sees them as the one before did, whatever their own epoch."""
    histories = []
    for parts in ([4], [2, 4]):
        for epochs in parts:
            model, data, optimizer = setting()
            validation = Batches(*toy(64, seed=5), batch_size=10, drop_last=True, seed=3)
            path = tmp_path / f"{len(parts)}.safetensors"
            history = fit(model, data, optimizer, epochs=epochs, validation=validation, checkpoint=path, progress=False)
        histories.append(history.state_dict())
    assert histories[0] == histories[1]


def test_resuming_in_the_process_that_was_interrupted(tmp_path):
    """Gradients of batches whose step was not taken are forgotten."""
    path = tmp_path / "run.safetensors"
    model, data, optimizer = setting()
    fit(model, data, optimizer, epochs=2, accumulate=2, progress=False)
    expected = everything(model, optimizer)
    model, data, optimizer = setting()
    calls = 0

    def interrupted(prediction, target):
        nonlocal calls
        calls += 1
        if calls == 6:
            raise KeyboardInterrupt
        return gradfuse.cross_entropy(prediction, target)

    options = {"epochs": 2, "accumulate": 2, "checkpoint": path, "checkpoint_every": 1, "progress": False}
    with pytest.raises(KeyboardInterrupt):
        fit(model, data, optimizer, loss=interrupted, metrics={}, **options)
    fit(model, data, optimizer, **options)
    assert_same_run(everything(model, optimizer), expected)


def test_layers_stay_frozen_or_not(tmp_path):
    def thaw(run):
        if run.epoch == 1:
            run.model.unfreeze()

    ends = []
    for parts in ([3], [2, 3]):
        for epochs in parts:
            model, data, optimizer = setting()
            model[0].freeze()
            target = tmp_path / f"{len(parts)}.safetensors"
            fit(model, data, optimizer, epochs=epochs, callbacks=[thaw], checkpoint=target, progress=False)
        ends.append(everything(model, optimizer))
    assert_same_run(*ends)


def test_a_loss_that_is_not_a_number_is_no_best():
    model, data, optimizer = setting()
    x, t = toy(40, seed=5)
    calls = 0

    def loss(prediction, target):
        nonlocal calls
        value, grad = gradfuse.cross_entropy(prediction, target)
        calls += not model.training
        return (value * np.float32(np.nan) if calls == 1 and not model.training else value), grad

    history = fit(
        model, data, optimizer, epochs=6, loss=loss, metrics={}, validation=(x, t), patience=3, progress=False
    )
    assert math.isnan(history["val_loss"][0])
    assert len(history) > 4


def test_a_checkpoint_of_another_run_is_refused(tmp_path):
    path = tmp_path / "run.safetensors"
    model, data, optimizer = setting()
    fit(model, data, optimizer, epochs=1, checkpoint=path, progress=False)
    other = nn.Sequential(nn.Linear(6, 3), rng=0)
    with pytest.raises(ValueError, match="checkpoint must be of 0 generators, got 1"):
        fit(other, data, gradfuse.optim.SGD(other.parameters()), epochs=2, checkpoint=path, progress=False)
    model, _, optimizer = setting(nonfinite="skip")
    before = everything(model, optimizer)
    with pytest.raises(ValueError, match="loss_scale must be None, as in the checkpoint, got 'dynamic'"):
        fit(model, data, optimizer, epochs=2, checkpoint=path, loss_scale="dynamic", progress=False)
    save(tmp_path / "tree.safetensors", {"weights": np.ones(3)})
    with pytest.raises(ValueError, match="checkpoint must be of a training run, got a state of weights"):
        fit(model, data, optimizer, epochs=2, checkpoint=tmp_path / "tree.safetensors", progress=False)
    assert_same_run(everything(model, optimizer), before)
    model, _, optimizer = setting()
    before = everything(model, optimizer)
    with pytest.raises(ValueError, match="Batches"):
        fit(model, Batches(*toy(99)), optimizer, epochs=2, checkpoint=path, progress=False)
    assert_same_run(everything(model, optimizer), before)


KILLED = """
import sys
sys.path.insert(0, {tests!r})
from test_training import *
model, data, optimizer = setting(steps=300)
fit(model, data, optimizer, epochs=30, validation=toy(40, seed=5), checkpoint={path!r}, checkpoint_every=1,
    progress=False, loss_scale=None)
save({path!r} + ".end", everything(model, optimizer)[0])
"""


def test_killed_at_random_moments(tmp_path):
    """SIGKILL twenty times: never an unreadable checkpoint, and the end is that of the uninterrupted run."""
    model, data, optimizer = setting(steps=300)
    fit(model, data, optimizer, epochs=30, validation=toy(40, seed=5), progress=False)
    path = tmp_path / "run.safetensors"
    program = KILLED.format(tests=str(Path(__file__).parent), path=str(path))
    here = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    rng = np.random.default_rng()
    kills = steps = 0
    end = Path(f"{path}.end")
    while not end.exists():
        process = subprocess.Popen([sys.executable, "-c", program], env=here, stderr=subprocess.PIPE)
        if kills < 20:
            deadline = time.monotonic() + 60
            before = steps
            while process.poll() is None and time.monotonic() < deadline:  # until it is at work
                if path.exists() and load(path)["step"] > before:
                    break
            time.sleep(rng.uniform(0, 0.03))
            process.send_signal(signal.SIGKILL)
            kills += 1
        error = process.communicate()[1].decode()
        assert "Error" not in error, error
        if path.exists():
            steps = load(path)["step"]
    assert kills == 20
    arrays = everything(model, optimizer)[0]
    for name, array in load(end).items():
        assert_identical(array, np.asarray(arrays[name]))


# ---- transfer and pre-training


def test_transfer():
    source = nn.Sequential(nn.Linear(6, 16), nn.BatchNorm(16), nn.ELU(), nn.Linear(16, 5), rng=1)
    target = nn.Sequential(nn.Linear(6, 16), nn.BatchNorm(16), nn.ELU(), nn.Linear(16, 3), rng=2)
    head = target[3].weight.data.copy()
    taken = transfer(source, target)
    assert taken == ["0.weight", "0.bias", "1.weight", "1.bias", "1.running_mean", "1.running_var", "1.num_batches"]
    assert_identical(target[0].weight.data, source[0].weight.data)
    assert_identical(target[3].weight.data, head)
    assert transfer(source, target, where=lambda name: name.startswith("0.")) == ["0.weight", "0.bias"]


def test_rates_by_group():
    model = net()
    optimizer = gradfuse.optim.SGD(groups([(model[0], {"lr": 0.0}), (model[4], {"lr": 0.1})]), lr=1.0)
    below, above = model[0].weight.data.copy(), model[4].weight.data.copy()
    fit(model, Batches(*toy()), optimizer, epochs=1, progress=False)
    assert_identical(model[0].weight.data, below)
    assert (model[4].weight.data != above).any()
    with pytest.raises(ValueError, match=r"groups: layers\[1\] must share no parameter"):
        groups([(model, {}), (model[0], {})])
    with pytest.raises(ValueError, match=r"groups: layers\[0\] must have parameters, got ELU"):
        groups([(nn.ELU(), {})])


@pytest.mark.parametrize("noise", [0.0, 0.3])
def test_layer_wise_pretraining(noise):
    rng = np.random.default_rng(0)
    x = (rng.normal(size=(300, 3)) @ rng.normal(size=(3, 12))).astype(np.float32)
    model = nn.Sequential(nn.Linear(12, 8), nn.Tanh(), nn.Linear(8, 5), nn.Tanh(), nn.Linear(5, 2), rng=0)
    before = model.state_dict()
    histories = pretrain_layers(model, x, epochs=30, noise=noise, progress=False)
    assert len(histories) == 2
    for history in histories:
        assert history["loss"][-1] < 0.6 * history["loss"][0]
    after = model.state_dict()
    changed = [name for name in before if not np.array_equal(before[name], after[name])]
    assert changed == ["0.weight", "0.bias", "2.weight", "2.bias"]
    y = model(x)
    model.backward(np.ones_like(y))  # it is as usable as before
    flat = nn.Sequential(nn.Flatten(), *model, rng=0, reset=False).eval()
    pretrain_layers(flat, x.reshape(-1, 3, 4), epochs=1, progress=False)
    assert not any(layer.training for _, layer in flat.layers())
    with pytest.raises(ValueError, match="noise must be a number in"):
        pretrain_layers(model, x, epochs=1, noise=1.0)
    with pytest.raises(ValueError, match="at least two Linear"):
        pretrain_layers(nn.Sequential(nn.Linear(2, 2)), x, epochs=1)


# ---- presets


@pytest.mark.parametrize("optimizer", ["nadam", "rmsprop", "nesterov"])
@pytest.mark.parametrize(
    "make",
    [
        lambda o: nn.mlp(6, [16, 16, 16], 3, dropout=0.1, l2=1e-4, optimizer=o, rng=0),
        lambda o: nn.self_normalizing_mlp(6, [16, 16], 3, dropout=0.05, optimizer=o, rng=0),
    ],
)
def test_presets_learn(make, optimizer):
    preset = make(optimizer)
    history = preset.fit(Batches(*toy(), batch_size=16), epochs=25, validation=toy(seed=5), progress=False)
    assert max(history["val_accuracy"]) > 0.85


def kinds(model):
    return [type(layer).__name__ for layer in model]


def test_what_presets_are_made_of():
    assert kinds(nn.mlp(6, [5, 4], 3).model) == ["Linear", "Activation", "Linear", "Activation", "Linear"]
    deep = nn.mlp(6, [5, 4, 4], 3, dropout=0.1).model
    assert kinds(deep) == 3 * ["Linear", "BatchNorm", "Activation", "Dropout"] + ["Linear"]
    assert deep[0].bias is None
    assert deep[-1].bias is not None
    assert kinds(nn.self_normalizing_mlp(6, [5], 3, dropout=0.1).model) == [
        "Linear",
        "Activation",
        "AlphaDropout",
        "Linear",
    ]
    wide = nn.self_normalizing_mlp(500, [600], 3, rng=0).model
    assert wide[0].weight.data.var() == pytest.approx(1 / 500, rel=0.02)
    with pytest.raises(ValueError, match="sizes must be an integer >= 1, got 0"):
        nn.mlp(6, [0], 3)
    with pytest.raises(ValueError, match="optimizer must be 'nadam' or 'rmsprop' or 'nesterov', got 'adam'"):
        nn.mlp(6, [3], 3, optimizer="adam")


def test_presets_follow_growing_batches():
    preset = nn.mlp(6, [16], 3, rng=0)
    data = Batches(*toy(), batch_size=schedules.growing_batch(10, 2, 1))
    history = preset.fit(data, epochs=4, progress=False)
    assert history["lr"][-1] < 1e-6


def test_low_latency():
    preset = nn.low_latency_mlp(6, [16, 16], 3, rng=0)
    x, t = toy()
    preset.fit(Batches(x, t), epochs=3, progress=False)
    fast = nn.deploy(preset.model)
    assert kinds(fast) == ["Linear", "Activation", "Linear", "Activation", "Linear"]
    np.testing.assert_allclose(fast(x), preset.model.eval()(x), rtol=1e-4, atol=1e-5)
    half = nn.deploy(preset.model, "float16")
    np.testing.assert_allclose(half(x.astype(np.float16)), fast(x), rtol=0.05, atol=0.05)


def test_sparse():
    x, t = toy()
    shares = []
    for l1 in (0.0, 0.05):
        preset = nn.sparse_mlp(6, [16, 16], 3, l1=l1, rng=0)
        preset.fit(Batches(x, t), epochs=40, progress=False)
        shares.append(nn.prune(preset.model, 0.01))
        assert nn.sparsity(preset.model) == shares[-1]
    assert evaluate(preset.model, (x, t), metrics={"accuracy": accuracy})["accuracy"] > 0.8
    assert shares[1] > shares[0] + 0.2
