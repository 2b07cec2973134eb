"""Special functions: error functions, the gamma function and its kin, Bessel functions, orthogonal polynomials.

Their values come from the special functions of the backend's arrays (SciPy's, on NumPy); gradients are formulas.
Those without a gradient here have none in PyTorch either.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from minidl.core import trace
from minidl.core.primitive import primitive, quiet
from minidl.core.registry import backend_of, namespace, to_numpy
from minidl.ops.activation import normal_cdf
from minidl.ops.arithmetic import arrays, xlogy
from minidl.ops.elementwise import add, clip, div, exp, log, log1p, mul, sign, sub, sum_to, where

_SQRT_PI = math.sqrt(math.pi)
_SQRT_2PI = math.sqrt(2 * math.pi)


def _special(name: str, *arrays: Any, **params: Any) -> Any:
    """The function ``name`` on arrays of one dtype, in that dtype."""
    dtype = next(a.dtype for a in arrays if hasattr(a, "dtype"))
    return getattr(backend_of(arrays[0]).special, name)(*arrays, **params).astype(dtype, copy=False)


@primitive(promote="float", elementwise=True)
def erfc(x):
    """1 - erf(x), accurate where that is small."""
    return _special("erfc", x)


erfc.defvjp(x=lambda g, x: g * (-2 / _SQRT_PI) * exp(-x * x))


@primitive(promote="float", elementwise=True)
def erfcx(x):
    """exp(x^2) erfc(x): :func:`erfc` without its decay."""
    return _special("erfcx", x)


erfcx.defvjp(x=lambda g, x, out: g * (2 * x * out - 2 / _SQRT_PI))


@primitive(promote="float", elementwise=True)
@quiet
def erfinv(x):
    """The y with erf(y) = x; infinite at -1 and 1, NaN beyond."""
    return _special("erfinv", x)


erfinv.defvjp(x=lambda g, out: g * (_SQRT_PI / 2) * exp(out * out))


def ndtr(x: Any) -> Any:
    """The distribution function of the standard normal: the probability of a value below x."""
    return normal_cdf(x)


@primitive(promote="float", elementwise=True)
def log_ndtr(x):
    """log(ndtr(x)), accurate far in the left tail."""
    return _special("log_ndtr", x)


log_ndtr.defvjp(x=lambda g, x: g * (math.sqrt(2 / math.pi) / erfcx(x * -math.sqrt(0.5))))


@primitive(promote="float", elementwise=True)
@quiet
def ndtri(x):
    """The y with ndtr(y) = x: the quantile function of the standard normal."""
    return _special("ndtri", x)


ndtri.defvjp(x=lambda g, out: g * _SQRT_2PI * exp(0.5 * (out * out)))


@primitive(promote="float", elementwise=True)
@quiet
def lgamma(x):
    """log |gamma(x)|."""
    return _special("gammaln", x)


lgamma.defvjp(x=lambda g, x: g * digamma(x))


@primitive(promote="float", elementwise=True)
@quiet
def digamma(x):
    """The derivative of :func:`lgamma`; infinite at 0, NaN at negative integers."""
    return _special("digamma", x)


digamma.defvjp(x=lambda g, x: g * polygamma(1, x))


@primitive(name="polygamma", promote="float", elementwise=True)
@quiet
def _polygamma(x, *, n):
    """The ``n``-th derivative of :func:`digamma`: (-1)^(n+1) n! zeta(n+1, x), by reflection for negative x when n = 1
    (Abramowitz and Stegun, 6.4.7)."""
    if n == 0:
        return _special("digamma", x)
    if n > 1:
        xp = namespace(x)
        return ((-1) ** (n + 1) * math.factorial(n) * _special("zeta", xp.full_like(x, n + 1), x)).astype(x.dtype)
    xp = namespace(x)
    negative = x < 0.5
    sine = xp.sin(math.pi * x)
    value = _special("zeta", xp.full_like(x, 2), xp.where(negative, 1 - x, x))
    return xp.where(negative, math.pi**2 / (sine * sine) - value, value).astype(x.dtype)


_polygamma.defvjp(x=lambda g, x, n: g * _polygamma(x, n=n + 1))


def polygamma(n: int, x: Any) -> Any:
    """The ``n``-th derivative of :func:`digamma`; as a method, ``x.polygamma(n)``. Raises ValueError for a negative
    ``n``."""
    if hasattr(n, "dtype"):  # x.polygamma(n)
        n, x = x, n
    if n < 0:
        raise ValueError(f"polygamma: n must not be negative, got {n}")
    return _polygamma(x, n=n)


def mvlgamma(x: Any, p: int) -> Any:
    """The logarithm of the multivariate gamma function of dimension ``p``:
    log(pi) p (p - 1) / 4 + sum_i lgamma(x - i / 2)."""
    if p < 1:
        raise ValueError(f"mvlgamma: p must be at least 1, got {p}")
    total: Any = p * (p - 1) / 4 * math.log(math.pi)
    for i in range(p):
        total = add(lgamma(sub(x, i / 2)), total)
    return total


@primitive(promote="float", elementwise=True)
@quiet
def zeta(x, q):
    """Hurwitz' zeta function, the sum over k >= 0 of (k + q)^-x. No gradient for x."""
    xp = namespace(x, q)
    shape = np.broadcast_shapes(np.shape(x), np.shape(q))
    return _special("zeta", *(xp.broadcast_to(xp.asarray(a), shape) for a in arrays(x, q)))


zeta.defvjp(q=lambda g, x, q, q_shape: sum_to(g * (-1.0 * x * zeta(x + 1, q)), shape=q_shape))


@primitive(promote="float", elementwise=True)
@quiet
def igamma(a, x):
    """The regularized lower incomplete gamma function: the integral of t^(a-1) e^-t from 0 to x, over gamma(a).
    No gradient for a."""
    return _special("gammainc", *arrays(a, x))


@primitive(promote="float", elementwise=True)
@quiet
def igammac(a, x):
    """1 - igamma(a, x), accurate where that is small. No gradient for a."""
    return _special("gammaincc", *arrays(a, x))


def _gamma_density(a, x):
    return exp((a - 1) * log(x) - x - lgamma(a))


igamma.defvjp(x=lambda g, a, x, x_shape: sum_to(g * _gamma_density(a, x), shape=x_shape))
igammac.defvjp(x=lambda g, a, x, x_shape: sum_to(-g * _gamma_density(a, x), shape=x_shape))


@primitive(promote="float", elementwise=True)
@quiet
def i0(x):
    """The modified Bessel function of the first kind, of order 0."""
    return _special("i0", x)


@primitive(promote="float", elementwise=True)
def i0e(x):
    """exp(-|x|) i0(x)."""
    return _special("i0e", x)


@primitive(promote="float", elementwise=True)
@quiet
def i1(x):
    """The modified Bessel function of the first kind, of order 1."""
    return _special("i1", x)


@primitive(promote="float", elementwise=True)
def i1e(x):
    """exp(-|x|) i1(x)."""
    return _special("i1e", x)


def _over_x(value, x):
    """value / x; 0.5, its limit for I1 and its scaled kin, at 0."""
    return where(x == 0, 0.5, div(value, where(x == 0, 1.0, x)))


i0.defvjp(x=lambda g, x: g * i1(x))
i0e.defvjp(x=lambda g, x, out: g * (i1e(x) - sign(x) * out))
i1.defvjp(x=lambda g, x, out: g * (i0(x) - _over_x(out, x)))
i1e.defvjp(x=lambda g, x, out: g * (i0e(x) - sign(x) * out - _over_x(out, x)))


def entr(x: Any) -> Any:
    """-x log(x), the terms of an entropy: 0 at 0, -inf below."""
    return where(x < 0, -math.inf, mul(xlogy(x, x), -1.0))


def logit(x: Any, eps: float | None = None) -> Any:
    """log(x / (1 - x)), the inverse of the sigmoid; with ``eps``, of x limited to [eps, 1 - eps]."""
    x = mul(x, 1.0)
    if eps is not None:
        x = clip(x, min=eps, max=1 - eps)
    return sub(log(x), log1p(mul(x, -1)))


def _without_gradient(name: str, function: str, text: str) -> Callable[..., Any]:
    """A primitive that is SciPy's ``function`` of one array."""

    def reference(x):
        return _special(function, x)

    reference.__doc__ = f"{text} No gradient."
    reference.__module__ = __name__
    return primitive(quiet(reference), name=name, promote="float", differentiable=False, elementwise=True)


bessel_j0 = _without_gradient("bessel_j0", "j0", "The Bessel function of the first kind, of order 0.")
bessel_j1 = _without_gradient("bessel_j1", "j1", "The Bessel function of the first kind, of order 1.")
bessel_y0 = _without_gradient("bessel_y0", "y0", "The Bessel function of the second kind, of order 0.")
bessel_y1 = _without_gradient("bessel_y1", "y1", "The Bessel function of the second kind, of order 1.")
modified_bessel_k0 = _without_gradient("modified_bessel_k0", "k0", "The modified Bessel function K of order 0.")
modified_bessel_k1 = _without_gradient("modified_bessel_k1", "k1", "The modified Bessel function K of order 1.")
scaled_modified_bessel_k0 = _without_gradient("scaled_modified_bessel_k0", "k0e", "exp(x) K0(x).")
scaled_modified_bessel_k1 = _without_gradient("scaled_modified_bessel_k1", "k1e", "exp(x) K1(x).")
modified_bessel_i0, modified_bessel_i1 = i0, i1


def _polynomial(first: Callable, step: Callable, text: str) -> Callable[[Any, int], Any]:
    """The orthogonal polynomials with P0 = 1, P1 = ``first(x)`` and P(k+1) = ``step(k, x, P(k), P(k-1))``."""

    def function(x: Any, n: Any) -> Any:
        x = mul(x, 1.0)
        if hasattr(n, "ndim"):  # of each element its own degree
            trace.leaving("a polynomial of degrees in a tensor")
            degrees = to_numpy(getattr(n, "array", n))
            out = mul(add(x, mul(n, 0.0)), 0.0)
            for k in np.unique(degrees[np.isfinite(degrees)]):
                out = where(np.trunc(degrees) == np.trunc(k), function(x, int(k)), out)
            return out
        if n < 0:
            return mul(x, 0.0)
        before, value = add(mul(x, 0.0), 1.0), first(x)
        if n == 0:
            return before
        for k in range(1, int(n)):
            before, value = value, step(k, x, value, before)
        return value

    function.__doc__ = f"{text} of degree ``n``, a Python int, by its recurrence; 0 for a negative ``n``."
    return function


def _chebyshev(k, x, now, before):
    return 2 * x * now - before


chebyshev_polynomial_t = _polynomial(lambda x: x, _chebyshev, "Chebyshev's polynomial of the first kind")
chebyshev_polynomial_u = _polynomial(lambda x: 2 * x, _chebyshev, "Chebyshev's polynomial of the second kind")
chebyshev_polynomial_v = _polynomial(lambda x: 2 * x - 1, _chebyshev, "Chebyshev's polynomial of the third kind")
chebyshev_polynomial_w = _polynomial(lambda x: 2 * x + 1, _chebyshev, "Chebyshev's polynomial of the fourth kind")
hermite_polynomial_h = _polynomial(
    lambda x: 2 * x, lambda k, x, now, before: 2 * x * now - 2 * k * before, "The physicists' Hermite polynomial"
)
hermite_polynomial_he = _polynomial(
    lambda x: x, lambda k, x, now, before: x * now - k * before, "The probabilists' Hermite polynomial"
)
laguerre_polynomial_l = _polynomial(
    lambda x: 1 - x,
    lambda k, x, now, before: ((2 * k + 1 - x) * now - k * before) / (k + 1),
    "Laguerre's polynomial",
)
legendre_polynomial_p = _polynomial(
    lambda x: x, lambda k, x, now, before: ((2 * k + 1) * x * now - k * before) / (k + 1), "Legendre's polynomial"
)
