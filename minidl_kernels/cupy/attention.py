"""Attention in tiles, with memory linear in the sequence length whatever ``block_size`` is."""

from __future__ import annotations

import math
from typing import Any

import cupy
import numpy as np

from minidl.backend import kernel
from minidl_kernels.cupy.launch import FLOATS, accumulation, contiguous, floats, kept, launch, over_rows, wide

# what a NaN in a hidden key or value does depends on whether it is in a tile that is passed over
_TOLERANCE = {"nonfinite": "may differ"}
#: a tile's elements in shared memory are of the accumulation type
_WIDEST = {4: 128, 8: 64}


def _fits(q: Any, k: Any, v: Any, attn_mask: Any = None, **params: Any) -> bool:
    """floating-point arrays of one dtype, not empty; heads no wider than 128 (float64: 64)"""
    return (
        floats(q, k, v)
        and k.size > 0
        and v.size > 0
        and max(q.shape[-1], v.shape[-1]) <= _WIDEST[accumulation(q.dtype).itemsize]
        and (attn_mask is None or (isinstance(attn_mask, cupy.ndarray) and attn_mask.dtype in (np.bool_, q.dtype)))
    )


def _fits_backward(
    g: Any, g_lse: Any, q: Any, k: Any, v: Any, attn_mask: Any, out: Any, lse: Any, *, need_mask: bool = False,
    **params: Any,
) -> bool:  # fmt: skip
    """as the forward kernel; no gradient for the mask"""
    return not need_mask and _fits(q, k, v, attn_mask) and floats(q, g, out) and kept(q, g_lse, lse)


class _Call:
    """What all kernels of ``attention.cu`` are given: sizes, mask, dropout."""

    def __init__(self, q, k, v, mask, *, dropout_p, is_causal, scale, block_size, key, offset) -> None:
        self.dtype = q.dtype
        self.length, self.keys, self.width, self.value_width = q.shape[-2], k.shape[-2], q.shape[-1], v.shape[-1]
        self.heads = q.shape[-3] if q.ndim > 2 else 1
        self.kv_heads = k.shape[-3] if k.ndim > 2 else 1
        self.batch = math.prod(q.shape[:-3])
        self.wide = max(self.width, self.value_width) > 64
        # QUERIES and TILE of attention.cu
        self.queries, self.tile = (64, 32) if not self.wide and accumulation(self.dtype).itemsize == 4 else (32, 16)
        mask, strides = (None, (0, 0, 0, 0)) if mask is None else self._mask(mask, q.shape[:-3])
        boolean = mask is not None and mask.dtype == np.bool_
        self.arguments = (
            self.heads, self.kv_heads, self.length, self.keys, self.width, self.value_width, bool(is_causal),
            float(scale), mask if boolean else None, None if boolean else mask, *strides,
            np.uint32(round(dropout_p * (1 << 24))), 1 / (1 - dropout_p), np.uint64(key), np.uint64(offset),
        )  # fmt: skip

    def _mask(self, mask: Any, lead: tuple) -> tuple[Any, tuple[int, ...]]:
        """The mask, contiguous, and its strides along (batch, heads, queries, keys): 0 where it broadcasts."""
        shape = (1,) * (len(lead) + 3 - mask.ndim) + tuple(mask.shape)
        mask = mask.reshape(shape)
        if any(n != 1 for n in shape[:-3]):
            mask = cupy.broadcast_to(mask, (*lead, *shape[-3:]))
        mask = contiguous(mask)
        sizes = (math.prod(mask.shape[:-3]), *shape[-3:])
        return mask, tuple(0 if n == 1 else math.prod(sizes[axis + 1 :]) for axis, n in enumerate(sizes))

    def launch(self, name: str, blocks: int, *arrays: Any) -> None:
        wide = "true" if self.wide else "false"
        launch("attention", f"{name}<T, {wide}>", self.dtype, (blocks,), (16, 16), *arrays, *self.arguments)

    def query_blocks(self, size: int) -> int:
        """Tiles of ``size`` queries."""
        return self.batch * self.heads * -(-self.length // size)

    def key_blocks(self, size: int) -> int:
        return self.batch * self.kv_heads * -(-self.keys // size)


@kernel(
    "scaled_dot_product_attention", backend="cupy", when=_fits, dtypes=FLOATS, note="tiles; linear memory",
    tolerance=_TOLERANCE,
)  # fmt: skip
def attention(q: Any, k: Any, v: Any, attn_mask: Any = None, **params: Any) -> tuple[Any, Any]:
    q, k, v = contiguous(q, k, v)
    call = _Call(q, k, v, attn_mask, **params)
    out, lse = cupy.empty((*q.shape[:-1], v.shape[-1]), q.dtype), cupy.empty(q.shape[:-1], accumulation(q.dtype))
    call.launch("attention", call.query_blocks(call.queries), q, k, v, out, lse)
    return out, lse


@kernel(
    "attention_backward", backend="cupy", when=_fits_backward, dtypes=FLOATS, note="tiles; linear memory",
    tolerance=_TOLERANCE,
)  # fmt: skip
def attention_backward(
    g: Any, g_lse: Any, q: Any, k: Any, v: Any, attn_mask: Any, out: Any, lse: Any, *, need_mask: bool = False,
    **params: Any,
) -> tuple[Any, ...]:  # fmt: skip
    g, q, k, v, out = contiguous(g, q, k, v, out)
    g_lse, lse = wide(g_lse, lse)
    call = _Call(q, k, v, attn_mask, **params)
    delta = cupy.empty(lse.shape, lse.dtype)
    launch(
        "attention", "attention_delta<T>", q.dtype, *over_rows(lse.size, 32),
        g, out, g_lse, lse.size, v.shape[-1], delta,
    )  # fmt: skip
    dq, dk, dv = (cupy.empty(a.shape, a.dtype) for a in (q, k, v))
    call.launch("attention_grad_kv", call.key_blocks(call.tile), g, q, k, v, lse, delta, dk, dv)
    call.launch("attention_grad_q", call.query_blocks(call.tile), g, q, k, v, lse, delta, dq)
    return dq, dk, dv, cupy.zeros((0,), q.dtype)
