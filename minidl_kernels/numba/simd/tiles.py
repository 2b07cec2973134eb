"""The inner loops of convolution, written in vectors: what Numba's loops over elements cannot say to LLVM.

Each function here makes an ``intrinsic``: code for small blocks of numbers that are held in vector registers, to be
called from compiled functions. Arrays are flat and come with the index at which to begin; nothing is checked.
:func:`product` is the inner loop of a matrix product as Goto and van de Geijn write it ("Anatomy of high-performance
matrix multiplication", 2008): a few rows times a few vectors of results stay in registers while one column and one row
after the other are multiplied.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from llvmlite import binding, ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic


def _vector_bytes() -> int:
    features = binding.get_host_cpu_features()
    return 64 if features.get("avx512f") else 32 if features.get("avx2") else 16


#: bytes in a vector register
VECTOR = _vector_bytes()
#: Rows of results that :func:`product` keeps, each of two vectors: as many as there are registers for.
ROWS = 6 if VECTOR == 32 else 8
#: the same for :func:`dot`: rows and columns of results, each a vector that is added up in the end
DOT_ROWS, DOT_COLUMNS = (2, 4) if VECTOR == 32 else (4, 6)

_INT = ir.IntType(64)
_INDEX = ir.IntType(32)


def lanes(dtype: Any) -> int:
    """Numbers of this dtype in a vector."""
    return VECTOR // np.dtype(dtype).itemsize


class _Code:
    """Vector instructions, in the words of this file."""

    def __init__(self, context: Any, builder: ir.IRBuilder, array: types.Array) -> None:
        self.context, self.builder = context, builder
        self.scalar = context.get_value_type(array.dtype)
        self.lanes = VECTOR // (4 if array.dtype == types.float32 else 8)
        self.vector = ir.VectorType(self.scalar, self.lanes)
        name = f"llvm.fmuladd.v{self.lanes}f{32 if array.dtype == types.float32 else 64}"
        kind = ir.FunctionType(self.vector, [self.vector] * 3)
        self._multiply_add = cgutils.get_or_insert_function(builder.module, kind, name)

    def pointer(self, array: types.Array, value: ir.Value, *offsets: Any) -> ir.Value:
        return self.at(self.context.make_array(array)(self.context, self.builder, value).data, *offsets)

    def at(self, pointer: ir.Value, *offsets: Any) -> ir.Value:
        """``pointer`` moved on by ints or values."""
        for o in offsets:
            if isinstance(o, int):
                o = ir.Constant(_INT, o)
            pointer = self.builder.gep(pointer, [o])
        return pointer

    def times(self, value: ir.Value, number: int) -> ir.Value:
        return self.builder.mul(value, ir.Constant(_INT, number))

    def load(self, pointer: ir.Value) -> ir.Value:
        return self.builder.load(self.builder.bitcast(pointer, self.vector.as_pointer()), align=4)

    def store(self, value: ir.Value, pointer: ir.Value) -> None:
        self.builder.store(value, self.builder.bitcast(pointer, self.vector.as_pointer()), align=4)

    def zero(self) -> ir.Constant:
        return self.constant(0.0)

    def constant(self, value: float) -> ir.Constant:
        return ir.Constant(self.vector, [float(value)] * self.lanes)

    def shuffle(self, a: ir.Value, b: ir.Value, mask: Iterable[int]) -> ir.Value:
        mask = list(mask)
        return self.builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(_INDEX, len(mask)), mask))

    def broadcast(self, pointer: ir.Value) -> ir.Value:
        """A vector of copies of one number in memory."""
        undefined = ir.Constant(self.vector, ir.Undefined)
        one = self.builder.insert_element(undefined, self.builder.load(pointer), ir.Constant(_INDEX, 0))
        return self.shuffle(one, undefined, [0] * self.lanes)

    def multiply_add(self, a: ir.Value, b: ir.Value, c: ir.Value) -> ir.Value:
        return self.builder.call(self._multiply_add, [a, b, c])

    def total(self, value: ir.Value) -> ir.Value:
        """The sum of a vector's numbers, half after half."""
        n = self.lanes
        while n > 1:
            n //= 2
            undefined = ir.Constant(value.type, ir.Undefined)
            low, high = self.shuffle(value, undefined, range(n)), self.shuffle(value, undefined, range(n, 2 * n))
            value = self.builder.fadd(low, high)
        return self.builder.extract_element(value, ir.Constant(_INDEX, 0))

    def loop(self, count: ir.Value, start: list[ir.Value], body: Callable[..., list[ir.Value]]) -> list[ir.Value]:
        """``start``, replaced ``count`` times (at least once) by ``body(*start)``."""
        builder, entry = self.builder, self.builder.block
        block, done = builder.append_basic_block("loop"), builder.append_basic_block("done")
        builder.branch(block)
        builder.position_at_end(block)
        held = [builder.phi(_INT)] + [builder.phi(s.type) for s in start]
        for h, s in zip(held, [ir.Constant(_INT, 0), *start]):
            h.add_incoming(s, entry)
        new = body(*held[1:])
        new = [builder.add(held[0], ir.Constant(_INT, 1)), *new]
        end = builder.block
        for h, n in zip(held, new):
            h.add_incoming(n, end)
        builder.cbranch(builder.icmp_signed("<", new[0], count), block, done)
        builder.position_at_end(done)
        return new[1:]

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


@functools.cache
def product(
    rows: int, row_step: int = 1, step: int = 0, chunk: int = 1, vector_step: int | None = None, add: bool = False
) -> Callable[..., None]:
    """An intrinsic for a ``rows`` x 2 vectors block of a matrix product, c = a @ b; with ``add``, c += a @ b.

    ``f(a, at_a, chunk_step, b, at_b, offset, at_offset, chunks, c, at_c, c_step)`` sums over ``chunks * chunk``
    positions. Entry (r, k) of a is at ``at_a + k // chunk * chunk_step + k % chunk * step + r * row_step``; row k of b
    is at ``at_b + offset[at_offset + k]``, and its second vector ``vector_step`` later (by default right after the
    first); row r of c at ``at_c + r * c_step``.
    """

    @intrinsic
    def f(typing, a, at_a, chunk_step, b, at_b, offset, at_offset, chunks, c, at_c, c_step):
        size = types.intp
        signature = types.void(a, size, size, b, size, offset, size, size, c, size, size)

        def codegen(context, builder, signature, arguments):
            a, at_a, chunk_step, b, at_b, offset, at_offset, chunks, c, at_c, c_step = arguments
            kinds = signature.args
            code = _Code(context, builder, kinds[0])
            b, c = code.pointer(kinds[3], b, at_b), code.pointer(kinds[8], c, at_c)

            def body(a, offset, *sums):
                sums = list(sums)
                for k in range(chunk):
                    here = code.at(b, builder.load(code.at(offset, k)))
                    row = [code.load(here), code.load(code.at(here, vector_step or code.lanes))]
                    for r in range(rows):
                        factor = code.broadcast(code.at(a, k * step + r * row_step))
                        for v in range(2):
                            sums[2 * r + v] = code.multiply_add(factor, row[v], sums[2 * r + v])
                return [code.at(a, chunk_step), code.at(offset, chunk), *sums]

            start = [code.pointer(kinds[0], a, at_a), code.pointer(kinds[5], offset, at_offset)]
            _, _, *sums = code.loop(chunks, start + [code.zero()] * (2 * rows), body)
            for r in range(rows):
                for v in range(2):
                    here, value = code.at(c, code.times(c_step, r), v * code.lanes), sums[2 * r + v]
                    code.store(builder.fadd(code.load(here), value) if add else value, here)
            return context.get_dummy_value()

        return signature, codegen

    return f


@intrinsic
def dot(typing, a, at_a, a_step, b, at_b, offset, at_offset, vectors, c, at_c, c_step):
    """c += a @ b.T for DOT_ROWS rows of a and DOT_COLUMNS of b, ``vectors`` vectors long.

    Row r of a is at ``at_a + r * a_step``, row q of b at ``at_b + offset[at_offset + q]``, entry (r, q) of c at
    ``at_c + r * c_step + q``.
    """
    size = types.intp
    signature = types.void(a, size, size, b, size, offset, size, size, c, size, size)

    def codegen(context, builder, signature, arguments):
        a, at_a, a_step, b, at_b, offset, at_offset, vectors, c, at_c, c_step = arguments
        kinds = signature.args
        code = _Code(context, builder, kinds[0])
        a, b = code.pointer(kinds[0], a, at_a), code.pointer(kinds[3], b, at_b)
        c, offset = code.pointer(kinds[8], c, at_c), code.pointer(kinds[5], offset, at_offset)
        starts_a = [code.at(a, code.times(a_step, r)) for r in range(DOT_ROWS)]
        starts_b = [code.at(b, builder.load(code.at(offset, q))) for q in range(DOT_COLUMNS)]

        def body(at, *sums):
            sums = list(sums)
            rows = [code.load(code.at(s, at)) for s in starts_a]
            for q, s in enumerate(starts_b):
                column = code.load(code.at(s, at))
                for r, row in enumerate(rows):
                    i = r * DOT_COLUMNS + q
                    sums[i] = code.multiply_add(row, column, sums[i])
            return [builder.add(at, ir.Constant(_INT, code.lanes)), *sums]

        start = [ir.Constant(_INT, 0)] + [code.zero()] * (DOT_ROWS * DOT_COLUMNS)
        _, *sums = code.loop(vectors, start, body)
        for r in range(DOT_ROWS):
            for q in range(DOT_COLUMNS):
                here = code.at(c, code.times(c_step, r), q)
                builder.store(builder.fadd(builder.load(here), code.total(sums[r * DOT_COLUMNS + q])), here)
        return context.get_dummy_value()

    return signature, codegen


def sandwich(matrix: np.ndarray) -> Callable[..., None]:
    """An intrinsic for matrix @ x @ matrix.T, where each entry of x is a vector.

    ``f(x, at_x, row_step, step, y, at_y, y_step)``: entry (i, j) of x is at ``at_x + i * row_step + j * step``; the
    entries of y, row by row, ``y_step`` apart. Multiplications by 0, 1 and -1 are left out.
    """
    matrix = np.asarray(matrix, float)
    n = matrix.shape[1]

    def applied(code: _Code, values: list) -> list:
        """matrix @ values"""
        results = []
        for row in matrix:
            terms = sorted(((w, v) for w, v in zip(row, values) if w), key=lambda t: (abs(t[0]) != 1, t[0] < 0))
            total = None
            for w, v in terms:
                if total is None:
                    total = v if w == 1 else code.builder.fmul(code.constant(w), v)
                elif abs(w) == 1:
                    total = code.builder.fadd(total, v) if w == 1 else code.builder.fsub(total, v)
                else:
                    total = code.multiply_add(code.constant(w), v, total)
            results.append(total)
        return results

    @intrinsic
    def f(typing, x, at_x, row_step, step, y, at_y, y_step):
        size = types.intp
        signature = types.void(x, size, size, size, y, size, size)

        def codegen(context, builder, signature, arguments):
            x, at_x, row_step, step, y, at_y, y_step = arguments
            code = _Code(context, builder, signature.args[0])
            x, y = code.pointer(signature.args[0], x, at_x), code.pointer(signature.args[4], y, at_y)
            columns = []
            for j in range(n):
                here = code.at(x, code.times(step, j))
                columns.append(applied(code, [code.load(code.at(here, code.times(row_step, i))) for i in range(n)]))
            for i, row in enumerate(zip(*columns)):
                for j, value in enumerate(applied(code, list(row))):
                    code.store(value, code.at(y, code.times(y_step, i * len(matrix) + j)))
            return context.get_dummy_value()

        return signature, codegen

    return f


@intrinsic
def scatter_columns(typing, x, at_x, step, y, at_y, place, at_place):
    """Column j of the square block of ``x`` whose rows are ``step`` apart becomes the vector at
    ``at_y + place[at_place + j]`` of ``y``."""
    size = types.intp
    signature = types.void(x, size, size, y, size, place, size)

    def codegen(context, builder, signature, arguments):
        x, at_x, step, y, at_y, place, at_place = arguments
        kinds = signature.args
        code = _Code(context, builder, kinds[0])
        x, y = code.pointer(kinds[0], x, at_x), code.pointer(kinds[3], y, at_y)
        place = code.pointer(kinds[5], place, at_place)
        rows = [code.load(code.at(x, code.times(step, i))) for i in range(code.lanes)]
        for j, column in enumerate(code.transposed(rows)):
            code.store(column, code.at(y, builder.load(code.at(place, j))))
        return context.get_dummy_value()

    return signature, codegen


@intrinsic
def gather_columns(typing, x, at_x, place, at_place, plus, at_plus, y, at_y, step):
    """The vectors at ``at_x + place[at_place + j]`` of ``x``, plus the one at ``at_plus`` of ``plus``, become the
    columns j of the square block of ``y`` whose rows are ``step`` apart."""
    size = types.intp
    signature = types.void(x, size, place, size, plus, size, y, size, size)

    def codegen(context, builder, signature, arguments):
        x, at_x, place, at_place, plus, at_plus, y, at_y, step = arguments
        kinds = signature.args
        code = _Code(context, builder, kinds[0])
        x, y = code.pointer(kinds[0], x, at_x), code.pointer(kinds[6], y, at_y)
        place, plus = code.pointer(kinds[2], place, at_place), code.load(code.pointer(kinds[4], plus, at_plus))
        columns = [code.load(code.at(x, builder.load(code.at(place, j)))) for j in range(code.lanes)]
        for i, row in enumerate(code.transposed([builder.fadd(c, plus) for c in columns])):
            code.store(row, code.at(y, code.times(step, i)))
        return context.get_dummy_value()

    return signature, codegen
