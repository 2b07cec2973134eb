"""What convolutions and pooling share: sizes per axis, channels last, and TensorFlow's padding."""

from __future__ import annotations

from typing import Any

from minidl import ops


def per_axis(name: str, value: int | tuple[int, ...], axes: int) -> tuple[int, ...]:
    """A number per axis, from one for all or one each."""
    values = (value,) * axes if isinstance(value, int) else tuple(value)
    if len(values) != axes:
        raise ValueError(f"expected {axes} numbers for {name}, got {value!r}")
    return values


def channels_last(data_format: str | None) -> bool:
    """Whether channels are the last axis (the default) or the second. Raises ValueError for another name."""
    if data_format not in (None, "channels_last", "channels_first"):
        raise ValueError(f"expected data_format 'channels_last' or 'channels_first', got {data_format!r}")
    return data_format != "channels_first"


def channels_second(x: Any) -> Any:
    """(N, *size, C) to (N, C, *size), which is how minidl's operations have it."""
    return ops.moveaxis(x, -1, 1)


def back(x: Any) -> Any:
    """The opposite of :func:`channels_second`."""
    return ops.moveaxis(x, 1, -1)


def same_padding(size: int, kernel: int, stride: int, dilation: int = 1) -> tuple[int, int]:
    """Padding (before, after) with which windows make ceil(size / stride) of ``size``; the pixel too many is behind."""
    total = max((-(-size // stride) - 1) * stride + (kernel - 1) * dilation + 1 - size, 0)
    return total // 2, total - total // 2


def pad_same(x: Any, kernel: Any, stride: Any, dilation: Any, value: float = 0.0) -> Any:
    """x (N, C, *size), padded as by :func:`same_padding`."""
    widths = [same_padding(n, k, s, d) for n, k, s, d in zip(x.shape[2:], kernel, stride, dilation)]
    return ops.pad_nd(x, widths=((0, 0), (0, 0), *widths), value=value) if any(map(any, widths)) else x
