"""MobileNetV2 and MobileNetV3, with torchvision's module names, so that its state_dicts load by name.

Sandler et al., "MobileNetV2: Inverted Residuals and Linear Bottlenecks", CVPR 2018; Howard et al., "Searching for
MobileNetV3", ICCV 2019.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from minidl import ops
from minidl.nn import init
from minidl.nn.activation import Hardsigmoid, Hardswish, ReLU, ReLU6
from minidl.nn.container import Sequential
from minidl.nn.conv import Conv2d
from minidl.nn.dropout import Dropout
from minidl.nn.linear import Linear
from minidl.nn.module import Module
from minidl.nn.normalization import BatchNorm2d
from minidl.nn.pooling import AdaptiveAvgPool2d


def conv_norm(
    in_channels: int,
    out_channels: int,
    kernel_size: int,
    stride: int = 1,
    groups: int = 1,
    activation: type[Module] | None = ReLU6,
    eps: float = 1e-5,
    momentum: float = 0.1,
) -> Sequential:
    """Convolution that keeps the size (at stride 1), batch norm, activation."""
    layers = [
        Conv2d(
            in_channels, out_channels, kernel_size, stride, padding=kernel_size // 2, groups=groups, bias=False
        ),
        BatchNorm2d(out_channels, eps=eps, momentum=momentum),
    ]  # fmt: skip
    return Sequential(*layers, *([] if activation is None else [activation()]))


def divisible(channels: float, by: int = 8) -> int:
    """The multiple of ``by`` nearest to ``channels``, and not more than 10 % below it."""
    nearest = max(by, int(channels + by / 2) // by * by)
    return nearest + by if nearest < 0.9 * channels else nearest


def _initialize(model: Module) -> None:
    for module in model.modules():
        if isinstance(module, Conv2d):
            init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, Linear):
            init.normal_(module.weight, 0.0, 0.01)
            if module.bias is not None:
                init.zeros_(module.bias)


class InvertedResidualV2(Module):
    """1x1 to ``expansion`` times the channels, 3x3 per channel, 1x1 back: figure 3b and table 1 of the V2 paper.

    The last one has no activation, so that it loses nothing; x is added where the shape stays.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = in_channels * expansion
        self.residual = stride == 1 and in_channels == out_channels
        self.conv = Sequential(
            *([conv_norm(in_channels, hidden, 1)] if expansion != 1 else []),
            conv_norm(hidden, hidden, 3, stride, groups=hidden),
            Conv2d(hidden, out_channels, 1, bias=False),
            BatchNorm2d(out_channels),
        )

    def forward(self, x: Any) -> Any:
        return x + self.conv(x) if self.residual else self.conv(x)


class MobileNetV2(Module):
    """Images (N, 3, H, W) to logits (N, num_classes): table 2 of the V2 paper, all widths times ``width_mult``."""

    #: expansion t, channels c, repetitions n, stride s of the first of them
    STAGES = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))

    def __init__(self, num_classes: int = 1000, width_mult: float = 1.0, dropout: float = 0.2) -> None:
        super().__init__()
        channels = divisible(32 * width_mult)
        layers: list[Module] = [conv_norm(3, channels, 3, stride=2)]
        for t, c, n, s in self.STAGES:
            width = divisible(c * width_mult)
            for i in range(n):
                layers.append(InvertedResidualV2(channels, width, s if i == 0 else 1, t))
                channels = width
        last = divisible(1280 * max(1.0, width_mult))
        layers.append(conv_norm(channels, last, 1))
        self.features = Sequential(*layers)
        self.classifier = Sequential(Dropout(dropout), Linear(last, num_classes))
        _initialize(self)

    def forward(self, x: Any) -> Any:
        return self.classifier(ops.global_avg_pool(self.features(x)))


class SqueezeExcitation(Module):
    """Scales each channel by a number in (0, 1) computed from the means of all: Hu et al., CVPR 2018."""

    def __init__(self, channels: int, squeezed: int) -> None:
        super().__init__()
        self.avgpool = AdaptiveAvgPool2d(1)
        self.fc1 = Conv2d(channels, squeezed, 1)
        self.fc2 = Conv2d(squeezed, channels, 1)
        self.activation = ReLU()
        self.scale_activation = Hardsigmoid()

    def forward(self, x: Any) -> Any:
        scale = self.fc2(self.activation(self.fc1(self.avgpool(x))))
        return x * self.scale_activation(scale)


class Bneck(NamedTuple):
    """A row of tables 1 and 2 of the V3 paper."""

    kernel: int
    expanded: int
    out: int
    squeeze: bool
    activation: type[Module]
    stride: int


class InvertedResidualV3(Module):
    """The V2 block with squeeze-and-excitation and a choice of activation: figure 4 of the V3 paper."""

    def __init__(self, in_channels: int, row: Bneck) -> None:
        super().__init__()
        self.residual = row.stride == 1 and in_channels == row.out
        norm: Any = {"eps": 0.001, "momentum": 0.01}
        layers: list[Module] = []
        if row.expanded != in_channels:
            layers.append(conv_norm(in_channels, row.expanded, 1, activation=row.activation, **norm))
        layers.append(
            conv_norm(
                row.expanded, row.expanded, row.kernel, row.stride, row.expanded, activation=row.activation, **norm
            )
        )
        if row.squeeze:
            layers.append(SqueezeExcitation(row.expanded, divisible(row.expanded // 4)))
        layers.append(conv_norm(row.expanded, row.out, 1, activation=None, **norm))
        self.block = Sequential(*layers)

    def forward(self, x: Any) -> Any:
        return x + self.block(x) if self.residual else self.block(x)


RE, HS = ReLU, Hardswish
LARGE = (
    Bneck(3, 16, 16, False, RE, 1),
    Bneck(3, 64, 24, False, RE, 2),
    Bneck(3, 72, 24, False, RE, 1),
    Bneck(5, 72, 40, True, RE, 2),
    Bneck(5, 120, 40, True, RE, 1),
    Bneck(5, 120, 40, True, RE, 1),
    Bneck(3, 240, 80, False, HS, 2),
    Bneck(3, 200, 80, False, HS, 1),
    Bneck(3, 184, 80, False, HS, 1),
    Bneck(3, 184, 80, False, HS, 1),
    Bneck(3, 480, 112, True, HS, 1),
    Bneck(3, 672, 112, True, HS, 1),
    Bneck(5, 672, 160, True, HS, 2),
    Bneck(5, 960, 160, True, HS, 1),
    Bneck(5, 960, 160, True, HS, 1),
)
SMALL = (
    Bneck(3, 16, 16, True, RE, 2),
    Bneck(3, 72, 24, False, RE, 2),
    Bneck(3, 88, 24, False, RE, 1),
    Bneck(5, 96, 40, True, HS, 2),
    Bneck(5, 240, 40, True, HS, 1),
    Bneck(5, 240, 40, True, HS, 1),
    Bneck(5, 120, 48, True, HS, 1),
    Bneck(5, 144, 48, True, HS, 1),
    Bneck(5, 288, 96, True, HS, 2),
    Bneck(5, 576, 96, True, HS, 1),
    Bneck(5, 576, 96, True, HS, 1),
)


class MobileNetV3(Module):
    """Images (N, 3, H, W) to logits (N, num_classes): ``rows`` are those of table 1 or 2 of the V3 paper."""

    def __init__(self, rows: Sequence[Bneck], hidden: int, num_classes: int = 1000, dropout: float = 0.2) -> None:
        super().__init__()
        norm: Any = {"eps": 0.001, "momentum": 0.01}
        channels = 16
        layers: list[Module] = [conv_norm(3, channels, 3, stride=2, activation=Hardswish, **norm)]
        for row in rows:
            layers.append(InvertedResidualV3(channels, row))
            channels = row.out
        layers.append(conv_norm(channels, 6 * channels, 1, activation=Hardswish, **norm))
        self.features = Sequential(*layers)
        self.classifier = Sequential(
            Linear(6 * channels, hidden), Hardswish(), Dropout(dropout), Linear(hidden, num_classes)
        )
        _initialize(self)

    def forward(self, x: Any) -> Any:
        return self.classifier(ops.global_avg_pool(self.features(x)))


def mobilenet_v2(num_classes: int = 1000, width_mult: float = 1.0) -> MobileNetV2:
    """MobileNetV2; see :class:`MobileNetV2`."""
    return MobileNetV2(num_classes, width_mult)


def mobilenet_v3_large(num_classes: int = 1000) -> MobileNetV3:
    """MobileNetV3-Large (table 1 of the paper); see :class:`MobileNetV3`."""
    return MobileNetV3(LARGE, 1280, num_classes)


def mobilenet_v3_small(num_classes: int = 1000) -> MobileNetV3:
    """MobileNetV3-Small (table 2 of the paper); see :class:`MobileNetV3`."""
    return MobileNetV3(SMALL, 1024, num_classes)
