"""A captured step: a straight-line list of primitive calls on numbered values."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np


@dataclasses.dataclass(eq=False)
class Value:
    """An array in the program.

    ``kind`` is ``"input"`` (an argument of the step), ``"external"`` (an array that lives on between calls: a
    parameter, optimizer state, a constant) or ``"computed"``. ``cell`` finds the array of an external value again.
    """

    number: int
    kind: str
    shape: tuple[int, ...]
    dtype: np.dtype
    cell: Any = None  # a Cell, of external values

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize

    def __repr__(self) -> str:
        return f"%{self.number}"

    def typed(self) -> str:
        return f"%{self.number}: {self.dtype}[{', '.join(map(str, self.shape))}]"


@dataclasses.dataclass(eq=False)
class Step:
    """``outputs = prim(*inputs, **params)``. Inputs are Values, Live scalars, or constants as they are."""

    prim: Any
    inputs: list
    params: dict
    outputs: list[Value]

    @property
    def values(self) -> list[Value]:
        """The inputs that are Values."""
        return [i for i in self.inputs if isinstance(i, Value)]

    def __str__(self) -> str:
        made = ", ".join(v.typed() for v in self.outputs)
        args = [repr(i) for i in self.inputs] + [f"{k}={v!r}" for k, v in self.params.items()]
        return f"{made} = {self.prim.name}({', '.join(args)})"


@dataclasses.dataclass(eq=False)
class Program:
    """What a step does.

    ``updates`` maps external values to the values that their arrays hold after the step; ``results`` are the values
    that the step returns, in the order of the leaves of its return value. ``guards`` are (read, value): the program
    holds as long as each ``read()`` equals its value.
    """

    inputs: list[Value]
    steps: list[Step]
    updates: list[tuple[Value, Value]]
    results: list[Value]
    guards: list[tuple[Callable[[], Any], Any]] = dataclasses.field(default_factory=list)

    def holds(self) -> bool:
        """Are modes and constants still those that were captured?"""
        return all(read() == value for read, value in self.guards)

    @property
    def externals(self) -> list[Value]:
        """The external values that the program reads or updates, each once."""
        seen: dict[int, Value] = {}
        for v in self.mentioned():
            if v.kind == "external":
                seen.setdefault(v.number, v)
        return list(seen.values())

    def mentioned(self) -> Iterator[Value]:
        """Every value that is read or updated, once for each mention."""
        for step in self.steps:
            yield from step.values
        for target, value in self.updates:
            yield target
            yield value
        yield from self.results

    def last_uses(self) -> dict[int, int]:
        """For each value number the index of the last step that reads it (``len(steps)`` if it outlives them)."""
        last: dict[int, int] = {}
        for i, step in enumerate(self.steps):
            for v in step.values:
                last[v.number] = i
        for v in [*self.results, *(value for _, value in self.updates)]:
            last[v.number] = len(self.steps)
        return last

    def users(self) -> dict[int, list[Step]]:
        """For each value number the steps that read it."""
        found: dict[int, list[Step]] = {}
        for step in self.steps:
            for v in step.values:
                found.setdefault(v.number, []).append(step)
        return found

    def __str__(self) -> str:
        lines = [f"inputs: {', '.join(v.typed() for v in self.inputs) or 'none'}"]
        lines += [f"reads:  {', '.join(v.typed() for v in self.externals) or 'nothing from outside'}"]
        lines += [f"  {step}" for step in self.steps]
        lines += [f"update: {target!r} <- {value!r}" for target, value in self.updates]
        lines += [f"return: {', '.join(map(repr, self.results)) or 'nothing'}"]
        return "\n".join(lines)
