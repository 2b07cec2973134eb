"""Convolutions. Kernels are (*size, inputs, outputs), as in Keras' files."""

from __future__ import annotations

from typing import Any

import numpy as np

from minidl import ops
from minidl.keras import activations
from minidl.keras.engine import Layer
from minidl.keras.layers.core import without_penalties
from minidl.keras.layers.space import back, channels_last, channels_second, pad_same, per_axis

CONV = {1: ops.conv1d, 2: ops.conv2d, 3: ops.conv3d}
TRANSPOSED = {1: ops.conv_transpose1d, 2: ops.conv_transpose2d, 3: ops.conv_transpose3d}


class _Conv(Layer):
    """What all convolutions have."""

    axes = 2

    def __init__(
        self, kernel_size: Any, strides: Any = 1, padding: str = "valid", data_format: Any = None,
        dilation_rate: Any = 1, activation: Any = None, use_bias: bool = True, bias_initializer: Any = "zeros",
        **options: Any,
    ) -> None:  # fmt: skip
        super().__init__(**without_penalties(self, options))
        if padding not in ("valid", "same", "causal") or (padding == "causal" and self.axes != 1):
            raise ValueError(f"{type(self).__name__}: padding {padding!r}")
        self.kernel_size = per_axis("kernel_size", kernel_size, self.axes)
        self.strides = per_axis("strides", strides, self.axes)
        self.dilation_rate = per_axis("dilation_rate", dilation_rate, self.axes)
        self.padding, self.channels_last = padding, channels_last(data_format)
        self.activation, self.use_bias = activations.get(activation), use_bias
        self.bias_initializer = bias_initializer

    def channels(self, input_shape: Any) -> int:
        return input_shape[-1 if self.channels_last else 1]

    def padded(self, x: Any) -> Any:
        if self.padding == "same":
            return pad_same(x, self.kernel_size, self.strides, self.dilation_rate)
        if self.padding == "causal":
            return ops.pad_nd(x, widths=((0, 0), (0, 0), ((self.kernel_size[0] - 1) * self.dilation_rate[0], 0)))
        return x

    def convolved(self, x: Any, kernel: Any, bias: Any, groups: int = 1) -> Any:
        """x (N, C, *size) with a kernel (*size, C / groups, O)."""
        weight = ops.moveaxis(ops.moveaxis(kernel, -1, 0), -1, 1)
        stride, dilation = self.strides, self.dilation_rate
        return CONV[self.axes](self.padded(x), weight, bias, stride=stride, dilation=dilation, groups=groups)

    def call(self, x: Any) -> Any:
        if not self.channels_last:
            return self.activation(self.run(x))
        return self.activation(back(self.run(channels_second(x))))

    def run(self, x: Any) -> Any:
        """The convolution of x (N, C, *size), before the activation."""
        raise NotImplementedError


class _PlainConv(_Conv):
    def __init__(
        self, filters: int, kernel_size: Any, strides: Any = 1, padding: str = "valid", data_format: Any = None,
        dilation_rate: Any = 1, groups: int = 1, activation: Any = None, use_bias: bool = True,
        kernel_initializer: Any = "glorot_uniform", **options: Any,
    ) -> None:  # fmt: skip
        super().__init__(kernel_size, strides, padding, data_format, dilation_rate, activation, use_bias, **options)
        self.filters, self.groups, self.kernel_initializer = filters, groups, kernel_initializer

    def build(self, input_shape: Any) -> None:
        inputs = self.channels(input_shape) // self.groups
        self.add_weight((*self.kernel_size, inputs, self.filters), self.kernel_initializer, "kernel")
        if self.use_bias:
            self.add_weight((self.filters,), self.bias_initializer, "bias")

    def run(self, x: Any) -> Any:
        return self.convolved(x, self.kernel, self.bias if self.use_bias else None, self.groups)


class Conv1D(_PlainConv):
    """Convolution of (N, steps, channels); ``padding`` may also be "causal"."""

    axes = 1


class Conv2D(_PlainConv):
    """Convolution of (N, height, width, channels)."""

    axes = 2


class Conv3D(_PlainConv):
    """Convolution of (N, depth, height, width, channels)."""

    axes = 3


class _DepthwiseConv(_Conv):
    def __init__(
        self, kernel_size: Any, strides: Any = 1, padding: str = "valid", depth_multiplier: int = 1,
        data_format: Any = None, dilation_rate: Any = 1, activation: Any = None, use_bias: bool = True,
        depthwise_initializer: Any = "glorot_uniform", **options: Any,
    ) -> None:  # fmt: skip
        super().__init__(kernel_size, strides, padding, data_format, dilation_rate, activation, use_bias, **options)
        self.depth_multiplier, self.depthwise_initializer = depth_multiplier, depthwise_initializer

    def build(self, input_shape: Any) -> None:
        inputs = self.channels(input_shape)
        self.add_weight((*self.kernel_size, inputs, self.depth_multiplier), self.depthwise_initializer, "kernel")
        if self.use_bias:
            self.add_weight((inputs * self.depth_multiplier,), self.bias_initializer, "bias")

    def depthwise(self, x: Any, kernel: Any, bias: Any) -> Any:
        """Each channel by itself: a kernel (*size, C, multiplier) as one of C groups."""
        flat = ops.reshape(kernel, shape=(*self.kernel_size, 1, -1))
        return self.convolved(x, flat, bias, groups=x.shape[1])

    def run(self, x: Any) -> Any:
        return self.depthwise(x, self.kernel, self.bias if self.use_bias else None)


class DepthwiseConv1D(_DepthwiseConv):
    """Each channel of (N, steps, channels) convolved by itself, with ``depth_multiplier`` kernels."""

    axes = 1


class DepthwiseConv2D(_DepthwiseConv):
    """Each channel of (N, height, width, channels) convolved by itself, with ``depth_multiplier`` kernels."""

    axes = 2


class _SeparableConv(_DepthwiseConv):
    def __init__(
        self, filters: int, kernel_size: Any, strides: Any = 1, padding: str = "valid", data_format: Any = None,
        dilation_rate: Any = 1, depth_multiplier: int = 1, activation: Any = None, use_bias: bool = True,
        depthwise_initializer: Any = "glorot_uniform", pointwise_initializer: Any = "glorot_uniform", **options: Any,
    ) -> None:  # fmt: skip
        super().__init__(
            kernel_size, strides, padding, depth_multiplier, data_format, dilation_rate, activation, use_bias,
            depthwise_initializer, **options,
        )  # fmt: skip
        self.filters, self.pointwise_initializer = filters, pointwise_initializer

    def build(self, input_shape: Any) -> None:
        inputs = self.channels(input_shape)
        shape = (*self.kernel_size, inputs, self.depth_multiplier)
        self.add_weight(shape, self.depthwise_initializer, "depthwise_kernel")
        shape = (*[1] * self.axes, inputs * self.depth_multiplier, self.filters)
        self.add_weight(shape, self.pointwise_initializer, "pointwise_kernel")
        if self.use_bias:
            self.add_weight((self.filters,), self.bias_initializer, "bias")

    def run(self, x: Any) -> Any:
        x = self.depthwise(x, self.depthwise_kernel, None)
        weight = ops.moveaxis(ops.moveaxis(self.pointwise_kernel, -1, 0), -1, 1)
        return CONV[self.axes](x, weight, self.bias if self.use_bias else None)


class SeparableConv1D(_SeparableConv):
    """A convolution per channel, then one of size 1 that mixes channels."""

    axes = 1


class SeparableConv2D(_SeparableConv):
    """A convolution per channel, then one of size 1 that mixes channels."""

    axes = 2


class _ConvTranspose(_Conv):
    def __init__(
        self, filters: int, kernel_size: Any, strides: Any = 1, padding: str = "valid", output_padding: Any = None,
        data_format: Any = None, dilation_rate: Any = 1, activation: Any = None, use_bias: bool = True,
        kernel_initializer: Any = "glorot_uniform", **options: Any,
    ) -> None:  # fmt: skip
        options.pop("groups", None)
        super().__init__(kernel_size, strides, padding, data_format, dilation_rate, activation, use_bias, **options)
        if output_padding is not None:
            output_padding = per_axis("output_padding", output_padding, self.axes)
        self.filters, self.output_padding, self.kernel_initializer = filters, output_padding, kernel_initializer

    def build(self, input_shape: Any) -> None:
        shape = (*self.kernel_size, self.filters, self.channels(input_shape))
        self.add_weight(shape, self.kernel_initializer, "kernel")
        if self.use_bias:
            self.add_weight((self.filters,), self.bias_initializer, "bias")

    def cut(self, size: int, i: int) -> tuple[int, int]:
        """What is cut off (or, negative, appended) before and behind axis i of the full transposed convolution."""
        kernel = (self.kernel_size[i] - 1) * self.dilation_rate[i] + 1
        stride, full = self.strides[i], (size - 1) * self.strides[i] + kernel
        if self.output_padding is not None:
            length = full - (2 * (kernel // 2) if self.padding == "same" else 0) + self.output_padding[i]
            before = max(full - length, 0) // 2
            return before, full - before - length
        if self.padding == "valid":
            return 0, min(kernel - stride, 0)
        total = max(kernel - stride, 0)
        return total // 2, full - total // 2 - size * stride

    def run(self, x: Any) -> Any:
        weight = ops.moveaxis(ops.moveaxis(self.kernel, -1, 0), -1, 1)
        y = TRANSPOSED[self.axes](x, weight, None, stride=self.strides, dilation=self.dilation_rate)
        cuts = [self.cut(n, i) for i, n in enumerate(x.shape[2:])]
        y = ops.pad_nd(y, widths=((0, 0), (0, 0), *((-before, -after) for before, after in cuts)))
        if not self.use_bias:
            return y
        return y + ops.reshape(self.bias, shape=(-1, *np.ones(self.axes, int).tolist()))


class Conv1DTranspose(_ConvTranspose):
    """Transposed convolution of (N, steps, channels)."""

    axes = 1


class Conv2DTranspose(_ConvTranspose):
    """Transposed convolution of (N, height, width, channels)."""

    axes = 2


class Conv3DTranspose(_ConvTranspose):
    """Transposed convolution of (N, depth, height, width, channels)."""

    axes = 3
