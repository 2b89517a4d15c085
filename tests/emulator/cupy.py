"""CuPy's words over the host's memory, for the emulated CUDA kernels: as much of them as smelt and its tests use."""

import numpy as np

numpy = np


class ndarray:
    """A NumPy array that says it lies on a device."""

    def __init__(self, host, device=0):
        self.host, self.device = host, Device(device)

    data = property(lambda self: Pointer(self.host.ctypes.data, self.device.id))
    shape = property(lambda self: self.host.shape)
    strides = property(lambda self: self.host.strides)
    dtype = property(lambda self: self.host.dtype)
    size = property(lambda self: self.host.size)
    ndim = property(lambda self: self.host.ndim)

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

    def __getitem__(self, key):
        return ndarray(self.host[_host(key)], self.device.id)

    def __setitem__(self, key, value):
        self.host[_host(key)] = _host(value)

    T = property(lambda self: ndarray(self.host.T, self.device.id))

    def __matmul__(self, other):
        return ndarray(self.host @ other.host, self.device.id)

    def __add__(self, other):
        return ndarray(self.host + other.host, self.device.id)

    def __mul__(self, number):
        return ndarray(self.host * number, self.device.id)

    def __eq__(self, other):
        return ndarray(self.host == other.host, self.device.id)

    def sum(self, axis=None):
        return ndarray(np.asarray(self.host.sum(axis)), self.device.id)

    def mean(self):
        return ndarray(np.asarray(self.host.mean()), self.device.id)

    def argmax(self, axis=None):
        return ndarray(np.asarray(self.host.argmax(axis)), self.device.id)

    def astype(self, dtype):
        return ndarray(self.host.astype(dtype), self.device.id)

    def copy(self):
        return ndarray(self.host.copy(), self.device.id)

    def item(self):
        return self.host.item()

    def get(self):
        return self.host

    def __float__(self):
        return float(self.host)


def _host(value):
    return value.host if isinstance(value, ndarray) else value


class Pointer:
    def __init__(self, ptr, device_id):
        self.ptr, self.device_id = ptr, device_id


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
        pass


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


class cuda:
    is_available = staticmethod(lambda: False)
    Device = Device
    ExternalStream = ExternalStream
    get_current_stream = Stream


def empty(shape, dtype=float):
    host = np.empty(shape, dtype)
    host.reshape(-1).view(np.uint8)[:] = 0xFF  # NaN
    return ndarray(host, Device.current)


def zeros(shape, dtype=float):
    return ndarray(np.zeros(shape, dtype), Device.current)


def asarray(a):
    return a if isinstance(a, ndarray) else ndarray(np.array(a), Device.current)


def asnumpy(a):
    return a.host
