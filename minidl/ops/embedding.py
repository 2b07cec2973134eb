"""Rows of a table by number, and the gradient that adds up what each row was used for."""

from __future__ import annotations

import numpy as np

from minidl.core.errors import describe
from minidl.core.primitive import primitive
from minidl.core.registry import namespace
from minidl.ops.elementwise import where, zeros_like


def embedding(index, weight, padding_idx=None):
    """``weight[index]``: integers of any shape and rows (V, D) -> (..., D).

    Row ``padding_idx`` gets no gradient. Raises TypeError for an index that is not of integers, and IndexError that
    names the range for one outside ``[0, V)``.

    >>> from minidl import Tensor, as_tensor, ops
    >>> ops.embedding(as_tensor([2, 0]), as_tensor([[0.0, 0.5], [1.0, 1.5], [2.0, 2.5]]))
    tensor([[2. , 2.5],
            [0. , 0.5]])
    """
    if padding_idx is not None:
        rows = weight.shape[0] if weight.ndim else 0
        if not -rows <= padding_idx < rows:
            raise ValueError(f"embedding: padding_idx {padding_idx} is none of the rows of {describe(weight)}")
        padding_idx %= rows
    return _embedding(index, weight, padding_idx=padding_idx)


@primitive(name="embedding", linear_in=("weight",))
def _embedding(index, weight, *, padding_idx=None):
    """The rows of ``weight`` at ``index``; row ``padding_idx`` gets no gradient."""
    xp = namespace(index, weight)
    if weight.ndim != 2:
        raise ValueError(f"embedding: expected a weight of shape (V, D), got {describe(weight)}")
    if index.dtype.kind not in "iu":
        raise TypeError(f"embedding: expected an index of integer dtype, got {describe(index)}")
    # reading an index back from a device to check it would make every step wait
    if type(index) is np.ndarray and index.size and (index.min() < 0 or index.max() >= weight.shape[0]):
        raise IndexError(
            f"embedding: indices {index.min()}..{index.max()} are outside 0..{weight.shape[0] - 1}, the rows of "
            f"{describe(weight)}"
        )
    return xp.take(weight, index, axis=0)


@primitive(linear_in=("g",))
def embedding_grad(g, index, *, num_embeddings, padding_idx=None):
    """Zeros (V, D) to which each ``g[...]`` (..., D) is added at row ``index[...]``, except row ``padding_idx``."""
    xp = namespace(g, index)
    out = xp.zeros((num_embeddings, g.shape[-1]), g.dtype)
    xp.add.at(out, index, g)
    if padding_idx is not None:
        out[padding_idx] = 0
    return out


def _rows(g, index, padding_idx):
    rows = embedding(index, g)
    return rows if padding_idx is None else where((index == padding_idx)[..., None], zeros_like(rows), rows)


_embedding.defvjp(
    weight=lambda g, index, weight_shape, padding_idx: embedding_grad(
        g, index, num_embeddings=weight_shape[0], padding_idx=padding_idx
    )
)
embedding_grad.defvjp(g=lambda g, index, padding_idx: _rows(g, index, padding_idx))
