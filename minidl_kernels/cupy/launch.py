"""Starting kernels: which arguments they take, how many threads they get, and when they can be used."""

from __future__ import annotations

import functools
from typing import Any

import cupy
import numpy as np

from minidl_kernels.cupy.source import TYPES, expressions, options, source, specialized

#: what kernels are registered with; those for float16 serve bfloat16, too. With half precision, a kernel rounds the
#: outputs that the primitive's ``half`` names, and returns (and takes) the others in float32, the accumulation type
FLOATS = ("float32", "float64", "float16")
#: elements beyond which an int no longer counts them safely
MOST = 1 << 30

_NULL = np.uintp(0)
_SINGLE, _DOUBLE = np.dtype(np.float32), np.dtype(np.float64)
# Enough threads to keep every multiprocessor busy; kernels over elements loop when there are more of those.
_THREADS, _MOST_BLOCKS = 256, 4096


@functools.cache
def _module(family: str, dtype: str) -> Any:
    return cupy.RawModule(
        code=source(family), options=options(dtype), name_expressions=expressions(family, dtype), backend="nvrtc"
    )


@functools.cache
def _function(family: str, expression: str, dtype: str) -> Any:
    return _module(family, dtype).get_function(specialized(expression, dtype))


def launch(family: str, expression: str, dtype: Any, grid: tuple, block: tuple, *arguments: Any) -> None:
    """Start a kernel of ``family.cu`` on the current stream.

    ``expression`` is one of :data:`minidl_kernels.cupy.source.KERNELS`. Python numbers are passed as the kernels have
    them: bool and int as such, float as the accumulation type; None is a null pointer; NumPy scalars stay as they are.
    Arrays must be C-contiguous.
    """
    name = names[dtype]
    as_kernels_have_them = _IN_DOUBLE if name == "float64" else _IN_SINGLE
    converted = tuple([as_kernels_have_them[type(a)](a) for a in arguments])
    _function(family, expression, name)(grid, block, converted)


class _Names(dict):
    """The name of each dtype, as NumPy has it (NumPy makes it up each time, which takes as long as a launch)."""

    def __missing__(self, dtype: Any) -> str:
        self[dtype] = np.dtype(dtype).name
        return self[dtype]


class _Conversions(dict):
    """What is done to arguments of each type."""

    def __init__(self, accumulation: Any) -> None:
        self.bases = {bool: np.bool_, int: np.int32, float: accumulation, type(None): lambda a: _NULL}

    def __missing__(self, kind: type) -> Any:  # (NumPy's float64 is a float, too)
        self[kind] = next((c for base, c in self.bases.items() if issubclass(kind, base)), lambda a: a)
        return self[kind]


names = _Names()
_IN_SINGLE, _IN_DOUBLE = _Conversions(np.float32), _Conversions(np.float64)


def over_elements(n: int) -> tuple[tuple[int], tuple[int]]:
    """(grid, block) for a kernel that says ``FOR_EACH(i, n)``."""
    return (max(1, min(-(-n // _THREADS), _MOST_BLOCKS)),), (_THREADS,)


def over_rows(rows: int, n: int) -> tuple[tuple[int], tuple[int, int]]:
    """(grid, block) for a kernel with a team of threads for each of the rows of length n; see ``common.cuh``."""
    if n <= 1024:
        return (-(-rows // 4),), (32, 4)
    return (rows,), (256, 1)


def accumulation(dtype: Any) -> np.dtype:
    """The dtype in which a kernel for ``dtype`` computes."""
    return _DOUBLE if dtype == _DOUBLE else _SINGLE


def contiguous(*arrays: Any) -> Any:
    """The arrays in C order (None stays None), each of its shape: ``cupy.ascontiguousarray`` gives 0-d ones an axis."""
    made = tuple(a if a is None or a.flags.c_contiguous else a.copy(order="C") for a in arrays)
    return made if len(made) > 1 else made[0]


def wide(*arrays: Any) -> Any:
    """The arrays in C order and in the dtype that kernels compute in, ``Acc<T>`` in the sources: only half precisions
    are converted. None stays None."""
    made = tuple(
        a if a is None or a.dtype == (acc := accumulation(a.dtype)) else a.astype(acc, order="C") for a in arrays
    )
    return contiguous(*made)


def floats(first: Any, *others: Any) -> bool:
    """Arrays of one floating-point dtype that there are kernels for, the first not empty; None does not count."""
    if not isinstance(first, cupy.ndarray) or names[first.dtype] not in TYPES or not 0 < first.size <= MOST:
        return False
    return all(a is None or (isinstance(a, cupy.ndarray) and a.dtype == first.dtype) for a in others)


def kept(first: Any, *others: Any) -> bool:
    """Are the others what may be kept beside ``first``: arrays of its dtype or of the one that kernels compute in, such
    as optimizers' states beside parameters of half precision? :func:`wide` makes of either what kernels take."""
    dtypes = (first.dtype, accumulation(first.dtype))
    return all(a is None or (isinstance(a, cupy.ndarray) and a.dtype in dtypes) for a in others)
