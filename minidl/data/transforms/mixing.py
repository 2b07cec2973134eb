"""Transforms of a whole batch that mix its images and labels."""

from __future__ import annotations

import numpy as np

from minidl.data.rng import sample_rng
from minidl.random import Generator


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

    def mix(self, images: np.ndarray, weight: float, rng: Generator) -> tuple[np.ndarray, float, np.ndarray]:
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
