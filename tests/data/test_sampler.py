import numpy as np
import pytest

from minidl.data import (
    BatchSampler,
    ContiguousBatchSampler,
    DataLoader,
    RandomSampler,
    Sampler,
    SequentialSampler,
    SubsetRandomSampler,
    TextWindows,
    WeightedRandomSampler,
)
from minidl.random import Generator, manual_seed


def draw(sampler, seed=0):
    if hasattr(sampler, "set_generator"):
        sampler.set_generator(Generator(seed))
    return list(sampler)


def test_sequential_and_random():
    assert draw(SequentialSampler(range(4))) == [0, 1, 2, 3]
    order = draw(RandomSampler(range(100)))
    assert sorted(order) == list(range(100)) and order != list(range(100))
    assert order == draw(RandomSampler(range(100))) != draw(RandomSampler(range(100)), 1)
    some = draw(RandomSampler(range(100), num_samples=30))
    assert len(set(some)) == 30
    many = RandomSampler(range(5), replacement=True, num_samples=1000)
    assert len(many) == 1000 and np.bincount(draw(many)).min() > 120


def test_without_a_loader_each_pass_is_new_and_seeded():
    sampler = RandomSampler(range(50))
    manual_seed(5)
    first, second = list(sampler), list(sampler)
    manual_seed(5)
    assert first != second and list(sampler) == first


def test_subset_random():
    order = draw(SubsetRandomSampler([3, 1, 4, 15, 9]))
    assert sorted(order) == [1, 3, 4, 9, 15]


@pytest.mark.parametrize("replacement", [True, False])
def test_weighted_frequencies(replacement):
    # The first draw has index i with probability w_i / sum(w), with replacement or without.
    weights = [0, 1, 3, 0, 4]
    counts = np.zeros(5)
    for seed in range(2000):
        counts[draw(WeightedRandomSampler(weights, 1, replacement), seed)[0]] += 1
    np.testing.assert_allclose(counts / 2000, np.array(weights) / 8, atol=0.04)
    assert counts[0] == counts[3] == 0


def test_weighted_without_replacement_is_distinct():
    order = draw(WeightedRandomSampler([1, 1, 0, 5], 3, replacement=False))
    assert sorted(order) == [0, 1, 3]
    with pytest.raises(ValueError, match="3 samples of positive"):
        WeightedRandomSampler([1, 1, 0, 5], 4, replacement=False)


@pytest.mark.parametrize("weights", [[], [0, 0], [-1, 2], [np.nan, 1], [np.inf, 1], [[1, 2]]])
def test_weighted_refuses(weights):
    with pytest.raises(ValueError, match="weights"):
        WeightedRandomSampler(weights, 1)


def test_random_refuses():
    with pytest.raises(ValueError, match="without replacement"):
        RandomSampler(range(3), num_samples=4)
    with pytest.raises(ValueError, match="empty"):
        RandomSampler([], replacement=True, num_samples=4)


@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize("n", [0, 1, 6, 7])
def test_batch_sampler(n, drop_last):
    sampler = BatchSampler(SequentialSampler(range(n)), 3, drop_last)
    batches = list(sampler)
    assert len(batches) == len(sampler) == (n // 3 if drop_last else -(-n // 3))
    assert [i for batch in batches for i in batch] == list(range(n - n % 3 if drop_last else n))


@pytest.mark.parametrize("size", [0, -1, 2.0, None])
def test_batch_size_refused(size):
    with pytest.raises(ValueError, match="batch_size"):
        BatchSampler(SequentialSampler(range(3)), size)


def test_contiguous_rows_go_on():
    tokens = np.arange(103)
    windows = TextWindows(tokens, 5)
    sampler = ContiguousBatchSampler(windows, 3)
    batches = list(DataLoader(windows, batch_sampler=sampler))
    assert len(batches) == len(sampler) == 6
    rows = np.concatenate([inputs for inputs, _ in batches], axis=1)
    np.testing.assert_array_equal(np.diff(rows, axis=1), 1)
    for inputs, targets in batches:
        np.testing.assert_array_equal(targets, inputs + 1)
    with pytest.raises(ValueError, match="do not fill"):
        ContiguousBatchSampler(windows, 21)


def test_sampler_of_ones_own_in_a_loader():
    class Odd(Sampler):
        def __iter__(self):
            return iter((self.stream().permutation(5) * 2 + 1).tolist())

        def __len__(self):
            return 5

    data = np.arange(10)
    loader = DataLoader(data, 2, sampler=Odd(), seed=3)
    first, second = ([x for batch in loader for x in batch.tolist()] for _ in range(2))
    assert sorted(first) == sorted(second) == [1, 3, 5, 7, 9] and first != second
    assert [x for batch in DataLoader(data, 2, sampler=Odd(), seed=3) for x in batch.tolist()] == first
    assert [batch.tolist() for batch in DataLoader(data, 2, sampler=[4, 2, 0])] == [[4, 2], [0]]
