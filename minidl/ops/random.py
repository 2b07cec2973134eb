"""Random bits and what is made of them. The numbers themselves come from :func:`minidl.random.philox`."""

from __future__ import annotations

import math

import numpy as np

from minidl.core.primitive import primitive
from minidl.core.registry import namespace
from minidl.random import (
    integers_from,
    normal_from,
    normal_words,
    permutation_from,
    philox,
    uniform_from,
    uniform_words,
)


@primitive(differentiable=False, random=True)
def random_bits(*, key, offset, size):
    """``size`` uint32 words: number ``offset`` and on of the stream with the 64-bit ``key``.

    Word ``i`` of the stream is word ``i % 4`` of the Philox block with counter ``i // 4``.
    """
    return philox(key, offset, size)


@primitive(linear_in=("x",), random=True)
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
    return x * namespace(x).asarray(kept) * x.dtype.type(1 / (1 - p))


keyed_dropout.defvjp(x=lambda g, p, key, offset: keyed_dropout(g, p=p, key=key, offset=offset))


@primitive(differentiable=False, random=True, half=False)
def random_uniform(*, key, offset, shape, low=0.0, high=1.0, dtype="float32"):
    """Uniform on [low, high), from word ``offset`` on of the random stream ``key``."""
    bits = random_bits(key=key, offset=offset, size=uniform_words(math.prod(shape), dtype))
    return uniform_from(namespace(bits), bits, shape, low, high, np.dtype(dtype))


@primitive(differentiable=False, random=True, half=False)
def random_normal(*, key, offset, shape, mean=0.0, std=1.0, dtype="float32"):
    """Normal deviates, from word ``offset`` on of the random stream ``key``. Box and Muller, 1958."""
    bits = random_bits(key=key, offset=offset, size=normal_words(math.prod(shape)))
    return normal_from(namespace(bits), bits, shape, mean, std, np.dtype(dtype))


@primitive(differentiable=False, random=True)
def random_integers(*, key, offset, shape, low, high):
    """int64 uniform on [low, high), from word ``offset`` on of the random stream ``key``."""
    bits = random_bits(key=key, offset=offset, size=2 * math.prod(shape))
    return integers_from(namespace(bits), bits, shape, low, high)


@primitive(differentiable=False, random=True)
def random_permutation(*, key, offset, n):
    """A random order of 0, ..., n - 1, from word ``offset`` on of the random stream ``key``."""
    bits = random_bits(key=key, offset=offset, size=2 * n)
    return permutation_from(namespace(bits), bits)
