"""Embedding: a learned vector for each of a finite number of things."""

from __future__ import annotations

from typing import Any

import numpy as np

from minidl import ops
from minidl.core.dtypes import default_dtype
from minidl.core.tensor import Tensor, as_tensor
from minidl.nn import init
from minidl.nn.module import Module, Parameter, check_sizes


class Embedding(Module):
    """Maps integers to vectors: (...) to (..., embedding_dim).

    ``weight`` (num_embeddings, embedding_dim) starts standard normal. Row ``padding_idx`` starts at zero and gets no
    gradient. Raises IndexError, naming the range, for an index outside [0, num_embeddings).

    >>> from minidl import nn, tensor
    >>> nn.Embedding(10, 4, padding_idx=0)(tensor([[3, 0], [9, 3]])).shape
    (2, 2, 4)
    """

    def __init__(
        self, num_embeddings: int, embedding_dim: int, padding_idx: int | None = None, dtype: Any = None
    ) -> None:
        super().__init__()
        check_sizes(self, num_embeddings=num_embeddings, embedding_dim=embedding_dim)
        if padding_idx is not None and not -num_embeddings <= padding_idx < num_embeddings:
            raise ValueError(f"Embedding: padding_idx {padding_idx} is outside the {num_embeddings} rows")
        self.num_embeddings = num_embeddings
        self.embedding_dim = embedding_dim
        self.padding_idx = None if padding_idx is None else padding_idx % num_embeddings
        self.weight = Parameter(np.empty((num_embeddings, embedding_dim), dtype or default_dtype()))
        self.reset_parameters()

    @classmethod
    def from_pretrained(cls, weight: Any, freeze: bool = True, padding_idx: int | None = None) -> Embedding:
        """An Embedding with the rows of ``weight`` (V, D); by default it does not learn."""
        weight = as_tensor(weight)
        rows, width = weight.shape
        layer = cls(rows, width, padding_idx, weight.dtype)
        layer.weight.assign_(weight)
        layer.weight.requires_grad_(not freeze)
        return layer

    def reset_parameters(self) -> None:
        """Draw new initial values."""
        init.normal_(self.weight)
        if self.padding_idx is not None:
            values = self.weight.detach()
            values[self.padding_idx] = 0

    def forward(self, index: Any) -> Tensor:
        return ops.embedding(as_tensor(index), self.weight, self.padding_idx)

    def extra_repr(self) -> str:
        padding = "" if self.padding_idx is None else f", padding_idx={self.padding_idx}"
        return f"{self.num_embeddings}, {self.embedding_dim}{padding}"
