"""From scheduled steps on given arrays to a list of calls: tapes of compiled code, else Python.

Loops, copies and matrix products that follow each other are one call, a tape (:mod:`.tape`). Numbers that change from
run to run are read once per run and put where the calls look for them.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from minidl.core.dispatch import choose, compute
from minidl.core.dtypes import half_among
from minidl.core.registry import load
from minidl.core.trace import Live
from minidl.jit.program import Step, Value
from minidl_kernels.numba.compiler.fuse import FusedKernel, copy_kernel
from minidl_kernels.numba.compiler.memory import Workspace
from minidl_kernels.numba.compiler.rules import JOINTS, LOWERINGS
from minidl_kernels.numba.compiler.tape import Tape, run


@dataclasses.dataclass
class _Update:
    """A call of a kernel that may be joined with others: its arrays, the other inputs, and what stays."""

    function: Callable[..., Any]
    arrays: list[np.ndarray]
    numbers: list[Any]
    params: dict[str, Any]

    def like(self, other: _Update) -> bool:
        """Do they differ in arrays and numbers only?"""
        return (
            self.function is other.function
            and len(self.arrays) == len(other.arrays)
            and len(self.numbers) == len(other.numbers)
            and self.arrays[0].dtype == other.arrays[0].dtype
            and self.params == other.params
        )


class Binder:
    """Collects ``calls``, to be made one after the other; :meth:`read_numbers` comes first. Begin with :meth:`fused`
    and :meth:`step`, and end with :meth:`finish`."""

    def __init__(self) -> None:
        self.calls: list[Callable[[], Any]] = []
        self.workspace = Workspace()
        self.tape = Tape(self.workspace)
        self.tapes: list[Tape] = []
        self.live: dict[int, Live] = {}
        self.numbers: dict[int, Any] = {}
        self.live_words: list[tuple[np.ndarray, int, int]] = []
        self.updates: list[_Update] = []

    def read_numbers(self) -> None:
        """Ask for all live numbers, once each."""
        if not self.live:
            return
        numbers = self.numbers
        for key, number in self.live.items():
            numbers[key] = number.read()
        for words, place, key in self.live_words:
            words[place] = numbers[key]

    def number(self, x: Live) -> int:
        """The key of a live number in ``numbers``."""
        self.live.setdefault(id(x), x)
        return id(x)

    def call(self, call: Callable[[], Any]) -> None:
        """The next thing to do is ``call()``, in Python."""
        self._end_tape()
        self.calls.append(call)

    def copy(self, source: np.ndarray, out: np.ndarray) -> None:
        """Put the values of ``source`` into ``out``, of the same shape and dtype."""
        if not out.size:
            return
        made = copy_kernel(source, out)
        if made is None:
            self.call(functools.partial(np.copyto, out, source))
        else:
            self.tape.add_kernel(made[0].run.address, made[1])

    def fused(self, kernel: FusedKernel, arrays: dict[int, np.ndarray]) -> None:
        """Run a fused loop on the ``arrays`` of its values."""
        outs = [arrays[v.number] for v in kernel.outputs]
        if outs[0].size == 0:
            return
        self._end_updates()
        module, arguments = kernel.compile(
            [x if isinstance(x, Live) else arrays[x.number] for x in kernel.inputs], outs
        )
        operands = [("live", self.number(a)) if isinstance(a, Live) else a for a in arguments]
        self.tape.add_kernel(module.run.address, operands)

    def step(self, step: Step, arrays: dict[int, np.ndarray]) -> None:
        """Run a step on the ``arrays`` of its values: by what is registered for it, else by its kernel or formula."""
        outs = [arrays[v.number] for v in step.outputs]
        inputs = [arrays[x.number] if isinstance(x, Value) else x for x in step.inputs]
        lowering = LOWERINGS.get(step.prim.name)
        if lowering is not None and not any(isinstance(x, Live) for x in [*inputs, *step.params.values()]):
            self._end_updates()
            if lowering(self, inputs, outs, **step.params):
                return
        function, takes_out = implementation(step, inputs)
        update = self._update(function, step.params, inputs, outs)
        if update is None or not all(u.like(update) for u in self.updates):
            self._end_updates()
        if update is not None:
            self.updates.append(update)
        else:
            self._python(function, takes_out, step.params, inputs, outs)

    def finish(self) -> list[Callable[[], Any]]:
        """The calls."""
        self._end_updates()
        self._end_tape()
        return self.calls

    def _python(self, function: Any, takes_out: bool, params: dict, inputs: list, outs: list[np.ndarray]) -> None:
        """Call ``function`` at each run; where it does not take ``out=``, its results are copied."""
        extra = {"out": tuple(outs)} if takes_out else {}
        live_inputs = {k: self.number(x) for k, x in enumerate(inputs) if isinstance(x, Live)}
        live_params = {k: self.number(p) for k, p in params.items() if isinstance(p, Live)}
        call: Callable[[], Any]
        if live_inputs or live_params:
            numbers = self.numbers

            def call() -> Any:
                now = list(inputs)
                for k, key in live_inputs.items():
                    now[k] = numbers[key]
                return function(*now, **{**params, **{k: numbers[key] for k, key in live_params.items()}}, **extra)
        else:
            call = functools.partial(function, *inputs, **params, **extra)
        if takes_out:
            self.call(call)
            return

        def call_and_copy() -> None:
            made = call()
            for out, array in zip(outs, made if isinstance(made, tuple) else (made,)):
                if array is not out:
                    out[...] = array

        self.call(call_and_copy)

    def _update(self, function: Any, params: dict, inputs: list, outs: list[np.ndarray]) -> _Update | None:
        """The call as one that may be joined with others: in place, by a kernel that has something registered."""
        arrays = [x for x in inputs if isinstance(x, np.ndarray)]
        numbers = [x for x in inputs if not isinstance(x, np.ndarray) and x is not None]
        updated = [a for a in arrays if any(a is o for o in outs)]
        if function not in JOINTS or len(updated) != len(outs) or any(isinstance(p, Live) for p in params.values()):
            return None
        return _Update(function, arrays, numbers, params)

    def _end_updates(self) -> None:
        """Updates that follow each other and differ in arrays, and in where their numbers are from, become one call."""
        updates, self.updates = self.updates, []
        if not updates:
            return
        keys = [[self.number(x) if isinstance(x, Live) else None for x in u.numbers] for u in updates]
        numbers = self.numbers
        joint, params = JOINTS[updates[0].function], updates[0].params
        all_at_once = joint([u.arrays for u in updates], params)
        one_by_one = [joint([u.arrays], params) for u in updates]

        def call() -> None:
            now = [
                tuple(x if key is None else numbers[key] for key, x in zip(k, u.numbers)) for k, u in zip(keys, updates)
            ]
            if len(set(now)) == 1:
                all_at_once(*now[0])
            else:  # parameters that were not all updated equally often
                for run, given in zip(one_by_one, now):
                    run(*given)

        self.call(call)

    def _end_tape(self) -> None:
        """What is on the tape becomes one call."""
        if len(self.tape):
            functions, places, block = self.tape.freeze()
            self.calls.append(functools.partial(run, functions, places, block))
            numbers = block.view(np.float64)
            self.live_words += [(numbers, place, key) for place, key in self.tape.live]
            self.tapes.append(self.tape)
            self.tape = Tape(self.workspace)


def implementation(step: Step, inputs: list) -> tuple[Callable[..., Any], bool]:
    """What serves the step, and whether it takes ``out=``."""
    if step.prim.half is not False and half_among(inputs) is not None:
        return functools.partial(compute, step.prim), False
    k = choose(step.prim, load("numba"), inputs, step.params)
    return (step.prim.reference, False) if k is None else (k.function, k.out)
