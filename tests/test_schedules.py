"""Schedules against their formulas and PyTorch's schedulers, step by step."""

import copy
import math
import pickle
import re
import sys
import warnings

import numpy as np
import pytest

import gradfuse
from gradfuse import schedules
from gradfuse.schedules import Plateau

CYCLE = {
    "pct_start": 0.4,
    "anneal": "linear",
    "div_factor": 5.0,
    "final_div_factor": 7.0,
    "max_momentum": 0.9,
    "base_momentum": 0.6,
}


def values(schedule, steps):
    return [schedule(step) for step in range(steps)]


def near(expected):
    return pytest.approx(expected, rel=1e-14, abs=0)


# Formulas, every argument off its default, and where they end.


def test_power():
    assert values(schedules.power(0.3, 20, c=0.7), 60) == near([0.3 * (20 / (20 + t)) ** 0.7 for t in range(60)])
    assert schedules.power(0.3, 20)(20) == near(0.15)
    assert schedules.power(0.3, 20, c=0.0)(10**9) == 0.3
    assert schedules.power(1.0, 1e-300, c=1e300)(10**9) == 0.0


def test_exponential():
    actual = values(schedules.exponential(0.3, 20, rate=0.4), 60)
    assert actual == near([0.3 * math.exp(math.log(0.4) * t / 20) for t in range(60)])
    assert schedules.exponential(0.3, 20)(40) == near(0.003)
    assert schedules.exponential(1e-6, 100, rate=1e7)(100) == near(10.0)
    assert schedules.exponential(1.0, 1)(10**6) == 0.0


def test_piecewise():
    schedule = schedules.piecewise(np.array([2, 3, 7]), (0.4, 0, np.float32(0.5), 1))
    assert values(schedule, 10) == [0.4, 0.4, 0, 0.5, 0.5, 0.5, 0.5, 1, 1, 1]
    assert values(schedules.piecewise([], [0.3]), 2) == [0.3, 0.3]


@pytest.mark.parametrize(("start", "end"), [(0.2, 0.7), (0.7, 0.0), (0.3, 0.3)])
def test_linear(start, end):
    actual = values(schedules.linear(start, end, 8), 12)
    assert actual == pytest.approx(np.r_[np.linspace(start, end, 9), [end] * 3], rel=1e-15)
    assert actual[0] == start


def test_cosine():
    actual = values(schedules.cosine(0.3, 8, min_lr=0.1), 12)
    expected = [0.1 + 0.2 * math.cos(math.pi * t / 16) ** 2 for t in range(8)]
    assert actual == near([*expected, 0.1, 0.1, 0.1, 0.1])
    assert actual[8:] == [0.1] * 4


def test_cosine_with_restarts():
    """Three cycles of 4, 12 and 36 steps; and three of 10 / 3, where a restart is between two steps."""
    cycles = [(t, n) for n in (4, 12, 36) for t in range(n)] + [(36, 36)] * 3
    actual = values(schedules.cosine(0.3, 52, min_lr=0.1, restarts=2, t_mult=3), 55)
    assert actual == near([0.1 + 0.2 * math.cos(math.pi * t / n / 2) ** 2 for t, n in cycles])
    shares = [0, 0.3, 0.6, 0.9, 0.2, 0.5, 0.8, 0.1, 0.4, 0.7, 1, 1]
    actual = values(schedules.cosine(1.0, 10, restarts=2), 12)
    assert actual == pytest.approx([math.cos(math.pi * s / 2) ** 2 for s in shares], rel=1e-13, abs=1e-30)


def test_cosine_restarts_at_whole_steps_whatever_the_length():
    for length in range(1, 60):
        for cycles in (3, 6, 7, 49):
            schedule = schedules.cosine(1.0, length * cycles, restarts=cycles - 1)
            assert all(schedule(length * k) == 1.0 for k in range(cycles)), (length, cycles)
            assert schedule(length * cycles) == 0.0


def test_inverse_sqrt():
    width, warmup = 512, 40
    expected = [width**-0.5 * min(t**-0.5, t * warmup**-1.5) for t in range(1, 200)]  # section 5.3 of the paper
    actual = values(schedules.inverse_sqrt((width * warmup) ** -0.5, warmup), 199)
    assert actual == near(expected)
    assert max(actual) == actual[warmup - 1]


def test_one_cycle():
    cycle = schedules.one_cycle(1.0, 11, **{**CYCLE, "pct_start": 5 / 11})  # the peak is at step 4
    rates = np.r_[np.linspace(0.2, 1, 5), np.linspace(1, 0.2 / 7, 7)[1:]]
    momenta = np.r_[np.linspace(0.9, 0.6, 5), np.linspace(0.6, 0.9, 7)[1:]]
    assert values(cycle, 11) == pytest.approx(rates, rel=1e-14)
    assert values(cycle.momentum, 11) == pytest.approx(momenta, rel=1e-14)
    assert values(cycle.betas(0.7), 11) == [(m, 0.7) for m in values(cycle.momentum, 11)]
    assert cycle.betas()(3)[1] == 0.999
    for schedule in (cycle, cycle.momentum, cycle.betas()):
        assert schedule(10) == schedule(11) == schedule(10**6)


@pytest.mark.parametrize(("pct_start", "total_steps"), [(0.25, 4), (1.0, 1)])
def test_one_cycle_whose_first_step_is_the_peak(pct_start, total_steps):
    cycle = schedules.one_cycle(0.3, total_steps, pct_start=pct_start)
    assert (cycle(0), cycle.momentum(0)) == (0.3, 0.85)


def test_warmup():
    inner = schedules.exponential(0.8, 10, rate=0.5)
    actual = values(schedules.warmup(inner, 4, start=0.25), 30)
    assert actual == near([0.2, 0.35, 0.5, 0.65, *values(inner, 26)])
    assert values(schedules.warmup(inner, 2), 3) == [0.0, 0.4, 0.8]
    assert values(schedules.warmup(inner, 0), 5) == values(inner, 5)
    assert values(schedules.warmup(lambda step: 0.5 + step, 1, start=1.0), 3) == [0.5, 0.5, 1.5]


def test_growing_batch():
    assert values(schedules.growing_batch(32, 2, 3), 8) == [32, 32, 32, 64, 64, 64, 128, 128]
    assert values(schedules.growing_batch(100, 1.15, 1, largest=140), 5) == [100, 115, 132, 140, 140]
    assert all(type(size) is int for size in values(schedules.growing_batch(np.int64(7), np.float32(1.5), 1), 4))
    assert schedules.growing_batch(7, 1.5, 1, largest=1000)(10**4) == 1000  # 1.5^10000 is no float
    assert schedules.growing_batch(1, 5.0, 1)(500) == 5**500


# PyTorch's schedulers.


def torch_values(steps, make, name="SGD", **options):
    """lr and momentum, or the pair, of each step."""
    torch = pytest.importorskip("torch")
    p = torch.zeros(1, requires_grad=True)
    optimizer = getattr(torch.optim, name)([p], **options)
    scheduler = make(torch.optim.lr_scheduler, optimizer)
    rows = []
    for step in range(steps):
        group = optimizer.param_groups[0]
        rows.append((group["lr"], group.get("momentum", group.get("betas"))))
        optimizer.step()
        if step + 1 < steps:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # SequentialLR calls what it has deprecated
                scheduler.step()
    return [list(column) for column in zip(*rows, strict=True)]


TORCH = [
    (schedules.exponential(0.3, 20, rate=0.4), lambda s, o: s.ExponentialLR(o, 0.4 ** (1 / 20))),
    (schedules.piecewise([5, 9], [0.3, 0.06, 0.012]), lambda s, o: s.MultiStepLR(o, [5, 9], gamma=0.2)),
    (schedules.linear(0.06, 0.3, 7), lambda s, o: s.LinearLR(o, start_factor=0.2, total_iters=7)),
    (schedules.cosine(0.3, 40, min_lr=0.02), lambda s, o: s.CosineAnnealingLR(o, 40, eta_min=0.02)),
    (
        schedules.cosine(0.3, 6 * 8, min_lr=0.02, restarts=7),
        lambda s, o: s.CosineAnnealingWarmRestarts(o, 6, eta_min=0.02),
    ),
    (
        schedules.cosine(0.3, 3 * (1 + 2 + 4 + 8), min_lr=0.02, restarts=3, t_mult=2),
        lambda s, o: s.CosineAnnealingWarmRestarts(o, 3, T_mult=2, eta_min=0.02),
    ),
    (
        schedules.warmup(schedules.cosine(0.3, 20), 6, start=0.1),
        lambda s, o: s.SequentialLR(o, [s.LinearLR(o, 0.1, total_iters=6), s.CosineAnnealingLR(o, 20)], [6]),
    ),
]


@pytest.mark.parametrize(("schedule", "make"), TORCH, ids=[type(schedule).__name__ for schedule, _ in TORCH])
def test_as_pytorch(schedule, make):
    steps = 26 if isinstance(schedule, schedules.Warmup) else 40  # past its end CosineAnnealingLR climbs again
    expected, _ = torch_values(steps, make, lr=0.3)
    assert values(schedule, steps) == pytest.approx(expected, rel=1e-12, abs=1e-16)  # theirs are mostly products


# Where pct_start * total_steps is 1, PyTorch divides by zero.
CYCLES = [(n, p) for n in (1, 2, 3, 11, 37) for p in (0.0, 0.1, 0.3, 0.77, 1.0) if n * p != 1]


@pytest.mark.parametrize("anneal", ["cos", "linear"])
@pytest.mark.parametrize(("total_steps", "pct_start"), CYCLES)
def test_one_cycle_is_pytorch_s(total_steps, pct_start, anneal):
    ours = {**CYCLE, "pct_start": pct_start, "anneal": anneal}
    theirs = {k: v for k, v in ours.items() if k != "anneal"} | {"anneal_strategy": anneal}
    cycle = schedules.one_cycle(0.3, total_steps, **ours)

    rates, momenta = torch_values(
        total_steps, lambda s, o: s.OneCycleLR(o, 0.3, total_steps, **theirs), lr=1.0, momentum=0.5
    )
    assert values(cycle, total_steps) == rates
    assert values(cycle.momentum, total_steps) == momenta

    _, betas = torch_values(
        total_steps, lambda s, o: s.OneCycleLR(o, 0.3, total_steps, **theirs), "Adam", betas=(0.5, 0.7)
    )
    assert values(cycle.betas(0.7), total_steps) == betas


def test_the_defaults_of_one_cycle_are_pytorch_s():
    rates, momenta = torch_values(50, lambda s, o: s.OneCycleLR(o, 0.3, 50), momentum=0.5)
    cycle = schedules.one_cycle(0.3, 50)
    assert (values(cycle, 50), values(cycle.momentum, 50)) == (rates, momenta)


PLATEAUS = [
    {},
    {"factor": 0.5, "patience": 2, "cooldown": 3, "min_lr": 0.01},
    {"factor": 0.3, "patience": 0, "threshold": 0.1, "eps": 0.02},
    {"factor": 0.6, "patience": 1, "threshold": 0.05, "threshold_mode": "abs", "cooldown": 1},
    {"factor": 0.6, "patience": 1, "threshold": 0.0, "min_lr": 0.5},
]


@pytest.mark.parametrize("mode", ["min", "max"])
@pytest.mark.parametrize("options", PLATEAUS, ids=str)
def test_plateau_is_pytorch_s(rng, options, mode):
    torch = pytest.importorskip("torch")
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.3)
    expected = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, mode=mode, **options)
    plateau = Plateau(0.3, mode=mode, **options)
    falling = 1 / (1 + np.arange(60)) * (1 if mode == "min" else -1)
    metrics = [*(falling + rng.normal(size=60) * 0.05), np.nan, np.inf, -np.inf, *rng.normal(size=60)]
    rates = []
    for step, metric in enumerate(metrics):
        expected.step(metric)
        plateau.update(metric)
        rates.append(plateau(step))
        assert rates[-1] == optimizer.param_groups[0]["lr"], step
        assert (plateau.best, plateau.failures) == (expected.best, expected.num_bad_epochs)
    assert len(set(rates)) > (options.get("min_lr") != 0.5)


# Plateau's own.


def test_plateau_waits_for_more_than_patience():
    plateau = Plateau(1.0, factor=0.5, patience=2)
    rates = []
    for metric in (1.0, 1.0, 1.0, 0.99999, 1.0, 1.0, 1.0, 0.5):
        plateau.update(metric)
        rates.append(plateau(0))
    assert rates == [1.0, 1.0, 1.0, 0.5, 0.5, 0.5, 0.25, 0.25]


@pytest.mark.parametrize("metric", [np.float32(0.5), np.array(0.5), 0, np.int64(0)])
def test_metrics_plateau_takes(metric):
    plateau = Plateau(0.1)
    plateau.update(metric)
    assert plateau.best == float(metric)
    assert type(plateau.best) is float


@pytest.mark.parametrize("metric", [None, "0.5", True, np.True_, [0.5], np.ones(1), np.ones(3)])
def test_metrics_plateau_refuses(metric):
    plateau = Plateau(0.1)
    with pytest.raises(TypeError, match=r"^Plateau.update: metric must be a number, got "):
        plateau.update(metric)
    assert plateau.state_dict() == {"lr": 0.1, "best": math.inf, "failures": 0, "resting": 0}


def test_plateau_resumes(rng):
    options = {"factor": 0.7, "patience": 1, "cooldown": 2, "mode": "max"}
    metrics = rng.normal(size=40)
    whole = Plateau(0.1, **options)
    for interruption in range(1, 40):
        first, second = Plateau(0.1, **options), Plateau(9.0, **options)
        for metric in metrics[:interruption]:
            first.update(metric)
        second.load_state_dict(pickle.loads(pickle.dumps(first.state_dict())))
        for metric in metrics[interruption:]:
            second.update(metric)
        if interruption == 1:
            whole = second
        assert second.state_dict() == whole.state_dict()
    assert whole.lr < 0.1


GOOD = {"lr": 0.2, "best": 0.5, "failures": 1, "resting": 0}


@pytest.mark.parametrize("state", [
    None, [], {}, {**GOOD, "more": 1}, {k: v for k, v in GOOD.items() if k != "best"},
    {**GOOD, "lr": -1.0}, {**GOOD, "lr": math.nan}, {**GOOD, "best": math.nan}, {**GOOD, "best": "0.5"},
    {**GOOD, "failures": -1}, {**GOOD, "failures": 0.5}, {**GOOD, "resting": True}, {**GOOD, "resting": None},
])  # fmt: skip
def test_states_plateau_refuses(state):
    plateau = Plateau(0.1)
    plateau.update(0.3)
    before = plateau.state_dict()
    with pytest.raises((TypeError, ValueError), match=r"^Plateau.load_state_dict: state(\['\w+'\])? must be "):
        plateau.load_state_dict(state)
    assert plateau.state_dict() == before
    plateau.load_state_dict({**GOOD, "best": -math.inf})
    assert (plateau(3), plateau.best) == (0.2, -math.inf)


# As objects.

EVERY = [
    schedules.power(0.3, 20, c=0.7),
    schedules.exponential(0.3, 20, rate=0.4),
    schedules.piecewise([2, 3], [0.1, 0.2, 0.3]),
    schedules.linear(0.2, 0.7, 8),
    schedules.cosine(0.3, 20, min_lr=0.1, restarts=2, t_mult=2),
    schedules.inverse_sqrt(0.3, 5),
    schedules.one_cycle(0.3, 11, **CYCLE),
    schedules.one_cycle(0.3, 11, **CYCLE).momentum,
    schedules.one_cycle(0.3, 11, **CYCLE).betas(0.7),
    schedules.warmup(schedules.power(0.3, 20), 5, start=0.1),
    schedules.growing_batch(32, 2, 3, largest=100),
    Plateau(0.3, cooldown=2),
]
every = pytest.mark.parametrize("schedule", EVERY, ids=lambda s: type(s).__name__)


@every
def test_copies(schedule):
    for again in (copy.deepcopy(schedule), pickle.loads(pickle.dumps(schedule))):
        assert values(again, 15) == values(schedule, 15)
        assert repr(again) == repr(schedule)
        if not isinstance(schedule, Plateau):
            assert again == schedule
            assert hash(again) == hash(schedule)


@every
def test_they_print_as_they_were_made(schedule):
    again = eval(repr(schedule), vars(schedules))
    assert values(again, 15) == values(schedule, 15)


@every
def test_they_do_not_change(schedule):
    if not isinstance(schedule, Plateau):
        with pytest.raises(AttributeError):
            schedule.lr = 0.5


@every
def test_steps(schedule):
    for step in (0, 3, 10**7):
        for kind in (np.int64, np.int32, np.uint32):
            assert schedule(kind(step)) == schedule(step)
        assert not isinstance(schedule(np.int64(step)), np.generic)
    where = type(schedule).__name__
    for step, error in (-1, ValueError), (np.int64(-5), ValueError), (1.0, TypeError), (True, TypeError):
        text = f"{where}: step must be an integer >= 0, got {step!r}"
        with pytest.raises(error, match="^" + re.escape(text) + "$"):
            schedule(step)


def test_numbers_of_numpy_are_taken_in_double():
    made = schedules.power(np.float32(0.3), np.int64(20), c=np.float16(0.5))
    assert made == schedules.power(float(np.float32(0.3)), 20.0, c=0.5)
    assert type(made(3)) is float


def test_an_optimizer_takes_each():
    for schedule in EVERY:
        if isinstance(schedule(0), float):
            p = np.zeros(1)
            opt = gradfuse.optim.SGD([p], lr=schedule)
            for _ in range(8):
                opt.step([np.ones(1)])
            assert p[0] == pytest.approx(-sum(values(schedule, 8)), rel=1e-14)
            assert opt.lr == schedule(8)


def test_an_optimizer_follows_its_plateau():
    p, plateau = np.zeros(1), Plateau(1.0, patience=0)
    opt = gradfuse.optim.SGD([p], lr=plateau)
    for metric in (0.5, 0.6):
        plateau.update(metric)
        opt.step([np.ones(1)])
    assert p[0] == pytest.approx(-1.1)
    assert opt.lr == 0.1


# Errors.

WRONG_KIND = [(value, TypeError) for value in (None, "0.1", True, 1j, [0.1])]
NUMBER = [(value, ValueError) for value in (-0.1, math.nan, math.inf, 10**400)] + WRONG_KIND
POSITIVE = [(0, ValueError), (0.0, ValueError), *NUMBER]
SHARE = [(1.1, ValueError), *NUMBER]
BELOW_ONE = [(1.0, ValueError), (np.float32(1), ValueError), *NUMBER]
COUNT_OR_ZERO = [(-1, ValueError), (2.0, TypeError), (np.float64(3), TypeError), *WRONG_KIND]
COUNT = [(0, ValueError), *COUNT_OR_ZERO]

BAD = [
    (schedules.power, {"lr": 0.1, "s": 5, "c": 1.0}, {"lr": NUMBER, "s": POSITIVE, "c": NUMBER}),
    (schedules.exponential, {"lr": 0.1, "s": 5}, {"lr": NUMBER, "s": POSITIVE, "rate": POSITIVE}),
    (
        schedules.piecewise,
        {"boundaries": [3, 5], "values": [1, 2, 3]},
        {
            "boundaries": [
                *((wrong, ValueError) for wrong in ([3], [3, 5, 6], [5, 3], [3, 3], [0, 3], [-1, 3])),
                *((wrong, TypeError) for wrong in (7, [3, 5.0], [3, True], [3, None], "35")),
            ],
            "values": [
                *((wrong, ValueError) for wrong in ([1, 2], [1, 2, 3, 4], [])),
                *((wrong, TypeError) for wrong in (0.1, "123")),
                *(([1, 2, wrong], error) for wrong, error in NUMBER),
            ],
        },
    ),
    (
        schedules.linear,
        {"start": 0.1, "end": 0.2, "total_steps": 5},
        {"start": NUMBER, "end": NUMBER, "total_steps": COUNT},
    ),
    (
        schedules.cosine,
        {"lr": 0.1, "total_steps": 5},
        {
            "lr": NUMBER,
            "total_steps": COUNT,
            "min_lr": [(0.2, ValueError), *NUMBER],
            "restarts": COUNT_OR_ZERO,
            "t_mult": COUNT,
        },
    ),
    (schedules.inverse_sqrt, {"lr": 0.1, "warmup_steps": 5}, {"lr": NUMBER, "warmup_steps": COUNT}),
    (
        schedules.one_cycle,
        {"max_lr": 0.1, "total_steps": 5},
        {
            "max_lr": NUMBER,
            "total_steps": COUNT,
            "pct_start": SHARE,
            "anneal": [("cosine", ValueError), (None, ValueError), (1, ValueError)],
            "div_factor": POSITIVE,
            "final_div_factor": POSITIVE,
            "max_momentum": BELOW_ONE,
            "base_momentum": BELOW_ONE,
        },
    ),
    (
        schedules.warmup,
        {"schedule": schedules.power(0.1, 5), "steps": 5},
        {"schedule": [(0.1, TypeError), (None, TypeError)], "steps": COUNT_OR_ZERO, "start": SHARE},
    ),
    (
        schedules.growing_batch,
        {"batch_size": 32, "factor": 2, "every": 5},
        {
            "batch_size": COUNT,
            "factor": [(0.9, ValueError), *NUMBER],
            "every": COUNT,
            "largest": [(31, ValueError), (64.0, TypeError), ("64", TypeError), (True, TypeError)],
        },
    ),
    (
        Plateau,
        {"lr": 0.1},
        {
            "lr": NUMBER,
            "factor": BELOW_ONE,
            "patience": COUNT_OR_ZERO,
            "threshold": NUMBER,
            "mode": [("less", ValueError), (None, ValueError)],
            "threshold_mode": [("relative", ValueError), (None, ValueError)],
            "cooldown": COUNT_OR_ZERO,
            "min_lr": NUMBER,
            "eps": NUMBER,
        },
    ),
]


@pytest.mark.parametrize(("make", "good", "bad"), BAD, ids=[make.__name__ for make, *_ in BAD])
def test_arguments(make, good, bad):
    make(**good)
    for name, wrong in bad.items():
        for value, error in wrong:
            with pytest.raises(error, match=rf"^{make.__name__}: \w+ must .*, got ") as caught:
                make(**{**good, name: value})
            assert name in str(caught.value)


def test_the_sentences():
    for call, error, text in [
        (lambda: schedules.power(-1, 5), ValueError, "power: lr must be a finite number >= 0, got -1"),
        (lambda: schedules.power("1", 5), TypeError, "power: lr must be a finite number >= 0, got '1'"),
        (
            lambda: schedules.linear(1, 0, 5.0),
            TypeError,
            "linear: total_steps must be an integer >= 1, got 5.0",
        ),
        (lambda: schedules.piecewise([5, 3], [1, 2, 3]), ValueError, "piecewise: boundaries must increase, got (5, 3)"),
        (
            lambda: schedules.piecewise([5], [1]),
            ValueError,
            "piecewise: values must be one more than boundaries, 2, got 1",
        ),
        (lambda: schedules.cosine(0.1, 5, min_lr=1), ValueError, "cosine: min_lr must be at most lr, 0.1, got 1"),
        (
            lambda: schedules.one_cycle(1, 5, anneal="cosine"),
            ValueError,
            "one_cycle: anneal must be 'cos' or 'linear', got 'cosine'",
        ),
        (
            lambda: schedules.one_cycle(1, 5).betas(1.0),
            ValueError,
            "one_cycle.betas: beta2 must be a number in [0, 1), got 1.0",
        ),
        (
            lambda: schedules.warmup(0.1, 5),
            TypeError,
            "warmup: schedule must be a function of the step, got 0.1",
        ),
        (
            lambda: schedules.growing_batch(32, 2, 1, largest=16),
            ValueError,
            "growing_batch: largest must be an integer >= 32, got 16",
        ),
    ]:
        with pytest.raises(error, match="^" + re.escape(text) + "$"):
            call()


# Pictures.


def lines(figure):
    (axes,) = figure.axes
    return [line.get_xydata().tolist() for line in axes.lines], [t.get_text() for t in axes.get_legend().get_texts()]


def test_plot(tmp_path):
    pytest.importorskip("matplotlib")
    cycle = schedules.one_cycle(0.3, 20)
    path = tmp_path / "cycle.png"
    figure = schedules.plot(cycle, cycle.momentum, lambda step: 0.5, steps=30, path=path, labels=["lr", "mu", "half"])
    drawn, labels = lines(figure)
    expected = (values(cycle, 30), values(cycle.momentum, 30), [0.5] * 30)
    assert drawn == [[[t, v] for t, v in enumerate(row)] for row in expected]
    assert labels == ["lr", "mu", "half"]
    assert path.read_bytes().startswith(b"\x89PNG")


@every
def test_each_plots_itself(schedule, tmp_path):
    pytest.importorskip("matplotlib")
    drawn, labels = lines(schedule.plot(9, tmp_path / "it.svg"))
    columns = np.reshape(values(schedule, 9), (9, -1)).T
    assert drawn == [[[t, v] for t, v in enumerate(column)] for column in columns]
    assert labels[0].startswith(type(schedule).__name__)
    assert "<svg" in (tmp_path / "it.svg").read_text()


def test_plot_leaves_pyplot_alone():
    pytest.importorskip("matplotlib")
    before = "matplotlib.pyplot" in sys.modules
    EVERY[0].plot(5)
    assert ("matplotlib.pyplot" in sys.modules) == before


def test_what_plot_refuses(monkeypatch, tmp_path):
    pytest.importorskip("matplotlib")
    good = schedules.power(0.1, 5)
    for call, error, text in [
        (
            lambda: schedules.plot(steps=5),
            TypeError,
            "plot: schedules must be functions of the step, at least one, got ()",
        ),
        (lambda: schedules.plot(good, 0.1, steps=5), TypeError, "plot: schedules must be functions of the step"),
        (lambda: schedules.plot(good, steps=0), ValueError, "plot: steps must be an integer >= 1, got 0"),
        (lambda: good.plot(5.0), TypeError, "plot: steps must be an integer >= 1, got 5.0"),
        (
            lambda: schedules.plot(good, steps=5, path=tmp_path / "x.png", labels=["a", "b"]),
            ValueError,
            "plot: labels must be one per schedule, 1, got 2",
        ),
    ]:
        with pytest.raises(error, match="^" + re.escape(text)):
            call()
    assert not list(tmp_path.iterdir())
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"pip install gradfuse\[training\]"):
        good.plot(5)
