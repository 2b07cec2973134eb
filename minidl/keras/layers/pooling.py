"""Pooling."""

from __future__ import annotations

from typing import Any

import numpy as np

from minidl import ops
from minidl.keras.engine import Layer
from minidl.keras.layers.space import back, channels_last, channels_second, pad_same, per_axis

MAX = {1: ops.max_pool1d, 2: ops.max_pool2d, 3: ops.max_pool3d}
MEAN = {1: ops.avg_pool1d, 2: ops.avg_pool2d, 3: ops.avg_pool3d}


class _Pooling(Layer):
    axes = 2

    def __init__(
        self, pool_size: Any = 2, strides: Any = None, padding: str = "valid", data_format: Any = None, **options: Any
    ) -> None:
        super().__init__(**options)
        if padding not in ("valid", "same"):
            raise ValueError(f"{type(self).__name__}: padding {padding!r}")
        self.pool_size = per_axis("pool_size", pool_size, self.axes)
        self.strides = self.pool_size if strides is None else per_axis("strides", strides, self.axes)
        self.padding, self.channels_last = padding, channels_last(data_format)

    def call(self, x: Any) -> Any:
        return back(self.pool(channels_second(x))) if self.channels_last else self.pool(x)

    def padded(self, x: Any, value: float) -> Any:
        return x if self.padding == "valid" else pad_same(x, self.pool_size, self.strides, (1,) * self.axes, value)

    def pool(self, x: Any) -> Any:
        raise NotImplementedError


class _MaxPooling(_Pooling):
    def pool(self, x: Any) -> Any:
        return MAX[self.axes](self.padded(x, float("-inf")), self.pool_size, stride=self.strides)


class _AveragePooling(_Pooling):
    def pool(self, x: Any) -> Any:
        total = MEAN[self.axes](self.padded(x, 0.0), self.pool_size, stride=self.strides)
        if self.padding == "valid":
            return total
        ones = np.ones((1, 1, *x.shape[2:]), x.dtype)  # padding does not count
        return total / MEAN[self.axes](self.padded(ones, 0.0), self.pool_size, stride=self.strides)


class MaxPooling1D(_MaxPooling):
    """The largest of each window of (N, steps, channels)."""

    axes = 1


class MaxPooling2D(_MaxPooling):
    """The largest of each window of (N, height, width, channels)."""

    axes = 2


class MaxPooling3D(_MaxPooling):
    """The largest of each window of (N, depth, height, width, channels)."""

    axes = 3


class AveragePooling1D(_AveragePooling):
    """The mean of each window of (N, steps, channels)."""

    axes = 1


class AveragePooling2D(_AveragePooling):
    """The mean of each window of (N, height, width, channels)."""

    axes = 2


class AveragePooling3D(_AveragePooling):
    """The mean of each window of (N, depth, height, width, channels)."""

    axes = 3


class _Global(Layer):
    axes = 2

    def __init__(self, data_format: Any = None, keepdims: bool = False, **options: Any) -> None:
        super().__init__(**options)
        first = 1 if channels_last(data_format) else 2
        self.over, self.keepdims = tuple(range(first, first + self.axes)), keepdims


class _GlobalMax(_Global):
    def call(self, x: Any) -> Any:
        return ops.amax(x, axis=self.over, keepdims=self.keepdims)


class _GlobalAverage(_Global):
    def call(self, x: Any) -> Any:
        return ops.mean(x, axis=self.over, keepdims=self.keepdims)


class GlobalMaxPooling1D(_GlobalMax):
    """The largest of all steps."""

    axes = 1


class GlobalMaxPooling2D(_GlobalMax):
    """The largest of all pixels."""

    axes = 2


class GlobalMaxPooling3D(_GlobalMax):
    """The largest of all voxels."""

    axes = 3


class GlobalAveragePooling1D(_GlobalAverage):
    """The mean of all steps; with a mask, of those that count."""

    axes = 1

    def call(self, x: Any, mask: Any = None) -> Any:
        if mask is None:
            return super().call(x)
        weight = ops.astype(mask, dtype=x.dtype)[..., None]
        return ops.sum(x * weight, axis=self.over, keepdims=self.keepdims) / ops.sum(
            weight, axis=self.over, keepdims=self.keepdims
        )


class GlobalAveragePooling2D(_GlobalAverage):
    """The mean of all pixels."""

    axes = 2


class GlobalAveragePooling3D(_GlobalAverage):
    """The mean of all voxels."""

    axes = 3
