"""The reference's random numbers: published vectors, the layout of a mask, and what uses one."""

import math

import numpy as np
import pytest

import gradfuse.reference as ref

inf, nan = math.inf, math.nan


def words(text):
    return np.array([int(word, 16) for word in text.split()], np.uint32)


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [  # Random123, kat_vectors
        ("0 0 0 0", "0 0", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ("ffffffff " * 4, "ffffffff " * 2, "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        (
            "243f6a88 85a308d3 13198a2e 03707344",
            "a4093822 299f31d0",
            "d16cfe09 94fdcceb 5001e420 24126ea1",
        ),
    ],
)
def test_philox_known_answers(counter, key, expected):
    np.testing.assert_array_equal(ref.philox4x32(words(counter), words(key)), words(expected))
    blocks = np.tile(words(counter), (3, 1))
    np.testing.assert_array_equal(ref.philox4x32(blocks, words(key)), np.tile(words(expected), (3, 1)))


def test_half_words():
    seed, stream = 0x0123456789ABCDEF, 0xFEDCBA9876543210
    rng = ref.Generator(seed)
    rng.stream = stream
    halves = ref.half_words(100, rng)
    assert halves.shape == (100,)
    for i, half in enumerate(halves):
        block = ref.philox4x32([i // 8, 0, 0x76543210, 0xFEDCBA98], [0x89ABCDEF, 0x01234567])
        word = int(block[i % 8 // 2])
        assert half == (word >> 16 if i % 2 else word & 0xFFFF)
    assert ref.half_words(0, 1).shape == (0,)
    np.testing.assert_array_equal(ref.half_words(9, 1), ref.half_words(100, 1)[:9])


def test_first_half_words_of_seed_0():
    expected = [0xE8D5, 0x6627, 0xC58D, 0xE169, 0xAC4C, 0xBC57, 0xDBD8, 0x9B00]
    np.testing.assert_array_equal(ref.half_words(8, 0), expected)


def test_generator():
    rng = ref.Generator(7)
    assert (ref.Generator().seed, rng.seed, rng.stream) == (0, 7, 0)
    assert [rng.next(), rng.next()] == [0, 1]
    state = rng.state_dict()
    assert state == {"seed": 7, "stream": 2}
    first = ref.half_words(20, rng)
    other = ref.Generator()
    other.load_state_dict(state)
    np.testing.assert_array_equal(ref.half_words(20, other), first)
    assert (ref.half_words(20, other) != first).any()
    np.testing.assert_array_equal(ref.half_words(20, ref.Generator(7)), ref.half_words(20, 7))
    np.testing.assert_array_equal(ref.half_words(20, np.int64(7)), ref.half_words(20, 7))
    assert (ref.half_words(20, None) != ref.half_words(20, None)).any()


def test_only_real_draws_take_a_stream():
    rng, x = ref.Generator(), np.ones((4, 3))
    ref.dropout_forward(x, 0.0, rng=rng)
    ref.alpha_dropout_forward(x, 0.0, rng=rng)
    ref.bias_act_forward(x, rng=rng)
    ref.batch_norm_forward(x, None, None, rng=rng)
    ref.rrelu_forward(x, training=False, rng=rng)
    assert rng.stream == 0
    ref.dropout_forward(x, 1e-9, rng=rng)
    ref.alpha_dropout_forward(x, 1.0, rng=rng)
    ref.bias_act_forward(x, dropout=0.1, rng=rng)
    ref.batch_norm_forward(x, None, None, dropout=0.1, rng=rng)
    ref.rrelu_forward(x, rng=rng)
    assert rng.stream == 5


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9, 1 / 3])
def test_dropout(p):
    x, g = np.random.default_rng(0).standard_normal((2, 40, 50))
    T = round(p * 65536)
    keep = (ref.half_words(2000, 11) >= T).reshape(40, 50)
    y, ctx = ref.dropout_forward(x, p, rng=11)
    np.testing.assert_allclose(y, np.where(keep, x / (1 - T / 65536), 0))
    np.testing.assert_allclose(ref.dropout_backward(g, ctx), np.where(keep, g / (1 - T / 65536), 0))
    assert abs(keep.mean() - (1 - p)) < 4 * math.sqrt(p * (1 - p) / 2000)
    # The index is the logical one, whatever the strides, and the mask is the same for any dtype.
    y_strided, _ = ref.dropout_forward(np.asfortranarray(x)[:, ::-1], p, rng=11)
    np.testing.assert_array_equal(y_strided != 0, keep)
    y_half, ctx = ref.dropout_forward(x.astype(np.float16), p, rng=11)
    np.testing.assert_array_equal(y_half != 0, keep & (x.astype(np.float16) != 0))
    assert y_half.dtype == ref.dropout_backward(y_half, ctx).dtype == np.float16


def test_dropout_edges():
    x = np.array([1.0, -0.0, inf, nan, -inf])
    for p in (0.0, 1e-9):
        np.testing.assert_array_equal(ref.dropout_forward(x, p, rng=1)[0], x)
        np.testing.assert_array_equal(ref.alpha_dropout_forward(x, p, rng=1)[0], x)
    for p in (1.0, 1 - 1e-9):
        for forward, backward in (
            (ref.dropout_forward, ref.dropout_backward),
            (ref.alpha_dropout_forward, ref.alpha_dropout_backward),
        ):
            y, ctx = forward(x, p, rng=1)
            assert not y.any()
            assert not backward(x, ctx).any()
    for p in (-0.1, 1.1, nan):
        for forward in (ref.dropout_forward, ref.alpha_dropout_forward):
            with pytest.raises(ValueError, match=r"p must be in \[0, 1\], got"):
                forward(x, p)
    y, ctx = ref.dropout_forward(np.full(1000, inf), 0.5, rng=1)
    assert set(y) == {0, inf}
    assert set(ref.dropout_backward(np.full(1000, nan), ctx)[y == 0]) == {0}
    assert ref.dropout_forward(np.float64(2.0).reshape(()), 0.5, rng=1)[0].shape == ()
    assert ref.keep_mask((), 0.5, 1).shape == ()


@pytest.mark.parametrize("p", [0.05, 0.3, 0.8])
def test_alpha_dropout_keeps_the_moments(p):
    x = np.random.default_rng(1).standard_normal(400_000)
    y, ctx = ref.alpha_dropout_forward(x, p, rng=2)
    assert abs(y.mean()) < 0.01
    assert abs(y.var() - 1) < 0.02

    keep = ref.keep_mask(x.shape, p, 2)
    alpha, q = -1.7580993408473766, 1 - round(p * 65536) / 65536
    a = (q + alpha**2 * q * (1 - q)) ** -0.5  # as the paper writes it
    b = -a * (1 - q) * alpha
    np.testing.assert_allclose(y, a * np.where(keep, x, alpha) + b)
    np.testing.assert_allclose(ref.alpha_dropout_backward(x, ctx), np.where(keep, a * x, 0))
