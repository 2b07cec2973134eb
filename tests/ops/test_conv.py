import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from minidl import ops
from minidl.core.tensor import as_tensor
from minidl.testing import gradcheck, gradgradcheck

CONV = {n: getattr(ops, f"conv{n}d") for n in (1, 2, 3)}
TRANSPOSE = {n: getattr(ops, f"conv_transpose{n}d") for n in (1, 2, 3)}


def ints(n, low, high):
    return st.tuples(*[st.integers(low, high)] * n)


@st.composite
def configurations(draw, transposed=False):
    """(n, shape of x, shape of weight, with bias?, parameters)"""
    n = draw(st.integers(1, 3))
    groups = draw(st.integers(1, 3))
    c, o = groups * draw(st.integers(1, 2)), groups * draw(st.integers(1, 2))
    size, kernel = draw(ints(n, 1, 7 if n < 3 else 4)), draw(ints(n, 1, 3))
    p = {name: draw(ints(n, *limits)) for name, limits in dict(stride=(1, 3), padding=(0, 2), dilation=(1, 2)).items()}
    if transposed:
        p["output_padding"] = tuple(
            draw(st.integers(0, max(s, d) - 1)) for s, d in zip(p["stride"], p["dilation"], strict=True)
        )
        out = [
            (m - 1) * s - 2 * q + d * (k - 1) + 1 + e
            for m, k, s, q, d, e in zip(size, kernel, *(p[x] for x in p), strict=True)
        ]
    else:
        out = [m + 2 * q - d * (k - 1) for m, k, s, q, d in zip(size, kernel, *(p[x] for x in p), strict=True)]
    assume(min(out) >= 1)
    batch = draw(st.integers(0 if not transposed else 1, 3))
    shape = (c, o // groups, *kernel) if transposed else (o, c // groups, *kernel)
    return n, (batch, c, *size), shape, (o,), draw(st.booleans()), dict(p, groups=groups)


def compare_with_torch(ours, theirs, arrays, params, dtype, tol):
    torch = pytest.importorskip("torch", reason="PyTorch is the independent implementation compared with")
    arrays = [a if a is None else a.astype(dtype) for a in arrays]
    xs = [None if a is None else as_tensor(a, requires_grad=True) for a in arrays]
    ts = [None if a is None else torch.from_numpy(a).requires_grad_() for a in arrays]
    out, expected = ours(*xs, **params), theirs(*ts, **params)
    assert out.dtype == dtype and out.shape == tuple(expected.shape)
    np.testing.assert_allclose(out.detach(), expected.detach(), rtol=tol, atol=tol)
    g = np.random.default_rng(7).standard_normal(out.shape).astype(dtype)
    out.backward(as_tensor(g))
    expected.backward(torch.from_numpy(g))
    for x, t in zip(xs, ts, strict=True):
        if x is not None:
            assert x.grad.dtype == dtype
            np.testing.assert_allclose(x.grad, t.grad, rtol=tol, atol=tol)


@settings(max_examples=40, deadline=None)
@given(configurations(), st.sampled_from([(np.float32, 1e-4), (np.float64, 1e-10)]), st.integers(0, 99))
def test_convolution_and_its_gradients_equal_pytorchs(config, dtype, seed):
    torch = pytest.importorskip("torch", reason="PyTorch is the independent implementation compared with")
    n, x_shape, w_shape, b_shape, with_bias, params = config
    rng = np.random.default_rng(seed)
    arrays = [rng.standard_normal(s) for s in (x_shape, w_shape, b_shape)]
    arrays[2] = arrays[2] if with_bias else None
    compare_with_torch(CONV[n], getattr(torch.nn.functional, f"conv{n}d"), arrays, params, *dtype)


@settings(max_examples=40, deadline=None)
@given(configurations(transposed=True), st.sampled_from([(np.float32, 1e-4), (np.float64, 1e-10)]), st.integers(0, 99))
def test_transposed_convolution_and_its_gradients_equal_pytorchs(config, dtype, seed):
    torch = pytest.importorskip("torch", reason="PyTorch is the independent implementation compared with")
    n, x_shape, w_shape, b_shape, with_bias, params = config
    rng = np.random.default_rng(seed)
    arrays = [rng.standard_normal(s) for s in (x_shape, w_shape, b_shape)]
    arrays[2] = arrays[2] if with_bias else None
    compare_with_torch(TRANSPOSE[n], getattr(torch.nn.functional, f"conv_transpose{n}d"), arrays, params, *dtype)


@settings(max_examples=12, deadline=None)
@given(configurations(), st.integers(0, 99))
def test_first_and_second_derivatives_equal_finite_differences(config, seed):
    n, x_shape, w_shape, b_shape, with_bias, params = config
    assume(0 < np.prod(x_shape) < 60 and np.prod(w_shape) < 40)
    rng = np.random.default_rng(seed)
    arrays = [rng.standard_normal(s) for s in (x_shape, w_shape, *((b_shape,) if with_bias else ()))]

    def f(*xs):
        return CONV[n](*xs, **params)

    gradcheck(f, *arrays)
    gradgradcheck(f, *arrays, rtol=1e-4, atol=1e-6)


def test_second_derivatives_of_the_transposed_convolution():
    rng = np.random.default_rng(0)
    x, w, b = rng.standard_normal((2, 2, 3, 2)), rng.standard_normal((2, 1, 2, 3)), rng.standard_normal(2)

    def f(x, w, b):
        return ops.conv_transpose2d(x, w, b, stride=2, padding=1, output_padding=(0, 1), groups=2) ** 2

    gradcheck(f, x, w, b)
    gradgradcheck(f, x, w, b, rtol=1e-4, atol=1e-6)


@pytest.mark.filterwarnings("ignore:Using padding='same':UserWarning")
@pytest.mark.parametrize("kernel", [(3, 3), (2, 4), (1, 5)])
@pytest.mark.parametrize("dilation", [1, 2])
def test_same_padding_equals_pytorchs(kernel, dilation):
    torch = pytest.importorskip("torch", reason="PyTorch is the independent implementation compared with")
    rng = np.random.default_rng(1)
    arrays = [rng.standard_normal((2, 3, 9, 8)), rng.standard_normal((4, 3, *kernel)), rng.standard_normal(4)]
    params = dict(padding="same", dilation=dilation)
    compare_with_torch(ops.conv2d, torch.nn.functional.conv2d, arrays, params, np.float64, 1e-10)


def test_inputs_need_not_be_contiguous_and_are_not_written_to():
    rng = np.random.default_rng(3)
    x = rng.standard_normal((8, 9, 4, 3))[::2].transpose(0, 3, 1, 2)[:, :, ::-1]
    w = rng.standard_normal((3, 3, 3, 5)).transpose(3, 2, 0, 1)
    x.flags.writeable = w.flags.writeable = False
    for padding in (0, 1):
        out = ops.conv2d(x, w, padding=padding)
        np.testing.assert_allclose(out, ops.conv2d(x.copy(), w.copy(), padding=padding), rtol=1e-12)
        assert out.flags.c_contiguous
    one = ops.conv2d(x, w[:, :, :1, :1])
    np.testing.assert_allclose(one, np.einsum("nchw,oc->nohw", x, w[:, :, 0, 0]), rtol=1e-10)


@pytest.mark.parametrize("n", [1, 2, 3])
def test_an_empty_batch_gives_an_empty_output_and_zero_weight_gradient(n):
    x = as_tensor(np.zeros((0, 2) + (4,) * n, np.float32), requires_grad=True)
    w = as_tensor(np.ones((3, 2) + (3,) * n, np.float32), requires_grad=True)
    out = CONV[n](x, w, padding=1)
    assert out.shape == (0, 3) + (4,) * n
    out.sum().backward()
    assert x.grad.shape == x.shape and not np.asarray(w.grad).any()
    assert TRANSPOSE[n](out.detach(), w).shape == (0, 2) + (6,) * n


def test_the_primitives_run_on_jax_arrays():
    jnp = pytest.importorskip("jax.numpy", reason="JAX is an optional backend")
    from minidl.backend import load

    backend = load("jax")
    rng = np.random.default_rng(4)
    x, w = rng.standard_normal((2, 4, 5, 6), np.float32), rng.standard_normal((4, 2, 3, 2), np.float32)
    params = dict(stride=(2, 1), padding=(1, 0), dilation=(1, 2), groups=2)
    out = ops.conv2d(x, w, **params)
    got = ops.conv2d(jnp.asarray(x), jnp.asarray(w), **params)
    assert isinstance(got, backend.array_type)
    np.testing.assert_allclose(got, out, rtol=1e-5, atol=1e-5)
    for prim, a, more in (
        (ops.conv2d_input_grad, w, dict(input_size=(5, 6))),
        (ops.conv2d_weight_grad, x, dict(kernel_size=(3, 2))),
    ):
        expected = prim(out, a, **more, **params)
        np.testing.assert_allclose(prim(got, jnp.asarray(a), **more, **params), expected, rtol=1e-4, atol=1e-4)


def test_errors_name_the_operation_and_the_shapes():
    x, w = np.zeros((2, 3, 8, 8), np.float32), np.zeros((4, 5, 3, 3), np.float32)
    with pytest.raises(ValueError, match=r"conv2d: the input float32\[2, 3, 8, 8\] has 3 channels.*\[4, 5, 3, 3\]"):
        ops.conv2d(x, w)
    with pytest.raises(ValueError, match=r"conv_transpose2d: the input .* has 3 channels.* takes 4"):
        ops.conv_transpose2d(x, w)
    with pytest.raises(ValueError, match=r"conv2d: expected an input with 4 axes .* float32\[8, 8\]"):
        ops.conv2d(x[0, 0], w)
    with pytest.raises(ValueError, match=r"conv2d: expected a bias of shape \(4,\)"):
        ops.conv2d(x, w[:, :3], np.zeros(3, np.float32))
    with pytest.raises(ValueError, match="conv2d: groups=3 does not divide"):
        ops.conv2d(x, w, groups=3)
    with pytest.raises(ValueError, match="conv2d: stride must be an int or 2 ints"):
        ops.conv2d(x, w[:, :3], stride=(1, 1, 1))
    with pytest.raises(ValueError, match=r"conv2d: padding must be .* at least 0; got"):
        ops.conv2d(x, w[:, :3], padding=-1)
    with pytest.raises(ValueError, match="padding='same' needs stride 1"):
        ops.conv2d(x, w[:, :3], padding="same", stride=2)
    with pytest.raises(ValueError, match=r"conv2d: a kernel of size \(3, 3\) with dilation \(4, 4\) does not fit"):
        ops.conv2d(x, w[:, :3], dilation=4)
    with pytest.raises(ValueError, match="output_padding"):
        ops.conv_transpose2d(x, w[:3], output_padding=1)
