"""Layers of several inputs."""

from __future__ import annotations

from functools import reduce
from typing import Any

from minidl import ops
from minidl.keras.engine import Layer


def _aligned(xs: list[Any]) -> list[Any]:
    """Inputs of fewer axes get axes of length 1 behind the batch's."""
    most = max(x.ndim for x in xs)
    return [
        x if x.ndim == most else ops.reshape(x, shape=(x.shape[0], *[1] * (most - x.ndim), *x.shape[1:])) for x in xs
    ]


class _Merge(Layer):
    supports_masking = True

    def compute_mask(self, inputs: Any, mask: Any) -> Any:
        masks = [m for m in mask or () if m is not None]
        return reduce(ops.logical_and, masks) if masks and len(masks) == len(inputs) else None

    def call(self, inputs: Any, *more: Any) -> Any:
        """Of a list of inputs; or of two, which is how Keras writes ``x + y``, and then broadcasts as NumPy does."""
        return self.merge([inputs, *more] if more else _aligned(list(inputs)))

    def merge(self, xs: list[Any]) -> Any:
        raise NotImplementedError


class Add(_Merge):
    """The sum of the inputs."""

    def merge(self, xs: list[Any]) -> Any:
        return reduce(ops.add, xs)


class Subtract(_Merge):
    """The first input less the second."""

    def merge(self, xs: list[Any]) -> Any:
        first, second = xs
        return first - second


class Multiply(_Merge):
    """The product of the inputs."""

    def merge(self, xs: list[Any]) -> Any:
        return reduce(ops.mul, xs)


class Average(_Merge):
    """The mean of the inputs."""

    def merge(self, xs: list[Any]) -> Any:
        return reduce(ops.add, xs) / len(xs)


class Maximum(_Merge):
    """The largest of the inputs, element by element."""

    def merge(self, xs: list[Any]) -> Any:
        return reduce(ops.maximum, xs)


class Minimum(_Merge):
    """The smallest of the inputs, element by element."""

    def merge(self, xs: list[Any]) -> Any:
        return reduce(ops.minimum, xs)


class Concatenate(_Merge):
    """The inputs joined along ``axis``."""

    def __init__(self, axis: int = -1, **options: Any) -> None:
        super().__init__(**options)
        self.axis = axis

    def call(self, inputs: Any) -> Any:
        return ops.concat(list(inputs), axis=self.axis)


def _unit(x: Any, axis: int) -> Any:
    return x * ops.rsqrt(ops.maximum(ops.sum(x * x, axis=axis, keepdims=True), 1e-12))


class Dot(Layer):
    """Sums of products of two inputs along ``axes`` (one number, or one for each); ``normalize`` makes them cosines."""

    def __init__(self, axes: int | list[int], normalize: bool = False, **options: Any) -> None:
        super().__init__(**options)
        self.axes, self.normalize = axes, normalize

    def call(self, inputs: Any) -> Any:
        a, b = inputs
        i, j = (self.axes, self.axes) if isinstance(self.axes, int) else self.axes
        if self.normalize:
            a, b = (
                x * ops.rsqrt(ops.maximum(ops.sum(x * x, axis=n, keepdims=True), 1e-12)) for x, n in ((a, i), (b, j))
            )
        a, b = ops.moveaxis(a, i, -1), ops.moveaxis(b, j, 1)
        rest_a, rest_b = a.shape[1:-1], b.shape[2:]
        n = a.shape[0]
        out = ops.matmul(ops.reshape(a, shape=(n, -1, a.shape[-1])), ops.reshape(b, shape=(n, b.shape[1], -1)))
        shape = (n, *rest_a, *rest_b)
        return ops.reshape(out, shape=shape if len(shape) > 1 else (n, 1))
