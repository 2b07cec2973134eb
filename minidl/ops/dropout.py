"""Dropout: of elements, of whole channels, and the variant for SELU networks.

Random bits come from :func:`minidl.random.default_generator`.
"""

from __future__ import annotations

import math
from typing import Any

from minidl.core.errors import describe
from minidl.core.graph import Traced
from minidl.core.registry import namespace
from minidl.ops.comparison import not_equal
from minidl.ops.elementwise import mul, where
from minidl.ops.random import keyed_dropout
from minidl.random import default_generator

# SELU's lower bound: minus its scale times its alpha
_SATURATED = -1.0507009873554805 * 1.6732632423543772


def check_probability(who: str, p: float) -> None:
    """Raise ValueError, naming ``who``, unless ``p`` is in [0, 1]."""
    if not 0 <= p <= 1:
        raise ValueError(f"{who}: the probability p must be in [0, 1], got {p}")


def dropout(x: Any, p: float = 0.5, training: bool = True) -> Any:
    """In training, zero each element with probability ``p`` and scale the others by 1 / (1 - p).

    Srivastava et al., "Dropout: a simple way to prevent neural networks from overfitting", JMLR 2014.
    """
    check_probability("dropout", p)
    if not training or p == 0:
        return x
    key, offset = default_generator().reserve(math.prod(x.shape))
    return keyed_dropout(x, p=p, key=key, offset=offset)


def dropout1d(x: Any, p: float = 0.5, training: bool = True) -> Any:
    """In training, zero whole channels of (N, C, L) or (C, L). Tompson et al., CVPR 2015."""
    return _channel_dropout("dropout1d", x, p, training, 1)


def dropout2d(x: Any, p: float = 0.5, training: bool = True) -> Any:
    """In training, zero whole channels of (N, C, H, W) or (C, H, W)."""
    return _channel_dropout("dropout2d", x, p, training, 2)


def dropout3d(x: Any, p: float = 0.5, training: bool = True) -> Any:
    """In training, zero whole channels of (N, C, D, H, W) or (C, D, H, W)."""
    return _channel_dropout("dropout3d", x, p, training, 3)


def alpha_dropout(x: Any, p: float = 0.5, training: bool = True) -> Any:
    """In training, set elements to SELU's lower bound with probability ``p``, then restore mean 0 and variance 1.

    Klambauer et al., "Self-normalizing neural networks", NeurIPS 2017.
    """
    check_probability("alpha_dropout", p)
    if not training or p == 0:
        return x
    if p == 1:
        return x * 0
    a = ((1 - p) * (1 + p * _SATURATED**2)) ** -0.5
    kept = not_equal(dropout(_ones(x, x.shape), p), 0)
    return where(kept, x, _SATURATED) * a - a * p * _SATURATED


def _channel_dropout(op: str, x: Any, p: float, training: bool, spatial: int) -> Any:
    check_probability(op, p)
    if x.ndim not in (spatial + 1, spatial + 2):
        raise ValueError(
            f"{op}: expected {spatial + 1} axes (channels first) or {spatial + 2} with a batch, got {describe(x)}"
        )
    if not training or p == 0:
        return x
    return mul(x, dropout(_ones(x, (*x.shape[:-spatial], *(1,) * spatial)), p))


def _ones(x: Any, shape: tuple[int, ...]) -> Any:
    return namespace(x.array if isinstance(x, Traced) else x).ones(shape, x.dtype)
