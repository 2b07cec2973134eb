"""Scaled dot-product attention, with memory linear in the sequence length if asked for.

Vaswani et al. 2017, eq. 1: softmax(Q Kᵀ / √E) V. The softmax is taken over blocks of keys with a running maximum and
sum, so that no more than one block of the (L, S) matrix exists at a time (Milakov & Gimelshein 2018; Rabe & Staats
2021; Dao et al. 2022, "FlashAttention", algorithms 1 and 4). What the backward pass needs to make the probabilities
again is one number a row, the log of the sum of exponentials.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from minidl.core.dtypes import result_dtype
from minidl.core.errors import describe
from minidl.core.primitive import primitive
from minidl.core.registry import backend_of, namespace
from minidl.ops.elementwise import astype, broadcast_to, exp, log, sum_to, where, zeros_like
from minidl.ops.linalg import matmul
from minidl.ops.random import keyed_dropout
from minidl.ops.reduction import max as max_
from minidl.ops.reduction import sum as sum_
from minidl.ops.shape import expand, repeat, reshape, swapaxes
from minidl.random import default_generator, philox_rounds


def _blocks(length: int, size: int | None) -> list[tuple[int, int]]:
    size = max(size or length, 1)
    return [(start, min(start + size, length)) for start in range(0, length, size)]


def _cut(mask: Any, rows: tuple[int, int], cols: tuple[int, int]) -> Any:
    """The part of a mask that broadcasts to (..., L, S) for some rows and columns."""
    r = slice(*rows) if mask.shape[-2] != 1 else slice(None)
    c = slice(*cols) if mask.shape[-1] != 1 else slice(None)
    return mask[..., r, c]


def _scores(q: Any, k: Any, mask: Any, rows: tuple, cols: tuple, is_causal: bool, scale: float, xp: Any) -> Any:
    """One block of Q Kᵀ · scale, -inf where a query must not see a key; q (..., H, l, E), k (..., Hkv, s, E)."""
    s = _grouped_matmul(q * scale, xp.swapaxes(k, -1, -2), xp)
    if mask is not None:
        part = _cut(mask, rows, cols)
        s = xp.where(part, s, -xp.inf) if part.dtype.kind == "b" else s + part
    if is_causal and cols[1] - 1 > rows[0]:
        later = xp.arange(*cols) > xp.arange(*rows)[:, None]
        s += xp.where(later, -xp.inf, 0).astype(s.dtype)
    return s


def _grouped_matmul(x: Any, y: Any, xp: Any) -> Any:
    """x @ y where a head of ``y`` serves consecutive heads of ``x``: (..., H, l, a), (..., Hkv, a, b)."""
    if x.ndim < 3 or x.shape[-3] == y.shape[-3]:
        return xp.matmul(x, y)
    tall = xp.matmul(_merge_heads(x, y.shape[-3]), y)
    return tall.reshape(*x.shape[:-1], y.shape[-1])


def _merge_heads(x: Any, kv_heads: int) -> Any:
    """(..., H, l, a) -> (..., Hkv, H / Hkv · l, a)."""
    *batch, heads, length, width = x.shape
    return x.reshape(*batch, kv_heads, heads // kv_heads * length, width)


def _grouped_outer(x: Any, y: Any, kv_heads: int, xp: Any) -> Any:
    """xᵀ @ y added up over each group of heads: (..., H, l, a), (..., H, l, b) -> (..., Hkv, a, b)."""
    if x.ndim >= 3 and x.shape[-3] != kv_heads:
        x, y = _merge_heads(x, kv_heads), _merge_heads(y, kv_heads)
    return xp.matmul(xp.swapaxes(x, -1, -2), y)


def _kept(shape: tuple, rows: tuple, cols: tuple, p: float, key: int, offset: int, like: Any) -> Any:
    """One block of the dropout mask, 1 / (1 - p) where an element is kept: the same bits that :func:`keyed_dropout`
    would use on the whole matrix of ``shape`` (..., L, S), so that the block size does not matter."""
    *batch, length, width = shape
    row = np.arange(math.prod(batch))[:, None] * length + np.arange(*rows)
    first = (row.reshape(-1) * width + (offset + cols[0])).astype(np.uint64)
    n = cols[1] - cols[0]
    # Philox makes four words a counter; a row's block may start within one
    counter = first[:, None] // np.uint64(4) + np.arange(n // 4 + 2, dtype=np.uint64)
    zero = np.zeros_like(counter)
    low = np.uint64(0xFFFFFFFF)
    words = philox_rounds(
        counter & low, counter >> np.uint64(32), zero, zero, np.uint64(key & 0xFFFFFFFF), np.uint64(key >> 32)
    )
    words = np.stack(words, axis=-1).reshape(len(first), 4 * counter.shape[1])
    bits = np.take_along_axis(words, (first % np.uint64(4)).astype(np.intp)[:, None] + np.arange(n), axis=1)
    kept = (bits >> np.uint64(8)) >= round(p * (1 << 24))
    kept = kept.reshape(*batch, rows[1] - rows[0], n).astype(like.dtype) * like.dtype.type(1 / (1 - p))
    return kept if type(like) is np.ndarray else backend_of(like).asarray(kept)


def _finite(m: Any, xp: Any) -> Any:
    """Zero for a row of which nothing is visible (m = -inf), so that exp(s - m) is 0 there, not NaN."""
    return xp.where(m == -xp.inf, 0, m)


@primitive(name="scaled_dot_product_attention", random=True)
def _attention(q, k, v, attn_mask=None, *, dropout_p, is_causal, scale, block_size, key, offset):
    """Returns (out, lse): (..., H, L, Ev) and the log-sum-exp of each row of scores, (..., H, L)."""
    xp = namespace(q, k, v)
    length, width = q.shape[-2], k.shape[-2]
    outs, lses = [], []
    for rows in _blocks(length, block_size):
        q_block = q[..., slice(*rows), :]
        m = total = acc = None
        for cols in _blocks(width, block_size):
            if is_causal and cols[0] >= rows[1]:
                break  # the keys that follow are all later than these queries
            s = _scores(q_block, k[..., slice(*cols), :], attn_mask, rows, cols, is_causal, scale, xp)
            m_block = s.max(axis=-1, keepdims=True)
            m_new = m_block if m is None else xp.maximum(m, m_block)
            s -= _finite(m_new, xp)
            p = xp.exp(s, out=s) if xp is np else xp.exp(s)
            sum_block = p.sum(axis=-1, keepdims=True)
            if dropout_p:
                p = p * _kept((*q.shape[:-1], width), rows, cols, dropout_p, key, offset, p)
            weighted = _grouped_matmul(p, v[..., slice(*cols), :], xp)
            if m is None:
                total, acc = sum_block, weighted
            else:
                correction = xp.exp(m - _finite(m_new, xp))
                total = total * correction + sum_block
                acc = acc * correction + weighted
            m = m_new
        if m is None:  # no keys at all
            acc = xp.zeros((*q_block.shape[:-1], v.shape[-1]), q.dtype)
            total, m = xp.zeros((*q_block.shape[:-1], 1), q.dtype), xp.full((*q_block.shape[:-1], 1), -xp.inf, q.dtype)
        empty = total == 0
        outs.append(acc / xp.where(empty, 1, total))
        lses.append((xp.where(empty, -xp.inf, xp.log(xp.where(empty, 1, total)) + _finite(m, xp)))[..., 0])
    if not outs:
        return xp.zeros((*q.shape[:-1], v.shape[-1]), q.dtype), xp.zeros(q.shape[:-1], q.dtype)
    return (outs[0], lses[0]) if len(outs) == 1 else (xp.concatenate(outs, axis=-2), xp.concatenate(lses, axis=-1))


@primitive(differentiable=False, random=True)
def attention_backward(
    g, g_lse, q, k, v, attn_mask, out, lse, *, dropout_p, is_causal, scale, block_size, key, offset, need_mask=False
):
    """Gradients (dq, dk, dv, dmask) from those of ``out`` and ``lse``; ``dmask`` is empty unless ``need_mask``.

    Blocks of probabilities are made again from ``lse``: P = exp(S - lse). With Z the dropout mask,
    dV = (P ⊙ Z)ᵀ dO; dS = P ⊙ ((dO Vᵀ) ⊙ Z - D + dlse) with D = rowsum(dO ⊙ O); dQ = dS K · scale;
    dK = dSᵀ Q · scale. The gradient of an additive mask is dS, for which the whole (L, S) matrix is made at once.
    """
    xp = namespace(q, k, v)
    if need_mask:
        block_size = None
    length, width = q.shape[-2], k.shape[-2]
    kv_heads = k.shape[-3] if k.ndim >= 3 else 1
    delta = (g * out).sum(axis=-1, keepdims=True) - g_lse[..., None]
    all_rows, all_cols = _blocks(length, block_size), _blocks(width, block_size)
    dq, dk, dv = [], [None] * len(all_cols), [None] * len(all_cols)
    dmask = xp.zeros((0,), q.dtype)
    for rows in all_rows:
        at = (..., slice(*rows), slice(None))
        q_block, g_block, lse_block = q[at], g[at], _finite(lse[..., slice(*rows), None], xp)
        dq_block = xp.zeros(q_block.shape, q.dtype)
        for j, cols in enumerate(all_cols):
            if is_causal and cols[0] >= rows[1]:
                break
            k_block, v_block = k[..., slice(*cols), :], v[..., slice(*cols), :]
            s = _scores(q_block, k_block, attn_mask, rows, cols, is_causal, scale, xp)
            s -= lse_block
            p = xp.exp(s, out=s) if xp is np else xp.exp(s)
            dp = _grouped_matmul(g_block, xp.swapaxes(v_block, -1, -2), xp)
            kept_p = p
            if dropout_p:
                kept = _kept((*q.shape[:-1], width), rows, cols, dropout_p, key, offset, p)
                kept_p, dp = p * kept, dp * kept
            dv_part = _grouped_outer(kept_p, g_block, kv_heads, xp)
            dp -= delta[at]
            dp *= p
            if need_mask:
                dmask = sum_to(dp, shape=attn_mask.shape)
            dk_part = _grouped_outer(dp, q_block, kv_heads, xp) * scale
            dq_block += _grouped_matmul(dp, k_block, xp) * scale
            dk[j] = dk_part if dk[j] is None else dk[j] + dk_part
            dv[j] = dv_part if dv[j] is None else dv[j] + dv_part
        dq.append(dq_block)
    return _joined(dq, q, None, xp), _joined(dk, k, all_cols, xp), _joined(dv, v, all_cols, xp), dmask


def _joined(parts: list, like: Any, spans: list | None, xp: Any) -> Any:
    """The blocks along the sequence as one array shaped ``like``; zeros for those that nothing touched."""
    if spans is not None:
        parts = [
            xp.zeros((*like.shape[:-2], b - a, like.shape[-1]), like.dtype) if p is None else p
            for p, (a, b) in zip(parts, spans)
        ]
    if not parts:
        return xp.zeros(like.shape, like.dtype)
    return parts[0] if len(parts) == 1 else xp.concatenate(parts, axis=-2)


@_attention.defvjp_all
def _attention_grad(g, needs, q, k, v, attn_mask, out, dropout_p, is_causal, scale, block_size, key, offset):
    params = {"dropout_p": dropout_p, "is_causal": is_causal, "scale": scale, "block_size": block_size}
    dq, dk, dv, dmask = attention_backward(
        *g, q, k, v, attn_mask, *out, key=key, offset=offset, need_mask=needs[3], **params
    )
    return dq, dk, dv, dmask if needs[3] else None


@_attention.defcomposite
def _attention_composite(q, k, v, attn_mask=None, *, dropout_p, is_causal, scale, block_size, key, offset):
    if q.ndim >= 3 and k.shape[-3] != q.shape[-3]:
        k, v = (repeat(a, q.shape[-3] // k.shape[-3], axis=-3) for a in (k, v))
    s = matmul(q * scale, swapaxes(k, -1, -2))
    if attn_mask is not None:
        s = where(attn_mask, s, -np.inf) if attn_mask.dtype.kind == "b" else s + attn_mask
    if is_causal:
        s = where(np.tri(q.shape[-2], k.shape[-2], dtype=bool), s, -np.inf)
    if s.shape[-1] == 0:
        zero = sum_(s, axis=-1, keepdims=True)
        return broadcast_to(zero, shape=(*q.shape[:-1], v.shape[-1])), reshape(zero, shape=q.shape[:-1])
    m = max_(getattr(s, "detach", lambda: s)(), axis=-1, keepdims=True)
    m = where(m == -np.inf, zeros_like(m), m)
    p = exp(s - m)
    total = sum_(p, axis=-1, keepdims=True)
    empty = total == 0
    safe = where(empty, 1.0, total)
    lse = reshape(where(empty, -np.inf, log(safe) + m), shape=q.shape[:-1])
    p = p / safe
    if dropout_p:
        p = keyed_dropout(p, p=dropout_p, key=key, offset=offset)
    return matmul(p, v), lse


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
        if attn_mask.dtype.kind not in "bf":
            raise TypeError(f"scaled_dot_product_attention: expected a bool or float mask, got {describe(attn_mask)}")
        if attn_mask.dtype.kind == "f" and attn_mask.dtype != q.dtype:
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
