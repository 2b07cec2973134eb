"""The decorator and its cache of programs."""

from __future__ import annotations

import collections
import functools
import threading
from collections.abc import Callable
from typing import Any

import numpy as np

from minidl.core.context import Context, current
from minidl.core.dtypes import default_dtype
from minidl.core.errors import CaptureError
from minidl.core.registry import get_backend
from minidl.core.tensor import Tensor, as_tensor
from minidl.core.tree import flatten, unflatten
from minidl.jit.capture import Captured, capture, owner
from minidl.jit.compare import compare
from minidl.jit.guards import World
from minidl.jit.interpreter import Interpreter
from minidl.jit.passes import simplify
from minidl.jit.program import Program

#: programs kept for one set of shapes, where modes or constants change between calls
VARIANTS = 8
#: sets of shapes of one function that are kept, those that were used last
SHAPES = 64


class Entry:
    """A captured program, compiled, with what must be as it was for it to be right."""

    def __init__(self, captured: Captured, world: World, structure: Any, run: Callable[[list], list]) -> None:
        self.captured, self.world, self.structure, self.run = captured, world, structure, run
        self.program = captured.program
        self.results = len(self.program.results) - len(captured.arguments) - len(captured.grads)
        self.cells = [(v, v.cell) for v in self.program.externals]
        self.arrays = [cell.get() for _, cell in self.cells]
        self._note_owners()
        self.lock = threading.Lock()

    def _note_owners(self) -> None:
        """Which memory from outside the program changes."""
        changed = {v.number for v, _ in self.program.updates}
        self.owners = {
            id(owner(a)) for (v, _), a in zip(self.cells, self.arrays) if v.number in changed and type(a) is np.ndarray
        }

    def holds(self) -> bool:
        """Is everything that the capture read as it was?"""
        captured = self.captured
        for tensor, requires_grad, hooks in captured.watched:
            if tensor.requires_grad is not requires_grad or tuple((tensor._hooks or {}).values()) != hooks:
                return False
        for tensor in captured.without:
            if tensor._grad is not None:
                return False
        for tensor, _ in captured.having:
            if tensor._grad is None:
                return False
        arrays, moved = self.arrays, False
        for i, (v, cell) in enumerate(self.cells):
            array = cell.get()
            if array is not arrays[i]:
                if tuple(array.shape) != v.shape or array.dtype != v.dtype:
                    return False
                if getattr(array, "strides", None) != getattr(arrays[i], "strides", None):
                    return False
                arrays[i], moved = array, True
        if moved:
            self._note_owners()
        return self.world.holds() and self.program.holds()

    def overlaps(self, tensors: list[Tensor]) -> bool:
        """Does memory that the program changes show in another of its arrays, in a way that it was not made for?"""
        changing = self.captured.arguments
        if not self.owners and not changing:
            return False
        for t in tensors:
            if type(t.array) is np.ndarray and id(owner(t.array)) in self.owners:
                return True
        arrays = [t.array for t in tensors]
        others = [*arrays, *self.arrays] if changing else []
        return any(
            a is not b and isinstance(b, np.ndarray) and owner(a) is owner(b) and np.may_share_memory(a, b)
            for a in (arrays[i] for i in changing)
            for b in others
            if isinstance(a, np.ndarray)
        )

    def __call__(self, tensors: list[Tensor]) -> Any:
        captured = self.captured
        with self.lock:
            for number in captured.lives:
                number.now = number.source()
            outs = self.run([t.array for t in tensors])
            results = [Tensor._from_node(o, None) for o in outs[: self.results]]
            if len(outs) > self.results:
                changed = outs[self.results :]
                for i, array in zip(captured.arguments, changed):
                    tensors[i].assign_(array)
                for place, array in zip(captured.grads, changed[len(captured.arguments) :]):
                    _at(place, tensors)._grad = Tensor._from_node(array, None)
            for place in captured.cleared:
                _at(place, tensors)._grad = None
        return unflatten(self.structure, iter(results))


def _at(place: Any, tensors: list[Tensor]) -> Tensor:
    """A tensor from outside the step, or one of its arguments by number."""
    return tensors[place] if isinstance(place, int) else place


class JitFunction:
    """A step with its captured programs, one per shapes and dtypes of the arguments and per state of the world.

    ``programs`` lists the captured :class:`~minidl.jit.program.Program` objects; print one to see it.
    """

    __name__: str  # the step's

    def __init__(self, function: Callable[..., Any], check: bool = False, also: tuple = ()) -> None:
        functools.update_wrapper(self, function)
        self.__name__ = getattr(function, "__name__", type(function).__name__)
        self.function, self.check, self.also = function, check, also
        self._cache: collections.OrderedDict[Any, list[Entry]] = collections.OrderedDict()
        self._lock = threading.RLock()

    @property
    def entries(self) -> list[Entry]:
        """The captured programs, compiled."""
        return [entry for entries in self._cache.values() for entry in entries]

    @property
    def programs(self) -> list[Program]:
        return [entry.program for entry in self.entries]

    def clear(self) -> None:
        """Forget all programs."""
        self._cache.clear()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        here = current()
        if here.tracer is not None:  # inside another step: part of that
            return self.function(*args, **kwargs)
        leaves: list[Any] = []
        structure = flatten((args, kwargs), leaves, f"jit: an argument of {self.__name__}", _lives_on)
        tensors, places = _distinct(leaves)
        backend = get_backend()
        key = (
            structure, places, tuple([_kind(t) for t in tensors]), _aliases(tensors), _context(here), backend.name,
            backend.compiled_for(),
        )  # fmt: skip
        tensors += [t._grad for t in tensors if t._grad is not None and t.requires_grad]
        try:
            entries = self._cache.get(key, ())
        except TypeError:
            raise TypeError(
                f"jit: the arguments of {self.__name__} that are no tensors must be hashable, they are part of what is "
                "captured"
            ) from None
        for entry in entries:
            if entry.holds() and not entry.overlaps(tensors):
                if self.check:
                    return compare(self.__name__, entry, tensors, lambda: self.function(*args, **kwargs))
                return entry(tensors)
        return self._capture(key, structure, places, tensors, backend)

    def _capture(self, key: Any, structure: Any, places: tuple, tensors: list[Tensor], backend: Any) -> Any:
        found: dict[str, Any] = {}
        own = [_twin(t) for t in tensors]
        for t, mine in zip(tensors, own):
            if t._grad is not None and t.requires_grad:
                mine._grad = own[next(i for i, g in enumerate(tensors) if g is t._grad)]

        def run() -> list[Tensor]:
            args, kwargs = unflatten(structure, iter([own[i] for i in places]))
            results: list[Any] = []
            value = self.function(*args, **kwargs)
            found["structure"] = flatten(value, results, f"jit: a result of {self.__name__}", _lives_on)
            return [t if isinstance(t, Tensor) else as_tensor(t) for t in results]

        with self._lock:
            world = World(self.function, *self.also)
            captured, results = capture(run, own, tensors)
            world.settle(captured.modules, captured.borrowed)
            captured.program = simplify(captured.program)
            compiled = backend.compile(captured.program) or Interpreter(captured.program)
            entry = Entry(captured, world, found["structure"], compiled)
            if not entry.overlaps(tensors):
                self._cache[key] = [entry, *self._cache.get(key, ())][:VARIANTS]
                self._cache.move_to_end(key)
                while len(self._cache) > SHAPES:
                    self._cache.popitem(last=False)
        for place in captured.grads:
            if isinstance(place, int):
                tensors[place]._grad = own[place]._grad
        for place in captured.cleared:
            _at(place, tensors)._grad = None
        return unflatten(found["structure"], iter([Tensor._from_node(a, None) for a in results]))


def _lives_on(x: Any) -> bool:
    """Is ``x`` told from others by its identity? A layer is, and so are minidl's other objects."""
    return hasattr(x, "_is_module") or type(x).__module__.split(".")[0] == "minidl"


def _distinct(leaves: list) -> tuple[list[Tensor], tuple[int, ...]]:
    """The tensors among ``leaves``, each once, and for each leaf the number of its tensor."""
    number: dict[int, int] = {}
    tensors: list[Tensor] = []
    places = []
    for leaf in leaves:
        at = number.get(id(leaf))
        if at is None:
            at = number[id(leaf)] = len(tensors)
            tensors.append(leaf if isinstance(leaf, Tensor) else as_tensor(leaf))
        places.append(at)
    return tensors, tuple(places)


def _kind(t: Tensor) -> tuple:
    """What a program depends on of a tensor that it is given, besides its values."""
    array = t.array
    # whether reshape() gives a view or a copy depends on the layout, and so does who sees a change in place
    layout = array.strides if isinstance(array, np.ndarray) and not array.flags.c_contiguous else None
    if not t.requires_grad:
        return array.shape, array.dtype.str, layout
    if t._hooks:
        raise CaptureError("jit: an argument has hooks; register them on a tensor inside the step")
    return array.shape, array.dtype.str, layout, t._node is None, t._grad is not None and t._grad.dtype.str


def _aliases(tensors: list[Tensor]) -> tuple | None:
    """Which of several tensors are on the very same array, if any are."""
    ids = [id(t.array) for t in tensors]
    return None if len(set(ids)) == len(ids) else tuple([ids.index(i) for i in ids])


def _context(here: Context) -> tuple:
    """The choices that what is captured depends on."""
    return here.recording, here.strict, here.anomaly, here.generator, default_dtype()


def _twin(t: Tensor) -> Tensor:
    """A tensor on the same memory for the step to use, so that what it does to ``t`` is told from what it does to the
    same tensor reached in another way."""
    twin = Tensor._from_node(t.array, None)
    twin.requires_grad = t.requires_grad
    return twin


def jit(function: Callable[..., Any], *, check: bool = False, also: tuple = ()) -> JitFunction:
    """Capture ``function``, a whole training step or any function of tensors, at its first call and replay it after.

    The step may use models, losses, ``backward()`` and optimizers as usual::

        @minidl.jit
        def step(x, y):
            optimizer.zero_grad()
            loss = criterion(model(x), y)
            loss.backward()
            optimizer.step()
            return loss

    A program is captured per structure, shapes and dtypes of the tensors among the arguments, and per value of the
    others. It is replayed only while everything that the step read is as it was: modes and attributes of layers, their
    parameters, submodules and hooks, ``requires_grad``, the options and members of parameter groups, globals and
    closure variables. Where something has changed, the step is captured anew. Learning rates, step counts and random
    numbers stay live.

    What is captured is what *ran*: Python side effects (prints, appends) happen at capture only, and a branch is taken
    for good. Changes of tensors in place, of arguments too, and gradients are effects of every call. Gradients that an
    optimizer used inside the step are gone after it (``.grad`` is None): return one to see it. Results come without a
    graph.

    Parameters
    ----------
    check:
        run the step both ways at every replay and compare: slow, to find a fault of the compiler.
    also:
        functions and objects that the step reaches in a way that its code does not show.

    Raises
    ------
    CaptureError
        where a replay could not do what the step does: it asks for a value (``item()``, ``bool()``, ``numpy()``),
        computes with NumPy, has a result whose shape depends on values, assigns an attribute of a layer, steps a
        scheduler, draws from NumPy's or Python's random numbers.
    TypeError
        for an argument or result that is no known structure; see :func:`minidl.jit.register_pytree`.
    MismatchError
        with ``check``, where a replay differs from the step.
    """
    return JitFunction(function, check, also)
