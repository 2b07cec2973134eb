"""Max and average pooling over one or two axes, forward and backward: a plane (one channel of one sample) at a time.

A row of windows is worked on at once, one position inside the windows after the other, so that the inner loops run
along rows of the image and are vectorized. One axis counts as two, of which the first has length one.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np
from numba import njit, prange

from minidl.backend import kernel
from minidl.ops import pooling as reference
from minidl_kernels.numba.common import FLOATS, PARALLEL, SERIAL, over_rows

_INLINE = {"forceinline": True, "error_model": "numpy"}


@njit(**_INLINE)
def _inside(offset, size, stride, windows):
    """The first and the end of the windows (begin, begin + stride, ...) whose pixel at ``offset`` is in the image."""
    low = max(0, (-offset + stride - 1) // stride)
    return low, max(low, min(windows, (size - offset + stride - 1) // stride))


@njit(**_INLINE)
def _max_row(row, best, where, low, stop, stride, offset, start):
    for o in range(low, stop):
        value = row[o * stride + offset]
        better = (value > best[o]) | (value != value)
        best[o] = value if better else best[o]
        where[o] = start + o * stride if better else where[o]


@njit(**SERIAL)
def _max_planes(x, kernel, stride, padding, dilation, out, index, begin, end):
    height, width = x.shape[1:]
    rows, columns = out.shape[1:]
    lowest = x.dtype.type(-np.inf)
    for plane in range(begin, end):
        for r in range(rows):
            best, where = out[plane, r], index[plane, r]
            top = r * stride[0] - padding[0]
            first = top if top >= 0 else top + (-top + dilation[0] - 1) // dilation[0] * dilation[0]
            for o in range(columns):
                left = o * stride[1] - padding[1]
                if left < 0:
                    left += (-left + dilation[1] - 1) // dilation[1] * dilation[1]
                best[o] = lowest
                where[o] = first * width + left
            for i in range(kernel[0]):
                at = top + i * dilation[0]
                if at < 0 or at >= height:
                    continue
                for j in range(kernel[1]):
                    offset = j * dilation[1] - padding[1]
                    low, stop = _inside(offset, width, stride[1], columns)
                    start = at * width + offset
                    if stride[1] == 1:
                        _max_row(x[plane, at], best, where, low, stop, 1, offset, start)
                    elif stride[1] == 2:
                        _max_row(x[plane, at], best, where, low, stop, 2, offset, start)
                    else:
                        _max_row(x[plane, at], best, where, low, stop, stride[1], offset, start)


@njit(**PARALLEL)
def _max_pieces(x, kernel, stride, padding, dilation, out, index, count):
    n = x.shape[0]
    for c in prange(count):
        _max_planes(x, kernel, stride, padding, dilation, out, index, c * n // count, (c + 1) * n // count)


@njit(**SERIAL)
def _max_grad_planes(g, index, image, valid, begin, end):
    pixels = image.shape[1]
    for plane in range(begin, end):
        image[plane] = 0
        for o in range(g.shape[1]):
            at = index[plane, o]
            if at < 0 or at >= pixels:
                valid[0] = False
            else:
                image[plane, at] += g[plane, o]


@njit(**PARALLEL)
def _max_grad_pieces(g, index, image, valid, count):
    n = g.shape[0]
    for c in prange(count):
        _max_grad_planes(g, index, image, valid, c * n // count, (c + 1) * n // count)


@njit(**_INLINE)
def _add_row(row, total, low, stop, stride, offset):
    for o in range(low, stop):
        total[o] += row[o * stride + offset]


@njit(**SERIAL)
def _avg_planes(x, kernel, stride, padding, row_counts, column_counts, out, begin, end):
    height, width = x.shape[1:]
    columns = out.shape[2]
    for plane in range(begin, end):
        for r in range(out.shape[1]):
            total = out[plane, r]
            total[:] = 0
            for i in range(kernel[0]):
                at = r * stride[0] - padding[0] + i
                if at < 0 or at >= height:
                    continue
                for j in range(kernel[1]):
                    offset = j - padding[1]
                    low, stop = _inside(offset, width, stride[1], columns)
                    if stride[1] == 1:
                        _add_row(x[plane, at], total, low, stop, 1, offset)
                    elif stride[1] == 2:
                        _add_row(x[plane, at], total, low, stop, 2, offset)
                    else:
                        _add_row(x[plane, at], total, low, stop, stride[1], offset)
            for o in range(columns):
                total[o] /= row_counts[r] * column_counts[o]


@njit(**PARALLEL)
def _avg_pieces(x, kernel, stride, padding, row_counts, column_counts, out, count):
    n = x.shape[0]
    for c in prange(count):
        _avg_planes(
            x, kernel, stride, padding, row_counts, column_counts, out, c * n // count, (c + 1) * n // count
        )  # fmt: skip


@njit(**_INLINE)
def _spread_row(g, image, low, stop, stride, offset):
    for o in range(low, stop):
        image[o * stride + offset] += g[o]


@njit(**SERIAL)
def _avg_grad_planes(g, kernel, stride, padding, row_counts, column_counts, image, begin, end):
    height, width = image.shape[1:]
    columns = g.shape[2]
    share = np.empty(columns, g.dtype)
    for plane in range(begin, end):
        image[plane] = 0
        for r in range(g.shape[1]):
            for o in range(columns):
                share[o] = g[plane, r, o] / (row_counts[r] * column_counts[o])
            for i in range(kernel[0]):
                at = r * stride[0] - padding[0] + i
                if at < 0 or at >= height:
                    continue
                for j in range(kernel[1]):
                    offset = j - padding[1]
                    low, stop = _inside(offset, width, stride[1], columns)
                    if stride[1] == 1:
                        _spread_row(share, image[plane, at], low, stop, 1, offset)
                    elif stride[1] == 2:
                        _spread_row(share, image[plane, at], low, stop, 2, offset)
                    else:
                        _spread_row(share, image[plane, at], low, stop, stride[1], offset)


@njit(**PARALLEL)
def _avg_grad_pieces(g, kernel, stride, padding, row_counts, column_counts, image, count):
    n = g.shape[0]
    for c in prange(count):
        _avg_grad_planes(
            g, kernel, stride, padding, row_counts, column_counts, image, c * n // count, (c + 1) * n // count
        )  # fmt: skip


def _two(values: tuple[int, ...], first: int = 1) -> tuple[int, int]:
    """One or two ints an axis as two."""
    return values if len(values) == 2 else (first, *values)


@functools.lru_cache(maxsize=256)
def _out_size(
    size: tuple, kernel_size: tuple, stride: tuple, padding: tuple, dilation: tuple, ceil_mode: bool
) -> tuple[int, ...] | None:
    """Number of windows an axis; None where the reference would raise, or a window meets no pixel."""
    try:
        out = reference._output_size("", size, kernel_size, stride, padding, dilation, ceil_mode)
    except ValueError:
        return None
    for n, o, k, s, p, d in zip(size, out, kernel_size, stride, padding, dilation):
        for begin in range(-p, (o - 1) * s - p + 1, s):
            at = max(0, -(begin // d))
            if at >= k or begin + at * d >= n:
                return None
    return out


@functools.lru_cache(maxsize=64)
def _counts(
    size: tuple, kernel_size: tuple, stride: tuple, padding: tuple, out: tuple, count_include_pad: bool, dtype: Any
) -> tuple[np.ndarray, ...]:
    """For each axis, how many pixels each window counts along it."""
    return tuple(
        reference._divisor((n,), (k,), (s,), (p,), (o,), count_include_pad, dtype)
        for n, k, s, p, o in zip(size, kernel_size, stride, padding, out)
    )


def _floats(*arrays: Any) -> bool:
    dtype = getattr(arrays[0], "dtype", None)
    return dtype in FLOATS and all(type(a) is np.ndarray and a.dtype is dtype and a.size > 0 for a in arrays)


def _images(
    x: Any, *, kernel_size: tuple, stride: tuple, padding: tuple, dilation: tuple, ceil_mode: bool
) -> bool:  # fmt: skip
    """float32 or float64, not empty, every window meets a pixel"""
    return _floats(x) and _out_size(x.shape[2:], kernel_size, stride, padding, dilation, ceil_mode) is not None


def _means(
    x: Any, *, kernel_size: tuple, stride: tuple, padding: tuple, ceil_mode: bool, count_include_pad: bool
) -> bool:
    """float32 or float64, not empty, every window meets a pixel"""
    one = (1,) * len(kernel_size)
    return _floats(x) and _out_size(x.shape[2:], kernel_size, stride, padding, one, ceil_mode) is not None


def _means_grad(
    dout: Any, *, input_size: tuple, kernel_size: tuple, stride: tuple, padding: tuple, ceil_mode: bool,
    count_include_pad: bool,
) -> bool:  # fmt: skip
    """float32 or float64, not empty, every window meets a pixel"""
    one = (1,) * len(kernel_size)
    return _floats(dout) and dout.shape[2:] == _out_size(input_size, kernel_size, stride, padding, one, ceil_mode)


def _maxima_grad(dout: Any, indices: Any, *, input_size: tuple) -> bool:
    """float32 or float64, not empty; int64 indices"""
    return (
        _floats(dout)
        and type(indices) is np.ndarray
        and indices.dtype == np.int64
        and indices.shape == dout.shape
        and math.prod(input_size) > 0
    )


def _planes(x: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(x).reshape(-1, *_two(x.shape[2:]))


def _max_pool(
    x: np.ndarray, *, kernel_size: tuple, stride: tuple, padding: tuple, dilation: tuple, ceil_mode: bool,
    out: Any = None,
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    size = _out_size(x.shape[2:], kernel_size, stride, padding, dilation, ceil_mode)
    shape = (*x.shape[:2], *size)
    result, index = out or (np.empty(shape, x.dtype), np.empty(shape, np.int64))
    x = _planes(x)
    size = (-1, *_two(size))
    over_rows(
        _max_planes, _max_pieces, x.size, len(x), x, _two(kernel_size), _two(stride), _two(padding, 0), _two(dilation),
        result.reshape(size), index.reshape(size),
    )  # fmt: skip
    return result, index


def _avg_pool(
    x: np.ndarray, *, kernel_size: tuple, stride: tuple, padding: tuple, ceil_mode: bool, count_include_pad: bool,
    out: Any = None,
) -> np.ndarray:  # fmt: skip
    one = (1,) * len(kernel_size)
    size = _out_size(x.shape[2:], kernel_size, stride, padding, one, ceil_mode)
    result = np.empty((*x.shape[:2], *size), x.dtype) if out is None else out[0]
    x = _planes(x)
    kernel_size, stride, padding, size = _two(kernel_size), _two(stride), _two(padding, 0), _two(size)
    counts = _counts(x.shape[1:], kernel_size, stride, padding, size, count_include_pad, x.dtype)
    over_rows(
        _avg_planes, _avg_pieces, x.size, len(x), x, kernel_size, stride, padding, *counts, result.reshape(-1, *size)
    )
    return result


def _avg_pool_grad(
    dout: np.ndarray, *, input_size: tuple, kernel_size: tuple, stride: tuple, padding: tuple, ceil_mode: bool,
    count_include_pad: bool, out: Any = None,
) -> np.ndarray:  # fmt: skip
    result = np.empty((*dout.shape[:2], *input_size), dout.dtype) if out is None else out[0]
    g = _planes(dout)
    kernel_size, stride, padding, size = _two(kernel_size), _two(stride), _two(padding, 0), _two(input_size)
    counts = _counts(size, kernel_size, stride, padding, g.shape[1:], count_include_pad, g.dtype)
    over_rows(
        _avg_grad_planes, _avg_grad_pieces, result.size, len(g), g, kernel_size, stride, padding, *counts,
        result.reshape(-1, *size),
    )  # fmt: skip
    return result


@kernel(
    "max_pool_grad", backend="numba", when=_maxima_grad, dtypes=("float32", "float64"), out=True,
    note="a plane at a time",
)  # fmt: skip
def max_pool_grad(dout: np.ndarray, indices: np.ndarray, *, input_size: tuple, out: Any = None) -> np.ndarray:
    result = np.empty((*dout.shape[:2], *input_size), dout.dtype) if out is None else out[0]
    planes, pixels = math.prod(dout.shape[:2]), math.prod(input_size)
    g, index = (np.ascontiguousarray(a).reshape(planes, -1) for a in (dout, indices))
    valid = np.ones(1, np.bool_)
    over_rows(_max_grad_planes, _max_grad_pieces, result.size, planes, g, index, result.reshape(planes, pixels), valid)
    if not valid[0]:
        raise IndexError(f"max_pool_grad: an index is outside the {pixels} pixels of an image of size {input_size}")
    return result


for _n in (1, 2):
    _options = {"backend": "numba", "dtypes": ("float32", "float64"), "out": True, "note": "a plane at a time"}
    kernel(f"max_pool{_n}d", when=_images, **_options)(_max_pool)
    kernel(f"avg_pool{_n}d", when=_means, **_options)(_avg_pool)
    kernel(f"avg_pool{_n}d_grad", when=_means_grad, **_options)(_avg_pool_grad)
