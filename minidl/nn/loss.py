"""Losses as modules; :mod:`minidl.ops.loss` and :mod:`minidl.ops.ctc` have the functions, with shapes and errors."""

from __future__ import annotations

import functools
import math
from types import FunctionType
from typing import Any

import numpy as np

from minidl import ops
from minidl.core.registry import to_numpy
from minidl.core.tensor import as_tensor
from minidl.nn.function import FunctionLayer


class _Loss(FunctionLayer):
    """A loss function with its settings; tensors among them (class weights) are buffers. Inputs may be lists."""

    reduction: str

    def __init__(self, weights: dict[str, Any] | None = None, **settings: Any) -> None:
        super().__init__(**settings)
        for name, value in (weights or {}).items():
            self.register_buffer(name, value)

    def forward(self, *inputs: Any) -> Any:
        weights = {name: getattr(self, name) for name in self._buffers}
        tensors = [as_tensor(x) if isinstance(x, list) else x for x in inputs]
        return type(self)._function(*tensors, **weights, **self.settings())

    def count(self, output: Any, target: Any) -> float | None:
        """What the mean over a batch was divided by, and so its weight in a mean over batches; None for a sum."""
        return None if self.reduction == "sum" else self._count(output, target)

    def _count(self, output: Any, target: Any) -> float:
        return math.prod(np.shape(target))


class _ClassLoss(_Loss):
    """A loss of class scores (N, C, ...) or (C,), whose mean leaves out targets of the value ``ignore_index``."""

    ignore_index: int
    weight: Any
    #: whether the mean is divided by the sum of the targets' class weights, and not by their number
    weighted = True

    def _count(self, output: Any, target: Any) -> float:
        if target.dtype.kind not in "iu":  # probabilities of the classes
            return math.prod(target.shape[:1] + target.shape[2:]) if target.ndim > 1 else 1
        classes = to_numpy(as_tensor(target).array)
        counted = classes[classes != self.ignore_index]
        if self.weight is None or not self.weighted:
            return counted.size
        return float(to_numpy(self.weight.array)[counted].sum(dtype=np.float64))


def as_module(loss: Any) -> Any:
    """The module of a function of :mod:`minidl.ops`, bare or in ``functools.partial``; anything else as it is."""
    settings: dict[str, Any] = {}
    function = loss
    while isinstance(function, functools.partial) and not function.args:
        settings = {**function.keywords, **settings}
        function = function.func
    module = _modules().get(function) if isinstance(function, FunctionType) else None
    return loss if module is None else module(**settings)


def count(loss: Any, output: Any, target: Any) -> float | None:
    """What ``loss(output, target)`` divided by to get the mean over a batch; None if it is a sum.

    A loss says so in a method ``count(output, target)``, as those of this module have; for the functions of
    :mod:`minidl.ops` it is their module's. For any other function it is ``len(target)``: a mean over samples.
    """
    loss = as_module(loss)
    return loss.count(output, target) if hasattr(loss, "count") else len(target)


@functools.cache
def _modules() -> dict[Any, type[_Loss]]:
    """The losses of this module by their function."""
    found = (value for value in globals().values() if isinstance(value, type) and issubclass(value, _Loss))
    return {cls._function: cls for cls in found if hasattr(cls, "_function")}


class MSELoss(_Loss):
    """(input - target)²."""

    _function = ops.mse_loss

    def __init__(self, reduction: str = "mean") -> None:
        super().__init__(reduction=reduction)


class L1Loss(_Loss):
    """|input - target|."""

    _function = ops.l1_loss

    def __init__(self, reduction: str = "mean") -> None:
        super().__init__(reduction=reduction)


class HuberLoss(_Loss):
    """Quadratic up to an error of ``delta``, linear beyond."""

    _function = ops.huber_loss

    def __init__(self, reduction: str = "mean", delta: float = 1.0) -> None:
        super().__init__(reduction=reduction, delta=delta)


class SmoothL1Loss(_Loss):
    """The Huber loss with delta = beta, divided by beta."""

    _function = ops.smooth_l1_loss

    def __init__(self, reduction: str = "mean", beta: float = 1.0) -> None:
        super().__init__(reduction=reduction, beta=beta)


class BCELoss(_Loss):
    """Binary cross-entropy of probabilities."""

    _function = ops.binary_cross_entropy

    def __init__(self, weight: Any = None, reduction: str = "mean") -> None:
        super().__init__({"weight": weight}, reduction=reduction)


class BCEWithLogitsLoss(_Loss):
    """Binary cross-entropy of raw scores."""

    _function = ops.binary_cross_entropy_with_logits

    def __init__(self, weight: Any = None, reduction: str = "mean", pos_weight: Any = None) -> None:
        super().__init__({"weight": weight, "pos_weight": pos_weight}, reduction=reduction)


class CrossEntropyLoss(_ClassLoss):
    """Cross-entropy of raw scores with class indices or probabilities."""

    _function = ops.cross_entropy

    def __init__(
        self, weight: Any = None, ignore_index: int = -100, reduction: str = "mean", label_smoothing: float = 0.0
    ) -> None:
        super().__init__(
            {"weight": weight}, ignore_index=ignore_index, reduction=reduction, label_smoothing=label_smoothing
        )


class NLLLoss(_ClassLoss):
    """Negative log-likelihood: cross-entropy of log-probabilities with class indices."""

    _function = ops.nll_loss

    def __init__(self, weight: Any = None, ignore_index: int = -100, reduction: str = "mean") -> None:
        super().__init__({"weight": weight}, ignore_index=ignore_index, reduction=reduction)


class FocalLoss(_ClassLoss):
    """Cross-entropy that counts well-classified examples less; ``weight`` is the alpha of each class."""

    _function = ops.focal_loss
    weighted = False

    def __init__(
        self, gamma: float = 2.0, weight: Any = None, ignore_index: int = -100, reduction: str = "mean"
    ) -> None:
        super().__init__({"weight": weight}, gamma=gamma, ignore_index=ignore_index, reduction=reduction)


class SigmoidFocalLoss(_Loss):
    """Focal loss for independent binary targets, from raw scores."""

    _function = ops.sigmoid_focal_loss

    def __init__(self, alpha: float = 0.25, gamma: float = 2.0, reduction: str = "mean") -> None:
        super().__init__(alpha=alpha, gamma=gamma, reduction=reduction)


class KLDivLoss(_Loss):
    """Kullback-Leibler divergence of log-probabilities from target probabilities."""

    _function = ops.kl_div

    def __init__(self, reduction: str = "mean", log_target: bool = False) -> None:
        super().__init__(reduction=reduction, log_target=log_target)

    def _count(self, output: Any, target: Any) -> float:
        return len(target) if self.reduction == "batchmean" else super()._count(output, target)


class HingeLoss(_Loss):
    """max(0, margin - target input) for targets -1 and 1."""

    _function = ops.hinge_loss

    def __init__(self, margin: float = 1.0, reduction: str = "mean") -> None:
        super().__init__(margin=margin, reduction=reduction)


class HingeEmbeddingLoss(_Loss):
    """The input where the target is 1, max(0, margin - input) where it is -1."""

    _function = ops.hinge_embedding_loss

    def __init__(self, margin: float = 1.0, reduction: str = "mean") -> None:
        super().__init__(margin=margin, reduction=reduction)


class MultiMarginLoss(_Loss):
    """Multi-class hinge loss of scores (N, C) with class indices (N,)."""

    _function = ops.multi_margin_loss

    def __init__(self, p: int = 1, margin: float = 1.0, weight: Any = None, reduction: str = "mean") -> None:
        super().__init__({"weight": weight}, p=p, margin=margin, reduction=reduction)


class MarginRankingLoss(_Loss):
    """max(0, margin - target (input1 - input2))."""

    _function = ops.margin_ranking_loss

    def __init__(self, margin: float = 0.0, reduction: str = "mean") -> None:
        super().__init__(margin=margin, reduction=reduction)


class TripletMarginLoss(_Loss):
    """max(0, d(anchor, positive) - d(anchor, negative) + margin)."""

    _function = ops.triplet_margin_loss

    def __init__(
        self, margin: float = 1.0, p: float = 2.0, eps: float = 1e-6, swap: bool = False, reduction: str = "mean"
    ) -> None:
        super().__init__(margin=margin, p=p, eps=eps, swap=swap, reduction=reduction)


class CosineEmbeddingLoss(_Loss):
    """1 - cos where the target is 1, max(0, cos - margin) where it is -1."""

    _function = ops.cosine_embedding_loss

    def __init__(self, margin: float = 0.0, reduction: str = "mean") -> None:
        super().__init__(margin=margin, reduction=reduction)


class CTCLoss(_Loss):
    """Connectionist temporal classification of (log_probs, targets, input_lengths, target_lengths)."""

    _function = ops.ctc_loss

    def __init__(self, blank: int = 0, reduction: str = "mean", zero_infinity: bool = False) -> None:
        super().__init__(blank=blank, reduction=reduction, zero_infinity=zero_infinity)

    def _count(self, output: Any, target: Any) -> float:
        return output.shape[1] if output.ndim == 3 else 1
