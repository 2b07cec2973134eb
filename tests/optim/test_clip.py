"""Gradient clipping, against PyTorch's."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minidl import as_tensor, optim

SHAPES = [(3, 4), (), (5,), (0, 2)]


def tensors(dtype=np.float32, scale=1.0, seed=0):
    rng = np.random.default_rng(seed)
    params = [as_tensor(np.zeros(s, dtype), requires_grad=True) for s in SHAPES]
    for p in params:
        p.grad = as_tensor(np.asarray(scale * rng.normal(size=p.shape), dtype))
    return [*params, as_tensor(np.zeros(3, dtype), requires_grad=True)]  # the last has no gradient


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch", reason="clipping is compared with PyTorch's")


def torch_copies(torch, params):
    copies = [torch.tensor(p.array.copy(), requires_grad=True) for p in params]
    for q, p in zip(copies, params):
        q.grad = None if p.grad is None else torch.tensor(p.grad.array.copy())
    return copies


def assert_same_gradients(params, copies, rtol):
    for p, q in zip(params, copies):
        assert (p.grad is None) == (q.grad is None)
        if p.grad is not None:
            assert p.grad.dtype == p.dtype
            np.testing.assert_allclose(p.grad.array, q.grad.numpy(), rtol=rtol)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("norm_type", [2.0, 1.0, 3.5, float("inf")])
@pytest.mark.parametrize("max_norm", [0.1, 1.0, 1000.0])
def test_clip_norm(torch, dtype, norm_type, max_norm):
    params = tensors(dtype)[:3]  # PyTorch has no infinite norm of an empty tensor
    copies = torch_copies(torch, params)
    found = optim.clip_grad_norm_(params, max_norm, norm_type)
    expected = torch.nn.utils.clip_grad_norm_(copies, max_norm, norm_type)
    rtol = 1e-6 if dtype == np.float32 else 1e-13
    assert found.dtype == dtype
    np.testing.assert_allclose(found.item(), expected.item(), rtol=rtol)
    assert_same_gradients(params, copies, rtol)


def test_clip_value(torch):
    params = tensors()
    params[0].grad.array[0, 0] = np.nan
    copies = torch_copies(torch, params)
    optim.clip_grad_value_(params, 0.5)
    torch.nn.utils.clip_grad_value_(copies, 0.5)
    assert_same_gradients(params, copies, 0)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.floats(0.01, 100), st.sampled_from([1.0, 2.0, 4.0, float("inf")]))
def test_the_norm_afterwards_is_at_most_the_limit(seed, max_norm, norm_type):
    params = tensors(np.float64, scale=10.0, seed=seed)
    before = optim.clip_grad_norm_(params, max_norm, norm_type).item()
    flat = np.concatenate([p.grad.array.ravel() for p in params[:-1]])
    after = np.linalg.norm(flat, norm_type)
    assert after <= max_norm * (1 + 1e-12)
    np.testing.assert_allclose(after, min(before, max_norm * before / (before + 1e-6)), rtol=1e-12)


def test_no_gradients_and_single_tensors():
    p = as_tensor(np.zeros(2, np.float32), requires_grad=True)
    assert optim.clip_grad_norm_([p], 1.0).item() == 0
    assert optim.clip_grad_norm_((q for q in [p]), 1.0).item() == 0
    p.grad = as_tensor(np.array([3, 4], np.float32))
    assert optim.clip_grad_norm_(p, 1.0).item() == 5
    np.testing.assert_allclose(p.grad.array, [0.6, 0.8], rtol=1e-6)
    assert optim.get_total_norm([p.grad, p.grad]).item() == pytest.approx(np.sqrt(2), rel=1e-6)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_nonfinite(value):
    p = as_tensor(np.zeros(2), requires_grad=True)
    p.grad = as_tensor(np.array([1.0, value]))
    with pytest.raises(RuntimeError, match=f"is {value}"):
        optim.clip_grad_norm_([p], 1.0, error_if_nonfinite=True)
    np.testing.assert_array_equal(p.grad.array, [1.0, value])
    with np.errstate(invalid="ignore"):
        optim.clip_grad_norm_([p], 1.0)
    assert np.isnan(p.grad.array[1])


def test_bad_norm_type():
    with pytest.raises(ValueError, match="norm_type"):
        optim.clip_grad_norm_(tensors(), 1.0, norm_type=0)


def test_gradients_with_a_graph_are_replaced_not_overwritten():
    p = as_tensor(np.array([3.0, 4.0]), requires_grad=True)
    (p * p * p).sum().backward(create_graph=True)
    grad = p.grad
    before = grad.array.copy()
    optim.clip_grad_norm_([p], 1.0)
    assert p.grad is not grad
    np.testing.assert_array_equal(grad.array, before)


def test_read_only_and_shared_gradients():
    p, q = (as_tensor(np.zeros(4), requires_grad=True) for _ in range(2))
    p.grad = q.grad = as_tensor(np.broadcast_to(np.array(2.0), (4,)))
    assert optim.clip_grad_norm_([p, q], 1.0).item() == pytest.approx(np.sqrt(32))
    np.testing.assert_allclose(p.grad.array, 2 / np.sqrt(32), rtol=1e-6)
    shared = as_tensor(np.full(4, 2.0))
    p.grad = q.grad = shared
    optim.clip_grad_norm_([p, q], 1.0)
    np.testing.assert_allclose(shared.array, 2 / np.sqrt(32), rtol=1e-6)
