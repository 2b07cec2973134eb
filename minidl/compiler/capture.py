"""Running a step while noting every primitive that it calls.

All primitives, on arrays or on Tensors, go through ``Primitive.run``, which reports to the tracer set here. The
backward pass runs its rules on Tensors meanwhile, so that the operators in them are primitives, too. An array is
known by its identity. One that no noted primitive made is external: it is read again at each replay, from the array
itself, or from the Tensor that owned it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np

from minidl.autograd.engine import mode
from minidl.backend.live import Cell
from minidl.backend.registry import state
from minidl.compiler.program import Program, Step, Value


class CaptureError(RuntimeError):
    """The step does something that a captured program could not repeat."""


class Tracer:
    """Collects a :class:`Program` from the calls that ``Primitive.run`` reports."""

    def __init__(self) -> None:
        self.thread = threading.get_ident()
        self.steps: list[Step] = []
        self.inputs: list[Value] = []
        self.by_id: dict[int, Value] = {}
        self.owners: set[int] = set()
        self.kept: list[Any] = []  # keeps ids unique for as long as the tracer lives
        self.tensors: dict[int, Any] = {}
        self.updated: dict[int, tuple[Value, Value]] = {}
        self.count = 0
        self.depth = 0

    def new_value(self, array: Any, kind: str) -> Value:
        v = Value(self.count, kind, tuple(array.shape), np.dtype(array.dtype))
        self.count += 1
        self.by_id[id(array)] = v
        self.kept.append(array)
        if kind == "external":
            v.cell = Cell(lambda: array, lambda new: np.copyto(array, new))
        elif isinstance(array, np.ndarray):
            self.owners.add(id(_owner(array)))
        return v

    def observe(self, prim: Any, args: tuple, params: dict, result: Any) -> None:
        for a in args:
            if hasattr(a, "data") and hasattr(a, "requires_grad"):
                self.tensors.setdefault(id(a.data), a)

    def value_of(self, array: Any, prim: Any) -> Value:
        found = self.by_id.get(id(array))
        if found is not None:
            return found
        if isinstance(array, np.ndarray) and id(_owner(array)) in self.owners:
            raise CaptureError(
                f"jit: an input of {prim.name}, of shape {array.shape}, is a view that was taken of a captured value "
                "outside minidl's operations (through .data or NumPy); use Tensor operations inside a jitted step"
            )
        return self.new_value(array, "external")

    def run(self, prim: Any, arrays: Any, params: dict, compute: Callable[[], Any]) -> Any:
        """Called by ``Primitive.run`` instead of computing."""
        if threading.get_ident() != self.thread or self.depth:
            return compute()
        inputs = [self.value_of(a, prim) if _is_array(a) else a for a in arrays]
        self.depth += 1
        try:
            out = compute()
        finally:
            self.depth -= 1
        outs = out if isinstance(out, tuple) else (out,)
        # a scalar must become an array here, or its identity would be lost when the Tensor is made
        outs = tuple(np.asarray(o) if isinstance(o, (np.generic, int, float, bool)) else o for o in outs)
        for k, o in enumerate(outs):
            if id(o) in self.by_id or any(o is p for p in outs[:k]):
                # an output that is an input: give it an identity of its own
                outs = tuple(p.view() if j == k and isinstance(p, np.ndarray) else p for j, p in enumerate(outs))
        self.steps.append(Step(prim, inputs, dict(params), [self.new_value(o, "computed") for o in outs]))
        return outs if isinstance(out, tuple) else outs[0]

    def assign(self, tensor: Any, value: Any) -> None:
        """``tensor``'s memory takes over the values of ``value`` (an array or a Python number)."""
        from minidl import ops

        target = tensor.data
        if not _is_array(value):
            value = np.asarray(value, target.dtype)
        made = self.by_id.get(id(value)) or self.new_value(value, "external")
        if made.shape != tuple(target.shape):
            made = self._step(ops.broadcast_to, made, value, {"shape": tuple(target.shape)})
        if made.dtype != target.dtype:
            made = self._step(ops.astype, made, value, {"dtype": np.dtype(target.dtype)})
        self._update(target, made, lambda: tensor.data, tensor.assign_)
        self.by_id[id(target)] = made

    def replace(self, old: Any, new: Any, cell: Cell) -> None:
        """The place ``cell`` held the array ``old`` and now holds ``new``."""
        self._update(old, self.by_id.get(id(new)) or self.new_value(new, "external"), cell.get, cell.put)

    def _update(self, target: Any, made: Value, get: Callable[[], Any], put: Callable[[Any], None]) -> None:
        if id(target) in self.updated:
            external = self.updated[id(target)][0]
        else:
            external = self.by_id.get(id(target)) or self.new_value(target, "external")
        if external.kind == "external":
            external.cell = Cell(get, put)
            self.updated[id(target)] = (external, made)

    def _step(self, prim: Any, value: Value, array: Any, params: dict) -> Value:
        out = prim.reference(array, **params)
        v = self.new_value(out, "computed")
        self.steps.append(Step(prim, [value], params, [v]))
        return v

    def leak(self, what: str) -> None:
        """Called where a Tensor's values are about to reach Python."""
        if threading.get_ident() == self.thread and not self.depth:
            raise CaptureError(
                f"jit: {what} needs a value while the step is being captured, but a captured step cannot depend on "
                "values: return the tensor and look at it outside, or use ops.where instead of a branch"
            )


def _owner(array: np.ndarray) -> Any:
    while isinstance(array.base, np.ndarray):
        array = array.base
    return array


def _is_array(a: Any) -> bool:
    return hasattr(a, "dtype") and hasattr(a, "shape") and not isinstance(a, np.generic)


def capture(run: Callable[[], list], arguments: list) -> tuple[Program, list]:
    """Run ``run`` (which returns the Tensors of its result) on ``arguments`` (Tensors) and capture it.

    Returns the program and what ``run`` returned.
    """
    if state.tracer is not None:
        raise CaptureError("jit: a jitted function was called for the first time inside another one's capture")
    tracer = Tracer()
    for t in arguments:
        tracer.inputs.append(tracer.new_value(t.data, "input"))
    before = mode.observer, mode.trace_backward
    mode.observer, mode.trace_backward = tracer.observe, True
    state.tracer = tracer
    try:
        results = run()
    finally:
        state.tracer = None
        mode.observer, mode.trace_backward = before
    returned = []
    for t in results:
        v = tracer.by_id.get(id(t.data))
        returned.append(v if v is not None else tracer.new_value(t.data, "external"))
    for v in tracer.by_id.values():
        tensor = tracer.tensors.get(id(v.cell.get())) if v.kind == "external" else None
        if tensor is not None:
            v.cell = Cell(lambda tensor=tensor: tensor.data, tensor.assign_)
    return Program(tracer.inputs, tracer.steps, list(tracer.updated.values()), returned), results
