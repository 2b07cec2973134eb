"""Indexing: basic and advanced ``x[...]``, assignment, gather and scatter, one-hot."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from minidl.core import trace
from minidl.core.errors import describe
from minidl.core.graph import Traced
from minidl.core.primitive import primitive
from minidl.core.registry import namespace, to_numpy


class Slot:
    """Stands in an index for an array that is an input of the primitive, so that the rest of the index is static."""

    def __init__(self, position: int) -> None:
        self.position = position

    def __repr__(self) -> str:
        return f"<array {self.position}>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Slot) and other.position == self.position

    def __hash__(self) -> int:
        return hash(("Slot", self.position))


def split_index(index: Any) -> tuple[tuple, list]:
    """An index as (template with :class:`Slot` in place of arrays, the arrays)."""
    parts = index if isinstance(index, tuple) else (index,)
    template: list[Any] = []
    arrays: list[Any] = []
    for part in parts:
        if isinstance(part, (list, range)):
            part = np.asarray(part)
            if part.size == 0:
                part = part.astype(np.int64)
        if isinstance(part, Traced) or (hasattr(part, "dtype") and hasattr(part, "shape") and part.shape is not None):
            if part.dtype.kind not in "iub":
                raise IndexError(f"index: arrays used as indices must be of integer or bool dtype, got {part.dtype}")
            template.append(Slot(len(arrays)))
            arrays.append(part)
        else:
            template.append(part)
    return tuple(template), arrays


def _checked(index: Any) -> Any:
    """``index``. Raises IndexError for unsigned integers from 2^63 on, which NumPy would take for negative ones."""
    if type(index) is np.ndarray and index.dtype == np.uint64 and index.size and index.max() >> np.uint64(63):
        raise IndexError(f"index: {index.max()} is outside of any axis")
    return index


@primitive(differentiable=False, half=False)
def checked_index(index, *, size, negative=False, op):
    """``index``, all of which are in [0, ``size``), or with ``negative`` in [-``size``, ``size``).

    Raises IndexError that begins with ``op`` otherwise. A compiled program that cannot raise returns a flag instead,
    which is looked at before its results are handed out.
    """
    if math.prod(index.shape):
        low, high = index.min(), index.max()
        if high >= size or low < (-size if negative else 0):
            raise IndexError(out_of_range(op, size, negative, low, high))
    return index


def out_of_range(op, size, negative, low, high):
    """What an IndexError says of indices from ``low`` to ``high``."""
    least = -size if negative else 0
    return f"{op}: indices {low}..{high} are not all in [{least}, {size})"


def fill(template: tuple, arrays: Any) -> tuple:
    """The index that :func:`split_index` took apart."""
    return tuple(_checked(arrays[p.position]) if isinstance(p, Slot) else p for p in template)


def _by_mask(arrays, params):
    """Is some index a boolean mask?"""
    return any(getattr(getattr(a, "dtype", None), "kind", "") == "b" for a in arrays[1:])


@primitive(name="getitem", view=True, linear_in=("x",), dynamic=_by_mask)
def _getitem(x, *arrays, index):
    """``x[index]``, where each Slot in the template ``index`` stands for one of ``arrays``."""
    try:
        return x[fill(index, arrays)] if arrays else x[index]
    except IndexError as error:
        raise IndexError(f"index: {error} (tensor of shape {tuple(x.shape)})") from None


def _several_by_mask(arrays, params):
    """Is some index a boolean mask, and are there values for each place?"""
    return any(getattr(getattr(a, "dtype", None), "kind", "") == "b" for a in arrays[2:]) and np.ndim(arrays[1]) > 0


@primitive(name="setitem", promote=None, dynamic=_several_by_mask)
def _setitem(x, value, *arrays, index):
    """A copy of ``x`` in which ``x[index]`` is ``value`` (broadcast)."""
    out = x.copy()
    out[fill(index, arrays)] = value
    return out


@primitive(name="getitem_grad", linear_in=("g",))
def _getitem_grad(g, *arrays, index, shape):
    """Zeros of ``shape`` with ``g`` added at ``index``; where an index repeats, its values add up."""
    xp = namespace(g)
    out = xp.zeros(shape, g.dtype)
    if arrays:
        xp.add.at(out, fill(index, arrays), g)
    else:  # slices and numbers meet no element twice
        out[index] = g
    return out


def add_at(x: Any, index: Any, shape: tuple[int, ...]) -> Any:
    """Zeros of ``shape`` with ``x`` added at ``index``: the transpose of :func:`getitem`."""
    template, arrays = split_index(index)
    return _getitem_grad(x, *arrays, index=template, shape=shape)


@_getitem.defvjp_all
def _getitem_rule(g, needs, x_shape, arrays, index):
    return [_getitem_grad(g, *arrays, index=index, shape=x_shape)] + [None] * len(arrays)


@_getitem_grad.defvjp_all
def _getitem_grad_rule(g, needs, arrays, index):
    return [_getitem(g, *arrays, index=index)] + [None] * len(arrays)


@_setitem.defvjp_all
def _setitem_rule(g, needs, value_shape, arrays, index):
    from minidl.ops.elementwise import sum_to

    grad_x = _setitem(g, 0, *arrays, index=index) if needs[0] else None
    grad_v = sum_to(_getitem(g, *arrays, index=index), shape=tuple(value_shape)) if needs[1] else None
    return [grad_x, grad_v] + [None] * len(arrays)


def getitem(x, index):
    """``x[index]``: NumPy's basic and advanced indexing. Raises IndexError that names the shape."""
    template, arrays = split_index(index)
    return _getitem(x, *arrays, index=template)


def setitem(x, value, index):
    """A copy of ``x`` with ``value`` put in at ``index``."""
    from minidl.ops.elementwise import astype

    template, arrays = split_index(index)
    if getattr(value, "dtype", x.dtype) != x.dtype:
        value = astype(value, dtype=x.dtype)
    return _setitem(x, value, *arrays, index=template)


def _check_gather(op: str, x, index, axis: int) -> None:
    if index.ndim != x.ndim:
        raise ValueError(f"{op}: index has {index.ndim} axes but the input, of shape {x.shape}, has {x.ndim}")
    if index.dtype.kind not in "iu":
        raise TypeError(f"{op}: index must be of integer dtype, got {index.dtype}")


@primitive(linear_in=("x",), order=("x", "axis", "index"))
def gather(x, index, *, axis):
    """PyTorch's gather, ``gather(x, axis, index)``: ``out[i][j] = x[index[i][j]][j]`` for axis 0. ``index`` has as many
    axes as ``x``."""
    if 0 in index.shape and index.dtype.kind in "iu":
        return namespace(x).zeros(index.shape, x.dtype)
    if x.ndim == 0 and index.ndim == 1 and index.dtype.kind in "iu":
        index = checked_index(index, size=1, op="gather from a number")
        return namespace(x).broadcast_to(x, index.shape).copy()
    _check_gather("gather", x, index, axis)
    if x.ndim:
        index = checked_index(index, size=x.shape[axis], op=f"gather from {describe(x)}")
    if x.ndim == 0:
        return namespace(x).broadcast_to(x, index.shape).copy()
    cut = tuple(slice(None) if a == axis % x.ndim else slice(n) for a, n in enumerate(index.shape))
    return namespace(x).take_along_axis(x[cut], index, axis=axis)


def along(index, axis: int, xp: Any) -> tuple:
    """The open mesh that makes ``index`` select along ``axis`` only."""
    grid = list(xp.meshgrid(*(xp.arange(n) for n in index.shape), indexing="ij", sparse=True))
    grid[axis % index.ndim] = index
    return tuple(grid)


@primitive(linear_in=("g",))
def gather_grad(g, index, *, axis, shape):
    """Zeros of ``shape`` with ``g`` added at ``index`` along ``axis``."""
    xp = namespace(g)
    out = xp.zeros(shape, g.dtype)
    if not shape:
        return out + g.sum()
    if g.size:
        xp.add.at(out, along(index, axis, xp), g)
    return out


gather.defvjp(x=lambda g, index, axis, x_shape: gather_grad(g, index, axis=axis, shape=x_shape))
gather_grad.defvjp(g=lambda g, index, axis: gather(g, index, axis=axis))


def scatter(x, axis, index, source, reduce=None):
    """A copy of ``x`` with ``out[index[i][j]][j] = source[i][j]`` (axis 0); ``source`` may be a number."""
    if reduce is not None:
        raise ValueError(f"scatter: reduce={reduce!r} is not supported; scatter_add adds")
    _check_gather("scatter", x, index, axis)
    if x.ndim == 0:
        return setitem(x, source, ...) if index.size else x
    index = checked_index(index, size=x.shape[axis], op="scatter")
    raw = index.array if isinstance(index, Traced) else index
    if getattr(source, "ndim", 0):
        source = getitem(source, tuple(slice(n) for n in raw.shape))
    return setitem(x, source, along(raw, axis, namespace(raw)))


@primitive(name="take", linear_in=("x",))
def _take(x, index, *, axis):
    """The slices of ``x`` at the integers ``index`` along ``axis``."""
    return namespace(x).take(x, _checked(index), axis=axis)


def take(x, index, axis=None):
    """The elements of the flattened ``x`` at the integers ``index``, or its slices there along ``axis``: NumPy's take,
    and PyTorch's, which has no axis."""
    if axis is None:
        from minidl.ops.shape import reshape

        x, axis = reshape(x, shape=(-1,)), 0
    return _take(x, index, axis=axis)


@primitive(linear_in=("x",))
def take_grad(x, index, *, axis=0, size):
    """Zeros with ``size`` slices along ``axis`` to which slice i of ``x`` is added at ``index[i]`` (1-d)."""
    xp = namespace(x)
    shape = (*x.shape[:axis], size, *x.shape[axis + 1 :])
    out = xp.zeros(shape, x.dtype)
    xp.add.at(out, (slice(None),) * axis + (index,), x)
    return out


def _take_rule(g, index, axis, x_shape):
    from minidl.ops.shape import reshape

    axis %= len(x_shape)
    flat = reshape(g, shape=(*x_shape[:axis], math.prod(index.shape), *x_shape[axis + 1 :]))
    return take_grad(flat, index.reshape(-1), axis=axis, size=x_shape[axis])


_take.defvjp(x=_take_rule)
take_grad.defvjp(x=lambda g, index, axis: take(g, index, axis=axis))


@primitive(differentiable=False)
def one_hot(index, *, num_classes=-1, dtype=np.int64):
    """``out[..., k] = 1`` where ``index[...] == k``, else 0. Raises ValueError for an index out of range.

    ``num_classes=-1`` is one more than the largest index."""
    xp = namespace(index)
    if num_classes == -1:
        trace.leaving("one_hot without num_classes")
        num_classes = int(to_numpy(index).max()) + 1 if index.size else 0
    # reading an index back from a device to check it would make every step wait
    if type(index) is np.ndarray and index.size and (index.min() < 0 or index.max() >= num_classes):
        raise ValueError(f"one_hot: indices {index.min()}..{index.max()} do not fit {num_classes} classes")
    return (index[..., None] == xp.arange(num_classes)).astype(dtype)


def _by_axis(prim, args: tuple, params: dict, as_tuple: bool):
    """``as_tuple=``: the columns, one tensor for each axis."""
    found = prim(*args, **params)
    return tuple(found[:, axis] for axis in range(found.shape[1])) if as_tuple else found


@primitive(differentiable=False, dynamic=True, also={"as_tuple": _by_axis})
def nonzero(x):
    """Indices of the elements that are not zero, shape (count, ndim), as PyTorch has it."""
    xp = namespace(x)
    if x.ndim == 0:
        return xp.zeros((int(bool(x)), 0), np.int64)
    return xp.stack(xp.nonzero(x), axis=-1)
