"""Pooling on numba."""

import numpy as np
import pytest

from minidl.backend import load
from minidl.testing.pytest_plugin import conformance_tests

pytest.importorskip("numba", reason="the numba backend needs numba (pip install 'minidl[numba]')")

test_conformance = conformance_tests("numba", module="minidl_kernels.numba.kernels.pooling", max_examples=20)

# shape, kernel, stride, padding, dilation; the first is large enough for threads
WINDOWS = [
    ((8, 8, 33, 40), (2, 2), (2, 2), (0, 0), (1, 1)),
    ((2, 3, 32, 32), (3, 3), (2, 2), (1, 1), (1, 1)),
    ((2, 3, 9, 40), (3, 3), (1, 1), (1, 1), (1, 1)),
    ((1, 2, 11, 13), (5, 2), (3, 1), (2, 1), (1, 1)),
    ((2, 1, 12, 17), (3, 4), (2, 3), (2, 3), (2, 3)),
    ((1, 2, 6, 4), (7, 6), (1, 1), (3, 3), (1, 1)),
    ((3, 2, 30), (3,), (2,), (1,), (1,)),
]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("ceil_mode", [False, True])
@pytest.mark.parametrize(("shape", "kernel", "stride", "padding", "dilation"), WINDOWS)
def test_pools_and_gradients(agree, rng, shape, kernel, stride, padding, dilation, ceil_mode, dtype):
    n = len(kernel)
    x = rng.normal(size=shape).astype(dtype)
    params = {"kernel_size": kernel, "stride": stride, "padding": padding, "ceil_mode": ceil_mode}
    best, index = agree(f"max_pool{n}d", x, **params, dilation=dilation)
    picked = np.take_along_axis(x.reshape(*shape[:2], -1), index.reshape(*shape[:2], -1), 2)
    np.testing.assert_array_equal(picked.reshape(best.shape), best)
    g = rng.normal(size=best.shape).astype(dtype)
    agree("max_pool_grad", g, index, input_size=shape[2:])
    params["padding"] = tuple(min(p, k // 2) for p, k in zip(padding, kernel))
    for include in (False, True):
        (mean,) = agree(f"avg_pool{n}d", x, **params, count_include_pad=include)
        g = rng.normal(size=mean.shape).astype(dtype)
        agree(f"avg_pool{n}d_grad", g, input_size=shape[2:], **params, count_include_pad=include)


def test_ties_nan_and_infinities_choose_the_reference_s_index(agree):
    values = np.array([0, 1, 1, -np.inf, np.nan, np.inf])
    x = values[np.random.default_rng(0).integers(0, 6, (4, 2, 12, 21))].astype(np.float32)
    x[:, :, :5] = -np.inf
    for stride in (1, 2, 3):
        params = {"stride": (stride,) * 2, "padding": (1, 1), "dilation": (1, 1), "ceil_mode": False}
        agree("max_pool2d", x, kernel_size=(3, 3), **params)
        agree("max_pool2d", x, kernel_size=(2, 2), **params)


def test_an_index_outside_the_image_is_refused():
    kernel = load("numba").kernels["max_pool_grad"][0].function
    g = np.ones((1, 1, 2, 2), np.float32)
    for bad in (-1, 16):
        with pytest.raises(IndexError, match="outside the 16 pixels"):
            kernel(g, np.full(g.shape, bad), input_size=(4, 4))
