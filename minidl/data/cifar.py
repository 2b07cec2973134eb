"""CIFAR-10 and CIFAR-100, from the binary version's records; CIFAR-10 also from folders of images."""

from __future__ import annotations

import gzip
import os
import tarfile
import zlib
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar

import numpy as np

from minidl import files
from minidl.data.dataset import ArrayDataset
from minidl.data.folder import ImageFolder
from minidl.data.transforms import ToArray
from minidl.files import CorruptFileError, Unpacked


class _CIFAR(ArrayDataset):
    """What the two data sets share: records of one or two label bytes and 3 × 32 × 32 pixels, in files of
    equal length.

    The pickled Python version is never read.
    """

    url = "https://www.cs.toronto.edu/~kriz/"
    archive: str
    archive_md5: str
    folder: str
    files: ClassVar[dict[str, tuple[str, ...]]]
    records: ClassVar[dict[str, int]]  # in each file
    label_bytes: int

    def __init__(
        self,
        root: str | os.PathLike | None = None,
        train: bool = True,
        transform: Callable | None = None,
        download: bool = False,
    ) -> None:
        self.train = train
        self.source = "binary"
        images, labels = self._load(self._find(root, download))
        super().__init__(images, labels, transform=transform or ToArray("CHW"))
        self.images, self.labels = self.arrays

    def _candidates(self, base: Path) -> list[Path]:
        return [base / self.folder, base / self.archive]

    def _find(self, root: str | os.PathLike | None, fetch: bool) -> Path:
        bases = files.data_folders(root)
        if root is not None and (bases[0].is_file() or self._is_it(bases[0])):
            return bases[0]
        looked_at = [path for base in bases for path in self._candidates(base)]
        path = files.find(looked_at)
        if path is None:
            if not fetch:
                raise files.missing(type(self).__name__, looked_at, "or pass download=True")
            url = f"{self.url}{self.archive}"
            path = files.download(url, bases[0] / self.archive, md5=self.archive_md5)
        return path

    def _is_it(self, folder: Path) -> bool:
        return all((folder / name).exists() for name in self.files["train" if self.train else "test"])

    def _load(self, path: Path) -> tuple[np.ndarray, np.ndarray]:
        part = "train" if self.train else "test"
        names = self.files[part]
        size = self.records[part] * (self.label_bytes + 3072)
        if path.is_dir():
            contents = {}
            for name in names:
                if not (path / name).is_file():
                    raise files.missing(f"{type(self).__name__}'s {name}", [path / name])
                if (path / name).stat().st_size != size:
                    raise CorruptFileError(f"{path / name}: {(path / name).stat().st_size} bytes long, expected {size}")
                contents[name] = (path / name).read_bytes()
        else:
            contents = self._unpack(path, names, size)
        records = np.frombuffer(b"".join(contents[name] for name in names), np.uint8)
        records = records.reshape(-1, self.label_bytes + 3072)
        return records[:, self.label_bytes :].reshape(-1, 3, 32, 32).copy(), self._labels(records, path)

    def _unpack(self, path: Path, names: tuple[str, ...], size: int) -> dict[str, bytes]:
        """The wanted members of the archive. Nothing is written to disk, whatever their names."""
        contents: dict[str, bytes] = {}
        try:
            with gzip.open(path) as packed:
                stream: Any = Unpacked(packed, path)
                archive = tarfile.open(fileobj=stream, mode="r|")  # noqa: SIM115  # it holds nothing to close
                for member in archive:
                    parts = PurePosixPath(member.name).parts
                    if PurePosixPath(member.name).is_absolute() or ".." in parts:
                        raise CorruptFileError(f"{path}: the member {member.name!r} points outside of the archive")
                    if parts[:-1] != (self.folder,) or parts[-1] not in names:
                        continue
                    if not member.isfile() or member.size != size:
                        raise CorruptFileError(
                            f"{path}: the member {member.name!r} has {member.size} bytes, expected a file of {size}"
                        )
                    content = archive.extractfile(member)
                    assert content is not None  # it is a file
                    contents[parts[-1]] = content.read()
                while stream.read(1 << 20):  # to the end, where gzip's checksum is
                    pass
        except (EOFError, OSError, tarfile.TarError, zlib.error, ValueError, OverflowError) as error:
            if isinstance(error, (FileNotFoundError, PermissionError, CorruptFileError)):
                raise
            raise CorruptFileError(f"{path}: not a whole {self.archive} ({error})") from error
        absent = [name for name in names if name not in contents]
        if absent:
            raise CorruptFileError(
                f"{path}: the archive has no {self.folder}/{absent[0]}; the binary version ({self.archive}) is needed"
            )
        return contents

    def _labels(self, records: np.ndarray, path: Path) -> np.ndarray:
        raise NotImplementedError

    def _checked(self, labels: np.ndarray, classes: int, path: Path) -> np.ndarray:
        if labels.max(initial=0) >= classes:
            raise CorruptFileError(f"{path}: a label is {labels.max()}, above {classes - 1}")
        return labels.astype(np.int64)


class CIFAR10(_CIFAR):
    """32 × 32 colour images of ten classes (Krizhevsky, 2009): 50,000 for training, 10,000 for testing.

    Samples are (image, label): (3, 32, 32), float32 in [0, 1] by the default transform, and int64.

    Args:
        root: the binary version, as ``cifar-10-binary.tar.gz``, its unpacked folder ``cifar-10-batches-bin``,
            or a folder with either; or images as ``train/CLASS/….jpg`` and ``test/CLASS/….jpg`` in a folder
            or zip file, or a folder with ``cifar10-jpeg.zip`` or ``cifar10-jpeg``. By default: the folder in
            ``MINIDL_DATA``, then ``~/.cache/minidl``.
        train: training or test images.
        transform: gets (3, 32, 32) uint8 images, one or a batch; for example ``Compose([RandomCrop(32,
            padding=4), RandomHorizontalFlip(), Normalize(CIFAR10.mean, CIFAR10.std)])``.
        download: fetch the binary version if nothing is found, with its MD5 checked.

    Raises:
        FileNotFoundError: it is nowhere; the message lists where it was looked for.
        CorruptFileError: a file is damaged or something else; the message names it.

    Attributes:
        images, labels: the arrays themselves, (N, 3, 32, 32) uint8 and (N,) int64.
        source: "binary", or "images" if they were decoded from image files: JPEG is lossy, so figures
            measured on them are not quite CIFAR-10's.
        classes: names of the classes. ``mean`` and ``std`` are of the training images in [0, 1].
    """

    archive, archive_md5 = "cifar-10-binary.tar.gz", "c32a1d4ab5d03f1284b67883e8d87530"
    folder = "cifar-10-batches-bin"
    files: ClassVar = {"train": tuple(f"data_batch_{i}.bin" for i in range(1, 6)), "test": ("test_batch.bin",)}
    records: ClassVar = {"train": 10000, "test": 10000}
    label_bytes = 1
    classes = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
    mean, std = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)

    def _candidates(self, base: Path) -> list[Path]:
        return [*super()._candidates(base), base / "cifar10-jpeg.zip", base / "cifar10-jpeg"]

    def _is_it(self, folder: Path) -> bool:
        return super()._is_it(folder) or (folder / ("train" if self.train else "test") / self.classes[0]).is_dir()

    def _load(self, path: Path) -> tuple[np.ndarray, np.ndarray]:
        if path.suffix.lower() != ".zip" and not (path / "train").is_dir():
            return super()._load(path)
        self.source = "images"
        part = "train" if self.train else "test"
        images = ImageFolder(path, part)
        n = len(self.files[part]) * self.records[part]
        if tuple(images.classes) != self.classes or len(images) != n:
            raise CorruptFileError(
                f"{path}: {part} holds {len(images)} images of {images.classes}, expected {n} of {list(self.classes)}"
            )
        pixels, labels = images.load_all().arrays
        if pixels.shape[1:] != (3, 32, 32):
            raise CorruptFileError(f"{path}: images of shape {pixels.shape[1:]}, expected (3, 32, 32)")
        return pixels, labels

    def _labels(self, records: np.ndarray, path: Path) -> np.ndarray:
        return self._checked(records[:, 0], 10, path)


class CIFAR100(_CIFAR):
    """32 × 32 colour images of a hundred classes in twenty groups: 50,000 for training, 10,000 for testing.

    Arguments, samples, attributes and errors as for :class:`CIFAR10`, but for the image files; the archive is
    ``cifar-100-binary.tar.gz``, its folder ``cifar-100-binary``.

    Args:
        coarse: labels are the twenty groups in place of the classes.
    """

    archive, archive_md5 = "cifar-100-binary.tar.gz", "03b5dce01913d631647c71ecec9e9cb8"
    folder = "cifar-100-binary"
    files: ClassVar = {"train": ("train.bin",), "test": ("test.bin",)}
    records: ClassVar = {"train": 50000, "test": 10000}
    label_bytes = 2
    mean, std = (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)
    fine_classes = tuple(
        [
            "apple",
            "aquarium_fish",
            "baby",
            "bear",
            "beaver",
            "bed",
            "bee",
            "beetle",
            "bicycle",
            "bottle",
            "bowl",
            "boy",
            "bridge",
            "bus",
            "butterfly",
            "camel",
            "can",
            "castle",
            "caterpillar",
            "cattle",
            "chair",
            "chimpanzee",
            "clock",
            "cloud",
            "cockroach",
            "couch",
            "crab",
            "crocodile",
            "cup",
            "dinosaur",
            "dolphin",
            "elephant",
            "flatfish",
            "forest",
            "fox",
            "girl",
            "hamster",
            "house",
            "kangaroo",
            "keyboard",
            "lamp",
            "lawn_mower",
            "leopard",
            "lion",
            "lizard",
            "lobster",
            "man",
            "maple_tree",
            "motorcycle",
            "mountain",
            "mouse",
            "mushroom",
            "oak_tree",
            "orange",
            "orchid",
            "otter",
            "palm_tree",
            "pear",
            "pickup_truck",
            "pine_tree",
            "plain",
            "plate",
            "poppy",
            "porcupine",
            "possum",
            "rabbit",
            "raccoon",
            "ray",
            "road",
            "rocket",
            "rose",
            "sea",
            "seal",
            "shark",
            "shrew",
            "skunk",
            "skyscraper",
            "snail",
            "snake",
            "spider",
            "squirrel",
            "streetcar",
            "sunflower",
            "sweet_pepper",
            "table",
            "tank",
            "telephone",
            "television",
            "tiger",
            "tractor",
            "train",
            "trout",
            "tulip",
            "turtle",
            "wardrobe",
            "whale",
            "willow_tree",
            "wolf",
            "woman",
            "worm",
        ]
    )
    coarse_classes = tuple(
        [
            "aquatic_mammals",
            "fish",
            "flowers",
            "food_containers",
            "fruit_and_vegetables",
            "household_electrical_devices",
            "household_furniture",
            "insects",
            "large_carnivores",
            "large_man-made_outdoor_things",
            "large_natural_outdoor_scenes",
            "large_omnivores_and_herbivores",
            "medium_mammals",
            "non-insect_invertebrates",
            "people",
            "reptiles",
            "small_mammals",
            "trees",
            "vehicles_1",
            "vehicles_2",
        ]
    )

    def __init__(
        self,
        root: str | os.PathLike | None = None,
        train: bool = True,
        transform: Callable | None = None,
        download: bool = False,
        coarse: bool = False,
    ):
        self.coarse = coarse
        self.classes = self.coarse_classes if coarse else self.fine_classes
        super().__init__(root, train, transform, download)

    def _labels(self, records: np.ndarray, path: Path) -> np.ndarray:
        coarse, fine = self._checked(records[:, 0], 20, path), self._checked(records[:, 1], 100, path)
        return coarse if self.coarse else fine
