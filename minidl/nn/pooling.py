"""MaxPool, AvgPool, AdaptiveAvgPool, AdaptiveMaxPool, GlobalAvgPool and GlobalMaxPool, each 1D, 2D and 3D."""

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


class MaxPool1D(_MaxPool):
    __doc__ = _MaxPool.__doc__
    n = 1


class MaxPool2D(_MaxPool):
    __doc__ = _MaxPool.__doc__
    n = 2


class MaxPool3D(_MaxPool):
    __doc__ = _MaxPool.__doc__
    n = 3


class AvgPool1D(_AvgPool):
    __doc__ = _AvgPool.__doc__
    n = 1


class AvgPool2D(_AvgPool):
    __doc__ = _AvgPool.__doc__
    n = 2


class AvgPool3D(_AvgPool):
    __doc__ = _AvgPool.__doc__
    n = 3


class AdaptiveMaxPool1D(_AdaptiveMaxPool):
    __doc__ = _AdaptiveMaxPool.__doc__
    n = 1


class AdaptiveMaxPool2D(_AdaptiveMaxPool):
    __doc__ = _AdaptiveMaxPool.__doc__
    n = 2


class AdaptiveMaxPool3D(_AdaptiveMaxPool):
    __doc__ = _AdaptiveMaxPool.__doc__
    n = 3


class AdaptiveAvgPool1D(_AdaptiveAvgPool):
    __doc__ = _AdaptiveAvgPool.__doc__
    n = 1


class AdaptiveAvgPool2D(_AdaptiveAvgPool):
    __doc__ = _AdaptiveAvgPool.__doc__
    n = 2


class AdaptiveAvgPool3D(_AdaptiveAvgPool):
    __doc__ = _AdaptiveAvgPool.__doc__
    n = 3


class GlobalMaxPool1D(_GlobalMaxPool):
    __doc__ = _GlobalMaxPool.__doc__
    n = 1


class GlobalMaxPool2D(_GlobalMaxPool):
    __doc__ = _GlobalMaxPool.__doc__
    n = 2


class GlobalMaxPool3D(_GlobalMaxPool):
    __doc__ = _GlobalMaxPool.__doc__
    n = 3


class GlobalAvgPool1D(_GlobalAvgPool):
    __doc__ = _GlobalAvgPool.__doc__
    n = 1


class GlobalAvgPool2D(_GlobalAvgPool):
    __doc__ = _GlobalAvgPool.__doc__
    n = 2


class GlobalAvgPool3D(_GlobalAvgPool):
    __doc__ = _GlobalAvgPool.__doc__
    n = 3


MaxPool1d, MaxPool2d, MaxPool3d = MaxPool1D, MaxPool2D, MaxPool3D
AvgPool1d, AvgPool2d, AvgPool3d = AvgPool1D, AvgPool2D, AvgPool3D
AdaptiveMaxPool1d, AdaptiveMaxPool2d, AdaptiveMaxPool3d = AdaptiveMaxPool1D, AdaptiveMaxPool2D, AdaptiveMaxPool3D
AdaptiveAvgPool1d, AdaptiveAvgPool2d, AdaptiveAvgPool3d = AdaptiveAvgPool1D, AdaptiveAvgPool2D, AdaptiveAvgPool3D
GlobalMaxPool1d, GlobalMaxPool2d, GlobalMaxPool3d = GlobalMaxPool1D, GlobalMaxPool2D, GlobalMaxPool3D
GlobalAvgPool1d, GlobalAvgPool2d, GlobalAvgPool3d = GlobalAvgPool1D, GlobalAvgPool2D, GlobalAvgPool3D
