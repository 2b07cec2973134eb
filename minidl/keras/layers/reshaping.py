"""Layers that move, repeat, pad or crop."""

from __future__ import annotations

from typing import Any

import numpy as np

from minidl import ops
from minidl.keras.engine import Layer
from minidl.keras.layers.space import channels_last, per_axis


class Flatten(Layer):
    """All axes but the batch's in one."""

    def __init__(self, data_format: Any = None, **options: Any) -> None:
        super().__init__(**options)
        self.channels_last = channels_last(data_format)

    def call(self, x: Any) -> Any:
        if not self.channels_last:
            x = ops.moveaxis(x, 1, -1)
        return ops.reshape(x, shape=(x.shape[0], int(np.prod(x.shape[1:]))))


class Reshape(Layer):
    """The axes behind the batch's in another shape, in which one number may be -1."""

    def __init__(self, target_shape: Any, **options: Any) -> None:
        super().__init__(**options)
        self.target_shape = tuple(target_shape)

    def call(self, x: Any) -> Any:
        return ops.reshape(x, shape=(x.shape[0], *self.target_shape))


class Permute(Layer):
    """The axes behind the batch's (counted from 1) in another order."""

    def __init__(self, dims: Any, **options: Any) -> None:
        super().__init__(**options)
        self.dims = tuple(dims)

    def call(self, x: Any) -> Any:
        return ops.permute(x, (0, *self.dims))


class RepeatVector(Layer):
    """(N, features) to (N, n, features)."""

    def __init__(self, n: int, **options: Any) -> None:
        super().__init__(**options)
        self.n = n

    def call(self, x: Any) -> Any:
        return ops.broadcast_to(x[:, None], shape=(x.shape[0], self.n, x.shape[1]))


class _Space(Layer):
    axes = 2

    def __init__(self, data_format: Any = None, **options: Any) -> None:
        super().__init__(**options)
        self.first = 1 if channels_last(data_format) else 2

    def pairs(self, name: str, value: Any) -> list[tuple[int, int]]:
        """(before, after) per axis: from one number, one per axis, or a pair per axis."""
        if isinstance(value, int):
            return [(value, value)] * self.axes
        value = list(value)
        if self.axes == 1 and len(value) == 2 and isinstance(value[0], int):
            return [(value[0], value[1])]
        if len(value) != self.axes:
            raise ValueError(f"{type(self).__name__}: expected {self.axes} entries in {name}, got {value!r}")
        return [(v, v) if isinstance(v, int) else (v[0], v[1]) for v in value]

    def padded(self, x: Any, pairs: list[tuple[int, int]]) -> Any:
        none = [(0, 0)] * x.ndim
        none[self.first : self.first + self.axes] = pairs
        return ops.pad_nd(x, widths=tuple(none))


class _ZeroPadding(_Space):
    def __init__(self, padding: Any = 1, data_format: Any = None, **options: Any) -> None:
        super().__init__(data_format, **options)
        self.padding = self.pairs("padding", padding)

    def call(self, x: Any) -> Any:
        return self.padded(x, self.padding)


class ZeroPadding1D(_ZeroPadding):
    """Zeros before and behind the steps."""

    axes = 1


class ZeroPadding2D(_ZeroPadding):
    """Zeros around images: ``padding`` ((top, bottom), (left, right)), or less."""

    axes = 2


class ZeroPadding3D(_ZeroPadding):
    """Zeros around volumes."""

    axes = 3


class _Cropping(_Space):
    def __init__(self, cropping: Any = 1, data_format: Any = None, **options: Any) -> None:
        super().__init__(data_format, **options)
        self.cropping = self.pairs("cropping", cropping)

    def call(self, x: Any) -> Any:
        return self.padded(x, [(-before, -after) for before, after in self.cropping])


class Cropping1D(_Cropping):
    """Without the first and last steps."""

    axes = 1


class Cropping2D(_Cropping):
    """Without the borders of images: ``cropping`` ((top, bottom), (left, right)), or less."""

    axes = 2


class Cropping3D(_Cropping):
    """Without the borders of volumes."""

    axes = 3


def _bilinear(size: int, factor: int) -> np.ndarray:
    """The matrix (size * factor, size) that interpolates between the centres of pixels."""
    at = np.clip((np.arange(size * factor) + 0.5) / factor - 0.5, 0, size - 1)
    low = np.floor(at).astype(int)
    high, share = np.minimum(low + 1, size - 1), at - low
    matrix = np.zeros((size * factor, size), np.float32)
    rows = np.arange(size * factor)
    np.add.at(matrix, (rows, low), 1 - share)
    np.add.at(matrix, (rows, high), share)
    return matrix


class _UpSampling(_Space):
    def __init__(self, size: Any = 2, data_format: Any = None, interpolation: str = "nearest", **options: Any) -> None:
        super().__init__(data_format, **options)
        if interpolation not in ("nearest", "bilinear"):
            raise NotImplementedError(f"{type(self).__name__}: interpolation {interpolation!r}")
        self.factors, self.interpolation = per_axis("size", size, self.axes), interpolation

    def call(self, x: Any) -> Any:
        for axis, factor in enumerate(self.factors, self.first):
            if self.interpolation == "nearest":
                x = ops.repeat_interleave(x, factor, axis)
            else:
                matrix = _bilinear(x.shape[axis], factor).astype(x.dtype)
                x = ops.moveaxis(ops.matmul(ops.moveaxis(x, axis, -1), matrix.T), -1, axis)
        return x


class UpSampling1D(_UpSampling):
    """Each step ``size`` times."""

    axes = 1

    def __init__(self, size: int = 2, **options: Any) -> None:
        super().__init__(size, **options)


class UpSampling2D(_UpSampling):
    """Larger images: each pixel repeated, or interpolated between their centres."""

    axes = 2


class UpSampling3D(_UpSampling):
    """Larger volumes: each voxel repeated."""

    axes = 3
