"""Fixtures of the functions' tests. A device, a dtype or a layout more is a word more in helpers.py."""

import ctypes
import os

import helpers
import numpy as np
import pytest

import gradfuse
from gradfuse import _core


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item):
    """A fault takes the GPU from its process: that ends after the test that met it, and pytest-xdist starts another."""
    failed = item.session.testsfailed
    result = yield
    if item.session.testsfailed > failed and (fault := helpers.fault()):
        if hasattr(item.config, "workerinput"):
            os._exit(1)
        pytest.exit(f"no test after {item.nodeid} can use the GPU ({fault}): pytest -n 1 goes on in a new process", 1)
    return result


@pytest.fixture(params=helpers.DEVICES)
def kernels(request):
    """gradfuse's functions on each device."""
    return helpers.Kernels(request.param)


@pytest.fixture
def cpu():
    """gradfuse's functions on the CPU, for tests of its threads."""
    return helpers.Kernels("cpu")


@pytest.fixture(params=helpers.DEVICES)
def device(request, monkeypatch):
    """gradfuse's optimizers and clipping functions on each device; the tests give and see NumPy arrays."""
    helpers.on_device(request.param, monkeypatch)
    return request.param


@pytest.fixture(params=helpers.DTYPES)
def dtype(request):
    return request.param


@pytest.fixture
def rng(request):
    """Random numbers of the test's own."""
    return np.random.default_rng(list(request.node.name.encode()))


@pytest.fixture
def threads():
    """Sets the number of threads, for the test alone."""
    before = gradfuse.get_num_threads()
    yield gradfuse.set_num_threads
    gradfuse.set_num_threads(before)


@pytest.fixture
def emulator():
    """The emulator's own functions, see emulator/cuda_runtime.h. After the test it is what it was."""
    library = ctypes.CDLL(_core.__file__)
    library.gradfuse_emulator_allocated.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    library.gradfuse_emulator_freed.argtypes = library.gradfuse_emulator_read.argtypes = [ctypes.c_void_p]
    library.gradfuse_emulator_checks_alignment.restype = ctypes.c_bool
    yield library
    library.gradfuse_emulator_capture(False)
    library.gradfuse_emulator_fail(False)
    library.gradfuse_emulator_fault(False)
    library.gradfuse_emulator_device(90, 227 * 1024)
