"""The text of loops over arrays of given strides: elementwise, and ending in sums and extremes over some axes.

Strides and extents are written into the loops as numbers, so that LLVM sees what it can vectorize. In what is generated
here, ``i0``, ``i1`` … run over the axes, ``o0`` … are arrays to write.
"""

from __future__ import annotations

import dataclasses
import math
import os

import numpy as np

from minidl_kernels.numba.simd.common import FUSED_PARALLEL_FROM

#: elements that are added up in the dtype itself; sums of so many are added up in float64
SUMMED = 1 << 11
#: parts into which rows are cut whose sum is taken along columns
_PARTS = 16

#: start value, and one more number taken in: in a vectorized loop of its own, and elsewhere
REDUCTIONS = {
    "sum": ("0.0", "vecmath.add_any_order({0}, {1})", "{0} + {1}"),
    "max": ("-np.inf", "vecmath.nan_max({0}, {1})", "vecmath.nan_max({0}, {1})"),
    "min": ("np.inf", "vecmath.nan_min({0}, {1})", "vecmath.nan_min({0}, {1})"),
}


@dataclasses.dataclass
class Reduced:
    """A reduction in a loop: ``target`` (flat, in order of the axes that are kept) from the variable ``source``."""

    kind: str
    source: str
    target: str
    number_type: str
    divisor: int = 1

    def start(self) -> str:
        return f"{self.number_type}({REDUCTIONS[self.kind][0]})"

    def result(self, total: str) -> str:
        return f"{self.number_type}({total}{f' / {self.divisor}' if self.divisor != 1 else ''})"


def collapse(shape: tuple[int, ...], arrays: list[np.ndarray]) -> tuple[list[int], list[list[int]]]:
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


def flat(a: np.ndarray) -> np.ndarray:
    """The memory from the first element of ``a`` to its last, as a contiguous 1-d array. No negative strides."""
    if a.size == 0:
        return a.reshape(-1)
    length = 1 + sum((n - 1) * s // a.itemsize for n, s in zip(a.shape, a.strides))
    return np.lib.stride_tricks.as_strided(a, (length,), (a.itemsize,))


def index(strides: list[int]) -> str:
    """Where the element of the current ``i0``, ``i1`` … is; unsigned, for Numba else asks whether it is negative."""
    terms = [f"i{k}" if s == 1 else f"i{k} * {s}" for k, s in enumerate(strides) if s]
    return f"np.uintp({' + '.join(terms)})" if terms else "0"


class _Lines:
    def __init__(self) -> None:
        self.lines: list[str] = []
        self.depth = 0

    def add(self, *texts: str) -> None:
        self.lines += ["    " * self.depth + t for t in texts]

    def loop(self, variable: str, extent: str, parallel: bool = False) -> None:
        self.add(f"for {variable} in {'prange' if parallel else 'range'}({extent}):")
        self.depth += 1


def elementwise(loops: list[int], body: list[str]) -> tuple[list[str], bool]:
    """The nest of loops around ``body``, and whether it is parallel."""
    parallel = math.prod(loops) >= FUSED_PARALLEL_FROM
    out = _Lines()
    if parallel and len(loops) == 1:
        chunk = -(-loops[0] // (8 * (os.cpu_count() or 1)))
        out.loop("c", str(-(-loops[0] // chunk)), parallel=True)
        out.loop("i0", f"c * {chunk}, min({loops[0]}, (c + 1) * {chunk})")
    else:
        for k, n in enumerate(loops):
            out.loop(f"i{k}", str(n), parallel and k == 0)
    out.add(*body)
    return out.lines, parallel


def along_rows(
    loops: list[int], kept: list[bool], compute: list[str], store: list[str], again: list[str], reduced: list[Reduced]
) -> tuple[list[str], bool, int]:
    """Reductions whose last axis is reduced: a piece of a row at a time.

    With ``store``, what is computed is stored first, and the reduction gets its numbers by ``again``: a loop that sums
    in any order must store nothing (see :mod:`minidl_kernels.numba.simd.common`). Returns the lines, whether they are
    parallel, and the length of the scratch arrays ``p0`` … of the reductions (0: none).
    """
    last, n = len(loops) - 1, loops[-1]
    per_row = -(-n // SUMMED)
    outer = [k for k in range(len(loops)) if kept[k]]
    inner = [k for k in range(last) if not kept[k]]
    rows, pieces = math.prod(loops[k] for k in outer), math.prod(loops[k] for k in inner) * per_row
    parallel = math.prod(loops) >= FUSED_PARALLEL_FROM
    out = _Lines()
    out.loop("task", str(rows * pieces), parallel)
    out.add("t = np.int64(task)", "u = t")
    if per_row > 1:
        out.add(f"begin = u % {per_row} * {SUMMED}", f"end = min(begin + {SUMMED}, {n})", f"u //= {per_row}")
    for k in reversed(outer + inner):
        out.add(f"i{k} = u % {loops[k]}", f"u //= {loops[k]}")
    extent = "begin, end" if per_row > 1 else str(n)
    if store:
        out.loop(f"i{last}", extent)
        out.add(*compute, *store)
        out.depth -= 1
    for k, r in enumerate(reduced):
        out.add(f"r{k} = {r.start()}")
    out.loop(f"i{last}", extent)
    out.add(*(again if store else compute))
    for k, r in enumerate(reduced):
        out.add(f"r{k} = " + REDUCTIONS[r.kind][1].format(f"r{k}", r.source))
    out.depth -= 1
    if pieces == 1:
        out.add(*(f"{r.target}[t] = {r.result(f'r{k}')}" for k, r in enumerate(reduced)))
        return out.lines, parallel, 0
    out.add(*(f"p{k}[t] = r{k}" for k in range(len(reduced))))
    out.depth = 0
    out.loop("t", str(rows))
    for k, r in enumerate(reduced):
        out.add(f"s{k} = np.float64({REDUCTIONS[r.kind][0]})")
        out.loop("q", str(pieces))
        out.add(f"s{k} = " + REDUCTIONS[r.kind][2].format(f"s{k}", f"np.float64(p{k}[t * {pieces} + q])"))
        out.depth -= 1
        out.add(f"{r.target}[t] = {r.result(f's{k}')}")
    return out.lines, parallel, rows * pieces


def along_columns(
    loops: list[int], kept: list[bool], body: list[str], places: list[str], reduced: list[Reduced]
) -> tuple[list[str], bool, int]:
    """Reductions whose last axis is kept: row after row is taken into the results, at ``places``.

    Returns the same as :func:`along_rows`.
    """
    size = math.prod(n for n, k in zip(loops, kept) if k)
    parallel = math.prod(loops) >= FUSED_PARALLEL_FROM
    parts = min(_PARTS, loops[0]) if parallel and not kept[0] else 1
    out = _Lines()
    if parts > 1:
        out.loop("part", str(parts), parallel=True)
        out.add("c = np.int64(part)", f"base = c * {size}")
    goals = [f"p{k}[base + j]" if parts > 1 else f"{r.target}[j]" for k, r in enumerate(reduced)]
    out.loop("j", str(size))
    out.add(*(f"{g} = {r.start()}" for g, r in zip(goals, reduced)))
    out.depth -= 1
    for k, n in enumerate(loops):
        if parts > 1 and k == 0:
            out.loop("i0", f"c * {n} // {parts}, (c + 1) * {n} // {parts}")
        else:
            out.loop(f"i{k}", str(n), parallel and k == 0)
    out.add(*body)
    for k, (place, r) in enumerate(zip(places, reduced)):
        to = f"p{k}[base + {place}]" if parts > 1 else f"{r.target}[{place}]"
        out.add(f"{to} = " + REDUCTIONS[r.kind][2].format(to, r.source))
    out.depth = 0
    if parts > 1:
        out.loop("j", str(size))
        for k, r in enumerate(reduced):
            out.add(f"r{k} = p{k}[j]")
            out.loop("q", f"1, {parts}")
            out.add(f"r{k} = " + REDUCTIONS[r.kind][2].format(f"r{k}", f"p{k}[q * {size} + j]"))
            out.depth -= 1
            out.add(f"{r.target}[j] = {r.result(f'r{k}')}")
    elif any(r.divisor != 1 for r in reduced):
        out.loop("j", str(size))
        out.add(*(f"{r.target}[j] = {r.result(f'{r.target}[j]')}" for r in reduced if r.divisor != 1))
    return out.lines, parallel, parts * size if parts > 1 else 0
