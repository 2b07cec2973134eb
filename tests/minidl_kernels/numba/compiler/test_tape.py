"""Products on the tape: by BLAS, and by the kernel for many rows."""

import numpy as np
import pytest

numba = pytest.importorskip("numba", reason="the numba backend needs numba (pip install 'minidl[numba]')")

from minidl_kernels.numba.compiler import tape  # noqa: E402


def product(x, y, dtype):
    """x @ y by a tape, and whether BLAS did it."""
    out = np.full((len(x), y.shape[1]), np.nan, dtype)
    t = tape.Tape()
    assert t.add_matmul(x, y, out)
    tape.run(*t.freeze())
    return out, t.functions == [tape._gemm_entry().address]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("m, k, n", [(256, 200, 100), (300, 300, 77), (1001, 513, 31), (2048, 128, 512)])
@pytest.mark.parametrize("turned", [False, True])
def test_many_rows(m, k, n, turned, dtype):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(m, k + 5)).astype(dtype)[:, 2:-3]
    y = rng.normal(size=(n, k)).astype(dtype).T if turned else rng.normal(size=(k, n + 3)).astype(dtype)[:, :n]
    found, blas = product(x, y, dtype)
    assert not blas
    np.testing.assert_allclose(found, x @ y, rtol=1e-4 if dtype == np.float32 else 1e-12, atol=1e-3 * k**0.5 * 1e-2)
    threads = numba.get_num_threads()
    try:
        numba.set_num_threads(1)
        np.testing.assert_array_equal(product(x, y, dtype)[0], found)
    finally:
        numba.set_num_threads(threads)


@pytest.mark.parametrize("m, k, n", [(64, 784, 256), (300, 10, 10), (300, 1024, 1024), (1, 1, 1), (5, 0, 3)])
def test_others_are_left_to_blas(m, k, n):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(m, k)), rng.normal(size=(k, n))
    if k == 0:
        assert not tape.Tape().add_matmul(x, y, np.empty((m, n)))
        return
    found, blas = product(x, y, np.float64)
    assert blas
    np.testing.assert_allclose(found, x @ y, rtol=1e-10, atol=1e-10)
    turned = np.ascontiguousarray(x.T).T  # as in the gradient of a weight
    found, blas = product(turned, y, np.float64)
    assert blas
    np.testing.assert_allclose(found, x @ y, rtol=1e-10, atol=1e-10)


def test_nan_spreads_as_in_blas():
    x, y = np.ones((300, 200), np.float32), np.ones((200, 100), np.float32)
    x[7, 3], y[5, 9] = np.nan, np.inf
    found, _ = product(x, y, np.float32)
    np.testing.assert_array_equal(found, x @ y)
