"""Transforms of where pixels are: flips, crops, sizes, rotation."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from minidl.data.rng import SampleStreams
from minidl.data.transforms.base import (
    Transform,
    check_batch,
    check_ranges,
    from_floats,
    pair,
    probability,
    random_boxes,
    to_floats,
)


class RandomHorizontalFlip(Transform):
    """Mirrors left and right with probability ``p``."""

    axis = 3

    def __init__(self, p: float = 0.5):
        self.p = probability(p, type(self).__name__)

    def batch(self, images: np.ndarray, streams: SampleStreams) -> np.ndarray:
        check_batch(images, type(self).__name__)
        chosen = streams.uniform(1)[:, 0] < self.p
        result = images.copy()
        result[chosen] = np.flip(images[chosen], self.axis)
        return result


class RandomVerticalFlip(RandomHorizontalFlip):
    """Mirrors top and bottom with probability ``p``."""

    axis = 2


class CenterCrop(Transform):
    """The middle ``size`` pixels, padded with zeros if the image is smaller."""

    def __init__(self, size: int | Sequence[int]):
        self.size = pair(size, "CenterCrop")

    def batch(self, images: np.ndarray, streams: SampleStreams) -> np.ndarray:
        check_batch(images, "CenterCrop")
        (h, w), (height, width) = self.size, images.shape[2:]
        pads = [((missing + 1) // 2, missing // 2) for missing in (max(h - height, 0), max(w - width, 0))]
        images = np.pad(images, [(0, 0), (0, 0), *pads])
        top, left = (images.shape[2] - h) // 2, (images.shape[3] - w) // 2
        return np.ascontiguousarray(images[:, :, top : top + h, left : left + w])


class RandomCrop(Transform):
    """A random window of ``size``, after padding every side by ``padding``.

    Args:
        padding_mode: "constant" (with ``fill``) or "reflect".
    """

    def __init__(self, size: int | Sequence[int], padding: int = 0, fill: float = 0, padding_mode: str = "constant"):
        self.size, self.padding, self.fill = pair(size, "RandomCrop"), padding, fill
        if padding_mode not in ("constant", "reflect"):
            raise ValueError(f"RandomCrop: padding_mode must be 'constant' or 'reflect', got {padding_mode!r}")
        self.padding_mode = padding_mode

    def batch(self, images: np.ndarray, streams: SampleStreams) -> np.ndarray:
        check_batch(images, "RandomCrop")
        (h, w), p = self.size, self.padding
        if p:
            widths = [(0, 0), (0, 0), (p, p), (p, p)]
            if self.padding_mode == "constant":
                images = np.pad(images, widths, constant_values=self.fill)
            else:
                images = np.pad(images, widths, "reflect")
        rows, columns = images.shape[2] - h + 1, images.shape[3] - w + 1
        if rows < 1 or columns < 1:
            raise ValueError(f"RandomCrop: cannot cut {self.size} from padded images of {images.shape[2:]}")
        offsets = (streams.uniform(2) * (rows, columns)).astype(np.int64)
        windows = np.lib.stride_tricks.sliding_window_view(images, (h, w), (2, 3))
        return windows[np.arange(len(images)), :, offsets[:, 0], offsets[:, 1]]


@lru_cache(maxsize=256)
def _resampling(n: int, out: int) -> np.ndarray:
    """(out, n) matrix that resamples ``n`` pixels to ``out``.

    A triangle (bilinear) filter, widened by the factor of reduction so that a smaller picture does not alias:
    Pillow's and torchvision's definition.
    """
    scale = n / out
    width = max(scale, 1.0)
    centers = (np.arange(out) + 0.5) * scale
    pixels = np.arange(n) + 0.5
    weights = np.maximum(1 - np.abs(pixels - centers[:, None]) / width, 0)
    matrix = (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)
    matrix.flags.writeable = False
    return matrix


def _resize(images: np.ndarray, size: tuple[int, int], box: tuple[int, int, int, int] | None = None) -> np.ndarray:
    """Resample (…, H, W) images, or their part ``box`` = (top, left, height, width), to ``size``."""
    height, width = images.shape[-2:]
    top, left, h, w = box or (0, 0, height, width)
    if box is None and size == (height, width):
        return images
    vertical = _resampling(h, size[0])
    horizontal = _resampling(w, size[1])
    part = to_floats(images[..., top : top + h, left : left + w], "Resize")
    return from_floats(vertical @ part @ horizontal.T, images.dtype)


class Resize(Transform):
    """Resamples to ``size`` (bilinear, anti-aliased); an integer is the length of the shorter side."""

    def __init__(self, size: int | Sequence[int]):
        self.size = int(size) if isinstance(size, (int, np.integer)) else pair(size, "Resize")
        pair(size, "Resize")

    def batch(self, images: np.ndarray, streams: SampleStreams) -> np.ndarray:
        check_batch(images, "Resize")
        size = self.size
        if isinstance(size, int):
            height, width = images.shape[2:]
            short = min(height, width)
            size = (int(size * height / short), int(size * width / short))
        return _resize(images, size)


class RandomResizedCrop(Transform):
    """A random part of the image, of random area and aspect ratio, resampled to ``size``: the Inception
    crop."""

    def __init__(
        self,
        size: int | Sequence[int],
        scale: Sequence[float] = (0.08, 1.0),
        ratio: Sequence[float] = (3 / 4, 4 / 3),
    ):
        self.size, self.scale, self.ratio = pair(size, "RandomResizedCrop"), tuple(scale), tuple(ratio)
        check_ranges(self.scale, self.ratio, "RandomResizedCrop")

    def batch(self, images: np.ndarray, streams: SampleStreams) -> np.ndarray:
        check_batch(images, "RandomResizedCrop")
        height, width = images.shape[2:]
        boxes, found = random_boxes(streams.uniform(22), height, width, self.scale, self.ratio)
        # Where no draw fits, the largest middle part with an allowed aspect ratio.
        w = min(width, round(height * self.ratio[1]))
        h = min(height, round(width / self.ratio[0]))
        boxes[~found] = (height - h) // 2, (width - w) // 2, h, w
        result = np.empty((*images.shape[:2], *self.size), images.dtype)
        for i, box in enumerate(boxes.tolist()):
            result[i] = _resize(images[i], self.size, tuple(box))
        return result


class RandomRotation(Transform):
    """Turns about the center by a random angle (bilinear); the corners that come in are ``fill``.

    Args:
        degrees: a range (low, high), or d for (-d, d). Positive angles turn counter-clockwise.
    """

    def __init__(self, degrees: float | Sequence[float], fill: float = 0):
        self.degrees = (-degrees, degrees) if isinstance(degrees, (int, float, np.number)) else tuple(degrees)
        if len(self.degrees) != 2 or self.degrees[0] > self.degrees[1]:
            raise ValueError(f"RandomRotation: degrees must be a number >= 0 or a pair (low, high), got {degrees!r}")
        self.fill = fill

    def batch(self, images: np.ndarray, streams: SampleStreams) -> np.ndarray:
        from scipy import ndimage

        check_batch(images, "RandomRotation")
        low, high = self.degrees
        angles = low + streams.uniform(1)[:, 0] * (high - low)
        values = to_floats(images, "RandomRotation")
        result = np.empty_like(values)
        for image, angle, out in zip(values, angles, result, strict=True):
            ndimage.rotate(image, angle, axes=(2, 1), reshape=False, order=1, output=out, cval=self.fill)
        return from_floats(result, images.dtype)
