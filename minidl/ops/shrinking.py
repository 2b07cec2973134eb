"""Activations that shrink towards zero or cut off: celu, hardshrink, softshrink, tanhshrink, threshold."""

from __future__ import annotations

from typing import Any

from minidl.ops.activation import tanh
from minidl.ops.elementwise import add, div, expm1, mul, sub, where


def celu(x: Any, alpha: float = 1.0, inplace: bool = False) -> Any:
    """x where it is positive, else alpha (exp(x / alpha) - 1). Barron, "Continuously differentiable ELUs", 2017."""
    if alpha == 0:
        raise ValueError("celu: alpha must not be 0")
    return where(x > 0, x, mul(expm1(div(where(x > 0, 0.0, x), alpha)), alpha))


def hardshrink(x: Any, lambd: float = 0.5) -> Any:
    """x where |x| is above ``lambd``, else 0."""
    return where((x >= -lambd) & (x <= lambd), 0.0, x)


def softshrink(x: Any, lambd: float = 0.5) -> Any:
    """x moved towards 0 by ``lambd``, and 0 within it. Raises ValueError for a negative ``lambd``."""
    if lambd < 0:
        raise ValueError(f"softshrink: lambd must not be negative, got {lambd}")
    return where(x > lambd, sub(x, lambd), where(x < -lambd, add(x, lambd), mul(x, 0)))


def tanhshrink(x: Any) -> Any:
    """x - tanh(x)."""
    return sub(x, tanh(x))


def threshold(x: Any, threshold: float, value: float, inplace: bool = False) -> Any:
    """x where it is above ``threshold``, else ``value``."""
    return where(x <= threshold, value, x)
