"""Noise in training: dropout and its kin. In evaluation the input stays as it is."""

from __future__ import annotations

from typing import Any

from minidl import ops
from minidl.creation import ones, randn
from minidl.keras.engine import Layer


class _Noise(Layer):
    supports_masking = True

    def __init__(self, rate: float, seed: Any = None, noise_shape: Any = None, **options: Any) -> None:
        super().__init__(**options)
        if not 0 <= rate <= 1:
            raise ValueError(f"{type(self).__name__}: expected a rate in [0, 1], got {rate}")
        self.rate, self.noise_shape = rate, noise_shape

    def shape_of(self, x: Any) -> tuple[int, ...]:
        """The shape of the zeros and ones drawn, which is broadcast over the others."""
        given = self.noise_shape or x.shape
        return tuple(x.shape[i] if n is None else n for i, n in enumerate(given))

    def call(self, x: Any, training: bool | None = None) -> Any:
        if not training or not self.rate:
            return x
        shape = self.shape_of(x)
        if shape == tuple(x.shape):
            return ops.dropout(x, self.rate, True)
        return x * ops.dropout(ones(*shape, dtype=x.dtype), self.rate, True)


class Dropout(_Noise):
    """Each element is 0 with probability ``rate``, the others are divided by 1 - rate."""


class SpatialDropout1D(_Noise):
    """Dropout of whole channels of (N, steps, channels)."""

    def shape_of(self, x: Any) -> tuple[int, ...]:
        return (x.shape[0], *[1] * (x.ndim - 2), x.shape[-1])


class SpatialDropout2D(SpatialDropout1D):
    """Dropout of whole channels of images."""

    def __init__(self, rate: float, data_format: Any = None, **options: Any) -> None:
        super().__init__(rate, **options)


class SpatialDropout3D(SpatialDropout2D):
    """Dropout of whole channels of volumes."""


class GaussianNoise(Layer):
    """Adds normal noise of deviation ``stddev``."""

    supports_masking = True

    def __init__(self, stddev: float, seed: Any = None, **options: Any) -> None:
        super().__init__(**options)
        self.stddev = stddev

    def call(self, x: Any, training: bool | None = None) -> Any:
        return x + self.stddev * randn(*x.shape) if training else x


class GaussianDropout(Layer):
    """Multiplies by normal noise of mean 1 and variance rate / (1 - rate)."""

    supports_masking = True

    def __init__(self, rate: float, seed: Any = None, **options: Any) -> None:
        super().__init__(**options)
        self.rate = rate

    def call(self, x: Any, training: bool | None = None) -> Any:
        return x * (1 + (self.rate / (1 - self.rate)) ** 0.5 * randn(*x.shape)) if training else x
