"""Splits state dictionaries for files: into named arrays (for safetensors) and the rest (for JSON)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from minidl.core.registry import to_numpy
from minidl.core.tensor import Tensor

_PLACE = "$array"


def split_arrays(state: Any) -> tuple[dict[str, np.ndarray], Any]:
    """Split nested dicts and lists into ``(arrays, rest)``; ``rest`` can be written as JSON.

    In ``rest``, each array is ``{"$array": name}``, where the name is a dotted path, such as ``state.0.exp_avg``. Keys
    become strings and tuples become lists, which the ``load_state_dict`` of optimizers and averages accepts. Raises
    TypeError for a value that fits neither part.

    >>> split_arrays({"step": 3, "m": np.zeros(2)})
    ({'m': array([0., 0.])}, {'step': 3, 'm': {'$array': 'm'}})
    """
    arrays: dict[str, np.ndarray] = {}
    return arrays, _split(state, "", arrays)


def _split(value: Any, path: str, arrays: dict[str, np.ndarray]) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, Mapping):
        return {str(k): _split(v, f"{path}.{k}" if path else str(k), arrays) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_split(v, f"{path}.{i}" if path else str(i), arrays) for i, v in enumerate(value)]
    if hasattr(value, "dtype") and hasattr(value, "shape"):
        if path in arrays:
            raise ValueError(f"split_arrays: two arrays are called {path!r}")
        arrays[path] = to_numpy(value.array if isinstance(value, Tensor) else value)
        return {_PLACE: path}
    raise TypeError(f"split_arrays: {path or 'the state'} is a {type(value).__name__}, neither array nor JSON-able")


def join_arrays(arrays: Mapping[str, Any], rest: Any) -> Any:
    """Undo :func:`split_arrays`. Raises KeyError, naming the array, if one is missing."""
    if isinstance(rest, Mapping):
        if rest.keys() == {_PLACE}:
            name = rest[_PLACE]
            if name not in arrays:
                raise KeyError(f"join_arrays: there is no array {name!r}")
            return arrays[name]
        return {k: join_arrays(arrays, v) for k, v in rest.items()}
    if isinstance(rest, list):
        return [join_arrays(arrays, v) for v in rest]
    return rest
