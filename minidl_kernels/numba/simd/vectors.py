"""Vectors: how wide they are on this processor, and their instructions, in the words of :mod:`~.simd.tiles`.

What Numba's loops over elements cannot say to LLVM is that a block of numbers is to stay in vector registers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numba
import numpy as np
from llvmlite import binding, ir
from numba import types
from numba.core import cgutils


def _features() -> set[str]:
    """What Numba compiles for: the host's processor, or what NUMBA_CPU_NAME and NUMBA_CPU_FEATURES say instead."""
    given = numba.config.CPU_FEATURES
    if given is None:
        given = "" if numba.config.CPU_NAME else binding.get_host_cpu_features().flatten()
    return {f[1:] for f in given.split(",") if f.startswith("+")}


_FEATURES = _features()
#: bytes in a vector register
VECTOR_BYTES = 64 if "avx512f" in _FEATURES else 32 if "avx" in _FEATURES else 16
#: processors of the x86 family have 16 vector registers before AVX-512, others 32
_FEW_REGISTERS = "sse2" in _FEATURES and VECTOR_BYTES < 64
#: A tile of a matrix product is ROWS x VECTORS vectors of sums; besides them a row of the right-hand matrix and a
#: number of the left-hand one must have room.
ROWS, VECTORS = 6 if _FEW_REGISTERS else 8, 2
#: the same for products of rows with rows: each sum is a vector, whose numbers are added up in the end
DOT_ROWS, DOT_COLUMNS = (2, 4) if _FEW_REGISTERS else (4, 6)

INT = ir.IntType(64)
_INDEX = ir.IntType(32)
_BYTES = ir.IntType(8).as_pointer()


def lanes(dtype: Any) -> int:
    """Numbers of this dtype in a vector."""
    return VECTOR_BYTES // np.dtype(dtype).itemsize


def columns(dtype: Any) -> int:
    """Columns of a tile, and of a panel of a packed matrix."""
    return VECTORS * lanes(dtype)


def integer(value: int) -> ir.Constant:
    return ir.Constant(INT, value)


class Code:
    """Instructions on vectors of an array's dtype, float32 or float64."""

    def __init__(self, context: Any, builder: ir.IRBuilder, array: types.Array) -> None:
        self.context, self.builder = context, builder
        self.scalar = context.get_value_type(array.dtype)
        self.size = array.dtype.bitwidth // 8
        self.lanes = VECTOR_BYTES // self.size
        self.vector = ir.VectorType(self.scalar, self.lanes)
        self.name = f"v{self.lanes}f{array.dtype.bitwidth}"
        kind = ir.FunctionType(self.vector, [self.vector] * 3)
        self._multiply_add = cgutils.get_or_insert_function(builder.module, kind, f"llvm.fmuladd.{self.name}")

    # addresses

    def pointer(self, array: types.Array, value: ir.Value, *offsets: Any) -> ir.Value:
        return self.at(self.context.make_array(array)(self.context, self.builder, value).data, *offsets)

    def matrix(self, array: types.Array, value: ir.Value) -> tuple[ir.Value, list[ir.Value], list[ir.Value]]:
        """(address, shape, strides in bytes) of a 2-d array"""
        found = self.context.make_array(array)(self.context, self.builder, value)
        shape, strides = (cgutils.unpack_tuple(self.builder, x, 2) for x in (found.shape, found.strides))
        return found.data, shape, strides

    def at(self, pointer: ir.Value, *offsets: Any) -> ir.Value:
        """``pointer`` moved on by so many numbers, ints or values."""
        for o in offsets:
            pointer = self.builder.gep(pointer, [integer(o) if isinstance(o, int) else o])
        return pointer

    def strided(self, pointer: ir.Value, *steps: tuple[Any, ir.Value]) -> ir.Value:
        """``pointer`` moved on by count x stride bytes for each of ``steps``; counts are ints or values."""
        moved = self.builder.bitcast(pointer, _BYTES)
        for count, stride in steps:
            count = integer(count) if isinstance(count, int) else count
            moved = self.builder.gep(moved, [self.builder.mul(count, stride)])
        return self.builder.bitcast(moved, self.scalar.as_pointer())

    def hidden(self, pointer: ir.Value) -> ir.Value:
        """The same address, of which LLVM does not know how it was made: passed through an empty piece of assembly."""
        kind = ir.FunctionType(pointer.type, [pointer.type])
        return self.builder.call(ir.InlineAsm(kind, "", "=r,0"), [pointer])

    def times(self, value: ir.Value, number: int) -> ir.Value:
        return self.builder.mul(value, integer(number))

    # memory

    def load(self, pointer: ir.Value) -> ir.Value:
        return self.builder.load(self.builder.bitcast(pointer, self.vector.as_pointer()), align=self.size)

    def store(self, value: ir.Value, pointer: ir.Value) -> None:
        self.builder.store(value, self.builder.bitcast(pointer, self.vector.as_pointer()), align=self.size)

    def mask(self, count: ir.Value) -> ir.Value:
        """Which lanes are among the first ``count``."""
        numbers = ir.Constant(ir.VectorType(INT, self.lanes), list(range(self.lanes)))
        return self.builder.icmp_signed("<", numbers, self.splat(count))

    def load_masked(self, pointer: ir.Value, mask: ir.Value) -> ir.Value:
        """Zero in the other lanes, whose memory is not touched."""
        return self._masked("load", self.vector, (), pointer, mask, (self.zero(),))

    def store_masked(self, value: ir.Value, pointer: ir.Value, mask: ir.Value) -> None:
        self._masked("store", ir.VoidType(), (value,), pointer, mask, ())

    def _masked(self, what: str, result: Any, before: tuple, pointer: ir.Value, mask: ir.Value, after: tuple) -> Any:
        pointer = self.builder.bitcast(pointer, self.vector.as_pointer())
        given = [*before, pointer, ir.Constant(_INDEX, self.size), mask, *after]
        kind = ir.FunctionType(result, [g.type for g in given])
        name = f"llvm.masked.{what}.{self.name}.p0{self.name}"
        return self.builder.call(cgutils.get_or_insert_function(self.builder.module, kind, name), given)

    # values

    def zero(self) -> ir.Constant:
        return self.constant(0.0)

    def constant(self, value: float) -> ir.Constant:
        return ir.Constant(self.vector, [float(value)] * self.lanes)

    def shuffle(self, a: ir.Value, b: ir.Value, mask: Iterable[int]) -> ir.Value:
        mask = list(mask)
        return self.builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(_INDEX, len(mask)), mask))

    def splat(self, value: ir.Value) -> ir.Value:
        """A vector of copies of a number."""
        undefined = ir.Constant(ir.VectorType(value.type, self.lanes), ir.Undefined)
        one = self.builder.insert_element(undefined, value, ir.Constant(_INDEX, 0))
        return self.shuffle(one, undefined, [0] * self.lanes)

    def multiply_add(self, a: ir.Value, b: ir.Value, c: ir.Value) -> ir.Value:
        return self.builder.call(self._multiply_add, [a, b, c])

    def add_outer(self, factors: list[ir.Value], row: list[ir.Value], sums: list[ir.Value]) -> list[ir.Value]:
        """``sums``, row by row, plus the numbers at the addresses ``factors`` times the vectors of ``row``."""
        added = []
        for r, pointer in enumerate(factors):
            factor = self.splat(self.builder.load(pointer))
            added += [self.multiply_add(factor, v, s) for v, s in zip(row, sums[r * len(row) :])]
        return added

    def total(self, value: ir.Value) -> ir.Value:
        """The sum of a vector's numbers, half after half."""
        n = self.lanes
        while n > 1:
            n //= 2
            undefined = ir.Constant(value.type, ir.Undefined)
            low, high = self.shuffle(value, undefined, range(n)), self.shuffle(value, undefined, range(n, 2 * n))
            value = self.builder.fadd(low, high)
        return self.builder.extract_element(value, ir.Constant(_INDEX, 0))

    def transposed(self, rows: list[ir.Value]) -> list[ir.Value]:
        """The columns of the square matrix of these rows: blocks are exchanged, of half its size, a quarter, ..."""
        half = self.lanes // 2
        while half:
            swapped = list(rows)
            for i in range(self.lanes):
                if i & half:
                    continue
                a, b = rows[i], rows[i + half]
                place = [k & ~half | (self.lanes if k & half else 0) for k in range(self.lanes)]
                swapped[i] = self.shuffle(a, b, place)
                swapped[i + half] = self.shuffle(a, b, [p | half for p in place])
            rows = swapped
            half //= 2
        return rows

    def loop(self, count: ir.Value, start: list[ir.Value], body: Callable[..., list[ir.Value]]) -> list[ir.Value]:
        """``start``, replaced ``count`` times (at least once) by ``body(*start)``."""
        builder, entry = self.builder, self.builder.block
        block, done = builder.append_basic_block("loop"), builder.append_basic_block("done")
        builder.branch(block)
        builder.position_at_end(block)
        held = [builder.phi(INT)] + [builder.phi(s.type) for s in start]
        for h, s in zip(held, [integer(0), *start]):
            h.add_incoming(s, entry)
        new = body(*held[1:])
        new = [builder.add(held[0], integer(1)), *new]
        end = builder.block
        for h, n in zip(held, new):
            h.add_incoming(n, end)
        builder.cbranch(builder.icmp_signed("<", new[0], count), block, done)
        builder.position_at_end(done)
        return new[1:]
