import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from minidl import ops
from minidl.core.tensor import as_tensor
from minidl.testing import gradcheck, gradgradcheck

torch = pytest.importorskip("torch", reason="PyTorch is the independent implementation compared with")
F = torch.nn.functional

# In float32 a large eps: where all values are nearly the same, a small one would amplify rounding errors 300-fold.
DTYPES = st.sampled_from([(np.float32, 2e-4, 1e-2), (np.float64, 1e-8, 1e-5)])


def arrays(seed, dtype, *shapes, offset=0.0):
    rng = np.random.default_rng(seed)
    return [None if s is None else (offset + rng.standard_normal(s)).astype(dtype) for s in shapes]


def compare(ours, theirs, values, dtype, tol, _=None):
    """Forward and gradients of ours(*Tensors) and theirs(*torch tensors)."""
    xs = [None if v is None else as_tensor(v, requires_grad=True) for v in values]
    ts = [None if v is None else torch.from_numpy(v.copy()).requires_grad_() for v in values]
    out, expected = ours(*xs), theirs(*ts)
    assert out.dtype == dtype and out.shape == tuple(expected.shape)
    np.testing.assert_allclose(out.detach(), expected.detach(), rtol=tol, atol=tol)
    g = np.random.default_rng(7).standard_normal(out.shape).astype(dtype)
    out.backward(as_tensor(g))
    expected.backward(torch.from_numpy(g))
    for x, t in zip(xs, ts, strict=True):
        if x is not None:
            assert x.grad.dtype == dtype and x.grad.shape == x.shape
            np.testing.assert_allclose(x.grad, t.grad, rtol=tol, atol=tol)


@st.composite
def images(draw):
    """((N, C, *size), with weight?, with bias?) with at least two values per channel in a sample"""
    shape = draw(st.tuples(st.integers(1, 4), st.integers(1, 4), *[st.integers(1, 4)] * draw(st.integers(1, 3))))
    assume(math.prod(shape[2:]) > 1)
    return shape, draw(st.booleans()), draw(st.booleans())


@settings(max_examples=40, deadline=None)
@given(images(), DTYPES, st.integers(0, 99))
def test_batch_norm_equals_pytorchs(config, dtype, seed):
    shape, with_weight, with_bias = config
    c = (shape[1],)
    values = arrays(seed, dtype[0], shape, c if with_weight else None, c if with_bias else None, offset=1.0)
    compare(
        lambda x, w, b: ops.batch_norm(x, w, b)[0],
        lambda x, w, b: F.batch_norm(x, None, None, w, b, True),
        values,
        *dtype,
    )
    _, mean, var = ops.batch_norm(*values)
    axes = (0, *range(2, len(shape)))
    assert mean.dtype == var.dtype == dtype[0]
    np.testing.assert_allclose(mean, values[0].mean(axes), rtol=dtype[1], atol=dtype[1])
    np.testing.assert_allclose(var, values[0].var(axes), rtol=dtype[1], atol=dtype[1])


@settings(max_examples=20, deadline=None)
@given(images(), DTYPES, st.integers(0, 99))
def test_batch_norm_with_given_statistics_equals_pytorchs(config, dtype, seed):
    shape, with_weight, with_bias = config
    c = (shape[1],)
    x, mean, var, *affine = arrays(seed, dtype[0], shape, c, c, c if with_weight else None, c if with_bias else None)
    var = np.abs(var)
    compare(
        lambda x, w, b: ops.batch_norm_inference(x, mean, var, w, b, eps=dtype[2]),
        lambda x, w, b: F.batch_norm(x, torch.from_numpy(mean), torch.from_numpy(var), w, b, False, eps=dtype[2]),
        [x, *affine],
        *dtype,
    )


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(1, 5), min_size=1, max_size=4), st.data(), DTYPES, st.integers(0, 99))
def test_layer_and_rms_norm_equal_pytorchs(shape, data, dtype, seed):
    last = tuple(shape[data.draw(st.integers(0, len(shape) - 1)) :])
    assume(math.prod(last) > 1)
    with_weight, with_bias = data.draw(st.booleans()), data.draw(st.booleans())
    x, w, b = arrays(seed, dtype[0], shape, last if with_weight else None, last if with_bias else None)
    compare(
        lambda x, w, b: ops.layer_norm(x, last, w, b, dtype[2]),
        lambda x, w, b: F.layer_norm(x, last, w, b, dtype[2]),
        [x, w, b],
        *dtype,
    )
    for eps in (None, dtype[2]) if dtype[0] is np.float64 else (dtype[2],):

        def theirs(x, w, eps=eps):
            return F.rms_norm(x, last, w, eps)

        compare(lambda x, w, eps=eps: ops.rms_norm(x, last, w, eps), theirs, [x, w], *dtype)


@settings(max_examples=40, deadline=None)
@given(images(), st.integers(1, 3), DTYPES, st.integers(0, 99))
def test_group_and_instance_norm_equal_pytorchs(config, groups, dtype, seed):
    shape, with_weight, with_bias = config
    shape = (shape[0], shape[1] * groups, *shape[2:])
    c = (shape[1],)
    values = arrays(seed, dtype[0], shape, c if with_weight else None, c if with_bias else None)

    def theirs(x, w, b):  # PyTorch's backward fails with a bias but no weight
        return F.group_norm(x, groups, torch.ones(c, dtype=x.dtype) if w is None and b is not None else w, b, dtype[2])

    compare(lambda x, w, b: ops.group_norm(x, groups, w, b, dtype[2]), theirs, values, *dtype)
    compare(
        lambda x, w, b: ops.instance_norm(x, w, b, dtype[2]),
        lambda x, w, b: F.instance_norm(x, weight=w, bias=b, eps=dtype[2]),
        values,
        *dtype,
    )


@pytest.mark.parametrize("p", [1, 2, 3])
def test_normalize_equals_pytorchs(p):
    (x,) = arrays(0, np.float64, (3, 4, 2))
    x[0] = 0
    compare(lambda x: ops.normalize(x, p=p), lambda x: F.normalize(x, p=p), [x], np.float64, 1e-10)


FUNCTIONS = {
    "batch_norm": (lambda x, w, b: ops.batch_norm(x, w, b, eps=1e-2), (3, 2, 2, 2), (2,), (2,)),
    "batch_norm_inference": (
        lambda x, w, b: ops.batch_norm_inference(x, np.array([0.3, -0.2]), np.array([2.0, 0.5]), w, b),
        (3, 2, 2), (2,), (2,),
    ),
    "layer_norm": (lambda x, w, b: ops.layer_norm(x, (3, 2), w, b, eps=1e-2), (2, 3, 2), (3, 2), (3, 2)),
    "group_norm": (lambda x, w, b: ops.group_norm(x, 2, w, b, eps=1e-2), (2, 4, 3), (4,), (4,)),
    "instance_norm": (lambda x, w, b: ops.instance_norm(x, w, b, eps=1e-2), (2, 2, 4), (2,), (2,)),
    "rms_norm": (lambda x, w: ops.rms_norm(x, (3, 2), w, eps=1e-2), (2, 3, 2), (3, 2)),
    "normalize": (lambda x: ops.normalize(x, axis=-1), (3, 4)),
}  # fmt: skip


@pytest.mark.parametrize("name", FUNCTIONS)
def test_first_and_second_derivatives_equal_finite_differences(name):
    f, *shapes = FUNCTIONS[name]
    values = arrays(3, np.float64, *shapes)
    gradcheck(f, *values)
    gradcheck(lambda x: f(x, *values[1:]), values[0])
    gradgradcheck(f, *values, rtol=1e-4, atol=1e-6)


def test_first_and_second_derivatives_without_weight_and_bias():
    (x,) = arrays(4, np.float64, (2, 4, 3))
    for f in (
        lambda x: ops.batch_norm(x),
        lambda x: ops.layer_norm(x, 3),
        lambda x: ops.group_norm(x, 2),
        lambda x: ops.rms_norm(x, 3),
    ):
        gradcheck(f, x)
        gradgradcheck(f, x, rtol=1e-4, atol=1e-6)


def test_a_large_mean_does_not_drown_the_variance():
    x = (1000 + np.random.default_rng(5).standard_normal((16, 3, 8, 8))).astype(np.float32)
    expected = (x - x.mean((0, 2, 3), dtype=np.float64, keepdims=True)) / x.std(
        (0, 2, 3), dtype=np.float64, keepdims=True
    )
    np.testing.assert_allclose(ops.batch_norm(x)[0], expected, atol=1e-3)
    y = ops.layer_norm(x, (8, 8))
    np.testing.assert_allclose(y.mean((2, 3)), 0, atol=1e-3)
    np.testing.assert_allclose(y.std((2, 3)), 1, atol=1e-3)


def test_half_precision_sums_do_not_overflow():
    x = np.full((2, 1024), 30, np.float16)
    x[:, ::2] = -30
    for y in (ops.layer_norm(x, 1024), ops.rms_norm(x, 1024)):
        assert y.dtype == np.float16
        np.testing.assert_allclose(np.abs(y), 1, rtol=1e-3)


def test_inputs_need_not_be_contiguous_and_are_not_written_to():
    x = np.random.default_rng(6).standard_normal((6, 5, 4, 4))[::2].transpose(0, 3, 1, 2)
    g = np.random.default_rng(7).standard_normal(x.shape[::-1]).transpose(3, 2, 1, 0)
    w = np.linspace(1, 2, 4)
    x.flags.writeable = g.flags.writeable = w.flags.writeable = False
    for f in (
        lambda x: ops.batch_norm(x, w, w)[0],
        lambda x: ops.layer_norm(x, 4, w, w),
        lambda x: ops.group_norm(x, 2, w, w),
        lambda x: ops.rms_norm(x, 4, w),
    ):
        grads = []
        for a, b in ((x, g), (x.copy(), g.copy())):
            t = as_tensor(a, requires_grad=True)
            y = f(t)
            y.backward(as_tensor(b))
            grads.append((y.detach(), t.grad))
        for a, b in zip(*grads, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12)


def test_an_empty_batch_gives_an_empty_output():
    x, w = (
        as_tensor(np.zeros((0, 4, 3), np.float32), requires_grad=True),
        as_tensor(np.ones(4, np.float32), requires_grad=True),
    )
    for f in (lambda: ops.group_norm(x, 2, w, w), lambda: ops.layer_norm(x, 3), lambda: ops.rms_norm(x, (4, 3))):
        y = f()
        assert y.shape == x.shape
        y.sum().backward()
        assert x.grad.shape == x.shape
    assert not np.asarray(w.grad).any()


def test_errors_name_the_operation_and_the_shapes():
    x = np.zeros((2, 6, 4), np.float32)
    with pytest.raises(ValueError, match=r"batch_norm: expected a weight of shape \(6,\).* got float32\[4\]"):
        ops.batch_norm(x, x[0, 0])
    with pytest.raises(ValueError, match=r"batch_norm: expected at least 2 values per channel.*float32\[1, 6, 1\]"):
        ops.batch_norm(x[:1, :, :1])
    with pytest.raises(ValueError, match=r"layer_norm: expected an input whose last axes have shape \(5,\)"):
        ops.layer_norm(x, 5)
    with pytest.raises(ValueError, match=r"layer_norm: expected a bias of shape \(4,\)"):
        ops.layer_norm(x, 4, None, x[0])
    with pytest.raises(ValueError, match=r"group_norm: 6 channels of float32\[2, 6, 4\] do not split into 4 groups"):
        ops.group_norm(x, 4)
    with pytest.raises(ValueError, match=r"instance_norm: expected at least 2 pixels"):
        ops.instance_norm(x[:, :, :1])
    with pytest.raises(ValueError, match=r"rms_norm: expected a weight of shape \(4,\)"):
        ops.rms_norm(x, 4, x[0])
