"""Further elementwise arithmetic: remainders, roundings, logarithms of other bases, blends, comparisons that know NaN.

What can be said with other operations is a function; what cannot, or not accurately, is a primitive.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from minidl.core.dtypes import default_dtype
from minidl.core.primitive import primitive, quiet
from minidl.core.registry import namespace
from minidl.ops.comparison import eq, isfinite, isnan, less, less_equal, logical_and, logical_not, logical_or
from minidl.ops.elementwise import abs as absolute
from minidl.ops.elementwise import (
    add,
    astype,
    clip,
    div,
    logaddexp,
    mul,
    ones_like,
    pow,
    sign,
    sin,
    sub,
    sum_to,
    where,
    zeros_like,
)

LN2 = math.log(2)


def arrays(*xs: Any) -> list:
    """Python's numbers beside arrays, as arrays of their dtype."""
    dtype = next(x.dtype for x in xs if hasattr(x, "dtype"))
    return [x if hasattr(x, "dtype") else np.asarray(x, dtype) for x in xs]


@primitive(differentiable=False, elementwise=True)
def trunc(x):
    """The integer part of x: rounded towards zero. Piecewise constant: no gradient flows."""
    return namespace(x).trunc(x)


fix = trunc


def frac(x: Any) -> Any:
    """What :func:`trunc` takes away: x - trunc(x), with the sign of x."""
    return sub(x, trunc(x))


@primitive(promote="same", elementwise=True)
@quiet
def fmod(x, y):
    """x - y * trunc(x / y): the remainder with the sign of x (C's fmod). See :func:`remainder` for Python's."""
    return namespace(x, y).fmod(x, y)


fmod.defvjp(
    x=lambda g, x_shape: sum_to(g, shape=x_shape),
    y=lambda g, x, y, y_shape: sum_to(-g * trunc(div(x, y)), shape=y_shape),
)


@primitive(promote="float", elementwise=True)
@quiet
def exp2(x):
    """2 ** x."""
    return namespace(x).exp2(x)


exp2.defvjp(x=lambda g, out: g * (out * LN2))


@primitive(promote="float", elementwise=True)
@quiet
def log10(x):
    """Logarithm to base 10; -inf at 0, NaN below."""
    return namespace(x).log10(x)


log10.defvjp(x=lambda g, x: g / (x * math.log(10)))


def logaddexp2(x: Any, y: Any) -> Any:
    """log2(2**x + 2**y), computed so that it does not overflow."""
    return mul(logaddexp(mul(x, LN2), mul(y, LN2)), 1 / LN2)


@primitive(promote="float", elementwise=True)
@quiet
def xlogy(x, y):
    """x * log(y), 0 where x is 0 unless y is NaN."""
    xp, (x, y) = namespace(x, y), arrays(x, y)
    return xp.where((x == 0) & ~xp.isnan(y), x * 0, x * xp.log(xp.where(x == 0, y * 0 + 1, y)))


@primitive(promote="float", elementwise=True)
@quiet
def xlog1py(x, y):
    """x * log(1 + y), 0 where x is 0 unless y is NaN."""
    xp, (x, y) = namespace(x, y), arrays(x, y)
    return xp.where((x == 0) & ~xp.isnan(y), x * 0, x * xp.log1p(xp.where(x == 0, y * 0, y)))


def _ones(x):
    return ones_like(x) if hasattr(x, "dtype") else 1.0


xlogy.defvjp(
    x=lambda g, x, y, x_shape: sum_to(g * where((x == 0) & (y <= 0), 0.0, xlogy(_ones(x), y)), shape=x_shape),
    y=lambda g, x, y, y_shape: sum_to(g * div(x, y), shape=y_shape),
)
xlog1py.defvjp(
    x=lambda g, x, y, x_shape: sum_to(g * where((x == 0) & (y <= -1), 0.0, xlog1py(_ones(x), y)), shape=x_shape),
    y=lambda g, x, y, y_shape: sum_to(g * div(x, 1 + y), shape=y_shape),
)


@primitive(promote="float", elementwise=True)
def atan2(y, x):
    """The angle of the point (x, y), in (-pi, pi]: arctan(y / x) in the right quadrant."""
    return namespace(y, x).arctan2(y, x)


atan2.defvjp(
    y=lambda g, y, x, y_shape: sum_to(g * (x / (x * x + y * y)), shape=y_shape),
    x=lambda g, y, x, x_shape: sum_to(g * (-y / (x * x + y * y)), shape=x_shape),
)
arctan2 = atan2


@primitive(promote="float", elementwise=True)
@quiet
def hypot(x, y):
    """sqrt(x * x + y * y), computed so that it does not overflow."""
    return namespace(x, y).hypot(x, y)


hypot.defvjp(
    x=lambda g, x, out, x_shape: sum_to(g * div(x, out), shape=x_shape),
    y=lambda g, y, out, y_shape: sum_to(g * div(y, out), shape=y_shape),
)


@primitive(promote="float", elementwise=True)
def copysign(x, y):
    """|x| with the sign of y, that of a zero included. No gradient where x is 0, and none for y."""
    return namespace(x, y).copysign(x, y)


@copysign.defvjp_all
def _copysign_grad(g, needs, x, out, x_shape, y_shape):
    flipped = where(x == 0, 0.0, div(out, where(x == 0, 1.0, x)))
    return sum_to(g * flipped, shape=x_shape), zeros_like(sum_to(g, shape=y_shape)) if needs[1] else None


@primitive(promote="float", elementwise=True)
def nextafter(x, y):
    """The next number after x, of its dtype, in the direction of y. The gradient is x's, as if it were x itself."""
    return namespace(x, y).nextafter(x, y)


nextafter.defvjp(
    x=lambda g, x_shape: sum_to(g, shape=x_shape),
    y=lambda g, y_shape: zeros_like(sum_to(g, shape=y_shape)),
)


@primitive(promote="same", differentiable=False, elementwise=True)
def gcd(x, y):
    """Greatest common divisor of integers."""
    return namespace(x, y).gcd(x, y)


@primitive(promote="same", differentiable=False, elementwise=True)
def lcm(x, y):
    """Least common multiple of integers."""
    return namespace(x, y).lcm(x, y)


@primitive(promote="same", differentiable=False, elementwise=True)
def bitwise_left_shift(x, y):
    """x << y, of integers."""
    return namespace(x, y).left_shift(x, y)


@primitive(promote="same", differentiable=False, elementwise=True)
def bitwise_right_shift(x, y):
    """x >> y, of integers."""
    return namespace(x, y).right_shift(x, y)


@primitive(differentiable=False, elementwise=True)
def signbit(x):
    """True where x is negative or minus zero."""
    xp = namespace(x)
    return xp.signbit(x) if x.dtype.kind == "f" else xp.less(x, xp.zeros_like(x))


@primitive(differentiable=False, elementwise=True)
def isinf(x):
    """True where x is infinite."""
    return namespace(x).isinf(x)


def isposinf(x: Any) -> Any:
    """True where x is +inf."""
    return logical_and(isinf(x), logical_not(signbit(x)))


def isneginf(x: Any) -> Any:
    """True where x is -inf."""
    return logical_and(isinf(x), signbit(x))


def isclose(x: Any, y: Any, rtol: float = 1e-5, atol: float = 1e-8, equal_nan: bool = False) -> Any:
    """True where |x - y| <= atol + rtol * |y|; with ``equal_nan``, NaN is close to NaN.

    Raises TypeError for different dtypes and ValueError for negative tolerances.
    """
    if hasattr(x, "dtype") and hasattr(y, "dtype") and x.dtype != y.dtype:
        raise TypeError(f"isclose: expected one dtype, got {x.dtype} and {y.dtype}")
    if rtol < 0 or atol < 0:
        raise ValueError(f"isclose: rtol and atol must not be negative, got {rtol} and {atol}")
    near = less_equal(absolute(sub(*_numbers(x, y))), add(atol, mul(rtol, absolute(_number(y)))))
    close = logical_or(eq(x, y), logical_and(near, isfinite(y)))
    return logical_or(close, logical_and(isnan(x), isnan(y))) if equal_nan else close


def _number(x: Any) -> Any:
    return astype(x, dtype=np.dtype(np.int64)) if getattr(x, "dtype", None) == np.bool_ else x


def _numbers(*xs: Any) -> tuple:
    return tuple(map(_number, xs))


def isreal(x: Any) -> Any:
    """True where x has no imaginary part: everywhere, for real numbers."""
    return eq(zeros_like(x), 0)


def isin(elements: Any, test_elements: Any, *, assume_unique: bool = False, invert: bool = False) -> Any:
    """True where an element is one of ``test_elements``; with ``invert``, where it is none of them."""
    from minidl.ops.reduction import any as any_
    from minidl.ops.shape import reshape, unsqueeze

    elements, test_elements = (a if hasattr(a, "dtype") else np.asarray(a) for a in (elements, test_elements))
    found = any_(eq(unsqueeze(elements, -1), reshape(test_elements, shape=(-1,))), axis=-1)
    return logical_not(found) if invert else found


def nan_to_num(x: Any, nan: float | None = None, posinf: float | None = None, neginf: float | None = None) -> Any:
    """``x`` with NaN replaced by ``nan`` (0), inf by ``posinf`` and -inf by ``neginf`` (the largest and smallest finite
    numbers of its dtype). No gradient flows through what was replaced."""
    if x.dtype.kind not in "fV":
        return add(x, 0) if x.dtype.kind in "iu" else logical_or(x, x)
    limits = _finfo(x.dtype)
    x = where(isnan(x), 0.0 if nan is None else nan, x)
    x = where(eq(x, math.inf), float(limits.max) if posinf is None else posinf, x)
    return where(eq(x, -math.inf), float(limits.min) if neginf is None else neginf, x)


def _finfo(dtype: np.dtype) -> Any:
    import ml_dtypes

    return ml_dtypes.finfo(dtype)


def reciprocal(x: Any) -> Any:
    """1 / x; integers as floats of the default dtype."""
    return div(1, x)


def deg2rad(x: Any) -> Any:
    """Degrees as radians."""
    return mul(x, math.pi / 180)


def rad2deg(x: Any) -> Any:
    """Radians as degrees."""
    return mul(x, 180 / math.pi)


def sinc(x: Any) -> Any:
    """sin(pi x) / (pi x), 1 at 0."""
    scaled = mul(x, math.pi)
    zero = eq(scaled, 0)
    return where(zero, 1.0, div(sin(scaled), where(zero, 1.0, scaled)))


def heaviside(x: Any, values: Any) -> Any:
    """0 where x is negative, 1 where it is positive, ``values`` where it is 0."""
    return where(eq(x, 0), values, astype(less(0, x), dtype=x.dtype))


def float_power(x: Any, exponent: Any) -> Any:
    """x ** exponent, computed and returned in float64."""
    double = np.dtype(np.float64)
    x, exponent = (astype(a, dtype=double) if hasattr(a, "dtype") else np.asarray(a, double) for a in (x, exponent))
    return pow(x, exponent)


def fmax(x: Any, y: Any) -> Any:
    """The larger of x and y; a number where only one is NaN. Where they are equal the gradient is x's."""
    return where(logical_or(less_equal(y, x), isnan(y)), x, y)


def fmin(x: Any, y: Any) -> Any:
    """The smaller of x and y; a number where only one is NaN. Where they are equal the gradient is x's."""
    return where(logical_or(less_equal(x, y), isnan(y)), x, y)


def clamp_min(x: Any, min: Any) -> Any:
    """x, but nowhere less than ``min`` (a number, or an array that broadcasts)."""
    return where(logical_or(less(x, min), isnan(min)), min, x) if hasattr(min, "dtype") else clip(x, min=min)


def clamp_max(x: Any, max: Any) -> Any:
    """x, but nowhere more than ``max`` (a number, or an array that broadcasts)."""
    return where(logical_or(less(max, x), isnan(max)), max, x) if hasattr(max, "dtype") else clip(x, max=max)


def lerp(x: Any, end: Any, weight: Any) -> Any:
    """x + weight * (end - x): from x (weight 0) to ``end`` (weight 1)."""
    return add(x, mul(weight, sub(end, x)))


def addcmul(x: Any, tensor1: Any, tensor2: Any, *, value: float = 1) -> Any:
    """x + value * tensor1 * tensor2."""
    product = mul(tensor1, tensor2)
    return add(x, product if value == 1 else mul(product, value))


def addcdiv(x: Any, tensor1: Any, tensor2: Any, *, value: float = 1) -> Any:
    """x + value * tensor1 / tensor2."""
    quotient = div(tensor1, tensor2)
    return add(x, quotient if value == 1 else mul(quotient, value))


def rsub(x: Any, other: Any, *, alpha: float = 1) -> Any:
    """other - alpha * x."""
    return sub(other, x if alpha == 1 else mul(x, alpha))


def ldexp(x: Any, exponent: Any) -> Any:
    """x * 2 ** exponent."""
    if getattr(exponent, "dtype", np.dtype(int)).kind not in "fV":
        exponent = astype(exponent, dtype=_float_of(x)) if hasattr(exponent, "dtype") else float(exponent)
    return mul(x, exp2(exponent))


def _float_of(x: Any) -> np.dtype:
    dtype = getattr(x, "dtype", None)
    return dtype if dtype is not None and dtype.kind in "fV" else default_dtype()


@primitive(half=(0,))
@quiet
def frexp(x):
    """(mantissa, exponent) with x = mantissa * 2 ** exponent and 0.5 <= |mantissa| < 1; the exponent is int32."""
    return tuple(namespace(x).frexp(x))


frexp.defvjp(x=lambda g, out: ldexp(g[0], -out[1]))


def sgn(x: Any) -> Any:
    """The sign of real numbers; x / |x| of complex ones, 0 at 0."""
    if x.dtype.kind != "c":
        return sign(x)
    size = absolute(x)
    return div(x, where(eq(size, 0), 1.0, size))
