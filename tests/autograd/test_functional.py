"""grad, value_and_grad, vjp, jvp, jacobian, hessian against torch.func; gradients()."""

import numpy as np
import pytest

import minidl
from minidl import Tensor, as_tensor, ops
from minidl.autograd import grad, gradients, hessian, jacobian, jvp, value_and_grad, vjp

torch = pytest.importorskip("torch", reason="torch.func is the judge of these functions")

X = np.random.default_rng(0).normal(size=(2, 3))
W = np.random.default_rng(1).normal(size=(3, 2))


def f(x, w):
    return ((x @ w).tanh() ** 2).sum()


def vector(x, w):
    return (x @ w).tanh()


def tt(*arrays):
    return tuple(torch.tensor(a) for a in arrays)


def agree(ours, theirs):
    ours = ours if isinstance(ours, tuple) else (ours,)
    theirs = theirs if isinstance(theirs, tuple) else (theirs,)
    for a, b in zip(ours, theirs, strict=True):
        assert isinstance(a, Tensor)
        np.testing.assert_allclose(np.asarray(a.detach()), b.detach().numpy(), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("argnums", [0, 1, (0, 1), (1,)])
def test_grad(argnums):
    agree(grad(f, argnums)(X, W), torch.func.grad(f, argnums)(*tt(X, W)))


def test_value_and_grad():
    (value, g), (g2, value2) = value_and_grad(f)(X, W), torch.func.grad_and_value(f)(*tt(X, W))
    agree((value, g), (value2, g2))
    assert not value.requires_grad and not g.requires_grad


def test_grad_leaves_its_arguments_alone():
    x = as_tensor(X, requires_grad=True)
    grad(f)(x.detach(), as_tensor(W))
    assert x.grad is None and x.is_leaf


def test_grad_inside_no_grad():
    with minidl.no_grad():
        agree(grad(f)(X, W), torch.func.grad(f)(*tt(X, W)))


def test_grad_of_an_unused_argument_is_zero():
    agree(grad(lambda x, y: (x * x).sum(), 1)(X, W), torch.zeros(3, 2, dtype=torch.float64))


def test_grad_needs_a_scalar():
    with pytest.raises(ValueError, match=r"value_and_grad: .* one output element, got shape \(2, 2\)"):
        grad(vector)(X, W)


def test_grad_of_grad_of_grad():
    def g(x):
        return x**4

    d = g
    for expected in (4 * 2.0**3, 12 * 2.0**2, 24 * 2.0, 24.0):
        d = grad(d)
        assert d(2.0).item() == expected


def test_nested_grad_of_different_arguments():
    def outer(x):
        inner = grad(lambda y: (x * y * y).sum())(as_tensor(np.full(3, 2.0)))
        return (inner * x).sum()  # sum(4 x^2)

    np.testing.assert_allclose(grad(outer)(as_tensor(np.arange(3.0))), 8 * np.arange(3.0))


def test_vjp():
    v = np.random.default_rng(2).normal(size=(2, 2))
    out, pull = vjp(vector, X, W)
    out2, pull2 = torch.func.vjp(vector, *tt(X, W))
    agree(out, out2)
    agree(pull(v), pull2(torch.tensor(v)))
    agree(pull(2 * v), pull2(2 * torch.tensor(v)))  # again


def test_vjp_of_several_outputs():
    def two(x):
        return x.sum(axis=0), (x * x).sum(axis=1)

    def two_t(x):
        return x.sum(dim=0), (x * x).sum(dim=1)

    _, pull = vjp(two, X)
    _, pull2 = torch.func.vjp(two_t, torch.tensor(X))
    agree(pull(np.ones(3), np.arange(2.0)), pull2((torch.ones(3).double(), torch.arange(2.0).double())))


def test_jvp():
    dx, dw = (np.random.default_rng(i).normal(size=a.shape) for i, a in enumerate((X, W)))
    agree(jvp(vector, (X, W), (dx, dw)), torch.func.jvp(vector, tt(X, W), tt(dx, dw)))
    _, tangent = jvp(lambda x: as_tensor(np.ones(2)), (X,), (dx,))
    np.testing.assert_array_equal(tangent, np.zeros(2))


def test_jvp_checks_the_tangents():
    with pytest.raises(ValueError):
        jvp(vector, (X, W), (X,))


def test_jvp_of_a_linear_function():
    dx = np.ones_like(X)
    _, tangent = jvp(lambda x: x * 3, (X,), (dx,))
    np.testing.assert_array_equal(tangent, np.full((2, 3), 3.0))


def test_jacobian():
    agree(jacobian(lambda x: vector(x, as_tensor(W)), X), torch.func.jacrev(vector)(*tt(X, W)))
    assert jacobian(lambda x: x[:0], X).shape == (0, 3, 2, 3)
    np.testing.assert_array_equal(jacobian(lambda x: as_tensor(np.ones(2)), X), np.zeros((2, 2, 3)))


def test_hessian():
    agree(hessian(lambda x: f(x, as_tensor(W)), X), torch.func.hessian(f)(*tt(X, W)))
    np.testing.assert_array_equal(hessian(lambda x: x.sum(), X), np.zeros((2, 3, 2, 3)))
    with pytest.raises(ValueError, match=r"hessian: expected a function with one output element, got shape \(2, 3\)"):
        hessian(lambda x: x * x, X)


def test_functions_that_cannot_be_differentiated():
    for op, call in {
        "value_and_grad": lambda: grad(lambda x: 3.0)(X),
        "vjp": lambda: vjp(lambda x: (x, 3.0), X),
        "jvp": lambda: jvp(lambda x: (x, x), (X,), (X,)),
        "jacobian": lambda: jacobian(lambda x: None, X),
        "hessian": lambda: hessian(lambda x: 1, X),
    }.items():
        with pytest.raises(TypeError, match=f"{op}: expected a function that returns a Tensor, got a"):
            call()


def test_hessian_vector_product():
    v = np.random.default_rng(3).normal(size=X.shape)
    _, hv = jvp(grad(lambda x: f(x, as_tensor(W))), (X,), (v,))
    _, expected = torch.func.jvp(torch.func.grad(lambda x: f(x, torch.tensor(W))), tt(X), tt(v))
    agree(hv, expected)


def test_gradients_do_not_touch_grad():
    x, w = as_tensor(X, requires_grad=True), as_tensor(W, requires_grad=True)
    gx, gw = gradients(f(x, w), [x, w])
    assert x.grad is None and w.grad is None
    tx, tw = (t.requires_grad_() for t in tt(X, W))
    agree((gx, gw), torch.autograd.grad(f(tx, tw), [tx, tw]))


def test_gradients_for_inner_tensors_and_for_a_leaf_behind_them():
    x = as_tensor(X, requires_grad=True)
    y = x * 2
    z = y.exp()
    gy, gx, gz = gradients(z.sum(), [y, x, z])
    np.testing.assert_allclose(gy, np.exp(2 * X))
    np.testing.assert_allclose(gx, 2 * np.exp(2 * X))
    np.testing.assert_array_equal(gz, np.ones((2, 3)))


def test_gradients_of_several_outputs():
    x = as_tensor(X, requires_grad=True)
    (g,) = gradients([x.sum(), x * 2], x, [None, as_tensor(np.full((2, 3), 5.0))])
    np.testing.assert_array_equal(g, np.full((2, 3), 11.0))


def test_unused_inputs():
    x, w = as_tensor(X, requires_grad=True), as_tensor(W, requires_grad=True)
    with pytest.raises(RuntimeError, match=r"input 1 of shape \(3, 2\) was not used.*allow_unused"):
        gradients(x.sum(), [x, w])
    assert gradients(x.sum(), [x, w], allow_unused=True)[1] is None
    with pytest.raises(RuntimeError, match="was not used"):
        gradients(as_tensor(X).sum(), x)


def test_gradients_free_the_graph_unless_told_otherwise():
    x = as_tensor(X, requires_grad=True)
    y = (x * x).sum()
    gradients(y, x, retain_graph=True)
    gradients(y, x)
    with pytest.raises(RuntimeError, match="second time"):
        gradients(y, x)


def test_gradient_penalty():
    """The gradient of a function of a gradient, as a WGAN-GP trains on it."""
    x, w = as_tensor(X, requires_grad=True), as_tensor(W, requires_grad=True)
    (gx,) = gradients(f(x, w), x, create_graph=True)
    ((gx**2).sum() ** 0.5).backward()
    tx, tw = (t.requires_grad_() for t in tt(X, W))
    (tg,) = torch.autograd.grad(f(tx, tw), tx, create_graph=True)
    ((tg**2).sum() ** 0.5).backward()
    agree(w.grad, tw.grad)
    agree(x.grad, tx.grad)


def test_second_derivatives_of_what_networks_are_made_of():
    rng = np.random.default_rng(0)
    w1, w2 = rng.normal(size=(4, 3)), rng.normal(size=(2, 4))
    target = np.array([0, 1])

    def loss(x):
        h = ops.gelu(ops.linear(x, as_tensor(w1)))
        h = ops.layer_norm(h, 4)
        return ops.cross_entropy(ops.linear(h, as_tensor(w2)), target)

    def loss_t(x):
        h = torch.nn.functional.gelu(torch.nn.functional.linear(x, torch.tensor(w1)))
        h = torch.nn.functional.layer_norm(h, (4,))
        return torch.nn.functional.cross_entropy(torch.nn.functional.linear(h, torch.tensor(w2)), torch.tensor(target))

    np.testing.assert_allclose(
        hessian(loss, X), torch.func.hessian(loss_t)(torch.tensor(X)).numpy(), rtol=1e-7, atol=1e-9
    )


def test_derivatives_of_a_model_train_its_parameters():
    """A closure over parameters stays connected to them, as in a physics-informed loss."""
    w, tw = as_tensor(W, requires_grad=True), torch.tensor(W, requires_grad=True)

    value, g = value_and_grad(lambda x: f(x, w))(X)
    h = hessian(lambda x: f(x, w), X)
    _, tangent = jvp(lambda x: vector(x, w), (X,), (np.ones_like(X),))
    _, pull = vjp(lambda x: vector(x, w), X)
    loss = (
        value + (g**2).sum() + ops.trace(h.reshape(6, 6)) + (tangent**2).sum() + (pull(np.ones((2, 2)))[0] ** 2).sum()
    )
    loss.backward()

    tx = torch.tensor(X)
    tg, tvalue = torch.func.grad_and_value(lambda x: f(x, tw))(tx)
    th = torch.func.hessian(lambda x: f(x, tw))(tx)
    _, ttangent = torch.func.jvp(lambda x: vector(x, tw), (tx,), (torch.ones_like(tx),))
    _, tpull = torch.func.vjp(lambda x: vector(x, tw), tx)
    tloss = tvalue + (tg**2).sum() + torch.trace(th.reshape(6, 6)) + (ttangent**2).sum()
    (tloss + (tpull(torch.ones(2, 2).double())[0] ** 2).sum()).backward()
    agree(loss, tloss + (tpull(torch.ones(2, 2).double())[0] ** 2).sum())
    agree(w.grad, tw.grad)


def test_under_no_grad_nothing_is_recorded_for_others():
    w = as_tensor(W, requires_grad=True)
    with minidl.no_grad():
        assert not grad(lambda x: f(x, w))(X).requires_grad
        assert not hessian(lambda x: f(x, w), X).requires_grad
    assert grad(lambda x: f(x, w))(X).requires_grad
    assert w.grad is None


@pytest.mark.parametrize(
    "transform", [grad, lambda g: lambda x: jacobian(g, x), lambda g: lambda x: vjp(g, x)[1](1.0)[0]]
)
def test_every_pair_of_transforms_nests(transform):
    def g(x):
        return (x**3).sum() * x.sum()

    def tg(x):
        return (x**3).sum() * x.sum()

    inner = transform(g)
    outer = jacobian(inner, X)
    agree(outer, torch.func.hessian(tg)(torch.tensor(X)))
    _, tangent = jvp(inner, (X,), (np.ones_like(X),))
    np.testing.assert_allclose(tangent, np.asarray(outer).sum(axis=(2, 3)), rtol=1e-10)
