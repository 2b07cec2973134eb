"""Pooling of all windows at once, one place in the window at a time: the pixels at that place are a strided slice."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence

import numpy as np

from minidl.backend import kernel
from minidl.ops.pooling import check_windows, divisor, lowest, output_size


def _padded(x, kernel, stride, padding, dilation, out_size, value):
    """``x`` with ``value`` around it as far as windows reach beyond it."""
    widths = [(0, 0), (0, 0)]
    for n, k, s, p, d, o in zip(x.shape[2:], kernel, stride, padding, dilation, out_size):
        widths.append((p, max((o - 1) * s + d * (k - 1) + 1 - n - p, 0)))
    return np.pad(x, widths, constant_values=value) if any(w != (0, 0) for w in widths) else x


def _flat(positions: Sequence[np.ndarray], size: tuple[int, ...]) -> np.ndarray:
    """Positions along each axis as indices into the flattened image, for all combinations: shape (len, len, ...)."""
    index = np.zeros((1,) * len(size), np.int64)
    for axis, (p, n) in enumerate(zip(positions, size)):
        index = index * n + p.reshape(tuple(-1 if a == axis else 1 for a in range(len(size))))
    return index


def max_pool(x, *, kernel_size, stride, padding, dilation, ceil_mode):
    op, size = f"max_pool{x.ndim - 2}d", tuple(x.shape[2:])
    out_size = output_size(op, size, kernel_size, stride, padding, dilation, ceil_mode)
    starts = [np.arange(o) * s - p for o, s, p in zip(out_size, stride, padding)]
    # the place in each window that is the answer if all are -inf: the first that is not padding
    first = [np.maximum(-(b // d), 0) for b, d in zip(starts, dilation)]
    meets = all((b + i * d < n).all() for b, i, d, n in zip(starts, first, dilation, size))
    check_windows(op, meets, size, kernel_size, padding, dilation)
    x = _padded(x, kernel_size, stride, padding, dilation, out_size, lowest(x.dtype))
    offsets = [tuple(k * d for k, d in zip(at, dilation)) for at in itertools.product(*map(range, kernel_size))]
    small = np.min_scalar_type(len(offsets)).type
    which = best = None
    for k, at in enumerate(offsets):
        values = x[(..., *(slice(a, a + (o - 1) * s + 1, s) for a, o, s in zip(at, out_size, stride)))]
        if best is None:
            best = values.copy()
            which = np.broadcast_to(_flat(first, kernel_size), best.shape).astype(small)
            continue
        values = np.ascontiguousarray(values)
        better = values > best
        if values.dtype.kind == "f":
            better |= values != values
        best = np.maximum(best, values)
        which = np.maximum(which, better * small(k))  # k grows, so this is where(better, k, which)
    table = np.array([sum(o * math.prod(size[a + 1 :]) for a, o in enumerate(offset)) for offset in offsets])
    return best, _flat(starts, size) + table[which]


@kernel("max_pool_grad", backend="numpy", note="in the flattened batch")
def max_pool_grad(dout, indices, *, input_size):
    planes, pixels = math.prod(dout.shape[:2]), math.prod(input_size)
    at = (indices.reshape(planes, -1 if planes else 0) + np.arange(planes)[:, None] * pixels).reshape(-1)
    image = np.zeros(planes * pixels, dout.dtype)
    np.add.at(image, at, dout.reshape(-1))
    return image.reshape(*dout.shape[:2], *input_size)


def _axis_windows(axis: int, kernel, stride, out_size) -> Iterator[tuple]:
    """The pixels at each position of the windows along one axis."""
    for k in range(kernel[axis]):
        last = k + (out_size[axis] - 1) * stride[axis] + 1
        yield (slice(None),) * (2 + axis) + (slice(k, last, stride[axis]),)


def avg_pool(x, *, kernel_size, stride, padding, ceil_mode, count_include_pad):
    size, one = tuple(x.shape[2:]), (1,) * (x.ndim - 2)
    out_size = output_size(f"avg_pool{x.ndim - 2}d", size, kernel_size, stride, padding, one, ceil_mode)
    count = divisor(size, kernel_size, stride, padding, out_size, count_include_pad, x.dtype)
    x = _padded(x, kernel_size, stride, padding, one, out_size, 0)
    for axis in reversed(range(len(size))):  # the sum over a window is the sum of sums along each axis
        first, *others = _axis_windows(axis, kernel_size, stride, out_size)
        total = x[first] + 0
        for window in others:
            total += x[window]
        x = total
    return x / count


def avg_pool_grad(dout, *, input_size, kernel_size, stride, padding, ceil_mode, count_include_pad):
    op, one = f"avg_pool{dout.ndim - 2}d_grad", (1,) * len(input_size)
    out_size = output_size(op, input_size, kernel_size, stride, padding, one, ceil_mode)
    g = dout / divisor(input_size, kernel_size, stride, padding, out_size, count_include_pad, dout.dtype)
    for axis, (n, k, s, p, o) in enumerate(zip(input_size, kernel_size, stride, padding, out_size)):
        reach = max(n + 2 * p, (o - 1) * s + k)
        image = np.zeros((*g.shape[: 2 + axis], reach, *g.shape[3 + axis :]), g.dtype)
        for window in _axis_windows(axis, kernel_size, stride, out_size):
            image[window] += g
        g = image[(slice(None),) * (2 + axis) + (slice(p, p + n),)]
    return g


for _n in (1, 2, 3):
    kernel(f"max_pool{_n}d", backend="numpy", note="place by place")(max_pool)
    kernel(f"avg_pool{_n}d", backend="numpy", note="axis by axis, place by place")(avg_pool)
    kernel(f"avg_pool{_n}d_grad", backend="numpy", note="axis by axis, place by place")(avg_pool_grad)
