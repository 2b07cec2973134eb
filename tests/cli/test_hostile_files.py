"""Damaged, odd and hostile files: a result or one clear line, no traceback, no memory beyond what the file warrants.

Small files of every format that minidl reads are damaged at random and given to the command line. ``FUZZ_CASES`` sets
how many; by default a few hundred with a fixed seed, and thousands under ``-m slow``.
"""

import gzip
import io
import json
import os
import random
import shutil
import struct
import tarfile
import tracemalloc
import urllib.error
import urllib.request
import zipfile

import numpy as np
import pytest

import minidl as framework
from minidl.data import CIFAR10, CharTokenizer, CorruptFileError, Vocab
from minidl.data.images import decode_image
from minidl.data.mnist import read_idx
from minidl.files import unpacked_limit

Image = pytest.importorskip("PIL.Image", reason="Pillow reads the images")
RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (5, 4, 3), dtype=np.uint8)


def written(image, kind, **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def zipped(files):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def numpys(save, *args, **kwargs):
    buffer = io.BytesIO()
    save(buffer, *args, **kwargs)
    return buffer.getvalue()


def idx(array, code=8):
    return struct.pack(f">4B{array.ndim}I", 0, 0, code, array.ndim, *array.shape) + array.tobytes()


def tar(files):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def safetensors(tmp_path):
    framework.save(
        {"a.weight": PIXELS, "b": np.ones((2, 0, 3)), "flag": np.array([True, False])}, tmp_path / "w", {"by": "hand"}
    )
    return (tmp_path / "w").read_bytes()


IMAGE = Image.fromarray(PIXELS)
FRAMES = [Image.fromarray(255 - PIXELS)] * 2


def seeds(tmp_path):
    """name -> content of a sound file of every format that ``minidl info`` knows."""
    png = written(IMAGE, "PNG")
    return {
        "w.safetensors": safetensors(tmp_path),
        "a.npz": numpys(np.savez_compressed, x=PIXELS, y=np.arange(3.0)),
        "a.npy": numpys(np.save, PIXELS),
        "images-idx3-ubyte": idx(PIXELS),
        "labels.gz": gzip.compress(idx(np.arange(9, dtype=np.uint8))),
        "t.txt": "Öf course\n\0\tit is\n".encode(),
        "i.png": png,
        "deep.png": written(Image.fromarray(PIXELS[..., 0].astype(np.uint16) * 257), "PNG"),
        "moving.png": written(IMAGE, "PNG", save_all=True, append_images=FRAMES),
        "i.jpg": written(IMAGE.convert("CMYK"), "JPEG"),
        "i.gif": written(IMAGE, "GIF", save_all=True, append_images=FRAMES),
        "i.webp": written(IMAGE, "WEBP"),
        "i.tiff": written(Image.fromarray(PIXELS[..., 0] / np.float32(255)), "TIFF", compression="tiff_lzw"),
        "i.ppm": written(IMAGE, "PPM"),
        "i.bmp": written(IMAGE, "BMP"),
        "folder.zip": zipped({"cat/a.png": png, "cat/b.png": png, "dog/a.png": png}),
    }


def damaged(content, rng):
    """``content`` with one to four random changes."""
    data = bytearray(content)
    for _ in range(rng.randint(1, 4)):
        at, kind = rng.randrange(len(data) + 1), rng.randrange(7)
        if kind == 0:
            del data[at:]
        elif kind == 1:
            data[at : at + 1] = bytes([rng.randrange(256)])
        elif kind == 2 and at < len(data):
            data[at] ^= 1 << rng.randrange(8)
        elif kind == 3:
            data[at:at] = rng.randbytes(rng.randint(1, 20))
        elif kind == 4:
            del data[at : at + rng.randint(1, 20)]
        elif kind == 5:  # a number that is much larger, or negative, in some field
            value = rng.choice([0xFF, 0x7F, 0x80, 0x00])
            data[at : at + rng.choice([2, 4, 8])] = bytes([value]) * rng.choice([2, 4, 8])
        else:
            start = rng.randrange(len(data) + 1)
            data[at:at] = data[start : start + rng.randint(1, 60)]
    return bytes(data)


def check(minidl, arguments, size):
    """The command ends in a result or one line; it allocated no more than a file of ``size`` bytes warrants."""
    tracemalloc.reset_peak()
    before = tracemalloc.get_traced_memory()[0]
    status, out, err = minidl(*arguments)
    err = "".join(line for line in err.splitlines(keepends=True) if not line.startswith("Downloading "))
    peak = tracemalloc.get_traced_memory()[1] - before
    assert status in (0, 2), (arguments, err)
    assert (err == "") == (status == 0) and "Traceback" not in err, err
    assert err == "" or err.startswith("minidl: error: ")
    assert all(c.isprintable() or c in "\n\t" for c in out + err)
    assert peak < (16 << 20) + 3 * unpacked_limit(size), f"{peak:,} bytes for a file of {size}"
    return status


@pytest.fixture
def offline(monkeypatch):
    """For runs that have forgotten where their data are."""

    def urlopen(*args, **kwargs):
        raise urllib.error.URLError("this test is offline")

    monkeypatch.setattr(urllib.request, "urlopen", urlopen)


@pytest.fixture
def traced():
    tracemalloc.start(1)
    yield
    tracemalloc.stop()


def fuzz_files(minidl, tmp_path, cases, seed):
    rng = random.Random(seed)
    sound = seeds(tmp_path)
    for name, content in sound.items():
        (tmp_path / name).write_bytes(content)
        assert check(minidl, ("info", tmp_path / name), len(content)) == 0, name
    for case in range(cases):
        name = rng.choice(list(sound))
        content = damaged(sound[name], rng)
        (tmp_path / name).write_bytes(content)
        try:
            check(minidl, ("info", tmp_path / name), len(content))
        except BaseException:
            print(f"seed {seed}, case {case}: {name} = {content!r}")
            raise


def test_damaged_files(minidl, tmp_path, traced):
    fuzz_files(minidl, tmp_path, int(os.environ.get("FUZZ_CASES", "200")), 0)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 5))
def test_thousands_of_damaged_files(minidl, tmp_path, traced, seed):
    fuzz_files(minidl, tmp_path, int(os.environ.get("FUZZ_CASES", "2500")), seed)


# Particular ones


def tagged(content, sample_format):
    """A TIFF file of Pillow's, its 32-bit samples declared as unsigned (1) or signed (2)."""
    entry = struct.pack("<HHIHH", 339, 3, 1, 2, 0)
    assert content.count(entry) == 1
    return content.replace(entry, struct.pack("<HHIHH", 339, 3, 1, sample_format, 0))


def test_deep_images_are_scaled_not_clipped(tmp_path):
    values = np.array([[0, 256, 32768, 65535]], np.uint16)
    want = [0, 1, 128, 255]
    for name, content in {
        "16.png": written(Image.fromarray(values), "PNG"),
        "16.tiff": written(Image.fromarray(values), "TIFF"),
        "16.ppm": b"P5 4 1 65535\n" + values.astype(">u2").tobytes(),
        "10.ppm": b"P5 4 1 1023\n" + (values // 64).astype(">u2").tobytes(),
        "u32.tiff": tagged(written(Image.fromarray(values.astype(np.uint32) * 65537), "TIFF"), 1),
        "i32.tiff": tagged(written(Image.fromarray(values.astype(np.int32) * 32768), "TIFF"), 2),
        "float.tiff": written(Image.fromarray(values / np.float32(65535)), "TIFF"),
    }.items():
        (tmp_path / name).write_bytes(content)
        for mode, channels in (("L", 1), ("RGB", 3), ("RGBA", 4)):
            image = decode_image(tmp_path / name, name, mode)
            assert image.shape == (channels, 1, 4) and image.dtype == np.uint8
            assert image[0, 0].tolist() == want, name
            if mode == "RGBA":
                assert (image[3] == 255).all()


@pytest.mark.parametrize("value", [-0.1, 1.5, np.nan, np.inf])
def test_floating_point_samples_outside_of_0_to_1_are_refused(value):
    content = written(Image.fromarray(np.array([[0.5, value]], np.float32)), "TIFF")
    with pytest.raises(CorruptFileError, match=r"x\.tiff: .*expected samples in \[0, 1\], got"):
        decode_image(io.BytesIO(content), "x.tiff")


def test_odd_images(minidl, tmp_path):
    one = Image.new("RGB", (1, 1), (10, 20, 30))
    for name, content, want in (
        ("one.png", written(one, "PNG"), [10, 20, 30]),
        ("cmyk.jpg", written(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG", quality=100), [254, 0, 0]),
        ("palette.gif", written(one.convert("P"), "GIF"), None),
        ("bits.png", written(Image.new("1", (3, 3), 1), "PNG"), [255, 255, 255]),
        ("moving.gif", written(one, "GIF", save_all=True, append_images=[Image.new("RGB", (1, 1), (99, 0, 0))]), None),
        ("moving.png", written(one, "PNG", save_all=True, append_images=[Image.new("RGB", (1, 1))]), [10, 20, 30]),
    ):
        (tmp_path / name).write_bytes(content)
        image = decode_image(tmp_path / name, name)
        assert image.dtype == np.uint8 and image.shape[0] == 3
        if want:
            np.testing.assert_allclose(image[:, 0, 0], want, atol=1)
        assert minidl("info", name)[0] == 0


def bombs(tmp_path):
    """Small files that would fill the memory."""
    zeros = bytes(1 << 20)
    many = io.BytesIO()
    with gzip.GzipFile(fileobj=many, mode="wb", compresslevel=9) as file:
        file.write(struct.pack(">4BI", 0, 0, 8, 1, 150 << 20))
        for _ in range(150):
            file.write(zeros)
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file, file.open("cat/a.png", "w") as member:
        for _ in range(150):
            member.write(zeros)
    pixels = written(Image.new("1", (13000, 13000)), "PNG")
    header = np.lib.format.header_data_from_array_1_0(np.zeros(1))
    npy = io.BytesIO()
    np.lib.format.write_array_header_1_0(npy, header | {"shape": (2**50,)})
    return {
        "bomb.gz": many.getvalue(), "bomb.zip": archive.getvalue(), "bomb.png": pixels, "bomb.npy": npy.getvalue(),
        "bomb.npz": zipped({"x.npy": npy.getvalue()}), "bomb-ubyte": struct.pack(">4B2I", 0, 0, 8, 2, 2**31, 2**31),
        "cifar-10-binary.tar.gz": tar({"cifar-10-batches-bin/test_batch.bin": zeros * 150}),
    }  # fmt: skip


def test_no_more_memory_than_the_file_warrants(minidl, tmp_path, traced):
    for name, content in bombs(tmp_path).items():
        assert len(content) < 400_000
        (tmp_path / name).write_bytes(content)
        tracemalloc.reset_peak()
        if name.startswith("cifar"):
            with pytest.raises(CorruptFileError, match=name):
                CIFAR10(tmp_path / name, train=False)
        else:
            status, _, err = minidl("info", name)
            assert status == 2 and name in err, (name, err)
        assert tracemalloc.get_traced_memory()[1] < 3 * unpacked_limit(len(content)), name


@pytest.mark.parametrize("dims", [[1] * 65, [0, 2**32 - 1, 2**32 - 1]])
def test_shapes_that_numpy_does_not_have(tmp_path, dims):
    path = tmp_path / "x-ubyte"
    path.write_bytes(struct.pack(f">4B{len(dims)}I", 0, 0, 8, len(dims), *dims) + bytes(0 not in dims))
    with pytest.raises(CorruptFileError, match="x-ubyte: NumPy has no arrays of shape"):
        read_idx(path)


def test_archives_that_are_not_unpacked(minidl, tmp_path):
    png = written(IMAGE, "PNG")
    encrypted = bytearray(zipped({"cat/a.png": png}))
    encrypted[6] |= 1  # the flag, in both headers
    encrypted[encrypted.rindex(b"PK\x01\x02") + 8] |= 1
    with zipfile.ZipFile(tmp_path / "lzma.zip", "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("cat/a.png", png)
    (tmp_path / "encrypted.zip").write_bytes(encrypted)
    (tmp_path / "outside.zip").write_bytes(zipped({"../cat/a.png": png}))
    (tmp_path / "other.npz").write_bytes(zipped({"x.npy": b"no array", "notes.txt": b"none either"}))
    (tmp_path / "objects.npz").write_bytes(numpys(np.savez, x=np.array([{}], object)))
    for name, message in (
        ("lzma.zip", "compressed by method 14; only deflated members are read"),
        ("encrypted.zip", "cannot be unpacked"),
        ("outside.zip", "points outside of the archive"),
        ("other.npz", "damaged"),
        ("objects.npz", "holds objects"),
    ):
        status, _, err = minidl("info", name)
        assert status == 2 and name in err and message in err, err


def test_escapes_in_names_are_not_printed(minidl, tmp_path):
    evil = "\x1b[2J\x1b[31mred\u202e\x07"
    framework.save({evil: np.ones(2)}, tmp_path / "w.safetensors", {evil: evil})
    np.savez(tmp_path / "a.npz", **{evil.replace("/", ""): np.ones(2)})
    (tmp_path / "pets" / evil).mkdir(parents=True)
    (tmp_path / "pets" / evil / "a.png").write_bytes(written(IMAGE, "PNG"))
    (tmp_path / f"{evil}.png").write_bytes(b"no image")
    for path in ("w.safetensors", "a.npz", "pets", f"{evil}.png", evil):
        status, out, err = minidl("info", path)
        assert status == (2 if path.startswith(evil) else 0)
        assert "red" in out + err and "\\x1b[31m" in out + err
        assert all(c.isprintable() or c == "\n" for c in out + err)


def test_text_with_nul_and_broken_utf_8(minidl, tmp_path):
    (tmp_path / "nul.txt").write_bytes(b"a\x00b\n")
    (tmp_path / "broken.txt").write_bytes(b"a\xff\n")
    assert "text, 4 characters, 4 distinct, 1 lines" in minidl("info", "nul.txt")[1]
    status, _, err = minidl("info", "broken.txt")
    assert status == 2 and "broken.txt: not UTF-8 text" in err
    for load, text in (
        (CharTokenizer.load, b'{"type": "minidl.CharTokenizer", "chars": ["\xff"]}'),
        (Vocab.load, b"\x00"),
    ):
        (tmp_path / "t.json").write_bytes(text)
        with pytest.raises(CorruptFileError, match=r"t\.json: not valid JSON"):
            load(tmp_path / "t.json")


def test_generate_checks_its_options(minidl, tmp_path, text_file):
    small = ("vocab_size=8", "embedding=4", "hidden=8", "batch_size=32", "length=16")
    settings = [part for setting in small for part in ("--set", setting)]
    minidl("train", "charlstm-shakespeare", *settings, "--epochs", 1, "--data", text_file, "--out", "run", "--quiet")
    for option, value in (
        ("temperature", "nan"), ("temperature", "inf"), ("temperature", "-1"), ("top-k", "0"), ("top-k", "-1"),
        ("length", "0"), ("length", str(10**12)), ("prompt", ""),
    ):  # fmt: skip
        status, out, err = minidl("generate", "run", f"--{option}={value}")
        assert status == 2 and out == "" and f"--{option} must be" in err
    tiny, zero = (minidl("generate", "run", "--temperature", t, "--length", 5)[1] for t in ("1e-320", "0"))
    assert tiny == zero
    CharTokenizer("abc").save("run/tokenizer.json")
    status, _, err = minidl("generate", "run")
    assert status == 2 and "run/tokenizer.json has 3 characters, the run's model 8" in err


# Files of a run


def changed(value, rng):
    """A JSON value with something in it replaced by a value of another kind or size, added or left out."""
    other = [None, True, -1, 0, 1.5, 10**30, float("nan"), "", "\x1b[31mred", "x" * 500, [], [1], {}, {"$array": "no"}]
    if isinstance(value, dict) and value and rng.random() < 0.9:
        key = rng.choice(list(value))
        copy = dict(value)
        if rng.random() < 0.1:
            del copy[key]
        else:
            copy[key] = changed(value[key], rng)
        return copy
    if isinstance(value, list) and value and rng.random() < 0.9:
        i = rng.randrange(len(value))
        return [*value[:i], changed(value[i], rng), *value[i + 1 :]]
    return rng.choice(other)


def rewrite(path, rng):
    """Change a file of a run: its meaning, mostly, or just its bytes."""
    content = path.read_bytes()
    if path.suffix in (".json", ".jsonl") and rng.random() < 0.7:
        lines = content.splitlines() if path.suffix == ".jsonl" else [content]
        lines = [json.dumps(changed(json.loads(line), rng)).encode() for line in lines]
        path.write_bytes(b"\n".join(lines))
    else:
        path.write_bytes(damaged(content, rng))
    if path.parent.name.startswith("step-"):  # as somebody would who knows of the checksums
        from hashlib import sha256

        sums = "".join(
            f"{sha256(file.read_bytes()).hexdigest()}  {file.name}\n"
            for file in path.parent.iterdir() if file.name != "SHA256SUMS"
        )  # fmt: skip
        (path.parent / "SHA256SUMS").write_text(sums)


def fuzz_run(minidl, tmp_path, text_file, cases, seed):
    rng = random.Random(seed)
    small = ("vocab_size=8", "embedding=4", "hidden=8", "batch_size=32", "length=16")
    options = [part for setting in small for part in ("--set", setting)]
    train = ("train", "charlstm-shakespeare", "--data", text_file, "--epochs", 2, *options)
    assert minidl(*train, "--out", "sound", "--quiet")[0] == 0
    (tmp_path / "sound/log.txt").unlink()
    shutil.copytree("sound", "run")
    checkpoints = sorted(os.listdir("sound/checkpoints"))
    targets = [
        "config.json", "metrics.jsonl", "result.json", "record.json", "tokenizer.json", "model.safetensors",
        *(f"checkpoints/{checkpoints[-1]}/{name}" for name in ("state.json", "training.safetensors", "SHA256SUMS")),
    ]  # fmt: skip
    commands = {
        "config.json": ["info", "eval", "resume"], "metrics.jsonl": ["info"], "result.json": ["info", "resume"],
        "record.json": ["resume"], "tokenizer.json": ["generate"], "model.safetensors": ["eval", "generate"],
    }  # fmt: skip
    for case in range(cases):
        name = rng.choice(targets)
        shutil.rmtree("run")
        shutil.copytree("sound", "run")
        rewrite(tmp_path / "run" / name, rng)
        command = rng.choice(commands.get(name, ["resume", "info"]))
        path = f"run/checkpoints/{checkpoints[-1]}" if command == "info" and "checkpoints" in name else "run"
        if command == "resume" and name != "result.json":
            (tmp_path / "run/result.json").unlink()
        more = {"resume": ["--quiet"], "eval": ["--quiet"], "generate": ["--length", "3"]}.get(command, [])
        with np.errstate(all="ignore"):
            try:
                check(minidl, (command, path, *more), 1 << 20)
            except BaseException:
                content = (tmp_path / "run" / name).read_bytes()
                print(f"seed {seed}, case {case}: minidl {command}, {name} = {content!r}")
                raise


def test_damaged_runs(minidl, tmp_path, text_file, traced, offline):
    fuzz_run(minidl, tmp_path, text_file, int(os.environ.get("FUZZ_CASES", "40")), 0)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 5))
def test_thousands_of_damaged_runs(minidl, tmp_path, text_file, traced, offline, seed):
    fuzz_run(minidl, tmp_path, text_file, int(os.environ.get("FUZZ_CASES", "1000")), seed)
