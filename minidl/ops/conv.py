"""Convolution in one, two and three dimensions: strided, padded, dilated, grouped, transposed.

What is called convolution here is, as everywhere in deep learning, cross-correlation (Goodfellow, Bengio and
Courville, "Deep Learning", 2016, equation 9.6)::

    out[n, o, p] = bias[o] + sum over c, k of weight[o, c, k] * x[n, c, p * stride + k * dilation - padding]

where p and k run over positions and kernel offsets in all dimensions. It is computed by im2col (Chellapilla, Puri and
Simard, "High performance convolutional neural networks for document processing", 2006): the pixels under every
position of the kernel are written into the columns of a matrix, and one matrix product does the rest.

The sum is linear in ``x`` and linear in ``weight``, so there are three operations (convolution, the gradient for its
input, the gradient for its weight) and each one's gradients are the other two.
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
from minidl.ops.shape import pad, reshape

# The columns of a few samples at a time are made and used while they are still in the processor's (L2) cache.
_CACHE_BYTES = 2 << 20


def _batches(x: Any, weight: Any, out_size: tuple[int, ...], groups: int) -> Iterator[slice]:
    """Slices of the batch whose columns fit into the cache, or are as large as the weights that they meet there."""
    n = x.shape[0]
    if namespace(x) is np:
        a_sample = groups * math.prod(weight.shape[1:]) * math.prod(out_size) * x.itemsize
        step = max(1, max(_CACHE_BYTES, weight.nbytes) // max(a_sample, 1))
    else:
        step = max(n, 1)
    return (slice(i, min(i + step, n)) for i in range(0, max(n, 1), step))


def _put(out: Any, some: slice, part: Any, shape: tuple[int, ...]) -> Any:
    """Put the part of the batch ``some`` into ``out``, an array of ``shape`` that is None before the first part."""
    xp = namespace(part)
    if xp.__name__ == "jax.numpy":  # has one part only
        return part
    if out is None:
        out = xp.empty(shape, part.dtype)
    out[some] = part
    return out


def _zero_pad(x: Any, padding: tuple[int, ...]) -> Any:
    """``x`` with ``padding`` zeros on both sides of every spatial axis; negative padding cuts off."""
    if not any(padding):
        return x
    return pad.reference(x, widths=((0, 0), (0, 0), *((p, p) for p in padding)))


def _windows(
    kernel: tuple[int, ...], stride: tuple[int, ...], dilation: tuple[int, ...], out_size: tuple[int, ...]
) -> Iterator[tuple]:
    """For every kernel offset, the index of the (padded) pixels that it meets as the kernel moves: strided slices."""
    for offset in itertools.product(*map(range, kernel)):
        yield (
            slice(None),
            slice(None),
            *(slice(k * d, k * d + (n - 1) * s + 1, s) for k, s, d, n in zip(offset, stride, dilation, out_size)),
        )


def _im2col(x: Any, kernel: tuple, stride: tuple, dilation: tuple, out_size: tuple, groups: int) -> Any:
    """Columns of the padded ``x``: entry [c, k, n, p] is x[n, c, p * stride + k * dilation].

    The shape is (groups, channels a group * kernel size, batch * positions).
    """
    xp = namespace(x)
    n, c = x.shape[:2]
    if xp.__name__ == "jax.numpy":  # it has no strides to play with
        cols = xp.stack([x[w] for w in _windows(kernel, stride, dilation, out_size)])
        cols = xp.moveaxis(cols, 2, 0)  # (c, k, n, *positions)
    else:
        by = x.strides[2:]
        cols = xp.lib.stride_tricks.as_strided(
            x,
            (c, *kernel, n, *out_size),
            (x.strides[1], *(b * d for b, d in zip(by, dilation)), x.strides[0], *(b * s for b, s in zip(by, stride))),
        )
    return cols.reshape(groups, c // groups * math.prod(kernel), n * math.prod(out_size))


def _col2im(cols: Any, shape: tuple, kernel: tuple, stride: tuple, dilation: tuple, out_size: tuple) -> Any:
    """The transpose of im2col: add every column entry to the pixel of the padded image that it was taken from."""
    xp = namespace(cols)
    image = xp.zeros(shape, cols.dtype)
    cols = cols.reshape(shape[1], math.prod(kernel), shape[0], *out_size).swapaxes(0, 2)  # (n, k, c, positions)
    for k, window in enumerate(_windows(kernel, stride, dilation, out_size)):
        if xp.__name__ == "jax.numpy":
            image = image.at[window].add(cols[:, k])
        else:
            image[window] += cols[:, k]
    return image


def _rows(g: Any, groups: int) -> Any:
    """(N, O, *positions) as (groups, O / groups, N * positions), the layout that fits the columns."""
    return g.swapaxes(0, 1).reshape(groups, g.shape[1] // groups, g.shape[0] * math.prod(g.shape[2:]))


def _output_size(size: tuple, kernel: tuple, stride: tuple, padding: tuple, dilation: tuple) -> tuple[int, ...]:
    return tuple(
        (n + 2 * p - d * (k - 1) - 1) // s + 1 for n, k, s, p, d in zip(size, kernel, stride, padding, dilation)
    )


def _convolve(x, weight, bias, stride, padding, dilation, groups):
    kernel = weight.shape[2:]
    out_size = _output_size(x.shape[2:], kernel, stride, padding, dilation)
    x = _zero_pad(x, padding)
    w = weight.reshape(groups, weight.shape[0] // groups, math.prod(weight.shape[1:]))
    shape = (x.shape[0], weight.shape[0], *out_size)
    out = None
    for some in _batches(x, weight, out_size, groups):
        y = w @ _im2col(x[some], kernel, stride, dilation, out_size, groups)
        y = y.reshape(weight.shape[0], some.stop - some.start, *out_size).swapaxes(0, 1)
        if bias is not None:
            y += bias.reshape(-1, *(1,) * len(kernel))
        out = _put(out, some, y, shape)
    return out


def _convolve_input_grad(g, weight, input_size, stride, padding, dilation, groups):
    kernel, out_size = weight.shape[2:], g.shape[2:]
    channels = weight.shape[1] * groups
    if groups == 1 and set(stride) == {1} and weight.shape[0] <= channels:
        # Where kernel position k was added from p to p + k, the gradient comes back from there: a convolution with the
        # flipped kernel. Gathering is faster than col2im's adding, unless there are many more columns to make.
        flipped = weight.swapaxes(0, 1)[(..., *(slice(None, None, -1),) * len(kernel))]
        around = tuple(d * (k - 1) - p for d, k, p in zip(dilation, kernel, padding))
        return _convolve(g, flipped, None, stride, around, dilation, 1)
    padded = tuple(n + 2 * p for n, p in zip(input_size, padding))
    inside = (slice(None), slice(None), *(slice(p, p + n) for n, p in zip(input_size, padding)))
    w = weight.reshape(groups, weight.shape[0] // groups, math.prod(weight.shape[1:])).swapaxes(1, 2)
    shape = (g.shape[0], channels, *input_size)
    out = None
    for some in _batches(g, weight, out_size, groups):
        cols = w @ _rows(g[some], groups)
        image = _col2im(cols, (some.stop - some.start, channels, *padded), kernel, stride, dilation, out_size)
        out = _put(out, some, image[inside], shape)
    return out


def _convolve_weight_grad(g, x, kernel, stride, padding, dilation, groups):
    out_size = g.shape[2:]
    x = _zero_pad(x, padding)
    shape = (g.shape[1], x.shape[1] // groups, *kernel)
    total = namespace(g).zeros((groups, shape[0] // groups, math.prod(shape[1:])), g.dtype)
    for some in _batches(x, total.reshape(shape), out_size, groups):
        cols = _im2col(x[some], kernel, stride, dilation, out_size, groups)
        total += _rows(g[some], groups) @ cols.swapaxes(1, 2)
    return total.reshape(shape)


def _declare(n: int) -> tuple[Any, Any, Any]:
    """The primitives conv{n}d, conv{n}d_input_grad and conv{n}d_weight_grad. All sizes are tuples of n ints."""

    @primitive(name=f"conv{n}d", promote="same")
    def conv(x, weight, bias=None, *, stride, padding, dilation, groups):
        """Convolution of x (N, C, *size) with weight (O, C / groups, *kernel_size): (N, O, *positions)."""
        return _convolve(x, weight, bias, stride, padding, dilation, groups)

    @primitive(name=f"conv{n}d_input_grad", promote="same", linear_in=("dout", "weight"))
    def input_grad(dout, weight, *, input_size, stride, padding, dilation, groups):
        """The gradient of a convolution for its input (N, C, *input_size), from that for its output, ``dout``."""
        return _convolve_input_grad(dout, weight, input_size, stride, padding, dilation, groups)

    @primitive(name=f"conv{n}d_weight_grad", promote="same", linear_in=("dout", "x"))
    def weight_grad(dout, x, *, kernel_size, stride, padding, dilation, groups):
        """The gradient of a convolution for its weight (O, C / groups, *kernel_size), from that for its output."""
        return _convolve_weight_grad(dout, x, kernel_size, stride, padding, dilation, groups)

    # With <a, b> the sum of products, <dout, conv(x, w)> = <input_grad(dout, w), x> = <weight_grad(dout, x), w>:
    # whichever of the three is differentiated, for whichever of its inputs, the result is another of the three.
    def to_out(x, weight, stride, padding, dilation, groups):
        return conv(x, weight, None, stride=stride, padding=padding, dilation=dilation, groups=groups)

    def to_input(dout, weight, x_shape, stride, padding, dilation, groups):
        size = tuple(x_shape[2:])
        return input_grad(
            dout, weight, input_size=size, stride=stride, padding=padding, dilation=dilation, groups=groups
        )

    def to_weight(dout, x, weight_shape, stride, padding, dilation, groups):
        size = tuple(weight_shape[2:])
        return weight_grad(dout, x, kernel_size=size, stride=stride, padding=padding, dilation=dilation, groups=groups)

    conv.defvjp(
        x=lambda g, weight, x_shape, stride, padding, dilation, groups: to_input(
            g, weight, x_shape, stride, padding, dilation, groups
        ),
        weight=lambda g, x, weight_shape, stride, padding, dilation, groups: to_weight(
            g, x, weight_shape, stride, padding, dilation, groups
        ),
        bias=lambda g: reduction.sum(g, axis=(0, *range(2, n + 2))),
    )
    input_grad.defvjp(
        dout=lambda g, weight, stride, padding, dilation, groups: to_out(g, weight, stride, padding, dilation, groups),
        weight=lambda g, dout, weight_shape, stride, padding, dilation, groups: to_weight(
            dout, g, weight_shape, stride, padding, dilation, groups
        ),
    )
    weight_grad.defvjp(
        dout=lambda g, x, stride, padding, dilation, groups: to_out(x, g, stride, padding, dilation, groups),
        x=lambda g, dout, x_shape, stride, padding, dilation, groups: to_input(
            dout, g, x_shape, stride, padding, dilation, groups
        ),
    )
    return conv, input_grad, weight_grad


_primitives = {n: _declare(n) for n in (1, 2, 3)}
conv1d_input_grad, conv2d_input_grad, conv3d_input_grad = (_primitives[n][1] for n in (1, 2, 3))
conv1d_weight_grad, conv2d_weight_grad, conv3d_weight_grad = (_primitives[n][2] for n in (1, 2, 3))


def int_tuple(op: str, name: str, value: int | Sequence[int], n: int, low: int) -> tuple[int, ...]:
    """``value``, an int or n of them, as n ints. Raises ValueError naming ``op`` if there are not n or one is < low."""
    if isinstance(value, (int, np.integer)):
        value = (value,) * n
    if len(value) != n or any(v < low for v in value):
        raise ValueError(f"{op}: {name} must be an int or {n} ints, each at least {low}; got {value}")
    return tuple(map(int, value))


def _check_channels(op: str, n: int, x: Any, weight: Any, bias: Any, groups: int, transposed: bool) -> None:
    if x.ndim != n + 2:
        raise ValueError(f"{op}: expected an input with {n + 2} axes (N, C, *size), got {describe(x)}")
    if weight.ndim != n + 2:
        raise ValueError(f"{op}: expected a weight with {n + 2} axes, got {describe(weight)}")
    if groups < 1 or weight.shape[0] % groups:
        raise ValueError(f"{op}: groups={groups} does not divide the first axis of the weight {describe(weight)}")
    takes = weight.shape[0] if transposed else weight.shape[1] * groups
    if x.shape[1] != takes:
        raise ValueError(
            f"{op}: the input {describe(x)} has {x.shape[1]} channels, but the weight {describe(weight)} "
            f"with groups={groups} takes {takes}"
        )
    gives = weight.shape[1] * groups if transposed else weight.shape[0]
    if bias is not None and tuple(bias.shape) != (gives,):
        raise ValueError(f"{op}: expected a bias of shape ({gives},), one an output channel, got {describe(bias)}")


def _conv(n, x, weight, bias, stride, padding, dilation, groups):
    op = f"conv{n}d"
    _check_channels(op, n, x, weight, bias, groups, transposed=False)
    stride = int_tuple(op, "stride", stride, n, 1)
    dilation = int_tuple(op, "dilation", dilation, n, 1)
    kernel, size = tuple(weight.shape[2:]), tuple(x.shape[2:])
    if padding == "same":
        if set(stride) != {1}:
            raise ValueError(f"{op}: padding='same' needs stride 1, got {stride}")
        total = [d * (k - 1) for d, k in zip(dilation, kernel)]
        padding = tuple(t // 2 for t in total)
        if any(t % 2 for t in total):  # an even kernel: one more at the end
            x = pad(x, widths=((0, 0), (0, 0), *((0, t % 2) for t in total)))
    elif padding == "valid":
        padding = (0,) * n
    else:
        padding = int_tuple(op, "padding", padding, n, 0)
    if min(_output_size(x.shape[2:], kernel, stride, padding, dilation)) < 1:
        raise ValueError(
            f"{op}: a kernel of size {kernel} with dilation {dilation} does not fit into an input of size {size} "
            f"with padding {padding}"
        )
    conv, _, _ = _primitives[n]
    return conv(x, weight, bias, stride=stride, padding=padding, dilation=dilation, groups=groups)


def _conv_transpose(n, x, weight, bias, stride, padding, output_padding, dilation, groups):
    op = f"conv_transpose{n}d"
    _check_channels(op, n, x, weight, bias, groups, transposed=True)
    stride = int_tuple(op, "stride", stride, n, 1)
    padding = int_tuple(op, "padding", padding, n, 0)
    dilation = int_tuple(op, "dilation", dilation, n, 1)
    extra = int_tuple(op, "output_padding", output_padding, n, 0)
    if any(e >= max(s, d) for e, s, d in zip(extra, stride, dilation)):
        raise ValueError(f"{op}: output_padding {extra} must be smaller than stride {stride} or dilation {dilation}")
    # The size of which the convolution with the same parameters makes x.shape[2:]; `extra` picks among several.
    size = tuple(
        (m - 1) * s - 2 * p + d * (k - 1) + 1 + e
        for m, s, p, d, k, e in zip(x.shape[2:], stride, padding, dilation, weight.shape[2:], extra)
    )
    if min(size) < 1:
        raise ValueError(f"{op}: an input of size {tuple(x.shape[2:])} with padding {padding} gives size {size}")
    _, input_grad, _ = _primitives[n]
    params = dict(stride=stride, dilation=dilation, groups=groups)
    if all(e < s for e, s in zip(extra, stride)):
        out = input_grad(x, weight, input_size=size, padding=padding, **params)
    else:  # The convolution of such a size has more positions than x: make the whole image, and cut that out of it.
        whole = tuple(m + 2 * p - e for m, p, e in zip(size, padding, extra))
        out = input_grad(x, weight, input_size=whole, padding=(0,) * n, **params)
        out = pad(out, widths=((0, 0), (0, 0), *((-p, e - p) for p, e in zip(padding, extra))))
    return out if bias is None else out + reshape(bias, shape=(-1, *(1,) * n))


def conv1d(x, weight, bias=None, *, stride=1, padding=0, dilation=1, groups=1):
    """Convolution over one axis: x (N, C, L), weight (O, C / groups, K), bias (O,); see :func:`conv2d`."""
    return _conv(1, x, weight, bias, stride, padding, dilation, groups)


def conv2d(x, weight, bias=None, *, stride=1, padding=0, dilation=1, groups=1):
    """Convolution (cross-correlation) over two axes.

    x (N, C, H, W), weight (O, C / groups, KH, KW) and bias (O,) give (N, O, OH, OW) with
    OH = (H + 2 * padding - dilation * (KH - 1) - 1) // stride + 1, and OW likewise.

    ``stride``, ``padding`` and ``dilation`` are ints or one int an axis; ``padding`` may also be ``"valid"`` (none) or
    ``"same"`` (the output is as large as the input; stride 1). With ``groups``, every group of O / groups output
    channels sees only its own C / groups input channels. Raises ValueError where shapes do not fit.
    """
    return _conv(2, x, weight, bias, stride, padding, dilation, groups)


def conv3d(x, weight, bias=None, *, stride=1, padding=0, dilation=1, groups=1):
    """Convolution over three axes: x (N, C, D, H, W), weight (O, C / groups, KD, KH, KW); see :func:`conv2d`."""
    return _conv(3, x, weight, bias, stride, padding, dilation, groups)


def conv_transpose1d(x, weight, bias=None, *, stride=1, padding=0, output_padding=0, groups=1, dilation=1):
    """Transposed convolution over one axis: x (N, C, L), weight (C, O / groups, K); see :func:`conv_transpose2d`."""
    return _conv_transpose(1, x, weight, bias, stride, padding, output_padding, dilation, groups)


def conv_transpose2d(x, weight, bias=None, *, stride=1, padding=0, output_padding=0, groups=1, dilation=1):
    """Transposed convolution: the gradient of :func:`conv2d` for its input, as a layer that enlarges.

    Dumoulin and Visin, "A guide to convolution arithmetic for deep learning", 2016, chapter 4. x (N, C, H, W), weight
    (C, O / groups, KH, KW) and bias (O,) give (N, O, OH, OW) with
    OH = (H - 1) * stride - 2 * padding + dilation * (KH - 1) + output_padding + 1. Parameters as for conv2d;
    ``output_padding`` makes up for the sizes that a stride cannot tell apart. Raises ValueError where shapes do not
    fit.
    """
    return _conv_transpose(2, x, weight, bias, stride, padding, output_padding, dilation, groups)


def conv_transpose3d(x, weight, bias=None, *, stride=1, padding=0, output_padding=0, groups=1, dilation=1):
    """Transposed convolution over three axes: weight (C, O / groups, KD, KH, KW); see :func:`conv_transpose2d`."""
    return _conv_transpose(3, x, weight, bias, stride, padding, output_padding, dilation, groups)
