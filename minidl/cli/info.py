"""``minidl info FILE``."""

from __future__ import annotations

import argparse
import math
import zipfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import IO

import numpy as np

from minidl.cli.options import say
from minidl.errors import UserError
from minidl.files import UNZIP_ERRORS


def register(subparsers: argparse._SubParsersAction) -> None:
    p = subparsers.add_parser(
        "info",
        help="say what a file or run folder holds",
        description="Say what a safetensors file, a run folder, a checkpoint or a data file holds.",
    )
    p.add_argument("path", metavar="FILE")
    p.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    from minidl.data.images import IMAGE_EXTENSIONS

    path = Path(arguments.path)
    if not path.exists():
        raise UserError(f"there is no {path}")
    if (path / "config.json").is_file():
        return run_folder(path)
    if (path / "SHA256SUMS").is_file():
        return checkpoint_folder(path)
    if path.is_dir() or path.suffix.lower() == ".zip":
        return image_folder(path)
    for endings, describe in (
        ((".safetensors",), weights),
        ((".npz", ".npy"), arrays),
        ((".gz", "-ubyte"), idx),
        ((".txt",), text),
        (IMAGE_EXTENSIONS, image),
    ):
        if path.name.lower().endswith(endings):
            return describe(path)
    raise UserError(
        f"{path}: not a kind of file that minidl knows: .safetensors, .npz, .npy, IDX, .txt, images, zip files and"
        " folders of images, runs"
    )


def table(named: Mapping[str, tuple[np.dtype, tuple[int, ...]]]) -> None:
    """Name, dtype and shape of arrays, and their sum."""
    elements = size = 0
    for name, (dtype, shape) in named.items():
        say(f"{name:44} {dtype!s:8} {list(shape)}")
        elements += math.prod(shape)
        size += math.prod(shape) * dtype.itemsize
    say(f"{len(named)} arrays, {elements:,} elements, {size:,} bytes")


def table_of(named: Mapping[str, np.ndarray]) -> None:
    """:func:`table` of the arrays themselves."""
    table({name: (array.dtype, array.shape) for name, array in named.items()})


def weights(path: Path) -> int:
    from minidl import serialization

    table_of(serialization.load(path))
    for key, value in serialization.load_metadata(path).items():
        say(f"{key}: {value}")
    return 0


def arrays(path: Path) -> int:
    """NumPy's files. Their headers alone are read: a few bytes may promise any size."""
    try:
        with open(path, "rb") as file:
            if file.read(4) != b"PK\x03\x04":
                file.seek(0)
                table({path.name: _npy_header(file, path.stat().st_size)})
                return 0
        with zipfile.ZipFile(path) as archive:
            found = {}
            for info in archive.infolist():
                with archive.open(info) as member:
                    found[info.filename.removesuffix(".npy")] = _npy_header(member, info.file_size)
            table(found)
    except UNZIP_ERRORS as error:
        raise UserError(f"{path}: damaged, or holds pickled objects, which are not read ({error})") from error
    return 0


def _npy_header(file: IO[bytes], size: int) -> tuple[np.dtype, tuple[int, ...]]:
    """dtype and shape of an array in NumPy's format, of which there are ``size`` bytes. Raises ValueError."""
    version = np.lib.format.read_magic(file)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"format version {version}")
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    try:
        shape, _, dtype = read(file)
    except Exception as error:  # from Python's tokenizer, parser and NumPy's dtype constructor: of any kind
        raise ValueError(f"its header cannot be read: {error}") from error
    if dtype.hasobject:
        raise ValueError("it holds objects")
    if any(n < 0 for n in shape) or file.tell() + math.prod(shape) * dtype.itemsize != size:
        raise ValueError(f"an array of shape {shape} and dtype {dtype} does not fit {size} bytes")
    return dtype, shape


def idx(path: Path) -> int:
    from minidl.data.mnist import read_idx

    table_of({path.name: read_idx(path)})
    return 0


def text(path: Path) -> int:
    try:
        content = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text ({error})") from error
    say(f"text, {len(content):,} characters, {len(set(content))} distinct, {content.count(chr(10)):,} lines")
    return 0


def image(path: Path) -> int:
    from minidl.data.images import decode_image

    _, height, width = decode_image(path, str(path)).shape
    say(f"image, {width} x {height} pixels")
    return 0


def image_folder(path: Path) -> int:
    from minidl.data import ImageFolder

    splits: list[str | None] = [None]
    try:
        ImageFolder(path)
    except ValueError:  # its sub-folders are splits
        splits = ["train", "test", "val"]
    except FileNotFoundError as error:
        raise UserError(f"{path}: neither a run folder nor a checkpoint, and {error}") from error
    for split in splits:
        try:
            folder = ImageFolder(path, split)
        except FileNotFoundError:
            continue
        counts = Counter(folder.targets.tolist())
        shape = "x".join(map(str, folder.image(0).shape))
        say(f"{split or path.name}: {len(folder):,} images, the first {shape}, in {len(folder.classes)} classes")
        for number, name in enumerate(folder.classes):
            say(f"  {number:3} {name:24} {counts[number]:,}")
    return 0


def checkpoint_folder(path: Path) -> int:
    from minidl.train import checkpoint

    model, state = checkpoint.load(path)
    say(f"checkpoint, undamaged: epoch {state.get('epoch')}, step {state.get('step')}")
    table_of(model)
    return 0


def run_folder(path: Path) -> int:
    from minidl.recipes.record import read_json_lines
    from minidl.recipes.run import Run, result_of, verdict
    from minidl.train import checkpoint
    from minidl.train.progress import figures

    made = Run.open(path)
    say(f"run of {made.recipe.name} ({made.recipe.summary}), backend {made.content['backend']}")
    say("settings: " + ", ".join(f"{k}={v}" for k, v in made.config.items()))
    if (path / "metrics.jsonl").is_file():
        rows = read_json_lines(path / "metrics.jsonl")
        say(f"epochs done: {len(rows)} of {made.config['epochs']}")
        if rows:
            say(f"last: {figures(rows[-1])}")
    say("checkpoints: " + (", ".join(p.name for p in checkpoint.listed(path / "checkpoints")) or "none"))
    result = result_of(path)
    if result is not None:
        say(verdict(made.recipe, result))
    return 0
