"""One call of a primitive as the tests of kernels make it: the arguments, and how arrays lie in memory."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from minidl.core.dtypes import accumulator
from minidl.core.registry import namespace
from minidl.ops import primitives

#: how an array may lie in memory, the simplest first; ``broadcast`` has stride 0 and, in NumPy, is read-only
LAYOUTS = ("C", "offset", "F", "reversed", "strided", "broadcast")


def is_float(dtype: Any) -> bool:
    """Floating-point, NumPy's or (``bfloat16``) ml_dtypes'."""
    return dtype.kind == "f" or dtype.name == "bfloat16"


def dtype_of(name: str) -> np.dtype:
    """NumPy's dtype of this name, or ml_dtypes' ``bfloat16``."""
    if name == "bfloat16":
        import ml_dtypes

        return np.dtype(ml_dtypes.bfloat16)
    return np.dtype(name)


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
    """Arguments for one call: contiguous NumPy arrays, Python scalars, None; ``layouts`` has one entry per argument."""

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
        """The same call with every floating-point array in ``dtype``; in float32 where that is a half precision and the
        array an optimizer's state (donated, and returned as float32)."""
        prim = primitives[self.primitive]
        args = list(self.args)
        for i in self.floats:
            wide = i < len(prim.inputs) and prim.inputs[i] in prim.donated[1:]
            args[i] = args[i].astype(accumulator(np.dtype(dtype)) if wide else dtype)
        return self.with_args(args)

    @property
    def arrays(self) -> list[np.ndarray]:
        return [a for a in self.args if isinstance(a, np.ndarray)]

    @property
    def floats(self) -> list[int]:
        """Positions of the floating-point arrays."""
        return [i for i, a in enumerate(self.args) if isinstance(a, np.ndarray) and is_float(a.dtype)]

    @property
    def free(self) -> list[int]:
        """Positions of those that can be given any value. A gradient primitive's others were kept from the forward
        pass and belong together."""
        return self.floats[:1] if self.primitive.endswith(("_grad", "_backward")) else self.floats

    @property
    def finite(self) -> bool:
        """Is there no NaN and no infinity among the inputs?"""
        return all(np.isfinite(self.args[i].astype(np.float64)).all() for i in self.floats)

    def changed(self, change: Callable[[np.ndarray], np.ndarray]) -> Case:
        """The same call with ``change`` made to the arrays that are :attr:`free`."""
        return self.with_args([change(a) if i in self.free else a for i, a in enumerate(self.args)])

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
