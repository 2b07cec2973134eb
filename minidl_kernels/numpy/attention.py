"""Attention in blocks of queries and keys, so that memory grows with L + S instead of L · S if asked for.

The softmax is taken over blocks of keys with a running maximum and sum, so that no more than one block of the (L, S)
matrix exists at a time (Milakov & Gimelshein 2018; Rabe & Staats 2021; Dao et al. 2022, "FlashAttention", algorithms 1
and 4).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from minidl.backend import kernel
from minidl.ops.elementwise import sum_to
from minidl.random import philox_rounds

# blocks that are masked out are left out, where the formula has 0 * NaN
_TOLERANCE = {"nonfinite": "may differ"}


def _blocks(length: int, size: int | None) -> list[tuple[int, int]]:
    size = max(size or length, 1)
    return [(start, min(start + size, length)) for start in range(0, length, size)]


def _cut(mask: Any, rows: tuple[int, int], cols: tuple[int, int]) -> Any:
    """The part of a mask that broadcasts to (..., L, S) for some rows and columns."""
    r = slice(*rows) if mask.shape[-2] != 1 else slice(None)
    c = slice(*cols) if mask.shape[-1] != 1 else slice(None)
    return mask[..., r, c]


def _scores(q: Any, k: Any, mask: Any, rows: tuple, cols: tuple, is_causal: bool, scale: float) -> Any:
    """One block of Q Kᵀ · scale, -inf where a query must not see a key; q (..., H, l, E), k (..., Hkv, s, E)."""
    s = _grouped_matmul(q * scale, np.swapaxes(k, -1, -2))
    if mask is not None:
        part = _cut(mask, rows, cols)
        s = np.where(part, s, -np.inf) if part.dtype.kind == "b" else s + part
    if is_causal and cols[1] - 1 > rows[0]:
        later = np.arange(*cols) > np.arange(*rows)[:, None]
        s += np.where(later, -np.inf, 0).astype(s.dtype)
    return s


def _grouped_matmul(x: Any, y: Any) -> Any:
    """x @ y where a head of ``y`` serves consecutive heads of ``x``: (..., H, l, a), (..., Hkv, a, b)."""
    if x.ndim < 3 or x.shape[-3] == y.shape[-3]:
        return np.matmul(x, y)
    tall = np.matmul(_merge_heads(x, y.shape[-3]), y)
    return tall.reshape(*x.shape[:-1], y.shape[-1])


def _merge_heads(x: Any, kv_heads: int) -> Any:
    """(..., H, l, a) -> (..., Hkv, H / Hkv · l, a)."""
    *batch, heads, length, width = x.shape
    return x.reshape(*batch, kv_heads, heads // kv_heads * length, width)


def _grouped_outer(x: Any, y: Any, kv_heads: int) -> Any:
    """xᵀ @ y added up over each group of heads: (..., H, l, a), (..., H, l, b) -> (..., Hkv, a, b)."""
    if x.ndim >= 3 and x.shape[-3] != kv_heads:
        x, y = _merge_heads(x, kv_heads), _merge_heads(y, kv_heads)
    return np.matmul(np.swapaxes(x, -1, -2), y)


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
    return kept.reshape(*batch, rows[1] - rows[0], n).astype(like.dtype) * like.dtype.type(1 / (1 - p))


def _finite(m: Any) -> Any:
    """Zero for a row of which nothing is visible (m = -inf), so that exp(s - m) is 0 there, not NaN."""
    return np.where(m == -np.inf, 0, m)


@kernel(
    "scaled_dot_product_attention", backend="numpy", note="in blocks of queries and keys, scores in place",
    tolerance=_TOLERANCE,
)  # fmt: skip
def scaled_dot_product_attention(q, k, v, attn_mask=None, *, dropout_p, is_causal, scale, block_size, key, offset):
    """Returns (out, lse): (..., H, L, Ev) and the log-sum-exp of each row of scores, (..., H, L)."""
    length, width = q.shape[-2], k.shape[-2]
    outs, lses = [], []
    for rows in _blocks(length, block_size):
        q_block = q[..., slice(*rows), :]
        m = total = acc = None
        for cols in _blocks(width, block_size):
            if is_causal and cols[0] >= rows[1]:
                break  # the keys that follow are all later than these queries
            s = _scores(q_block, k[..., slice(*cols), :], attn_mask, rows, cols, is_causal, scale)
            m_block = s.max(axis=-1, keepdims=True)
            m_new = m_block if m is None else np.maximum(m, m_block)
            s -= _finite(m_new)
            p = np.exp(s, out=s)
            sum_block = p.sum(axis=-1, keepdims=True)
            if dropout_p:
                p = p * _kept((*q.shape[:-1], width), rows, cols, dropout_p, key, offset, p)
            weighted = _grouped_matmul(p, v[..., slice(*cols), :])
            if m is None:
                total, acc = sum_block, weighted
            else:
                correction = np.exp(m - _finite(m_new))
                total = total * correction + sum_block
                acc = acc * correction + weighted
            m = m_new
        if m is None:  # no keys at all
            acc = np.zeros((*q_block.shape[:-1], v.shape[-1]), q.dtype)
            total, m = np.zeros((*q_block.shape[:-1], 1), q.dtype), np.full((*q_block.shape[:-1], 1), -np.inf, q.dtype)
        empty = total == 0
        outs.append(acc / np.where(empty, 1, total))
        lses.append((np.where(empty, -np.inf, np.log(np.where(empty, 1, total)) + _finite(m)))[..., 0])
    if not outs:
        return np.zeros((*q.shape[:-1], v.shape[-1]), q.dtype), np.zeros(q.shape[:-1], q.dtype)
    return (outs[0], lses[0]) if len(outs) == 1 else (np.concatenate(outs, axis=-2), np.concatenate(lses, axis=-1))


@kernel(
    "attention_backward", backend="numpy", note="the weights are made again a block at a time",
    tolerance=_TOLERANCE,
)  # fmt: skip
def attention_backward(
    g, g_lse, q, k, v, attn_mask, out, lse, *, dropout_p, is_causal, scale, block_size, key, offset, need_mask=False
):
    """Gradients (dq, dk, dv, dmask) from those of ``out`` and ``lse``; ``dmask`` is empty unless ``need_mask``.

    Blocks of probabilities are made again from ``lse``: P = exp(S - lse). With Z the dropout mask,
    dV = (P ⊙ Z)ᵀ dO; dS = P ⊙ ((dO Vᵀ) ⊙ Z - D + dlse) with D = rowsum(dO ⊙ O); dQ = dS K · scale;
    dK = dSᵀ Q · scale. The gradient of an additive mask is dS, for which the whole (L, S) matrix is made at once.
    """
    if need_mask:
        block_size = None
    length, width = q.shape[-2], k.shape[-2]
    kv_heads = k.shape[-3] if k.ndim >= 3 else 1
    delta = (g * out).sum(axis=-1, keepdims=True) - g_lse[..., None]
    all_rows, all_cols = _blocks(length, block_size), _blocks(width, block_size)
    dq, dk, dv = [], [None] * len(all_cols), [None] * len(all_cols)
    dmask = np.zeros((0,), q.dtype)
    for rows in all_rows:
        at = (..., slice(*rows), slice(None))
        q_block, g_block, lse_block = q[at], g[at], _finite(lse[..., slice(*rows), None])
        dq_block = np.zeros(q_block.shape, q.dtype)
        for j, cols in enumerate(all_cols):
            if is_causal and cols[0] >= rows[1]:
                break
            k_block, v_block = k[..., slice(*cols), :], v[..., slice(*cols), :]
            s = _scores(q_block, k_block, attn_mask, rows, cols, is_causal, scale)
            s -= lse_block
            p = np.exp(s, out=s)
            dp = _grouped_matmul(g_block, np.swapaxes(v_block, -1, -2))
            kept_p = p
            if dropout_p:
                kept = _kept((*q.shape[:-1], width), rows, cols, dropout_p, key, offset, p)
                kept_p, dp = p * kept, dp * kept
            dv_part = _grouped_outer(kept_p, g_block, kv_heads)
            dp -= delta[at]
            dp *= p
            if need_mask:
                dmask = sum_to(dp, shape=attn_mask.shape)
            dk_part = _grouped_outer(dp, q_block, kv_heads) * scale
            dq_block += _grouped_matmul(dp, k_block) * scale
            dk[j] = dk_part if dk[j] is None else dk[j] + dk_part
            dv[j] = dv_part if dv[j] is None else dv[j] + dv_part
        dq.append(dq_block)
    return _joined(dq, q, None), _joined(dk, k, all_cols), _joined(dv, v, all_cols), dmask


def _joined(parts: list, like: Any, spans: list | None) -> Any:
    """The blocks along the sequence as one array shaped ``like``; zeros for those that nothing touched."""
    if spans is not None:
        parts = [
            np.zeros((*like.shape[:-2], b - a, like.shape[-1]), like.dtype) if p is None else p
            for p, (a, b) in zip(parts, spans)
        ]
    if not parts:
        return np.zeros(like.shape, like.dtype)
    return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=-2)
