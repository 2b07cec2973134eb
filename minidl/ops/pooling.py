"""Pooling in one, two and three dimensions: the maximum or the mean of each window of an image.

Windows are laid out as for a convolution; output sizes are those of Dumoulin and Visin, "A guide to convolution
arithmetic for deep learning", 2016, section 3. Instead of looking at one window after the other, all windows are
worked on at once, one position inside the window at a time: the pixels that are at that position are a strided slice.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from minidl.core.errors import describe
from minidl.core.primitive import primitive
from minidl.core.registry import namespace
from minidl.ops import reduction
from minidl.ops.conv import int_tuple
from minidl.ops.indexing import gather
from minidl.ops.shape import narrow, reshape, stack


def _output_size(op: str, size, kernel, stride, padding, dilation, ceil_mode) -> tuple[int, ...]:
    """Number of windows along each axis. With ``ceil_mode`` a last window may hang over the end, if it begins inside
    the image or its left padding. Raises ValueError where there would be none."""
    out = []
    for n, k, s, p, d in zip(size, kernel, stride, padding, dilation):
        last = n + 2 * p - d * (k - 1) - 1
        o = (-(-last // s) if ceil_mode else last // s) + 1
        if ceil_mode and (o - 1) * s >= n + p:
            o -= 1
        out.append(o)
    if min(out) < 1:
        raise ValueError(
            f"{op}: windows of size {kernel} with dilation {dilation} do not fit into an image of size {tuple(size)} "
            f"with padding {padding}"
        )
    return tuple(out)


def _padded(x, kernel, stride, padding, dilation, out_size, value):
    """``x`` with ``value`` around it as far as windows reach beyond it."""
    widths = [(0, 0), (0, 0)]
    for n, k, s, p, d, o in zip(x.shape[2:], kernel, stride, padding, dilation, out_size):
        widths.append((p, max((o - 1) * s + d * (k - 1) + 1 - n - p, 0)))
    return namespace(x).pad(x, widths, constant_values=value) if any(w != (0, 0) for w in widths) else x


def _flat(positions: Sequence[np.ndarray], size: tuple[int, ...]) -> np.ndarray:
    """Positions along each axis as indices into the flattened image, for all combinations: shape (len, len, ...)."""
    index = np.zeros((1,) * len(size), np.int64)
    for axis, (p, n) in enumerate(zip(positions, size)):
        index = index * n + p.reshape(tuple(-1 if a == axis else 1 for a in range(len(size))))
    return index


def _lowest(dtype: np.dtype) -> Any:
    return -np.inf if dtype.kind == "f" else np.iinfo(dtype).min


def _maximum(windows: Iterator[Any], first: np.ndarray, starts: list[np.ndarray], offsets: list, size: tuple) -> tuple:
    """The largest of the arrays ``windows`` (one for every position in ``offsets``) and where in the image it was.

    ``first``: the position in the window that is the answer if all are -inf; ``starts``: where each window begins.
    The first of equal values is taken, and NaN before all else.
    """
    which = best = None
    for k, values in enumerate(windows):
        values = values.copy()  # contiguous from here on
        xp = namespace(values)
        small = np.min_scalar_type(len(offsets)).type
        if best is None:
            best, which = values, xp.asarray(np.broadcast_to(first, values.shape).astype(small))
            continue
        better = values > best
        if values.dtype.kind == "f":
            better |= values != values
        best = xp.maximum(best, values)
        which = xp.maximum(which, better * small(k))  # k grows, so this is where(better, k, which)
    table = np.array([sum(o * math.prod(size[a + 1 :]) for a, o in enumerate(offset)) for offset in offsets])
    return best, xp.asarray(_flat(starts, size)) + xp.asarray(table)[which]


def _max_pool(op, x, kernel, stride, padding, dilation, ceil_mode):
    size = tuple(x.shape[2:])
    out_size = _output_size(op, size, kernel, stride, padding, dilation, ceil_mode)
    x = _padded(x, kernel, stride, padding, dilation, out_size, _lowest(x.dtype))
    offsets = [tuple(k * d for k, d in zip(at, dilation)) for at in itertools.product(*map(range, kernel))]
    windows = (x[(..., *(slice(a, a + (o - 1) * s + 1, s) for a, o, s in zip(at, out_size, stride)))] for at in offsets)
    starts = [np.arange(o) * s - p for o, s, p in zip(out_size, stride, padding)]
    inside = [np.maximum(-(b // d), 0) for b, d in zip(starts, dilation)]  # the first that is not padding
    if any((b + i * d >= n).any() for b, i, d, n in zip(starts, inside, dilation, size)):
        raise ValueError(
            f"{op}: with padding {padding} and dilation {dilation}, some windows of size {kernel} meet no pixel of the "
            f"image of size {size}"
        )
    return _maximum(windows, _flat(inside, kernel), starts, offsets, size)


@primitive(linear_in=("dout",))
def max_pool_grad(dout, indices, *, input_size):
    """The gradient of max pooling for its input (N, C, *input_size): each output's goes to the pixel it came from."""
    xp = namespace(dout)
    planes, pixels = math.prod(dout.shape[:2]), math.prod(input_size)
    at = (indices.reshape(planes, -1 if planes else 0) + xp.arange(planes)[:, None] * pixels).reshape(-1)
    if xp.__name__ == "jax.numpy":
        image = xp.zeros(planes * pixels, dout.dtype).at[at].add(dout.reshape(-1))
    else:
        image = xp.zeros(planes * pixels, dout.dtype)
        xp.add.at(image, at, dout.reshape(-1))
    return image.reshape(*dout.shape[:2], *input_size)


def _pick(g, indices):
    """The pixels of ``g`` that ``indices`` name: the transpose of max_pool_grad."""
    n, c = g.shape[:2]
    flat = reshape(indices, shape=(n, c, math.prod(indices.shape[2:])))
    picked = gather(reshape(g, shape=(n, c, math.prod(g.shape[2:]))), flat, axis=2)
    return reshape(picked, shape=indices.shape)


max_pool_grad.defvjp(dout=lambda g, indices: _pick(g, indices))


def _declare_max_pool(n: int) -> tuple[Any, Any]:
    @primitive(name=f"max_pool{n}d")
    def pool(x, *, kernel_size, stride, padding, dilation, ceil_mode):
        """(maximum of each window, its index (int64) in the flattened image). All sizes are tuples."""
        return _max_pool(f"max_pool{n}d", x, kernel_size, stride, padding, dilation, ceil_mode)

    @primitive(name=f"adaptive_max_pool{n}d")
    def adaptive(x, *, output_size):
        """(maximum of each of output_size windows, its index (int64) in the flattened image)."""
        return _adaptive_max_pool(x, output_size)

    for prim in (pool, adaptive):
        prim.defvjp(x=lambda g, out, x_shape: max_pool_grad(g[0], out[1], input_size=tuple(x_shape[2:])))
    return pool, adaptive


def _adaptive_bounds(size: int, out: int) -> tuple[np.ndarray, np.ndarray]:
    """Where each of ``out`` windows that together cover an axis begins and ends: PyTorch's rule."""
    i = np.arange(out)
    return i * size // out, -(-(i + 1) * size // out)


def _adaptive_max_pool(x, output_size):
    xp = namespace(x)
    size = tuple(x.shape[2:])
    bounds = [_adaptive_bounds(n, o) for n, o in zip(size, output_size)]
    longest = [int((end - begin).max()) for begin, end in bounds]
    offsets = list(itertools.product(*map(range, longest)))

    def windows() -> Iterator[Any]:
        for offset in offsets:
            at = [np.minimum(begin + o, end - 1) for o, (begin, end) in zip(offset, bounds)]
            inside = np.ones((1,) * len(size), bool)
            for axis, (o, (begin, end)) in enumerate(zip(offset, bounds)):
                inside = inside & (begin + o < end).reshape(tuple(-1 if a == axis else 1 for a in range(len(size))))
            values = x.reshape(*x.shape[:2], math.prod(size))[:, :, xp.asarray(_flat(at, size))]
            yield xp.where(xp.asarray(inside), values, xp.asarray(_lowest(x.dtype), dtype=x.dtype))

    return _maximum(windows(), np.zeros(output_size, np.int64), [begin for begin, _ in bounds], offsets, size)


def _divisor(size, kernel, stride, padding, out_size, count_include_pad, dtype) -> Any:
    """How many pixels each window counts: those in the image and, with ``count_include_pad``, in its padding."""
    counts = []
    for axis, (n, k, s, p, o) in enumerate(zip(size, kernel, stride, padding, out_size)):
        begin = np.arange(o) * s - p
        end = np.minimum(begin + k, n + p)
        count = end - begin if count_include_pad else np.minimum(end, n) - np.maximum(begin, 0)
        counts.append(count.reshape(tuple(-1 if a == axis else 1 for a in range(len(size)))))
    return math.prod(counts).astype(dtype)


def _axis_windows(axis: int, kernel, stride, out_size) -> Iterator[tuple]:
    """The pixels at each position of the windows along one axis."""
    for k in range(kernel[axis]):
        last = k + (out_size[axis] - 1) * stride[axis] + 1
        yield (slice(None),) * (2 + axis) + (slice(k, last, stride[axis]),)


def _avg_pool(op, x, kernel, stride, padding, ceil_mode, count_include_pad):
    xp = namespace(x)
    size = tuple(x.shape[2:])
    one = (1,) * len(size)
    out_size = _output_size(op, size, kernel, stride, padding, one, ceil_mode)
    divisor = _divisor(size, kernel, stride, padding, out_size, count_include_pad, x.dtype)
    x = _padded(x, kernel, stride, padding, one, out_size, 0)
    for axis in reversed(range(len(size))):  # the sum over a window is the sum of sums along each axis
        first, *others = _axis_windows(axis, kernel, stride, out_size)
        total = x[first] + 0
        for window in others:
            total += x[window]
        x = total
    return x / xp.asarray(divisor)


def _avg_pool_grad(op, dout, size, kernel, stride, padding, ceil_mode, count_include_pad):
    xp = namespace(dout)
    one = (1,) * len(size)
    out_size = _output_size(op, size, kernel, stride, padding, one, ceil_mode)
    g = dout / xp.asarray(_divisor(size, kernel, stride, padding, out_size, count_include_pad, dout.dtype))
    for axis, (n, k, s, p, o) in enumerate(zip(size, kernel, stride, padding, out_size)):
        reach = max(n + 2 * p, (o - 1) * s + k)
        image = xp.zeros((*g.shape[: 2 + axis], reach, *g.shape[3 + axis :]), g.dtype)
        for window in _axis_windows(axis, kernel, stride, out_size):
            if xp.__name__ == "jax.numpy":
                image = image.at[window].add(g)
            else:
                image[window] += g
        g = image[(slice(None),) * (2 + axis) + (slice(p, p + n),)]
    return g


def _declare_avg_pool(n: int) -> tuple[Any, Any]:
    @primitive(name=f"avg_pool{n}d", promote="float", linear_in=("x",))
    def pool(x, *, kernel_size, stride, padding, ceil_mode, count_include_pad):
        """The mean of each window. All sizes are tuples."""
        return _avg_pool(f"avg_pool{n}d", x, kernel_size, stride, padding, ceil_mode, count_include_pad)

    @primitive(name=f"avg_pool{n}d_grad", linear_in=("dout",))
    def pool_grad(dout, *, input_size, kernel_size, stride, padding, ceil_mode, count_include_pad):
        """The gradient of average pooling for its input (N, C, *input_size), from that for its output."""
        op = f"avg_pool{n}d_grad"
        return _avg_pool_grad(op, dout, input_size, kernel_size, stride, padding, ceil_mode, count_include_pad)

    pool.defvjp(
        x=lambda g, x_shape, kernel_size, stride, padding, ceil_mode, count_include_pad: pool_grad(
            g, input_size=tuple(x_shape[2:]), kernel_size=kernel_size, stride=stride, padding=padding,
            ceil_mode=ceil_mode, count_include_pad=count_include_pad,
        )
    )  # fmt: skip
    pool_grad.defvjp(
        dout=lambda g, kernel_size, stride, padding, ceil_mode, count_include_pad: pool(
            g, kernel_size=kernel_size, stride=stride, padding=padding, ceil_mode=ceil_mode,
            count_include_pad=count_include_pad,
        )
    )  # fmt: skip
    return pool, pool_grad


_max_pools = {n: _declare_max_pool(n) for n in (1, 2, 3)}
_avg_pools = {n: _declare_avg_pool(n) for n in (1, 2, 3)}
avg_pool1d_grad, avg_pool2d_grad, avg_pool3d_grad = (_avg_pools[n][1] for n in (1, 2, 3))


def _window_arguments(op: str, n: int, x: Any, kernel_size, stride, padding, dilation) -> tuple:
    _check_axes(op, n, x)
    kernel = int_tuple(op, "kernel_size", kernel_size, n, 1)
    stride = kernel if stride is None else int_tuple(op, "stride", stride, n, 1)
    padding = int_tuple(op, "padding", padding, n, 0)
    dilation = int_tuple(op, "dilation", dilation, n, 1)
    if any(2 * p > d * (k - 1) + 1 for p, d, k in zip(padding, dilation, kernel)):
        raise ValueError(f"{op}: padding {padding} is more than half of the window {kernel} (dilation {dilation})")
    return kernel, stride, padding, dilation


def _check_axes(op: str, n: int, x: Any) -> None:
    if x.ndim != n + 2:
        raise ValueError(f"{op}: expected an input with {n + 2} axes (N, C, *size), got {describe(x)}")


def _max(n, x, kernel_size, stride, padding, dilation, ceil_mode, return_indices):
    op = f"max_pool{n}d"
    kernel, stride, padding, dilation = _window_arguments(op, n, x, kernel_size, stride, padding, dilation)
    out = _max_pools[n][0](
        x, kernel_size=kernel, stride=stride, padding=padding, dilation=dilation, ceil_mode=bool(ceil_mode)
    )
    return out if return_indices else out[0]


def _avg(n, x, kernel_size, stride, padding, ceil_mode, count_include_pad):
    op = f"avg_pool{n}d"
    kernel, stride, padding, _ = _window_arguments(op, n, x, kernel_size, stride, padding, 1)
    return _avg_pools[n][0](
        x, kernel_size=kernel, stride=stride, padding=padding, ceil_mode=bool(ceil_mode),
        count_include_pad=bool(count_include_pad),
    )  # fmt: skip


def _adaptive_size(op: str, n: int, x: Any, output_size: Any) -> tuple[int, ...]:
    _check_axes(op, n, x)
    if isinstance(output_size, (tuple, list)) and len(output_size) == n:
        output_size = [m if o is None else o for o, m in zip(output_size, x.shape[2:])]
    if min(x.shape[2:]) < 1:
        raise ValueError(f"{op}: expected an image with at least one pixel, got {describe(x)}")
    return int_tuple(op, "output_size", output_size, n, 1)


def _adaptive_max(n, x, output_size, return_indices):
    output_size = _adaptive_size(f"adaptive_max_pool{n}d", n, x, output_size)
    if all(m % o == 0 for m, o in zip(x.shape[2:], output_size)):
        kernel = tuple(m // o for m, o in zip(x.shape[2:], output_size))
        return _max(n, x, kernel, None, 0, 1, False, return_indices)
    out = _max_pools[n][1](x, output_size=output_size)
    return out if return_indices else out[0]


def _adaptive_avg(n, x, output_size):
    output_size = _adaptive_size(f"adaptive_avg_pool{n}d", n, x, output_size)
    if set(output_size) == {1}:
        return reduction.mean(x, axis=tuple(range(2, n + 2)), keepdims=True)
    if all(m % o == 0 for m, o in zip(x.shape[2:], output_size)):
        return _avg(n, x, tuple(m // o for m, o in zip(x.shape[2:], output_size)), None, 0, False, True)
    for axis, o in enumerate(output_size, start=2):
        bounds = zip(*_adaptive_bounds(x.shape[axis], o))
        means = [reduction.mean(narrow(x, axis, int(b), int(e - b)), axis=axis) for b, e in bounds]
        x = stack(means, axis=axis)
    return x


def max_pool1d(x, kernel_size, stride=None, padding=0, dilation=1, ceil_mode=False, return_indices=False):
    """The maximum of windows of x (N, C, L); see :func:`max_pool2d`."""
    return _max(1, x, kernel_size, stride, padding, dilation, ceil_mode, return_indices)


def max_pool2d(x, kernel_size, stride=None, padding=0, dilation=1, ceil_mode=False, return_indices=False):
    """The maximum of windows of x (N, C, H, W): (N, C, OH, OW).

    Sizes are ints or one int an axis; ``stride`` is by default the kernel size. Padding, of at most half a window,
    never wins. With ``ceil_mode`` a last window may hang over the end of the image. ``return_indices`` gives also the
    index (int64) of each maximum in its flattened image. NaN counts as larger than all numbers; the gradient goes to
    the first of equal values. Raises ValueError where windows do not fit.
    """
    return _max(2, x, kernel_size, stride, padding, dilation, ceil_mode, return_indices)


def max_pool3d(x, kernel_size, stride=None, padding=0, dilation=1, ceil_mode=False, return_indices=False):
    """The maximum of windows of x (N, C, D, H, W); see :func:`max_pool2d`."""
    return _max(3, x, kernel_size, stride, padding, dilation, ceil_mode, return_indices)


def avg_pool1d(x, kernel_size, stride=None, padding=0, ceil_mode=False, count_include_pad=True):
    """The mean of windows of x (N, C, L); see :func:`avg_pool2d`."""
    return _avg(1, x, kernel_size, stride, padding, ceil_mode, count_include_pad)


def avg_pool2d(x, kernel_size, stride=None, padding=0, ceil_mode=False, count_include_pad=True):
    """The mean of windows of x (N, C, H, W): (N, C, OH, OW).

    Parameters as for :func:`max_pool2d`; ``count_include_pad`` says whether the padding's zeros are counted in the
    mean. Raises ValueError where windows do not fit.
    """
    return _avg(2, x, kernel_size, stride, padding, ceil_mode, count_include_pad)


def avg_pool3d(x, kernel_size, stride=None, padding=0, ceil_mode=False, count_include_pad=True):
    """The mean of windows of x (N, C, D, H, W); see :func:`avg_pool2d`."""
    return _avg(3, x, kernel_size, stride, padding, ceil_mode, count_include_pad)


def adaptive_max_pool1d(x, output_size, return_indices=False):
    """The maximum of ``output_size`` windows of x (N, C, L); see :func:`adaptive_avg_pool2d`."""
    return _adaptive_max(1, x, output_size, return_indices)


def adaptive_max_pool2d(x, output_size, return_indices=False):
    """The maximum of ``output_size`` windows an axis of x (N, C, H, W); see :func:`adaptive_avg_pool2d`."""
    return _adaptive_max(2, x, output_size, return_indices)


def adaptive_max_pool3d(x, output_size, return_indices=False):
    """The maximum of ``output_size`` windows an axis of x (N, C, D, H, W); see :func:`adaptive_avg_pool2d`."""
    return _adaptive_max(3, x, output_size, return_indices)


def adaptive_avg_pool1d(x, output_size):
    """The mean of ``output_size`` windows of x (N, C, L); see :func:`adaptive_avg_pool2d`."""
    return _adaptive_avg(1, x, output_size)


def adaptive_avg_pool2d(x, output_size):
    """The mean of ``output_size`` windows an axis of x (N, C, H, W): (N, C, *output_size), whatever H and W.

    Along an axis of length n, window i of o runs from floor(i n / o) to ceil((i + 1) n / o). ``output_size`` is an int
    or one int an axis; None keeps an axis as it is.
    """
    return _adaptive_avg(2, x, output_size)


def adaptive_avg_pool3d(x, output_size):
    """The mean of ``output_size`` windows an axis of x (N, C, D, H, W); see :func:`adaptive_avg_pool2d`."""
    return _adaptive_avg(3, x, output_size)


def global_avg_pool(x, keepdims=False):
    """The mean of each channel of x (N, C, *size): (N, C), or (N, C, 1, ...) with ``keepdims``."""
    return reduction.mean(x, axis=tuple(range(2, x.ndim)), keepdims=keepdims)


def global_max_pool(x, keepdims=False):
    """The maximum of each channel of x (N, C, *size): (N, C), or (N, C, 1, ...) with ``keepdims``."""
    return reduction.max(x, axis=tuple(range(2, x.ndim)), keepdims=keepdims)
