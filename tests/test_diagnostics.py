"""The diagnoses: known faults are found and named, what is healthy is called so, and models stay as they are."""

import copy
import math
import sys

import numpy as np
import pytest

import gradfuse
from gradfuse import diagnostics, nn
from gradfuse.data import Batches
from gradfuse.diagnostics import (
    Watch,
    gradcheck,
    gradcheck_layer,
    initial_loss,
    lr_range_test,
    overfits,
    update_ratios,
)
from gradfuse.optim import SGD, Adam
from gradfuse.training import fit

CLASSES = 5


@pytest.fixture
def x(rng):
    return rng.standard_normal((64, 12)).astype(np.float32)


@pytest.fixture
def labels(rng):
    return rng.integers(0, CLASSES, 64)


def mlp(activation=nn.ReLU, depth=2, width=32, *between, rng=0, **options):
    layers, n = [], 12
    for _ in range(depth):
        layers += [nn.Linear(n, width, **options), *copy.deepcopy(between), activation()]
        n = width
    return nn.Sequential(*layers, nn.Linear(n, CLASSES, **options), rng=rng)


def everything():
    """A model with all that is joined into fused calls, nested, and random."""
    body = nn.Sequential(nn.Linear(16, 16), nn.BatchNorm(16), nn.Tanh(), nn.Dropout(0.2), nn.Linear(16, 16))
    return nn.Sequential(
        nn.Linear(12, 16, bias=False),
        nn.BatchNorm(16),
        nn.ReLU(),
        nn.Dropout(0.3),
        nn.Residual(body, activation=nn.SiLU()),
        nn.Linear(16, 16),
        nn.RReLU(),
        nn.AlphaDropout(0.1),
        nn.Linear(16, CLASSES),
        rng=1,
    )


def state_of(model):
    """All that a diagnosis could change, bit for bit."""
    arrays = {name: (a.dtype, a.tobytes()) for name, a in model.state_dict().items()}
    gradients = [None if p.grad is None else p.grad.tobytes() for p in model.parameters()]
    modes = [(layer.training, layer.frozen, sorted(vars(layer))) for _, layer in model.layers()]
    stages = [tuple(map(id, layer._stages)) for _, layer in model.layers() if isinstance(layer, nn.Sequential)]
    rates = [layer.p for _, layer in model.layers() if isinstance(layer, nn.Dropout)]
    return arrays, gradients, modes, stages, rates, [g.state_dict() for g in model.generators()]


def train(model, x, labels, steps=1, lr=0.05):
    optimizer = SGD(model.parameters(), lr=lr)
    model.train()
    for _ in range(steps):
        loss, grad = gradfuse.cross_entropy(model(x), labels)
        model.backward(grad, input_grad=False)
        optimizer.step()
        model.zero_grad()
    return float(loss)


def log_sum_exp_loss(logits, labels):
    logits = np.float64(logits)
    return np.mean(np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(len(labels)), labels])


# -- the loss at the start


def test_initial_loss_of_a_model_that_knows_nothing_is_log_classes(x, labels):
    model = nn.Sequential(nn.Linear(12, CLASSES, init=gradfuse.init.zeros()))
    report = initial_loss(model, x, labels)
    assert report.loss == pytest.approx(math.log(CLASSES), rel=1e-6)
    assert report.expected == pytest.approx(math.log(CLASSES), rel=1e-6)
    assert report
    assert str(report) == "As expected: the loss is 1.61, that of a model that knows nothing 1.61."


@pytest.mark.parametrize("activation", [nn.ReLU, nn.Tanh, nn.Sigmoid, nn.GELU])
def test_initial_loss_is_that_of_the_forward(x, labels, activation):
    model = mlp(activation)
    report = initial_loss(model, x, labels)
    assert report.loss == pytest.approx(log_sum_exp_loss(model.eval()(x), labels), rel=1e-5)
    assert report.ok


def test_initial_loss_uses_the_batch_in_batch_norm_and_drops_nothing(x, labels):
    plain = mlp(nn.ReLU, 2, 32, nn.BatchNorm(32))
    x = 1000 * x + 50
    expected = log_sum_exp_loss(copy.deepcopy(plain)(x), labels)
    assert expected < 4
    layers = list(plain)
    for dropout in (nn.Dropout(0.9), nn.MCDropout(0.9), nn.AlphaDropout(0.9)):
        model = nn.Sequential(*layers[:3], dropout, *layers[3:], reset=False)
        assert initial_loss(model, x, labels).loss == pytest.approx(expected, rel=1e-5)


def test_initial_loss_finds_large_weights_training_and_what_is_not_finite(x, labels):
    model = mlp()
    model[4].weight.data *= 20
    report = initial_loss(model, x, labels)
    assert not report
    assert report.verdict().startswith("Too high: the loss is ")
    assert report.verdict().endswith("smaller weights for the last layer.")

    model = mlp()
    train(model, x, labels, 300, lr=0.5)
    report = initial_loss(model, x, labels)
    assert not report
    assert report.verdict().startswith("Too low: the loss is ")

    x[3, 4] = np.inf
    report = initial_loss(mlp(), x, labels)
    assert not report
    assert report.verdict().startswith("Not finite: the loss is nan, that of a model that knows nothing 1.61;")


def test_initial_loss_of_other_losses(x, rng):
    model = nn.Sequential(nn.Linear(12, 1, rng=3))
    target = rng.integers(0, 2, (64, 1)).astype(np.float32)
    report = initial_loss(model, x, target, nn.binary_cross_entropy_with_logits)
    assert report.expected == pytest.approx(math.log(2), rel=1e-6)
    report = initial_loss(model, x, 3 * target, gradfuse.mse_loss)
    assert report.expected == pytest.approx(float((9 * target**2).mean()), rel=1e-6)
    assert initial_loss(model, x, target, gradfuse.mse_loss, 17).expected == math.log(17)


def test_the_tolerance_of_the_initial_loss():
    bounds = {loss: diagnostics.InitialLoss(loss, 2.0, 0.25).ok for loss in (0.99, 1.0, 2.25, 2.26, math.nan, math.inf)}
    assert bounds == {0.99: False, 1.0: True, 2.25: True, 2.26: False, math.nan: False, math.inf: False}


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"classes": 1}, ValueError, "initial_loss: classes must be an integer >= 2, got 1"),
        ({"classes": True}, TypeError, "initial_loss: classes must be an integer >= 2, got True"),
        ({"tolerance": 0}, ValueError, "initial_loss: tolerance must be a finite number > 0, got 0"),
        ({"tolerance": "1"}, TypeError, "initial_loss: tolerance must be a finite number > 0, got '1'"),
    ],
)
def test_errors_of_initial_loss(x, labels, options, error, message):
    with pytest.raises(error, match=f"^{message}$"):
        initial_loss(mlp(), x, labels, **options)


# -- a few samples by heart


def test_sound_models_overfit(x, labels):
    for model in (mlp(), mlp(nn.Tanh, 8), everything()):
        report = overfits(model, x, labels)
        assert report
        assert report.samples == 32
        assert report.losses[-1] <= 0.1 < min(report.losses[:-1])
        assert str(report) == (
            f"It learns 32 samples by heart: the loss goes from {report.losses[0]:.3g} to {report.losses[-1]:.3g} in "
            f"{len(report.losses) - 1} steps."
        )


def test_a_dead_model_does_not_overfit(x, labels):
    model = mlp()
    model[0].bias.data[:] = -100
    report = overfits(model, x, labels, steps=7)
    assert not report
    assert len(report.losses) == 8
    assert report.verdict().startswith("It does not learn 32 samples by heart: the loss goes from ")
    assert " in 7 steps; look for " in report.verdict()


def test_overfits_takes_pairs_of_samples_from_everywhere(x, labels):
    x[:, 0] = labels  # which pairs can be told by
    seen = []

    def loss(prediction, target):
        seen.append(target)
        return gradfuse.cross_entropy(prediction, target)

    class Spy(nn.Flatten):
        def forward(self, x):
            np.testing.assert_array_equal(x[:, 0], chosen)
            return super().forward(x)

    chosen = labels[np.random.default_rng(9).permutation(64)[:20]]
    report = overfits(nn.Sequential(Spy(), mlp()), x, labels, loss=loss, samples=20, steps=2, rng=9)
    assert report.samples == 20
    np.testing.assert_array_equal(seen[0], chosen)
    assert overfits(mlp(), x[:3], labels[:3], samples=20).samples == 3


def test_overfits_with_an_optimizer_of_ones_own(x, labels):
    model, reference = mlp(), mlp()
    few = np.random.default_rng(0).permutation(64)[:32]
    losses = [train(reference, x[few], labels[few], lr=0.2) for _ in range(5)]
    report = overfits(model, x, labels, lambda params: SGD(params, lr=0.2), steps=4)
    assert list(report.losses) == losses


def test_overfits_switches_dropout_off_unless_told(x, labels):
    layers = list(mlp())
    model = nn.Sequential(*layers[:4], nn.Dropout(1.0), layers[4], reset=False)
    assert overfits(model, x, labels)
    assert not overfits(model, x, labels, dropout=True, steps=50)


def test_what_else_overfits_finds(x, labels):
    report = overfits(mlp(), x, labels, lambda params: SGD(params, lr=1e30))
    assert not report
    assert report.verdict().startswith("Not finite: the loss goes from ")
    model = mlp()
    train(model, x, labels, 500, lr=0.5)
    report = overfits(model, x, labels)
    assert not report
    assert len(report.losses) == 1
    assert report.verdict().startswith("Nothing to learn: the loss is ")
    assert overfits(model, x, labels, goal=report.losses[0] / 2)


def test_overfits_takes_no_step_on_an_infinite_loss(x, labels):
    report = overfits(mlp(), x, labels, loss=lambda prediction, target: (np.float32(np.inf), None))
    assert report.losses == (math.inf,)
    assert str(report).startswith("Not finite: the loss goes from inf to inf in 0 steps;")


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"samples": 0}, ValueError, "overfits: samples must be an integer >= 1, got 0"),
        ({"steps": 2.0}, TypeError, "overfits: steps must be an integer >= 1, got 2.0"),
        ({"goal": -1}, ValueError, "overfits: goal must be a finite number > 0, got -1"),
        (
            {"make_optimizer": 3},
            TypeError,
            "overfits: make_optimizer must be a function of the parameters, such as gradfuse.optim.Adam, got int",
        ),
    ],
)
def test_errors_of_overfits(x, labels, options, error, message):
    with pytest.raises(error, match=f"^{message}$"):
        overfits(mlp(), x, labels, **options)


@pytest.mark.parametrize(("n", "m"), [(64, 63), (0, 0)])
def test_overfits_wants_a_target_for_each_sample(x, labels, n, m):
    with pytest.raises(ValueError, match=f"same number of samples, got {n} and {m}$"):
        overfits(mlp(), x[:n], labels[:m])


# -- a range of rates


def test_the_range_test_is_gradient_descent_at_growing_rates(rng):
    x, target = rng.standard_normal((20, 3)), rng.standard_normal((20, 2))
    model = nn.Sequential(nn.Linear(3, 2, bias=False, dtype="float64", rng=0))
    report = lr_range_test(
        model, (x, target), SGD, loss=gradfuse.mse_loss, min_lr=1e-3, max_lr=100.0, steps=60, smoothing=0.7
    )

    w = model[0].weight.data.copy()
    losses, smoothed = [], []
    for step in range(60):
        error = x @ w - target
        losses.append((error**2).mean())
        weights = 0.7 ** np.arange(step, -1, -1)
        smoothed.append((weights * losses).sum() / weights.sum())
        if smoothed[-1] > 4 * losses[0]:
            break
        w -= 1e-3 * 1e5 ** (step / 59) * 2 * x.T @ error / error.size
    assert 20 < len(losses) < 60
    np.testing.assert_allclose(report.losses, losses, rtol=1e-9)
    np.testing.assert_allclose(report.smoothed, smoothed, rtol=1e-9)
    np.testing.assert_allclose(report.rates, 1e-3 * 1e5 ** (np.arange(len(losses)) / 59), rtol=1e-12)

    lowest = report.rates[int(np.argmin(smoothed))]
    assert report.suggestion == lowest / 10
    assert report
    assert str(report) == f"A rate of {lowest / 10:.2g}: a tenth of {lowest:.2g}, where the loss is lowest."


@pytest.mark.parametrize("optimizer", [SGD, Adam])
def test_the_suggested_rate_trains(x, labels, optimizer):
    model = mlp()
    report = lr_range_test(model, Batches(x, labels, batch_size=16), optimizer)
    assert report
    assert train(model, x, labels, 60, lr=lr_range_test(model, (x, labels), SGD).suggestion) < 0.7 * report.losses[0]


def test_the_range_test_goes_through_data_again(x, labels):
    seen = []

    def loss(prediction, target):
        seen.append(int(target[0]))
        return gradfuse.cross_entropy(prediction, target)

    batches = [(x[:8], np.full(8, k)) for k in range(3)]
    lr_range_test(mlp(), batches, SGD, loss=loss, max_lr=1e-5, steps=8)
    assert seen == [0, 1, 2, 0, 1, 2, 0, 1]
    with pytest.raises(ValueError, match=r"^lr_range_test: data must hold batches, and again when they are over, got"):
        lr_range_test(mlp(), iter(batches), SGD, max_lr=1e-5, steps=8)
    assert len(lr_range_test(mlp(), iter(batches), SGD, max_lr=1e-5, steps=3).rates) == 3


@pytest.mark.parametrize("prefetch", [0, 2])
def test_the_range_test_leaves_the_place_of_batches(x, labels, prefetch):
    data = Batches(x, labels, batch_size=8, prefetch=prefetch)
    for _ in data:
        if data.position == 3:
            break
    place, expected = data.state_dict(), [t.tolist() for _, t in copy.copy(data)]
    lr_range_test(mlp(), data, SGD, steps=30, max_lr=1e-3)
    assert data.state_dict() == place
    assert [t.tolist() for _, t in data] == expected


def test_the_range_test_sets_the_rate_of_every_group(x, labels):
    made = []

    def make(params):
        made.append(SGD([{"params": params[:2]}, {"params": params[2:], "lr": 1.0}]))
        return made[0]

    report = lr_range_test(mlp(), (x, labels), make, min_lr=1e-5, max_lr=1e-4, steps=5)
    assert [group["lr"] for group in made[0].groups] == [report.rates[-1]] * 2
    assert report.rates == pytest.approx([1e-5 * 10 ** (k / 4) for k in range(5)])


def test_what_else_the_range_test_finds(x, labels):
    report = lr_range_test(mlp(), (x, labels), SGD, max_lr=1e-5)
    assert not report
    assert report.suggestion is None
    assert str(report) == "No rate from 1e-06 to 1e-05 lowers the loss: see whether the model overfits a few samples."
    report = lr_range_test(mlp(), (x, labels), SGD, max_lr=0.1)
    assert not report
    assert report.suggestion == pytest.approx(0.01)
    assert str(report) == "The loss is still falling at the highest rate, 0.1: try higher ones."
    x[0, 0] = np.nan
    report = lr_range_test(mlp(), (x, labels), SGD)
    assert not report
    assert len(report.rates) == 1
    assert str(report) == "The loss is not finite before any step: look at the inputs and the weights."
    assert len(report.plot().axes[0].lines) == 2


@pytest.mark.parametrize(
    "losses",
    [[2.0, 7.9, 8.0, 1.0, 8.1], [2.0, 1.0, math.inf], [2.0, 1.0, math.nan], [-2.0, -3.0, 3.9, 4.1]],
    ids=["diverged", "inf", "nan", "negative"],
)
def test_the_range_test_ends_where_the_loss_diverges(x, labels, losses):
    rest = iter([*losses, 0.0])
    report = lr_range_test(mlp(), (x, labels), SGD, loss=lambda y, _: (next(rest), np.zeros_like(y)), smoothing=0)
    np.testing.assert_array_equal(report.losses, losses)
    np.testing.assert_array_equal(report.smoothed, losses)
    assert report.suggestion == report.rates[losses.index(min(losses))] / 10
    assert report


def test_the_range_test_is_drawn(x, labels, tmp_path):
    report = lr_range_test(mlp(), (x, labels), SGD)
    figure = report.plot(tmp_path / "rates.png")
    assert (tmp_path / "rates.png").stat().st_size > 1000
    (axes,) = figure.axes
    raw, smoothed, suggestion = axes.lines
    np.testing.assert_array_equal(raw.get_ydata(), report.losses)
    np.testing.assert_array_equal(smoothed.get_ydata(), report.smoothed)
    np.testing.assert_array_equal(smoothed.get_xdata(), report.rates)
    assert list(suggestion.get_xdata()) == [report.suggestion] * 2
    assert axes.get_xscale() == "log"
    assert axes.get_title() == report.verdict()

    diverged = diagnostics.LRRange((1e-3, 1e-2, 1e-1), (2.0, 1.0, 1e9), (2.0, 1.0, 1e8))
    bottom, top = diverged.plot().axes[0].get_ylim()
    assert 0 < bottom < 1
    assert 2 < top < 4


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"min_lr": 0.0}, ValueError, "min_lr must be a finite number > 0, got 0.0"),
        ({"max_lr": "1"}, TypeError, "max_lr must be a finite number > 0, got '1'"),
        ({"min_lr": 1.0, "max_lr": 1.0}, ValueError, "max_lr must be greater than min_lr, 1.0, got 1.0"),
        ({"steps": 1}, ValueError, "steps must be an integer >= 2, got 1"),
        ({"smoothing": 1.0}, ValueError, r"smoothing must be a number in \[0, 1\), got 1.0"),
        ({"data": []}, ValueError, "data must hold batches, and again when they are over, got none"),
        (
            {"make_optimizer": SGD([np.zeros(3, np.float32)])},
            TypeError,
            "make_optimizer must be a function of the parameters, such as gradfuse.optim.Adam, got SGD",
        ),
    ],
)
def test_errors_of_the_range_test(x, labels, options, error, message):
    with pytest.raises(error, match=f"^lr_range_test: {message}$"):
        lr_range_test(**{"model": mlp(), "data": (x, labels), "make_optimizer": SGD, **options})


def test_numbers_of_numpy_are_numbers(x, labels):
    report = lr_range_test(mlp(), (x, labels), SGD, min_lr=np.float32(1e-3), max_lr=np.int64(1), steps=np.int32(4))
    assert report.rates[-1] == pytest.approx(1)
    assert overfits(mlp(), x, labels, samples=np.int64(4), goal=np.float32(0.5))


# -- the size of updates


def test_update_ratios_are_norms_of_changes_over_norms(rng):
    model = mlp(nn.Tanh, 3)
    expected = {}

    def step():
        for k in (0, 2, 4, 6):
            w = model[k].weight.data
            change = rng.standard_normal(w.shape).astype(np.float32) * 10.0 ** -(1 + k / 2)
            after = w + change
            expected[f"{k}.weight"] = math.sqrt(((after - np.float64(w)) ** 2).sum() / (np.float64(w) ** 2).sum())
            w[...] = after
        for p in model.parameters():
            if p.data.ndim == 1:
                p.data += 100

    report = update_ratios(model, step)
    assert report.ratios == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("factor", "verdict"),
    [
        (1.0, "Too low: params[0] 0.0e+00; see whether gradients arrive, or raise the learning rate."),
        (1 + 5e-5, "Too low: params[0] 5.0e-05; see whether gradients arrive, or raise the learning rate."),
        (1 + 5e-4, "Low: params[0] 5.0e-04; the learning rate may be raised."),
        (1 + 1.1e-3, "Healthy: params[0] 1.1e-03; the learning rate suits them."),
        (1 - 9e-3, "Healthy: params[0] 9.0e-03; the learning rate suits them."),
        (1 + 5e-2, "High: params[0] 5.0e-02; the learning rate may be lowered."),
        (-1.0, "Too high: params[0] 2.0e+00; lower the learning rate."),
        (np.nan, "Too high: params[0] inf; lower the learning rate."),
        (np.inf, "Too high: params[0] inf; lower the learning rate."),
    ],
)
def test_what_update_ratios_mean(rng, factor, verdict):
    w = rng.standard_normal((8, 8)) + 10  # no zeros, for inf
    optimizer = SGD([w, np.ones(3)])

    def step():
        w[...] *= factor

    report = update_ratios(optimizer, step)
    assert report.verdict() == verdict
    assert report.ok == verdict.startswith("Healthy")
    assert str(report).splitlines()[-1] == verdict
    assert str(report).splitlines()[0].startswith("params[0]  ")


def test_update_ratios_of_a_real_step(x, labels):
    model, calls = mlp(), []
    optimizer = SGD(model.parameters(), lr=0.02)
    before = model.state_dict()
    _, grad = gradfuse.cross_entropy(model(x), labels)
    model.backward(grad)

    def step():
        calls.append(None)
        optimizer.step()

    by_name, expected = update_ratios(model, step), {}
    for k in (0, 2, 4):
        w, g = before[f"{k}.weight"].astype(np.float64), model[k].weight.grad
        expected[f"{k}.weight"] = 0.02 * np.linalg.norm(g) / np.linalg.norm(w)
    assert by_name.ratios == pytest.approx(expected, rel=1e-4)
    assert len(calls) == 1
    assert optimizer.t == 1
    assert list(update_ratios(optimizer, optimizer.step).ratios) == ["params[0]", "params[2]", "params[4]"]


def test_update_ratios_leave_out_what_is_frozen_or_zero():
    model = mlp(nn.ReLU, 3)
    model[2].freeze()
    model[4].weight.data[...] = 0
    assert list(update_ratios(model, lambda: None).ratios) == ["0.weight", "6.weight"]


def test_many_ratios_are_shortened():
    verdict = update_ratios(mlp(nn.ReLU, 6), lambda: None).verdict()
    assert verdict.startswith("Too low: 0.weight 0.0e+00, 2.weight 0.0e+00, 4.weight 0.0e+00 and 4 more; ")


def test_errors_of_update_ratios():
    with pytest.raises(TypeError, match=r"^update_ratios: model must be a layer or an optimizer, got list$"):
        update_ratios([], lambda: None)
    with pytest.raises(ValueError, match=r"^update_ratios: model must have weights of two or more dimensions that are"):
        update_ratios(nn.BatchNorm(3), lambda: pytest.fail("no step is to be taken"))


# -- activity


def test_watched_figures_are_those_of_the_layers(x, labels):
    model = nn.Sequential(nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 6), nn.Sigmoid(), nn.Linear(6, CLASSES), rng=0)
    model[0].bias.data[:3] = -1000
    model[2].weight.data *= 10
    with Watch(model) as watch:
        _, grad = gradfuse.cross_entropy(model(x), labels)
        model.backward(grad)

    w, b = ([layer[name].data for layer in map(vars, list(model)[::2])] for name in ("weight", "bias"))
    a = x @ w[0] + b[0]
    r = np.maximum(a, 0)
    c = r @ w[1] + b[1]
    s = 1 / (1 + np.exp(-c))
    d = grad
    ds = d @ w[2].T
    dc = ds * s * (1 - s)
    dr = dc @ w[1].T
    da = dr * (a > 0)
    names = ["0 Linear", "1 ReLU", "2 Linear", "3 Sigmoid", "4 Linear"]
    for name, y, g in zip(names, (a, r, c, s, s @ w[2] + b[2]), (da, dr, dc, ds, d), strict=True):
        for figure, value in (
            ("mean", y.mean()),
            ("std", y.std()),
            ("grad_norm", np.linalg.norm(g)),
            ("grad_std", g.std()),
        ):
            assert watch.figures[figure][name][0] == pytest.approx(value, rel=2e-4, abs=1e-6), (name, figure)
    dead = np.mean([not r[:, unit].any() for unit in range(8)])
    assert dead >= 3 / 8
    assert watch.figures["dead"] == {"1 ReLU": {0: dead}, "3 Sigmoid": {0: 0.0}}
    saturated = ((s < 0.015) | (s > 0.985)).mean()
    assert 0.1 < saturated < 0.9
    assert watch.figures["saturated"] == {"3 Sigmoid": {0: pytest.approx(saturated)}}


def test_half_precision_is_measured_in_float64():
    layer = nn.ReLU()
    with Watch(layer) as watch:
        layer(np.full((2, 3), 6e4, np.float16))
        layer.backward(np.full((2, 3), 300, np.float16))
    assert watch.figures["mean"]["ReLU"][0] == np.float16(6e4)
    assert watch.figures["grad_norm"]["ReLU"][0] == pytest.approx(300 * math.sqrt(6))


def test_units_are_channels_of_images():
    model = nn.Sequential(nn.Conv2D(1, 4, 3, init=gradfuse.init.zeros()), nn.ReLU())
    model[0].bias.data[:] = -1, 1, -1, -1
    with Watch(model) as watch:
        model(np.zeros((2, 1, 5, 5), np.float32))
    assert watch.figures["dead"] == {"1 ReLU": {0: 0.75}}


@pytest.mark.parametrize(
    ("activation", "near", "far"),
    [
        (nn.Sigmoid(), 4.5, 4.0),
        (nn.Tanh(), 2.15, 2.0),
        (nn.Softsign(), 40.0, 30.0),
        (nn.Hardtanh(-2.0, 3.0), 2.95, 2.9),
        (nn.Hardsigmoid(), 2.95, 2.85),
    ],
)
def test_saturation_is_found_near_both_bounds(activation, near, far):
    for value, share in ((near, 1.0), (far, 0.0)):
        with Watch(activation) as watch:
            activation(np.full((3, 2), value))
        assert watch.figures["saturated"] == {type(activation).__name__: {0: share}}
    with Watch(activation) as watch:
        activation(np.full((3, 2), -50.0))
    assert watch.typical("saturated") == {type(activation).__name__: 1.0}


@pytest.mark.parametrize(
    "name", sorted(set(gradfuse.activations()) - {"sigmoid", "tanh", "softsign", "hardtanh", "hardsigmoid"})
)
def test_other_activations_do_not_saturate(name, x):
    layer = nn.Activation(name)
    with Watch(layer) as watch:
        layer(x)
    assert set(watch.figures) == {"mean", "std", "dead"}


def test_steps_are_counted_in_training_and_every_so_many_are_recorded(x, labels):
    model = mlp()
    with Watch(model, every=3) as watch:
        train(model, x, labels, 4)
        model.eval()(x)
        model.train()
        train(model, x, labels, 4)
    model(x)
    assert watch.steps == 8
    for figure in ("mean", "std", "dead", "grad_norm", "grad_std"):
        for values in watch.figures[figure].values():
            assert list(values) == [0, 3, 6]
    with watch:
        train(model, x, labels, 3)
    assert list(watch.figures["mean"]["0 Linear"]) == [0, 3, 6, 9]


def test_nested_layers_are_watched_by_their_names(x):
    model = everything()
    with Watch(model) as watch:
        model(x)
    assert set(watch.figures["mean"]) == {
        "0 Linear",
        "1 BatchNorm",
        "2 ReLU",
        "3 Dropout",
        "4 Residual",
        "4.body.0 Linear",
        "4.body.1 BatchNorm",
        "4.body.2 Tanh",
        "4.body.3 Dropout",
        "4.body.4 Linear",
        "5 Linear",
        "6 RReLU",
        "7 AlphaDropout",
        "8 Linear",
    }
    assert set(watch.figures["dead"]) == {"2 ReLU", "4 Residual", "4.body.2 Tanh"}


def test_a_layer_of_ones_own_is_watched(x):
    class Twice(nn.Layer):
        def __init__(self):
            self.inner = nn.Linear(12, 12, rng=0)

        def forward(self, x):
            return 2 * self.inner(x)

        def backward(self, grad, *, input_grad=True):
            return self.inner.backward(2 * grad, input_grad=input_grad)

    model = Twice()
    with Watch(model) as watch:
        model.backward(np.ones_like(model(x)))
    assert set(watch.figures["grad_norm"]) == {"Twice", "inner Linear"}
    assert watch.gradient_ratios() == {"Twice": 1.0, "inner Linear": pytest.approx(2.0)}


def images(rng):
    body = nn.Sequential(nn.Conv2D(4, 4, 3, padding="same"), nn.BatchNorm(4), nn.ReLU(), nn.Dropout(0.2))
    model = nn.Sequential(
        nn.Conv2D(1, 4, 3, padding=1),
        nn.ReLU(),
        nn.BatchNorm(4),
        nn.Residual(body),
        nn.Flatten(),
        nn.Linear(64, CLASSES),
        rng=0,
    )
    return model, rng.standard_normal((24, 1, 4, 4)).astype(np.float32)


@pytest.mark.parametrize("convolutional", [False, True])
def test_watching_changes_nothing(x, labels, rng, convolutional):
    model = everything()
    if convolutional:
        model, x = images(rng)
    labels = labels[: len(x)]
    plain = copy.deepcopy(model)
    stages = state_of(model)[3]
    with Watch(model, every=2) as watch:
        train(model, x, labels, 5)
    train(plain, x, labels, 5)
    watched, expected = state_of(model), state_of(plain)
    assert watched[3] == stages
    assert watched[:3] + watched[4:] == expected[:3] + expected[4:]
    assert watch.figures
    assert train(model, x, labels) == train(plain, x, labels)


def test_what_was_not_fused_stays_so():
    model = nn.Sequential(mlp().fuse(False), mlp())
    before = state_of(model)
    with Watch(model):
        assert all(len(layer._stages) == len(layer) for _, layer in model.layers() if isinstance(layer, nn.Sequential))
    assert state_of(model) == before


def test_watching_ends_with_an_exception(x):
    model = everything().eval()
    before = state_of(model)
    with pytest.raises(ValueError, match="Linear: x must have shape"), Watch(model):
        model(x[:, :5])
    assert state_of(model) == before
    model(x)


def test_a_watch_that_cannot_begin_changes_nothing(x, monkeypatch):
    model = everything()
    before = state_of(model)
    monkeypatch.setattr(nn.Sequential, "fuse", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        Watch(model).__enter__()
    monkeypatch.undo()
    assert state_of(model) == before


def test_a_model_is_watched_once_at_a_time(x):
    model = everything()
    stages = state_of(model)[3]
    with Watch(model) as watch:
        with pytest.raises(RuntimeError, match=r"^Watch: model must not be watched already, got one that is$"):
            Watch(model[4]).__enter__()
        model(x)
    assert len(watch.figures["mean"]) == 14
    assert state_of(model)[3] == stages
    assert not any("forward" in vars(layer) for _, layer in model.layers())


def test_copies_of_a_watched_model_are_their_own(x, labels):
    model = everything()
    with Watch(model, every=1) as watch:
        before = state_of(model)[0], state_of(model)[5]
        assert overfits(model, x, labels)
        assert lr_range_test(model, (x, labels), SGD).suggestion
        assert not watch.figures
        assert (state_of(model)[0], state_of(model)[5]) == before
        model(x)
    assert watch.steps == 1


def test_fit_can_be_watched(x, labels):
    model = mlp()
    with Watch(model) as watch:
        fit(model, Batches(x, labels, batch_size=16), SGD(model.parameters(), lr=0.05), epochs=6, progress=False)
    assert watch.steps == 24
    assert list(watch.figures["grad_norm"]["0 Linear"]) == [0, 10, 20]
    assert watch


@pytest.mark.parametrize(
    "model",
    [
        mlp(depth=10),
        mlp(nn.Tanh, 20),
        mlp(nn.SELU, 20),
        mlp(nn.GELU),
        mlp(nn.Sigmoid),
        everything(),
        mlp(nn.ReLU, 8, 32, nn.BatchNorm(32)),
    ],
    ids=["relu", "tanh", "selu", "gelu", "sigmoid", "everything", "batch_norm"],
)
def test_healthy_models_are_called_so(model, x, labels):
    with Watch(model, every=1) as watch:
        train(model, x, labels, 10, lr=0.01)
    assert watch
    assert watch.verdict() == "Healthy: no layer is dead or saturated, and gradients neither vanish nor explode."


def verdict_on(model, x, labels):
    with Watch(model, every=1) as watch, np.errstate(all="ignore"):
        train(model, x, labels, 3, lr=0.0)
    assert not watch
    assert str(watch).endswith(watch.verdict())
    return watch, watch.verdict()


def test_dead_units_are_found(x, labels):
    model = mlp(depth=6)
    for k, bias in enumerate((-100, 1, -100, -100, -100, 1)):
        model[2 * k].bias.data[:] = bias
    model[8].bias.data[:12] = 1
    _, verdict = verdict_on(model, x, labels)
    assert verdict.startswith("Dead units: 100% of 1 ReLU, 100% of 5 ReLU, 100% of 7 ReLU and 1 more; lower the ")
    model = mlp()
    model[2].bias.data[:20] = -100
    watch, verdict = verdict_on(model, x, labels)
    share = watch.typical("dead")["3 ReLU"]
    assert 20 / 32 <= share < 1
    assert verdict == f"Dead units: {share:.0%} of 3 ReLU; lower the learning rate, or use LeakyReLU."


def test_saturation_is_found(x, labels):
    watch, verdict = verdict_on(mlp(nn.Tanh, init=gradfuse.init.normal(3.0)), x, labels)
    shares = sorted(watch.typical("saturated").values(), reverse=True)
    assert verdict.startswith(f"Saturated: {shares[0]:.0%} of ")
    assert verdict.endswith("; draw smaller weights, or put BatchNorm before.")


def test_vanishing_gradients_are_found(x, labels):
    watch, verdict = verdict_on(mlp(nn.Sigmoid, 20, init=gradfuse.init.normal(0.1)), x, labels)
    ratios = watch.gradient_ratios()
    assert ratios["40 Linear"] == 1
    assert 0 < ratios["0 Linear"] < 1e-9
    assert verdict.startswith(f"Vanishing gradients: at 0 Linear their norm is {ratios['0 Linear']:.1e} of that at the")


def test_exploding_gradients_are_found(x, labels):
    watch, verdict = verdict_on(mlp(nn.ReLU, 20, init=gradfuse.init.normal(0.6)), x, labels)
    ratios = watch.gradient_ratios()
    most = max(ratios, key=ratios.get)
    assert ratios[most] > 1e3
    assert verdict == (
        f"Exploding gradients: at {most} their norm is {ratios[most]:.1e} of that at the output; draw smaller weights, "
        "or use BatchNorm."
    )


def test_what_is_not_finite_is_found_where_it_begins(x, labels):
    model = mlp(depth=4)
    model[0].bias.data[:] = -100
    with Watch(model, every=1) as watch, np.errstate(all="ignore"):
        train(model, x, labels, 2)
        model[4].weight.data[:] = np.inf
        train(model, x, labels, 2)
    assert not watch
    assert watch.verdict() == (
        "Not finite: the mean of 4 Linear at step 2; lower the learning rate, or look at the inputs and the weights."
    )


def test_a_gradient_of_zero_at_the_output_says_nothing(x):
    model = mlp()
    with Watch(model) as watch:
        model.backward(np.zeros_like(model(x)))
    assert watch.gradient_ratios() == {}
    assert watch


def test_nothing_recorded_is_not_called_healthy(x):
    model = mlp().eval()
    with Watch(model) as watch:
        model(x)
        model.train()(x[:0])
    assert not watch
    assert str(watch) == "Nothing was recorded: the model made no forward in training mode while it was watched."
    assert watch.plot().axes == []


def test_a_watch_prints_a_table(x, labels):
    model = mlp(depth=1)
    with Watch(model, every=1) as watch:
        train(model, x, labels, 5)
    head, *rows, verdict = str(watch).splitlines()
    assert head.split() == ["mean", "std", "dead", "grad_norm", "grad_std"]
    assert [row[:8] for row in rows] == ["0 Linear", "1 ReLU  ", "2 Linear"]
    middle = sorted(watch.figures["mean"]["0 Linear"].values())[2]
    assert float(rows[0].split()[2]) == pytest.approx(middle, rel=1e-2)
    assert verdict == watch.verdict()


def test_a_watch_is_drawn(x, labels, tmp_path):
    model = mlp(nn.Tanh, 3)
    with Watch(model, every=2) as watch:
        train(model, x, labels, 7)
    figure = watch.plot(tmp_path / "watch.png")
    assert (tmp_path / "watch.png").stat().st_size > 1000
    assert [axes.get_title() for axes in figure.axes] == [
        "mean",
        "standard deviation",
        "dead units",
        "saturated results",
        "norm of the gradient",
        "standard deviation of the gradient",
    ]
    assert [len(axes.lines) for axes in figure.axes] == [7, 7, 3, 3, 7, 7]
    line = figure.axes[4].lines[-1]
    assert line.get_label() == "0 Linear"
    assert list(line.get_xdata()) == [0, 2, 4, 6]
    assert list(line.get_ydata()) == list(watch.figures["grad_norm"]["0 Linear"].values())
    colours = [{line.get_label(): line.get_color() for line in axes.lines} for axes in figure.axes]
    assert all(tuple(colours[0][name]) == tuple(colour) for panel in colours for name, colour in panel.items())
    assert len({tuple(colour) for colour in colours[0].values()}) == 7


def test_dead_and_deep_models_are_drawn(x, labels, tmp_path):
    model = mlp(depth=30)
    model[60].weight.data[:] = 0
    watch, _ = verdict_on(model, x, labels)
    figure = watch.plot(tmp_path / "watch.png")
    assert len(figure.axes[0].lines) == 61
    assert len(figure.legends[0].get_texts()) <= 20


@pytest.mark.parametrize(("every", "error"), [(0, ValueError), (1.0, TypeError), (True, TypeError)])
def test_errors_of_watch(every, error):
    with pytest.raises(error, match=f"^Watch: every must be an integer >= 1, got {every}$"):
        Watch(mlp(), every)


# -- what all leave as it is


@pytest.mark.parametrize(
    "diagnose",
    [
        initial_loss,
        lambda model, x, labels: overfits(model, x, labels, steps=5),
        lambda model, x, labels: overfits(model, x, labels, steps=5, dropout=True),
        lambda model, x, labels: lr_range_test(model, (x, labels), Adam, steps=10),
        lambda model, x, labels: gradcheck_layer(model, x[:4]),
    ],
    ids=["initial_loss", "overfits", "overfits_with_dropout", "lr_range_test", "gradcheck_layer"],
)
def test_models_stay_as_they_are(x, labels, diagnose):
    model = everything()
    train(model, x, labels)
    model.backward(np.ones_like(model(x)))  # gradients that no copy may begin with
    model[5].eval()
    model[4].freeze()
    before, clean = state_of(model), copy.deepcopy(model)
    clean.zero_grad()
    report = diagnose(model, x, labels)
    assert state_of(model) == before
    assert report == diagnose(clean, x, labels)


def test_plots_name_what_is_missing(x, labels, monkeypatch):
    report = lr_range_test(mlp(), (x, labels), SGD)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"^LRRange.plot: matplotlib is needed: pip install gradfuse\[training\]$"):
        report.plot()
    with pytest.raises(ImportError, match=r"^Watch.plot: matplotlib is needed: pip install gradfuse\[training\]$"):
        Watch(mlp()).plot()


# -- gradients


def context_of(forward, backward, **options):
    """f and f_backward of a pair of functions that hand on a context."""
    return (
        lambda *arrays: forward(*arrays, **options)[0],
        lambda grad, *arrays: backward(grad, forward(*arrays, **options)[1]),
    )


@pytest.mark.parametrize("name", gradfuse.activations())
def test_gradients_of_the_activations_are_right(name, rng):
    x = rng.uniform(0.1, 0.9, (4, 5)) * rng.choice([-7, -1.5, 1.5, 7], (4, 5))  # away from all kinks
    f, backward = getattr(gradfuse, name), getattr(gradfuse, f"{name}_backward")
    report = gradcheck(f, lambda g, x: backward(g, x if gradfuse.saves(name) == "x" else f(x)), x)
    assert report, report
    assert report.error < 1e-6


def test_gradients_of_functions_with_contexts_are_right(rng):
    x, w, b = rng.standard_normal((6, 4)), rng.standard_normal(4), rng.standard_normal(4)
    for f, backward, arrays in (
        (
            *context_of(gradfuse.bias_act_forward, gradfuse.bias_act_backward, activation="mish", dropout=0.4, rng=3),
            [x, b],
        ),
        (*context_of(gradfuse.prelu_forward, gradfuse.prelu_backward), [x, abs(w)]),
        (*context_of(gradfuse.maxout_forward, gradfuse.maxout_backward, num_pieces=2), [x]),
        (*context_of(gradfuse.alpha_dropout_forward, gradfuse.alpha_dropout_backward, rng=4), [x]),
        (
            lambda x, w, b: gradfuse.batch_norm_forward(x, None, None, w, b, activation="tanh")[0],
            lambda g, x, w, b: gradfuse.batch_norm_backward(
                g, gradfuse.batch_norm_forward(x, None, None, w, b, activation="tanh")[1]
            ),
            [x, w, b],
        ),
        (gradfuse.softmax, lambda g, x: gradfuse.softmax_backward(g, gradfuse.softmax(x)), [x]),
    ):
        report = gradcheck(f, backward, arrays)
        assert report, report
        assert [e.array for e in sorted(report.worst, key=lambda e: e.array)] == [
            f"arrays[{i}]" for i in range(len(arrays))
        ]


@pytest.mark.parametrize("loss", ["cross_entropy", "mse_loss", "huber", "binary_cross_entropy_with_logits"])
def test_gradients_of_losses_are_right(loss, rng):
    x, target = rng.standard_normal((6, 4)), rng.uniform(0.1, 0.9, (6, 4))
    f = getattr(nn, loss)
    assert gradcheck(lambda x: f(x, target)[0], lambda g, x: g * f(x, target)[1], x)


def matmul(x, w):
    return x @ w


def matmul_backward(g, x, w):
    return g @ w.T, x.T @ g


@pytest.mark.parametrize(
    ("fault", "arrays"),
    [
        (lambda g, x, w: (g @ w.T, 2 * x.T @ g), {"arrays[1]"}),
        (lambda g, x, w: (-g @ w.T, x.T @ g), {"arrays[0]"}),
        (lambda g, x, w: (1.0001 * (g @ w.T), x.T @ g), {"arrays[0]"}),
        (lambda g, x, w: (g @ w, x.T @ g), {"arrays[0]"}),
        (lambda g, x, w: (g @ w.T, g.T @ x), {"arrays[1]"}),
        (lambda g, x, w: (g @ w.T, 0 * w), {"arrays[1]"}),
        (lambda g, x, w: (g @ w.T + 1e-3, x.T @ g), {"arrays[0]"}),
        (lambda g, x, w: (g @ w.T, np.where(np.arange(4) == 2, np.nan, x.T @ g)), {"arrays[1]"}),
        (lambda g, x, w: (np.full_like(x, np.inf), x.T @ g), {"arrays[0]"}),
        (lambda g, x, w: (np.ones_like(g) @ w.T, x.T @ np.ones_like(g)), {"arrays[0]", "arrays[1]"}),
        (lambda g, x, w: (g @ w.T, np.sign(x).T @ g), {"arrays[1]"}),
    ],
    ids=["factor", "sign", "small", "transposed", "transposed too", "zero", "constant", "nan", "inf", "grad_out", "x"],
)
def test_wrong_gradients_are_found(rng, fault, arrays):
    x, w = rng.standard_normal((4, 4)), rng.standard_normal((4, 4))
    assert gradcheck(matmul, matmul_backward, [x, w])
    report = gradcheck(matmul, fault, [x, w])
    assert not report
    assert {e.array for e in report.worst if e.error > report.tolerance} == arrays
    assert str(report).startswith(f"Wrong: {report.worst[0].array} at {report.worst[0].index} has the gradient ")


def test_a_missing_term_is_found(rng):
    def f(x):
        return (x - x.mean(axis=0)) / x.std(axis=0)

    def right(g, x):
        y = f(x)
        return (g - g.mean(axis=0) - y * (g * y).mean(axis=0)) / x.std(axis=0)

    x = rng.standard_normal((7, 3))
    assert gradcheck(f, right, x)
    assert not gradcheck(f, lambda g, x: (g - g.mean(axis=0)) / x.std(axis=0), x)
    assert not gradcheck(f, lambda g, x: g / x.std(axis=0), x)


def test_the_report_says_where_and_by_how_much(rng):
    x = rng.standard_normal((3, 4)) + 3

    def backward(g, x):
        dx = 2 * x * g
        dx[1, 2] *= 1.5
        dx[2, 0] *= 0.75
        return dx

    grad_out = np.random.default_rng(8).standard_normal((3, 4))
    report = gradcheck(lambda x: x * x, backward, x, rng=8)
    (element,) = report.worst
    slope = 2 * x[1, 2] * grad_out[1, 2]
    assert (element.array, element.index) == ("arrays[0]", (1, 2))
    assert element.gradient == pytest.approx(1.5 * slope)
    assert element.difference == pytest.approx(slope, rel=1e-8)
    assert report.error == element.error == pytest.approx(1 / 3, rel=1e-8)
    assert str(report) == (
        f"Wrong: arrays[0] at (1, 2) has the gradient {1.5 * slope:.6g}, by central differences {slope:.6g}; the "
        "relative error is 3.3e-01, more than 1e-05."
    )
    report = gradcheck(lambda x: x * x, backward, x, rng=8, tolerance=0.4)
    assert str(report) == "Right: the relative error is at most 3.3e-01, within 0.4."


def test_eps_is_the_distance(rng):
    x = np.array([0.5, 2.0])
    seen = []

    def f(x):
        seen.append(x.copy())
        return x**3

    report = gradcheck(f, lambda g, x: g * 3 * x**2, x, eps=1e-3, tolerance=1e-7)
    np.testing.assert_allclose(np.unique([s[0] for s in seen]), [0.499, 0.5, 0.501], rtol=1e-12)
    np.testing.assert_allclose(np.unique([s[1] for s in seen]), [1.998, 2, 2.002], rtol=1e-12)
    # ((x + h)^3 - (x - h)^3) / 2h = 3 x^2 + h^2
    assert report.error == pytest.approx(1e-6 / (0.75 + 1e-6), rel=1e-3)
    assert not report


def test_gradients_of_zero_are_not_lost_in_rounding(rng):
    x, b = 100 * rng.standard_normal((50, 6)), rng.standard_normal(6)

    def f(x, b):
        y = x + b
        return y - y.mean(axis=0)  # b has no influence

    def backward(g, x, b):
        return g - g.mean(axis=0), 0 * b

    assert gradcheck(f, backward, [x, b])
    assert not gradcheck(f, lambda g, x, b: (backward(g, x, b)[0], 0 * b + 1e-3), [x, b])


def test_what_gradcheck_takes(rng):
    x = rng.standard_normal((2, 3))
    kept = x.copy()
    assert gradcheck(lambda x: x, lambda g, x: g, x)  # the very array
    assert gradcheck(lambda x: x.T**2, lambda g, x: 2 * g.T * x, x[:, ::-1])
    assert gradcheck(lambda x: x.T**2, lambda g, x: 2 * g.T * x, x.T)
    assert gradcheck(lambda x: float((x**2).sum()), lambda g, x: g * 2 * x, x)
    assert gradcheck(lambda x: np.square(x, out=x.copy()), lambda g, x: np.multiply(2 * g, x, out=x), x)
    assert gradcheck(lambda x: x**2, lambda g, x: 2 * g * x, x.astype(np.float32))
    assert gradcheck(lambda x: x**2, lambda g, x: [2 * g * x], [np.arange(1, 5)])
    assert gradcheck(lambda x, y: x * y, lambda g, x, y: (g * y, None), [x, x + 1])
    assert gradcheck(lambda x: x**2, lambda g, x: 2 * g * x, np.array(3.0))
    assert gradcheck(lambda x: 0 * x, lambda g, x: 0 * x, x)
    np.testing.assert_array_equal(x, kept)


@pytest.mark.parametrize(
    ("f", "backward", "arrays", "error", "message"),
    [
        (
            lambda x: x.astype(np.float32),
            lambda g, x: g,
            np.ones(2),
            TypeError,
            "gradcheck: f must compute in float64 w",
        ),
        (lambda x: x + np.nan, lambda g, x: g, np.ones(2), ValueError, "gradcheck: f must give finite numbers, got "),
        (
            lambda x: x * np.random.default_rng().random(),
            lambda g, x: g,
            np.ones(2),
            ValueError,
            "gradcheck: f must give the same numbers at every call with the same arrays, got others",
        ),
        (
            lambda x: x,
            lambda g, x: (g, g),
            np.ones(2),
            ValueError,
            "gradcheck: f_backward must return 1 gradients, got 2",
        ),
        (
            lambda x: x,
            lambda g, x: g.T,
            np.ones((2, 3)),
            ValueError,
            r"gradcheck: the gradient of arrays\[0\] must have shape \(2, 3\), got \(3, 2\)",
        ),
        (
            lambda x: x,
            lambda g, x: [None],
            np.ones(2),
            ValueError,
            "gradcheck: f_backward must return a gradient to be ",
        ),
        (
            lambda x: x,
            lambda g, x: g,
            np.ones(2, bool),
            TypeError,
            r"gradcheck: arrays\[0\] must hold real numbers, got b",
        ),
        (
            lambda x: x,
            lambda g, x: g,
            np.ones(2, complex),
            TypeError,
            r"gradcheck: arrays\[0\] must hold real numbers, ",
        ),
        (
            lambda x: x,
            lambda g, x: g,
            [[1.0]],
            TypeError,
            r"gradcheck: arrays\[0\] must be an array of NumPy or CuPy, got list",
        ),
    ],
)
def test_errors_of_gradcheck(f, backward, arrays, error, message):
    with pytest.raises(error, match=message):
        gradcheck(f, backward, arrays)


@pytest.mark.parametrize("argument", ["eps", "tolerance"])
def test_eps_and_tolerance_must_be_positive(argument):
    with pytest.raises(ValueError, match=f"^gradcheck: {argument} must be a finite number > 0, got 0$"):
        gradcheck(lambda x: x, lambda g, x: g, np.ones(2), **{argument: 0})
    with pytest.raises(TypeError, match=f"^gradcheck_layer: {argument} must be a finite number > 0, got None$"):
        gradcheck_layer(nn.ReLU(), np.ones(2), **{argument: None})


LAYERS = {
    "linear": (nn.Linear(4, 3, rng=0), (5, 4)),
    "linear of three axes": (nn.Linear(4, 3, bias=False, rng=0), (2, 5, 4)),
    "convolution": (nn.Conv2D(4, 6, (3, 2), 2, 1, groups=2, rng=0), (2, 4, 5, 6)),
    "batch norm": (nn.BatchNorm(3), (6, 3)),
    "batch norm of images": (nn.BatchNorm(3, affine=False), (2, 3, 4, 5)),
    "frozen": (nn.BatchNorm(3).freeze(), (6, 3)),
    "prelu": (nn.PReLU(3), (6, 3)),
    "rrelu": (nn.RReLU(rng=3), (6, 3)),
    "maxout": (nn.Maxout(2), (6, 4)),
    "dropout": (nn.Dropout(0.4, rng=3), (6, 4)),
    "alpha dropout": (nn.AlphaDropout(0.4, rng=3), (6, 4)),
    "max pooling": (nn.MaxPool2D(3, 2, 1), (2, 3, 6, 6)),
    "average pooling": (nn.AvgPool2D(2, padding=1), (2, 3, 4, 5)),
    "global pooling": (nn.GlobalAvgPool2D(), (2, 3, 4, 5)),
    "everything": (everything(), (5, 12)),
    "everything unfused": (everything().fuse(False), (5, 12)),
    "images": (images(np.random.default_rng(0))[0], (3, 1, 4, 4)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_gradients_of_layers_are_right(name, rng):
    layer, shape = LAYERS[name]
    before = state_of(layer)
    report = gradcheck_layer(layer, rng.standard_normal(shape).astype(np.float32))
    assert report, report
    names = {} if name == "frozen" else dict(layer.named_parameters())
    assert {e.array for e in report.worst} == {"x", *names}
    assert state_of(layer) == before


class Scaled(nn.Layer):
    """y = scale * x, its backward wrong in a way of one's choice."""

    def __init__(self, dx=1.0, dscale=1.0):
        self.scale = nn.Parameter(np.array([2.0, 3.0], np.float32))
        self.dx, self.dscale = dx, dscale

    def forward(self, x):
        self._saved = (x,)
        return self.scale.data * x

    def backward(self, grad, *, input_grad=True):
        (x,) = self._take()
        if self.dscale is not None:
            self.scale.add_grad(self.dscale * (grad * x).sum(axis=0))
        return None if self.dx is None else self.dx * self.scale.data * grad


@pytest.mark.parametrize(
    ("layer", "wrong"),
    [
        (Scaled(), set()),
        (Scaled(dx=1.01), {"x"}),
        (Scaled(dscale=0.5), {"scale"}),
        (Scaled(dscale=None), {"scale"}),
        (Scaled(-1.0, -1.0), {"x", "scale"}),
        (Scaled(dscale=0.5).freeze(), set()),
    ],
    ids=["right", "dx", "dscale", "no dscale", "both", "frozen"],
)
def test_wrong_layers_are_found(rng, layer, wrong):
    report = gradcheck_layer(layer, rng.standard_normal((4, 2)))
    assert report.ok == (not wrong)
    assert {e.array for e in report.worst if e.error > report.tolerance} == wrong
    nested = gradcheck_layer(nn.Sequential(nn.Linear(3, 2, rng=0), layer, nn.Tanh()), rng.standard_normal((4, 3)))
    assert nested.ok == (not wrong)


def test_a_layer_without_a_gradient_for_x():
    with pytest.raises(TypeError, match=r"^gradcheck_layer: layer.backward must return the gradient of x, got None$"):
        gradcheck_layer(Scaled(dx=None), np.ones((4, 2)))


def test_a_layer_whose_randomness_is_its_own_is_refused(rng):
    class Noisy(nn.Layer):
        def forward(self, x):
            return x + np.random.default_rng().standard_normal(x.shape)

        def backward(self, grad, *, input_grad=True):
            return grad

    with pytest.raises(ValueError, match=r"^gradcheck_layer: f must give the same numbers at every call"):
        gradcheck_layer(Noisy(), rng.standard_normal((3, 2)))
