"""scaled_dot_product_attention: finite differences, PyTorch, blocks, masks, dropout, memory."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minidl import as_tensor, ops
from minidl.ops.attention import _attention
from minidl.random import Generator
from minidl.testing import gradcheck, gradgradcheck

attention = ops.scaled_dot_product_attention


def qkv(seed=0, lead=(2,), heads=4, kv_heads=2, length=5, width=6, dtype=np.float64):
    rng = np.random.default_rng(seed)
    shapes = (*lead, heads, length, 3), (*lead, kv_heads, width, 3), (*lead, kv_heads, width, 4)
    return [rng.standard_normal(s).astype(dtype) for s in shapes]


def some_mask(shape, seed=0):
    """Random, with one row of which everything is hidden."""
    mask = np.random.default_rng(seed).random(shape) > 0.4
    mask[..., 1, :] = False
    return mask


@pytest.mark.parametrize("block_size", [None, 1, 2, 4])
@pytest.mark.parametrize("options", ["plain", "causal", "mask", "mask and causal", "dropout"])
def test_gradients(options, block_size):
    q, k, v = qkv(lead=(1,), length=3, width=4)
    kw = {"is_causal": True} if "causal" in options else {}
    kw |= {"attn_mask": some_mask((1, 1, 3, 4))} if "mask" in options else {}

    def f(q, k, v):
        extra = {"dropout_p": 0.3, "generator": Generator(3)} if options == "dropout" else {}
        return attention(q, k, v, enable_gqa=True, block_size=block_size, **kw, **extra)

    gradcheck(f, q, k, v)


@pytest.mark.parametrize("options", ["plain", "causal", "mask", "dropout"])
def test_second_derivatives(options):
    q, k, v = qkv(lead=(1,), heads=2, kv_heads=1, length=3, width=3)
    kw = {"is_causal": True} if options == "causal" else {"attn_mask": some_mask((3, 3))} if options == "mask" else {}

    def f(q, k, v):
        extra = {"dropout_p": 0.3, "generator": Generator(3)} if options == "dropout" else {}
        return attention(q, k, v, enable_gqa=True, block_size=2, **kw, **extra)

    gradgradcheck(f, q, k, v)


@pytest.mark.parametrize("shape", [(3, 4), (1, 4), (3, 1), (2, 1, 3, 4), (4,)])
@pytest.mark.parametrize("block_size", [None, 2])
def test_gradient_of_an_additive_mask(shape, block_size):
    q, k, v = qkv(length=3, width=4)
    mask = np.random.default_rng(5).standard_normal(shape)

    def f(q, k, v, m):
        return attention(q, k, v, m, enable_gqa=True, block_size=block_size)

    gradcheck(f, q, k, v, mask)
    gradgradcheck(f, q[:1, :2], k[:1, :1], v[:1, :1], mask[:1], wrt=[0, 3])


@pytest.mark.parametrize("block_size", [None, 2])
def test_gradient_of_the_logsumexp(block_size):
    params = {"dropout_p": 0.0, "is_causal": False, "scale": 0.5, "key": 0, "offset": 0}
    gradcheck(lambda q, k, v: _attention(q, k, v, block_size=block_size, **params), *qkv())


@settings(max_examples=40, deadline=None)
@given(
    lead=st.lists(st.integers(0, 2), max_size=2),
    group=st.integers(1, 3),
    kv_heads=st.integers(1, 2),
    length=st.integers(0, 7),
    width=st.integers(0, 7),
    block_size=st.integers(1, 8),
    causal=st.booleans(),
    masked=st.sampled_from(["no", "bool", "float"]),
    dropout=st.booleans(),
    seed=st.integers(0, 99),
)
def test_blocks_do_not_matter(lead, group, kv_heads, length, width, block_size, causal, masked, dropout, seed):
    q, k, v = qkv(seed, tuple(lead), group * kv_heads, kv_heads, length, width)
    mask = None
    if masked != "no":
        mask = np.random.default_rng(seed).random((length, width)) > 0.3
        mask = mask if masked == "bool" else np.where(mask, 0.5, -np.inf)
    results = []
    for size in (None, block_size):
        ts = [as_tensor(a, requires_grad=True) for a in (q, k, v)]
        drop = {"dropout_p": 0.5, "generator": Generator(seed)} if dropout else {}
        out = attention(*ts, mask, is_causal=causal, enable_gqa=True, block_size=size, **drop)
        (out * out).sum().backward()
        results.append([out.detach().numpy(), *(t.grad.numpy() for t in ts)])
    for a, b in zip(*results):
        assert np.isfinite(a).all()
        np.testing.assert_allclose(a, b, atol=1e-11)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("block_size", [None, 3])
@pytest.mark.parametrize("options", ["plain", "causal", "bool", "float", "scale", "gqa"])
def test_against_pytorch(options, block_size, dtype):
    torch = pytest.importorskip("torch", reason="the comparison is with PyTorch")
    q, k, v = qkv(kv_heads=2 if options == "gqa" else 4, width=5 if options == "causal" else 6, dtype=dtype)
    mask = {"bool": some_mask((2, 1, 5, 6)), "float": np.random.default_rng(1).standard_normal((5, 6)).astype(dtype)}
    kw = {
        "is_causal": options == "causal",
        "scale": 0.3 if options == "scale" else None,
        "enable_gqa": options == "gqa",
    }
    mask = mask.get(options)
    ts = [as_tensor(a, requires_grad=True) for a in (q, k, v)]
    theirs = [torch.from_numpy(a.copy()).requires_grad_() for a in (q, k, v)]
    out = attention(*ts, mask, block_size=block_size, **kw)
    tmask = None if mask is None else torch.from_numpy(mask)
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        tout = torch.nn.functional.scaled_dot_product_attention(*theirs, tmask, **kw)
    tol = 1e-5 if dtype == np.float32 else 1e-12
    assert out.dtype == dtype
    np.testing.assert_allclose(out.detach().numpy(), tout.detach().numpy(), atol=tol)
    g = np.random.default_rng(2).standard_normal(out.shape).astype(dtype)
    out.backward(g)
    tout.backward(torch.from_numpy(g))
    for a, b in zip(ts, theirs):
        np.testing.assert_allclose(a.grad.numpy(), b.grad.numpy(), atol=tol)


def test_two_axes_and_broadcast_leads():
    q, k, v = qkv(heads=4, kv_heads=4)
    out = attention(q, k, v)
    np.testing.assert_allclose(attention(q[1, 2], k[1, 2], v[1, 2]), out[1, 2], atol=1e-14)
    one = attention(q, k[:1], v[:1])
    np.testing.assert_allclose(one[1], attention(q[1], k[0], v[0]), atol=1e-14)
    gradcheck(lambda k: attention(as_tensor(q), k, v), k[:1])


def test_large_scores_do_not_overflow():
    q, k, v = (a * 1e4 for a in qkv(heads=2, dtype=np.float32))
    for size in (None, 2):
        assert np.isfinite(attention(q, k, v, block_size=size)).all()


def test_dropout_keeps_the_mean():
    q, k, v = qkv(heads=2, length=2, width=400)
    out = np.mean([attention(q, k, v, dropout_p=0.5, generator=Generator(i)) for i in range(60)], axis=0)
    np.testing.assert_allclose(out, attention(q, k, v), atol=0.15)


def test_memory_of_blocks_grows_linearly():
    def peak(length):
        q, k, v = (as_tensor(a, requires_grad=True) for a in qkv(0, (1,), 1, 1, length, length, np.float32))
        tracemalloc.start()
        attention(q, k, v, block_size=64, is_causal=True).sum().backward()
        used = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return used

    peak(256)
    assert peak(2048) < 3 * peak(1024)
    assert peak(2048) < 2048 * 2048  # a quarter of one float32 matrix of scores


def test_errors():
    q, k, v = qkv(heads=4, kv_heads=4)
    with pytest.raises(ValueError, match="shapes do not fit"):
        attention(q, k[..., :2], v)
    with pytest.raises(ValueError, match="shapes do not fit"):
        attention(q, k[:, :2], v[:, :2])
    with pytest.raises(ValueError, match="multiple"):
        attention(q, k[:, :3], v[:, :3], enable_gqa=True)
    with pytest.raises(ValueError, match="does not broadcast"):
        attention(q, k, v, np.ones((5, 5), bool))
    with pytest.raises(TypeError, match="bool or float mask"):
        attention(q, k, v, np.ones((5, 6), int))
    with pytest.raises(ValueError, match="dropout_p"):
        attention(q, k, v, dropout_p=1.0)
    with pytest.raises(ValueError, match="block_size"):
        attention(q, k, v, block_size=0)
