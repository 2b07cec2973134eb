"""Resizing and sampling of images: each axis is a product with a matrix of weights."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from minidl import ops
from minidl.interop.onnx.registry import operator


def _positions(n: int, out: int, scale: float, mode: str, roi: tuple[float, float]) -> np.ndarray:
    """Where each of ``out`` places lies among ``n`` pixels."""
    x, length = np.arange(out, dtype=np.float64), scale * n
    if mode == "asymmetric":
        return x / scale
    if mode == "align_corners":
        return np.zeros(out) if length == 1 else x * (n - 1) / (length - 1)
    if mode == "tf_crop_and_resize":
        first, last = roi
        if length == 1:
            return np.full(out, (last - first) * (n - 1) / 2 + first * (n - 1))
        return x * (last - first) * (n - 1) / (length - 1) + first * (n - 1)
    if mode == "pytorch_half_pixel" and length == 1:
        return np.full(out, -0.5)
    if mode == "tf_half_pixel_for_nn":
        return (x + 0.5) / scale
    at = (x + 0.5) / scale - 0.5
    if mode == "half_pixel_symmetric":
        at += n / 2 * (1 - out / length)
    elif mode not in ("half_pixel", "pytorch_half_pixel"):
        raise NotImplementedError(f"Resize: coordinate_transformation_mode {mode!r}")
    return at


def _cubic(a: float) -> Callable[[np.ndarray], np.ndarray]:
    """Keys' kernel (1981), which is 0 beyond 2."""

    def weight(x: np.ndarray) -> np.ndarray:
        x = np.abs(x)
        near = (a + 2) * x**3 - (a + 3) * x**2 + 1
        far = a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a
        return np.where(x <= 1, near, np.where(x < 2, far, 0.0))

    return weight


def _triangle(x: np.ndarray) -> np.ndarray:
    return np.maximum(1 - np.abs(x), 0.0)


def _matrix(
    at: np.ndarray, n: int, kernel: Callable, reach: int, scale: float, antialias: int, exclude: int
) -> np.ndarray:
    """(out, n): the share of each pixel in each place. Pixels beyond the border count as the last one before it."""
    shrink = min(scale, 1.0) if antialias else 1.0
    wide = math.ceil(reach / shrink)
    pixel = np.floor(at).astype(int)[:, None] + np.arange(-wide + 1, wide + 1)
    share = kernel((pixel - at[:, None]) * shrink)
    if exclude:
        share = np.where((pixel >= 0) & (pixel < n), share, 0.0)
    share = share / share.sum(axis=1, keepdims=True)
    out = np.zeros((len(at), n))
    np.add.at(out, (np.arange(len(at))[:, None], np.clip(pixel, 0, n - 1)), share)
    return out


def _nearest(at: np.ndarray, n: int, mode: str) -> np.ndarray:
    below, half = np.floor(at), at - np.floor(at) == 0.5
    if mode == "floor":
        which = below
    elif mode == "ceil":
        which = np.ceil(at)
    elif mode == "round_prefer_ceil":
        which = np.where(half, below + 1, np.rint(at))
    else:
        which = np.where(half, below, np.rint(at))
    return np.clip(which, 0, n - 1).astype(np.int64)


def _along(x: Any, matrix: np.ndarray, axis: int) -> Any:
    moved = ops.matmul(ops.moveaxis(x, axis, -1), np.ascontiguousarray(matrix.T).astype(x.dtype))
    return ops.moveaxis(moved, -1, axis)


@operator("Resize", since=10, host="scales")
def resize_10(x, scales, *, mode="nearest"):
    return _resized(x, scales, None, None, mode=mode, coordinates="asymmetric", nearest="floor")


@operator("Upsample", since=9, host="scales")
def upsample(x, scales, *, mode="nearest"):
    return resize_10(x, scales, mode=mode)


@operator("Upsample", since=7)
def upsample_7(x, *, scales, mode="nearest"):
    return resize_10(x, np.array(scales), mode=mode)


@operator("Resize", since=11, host="roi scales sizes")
def resize(
    x, roi=None, scales=None, sizes=None, *, antialias=0, axes=None, coordinate_transformation_mode="half_pixel",
    cubic_coeff_a=-0.75, exclude_outside=0, extrapolation_value=0.0, keep_aspect_ratio_policy="stretch",
    mode="nearest", nearest_mode="round_prefer_floor",
):  # fmt: skip
    axes = [a % x.ndim for a in axes] if axes else list(range(x.ndim))
    full_scales, full_sizes = [1.0] * x.ndim, list(x.shape)
    if sizes is not None and sizes.size:
        wanted = [int(n) for n in sizes]
        if keep_aspect_ratio_policy != "stretch":
            ratios = [n / x.shape[a] for a, n in zip(axes, wanted)]
            ratio = min(ratios) if keep_aspect_ratio_policy == "not_larger" else max(ratios)
            wanted = [math.floor(ratio * x.shape[a] + 0.5) for a in axes]
            for a in axes:
                full_scales[a] = ratio
        else:
            for a, n in zip(axes, wanted):
                full_scales[a] = n / x.shape[a]
        for a, n in zip(axes, wanted):
            full_sizes[a] = n
    else:
        for a, s in zip(axes, scales):
            full_scales[a] = float(s)
            full_sizes[a] = math.floor(float(s) * x.shape[a])
    region = np.array([0.0] * x.ndim + [1.0] * x.ndim)
    if roi is not None and roi.size:
        for i, a in enumerate(axes):
            region[a], region[x.ndim + a] = roi[i], roi[len(axes) + i]
    return _resized(
        x, full_scales, full_sizes, region, mode=mode, coordinates=coordinate_transformation_mode, nearest=nearest_mode,
        antialias=antialias, a=cubic_coeff_a, exclude=exclude_outside, extrapolation=extrapolation_value,
    )  # fmt: skip


def _resized(
    x, scales, sizes, roi, *, mode, coordinates, nearest, antialias=0, a=-0.75, exclude=0, extrapolation=0.0
):  # fmt: skip
    sizes = [math.floor(float(s) * n) for s, n in zip(scales, x.shape)] if sizes is None else sizes
    kernel, reach = (_cubic(a), 2) if mode == "cubic" else (_triangle, 1)
    outside = np.zeros(tuple(sizes), bool)
    for axis, (n, out, scale) in enumerate(zip(tuple(x.shape), sizes, scales)):
        region = (0.0, 1.0) if roi is None else (float(roi[axis]), float(roi[len(sizes) + axis]))
        if n == out and float(scale) == 1 and region == (0.0, 1.0):
            continue
        at = _positions(n, out, float(scale), coordinates, region)
        if coordinates == "tf_crop_and_resize":
            beyond = (at < 0) | (at > n - 1)
            outside |= beyond.reshape([-1 if i == axis else 1 for i in range(x.ndim)])
        if mode == "nearest":
            x = ops.take(x, _nearest(at, n, nearest), axis=axis)
        else:
            x = _along(x, _matrix(at, n, kernel, reach, float(scale), antialias, exclude), axis)
    return ops.astype(ops.where(outside, extrapolation, x), dtype=x.dtype) if outside.any() else x


# Sampling at given places


def _reflected(x: Any, low: float, high: float) -> Any:
    """Mirrored at ``low`` and ``high`` until it lies between them."""
    span = high - low
    if span == 0:
        return ops.zeros_like(x) + low
    distance = ops.abs(x - low)
    turns = ops.floor(distance / span)
    rest = distance - turns * span
    return ops.where(turns - 2 * ops.floor(turns / 2) == 0, low + rest, high - rest)


@operator("GridSample", since=16)
def grid_sample(x, grid, *, align_corners=0, mode="linear", padding_mode="zeros"):
    """The image at the places of ``grid`` (N, *out, d), -1 to 1 from border to border (Jaderberg et al. 2015)."""
    size, dims = tuple(x.shape[2:]), x.ndim - 2
    mode = {"bilinear": "linear", "bicubic": "cubic"}.get(mode, mode)
    places = []
    for i, n in enumerate(size):
        g = grid[..., dims - 1 - i]
        at = (g + 1) / 2 * (n - 1) if align_corners else ((g + 1) * n - 1) / 2
        at = ops.round(at) if mode == "nearest" else at
        if mode != "cubic":
            at = _inside(at, n, padding_mode, align_corners)
        places.append(at)
    samples = [_sampled(x[i], [p[i] for p in places], mode, padding_mode, align_corners) for i in range(x.shape[0])]
    return ops.stack(samples)


def _inside(at: Any, n: int, padding_mode: str, align_corners: int) -> Any:
    if padding_mode == "border":
        return ops.clip(at, 0.0, n - 1.0)
    if padding_mode == "reflection":
        return ops.clip(
            _reflected(at, 0.0 if align_corners else -0.5, n - 1.0 if align_corners else n - 0.5), 0.0, n - 1.0
        )
    return at


def _sampled(image: Any, places: list, mode: str, padding_mode: str, align_corners: int) -> Any:
    """The image (C, *size) at places (one array per axis): a sum over the neighbours of each place."""
    size = tuple(image.shape[1:])
    flat = ops.reshape(image, (image.shape[0], math.prod(size)))
    reach = {"nearest": [0], "linear": [0, 1], "cubic": [-1, 0, 1, 2]}[mode]
    cubic = _cubic_share
    total: Any = 0.0
    for taps in np.ndindex(*[len(reach)] * len(size)):
        share: Any = 1.0
        number: Any = 0
        for at, tap, n in zip(places, taps, size):
            base = ops.floor(at)
            pixel = base + reach[tap]
            if mode == "linear":
                share = share * (1 - ops.abs(at - pixel))
            elif mode == "cubic":
                share = share * cubic(at - base, reach[tap])
            if mode == "cubic":
                pixel = _inside(pixel, n, padding_mode, align_corners)
            seen = (pixel >= 0) & (pixel <= n - 1)
            share = ops.where(seen, share, 0.0)
            number = number * n + ops.clip(pixel, 0, n - 1)
        value = ops.take(flat, ops.astype(number, dtype=np.int64), axis=1)
        total = total + value * ops.astype(share, dtype=image.dtype)
    return total


def _cubic_share(t: Any, tap: int, a: float = -0.75) -> Any:
    """Keys' kernel at distance |tap - t|, for t in [0, 1)."""
    d = (t - tap) if tap <= 0 else (tap - t)
    if tap in (0, 1):
        return ((a + 2) * d - (a + 3)) * d * d + 1
    return ((a * d - 5 * a) * d + 8 * a) * d - 4 * a
