"""Reproducible random numbers: a :class:`Generator` is a 64-bit key and a position in that key's stream.

The bits come from a counter, by Philox-4x32-10: J. K. Salmon, M. A. Moraes, R. O. Dror and D. E. Shaw, "Parallel random
numbers: as easy as 1, 2, 3", SC 2011. Ten rounds of multiplication and XOR turn a 128-bit counter and a 64-bit key into
128 random bits. There is no state to carry from one number to the next, so every backend makes the same bits, in any
order and in parallel; :func:`minidl.ops.random_bits` is this stream as a primitive.
"""

from __future__ import annotations

import contextlib
import math
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from minidl.core.context import current, enter, process, using
from minidl.core.trace import live, refuse

_advancing = threading.Lock()
_MASK32, _MASK64 = (1 << 32) - 1, (1 << 64) - 1
# Multipliers and key increments (Weyl constants) of table 2 of the paper's Philox-4x32 and of its reference code.
_M0, _M1 = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
_W0, _W1 = 0x9E3779B9, 0xBB67AE85
_LOW = np.uint64(0xFFFFFFFF)
_32 = np.uint64(32)
# Counters are worked through in blocks that stay in the processor's cache.
_BLOCK = 1 << 14


def philox_rounds(c0: Any, c1: Any, c2: Any, c3: Any, key0: Any, key1: Any) -> tuple[Any, Any, Any, Any]:
    """The ten rounds on arrays of uint64 that hold 32-bit words: counters ``c0..c3`` and key words ``key0, key1``
    (ints, or arrays that broadcast). Returns the four output words, likewise."""
    for r in range(10):
        k0 = (key0 + np.uint64(r * _W0 & 0xFFFFFFFF)) & _LOW
        k1 = (key1 + np.uint64(r * _W1 & 0xFFFFFFFF)) & _LOW
        p0, p1 = _M0 * c0, _M1 * c2
        c0, c1, c2, c3 = (p1 >> _32) ^ c1 ^ k0, p1 & _LOW, (p0 >> _32) ^ c3 ^ k1, p0 & _LOW
    return c0, c1, c2, c3


def philox(key: int, offset: int, size: int) -> np.ndarray:
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


def _mix(a: int, b: int) -> int:
    """A 64-bit hash of two 64-bit numbers: half a Philox block with ``a`` as key and ``b`` in the counter.

    The rounds of :func:`philox_rounds` once more, on Python ints: arrays of one are slow.
    """
    key0, key1 = a & _MASK32, a >> 32
    c0, c1, c2, c3 = b & _MASK32, b >> 32, 0x6D696E69, 0x646C
    for _ in range(10):
        p0, p1 = 0xD2511F53 * c0, 0xCD9E8D57 * c2
        c0, c1, c2, c3 = (p1 >> 32) ^ c1 ^ key0, p1 & _MASK32, (p0 >> 32) ^ c3 ^ key1, p0 & _MASK32
        key0, key1 = (key0 + 0x9E3779B9) & _MASK32, (key1 + 0xBB67AE85) & _MASK32
    return c0 | c1 << 32


def _shape(shape: int | Sequence[int]) -> tuple[int, ...]:
    return (shape,) if isinstance(shape, (int, np.integer)) else tuple(shape)


# What is made of bits, in the array namespace ``xp``: how many words it takes, and the formula.


def uniform_words(n: int, dtype: Any) -> int:
    return 2 * n if np.dtype(dtype) == np.float64 else n


def uniform_from(xp: Any, bits: Any, shape: tuple, low: float, high: float, dtype: np.dtype) -> Any:
    """Uniform on [low, high): 53 random bits per element for float64, 24 for smaller types."""
    if dtype == np.float64:
        b = bits.astype(np.uint64)
        u = ((b[0::2] >> np.uint64(5)) * 67108864.0 + (b[1::2] >> np.uint64(6))) * 2.0**-53
    else:
        u = (bits >> np.uint32(8)).astype(np.float32) * np.float32(2.0**-24)
    return (u * (high - low) + low).astype(dtype).reshape(shape)


def normal_words(n: int) -> int:
    return 2 * -(-n // 2)


def normal_from(xp: Any, bits: Any, shape: tuple, mean: float, std: float, dtype: np.dtype) -> Any:
    """Normal deviates (Box and Muller, 1958): r cos(t) and r sin(t) with r = sqrt(-2 log u1), t = 2 pi u2."""
    u = (bits.astype(np.float64) + 0.5) * 2.0**-32
    r, t = xp.sqrt(-2 * xp.log(u[0::2])), 2 * np.pi * u[1::2]
    z = xp.stack([r * xp.cos(t), r * xp.sin(t)], axis=1).reshape(-1)[: math.prod(shape)]
    return (z * std + mean).astype(dtype).reshape(shape)


def _wide(bits: Any) -> Any:
    b = bits.astype(np.uint64)
    return (b[0::2] << np.uint64(32)) | b[1::2]


def integers_from(xp: Any, bits: Any, shape: tuple, low: int, high: int) -> Any:
    """int64 uniform on [low, high); the bias of a 64-bit remainder is below range / 2**64."""
    return ((_wide(bits) % np.uint64(high - low)).astype(np.int64) + low).reshape(shape)


def permutation_from(xp: Any, bits: Any) -> Any:
    """The order that sorts random 64-bit keys."""
    return xp.argsort(_wide(bits), stable=True)


class Generator:
    """A stream of random numbers with a seed, whose state is two numbers: key and offset.

    Two generators with the same seed give the same numbers; ``fold_in`` derives independent streams, so that what a
    sample or a worker gets does not depend on who asked before.

    >>> from minidl import Generator
    >>> a, b = Generator(7), Generator(7)
    >>> a.integers(0, 100, (4,)).tolist() == b.integers(0, 100, (4,)).tolist()
    True
    >>> a.fold_in(3).bits(2).tolist() == b.fold_in(3).bits(2).tolist() != b.fold_in(4).bits(2).tolist()
    True
    """

    def __init__(self, seed: int = 0) -> None:
        self.manual_seed(seed)

    def manual_seed(self, seed: int) -> Generator:
        """Start again from ``seed`` (any Python int)."""
        refuse("seeding a generator", "seed it before the step, or make the generator outside")
        self.key = _mix(0, int(seed) & _MASK64)
        self.offset = 0
        return self

    def fold_in(self, *data: int) -> Generator:
        """An independent generator that depends only on this one's key (not its position) and the ints ``data``."""
        refuse("deriving a generator", "derive it before the step")
        key = self.key
        for d in data:
            key = _mix(key, int(d) & _MASK64)
        g = Generator.__new__(Generator)
        g.key, g.offset = key, 0
        return g

    def get_state(self) -> np.ndarray:
        """uint64[2]: key and offset."""
        return np.array([self.key, self.offset], np.uint64)

    def set_state(self, state: Any) -> None:
        """Continue from what :meth:`get_state` gave. Raises ValueError if it is not two unsigned numbers."""
        refuse("setting a generator's state", "do so before the step")
        state = np.asarray(state)
        if state.shape != (2,) or state.dtype.kind not in "ui":
            raise ValueError(f"set_state: expected uint64[2], got {state.dtype}{list(state.shape)}")
        self.key, self.offset = int(state[0]), int(state[1])

    def reserve(self, n: int) -> tuple[int, int]:
        """Set aside the next ``n`` words; returns (key, offset of the first). For kernels that make bits themselves."""
        return live(lambda: self.key), live(lambda: self._advance(n), (lambda: self.offset, self._set_offset))

    def _set_offset(self, offset: int) -> None:
        self.offset = offset

    def _advance(self, n: int) -> int:
        with _advancing:  # threads that share a generator must not get the same numbers
            at = self.offset
            self.offset += n
        return at

    def bits(self, n: int) -> np.ndarray:
        """``n`` random uint32 words."""
        refuse(
            "drawing from a generator on the host",
            "use minidl.rand, randn, randint, randperm or another random operation, which draws anew at each call",
        )
        return np.asarray(philox(self.key, self._advance(n), n))

    def uniform(
        self, shape: int | Sequence[int] = (), low: float = 0.0, high: float = 1.0, dtype: Any = np.float32
    ) -> Any:
        """Uniform on [low, high): 24 random bits per element for float32 and float16, 53 for float64."""
        shape = _shape(shape)
        bits = self.bits(uniform_words(math.prod(shape), dtype))
        return uniform_from(np, bits, shape, low, high, np.dtype(dtype))[()]

    def normal(
        self, shape: int | Sequence[int] = (), mean: float = 0.0, std: float = 1.0, dtype: Any = np.float32
    ) -> Any:
        """Normal deviates (Box and Muller, 1958): r cos(t) and r sin(t) with r = sqrt(-2 log u1), t = 2 pi u2."""
        shape = _shape(shape)
        return normal_from(np, self.bits(normal_words(math.prod(shape))), shape, mean, std, np.dtype(dtype))[()]

    def integers(self, low: int, high: int, shape: int | Sequence[int] = ()) -> Any:
        """int64 uniform on [low, high). Raises ValueError for an empty range."""
        if high <= low:
            raise ValueError(f"integers: empty range [{low}, {high})")
        shape = _shape(shape)
        return integers_from(np, self.bits(2 * math.prod(shape)), shape, low, high)[()]

    def permutation(self, n: int) -> np.ndarray:
        """A random order of ``range(n)`` (int64): the order that sorts ``n`` random 64-bit keys."""
        return permutation_from(np, self.bits(2 * n))

    def __repr__(self) -> str:
        return f"Generator(key={self.key:#x}, offset={self.offset})"


def fold_in_uniform(generator: Generator, indices: Any, k: int) -> np.ndarray:
    """float32[len(indices), k] uniform on [0, 1): row i depends only on the generator's key and ``indices[i]``.

    The numbers of a whole batch of samples at once, each sample's the same whatever batch it is in.
    """
    idx = np.asarray(indices, np.uint64)[:, None]
    block = np.arange(-(-k // 4), dtype=np.uint64)[None, :]
    low, u = np.uint64(0xFFFFFFFF), np.uint64
    shape = np.broadcast_shapes(idx.shape, block.shape)
    words = philox_rounds(
        np.broadcast_to(idx & low, shape), np.broadcast_to(idx >> u(32), shape), np.broadcast_to(block, shape),
        np.full(shape, 0x66756E, u), u(generator.key & 0xFFFFFFFF), u(generator.key >> 32),
    )  # fmt: skip
    bits = np.stack(words, axis=-1).reshape(len(idx), 4 * block.shape[1])[:, :k]
    return (bits >> u(8)).astype(np.float32) * np.float32(2.0**-24)


process.update(generator=Generator(0))


def default_generator() -> Generator:
    """The generator that initializers, dropout and shuffling use when given none.

    Threads share the process's until they seed or choose one of their own (:func:`manual_seed`,
    :func:`use_generator`).
    """
    return current().generator


def manual_seed(seed: int) -> Generator:
    """Seed the default generator and return it. A thread other than the main one gets a generator of its own."""
    generator = current().generator
    if generator is process.generator and threading.current_thread() is not threading.main_thread():
        generator = Generator(seed)
        enter(generator=generator)
        return generator
    return generator.manual_seed(seed)


@contextlib.contextmanager
def use_generator(generator: Generator) -> Iterator[Generator]:
    """Make ``generator`` the default one for the length of a ``with`` block, in this thread or task."""
    with using(generator=generator):
        yield generator
