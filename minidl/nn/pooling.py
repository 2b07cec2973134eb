"""Max, average, adaptive and global pooling, each in 1, 2 and 3 dimensions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from minidl import ops
from minidl.nn.function import FunctionLayer

_Size = int | Sequence[int]


class _MaxPool(FunctionLayer):
    """The maximum of each window; see :func:`minidl.ops.max_pool2d`. ``stride`` defaults to the kernel size."""

    def __init__(
        self,
        kernel_size: _Size,
        stride: _Size | None = None,
        padding: _Size = 0,
        dilation: _Size = 1,
        return_indices: bool = False,
        ceil_mode: bool = False,
    ) -> None:
        super().__init__(
            kernel_size=kernel_size,
            stride=kernel_size if stride is None else stride,
            padding=padding,
            dilation=dilation,
            ceil_mode=ceil_mode,
            return_indices=return_indices,
        )


class _AvgPool(FunctionLayer):
    """The mean of each window; see :func:`minidl.ops.avg_pool2d`. ``stride`` defaults to the kernel size."""

    def __init__(
        self,
        kernel_size: _Size,
        stride: _Size | None = None,
        padding: _Size = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
    ) -> None:
        super().__init__(
            kernel_size=kernel_size,
            stride=kernel_size if stride is None else stride,
            padding=padding,
            ceil_mode=ceil_mode,
            count_include_pad=count_include_pad,
        )


class _AvgPoolOver(_AvgPool):
    """The mean of each window; see :func:`minidl.ops.avg_pool2d`. ``stride`` defaults to the kernel size;
    ``divisor_override`` divides the window's sum by another number than its size."""

    def __init__(
        self,
        kernel_size: _Size,
        stride: _Size | None = None,
        padding: _Size = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        divisor_override: int | None = None,
    ) -> None:
        super().__init__(kernel_size, stride, padding, ceil_mode, count_include_pad)
        self.add_setting("divisor_override", divisor_override)


class _AdaptiveMaxPool(FunctionLayer):
    """The maximum of each of ``output_size`` windows per axis, whatever the input's size."""

    def __init__(self, output_size: int | Sequence[int | None], return_indices: bool = False) -> None:
        super().__init__(output_size=output_size, return_indices=return_indices)


class _AdaptiveAvgPool(FunctionLayer):
    """The mean of each of ``output_size`` windows per axis, whatever the input's size.

    See :func:`minidl.ops.adaptive_avg_pool2d`.
    """

    def __init__(self, output_size: int | Sequence[int | None]) -> None:
        super().__init__(output_size=output_size)


class _GlobalPool(FunctionLayer):
    """One number per channel: (N, C, *size) becomes (N, C), or (N, C, 1, ...) with ``keepdims``."""

    n: int  # number of spatial axes

    def __init__(self, keepdims: bool = False) -> None:
        super().__init__(keepdims=keepdims)

    def forward(self, x: Any) -> Any:
        if x.ndim != self.n + 2:
            raise ValueError(f"{type(self).__name__}: expected {self.n + 2} axes (N, C, *size), got {ops.describe(x)}")
        return super().forward(x)


class _GlobalAvgPool(_GlobalPool):
    """The mean of each channel: (N, C, *size) becomes (N, C), or (N, C, 1, ...) with ``keepdims``."""

    _function = ops.global_avg_pool


class _GlobalMaxPool(_GlobalPool):
    """The maximum of each channel: (N, C, *size) becomes (N, C), or (N, C, 1, ...) with ``keepdims``."""

    _function = ops.global_max_pool


class MaxPool1d(_MaxPool):
    __doc__ = _MaxPool.__doc__
    _function = ops.max_pool1d


class MaxPool2d(_MaxPool):
    __doc__ = _MaxPool.__doc__
    _function = ops.max_pool2d


class MaxPool3d(_MaxPool):
    __doc__ = _MaxPool.__doc__
    _function = ops.max_pool3d


class AvgPool1d(_AvgPool):
    __doc__ = _AvgPool.__doc__
    _function = ops.avg_pool1d


class AvgPool2d(_AvgPoolOver):
    __doc__ = _AvgPoolOver.__doc__
    _function = ops.avg_pool2d


class AvgPool3d(_AvgPoolOver):
    __doc__ = _AvgPoolOver.__doc__
    _function = ops.avg_pool3d


class AdaptiveMaxPool1d(_AdaptiveMaxPool):
    __doc__ = _AdaptiveMaxPool.__doc__
    _function = ops.adaptive_max_pool1d


class AdaptiveMaxPool2d(_AdaptiveMaxPool):
    __doc__ = _AdaptiveMaxPool.__doc__
    _function = ops.adaptive_max_pool2d


class AdaptiveMaxPool3d(_AdaptiveMaxPool):
    __doc__ = _AdaptiveMaxPool.__doc__
    _function = ops.adaptive_max_pool3d


class AdaptiveAvgPool1d(_AdaptiveAvgPool):
    __doc__ = _AdaptiveAvgPool.__doc__
    _function = ops.adaptive_avg_pool1d


class AdaptiveAvgPool2d(_AdaptiveAvgPool):
    __doc__ = _AdaptiveAvgPool.__doc__
    _function = ops.adaptive_avg_pool2d


class AdaptiveAvgPool3d(_AdaptiveAvgPool):
    __doc__ = _AdaptiveAvgPool.__doc__
    _function = ops.adaptive_avg_pool3d


class GlobalMaxPool1d(_GlobalMaxPool):
    __doc__ = _GlobalMaxPool.__doc__
    n = 1


class GlobalMaxPool2d(_GlobalMaxPool):
    __doc__ = _GlobalMaxPool.__doc__
    n = 2


class GlobalMaxPool3d(_GlobalMaxPool):
    __doc__ = _GlobalMaxPool.__doc__
    n = 3


class GlobalAvgPool1d(_GlobalAvgPool):
    __doc__ = _GlobalAvgPool.__doc__
    n = 1


class GlobalAvgPool2d(_GlobalAvgPool):
    __doc__ = _GlobalAvgPool.__doc__
    n = 2


class GlobalAvgPool3d(_GlobalAvgPool):
    __doc__ = _GlobalAvgPool.__doc__
    n = 3
