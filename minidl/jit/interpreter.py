"""The plain way to run a captured program: call by call."""

from __future__ import annotations

from typing import Any

import numpy as np

from minidl.core.dispatch import run
from minidl.core.trace import Live
from minidl.jit.program import Program, Value


class Interpreter:
    """Runs a program call by call, each with the kernel that the backend has for it: the plain way."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.last = program.last_uses()

    def __call__(self, inputs: list) -> list:
        env: dict[int, Any] = {v.number: a for v, a in zip(self.program.inputs, inputs)}
        for v in self.program.externals:
            env[v.number] = v.cell.get()
        numbers: dict[int, Any] = {}

        def now(x: Any) -> Any:
            if isinstance(x, Value):
                return env[x.number]
            if isinstance(x, Live):
                # the same number may be used by many steps, but is read once
                if id(x) not in numbers:
                    numbers[id(x)] = x.read()
                return numbers[id(x)]
            return x

        for i, step in enumerate(self.program.steps):
            out = run(step.prim, [now(x) for x in step.inputs], {k: now(p) for k, p in step.params.items()})
            for v, o in zip(step.outputs, out if isinstance(out, tuple) else (out,)):
                env[v.number] = o if hasattr(o, "dtype") and not isinstance(o, np.generic) else np.asarray(o)
            for number in {v.number for v in step.values}:
                if self.last.get(number) == i:
                    env.pop(number, None)
        results = [env[v.number].copy() for v in self.program.results]
        updates = [
            (target, env[value.number].copy() if value.kind == "external" else env[value.number])
            for target, value in self.program.updates
        ]
        for target, array in updates:
            target.cell.put(array)
        return results
