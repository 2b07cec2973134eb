"""Indexing against NumPy: basic, advanced and mixed, read and write; gather, scatter, take, one-hot."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from minidl import as_tensor, no_grad, ops
from minidl.testing import gradcheck

torch = pytest.importorskip("torch", reason="gather and scatter are compared with PyTorch's")


def numbers(shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def read_and_write(x, index):
    """x[index] and its gradient; an assignment to it and its gradients. By NumPy's own indexing."""
    t = as_tensor(x, requires_grad=True)
    y = t[index]
    expected = x[index]
    np.testing.assert_array_equal(y.detach(), expected)
    g = numbers(expected.shape, 1)
    y.backward(as_tensor(np.asarray(g)))
    gradient = np.zeros_like(x)
    np.add.at(gradient, index, g)
    np.testing.assert_allclose(t.grad, gradient)


@given(x=hnp.array_shapes(min_dims=1, max_dims=3, min_side=1, max_side=4).map(numbers), data=st.data())
def test_basic_indices(x, data):
    read_and_write(x, data.draw(hnp.basic_indices(x.shape, allow_newaxis=True)))


@given(x=hnp.array_shapes(min_dims=1, max_dims=3, min_side=1, max_side=4).map(numbers), data=st.data())
def test_integer_array_indices(x, data):
    read_and_write(x, data.draw(hnp.integer_array_indices(x.shape)))


@given(x=hnp.array_shapes(min_dims=1, max_dims=3, min_side=0, max_side=4).map(numbers), seed=st.integers(0, 99))
def test_boolean_masks(x, seed):
    rng = np.random.default_rng(seed)
    read_and_write(x, rng.random(x.shape) < 0.5)
    read_and_write(x, rng.random(x.shape[:1]) < 0.5)


@pytest.mark.parametrize(
    "index",
    [
        (slice(None), [0, 2, 2]),
        ([1, 0], slice(None), [3, 3]),
        (..., [0, -1]),
        (None, [1, 1], None, slice(1, 3)),
        (np.array([[0], [1]]), np.array([[0, 2]])),
        (0, slice(None), [1, 2]),
        (np.array([True, False]), slice(None), 0),
        [],
        (range(2), 1),
    ],
)
def test_mixed_indices(index):
    x = numbers((2, 3, 4))
    fixed = np.array(index, np.int64) if index == [] else index
    fixed = tuple(list(i) if isinstance(i, range) else i for i in fixed) if isinstance(fixed, tuple) else fixed
    t = as_tensor(x, requires_grad=True)
    np.testing.assert_array_equal(t[index].detach(), x[fixed])
    read_and_write(x, fixed)


def test_tensors_as_indices():
    x = numbers((3, 4))
    t = as_tensor(x, requires_grad=True)
    np.testing.assert_array_equal(t[as_tensor([2, 0])].detach(), x[[2, 0]])
    np.testing.assert_array_equal(t[t > 0].detach(), x[x > 0])
    np.testing.assert_array_equal(t[as_tensor(1), as_tensor([0, 1])].detach(), x[1, [0, 1]])
    with pytest.raises(IndexError, match=r"integer or bool.*float64"):
        t[as_tensor(np.array([0.5]))]
    with pytest.raises(IndexError, match=r"\(3, 4\)"):
        t[:, :, 0]
    with pytest.raises(IndexError, match=r"out of bounds.*\(3, 4\)"):
        t[[0, 3]]


@given(x=hnp.array_shapes(min_dims=1, max_dims=3, min_side=1, max_side=4).map(numbers), data=st.data())
def test_assignment(x, data):
    index = data.draw(hnp.basic_indices(x.shape))
    value = numbers(x[index].shape, 5)
    base, v = as_tensor(x, requires_grad=True), as_tensor(np.asarray(value), requires_grad=True)
    out = ops.setitem(base, v, index)
    expected = x.copy()
    expected[index] = value
    np.testing.assert_array_equal(out.detach(), expected)
    np.testing.assert_array_equal(base.detach(), x)
    g = numbers(x.shape, 1)
    out.backward(as_tensor(g))
    np.testing.assert_array_equal(v.grad, g[index])
    rest = g.copy()
    rest[index] = 0
    np.testing.assert_array_equal(base.grad, rest)


def test_assignment_in_place_without_recording():
    x = as_tensor(np.zeros((2, 3)))
    x[0] = 1
    x[:, 2] = as_tensor([5, 6])
    x[x == 1] = -1.0
    np.testing.assert_array_equal(x, [[-1, -1, 5], [0, 0, 6]])
    w = as_tensor(np.zeros(3), requires_grad=True)
    with no_grad():
        w[1:] = 2.0
    assert w.tolist() == [0, 2, 2] and w.requires_grad
    with pytest.raises(ValueError):
        x[0] = np.ones(4)


@given(data=st.data())
def test_gather_is_pytorchs(data):
    shape = data.draw(hnp.array_shapes(min_dims=1, max_dims=3, min_side=1, max_side=4))
    axis = data.draw(st.integers(-len(shape), len(shape) - 1))
    index_shape = [data.draw(st.integers(0, n)) for n in shape]
    index_shape[axis] = data.draw(st.integers(0, 5))
    x, index = numbers(shape), np.random.default_rng(1).integers(0, shape[axis], index_shape)
    a, b = as_tensor(x, requires_grad=True), torch.tensor(x, requires_grad=True)
    y, z = ops.gather(a, index, axis=axis), torch.gather(b, axis, torch.tensor(index))
    np.testing.assert_array_equal(y.detach(), z.detach().numpy())
    y.sum().backward()
    z.sum().backward()
    np.testing.assert_array_equal(a.grad, b.grad.numpy())


def test_gather_refuses_what_does_not_fit():
    x = as_tensor(numbers((2, 3)))
    with pytest.raises(ValueError, match=r"gather.*1 axes"):
        ops.gather(x, np.array([0]), axis=0)
    with pytest.raises(TypeError, match=r"gather.*integer"):
        ops.gather(x, np.ones((2, 3)), axis=0)
    with pytest.raises(IndexError):
        ops.gather(x, np.full((2, 3), 5), axis=1)


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_scatter_is_pytorchs(axis):
    x, source = numbers((3, 4)), numbers((3, 4), 1)
    index = np.argsort(numbers((3, 4), 2), axis=axis)
    a, b = as_tensor(x, requires_grad=True), as_tensor(source, requires_grad=True)
    c, d = torch.tensor(x, requires_grad=True), torch.tensor(source, requires_grad=True)
    y, z = ops.scatter(a, axis, as_tensor(index), b), torch.scatter(c, axis, torch.tensor(index), d)
    np.testing.assert_array_equal(y.detach(), z.detach().numpy())
    (y * y).sum().backward()
    (z * z).sum().backward()
    np.testing.assert_allclose(a.grad, c.grad.numpy())
    np.testing.assert_allclose(b.grad, d.grad.numpy())


@given(data=st.data())
def test_take(data):
    shape = data.draw(hnp.array_shapes(min_dims=1, max_dims=3, min_side=1, max_side=4))
    axis = data.draw(st.integers(-len(shape), len(shape) - 1))
    index_shape = data.draw(hnp.array_shapes(min_dims=0, max_dims=2, min_side=0, max_side=3))
    index = np.random.default_rng(3).integers(-shape[axis], shape[axis], index_shape)
    x = numbers(shape)
    np.testing.assert_array_equal(ops.take(as_tensor(x), index, axis=axis), np.take(x, index, axis=axis))
    assert gradcheck(lambda t: ops.take(t, index, axis=axis), x)


def test_take_grad_adds_up_repeated_indices():
    x = numbers((4, 2))
    out = ops.take_grad(as_tensor(x), np.array([1, 1, 0, 1]), axis=0, size=3)
    np.testing.assert_allclose(out, [x[2], x[0] + x[1] + x[3], [0, 0]])


def test_one_hot():
    index = np.array([[0, 2], [1, 1]])
    hot = ops.one_hot(as_tensor(index), num_classes=3)
    assert hot.dtype == np.int64
    np.testing.assert_array_equal(hot, np.eye(3)[index])
    assert ops.one_hot(np.zeros((0,), np.int64), num_classes=3).shape == (0, 3)
    for bad in ([3], [-1]):
        with pytest.raises(ValueError, match="one_hot"):
            ops.one_hot(np.array(bad), num_classes=3)


@given(x=hnp.array_shapes(min_dims=1, max_dims=3, min_side=0, max_side=3).map(numbers))
def test_nonzero(x):
    x = np.where(x > 0, x, 0)
    np.testing.assert_array_equal(ops.nonzero(as_tensor(x)), torch.nonzero(torch.tensor(x)).numpy())
