import io
import zipfile

import numpy as np
import pytest

from minidl.data import Compose, CorruptFileError, DataLoader, ImageFolder, RandomHorizontalFlip, Resize, ToArray

Image = pytest.importorskip("PIL.Image", reason="Pillow encodes and decodes the images")

rng = np.random.default_rng(0)
NAMES = ("train/cat/b.png", "train/cat/a.PNG", "train/cat/deep/c.bmp", "train/ant/x.png", "test/cat/t.png")
PIXELS = {name: rng.integers(0, 256, (6, 5, 3), dtype=np.uint8) for name in NAMES}
OTHER = ("train/cat/notes.txt", "train/cat/.hidden.png", "train/.git/x.png", "train/loose.png", "__MACOSX/a/b.png")


def png(image: np.ndarray, kind: str = "png") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, kind)
    return buffer.getvalue()


FILES = {name: png(image, name[-3:].lower()) for name, image in PIXELS.items()} | dict.fromkeys(OTHER, b"no image")


def write_folder(root, files):
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    return root


def write_zip(path, files):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.mkdir("train") if hasattr(archive, "mkdir") else None
        for name, content in files.items():
            archive.writestr(name, content)
    return path


@pytest.fixture(params=["folder", "zip"])
def root(request, tmp_path):
    return write_folder(tmp_path / "d", FILES) if request.param == "folder" else write_zip(tmp_path / "d.zip", FILES)


def test_samples(root):
    data = ImageFolder(root, "train")
    assert data.classes == ["ant", "cat"] and data.class_to_idx == {"ant": 0, "cat": 1}
    names = ["train/ant/x.png", "train/cat/a.PNG", "train/cat/b.png", "train/cat/deep/c.bmp"]
    assert [path.replace("\\", "/")[-len(name) :] for (path, _), name in zip(data.samples, names)] == names
    assert data.targets.tolist() == [0, 1, 1, 1]
    for i, name in enumerate(names):
        image, label = data[i]
        assert image.dtype == np.float32 and label == data.targets[i]
        np.testing.assert_allclose(image, PIXELS[name].transpose(2, 0, 1) / 255, rtol=1e-6)
        np.testing.assert_array_equal(data.image(i), PIXELS[name].transpose(2, 0, 1))
    assert len(ImageFolder(root, "test")) == 1
    assert len(ImageFolder(root, "train", extensions=(".bmp",))) == 1


def test_root_of_splits_is_refused(root):
    with pytest.raises(ValueError, match=r"look like splits.*split='train'"):
        ImageFolder(root)


def test_modes(root):
    assert ImageFolder(root, "train", mode="L").image(0).shape == (1, 6, 5)
    assert ImageFolder(root, "train", mode="RGBA").image(0).shape == (4, 6, 5)
    with pytest.raises(ValueError, match="mode"):
        ImageFolder(root, "train", mode="CMYK").image(0)


def test_nothing_there(root, tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        ImageFolder(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError):
        ImageFolder(root, "val")


@pytest.mark.parametrize("content", [b"", b"no image", FILES["train/cat/b.png"][:-30], b"%!PS-Adobe-3.0 EPSF-3.0\n"])
@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_corrupt_image_is_named(tmp_path, kind, content):
    files = {**FILES, "train/cat/b.png": content}
    root = write_folder(tmp_path / "d", files) if kind == "folder" else write_zip(tmp_path / "d.zip", files)
    data = ImageFolder(root, "train")
    with pytest.raises(CorruptFileError, match=r"b\.png"):
        data[2]
    with pytest.raises(CorruptFileError, match=r"b\.png"):
        data.load_all()
    with pytest.raises(CorruptFileError, match=r"b\.png"):
        list(DataLoader(data, 2, num_workers=2))


def test_damaged_zip(tmp_path):
    path = write_zip(tmp_path / "d.zip", FILES)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(CorruptFileError, match=r"d\.zip"):
        ImageFolder(path, "train")
    at = content.index(b"train/cat/b.png") + len("train/cat/b.png") + 40  # in the packed data of that member
    path.write_bytes(content[:at] + bytes(b ^ 0xFF for b in content[at : at + 20]) + content[at + 20 :])
    with pytest.raises(CorruptFileError, match=r"b\.png"):
        ImageFolder(path, "train")[2]


def test_zip_member_outside_is_refused(tmp_path):
    for name in ("train/../../evil.png", "/train/cat/evil.png"):
        with pytest.raises(CorruptFileError, match="points outside"):
            ImageFolder(write_zip(tmp_path / "d.zip", {**FILES, name: b""}), "train")


def test_load_all(root):
    transform = Compose([RandomHorizontalFlip(), ToArray()])
    data = ImageFolder(root, "train", transform)
    loaded = data.load_all()
    assert loaded.arrays[0].shape == (4, 3, 6, 5) and loaded.arrays[0].dtype == np.uint8
    # The same samples, augmented the same way.
    for (x, y), (x2, y2) in zip(DataLoader(data, 3, shuffle=True, seed=4), DataLoader(loaded, 3, shuffle=True, seed=4)):
        np.testing.assert_array_equal(x, x2)
        np.testing.assert_array_equal(y, y2)


def test_load_all_needs_one_size(tmp_path):
    files = {**FILES, "train/cat/z.png": png(np.zeros((7, 5, 3), np.uint8))}
    data = ImageFolder(write_folder(tmp_path / "d", files), "train")
    with pytest.raises(ValueError, match=r"z\.png.*\(3, 7, 5\)"):
        data.load_all()
    images, labels = next(iter(DataLoader(ImageFolder(data.root, "train", Compose([Resize((8, 8)), ToArray()])), 5)))
    assert images.shape == (5, 3, 8, 8) and labels.tolist() == [0, 1, 1, 1, 1]


@pytest.mark.parametrize("worker_type", ["thread", "process"])
def test_workers_read_the_same(root, worker_type):
    data = ImageFolder(root, "train")
    expected = list(DataLoader(data, 2))
    got = list(DataLoader(data, 2, num_workers=2, worker_type=worker_type))
    for (x, y), (x2, y2) in zip(expected, got, strict=True):
        np.testing.assert_array_equal(x, x2)
        np.testing.assert_array_equal(y, y2)


def test_processes_do_not_share_the_zip_files_position(tmp_path):
    files = {f"{i % 3}/{i:03}.png": png(np.full((8, 8, 3), i % 251, np.uint8)) for i in range(600)}
    data = ImageFolder(write_zip(tmp_path / "d.zip", files))
    images, _ = next(iter(DataLoader(data, 600)))
    for got, wanted in zip(
        DataLoader(data, 5, num_workers=4, worker_type="process"), images.reshape(120, 5, 3, 8, 8), strict=True
    ):
        np.testing.assert_array_equal(got[0], wanted)


def test_without_pillow(root, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(ImportError, match=r"minidl\[train\]"):
        ImageFolder(root, "train")[0]
