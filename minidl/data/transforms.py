"""Image transforms, for one image or a whole batch.

**Images** are arrays of shape (C, H, W), uint8 in 0…255 or floating point in [0, 1]; batches are (N, C, H,
W). Transforms keep the dtype, except for `ToArray` and `Normalize`, which give float32. `transform(image)`
also takes a Pillow image or, in `ToArray`, an (H, W, C) or (H, W) array. While a pipeline is uint8 it moves a
quarter of the bytes: put `ToArray` or `Normalize` (which scales uint8 by itself) last, and what must come
after normalization (`Cutout` with its 0) behind.

**Randomness**: ``transform(image, rng)`` uses the given :class:`minidl.random.Generator`. Without one it uses
:func:`minidl.data.sample_rng`: in a loader the sample's own stream, elsewhere the global generator.
``transform.batch(images, streams)`` takes one stream for each image (:class:`minidl.data.SampleStreams`) and
works on all of them at once; image i comes out the same whatever else is in the batch.

A transform of your own is any function of one image; where it needs random numbers it asks ``sample_rng()``.
With a method ``batch(images, streams)`` as well, it is used on whole batches.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache

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


def apply_one(transform: Callable, image, streams: SampleStreams | None = None) -> np.ndarray:
    """Apply a transform to one image, with its own stream, to the same result as in any batch."""
    streams = sample_streams(1) if streams is None else streams
    if hasattr(transform, "one"):
        return transform.one(image, streams)
    if hasattr(transform, "batch"):
        return transform.batch(as_chw(image)[None], streams)[0]
    with use_streams(streams):
        return transform(image)


def as_chw(image) -> np.ndarray:
    """A Pillow image as a (C, H, W) uint8 array; an array as it is, if it has three axes."""
    if not isinstance(image, np.ndarray) and hasattr(image, "convert"):
        if image.mode not in ("L", "RGB", "RGBA"):
            image = image.convert("RGB")
        image = np.asarray(image)
        return image[None] if image.ndim == 2 else np.ascontiguousarray(image.transpose(2, 0, 1))
    image = np.asarray(image)
    if image.ndim != 3:
        raise ValueError(f"expected a (C, H, W) image or a Pillow image, got an array of shape {image.shape}")
    return image


def _check_batch(images: np.ndarray, what: str) -> None:
    if images.ndim != 4:
        raise ValueError(f"{what}: expected images of shape (N, C, H, W), got {images.shape}")


def _compute(images: np.ndarray, what: str) -> np.ndarray:
    """The images in floating point, for arithmetic; `_restore` undoes it."""
    if images.dtype == np.uint8:
        return images.astype(np.float32)
    if not np.issubdtype(images.dtype, np.floating):
        raise TypeError(f"{what}: expected uint8 or floating-point images, got {images.dtype}")
    return images


def _restore(values: np.ndarray, dtype: np.dtype) -> np.ndarray:
    if dtype == np.uint8:
        return np.clip(np.rint(values), 0, 255).astype(np.uint8)
    return values.astype(dtype, copy=False)


def _pair(size: int | Sequence[int], name: str) -> tuple[int, int]:
    pair = (size, size) if isinstance(size, (int, np.integer)) else tuple(size)
    if len(pair) != 2 or any(int(n) != n or n < 1 for n in pair):
        raise ValueError(f"{name}: size must be a positive integer or a pair (height, width), got {size!r}")
    return int(pair[0]), int(pair[1])


def _probability(p: float, name: str) -> float:
    if not 0 <= p <= 1:
        raise ValueError(f"{name}: p must be in [0, 1], got {p!r}")
    return p


def _own_streams(rng: Generator | None) -> SampleStreams:
    """Streams for one image: off ``rng``, or off the current sample's generator, which moves on."""
    return SampleStreams(derive(sample_rng() if rng is None else rng), [0])


class Transform:
    """Base of the transforms here: a subclass defines ``batch``."""

    def __call__(self, image, rng: Generator | None = None) -> np.ndarray:
        return apply_one(self, image, _own_streams(rng))

    def batch(self, images: np.ndarray, streams: SampleStreams) -> np.ndarray:
        raise NotImplementedError(f"{type(self).__name__} defines no batch method")


class Compose(Transform):
    """One transform after the other; each has random streams of its own."""

    def __init__(self, transforms: Sequence[Callable]):
        self.transforms = list(transforms)

    def one(self, image, streams):
        # Not by way of batch: the first may be a function of a Pillow image, or change its size.
        for position, transform in enumerate(self.transforms):
            image = apply_one(transform, image, streams.fold_in(position))
        return image

    def batch(self, images, streams):
        for position, transform in enumerate(self.transforms):
            images = apply_batch(transform, images, streams.fold_in(position))
        return images


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

    def one(self, image, streams):
        if not isinstance(image, np.ndarray):
            return self._scale(as_chw(image))
        return self.batch((image[:, :, None] if image.ndim == 2 else image)[None], streams)[0]

    def batch(self, images, streams):
        _check_batch(images, "ToArray")
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

    def _scale(self, images):
        if images.dtype == np.uint8:
            return np.multiply(images, np.float32(1 / 255), dtype=np.float32, order="C")
        return np.ascontiguousarray(_compute(images, "ToArray"), dtype=np.float32)


class Normalize(Transform):
    """(x - mean) / std for each channel, in float32. uint8 images are first scaled to [0, 1]."""

    def __init__(self, mean: Sequence[float], std: Sequence[float]):
        self.mean = np.atleast_1d(np.asarray(mean, dtype=np.float64))
        self.std = np.atleast_1d(np.asarray(std, dtype=np.float64))
        if self.mean.shape != self.std.shape or self.mean.ndim != 1 or np.any(self.std <= 0):
            raise ValueError(f"Normalize: mean and std must be equally long and std positive, got {mean} and {std}")

    def batch(self, images, streams):
        _check_batch(images, "Normalize")
        if len(self.mean) not in (1, images.shape[1]):
            raise ValueError(f"Normalize: {len(self.mean)} means for images of shape {images.shape[1:]}")
        unit = 255 if images.dtype == np.uint8 else 1
        _compute(images[:0], "Normalize")  # refuses other integers
        scale = (1 / (unit * self.std)).astype(np.float32).reshape(-1, 1, 1)
        result = np.multiply(images, scale, dtype=np.float32)
        result -= (self.mean / self.std).astype(np.float32).reshape(-1, 1, 1)
        return result


class RandomHorizontalFlip(Transform):
    """Mirrors left and right with probability ``p``."""

    axis = 3

    def __init__(self, p: float = 0.5):
        self.p = _probability(p, type(self).__name__)

    def batch(self, images, streams):
        _check_batch(images, type(self).__name__)
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
        self.size = _pair(size, "CenterCrop")

    def batch(self, images, streams):
        _check_batch(images, "CenterCrop")
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
        self.size, self.padding, self.fill = _pair(size, "RandomCrop"), padding, fill
        if padding_mode not in ("constant", "reflect"):
            raise ValueError(f"RandomCrop: padding_mode must be 'constant' or 'reflect', got {padding_mode!r}")
        self.padding_mode = padding_mode

    def batch(self, images, streams):
        _check_batch(images, "RandomCrop")
        (h, w), p = self.size, self.padding
        if p:
            options = {"constant_values": self.fill} if self.padding_mode == "constant" else {}
            images = np.pad(images, [(0, 0), (0, 0), (p, p), (p, p)], self.padding_mode, **options)
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
    part = _compute(images[..., top : top + h, left : left + w], "Resize")
    return _restore(vertical @ part @ horizontal.T, images.dtype)


class Resize(Transform):
    """Resamples to ``size`` (bilinear, anti-aliased); an integer is the length of the shorter side."""

    def __init__(self, size: int | Sequence[int]):
        self.size = int(size) if isinstance(size, (int, np.integer)) else _pair(size, "Resize")
        _pair(size, "Resize")

    def batch(self, images, streams):
        _check_batch(images, "Resize")
        size = self.size
        if isinstance(size, int):
            height, width = images.shape[2:]
            short = min(height, width)
            size = (int(size * height / short), int(size * width / short))
        return _resize(images, size)


def _random_boxes(u: np.ndarray, height: int, width: int, scale, ratio) -> tuple[np.ndarray, np.ndarray]:
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


def _check_ranges(scale, ratio, name):
    if not 0 < scale[0] <= scale[1] <= 1 or not 0 < ratio[0] <= ratio[1]:
        raise ValueError(
            f"{name}: scale and ratio must be (low, high) with 0 < low <= high, and scale <= 1; got {scale} and {ratio}"
        )


class RandomResizedCrop(Transform):
    """A random part of the image, of random area and aspect ratio, resampled to ``size``: the Inception
    crop."""

    def __init__(
        self,
        size: int | Sequence[int],
        scale: Sequence[float] = (0.08, 1.0),
        ratio: Sequence[float] = (3 / 4, 4 / 3),
    ):
        self.size, self.scale, self.ratio = _pair(size, "RandomResizedCrop"), tuple(scale), tuple(ratio)
        _check_ranges(self.scale, self.ratio, "RandomResizedCrop")

    def batch(self, images, streams):
        _check_batch(images, "RandomResizedCrop")
        height, width = images.shape[2:]
        boxes, found = _random_boxes(streams.uniform(22), height, width, self.scale, self.ratio)
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
        self.degrees = (-degrees, degrees) if np.ndim(degrees) == 0 else tuple(degrees)
        if len(self.degrees) != 2 or self.degrees[0] > self.degrees[1]:
            raise ValueError(f"RandomRotation: degrees must be a number >= 0 or a pair (low, high), got {degrees!r}")
        self.fill = fill

    def batch(self, images, streams):
        from scipy import ndimage

        _check_batch(images, "RandomRotation")
        low, high = self.degrees
        angles = low + streams.uniform(1)[:, 0] * (high - low)
        values = _compute(images, "RandomRotation")
        result = np.empty_like(values)
        for image, angle, out in zip(values, angles, result, strict=True):
            ndimage.rotate(image, angle, axes=(2, 1), reshape=False, order=1, output=out, cval=self.fill)
        return _restore(result, images.dtype)


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

    def batch(self, images, streams):
        _check_batch(images, "ColorJitter")
        if images.shape[1] != 3 and (self.strengths[2] or self.hue):
            raise ValueError(f"ColorJitter: saturation and hue need RGB images, got shape {images.shape[1:]}")
        top = np.float32(255 if images.dtype == np.uint8 else 1)
        x, u = _compute(images, "ColorJitter"), streams.uniform(4)[:, :, None, None, None]
        for i, strength in enumerate(self.strengths):
            if strength:
                low = max(0.0, 1 - strength)
                factor = np.float32(low) + u[:, i] * np.float32(1 + strength - low)
                if i == 0:
                    base = np.float32(0)
                elif i == 1:
                    base = _grey(x).mean(axis=(1, 2, 3), keepdims=True)
                else:
                    base = _grey(x)
                x = np.clip(base + factor * (x - base), 0, top)
        if self.hue:
            x = top * _shift_hue(x / top, (u[:, 3, 0] * 2 - 1) * np.float32(self.hue))
        return _restore(x, images.dtype)


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
        self.size, self.fill = _pair(size, "Cutout")[0], fill

    def batch(self, images, streams):
        _check_batch(images, "Cutout")
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
            _probability(p, "RandomErasing"),
            tuple(scale),
            tuple(ratio),
            value,
        )
        _check_ranges(self.scale, self.ratio, "RandomErasing")

    def batch(self, images, streams):
        _check_batch(images, "RandomErasing")
        height, width = images.shape[2:]
        u = streams.uniform(23)
        boxes, found = _random_boxes(u[:, 1:], height, width, self.scale, self.ratio)
        mask = _box_mask(boxes, height, width) & (found & (u[:, 0] < self.p))[:, None, None, None]
        return np.where(mask, np.asarray(self.value, images.dtype), images)


def _box_mask(boxes: np.ndarray, height: int, width: int) -> np.ndarray:
    """(N, 1, H, W): True inside box n = (top, left, h, w)."""
    top, left, h, w = boxes.T[:, :, None]
    y, x = np.arange(height), np.arange(width)
    rows, columns = (y >= top) & (y < top + h), (x >= left) & (x < left + w)
    return rows[:, None, :, None] & columns[:, None, None, :]


class MixUp:
    """Blends each image with another of its batch, and their labels likewise (Zhang et al., 2018).

    For ``DataLoader(batch_transform=MixUp(10))``. Takes a batch (images, labels) of floating-point images (so
    after `ToArray` or `Normalize`) and integer or already soft labels; gives (images, soft labels of shape
    (N, num_classes)).

    Args:
        num_classes: number of classes.
        alpha: the weight is drawn from Beta(alpha, alpha), once for each batch.
    """

    def __init__(self, num_classes: int, alpha: float = 0.2):
        if alpha <= 0:
            raise ValueError(f"{type(self).__name__}: alpha must be positive, got {alpha}")
        self.num_classes, self.alpha = num_classes, alpha

    def __call__(self, batch: tuple, rng: Generator | None = None) -> tuple[np.ndarray, np.ndarray]:
        from scipy.special import betaincinv

        images, labels = batch
        name = type(self).__name__
        if not np.issubdtype(images.dtype, np.floating):
            raise TypeError(
                f"{name}: expected floating-point images, got {images.dtype}; put ToArray or Normalize first"
            )
        rng = sample_rng() if rng is None else rng
        # The inverse of the distribution function, because the generator has no Beta draws of its own.
        weight = float(betaincinv(self.alpha, self.alpha, float(rng.uniform(dtype=np.float64))))
        images, weight, partner = self.mix(images, weight, rng)
        labels = one_hot(labels, self.num_classes)
        return images, (np.float32(weight) * labels + np.float32(1 - weight) * labels[partner])

    def mix(self, images: np.ndarray, weight: float, rng: Generator) -> tuple[np.ndarray, float, np.ndarray]:
        """Mixed images, the weight of an image itself, and with which one it was mixed."""
        partner = rng.permutation(len(images))
        kept = images.dtype.type(weight)
        return kept * images + (1 - kept) * images[partner], weight, partner


class CutMix(MixUp):
    """Pastes a rectangle of another image of the batch; labels count by area (Yun et al., 2019).

    Used like :class:`MixUp`. The kept area is drawn from Beta(alpha, alpha).
    """

    def __init__(self, num_classes: int, alpha: float = 1.0):
        super().__init__(num_classes, alpha)

    def mix(self, images, weight, rng):
        partner = rng.permutation(len(images))
        shape = np.array(images.shape[2:])
        center = (rng.uniform((2,)) * shape).astype(int)
        half = (shape * np.sqrt(1 - weight)).astype(int) // 2
        (top, left), (bottom, right) = np.maximum(center - half, 0), np.minimum(center + half, shape)
        mixed = images.copy()
        mixed[:, :, top:bottom, left:right] = images[partner, :, top:bottom, left:right]
        return mixed, 1 - float((bottom - top) * (right - left) / shape.prod()), partner


def one_hot(labels: np.ndarray, num_classes: int) -> np.ndarray:
    """(N,) integer labels as (N, num_classes) float32 rows; soft labels of that shape pass through."""
    labels = np.asarray(labels)
    if labels.ndim == 2 and labels.shape[1] == num_classes and np.issubdtype(labels.dtype, np.floating):
        return labels.astype(np.float32, copy=False)
    if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(
            f"expected integer labels of shape (N,) or soft ones of shape (N, {num_classes}), "
            f"got {labels.dtype} of shape {labels.shape}"
        )
    if labels.size and (labels.min() < 0 or labels.max() >= num_classes):
        raise ValueError(f"labels must be in 0…{num_classes - 1}, got {labels.min()}…{labels.max()}")
    result = np.zeros((len(labels), num_classes), np.float32)
    result[np.arange(len(labels)), labels] = 1
    return result
