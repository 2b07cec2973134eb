"""Dropout: of elements, of whole channels, and the variant for SELU networks."""

from __future__ import annotations

from typing import Any

from minidl import ops
from minidl.core.errors import describe
from minidl.core.graph import Traced
from minidl.core.registry import namespace
from minidl.nn.module import Module
from minidl.random import default_generator


def _check(op: str, p: float) -> None:
    if not 0 <= p <= 1:
        raise ValueError(f"{op}: the probability p must be in [0, 1], got {p}")


def dropout(x: Any, p: float = 0.5, training: bool = True) -> Any:
    """In training, zero each element with probability ``p`` and scale the others by 1 / (1 - p).

    Srivastava et al., "Dropout: a simple way to prevent neural networks from overfitting", JMLR 2014.
    """
    _check("dropout", p)
    if not training or p == 0:
        return x
    key, offset = default_generator().reserve(x.size)
    return ops.dropout(x, p=p, key=key, offset=offset)


def _ones(x: Any, shape: tuple[int, ...]) -> Any:
    return namespace(x.data if isinstance(x, Traced) else x).ones(shape, x.dtype)


def _channel_dropout(op: str, x: Any, p: float, training: bool, spatial: int) -> Any:
    _check(op, p)
    if x.ndim not in (spatial + 1, spatial + 2):
        raise ValueError(
            f"{op}: expected {spatial + 1} axes (channels first) or {spatial + 2} with a batch, got {describe(x)}"
        )
    if not training or p == 0:
        return x
    return ops.mul(x, dropout(_ones(x, (*x.shape[:-spatial], *(1,) * spatial)), p))


def dropout1d(x: Any, p: float = 0.5, training: bool = True) -> Any:
    """Zero whole channels of (N, C, L) or (C, L). Tompson et al., CVPR 2015."""
    return _channel_dropout("dropout1d", x, p, training, 1)


def dropout2d(x: Any, p: float = 0.5, training: bool = True) -> Any:
    """Zero whole channels of (N, C, H, W) or (C, H, W)."""
    return _channel_dropout("dropout2d", x, p, training, 2)


def dropout3d(x: Any, p: float = 0.5, training: bool = True) -> Any:
    """Zero whole channels of (N, C, D, H, W) or (C, D, H, W)."""
    return _channel_dropout("dropout3d", x, p, training, 3)


# minus scale times alpha of SELU: the value that it saturates at
_SATURATED = -1.0507009873554805 * 1.6732632423543772


def alpha_dropout(x: Any, p: float = 0.5, training: bool = True) -> Any:
    """Set elements to SELU's saturation value with probability ``p``, then restore mean 0 and variance 1.

    Klambauer et al., "Self-normalizing neural networks", NeurIPS 2017.
    """
    _check("alpha_dropout", p)
    if not training or p == 0:
        return x
    if p == 1:
        return x * 0
    a = ((1 - p) * (1 + p * _SATURATED**2)) ** -0.5
    kept = ops.not_equal(dropout(_ones(x, x.shape), p), 0)
    return ops.where(kept, x, _SATURATED) * a - a * p * _SATURATED


class _Dropout(Module):
    _function: Any

    def __init__(self, p: float = 0.5) -> None:
        super().__init__()
        _check(type(self).__name__, p)
        self.p = p

    def forward(self, x: Any) -> Any:
        return type(self)._function(x, self.p, self.training)

    def extra_repr(self) -> str:
        return f"p={self.p}"


class Dropout(_Dropout):
    """In training, zeroes elements with probability ``p``; see :func:`dropout`."""

    _function = dropout


class Dropout1d(_Dropout):
    """In training, zeroes whole channels of (N, C, L) with probability ``p``."""

    _function = dropout1d


class Dropout2d(_Dropout):
    """In training, zeroes whole channels of (N, C, H, W) with probability ``p``."""

    _function = dropout2d


class Dropout3d(_Dropout):
    """In training, zeroes whole channels of (N, C, D, H, W) with probability ``p``."""

    _function = dropout3d


class AlphaDropout(_Dropout):
    """Dropout that keeps mean and variance, for networks with SELU; see :func:`alpha_dropout`."""

    _function = alpha_dropout
