"""Running a step while noting every primitive that it calls.

All primitives, on arrays or on Tensors, go through :func:`minidl.core.dispatch.run`, which reports to the tracer set
here. The backward pass runs its rules on Tensors meanwhile, so that the operators in them are primitives, too. An array
is known by its identity. One that no noted primitive made is external: it is read again at each replay, from the array
itself, or from the Tensor that owned it. So that nothing is computed behind the tracer's back and taken for a constant,
inputs and results are :class:`TracedArray` meanwhile, which NumPy's functions may not touch.
"""

from __future__ import annotations

import functools
import threading
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np

from minidl.core.context import current, using
from minidl.core.errors import CaptureError
from minidl.core.registry import primitives
from minidl.core.trace import Cell, LiveFloat, LiveInt
from minidl.core.trace import Tracer as Passive
from minidl.jit.program import Program, Step, Value


class TracedArray(np.ndarray):
    """An array that only primitives may compute with, as long as a step is being captured."""

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **kwargs: Any) -> Any:
        _refuse(f"numpy.{ufunc.__name__}")
        return getattr(ufunc, method)(*map(plain, inputs), **kwargs)

    def __array_function__(self, function: Any, types: Any, args: Any, kwargs: Any) -> Any:
        _refuse(f"numpy.{function.__name__}")
        return super().__array_function__(function, types, args, kwargs)


def plain(x: Any) -> Any:
    """A TracedArray as an ordinary one, on the same memory; a live number as Python's, beside which arrays keep their
    dtype; anything else as it is."""
    if isinstance(x, LiveInt):
        return int(x)
    if isinstance(x, LiveFloat):
        return float(x)
    return x.view(np.ndarray) if type(x) is TracedArray else x


def _traced(array: Any) -> Any:
    return array.view(TracedArray) if isinstance(array, np.ndarray) else array


def _refuse(what: str) -> None:
    tracer = current().tracer
    if isinstance(tracer, Tracer) and tracer.outside_primitives():
        raise CaptureError(
            f"jit: {what} was called on the array of a tensor while the step is being captured; its result would be a "
            "constant of the captured program. Use the operations of minidl.ops inside a jitted step"
        )


class Tracer(Passive):
    """Collects a :class:`Program` from the calls that :func:`minidl.core.dispatch.run` reports."""

    def __init__(self) -> None:
        self.thread = threading.get_ident()
        self.steps: list[Step] = []
        self.inputs: list[Value] = []
        self.by_id: dict[int, Value] = {}
        self.owners: dict[int, weakref.ref] = {}
        self.kept: list[Any] = []  # keeps the ids of arrays from outside unique for as long as the tracer lives
        # computed arrays may die, so that a capture needs no more memory than a step does anyway
        self.watched: list[weakref.ref] = []
        self.tensors: dict[int, Any] = {}
        self.results: list[weakref.ref] = []
        self.cells: list[Cell] = []
        self.guards: list[tuple[Callable[[], Any], Any]] = []
        self.updated: dict[int, tuple[Value, Value]] = {}
        self.count = 0
        self.depth = 0

    def new_value(self, array: Any, kind: str) -> Value:
        v = Value(self.count, kind, tuple(array.shape), np.dtype(array.dtype))
        self.count += 1
        self.by_id[id(array)] = v
        if kind == "computed" and isinstance(array, np.ndarray):
            self.watched.append(weakref.ref(array, _forget(self.by_id, id(array))))
        else:
            self.kept.append(array)
        if kind == "external":
            v.cell = Cell(lambda: array, lambda new: np.copyto(array, new))
        elif isinstance(array, np.ndarray):
            owner = _owner(array)
            if id(owner) not in self.owners:
                self.owners[id(owner)] = weakref.ref(owner, _forget(self.owners, id(owner)))
        return v

    def outside_primitives(self) -> bool:
        """Is it the captured step's own Python that runs, rather than a primitive or another thread?"""
        return not self.depth and threading.get_ident() == self.thread

    def knows(self, array: Any) -> bool:
        """Is this very array a value of the program? Raises CaptureError for a copy or a view of one."""
        known = id(array) in self.by_id
        if type(array) is TracedArray and not known:
            self.value_of(array, "Tensor")
        return known

    def observe(self, prim: Any, args: tuple, params: dict, result: Any) -> None:
        self.results += [weakref.ref(t) for t in (result if isinstance(result, tuple) else (result,))]
        for a in args:
            if hasattr(a, "array") and hasattr(a, "requires_grad"):
                value = self.by_id.get(id(a.array))
                if value is None or value.kind == "external":
                    self.tensors.setdefault(id(a.array), a)

    def value_of(self, array: Any, prim: Any) -> Value:
        found = self.by_id.get(id(array))
        if found is not None:
            return found
        if type(array) is TracedArray or (isinstance(array, np.ndarray) and id(_owner(array)) in self.owners):
            raise CaptureError(
                f"jit: an input of {getattr(prim, 'name', prim)}, of shape {array.shape}, was taken from a captured "
                "value outside minidl's operations (through .array or NumPy); use operations on Tensors inside a step"
            )
        return self.new_value(array, "external")

    def run(self, prim: Any, arrays: Any, params: dict, compute: Callable[[Any, Any, dict], Any]) -> Any:
        if not self.outside_primitives():
            return compute(prim, arrays, params)
        inputs = [self.value_of(a, prim) if _is_array(a) else a for a in arrays]
        self.depth += 1
        try:
            out = compute(prim, [plain(a) for a in arrays], {k: plain(p) for k, p in params.items()})
        finally:
            self.depth -= 1
        outs = out if isinstance(out, tuple) else (out,)
        # a scalar must become an array here, or its identity would be lost when the Tensor is made
        outs = tuple(np.asarray(o) if isinstance(o, (np.generic, int, float, bool)) else o for o in outs)
        # a new object each, also for an output that is an input (of a type that is no NumPy array: by indexing it)
        outs = tuple(_traced(o) if isinstance(o, np.ndarray) or id(o) not in self.by_id else o[...] for o in outs)
        self.steps.append(Step(prim, inputs, dict(params), [self.new_value(o, "computed") for o in outs]))
        return outs if isinstance(out, tuple) else outs[0]

    def assigning(self, tensor: Any, value: Any) -> None:
        target = tensor.array
        if not _is_array(value):
            value = np.asarray(value, target.dtype)
        made = self.by_id.get(id(value)) or self.new_value(value, "external")
        if made.shape != tuple(target.shape):
            made = self._step(primitives["broadcast_to"], made, value, {"shape": tuple(target.shape)})
        if made.dtype != target.dtype:
            made = self._step(primitives["astype"], made, value, {"dtype": np.dtype(target.dtype)})
        self._update(target, made, Cell(lambda: tensor.array, tensor.assign_))
        self.by_id[id(target)] = made

    def replaced(self, old: Any, new: Any, cell: Cell) -> None:
        self._update(old, self.by_id.get(id(new)) or self.new_value(new, "external"), cell)
        self.cells.append(cell)

    def _update(self, target: Any, made: Value, cell: Cell) -> None:
        if id(target) in self.updated:
            external = self.updated[id(target)][0]
        else:
            external = self.by_id.get(id(target)) or self.new_value(target, "external")
        if external.kind == "external":
            external.cell = cell
            self.updated[id(target)] = (external, made)

    def _step(self, prim: Any, value: Value, array: Any, params: dict) -> Value:
        out = _traced(prim.reference(plain(array), **params))
        v = self.new_value(out, "computed")
        self.steps.append(Step(prim, [value], params, [v]))
        return v

    def release(self) -> None:
        """Give whatever outlives the capture ordinary arrays."""
        for reference in self.results:
            t = reference()
            if t is not None:
                t.array = plain(t.array)
        for cell in self.cells:
            if type(cell.get()) is TracedArray:
                cell.put(plain(cell.get()))

    def guard(self, read: Callable[[], Any]) -> None:
        self.guards.append((read, read()))

    def live(self, read: Callable[[], Any]) -> Any:
        value = read()
        number = (LiveInt if isinstance(value, int) else LiveFloat)(value)
        number.read = read
        return number

    def leaving(self, what: str) -> None:
        if self.outside_primitives():
            raise CaptureError(
                f"jit: {what} needs a value while the step is being captured, but a captured step cannot depend on "
                "values: return the tensor and look at it outside, or use ops.where instead of a branch"
            )


def _forget(known: dict[int, Any], key: int) -> Callable[[Any], Any]:
    """Called when the object with this id has died, before another can get the id."""
    return lambda reference: known.pop(key, None)


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
    if current().tracer is not None:
        raise CaptureError("jit: a jitted function was called for the first time inside another one's capture")
    tracer = Tracer()
    originals = [t.array for t in arguments]
    for t in arguments:
        t.array = _traced(t.array)
        tracer.inputs.append(tracer.new_value(t.array, "input"))
    try:
        with using(tracer=tracer, observer=tracer.observe, trace_backward=True):
            results = run()
        returned = [tracer.by_id.get(id(t.array)) or tracer.new_value(t.array, "external") for t in results]
    finally:
        for t, array in zip(arguments, originals):
            t.array = array
        tracer.release()
    for v in tracer.by_id.values():
        tensor = tracer.tensors.get(id(v.cell.get())) if v.kind == "external" else None
        if tensor is not None:
            v.cell = Cell(functools.partial(getattr, tensor, "array"), tensor.assign_)
    program = Program(tracer.inputs, tracer.steps, list(tracer.updated.values()), returned, tracer.guards)
    return program, results
