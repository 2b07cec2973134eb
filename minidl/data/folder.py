"""ImageFolder: a folder, or a zip file, with one sub-folder of images for each class."""

from __future__ import annotations

import io
import os
import zipfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from minidl.data.dataset import ArrayDataset, Dataset, digest
from minidl.data.images import IMAGE_EXTENSIONS, decode_image
from minidl.data.rng import sample_streams
from minidl.data.transforms import ToArray, apply_one
from minidl.files import UNZIP_ERRORS, CorruptFileError, zip_member

_SPLITS = {"train", "training", "test", "testing", "val", "valid", "validation"}


class ImageFolder(Dataset):
    """Images in ``root/CLASS/….png``: samples are (image, class number).

    Classes are the names of the sub-folders, sorted; images are found at any depth in them, sorted by path.

    Args:
        root: a folder or a .zip file, which is read in place.
        split: a folder inside of ``root``, for example "train".
        transform: gets the image as a (C, H, W) uint8 array. The default is ``ToArray()``: float32 in [0, 1].
        extensions: endings of the files to take, whatever their case.
        mode: "RGB", "L" (grey) or "RGBA".

    Attributes:
        classes: names; ``class_to_idx`` gives their numbers.
        samples: (path, class number) pairs; in a zip file, paths inside it. ``targets`` has the numbers
        alone.

    Raises:
        FileNotFoundError: there is no such folder, or no image in it.
        CorruptFileError: the zip file or, when it is loaded, an image is damaged; the message names it.
    """

    def __init__(
        self,
        root: str | os.PathLike,
        split: str | None = None,
        transform: Callable | None = None,
        extensions: Sequence[str] = IMAGE_EXTENSIONS,
        mode: str = "RGB",
    ):
        self.root, self.split, self.mode = Path(root).expanduser(), split, mode
        self.transform = ToArray("CHW") if transform is None else transform
        self._zip: zipfile.ZipFile | None = None
        self._zip_process = -1
        self.is_zip = self.root.is_file()
        if not self.is_zip and not self.root.is_dir():
            raise FileNotFoundError(f"no image folder or zip file at {self.root}")
        endings = tuple(ending.lower() for ending in extensions)
        found = self._members_of_zip() if self.is_zip else self._files_of_folder()
        paths = sorted((name, path) for name, path in found if path.lower().endswith(endings))
        self.classes = sorted({name for name, _ in paths})
        where = f"{self.root}{f' in {split}' if split else ''}"
        if not self.classes:
            raise FileNotFoundError(f"no images as CLASS/….png (endings {', '.join(endings)}) in {where}")
        if set(self.classes) <= _SPLITS:
            raise ValueError(
                f"the sub-folders of {where} are {self.classes}, which look like splits, not classes; "
                f"pass split={self.classes[-1]!r}"
            )
        self.class_to_idx = {name: i for i, name in enumerate(self.classes)}
        self.samples = [(path, self.class_to_idx[name]) for name, path in paths]
        self.targets = np.array([target for _, target in self.samples], dtype=np.int64)

    def _files_of_folder(self) -> Iterator[tuple[str, str]]:
        """(class, path) of every file below a class folder."""
        folder = self.root / self.split if self.split else self.root
        if not folder.is_dir():
            raise FileNotFoundError(f"no folder {folder}")
        for entry in os.scandir(folder):
            if entry.is_dir() and not entry.name.startswith((".", "__MACOSX")):
                for parent, folders, files in os.walk(entry.path):
                    folders[:] = [name for name in folders if not name.startswith(".")]
                    yield from ((entry.name, os.path.join(parent, file)) for file in files if file[0] != ".")

    def _members_of_zip(self) -> Iterator[tuple[str, str]]:
        prefix = PurePosixPath(self.split or "").parts
        for name in self._archive().namelist():
            path = PurePosixPath(name)
            if path.is_absolute() or ".." in path.parts:
                raise CorruptFileError(f"{self.root}: the member {name!r} points outside of the archive")
            parts = path.parts[len(prefix) :]
            hidden = path.parts[:1] == ("__MACOSX",) or any(part.startswith(".") for part in parts)
            if path.parts[: len(prefix)] == prefix and len(parts) > 1 and not name.endswith("/") and not hidden:
                yield parts[0], name

    def _archive(self) -> zipfile.ZipFile:
        """The open zip file of this process: a forked one must not move its parent's file offset."""
        if self._zip is None or self._zip_process != os.getpid():
            try:
                self._zip = zipfile.ZipFile(self.root)
            except UNZIP_ERRORS as error:
                raise CorruptFileError(f"{self.root}: not a readable zip file ({error})") from error
            self._zip_process = os.getpid()
        return self._zip

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_zip": None}

    def __len__(self) -> int:
        return len(self.samples)

    def image(self, index: int) -> np.ndarray:
        """The image itself, untransformed: (C, H, W) uint8."""
        path = self.samples[index][0]
        name = f"{self.root}:{path}" if self.is_zip else path
        return decode_image(io.BytesIO(self._content(index)), name, self.mode)

    def _content(self, index: int) -> bytes:
        path = self.samples[index][0]
        if not self.is_zip:
            return Path(path).read_bytes()
        return zip_member(self._archive(), path, f"{self.root}:{path}")

    def checksum(self) -> str | None:
        files = (part for i, (path, _) in enumerate(self.samples) for part in (path, self._content(i)))
        return digest("\n".join(self.classes), *files)

    def __getitem__(self, index: int) -> Any:
        streams = sample_streams(1)
        return apply_one(self.transform, self.image(index), streams), self.samples[index][1]

    def load_all(self, threads: int = 2) -> ArrayDataset:
        """Decode every image once into one uint8 array: a dataset in memory with the same samples and
        transform.

        Raises:
            ValueError: the images differ in size; the message names one that does.
        """
        images = np.empty((len(self), *self.image(0).shape), np.uint8)

        def fill(indices: range) -> None:
            for i in indices:
                image = self.image(i)
                if image.shape != images.shape[1:]:
                    raise ValueError(
                        f"load_all needs images of one size: {self.samples[i][0]} is {image.shape}, "
                        f"{self.samples[0][0]} is {images.shape[1:]}"
                    )
                images[i] = image

        with ThreadPoolExecutor(threads) as pool:
            chunks = [range(start, min(start + 500, len(self))) for start in range(0, len(self), 500)]
            for _ in pool.map(fill, chunks):
                pass
        return ArrayDataset(images, self.targets, transform=self.transform)
