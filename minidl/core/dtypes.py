"""Dtypes: the default one, which dtype inputs of different ones are brought to, and how half precision is computed in.

Half precision is for keeping values, not for computing with them: float16 ends at 65504, and adding 1 to 2048 leaves
2048 (to 256 in bfloat16). So a primitive gets float32 in place of it (:func:`widened`), and what it returns is rounded
back (:func:`rounded`): sums, means, norms and denominators add up in float32, though no formula speaks of it.
"""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np

#: NumPy has no bfloat16 of its own; ``np.dtype("bfloat16")`` is known once ml_dtypes is imported
bfloat16 = np.dtype(ml_dtypes.bfloat16)
#: the dtypes of half precision
HALVES = frozenset((np.dtype(np.float16), bfloat16))

_default_dtype = np.dtype(np.float32)


def default_dtype() -> np.dtype:
    """The dtype of new floating-point tensors: float32 unless :func:`set_default_dtype` said otherwise."""
    return _default_dtype


def set_default_dtype(dtype: Any) -> None:
    """Set the dtype that Python floats and lists of floats become. Raises TypeError for a non-float dtype."""
    global _default_dtype
    dt = np.dtype(dtype)
    if not is_floating(dt):
        raise TypeError(f"set_default_dtype: expected a floating-point dtype, got {dt}")
    _default_dtype = dt


def is_floating(dtype: np.dtype) -> bool:
    """Is it a dtype of real floating-point numbers?"""
    return dtype.kind == "f" or dtype == bfloat16


def smallest(dtype: np.dtype) -> float:
    """The smallest normal number of a floating-point dtype."""
    return float(ml_dtypes.finfo(dtype).smallest_normal)


def spacing(dtype: np.dtype) -> float:
    """The distance from 1 to the next number of a floating-point dtype, its machine epsilon."""
    return float(ml_dtypes.finfo(dtype).eps)


def accumulator(dtype: np.dtype) -> np.dtype:
    """What to add up numbers of ``dtype`` in: float32 for half precision, else ``dtype``."""
    return np.dtype(np.float32) if dtype in HALVES else dtype


def half_among(arrays: Any) -> np.dtype | None:
    """The dtype of the first of ``arrays`` that is of half precision; None if none is."""
    for a in arrays:
        if getattr(a, "dtype", None) in HALVES:
            return a.dtype
    return None


def widened(x: Any) -> Any:
    """``x``, in float32 if it is an array of half precision."""
    return x.astype(np.float32) if getattr(x, "dtype", None) in HALVES else x


def rounded(x: Any, dtype: np.dtype) -> Any:
    """``x``, in ``dtype`` if it is an array of float32."""
    return x.astype(dtype) if getattr(x, "dtype", None) == np.float32 else x


# bool < int < float < complex; bfloat16 is of kind V
_RANKS = {"b": 0, "u": 1, "i": 1, "f": 2, "V": 2, "c": 3}


def _rank_of_scalar(s: Any) -> int:
    return {bool: 0, int: 1, complex: 3}.get(type(s), 2)


def result_dtype(dtypes: list, scalars: list, need_float: bool = False) -> np.dtype:
    """Common dtype, as PyTorch has it: the highest category (bool < int < float < complex) decides, and only the
    arrays of that category choose the width. So int64 with float32 is float32. Python scalars only raise the category.
    """
    scalar_rank = max(map(_rank_of_scalar, scalars), default=-1)
    ranks = [_RANKS.get(d.kind, 4) for d in dtypes]
    top = max(ranks, default=-1)
    if need_float and max(top, scalar_rank) < 2:
        return default_dtype()
    if scalar_rank > top:
        return {1: np.dtype(np.int64), 2: default_dtype(), 0: np.dtype(bool)}.get(scalar_rank, np.dtype(np.complex64))
    chosen = [d for d, r in zip(dtypes, ranks) if r == top]
    common = chosen[0]
    for d in chosen[1:]:
        # the two half precisions have only float32 in common, which NumPy does not know
        common = np.promote_types(common, d) if {common, d} != HALVES else np.dtype(np.float32)
    return common


def is_dtype_name(name: str) -> bool:
    """Is it a dtype's name, such as "float32", and not a device's?"""
    try:
        np.dtype(name)
    except TypeError:
        return False
    return True
