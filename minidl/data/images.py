"""Image files: decoded by Pillow, 16-bit and other deep ones scaled to 8 bits."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from minidl.data.transforms import as_chw
from minidl.files import CorruptFileError

IMAGE_EXTENSIONS = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".ppm", ".pgm", ".webp", ".tif", ".tiff")
# Pillow's other readers (EPS runs Ghostscript, for one) are no business of a file that calls itself .png.
_FORMATS = ("PNG", "JPEG", "BMP", "GIF", "PPM", "WEBP", "TIFF")


def decode_image(source: Any, name: str, mode: str = "RGB") -> np.ndarray:
    """Decode an image file to a (C, H, W) uint8 array; of an animation, the first frame.

    Samples of 16 and 32 bits are scaled to 8: their whole range becomes 0…255. Those of a floating-point image are
    taken to be in [0, 1].

    Args:
        source: a path or a binary file.
        name: what to call it in an error.
        mode: "RGB", "L" (grey) or "RGBA".

    Raises:
        CorruptFileError: it is no image that Pillow can decode, its floating-point samples are not in [0, 1], or it has
            far more pixels than a file of its size can be about.
        ImportError: Pillow is not installed.
    """
    try:
        from PIL import Image
    except ImportError as error:
        raise ImportError('reading images needs Pillow: pip install "minidl[train]"') from error
    if mode not in ("L", "RGB", "RGBA"):
        raise ValueError(f"mode must be 'L', 'RGB' or 'RGBA', got {mode!r}")
    try:
        with Image.open(source, formats=_FORMATS) as image:
            _check_size(image, _size_of(source))
            return as_chw(image, mode)
    except FileNotFoundError:
        raise
    except Exception as error:  # its decoders raise OSError, SyntaxError, ValueError, struct.error, zlib.error …
        raise CorruptFileError(f"{name}: not a readable image ({type(error).__name__}: {error})") from error


def _size_of(source: Any) -> int:
    if isinstance(source, (str, os.PathLike)):
        return os.path.getsize(source)
    at = source.tell()
    size = source.seek(0, os.SEEK_END)
    source.seek(at)
    return size


def _check_size(image: Any, size: int) -> None:
    """Raise ValueError for an image that would take memory out of all proportion to its file."""
    width, height = image.size
    if width * height > 1 << 24 and width * height > 200 * size:
        raise ValueError(f"{width} x {height} pixels in a file of {size} bytes")
