"""Elementwise operations against NumPy and PyTorch: any broadcastable shapes, values at the edges, ties."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from minidl import as_tensor, ops
from minidl.testing import gradcheck

torch = pytest.importorskip("torch", reason="forward values and gradients are compared with PyTorch's")

EDGES = np.array([-np.inf, -100.0, -1.0, -1e-8, -0.0, 0.0, 1e-8, 0.5, 1.0, 100.0, np.inf, np.nan])

UNARY = {
    "abs": torch.abs, "arccos": torch.arccos, "arccosh": torch.arccosh, "arcsin": torch.arcsin,
    "arcsinh": torch.arcsinh, "arctan": torch.arctan, "arctanh": torch.arctanh,
    "cos": torch.cos, "cosh": torch.cosh, "erf": torch.erf, "exp": torch.exp,
    "expm1": torch.expm1, "log": torch.log, "log1p": torch.log1p, "log2": torch.log2, "neg": torch.neg,
    "positive": torch.positive, "rsqrt": torch.rsqrt, "sin": torch.sin, "sinh": torch.sinh, "sqrt": torch.sqrt,
    "square": torch.square, "tan": torch.tan, "copy": torch.clone,
}  # fmt: skip
WITHOUT_GRADIENT = {
    "ceil": torch.ceil, "floor": torch.floor, "isfinite": torch.isfinite, "isnan": torch.isnan, "round": torch.round,
    "sign": torch.sign, "ones_like": torch.ones_like, "zeros_like": torch.zeros_like,
}  # fmt: skip
BINARY = {
    "add": torch.add, "sub": torch.sub, "mul": torch.mul, "div": torch.div, "pow": torch.pow,
    "remainder": torch.remainder, "maximum": torch.maximum, "minimum": torch.minimum, "logaddexp": torch.logaddexp,
}  # fmt: skip
COMPARISONS = {
    "eq": torch.eq, "not_equal": torch.ne, "less": torch.lt, "less_equal": torch.le, "greater": torch.gt,
    "greater_equal": torch.ge, "floor_divide": torch.floor_divide,
}  # fmt: skip

shapes = hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3)
pairs = hnp.mutually_broadcastable_shapes(num_shapes=2, max_dims=3, min_side=0, max_side=3)
seeds = st.integers(0, 10_000)


def draw(seed, shape, low=0.3, high=2.0):
    return np.random.default_rng(seed).uniform(low, high, shape)


def both(f, g, *arrays, rtol=1e-10):
    """Values and gradients of f (ours) and g (PyTorch's) on the same arrays."""
    ours = [as_tensor(a, requires_grad=True) for a in arrays]
    theirs = [torch.tensor(a, requires_grad=True) for a in arrays]
    with np.errstate(all="ignore"):
        x, y = f(*ours), g(*theirs)
    np.testing.assert_allclose(np.asarray(x.detach()), y.detach().numpy(), rtol=rtol, atol=1e-12)
    weights = np.random.default_rng(1).normal(size=x.shape)
    x.backward(as_tensor(weights.astype(x.dtype)))
    y.backward(torch.tensor(weights, dtype=y.dtype))
    for a, b in zip(ours, theirs):
        np.testing.assert_allclose(np.asarray(a.grad), b.grad.numpy(), rtol=rtol, atol=1e-12)


@pytest.mark.parametrize("name", UNARY)
@given(shape=shapes, seed=seeds)
def test_unary(name, shape, seed):
    both(getattr(ops, name), UNARY[name], draw(seed, shape, 0.2, 1.4))


@pytest.mark.parametrize("name", UNARY)
def test_unary_at_the_edges(name):
    with np.errstate(all="ignore"):
        # the derivative of |x| at NaN is 0 for PyTorch and NaN here
        both(getattr(ops, name), UNARY[name], EDGES[:-1] if name == "abs" else EDGES)


@pytest.mark.parametrize("name", WITHOUT_GRADIENT)
def test_unary_without_gradient(name):
    x = np.concatenate([EDGES, [0.5, 1.5, 2.5, -0.5, -1.5]])
    result = getattr(ops, name)(as_tensor(x, requires_grad=True))
    assert not result.requires_grad
    expected = WITHOUT_GRADIENT[name](torch.tensor(x)).numpy()
    if name == "sign":
        expected = np.where(np.isnan(x), np.nan, expected)  # NumPy keeps NaN
    np.testing.assert_array_equal(result, expected)


@pytest.mark.parametrize("name", BINARY)
@given(pair=pairs, seed=seeds)
def test_binary(name, pair, seed):
    a, b = draw(seed, pair.input_shapes[0]), draw(seed + 1, pair.input_shapes[1])
    both(getattr(ops, name), BINARY[name], a, b)


@pytest.mark.parametrize("name", BINARY)
def test_binary_at_the_edges(name):
    """Every pair of edge values, forward only: at infinities gradients are conventions."""
    with np.errstate(all="ignore"):
        result = getattr(ops, name)(as_tensor(EDGES[:, None]), as_tensor(EDGES))
    expected = BINARY[name](torch.tensor(EDGES[:, None]), torch.tensor(EDGES)).numpy()
    if name == "remainder":  # for an infinite divisor PyTorch and NumPy differ
        finite = np.isfinite(EDGES)
        np.testing.assert_array_equal(result.numpy()[:, finite], expected[:, finite])
    else:
        np.testing.assert_allclose(result, expected, rtol=1e-15)


@pytest.mark.parametrize("name", ["maximum", "minimum"])
def test_gradients_at_ties_and_nan(name):
    a, b = np.array([1.0, 1.0, np.nan, 2.0, np.nan, 0.0]), np.array([1.0, 2.0, 1.0, np.nan, np.nan, -0.0])
    both(getattr(ops, name), BINARY[name], a, b)


@pytest.mark.parametrize("name", COMPARISONS)
@given(pair=pairs, seed=seeds)
def test_comparisons(name, pair, seed):
    a, b = (np.round(draw(seed + i, s, 1, 4)) for i, s in enumerate(pair.input_shapes))
    result = getattr(ops, name)(as_tensor(a), as_tensor(b))
    np.testing.assert_array_equal(result, COMPARISONS[name](torch.tensor(a), torch.tensor(b)).numpy())


@pytest.mark.parametrize("dtype", [np.int64, np.int32, np.uint8, np.bool_])
def test_float_functions_of_integers_are_float32(dtype):
    x = np.array([1, 0, 1], dtype)
    for name in ("exp", "log1p", "sqrt", "sin", "erf"):
        result = getattr(ops, name)(as_tensor(x))
        assert result.dtype == np.float32
        np.testing.assert_allclose(result, UNARY[name](torch.tensor(x)).numpy(), rtol=1e-6)


@pytest.mark.parametrize("exponent", [0, 1, 2, 3, -1, 0.5, 2.5, 0.0])
def test_powers_with_a_number(exponent):
    both(lambda x: x**exponent, lambda x: x**exponent, draw(0, (2, 3)))
    if exponent >= 1 or exponent == 0:
        both(lambda x: x**exponent, lambda x: x**exponent, np.array([0.0, 2.0]))


@pytest.mark.parametrize("base", [2, 2.5, 0.0, 1])
def test_powers_of_a_number(base):
    both(lambda x: base**x, lambda x: base**x, draw(0, (2, 3)))


def test_power_at_zero():
    both(ops.pow, torch.pow, np.array([0.0, 0.0, 2.0, -1.5]), np.array([0.0, 2.0, 0.0, 2.0]))


def test_integer_to_a_negative_power_is_refused():
    with pytest.raises(ValueError, match="negative"):
        as_tensor([1, 2]) ** -1


@given(pair=hnp.mutually_broadcastable_shapes(num_shapes=3, max_dims=3, min_side=0, max_side=3), seed=seeds)
def test_where(pair, seed):
    c, a, b = pair.input_shapes
    condition = np.random.default_rng(seed).random(c) < 0.5
    both(
        lambda x, y: ops.where(condition, x, y),
        lambda x, y: torch.where(torch.tensor(condition), x, y),
        draw(seed, a),
        draw(seed + 1, b),
    )


def test_where_does_not_let_the_other_side_in():
    """The usual guard against a pole: the branch not taken gives no gradient, not even 0 * inf."""
    x = as_tensor([0.0, 4.0], requires_grad=True)
    y = ops.where(x > 0, x, 1.0).sqrt()
    ops.where(x > 0, y, 0.0).sum().backward()
    np.testing.assert_array_equal(x.grad, [0, 0.25])
    z = as_tensor([1.0, 2.0], requires_grad=True)
    ops.where(np.array([True, False]), z, 0.0).backward(as_tensor([1.0, np.inf]))
    np.testing.assert_array_equal(z.grad, [1, 0])


@pytest.mark.parametrize(
    ("x", "y", "dtype"),
    [
        (1.0, 0.0, np.float32),
        (1, 0, np.int64),
        (np.ones(2, np.float32), 0.0, np.float32),
        (np.ones(2, np.int64), 0.5, np.float32),
        (np.ones(2, np.float32), np.ones(2, np.int64), np.float32),
        (np.ones(2, np.float32), np.ones(2), np.float64),
        (2, np.ones(2, np.float64), np.float64),
    ],
)
def test_dtype_of_where(x, y, dtype):
    assert ops.where(np.array([True, False]), x, y).dtype == dtype
    assert ops.where(as_tensor([True, False]), x, y).dtype == dtype


@pytest.mark.parametrize("limits", [(-0.5, 0.5), (None, 0.5), (-0.5, None), (None, None), (0.5, -0.5)])
def test_clip(limits):
    x = np.array([-2.0, -0.5, 0.0, 0.5, 2.0, np.nan, np.inf])
    if limits == (None, None):
        np.testing.assert_array_equal(ops.clip(x), x)
    elif limits == (0.5, -0.5):  # crossed limits: the upper one wins
        np.testing.assert_array_equal(ops.clip(x, *limits), torch.clamp(torch.tensor(x), *limits).numpy())
    else:
        both(lambda t: ops.clip(t, *limits), lambda t: torch.clamp(t, *limits), x)


@given(pair=pairs, seed=seeds)
def test_sum_to_is_the_transpose_of_broadcast_to(pair, seed):
    small, full = pair.input_shapes[0], pair.result_shape
    a, b = draw(seed, small), draw(seed + 1, full)
    forward = (np.broadcast_to(a, full) * b).sum()
    np.testing.assert_allclose((a * np.asarray(ops.sum_to(b, small))).sum(), forward, rtol=1e-12)
    np.testing.assert_array_equal(ops.broadcast_to(a, shape=full), np.broadcast_to(a, full))


def test_broadcast_to_refuses_what_does_not_broadcast():
    with pytest.raises(ValueError, match=r"broadcast_to.*\[3\]"):
        ops.broadcast_to(as_tensor([1.0, 2.0, 3.0]), shape=(2,))


def test_logic():
    a, b = np.array([True, True, False]), np.array([True, False, False])
    np.testing.assert_array_equal(ops.logical_and(a, b), a & b)
    np.testing.assert_array_equal(ops.logical_or(as_tensor(a), b), a | b)
    np.testing.assert_array_equal(ops.logical_xor(a, as_tensor(b)), a ^ b)
    np.testing.assert_array_equal(ops.logical_not(a), ~a)


def test_masked_fill_and_allclose():
    x = as_tensor([1.0, 2.0, 3.0], requires_grad=True)
    y = ops.masked_fill(x, np.array([True, False, False]), -np.inf)
    assert y.tolist() == [-np.inf, 2, 3] and y.dtype == np.float32
    ops.where(ops.isfinite(y), y, 0.0).sum().backward()
    np.testing.assert_array_equal(x.grad, [0, 1, 1])
    assert ops.allclose(as_tensor([1.0]), np.array([1.0 + 1e-9])) and not ops.allclose(x, 0)


def test_gradients_of_a_long_expression():
    def f(x, y):
        return ops.log(ops.exp(x * y) + ops.sqrt(ops.square(x) + 1)) / (2 + ops.cos(y)) - ops.maximum(x, y) ** 2

    assert gradcheck(f, draw(0, (2, 3)), draw(1, (3,)))


def test_casting_gradients_back():
    x = as_tensor(np.ones(3, np.float32), requires_grad=True)
    h = x.astype(np.float16)
    assert h.dtype == np.float16
    (h.astype(np.float64) * 2).sum().backward()
    assert x.grad.dtype == np.float32
    np.testing.assert_array_equal(x.grad, [2, 2, 2])
