"""CuPy over the host's memory, for the emulated CUDA kernels.

As strict as CuPy: arrays of NumPy do not mix with its own, results without axes are arrays, and nothing is copied from
the device but by get(), item(), float(), int() and bool(). Its kernels fault on misaligned arrays, and after a fault
nothing works; a matrix product cannot be captured. Its functions are NumPy's.
"""

import ctypes
import operator
import types

import numpy as np

from gradfuse import _core

numpy = np
emulator = ctypes.CDLL(_core.__file__)
emulator.gradfuse_emulator_has_faulted.restype = emulator.gradfuse_emulator_is_capturing.restype = ctypes.c_bool


class CUDARuntimeError(RuntimeError):
    pass


def _require_context():
    if emulator.gradfuse_emulator_has_faulted():
        raise CUDARuntimeError("cudaErrorMisalignedAddress: misaligned address")


class ndarray:
    """A NumPy array that says it lies on a device."""

    def __init__(self, shape, dtype, memptr, strides=None):
        self.host, self.device = memptr.array(shape, np.dtype(dtype), strides), Device(memptr.device_id)

    @classmethod
    def over(cls, host, device=0):
        """Over the memory of a NumPy array."""
        return cls(host.shape, host.dtype, Pointer(host.ctypes.data, device, host), host.strides)

    data = property(lambda self: Pointer(self.host.ctypes.data, self.device.id, self.host))

    @property
    def __cuda_array_interface__(self):
        return {
            "shape": self.shape,
            "typestr": self.dtype.str,
            "data": (self.data.ptr, False),
            "strides": self.strides,
            "version": 3,
            "stream": 1,
        }

    def __dlpack__(self, **_):
        raise AssertionError("CuPy's arrays are not read through DLPack")

    def __array__(self, *_, **__):
        raise TypeError("Implicit conversion to a NumPy array is not allowed.")

    def __array_function__(self, function, *_):
        raise TypeError(f"numpy.{function.__name__} is not for arrays of CuPy")

    def __array_ufunc__(self, ufunc, method, *inputs, **options):
        return _called(getattr(ufunc, method), inputs, options)  # of a NumPy number and an array

    def __getitem__(self, key):
        return _called(operator.getitem, (self, key))

    def __setitem__(self, key, value):
        _called(operator.setitem, (self, key, value))

    def __len__(self):
        return len(self.host)

    def __iter__(self):
        return (self[i] for i in range(len(self)))

    def get(self):
        _require_context()
        if not self.flags.c_contiguous:
            _require_aligned(self)
        COPIED.append(self.shape)
        return self.host.copy()

    item = property(lambda self: self.get().item)

    def __float__(self):
        return float(self.get())

    def __int__(self):
        return int(self.get())

    def __index__(self):
        return operator.index(self.get())

    def __bool__(self):
        return bool(self.get())

    __hash__ = None


def _host(value):
    """What NumPy computes with in an array's place."""
    if isinstance(value, np.ndarray):
        raise TypeError(f"Unsupported type {type(value)}")
    if isinstance(value, (tuple, list)):
        return type(value)(map(_host, value))
    return value.host if isinstance(value, ndarray) else value


def _found(value):
    return [x for x in (value if isinstance(value, (tuple, list)) else [value]) if isinstance(x, ndarray)]


def _called(function, inputs, options=None):
    """A function's result for arrays of one device, there."""
    options = options or {}
    _require_context()
    if function in PRODUCTS and emulator.gradfuse_emulator_is_capturing():
        raise NotImplementedError("calling cuBLAS API during stream capture is currently unsupported")
    arrays = [x for value in (*inputs, *options.values()) for x in _found(value)]
    if function not in VIEWS:
        _require_aligned(*arrays)
    devices = {x.device.id for x in arrays} or {Device.current}
    if len(devices) > 1:
        raise ValueError(f"Array device must be the same, got {devices}")
    result = function(*map(_host, inputs), **{name: _host(value) for name, value in options.items()})
    if isinstance(result, np.ndarray) and not any(np.shares_memory(result, x.host) for x in arrays):
        _require_aligned(*arrays)  # an index or a reshape that had to copy
    return _on(result, devices.pop(), [*inputs, *options.values()])


def _require_aligned(*arrays):
    """What a kernel of CuPy's touches; a fault where its elements do not lie on boundaries of their size."""
    if all(x.size == 0 or _is_aligned(x) for x in arrays):
        return
    emulator.gradfuse_emulator_fault(True)
    _require_context()


def _is_aligned(x):
    return all(n % x.itemsize == 0 for n in (x.data.ptr, *x.strides))


def _on(result, device, inputs=()):
    for x in inputs:
        if isinstance(x, ndarray) and x.host is result:
            return x  # of an operation in place, or into out=
    if isinstance(result, tuple):
        return tuple(_on(part, device) for part in result)
    return ndarray.over(np.asarray(result), device) if isinstance(result, (np.ndarray, np.generic)) else result


def _method(name):
    return lambda self, *inputs, **options: _called(getattr(np.ndarray, name), (self, *inputs), options)


PROPERTIES = "shape strides dtype size ndim flags nbytes itemsize"
METHODS = "all any argmax argmin astype copy dot fill max mean min reshape std sum take transpose view"
TWOFOLD = "add sub mul truediv floordiv mod pow matmul and or xor"
ONEFOLD = "eq ne lt le gt ge neg pos abs invert"

for name in PROPERTIES.split():
    setattr(ndarray, name, property(lambda self, name=name: getattr(self.host, name)))
for name in [*METHODS.split(), *(f"__{name}__" for name in ONEFOLD.split())]:
    setattr(ndarray, name, _method(name))
for name in TWOFOLD.split():
    for kind in ("", "r", "i"):
        setattr(ndarray, f"__{kind}{name}__", _method(f"__{kind}{name}__"))
ndarray.T = property(lambda self: self.transpose())

VIEWS = [operator.getitem, *(getattr(np.ndarray, name) for name in ("astype", "reshape", "transpose", "view"))]
PRODUCTS = [*(getattr(np.ndarray, name) for name in ("dot", "__matmul__", "__rmatmul__", "__imatmul__"))]
PRODUCTS += [np.matmul, np.dot, np.vdot, np.inner, np.tensordot, np.einsum]


class Pointer:
    """A place in memory that `owner` keeps."""

    def __init__(self, ptr, device_id, owner):
        self.ptr, self.device_id, self.owner = ptr, device_id, owner

    def __add__(self, offset):
        return Pointer(self.ptr + offset, self.device_id, self.owner)

    def array(self, shape, dtype, strides):
        """NumPy's view of it."""
        form = {"shape": shape, "typestr": dtype.str, "strides": strides, "data": (self.ptr, False), "version": 3}
        return np.asarray(types.SimpleNamespace(__array_interface__=form, owner=self.owner)).view(dtype)


class Device:
    current = 0

    def __init__(self, number=0):
        self.id = number

    def __enter__(self):
        self.previous, Device.current = Device.current, self.id
        return self

    def __exit__(self, *_):
        Device.current = self.previous

    def synchronize(self):
        _require_context()


class Stream:
    ptr = 0

    def __init__(self, device=0):
        pass

    def wait_event(self, event):
        WAITED.append(event)

    def record(self):
        return self.ptr


class ExternalStream(Stream):
    def __init__(self, ptr):
        self.ptr = ptr


WAITED = []  # events that the current stream was made to wait for
COPIED = []  # shapes of what was copied from the device


class cuda:
    is_available = staticmethod(lambda: False)
    Device = Device
    ExternalStream = ExternalStream
    get_current_stream = Stream


def empty(shape, dtype=float):
    _require_context()
    host = np.empty(shape, dtype)
    host.reshape(-1).view(np.uint8)[:] = 0xFF  # NaN
    return ndarray.over(host, Device.current)


def asarray(a, dtype=None):
    if isinstance(a, ndarray):
        return a if dtype in (None, a.dtype) else a.astype(dtype)
    _require_context()
    return ndarray.over(np.array(a, dtype), Device.current)


def asnumpy(a):
    return a.get()


class _Functions(types.ModuleType):
    """NumPy's functions, of arrays of a device."""

    def __init__(self, name, module):
        super().__init__(name)
        self.module = module

    def __getattr__(self, name):
        found = getattr(self.module, name)
        if isinstance(found, types.ModuleType):
            return _Functions(name, found)
        if isinstance(found, type) or not callable(found):
            return found
        return lambda *inputs, **options: _called(found, inputs, options)


__getattr__ = _Functions(__name__, np).__getattr__
