"""Samplers: in which order samples are taken.

A sampler is an iterable of sample indices with a length; a batch sampler, of lists of indices. A random one
is a pure function of the seed and the epoch: before each epoch the loader hands it that epoch's generator,
which is what makes a run resumable. A sampler of your own is resumable if it takes its random numbers from
``self.stream()`` (subclass :class:`Sampler`) or gives the same order each time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Sized
from typing import Any

import numpy as np

from minidl.data.rng import derive, sample_rng
from minidl.random import Generator


class Sampler:
    """Base of samplers."""

    generator: Generator | None = None

    def set_generator(self, generator: Generator) -> None:
        """Take an epoch's generator. The loader calls this before each epoch."""
        self.generator = generator

    def stream(self) -> Generator:
        """The generator for a pass: a function of the epoch's, or, where there is no loader, a new one
        from the global one."""
        return derive(sample_rng()) if self.generator is None else self.generator.fold_in(0)

    def __iter__(self) -> Iterator[int]:
        raise NotImplementedError(f"{type(self).__name__} defines no __iter__")

    def __len__(self) -> int:
        raise NotImplementedError(f"{type(self).__name__} defines no __len__")


class SequentialSampler(Sampler):
    """0, 1, 2 …"""

    def __init__(self, dataset: Sized) -> None:
        self.n = len(dataset)

    def __iter__(self) -> Iterator:
        return iter(range(self.n))

    def __len__(self) -> int:
        return self.n


class RandomSampler(Sampler):
    """A new permutation in each epoch, or independent draws.

    Args:
        replacement: draw each index independently.
        num_samples: samples in an epoch; by default as many as the dataset has. Without replacement it must
            not exceed that number.
    """

    def __init__(self, dataset: Sized, replacement: bool = False, num_samples: int | None = None) -> None:
        self.n = len(dataset)
        self.replacement = replacement
        self.num_samples = self.n if num_samples is None else num_samples
        if self.num_samples < 0 or (not replacement and self.num_samples > self.n):
            raise ValueError(f"RandomSampler: cannot take {num_samples} of {self.n} samples without replacement")
        if replacement and self.n == 0 and self.num_samples:
            raise ValueError("RandomSampler: the dataset is empty")

    def __iter__(self) -> Iterator:
        if self.replacement:
            return iter(self.stream().integers(0, self.n, (self.num_samples,)).tolist())
        return iter(self.stream().permutation(self.n)[: self.num_samples].tolist())

    def __len__(self) -> int:
        return self.num_samples


class SubsetRandomSampler(Sampler):
    """The given indices in a new random order in each epoch."""

    def __init__(self, indices: Sequence[int]):
        self.indices = np.asarray(indices, dtype=np.int64)

    def __iter__(self) -> Iterator:
        return iter(self.indices[self.stream().permutation(len(self.indices))].tolist())

    def __len__(self) -> int:
        return len(self.indices)


class WeightedRandomSampler(Sampler):
    """Draws index i with probability ``weights[i] / sum(weights)``, for example to balance classes.

    Args:
        weights: one non-negative number for each sample.
        num_samples: draws in an epoch.
        replacement: if False, no index is drawn twice: successive sampling, by the exponential keys of
            Efraimidis and Spirakis (2006).
    """

    def __init__(self, weights: Sequence[float], num_samples: int, replacement: bool = True):
        self.weights = np.asarray(weights, dtype=np.float64)
        self.num_samples, self.replacement = num_samples, replacement
        positive = int(np.count_nonzero(self.weights))
        if self.weights.ndim != 1 or not np.all(np.isfinite(self.weights)) or np.any(self.weights < 0) or not positive:
            raise ValueError("WeightedRandomSampler: weights must be one-dimensional, finite, not negative, not all 0")
        if not replacement and num_samples > positive:
            raise ValueError(
                f"WeightedRandomSampler: cannot draw {num_samples} of {positive} samples of positive "
                "weight without replacement"
            )

    def __iter__(self) -> Iterator:
        if self.replacement:
            cumulative = np.cumsum(self.weights)
            draws = self.stream().uniform((self.num_samples,), dtype=np.float64) * cumulative[-1]
            # Rounding may make a draw equal the total: that means the last index of positive weight.
            last = np.flatnonzero(self.weights)[-1]
            return iter(np.minimum(np.searchsorted(cumulative, draws, side="right"), last).tolist())
        draws = self.stream().uniform((len(self.weights),), dtype=np.float64)
        with np.errstate(divide="ignore"):
            keys = -np.log1p(-draws) / self.weights
        keys[self.weights == 0] = np.inf
        return iter(np.argsort(keys, kind="stable")[: self.num_samples].tolist())

    def __len__(self) -> int:
        return self.num_samples


class BatchSampler(Sampler):
    """Lists of ``batch_size`` indices from a sampler. The last may be shorter, unless ``drop_last``."""

    def __init__(self, sampler: Any, batch_size: int, drop_last: bool = False) -> None:
        if not isinstance(batch_size, (int, np.integer)) or batch_size < 1:
            raise ValueError(f"batch_size must be a positive integer, got {batch_size!r}")
        self.sampler, self.batch_size, self.drop_last = sampler, int(batch_size), drop_last

    def set_generator(self, generator: Generator) -> None:
        if hasattr(self.sampler, "set_generator"):
            self.sampler.set_generator(generator)

    def __iter__(self) -> Iterator:
        batch = []
        for index in self.sampler:
            batch.append(index)
            if len(batch) == self.batch_size:
                yield batch
                batch = []
        if batch and not self.drop_last:
            yield batch

    def __len__(self) -> int:
        full, rest = divmod(len(self.sampler), self.batch_size)
        return full + (1 if rest and not self.drop_last else 0)


class ContiguousBatchSampler(Sampler):
    """Batches for truncated back-propagation through time: row b of a batch continues where row b of the
    previous one ended.

    The ``len(dataset)`` successive windows (``TextWindows`` with its default stride) are cut into
    ``batch_size`` runs of equal length; batch k holds the k-th window of each run. Windows left over at the
    end are dropped.
    """

    def __init__(self, dataset: Sized, batch_size: int) -> None:
        self.batch_size, self.n = batch_size, len(dataset) // batch_size
        if self.n == 0:
            raise ValueError(f"ContiguousBatchSampler: {len(dataset)} windows do not fill a batch of {batch_size}")

    def __iter__(self) -> Iterator:
        return ([row * self.n + k for row in range(self.batch_size)] for k in range(self.n))

    def __len__(self) -> int:
        return self.n
