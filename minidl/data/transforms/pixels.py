"""Transforms of pixels' values: type and scale, colours, erased parts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from minidl.data.rng import SampleStreams
from minidl.data.transforms.base import (
    Transform,
    as_chw,
    check_batch,
    check_ranges,
    from_floats,
    pair,
    probability,
    random_boxes,
    to_floats,
)


class ToArray(Transform):
    """Pillow image or array to a (C, H, W) float32 array; uint8 is scaled to [0, 1].

    Args:
        layout: "HWC" or "CHW", of arrays. None decides by where the 1, 3 or 4 channels can be, and refuses an
            array that could be either.
    """

    def __init__(self, layout: str | None = None):
        if layout not in (None, "HWC", "CHW"):
            raise ValueError(f"ToArray: layout must be 'HWC', 'CHW' or None, got {layout!r}")
        self.layout = layout

    def one(self, image: Any, streams: SampleStreams) -> np.ndarray:
        if not isinstance(image, np.ndarray):
            return self._scale(as_chw(image))
        return self.batch((image[:, :, None] if image.ndim == 2 else image)[None], streams)[0]

    def batch(self, images: np.ndarray, streams: SampleStreams) -> np.ndarray:
        check_batch(images, "ToArray")
        layout = self.layout
        if layout is None:
            first, last = images.shape[1] in (1, 3, 4), images.shape[3] in (1, 3, 4)
            if first == last:
                raise ValueError(
                    f"ToArray: cannot tell the layout of images of shape {images.shape[1:]}; "
                    "pass layout='HWC' or layout='CHW'"
                )
            layout = "CHW" if first else "HWC"
        return self._scale(images if layout == "CHW" else images.transpose(0, 3, 1, 2))

    def _scale(self, images: np.ndarray) -> np.ndarray:
        if images.dtype == np.uint8:
            return np.multiply(images, np.float32(1 / 255), dtype=np.float32, order="C")
        return np.ascontiguousarray(to_floats(images, "ToArray"), dtype=np.float32)


class Normalize(Transform):
    """(x - mean) / std for each channel, in float32. uint8 images are first scaled to [0, 1]."""

    def __init__(self, mean: Sequence[float], std: Sequence[float]):
        self.mean = np.atleast_1d(np.asarray(mean, dtype=np.float64))
        self.std = np.atleast_1d(np.asarray(std, dtype=np.float64))
        if self.mean.shape != self.std.shape or self.mean.ndim != 1 or np.any(self.std <= 0):
            raise ValueError(f"Normalize: mean and std must be equally long and std positive, got {mean} and {std}")

    def batch(self, images: np.ndarray, streams: SampleStreams) -> np.ndarray:
        check_batch(images, "Normalize")
        if len(self.mean) not in (1, images.shape[1]):
            raise ValueError(f"Normalize: {len(self.mean)} means for images of shape {images.shape[1:]}")
        unit = 255 if images.dtype == np.uint8 else 1
        to_floats(images[:0], "Normalize")  # refuses other integers
        scale = (1 / (unit * self.std)).astype(np.float32).reshape(-1, 1, 1)
        result = np.multiply(images, scale, dtype=np.float32)
        result -= (self.mean / self.std).astype(np.float32).reshape(-1, 1, 1)
        return result


class ColorJitter(Transform):
    """Random brightness, contrast, saturation and hue, in this order.

    Args:
        brightness, contrast, saturation: b draws the factor from [max(0, 1 - b), 1 + b]; 1 changes nothing.
        hue: h draws the shift from [-h, h], as a part of the colour circle; at most 0.5.

    Saturation and hue need RGB images. Images are uint8 or floating point in [0, 1], and stay so.
    """

    def __init__(self, brightness: float = 0, contrast: float = 0, saturation: float = 0, hue: float = 0):
        if min(brightness, contrast, saturation, hue) < 0 or hue > 0.5:
            raise ValueError("ColorJitter: strengths must not be negative, and hue at most 0.5")
        self.strengths, self.hue = (brightness, contrast, saturation), hue

    def batch(self, images: np.ndarray, streams: SampleStreams) -> np.ndarray:
        check_batch(images, "ColorJitter")
        if images.shape[1] != 3 and (self.strengths[2] or self.hue):
            raise ValueError(f"ColorJitter: saturation and hue need RGB images, got shape {images.shape[1:]}")
        top = np.float32(255 if images.dtype == np.uint8 else 1)
        x, u = to_floats(images, "ColorJitter"), streams.uniform(4)[:, :, None, None, None]
        for i, strength in enumerate(self.strengths):
            if strength:
                low = max(0.0, 1 - strength)
                factor = np.float32(low) + u[:, i] * np.float32(1 + strength - low)
                if i == 0:
                    base: Any = np.float32(0)
                elif i == 1:
                    base = _grey(x).mean(axis=(1, 2, 3), keepdims=True)
                else:
                    base = _grey(x)
                x = np.clip(base + factor * (x - base), 0, top)
        if self.hue:
            x = top * _shift_hue(x / top, (u[:, 3, 0] * 2 - 1) * np.float32(self.hue))
        return from_floats(x, images.dtype)


def _grey(x: np.ndarray) -> np.ndarray:
    """Luma of (N, 3, H, W), ITU-R BT.601, as (N, 1, H, W); other numbers of channels are averaged."""
    if x.shape[1] != 3:
        return x.mean(axis=1, keepdims=True)
    weights = np.array([0.299, 0.587, 0.114], dtype=x.dtype).reshape(3, 1, 1)
    return (x * weights).sum(axis=1, keepdims=True)


def _shift_hue(rgb: np.ndarray, shift: np.ndarray) -> np.ndarray:
    """Add ``shift``, (N, 1, 1) in turns, to the hue of (N, 3, H, W) images in [0, 1]."""
    r, g, b = rgb[:, 0], rgb[:, 1], rgb[:, 2]
    value = rgb.max(axis=1)
    chroma = value - rgb.min(axis=1)
    safe = np.where(chroma == 0, 1, chroma)
    # In sixths of the circle, from the sector of the largest channel.
    hue = np.where(value == r, ((g - b) / safe) % 6, np.where(value == g, (b - r) / safe + 2, (r - g) / safe + 4))
    hue = hue + 6 * shift
    # HSV to RGB without sectors: value - chroma * clip(min(k, 4 - k), 0, 1) with k = (n + hue) mod 6.
    k = (np.array([5, 3, 1], dtype=rgb.dtype).reshape(3, 1, 1) + hue[:, None]) % 6
    return value[:, None] - chroma[:, None] * np.clip(np.minimum(k, 4 - k), 0, 1)


class Cutout(Transform):
    """Sets a square of side ``size`` at a random place to ``fill`` (DeVries and Taylor, 2017).

    The centre is any pixel, so part of the square may lie outside. Put it behind `Normalize` to fill with the
    mean.
    """

    def __init__(self, size: int, fill: float = 0):
        self.size, self.fill = pair(size, "Cutout")[0], fill

    def batch(self, images: np.ndarray, streams: SampleStreams) -> np.ndarray:
        check_batch(images, "Cutout")
        shape = np.array(images.shape[2:])
        start = (streams.uniform(2) * shape).astype(int) - self.size // 2
        boxes = np.concatenate([start, np.full_like(start, self.size)], axis=1)
        return np.where(_box_mask(boxes, *shape), np.asarray(self.fill, images.dtype), images)


class RandomErasing(Transform):
    """With probability ``p`` sets a random rectangle to ``value`` (Zhong et al., 2017)."""

    def __init__(
        self,
        p: float = 0.5,
        scale: Sequence[float] = (0.02, 0.33),
        ratio: Sequence[float] = (0.3, 3.3),
        value: float = 0,
    ):
        self.p, self.scale, self.ratio, self.value = (
            probability(p, "RandomErasing"),
            tuple(scale),
            tuple(ratio),
            value,
        )
        check_ranges(self.scale, self.ratio, "RandomErasing")

    def batch(self, images: np.ndarray, streams: SampleStreams) -> np.ndarray:
        check_batch(images, "RandomErasing")
        height, width = images.shape[2:]
        u = streams.uniform(23)
        boxes, found = random_boxes(u[:, 1:], height, width, self.scale, self.ratio)
        mask = _box_mask(boxes, height, width) & (found & (u[:, 0] < self.p))[:, None, None, None]
        return np.where(mask, np.asarray(self.value, images.dtype), images)


def _box_mask(boxes: np.ndarray, height: int, width: int) -> np.ndarray:
    """(N, 1, H, W): True inside box n = (top, left, h, w)."""
    top, left, h, w = boxes.T[:, :, None]
    y, x = np.arange(height), np.arange(width)
    rows, columns = (y >= top) & (y < top + h), (x >= left) & (x < left + w)
    return rows[:, None, :, None] & columns[:, None, None, :]
