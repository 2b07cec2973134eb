"""Max, average, adaptive and global pooling, each in 1, 2 and 3 dimensions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from minidl import ops
from minidl.nn.module import Module

_Size = int | Sequence[int]


class _Pool(Module):
    """What all pooling layers share: ``n`` is the number of spatial axes, and all settings are shown by repr."""

    n: int

    def __init__(self, **settings: Any) -> None:
        super().__init__()
        self._settings = tuple(settings)
        for name, value in settings.items():
            setattr(self, name, value)

    def extra_repr(self) -> str:
        return ", ".join(f"{name}={getattr(self, name)}" for name in self._settings)

    def _pool(self, function: str, x: Any, **more: Any) -> Any:
        settings = {name: getattr(self, name) for name in self._settings}
        return getattr(ops, f"{function}{self.n}d")(x, **settings, **more)


class _MaxPool(_Pool):
    """The maximum of each window; see :func:`minidl.ops.max_pool2d`. ``stride`` is by default the kernel size."""

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

    def forward(self, x: Any) -> Any:
        return self._pool("max_pool", x)


class _AvgPool(_Pool):
    """The mean of each window; see :func:`minidl.ops.avg_pool2d`. ``stride`` is by default the kernel size."""

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

    def forward(self, x: Any) -> Any:
        return self._pool("avg_pool", x)


class _AdaptiveMaxPool(_Pool):
    """The maximum of ``output_size`` windows an axis, whatever the input's size."""

    def __init__(self, output_size: int | Sequence[int | None], return_indices: bool = False) -> None:
        super().__init__(output_size=output_size, return_indices=return_indices)

    def forward(self, x: Any) -> Any:
        return self._pool("adaptive_max_pool", x)


class _AdaptiveAvgPool(_Pool):
    """The mean of ``output_size`` windows an axis, whatever the input's size; see
    :func:`minidl.ops.adaptive_avg_pool2d`."""

    def __init__(self, output_size: int | Sequence[int | None]) -> None:
        super().__init__(output_size=output_size)

    def forward(self, x: Any) -> Any:
        return self._pool("adaptive_avg_pool", x)


class _GlobalPool(_Pool):
    """One number a channel: (N, C, *size) becomes (N, C), or (N, C, 1, ...) with ``keepdims``."""

    def __init__(self, keepdims: bool = False) -> None:
        super().__init__(keepdims=keepdims)

    def _check(self, x: Any) -> None:
        if x.ndim != self.n + 2:
            raise ValueError(f"{type(self).__name__}: expected {self.n + 2} axes (N, C, *size), got {ops.describe(x)}")


class _GlobalAvgPool(_GlobalPool):
    """The mean of each channel: (N, C, *size) becomes (N, C), or (N, C, 1, ...) with ``keepdims``."""

    def forward(self, x: Any) -> Any:
        self._check(x)
        return ops.global_avg_pool(x, keepdims=self.keepdims)


class _GlobalMaxPool(_GlobalPool):
    """The maximum of each channel: (N, C, *size) becomes (N, C), or (N, C, 1, ...) with ``keepdims``."""

    def forward(self, x: Any) -> Any:
        self._check(x)
        return ops.global_max_pool(x, keepdims=self.keepdims)


class MaxPool1d(_MaxPool):
    __doc__ = _MaxPool.__doc__
    n = 1


class MaxPool2d(_MaxPool):
    __doc__ = _MaxPool.__doc__
    n = 2


class MaxPool3d(_MaxPool):
    __doc__ = _MaxPool.__doc__
    n = 3


class AvgPool1d(_AvgPool):
    __doc__ = _AvgPool.__doc__
    n = 1


class AvgPool2d(_AvgPool):
    __doc__ = _AvgPool.__doc__
    n = 2


class AvgPool3d(_AvgPool):
    __doc__ = _AvgPool.__doc__
    n = 3


class AdaptiveMaxPool1d(_AdaptiveMaxPool):
    __doc__ = _AdaptiveMaxPool.__doc__
    n = 1


class AdaptiveMaxPool2d(_AdaptiveMaxPool):
    __doc__ = _AdaptiveMaxPool.__doc__
    n = 2


class AdaptiveMaxPool3d(_AdaptiveMaxPool):
    __doc__ = _AdaptiveMaxPool.__doc__
    n = 3


class AdaptiveAvgPool1d(_AdaptiveAvgPool):
    __doc__ = _AdaptiveAvgPool.__doc__
    n = 1


class AdaptiveAvgPool2d(_AdaptiveAvgPool):
    __doc__ = _AdaptiveAvgPool.__doc__
    n = 2


class AdaptiveAvgPool3d(_AdaptiveAvgPool):
    __doc__ = _AdaptiveAvgPool.__doc__
    n = 3


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
