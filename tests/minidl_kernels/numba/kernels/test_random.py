"""Random bits and dropout on numba: the very bits of the reference."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minidl.backend import load
from minidl.ops import primitives
from minidl.testing.pytest_plugin import conformance_tests

pytest.importorskip("numba", reason="the numba backend needs numba (pip install 'minidl[numba]')")

test_conformance = conformance_tests("numba", module="minidl_kernels.numba.kernels.random", max_examples=20)

# offsets at and beyond what fits into 32 bits of a counter
OFFSETS = st.one_of(st.integers(0, 5000), st.integers(2**34 - 3000, 2**34 + 10), st.integers(2**50, 2**50 + 9))
KEYS = st.one_of(st.integers(0, 2**64 - 1), st.sampled_from([0, 2**32, 2**64 - 1]))


@given(key=KEYS, offset=OFFSETS, size=st.integers(0, 3000))
def test_bits(key, offset, size):
    (kernel,) = load("numba").kernels["random_bits"]
    expected = primitives["random_bits"].reference(key=key, offset=offset, size=size)
    found = kernel.function(key=key, offset=offset, size=size)
    assert found.dtype == np.uint32
    np.testing.assert_array_equal(found, expected)


def test_bits_from_threads(agree):
    agree("random_bits", key=0x0123456789ABCDEF, offset=12345, size=100_001)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@given(p=st.sampled_from([0.0, 1e-7, 0.1, 0.5, 0.999]), key=KEYS, offset=OFFSETS, size=st.integers(0, 3000))
def test_dropout(dtype, p, key, offset, size):
    (kernel,) = load("numba").kernels["keyed_dropout"]
    x = np.linspace(-2, 2, size).astype(dtype)
    expected = primitives["keyed_dropout"].reference(x, p=p, key=key, offset=offset)
    np.testing.assert_array_equal(kernel.function(x, p=p, key=key, offset=offset), expected)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_dropout_from_threads(agree, rng, dtype):
    x = rng.normal(size=(50, 21, 47)).astype(dtype)
    agree("keyed_dropout", x, p=0.3, key=99, offset=7, rtol=0, atol=0)


def test_a_dropped_infinity_is_nan_as_in_the_reference(agree):
    agree("keyed_dropout", np.array([np.inf, np.nan, -np.inf] * 5), p=0.5, key=1, offset=0)


def test_dropping_everything_is_left_to_the_reference():
    (kernel,) = load("numba").kernels["keyed_dropout"]
    assert not kernel.when(np.ones(3), p=1.0, key=1, offset=0)
