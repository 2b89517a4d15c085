"""Windows of images, element by element: what convolutions and pools are laid out in."""

import helpers
import numpy as np
import pytest
from helpers import assert_identical, cast, to_numpy

from gradfuse import _core

# Images (C, H, W, N), kernel, output rows and columns, first row, stride, padding, dilation.
SHAPES = {
    "3 x 3": ((2, 5, 6, 3), (3, 3), (5, 6), 0, (1, 1), (1, 1), (1, 1)),
    "a tile": ((2, 7, 6, 3), (3, 3), (2, 6), 4, (1, 1), (1, 1), (1, 1)),
    "strides": ((1, 8, 9, 2), (2, 3), (3, 4), 0, (3, 2), (0, 1), (1, 1)),
    "dilation": ((3, 9, 8, 1), (3, 2), (5, 5), 0, (1, 1), (0, 0), (2, 3)),
    "margins wider than images": ((1, 2, 1, 2), (2, 2), (9, 8), 0, (1, 1), (4, 4), (1, 1)),
    "strides over the margins": ((1, 3, 3, 2), (1, 1), (4, 4), 0, (4, 5), (5, 6), (1, 1)),
    "large": ((8, 20, 20, 32), (3, 3), (20, 20), 0, (1, 1), (1, 1), (1, 1)),
    "no images": ((2, 4, 4, 0), (2, 2), (3, 3), 0, (1, 1), (0, 0), (1, 1)),
}


def places(shape, kernel, out, first, stride, padding, dilation):
    """Of each element of the windows the index of its place in images with margins of one element set apart."""
    c, h, w, n = shape
    index = np.pad(np.arange(c * h * w * n).reshape(shape) + 1, [(0, 0), *[(q, 99) for q in padding], (0, 0)])
    windows = np.empty((c, *kernel, *out, n), np.int64)
    for i, j, r, q in np.ndindex(*kernel, *out):
        y, x = (first + r) * stride[0] + i * dilation[0], q * stride[1] + j * dilation[1]
        windows[:, i, j, r, q] = index[:, y, x]
    return windows


@pytest.fixture(params=helpers.DEVICES)
def place(request):
    """From NumPy's arrays to those of a device."""
    return lambda a: helpers.to_device(a, request.param)


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("order", [(0, 1, 2), (1, 2, 0)])
def test_windows(place, dtype, rng, name, order):
    shape, _, _, first, *steps = SHAPES[name]
    options = (first, *steps)
    at = places(*SHAPES[name])
    images = cast(rng.normal(size=shape), dtype)
    with_margin = np.concatenate([cast([-2], dtype), images.ravel()])

    memory = np.empty([at.shape[k] for k in order] + [*at.shape[3:]], images.dtype)
    windows = place(memory).transpose(*np.argsort(order), 3, 4, 5)
    _core.gather_windows(place(images), windows, *options, -2)
    assert_identical(np.ascontiguousarray(to_numpy(windows)), with_margin[at])

    # Small integers: sums are exact, whatever their order.
    given = cast(rng.integers(-2, 3, at.shape), dtype)
    expected = np.concatenate([[0], cast(rng.integers(-2, 3, images.size), "float64")])
    start = cast(expected[1:].reshape(shape), dtype)
    np.add.at(expected, at.ravel(), given.astype(float).ravel())
    target = place(start)
    memory[...] = given.transpose(*order, 3, 4, 5)
    _core.add_windows(target, place(memory).transpose(*np.argsort(order), 3, 4, 5), *options)
    assert_identical(to_numpy(target), cast(expected[1:].reshape(shape), dtype))


@pytest.mark.parametrize("count", [1, 2, 5])
def test_threads_change_nothing(threads, count):
    threads(count)
    rng = np.random.default_rng(0)
    images, windows = rng.normal(size=(8, 20, 20, 32)), rng.normal(size=(8, 3, 3, 20, 20, 32))
    expected = images.copy()
    threads(1)
    _core.add_windows(expected, windows, 0, (1, 1), (1, 1), (1, 1))
    threads(count)
    _core.add_windows(images, windows, 0, (1, 1), (1, 1), (1, 1))
    assert_identical(images, expected)


IMAGES, WINDOWS = np.ones((2, 4, 4, 3), "f4"), np.ones((2, 2, 2, 3, 3, 3), "f4")
ONE, NONE = (1, 1), (0, 0)


@pytest.mark.parametrize("function", [_core.gather_windows, _core.add_windows])
@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ((IMAGES[0], WINDOWS, 0, ONE, NONE, ONE), ValueError, r"images must be contiguous, of shape \(C, H, W, N\)"),
        ((IMAGES.T, WINDOWS, 0, ONE, NONE, ONE), ValueError, "images must be contiguous, .* got one that is not"),
        ((IMAGES, WINDOWS[:1], 0, ONE, NONE, ONE), ValueError, r"windows must have shape \(2, kernel height, ker"),
        ((IMAGES, WINDOWS[0], 0, ONE, NONE, ONE), ValueError, r"windows must have shape .* got \(2, 2, 3, 3, 3\)"),
        ((IMAGES, WINDOWS.astype(float), 0, ONE, NONE, ONE), TypeError, "windows must have .* float32, got float64"),
        ((IMAGES, np.ones((3, 3, 3, 2, 2, 2), "f4").T, 0, ONE, NONE, ONE), ValueError, "along its last three axes"),
        ((IMAGES, WINDOWS, -1, ONE, NONE, ONE), ValueError, r"first_row must be in \[0, .*\], got -1"),
        ((IMAGES, WINDOWS, 0, (0, 1), NONE, ONE), ValueError, r"stride must be two integers in \[1, "),
        ((IMAGES, WINDOWS, 0, (1 << 40, 1), NONE, ONE), ValueError, "stride must be two integers"),
        ((IMAGES, WINDOWS, 0, 1, NONE, ONE), TypeError, "stride must be two integers, got"),
        ((IMAGES, WINDOWS, 0, ONE, (0, -1), ONE), ValueError, "padding must be two integers"),
        ((IMAGES, WINDOWS, 0, ONE, NONE, "ab"), TypeError, "dilation must be two integers"),
    ],
)
def test_bad_input(function, arguments, error, text):
    before = [np.array(a) for a in arguments[:2]]
    with pytest.raises(error, match=text):
        function(*arguments)
    for a, b in zip(arguments, before, strict=False):
        np.testing.assert_array_equal(a, b)


def test_overlapping_memory_is_refused():
    memory = np.ones(200, "f4")
    images, windows = memory[:96].reshape(2, 4, 4, 3), memory[90:198].reshape(2, 1, 2, 3, 3, 3)
    for function in (_core.gather_windows, _core.add_windows):
        with pytest.raises(ValueError, match="overlap"):
            function(images, windows, 0, ONE, NONE, ONE)
