"""Whole numbers that stand for real ones: x = (q - zero_point) * scale."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np

from minidl.interop.onnx.operators.conv import conv
from minidl.interop.onnx.operators.elementwise import cast_to
from minidl.interop.onnx.registry import operator
from minidl.interop.onnx.values import dtype_of, host


def _fit(a: np.ndarray, x: np.ndarray, axis: int, block_size: int) -> np.ndarray:
    """Scales or zero points shaped to broadcast against ``x``: one, one per slice of ``axis``, or one per block."""
    if a.ndim == 0 or (a.size == 1 and a.ndim <= 1):
        return a.reshape(())
    if a.ndim == 1 and not block_size:
        shape = [1] * x.ndim
        shape[axis] = a.size
        return a.reshape(shape)
    each = block_size or x.shape[axis] // a.shape[axis]
    return np.repeat(a, each, axis)[tuple(slice(n) for n in x.shape)]


def _limits(dtype: np.dtype) -> tuple[float, float] | None:
    if dtype.kind in "iu":
        return np.iinfo(dtype).min, np.iinfo(dtype).max
    if dtype.name in ("int4", "uint4", "int2", "uint2"):
        return int(ml_dtypes.iinfo(dtype).min), int(ml_dtypes.iinfo(dtype).max)
    return None


def quantized(x: Any, scale: Any, zero_point: Any, dtype: np.dtype, saturate: bool = True) -> np.ndarray:
    """round(x / scale) + zero_point, to even where halfway, held within the dtype's limits."""
    q = np.asarray(x) / scale
    limits = _limits(dtype)
    if limits is None:
        return cast_to(q.astype(np.float32) + np.asarray(zero_point, np.float32), dtype, saturate)
    return np.clip(np.rint(q) + np.asarray(zero_point, np.float32), *limits).astype(dtype)


@operator("QuantizeLinear", host="x scale zero_point")
def quantize_linear(x, scale, zero_point=None, *, axis=1, block_size=0, output_dtype=0, precision=0, saturate=1):
    dtype = (
        zero_point.dtype if zero_point is not None else dtype_of(output_dtype) if output_dtype else np.dtype(np.uint8)
    )
    wide = np.float32 if not precision else dtype_of(precision)
    scale = _fit(scale, x, axis, block_size).astype(wide)
    zero = np.float32(0) if zero_point is None else _fit(zero_point, x, axis, block_size).astype(np.float32)
    return quantized(x.astype(wide), scale, zero, dtype, bool(saturate))


@operator("DequantizeLinear", host="x scale zero_point")
def dequantize_linear(x, scale, zero_point=None, *, axis=1, block_size=0, output_dtype=0):
    dtype = dtype_of(output_dtype) if output_dtype else scale.dtype
    real = x.astype(np.float32) if x.dtype != np.int32 else x.astype(np.float64)
    if zero_point is not None:
        real = real - _fit(zero_point, x, axis, block_size).astype(real.dtype)
    return (real * _fit(scale, x, axis, block_size).astype(np.float32)).astype(dtype)


@operator("DynamicQuantizeLinear", host="x")
def dynamic_quantize_linear(x):
    """(q, scale, zero point) with the range of ``x``, widened to hold 0, spread over 0 to 255."""
    low, high = min(x.min(), np.float32(0)), max(x.max(), np.float32(0))
    scale = np.float32((high - low) / np.float32(255))
    scale = scale if scale else np.float32(1)
    zero = np.clip(np.rint(-low / scale), 0, 255).astype(np.uint8)
    return quantized(x, scale, zero, np.dtype(np.uint8)), np.asarray(scale), np.asarray(zero)


def _centred(x: np.ndarray, zero_point: Any, axis: int | None) -> np.ndarray:
    """x - zero_point in whole numbers; a zero point per row or column lies along ``axis``."""
    if zero_point is None:
        return x.astype(np.int32)
    zero = np.asarray(zero_point).astype(np.int32)
    if zero.ndim == 1 and axis is not None:
        zero = zero.reshape([-1 if a == axis % x.ndim else 1 for a in range(x.ndim)])
    return x.astype(np.int32) - zero


@operator("MatMulInteger", host="a b a_zero_point b_zero_point")
def matmul_integer(a, b, a_zero_point=None, b_zero_point=None):
    return np.matmul(_centred(a, a_zero_point, -2), _centred(b, b_zero_point, -1))


@operator("QLinearMatMul", host="a a_scale a_zero b b_scale b_zero y_scale y_zero")
def qlinear_matmul(a, a_scale, a_zero, b, b_scale, b_zero, y_scale, y_zero):
    total = np.matmul(_centred(a, a_zero, -2).astype(np.float64), _centred(b, b_zero, -1).astype(np.float64))
    scale = np.asarray(a_scale, np.float64) * np.asarray(b_scale, np.float64) / np.asarray(y_scale, np.float64)
    return quantized(total * scale, 1.0, y_zero, y_zero.dtype)


def _convolved(x: np.ndarray, w: np.ndarray, settings: dict) -> np.ndarray:
    """A convolution of whole numbers, exactly."""
    return np.rint(host(conv(x.astype(np.float64), w.astype(np.float64), None, **settings)))


@operator("ConvInteger", host="x w x_zero_point w_zero_point")
def conv_integer(
    x, w, x_zero_point=None, w_zero_point=None, *, auto_pad="NOTSET", dilations=None, group=1, kernel_shape=None,
    pads=None, strides=None,
):  # fmt: skip
    settings = dict(auto_pad=auto_pad, dilations=dilations, group=group, pads=pads, strides=strides)
    return _convolved(_centred(x, x_zero_point, None), _centred(w, w_zero_point, 0), settings).astype(np.int32)


@operator("QLinearConv", host="x x_scale x_zero w w_scale w_zero y_scale y_zero b")
def qlinear_conv(
    x, x_scale, x_zero, w, w_scale, w_zero, y_scale, y_zero, b=None, *, auto_pad="NOTSET", dilations=None, group=1,
    kernel_shape=None, pads=None, strides=None,
):  # fmt: skip
    settings = dict(auto_pad=auto_pad, dilations=dilations, group=group, pads=pads, strides=strides)
    total = _convolved(_centred(x, x_zero, None), _centred(w, w_zero, 0), settings)
    column = (-1, *(1,) * (x.ndim - 2))
    if b is not None:
        total = total + b.reshape(column)
    scale = np.asarray(x_scale, np.float64) * np.asarray(w_scale, np.float64) / np.asarray(y_scale, np.float64)
    scale = scale.reshape(column) if scale.ndim == 1 and scale.size > 1 else scale.reshape(())
    return quantized(total * scale, 1.0, y_zero, y_zero.dtype)
