"""One call of a primitive as the conformance suite makes it, and the file in which a failing one is kept.

The file is a plain ``.npz`` (never pickled): the arrays, and a JSON text that says how they were laid out in memory
and what the other arguments were.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from minidl.core.registry import namespace
from minidl.errors import UserError

#: how an array may lie in memory, the simplest first; ``broadcast`` has stride 0 and, in NumPy, is read-only
LAYOUTS = ("C", "offset", "F", "reversed", "strided", "broadcast")


def is_float(dtype: Any) -> bool:
    """Floating-point, NumPy's or (``bfloat16``) ml_dtypes'."""
    return dtype.kind == "f" or dtype.name == "bfloat16"


def lay_out(array: np.ndarray, layout: str, send: Callable[[np.ndarray], Any] = np.asarray) -> Any:
    """A fresh copy of ``array``, given to ``send`` (a backend's ``asarray``), that lies in memory as ``layout`` says.

    ``broadcast`` wants the same values all along the first axis.
    """
    if layout == "C" or array.ndim == 0:
        return send(array.copy())
    if layout == "offset":  # contiguous, but not where an allocator would put it
        base = np.empty(array.size + 1, array.dtype)
        base[1:] = array.reshape(-1)
        return send(base)[1:].reshape(array.shape)
    if layout == "F":
        return send(np.array(array.T, order="C")).T
    if layout == "reversed":
        back = (slice(None, None, -1),) * array.ndim
        return send(np.array(array[back], order="C"))[back]
    if layout == "strided":
        # NaN between the values: whoever reads it by mistake is found out
        base = np.full([2 * n for n in array.shape], np.nan if is_float(array.dtype) else 0).astype(array.dtype)
        every = (slice(None, None, 2),) * array.ndim
        base[every] = array
        return send(base)[every]
    if layout == "broadcast":
        row = send(array[:1].copy())
        return namespace(row).broadcast_to(row, array.shape)
    raise ValueError(f"unknown layout {layout!r}; known: {', '.join(LAYOUTS)}")


@dataclasses.dataclass
class Case:
    """Arguments for one call: contiguous NumPy arrays, Python scalars, None; ``layouts`` has one entry an argument."""

    primitive: str
    args: list[Any]
    params: dict[str, Any]
    layouts: list[str] = dataclasses.field(default_factory=list)

    def __post_init__(self) -> None:
        self.args = [np.asarray(a) if isinstance(a, np.generic) else a for a in self.args]
        self.args = [np.array(a, order="C") if isinstance(a, np.ndarray) else a for a in self.args]
        self.layouts = list(self.layouts) or ["C"] * len(self.args)

    def place(self, send: Callable[[np.ndarray], Any] = np.asarray) -> list[Any]:
        """The arguments, arrays freshly laid out."""
        return [lay_out(a, how, send) if isinstance(a, np.ndarray) else a for a, how in zip(self.args, self.layouts)]

    def with_args(self, args: list[Any]) -> Case:
        """The same call with other values."""
        return Case(self.primitive, args, self.params, self.layouts)

    def cast(self, dtype: Any) -> Case:
        """The same call with every floating-point array in ``dtype``."""
        return self.with_args(
            [a.astype(dtype) if isinstance(a, np.ndarray) and is_float(a.dtype) else a for a in self.args]
        )

    @property
    def arrays(self) -> list[np.ndarray]:
        return [a for a in self.args if isinstance(a, np.ndarray)]

    @property
    def size(self) -> tuple:
        """Smaller is simpler: elements, then axes, then unusual layouts, then how odd the numbers are."""
        odd = sum(1 for a in self.arrays if is_float(a.dtype) and not np.isfinite(a.astype(float)).all())
        layouts = sum(LAYOUTS.index(how) for how in self.layouts)
        return sum(a.size for a in self.arrays), sum(a.ndim for a in self.arrays), odd, layouts

    def __str__(self) -> str:
        parts = []
        for a, how in zip(self.args, self.layouts):
            if isinstance(a, np.ndarray):
                shown = f"{a.dtype}{list(a.shape)}" + ("" if how == "C" else f" {how}")
                if is_float(a.dtype) and not np.isfinite(a.astype(float)).all():
                    shown += " with NaN or Inf"
                parts.append(shown)
            else:
                parts.append(repr(a))
        parts += [f"{k}={v!r}" for k, v in self.params.items()]
        return f"{self.primitive}({', '.join(parts)})"


class ReplayError(UserError, ValueError):
    """The file is not a saved case."""


def save(path: str | Path, case: Case, **facts: Any) -> Path:
    """Write ``case`` and the JSON-able ``facts`` (backend, kernel, check, message) to ``path``, an ``.npz``."""
    from minidl.files import atomic_write

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
        np.savez(file, case=np.frombuffer(text.encode(), np.uint8), **arrays)
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
    from minidl.ops.indexing import Slot

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
    from minidl.ops.indexing import Slot

    if not isinstance(value, dict):
        return value
    if "array" in value:
        array = arrays[value["array"]]
        return array if array.dtype.name == value["dtype"] else array.view(_dtype(value["dtype"]))
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
    return _dtype(value["dtype"])


def _dtype(name: str) -> np.dtype:
    if name == "bfloat16":
        import ml_dtypes

        return np.dtype(ml_dtypes.bfloat16)
    return np.dtype(name)
