"""Reading and writing by index: slices, gather and scatter."""

from __future__ import annotations

from typing import Any

import numpy as np

from minidl import ops
from minidl.interop.onnx.operators.shape import plain
from minidl.interop.onnx.registry import operator
from minidl.interop.onnx.values import host, ints
from minidl.ops.indexing import add_at


def _checked(index: Any, n: int, what: str) -> np.ndarray:
    """Indices counted from the start; IndexError where there is no such place."""
    index = np.asarray(host(index))
    if index.size and not (index.min() >= -n and index.max() < n):
        raise IndexError(f"{what}: indices must be in [{-n}, {n}), got {index.min()} to {index.max()}")
    return np.where(index < 0, index + n, index)


def _sliced(x: Any, starts: list[int], ends: list[int], axes: list[int], steps: list[int]) -> Any:
    index: list[Any] = [slice(None)] * x.ndim
    for axis, start, end, step in zip(axes, starts, ends, steps):
        n = x.shape[axis]
        begin = start + n if start < 0 else start
        stop = end + n if end < 0 else end
        if step > 0:
            begin, stop = min(max(begin, 0), n), min(max(stop, 0), n)
        else:
            begin, stop = min(max(begin, -1), n - 1), min(max(stop, -1), n - 1)
        index[axis] = slice(begin, None if stop < 0 else stop, step) if begin >= 0 else slice(0, 0)
    return host(x)[tuple(index)] if plain(x) else x[tuple(index)]


@operator("Slice")
def slice_1(x, *, starts, ends, axes=None):
    return _sliced(x, starts, ends, axes or list(range(len(starts))), [1] * len(starts))


@operator("Slice", since=10, host="starts ends axes steps")
def slice_(x, starts, ends, axes=None, steps=None):
    starts = ints(starts)
    where = list(range(len(starts))) if axes is None else ints(axes)
    return _sliced(x, starts, ints(ends), where, [1] * len(starts) if steps is None else ints(steps))


@operator("Gather")
def gather(x, indices, *, axis=0):
    if isinstance(indices, np.ndarray) or plain(x):
        index = _checked(indices, x.shape[axis], "Gather")
        return np.take(host(x), index, axis) if isinstance(x, np.ndarray) else ops.take(x, index, axis=axis)
    return ops.take(x, ops.where(indices < 0, indices + x.shape[axis], indices), axis=axis)


@operator("GatherElements")
def gather_elements(x, indices, *, axis=0):
    index = _checked(indices, x.shape[axis], "GatherElements")
    return ops.gather(x, index, axis=axis)


def _positions(indices: np.ndarray, shape: tuple[int, ...], batch: int, what: str) -> tuple:
    """What to index with so that ``indices`` (..., k) name places in the axes from ``batch`` on."""
    k = indices.shape[-1]
    lead = tuple(
        np.arange(n).reshape([-1 if a == i else 1 for a in range(indices.ndim - 1)])
        for i, n in enumerate(shape[:batch])
    )
    return (*lead, *(_checked(indices[..., i], shape[batch + i], what) for i in range(k)))


@operator("GatherND", host="indices")
def gather_nd(x, indices, *, batch_dims=0):
    return x[_positions(indices, tuple(x.shape), batch_dims, "GatherND")]


_COMBINE = {"add": np.add, "mul": np.multiply, "max": np.maximum, "min": np.minimum}


def _written(x: Any, where: tuple, updates: Any, reduction: str) -> Any:
    """A copy of ``x`` with ``updates`` written, or combined, at the places ``where``."""
    if x.dtype.kind == "f" and reduction in ("none", "add") and not plain(x):
        inside = np.zeros(tuple(x.shape), bool)
        inside[where] = True
        added = add_at(updates, where, tuple(x.shape))
        return x + added if reduction == "add" else ops.where(inside, added, x)
    out = np.array(host(x))
    if reduction == "none":
        out[where] = host(updates)
    else:
        _COMBINE[reduction].at(out, where, host(updates))
    return out


@operator("ScatterND", host="indices")
def scatter_nd(x, indices, updates, *, reduction="none"):
    return _written(x, _positions(indices, tuple(x.shape), 0, "ScatterND"), updates, reduction)


@operator("Scatter", "ScatterElements", host="indices")
def scatter_elements(x, indices, updates, *, axis=0, reduction="none"):
    where = list(np.indices(indices.shape, sparse=True))
    where[axis] = _checked(indices, x.shape[axis], "ScatterElements")
    return _written(x, tuple(np.broadcast_arrays(*where)), updates, reduction)


@operator("TensorScatter", host="write_indices")
def tensor_scatter(cache, update, write_indices=None, *, axis=-2, mode="linear"):
    """Each sample's ``update`` written into its ``cache`` from its own place on, round and round if ``circular``."""
    axis %= cache.ndim
    length, n = update.shape[axis], cache.shape[axis]
    start = np.zeros(cache.shape[0], np.int64) if write_indices is None else write_indices
    at = start[:, None] + np.arange(length)
    if mode == "circular":
        at = at % n
    where = list(np.indices(update.shape, sparse=True))
    where[axis] = _spread(_checked(at, n, "TensorScatter"), axis, cache.ndim)
    return _written(cache, tuple(np.broadcast_arrays(*where)), update, "none")


def _spread(at: np.ndarray, axis: int, rank: int) -> np.ndarray:
    """(N, length) as an array with N along axis 0 and length along ``axis``."""
    return at.reshape([at.shape[0] if a == 0 else at.shape[1] if a == axis else 1 for a in range(rank)])


@operator("OneHot", host="indices depth")
def one_hot(indices, depth, values, *, axis=-1):
    n = int(np.ravel(depth)[0])
    index = np.where(indices < 0, indices + n, indices).astype(np.int64)
    hot = np.moveaxis(index[..., None] == np.arange(n), -1, axis)
    off, on = host(values)
    return np.where(hot, on, off).astype(values.dtype)


@operator("NonZero", host="x")
def non_zero(x):
    return np.array(np.nonzero(x), np.int64)


@operator("Compress", host="x condition")
def compress(x, condition, *, axis=None):
    return np.compress(condition, x, axis)


@operator("ReverseSequence", host="lengths")
def reverse_sequence(x, lengths, *, batch_axis=1, time_axis=0):
    """The first ``lengths`` steps of each sequence backwards, the others as they are."""
    t = np.arange(x.shape[time_axis])[:, None]
    source = np.where(t < lengths, lengths - 1 - t, t)
    rest = [1 if a not in (batch_axis, time_axis) else n for a, n in enumerate(x.shape)]
    index = source.T if batch_axis < time_axis else source
    return ops.gather(x, np.broadcast_to(index.reshape(rest), tuple(x.shape)), axis=time_axis)
