"""Operators that work element by element, and conversions of dtype."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np

from minidl import ops
from minidl.interop.onnx.registry import operator
from minidl.interop.onnx.values import dtype_of, host, is_tensor_dtype


def _is_float(x: Any) -> bool:
    return x.dtype.kind not in "iub"


def _one_input(name: str, function: Callable[[Any], Any]) -> None:
    operator(name)(lambda x: function(x))


for _name, _function in {
    "Abs": ops.abs, "Acos": ops.arccos, "Acosh": ops.arccosh, "Asin": ops.arcsin, "Asinh": ops.arcsinh,
    "Atan": ops.arctan, "Atanh": ops.arctanh,
    "Ceil": ops.ceil, "Cos": ops.cos, "Cosh": ops.cosh, "Erf": ops.erf, "Exp": ops.exp,
    "Floor": ops.floor, "HardSwish": ops.hardswish, "IsNaN": ops.isnan, "Log": ops.log, "Mish": ops.mish,
    "Neg": ops.neg, "Not": ops.logical_not, "Round": ops.round, "Sigmoid": ops.sigmoid, "Sign": ops.sign,
    "Sin": ops.sin, "Sinh": ops.sinh, "Softplus": ops.softplus, "Softsign": ops.softsign, "Sqrt": ops.sqrt,
    "Tan": ops.tan, "Tanh": ops.tanh,
}.items():  # fmt: skip
    _one_input(_name, _function)


@operator("Identity")
def identity(x):
    return x


@operator("Reciprocal")
def reciprocal(x):
    return 1 / x


@operator("Relu")
def relu(x):
    return ops.relu(x) if _is_float(x) else ops.maximum(x, np.zeros((), x.dtype))


# Two inputs


def _aligned(x: Any, y: Any, axis: int | None) -> Any:
    """``y`` so that its first axis meets ``axis`` of ``x``: how operators broadcast before opset 7."""
    return y if axis is None else ops.reshape(y, (*y.shape, *(1,) * (x.ndim - axis % x.ndim - y.ndim)))


def _two_inputs(name: str, function: Callable[[Any, Any], Any]) -> None:
    operator(name, since=7)(lambda x, y: function(x, y))
    operator(name)(lambda x, y, *, axis=None, broadcast=0: function(x, _aligned(x, y, axis)))


for _name, _function in {
    "Add": ops.add, "Sub": ops.sub, "Mul": ops.mul, "And": ops.logical_and, "Or": ops.logical_or,
    "Xor": ops.logical_xor, "Equal": ops.eq, "Greater": ops.greater, "GreaterOrEqual": ops.greater_equal,
    "Less": ops.less, "LessOrEqual": ops.less_equal,
}.items():  # fmt: skip
    _two_inputs(_name, _function)


@operator("Equal", since=19)
def equal(x, y):
    if x.dtype.kind in "OSU":
        return host(x) == host(y)
    return ops.eq(x, y)


def div(x, y):
    """Whole numbers are divided towards zero, as in C."""
    if _is_float(x):
        return x / y
    x, y = host(x), host(y)
    with np.errstate(divide="ignore"):
        quotient = np.abs(x) // np.abs(y)
    return (np.sign(x) * np.sign(y) * quotient).astype(x.dtype) if x.dtype.kind == "i" else quotient


@operator("Mod")
def mod(x, y, *, fmod=0):
    if fmod:
        return np.fmod(host(x), host(y))
    return np.mod(host(x), host(y))


def pow_(x, y):
    """The result has the dtype of the base."""
    if not _is_float(x) or not _is_float(y):
        result = np.power(host(x).astype(np.float64), host(y).astype(np.float64)) if not _is_float(x) else None
        return ops.pow(x, ops.astype(y, dtype=x.dtype)) if result is None else result.astype(x.dtype)
    return ops.astype(ops.pow(x, y), dtype=x.dtype)


_two_inputs("Div", div)
_two_inputs("Pow", pow_)


@operator("BitShift")
def bit_shift(x, y, *, direction):
    return (np.left_shift if direction == "LEFT" else np.right_shift)(host(x), host(y))


for _name, _ufunc in {
    "BitwiseAnd": np.bitwise_and, "BitwiseOr": np.bitwise_or, "BitwiseXor": np.bitwise_xor,
}.items():  # fmt: skip
    operator(_name)(lambda x, y, *, _ufunc=_ufunc: _ufunc(host(x), host(y)))


@operator("BitwiseNot")
def bitwise_not(x):
    return np.invert(host(x))


# Any number of inputs


@operator("Max")
def max_(*xs):
    return functools.reduce(ops.maximum, xs)


@operator("Min")
def min_(*xs):
    return functools.reduce(ops.minimum, xs)


@operator("Sum")
def sum_(*xs):
    return functools.reduce(ops.add, xs)


@operator("Mean")
def mean(*xs):
    return functools.reduce(ops.add, xs) / len(xs)


@operator("Where")
def where(condition, x, y):
    if x.dtype.kind in "OSU":
        return np.where(host(condition), host(x), host(y))
    return ops.where(condition, x, y)


# Activations with settings


@operator("Clip", since=6)
def clip_6(x, *, min=-3.4028234663852886e38, max=3.4028234663852886e38):
    return ops.clip(x, min, max)


@operator("Clip", since=11)
def clip(x, min=None, max=None):
    """Where min is above max, the result is max."""
    x = x if min is None else ops.maximum(x, min)
    return x if max is None else ops.minimum(x, max)


@operator("LeakyRelu")
def leaky_relu(x, *, alpha=0.01):
    return ops.leaky_relu(x, negative_slope=alpha)


@operator("PRelu")
def prelu(x, slope):
    """Before opset 7, a slope (C,) was one per channel."""
    if slope.ndim == 1 and x.ndim > 2 and slope.shape[0] == x.shape[1] != x.shape[-1]:
        slope = _aligned(x, slope, 1)
    return ops.where(x < 0, x * slope, x)


@operator("ThresholdedRelu")
def thresholded_relu(x, *, alpha=1.0):
    return ops.where(x > alpha, x, ops.zeros_like(x))


@operator("Elu")
def elu(x, *, alpha=1.0):
    return ops.elu(x, alpha=alpha)


@operator("Celu")
def celu(x, *, alpha=1.0):
    return ops.maximum(x, 0.0) + ops.minimum(alpha * ops.expm1(x / alpha), 0.0)


@operator("Selu")
def selu(x, *, alpha=1.6732632423543772, gamma=1.0507009873554805):
    return gamma * (ops.maximum(x, 0.0) + ops.minimum(alpha * ops.expm1(ops.minimum(x, 0.0)), 0.0))


@operator("HardSigmoid")
def hard_sigmoid(x, *, alpha=0.2, beta=0.5):
    return ops.clip(alpha * x + beta, 0.0, 1.0)


@operator("Shrink")
def shrink(x, *, bias=0.0, lambd=0.5):
    if not _is_float(x):
        a = host(x)
        return np.where(a < -lambd, a + bias, np.where(a > lambd, a - bias, 0)).astype(a.dtype)
    return ops.where(x < -lambd, x + bias, ops.where(x > lambd, x - bias, ops.zeros_like(x)))


@operator("Swish")
def swish(x, *, alpha=1.0):
    return x * ops.sigmoid(alpha * x)


@operator("Gelu")
def gelu(x, *, approximate="none"):
    return ops.gelu(x, approximate=approximate)


@operator("IsInf")
def is_inf(x, *, detect_negative=1, detect_positive=1):
    a = host(x)
    return np.isinf(a) & ((a < 0) & bool(detect_negative) | (a > 0) & bool(detect_positive))


def _flattened(function: Callable[..., Any]) -> Callable[..., Any]:
    """As it was before opset 13: the axes before ``axis`` are one, and it and those after it are one."""

    def run(x, *, axis=1):
        axis = axis % max(x.ndim, 1)
        flat = ops.reshape(x, (math.prod(x.shape[:axis]), math.prod(x.shape[axis:])))
        return ops.reshape(function(flat, axis=1), x.shape)

    return run


def hardmax(x, *, axis=-1):
    """1 at the first of the largest values along the axis, 0 elsewhere."""
    hot = ops.one_hot(ops.argmax(x, axis=axis), num_classes=x.shape[axis], dtype=x.dtype)
    return ops.moveaxis(hot, -1, axis)


def _softmax(x, *, axis=-1):
    return ops.softmax(x, axis=axis)


def _log_softmax(x, *, axis=-1):
    return ops.log_softmax(x, axis=axis)


for _name, _function in {"Softmax": _softmax, "LogSoftmax": _log_softmax, "Hardmax": hardmax}.items():
    operator(_name)(_flattened(_function))
    operator(_name, since=13)(_function)


# Dtypes


def _from_text(x: np.ndarray, dtype: np.dtype) -> np.ndarray:
    return np.array([float(s) if dtype.kind not in "iu" else int(s) for s in x.reshape(-1)]).reshape(x.shape)


def _fits(x: np.ndarray, dtype: np.dtype, saturate: bool) -> np.ndarray:
    """Conversion to an 8-bit or smaller float: what is too large becomes the largest number, if it ``saturate``s."""
    info = ml_dtypes.finfo(dtype)
    wide = x.astype(np.float32)
    with np.errstate(over="ignore", invalid="ignore"):
        if not saturate:
            return wide.astype(dtype)
        top = np.float32(info.max)
        return np.where(np.isnan(wide), wide, np.clip(wide, -top, top)).astype(dtype)


_SMALL_FLOATS = ("float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz", "float4_e2m1fn")


def cast_to(x: Any, dtype: np.dtype, saturate: bool = True, round_mode: str = "up") -> Any:
    """``x`` with another dtype."""
    if is_tensor_dtype(x.dtype) and is_tensor_dtype(dtype) and x.dtype.kind + dtype.kind in ("ff", "bf", "if", "uf"):
        return ops.astype(x, dtype=dtype)
    a = host(x)
    if a.dtype.kind in "OSU":
        return a if dtype.kind == "O" else _from_text(a, dtype).astype(dtype)
    if dtype.kind == "O":
        if a.dtype.kind in "iub":
            return a.astype(str).astype(object)
        return np.array([np.format_float_positional(v, trim="-") if np.isfinite(v) else _odd(v) for v in
                         a.astype(np.float32).reshape(-1)], object).reshape(a.shape)  # fmt: skip
    if dtype.name in _SMALL_FLOATS:
        return _fits(a, dtype, saturate)
    if dtype.name == "float8_e8m0fnu":
        return _power_of_two(a.astype(np.float32), dtype, saturate, round_mode)
    with np.errstate(over="ignore", invalid="ignore"):
        if dtype.name in ("int4", "uint4", "int2", "uint2"):
            return a.astype(np.float32).astype(np.int32).astype(np.int8).astype(dtype)
        return (
            a.astype(np.float32).astype(dtype)
            if a.dtype.name in (*_SMALL_FLOATS, "float8_e8m0fnu")
            else a.astype(dtype)
        )


def _odd(value: Any) -> str:
    return "NaN" if np.isnan(value) else "INF" if value > 0 else "-INF"


def _power_of_two(x: np.ndarray, dtype: np.dtype, saturate: bool, round_mode: str) -> np.ndarray:
    """The exponent alone, as float8e8m0 keeps it: rounded ``up``, ``down`` or to the ``nearest``."""
    with np.errstate(divide="ignore", invalid="ignore"):
        fraction, exponent = np.frexp(np.abs(x))
    exponent = exponent - 1 + np.where(fraction == 0.5, 0, {"up": 1, "down": 0}.get(round_mode, fraction >= 0.75))
    low, high = -127, 127
    bad = ~np.isfinite(x) if not saturate else np.isnan(x)
    if not saturate:
        bad |= exponent > high
    exponent = np.clip(np.where(np.isinf(x), high, np.where(x == 0, low, exponent)), low, high)
    bits = np.where(bad, 255, exponent + 127).astype(np.uint8)
    return bits.view(dtype)


@operator("Cast")
def cast(x, *, to, saturate=1, round_mode="up"):
    return cast_to(x, dtype_of(to), bool(saturate), round_mode)


@operator("CastLike")
def cast_like(x, like, *, saturate=1, round_mode="up"):
    return cast_to(x, np.dtype(like.dtype), bool(saturate), round_mode)


@operator("BitCast")
def bit_cast(x, *, to):
    return host(x).view(dtype_of(to))
