"""One thing, two names: PyTorch's keywords beside NumPy's, translated in this one place.

Every primitive and function of :mod:`minidl.ops` takes ``dim`` for ``axis`` and ``keepdim`` for ``keepdims``, and
``input`` and ``other`` for its first and second input.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any

_PAIRS = {
    "dim": "axis", "dims": "axes", "keepdim": "keepdims", "dim0": "axis1", "dim1": "axis2", "start_dim": "start_axis",
    "end_dim": "end_axis",
}  # fmt: skip
_TWINS = {**_PAIRS, **{ours: theirs for theirs, ours in _PAIRS.items()}}
_BY_POSITION = {"input": 0, "other": 1}


def spelled(parameters: Mapping[str, inspect.Parameter], given: dict[str, Any]) -> dict[str, Any]:
    """The keyword arguments ``given``, by the names that ``parameters`` have for them.

    Raises TypeError where one parameter is given by both of its names. Unknown names stay, for the call to refuse.
    """
    found = {}
    names = list(parameters)
    for name, value in given.items():
        to = name
        if name not in parameters:
            position = _BY_POSITION.get(name)
            if position is not None and position < len(names):
                to = names[position]
            elif _TWINS.get(name) in parameters:
                to = _TWINS[name]
        if to in found or (to != name and to in given):
            raise TypeError(f"got both {name!r} and {to!r}, which mean the same")
        found[to] = value
    return found


def both_spellings(function: Callable[..., Any]) -> Callable[..., Any]:
    """``function``, which also takes the other spelling of its parameters; itself where none has one."""
    parameters = inspect.signature(function).parameters
    if not any(name in _TWINS or i < 2 for i, name in enumerate(parameters)):
        return function

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        if kwargs and not kwargs.keys() <= parameters.keys():
            kwargs = spelled(parameters, kwargs)
        return function(*args, **kwargs)

    return call
