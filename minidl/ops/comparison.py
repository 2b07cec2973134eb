"""Comparison and logic, element by element, and the two questions about whole arrays. Nothing here has a gradient."""

from __future__ import annotations

from typing import Any

import numpy as np

from minidl.core import trace
from minidl.core.primitive import primitive
from minidl.core.registry import namespace, to_numpy


@primitive(promote="same", differentiable=False, elementwise=True)
def eq(x, y):
    """x == y, element by element. (:func:`equal` compares two arrays as wholes.)"""
    return namespace(x, y).equal(x, y)


@primitive(promote="same", differentiable=False, elementwise=True)
def not_equal(x, y):
    """x != y."""
    return namespace(x, y).not_equal(x, y)


@primitive(promote="same", differentiable=False, elementwise=True)
def less(x, y):
    """x < y."""
    return namespace(x, y).less(x, y)


@primitive(promote="same", differentiable=False, elementwise=True)
def less_equal(x, y):
    """x <= y."""
    return namespace(x, y).less_equal(x, y)


@primitive(promote="same", differentiable=False, elementwise=True)
def greater(x, y):
    """x > y."""
    return namespace(x, y).greater(x, y)


@primitive(promote="same", differentiable=False, elementwise=True)
def greater_equal(x, y):
    """x >= y."""
    return namespace(x, y).greater_equal(x, y)


ne, lt, le, gt, ge = not_equal, less, less_equal, greater, greater_equal


def _logic(kind: str, name: str, meaning: str):
    def function(x, y):
        return getattr(namespace(x, y), f"{kind}_{name}")(x, y)

    function.__doc__ = meaning
    promote = "same" if kind == "bitwise" else None
    return primitive(function, name=f"{kind}_{name}", promote=promote, differentiable=False, elementwise=True)


logical_and = _logic("logical", "and", "True where both are: numbers that are not zero are true.")
logical_or = _logic("logical", "or", "True where one is, or both are: numbers that are not zero are true.")
logical_xor = _logic("logical", "xor", "True where one is and the other is not: numbers that are not zero are true.")
bitwise_and = _logic("bitwise", "and", "x & y: bit by bit of integers, logical on booleans.")
bitwise_or = _logic("bitwise", "or", "x | y: bit by bit of integers, logical on booleans.")
bitwise_xor = _logic("bitwise", "xor", "x ^ y: bit by bit of integers, logical on booleans.")


@primitive(differentiable=False, elementwise=True)
def logical_not(x):
    """True where x is zero or False."""
    return namespace(x).logical_not(x)


@primitive(differentiable=False, elementwise=True)
def bitwise_not(x):
    """~x: bit by bit of integers, logical on booleans."""
    return ~x


@primitive(differentiable=False, elementwise=True)
def isnan(x):
    """True where x is NaN."""
    return namespace(x).isnan(x)


@primitive(differentiable=False, elementwise=True)
def isfinite(x):
    """True where x is neither NaN nor infinite."""
    return namespace(x).isfinite(x)


def _host(op: str, x: Any) -> Any:
    """The values of ``x`` for Python to decide on."""
    trace.leaving(op)
    return to_numpy(getattr(x, "array", x)) if hasattr(x, "dtype") else x


def allclose(x: Any, y: Any, rtol: float = 1e-5, atol: float = 1e-8, equal_nan: bool = False) -> bool:
    """True if all |x - y| <= atol + rtol * |y|; with ``equal_nan``, NaN is close to NaN."""
    return bool(np.allclose(_host("allclose", x), _host("allclose", y), rtol, atol, equal_nan))


def equal(x: Any, y: Any) -> bool:
    """True if both have the same shape and the same elements: one bool. (:func:`eq` compares element by element.)"""
    return bool(np.array_equal(_host("equal", x), _host("equal", y)))
