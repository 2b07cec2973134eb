"""Running a step while noting every primitive that it calls.

All primitives, on arrays or on Tensors, go through :func:`minidl.core.dispatch.run`, which reports to the tracer set
here. The backward pass runs its rules on Tensors meanwhile, so that the operators in them are primitives, too. An array
is known by its identity. One that no noted primitive made is external: it is read again at each replay, from the array
itself, or from the Tensor that owned it. So that nothing is computed behind the tracer's back and taken for a constant,
inputs and results are :class:`TracedArray` meanwhile, which NumPy's functions may not touch.
"""

from __future__ import annotations

import dataclasses
import functools
import threading
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np

from minidl.core.context import current, using
from minidl.core.errors import CaptureError
from minidl.core.registry import primitives
from minidl.core.tensor import Tensor
from minidl.core.trace import Cell, LiveFloat, LiveInt
from minidl.core.trace import Tracer as Passive
from minidl.jit.program import Program, Step, Value
from minidl.ops.indexing import Slot


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
        self.outside: set[int] = set()  # what owns the memory of external arrays
        self.kept: list[Any] = []  # keeps the ids of arrays from outside unique for as long as the tracer lives
        # computed arrays may die, so that a capture needs no more memory than a step does anyway
        self.watched: list[weakref.ref] = []
        self.tensors: dict[int, Any] = {}
        self.results: list[weakref.ref] = []
        self.cells: list[Cell] = []
        self.lives: list[Any] = []
        self.guards: list[tuple[Callable[[], Any], Any]] = []
        #: external values by number, each with the value that its array holds after the step; and the external values
        #: whose arrays (by id) have been changed
        self.updated: dict[int, tuple[Value, Value]] = {}
        self.homes: dict[int, Value] = {}
        #: arrays made from plain numbers by the step itself (by id), and arrays that it made tensors of
        self.fresh: set[int] = set()
        self.borrowed: dict[int, Any] = {}
        #: arrays whose memory has changed
        self.changed: set[int] = set()
        self.externals: dict[int, Value] = {}
        #: those of them of which it is settled where they are found
        self.placed: set[int] = set()
        #: layers that were called, and tensors whose .grad was looked at or replaced
        self.modules: dict[int, Any] = {}
        self.grads: dict[int, Grad] = {}
        #: arrays in NumPy's memory by the id of what owns it: those that may show each other's values
        self.sharing: dict[int, dict[int, weakref.ref]] = {}
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
            self.externals[id(array)] = v
            if isinstance(array, np.ndarray):
                self.outside.add(id(owner(array)))
        elif kind == "computed" and isinstance(array, np.ndarray):
            whole = owner(array)
            if id(whole) not in self.owners and id(whole) not in self.outside:
                self.owners[id(whole)] = weakref.ref(whole, _forget(self.owners, id(whole)))
        if isinstance(array, np.ndarray):
            others = self.sharing.setdefault(id(owner(array)), {})
            if kind == "external" and id(array) not in self.fresh:
                self._refuse_overlap(array, [a for r in others.values() if (a := r()) is not None])
            others[id(array)] = weakref.ref(array, _forget(others, id(array)))
        return v

    def _refuse_overlap(self, array: Any, others: list) -> None:
        """Memory from outside that the step has changed through another tensor is not read again at its new values."""
        for other in others:
            if other is array or id(other) not in self.changed:
                continue
            if np.may_share_memory(plain(other), plain(array)):
                raise CaptureError(
                    f"jit: two tensors from outside the step share memory, and the step changes one of them, of shape "
                    f"{other.shape}, before it reads the other, of shape {array.shape}; take the view inside the step"
                )

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
        if type(array) is TracedArray or (isinstance(array, np.ndarray) and id(owner(array)) in self.owners):
            raise CaptureError(
                f"jit: an input of {getattr(prim, 'name', prim)}, of shape {array.shape}, was taken from a captured "
                "value outside minidl's operations (through .array or NumPy); use operations on Tensors inside a step"
            )
        return self.new_value(array, "external")

    def run(self, prim: Any, arrays: Any, params: dict, compute: Callable[[Any, Any, dict], Any]) -> Any:
        if not self.outside_primitives():
            return compute(prim, arrays, params)
        if prim.dynamic and (prim.dynamic is True or prim.dynamic(arrays, params)):
            raise CaptureError(
                f"jit: the shape of what {prim.name} returns depends on values (of a boolean mask, say), and a "
                "captured step has fixed shapes: use ops.where or multiply by the mask, or do it outside of the step"
            )
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
            self.fresh.add(id(value))
        made = self.value_of(value, "an assignment")
        if made.shape != tuple(target.shape):
            made = self._emit("broadcast_to", [made], {"shape": tuple(target.shape)}, target.shape, made.dtype)
        if made.dtype != target.dtype:
            made = self._emit("astype", [made], {"dtype": np.dtype(target.dtype)}, target.shape, target.dtype)
        self._change(target, made, Cell(lambda: tensor.array, tensor.assign_, tensor._renew))

    def assigned(self, tensor: Any, old: Any) -> None:
        if tensor.array is not old and id(old) in self.by_id:
            self.by_id[id(tensor.array)] = self.by_id[id(old)]
            self.kept.append(tensor.array)
            if id(old) in self.homes:
                self.homes[id(tensor.array)] = self.homes[id(old)]

    def replaced(self, old: Any, new: Any, cell: Cell) -> None:
        self._update(old, self.by_id.get(id(new)) or self.new_value(new, "external"), cell)
        self.cells.append(cell)

    def _change(self, target: Any, made: Value, cell: Cell) -> None:
        """The memory of ``target`` is about to hold the values of ``made``: so will whatever shows the same memory."""
        before = self.by_id.get(id(target))
        if before is None:
            before = self.new_value(target, "external")
        if id(target) in self.fresh and before.kind == "external":
            # each run begins with the numbers that the step made it from
            values = np.array(plain(target))
            before.cell = Cell(lambda: values, _no_place)
            self.placed.add(id(target))
        else:
            self._update(target, made, cell)
        self.by_id[id(target)] = made
        self.changed.add(id(target))
        if isinstance(target, np.ndarray):
            shown = [a for r in self.sharing.get(id(owner(target)), {}).values() if (a := r()) is not None]
            for other in shown:
                if other is not target and self.by_id.get(id(other)) not in (None, made):
                    self._show(other, target, made)

    def _show(self, other: Any, target: Any, made: Value) -> None:
        """``other`` is an array on some of the memory of ``target``, which now holds ``made``."""
        old, other_, target_ = self.by_id[id(other)], plain(other), plain(target)
        if not np.may_share_memory(other_, target_):
            return
        if other.dtype != target.dtype:
            raise CaptureError(
                f"jit: memory that is seen as {other.dtype} and as {target.dtype} is changed in place; clone() first"
            )
        mine, theirs = _addresses(other_), _addresses(target_)
        order = np.argsort(theirs, kind="stable")
        at = np.searchsorted(theirs[order], mine).clip(max=max(len(theirs) - 1, 0))
        common = theirs[order][at] == mine if target.size else np.zeros(other.size, bool)
        if not common.any():
            return
        source, places = order[at[common]], np.flatnonzero(common)
        new = self._emit("reshape", [made], {"shape": (-1,)}, (target.size,), made.dtype)
        if len(source) != target.size or (source != np.arange(target.size)).any():
            index = self._constant(source)
            new = self._emit("take", [new, index], {"axis": 0}, source.shape, made.dtype)
        if len(places) != other.size:
            flat = self._emit("reshape", [old], {"shape": (-1,)}, (other.size,), old.dtype)
            index = self._constant(places)
            new = self._emit("setitem", [flat, new, index], {"index": (Slot(0),)}, (other.size,), old.dtype)
        new = self._emit("reshape", [new], {"shape": tuple(other.shape)}, tuple(other.shape), old.dtype)
        if (old.kind == "external" or id(other) in self.homes) and id(other) not in self.fresh:
            self._update(other, new, Cell(lambda: other, lambda array: np.copyto(other, array)))
        self.by_id[id(other)] = new
        self.changed.add(id(other))

    def _update(self, target: Any, made: Value, cell: Cell) -> None:
        external = self.homes.get(id(target)) or self.by_id.get(id(target)) or self.new_value(target, "external")
        if external.kind == "external":
            external.cell = cell
            self.homes[id(target)] = external
            self.updated[external.number] = (external, made)

    def _emit(self, name: str, inputs: list, params: dict, shape: Any, dtype: Any) -> Value:
        """A step that the capture adds itself."""
        v = Value(self.count, "computed", tuple(shape), np.dtype(dtype))
        self.count += 1
        self.steps.append(Step(primitives[name], inputs, params, [v]))
        return v

    def _constant(self, array: np.ndarray) -> Value:
        v = Value(self.count, "external", array.shape, array.dtype, Cell(lambda: array, _no_place))
        self.count += 1
        return v

    # What is told besides

    def made(self, array: Any) -> None:
        self.fresh.add(id(array))
        self.kept.append(array)

    def wrapped(self, array: Any) -> None:
        if id(array) not in self.by_id and id(array) not in self.fresh:
            self.borrowed.setdefault(id(array), array)

    def touch(self, module: Any) -> None:
        self.modules[id(module)] = module

    def refuse(self, what: str, instead: str) -> None:
        if self.outside_primitives():
            raise CaptureError(f"jit: {what} inside a captured step would be done at its first call only: {instead}")

    def grad(self, tensor: Any, writing: bool) -> None:
        known = self.grads.get(id(tensor))
        if known is None:
            known = self.grads[id(tensor)] = Grad(weakref.ref(tensor, _forget(self.grads, id(tensor))), tensor._grad)
            known.replaced = writing
            if not writing and tensor._grad is not None and id(tensor._grad.array) not in self.by_id:
                value = self.new_value(tensor._grad.array, "external")
                self.placed.add(id(tensor._grad.array))
                value.cell = Cell(
                    lambda: None if tensor._grad is None else tensor._grad.array,
                    lambda array: tensor._grad.assign_(array),
                )
        if writing:
            known.spent = False

    def spent(self, tensor: Any) -> None:
        self.grads[id(tensor)].spent = True

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

    def live(self, read: Callable[[], Any], state: tuple | None = None) -> Any:
        value = read()
        number = (LiveInt if isinstance(value, int) else LiveFloat)(value)
        number.source, number.now, number.state = read, value, state
        self.lives.append(number)
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


def owner(array: np.ndarray) -> Any:
    while isinstance(array.base, np.ndarray):
        array = array.base
    return array


def _is_array(a: Any) -> bool:
    return hasattr(a, "dtype") and hasattr(a, "shape") and not isinstance(a, np.generic)


def _no_place(array: Any) -> None:
    """Nobody sees what becomes of an array that the step made."""


def _addresses(a: np.ndarray) -> np.ndarray:
    """The address of every element, in C order."""
    found = np.full(a.shape, a.__array_interface__["data"][0], np.int64)
    for axis, (n, step) in enumerate(zip(a.shape, a.strides)):
        found += (np.arange(n) * step).reshape(-1, *(1,) * (a.ndim - axis - 1))
    return found.reshape(-1)


@dataclasses.dataclass
class Grad:
    """What a step does with the gradient of a tensor: ``start`` is what it was, ``replaced`` says that the step put
    something else there before it looked, ``spent`` that an optimizer has used what the step left."""

    tensor: weakref.ref
    start: Any
    replaced: bool = False
    spent: bool = False


@dataclasses.dataclass
class Captured:
    """What is known of a step after it ran once.

    ``program`` returns the step's results and then the new values for ``arguments`` (numbers of leaves), which the step
    changes in place, and for the gradients of ``grads`` (tensors, or numbers of leaves). It removes the gradients of
    ``cleared``. It holds only where the gradients of ``without`` are None, and those of ``having`` are not.
    """

    program: Program
    arguments: list[int]
    grads: list[Any]
    cleared: list[Any]
    without: list[Any]
    having: list[tuple[Any, Any]]
    watched: list[tuple[Any, bool, tuple]]
    modules: dict[int, Any]
    borrowed: list[Any]
    lives: list[Any]


def capture(run: Callable[[], list], arguments: list, leaves: list) -> tuple[Captured, list]:
    """Run ``run`` (which returns the Tensors of its result) and capture it. Returns that, and the results' arrays.

    ``arguments`` are the Tensors that ``run`` will use, of this step alone, on the memory of the Tensors ``leaves``;
    the last few may be gradients of the others.
    """
    tracer = Tracer()
    for t in arguments:
        # a new object, as the same array may be reached in another way
        t.array = _traced(t.array) if isinstance(t.array, np.ndarray) else t.array.copy()
        tracer.inputs.append(tracer.new_value(t.array, "input"))
    own = [t.array for t in arguments]
    try:
        with using(tracer=tracer, observer=tracer.observe, trace_backward=True):
            results = run()
            returned = [tracer.value_of(t.array, "the result") for t in results]
        changed = [
            i for i, (t, a) in enumerate(zip(arguments, own))
            if tracer.by_id.get(id(t.array)) is not tracer.inputs[i] or t.array is not a
        ]  # fmt: skip
        returned += [tracer.value_of(arguments[i].array, "an argument") for i in changed]
        found = _gradients(tracer, arguments, leaves)
        returned += [tracer.value_of(g.array, "a gradient") for g in found.pop("values")]
    finally:
        tracer.release()
        for t in arguments:
            t.array = plain(t.array)
    for i in changed:
        if leaves[i].array is not arguments[i].array and not isinstance(leaves[i].array, np.ndarray):
            leaves[i].array = arguments[i].array
        leaves[i]._bump()
    watched = []
    for i, tensor in tracer.tensors.items():
        v = tracer.externals.get(i)
        if v is not None and i not in tracer.placed:
            v.cell = Cell(functools.partial(getattr, tensor, "array"), tensor.assign_, tensor._renew)
            watched.append((tensor, tensor.requires_grad, tuple((tensor._hooks or {}).values())))
    program = Program(tracer.inputs, tracer.steps, list(tracer.updated.values()), returned, tracer.guards)
    borrowed = [a for i, a in tracer.borrowed.items() if i in tracer.homes]
    captured = Captured(
        program,
        changed,
        watched=watched,
        modules=tracer.modules,
        borrowed=borrowed,
        lives=tracer.lives,
        **found,
    )
    return captured, [plain(t.array).copy() for t in results]


def _gradients(tracer: Tracer, arguments: list, leaves: list) -> dict[str, list]:
    """What becomes of the gradients that the step looked at or replaced, in the words of :class:`Captured`."""
    number = {id(t): i for i, t in enumerate(arguments)}
    found: dict[str, list] = {"values": [], "grads": [], "cleared": [], "without": [], "having": []}
    for known in list(tracer.grads.values()):
        tensor = known.tensor()
        if tensor is None:
            continue
        place = number.get(id(tensor), tensor)
        if isinstance(place, int) and leaves[place]._node is not None:
            raise CaptureError(
                f"jit: the step computes a gradient of its argument {place}, of shape {tensor.shape}, which an "
                "operation outside made; its graph ends at the step. Pass detach() of it, or call backward() outside"
            )
        if not known.replaced and isinstance(place, Tensor):
            if known.start is None:
                found["without"].append(tensor)
            else:
                found["having"].append((tensor, known.start))
        now = tensor._grad
        if now is known.start and not known.replaced:
            continue
        if now is None or (known.replaced and known.spent):
            tensor._grad = None
            found["cleared"].append(place)
        else:
            found["grads"].append(place)
            found["values"].append(now)
            if isinstance(now.array, np.ndarray):
                tracer.results.append(weakref.ref(now))
    return found
