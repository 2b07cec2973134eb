"""DataLoader: batches of a dataset, in order or shuffled, loaded ahead by threads or processes."""

from __future__ import annotations

import multiprocessing
import pickle
import random
import signal
import traceback
from collections import Counter, abc, deque
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from itertools import islice
from typing import Any

import numpy as np

from minidl.data.dataset import get_items
from minidl.data.rng import SampleStreams, use_streams
from minidl.data.sampler import BatchSampler, RandomSampler, SequentialSampler
from minidl.random import Generator, default_generator

# Sub-streams of an epoch's generator.
_ORDER, _SAMPLES, _BATCHES, _GLOBAL = 0, 1, 2, 3


def collate(samples: list) -> Any:
    """Stack samples into a batch with the batch axis first.

    Arrays and Tensors of equal shape are stacked, ints become int64, floats float32 and bools bool arrays;
    strings and bytes stay lists; tuples, lists and dicts are collated element by element.

    Raises:
        ValueError: shapes, lengths or keys differ; the message says which.
        TypeError: a sample holds something else, such as None.

    >>> collate([(np.array([1.0, 2.0]), 3, "a"), (np.array([4.0, 5.0]), 6, "b")])
    (array([[1., 2.],
           [4., 5.]]), array([3, 6]), ['a', 'b'])
    """
    first = samples[0]
    if isinstance(first, (str, bytes)):
        return list(samples)
    if isinstance(first, dict):
        if any(sample.keys() != first.keys() for sample in samples):
            raise ValueError(f"collate: the samples' dict keys differ, the first has {list(first)}")
        return {key: collate([sample[key] for sample in samples]) for key in first}
    if isinstance(first, (tuple, list)):
        lengths = {len(sample) for sample in samples}
        if len(lengths) > 1:
            raise ValueError(
                f"collate: samples of different lengths {sorted(lengths)}; pad them (pad_sequences) in a "
                "collate_fn of your own"
            )
        fields = [collate(list(field)) for field in zip(*samples, strict=True)]
        if isinstance(first, list):
            return fields
        return type(first)(*fields) if hasattr(first, "_fields") else tuple(fields)
    if isinstance(first, (bool, np.bool_)):
        return np.array(samples, dtype=np.bool_)
    if isinstance(first, int):
        return np.array(samples, dtype=np.int64)
    if isinstance(first, float) and not isinstance(first, np.floating):
        return np.array(samples, dtype=np.float32)
    if isinstance(first, (np.ndarray, np.generic)) or hasattr(first, "__array__"):
        arrays = [np.asarray(sample) for sample in samples]
        shapes = {array.shape for array in arrays}
        if len(shapes) > 1:
            raise ValueError(
                f"collate: cannot stack samples of different shapes {sorted(shapes)}; make them equal "
                "(Resize, CenterCrop, pad_sequences) or give a collate_fn of your own"
            )
        return np.stack(arrays)
    raise TypeError(
        f"collate: cannot batch {type(first).__name__}; samples are made of arrays, numbers, strings, "
        "tuples, lists and dicts"
    )


class _Fetcher:
    """Loads one batch. Holds no state of the iteration, so any thread or process may run it, in any order."""

    def __init__(self, dataset: Any, collate_fn: Callable | None, batch_transform: Callable | None):
        self.dataset, self.collate_fn, self.batch_transform = dataset, collate_fn, batch_transform

    def __call__(self, generator: Generator, number: int, indices: list[int], keys: list[int]) -> Any:
        try:
            return self._fetch(generator, number, indices, keys)
        except Exception as error:
            shown = f"{indices[:8]}".replace("]", ", …]") if len(indices) > 8 else f"{indices}"
            error.add_note(f"while loading batch {number}, samples {shown}")
            raise

    def _fetch(self, generator: Generator, number: int, indices: list[int], keys: list[int]) -> Any:
        streams = SampleStreams(generator.fold_in(_SAMPLES), keys)
        if self.collate_fn is None:
            with use_streams(streams):
                batch = get_items(self.dataset, indices)
            if isinstance(batch, list):
                batch = collate(batch)
        else:
            samples = []
            for i, index in enumerate(indices):
                with use_streams(streams.one(i)):
                    samples.append(self.dataset[index])
            batch = self.collate_fn(samples)
        if self.batch_transform is not None:
            batch = self.batch_transform(batch, generator.fold_in(_BATCHES, number))
        return batch


_process_fetcher: _Fetcher | None = None  # in a worker process: its fetcher


def _start_process(fetcher: _Fetcher) -> None:
    global _process_fetcher
    _process_fetcher = fetcher
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the main process, which then ends this one


def _seed_globals(generator: Generator) -> None:
    """Seed the generators that all code of a process shares: Python's, NumPy's and minidl's."""
    words = [int(word) for word in generator.bits(8)]
    random.seed(sum(word << 32 * i for i, word in enumerate(words)))
    np.random.seed(words)
    default_generator().set_state(generator.get_state())


def _fetch_in_process(generator: Generator, number: int, indices: list[int], keys: list[int]) -> Any:
    assert _process_fetcher is not None
    # Each process began with a copy of the same generators. By batch: which worker gets which batch is chance.
    _seed_globals(generator.fold_in(_GLOBAL, number))
    try:
        return _process_fetcher(generator, number, indices, keys)
    except Exception as error:
        try:
            pickle.loads(pickle.dumps(error))
        except Exception:  # an exception class that cannot cross the process boundary would break the pool
            raise RuntimeError(f"{type(error).__name__} in a worker process:\n{traceback.format_exc()}") from None
        raise


class DataLoader:
    """Iterates over a dataset in batches; each iteration is an epoch.

    Batches are NumPy arrays, in the structure of the samples (see :func:`collate`).

    Args:
        dataset: has ``len`` and ``dataset[index]``; ``__getitems__`` if it can fetch a batch at once (see
            :class:`~minidl.data.Dataset`).
        batch_size, shuffle, drop_last: as in PyTorch.
        sampler: gives the indices, in place of ``shuffle``.
        batch_sampler: gives lists of indices, in place of ``batch_size``, ``shuffle``, ``sampler`` and
        ``drop_last``.
        collate_fn: makes a batch of a list of samples, in place of :func:`collate`. With one, samples are
            always fetched one by one.
        batch_transform: ``f(batch, rng)``, applied to each finished batch, for example
            :class:`~minidl.data.transforms.MixUp`; ``rng`` is a Generator of its own for each batch.
        num_workers: threads or processes that load ahead. 0 loads in the calling thread.
        worker_type: "thread" suits work that NumPy or Pillow do, which release the interpreter lock;
            "process" suits Python code. Processes live for one iteration and get the dataset as
            ``mp_context`` starts them.
        prefetch_factor: batches loaded ahead by each worker.
        seed: decides order and augmentation, with the epoch. By default it is derived from the global seed
            (``minidl.manual_seed``), without drawing from the global generator.
        generator: draw the seed from this generator instead.
        mp_context: name of a start method ("fork", "spawn", "forkserver") or a multiprocessing context;
            Python's default if None.

    What is loaded is a function of (seed, epoch, order of the indices) alone: neither the number nor the kind
    of workers, nor how samples are batched, changes a sample's augmentation. A sample drawn several times in
    an epoch is augmented differently each time. This holds for what is drawn from
    :func:`~minidl.data.sample_rng`; code that draws from the global generators of Python, NumPy or minidl finds
    them seeded anew for each batch of each epoch in worker processes, and in threads shares the program's.

    ``state_dict()`` names the epoch and the number of batches taken from it, and a loader with that state
    continues with the remaining batches; what was loaded ahead does not count. Leaving a loop early ends all
    workers; the next iteration is a new epoch. An exception in a worker is raised here with its own traceback
    and a note of the samples.

    >>> from minidl.data import ArrayDataset
    >>> loader = DataLoader(ArrayDataset(np.arange(5)), batch_size=2)
    >>> [batch.tolist() for batch in loader]
    [[0, 1], [2, 3], [4]]
    >>> again = DataLoader(ArrayDataset(np.arange(5)), batch_size=2, shuffle=True, seed=1)
    >>> [sorted(int(i) for batch in again for i in batch) for epoch in range(2)]
    [[0, 1, 2, 3, 4], [0, 1, 2, 3, 4]]
    """

    def __init__(
        self,
        dataset: Any,
        batch_size: int = 1,
        shuffle: bool = False,
        *,
        sampler: Any = None,
        batch_sampler: Any = None,
        drop_last: bool = False,
        collate_fn: Callable | None = None,
        batch_transform: Callable | None = None,
        num_workers: int = 0,
        worker_type: str = "thread",
        prefetch_factor: int = 2,
        seed: int | None = None,
        generator: Generator | None = None,
        mp_context: Any = None,
    ) -> None:
        if batch_sampler is not None and (batch_size != 1 or shuffle or sampler is not None or drop_last):
            raise ValueError("DataLoader: batch_sampler excludes batch_size, shuffle, sampler and drop_last")
        if sampler is not None and shuffle:
            raise ValueError("DataLoader: sampler excludes shuffle")
        if num_workers < 0 or prefetch_factor < 1:
            raise ValueError(
                f"DataLoader: num_workers must be at least 0 and prefetch_factor at least 1, got "
                f"{num_workers} and {prefetch_factor}"
            )
        if worker_type not in ("thread", "process"):
            raise ValueError(f"DataLoader: worker_type must be 'thread' or 'process', got {worker_type!r}")
        if seed is not None and generator is not None:
            raise ValueError("DataLoader: give seed or generator, not both")
        if batch_sampler is None:
            if sampler is None:
                sampler = RandomSampler(dataset) if shuffle else SequentialSampler(dataset)
            batch_sampler = BatchSampler(sampler, batch_size, drop_last)
        if seed is None:
            # Folded, not drawn: how many loaders a program makes must not change its initial weights.
            source = default_generator().fold_in(0xDA7A) if generator is None else generator
            high, low = (int(word) for word in source.bits(2))
            seed = high << 32 | low
        self.dataset, self.batch_sampler, self.batch_size = dataset, batch_sampler, batch_size
        self.num_workers, self.worker_type, self.prefetch_factor = num_workers, worker_type, prefetch_factor
        self.mp_context = mp_context
        self.seed = seed
        self._fetcher = _Fetcher(dataset, collate_fn, batch_transform)
        self._epoch, self._position, self._under_way = 0, 0, False

    def __len__(self) -> int:
        """Batches in an epoch."""
        return len(self.batch_sampler)

    @property
    def epoch(self) -> int:
        """The epoch under way, or the next one between epochs; counted from 0."""
        return self._epoch

    def set_epoch(self, epoch: int) -> None:
        """Make the next iteration this epoch, from its first batch."""
        self._epoch, self._position, self._under_way = epoch, 0, False

    def state_dict(self) -> dict[str, int]:
        """Seed, epoch, batches taken from it, and what the order depends on: plain integers."""
        return {
            "seed": self.seed,
            "epoch": self._epoch,
            "position": self._position,
            "num_samples": len(self.dataset),
            "num_batches": len(self),
        }

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on where ``state`` was taken: the next iteration gives the batches that remained of its epoch.

        Raises:
            ValueError: the state belongs to a dataset of another size or to other batches.
        """
        for key in ("num_samples", "num_batches"):
            if state[key] != self.state_dict()[key]:
                raise ValueError(
                    f"DataLoader: the state has {key} {state[key]}, this loader {self.state_dict()[key]}; "
                    "dataset and batch size must be those it was saved with"
                )
        self.seed, self._epoch, self._position = state["seed"], state["epoch"], state["position"]
        self._under_way = False

    def __iter__(self) -> Iterator:
        if self._under_way:  # the last iteration was left early: this is a new epoch
            self.set_epoch(self._epoch + 1)
        self._under_way = True
        return self._iterate(Generator(self.seed).fold_in(self._epoch), self._position)

    def _iterate(self, generator: Generator, start: int) -> Iterator:
        jobs = islice(self._jobs(generator), start, None)
        batches = self._load(jobs) if self.num_workers == 0 else self._load_ahead(jobs)
        try:
            for batch in batches:
                self._position += 1
                yield batch
        finally:
            batches.close()
        self.set_epoch(self._epoch + 1)

    def _jobs(self, generator: Generator) -> Iterator[tuple]:
        if hasattr(self.batch_sampler, "set_generator"):
            self.batch_sampler.set_generator(generator.fold_in(_ORDER))
        n, seen = len(self.dataset), Counter[int]()
        for number, batch in enumerate(self.batch_sampler):
            indices = [int(index) for index in batch]
            keys = []
            for index in indices:
                # The key of a sample's random stream: its index, and another one each time it comes again.
                keys.append(index + n * seen[index])
                seen[index] += 1
            yield generator, number, indices, keys

    def _load(self, jobs: Iterator[tuple]) -> abc.Generator[Any, None, None]:
        for job in jobs:
            yield self._fetcher(*job)

    def _load_ahead(self, jobs: Iterator[tuple]) -> abc.Generator[Any, None, None]:
        pool = self._pool()
        fetch = self._fetcher if self.worker_type == "thread" else _fetch_in_process
        try:
            pending = deque(pool.submit(fetch, *job) for job in islice(jobs, self.num_workers * self.prefetch_factor))
            while pending:
                batch = pending.popleft().result()
                for job in islice(jobs, 1):
                    pending.append(pool.submit(fetch, *job))
                yield batch
        finally:
            pool.shutdown(cancel_futures=True)

    def _pool(self) -> Executor:
        if self.worker_type == "thread":
            return ThreadPoolExecutor(self.num_workers, thread_name_prefix="minidl-data")
        context = self.mp_context
        if context is None or isinstance(context, str):
            context = multiprocessing.get_context(context)
        return ProcessPoolExecutor(self.num_workers, context, initializer=_start_process, initargs=(self._fetcher,))
