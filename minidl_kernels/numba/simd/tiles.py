"""The inner loops of convolutions and matrix products, written in vectors.

Each function here is, or makes, an ``intrinsic``: code for small blocks of numbers that are held in vector registers,
to be called from compiled functions; nothing is checked. :func:`product` and :func:`matrix_tile` are the inner loop of
a matrix product as Goto and van de Geijn write it ("Anatomy of high-performance matrix multiplication", 2008): a few
rows times a few vectors of results stay in registers while one column and one row after the other are multiplied. Each
sum runs over the depth in order, so no result depends on how rows are shared out among threads.

Those for convolution take flat arrays with the index at which to begin; those for :mod:`~.simd.gemm` take matrices.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from minidl_kernels.numba.simd.vectors import DOT_COLUMNS, DOT_ROWS, VECTORS, Code, integer


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
            code = Code(context, builder, kinds[0])
            b, c = code.pointer(kinds[3], b, at_b), code.pointer(kinds[8], c, at_c)

            def body(a, offset, *sums):
                for k in range(chunk):
                    here = code.at(b, builder.load(code.at(offset, k)))
                    row = [code.load(here), code.load(code.at(here, vector_step or code.lanes))]
                    sums = code.add_outer([code.at(a, k * step + r * row_step) for r in range(rows)], row, sums)
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
        code = Code(context, builder, kinds[0])
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
            return [builder.add(at, integer(code.lanes)), *sums]

        start = [integer(0)] + [code.zero()] * (DOT_ROWS * DOT_COLUMNS)
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

    def applied(code: Code, values: list) -> list:
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
            code = Code(context, builder, signature.args[0])
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
        code = Code(context, builder, kinds[0])
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
        code = Code(context, builder, kinds[0])
        x, y = code.pointer(kinds[0], x, at_x), code.pointer(kinds[6], y, at_y)
        place, plus = code.pointer(kinds[2], place, at_place), code.load(code.pointer(kinds[4], plus, at_plus))
        columns = [code.load(code.at(x, builder.load(code.at(place, j)))) for j in range(code.lanes)]
        for i, row in enumerate(code.transposed([builder.fadd(c, plus) for c in columns])):
            code.store(row, code.at(y, code.times(step, i)))
        return context.get_dummy_value()

    return signature, codegen


@intrinsic
def panel_width(typing, x):
    """``columns`` of the array's dtype, a constant in compiled code."""

    def codegen(context, builder, signature, arguments):
        return integer(VECTORS * Code(context, builder, x).lanes)

    return types.intp(x), codegen


@functools.cache
def matrix_tile(rows: int, whole: bool) -> Callable[..., None]:
    """An intrinsic for a block of a matrix product, of ``rows`` rows and :func:`panel_width` columns.

    ``f(a, b, c, i, j, k0, k1, accumulate)``: c[i : i + rows, j : j + columns] = (or, to accumulate, +=)
    a[i : i + rows, k0:k1] @ b[k0:k1, j : j + columns], with k0 < k1. ``b`` and ``c`` have unit stride along their rows;
    ``a`` may have any strides. Unless ``whole``, what lies beyond the last column of ``c`` is left alone.
    """

    @intrinsic
    def f(typing, a, b, c, i, j, k0, k1, accumulate):
        size = types.intp
        signature = types.void(a, b, c, size, size, size, size, types.boolean)

        def codegen(context, builder, signature, arguments):
            code = Code(context, builder, a)
            i, j, start, stop, accumulate = arguments[3:]
            (a0, _, (a_row, a_step)), (b0, _, (b_row, _)), (c0, c_shape, (c_row, _)) = (
                code.matrix(kind, value) for kind, value in zip(signature.args, arguments[:3])
            )
            a0 = code.strided(a0, (i, a_row), (start, a_step))
            b0 = code.at(code.strided(b0, (start, b_row)), j)
            c0 = code.at(code.strided(c0, (i, c_row)), j)
            # LLVM would make each row's address from the last one's, a chain as long as the products themselves take
            group = 3
            starts = [code.hidden(code.strided(a0, (r, a_row))) for r in range(0, rows, group)]
            if not whole:
                left = builder.sub(c_shape[1], j)
                masks = [code.mask(builder.sub(left, integer(v * code.lanes))) for v in range(VECTORS)]

            def row(pointer):
                places = [code.at(pointer, v * code.lanes) for v in range(VECTORS)]
                return [code.load(p) if whole else code.load_masked(p, masks[v]) for v, p in enumerate(places)]

            def body(b, *state):
                at, sums = state[: len(starts)], state[len(starts) :]
                factors = [code.strided(at[r // group], (r % group, a_row)) for r in range(rows)]
                sums = code.add_outer(factors, row(b), sums)
                return [code.strided(b, (1, b_row)), *(code.strided(p, (1, a_step)) for p in at), *sums]

            lines = [code.strided(c0, (r, c_row)) for r in range(rows)]
            first = [builder.select(accumulate, x, code.zero()) for line in lines for x in row(line)]
            found = code.loop(builder.sub(stop, start), [b0, *starts, *first], body)[1 + len(starts) :]
            for n, value in enumerate(found):
                r, v = divmod(n, VECTORS)
                place = code.at(lines[r], v * code.lanes)
                if whole:
                    code.store(value, place)
                else:
                    code.store_masked(value, place, masks[v])
            return context.get_dummy_value()

        return signature, codegen

    return f


@intrinsic
def transpose_square(typing, x, i, j, y, p, q, scale):
    """y[p : p + lanes, q : q + lanes] = scale * x[i : i + lanes, j : j + lanes].T; rows of both have unit stride."""
    size = types.intp
    signature = types.void(x, size, size, y, size, size, x.dtype)

    def codegen(context, builder, signature, arguments):
        x, i, j, y, p, q, scale = arguments
        code = Code(context, builder, signature.args[0])
        (x, _, (x_row, _)), (y, _, (y_row, _)) = code.matrix(signature.args[0], x), code.matrix(signature.args[3], y)
        x, y = code.at(code.strided(x, (i, x_row)), j), code.at(code.strided(y, (p, y_row)), q)
        rows = [code.load(code.strided(x, (r, x_row))) for r in range(code.lanes)]
        factor = code.splat(scale)
        for r, column in enumerate(code.transposed(rows)):
            code.store(builder.fmul(column, factor), code.strided(y, (r, y_row)))
        return context.get_dummy_value()

    return signature, codegen


def _reduced(combine: Callable[[Any, ir.Value, ir.Value], ir.Value]) -> Callable[..., None]:
    """An intrinsic ``f(x, out)``: ``out`` combined with all rows of ``x`` (at least one), which are a panel wide."""

    @intrinsic
    def f(typing, x, out):
        def codegen(context, builder, signature, arguments):
            code = Code(context, builder, x)
            start, (count, _), (stride, _) = code.matrix(x, arguments[0])
            places = [code.pointer(out, arguments[1], v * code.lanes) for v in range(VECTORS)]

            def body(row, *so_far):
                here = [code.load(code.at(row, v * code.lanes)) for v in range(VECTORS)]
                return [code.strided(row, (1, stride)), *(combine(builder, s, h) for s, h in zip(so_far, here))]

            _, *found = code.loop(count, [start, *(code.load(p) for p in places)], body)
            for place, value in zip(places, found):
                code.store(value, place)
            return context.get_dummy_value()

        return types.void(x, out), codegen

    return f


#: out += the sum of the rows of x
add_rows = _reduced(lambda builder, a, b: builder.fadd(a, b))
#: out = the largest in each column of out and x; of numbers with NaN among them any one or NaN
max_rows = _reduced(lambda builder, a, b: builder.select(builder.fcmp_ordered(">", a, b), a, b))
