"""Padding, resizing and rearranging of images and signals: (N, C, *size), channels first."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from minidl.core.errors import describe
from minidl.core.graph import Traced
from minidl.core.registry import namespace
from minidl.ops.indexing import take, take_grad
from minidl.ops.linalg import matmul
from minidl.ops.shape import moveaxis, pad_nd, permute, reshape

_MODES = {"constant": "constant", "reflect": "reflect", "replicate": "edge", "circular": "wrap"}


def pad(x: Any, pad: Sequence[int], mode: str = "constant", value: float | None = None) -> Any:
    """PyTorch's ``F.pad``: ``pad`` has (before, after) of the last axis, then of the one before it, and so on.

    ``mode`` is "constant" (``value``, 0), "reflect", "replicate" or "circular". Constant padding may be negative, which
    crops. Raises ValueError where there is less to reflect or to repeat than is asked for.
    """
    if mode not in _MODES:
        raise ValueError(f"pad: mode must be one of {', '.join(_MODES)}, got {mode!r}")
    pairs = [(int(b), int(a)) for b, a in zip(pad[::2], pad[1::2])]
    if len(pad) % 2 or len(pairs) > x.ndim:
        raise ValueError(f"pad: expected (before, after) of at most {x.ndim} axes, got {tuple(pad)}")
    widths = ((0, 0),) * (x.ndim - len(pairs)) + tuple(pairs[::-1])
    if mode == "constant":
        return pad_nd(x, widths=widths, value=0 if value is None else value)
    if value is not None and value != 0:
        raise ValueError(f"pad: mode {mode!r} takes no value")
    if not len(pairs) <= x.ndim - 1 <= len(pairs) + 1:
        raise ValueError(f"pad: mode {mode!r} pads all axes after the channels, got {describe(x)} and {tuple(pad)}")
    for (before, after), n in zip(widths, x.shape):
        most = {"reflect": n - 1, "circular": n}.get(mode, math.inf)
        if max(before, after) > 0 and (max(before, after) > most or n == 0):
            raise ValueError(f"pad: mode {mode!r} cannot pad {describe(x)} by {tuple(pad)}")
    kept = tuple((max(b, 0), max(a, 0)) for b, a in widths)
    cropped = tuple((min(b, 0), min(a, 0)) for b, a in widths)
    if mode == "circular":  # what is cropped does not come round
        return pad_nd(pad_nd(x, widths=cropped), widths=kept, mode="wrap")
    out = pad_nd(x, widths=kept, mode=_MODES[mode])
    return pad_nd(out, widths=cropped) if cropped != ((0, 0),) * x.ndim else out


def pixel_shuffle(x: Any, upscale_factor: int) -> Any:
    """(..., C r^2, H, W) to (..., C, H r, W r). Shi et al., "Real-time single image super-resolution", 2016."""
    r = upscale_factor
    if x.ndim < 3 or r < 1 or x.shape[-3] % (r * r):
        raise ValueError(f"pixel_shuffle: expected channels that {r} squared divides, got {describe(x)}")
    *lead, c, h, w = x.shape
    k = len(lead)
    x = reshape(x, shape=(*lead, c // (r * r), r, r, h, w))
    x = permute(x, axes=(*range(k), k, k + 3, k + 1, k + 4, k + 2))
    return reshape(x, shape=(*lead, c // (r * r), h * r, w * r))


def pixel_unshuffle(x: Any, downscale_factor: int) -> Any:
    """(..., C, H r, W r) to (..., C r^2, H, W): the inverse of :func:`pixel_shuffle`."""
    r = downscale_factor
    if x.ndim < 3 or r < 1 or x.shape[-1] % r or x.shape[-2] % r:
        raise ValueError(f"pixel_unshuffle: expected height and width that {r} divides, got {describe(x)}")
    *lead, c, h, w = x.shape
    k = len(lead)
    x = reshape(x, shape=(*lead, c, h // r, r, w // r, r))
    x = permute(x, axes=(*range(k), k, k + 2, k + 4, k + 1, k + 3))
    return reshape(x, shape=(*lead, c * r * r, h // r, w // r))


def channel_shuffle(x: Any, groups: int) -> Any:
    """(N, C, ...) with the channels of ``groups`` groups dealt out in turn. Zhang et al., "ShuffleNet", 2018."""
    if x.ndim < 3 or groups < 1 or x.shape[1] % groups:
        raise ValueError(f"channel_shuffle: expected channels that {groups} divides, got {describe(x)}")
    n, c, *size = x.shape
    x = reshape(x, shape=(n, groups, c // groups, *size))
    return reshape(permute(x, axes=(0, 2, 1, *range(3, x.ndim))), shape=(n, c, *size))


def _pair(value: Any) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else tuple(value)


def _patches(size: Any, kernel: Any, dilation: Any, padding: Any, stride: Any) -> tuple[np.ndarray, list[int]]:
    """Where in the flattened, padded image each element (kernel position, patch) is; and that image's size."""
    padded = [n + 2 * p for n, p in zip(size, padding)]
    steps = []
    for n, k, d, s in zip(padded, kernel, dilation, stride):
        count = (n - d * (k - 1) - 1) // s + 1
        if count < 1:
            raise ValueError(f"unfold: a kernel of {tuple(kernel)} does not fit into an image of {tuple(size)}")
        steps.append(np.arange(k)[:, None] * d + np.arange(count)[None, :] * s)
    rows, columns = steps
    flat = rows[:, None, :, None] * padded[1] + columns[None, :, None, :]
    return flat.reshape(rows.shape[0] * columns.shape[0], -1), padded


def unfold(x: Any, kernel_size: Any, dilation: Any = 1, padding: Any = 0, stride: Any = 1) -> Any:
    """The patches under a sliding kernel as columns ("im2col"): (N, C, H, W) to (N, C * kernel elements, patches)."""
    if x.ndim not in (3, 4):
        raise ValueError(f"unfold: expected (N, C, H, W) or (C, H, W), got {describe(x)}")
    kernel, dilation, padding, stride = map(_pair, (kernel_size, dilation, padding, stride))
    index, padded = _patches(x.shape[-2:], kernel, dilation, padding, stride)
    (top, left), lead = padding, tuple(x.shape[:-2])
    x = pad_nd(x, widths=(*((0, 0),) * len(lead), (top, top), (left, left)))
    columns = take(reshape(x, shape=(*lead, math.prod(padded))), index.reshape(-1), axis=-1)
    return reshape(columns, shape=(*lead[:-1], lead[-1] * index.shape[0], index.shape[1]))


def fold(x: Any, output_size: Any, kernel_size: Any, dilation: Any = 1, padding: Any = 0, stride: Any = 1) -> Any:
    """The transpose of :func:`unfold`: patches (N, C * kernel elements, patches) added up to (N, C, H, W)."""
    kernel, dilation, padding, stride = map(_pair, (kernel_size, dilation, padding, stride))
    size = _pair(output_size)
    index, padded = _patches(size, kernel, dilation, padding, stride)
    if x.ndim not in (2, 3) or x.shape[-2] % index.shape[0] or x.shape[-1] != index.shape[1]:
        raise ValueError(f"fold: expected (N, C * {index.shape[0]}, {index.shape[1]}), got {describe(x)}")
    lead = (*x.shape[:-2], x.shape[-2] // index.shape[0])
    flat = reshape(x, shape=(*lead, index.size))
    image = take_grad(flat, index.reshape(-1), axis=len(lead), size=math.prod(padded))
    image = reshape(image, shape=(*lead, *padded))
    (top, left), zero = padding, ((0, 0),) * len(lead)
    return pad_nd(image, widths=(*zero, (-top, -top), (-left, -left))) if top or left else image


# Resizing: along each axis a linear map, whose matrix depends on the sizes alone


def _cubic(t: np.ndarray, a: float) -> np.ndarray:
    """Keys' cubic kernel, 1981."""
    t = np.abs(t)
    near = ((a + 2) * t - (a + 3)) * t * t + 1
    far = ((t - 5) * t + 8) * t * a - 4 * a
    return np.where(t <= 1, near, np.where(t < 2, far, 0.0))


def _weights(n: int, m: int, scale: float, mode: str, align_corners: bool, antialias: bool) -> np.ndarray:
    """float64[m, n]: what each of ``n`` elements gives to each of the ``m`` new ones; ``scale`` is old per new size."""
    if align_corners:
        scale = (n - 1) / (m - 1) if m > 1 else 0.0
        center = np.arange(m) * scale
    else:
        center = (np.arange(m) + 0.5) * scale - 0.5
    if antialias:
        wide = max(scale, 1.0)
        offset = (np.arange(n)[None, :] - center[:, None]) / wide
        table = np.maximum(1 - np.abs(offset), 0) if mode == "linear" else _cubic(offset, -0.5)
        return table / table.sum(axis=1, keepdims=True)
    table = np.zeros((m, n))
    if mode == "linear":
        center = center if align_corners else np.maximum(center, 0)
        first = np.minimum(np.floor(center).astype(int), n - 1)
        part = center - first
        taps = [(0, 1 - part), (1, part)]
    else:
        first = np.floor(center).astype(int)
        part = center - first
        taps = [(i, _cubic(part - i, -0.75)) for i in (-1, 0, 1, 2)]
    for i, weight in taps:
        np.add.at(table, (np.arange(m), np.clip(first + i, 0, n - 1)), weight)
    return table


def _along(x: Any, table: np.ndarray, axis: int) -> Any:
    table = np.ascontiguousarray(table.T).astype(x.dtype)
    table = namespace(x.array if isinstance(x, Traced) else x).asarray(table)
    return moveaxis(matmul(moveaxis(x, axis, -1), table), -1, axis)


def interpolate(
    x: Any, size: Any = None, scale_factor: Any = None, mode: str = "nearest", align_corners: bool | None = None,
    recompute_scale_factor: bool | None = None, antialias: bool = False,
) -> Any:  # fmt: skip
    """(N, C, *old) resized to (N, C, *size), or by ``scale_factor``.

    ``mode`` is "nearest", "nearest-exact", "linear", "bilinear", "trilinear", "bicubic" (the last axes' number must
    fit) or "area". ``align_corners`` lets the outermost elements keep their places; ``antialias`` widens the kernel
    where the result is smaller. Raises ValueError for options that do not go together.
    """
    spatial = x.ndim - 2
    if spatial not in (1, 2, 3):
        raise ValueError(f"interpolate: expected 1 to 3 axes after (N, C), got {describe(x)}")
    if (size is None) == (scale_factor is None):
        raise ValueError("interpolate: give either size or scale_factor")
    several = lambda v: tuple(v) if isinstance(v, (tuple, list)) else (v,) * spatial
    old = x.shape[2:]
    if size is not None:
        new, ratios = tuple(int(n) for n in several(size)), None
    else:
        ratios = several(scale_factor)
        new = tuple(math.floor(n * f) for n, f in zip(old, ratios))
        ratios = None if recompute_scale_factor else ratios
    if len(new) != spatial or min(new) < 1 or min(old) < 1:
        raise ValueError(f"interpolate: cannot resize {describe(x)} to {new}")
    needs = {"linear": 1, "bilinear": 2, "bicubic": 2, "trilinear": 3}
    if mode not in ("nearest", "nearest-exact", "area") and needs.get(mode) != spatial:
        raise ValueError(f"interpolate: mode {mode!r} does not fit {describe(x)}")
    if align_corners is not None and mode not in needs:
        raise ValueError(f"interpolate: align_corners makes no sense in mode {mode!r}")
    if antialias and mode not in ("bilinear", "bicubic"):
        raise ValueError(f"interpolate: antialias is for modes 'bilinear' and 'bicubic', got {mode!r}")
    if mode == "area":
        from minidl.ops import pooling

        return getattr(pooling, f"adaptive_avg_pool{spatial}d")(x, new)
    scales = [n / m if ratios is None else 1 / f for n, m, f in zip(old, new, ratios or new)]
    for axis, (n, m, scale) in enumerate(zip(old, new, scales), 2):
        if mode.startswith("nearest"):
            shift = 0.5 if mode == "nearest-exact" else 0.0
            position = np.floor((np.arange(m) + shift) * np.float32(scale)).astype(np.int64)
            x = take(x, np.minimum(position, n - 1), axis=axis)
        elif n != m or scale != 1:
            kind = "cubic" if mode == "bicubic" else "linear"
            x = _along(x, _weights(n, m, scale, kind, bool(align_corners), antialias), axis)
    return x
