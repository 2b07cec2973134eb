"""What is taken out of a captured program before a backend gets it. Passes ask primitives for their declared
properties (:func:`minidl.core.primitive.primitive`), so they hold for anybody's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from minidl.core.trace import Live
from minidl.jit.program import Program, Step, Value


def simplify(program: Program) -> Program:
    """Remove steps that only pass their input on, repeat another step, or are never used."""
    program = _forward(program, _passes_on)
    program = _merge_equal(program)
    return _drop_unused(program)


def _passes_on(step: Step) -> bool:
    """Is the only output equal to the first input?"""
    first = step.inputs[0] if step.inputs else None
    if not step.prim.identity or not isinstance(first, Value) or len(step.outputs) != 1:
        return False
    out = step.outputs[0]
    return step.prim.identity is True or (first.shape == out.shape and first.dtype == out.dtype)


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
            s.prim,
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
