"""Random bits and dropout from Philox-4x32-10, the counters worked through in the loop that uses the bits."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import prange

from minidl.backend import kernel
from minidl_kernels.numba.simd.common import PARALLEL_FROM, pieces, plain
from minidl_kernels.numba.simd.compiled import compiled

_M0, _M1 = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
_W0, _W1 = np.uint32(0x9E3779B9), np.uint32(0xBB67AE85)
_32 = np.uint64(32)
# Counters whose words are made in one go, in the nearest cache
_BLOCK = 256


@compiled
def _words(first, count, key0, key1, words):
    """``words[j, i]`` becomes word j of the block with counter ``first + i``, for i < count."""
    for i in range(count):
        counter = first + np.uint64(i)
        c0, c1 = np.uint32(counter), np.uint32(counter >> _32)
        c2 = c3 = np.uint32(0)
        k0, k1 = key0, key1
        for _ in range(10):
            p0, p1 = _M0 * np.uint64(c0), _M1 * np.uint64(c2)
            c0, c2 = np.uint32(p1 >> _32) ^ c1 ^ k0, np.uint32(p0 >> _32) ^ c3 ^ k1
            c1, c3 = np.uint32(p1), np.uint32(p0)
            k0 = np.uint32(k0 + _W0)
            k1 = np.uint32(k1 + _W1)
        words[0, i], words[1, i], words[2, i], words[3, i] = c0, c1, c2, c3


@compiled
def _bits(out, key0, key1, offset, start, stop):
    """``out[start:stop]`` of the words from ``offset`` on. ``offset`` and the numbers of words are below 2^63."""
    words = np.empty((4, _BLOCK), np.uint32)
    block = (offset + start) // 4
    while 4 * block - offset < stop:
        _words(np.uint64(block), _BLOCK, np.uint32(key0), np.uint32(key1), words)
        base = 4 * block - offset
        if base >= start and base + 4 * _BLOCK <= stop:
            part = out[base : base + 4 * _BLOCK]
            for i in range(_BLOCK):
                for j in range(4):
                    part[4 * i + j] = words[j, i]
        else:
            for i in range(max(base, start), min(base + 4 * _BLOCK, stop)):
                out[i] = words[(i - base) % 4, (i - base) // 4]
        block += _BLOCK


@compiled(parallel=True)
def _bits_pieces(out, key0, key1, offset, count):
    for c in prange(count):
        _bits(out, key0, key1, offset, c * out.size // count, (c + 1) * out.size // count)


@compiled
def _dropout(x, out, threshold, scale, key0, key1, offset, start, stop):
    words = np.empty((4, _BLOCK), np.uint32)
    zero, one, scale = x.dtype.type(0), x.dtype.type(1), x.dtype.type(scale)
    threshold = np.uint32(threshold)
    eight = np.uint32(8)
    block = (offset + start) // 4
    while 4 * block - offset < stop:
        base = 4 * block - offset
        whole = base >= start and base + 4 * _BLOCK <= stop
        count = _BLOCK if whole else min(_BLOCK, (stop - base + 3) // 4)
        _words(np.uint64(block), count, np.uint32(key0), np.uint32(key1), words)
        if whole:
            source, part = x[base : base + 4 * _BLOCK], out[base : base + 4 * _BLOCK]
            for i in range(_BLOCK):
                for j in range(4):
                    kept = one if words[j, i] >> eight >= threshold else zero
                    part[4 * i + j] = source[4 * i + j] * kept * scale
        else:
            for i in range(max(base, start), min(base + 4 * _BLOCK, stop)):
                kept = one if words[(i - base) % 4, (i - base) // 4] >> eight >= threshold else zero
                out[i] = x[i] * kept * scale
        block += _BLOCK


@compiled(parallel=True)
def _dropout_pieces(x, out, threshold, scale, key0, key1, offset, count):
    for c in prange(count):
        _dropout(x, out, threshold, scale, key0, key1, offset, c * x.size // count, (c + 1) * x.size // count)


@kernel("random_bits", backend="numba", note="counters in the loop; the same bits as the reference", out=True)
def random_bits(*, key: int, offset: int, size: int, out: Any = None) -> np.ndarray:
    result = np.empty(size, np.uint32) if out is None else out[0]
    arguments = result, key & 0xFFFFFFFF, key >> 32, int(offset)
    if size < PARALLEL_FROM:
        _bits(*arguments, 0, size)
    else:
        _bits_pieces(*arguments, pieces(size, size))
    return result


def _plain(x: Any, *, p: float, key: int, offset: int) -> bool:
    """float32 or float64, C-contiguous, p < 1"""
    return plain(x) and p < 1


@kernel(
    "keyed_dropout", backend="numba", when=_plain, dtypes=("float32", "float64"), out=True,
    note="counters in the loop; the same mask as the reference",
)  # fmt: skip
def dropout(x: np.ndarray, *, p: float, key: int, offset: int, out: Any = None) -> np.ndarray:
    result = np.empty(x.shape, x.dtype) if out is None else out[0]
    arguments = (
        x.reshape(-1), result.reshape(-1), round(p * (1 << 24)), 1 / (1 - p), key & 0xFFFFFFFF, key >> 32, int(offset)
    )  # fmt: skip
    if x.size < PARALLEL_FROM:
        _dropout(*arguments, 0, x.size)
    else:
        _dropout_pieces(*arguments, pieces(x.size, x.size))
    return result
