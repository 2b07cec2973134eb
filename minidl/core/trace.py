"""What changes from run to run of a captured step: numbers to ask for again, and arrays kept in other places.

Outside a capture (:mod:`minidl.jit`) all of this does nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from minidl.core.registry import state


class Live:
    """A Python number that must be asked for again at each replay: a learning rate, a step count, a random offset."""

    read: Callable[[], Any]

    def __repr__(self) -> str:
        return f"<live {super().__repr__()}>"


class LiveFloat(Live, float):
    """A float that is read anew at each replay."""


class LiveInt(Live, int):
    """An int that is read anew at each replay."""


def capturing() -> bool:
    """Is a step being captured?"""
    return state.tracer is not None


def live(read: Callable[[], Any]) -> Any:
    """``read()``; and, if a step is being captured, note that replays must call ``read`` again.

    ``read`` is called once per run of the step, so it may advance a counter.
    """
    value = read()
    if state.tracer is None:
        return value
    number = (LiveInt if isinstance(value, int) else LiveFloat)(value)
    number.read = read
    return number


def guard(read: Callable[[], Any]) -> None:
    """Note that the captured step holds only as long as ``read()`` gives what it gives now: a mode, a constant of an
    update rule. Where it gives something else the step is captured anew."""
    if state.tracer is not None:
        state.tracer.guards.append((read, read()))


class Cell:
    """A place that holds an array: how a captured step finds the array again, and puts a new one there."""

    def __init__(self, get: Callable[[], Any], put: Callable[[Any], None]) -> None:
        self.get, self.put = get, put


def replaced(old: Any, new: Any, get: Callable[[], Any], put: Callable[[Any], None]) -> None:
    """Note that the place described by ``get`` and ``put`` held the array ``old`` and now holds ``new``."""
    if state.tracer is not None:
        state.tracer.replace(old, new, Cell(get, put))
