"""Attention in blocks of queries, so that memory grows with L + S instead of L · S: one block after the other."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jax.numpy as jnp
import numpy as np

from minidl.backend import kernel
from minidl.ops import primitives

_attention, _backward = (primitives[name].reference for name in ("scaled_dot_product_attention", "attention_backward"))


def _in_blocks(*arrays: Any, dropout_p: float, block_size: int | None, need_mask: bool = False, **params: Any) -> bool:
    """block_size given, no dropout, no gradient for the mask"""
    return block_size is not None and not dropout_p and not need_mask


def _blocks(q: Any, k: Any, mask: Any, is_causal: bool, size: int) -> Iterator[tuple[slice, Any]]:
    """Rows of queries, and the mask that says what these may see."""
    length, width = q.shape[-2], k.shape[-2]
    for start in range(0, length, size):
        rows = slice(start, min(start + size, length))
        part = mask if mask is None or mask.shape[-2] == 1 else mask[..., rows, :]
        if is_causal:
            sees = jnp.asarray(np.arange(width) <= np.arange(rows.start, rows.stop)[:, None])
            part = sees if part is None else part & sees if part.dtype == bool else jnp.where(sees, part, -np.inf)
        yield rows, part


@kernel("scaled_dot_product_attention", backend="jax", when=_in_blocks, note="in blocks of queries")
def attention(
    q: Any, k: Any, v: Any, attn_mask: Any = None, *, is_causal: bool, block_size: int, **params: Any
) -> tuple[Any, Any]:
    outs, lses = [], []
    for rows, mask in _blocks(q, k, attn_mask, is_causal, block_size):
        out, lse = _attention(q[..., rows, :], k, v, mask, is_causal=False, block_size=None, **params)
        outs.append(out)
        lses.append(lse)
    if not outs:
        return _attention(q, k, v, attn_mask, is_causal=is_causal, block_size=None, **params)
    return jnp.concatenate(outs, axis=-2), jnp.concatenate(lses, axis=-1)


@kernel("attention_backward", backend="jax", when=_in_blocks, note="in blocks of queries")
def attention_backward(
    g: Any, g_lse: Any, q: Any, k: Any, v: Any, attn_mask: Any, out: Any, lse: Any, *, is_causal: bool,
    block_size: int, **params: Any,
) -> tuple[Any, ...]:  # fmt: skip
    dqs, dk, dv = [], jnp.zeros_like(k), jnp.zeros_like(v)
    for rows, mask in _blocks(q, k, attn_mask, is_causal, block_size):
        at = (..., rows, slice(None))
        dq, dk_part, dv_part, _ = _backward(
            g[at], g_lse[..., rows], q[at], k, v, mask, out[at], lse[..., rows], is_causal=False, block_size=None,
            **params,
        )  # fmt: skip
        dqs.append(dq)
        dk, dv = dk + dk_part, dv + dv_part
    dq = jnp.concatenate(dqs, axis=-2) if dqs else jnp.zeros_like(q)
    return dq, dk, dv, jnp.zeros((0,), q.dtype)
