"""Broadcasting, matrix products, and the rows of a table."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from minidl import ops
from minidl.backend import kernel


@kernel("broadcast_to", backend="numpy", note="may be written to")
def broadcast_to(x: Any, *, shape: tuple[int, ...]) -> np.ndarray:
    """NumPy's own result is a view in which an element stands in many places, and so is read-only."""
    return x.view() if x.shape == tuple(shape) else np.broadcast_to(x, shape).copy()


_product = ops.matmul.reference


@kernel("matmul", backend="numpy", note="one large product instead of a batch of small ones")
def matmul(x: Any, y: Any) -> Any:
    if x.ndim > 2 and y.ndim == 2 and x.size and x.flags.c_contiguous and x.shape[-1] == len(y):
        return _product(x.reshape(-1, x.shape[-1]), y).reshape(*x.shape[:-1], y.shape[1])
    return _product(x, y)


@kernel(
    "embedding_grad", backend="numpy", when=lambda g, index, **params: g.dtype.char in "fd", note="as a sparse product"
)
def embedding_grad(
    g: np.ndarray, index: np.ndarray, *, num_embeddings: int, padding_idx: int | None = None
) -> np.ndarray:
    """The product with the sparse matrix whose column j has a one in row index[j]: a plain C loop over the rows of g,
    many times as fast as ``np.add.at``."""
    from scipy import sparse  # takes longer to import than all of minidl

    count = math.prod(index.shape)
    ones, ends = np.ones(count, g.dtype), np.arange(count + 1)
    rows = sparse.csc_array((ones, index.reshape(-1), ends), shape=(num_embeddings, count))
    out = rows @ g.reshape(count, g.shape[-1])
    if padding_idx is not None:
        out[padding_idx] = 0
    return out
