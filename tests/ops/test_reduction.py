"""Reductions against NumPy and PyTorch: any shape and axes, keepdims, nothing to reduce, NaN and infinities, ties."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import minidl
from minidl import as_tensor, ops

torch = pytest.importorskip("torch", reason="values and gradients are compared with PyTorch's")

TORCH = {
    "sum": torch.sum, "mean": torch.mean, "amax": torch.amax, "amin": torch.amin, "logsumexp": torch.logsumexp,
    "std": torch.std, "var": torch.var, "prod": None,
}  # fmt: skip


@st.composite
def reductions(draw, min_side=1):
    """(values, axis or axes or None, keepdims)."""
    shape = draw(hnp.array_shapes(min_dims=1, max_dims=3, min_side=min_side, max_side=4))
    axes = st.integers(-len(shape), len(shape) - 1)
    axis = draw(st.one_of(st.none(), axes, st.lists(axes, min_size=1, max_size=2, unique_by=lambda a: a % len(shape))))
    x = np.random.default_rng(draw(st.integers(0, 9999))).normal(size=shape)
    return x, tuple(axis) if isinstance(axis, list) else axis, draw(st.booleans())


def theirs(name, x, axis, keepdims):
    """PyTorch's result, whose functions have different ideas of "all axes"."""
    if name == "prod":
        axes = range(x.ndim) if axis is None else axis if isinstance(axis, tuple) else (axis,)
        for a in sorted((a % x.ndim for a in axes), reverse=True):
            x = torch.prod(x, dim=a, keepdim=keepdims)
        return x
    return TORCH[name](x, dim=tuple(range(x.ndim)) if axis is None else axis, keepdim=keepdims)


def agree(name, x, axis, keepdims, rtol=1e-9):
    a, b = as_tensor(x, requires_grad=True), torch.tensor(x, requires_grad=True)
    with np.errstate(all="ignore"):
        y = getattr(ops, name)(a, axis=axis, keepdims=keepdims)
        z = theirs(name, b, axis, keepdims)
    assert y.shape == tuple(z.shape)
    np.testing.assert_allclose(np.asarray(y.detach()), z.detach().numpy(), rtol=rtol, atol=1e-12)
    g = np.random.default_rng(0).normal(size=y.shape)
    y.backward(as_tensor(g))
    z.backward(torch.tensor(g))
    np.testing.assert_allclose(np.asarray(a.grad), b.grad.numpy(), rtol=rtol, atol=1e-12)


@pytest.mark.parametrize("name", TORCH)
@given(case=reductions(min_side=2))
def test_values_and_gradients(name, case):
    agree(name, *case)


@pytest.mark.parametrize("name", ["sum", "prod", "mean", "var", "logsumexp"])
@pytest.mark.parametrize(("shape", "axis"), [((0, 3), 0), ((2, 0), 1), ((0,), None), ((0, 3), 1), ((2, 0, 3), (0, 1))])
def test_over_nothing(name, shape, axis):
    with np.errstate(all="ignore"):
        agree(name, np.zeros(shape), axis, False)


@pytest.mark.parametrize("name", ["amax", "amin", "argmax"])
def test_no_largest_of_nothing(name):
    with pytest.raises(ValueError):
        getattr(ops, name)(as_tensor(np.zeros((2, 0))), axis=1)
    assert getattr(ops, name)(as_tensor(np.zeros((0, 2))), axis=1).shape == (0,)


@pytest.mark.parametrize("name", ["amax", "amin"])
def test_ties_share_the_gradient(name):
    agree(name, np.array([[1.0, 3.0, 3.0], [2.0, 2.0, 2.0], [1.0, 2.0, 1.0]]), 1, False)
    agree(name, np.ones((2, 3)), None, True)


@pytest.mark.parametrize("name", ["sum", "mean", "amax", "amin", "logsumexp", "prod"])
def test_nan_wins(name):
    x = np.array([[1.0, np.nan, 2.0], [1.0, 2.0, 3.0]])
    y = np.asarray(getattr(ops, name)(x, axis=1))
    assert np.isnan(y[0]) and not np.isnan(y[1])


def test_logsumexp_neither_overflows_nor_loses_infinities():
    x = np.array([[1000.0, 1000.0], [-np.inf, 0.0], [-np.inf, -np.inf], [np.inf, 0.0], [-1000.0, -1001.0]])
    expected = torch.logsumexp(torch.tensor(x), 1).numpy()
    np.testing.assert_allclose(ops.logsumexp(x, axis=1), expected, rtol=1e-12)
    t = as_tensor(x[:3], requires_grad=True)
    ops.logsumexp(t, axis=1).backward(as_tensor(np.ones(3)))
    np.testing.assert_allclose(t.grad, [[0.5, 0.5], [0, 1], [0, 0]])


@pytest.mark.parametrize("correction", [0, 1, 2, 0.5])
def test_variance_corrections(correction):
    x = np.random.default_rng(0).normal(size=(3, 4))
    a, b = as_tensor(x, requires_grad=True), torch.tensor(x, requires_grad=True)
    y, z = ops.var(a, axis=1, correction=correction), torch.var(b, dim=1, correction=correction)
    np.testing.assert_allclose(np.asarray(y.detach()), z.detach().numpy())
    y.sum().backward()
    z.sum().backward()
    np.testing.assert_allclose(a.grad, b.grad.numpy())
    np.testing.assert_allclose(ops.std(x, axis=0, correction=0), x.std(axis=0))


def test_variance_of_one_number_is_not_known():
    x = as_tensor([[5.0]], requires_grad=True)
    y = ops.var(x, axis=1)
    assert np.isnan(y.item())
    y.sum().backward()
    assert np.isnan(x.grad.item())


def test_variance_does_not_cancel():
    x = np.array([1e4, 1e4 + 1, 1e4 + 2], np.float32)
    assert ops.var(x) == np.float32(1)


@given(case=reductions())
def test_products_with_zeros(case):
    x, axis, keepdims = case
    agree("prod", np.where(np.abs(x) < 0.6, 0.0, x), axis, keepdims)


@given(case=reductions(), descending=st.booleans())
def test_sorting(case, descending):
    x, axis, _ = case
    axis = axis if isinstance(axis, int) else -1
    a, b = as_tensor(x, requires_grad=True), torch.tensor(x, requires_grad=True)
    (values, order), (tv, ti) = ops.sort(a, axis=axis, descending=descending), torch.sort(b, axis, descending)
    np.testing.assert_array_equal(order, ti.numpy())
    np.testing.assert_array_equal(values.detach(), tv.detach().numpy())
    g = np.random.default_rng(0).normal(size=x.shape)
    values.backward(as_tensor(g))
    tv.backward(torch.tensor(g))
    np.testing.assert_array_equal(a.grad, b.grad.numpy())


@pytest.mark.parametrize("descending", [False, True])
@pytest.mark.parametrize("x", [np.array([3, 1, 255, 1, 0], np.uint8), np.array([True, False, True]),
                               np.array([1.0, np.nan, -np.inf, np.inf, 1.0]), np.array([], np.float32)])  # fmt: skip
def test_sorting_every_dtype_keeps_the_order_of_equals(x, descending):
    order = np.asarray(ops.argsort(x, descending=descending))
    expected = torch.sort(torch.tensor(x), descending=descending, stable=True)
    np.testing.assert_array_equal(order, expected.indices.numpy())


@given(case=reductions(), k=st.integers(0, 4), largest=st.booleans())
def test_topk(case, k, largest):
    x, _, _ = case
    k = min(k, x.shape[-1])
    a, b = as_tensor(x, requires_grad=True), torch.tensor(x, requires_grad=True)
    (values, order), (tv, ti) = ops.topk(a, k, largest=largest), torch.topk(b, k, largest=largest)
    np.testing.assert_array_equal(values.detach(), tv.detach().numpy())
    np.testing.assert_array_equal(order, ti.numpy())
    values.sum().backward()
    tv.sum().backward()
    np.testing.assert_array_equal(a.grad, b.grad.numpy())


@given(case=reductions())
def test_cumsum(case):
    x, axis, _ = case
    axis = axis if isinstance(axis, int) else 0
    a, b = as_tensor(x, requires_grad=True), torch.tensor(x, requires_grad=True)
    y, z = ops.cumsum(a, axis=axis), torch.cumsum(b, axis)
    np.testing.assert_allclose(np.asarray(y.detach()), z.detach().numpy())
    (y * y).sum().backward()
    (z * z).sum().backward()
    np.testing.assert_allclose(a.grad, b.grad.numpy())


@given(case=reductions())
def test_arg_any_all_count(case):
    x, axis, keepdims = case
    x = np.round(2 * x)
    one = axis if isinstance(axis, int) else None
    for name in ("argmax", "argmin"):
        np.testing.assert_array_equal(
            getattr(ops, name)(as_tensor(x), axis=one, keepdims=keepdims),
            getattr(np, name)(x, axis=one, keepdims=keepdims),
        )
    for name in ("any", "all"):
        np.testing.assert_array_equal(
            getattr(ops, name)(as_tensor(x), axis=axis, keepdims=keepdims),
            getattr(np, name)(x, axis=axis, keepdims=keepdims),
        )
    np.testing.assert_array_equal(ops.count_nonzero(as_tensor(x), axis=axis), np.count_nonzero(x, axis=axis))


@given(case=reductions())
def test_average(case):
    x, axis, _ = case
    w = np.abs(x) + 0.1
    np.testing.assert_allclose(ops.average(as_tensor(x), w, axis=axis), np.average(x, weights=w, axis=axis))


@pytest.mark.parametrize("name", ["sum", "mean", "amax", "var", "logsumexp", "any", "argmax"])
def test_an_axis_out_of_range_is_refused(name):
    with pytest.raises(ValueError, match="axis 2 is out of bounds"):
        getattr(ops, name)(as_tensor(np.ones((2, 3))), axis=2)


def test_dtypes():
    for dtype in (np.float16, np.float32, np.float64):
        x = np.ones((2, 3), dtype)
        for name in ("sum", "mean", "amax", "prod", "var", "std", "logsumexp", "cumsum"):
            axis = {"axis": 0}
            assert getattr(ops, name)(as_tensor(x), **axis).dtype == dtype
    assert ops.sum(as_tensor([True, True])).item() == 2
    assert ops.mean(as_tensor([1, 2])).dtype == np.float32
    assert ops.argmax(as_tensor([1.0])).dtype == np.int64


def test_the_mean_of_many_half_precision_numbers():
    x = np.full(100_000, 3.0, np.float16)
    assert ops.mean(x) == np.float16(3)
    t = as_tensor(np.ones((70_000,), np.float16), requires_grad=True)
    t.mean().backward()
    assert np.isfinite(np.asarray(t.grad)).all()


@pytest.mark.parametrize("captured", [False, True])
@pytest.mark.parametrize("backend", ["numpy", "numba", "jax"])
def test_nan_wins_on_every_backend(backend, captured):
    """Also in long rows and many columns, where libraries compare several numbers at once."""
    x = np.random.default_rng(0).normal(size=(1000, 64)).astype(np.float32)
    x[::7, :3] = np.nan
    largest = {
        "amax": (lambda t: ops.amax(t, axis=0), x.max(0)),
        "amin": (lambda t: ops.amin(t, axis=0), x.min(0)),
        "amax of rows": (lambda t: ops.amax(t, axis=1), x.max(1)),
        "norm": (lambda t: ops.norm(t, ord=np.inf, axis=0), abs(x).max(0)),
        "max_pool2d": (lambda t: ops.max_pool2d(t.reshape(1, 1000, 8, 8), 2), None),
        "global_max_pool": (lambda t: ops.global_max_pool(t.reshape(1, 1000, 8, 8)), x.max(1)[None]),
    }
    largest["max_pool2d"] = (largest["max_pool2d"][0], x.reshape(1, 1000, 4, 2, 4, 2).max((3, 5)))
    with minidl.use_backend(backend):
        t = as_tensor(x, device=backend)
        for name, (function, expected) in largest.items():
            found = minidl.jit(function)(t) if captured else function(t)
            np.testing.assert_array_equal(found.numpy(), expected, err_msg=name)
