"""Normalization: batch, layer, group, instance and root-mean-square.

All but the last do the same, over different axes: subtract the mean, divide by the standard deviation::

    z = (x - mean) / sqrt(var + eps)          var = mean((x - mean)^2), not corrected for bias
    out = weight * z + bias

mean and variance depend on x, so that the gradient loses its mean and its part along z (Ioffe and Szegedy, 2015,
section 3)::

    dx = (dz - mean(dz) - z * mean(dz * z)) / sqrt(var + eps)         dz = weight * dout
    dweight = sum(dout * z)          dbias = sum(dout)

Each operation is one primitive with one backward primitive.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from minidl.core.dtypes import default_dtype, is_floating, smallest, spacing
from minidl.core.errors import describe
from minidl.core.primitive import primitive
from minidl.ops.elementwise import maximum, rsqrt
from minidl.ops.linalg import norm
from minidl.ops.reduction import mean as average
from minidl.ops.reduction import sum as add_up
from minidl.ops.shape import reshape


def _standardize(x: Any, axes: tuple[int, ...], eps: float) -> tuple[Any, Any, Any]:
    """(z, mean, var) of ``x`` over ``axes``."""
    mean = average(x, axis=axes, keepdims=True)
    centred = x - mean
    var = average(centred * centred, axis=axes, keepdims=True)
    return centred * rsqrt(var + eps), mean, var


def _standardize_grad(dz: Any, z: Any, var: Any, axes: tuple[int, ...], eps: float) -> Any:
    """The gradient for x."""
    along = average(dz * z, axis=axes, keepdims=True)
    return (dz - average(dz, axis=axes, keepdims=True) - z * along) * rsqrt(var + eps)


def _affine(z: Any, weight: Any, bias: Any, shape: tuple[int, ...]) -> Any:
    """weight * z + bias, either of which may be None."""
    if weight is not None:
        z = z * reshape(weight, shape=shape)
    return z if bias is None else z + reshape(bias, shape=shape)


def _per_channel(x: Any) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """For x (N, C, *size): the shape in which (C,) broadcasts against it, and all the other axes."""
    return (-1, *(1,) * (x.ndim - 2)), (0, *range(2, x.ndim))


# Batch normalization: over all pixels of a channel in the batch


@primitive(name="batch_norm", promote="float", composite=True, half=(0,))
def _batch_norm(x, weight=None, bias=None, *, eps):
    """(normalized x, mean, variance) with the statistics of this batch, one per channel."""
    per_channel, axes = _per_channel(x)
    z, mean, var = _standardize(x, axes, eps)
    out = _affine(z, weight, bias, per_channel)
    return out, reshape(mean, shape=(-1,)), reshape(var, shape=(-1,))


@primitive(differentiable=False)
def batch_norm_backward(dout, dmean, dvar, x, weight, mean, var, *, eps):
    """(dx, dweight, dbias) of batch_norm, from the gradients for its three outputs and its saved statistics.

    Besides what comes through z, there is what comes through mean = sum(x) / n and var = sum((x - mean)^2) / n.
    """
    per_channel, axes = _per_channel(x)
    n = math.prod(x.shape[a] for a in axes)
    mean, var, dmean, dvar = (reshape(a, shape=per_channel) for a in (mean, var, dmean, dvar))
    centred = x - mean
    z = centred * rsqrt(var + eps)
    dz = _affine(dout, weight, None, per_channel)
    dx = _standardize_grad(dz, z, var, axes, eps) + (dmean + 2 * dvar * centred) / n
    return dx, add_up(dout * z, axis=axes), add_up(dout, axis=axes)


@_batch_norm.defvjp_all
def _batch_norm_grad(g, needs, x, weight, out, eps):
    dx, dweight, dbias = batch_norm_backward(*g, x, weight, out[1], out[2], eps=eps)
    return [dx, dweight if needs[1] else None, dbias if needs[2] else None]


def batch_norm(x, weight=None, bias=None, *, eps=1e-5):
    """Batch normalization with the statistics of the batch: Ioffe and Szegedy, "Batch Normalization", ICML 2015.

    x (N, C, *size), weight (C,) and bias (C,) or None. Returns (out, mean, var): the normalized x and the mean and
    biased variance of every channel, over batch and size, for running averages. Raises ValueError where a channel has
    fewer than two values.
    """
    _check_channels("batch_norm", x, weight, bias)
    _check_eps("batch_norm", eps)
    if x.shape[0] * math.prod(x.shape[2:]) < 2:
        raise ValueError(f"batch_norm: expected at least 2 values per channel to take statistics of, got {describe(x)}")
    return _batch_norm(x, weight, bias, eps=eps)


def batch_norm_inference(x, mean, var, weight=None, bias=None, *, eps=1e-5):
    """Batch normalization of x (N, C, *size) with given statistics ``mean`` and ``var`` (C,), such as running ones."""
    _check_channels("batch_norm_inference", x, weight, bias)
    _check_eps("batch_norm_inference", eps)
    scale = rsqrt(var + eps) if weight is None else rsqrt(var + eps) * weight
    shift = -mean * scale if bias is None else bias - mean * scale
    shape = (-1, *(1,) * (x.ndim - 2))
    return x * reshape(scale, shape=shape) + reshape(shift, shape=shape)


def _check_eps(op: str, eps: float) -> None:
    if not eps > 0:
        raise ValueError(f"{op}: eps must be positive, got {eps}")


def _check_channels(op: str, x: Any, weight: Any, bias: Any) -> None:
    if x.ndim < 2:
        raise ValueError(f"{op}: expected an input with axes (N, C, *size), got {describe(x)}")
    for name, a in (("weight", weight), ("bias", bias)):
        if a is not None and tuple(a.shape) != (x.shape[1],):
            raise ValueError(
                f"{op}: expected a {name} of shape ({x.shape[1]},), one per channel of {describe(x)}, got {describe(a)}"
            )


# Layer normalization: over the last axes of each sample


def _last_axes(x: Any, normalized_shape: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The axes to normalize over, and those before them."""
    first = x.ndim - len(normalized_shape)
    return tuple(range(first, x.ndim)), tuple(range(first))


@primitive(name="layer_norm", promote="float", composite=True)
def _layer_norm(x, weight=None, bias=None, *, normalized_shape, eps):
    """``x`` normalized over its last axes, of shape ``normalized_shape``."""
    z, _, _ = _standardize(x, _last_axes(x, normalized_shape)[0], eps)
    return _affine(z, weight, bias, normalized_shape)


@primitive(differentiable=False, linear_in=("dout",))
def layer_norm_backward(dout, x, weight, *, normalized_shape, eps):
    """(dx, dweight, dbias) of layer_norm; the statistics are computed again, which is cheaper than keeping them."""
    axes, rows = _last_axes(x, normalized_shape)
    z, _, var = _standardize(x, axes, eps)
    dx = _standardize_grad(_affine(dout, weight, None, normalized_shape), z, var, axes, eps)
    return dx, add_up(dout * z, axis=rows), add_up(dout, axis=rows)


@_layer_norm.defvjp_all
def _layer_norm_grad(g, needs, x, weight, normalized_shape, eps):
    dx, dweight, dbias = layer_norm_backward(g, x, weight, normalized_shape=normalized_shape, eps=eps)
    return [dx, dweight if needs[1] else None, dbias if needs[2] else None]


def layer_norm(x, normalized_shape, weight=None, bias=None, eps=1e-5):
    """Layer normalization over the last axes of ``x``: Ba, Kiros and Hinton, "Layer Normalization", 2016, eq. 4.

    ``normalized_shape`` (an int or a tuple) is the shape of those axes, and of ``weight`` and ``bias`` (or None).
    Raises ValueError if ``x`` does not end in it.
    """
    normalized_shape = _check_rows("layer_norm", x, normalized_shape, weight, bias)
    return _layer_norm(x, weight, bias, normalized_shape=normalized_shape, eps=eps)


def _check_rows(op: str, x: Any, normalized_shape: Any, weight: Any, bias: Any) -> tuple[int, ...]:
    shape = (normalized_shape,) if isinstance(normalized_shape, (int, np.integer)) else tuple(normalized_shape)
    if not shape or tuple(x.shape[-len(shape) :]) != shape:
        raise ValueError(f"{op}: expected an input whose last axes have shape {shape}, got {describe(x)}")
    for name, a in (("weight", weight), ("bias", bias)):
        if a is not None and tuple(a.shape) != shape:
            raise ValueError(f"{op}: expected a {name} of shape {shape}, got {describe(a)}")
    return shape


# Group normalization: over the pixels of a group of channels of each sample


def _grouped(x: Any, num_groups: int) -> Any:
    """x (N, C, *size) as (N, groups, what is in a group)."""
    return reshape(x, shape=(x.shape[0], num_groups, math.prod(x.shape[1:]) // num_groups))


@primitive(name="group_norm", promote="float", composite=True)
def _group_norm(x, weight=None, bias=None, *, num_groups, eps):
    """``x`` (N, C, *size) normalized over each of ``num_groups`` groups of channels."""
    z, _, _ = _standardize(_grouped(x, num_groups), (2,), eps)
    return _affine(reshape(z, shape=x.shape), weight, bias, _per_channel(x)[0])


@primitive(differentiable=False, linear_in=("dout",))
def group_norm_backward(dout, x, weight, *, num_groups, eps):
    """(dx, dweight, dbias) of group_norm; the statistics are computed again."""
    per_channel, axes = _per_channel(x)
    z, _, var = _standardize(_grouped(x, num_groups), (2,), eps)
    dz = _grouped(_affine(dout, weight, None, per_channel), num_groups)
    dx = reshape(_standardize_grad(dz, z, var, (2,), eps), shape=x.shape)
    return dx, add_up(dout * reshape(z, shape=x.shape), axis=axes), add_up(dout, axis=axes)


@_group_norm.defvjp_all
def _group_norm_grad(g, needs, x, weight, num_groups, eps):
    dx, dweight, dbias = group_norm_backward(g, x, weight, num_groups=num_groups, eps=eps)
    return [dx, dweight if needs[1] else None, dbias if needs[2] else None]


def group_norm(x, num_groups, weight=None, bias=None, eps=1e-5):
    """Group normalization of x (N, C, *size): Wu and He, "Group Normalization", ECCV 2018, eq. 7.

    Each sample's channels are split into ``num_groups`` groups, and each is normalized over its channels and pixels.
    ``weight`` and ``bias`` are (C,) or None. Raises ValueError if the groups are not of equal size.
    """
    _check_channels("group_norm", x, weight, bias)
    if num_groups < 1 or x.shape[1] % num_groups:
        raise ValueError(f"group_norm: {x.shape[1]} channels of {describe(x)} do not split into {num_groups} groups")
    return _group_norm(x, weight, bias, num_groups=num_groups, eps=eps)


def instance_norm(x, weight=None, bias=None, eps=1e-5):
    """Instance normalization of x (N, C, *size), each channel of each sample over its pixels.

    Ulyanov, Vedaldi and Lempitsky, "Instance Normalization: The Missing Ingredient for Fast Stylization", 2016. It is
    group normalization with groups of one channel.
    """
    _check_channels("instance_norm", x, weight, bias)
    if math.prod(x.shape[2:]) < 2:
        raise ValueError(f"instance_norm: expected at least 2 pixels to take statistics of, got {describe(x)}")
    return _group_norm(x, weight, bias, num_groups=x.shape[1], eps=eps)


# Root-mean-square normalization: like layer normalization, but no mean is subtracted


@primitive(name="rms_norm", promote="float", composite=True)
def _rms_norm(x, weight=None, *, normalized_shape, eps):
    """``x`` divided by its root mean square over the last axes, of shape ``normalized_shape``."""
    z, _ = _over_rms(x, _last_axes(x, normalized_shape)[0], eps)
    return _affine(z, weight, None, normalized_shape)


def _over_rms(x: Any, axes: tuple[int, ...], eps: float) -> tuple[Any, Any]:
    """(x / rms, 1 / rms)."""
    r = rsqrt(average(x * x, axis=axes, keepdims=True) + eps)
    return x * r, r


@primitive(differentiable=False, linear_in=("dout",))
def rms_norm_backward(dout, x, weight, *, normalized_shape, eps):
    """(dx, dweight) of rms_norm: with z = x / rms, dx = (dz - z mean(dz z)) / rms."""
    axes, rows = _last_axes(x, normalized_shape)
    z, r = _over_rms(x, axes, eps)
    dz = _affine(dout, weight, None, normalized_shape)
    dx = (dz - z * average(dz * z, axis=axes, keepdims=True)) * r
    return dx, add_up(dout * z, axis=rows)


@_rms_norm.defvjp_all
def _rms_norm_grad(g, needs, x, weight, normalized_shape, eps):
    dx, dweight = rms_norm_backward(g, x, weight, normalized_shape=normalized_shape, eps=eps)
    return [dx, dweight if needs[1] else None]


def rms_norm(x, normalized_shape, weight=None, eps=None):
    """x / sqrt(mean(x^2) + eps) * weight over the last axes: Zhang and Sennrich, "Root Mean Square Layer
    Normalization", NeurIPS 2019, eq. 4.

    ``normalized_shape`` (an int or a tuple) is the shape of those axes, and of ``weight`` (or None); ``eps`` is by
    default the spacing of the dtype's numbers at 1, as in PyTorch. Raises ValueError if ``x`` does not end in it.
    """
    normalized_shape = _check_rows("rms_norm", x, normalized_shape, weight, None)
    if eps is None:
        eps = spacing(x.dtype if is_floating(x.dtype) else default_dtype())
    return _rms_norm(x, weight, normalized_shape=normalized_shape, eps=eps)


def normalize(x, p=2, axis=1, eps=1e-12):
    """``x`` divided by its p-norm along ``axis``, or by ``eps`` where that is larger (in half precision at least by its
    smallest normal number, as 1e-12 would be 0)."""
    size = norm(x, ord=p, axis=axis, keepdims=True)
    return x / maximum(size, max(eps, smallest(size.dtype)))
