"""Activation functions and softmax.

Each gradient formula is written once, with primitives, and registered as a primitive of its own (``gelu_grad``, …), so
that a kernel can replace it; for gradients of gradients the formula's own operations are recorded.

Where PyTorch's result at an infinity is NaN (``x * gate(x)`` is -inf * 0 at -inf), so it is here.
Piecewise gradients multiply by masks: NumPy's ``where`` takes ten times as long on random signs.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from minidl.core.errors import describe
from minidl.core.graph import Traced
from minidl.core.primitive import Primitive, primitive
from minidl.core.registry import backend_of, namespace
from minidl.core.spelling import converted
from minidl.ops.comparison import logical_and
from minidl.ops.elementwise import abs, astype, exp, minimum, where
from minidl.ops.reduction import sum
from minidl.ops.shape import chunk, concat, reshape


def _recording() -> bool:
    from minidl.core.context import is_grad_enabled  # which imports this package

    return is_grad_enabled()


def _gradient_of(prim: Primitive) -> Callable[[Callable[..., Any]], Primitive]:
    """Decorator: the formula is the gradient rule of ``prim``'s only input, and itself a primitive (on arrays)."""

    def register(formula: Callable[..., Any]) -> Primitive:
        fused = primitive(formula, differentiable=False, elementwise=prim.elementwise, linear_in=("g",))
        count = len(fused.inputs)

        def rule(*values: Any) -> Any:
            params = dict(zip(fused.params, values[count:]))
            recorded = isinstance(values[0], Traced) and _recording()
            return (formula if recorded else fused)(*values[:count], **params)

        rule.__signature__ = inspect.signature(formula)  # type: ignore[attr-defined]  # its parameter names say what is kept
        prim.defvjp(**{prim.inputs[0]: rule})
        return fused

    return register


@primitive(elementwise=True)
def relu(x):
    """max(x, 0)."""
    return namespace(x).maximum(x, 0)


@_gradient_of(relu)
def relu_grad(g, out):
    return g * (out > 0)


@primitive(promote="float", elementwise=True)
def leaky_relu(x, *, negative_slope=0.01):
    """x where positive, ``negative_slope * x`` elsewhere. Maas et al., 2013."""
    xp, zero = namespace(x), x.dtype.type(0)
    return xp.maximum(x, zero) + x.dtype.type(negative_slope) * xp.minimum(x, zero)


@_gradient_of(leaky_relu)
def leaky_relu_grad(g, x, *, negative_slope):
    positive = astype(x > 0, dtype=g.dtype)
    return g * (positive + negative_slope * (1 - positive))


@primitive(promote="float", elementwise=True)
def elu(x, *, alpha=1.0):
    """x where positive, alpha (exp(x) - 1) elsewhere. Clevert et al., 2016."""
    xp, zero = namespace(x), x.dtype.type(0)
    return xp.maximum(x, zero) + x.dtype.type(alpha) * xp.expm1(xp.minimum(x, zero))


@_gradient_of(elu)
def elu_grad(g, x, *, alpha):
    positive = astype(x > 0, dtype=g.dtype)
    return g * (positive + alpha * (1 - positive) * exp(minimum(x, 0.0)))


def selu(x):
    """scale * elu(x, alpha), with the two constants of Klambauer et al., "Self-normalizing neural networks", 2017."""
    return 1.0507009873554805 * elu(x, alpha=1.6732632423543772)


@primitive(promote="float", elementwise=True)
def tanh(x):
    """Hyperbolic tangent."""
    return namespace(x).tanh(x)


@_gradient_of(tanh)
def tanh_grad(g, out):
    return g * (1 - out * out)


@primitive(promote="float", elementwise=True)
def sigmoid(x):
    """1 / (1 + exp(-x))."""
    xp = namespace(x)
    with np.errstate(over="ignore"):  # exp(-x) may be infinite: then the result is 0, as it should
        return 1 / (1 + xp.exp(-x))


@_gradient_of(sigmoid)
def sigmoid_grad(g, out):
    return g * (out * (1 - out))


@primitive(promote="float", elementwise=True)
def softplus(x, *, beta=1.0, threshold=20.0):
    """log(1 + exp(beta x)) / beta; ``x`` itself where beta x is above ``threshold``, as in PyTorch."""
    xp = namespace(x)
    beta = x.dtype.type(beta)
    z = x * beta
    smooth = (xp.maximum(z, x.dtype.type(0)) + xp.log1p(xp.exp(-xp.abs(z)))) / beta
    return xp.where(z > threshold, x, smooth)


@_gradient_of(softplus)
def softplus_grad(g, x, *, beta, threshold):
    return where(x * beta > threshold, g, g * sigmoid(x * beta))


def logsigmoid(x):
    """log(sigmoid(x)) = -log(1 + exp(-x))."""
    return -softplus(-x, threshold=math.inf)


@primitive(promote="float", elementwise=True)
def normal_cdf(x):
    """The standard normal distribution function, (1 + erf(x / sqrt(2))) / 2, accurate in the lower tail too."""
    return backend_of(x).special.ndtr(x).astype(x.dtype, copy=False)  # SciPy makes float64 of half precision


def _normal_pdf(x):
    return exp(-0.5 * (x * x)) * (1 / math.sqrt(2 * math.pi))


normal_cdf.defvjp(x=lambda g, x: g * _normal_pdf(x))

#: gelu's approximation by tanh is x (1 + tanh(scale (x + cubic x^3))) / 2; kernels take the numbers from here
GELU_SCALE, GELU_CUBIC = math.sqrt(2 / math.pi), 0.044715


@primitive(promote="float", elementwise=True)
def gelu(x, *, approximate="none"):
    """x times the normal distribution function at x; ``approximate="tanh"`` is the usual approximation of it.

    Hendrycks and Gimpel, "Gaussian error linear units", 2016.
    """
    xp = namespace(x)
    if approximate == "none":
        with np.errstate(invalid="ignore"):
            return x * backend_of(x).special.ndtr(x).astype(x.dtype, copy=False)
    if approximate != "tanh":
        raise ValueError(f"gelu: approximate must be 'none' or 'tanh', got {approximate!r}")
    one = x.dtype.type
    with np.errstate(over="ignore", invalid="ignore"):
        inner = one(GELU_SCALE) * x * (1 + one(GELU_CUBIC) * (x * x))
        return one(0.5) * x * (1 + xp.tanh(inner))


@_gradient_of(gelu)
def gelu_grad(g, x, *, approximate):
    if approximate == "none":
        return g * (normal_cdf(x) + x * _normal_pdf(x))
    square = x * x
    t = tanh(GELU_SCALE * x * (1 + GELU_CUBIC * square))
    slope = GELU_SCALE * (1 + 3 * GELU_CUBIC * square)
    return g * (0.5 * (1 + t) + 0.5 * x * (1 - t * t) * slope)


@primitive(promote="float", elementwise=True)
def silu(x):
    """x sigmoid(x), also called swish. Elfwing et al., 2017; Ramachandran et al., 2017."""
    with np.errstate(over="ignore", invalid="ignore"):
        return x / (1 + namespace(x).exp(-x))


@_gradient_of(silu)
def silu_grad(g, x):
    s = sigmoid(x)
    return g * (s * (1 + x * (1 - s)))


@primitive(promote="float", elementwise=True)
def mish(x):
    """x tanh(softplus(x)). Misra, 2019."""
    xp = namespace(x)
    with np.errstate(invalid="ignore"):
        return x * xp.tanh(xp.maximum(x, x.dtype.type(0)) + xp.log1p(xp.exp(-xp.abs(x))))


@_gradient_of(mish)
def mish_grad(g, x):
    t = tanh(softplus(x, threshold=math.inf))
    return g * (t + x * (1 - t * t) * sigmoid(x))


@primitive(promote="float", elementwise=True)
def softsign(x):
    """x / (1 + |x|)."""
    with np.errstate(invalid="ignore"):
        return x / (1 + namespace(x).abs(x))


@_gradient_of(softsign)
def softsign_grad(g, x):
    return g / (1 + abs(x)) ** 2


@primitive(promote="float", elementwise=True)
def hardtanh(x, *, min_val=-1.0, max_val=1.0):
    """x limited to [min_val, max_val]; unlike ``clip``, the gradient is 0 at the bounds themselves (PyTorch)."""
    if min_val > max_val:
        raise ValueError(f"hardtanh: min_val {min_val} is above max_val {max_val}")
    return namespace(x).clip(x, min_val, max_val)


@_gradient_of(hardtanh)
def hardtanh_grad(g, x, *, min_val, max_val):
    return g * logical_and(x > min_val, x < max_val)


def relu6(x):
    """min(max(x, 0), 6)."""
    return hardtanh(x, min_val=0.0, max_val=6.0)


def hardsigmoid(x):
    """x / 6 + 1 / 2, limited to [0, 1]."""
    return relu6(x + 3) / 6


@primitive(promote="float", elementwise=True)
def hardswish(x):
    """x hardsigmoid(x) = x min(max(x + 3, 0), 6) / 6. Howard et al., "Searching for MobileNetV3", 2019."""
    with np.errstate(invalid="ignore"):
        return x * (namespace(x).clip(x + 3, 0, 6) / 6)


@_gradient_of(hardswish)
def hardswish_grad(g, x):
    return where(x < -3, 0.0, where(x < 3, g * (x / 3 + 0.5), g))


def prelu(x, weight):
    """x where positive, ``weight * x`` elsewhere. ``weight`` has one element, or one per channel (axis 1 of x).

    He et al., "Delving deep into rectifiers", 2015. Raises ValueError where the weight does not fit.
    """
    if weight.ndim > 1 or (weight.ndim and weight.shape[0] not in (1, x.shape[1] if x.ndim > 1 else 1)):
        raise ValueError(
            f"prelu: weight {describe(weight)} does not fit x {describe(x)}; expected one element or one per channel"
        )
    per_channel = (1, -1) + (1,) * (x.ndim - 2) if x.ndim > 1 else (1,) * x.ndim
    return where(x > 0, x, x * (reshape(weight, shape=per_channel) if weight.ndim else weight))


@primitive(promote="float")
def glu(x, *, axis=-1):
    """``a * sigmoid(b)`` for the two halves of ``x`` along ``axis``. Dauphin et al., 2017.

    Raises ValueError where the axis has odd length.
    """
    if x.ndim == 0 or x.shape[axis] % 2:
        raise ValueError(f"glu: axis {axis} of {describe(x)} must have an even length")
    a, b = namespace(x).split(x, 2, axis=axis)
    with np.errstate(over="ignore"):
        return a / (1 + namespace(x).exp(-b))


@_gradient_of(glu)
def glu_grad(g, x, *, axis):
    # (chunk cannot cut an axis of length 0)
    a, b = chunk(x, 2, axis) if x.shape[axis] else (x, x)
    s = sigmoid(b)
    parts = [g * s, g * a * (s * (1 - s))]
    return concat(parts, axis=axis)


@primitive(promote="float", also={"dtype": converted})
def softmax(x, *, axis=-1):
    """exp(x) / sum(exp(x)) along ``axis``. The maximum is taken out first, so nothing overflows; NaN for a slice
    that is all -inf."""
    xp = namespace(x)
    if x.size == 0:
        return x.copy()
    with np.errstate(invalid="ignore"):
        out = xp.exp(x - xp.max(x, axis=axis, keepdims=True))
    out /= xp.sum(out, axis=axis, keepdims=True)
    return out


@_gradient_of(softmax)
def softmax_grad(g, out, *, axis):
    weighted = g * out
    return weighted - out * sum(weighted, axis=axis, keepdims=True)


@primitive(promote="float", also={"dtype": converted})
def log_softmax(x, *, axis=-1):
    """log(softmax(x)) along ``axis``, without forming the softmax."""
    xp = namespace(x)
    if x.size == 0:
        return x.copy()
    with np.errstate(invalid="ignore"):
        out = x - xp.max(x, axis=axis, keepdims=True)
    out -= xp.log(xp.sum(xp.exp(out), axis=axis, keepdims=True))
    return out


@_gradient_of(log_softmax)
def log_softmax_grad(g, out, *, axis):
    return g - exp(out) * sum(g, axis=axis, keepdims=True)


def softmin(x, axis=-1, dtype=None):
    """softmax(-x), of x converted to ``dtype`` if that is given."""
    return softmax(-x if dtype is None else -astype(x, dtype=np.dtype(dtype)), axis=axis)
