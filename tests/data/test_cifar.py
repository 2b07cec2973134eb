import hashlib
import io
import tarfile
import zipfile

import numpy as np
import pytest

from minidl.data import CIFAR10, CIFAR100, CorruptFileError

RECORDS = 10


class Small10(CIFAR10):
    records = {"train": RECORDS, "test": RECORDS}


class Small100(CIFAR100):
    records = {"train": RECORDS, "test": RECORDS}


def records(seed: int, label_bytes: int) -> np.ndarray:
    data = np.random.default_rng(seed).integers(0, 256, (RECORDS, label_bytes + 3072), dtype=np.uint8)
    data[:, :label_bytes] = np.arange(RECORDS)[:, None] + np.arange(label_bytes) * 5
    return data


def members10() -> dict[str, bytes]:
    files = {f"data_batch_{i}.bin": records(i, 1).tobytes() for i in range(1, 6)}
    return {f"cifar-10-batches-bin/{name}": data for name, data in
            {**files, "test_batch.bin": records(6, 1).tobytes(), "readme.html": b"<html>"}.items()}  # fmt: skip


def members100() -> dict[str, bytes]:
    return {"cifar-100-binary/train.bin": records(1, 2).tobytes(),
            "cifar-100-binary/test.bin": records(2, 2).tobytes()}  # fmt: skip


def tar(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def test_cifar10_archive_and_folders(tmp_path):
    archive = tmp_path / "cifar-10-binary.tar.gz"
    archive.write_bytes(tar(members10()))
    folder = tmp_path / "unpacked" / "cifar-10-batches-bin"
    folder.mkdir(parents=True)
    for name, content in members10().items():
        (folder / name.split("/")[1]).write_bytes(content)
    expected = np.concatenate([records(i, 1) for i in range(1, 6)])
    for root in (archive, tmp_path, folder, folder.parent):
        data = Small10(root)
        assert data.source == "binary" and data.images.dtype == np.uint8
        np.testing.assert_array_equal(data.images, expected[:, 1:].reshape(-1, 3, 32, 32))
        np.testing.assert_array_equal(data.labels, expected[:, 0])
        np.testing.assert_array_equal(Small10(root, train=False).labels, np.arange(RECORDS))
    image, label = data[3]
    assert image.shape == (3, 32, 32) and image.dtype == np.float32 and label == 3
    np.testing.assert_allclose(image[1, 0, 0], expected[3, 1 + 1024] / 255, rtol=1e-6)


def test_cifar100(tmp_path):
    (tmp_path / "cifar-100-binary.tar.gz").write_bytes(tar(members100()))
    assert Small100(tmp_path).labels.tolist() == list(range(5, 5 + RECORDS))
    coarse = Small100(tmp_path, train=False, coarse=True)
    assert coarse.labels.tolist() == list(range(RECORDS))
    np.testing.assert_array_equal(coarse.images.reshape(RECORDS, -1), records(2, 2)[:, 2:])
    assert len(Small100(tmp_path).classes) == 100 == len(set(Small100.fine_classes))
    assert len(coarse.classes) == 20 == len(set(coarse.classes))
    assert list(Small100.fine_classes) == sorted(Small100.fine_classes)


def outside() -> dict[str, bytes]:
    return {"cifar-10-batches-bin/../../evil": b"", **members10()}


def absent() -> dict[str, bytes]:
    members = members10()
    del members["cifar-10-batches-bin/data_batch_3.bin"]
    return members


def short() -> dict[str, bytes]:
    members = members10()
    members["cifar-10-batches-bin/data_batch_2.bin"] = members["cifar-10-batches-bin/data_batch_2.bin"][:-1]
    return members


def bad_label() -> dict[str, bytes]:
    members = members10()
    members["cifar-10-batches-bin/data_batch_2.bin"] = b"\x0a" + members["cifar-10-batches-bin/data_batch_2.bin"][1:]
    return members


@pytest.mark.parametrize(
    ("members", "message"),
    [
        (outside, "points outside"),
        (absent, "no cifar-10-batches-bin/data_batch_3.bin"),
        (short, f"has {RECORDS * 3073 - 1} bytes, expected a file of {RECORDS * 3073}"),
        (bad_label, "a label is 10"),
        (members100, "the binary version"),
    ],
)
def test_archive_refused(tmp_path, members, message):
    path = tmp_path / "cifar-10-binary.tar.gz"
    path.write_bytes(tar(members()))
    with pytest.raises(CorruptFileError, match=message) as info:
        Small10(path)
    assert str(path) in str(info.value)


def test_archive_with_a_link_refused(tmp_path):
    path = tmp_path / "cifar-10-binary.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        info = tarfile.TarInfo("cifar-10-batches-bin/data_batch_1.bin")
        info.type, info.linkname, info.size = tarfile.SYMTYPE, "/etc/passwd", RECORDS * 3073
        archive.addfile(info)
    with pytest.raises(CorruptFileError, match="expected a file"):
        Small10(path)


def test_damaged_archive_refused(tmp_path):
    path = tmp_path / "cifar-10-binary.tar.gz"
    content = tar(members10())
    for cut in (0, 5, len(content) // 2, len(content) - 6):  # the last loses gzip's checksum only
        path.write_bytes(content[:cut])
        with pytest.raises(CorruptFileError, match=r"cifar-10-binary\.tar\.gz"):
            Small10(path)
    flipped = bytearray(content)
    flipped[len(content) // 2] ^= 0xFF
    path.write_bytes(flipped)
    with pytest.raises(CorruptFileError):
        Small10(path)


def test_folder_with_a_short_file_refused(tmp_path):
    for name, content in short().items():
        (tmp_path / name.split("/")[1]).write_bytes(content)
    with pytest.raises(CorruptFileError, match=r"data_batch_2\.bin"):
        Small10(tmp_path)


def test_missing_and_download(no_data, tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError) as info:
        Small10()
    for name in ("cifar-10-batches-bin", "cifar-10-binary.tar.gz", "cifar10-jpeg.zip"):
        assert str(no_data / name) in str(info.value)
    served = tmp_path / "served"
    served.mkdir()
    (served / Small10.archive).write_bytes(tar(members10()))
    monkeypatch.setattr(Small10, "url", served.as_uri() + "/")
    with pytest.raises(ConnectionError, match="wrong md5"):
        Small10(download=True)
    content = (served / Small10.archive).read_bytes()
    monkeypatch.setattr(Small10, "archive_md5", hashlib.md5(content).hexdigest())
    assert len(Small10(download=True)) == 50
    assert (no_data / Small10.archive).read_bytes() == content


def encode(image: np.ndarray, kind: str = "PNG") -> bytes:
    image_module = pytest.importorskip("PIL.Image", reason="Pillow encodes the images")
    buffer = io.BytesIO()
    image_module.fromarray(image).save(buffer, kind)
    return buffer.getvalue()


def test_cifar10_of_images(tmp_path):
    class Images(CIFAR10):
        files = {"train": ("a",), "test": ("b",)}
        records = {"train": 20, "test": 10}

    pixels = np.random.default_rng(0).integers(0, 256, (30, 32, 32, 3), dtype=np.uint8)
    with zipfile.ZipFile(tmp_path / "cifar10-jpeg.zip", "w") as archive:
        for i, image in enumerate(pixels):
            part, name = ("train" if i < 20 else "test"), CIFAR10.classes[i % 10]
            archive.writestr(f"{part}/{name}/{i:04}.png", encode(image))
            (tmp_path / "folder" / part / name).mkdir(parents=True, exist_ok=True)
            (tmp_path / "folder" / part / name / f"{i:04}.png").write_bytes(encode(image))
    order = [i for c in range(10) for i in (c, c + 10)]
    for root in (tmp_path, tmp_path / "cifar10-jpeg.zip", tmp_path / "folder"):
        data = Images(root)
        assert data.source == "images"
        assert data.labels.tolist() == [c for c in range(10) for _ in range(2)]
        np.testing.assert_array_equal(data.images, pixels[order].transpose(0, 3, 1, 2))
        assert len(Images(root, train=False)) == 10
    with pytest.raises(CorruptFileError, match="holds 20 images"):
        CIFAR10(tmp_path / "folder")


def test_real_cifar10_of_jpegs(real_data):
    pytest.importorskip("PIL", reason="Pillow decodes the images")
    if not (real_data / "cifar10-jpeg.zip").exists():
        pytest.skip("no cifar10-jpeg.zip in MINIDL_DATA")
    data = CIFAR10(real_data / "cifar10-jpeg.zip", train=False)
    assert data.images.shape == (10000, 3, 32, 32) and data.source == "images"
    assert np.bincount(data.labels).tolist() == [1000] * 10
    # The test part's statistics, close to the training part's.
    np.testing.assert_allclose(data.images.mean((0, 2, 3)) / 255, CIFAR10.mean, atol=0.01)
