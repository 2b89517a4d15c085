"""The cases of the optimizers' tests, made from the compiled list: a new optimizer is tested as it is added."""

import itertools
from contextlib import contextmanager

import numpy as np
from helpers import assert_identical

import gradfuse
from gradfuse import _core

SPECS = {spec["name"]: spec for spec in _core.optimizer_list()}
NAMES = list(SPECS)

# Off-default values by the hyper-parameter's name. Any other takes the first of a few that its interval holds.
# eps is so large that a gradient of which decay has left nothing but rounding does not count.
OFF_DEFAULT = {
    "lr": 0.03,
    "betas": (0.8, 0.95),
    "eps": 0.05,
    "alpha": 0.8,
    "momentum": 0.7,
    "dampening": 0.3,
    "weight_decay": 0.1,
    "lr_decay": 0.05,
    "momentum_decay": 0.02,
    "initial_accumulator_value": 0.2,
}


def off_default(hyper):
    if hyper["kind"] == "flag":
        return not hyper["default"]
    if hyper["name"] in OFF_DEFAULT:
        return OFF_DEFAULT[hyper["name"]]
    if hyper["kind"] == "pair":
        return tuple(off_default({**hyper, "kind": "number", "default": each}) for each in hyper["default"])
    low, high, *_ = hyper["interval"]
    tries = (1.3 * hyper["default"], 0.7 * hyper["default"], 0.3, low + 0.3, high - 0.3)
    return next(x for x in tries if low < x < high and x != hyper["default"])


def slots(name, hypers):
    """Bits of the state arrays in use."""
    values = [hypers[hyper["name"]] for hyper in SPECS[name]["hypers"]]
    flat = [float(v) for value in values for v in (value if isinstance(value, tuple) else (value,))]
    return _core.optimizer_slots(NAMES.index(name), tuple(flat))


def settings(name):
    """Every hyper-parameter off its default, in all combinations of those that switch something on. Last come all."""
    hypers = SPECS[name]["hypers"]
    off = {hyper["name"]: off_default(hyper) for hyper in hypers}
    switches = {"maximize": (False, True), "decoupled_weight_decay": (False, True)}
    for hyper in hypers:
        key, default = hyper["name"], hyper["default"]
        if hyper["kind"] == "flag" or slots(name, off) != slots(name, {**off, key: default}):
            switches[key] = (default, off[key])
    return [{**off, **dict(zip(switches, values, strict=True))} for values in itertools.product(*switches.values())]


SETTINGS = {name: settings(name) for name in NAMES}


def make(name, params, **options):
    """An optimizer with every part of its formula in use."""
    return getattr(gradfuse.optim, name)(params, **{**SETTINGS[name][-1], **options})


def snapshot(opt):
    state = opt.state_dict()
    arrays = [np.array(p) for p in opt.params] + [a for s in state.pop("state") for a in s.values()]
    return arrays, state


def assert_same(opt, before):
    arrays, state = snapshot(opt)
    for now, then in zip(arrays, before[0], strict=True):
        assert_identical(now, then)
    assert state == before[1]


@contextmanager
def unchanged(opt):
    """That parameters, state, hyper-parameters and t are the same afterwards."""
    before = snapshot(opt)
    yield
    assert_same(opt, before)
