"""Pooling with strided slices in place of indices, which XLA is slow to follow."""

from __future__ import annotations

import itertools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from minidl.backend import kernel
from minidl.ops.pooling import check_windows, divisor, largest, lowest, output_size, window_pixels


def _reach(size: tuple, kernel: tuple, stride: tuple, padding: tuple, dilation: tuple, windows: tuple) -> list:
    """How far the windows reach beyond the image on both sides of each axis (a negative number: not to its end)."""
    last = [(o - 1) * s + d * (k - 1) + 1 for o, s, k, d in zip(windows, stride, kernel, dilation)]
    return [(p, end - p - n) for end, p, n in zip(last, padding, size)]


def max_pool(
    x: Any, *, kernel_size: tuple, stride: tuple, padding: tuple, dilation: tuple, ceil_mode: bool
) -> tuple[Any, Any]:
    op, size = f"max_pool{x.ndim - 2}d", tuple(x.shape[2:])
    windows = output_size(op, size, kernel_size, stride, padding, dilation, ceil_mode)
    flat, inside = window_pixels(size, kernel_size, stride, padding, dilation, windows)
    check_windows(op, inside.any(axis=0).all(), size, kernel_size, padding, dilation)
    around = [
        (0, 0),
        (0, 0),
        *((p, max(q, 0)) for p, q in _reach(size, kernel_size, stride, padding, dilation, windows)),
    ]
    x = jnp.pad(x, around, constant_values=lowest(x.dtype))
    values = []
    for at in itertools.product(*map(range, kernel_size)):
        first = [k * d for k, d in zip(at, dilation)]
        values.append(x[(..., *(slice(a, a + (o - 1) * s + 1, s) for a, o, s in zip(first, windows, stride)))])
    return largest(jnp.stack(values, axis=2), flat, inside)


def _sums(x: Any, kernel: tuple, stride: tuple, padding: tuple, windows: tuple) -> Any:
    """The sum of each window."""
    reach = _reach(tuple(x.shape[2:]), kernel, stride, padding, (1,) * len(kernel), windows)
    return lax.reduce_window(
        lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), (0, 0, 0), *((p, q, 0) for p, q in reach)]),
        jnp.zeros((), x.dtype), lax.add, (1, 1, *kernel), (1, 1, *stride), "valid",
    )  # fmt: skip


def avg_pool(
    x: Any, *, kernel_size: tuple, stride: tuple, padding: tuple, ceil_mode: bool, count_include_pad: bool
) -> Any:
    size, one = tuple(x.shape[2:]), (1,) * (x.ndim - 2)
    windows = output_size(f"avg_pool{x.ndim - 2}d", size, kernel_size, stride, padding, one, ceil_mode)
    count = divisor(size, kernel_size, stride, padding, windows, count_include_pad, x.dtype)
    return _sums(x, kernel_size, stride, padding, windows) / jnp.asarray(count)


def avg_pool_grad(
    dout: Any, *, input_size: tuple, kernel_size: tuple, stride: tuple, padding: tuple, ceil_mode: bool,
    count_include_pad: bool,
) -> Any:  # fmt: skip
    op, one = f"avg_pool{dout.ndim - 2}d_grad", (1,) * len(input_size)
    windows = output_size(op, input_size, kernel_size, stride, padding, one, ceil_mode)
    count = divisor(input_size, kernel_size, stride, padding, windows, count_include_pad, dout.dtype)
    x = jax.ShapeDtypeStruct((*dout.shape[:2], *input_size), dout.dtype)
    back = jax.linear_transpose(lambda x: _sums(x, kernel_size, stride, padding, windows), x)
    return back(dout / jnp.asarray(count))[0]


for _n in (1, 2, 3):
    kernel(f"max_pool{_n}d", backend="jax", note="strided slices")(max_pool)
    kernel(f"avg_pool{_n}d", backend="jax", note="XLA's windows")(avg_pool)
    kernel(f"avg_pool{_n}d_grad", backend="jax", note="XLA's windows, transposed")(avg_pool_grad)
