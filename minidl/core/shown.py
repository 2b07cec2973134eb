"""Views where arrays cannot share memory: JAX's arrays are never written to, but replaced.

A tensor that NumPy would give as a view of another one remembers which elements of it it shows. When either is changed
in place, the other takes over the new values. What would be a view is found out on NumPy's strides, over memory that is
never touched.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np

from minidl.core import trace
from minidl.core.context import no_grad
from minidl.core.registry import primitives


class Shown:
    """What a view shows: elements of ``root``, a tensor that owns its values, in the layout of ``places``: an array
    over memory of a byte per element of the root."""

    __slots__ = ("places", "root")

    def __init__(self, root: Any, places: np.ndarray) -> None:
        self.root, self.places = root, places

    def positions(self) -> np.ndarray:
        """The numbers of the elements in the root, in C order."""
        found = np.full(self.places.shape, 0, np.int64)
        for axis, (n, step) in enumerate(zip(self.places.shape, self.places.strides)):
            found += (np.arange(n) * step).reshape(-1, *(1,) * (self.places.ndim - axis - 1))
        memory = self.places
        while isinstance(memory.base, np.ndarray):
            memory = memory.base
        start = self.places.__array_interface__["data"][0] - memory.__array_interface__["data"][0]
        return found.reshape(-1) + start


def link(result: Any, source: Any, layout: Callable[[np.ndarray], np.ndarray]) -> None:
    """``result`` shows of ``source`` what ``layout`` makes of an array of its shape, if that is a view."""
    known = source.__dict__.get("_shown")
    root = source if known is None else known.root
    memory = np.empty(math.prod(source.shape), np.uint8).reshape(source.shape) if known is None else known.places
    places = layout(memory)
    if not isinstance(places, np.ndarray) or not np.may_share_memory(places, memory):
        return
    result._shown = Shown(root, places)
    views = root.__dict__.setdefault("_showing", [])
    if len(views) > 64:
        views[:] = [r for r in views if r() is not None]
    views.append(weakref.ref(result))


def link_shown(result: Any, prim: Any, args: tuple, params: dict, number: int) -> None:
    """Output ``number`` of a view primitive shows the input, where a view is what NumPy would give."""
    if len(args) != 1:
        return

    def layout(memory: np.ndarray) -> np.ndarray:
        made = prim.reference(memory, **params)
        return made[number] if isinstance(made, tuple) else made

    link(result, args[0], layout)


def spread(tensor: Any, old: Any) -> None:
    """``tensor`` held ``old`` and has been changed in place; what shows the same elements, or owns them, takes over
    the new values."""
    known = tensor.__dict__.get("_shown")
    root = tensor if known is None else known.root
    showing = [view for r in root.__dict__.get("_showing", ()) if (view := r()) is not None and view is not tensor]
    if known is None and not showing:
        return
    with no_grad():
        if known is not None:
            count = math.prod(root.shape)
            order = np.arange(count)
            order[known.positions()] = count + np.arange(math.prod(tensor.shape))
            both = primitives["concat"](_flat(root), _flat(tensor), axis=0)
            _take_over(root, primitives["take"](both, order, axis=0))
        for view in showing:
            _take_over(view, primitives["take"](_flat(root), view._shown.positions(), axis=0))


def _flat(tensor: Any) -> Any:
    return primitives["reshape"](tensor._from_node(tensor.array, None), shape=(-1,))


def _take_over(tensor: Any, values: Any) -> None:
    new = primitives["reshape"](values, shape=tuple(tensor.shape)).array
    trace.assigning(tensor, new)
    before, tensor.array = tensor.array, new
    trace.assigned(tensor, before)
    tensor._bump()
