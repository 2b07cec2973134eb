"""Whether a kernel serves a call does not depend on what has nothing to do with it."""

import pickle

import numpy as np
import pytest

import minidl
from minidl import nn, ops

pytest.importorskip("numba", reason="the backend that is tested")


def test_unpickled_arrays_are_served(rng):
    """They bring a dtype object of their own, equal to the usual one but not the same."""
    x = pickle.loads(pickle.dumps(rng.standard_normal((64, 3, 8, 8), dtype=np.float32)))
    assert x.dtype is not np.dtype(np.float32)
    image, weight = minidl.as_tensor(x), minidl.as_tensor(np.ones((4, 3, 3, 3), np.float32))
    rows = image.reshape(64, -1)
    with minidl.use_backend("numba", strict=True):
        for made in (
            ops.softmax(rows, axis=-1),
            ops.layer_norm(rows, rows.shape[1:]),
            ops.cross_entropy(rows, minidl.as_tensor(pickle.loads(pickle.dumps(np.arange(64))))),
            ops.max_pool2d(image, 2),
            ops.conv2d(image, weight),
            nn.functional.gelu(rows),
        ):
            assert made.dtype == np.float32
