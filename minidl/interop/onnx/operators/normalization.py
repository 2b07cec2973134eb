"""Normalization and dropout."""

from __future__ import annotations

import math

import numpy as np

from minidl import ops
from minidl.interop.onnx.operators.elementwise import cast_to
from minidl.interop.onnx.registry import operator
from minidl.interop.onnx.values import dtype_of, host


@operator("BatchNormalization", state="mean var")
def batch_normalization(
    x, scale, bias, mean, var, *, epsilon=1e-5, is_test=1, momentum=0.9, spatial=1, training_mode=0, outputs
):
    """In training mode also the running statistics: momentum times the old ones plus the rest of the batch's."""
    if not training_mode:
        return ops.astype(ops.batch_norm_inference(x, mean, var, scale, bias, eps=epsilon), dtype=x.dtype)
    out, batch_mean, batch_var = ops.batch_norm(x, scale, bias, eps=epsilon)
    return (
        ops.astype(out, dtype=x.dtype),
        mean * momentum + batch_mean * (1 - momentum),
        var * momentum + batch_var * (1 - momentum),
    )[:outputs]


@operator("InstanceNormalization")
def instance_normalization(x, scale, bias, *, epsilon=1e-5):
    axes = tuple(range(2, x.ndim))
    shape = (-1, *(1,) * len(axes))
    centred = x - ops.mean(x, axis=axes, keepdims=True)
    deviation = ops.sqrt(ops.mean(centred * centred, axis=axes, keepdims=True) + epsilon)
    return centred / deviation * ops.reshape(scale, shape) + ops.reshape(bias, shape)


@operator("LayerNormalization")
def layer_normalization(x, scale, bias=None, *, axis=-1, epsilon=1e-5, stash_type=1):
    axes = tuple(range(axis % x.ndim, x.ndim))
    wide = cast_to(x, dtype_of(stash_type))
    mean = ops.mean(wide, axis=axes, keepdims=True)
    rdev = ops.rsqrt(ops.mean((wide - mean) * (wide - mean), axis=axes, keepdims=True) + epsilon)
    out = ops.astype((wide - mean) * rdev, dtype=x.dtype) * scale
    return out if bias is None else out + bias, mean, rdev


@operator("RMSNormalization")
def rms_normalization(x, scale, *, axis=-1, epsilon=1e-5, stash_type=1):
    axes = tuple(range(axis % x.ndim, x.ndim))
    wide = cast_to(x, dtype_of(stash_type))
    out = wide * ops.rsqrt(ops.mean(wide * wide, axis=axes, keepdims=True) + epsilon)
    return ops.astype(out, dtype=x.dtype) * scale


@operator("GroupNormalization")
def group_normalization_18(x, scale, bias, *, epsilon=1e-5, num_groups):
    """Before opset 21: one scale per group."""
    each = x.shape[1] // num_groups
    return group_normalization(
        x,
        ops.repeat_interleave(scale, each, axis=0),
        ops.repeat_interleave(bias, each, axis=0),
        epsilon=epsilon,
        num_groups=num_groups,
    )


@operator("GroupNormalization", since=21)
def group_normalization(x, scale, bias, *, epsilon=1e-5, num_groups, stash_type=1):
    return ops.group_norm(x, num_groups, scale, bias, eps=epsilon)


@operator("MeanVarianceNormalization")
def mean_variance_normalization(x, *, axes=(0, 2, 3)):
    centred = x - ops.mean(x, axis=tuple(axes), keepdims=True)
    return centred / (ops.sqrt(ops.mean(centred * centred, axis=tuple(axes), keepdims=True)) + 1e-9)


@operator("LpNormalization")
def lp_normalization(x, *, axis=-1, p=2):
    norm = ops.norm(x, ord=p, axis=axis, keepdims=True)
    return ops.where(norm == 0, ops.zeros_like(x), x / ops.where(norm == 0, 1.0, norm))


@operator("LRN")
def lrn(x, *, alpha=1e-4, beta=0.75, bias=1.0, size):
    """Local response normalization over neighbouring channels (Krizhevsky et al. 2012, section 3.3)."""
    n, c = x.shape[:2]
    squares = ops.reshape(x * x, (n, c, math.prod(x.shape[2:])))
    before, after = (size - 1) // 2, size - 1 - (size - 1) // 2
    near = (np.arange(c)[:, None] - before <= np.arange(c)) & (np.arange(c) <= np.arange(c)[:, None] + after)
    total = ops.reshape(ops.matmul(near.astype(x.dtype), squares), x.shape)
    return x / (bias + alpha / size * total) ** beta


@operator("Dropout")
def dropout_1(x, *, is_test=0, ratio=0.5, consumed_inputs=None, outputs):
    """Does nothing: only files for training dropped anything before opset 12."""
    return (x, np.ones(x.shape, bool if x.dtype.kind == "f" else x.dtype)) if outputs > 1 else x


@operator("Dropout", since=12, host="ratio training_mode", random=True)
def dropout(x, ratio=None, training_mode=None, *, seed=None, outputs):
    """Drops where ``training_mode`` says so, with NumPy's generator if there is a ``seed``."""
    p = 0.5 if ratio is None else float(ratio)
    if training_mode is None or not bool(training_mode) or p == 0:
        return (x, np.ones(x.shape, bool)) if outputs > 1 else x
    if seed is not None:
        kept = np.random.RandomState(int(seed)).uniform(0, 1, tuple(x.shape)) >= p
    else:
        kept = host(ops.dropout(np.ones(x.shape, np.float32), p)) > 0
    out = ops.where(kept, x / (1 - p), ops.zeros_like(x))
    return (ops.astype(out, dtype=x.dtype), kept) if outputs > 1 else ops.astype(out, dtype=x.dtype)
