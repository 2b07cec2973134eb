"""Indices that do not fit: JAX clamps them, wraps them round or makes NaN of what they select, without a word.

An index whose values are known is looked at. While a program is traced, the question becomes a flag: one more result,
which :class:`minidl_kernels.jax.program.LoweredProgram` looks at before it hands out the others.
"""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp

from minidl import ops
from minidl.backend import kernel
from minidl.ops.indexing import Slot, out_of_range

_flags: contextvars.ContextVar[list | None] = contextvars.ContextVar("flags", default=None)


@contextlib.contextmanager
def collecting() -> Iterator[list[tuple[Any, Exception]]]:
    """Collects (flag: is everything in range?, the error to raise if not) of what is traced inside."""
    found: list[tuple[Any, Exception]] = []
    token = _flags.set(found)
    try:
        yield found
    finally:
        _flags.reset(token)


@kernel("checked_index", backend="jax", note="a flag while a program is traced")
def checked_index(index: Any, *, size: int, negative: bool = False, op: str, error: type = IndexError) -> Any:
    index = jnp.asarray(index)
    if not index.size:
        return index
    low, high = index.min(), index.max()
    fits = high < size  # compared in the index's own dtype, or as Python's numbers
    if size > jnp.iinfo(index.dtype).max:
        fits = jnp.asarray(True)
    if index.dtype.kind == "i":
        fits &= low >= (-size if negative else 0)
    if isinstance(fits, jax.core.Tracer):
        found = _flags.get()
        if found is not None:
            found.append((fits, error(f"{op}: an index is outside an axis of length {size}")))
    elif not fits:
        raise error(out_of_range(op, size, negative, low, high))
    return index


def _check(x_shape: tuple[int, ...], template: tuple, arrays: tuple) -> None:
    """Raise IndexError for a number in an index that does not fit its axis."""
    taken = sum(
        arrays[p.position].ndim if isinstance(p, Slot) and arrays[p.position].dtype == bool else 1
        for p in template
        if p is not None and p is not Ellipsis and not isinstance(p, bool)
    )
    axis = 0
    for p in template:
        if p is Ellipsis:
            axis += len(x_shape) - taken
        elif p is None or isinstance(p, bool):
            continue
        elif isinstance(p, Slot) and arrays[p.position].dtype == bool:
            axis += arrays[p.position].ndim
        else:
            if axis < len(x_shape) and isinstance(p, Slot):
                checked_index(arrays[p.position], size=x_shape[axis], negative=True, op="index")
            elif axis < len(x_shape) and not isinstance(p, slice) and not -x_shape[axis] <= p < x_shape[axis]:
                raise IndexError(
                    f"index: {p} is outside of an axis of length {x_shape[axis]} (tensor of shape {x_shape})"
                )
            axis += 1


@kernel("getitem", backend="jax", note="indices checked")
def getitem(x: Any, *arrays: Any, index: tuple) -> Any:
    _check(tuple(x.shape), index, arrays)
    return ops.primitives["getitem"].reference(x, *arrays, index=index)


@kernel("setitem", backend="jax", note="indices checked")
def setitem(x: Any, value: Any, *arrays: Any, index: tuple) -> Any:
    from minidl.ops.indexing import fill

    _check(tuple(x.shape), index, arrays)
    if len(index) == 1 and arrays and arrays[0].dtype == bool and arrays[0].ndim == x.ndim and jnp.ndim(value) == 0:
        return jnp.where(arrays[0], jnp.asarray(value, x.dtype), x)  # while JAX traces, an index must not be a mask
    return x.at[fill(index, arrays)].set(value)


@kernel("take", backend="jax", note="indices checked")
def take(x: Any, index: Any, *, axis: int) -> Any:
    index = checked_index(index, size=x.shape[axis], negative=True, op="take")
    return jnp.take(x, index, axis=axis)


@kernel("embedding", backend="jax", when=lambda index, weight, **_: weight.ndim == 2 and index.dtype.kind in "iu")
def embedding(index: Any, weight: Any, *, padding_idx: int | None = None) -> Any:
    """a table (V, D) and integers"""
    return jnp.take(weight, checked_index(index, size=weight.shape[0], op="embedding"), axis=0)


@kernel("one_hot", backend="jax", note="indices checked")
def one_hot(index: Any, *, num_classes: int, dtype: Any = "int64") -> Any:
    index = checked_index(index, size=num_classes, op="one_hot", error=ValueError)
    return (index[..., None] == jnp.arange(num_classes)).astype(dtype)


def _whole(x: Any, y: Any) -> bool:
    """integers"""
    return all(jnp.result_type(a).kind in "iub" for a in (x, y))


def _divisor(op: str, y: Any) -> None:
    right = jnp.all(jnp.asarray(y) != 0)
    error = ZeroDivisionError(f"{op}: an integer is divided by 0")
    if isinstance(right, jax.core.Tracer):
        found = _flags.get()
        if found is not None:
            found.append((right, error))
    elif not right:
        raise error


@kernel("floor_divide", backend="jax", when=_whole, note="zeros refused")
def floor_divide(x: Any, y: Any) -> Any:
    _divisor("floor_divide", y)
    return x // y


@kernel("remainder", backend="jax", when=_whole, note="zeros refused")
def remainder(x: Any, y: Any) -> Any:
    _divisor("remainder", y)
    return x % y
