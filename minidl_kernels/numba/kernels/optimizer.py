"""Optimizer updates in one pass over the parameter, in place on the arrays that the call donates.

The same arrays are returned. All constants come as float64 and are rounded to the parameter's dtype as the references'
weak Python scalars are.

A captured step updates all its parameters in one call (:func:`_together`): what there is to do lies in a table with a
row for each piece of a parameter, the addresses of its arrays and its length.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np
from numba import carray, prange

from minidl.backend import kernel
from minidl_kernels.numba.compiler.rules import joint
from minidl_kernels.numba.simd.common import PARALLEL_FROM, PIECE, over_rows, plain
from minidl_kernels.numba.simd.compiled import compiled
from minidl_kernels.numba.simd.vecmath import nan_max
from minidl_kernels.numba.simd.words import pointer

_FLOAT_NAMES = ("float32", "float64")


@compiled
def _sgd(p, g, lr, sign, decay, start, stop):
    p, g = p[start:stop], g[start:stop]
    lr, sign, decay = p.dtype.type(lr), p.dtype.type(sign), p.dtype.type(decay)
    for i in range(p.size):
        d = sign * g[i]
        if decay != 0:
            d += decay * p[i]
        p[i] -= lr * d


@compiled
def _momentum(p, g, buf, lr, momentum, fresh, nesterov, sign, decay, start, stop):
    p, g, buf = p[start:stop], g[start:stop], buf[start:stop]
    lr, momentum, fresh = p.dtype.type(lr), p.dtype.type(momentum), p.dtype.type(fresh)
    sign, decay = p.dtype.type(sign), p.dtype.type(decay)
    for i in range(p.size):
        d = sign * g[i]
        if decay != 0:
            d += decay * p[i]
        b = momentum * buf[i] + fresh * d
        buf[i] = b
        p[i] -= lr * (d + momentum * b if nesterov else b)


@compiled
def _adam(p, g, m, v, rate, beta1, beta2, eps, shrink, sign, decay, start, stop):
    p, g, m, v = p[start:stop], g[start:stop], m[start:stop], v[start:stop]
    dtype = p.dtype.type
    keep1, new1, keep2, new2 = dtype(beta1), dtype(1 - beta1), dtype(beta2), dtype(1 - beta2)
    rate, eps = dtype(rate), dtype(eps)
    shrink, sign, decay = dtype(shrink), dtype(sign), dtype(decay)
    for i in range(p.size):
        d = sign * g[i]
        if decay != 0:
            d += decay * p[i]
        first = keep1 * m[i] + new1 * d
        second = keep2 * v[i] + new2 * (d * d)
        p[i] = shrink * p[i] - rate * (first / (np.sqrt(second) + eps))
        m[i] = first
        v[i] = second


@compiled
def _amsgrad(p, g, m, v, largest, rate, beta1, beta2, eps, shrink, sign, decay, start, stop):
    p, g, m, v, largest = p[start:stop], g[start:stop], m[start:stop], v[start:stop], largest[start:stop]
    dtype = p.dtype.type
    keep1, new1, keep2, new2 = dtype(beta1), dtype(1 - beta1), dtype(beta2), dtype(1 - beta2)
    rate, eps = dtype(rate), dtype(eps)
    shrink, sign, decay = dtype(shrink), dtype(sign), dtype(decay)
    for i in range(p.size):
        d = sign * g[i]
        if decay != 0:
            d += decay * p[i]
        first = keep1 * m[i] + new1 * d
        second = keep2 * v[i] + new2 * (d * d)
        top = nan_max(largest[i], second)
        p[i] = shrink * p[i] - rate * (first / (np.sqrt(top) + eps))
        m[i] = first
        v[i] = second
        largest[i] = top


@compiled
def _ema(average, p, new, start, stop):
    average, p = average[start:stop], p[start:stop]
    new = average.dtype.type(new)
    for i in range(p.size):
        average[i] += new * (p[i] - average[i])


@compiled(parallel=True)
def _sgd_pieces(p, g, lr, sign, decay, count):
    for c in prange(count):
        _sgd(p, g, lr, sign, decay, c * p.size // count, (c + 1) * p.size // count)


@compiled(parallel=True)
def _momentum_pieces(p, g, buf, lr, momentum, fresh, nesterov, sign, decay, count):
    for c in prange(count):
        _momentum(p, g, buf, lr, momentum, fresh, nesterov, sign, decay, c * p.size // count, (c + 1) * p.size // count)


@compiled(parallel=True)
def _adam_pieces(p, g, m, v, rate, beta1, beta2, eps, shrink, sign, decay, count):
    for c in prange(count):
        _adam(
            p, g, m, v, rate, beta1, beta2, eps, shrink, sign, decay,
            c * p.size // count, (c + 1) * p.size // count,
        )  # fmt: skip


@compiled(parallel=True)
def _amsgrad_pieces(p, g, m, v, largest, rate, beta1, beta2, eps, shrink, sign, decay, count):
    for c in prange(count):
        _amsgrad(
            p, g, m, v, largest, rate, beta1, beta2, eps, shrink, sign, decay,
            c * p.size // count, (c + 1) * p.size // count,
        )  # fmt: skip


@compiled(parallel=True)
def _ema_pieces(average, p, new, count):
    for c in prange(count):
        _ema(average, p, new, c * p.size // count, (c + 1) * p.size // count)


@compiled
def _array(table, row, column, like):
    return carray(pointer(table[row, column]), (table[row, table.shape[1] - 1],), like.dtype)


def _sgd_rows(table, like, numbers):
    for row in prange(table.shape[0]):
        p, g = _array(table, row, 0, like), _array(table, row, 1, like)
        _sgd(p, g, *numbers, 0, p.size)


def _momentum_rows(table, like, numbers):
    for row in prange(table.shape[0]):
        p, g, buf = _array(table, row, 0, like), _array(table, row, 1, like), _array(table, row, 2, like)
        _momentum(p, g, buf, *numbers, 0, p.size)


def _adam_rows(table, like, numbers):
    for row in prange(table.shape[0]):
        p, g = _array(table, row, 0, like), _array(table, row, 1, like)
        _adam(p, g, _array(table, row, 2, like), _array(table, row, 3, like), *numbers, 0, p.size)


def _amsgrad_rows(table, like, numbers):
    for row in prange(table.shape[0]):
        p, g, m = _array(table, row, 0, like), _array(table, row, 1, like), _array(table, row, 2, like)
        _amsgrad(p, g, m, _array(table, row, 3, like), _array(table, row, 4, like), *numbers, 0, p.size)


# serial, and on all threads
_ROWS = {f: (compiled(f), compiled(f, parallel=True)) for f in (_sgd_rows, _momentum_rows, _adam_rows, _amsgrad_rows)}


def _place(arrays: tuple[np.ndarray, ...], out: Any) -> tuple[np.ndarray, ...]:
    """The arrays to update and return: the donated ones, or ``out`` with their values."""
    if out is None:
        return arrays
    for a, o in zip(arrays, out):
        if o is not a:
            np.copyto(o, a)
    return out


def _run(serial: Any, parallel: Any, arrays: tuple[np.ndarray, ...], *numbers: Any) -> None:
    size = arrays[0].size
    over_rows(serial, parallel, size, size, *[a.reshape(-1) for a in arrays], *numbers)


def _sgd_plain(p: Any, g: Any, lr: Any, step: Any, buf: Any = None, **params: Any) -> bool:
    """float32 or float64, C-contiguous; what is updated can be written to"""
    return plain(p, g, buf) and p.flags.writeable and (buf is None or buf.flags.writeable)


@kernel(
    "sgd_update", backend="numba", when=_sgd_plain, dtypes=_FLOAT_NAMES, out=True, note="one pass, in place"
)  # fmt: skip
def sgd_update(
    p: np.ndarray, g: np.ndarray, lr: float, step: int, buf: Any = None, *, momentum: float = 0.0,
    dampening: float = 0.0, nesterov: bool = False, weight_decay: float = 0.0, maximize: bool = False, out: Any = None,
) -> tuple[np.ndarray, ...]:  # fmt: skip
    numbers = _sgd_numbers(buf is not None, lr, step, momentum, dampening, nesterov, weight_decay, maximize)
    if buf is None:
        result = _place((p,), out)
        _run(_sgd, _sgd_pieces, (result[0], g), *numbers)
    else:
        result = _place((p, buf), out)
        _run(_momentum, _momentum_pieces, (result[0], g, result[1]), *numbers)
    return result


def _sgd_numbers(
    buffered: bool, lr: float, step: int, momentum: float = 0.0, dampening: float = 0.0, nesterov: bool = False,
    weight_decay: float = 0.0, maximize: bool = False,
) -> tuple[float, ...]:  # fmt: skip
    sign, decay = -1.0 if maximize else 1.0, float(weight_decay)
    if not buffered:
        return float(lr), sign, decay
    return float(lr), float(momentum), 1.0 - float(dampening) * (step > 1), bool(nesterov), sign, decay


def _adam_plain(p: Any, g: Any, m: Any, v: Any, lr: Any, step: Any, max_v: Any = None, **params: Any) -> bool:
    """float32 or float64, C-contiguous; what is updated can be written to"""
    return (
        plain(p, g, m, v, max_v)
        and p.flags.writeable
        and m.flags.writeable
        and v.flags.writeable
        and (max_v is None or max_v.flags.writeable)
    )


@kernel(
    "adam_update", backend="numba", when=_adam_plain, dtypes=_FLOAT_NAMES, out=True, note="one pass, in place"
)  # fmt: skip
def adam_update(
    p: np.ndarray, g: np.ndarray, m: np.ndarray, v: np.ndarray, lr: float, step: int, max_v: Any = None, *,
    beta1: float = 0.9, beta2: float = 0.999, eps: float = 1e-8, weight_decay: float = 0.0, decoupled: bool = False,
    maximize: bool = False, out: Any = None,
) -> tuple[np.ndarray, ...]:  # fmt: skip
    numbers = _adam_numbers(lr, step, beta1, beta2, eps, weight_decay, decoupled, maximize)
    if max_v is None:
        result = _place((p, m, v), out)
        _run(_adam, _adam_pieces, (result[0], g, result[1], result[2]), *numbers)
    else:
        result = _place((p, m, v, max_v), out)
        _run(_amsgrad, _amsgrad_pieces, (result[0], g, *result[1:]), *numbers)
    return result


def _adam_numbers(
    lr: float, step: int, beta1: float = 0.9, beta2: float = 0.999, eps: float = 1e-8, weight_decay: float = 0.0,
    decoupled: bool = False, maximize: bool = False,
) -> tuple[float, ...]:  # fmt: skip
    lr, step = float(lr), float(step)
    # rate * m / (sqrt(v) / root + eps), with one division less
    root = math.sqrt(_one_minus_power(beta2, step))
    return (
        root * lr / _one_minus_power(beta1, step), float(beta1), float(beta2), float(eps) * root,
        1.0 - lr * weight_decay if decoupled else 1.0, -1.0 if maximize else 1.0,
        0.0 if decoupled else float(weight_decay),
    )  # fmt: skip


@joint(sgd_update)
def _sgd_together(updates: list[tuple[np.ndarray, ...]], params: dict[str, Any]) -> Any:
    buffered = len(updates[0]) == 3
    return _together(
        _momentum_rows if buffered else _sgd_rows, functools.partial(_sgd_numbers, buffered), updates, params
    )


@joint(adam_update)
def _adam_together(updates: list[tuple[np.ndarray, ...]], params: dict[str, Any]) -> Any:
    return _together(_amsgrad_rows if len(updates[0]) == 5 else _adam_rows, _adam_numbers, updates, params)


def _together(rows: Any, numbers: Any, updates: list[tuple[np.ndarray, ...]], params: dict[str, Any]) -> Any:
    """``f(lr, step)`` that updates many parameters at once: ``updates`` has the arrays of each, (p, g) and state."""
    count, like = len(updates[0]), np.empty(0, updates[0][0].dtype)
    table = [
        [a.ctypes.data + begin * a.itemsize for a in arrays] + [min(PIECE, arrays[0].size - begin)]
        for arrays in updates
        for begin in range(0, arrays[0].size, PIECE)
    ]
    table = np.array(table, np.int64).reshape(-1, count + 1)
    run = _ROWS[rows][sum(arrays[0].size for arrays in updates) >= PARALLEL_FROM]
    return lambda lr, step: run(table, like, numbers(lr, step, **params))


def _one_minus_power(beta: float, step: float) -> float:
    return -math.expm1(step * math.log(beta)) if beta > 0 else 1.0


def _ema_plain(average: Any, p: Any, decay: Any) -> bool:
    """float32 or float64, C-contiguous; the average can be written to"""
    return plain(average, p) and average.flags.writeable


@kernel("ema_update", backend="numba", when=_ema_plain, dtypes=_FLOAT_NAMES, out=True, note="one pass, in place")
def ema_update(average: np.ndarray, p: np.ndarray, decay: float, *, out: Any = None) -> np.ndarray:
    result = _place((average,), out)
    _run(_ema, _ema_pieces, (result[0], p), 1.0 - float(decay))
    return result[0]
