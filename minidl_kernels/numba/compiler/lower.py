"""From a program's steps to what the CPU does: each step becomes a view, part of a loop, or a call.

What a step may be follows from its primitive's declared properties; see :mod:`.rules` for what may be registered beyond
them.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any, NamedTuple

import numpy as np

from minidl.core.trace import Live
from minidl.jit.program import Program, Step, Value
from minidl.ops.reduction import normalize_axes
from minidl_kernels.numba.compiler import loops, symbolic
from minidl_kernels.numba.compiler.expressions import Expression
from minidl_kernels.numba.compiler.memory import is_plain, native
from minidl_kernels.numba.compiler.rules import REWRITES, VIEWS


class Reduction(NamedTuple):
    """A reduction over ``axes`` that a loop can end with: a kind of :data:`.loops.REDUCTIONS`, and what to divide the
    result by."""

    kind: str
    axes: tuple[int, ...]
    divisor: int


@dataclasses.dataclass(eq=False)
class Lowered:
    """A step and how it runs: as a view of its input, in a loop (``expression`` or ``reduction``), else by a call."""

    step: Step
    is_view: bool = False
    expression: Expression | None = None
    reduction: Reduction | None = None

    @property
    def in_loop(self) -> bool:
        return self.expression is not None or self.reduction is not None


def lower(program: Program) -> list[Lowered]:
    """The program's steps after rewriting, each with the way it runs."""
    steps = _rewritten(program)
    views = _find_views(steps)
    return [
        Lowered(s, True) if view else Lowered(s, False, symbolic.expression(s), _reduction(s))
        for s, view in zip(steps, views)
    ]


def make_views(step: Step, source: np.ndarray) -> tuple[Any, ...]:
    """The outputs of a step whose primitive gives views, from the array of its input."""
    out = VIEWS.get(step.prim.name, step.prim.reference)(source, **step.params)
    return out if isinstance(out, tuple) else (out,)


def _find_views(steps: list[Step]) -> list[bool]:
    """For each step: are its outputs views of its input? Found out by trying, on memory that is never touched."""
    arrays: dict[int, np.ndarray] = {}

    def array(v: Value) -> np.ndarray:
        if v.number not in arrays:
            here = v.cell.get() if v.cell is not None and v.kind == "external" else None
            arrays[v.number] = here if is_plain(here) else np.empty(v.shape, native(v.dtype))
        return arrays[v.number]

    found = []
    for step in steps:
        view = False
        if step.prim.view and len(step.values) == 1 and step.inputs[0] is step.values[0]:
            source = array(step.values[0])
            outs = make_views(step, source)
            view = all(
                isinstance(out, np.ndarray)
                and (np.may_share_memory(out, source) or out.size == 0)
                and min(out.strides, default=0) >= 0
                for out in outs
            )
            if view:
                arrays.update((v.number, out) for v, out in zip(step.outputs, outs))
        found.append(view)
    return found


def _reduction(step: Step) -> Reduction | None:
    kind = "sum" if step.prim.reduces == "mean" else step.prim.reduces
    x = step.inputs[0] if len(step.inputs) == 1 else None
    if kind not in loops.REDUCTIONS or not isinstance(x, Value) or native(x.dtype).char not in "fd" or 0 in x.shape:
        return None
    if native(step.outputs[0].dtype) != native(x.dtype):
        return None
    axes = normalize_axes(step.params.get("axis", step.prim.defaults.get("axis")), len(x.shape))
    return Reduction(kind, axes, math.prod(x.shape[k] for k in axes) if step.prim.reduces == "mean" else 1)


class Graph:
    """Collects the steps that a rule of :func:`.rules.rewrite` puts in a step's place."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.steps: list[Step] = []

    def step(self, prim: Any, inputs: list[Any], to: tuple[int, ...], /, **params: Any) -> Value:
        """A call of ``prim`` that gives an array of shape ``to`` and of the first input's dtype."""
        self.count += 1
        out = Value(self.count, "computed", tuple(to), inputs[0].dtype)
        self.steps.append(Step(prim, inputs, params, [out]))
        return out


def _rewritten(program: Program) -> list[Step]:
    numbers = [v.number for v in program.mentioned()] + [o.number for s in program.steps for o in s.outputs]
    graph = Graph(max(numbers, default=0))
    steps: list[Step] = []
    for s in program.steps:
        rule = REWRITES.get(s.prim.name)
        live = any(isinstance(x, Live) for x in [*s.inputs, *s.params.values()])
        if rule is not None and not live and rule(graph, *s.inputs, **s.params) is not None:
            graph.steps[-1].outputs = s.outputs
            steps += graph.steps
            graph.steps = []
        else:
            steps.append(s)
    return steps
