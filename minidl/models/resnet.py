"""ResNet-18 to ResNet-152, with torchvision's module names, so that its state_dicts load by name.

He, Zhang, Ren and Sun, "Deep Residual Learning for Image Recognition", CVPR 2016.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from minidl import ops
from minidl.models.family import Config, Family
from minidl.nn import init
from minidl.nn.container import Sequential
from minidl.nn.conv import Conv2d
from minidl.nn.linear import Linear
from minidl.nn.module import Module
from minidl.nn.normalization import BatchNorm2d


class BasicBlock(Module):
    """relu(F(x) + x), where F is conv 3x3 - norm - relu - conv 3x3 - norm: equation 1 and figure 2 of the paper.

    The first convolution has the block's ``stride``. Where the shape changes, x goes through a 1x1 convolution and norm
    of its own (equation 2).
    """

    expansion = 1

    def __init__(self, in_channels: int, channels: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = Conv2d(in_channels, channels, 3, stride=stride, padding=1, bias=False)
        self.bn1 = BatchNorm2d(channels)
        self.conv2 = Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = BatchNorm2d(channels)
        self.downsample = None
        if stride != 1 or in_channels != channels:
            self.downsample = Sequential(
                Conv2d(in_channels, channels, 1, stride=stride, bias=False), BatchNorm2d(channels)
            )

    def forward(self, x: Any) -> Any:
        out = ops.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        return ops.relu(out + (x if self.downsample is None else self.downsample(x)))


class Bottleneck(Module):
    """relu(F(x) + x), where F is conv 1x1 - 3x3 - 1x1, each with norm, the last with four times the channels: figure 5.

    As in torchvision (and not in the paper), the 3x3 convolution has the ``stride``.
    """

    expansion = 4

    def __init__(self, in_channels: int, channels: int, stride: int = 1) -> None:
        super().__init__()
        out = channels * self.expansion
        self.conv1 = Conv2d(in_channels, channels, 1, bias=False)
        self.bn1 = BatchNorm2d(channels)
        self.conv2 = Conv2d(channels, channels, 3, stride=stride, padding=1, bias=False)
        self.bn2 = BatchNorm2d(channels)
        self.conv3 = Conv2d(channels, out, 1, bias=False)
        self.bn3 = BatchNorm2d(out)
        self.downsample = None
        if stride != 1 or in_channels != out:
            self.downsample = Sequential(Conv2d(in_channels, out, 1, stride=stride, bias=False), BatchNorm2d(out))

    def forward(self, x: Any) -> Any:
        out = ops.relu(self.bn1(self.conv1(x)))
        out = ops.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        return ops.relu(out + (x if self.downsample is None else self.downsample(x)))


class ResNet(Module):
    """Images (N, in_channels, H, W) to logits (N, num_classes): stem, four stages of ``blocks`` blocks, global mean.

    Stages have 64, 128, 256 and 512 channels (four times as many leave a :class:`Bottleneck`); all but the first begin
    by halving the image. The stem is, for ImageNet, a 7x7 convolution of stride 2 and a 3x3 max-pooling of stride 2,
    and with ``small_input`` (CIFAR's 32x32) a single 3x3 convolution.

    >>> from minidl import zeros
    >>> resnet18(10, small_input=True)(zeros(1, 3, 32, 32)).shape
    (1, 10)
    """

    def __init__(
        self,
        blocks: Sequence[int],
        num_classes: int = 1000,
        small_input: bool = False,
        in_channels: int = 3,
        block: type[BasicBlock] | type[Bottleneck] = BasicBlock,
    ) -> None:
        super().__init__()
        self.small_input = small_input
        if small_input:
            self.conv1 = Conv2d(in_channels, 64, 3, padding=1, bias=False)
        else:
            self.conv1 = Conv2d(in_channels, 64, 7, stride=2, padding=3, bias=False)
        self.bn1 = BatchNorm2d(64)
        expansion = block.expansion
        self.layer1 = self._stage(block, 64, 64, blocks[0], stride=1)
        self.layer2 = self._stage(block, 64 * expansion, 128, blocks[1], stride=2)
        self.layer3 = self._stage(block, 128 * expansion, 256, blocks[2], stride=2)
        self.layer4 = self._stage(block, 256 * expansion, 512, blocks[3], stride=2)
        self.fc = Linear(512 * expansion, num_classes)
        for module in self.modules():
            if isinstance(module, Conv2d):
                init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    @staticmethod
    def _stage(block: Any, in_channels: int, channels: int, blocks: int, stride: int) -> Sequential:
        first = block(in_channels, channels, stride)
        return Sequential(first, *(block(channels * block.expansion, channels) for _ in range(blocks - 1)))

    def forward(self, x: Any) -> Any:
        x = ops.relu(self.bn1(self.conv1(x)))
        if not self.small_input:
            x = ops.max_pool2d(x, 3, stride=2, padding=1)
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(ops.global_avg_pool(x))


def resnet18(num_classes: int = 1000, small_input: bool = False, in_channels: int = 3) -> ResNet:
    """ResNet-18 (table 1 of the paper); see :class:`ResNet`."""
    return ResNet((2, 2, 2, 2), num_classes, small_input, in_channels)


def resnet34(num_classes: int = 1000, small_input: bool = False, in_channels: int = 3) -> ResNet:
    """ResNet-34 (table 1 of the paper); see :class:`ResNet`."""
    return ResNet((3, 4, 6, 3), num_classes, small_input, in_channels)


def resnet50(num_classes: int = 1000, small_input: bool = False, in_channels: int = 3) -> ResNet:
    """ResNet-50 (table 1 of the paper); see :class:`ResNet`."""
    return ResNet((3, 4, 6, 3), num_classes, small_input, in_channels, Bottleneck)


def resnet101(num_classes: int = 1000, small_input: bool = False, in_channels: int = 3) -> ResNet:
    """ResNet-101 (table 1 of the paper); see :class:`ResNet`."""
    return ResNet((3, 4, 23, 3), num_classes, small_input, in_channels, Bottleneck)


def resnet152(num_classes: int = 1000, small_input: bool = False, in_channels: int = 3) -> ResNet:
    """ResNet-152 (table 1 of the paper); see :class:`ResNet`."""
    return ResNet((3, 8, 36, 3), num_classes, small_input, in_channels, Bottleneck)


@dataclasses.dataclass
class ResNetConfig(Config):
    """A ResNet's settings in Hugging Face's folders, for those that :class:`ResNet` can be."""

    embedding_size: int = 64
    hidden_sizes: list[int] = dataclasses.field(default_factory=lambda: [256, 512, 1024, 2048])
    depths: list[int] = dataclasses.field(default_factory=lambda: [3, 4, 6, 3])
    layer_type: str = "bottleneck"
    num_channels: int = 3
    num_labels: int = 2
    id2label: dict | None = None

    ONLY = {
        "layer_type": ("basic", "bottleneck"),
        "hidden_act": ("relu",),
        "downsample_in_first_stage": (False,),
        "downsample_in_bottleneck": (False,),
    }

    def layers(self) -> int:
        return sum(self.depths)


def from_config(config: ResNetConfig) -> ResNet:
    """The :class:`ResNet` that a Hugging Face folder describes. Raises ValueError for other widths than the paper's."""
    block = BasicBlock if config.layer_type == "basic" else Bottleneck
    widths = [64 * block.expansion * 2**i for i in range(4)]
    if config.embedding_size != 64 or config.hidden_sizes != widths or len(config.depths) != 4:
        raise ValueError(
            f"embedding_size {config.embedding_size}, hidden_sizes {config.hidden_sizes!s:.80} and "
            f"{len(config.depths)} depths; written for 64, {widths} and 4"
        )
    return ResNet(config.depths, config.num_labels, in_channels=config.num_channels, block=block)


_STAGES = tuple((rf"^(resnet\.)?encoder\.stages\.{i}\.layers\.", f"layer{i + 1}.") for i in range(4))
_CONVOLUTIONS = tuple((rf"\.layer\.{i}\.convolution\.", f".conv{i + 1}.") for i in range(3))
_NORMS = tuple((rf"\.layer\.{i}\.normalization\.", f".bn{i + 1}.") for i in range(3))

FAMILIES = {
    "resnet": Family(
        ResNetConfig,
        {"ResNetForImageClassification": from_config},
        renames=(
            (r"^(resnet\.)?embedder\.embedder\.convolution\.", "conv1."),
            (r"^(resnet\.)?embedder\.embedder\.normalization\.", "bn1."),
            *_STAGES,
            (r"\.shortcut\.convolution\.", ".downsample.0."),
            (r"\.shortcut\.normalization\.", ".downsample.1."),
            *_CONVOLUTIONS,
            *_NORMS,
            (r"^classifier\.1\.", "fc."),
        ),
    )
}
