"""Matrix products inside compiled code, for matrices too small, too often reused or too slim to hand to BLAS.

BLAS lays out both matrices anew in every call. The recurrent kernels multiply by the same weights at every time step,
so they lay them out once (:func:`pack`, :func:`pack_transposed`) and then use :func:`packed_product`. Attention has
matrices of a few dozen rows, for which a call costs as much as the product; it uses :func:`product` as well. Captured
steps use :func:`matmul` for a linear layer with many rows: OpenBLAS takes a tenth longer for those of a small GPT, and
has threads of its own that take the cores from Numba's.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import prange
from numba.core import cgutils
from numba.extending import intrinsic

from minidl_kernels.numba.simd.compiled import compiled
from minidl_kernels.numba.simd.tiles import matrix_tile, panel_width, transpose_square
from minidl_kernels.numba.simd.vectors import ROWS, VECTORS, columns

#: how much of the depth is done at a time, so that a panel of the right-hand matrix stays in the first-level cache
DEPTH = 256

_tile, _tile_2, _tile_1 = (matrix_tile(rows, True) for rows in (ROWS, 2, 1))
_edge, _edge_1 = (matrix_tile(rows, False) for rows in (ROWS, 1))


def packed(depth: int, width: int, dtype: Any) -> np.ndarray:
    """Memory for a packed matrix of ``depth`` rows and ``width`` columns: (panels, depth, columns of a panel)."""
    wide = columns(dtype)
    return np.empty((-(-width // wide), depth, wide), dtype)


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
            _tile(a, b, c, i, j, k0, k1, accumulate)
            i += ROWS
        while i + 2 <= rows:
            _tile_2(a, b, c, i, j, k0, k1, accumulate)
            i += 2
        if i < rows:
            _tile_1(a, b, c, i, j, k0, k1, accumulate)
    else:
        while i + ROWS <= rows:
            _edge(a, b, c, i, j, k0, k1, accumulate)
            i += ROWS
        while i < rows:
            _edge_1(a, b, c, i, j, k0, k1, accumulate)
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
    lanes = wide // VECTORS
    for p in range(out.shape[0]):
        panel = out[p]
        for half in range(VECTORS):
            j = p * wide + half * lanes
            k = 0
            if j + lanes <= width:
                while k + lanes <= depth:
                    transpose_square(w, j, k, panel, k, half * lanes, scale)
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
