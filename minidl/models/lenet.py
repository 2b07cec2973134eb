"""LeNet-5, the convolutional network that read cheques."""

from __future__ import annotations

from typing import Any

from minidl import ops
from minidl.nn.conv import Conv2d
from minidl.nn.linear import Linear
from minidl.nn.module import Module


class LeNet5(Module):
    """conv 5x5 - pool - conv 5x5 - pool - dense 120 - dense 84 - dense ``num_classes``: 28x28 images to logits.

    LeCun, Bottou, Bengio and Haffner, "Gradient-based learning applied to document recognition", Proc. IEEE 1998,
    figure 2, with today's habits: every feature map of the second convolution sees all of the first's, and the last
    layer is a plain dense one. ``activation`` is ``"relu"`` or, as in 1998, ``"tanh"``; ``pool`` is ``"max"`` or, as in
    1998 but for its learned scale, ``"avg"``. Input (N, in_channels, 28, 28), output (N, num_classes).
    """

    def __init__(
        self, num_classes: int = 10, in_channels: int = 1, activation: str = "relu", pool: str = "max"
    ) -> None:
        super().__init__()
        if activation not in ("relu", "tanh"):
            raise ValueError(f"LeNet5: activation must be 'relu' or 'tanh', got {activation!r}")
        if pool not in ("max", "avg"):
            raise ValueError(f"LeNet5: pool must be 'max' or 'avg', got {pool!r}")
        self.activation = ops.relu if activation == "relu" else ops.tanh
        self.pool = ops.max_pool2d if pool == "max" else ops.avg_pool2d
        self.conv1 = Conv2d(in_channels, 6, 5, padding=2)
        self.conv2 = Conv2d(6, 16, 5)
        self.fc1 = Linear(16 * 5 * 5, 120)
        self.fc2 = Linear(120, 84)
        self.fc3 = Linear(84, num_classes)

    def forward(self, x: Any) -> Any:
        f = self.activation
        if x.ndim != 4 or tuple(x.shape[2:]) != (28, 28):
            raise ValueError(f"LeNet5: expected images (N, {self.conv1.in_channels}, 28, 28), got {ops.describe(x)}")
        x = self.pool(f(self.conv1(x)), 2)  # (N, 6, 14, 14)
        x = self.pool(f(self.conv2(x)), 2)  # (N, 16, 5, 5)
        x = f(self.fc1(ops.flatten(x, 1)))
        x = f(self.fc2(x))
        return self.fc3(x)
