"""A list of compiled calls that runs without Python: fused loops and BLAS products, by address.

A tape is two arrays: for each call the address of a function and the place of its operands in a block of 64-bit words.
Every function on it takes one argument, the address of its operands. :func:`run` walks the list in compiled code.
"""

from __future__ import annotations

import ctypes
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from llvmlite import ir
from numba import carray, get_num_threads, types
from numba.extending import get_cython_function_address, intrinsic
from numpy.lib.stride_tricks import as_strided

from minidl_kernels.numba.compiler.memory import Workspace
from minidl_kernels.numba.simd import gemm, vectors
from minidl_kernels.numba.simd.compiled import compiled, entry
from minidl_kernels.numba.simd.words import pointer, word

_WORD = ir.IntType(64)
_BYTES = ir.IntType(8).as_pointer()


@intrinsic
def _call(typingctx, function, operands):
    """Call the ``void f(int64)`` at an address."""

    def codegen(context, builder, signature, args):
        kind = ir.FunctionType(ir.VoidType(), [_WORD])
        builder.call(builder.inttoptr(args[0], kind.as_pointer()), [args[1]])
        return context.get_dummy_value()

    return types.void(types.intp, types.intp), codegen


@intrinsic
def _call_gemm(typingctx, operands):
    """Call the Fortran gemm whose address is the first of ``operands``; the others are its 13 arguments in order.

    Numbers lie in their words and are passed by address, as Fortran wants them; the words of the three matrices are
    addresses already.
    """

    def codegen(context, builder, signature, args):
        base = builder.inttoptr(args[0], _WORD.as_pointer())

        def slot(k):
            return builder.gep(base, [ir.Constant(_WORD, k)])

        matrices = (7, 9, 12)
        passed = [
            builder.inttoptr(builder.load(slot(k)), _BYTES) if k in matrices else builder.bitcast(slot(k), _BYTES)
            for k in range(1, 14)
        ]
        kind = ir.FunctionType(ir.VoidType(), [_BYTES] * 13)
        builder.call(builder.inttoptr(builder.load(slot(0)), kind.as_pointer()), passed)
        return context.get_dummy_value()

    return types.void(types.intp), codegen


@compiled
def run(functions, places, block):
    """Make the calls one after the other."""
    base = block.ctypes.data
    for i in range(functions.size):
        _call(functions[i], base + 8 * places[i])


@cache
def _gemm_entry() -> Any:
    return entry(_gemm)


def _gemm(operands):
    _call_gemm(operands)


#: Rows, and multiplications, from which :func:`gemm.matmul` is faster than BLAS, which lays out
#: the left matrix anew, too; up to 1024 times 1024, beyond which BLAS's larger blocks pay.
MANY_ROWS, MANY_PRODUCTS, MOST_WEIGHTS = 256, 1 << 22, 1 << 18


@cache
def _matmul_entry(char: str) -> Any:
    kind = {"f": types.float32, "d": types.float64}[char]
    size = kind.bitwidth // 8

    def matmul(operands):
        m, n, k = word(operands, 0), word(operands, 1), word(operands, 2)
        a_row, b_row, b_column = word(operands, 4), word(operands, 6), word(operands, 7)
        a = carray(pointer(word(operands, 3)), ((m - 1) * a_row + k,), kind)
        b = carray(pointer(word(operands, 5)), ((k - 1) * b_row + (n - 1) * b_column + 1,), kind)
        gemm.matmul(
            as_strided(a, (m, k), (a_row * size, size)),
            as_strided(b, (k, n), (b_row * size, b_column * size)),
            carray(pointer(word(operands, 8)), (m, n), kind),
            carray(pointer(word(operands, 9)), (word(operands, 10), k, word(operands, 11)), kind),
            word(operands, 12),
        )

    return entry(matmul)


@cache
def _gemm_address(char: str) -> int:
    """sgemm or dgemm of the very library that NumPy calls, so that both share its threads; else SciPy's."""
    name = {"f": "sgemm", "d": "dgemm"}[char]
    for library in (Path(np.__file__).parent.parent / "numpy.libs").glob("libscipy_openblas64_*"):
        try:
            found = getattr(ctypes.CDLL(str(library)), f"scipy_{name}_64_")
        except (OSError, AttributeError):
            continue
        return ctypes.cast(found, ctypes.c_void_p).value
    return get_cython_function_address("scipy.linalg.cython_blas", name)


class Tape:
    """Collects calls; ``freeze()`` gives what :func:`run` takes. Arrays are kept alive by the tape."""

    def __init__(self, workspace: Workspace | None = None) -> None:
        self.workspace = workspace or Workspace()
        # Starts Numba's threads: a kernel from the disk cache that is called by address does not do so itself.
        get_num_threads()
        self.functions: list[int] = []
        self.places: list[int] = []
        self.words: list[Any] = []
        self.live: list[tuple[int, int]] = []
        self.kept: list[Any] = []

    def __len__(self) -> int:
        return len(self.functions)

    def add_kernel(self, address: int, arguments: list[Any]) -> None:
        """A generated kernel: address and length of each array, then the live numbers, given as ("live", key)."""
        self.functions.append(address)
        self.places.append(len(self.words))
        for a in arguments:
            if isinstance(a, np.ndarray):
                self.words += [a.ctypes.data, a.size]
                self.kept.append(a)
            else:
                self.live.append((len(self.words), a[1]))
                self.words.append(0)

    def add_matmul(self, x: np.ndarray, y: np.ndarray, out: np.ndarray) -> bool:
        """``out[...] = x @ y`` for 2-d arrays that BLAS can take; False (and nothing added) for others."""
        operands = [_blas_layout(a) for a in (x, y)]
        good = x.dtype == y.dtype == out.dtype and x.dtype.char in "fd" and out.flags.c_contiguous
        if not good or any(o is None for o in operands) or min(*out.shape, x.shape[1]) == 0:
            return False
        (m, k), n = x.shape, y.shape[1]
        if m >= MANY_ROWS and m * n * k >= MANY_PRODUCTS and n * k <= MOST_WEIGHTS and operands[0][0] == "N":
            self._add_own_matmul(x, y, out)
            return True
        one = np.zeros(1, np.int64)
        one.view(x.dtype)[0] = 1
        # Fortran's matrices are ours transposed: out^T = y^T x^T
        (tx, ldx), (ty, ldy) = operands
        self.functions.append(_gemm_entry().address)
        self.places.append(len(self.words))
        self.words += [
            _gemm_address(x.dtype.char), ord(ty), ord(tx), n, m, k, int(one[0]),
            y.ctypes.data, ldy, x.ctypes.data, ldx, 0, out.ctypes.data, n,
        ]  # fmt: skip
        self.kept += [x, y, out]
        return True

    def _add_own_matmul(self, x: np.ndarray, y: np.ndarray, out: np.ndarray) -> None:
        (m, k), n, size = x.shape, y.shape[1], x.itemsize
        wide = vectors.columns(x.dtype)
        count = -(-n // wide)
        panels = self.workspace.take(count * k * wide, x.dtype)
        # enough blocks for all threads, none larger than what stays in the cache
        block = min(64, -(-m // (4 * get_num_threads())))
        block += -block % vectors.ROWS
        self.functions.append(_matmul_entry(x.dtype.char).address)
        self.places.append(len(self.words))
        self.words += [
            m, n, k, x.ctypes.data, x.strides[0] // size, y.ctypes.data, y.strides[0] // size, y.strides[1] // size,
            out.ctypes.data, panels.ctypes.data, count, wide, block,
        ]  # fmt: skip
        self.kept += [x, y, out, panels]

    def freeze(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(functions, places, block) for :func:`run`."""
        return np.array(self.functions, np.intp), np.array(self.places, np.intp), np.array(self.words, np.int64)


def _blas_layout(a: np.ndarray) -> tuple[str, int] | None:
    """("N", row stride) for rows in memory order, ("T", column stride) for columns; None if neither."""
    if a.ndim != 2:
        return None
    size = a.itemsize
    rows, columns = (s // size for s in a.strides)
    if (columns == 1 or a.shape[1] == 1) and rows >= max(1, a.shape[1]):
        return "N", rows
    if (rows == 1 or a.shape[0] == 1) and columns >= max(1, a.shape[0]):
        return "T", columns
    return None
