"""Cross-entropy with class indices: logits are read twice, and only the loss and two numbers per row are written."""

from __future__ import annotations

from typing import Any

import cupy
import numpy as np

from minidl.backend import kernel
from minidl_kernels.cupy.launch import FLOATS, accumulation, contiguous, floats, kept, launch, over_rows, wide


def _indices(logits: Any, target: Any, weight: Any = None, **params: Any) -> bool:
    """floating-point logits, not empty; integer classes. A class that is out of range makes the loss NaN"""
    weighs = weight is None or weight.dtype == logits.dtype or weight.dtype.itemsize > 2
    return (
        floats(logits)
        and logits.ndim > 0
        and isinstance(target, cupy.ndarray)
        and target.dtype.kind in "iu"
        and weighs  # (a half precision's weight would round the loss of wider logits)
    )


def _indices_grad(
    g: Any, logits: Any, target: Any, top: Any, logsum: Any, total: Any, weight: Any = None, **params: Any
) -> bool:
    """floating-point logits, not empty; integer classes"""
    return _indices(logits, target, weight) and kept(logits, g, top, logsum, total)


def _rows(logits: Any, target: Any, weight: Any) -> tuple[Any, Any, Any]:
    """Logits (N, C, ...) as contiguous (N, ..., C), and targets and weights to go with them."""
    classes_last = cupy.moveaxis(logits, min(1, logits.ndim - 1), -1)
    target = contiguous(target.astype(np.int64, copy=False))
    if weight is not None:
        weight = contiguous(weight.astype(accumulation(logits.dtype), copy=False))
    return contiguous(classes_last), target, weight


@kernel("cross_entropy", backend="cupy", when=_indices, dtypes=FLOATS, note="log-sum-exp and loss in one pass per row")
def cross_entropy(
    logits: Any, target: Any, weight: Any = None, *, label_smoothing: float = 0.0, ignore_index: int = -100,
    reduction: str = "mean",
) -> tuple[Any, ...]:  # fmt: skip
    x, target, weight = _rows(logits, target, weight)
    dtype, classes = x.dtype, x.shape[-1]
    acc, n = accumulation(dtype), x.size // classes
    axis = min(1, logits.ndim - 1)
    per_entry = (*logits.shape[:axis], 1, *logits.shape[axis + 1 :])
    top, logsum = cupy.empty(per_entry, acc), cupy.empty(per_entry, acc)
    losses, weights = cupy.empty(n, acc), cupy.empty(n, acc)
    launch(
        "loss", "cross_entropy_rows<T>", dtype, *over_rows(n, classes), x, target, weight, n, classes,
        float(label_smoothing), np.int64(ignore_index), losses, weights, top, logsum,
    )  # fmt: skip
    reduced = None if reduction == "none" else cupy.empty((), dtype)
    total = cupy.empty((), acc)
    launch(
        "loss", "cross_entropy_total<T>", dtype, (1,), (256, 1), losses, weights, n, reduction == "mean", reduced, total
    )
    if reduced is None:
        reduced = losses.astype(dtype, copy=False).reshape(target.shape)
    return reduced, top, logsum, total


@kernel("cross_entropy_grad", backend="cupy", when=_indices_grad, dtypes=FLOATS, note="one pass per row")
def cross_entropy_grad(
    g: Any, logits: Any, target: Any, top: Any, logsum: Any, total: Any, weight: Any = None, *,
    label_smoothing: float = 0.0, ignore_index: int = -100, reduction: str = "mean",
) -> Any:  # fmt: skip
    x, target, weight = _rows(logits, target, weight)
    dtype, classes = x.dtype, x.shape[-1]
    n = x.size // classes
    g, top, logsum, total = wide(g, top, logsum, total)
    dx = cupy.empty(x.shape, dtype)
    launch(
        "loss", "cross_entropy_grad<T>", dtype, *over_rows(n, classes), g, g.size > 1,
        total if reduction == "mean" else None, x, target, top, logsum, weight, n, classes, float(label_smoothing),
        np.int64(ignore_index), dx,
    )  # fmt: skip
    return contiguous(cupy.moveaxis(dx, -1, min(1, logits.ndim - 1)))
