"""What the kernels share: compiler options, conditions, the size at which threads pay."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

#: Compiler options. Contraction to fused multiply-add and unsigned zeros are all that is allowed of fast mathematics:
#: NaN and infinity count. Loops that sum say so themselves, with :func:`~.vecmath.add_any_order`.
#: Such a loop must store nothing: LLVM would make two versions of it, with the sum in different orders, one for when
#: the arrays may overlap as far as it can tell, and results would depend on where the arrays lie.
SERIAL = {"cache": True, "nogil": True, "error_model": "numpy", "fastmath": {"contract", "nsz"}}
PARALLEL = {**SERIAL, "parallel": True}

#: Elements below which starting threads costs more than they save.
PARALLEL_FROM = 1 << 15
#: Elements in a piece of work. The cuts do not depend on the number of threads, so neither do the results.
PIECE = 1 << 13

FLOATS = frozenset({np.dtype(np.float32), np.dtype(np.float64)})


def plain(first: Any, *others: Any) -> bool:
    """C-contiguous host arrays of one dtype, float32 or float64; those that are None do not count."""
    if type(first) is not np.ndarray or not first.flags.c_contiguous:
        return False
    dtype = first.dtype
    if dtype not in FLOATS:
        return False
    for a in others:
        if a is not None and (type(a) is not np.ndarray or a.dtype != dtype or not a.flags.c_contiguous):
            return False
    return True


def flat_indices(index: np.ndarray) -> np.ndarray:
    """Integers as int64 in one contiguous axis; those too large for it become the largest, which no axis is as long
    as, rather than negative."""
    if index.dtype.kind == "u" and index.itemsize == 8:
        index = np.minimum(index, np.iinfo(np.int64).max)
    return np.ascontiguousarray(index, np.int64).reshape(-1)


def pieces(size: int, most: int) -> int:
    """How many pieces of about ``PIECE`` elements ``size`` elements are cut into, at most ``most``."""
    return max(1, min(most, size // PIECE))


def over_rows(serial: Callable[..., Any], parallel: Callable[..., Any], size: int, rows: int, *arguments: Any) -> None:
    """Run ``serial(*arguments, first row, last row)``, or if ``size`` is worth it ``parallel(*arguments, pieces)``."""
    if size < PARALLEL_FROM:
        serial(*arguments, 0, rows)
    else:
        parallel(*arguments, pieces(size, rows))
