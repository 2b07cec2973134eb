"""Softmax and log-softmax along any axis: rows in one pass for their normalizer and one for the result."""

from __future__ import annotations

from typing import Any

import cupy

from minidl.backend import kernel
from minidl_kernels.cupy.launch import FLOATS, contiguous, floats, launch, over_rows


def _any(*arrays: Any, axis: int = -1) -> bool:
    """floating-point arrays of one dtype and shape, not empty, not 0-d"""
    return floats(*arrays) and arrays[0].ndim > 0 and all(a.shape == arrays[0].shape for a in arrays)


def _in_rows(expression: str, axis: int, *arrays: Any) -> Any:
    """Call a kernel on arrays with ``axis`` moved to the end, and move it back."""
    rows = contiguous(*(cupy.moveaxis(a, axis, -1) for a in arrays))
    rows = rows if isinstance(rows, tuple) else (rows,)
    shape, dtype = rows[0].shape, rows[0].dtype
    out = cupy.empty(shape, dtype)
    n = shape[-1]
    launch("softmax", expression, dtype, *over_rows(out.size // n, n), *rows, out, out.size // n, n)
    return contiguous(cupy.moveaxis(out, -1, axis))


@kernel("softmax", backend="cupy", when=_any, dtypes=FLOATS)
def softmax(x: Any, *, axis: int = -1) -> Any:
    """A team of threads per row"""
    return _in_rows("softmax<T, false>", axis, x)


@kernel("log_softmax", backend="cupy", when=_any, dtypes=FLOATS)
def log_softmax(x: Any, *, axis: int = -1) -> Any:
    """A team of threads per row"""
    return _in_rows("softmax<T, true>", axis, x)


@kernel("softmax_grad", backend="cupy", when=_any, dtypes=FLOATS)
def softmax_grad(g: Any, y: Any, *, axis: int = -1) -> Any:
    """A team of threads per row"""
    return _in_rows("softmax_grad<T, false>", axis, g, y)


@kernel("log_softmax_grad", backend="cupy", when=_any, dtypes=FLOATS)
def log_softmax_grad(g: Any, y: Any, *, axis: int = -1) -> Any:
    """A team of threads per row"""
    return _in_rows("softmax_grad<T, true>", axis, g, y)
