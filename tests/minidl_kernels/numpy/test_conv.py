"""NumPy's convolution: blocks of columns do not matter."""

import numpy as np

from minidl import ops


def test_many_batches_of_columns_give_the_same_as_one_sample_at_a_time(monkeypatch):
    rng = np.random.default_rng(2)
    x, w = rng.standard_normal((7, 4, 6, 6)), rng.standard_normal((6, 4, 3, 3))
    whole = ops.conv2d(x, w, padding=1, stride=2)
    params = dict(stride=(2, 2), padding=(1, 1), dilation=(1, 1), groups=1)
    grads = (
        ops.conv2d_input_grad(whole, w, input_size=(6, 6), **params),
        ops.conv2d_weight_grad(whole, x, kernel_size=(3, 3), **params),
    )
    monkeypatch.setattr("minidl_kernels.numpy.conv._CACHE_BYTES", 2 * 4 * 9 * 9 * 8)
    np.testing.assert_allclose(ops.conv2d(x, w, padding=1, stride=2), whole, rtol=1e-12)
    np.testing.assert_allclose(ops.conv2d_input_grad(whole, w, input_size=(6, 6), **params), grads[0], rtol=1e-12)
    np.testing.assert_allclose(ops.conv2d_weight_grad(whole, x, kernel_size=(3, 3), **params), grads[1], rtol=1e-12)
    np.testing.assert_allclose(ops.conv2d(x[3:4], w, padding=1, stride=2), whole[3:4], rtol=1e-12)
