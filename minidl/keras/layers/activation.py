"""Activations as layers."""

from __future__ import annotations

from typing import Any

from minidl import ops
from minidl.keras import activations
from minidl.keras.engine import Layer
from minidl.keras.layers.core import without_penalties


class Activation(Layer):
    """An activation by its name."""

    supports_masking = True

    def __init__(self, activation: Any, **options: Any) -> None:
        super().__init__(**options)
        self.activation = activations.get(activation)

    def call(self, x: Any) -> Any:
        return self.activation(x)


class ReLU(Layer):
    """f(x) = x for x >= threshold, at most ``max_value``, and ``negative_slope`` * (x - threshold) below."""

    supports_masking = True

    def __init__(
        self, max_value: float | None = None, negative_slope: float = 0.0, threshold: float = 0.0, **options: Any
    ) -> None:
        super().__init__(**options)
        self.max_value, self.negative_slope, self.threshold = max_value, negative_slope or 0.0, threshold or 0.0

    def call(self, x: Any) -> Any:
        if not self.threshold and not self.negative_slope:
            y = ops.relu(x)
        else:
            y = ops.where(x >= self.threshold, x, self.negative_slope * (x - self.threshold))
        return y if self.max_value is None else ops.minimum(y, self.max_value)


class LeakyReLU(Layer):
    """x, times ``negative_slope`` where it is negative."""

    supports_masking = True

    def __init__(self, negative_slope: float = 0.3, alpha: float | None = None, **options: Any) -> None:
        super().__init__(**options)
        self.negative_slope = float(negative_slope if alpha is None else alpha)

    def call(self, x: Any) -> Any:
        return ops.leaky_relu(x, negative_slope=self.negative_slope)


class PReLU(Layer):
    """x, times the learned ``alpha`` where it is negative; alpha is shared along ``shared_axes``."""

    supports_masking = True

    def __init__(self, alpha_initializer: Any = "zeros", shared_axes: Any = None, **options: Any) -> None:
        super().__init__(**without_penalties(self, options))
        self.alpha_initializer, self.shared_axes = alpha_initializer, shared_axes or ()

    def build(self, input_shape: Any) -> None:
        shape = [1 if i in self.shared_axes else n for i, n in enumerate(input_shape)][1:]
        self.add_weight(shape, self.alpha_initializer, "alpha")

    def call(self, x: Any) -> Any:
        return ops.relu(x) - self.alpha * ops.relu(-x)


class ELU(Layer):
    """x, or alpha (exp(x) - 1) where it is negative."""

    supports_masking = True

    def __init__(self, alpha: float = 1.0, **options: Any) -> None:
        super().__init__(**options)
        self.alpha = float(alpha)

    def call(self, x: Any) -> Any:
        return ops.elu(x, alpha=self.alpha)


class Softmax(Layer):
    """Softmax along ``axis``; a boolean ``mask`` leaves elements out."""

    supports_masking = True

    def __init__(self, axis: int | list[int] = -1, **options: Any) -> None:
        super().__init__(**options)
        self.axis = axis if isinstance(axis, int) else tuple(axis)

    def call(self, x: Any) -> Any:
        if isinstance(self.axis, int):
            return ops.softmax(x, axis=self.axis)
        return ops.exp(x - ops.logsumexp(x, axis=self.axis, keepdims=True))
