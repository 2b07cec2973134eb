"""Normalization on numba."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minidl.backend import load
from minidl.testing.pytest_plugin import conformance_tests

pytest.importorskip("numba", reason="the numba backend needs numba (pip install 'minidl[numba]')")

test_conformance = conformance_tests("numba", module="minidl_kernels.numba.kernels.normalization", max_examples=20)

# float64 is compared to rounding, float32 to that of sums over many elements
CLOSE = {np.float32: {"rtol": 1e-4, "atol": 1e-5}, np.float64: {"rtol": 1e-12, "atol": 1e-13}}


def _affine(rng, shape, dtype, given=True):
    return [rng.uniform(0.5, 1.5, shape).astype(dtype) if given else None for _ in range(2)]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("shape", [(12, 40, 100), (3, 7)])  # with threads and without
def test_rows(agree, rng, shape, affine, dtype):
    x, g = (rng.normal(size=shape).astype(dtype) + 3 for _ in range(2))
    weight, bias = _affine(rng, shape[-1:], dtype, affine)
    params = {"normalized_shape": shape[-1:], "eps": 1e-5, **CLOSE[dtype]}
    agree("layer_norm", x, weight, bias, **params)
    agree("layer_norm_backward", g, x, weight, **params)
    agree("rms_norm", x, weight, **params)
    agree("rms_norm_backward", g, x, weight, **params)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("shape", [(8, 12, 20, 21), (2, 6, 5)])
def test_channels(agree, rng, shape, affine, dtype):
    x, g = (rng.normal(size=shape).astype(dtype) + 3 for _ in range(2))
    weight, bias = _affine(rng, shape[1], dtype, affine)
    close = CLOSE[dtype]
    agree("group_norm", x, weight, bias, num_groups=3, eps=1e-5, **close)
    agree("group_norm_backward", g, x, weight, num_groups=3, eps=1e-5, **close)
    _, mean, var = agree("batch_norm", x, weight, bias, eps=1e-5, **close)
    dmean, dvar = (rng.normal(size=shape[1]).astype(dtype) for _ in range(2))
    agree("batch_norm_backward", g, dmean, dvar, x, weight, mean, var, eps=1e-5, **close)


@given(n=st.integers(1, 70), seed=st.integers(0, 9))
def test_rows_of_every_length(agree, n, seed):
    rng = np.random.default_rng(seed)
    x, g = rng.normal(size=(2, 3, n))
    weight, bias = _affine(rng, n, np.float64)
    params = {"normalized_shape": (n,), "eps": 1e-5, "rtol": 1e-11, "atol": 1e-12}
    agree("layer_norm", x, weight, bias, **params)
    agree("layer_norm_backward", g, x, weight, **params)


@pytest.mark.parametrize("odd", [np.nan, np.inf])
def test_odd_values_stay_in_their_row(agree, rng, odd):
    x = rng.normal(size=(4, 33)).astype(np.float32)
    x[1, 5] = odd
    (out,) = agree("layer_norm", x, None, None, normalized_shape=(33,), eps=1e-5)
    assert np.isnan(out[1]).all()
    assert np.isfinite(out[[0, 2, 3]]).all()


def test_variance_of_numbers_far_from_zero(agree, rng):
    """The mean is taken out before squaring, so that nothing cancels."""
    x = (rng.normal(size=(4, 3, 8, 8)) + 1e4).astype(np.float32)
    _, _, var = agree("batch_norm", x, None, None, eps=1e-5, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(var, x.astype(np.float64).var((0, 2, 3)), rtol=1e-3)


def test_what_is_left_to_the_reference(rng):
    kernels = load("numba").kernels
    x = rng.normal(size=(4, 5))
    assert not kernels["batch_norm"][0].when(x, None, None, eps=1e-5)
    assert not kernels["layer_norm"][0].when(x.T, None, None, normalized_shape=(4,), eps=1e-5)
    assert not kernels["layer_norm"][0].when(x, np.ones(5, np.float32), None, normalized_shape=(5,), eps=1e-5)
    assert not kernels["layer_norm"][0].when(x[:0], None, None, normalized_shape=(5,), eps=1e-5)
