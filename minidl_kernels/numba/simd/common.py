"""What the kernels share: conditions, the size at which threads pay."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

#: Elements below which starting threads costs more than they save; in a fused loop of a captured step there is less
#: around it to save.
PARALLEL_FROM, FUSED_PARALLEL_FROM = 1 << 15, 1 << 16
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
