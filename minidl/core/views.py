"""Changes in place: memory that takes over new values, what that means for the graph, and for views of the memory.

Views share a version counter with the tensor that owns their memory (:func:`minidl.core.dispatch.record`). A gradient
rule that still needs a value that was changed since refuses to run (:meth:`minidl.core.graph.Node.check_saved`).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from minidl.core import trace
from minidl.core.graph import Node
from minidl.core.primitive import Primitive
from minidl.core.registry import backend_of, primitives, to_numpy
from minidl.core.shown import spread
from minidl.core.tensor import Tensor


def assign_(self: Tensor, value: Any) -> Tensor:
    """Take over the values of ``value`` (broadcast, cast to this dtype), in place and unrecorded."""
    array = value.array if isinstance(value, Tensor) else value
    trace.assigning(self, array)
    old = self.array
    if isinstance(self.array, np.ndarray):
        self.array[...] = to_numpy(array)
    elif array is not self.array:
        backend = backend_of(self.array)
        # a copy: kernels may write into it
        self.array = backend.xp.broadcast_to(backend.asarray(array, dtype=self.dtype), self.shape).copy()
    trace.assigned(self, old)
    self._bump()
    if self.array is not old:
        spread(self, old)
    return self


def become(self: Tensor, new: Tensor, op: str) -> Tensor:
    """Make this tensor (same object, same memory) the result of a recorded operation on its old value."""
    if new.shape != self.shape:
        raise ValueError(f"{op}: result of shape {new.shape} does not fit in place into shape {self.shape}")
    if not np.can_cast(new.dtype, self.dtype, "same_kind"):
        raise TypeError(f"{op}: result of dtype {new.dtype} cannot be stored in place in {self.dtype}")
    if new.requires_grad:
        if self.is_leaf and self.requires_grad:
            raise RuntimeError(f"{op}: a leaf that requires a gradient cannot be changed in place; use no_grad()")
        if self._base is not None or "_shown" in self.__dict__:
            raise RuntimeError(f"{op}: a view cannot be changed in place while gradients are recorded; clone() it")
        assert new._node is not None
        _keep_old_value_for(self, new._node)
    array = new.array
    trace.assigning(self, array)
    old = self.array
    if isinstance(self.array, np.ndarray):
        self.array[...] = array
    else:
        self.array = array.astype(self.dtype)
    trace.assigned(self, old)
    self._bump()
    if self.array is not old:
        spread(self, old)
    if new.requires_grad:
        retained = self._node and self._node.retain and self._node.retain.pop(self._output_index, None)
        self._node, self._edge, self.requires_grad = new._node, new._edge, True
        if retained:
            self.retain_grad()
        showing = self.__dict__.get("_showing", ())
        for view in [v for r in (*(self._views or ()), *showing) if (v := r()) is not None]:
            view._node, view._edge, view.requires_grad = Node(_stale_view, (self,), {}, 1, view.array), None, True
        self._views = None
    return self


def _keep_old_value_for(self: Tensor, node: Node) -> None:
    """Where ``node`` keeps this tensor, whose memory is about to change, let it keep a copy instead."""
    kept = node.saved if type(node.saved) is dict else dict(enumerate(node.saved))
    if any(t is self for t in kept.values()):
        old = primitives["copy"](self.detach())
        old._node, old._edge, old.requires_grad = self._node, self._edge, self.requires_grad
        node.saved = {i: old if t is self else t for i, t in kept.items()}


def _refuse_stale_view(g: Any) -> Any:
    raise RuntimeError(
        "backward through a view of a tensor that was later changed in place: take the view again after the change, or "
        "clone() it before"
    )


_stale_view = Primitive(lambda x: x, "stale_view")
_stale_view.defvjp(x=_refuse_stale_view)
