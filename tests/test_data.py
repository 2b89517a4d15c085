"""Standardising, one-hot rows, splits, batches and their resumption, prefetching, augmentation."""

import copy
import functools
import inspect
import itertools
import json
import pickle
import sys
import threading
import time
import traceback
import types
import weakref
from collections import Counter
from types import SimpleNamespace

import ml_dtypes
import numpy as np
import pytest
from helpers import BFLOAT16, LAYOUTS, assert_identical, python
from scipy import ndimage

from gradfuse import data, schedules
from gradfuse.data import Batches, Standardizer, augment, compose, crop, flip, noise, prefetch, rotate, shift

FLOATS = ["float16", BFLOAT16, "float32", "float64"]


def prefetching():
    return [thread for thread in threading.enumerate() if thread.name.startswith("gradfuse-prefetch")]


@pytest.fixture(autouse=True)
def no_thread_left_behind():
    yield
    assert not prefetching()


def read_only(a):
    a = a.copy()
    a.flags.writeable = False
    return a


# -- features and labels


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_standardizer_is_that_of_sklearn(rng, layout):
    preprocessing = pytest.importorskip("sklearn.preprocessing")
    train, rest = rng.normal(3, 5, (40, 7)), rng.normal(0, 9, (11, 7))
    train[:, 2] = 4.5
    theirs, ours = preprocessing.StandardScaler().fit(train), Standardizer().fit(layout(train))
    np.testing.assert_allclose(ours.mean, theirs.mean_, rtol=1e-14)
    np.testing.assert_allclose(ours.std, theirs.scale_, rtol=1e-14)
    for x in (train, rest):
        np.testing.assert_allclose(ours.transform(layout(x)), theirs.transform(x), rtol=1e-13, atol=1e-14)
        np.testing.assert_allclose(ours.inverse(layout(x)), theirs.inverse_transform(x), rtol=1e-13)


def test_standardizer_of_images_goes_by_channel(rng):
    x = rng.normal(0, 1, (10, 3, 4, 5)) * [[[1]], [[10]], [[100]]] + [[[5]], [[0]], [[-7]]]
    standardizer = Standardizer(axis=(0, 2, 3)).fit(x)
    assert standardizer.mean.shape == standardizer.std.shape == (3, 1, 1)
    y = standardizer.transform(x)
    for channel in range(3):
        plane = x[:, channel]
        deviation = np.sqrt(((plane - plane.mean()) ** 2).sum() / 200)
        np.testing.assert_allclose(y[:, channel], (plane - plane.mean()) / deviation, rtol=1e-12, atol=1e-13)
    assert_identical(standardizer.transform(x[3]), y[3])


@pytest.mark.parametrize("dtype", FLOATS)
def test_standardizer_rounds_once(rng, dtype):
    x = rng.normal(100, 3, (50, 4)).astype(dtype)
    standardizer = Standardizer().fit(x)
    exact = x.astype(np.float64)
    y = (exact - exact.mean(axis=0)) / exact.std(axis=0)
    assert_identical(standardizer.transform(x), y.astype(dtype))
    back = standardizer.inverse(y.astype(dtype))
    assert back.dtype == dtype
    np.testing.assert_allclose(
        back.astype(float), exact, rtol=2 * float(ml_dtypes.finfo(back.dtype).eps), err_msg="inverse"
    )


def test_standardizer_is_accurate_far_from_zero():
    x = (1.6e7 + np.arange(16)).astype(np.float32)[:, None]  # float32 has no fractions here, and its sums fewer
    assert Standardizer().fit(x).mean == 1.6e7 + 7.5
    np.testing.assert_allclose(Standardizer().fit(x).std, np.sqrt((16**2 - 1) / 12), rtol=1e-15)


@pytest.mark.parametrize("value", [0.1, 0.7, 1e-300, -1e30])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_columns_without_spread_become_zero(value, dtype):
    x = np.full((7, 2), value, dtype)  # the mean of 7 times 0.1 is not 0.1, and their std not 0
    x[:, 1] = np.arange(7)
    standardizer = Standardizer().fit(x)
    assert standardizer.std[0] == 1
    assert not standardizer.transform(x)[:, 0].any()
    assert standardizer.transform(x)[:, 1].std() == pytest.approx(1)


@pytest.mark.parametrize("dtype", ["uint8", "int64"])
def test_integers_become_float32(dtype):
    x = np.array([[0, 250], [255, 250], [3, 250]], dtype)
    y = Standardizer().fit(x).transform(x)
    exact = x.astype(float)
    assert_identical(y, ((exact - exact.mean(axis=0)) / np.array([exact[:, 0].std(), 1])).astype(np.float32))
    assert Standardizer().fit(x).inverse(x).dtype == np.float32


def test_nan_stays_in_its_column():
    x = np.array([[1.0, 2.0], [np.nan, 4.0]])
    assert np.isnan(Standardizer().fit(x).transform(x)).tolist() == [[True, False], [True, False]]


def test_standardize_looks_at_the_training_part_alone(rng):
    parts = [read_only(rng.normal(size=(n, 3))) for n in (20, 5, 4)]
    fitted = Standardizer().fit(parts[0])
    results = data.standardize(*parts)
    assert len(results) == 3
    for result, part in zip(results, parts, strict=True):
        assert_identical(result, fitted.transform(part))
    images = rng.normal(size=(6, 2, 3, 3))
    assert_identical(data.standardize(images, axis=(0, 2, 3))[0], Standardizer((0, 2, 3)).fit(images).transform(images))


def test_standardizer_state():
    x = np.array([[1.0, 5.0], [4.0, 5.5]])
    first, second = Standardizer().fit(x), Standardizer()
    state = first.state_dict()
    second.load_state_dict(json.loads(json.dumps({key: a.tolist() for key, a in state.items()})))
    assert_identical(second.transform(x), first.transform(x))
    state["mean"][:] = 99
    assert first.mean[0] == 2.5
    for bad, error in [
        ({"mean": state["mean"]}, TypeError),
        ([1], TypeError),
        ({"mean": [1, 2], "std": [1]}, ValueError),
    ]:
        with pytest.raises(error, match=r"^Standardizer.load_state_dict: state must "):
            second.load_state_dict(bad)
        assert_identical(second.transform(x), first.transform(x))


@pytest.mark.parametrize(
    ("labels", "classes"),
    [([3, 0, 1], None), ([[2, 2], [0, 1]], 5), (4, None), ([], 3), (np.uint8([255, 0]), 256), (np.uint64([1, 0]), 2)],
)
def test_one_hot_is_that_of_torch(labels, classes):
    torch = pytest.importorskip("torch")
    labels = np.asarray(labels, None if np.size(labels) else int)
    theirs = torch.nn.functional.one_hot(torch.from_numpy(labels.astype(np.int64)), -1 if classes is None else classes)
    assert_identical(data.one_hot(labels, classes), theirs.numpy().astype(np.float32))
    for dtype in ("float64", "bool", BFLOAT16):
        assert_identical(data.one_hot(labels, classes, dtype), theirs.numpy().astype(dtype))


# -- splits


@pytest.mark.parametrize("n", [0, 1, 2, 3, 10, 97, 100])
@pytest.mark.parametrize(
    "fractions", [(0.8, 0.1, 0.1), (0.5, 0.5), (1.0,), (0.25, 0.0, 0.75), (0.7, 0.2, 0.1), [1 / 3] * 3]
)
def test_every_sample_is_in_one_part(n, fractions):
    x = np.arange(n)
    parts = data.split(x, fractions=fractions, seed=n)
    assert len(parts) == len(fractions)
    assert sorted(np.concatenate(parts)) == list(range(n))
    for part, fraction in zip(parts, fractions, strict=True):
        assert abs(len(part) - n * fraction) <= 1
        assert (np.diff(part) > 0).all(), "in the order they had"


def test_split_sizes_are_exact_where_they_can_be():
    assert [len(part) for part in data.split(np.arange(100))] == [80, 10, 10]
    assert [len(part) for part in data.split(np.arange(1797), fractions=(0.8, 0.2))] == [1438, 359]


def test_split_keeps_samples_together(rng):
    x, t = read_only(rng.normal(size=(50, 2, 3))), read_only(np.arange(50))
    parts = data.split(x, t, fractions=(0.6, 0.4), seed=3)
    for part_x, part_t in parts:
        assert_identical(part_x, x[part_t])
        assert part_x.flags.writeable
    again = data.split(t, fractions=(0.6, 0.4), seed=3)
    assert [a.tolist() for a in again] == [part_t.tolist() for _, part_t in parts]
    other = data.split(t, fractions=(0.6, 0.4), seed=4)
    assert other[0].tolist() != again[0].tolist()


def test_every_sample_may_come_into_every_part():
    counts = sum(np.isin(np.arange(10), data.split(np.arange(10), seed=seed)[1]).astype(int) for seed in range(2000))
    assert abs(counts - 200).max() < 5 * np.sqrt(2000 * 0.1 * 0.9)


@pytest.mark.parametrize("fractions", [(0.8, 0.1, 0.1), (0.5, 0.5), (0.37, 0.21, 0.42), (0.2,) * 5])
@pytest.mark.parametrize("labels", ["few", "many", "letters", "alone"])
def test_stratified_parts_have_the_proportions_of_the_whole(rng, fractions, labels):
    stratify = {
        "few": rng.choice([3, -1, 7], 211, p=[0.8, 0.15, 0.05]),
        "many": rng.integers(0, 60, 300),
        "letters": np.array(list("abracadabra") * 9),
        "alone": rng.permutation(200),
    }[labels]
    n = len(stratify)
    for seed in range(20):
        parts = data.split(np.arange(n), fractions=fractions, stratify=stratify, seed=seed)
        assert sorted(np.concatenate(parts)) == list(range(n))
        for part, fraction in zip(parts, fractions, strict=True):
            here = Counter(stratify[part].tolist())
            for label, count in Counter(stratify.tolist()).items():
                assert abs(here[label] - count * fraction) <= 1
            # What single classes lack or have too much evens out: a sum of roundings, not of their worst cases.
            assert abs(len(part) - n * fraction) <= (1 if labels == "alone" else 2.5 * len(set(stratify)) ** 0.5)


@pytest.mark.parametrize("stratify", [[0] * 8 + [1] * 4, list(range(12))])
def test_stratified_samples_are_chosen_at_random(stratify):
    chosen = Counter()
    for seed in range(1000):
        parts = data.split(np.arange(12), fractions=(0.75, 0.25), stratify=np.array(stratify), seed=seed)
        chosen.update(parts[1].tolist())
    assert chosen.keys() == set(range(12))
    assert all(abs(count - 250) < 5 * np.sqrt(1000 * 0.25 * 0.75) for count in chosen.values())


@pytest.mark.parametrize(("n", "k"), [(2, 2), (10, 5), (23, 4), (7, 7)])
@pytest.mark.parametrize("stratified", [False, True])
def test_k_fold(rng, n, k, stratified):
    stratify = rng.integers(0, 3, n) if stratified else None
    folds = list(data.k_fold(n, k, stratify=stratify, seed=1))
    assert len(folds) == k
    assert sorted(np.concatenate([validation for _, validation in folds])) == list(range(n))
    for training, validation in folds:
        assert sorted([*training, *validation]) == list(range(n))
    counts = np.array([np.bincount(stratify[v] if stratified else v * 0, minlength=3) for _, v in folds])
    assert np.ptp(counts, axis=0).max() <= 1
    assert np.ptp(counts.sum(axis=1)) <= 1


def test_k_fold_goes_by_its_seed():
    folds = [[v.tolist() for _, v in data.k_fold(20, seed=seed)] for seed in (0, 0, 1)]
    assert folds[0] == folds[1] != folds[2]
    assert len(folds[0]) == 5


# -- batches


def jitter(x, t, rng):
    return x + rng.normal(size=x.shape).astype(x.dtype), t * rng.integers(1, 9)


def growing(epoch):
    return 4 + 3 * epoch


def flat(batches):
    """Batches as bytes with shape and dtype, to be compared whole."""
    return [
        [(a.dtype.str, a.shape, a.tobytes()) for a in (batch if isinstance(batch, tuple) else (batch,))]
        for batch in batches
    ]


def pair(rng, n=23):
    return read_only(rng.normal(size=(n, 2)).astype(np.float32)), read_only(np.arange(n))


@pytest.mark.parametrize("depth", [0, 1, 3])
@pytest.mark.parametrize(("n", "size"), [(1, 1), (1, 5), (23, 4), (24, 4), (5, 100), (7, 1)])
def test_an_epoch_has_every_sample_once(n, size, depth):
    batches = Batches(np.arange(n), batch_size=size, prefetch=depth)
    for epoch in range(3):
        assert (batches.epoch, batches.position) == (epoch, 0)
        assert len(batches) == -(-n // size)
        parts = list(batches)
        assert [len(part) for part in parts] == [size] * (n // size) + [n % size] * (n % size > 0)
        assert np.concatenate(parts).tolist() == np.random.default_rng([0, epoch]).permutation(n).tolist()


@pytest.mark.parametrize("depth", [0, 2])
@pytest.mark.parametrize(("n", "size"), [(23, 4), (24, 4), (1, 1), (3, 4)])
def test_the_last_batch_may_be_dropped(n, size, depth):
    batches = Batches(np.arange(n), batch_size=size, drop_last=True, seed=5, prefetch=depth)
    assert len(batches) == n // size
    parts = list(batches)
    assert [len(part) for part in parts] == [size] * (n // size)
    taken = [i for part in parts for i in part]
    assert taken == np.random.default_rng([5, 0]).permutation(n)[: len(taken)].tolist()
    assert batches.epoch == 1


@pytest.mark.parametrize("drop_last", [False, True])
def test_there_are_as_many_batches_as_torch_has(drop_last):
    loader = pytest.importorskip("torch.utils.data").DataLoader
    for n, size in itertools.product(range(1, 12), range(1, 13)):
        theirs = [len(batch) for batch in loader(range(n), size, drop_last=drop_last)]
        batches = Batches(np.arange(n), batch_size=size, drop_last=drop_last)
        assert [len(batch) for batch in batches] == theirs
        assert len(batches) == len(theirs)


def test_the_order_depends_on_seed_and_epoch_alone():
    def orders(seed, **options):
        batches = Batches(np.arange(40), seed=seed, **options)
        return [np.concatenate(list(batches)).tolist() for _ in range(3)]

    assert orders(1) == orders(1, batch_size=7) == orders(np.int64(1), prefetch=2)
    distinct = [order for seed in (0, 1, 2**40) for order in orders(seed)]
    assert len({tuple(order) for order in distinct}) == 9
    assert orders(1, shuffle=False) == [list(range(40))] * 3


def test_batches_are_new_arrays_of_every_array(rng):
    x, t = pair(rng)
    for shuffle in (False, True):
        for part_x, part_t in Batches(x, t, shuffle=shuffle, batch_size=5):
            assert_identical(part_x, x[part_t])
            part_x[:] = 0
            part_t[:] = 0
    single = next(iter(Batches(x, shuffle=False, batch_size=5)))
    assert_identical(single, x[:5].copy())
    assert not np.shares_memory(single, x)


def test_batches_of_a_memory_map(tmp_path):
    array = np.lib.format.open_memmap(tmp_path / "x.npy", "w+", np.float32, (10, 3))
    array[:] = np.arange(30).reshape(10, 3)
    assert sorted(np.concatenate(list(Batches(array, batch_size=3)))[:, 0]) == list(range(0, 30, 3))


def test_a_growing_batch():
    schedule = schedules.growing_batch(4, 2, every=2, largest=10)
    batches = Batches(np.arange(20), batch_size=schedule)
    sizes = [[len(part) for part in batches] for _ in range(6)]
    assert sizes == [[4] * 5] * 2 + [[8, 8, 4]] * 2 + [[10, 10]] * 2


@pytest.mark.parametrize("depth", [0, 1, 5])
@pytest.mark.parametrize(
    "options",
    [
        {"batch_size": 4, "transform": jitter},
        {"batch_size": 4, "transform": jitter, "drop_last": True, "seed": 2**70},
        {"batch_size": growing, "transform": jitter, "seed": 3},
        {"batch_size": 50, "transform": jitter},
        {"batch_size": 23},
        {"batch_size": 6, "shuffle": False},
    ],
)
def test_resumed_at_any_place_the_batches_are_those_that_were_left(rng, options, depth):
    x, t = pair(rng)
    make = functools.partial(Batches, x, t, **options)
    whole, states = [], []
    batches = make(prefetch=depth)
    for _ in range(3):
        states.append((len(whole), batches.state_dict()))  # between the epochs
        for batch in batches:
            whole.append(batch)
            states.append((len(whole), batches.state_dict()))  # with the batch done
    assert len({batch[0].tobytes() for batch in whole}) == len(whole) or not options.get("shuffle", True)
    for done, state in states:
        resumed = make(prefetch=(depth + 1) % 3)
        resumed.load_state_dict(json.loads(json.dumps(state)))
        assert resumed.state_dict() == state
        rest = []
        while resumed.epoch < 3:
            rest += resumed
        assert flat(rest) == flat(whole[done:])


def test_transforms_draw_anew_for_every_batch():
    drawn = []
    batches = Batches(np.arange(12), batch_size=3, transform=lambda x, rng: drawn.append(rng.integers(2**62)) or x)
    for _ in range(3):
        list(batches)
    assert len(set(drawn)) == 12
    # not the numbers of the order itself, in any epoch
    assert not set(drawn) & {np.random.default_rng([0, epoch]).integers(2**62) for epoch in range(12)}


def test_what_a_transform_returns_is_handed_out():
    batches = Batches(np.arange(3), np.arange(3), batch_size=2, transform=lambda x, t, *, rng: {"n": len(x)})
    assert list(batches) == [{"n": 2}, {"n": 1}]


@pytest.mark.parametrize("depth", [0, 3])
def test_an_abandoned_epoch_begins_anew(depth):
    batches = Batches(np.arange(20), batch_size=4, prefetch=depth)
    first = [part.tolist() for part in Batches(np.arange(20), batch_size=4)]
    assert [part.tolist() for part in itertools.islice(batches, 2)] == first[:2]
    assert (batches.epoch, batches.position) == (0, 2), "what was handed out, whatever was fetched"
    state = batches.state_dict()
    assert [part.tolist() for part in batches] == first
    assert (batches.epoch, batches.position) == (1, 0)

    batches.load_state_dict(state)
    assert (batches.epoch, batches.position, len(batches)) == (0, 2, 5)
    assert next(iter(batches)).tolist() == first[2]
    assert batches.position == 3
    assert next(iter(batches)).tolist() == first[0], "only the first iteration goes on there"


def test_a_state_of_the_last_batch_leaves_an_epoch_with_nothing():
    batches = Batches(np.arange(4), batch_size=2)
    for _ in batches:
        state = batches.state_dict()
    batches = Batches(np.arange(4), batch_size=2)
    batches.load_state_dict(state)
    assert (batches.epoch, batches.position) == (0, 2)
    assert list(batches) == []
    assert (batches.epoch, batches.position) == (1, 0)


def test_a_state_of_something_else_is_refused():
    x = np.arange(20)
    state = {"n": 20, "seed": 0, "shuffle": True, "batch_size": 4, "drop_last": False, "epoch": 1, "position": 5}
    batches = Batches(x, batch_size=4)
    batches.load_state_dict(state)
    batches.epoch = batches.position = 0
    before = batches.state_dict()
    where = r"^Batches.load_state_dict: state"
    for change, error, message in [
        ({"n": 21}, ValueError, r"\['n'\] must be 20, got 21$"),
        ({"seed": 1}, ValueError, r"\['seed'\] must be 0, got 1$"),
        ({"shuffle": False}, ValueError, r"\['shuffle'\] must be True, got False$"),
        ({"batch_size": 5}, ValueError, r"\['batch_size'\] must be 4, got 5$"),
        ({"drop_last": True}, ValueError, r"\['drop_last'\] must be False, got True$"),
        ({"position": 6}, ValueError, r"\['position'\] must be at most 5, got 6$"),
        ({"position": -1}, ValueError, r"\['position'\] must be an integer >= 0, got -1$"),
        ({"epoch": 1.0}, TypeError, r"\['epoch'\] must be an integer >= 0, got 1.0$"),
        ({"more": 1}, TypeError, r" must be what state_dict\(\) returned, got \['n', .*'more'\]$"),
    ]:
        with pytest.raises(error, match=where + message):
            batches.load_state_dict({**state, **change})
        assert batches.state_dict() == before
    with pytest.raises(TypeError, match=where + " must be what .* got list$"):
        batches.load_state_dict([state])
    by_epoch = Batches(x, batch_size=growing)
    with pytest.raises(ValueError, match=where + r"\['batch_size'\] must be 7, got 4$"):
        by_epoch.load_state_dict(state)
    with pytest.raises(ValueError, match=where + r"\['position'\] must be at most 3, got 4$"):
        by_epoch.load_state_dict({**state, "batch_size": 7, "position": 4})  # there were 5 in the epoch before
    assert by_epoch.epoch == 0


# -- prefetching


def wait_for(condition):
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


@pytest.mark.parametrize("depth", [1, 2, 7, 100])
@pytest.mark.parametrize("n", [0, 1, 2, 20])
def test_prefetch_yields_the_items_in_order(n, depth):
    assert list(prefetch(range(n), depth)) == list(range(n))
    assert list(prefetch([None] * n, depth)) == [None] * n


@pytest.mark.parametrize("depth", [1, 3])
def test_prefetch_is_so_many_items_ahead_in_one_other_thread(depth):
    taken, names = [], set()

    def items():
        for i in range(20):
            taken.append(i)
            names.add(threading.current_thread().name)
            yield i

    ahead = prefetch(items(), depth)
    assert not prefetching(), "not before the first item is asked for"
    for i in range(10):
        assert next(ahead) == i
        wait_for(lambda i=i: len(taken) == i + 1 + depth)
        assert len(prefetching()) == 1
    time.sleep(0.02)
    assert len(taken) == 10 + depth
    assert names == {thread.name for thread in prefetching()}
    ahead.close()
    assert not prefetching()
    assert len(taken) == 10 + depth


def leave_by_break():
    for _ in prefetch(itertools.count()):
        break


def leave_by_forgetting():
    ahead = prefetch(itertools.count())
    next(ahead)
    del ahead


def leave_one_within_another():
    next(prefetch(prefetch(itertools.count(), 3), 2))


def fail():
    for _ in prefetch(itertools.count()):
        raise KeyError("consumer")


def fail_in_batches():
    for _ in Batches(np.arange(9), batch_size=2, prefetch=3):
        raise KeyError("consumer")


@pytest.mark.parametrize("leave", [leave_by_break, leave_by_forgetting, leave_one_within_another])
def test_a_consumer_that_leaves_ends_the_thread(leave):
    leave()
    assert not prefetching()


@pytest.mark.parametrize("leave", [fail, fail_in_batches])
def test_a_consumer_that_fails_ends_the_thread(leave):
    with pytest.raises(KeyError, match="consumer") as caught:
        leave()
    assert not prefetching(), "though the traceback is still there"
    del caught


def test_leaving_waits_for_the_item_at_work_and_asks_for_no_other():
    at_work, leaving, taken = threading.Event(), threading.Event(), []

    def items():
        for i in itertools.count():
            taken.append(i)
            if i == 1:
                at_work.set()
                leaving.wait(10)
                time.sleep(0.3)
            yield i

    ahead = prefetch(items(), 5)
    next(ahead)
    at_work.wait(10)
    leaving.set()
    ahead.close()
    assert taken == [0, 1]
    assert not prefetching()


def failing_source(n):
    yield from range(n)
    raise LookupError("no such file")


@pytest.mark.parametrize("depth", [1, 2, 9])
@pytest.mark.parametrize("n", [0, 1, 5])
def test_exceptions_come_after_the_items_before_them(n, depth):
    ahead = prefetch(failing_source(n), depth)
    assert [next(ahead) for _ in range(n)] == list(range(n))
    with pytest.raises(LookupError, match=r"^'?no such file") as caught:
        next(ahead)
    assert "failing_source" in "".join(traceback.format_tb(caught.tb))
    assert not prefetching()
    assert list(ahead) == []


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), GeneratorExit()])
def test_exceptions_of_other_kinds_too(error):
    class Source:
        def __iter__(self):
            return self

        def __next__(self):
            raise error

    with pytest.raises(type(error)) as caught:
        next(prefetch(Source()))
    assert caught.value is error


@pytest.mark.parametrize("depth", [0, 2])
def test_a_transform_that_fails_leaves_the_epoch_where_it_was(depth):
    fails = True

    def transform(x, rng):
        if fails and 7 in x:
            raise ArithmeticError("seven")
        return x

    batches = Batches(np.arange(20), batch_size=2, shuffle=False, transform=transform, prefetch=depth)
    seen = []
    with pytest.raises(ArithmeticError, match=r"^seven$") as caught:
        seen.extend(part.tolist() for part in batches)
    assert seen == [[0, 1], [2, 3], [4, 5]]
    assert "in transform" in "".join(traceback.format_tb(caught.tb))
    assert (batches.epoch, batches.position) == (0, 3)
    state, fails = batches.state_dict(), False
    assert np.concatenate(list(batches)).tolist() == list(range(20))
    batches.load_state_dict(state)
    assert np.concatenate(list(batches)).tolist() == list(range(6, 20))


def test_an_epoch_begun_anew_that_fails_at_once_is_at_its_beginning():
    def transform(x, rng):
        if fails:
            raise ArithmeticError
        return x

    fails, batches = False, Batches(np.arange(9), batch_size=2, transform=transform)
    list(itertools.islice(batches, 3))
    fails = True
    with pytest.raises(ArithmeticError):
        list(batches)
    assert (batches.epoch, batches.position) == (0, 0)


def test_prefetch_keeps_no_item():
    class Item:
        pass

    items = prefetch((Item() for _ in range(9)), 2)
    first = weakref.ref(next(items))
    for _ in range(3):
        next(items)
    assert first() is None
    items.close()


def test_a_process_ends_though_its_batches_are_at_work():
    code = """
import itertools, numpy as np
from gradfuse.data import Batches, prefetch
count = prefetch(itertools.count(), 3)
batches = iter(Batches(np.arange(100), batch_size=1, prefetch=4))
print(next(count), len(next(batches)))
"""
    run = python("-W", "error", "-c", code)
    assert (run.returncode, run.stdout, run.stderr) == (0, "0 1\n", "")


# -- augmentation


AUGMENTATIONS = [
    flip(),
    flip(p=0.8, axis=-2),
    shift(2, fill=3.0),
    shift(0),
    crop(3),
    crop((4, 7), padding=1),
    noise(0.5),
    noise(0),
    rotate(30.0, fill=2),
    rotate(0),
    compose(flip(), shift(1), noise(0.1)),
]
augmentations = pytest.mark.parametrize("f", AUGMENTATIONS, ids=repr)


def pictures(rng, n=12, dtype="float32", shape=(3, 6, 8)):
    """Images no two pixels of which are alike, nor 0 or a fill."""
    values = rng.permutation(n * np.prod(shape)).reshape(n, *shape) + 10
    return read_only(values.astype(dtype))


@augmentations
@pytest.mark.parametrize("dtype", [*FLOATS, "uint8", "int16"])
def test_dtype_and_shape_are_kept_and_the_input_is_not_touched(rng, f, dtype):
    images = read_only(rng.integers(1, 100, (5, 3, 6, 8)).astype(dtype))
    before = images.copy()
    result = f(images, 1)
    window = {3: (3, 3), (4, 7): (4, 7)}[f.size] if isinstance(f, crop) else (6, 8)
    assert (result.dtype, result.shape) == (images.dtype, (5, 3, *window))
    assert not np.shares_memory(result, images)
    assert result.flags.c_contiguous
    assert result.flags.writeable
    assert_identical(images, before)
    assert f(images[:0], 1).shape == (0, 3, *window)


@augmentations
@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_layouts_do_not_matter(rng, f, layout):
    images = pictures(rng)
    assert_identical(f(layout(images), 3), f(images, 3))


@augmentations
def test_rng_is_a_seed_a_generator_or_nothing(rng, f):
    images = pictures(rng)
    assert_identical(f(images, 7), f(images, np.random.default_rng(7)))
    assert_identical(f(images, np.int64(7)), f(images, 7))
    if f not in (shift(0), noise(0), rotate(0)):
        assert len({f(images, seed).tobytes() for seed in range(10)}) > 5
        assert len({f(images).tobytes() for _ in range(10)}) > 5
        generator = np.random.default_rng(0)
        assert len({f(images, generator).tobytes() for _ in range(10)}) > 5


@augmentations
def test_augmentations_are_values(f):
    assert pickle.loads(pickle.dumps(f)) == copy.deepcopy(f) == f
    assert eval(repr(f)) == f if not isinstance(f, compose) else "shift(pixels=1, fill=0.0)" in repr(f)


@pytest.mark.parametrize("p", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("axis", [-1, -2])
def test_flip(rng, p, axis):
    images = pictures(rng, 2000, shape=(2, 3, 4))
    reversed_ = images[..., ::-1] if axis == -1 else images[..., ::-1, :]
    result = flip(p, axis)(images, rng)
    flipped = (result == reversed_).all(axis=(1, 2, 3))
    assert ((result == images).all(axis=(1, 2, 3)) ^ flipped).all()
    assert abs(flipped.sum() - 2000 * p) <= 5 * np.sqrt(2000 * p * (1 - p))


def moved(image, dy, dx, fill):
    result = np.full_like(image, fill)
    _, height, width = image.shape
    for y, x in itertools.product(range(height), range(width)):
        if 0 <= y - dy < height and 0 <= x - dx < width:
            result[:, y, x] = image[:, y - dy, x - dx]
    return result


@pytest.mark.parametrize(("pixels", "fill"), [(0, 1.0), (1, 0.0), (2, -4.5)])
def test_shift(rng, pixels, fill):
    images = pictures(rng, 1500, shape=(2, 3, 4))
    results = shift(pixels, fill)(images, rng)
    found = Counter()
    for image, result in zip(images, results, strict=True):
        around = range(-pixels, pixels + 1)
        matches = [by for by in itertools.product(around, around) if (moved(image, *by, fill) == result).all()]
        assert len(matches) == 1
        found[matches[0]] += 1
    share = 1 / (2 * pixels + 1) ** 2
    assert len(found) == (2 * pixels + 1) ** 2
    assert all(abs(count - 1500 * share) <= 5 * np.sqrt(1500 * share * (1 - share)) for count in found.values())


def test_shift_beyond_the_image_leaves_the_fill():
    results = shift(50, fill=7)(np.ones((300, 1, 2, 2), np.uint8), 0)
    assert set(np.unique(results)) <= {1, 7}
    assert (results == 7).all(axis=(1, 2, 3)).mean() > 0.9


@pytest.mark.parametrize(("fill", "expected"), [(2.6, 3), (300, 255), (-1.0, 0)])
def test_integers_take_the_nearest_fill(fill, expected):
    result = shift(3, fill)(np.full((50, 1, 3, 3), 100, np.uint8), 0)
    assert set(np.unique(result)) == {100, expected}


@pytest.mark.parametrize(("size", "padding"), [(2, 0), ((3, 2), 0), ((4, 5), 1), ((5, 6), 1), ((3, 4), 0)])
def test_crop(rng, size, padding):
    images = pictures(rng, 1500, shape=(2, 3, 4))
    height, width = size if isinstance(size, tuple) else (size, size)
    results = crop(size, padding)(images, rng)
    assert results.shape == (1500, 2, height, width)
    places = list(itertools.product(range(3 + 2 * padding - height + 1), range(4 + 2 * padding - width + 1)))
    found = Counter()
    for image, result in zip(images, results, strict=True):
        padded = np.zeros((2, 3 + 2 * padding, 4 + 2 * padding), image.dtype)
        padded[:, padding : padding + 3, padding : padding + 4] = image
        matches = [(y, x) for y, x in places if (padded[:, y : y + height, x : x + width] == result).all()]
        assert len(matches) == 1
        found[matches[0]] += 1
    share = 1 / len(places)
    assert len(found) == len(places)
    assert all(abs(count - 1500 * share) <= 5 * np.sqrt(1500 * share * (1 - share)) for count in found.values())


@pytest.mark.parametrize("dtype", FLOATS)
def test_noise(rng, dtype):
    images = pictures(rng, 40, dtype)
    z = np.random.default_rng(5).standard_normal(images.shape)
    assert_identical(noise(0.25)(images, 5), (images.astype(float) + 0.25 * z).astype(dtype))
    assert_identical(noise(0)(images, 5), images)


def test_noise_of_integers_is_rounded_and_kept_in_range():
    images = np.full((20, 1, 5, 5), 250, np.uint8)
    z = np.random.default_rng(2).standard_normal(images.shape)
    result = noise(9.0)(images, 2)
    assert_identical(result, np.minimum(np.round(250 + 9.0 * z), 255).astype(np.uint8))
    assert result.max() == 255
    assert np.ptp(result) > 10


class Fixed(np.random.Generator):
    """Draws the same angle for every image."""

    def __init__(self, angle):
        super().__init__(np.random.PCG64(0))
        self.angle = angle

    def uniform(self, low, high, size):
        assert low <= self.angle <= high
        return np.full(size, self.angle)


@pytest.mark.parametrize("dtype", [*FLOATS, "uint8"])
def test_rotate_by_quarter_turns(rng, dtype):
    images = read_only(rng.integers(0, 200, (4, 3, 5, 5)).astype(dtype))
    assert_identical(rotate(0)(images, rng), images)
    for quarters in (-2, -1, 0, 1, 2):
        expected = np.ascontiguousarray(np.rot90(images, quarters, axes=(2, 3)))
        assert_identical(rotate(180)(images, Fixed(90 * quarters)), expected)


@pytest.mark.parametrize("dtype", ["float64", "float32", BFLOAT16, "int16"])
def test_rotate_is_bilinear_about_the_centre(rng, dtype):
    images = pictures(rng, 6, dtype, (2, 5, 7))
    angles = np.random.default_rng(3).uniform(-75, 75, 6)
    assert np.ptp(angles) > 30
    expected = np.empty(images.shape)
    for image, angle, result in zip(images.astype(float), np.deg2rad(angles), expected, strict=True):
        for y, x in itertools.product(range(5), range(7)):
            down, right = y - 2, x - 3  # of the centre; turned back, to where the pixel comes from
            from_y = 2 + np.cos(angle) * down + np.sin(angle) * right
            from_x = 3 - np.sin(angle) * down + np.cos(angle) * right
            if not (0 <= from_y <= 4 and 0 <= from_x <= 6):
                result[:, y, x] = -3
                continue
            top, left = min(int(from_y), 3), min(int(from_x), 5)
            v, u = from_y - top, from_x - left
            corners = image[:, top : top + 2, left : left + 2]
            result[:, y, x] = np.einsum("cij,i,j->c", corners, [1 - v, v], [1 - u, u])
    result = rotate(75, fill=-3)(images, 3)
    assert result.dtype == dtype
    eps = {"float64": 1e-12, "float32": 6e-8, "bfloat16": 2**-8, "int16": 0}[result.dtype.name]
    np.testing.assert_allclose(result.astype(float), expected, rtol=eps, atol=0.5 + 1e-9 if dtype == "int16" else 0)
    assert (result == -3).any()


def test_compose_goes_from_left_to_right(rng):
    images = pictures(rng)
    generator, expected = np.random.default_rng(4), images
    for f in (crop((5, 6)), noise(1.0), flip()):
        expected = f(expected, generator)
    assert_identical(compose(crop((5, 6)), noise(1.0), flip())(images, 4), expected)
    assert_identical(compose(lambda x, rng: x + 1, lambda x, rng: x * 2)(images), (images + 1) * 2)
    assert compose()(images) is images


def test_augment_changes_the_first_array_alone(rng):
    images, t = pictures(rng), read_only(np.arange(12))
    transform = augment(flip(), shift(1))
    changed, same = transform(images, t, rng=np.random.default_rng(1))
    assert_identical(changed, compose(flip(), shift(1))(images, 1))
    assert same is t
    assert_identical(transform(images, rng=np.random.default_rng(1)), changed)

    batches = Batches(images, t, batch_size=5, seed=8, transform=transform, prefetch=2)
    for k, (x, labels) in enumerate(batches):
        assert_identical(x, transform(images[labels], rng=np.random.default_rng([8, 0, k, 1])))


# -- arrays of CuPy, whose place a stand-in takes that refuses NumPy's arrays as CuPy does


class Foreign:
    """An array that meets one of NumPy in asarray() and get() alone."""

    __array_ufunc__ = None

    def __init__(self, host):
        self.host = np.asarray(host)

    def __array__(self, *_, **__):
        raise TypeError("implicit conversion to a NumPy array is not allowed")

    def get(self):
        return self.host.copy()

    @property
    def data(self):
        return SimpleNamespace(ptr=self.host.ctypes.data)

    def __getattr__(self, name):
        if name.startswith("__"):  # the protocols by which NumPy would take it for one of its own
            raise AttributeError(name)
        value = getattr(self.host, name)
        return foreign(value) if callable(value) else value

    def __getitem__(self, key):
        return Foreign(self.host[home(key)])

    def __setitem__(self, key, value):
        self.host[home(key)] = home(value)

    def __len__(self):
        return len(self.host)

    def __iter__(self):
        return map(Foreign, self.host)

    def __int__(self):
        return int(self.host)


for name in ("add", "radd", "sub", "mul", "truediv", "eq"):
    setattr(Foreign, f"__{name}__", lambda self, other, name=name: foreign(getattr(self.host, f"__{name}__"))(other))


def home(value):
    if isinstance(value, tuple):
        return tuple(map(home, value))
    assert not isinstance(value, np.ndarray), "an array of NumPy where CuPy takes none"
    return value.host if isinstance(value, Foreign) else value


def foreign(function):
    def call(*args, **kwargs):
        result = function(*map(home, args), **{key: home(value) for key, value in kwargs.items()})
        return Foreign(result) if isinstance(result, (np.ndarray, np.generic)) else result

    return call


@pytest.fixture
def cupy(monkeypatch):
    """The stand-in, which also notes which threads took on its device and stream."""
    module = types.ModuleType("cupy")
    module.__getattr__ = lambda name: foreign(getattr(np, name))
    module.ndarray, module.asarray = Foreign, lambda a: a if isinstance(a, Foreign) else Foreign(a.copy())
    module.lib = types.SimpleNamespace(
        stride_tricks=types.SimpleNamespace(sliding_window_view=foreign(np.lib.stride_tricks.sliding_window_view))
    )
    module.used = []

    def current(kind):
        return lambda: types.SimpleNamespace(use=lambda: module.used.append((kind, threading.current_thread().name)))

    module.cuda = types.SimpleNamespace(
        is_available=lambda: True, Device=current("device"), get_current_stream=current("stream")
    )
    monkeypatch.setitem(sys.modules, "cupy", module)
    monkeypatch.setitem(sys.modules, "cupyx.scipy.ndimage", types.SimpleNamespace(rotate=foreign(ndimage.rotate)))
    return module


def test_standardising_and_labels_on_cupy(rng, cupy):
    x, t = rng.normal(2, 3, (9, 4)).astype(np.float32), rng.integers(0, 5, 9)
    x[:, 1] = 0.1
    ours, theirs = Standardizer().fit(x), Standardizer().fit(cupy.asarray(x))
    assert type(theirs.mean) is type(theirs.std) is np.ndarray
    for on_cpu, on_gpu in [
        (ours.transform(x), theirs.transform(cupy.asarray(x))),
        (ours.inverse(x), theirs.inverse(cupy.asarray(x))),
        (ours.transform(x), ours.transform(cupy.asarray(x))),
        (data.one_hot(t), data.one_hot(cupy.asarray(t))),
    ]:
        assert_identical(on_gpu.get(), on_cpu)
    assert_identical(theirs.transform(x), ours.transform(x))


def test_splits_and_batches_on_cupy(rng, cupy):
    x, t = rng.normal(size=(30, 4)), rng.integers(0, 3, 30)
    gpu_x, gpu_t = cupy.asarray(x), cupy.asarray(t)
    for part, gpu_part in zip(data.split(x, t, stratify=t), data.split(gpu_x, gpu_t, stratify=gpu_t), strict=True):
        for a, b in zip(part, gpu_part, strict=True):
            assert_identical(b.get(), a)
    assert next(data.k_fold(30, stratify=gpu_t))[1].tolist() == next(data.k_fold(30, stratify=t))[1].tolist()
    mixed = Batches(gpu_x, t, batch_size=7, prefetch=2)
    for (a, b), (c, d) in zip(Batches(x, t, batch_size=7), mixed, strict=True):
        assert_identical(c.get(), a)
        assert_identical(d, b)


@augmentations
def test_augmentations_on_cupy(rng, cupy, f):
    images = pictures(rng)
    result = f(cupy.asarray(images), 6)
    assert type(result) is Foreign
    assert_identical(np.ascontiguousarray(result.get()), f(images, 6))


def test_the_thread_works_where_the_consumer_does(cupy):
    names = []
    ahead = prefetch(names.append(threading.current_thread().name) for _ in range(3))
    assert not cupy.used
    assert list(ahead) == [None] * 3
    assert cupy.used == [("device", names[0]), ("stream", names[0])]
    cupy.used.clear()
    cupy.cuda.is_available = lambda: False
    assert list(prefetch(range(3))) == [0, 1, 2]
    assert not cupy.used


# -- errors


X = np.zeros((4, 3))
IMAGES = np.zeros((2, 3, 5, 5), np.float32)
FITTED = Standardizer().fit(np.arange(6.0).reshape(2, 3))
ERRORS = [
    (
        lambda: Standardizer(axis=1),
        ValueError,
        "Standardizer: axis must be 0 or a tuple of 0 and other axes, each once, got 1",
    ),
    (
        lambda: Standardizer((0, 2, 2)),
        ValueError,
        "Standardizer: axis must be 0 or a tuple of 0 and other axes, each once, got (0, 2, 2)",
    ),
    (
        lambda: Standardizer(()),
        ValueError,
        "Standardizer: axis must be 0 or a tuple of 0 and other axes, each once, got ()",
    ),
    (lambda: Standardizer((0, -1)), ValueError, "Standardizer: axis must be an integer >= 0, got -1"),
    (lambda: Standardizer("0"), TypeError, "Standardizer: axis must be an integer >= 0, got '0'"),
    (
        lambda: Standardizer((0, 2)).fit(X),
        ValueError,
        "Standardizer.fit: x must have the axes (0, 2), got shape (4, 3)",
    ),
    (
        lambda: Standardizer().fit(X[:0]),
        ValueError,
        "Standardizer.fit: x must hold at least one element, got shape (0, 3)",
    ),
    (lambda: Standardizer().fit([[1.0]]), TypeError, "Standardizer.fit: x must be an array of NumPy or CuPy, got list"),
    (lambda: Standardizer().fit(X + 1j), TypeError, "Standardizer.fit: x must hold real numbers, got complex128"),
    (lambda: Standardizer().fit(X > 0), TypeError, "Standardizer.fit: x must hold real numbers, got bool"),
    (lambda: Standardizer().transform(X), RuntimeError, "Standardizer.transform: fit must come first"),
    (lambda: Standardizer().inverse(X), RuntimeError, "Standardizer.inverse: fit must come first"),
    (lambda: Standardizer().state_dict(), RuntimeError, "Standardizer.state_dict: fit must come first"),
    (
        lambda: FITTED.transform(X[:, :2]),
        ValueError,
        "Standardizer.transform: x must fit the statistics' shape (3,), got (4, 2)",
    ),
    (
        lambda: FITTED.inverse(np.array(1.0)),
        ValueError,
        "Standardizer.inverse: x must fit the statistics' shape (3,), got ()",
    ),
    (lambda: FITTED.transform("x"), TypeError, "Standardizer.transform: x must be an array of NumPy or CuPy, got str"),
    (lambda: data.one_hot([0, 1]), TypeError, "one_hot: labels must be an array of NumPy or CuPy, got list"),
    (lambda: data.one_hot(np.array([0.0])), TypeError, "one_hot: labels must be integers, got float64"),
    (lambda: data.one_hot(np.array([True])), TypeError, "one_hot: labels must be integers, got bool"),
    (lambda: data.one_hot(np.array([1, -2])), ValueError, "one_hot: labels must be >= 0, got -2"),
    (lambda: data.one_hot(np.array([1, 3]), 3), ValueError, "one_hot: labels must be less than classes, 3, got 3"),
    (
        lambda: data.one_hot(np.array([], int)),
        ValueError,
        "one_hot: classes must be given where there are no labels, got None",
    ),
    (lambda: data.one_hot(np.array([1]), 0), ValueError, "one_hot: classes must be an integer >= 1, got 0"),
    (lambda: data.one_hot(np.array([1]), True), TypeError, "one_hot: classes must be an integer >= 1, got True"),
    (lambda: data.split(), TypeError, "split: arrays must be at least one, got none"),
    (lambda: data.split(X, [1]), TypeError, "split: arrays must be an array of NumPy or CuPy, got list"),
    (
        lambda: data.split(X, X[:3]),
        ValueError,
        "split: arrays must have one number of samples, got shapes [(4, 3), (3, 3)]",
    ),
    (lambda: data.split(np.array(1)), ValueError, "split: arrays must have one number of samples, got shapes [()]"),
    (lambda: data.split(X, fractions=0.5), TypeError, "split: fractions must be a sequence of numbers, got 0.5"),
    (lambda: data.split(X, fractions=(0.5, 0.4)), ValueError, "split: fractions must have the sum 1, got (0.5, 0.4)"),
    (lambda: data.split(X, fractions=()), ValueError, "split: fractions must have the sum 1, got ()"),
    (
        lambda: data.split(X, fractions=(1.5, -0.5)),
        ValueError,
        "split: each of fractions must be a number in [0, 1], got 1.5",
    ),
    (
        lambda: data.split(X, fractions=(float("nan"),)),
        ValueError,
        "split: each of fractions must be a number in [0, 1], got nan",
    ),
    (
        lambda: data.split(X, fractions=("1",)),
        TypeError,
        "split: each of fractions must be a number in [0, 1], got '1'",
    ),
    (lambda: data.split(X, seed=-1), ValueError, "split: seed must be an integer >= 0, got -1"),
    (lambda: data.split(X, seed=None), TypeError, "split: seed must be an integer >= 0, got None"),
    (lambda: data.split(X, stratify=[1] * 4), TypeError, "split: stratify must be an array of NumPy or CuPy, got list"),
    (lambda: data.split(X, stratify=X), ValueError, "split: stratify must have shape (4,), got (4, 3)"),
    (lambda: data.k_fold(X), TypeError, f"k_fold: n must be an integer >= 2, got {X!r}"),
    (lambda: data.k_fold(10, 1), ValueError, "k_fold: k must be an integer >= 2, got 1"),
    (lambda: data.k_fold(4, 5), ValueError, "k_fold: k must be at most the number of samples, 4, got 5"),
    (lambda: data.k_fold(9, seed=0.5), TypeError, "k_fold: seed must be an integer >= 0, got 0.5"),
    (lambda: data.k_fold(9, stratify=X), ValueError, "k_fold: stratify must have shape (9,), got (4, 3)"),
    (lambda: Batches(), TypeError, "Batches: arrays must be at least one, got none"),
    (lambda: Batches([1, 2]), TypeError, "Batches: arrays must be an array of NumPy or CuPy, got list"),
    (
        lambda: Batches(X, X[:2]),
        ValueError,
        "Batches: arrays must have one number of samples, got shapes [(4, 3), (2, 3)]",
    ),
    (lambda: Batches(X[:0]), ValueError, "Batches: the number of samples must be an integer >= 1, got 0"),
    (lambda: Batches(X, batch_size=0), ValueError, "Batches: batch_size must be an integer >= 1, got 0"),
    (lambda: Batches(X, batch_size=2.0), TypeError, "Batches: batch_size must be an integer >= 1, got 2.0"),
    (
        lambda: len(Batches(X, batch_size=lambda epoch: epoch)),
        ValueError,
        "Batches: batch_size must be an integer >= 1, got 0",
    ),
    (lambda: Batches(X, shuffle=1), TypeError, "Batches: shuffle must be True or False, got 1"),
    (lambda: Batches(X, drop_last="no"), TypeError, "Batches: drop_last must be True or False, got 'no'"),
    (
        lambda: Batches(X, seed=np.random.default_rng),
        TypeError,
        f"Batches: seed must be an integer >= 0, got {np.random.default_rng!r}",
    ),
    (lambda: Batches(X, prefetch=-1), ValueError, "Batches: prefetch must be an integer >= 0, got -1"),
    (lambda: Batches(X, prefetch=True), TypeError, "Batches: prefetch must be an integer >= 0, got True"),
    (lambda: Batches(X, transform=3), TypeError, "Batches: transform must be a function or None, got 3"),
    (lambda: prefetch(range(3), 0), ValueError, "prefetch: depth must be an integer >= 1, got 0"),
    (lambda: prefetch(range(3), 1.5), TypeError, "prefetch: depth must be an integer >= 1, got 1.5"),
    (lambda: prefetch(3), TypeError, "'int' object is not iterable"),
    (lambda: flip(1.5), ValueError, "flip: p must be a number in [0, 1], got 1.5"),
    (lambda: flip(IMAGES), TypeError, f"flip: p must be a number in [0, 1], got {IMAGES!r}"),
    (lambda: flip(axis=1), ValueError, "flip: axis must be -1 (left and right) or -2 (up and down), got 1"),
    (lambda: shift(-1), ValueError, "shift: pixels must be an integer >= 0, got -1"),
    (lambda: shift(1.0), TypeError, "shift: pixels must be an integer >= 0, got 1.0"),
    (lambda: shift(1, float("nan")), ValueError, "shift: fill must be a finite number, got nan"),
    (lambda: crop(0), ValueError, "crop: size must be an integer >= 1, got 0"),
    (lambda: crop((1, 2, 3)), ValueError, "crop: size must be a number or (height, width), got (1, 2, 3)"),
    (lambda: crop((2, 2.0)), TypeError, "crop: size must be an integer >= 1, got 2.0"),
    (lambda: crop(2, -1), ValueError, "crop: padding must be an integer >= 0, got -1"),
    (lambda: crop(8, 1)(IMAGES, 0), ValueError, "crop: images must be at least (8, 8) with their padding, got (7, 7)"),
    (lambda: noise(-1), ValueError, "noise: std must be a finite number >= 0, got -1"),
    (lambda: noise(float("inf")), ValueError, "noise: std must be a finite number >= 0, got inf"),
    (lambda: noise(10**400), ValueError, f"noise: std must be a finite number >= 0, got {10**400}"),
    (lambda: noise(1)(IMAGES > 0, 0), TypeError, "noise: images must hold real numbers, got bool"),
    (lambda: rotate("9"), TypeError, "rotate: degrees must be a finite number >= 0, got '9'"),
    (lambda: rotate(1, float("inf")), ValueError, "rotate: fill must be a finite number, got inf"),
    (lambda: rotate(1)(IMAGES * 1j, 0), TypeError, "rotate: images must hold real numbers, got complex64"),
    (lambda: flip()(IMAGES[0], 0), ValueError, "flip: images must have shape (N, C, H, W), got (3, 5, 5)"),
    (lambda: noise(1)([1], 0), TypeError, "noise: images must be an array of NumPy or CuPy, got list"),
    (lambda: shift(1)(IMAGES, -1), ValueError, "shift: rng must be a seed >= 0, got -1"),
    (lambda: compose(flip(), 3), TypeError, "compose: augmentations must be functions (images, rng), got 3"),
    (
        lambda: augment(flip),
        TypeError,
        "compose: augmentations must be functions (images, rng), got <class 'gradfuse.data.flip'>",
    ),
]


@pytest.mark.parametrize(("call", "error", "message"), ERRORS, ids=[e[2][:40] for e in ERRORS])
def test_errors(call, error, message):
    with pytest.raises(error) as caught:
        call()
    assert str(caught.value) == message


def test_rotate_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "scipy.ndimage", None)
    with pytest.raises(ImportError, match=r"^rotate: scipy is needed: pip install gradfuse\[training\]$"):
        rotate(3)(IMAGES, 0)


def test_scipy_is_imported_by_rotate_alone():
    code = "import sys, numpy as np\nfrom gradfuse.data import shift\n"
    code += "shift(1)(np.ones((1, 1, 2, 2)))\nprint('scipy' in sys.modules)"
    assert python("-c", code).stdout == "False\n"


@pytest.mark.parametrize("name", data.__all__)
def test_documentation(name):
    doc = inspect.getdoc(getattr(data, name))
    assert name == "Augmentation" or "Raises" in doc
    assert name in ("Augmentation", "augment", "prefetch") or "Source:" in doc
