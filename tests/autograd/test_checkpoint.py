"""checkpoint(): less memory for one more forward pass, and the same gradients."""

import weakref

import numpy as np
import pytest

import minidl
from minidl import as_tensor, no_grad, ops
from minidl.autograd import checkpoint, gradients

W = [0.5 * np.random.default_rng(i).normal(size=(4, 4)) for i in range(3)]
X = np.random.default_rng(9).normal(size=(2, 4))


class Block:
    """A few layers that count how often they run and remember what they made."""

    def __init__(self, p=0.0):
        self.weights = [as_tensor(w, requires_grad=True) for w in W]
        self.calls, self.p, self.made = 0, p, []

    def __call__(self, x):
        self.calls += 1
        for w in self.weights:
            x = (x @ w).tanh()
            if self.p:
                key, offset = minidl.random.default_generator().reserve(x.numel())
                x = ops.keyed_dropout(x, p=self.p, key=key, offset=offset)
            self.made.append(weakref.ref(x.array))
        return x

    def alive(self):
        return sum(r() is not None for r in self.made)


def run(wrap, p=0.0):
    minidl.manual_seed(3)
    block, x = Block(p), as_tensor(X, requires_grad=True)
    y = wrap(block, x)
    after = minidl.random.default_generator().get_state()
    (y * y).sum().backward()
    np.testing.assert_array_equal(minidl.random.default_generator().get_state(), after)
    return block, np.asarray(y.detach()), [x.grad, *(w.grad for w in block.weights)]


@pytest.mark.parametrize("p", [0.0, 0.5])
def test_same_value_and_gradients_with_one_more_forward_pass(p):
    plain, y, grads = run(lambda f, x: f(x), p)
    saved, y2, grads2 = run(checkpoint, p)
    assert plain.calls == 1 and saved.calls == 2
    np.testing.assert_array_equal(y, y2)
    for a, b in zip(grads, grads2, strict=True):
        np.testing.assert_array_equal(a, b)


def test_intermediate_values_are_not_kept():
    plain, saved = Block(), Block()
    x = as_tensor(X, requires_grad=True)
    a, b = plain(x), checkpoint(saved, x)
    assert plain.alive() == 3
    assert saved.alive() == 1  # the result
    (a + b).sum().backward()


def test_chained_and_nested():
    _, _, grads = run(lambda f, x: f(f(f(x))))
    _, _, chained = run(lambda f, x: checkpoint(f, checkpoint(f, checkpoint(f, x))))
    _, _, nested = run(lambda f, x: checkpoint(lambda a: f(checkpoint(f, f(a))), x))
    for a, b, c in zip(grads, chained, nested, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-13)
        np.testing.assert_allclose(a, c, rtol=1e-13)


def test_with_gradients_and_create_graph():
    def penalty(wrap):
        block, x = Block(), as_tensor(X, requires_grad=True)
        (g,) = gradients((wrap(block, x) ** 2).sum(), x, create_graph=True)
        (g * g).sum().backward()
        return [x.grad, *(w.grad for w in block.weights)]

    for a, b in zip(penalty(lambda f, x: f(x)), penalty(checkpoint), strict=True):
        np.testing.assert_allclose(np.asarray(a), np.asarray(b), rtol=1e-12)


def test_retain_graph_and_freeing():
    block, x = Block(), as_tensor(X, requires_grad=True)
    y = checkpoint(block, x).sum()
    y.backward(retain_graph=True)
    first = x.grad.numpy().copy()
    y.backward()
    np.testing.assert_allclose(x.grad, 2 * first)
    with pytest.raises(RuntimeError, match="second time"):
        y.backward()


def test_several_arguments_results_and_keywords():
    x, y = as_tensor(X, requires_grad=True), as_tensor(X.copy(), requires_grad=True)
    a, b = checkpoint(lambda x, y, scale: (x * y * scale, (x + y).exp()), x, y, scale=3.0)
    (a.sum() + b.sum()).backward()
    np.testing.assert_allclose(x.grad, 3 * X + np.exp(2 * X))
    np.testing.assert_allclose(y.grad, x.grad)


def test_without_recording_it_is_a_plain_call():
    block = Block()
    with no_grad():
        y = checkpoint(block, as_tensor(X))
    assert block.calls == 1 and not y.requires_grad


def test_a_function_that_does_something_else_the_second_time_is_refused():
    state = {"calls": 0}

    def moody(x):
        state["calls"] += 1
        return x.exp() if state["calls"] == 1 else x.sin()

    y = checkpoint(moody, as_tensor(X, requires_grad=True)).sum()
    with pytest.raises(RuntimeError, match="recorded other operations"):
        y.backward()


def test_an_argument_changed_in_place_before_the_second_run_is_refused():
    x = as_tensor(X, requires_grad=True)
    h = x * 1
    y = checkpoint(lambda a: a.exp().sin(), h).sum()
    with no_grad():
        h.zero_()
    with pytest.raises(RuntimeError, match="changed in place"):
        y.backward()
