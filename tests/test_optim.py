"""Every optimizer of the list against the reference, state included; and what surrounds an update."""

import copy
import itertools
import os
import pickle
import signal
import subprocess
import sys
import threading
import tracemalloc

import numpy as np
import pytest
from helpers import DTYPES, LAYOUTS, assert_identical, cast
from hypothesis import given, settings
from hypothesis import strategies as st
from optimizers import NAMES, SETTINGS, SPECS, assert_same, make, snapshot, unchanged
from ulp import compute_type, epsilon, ulp

import gradfuse
import gradfuse.reference as ref
from gradfuse import _core

every_optimizer = pytest.mark.parametrize("name", NAMES)
every_device = pytest.mark.usefixtures("device")


def wide(a):
    return None if a is None else a.astype(np.float64)


def hostile(rng, large=()):
    """Arrays of all dtypes and layouts, 0-d and empty: an empty one first, in the middle and last."""
    arrays = []
    for dtype in DTYPES:
        arrays += [np.zeros((0, 3), dtype), cast(rng.normal(size=()), dtype)]
        arrays += [layout(cast(rng.normal(size=(3, 5)), dtype)) for layout in LAYOUTS.values()]
        arrays += [cast(rng.normal(size=n), dtype) for n in large]
    return [*arrays, np.zeros(0, np.float32)]


def gradients_for(rng, params, absent=0.0):
    """One per parameter, in a layout of its own, or None."""
    layouts = itertools.cycle(list(LAYOUTS.values())[::-1])
    grads = [layout(cast(rng.normal(size=p.shape), p.dtype)) for p, layout in zip(params, layouts, strict=False)]
    return [None if rng.random() < absent else g for g in grads]


def problem(rng, sizes=(3, 40_000, 0, 70_001, 500)):
    """Parameters, and gradients for a few steps; a step is several tasks."""
    params = [cast(rng.normal(size=n), dtype) for n, dtype in zip(sizes, itertools.cycle(DTYPES), strict=False)]
    return params, [gradients_for(rng, params) for _ in range(3)]


def copies(arrays):
    return [a.copy() for a in arrays]


def assert_near(actual, exact, largest):
    """A few roundings of terms up to `largest`, and the last one."""
    allowed = 8 * epsilon(actual.dtype) * largest
    if actual.dtype.itemsize == 2:
        allowed = allowed + 0.5 * ulp(exact, actual.dtype)
    error = abs(wide(actual) - exact)
    assert (error <= allowed).all(), f"{actual.dtype}: off by {(error / allowed).max():.3g} times what is allowed"


class Twins:
    """An optimizer, and the reference on float64 copies. The latter goes on from the former's parameters: what either
    rounds is not summed up."""

    def __init__(self, name, groups, **options):
        self.opt = getattr(gradfuse.optim, name)(groups, **options)
        exact = [{**group, "params": [wide(p) for p in group["params"]]} for group in groups]
        self.exact_params = [p for group in exact for p in group["params"]]
        options.pop("master_weights", None)
        self.exact = getattr(ref, name)(exact, **options)

    def step(self, grads):
        self.opt.step(grads)
        self.exact.step([wide(g) for g in grads])
        assert self.opt.t == self.exact.t
        norm = self.exact.last_grad_norm
        assert self.opt.last_grad_norm == (None if norm is None else pytest.approx(norm, rel=1e-14))
        arrays = zip(self.opt.params, self.opt.state, self.exact_params, self.exact.state, grads, strict=True)
        for p, state, exact, exact_state, g in arrays:
            master = state.get("master", p)
            assert list(state) == [*exact_state, "master"][: len(state)]
            for slot, exact_slot in exact_state.items():
                assert (state[slot].dtype, state[slot].shape) == (compute_type(p.dtype), p.shape)
                assert_near(state[slot], exact_slot, np.max(abs(exact_slot), initial=1))
            assert_near(master, exact, 1 + abs(exact))
            assert g is None or np.array_equal(p, cast(master, p.dtype))
            exact[...] = master


@pytest.mark.parametrize("change", ["number", "list", "list in place", "order", "schedule"])
def test_every_step_reads_the_groups(change):
    """Whatever is changed between steps is in force at the next, in place too."""
    p, q, g = np.ones(4), np.ones(4), np.full(4, 0.5)
    betas = [0.9, 0.999]
    opt = gradfuse.optim.Adam([p], lr=0.1, betas=betas if change == "list in place" else (0.9, 0.999))
    other = gradfuse.optim.Adam([q], lr=0.1)
    for _ in range(2):
        opt.step([g])
        other.step([g])
    assert_identical(p, q)
    unchanged_rate = copy.deepcopy(other)
    if change == "number":
        opt.groups[0]["lr"], other.groups[0]["lr"] = 0.3, 0.3
    elif change == "list":
        opt.groups[0]["betas"], other.groups[0]["betas"] = [0.5, 0.9], (0.5, 0.9)
    elif change == "list in place":
        betas[:] = [0.5, 0.9]
        other.groups[0]["betas"] = (0.5, 0.9)
    elif change == "order":
        opt.groups[0]["lr"] = opt.groups[0].pop("lr") * 3
        other.groups[0]["lr"] *= 3
    else:
        opt.groups[0]["lr"], other.groups[0]["lr"] = (lambda step: 0.1 * step), 0.2
    g = np.linspace(-1, 1, 4)
    for each in (opt, other, unchanged_rate):
        each.step([g])
    assert_identical(p, q)
    assert not np.array_equal(unchanged_rate.params[0], q)


@every_device
@every_optimizer
@pytest.mark.parametrize("master_weights", [False, True])
@pytest.mark.parametrize("clipped", [False, True])
def test_ten_steps(rng, name, clipped, master_weights):
    groups = [{**setting, "params": hostile(rng)} for setting in SETTINGS[name]]
    groups[-1]["params"] = hostile(rng, large=(8_192, 40_001))
    groups[0]["lr"] = lambda step: 0.05 / (1 + step)
    elements = sum(p.size for group in groups for p in group["params"])
    twins = Twins(name, groups, master_weights=master_weights, max_grad_norm=0.7 * elements**0.5 if clipped else None)
    for step in range(10):
        twins.step(gradients_for(rng, twins.opt.params, absent=0.1 * (step % 3)))


@every_device
@every_optimizer
def test_defaults(rng, name):
    twins = Twins(name, [{"params": [rng.normal(size=50), cast(rng.normal(size=50), "float32")]}])
    for _ in range(10):
        twins.step(gradients_for(rng, twins.opt.params))


@every_device
@every_optimizer
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
@pytest.mark.parametrize("options", [{}, {"max_grad_norm": 300.0, "nonfinite": "skip"}], ids=["plain", "clipped"])
def test_large_arrays(rng, name, dtype, options):
    """On a GPU each thread of such a step takes a vector."""
    sizes = (70_001, 3, 80_000)
    groups = [{**setting, "params": [cast(rng.normal(size=n), dtype) for n in sizes]} for setting in SETTINGS[name]]
    twins = Twins(name, groups, master_weights=dtype == "bfloat16", **options)
    for _ in range(3):
        twins.step([cast(rng.normal(size=p.shape), dtype) for p in twins.opt.params])
    if options:
        before = copies(twins.opt.params)
        twins.opt.step([cast(np.full(p.shape, np.nan), dtype) for p in twins.opt.params])
        assert twins.opt.t == 3
        for p, q in zip(twins.opt.params, before, strict=True):
            assert_identical(p, q)


@every_optimizer
def test_thread_counts(rng, threads, name):
    params, steps = problem(rng)
    results = []
    for n in (1, 4, 7):
        threads(n)
        opt = make(name, copies(params), max_grad_norm=1.0)
        for grads in steps:
            opt.step(grads)
        results.append(opt)
    for opt in results[1:]:
        assert_same(opt, snapshot(results[0]))


@pytest.mark.parametrize("isa", _core.build_info()["isas"].split(", "))
def test_instruction_sets(isa):
    tests = [
        "-q",
        "-p",
        "no:cacheprovider",
        "-k",
        "(ten_steps and True-True or denormal or every_element_once) and not cuda",
    ]
    command = [sys.executable, "-m", "pytest", *tests, __file__]
    run = subprocess.run(command, env={**os.environ, "GRADFUSE_ISA": isa}, capture_output=True, text=True)
    assert f"{2 * len(NAMES) + 1} passed" in run.stdout, run.stdout


@every_device
@settings(max_examples=50, deadline=None)
@given(
    sizes=st.lists(st.sampled_from([0, 1, 7, 100, 8191, 8192, 8193, 16_385, 40_000]), min_size=1, max_size=12),
    absent=st.integers(0, 2**12),
    threads=st.sampled_from([1, 3]),
)
def test_every_element_once(sizes, absent, threads):
    before = gradfuse.get_num_threads()
    gradfuse.set_num_threads(threads)
    params = [np.arange(n, dtype=np.float32) for n in sizes]
    grads = [None if absent >> i & 1 else np.full(n, i + 1, np.float32) for i, n in enumerate(sizes)]
    gradfuse.optim.SGD(params, lr=0.5).step(grads)
    gradfuse.set_num_threads(before)
    for i, (p, g) in enumerate(zip(params, grads, strict=True)):
        assert_identical(p, np.arange(p.size, dtype=np.float32) - (0 if g is None else np.float32(0.5 * (i + 1))))


def test_many_small_parameters_take_one_compiled_call(rng):
    class Counted:
        def __init__(self, plan):
            self.plan, self.steps = plan, 0

        def step(self, *args):
            self.steps += 1
            return self.plan.step(*args)

        def __getattr__(self, name):
            return getattr(self.plan, name)

    params = [np.ones(100, np.float32) for _ in range(3000)]
    opt = make("Adam", [{"params": params[:1000]}, {"params": params[1000:], "lr": 0.1}])
    counted = opt._plan = Counted(opt._plan)
    grads = copies(params)
    for step in range(3):
        opt.step(grads)
        assert counted.steps == step + 1


def test_a_step_allocates_nothing_that_grows_with_the_parameters():
    params = [np.ones(200_000, np.float32), np.ones(200_000, np.float16)[::2]]
    opt = make("Adam", params, max_grad_norm=1.0, master_weights=True)
    grads = copies(params)
    opt.step(grads)
    tracemalloc.start()
    opt.step(grads)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20_000


# What others get wrong.


@every_device
@every_optimizer
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_parameters_do_change(name, dtype):
    p = np.ones(100, dtype)
    make(name, [p], lr=0.1).step([np.ones(100, dtype)])
    assert (p != 1).all()


@every_device
@every_optimizer
@pytest.mark.parametrize("dtype", DTYPES)
def test_strided_parameters_update_their_own_elements_and_no_others(name, dtype):
    base = np.full((6, 10), 7, dtype)
    view = base[1:5, 1:9:3]
    plain = np.ascontiguousarray(view)
    for p in (view, plain):
        make(name, [p], lr=0.5).step([np.ones((4, 3), dtype)])
    assert_identical(view.copy(), plain)
    assert (view != 7).all()
    view[...] = 7
    assert (base == 7).all()


@every_device
@every_optimizer
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_eps_is_not_rounded_to_half_precision(name, dtype):
    if "eps" not in [hyper["name"] for hyper in SPECS[name]["hypers"]]:
        pytest.skip("has no eps")
    p = np.zeros(3, dtype)
    opt = getattr(gradfuse.optim, name)([p])  # the default eps: 0 in float16
    for _ in range(3):
        opt.step([np.zeros(3, dtype)])
    assert (p == 0).all()
    opt.step([np.full(3, 1e-4, dtype)])
    assert np.isfinite(p).all()
    assert (p < 0).all()


@every_device
@every_optimizer
def test_a_last_parameter_without_elements(name):
    p = np.ones(5, np.float32)
    make(name, [p, np.zeros((2, 0), np.float32)]).step([np.ones(5, np.float32), np.zeros((2, 0), np.float32)])
    assert (p != 1).all()


@every_device
@every_optimizer
def test_clipping_changes_nothing_up_to_max_grad_norm(name):
    g = [np.array([3, 4], np.float32)]
    free, clipped = (make(name, [np.ones(2, np.float32)], max_grad_norm=limit) for limit in (None, 5.0))
    free.step(g)
    clipped.step(g)
    assert clipped.last_grad_norm == 5.0
    assert_identical(free.params[0], clipped.params[0])


@every_device
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_a_large_norm_of_half_precision_gradients_does_not_zero_them(dtype):
    p = np.zeros(1000, dtype)
    opt = gradfuse.optim.SGD([p], lr=1.0, max_grad_norm=1.0)
    g = np.full(1000, 60_000, dtype)
    opt.step([g])
    assert opt.last_grad_norm == pytest.approx(float(g[0]) * 1000**0.5, rel=1e-14)
    np.testing.assert_allclose(p.astype(float), -(1000**-0.5), rtol=2**-8)  # half an ulp of bfloat16


@every_device
def test_gradient_overflow_ends_in_no_nan():
    """Where g * g is infinite in float32, Adam stops, and goes on standing still."""
    p = np.ones(1, np.float32)
    opt = gradfuse.optim.Adam([p])
    for g in (1e30, 1.0, 1.0):
        opt.step([np.array([g], np.float32)])
    assert p == 1


# Steps that are not taken.


@every_device
@every_optimizer
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_nonfinite_gradients(rng, name, bad):
    params, steps = problem(rng)
    clean = make(name, copies(params), max_grad_norm=1.0)
    opt = make(name, params, max_grad_norm=1.0, nonfinite="skip")
    for grads in steps:
        broken = copies(grads)
        broken[1][1234] = bad
        with unchanged(opt):
            opt.step(broken)
        assert not np.isfinite(opt.last_grad_norm)
        opt.step(grads)
        clean.step(grads)
    opt.nonfinite = clean.nonfinite
    assert_same(opt, snapshot(clean))

    opt.nonfinite = "raise"
    with unchanged(opt), pytest.raises(ValueError, match=f"{name}.step: grads must have a finite norm, got (nan|inf)"):
        opt.step(broken)


@every_device
@every_optimizer
@pytest.mark.parametrize("max_grad_norm", [None, 1.0])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_nonfinite_elements_are_the_reference_s(rng, name, bad, max_grad_norm):
    p = rng.normal(size=40)
    exact, steps = p.copy(), rng.normal(size=(3, 1, 40))
    steps[0, 0, [3, 17]] = bad, -bad
    opt = make(name, [p], max_grad_norm=max_grad_norm)
    reference = getattr(ref, name)([exact], **SETTINGS[name][-1], max_grad_norm=max_grad_norm)
    for grads in steps:
        opt.step(list(grads))
        reference.step(list(grads))
    finite = np.isfinite(p)
    assert finite.sum() == (0 if max_grad_norm and np.isnan(bad) else 38)
    np.testing.assert_array_equal(finite, np.isfinite(exact))
    np.testing.assert_allclose(p[finite], exact[finite], rtol=1e-12)


@every_optimizer
def test_denormal_state_decays_to_zero_and_flushing_ends_with_the_step(threads, name):
    threads(2)
    n = 100_000
    p = np.zeros(n, np.float32)
    small = {"betas": (0.5, 0.5), "momentum": 0.5, "alpha": 0.5, "weight_decay": 0.0}
    opt = make(name, [p], **{k: v for k, v in small.items() if k in SETTINGS[name][0]})
    opt.step([np.full(n, 1e-18, np.float32)])
    for _ in range(150):
        opt.step([np.zeros(n, np.float32)])
        for state in opt.state[0].values():
            assert not state[abs(state) < 2.0**-126].any()
    tiny = np.full(n, -1e-38, np.float32)
    assert (tiny * np.float32(0.5) < 0).all()
    assert (gradfuse.leaky_relu(tiny) < 0).all()
    if name in ("Adam", "AdamW", "NAdam"):
        assert (abs(opt.state[0]["exp_avg"]) < 2.0**-124).all()  # what decays it may be flushed before it is
        assert not opt.state[0]["exp_avg_sq"].any()


@every_device
def test_initial_accumulator_value():
    opt = gradfuse.optim.Adagrad([np.zeros((2, 3), np.float16)], initial_accumulator_value=0.3)
    assert_identical(opt.state[0]["sum"], np.full((2, 3), 0.3, np.float32))


# Groups, schedules and what changes between steps.


@every_device
def test_lr():
    p, q = np.zeros(1), np.zeros(1)
    opt = gradfuse.optim.SGD([{"params": [p]}, {"params": q, "lr": lambda step: 0.25 * (step + 1)}], lr=1.0)
    assert opt.lr == 1.0
    for _ in range(3):
        opt.step([np.ones(1), np.ones(1)])
    assert (p, q) == (-3.0, -1.5)
    opt.lr = lambda step: 2.0**-step
    assert opt.lr == 0.125
    opt.step([np.ones(1), np.ones(1)])
    assert (p, q) == (-3.125, -1.625)


@every_device
@every_optimizer
def test_hyper_parameters_may_change_between_steps(rng, name):
    first, second = ({**SETTINGS[name][-1], "params": [p]} for p in (rng.normal(size=9), rng.normal(size=9)))
    twins = Twins(name, [first, second])
    changes = {"lr": 0.2, "weight_decay": 0.3, "maximize": False, "decoupled_weight_decay": False}
    for change in [{}, *({key: value} for key, value in changes.items())]:
        twins.opt.groups[1].update(change)
        vars(twins.exact.groups[1]).update(change)
        twins.step([rng.normal(size=9), rng.normal(size=9)])


def numbers_of(name):
    """The hyper-parameters that are numbers or pairs, off their defaults."""
    names = [hyper["name"] for hyper in SPECS[name]["hypers"] if hyper["kind"] != "flag"]
    return {key: SETTINGS[name][-1][key] for key in names}


def falling(value, step):
    """A hyper-parameter that changes and stays where it may be."""
    return [falling(v, step) for v in value] if isinstance(value, tuple) else value * (1 - step / 20)


@every_device
@every_optimizer
def test_every_number_may_be_a_function_of_the_step(rng, name):
    """As if it were set before each step."""
    functions = {key: lambda step, value=value: falling(value, step) for key, value in numbers_of(name).items()}
    p = rng.normal(size=9)
    q = p.copy()
    opt, plain = make(name, [p], **functions), make(name, [q])
    for step, g in enumerate(rng.normal(size=(6, 9))):
        plain.groups[0].update({key: falling(value, step) for key, value in numbers_of(name).items()})
        opt.step([g])
        plain.step([g])
        assert_identical(p, q)
    assert opt.lr == functions["lr"](6)


@every_optimizer
def test_functions_are_refused_where_they_cannot_be(name):
    for key, value in numbers_of(name).items():
        wanted = "two numbers" if isinstance(value, tuple) else "a number"
        text = f"^{name}: {key} must be {wanted} where capturable is True, got a schedule$"
        with pytest.raises(ValueError, match=text):
            make(name, [np.zeros(3)], capturable=True, **{key: lambda step, value=value: value})
    for hyper in SPECS[name]["hypers"]:
        if hyper["kind"] == "flag":
            with pytest.raises(TypeError, match=f"^{name}: {hyper['name']} must be True or False, got <function"):
                make(name, [np.zeros(3)], **{hyper["name"]: lambda step: True})


@every_optimizer
def test_what_a_function_gives_is_checked_at_each_step(rng, name):
    for key, value in numbers_of(name).items():
        for wrong in (None, "0.1", np.nan, (np.nan, 0.5), (0.5,), True):
            opt = make(name, [np.zeros(3)], **{key: lambda step, v=value, wrong=wrong: wrong if step == 1 else v})
            opt.step([np.ones(3)])
            with unchanged(opt), pytest.raises((TypeError, ValueError), match=rf"^{name}: {key} must be .*, got "):
                opt.step([np.ones(3)])


def test_a_momentum_that_comes_to_nothing_on_the_way():
    opt = gradfuse.optim.SGD([np.zeros(3)], momentum=lambda step: 0.5 if step < 2 else 0.0)
    for _ in range(2):
        opt.step([np.ones(3)])
    with unchanged(opt), pytest.raises(ValueError, match="hyper-parameters must need the same state"):
        opt.step([np.ones(3)])


@every_device
@pytest.mark.parametrize(("name", "cycled", "options"), [
    ("SGD", {"momentum": 0.9}, {"nesterov": True, "weight_decay": 0.1}),
    ("RMSprop", {"momentum": 0.9}, {"alpha": 0.8, "centered": True}),
    ("Adam", {"betas": (0.9, 0.8)}, {"amsgrad": True}),
    ("AdamW", {"betas": (0.9, 0.8)}, {"weight_decay": 0.2}),
    ("Adamax", {"betas": (0.9, 0.8)}, {"eps": 1e-3}),
])  # fmt: skip
def test_one_cycle_as_pytorch(rng, name, cycled, options):
    torch = pytest.importorskip("torch")
    p = rng.normal(size=50)
    q = torch.tensor(p, requires_grad=True)
    expected = getattr(torch.optim, name)([q], **cycled, **options)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(expected, 0.1, 31, max_momentum=0.93, base_momentum=0.7)
    cycle = gradfuse.schedules.one_cycle(0.1, 31, max_momentum=0.93, base_momentum=0.7)
    ours = {"momentum": cycle.momentum} if "momentum" in cycled else {"betas": cycle.betas(0.8)}
    opt = getattr(gradfuse.optim, name)([p], lr=cycle, **ours, **options)
    for _ in range(30):
        g = rng.normal(size=50)
        q.grad = torch.tensor(g)
        expected.step()
        scheduler.step()
        opt.step([g])
        np.testing.assert_allclose(p, q.detach().numpy(), rtol=1e-12, atol=1e-13)
    assert opt.lr == expected.param_groups[0]["lr"]


@every_device
@pytest.mark.parametrize("name", ["SGD", "RMSprop", "Adam", "NAdam"])
def test_resuming_amid_a_cycle_is_exact(rng, name):
    cycle = gradfuse.schedules.one_cycle(0.1, 20)
    scheduled = {"lr": cycle}
    scheduled |= {"momentum": cycle.momentum} if "momentum" in numbers_of(name) else {"betas": cycle.betas()}
    p, grads = rng.normal(size=30), rng.normal(size=(20, 30))
    whole, first = (make(name, [a], **scheduled) for a in (p.copy(), p))
    for g in grads:
        whole.step([g])
    for g in grads[:9]:
        first.step([g])
    saved = pickle.loads(pickle.dumps(first.state_dict()))
    assert not scheduled.keys() & saved["groups"][0].keys()
    again = make(name, [p], **scheduled)
    again.load_state_dict(saved)
    assert again.lr == cycle(9)
    for g in grads[9:]:
        again.step([g])
    assert_same(again, snapshot(whole))


@pytest.mark.parametrize("kind", [list, tuple, iter, lambda arrays: dict(enumerate(arrays)).values()])
def test_any_iterable_of_parameters(kind):
    arrays = [np.zeros(1), np.zeros(2)]
    opt = gradfuse.optim.SGD(kind(arrays), lr=1.0)
    opt.step([np.ones(1), np.ones(2)])
    assert [p.tolist() for p in opt.params] == [[-1], [-1, -1]]
    assert len(gradfuse.optim.SGD([{"params": kind(arrays)}, {"params": []}]).params) == 2


class Parameter:
    """A third party's: DLPack, and a gradient of its own."""

    def __init__(self, array):
        self.array, self.grad = array, None

    def __dlpack__(self, **options):
        return self.array.__dlpack__(**options)

    def __dlpack_device__(self):
        return self.array.__dlpack_device__()


@every_optimizer
def test_parameters_that_carry_their_gradient(rng, name):
    values = rng.normal(size=(2, 30)).astype(np.float32)
    carriers, arrays = [Parameter(v.copy()) for v in values], copies(values)
    opt, plain = make(name, carriers), make(name, arrays)
    for step in range(3):
        for i, parameter in enumerate(carriers):
            parameter.grad = None if (step, i) == (1, 1) else rng.normal(size=30).astype(np.float32)
        opt.step()
        plain.step([parameter.grad for parameter in carriers])
    for parameter, p in zip(carriers, arrays, strict=True):
        assert_identical(parameter.array, p)


@every_optimizer
def test_reallocated_parameters_are_followed(rng, name):
    p, plain = np.zeros(8), np.zeros(8)
    opt, expected = make(name, [p]), make(name, [plain])
    seen, others = set(), []
    for _ in range(4):
        g = rng.normal(size=8)
        opt.step([g])
        expected.step([g])
        seen.add(p.ctypes.data)
        _, _, state = p.__reduce__()
        p.__setstate__((1, (100_000,), p.dtype, False, bytes(800_000)))  # memory of its own, each time
        others += [np.empty(8) for _ in range(50)]  # one of them is where it was
        p.__setstate__(state)
    assert len(seen) > 1
    assert_identical(p, plain)


@pytest.mark.parametrize("swap", ["resize", "write"])
def test_parameters_that_changed_their_form_are_refused(swap):
    p, q = np.ones(8), np.ones(3)
    opt = gradfuse.optim.SGD([q, p], lr=1.0)
    if swap == "resize":
        p.resize(9, refcheck=False)
        given = r"one of float64 with shape \(9,\)"
    else:
        p.flags.writeable = False
        given = r"a read-only one of float64 with shape \(8,\)"
    text = rf"SGD.step: params\[1\] must stay a writeable array of float64 with shape \(8,\), got {given}"
    with unchanged(opt), pytest.raises(ValueError, match=text):
        opt.step([np.ones(3), np.ones(p.shape)])


@every_device
@every_optimizer
def test_a_gradient_may_be_its_parameter(rng, name):
    p = rng.normal(size=50)
    q = p.copy()
    make(name, [p]).step([p])
    make(name, [q]).step([q.copy()])
    assert_identical(p, q)


@every_device
def test_a_refused_step_leaves_the_next_one_right():
    """An error met after some gradients have come and others gone: the next step goes by its own gradients."""
    p = [np.ones(1), np.ones(2), np.ones(3)]
    opt = gradfuse.optim.SGD(p, lr=0.5)
    for first in (np.ones(1), None):
        with pytest.raises(ValueError, match="shape"):
            opt.step([first, None, np.ones(4)])
        opt.step([first, None, np.ones(3)])
    assert [a.tolist() for a in p] == [[0.5], [1, 1], [0, 0, 0]]


# Saving.


@every_device
@every_optimizer
@pytest.mark.parametrize("master_weights", [False, True])
def test_resuming_is_exact(rng, name, master_weights):
    params = hostile(rng)
    options = {"master_weights": master_weights, "max_grad_norm": 3.0}
    opt = make(name, [{"params": params[::2]}, {"params": params[1::2], "lr": 0.01}], **options)
    steps = [gradients_for(rng, opt.params, absent=0.2) for _ in range(6)]
    for grads in steps[:3]:
        opt.step(grads)
    saved, then = pickle.loads(pickle.dumps(opt.state_dict())), copies(opt.params)
    for grads in steps[3:]:
        opt.step(grads)
    half = (len(params) + 1) // 2
    again = getattr(gradfuse.optim, name)(
        [{"params": then[:half]}, {"params": then[half:]}],
        **{k: v for k, v in SETTINGS[name][-1].items() if k in ("momentum", "amsgrad", "centered")},
        master_weights=master_weights,
    )
    again.load_state_dict(saved)
    assert again.t == 3
    for grads in steps[3:]:
        again.step(grads)
    assert_same(again, snapshot(opt))


def test_a_saved_state_is_a_copy_and_leaves_schedules_out():
    p = np.ones(4)
    opt = gradfuse.optim.Adam([p], lr=lambda step: 0.1 + step, betas=[0.5, 0.6])
    saved = opt.state_dict()
    opt.step([p])
    opt.groups[0]["betas"][0] = 0.1
    assert saved["clocks"] == [[0, 1.0]]
    assert saved["groups"][0]["betas"] == [0.5, 0.6]
    assert not saved["state"][0]["exp_avg"].any()
    assert "lr" not in saved["groups"][0]
    opt.load_state_dict(saved)
    assert opt.lr == 0.1


# Interruptions, threads and processes.


@every_optimizer
@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError("from a schedule")])
def test_an_exception_in_a_schedule(rng, name, error):
    params, steps = problem(rng)
    raising = False

    def schedule(step):
        if raising:
            raise error
        return 0.1 / (1 + step)

    plain = make(name, copies(params), lr=lambda step: 0.1 / (1 + step))
    opt = make(name, [{"params": params[:2]}, {"params": params[2:], "lr": schedule}], lr=lambda step: 0.1 / (1 + step))
    for grads in steps:
        raising = True
        with unchanged(opt), pytest.raises(error if isinstance(error, type) else RuntimeError):
            opt.step(grads)
        raising = False
        opt.step(grads)
        plain.step(grads)
    for a, b in zip(opt.params, plain.params, strict=True):
        assert_identical(a, b)


def test_a_schedule_that_steps_its_own_optimizer():
    opt = gradfuse.optim.SGD([np.zeros(1)], lr=1.0)
    opt.lr = lambda step: opt.step([np.ones(1)]) or 1.0
    with pytest.raises(
        RuntimeError, match="SGD: this optimizer is already running, in another thread or around this call"
    ):
        opt.step([np.ones(1)])
    assert opt.t == 0
    opt.lr = lambda step: 1.0 / (1 + opt.t)
    opt.step([np.ones(1)])
    assert opt.t == 1


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs interval timers")
def test_control_c(rng):
    params, steps = problem(rng, sizes=(200_000,) * 4)
    opt, again = make("Adam", copies(params)), make("Adam", params)

    def interrupt(*_):
        raise KeyboardInterrupt

    previous = signal.signal(signal.SIGALRM, interrupt)
    try:
        for delay in np.linspace(0.001, 0.02, 20):
            with pytest.raises(KeyboardInterrupt):  # noqa: PT012
                signal.setitimer(signal.ITIMER_REAL, delay)
                while True:
                    opt.step(steps[0])
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
    while again.t < opt.t:
        again.step(steps[0])
    assert_same(again, snapshot(opt))


def run_threads(*functions):
    """Starts them together; returns what they raised."""
    barrier, errors = threading.Barrier(len(functions)), []

    def run(f):
        barrier.wait()
        try:
            f()
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=[f]) for f in functions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return errors


def test_one_optimizer_in_several_threads(rng):
    params, steps = problem(rng, sizes=(300_000, 5, 100_000))
    opt, again = make("Adam", copies(params)), make("Adam", params)
    refused = []

    def work():
        for k in range(30):
            try:
                opt.step(steps[0])
                if k % 10 == 0:
                    opt.load_state_dict(opt.state_dict())
            except RuntimeError as error:
                refused.append(str(error))

    assert run_threads(work, work, work) == []
    assert set(refused) <= {"Adam: this optimizer is already running, in another thread or around this call"}
    while again.t < opt.t:
        again.step(steps[0])
    assert opt.t > 0
    assert_same(again, snapshot(opt))


def test_optimizers_of_their_own_in_several_threads(rng, threads):
    threads(2)
    params, steps = problem(rng)
    serial, parallel = ([make(name, copies(params)) for name in NAMES] for _ in range(2))

    def work(opt):
        for grads in steps * 3:
            opt.step(grads)

    for opt in serial:
        work(opt)
    assert run_threads(*(lambda opt=opt: work(opt) for opt in parallel)) == []
    for a, b in zip(serial, parallel, strict=True):
        assert_same(a, snapshot(b))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_child_process_can_go_on():
    script = """
import os, warnings
import numpy as np, gradfuse
warnings.simplefilter("ignore", DeprecationWarning)  # of fork beside threads
gradfuse.set_num_threads(2)
p = np.zeros(500_000, np.float32)
opt = gradfuse.optim.SGD([p], lr=1.0)
opt.step([np.ones_like(p)])
child = os.fork()
opt.step([np.ones_like(p)])
assert (p == -2).all() and opt.t == 2
if child == 0:
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)


def test_copies(rng):
    """Of an optimizer alone, and of a model and its optimizer together: each goes on by itself, in the same bits."""
    layer = gradfuse.nn.Linear(4, 3, rng=0)
    opt = gradfuse.optim.NAdam(layer.parameters(), lr=lambda step: 0.1 / (step + 1), max_grad_norm=1.0)
    for p in opt.params:
        p.grad = rng.normal(size=p.shape).astype(np.float32)
    opt.step()
    other, copied = copy.deepcopy((layer, opt))
    assert [p is q for p, q in zip(other.parameters(), copied.params, strict=True)] == [True, True]
    for each in (opt, copied):
        each.step()
    assert (copied.t, copied.max_grad_norm) == (2, 1.0)
    for p, q in zip(layer.parameters(), other.parameters(), strict=True):
        assert p is not q
        assert_identical(p.data, q.data)
    shared = copy.copy(opt)
    shared.lr = 3.0
    assert opt.lr != 3.0
    plain = pickle.loads(pickle.dumps(gradfuse.optim.SGD([np.ones(3)], lr=0.5, momentum=0.9)))
    plain.step([np.ones(3)])
    assert_identical(plain.params[0], np.full(3, 0.5))
    opt.zero_grad()
    assert all(p.grad is None for p in opt.params)


def test_a_parameter_that_got_another_array():
    layer = gradfuse.nn.Linear(4, 3, rng=0)
    opt = gradfuse.optim.SGD(layer.parameters())
    layer.astype("float64").astype("float32")
    layer.weight.grad, layer.bias.grad = np.ones((4, 3), np.float32), np.ones(3, np.float32)
    with pytest.raises(
        ValueError, match=r"SGD: params must keep the arrays .* got another in Parameter\(float32, shape"
    ):
        opt.step()
    assert opt.t == 0
