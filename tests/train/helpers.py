"""A tiny model with dropout, and data, for the tests of training."""

import numpy as np

import minidl
from minidl import nn, ops
from minidl.data import ArrayDataset, DataLoader


class Net(nn.Module):
    """Two layers with dropout in between."""

    def __init__(self, inputs=6, hidden=8, classes=3, p=0.3):
        super().__init__()
        self.fc1, self.fc2, self.p = nn.Linear(inputs, hidden), nn.Linear(hidden, classes), p

    def forward(self, x):
        h = ops.maximum(self.fc1(x), 0)
        if self.training and self.p:
            key, offset = minidl.random.default_generator().reserve(h.numel())
            h = ops.keyed_dropout(h, p=self.p, key=key, offset=offset)
        return self.fc2(h)


def cross_entropy(logits, target):
    picked = ops.gather(logits, target.reshape(-1, 1), axis=1).squeeze(1)
    return (ops.logsumexp(logits, axis=1) - picked).mean()


def arrays(n=44, inputs=6, classes=3, seed=0):
    rng = np.random.default_rng(seed)
    centers = rng.normal(size=(classes, inputs)) * 2
    y = rng.integers(0, classes, n)
    return (centers[y] + rng.normal(size=(n, inputs))).astype(np.float32), y


def loader(n=44, batch_size=8, shuffle=True, seed=5, **options):
    return DataLoader(ArrayDataset(*arrays(n)), batch_size, shuffle=shuffle, seed=seed, **options)
