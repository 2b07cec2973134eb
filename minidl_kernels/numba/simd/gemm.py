"""Matrix products inside compiled code, for matrices too small, too often reused or too slim to hand to BLAS.

BLAS lays out both matrices anew in every call. The recurrent kernels multiply by the same weights at every time step,
so they lay them out once (:func:`pack`, :func:`pack_transposed`) and then use :func:`packed_product`. Attention has
matrices of a few dozen rows, for which a call costs as much as the product; it uses :func:`product` as well. Captured
steps use :func:`matmul` for a linear layer with many rows: OpenBLAS takes a tenth longer for those of a small GPT, and
has threads of its own that take the cores from Numba's.

The core is a tile of ``ROWS`` x ``columns(dtype)`` sums kept in vector registers (Goto & van de Geijn 2008, "Anatomy of
High-Performance Matrix Multiplication"), written as LLVM instructions because loops over a tile do not stay in
registers. Each sum runs over the depth in order, so no result depends on how rows are shared out among threads.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from llvmlite import binding, ir
from numba import prange, types
from numba.core import cgutils
from numba.extending import intrinsic

from minidl_kernels.numba.simd.compiled import compiled

_FEATURES = binding.get_host_cpu_features()
# 512-bit vectors only where minidl_kernels.numba lets LLVM use them; elsewhere it would split each in two
_WIDE = "-prefer-256-bit" in (numba.config.CPU_FEATURES or "")
VECTOR_BYTES = 64 if _WIDE else 32 if _FEATURES.get("avx") else 16
#: rows of a tile: half of the registers hold its sums (16 registers before AVX-512, else 32)
ROWS = 4 if _FEATURES.get("avx") and not _FEATURES.get("avx512f") else 8
_VECTORS = 2
#: how much of the depth is done at a time, so that a panel of the right-hand matrix stays in the first-level cache
DEPTH = 256

_INT = ir.IntType(64)
_BYTES = ir.IntType(8).as_pointer()


def columns(dtype: Any) -> int:
    """Columns of a tile, and of a panel of a packed matrix."""
    return _VECTORS * VECTOR_BYTES // np.dtype(dtype).itemsize


def packed(depth: int, width: int, dtype: Any) -> np.ndarray:
    """Memory for a packed matrix of ``depth`` rows and ``width`` columns: (panels, depth, columns of a panel)."""
    wide = columns(dtype)
    return np.empty((-(-width // wide), depth, wide), dtype)


def _int(n: int) -> ir.Constant:
    return ir.Constant(_INT, n)


def _address(builder: Any, start: Any, *offsets: tuple) -> Any:
    """``start`` moved by the sum of number x stride, in bytes."""
    p = builder.bitcast(start, _BYTES)
    for number, stride in offsets:
        p = builder.gep(p, [builder.mul(number, stride)])
    return p


def _vector(dtype: Any) -> tuple[Any, int, int]:
    """(LLVM vector type, its lanes, bytes of a number) for Numba's float32 or float64."""
    size = dtype.bitwidth // 8
    lanes = VECTOR_BYTES // size
    return ir.VectorType(ir.FloatType() if size == 4 else ir.DoubleType(), lanes), lanes, size


def _lane_numbers(lanes: int) -> ir.Constant:
    return ir.Constant(ir.VectorType(_INT, lanes), list(range(lanes)))


def _splat(builder: Any, x: Any, lanes: int) -> Any:
    undefined = ir.Constant(ir.VectorType(x.type, lanes), ir.Undefined)
    first = builder.insert_element(undefined, x, ir.Constant(ir.IntType(32), 0))
    return builder.shuffle_vector(first, undefined, ir.Constant(ir.VectorType(ir.IntType(32), lanes), [0] * lanes))


@intrinsic
def _tile(typingctx, rows, full, a, b, c, i, j, k0, k1, accumulate):
    """c[i : i + rows, j : j + columns] = (or, to accumulate, +=) a[i : i + rows, k0:k1] @ b[k0:k1, j : j + columns].

    ``b`` and ``c`` have unit stride along their rows; ``a`` may have any strides. Unless ``full``, what lies beyond the
    last column of ``c`` is left alone. ``rows`` and ``full`` are literals.
    """
    if not isinstance(rows, types.IntegerLiteral) or not isinstance(full, types.BooleanLiteral):
        return None
    number, whole = rows.literal_value, full.literal_value
    sig = types.void(rows, full, a, b, c, types.intp, types.intp, types.intp, types.intp, types.boolean)

    def codegen(context, builder, sig, args):
        arrays = [context.make_array(t)(context, builder, x) for t, x in zip(sig.args[2:5], args[2:5])]
        i, j, start, stop, accumulate = args[5:]
        (a_row, a_step), (b_row, _), (c_row, _) = (cgutils.unpack_tuple(builder, x.strides, 2) for x in arrays)
        vector, lanes, size = _vector(a.dtype)
        zero = ir.Constant(vector, None)
        a0 = _address(builder, arrays[0].data, (i, a_row), (start, a_step))
        b0 = _address(builder, arrays[1].data, (start, b_row), (j, _int(size)))
        c0 = _address(builder, arrays[2].data, (i, c_row), (j, _int(size)))
        # LLVM would make each row's address from the last one's, a chain as long as the products themselves take.
        # Passing the addresses through an empty piece of assembly hides from it that they are related.
        hide = ir.InlineAsm(ir.FunctionType(_BYTES, [_BYTES]), "", "=r,0")
        group = 3
        a_starts = [builder.call(hide, [_address(builder, a0, (_int(r), a_row))]) for r in range(0, number, group)]

        def at(p, r, row, v):
            p = _address(builder, p, (_int(r), row), (_int(v * VECTOR_BYTES), _int(1)))
            return builder.bitcast(p, vector.as_pointer())

        if not whole:
            last = cgutils.unpack_tuple(builder, arrays[2].shape, 2)[1]
            left = builder.sub(last, j)
            masks = [
                builder.icmp_signed(
                    "<", _lane_numbers(lanes), _splat(builder, builder.sub(left, _int(v * lanes)), lanes)
                )
                for v in range(_VECTORS)
            ]
            mask_type, kind = masks[0].type, f"v{lanes}f{size * 8}.p0v{lanes}f{size * 8}"
            load_type = ir.FunctionType(vector, [vector.as_pointer(), ir.IntType(32), mask_type, vector])
            store_type = ir.FunctionType(ir.VoidType(), [vector, vector.as_pointer(), ir.IntType(32), mask_type])
            masked_load = cgutils.get_or_insert_function(builder.module, load_type, f"llvm.masked.load.{kind}")
            masked_store = cgutils.get_or_insert_function(builder.module, store_type, f"llvm.masked.store.{kind}")
            align = ir.Constant(ir.IntType(32), size)

        def load(p, v):
            if whole:
                return builder.load(p, align=size)
            return builder.call(masked_load, [p, align, masks[v], zero])

        def store(x, p, v):
            if whole:
                builder.store(x, p, align=size)
            else:
                builder.call(masked_store, [x, p, align, masks[v]])

        cells = [(r, v) for r in range(number) for v in range(_VECTORS)]
        first = [builder.select(accumulate, load(at(c0, r, c_row, v), v), zero) for r, v in cells]
        entry = builder.block
        loop, done = builder.append_basic_block("depth"), builder.append_basic_block("done")
        builder.branch(loop)
        builder.position_at_end(loop)

        def carried(kind, initial):
            p = builder.phi(kind)
            p.add_incoming(initial, entry)
            return p

        k, bp = carried(_INT, start), carried(_BYTES, b0)
        aps = [carried(_BYTES, p) for p in a_starts]
        sums = [carried(vector, x) for x in first]
        right = [load(at(bp, 0, b_row, v), v) for v in range(_VECTORS)]
        after = []
        for r in range(number):
            p = _address(builder, aps[r // group], (_int(r % group), a_row))
            left = builder.load(builder.bitcast(p, vector.element.as_pointer()), align=size)
            left = _splat(builder, left, lanes)
            for v in range(_VECTORS):
                product = builder.fmul(left, right[v], flags=("contract",))
                after.append(builder.fadd(sums[r * _VECTORS + v], product, flags=("contract",)))
        following = builder.add(k, _int(1))
        k.add_incoming(following, loop)
        bp.add_incoming(_address(builder, bp, (_int(1), b_row)), loop)
        for p in aps:
            p.add_incoming(_address(builder, p, (_int(1), a_step)), loop)
        for s, x in zip(sums, after):
            s.add_incoming(x, loop)
        builder.cbranch(builder.icmp_signed("<", following, stop), loop, done)
        builder.position_at_end(done)
        for (r, v), x in zip(cells, after):
            store(x, at(c0, r, c_row, v), v)
        return context.get_dummy_value()

    return sig, codegen


@intrinsic
def _transpose_square(typingctx, x, i, j, y, p, q, scale):
    """y[p : p + lanes, q : q + lanes] = scale * x[i : i + lanes, j : j + lanes].T; rows of both have unit stride."""
    sig = types.void(x, types.intp, types.intp, y, types.intp, types.intp, x.dtype)

    def codegen(context, builder, sig, args):
        xs, i, j, ys, p, q, scale = args
        vector, lanes, size = _vector(x.dtype)
        source, target = context.make_array(x)(context, builder, xs), context.make_array(y)(context, builder, ys)
        x_row, y_row = (cgutils.unpack_tuple(builder, s.strides, 2)[0] for s in (source, target))
        x0 = _address(builder, source.data, (i, x_row), (j, _int(size)))
        y0 = _address(builder, target.data, (p, y_row), (q, _int(size)))

        def at(start, r, row):
            return builder.bitcast(_address(builder, start, (_int(r), row)), vector.as_pointer())

        rows = [builder.load(at(x0, r, x_row), align=size) for r in range(lanes)]
        # swap the off-diagonal blocks of every block of 2, 4, 8, ... rows
        step = 1
        while step < lanes:
            low = [n if n & step == 0 else lanes + n - step for n in range(lanes)]
            high = [n + step if n & step == 0 else lanes + n for n in range(lanes)]
            low, high = (ir.Constant(ir.VectorType(ir.IntType(32), lanes), m) for m in (low, high))
            for r in range(lanes):
                if r & step == 0:
                    top, bottom = rows[r], rows[r + step]
                    rows[r] = builder.shuffle_vector(top, bottom, low)
                    rows[r + step] = builder.shuffle_vector(top, bottom, high)
            step *= 2
        factor = _splat(builder, scale, lanes)
        for r in range(lanes):
            builder.store(builder.fmul(rows[r], factor), at(y0, r, y_row), align=size)
        return context.get_dummy_value()

    return sig, codegen


@intrinsic
def reduce_rows(typingctx, x, out, largest):
    """out = the sum (or ``largest``, a literal: the largest) of ``out`` and all rows of ``x``, which is a panel wide.

    The largest of numbers with NaN among them is any of them or NaN.
    """
    if not isinstance(largest, types.BooleanLiteral):
        return None
    sig = types.void(x, out, largest)

    def codegen(context, builder, sig, args):
        source, target = (context.make_array(t)(context, builder, a) for t, a in zip(sig.args[:2], args))
        rows = cgutils.unpack_tuple(builder, source.shape, 2)[0]
        stride = cgutils.unpack_tuple(builder, source.strides, 2)[0]
        vector, _, size = _vector(x.dtype)

        def at(start, v):
            return builder.bitcast(_address(builder, start, (_int(v * VECTOR_BYTES), _int(1))), vector.as_pointer())

        first = [builder.load(at(target.data, v), align=size) for v in range(_VECTORS)]
        entry = builder.block
        head, body, done = (builder.append_basic_block(name) for name in ("rows", "row", "end"))
        builder.branch(head)
        builder.position_at_end(head)
        i = builder.phi(_INT)
        i.add_incoming(_int(0), entry)
        so_far = [builder.phi(vector) for _ in first]
        builder.cbranch(builder.icmp_signed("<", i, rows), body, done)
        builder.position_at_end(body)
        start = _address(builder, source.data, (i, stride))
        for v, (s, initial) in enumerate(zip(so_far, first)):
            here = builder.load(at(start, v), align=size)
            larger = builder.select(builder.fcmp_ordered(">", s, here), s, here)
            s.add_incoming(initial, entry)
            s.add_incoming(larger if largest.literal_value else builder.fadd(s, here), body)
        i.add_incoming(builder.add(i, _int(1)), body)
        builder.branch(head)
        builder.position_at_end(done)
        for v, s in enumerate(so_far):
            builder.store(s, at(target.data, v), align=size)
        return context.get_dummy_value()

    return sig, codegen


@intrinsic
def unit_stride(typingctx, x):
    """The 1-d array, declared to have unit stride (the caller knows), so that loops over it are vectorized."""
    out = x.copy(layout="C")

    def codegen(context, builder, sig, args):
        made = context.make_array(out)(context, builder)
        source = context.make_array(x)(context, builder, args[0])
        cgutils.copy_struct(made, source)
        if context.enable_nrt:
            context.nrt.incref(builder, x, args[0])
        return made._getvalue()

    return out(x), codegen


@compiled
def _tiles(a, b, c, full, j, k0, k1, accumulate):
    """The tiles of one panel of columns of ``c``, from ``j`` on, for a part of the depth."""
    i, rows = 0, a.shape[0]
    if full:
        while i + ROWS <= rows:
            _tile(ROWS, True, a, b, c, i, j, k0, k1, accumulate)
            i += ROWS
        while i + 2 <= rows:
            _tile(2, True, a, b, c, i, j, k0, k1, accumulate)
            i += 2
        if i < rows:
            _tile(1, True, a, b, c, i, j, k0, k1, accumulate)
    else:
        while i + ROWS <= rows:
            _tile(ROWS, False, a, b, c, i, j, k0, k1, accumulate)
            i += ROWS
        while i < rows:
            _tile(1, False, a, b, c, i, j, k0, k1, accumulate)
            i += 1


@compiled
def product(a, b, c, accumulate):
    """c = a @ b, or c += a @ b to accumulate. Rows of ``b`` and ``c`` have unit stride; ``a`` may have any strides."""
    depth, width = b.shape
    wide = panel_width(c)
    if depth == 0 and not accumulate:
        c[:] = 0
    for k0 in range(0, depth, DEPTH):
        for j in range(0, width, wide):
            _tiles(a, b, c, j + wide <= width, j, k0, min(depth, k0 + DEPTH), accumulate or k0 > 0)


@compiled
def packed_product(a, b, c, accumulate):
    """The same with ``b`` packed: (panels, depth, columns of a panel). ``c`` may have fewer columns than ``b``."""
    depth, width = b.shape[1], c.shape[1]
    wide = b.shape[2]
    if depth == 0 and not accumulate:
        c[:] = 0
    for j in range(0, width, wide):
        for k0 in range(0, depth, DEPTH):
            _tiles(a, b[j // wide], c[:, j:], j + wide <= width, 0, k0, min(depth, k0 + DEPTH), accumulate or k0 > 0)


@compiled
def pack(w, out):
    """Lay out ``w`` (depth, width) in panels; the last one is filled up with zeros."""
    wide = out.shape[2]
    for p in range(out.shape[0]):
        left = min(wide, w.shape[1] - p * wide)
        for k in range(w.shape[0]):
            for j in range(left):
                out[p, k, j] = w[k, p * wide + j]
            for j in range(left, wide):
                out[p, k, j] = 0


@compiled
def pack_transposed(w, out, scale):
    """Lay out scale * w.T in panels, for ``w`` (width, depth) whose rows have unit stride; filled up with zeros."""
    width, depth = w.shape
    wide = out.shape[2]
    lanes = wide // _VECTORS
    for p in range(out.shape[0]):
        panel = out[p]
        for half in range(_VECTORS):
            j = p * wide + half * lanes
            k = 0
            if j + lanes <= width:
                while k + lanes <= depth:
                    _transpose_square(w, j, k, panel, k, half * lanes, scale)
                    k += lanes
            for n in range(lanes):
                if j + n < width:
                    for m in range(k, depth):
                        panel[m, half * lanes + n] = w[j + n, m] * scale
                else:
                    for m in range(k, depth):
                        panel[m, half * lanes + n] = 0


@compiled
def _pack_panel(b, panel, j):
    """The panel that begins with column ``j`` of ``b``, of which either rows or columns have unit stride."""
    wide = panel.shape[1]
    if b.strides[1] == b.itemsize and j + wide <= b.shape[1]:
        for k in range(b.shape[0]):
            to, row = panel[k], unit_stride(b[k, j:])
            for i in range(panel_width(panel)):
                to[i] = row[i]
    elif b.strides[0] == b.itemsize:
        pack_transposed(b[:, j : j + wide].T, panel.reshape(1, *panel.shape), panel.dtype.type(1))
    else:
        pack(b[:, j : j + wide], panel.reshape(1, *panel.shape))


@compiled(parallel=True)
def matmul(a, b, c, panels, block):
    """c = a @ b on all threads, ``block`` rows at a time; rows of ``a`` and rows or columns of ``b`` have unit stride.

    ``panels`` is scratch for ``b``, as :func:`packed` makes it. The results do not depend on the number of threads.
    """
    (rows, depth), width, wide = a.shape, b.shape[1], panel_width(c)
    for p in prange(panels.shape[0]):
        _pack_panel(b, panels[p], p * wide)
    for task in prange((rows + block - 1) // block):
        start, stop = task * block, min(rows, (task + 1) * block)
        for k0 in range(0, depth, DEPTH):
            for p in range(panels.shape[0]):
                j = p * wide
                full = j + wide <= width
                _tiles(a[start:stop], panels[p], c[start:stop, j:], full, 0, k0, min(depth, k0 + DEPTH), k0 > 0)


@intrinsic
def panel_width(typingctx, x):
    """``columns`` of the array's dtype, a constant in compiled code."""

    def codegen(context, builder, sig, args):
        return _int(_VECTORS * VECTOR_BYTES * 8 // x.dtype.bitwidth)

    return types.intp(x), codegen
