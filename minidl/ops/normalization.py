"""Normalization: batch, layer, group, instance and root-mean-square.

All but the last do the same, over different axes: subtract the mean, divide by the standard deviation::

    z = (x - mean) / sqrt(var + eps)          var = mean((x - mean)^2), not corrected for bias
    out = weight * z + bias

mean and variance depend on x, so that the gradient loses its mean and its part along z (Ioffe and Szegedy, 2015,
section 3)::

    dx = (dz - mean(dz) - z * mean(dz * z)) / sqrt(var + eps)         dz = weight * dout
    dweight = sum(dout * z)          dbias = sum(dout)

Each operation is one primitive with one backward primitive; second derivatives go through its composite.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from minidl.core.errors import describe
from minidl.core.primitive import primitive
from minidl.core.registry import namespace
from minidl.ops import reduction
from minidl.ops.elementwise import maximum, rsqrt
from minidl.ops.linalg import norm
from minidl.ops.shape import reshape


def _wide(x: Any) -> Any:
    """``x``, in float32 if it is of a half precision: sums of squares would overflow."""
    return x.astype(np.float32) if x.dtype.itemsize < 4 else x


def _dot(x: Any, y: Any, axes: tuple[int, ...]) -> Any:
    """sum(x * y) over ``axes``, kept as axes of length one, without making x * y."""
    letters = "abcdefgh"[: x.ndim]
    left = "".join(c for i, c in enumerate(letters) if i not in axes)
    total = namespace(x).einsum(f"{letters},{letters}->{left}", x, y)
    return total.reshape(tuple(1 if i in axes else n for i, n in enumerate(x.shape)))


def _standardize(x: Any, axes: tuple[int, ...], eps: float) -> tuple[Any, Any, Any]:
    """(z, mean, var) of ``x`` over ``axes``."""
    n = math.prod(x.shape[a] for a in axes)
    mean = x.sum(axis=axes, keepdims=True) / x.dtype.type(n)
    z = x - mean
    var = _dot(z, z, axes) / x.dtype.type(n)
    z *= 1 / namespace(x).sqrt(var + x.dtype.type(eps))
    return z, mean, var


def _standardize_grad(dz: Any, z: Any, var: Any, axes: tuple[int, ...], eps: float) -> Any:
    """The gradient for x. Overwrites ``z``."""
    n = z.dtype.type(math.prod(z.shape[a] for a in axes))
    along = _dot(dz, z, axes) / n
    z *= -along
    z += dz
    z -= dz.sum(axis=axes, keepdims=True) / n
    z *= 1 / namespace(z).sqrt(var + z.dtype.type(eps))
    return z


def _affine(z: Any, weight: Any, bias: Any, shape: tuple[int, ...]) -> Any:
    """weight * z + bias, either of which may be None. Overwrites ``z``."""
    if weight is not None:
        z *= weight.reshape(shape)
    if bias is not None:
        z += bias.reshape(shape)
    return z


def _recorded_standardize(x: Any, axes: tuple[int, ...], eps: float) -> tuple[Any, Any, Any]:
    """:func:`_standardize` in primitives, for the composites."""
    mean = reduction.mean(x, axis=axes, keepdims=True)
    centred = x - mean
    var = reduction.mean(centred * centred, axis=axes, keepdims=True)
    return centred * rsqrt(var + eps), mean, var


def _recorded_affine(z: Any, weight: Any, bias: Any, shape: tuple[int, ...]) -> Any:
    if weight is not None:
        z = z * reshape(weight, shape=shape)
    return z if bias is None else z + reshape(bias, shape=shape)


def _planes(shape: tuple[int, ...]) -> tuple[int, int, int]:
    """(N, C, pixels) of an (N, C, *size) shape."""
    return shape[0], shape[1], math.prod(shape[2:])


# Batch normalization: over all pixels of a channel in the batch


@primitive(name="batch_norm", promote="float")
def _batch_norm(x, weight=None, bias=None, *, eps):
    """(normalized x, mean, variance) with the statistics of this batch, one a channel."""
    z, mean, var = _standardize(_wide(x).reshape(_planes(x.shape)), (0, 2), eps)
    out = _affine(z, weight, bias, (-1, 1)).reshape(x.shape)
    return out.astype(x.dtype, copy=False), mean.reshape(-1), var.reshape(-1)


@primitive(differentiable=False)
def batch_norm_backward(dout, dmean, dvar, x, weight, mean, var, *, eps):
    """(dx, dweight, dbias) of batch_norm, from the gradients for its three outputs and its saved statistics."""
    shape = _planes(x.shape)
    g = _wide(dout).reshape(shape)
    xp, n = namespace(g), g.dtype.type(shape[0] * shape[2])
    rstd = 1 / xp.sqrt(var[:, None] + g.dtype.type(eps))
    z = _wide(x).reshape(shape) - mean[:, None]
    z *= rstd
    dweight, dbias = _dot(g, z, (0, 2))[0], g.sum(axis=(0, 2))[:, None]
    scale = rstd if weight is None else rstd * weight[:, None]
    # dx = scale (dout - (dbias + z dweight) / n), and what comes through mean = sum(x) / n, var = sum((x - mean)^2) / n
    z *= (2 * dvar[:, None] / rstd - scale * dweight) / n
    z += (dmean[:, None] - scale * dbias) / n
    z += g * scale
    return z.reshape(x.shape).astype(x.dtype, copy=False), dweight.reshape(-1), dbias.reshape(-1)


@_batch_norm.defvjp_all
def _batch_norm_grad(g, needs, x, weight, out, eps):
    dx, dweight, dbias = batch_norm_backward(*g, x, weight, out[1], out[2], eps=eps)
    return [dx, dweight if needs[1] else None, dbias if needs[2] else None]


@_batch_norm.defcomposite
def _batch_norm_composite(x, weight=None, bias=None, *, eps):
    z, mean, var = _recorded_standardize(x, (0, *range(2, x.ndim)), eps)
    out = _recorded_affine(z, weight, bias, (-1, *(1,) * (x.ndim - 2)))
    return out, reshape(mean, shape=(-1,)), reshape(var, shape=(-1,))


def batch_norm(x, weight=None, bias=None, *, eps=1e-5):
    """Batch normalization with the statistics of the batch: Ioffe and Szegedy, "Batch Normalization", ICML 2015.

    x (N, C, *size), weight (C,) and bias (C,) or None. Returns (out, mean, var): the normalized x and the mean and
    biased variance of every channel, over batch and size, for running averages. Raises ValueError where a channel has
    fewer than two values.
    """
    _check_channels("batch_norm", x, weight, bias)
    if x.shape[0] * math.prod(x.shape[2:]) < 2:
        raise ValueError(f"batch_norm: expected at least 2 values a channel to take statistics of, got {describe(x)}")
    return _batch_norm(x, weight, bias, eps=eps)


def batch_norm_inference(x, mean, var, weight=None, bias=None, *, eps=1e-5):
    """Batch normalization of x (N, C, *size) with given statistics ``mean`` and ``var`` (C,), such as running ones."""
    _check_channels("batch_norm_inference", x, weight, bias)
    scale = rsqrt(var + eps) if weight is None else rsqrt(var + eps) * weight
    shift = -mean * scale if bias is None else bias - mean * scale
    shape = (-1, *(1,) * (x.ndim - 2))
    return x * reshape(scale, shape=shape) + reshape(shift, shape=shape)


def _check_channels(op: str, x: Any, weight: Any, bias: Any) -> None:
    if x.ndim < 2:
        raise ValueError(f"{op}: expected an input with axes (N, C, *size), got {describe(x)}")
    for name, a in (("weight", weight), ("bias", bias)):
        if a is not None and tuple(a.shape) != (x.shape[1],):
            raise ValueError(
                f"{op}: expected a {name} of shape ({x.shape[1]},), one a channel of {describe(x)}, got {describe(a)}"
            )


# Layer normalization: over the last axes of each sample


def _rows(x: Any, normalized_shape: tuple[int, ...]) -> Any:
    """``x`` as a matrix whose rows are to be normalized."""
    lead = x.shape[: x.ndim - len(normalized_shape)]
    return _wide(x).reshape(math.prod(lead), math.prod(normalized_shape))


@primitive(name="layer_norm", promote="float")
def _layer_norm(x, weight=None, bias=None, *, normalized_shape, eps):
    """``x`` normalized over its last axes, of shape ``normalized_shape``."""
    z, _, _ = _standardize(_rows(x, normalized_shape), (1,), eps)
    return _affine(z, weight, bias, (-1,)).reshape(x.shape).astype(x.dtype, copy=False)


@primitive(differentiable=False, linear_in=("dout",))
def layer_norm_backward(dout, x, weight, *, normalized_shape, eps):
    """(dx, dweight, dbias) of layer_norm; the statistics are computed again, which is cheaper than keeping them."""
    g = _rows(dout, normalized_shape)
    z, _, var = _standardize(_rows(x, normalized_shape), (1,), eps)
    dweight, dbias = _dot(g, z, (0,)), g.sum(axis=0)
    dx = _standardize_grad(g if weight is None else g * weight.reshape(-1), z, var, (1,), eps)
    return (
        dx.reshape(x.shape).astype(x.dtype, copy=False),
        dweight.reshape(normalized_shape),
        dbias.reshape(normalized_shape),
    )


@_layer_norm.defvjp_all
def _layer_norm_grad(g, needs, x, weight, normalized_shape, eps):
    dx, dweight, dbias = layer_norm_backward(g, x, weight, normalized_shape=normalized_shape, eps=eps)
    return [dx, dweight if needs[1] else None, dbias if needs[2] else None]


@_layer_norm.defcomposite
def _layer_norm_composite(x, weight=None, bias=None, *, normalized_shape, eps):
    z, _, _ = _recorded_standardize(x, tuple(range(x.ndim - len(normalized_shape), x.ndim)), eps)
    return _recorded_affine(z, weight, bias, normalized_shape)


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


@primitive(name="group_norm", promote="float")
def _group_norm(x, weight=None, bias=None, *, num_groups, eps):
    """``x`` (N, C, *size) normalized over each of ``num_groups`` groups of channels."""
    n, c, pixels = _planes(x.shape)
    z, _, _ = _standardize(_wide(x).reshape(n, num_groups, c // num_groups * pixels), (2,), eps)
    return _affine(z.reshape(n, c, pixels), weight, bias, (-1, 1)).reshape(x.shape).astype(x.dtype, copy=False)


@primitive(differentiable=False, linear_in=("dout",))
def group_norm_backward(dout, x, weight, *, num_groups, eps):
    """(dx, dweight, dbias) of group_norm; the statistics are computed again."""
    n, c, pixels = _planes(x.shape)
    grouped = (n, num_groups, c // num_groups * pixels)
    g = _wide(dout).reshape(n, c, pixels)
    z, _, var = _standardize(_wide(x).reshape(grouped), (2,), eps)
    dweight, dbias = _dot(g, z.reshape(n, c, pixels), (0, 2)), g.sum(axis=(0, 2))
    dz = g if weight is None else g * weight[:, None]
    dx = _standardize_grad(dz.reshape(grouped), z, var, (2,), eps)
    return dx.reshape(x.shape).astype(x.dtype, copy=False), dweight.reshape(-1), dbias


@_group_norm.defvjp_all
def _group_norm_grad(g, needs, x, weight, num_groups, eps):
    dx, dweight, dbias = group_norm_backward(g, x, weight, num_groups=num_groups, eps=eps)
    return [dx, dweight if needs[1] else None, dbias if needs[2] else None]


@_group_norm.defcomposite
def _group_norm_composite(x, weight=None, bias=None, *, num_groups, eps):
    n, c, pixels = _planes(x.shape)
    z, _, _ = _recorded_standardize(reshape(x, shape=(n, num_groups, c // num_groups * pixels)), (2,), eps)
    return _recorded_affine(reshape(z, shape=x.shape), weight, bias, (-1, *(1,) * (x.ndim - 2)))


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


@primitive(name="rms_norm", promote="float")
def _rms_norm(x, weight=None, *, normalized_shape, eps):
    """``x`` divided by its root mean square over the last axes, of shape ``normalized_shape``."""
    rows = _rows(x, normalized_shape)
    return _affine(rows * _reciprocal_rms(rows, eps), weight, None, (-1,)).reshape(x.shape).astype(x.dtype, copy=False)


def _reciprocal_rms(rows: Any, eps: float) -> Any:
    dtype = rows.dtype.type
    return 1 / namespace(rows).sqrt(_dot(rows, rows, (1,)) / dtype(rows.shape[1]) + dtype(eps))


@primitive(differentiable=False, linear_in=("dout",))
def rms_norm_backward(dout, x, weight, *, normalized_shape, eps):
    """(dx, dweight) of rms_norm: with z = x / rms, dx = (dz - z mean(dz z)) / rms."""
    g, rows = _rows(dout, normalized_shape), _rows(x, normalized_shape)
    r = _reciprocal_rms(rows, eps)
    z = rows * r
    dweight = _dot(g, z, (0,))
    dz = g if weight is None else g * weight.reshape(-1)
    z *= _dot(dz, z, (1,)) / -z.dtype.type(z.shape[1])
    z += dz
    z *= r
    return z.reshape(x.shape).astype(x.dtype, copy=False), dweight.reshape(normalized_shape)


@_rms_norm.defvjp_all
def _rms_norm_grad(g, needs, x, weight, normalized_shape, eps):
    dx, dweight = rms_norm_backward(g, x, weight, normalized_shape=normalized_shape, eps=eps)
    return [dx, dweight if needs[1] else None]


@_rms_norm.defcomposite
def _rms_norm_composite(x, weight=None, *, normalized_shape, eps):
    axes = tuple(range(x.ndim - len(normalized_shape), x.ndim))
    z = x * rsqrt(reduction.mean(x * x, axis=axes, keepdims=True) + eps)
    return z if weight is None else z * weight


def rms_norm(x, normalized_shape, weight=None, eps=None):
    """x / sqrt(mean(x^2) + eps) * weight over the last axes: Zhang and Sennrich, "Root Mean Square Layer
    Normalization", NeurIPS 2019, eq. 4.

    ``normalized_shape`` (an int or a tuple) is the shape of those axes, and of ``weight`` (or None); ``eps`` is by
    default the spacing of the dtype's numbers at 1, as in PyTorch. Raises ValueError if ``x`` does not end in it.
    """
    normalized_shape = _check_rows("rms_norm", x, normalized_shape, weight, None)
    if eps is None:
        eps = float(np.finfo(x.dtype if x.dtype.kind == "f" else np.float32).eps)
    return _rms_norm(x, weight, normalized_shape=normalized_shape, eps=eps)


def normalize(x, p=2, axis=1, eps=1e-12):
    """``x`` divided by its p-norm along ``axis``, or by ``eps`` where that is larger."""
    return x / maximum(norm(x, ord=p, axis=axis, keepdims=True), eps)
