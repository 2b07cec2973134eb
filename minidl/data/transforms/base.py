"""What transforms are made of: how one is applied to an image or a batch, and checks that they share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from minidl.data.rng import SampleStreams, derive, sample_rng, sample_streams, use_streams
from minidl.random import Generator


def apply_batch(transform: Callable, images: np.ndarray, streams: SampleStreams) -> np.ndarray:
    """Apply a transform to every image: all at once if it can, else one by one, its stream being current."""
    if hasattr(transform, "batch"):
        return transform.batch(images, streams)
    results = []
    for i, image in enumerate(images):
        with use_streams(streams.one(i)):
            results.append(np.asarray(transform(image)))
    return np.stack(results) if results else images


def apply_one(transform: Callable, image: Any, streams: SampleStreams | None = None) -> np.ndarray:
    """Apply a transform to one image, with its own stream, to the same result as in any batch."""
    streams = sample_streams(1) if streams is None else streams
    if hasattr(transform, "one"):
        return transform.one(image, streams)
    if hasattr(transform, "batch"):
        return transform.batch(as_chw(image)[None], streams)[0]
    with use_streams(streams):
        return transform(image)


def as_chw(image: Any, mode: str | None = None) -> np.ndarray:
    """A Pillow image as a (C, H, W) uint8 array; an array as it is, if it has three axes.

    ``mode`` is "L", "RGB" or "RGBA"; by default the image's own if it is one of these, else "RGB".
    """
    if not isinstance(image, np.ndarray) and hasattr(image, "convert"):
        if image.mode == "F" or image.mode.startswith("I"):
            image = _eight_bits(image)
        if mode is None:
            mode = image.mode if image.mode in ("L", "RGB", "RGBA") else "RGB"
        image = np.asarray(image.convert(mode))
        return image[None] if image.ndim == 2 else np.ascontiguousarray(image.transpose(2, 0, 1))
    image = np.asarray(image)
    if image.ndim != 3:
        raise ValueError(f"expected a (C, H, W) image or a Pillow image, got an array of shape {image.shape}")
    return image


def _eight_bits(image: Any) -> Any:
    """A deep grey Pillow image (modes "I;16", "I", "F") in mode "L", the whole range scaled: Pillow itself clips."""
    from PIL import Image

    values, tags = np.asarray(image), getattr(image, "tag_v2", {})  # of TIFF files
    if image.mode == "F":
        top = 1.0
    elif image.mode.startswith("I;16"):
        top = 2 ** tags.get(258, (16,))[0] - 1  # BitsPerSample
    elif image.format in ("PNG", "PPM"):
        top = 2**16 - 1
    elif image.format == "TIFF":
        signed = tags.get(339, (1,))[0] == 2  # SampleFormat
        values = values if signed else values.astype(np.int64) % (1 << 32)  # which Pillow holds as signed numbers
        top = 2 ** (31 if signed else 32) - 1
    else:
        raise ValueError(f"the range of an image in mode {image.mode!r} is unknown; convert it to I;16, F or L")
    values = values.astype(np.float64)
    if not (values >= 0).all() or not (values <= top).all():
        raise ValueError(f"expected samples in [0, {top:g}], got {values.min():g} to {values.max():g}")
    return Image.fromarray(np.rint(values * (255 / top)).astype(np.uint8))


def check_batch(images: np.ndarray, what: str) -> None:
    if images.ndim != 4:
        raise ValueError(f"{what}: expected images of shape (N, C, H, W), got {images.shape}")


def to_floats(images: np.ndarray, what: str) -> np.ndarray:
    """The images in floating point, for arithmetic; `from_floats` undoes it."""
    if images.dtype == np.uint8:
        return images.astype(np.float32)
    if not np.issubdtype(images.dtype, np.floating):
        raise TypeError(f"{what}: expected uint8 or floating-point images, got {images.dtype}")
    return images


def from_floats(values: np.ndarray, dtype: np.dtype) -> np.ndarray:
    if dtype == np.uint8:
        return np.clip(np.rint(values), 0, 255).astype(np.uint8)
    return values.astype(dtype, copy=False)


def pair(size: int | Sequence[int], name: str) -> tuple[int, int]:
    pair = (size, size) if isinstance(size, (int, np.integer)) else tuple(size)
    if len(pair) != 2 or any(int(n) != n or n < 1 for n in pair):
        raise ValueError(f"{name}: size must be a positive integer or a pair (height, width), got {size!r}")
    return int(pair[0]), int(pair[1])


def probability(p: float, name: str) -> float:
    if not 0 <= p <= 1:
        raise ValueError(f"{name}: p must be in [0, 1], got {p!r}")
    return p


def _own_streams(rng: Generator | None) -> SampleStreams:
    """Streams for one image, from ``rng`` or the current sample's generator, which advances."""
    return SampleStreams(derive(sample_rng() if rng is None else rng), [0])


class Transform:
    """Base of the transforms here: a subclass defines ``batch``."""

    def __call__(self, image: Any, rng: Generator | None = None) -> np.ndarray:
        return apply_one(self, image, _own_streams(rng))

    def batch(self, images: np.ndarray, streams: SampleStreams) -> np.ndarray:
        raise NotImplementedError(f"{type(self).__name__} defines no batch method")


class Compose(Transform):
    """One transform after the other; each has random streams of its own."""

    def __init__(self, transforms: Sequence[Callable]):
        self.transforms = list(transforms)

    def one(self, image: Any, streams: SampleStreams) -> np.ndarray:
        # Not through batch: the first may be a function of a Pillow image, or change the size.
        for position, transform in enumerate(self.transforms):
            image = apply_one(transform, image, streams.fold_in(position))
        return image

    def batch(self, images: np.ndarray, streams: SampleStreams) -> np.ndarray:
        for position, transform in enumerate(self.transforms):
            images = apply_batch(transform, images, streams.fold_in(position))
        return images


def random_boxes(
    u: np.ndarray, height: int, width: int, scale: Sequence[float], ratio: Sequence[float]
) -> tuple[np.ndarray, np.ndarray]:
    """A random box (top, left, h, w) for each row of ``u``, (N, 22) uniform, and whether one was found.

    Area is uniform in ``scale`` times the image, log aspect ratio uniform in ``ratio``; the first of ten
    draws that fits.
    """
    area = height * width * (scale[0] + u[:, 0:10] * (scale[1] - scale[0]))
    aspect = np.exp(np.log(ratio[0]) + u[:, 10:20] * (np.log(ratio[1]) - np.log(ratio[0])))
    h, w = np.rint(np.sqrt(area / aspect)).astype(int), np.rint(np.sqrt(area * aspect)).astype(int)
    fits = (h >= 1) & (w >= 1) & (h <= height) & (w <= width)
    first = fits.argmax(axis=1)
    rows = np.arange(len(u))
    h, w = h[rows, first], w[rows, first]
    top = (u[:, 20] * (height - h + 1)).astype(int)
    left = (u[:, 21] * (width - w + 1)).astype(int)
    return np.stack([top, left, h, w], axis=1), fits.any(axis=1)


def check_ranges(scale: Sequence[float], ratio: Sequence[float], name: str) -> None:
    if not 0 < scale[0] <= scale[1] <= 1 or not 0 < ratio[0] <= ratio[1]:
        raise ValueError(
            f"{name}: scale and ratio must be (low, high) with 0 < low <= high, and scale <= 1; got {scale} and {ratio}"
        )
