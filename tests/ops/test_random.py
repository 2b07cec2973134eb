"""Random bits are Philox's, whatever way they are asked for; dropout keeps the right share and the same elements."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minidl import Generator, as_tensor, ops
from minidl.random import philox_rounds

# Known answers for Philox-4x32-10, from the file kat_vectors of the authors' Random123 library: counter, key, output.
KNOWN = [
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    (
        (0xFFFFFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0xFFFFFFFF),
        (0xFFFFFFFF, 0xFFFFFFFF),
        (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD),
    ),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


@pytest.mark.parametrize(("counter", "key", "expected"), KNOWN)
def test_known_answers(counter, key, expected):
    words = philox_rounds(*(np.array([c], np.uint64) for c in counter), np.uint64(key[0]), np.uint64(key[1]))
    assert tuple(int(w[0]) for w in words) == expected


def test_the_first_words_of_stream_zero():
    assert ops.random_bits(key=0, offset=0, size=4).tolist() == list(KNOWN[0][2])
    assert ops.random_bits(key=0, offset=0, size=4).dtype == np.uint32


@given(key=st.integers(0, 2**64 - 1), offset=st.integers(0, 2**40), cut=st.integers(0, 50), size=st.integers(0, 100))
def test_any_part_of_a_stream_can_be_had_alone(key, offset, cut, size):
    whole = ops.random_bits(key=key, offset=offset, size=cut + size)
    assert whole.shape == (cut + size,)
    np.testing.assert_array_equal(whole[cut:], ops.random_bits(key=key, offset=offset + cut, size=size))


def test_long_streams_do_not_show_the_blocks_they_are_made_in():
    whole = ops.random_bits(key=3, offset=1, size=150_000)
    np.testing.assert_array_equal(whole[65_000:66_000], ops.random_bits(key=3, offset=65_001, size=1000))


def test_bits_are_fair_and_streams_differ():
    a, b = (ops.random_bits(key=k, offset=0, size=100_000) for k in (1, 2))
    for bit in range(32):
        assert abs((a >> np.uint32(bit) & 1).mean() - 0.5) < 0.01
    assert abs(np.corrcoef(a, b)[0, 1]) < 0.02
    assert abs(np.corrcoef(a[:-1], a[1:])[0, 1]) < 0.02


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_dropout_keeps_its_share_and_the_mean(p):
    x = np.ones((200, 300), np.float32)
    y = np.asarray(ops.keyed_dropout(as_tensor(x), p=p, key=7, offset=0))
    assert abs((y == 0).mean() - p) < 0.01
    np.testing.assert_allclose(y[y != 0], 1 / (1 - p), rtol=1e-6)


def test_dropout_by_its_definition():
    x = np.arange(1.0, 21.0).reshape(4, 5)
    bits = ops.random_bits(key=9, offset=3, size=20).reshape(4, 5)
    kept = (bits >> np.uint32(8)) / 2**24 >= 0.3
    np.testing.assert_allclose(ops.keyed_dropout(x, p=0.3, key=9, offset=3), np.where(kept, x / 0.7, 0))


def test_dropout_gradient_uses_the_same_mask():
    x = as_tensor(np.ones((20, 30)), requires_grad=True)
    y = ops.keyed_dropout(x, p=0.4, key=5, offset=11)
    y.backward(as_tensor(np.ones((20, 30))))
    np.testing.assert_array_equal(x.grad, y.detach())


def test_dropout_at_the_ends():
    x = np.array([1.0, -2.0, 3.0])
    np.testing.assert_array_equal(ops.keyed_dropout(x, p=0.0, key=0, offset=0), x)
    np.testing.assert_array_equal(ops.keyed_dropout(x, p=1.0, key=0, offset=0), np.zeros(3))


def test_a_generator_gives_the_same_numbers_again_and_goes_on_after_its_state():
    g = Generator(42)
    first = [g.uniform(5), g.normal((2, 3)), g.integers(0, 10, 4), g.permutation(6)]
    g.manual_seed(42)
    again = [g.uniform(5), g.normal((2, 3)), g.integers(0, 10, 4), g.permutation(6)]
    for a, b in zip(first, again):
        np.testing.assert_array_equal(a, b)
    state = g.get_state()
    a = g.normal(3)
    g.set_state(state)
    np.testing.assert_array_equal(a, g.normal(3))
    other = Generator()
    other.set_state(state)
    np.testing.assert_array_equal(a, other.normal(3))
    with pytest.raises(ValueError, match="uint64"):
        g.set_state(np.zeros(3))


def test_distributions():
    stats = pytest.importorskip("scipy.stats", reason="Kolmogorov-Smirnov tests")
    g = Generator(0)
    assert stats.kstest(g.uniform(20_000, dtype=np.float64), "uniform").pvalue > 1e-3
    assert stats.kstest(g.normal(20_000, dtype=np.float64), "norm").pvalue > 1e-3
    counts = np.bincount(g.integers(0, 10, 20_000))
    assert stats.chisquare(counts).pvalue > 1e-3
    u = g.uniform(10_000, 2.0, 5.0)
    assert u.dtype == np.float32 and u.min() >= 2 and u.max() < 5
    with pytest.raises(ValueError, match="empty range"):
        g.integers(3, 3)


def test_derived_streams_do_not_depend_on_position():
    g = Generator(1)
    a = g.fold_in(3, 4).bits(5)
    g.bits(100)
    np.testing.assert_array_equal(a, g.fold_in(3, 4).bits(5))
    assert not np.array_equal(a, g.fold_in(4, 3).bits(5))
