"""Cross-entropy with class indices, for logits (N, C) and (C,): a row at a time, while it is in the cache."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import prange

from minidl.backend import kernel
from minidl_kernels.numba.simd.common import PARALLEL_FROM, flat_indices, over_rows, pieces, plain
from minidl_kernels.numba.simd.compiled import compiled
from minidl_kernels.numba.simd.vecmath import add_any_order, exp, log, nan_max

_NO_WEIGHT = {np.dtype(d): np.empty(0, d) for d in (np.float32, np.float64)}


@compiled
def _in_range(target, classes, ignore):
    wrong = 0
    for i in range(target.size):
        wrong += target[i] != ignore and (target[i] < 0 or target[i] >= classes)
    return wrong == 0


@compiled
def _class_and_weight(t, weight, ignore, zero):
    """(class, weight) of an entry; an ignored one counts as of class 0 with 0 times its weight, as in the reference."""
    if t == ignore:
        return 0, zero * weight[0] if weight.size else zero
    return t, weight[t] if weight.size else zero + 1


@compiled
def _loss_rows(x, target, weight, smoothing, ignore, top, logsum, loss, start, stop):
    zero = x.dtype.type(0)
    for i in range(start, stop):
        largest = x[i, 0]
        for j in range(x.shape[1]):
            largest = nan_max(largest, x[i, j])
        total = zero
        for j in range(x.shape[1]):
            total = add_any_order(total, exp(x[i, j] - largest))
        top[i] = largest
        logsum[i] = total
    for i in range(start, stop):
        logsum[i] = log(logsum[i])
    kept, spread = x.dtype.type(1 - smoothing), x.dtype.type(smoothing / x.shape[1])
    for i in range(start, stop):
        t, w = _class_and_weight(target[i], weight, ignore, zero)
        value = zero if w == zero else (logsum[i] - (x[i, t] - top[i])) * w
        if smoothing != 0:
            value *= kept
            if target[i] != ignore:
                total = zero
                if weight.size:
                    for j in range(x.shape[1]):
                        total = add_any_order(total, (logsum[i] - (x[i, j] - top[i])) * weight[j])
                else:
                    for j in range(x.shape[1]):
                        total = add_any_order(total, logsum[i] - (x[i, j] - top[i]))
                value += spread * total
        loss[i] = value


@compiled
def _reduce(target, weight, ignore, mean, loss, reduced, total):
    """The sum of the weights into ``total``; the sum or mean of ``loss`` into ``reduced``, unless that is empty."""
    weights = losses = 0.0
    for i in range(target.size):
        weights += _class_and_weight(target[i], weight, ignore, loss.dtype.type(0))[1]
    total[0] = weights
    if reduced.size:
        for i in range(loss.size):
            losses += loss[i]
        if mean:
            losses = np.nan if weights == 0 else losses / weights
        reduced[0] = losses


@compiled
def _loss_serial(x, target, weight, smoothing, ignore, mean, top, logsum, loss, reduced, total):
    if not _in_range(target, x.shape[1], ignore):
        return False
    _loss_rows(x, target, weight, smoothing, ignore, top, logsum, loss, 0, x.shape[0])
    _reduce(target, weight, ignore, mean, loss, reduced, total)
    return True


@compiled(parallel=True)
def _loss_pieces(x, target, weight, smoothing, ignore, mean, top, logsum, loss, reduced, total, count):
    if not _in_range(target, x.shape[1], ignore):
        return False
    n = x.shape[0]
    for c in prange(count):
        _loss_rows(x, target, weight, smoothing, ignore, top, logsum, loss, c * n // count, (c + 1) * n // count)
    _reduce(target, weight, ignore, mean, loss, reduced, total)
    return True


@compiled
def _grad_rows(g, x, target, top, logsum, total, weight, smoothing, ignore, reduction, out, start, stop):
    zero, one = x.dtype.type(0), x.dtype.type(1)
    kept, spread = x.dtype.type(1 - smoothing), x.dtype.type(smoothing / x.shape[1])
    weights = x.dtype.type(x.shape[1])
    if smoothing != 0 and weight.size:
        weights = zero
        for j in range(weight.size):
            weights = add_any_order(weights, weight[j])
    for i in range(start, stop):
        t, w = _class_and_weight(target[i], weight, ignore, zero)
        if reduction == 1:
            gi = zero if total[0] == 0 else g[0] / total[0]
        else:
            gi = g[i] if reduction == 0 else g[0]
        if smoothing == 0:
            scale = gi * w
            for j in range(x.shape[1]):
                out[i, j] = exp((x[i, j] - top[i]) - logsum[i]) * scale
            out[i, t] = (exp((x[i, t] - top[i]) - logsum[i]) - one) * scale
        else:
            # the target is q[j] = even * weight[j], and kept * w more at the class (an infinite w makes the rest NaN)
            even = zero if target[i] == ignore else spread
            rest = kept * w * zero
            whole = kept * w + even * weights + (rest if x.shape[1] > 1 else zero)
            if weight.size:
                for j in range(x.shape[1]):
                    out[i, j] = (exp((x[i, j] - top[i]) - logsum[i]) * whole - (rest + even * weight[j])) * gi
            else:
                for j in range(x.shape[1]):
                    out[i, j] = (exp((x[i, j] - top[i]) - logsum[i]) * whole - (rest + even)) * gi
            q = kept * w + even * (weight[t] if weight.size else one)
            out[i, t] = (exp((x[i, t] - top[i]) - logsum[i]) * whole - q) * gi


@compiled(parallel=True)
def _grad_pieces(g, x, target, top, logsum, total, weight, smoothing, ignore, reduction, out, count):
    n = x.shape[0]
    for c in prange(count):
        _grad_rows(
            g, x, target, top, logsum, total, weight, smoothing, ignore, reduction, out,
            c * n // count, (c + 1) * n // count,
        )  # fmt: skip


def _rows_and_indices(logits: Any, target: Any, weight: Any = None, **params: Any) -> bool:
    """float32 or float64, C-contiguous logits (N, C) or (C,), not empty; integer classes"""
    return (
        plain(logits, weight)
        and 0 < logits.ndim <= 2
        and logits.size > 0
        and type(target) is np.ndarray
        and target.dtype.kind in "iu"
    )


def _rows_and_indices_grad(
    g: Any, logits: Any, target: Any, top: Any, logsum: Any, total: Any, weight: Any = None, **params: Any
) -> bool:
    """float32 or float64, C-contiguous logits (N, C) or (C,), not empty; integer classes"""
    return (
        _rows_and_indices(logits, target, weight)
        and plain(logits, top, logsum)
        and getattr(g, "dtype", None) == logits.dtype
        and getattr(total, "dtype", None) == logits.dtype
    )


@kernel(
    "cross_entropy", backend="numba", when=_rows_and_indices, dtypes=("float32", "float64"), out=True,
    note="log-sum-exp and loss in one pass per row",
)  # fmt: skip
def cross_entropy(
    logits: np.ndarray, target: np.ndarray, weight: np.ndarray | None = None, *, label_smoothing: float = 0.0,
    ignore_index: int = -100, reduction: str = "mean", out: Any = None,
) -> tuple[np.ndarray, ...]:  # fmt: skip
    dtype, classes = logits.dtype, logits.shape[-1]
    n = logits.size // classes
    each = reduction == "none"
    if out is None:
        kept = (n, 1) if logits.ndim == 2 else (1,)
        out = (
            np.empty(logits.shape[:-1] if each else (), dtype), np.empty(kept, dtype), np.empty(kept, dtype),
            np.empty((), dtype),
        )  # fmt: skip
    loss, top, logsum, total = (a.reshape(-1) for a in out)
    rows, reduced = (loss, loss[:0]) if each else (np.empty(n, dtype), loss)
    arguments = (
        logits.reshape(n, classes), flat_indices(target), _NO_WEIGHT[dtype] if weight is None else weight,
        float(label_smoothing), int(ignore_index), reduction == "mean", top, logsum, rows, reduced, total,
    )  # fmt: skip
    if logits.size < PARALLEL_FROM:
        valid = _loss_serial(*arguments)
    else:
        valid = _loss_pieces(*arguments, pieces(logits.size, n))
    if not valid:
        raise IndexError(
            f"cross_entropy: a target is outside 0..{classes - 1} and not ignore_index, which is {ignore_index}"
        )
    return out


@kernel(
    "cross_entropy_grad", backend="numba", when=_rows_and_indices_grad, dtypes=("float32", "float64"), out=True,
    note="one pass per row",
)  # fmt: skip
def cross_entropy_grad(
    g: np.ndarray, logits: np.ndarray, target: np.ndarray, top: np.ndarray, logsum: np.ndarray, total: np.ndarray,
    weight: np.ndarray | None = None, *, label_smoothing: float = 0.0, ignore_index: int = -100,
    reduction: str = "mean", out: Any = None,
) -> np.ndarray:  # fmt: skip
    result = np.empty(logits.shape, logits.dtype) if out is None else out[0]
    classes = logits.shape[-1]
    n = logits.size // classes
    over_rows(
        _grad_rows, _grad_pieces, logits.size, n, np.ascontiguousarray(g).reshape(-1), logits.reshape(n, classes),
        flat_indices(target), top.reshape(-1), logsum.reshape(-1), total.reshape(-1),
        _NO_WEIGHT[logits.dtype] if weight is None else weight, float(label_smoothing), int(ignore_index),
        ("none", "mean", "sum").index(reduction), result.reshape(n, classes),
    )  # fmt: skip
    return result
