"""Arguments whose code does harm, tensors without memory, text without UTF-8, and the end of the interpreter."""

import gc
import subprocess
import sys
import weakref

import numpy as np
import pytest
from helpers import assert_identical

import gradfuse


class Resizes:
    """An argument that empties another array of the call while it is read."""

    def __init__(self, victim):
        self.victim, self.own = victim, np.ones(victim.shape, victim.dtype)

    def strike(self):
        self.victim.resize((0,), refcheck=False)

    def __float__(self):
        self.strike()
        return 1.0

    def __index__(self):
        self.strike()
        return 1

    def __dlpack__(self, **options):
        self.strike()
        return self.own.__dlpack__(**options)

    def __dlpack_device__(self):
        return (1, 0)


def labels(x):
    return np.zeros(len(x), "i8")


REENTRANT = {
    "number": lambda x: gradfuse.elu(x, alpha=Resizes(x)),
    "axis": lambda x: gradfuse.softmax(x, axis=Resizes(x)),
    "array after": lambda x: gradfuse.relu_backward(x, Resizes(x)),
    "array before": lambda x: gradfuse.mse_loss(x, Resizes(x)),
    "out": lambda x: gradfuse.elu(np.ones_like(x), alpha=Resizes(x), out=x),
    "labels": lambda x: gradfuse.cross_entropy(x, labels(x), label_smoothing=Resizes(x)),
    "weight": lambda x: gradfuse.layer_norm_forward(Resizes(x), x, None, axis=(0, 1)),
    "random": lambda x: gradfuse.dropout_forward(x, rng=Resizes(x)),
    "list": lambda x: gradfuse.clip_grad_norm_([x, Resizes(x)], 1.0),
    "gradients": lambda x: gradfuse.optim.SGD([x.copy(), x.copy()]).step([x, Resizes(x)]),
    "parameters": lambda x: gradfuse.optim.SGD([x, x.copy()]).step([x.copy(), Resizes(x)]),
}


@pytest.mark.parametrize("call", REENTRANT.values(), ids=REENTRANT)
def test_an_array_resized_by_another_argument(call):
    x = np.ones((400, 100), "f4")
    with pytest.raises(ValueError, match=r"resized|shape"):
        call(x)


class Raises:
    def __init__(self, error):
        self.error = error

    def strike(self, **_):
        raise self.error

    __float__ = __index__ = __dlpack__ = strike

    def __dlpack_device__(self):
        return (1, 0)


PASSING = {
    "number": lambda bad: gradfuse.elu(np.ones(3), alpha=bad),
    "axis": lambda bad: gradfuse.softmax(np.ones(3), axis=bad),
    "array": lambda bad: gradfuse.relu(bad),
    "seed": lambda bad: gradfuse.dropout_forward(np.ones(3), rng=bad),
    "generator": lambda bad: gradfuse.Generator(bad),
    "axes": lambda bad: gradfuse.max_norm_(np.ones((3, 3)), 1.0, axis=bad),
    "gradient": lambda bad: gradfuse.optim.SGD([np.ones(3)]).step([bad]),
    "clipping": lambda bad: gradfuse.clip_grad_norm_([bad], 1.0),
    "labels": lambda bad: gradfuse.cross_entropy(np.ones((3, 3)), bad),
}


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, MemoryError, RecursionError])
@pytest.mark.parametrize("call", PASSING.values(), ids=PASSING)
def test_interrupts_pass(call, error):
    with pytest.raises(error):
        call(Raises(error("stop")))


@pytest.mark.parametrize("call", PASSING.values(), ids=PASSING)
def test_other_errors_become_one_sentence(call):
    with pytest.raises((TypeError, ValueError)) as error:
        call(Raises(OSError("a long story")))
    assert "\n" not in str(error.value)


def test_an_array_that_calls_gradfuse_on_itself_ends():
    class Itself:
        def __dlpack__(self, **_):
            return gradfuse.relu(self)

        def __dlpack_device__(self):
            return (1, 0)

    with pytest.raises(RecursionError):
        gradfuse.relu(Itself())


FUNCTIONS = [name for name in gradfuse._core.__all__ if callable(getattr(gradfuse._core, name))]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_keyword_without_utf8(name):
    with pytest.raises(TypeError, match=r"unexpected argument '\\udc80'|missing argument|at most"):
        getattr(gradfuse._core, name)(**{"\udc80": 1})


@pytest.mark.parametrize(
    "call",
    [
        lambda text: gradfuse.mse_loss(np.ones(3), np.ones(3), reduction=text),
        lambda text: gradfuse.gated(np.ones(3), np.ones(3), activation=text),
        lambda text: gradfuse.gated(np.ones(3), np.ones(3), activation=("elu", {text: 1.0})),
        lambda text: gradfuse.clip_grad_norm_([np.ones(3)], 1.0, nonfinite=text),
        lambda text: gradfuse.Generator(1).load_state_dict({text: 1, "seed": 2}),
    ],
)
def test_text_without_utf8(call):
    with pytest.raises((TypeError, ValueError), match="udc80"):
        call("\udc80")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: gradfuse.Generator(), "Generator: missing argument seed"),
        (lambda: gradfuse.Generator(1, True, 3), "Generator: takes at most 2 arguments, got 3"),
        (lambda: gradfuse.Generator(1, seed=2), "Generator: argument seed given twice"),
        (lambda: gradfuse.Generator(1, capturable=1), "Generator: capturable must be True or False, got 1"),
        (lambda: gradfuse.Generator(1).state_dict(1), "Generator.state_dict: takes at most 0 arguments, got 1"),
        (lambda: gradfuse.Generator(1).load_state_dict(), "Generator.load_state_dict: missing argument state"),
        (lambda: gradfuse.Generator(1).load_state_dict(states={}), "unexpected argument 'states'"),
    ],
)
def test_generator_messages(call, message):
    with pytest.raises(TypeError) as error:
        call()
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_daemon_threads_at_the_end():
    code = """
import numpy as np, gradfuse, threading, time
x = np.ones(1 << 22, "f4")
o = gradfuse.optim.Adam([x.copy()])
def kernel():
    while True: gradfuse.mish(x)
def step():
    while True: o.step([x])
for f in (kernel, kernel, step): threading.Thread(target=f, daemon=True).start()
time.sleep(0.2)
"""
    runs = [subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE) for _ in range(3)]
    assert [(run.communicate(timeout=60)[1], run.returncode) for run in runs] == [(b"", 0)] * 3


def test_children_of_fork():
    """They draw masks of their own, and their optimizers are not at work because the parent's was."""
    code = """
import os, threading, numpy as np, gradfuse
def mask():
    return (gradfuse.dropout_forward(np.ones(256, "f4"))[0] > 0).tobytes()
def child(f):
    r, w = os.pipe()
    if os.fork() == 0:
        os.write(w, f())
        os._exit(0)
    os.wait()
    return os.read(r, 256)
masks = [mask(), child(mask), child(mask), mask()]
assert len(set(masks)) == 4
p = np.zeros(1_000_000, "f4")
opt, stop = gradfuse.optim.Adam([p]), []
def work():
    while not stop: opt.step([p])
thread = threading.Thread(target=work)
thread.start()
def use():
    try:
        opt.state_dict()
        return b"free"
    except RuntimeError:
        return b"busy"
states = {child(use) for _ in range(10)}
stop.append(1)
thread.join()
assert states == {b"free"}, states
"""
    run = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, timeout=60)
    assert run.returncode == 0, run.stderr


def test_master_weights_are_the_optimizers_own():
    p = np.full(1000, 2, np.float16)
    opt = gradfuse.optim.SGD([p], lr=0.5, master_weights=True)
    own, given = opt.state[0]["master"], np.zeros(1, np.float32)
    opt.state[0]["master"] = given
    p[:] = 3
    opt.refresh_master_weights()
    assert_identical(given, np.zeros(1, np.float32))
    assert_identical(own, np.full(1000, 3, np.float32))
    opt.state.clear()
    opt.step([np.ones_like(p)])
    assert_identical(p, np.full(1000, 2.5, np.float16))


def test_nobody_frees_a_state():
    opt = gradfuse.optim.Adam([np.ones(1000)])
    for name, array in opt.state[0].items():
        with pytest.raises(ValueError, match="own"):
            array.resize((0,), refcheck=False)
        assert array.shape == (1000,), name


class Owned(np.ndarray):
    """An array that may refer to what refers to it."""


def owner_of(make, *arrays):
    owned = [np.ones(a.shape, a.dtype).view(Owned) for a in arrays]
    owned[0].owner = make(*owned)
    return [weakref.ref(a) for a in owned]


X, V = np.ones((4, 3)), np.ones(3)
CYCLES = {
    "optimizer": (lambda p, q: gradfuse.optim.Adam([p, q]), X, V),
    "batch_norm": (lambda x, w, b: gradfuse.batch_norm_forward(x, None, None, w, b, residual=x.copy())[1], X, V, V),
    "layer_norm": (lambda x, w, b: gradfuse.layer_norm_forward(x, w, b)[1], X, V, V),
    "prelu": (lambda x, w: gradfuse.prelu_forward(x, w)[1], X, V),
    "maxout": (lambda x: gradfuse.maxout_forward(x, 3)[1], X),
    "glu": (lambda x: gradfuse.glu_forward(x, axis=0)[1], X),
    "rrelu": (lambda x: gradfuse.rrelu_forward(x, rng=1)[1], X),
}


@pytest.mark.parametrize("case", CYCLES.values(), ids=CYCLES)
def test_cycles_are_collected(case):
    make, *arrays = case
    references = owner_of(make, *arrays)
    gc.collect()
    assert [r() for r in references] == [None] * len(arrays)


def test_the_collector_frees_nothing_that_is_used():
    x, g = np.random.default_rng(0).standard_normal((2, 4, 3))
    _, ctx = gradfuse.batch_norm_forward(x.copy(), None, None, residual=x.copy())
    opt = gradfuse.optim.Adam([x])
    expected = gradfuse.batch_norm_backward(g, ctx)[0].copy()
    gc.collect()
    assert_identical(gradfuse.batch_norm_backward(g, ctx)[0], expected)
    opt.step([g])


@pytest.mark.parametrize(
    "call",
    [
        lambda a: gradfuse.relu(a),
        lambda a: gradfuse.relu(np.ones(2), out=a),
        lambda a: gradfuse.clip_grad_norm_([a], 1.0),
        lambda a: gradfuse.optim.SGD([a]),
        lambda a: gradfuse.optim.SGD([np.ones(2)]).step([a]),
        lambda a: gradfuse.cross_entropy(np.ones((2, 2)), a.astype("i8")),
    ],
)
def test_a_mask_is_not_dropped(call):
    with pytest.raises(TypeError, match="without a mask, got a masked array: fill it first"):
        call(np.ma.masked_array(np.array([1.0, 999.0]), [False, True]))


@pytest.mark.parametrize("seed", [np.ones((2, 1)).view(np.matrix), "x", -1, None, True, 1.5], ids=repr)
def test_the_seed_of_pretraining(seed):
    from gradfuse import nn, training

    model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    with pytest.raises((TypeError, ValueError), match="pretrain_layers: seed must be an integer >= 0"):
        training.pretrain_layers(model, np.ones((4, 4), "f4"), epochs=1, seed=seed, progress=False)
    with pytest.raises(TypeError, match="pretrain_layers: model must be a Sequential, got list"):
        training.pretrain_layers([], np.ones((4, 4), "f4"), epochs=1, progress=False)


# ---- PyTorch


@pytest.fixture
def torch():
    return pytest.importorskip("torch")


WITHOUT_MEMORY = {
    "zero tensor": lambda torch: torch._efficientzerotensor((4,)),
    "resized to 0, as FSDP does": lambda torch: emptied(torch.ones(4)),
    "meta": lambda torch: torch.ones(4, device="meta"),
}


def emptied(tensor):
    tensor.untyped_storage().resize_(0)
    return tensor


@pytest.mark.parametrize("make", WITHOUT_MEMORY.values(), ids=WITHOUT_MEMORY)
def test_tensors_without_memory(torch, make):
    for call in (
        lambda t: gradfuse.relu(t),
        lambda t: gradfuse.relu(torch.ones(4), out=t),
        lambda t: gradfuse.optim.SGD([torch.ones(4)]).step([t]),
        lambda t: gradfuse.optim.SGD([t]),
        lambda t: gradfuse.clip_grad_norm_([t], 1.0),
    ):
        with pytest.raises((TypeError, ValueError), match=r"must have memory|could not be read"):
            call(make(torch))


@pytest.mark.filterwarnings("ignore")
def test_tensors_that_stand_for_others(torch):
    from torch._subclasses import FakeTensorMode

    with FakeTensorMode(), pytest.raises((TypeError, ValueError)):
        gradfuse.relu(torch.ones(3))
    with pytest.raises((TypeError, ValueError)):
        torch.func.functionalize(gradfuse.relu)(torch.ones(3))


class Empties:
    """An argument that takes a tensor's memory away while it is read."""

    def __init__(self, victim):
        self.victim = victim

    def __float__(self):
        emptied(self.victim)
        return 1.0

    def __index__(self):
        emptied(self.victim)
        return 0

    def __hash__(self):
        return hash("alpha")

    def __eq__(self, other):
        emptied(self.victim)
        return other == "alpha"


TENSORS = {
    "number": lambda x: gradfuse.elu(x, alpha=Empties(x)),
    "axis": lambda x: gradfuse.softmax(x, axis=Empties(x)),
    "seed": lambda x: gradfuse.dropout_forward(x, rng=Empties(x)),
    "axes": lambda x: gradfuse.max_norm_(x, 1.0, axis=Empties(x)),
    "parameter": lambda x: gradfuse.gated(x, x, activation=("elu", {Empties(x): 1.0})),
}


@pytest.mark.parametrize("call", TENSORS.values(), ids=TENSORS)
def test_a_tensor_resized_by_another_argument(torch, call):
    with pytest.raises(ValueError, match="resized"):
        call(torch.ones(1000))


@pytest.mark.parametrize("shape", [(4,), (3, 1), (1,)])
def test_lazily_negated_tensors(torch, shape):
    z = torch.complex(torch.ones(shape), torch.ones(shape))
    with pytest.raises(ValueError, match="resolve_neg"):
        gradfuse.relu(z.conj().imag)
    with pytest.raises(ValueError, match="resolve_neg"):
        gradfuse.relu(torch.ones(shape), out=z.conj().imag)
    assert torch.equal(gradfuse.relu(z.imag), torch.ones(shape))
    assert torch.equal(gradfuse.relu(-z.conj().imag.resolve_neg()), torch.ones(shape))


def test_autograd_hears_of_writes(torch):
    w = torch.ones(3, requires_grad=True)
    t = torch.tensor([-1.0, 2.0, 3.0])
    y = (w * t).sum()
    gradfuse.relu(t, out=t)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.backward()


def test_writes_are_counted(torch):
    def written(t, call):
        before = t._version
        call()
        return t._version - before

    x, mean, var = torch.ones(5, 4), torch.zeros(4), torch.ones(4)
    p, g = torch.ones(4, requires_grad=True), torch.ones(4)
    opt = gradfuse.optim.SGD([p])
    assert written(x, lambda: gradfuse.relu(torch.ones(5, 4), out=x)) == 1
    assert written(x, lambda: gradfuse.relu(x)) == 0
    assert written(x, lambda: gradfuse.clip_grad_norm_([x], 1.0)) == 1
    assert written(x, lambda: gradfuse.clip_grad_value_([x], 1.0)) == 1
    assert written(x, lambda: gradfuse.max_norm_(x, 1.0)) == 1
    assert written(mean, lambda: gradfuse.batch_norm_forward(x, mean, var)) == 1
    assert written(var, lambda: gradfuse.batch_norm_forward(x, mean, var)) == 1
    assert written(mean, lambda: gradfuse.batch_norm(x, mean, var)) == 0
    assert written(p, lambda: opt.step([g])) == 1
    assert written(g, lambda: opt.step([g])) == 0
    with pytest.raises(ValueError, match="finite"):
        written(g, lambda: gradfuse.clip_grad_norm_([g * np.inf], 1.0, nonfinite="raise"))
    with torch.inference_mode():  # its tensors have no counter
        t = torch.full((3,), -1.0)
        gradfuse.relu(t, out=t)
        assert torch.equal(t, torch.zeros(3))
