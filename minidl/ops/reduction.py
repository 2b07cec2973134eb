"""Reductions over one axis, several, or all (``axis=None``), with ``keepdims``; cumulative sums."""

from __future__ import annotations

import builtins
from typing import Any, NamedTuple

import numpy as np

from minidl.core.graph import Traced
from minidl.core.primitive import primitive
from minidl.core.registry import namespace
from minidl.core.spelling import converted
from minidl.ops.elementwise import astype, broadcast_to, exp, maximum, minimum, mul, positive, where, zeros_like
from minidl.ops.shape import flip, normalize_axis, reshape


def normalize_axes(axis, ndim: int, op: str | None = None) -> tuple[int, ...]:
    """``axis`` (None, an int, a tuple) as non-negative ints; errors as of :func:`normalize_axis`."""
    if axis is None:
        return tuple(range(ndim))
    axes = axis if isinstance(axis, (tuple, list)) else (axis,)
    found = tuple(normalize_axis(a, ndim, op) for a in axes)
    return found if ndim else ()


def over(axis, x):
    """``axis`` for a reduction of ``x``: 0 and -1 of a 0-d array, which array libraries refuse, mean all of it."""
    if x.ndim == 0:
        normalize_axes(axis, 0)
        return None
    return tuple(axis) if isinstance(axis, list) else axis


def restore(g, axis, keepdims: bool, shape: tuple[int, ...]):
    """Give a reduced array back its length-one axes, so that it broadcasts against ``shape``."""
    if keepdims:
        return g
    axes = normalize_axes(axis, len(shape))
    return reshape(g, shape=tuple(1 if i in axes else n for i, n in enumerate(shape)))


def _count(axis, shape: tuple[int, ...]) -> int:
    n = 1
    for a in normalize_axes(axis, len(shape)):
        n *= shape[a]
    return n


@primitive(promote="same", reduces="sum", linear_in=("x",), also={"dtype": converted})
def sum(x, *, axis=None, keepdims=False):
    """Sum of the elements; booleans are counted as int64."""
    return x.sum(axis=over(axis, x), keepdims=keepdims)


sum.defvjp(
    x=lambda g, axis, keepdims, x_shape: broadcast_to(restore(g, axis, keepdims, x_shape), shape=x_shape),
)


def _as_floats(prim, args: tuple, params: dict, dtype: Any):
    """``dtype=`` of a mean: converted before the operation, but not to integers, which would cut the numbers off."""
    if dtype is not None and np.dtype(dtype).kind in "iub":
        raise TypeError(f"mean: dtype must be a floating-point dtype, got {np.dtype(dtype)}")
    return converted(prim, args, params, dtype)


@primitive(promote="float", reduces="mean", linear_in=("x",), also={"dtype": _as_floats})
def mean(x, *, axis=None, keepdims=False):
    """Arithmetic mean; NaN over no elements."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return x.sum(axis=over(axis, x), keepdims=keepdims) / x.dtype.type(_count(axis, x.shape))


def _mean_grad(g, axis, keepdims, x_shape):
    n = builtins.max(_count(axis, x_shape), 1)
    return broadcast_to(restore(g * (1 / n), axis, keepdims, x_shape), shape=x_shape)


mean.defvjp(x=_mean_grad)


@primitive(name="var", promote="float")
def _var(x, *, axis=None, keepdims=False, correction=1):
    """Variance: sum of squared deviations divided by (n - correction)."""
    axis, n = over(axis, x), _count(axis, x.shape)
    with np.errstate(invalid="ignore", divide="ignore"):
        deviation = x - x.sum(axis=axis, keepdims=True) / x.dtype.type(n)
        total = (deviation * deviation).sum(axis=axis, keepdims=keepdims)
        return total / x.dtype.type(builtins.max(n - correction, 0))


def _var_grad(g, x, axis, keepdims, correction):
    n = _count(axis, x.shape)
    deviation = x - mean(x, axis=axis, keepdims=True)
    scale = 2 / (n - correction) if n > correction else np.nan
    return restore(g, axis, keepdims, x.shape) * deviation * scale


_var.defvjp(x=_var_grad)


@primitive(name="std", promote="float")
def _std(x, *, axis=None, keepdims=False, correction=1):
    """Standard deviation: the square root of the variance. The gradient is 0 where all elements are equal."""
    return namespace(x).sqrt(_var.reference(x, axis=axis, keepdims=keepdims, correction=correction))


def _std_grad(g, x, out, axis, keepdims, correction):
    """d std = d var / (2 std)."""
    constant = out == 0
    scale = where(constant, 0.0, 0.5 * g / where(constant, 1.0, out))
    return _var_grad(scale, x, axis, keepdims, correction)


_std.defvjp(x=_std_grad)


def _with_correction(op, primitive, x, axis, unbiased, keepdims, correction):
    if isinstance(axis, bool):
        axis, unbiased = None, axis
    if unbiased is not None and correction is not None:
        raise TypeError(f"{op}: give unbiased or correction, not both")
    if correction is None:
        correction = 1 if unbiased is None else int(unbiased)
    return primitive(x, axis=axis, keepdims=keepdims, correction=correction)


def var(x, axis=None, unbiased=None, keepdims=False, *, correction=None):
    """Variance: sum of squared deviations divided by (n - correction).

    The default correction 1 is PyTorch's, the unbiased estimate; 0, or ``unbiased=False``, is NumPy's.
    ``var(x, False)`` is the biased variance of all elements. Raises TypeError for both ``unbiased`` and ``correction``.
    """
    return _with_correction("var", _var, x, axis, unbiased, keepdims, correction)


def std(x, axis=None, unbiased=None, keepdims=False, *, correction=None):
    """Standard deviation: the square root of :func:`var`, which has the same arguments. The gradient is 0 where all
    elements are equal."""
    return _with_correction("std", _std, x, axis, unbiased, keepdims, correction)


def _extremum_grad(g, x, out, axis, keepdims):
    """The gradient goes to the extreme elements, shared equally where several tie (PyTorch's amax)."""
    won = astype(x == restore(out, axis, keepdims, x.shape), dtype=g.dtype)
    return restore(g, axis, keepdims, x.shape) * won / sum(won, axis=axis, keepdims=True)


@primitive(reduces="max")
def amax(x, *, axis=None, keepdims=False):
    """Largest element; NaN wins. Raises ValueError over no elements. Ties share the gradient equally."""
    return x.max(axis=over(axis, x), keepdims=keepdims)


@primitive(reduces="min")
def amin(x, *, axis=None, keepdims=False):
    """Smallest element; NaN wins. Raises ValueError over no elements. Ties share the gradient equally."""
    return x.min(axis=over(axis, x), keepdims=keepdims)


amax.defvjp(x=_extremum_grad)
amin.defvjp(x=_extremum_grad)


class ValuesAndIndices(NamedTuple):
    """What :func:`max`, :func:`sort`, :func:`topk` and their like find along an axis: values, and where they were."""

    values: Any
    indices: Any


def _extremum(op: str, x, axis, keepdims: bool):
    """The extreme elements along one axis and their indices. Each gradient goes to the element at that index."""
    from minidl.ops.indexing import gather
    from minidl.ops.shape import squeeze

    if isinstance(axis, (tuple, list)):
        raise TypeError(f"{op}: expected one axis, got {tuple(axis)}; a{op} takes several")
    if x.ndim == 0:
        normalize_axis(axis, 1, op)
        return ValuesAndIndices(x, astype(zeros_like(x), dtype=np.dtype(np.int64)))
    axis = normalize_axis(axis, x.ndim, op)
    indices = (argmax if op == "max" else argmin)(x, axis=axis, keepdims=True)
    values = gather(x, indices, axis=axis)
    if keepdims:
        return ValuesAndIndices(values, indices)
    return ValuesAndIndices(squeeze(values, axis), squeeze(indices, axis))


def max(x, axis=None, keepdims=False):
    """The largest element; with ``axis``, the pair (values, indices) of the largest along it, the first of equal ones;
    ``max(x, y)`` of two arrays is :func:`maximum`. :func:`amax` gives the values alone, over several axes, too."""
    if axis is None:
        return amax(x, keepdims=keepdims)
    return maximum(x, axis) if hasattr(axis, "dtype") else _extremum("max", x, axis, keepdims)


def min(x, axis=None, keepdims=False):
    """The smallest element; with ``axis``, the pair (values, indices) of the smallest along it, the first of equal
    ones; ``min(x, y)`` of two arrays is :func:`minimum`. :func:`amin` gives the values alone."""
    if axis is None:
        return amin(x, keepdims=keepdims)
    return minimum(x, axis) if hasattr(axis, "dtype") else _extremum("min", x, axis, keepdims)


@primitive(reduces="prod", also={"dtype": converted})
def prod(x, *, axis=None, keepdims=False):
    """Product of the elements."""
    return x.prod(axis=over(axis, x), keepdims=keepdims)


def _prod_grad(g, x, axis, keepdims):
    """d prod / d x_i is the product of the others: of those before it and of those after it, so zeros do no harm."""
    from minidl.ops.shape import permute

    axes = normalize_axes(axis, x.ndim)
    rest = tuple(a for a in range(x.ndim) if a not in axes)
    order = rest + axes
    moved = permute(x, axes=order)
    rows = reshape(moved, shape=tuple(x.shape[a] for a in rest) + (_count(axis, x.shape),))
    others = exclusive_cumprod(rows) * flip(exclusive_cumprod(flip(rows, axis=-1)), axis=-1)
    back = permute(reshape(others, shape=moved.shape), axes=tuple(int(i) for i in np.argsort(order)))
    return restore(g, axis, keepdims, x.shape) * back


prod.defvjp(x=_prod_grad)


@primitive
def exclusive_cumprod(x):
    """Along the last axis, the product of all elements before each one (1 for the first)."""
    xp = namespace(x)
    ones = xp.ones((*x.shape[:-1], builtins.min(1, x.shape[-1])), x.dtype)
    return xp.concatenate([ones, xp.cumprod(x[..., :-1], axis=-1)], axis=-1).astype(x.dtype)


def _exclusive_cumprod_grad(g, x):
    """out_j = prod_{i<j} x_i, so d out_j / d x_k (k < j) = prod_{i<j, i != k} x_i: a triangular array of products."""
    from minidl.ops.linalg import tril
    from minidl.ops.shape import expand, unsqueeze

    n = x.shape[-1]
    eye = namespace(x.array if isinstance(x, Traced) else x).eye(n, dtype=bool)
    # row k holds x with x_k replaced by 1; its exclusive products are d out_j / d x_k for j > k
    rows = where(eye, 1.0, expand(unsqueeze(x, axis=-2), shape=(*x.shape[:-1], n, n)))
    products = exclusive_cumprod(rows)
    return sum(unsqueeze(g, axis=-2) * (products - tril(products)), axis=-1)


exclusive_cumprod.defvjp(x=_exclusive_cumprod_grad)


@primitive(promote="float")
def logsumexp(x, *, axis=None, keepdims=False):
    """log(sum(exp(x))), computed with the maximum taken out so that it does not overflow."""
    xp = namespace(x)
    axes = normalize_axes(axis, x.ndim)
    if _count(axis, x.shape) == 0:
        return xp.full(xp.sum(x, axis=axes, keepdims=keepdims).shape, -np.inf, x.dtype)
    top = xp.max(x, axis=axes, keepdims=True)
    top = xp.where(xp.isfinite(top), top, xp.zeros_like(top))
    with np.errstate(divide="ignore", over="ignore"):
        out = xp.log(xp.sum(xp.exp(x - top), axis=axes, keepdims=True)) + top
    return out if keepdims else out.reshape(tuple(n for i, n in enumerate(x.shape) if i not in axes))


def _logsumexp_grad(g, x, out, axis, keepdims):
    """The gradient is softmax(x) = exp(x - logsumexp(x)); an all -inf slice gets 0."""
    top = restore(out, axis, keepdims, x.shape)
    return restore(g, axis, keepdims, x.shape) * exp(x - where(top == -np.inf, 0.0, top))


logsumexp.defvjp(x=_logsumexp_grad)


@primitive(linear_in=("x",), also={"dtype": converted})
def cumsum(x, *, axis):
    """Running sum along one axis; integers and booleans are counted as int64."""
    dtype = np.dtype(np.int64) if x.dtype.kind in "bi" else x.dtype
    return x.cumsum(axis=axis, dtype=dtype) if x.ndim else x.sum(axis=over(axis, x), dtype=dtype)


cumsum.defvjp(x=lambda g, axis: flip(cumsum(flip(g, axis=axis), axis=axis), axis=axis) if g.ndim else g)


@primitive(differentiable=False)
def argmax(x, *, axis=None, keepdims=False):
    """Index (int64) of the first largest element along ``axis``, or into the flattened array."""
    return namespace(x).argmax(x, axis=over(axis, x), keepdims=keepdims)


@primitive(differentiable=False)
def argmin(x, *, axis=None, keepdims=False):
    """Index (int64) of the first smallest element along ``axis``, or into the flattened array."""
    return namespace(x).argmin(x, axis=over(axis, x), keepdims=keepdims)


def _as_always(prim, args, params, value):
    """``stable=``: sorting is, whatever is asked for."""
    return prim(*args, **params)


@primitive(differentiable=False, also={"stable": _as_always})
def argsort(x, *, axis=-1, descending=False):
    """Indices (int64) that sort ``x`` along ``axis``; equal elements keep their order, and NaN counts as largest."""
    xp = namespace(x)
    if x.ndim == 0:
        return xp.zeros(x.shape, np.int64)
    if not descending:
        return xp.argsort(x, axis=axis, kind="stable")
    # backwards twice, not of -x, which does not reverse unsigned integers or NaN
    order = xp.flip(xp.argsort(xp.flip(x, axis=axis), axis=axis, kind="stable"), axis=axis)
    return x.shape[axis] - 1 - order


def sort(x, axis=-1, descending=False, stable=True):
    """``(values, indices)`` sorted along ``axis``; the gradient goes back to where each value came from."""
    from minidl.ops.indexing import gather

    if x.ndim == 0:
        normalize_axis(axis, 1, "sort")
        return ValuesAndIndices(positive(x), argsort(x))
    axis = normalize_axis(axis, x.ndim, "sort")
    order = argsort(x, axis=axis, descending=descending)
    return ValuesAndIndices(gather(x, order, axis=axis), order)


def topk(x, k, axis=-1, largest=True, sorted=True):
    """``(values, indices)`` of the ``k`` largest (or smallest) elements along ``axis``, in order (also where
    ``sorted`` is false)."""
    from minidl.ops.shape import narrow

    n = x.shape[normalize_axis(axis, x.ndim, "topk")] if x.ndim else 1
    if not 0 <= k <= n:
        raise ValueError(f"topk: k={k} is out of range for axis {axis} of length {n}")
    values, order = sort(x, axis=axis, descending=largest)
    if x.ndim == 0:
        return ValuesAndIndices(values, order)
    return ValuesAndIndices(narrow(values, axis, 0, k), narrow(order, axis, 0, k))


@primitive(differentiable=False)
def any(x, *, axis=None, keepdims=False):
    """True if any element is true."""
    return namespace(x).any(x, axis=over(axis, x), keepdims=keepdims)


@primitive(differentiable=False)
def all(x, *, axis=None, keepdims=False):
    """True if all elements are true."""
    return namespace(x).all(x, axis=over(axis, x), keepdims=keepdims)


def count_nonzero(x, axis=None):
    """Number of elements that are not zero."""
    return sum(x != 0, axis=axis)


def average(x, weights, axis=None, keepdims=False):
    """Weighted mean: sum(x * weights) / sum(weights)."""
    total = sum(mul(x, weights), axis=axis, keepdims=keepdims)
    return per_count(total, sum(weights, axis=axis, keepdims=keepdims))


def per_count(total, count):
    """``total / count``: NaN, without any gradient, where nothing was counted. (Its gradient would otherwise be 0 times
    infinity for all that was not counted.)"""
    nothing = count == 0
    return where(nothing, np.nan, total / where(nothing, 1.0, count))
