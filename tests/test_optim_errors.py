"""Bad input to the optimizers: one sentence that says who, what was expected and what was given. Nothing changes."""

import copy
import re

import numpy as np
import pytest
from helpers import BFLOAT16
from optimizers import NAMES, SPECS, make, unchanged

import gradfuse

every_optimizer = pytest.mark.parametrize("name", NAMES)


def error(kind, text):
    return pytest.raises(kind, match="^" + re.escape(text))


def read_only():
    a = np.zeros(3)
    a.flags.writeable = False
    return a


BASE = np.zeros((6, 8), np.float32)

PARAMS = [
    ([], ValueError, "must hold at least one array or group, got none"),
    (iter([]), ValueError, "must hold at least one array or group, got none"),
    (None, TypeError, "must be a list of arrays or of groups, got NoneType"),
    (3, TypeError, "must be a list of arrays or of groups, got int"),
    ("ab", TypeError, "must be a list of arrays or of groups, got str"),
    (np.zeros(3), TypeError, "must be a list of arrays or of groups, got ndarray"),
    ({"params": [np.zeros(3)]}, TypeError, "must be a list of arrays or of groups, got dict"),
    ([{"params": 3}], TypeError, "must be a list of arrays or of groups, got int"),
    ([{"lr": 0.1}], TypeError, "must be arrays, or dicts with the key 'params', got dict"),
    ([{"params": []}, np.zeros(3)], TypeError, "must be arrays, or dicts with the key 'params', got ndarray"),
    ([np.zeros(3), [1.0]], TypeError, "[1] must be an array (NumPy, or any object with __dlpack__), got "),
    ([np.zeros(3), {"params": []}], TypeError, "[1] must be an array (NumPy, or any object with __dlpack__), got "),
    ([np.zeros(3, int)], TypeError, "[0] must be float16, bfloat16, float32 or float64, got int64"),
    ([np.zeros(3, object)], TypeError, "[0] must be float16, bfloat16, float32 or float64, got object"),
    ([np.zeros(3, complex)], TypeError, "[0] must be float16, bfloat16, float32 or float64, got complex128"),
    ([np.zeros(3, ">f4")], TypeError, "[0] must be in the machine's byte order, got a swapped array"),
    ([np.zeros((1,) * 17)], ValueError, "[0] must have at most 16 dimensions, got 17"),
    ([np.zeros(3), read_only()], ValueError, "[1] must be writeable, got a read-only array"),
    ([np.broadcast_to(np.zeros(1), 3)], ValueError, "[0] must be writeable, got a read-only array"),
    (
        [np.lib.stride_tricks.as_strided(np.zeros(4), (3, 2), (8, 8))],
        ValueError,
        "[0] must not overlap itself, got strides that put two elements in one place",
    ),
]
SHARED = [
    [BASE, BASE],
    [BASE, np.zeros(3), BASE[:]],
    [BASE[0], BASE[1], BASE[:, 0]],
    [BASE[::2, ::2], BASE[1::2], BASE[::-2, 2:3]],
    [BASE.reshape(-1)[:9], BASE.reshape(-1)[8:]],
    [BASE.view(np.float16)[:, 1::2], BASE.view(np.float16)[:, ::2], BASE.view(BFLOAT16)[5:, 15:]],
    [np.zeros(0), BASE[2], BASE.view(np.float64)[2, 3:]],
    [{"params": [BASE]}, {"params": BASE[3:]}],
]
DISJOINT = [
    [BASE[0], BASE[1], BASE[2:]],
    [BASE[:, ::2], BASE[:, 1::2]],
    [BASE[::2, -2::-2], BASE[1::2, ::2], BASE[:, 1::2].T],
    [BASE.view(np.float16)[:, 1::2], BASE.view(np.float16)[:, ::2]],
    [BASE[:0], BASE[:0], BASE, BASE[3:3]],
]


@pytest.mark.parametrize(("params", "kind", "text"), PARAMS)
def test_parameters(params, kind, text):
    with error(kind, f"Adam: params{'' if text[0] == '[' else ' '}{text}"):
        gradfuse.optim.Adam(params)


@pytest.mark.parametrize("params", SHARED)
def test_parameters_that_share_memory(params):
    with pytest.raises(
        ValueError, match=r"^SGD: params\[\d\] must not share memory with another of the arrays, got one that"
    ):
        gradfuse.optim.SGD(params)


@pytest.mark.parametrize("params", DISJOINT)
def test_parameters_that_lie_between_each_other(params):
    gradfuse.optim.SGD(params, lr=0.5).step([np.ones_like(p) for p in params])
    assert all((p == -0.5).all() for p in params)
    BASE[...] = 0


def test_many_parameters_in_one_array_are_told_apart_in_little_time():
    base = np.zeros((100, 5000), np.float32)
    gradfuse.optim.SGD(list(base.T))  # every pair's extents overlap
    with pytest.raises(ValueError, match="share memory"):
        gradfuse.optim.SGD([*base.T, base[50]])


def bad_values(hyper):
    low, _, open_low, _ = hyper["interval"]
    below = low if open_low else np.nextafter(low, -np.inf)
    wrong = [(np.nan, ValueError), (np.inf, ValueError), (10**400, ValueError), (None, TypeError)]
    wrong += [(True, TypeError), ("0.1", TypeError), (np.zeros(1), TypeError), (1j, TypeError)]
    wrong += [(below, ValueError)] if np.isfinite(below) else [(-np.inf, ValueError)]
    if hyper["kind"] == "flag":
        return [(1, TypeError), (0.0, TypeError), (None, TypeError), ("yes", TypeError), (np.True_, TypeError)]
    if hyper["kind"] == "pair":
        wrong = [(pair, kind) for value, kind in wrong for pair in ((value, 0.5), [0.5, value])]
        return [*wrong, (0.9, TypeError), ((0.9,), TypeError), ((0.9, 0.9, 0.9), TypeError), ("ab", TypeError)]
    return wrong


@every_optimizer
def test_hyper_parameters(name):
    """When it is made, in a group, and between steps."""
    optimizer, p = getattr(gradfuse.optim, name), np.zeros(3)
    opt = optimizer([p])
    opt.step([p])
    for hyper in SPECS[name]["hypers"]:
        key = hyper["name"]
        expected = {"flag": "True or False", "pair": "", "number": hyper["text"]}[hyper["kind"]]
        for value, kind in bad_values(hyper):
            with error(kind, f"{name}: {key} must be {expected}"):
                optimizer([p], **{key: value})
            with error(kind, f"{name}: {key} must be {expected}"):
                optimizer([{"params": [p], key: value}])
            before = opt.groups[0][key]
            opt.groups[0][key] = value
            with error(kind, f"{name}: {key} must be {expected}"):
                opt.step([p])
            opt.groups[0][key] = before
            if key == "lr":
                with error(kind, f"{name}: lr must be {expected}"):
                    optimizer([p], lr=lambda step, value=value: value)
    assert opt.t == 1


def test_the_given_value_is_in_the_text():
    for value in (-0.5, np.float32(-0.5), 10**400, (0.9, 1.0), "0.1"):
        with pytest.raises((TypeError, ValueError), match=re.escape(f", got {value!r}") + "$"):
            gradfuse.optim.Adam([np.zeros(1)], betas=(0.5, value))


COMMON = [
    ("maximize", 1, TypeError, "must be True or False, got 1"),
    ("decoupled_weight_decay", None, TypeError, "must be True or False, got None"),
    ("master_weights", "no", TypeError, "must be True or False, got 'no'"),
    ("max_grad_norm", -1.0, ValueError, "must be None or a finite number >= 0, got -1.0"),
    ("max_grad_norm", np.nan, ValueError, "must be None or a finite number >= 0, got nan"),
    ("max_grad_norm", np.inf, ValueError, "must be None or a finite number >= 0, got inf"),
    ("max_grad_norm", 10**400, ValueError, "must be None or a finite number >= 0, got 1000"),
    ("max_grad_norm", False, TypeError, "must be None or a finite number >= 0, got False"),
    ("max_grad_norm", "1", TypeError, "must be None or a finite number >= 0, got '1'"),
    ("nonfinite", "ignore", ValueError, "must be 'propagate', 'skip' or 'raise', got 'ignore'"),
    ("nonfinite", None, ValueError, "must be 'propagate', 'skip' or 'raise', got None"),
]


@every_optimizer
@pytest.mark.parametrize(("key", "value", "kind", "text"), COMMON)
def test_common_arguments(name, key, value, kind, text):
    with error(kind, f"{name}: {key} {text}"):
        getattr(gradfuse.optim, name)([np.zeros(3)], **{key: value})
    opt = make(name, [np.zeros(3)])
    if key in ("max_grad_norm", "nonfinite"):
        before = getattr(opt, key)
        setattr(opt, key, value)
        with error(kind, f"{name}: {key} {text}"):
            opt.step([np.ones(3)])
        setattr(opt, key, before)
    elif key != "master_weights":
        opt.groups[0][key] = value
        with error(kind, f"{name}: {key} {text}"):
            opt.step([np.ones(3)])
    assert opt.t == 0
    assert not opt.params[0].any()


def test_unknown_arguments():
    p = np.zeros(3)
    with error(TypeError, "SGD: got an unexpected keyword argument 'momentumm'"):
        gradfuse.optim.SGD([p], momentumm=0.9)
    with error(TypeError, "SGD: missing a required argument: 'params'"):
        gradfuse.optim.SGD()
    with error(TypeError, "SGD: too many positional arguments"):
        gradfuse.optim.SGD([p], 0.1, 0.9, 0.0, 0.0, True, True)
    with error(ValueError, "SGD: params: a group may set lr, momentum, "):
        gradfuse.optim.SGD([{"params": [p], "betas": (0.9, 0.99)}])
    for key in ("max_grad_norm", "nonfinite", "master_weights"):
        with pytest.raises(ValueError, match=f"a group may set lr, .*, got '{key}'$"):
            gradfuse.optim.SGD([{"params": [p], key: None}])


def gradients(**changed):
    """Good ones for the parameters of the test below, but for those named."""
    grads = {"g0": np.ones(3, np.float32), "g1": np.ones((2, 4), np.float16), "g2": None, **changed}
    return list(grads.values())


GRADS = [
    (3, TypeError, " must be a list or tuple of arrays, got 3"),
    (np.ones((3, 4)), TypeError, " must be a list or tuple of arrays, got an array of float64 with shape (3, 4)"),
    ({0: np.ones(3)}, TypeError, " must be a list or tuple of arrays, got an object of type dict"),
    (iter(gradients()), TypeError, " must be a list or tuple of arrays, got an object of type list_iterator"),
    ([], ValueError, " must hold one gradient per parameter, 3, got 0"),
    ([*gradients(), None], ValueError, " must hold one gradient per parameter, 3, got 4"),
    (
        gradients(g1=[1.0]),
        TypeError,
        "[1] must be an array (NumPy, or any object with __dlpack__), got an object of type list",
    ),
    (gradients(g1=1.0), TypeError, "[1] must be an array (NumPy, or any object with __dlpack__), got 1.0"),
    (gradients(g1=np.float16(1)), TypeError, "[1] must be an array (NumPy, or any object with __dlpack__), got "),
    (gradients(g1=np.ones((2, 4), int)), TypeError, "[1] must be float16, bfloat16, float32 or float64, got int64"),
    (gradients(g1=np.ones((2, 4), bool)), TypeError, "[1] must be float16, bfloat16, float32 or float64, got bool"),
    (gradients(g1=np.ones((2, 4), ">f2")), TypeError, "[1] must be in the machine's byte order, got a swapped array"),
    (gradients(g1=np.ones((2, 4))), TypeError, "[1] must have the dtype of its parameter, float16, got float64"),
    (
        gradients(g1=np.ones((2, 4), BFLOAT16)),
        TypeError,
        "[1] must have the dtype of its parameter, float16, got bfloat16",
    ),
    (gradients(g1=np.ones((4, 2), "f2")), ValueError, "[1] must have the shape of its parameter, (2, 4), got (4, 2)"),
    (gradients(g0=np.ones(1, "f4")), ValueError, "[0] must have the shape of its parameter, (3,), got (1,)"),
    (gradients(g0=np.ones((3, 1), "f4")), ValueError, "[0] must have the shape of its parameter, (3,), got (3, 1)"),
    (gradients(g2=np.ones(2)), ValueError, "[2] must have the shape of its parameter, (), got (2,)"),
]


@every_optimizer
@pytest.mark.parametrize(("grads", "kind", "text"), GRADS)
def test_gradients(name, grads, kind, text):
    opt = make(name, [np.ones(3, np.float32), np.ones((2, 4), np.float16), np.ones(())])
    opt.step(gradients())
    with unchanged(opt), error(kind, f"{name}.step: grads{text}"):
        opt.step(grads)


def test_a_gradient_that_overlaps_its_parameter():
    base = np.arange(17.0)
    opt = gradfuse.optim.SGD([np.zeros(1), base[1:]])
    for g in (base[:-1], base[1:][::-1]):
        text = "SGD.step: grads[1] must be its parameter itself or not overlap it, got an overlapping view"
        with unchanged(opt), error(ValueError, text):
            opt.step([np.zeros(1), g])


def test_parameters_without_a_gradient_of_their_own():
    with error(TypeError, "SGD.step: grads must be given, for a parameter of type ndarray has no .grad"):
        gradfuse.optim.SGD([np.zeros(3)]).step()


@pytest.mark.parametrize(("name", "key", "value", "made_with", "now"), [
    ("SGD", "momentum", 0.9, "momentum_buffer", "none"),
    ("RMSprop", "centered", True, "square_avg and grad_avg", "square_avg"),
    ("Adam", "amsgrad", True, "exp_avg and exp_avg_sq and max_exp_avg_sq", "exp_avg and exp_avg_sq"),
])  # fmt: skip
def test_hyper_parameters_that_call_for_other_state(name, key, value, made_with, now):
    opt = getattr(gradfuse.optim, name)([np.zeros(3)], **{key: value})
    opt.groups[0][key] = type(value)(0)
    text = "hyper-parameters must need the same state as before"
    with unchanged(opt), error(ValueError, f"{name}.step: {text}, {made_with}, got ones that need {now}"):
        opt.step([np.ones(3)])
    opt.groups[0][key] = value
    opt.step([np.ones(3)])


def test_groups_that_come_or_go():
    opt = gradfuse.optim.SGD([{"params": np.zeros(3)}, {"params": np.zeros(2)}])
    gone = opt.groups.pop()
    for count in (1, 3):
        with error(ValueError, f"SGD.step: groups must have their original length, 2, got {count}"):
            opt.step([np.ones(3), np.ones(2)])
        opt.groups += [gone, gone]
    assert opt.t == 0


@pytest.mark.parametrize("rate", [np.nan, -1.0, "0.1", None])
def test_a_schedule_that_goes_wrong(rate):
    opt = gradfuse.optim.SGD([np.zeros(3)], lr=lambda step: rate if step == 1 else 0.5)
    opt.step([np.ones(3)])
    with unchanged(opt), pytest.raises((TypeError, ValueError), match=f"SGD: lr must be a finite .* got {rate!r}"):
        opt.step([np.ones(3)])


def edits(state):
    """Ways to spoil a state, by what is said of it."""
    first = state["state"][0]
    saved = state["groups"][0]
    return {
        "must be what state_dict() returned, got list": lambda s: [],
        "must be what state_dict() returned, got ['optimizer'": lambda s: {k: v for k, v in s.items() if k != "groups"},
        "must be what state_dict() returned, got ['extra'": lambda s: {"extra": 1, **s},
        "must be of Adam, got one of AdamW": lambda s: {**s, "optimizer": "AdamW"},
        "['groups'] must be a list of 2, got 1": lambda s: {**s, "groups": [saved]},
        "['clocks'] must be a list of 2, got 3": lambda s: {**s, "clocks": [[1, 1.0]] * 3},
        "['clocks'] must be a list of 2, got None": lambda s: {**s, "clocks": None},
        "['state'] must be a list of 3, got 1": lambda s: {**s, "state": [first]},
        "['clocks'] must be pairs of a step and a number in [0, 1], got [-1, 1.0]": lambda s: {
            **s,
            "clocks": [[-1, 1.0]] * 2,
        },
        "['clocks'] must be pairs of a step and a number in [0, 1], got [1, nan]": lambda s: {
            **s,
            "clocks": [[1, np.nan]] * 2,
        },
        "['clocks'] must be pairs of a step and a number in [0, 1], got 7": lambda s: {**s, "clocks": [7, 7]},
        "['groups'] must be dicts of lr, betas, ": lambda s: {**s, "groups": [saved, 3]},
        "['groups'] must be dicts of lr, betas, eps, ": lambda s: {**s, "groups": [saved, {**saved, "params": []}]},
        "['state'][0] must hold {'exp_avg': 'float32(3,)'": lambda s: {**s, "state": [{}] * 3},
        "['state'][1] must hold {'exp_avg': 'float32(2, 2)'": lambda s: {**s, "state": [first] * 3},
        "['state'][2] must hold {'exp_avg': 'float64()'": lambda s: {**s, "state": [*s["state"][:2], None]},
    }


def test_states_that_do_not_fit():
    params = [np.ones(3, np.float32), np.ones((2, 2), np.float16), np.ones(())]
    opt = gradfuse.optim.Adam([{"params": params[:2]}, {"params": params[2:], "lr": 0.1}], amsgrad=True)
    opt.step(params)
    good = opt.state_dict()
    for text, edit in edits(good).items():
        with (
            unchanged(opt),
            error((TypeError, ValueError), f"Adam.load_state_dict: state{'' if text[0] == '[' else ' '}{text}"),
        ):
            opt.load_state_dict(edit(copy.deepcopy(good)))
    for key, value in [("lr", -1.0), ("betas", 0.9), ("amsgrad", 1), ("maximize", None)]:
        bad = {**good, "groups": [good["groups"][0], {**good["groups"][1], key: value}]}
        with unchanged(opt), error((TypeError, ValueError), f"Adam: {key} must be "):
            opt.load_state_dict(bad)
    for key in ("max_grad_norm", "nonfinite"):
        with unchanged(opt), error((TypeError, ValueError), f"Adam: {key} must be "):
            opt.load_state_dict({**good, key: "x"})
    opt.load_state_dict(good)


def test_a_state_of_an_optimizer_with_other_slots():
    state = gradfuse.optim.SGD([np.zeros(3)], momentum=0.9).state_dict()
    opt = gradfuse.optim.SGD([np.zeros(3)])
    with (
        unchanged(opt),
        error(ValueError, "SGD.load_state_dict: state['state'][0] must hold {}, got {'momentum_buffer'"),
    ):
        opt.load_state_dict(state)
