"""The gradient of an embedding, the same bits in every run: rows sorted by index, then added up in that order."""

from __future__ import annotations

from typing import Any

import cupy
import numpy as np

from minidl.backend import kernel
from minidl_kernels.cupy.launch import FLOATS, contiguous, floats, launch


def _rows(g: Any, index: Any, *, num_embeddings: int, padding_idx: int | None = None) -> bool:
    """floating-point gradient, not empty; integer index"""
    return floats(g) and isinstance(index, cupy.ndarray) and index.dtype.kind in "iu" and num_embeddings > 0


@kernel("embedding_grad", backend="cupy", when=_rows, dtypes=FLOATS, note="sorts, then a block per row of the table")
def embedding_grad(g: Any, index: Any, *, num_embeddings: int, padding_idx: int | None = None) -> Any:
    g, index = contiguous(g, index.astype(np.int64, copy=False).reshape(-1))
    order = cupy.argsort(index, kind="stable").astype(np.int64, copy=False)
    dim = g.shape[-1]
    out = cupy.empty((num_embeddings, dim), g.dtype)
    launch(
        "embedding", "embedding_grad<T>", g.dtype, (num_embeddings,), (max(32, min(256, -(-dim // 32) * 32)),),
        g, index[order], order, index.size, dim, -1 if padding_idx is None else padding_idx, out,
    )  # fmt: skip
    return out


@kernel("checked_index", backend="cupy", note="not looked at: reading an index back would make every step wait")
def checked_index(index: Any, **params: Any) -> Any:
    return index
