"""Spaces, random search, its rounds, cross-validation, pruning, resumption after whatever happens, processes, plots."""

import copy
import fcntl
import functools
import inspect
import itertools
import math
import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from helpers import python

import gradfuse
from gradfuse import search as module
from gradfuse.data import k_fold
from gradfuse.search import choice, coarse_to_fine, cross_validated, integer, log_uniform, uniform

optuna = pytest.importorskip("optuna")

SPACE = {
    "lr": log_uniform(1e-4, 1),
    "units": integer(4, 64, log=True),
    "act": choice("relu", "elu"),
    "p": uniform(0, 1),
}
search = functools.partial(module.search, progress=False)
coarse_to_fine = functools.partial(coarse_to_fine, progress=False)


def bowl(parameters, report):
    """Lowest at lr = 0.01 and p = 0.3, with elu."""
    return (math.log10(parameters["lr"]) + 2) ** 2 + (parameters["p"] - 0.3) ** 2 + (parameters["act"] == "relu")


def all_parameters(result):
    return [trial["parameters"] for trial in result.trials]


# -- spaces


def drawn(distribution, n=300):
    return [t["parameters"]["x"] for t in search(lambda p, report: 0, {"x": distribution}, trials=n).trials]


@pytest.mark.parametrize(
    ("distribution", "place"),
    [
        (uniform(-3, 5), lambda x: (x + 3) / 8),
        (log_uniform(1e-6, 1e2), lambda x: (math.log10(x) + 6) / 8),
        (integer(-2, 7), lambda x: (x + 2.5) / 10),
        (integer(1, 1000, log=True), lambda x: math.log(x / 0.5) / math.log(1000.5 / 0.5)),
    ],
)
def test_draws_are_spread_evenly_over_the_range(distribution, place):
    draws = np.sort([place(x) for x in drawn(distribution)])
    assert draws[0] >= 0
    assert draws[-1] <= 1
    # Kolmogorov and Smirnov's statistic; it is above 1.95 / sqrt(n) with a probability of 0.001. Integers of a log
    # range come in steps, the largest of log(3) / log(2001).
    step = 0.15 if distribution == integer(1, 1000, log=True) else 0.1 if isinstance(distribution, integer) else 0
    assert abs(draws - np.linspace(0, 1, draws.size)).max() < 1.95 / draws.size**0.5 + step


def test_kinds_and_ends_of_what_is_drawn():
    assert {type(x) for x in drawn(uniform(0, 1), 3)} == {float}
    assert set(drawn(integer(3, 5), 60)) == {3, 4, 5}
    assert {type(x) for x in drawn(integer(3, 5), 3)} == {int}
    values = (None, "a", 2, 0.5, False)
    assert set(drawn(choice(*values), 100)) == set(values)
    assert set(drawn(uniform(0.3, 0.3), 3)) == {0.3}
    assert set(drawn(log_uniform(5e-324, 5e-324), 3)) == {5e-324}


def test_numbers_of_numpy_are_numbers():
    assert uniform(np.float32(0.5), np.int64(2)) == uniform(0.5, 2.0)
    assert repr(uniform(np.float32(0.5), np.int64(2))) == "uniform(low=0.5, high=2.0)"
    assert repr(integer(np.uint8(1), np.int16(9), log=True)) == "integer(low=1, high=9, log=True)"
    assert repr(choice(np.int64(1), np.str_("a"), np.float64(0.5))) == "choice(values=(1, 'a', 0.5))"


@pytest.mark.parametrize("distribution", SPACE.values(), ids=SPACE)
def test_spaces_are_values(distribution):
    assert copy.copy(distribution) == pickle.loads(pickle.dumps(distribution)) == distribution
    assert hash(copy.copy(distribution)) == hash(distribution)
    with pytest.raises(AttributeError):
        distribution.low = 3
    assert uniform(1, 2) != log_uniform(1, 2)


def test_a_distribution_draws_by_any_trial_of_optuna():
    trial = optuna.trial.FixedTrial({"lr": 0.1, "units": 8, "act": "elu", "p": 0.2})
    assert {name: d.suggest(trial, name) for name, d in SPACE.items()} == trial.params
    assert trial.distributions["lr"] == optuna.distributions.FloatDistribution(1e-4, 1, log=True)
    assert trial.distributions["units"] == optuna.distributions.IntDistribution(4, 64, log=True)
    assert trial.distributions["p"] == optuna.distributions.FloatDistribution(0, 1)


@pytest.mark.parametrize(
    ("distribution", "value", "share", "expected"),
    [
        (uniform(0, 8), 4, 0.25, (3, 5)),
        (uniform(0, 8), 7.5, 0.25, (6.5, 8)),
        (uniform(-8, 8), -8, 0.5, (-8, -4)),
        (uniform(-1e308, 1e308), 0, 0.1, (-1e308, 1e308)),  # whose width is no number
        (log_uniform(1e-4, 1), 1e-2, 0.5, (1e-3, 1e-1)),
        (log_uniform(1e-4, 1), 1e-4, 0.5, (1e-4, 1e-3)),
        (log_uniform(1e-4, 1), 0.5, 0.25, (0.5 / 10**0.5, 1)),
        (log_uniform(1e-300, 1e300), 1e100, 0.5, (1e-50, 1e250)),
        (integer(0, 100), 50, 0.1, (45, 55)),
        (integer(0, 100), 50, 0.11, (44, 56)),
        (integer(0, 100), 99, 0.1, (94, 100)),
        (integer(1, 4), 2, 0.25, (1, 3)),
        (integer(16, 256, log=True), 64, 0.5, (32, 128)),
        (integer(16, 256, log=True), 17, 0.25, (16, 25)),
    ],
)
def test_around(distribution, value, share, expected):
    part = distribution.around(value, share)
    assert type(part) is type(distribution)
    assert part.log == distribution.log
    if isinstance(distribution, integer):  # where logarithms are rounded outwards, the neighbour may be within
        assert expected[0] - distribution.log <= part.low <= expected[0]
        assert expected[1] <= part.high <= expected[1] + distribution.log
    else:
        np.testing.assert_allclose((part.low, part.high), expected, rtol=1e-12)
    assert distribution.low <= part.low <= value <= part.high <= distribution.high


@pytest.mark.parametrize("distribution", [uniform(0.1, 0.7), log_uniform(0.1, 0.7), log_uniform(3e-300, 1.7e308)])
def test_however_narrow_a_part_is_one(distribution):
    for value in (*np.geomspace(distribution.low, distribution.high, 50)[1:-1], distribution.low, distribution.high):
        part = distribution.around(value, 1e-30)
        assert distribution.low <= part.low <= value <= part.high <= distribution.high
        assert part.low == pytest.approx(part.high, rel=1e-12)
    assert choice(1, 2).around(2, 0.1) == choice(1, 2)


# -- a search


def test_parameters_depend_on_number_seed_and_space_alone():
    five, nine = (search(bowl, SPACE, trials=n) for n in (5, 9))
    assert all_parameters(five) == all_parameters(nine)[:5]
    assert len({tuple(p.values()) for p in all_parameters(nine)}) == 9
    assert all_parameters(search(bowl, SPACE, trials=5, name="other")) == all_parameters(five)
    other = search(bowl, SPACE, trials=5, seed=2**70)
    assert not {p["lr"] for p in all_parameters(other)} & {p["lr"] for p in all_parameters(five)}


def test_a_draw_is_that_of_optuna_s_random_sampler():
    (state,) = np.random.SeedSequence(7, spawn_key=(2,)).generate_state(1)
    uniforms = np.random.RandomState(state)
    lr = math.exp(uniforms.uniform(math.log(1e-4), math.log(1)))
    p = uniforms.uniform(0, 1)
    result = search(bowl, {"lr": SPACE["lr"], "p": SPACE["p"], "act": choice("elu")}, trials=3, seed=7)
    assert result.trials[2]["parameters"] == {"lr": pytest.approx(lr, rel=1e-12), "p": p, "act": "elu"}


@pytest.mark.parametrize("direction", ["minimize", "maximize"])
def test_result(direction):
    seen = []

    def objective(parameters, report):
        seen.append(parameters)
        return bowl(parameters, report)

    result = search(objective, SPACE, trials=12, direction=direction)
    assert all_parameters(result) == seen
    assert list(result.best) == list(SPACE)
    values = [bowl(p, None) for p in seen]
    assert [t["value"] for t in result.trials] == values
    best = (min if direction == "minimize" else max)(values)
    assert result.value == best == result.study.best_value
    assert result.best == seen[values.index(best)] == result.study.best_params
    assert [t["number"] for t in result.trials] == list(range(12))
    assert {(t["round"], t["state"]) for t in result.trials} == {(1, "complete")}
    assert result.study.study_name == "search"
    result.best["lr"] = 0
    assert result.best["lr"] > 0


def test_of_equals_the_first_is_the_best():
    result = search(lambda p, report: np.float32(0.5), SPACE, trials=3)
    assert result.best == result.trials[0]["parameters"]
    assert result.value == 0.5


@pytest.mark.parametrize(("direction", "worst"), [("minimize", math.inf), ("maximize", -math.inf)])
def test_nan_is_as_bad_as_can_be(direction, worst):
    def objective(parameters, report):
        return math.nan if parameters["p"] < 0.5 else parameters["p"]

    result = search(objective, SPACE, trials=12, direction=direction)
    for trial in result.trials:
        p = trial["parameters"]["p"]
        assert trial["value"] == (worst if p < 0.5 else p)
    assert worst in {t["value"] for t in result.trials}
    assert math.isfinite(result.value)
    assert search(lambda p, report: math.nan, SPACE, trials=2, direction=direction).value == worst


def test_table():
    def objective(parameters, report):
        if parameters["units"] > 40:
            raise optuna.TrialPruned
        return bowl(parameters, report)

    result = search(objective, SPACE, trials=30)
    first, head, *rows = str(result).splitlines()
    pruned = sum(t["state"] == "pruned" for t in result.trials)
    assert first == f"30 trials, {pruned} of them pruned; the best:"
    assert pruned
    assert head.split() == ["value", "number", "round", "lr", "units", "act", "p"]
    assert len(rows) == 10
    assert len({len(row) for row in (head, *rows)}) == 1
    ranking = sorted((t for t in result.trials if t["state"] == "complete"), key=lambda t: t["value"])
    for row, trial in zip(rows, ranking, strict=False):
        value, number, round_, lr, units, act, _ = row.split()
        assert (int(number), int(round_)) == (trial["number"], 1)
        assert float(value) == pytest.approx(trial["value"], rel=1e-3)
        assert float(lr) == pytest.approx(trial["parameters"]["lr"], rel=1e-3)
        assert (int(units), act) == (trial["parameters"]["units"], trial["parameters"]["act"])


def test_nothing_complete_has_no_best():
    def objective(parameters, report):
        raise optuna.TrialPruned

    result = search(objective, SPACE, trials=3)
    assert [(t["value"], t["state"]) for t in result.trials] == [(None, "pruned")] * 3
    for ask in (lambda: result.best, lambda: result.value, lambda: coarse_to_fine(objective, SPACE, trials=3)):
        with pytest.raises(ValueError, match=r"^Result: at least one trial must be complete, got none of 3$"):
            ask()
    assert str(result).startswith("3 trials, 3 of them pruned")
    result.plot()


def test_an_objective_sees_optuna_s_trial():
    def objective(parameters, report):
        assert isinstance(report.trial, optuna.trial.Trial)
        assert report.trial.params == parameters
        report.trial.set_user_attr("twice", 2 * parameters["p"])
        return 0

    result = search(objective, SPACE, trials=2)
    for trial in result.study.trials:
        assert trial.user_attrs == {"number": trial.number, "round": 1, "twice": 2 * trial.params["p"]}


def test_quiet_or_with_a_bar(capfd):
    verbosity = optuna.logging.get_verbosity()
    search(bowl, SPACE, trials=3)
    assert capfd.readouterr() == ("", "")
    result = module.search(bowl, SPACE, trials=3, name="nets")
    out, err = capfd.readouterr()
    assert out == ""
    assert "nets: 100%" in err
    assert f"best {result.value:.4g}" in err
    assert optuna.logging.get_verbosity() == verbosity


# -- pruning


def falling(parameters, report):
    for step in range(4):
        report(parameters["p"] + 3 - step, step)
    return parameters["p"]


def test_who_is_worse_than_the_median_is_pruned():
    result = search(falling, SPACE, trials=30)
    complete = []
    for trial in result.trials:
        p = trial["parameters"]["p"]
        hopeless = len(complete) >= 5 and p > np.median(complete)
        assert trial["state"] == ("pruned" if hopeless else "complete")
        assert trial["value"] == pytest.approx(p + 3 if hopeless else p)
        complete += [] if hopeless else [p]
    assert len(complete) < 20
    assert result.value == min(complete)
    pruned = [t for t in result.study.trials if t.state.name == "PRUNED"]
    assert {tuple(t.intermediate_values) for t in pruned} == {(0,)}


def test_pruning_follows_the_direction_and_can_be_left():
    result = search(falling, SPACE, trials=30, direction="maximize")
    states = {s: [t["parameters"]["p"] for t in result.trials if t["state"] == s] for s in ("complete", "pruned")}
    assert np.mean(states["pruned"]) < np.mean(states["complete"])
    assert {t["state"] for t in search(falling, SPACE, trials=30, prune=False).trials} == {"complete"}


def test_what_reports_nan_is_pruned():
    def objective(parameters, report):
        report(math.nan if report.trial.number == 7 else 1.0, 0)
        return 1.0

    result = search(objective, SPACE, trials=9)
    assert [(t["number"], t["value"]) for t in result.trials if t["state"] == "pruned"] == [(7, None)]


# -- a search that goes on


class Interrupted(Exception):
    pass


class Counting:
    """bowl, which notes its calls and is interrupted at some of them."""

    def __init__(self, *interruptions, error=Interrupted):
        self.calls, self.interruptions, self.error = [], interruptions, error

    def __call__(self, parameters, report):
        self.calls.append(parameters)
        if len(self.calls) - 1 in self.interruptions:
            raise self.error
        return bowl(parameters, report)


def load(storage, name="search"):
    backend = optuna.storages.journal.JournalFileBackend(str(storage))
    return optuna.load_study(study_name=name, storage=optuna.storages.JournalStorage(backend))


@pytest.mark.parametrize("error", [Interrupted, KeyboardInterrupt])
def test_an_interrupted_search_goes_on(tmp_path, error):
    storage, objective = tmp_path / "search.journal", Counting(4, 5, error=error)
    for failed in (1, 2):
        with pytest.raises(error):
            search(objective, SPACE, trials=8, storage=storage)
        states = [t.state.name for t in load(storage).trials]
        assert states == ["COMPLETE"] * 4 + ["FAIL"] * failed
    result = search(objective, SPACE, trials=8, storage=storage)
    whole = search(bowl, SPACE, trials=8)
    assert result.trials == whole.trials
    fifth = all_parameters(whole)[4]
    assert objective.calls == [*all_parameters(whole)[:4], fifth, fifth, *all_parameters(whole)[4:]]
    assert [t.state.name for t in result.study.trials].count("FAIL") == 2
    assert os.listdir(tmp_path) == ["search.journal"]


def test_a_search_that_is_over_can_be_made_longer(tmp_path):
    objective = Counting()
    search(objective, SPACE, trials=3, storage=tmp_path / "a")
    again = search(objective, SPACE, trials=2, storage=str(tmp_path / "a"))
    assert len(again.trials) == len(objective.calls) == 3
    longer = search(objective, SPACE, trials=5, storage=tmp_path / "a", workers=1, prune=False)
    assert longer.trials == search(bowl, SPACE, trials=5).trials
    assert len(objective.calls) == 5


def test_optuna_reads_the_storage(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = ["search", "it's a b#%?"]
    results = [search(bowl, SPACE, trials=n, storage="x y#%?'é.db", name=name) for n, name in enumerate(names, 3)]
    monkeypatch.chdir("/")
    for n, name, result in zip((3, 4), names, results, strict=True):
        study = load(tmp_path / "x y#%?'é.db", name)
        assert [t.params for t in study.trials] == all_parameters(result)
        assert len(study.trials) == len(result.study.trials) == n


def test_trials_of_the_user_s_are_left_alone(tmp_path):
    study = search(bowl, SPACE, trials=2, storage=tmp_path / "a").study
    study.optimize(lambda trial: trial.suggest_float("lr", 1e-4, 1, log=True) - 100, n_trials=1)
    result = search(bowl, SPACE, trials=3, storage=tmp_path / "a")
    assert result.trials == search(bowl, SPACE, trials=3).trials
    assert len(result.study.trials) == 4


def test_what_a_dead_process_leaves_is_put_in_order(tmp_path):
    storage = tmp_path / "a"
    study = search(bowl, SPACE, trials=2, storage=storage).study
    study.ask()  # and no tell
    with open(storage, "ab") as file:
        file.write(b'{"op_code":6,"worker_id":"f5')
    os.symlink(storage, tmp_path / "a.lock")
    begin = time.monotonic()
    result = search(bowl, SPACE, trials=3, storage=storage)
    assert time.monotonic() - begin < 10  # Optuna waits for 30 s before it takes a lock for dead
    assert result.trials == search(bowl, SPACE, trials=3).trials
    assert [t.state.name for t in result.study.trials] == ["COMPLETE", "COMPLETE", "FAIL", "COMPLETE"]


def test_one_search_at_a_time(tmp_path):
    message = f"^search: storage is in use by another search: '{tmp_path}/a'$"

    def objective(parameters, report):
        with pytest.raises(RuntimeError, match=message):
            search(bowl, SPACE, storage=tmp_path / "a", name="other")
        return 0

    assert len(search(objective, SPACE, trials=2, storage=tmp_path / "a").trials) == 2


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda a: search(bowl, SPACE, seed=1, storage=a),
            "search: seed must be 0, as 'search' in storage was begun, got 1",
        ),
        (
            lambda a: search(bowl, SPACE, direction="maximize", storage=a),
            "search: direction must be 'minimize', as 'search' in storage was begun, got 'maximize'",
        ),
        (
            lambda a: search(bowl, {"p": uniform(0, 1)}, storage=a),
            f"search: space must be {repr(SPACE)!r}, as 'search' in storage was begun, "
            "got \"{'p': uniform(low=0.0, high=1.0)}\"",
        ),
        (
            lambda a: coarse_to_fine(bowl, SPACE, storage=a),
            "coarse_to_fine: function must be 'search', as 'search' in storage was begun, got 'coarse_to_fine'",
        ),
        (
            lambda a: coarse_to_fine(bowl, SPACE, trials=3, storage=a, name="rounds"),
            "coarse_to_fine: trials must be 2, as 'rounds' in storage was begun, got 3",
        ),
        (
            lambda a: coarse_to_fine(bowl, SPACE, trials=2, shrink=0.5, storage=a, name="rounds"),
            "coarse_to_fine: shrink must be 0.25, as 'rounds' in storage was begun, got 0.5",
        ),
        (
            lambda a: search(bowl, SPACE, storage=a, name="strange"),
            "search: name must be that of a search, got 'strange', another study",
        ),
    ],
)
def test_another_search_is_refused(tmp_path, call, message):
    storage = tmp_path / "a"
    search(bowl, SPACE, trials=2, storage=storage)
    coarse_to_fine(bowl, SPACE, trials=2, storage=storage, name="rounds")
    journal = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(storage)))
    optuna.create_study(study_name="strange", storage=journal).optimize(lambda trial: 0, n_trials=1)
    before = storage.read_bytes()
    with pytest.raises(ValueError) as caught:  # noqa: PT011 (compared below)
        call(storage)
    assert str(caught.value) == message
    assert storage.read_bytes() == before


@pytest.mark.parametrize("content", [b"number,value\n1,2", b"SQLite format 3\0", b"\n"])
def test_files_of_another_kind_are_refused_and_left_as_they_are(tmp_path, content):
    path = tmp_path / "data"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"^search: storage must be new or a journal of Optuna's, got '{path}'$"):
        search(bowl, SPACE, storage=path)
    assert path.read_bytes() == content


# -- rounds


@pytest.mark.parametrize("direction", ["minimize", "maximize"])
def test_rounds_are_narrowed_around_the_best(direction):
    result = coarse_to_fine(falling, SPACE, rounds=3, trials=8, shrink=0.3, seed=3, direction=direction)
    assert [(t["number"], t["round"]) for t in result.trials] == [(n, 1 + n // 8) for n in range(24)]
    assert all_parameters(result)[:8] == all_parameters(search(falling, SPACE, trials=8, seed=3, direction=direction))
    better = min if direction == "minimize" else max
    for round_ in (1, 2):
        earlier = [t for t in result.trials[: 8 * round_] if t["state"] == "complete"]
        best = better(earlier, key=lambda t: t["value"])["parameters"]
        for trial in result.study.trials[8 * round_ : 8 * round_ + 8]:
            for name in ("lr", "p"):
                low, high = SPACE[name].low, SPACE[name].high
                got = trial.distributions[name]
                if name == "lr":
                    half = (high / low) ** (0.3**round_ / 2)
                    expected = max(low, best[name] / half), min(high, best[name] * half)
                else:
                    half = (high - low) * 0.3**round_ / 2
                    expected = max(low, best[name] - half), min(high, best[name] + half)
                np.testing.assert_allclose((got.low, got.high), expected, rtol=1e-12)
                assert got.low <= trial.params[name] <= got.high
            assert trial.distributions["act"].choices == ("relu", "elu")
            assert 4 <= trial.distributions["units"].low <= best["units"] <= trial.distributions["units"].high <= 64
    assert result.study.user_attrs["plan"]["shrink"] == 0.3
    assert result.space == SPACE


def test_fine_is_better_than_coarse():
    """Of a bowl in two dimensions 20 coarse and 20 fine draws find more than 40 coarse ones, for most seeds."""
    space = {**SPACE, "act": choice("elu")}
    fine = [coarse_to_fine(bowl, space, trials=20, seed=seed).value for seed in range(12)]
    coarse = [search(bowl, space, trials=40, seed=seed).value for seed in range(12)]
    assert sum(f < c for f, c in zip(fine, coarse, strict=True)) >= 9
    assert np.median(fine) < 0.5 * np.median(coarse)


@pytest.mark.parametrize("at", [2, 7, 13])
def test_interrupted_rounds_go_on(tmp_path, at):
    objective, rounds = Counting(at), functools.partial(coarse_to_fine, trials=7, seed=1)
    whole = rounds(bowl, SPACE)
    values = [t["value"] for t in whole.trials]
    assert min(values[7:13]) < min(values[:7])  # and yet the rest of the round stays where it was
    with pytest.raises(Interrupted):
        rounds(objective, SPACE, storage=tmp_path / "a", trials=np.int64(7))
    assert rounds(objective, SPACE, storage=tmp_path / "a").trials == whole.trials
    assert len(objective.calls) == 15
    more = rounds(objective, SPACE, rounds=3, storage=tmp_path / "a")
    assert more.trials == rounds(bowl, SPACE, rounds=3).trials
    assert len(objective.calls) == 22


# -- cross-validation

X, T = np.arange(46.0).reshape(23, 2), np.arange(23) % 3


def test_cross_validated_is_the_mean_over_the_folds():
    parts, reports = [], []

    def train(parameters, training, validation):
        parts.append((training, validation))
        return parameters["a"] * validation[0].sum() + training[1].sum()

    objective = cross_validated(train, X, T, k=4, stratify=T, seed=5)
    value = objective({"a": 2}, lambda value, step: reports.append((value, step)))
    figures = [2 * X[v].sum() + T[t].sum() for t, v in k_fold(23, 4, stratify=T, seed=5)]
    assert value == pytest.approx(np.mean(figures), rel=1e-14)
    assert [step for _, step in reports] == [0, 1, 2, 3]
    np.testing.assert_allclose([v for v, _ in reports], np.cumsum(figures) / np.arange(1, 5), rtol=1e-14)
    for (training, validation), (t, v) in zip(parts, k_fold(23, 4, stratify=T, seed=5), strict=True):
        for part, rows in ((training, t), (validation, v)):
            assert isinstance(part, tuple)
            np.testing.assert_array_equal(part[0], X[rows])
            np.testing.assert_array_equal(part[1], T[rows])
    assert objective({"a": 2}) == value  # without a report


def test_one_array_comes_without_a_tuple():
    def train(parameters, training, validation):
        assert sorted([*training, *validation]) == list(range(23))
        return len(validation)

    assert cross_validated(train, np.arange(23))({}) == 23 / 5


def test_settings_without_hope_are_given_up_after_the_first_folds():
    folds = []

    def train(parameters, training, validation):
        folds.append(parameters["p"])
        return parameters["p"] + 0.001 * len(validation)

    result = search(cross_validated(train, X, T), SPACE, trials=20)
    for trial in result.trials:
        assert folds.count(trial["parameters"]["p"]) == (5 if trial["state"] == "complete" else 1)
    assert len(folds) < 80
    assert result.best["p"] == min(folds)


# -- processes


def traces(folder, parameters):
    """Notes a call of an objective that may be in any process."""
    (Path(folder) / f"{parameters['p']} {os.getpid()} {time.monotonic_ns()}").touch()


class InFolder:
    """Objectives that leave traces in a folder."""

    def __init__(self, folder, kill=None):
        self.folder, self.kill = folder, kill

    def __call__(self, parameters, report):
        traces(self.folder, parameters)
        assert gradfuse.get_num_threads() == 1
        assert {os.environ[f"{library}_NUM_THREADS"] for library in ("OMP", "OPENBLAS", "MKL")} == {"1"}
        if report.trial.user_attrs["number"] == self.kill and not (Path(self.folder) / "killed").exists():
            (Path(self.folder) / "killed").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(0.02)
        return bowl(parameters, report)


def calls(folder):
    """[(p, process)] of the calls."""
    return [tuple(path.name.split()[:2]) for path in folder.iterdir() if path.name != "killed"]


def test_two_processes(tmp_path, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setenv("MKL_NUM_THREADS", "3")
    before = dict(os.environ)
    result = coarse_to_fine(InFolder(tmp_path), SPACE, trials=10, workers=2)
    assert dict(os.environ) == before
    alone = coarse_to_fine(bowl, SPACE, trials=10)
    assert result.trials == alone.trials
    assert (result.best, result.value) == (alone.best, alone.value)
    done = calls(tmp_path)
    assert len(done) == 20
    assert len({process for _, process in done} - {str(os.getpid())}) == 2
    assert result.study.best_params == result.best  # the file it was in is gone
    assert result.study.user_attrs == alone.study.user_attrs
    assert sorted(t.user_attrs["number"] for t in result.study.trials) == list(range(20))


def test_a_killed_worker_costs_only_what_it_was_at(tmp_path):
    folder = tmp_path / "calls"
    folder.mkdir()
    storage, objective = tmp_path / "search.journal", InFolder(folder, kill=6)
    with pytest.raises(
        RuntimeError, match=r"^search: a worker process has died; with a storage, the same call goes on"
    ):
        search(objective, SPACE, trials=12, storage=storage, workers=2)
    begun = calls(folder)
    result = search(objective, SPACE, trials=12, storage=storage, workers=2)
    assert result.trials == search(bowl, SPACE, trials=12).trials
    failed = [t for t in result.study.trials if t.state.name == "FAIL"]
    assert 6 in {t.user_attrs.get("number") for t in failed}
    assert 1 <= len(failed) <= 2  # the other worker is ended too
    assert len(begun) <= len(calls(folder)) <= 12 + len(failed)
    assert {t.state.name for t in result.study.trials} == {"COMPLETE", "FAIL"}


def endless(parameters, report):
    """From number 2 on is at work for ever, with a file locked that is there as long as the process."""
    number = report.trial.user_attrs["number"]
    if number >= 2:
        with open(Path(os.environ["GRADFUSE_TEST_FOLDER"]) / str(number), "w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            time.sleep(1000)
    return bowl(parameters, report)


def test_a_killed_search_leaves_no_process_and_goes_on(tmp_path):
    folder = tmp_path / "processes"
    folder.mkdir()
    storage = tmp_path / "search.journal"
    code = f"import test_search as t; t.search(t.endless, t.SPACE, trials=6, storage={str(storage)!r}, workers=2)"
    here = Path(__file__).parent
    path = os.pathsep.join([str(Path(gradfuse.__file__).parents[1]), str(here)])
    environment = {**os.environ, "PYTHONPATH": path, "GRADFUSE_TEST_FOLDER": str(folder)}
    process = subprocess.Popen([sys.executable, "-c", code], env=environment, cwd=here)
    wait_until(lambda: len(list(folder.iterdir())) == 2)
    with pytest.raises(RuntimeError, match="is in use by another search"):
        search(bowl, SPACE, trials=6, storage=storage)
    process.kill()
    process.wait()
    for path in folder.iterdir():
        with open(path) as file:
            wait_until(functools.partial(free, file))
    result = search(bowl, SPACE, trials=6, storage=storage)
    assert result.trials == search(bowl, SPACE, trials=6).trials
    failed = [t.user_attrs["number"] for t in result.study.trials if t.state.name == "FAIL"]
    assert sorted(failed) == [2, 3]


def wait_until(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def free(file):
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


class Unportable(Exception):
    """Can be pickled, but not unpickled."""

    def __init__(self, what, where):
        super().__init__(f"{what} {where}")


def wrong(parameters, report):
    raise Interrupted(f"at {report.trial.user_attrs['number']}")


def wrong_too(parameters, report):
    raise Unportable("wrong", "too")


def test_an_exception_in_a_worker_reaches_the_caller(tmp_path):
    with pytest.raises(Interrupted, match=r"^at [01]$") as caught:
        search(wrong, SPACE, trials=50, workers=2, storage=tmp_path / "a")
    assert "in wrong\n" in str(caught.value.__cause__)  # its traceback
    states = [t.state.name for t in load(tmp_path / "a").trials]
    assert set(states) == {"FAIL"}
    assert len(states) <= 2
    with pytest.raises(RuntimeError, match=r"^Unportable\('wrong too'\)$"):
        search(wrong_too, SPACE, trials=2, workers=2)


class FirstWhenSecondIsOver:
    """Number 0 waits for number 1 and then, the first time, fails."""

    def __init__(self, folder):
        self.folder = folder

    def __call__(self, parameters, report):
        if report.trial.user_attrs["number"] == 0:
            wait_until(lambda: len(load(self.folder / "a").get_trials(states=[optuna.trial.TrialState.COMPLETE])))
            if not (self.folder / "failed").exists():
                (self.folder / "failed").touch()
                raise Interrupted
        return bowl(parameters, report)


def test_trials_are_in_the_order_of_their_numbers(tmp_path):
    with pytest.raises(Interrupted):
        search(FirstWhenSecondIsOver(tmp_path), SPACE, trials=2, workers=2, storage=tmp_path / "a")
    result = search(FirstWhenSecondIsOver(tmp_path), SPACE, trials=2, storage=tmp_path / "a")
    assert result.trials == search(bowl, SPACE, trials=2).trials
    assert [t.user_attrs["number"] for t in result.study.trials if t.state.name == "COMPLETE"] == [1, 0]


def test_what_cannot_be_pickled_is_refused(tmp_path):
    message = "^search: objective must be picklable where workers > 1, as a module's functions are: "
    for objective in (lambda p, report: 0, cross_validated(lambda p, training, validation: 0, X)):
        with pytest.raises(TypeError, match=message):
            search(objective, SPACE, workers=2, storage=tmp_path / "a")
    assert list(tmp_path.iterdir()) == []


# -- pictures


def marks(axes):
    """{label: its points} of the lines in a panel."""
    return {line.get_label(): np.transpose(line.get_data()) for line in axes.lines}


def test_plot(tmp_path):
    pytest.importorskip("matplotlib")
    result = coarse_to_fine(falling, SPACE, rounds=2, trials=20, shrink=0.9)
    assert {(t["round"], t["state"]) for t in result.trials} == set(itertools.product((1, 2), ("complete", "pruned")))
    figure = result.plot(tmp_path / "search.png")
    assert (tmp_path / "search.png").read_bytes().startswith(b"\x89PNG")
    panels = [axes for axes in figure.axes if axes.axison]
    assert [axes.get_xlabel() for axes in panels] == list(SPACE)
    assert [axes.get_xscale() for axes in panels] == ["log", "log", "linear", "linear"]
    assert [t.get_text() for t in panels[2].get_xticklabels()] == ["relu", "elu"]
    assert panels[0].get_ylabel() == "value"
    assert {axes.get_yscale() for axes in panels} == {"log"}  # values from 0.04 to 4
    for name, axes in zip(SPACE, panels, strict=True):
        points = marks(axes)
        assert set(points) == {"round 1", "round 1, pruned", "round 2", "round 2, pruned", "best"}
        for label, drawn in points.items():
            state = "pruned" if "pruned" in label else "complete"
            trials = [t for t in result.trials if (f"round {t['round']}", t["state"]) == (label[:7], state)]
            if label == "best":
                trials = [t for t in result.trials if t["value"] == result.value]
            x = [t["parameters"][name] for t in trials]
            x = [("relu", "elu").index(v) for v in x] if name == "act" else x
            np.testing.assert_array_equal(drawn, np.transpose([x, [t["value"] for t in trials]]))
        colors = {line.get_label(): (line.get_color(), line.get_marker()) for line in axes.lines}
        assert colors["round 1"] == ("C0", "o")
        assert colors["round 2, pruned"] == ("C1", "x")
    assert {text.get_text() for text in figure.legends[0].get_texts()} == set(marks(panels[0]))


def test_plot_of_infinite_and_of_negative_values():
    pytest.importorskip("matplotlib")

    def objective(parameters, report):
        return math.nan if parameters["p"] > 0.5 else parameters["p"] - 0.5

    result = search(objective, {"p": uniform(0, 1)}, trials=15)
    (axes,) = result.plot().axes
    assert axes.get_yscale() == "linear"
    shown, edge = (line.get_data() for line in axes.lines[:2])
    np.testing.assert_array_equal(np.sort(shown[0]), sorted(p["p"] for p in all_parameters(result) if p["p"] <= 0.5))
    np.testing.assert_array_equal(np.sort(edge[0]), sorted(p["p"] for p in all_parameters(result) if p["p"] > 0.5))
    assert set(edge[1]) == {1}
    search(lambda p, report: math.nan, SPACE, trials=2, direction="maximize").plot()


# -- errors


OPTIONS = [
    ({"trials": 0}, ValueError, "trials must be an integer >= 1, got 0"),
    ({"trials": 2.0}, TypeError, "trials must be an integer >= 1, got 2.0"),
    ({"trials": True}, TypeError, "trials must be an integer >= 1, got True"),
    ({"storage": 3}, TypeError, "storage must be a path or None, got 3"),
    ({"storage": "/no/folder/a"}, ValueError, "storage must be a file in a folder that exists, got '/no/folder/a'"),
    ({"storage": "/"}, ValueError, "storage must be a file in a folder that exists, got '/'"),
    ({"name": None}, TypeError, "name must be a string, got None"),
    ({"seed": -1}, ValueError, "seed must be an integer >= 0, got -1"),
    ({"seed": None}, TypeError, "seed must be an integer >= 0, got None"),
    ({"workers": 0}, ValueError, "workers must be an integer >= 1, got 0"),
    ({"prune": "median"}, TypeError, "prune must be True or False, got 'median'"),
    ({"direction": "min"}, ValueError, "direction must be 'minimize' or 'maximize', got 'min'"),
    ({"progress": 1}, TypeError, "progress must be True or False, got 1"),
    ({"objective": 3}, TypeError, "objective must be a function, got 3"),
    ({"space": {}}, ValueError, "space must hold at least one hyper-parameter, got none"),
    (
        {"space": {"lr": (0, 1)}},
        TypeError,
        "space must be a dict of uniform, log_uniform, integer, choice by name, got {'lr': (0, 1)}",
    ),
    (
        {"space": [uniform(0, 1)]},
        TypeError,
        "space must be a dict of uniform, log_uniform, integer, choice by name, got [uniform(low=0.0, high=1.0)]",
    ),
    (
        {"space": {1: uniform(0, 1)}},
        TypeError,
        "space must be a dict of uniform, log_uniform, integer, choice by name, got {1: uniform(low=0.0, high=1.0)}",
    ),
    (
        {"objective": lambda p, report: "0.5"},
        TypeError,
        "objective must return a number, got '0.5'",
    ),
    ({"objective": lambda p, report: None}, TypeError, "objective must return a number, got None"),
    ({"objective": lambda p, report: True}, TypeError, "objective must return a number, got True"),
]


@pytest.mark.parametrize("function", ["search", "coarse_to_fine"])
@pytest.mark.parametrize(("given", "error", "message"), OPTIONS, ids=[m[:40] for _, _, m in OPTIONS])
def test_errors_of_a_search(function, given, error, message, tmp_path):
    arguments = {"objective": bowl, "space": SPACE, "storage": tmp_path / "a", "progress": False, **given}
    with pytest.raises(error) as caught:
        getattr(module, function)(**arguments)
    assert str(caught.value) == f"{function}: {message}"
    assert ("return" in message) == (tmp_path / "a").exists()


ERRORS = [
    (
        lambda: coarse_to_fine(bowl, SPACE, rounds=0),
        ValueError,
        "coarse_to_fine: rounds must be an integer >= 1, got 0",
    ),
    (
        lambda: coarse_to_fine(bowl, SPACE, shrink=1),
        ValueError,
        "coarse_to_fine: shrink must be a number in (0, 1), got 1",
    ),
    (
        lambda: coarse_to_fine(bowl, SPACE, shrink="half"),
        TypeError,
        "coarse_to_fine: shrink must be a number in (0, 1), got 'half'",
    ),
    (lambda: uniform(0, math.inf), ValueError, "uniform: high must be a finite number, got inf"),
    (lambda: uniform(None, 1), TypeError, "uniform: low must be a finite number, got None"),
    (lambda: uniform(2, 1), ValueError, "uniform: high must be at least low, 2.0, got 1.0"),
    (lambda: log_uniform(0, 1), ValueError, "log_uniform: low must be a finite number > 0, got 0"),
    (lambda: log_uniform(1e-3, "1"), TypeError, "log_uniform: high must be a finite number > 0, got '1'"),
    (lambda: log_uniform(1, 0.5), ValueError, "log_uniform: high must be at least low, 1.0, got 0.5"),
    (lambda: integer(1, 2.0), TypeError, "integer: high must be an integer, got 2.0"),
    (lambda: integer(True, 2), TypeError, "integer: low must be an integer, got True"),
    (lambda: integer(3, 2), ValueError, "integer: high must be at least low, 3, got 2"),
    (lambda: integer(0, 2, log=True), ValueError, "integer: low must be an integer >= 1, got 0"),
    (lambda: integer(1, 2, log=1), TypeError, "integer: log must be True or False, got 1"),
    (lambda: choice(), ValueError, "choice: values must be one or more that differ, got ()"),
    (lambda: choice(1, 2, 1), ValueError, "choice: values must be one or more that differ, got (1, 2, 1)"),
    (lambda: choice(1, True), ValueError, "choice: values must be one or more that differ, got (1, True)"),
    (
        lambda: choice((1, 2)),
        TypeError,
        "choice: values must be strings, numbers, booleans or None, got (1, 2)",
    ),
    (lambda: cross_validated(3, X), TypeError, "cross_validated: train must be a function, got 3"),
    (lambda: cross_validated(bowl), TypeError, "cross_validated: arrays must be at least one, got none"),
    (
        lambda: cross_validated(bowl, X, T[:3]),
        ValueError,
        "cross_validated: arrays must have one number of samples, got shapes [(23, 2), (3,)]",
    ),
    (lambda: cross_validated(bowl, X, k=1), ValueError, "k_fold: k must be an integer >= 2, got 1"),
    (lambda: cross_validated(bowl, X, stratify=T[1:]), ValueError, "k_fold: stratify must have shape (23,), got (22,)"),
    (
        lambda: cross_validated(lambda p, training, validation: None, X)({}),
        TypeError,
        "cross_validated: train must return a number, got None",
    ),
]


@pytest.mark.parametrize(("call", "error", "message"), ERRORS, ids=[e[2][:40] for e in ERRORS])
def test_errors(call, error, message):
    with pytest.raises(error) as caught:
        call()
    assert str(caught.value) == message


def test_what_is_missing_is_named(monkeypatch):
    result = search(bowl, SPACE, trials=1)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"^Result.plot: matplotlib is needed: pip install gradfuse\[training\]$"):
        result.plot()
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(ImportError, match=r"^coarse_to_fine: optuna is needed: pip install gradfuse\[search\]$"):
        coarse_to_fine(bowl, SPACE)


def test_optuna_is_imported_by_a_search_alone():
    code = (
        "import sys, gradfuse.search as s; s.uniform(0, 1); print({'optuna', 'matplotlib', 'tqdm'} & set(sys.modules))"
    )
    assert python("-c", code).stdout == "set()\n"


@pytest.mark.parametrize(
    "name", ["choice", "coarse_to_fine", "cross_validated", "integer", "log_uniform", "search", "uniform"]
)
def test_documentation(name):
    doc = inspect.getdoc(getattr(module, name))
    assert "Raises" in doc
    assert "Source:" in doc
    assert set(module.__all__) >= {name}
