"""Recurrent layers on numba, and the matrix products inside compiled code that they are made of."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minidl import nn
from minidl.backend import use_backend
from minidl.testing.pytest_plugin import conformance_tests

pytest.importorskip("numba", reason="the numba backend needs numba (pip install 'minidl[numba]')")

from minidl_kernels.numba.simd import gemm

test_conformance = conformance_tests("numba", module="minidl_kernels.numba.kernels.recurrent", max_examples=10)

GATES = {"rnn": 1, "gru": 3, "lstm": 4}
KINDS = pytest.mark.parametrize("kind", GATES)


def call(kind, rng, steps, rows, width, hidden, dtype, bias=True):
    def normal(*shape):
        return (rng.normal(size=shape) / np.sqrt(hidden)).astype(dtype)  # so that no error grows from step to step

    gates = GATES[kind] * hidden
    biases = [normal(gates), normal(gates)] if bias else [None, None]
    states = [normal(rows, hidden) for _ in range(2 if kind == "lstm" else 1)]
    return normal(steps, rows, width), states, [normal(gates, width), normal(gates, hidden), *biases]


def check(agree, kind, rng, *sizes, lengths=None, reverse=False, bias=True, **params):
    """Forward and backward agree with the reference's."""
    x, states, weights = call(kind, rng, *sizes, bias=bias)
    params = {"reverse": reverse, "lengths": lengths, **params}
    if kind == "rnn":
        params.setdefault("nonlinearity", "tanh")
    out = agree(kind, x, *states, *weights, **params)
    grads = [rng.normal(size=o.shape).astype(o.dtype) for o in out[: 1 + len(states)]]
    kept = [out[0], *out[1 + len(states) :]]
    if kind == "lstm":
        kept.insert(0, None)
    return out, agree(f"{kind}_backward", *grads, x, *states, *weights[:2], *kept, **params)


@KINDS
@given(
    steps=st.integers(1, 5), rows=st.integers(1, 11), width=st.integers(1, 9), hidden=st.integers(1, 40),
    reverse=st.booleans(), bias=st.booleans(), ragged=st.booleans(), seed=st.integers(0, 99),
)  # fmt: skip
def test_sizes(agree, kind, steps, rows, width, hidden, reverse, bias, ragged, seed):
    rng = np.random.default_rng(seed)
    lengths = tuple(rng.integers(0, steps + 1, rows).tolist()) if ragged else None
    check(agree, kind, rng, steps, rows, width, hidden, np.float64, lengths=lengths, reverse=reverse, bias=bias)


def test_relu(agree, rng):
    check(agree, "rnn", rng, 5, 3, 4, 7, np.float32, nonlinearity="relu")


@KINDS
def test_rows_and_work_enough_for_threads(agree, rng, kind):
    lengths = tuple(rng.integers(0, 17, 37).tolist())
    check(agree, kind, rng, 16, 37, 20, 80, np.float32, lengths=lengths, reverse=True)


def test_strided_inputs(agree, rng):
    x, states, weights = call("lstm", rng, 4, 5, 6, 7, np.float32)
    x = np.ascontiguousarray(x.swapaxes(0, 1)).swapaxes(0, 1)
    weights = [np.asfortranarray(w) for w in weights]
    y, h, c, *kept = agree("lstm", x, *states, *weights, reverse=False, lengths=None)
    grads = [np.broadcast_to(np.float32(0.5), a.shape) for a in (y, h, c)]
    agree("lstm_backward", *grads, x, *states, *weights[:2], None, y, *kept, reverse=False, lengths=None)


@pytest.mark.parametrize("layer", [nn.RNN, nn.GRU, nn.LSTM])
def test_layer(layer, rng):
    """Through the module: two layers, both directions, the loss's gradients."""
    from minidl import as_tensor

    model = layer(5, 6, num_layers=2, bidirectional=True, batch_first=True)
    x = rng.normal(size=(3, 4, 5)).astype(np.float32)
    found = {}
    for backend in ("numpy", "numba"):
        with use_backend(backend, strict=False):
            model.zero_grad()
            out, _ = model(as_tensor(x))
            (out * out).sum().backward()
            found[backend] = [out.detach().numpy(), *(p.grad.numpy() for p in model.parameters())]
    for a, b in zip(found["numpy"], found["numba"]):
        np.testing.assert_allclose(b, a, rtol=1e-4, atol=1e-5)


# Products


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@given(
    rows=st.integers(0, 19), depth=st.integers(0, 40), width=st.integers(1, 70), deep=st.booleans(),
    accumulate=st.booleans(), seed=st.integers(0, 99),
)  # fmt: skip
def test_products(dtype, rows, depth, width, deep, accumulate, seed):
    rng = np.random.default_rng(seed)
    depth += gemm.DEPTH if deep else 0
    a, b, c = (rng.integers(-8, 9, s).astype(dtype) for s in ((rows, depth), (depth, width), (rows, width)))
    expected = a @ b + (c if accumulate else 0)  # of small integers: exact in any order
    if not accumulate:
        c[:] = np.nan

    def same(multiply, left, right):
        # columns beyond the product's must be left alone
        room = np.full((rows, width + 5), 7, dtype)
        room[:, :width] = c
        multiply(left, right, room[:, :width], accumulate)
        np.testing.assert_array_equal(room[:, :width], expected)
        np.testing.assert_array_equal(room[:, width:], 7)

    packed, turned = gemm.packed(depth, width, dtype), gemm.packed(depth, width, dtype)
    packed[:], turned[:] = np.nan, np.nan
    gemm.pack(b, packed)
    gemm.pack_transposed(np.ascontiguousarray(b.T), turned, dtype(1))
    np.testing.assert_array_equal(packed, turned)
    same(gemm.product, a, b)
    same(gemm.product, np.ascontiguousarray(a.T).T, b)
    same(gemm.packed_product, a, packed)


def test_scale_of_a_packed_matrix(rng):
    w = rng.normal(size=(50, 30)).astype(np.float32)
    once, halved = gemm.packed(30, 50, np.float32), gemm.packed(30, 50, np.float32)
    gemm.pack_transposed(w, once, np.float32(1))
    gemm.pack_transposed(w, halved, np.float32(0.5))
    np.testing.assert_array_equal(once * np.float32(0.5), halved)
