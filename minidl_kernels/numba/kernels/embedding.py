"""Adding up rows by number: gradients of embedding, take, gather and indexing with arrays of integers.

Threads get columns (or leading axes) of their own, and add in the order of the index: no races, and the same sums
whatever the number of threads.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import prange

from minidl.backend import kernel
from minidl.ops.indexing import Slot
from minidl_kernels.numba.simd.common import PARALLEL_FROM, PIECE, flat_indices, over_rows, pieces, plain
from minidl_kernels.numba.simd.compiled import compiled

_FLOAT_NAMES = ("float32", "float64")
_NO_ROW = -1


@compiled
def _add_slices(x, index, skipped, out, first, last, low, high):
    """out[o, index[m], i] += x[o, m, i] for first <= o < last, low <= i < high, where index[m] is not ``skipped``."""
    # Unsigned, so that Numba does not look for indices that count from the end: such a loop would not be vectorized
    low, high = np.uint64(low), np.uint64(high)
    for o in range(first, last):
        for m in range(index.size):
            k = np.uint64(index[m])
            if index[m] != skipped:
                for i in range(low, high):
                    out[o, k, i] += x[o, m, i]


@compiled(parallel=True)
def _add_slices_pieces(x, index, skipped, out, rows, columns):
    """Cut into ``rows`` times ``columns`` pieces."""
    n, width = x.shape[0], x.shape[2]
    for c in prange(rows * columns):
        r, k = c // columns, c % columns
        _add_slices(
            x, index, skipped, out, r * n // rows, (r + 1) * n // rows, k * width // columns, (k + 1) * width // columns
        )


@compiled
def _add_elements(x, index, out, first, last):
    """out[o, index[o, m, i], i] += x[o, m, i] for first <= o < last."""
    for o in range(first, last):
        for m in range(x.shape[1]):
            for i in range(x.shape[2]):
                out[o, index[o, m, i], i] += x[o, m, i]


@compiled(parallel=True)
def _add_elements_pieces(x, index, out, count):
    for c in prange(count):
        _add_elements(x, index, out, c * x.shape[0] // count, (c + 1) * x.shape[0] // count)


@compiled
def _from_the_start(index, size, negative, out):
    """``index`` with numbers that count from the end made to count from the start; returns how many do not fit."""
    wrong = 0
    for i in range(index.size):
        k = index[i]
        k = k + size if negative and k < 0 else k
        wrong += k < 0 or k >= size
        out[i] = k
    return wrong


def _numbers(index: np.ndarray, size: int, negative: bool, op: str) -> np.ndarray:
    """``index`` flat, as int64 within [0, size); with ``negative`` it may count from the end. Raises IndexError."""
    index = flat_indices(index)
    out = np.empty(index.size, np.int64)
    if _from_the_start(index, size, negative, out):
        raise IndexError(f"{op}: indices {index.min()}..{index.max()} do not fit an axis of length {size}")
    return out


def _zeros(shape: tuple, dtype: np.dtype, out: Any) -> np.ndarray:
    if out is None:
        return np.zeros(shape, dtype)
    out[0].fill(0)
    return out[0]


def _scatter(x: np.ndarray, index: np.ndarray, out: np.ndarray, skipped: int = _NO_ROW) -> None:
    """Add x (outer, M, inner) to out (outer, size, inner)."""
    size, outer, inner = x.size, x.shape[0], x.shape[2]
    if size < PARALLEL_FROM:
        _add_slices(x, index, skipped, out, 0, outer, 0, inner)
    else:
        # columns by the cache line; their cuts change no sum
        rows = pieces(size, outer)
        columns = max(1, min(inner // 32, size // (rows * PIECE), 16))
        _add_slices_pieces(x, index, skipped, out, rows, columns)


def _is_index(a: Any) -> bool:
    return type(a) is np.ndarray and a.dtype.kind in "iu"


def _plain_index(g: Any, index: Any, **params: Any) -> bool:
    """float32 or float64, C-contiguous"""
    return plain(g) and _is_index(index)


@kernel(
    "embedding_grad", backend="numba", when=_plain_index, dtypes=_FLOAT_NAMES, out=True,
    note="columns divided between threads",
)  # fmt: skip
def embedding_grad(
    g: np.ndarray, index: np.ndarray, *, num_embeddings: int, padding_idx: int | None = None, out: Any = None
) -> np.ndarray:
    width = g.shape[-1]
    result = _zeros((num_embeddings, width), g.dtype, out)
    rows = _numbers(index, num_embeddings, False, "embedding_grad")
    skipped = _NO_ROW if padding_idx is None else padding_idx
    _scatter(g.reshape(1, rows.size, width), rows, result.reshape(1, num_embeddings, width), skipped)
    return result


@kernel(
    "take_grad", backend="numba", when=_plain_index, dtypes=_FLOAT_NAMES, out=True,
    note="slices divided between threads",
)  # fmt: skip
def take_grad(x: np.ndarray, index: np.ndarray, *, axis: int = 0, size: int, out: Any = None) -> np.ndarray:
    axis %= x.ndim
    lead, rest = x.shape[:axis], x.shape[axis + 1 :]
    result = _zeros((*lead, size, *rest), x.dtype, out)
    outer, inner = math.prod(lead), math.prod(rest)
    rows = _numbers(index, size, True, "take_grad")
    _scatter(x.reshape(outer, rows.size, inner), rows, result.reshape(outer, size, inner))
    return result


def _leading_integers(g: Any, *arrays: Any, index: tuple, shape: tuple) -> bool:
    """float32 or float64, C-contiguous; the index is integer arrays of one shape, for the first axes"""
    return (
        plain(g)
        and len(arrays) == len(index) > 0
        and all(isinstance(part, Slot) for part in index)
        and all(_is_index(a) and a.shape == arrays[0].shape for a in arrays)
    )


@kernel(
    "getitem_grad", backend="numba", when=_leading_integers, dtypes=_FLOAT_NAMES, out=True,
    note="slices divided between threads",
)  # fmt: skip
def getitem_grad(g: np.ndarray, *arrays: np.ndarray, index: tuple, shape: tuple, out: Any = None) -> np.ndarray:
    result = _zeros(shape, g.dtype, out)
    flat: Any = 0
    for part, n in zip(index, shape):
        flat = flat * n + _numbers(arrays[part.position], n, True, "getitem_grad")
    size, inner = math.prod(shape[: len(index)]), math.prod(shape[len(index) :])
    _scatter(g.reshape(1, flat.size, inner), flat, result.reshape(1, size, inner))
    return result


def _along_axis(g: Any, index: Any, *, axis: int, shape: tuple) -> bool:
    """float32 or float64, C-contiguous; the index is as long as the output along the other axes"""
    if not (plain(g) and _is_index(index) and g.ndim > 0 and g.shape == index.shape):
        return False
    axis %= g.ndim
    return g.shape[:axis] == tuple(shape[:axis]) and g.shape[axis + 1 :] == tuple(shape[axis + 1 :])


@kernel(
    "gather_grad", backend="numba", when=_along_axis, dtypes=_FLOAT_NAMES, out=True,
    note="leading axes divided between threads",
)  # fmt: skip
def gather_grad(g: np.ndarray, index: np.ndarray, *, axis: int, shape: tuple, out: Any = None) -> np.ndarray:
    axis %= g.ndim
    result = _zeros(shape, g.dtype, out)
    outer, inner, size = math.prod(shape[:axis]), math.prod(shape[axis + 1 :]), shape[axis]
    shape3 = outer, g.shape[axis], inner
    numbers = _numbers(index, size, True, "gather_grad").reshape(shape3)
    arguments = g.reshape(shape3), numbers, result.reshape(outer, size, inner)
    over_rows(_add_elements, _add_elements_pieces, g.size, outer, *arguments)
    return result
