"""A captured program as one ``jax.jit`` function: forward, backward and update compiled together by XLA."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from minidl.core.dispatch import run
from minidl.core.trace import Live
from minidl.jit.program import Program, Value
from minidl_kernels.jax.checks import collecting
from minidl_kernels.jax.mesh import active_mesh, split_sharding, whole_sharding


class LoweredProgram:
    """Callable with the list of input arrays; returns the list of result arrays.

    External values that the program updates are donated: XLA may reuse their memory for the new values. (Not so where
    an index may be found not to fit: then the old values stay.)
    """

    def __init__(self, program: Program) -> None:
        self.program = program
        self.updated = [target for target, _ in program.updates]
        changing = {v.number for v in self.updated}
        self.constant = [v for v in program.externals if v.number not in changing]
        self.live: list[Live] = []
        for step in program.steps:
            for x in [*step.inputs, *step.params.values()]:
                if isinstance(x, Live) and not any(x is y for y in self.live):
                    self.live.append(x)
        self.errors: list[Exception] = []
        self.mesh = active_mesh()
        options: dict[str, Any] = {}
        if self.mesh is not None:
            whole = whole_sharding(self.mesh)
            self.splits = [split_sharding(self.mesh, v.shape) for v in program.inputs]
            options["in_shardings"] = (whole, whole, self.splits, whole)
            options["out_shardings"] = whole
        self.options = options
        self.function: Any = None

    def _run(self, state: list, constants: list, inputs: list, numbers: list) -> tuple[list, list, Any]:
        with collecting() as flags:
            results, new = self._steps(state, constants, inputs, numbers)
        self.errors = [error for _, error in flags]
        if not flags:
            return results, new, ()
        return results, new, jnp.stack([fits for fits, _ in flags])

    def _steps(self, state: list, constants: list, inputs: list, numbers: list) -> tuple[list, list]:
        env: dict[int, Any] = {}
        for values, arrays in ((self.updated, state), (self.constant, constants), (self.program.inputs, inputs)):
            env.update({v.number: a for v, a in zip(values, arrays)})
        now = {id(x): n for x, n in zip(self.live, numbers)}

        def look(x: Any) -> Any:
            if isinstance(x, Value):
                return env[x.number]
            return now[id(x)] if isinstance(x, Live) else x

        for step in self.program.steps:
            out = run(step.prim, [look(x) for x in step.inputs], {k: look(p) for k, p in step.params.items()})
            for v, o in zip(step.outputs, out if isinstance(out, tuple) else (out,)):
                env[v.number] = jnp.asarray(o)
        return [env[v.number] for v in self.program.results], [env[v.number] for _, v in self.program.updates]

    def __call__(self, inputs: list) -> list:
        state = [jnp.asarray(v.cell.get()) for v in self.updated]
        constants = [jnp.asarray(v.cell.get()) for v in self.constant]
        if self.mesh is not None:
            whole = whole_sharding(self.mesh)
            state, constants = jax.device_put(state, whole), jax.device_put(constants, whole)
            inputs = [jax.device_put(a, s) for a, s in zip(inputs, self.splits)]
        # random keys are 64-bit unsigned
        numbers = [np.uint64(n) if isinstance(n, int) and n >= 0 else n for n in (x.read() for x in self.live)]
        arguments = state, constants, inputs, numbers
        if self.function is None:
            jax.eval_shape(self._run, *arguments)  # tells whether there are flags
            self.function = jax.jit(self._run, donate_argnums=() if self.errors else 0, **self.options)
        results, new, right = self.function(*arguments)
        for fits, error in zip(np.asarray(right), self.errors):
            if not fits:
                raise error
        for target, array in zip(self.updated, new):
            target.cell.hold(array)
        return results
