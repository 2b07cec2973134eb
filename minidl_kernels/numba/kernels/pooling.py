"""Max and average pooling over one or two axes, forward and backward: a plane (one channel of one sample) at a time.

A row of windows is worked on at once, one position inside the windows after the other, so that the inner loops run
along rows of the image and are vectorized. One axis counts as two, of which the first has length one.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np
from numba import prange

from minidl.backend import kernel
from minidl.ops import pooling as reference
from minidl_kernels.numba.simd.common import FLOATS, over_rows
from minidl_kernels.numba.simd.compiled import compiled, inlined
from minidl_kernels.numba.simd.vecmath import nan_max

# Unsigned indices: they are not from the end of the array if negative, and without the question loops are vectorized.


@inlined
def _whole(kernel, dilation, stride, padding, size, windows):
    """The first and the end of the windows along an axis that are inside the image."""
    low = max(0, min(windows, (padding + stride - 1) // stride))
    return low, max(low, min(windows, (size + padding - dilation * (kernel - 1) - 1) // stride + 1))


@inlined
def _max_windows(x, start, pixel, width, rows, columns, dilation, stride, number, best, index, to):
    """Maxima of ``number`` windows along a row, from ``start`` in ``x`` on, which is ``pixel`` of its plane."""
    for o in range(number):
        largest, where = x.dtype.type(-np.inf), np.int32(o * stride)
        for i in range(rows):
            for j in range(columns):
                k = i * dilation[0] * width + o * stride + j * dilation[1]
                value = x[np.uintp(start + k)]
                better = (value > largest) | (value != value)
                largest = nan_max(largest, value)
                where = max(where, np.int32(better) * np.int32(k))  # k grows, so this is where(better, k, where)
        index[np.uintp(to + o)] = pixel + where
        best[np.uintp(to + o)] = largest


@inlined
def _clip(begin, kernel, dilation, size):
    """The positions in a window, first and end, that are in the image."""
    low = (-begin + dilation - 1) // dilation if begin < 0 else 0
    return low, max(low, min(kernel, (size - begin + dilation - 1) // dilation))


@compiled
def _max_planes(x, size, kernel, stride, padding, dilation, out, best, index, begin, end):
    height, width = size
    low, stop = _whole(kernel[1], dilation[1], stride[1], padding[1], width, out[1])
    for plane in range(begin, end):
        for r in range(out[0]):
            top = r * stride[0] - padding[0]
            i, i_end = _clip(top, kernel[0], dilation[0], height)
            top += i * dilation[0]
            rows = i_end - i
            to = (plane * out[0] + r) * out[1]
            pixel = top * width + low * stride[1] - padding[1]
            start = plane * height * width + pixel
            n, at = stop - low, to + low
            near = dilation[0] == 1 and dilation[1] == 1 and rows == kernel[1]
            # loops over a known number of positions are unrolled
            if near and rows == 2 and stride[1] == 2:
                _max_windows(x, start, pixel, width, 2, 2, (1, 1), 2, n, best, index, at)
            elif near and rows == 3 and stride[1] == 2:
                _max_windows(x, start, pixel, width, 3, 3, (1, 1), 2, n, best, index, at)
            elif near and rows == 3 and stride[1] == 1:
                _max_windows(x, start, pixel, width, 3, 3, (1, 1), 1, n, best, index, at)
            else:
                _max_windows(x, start, pixel, width, rows, kernel[1], dilation, stride[1], n, best, index, at)
            for o in range(out[1]):
                if low <= o < stop:
                    continue
                left = o * stride[1] - padding[1]
                j, j_end = _clip(left, kernel[1], dilation[1], width)
                pixel = top * width + left + j * dilation[1]
                start = plane * height * width + pixel
                _max_windows(x, start, pixel, width, rows, j_end - j, dilation, stride[1], 1, best, index, to + o)


@compiled(parallel=True)
def _max_pieces(x, size, kernel, stride, padding, dilation, out, best, index, count):
    n = best.size // (out[0] * out[1])
    for c in prange(count):
        _max_planes(
            x, size, kernel, stride, padding, dilation, out, best, index, c * n // count, (c + 1) * n // count
        )  # fmt: skip


@compiled
def _max_grad_planes(g, index, image, valid, begin, end):
    pixels = image.shape[1]
    for plane in range(begin, end):
        image[plane] = 0
        for o in range(g.shape[1]):
            at = np.uintp(index[plane, o])
            if at >= np.uintp(pixels):
                valid[0] = False
            else:
                image[plane, at] += g[plane, o]


@compiled(parallel=True)
def _max_grad_pieces(g, index, image, valid, count):
    n = g.shape[0]
    for c in prange(count):
        _max_grad_planes(g, index, image, valid, c * n // count, (c + 1) * n // count)


@inlined
def _sum_windows(x, start, width, rows, columns, stride, number, total, to):
    """Sums of ``number`` windows along a row; the first begins at ``start`` in ``x``."""
    for o in range(number):
        s = x.dtype.type(0)
        for i in range(rows):
            for j in range(columns):
                s += x[np.uintp(start + i * width + o * stride + j)]
        total[np.uintp(to + o)] = s


@compiled
def _avg_planes(x, size, kernel, stride, padding, row_counts, column_counts, total, begin, end):
    height, width = size
    out = row_counts.size, column_counts.size
    low, stop = _whole(kernel[1], 1, stride[1], padding[1], width, out[1])
    for plane in range(begin, end):
        for r in range(out[0]):
            top = r * stride[0] - padding[0]
            i, i_end = _clip(top, kernel[0], 1, height)
            top += i
            rows = i_end - i
            to = (plane * out[0] + r) * out[1]
            line = (plane * height + top) * width
            start = line + low * stride[1] - padding[1]
            n, at = stop - low, to + low
            # loops over a known number of positions are unrolled
            if rows == 2 and kernel[1] == 2 and stride[1] == 2:
                _sum_windows(x, start, width, 2, 2, 2, n, total, at)
            elif rows == 3 and kernel[1] == 3 and stride[1] == 2:
                _sum_windows(x, start, width, 3, 3, 2, n, total, at)
            elif rows == 3 and kernel[1] == 3 and stride[1] == 1:
                _sum_windows(x, start, width, 3, 3, 1, n, total, at)
            else:
                _sum_windows(x, start, width, rows, kernel[1], stride[1], n, total, at)
            for o in range(out[1]):
                if o < low or o >= stop:
                    left = o * stride[1] - padding[1]
                    j, j_end = _clip(left, kernel[1], 1, width)
                    _sum_windows(x, line + left + j, width, rows, j_end - j, 1, 1, total, to + o)
            for o in range(out[1]):
                total[np.uintp(to + o)] /= row_counts[r] * column_counts[o]


@compiled(parallel=True)
def _avg_pieces(x, size, kernel, stride, padding, row_counts, column_counts, total, count):
    n = total.size // (row_counts.size * column_counts.size)
    for c in prange(count):
        _avg_planes(
            x, size, kernel, stride, padding, row_counts, column_counts, total, c * n // count, (c + 1) * n // count
        )  # fmt: skip


@inlined
def _spread(share, image, at, low, stop, stride):
    for o in range(low, stop):
        image[np.uintp(at + o * stride)] += share[np.uintp(o)]


@compiled
def _avg_grad_planes(g, size, kernel, stride, padding, row_counts, column_counts, image, begin, end):
    height, width = size
    columns = column_counts.size
    share = np.empty(columns, g.dtype)
    for plane in range(begin, end):
        image[plane * height * width : (plane + 1) * height * width] = 0
        for r in range(row_counts.size):
            for o in range(columns):
                share[o] = g[np.uintp((plane * row_counts.size + r) * columns + o)] / (row_counts[r] * column_counts[o])
            for i in range(kernel[0]):
                row = r * stride[0] - padding[0] + i
                if row < 0 or row >= height:
                    continue
                for j in range(kernel[1]):
                    low, stop = _whole(1, 1, stride[1], padding[1] - j, width, columns)
                    at = (plane * height + row) * width + j - padding[1]
                    if stride[1] == 1:
                        _spread(share, image, at, low, stop, 1)
                    elif stride[1] == 2:
                        _spread(share, image, at, low, stop, 2)
                    else:
                        _spread(share, image, at, low, stop, stride[1])


@compiled(parallel=True)
def _avg_grad_pieces(g, size, kernel, stride, padding, row_counts, column_counts, image, count):
    n = image.size // (size[0] * size[1])
    for c in prange(count):
        _avg_grad_planes(
            g, size, kernel, stride, padding, row_counts, column_counts, image, c * n // count, (c + 1) * n // count
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
        out = reference.output_size("", size, kernel_size, stride, padding, dilation, ceil_mode)
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
        reference.divisor((n,), (k,), (s,), (p,), (o,), count_include_pad, dtype)
        for n, k, s, p, o in zip(size, kernel_size, stride, padding, out)
    )


def _floats(*arrays: Any) -> bool:
    dtype = getattr(arrays[0], "dtype", None)
    return dtype in FLOATS and all(type(a) is np.ndarray and a.dtype == dtype and a.size > 0 for a in arrays)


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


def _flat(x: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(x).reshape(-1)


def _max_pool(
    x: np.ndarray, *, kernel_size: tuple, stride: tuple, padding: tuple, dilation: tuple, ceil_mode: bool,
    out: Any = None,
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    size = _out_size(x.shape[2:], kernel_size, stride, padding, dilation, ceil_mode)
    shape = (*x.shape[:2], *size)
    best, index = out or (np.empty(shape, x.dtype), np.empty(shape, np.int64))
    over_rows(
        _max_planes, _max_pieces, x.size, math.prod(x.shape[:2]), _flat(x), _two(x.shape[2:]), _two(kernel_size),
        _two(stride), _two(padding, 0), _two(dilation), _two(size), best.reshape(-1), index.reshape(-1),
    )  # fmt: skip
    return best, index


def _avg_pool(
    x: np.ndarray, *, kernel_size: tuple, stride: tuple, padding: tuple, ceil_mode: bool, count_include_pad: bool,
    out: Any = None,
) -> np.ndarray:  # fmt: skip
    size = _out_size(x.shape[2:], kernel_size, stride, padding, (1,) * len(kernel_size), ceil_mode)
    result = np.empty((*x.shape[:2], *size), x.dtype) if out is None else out[0]
    windows = _two(x.shape[2:]), _two(kernel_size), _two(stride), _two(padding, 0)
    counts = _counts(*windows, _two(size), count_include_pad, x.dtype)
    planes = math.prod(x.shape[:2])
    over_rows(_avg_planes, _avg_pieces, x.size, planes, _flat(x), *windows, *counts, result.reshape(-1))
    return result


def _avg_pool_grad(
    dout: np.ndarray, *, input_size: tuple, kernel_size: tuple, stride: tuple, padding: tuple, ceil_mode: bool,
    count_include_pad: bool, out: Any = None,
) -> np.ndarray:  # fmt: skip
    result = np.empty((*dout.shape[:2], *input_size), dout.dtype) if out is None else out[0]
    windows = _two(tuple(input_size)), _two(kernel_size), _two(stride), _two(padding, 0)
    counts = _counts(*windows, _two(dout.shape[2:]), count_include_pad, dout.dtype)
    over_rows(
        _avg_grad_planes, _avg_grad_pieces, result.size, math.prod(dout.shape[:2]), _flat(dout), *windows, *counts,
        result.reshape(-1),
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
