"""How ``minidl.jit`` watches a step: a few hooks, which do nothing while no step is being captured.

Everything below the compiler that a captured program has to know of is told to the context's :class:`Tracer` through
the functions of this file: values that reach Python (:func:`leaving`), memory that takes over values
(:func:`assigning`, :func:`replaced`), numbers that change from run to run (:func:`live`), and settings that the program
holds for (:func:`guard`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from minidl.core.context import current


class Tracer:
    """What is told of a step while it runs. This one only passes everything on."""

    def run(self, prim: Any, arrays: Any, params: dict, compute: Callable[[Any, Any, dict], Any]) -> Any:
        """Called in place of ``compute(prim, arrays, params)``."""
        return compute(prim, arrays, params)

    def leaving(self, what: str) -> None:
        """A tensor's values are about to reach Python."""

    def knows(self, array: Any) -> bool:
        """Must a new tensor hold this very array, rather than a copy?"""
        return False

    def assigning(self, tensor: Any, value: Any) -> None:
        """``tensor``'s memory takes over the values of ``value`` (an array or a Python number)."""

    def replaced(self, old: Any, new: Any, cell: Cell) -> None:
        """The place ``cell`` held the array ``old`` and now holds ``new``."""

    def guard(self, read: Callable[[], Any]) -> None:
        """The step holds only as long as ``read()`` gives what it gives now."""

    def touch(self, module: Any) -> None:
        """A layer is being called."""

    def made(self, array: Any) -> None:
        """``array`` was just made from numbers that are no tensor's: each run of the step makes another one."""

    def wrapped(self, array: Any) -> None:
        """A tensor is being made on the memory of ``array``, which may be older than the step."""

    def assigned(self, tensor: Any, old: Any) -> None:
        """What :meth:`assigning` announced has happened; ``old`` was the tensor's array."""

    def grad(self, tensor: Any, writing: bool) -> None:
        """``tensor.grad`` is about to be read, or to be replaced."""

    def spent(self, tensor: Any) -> None:
        """An optimizer has used ``tensor.grad``."""

    def refuse(self, what: str, instead: str) -> None:
        """``what`` has an effect that replays would not have."""

    def live(self, read: Callable[[], Any], state: tuple | None = None) -> Any:
        """``read()``, as a number that replays ask for again."""
        return read()


class World:
    """Counts the changes of modules and their hooks, so that a captured program knows when to look at them again."""

    version = 0


world = World()


class Live:
    """A Python number that must be asked for again at each replay: a learning rate, a step count, a random offset.

    All of a program's are asked for by their ``source`` at the beginning of a replay, in the order of the step, also
    those that nothing uses: a generator goes on. ``read()`` is then what it said.
    """

    source: Callable[[], Any]
    now: Any
    #: where ``read`` has an effect: (what it changes, as it is now; how to put that back)
    state: tuple[Callable[[], Any], Callable[[Any], None]] | None = None

    def read(self) -> Any:
        """The number of this replay."""
        return self.now

    def __repr__(self) -> str:
        return f"<live {super().__repr__()}>"


class LiveFloat(Live, float):
    """A float that is read anew at each replay."""


class LiveInt(Live, int):
    """An int that is read anew at each replay."""


class Cell:
    """A place that holds an array: how a captured step finds the array again, and puts new values there: ``put``
    copies them, ``hold`` keeps the very array, which is nobody else's."""

    def __init__(
        self, get: Callable[[], Any], put: Callable[[Any], Any], hold: Callable[[Any], None] | None = None
    ) -> None:
        self.get, self.put, self.hold = get, put, hold or put


def capturing() -> bool:
    """Is a step being captured?"""
    return current().tracer is not None


def live(read: Callable[[], Any], state: tuple[Callable[[], Any], Callable[[Any], None]] | None = None) -> Any:
    """``read()``; replays of a captured step call ``read`` again, once each, so it may advance a counter: ``state`` is
    then (get the counter, put it back)."""
    tracer = current().tracer
    return read() if tracer is None else tracer.live(read, state)


def touch(module: Any) -> None:
    """A layer is being called: its attributes, and those of the layers below it, are part of what a step reads."""
    tracer = current().tracer
    if tracer is not None:
        tracer.touch(module)


def made(array: Any) -> Any:
    """``array``, which was just made from numbers that are no tensor's: each run of a step makes another one."""
    tracer = current().tracer
    if tracer is not None:
        tracer.made(array)
    return array


def spent(tensor: Any) -> None:
    """An optimizer has used ``tensor.grad``."""
    tracer = current().tracer
    if tracer is not None:
        tracer.spent(tensor)


def refuse(what: str, instead: str) -> None:
    """``what`` has an effect that replays of a captured step would not have: raise CaptureError in a step."""
    tracer = current().tracer
    if tracer is not None:
        tracer.refuse(what, instead)


def guard(read: Callable[[], Any]) -> None:
    """A step that is being captured holds only as long as ``read()`` gives what it gives now: a mode, a constant of an
    update rule. Where it gives something else, the step is captured anew."""
    tracer = current().tracer
    if tracer is not None:
        tracer.guard(read)


def leaving(what: str) -> None:
    """A tensor's values are about to reach Python, by ``what``; no captured step may depend on them."""
    tracer = current().tracer
    if tracer is not None:
        tracer.leaving(what)


def assigning(tensor: Any, value: Any) -> None:
    """``tensor``'s memory is about to take over the values of ``value`` (an array or a Python number)."""
    tracer = current().tracer
    if tracer is not None:
        tracer.assigning(tensor, value)


def assigned(tensor: Any, old: Any) -> None:
    """What was announced to :func:`assigning` has happened; ``old`` was the tensor's array before."""
    tracer = current().tracer
    if tracer is not None:
        tracer.assigned(tensor, old)


def replaced(old: Any, new: Any, get: Callable[[], Any], put: Callable[[Any], None]) -> None:
    """The place described by ``get`` and ``put`` held the array ``old`` and now holds ``new``."""
    tracer = current().tracer
    if tracer is not None:
        tracer.replaced(old, new, Cell(get, put))
