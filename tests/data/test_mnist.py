import gzip
import hashlib
import struct

import numpy as np
import pytest

from minidl.data import MNIST, CorruptFileError, DataLoader, Digits, FashionMNIST, Normalize
from minidl.data.mnist import read_idx


def idx(array: np.ndarray) -> bytes:
    codes = {"uint8": 0x08, "int8": 0x09, "int16": 0x0B, "int32": 0x0C, "float32": 0x0D, "float64": 0x0E}
    header = struct.pack(f">4B{array.ndim}I", 0, 0, codes[array.dtype.name], array.ndim, *array.shape)
    return header + array.astype(array.dtype.newbyteorder(">")).tobytes()


@pytest.mark.parametrize("dtype", ["uint8", "int8", "int16", "int32", "float32", "float64"])
@pytest.mark.parametrize("shape", [(3, 4, 5), (7,), (0, 28, 28)])
def test_read_idx_round_trip(tmp_path, dtype, shape):
    array = np.arange(np.prod(shape)).astype(dtype).reshape(shape)
    (tmp_path / "plain").write_bytes(idx(array))
    (tmp_path / "packed.gz").write_bytes(gzip.compress(idx(array)))
    for name in ("plain", "packed.gz"):
        result = read_idx(tmp_path / name)
        assert result.dtype == np.dtype(dtype) and result.dtype.isnative and result.flags.writeable
        np.testing.assert_array_equal(result, array)


GOOD = idx(np.arange(60, dtype=np.uint8).reshape(3, 4, 5))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "nothing"),
        (b"\0\0", "not an IDX file"),
        (b"\x89PNG" + GOOD[4:], "not an IDX file"),
        (b"\0\0\x07\x03" + GOOD[4:], "not an IDX file"),
        (GOOD[:10], "truncated in the header"),
        (GOOD[:-1], "truncated, 59 of 60 bytes"),
        (GOOD + b"\0", "longer than the 60 bytes"),
        (b"\0\0\x08\x03" + b"\xff" * 12, "truncated, 0 of"),
    ],
)
def test_read_idx_refuses(tmp_path, content, message):
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(CorruptFileError, match=message) as info:
        read_idx(tmp_path / "file")
    assert str(tmp_path / "file") in str(info.value)


def test_read_idx_refuses_damaged_gzip(tmp_path):
    rng = np.random.default_rng(0)
    packed = gzip.compress(idx(rng.integers(0, 256, (20, 8, 8), dtype=np.uint8)))
    path = tmp_path / "file.gz"
    for cut in (3, len(packed) // 2, len(packed) - 4):
        path.write_bytes(packed[:cut])
        with pytest.raises(CorruptFileError, match=r"truncated or damaged"):
            read_idx(path)
    flipped = bytearray(packed)
    flipped[len(packed) // 2] ^= 0xFF
    path.write_bytes(flipped)
    with pytest.raises(CorruptFileError, match=r"file\.gz"):
        read_idx(path)


def test_read_idx_checks_the_shape_before_it_reads(tmp_path):
    (tmp_path / "file").write_bytes(GOOD)
    with pytest.raises(CorruptFileError, match=r"shape \(3, 4, 5\), expected \(3, 4, 4\)"):
        read_idx(tmp_path / "file", (3, 4, 4))


STEMS = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")


@pytest.fixture
def small(tmp_path, no_data):
    """A class like MNIST for 20 + 10 made-up images, their files, and the folder they are in."""
    rng = np.random.default_rng(0)
    contents = {}
    for part, n in (("train", 20), ("t10k", 10)):
        contents[f"{part}-images-idx3-ubyte"] = idx(rng.integers(0, 256, (n, 28, 28), dtype=np.uint8))
        contents[f"{part}-labels-idx1-ubyte"] = idx((np.arange(n) % 10).astype(np.uint8))
    folder = tmp_path / "served"
    folder.mkdir()
    packed = {stem: gzip.compress(content) for stem, content in contents.items()}
    for stem, content in packed.items():
        (folder / f"{stem}.gz").write_bytes(content)

    class Small(MNIST):
        sizes = {"train": 20, "t10k": 10}
        mirrors = (folder.as_uri() + "/",)
        archive_md5 = {stem: hashlib.md5(content).hexdigest() for stem, content in packed.items()}
        unpacked_md5 = {stem: hashlib.md5(content).hexdigest() for stem, content in contents.items()}

    return Small, contents, folder


def test_mnist_samples_and_places(small, tmp_path):
    Small, contents, folder = small
    data = Small(folder)
    assert len(data) == 20 and len(Small(folder, train=False)) == 10
    image, label = data[3]
    assert image.shape == (1, 28, 28) and image.dtype == np.float32
    assert label == 3 and label.dtype == np.int64
    np.testing.assert_allclose(image, data.images[3] / 255, rtol=1e-6)
    assert len(Small(folder / f"{STEMS[0]}.gz")) == 20  # one of the files in place of the folder
    for sub in ("mnist", "MNIST/raw"):
        root = tmp_path / sub.replace("/", "-")
        (root / sub).mkdir(parents=True)
        for stem in STEMS:
            (root / sub / stem).write_bytes(contents[stem])
        np.testing.assert_array_equal(Small(root).images, data.images)


def test_mnist_missing_lists_places(small, no_data):
    with pytest.raises(FileNotFoundError) as info:
        small[0]()
    assert str(no_data / "mnist" / f"{STEMS[0]}.gz") in str(info.value)
    assert "--data" in str(info.value) and "MINIDL_DATA" in str(info.value) and "download=True" in str(info.value)


def test_mnist_download(small, no_data, monkeypatch):
    Small = small[0]
    data = Small(download=True)
    assert sorted(path.name for path in (no_data / "mnist").iterdir()) == sorted(f"{s}.gz" for s in STEMS[:2])
    monkeypatch.setattr(Small, "mirrors", ())  # the second time nothing is fetched
    np.testing.assert_array_equal(Small(download=True).images, data.images)


def test_mnist_download_of_a_wrong_file(small, no_data):
    Small, _, folder = small
    (folder / f"{STEMS[0]}.gz").write_bytes(b"<html>sorry</html>")
    with pytest.raises(ConnectionError, match="wrong md5"):
        Small(download=True)
    assert list(no_data.rglob("*.*")) == []


def test_mnist_refuses_other_content_of_the_right_shape(small):
    Small, contents, folder = small
    changed = bytearray(contents[STEMS[0]])
    changed[100] ^= 1
    (folder / f"{STEMS[0]}.gz").write_bytes(gzip.compress(changed))
    with pytest.raises(CorruptFileError, match="not MNIST's file"):
        Small(folder)


def test_fashion_mnist_tells_mnists_files(small, monkeypatch):
    Small, _, folder = small
    monkeypatch.setattr(MNIST, "unpacked_md5", Small.unpacked_md5)
    monkeypatch.setattr(FashionMNIST, "sizes", Small.sizes)
    with pytest.raises(CorruptFileError, match="this is MNIST's file"):
        FashionMNIST(folder)


def test_fashion_mnist_checks_labels(small, monkeypatch):
    Small, _, folder = small
    monkeypatch.setattr(FashionMNIST, "sizes", Small.sizes)
    assert len(FashionMNIST(folder)) == 20
    (folder / f"{STEMS[1]}.gz").write_bytes(gzip.compress(idx(np.full(20, 10, np.uint8))))
    with pytest.raises(CorruptFileError, match="a label is 10"):
        FashionMNIST(folder)


def test_real_mnist(real_data):
    train, test = MNIST(real_data), MNIST(real_data, train=False)
    assert len(train) == 60000 and len(test) == 10000
    assert train.labels[:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]
    assert test.labels[:10].tolist() == [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]
    assert train.images.mean() / 255 == pytest.approx(MNIST.mean[0], abs=5e-5)
    assert train.images.std() / 255 == pytest.approx(MNIST.std[0], abs=5e-5)


def test_real_mnist_truncated(real_data, tmp_path):
    for stem in STEMS[2:]:
        content = (real_data / "mnist" / f"{stem}.gz").read_bytes()
        (tmp_path / f"{stem}.gz").write_bytes(content[:-1000] if "images" in stem else content)
    with pytest.raises(CorruptFileError, match=r"t10k-images-idx3-ubyte\.gz: the gzip file is truncated"):
        MNIST(tmp_path, train=False)


def test_digits():
    train, test, both = Digits(), Digits(train=False), Digits(train=None)
    assert (len(train), len(test), len(both)) == (1437, 360, 1797)
    image, label = train[0]
    assert image.shape == (1, 8, 8) and image.dtype == np.float32 and label == 0
    assert both.images.min() == 0 and both.images.max() == 1
    assert np.bincount(both.labels).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    assert train.images.mean() == pytest.approx(Digits.mean[0], abs=5e-5)
    assert train.images.std() == pytest.approx(Digits.std[0], abs=5e-5)
    images, labels = next(iter(DataLoader(Digits(transform=Normalize(Digits.mean, Digits.std)), 32)))
    assert images.shape == (32, 1, 8, 8) and images.dtype == np.float32 and labels.shape == (32,)


def test_digits_equal_scikit_learns():
    datasets = pytest.importorskip("sklearn.datasets", reason="scikit-learn's copy is compared with")
    images, labels = datasets.load_digits(return_X_y=True)
    data = Digits(train=None)
    np.testing.assert_array_equal(data.images.reshape(-1, 64) * 16, images)
    np.testing.assert_array_equal(data.labels, labels)
