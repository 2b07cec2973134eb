"""Cross-entropy in few passes over the logits, the target distribution not made."""

from __future__ import annotations

import numpy as np

from minidl.backend import kernel
from minidl.ops.loss import class_weights


@kernel("cross_entropy", backend="numpy", note="in few passes")
def cross_entropy(logits, target, weight=None, *, label_smoothing=0.0, ignore_index=-100, reduction="mean"):
    axis = min(1, logits.ndim - 1)
    safe, each = class_weights(target, weight, ignore_index, logits.dtype, logits.shape[axis], "cross_entropy")
    with np.errstate(invalid="ignore", divide="ignore"):
        top = np.max(logits, axis=axis, keepdims=True)
        shifted = logits - top
        logsum = np.log(np.sum(np.exp(shifted), axis=axis, keepdims=True))
        picked = np.take_along_axis(shifted, np.expand_dims(safe, axis), axis=axis)
        loss = np.where(each == 0, logits.dtype.type(0), np.squeeze(logsum - picked, axis=axis) * each)
        if label_smoothing:
            n = logits.shape[axis]
            of_class = np.ones(n, logits.dtype) if weight is None else weight.astype(logits.dtype)
            of_class = of_class.reshape((-1,) + (1,) * (logits.ndim - 1 - axis))
            spread = np.sum((logsum - shifted) * of_class, axis=axis)
            spread = np.where(target == ignore_index, logits.dtype.type(0), spread)
            loss = (1 - label_smoothing) * loss + (label_smoothing / n) * spread
        total = np.sum(each)
        if reduction == "mean":
            loss = np.sum(loss) / total if total else logits.dtype.type(np.nan)
        elif reduction == "sum":
            loss = np.sum(loss)
    return loss, top, logsum, total


@kernel("cross_entropy_grad", backend="numpy", note="in few passes")
def cross_entropy_grad(
    g, logits, target, top, logsum, total, weight=None, *, label_smoothing=0.0, ignore_index=-100, reduction="mean"
):
    axis, n = min(1, logits.ndim - 1), logits.shape[min(1, logits.ndim - 1)]
    per_class = (-1,) + (1,) * (logits.ndim - 1 - axis)
    safe, each = class_weights(target, weight, ignore_index, logits.dtype, logits.shape[axis], "cross_entropy")
    with np.errstate(invalid="ignore", divide="ignore"):
        p = logits - top
        p -= logsum
        p = np.exp(p)
        if reduction == "mean":
            g = g / total if total else np.zeros_like(g)
    hit = np.arange(n).reshape(per_class) == np.expand_dims(safe, axis)
    if not label_smoothing:
        p -= hit
        p *= np.expand_dims(g * each, axis)
        return p
    of_class = (np.ones(n, logits.dtype) if weight is None else weight.astype(logits.dtype)).reshape(per_class)
    even = np.expand_dims(target != ignore_index, axis) * ((label_smoothing / n) * of_class)
    q = (1 - label_smoothing) * np.expand_dims(each, axis) * hit + even
    return (p * np.sum(q, axis=axis, keepdims=True) - q) * (g if g.ndim == 0 else np.expand_dims(g, axis))
