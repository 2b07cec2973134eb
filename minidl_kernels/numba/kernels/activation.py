"""Softmax and log-softmax along the last axis, with their gradients: a row at a time, while it is in the cache."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import prange

from minidl.backend import kernel
from minidl_kernels.numba.simd.common import over_rows, plain
from minidl_kernels.numba.simd.compiled import compiled
from minidl_kernels.numba.simd.vecmath import add_any_order, exp, log, nan_max

_BLOCK = 32


@compiled
def _softmax_rows(x, out, start, stop):
    one = x.dtype.type(1)
    for i in range(start, stop):
        top = x[i, 0]
        for j in range(x.shape[1]):
            top = nan_max(top, x[i, j])
        total = x.dtype.type(0)
        for j in range(x.shape[1]):
            out[i, j] = exp(x[i, j] - top)
        for j in range(x.shape[1]):
            total = add_any_order(total, out[i, j])
        scale = one / total
        for j in range(x.shape[1]):
            out[i, j] *= scale


@compiled
def _softmax_grad_rows(g, y, out, start, stop):
    for i in range(start, stop):
        total = g.dtype.type(0)
        for j in range(g.shape[1]):
            total = add_any_order(total, g[i, j] * y[i, j])
        for j in range(g.shape[1]):
            out[i, j] = y[i, j] * (g[i, j] - total)


@compiled
def _log_softmax_rows(x, out, start, stop):
    # in blocks of rows, so that the logarithms are taken in a loop of their own, which is vectorized
    tops, logsums = np.empty(_BLOCK, x.dtype), np.empty(_BLOCK, x.dtype)
    for first in range(start, stop, _BLOCK):
        count = min(_BLOCK, stop - first)
        for k in range(count):
            i = first + k
            top = x[i, 0]
            for j in range(x.shape[1]):
                top = nan_max(top, x[i, j])
            total = x.dtype.type(0)
            for j in range(x.shape[1]):
                total = add_any_order(total, exp(x[i, j] - top))
            tops[k] = top
            logsums[k] = total
        for k in range(count):
            logsums[k] = log(logsums[k])
        for k in range(count):
            i, top, logsum = first + k, tops[k], logsums[k]
            for j in range(x.shape[1]):
                out[i, j] = (x[i, j] - top) - logsum


@compiled
def _log_softmax_grad_rows(g, y, out, start, stop):
    for i in range(start, stop):
        total = g.dtype.type(0)
        for j in range(g.shape[1]):
            total = add_any_order(total, g[i, j])
        for j in range(g.shape[1]):
            out[i, j] = g[i, j] - exp(y[i, j]) * total


@compiled(parallel=True)
def _softmax_pieces(x, out, count):
    for c in prange(count):
        _softmax_rows(x, out, c * x.shape[0] // count, (c + 1) * x.shape[0] // count)


@compiled(parallel=True)
def _softmax_grad_pieces(g, y, out, count):
    for c in prange(count):
        _softmax_grad_rows(g, y, out, c * g.shape[0] // count, (c + 1) * g.shape[0] // count)


@compiled(parallel=True)
def _log_softmax_pieces(x, out, count):
    for c in prange(count):
        _log_softmax_rows(x, out, c * x.shape[0] // count, (c + 1) * x.shape[0] // count)


@compiled(parallel=True)
def _log_softmax_grad_pieces(g, y, out, count):
    for c in prange(count):
        _log_softmax_grad_rows(g, y, out, c * g.shape[0] // count, (c + 1) * g.shape[0] // count)


def _last_axis(x: Any, *, axis: int = -1) -> bool:
    """float32 or float64, C-contiguous, along the last axis, not empty"""
    return plain(x) and x.size > 0 and x.ndim > 0 and (axis == -1 or axis == x.ndim - 1)


def _last_axis_grad(g: Any, y: Any, *, axis: int) -> bool:
    """float32 or float64, C-contiguous, along the last axis, not empty"""
    return plain(g, y) and g.size > 0 and g.ndim > 0 and (axis == -1 or axis == g.ndim - 1) and g.shape == y.shape


def _forward(name: str, serial: Any, parallel: Any) -> None:
    @kernel(name, backend="numba", when=_last_axis, dtypes=("float32", "float64"), note="one pass per row", out=True)
    def run(x: np.ndarray, *, axis: int = -1, out: Any = None) -> np.ndarray:
        result = np.empty(x.shape, x.dtype) if out is None else out[0]
        n = x.shape[-1]
        over_rows(serial, parallel, x.size, x.size // n, x.reshape(-1, n), result.reshape(-1, n))
        return result

    run.__name__ = run.__qualname__ = name


def _backward(name: str, serial: Any, parallel: Any) -> None:
    @kernel(
        name, backend="numba", when=_last_axis_grad, dtypes=("float32", "float64"), note="one pass per row", out=True
    )
    def run(g: np.ndarray, y: np.ndarray, *, axis: int, out: Any = None) -> np.ndarray:
        result = np.empty(g.shape, g.dtype) if out is None else out[0]
        n = g.shape[-1]
        over_rows(serial, parallel, g.size, g.size // n, g.reshape(-1, n), y.reshape(-1, n), result.reshape(-1, n))
        return result

    run.__name__ = run.__qualname__ = name


_forward("softmax", _softmax_rows, _softmax_pieces)
_forward("log_softmax", _log_softmax_rows, _log_softmax_pieces)
_backward("softmax_grad", _softmax_grad_rows, _softmax_grad_pieces)
_backward("log_softmax_grad", _log_softmax_grad_rows, _log_softmax_grad_pieces)
