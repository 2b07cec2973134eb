"""MNIST and Fashion-MNIST, from their IDX files."""

from __future__ import annotations

import gzip
import hashlib
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

import numpy as np

from minidl import files
from minidl.data.dataset import ArrayDataset
from minidl.data.transforms import ToArray
from minidl.files import CorruptFileError, Unpacked

_IDX_TYPES = {0x08: "u1", 0x09: "i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}


def read_idx(path: str | os.PathLike, shape: tuple[int, ...] | None = None) -> np.ndarray:
    """Read an IDX file, plain or gzipped: two zero bytes, type, number of axes, their lengths, the elements.

    Args:
        shape: what the file has to hold, if that is known.

    Raises:
        CorruptFileError: not an IDX file, of another shape, truncated, too long, or with damaged compression.
    """
    path = Path(path)
    with open(path, "rb") as raw:
        packed = raw.read(2) == b"\x1f\x8b"
    try:
        with gzip.open(path, "rb") if packed else open(path, "rb") as stream:
            file = Unpacked(stream, path)
            magic = file.read(4)
            if len(magic) < 4 or magic[:2] != b"\0\0" or magic[2] not in _IDX_TYPES:
                raise CorruptFileError(f"{path}: not an IDX file (it starts with {magic.hex(' ') or 'nothing'})")
            header = file.read(4 * magic[3])
            if len(header) < 4 * magic[3]:
                raise CorruptFileError(f"{path}: truncated in the header")
            dims = struct.unpack(f">{magic[3]}I", header)
            if shape is not None and dims != tuple(shape):
                raise CorruptFileError(f"{path}: holds an array of shape {dims}, expected {tuple(shape)}")
            dtype = np.dtype(_IDX_TYPES[magic[2]])
            expected = dtype.itemsize
            for n in dims:  # in Python integers: a hostile header cannot overflow
                expected *= n
            content = bytearray()
            # In pieces, so that memory is used for what is there, not for what a hostile header promises.
            while piece := file.read(min(expected - len(content), 1 << 24)):
                content += piece
            if len(content) < expected:
                raise CorruptFileError(f"{path}: truncated, {len(content)} of {expected} bytes of elements")
            if file.read(1):
                raise CorruptFileError(f"{path}: longer than the {expected} bytes of elements in its header")
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise CorruptFileError(f"{path}: the gzip file is truncated or damaged ({error})") from error
    try:
        return np.frombuffer(content, dtype).reshape(dims).astype(dtype.newbyteorder("="), copy=False)
    except ValueError as error:
        raise CorruptFileError(f"{path}: NumPy has no arrays of shape {dims} ({error})") from error


def _idx_md5(array: np.ndarray) -> str:
    """MD5 of the unpacked IDX file of a uint8 array: unlike the .gz file's, it does not depend on the
    compressor."""
    digest = hashlib.md5(struct.pack(f">4B{array.ndim}I", 0, 0, 0x08, array.ndim, *array.shape))
    digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


class MNIST(ArrayDataset):
    """Handwritten digits (LeCun, Cortes and Burges): 60,000 training and 10,000 test images, 28 × 28, grey.

    Samples are (image, label): (1, 28, 28), float32 in [0, 1] by the default transform, and int64.

    Args:
        root: folder with the four IDX files, gzipped or not, or with a folder ``mnist`` or ``MNIST/raw`` of
            them. By default: the folder in ``MINIDL_DATA``, then ``~/.cache/minidl``.
        train: training or test images.
        transform: gets (1, 28, 28) uint8 images, one or a batch; for example ``Normalize(MNIST.mean,
        MNIST.std)``.
        download: fetch files that are missing, with their MD5 checked.

    Raises:
        FileNotFoundError: the files are nowhere; the message lists where they were looked for.
        CorruptFileError: a file is damaged or is not MNIST's; the message names it.

    Attributes:
        images, labels: the arrays themselves, (N, 1, 28, 28) uint8 and (N,) int64.
        classes: names of the classes. ``mean`` and ``std`` are of the training images in [0, 1].
    """

    name = "mnist"
    folders = ("mnist", "MNIST/raw", ".")
    classes = tuple("0123456789")
    mean, std = (0.1307,), (0.3081,)
    sizes: ClassVar = {"train": 60000, "t10k": 10000}
    mirrors = (
        "https://ossci-datasets.s3.amazonaws.com/mnist/",
        "https://storage.googleapis.com/cvdf-datasets/mnist/",
    )
    archive_md5: ClassVar = {
        "train-images-idx3-ubyte": "f68b3c2dcbeaaa9fbdd348bbdeb94873",
        "train-labels-idx1-ubyte": "d53e105ee54ea40749a09fcbcd1e9432",
        "t10k-images-idx3-ubyte": "9fb629c4189551a2d022fa330f9573f3",
        "t10k-labels-idx1-ubyte": "ec29112dd5afa0611ce80d1b7f02629c",
    }
    unpacked_md5: ClassVar = {
        "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
        "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
        "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
        "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
    }

    def __init__(
        self,
        root: str | os.PathLike | None = None,
        train: bool = True,
        transform: Callable | None = None,
        download: bool = False,
    ):
        part = "train" if train else "t10k"
        n = self.sizes[part]
        images = self._read(root, f"{part}-images-idx3-ubyte", (n, 28, 28), download)
        labels = self._read(root, f"{part}-labels-idx1-ubyte", (n,), download)
        if labels.max(initial=0) >= len(self.classes):
            raise CorruptFileError(f"{type(self).__name__}: a label is {labels.max()}, above {len(self.classes) - 1}")
        super().__init__(images[:, None], labels.astype(np.int64), transform=transform or ToArray("CHW"))
        self.train = train
        self.images, self.labels = self.arrays

    def _read(self, root: str | os.PathLike | None, stem: str, shape: tuple[int, ...], fetch: bool) -> np.ndarray:
        bases = files.data_folders(root)
        if root is not None and bases[0].is_file():
            if bases[0].name.removesuffix(".gz") not in self.archive_md5:
                raise CorruptFileError(
                    f"{bases[0]}: not one of {type(self).__name__}'s files, which are {', '.join(self.archive_md5)}; "
                    "give one of them, or their folder"
                )
            bases = [bases[0].parent]
        looked_at = [
            base / folder / f"{stem}{ending}" for base in bases for folder in self.folders for ending in (".gz", "")
        ]
        path = files.find(looked_at)
        if path is None:
            if not fetch:
                raise files.missing(f"{type(self).__name__}'s {stem}", looked_at, "or pass download=True")
            path = files.download(
                tuple(f"{mirror}{stem}.gz" for mirror in self.mirrors),
                bases[0] / self.name / f"{stem}.gz",
                md5=self.archive_md5[stem],
            )
        array = read_idx(path, shape)
        if array.dtype != np.uint8:
            raise CorruptFileError(f"{path}: holds {array.dtype} elements, expected uint8")
        self._check(path, stem, _idx_md5(array))
        return array

    def _check(self, path: Path, stem: str, md5: str) -> None:
        if md5 != self.unpacked_md5[stem]:
            raise CorruptFileError(
                f"{path}: not MNIST's file: unpacked, its MD5 is {md5}, expected {self.unpacked_md5[stem]}"
            )


class FashionMNIST(MNIST):
    """Zalando's articles (Xiao, Rasul and Vollgraf, 2017): a drop-in for MNIST, with files of the same names.

    Arguments, samples, attributes and errors as for :class:`MNIST`; folders ``fashion-mnist`` and
    ``FashionMNIST/raw``.
    """

    name = "fashion-mnist"
    folders = ("fashion-mnist", "FashionMNIST/raw", ".")
    classes = (
        "T-shirt/top",
        "Trouser",
        "Pullover",
        "Dress",
        "Coat",
        "Sandal",
        "Shirt",
        "Sneaker",
        "Bag",
        "Ankle boot",
    )
    mean, std = (0.2860,), (0.3530,)
    mirrors = (
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
        "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
    )
    archive_md5: ClassVar = {
        "train-images-idx3-ubyte": "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
        "train-labels-idx1-ubyte": "25c81989df183df01b3e8a0aad5dffbe",
        "t10k-images-idx3-ubyte": "bef4ecab320f06d8554ea6380940ec79",
        "t10k-labels-idx1-ubyte": "bb300cfdad3c16e7a12a480ee83cd310",
    }

    def _check(self, path: Path, stem: str, md5: str) -> None:
        # The unpacked files' MD5 is not published; what can be told is the usual mistake.
        if md5 in MNIST.unpacked_md5.values():
            raise CorruptFileError(f"{path}: this is MNIST's file, not Fashion-MNIST's, which has the same name")
