"""Sums, extremes and norms over axes; cumulative sums; places of extremes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from minidl import ops
from minidl.interop.onnx.registry import operator
from minidl.interop.onnx.values import host, ints


def _largest(x: Any, axis: Any, keepdims: bool) -> Any:
    if 0 in x.shape:
        low = -np.inf if x.dtype.kind == "f" else np.iinfo(x.dtype).min if x.dtype.kind != "b" else False
        return np.max(host(x), axis=axis, keepdims=keepdims, initial=low)
    return ops.amax(x, axis=axis, keepdims=keepdims)


def _smallest(x: Any, axis: Any, keepdims: bool) -> Any:
    if 0 in x.shape:
        high = np.inf if x.dtype.kind == "f" else np.iinfo(x.dtype).max if x.dtype.kind != "b" else True
        return np.min(host(x), axis=axis, keepdims=keepdims, initial=high)
    return ops.amin(x, axis=axis, keepdims=keepdims)


def _sum(x: Any, axis: Any, keepdims: bool) -> Any:
    return ops.astype(ops.sum(x, axis=axis, keepdims=keepdims), dtype=x.dtype)


def _mean(x: Any, axis: Any, keepdims: bool) -> Any:
    if x.dtype.kind in "iu":
        return np.mean(host(x), axis=axis, keepdims=keepdims).astype(x.dtype)
    return ops.mean(x, axis=axis, keepdims=keepdims)


def _log_sum_exp(x: Any, axis: Any, keepdims: bool) -> Any:
    return ops.logsumexp(x if x.dtype.kind == "f" else ops.astype(x, dtype=np.float64), axis=axis, keepdims=keepdims)


_REDUCTIONS: dict[str, Callable[..., Any]] = {
    "ReduceMax": _largest,
    "ReduceMin": _smallest,
    "ReduceSum": _sum,
    "ReduceMean": _mean,
    "ReduceProd": lambda x, axis, keepdims: ops.astype(ops.prod(x, axis=axis, keepdims=keepdims), dtype=x.dtype),
    "ReduceL1": lambda x, axis, keepdims: _sum(ops.abs(x), axis, keepdims),
    "ReduceL2": lambda x, axis, keepdims: ops.astype(ops.sqrt(_sum(x * x, axis, keepdims)), dtype=x.dtype),
    "ReduceLogSum": lambda x, axis, keepdims: ops.log(_sum(x, axis, keepdims)),
    "ReduceLogSumExp": _log_sum_exp,
    "ReduceSumSquare": lambda x, axis, keepdims: _sum(x * x, axis, keepdims),
}


def _declare(name: str, reduce: Callable[..., Any]) -> None:
    def by_attribute(x, *, axes=None, keepdims=1):
        return reduce(x, tuple(axes) if axes else None, bool(keepdims))

    def by_input(x, axes=None, *, keepdims=1, noop_with_empty_axes=0):
        axis = () if axes is None else tuple(ints(axes))
        if not axis and noop_with_empty_axes:
            return reduce(ops.expand_dims(x, 0), (0,), False)
        return reduce(x, axis or None, bool(keepdims))

    operator(name)(by_attribute)
    operator(name, since=13 if name == "ReduceSum" else 18, host="axes")(by_input)


for _name, _reduce in _REDUCTIONS.items():
    _declare(_name, _reduce)


def _place_of(best: Callable[..., Any]) -> Callable[..., Any]:
    def run(x, *, axis=0, keepdims=1, select_last_index=0):
        if select_last_index:
            index = x.shape[axis] - 1 - best(ops.flip(x, axis), axis=axis)
        else:
            index = best(x, axis=axis)
        return ops.astype(ops.expand_dims(index, axis) if keepdims else index, dtype=np.int64)

    return run


operator("ArgMax")(_place_of(ops.argmax))
operator("ArgMin")(_place_of(ops.argmin))


def _cumulative(of_all: Callable[..., Any], first: float) -> Callable[..., Any]:
    def run(x, axis, *, exclusive=0, reverse=0):
        at = ints(axis)[0]
        x = ops.flip(x, at) if reverse else x
        out = of_all(x, axis=at)
        if exclusive:
            begin = ops.zeros_like(ops.narrow(out, at, 0, 1)) + first
            out = ops.concat([begin, ops.narrow(out, at, 0, x.shape[at] - 1)], axis=at)
        out = ops.flip(out, at) if reverse else out
        return ops.astype(out, dtype=x.dtype)

    return run


def _products(x: Any, axis: int) -> Any:
    rows = ops.moveaxis(x, axis, -1)
    return ops.moveaxis(ops.exclusive_cumprod(rows) * rows, -1, axis)


operator("CumSum", host="axis")(_cumulative(ops.cumsum, 0))
operator("CumProd", host="axis")(_cumulative(_products, 1))


@operator("TopK", host="k")
def top_k(x, k, *, axis=-1, largest=1, sorted=1):
    values, indices = ops.topk(x, ints(k)[0], axis=axis, largest=bool(largest))
    return values, ops.astype(indices, dtype=np.int64)


@operator("Unique")
def unique(x, *, axis=None, sorted=1):
    values, first, inverse, counts = np.unique(
        host(x), return_index=True, return_inverse=True, return_counts=True, axis=axis
    )
    if not sorted:
        order = np.argsort(first)
        values = values[order] if axis is None else np.take(values, order, axis=axis)
        inverse = np.argsort(order)[inverse]
        first, counts = first[order], counts[order]
    return values, first.astype(np.int64), inverse.reshape(-1).astype(np.int64), counts.astype(np.int64)
