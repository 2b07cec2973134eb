"""Pooling of windows in one and two dimensions, and the gradient of max pooling in any number."""

from __future__ import annotations

import math
from typing import Any

import cupy
import numpy as np

from minidl.backend import kernel
from minidl.ops.pooling import output_size
from minidl_kernels.cupy.launch import FLOATS, accumulation, contiguous, floats, launch, over_elements


def _two(values: tuple[int, ...], fill: int) -> tuple[int, ...]:
    """Sizes along two axes; one-dimensional images are of height 1."""
    return values if len(values) == 2 else (fill, *values)


def _window(size: tuple, out_size: tuple, kernel_size: tuple, stride: tuple, padding: tuple) -> list[int]:
    """The ints that ``pooling.cu`` calls WINDOW_PARAMETERS, after the number of planes."""
    pairs = ((size, 1), (out_size, 1), (kernel_size, 1), (stride, 1), (padding, 0))
    return [int(n) for values, fill in pairs for n in _two(tuple(values), fill)]


def _max(x: Any, *, kernel_size: tuple, stride: tuple, padding: tuple, dilation: tuple, ceil_mode: bool) -> bool:
    """floating-point array, not empty; every window meets a pixel (else the reference raises an error)"""
    if not floats(x):
        return False
    for n, k, s, p, d in zip(x.shape[2:], kernel_size, stride, padding, dilation):
        try:
            (out,) = output_size("", (n,), (k,), (s,), (p,), (d,), ceil_mode)
        except ValueError:
            return False
        begin = np.arange(out) * s - p
        first = begin + np.maximum(-(begin // d), 0) * d
        if (first >= n).any():
            return False
    return True


def _declare_max(dimensions: int) -> None:
    name = f"max_pool{dimensions}d"

    @kernel(name, backend="cupy", when=_max, dtypes=FLOATS, note="a thread per output")
    def max_pool(
        x: Any, *, kernel_size: tuple, stride: tuple, padding: tuple, dilation: tuple, ceil_mode: bool
    ) -> tuple[Any, Any]:
        x = contiguous(x)
        out_size = output_size(name, x.shape[2:], kernel_size, stride, padding, dilation, ceil_mode)
        shape = (*x.shape[:2], *out_size)
        out, indices = cupy.empty(shape, x.dtype), cupy.empty(shape, np.int64)
        window = _window(x.shape[2:], out_size, kernel_size, stride, padding)
        launch(
            "pooling", "max_pool<T>", x.dtype, *over_elements(out.size),
            x, out, indices, math.prod(x.shape[:2]), *window, *_two(tuple(dilation), 1),
        )  # fmt: skip
        return out, indices

    max_pool.__name__ = max_pool.__qualname__ = name


def _grad(dout: Any, indices: Any, *, input_size: tuple) -> bool:
    """floating-point gradient, not empty; indices int64"""
    return floats(dout) and isinstance(indices, cupy.ndarray) and indices.dtype == np.int64


@kernel("max_pool_grad", backend="cupy", when=_grad, dtypes=FLOATS, note="a warp per plane, sums in a fixed order")
def max_pool_grad(dout: Any, indices: Any, *, input_size: tuple) -> Any:
    g, indices = contiguous(dout, indices)
    planes, pixels = math.prod(g.shape[:2]), math.prod(input_size)
    image = cupy.zeros((*g.shape[:2], *input_size), accumulation(g.dtype))
    launch(
        "pooling", "max_pool_grad<T>", g.dtype, (-(-planes // 4),), (32, 4),
        g, indices, planes, g.size // planes, pixels, image,
    )  # fmt: skip
    return image.astype(g.dtype, copy=False)


def _avg(x: Any, **params: Any) -> bool:
    """floating-point array, not empty"""
    return floats(x)


def _declare_avg(dimensions: int) -> None:
    name = f"avg_pool{dimensions}d"

    @kernel(name, backend="cupy", when=_avg, dtypes=FLOATS, note="a thread per output")
    def avg_pool(
        x: Any, *, kernel_size: tuple, stride: tuple, padding: tuple, ceil_mode: bool, count_include_pad: bool
    ) -> Any:
        x = contiguous(x)
        one = (1,) * dimensions
        out_size = output_size(name, x.shape[2:], kernel_size, stride, padding, one, ceil_mode)
        out = cupy.empty((*x.shape[:2], *out_size), x.dtype)
        window = _window(x.shape[2:], out_size, kernel_size, stride, padding)
        launch(
            "pooling", "avg_pool<T>", x.dtype, *over_elements(out.size),
            x, out, math.prod(x.shape[:2]), *window, bool(count_include_pad),
        )  # fmt: skip
        return out

    @kernel(f"{name}_grad", backend="cupy", when=_avg, dtypes=FLOATS, note="a thread per pixel")
    def avg_pool_grad(
        dout: Any, *, input_size: tuple, kernel_size: tuple, stride: tuple, padding: tuple, ceil_mode: bool,
        count_include_pad: bool,
    ) -> Any:  # fmt: skip
        g = contiguous(dout)
        dx = cupy.empty((*g.shape[:2], *input_size), g.dtype)
        window = _window(input_size, g.shape[2:], kernel_size, stride, padding)
        launch(
            "pooling", "avg_pool_grad<T>", g.dtype, *over_elements(dx.size),
            g, dx, math.prod(g.shape[:2]), *window, bool(count_include_pad),
        )  # fmt: skip
        return dx

    avg_pool.__name__ = avg_pool.__qualname__ = name
    avg_pool_grad.__name__ = avg_pool_grad.__qualname__ = f"{name}_grad"


for _dimensions in (1, 2):
    _declare_max(_dimensions)
    _declare_avg(_dimensions)
