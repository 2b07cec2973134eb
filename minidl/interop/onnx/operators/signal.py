"""Fourier transforms, as products with the matrix of sines and cosines, and filter banks."""

from __future__ import annotations

from typing import Any

import numpy as np

from minidl import ops
from minidl.interop.onnx.registry import operator
from minidl.interop.onnx.values import dtype_of, ints


def _waves(n: int, frequencies: int, inverse: bool, dtype: Any) -> tuple[np.ndarray, np.ndarray]:
    """cos and sin of 2 pi f t / n: (time, frequency)."""
    angle = 2 * np.pi * (np.arange(n)[:, None] * np.arange(frequencies) % n) / n
    return np.cos(angle).astype(dtype), (np.sin(angle) * (1 if inverse else -1)).astype(dtype)


def _transformed(x: Any, axis: int, length: int | None, inverse: int, onesided: int) -> Any:
    """The transform of x (..., 1 or 2 at the end) along ``axis``; the last axis holds real and imaginary parts."""
    n = length or x.shape[axis]
    if inverse and onesided:
        return _from_half(x, axis, n if length else 2 * (x.shape[axis] - 1))
    have = x.shape[axis]
    if have < n:
        x = ops.pad_nd(
            x, widths=tuple((0, n - have if a == axis else 0) for a in range(x.ndim)), mode="constant", value=0
        )
    x = ops.moveaxis(ops.narrow(x, axis, 0, n), axis, -2)
    cos, sin = _waves(n, n // 2 + 1 if onesided else n, bool(inverse), x.dtype)
    real = ops.matmul(ops.swapaxes(x, -1, -2), cos)
    imaginary = ops.matmul(ops.swapaxes(x, -1, -2), sin)
    if x.shape[-1] == 1:
        out = ops.stack([real[..., 0, :], imaginary[..., 0, :]], axis=-1)
    else:
        out = ops.stack([real[..., 0, :] - imaginary[..., 1, :], imaginary[..., 0, :] + real[..., 1, :]], axis=-1)
    out = out / n if inverse else out
    return ops.moveaxis(out, -2, axis)


def _from_half(x: Any, axis: int, n: int) -> Any:
    """The real signal whose transform's first half is ``x``: the other half is its mirror image, conjugated."""
    x = ops.moveaxis(ops.narrow(x, axis, 0, min(x.shape[axis], n // 2 + 1)), axis, -2)
    count = x.shape[-2]
    weight = np.where((np.arange(count) == 0) | (2 * np.arange(count) == n), 1.0, 2.0)
    cos, sin = _waves(n, count, True, x.dtype)
    cos, sin = (cos * weight).astype(x.dtype), (sin * weight).astype(x.dtype)
    out = (ops.matmul(x[..., 0], cos.T) - ops.matmul(x[..., 1], sin.T)) / n
    return ops.moveaxis(ops.expand_dims(out, -1), -2, axis)


@operator("DFT", since=17, host="dft_length")
def dft_17(x, dft_length=None, *, axis=1, inverse=0, onesided=0):
    return _transformed(x, axis % x.ndim, None if dft_length is None else ints(dft_length)[0], inverse, onesided)


@operator("DFT", since=20, host="dft_length axis")
def dft(x, dft_length=None, axis=None, *, inverse=0, onesided=0):
    at = (-2 if axis is None else ints(axis)[0]) % x.ndim
    return _transformed(x, at, None if dft_length is None else ints(dft_length)[0], inverse, onesided)


@operator("STFT", since=17, host="frame_step frame_length")
def stft(x, frame_step, window=None, frame_length=None, *, onesided=1):
    """(N, length, 1 or 2) -> (N, frames, frequencies, 2)."""
    step = ints(frame_step)[0]
    length = ints(frame_length)[0] if frame_length is not None else window.shape[0]
    frames = (x.shape[1] - length) // step + 1
    index = np.arange(frames)[:, None] * step + np.arange(length)
    cut = x[:, index]
    if window is not None:
        cut = cut * ops.reshape(window, (-1, 1))
    return _transformed(cut, 2, None, 0, onesided)


def _declare_window(name: str, terms: tuple[float, ...]) -> None:
    def window(size, *, output_datatype=1, periodic=1):
        n = int(np.ravel(size)[0])
        t = 2 * np.pi * np.arange(n) / (n if periodic else max(n - 1, 1))
        return sum(a * np.cos(k * t) for k, a in enumerate(terms)).astype(dtype_of(output_datatype))

    operator(name, host="size")(window)


_declare_window("HannWindow", (0.5, -0.5))
_declare_window("HammingWindow", (25 / 46, -21 / 46))
_declare_window("BlackmanWindow", (0.42, -0.5, 0.08))


@operator("MelWeightMatrix", host="bins length rate low high")
def mel_weight_matrix(bins, length, rate, low, high, *, output_datatype=1):
    """(frequencies, bins): triangles, evenly spaced on the mel scale 2595 log10(1 + f / 700)."""
    bins, length, rate, low, high = (np.ravel(v)[0] for v in (bins, length, rate, low, high))
    mel = 2595 * np.log10(1 + np.array([low, high], np.float64) / 700)
    edges = 700 * (10 ** ((mel[0] + np.arange(bins + 2) * (mel[1] - mel[0]) / (bins + 2)) / 2595) - 1)
    edges = ((length + 1) * edges // rate).astype(int)
    out = np.zeros((length // 2 + 1, bins))
    for i in range(bins):
        first, middle, last = edges[i : i + 3]
        if first == middle:
            out[middle, i] = 1
        else:
            out[first : middle + 1, i] = (np.arange(first, middle + 1) - first) / (middle - first)
        if last > middle:
            out[middle:last, i] = (last - np.arange(middle, last)) / (last - middle)
    return out.astype(dtype_of(output_datatype))
