"""EfficientNet-Lite0, with the names of the weights that are published for PyTorch, so that they load by name.

Tan and Le, "EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks", ICML 2019; the Lite variants
(TensorFlow's model garden, 2020) leave out squeeze-and-excitation and have ReLU6 in place of swish, for devices that
compute in 8 bits.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from minidl import ops
from minidl.nn.container import ModuleList
from minidl.nn.conv import Conv2d
from minidl.nn.dropout import Dropout
from minidl.nn.linear import Linear
from minidl.nn.module import Module
from minidl.nn.normalization import BatchNorm2d


class SameConv2d(Conv2d):
    """A convolution without bias that makes n pixels ceil(n / stride), as TensorFlow's padding "same" does.

    Where the padding is odd, the further pixel is at the end; PyTorch's padding would put it at both ends.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, stride: int = 1, groups: int = 1) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride=stride, groups=groups, bias=False)

    def forward(self, x: Any) -> Any:
        widths = [(0, 0), (0, 0)]
        for size, kernel, stride in zip(x.shape[2:], self.kernel_size, self.stride):
            total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
            widths.append((total // 2, total - total // 2))
        return super().forward(ops.pad_nd(x, widths=tuple(widths)))


def _norm(channels: int) -> BatchNorm2d:
    return BatchNorm2d(channels, eps=1e-3, momentum=0.01)


class MBConv(Module):
    """Expansion by 1x1, ``kernel_size`` squared per channel, projection by 1x1; x is added where the shape stays."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = in_channels * expansion
        self.residual = stride == 1 and in_channels == out_channels
        self._expand_conv = None
        if expansion != 1:
            self._expand_conv = SameConv2d(in_channels, hidden, 1)
            self._bn0 = _norm(hidden)
        self._depthwise_conv = SameConv2d(hidden, hidden, kernel_size, stride, groups=hidden)
        self._bn1 = _norm(hidden)
        self._project_conv = SameConv2d(hidden, out_channels, 1)
        self._bn2 = _norm(out_channels)

    def forward(self, x: Any) -> Any:
        y = x
        if self._expand_conv is not None:
            y = ops.relu6(self._bn0(self._expand_conv(y)))
        y = ops.relu6(self._bn1(self._depthwise_conv(y)))
        y = self._bn2(self._project_conv(y))
        return x + y if self.residual else y


class EfficientNetLite0(Module):
    """Images (N, 3, H, W), meant for 224x224, to logits (N, num_classes): 75.1 % top-1 on ImageNet as published.

    Its weights expect pixels as :meth:`preprocess` makes them.
    """

    #: kernel, channels, repetitions, stride of the first, expansion: table 1 of the paper (B0)
    STAGES = ((3, 16, 1, 1, 1), (3, 24, 2, 2, 6), (5, 40, 2, 2, 6), (3, 80, 3, 2, 6), (5, 112, 3, 1, 6),
              (5, 192, 4, 2, 6), (3, 320, 1, 1, 6))  # fmt: skip

    def __init__(self, num_classes: int = 1000, dropout: float = 0.2) -> None:
        super().__init__()
        self._conv_stem = SameConv2d(3, 32, 3, stride=2)
        self._bn0 = _norm(32)
        channels = 32
        blocks: list[Module] = []
        for kernel, width, repetitions, stride, expansion in self.STAGES:
            for i in range(repetitions):
                blocks.append(MBConv(channels, width, kernel, stride if i == 0 else 1, expansion))
                channels = width
        self._blocks = ModuleList(blocks)
        self._conv_head = SameConv2d(channels, 1280, 1)
        self._bn1 = _norm(1280)
        self._dropout = Dropout(dropout)
        self._fc = Linear(1280, num_classes)

    @staticmethod
    def crop(image: Any, size: int = 224) -> np.ndarray:
        """The middle 7/8 of a pillow image's shorter side, as bytes (size, size, 3)."""
        from PIL import Image

        image = image.convert("RGB")
        side = min(image.size) * 7 // 8
        left, top = ((n - side) // 2 for n in image.size)
        return np.asarray(
            image.crop((left, top, left + side, top + side)).resize((size, size), Image.Resampling.BICUBIC)
        )

    @staticmethod
    def preprocess(images: Any) -> np.ndarray:
        """Bytes (N, H, W, 3) to float32 (N, 3, H, W) in [-0.992, 1]: (byte - 127) / 128."""
        pixels = np.asarray(images, np.float32)
        return np.ascontiguousarray(pixels.transpose(0, 3, 1, 2) - 127) / 128

    def forward(self, x: Any) -> Any:
        x = ops.relu6(self._bn0(self._conv_stem(x)))
        for block in self._blocks:
            x = block(x)
        x = ops.relu6(self._bn1(self._conv_head(x)))
        return self._fc(self._dropout(ops.global_avg_pool(x)))
