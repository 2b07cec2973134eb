import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from minidl import ops
from minidl.core.tensor import as_tensor
from minidl.testing import gradcheck, gradgradcheck

MAX = {n: getattr(ops, f"max_pool{n}d") for n in (1, 2, 3)}
AVG = {n: getattr(ops, f"avg_pool{n}d") for n in (1, 2, 3)}
ADAPTIVE_MAX = {n: getattr(ops, f"adaptive_max_pool{n}d") for n in (1, 2, 3)}
ADAPTIVE_AVG = {n: getattr(ops, f"adaptive_avg_pool{n}d") for n in (1, 2, 3)}


@st.composite
def windows(draw, dilated):
    """(n, shape, parameters) where at least one window fits"""
    n = draw(st.integers(1, 3))
    each = lambda low, high: draw(st.tuples(*[st.integers(low, high)] * n))
    size, kernel, stride = each(1, 9 if n < 3 else 5), each(1, 3), each(1, 3)
    dilation = each(1, 2) if dilated else (1,) * n
    padding = tuple(draw(st.integers(0, k // 2)) for k in kernel)
    assume(all(m + 2 * p >= d * (k - 1) + 1 for m, p, d, k in zip(size, padding, dilation, kernel, strict=True)))
    # the window before the first pixel must not jump over the whole image
    assume(all(p == 0 or -p + -(-p // d) * d < m for m, p, d in zip(size, padding, dilation, strict=True)))
    params = dict(kernel_size=kernel, stride=stride, padding=padding, ceil_mode=draw(st.booleans()))
    if dilated:
        params["dilation"] = dilation
    else:
        assume(n < 3 or all(m >= k for m, k in zip(size, kernel, strict=True)))  # PyTorch's avg_pool3d asks for this
        params["count_include_pad"] = draw(st.booleans())
    return n, (draw(st.integers(1, 2)), draw(st.integers(1, 2)), *size), params


def image(shape, dtype, seed, special):
    """Few distinct values, so that there are ties; with ``special``, some infinities and NaNs."""
    rng = np.random.default_rng(seed)
    x = rng.integers(-4, 5, shape).astype(dtype)
    if special:
        x[rng.random(shape) < 0.3] = -np.inf
        x[rng.random(shape) < 0.1] = np.nan
        x[rng.random(shape) < 0.1] = np.inf
    return x


def same_gradients(out, expected, x, t):
    import torch

    g = np.random.default_rng(5).standard_normal(out.shape).astype(out.dtype)
    out.backward(as_tensor(g))
    expected.backward(torch.from_numpy(g))
    np.testing.assert_allclose(x.grad, t.grad, rtol=1e-5, atol=1e-5)


@settings(max_examples=60, deadline=None)
@given(windows(dilated=True), st.sampled_from([np.float32, np.float64]), st.integers(0, 99), st.booleans())
def test_maximum_index_and_gradient_equal_pytorchs(config, dtype, seed, special):
    torch = pytest.importorskip("torch", reason="PyTorch is the independent implementation compared with")
    n, shape, params = config
    x = as_tensor(image(shape, dtype, seed, special), requires_grad=True)
    t = torch.from_numpy(x.array.copy()).requires_grad_()
    out, index = MAX[n](x, **params, return_indices=True)
    expected, places = getattr(torch.nn.functional, f"max_pool{n}d")(t, **params, return_indices=True)
    assert out.dtype == dtype and index.dtype == np.int64
    np.testing.assert_array_equal(out.detach(), expected.detach())
    np.testing.assert_array_equal(index, places)
    same_gradients(out, expected, x, t)


@settings(max_examples=60, deadline=None)
@given(windows(dilated=False), st.sampled_from([(np.float32, 1e-5), (np.float64, 1e-12)]), st.integers(0, 99))
def test_mean_and_gradient_equal_pytorchs(config, dtype, seed):
    torch = pytest.importorskip("torch", reason="PyTorch is the independent implementation compared with")
    n, shape, params = config
    x = as_tensor(np.random.default_rng(seed).standard_normal(shape).astype(dtype[0]), requires_grad=True)
    t = torch.from_numpy(x.array.copy()).requires_grad_()
    out, expected = AVG[n](x, **params), getattr(torch.nn.functional, f"avg_pool{n}d")(t, **params)
    assert out.dtype == dtype[0]
    np.testing.assert_allclose(out.detach(), expected.detach(), rtol=dtype[1], atol=dtype[1])
    same_gradients(out, expected, x, t)


@settings(max_examples=60, deadline=None)
@given(st.data(), st.integers(1, 3), st.integers(0, 99), st.booleans())
def test_adaptive_pooling_equals_pytorchs(data, n, seed, special):
    torch = pytest.importorskip("torch", reason="PyTorch is the independent implementation compared with")
    size, out_size = (data.draw(st.tuples(*[st.integers(1, 6)] * n)) for _ in range(2))
    x = as_tensor(image((2, 2, *size), np.float64, seed, special), requires_grad=True)
    t = torch.from_numpy(x.array.copy()).requires_grad_()
    out, index = ADAPTIVE_MAX[n](x, out_size, return_indices=True)
    expected, places = getattr(torch.nn.functional, f"adaptive_max_pool{n}d")(t, out_size, return_indices=True)
    np.testing.assert_array_equal(out.detach(), expected.detach())
    np.testing.assert_array_equal(index, places)
    same_gradients(out, expected, x, t)
    if not special:
        x.grad = t.grad = None
        out = ADAPTIVE_AVG[n](x, out_size)
        expected = getattr(torch.nn.functional, f"adaptive_avg_pool{n}d")(t, out_size)
        np.testing.assert_allclose(out.detach(), expected.detach(), rtol=1e-12, atol=1e-12)
        same_gradients(out, expected, x, t)


@settings(max_examples=10, deadline=None)
@given(windows(dilated=True), st.integers(0, 99))
def test_derivatives_of_the_maximum_equal_finite_differences(config, seed):
    n, shape, params = config
    x = np.random.default_rng(seed).permutation(np.prod(shape)).reshape(shape) / 10  # no two are close
    assume(x.size < 60)
    gradcheck(lambda x: MAX[n](x, **params), x)
    gradgradcheck(lambda x: MAX[n](x, **params) ** 2, x, rtol=1e-4, atol=1e-6)


@settings(max_examples=10, deadline=None)
@given(windows(dilated=False), st.integers(0, 99))
def test_derivatives_of_the_mean_equal_finite_differences(config, seed):
    n, shape, params = config
    x = np.random.default_rng(seed).standard_normal(shape)
    assume(x.size < 60)
    gradcheck(lambda x: AVG[n](x, **params), x)
    gradgradcheck(lambda x: AVG[n](x, **params) ** 3, x, rtol=1e-4, atol=1e-6)


def test_derivatives_of_adaptive_and_global_pooling():
    x = np.random.default_rng(0).permutation(70).reshape(2, 1, 5, 7) / 10
    for f in (ops.adaptive_max_pool2d, ops.adaptive_avg_pool2d):
        gradcheck(lambda x, f=f: f(x, (2, 3)), x)
        gradgradcheck(lambda x, f=f: f(x, (2, 3)) ** 2, x, rtol=1e-4, atol=1e-6)
    for f, whole in ((ops.global_max_pool, np.max), (ops.global_avg_pool, np.mean)):
        gradcheck(f, x)
        np.testing.assert_allclose(f(x), whole(x, axis=(2, 3)))
        assert f(x, keepdims=True).shape == (2, 1, 1, 1)


def test_adaptive_size_none_keeps_the_axis():
    x = np.arange(24.0).reshape(1, 1, 4, 6)
    np.testing.assert_array_equal(ops.adaptive_max_pool2d(x, (None, 1)), x.max(3, keepdims=True))
    np.testing.assert_allclose(ops.adaptive_avg_pool2d(x, (1, None)), x.mean(2, keepdims=True))


def test_integers_have_a_maximum():
    x = np.array([[[-5, -7, -9, -3]]])
    np.testing.assert_array_equal(ops.max_pool1d(x, 3, 1, 1), [[[-5, -5, -3, -3]]])


def test_inputs_need_not_be_contiguous_and_are_not_written_to():
    x = np.random.default_rng(1).standard_normal((6, 9, 8, 2))[::2].transpose(0, 3, 1, 2)[:, :, ::-1]
    x.flags.writeable = False
    for f in (lambda x: ops.max_pool2d(x, 2), lambda x: ops.avg_pool2d(x, 3, 2, 1), lambda x: ops.max_pool2d(x, 1)):
        np.testing.assert_allclose(f(x), f(x.copy()), rtol=1e-12)
        assert not np.may_share_memory(f(x), x)


@pytest.mark.parametrize("n", [1, 2, 3])
def test_an_empty_batch_gives_an_empty_output(n):
    x = as_tensor(np.zeros((0, 2) + (5,) * n, np.float32), requires_grad=True)
    for f, m in ((lambda x: MAX[n](x, 2, ceil_mode=True), 3), (lambda x: AVG[n](x, 2), 2)):
        out = f(x)
        assert out.shape == (0, 2) + (m,) * n
        out.sum().backward()
        assert x.grad.shape == x.shape
    assert ADAPTIVE_MAX[n](x, 2).shape == ADAPTIVE_AVG[n](x, 2).shape == (0, 2) + (2,) * n


def test_errors_name_the_operation_and_what_was_expected():
    x = np.zeros((2, 3, 4, 4), np.float32)
    with pytest.raises(ValueError, match=r"max_pool2d: expected an input with 4 axes .* float32\[4, 4\]"):
        ops.max_pool2d(x[0, 0], 2)
    with pytest.raises(ValueError, match=r"max_pool2d: windows of size \(5, 5\) .* image of size \(4, 4\)"):
        ops.max_pool2d(x, 5)
    with pytest.raises(ValueError, match=r"avg_pool2d: padding \(2, 2\) is more than half of the window"):
        ops.avg_pool2d(x, 3, padding=2)
    with pytest.raises(ValueError, match=r"max_pool2d: kernel_size must be an int or 2 ints, each at least 1"):
        ops.max_pool2d(x, (2, 0))
    with pytest.raises(ValueError, match=r"max_pool2d: .* some windows .* meet no pixel of the image of size \(1, 1\)"):
        ops.max_pool2d(x[:, :, :1, :1], 2, 1, padding=1, dilation=2)
    with pytest.raises(ValueError, match=r"adaptive_avg_pool2d: output_size must be an int or 2 ints"):
        ops.adaptive_avg_pool2d(x, (1, 2, 3))
