"""A captured step: a straight-line list of primitive calls on numbered values."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from minidl.core.trace import Cell, Live


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
    cell: Cell | None = None

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
        for v in self._mentioned():
            if v.kind == "external":
                seen.setdefault(v.number, v)
        return list(seen.values())

    def _mentioned(self) -> Iterator[Value]:
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


def simplify(program: Program) -> Program:
    """Remove steps that only pass their input on, repeat another step, or are never used."""
    program = _forward(program, _passes_on)
    program = _merge_equal(program)
    return _drop_unused(program)


def _passes_on(step: Step) -> bool:
    """Is the only output equal to the first input?"""
    first = step.inputs[0] if step.inputs else None
    if not isinstance(first, Value) or len(step.outputs) != 1:
        return False
    out = step.outputs[0]
    if step.prim.name in ("positive", "copy", "contiguous"):
        return True
    same = first.shape == out.shape and first.dtype == out.dtype
    return same and step.prim.name in ("sum_to", "broadcast_to", "reshape", "astype")


def _substitute(program: Program, replaced: dict[int, Value], steps: list[Step]) -> Program:
    def now(v: Any) -> Any:
        while isinstance(v, Value) and v.number in replaced:
            v = replaced[v.number]
        return v

    new = [Step(s.prim, [now(i) for i in s.inputs], s.params, s.outputs) for s in steps]
    updates = [(t, now(v)) for t, v in program.updates]
    return Program(program.inputs, new, updates, [now(v) for v in program.results], program.guards)


def _forward(program: Program, passes_on: Callable[[Step], bool]) -> Program:
    replaced = {s.outputs[0].number: s.inputs[0] for s in program.steps if passes_on(s)}
    return _substitute(program, replaced, [s for s in program.steps if s.outputs[0].number not in replaced])


def _merge_equal(program: Program) -> Program:
    """Steps that do the same to the same values are done once (their primitives are pure)."""
    replaced: dict[int, Value] = {}
    seen: dict[Any, Step] = {}
    kept = []
    for s in program.steps:
        inputs = []
        for i in s.inputs:
            while isinstance(i, Value) and i.number in replaced:
                i = replaced[i.number]
            inputs.append(i)
        key = (
            s.prim.name,
            tuple(
                (i.number,)
                if isinstance(i, Value)
                else (type(i).__name__, repr(i), id(i) if isinstance(i, Live) else 0)
                for i in inputs
            ),
            repr(sorted(s.params.items(), key=lambda kv: kv[0])),
            tuple(id(p) for p in s.params.values() if isinstance(p, Live)),
        )
        twin = seen.get(key)
        if twin is not None and not s.prim.donated and not any(map(_opaque, s.params.values())):
            for mine, theirs in zip(s.outputs, twin.outputs):
                replaced[mine.number] = theirs
        else:
            seen[key] = s
            kept.append(s)
    return _substitute(program, replaced, kept)


def _opaque(x: Any) -> bool:
    """A parameter whose repr does not tell its value."""
    return isinstance(x, np.ndarray) or callable(x)


def _drop_unused(program: Program) -> Program:
    wanted = {v.number for v in program.results} | {v.number for _, v in program.updates}
    kept = []
    for s in reversed(program.steps):
        if any(o.number in wanted for o in s.outputs):
            kept.append(s)
            wanted |= {v.number for v in s.values}
    return Program(program.inputs, kept[::-1], program.updates, program.results, program.guards)
