"""Random bits and dropout on jax.numpy: the reference's bits, with key and offset that may be traced."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from minidl.backend import kernel
from minidl.random import philox_rounds

_LOW, _32 = np.uint64(0xFFFFFFFF), np.uint64(32)


@kernel("random_bits", backend="jax", dtypes=("uint32",))
def random_bits(*, key, offset, size):
    """Philox-4x32-10 for the blocks that hold the words, then the words themselves."""
    key, offset = jnp.asarray(key, jnp.uint64), jnp.asarray(offset, jnp.uint64)
    counter = offset // np.uint64(4) + jnp.arange(size // 4 + 2, dtype=jnp.uint64)
    zero = jnp.zeros_like(counter)
    words = philox_rounds(counter & _LOW, counter >> _32, zero, zero, key & _LOW, key >> _32)
    flat = jnp.stack(words, axis=-1).reshape(-1).astype(jnp.uint32)
    return jax.lax.dynamic_slice(flat, (offset % np.uint64(4),), (size,))


@kernel("keyed_dropout", backend="jax", when=lambda x, *, p, key, offset: p < 1)
def dropout(x, *, p, key, offset):
    """The reference's mask, from :func:`random_bits`."""
    bits = random_bits(key=key, offset=offset, size=x.size).reshape(x.shape)
    kept = (bits >> np.uint32(8)) >= np.uint32(round(p * (1 << 24)))
    # NaN and infinity times 0 are NaN; of ``x * kept`` XLA would make a selection
    return jnp.where(kept, x * np.dtype(x.dtype).type(1 / (1 - p)), x * 0)
