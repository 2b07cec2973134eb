"""Sums over rows by number on numba."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minidl.backend import load
from minidl.ops.indexing import Slot
from minidl.testing.pytest_plugin import conformance_tests

pytest.importorskip("numba", reason="the numba backend needs numba (pip install 'minidl[numba]')")

test_conformance = conformance_tests("numba", module="minidl_kernels.numba.kernels.embedding", max_examples=20)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("padding_idx", [None, 0, 4])
@pytest.mark.parametrize("shape", [(), (0,), (3, 5), (30, 41)])  # the last with threads
def test_embedding(agree, rng, shape, padding_idx, dtype):
    index = rng.integers(0, 9, shape).astype(np.int32 if dtype == np.float32 else np.int64)
    g = rng.normal(size=(*shape, 70)).astype(dtype)
    agree("embedding_grad", g, index, num_embeddings=9, padding_idx=padding_idx)


@given(rows=st.integers(1, 9), width=st.integers(0, 70), count=st.integers(0, 9), seed=st.integers(0, 9))
def test_widths(agree, rows, width, count, seed):
    rng = np.random.default_rng(seed)
    agree("embedding_grad", rng.normal(size=(count, width)), rng.integers(0, rows, count), num_embeddings=rows)


@pytest.mark.parametrize("shape", [(3, 4, 5), (40, 30, 50), (1, 2000, 64)])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_slices_along_an_axis(agree, rng, axis, shape):
    x = rng.normal(size=shape)
    agree("take_grad", x, rng.integers(-7, 7, shape[axis]), axis=axis, size=7)


@pytest.mark.parametrize("length", [3, 2000])
@pytest.mark.parametrize("count", [1, 2])
def test_integer_arrays_as_index(agree, rng, count, length):
    shape = (7, 6, 40)
    arrays = [rng.integers(-n, n, (length, 2)) for n in shape[:count]]
    g = rng.normal(size=(length, 2, *shape[count:]))
    agree("getitem_grad", g, *arrays, index=tuple(Slot(i) for i in range(count)), shape=shape)


@pytest.mark.parametrize("shape", [(3, 4, 5), (40, 30, 50)])
@pytest.mark.parametrize("axis", [0, 1, -1])
def test_gather(agree, rng, axis, shape):
    index = rng.integers(-6, 6, shape)
    out = list(shape)
    out[axis] = 6
    agree("gather_grad", rng.normal(size=shape), index, axis=axis, shape=tuple(out))


@pytest.mark.parametrize("bad", [-1, 5])
def test_a_row_that_does_not_exist_is_refused(rng, bad):
    (kernel,) = load("numba").kernels["embedding_grad"]
    with pytest.raises(IndexError, match="length 5"):
        kernel.function(rng.normal(size=(2, 3)), np.array([0, bad]), num_embeddings=5)
    (kernel,) = load("numba").kernels["take_grad"]
    with pytest.raises(IndexError, match="length 5"):
        kernel.function(rng.normal(size=(2, 3)), np.array([0, 5 if bad > 0 else -6]), axis=0, size=5)


def test_other_indices_are_left_to_the_reference(rng):
    (kernel,) = load("numba").kernels["getitem_grad"]
    mask, rows = np.ones(3, bool), np.zeros(3, np.int64)
    g = rng.normal(size=(3, 4))
    assert kernel.when(g, rows, index=(Slot(0),), shape=(5, 4))
    assert not kernel.when(g, mask, index=(Slot(0),), shape=(3, 4))
    assert not kernel.when(g, rows, index=(slice(None), Slot(0)), shape=(3, 4))
    assert not kernel.when(g, index=(slice(0, 3),), shape=(5, 4))
