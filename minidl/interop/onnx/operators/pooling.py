"""Pooling: maxima, means and norms of windows, or of whole images."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from minidl import ops
from minidl.interop.onnx.operators.conv import Pads, convolved, window_pads
from minidl.interop.onnx.operators.shape import padded
from minidl.interop.onnx.registry import operator
from minidl.interop.onnx.values import host
from minidl.ops.indexing import add_at


def _windows(size: Any, kernel: Any, strides: Any, dilations: Any, pads: Pads, ceil_mode: int) -> tuple[list, Pads]:
    """(number of windows per axis, what has to be added after the padded image so that the last one fits)."""
    counts, extra = [], []
    for n, k, s, d, (before, after) in zip(size, kernel, strides, dilations, pads):
        room, span = n + before + after, d * (k - 1) + 1
        count = (-(-(room - span) // s) if ceil_mode else (room - span) // s) + 1
        if ceil_mode and (count - 1) * s >= n + before:
            count -= 1
        counts.append(count)
        extra.append((0, max((count - 1) * s + span - room, 0)))
    return counts, extra


def _added(pads: Pads, extra: Pads) -> Pads:
    return [(b, a + e) for (b, a), (_, e) in zip(pads, extra)]


@operator("MaxPool")
def max_pool(
    x, *, auto_pad="NOTSET", ceil_mode=0, dilations=None, kernel_shape, pads=None, storage_order=0, strides=None,
    outputs,
):  # fmt: skip
    """(the largest value of each window, its place in the flattened tensor)."""
    n = len(kernel_shape)
    strides, dilations = strides or [1] * n, dilations or [1] * n
    size = tuple(x.shape[2:])
    around = window_pads(size, kernel_shape, strides, dilations, pads, auto_pad)
    around = _added(around, _windows(size, kernel_shape, strides, dilations, around, ceil_mode)[1])
    floats = x.dtype.kind == "f"
    low = -np.inf if floats else np.iinfo(x.dtype).min
    image = padded(x, [(0, 0), (0, 0), *around], "constant", low)
    pool = (ops.max_pool1d, ops.max_pool2d, ops.max_pool3d)[n - 1]
    out, index = pool(image, tuple(kernel_shape), stride=tuple(strides), dilation=tuple(dilations), return_indices=True)
    if outputs == 1:
        return out
    places = np.unravel_index(host(index), image.shape[2:])
    places = [np.clip(p - before, 0, m - 1) for p, (before, _), m in zip(places, around, size)]
    samples = np.arange(math.prod(x.shape[:2])).reshape(*x.shape[:2], *[1] * n)
    order = size if not storage_order else size[::-1]
    flat = np.ravel_multi_index(places if not storage_order else places[::-1], order)
    return out, (samples * math.prod(size) + flat).astype(np.int64)


@operator("MaxUnpool", host="indices output_shape")
def max_unpool(x, indices, output_shape=None, *, kernel_shape, pads=None, strides=None):
    n = len(kernel_shape)
    strides, pads = strides or [1] * n, pads or [0] * 2 * n
    size = [
        (m - 1) * s + k - pads[i] - pads[n + i] for i, (m, s, k) in enumerate(zip(x.shape[2:], strides, kernel_shape))
    ]
    small = (*x.shape[:2], *size)
    full = small if output_shape is None else tuple(int(i) for i in output_shape)
    places = np.unravel_index(indices, small)
    return add_at(x, tuple(places), full)


def window_sums(x: Any, kernel: Any, strides: Any, dilations: Any, pads: Pads) -> Any:
    """The sum of each window: a convolution with ones."""
    n, c = x.shape[:2]
    single = ops.reshape(x, (n * c, 1, *x.shape[2:]))
    out = convolved(single, np.ones((1, 1, *kernel), x.dtype), None, strides, pads, dilations, 1)
    return ops.reshape(out, (n, c, *out.shape[2:]))


@operator("AveragePool")
def average_pool(
    x, *, auto_pad="NOTSET", ceil_mode=0, count_include_pad=0, dilations=None, kernel_shape, pads=None, strides=None
):
    n, size = len(kernel_shape), tuple(x.shape[2:])
    strides, dilations = strides or [1] * n, dilations or [1] * n
    around = window_pads(size, kernel_shape, strides, dilations, pads, auto_pad)
    extra = _windows(size, kernel_shape, strides, dilations, around, ceil_mode)[1]
    counted = np.ones((1, 1, *size), x.dtype)
    if count_include_pad:
        counted = np.pad(counted, [(0, 0), (0, 0), *around], constant_values=1)
    count = window_sums(
        counted, kernel_shape, strides, dilations, extra if count_include_pad else _added(around, extra)
    )
    return window_sums(x, kernel_shape, strides, dilations, _added(around, extra)) / count


@operator("LpPool")
def lp_pool(x, *, auto_pad="NOTSET", ceil_mode=0, dilations=None, kernel_shape, p=2, pads=None, strides=None):
    n, size = len(kernel_shape), tuple(x.shape[2:])
    strides, dilations = strides or [1] * n, dilations or [1] * n
    around = window_pads(size, kernel_shape, strides, dilations, pads, auto_pad)
    extra = _windows(size, kernel_shape, strides, dilations, around, ceil_mode)[1]
    return window_sums(ops.abs(x) ** p, kernel_shape, strides, dilations, _added(around, extra)) ** (1 / p)


def _all_pixels(x: Any) -> tuple[int, ...]:
    return tuple(range(2, x.ndim))


@operator("GlobalAveragePool")
def global_average_pool(x):
    return ops.mean(x, axis=_all_pixels(x), keepdims=True)


@operator("GlobalMaxPool")
def global_max_pool(x):
    return ops.amax(x, axis=_all_pixels(x), keepdims=True)


@operator("GlobalLpPool")
def global_lp_pool(x, *, p=2):
    return ops.sum(ops.abs(x) ** p, axis=_all_pixels(x), keepdims=True) ** (1 / p)
