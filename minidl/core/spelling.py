"""PyTorch's way to call an operation beside NumPy's, translated in this one place.

Every primitive and function of :mod:`minidl.ops`, and every method of a Tensor, takes

* ``dim`` for ``axis``, ``keepdim`` for ``keepdims`` and the other pairs below,
* ``input`` (or ``self``) and ``other`` (or what the second matrix, vector or exponent is called) for its first and
  second input,
* ``out``, a tensor that takes over the result, unrecorded.

What else PyTorch's function takes, a primitive declares (:func:`minidl.core.primitive.primitive`): ``order``, where
PyTorch's order of positional arguments is another one, and ``also``, keywords with a function that serves them, such
as :func:`converted` for ``dtype``.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from minidl.core.context import no_grad
from minidl.core.graph import Traced
from minidl.core.registry import primitives

#: PyTorch's name of a parameter, and the names that it may have here
_OURS = {
    "dim": ("axis", "axes"), "dims": ("axes", "axis", "reps"), "keepdim": ("keepdims",), "dim0": ("axis1",),
    "dim1": ("axis2",), "start_dim": ("start_axis",), "end_dim": ("end_axis",), "src": ("source",),
    "shifts": ("shift",), "size": ("shape",), "sizes": ("shape",), "split_size_or_sections": ("sizes",),
    "split_size": ("sizes",), "diagonal": ("offset",), "axis": ("axes",), "axes": ("axis",),
}  # fmt: skip
_TWINS = {ours: theirs for theirs, several in _OURS.items() for ours in several if theirs not in ("axis", "axes")}
_BY_POSITION = {
    "input": 0, "self": 0, "tensor": 0, "other": 1, "mat2": 1, "vec": 1, "vec2": 1, "exponent": 1, "tensor1": 0,
    "tensor2": 1,
}  # fmt: skip


def spelled(parameters: Mapping[str, inspect.Parameter], given: dict[str, Any]) -> dict[str, Any]:
    """The keyword arguments ``given``, by the names that ``parameters`` have for them.

    Raises TypeError where one parameter is given by both of its names. Unknown names stay, for the call to refuse.
    """
    found = {}
    names = list(parameters)
    if "dim2" in given and "dim1" in given and "dim0" not in given:  # the axes of a diagonal; else dim0 and dim1
        given = (
            {{"dim1": "axis1", "dim2": "axis2"}.get(n, n): v for n, v in given.items()} if "axis2" in names else given
        )
    for name, value in given.items():
        to = name
        if name not in parameters:
            to = next((ours for ours in _OURS.get(name, ()) if ours in parameters), name)
            position = _BY_POSITION.get(name)
            if to != name:
                pass
            elif position is not None and position < len(names):
                to = names[position]
            elif _TWINS.get(name) in parameters:
                to = _TWINS[name]
        if to in found or (to != name and to in given):
            raise TypeError(f"got both {name!r} and {to!r}, which mean the same")
        found[to] = value
    return found


def both_spellings(function: Callable[..., Any]) -> Callable[..., Any]:
    """``function``, which also takes PyTorch's names of its parameters, and ``out``."""
    parameters = inspect.signature(function).parameters

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        if not kwargs or kwargs.keys() <= parameters.keys():
            return function(*args, **kwargs)
        kwargs = spelled(parameters, kwargs)
        if "out" in kwargs and "out" not in parameters:
            return stored(kwargs.pop("out"), lambda: function(*args, **kwargs))
        return function(*args, **kwargs)

    return call


# What serves a further keyword: called with the primitive, its inputs, its other parameters and the keyword's value.


def converted(prim: Any, args: tuple, params: dict, dtype: Any) -> Any:
    """``dtype=``: the first input is converted before the operation."""
    if dtype is None or (getattr(args[0], "dtype", None) == np.dtype(dtype)):
        return prim(*args, **params)
    return prim(primitives["astype"](args[0], dtype=np.dtype(dtype)), *args[1:], **params)


def scaled(prim: Any, args: tuple, params: dict, alpha: Any) -> Any:
    """``alpha=``: the second input is multiplied by it."""
    first, second = args
    return prim(first, second if alpha == 1 else primitives["mul"](second, alpha), **params)


def stored(out: Any, compute: Callable[[], Any]) -> Any:
    """``out=``: the result of ``compute()``, stored in ``out`` (a Tensor or an array, or a tuple of them).

    Raises RuntimeError where a gradient would be lost, and ValueError or TypeError where the result does not fit.
    """
    if out is None:
        return compute()
    places = out if isinstance(out, tuple) else (out,)
    if any(getattr(place, "requires_grad", False) for place in places):
        raise RuntimeError("out=: a tensor that requires a gradient cannot take over a result")
    with no_grad():
        result = compute()
    for place, value in zip(places, result if isinstance(result, tuple) else (result,), strict=True):
        if tuple(place.shape) != tuple(value.shape):
            raise ValueError(f"out=: the result has shape {tuple(value.shape)}, not out's {tuple(place.shape)}")
        if not np.can_cast(value.dtype, place.dtype, "same_kind"):
            raise TypeError(f"out=: the result's dtype {value.dtype} does not fit out's {place.dtype}")
        if isinstance(place, Traced):
            place.assign_(value)
        else:
            place[...] = value
    return out
