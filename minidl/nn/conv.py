"""Convolutions and transposed convolutions in 1, 2 and 3 dimensions, with PyTorch's arguments and layouts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from minidl import ops
from minidl.core.dtypes import default_dtype
from minidl.nn import init
from minidl.nn.module import Module, Parameter, check_sizes
from minidl.ops.conv import int_tuple

# PyTorch's name for each way to pad, and NumPy's
_PADDING_MODES = {"zeros": "constant", "reflect": "reflect", "replicate": "edge", "circular": "wrap"}


class _Conv(Module):
    """What all convolution layers share. ``weight`` and ``bias`` start uniform on ±1/sqrt(fan_in), as in PyTorch."""

    n: int  # number of spatial axes
    transposed = False

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | Sequence[int],
        stride: int | Sequence[int],
        padding: int | Sequence[int] | str,
        dilation: int | Sequence[int],
        groups: int,
        bias: bool,
        padding_mode: str,
        dtype: Any,
    ) -> None:
        super().__init__()
        layer = type(self).__name__
        check_sizes(self, in_channels=in_channels, out_channels=out_channels)
        if groups < 1 or in_channels % groups or out_channels % groups:
            raise ValueError(
                f"{layer}: in_channels={in_channels} and out_channels={out_channels} must both be multiples of "
                f"groups={groups}"
            )
        if padding_mode not in _PADDING_MODES:
            raise ValueError(f"{layer}: padding_mode must be one of {', '.join(_PADDING_MODES)}; got {padding_mode!r}")
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.kernel_size = int_tuple(layer, "kernel_size", kernel_size, self.n, 1)
        self.stride = int_tuple(layer, "stride", stride, self.n, 1)
        self.dilation = int_tuple(layer, "dilation", dilation, self.n, 1)
        if isinstance(padding, str):
            if padding not in ("same", "valid") or self.transposed:
                raise ValueError(f"{layer}: padding={padding!r} is not known")
            if padding == "same" and set(self.stride) != {1}:
                raise ValueError(f"{layer}: padding='same' needs stride 1, got {self.stride}")
        self.padding: Any = padding if isinstance(padding, str) else int_tuple(layer, "padding", padding, self.n, 0)
        self.groups = groups
        self.padding_mode = padding_mode
        first, second = (in_channels, out_channels) if self.transposed else (out_channels, in_channels)
        dtype = dtype or default_dtype()
        self.weight = Parameter(np.empty((first, second // groups, *self.kernel_size), dtype))
        self.bias = Parameter(np.empty(out_channels, dtype)) if bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw new initial values."""
        init.kaiming_uniform_(self.weight, a=math.sqrt(5))
        fan_in = math.prod(self.weight.shape[1:])
        if self.bias is not None:
            bound = 1 / math.sqrt(fan_in) if fan_in else 0.0
            init.uniform_(self.bias, -bound, bound)

    def extra_repr(self) -> str:
        text = f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}"
        usual = dict(padding=(0,) * self.n, dilation=(1,) * self.n, groups=1, padding_mode="zeros")
        for name, value in usual.items():
            if getattr(self, name) != value:
                text += f", {name}={getattr(self, name)!r}"
        return text if self.bias is not None else text + ", bias=False"


class _PlainConv(_Conv):
    """Convolution of (N, in_channels, *size); see :func:`minidl.ops.conv2d`.

    ``weight`` is (out_channels, in_channels / groups, *kernel_size) and ``bias`` (out_channels,). ``padding`` is an
    int, one int per axis, ``"same"`` or ``"valid"``; ``padding_mode`` says what fills it: ``"zeros"``, ``"reflect"``,
    ``"replicate"`` or ``"circular"``.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | Sequence[int],
        stride: int | Sequence[int] = 1,
        padding: int | Sequence[int] | str = 0,
        dilation: int | Sequence[int] = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        dtype: Any = None,
    ) -> None:
        super().__init__(
            in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, padding_mode, dtype
        )

    def forward(self, x: Any) -> Any:
        padding = self.padding
        if self.padding_mode != "zeros" and padding != "valid" and x.ndim == self.n + 2:
            x = ops.pad(x, [n for widths in reversed(self._widths()) for n in widths], self.padding_mode)
            padding = 0
        conv = _FUNCTIONS[self.n]
        return conv(
            x, self.weight, self.bias, stride=self.stride, padding=padding, dilation=self.dilation, groups=self.groups
        )

    def _widths(self) -> list[tuple[int, int]]:
        """(before, after) padding of each axis."""
        if isinstance(self.padding, str):  # "same"
            totals = [d * (k - 1) for d, k in zip(self.dilation, self.kernel_size)]
            return [(t // 2, t - t // 2) for t in totals]
        return [(p, p) for p in self.padding]


class _TransposedConv(_Conv):
    """Transposed convolution of (N, in_channels, *size); see :func:`minidl.ops.conv_transpose2d`.

    ``weight`` is (in_channels, out_channels / groups, *kernel_size) and ``bias`` (out_channels,). With a stride,
    several output sizes are possible: ``output_padding`` or, in the call, ``output_size`` (spatial axes) chooses one.
    """

    transposed = True

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | Sequence[int],
        stride: int | Sequence[int] = 1,
        padding: int | Sequence[int] = 0,
        output_padding: int | Sequence[int] = 0,
        groups: int = 1,
        bias: bool = True,
        dilation: int | Sequence[int] = 1,
        padding_mode: str = "zeros",
        dtype: Any = None,
    ) -> None:
        super().__init__(
            in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, padding_mode, dtype
        )
        if padding_mode != "zeros":
            raise ValueError(f"{type(self).__name__}: only padding_mode='zeros' makes sense, got {padding_mode!r}")
        self.output_padding = int_tuple(type(self).__name__, "output_padding", output_padding, self.n, 0)

    def forward(self, x: Any, output_size: Sequence[int] | None = None) -> Any:
        extra = self.output_padding
        if output_size is not None:
            extra = self._missing(tuple(x.shape[2:]), tuple(output_size))
        conv = _TRANSPOSED_FUNCTIONS[self.n]
        return conv(
            x,
            self.weight,
            self.bias,
            stride=self.stride,
            padding=self.padding,
            output_padding=extra,
            groups=self.groups,
            dilation=self.dilation,
        )

    def _missing(self, size: tuple[int, ...], wanted: tuple[int, ...]) -> tuple[int, ...]:
        least = tuple(
            (m - 1) * s - 2 * p + d * (k - 1) + 1
            for m, s, p, d, k in zip(size, self.stride, self.padding, self.dilation, self.kernel_size)
        )
        if len(wanted) != self.n or not all(a <= w < a + s for a, w, s in zip(least, wanted, self.stride)):
            most = tuple(a + s - 1 for a, s in zip(least, self.stride))
            raise ValueError(
                f"{type(self).__name__}: output_size {wanted} is impossible for size {size}; expected {least} to {most}"
            )
        return tuple(w - a for w, a in zip(wanted, least))


class Conv1d(_PlainConv):
    __doc__ = _PlainConv.__doc__
    n = 1


class Conv2d(_PlainConv):
    __doc__ = _PlainConv.__doc__
    n = 2


class Conv3d(_PlainConv):
    __doc__ = _PlainConv.__doc__
    n = 3


class ConvTranspose1d(_TransposedConv):
    __doc__ = _TransposedConv.__doc__
    n = 1


class ConvTranspose2d(_TransposedConv):
    __doc__ = _TransposedConv.__doc__
    n = 2


class ConvTranspose3d(_TransposedConv):
    __doc__ = _TransposedConv.__doc__
    n = 3


_FUNCTIONS = {1: ops.conv1d, 2: ops.conv2d, 3: ops.conv3d}
_TRANSPOSED_FUNCTIONS = {1: ops.conv_transpose1d, 2: ops.conv_transpose2d, 3: ops.conv_transpose3d}
