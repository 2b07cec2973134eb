"""Layer, root-mean-square, group and batch normalization, forward and backward.

Each row (or group, or channel) is read for its mean, again for its variance about that mean, and once more to be
written, while it is in the cache. Sums for weights and biases, which run over rows, are kept per piece of work and
added up in order, so that they do not depend on the number of threads.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np
from numba import prange

from minidl.backend import kernel
from minidl_kernels.numba.simd.common import PARALLEL_FROM, over_rows, pieces, plain
from minidl_kernels.numba.simd.compiled import compiled, inlined
from minidl_kernels.numba.simd.vecmath import add_any_order

# No fused multiply-add: gradients are differences of nearly equal terms where a row is short, and these cancel exactly
# only if all products are rounded alike.
_FASTMATH = frozenset({"nsz"})

_FLOAT_NAMES = ("float32", "float64")


@functools.lru_cache(maxsize=64)
def _constant(n: int, dtype: np.dtype, value: int) -> np.ndarray:
    """What an absent weight (ones) or bias (zeros) stands for; only to be read."""
    return np.full(n, value, dtype)


def _flat(a: np.ndarray | None, n: int, dtype: np.dtype, absent: int) -> np.ndarray:
    return _constant(n, dtype, absent) if a is None else a.reshape(-1)


# Rows: layer normalization; without centring, root-mean-square normalization


@inlined(fastmath=_FASTMATH)
def _row_statistics(x, i, eps, centred):
    """(mean, 1 / standard deviation) of row i; the mean counts as 0 if not ``centred``."""
    n = x.dtype.type(x.shape[1])
    mean = x.dtype.type(0)
    if centred:
        for j in range(x.shape[1]):
            mean = add_any_order(mean, x[i, j])
        mean /= n
    total = x.dtype.type(0)
    for j in range(x.shape[1]):
        d = x[i, j] - mean
        total = add_any_order(total, d * d)
    return mean, x.dtype.type(1) / np.sqrt(total / n + x.dtype.type(eps))


@compiled(fastmath=_FASTMATH)
def _norm_rows(x, weight, bias, eps, centred, out, start, stop):
    for i in range(start, stop):
        mean, r = _row_statistics(x, i, eps, centred)
        for j in range(x.shape[1]):
            out[i, j] = (x[i, j] - mean) * r * weight[j] + bias[j]


@compiled(parallel=True, fastmath=_FASTMATH)
def _norm_pieces(x, weight, bias, eps, centred, out, count):
    for c in prange(count):
        _norm_rows(x, weight, bias, eps, centred, out, c * x.shape[0] // count, (c + 1) * x.shape[0] // count)


@compiled(fastmath=_FASTMATH)
def _norm_backward_rows(g, x, weight, eps, centred, dx, dweight, dbias, start, stop):
    """dx of the rows; their part of the sums is put into ``dweight`` and ``dbias``."""
    n = x.dtype.type(x.shape[1])
    dweight[:] = 0
    dbias[:] = 0
    for i in range(start, stop):
        mean, r = _row_statistics(x, i, eps, centred)
        total = along = x.dtype.type(0)
        for j in range(x.shape[1]):
            dz = g[i, j] * weight[j]
            along = add_any_order(along, dz * ((x[i, j] - mean) * r))
            total = add_any_order(total, dz)
        total = total / n if centred else x.dtype.type(0)
        along /= n
        for j in range(x.shape[1]):
            dx[i, j] = (g[i, j] * weight[j] - (x[i, j] - mean) * r * along - total) * r
        for j in range(x.shape[1]):
            dweight[j] += g[i, j] * ((x[i, j] - mean) * r)
            dbias[j] += g[i, j]


@compiled(fastmath=_FASTMATH)
def _sum_over_pieces(parts, out):
    out[:] = 0
    for c in range(parts.shape[0]):
        for j in range(out.size):
            out[j] += parts[c, j]


@compiled(parallel=True, fastmath=_FASTMATH)
def _norm_backward_pieces(g, x, weight, eps, centred, dx, dweight, dbias, count):
    dweights, dbiases = np.empty((count, weight.size), x.dtype), np.empty((count, weight.size), x.dtype)
    for c in prange(count):
        _norm_backward_rows(
            g, x, weight, eps, centred, dx, dweights[c], dbiases[c],
            c * x.shape[0] // count, (c + 1) * x.shape[0] // count,
        )  # fmt: skip
    _sum_over_pieces(dweights, dweight)
    _sum_over_pieces(dbiases, dbias)


def _norm(x: Any, weight: Any, bias: Any, normalized_shape: tuple, eps: float, centred: bool, out: Any) -> np.ndarray:
    result = np.empty(x.shape, x.dtype) if out is None else out[0]
    n = math.prod(normalized_shape)
    rows = x.size // n
    over_rows(
        _norm_rows, _norm_pieces, x.size, rows,
        x.reshape(rows, n), _flat(weight, n, x.dtype, 1), _flat(bias, n, x.dtype, 0), float(eps), centred,
        result.reshape(rows, n),
    )  # fmt: skip
    return result


def _norm_backward(
    g: Any, x: Any, weight: Any, normalized_shape: tuple, eps: float, centred: bool, dx: Any, dweight: Any, dbias: Any
) -> None:
    n = math.prod(normalized_shape)
    rows = x.size // n
    arguments = (
        g.reshape(rows, n), x.reshape(rows, n), _flat(weight, n, x.dtype, 1), float(eps), centred, dx.reshape(rows, n),
        dweight.reshape(-1), dbias.reshape(-1),
    )  # fmt: skip
    if x.size < PARALLEL_FROM:
        _norm_backward_rows(*arguments, 0, rows)
    else:
        _norm_backward_pieces(*arguments, pieces(x.size, min(rows, 64)))


def _plain(x: Any, weight: Any = None, bias: Any = None, **params: Any) -> bool:
    """float32 or float64, C-contiguous, not empty"""
    return plain(x, weight, bias) and x.size > 0


def _plain_backward(g: Any, x: Any, weight: Any = None, **params: Any) -> bool:
    """float32 or float64, C-contiguous, not empty"""
    return plain(g, x, weight) and x.size > 0


@kernel("layer_norm", backend="numba", when=_plain, dtypes=_FLOAT_NAMES, note="one pass per row", out=True)
def layer_norm(
    x: np.ndarray, weight: Any = None, bias: Any = None, *, normalized_shape: tuple, eps: float, out: Any = None
) -> np.ndarray:
    return _norm(x, weight, bias, normalized_shape, eps, True, out)


@kernel("rms_norm", backend="numba", when=_plain, dtypes=_FLOAT_NAMES, note="one pass per row", out=True)
def rms_norm(x: np.ndarray, weight: Any = None, *, normalized_shape: tuple, eps: float, out: Any = None) -> np.ndarray:
    return _norm(x, weight, None, normalized_shape, eps, False, out)


@kernel(
    "layer_norm_backward", backend="numba", when=_plain_backward, dtypes=_FLOAT_NAMES, out=True,
    note="all three gradients in one pass",
)  # fmt: skip
def layer_norm_backward(
    g: np.ndarray, x: np.ndarray, weight: Any, *, normalized_shape: tuple, eps: float, out: Any = None
) -> tuple[np.ndarray, ...]:
    if out is None:
        shape = tuple(normalized_shape)
        out = np.empty(x.shape, x.dtype), np.empty(shape, x.dtype), np.empty(shape, x.dtype)
    _norm_backward(g, x, weight, normalized_shape, eps, True, *out)
    return out


@kernel(
    "rms_norm_backward", backend="numba", when=_plain_backward, dtypes=_FLOAT_NAMES, out=True,
    note="both gradients in one pass",
)  # fmt: skip
def rms_norm_backward(
    g: np.ndarray, x: np.ndarray, weight: Any, *, normalized_shape: tuple, eps: float, out: Any = None
) -> tuple[np.ndarray, ...]:
    if out is None:
        out = np.empty(x.shape, x.dtype), np.empty(tuple(normalized_shape), x.dtype)
    _norm_backward(g, x, weight, normalized_shape, eps, False, *out, np.empty(out[1].size, x.dtype))
    return out


# Groups of channels: x is (N, groups, channels of a group, pixels)


@compiled(fastmath=_FASTMATH)
def _group_norm_rows(x, weight, bias, eps, out, start, stop):
    """Groups ``start`` to ``stop`` of all samples' groups."""
    groups, channels, pixels = x.shape[1], x.shape[2], x.shape[3]
    for i in range(start, stop):
        s, group = i // groups, i % groups
        mean, r = _group_statistics(x, s, group, eps)
        for k in range(channels):
            w, b = weight[group * channels + k], bias[group * channels + k]
            for p in range(pixels):
                out[s, group, k, p] = (x[s, group, k, p] - mean) * r * w + b


@inlined(fastmath=_FASTMATH)
def _group_statistics(x, s, group, eps):
    n = x.shape[2] * x.shape[3]
    mean = square = 0.0
    for k in range(x.shape[2]):
        total = x.dtype.type(0)
        for p in range(x.shape[3]):
            total = add_any_order(total, x[s, group, k, p])
        mean += total
    centre = x.dtype.type(mean / n)
    for k in range(x.shape[2]):
        total = x.dtype.type(0)
        for p in range(x.shape[3]):
            d = x[s, group, k, p] - centre
            total = add_any_order(total, d * d)
        square += total
    return centre, x.dtype.type(1) / np.sqrt(x.dtype.type(square / n) + x.dtype.type(eps))


@compiled(parallel=True, fastmath=_FASTMATH)
def _group_norm_pieces(x, weight, bias, eps, out, count):
    rows = x.shape[0] * x.shape[1]
    for c in prange(count):
        _group_norm_rows(x, weight, bias, eps, out, c * rows // count, (c + 1) * rows // count)


@compiled(fastmath=_FASTMATH)
def _group_norm_backward_rows(g, x, weight, eps, dx, dweight, dbias, start, stop):
    groups, channels, pixels = x.shape[1], x.shape[2], x.shape[3]
    n = x.dtype.type(channels * pixels)
    dweight[:] = 0
    dbias[:] = 0
    for i in range(start, stop):
        s, group = i // groups, i % groups
        mean, r = _group_statistics(x, s, group, eps)
        total = along = x.dtype.type(0)
        for k in range(channels):
            at = group * channels + k
            of_bias = of_weight = part_of_total = part_along = x.dtype.type(0)
            for p in range(pixels):
                dz, z = g[s, group, k, p] * weight[at], (x[s, group, k, p] - mean) * r
                of_bias = add_any_order(of_bias, g[s, group, k, p])
                of_weight = add_any_order(of_weight, g[s, group, k, p] * z)
                part_of_total = add_any_order(part_of_total, dz)
                part_along = add_any_order(part_along, dz * z)
            dbias[at] += of_bias
            dweight[at] += of_weight
            total += part_of_total
            along += part_along
        total, along = total / n, along / n
        for k in range(channels):
            w = weight[group * channels + k]
            for p in range(pixels):
                z = (x[s, group, k, p] - mean) * r
                dx[s, group, k, p] = (g[s, group, k, p] * w - z * along - total) * r


@compiled(parallel=True, fastmath=_FASTMATH)
def _group_norm_backward_pieces(g, x, weight, eps, dx, dweight, dbias, count):
    dweights, dbiases = np.empty((count, weight.size), x.dtype), np.empty((count, weight.size), x.dtype)
    rows = x.shape[0] * x.shape[1]
    for c in prange(count):
        _group_norm_backward_rows(
            g, x, weight, eps, dx, dweights[c], dbiases[c], c * rows // count, (c + 1) * rows // count
        )
    _sum_over_pieces(dweights, dweight)
    _sum_over_pieces(dbiases, dbias)


def _grouped(a: np.ndarray, num_groups: int) -> np.ndarray:
    n, c = a.shape[:2]
    return a.reshape(n, num_groups, c // num_groups, math.prod(a.shape[2:]))


@kernel("group_norm", backend="numba", when=_plain, dtypes=_FLOAT_NAMES, note="one pass per group", out=True)
def group_norm(
    x: np.ndarray, weight: Any = None, bias: Any = None, *, num_groups: int, eps: float, out: Any = None
) -> np.ndarray:
    result = np.empty(x.shape, x.dtype) if out is None else out[0]
    c = x.shape[1]
    over_rows(
        _group_norm_rows, _group_norm_pieces, x.size, x.shape[0] * num_groups, _grouped(x, num_groups),
        _flat(weight, c, x.dtype, 1), _flat(bias, c, x.dtype, 0), float(eps), _grouped(result, num_groups),
    )  # fmt: skip
    return result


@kernel(
    "group_norm_backward", backend="numba", when=_plain_backward, dtypes=_FLOAT_NAMES, out=True,
    note="all three gradients in one pass",
)  # fmt: skip
def group_norm_backward(
    g: np.ndarray, x: np.ndarray, weight: Any, *, num_groups: int, eps: float, out: Any = None
) -> tuple[np.ndarray, ...]:
    c = x.shape[1]
    if out is None:
        out = np.empty(x.shape, x.dtype), np.empty(c, x.dtype), np.empty(c, x.dtype)
    dx, dweight, dbias = out
    arguments = (
        _grouped(g, num_groups), _grouped(x, num_groups), _flat(weight, c, x.dtype, 1), float(eps),
        _grouped(dx, num_groups), dweight, dbias,
    )  # fmt: skip
    rows = x.shape[0] * num_groups
    if x.size < PARALLEL_FROM:
        _group_norm_backward_rows(*arguments, 0, rows)
    else:
        _group_norm_backward_pieces(*arguments, pieces(x.size, min(rows, 64)))
    return out


# Batch normalization: x is (N, C, pixels), each channel by itself


@compiled(fastmath=_FASTMATH)
def _batch_norm_channels(x, weight, bias, eps, out, means, variances, start, stop):
    n = x.shape[0] * x.shape[2]
    for c in range(start, stop):
        mean = variance = 0.0
        for s in range(x.shape[0]):
            total = x.dtype.type(0)
            for p in range(x.shape[2]):
                total = add_any_order(total, x[s, c, p])
            mean += total
        centre = x.dtype.type(mean / n)
        for s in range(x.shape[0]):
            total = x.dtype.type(0)
            for p in range(x.shape[2]):
                d = x[s, c, p] - centre
                total = add_any_order(total, d * d)
            variance += total
        variance /= n
        means[c] = centre
        variances[c] = variance
        rstd, w, b = x.dtype.type(1) / np.sqrt(variances[c] + x.dtype.type(eps)), weight[c], bias[c]
        for s in range(x.shape[0]):
            for p in range(x.shape[2]):
                out[s, c, p] = (x[s, c, p] - centre) * rstd * w + b


@compiled(parallel=True, fastmath=_FASTMATH)
def _batch_norm_pieces(x, weight, bias, eps, out, means, variances, count):
    for c in prange(count):
        _batch_norm_channels(
            x, weight, bias, eps, out, means, variances, c * x.shape[1] // count, (c + 1) * x.shape[1] // count
        )


@compiled(fastmath=_FASTMATH)
def _batch_norm_backward_channels(g, dmean, dvar, x, weight, mean, var, eps, dx, dweight, dbias, start, stop):
    n = x.dtype.type(x.shape[0] * x.shape[2])
    one, two = x.dtype.type(1), x.dtype.type(2)
    for c in range(start, stop):
        centre = mean[c]
        rstd = one / np.sqrt(var[c] + x.dtype.type(eps))
        total = along = 0.0
        for s in range(x.shape[0]):
            of_bias = of_weight = x.dtype.type(0)
            for p in range(x.shape[2]):
                of_bias = add_any_order(of_bias, g[s, c, p])
                of_weight = add_any_order(of_weight, g[s, c, p] * ((x[s, c, p] - centre) * rstd))
            total += of_bias
            along += of_weight
        dbias[c] = total
        dweight[c] = along
        # besides the normalization itself, mean = sum(x) / n and var = sum((x - mean)^2) / n were outputs
        scale = rstd * weight[c]
        of_z = (two * dvar[c] / rstd - scale * dweight[c]) / n
        shift = (dmean[c] - scale * dbias[c]) / n
        for s in range(x.shape[0]):
            for p in range(x.shape[2]):
                dx[s, c, p] = (x[s, c, p] - centre) * rstd * of_z + shift + g[s, c, p] * scale


@compiled(parallel=True, fastmath=_FASTMATH)
def _batch_norm_backward_pieces(g, dmean, dvar, x, weight, mean, var, eps, dx, dweight, dbias, count):
    for c in prange(count):
        _batch_norm_backward_channels(
            g, dmean, dvar, x, weight, mean, var, eps, dx, dweight, dbias,
            c * x.shape[1] // count, (c + 1) * x.shape[1] // count,
        )  # fmt: skip


def _planes(a: np.ndarray) -> np.ndarray:
    return a.reshape(a.shape[0], a.shape[1], math.prod(a.shape[2:]))


def _batch_norm_backward_plain(
    g: Any, dmean: Any, dvar: Any, x: Any, weight: Any, mean: Any, var: Any, *, eps: float
) -> bool:
    """float32 or float64, C-contiguous, not empty, with an axis besides samples and channels"""
    return plain(x, g, dmean, dvar, weight, mean, var) and x.ndim > 2 and x.size > 0


def _batch_norm_plain(x: Any, weight: Any = None, bias: Any = None, *, eps: float) -> bool:
    """float32 or float64, C-contiguous, not empty, with an axis besides samples and channels"""
    return plain(x, weight, bias) and x.ndim > 2 and x.size > 0


@kernel(
    "batch_norm", backend="numba", when=_batch_norm_plain, dtypes=_FLOAT_NAMES, note="one pass per channel", out=True
)
def batch_norm(
    x: np.ndarray, weight: Any = None, bias: Any = None, *, eps: float, out: Any = None
) -> tuple[np.ndarray, ...]:
    c = x.shape[1]
    if out is None:
        out = np.empty(x.shape, x.dtype), np.empty(c, x.dtype), np.empty(c, x.dtype)
    over_rows(
        _batch_norm_channels, _batch_norm_pieces, x.size, c, _planes(x), _flat(weight, c, x.dtype, 1),
        _flat(bias, c, x.dtype, 0), float(eps), _planes(out[0]), out[1], out[2],
    )  # fmt: skip
    return out


@kernel(
    "batch_norm_backward", backend="numba", when=_batch_norm_backward_plain, dtypes=_FLOAT_NAMES, out=True,
    note="all three gradients in one pass",
)  # fmt: skip
def batch_norm_backward(
    g: np.ndarray, dmean: np.ndarray, dvar: np.ndarray, x: np.ndarray, weight: Any, mean: np.ndarray, var: np.ndarray,
    *, eps: float, out: Any = None,
) -> tuple[np.ndarray, ...]:  # fmt: skip
    c = x.shape[1]
    if out is None:
        out = np.empty(x.shape, x.dtype), np.empty(c, x.dtype), np.empty(c, x.dtype)
    over_rows(
        _batch_norm_backward_channels, _batch_norm_backward_pieces, x.size, c, _planes(g), dmean, dvar, _planes(x),
        _flat(weight, c, x.dtype, 1), mean, var, float(eps), _planes(out[0]), out[1], out[2],
    )  # fmt: skip
    return out
