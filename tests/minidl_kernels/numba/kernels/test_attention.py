"""Attention on numba."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minidl.backend import load
from minidl.testing.pytest_plugin import conformance_tests

pytest.importorskip("numba", reason="the numba backend needs numba (pip install 'minidl[numba]')")

from minidl_kernels.numba.kernels.attention import KEYS, _heads

test_conformance = conformance_tests("numba", module="minidl_kernels.numba.kernels.attention", max_examples=10)

DTYPES = pytest.mark.parametrize("dtype", [np.float32, np.float64])


def params(width, causal=False, **more):
    return {
        "dropout_p": 0.0, "is_causal": causal, "scale": 1 / math.sqrt(width), "block_size": None, "key": 0, "offset": 0,
        **more,
    }  # fmt: skip


def check(agree, rng, q, k, v, mask=None, causal=False):
    """Forward and backward agree with the reference's."""
    static = params(q.shape[-1], causal)
    out, lse = agree("scaled_dot_product_attention", q, k, v, mask, **static)
    g, g_lse = (rng.normal(size=a.shape).astype(a.dtype) for a in (out, lse))
    return out, *agree("attention_backward", g, g_lse, q, k, v, mask, out, lse, rtol=1e-4, atol=1e-5, **static)


def normal(rng, dtype, *shapes):
    return [rng.normal(size=s).astype(dtype) for s in shapes]


def a_mask(rng, kind, dtype, shape):
    if kind == "add":
        return rng.normal(size=shape).astype(dtype)
    return rng.random(shape) < 0.6 if kind == "bool" else None


@DTYPES
@given(
    batch=st.integers(1, 2), heads=st.integers(1, 2), share=st.integers(1, 3), length=st.integers(1, 40),
    keys=st.integers(1, 40), width=st.integers(1, 40), out_width=st.integers(1, 40),
    mask=st.sampled_from(["", "bool", "add"]), causal=st.booleans(), seed=st.integers(0, 99),
)  # fmt: skip
def test_sizes(agree, dtype, batch, heads, share, length, keys, width, out_width, mask, causal, seed):
    rng = np.random.default_rng(seed)
    q, k, v = normal(
        rng, dtype, (batch, share * heads, length, width), (batch, heads, keys, width), (batch, heads, keys, out_width)
    )
    check(agree, rng, q, k, v, a_mask(rng, mask, dtype, (length, keys)), causal)


@pytest.mark.parametrize("mask", ["", "bool", "add"])
@pytest.mark.parametrize("causal", [False, True])
def test_long_sequences(agree, rng, mask, causal):
    """Several blocks of keys, queries shared out among threads."""
    q, k, v = normal(rng, np.float32, (2, 530, 16), (2, 2 * KEYS + 70, 16), (2, 2 * KEYS + 70, 24))
    check(agree, rng, q, k, v, a_mask(rng, mask, np.float32, (2, 530, 2 * KEYS + 70)), causal)


@pytest.mark.parametrize("shape", [(1, 1, 1, 70), (4, 3, 50, 1), (3, 1, 70), (50, 70)])
@pytest.mark.parametrize("kind", ["bool", "add"])
def test_masks_broadcast(agree, rng, kind, shape):
    q, k, v = normal(rng, np.float32, (4, 3, 50, 8), (4, 3, 70, 8), (4, 3, 70, 8))
    check(agree, rng, q, k, v, a_mask(rng, kind, np.float32, shape))


def test_layouts(agree, rng):
    """Heads taken out of one projection, as the layers do; an expanded key; a transposed value; a matrix."""
    qkv = rng.normal(size=(3, 20, 3, 4, 16)).astype(np.float32)
    q, k, v = (qkv[:, :, n].swapaxes(1, 2) for n in range(3))
    check(agree, rng, q, k, v, causal=True)
    check(agree, rng, q, np.broadcast_to(k[:1], k.shape), np.ascontiguousarray(v.swapaxes(2, 3)).swapaxes(2, 3))
    check(agree, rng, q[0, 0], k[0, 0], v[0, 0])
    assert _heads(q).base is not None and np.shares_memory(_heads(q), qkv)  # used as it is


def test_a_query_that_sees_nothing(agree, rng):
    q, k, v = normal(rng, np.float32, (1, 1, 5, 8), (1, 1, 9, 8), (1, 1, 9, 8))
    mask = np.ones((5, 9), bool)
    mask[2] = False
    out, dq, *_ = check(agree, rng, q, k, v, mask)
    assert not out[0, 0, 2].any() and not dq[0, 0, 2].any()


def test_large_scores(agree, rng):
    q, k, v = normal(rng, np.float32, (1, 2, 40, 8), (1, 2, 300, 8), (1, 2, 300, 8))
    check(agree, rng, 30 * q, 30 * np.abs(k), v)


@pytest.mark.parametrize("odd", [np.nan, np.inf])
@pytest.mark.parametrize("which", [0, 1, 2])
def test_odd_values(agree, rng, which, odd):
    """As in the reference, what is not finite is not hidden by a weight of zero."""
    arrays = normal(rng, np.float32, (2, 2, 40, 8), (2, 2, 40, 8), (2, 2, 40, 8))
    arrays[which][1, 0, 30, 3] = odd
    with np.errstate(all="ignore"):
        out, *_ = check(agree, rng, *arrays, causal=True)
    assert np.isfinite(out[0]).all() and np.isfinite(out[1, 1]).all()


def test_what_is_left_to_the_reference(rng):
    q, k, v, g = normal(rng, np.float32, *[(1, 2, 4, 8)] * 4)
    mask, lse = np.zeros((4, 4), np.float32), np.zeros((1, 2, 4), np.float32)
    (forward,), (backward,) = (load("numba").kernels[n] for n in ("scaled_dot_product_attention", "attention_backward"))
    assert forward.when(q, k, v, mask, **params(8))
    assert not forward.when(q, k, v, mask, **params(8, dropout_p=0.5))
    assert not forward.when(q, k, v.astype(np.float64), None, **params(8))
    assert not forward.when(q, k[:, :, :0], v[:, :, :0], None, **params(8))
    assert not forward.when(*normal(rng, np.float32, (1, 8), (1000, 8), (1000, 8)), None, **params(8))
    assert backward.when(g, lse, q, k, v, mask, g, lse, **params(8, need_mask=False))
    assert not backward.when(g, lse, q, k, v, mask, g, lse, **params(8, need_mask=True))
