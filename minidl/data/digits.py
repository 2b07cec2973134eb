"""Digits: 8 × 8 handwritten digits that come with minidl."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from minidl.data.dataset import ArrayDataset


class Digits(ArrayDataset):
    """1,797 handwritten digits, 8 × 8, grey: the data set for a first try, as it needs no download.

    The test part of E. Alpaydin and C. Kaynak's "Optical Recognition of Handwritten Digits", UCI Machine
    Learning Repository, 1998 (https://doi.org/10.24432/C50P49, CC BY 4.0), in the order of scikit-learn's
    copy. Pixels count the set bits, 0…16, in 4 × 4 blocks of a 32 × 32 bitmap.

    Samples are (image, label): (1, 8, 8) float32 in [0, 1] and int64.

    Args:
        train: the first 1,437 for training, or the last 360 for testing; None for all. Digits of a writer lie
            close together, so testing on the last ones is harder than on a random part: mostly other writers
            wrote them.
        transform: applied to the images.
    """

    classes = tuple("0123456789")
    mean, std = (0.3054,), (0.3755,)
    n_train = 1437

    def __init__(self, train: bool | None = True, transform: Callable | None = None):
        with np.load(Path(__file__).parent / "files" / "digits.npz", allow_pickle=False) as file:
            images, labels = file["images"], file["labels"]
        part = slice(None) if train is None else slice(self.n_train) if train else slice(self.n_train, None)
        super().__init__(images[part, None] / np.float32(16), labels[part].astype(np.int64), transform=transform)
        self.train = train
        self.images, self.labels = self.arrays
