"""Scaled dot-product attention a block of queries at a time, so that memory is linear in the sequence length.

The scores of a block against some hundred keys stay in the cache between the products and the softmax, whose maximum
and sum run along (Dao et al. 2022, "FlashAttention"). They are kept with the queries side by side, a row a key, so that
maximum and sum are taken of whole vectors. With a causal mask, keys that are later than all queries of a block are
passed over. Threads take heads (and, forward, parts of the queries).
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import numpy as np
from numba import from_dtype, get_num_threads, prange, types

from minidl.backend import kernel
from minidl_kernels.numba.simd.common import FLOATS, PARALLEL_FROM
from minidl_kernels.numba.simd.compiled import compiled
from minidl_kernels.numba.simd.gemm import pack_transposed, packed_product, product, unit_stride
from minidl_kernels.numba.simd.tiles import add_rows, max_rows, panel_width
from minidl_kernels.numba.simd.vecmath import add_any_order, exp, log

#: keys that are worked on together; queries are as many as a panel has columns
KEYS = 128
#: queries of one head from which it is shared out among threads
_QUERIES_APART = 256

# with a block size, the reference passes over some keys even where they are NaN or Inf
_TOLERANCE = {"nonfinite": "may spread"}


class _Head(NamedTuple):
    """One head's arrays and what holds for all of them; ``seen`` and ``bias`` are of size 0 for masks that are not
    there. With ``skip``, keys that are later than all queries of a block need not be looked at."""

    q: np.ndarray
    k: np.ndarray
    v: np.ndarray
    seen: np.ndarray
    bias: np.ndarray
    causal: bool
    skip: bool
    scale: float


class _Room(NamedTuple):
    """Scratch for a block of queries: packed; their scores; maximum, sum, a factor and the output of each."""

    panel: np.ndarray
    s: np.ndarray
    top: np.ndarray
    total: np.ndarray
    by: np.ndarray
    acc: np.ndarray


class _BackwardRoom(NamedTuple):
    """Scratch for a block of queries: they and the output's gradient packed; weights and their gradient; two numbers
    of each query."""

    q_panel: np.ndarray
    g_panel: np.ndarray
    s: np.ndarray
    d: np.ndarray
    base: np.ndarray
    delta: np.ndarray


@compiled
def _finite(x, sums):
    """Are all numbers of ``x`` finite? ``sums`` is scratch, as long as a row."""
    zero = x.dtype.type(0)
    sums[:] = zero
    for i in range(x.shape[0]):
        row = unit_stride(x[i])
        for j in range(row.size):
            sums[j] += row[j] * zero
    good = True
    for j in range(x.shape[1]):
        good &= sums[j] == zero
    return good


@compiled
def _scores(head, panel, i0, rows, j0, s):
    """``s`` (keys, queries) = the scaled scores of ``rows`` queries from ``i0`` on, packed, and keys from ``j0`` on."""
    nothing = s.dtype.type(-np.inf)
    packed_product(head.k[j0 : j0 + s.shape[0]], panel, s, False)
    if head.seen.size:
        for j in range(s.shape[0]):
            for i in range(rows):
                if not head.seen[i0 + i, j0 + j]:
                    s[j, i] = nothing
    if head.bias.size:
        for j in range(s.shape[0]):
            for i in range(rows):
                s[j, i] += head.bias[i0 + i, j0 + j]
    if head.causal:
        for j in range(max(i0 + 1 - j0, 0), s.shape[0]):
            row, hidden = s[j], min(j0 + j - i0, s.shape[1])
            for i in range(hidden):
                row[i] += nothing


@compiled
def _forward_rows(head, room, out, lse, start, stop):
    """Queries ``start`` to ``stop`` of one head."""
    q, k, v = head.q, head.k, head.v
    panel, s, top, total, by, acc = room
    zero, one = q.dtype.type(0), q.dtype.type(1)
    lowest, wide = q.dtype.type(-np.inf), panel_width(q)
    for i0 in range(start, stop, wide):
        i1 = min(i0 + wide, stop)
        end = min(k.shape[0], i1) if head.skip else k.shape[0]
        pack_transposed(q[i0:i1], panel, head.scale)
        top[:] = lowest
        total[:] = zero
        for j0 in range(0, end, KEYS):
            j1 = min(j0 + KEYS, end)
            part = s[: j1 - j0]
            _scores(head, panel, i0, i1 - i0, j0, part)
            by[:] = top
            max_rows(part, top)
            for i in range(wide):
                base = zero if top[i] == lowest else top[i]
                by[i] = exp(by[i] - base)
                total[i] *= by[i]
            for j in range(part.shape[0]):
                for i in range(wide):
                    part[j, i] = exp(part[j, i] - (zero if top[i] == lowest else top[i]))
            add_rows(part, total)
            if j0 > 0:
                for i in range(i1 - i0):
                    for j in range(acc.shape[1]):
                        acc[i, j] *= by[i]
            product(part.T[: i1 - i0], v[j0:j1], acc[: i1 - i0], j0 > 0)
        for i in range(wide):
            by[i] = one / (one if total[i] == zero else total[i])
            base = zero if top[i] == lowest else top[i]
            total[i] = lowest if total[i] == zero else log(total[i]) + base
        for i in range(i1 - i0):
            to = out[i0 + i]
            for j in range(to.size):
                to[j] = acc[i, j] * by[i]
            lse[i0 + i] = total[i]


@compiled
def _forward_items(inputs, out, lse, apart, start, stop):
    """Work items ``start`` to ``stop``: head by head, each in ``apart`` parts of its queries."""
    q, k, v, seen, bias, causal, scale = inputs
    heads, queries, share, wide = q.shape[1], q.shape[2], q.shape[1] // k.shape[1], panel_width(q)
    room = _Room(
        np.empty((1, q.shape[3], wide), q.dtype), np.empty((min(KEYS, k.shape[2]), wide), q.dtype),
        np.empty(wide, q.dtype), np.empty(wide, q.dtype), np.empty(wide, q.dtype),
        np.empty((wide, v.shape[3]), q.dtype),
    )  # fmt: skip
    sums = np.empty(max(k.shape[3], v.shape[3]), q.dtype)
    held, skip = -1, False
    for item in range(start, stop):
        b, h, part = item // apart // heads, item // apart % heads, item % apart
        keys, values = k[b, h // share], v[b, h // share]
        if b * heads + h // share != held:
            held = b * heads + h // share
            # a weight of zero does not hide NaN or Inf
            skip = causal and _finite(keys, sums) and _finite(values, sums)
        head = _Head(q[b, h], keys, values, seen[b, h], bias[b, h], causal, skip, scale)
        _forward_rows(head, room, out[b, h], lse[b, h], part * queries // apart, (part + 1) * queries // apart)


def _forward_parallel(inputs, out, lse, apart, count):
    items = inputs[0].shape[0] * inputs[0].shape[1] * apart
    for c in prange(count):
        _forward_items(inputs, out, lse, apart, c * items // count, (c + 1) * items // count)


@compiled
def _backward_rows(head, g, g_lse, y, lse, room, dq, dk, dv):
    """One head, given its output ``y`` and ``lse``, and their gradients."""
    q, k, v, scale = head.q, head.k, head.v, head.scale
    q_panel, g_panel, s, d, base, delta = room
    zero, one, lowest, wide = q.dtype.type(0), q.dtype.type(1), q.dtype.type(-np.inf), panel_width(q)
    for i0 in range(0, q.shape[0], wide):
        i1 = min(i0 + wide, q.shape[0])
        end = min(k.shape[0], i1) if head.skip else k.shape[0]
        pack_transposed(q[i0:i1], q_panel, scale)
        pack_transposed(g[i0:i1], g_panel, one)
        base[:] = zero
        delta[:] = zero
        for i in range(i1 - i0):
            near, value, total = unit_stride(g[i0 + i]), unit_stride(y[i0 + i]), zero
            for j in range(near.size):
                total = add_any_order(total, near[j] * value[j])
            delta[i] = total - g_lse[i0 + i]
            base[i] = zero if lse[i0 + i] == lowest else lse[i0 + i]
        for j0 in range(0, end, KEYS):
            j1 = min(j0 + KEYS, end)
            weights, slopes = s[: j1 - j0], d[: j1 - j0]
            _scores(head, q_panel, i0, i1 - i0, j0, weights)
            packed_product(v[j0:j1], g_panel, slopes, False)
            for j in range(weights.shape[0]):
                for i in range(wide):
                    weights[j, i] = exp(weights[j, i] - base[i])
            for j in range(weights.shape[0]):
                for i in range(wide):
                    slopes[j, i] = (slopes[j, i] - delta[i]) * weights[j, i] * scale
            product(weights[:, : i1 - i0], g[i0:i1], dv[j0:j1], True)
            product(slopes[:, : i1 - i0], q[i0:i1], dk[j0:j1], True)
            product(slopes.T[: i1 - i0], k[j0:j1], dq[i0:i1], j0 > 0)


@compiled
def _backward_items(inputs, given, gradients, start, stop):
    """The heads ``start`` to ``stop`` of ``k`` and ``v``, each with all heads of ``q`` that it serves."""
    q, k, v, seen, bias, causal, scale = inputs
    g, g_lse, y, lse = given
    dq, dk, dv = gradients
    heads, share, wide = k.shape[1], q.shape[1] // k.shape[1], panel_width(q)
    block = (min(KEYS, k.shape[2]), wide)
    room = _BackwardRoom(
        np.empty((1, q.shape[3], wide), q.dtype), np.empty((1, v.shape[3], wide), q.dtype), np.empty(block, q.dtype),
        np.empty(block, q.dtype), np.empty(wide, q.dtype), np.empty(wide, q.dtype),
    )  # fmt: skip
    sums = np.empty(max(k.shape[3], v.shape[3]), q.dtype)
    for item in range(start, stop):
        b, n = item // heads, item % heads
        keys, values = k[b, n], v[b, n]
        # a weight of zero does not hide NaN or Inf
        finite = causal and _finite(keys, sums) and _finite(values, sums)
        dk[b, n] = 0
        dv[b, n] = 0
        for h in range(n * share, (n + 1) * share):
            skip = finite and _finite(q[b, h], sums) and _finite(g[b, h], sums)
            head = _Head(q[b, h], keys, values, seen[b, h], bias[b, h], causal, skip, scale)
            _backward_rows(head, g[b, h], g_lse[b, h], y[b, h], lse[b, h], room, dq[b, h], dk[b, n], dv[b, n])


def _backward_parallel(inputs, given, gradients, count):
    items = inputs[1].shape[0] * inputs[1].shape[1]
    for c in prange(count):
        _backward_items(inputs, given, gradients, c * items // count, (c + 1) * items // count)


@functools.cache
def _compiled(function: Any, arguments: tuple[str, ...], dtype: np.dtype, parallel: bool) -> Any:
    """``function`` compiled for arrays of any strides, so that not every mix of layouts is compiled by itself.

    ``arguments`` has a letter for each, several for a tuple (not a named one, for which Numba would have to be given
    the strides as declared): X a 4-d input, m the boolean mask, x a 3-d input, Y and y 4-d and 3-d outputs, s a scalar,
    b a bool, n an integer.
    """
    number = from_dtype(dtype)
    kinds = {
        "X": types.Array(number, 4, "A", readonly=True),
        "m": types.Array(types.boolean, 4, "A", readonly=True),
        "x": types.Array(number, 3, "C", readonly=True),
        "Y": types.Array(number, 4, "C"),
        "y": types.Array(number, 3, "C"),
        "s": number,
        "b": types.boolean,
        "n": types.intp,
    }
    passed = (kinds[a] if len(a) == 1 else types.BaseTuple.from_types([kinds[k] for k in a]) for a in arguments)
    return compiled(function, parallel=parallel, signature=types.void(*passed))


def _run(
    items: Any, parallel: Any, arguments: tuple[str, ...], dtype: np.dtype, work: int, count: int, *values: Any
) -> None:
    """Compute ``count`` work items, on several threads if ``work`` (scores) is worth it."""
    threads = get_num_threads() if work >= PARALLEL_FROM else 1
    if threads == 1 or count == 1:
        _compiled(items.py_func, (*arguments, "n", "n"), dtype, False)(*values, 0, count)
    else:
        _compiled(parallel, (*arguments, "n"), dtype, True)(*values, min(count, 4 * threads))


def _serves(
    q: Any, k: Any, v: Any, attn_mask: Any = None, *others: Any, dropout_p: float, need_mask: bool = False, **more: Any
) -> bool:
    """float32 or float64, not empty, no dropout, no gradient of the mask; more than 4 queries or at most 256 keys"""
    return (
        not dropout_p
        and (q.shape[-2] > 4 or k.shape[-2] <= 256)
        and not need_mask
        and q.dtype in FLOATS
        and all(type(a) is np.ndarray and a.dtype == q.dtype and a.size > 0 for a in (q, k, v, *others))
        and (
            attn_mask is None
            or (type(attn_mask) is np.ndarray and attn_mask.size > 0 and attn_mask.dtype in (q.dtype, np.bool_))
        )
    )


def _backward_serves(
    g: Any, g_lse: Any, q: Any, k: Any, v: Any, attn_mask: Any, out: Any, lse: Any, **params: Any
) -> bool:
    """float32 or float64, not empty, no dropout, no gradient of the mask; more than 4 queries or at most 256 keys"""
    return _serves(q, k, v, attn_mask, g, g_lse, out, lse, **params)


def _heads(a: np.ndarray) -> np.ndarray:
    """(..., H, L, E) as (N, H, L, E), rows of unit stride."""
    if a.strides[-1] != a.itemsize:
        a = np.ascontiguousarray(a)
    return a[None, None] if a.ndim == 2 else a.reshape(-1, *a.shape[-3:])


def _rows(a: np.ndarray) -> np.ndarray:
    """(..., H, L) as (N, H, L)."""
    return np.ascontiguousarray(a).reshape(-1, a.shape[-2] if a.ndim > 1 else 1, a.shape[-1])


def _masks(mask: np.ndarray | None, q: np.ndarray, k: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The boolean and the additive mask, (N, H, L, S); (N, H, 0, 0) for what there is not."""
    heads = q.shape[-3] if q.ndim > 2 else 1
    n = q.size // (heads * q.shape[-2] * q.shape[-1])
    seen, bias = np.empty((n, heads, 0, 0), bool), np.empty((n, heads, 0, 0), q.dtype)
    if mask is not None:
        mask = np.broadcast_to(mask, (*q.shape[:-1], k.shape[-2])).reshape(n, heads, q.shape[-2], k.shape[-2])
        seen, bias = (mask, bias) if mask.dtype == bool else (seen, mask)
    return seen, bias


@kernel(
    "scaled_dot_product_attention", backend="numba", when=_serves, dtypes=("float32", "float64"), out=True,
    note="blocks of queries in the cache, softmax along the way", tolerance=_TOLERANCE,
)  # fmt: skip
def attention(
    q: np.ndarray, k: np.ndarray, v: np.ndarray, attn_mask: np.ndarray | None = None, *, dropout_p: float,
    is_causal: bool, scale: float, block_size: int | None, key: int, offset: int, out: Any = None,
) -> tuple[np.ndarray, ...]:  # fmt: skip
    y, lse = out or (np.empty((*q.shape[:-1], v.shape[-1]), q.dtype), np.empty(q.shape[:-1], q.dtype))
    apart = max(1, q.shape[-2] // _QUERIES_APART)
    inputs = (_heads(q), _heads(k), _heads(v), *_masks(attn_mask, q, k), is_causal, q.dtype.type(scale))
    _run(
        _forward_items, _forward_parallel, ("XXXmXbs", "Y", "y", "n"), q.dtype, lse.size * k.shape[-2],
        lse.size // q.shape[-2] * apart, inputs, _heads(y), _rows(lse), apart,
    )  # fmt: skip
    return y, lse


@kernel(
    "attention_backward", backend="numba", when=_backward_serves, dtypes=("float32", "float64"), out=True,
    note="the weights are made again a block at a time", tolerance=_TOLERANCE,
)  # fmt: skip
def attention_backward(
    g: np.ndarray, g_lse: np.ndarray, q: np.ndarray, k: np.ndarray, v: np.ndarray, attn_mask: np.ndarray | None,
    y: np.ndarray, lse: np.ndarray, /, *, dropout_p: float, is_causal: bool, scale: float, block_size: int | None,
    key: int, offset: int, need_mask: bool = False, out: Any = None,
) -> tuple[np.ndarray, ...]:  # fmt: skip
    dq, dk, dv, dmask = out or [np.empty(s, q.dtype) for s in (q.shape, k.shape, v.shape, (0,))]
    _run(
        _backward_items, _backward_parallel, ("XXXmXbs", "XxXx", "YYY"), q.dtype, lse.size * k.shape[-2],
        k.size // (k.shape[-2] * k.shape[-1]),
        (_heads(q), _heads(k), _heads(v), *_masks(attn_mask, q, k), is_causal, q.dtype.type(scale)),
        (_heads(g), _rows(g_lse), _heads(y), _rows(lse)), (_heads(dq), _heads(dk), _heads(dv)),
    )  # fmt: skip
    return dq, dk, dv, dmask
