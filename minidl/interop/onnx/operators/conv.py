"""Convolution: strided, dilated, grouped, transposed, deformable; and the layout of windows."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from minidl import ops
from minidl.interop.onnx.operators.shape import padded
from minidl.interop.onnx.registry import operator
from minidl.interop.onnx.values import ints
from minidl.ops.indexing import add_at

Pads = list[tuple[int, int]]


def window_pads(size: Any, kernel: Any, strides: Any, dilations: Any, pads: Any, auto_pad: str) -> Pads:
    """(before, after) per axis for the attributes ``pads`` and ``auto_pad`` of windows over an image of ``size``."""
    n = len(kernel)
    if auto_pad in ("SAME_UPPER", "SAME_LOWER"):
        out = []
        for length, k, s, d in zip(size, kernel, strides, dilations):
            total = max((-(-length // s) - 1) * s + d * (k - 1) + 1 - length, 0)
            less, more = total // 2, total - total // 2
            out.append((less, more) if auto_pad == "SAME_UPPER" else (more, less))
        return out
    if not pads or auto_pad == "VALID":
        return [(0, 0)] * n
    return list(zip(pads[:n], pads[n:]))


def convolved(x: Any, w: Any, b: Any, strides: Any, pads: Pads, dilations: Any, groups: int) -> Any:
    """Convolution in 1, 2 or 3 dimensions with padding that may differ before and after."""
    n = x.ndim - 2
    if not 1 <= n <= 3:
        raise NotImplementedError(f"Conv: images of {n} dimensions")
    if all(before == after for before, after in pads):
        padding = tuple(before for before, _ in pads)
    else:
        x, padding = padded(x, [(0, 0), (0, 0), *pads], "constant", 0.0), (0,) * n
    conv = (ops.conv1d, ops.conv2d, ops.conv3d)[n - 1]
    return conv(x, w, b, stride=tuple(strides), padding=padding, dilation=tuple(dilations), groups=groups)


@operator("Conv")
def conv(x, w, b=None, *, auto_pad="NOTSET", dilations=None, group=1, kernel_shape=None, pads=None, strides=None):
    kernel = tuple(w.shape[2:])
    one = [1] * len(kernel)
    strides, dilations = strides or one, dilations or one
    around = window_pads(x.shape[2:], kernel, strides, dilations, pads, auto_pad)
    return convolved(x, w, b, strides, around, dilations, group)


@operator("ConvTranspose")
def conv_transpose(
    x, w, b=None, *, auto_pad="NOTSET", dilations=None, group=1, kernel_shape=None, output_padding=None,
    output_shape=None, pads=None, strides=None,
):  # fmt: skip
    kernel, n = tuple(w.shape[2:]), x.ndim - 2
    one = [1] * n
    strides, dilations, extra = strides or one, dilations or one, output_padding or [0] * n
    full = [(m - 1) * s + d * (k - 1) + 1 for m, s, d, k in zip(x.shape[2:], strides, dilations, kernel)]
    if output_shape is not None or auto_pad in ("SAME_UPPER", "SAME_LOWER"):
        wanted = output_shape[-n:] if output_shape else [m * s for m, s in zip(x.shape[2:], strides)]
        total = [f + e - m for f, e, m in zip(full, extra, wanted)]
        cut = [(t // 2, t - t // 2) if auto_pad == "SAME_UPPER" else (t - t // 2, t // 2) for t in total]
    else:
        cut = window_pads(x.shape[2:], kernel, strides, dilations, pads, auto_pad)
    whole = (ops.conv_transpose1d, ops.conv_transpose2d, ops.conv_transpose3d)[n - 1]
    out = whole(x, w, None, stride=tuple(strides), dilation=tuple(dilations), groups=group)
    out = padded(
        out, [(0, 0), (0, 0), *((-before, e - after) for (before, after), e in zip(cut, extra))], "constant", 0.0
    )
    return out if b is None else out + ops.reshape(b, (-1, *one))


def bilinear(image: Any, y: Any, x: Any) -> Any:
    """The image (..., H, W) between its pixels, at y and x of any shape; 0 outside."""
    h, w = image.shape[-2:]
    flat = ops.reshape(image, (*image.shape[:-2], h * w))
    total: Any = 0.0
    y0, x0 = ops.floor(y), ops.floor(x)
    for dy in (0, 1):
        for dx in (0, 1):
            row, column = y0 + dy, x0 + dx
            share = (1 - ops.abs(y - row)) * (1 - ops.abs(x - column))
            inside = (row >= 0) & (row < h) & (column >= 0) & (column < w)
            at = ops.clip(row, 0, h - 1) * w + ops.clip(column, 0, w - 1)
            pixel = ops.take(flat, ops.astype(at, dtype=np.int64), axis=-1)
            total = total + pixel * ops.where(inside, share, ops.zeros_like(share))
    return total


@operator("DeformConv")
def deform_conv(
    x, w, offset, b=None, mask=None, *, dilations=None, group=1, kernel_shape=None, offset_group=1, pads=None,
    strides=None,
):  # fmt: skip
    """Deformable convolution (Dai et al. 2017; with ``mask``, Zhu et al. 2019): every tap of the kernel looks at its
    own ``offset``."""
    (n, c, _h, _width), (o, _, kh, kw) = x.shape, w.shape
    strides, dilations, pads = strides or [1, 1], dilations or [1, 1], pads or [0] * 4
    oh, ow = offset.shape[2:]
    offset = ops.reshape(offset, (n, offset_group, kh, kw, 2, oh, ow))
    base_y = (np.arange(oh) * strides[0] - pads[0])[:, None] + np.zeros(ow)
    base_x = (np.arange(ow) * strides[1] - pads[1])[None] + np.zeros((oh, 1))
    tap_y, tap_x = (np.arange(k).reshape(s) * d for k, s, d in zip((kh, kw), ((-1, 1, 1, 1), (1, -1, 1, 1)), dilations))
    y = offset[:, :, :, :, 0] + (base_y + tap_y).astype(x.dtype)
    xs = offset[:, :, :, :, 1] + (base_x + tap_x).astype(x.dtype)
    each = c // offset_group
    columns = ops.stack([
        ops.concat([bilinear(x[i, g * each : (g + 1) * each], y[i, g], xs[i, g]) * (
            1 if mask is None else ops.reshape(mask, (n, offset_group, 1, kh, kw, oh, ow))[i, g]
        ) for g in range(offset_group)], axis=0)
        for i in range(n)
    ])  # fmt: skip
    columns = ops.reshape(columns, (n, group, c // group * kh * kw, oh * ow))
    rows = ops.reshape(w, (group, o // group, c // group * kh * kw))
    out = ops.reshape(ops.matmul(rows, columns), (n, o, oh, ow))
    return out if b is None else out + ops.reshape(b, (-1, 1, 1))


@operator("Col2Im", host="image_shape block_shape")
def col2im(x, image_shape, block_shape, *, dilations=None, pads=None, strides=None):
    """The columns of windows added back into the images that they were taken from."""
    size, kernel = ints(image_shape), ints(block_shape)
    n = len(size)
    strides, dilations = strides or [1] * n, dilations or [1] * n
    around = list(zip(pads[:n], pads[n:])) if pads else [(0, 0)] * n
    full = [m + sum(p) for m, p in zip(size, around)]
    windows = [(f - d * (k - 1) - 1) // s + 1 for f, k, s, d in zip(full, kernel, strides, dilations)]
    channels = x.shape[1] // math.prod(kernel)
    index: list[Any] = [slice(None), slice(None)]
    for axis, (k, o, s, d) in enumerate(zip(kernel, windows, strides, dilations)):
        shape = [1] * (2 * n)
        shape[axis], shape[n + axis] = k, o
        index.append((np.arange(k)[:, None] * d + np.arange(o) * s).reshape(shape))
    columns = ops.reshape(x, (x.shape[0], channels, *kernel, *windows))
    image = add_at(columns, tuple(index), (x.shape[0], channels, *full))
    return image[(..., *(slice(b, f - a) for (b, a), f in zip(around, full)))]


@operator("CausalConvWithState")
def causal_conv_with_state(x, w, b=None, past=None, *, activation="none"):
    """Depthwise convolution over time that looks back only, with the last inputs of what came before (``past``)."""
    k, channels = w.shape[-1], x.shape[1]
    state = ops.zeros_like(x[:, :, :1]) if past is None else past
    if past is None:
        state = ops.expand(state, (x.shape[0], channels, k - 1))
    joined = ops.concat([state, x], axis=2)
    out = ops.conv1d(joined, w, b, groups=channels)
    if activation in ("silu", "swish"):
        out = ops.silu(out)
    return out, joined[:, :, joined.shape[2] - (k - 1) :]
