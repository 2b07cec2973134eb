"""Chains of elementwise steps as one generated kernel.

:func:`group_steps` decides which steps run together; :class:`FusedKernel` writes the loop for such a group, over flat
memory with the strides written in as numbers, so that LLVM sees plain vectorizable loops. Sources go to files in a
cache folder, named by their hash, so that Numba's own disk cache keeps the compiled code between runs.
"""

from __future__ import annotations

import hashlib
import importlib.util
import math
import os
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from minidl.backend.live import Live
from minidl.compiler.program import Step, Value
from minidl_kernels.numba import vecmath
from minidl_kernels.numba.expressions import NUMBA_TYPES, constant, expression

#: below this many elements a loop is not worth splitting over threads
PARALLEL_FROM = 1 << 16

# what the generated code takes from vecmath is compiled into it, so a change there must make other files
_VECMATH = hashlib.sha256(Path(vecmath.__file__).read_bytes()).hexdigest()[:16]

HEADER = f"""# with vecmath {_VECMATH}
import math

import numpy as np
from numba import carray, cfunc, njit, prange, types

from minidl_kernels.numba.tape import number, pointer, word
from minidl_kernels.numba.vecmath import (
    erf32, erf64, exp32, exp64, gelu_slope32, gelu_slope64, gelu_tanh_slope32, gelu_tanh_slope64, log32, log64,
    normal_cdf32, normal_cdf64, sigmoid32, sigmoid64, silu_slope32, silu_slope64, tanh32, tanh64,
)


"""


def is_elementwise(step: Step) -> bool:
    """Can this step be part of a fused loop?"""
    if len(step.outputs) != 1:
        return False
    dtypes = [i.dtype if isinstance(i, Value) else None for i in step.inputs]
    if any(i is None for i in step.inputs) or any(isinstance(p, (Live, np.ndarray)) for p in step.params.values()):
        return False
    return expression(step.prim, step.params, step.outputs[0].dtype, dtypes) is not None


class Group:
    """Elementwise steps with one output shape that run in one loop, at the place of the last of them."""

    def __init__(self, members: list[int], shape: tuple[int, ...]) -> None:
        self.members = members
        self.shape = shape


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
    group_of: dict[int, Group] = {}
    for i, step in enumerate(steps):
        if is_view[i] or not is_elementwise(step):
            continue
        shape = step.outputs[0].shape
        merged = Group([i], shape)
        # only direct reading joins loops: through a view the elements may be others
        candidates = {
            id(g): g for v in step.values if (g := group_of.get(maker.get(v.number, -1))) and g.shape == shape
        }
        for g in candidates.values():
            together = set(g.members) | set(merged.members)
            if len(together) > most:
                continue
            through_view = any(sources(v) in together and maker.get(v.number) not in together for v in step.values)
            if not through_view and all(r >= i or r in together for m in g.members for r in readers.get(m, ())):
                merged.members = sorted(together)
        for m in merged.members:
            group_of[m] = merged
    seen: dict[int, Group] = {id(g): g for g in group_of.values()}
    return list(seen.values())


class FusedKernel:
    """The compiled loop of one group, for arrays of given shapes and strides.

    ``inputs`` are the Values and Live scalars to load, in order; ``outputs`` the Values to store.
    """

    def __init__(self, steps: list[Step], outputs: list[Value]) -> None:
        self.steps = steps
        self.outputs = outputs
        inside = {o.number for s in steps for o in s.outputs}
        loads: dict[int, Any] = {}
        for s in steps:
            for x in s.inputs:
                if isinstance(x, Live):
                    loads.setdefault(id(x), x)
                elif isinstance(x, Value) and x.number not in inside:
                    loads.setdefault(x.number, x)
        self.inputs = list(loads.values())
        self.shape = outputs[0].shape

    def compile(self, arrays: list[Any], outs: list[np.ndarray]) -> tuple[ModuleType, list[Any]]:
        """``(module, arguments)`` for these very arrays; a Live input's argument is left as it is.

        The module has the loop as ``kernel(*arguments)`` and as ``entry``, for a tape.
        """
        # an input of fewer axes or of length one is repeated: stride 0
        seen = [a if isinstance(a, Live) else np.broadcast_to(a, self.shape) for a in arrays]
        loops, strides = _collapse(self.shape, [a for a in seen if not isinstance(a, Live)] + outs)
        source = self._source(loops, strides)
        arguments = [a if isinstance(a, Live) else _flat(a) for a in arrays] + [_flat(o) for o in outs]
        return load_source(source), arguments

    def _source(self, loops: list[int], strides: list[list[int]]) -> str:
        total = math.prod(loops)
        parallel = total >= PARALLEL_FROM
        body, names, at = [], {}, iter(strides)
        args = []
        for k, x in enumerate(self.inputs):
            if isinstance(x, Live):
                args.append(f"s{k}")
                names[id(x)] = f"s{k}"
            else:
                args.append(f"a{k}")
                names[x.number] = f"v{x.number}"
                body.append(f"v{x.number} = a{k}[{_index(next(at))}]")
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
            body.append(f"v{out.number} = {NUMBA_TYPES[out.dtype.char]}({text})")
            names[out.number] = f"v{out.number}"
        for k, out in enumerate(self.outputs):
            args.append(f"o{k}")
            body.append(f"o{k}[{_index(next(at))}] = {names[out.number]}")
        # value numbers differ between equal kernels of different places: number them anew, so that both share a file
        order: dict[str, str] = {}
        lines = _loop_nest(loops, parallel, body)
        text = f"def kernel({', '.join(args)}):\n" + "\n".join("    " + line for line in lines) + "\n"
        text = re.sub(r"\bv\d+\b", lambda m: order.setdefault(m.group(), f"x{len(order)}"), text)
        options = 'cache=True, nogil=True, error_model="numpy", fastmath={"contract", "nsz"}'
        operands, at_word = [], 0
        for x in [*self.inputs, *self.outputs]:
            if isinstance(x, Live):
                operands.append(f"number(p, {at_word})")
                at_word += 1
            else:
                kind = NUMBA_TYPES[x.dtype.char]
                operands.append(f"carray(pointer(word(p, {at_word})), (word(p, {at_word + 1}),), {kind})")
                at_word += 2
        entry = "\n".join(f"        {o}," for o in operands)
        return (
            f"{HEADER}@njit({options}{', parallel=True' if parallel else ''})\n{text}\n\n"
            f"@cfunc(types.void(types.intp), cache=True)\ndef entry(p):\n    kernel(\n{entry}\n    )\n"
        )


def _collapse(shape: tuple[int, ...], arrays: list[np.ndarray]) -> tuple[list[int], list[list[int]]]:
    """Merge neighbouring axes that every array walks in one stride: (extents, strides in elements per array)."""
    loops: list[int] = []
    strides: list[list[int]] = [[] for _ in arrays]
    for axis in range(len(shape)):
        n = shape[axis]
        if n == 1:
            continue
        here = [a.strides[axis] // a.itemsize for a in arrays]
        if loops and all(s[-1] == h * n for s, h in zip(strides, here)):
            loops[-1] *= n
            for s, h in zip(strides, here):
                s[-1] = h
        else:
            loops.append(n)
            for s, h in zip(strides, here):
                s.append(h)
    return (loops, strides) if loops else ([1], [[0] for _ in arrays])


def _flat(a: np.ndarray) -> np.ndarray:
    """The memory from the first element of ``a`` to its last, as a contiguous 1-d array. No negative strides."""
    if a.size == 0:
        return a.reshape(-1)
    length = 1 + sum((n - 1) * s // a.itemsize for n, s in zip(a.shape, a.strides))
    return np.lib.stride_tricks.as_strided(a, (length,), (a.itemsize,))


def _index(strides: list[int]) -> str:
    terms = [f"i{k}" if s == 1 else f"i{k} * {s}" for k, s in enumerate(strides) if s]
    return " + ".join(terms) or "0"


def _loop_nest(loops: list[int], parallel: bool, body: list[str]) -> list[str]:
    lines = []
    depth = 0

    def add(text: str) -> None:
        lines.append("    " * depth + text)

    if parallel and len(loops) == 1:
        chunk = -(-loops[0] // (8 * (os.cpu_count() or 1)))
        add(f"for c in prange({-(-loops[0] // chunk)}):")
        depth += 1
        add(f"for i0 in range(c * {chunk}, min({loops[0]}, (c + 1) * {chunk})):")
        depth += 1
    else:
        for k, n in enumerate(loops):
            add(f"for i{k} in {'prange' if parallel and k == 0 else 'range'}({n}):")
            depth += 1
    for text in body:
        add(text)
    return lines


_modules: dict[str, ModuleType] = {}


def cache_folder() -> Path:
    """Where generated kernels live: ``$MINIDL_CACHE/kernels``, else ``~/.cache/minidl/kernels`` (XDG honoured)."""
    base = os.environ.get("MINIDL_CACHE") or os.path.join(
        os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "minidl"
    )
    return Path(base) / "kernels"


def load_source(source: str) -> ModuleType:
    """The module of a generated source; written to the cache folder first, atomically, if it is new."""
    name = "k" + hashlib.sha256(source.encode()).hexdigest()[:24]
    if name in _modules:
        return _modules[name]
    folder = cache_folder()
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
