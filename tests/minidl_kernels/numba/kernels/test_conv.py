"""Convolution on numba, without Winograd's algorithm."""

import numpy as np
import pytest

from minidl.testing.pytest_plugin import conformance_tests

REASON = "the numba backend needs numba (pip install 'minidl[numba]')"
conv = pytest.importorskip("minidl_kernels.numba.kernels.conv", reason=REASON)

test_conformance = conformance_tests("numba", module="minidl_kernels.numba.kernels.conv", max_examples=25)

# shape of x, shape of the weight, stride, padding, dilation, groups
CASES = [
    ((2, 3, 8, 9), (5, 3, 3, 3), (1, 1), (1, 1), (1, 1), 1),
    ((9, 6, 14, 14), (16, 6, 5, 5), (1, 1), (0, 0), (1, 1), 1),
    ((3, 4, 11, 13), (16, 4, 3, 2), (2, 3), (1, 2), (1, 1), 1),
    ((2, 6, 9, 14), (9, 2, 3, 4), (2, 1), (2, 0), (2, 3), 3),
    ((1, 3, 8, 9), (5, 3, 1, 1), (3, 4), (2, 3), (1, 1), 1),
    ((1, 3, 7, 9), (4, 3, 3, 3), (1, 1), (4, 5), (1, 1), 1),
    ((33, 16, 4, 4), (24, 16, 3, 3), (1, 1), (1, 1), (1, 1), 1),
    ((4, 8, 40, 44), (32, 8, 3, 3), (2, 2), (1, 1), (1, 1), 1),
    ((2, 18, 6, 6), (18, 1, 3, 3), (1, 1), (1, 1), (1, 1), 18),
    ((3, 100, 5, 5), (140, 100, 3, 3), (2, 2), (1, 1), (1, 1), 1),
    ((4, 5, 33), (6, 5, 4), (2,), (1,), (3,), 1),
]


def check(agree, rng, x_shape, w_shape, stride, padding, dilation, groups, dtype, **tolerance):
    n = len(x_shape) - 2
    x, weight = rng.normal(size=x_shape).astype(dtype), rng.normal(size=w_shape).astype(dtype)
    bias = rng.normal(size=w_shape[0]).astype(dtype)
    params = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups, **tolerance}
    agree(f"conv{n}d", x, weight, None, **params)
    (out,) = agree(f"conv{n}d", x, weight, bias, **params)
    g = rng.normal(size=out.shape).astype(dtype)
    agree(f"conv{n}d_input_grad", g, weight, input_size=x_shape[2:], **params)
    agree(f"conv{n}d_weight_grad", g, x, kernel_size=w_shape[2:], **params)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("case", CASES)
def test_convolution_and_gradients(agree, rng, case, dtype):
    check(agree, rng, *case, dtype)


def test_input_that_is_not_contiguous(agree, rng):
    x = np.moveaxis(rng.normal(size=(2, 9, 8, 3)).astype(np.float32), -1, 1)
    weight = rng.normal(size=(3, 3, 4, 4)).astype(np.float32).swapaxes(0, 1)
    params = {"stride": (1, 1), "padding": (1, 1), "dilation": (1, 1), "groups": 1}
    (out,) = agree("conv2d", x, weight, None, **params)
    agree("conv2d_input_grad", out[:, :, ::-1], weight, input_size=x.shape[2:], **params)
    agree("conv2d_weight_grad", out[:, :, ::-1], x, kernel_size=(4, 4), **params)


def test_padding_zeros_shared_between_rows_and_samples(agree, rng):
    """What lies beyond a row's end is the next row's beginning; infinities there must not come in."""
    x = np.full((3, 2, 4, 4), np.inf, np.float32)
    x[:, :, 1:3, 1:3] = rng.normal(size=(3, 2, 2, 2))
    weight = rng.normal(size=(8, 2, 3, 3)).astype(np.float32)
    params = {"stride": (1, 1), "padding": (0, 0), "dilation": (1, 1), "groups": 1}
    agree("conv2d", x, weight, None, **params)
    x = np.abs(rng.normal(size=(3, 2, 4, 4))).astype(np.float32)
    x[1] = np.inf
    out = conv.convolve(x, np.abs(weight), None, **{**params, "padding": (1, 1)})
    assert np.isfinite(out[[0, 2]]).all() and np.isposinf(out[1]).all()


def test_every_result_is_written_into_fresh_memory(rng):
    """A pixel that no kernel position meets has gradient 0."""
    g, weight = rng.normal(size=(1, 2, 3, 3)), rng.normal(size=(2, 1, 2, 1))
    params = {"stride": (4, 3), "padding": (0, 0), "dilation": (1, 1), "groups": 1}
    out = np.full((1, 1, 12, 9), np.nan)
    conv.input_grad(g, weight, input_size=(12, 9), out=(out,), **params)
    assert np.count_nonzero(out) == 3 * 3 * 2 and np.isfinite(out).all()


def test_many_weights_are_left_to_the_reference():
    from minidl.backend import load

    params = {"stride": (2, 2), "padding": (1, 1), "dilation": (1, 1)}
    for groups in (1, 4):
        x, weight = np.ones((1, 256, 8, 8), np.float32), np.ones((256, 256 // groups, 3, 3), np.float32)
        g = np.ones((1, 256, 4, 4), np.float32)
        served = [
            any(k.when(*arrays, groups=groups, **params, **more) for k in load("numba").kernels[name])
            for name, arrays, more in (
                ("conv2d", (x, weight), {}),
                ("conv2d_input_grad", (g, weight), {"input_size": (8, 8)}),
                ("conv2d_weight_grad", (g, x), {"kernel_size": (3, 3)}),
            )
        ]
        assert served == [256 * 256 * 9 / groups**2 < conv.MANY_WEIGHTS] * 3
