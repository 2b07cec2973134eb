"""AlexNet, with torchvision's module names, so that its state_dicts load by name.

Krizhevsky, Sutskever and Hinton, "ImageNet Classification with Deep Convolutional Neural Networks", NeurIPS 2012, in
the one-column form of Krizhevsky, "One weird trick for parallelizing convolutional neural networks", 2014.
"""

from __future__ import annotations

from typing import Any

from minidl import ops
from minidl.nn.activation import ReLU
from minidl.nn.container import Sequential
from minidl.nn.conv import Conv2d
from minidl.nn.dropout import Dropout
from minidl.nn.linear import Linear
from minidl.nn.module import Module
from minidl.nn.pooling import AdaptiveAvgPool2d, MaxPool2d


class AlexNet(Module):
    """Images (N, in_channels, H, W), at least 63x63, to logits (N, num_classes).

    Five convolutions and three linear layers. The paper's images are 224x224; others fit because the last feature maps
    are averaged to 6x6.
    """

    def __init__(self, num_classes: int = 1000, dropout: float = 0.5, in_channels: int = 3) -> None:
        super().__init__()
        self.features = Sequential(
            Conv2d(in_channels, 64, 11, stride=4, padding=2), ReLU(), MaxPool2d(3, stride=2),
            Conv2d(64, 192, 5, padding=2), ReLU(), MaxPool2d(3, stride=2),
            Conv2d(192, 384, 3, padding=1), ReLU(),
            Conv2d(384, 256, 3, padding=1), ReLU(),
            Conv2d(256, 256, 3, padding=1), ReLU(), MaxPool2d(3, stride=2),
        )  # fmt: skip
        self.avgpool = AdaptiveAvgPool2d(6)
        self.classifier = Sequential(
            Dropout(dropout), Linear(256 * 6 * 6, 4096), ReLU(),
            Dropout(dropout), Linear(4096, 4096), ReLU(),
            Linear(4096, num_classes),
        )  # fmt: skip

    def forward(self, x: Any) -> Any:
        x = self.avgpool(self.features(x))
        return self.classifier(ops.flatten(x, 1))


def alexnet(num_classes: int = 1000, dropout: float = 0.5) -> AlexNet:
    """AlexNet; see :class:`AlexNet`."""
    return AlexNet(num_classes, dropout)
