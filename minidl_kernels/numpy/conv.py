"""Convolution by im2col, a few samples at a time, whose columns are made and used while they are in the cache.

Chellapilla, Puri and Simard, "High performance convolutional neural networks for document processing", 2006.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from minidl import ops
from minidl.backend import kernel
from minidl.ops.conv import output_size

_pad = ops.pad_nd.reference

# The columns of a few samples at a time are made and used while they are still in the processor's (L2) cache.
_CACHE_BYTES = 2 << 20


def _batches(x: Any, weight: Any, out_size: tuple[int, ...], groups: int) -> Iterator[slice]:
    """Slices of the batch whose columns fit into the cache, or are as large as the weights that they meet there."""
    n = x.shape[0]
    a_sample = groups * math.prod(weight.shape[1:]) * math.prod(out_size) * x.itemsize
    step = max(1, max(_CACHE_BYTES, weight.nbytes) // max(a_sample, 1))
    return (slice(i, min(i + step, n)) for i in range(0, n, step))


def _zero_pad(x: Any, padding: tuple[int, ...]) -> Any:
    """``x`` with ``padding`` zeros on both sides of every spatial axis; negative padding cuts off."""
    if not any(padding):
        return x
    return _pad(x, widths=((0, 0), (0, 0), *((p, p) for p in padding)))


def _windows(
    kernel: tuple[int, ...], stride: tuple[int, ...], dilation: tuple[int, ...], out_size: tuple[int, ...]
) -> Iterator[tuple]:
    """For every kernel offset, the index of the (padded) pixels that it meets as the kernel moves: strided slices."""
    for offset in itertools.product(*map(range, kernel)):
        yield (
            slice(None),
            slice(None),
            *(slice(k * d, k * d + (n - 1) * s + 1, s) for k, s, d, n in zip(offset, stride, dilation, out_size)),
        )


def _im2col(x: Any, kernel: tuple, stride: tuple, dilation: tuple, out_size: tuple, groups: int) -> Any:
    """Columns of the padded ``x``: entry [c, k, n, p] is x[n, c, p * stride + k * dilation].

    The shape is (groups, channels per group * kernel size, batch * positions).
    """
    n, c = x.shape[:2]
    by = x.strides[2:]
    cols = np.lib.stride_tricks.as_strided(
        x,
        (c, *kernel, n, *out_size),
        (x.strides[1], *(b * d for b, d in zip(by, dilation)), x.strides[0], *(b * s for b, s in zip(by, stride))),
    )
    return cols.reshape(groups, c // groups * math.prod(kernel), n * math.prod(out_size))


def _col2im(cols: Any, shape: tuple, kernel: tuple, stride: tuple, dilation: tuple, out_size: tuple) -> Any:
    """The transpose of im2col: add every column entry to the pixel of the padded image that it was taken from."""
    image = np.zeros(shape, cols.dtype)
    cols = cols.reshape(shape[1], math.prod(kernel), shape[0], *out_size).swapaxes(0, 2)  # (n, k, c, positions)
    for k, window in enumerate(_windows(kernel, stride, dilation, out_size)):
        image[window] += cols[:, k]
    return image


def _rows(g: Any, groups: int) -> Any:
    """(N, O, *positions) as (groups, O / groups, N * positions), the layout that fits the columns."""
    return g.swapaxes(0, 1).reshape(groups, g.shape[1] // groups, g.shape[0] * math.prod(g.shape[2:]))


def convolve(x, weight, bias=None, *, stride, padding, dilation, groups):
    kernel = weight.shape[2:]
    out_size = output_size(x.shape[2:], kernel, stride, padding, dilation)
    x = _zero_pad(x, padding)
    w = weight.reshape(groups, weight.shape[0] // groups, math.prod(weight.shape[1:]))
    out = np.empty((x.shape[0], weight.shape[0], *out_size), x.dtype)
    for some in _batches(x, weight, out_size, groups):
        y = w @ _im2col(x[some], kernel, stride, dilation, out_size, groups)
        y = y.reshape(weight.shape[0], some.stop - some.start, *out_size).swapaxes(0, 1)
        if bias is not None:
            y += bias.reshape(-1, *(1,) * len(kernel))
        out[some] = y
    return out


def input_grad(dout, weight, *, input_size, stride, padding, dilation, groups):
    kernel, out_size = weight.shape[2:], dout.shape[2:]
    channels = weight.shape[1] * groups
    if groups == 1 and set(stride) == {1} and weight.shape[0] <= channels:
        # Where kernel position k was added from p to p + k, the gradient comes back from there: a convolution with the
        # flipped kernel. Gathering is faster than col2im's adding, unless there are many more columns to make.
        flipped = weight.swapaxes(0, 1)[(..., *(slice(None, None, -1),) * len(kernel))]
        around = tuple(d * (k - 1) - p for d, k, p in zip(dilation, kernel, padding))
        return convolve(dout, flipped, stride=stride, padding=around, dilation=dilation, groups=1)
    padded = tuple(n + 2 * p for n, p in zip(input_size, padding))
    inside = (slice(None), slice(None), *(slice(p, p + n) for n, p in zip(input_size, padding)))
    w = weight.reshape(groups, weight.shape[0] // groups, math.prod(weight.shape[1:])).swapaxes(1, 2)
    out = np.empty((dout.shape[0], channels, *input_size), dout.dtype)
    for some in _batches(dout, weight, out_size, groups):
        cols = w @ _rows(dout[some], groups)
        image = _col2im(cols, (some.stop - some.start, channels, *padded), kernel, stride, dilation, out_size)
        out[some] = image[inside]
    return out


def weight_grad(dout, x, *, kernel_size, stride, padding, dilation, groups):
    out_size = dout.shape[2:]
    x = _zero_pad(x, padding)
    shape = (dout.shape[1], x.shape[1] // groups, *kernel_size)
    total = np.zeros((groups, shape[0] // groups, math.prod(shape[1:])), dout.dtype)
    for some in _batches(x, total.reshape(shape), out_size, groups):
        cols = _im2col(x[some], kernel_size, stride, dilation, out_size, groups)
        total += _rows(dout[some], groups) @ cols.swapaxes(1, 2)
    return total.reshape(shape)


# the gradient of a convolution gathers where the formula adds, and then meets zeros around the image
_SPREADS = {"nonfinite": "may spread"}
for _n in (1, 2, 3):
    kernel(f"conv{_n}d", backend="numpy", note="im2col in the cache")(convolve)
    kernel(f"conv{_n}d_input_grad", backend="numpy", note="im2col in the cache", tolerance=_SPREADS)(input_grad)
    kernel(f"conv{_n}d_weight_grad", backend="numpy", note="im2col in the cache")(weight_grad)
