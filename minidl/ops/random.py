"""Random bits from a counter: Philox-4x32-10.

J. K. Salmon, M. A. Moraes, R. O. Dror and D. E. Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011. Ten
rounds of multiplication and XOR turn a 128-bit counter and a 64-bit key into 128 random bits. There is no state to
carry from one number to the next, so every backend makes the same bits, in any order and in parallel.
"""

from __future__ import annotations

import numpy as np

from minidl.core.primitive import primitive

# Multipliers and key increments (Weyl constants) of table 2 of the paper's Philox-4x32 and of its reference code.
_M0, _M1 = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
_W0, _W1 = 0x9E3779B9, 0xBB67AE85
_LOW = np.uint64(0xFFFFFFFF)
_32 = np.uint64(32)
# Counters are worked through in blocks that stay in the processor's cache.
_BLOCK = 1 << 14


def philox_rounds(c0, c1, c2, c3, key0, key1):
    """The ten rounds on arrays of uint64 that hold 32-bit words: counters ``c0..c3`` and key words ``key0, key1``
    (ints, or arrays that broadcast). Returns the four output words, likewise."""
    for r in range(10):
        k0 = (key0 + np.uint64(r * _W0 & 0xFFFFFFFF)) & _LOW
        k1 = (key1 + np.uint64(r * _W1 & 0xFFFFFFFF)) & _LOW
        p0, p1 = _M0 * c0, _M1 * c2
        c0, c1, c2, c3 = (p1 >> _32) ^ c1 ^ k0, p1 & _LOW, (p0 >> _32) ^ c3 ^ k1, p0 & _LOW
    return c0, c1, c2, c3


@primitive(differentiable=False)
def random_bits(*, key, offset, size):
    """``size`` uint32 words: number ``offset`` and on of the stream with the 64-bit ``key``.

    Word ``i`` of the stream is word ``i % 4`` of the Philox block with counter ``i // 4``.
    """
    first, last = offset // 4, -(-(offset + size) // 4)
    key0, key1 = np.uint64(key & 0xFFFFFFFF), np.uint64(key >> 32)
    out = np.empty((last - first, 4), np.uint32)
    for start in range(first, last, _BLOCK):
        counter = np.arange(start, min(start + _BLOCK, last), dtype=np.uint64)
        zero = np.zeros_like(counter)
        words = philox_rounds(counter & _LOW, counter >> _32, zero, zero, key0, key1)
        for j, word in enumerate(words):
            out[start - first : start - first + len(counter), j] = word
    return out.reshape(-1)[offset - 4 * first :][:size]


@primitive
def keyed_dropout(x, *, p, key, offset):
    """Dropout with the mask that ``key`` and ``offset`` determine: the primitive below :func:`minidl.ops.dropout`.

    Element ``i`` (in C order) is kept where word ``offset + i`` of the random stream ``key``, read as a 24-bit
    fraction, is at least ``p``; the mask is made again in the backward pass instead of being kept.
    Srivastava et al., "Dropout", JMLR 2014.
    """
    if p >= 1:
        return x * x.dtype.type(0)
    bits = random_bits(key=key, offset=offset, size=x.size).reshape(x.shape)
    kept = (bits >> np.uint32(8)) >= np.uint32(round(p * (1 << 24)))
    if type(x) is not np.ndarray:
        from minidl.core.registry import backend_of

        kept = backend_of(x).asarray(kept)
    return x * kept * x.dtype.type(1 / (1 - p))


keyed_dropout.defvjp(x=lambda g, p, key, offset: keyed_dropout(g, p=p, key=key, offset=offset))
