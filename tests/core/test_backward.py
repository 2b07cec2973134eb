"""backward(): accumulation, retain_graph, create_graph, retain_grad, hooks, depth, errors."""

import gc
import sys
import threading
import weakref

import numpy as np
import pytest

import minidl
from minidl import as_tensor, enable_grad, no_grad, ops
from minidl.autograd import AnomalyError, detect_anomaly, gradients, is_grad_enabled


def leaf(*shape, seed=0):
    return as_tensor(np.random.default_rng(seed).normal(size=shape), requires_grad=True)


def test_chain_rule_by_hand():
    x = as_tensor([1.0, 2.0, 3.0], requires_grad=True)
    y = (x * x).sum() * 3
    y.backward()
    np.testing.assert_array_equal(x.grad, [6, 12, 18])
    assert x.grad.dtype == np.float32
    assert not x.grad.requires_grad


def test_a_graph_100_000_nodes_deep():
    x = leaf(2)
    y = x
    for _ in range(100_000):
        y = y * 1.0
    assert sys.getrecursionlimit() < 100_000
    y.sum().backward()
    np.testing.assert_array_equal(x.grad, [1, 1])


def test_deleting_a_deep_graph_does_not_crash():
    x = leaf(2)
    y = x
    for _ in range(100_000):
        y = y + 1.0
    node = weakref.ref(y.grad_fn)
    del y
    gc.collect()
    assert node() is None


def test_a_diamond_of_60_levels_is_linear_work():
    x = leaf(1)
    y = x
    for _ in range(60):  # 2**60 paths
        y = y + y
    y.sum().backward()
    np.testing.assert_array_equal(x.grad, [2.0**60])


def test_a_leaf_used_twice_and_a_second_backward_accumulate():
    x = leaf(3)
    (x * 2 + x * 3).sum().backward()
    np.testing.assert_array_equal(x.grad, np.full(3, 5.0))
    held = x.grad
    (x * 1).sum().backward()
    np.testing.assert_array_equal(x.grad, np.full(3, 6.0))
    assert held is x.grad  # in place, as in PyTorch
    x.grad = None
    (x * 1).sum().backward()
    np.testing.assert_array_equal(held, np.full(3, 6.0))


@pytest.mark.parametrize("create_graph", [False, True])
def test_gradients_of_two_leaves_do_not_share_memory(create_graph):
    x, y, start = leaf(3), leaf(3, seed=1), as_tensor(np.ones(3))
    (x + y).backward(start, create_graph=create_graph)
    assert not np.shares_memory(x.grad.array, y.grad.array)
    assert not np.shares_memory(x.grad.array, start.array)
    if not create_graph:
        x.grad.zero_()
        np.testing.assert_array_equal(y.grad, np.ones(3))


def test_a_reshaped_gradient_does_not_share_memory_either():
    x, start = leaf(2, 3), as_tensor(np.ones(6))
    x.reshape(6).backward(start)
    assert not np.shares_memory(x.grad.array, start.array)


def test_gradient_argument():
    x = leaf(2, 2)
    with pytest.raises(RuntimeError, match=r"gradient argument is needed.*\(2, 2\)"):
        (x * 2).backward()
    with pytest.raises(ValueError, match=r"shape \(2,\), expected \(2, 2\)"):
        (x * 2).backward(np.ones(2))
    (x * 2).backward(np.ones((2, 2), np.float32))
    assert x.grad.dtype == np.float64
    with pytest.raises(RuntimeError, match="does not require a gradient"):
        as_tensor([1.0]).backward()


def test_freed_graph_is_refused_and_retain_graph_keeps_it():
    x = leaf(3)
    y = (x * x).sum()
    y.backward()
    with pytest.raises(RuntimeError, match=r"second time.*retain_graph=True"):
        y.backward()
    x.grad = None
    y = (x * x).sum()
    y.backward(retain_graph=True)
    y.backward()
    np.testing.assert_allclose(x.grad, 4 * x.array)


def test_backward_frees_what_was_kept():
    x = leaf(1000)
    y = x.exp()
    kept = weakref.ref(y.array)
    z = (y * y).sum()
    del y
    assert kept() is not None
    z.backward()
    assert kept() is None


def test_create_graph_gives_second_derivatives():
    x = leaf(3)
    y = (x**3).sum()
    y.backward(create_graph=True)
    first = x.grad
    assert first.requires_grad
    np.testing.assert_allclose(first.detach(), 3 * x.array**2)
    x.grad = None
    first.sum().backward()
    np.testing.assert_allclose(x.grad.detach(), 6 * x.array)


def test_retain_grad_on_inner_tensors():
    x = leaf(3)
    y = x * 2
    z = y * y
    assert y.retain_grad() is y
    z.sum().backward()
    np.testing.assert_allclose(y.grad, 2 * y.array)
    assert z.grad is None
    x.grad = None
    with pytest.raises(RuntimeError, match="does not require a gradient"):
        as_tensor([1.0]).retain_grad()


def test_retain_grad_of_one_of_several_outputs():
    x = leaf(3, 3)
    q, r = ops.qr(x)
    r.retain_grad()
    (q.sum() + (r * 2).sum()).backward()
    np.testing.assert_array_equal(r.grad, np.full((3, 3), 2.0))


def test_hook_on_a_leaf_sees_the_whole_gradient_once():
    x = leaf(3)
    seen = []
    handle = x.register_hook(lambda g: seen.append(np.asarray(g)))
    (x * 2 + x * 3).sum().backward()
    assert len(seen) == 1
    np.testing.assert_array_equal(seen[0], np.full(3, 5.0))
    handle.remove()
    (x * 2).sum().backward()
    assert len(seen) == 1
    y = x * 2
    with y.register_hook(lambda g: g * 10):
        y.sum().backward(retain_graph=True)
    y.sum().backward()
    np.testing.assert_array_equal(x.grad, np.full(3, 5.0 + 2 + 20 + 2))


def test_hook_replaces_the_gradient():
    x = leaf(3)
    x.register_hook(lambda g: g * 10)
    y = x * 2
    y.register_hook(lambda g: g + 1)
    y.sum().backward()
    np.testing.assert_array_equal(x.grad, np.full(3, 40.0))
    with pytest.raises(RuntimeError, match="does not require a gradient"):
        as_tensor([1.0]).register_hook(print)


def test_hooks_apply_to_gradients_and_run_only_where_needed():
    x, other = leaf(3), leaf(3, seed=1)
    calls = []
    x.register_hook(lambda g: g * 10)
    other.register_hook(lambda g: calls.append(1))
    (g,) = gradients((x * other).sum(), x)
    np.testing.assert_allclose(g, 10 * other.array)
    assert not calls
    assert x.grad is None


def test_no_grad_and_enable_grad():
    x = leaf(3)
    with no_grad():
        assert not is_grad_enabled()
        y = x * 2
        with enable_grad():
            z = x * 2
        assert not is_grad_enabled()
    assert is_grad_enabled()
    assert not y.requires_grad and y.is_leaf
    assert z.requires_grad

    @no_grad()
    def bare(a):
        return a * 2

    @no_grad
    def without_parentheses(a):
        return a * 2

    class Model:
        @no_grad()
        def method(self, a):
            return a * 2

        @no_grad
        def other(self, a):
            return a * 2

    for f in (bare, without_parentheses, Model().method, Model().other):
        assert not f(x).requires_grad
    assert without_parentheses.__name__ == "without_parentheses"
    with pytest.raises(ZeroDivisionError), no_grad():
        raise ZeroDivisionError
    assert is_grad_enabled()


def test_recording_mode_belongs_to_the_thread():
    x, results = leaf(3), {}

    def work():
        results["enabled"] = is_grad_enabled()
        y = (x.detach().requires_grad_() ** 2).sum()
        y.backward()
        results["done"] = True

    with no_grad():
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    assert results == {"enabled": True, "done": True}


def test_threads_share_parameters():
    w = leaf(50, 50)
    results = [None] * 4

    def work(i):
        x = np.random.default_rng(i).normal(size=(5, 50))
        results[i] = np.asarray(gradients((as_tensor(x) @ w).tanh().sum(), w)[0])

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    for i, r in enumerate(results):
        x = np.random.default_rng(i).normal(size=(5, 50))
        np.testing.assert_allclose(r, x.T @ (1 - np.tanh(x @ w.array) ** 2))


def test_detach_cuts_the_graph_and_shares_memory():
    x = leaf(3)
    d = (x * 2).detach()
    assert not d.requires_grad and d.is_leaf
    y = x * 2
    assert np.shares_memory(y.detach().array, y.array)
    (y * y.detach()).sum().backward()
    np.testing.assert_allclose(x.grad, 4 * x.array)


def test_integer_results_do_not_require_gradients():
    x = leaf(3)
    assert not x.argmax().requires_grad
    assert not (x > 0).requires_grad
    assert not x.long().requires_grad
    with pytest.raises(TypeError, match="only floating-point"):
        as_tensor([1, 2], requires_grad=True)


def test_requires_grad_of_results_cannot_be_taken_away():
    x = leaf(3)
    with pytest.raises(RuntimeError, match="detach"):
        (x * 2).requires_grad_(False)
    assert not x.requires_grad_(False).requires_grad


def test_gradient_dtype_is_that_of_the_leaf():
    w = as_tensor(np.ones(3, np.float32), requires_grad=True)
    x = as_tensor(np.ones(3), requires_grad=True)
    (w * x).sum().backward()
    assert w.grad.dtype == np.float32
    assert x.grad.dtype == np.float64


def test_broadcasting_sums_gradients():
    x, b = leaf(4, 3), leaf(3, seed=1)
    (x + b).sum().backward()
    np.testing.assert_array_equal(b.grad, np.full(3, 4.0))
    assert x.grad.shape == (4, 3)


def test_anomaly_mode_names_the_forward_line():
    x = as_tensor([-1.0, 1.0], requires_grad=True)
    with detect_anomaly():
        with pytest.raises(AnomalyError, match=r"log\(float32\[2\]\) made a NaN at .*test_backward.py:\d+"):
            ops.log(x)
        with pytest.raises(AnomalyError, match="passed on a NaN"):
            as_tensor(np.array([np.nan])) * 2
        zero = as_tensor([0.0], requires_grad=True)
        y = (ops.sqrt(zero) * 0.0).sum()  # 0 * inf on the way back
        with pytest.raises(AnomalyError, match=r"gradient of sqrt.*test_backward.py:\d+"):
            y.backward()
    ops.log(x)  # and outside nothing is checked


def test_unknown_forward_line_is_said_to_be_unknown():
    zero = as_tensor([0.0], requires_grad=True)
    y = (ops.sqrt(zero) * 0.0).sum()
    with detect_anomaly(), pytest.raises(AnomalyError, match="unknown line"):
        y.backward()


def test_an_input_used_twice_in_one_call_and_shared_inside_a_composite():
    """Second derivatives of a fused primitive whose inputs are one tensor, or made from one another."""

    def attend(x):
        return (ops.scaled_dot_product_attention(x, x * 2, x) ** 2).sum()

    def by_hand(x):
        p = ops.softmax(x @ ops.mT(x * 2) * (1 / np.sqrt(2)))
        return ((p @ x) ** 2).sum()

    x = np.random.default_rng(0).normal(size=(1, 3, 2))
    np.testing.assert_allclose(minidl.hessian(attend, x), minidl.hessian(by_hand, x), rtol=1e-8, atol=1e-10)


def test_backward_inside_a_hook_and_in_no_grad():
    x = leaf(3)
    y = (x * x).sum()
    with no_grad():
        y.backward()
    np.testing.assert_allclose(x.grad, 2 * x.array)
