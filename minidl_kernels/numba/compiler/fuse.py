"""Chains of elementwise steps, and reductions of their results, as one generated kernel.

:class:`FusedKernel` writes the loops for a group of steps (see :mod:`.schedule`), over flat memory (see :mod:`.loops`).
"""

from __future__ import annotations

import re
from types import ModuleType
from typing import Any

import numpy as np

from minidl.core.trace import Live
from minidl.jit.program import Value
from minidl_kernels.numba.compiler import loops as nests
from minidl_kernels.numba.compiler.cache import load_source, with_header
from minidl_kernels.numba.compiler.expressions import NUMBA_TYPES
from minidl_kernels.numba.compiler.lower import Lowered
from minidl_kernels.numba.compiler.memory import native


def _type(v: Value) -> str:
    return NUMBA_TYPES[native(v.dtype).char]


class FusedKernel:
    """The compiled loop of one group, for arrays of given shapes and strides.

    ``inputs`` are the Values and Live scalars to load, in order; ``outputs`` the Values to store, of which ``needed``
    are read by others.
    """

    is_view = False
    donated: tuple = ()

    def __init__(self, steps: list[Lowered], needed: list[Value]) -> None:
        self.steps = [(s.step, s.expression) for s in steps if s.expression is not None]
        self.reductions = [(s.step, s.reduction) for s in steps if s.reduction is not None]
        inside = {step.outputs[0].number for step, _ in self.steps}
        loads: dict[int, Any] = {}
        for s in steps:
            for x in s.step.inputs:
                if isinstance(x, Live):
                    loads.setdefault(id(x), x)
                elif isinstance(x, Value) and x.number not in inside:
                    loads.setdefault(x.number, x)
        self.inputs = list(loads.values())
        self.stored = [v for v in needed if v.number in inside]
        if not self.reductions:
            self.shape, self.by_rows = self.stored[0].shape, False
        else:
            step, reduction = self.reductions[0]
            self.shape, axes = step.inputs[0].shape, reduction.axes
            self.by_rows = max((k for k, n in enumerate(self.shape) if n > 1), default=axes[0] if axes else -1) in axes
            if self.by_rows and self.stored:
                have = {v.number for v in self.stored}
                sums = {s.inputs[0].number: s.inputs[0] for s, _ in self.reductions}
                self.stored += [v for n, v in sums.items() if n in inside - have]
        self.outputs = self.stored + [s.outputs[0] for s, _ in self.reductions]

    @property
    def reads(self) -> list[Value]:
        return [x for x in self.inputs if isinstance(x, Value)]

    @property
    def writes(self) -> list[Value]:
        return self.outputs

    def compile(self, arrays: list[Any], outs: list[np.ndarray]) -> tuple[ModuleType, list[Any]]:
        """``(module, arguments)`` for these very arrays; a Live input's argument is left as it is.

        The module has the loop as ``kernel(*arguments)`` and as ``run``, for a tape.
        """
        # an input of fewer axes or of length one is repeated: stride 0; and so is the result of a reduction
        seen = [a if isinstance(a, Live) else np.broadcast_to(a, self.shape) for a in arrays]
        to = [self._spread(r.axes, o) for (_, r), o in zip(self.reductions, outs[len(self.stored) :])]
        places = [a for a in seen if not isinstance(a, Live)] + outs[: len(self.stored)] + to
        loops, strides = nests.collapse(self.shape, places)
        source, scratch = self._source(loops, strides)
        arguments = [a if isinstance(a, Live) else nests.flat(a) for a in arrays] + [nests.flat(o) for o in outs]
        if scratch:
            arguments += [np.empty(scratch, o.dtype) for o in outs[len(self.stored) :]]
        return load_source(source), arguments

    def _spread(self, axes: tuple[int, ...], out: np.ndarray) -> np.ndarray:
        return np.broadcast_to(out.reshape([1 if k in axes else n for k, n in enumerate(self.shape)]), self.shape)

    def _source(self, loops: list[int], strides: list[list[int]]) -> tuple[str, int]:
        compute, names, at = [], {}, iter(strides)
        args: list[tuple[str, str | None]] = []
        for k, x in enumerate(self.inputs):
            if isinstance(x, Live):
                args.append((f"s{k}", None))
                names[id(x)] = f"s{k}"
            else:
                args.append((f"a{k}", _type(x)))
                names[x.number] = f"v{x.number}"
                compute.append(f"v{x.number} = a{k}[{nests.index(next(at))}]")
        for step, expression in self.steps:
            out = step.outputs[0]
            # a number that is no input of the loop is a literal in the expression
            operands = [names.get(x.number if isinstance(x, Value) else id(x)) for x in step.inputs]
            for k, (char, text) in enumerate(expression.lines, 1 - len(expression.lines)):
                operands.append(f"v{out.number}_{-k}" if k else f"v{out.number}")
                compute.append(f"{operands[-1]} = {NUMBA_TYPES[char]}({text.format(*operands)})")
            names[out.number] = f"v{out.number}"
        for k, out in enumerate(self.outputs):
            args.append((f"o{k}", _type(out)))
        where = {v.number: f"o{k}[{nests.index(next(at))}]" for k, v in enumerate(self.stored)}
        store = [f"{place} = {names[n]}" for n, place in where.items()]
        reduced = [
            nests.Reduced(r.kind, names[s.inputs[0].number], f"o{len(self.stored) + k}", _type(s.inputs[0]), r.divisor)
            for k, (s, r) in enumerate(self.reductions)
        ]
        scratch = 0
        if not reduced:
            lines, parallel = nests.elementwise(loops, compute + store)
        else:
            to, inside = list(at), {names[n] for n in where}
            kept = [s != 0 for s in to[0]]
            if self.by_rows:
                again = [f"{names[n]} = {place}" for n, place in where.items()]
                again += [line for line in compute if line.split(" = ")[0] in {r.source for r in reduced} - inside]
                lines, parallel, scratch = nests.along_rows(loops, kept, compute, store, again, reduced)
            else:
                indices = [nests.index(s) for s in to]
                lines, parallel, scratch = nests.along_columns(loops, kept, compute + store, indices, reduced)
            if scratch:
                args += [(f"p{k}", r.number_type) for k, r in enumerate(reduced)]
        # value numbers differ between equal kernels of different places: number them anew, so that both share a file
        order: dict[str, str] = {}

        def anew(found: re.Match) -> str:
            return order.setdefault(found.group(), f"x{len(order)}")

        lines = [re.sub(r"\bv\d+(_\d+)?\b", anew, line) for line in lines]
        return _module_source(args, lines, parallel), scratch


def copy_kernel(source: np.ndarray, out: np.ndarray) -> tuple[ModuleType, list[Any]] | None:
    """``(module, arguments)`` of a loop that copies ``source`` to ``out``, both plain (:func:`.memory.is_plain`), of
    one shape and dtype and not empty; None if the dtype is none that loops know."""
    if out.dtype.char not in NUMBA_TYPES:
        return None
    loops, (at, to) = nests.collapse(out.shape, [source, out])
    lines, parallel = nests.elementwise(loops, [f"o0[{nests.index(to)}] = a0[{nests.index(at)}]"])
    kind = NUMBA_TYPES[out.dtype.char]
    return load_source(_module_source([("a0", kind), ("o0", kind)], lines, parallel)), [
        nests.flat(source), nests.flat(out),
    ]  # fmt: skip


def _module_source(arguments: list[tuple[str, str | None]], lines: list[str], parallel: bool) -> str:
    """A module with ``kernel`` and ``run`` (see :meth:`FusedKernel.compile`), of arguments given by name and dtype;
    None for a live number."""
    operands, words = [], 0
    for _, kind in arguments:
        if kind is None:
            operands.append(f"number(p, {words})")
            words += 1
        else:
            operands.append(f"carray(pointer(word(p, {words})), (word(p, {words + 1}),), {kind})")
            words += 2
    names = ", ".join(name for name, _ in arguments)
    text = "\n".join("    " + line for line in lines)
    entry = "\n".join(f"        {o}," for o in operands)
    return with_header(
        f"@compiled(parallel={parallel})\ndef kernel({names}):\n{text}\n\n\n"
        f"@entry\ndef run(p):\n    kernel(\n{entry}\n    )\n"
    )
