"""Pooling in one, two and three dimensions: the maximum or the mean of each window of an image.

Windows are laid out as for a convolution; output sizes are those of Dumoulin and Visin, "A guide to convolution
arithmetic for deep learning", 2016, section 3. All is said with two arrays: which pixel of the flattened image lies at
each place in each window, and whether there is one at all.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from minidl.core.errors import describe
from minidl.core.primitive import primitive
from minidl.core.registry import namespace
from minidl.ops import reduction
from minidl.ops.conv import int_tuple, one_image_too
from minidl.ops.indexing import add_at, gather, gather_grad
from minidl.ops.shape import narrow, reshape, stack


def output_size(op: str, size, kernel, stride, padding, dilation, ceil_mode) -> tuple[int, ...]:
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


def _flat(pixels: list[np.ndarray], size: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Pixels along each axis as pixels of the flattened image, for all combinations of places and windows: their
    numbers (0 outside the image), and whether they are in the image; (places, *windows)."""
    dims = len(size)
    flat, inside = np.zeros((1,) * 2 * dims, np.int64), np.ones((1,) * 2 * dims, bool)
    for axis, (p, n) in enumerate(zip(pixels, size)):
        shape = [1] * (2 * dims)
        shape[axis], shape[dims + axis] = p.shape
        p = p.reshape(shape)
        flat, inside = flat * n + p, inside & (p >= 0) & (p < n)
    windows = flat.shape[dims:]
    return np.where(inside, flat, 0).reshape(-1, *windows), inside.reshape(-1, *windows)


def window_pixels(
    size: tuple, kernel: tuple, stride: tuple, padding: tuple, dilation: tuple, windows: tuple
) -> tuple[np.ndarray, np.ndarray]:
    """What :func:`_flat` gives for windows of which the next begins ``stride`` pixels after the last."""
    pixels = [
        np.arange(o) * s - p + np.arange(k)[:, None] * d
        for o, k, s, p, d in zip(windows, kernel, stride, padding, dilation)
    ]
    return _flat(pixels, size)


def _at(x: Any, flat: Any) -> Any:
    """The pixels of x (N, C, *size) at numbers of its flattened image: (N, C, *flat)."""
    return x.reshape(*x.shape[:2], math.prod(x.shape[2:]))[:, :, flat]


def lowest(dtype: np.dtype) -> Any:
    """What is not above any number of the dtype."""
    return -np.inf if dtype.kind == "f" else np.iinfo(dtype).min


def largest(values: Any, flat: Any, inside: Any) -> tuple[Any, Any]:
    """(the largest pixel of each window, its number in the flattened image); values (N, C, places, *windows).

    The first of equal values is taken; the last NaN before all else (PyTorch).
    """
    xp = namespace(values)
    flat, inside = xp.asarray(flat), xp.asarray(inside)
    values = xp.where(inside, values, xp.asarray(lowest(values.dtype), dtype=values.dtype))
    best = values.max(axis=2, keepdims=True)
    first = (inside & (values == best)).argmax(axis=2)
    nan = values != values
    which = xp.where(nan.any(axis=2), len(flat) - 1 - nan[:, :, ::-1].argmax(axis=2), first)[:, :, None]
    number = xp.take_along_axis(xp.broadcast_to(flat, values.shape), which, axis=2)
    return xp.take_along_axis(values, which, axis=2)[:, :, 0], number[:, :, 0]


def check_windows(op: str, meet: bool, size: tuple, kernel: tuple, padding: tuple, dilation: tuple) -> None:
    """Raise ValueError unless all windows ``meet`` a pixel of the image."""
    if not meet:
        raise ValueError(
            f"{op}: with padding {padding} and dilation {dilation}, some windows of size {kernel} meet no pixel of the "
            f"image of size {size}"
        )


def _max_pool(op, x, kernel, stride, padding, dilation, ceil_mode):
    size = tuple(x.shape[2:])
    windows = output_size(op, size, kernel, stride, padding, dilation, ceil_mode)
    flat, inside = window_pixels(size, kernel, stride, padding, dilation, windows)
    check_windows(op, inside.any(axis=0).all(), size, kernel, padding, dilation)
    return largest(_at(x, flat), flat, inside)


@primitive(linear_in=("dout",))
def max_pool_grad(dout, indices, *, input_size):
    """The gradient of max pooling for its input (N, C, *input_size): each output's goes to the pixel it came from."""
    n, c = dout.shape[:2]
    flat = (n, c, math.prod(dout.shape[2:]))
    image = gather_grad(dout.reshape(flat), indices.reshape(flat), axis=2, shape=(n, c, math.prod(input_size)))
    return image.reshape(n, c, *input_size)


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


def adaptive_bounds(size: int, out: int) -> tuple[np.ndarray, np.ndarray]:
    """Where each of ``out`` windows that together cover an axis begins and ends: PyTorch's rule."""
    i = np.arange(out)
    return i * size // out, -(-(i + 1) * size // out)


def _adaptive_max_pool(x, output_size):
    size = tuple(x.shape[2:])
    pixels = []
    for n, o in zip(size, output_size):
        begin, end = adaptive_bounds(n, o)
        pixel = begin + np.arange((end - begin).max())[:, None]
        pixels.append(np.where(pixel < end, pixel, -1))
    flat, inside = _flat(pixels, size)
    return largest(_at(x, flat), flat, inside)


def divisor(size, kernel, stride, padding, windows, count_include_pad, dtype) -> Any:
    """How many pixels each window counts: those in the image and, with ``count_include_pad``, in its padding."""
    counts = []
    for axis, (n, k, s, p, o) in enumerate(zip(size, kernel, stride, padding, windows)):
        begin = np.arange(o) * s - p
        end = np.minimum(begin + k, n + p)
        count = end - begin if count_include_pad else np.minimum(end, n) - np.maximum(begin, 0)
        counts.append(count.reshape(tuple(-1 if a == axis else 1 for a in range(len(size)))))
    return math.prod(counts).astype(dtype)


def _avg_pool(op, x, kernel, stride, padding, ceil_mode, count_include_pad):
    xp, size, one = namespace(x), tuple(x.shape[2:]), (1,) * len(kernel)
    windows = output_size(op, size, kernel, stride, padding, one, ceil_mode)
    flat, inside = window_pixels(size, kernel, stride, padding, one, windows)
    pixels = _at(x, flat)
    total = xp.where(xp.asarray(inside), pixels, xp.zeros_like(pixels)).sum(axis=2)
    return total / xp.asarray(divisor(size, kernel, stride, padding, windows, count_include_pad, x.dtype))


def _avg_pool_grad(op, dout, size, kernel, stride, padding, ceil_mode, count_include_pad):
    xp, one = namespace(dout), (1,) * len(size)
    windows = output_size(op, size, kernel, stride, padding, one, ceil_mode)
    flat, inside = window_pixels(size, kernel, stride, padding, one, windows)
    g = dout / xp.asarray(divisor(size, kernel, stride, padding, windows, count_include_pad, dout.dtype))
    each = xp.where(xp.asarray(inside), g[:, :, None], xp.zeros_like(g)[:, :, None])
    image = add_at(each, (slice(None), slice(None), flat), (*dout.shape[:2], math.prod(size)))
    return image.reshape(*dout.shape[:2], *size)


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
    stride = kernel if stride is None or stride == () else int_tuple(op, "stride", stride, n, 1)
    padding = int_tuple(op, "padding", padding, n, 0)
    dilation = int_tuple(op, "dilation", dilation, n, 1)
    if any(2 * p > d * (k - 1) + 1 for p, d, k in zip(padding, dilation, kernel)):
        raise ValueError(f"{op}: padding {padding} is more than half of the window {kernel} (dilation {dilation})")
    return kernel, stride, padding, dilation


def _check_axes(op: str, n: int, x: Any) -> None:
    if x.ndim != n + 2:
        raise ValueError(f"{op}: expected an input with {n + 2} axes (N, C, *size), or without N, got {describe(x)}")


@one_image_too
def _max(n, x, kernel_size, stride, padding, dilation, ceil_mode, return_indices):
    op = f"max_pool{n}d"
    kernel, stride, padding, dilation = _window_arguments(op, n, x, kernel_size, stride, padding, dilation)
    out = _max_pools[n][0](
        x, kernel_size=kernel, stride=stride, padding=padding, dilation=dilation, ceil_mode=bool(ceil_mode)
    )
    return out if return_indices else out[0]


@one_image_too
def _avg(n, x, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override=None):
    op = f"avg_pool{n}d"
    kernel, stride, padding, _ = _window_arguments(op, n, x, kernel_size, stride, padding, 1)
    mean = _avg_pools[n][0](
        x, kernel_size=kernel, stride=stride, padding=padding, ceil_mode=bool(ceil_mode),
        count_include_pad=bool(count_include_pad),
    )  # fmt: skip
    if divisor_override is None:
        return mean
    if not divisor_override:
        raise ValueError(f"{op}: divisor_override must not be 0")
    count = divisor(x.shape[2:], kernel, stride, padding, mean.shape[2:], bool(count_include_pad), mean.dtype)
    return mean * (count / divisor_override).astype(mean.dtype)


def _adaptive_size(op: str, n: int, x: Any, output_size: Any) -> tuple[int, ...]:
    _check_axes(op, n, x)
    if isinstance(output_size, (tuple, list)) and len(output_size) == n:
        output_size = [m if o is None else o for o, m in zip(output_size, x.shape[2:])]
    if min(x.shape[2:]) < 1:
        raise ValueError(f"{op}: expected an image with at least one pixel, got {describe(x)}")
    return int_tuple(op, "output_size", output_size, n, 1)


@one_image_too
def _adaptive_max(n, x, output_size, return_indices):
    output_size = _adaptive_size(f"adaptive_max_pool{n}d", n, x, output_size)
    if all(m % o == 0 for m, o in zip(x.shape[2:], output_size)):
        kernel = tuple(m // o for m, o in zip(x.shape[2:], output_size))
        return _max(n, x, kernel, None, 0, 1, False, return_indices)
    out = _max_pools[n][1](x, output_size=output_size)
    return out if return_indices else out[0]


@one_image_too
def _adaptive_avg(n, x, output_size):
    output_size = _adaptive_size(f"adaptive_avg_pool{n}d", n, x, output_size)
    if set(output_size) == {1}:
        return reduction.mean(x, axis=tuple(range(2, n + 2)), keepdims=True)
    if all(m % o == 0 for m, o in zip(x.shape[2:], output_size)):
        return _avg(n, x, tuple(m // o for m, o in zip(x.shape[2:], output_size)), None, 0, False, True)
    for axis, o in enumerate(output_size, start=2):
        bounds = zip(*adaptive_bounds(x.shape[axis], o))
        means = [reduction.mean(narrow(x, axis, int(b), int(e - b)), axis=axis) for b, e in bounds]
        x = stack(means, axis=axis)
    return x


def max_pool1d(x, kernel_size, stride=None, padding=0, dilation=1, ceil_mode=False, return_indices=False):
    """The maximum of windows of x (N, C, L); see :func:`max_pool2d`."""
    return _max(1, x, kernel_size, stride, padding, dilation, ceil_mode, return_indices)


def max_pool2d(x, kernel_size, stride=None, padding=0, dilation=1, ceil_mode=False, return_indices=False):
    """The maximum of windows of x (N, C, H, W): (N, C, OH, OW). One image, without N, will do, too.

    Sizes are ints or one int per axis; ``stride`` is by default the kernel size. Padding, of at most half a window,
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


def avg_pool2d(x, kernel_size, stride=None, padding=0, ceil_mode=False, count_include_pad=True, divisor_override=None):
    """The mean of windows of x (N, C, H, W): (N, C, OH, OW).

    Parameters as for :func:`max_pool2d`; ``count_include_pad`` says whether the padding's zeros are counted in the
    mean. ``divisor_override`` divides the sums of the windows by this number instead. Raises ValueError where windows
    do not fit.
    """
    return _avg(2, x, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override)


def avg_pool3d(x, kernel_size, stride=None, padding=0, ceil_mode=False, count_include_pad=True, divisor_override=None):
    """The mean of windows of x (N, C, D, H, W); see :func:`avg_pool2d`."""
    return _avg(3, x, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override)


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
    or one int per axis; None keeps an axis as it is.
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
    return reduction.amax(x, axis=tuple(range(2, x.ndim)), keepdims=keepdims)
