"""How captured steps change shapes: views where the formulas copy, and copies on the tape."""

from __future__ import annotations

from typing import Any

import numpy as np

from minidl import ops
from minidl_kernels.numba.compiler.rules import lowering, rewrite, view


@view("broadcast_to")
def broadcast_to(x: np.ndarray, *, shape: tuple[int, ...]) -> np.ndarray:
    """The formula copies, as tensors are written to."""
    return np.broadcast_to(x, shape)


@rewrite("sum_to")
def sum_to(graph: Any, x: Any, *, shape: tuple[int, ...]) -> Any:
    """A sum, which a loop can end with, and a reshaping."""
    if x.dtype.char not in "fd":
        return None
    lead = len(x.shape) - len(shape)
    axes = tuple(k for k, n in enumerate(x.shape) if k < lead or (shape[k - lead] == 1 and n != 1))
    kept = tuple(n for k, n in enumerate(x.shape) if k not in axes)
    total = graph.step(ops.sum, [x], kept, axis=axes, keepdims=False) if axes else x
    return total if kept == shape and axes else graph.step(ops.reshape, [total], shape, shape=shape)


@lowering("reshape")
def reshape(binder: Any, inputs: list, outs: list[np.ndarray], *, shape: tuple[int, ...]) -> bool:
    """A copy in the order of the elements, where a view is not possible."""
    binder.copy(inputs[0], outs[0].reshape(inputs[0].shape))
    return True


@lowering("concat")
def concat(binder: Any, inputs: list, outs: list[np.ndarray], *, axis: int = 0) -> bool:
    """A copy for each input."""
    return _side_by_side(binder, [np.moveaxis(x, axis, 0) for x in inputs], np.moveaxis(outs[0], axis, 0))


@lowering("stack")
def stack(binder: Any, inputs: list, outs: list[np.ndarray], *, axis: int = 0) -> bool:
    """A copy for each input."""
    return _side_by_side(binder, [x[None] for x in inputs], np.moveaxis(outs[0], axis, 0))


def _side_by_side(binder: Any, pieces: list[np.ndarray], out: np.ndarray) -> bool:
    if any(p.dtype != out.dtype for p in pieces):
        return False
    begin = 0
    for p in pieces:
        binder.copy(p, out[begin : begin + len(p)])
        begin += len(p)
    return True
