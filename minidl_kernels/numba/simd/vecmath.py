"""exp, log, tanh, erf, sigmoid and what is made of them as polynomials that LLVM can vectorize.

Numba's scalar ``exp`` and ``tanh`` call the C library one number at a time. These are branch-free sequences of
multiplications and additions, so a loop over them becomes vector code. Their error in ulp is measured by
``tests/minidl_kernels/numba/simd/test_vecmath.py``. Coefficients are the minimax polynomials of the Cephes library
(S. L. Moshier, "Methods and Programs for Mathematical Functions", 1989), for erf those of XLA's rational
approximation. Float64 has a polynomial ``exp`` only (and sigmoid by it); the others go to the C
library, as float64 is for checking, not for speed.

Each function takes and returns one scalar; the names ending in 32 want float32. Import them into kernels: they are
inlined where they are called. :data:`FUNCTIONS` finds them by primitive and dtype.
"""

from __future__ import annotations

import math

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic, overload

from minidl.ops.activation import GELU_CUBIC, GELU_SCALE
from minidl_kernels.numba.simd.compiled import INLINED, inlined

# The options of ``inlined`` matter here: reassociation would undo the two-part reductions below; contraction to fused
# multiply-add only makes them better.

_GELU_CUBIC_3 = 3 * GELU_CUBIC
#: the normal density at 0
_DENSITY = 1 / math.sqrt(2 * math.pi)


@intrinsic
def add_any_order(typingctx, x, y):
    """x + y, where a loop that sums this way may be reordered to be vectorized (nothing else in it may)."""

    def codegen(context, builder, signature, args):
        return builder.fadd(*args, flags=("reassoc",))

    return x(x, y), codegen


@intrinsic
def nan_max(typingctx, x, y):
    """The larger of two floats, NaN if either is, as NumPy's maximum; a loop over it is vectorized."""
    return x(x, y), _call_llvm("llvm.maximum")


@intrinsic
def nan_min(typingctx, x, y):
    """The smaller of two floats, NaN if either is; see :func:`nan_max`."""
    return x(x, y), _call_llvm("llvm.minimum")


def _call_llvm(name):
    def codegen(context, builder, signature, args):
        kind = args[0].type
        function = builder.module.declare_intrinsic(name, [kind], ir.FunctionType(kind, [kind, kind]))
        return builder.call(function, args)

    return codegen


@intrinsic
def _int_as_float(typingctx, i):
    """The float whose bits are those of the int."""
    to = {types.int32: types.float32, types.int64: types.float64}[i]

    def codegen(context, builder, signature, args):
        return builder.bitcast(args[0], ir.FloatType() if to is types.float32 else ir.DoubleType())

    return to(i), codegen


@intrinsic
def _float_as_int(typingctx, x):
    """The int whose bits are those of the float."""
    to = {types.float32: types.int32, types.float64: types.int64}[x]

    def codegen(context, builder, signature, args):
        return builder.bitcast(args[0], ir.IntType(32 if to is types.int32 else 64))

    return to(x), codegen


@inlined
def _exp_normal32(y):
    """exp(y) = 2^n exp(r) with n = round(y / ln 2) and |r| <= ln 2 / 2, where the result is a normal number."""
    # adding 1.5 * 2^23 rounds to an integer, which the low bits of the sum then hold
    t = y * np.float32(1.44269504088896341) + np.float32(12582912.0)
    n = t - np.float32(12582912.0)
    # ln 2 is subtracted in two parts, so that r is exact
    r = y - n * np.float32(0.693359375)
    r = r + n * np.float32(2.12194440e-4)
    p = np.float32(1.9875691500e-4)
    p = p * r + np.float32(1.3981999507e-3)
    p = p * r + np.float32(8.3334519073e-3)
    p = p * r + np.float32(4.1665795894e-2)
    p = p * r + np.float32(1.6666665459e-1)
    p = p * r + np.float32(5.0000001201e-1)
    p = p * (r * r) + r + np.float32(1.0)
    # n is added to the exponent of p
    return _int_as_float(np.int32(_float_as_int(p) + np.int32(_float_as_int(t) << np.int32(23))))


@inlined
def exp32(x):
    """exp(x); 0 where that is below 2^-126."""
    out = _exp_normal32(min(max(x, np.float32(-87.33654)), np.float32(88.8)))
    out = np.float32(np.inf) if x > np.float32(88.7228394) else out
    out = out if x >= np.float32(-87.33654) else np.float32(0.0)
    return x if x != x else out


@inlined
def exp64(x):
    """exp(x) = 2^n exp(r), with exp(r) = 1 + 2 r P(r^2) / (Q(r^2) - r P(r^2))."""
    y = min(max(x, -746.0), 710.0)
    n = np.floor(y * 1.4426950408889634073599 + 0.5)
    r = y - n * 6.93145751953125e-1
    r = r - n * 1.42860682030941723212e-6
    z = r * r
    p = r * ((1.26177193074810590878e-4 * z + 3.02994407707441961300e-2) * z + 9.99999999999999999910e-1)
    q = ((3.00198505138664455042e-6 * z + 2.52448340349684104192e-3) * z + 2.27265548208155028766e-1) * z + 2.0
    e = 1.0 + 2.0 * (p / (q - p))
    k = np.int64(n)
    half = k >> np.int64(1)
    s1 = _int_as_float(np.int64((half + np.int64(1023)) << np.int64(52)))
    s2 = _int_as_float(np.int64((k - half + np.int64(1023)) << np.int64(52)))
    out = e * s1 * s2
    out = np.inf if x > 709.78271289338397 else out
    return x if x != x else out


@inlined
def log32(x):
    """log(2^e m) = e ln 2 + log(m) with m in [sqrt(1/2), sqrt(2))."""
    tiny = x < np.float32(1.17549435e-38)
    y = x * np.float32(16777216.0) if tiny else x
    bits = _float_as_int(y)
    e = np.float32((bits >> np.int32(23)) - np.int32(126)) - (np.float32(24.0) if tiny else np.float32(0.0))
    m = _int_as_float(np.int32((bits & np.int32(0x007FFFFF)) | np.int32(0x3F000000)))
    low = m < np.float32(0.707106781186547524)
    e = e - np.float32(1.0) if low else e
    f = m + m - np.float32(1.0) if low else m - np.float32(1.0)
    z = f * f
    p = np.float32(7.0376836292e-2)
    p = p * f - np.float32(1.1514610310e-1)
    p = p * f + np.float32(1.1676998740e-1)
    p = p * f - np.float32(1.2420140846e-1)
    p = p * f + np.float32(1.4249322787e-1)
    p = p * f - np.float32(1.6668057665e-1)
    p = p * f + np.float32(2.0000714765e-1)
    p = p * f - np.float32(2.4999993993e-1)
    p = p * f + np.float32(3.3333331174e-1)
    out = f * z * p - np.float32(2.12194440e-4) * e - np.float32(0.5) * z
    out = f + out + np.float32(0.693359375) * e
    out = np.float32(-np.inf) if x == np.float32(0.0) else out
    out = np.float32(np.nan) if x < np.float32(0.0) else out
    return x if x != x or x == np.float32(np.inf) else out


@inlined
def tanh32(x):
    """Odd polynomial near 0, 1 - 2 / (exp(2|x|) + 1) elsewhere."""
    a = abs(x)
    z = x * x
    p = np.float32(-5.70498872745e-3)
    p = p * z + np.float32(2.06390887954e-2)
    p = p * z - np.float32(5.37397155531e-2)
    p = p * z + np.float32(1.33314422036e-1)
    p = p * z - np.float32(3.33332819422e-1)
    near = p * z * x + x
    far = np.float32(1.0) - np.float32(2.0) / (exp32(a + a) + np.float32(1.0))
    far = -far if x < np.float32(0.0) else far
    return near if a < np.float32(0.625) else far


@inlined
def sigmoid32(x):
    """1 / (1 + exp(-x)); exp is taken of -|x|, so that nothing overflows."""
    e = exp32(-abs(x))
    top = np.float32(1.0) if x >= np.float32(0.0) else e
    out = top / (np.float32(1.0) + e)
    return x if x != x else out


@inlined
def sigmoid64(x):
    """1 / (1 + exp(-x)); exp is taken of -|x|, so that nothing overflows."""
    e = exp64(-abs(x))
    top = 1.0 if x >= 0.0 else e
    out = top / (1.0 + e)
    return x if x != x else out


@inlined
def erf32(x):
    """x P(x^2) / Q(x^2) on [-4, 4], outside of which erf is 1 in float32."""
    y = min(max(x, np.float32(-4.0)), np.float32(4.0))
    z = y * y
    p = np.float32(-2.72614225801306e-10)
    p = p * z + np.float32(2.77068142495902e-08)
    p = p * z - np.float32(2.10102402082508e-06)
    p = p * z - np.float32(5.69250639462346e-05)
    p = p * z - np.float32(7.34990630326855e-04)
    p = p * z - np.float32(2.95459980854025e-03)
    p = p * z - np.float32(1.60960333262415e-02)
    q = np.float32(-1.45660718464996e-05)
    q = q * z - np.float32(2.13374055278905e-04)
    q = q * z - np.float32(1.68282697438203e-03)
    q = q * z - np.float32(7.37332916720468e-03)
    q = q * z - np.float32(1.42647390514189e-02)
    return x if x != x else y * p / q


@inlined
def _normal_tail32(a, e):
    """The normal distribution's tail above a in [0, 13.2], given e = exp(-a^2 / 2): e t P(t) with t = 1 / (1 + 0.26 a).

    The form is that of Abramowitz and Stegun, 7.1.26; P is a minimax fit to erfcx(a / sqrt(2)) / (2 t), to 2e-8 of it.
    """
    t = np.float32(1.0) / (np.float32(1.0) + np.float32(0.26) * a)
    p = np.float32(3.095268301e-02)
    p = p * t - np.float32(1.550177035e-01)
    p = p * t + np.float32(2.560461061e-01)
    p = p * t - np.float32(1.562077309e-01)
    p = p * t + np.float32(1.646244138e-01)
    p = p * t + np.float32(4.943716668e-02)
    p = p * t + np.float32(1.034452594e-01)
    p = p * t + np.float32(1.029571286e-01)
    p = p * t + np.float32(1.037626670e-01)
    return e * (p * t)


@inlined
def normal_cdf32(x):
    """The normal distribution function, by its tail, which is accurate on the left too; 0 where it is below 2^-126."""
    a = abs(x)
    far = a > np.float32(13.1)
    a = np.float32(13.1) if far else a
    tail = _normal_tail32(a, _exp_normal32(np.float32(-0.5) * a * a))
    tail = np.float32(0.0) if far else tail
    out = np.float32(1.0) - tail if x > np.float32(0.0) else tail
    return x if x != x else out


@inlined
def gelu_slope32(x):
    """Derivative of gelu(x) = x cdf(x): cdf(x) + x pdf(x)."""
    a = abs(x)
    far = a > np.float32(13.1)
    a = np.float32(13.1) if far else a
    e = _exp_normal32(np.float32(-0.5) * a * a)
    e = np.float32(0.0) if far else e
    tail = _normal_tail32(a, e)
    cdf = np.float32(1.0) - tail if x > np.float32(0.0) else tail
    return cdf + x * (np.float32(_DENSITY) * e)


@inlined
def gelu_tanh_slope32(x):
    """Derivative of x (1 + tanh(u)) / 2 with u = scale (x + cubic x^3)."""
    square = x * x
    t = tanh32(np.float32(GELU_SCALE) * x * (np.float32(1.0) + np.float32(GELU_CUBIC) * square))
    slope = np.float32(GELU_SCALE) * (np.float32(1.0) + np.float32(_GELU_CUBIC_3) * square)
    half = np.float32(0.5)
    return half * (np.float32(1.0) + t) + half * x * (np.float32(1.0) - t * t) * slope


@inlined
def silu_slope32(x):
    """Derivative of x sigmoid(x)."""
    s = sigmoid32(x)
    return s * (np.float32(1.0) + x * (np.float32(1.0) - s))


@inlined
def normal_cdf64(x):
    """The normal distribution function, by the C library's erfc."""
    return 0.5 * math.erfc(x * -0.70710678118654752440)


@inlined
def gelu_slope64(x):
    """Derivative of gelu(x) = x cdf(x): cdf(x) + x pdf(x)."""
    return normal_cdf64(x) + x * (_DENSITY * exp64(-0.5 * (x * x)))


@inlined
def gelu_tanh_slope64(x):
    """Derivative of x (1 + tanh(u)) / 2 with u = scale (x + cubic x^3)."""
    square = x * x
    t = math.tanh(GELU_SCALE * x * (1.0 + GELU_CUBIC * square))
    slope = GELU_SCALE * (1.0 + _GELU_CUBIC_3 * square)
    return 0.5 * (1.0 + t) + 0.5 * x * (1.0 - t * t) * slope


@inlined
def silu_slope64(x):
    """Derivative of x sigmoid(x)."""
    s = sigmoid64(x)
    return s * (1.0 + x * (1.0 - s))


@inlined
def log64(x):
    """The C library's log, with NumPy's values at and below 0."""
    return math.log(x) if x > 0.0 else (-np.inf if x == 0.0 else np.nan)


@inlined
def tanh64(x):
    """The C library's tanh."""
    return math.tanh(x)


@inlined
def erf64(x):
    """The C library's erf."""
    return math.erf(x)


#: function by primitive name and dtype character
FUNCTIONS = {
    ("exp", "f"): exp32,
    ("exp", "d"): exp64,
    ("log", "f"): log32,
    ("log", "d"): log64,
    ("tanh", "f"): tanh32,
    ("tanh", "d"): tanh64,
    ("sigmoid", "f"): sigmoid32,
    ("sigmoid", "d"): sigmoid64,
    ("erf", "f"): erf32,
    ("erf", "d"): erf64,
    ("normal_cdf", "f"): normal_cdf32,
    ("normal_cdf", "d"): normal_cdf64,
}


def _generic(name: str):
    """The function for a scalar of either dtype, for use in compiled code."""

    def stub(x):
        raise NotImplementedError(f"{name} is for compiled code")

    def choose(x):
        function = FUNCTIONS[name, "f" if x == types.float32 else "d"]
        return lambda x: function(x)

    overload(stub, jit_options=INLINED)(choose)
    return stub


exp, log, sigmoid, tanh = (_generic(name) for name in ("exp", "log", "sigmoid", "tanh"))
