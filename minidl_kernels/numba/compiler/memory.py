"""Planned memory: how long values live, which buffers they share, and which arrays loops can run over.

Memory is planned as registers are: a buffer whose value is dead serves the next one.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from minidl.jit.program import Program, Value


def native(dtype: np.dtype) -> np.dtype:
    """The dtype in the machine's byte order, which all memory of a compiled program has."""
    return dtype if dtype.isnative else dtype.newbyteorder("=")


def is_plain(a: Any) -> bool:
    """Can loops run over this array as it is? Not if it is of foreign byte order, not aligned, walks backwards, or has
    gaps that are no whole number of elements."""
    return (
        isinstance(a, np.ndarray)
        and a.dtype.isnative
        and a.flags.aligned
        and all(s >= 0 and s % max(a.itemsize, 1) == 0 for s in a.strides)
    )


def lifetimes(items: list[Any], program: Program) -> dict[int, int]:
    """For each value the index of the last item that needs its memory, views included."""
    last: dict[int, int] = {}
    for i, item in enumerate(items):
        last.update((v.number, i) for v in item.reads)
    for v in [*program.results, *(value for _, value in program.updates)]:
        last[v.number] = len(items)
    for item in reversed(items):
        if item.is_view:
            source = item.reads[0].number
            last[source] = max([last.get(source, -1), *(last.get(out.number, -1) for out in item.writes)])
    return last


def in_place(items: list[Any], program: Program, last: dict[int, int], fixed: set[int]) -> dict[int, Value]:
    """Outputs of donated steps that only serve to update the very external value that was donated, with that value.

    ``last`` has the last item that reads each value: if it comes later, the value must not be overwritten yet. Values
    numbered in ``fixed`` cannot be updated in place.
    """
    updates = {value.number: target for target, value in program.updates}
    found = {}
    for i, item in enumerate(items):
        for d, out in item.donated:
            target = updates.get(out.number)
            if target is None or target.number != d.number or target.number in fixed:
                continue
            if last.get(d.number, i) <= i:
                found[out.number] = target
    return found


def aligned(nbytes: int) -> np.ndarray:
    """So many bytes, of which the first begins a cache line."""
    raw = np.empty(nbytes + 64, np.uint8)
    start = -raw.ctypes.data % 64
    return raw[start : start + nbytes]


class Pool:
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
            buffer = aligned(need)
            self.total += need
        array = buffer[: need if np.prod(shape, dtype=np.int64) else 0].view(dtype).reshape(shape)
        return buffer, array

    def give(self, buffer: np.ndarray) -> None:
        """The buffer may serve other values."""
        self.free.append(buffer)


class Workspace:
    """Memory that calls use one after the other, each for as long as it runs."""

    def __init__(self) -> None:
        self.buffer = np.empty(0, np.uint8)

    def take(self, size: int, dtype: np.dtype) -> np.ndarray:
        """``size`` elements, not initialized; whoever keeps the array keeps its memory."""
        if self.buffer.nbytes < size * dtype.itemsize:
            self.buffer = aligned(size * dtype.itemsize)
        return self.buffer[: size * dtype.itemsize].view(dtype)
