"""Datasets: anything with ``len(dataset)`` and ``dataset[index]``."""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Any

import numpy as np

from minidl.data.rng import current_streams, sample_streams, use_streams
from minidl.data.transforms import apply_batch
from minidl.random import Generator, default_generator


class Dataset:
    """Base of datasets that are indexed 0 … len-1. A subclass defines ``__len__`` and ``__getitem__(index)``.

    It may also define ``__getitems__(indices)``, which fetches a whole batch at once: it returns a list of
    samples, as in PyTorch, which the loader then collates, or the finished batch (a tuple, dict or array with
    the batch axis first), which is the fast way.
    """

    def __len__(self) -> int:
        raise NotImplementedError(f"{type(self).__name__} defines no __len__")

    def __getitem__(self, index: Any) -> Any:
        raise NotImplementedError(f"{type(self).__name__} defines no __getitem__")

    def checksum(self) -> str | None:
        """SHA-256 of the data, before any transform; None if the dataset cannot tell."""
        return None


def digest(*parts: Any) -> str:
    """SHA-256 of arrays (values, dtype and shape), strings and bytes, one after the other."""
    found = hashlib.sha256()
    for part in parts:
        if isinstance(part, np.ndarray):
            found.update(f"{part.dtype.str}{part.shape}".encode())
            found.update(np.ascontiguousarray(part).reshape(-1).view(np.uint8).data)
        else:
            found.update(part.encode() if isinstance(part, str) else part)
    return found.hexdigest()


def _checksum(dataset: Any) -> str | None:
    return dataset.checksum() if hasattr(dataset, "checksum") else None


def get_items(dataset: Any, indices: Sequence[int] | np.ndarray) -> Any:
    """The samples at ``indices``: by ``dataset.__getitems__`` if it has one, else a list of them one by one.

    Where there are current random streams they must be one for each index; each sample sees its own.
    """
    if hasattr(dataset, "__getitems__"):
        return dataset.__getitems__(indices)
    streams = current_streams()
    samples = []
    for i, index in enumerate(indices):
        with use_streams(None if streams is None else streams.one(i)):
            samples.append(dataset[index])
    return samples


class ArrayDataset(Dataset):
    """Samples are the rows of one or more arrays of equal length, for example images and labels.

    Args:
        arrays: NumPy arrays or anything ``np.asarray`` takes, Tensors included. They are not copied.
        transform: applied to rows of the first array. If it has a ``batch(images, streams)`` method, like
            every transform of :mod:`minidl.data.transforms`, it gets whole batches.

    ``dataset[3]`` is a sample: a tuple, or the row itself if there is one array; ``dataset[2:5]`` and
    ``dataset[[2, 4]]`` are batches.

    >>> dataset = ArrayDataset(np.eye(3), np.array([5, 6, 7]))
    >>> image, label = dataset[1]
    >>> image, int(label)
    (array([0., 1., 0.]), 6)
    >>> dataset[[0, 2]][1]
    array([5, 7])
    """

    def __init__(self, *arrays: Any, transform: Callable | None = None) -> None:
        if not arrays:
            raise ValueError("ArrayDataset needs at least one array")
        self.arrays = tuple(np.asarray(array) for array in arrays)
        self.transform = transform
        shapes = [array.shape for array in self.arrays]
        if any(not shape or shape[0] != shapes[0][0] for shape in shapes):
            raise ValueError(f"ArrayDataset: the arrays differ in length along axis 0, shapes {shapes}")

    def __len__(self) -> int:
        return len(self.arrays[0])

    def __getitems__(self, indices: Any) -> Any:
        first, *others = (array[indices] for array in self.arrays)
        if self.transform is not None:
            first = apply_batch(self.transform, first, sample_streams(len(first)))
        return (first, *others) if others else first

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, (slice, list, np.ndarray)):
            return self.__getitems__(index)
        batch = self.__getitems__([index])
        return tuple(array[0] for array in batch) if isinstance(batch, tuple) else batch[0]

    def checksum(self) -> str | None:
        return None if any(array.dtype.hasobject for array in self.arrays) else digest(*self.arrays)


TensorDataset = ArrayDataset


class Subset(Dataset):
    """The samples of ``dataset`` at ``indices``, in that order."""

    def __init__(self, dataset: Any, indices: Sequence[int] | np.ndarray):
        self.dataset = dataset
        self.indices = np.asarray(indices, dtype=np.int64)
        if self.indices.ndim != 1:
            raise ValueError(f"Subset: indices must be one-dimensional, got shape {self.indices.shape}")

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: Any) -> Any:
        return self.dataset[int(self.indices[index])]

    def __getitems__(self, indices: Any) -> Any:
        return get_items(self.dataset, self.indices[indices].tolist())

    def checksum(self) -> str | None:
        whole = _checksum(self.dataset)
        return None if whole is None else digest(whole, self.indices)


class ConcatDataset(Dataset):
    """The samples of several datasets, one after the other."""

    def __init__(self, datasets: Sequence):
        self.datasets = list(datasets)
        if not self.datasets:
            raise ValueError("ConcatDataset needs at least one dataset")
        self.cumulative_sizes = list(accumulate(len(dataset) for dataset in self.datasets))

    def __len__(self) -> int:
        return self.cumulative_sizes[-1]

    def __getitem__(self, index: Any) -> Any:
        if not -len(self) <= index < len(self):
            raise IndexError(f"index {index} is out of range for {len(self)} samples")
        index %= len(self)
        which = bisect_right(self.cumulative_sizes, index)
        return self.datasets[which][index - (self.cumulative_sizes[which - 1] if which else 0)]

    def checksum(self) -> str | None:
        parts = [_checksum(dataset) for dataset in self.datasets]
        return None if None in parts else digest(*parts)


def random_split(dataset: Any, lengths: Sequence[int | float], generator: Generator | None = None) -> list[Subset]:
    """Split a dataset at random into disjoint parts.

    Args:
        lengths: number of samples of each part, or fractions that sum to 1 (rounded down, what is left over
            going one by one to the first parts, as in PyTorch).
        generator: the source of the permutation; the global generator by default.

    Raises:
        ValueError: the lengths do not sum to ``len(dataset)`` or the fractions to 1.

    >>> [len(part) for part in random_split(ArrayDataset(np.arange(10)), [0.7, 0.3])]
    [7, 3]
    """
    n = len(dataset)
    if any(length < 0 for length in lengths):
        raise ValueError(f"random_split: lengths must not be negative, got {list(lengths)}")
    if any(isinstance(length, float) for length in lengths):
        if abs(sum(lengths) - 1) > 1e-6:
            raise ValueError(f"random_split: fractions {list(lengths)} sum to {sum(lengths)}, not 1")
        # The small term keeps 100 * 0.29 = 28.999999999999996 from losing a sample.
        sizes = [int(np.floor(n * fraction + 1e-9)) for fraction in lengths]
        for i in range(n - sum(sizes)):
            sizes[i % len(sizes)] += 1
    else:
        sizes = [int(length) for length in lengths]
    if sum(sizes) != n:
        raise ValueError(f"random_split: lengths {sizes} sum to {sum(sizes)}, the dataset has {n} samples")
    order = np.asarray((generator or default_generator()).permutation(n))
    return [Subset(dataset, part) for part in np.split(order, np.cumsum(sizes)[:-1])]
