"""Random bits and what is made of them. The numbers themselves come from :func:`minidl.random.philox`."""

from __future__ import annotations

import numpy as np

from minidl.core.primitive import primitive
from minidl.core.registry import namespace
from minidl.random import philox


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
