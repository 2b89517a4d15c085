"""Where the elements of a group stay between the reduction and the map: on GPUs of different sizes, as emulated."""

import numpy as np
import pytest
import test_channels as channels
import test_norms as norms
import test_rows as rows
from helpers import DEVICES, DTYPES, Kernels, assert_identical, cast

pytestmark = [
    pytest.mark.skipif("cuda-emulated" not in DEVICES, reason="for the emulator"),
    pytest.mark.parametrize("on", ["cuda-emulated"]),  # its name in the tests' own
]

KB = 1024
# Compute capability, and the shared memory of a block. The groups here have 80 or 160 KB.
GPUS = {
    "9.0": (90, 227 * KB),
    "12.0": (120, 99 * KB),
    "smaller": (90, 49 * KB),
    "smallest": (90, 25 * KB),
    "8.0": (80, 163 * KB),
    "8.6": (86, 99 * KB),
    "too small": (90, 4 * KB),
}
CLUSTERS = {"9.0": {1, 2}, "12.0": {1, 2, 4}, "smaller": {2, 4, 8}, "smallest": {4, 8}}


@pytest.fixture(params=GPUS)
def gpu(emulator, request):
    emulator.gradfuse_emulator_device(*GPUS[request.param])
    yield request.param
    assert emulator.gradfuse_emulator_largest_cluster() in CLUSTERS.get(request.param, {1})


dtypes = pytest.mark.parametrize("dtype", [d for d in DTYPES if d != "float64"])  # doubles have no such kernels


def length(dtype):
    """Of 80 KB, in whole vectors, and no multiple of a block's threads."""
    return 80 * KB // cast(0, dtype).itemsize - 96


@dtypes
@pytest.mark.parametrize("name", rows.ROWS)
def test_rows(on, gpu, rng, dtype, name):
    # 80 KB of floats or less are in registers.
    shape = (3, 2 * length(dtype))
    x, g = rows.random(rng, dtype, *shape, scale=4), rows.random(rng, dtype, *shape)
    rows.compare(Kernels(on), name, x, g, -1)
    if name == "softmax":
        y = Kernels(on).softmax(x)
        assert_identical(y[1:2], Kernels(on).softmax(x[1:2]))


@dtypes
def test_cross_entropy(on, gpu, rng, dtype):
    x = rows.random(rng, dtype, 3, length(dtype))
    labels = np.array([7, 0, length(dtype) - 1])
    rows.compare_cross_entropy(Kernels(on), x, labels, label_smoothing=0.1)


@dtypes
@pytest.mark.parametrize("name", norms.OF_ROWS)
def test_norms_of_rows(on, gpu, rng, dtype, name):
    x, g, vectors = norms.inputs(rng, name, (3, length(dtype)), {}, dtype, mean=3.0)
    norms.compare(Kernels(on), name, x, g, vectors)


@pytest.mark.parametrize("size", ["9.0", "smaller", "too small"])
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize("shape", [(9000, 24), (9000, 128), (520, 4104)], ids=str)
@pytest.mark.parametrize("name", norms.OF_ROWS)
def test_column_sums_of_several_rows(on, emulator, size, rng, dtype, shape, name):
    """Two or three rows to a thread's sums: in registers, in shared memory with room for two rows, for one or none."""
    emulator.gradfuse_emulator_device(*GPUS[size])
    x, g, vectors = norms.inputs(rng, name, shape, {}, dtype, mean=3.0)
    norms.compare(Kernels(on), name, x, g, vectors)


@dtypes
def test_group_norm(on, gpu, rng, dtype):
    n = length(dtype) // 4
    x, g, vectors = norms.inputs(rng, "group_norm", (2, 8, n), {"axis": 1}, dtype, mean=3.0)
    norms.compare(Kernels(on), "group_norm", x, g, vectors, axis=1, num_groups=2)


@dtypes
@pytest.mark.parametrize("options", [{}, {"activation": "relu", "dropout": 0.3, "rng": 9}], ids=["plain", "fused"])
def test_batch_norm(on, gpu, rng, dtype, options):
    x, g, residual, vectors = channels.arrays(rng, (4, 3, length(dtype) // 4), 1, dtype)
    channels.compare_training(Kernels(on), x, g, residual, vectors, axis=1, **options)


@pytest.fixture
def banks(emulator):
    """The most words that an access of shared memory finds in one bank while this exists."""
    emulator.gradfuse_emulator_count_banks(True)
    yield emulator.gradfuse_emulator_banks
    assert emulator.gradfuse_emulator_bank_accesses() > 0
    emulator.gradfuse_emulator_count_banks(False)


# Rows in a warp, in a block, in shared memory or a cluster; not in whole vectors; side by side.
PLACES = [
    ((4, 300), -1),
    ((4, 320), -1),
    ((2, 3000), -1),
    ((1, 12_000), -1),
    ((2, 3001), -1),
    ((300, 40), 0),
    ((2000, 33), 0),
]


@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize(("shape", "axis"), PLACES, ids=str)
def test_no_bank_conflicts(on, emulator, banks, rng, dtype, shape, axis):
    emulator.gradfuse_emulator_device(*GPUS["smallest"])
    k = Kernels(on)
    x, g = rows.random(rng, dtype, *shape), rows.random(rng, dtype, *shape)
    for name in rows.ROWS:
        getattr(k, f"{name}_backward")(g, getattr(k, name)(x, axis=axis), axis=axis)
    k.cross_entropy(np.moveaxis(x, axis, -1), np.zeros(x.size // x.shape[axis], "i8"))
    for name in norms.OF_ROWS:
        x, g, vectors = norms.inputs(rng, name, shape, {"axis": axis}, dtype)
        norms.run(k, name, x, g, vectors, axis=axis)
    of_channels = (shape, 1) if axis == 0 else ((1, *shape), 1)
    x, g, residual, vectors = channels.arrays(rng, *of_channels, dtype)
    channels.train(k, x, g, residual, vectors, axis=1)
    k.mse_loss(x, g)
    assert banks() == 1
