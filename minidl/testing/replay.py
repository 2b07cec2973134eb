"""The file in which a failing call of a primitive is kept.

It is a plain ``.npz`` (never pickled): the arrays, and a JSON text that says how they were laid out in memory and what
the other arguments were.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from minidl.errors import UserError
from minidl.files import atomic_write
from minidl.ops.indexing import Slot
from minidl.testing.case import Case, dtype_of


class ReplayError(UserError, ValueError):
    """The file is not a saved case."""


def save(path: str | Path, case: Case, **facts: Any) -> Path:
    """Write ``case`` and the JSON-able ``facts`` (backend, kernel, check, message) to ``path``, an ``.npz``."""
    arrays: dict[str, np.ndarray] = {}
    text = json.dumps(
        {
            "format": "minidl conformance case 1",
            "primitive": case.primitive,
            "args": [_encode(a, arrays) for a in case.args],
            "params": {k: _encode(v, arrays) for k, v in case.params.items()},
            "layouts": case.layouts,
            **facts,
        },
        indent=1,
    )
    with atomic_write(path) as file:
        np.savez(file, case=np.frombuffer(text.encode(), np.uint8), **arrays)  # type: ignore[arg-type]
    return Path(path)


def load(path: str | Path) -> tuple[Case, dict[str, Any]]:
    """The case in ``path`` and the facts saved with it. Raises ReplayError for any other file."""
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        facts = json.loads(arrays.pop("case").tobytes())
        if facts.pop("format") != "minidl conformance case 1":
            raise ReplayError("unknown format")
        case = Case(
            facts.pop("primitive"),
            [_decode(a, arrays) for a in facts.pop("args")],
            {k: _decode(v, arrays) for k, v in facts.pop("params").items()},
            facts.pop("layouts"),
        )
    except FileNotFoundError:
        raise
    except Exception as error:
        raise ReplayError(f"{path} is not a saved conformance case: {type(error).__name__}: {error}") from error
    return case, facts


def _encode(value: Any, arrays: dict[str, np.ndarray]) -> Any:
    if isinstance(value, np.ndarray):
        name = f"array{len(arrays)}"
        # npy has no name for bfloat16: its bits are kept
        arrays[name] = value if value.dtype.kind != "V" else value.view(np.uint16)
        return {"array": name, "dtype": value.dtype.name}
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return {"float": repr(value)}
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (tuple, list)):
        return {type(value).__name__: [_encode(v, arrays) for v in value]}
    if isinstance(value, slice):
        return {"slice": [value.start, value.stop, value.step]}
    if value is Ellipsis:
        return {"ellipsis": True}
    if isinstance(value, Slot):
        return {"slot": value.position}
    if isinstance(value, np.dtype) or (isinstance(value, type) and issubclass(value, np.generic)):
        return {"dtype": np.dtype(value).name}
    raise ReplayError(f"cannot save an argument of type {type(value).__name__}")


def _decode(value: Any, arrays: dict[str, np.ndarray]) -> Any:
    if not isinstance(value, dict):
        return value
    if "array" in value:
        array = arrays[value["array"]]
        return array if array.dtype.name == value["dtype"] else array.view(dtype_of(value["dtype"]))
    if "float" in value:
        return float(value["float"])
    if "tuple" in value or "list" in value:
        kind, items = next(iter(value.items()))
        return {"tuple": tuple, "list": list}[kind](_decode(v, arrays) for v in items)
    if "slice" in value:
        return slice(*value["slice"])
    if "ellipsis" in value:
        return Ellipsis
    if "slot" in value:
        return Slot(value["slot"])
    return dtype_of(value["dtype"])
