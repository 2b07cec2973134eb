"""Positional encodings: sinusoidal, learned and rotary."""

from __future__ import annotations

from typing import Any

import numpy as np

from minidl import ops
from minidl.core.dtypes import default_dtype
from minidl.core.tensor import Tensor, as_tensor
from minidl.nn import init
from minidl.nn.module import Module, Parameter


def sinusoidal_table(length: int, dim: int, base: float = 10000.0) -> np.ndarray:
    """float64[length, dim]: sin(p / base^(2i/dim)) in column 2i, its cosine in column 2i + 1 (Vaswani et al. 2017,
    section 3.5)."""
    angle = _angles(np.arange(length), dim + dim % 2, base)
    table = np.empty((length, angle.shape[1] * 2))
    table[:, 0::2] = np.sin(angle)
    table[:, 1::2] = np.cos(angle)
    return table[:, :dim]


def _angles(positions: np.ndarray, dim: int, base: float) -> np.ndarray:
    """position / base^(2i / dim), shape (len(positions), dim / 2)."""
    return positions[:, None] * base ** (-np.arange(0, dim, 2) / dim)


def _check_length(op: str, length: int, max_len: int) -> None:
    if length > max_len:
        raise ValueError(f"{op}: position {length - 1} is beyond max_len {max_len}")


class SinusoidalPositionalEncoding(Module):
    """Adds the fixed table of :func:`sinusoidal_table` to (N, T, d_model), or (T, N, d_model) if not ``batch_first``.

    ``offset`` in the call is the position of the first step. Raises ValueError beyond ``max_len``.
    """

    table: Tensor

    def __init__(self, d_model: int, max_len: int = 5000, batch_first: bool = True, dtype: Any = None) -> None:
        super().__init__()
        self.max_len = max_len
        self.batch_first = batch_first
        table = sinusoidal_table(max_len, d_model).astype(dtype or default_dtype())
        self.register_buffer("table", table, persistent=False)

    def forward(self, x: Any, offset: int = 0) -> Tensor:
        x = as_tensor(x)
        steps = x.shape[-2] if self.batch_first else x.shape[0]
        _check_length("SinusoidalPositionalEncoding", offset + steps, self.max_len)
        rows = self.table[offset : offset + steps]
        return x + (rows if self.batch_first else ops.unsqueeze(rows, axis=1))


class LearnedPositionalEncoding(Module):
    """Adds a learned vector per position, a row of ``weight`` (max_len, d_model), to (N, T, d_model), or
    (T, N, d_model) if not ``batch_first`` (Gehring et al. 2017; GPT-2). Starts normal with standard deviation 0.02."""

    def __init__(self, d_model: int, max_len: int, batch_first: bool = True, dtype: Any = None) -> None:
        super().__init__()
        self.max_len = max_len
        self.batch_first = batch_first
        self.weight = Parameter(np.empty((max_len, d_model), dtype or default_dtype()))
        init.normal_(self.weight, std=0.02)

    def forward(self, x: Any, offset: int = 0) -> Tensor:
        x = as_tensor(x)
        steps = x.shape[-2] if self.batch_first else x.shape[0]
        _check_length("LearnedPositionalEncoding", offset + steps, self.max_len)
        rows = self.weight[offset : offset + steps]
        return x + (rows if self.batch_first else ops.unsqueeze(rows, axis=1))


def apply_rotary(x: Any, cos: Any, sin: Any, interleaved: bool = True) -> Any:
    """Rotate pairs of features of ``x`` (..., T, D) by the angles whose ``cos`` and ``sin`` (T, D / 2) are given.

    ``interleaved`` pairs features (2i, 2i + 1), as the paper does (Su et al. 2021, eq. 34); otherwise i goes with
    i + D / 2, as in GPT-NeoX and Llama. Raises ValueError for an odd D.
    """
    *lead, dim = x.shape
    if dim % 2 or cos.shape[-1] * 2 != dim:
        raise ValueError(f"apply_rotary: expected angles (T, D / 2) for an even D, got {cos.shape} for {x.shape}")
    if interleaved:
        a, b = x[..., 0::2], x[..., 1::2]
        return ops.reshape(ops.stack([a * cos - b * sin, a * sin + b * cos], axis=-1), shape=(*lead, dim))
    a, b = x[..., : dim // 2], x[..., dim // 2 :]
    return ops.concat([a * cos - b * sin, a * sin + b * cos], axis=-1)


class RotaryEmbedding(Module):
    """Rotary position embedding (Su et al. 2021, "RoFormer"). The product of a query and a key, each rotated according
    to its position, depends only on the difference of their positions.

    ``forward(x, offset=0)`` rotates (..., T, dim) by the angles p / base^(2i/dim), where the first step has position
    p = ``offset``; see :func:`apply_rotary` for ``interleaved``. Raises ValueError beyond ``max_len``.
    """

    cos: Tensor
    sin: Tensor

    def __init__(
        self, dim: int, max_len: int = 4096, base: float = 10000.0, interleaved: bool = True, dtype: Any = None
    ) -> None:
        super().__init__()
        if dim % 2:
            raise ValueError(f"RotaryEmbedding: expected an even number of features, got {dim}")
        self.max_len = max_len
        self.interleaved = interleaved
        angle = _angles(np.arange(max_len), dim, base)
        self.register_buffer("cos", np.cos(angle).astype(dtype or default_dtype()), persistent=False)
        self.register_buffer("sin", np.sin(angle).astype(dtype or default_dtype()), persistent=False)

    def forward(self, x: Any, offset: int = 0) -> Tensor:
        x = as_tensor(x)
        _check_length("RotaryEmbedding", offset + x.shape[-2], self.max_len)
        at = slice(offset, offset + x.shape[-2])
        return apply_rotary(x, self.cos[at], self.sin[at], self.interleaved)
