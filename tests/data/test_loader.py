import gc
import multiprocessing
import os
import random
import signal
import threading
import traceback
from collections import namedtuple

import numpy as np
import pytest

import minidl.random
from minidl.data import (
    ArrayDataset,
    Compose,
    ConcatDataset,
    DataLoader,
    Dataset,
    RandomCrop,
    RandomHorizontalFlip,
    RandomSampler,
    Subset,
    WeightedRandomSampler,
    collate,
    sample_rng,
)
from minidl.random import Generator, default_generator, manual_seed

WORKERS = [
    {"num_workers": 0},
    {"num_workers": 1},
    {"num_workers": 3, "prefetch_factor": 1},
    {"num_workers": 2, "worker_type": "process"},
]


class Noisy(Dataset):
    """Item i is (i, a random number): one that depends on seed, epoch and i alone."""

    def __init__(self, n=23):
        self.n = n

    def __len__(self):
        return self.n

    def __getitem__(self, index):
        rng = sample_rng()
        return index, rng.uniform() + rng.uniform()


IMAGES = np.random.default_rng(0).integers(0, 256, (23, 3, 8, 8), dtype=np.uint8)


def augmented():
    transform = Compose([RandomCrop(8, padding=2), RandomHorizontalFlip(), lambda x: x + sample_rng().uniform()])
    return ArrayDataset(IMAGES, np.arange(23), transform=transform)


def epochs(loader, n=2):
    """{sample: value} and the order of samples, for each of n epochs."""
    result = []
    for _ in range(n):
        batches = list(loader)
        order = [int(i) for batch in batches for i in batch[0]]
        values = [value for batch in batches for value in batch[1]]
        result.append((order, dict(zip(order, values, strict=True))))
    return result


@pytest.mark.parametrize("options", WORKERS)
def test_same_batches_whatever_the_workers(options):
    expected = list(DataLoader(Noisy(), 4, shuffle=True, seed=7))
    got = list(DataLoader(Noisy(), 4, shuffle=True, seed=7, **options))
    assert len(got) == 6
    for batch, wanted in zip(got, expected, strict=True):
        np.testing.assert_array_equal(batch[0], wanted[0])
        np.testing.assert_array_equal(batch[1], wanted[1])


def test_augmentation_depends_on_seed_epoch_and_sample_alone():
    (order, values), (order2, values2) = epochs(DataLoader(Noisy(), 4, shuffle=True, seed=7))
    assert sorted(order) == sorted(order2) == list(range(23)) and order != order2
    assert len(set(values.values())) == 23 and all(values[i] != values2[i] for i in range(23))
    (_, other_batches), _ = epochs(DataLoader(Noisy(), 5, seed=7))
    assert other_batches == values
    (other_order, other_seed), _ = epochs(DataLoader(Noisy(), 4, shuffle=True, seed=8))
    assert other_order != order and all(values[i] != other_seed[i] for i in range(23))


@pytest.mark.parametrize("wrap", [lambda d: d, lambda d: Subset(d, range(23)), lambda d: ConcatDataset([d])])
@pytest.mark.parametrize("collate_fn", [None, collate])
def test_batch_transforms_equal_single_ones(wrap, collate_fn):
    """However samples are fetched, one by one or in batches of any size, each comes out the same."""
    data = wrap(augmented())
    reference = dict(zip(range(23), next(iter(DataLoader(augmented(), 23, seed=1)))[0], strict=True))
    assert any(not np.array_equal(reference[i], IMAGES[i]) for i in range(23))
    for images, labels in DataLoader(data, 6, shuffle=True, seed=1, collate_fn=collate_fn):
        for image, label in zip(images, labels, strict=True):
            np.testing.assert_array_equal(image, reference[int(label)])


@pytest.mark.parametrize("options", WORKERS)
@pytest.mark.parametrize("done", [0, 1, 4, 6])
def test_resume(options, done):
    full = DataLoader(Noisy(), 4, shuffle=True, seed=7)
    full.set_epoch(2)
    wanted = [*list(full)[done:], *full]

    first = DataLoader(Noisy(), 4, shuffle=True, seed=7, **options)
    for _ in range(2):
        list(first)
    iterator = iter(first)
    for _ in range(done):
        next(iterator)
    state = first.state_dict()
    iterator.close()
    assert state["epoch"] == 2 and state["position"] == done

    second = DataLoader(Noisy(), 4, shuffle=True, seed=99, **options)
    second.load_state_dict(state)
    got = [*second, *second]
    assert len(got) == 6 - done + 6
    for batch, expected in zip(got, wanted, strict=True):
        np.testing.assert_array_equal(batch[0], expected[0])
        np.testing.assert_array_equal(batch[1], expected[1])


def test_state_in_the_loop_and_between_epochs():
    loader = DataLoader(Noisy(), 10, seed=1)
    positions = [loader.state_dict()["position"] for _ in loader]
    assert positions == [1, 2, 3]
    assert loader.state_dict() == {"seed": 1, "epoch": 1, "position": 0, "num_samples": 23, "num_batches": 3}
    assert loader.epoch == 1


def test_an_iteration_left_early_is_an_epoch():
    loader, other = (DataLoader(Noisy(), 4, shuffle=True, seed=1) for _ in range(2))
    for _ in loader:
        break
    assert loader.state_dict()["epoch"] == 0
    list(other)
    np.testing.assert_array_equal(next(iter(loader))[0], next(iter(other))[0])


def test_state_of_other_batches_is_refused():
    state = DataLoader(Noisy(), 4, seed=1).state_dict()
    with pytest.raises(ValueError, match="num_samples 23, this loader 24"):
        DataLoader(Noisy(24), 4).load_state_dict(state)
    with pytest.raises(ValueError, match="num_batches 6, this loader 8"):
        DataLoader(Noisy(), 3).load_state_dict(state)


def test_default_seed_is_the_global_one_and_draws_nothing():
    manual_seed(3)
    before = default_generator().get_state()
    first = epochs(DataLoader(Noisy(), 4, shuffle=True), 1)
    np.testing.assert_array_equal(default_generator().get_state(), before)
    manual_seed(3)
    assert epochs(DataLoader(Noisy(), 4, shuffle=True), 1) == first
    manual_seed(4)
    assert epochs(DataLoader(Noisy(), 4, shuffle=True), 1) != first


def test_generator_gives_the_seed():
    generator = Generator(5)
    first, second = (epochs(DataLoader(Noisy(), 4, True, generator=generator), 1) for _ in range(2))
    assert first != second
    assert epochs(DataLoader(Noisy(), 4, True, generator=Generator(5)), 1) == first


def test_a_repeated_sample_is_augmented_anew():
    sampler = WeightedRandomSampler([1, 1, 1], 60)
    batches = list(DataLoader(Noisy(3), 7, sampler=sampler, seed=2))
    values = [value for _, batch in batches for value in batch]
    assert len(values) == 60 == len(set(values))
    resumed = DataLoader(Noisy(3), 7, sampler=sampler, seed=2)
    resumed.load_state_dict({**resumed.state_dict(), "position": 4})
    assert [value for _, batch in resumed for value in batch] == values[28:]


def add_noise(batch, rng):
    return batch + rng.uniform((len(batch),))


@pytest.mark.parametrize("options", WORKERS)
def test_batch_transform(options):
    batches = list(DataLoader(np.zeros(8), 2, batch_transform=add_noise, seed=1, **options))
    assert len({float(x) for batch in batches for x in batch}) == 8
    again = list(DataLoader(np.zeros(8), 2, batch_transform=add_noise, seed=1))
    np.testing.assert_array_equal(batches, again)


class Broken(Noisy):
    def __getitem__(self, index):
        if index == 9:
            return self.fail(index)
        return super().__getitem__(index)

    def fail(self, index):
        raise KeyError(f"sample {index} is broken")


@pytest.mark.parametrize("options", WORKERS)
def test_exceptions_keep_their_traceback(options):
    loader = DataLoader(Broken(), 4, **options)
    got = []
    with pytest.raises(KeyError, match="sample 9 is broken") as info:
        got.extend(loader)
    assert len(got) == 2
    text = "".join(traceback.format_exception(info.value))
    assert "in fail" in text and "while loading batch 2, samples [8, 9, 10, 11]" in text
    del info
    assert_nothing_left()


class Unpicklable(Exception):
    def __init__(self, one, two):
        super().__init__("message")


class VeryBroken(Noisy):
    def __getitem__(self, index):
        raise Unpicklable(1, 2)


def test_an_exception_that_cannot_be_pickled_is_shown():
    with pytest.raises(RuntimeError, match=r"(?s)Unpicklable in a worker process.*__getitem__"):
        list(DataLoader(VeryBroken(), 4, num_workers=1, worker_type="process"))


class GlobalNoise(Noisy):
    """Draws from the generators that all code of a process shares."""

    def __getitem__(self, index):
        return random.random(), np.random.random(), minidl.random.default_generator().uniform()


@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_global_generators_in_worker_processes(start):
    """No two samples, workers or epochs get the same numbers, and a second run gets the same."""

    def draw(workers):
        loader = DataLoader(GlobalNoise(), 4, num_workers=workers, worker_type="process", mp_context=start, seed=3)
        return np.concatenate([np.stack(batch) for _ in range(2) for batch in loader], axis=1)

    before = random.getstate(), np.random.get_state()[1].copy(), default_generator().get_state()
    drawn = draw(2)
    assert drawn.shape == (3, 46)
    for row in drawn:
        assert len(set(row.tolist())) == 46
    np.testing.assert_array_equal(drawn, draw(1))
    after = random.getstate(), np.random.get_state()[1], default_generator().get_state()
    assert before[0] == after[0]  # the main process's are left alone
    np.testing.assert_array_equal(before[1], after[1])
    np.testing.assert_array_equal(before[2], after[2])


class Handlers(Noisy):
    def __getitem__(self, index):
        return signal.getsignal(signal.SIGINT) == signal.SIG_IGN


def test_ctrl_c_is_for_the_main_process():
    before = signal.getsignal(signal.SIGINT)
    assert all(np.concatenate(list(DataLoader(Handlers(), 4, num_workers=1, worker_type="process"))))
    assert signal.getsignal(signal.SIGINT) == before


class Dying(Noisy):
    def __getitem__(self, index):
        os._exit(3)


def test_a_worker_that_dies_is_an_error():
    with pytest.raises(RuntimeError, match="terminated abruptly"):
        list(DataLoader(Dying(), 4, num_workers=2, worker_type="process"))
    assert_nothing_left()


def assert_nothing_left():
    gc.collect()
    assert [t.name for t in threading.enumerate() if t.name.startswith("minidl-data")] == []
    assert multiprocessing.active_children() == []


@pytest.mark.parametrize("options", WORKERS)
def test_leaving_early_leaves_nothing_behind(options):
    loader = DataLoader(Noisy(), 2, **options)
    for _ in loader:
        break
    assert_nothing_left()
    with pytest.raises(ZeroDivisionError):
        for _ in loader:
            1 / 0  # noqa: B018
    assert len(list(loader)) == 12
    assert_nothing_left()


class Counting(Noisy):
    loaded = 0

    def __getitem__(self, index):
        self.loaded += 1
        return super().__getitem__(index)


def test_loads_ahead_no_further_than_asked():
    data = Counting(100)
    iterator = iter(DataLoader(data, 1, num_workers=1, prefetch_factor=3))
    for _ in range(10):
        next(iterator)
    iterator.close()
    assert data.loaded <= 13


def test_resuming_loads_nothing_that_is_skipped():
    data = Counting(20)
    loader = DataLoader(data, 2)
    loader.load_state_dict({**loader.state_dict(), "position": 8})
    assert len(list(loader)) == 2 and data.loaded == 4


def test_spawned_processes():
    data = ArrayDataset(np.arange(10))
    loader = DataLoader(data, 4, num_workers=1, worker_type="process", mp_context="spawn")
    assert [batch.tolist() for batch in loader] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


def test_getitems_may_give_samples_or_a_batch():
    class Samples(Dataset):
        def __len__(self):
            return 6

        def __getitems__(self, indices):
            return [(i, float(i)) for i in indices]

    x, y = next(iter(DataLoader(Samples(), 3)))
    assert x.tolist() == y.tolist() == [0, 1, 2] and x.dtype == np.int64 and y.dtype == np.float32


def test_plain_sequences_are_datasets():
    assert [batch.tolist() for batch in DataLoader([3, 1, 2], 2)] == [[3, 1], [2]]
    assert len(DataLoader([3, 1, 2], 2)) == 2 and len(DataLoader([3, 1, 2], 2, drop_last=True)) == 1
    assert list(DataLoader([], 2)) == [] and list(DataLoader([], 2, shuffle=True)) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size"),
        ({"shuffle": True, "sampler": [1]}, "excludes shuffle"),
        ({"batch_sampler": [[1]], "batch_size": 2}, "batch_sampler excludes"),
        ({"batch_sampler": [[1]], "drop_last": True}, "batch_sampler excludes"),
        ({"num_workers": -1}, "num_workers"),
        ({"num_workers": 1, "prefetch_factor": 0}, "prefetch_factor"),
        ({"worker_type": "fiber"}, "'thread' or 'process'"),
        ({"seed": 1, "generator": Generator(1)}, "not both"),
    ],
)
def test_refused_options(options, message):
    with pytest.raises(ValueError, match=message):
        DataLoader(range(4), **options)


Point = namedtuple("Point", "x y")


def test_collate():
    batch = collate([{"a": np.ones((2, 3)), "b": (1, 2.5)}, {"a": np.zeros((2, 3)), "b": (3, 4.5)}])
    assert batch["a"].shape == (2, 2, 3) and batch["a"].dtype == np.float64
    assert batch["b"][0].dtype == np.int64 and batch["b"][1].dtype == np.float32
    assert isinstance(batch["b"], tuple)
    assert collate(["a", "b"]) == ["a", "b"] and collate([b"a"]) == [b"a"]
    assert collate([True, False]).dtype == np.bool_
    assert collate([np.float64(1.5)]).dtype == np.float64 and collate([np.uint8(3)]).dtype == np.uint8
    point = collate([Point(1, 2), Point(3, 4)])
    assert isinstance(point, Point) and point.y.tolist() == [2, 4]
    assert isinstance(collate([[1, 2], [3, 4]]), list)


def test_collate_of_tensors():
    minidl = pytest.importorskip("minidl")
    batch = collate([minidl.tensor([1.0, 2.0]), minidl.tensor([3.0, 4.0])])
    assert isinstance(batch, np.ndarray) and batch.dtype == np.float32 and batch.tolist() == [[1, 2], [3, 4]]


@pytest.mark.parametrize(
    ("samples", "error", "message"),
    [
        ([np.zeros(2), np.zeros(3)], ValueError, r"\(2,\), \(3,\)"),
        ([(1, 2), (1,)], ValueError, r"different lengths \[1, 2\]"),
        ([{"a": 1}, {"b": 1}], ValueError, "keys differ"),
        ([None, None], TypeError, "NoneType"),
    ],
)
def test_collate_refuses(samples, error, message):
    with pytest.raises(error, match=message):
        collate(samples)


def test_sample_rng_outside_of_a_loader_is_the_global_one():
    manual_seed(9)
    value = Noisy()[0][1]
    manual_seed(9)
    assert default_generator().uniform() + default_generator().uniform() == value
    assert minidl.random.default_generator() is sample_rng()


def test_random_windows_by_replacement():
    loader = DataLoader(range(1000), 5, sampler=RandomSampler(range(1000), replacement=True, num_samples=20), seed=1)
    first, second = (np.concatenate(list(loader)).tolist() for _ in range(2))
    assert len(first) == 20 and first != second
