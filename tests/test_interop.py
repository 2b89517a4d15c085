"""Arrays of other libraries: the same bits, as arrays of the library that owns the input."""

import ctypes
import re

import ml_dtypes
import numpy as np
import pytest
from helpers import OPERATIONS, assert_identical

import gradfuse
from gradfuse import _core


def inputs(dtype):
    rng = np.random.default_rng(2)
    return [rng.normal(size=(37, 10)).astype(dtype) for _ in range(2)]


def compare(operation, arrays, dtype, kind, to_numpy):
    """That the results are of that kind, and bit for bit those of the NumPy arrays."""
    results = OPERATIONS[operation](gradfuse, *arrays)
    for actual, expected in zip(results, OPERATIONS[operation](gradfuse, *inputs(dtype)), strict=True):
        assert isinstance(actual, kind)
        assert_identical(to_numpy(actual), expected)


# PyTorch


@pytest.fixture
def torch():
    return pytest.importorskip("torch")


def to_torch(a):
    import torch

    return (
        torch.from_numpy(a.view(np.int16)).view(torch.bfloat16) if a.dtype.name == "bfloat16" else torch.from_numpy(a)
    )


def from_torch(t):
    import torch

    return t.view(torch.int16).numpy().view(ml_dtypes.bfloat16) if t.dtype == torch.bfloat16 else t.numpy()


@pytest.mark.parametrize("operation", OPERATIONS)
def test_torch(torch, dtype, operation):
    contiguous = [to_torch(a) for a in inputs(dtype)]
    strided = [t.t().contiguous().t() for t in contiguous]
    for arrays in (contiguous, strided):
        compare(operation, arrays, dtype, torch.Tensor, from_torch)


def test_torch_out(torch, dtype):
    x, g = (to_torch(a) for a in inputs(dtype))
    y, y2 = torch.empty_like(x), torch.empty_like(torch.cat([x, x], 1))[:, ::2]
    assert gradfuse.elu(x, out=y) is y
    assert gradfuse.elu(x, out=y2) is y2
    expected = gradfuse.elu(inputs(dtype)[0])
    assert_identical(from_torch(y), expected)
    assert_identical(from_torch(y2.contiguous()), expected)
    assert gradfuse.elu(x, out=x) is x
    assert_identical(from_torch(x), expected)
    with pytest.raises(
        ValueError, match=r"^elu_backward: out must be grad_out itself or not overlap it, got an overlapping view$"
    ):
        gradfuse.elu_backward(g[1:], y[1:], out=g[:-1])


def test_torch_with_numpy(torch):
    """The first array says what the result is; memory of both may be mixed."""
    x, g = inputs("float32")
    assert isinstance(gradfuse.elu_backward(to_torch(g), x), torch.Tensor)
    assert isinstance(gradfuse.elu_backward(g, to_torch(x)), np.ndarray)
    assert gradfuse.elu(to_torch(x), out=x) is x


def test_torch_labels(torch):
    x, _ = inputs("float32")
    labels = np.arange(37) % 10
    expected = gradfuse.cross_entropy(x, labels)
    for target in (
        torch.from_numpy(labels),
        torch.from_numpy(labels.astype(np.int32)),
        torch.from_numpy(np.repeat(labels, 2))[::2],
    ):
        for a, b in zip(gradfuse.cross_entropy(to_torch(x), target), expected, strict=True):
            assert_identical(from_torch(a), b)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda torch: torch.ones(3, requires_grad=True),
            r"x could not be read through DLPack: .*requires? grad.*detach\(\)",
        ),
        (lambda torch: torch.ones(3).to_sparse(), r"x could not be read through DLPack: .*layout"),
        (lambda torch: torch.ones(3, device="meta"), r"x could not be read through DLPack: .*meta"),
        (lambda torch: torch.ones(3, dtype=torch.int32), r"x must be float16, bfloat16, float32 or float64, got int32"),
        (
            lambda torch: torch.ones(3, dtype=torch.complex64),
            r"x must be float16, bfloat16, float32 or float64, got complex64",
        ),
    ],
    ids=["grad", "sparse", "meta", "int", "complex"],
)
def test_torch_that_cannot_be_read(torch, make, message):
    with pytest.raises(TypeError, match=f"^elu: {message}"):
        gradfuse.elu(make(torch))


# JAX


@pytest.mark.parametrize(
    "operation", [name for name in OPERATIONS if name != "batch_norm_training"]
)  # updates in place
def test_jax(operation):
    jax = pytest.importorskip("jax")
    # JAX has no float64 unless it is enabled: sums in double are NumPy's arrays.
    kind = (jax.Array, np.ndarray) if operation == "batch_norm_phases" else jax.Array
    for dtype in ("float16", "bfloat16", "float32"):
        compare(operation, [jax.numpy.asarray(a) for a in inputs(dtype)], dtype, kind, np.asarray)


def test_jax_is_not_written():
    jax = pytest.importorskip("jax")
    x = jax.numpy.ones(3)
    with pytest.raises(ValueError, match=r"^elu: out must be writeable, got a read-only array$"):
        gradfuse.elu(x, out=x)


# DLPack and nothing else


class Versioned:
    """A host array that only speaks DLPack."""

    def __init__(self, a):
        self._a = a

    def __dlpack__(self):
        return self._a.__dlpack__(max_version=(1, 0))


class Unversioned(Versioned):
    def __dlpack__(self):
        return self._a.__dlpack__()


@pytest.mark.parametrize("kind", [Versioned, Unversioned])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_dlpack(kind, dtype):
    """The results are NumPy's, for nothing says how to make one of these."""
    x, g = inputs(dtype)
    expected = gradfuse.elu(x)
    assert_identical(gradfuse.elu(kind(x)), expected)
    assert_identical(gradfuse.elu(kind(x[::2, ::-1])), np.ascontiguousarray(expected[::2, ::-1]))
    weight = x[0].copy()
    for a, b in zip(prelu(kind(x), kind(weight), kind(g)), prelu(x, weight, g), strict=True):
        assert_identical(a, b)
    out = kind(np.empty_like(x))
    assert gradfuse.elu(x, out=out) is out
    assert_identical(out._a, expected)
    mean, var, mean2, var2 = (np.ones(10, dtype) for _ in range(4))
    gradfuse.batch_norm_forward(kind(x), kind(mean), kind(var))
    gradfuse.batch_norm_forward(x, mean2, var2)
    assert_identical(mean, mean2)
    assert_identical(var, var2)


def prelu(x, weight, g):
    y, ctx = gradfuse.prelu_forward(x, weight)
    return y, *gradfuse.prelu_backward(g, ctx)


def test_dlpack_read_only():
    a = np.ones(3, np.float32)
    a.flags.writeable = False
    with pytest.raises(ValueError, match=r"^elu: out must be writeable, got a read-only array$"):
        gradfuse.elu(a, out=Versioned(a))
    assert_identical(gradfuse.elu(Versioned(a)), gradfuse.elu(a))


class Tensor(ctypes.Structure):
    """DLPack's DLManagedTensor."""

    _fields_ = [
        ("data", ctypes.c_void_p),
        ("device", ctypes.c_int32 * 2),
        ("ndim", ctypes.c_int32),
        ("dtype", ctypes.c_uint8 * 2),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("offset", ctypes.c_uint64),
        ("context", ctypes.c_void_p),
        ("deleter", ctypes.c_void_p),
    ]


class Handmade:
    """An object whose DLPack tensor says what we like."""

    def __init__(self, device=1, dtype=(2, 32), lanes=1, values=(1.0, -1.0, 2.0)):
        self._data, self._shape = (ctypes.c_float * len(values))(*values), (ctypes.c_int64 * 1)(len(values))
        address = ctypes.addressof(self._data)
        self._tensor = Tensor(address - 4, (device, 0), 1, dtype, lanes, self._shape, None, 4, None, None)

    def __dlpack__(self):
        new = ctypes.pythonapi.PyCapsule_New
        new.restype, new.argtypes = ctypes.py_object, [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
        return new(ctypes.addressof(self._tensor), b"dltensor", None)


def test_dlpack_without_strides_and_with_an_offset():
    assert_identical(gradfuse.relu(Handmade()), np.array([1, 0, 2], np.float32))


@pytest.mark.skipif(gradfuse.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("device", [2, 13])
def test_cuda_array_without_cuda(device):
    reason = gradfuse.cuda.why_not()
    if not _core.build_info()["cuda"]:
        assert reason == (
            "this build of gradfuse has no CUDA: install a CUDA toolkit (nvcc) and build gradfuse again, "
            "or move the array to the CPU"
        )
    with pytest.raises(ValueError, match=f"^elu: x is on a CUDA device, and {re.escape(reason)}$"):
        gradfuse.elu(Handmade(device=device))


def test_unknown_device():
    with pytest.raises(
        ValueError, match=r"^elu: x must be on the CPU or a CUDA device, got an array on DLPack device 10$"
    ):
        gradfuse.elu(Handmade(device=10))


@pytest.mark.parametrize(
    ("dtype", "lanes", "text"),
    [
        ((0, 32), 1, "int32"),
        ((1, 8), 1, "uint8"),
        ((2, 8), 1, "float8"),
        ((2, 32), 4, "float32x4"),
        ((5, 64), 1, "complex64"),
        ((6, 8), 1, "bool8"),
        ((9, 8), 1, "DLPack type 9 of bits 8"),
    ],
)
def test_dlpack_dtypes(dtype, lanes, text):
    with pytest.raises(TypeError, match=f"^elu: x must be float16, bfloat16, float32 or float64, got {text}$"):
        gradfuse.elu(Handmade(dtype=dtype, lanes=lanes))


@pytest.mark.parametrize("answer", [None, 3, "capsule"])
def test_dlpack_that_is_none(answer):
    class Liar:
        def __dlpack__(self):
            return answer

    with pytest.raises(TypeError, match=r"^elu: x could not be read through DLPack: "):
        gradfuse.elu(Liar())
