"""``minidl info FILE``."""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path

from minidl.errors import UserError


def register(subparsers: argparse._SubParsersAction) -> None:
    p = subparsers.add_parser(
        "info",
        help="say what a file or run folder holds",
        description="Say what a safetensors file, a run folder, a checkpoint or a data file holds.",
    )
    p.add_argument("path", metavar="FILE")
    p.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    from minidl.data.folder import IMAGE_EXTENSIONS

    path = Path(arguments.path)
    if not path.exists():
        raise UserError(f"there is no {path}")
    if (path / "config.json").is_file():
        return run_folder(path)
    if (path / "SHA256SUMS").is_file():
        return checkpoint_folder(path)
    if path.is_dir() or path.suffix == ".zip":
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


def table(named: dict) -> None:
    """Name, dtype and shape of arrays, and their sum."""
    for name, array in named.items():
        print(f"{name:44} {array.dtype!s:8} {list(array.shape)}")
    print(f"{len(named)} arrays, {sum(a.size for a in named.values()):,} elements, "
          f"{sum(a.nbytes for a in named.values()):,} bytes")  # fmt: skip


def weights(path: Path) -> int:
    from minidl import serialization

    table(serialization.load(path))
    for key, value in serialization.load_metadata(path).items():
        print(f"{key}: {value}")
    return 0


def arrays(path: Path) -> int:
    import zipfile

    import numpy as np

    try:
        loaded = np.load(path, allow_pickle=False)
        table({path.name: loaded} if isinstance(loaded, np.ndarray) else {k: loaded[k] for k in loaded.files})
    except (ValueError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(f"{path}: damaged, or holds pickled objects, which are not read ({error})") from error
    return 0


def idx(path: Path) -> int:
    from minidl.data.mnist import read_idx

    table({path.name: read_idx(path)})
    return 0


def text(path: Path) -> int:
    try:
        content = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text ({error})") from error
    print(f"text, {len(content):,} characters, {len(set(content))} distinct, {content.count(chr(10)):,} lines")
    return 0


def image(path: Path) -> int:
    from minidl.data.folder import decode_image

    _, height, width = decode_image(path, str(path)).shape
    print(f"image, {width} x {height} pixels")
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
        print(f"{split or path.name}: {len(folder):,} images, the first {shape}, in {len(folder.classes)} classes")
        for number, name in enumerate(folder.classes):
            print(f"  {number:3} {name:24} {counts[number]:,}")
    return 0


def checkpoint_folder(path: Path) -> int:
    from minidl.train import checkpoint

    model, state = checkpoint.load(path)
    print(f"checkpoint, undamaged: epoch {state['epoch']}, step {state['step']}")
    table(model)
    return 0


def run_folder(path: Path) -> int:
    from minidl.recipes.record import read_json_lines
    from minidl.recipes.run import Run, result_of, verdict
    from minidl.train import checkpoint
    from minidl.train.progress import figures

    made = Run.open(path)
    print(f"run of {made.recipe.name} ({made.recipe.summary}), backend {made.content['backend']}")
    print("settings: " + ", ".join(f"{k}={v}" for k, v in made.config.items()))
    if (path / "metrics.jsonl").is_file():
        rows = read_json_lines(path / "metrics.jsonl")
        print(f"epochs done: {len(rows)} of {made.config['epochs']}")
        if rows:
            print(f"last: {figures(rows[-1])}")
    print("checkpoints: " + (", ".join(p.name for p in checkpoint.listed(path / "checkpoints")) or "none"))
    result = result_of(path)
    if result is not None:
        print(verdict(made.recipe, result))
    return 0
