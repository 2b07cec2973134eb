"""Random streams for samples: what makes augmentation independent of workers and of batch composition.

Every sample has its own stream, a pure function of (seed, epoch, sample index). While the loader fetches
samples, their streams are the *current* ones: a random transform finds its stream there, whichever thread or
process it runs in, so a dataset's ``__getitem__(index)`` needs no extra argument.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

import numpy as np

from minidl.random import Generator, default_generator, fold_in_uniform

_current: ContextVar[SampleStreams | None] = ContextVar("minidl_sample_streams", default=None)


class SampleStreams:
    """One random stream for each sample of a batch; stream i depends on (generator, keys[i]) alone."""

    def __init__(self, generator: Generator, keys: Sequence[int] | np.ndarray, path: tuple[int, ...] = ()):
        self.keys = np.asarray(keys, dtype=np.int64)
        self._root, self._path = generator, path
        self._single: Generator | None = None

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def generator(self) -> Generator:
        # Folded when asked for: most transforms of a pipeline draw nothing.
        return self._root.fold_in(*self._path) if self._path else self._root

    def fold_in(self, *ints: int) -> SampleStreams:
        """Other, independent streams for the same samples."""
        return SampleStreams(self._root, self.keys, (*self._path, *ints))

    def uniform(self, k: int) -> np.ndarray:
        """(len(self), k) float32 on [0, 1). Every call gives the same numbers: fold in an int for others."""
        if not len(self):
            return np.empty((0, k), np.float32)
        return fold_in_uniform(self.generator, self.keys, k)

    def one(self, i: int) -> SampleStreams:
        """The stream of sample ``i``, as streams of a batch of one."""
        return SampleStreams(self._root, self.keys[i : i + 1], self._path)

    def single(self) -> Generator:
        """The generator of a batch of one; successive draws advance along its stream."""
        if len(self) != 1:
            raise RuntimeError(
                f"a batch of {len(self)} samples has no single random stream; "
                "use minidl.data.sample_streams(n) inside __getitems__"
            )
        if self._single is None:
            self._single = self.generator.fold_in(int(self.keys[0]))
        return self._single


@contextmanager
def use_streams(streams: SampleStreams | None) -> Iterator[None]:
    """Make ``streams`` the current ones, in this thread."""
    token = _current.set(streams)
    try:
        yield
    finally:
        _current.reset(token)


def current_streams() -> SampleStreams | None:
    return _current.get()


def sample_rng() -> Generator:
    """The generator of the sample being loaded; outside of a loader, the global one.

    For a transform or a ``__getitem__`` of your own: ``minidl.data.sample_rng().normal(image.shape)`` is the
    same noise for the same seed, epoch and sample, whatever the number of workers.
    """
    streams = _current.get()
    return default_generator() if streams is None else streams.single()


def derive(generator: Generator) -> Generator:
    """A new generator derived from ``generator``, which advances, so that the next call gives another one."""
    return generator.fold_in(*(int(word) for word in generator.bits(2)))


def sample_streams(n: int) -> SampleStreams:
    """Streams for a batch of ``n`` samples: the current ones if there are n of them, else new ones from
    :func:`sample_rng`."""
    streams = _current.get()
    if streams is not None and len(streams) == n:
        return streams
    return SampleStreams(derive(sample_rng()), np.arange(n))
