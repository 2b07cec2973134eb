"""Chains of elementwise steps, and reductions of their results, as one generated kernel.

:func:`group_steps` decides which steps run together; :class:`FusedKernel` writes the loops for such a group, over flat
memory (see :mod:`~.loops`). Sources go to files in a cache folder, named by their hash, so that
Numba's own disk cache keeps the compiled code between runs.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from minidl.core.trace import Live
from minidl.files import cache_folder
from minidl.jit.program import Step, Value
from minidl.ops.reduction import normalize_axes
from minidl_kernels.numba.compiler import loops as nests
from minidl_kernels.numba.compiler.expressions import NUMBA_TYPES, constant, expression
from minidl_kernels.numba.simd import vecmath

# what the generated code takes from vecmath is compiled into it, so a change there must make other files
_VECMATH = hashlib.sha256(Path(vecmath.__file__).read_bytes()).hexdigest()[:16]

HEADER = f"""# with vecmath {_VECMATH}
import math

import numpy as np
from numba import carray, cfunc, njit, prange, types

from minidl_kernels.numba.simd.vecmath import (
    add_any_order, erf32, erf64, exp32, exp64, gelu_slope32, gelu_slope64, gelu_tanh_slope32, gelu_tanh_slope64, log32,
    log64, nan_max, nan_min, normal_cdf32, normal_cdf64, sigmoid32, sigmoid64, silu_slope32, silu_slope64, tanh32,
    tanh64,
)
from minidl_kernels.numba.simd.words import number, pointer, word


"""


def is_elementwise(step: Step) -> bool:
    """Can this step be part of a fused loop?"""
    if len(step.outputs) != 1:
        return False
    dtypes = [i.dtype if isinstance(i, Value) else None for i in step.inputs]
    if any(i is None for i in step.inputs) or any(isinstance(p, (Live, np.ndarray)) for p in step.params.values()):
        return False
    return expression(step.prim, step.params, step.outputs[0].dtype, dtypes) is not None


def reduced_axes(step: Step) -> tuple[int, ...] | None:
    """The axes over which this step reduces, if it is a reduction that a loop can end with; else None."""
    name, x = step.prim.name, step.inputs[0] if len(step.inputs) == 1 else None
    if name not in _REDUCTIONS or not isinstance(x, Value) or x.dtype.char not in "fd" or 0 in x.shape:
        return None
    if step.outputs[0].dtype != x.dtype:
        return None
    if name == "sum_to":
        to = (1,) * (len(x.shape) - len(step.params["shape"])) + tuple(step.params["shape"])
        return tuple(k for k, n in enumerate(to) if n == 1)
    return normalize_axes(step.params.get("axis"), len(x.shape))


_REDUCTIONS = {"sum": "sum", "sum_to": "sum", "mean": "sum", "max": "max", "min": "min"}


class Group:
    """Steps that run in one loop over ``shape``, at the place of the last of them.

    They are elementwise, but for those in ``ends``, which reduce what others computed (or something else of this shape)
    over ``axes``.
    """

    def __init__(self, members: list[int], shape: tuple[int, ...]) -> None:
        self.members = members
        self.shape = shape
        self.ends: list[int] = []
        self.axes: tuple[int, ...] | None = None


def group_steps(steps: list[Step], is_view: list[bool], most: int = 24) -> list[Group]:
    """Greedy grouping: a step joins the groups of its producers, if everything else that reads these comes later.

    A view (``is_view``) takes no time and has no place in the order; who reads it reads its source.
    """
    maker = {o.number: i for i, s in enumerate(steps) for o in s.outputs}

    def sources(v: Value) -> int | None:
        """The step that made the memory behind ``v``, looking through views."""
        i = maker.get(v.number)
        while i is not None and is_view[i]:
            i = maker.get(steps[i].values[0].number)
        return i

    readers: dict[int, list[int]] = {}
    for i, s in enumerate(steps):
        if not is_view[i]:
            for v in s.values:
                made = sources(v)
                if made is not None:
                    readers.setdefault(made, []).append(i)
    groups: dict[int, Group] = {}  # by the elementwise member
    found: list[Group] = []
    for i, step in enumerate(steps):
        if is_view[i]:
            continue
        axes = reduced_axes(step)
        if axes is None and not is_elementwise(step):
            continue
        shape = step.outputs[0].shape if axes is None else step.inputs[0].shape
        merged = Group([i], shape)
        if axes is not None:
            merged.ends, merged.axes = [i], axes
        # only direct reading joins loops: through a view the elements may be others
        candidates = {id(g): g for v in step.values if (g := groups.get(maker.get(v.number, -1))) and g.shape == shape}
        for g in candidates.values():
            together = set(g.members) | set(merged.members)
            ends = set(g.ends) | set(merged.ends)
            if len(together) > most or len({g.axes, merged.axes} - {None}) > 1:
                continue
            apart = any(
                sources(v) in ends or (sources(v) in together and maker.get(v.number) not in together)
                for v in step.values
            )
            if not apart and all(r >= i or r in together for m in g.members for r in readers.get(m, ())):
                merged.members, merged.ends = sorted(together), sorted(ends)
                merged.axes = g.axes if merged.axes is None else merged.axes
                found.remove(g)
        found.append(merged)
        for m in set(merged.members) - set(merged.ends):
            groups[m] = merged
    return found


class FusedKernel:
    """The compiled loop of one group, for arrays of given shapes and strides.

    ``inputs`` are the Values and Live scalars to load, in order; ``outputs`` the Values to store, of which ``needed``
    are read by others.
    """

    def __init__(self, steps: list[Step], needed: list[Value]) -> None:
        self.steps = [s for s in steps if reduced_axes(s) is None]
        self.reductions = [s for s in steps if reduced_axes(s) is not None]
        inside = {o.number for s in self.steps for o in s.outputs}
        loads: dict[int, Any] = {}
        for s in steps:
            for x in s.inputs:
                if isinstance(x, Live):
                    loads.setdefault(id(x), x)
                elif isinstance(x, Value) and x.number not in inside:
                    loads.setdefault(x.number, x)
        self.inputs = list(loads.values())
        self.stored = [v for v in needed if v.number in inside]
        if not self.reductions:
            self.shape, self.by_rows = self.stored[0].shape, False
        else:
            self.shape, axes = self.reductions[0].inputs[0].shape, reduced_axes(self.reductions[0])
            self.by_rows = max((k for k, n in enumerate(self.shape) if n > 1), default=axes[0] if axes else -1) in axes
            if self.by_rows and self.stored:
                have = {v.number for v in self.stored}
                sums = {s.inputs[0].number: s.inputs[0] for s in self.reductions}
                self.stored += [v for n, v in sums.items() if n in inside - have]
        self.outputs = self.stored + [s.outputs[0] for s in self.reductions]

    def compile(self, arrays: list[Any], outs: list[np.ndarray]) -> tuple[ModuleType, list[Any]]:
        """``(module, arguments)`` for these very arrays; a Live input's argument is left as it is.

        The module has the loop as ``kernel(*arguments)`` and as ``entry``, for a tape.
        """
        # an input of fewer axes or of length one is repeated: stride 0; and so is the result of a reduction
        seen = [a if isinstance(a, Live) else np.broadcast_to(a, self.shape) for a in arrays]
        to = [self._spread(s, o) for s, o in zip(self.reductions, outs[len(self.stored) :])]
        places = [a for a in seen if not isinstance(a, Live)] + outs[: len(self.stored)] + to
        loops, strides = nests.collapse(self.shape, places)
        source, scratch = self._source(loops, strides)
        arguments = [a if isinstance(a, Live) else nests.flat(a) for a in arrays] + [nests.flat(o) for o in outs]
        if scratch:
            arguments += [np.empty(scratch, o.dtype) for o in outs[len(self.stored) :]]
        return load_source(source), arguments

    def _spread(self, step: Step, out: np.ndarray) -> np.ndarray:
        axes = reduced_axes(step)
        return np.broadcast_to(out.reshape([1 if k in axes else n for k, n in enumerate(self.shape)]), self.shape)

    def _source(self, loops: list[int], strides: list[list[int]]) -> tuple[str, int]:
        compute, names, at = [], {}, iter(strides)
        args: list[tuple[str, str | None]] = []
        for k, x in enumerate(self.inputs):
            if isinstance(x, Live):
                args.append((f"s{k}", None))
                names[id(x)] = f"s{k}"
            else:
                args.append((f"a{k}", NUMBA_TYPES[x.dtype.char]))
                names[x.number] = f"v{x.number}"
                compute.append(f"v{x.number} = a{k}[{nests.index(next(at))}]")
        for s in self.steps:
            out = s.outputs[0]
            ins = [i.dtype if isinstance(i, Value) else None for i in s.inputs]
            common = next((d for d in ins if d is not None), out.dtype)
            texts = []
            for x in s.inputs:
                if isinstance(x, Value):
                    texts.append(names[x.number])
                elif isinstance(x, Live):
                    texts.append(f"{NUMBA_TYPES[common.char]}({names[id(x)]})")
                else:
                    texts.append(constant(x, common.char if common.char != "?" else out.dtype.char))
            text = expression(s.prim, s.params, out.dtype, ins).format(*texts)
            compute.append(f"v{out.number} = {NUMBA_TYPES[out.dtype.char]}({text})")
            names[out.number] = f"v{out.number}"
        for k, out in enumerate(self.outputs):
            args.append((f"o{k}", NUMBA_TYPES[out.dtype.char]))
        where = {v.number: f"o{k}[{nests.index(next(at))}]" for k, v in enumerate(self.stored)}
        store = [f"{place} = {names[n]}" for n, place in where.items()]
        reduced = [self._reduced(s, f"o{len(self.stored) + k}", names) for k, s in enumerate(self.reductions)]
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
        lines = [re.sub(r"\bv\d+\b", lambda m: order.setdefault(m.group(), f"x{len(order)}"), line) for line in lines]
        return _module_source(args, lines, parallel), scratch

    def _reduced(self, step: Step, target: str, names: dict[int, str]) -> nests.Reduced:
        x = step.inputs[0]
        count = 1
        for k in reduced_axes(step) if step.prim.name == "mean" else ():
            count *= x.shape[k]
        return nests.Reduced(_REDUCTIONS[step.prim.name], names[x.number], target, NUMBA_TYPES[x.dtype.char], count)


def copy_kernel(source: np.ndarray, out: np.ndarray) -> tuple[ModuleType, list[Any]] | None:
    """``(module, arguments)`` of a loop that copies ``source`` to ``out``, of one shape and dtype and not empty; None
    if it cannot be written."""
    if out.dtype.char not in NUMBA_TYPES or min([*source.strides, *out.strides], default=0) < 0:
        return None
    loops, (at, to) = nests.collapse(out.shape, [source, out])
    lines, parallel = nests.elementwise(loops, [f"o0[{nests.index(to)}] = a0[{nests.index(at)}]"])
    kind = NUMBA_TYPES[out.dtype.char]
    return load_source(_module_source([("a0", kind), ("o0", kind)], lines, parallel)), [
        nests.flat(source), nests.flat(out),
    ]  # fmt: skip


def _module_source(arguments: list[tuple[str, str | None]], lines: list[str], parallel: bool) -> str:
    """A module with ``kernel`` and ``entry`` (see :meth:`FusedKernel.compile`), of arguments given by name and dtype;
    None for a live number."""
    operands, words = [], 0
    for _, kind in arguments:
        if kind is None:
            operands.append(f"number(p, {words})")
            words += 1
        else:
            operands.append(f"carray(pointer(word(p, {words})), (word(p, {words + 1}),), {kind})")
            words += 2
    options = 'cache=True, nogil=True, error_model="numpy", fastmath={"contract", "nsz"}'
    names = ", ".join(name for name, _ in arguments)
    text = "\n".join("    " + line for line in lines)
    entry = "\n".join(f"        {o}," for o in operands)
    return (
        f"{HEADER}@njit({options}{', parallel=True' if parallel else ''})\ndef kernel({names}):\n{text}\n\n\n"
        f"@cfunc(types.void(types.intp), cache=True)\ndef entry(p):\n    kernel(\n{entry}\n    )\n"
    )


_modules: dict[str, ModuleType] = {}


def load_source(source: str) -> ModuleType:
    """The module of a generated source; written to the cache folder first, atomically, if it is new."""
    name = "k" + hashlib.sha256(source.encode()).hexdigest()[:24]
    if name in _modules:
        return _modules[name]
    folder = cache_folder() / "kernels"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.py"
    if not path.exists() or path.read_text() != source:
        temporary = path.with_suffix(f".{os.getpid()}.tmp")
        temporary.write_text(source)
        os.replace(temporary, path)
    spec = importlib.util.spec_from_file_location(f"minidl_generated_{name}", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # Numba's cache finds a function again by its module
    spec.loader.exec_module(module)
    _modules[name] = module
    return module
