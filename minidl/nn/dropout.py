"""Dropout of elements, of whole channels, and for SELU networks; the functions are in :mod:`minidl.ops.dropout`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

from minidl import ops
from minidl.nn.module import Module
from minidl.ops.dropout import check_probability


class _Dropout(Module):
    _function: ClassVar[Callable[..., Any]]

    def __init__(self, p: float = 0.5) -> None:
        super().__init__()
        check_probability(type(self).__name__, p)
        self.p = p

    def forward(self, x: Any) -> Any:
        return type(self)._function(x, self.p, self.training)

    def extra_repr(self) -> str:
        return f"p={self.p}"


class Dropout(_Dropout):
    """In training, zeroes elements with probability ``p``; see :func:`minidl.ops.dropout`."""

    _function = ops.dropout


class Dropout1d(_Dropout):
    """In training, zeroes whole channels of (N, C, L) with probability ``p``."""

    _function = ops.dropout1d


class Dropout2d(_Dropout):
    """In training, zeroes whole channels of (N, C, H, W) with probability ``p``."""

    _function = ops.dropout2d


class Dropout3d(_Dropout):
    """In training, zeroes whole channels of (N, C, D, H, W) with probability ``p``."""

    _function = ops.dropout3d


class AlphaDropout(_Dropout):
    """Dropout that keeps mean and variance, for networks with SELU; see :func:`minidl.ops.alpha_dropout`."""

    _function = ops.alpha_dropout
