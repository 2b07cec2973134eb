"""A captured program made fast for the CPU: fused loops, BLAS into planned buffers, nothing allocated at replay.

:mod:`.lower` says how each step can run, :mod:`.schedule` what runs together and in which order, :mod:`.memory` where
values live, and :mod:`.bind` makes calls of all that, which a replay goes through.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from typing import Any

import numpy as np

from minidl.jit.program import Program, Value
from minidl_kernels.numba.compiler.bind import Binder
from minidl_kernels.numba.compiler.fuse import FusedKernel
from minidl_kernels.numba.compiler.lower import lower, make_views
from minidl_kernels.numba.compiler.memory import Pool, in_place, is_plain, lifetimes, native
from minidl_kernels.numba.compiler.schedule import Single, schedule
from minidl_kernels.numba.compiler.tape import Tape


class CompiledProgram:
    """Callable with the list of input arrays; returns the list of result arrays (copies).

    All memory is planned for one run at a time: threads that call the program wait for each other.
    """

    def __init__(self, program: Program) -> None:
        self.program = program
        self.lock = threading.Lock()
        self.items: list[Single | FusedKernel] = []
        self.layout: list[Any] | None = None
        self.bound: list[tuple[Value, Any]] = []
        self.calls: list[Callable[[], Any]] | None = None
        self.kept: list[Tape] = []
        self.pool_bytes = 0

    def __call__(self, inputs: list) -> list:
        with self.lock:
            if self.calls is None or any(v.cell.get() is not a for v, a in self.bound):
                self._bind()
            for buffer, array in zip(self.input_buffers, inputs):
                buffer[...] = array
            self.read_numbers()
            for call in self.calls:
                call()
            return [
                a.copy() if v.dtype.isnative else a.astype(v.dtype, order="C")
                for v, a in zip(self.program.results, self.result_arrays)
            ]

    def _bind(self) -> None:
        """Give every value its array and make the list of calls."""
        self.calls = None
        program, arrays, before = self.program, {}, []
        self.input_buffers = [np.empty(v.shape, native(v.dtype)) for v in program.inputs]
        arrays.update((v.number, buffer) for v, buffer in zip(program.inputs, self.input_buffers))
        self.bound = [(v, v.cell.get()) for v in program.externals]
        fixed = set()
        for v, a in self.bound:
            if not is_plain(a):
                # what loops cannot run over is copied at the start of each run
                before.append(functools.partial(np.copyto, shadow := np.empty(v.shape, native(v.dtype)), a))
                fixed.add(v.number)
            arrays[v.number] = a if is_plain(a) else shadow
        # views are views for one layout of the arrays from outside
        layout = [(a.strides, is_plain(a)) for _, a in self.bound]
        if layout != self.layout:
            self.layout, self.items = layout, schedule(lower(program), program)
        binder, pool = Binder(), Pool()
        self._bind_items(binder, pool, arrays, fixed)
        early, late = self._updates(arrays)
        self.calls = [*before, *early, *binder.finish(), *late]
        self.read_numbers = binder.read_numbers
        self.kept = binder.tapes
        self.result_arrays = [arrays[v.number] for v in program.results]
        self.pool_bytes = pool.total

    def _bind_items(self, binder: Binder, pool: Pool, arrays: dict[int, Any], fixed: set[int]) -> None:
        """``binder`` gets all items, on ``arrays``, which get those of computed values, from ``pool``."""
        last = lifetimes(self.items, self.program)
        targets = in_place(self.items, self.program, last, fixed)
        homes: dict[int, Any] = {}
        for i, item in enumerate(self.items):
            if item.is_view:
                made = make_views(item.step, arrays[item.reads[0].number])
                arrays.update((v.number, out) for v, out in zip(item.writes, made))
                continue
            for v in item.writes:
                if v.number in targets:
                    arrays[v.number] = arrays[targets[v.number].number]
                else:
                    homes[v.number], arrays[v.number] = pool.take(v.shape, native(v.dtype))
            if isinstance(item, FusedKernel):
                binder.fused(item, arrays)
            else:
                binder.step(item.step, arrays)
            for number in [n for n in homes if last.get(n, -1) <= i]:
                pool.give(homes.pop(number))

    def _updates(self, arrays: dict[int, Any]) -> tuple[list[Callable], list[Callable]]:
        """What updates external values after the steps have run, and what must be kept for that before they do."""
        place = {v.number: a for v, a in self.bound}
        early, first, late = [], [], []
        for target, value in self.program.updates:
            source, destination = arrays[value.number], place[target.number]
            if source is destination:
                continue
            if value.kind == "external":
                kept = np.empty_like(source)  # another update may overwrite it first
                early.append(functools.partial(np.copyto, kept, source))
                late.append(functools.partial(np.copyto, destination, kept))
            else:
                first.append(functools.partial(np.copyto, destination, source))
        return early, first + late
