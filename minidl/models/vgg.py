"""VGG-11 to VGG-19, with torchvision's module names, so that its state_dicts load by name.

Simonyan and Zisserman, "Very Deep Convolutional Networks for Large-Scale Image Recognition", ICLR 2015: configurations
A, B, D and E of table 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from minidl import ops
from minidl.nn import init
from minidl.nn.activation import ReLU
from minidl.nn.container import Sequential
from minidl.nn.conv import Conv2d
from minidl.nn.dropout import Dropout
from minidl.nn.linear import Linear
from minidl.nn.module import Module
from minidl.nn.normalization import BatchNorm2d
from minidl.nn.pooling import AdaptiveAvgPool2d, MaxPool2d

_WIDTHS = (64, 128, 256, 512, 512)


class VGG(Module):
    """Images (N, in_channels, H, W), at least 32x32, to logits (N, num_classes).

    Five stages of 3x3 convolutions, ``depths`` of them in each, end in a 2x2 max-pooling; three linear layers follow.
    With ``batch_norm`` each convolution is normalized, which the paper does not do.
    """

    def __init__(
        self,
        depths: Sequence[int],
        num_classes: int = 1000,
        batch_norm: bool = False,
        dropout: float = 0.5,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        layers: list[Module] = []
        for depth, width in zip(depths, _WIDTHS, strict=True):
            for _ in range(depth):
                layers.append(Conv2d(in_channels, width, 3, padding=1))
                if batch_norm:
                    layers.append(BatchNorm2d(width))
                layers.append(ReLU())
                in_channels = width
            layers.append(MaxPool2d(2))
        self.features = Sequential(*layers)
        self.avgpool = AdaptiveAvgPool2d(7)
        self.classifier = Sequential(
            Linear(512 * 7 * 7, 4096), ReLU(), Dropout(dropout),
            Linear(4096, 4096), ReLU(), Dropout(dropout),
            Linear(4096, num_classes),
        )  # fmt: skip
        for layer in layers:
            if isinstance(layer, Conv2d):
                init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Any) -> Any:
        x = self.avgpool(self.features(x))
        return self.classifier(ops.flatten(x, 1))


def vgg11(num_classes: int = 1000, batch_norm: bool = False) -> VGG:
    """VGG-11 (configuration A); see :class:`VGG`."""
    return VGG((1, 1, 2, 2, 2), num_classes, batch_norm)


def vgg13(num_classes: int = 1000, batch_norm: bool = False) -> VGG:
    """VGG-13 (configuration B); see :class:`VGG`."""
    return VGG((2, 2, 2, 2, 2), num_classes, batch_norm)


def vgg16(num_classes: int = 1000, batch_norm: bool = False) -> VGG:
    """VGG-16 (configuration D); see :class:`VGG`."""
    return VGG((2, 2, 3, 3, 3), num_classes, batch_norm)


def vgg19(num_classes: int = 1000, batch_norm: bool = False) -> VGG:
    """VGG-19 (configuration E); see :class:`VGG`."""
    return VGG((2, 2, 4, 4, 4), num_classes, batch_norm)
