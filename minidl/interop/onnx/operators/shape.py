"""Shapes: reshaping, joining, cutting, padding, and tensors made from shapes."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from minidl import ops
from minidl.interop.onnx.registry import operator
from minidl.interop.onnx.values import dtype_of, host, ints, is_tensor_dtype


def plain(x: Any) -> bool:
    """Has ``x`` a dtype with which only NumPy works?"""
    return not is_tensor_dtype(x.dtype)


@operator("Shape")
def shape(x, *, start=0, end=None):
    return np.array(x.shape[start:end], np.int64)


@operator("Size")
def size(x):
    return np.array(math.prod(x.shape), np.int64)


@operator("Reshape", since=5, host="shape")
def reshape(x, shape, *, allowzero=0):
    """0 keeps an axis as it is (unless ``allowzero``), -1 is what remains."""
    wanted = ints(shape)
    if not allowzero:
        wanted = [x.shape[i] if n == 0 else n for i, n in enumerate(wanted)]
    return host(x).reshape(wanted) if plain(x) else ops.reshape(x, tuple(wanted))


@operator("Flatten")
def flatten(x, *, axis=1):
    axis = axis + x.ndim if axis < 0 else axis
    return ops.reshape(x, (math.prod(x.shape[:axis]), math.prod(x.shape[axis:])))


@operator("Transpose")
def transpose(x, *, perm=None):
    return host(x).transpose(perm) if plain(x) else ops.transpose(x, tuple(perm or reversed(range(x.ndim))))


def _squeezed(x, axes):
    axes = [i for i, n in enumerate(x.shape) if n == 1] if axes is None else [a % x.ndim for a in axes]
    if bad := [a for a in axes if x.shape[a] != 1]:
        raise ValueError(f"Squeeze: the axes {bad} of {tuple(x.shape)} are not of length 1")
    return reshape(x, [n for i, n in enumerate(x.shape) if i not in axes], allowzero=1)


def _unsqueezed(x, axes):
    rank = x.ndim + len(axes)
    axes = {a % rank for a in axes}
    rest = iter(x.shape)
    return reshape(x, [1 if i in axes else next(rest) for i in range(rank)], allowzero=1)


@operator("Squeeze")
def squeeze_1(x, *, axes=None):
    return _squeezed(x, axes)


@operator("Squeeze", since=13, host="axes")
def squeeze(x, axes=None):
    return _squeezed(x, None if axes is None else ints(axes))


@operator("Unsqueeze")
def unsqueeze_1(x, *, axes):
    return _unsqueezed(x, axes)


@operator("Unsqueeze", since=13, host="axes")
def unsqueeze(x, axes):
    return _unsqueezed(x, ints(axes))


@operator("Concat")
def concat(*xs, axis=1):
    return np.concatenate([host(x) for x in xs], axis) if plain(xs[0]) else ops.concat(xs, axis=axis)


def _split(x, sizes, axis):
    ends = np.cumsum(sizes)
    return tuple(ops.narrow(x, axis, int(e - n), int(n)) for e, n in zip(ends, sizes))


@operator("Split")
def split_1(x, *, axis=0, split=None, outputs):
    return _split(x, split or [x.shape[axis] // outputs] * outputs, axis)


@operator("Split", since=13, host="split")
def split(x, split=None, *, axis=0, num_outputs=None, outputs):
    """Without sizes, equal parts, of which the last may be smaller."""
    if split is not None:
        return _split(x, ints(split), axis)
    n, each = x.shape[axis], -(-x.shape[axis] // outputs)
    return _split(x, [max(min(each, n - i * each), 0) for i in range(outputs)], axis)


@operator("Expand", host="shape")
def expand(x, shape):
    full = np.broadcast_shapes(tuple(x.shape), tuple(ints(shape)))
    return np.broadcast_to(host(x), full) if plain(x) else ops.expand(x, full)


@operator("Tile", host="repeats", since=6)
def tile(x, repeats):
    return ops.tile(x, tuple(ints(repeats)))


@operator("ConstantOfShape", host="shape")
def constant_of_shape(shape, *, value=None):
    value = np.zeros(1, np.float32) if value is None else value
    return np.full(tuple(ints(shape)), value.reshape(-1)[0], value.dtype)


@operator("Range", host="start limit delta")
def range_(start, limit, delta):
    count = max(math.ceil((limit.item() - start.item()) / delta.item()), 0)
    return (start + np.arange(count) * delta).astype(start.dtype)


@operator("EyeLike")
def eye_like(x, *, dtype=None, k=0):
    return np.eye(*x.shape, k=k, dtype=x.dtype if dtype is None else dtype_of(dtype))


@operator("Trilu", host="k")
def trilu(x, k=None, *, upper=1):
    offset = 0 if k is None else ints(k)[0]
    keep = np.tri(*x.shape[-2:], offset - 1 if upper else offset, dtype=bool)
    return ops.where(~keep if upper else keep, x, ops.zeros_like(x))


@operator("DepthToSpace")
def depth_to_space(x, *, blocksize, mode="DCR"):
    n, c, h, w = x.shape
    b, c = blocksize, c // blocksize**2
    parts, order = (
        ((n, b, b, c, h, w), (0, 3, 4, 1, 5, 2)) if mode == "DCR" else ((n, c, b, b, h, w), (0, 1, 4, 2, 5, 3))
    )
    return ops.reshape(ops.transpose(ops.reshape(x, parts), order), (n, c, h * b, w * b))


@operator("SpaceToDepth")
def space_to_depth(x, *, blocksize, mode="DCR"):
    n, c, h, w = x.shape
    b = blocksize
    parts = ops.reshape(x, (n, c, h // b, b, w // b, b))
    order = (0, 3, 5, 1, 2, 4) if mode == "DCR" else (0, 1, 3, 5, 2, 4)
    return ops.reshape(ops.transpose(parts, order), (n, c * b * b, h // b, w // b))


# Padding


def padded(x: Any, widths: list[tuple[int, int]], mode: str, value: Any) -> Any:
    """``x`` with places before and after it along each axis; negative widths cut."""
    cut = tuple(slice(max(-b, 0), n - max(-a, 0)) for n, (b, a) in zip(x.shape, widths))
    grow = tuple((max(b, 0), max(a, 0)) for b, a in widths)
    if plain(x):
        return np.pad(host(x)[cut], grow, **({"constant_values": value} if mode == "constant" else {"mode": mode}))
    return ops.pad_nd(x[cut], widths=grow, mode=mode, value=value)


def _pairs(pads: list[int], axes: list[int], rank: int) -> list[tuple[int, int]]:
    widths = [(0, 0)] * rank
    for i, axis in enumerate(axes):
        widths[axis] = (pads[i], pads[i + len(axes)])
    return widths


@operator("Pad", since=2)
def pad_2(x, *, pads, mode="constant", value=0.0):
    return padded(x, _pairs(pads, list(range(x.ndim)), x.ndim), mode, value)


@operator("Pad", since=11, host="pads constant_value axes")
def pad(x, pads, constant_value=None, axes=None, *, mode="constant"):
    where = list(range(x.ndim)) if axes is None else ints(axes)
    value = 0 if constant_value is None or not constant_value.size else constant_value.item()
    return padded(x, _pairs(ints(pads), where, x.ndim), mode, value)


@operator("CenterCropPad", host="shape")
def center_crop_pad(x, shape, *, axes=None):
    widths = [(0, 0)] * x.ndim
    for axis, wanted in zip(range(x.ndim) if axes is None else axes, ints(shape)):
        more = wanted - x.shape[axis]
        before = more // 2 if more > 0 else -(-more // 2)
        widths[axis] = (before, more - before)
    return padded(x, widths, "constant", 0)
