"""A small convolutional network for small images such as CIFAR-10's and Fashion-MNIST's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from minidl import ops
from minidl.nn.activation import ReLU
from minidl.nn.container import Sequential
from minidl.nn.conv import Conv2d
from minidl.nn.dropout import Dropout
from minidl.nn.linear import Linear
from minidl.nn.module import Module
from minidl.nn.normalization import BatchNorm2d
from minidl.nn.pooling import MaxPool2d


class ConvNet(Module):
    """Blocks of conv 3x3 - batch norm - relu, each ending in a 2x2 max-pooling; then global mean, dropout, linear.

    ``channels`` has one entry per block, and each block repeats its convolution ``depth`` times. Each block halves the
    image, so the sides must be at least 2 ** len(channels). Input (N, in_channels, H, W), output (N, num_classes).
    """

    def __init__(
        self,
        channels: Sequence[int] = (32, 64, 128, 256),
        num_classes: int = 10,
        in_channels: int = 3,
        depth: int = 1,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        layers: list[Module] = []
        for width in channels:
            for _ in range(depth):
                layers += [Conv2d(in_channels, width, 3, padding=1, bias=False), BatchNorm2d(width), ReLU()]
                in_channels = width
            layers.append(MaxPool2d(2))
        self.features = Sequential(*layers)
        self.dropout = Dropout(dropout)
        self.fc = Linear(in_channels, num_classes)

    def forward(self, x: Any) -> Any:
        x = ops.global_avg_pool(self.features(x))
        return self.fc(self.dropout(x))
