"""Scaled dot-product attention: softmax(Q Kᵀ / √E) V (Vaswani et al. 2017, eq. 1).

What the backward pass needs to make the weights again is one number per row of scores, the log of the sum of
exponentials, so that nothing of shape (L, S) has to be kept.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from minidl.core.dtypes import is_floating, result_dtype
from minidl.core.errors import describe
from minidl.core.primitive import primitive
from minidl.ops.elementwise import astype, exp, log, ones_like, sum_to, where
from minidl.ops.linalg import matmul
from minidl.ops.random import keyed_dropout
from minidl.ops.reduction import amax
from minidl.ops.reduction import sum as sum_
from minidl.ops.shape import expand, repeat_interleave, reshape, swapaxes
from minidl.random import default_generator


def _for_each_head(a: Any, q: Any) -> Any:
    """Keys or values (..., Hkv, S, E), each head repeated for all the heads of ``q`` (..., H, L, E) that it serves."""
    return a if a.ndim < 3 or a.shape[-3] == q.shape[-3] else repeat_interleave(a, q.shape[-3] // a.shape[-3], axis=-3)


def _over_groups(g: Any, a: Any) -> Any:
    """The transpose of :func:`_for_each_head`: sums over the heads that ``a`` was repeated for."""
    if g.shape == a.shape:
        return g
    groups = (*a.shape[:-2], g.shape[-3] // a.shape[-3], *a.shape[-2:])
    return sum_(reshape(g, shape=groups), axis=-3)


def _scores(q: Any, k: Any, mask: Any, is_causal: bool, scale: float) -> Any:
    """Q Kᵀ · scale + mask, -inf where a query must not see a key: (..., H, L, S).

    The causal mask is added, as in PyTorch, so that a score that is NaN or infinite is not hidden by it.
    """
    s = matmul(q * scale, swapaxes(_for_each_head(k, q), -1, -2))
    if mask is not None:
        s = where(mask, s, -np.inf) if mask.dtype.kind == "b" else s + mask
    return s + np.where(np.tri(*s.shape[-2:], dtype=np.bool_), 0, -np.inf).astype(s.dtype) if is_causal else s


def _weights(s: Any, lse: Any) -> Any:
    """softmax(s) given the log-sum-exp of each row; zeros for a row that sees nothing."""
    lse = lse[..., None]
    return exp(s - where(lse == -np.inf, 0.0, lse))


def _dropped(p: Any, dropout_p: float, key: int, offset: int) -> Any:
    return keyed_dropout(p, p=dropout_p, key=key, offset=offset) if dropout_p else p


@primitive(name="scaled_dot_product_attention", random=True, composite=True, half=(0,))
def _attention(q, k, v, attn_mask=None, *, dropout_p, is_causal, scale, block_size, key, offset):
    """Returns (out, lse): (..., H, L, Ev) and the log-sum-exp of each row of scores, (..., H, L).

    ``block_size`` is for kernels.
    """
    s = _scores(q, k, attn_mask, is_causal, scale)
    if s.shape[-1] == 0:  # no keys: every sum is empty
        return matmul(s, _for_each_head(v, q)), sum_(s, axis=-1) - np.inf
    top = amax(s, axis=-1, keepdims=True)
    p = exp(s - where(top == -np.inf, 0.0, top))
    total = sum_(p, axis=-1, keepdims=True)
    lse = (log(total) + top)[..., 0]
    p = p / where(total == 0, 1.0, total)
    p = _dropped(p, dropout_p, key, offset)
    return matmul(p, _for_each_head(v, q)), lse


@primitive(differentiable=False, random=True)
def attention_backward(
    g, g_lse, q, k, v, attn_mask, out, lse, *, dropout_p, is_causal, scale, block_size, key, offset, need_mask=False
):
    """Gradients (dq, dk, dv, dmask) from those of ``out`` and ``lse``; ``dmask`` is empty unless ``need_mask``.

    The weights are made again from ``lse``: P = exp(S - lse). With Z the dropout mask,
    dV = (P ⊙ Z)ᵀ dO; dS = P ⊙ ((dO Vᵀ) ⊙ Z - D + dlse) with D = rowsum(dO ⊙ O); dQ = dS K · scale;
    dK = dSᵀ Q · scale. The gradient of an additive mask is dS.
    """
    p = _weights(_scores(q, k, attn_mask, is_causal, scale), lse)
    z = _dropped(ones_like(p), dropout_p, key, offset)
    dv = matmul(swapaxes(p * z, -1, -2), g)
    delta = sum_(g * out, axis=-1, keepdims=True) - g_lse[..., None]
    ds = p * (matmul(g, swapaxes(_for_each_head(v, q), -1, -2)) * z - delta)
    dq = matmul(ds, _for_each_head(k, q)) * scale
    dk = matmul(swapaxes(ds, -1, -2), q) * scale
    dmask = sum_to(ds, shape=attn_mask.shape) if need_mask else ds.reshape(-1)[:0]
    return dq, _over_groups(dk, k), _over_groups(dv, v), dmask


@_attention.defvjp_all
def _attention_grad(g, needs, q, k, v, attn_mask, out, dropout_p, is_causal, scale, block_size, key, offset):
    dq, dk, dv, dmask = attention_backward(
        *g, q, k, v, attn_mask, *out, dropout_p=dropout_p, is_causal=is_causal, scale=scale, block_size=block_size,
        key=key, offset=offset, need_mask=needs[3],
    )  # fmt: skip
    return dq, dk, dv, dmask if needs[3] else None


def scaled_dot_product_attention(
    q,
    k,
    v,
    attn_mask=None,
    dropout_p=0.0,
    is_causal=False,
    scale=None,
    enable_gqa=False,
    block_size=None,
    generator=None,
):
    """softmax(q kᵀ · scale + mask) v, row by row (Vaswani et al. 2017, eq. 1).

    Parameters
    ----------
    q, k, v:
        (..., H, L, E), (..., H, S, E) and (..., H, S, Ev); leading axes broadcast.
    attn_mask:
        broadcasts to (..., H, L, S). Boolean: True where a query may see a key. Floating-point: added to the scores.
        A query that may see no key at all gets zeros (not NaN), and gives no gradient.
    dropout_p:
        drop each attention weight with this probability and scale the others by 1 / (1 - p).
    is_causal:
        query i sees keys 0..i only (aligned at the top left, as in PyTorch); may be combined with ``attn_mask``.
    scale:
        default 1 / √E.
    enable_gqa:
        grouped-query attention (Ainslie et al. 2023): ``k`` and ``v`` may have fewer heads, each serving
        H / Hkv consecutive heads of ``q``.
    block_size:
        work on blocks of this many queries and keys, so that memory grows with L + S instead of L · S; None: all at
        once. The result is the same up to rounding, dropout included.
    generator:
        where dropout takes its random bits from; default: :func:`minidl.random.default_generator`.

    Returns (..., H, L, Ev). Raises ValueError where shapes do not fit, TypeError for an integer mask.
    """
    q, k, v = _fit_shapes(q, k, v, enable_gqa)
    common = result_dtype([q.dtype, k.dtype, v.dtype], [], need_float=True)
    q, k, v = (a if a.dtype == common else astype(a, dtype=common) for a in (q, k, v))
    if not 0 <= dropout_p < 1:
        raise ValueError(f"scaled_dot_product_attention: dropout_p must be in [0, 1), got {dropout_p}")
    if block_size is not None and block_size < 1:
        raise ValueError(f"scaled_dot_product_attention: block_size must be positive, got {block_size}")
    shape = (*q.shape[:-1], k.shape[-2])
    if attn_mask is not None:
        if not is_floating(attn_mask.dtype) and attn_mask.dtype != bool:
            raise TypeError(f"scaled_dot_product_attention: expected a bool or float mask, got {describe(attn_mask)}")
        if attn_mask.dtype not in (bool, q.dtype):
            attn_mask = astype(attn_mask, dtype=q.dtype)
        if attn_mask.ndim < 2:
            attn_mask = reshape(attn_mask, shape=(1,) * (2 - attn_mask.ndim) + tuple(attn_mask.shape))
        try:
            fits = np.broadcast_shapes(attn_mask.shape, shape) == shape
        except ValueError:
            fits = False
        if not fits:
            raise ValueError(
                f"scaled_dot_product_attention: mask {describe(attn_mask)} does not broadcast to the scores' {shape}"
            )
    key = offset = 0
    if dropout_p:
        key, offset = (generator or default_generator()).reserve(math.prod(shape))
    scale = 1 / math.sqrt(max(q.shape[-1], 1)) if scale is None else float(scale)
    return _attention(
        q, k, v, attn_mask, dropout_p=float(dropout_p), is_causal=is_causal, scale=scale, block_size=block_size,
        key=key, offset=offset,
    )[0]  # fmt: skip


def _fit_shapes(q: Any, k: Any, v: Any, enable_gqa: bool) -> tuple:
    """q, k, v with the same leading axes (but for the number of heads), or a ValueError."""
    ok = min(q.ndim, k.ndim, v.ndim) >= 2 and q.shape[-1] == k.shape[-1] and k.shape[-2] == v.shape[-2]
    if ok and enable_gqa:
        ok = min(q.ndim, k.ndim, v.ndim) >= 3 and k.shape[-3] == v.shape[-3] and q.shape[-3] % k.shape[-3] == 0
    leads = []
    if ok:
        cut = -3 if enable_gqa else -2
        try:
            lead = np.broadcast_shapes(*(a.shape[:cut] for a in (q, k, v)))
        except ValueError:
            ok = False
        else:
            leads = [(*lead, *a.shape[cut:]) for a in (q, k, v)]
    if not ok:
        raise ValueError(
            f"scaled_dot_product_attention: shapes do not fit: q {describe(q)}, k {describe(k)}, v {describe(v)}; "
            f"expected (..., H, L, E), (..., H, S, E), (..., H, S, Ev)"
            + (" with H of q a multiple of that of k and v" if enable_gqa else "")
        )
    return tuple(a if a.shape == s else expand(a, s) for a, s in zip((q, k, v), leads))
