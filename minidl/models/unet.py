"""U-Net: Ronneberger, Fischer and Brox, "U-Net: Convolutional Networks for Biomedical Image Segmentation", 2015."""

from __future__ import annotations

from typing import Any

from minidl import ops
from minidl.nn.activation import ReLU
from minidl.nn.container import ModuleList, Sequential
from minidl.nn.conv import Conv2d, ConvTranspose2d
from minidl.nn.dropout import Dropout
from minidl.nn.module import Module
from minidl.nn.normalization import BatchNorm2d


def double_conv(in_channels: int, channels: int, padding: int, norm: bool) -> Sequential:
    """Twice convolution 3x3, norm (if wanted) and ReLU."""
    layers: list[Module] = []
    for inputs in (in_channels, channels):
        layers.append(Conv2d(inputs, channels, 3, padding=padding, bias=not norm))
        if norm:
            layers.append(BatchNorm2d(channels))
        layers.append(ReLU())
    return Sequential(*layers)


class UNet(Module):
    """Images (N, in_channels, H, W) to logits per pixel (N, num_classes, H, W): figure 1 of the paper.

    On the way down each of ``depth`` levels halves the image and doubles the channels, ``width`` of them at first; on
    the way up each level joins what the level had on the way down. With ``padding`` (which most people use) the output
    has the size of the input, whose sides must be divisible by 2 ** depth; without it (the paper) each convolution
    loses a pixel at each border and what is joined is cropped: 572x572 becomes 388x388. The paper has no ``norm``, and
    ``dropout`` at the end of the way down.
    """

    def __init__(
        self,
        in_channels: int = 1,
        num_classes: int = 2,
        width: int = 64,
        depth: int = 4,
        padding: bool = True,
        norm: bool = True,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if depth < 1:
            raise ValueError(f"UNet: expected depth >= 1, got {depth}")
        self.depth, self.padding = depth, padding
        widths = [width * 2**i for i in range(depth + 1)]
        pad = 1 if padding else 0
        inputs = [in_channels, *widths[:-1]]
        self.down = ModuleList([double_conv(i, o, pad, norm) for i, o in zip(inputs, widths)])
        self.dropout = Dropout(dropout)
        self.up = ModuleList([ConvTranspose2d(2 * w, w, 2, stride=2) for w in reversed(widths[:-1])])
        self.join = ModuleList([double_conv(2 * w, w, pad, norm) for w in reversed(widths[:-1])])
        self.head = Conv2d(width, num_classes, 1)

    def forward(self, x: Any) -> Any:
        if self.padding and any(n % 2**self.depth for n in x.shape[2:]):
            raise ValueError(
                f"UNet: the sides of the image must be divisible by {2**self.depth}, got {tuple(x.shape[2:])}; "
                "pad the image"
            )
        kept = []
        for level in range(self.depth):
            x = self.down[level](x)
            kept.append(x)
            x = ops.max_pool2d(x, 2)
        x = self.dropout(self.down[self.depth](x))
        for up, join in zip(self.up, self.join):
            x = up(x)
            x = join(ops.concat([_crop(kept.pop(), x.shape), x], axis=1))
        return self.head(x)


def _crop(x: Any, shape: tuple[int, ...]) -> Any:
    """The middle of x (N, C, H, W) with the height and width of ``shape``."""
    top, left = ((a - b) // 2 for a, b in zip(x.shape[2:], shape[2:]))
    return x[:, :, top : top + shape[2], left : left + shape[3]]
