"""Activations and softmax against PyTorch and finite differences."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from minidl import as_tensor, ops
from minidl.testing import gradcheck, gradgradcheck

torch = pytest.importorskip("torch", reason="these tests compare with PyTorch")
F = torch.nn.functional

# name: (ours, PyTorch's, points where the derivative jumps)
CASES = {
    "relu": (ops.relu, F.relu, [0]),
    "leaky_relu": (ops.leaky_relu, F.leaky_relu, [0]),
    "leaky_relu_0.3": (lambda x: ops.leaky_relu(x, negative_slope=0.3), lambda x: F.leaky_relu(x, 0.3), [0]),
    "leaky_relu_2": (lambda x: ops.leaky_relu(x, negative_slope=2.0), lambda x: F.leaky_relu(x, 2.0), [0]),
    "elu": (ops.elu, F.elu, []),
    "elu_0.5": (lambda x: ops.elu(x, alpha=0.5), lambda x: F.elu(x, 0.5), [0]),
    "selu": (ops.selu, F.selu, [0]),
    "gelu": (ops.gelu, F.gelu, []),
    "gelu_tanh": (lambda x: ops.gelu(x, approximate="tanh"), lambda x: F.gelu(x, approximate="tanh"), []),
    "silu": (ops.silu, F.silu, []),
    "softplus": (ops.softplus, F.softplus, []),
    "softplus_2": (lambda x: ops.softplus(x, beta=2.0, threshold=3.0), lambda x: F.softplus(x, 2.0, 3.0), [1.5]),
    "logsigmoid": (ops.logsigmoid, F.logsigmoid, []),
    "mish": (ops.mish, F.mish, []),
    "sigmoid": (ops.sigmoid, torch.sigmoid, []),
    "tanh": (ops.tanh, torch.tanh, []),
    "hardswish": (ops.hardswish, F.hardswish, [-3, 3]),
    "hardsigmoid": (ops.hardsigmoid, F.hardsigmoid, [-3, 3]),
    "hardtanh": (ops.hardtanh, F.hardtanh, [-1, 1]),
    "hardtanh_2": (lambda x: ops.hardtanh(x, min_val=-0.5, max_val=2.0), lambda x: F.hardtanh(x, -0.5, 2.0), [-0.5, 2]),
    "relu6": (ops.relu6, F.relu6, [0, 6]),
    "softsign": (ops.softsign, F.softsign, []),
    "glu": (ops.glu, F.glu, []),
    "glu_0": (lambda x: ops.glu(x, axis=0), lambda x: F.glu(x, 0), []),
    "softmax": (ops.softmax, lambda x: F.softmax(x, -1), []),
    "softmax_0": (lambda x: ops.softmax(x, axis=0), lambda x: F.softmax(x, 0), []),
    "log_softmax": (ops.log_softmax, lambda x: F.log_softmax(x, -1), []),
    "log_softmax_0": (lambda x: ops.log_softmax(x, axis=0), lambda x: F.log_softmax(x, 0), []),
    "softmin": (ops.softmin, lambda x: F.softmin(x, -1), []),
}
ELEMENTWISE = [n for n in CASES if "glu" not in n and "softm" not in n and "log_soft" not in n]
every = pytest.mark.parametrize("name", CASES)


def away_from(x, kinks):
    """Move the elements of ``x`` off the points where finite differences are meaningless."""
    for k in kinks:
        x = np.where(np.abs(x - k) < 1e-3, x + 0.01, x)
    return x


def sample(name, shape, dtype=np.float64, seed=0):
    x = np.random.default_rng(seed).normal(scale=3, size=shape)
    return away_from(x, CASES[name][2]).astype(dtype)


def compare(name, x, rtol, atol):
    ours, theirs, _ = CASES[name]
    a, b = as_tensor(x, requires_grad=True), torch.tensor(np.array(x), requires_grad=True)
    ya, yb = ours(a), theirs(b)
    assert ya.dtype == x.dtype and ya.shape == tuple(yb.shape)
    np.testing.assert_allclose(ya.detach().numpy(), yb.detach().numpy(), rtol=rtol, atol=atol)
    g = np.random.default_rng(9).normal(size=ya.shape).astype(x.dtype)
    ya.backward(g)
    yb.backward(torch.tensor(g))
    assert a.grad.dtype == x.dtype
    if name == "hardsigmoid":
        rtol = max(rtol, 1e-7)  # PyTorch multiplies by a float32 1/6 even in float64
    np.testing.assert_allclose(a.grad.numpy(), b.grad.numpy(), rtol=rtol, atol=atol)


@every
def test_equals_pytorch_in_float64(name):
    compare(name, sample(name, (4, 6)), 1e-12, 1e-13)


@every
def test_equals_pytorch_in_float32(name):
    compare(name, sample(name, (4, 6), np.float32), 2e-5, 1e-6)


@every
def test_non_contiguous_input(name):
    compare(name, sample(name, (6, 8, 3)).transpose(2, 1, 0)[:, ::2, ::-1][:2], 1e-12, 1e-13)


@every
def test_gradient_against_finite_differences(name):
    gradcheck(CASES[name][0], sample(name, (2, 4)))


@every
def test_second_derivative_against_finite_differences(name):
    gradgradcheck(CASES[name][0], sample(name, (2, 4), seed=1))


@every
@settings(max_examples=8, deadline=None)
@given(shape=hnp.array_shapes(min_dims=2, max_dims=4, max_side=4), seed=st.integers(0, 2**32 - 1))
def test_any_shape(name, shape, seed):
    if "glu" in name:
        shape = (2 * shape[0], *shape[1:-1], 2 * shape[-1])
    compare(name, sample(name, shape, seed=seed), 1e-9, 1e-12)


@every
def test_no_elements(name):
    for shape in [(0, 4), (2, 0)]:
        x = as_tensor(np.zeros(shape, np.float32), requires_grad=True)
        y = CASES[name][0](x)
        y.sum().backward()
        assert x.grad.shape == shape and y.dtype == np.float32


@every
def test_nan_is_passed_on(name):
    x = sample(name, (4, 6))
    x[1, 2] = np.nan
    y = CASES[name][0](as_tensor(x))
    assert np.isnan(y.numpy()).any()
    assert np.isfinite(y.numpy()).any()


@every
@pytest.mark.parametrize("size", [1e4, 1e30])
def test_large_values(name, size, recwarn):
    ours, theirs, _ = CASES[name]
    x = np.array([[-size, size, 0, 1], [size, -size, 1, -size], [1, 2, 3, 4], [4, 0, -1, size]], np.float32)
    a, b = as_tensor(x, requires_grad=True), torch.tensor(x, requires_grad=True)
    ya, yb = ours(a), theirs(b)
    np.testing.assert_allclose(ya.detach().numpy(), yb.detach().numpy(), rtol=1e-5, atol=1e-6)
    assert not recwarn.list
    if name == "gelu_tanh" and size > 1e10:
        return  # PyTorch's own gradient is NaN here
    ya.sum().backward()
    yb.sum().backward()
    np.testing.assert_allclose(a.grad.numpy(), b.grad.numpy(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ELEMENTWISE)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_infinities(name, dtype):
    ours, theirs, _ = CASES[name]
    x = np.array([np.inf, -np.inf], dtype)
    if name == "gelu":  # PyTorch says NaN for +inf in float32 only
        assert ops.gelu(as_tensor(x)).numpy()[0] == np.inf
        return
    np.testing.assert_array_equal(ours(as_tensor(x)).numpy(), theirs(torch.tensor(x)).numpy())


def test_softmax_with_infinities():
    x = np.array([[0.0, -np.inf, 1.0], [-np.inf, -np.inf, -np.inf], [np.inf, 0.0, 0.0]])
    for ours, theirs in [(ops.softmax, F.softmax), (ops.log_softmax, F.log_softmax)]:
        np.testing.assert_allclose(ours(as_tensor(x)).numpy(), theirs(torch.tensor(x), -1).numpy(), rtol=1e-15)


def test_softmax_masked_entries_get_no_gradient():
    for f in (ops.softmax, ops.log_softmax):
        x = as_tensor([[0.5, -np.inf, 1.0]], requires_grad=True)
        f(x)[0, 0].backward()
        assert x.grad[0, 1].item() == 0
        assert np.isfinite(x.grad.numpy()).all()


def test_softmax_of_a_very_long_row_sums_to_one():
    x = np.random.default_rng(0).normal(size=(2, 100_000)).astype(np.float32)
    np.testing.assert_allclose(ops.softmax(as_tensor(x)).numpy().sum(-1, dtype=np.float64), 1, rtol=1e-5)


@pytest.mark.parametrize("name", ["sigmoid", "softmax", "gelu", "silu"])
def test_integers_become_floats(name):
    y = CASES[name][0](as_tensor(np.array([[1, 2]])))
    assert y.dtype == np.float32


def test_relu_keeps_integers():
    assert ops.relu(as_tensor(np.array([-1, 2]))).tolist() == [0, 2]


def test_relu_keeps_only_its_output():
    x = as_tensor(np.array([1.0, -1.0]), requires_grad=True)
    y = x * 1
    out = ops.relu(y)
    y.array[:] = -5  # unseen by the version counter: had relu kept its input, the gradient would change
    out.sum().backward()
    assert x.grad.tolist() == [1, 0]


@pytest.mark.parametrize("shape, count", [((2, 3), 3), ((2, 3, 4), 3), ((2, 3, 4, 2), 1), ((5,), 1)])
def test_prelu(shape, count):
    x = away_from(np.random.default_rng(0).normal(size=shape), [0])
    w = np.random.default_rng(1).uniform(0.1, 0.5, count)
    gradcheck(ops.prelu, x, w)
    gradgradcheck(ops.prelu, x, w)
    np.testing.assert_allclose(
        ops.prelu(as_tensor(x), as_tensor(w)).numpy(), F.prelu(torch.tensor(x), torch.tensor(w)).numpy(), rtol=1e-15
    )


def test_third_derivative():
    from minidl.autograd.functional import grad

    def third(f):
        return grad(lambda x: grad(lambda x: grad(lambda x: f(x).sum())(x).sum())(x).sum())

    x = np.linspace(-2, 2, 5)
    t = 1 / np.cosh(x) ** 2
    np.testing.assert_allclose(third(ops.tanh)(as_tensor(x)).numpy(), t * (4 - 6 * t), rtol=1e-10)


def test_bad_arguments():
    with pytest.raises(ValueError, match="gelu: approximate"):
        ops.gelu(as_tensor([1.0]), approximate="erf")
    with pytest.raises(ValueError, match=r"glu: axis -1 of float32\[2, 3\]"):
        ops.glu(as_tensor(np.zeros((2, 3), np.float32)))
    with pytest.raises(ValueError, match="prelu: weight"):
        ops.prelu(as_tensor(np.zeros((2, 3))), as_tensor(np.zeros(2)))
    with pytest.raises(ValueError, match="axis"):
        ops.softmax(as_tensor([1.0]), axis=3)
