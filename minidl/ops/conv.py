"""Convolution in one, two and three dimensions: strided, padded, dilated, grouped, transposed.

What is called convolution here is, as everywhere in deep learning, cross-correlation (Goodfellow, Bengio and
Courville, "Deep Learning", 2016, equation 9.6)::

    out[n, o, p] = bias[o] + sum over c, k of weight[o, c, k] * x[n, c, p * stride + k * dilation - padding]

where p and k run over positions and kernel offsets in all dimensions. The formula is im2col (Chellapilla, Puri and
Simard, "High performance convolutional neural networks for document processing", 2006): the pixels under every
position of the kernel are written into the columns of a matrix, and one matrix product does the rest.

The sum is linear in ``x`` and linear in ``weight``, so there are three operations (convolution, the gradient for its
input, the gradient for its weight) and each one's gradients are the other two.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from minidl.core.errors import describe
from minidl.core.primitive import primitive
from minidl.core.registry import namespace
from minidl.ops import reduction
from minidl.ops.einsum import einsum
from minidl.ops.indexing import add_at
from minidl.ops.shape import pad_nd, reshape, squeeze, unsqueeze


def output_size(size: tuple, kernel: tuple, stride: tuple, padding: tuple, dilation: tuple) -> tuple[int, ...]:
    """The number of positions of the kernel along each axis of an image of ``size``."""
    return tuple(
        (n + 2 * p - d * (k - 1) - 1) // s + 1 for n, k, s, p, d in zip(size, kernel, stride, padding, dilation)
    )


def _patches_at(kernel: tuple, out_size: tuple, stride: tuple, dilation: tuple) -> tuple:
    """The index with which a padded image (N, C, *size) gives the pixels under the kernel, (N, C, *kernel, *out_size):
    along each axis, under offset k of the kernel at position p lies pixel p * stride + k * dilation."""
    dims = len(kernel)
    at: list[Any] = [slice(None), slice(None)]
    for axis, (k, o, s, d) in enumerate(zip(kernel, out_size, stride, dilation)):
        pixel = np.arange(o) * s + np.arange(k)[:, None] * d
        shape = [1] * (2 * dims)
        shape[axis], shape[dims + axis] = k, o
        at.append(pixel.reshape(shape))
    return tuple(at)


def _columns(x, kernel, out_size, stride, padding, dilation, groups):
    """im2col: the patches of x as (N, groups, C / groups * kernel size, positions)."""
    around = ((0, 0), (0, 0), *((p, p) for p in padding))
    patches = namespace(x).pad(x, around)[_patches_at(kernel, out_size, stride, dilation)]
    return patches.reshape(len(x), groups, x.shape[1] // groups * math.prod(kernel), math.prod(out_size))


def _rows(weight, groups):
    """weight (O, C / groups, *kernel) as (groups, O / groups, C / groups * kernel size)."""
    return weight.reshape(groups, weight.shape[0] // groups, math.prod(weight.shape[1:]))


def _by_group(dout, groups):
    """dout (N, O, *positions) as (N, groups, O / groups, positions)."""
    return dout.reshape(len(dout), groups, dout.shape[1] // groups, math.prod(dout.shape[2:]))


def _convolve(x, weight, bias, stride, padding, dilation, groups):
    kernel = weight.shape[2:]
    out_size = output_size(x.shape[2:], kernel, stride, padding, dilation)
    columns = _columns(x, kernel, out_size, stride, padding, dilation, groups)
    out = (_rows(weight, groups) @ columns).reshape(len(x), len(weight), *out_size)
    return out if bias is None else out + bias.reshape(-1, *(1,) * len(kernel))


def _input_grad(dout, weight, input_size, stride, padding, dilation, groups):
    """col2im, the transpose of im2col: what the columns get is added to the pixels that they were taken from."""
    kernel, out_size, channels = weight.shape[2:], dout.shape[2:], weight.shape[1] * groups
    columns = _rows(weight, groups).swapaxes(1, 2) @ _by_group(dout, groups)
    padded = tuple(n + 2 * p for n, p in zip(input_size, padding))
    image = add_at(
        columns.reshape(len(dout), channels, *kernel, *out_size),
        _patches_at(kernel, out_size, stride, dilation),
        (len(dout), channels, *padded),
    )
    return image[(..., *(slice(p, p + n) for n, p in zip(input_size, padding)))]


def _weight_grad(dout, x, kernel, stride, padding, dilation, groups):
    columns = _columns(x, kernel, dout.shape[2:], stride, padding, dilation, groups)
    grad = einsum("ngop,ngkp->gok", _by_group(dout, groups), columns)
    return grad.reshape(dout.shape[1], x.shape[1] // groups, *kernel)


def _declare(n: int) -> tuple[Any, Any, Any]:
    """The primitives conv{n}d, conv{n}d_input_grad and conv{n}d_weight_grad. All sizes are tuples of n ints."""

    @primitive(name=f"conv{n}d", promote="same")
    def conv(x, weight, bias=None, *, stride, padding, dilation, groups):
        """Convolution of x (N, C, *size) with weight (O, C / groups, *kernel_size): (N, O, *positions)."""
        return _convolve(x, weight, bias, stride, padding, dilation, groups)

    @primitive(name=f"conv{n}d_input_grad", promote="same", linear_in=("dout", "weight"))
    def input_grad(dout, weight, *, input_size, stride, padding, dilation, groups):
        """The gradient of a convolution for its input (N, C, *input_size), from that for its output, ``dout``."""
        return _input_grad(dout, weight, input_size, stride, padding, dilation, groups)

    @primitive(name=f"conv{n}d_weight_grad", promote="same", linear_in=("dout", "x"))
    def weight_grad(dout, x, *, kernel_size, stride, padding, dilation, groups):
        """The gradient of a convolution for its weight (O, C / groups, *kernel_size), from that for its output."""
        return _weight_grad(dout, x, kernel_size, stride, padding, dilation, groups)

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
    elif len(value) == 1:
        value = tuple(value) * n
    if len(value) != n or any(v < low for v in value):
        raise ValueError(f"{op}: {name} must be an int or {n} ints, each at least {low}; got {value}")
    return tuple(map(int, value))


def one_image_too(function: Callable[..., Any]) -> Callable[..., Any]:
    """``function(n, x, ...)`` of x (N, C, *size) with n axes of size, made to take one image (C, *size) as well."""

    @functools.wraps(function)
    def call(n: int, x: Any, *arguments: Any) -> Any:
        if x.ndim != n + 1:
            return function(n, x, *arguments)
        out = function(n, unsqueeze(x, axis=0), *arguments)
        return tuple(squeeze(o, axis=0) for o in out) if isinstance(out, tuple) else squeeze(out, axis=0)

    return call


def _check_channels(op: str, n: int, x: Any, weight: Any, bias: Any, groups: int, transposed: bool) -> None:
    if x.ndim != n + 2:
        raise ValueError(f"{op}: expected an input with {n + 2} axes (N, C, *size), or without N, got {describe(x)}")
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
        raise ValueError(f"{op}: expected a bias of shape ({gives},), one per output channel, got {describe(bias)}")


@one_image_too
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
            x = pad_nd(x, widths=((0, 0), (0, 0), *((0, t % 2) for t in total)))
    elif padding == "valid":
        padding = (0,) * n
    else:
        padding = int_tuple(op, "padding", padding, n, 0)
    if min(output_size(x.shape[2:], kernel, stride, padding, dilation)) < 1:
        raise ValueError(
            f"{op}: a kernel of size {kernel} with dilation {dilation} does not fit into an input of size {size} "
            f"with padding {padding}"
        )
    conv, _, _ = _primitives[n]
    return conv(x, weight, bias, stride=stride, padding=padding, dilation=dilation, groups=groups)


@one_image_too
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
        out = pad_nd(out, widths=((0, 0), (0, 0), *((-p, e - p) for p, e in zip(padding, extra))))
    return out if bias is None else out + reshape(bias, shape=(-1, *(1,) * n))


def conv1d(x, weight, bias=None, stride=1, padding=0, dilation=1, groups=1):
    """Convolution over one axis: x (N, C, L), weight (O, C / groups, K), bias (O,); see :func:`conv2d`."""
    return _conv(1, x, weight, bias, stride, padding, dilation, groups)


def conv2d(x, weight, bias=None, stride=1, padding=0, dilation=1, groups=1):
    """Convolution (cross-correlation) over two axes.

    x (N, C, H, W) (or one image, without N), weight (O, C / groups, KH, KW) and bias (O,) give (N, O, OH, OW) with
    OH = (H + 2 * padding - dilation * (KH - 1) - 1) // stride + 1, and OW likewise.

    ``stride``, ``padding`` and ``dilation`` are ints or one int per axis; ``padding`` may also be ``"valid"`` (none) or
    ``"same"`` (the output is as large as the input; stride 1). With ``groups``, every group of O / groups output
    channels sees only its own C / groups input channels. Raises ValueError where shapes do not fit.

    >>> from minidl import ones, ops
    >>> ops.conv2d(ones(1, 3, 32, 32), ones(8, 3, 3, 3), stride=2, padding=1).shape
    (1, 8, 16, 16)
    """
    return _conv(2, x, weight, bias, stride, padding, dilation, groups)


def conv3d(x, weight, bias=None, stride=1, padding=0, dilation=1, groups=1):
    """Convolution over three axes: x (N, C, D, H, W), weight (O, C / groups, KD, KH, KW); see :func:`conv2d`."""
    return _conv(3, x, weight, bias, stride, padding, dilation, groups)


def conv_transpose1d(x, weight, bias=None, stride=1, padding=0, output_padding=0, groups=1, dilation=1):
    """Transposed convolution over one axis: x (N, C, L), weight (C, O / groups, K); see :func:`conv_transpose2d`."""
    return _conv_transpose(1, x, weight, bias, stride, padding, output_padding, dilation, groups)


def conv_transpose2d(x, weight, bias=None, stride=1, padding=0, output_padding=0, groups=1, dilation=1):
    """Transposed convolution: the gradient of :func:`conv2d` for its input, as a layer that enlarges.

    Dumoulin and Visin, "A guide to convolution arithmetic for deep learning", 2016, chapter 4. x (N, C, H, W), weight
    (C, O / groups, KH, KW) and bias (O,) give (N, O, OH, OW) with
    OH = (H - 1) * stride - 2 * padding + dilation * (KH - 1) + output_padding + 1. Parameters as for conv2d;
    ``output_padding`` makes up for the sizes that a stride cannot tell apart. Raises ValueError where shapes do not
    fit.
    """
    return _conv_transpose(2, x, weight, bias, stride, padding, output_padding, dilation, groups)


def conv_transpose3d(x, weight, bias=None, stride=1, padding=0, output_padding=0, groups=1, dilation=1):
    """Transposed convolution over three axes: weight (C, O / groups, KD, KH, KW); see :func:`conv_transpose2d`."""
    return _conv_transpose(3, x, weight, bias, stride, padding, output_padding, dilation, groups)
