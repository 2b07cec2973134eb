"""Layer, root-mean-square and batch normalization."""

from __future__ import annotations

import math
from typing import Any

import cupy

from minidl.backend import kernel
from minidl_kernels.cupy.launch import FLOATS, accumulation, contiguous, floats, kept, launch, over_rows, wide

# norm_rows_weight_grad: rows a block adds up, and at most how many blocks share a column
_ROWS_PER_CHUNK, _MOST_CHUNKS = 256, 64
# batch_norm: the fewest values a block has, at most how many share a channel, and blocks that keep a GPU busy
_PART, _MOST_PARTS, _BLOCKS = 4096, 64, 2048


def _same(x: Any, weight: Any = None, bias: Any = None, **params: Any) -> bool:
    """floating-point arrays of one dtype, not empty"""
    return floats(x, weight, bias)


def _same_grad(dout: Any, x: Any, weight: Any, **params: Any) -> bool:
    """floating-point arrays of one dtype, not empty"""
    return floats(x, weight, dout)


def _forward(centre: str, x: Any, weight: Any, bias: Any, normalized_shape: tuple, eps: float) -> Any:
    x, weight, bias = contiguous(x, weight, bias)
    n = math.prod(normalized_shape)
    rows = x.size // n
    y = cupy.empty(x.shape, x.dtype)
    launch(
        "normalization", f"norm_rows<T, {centre}>", x.dtype, *over_rows(rows, n),
        x, weight, bias, rows, n, float(eps), y,
    )  # fmt: skip
    return y


def _backward(centre: str, dout: Any, x: Any, weight: Any, normalized_shape: tuple, eps: float) -> tuple[Any, Any, Any]:
    g, x, weight = contiguous(dout, x, weight)
    n = math.prod(normalized_shape)
    rows = x.size // n
    acc = accumulation(x.dtype)
    dx = cupy.empty(x.shape, x.dtype)
    mean, rstd = cupy.empty(rows, acc), cupy.empty(rows, acc)
    launch(
        "normalization", f"norm_rows_grad<T, {centre}>", x.dtype, *over_rows(rows, n),
        g, x, weight, rows, n, float(eps), dx, mean, rstd,
    )  # fmt: skip
    chunks = min(-(-rows // _ROWS_PER_CHUNK), _MOST_CHUNKS)
    dweight, dbias = cupy.empty((chunks, n), acc), cupy.empty((chunks, n), acc)
    launch(
        "normalization", "norm_rows_weight_grad<T>", x.dtype, (-(-n // 32), chunks), (32, 8),
        g, x, mean, rstd, rows, n, -(-rows // chunks), dweight, dbias,
    )  # fmt: skip
    sums = (a.sum(axis=0).astype(x.dtype, copy=False).reshape(normalized_shape) for a in (dweight, dbias))
    return dx, *sums


@kernel("layer_norm", backend="cupy", when=_same, dtypes=FLOATS, note="a team of threads per row")
def layer_norm(x: Any, weight: Any = None, bias: Any = None, *, normalized_shape: tuple, eps: float) -> Any:
    return _forward("true", x, weight, bias, normalized_shape, eps)


@kernel("layer_norm_backward", backend="cupy", when=_same_grad, dtypes=FLOATS, note="dx by row, the rest by column")
def layer_norm_backward(dout: Any, x: Any, weight: Any, *, normalized_shape: tuple, eps: float) -> tuple[Any, ...]:
    return _backward("true", dout, x, weight, normalized_shape, eps)


@kernel("rms_norm", backend="cupy", when=_same, dtypes=FLOATS, note="a team of threads per row")
def rms_norm(x: Any, weight: Any = None, *, normalized_shape: tuple, eps: float) -> Any:
    return _forward("false", x, weight, None, normalized_shape, eps)


@kernel("rms_norm_backward", backend="cupy", when=_same_grad, dtypes=FLOATS, note="dx by row, the rest by column")
def rms_norm_backward(dout: Any, x: Any, weight: Any, *, normalized_shape: tuple, eps: float) -> tuple[Any, ...]:
    return _backward("false", dout, x, weight, normalized_shape, eps)[:2]


def _channels(x: Any) -> tuple[tuple[int, int], tuple[int, int, int]]:
    """(blocks: channels, and parts of each; batch, channels, pixels)"""
    batch, channels, pixels = x.shape[0], x.shape[1], math.prod(x.shape[2:])
    parts = max(1, min(batch * pixels // _PART, -(-_BLOCKS // channels), _MOST_PARTS))
    size = -(-batch * pixels // parts)
    return (channels, -(-batch * pixels // size)), (batch, channels, pixels)  # (none of the parts is empty)


def _of_parts(blocks: tuple[int, int], dtype: Any) -> tuple[Any, Any]:
    """Two arrays for what the parts find out; None where each channel is one."""
    return (None, None) if blocks[1] == 1 else (cupy.empty(blocks, dtype), cupy.empty(blocks, dtype))


@kernel("batch_norm", backend="cupy", when=_same, dtypes=FLOATS, note="some blocks per channel")
def batch_norm(x: Any, weight: Any = None, bias: Any = None, *, eps: float) -> tuple[Any, ...]:
    x, weight, bias = contiguous(x, weight, bias)
    blocks, sizes = _channels(x)
    acc = accumulation(x.dtype)
    means, squares = _of_parts(blocks, acc)
    if means is not None:
        launch("normalization", "batch_norm_parts<T>", x.dtype, blocks, (256, 1), x, *sizes, means, squares)
    y, mean, var = cupy.empty(x.shape, x.dtype), cupy.empty(blocks[0], acc), cupy.empty(blocks[0], acc)
    launch(
        "normalization", "batch_norm<T>", x.dtype, blocks, (256, 1),
        x, weight, bias, means, squares, *sizes, float(eps), y, mean, var,
    )  # fmt: skip
    return y, mean, var


def _batch_grad(dout: Any, dmean: Any, dvar: Any, x: Any, weight: Any, mean: Any, var: Any, **params: Any) -> bool:
    """floating-point arrays of one dtype (means and variances also in float32), not empty"""
    return floats(x, weight, dout) and kept(x, dmean, dvar, mean, var)


@kernel("batch_norm_backward", backend="cupy", when=_batch_grad, dtypes=FLOATS, note="some blocks per channel")
def batch_norm_backward(
    dout: Any, dmean: Any, dvar: Any, x: Any, weight: Any, mean: Any, var: Any, *, eps: float
) -> tuple[Any, ...]:
    g, x, weight = contiguous(dout, x, weight)
    acc = accumulation(x.dtype)
    dmean, dvar, mean, var = wide(dmean, dvar, mean, var)
    blocks, sizes = _channels(x)
    dweights, dbiases = _of_parts(blocks, acc)
    if dweights is not None:
        launch(
            "normalization", "batch_norm_grad_parts<T>", x.dtype, blocks, (256, 1),
            g, x, mean, var, *sizes, float(eps), dweights, dbiases,
        )  # fmt: skip
    dx, dweight, dbias = (cupy.empty(shape, x.dtype) for shape in (x.shape, blocks[0], blocks[0]))
    launch(
        "normalization", "batch_norm_grad<T>", x.dtype, blocks, (256, 1),
        g, dmean, dvar, x, weight, mean, var, dweights, dbiases, *sizes, float(eps), dx, dweight, dbias,
    )  # fmt: skip
    return dx, dweight, dbias
