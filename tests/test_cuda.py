"""Tests for CUDA only: arrays of other libraries, errors, and graph capture. On a GPU, or emulated."""

import importlib.util
import operator
import re
import threading
from pathlib import Path

import numpy as np
import pytest
from helpers import COMPILED, DEVICES, DTYPES, LAYOUTS, OPERATIONS, assert_identical, cast, python, to_device, to_numpy

import gradfuse
from gradfuse import _arrays, _core, _interop

(DEVICE,) = [d for d in DEVICES if d != "cpu"] or ["none"]
pytestmark = [
    pytest.mark.skipif(DEVICE == "none", reason="needs a GPU, or the emulated build"),
    pytest.mark.parametrize("on", [DEVICE]),  # its name in the tests' own
]
emulated = pytest.mark.skipif(DEVICE != "cuda-emulated", reason="for the emulator")


def device_array(values, dtype="float32"):
    import cupy

    return cupy.asarray(np.asarray(values, dtype))


class Interface:
    """An array that has only __cuda_array_interface__."""

    def __init__(self, array, **changes):
        self.array, self.changes = array, changes

    @property
    def __cuda_array_interface__(self):
        return {**self.array.__cuda_array_interface__, **self.changes}


def interface(emulator, host, device=0, **changes):
    emulator.gradfuse_emulator_allocated(host.ctypes.data, max(host.nbytes, 1), device)
    import cupy

    return Interface(cupy.ndarray.over(host, device), **changes)


# Arrays of other libraries


def test_results_are_of_the_input_s_kind(on):
    import cupy

    x = device_array(np.ones((4, 6)))
    for name, operation in OPERATIONS.items():
        if name == "batch_norm_training":  # returns arrays that it was given
            continue
        for result in operation(DeviceArguments(), np.ones((4, 6), np.float32), np.ones((4, 6), np.float32)):
            assert isinstance(result, cupy.ndarray)
    y, _ = gradfuse.batch_norm_forward(x, None, None)
    assert (y.shape, y.dtype) == (x.shape, x.dtype)
    loss, _ = gradfuse.mse_loss(x, x)
    assert isinstance(loss, cupy.ndarray)
    assert loss.shape == ()
    norm = gradfuse.clip_grad_norm_([x], 1.0)
    assert isinstance(norm, cupy.ndarray)
    assert float(to_numpy(norm)) == pytest.approx(24**0.5)


class DeviceArguments:
    """gradfuse, called with arrays on the device instead of NumPy arrays."""

    def __getattr__(self, name):
        function = getattr(gradfuse, name)

        def moved(a):
            return device_array(a, a.dtype) if isinstance(a, np.ndarray) else a

        def call(*args, **kwargs):
            return function(*map(moved, args), **{k: moved(a) for k, a in kwargs.items()})

        return call


@emulated
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_cuda_array_interface(on, emulator, dtype):
    host = cast(np.linspace(-3, 3, 35).reshape(5, 7), dtype)
    for a in (host, host[::2, 1:], host.T, host[:0]):
        x = interface(emulator, host)
        x = Interface(type(x.array).over(a)) if a is not host else x
        assert_identical(np.ascontiguousarray(to_numpy(gradfuse.elu(x))), gradfuse.elu(a.copy()))
    out = np.empty_like(host)
    y = interface(emulator, out)
    assert gradfuse.elu(interface(emulator, host), out=y) is y
    assert_identical(out, gradfuse.elu(host))


@emulated
def test_read_only_interface(on, emulator):
    host = np.ones(5, np.float32)
    x = interface(emulator, host)
    fixed = Interface(x.array, data=(host.ctypes.data, True))
    with pytest.raises(ValueError, match=r"^elu: out must be writeable, got a read-only array$"):
        gradfuse.elu(x, out=fixed)


@emulated
def test_the_stream_of_an_interface_is_waited_for(on, emulator):
    import cupy

    host = np.ones(5, np.float32)
    x = interface(emulator, host)
    before = len(cupy.WAITED)
    gradfuse.relu(x)  # stream 1 is CuPy's null stream
    assert len(cupy.WAITED) == before
    gradfuse.relu(Interface(x.array, stream=77))
    assert cupy.WAITED[before:] == [77]


@emulated
def test_swapped_bytes_are_refused(on, emulator):
    x = interface(emulator, np.ones(5, np.float32))
    with pytest.raises(TypeError, match=r"^relu: x must be in the machine's byte order, got a swapped array$"):
        gradfuse.relu(Interface(x.array, typestr=">f4"))


@emulated
def test_foreign_and_freed_pointers(on, emulator):
    host = np.ones(5, np.float32)
    x = interface(emulator, host)
    gradfuse.relu(x)
    emulator.gradfuse_emulator_freed(host.ctypes.data)
    with pytest.raises(
        ValueError, match=r"^relu: x must point to memory of a CUDA device, got a pointer that does not$"
    ):
        gradfuse.relu(x)


@emulated
def test_devices_are_not_mixed(on, emulator):
    import cupy

    x, y = np.ones((4, 3), np.float32), np.ones((4, 3), np.float32)
    first, second = cupy.ndarray.over(x, 0), cupy.ndarray.over(y, 1)
    assert_identical(to_numpy(gradfuse.elu(second)), gradfuse.elu(y))
    for other, where in ((second, "CUDA device 1"), (y, "the CPU")):
        with pytest.raises(
            ValueError,
            match=rf"^elu_backward: saved must be on the device of grad_out, CUDA device 0, got one on {where}$",
        ):
            gradfuse.elu_backward(first, other)
        with pytest.raises(ValueError, match=rf"out must be on the device of x, CUDA device 0, got one on {where}$"):
            gradfuse.elu(first, out=other)
        with pytest.raises(ValueError, match=rf"weight must be on the device of x, CUDA device 0, got one on {where}$"):
            gradfuse.batch_norm_forward(first, None, None, other[0])
        with pytest.raises(ValueError, match=r"params\[1\] must be on the device of the first, CUDA device 0, got .*"):
            gradfuse.optim.Adam([first, other])
        opt = gradfuse.optim.Adam([first])
        with pytest.raises(ValueError, match=rf"grads\[0\] must be on the device of its parameter, .* {where}$"):
            opt.step([other])
        with pytest.raises(ValueError, match=rf"grads\[1\] must be on the device of the first, .* {where}$"):
            gradfuse.clip_grad_norm_([first, other], 1.0)
        with pytest.raises(ValueError, match=rf"target must be on the device of logits, .* {where}$"):
            gradfuse.cross_entropy(first, np.zeros(4, int) if other is y else cupy.ndarray.over(np.zeros(4, int), 1))


def test_host_labels_are_refused(on):
    with pytest.raises(ValueError, match=r"^cross_entropy: target must be on the device of logits, CUDA device 0, got"):
        gradfuse.cross_entropy(device_array(np.ones((2, 3))), np.array([0, 1]))


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int32", "uint32", "int64"])
@pytest.mark.parametrize("step", [1, 2])
def test_labels(on, dtype, step):
    logits = np.random.default_rng(0).normal(size=(6, 5)).astype(np.float32)
    labels = np.array([0, 4, 2, 1, 3, 0]).repeat(step).astype(dtype)
    expected = gradfuse.cross_entropy(logits, labels[::step])
    actual = gradfuse.cross_entropy(device_array(logits), device_array(labels, dtype)[::step])
    for a, e in zip(actual, expected, strict=True):
        np.testing.assert_allclose(to_numpy(a), e, rtol=1e-6)


@pytest.mark.parametrize("bad", [-1, 5, 2**40])
def test_a_class_that_does_not_exist_gives_nan_and_touches_no_other_row(on, bad):
    logits = np.random.default_rng(0).normal(size=(3, 5)).astype(np.float32)
    losses, d = gradfuse.cross_entropy(device_array(logits), device_array([1, bad, 2], "int64"), reduction="none")
    good, dgood = gradfuse.cross_entropy(logits, np.array([1, 0, 2]), reduction="none")
    assert np.isnan(to_numpy(losses)[1])
    assert np.isnan(to_numpy(d)[1]).all()
    np.testing.assert_allclose(to_numpy(losses)[[0, 2]], good[[0, 2]], rtol=1e-6)
    np.testing.assert_allclose(to_numpy(d)[[0, 2]], dgood[[0, 2]], rtol=1e-5, atol=1e-7)


# Misaligned arrays, on which CuPy's kernels fail


def odd(values, dtype):
    """On the device, every other column of a matrix that begins at an odd address; and on the host."""
    host = LAYOUTS["misaligned"](np.repeat(np.asarray(values, dtype), 2, axis=-1))
    return to_device(host, DEVICE)[..., ::2], host[..., ::2].copy()


@pytest.mark.parametrize("dtype", [*DTYPES, "int64", "uint16"])
def test_misaligned_arrays_are_copied_and_assigned(on, dtype):
    import cupy

    x, expected = odd(np.arange(12).reshape(3, 4), dtype)
    for copy in (_interop.copied(x), _interop.aligned(x)):
        assert isinstance(copy, cupy.ndarray)
        assert_identical(copy.get(), expected)
        assert not _interop.is_misaligned(copy)
    assert _interop.aligned(copy) is copy
    assert_identical(_arrays.to_numpy(x), expected)
    for values in (expected + 1, cupy.asarray(expected + 2), odd(expected + 3, dtype)[0], expected.astype("f4") + 4):
        _interop.assign(x, values)
        host = to_numpy(values)
        assert_identical(np.ascontiguousarray(to_numpy(x)), np.ascontiguousarray(host).astype(dtype))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("to", LAYOUTS)
@pytest.mark.parametrize("of", LAYOUTS)
def test_copy_elements(on, dtype, of, to):
    x = cast(np.arange(24).reshape(2, 3, 4), dtype)
    source, target = to_device(LAYOUTS[of](x), DEVICE), to_device(LAYOUTS[to](np.zeros_like(x)), DEVICE)
    _core.copy_elements(source, target)
    assert_identical(np.ascontiguousarray(to_numpy(target)), x)


def test_copy_elements_refuses(on):
    x = device_array(np.ones(4))
    with pytest.raises(ValueError, match=r"^copy_elements: x must be on a CUDA device, got an array on the CPU$"):
        _core.copy_elements(np.ones(3), np.ones(3))
    with pytest.raises(
        ValueError, match=r"^copy_elements: to must be on the device of x, CUDA device 0, got one on the"
    ):
        _core.copy_elements(x, np.ones(4, np.float32))
    with pytest.raises(ValueError, match=r"^copy_elements: to must have the shape of x"):
        _core.copy_elements(x, x[:3])
    with pytest.raises(TypeError, match=r"^copy_elements: to must have the dtype of x, float32, got float64$"):
        _core.copy_elements(x, device_array(np.ones(4), "float64"))
    with pytest.raises(ValueError, match=r"^copy_elements: to must "):
        _core.copy_elements(x[1:], x[:3])


@pytest.mark.parametrize("dtype", ["uint16", "uint32", "int64"])
def test_misaligned_labels(on, dtype):
    logits = np.random.default_rng(0).normal(size=(4, 5)).astype(np.float32)
    labels, host = odd([0, 4, 2, 1], dtype)
    loss, _ = gradfuse.cross_entropy(device_array(logits), labels)
    assert float(to_numpy(loss)) == pytest.approx(float(gradfuse.cross_entropy(logits, host)[0]))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_misaligned_parameters(on, dtype):
    """Their master weights are made, refreshed, saved and loaded."""
    p, q = odd(np.linspace(-1, 1, 12).reshape(3, 4), dtype)
    ours, host = (gradfuse.optim.Adam([a], lr=0.1, master_weights=True) for a in (p, q))
    for optimizer, parameter in ((ours, p), (host, q)):
        g = cast(np.full((3, 4), 0.5), dtype)
        g = g if parameter is q else device_array(g, dtype)
        optimizer.step([g])
        _interop.assign(parameter, cast(np.linspace(1, 2, 12).reshape(3, 4), dtype))
        optimizer.refresh_master_weights()
        optimizer.step([g])
        optimizer.load_state_dict(optimizer.state_dict())
        optimizer.step([g])
    # Half types round once a step, and a GPU's powers may differ by an ulp of float64.
    tolerance = 1e-6 if dtype == "float32" else 1e-2
    np.testing.assert_allclose(to_numpy(p).astype("f8"), q.astype("f8"), rtol=tolerance)
    for slot, state in ours.state[0].items():
        np.testing.assert_allclose(to_numpy(state), host.state[0][slot], rtol=1e-6, err_msg=slot)


KERNELS = {
    "get": lambda x: x.get(),
    "copy": lambda x: x.copy(),
    "astype": lambda x: x.astype("f8"),
    "assign": lambda x: operator.setitem(x, ..., 0),
    "assign to a part": lambda x: operator.setitem(x, 0, 0),
    "assign from": lambda x: operator.setitem(device_array(np.zeros((3, 4))), ..., x),
    "add": lambda x: x + 1,
    "add in place": lambda x: operator.iadd(x, 1),
    "of a number of NumPy's": lambda x: np.float32(2) * x,
    "concatenate": lambda x: __import__("cupy").concatenate([x, x]),
    "sum": lambda x: x.sum(),
    "index by a list": lambda x: x[[0, 2]],
    "reshape that copies": lambda x: x[:, 1:].reshape(-1),
    "function": lambda x: __import__("cupy").exp(x),
    "out": lambda x: __import__("cupy").exp(device_array(np.zeros((3, 4))), out=x),
}


@emulated
@pytest.mark.parametrize("kernel", KERNELS)
def test_a_kernel_of_cupy_s_faults_on_misaligned_elements_and_nothing_works_after_it(on, emulator, kernel):
    x, expected = odd(np.arange(12).reshape(3, 4), "float32")
    good = device_array(np.ones(3))
    views = x[1:, ::2], x.T, x[0], x.view("int32"), x.astype("float32", copy=False)
    assert_identical(np.ascontiguousarray(to_numpy(views[1])), np.ascontiguousarray(expected.T))
    with pytest.raises(RuntimeError, match="misaligned address"):
        KERNELS[kernel](x)
    for after in (lambda: good + 1, good.get, lambda: device_array(np.ones(3)), lambda: gradfuse.relu(good)):
        with pytest.raises(RuntimeError, match="misaligned address"):
            after()


@emulated
def test_a_kernel_of_this_build_faults_on_a_misaligned_element(on, emulator):
    if not emulator.gradfuse_emulator_checks_alignment():
        pytest.skip("a sanitizer looks at that")
    x, y, memory = device_array(np.ones(3)), device_array(np.ones(3)), np.ones(2, np.float32)
    assert emulator.gradfuse_emulator_read(memory.ctypes.data) == 0
    assert emulator.gradfuse_emulator_read(memory.ctypes.data + 2) == 716  # cudaErrorMisalignedAddress
    with pytest.raises(
        RuntimeError, match=r"^copy_elements: CUDA failed: misaligned address \(cudaErrorMisalignedAddress\)$"
    ):
        _core.copy_elements(x, y)


@emulated
def test_a_contiguous_misaligned_array_comes_home(on, emulator):
    host = LAYOUTS["misaligned"](np.arange(4, dtype=np.float32))
    assert_identical(to_device(host, DEVICE).get(), host.copy())


FAULT = """
import cupy, gradfuse, helpers, numpy as np

def ones():
    return helpers.to_device(helpers.LAYOUTS["misaligned"](np.ones((2, 2), "f4")), "cuda-emulated")[:, ::2]

def test_before():
    assert (gradfuse.relu(ones()).get() == 1).all()

def test_that_fails_as_any_other():
    assert False

def test_fault():
    ones() + 1

test_after = test_before
"""


@emulated
@pytest.mark.parametrize("workers", [0, 1])
def test_a_fault_spoils_no_other_test(on, tmp_path, workers):
    """pytest-xdist's worker is replaced; without workers the run ends, and says why."""
    pytest.importorskip("xdist")
    (tmp_path / "test_fault.py").write_text(FAULT)
    options = ["-p", "conftest", "-p", "no:cacheprovider", "-rA", "-n", str(workers), "--rootdir", str(tmp_path)]
    printed = python("-m", "pytest", *options, str(tmp_path)).stdout
    assert set(re.findall(r"^(PASSED|FAILED) .*test_fault\.py::test_(\w+)", printed, re.MULTILINE)) == {
        ("PASSED", "before"),
        ("FAILED", "that_fails_as_any_other"),
        ("FAILED", "fault"),
        *([("PASSED", "after")] if workers else []),
    }
    wanted = (
        "worker 'gw0' crashed while running '.*::test_fault'" if workers else "no test after .*::test_fault can use the"
    )
    assert re.search(wanted, printed)


# Bit for bit the results of the CPU: the same formula, with the same fused multiply-adds


@pytest.mark.skipif(_core.build_info()["isa"] == "baseline", reason="without fused multiplications")
@pytest.mark.parametrize("name", gradfuse.activations())
@pytest.mark.parametrize("dtype", DTYPES)
def test_activations_are_the_cpu_s_bits(on, rng, name, dtype):
    x = cast(np.concatenate([rng.normal(size=5000) * scale for scale in (0.01, 1, 30)]), dtype)
    g = cast(rng.normal(size=x.shape), dtype)
    y = getattr(gradfuse, name)(x)
    assert_identical(to_numpy(getattr(gradfuse, name)(device_array(x, dtype))), y)
    saved = x if gradfuse.saves(name) == "x" else y
    dx = getattr(gradfuse, f"{name}_backward")(device_array(g, dtype), device_array(saved, dtype))
    assert_identical(to_numpy(dx), getattr(gradfuse, f"{name}_backward")(g, saved))


# Optimizers


def test_nothing_comes_to_the_host_unasked(on):
    p = device_array(np.ones(5))
    opt = gradfuse.optim.Adam([p], max_grad_norm=1.0)
    opt.step([device_array(np.full(5, 3))])
    assert type(opt.last_grad_norm) is type(p)
    assert float(to_numpy(opt.last_grad_norm)) == pytest.approx(45**0.5)
    assert all(type(a) is type(p) for a in opt.state[0].values())


def test_a_skipped_step_is_not_counted(on):
    p = device_array(np.ones(5))
    opt = gradfuse.optim.Adam([p], nonfinite="skip")
    opt.step([device_array(np.full(5, np.nan))])
    assert opt.t == 0
    opt.step([device_array(np.ones(5))])
    assert opt.t == 1
    assert (to_numpy(p) < 1).all()


def test_more_groups_than_come_as_arguments(on):
    params, plain = [device_array(np.ones(3)) for _ in range(9)], [np.ones(3, np.float32) for _ in range(9)]
    opts = [
        gradfuse.optim.NAdam([{"params": [p], "lr": 0.1 * k} for k, p in enumerate(ps)], lr=1e-3)
        for ps in (params, plain)
    ]
    for _ in range(3):
        opts[0].step([device_array(np.ones(3))] * 9)
        opts[1].step([np.ones(3, np.float32)] * 9)
    for p, q in zip(params, plain, strict=True):
        np.testing.assert_allclose(to_numpy(p), q, rtol=1e-6)


def test_more_groups_than_shared_memory_holds(on):
    params = [device_array(np.ones(1)) for _ in range(5000)]
    opt = gradfuse.optim.SGD([{"params": [p]} for p in params], lr=1.0)
    with pytest.raises(ValueError, match=r"^SGD.step: groups must fit this GPU's shared memory, got 5000 of them"):
        opt.step(params[::-1])
    assert opt.t == 0
    assert (to_numpy(params[0]) == 1).all()


def test_state_moves_between_devices(on):
    p, q = device_array(np.ones(5)), np.ones(5, np.float32)
    ours, host = gradfuse.optim.Adam([p]), gradfuse.optim.Adam([q])
    host.step([np.ones(5, np.float32)])
    ours.load_state_dict(host.state_dict())
    p[...] = device_array(q)
    for opt, g in ((ours, device_array(np.full(5, 0.5))), (host, np.full(5, 0.5, np.float32))):
        opt.step([g])
    np.testing.assert_allclose(to_numpy(p), q, rtol=1e-6)
    assert ours.t == host.t == 2
    saved = ours.state_dict()["state"][0]["exp_avg"]
    before = to_numpy(saved).copy()
    ours.step([device_array(np.ones(5))])
    assert_identical(to_numpy(saved), before)  # a copy


@emulated
def test_parameters_that_autograd_follows(on):
    """Read through detach(), which returns an array with no other reference."""
    import cupy

    class Tracked(cupy.ndarray):
        requires_grad = True

        def detach(self):
            return cupy.ndarray.over(self.host)

    p, q = np.ones(5, np.float16), np.ones(5, np.float16)
    for master_weights in (False, True):
        ours = gradfuse.optim.Adam([Tracked.over(p)], master_weights=master_weights)
        plain = gradfuse.optim.Adam([q], master_weights=master_weights)
        ours.step([device_array(np.ones(5), "float16")])
        plain.step([np.ones(5, np.float16)])
        assert_identical(p, q)


@emulated
def test_a_parameter_that_moved_is_refused(on):
    import cupy

    class Tensor(cupy.ndarray):  # the memory of CuPy's own arrays never changes
        requires_grad = False

    p = Tensor.over(np.ones(5, np.float32))
    opt = gradfuse.optim.Adam([p])
    p.device = cupy.cuda.Device(1)
    with pytest.raises(ValueError, match=r"params\[0\] must stay on CUDA device 0, got it on CUDA device 1$"):
        opt.step([cupy.ndarray.over(np.ones(5, np.float32), 1)])


# Graph capture


def test_capturable_follows_its_own_clock_and_rate(on):
    p, q = device_array(np.ones(4)), np.ones(4, np.float32)
    opt, host = gradfuse.optim.NAdam([p], lr=0.1, capturable=True), gradfuse.optim.NAdam([q], lr=0.1)
    for step in range(3):
        opt.lr = host.lr = 0.1 / (step + 1)
        opt.step([device_array(np.full(4, 0.3))])
        host.step([np.full(4, 0.3, np.float32)])
    np.testing.assert_allclose(to_numpy(p), q, rtol=1e-6)
    assert opt.t == 3


def test_what_cannot_be_captured_is_refused(on):
    p = device_array(np.ones(3))
    with pytest.raises(ValueError, match=r"^Adam: lr must be a number where capturable is True, got a schedule$"):
        gradfuse.optim.Adam([p], lr=lambda step: 0.1, capturable=True)
    with pytest.raises(ValueError, match=r"^Adam: nonfinite must be 'propagate' or 'skip' where capturable is True"):
        gradfuse.optim.Adam([p], nonfinite="raise", capturable=True)


def test_a_constant_channel(on):
    """The variance is 0, not a rounding error."""
    x, var = device_array(np.full((2000, 3), 0.1), "float64"), device_array(np.zeros(3), "float64")
    gradfuse.batch_norm_forward(x, device_array(np.zeros(3), "float64"), var, eps=0.0, momentum=1.0)
    assert (to_numpy(var) >= 0).all()
    assert (to_numpy(var) < 1e-30).all()


def test_capturable_on_the_cpu_is_refused(on):
    with pytest.raises(ValueError, match=r"^Adam: capturable must be False for arrays on the CPU, got True$"):
        gradfuse.optim.Adam([np.ones(3)], capturable=True)
    with pytest.raises(RuntimeError, match=r"^Adam.refresh: capturable must be True, got False$"):
        gradfuse.optim.Adam([np.ones(3)]).refresh()


def test_capturable_generator(on):
    x = np.ones(1000, np.float32)
    plain, ours = gradfuse.Generator(5), gradfuse.Generator(5, capturable=True)
    for _ in range(3):
        y, ctx = gradfuse.dropout_forward(device_array(x), 0.5, rng=ours)
        expected, _ = gradfuse.dropout_forward(x, 0.5, rng=plain)
        assert_identical(to_numpy(y), expected)
        assert_identical(to_numpy(gradfuse.dropout_backward(device_array(x), ctx)), expected)
    assert ours.stream == 3
    assert ours.state_dict() == plain.state_dict()
    ours.load_state_dict({"seed": 5, "stream": 1})
    again, _ = gradfuse.dropout_forward(x, 0.5, rng=gradfuse.Generator(5))
    gradfuse.dropout_forward(device_array(x), 0.5, rng=ours)
    assert ours.stream == 2
    with pytest.raises(
        ValueError, match=r"^Generator: a capturable generator draws for arrays on CUDA devices, got one on"
    ):
        gradfuse.dropout_forward(x, 0.5, rng=ours)
    assert again.shape == x.shape


@emulated
def test_what_a_capture_would_freeze_is_refused(on, emulator):
    x = device_array(np.ones(100))
    plain, fresh = gradfuse.Generator(1), gradfuse.Generator(1, capturable=True)
    opt, fixed = gradfuse.optim.SGD([x], capturable=True), gradfuse.optim.SGD([x])
    used = gradfuse.Generator(1, capturable=True)
    gradfuse.dropout_forward(x, rng=used)
    early = gradfuse.optim.SGD([x], capturable=True)
    opt.step([x])
    emulator.gradfuse_emulator_capture(True)
    refused = {
        "Generator: capturable must be True, got False": lambda: gradfuse.dropout_forward(x, rng=plain),
        "Generator: must have drawn before, got the first draw": lambda: gradfuse.dropout_forward(x, rng=fresh),
        "SGD.step: capturable must be True": lambda: fixed.step([x]),
    }
    for text, call in refused.items():
        with pytest.raises(ValueError, match=f"^{re.escape(text)}.* while a CUDA graph is captured"):
            call()
    with pytest.raises(ValueError, match="a step must have been taken before a CUDA graph is captured"):
        early.step([x])
    opt.groups[0]["lr"] = 0.5
    with pytest.raises(ValueError, match="hyper-parameters must be those of the step before"):
        opt.step([x])
    opt.groups[0]["lr"] = 1e-3
    gradfuse.dropout_forward(x, rng=used)
    gradfuse.dropout_forward(x, rng=3)  # with a seed the mask never changes
    opt.step([x])
    emulator.gradfuse_emulator_capture(False)
    assert (plain.stream, fixed.t) == (0, 0)


@emulated
@pytest.mark.parametrize(
    ("count", "size", "launches"), [(3, 7, 1), (100, 7, 1), (2, 70_001, 2)], ids=["as arguments", "in a table", "large"]
)
def test_a_captured_step_keeps_its_gradients(on, emulator, count, size, launches):
    """A later step with other gradients does not change the table that the graph reads."""
    values = np.linspace(-1, 1, size)
    params = [device_array(values) for _ in range(count)]
    expected = [np.asarray(values, np.float32) for _ in range(count)]
    opt, host = gradfuse.optim.SGD(params, lr=0.5, capturable=True), gradfuse.optim.SGD(expected, lr=0.5)
    first, captured, later = ([device_array(np.full(size, g + k)) for k in range(count)] for g in (0.1, 0.2, 0.3))
    opt.step(first)
    before = emulator.gradfuse_emulator_launches()
    emulator.gradfuse_emulator_capture(True)
    opt.step(captured)
    emulator.gradfuse_emulator_capture(False)
    assert emulator.gradfuse_emulator_launches() - before == launches
    for _ in range(2):
        opt.step(later)
        emulator.gradfuse_emulator_replay()
    for g in (first, captured, later, captured, later, captured):
        host.step([to_numpy(a) for a in g])
    for p, q in zip(params, expected, strict=True):
        assert_identical(to_numpy(p), q)


@emulated
def test_a_gradient_that_comes_again_is_not_read_again(on, monkeypatch):
    import cupy

    reads = []
    data = cupy.ndarray.data
    monkeypatch.setattr(cupy.ndarray, "data", property(lambda a: (reads.append(a), data.fget(a))[1]))
    params, host = [device_array(np.ones(5)) for _ in range(30)], [np.ones(5, np.float32) for _ in range(30)]
    opt, expected = gradfuse.optim.Adam(params), gradfuse.optim.Adam(host)

    def step(grads):
        reads.clear()
        opt.step(grads)
        count = len(reads)
        expected.step([to_numpy(g) for g in grads])
        for p, q in zip(params, host, strict=True):
            assert_identical(to_numpy(p), q)
        return count

    grads = [device_array(np.full(5, k + 1.0)) for k in range(30)]
    assert step(grads) == step(grads) == 30
    for g in grads:
        g *= -2
    assert step(grads) == 0
    grads[7] = device_array(np.full(5, -7.0))  # another one
    assert step(grads) == 1
    for k in range(30):  # others, that may lie where those before lay
        grads[k] = None
        grads[k] = device_array(np.full(5, k - 3.0))
    assert step(grads) == 30
    assert step([grads[0], *grads[:-1]]) > 20


PRODUCTS = {
    "@": lambda cupy, a: a @ a,
    "method": lambda cupy, a: a.dot(a),
    "matmul": lambda cupy, a: cupy.matmul(a, a),
    "dot": lambda cupy, a: cupy.dot(a, a),
    "tensordot": lambda cupy, a: cupy.tensordot(a, a, 1),
    "einsum": lambda cupy, a: cupy.einsum("ij,jk", a, a),
}


@emulated
@pytest.mark.parametrize("product", PRODUCTS)
def test_cupy_captures_no_matrix_product(on, emulator, product):
    import cupy

    a = device_array(np.ones((2, 2)))
    emulator.gradfuse_emulator_capture(True)
    total = a + a
    with pytest.raises(NotImplementedError, match="calling cuBLAS API during stream capture is currently unsupported"):
        PRODUCTS[product](cupy, a)
    emulator.gradfuse_emulator_capture(False)
    assert_identical(PRODUCTS[product](cupy, a).get(), total.get())


# Errors from CUDA


@emulated
def test_a_launch_that_fails_names_function_and_error_and_harms_nothing(on, emulator):
    x = device_array(np.linspace(-1, 1, 50))
    opt = gradfuse.optim.Adam([x], max_grad_norm=1.0)
    before = to_numpy(x).copy()
    emulator.gradfuse_emulator_fail(True)
    with pytest.raises(RuntimeError, match=r"^elu: CUDA failed: .* \(cudaError\w*\)$"):
        gradfuse.elu(x)
    with pytest.raises(RuntimeError, match=r"^Adam\.step: CUDA failed: "):
        opt.step([x])
    with pytest.raises(RuntimeError, match=r"^batch_norm_forward: CUDA failed: "):
        gradfuse.batch_norm_forward(x[None], None, None, axis=0)
    emulator.gradfuse_emulator_fail(False)
    assert_identical(to_numpy(x), before)
    assert opt.t == 0
    assert_identical(to_numpy(gradfuse.elu(x)), gradfuse.elu(before))
    opt.step([device_array(np.ones(50))])
    assert opt.t == 1


# Counts


@emulated
def test_launches(on, emulator):
    x, vectors = device_array(np.ones((64, 32))), [device_array(np.ones(32)) for _ in range(4)]
    params = [device_array(np.ones(n)) for n in (5, 100, 70_000, 0)]
    grads = [device_array(np.full(p.shape, 0.1)) for p in params]
    optimizers = {
        name: [getattr(gradfuse.optim, name)(params, **o) for o in ({}, {"max_grad_norm": 1.0})] for name in COMPILED
    }
    for plain, clipped in optimizers.values():  # the first step writes its tables
        plain.step(grads)
        clipped.step(grads)

    def launches(call):
        before = emulator.gradfuse_emulator_launches()
        call()
        return emulator.gradfuse_emulator_launches() - before

    for name, (plain, clipped) in optimizers.items():
        assert launches(lambda opt=plain: opt.step(grads)) == 1, name
        assert launches(lambda opt=clipped: opt.step(grads)) == 2, name
    large = [device_array(np.ones(80_000)), device_array(np.ones(70_000))]
    assert launches(lambda: gradfuse.optim.Adam(large).step(large)) - launches(lambda: gradfuse.optim.Adam(large)) == 2
    many = [device_array(np.ones(3)) for _ in range(100)]
    opt = gradfuse.optim.Adam(many, max_grad_norm=1.0)
    opt.step(many)
    assert launches(lambda: opt.step(many)) == 2  # its table has not changed
    assert launches(lambda: gradfuse.clip_grad_norm_(grads, 1.0)) == 2
    assert launches(lambda: gradfuse.clip_grad_value_(grads, 1.0)) == 1
    assert launches(lambda: gradfuse.elu(x)) == 1
    assert launches(lambda: gradfuse.dropout_forward(x, rng=1)) == 1
    for name in ("softmax", "log_softmax"):
        assert launches(lambda name=name: getattr(gradfuse, name)(x)) == 1
        assert launches(lambda name=name: getattr(gradfuse, f"{name}_backward")(x, x)) == 1
    for name, count in {"layer_norm": 2, "rms_norm": 1}.items():
        forward, backward = (getattr(gradfuse, f"{name}_{way}") for way in ("forward", "backward"))
        _, ctx = forward(x, *vectors[:count])
        assert launches(lambda forward=forward, count=count: forward(x, *vectors[:count])) == 1
        assert launches(lambda backward=backward, ctx=ctx: backward(x, ctx)) == 2
    assert launches(lambda: gradfuse.mse_loss(x, x)) == 1
    labels = device_array(np.zeros(64), "int64")
    assert launches(lambda: gradfuse.cross_entropy(x, labels)) == 1
    assert launches(lambda: gradfuse.cross_entropy(x, labels, ignore_index=0)) == 2
    assert launches(lambda: gradfuse.gated(x, x)) == 1
    assert launches(lambda: gradfuse.gated_backward(x, x, x)) == 1
    # A channel in registers; in shared memory; in slots; without statistics.
    large = device_array(np.ones((4, 2, 100, 100)))
    assert launches(lambda: gradfuse.batch_norm_forward(large, None, None)) == 1
    emulator.gradfuse_emulator_device(86, 99 * 1024)
    assert launches(lambda: gradfuse.batch_norm_forward(large, None, None)) == 2
    images, (mean, var, weight, _) = device_array(np.ones((4, 32, 5, 4))), vectors
    rows = device_array(np.ones((2000, 32)))
    g, options = device_array(np.ones((64, 32))), {"activation": "relu", "dropout": 0.1, "rng": 1}
    _, short = gradfuse.batch_norm_forward(images, *vectors)
    _, long = gradfuse.batch_norm_forward(x, *vectors, **options)
    _, ctx = gradfuse.prelu_forward(x, weight)
    assert launches(lambda: gradfuse.batch_norm_forward(images, *vectors)) == 1
    assert launches(lambda: gradfuse.batch_norm_backward(images, short)) == 1
    assert launches(lambda: gradfuse.batch_norm_forward(x, *vectors, **options)) == 1
    assert launches(lambda: gradfuse.batch_norm_backward(g, long)) == 1
    _, long = gradfuse.batch_norm_forward(rows, *vectors, **options)
    assert launches(lambda: gradfuse.batch_norm_forward(rows, *vectors, **options)) == 2
    assert launches(lambda: gradfuse.batch_norm_backward(rows, long)) == 2
    assert launches(lambda: gradfuse.batch_norm(x, mean, var)) == 2
    assert launches(lambda: gradfuse.bias_act_forward(x, weight, "relu")) == 1
    assert launches(lambda: gradfuse.prelu_forward(x, weight)) == 1
    assert launches(lambda: gradfuse.prelu_backward(g, ctx)) == 2


@emulated
def test_small_workspaces_are_not_asked_of_the_library(on, emulator, monkeypatch):
    import cupy

    if not emulator.gradfuse_emulator_checks_alignment():
        pytest.skip("under the sanitizers, that they see the end of each")
    made = []
    over = cupy.ndarray.over.__func__
    monkeypatch.setattr(cupy.ndarray, "over", classmethod(lambda *args: (made.append(1), over(*args))[1]))

    def arrays(call):
        made.clear()
        call()
        return len(made)

    x, labels = device_array(np.ones((64, 32))), device_array(np.zeros(64), "int64")
    strided = device_array(np.ones((64, 64)))[:, ::2]
    vectors = [device_array(np.ones(32)) for _ in range(2)]
    _, ctx = gradfuse.layer_norm_forward(x, *vectors)
    assert arrays(lambda: gradfuse.mse_loss(x, x)) == 2  # the results
    assert arrays(lambda: gradfuse.cross_entropy(x, labels, ignore_index=1)) == 2
    assert arrays(lambda: gradfuse.softmax(strided)) == 1
    assert arrays(lambda: gradfuse.layer_norm_backward(x, ctx)) == 3
    assert arrays(lambda: gradfuse.clip_grad_norm_([x], 1.0)) == 1


@emulated
def test_memory_of_a_stream_is_used_again_in_other_threads(on, emulator):
    x = device_array(np.ones((64, 32)))
    expected, _ = gradfuse.mse_loss(x, 2 * x)
    before, losses = emulator.gradfuse_emulator_allocated_by_cuda(), []
    for _ in range(5):
        thread = threading.Thread(target=lambda: losses.append(gradfuse.mse_loss(x, 2 * x)[0]))
        thread.start()
        thread.join()
    assert emulator.gradfuse_emulator_allocated_by_cuda() == before
    assert [to_numpy(loss) for loss in losses] == [to_numpy(expected)] * 5


# Sizes


def test_zero_size_arrays_anywhere(on):
    empty = device_array(np.zeros((0, 3)))
    assert gradfuse.elu(empty).shape == (0, 3)
    assert gradfuse.dropout_forward(empty)[0].shape == (0, 3)
    assert gradfuse.softmax(empty).shape == (0, 3)
    p = [device_array(np.ones(s)) for s in ((0,), (2,), (0, 4), (3,), (0,))]
    opt = gradfuse.optim.Adam(p, max_grad_norm=1.0)
    opt.step([device_array(np.ones(a.shape)) for a in p])
    assert [to_numpy(a).min() < 1 for a in p if a.size] == [True, True]
    assert float(to_numpy(gradfuse.clip_grad_norm_([p[0]], 1.0))) == 0


# Objects kept from other libraries are not touched after Python has ended.
LAST_WORDS = """
import helpers, cupy, gradfuse
cupy.cuda.get_current_stream = lambda device, get=cupy.cuda.get_current_stream: get(device)
gradfuse.relu(cupy.zeros(3, "float32"))
del cupy.cuda.get_current_stream, cupy
"""


def test_a_process_ends_well(on):
    run = python("-c", LAST_WORDS)
    assert (run.returncode, run.stderr) == (0, "")


def test_the_smoke_test(on):
    spec = importlib.util.spec_from_file_location("gpu_smoke", Path(__file__).parents[1] / "tools" / "gpu_smoke.py")
    smoke = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(smoke)
    assert {name for name in smoke.CHECKS if smoke.run(name) == 0} == set()
