"""Attention with caches, grouped heads, masks and windows; rotary positions; linear attention."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from minidl import ops
from minidl.interop.onnx.operators.elementwise import cast_to
from minidl.interop.onnx.registry import operator
from minidl.interop.onnx.values import dtype_of


def _heads(x: Any, count: int) -> Any:
    """(N, L, H * E) as (N, H, L, E)."""
    n, length, width = x.shape
    return ops.transpose(ops.reshape(x, (n, length, count, width // count)), (0, 2, 1, 3))


def _joined(x: Any) -> Any:
    """(N, H, L, E) as (N, L, H * E)."""
    n, heads, length, width = x.shape
    return ops.reshape(ops.transpose(x, (0, 2, 1, 3)), (n, length, heads * width))


def _hidden(q: Any, k: Any, offset: Any, causal: int, left: int, right: int) -> np.ndarray | None:
    """Where a query must not see a key: the query i of this call has the position ``offset + i``."""
    ahead = np.arange(k.shape[2]) - np.arange(q.shape[2])[:, None] - np.reshape(offset, (-1, 1, 1, 1))
    hidden = np.zeros(ahead.shape, bool)
    if causal:
        hidden |= ahead > 0
    if left >= 0:
        hidden |= -ahead > left
    if right >= 0:
        hidden |= ahead > right
    return hidden if causal or left >= 0 or right >= 0 else None


@operator("Attention", since=23, host="nonpad_kv_seqlen")
def attention(
    q, k, v, attn_mask=None, past_key=None, past_value=None, nonpad_kv_seqlen=None, *, is_causal=0, kv_num_heads=None,
    left_window_size=-1, q_num_heads=None, qk_matmul_output_mode=0, right_window_size=-1, scale=None, softcap=0.0,
    softmax_precision=None, outputs,
):  # fmt: skip
    """softmax(cap(q k' scale) + mask) v, with the keys and values of earlier calls before this one's."""
    flat = q.ndim == 3
    if flat:
        q, k, v = _heads(q, q_num_heads), _heads(k, kv_num_heads), _heads(v, kv_num_heads)
    if past_key is not None:
        k, v = ops.concat([past_key, k], axis=2), ops.concat([past_value, v], axis=2)
    present = (k, v)
    if (groups := q.shape[1] // k.shape[1]) > 1:
        k, v = ops.repeat_interleave(k, groups, axis=1), ops.repeat_interleave(v, groups, axis=1)
    factor = math.sqrt(1 / math.sqrt(q.shape[-1]) if scale is None else scale)
    seen = scores = ops.matmul(q * factor, ops.swapaxes(k * factor, -1, -2))
    if softcap:
        seen = scores = softcap * ops.tanh(scores / softcap)
    bias: Any = np.zeros(scores.shape[-2:], scores.dtype)
    if attn_mask is not None:
        short = k.shape[2] - attn_mask.shape[-1]
        if short > 0:
            widths = ((0, 0),) * (attn_mask.ndim - 1) + ((0, short),)
            low = False if attn_mask.dtype.kind == "b" else -np.inf
            attn_mask = ops.pad_nd(attn_mask, widths=widths, mode="constant", value=low)
        bias = ops.where(attn_mask, 0.0, -np.inf) if attn_mask.dtype.kind == "b" else bias + attn_mask
    if nonpad_kv_seqlen is not None:
        offset = nonpad_kv_seqlen.reshape(-1) - q.shape[2]
        bias = ops.where((np.arange(k.shape[2]) >= nonpad_kv_seqlen[:, None])[:, None, None], -np.inf, bias)
    else:
        offset = np.array(0 if past_key is None else past_key.shape[2])
    hidden = _hidden(q, k, offset, is_causal, left_window_size, right_window_size)
    bias = bias if hidden is None else ops.where(hidden, -np.inf, bias)
    scores = ops.astype(scores + bias, dtype=q.dtype)
    if qk_matmul_output_mode == 2:
        seen = scores
    wide = scores if softmax_precision is None else cast_to(scores, dtype_of(softmax_precision))
    blind = ops.amax(bias, axis=-1, keepdims=True) == -np.inf
    weights = ops.where(blind, 0.0, ops.softmax(ops.where(blind, 0.0, wide), axis=-1))
    weights = ops.astype(weights, dtype=q.dtype)
    if qk_matmul_output_mode == 3:
        seen = weights
    out = ops.matmul(weights, v)
    return (_joined(out) if flat else out, *present, seen)[:outputs]


@operator("RotaryEmbedding", since=23, host="position_ids")
def rotary_embedding(x, cos, sin, position_ids=None, *, interleaved=0, num_heads=None, rotary_embedding_dim=0):
    """Pairs of numbers turned by an angle that grows with the position (Su et al. 2021)."""
    flat = x.ndim == 3
    x = _heads(x, num_heads) if flat else x
    size = rotary_embedding_dim or x.shape[-1]
    if position_ids is not None:
        cos, sin = ops.take(cos, position_ids, axis=0), ops.take(sin, position_ids, axis=0)
    cos, sin = ops.expand_dims(cos, 1), ops.expand_dims(sin, 1)
    turned, rest = x[..., :size], x[..., size:]
    a, b = (
        (turned[..., ::2], turned[..., 1::2]) if interleaved else (turned[..., : size // 2], turned[..., size // 2 :])
    )
    pair = [a * cos - b * sin, a * sin + b * cos]
    turned = ops.reshape(ops.stack(pair, axis=-1), turned.shape) if interleaved else ops.concat(pair, axis=-1)
    out = ops.concat([turned, rest], axis=-1)
    return _joined(out) if flat else out


@operator("LinearAttention", since=24)
def linear_attention(
    q, k, v, past_state=None, decay=None, beta=None, *, chunk_size=None, kv_num_heads, q_num_heads, scale=0.0,
    update_rule="gated_delta",
):  # fmt: skip
    """A state of keys times values that every step adds to (Katharopoulos et al. 2020), with a decay (Yang et al.
    2023) and the delta rule (Schlag et al. 2021) where they are given."""
    wide = [
        ops.astype(_heads(a, h), dtype=np.float32) for a, h in ((q, q_num_heads), (k, kv_num_heads), (v, kv_num_heads))
    ]
    query, key, value = wide
    _n, heads, length, width = key.shape
    if past_state is None:
        state = ops.zeros_like(ops.matmul(ops.swapaxes(key[:, :, :1], -1, -2), value[:, :, :1]))
    else:
        state = ops.astype(past_state, dtype=np.float32)
    share = scale or 1 / math.sqrt(width)
    fade = None if decay is None else ops.exp(ops.astype(_heads(decay, heads), dtype=np.float32))
    rate = None if beta is None else ops.astype(_heads(beta, beta.shape[-1]), dtype=np.float32)
    outs = []
    for t in range(length):
        kt, vt = key[:, :, t, :, None], value[:, :, t, None, :]
        if fade is not None:
            state = state * fade[:, :, t, :, None]
        if rate is not None:
            vt = rate[:, :, t, :, None] * (vt - ops.sum(state * kt, axis=-2, keepdims=True))
        state = state + kt * vt
        seen = ops.repeat_interleave(state, query.shape[1] // heads, axis=1)
        outs.append(share * ops.matmul(query[:, :, t, None], seen))
    out = _joined(ops.concat(outs, axis=2))
    like = q if past_state is None else past_state
    return ops.astype(out, dtype=q.dtype), ops.astype(state, dtype=like.dtype)
