"""Losses."""

from __future__ import annotations

import numpy as np

from minidl import ops
from minidl.interop.onnx.registry import operator


@operator("NegativeLogLikelihoodLoss", host="target")
def negative_log_likelihood_loss(x, target, weight=None, *, ignore_index=None, reduction="mean"):
    """- weight[t] x[n, t] for the target t of each place, over the sum of weights for ``mean``."""
    _n, _c = x.shape[:2]
    counted = np.ones(target.shape, bool) if ignore_index is None else target != ignore_index
    safe = np.where(counted, target, 0).astype(np.int64)
    share = ops.where(counted, 1.0 if weight is None else ops.take(weight, safe, axis=0), 0.0)
    share = ops.astype(share, dtype=x.dtype)
    picked = ops.squeeze(ops.gather(x, safe[:, None], axis=1), axis=1)
    loss = -picked * share
    if reduction == "none":
        return loss
    return ops.sum(loss) / ops.sum(share) if reduction == "mean" else ops.sum(loss)


@operator("SoftmaxCrossEntropyLoss", host="target")
def softmax_cross_entropy_loss(x, target, weight=None, *, ignore_index=None, reduction="mean"):
    """(the loss, the log-probabilities)."""
    log_p = ops.log_softmax(x, axis=1)
    loss = negative_log_likelihood_loss(log_p, target, weight, ignore_index=ignore_index, reduction=reduction)
    return loss, log_p
