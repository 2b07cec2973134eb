"""embedding and its gradient."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minidl import as_tensor, ops
from minidl.testing import gradcheck, gradgradcheck


@settings(max_examples=40, deadline=None)
@given(
    rows=st.integers(1, 6),
    dim=st.integers(0, 4),
    shape=st.lists(st.integers(0, 4), max_size=3),
    padded=st.booleans(),
    dtype=st.sampled_from([np.float16, np.float32, np.float64]),
    seed=st.integers(0, 99),
)
def test_gradient_adds_up_rows(rows, dim, shape, padded, dtype, seed):
    rng = np.random.default_rng(seed)
    index = rng.integers(0, rows, shape)
    padding = int(rng.integers(rows)) if padded else None
    weight = rng.standard_normal((rows, dim)).astype(dtype)
    out = ops.embedding(index, weight, padding_idx=padding)
    np.testing.assert_array_equal(out, weight[index])
    g = rng.standard_normal(out.shape).astype(dtype)
    expected = np.zeros((rows, dim), np.float64)
    np.add.at(expected, index, g.astype(np.float64))
    if padded:
        expected[padding] = 0
    got = ops.embedding_grad(g, index, num_embeddings=rows, padding_idx=padding)
    assert got.dtype == dtype
    np.testing.assert_allclose(
        got, expected, rtol=2e-2 if dtype == np.float16 else 1e-5, atol=1e-2 if dtype == np.float16 else 1e-5
    )


@pytest.mark.parametrize("padding_idx", [None, 1])
def test_second_derivative(padding_idx):
    index = np.array([[0, 1, 2], [2, 2, 1]])
    weight = np.random.default_rng(0).standard_normal((3, 2))

    def f(w):
        return ops.embedding(index, w, padding_idx=padding_idx) ** 3

    if padding_idx is None:  # with padding, what the layer calls its gradient is not the derivative
        gradcheck(f, weight)
        gradgradcheck(f, weight)
    gradcheck(
        lambda g: ops.embedding_grad(g, index, num_embeddings=3, padding_idx=padding_idx),
        np.random.default_rng(1).standard_normal((2, 3, 2)),
    )


def test_padding_row_gets_no_gradient():
    weight = as_tensor(np.ones((3, 2)), requires_grad=True)
    ops.embedding(np.array([0, 1, 1]), weight, padding_idx=1).sum().backward()
    np.testing.assert_array_equal(weight.grad.numpy(), [[1, 1], [0, 0], [0, 0]])


def test_errors():
    weight = np.zeros((3, 2))
    with pytest.raises(IndexError, match=r"indices -1\.\.1 are outside 0\.\.2"):
        ops.embedding(np.array([-1, 1]), weight)
    with pytest.raises(TypeError, match="integer dtype"):
        ops.embedding(np.array([0.0]), weight)
    with pytest.raises(ValueError, match=r"\(V, D\)"):
        ops.embedding(np.array([0]), weight[0])
