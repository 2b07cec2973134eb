"""Dtypes: the default one, and which dtype inputs of different ones are brought to."""

from __future__ import annotations

from typing import Any

import numpy as np

_default_dtype = np.dtype(np.float32)


def default_dtype() -> np.dtype:
    """The dtype of new floating-point tensors: float32 unless :func:`set_default_dtype` said otherwise."""
    return _default_dtype


def set_default_dtype(dtype: Any) -> None:
    """Set the dtype that Python floats and lists of floats become. Raises TypeError for a non-float dtype."""
    global _default_dtype
    dt = np.dtype(dtype)
    if dt.kind != "f":
        raise TypeError(f"set_default_dtype: expected a floating-point dtype, got {dt}")
    _default_dtype = dt


# bool < int < float < complex; ml_dtypes' bfloat16 is of kind V
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
        common = np.promote_types(common, d)
    return common


def is_dtype_name(name: str) -> bool:
    """Is it a dtype's name, such as "float32", and not a device's?"""
    try:
        np.dtype(name)
    except TypeError:
        return False
    return True
