"""Normalization: few passes over the data, sums of products without making the products, and the rest in place."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from minidl.backend import kernel


def _dot(x: Any, y: Any, axes: tuple[int, ...]) -> Any:
    """sum(x * y) over ``axes``, kept as axes of length one, without making x * y."""
    letters = "abcdefgh"[: x.ndim]
    left = "".join(c for i, c in enumerate(letters) if i not in axes)
    total = np.einsum(f"{letters},{letters}->{left}", x, y)
    return total.reshape(tuple(1 if i in axes else n for i, n in enumerate(x.shape)))


def _standardize(x: Any, axes: tuple[int, ...], eps: float) -> tuple[Any, Any, Any]:
    """(z, mean, var) of ``x`` over ``axes``."""
    n = math.prod(x.shape[a] for a in axes)
    mean = x.sum(axis=axes, keepdims=True) / x.dtype.type(n)
    z = x - mean
    var = _dot(z, z, axes) / x.dtype.type(n)
    z *= 1 / np.sqrt(var + x.dtype.type(eps))
    return z, mean, var


def _standardize_grad(dz: Any, z: Any, var: Any, axes: tuple[int, ...], eps: float) -> Any:
    """The gradient for x. Overwrites ``z``."""
    n = z.dtype.type(math.prod(z.shape[a] for a in axes))
    along = _dot(dz, z, axes) / n
    z *= -along
    z += dz
    z -= dz.sum(axis=axes, keepdims=True) / n
    z *= 1 / np.sqrt(var + z.dtype.type(eps))
    return z


def _affine(z: Any, weight: Any, bias: Any, shape: tuple[int, ...]) -> Any:
    """weight * z + bias, either of which may be None. Overwrites ``z``."""
    if weight is not None:
        z *= weight.reshape(shape)
    if bias is not None:
        z += bias.reshape(shape)
    return z


def _planes(shape: tuple[int, ...]) -> tuple[int, int, int]:
    """(N, C, pixels) of an (N, C, *size) shape."""
    return shape[0], shape[1], math.prod(shape[2:])


@kernel("batch_norm", backend="numpy", note="in place")
def batch_norm(x, weight=None, bias=None, *, eps):
    z, mean, var = _standardize(x.reshape(_planes(x.shape)), (0, 2), eps)
    out = _affine(z, weight, bias, (-1, 1)).reshape(x.shape)
    return out, mean.reshape(-1), var.reshape(-1)


@kernel("batch_norm_backward", backend="numpy", note="in place")
def batch_norm_backward(dout, dmean, dvar, x, weight, mean, var, *, eps):
    shape = _planes(x.shape)
    g = dout.reshape(shape)
    n = g.dtype.type(shape[0] * shape[2])
    rstd = 1 / np.sqrt(var[:, None] + g.dtype.type(eps))
    z = x.reshape(shape) - mean[:, None]
    z *= rstd
    dweight, dbias = _dot(g, z, (0, 2))[0], g.sum(axis=(0, 2))[:, None]
    scale = rstd if weight is None else rstd * weight[:, None]
    # dx = scale (dout - (dbias + z dweight) / n), and what comes through mean = sum(x) / n, var = sum((x - mean)^2) / n
    z *= (2 * dvar[:, None] / rstd - scale * dweight) / n
    z += (dmean[:, None] - scale * dbias) / n
    z += g * scale
    return z.reshape(x.shape), dweight.reshape(-1), dbias.reshape(-1)


def _rows(x: Any, normalized_shape: tuple[int, ...]) -> Any:
    """``x`` as a matrix whose rows are to be normalized."""
    lead = x.shape[: x.ndim - len(normalized_shape)]
    return x.reshape(math.prod(lead), math.prod(normalized_shape))


@kernel("layer_norm", backend="numpy", note="in place")
def layer_norm(x, weight=None, bias=None, *, normalized_shape, eps):
    z, _, _ = _standardize(_rows(x, normalized_shape), (1,), eps)
    return _affine(z, weight, bias, (-1,)).reshape(x.shape)


@kernel("layer_norm_backward", backend="numpy", note="in place")
def layer_norm_backward(dout, x, weight, *, normalized_shape, eps):
    g = _rows(dout, normalized_shape)
    z, _, var = _standardize(_rows(x, normalized_shape), (1,), eps)
    dweight, dbias = _dot(g, z, (0,)), g.sum(axis=0)
    dx = _standardize_grad(g if weight is None else g * weight.reshape(-1), z, var, (1,), eps)
    return dx.reshape(x.shape), dweight.reshape(normalized_shape), dbias.reshape(normalized_shape)


@kernel("group_norm", backend="numpy", note="in place")
def group_norm(x, weight=None, bias=None, *, num_groups, eps):
    n, c, pixels = _planes(x.shape)
    z, _, _ = _standardize(x.reshape(n, num_groups, c // num_groups * pixels), (2,), eps)
    return _affine(z.reshape(n, c, pixels), weight, bias, (-1, 1)).reshape(x.shape)


@kernel("group_norm_backward", backend="numpy", note="in place")
def group_norm_backward(dout, x, weight, *, num_groups, eps):
    n, c, pixels = _planes(x.shape)
    grouped = (n, num_groups, c // num_groups * pixels)
    g = dout.reshape(n, c, pixels)
    z, _, var = _standardize(x.reshape(grouped), (2,), eps)
    dweight, dbias = _dot(g, z.reshape(n, c, pixels), (0, 2)), g.sum(axis=(0, 2))
    dz = g if weight is None else g * weight[:, None]
    dx = _standardize_grad(dz.reshape(grouped), z, var, (2,), eps)
    return dx.reshape(x.shape), dweight.reshape(-1), dbias


@kernel("rms_norm", backend="numpy", note="in place")
def rms_norm(x, weight=None, *, normalized_shape, eps):
    rows = _rows(x, normalized_shape)
    return _affine(rows * _reciprocal_rms(rows, eps), weight, None, (-1,)).reshape(x.shape)


def _reciprocal_rms(rows: Any, eps: float) -> Any:
    dtype = rows.dtype.type
    return 1 / np.sqrt(_dot(rows, rows, (1,)) / dtype(rows.shape[1]) + dtype(eps))


@kernel("rms_norm_backward", backend="numpy", note="in place")
def rms_norm_backward(dout, x, weight, *, normalized_shape, eps):
    g, rows = _rows(dout, normalized_shape), _rows(x, normalized_shape)
    r = _reciprocal_rms(rows, eps)
    z = rows * r
    dweight = _dot(g, z, (0,))
    dz = g if weight is None else g * weight.reshape(-1)
    z *= _dot(dz, z, (1,)) / -z.dtype.type(z.shape[1])
    z += dz
    z *= r
    return z.reshape(x.shape), dweight.reshape(normalized_shape)
