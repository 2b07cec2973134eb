"""PyTorch's names for reading and changing parts of a tensor, and for what a sorted axis tells."""

from __future__ import annotations

from typing import Any

import numpy as np

from minidl.core.errors import describe
from minidl.core.graph import Traced
from minidl.core.registry import namespace
from minidl.ops.comparison import isnan
from minidl.ops.elementwise import add, astype, mul, sub, where
from minidl.ops.indexing import checked_index, gather, gather_grad, getitem, setitem, take, take_grad
from minidl.ops.reduction import ValuesAndIndices, exclusive_cumprod, sort
from minidl.ops.reduction import any as any_
from minidl.ops.shape import broadcast_to, concat, moveaxis, narrow, normalize_axis, reshape, squeeze, unsqueeze


def _raw(x: Any) -> Any:
    return x.array if isinstance(x, Traced) else x


def _vector(op: str, x: Any, index: Any) -> Any:
    if index.ndim > 1 or index.dtype.kind not in "iu":
        raise ValueError(f"{op}: expected a vector of indices, got {describe(index)}")
    return reshape(index, shape=(-1,))


def index_select(x: Any, axis: int, index: Any) -> Any:
    """The slices of ``x`` at the integers ``index`` (a vector) along ``axis``."""
    axis = normalize_axis(axis, x.ndim, "index_select")
    index = _vector("index_select", x, index)
    return x if x.ndim == 0 else take(x, checked_index(index, size=x.shape[axis], op="index_select"), axis=axis)


def _as_slices(x: Any, axis: int) -> tuple[Any, int]:
    """A 0-d array as a vector."""
    return (reshape(x, shape=(1,)) if x.ndim == 0 else x), normalize_axis(axis, x.ndim, "index")


def index_add(x: Any, axis: int, index: Any, source: Any, *, alpha: float = 1) -> Any:
    """``x`` with ``alpha`` times slice i of ``source`` added to its slice ``index[i]`` along ``axis``."""
    index, shape = _vector("index_add", x, index), tuple(x.shape)
    (x, axis), (source, _) = _as_slices(x, axis), _as_slices(source, axis)
    if index.shape[0] != source.shape[axis]:
        raise ValueError(f"index_add: {index.shape[0]} indices for {describe(source)} along axis {axis}")
    source = source if alpha == 1 else mul(source, alpha)
    index = checked_index(index, size=x.shape[axis], op="index_add")
    return reshape(add(x, take_grad(source, index, axis=axis, size=x.shape[axis])), shape=shape)


def index_copy(x: Any, axis: int, index: Any, source: Any) -> Any:
    """``x`` with its slice ``index[i]`` along ``axis`` replaced by slice i of ``source``."""
    index, shape = _vector("index_copy", x, index), tuple(x.shape)
    (x, axis), (source, _) = _as_slices(x, axis), _as_slices(source, axis)
    if source.dtype != x.dtype:
        raise TypeError(f"index_copy: expected one dtype, got {x.dtype} and {source.dtype}")
    index = checked_index(index, size=x.shape[axis], op="index_copy")
    return reshape(setitem(x, source, (slice(None),) * axis + (index,)), shape=shape)


def index_fill(x: Any, axis: int, index: Any, value: Any) -> Any:
    """``x`` with its slices at ``index`` along ``axis`` filled with ``value``."""
    index, shape = _vector("index_fill", x, index), tuple(x.shape)
    x, axis = _as_slices(x, axis)
    from minidl.ops.arithmetic import isin

    n = x.shape[axis]
    index = checked_index(index, size=n, negative=True, op="index_fill")
    hit = isin(namespace(_raw(index)).arange(n), where(index < 0, add(index, n), index))
    return reshape(where(reshape(hit, shape=(n,) + (1,) * (x.ndim - axis - 1)), value, x), shape=shape)


def masked_select(x: Any, mask: Any) -> Any:
    """The elements of ``x`` where ``mask`` is true, as a vector; both broadcast."""
    if mask.dtype != np.bool_:
        raise TypeError(f"masked_select: expected a bool mask, got {describe(mask)}")
    shape = np.broadcast_shapes(tuple(x.shape), tuple(mask.shape))
    picked = getitem(broadcast_to(x, shape=shape), broadcast_to(mask, shape=shape))
    return reshape(picked, shape=(-1,))


def scatter_add(x: Any, axis: int, index: Any, source: Any) -> Any:
    """``x`` with ``source[i][j]`` added at ``[index[i][j]][j]`` (axis 0); where an index repeats, all are added."""
    if index.ndim == 0 or x.ndim == 0:
        normalize_axis(axis, 1, "scatter_add")
        return add(x, reshape(source, shape=tuple(x.shape)))
    if index.ndim != x.ndim or source.ndim != x.ndim:
        raise ValueError(f"scatter_add: axes differ: {describe(x)}, index {describe(index)}, {describe(source)}")
    if source.dtype != x.dtype:
        raise TypeError(f"scatter_add: expected one dtype, got {x.dtype} and {source.dtype}")
    axis = normalize_axis(axis, x.ndim, "scatter_add")
    source = getitem(source, tuple(slice(n) for n in index.shape))
    if tuple(source.shape) != tuple(index.shape):
        raise ValueError(f"scatter_add: the index, {describe(index)}, is larger than the source, {describe(source)}")
    index = checked_index(index, size=x.shape[axis], op="scatter_add")
    return add(x, gather_grad(source, index, axis=axis, shape=tuple(x.shape)))


def take_along_dim(x: Any, indices: Any, axis: int | None = None) -> Any:
    """NumPy's take_along_axis: :func:`gather`, but ``x`` and ``indices`` broadcast; without axis, of the flat ``x``."""
    if axis is None:
        return getitem(reshape(x, shape=(-1,)), reshape(indices, shape=(-1,)))
    if indices.ndim != x.ndim:
        raise ValueError(f"take_along_dim: expected as many axes, got {describe(x)} and {describe(indices)}")
    axis = normalize_axis(axis, x.ndim, "take_along_dim")
    others = [tuple(1 if i == axis else n for i, n in enumerate(a.shape)) for a in (x, indices)]
    shape = np.broadcast_shapes(*others)
    wide = [broadcast_to(a, shape=(*shape[:axis], a.shape[axis], *shape[axis + 1 :])) for a in (x, indices)]
    index = where(wide[1] < 0, wide[1] + x.shape[axis], wide[1]) if wide[1].dtype.kind == "i" else wide[1]
    return gather(wide[0], index, axis=axis)


def argwhere(x: Any) -> Any:
    """Indices of the elements that are not zero, shape (count, ndim)."""
    from minidl.ops.indexing import nonzero

    return nonzero(x) if x.ndim else nonzero(reshape(x, shape=(1,)))[:, :0]


def cumprod(x: Any, axis: int, *, dtype: Any = None) -> Any:
    """Running product along one axis; integers and booleans are counted as int64, and ``dtype`` converts first."""
    x = x if dtype is None else astype(x, dtype=np.dtype(dtype))
    if x.ndim == 0:
        normalize_axis(axis, 0, "cumprod")
        return mul(x, 1)
    axis = normalize_axis(axis, x.ndim, "cumprod")
    x = astype(x, dtype=np.dtype(np.int64)) if x.dtype.kind in "bi" else x
    rows = moveaxis(x, axis, -1)
    one = namespace(_raw(x)).ones((*rows.shape[:-1], 1), rows.dtype)
    return moveaxis(exclusive_cumprod(concat([rows, one], axis=-1))[..., 1:], -1, axis)


def kthvalue(x: Any, k: int, axis: int = -1, keepdims: bool = False) -> ValuesAndIndices:
    """(values, indices) of the ``k``-th smallest along ``axis``, counted from 1. Raises ValueError out of range."""
    x_shape = tuple(x.shape)
    x, axis = _as_slices(x, axis)
    if not 1 <= k <= x.shape[axis]:
        raise ValueError(f"kthvalue: k={k} is out of range for axis {axis} of shape {x_shape}")
    values, indices = (narrow(a, axis, k - 1, 1) for a in sort(x, axis=axis))
    if not x_shape:
        return ValuesAndIndices(reshape(values, shape=()), reshape(indices, shape=()))
    if keepdims:
        return ValuesAndIndices(values, indices)
    return ValuesAndIndices(squeeze(values, axis), squeeze(indices, axis))


def msort(x: Any) -> Any:
    """``x`` sorted along its first axis."""
    return sort(x, axis=0)[0]


def quantile(x: Any, q: Any, axis: int | None = None, keepdims: bool = False, *, interpolation: str = "linear") -> Any:
    """The ``q``-quantiles (a number, or a vector, which becomes the first axis) along ``axis``, or of all elements.

    Between two elements the result is interpolated: "linear", "lower", "higher", "midpoint" or "nearest" (halves to
    even). NaN where there is one.
    """
    if interpolation not in ("linear", "lower", "higher", "midpoint", "nearest"):
        raise ValueError(f"quantile: unknown interpolation {interpolation!r}")
    if x.dtype.kind != "f":
        raise TypeError(f"quantile: expected float32 or float64, got {describe(x)}")
    full = x.ndim
    if axis is None:
        rows = reshape(x, shape=(-1,))
    else:
        rows, at = _as_slices(x, axis)
        rows = moveaxis(rows, at, -1)
    n = rows.shape[-1]
    if n == 0:
        raise ValueError(f"quantile: no elements along axis {axis} of {describe(x)}")
    q = q if hasattr(q, "dtype") else np.asarray(q, x.dtype)
    if q.ndim > 1:
        raise ValueError(f"quantile: q must be a number or a vector, got {describe(q)}")
    position = mul(q, float(n - 1))
    whole = namespace(_raw(q)).floor(_raw(position))
    part = sub(position, whole)
    if interpolation in ("lower", "higher", "midpoint", "nearest"):
        part = _raw(part)
        xp = namespace(part)
        part = {
            "lower": xp.zeros_like(part),
            "higher": (part > 0).astype(part.dtype),
            "midpoint": (part > 0).astype(part.dtype) / 2,
            "nearest": xp.round(_raw(position)) - whole,
        }[interpolation]
    ordered = sort(rows, axis=-1)[0]
    low = whole.astype(np.int64)
    high = namespace(low).minimum(low + 1, n - 1)
    below, above = ordered[..., low], ordered[..., high]
    out = add(below, mul(sub(above, below), part))
    missing = any_(isnan(rows), axis=-1)
    out = where(unsqueeze(missing, -1) if q.ndim else missing, np.nan, out)
    if q.ndim:
        out = moveaxis(out, -1, 0)
    if keepdims and full:
        shape = tuple(q.shape) + (
            (1,) * full if axis is None else tuple(1 if i == at else m for i, m in enumerate(x.shape))
        )
        out = reshape(out, shape=shape)
    return out


def aminmax(x: Any, *, axis: int | None = None, keepdims: bool = False) -> Any:
    """(smallest, largest) along ``axis``, or of all elements."""
    from minidl.ops.reduction import amax, amin

    return amin(x, axis=axis, keepdims=keepdims), amax(x, axis=axis, keepdims=keepdims)
