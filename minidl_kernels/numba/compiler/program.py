"""A captured program made fast for the CPU: fused loops, BLAS into planned buffers, nothing allocated at replay.

Values get fixed arrays once (``_bind``), views of them are taken once, and what is left to do at a replay is a list of
calls on those arrays. Fused loops and matrix products that follow each other are one such call: a tape that compiled
code walks. Memory is planned as registers are: a buffer whose value is dead serves the next one.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from minidl import ops
from minidl.core.dispatch import choose
from minidl.core.registry import load
from minidl.core.trace import Live
from minidl.jit.program import Program, Step, Value
from minidl_kernels.numba.compiler.fusion import FusedKernel, copy_kernel, group_steps
from minidl_kernels.numba.compiler.tape import Tape, run
from minidl_kernels.numba.kernels.optimizer import adam_update, sgd_update, together

#: primitives whose results can be views of their first input
VIEWS = {"reshape", "permute", "broadcast_to", "getitem", "positive", "contiguous", "sum_to", "unbind"}


class CompiledProgram:
    """Callable with the list of input arrays; returns the list of result arrays (copies)."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.steps = _lower(program)
        self.view_of = self._find_views()
        self.items = self._schedule()
        self.live: dict[int, Live] = {}
        self.bound: list[tuple[Value, Any]] = []
        self.calls: list[Callable[[], Any]] | None = None
        self.kept: list[Tape] = []
        self.pool_bytes = 0

    def __call__(self, inputs: list) -> list:
        if self.calls is None or any(v.cell.get() is not a for v, a in self.bound):
            self._bind()
        for buffer, array in zip(self.input_buffers, inputs):
            buffer[...] = array
        if self.live:
            numbers = self.numbers
            for key, number in self.live.items():
                numbers[key] = number.read()
            for words, place, key in self.live_words:
                words[place] = numbers[key]
        for call in self.calls:
            call()
        return [a.copy() for a in self.result_arrays]

    # Planning

    def _find_views(self) -> list[bool]:
        """For each step: are its outputs views of its input? Found out by trying, on memory that is never touched."""
        arrays: dict[int, np.ndarray] = {}

        def array(v: Value) -> np.ndarray:
            if v.number not in arrays:
                arrays[v.number] = v.cell.get() if v.kind == "external" else np.empty(v.shape, v.dtype)
            return arrays[v.number]

        found = []
        for step in self.steps:
            view = False
            if step.prim.name in VIEWS and len(step.values) == 1 and step.inputs[0] is step.values[0]:
                source = array(step.values[0])
                outs = _views(step, source)
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

    def _schedule(self) -> list[Any]:
        """Views, fused groups and single steps in the order in which they run."""
        groups = {max(g.members): g for g in group_steps(self.steps, self.view_of)}
        grouped = {m for g in groups.values() for m in g.members}
        items: list[Any] = []
        for i, step in enumerate(self.steps):
            if i in groups:
                members = groups[i].members
                inside = set(members)
                steps = [self.steps[m] for m in members]
                read_outside = (
                    {v.number for k, s in enumerate(self.steps) if k not in inside for v in s.values}
                    | {v.number for v in self.program.results}
                    | {v.number for _, v in self.program.updates}
                )
                outputs = [s.outputs[0] for s in steps if s.outputs[0].number in read_outside]
                items.append(FusedKernel(steps, outputs))
            elif i not in grouped:
                items.append((step, self.view_of[i]))
        return items

    def _lifetimes(self) -> dict[int, int]:
        """For each value the index of the last item that needs its memory, views included."""
        last: dict[int, int] = {}
        for i, item in enumerate(self.items):
            for v in item.inputs if isinstance(item, FusedKernel) else item[0].values:
                if isinstance(v, Value):
                    last[v.number] = i
        for v in [*self.program.results, *(value for _, value in self.program.updates)]:
            last[v.number] = len(self.items)
        for item in reversed(self.items):
            if not isinstance(item, FusedKernel) and item[1]:
                source = item[0].values[0].number
                last[source] = max([last.get(source, -1), *(last.get(out.number, -1) for out in item[0].outputs)])
        return last

    def _bind(self) -> None:
        """Give every value its array and make the list of calls."""
        self.calls = []
        self.tape, self.kept = Tape(), []
        self.live_words: list[tuple[np.ndarray, int, int]] = []
        self.numbers: dict[int, Any] = {}
        self.live = {}
        arrays: dict[int, np.ndarray] = {}
        program = self.program
        self.input_buffers = [np.empty(v.shape, v.dtype) for v in program.inputs]
        for v, buffer in zip(program.inputs, self.input_buffers):
            arrays[v.number] = buffer
        self.bound = [(v, v.cell.get()) for v in program.externals]
        for v, a in self.bound:
            arrays[v.number] = a
        last = self._lifetimes()
        pool = _Pool()
        homes: dict[int, Any] = {}
        in_place = self._in_place_updates(last)
        self.updates: list[_Update] = []
        for i, item in enumerate(self.items):
            if isinstance(item, FusedKernel):
                outs = []
                for v in item.outputs:
                    homes[v.number], arrays[v.number] = pool.take(v.shape, v.dtype)
                    outs.append(arrays[v.number])
                self._bind_fused(item, arrays, outs)
            else:
                step, view = item
                if view:
                    made = _views(step, arrays[step.values[0].number])
                    arrays.update((v.number, out) for v, out in zip(step.outputs, made))
                else:
                    for v in step.outputs:
                        target = in_place.get(v.number)
                        if target is not None:
                            arrays[v.number] = arrays[target.number]
                        else:
                            homes[v.number], arrays[v.number] = pool.take(v.shape, v.dtype)
                    self._bind_step(step, arrays)
            for number in [n for n in homes if last.get(n, -1) <= i]:
                pool.give(homes.pop(number))
        self._end_updates()
        self._end_tape()
        waiting = []
        for target, value in program.updates:
            source, destination = arrays[value.number], arrays[target.number]
            if source is destination:
                continue
            if value.kind == "external":
                waiting.append((destination, source))  # another update may overwrite it first
            else:
                self.calls.append(functools.partial(np.copyto, destination, source))
        for destination, source in waiting:
            kept = np.empty_like(source)
            self.calls.insert(0, functools.partial(np.copyto, kept, source))
            self.calls.append(functools.partial(np.copyto, destination, kept))
        self.result_arrays = [arrays[v.number] for v in program.results]
        self.pool_bytes = pool.total

    def _in_place_updates(self, last: dict[int, int]) -> dict[int, Value]:
        """Outputs of donated steps that only serve to update the very external value that was donated.

        ``last`` has the last item that reads each value: if it comes later, the value must not be overwritten yet.
        """
        updates = {value.number: target for target, value in self.program.updates}
        found = {}
        for i, item in enumerate(self.items):
            if isinstance(item, FusedKernel):
                continue
            step = item[0]
            donated = [step.inputs[k] for k, name in enumerate(step.prim.inputs) if name in step.prim.donated]
            donated = [d for d in donated if isinstance(d, Value)]
            for d, out in zip(donated, step.outputs):
                target = updates.get(out.number)
                if target is not None and target.number == d.number and last.get(d.number, i) <= i:
                    found[out.number] = target
        return found

    def _number(self, x: Live) -> int:
        self.live.setdefault(id(x), x)
        return id(x)

    def _call(self, call: Callable[[], Any]) -> None:
        """The next thing to do is ``call()``, in Python."""
        self._end_tape()
        self.calls.append(call)

    def _update(self, step: Step, inputs: list, outs: list[np.ndarray]) -> _Update | None:
        """The step as an optimizer's update in place; None if it is not, or not by our kernel."""
        function, _ = _implementation(step, inputs)
        arrays = [x for x in inputs if isinstance(x, np.ndarray)]
        scalars = [x for x in inputs if not isinstance(x, np.ndarray) and x is not None]
        updated = [a for a in arrays if any(a is o for o in outs)]
        if function not in (sgd_update, adam_update) or len(scalars) != 2 or len(updated) != len(outs):
            return None
        if any(isinstance(p, Live) for p in step.params.values()):
            return None
        return _Update(function, arrays, scalars, step.params)

    def _end_updates(self) -> None:
        """Updates that follow each other and differ in arrays, and in where their numbers are from, become one call."""
        updates, self.updates = self.updates, []
        if not updates:
            return
        keys = [[self._number(x) if isinstance(x, Live) else None for x in u.scalars] for u in updates]
        numbers = self.numbers
        function, params = updates[0].function, updates[0].params
        all_at_once = together(function, [u.arrays for u in updates], params)
        one_by_one = [together(function, [u.arrays], params) for u in updates]

        def call() -> None:
            now = [
                tuple(x if key is None else numbers[key] for key, x in zip(k, u.scalars)) for k, u in zip(keys, updates)
            ]
            if len(set(now)) == 1:
                all_at_once(*now[0])
            else:  # parameters that were not all updated equally often
                for run, given in zip(one_by_one, now):
                    run(*given)

        self._call(call)

    def _copy(self, source: np.ndarray, out: np.ndarray) -> None:
        if not out.size:
            return
        made = copy_kernel(source, out)
        if made is None:
            self._call(functools.partial(np.copyto, out, source))
        else:
            self.tape.add_kernel(made[0].entry.address, made[1])

    def _end_tape(self) -> None:
        """What is on the tape becomes one call."""
        if len(self.tape):
            functions, places, block = self.tape.freeze()
            self.calls.append(functools.partial(run, functions, places, block))
            numbers = block.view(np.float64)
            self.live_words += [(numbers, place, key) for place, key in self.tape.live]
            self.kept.append(self.tape)
            self.tape = Tape()

    def _bind_fused(self, item: FusedKernel, arrays: dict[int, Any], outs: list[np.ndarray]) -> None:
        if outs[0].size == 0:
            return
        sources = [x if isinstance(x, Live) else arrays[x.number] for x in item.inputs]
        self._end_updates()
        module, arguments = item.compile(sources, outs)
        operands = [("live", self._number(a)) if isinstance(a, Live) else a for a in arguments]
        self.tape.add_kernel(module.entry.address, operands)

    def _bind_step(self, step: Step, arrays: dict[int, Any]) -> None:
        outs = [arrays[v.number] for v in step.outputs]
        inputs = [arrays[x.number] if isinstance(x, Value) else x for x in step.inputs]
        name = step.prim.name
        live = any(isinstance(x, Live) for x in [*inputs, *step.params.values()])
        update = self._update(step, inputs, outs) if name in ("sgd_update", "adam_update") else None
        if update is None or not all(u.like(update) for u in self.updates):
            self._end_updates()
        if update is not None:
            self.updates.append(update)
            return
        if name == "matmul" and inputs[0].dtype == inputs[1].dtype:
            x, y = inputs
            if y.ndim == 2 and x.ndim > 2 and x.flags.c_contiguous and outs[0].flags.c_contiguous and x.size:
                # one large product: NumPy would run a batch of small ones
                inputs, outs = [x.reshape(-1, x.shape[-1]), y], [outs[0].reshape(-1, y.shape[1])]
            if not self.tape.add_matmul(inputs[0], inputs[1], outs[0]):
                self._call(functools.partial(np.matmul, inputs[0], inputs[1], outs[0]))
            return
        if name in ("reshape", "contiguous") and outs[0].size == inputs[0].size:
            self._copy(inputs[0], outs[0].reshape(inputs[0].shape))
            return
        if name in ("stack", "concat") and all(x.dtype == outs[0].dtype for x in inputs):
            axis, begin = step.params.get("axis", 0), 0
            pieces = np.moveaxis(outs[0], axis, 0)
            for x in inputs:
                x = x[None] if name == "stack" else np.moveaxis(x, axis, 0)
                self._copy(x, pieces[begin : begin + len(x)])
                begin += len(x)
            return
        function, takes_out = _implementation(step, inputs)
        if live:
            keys = [self._number(x) if isinstance(x, Live) else None for x in inputs]
            param_keys = {k: self._number(p) for k, p in step.params.items() if isinstance(p, Live)}
            numbers = self.numbers

            def call() -> Any:
                params = {**step.params, **{k: numbers[n] for k, n in param_keys.items()}}
                now = [x if k is None else numbers[k] for x, k in zip(inputs, keys)]
                return function(*now, **params, **({"out": tuple(outs)} if takes_out else {}))
        else:
            extra = {"out": tuple(outs)} if takes_out else {}
            call = functools.partial(function, *inputs, **step.params, **extra)
        if takes_out:
            self._call(call)
            return

        def call_and_copy() -> None:
            made = call()
            for out, array in zip(outs, made if isinstance(made, tuple) else (made,)):
                if array is not out:
                    out[...] = array

        self._call(call_and_copy)


@dataclasses.dataclass
class _Update:
    """An optimizer's update in place: its kernel, (p, g) and state, (lr, step), and what stays."""

    function: Callable[..., Any]
    arrays: list[np.ndarray]
    scalars: list[Any]
    params: dict[str, Any]

    def like(self, other: _Update) -> bool:
        """Do they differ in arrays and numbers only?"""
        return (
            self.function is other.function
            and len(self.arrays) == len(other.arrays)
            and self.arrays[0].dtype == other.arrays[0].dtype
            and self.params == other.params
        )


def _implementation(step: Step, inputs: list) -> tuple[Callable[..., Any], bool]:
    """What serves the step, and whether it takes ``out=``."""
    k = choose(step.prim, load("numba"), inputs, step.params)
    return (step.prim.reference, False) if k is None else (k.function, k.out)


def _views(step: Step, source: np.ndarray) -> tuple[Any, ...]:
    if step.prim.name == "broadcast_to":
        return (np.broadcast_to(source, step.outputs[0].shape),)
    if step.prim.name == "contiguous" and not source.flags.c_contiguous:
        return (None,)
    out = step.prim.reference(source, **step.params)
    return out if isinstance(out, tuple) else (out,)


def _lower(program: Program) -> list[Step]:
    """Split ``linear`` into a product and an addition that can be fused with what follows."""
    count = max((v.number for v in program.mentioned()), default=0)
    count = max([count, *(o.number for s in program.steps for o in s.outputs)]) + 1
    steps: list[Step] = []

    def new(shape: tuple, dtype: np.dtype) -> Value:
        nonlocal count
        count += 1
        return Value(count, "computed", tuple(shape), dtype)

    for s in program.steps:
        if s.prim.name != "linear" or not all(isinstance(i, Value) for i in s.inputs[:2]):
            steps.append(s)
            continue
        x, weight, bias = (*s.inputs, None)[:3]
        out = s.outputs[0]
        rows = x
        if len(x.shape) != 2:
            rows = new((int(np.prod(x.shape[:-1], dtype=int)), x.shape[-1]), x.dtype)
            steps.append(Step(ops.reshape, [x], {"shape": rows.shape}, [rows]))
        turned = new(weight.shape[::-1], weight.dtype)
        steps.append(Step(ops.permute, [weight], {"axes": (1, 0)}, [turned]))
        flat = len(x.shape) == 2
        product = out if flat and bias is None else new((rows.shape[0], weight.shape[0]), out.dtype)
        steps.append(Step(ops.matmul, [rows, turned], {}, [product]))
        if not flat:
            whole = out if bias is None else new(out.shape, out.dtype)
            steps.append(Step(ops.reshape, [product], {"shape": out.shape}, [whole]))
            product = whole
        if bias is not None:
            steps.append(Step(ops.add, [product, bias], {}, [out]))
    return steps


class _Pool:
    """Buffers by size; one that was given back serves the next value that fits without wasting half of it."""

    def __init__(self) -> None:
        self.free: list[np.ndarray] = []
        self.total = 0

    def take(self, shape: tuple[int, ...], dtype: np.dtype) -> tuple[np.ndarray, np.ndarray]:
        """(the buffer, an array of this shape and dtype in it)."""
        need = max(int(np.prod(shape, dtype=np.int64)) * dtype.itemsize, 1)
        fitting = [b for b in self.free if need <= b.nbytes <= 2 * need + 4096]
        if fitting:
            # of equal ones the last that was given back: it may still be in the cache
            buffer = min(reversed(fitting), key=lambda b: b.nbytes)
            self.free = [b for b in self.free if b is not buffer]
        else:
            raw = np.empty(need + 64, np.uint8)
            start = -raw.ctypes.data % 64
            buffer = raw[start : start + need]
            self.total += need
        array = buffer[: need if np.prod(shape, dtype=np.int64) else 0].view(dtype).reshape(shape)
        return buffer, array

    def give(self, buffer: np.ndarray) -> None:
        self.free.append(buffer)
