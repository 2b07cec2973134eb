import numpy as np
import pytest

from minidl.data import ArrayDataset, ConcatDataset, DataLoader, Dataset, Subset, TensorDataset, random_split
from minidl.random import Generator


class Squares(Dataset):
    def __init__(self, n):
        self.n = n

    def __len__(self):
        return self.n

    def __getitem__(self, index):
        if not 0 <= index < self.n:
            raise IndexError(index)
        return np.float32(index), index**2


def test_array_dataset():
    x, y = np.arange(12.0).reshape(6, 2), np.arange(6)
    data = ArrayDataset(x, y)
    assert len(data) == 6 and TensorDataset is ArrayDataset
    row, label = data[-1]
    np.testing.assert_array_equal(row, x[-1])
    assert label == 5
    for key in (slice(1, 4), [1, 2, 3], np.array([1, 2, 3])):
        np.testing.assert_array_equal(data[key][0], x[1:4])
        np.testing.assert_array_equal(data[key][1], y[1:4])
    np.testing.assert_array_equal(ArrayDataset(x)[2], x[2])
    assert len(list(data)) == 6


def test_array_dataset_transform():
    data = ArrayDataset(np.arange(4.0), np.arange(4), transform=lambda row: row * 10)
    assert data[3] == (30.0, 3)
    np.testing.assert_array_equal(data[1:3][0], [10, 20])


def test_array_dataset_refuses():
    with pytest.raises(ValueError, match=r"\(6,\), \(5,\)"):
        ArrayDataset(np.zeros(6), np.zeros(5))
    with pytest.raises(ValueError, match="length"):
        ArrayDataset(np.float32(3))
    with pytest.raises(ValueError, match="at least one"):
        ArrayDataset()
    with pytest.raises(IndexError):
        ArrayDataset(np.zeros(6))[6]


def test_base_names_what_is_missing():
    class Empty(Dataset):
        pass

    with pytest.raises(NotImplementedError, match="Empty defines no __len__"):
        len(Empty())
    with pytest.raises(NotImplementedError, match="Empty defines no __getitem__"):
        Empty()[0]


@pytest.mark.parametrize("data", [Squares(10), ArrayDataset(np.arange(10, dtype=np.float32), np.arange(10) ** 2)])
def test_subset_and_concat(data):
    part = Subset(data, [7, 2, 5])
    assert [int(part[i][1]) for i in range(3)] == [49, 4, 25] and part[-1][1] == 25
    both = ConcatDataset([part, Squares(0), data])
    assert len(both) == 13
    assert [int(both[i][1]) for i in (0, 2, 3, 12, -13)] == [49, 25, 0, 81, 49]
    with pytest.raises(IndexError):
        both[13]
    batches = [labels.tolist() for _, labels in DataLoader(both, 5)]
    assert batches == [[49, 4, 25, 0, 1], [4, 9, 16, 25, 36], [49, 64, 81]]
    assert [labels.tolist() for _, labels in DataLoader(Subset(part, [2, 0]), 2)] == [[25, 49]]


@pytest.mark.parametrize(
    ("n", "lengths", "sizes"),
    [
        (10, [7, 3], [7, 3]),
        (10, [0.7, 0.3], [7, 3]),
        (100, [0.71, 0.29], [71, 29]),  # 100 * 0.29 is 28.999999999999996
        (11, [0.5, 0.25, 0.25], [6, 3, 2]),
        (5, [0, 5], [0, 5]),
        (3, [0.1, 0.9], [1, 2]),
    ],
)
def test_random_split(n, lengths, sizes):
    parts = random_split(Squares(n), lengths, Generator(1))
    assert [len(part) for part in parts] == sizes
    assert sorted(i for part in parts for i in part.indices) == list(range(n))
    again = random_split(Squares(n), lengths, Generator(1))
    assert [part.indices.tolist() for part in parts] == [part.indices.tolist() for part in again]


def test_random_split_is_random():
    first, other = (random_split(Squares(100), [50, 50], Generator(seed))[0].indices for seed in (1, 2))
    assert first.tolist() != other.tolist()
    assert first.tolist() != sorted(first)


@pytest.mark.parametrize("lengths", [[7, 4], [-1, 11], [0.5, 0.4], [0.5, 1]])
def test_random_split_refuses(lengths):
    with pytest.raises(ValueError, match="random_split"):
        random_split(Squares(10), lengths)
