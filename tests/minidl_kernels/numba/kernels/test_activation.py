"""Softmax and log-softmax on numba."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minidl.backend import load
from minidl.testing.pytest_plugin import conformance_tests

pytest.importorskip("numba", reason="the numba backend needs numba (pip install 'minidl[numba]')")

test_conformance = conformance_tests("numba", module="minidl_kernels.numba.kernels.activation", max_examples=20)

OPS = ("softmax", "log_softmax")


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("shape", [(300, 129), (40, 20, 64)])
def test_enough_rows_for_threads(agree, rng, op, shape, dtype):
    x, g = (rng.normal(size=shape).astype(dtype) * 3 for _ in range(2))
    (out,) = agree(op, x, axis=-1)
    agree(f"{op}_grad", g, out, axis=len(shape) - 1)


@pytest.mark.parametrize("op", OPS)
@given(rows=st.integers(1, 5), n=st.integers(1, 70), seed=st.integers(0, 9))
def test_rows_of_every_length(agree, op, rows, n, seed):
    rng = np.random.default_rng(seed)
    x, g = (rng.normal(size=(rows, n)).astype(np.float32) * 5 for _ in range(2))
    (out,) = agree(op, x, axis=-1)
    agree(f"{op}_grad", g, out, axis=-1)


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("odd", [np.nan, np.inf, -np.inf, 1e30])
def test_odd_values_stay_in_their_row(agree, rng, op, odd):
    x = rng.normal(size=(4, 37)).astype(np.float32)
    x[1, 5] = odd
    x[2] = -np.inf
    (out,) = agree(op, x, axis=-1)
    assert np.isnan(out[2]).all()
    assert np.isfinite(out[[0, 3]]).all()


def test_other_axes_and_layouts_are_left_to_the_reference(rng):
    x = rng.normal(size=(3, 4, 5))
    (kernel,) = load("numba").kernels["softmax"]
    assert kernel.when(x, axis=2)
    assert not kernel.when(x, axis=0)
    assert not kernel.when(x.transpose(0, 2, 1), axis=-1)
    assert not kernel.when(x.astype(np.float16), axis=-1)
    assert not kernel.when(np.empty((0, 5)), axis=-1)
