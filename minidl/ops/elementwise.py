"""Elementwise arithmetic and functions, with NumPy broadcasting.

Where an input was broadcast, its gradient is the sum over the copies: ``sum_to(g, x_shape)``.
"""

from __future__ import annotations

import builtins
import math

import numpy as np

from minidl.core.dtypes import default_dtype, result_dtype
from minidl.core.primitive import primitive, quiet
from minidl.core.registry import backend_of, namespace
from minidl.core.spelling import scaled
from minidl.ops.comparison import greater, isnan, less, logical_or


def sum_to(x, shape):
    """Sum ``x`` over the axes along which ``shape`` was broadcast to ``x.shape``: the transpose of broadcasting."""
    return x if x.shape == shape else _sum_to(x, shape=shape)


@primitive(name="sum_to", view=True, identity="shape", linear_in=("x",), half=True)
def _sum_to(x, *, shape):
    lead = x.ndim - len(shape)
    axes = tuple(range(lead)) + tuple(lead + i for i, n in enumerate(shape) if n == 1 and x.shape[lead + i] != 1)
    return x.sum(axis=axes, keepdims=True).reshape(shape)


@primitive(view=True, identity="shape", linear_in=("x",))
def broadcast_to(x, *, shape):
    """``x`` repeated along new and length-one axes to ``shape``. Raises ValueError where it does not broadcast."""
    return namespace(x).broadcast_to(x, tuple(shape))


_sum_to.defvjp(x=lambda g, x_shape: broadcast_to(g, shape=x_shape))
broadcast_to.defvjp(x=lambda g, x_shape: sum_to(g, shape=x_shape))


@primitive(elementwise=True, identity="shape", linear_in=("x",))
def astype(x, *, dtype):
    """``x`` converted to ``dtype``. The gradient is converted back by the rule, so it needs the input's dtype."""
    return x.astype(dtype)


astype.defvjp(x=lambda g, x: astype(g, dtype=x.dtype))


@primitive(elementwise=True, view=True, identity=True, linear_in=("x",))
def positive(x):
    """``+x``: the identity, with a node of its own in the graph."""
    return x[...]


positive.defvjp(x=lambda g: g)


@primitive(elementwise=True, identity=True, linear_in=("x",))
def copy(x):
    """A copy of ``x`` in memory of its own."""
    return x.copy()


copy.defvjp(x=lambda g: g)


@primitive(elementwise=True, view=True, identity=True, linear_in=("x",))
def contiguous(x):
    """``x`` in C order; ``x`` itself if it is so already."""
    return namespace(x).ascontiguousarray(x).reshape(x.shape)  # which gives () an axis


contiguous.defvjp(x=lambda g: g)


@primitive(promote="same", elementwise=True, also={"alpha": scaled})
def add(x, y):
    """x + y."""
    return x + y


add.defvjp(x=lambda g, x_shape: sum_to(g, shape=x_shape), y=lambda g, y_shape: sum_to(g, shape=y_shape))


@primitive(promote="same", elementwise=True, also={"alpha": scaled})
def sub(x, y):
    """x - y."""
    return x - y


sub.defvjp(x=lambda g, x_shape: sum_to(g, shape=x_shape), y=lambda g, y_shape: sum_to(-g, shape=y_shape))


@primitive(promote="same", elementwise=True, linear_in=("x", "y"))
def mul(x, y):
    """x * y."""
    return x * y


mul.defvjp(x=lambda g, y, x_shape: sum_to(g * y, shape=x_shape), y=lambda g, x, y_shape: sum_to(g * x, shape=y_shape))


def _rounded(prim, args: tuple, params: dict, mode: str | None):
    """``rounding_mode=``: the quotient as it is (None), or rounded towards zero ("trunc") or down ("floor")."""
    x, y = args
    if mode is None:
        return prim(x, y)
    if mode == "floor":
        return floor_divide(x, y)
    if mode != "trunc":
        raise ValueError(f"div: rounding_mode must be None, 'trunc' or 'floor', got {mode!r}")
    quotient = floor_divide(x, y)
    return where((quotient < 0) & (quotient * y != x), quotient + 1, quotient)


@primitive(promote="float", elementwise=True, linear_in=("x",), also={"rounding_mode": _rounded})
@quiet
def div(x, y):
    """x / y; integers are divided as floats of the default dtype."""
    return x / y


div.defvjp(
    x=lambda g, y, x_shape: sum_to(g / y, shape=x_shape),
    y=lambda g, y, out, y_shape: sum_to(-g * out / y, shape=y_shape),
)


def _check_divisor(op, x, y):
    """Integers have no value for x / 0."""
    whole = all(getattr(a, "dtype", np.dtype(type(a))).kind in "iub" for a in (x, y))
    if whole and (not y.all() if type(y) is np.ndarray else not hasattr(y, "dtype") and y == 0):
        raise ZeroDivisionError(f"{op}: an integer is divided by 0")


@primitive(promote="same", differentiable=False, elementwise=True)
def floor_divide(x, y):
    """floor(x / y). Piecewise constant: no gradient flows. Raises ZeroDivisionError for an integer divided by 0."""
    _check_divisor("floor_divide", x, y)
    return x // y


@primitive(promote="same", elementwise=True)
def remainder(x, y):
    """x - y * floor(x / y), with the sign of y, as NumPy and PyTorch have it. Raises ZeroDivisionError for an integer
    divided by 0."""
    _check_divisor("remainder", x, y)
    return x % y


remainder.defvjp(
    x=lambda g, x_shape: sum_to(g, shape=x_shape),
    y=lambda g, x, y, y_shape: sum_to(-g * floor_divide(x, y), shape=y_shape),
)


@primitive(promote="same", elementwise=True)
@quiet
def pow(x, y):
    """x ** y. An integer array to a negative integer power raises ValueError, as in NumPy."""
    return x**y


def _pow_exponent_grad(g, x, out, y_shape):
    # d(x^y)/dy = x^y log x; where x is 0 the derivative is taken as 0 (PyTorch), not 0 * -inf
    if isinstance(x, (int, float)):
        return g * out * (math.log(x) if x > 0 else 0.0 if x == 0 else math.nan)
    return sum_to(g * out * log(where(x == 0, 1.0, x)), shape=y_shape)


def _pow_base_grad(g, x, y, x_shape):
    if isinstance(y, (int, float)):
        return g * y * x ** (y - 1) if y != 0 else g * 0
    # where y is 0 the derivative is 0, also at x = 0, where x ** -1 is infinite
    return sum_to(where(y == 0, 0.0, g * y * pow(x, where(y == 0, 1.0, y - 1))), shape=x_shape)


pow.defvjp(x=_pow_base_grad, y=_pow_exponent_grad)


@primitive(promote="same", elementwise=True, linear_in=("x",))
def neg(x):
    """-x."""
    return -x


neg.defvjp(x=lambda g: -g)


@primitive(elementwise=True)
def abs(x):
    """|x|, with gradient 0 at 0."""
    return namespace(x).abs(x)


abs.defvjp(x=lambda g, x: g * sign(x))


@primitive(differentiable=False, elementwise=True)
def sign(x):
    """-1, 0 or 1."""
    return namespace(x).sign(x)


@primitive(promote="same", elementwise=True)
def square(x):
    """x * x."""
    return x * x


square.defvjp(x=lambda g, x: g * (2 * x))


@primitive(promote="float", elementwise=True)
@quiet
def sqrt(x):
    """Square root; NaN for negative numbers."""
    return namespace(x).sqrt(x)


sqrt.defvjp(x=lambda g, out: g / (2 * out))


@primitive(promote="float", elementwise=True)
@quiet
def rsqrt(x):
    """1 / sqrt(x)."""
    return 1 / namespace(x).sqrt(x)


rsqrt.defvjp(x=lambda g, out: -0.5 * g * (out * out * out))


@primitive(promote="float", elementwise=True)
@quiet
def exp(x):
    """e ** x."""
    return namespace(x).exp(x)


exp.defvjp(x=lambda g, out: g * out)


@primitive(promote="float", elementwise=True)
@quiet
def expm1(x):
    """exp(x) - 1, accurate near 0."""
    return namespace(x).expm1(x)


expm1.defvjp(x=lambda g, out: g * (out + 1))


@primitive(promote="float", elementwise=True)
@quiet
def log(x):
    """Natural logarithm; -inf at 0, NaN below."""
    return namespace(x).log(x)


log.defvjp(x=lambda g, x: g / x)


@primitive(promote="float", elementwise=True)
@quiet
def log1p(x):
    """log(1 + x), accurate near 0."""
    return namespace(x).log1p(x)


log1p.defvjp(x=lambda g, x: g / (1 + x))


@primitive(promote="float", elementwise=True)
@quiet
def logaddexp(x, y):
    """log(exp(x) + exp(y)), computed so that it does not overflow."""
    return namespace(x, y).logaddexp(x, y)


def _share_of(x, out):
    """exp(x - out), 0 where all of the sum is: how much of exp(out) is exp(x)."""
    return exp(x - where(out == -math.inf, 0.0, out))


logaddexp.defvjp(
    x=lambda g, x, out, x_shape: sum_to(g * _share_of(x, out), shape=x_shape),
    y=lambda g, y, out, y_shape: sum_to(g * _share_of(y, out), shape=y_shape),
)


@primitive(promote="float", elementwise=True)
@quiet
def log2(x):
    """Logarithm to base 2."""
    return namespace(x).log2(x)


log2.defvjp(x=lambda g, x: g / (x * math.log(2)))


@primitive(promote="float", elementwise=True)
def sin(x):
    """Sine."""
    return namespace(x).sin(x)


sin.defvjp(x=lambda g, x: g * cos(x))


@primitive(promote="float", elementwise=True)
def cos(x):
    """Cosine."""
    return namespace(x).cos(x)


cos.defvjp(x=lambda g, x: -g * sin(x))


@primitive(promote="float", elementwise=True)
def tan(x):
    """Tangent."""
    return namespace(x).tan(x)


tan.defvjp(x=lambda g, out: g * (1 + out * out))


@primitive(promote="float", elementwise=True)
def arctan(x):
    """Inverse tangent, in (-pi/2, pi/2)."""
    return namespace(x).arctan(x)


arctan.defvjp(x=lambda g, x: g / (1 + x * x))


@primitive(promote="float", elementwise=True)
@quiet
def arcsin(x):
    """Inverse sine, in [-pi/2, pi/2]; NaN beyond [-1, 1]."""
    return namespace(x).arcsin(x)


arcsin.defvjp(x=lambda g, x: g * rsqrt(1 - x * x))


@primitive(promote="float", elementwise=True)
@quiet
def arccos(x):
    """Inverse cosine, in [0, pi]; NaN beyond [-1, 1]."""
    return namespace(x).arccos(x)


arccos.defvjp(x=lambda g, x: -g * rsqrt(1 - x * x))


@primitive(promote="float", elementwise=True)
def arcsinh(x):
    """Inverse hyperbolic sine."""
    return namespace(x).arcsinh(x)


arcsinh.defvjp(x=lambda g, x: g * rsqrt(1 + x * x))


@primitive(promote="float", elementwise=True)
@quiet
def arccosh(x):
    """Inverse hyperbolic cosine; NaN below 1."""
    return namespace(x).arccosh(x)


arccosh.defvjp(x=lambda g, x: g * rsqrt(x * x - 1))


@primitive(promote="float", elementwise=True)
@quiet
def arctanh(x):
    """Inverse hyperbolic tangent; NaN beyond [-1, 1]."""
    return namespace(x).arctanh(x)


arctanh.defvjp(x=lambda g, x: g / (1 - x * x))


@primitive(promote="float", elementwise=True)
@quiet
def sinh(x):
    """Hyperbolic sine."""
    return namespace(x).sinh(x)


sinh.defvjp(x=lambda g, x: g * cosh(x))


@primitive(promote="float", elementwise=True)
@quiet
def cosh(x):
    """Hyperbolic cosine."""
    return namespace(x).cosh(x)


cosh.defvjp(x=lambda g, x: g * sinh(x))


@primitive(promote="float", elementwise=True)
def erf(x):
    """The error function, 2 / sqrt(pi) times the integral of exp(-t^2) from 0 to x."""
    return backend_of(x).special.erf(x).astype(x.dtype, copy=False)  # SciPy makes float64 of half precision


erf.defvjp(x=lambda g, x: g * (2 / math.sqrt(math.pi)) * exp(-x * x))


@primitive(promote="same", elementwise=True)
def maximum(x, y):
    """The larger of x and y; where they are equal each gets half the gradient (PyTorch)."""
    return namespace(x, y).maximum(x, y)


@primitive(promote="same", elementwise=True)
def minimum(x, y):
    """The smaller of x and y; where they are equal each gets half the gradient (PyTorch)."""
    return namespace(x, y).minimum(x, y)


def _share(g, lost, tied):
    """No gradient where this side lost, half of it where both tied; where one is NaN, neither lost."""
    return where(lost, 0.0, where(tied, 0.5 * g, g))


maximum.defvjp(
    x=lambda g, x, y, x_shape: sum_to(_share(g, x < y, x == y), shape=x_shape),
    y=lambda g, x, y, y_shape: sum_to(_share(g, y < x, x == y), shape=y_shape),
)
minimum.defvjp(
    x=lambda g, x, y, x_shape: sum_to(_share(g, x > y, x == y), shape=x_shape),
    y=lambda g, x, y, y_shape: sum_to(_share(g, y > x, x == y), shape=y_shape),
)


@primitive(elementwise=True)
def clip(x, *, min=None, max=None):
    """x limited to [min, max] (Python scalars or None); no gradient outside."""
    if getattr(min, "ndim", 0) or getattr(max, "ndim", 0):
        raise TypeError("clip: expected numbers as limits; clamp takes tensors, too")
    if min is None and max is None:
        return x.copy()
    # a NumPy scalar is as weak as Python's
    min, max = (b.item() if isinstance(b, np.generic) else b for b in (min, max))
    if x.dtype.kind in "iub" and (isinstance(min, float) or isinstance(max, float)):
        x = x.astype(default_dtype())
    return namespace(x).clip(x, min, max)


def _clip_grad(g, x, min, max):
    if min is not None:
        g = where(x >= min, g, 0.0)
    return g if max is None else where(x <= max, g, 0.0)


clip.defvjp(x=_clip_grad)


def clamp(x, min=None, max=None):
    """x limited to [min, max], each a number, a tensor that broadcasts against x, or None. Where the limits cross,
    ``max`` counts. The gradient of an element goes to what it is taken from. NaN stays NaN."""
    for bound, beyond in ((min, less), (max, greater)):
        if hasattr(bound, "ndim") and not isinstance(bound, np.generic):
            x = where(logical_or(beyond(x, bound), isnan(bound)), bound, x)
        elif bound is not None:
            x = clip(x, min=bound) if beyond is less else clip(x, max=bound)
    return x


def where(condition, x, y):
    """x where condition, else y; x and y are brought to their common dtype. No gradient for the condition."""
    if isinstance(x, np.generic) != isinstance(y, np.generic) and hasattr(x, "dtype") and hasattr(y, "dtype"):
        x, y = (v.item() if isinstance(v, np.generic) else v for v in (x, y))  # as weak as Python's
    dx, dy = getattr(x, "dtype", None), getattr(y, "dtype", None)
    if dx is not dy or dx is None:
        dtype = result_dtype([d for d in (dx, dy) if d is not None], [a for a, d in ((x, dx), (y, dy)) if d is None])
        x = np.asarray(x, dtype) if dx is None and dy is None else x if dx in (None, dtype) else astype(x, dtype=dtype)
        y = y if dy in (None, dtype) else astype(y, dtype=dtype)
    return _where(condition, x, y)


@primitive(name="where", elementwise=True)
def _where(condition, x, y):
    """x where condition, else y: for x and y of one dtype, or one array and a Python scalar."""
    out = namespace(condition, x, y).where(condition, x, y)
    # a Python scalar beside an array must not decide the dtype
    dtype = getattr(x, "dtype", None) or getattr(y, "dtype", out.dtype)
    return out if out.dtype == dtype else out.astype(dtype)


_where.defvjp(
    x=lambda g, condition, x_shape: sum_to(where(condition, g, 0.0), shape=x_shape),
    y=lambda g, condition, y_shape: sum_to(where(condition, 0.0, g), shape=y_shape),
)


@primitive(differentiable=False, elementwise=True)
def ones_like(x):
    """Ones with the shape and dtype of x."""
    return namespace(x).ones_like(x)


@primitive(differentiable=False, elementwise=True)
def zeros_like(x):
    """Zeros with the shape and dtype of x."""
    return namespace(x).zeros_like(x)


@primitive(differentiable=False, elementwise=True)
def floor(x):
    """The largest integer not above x."""
    return namespace(x).floor(x)


@primitive(differentiable=False, elementwise=True)
def ceil(x):
    """The smallest integer not below x."""
    return namespace(x).ceil(x)


def _to_decimals(prim, args: tuple, params: dict, decimals: int):
    """``decimals=``: rounded to so many digits after the point, or before it where negative."""
    scale = 10.0 ** builtins.abs(decimals)
    if decimals >= 0:
        return div(prim(mul(args[0], scale)), scale) if decimals else prim(args[0])
    return mul(prim(div(args[0], scale)), scale)


@primitive(differentiable=False, elementwise=True, also={"decimals": _to_decimals})
def round(x):
    """The nearest integer, halves to even."""
    return namespace(x).round(x)


def masked_fill(x, mask, value):
    """``value`` where ``mask`` is true, else ``x``."""
    return where(mask, value, x)
