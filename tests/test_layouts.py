"""Strides never change a bit: every function on every layout of its inputs, and on views that hypothesis thinks up."""

import numpy as np
import pytest
from helpers import DEVICES, LAYOUTS, OPERATIONS, Copies, Kernels, assert_identical, cast, memory_of, to_numpy
from hypothesis import given, settings
from hypothesis import strategies as st


@pytest.mark.parametrize("layout", list(LAYOUTS)[1:])
@pytest.mark.parametrize("operation", OPERATIONS)
def test_layouts(kernels, rng, dtype, operation, layout):
    for shape in [(37, 10), (3, 6, 5, 9)]:
        x, g = (cast(rng.normal(size=shape), dtype) for _ in range(2))
        views = [LAYOUTS[layout](a) for a in (x, g)]
        for a, b in zip(OPERATIONS[operation](kernels, *views), OPERATIONS[operation](kernels, x, g), strict=True):
            assert_identical(a, b)


def owns_fortran_order(a):
    return np.asfortranarray(a)


def owns_another_order(a):
    return np.copy(a.transpose(1, 0, 2)).transpose(1, 0, 2)  # np.copy keeps the order


def misaligned_and_strided(a):
    return LAYOUTS["misaligned"](np.repeat(a, 2, axis=-1))[..., ::2]


@pytest.mark.parametrize("on", DEVICES[1:])
@pytest.mark.parametrize("layout", [*LAYOUTS.values(), owns_fortran_order, owns_another_order, misaligned_and_strided])
def test_an_array_keeps_its_layout_on_its_way_to_a_device_and_back(on, rng, dtype, layout):
    a = layout(cast(rng.normal(size=(4, 6, 3)), dtype))
    copies, before, values = Copies(on), memory_of(a).tobytes(), a.copy()
    there = copies.to_device(a)
    assert (there.shape, there.strides, there.dtype) == (a.shape, a.strides, a.dtype)
    assert_identical(np.ascontiguousarray(to_numpy(there)), values)
    a[...] = 0
    copies.to_host()
    assert memory_of(a).tobytes() == before
    assert_identical(to_numpy(copies.to_device(a[:0])), a[:0].copy())


@pytest.mark.parametrize("operation", OPERATIONS)
def test_read_only_inputs(kernels, rng, operation):
    x, g = (rng.normal(size=(37, 10)) for _ in range(2))
    expected = OPERATIONS[operation](kernels, x, g)
    x.flags.writeable = g.flags.writeable = False
    for a, b in zip(OPERATIONS[operation](kernels, x, g), expected, strict=True):
        assert_identical(a, b)


@st.composite
def views(draw):
    """Two arrays alike, with an even number of channels, each a view by a permutation and steps of its own."""
    shape = draw(st.lists(st.integers(1, 9), min_size=2, max_size=4))
    shape[1] = 2 * draw(st.integers(1, 9))
    seed = draw(st.integers(0, 2**32))

    def view():
        order = draw(st.permutations(range(len(shape))))
        steps = draw(st.lists(st.sampled_from([1, 1, 2, -1, -3]), min_size=len(shape), max_size=len(shape)))
        base = np.random.default_rng(seed).normal(size=[shape[d] * abs(s) for d, s in zip(order, steps, strict=True)])
        base = base.astype(draw_dtype)
        return base[tuple(slice(None, None, s) for s in steps)].transpose(np.argsort(order))

    draw_dtype = draw(st.sampled_from(["float16", "bfloat16", "float32", "float64"]))
    return view(), view()


@pytest.mark.parametrize(
    "operation", ["gelu", "batch_norm_training", "bias_act", "prelu", "softmax", "maxout", "dropout"]
)
@settings(max_examples=25, derandomize=True, deadline=None)
@given(views())
def test_views(operation, arrays):
    if operation == "batch_norm_training" and arrays[0].size == arrays[0].shape[1]:
        return  # one value per channel
    kernels, run = Kernels("cpu"), OPERATIONS[operation]
    for a, b in zip(run(kernels, *arrays), run(kernels, *map(np.ascontiguousarray, arrays)), strict=True):
        assert_identical(a, b)
