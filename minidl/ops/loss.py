"""Losses. Each takes ``reduction``: ``"mean"``, ``"sum"`` or ``"none"``.

Shapes must be equal: a target that merely broadcasts, such as (N, 1) against (N,), is an error here.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from minidl.core.dtypes import is_floating
from minidl.core.errors import describe
from minidl.core.graph import Traced
from minidl.core.primitive import primitive
from minidl.core.registry import namespace
from minidl.ops.activation import log_softmax, relu, sigmoid, softplus
from minidl.ops.comparison import eq, not_equal
from minidl.ops.elementwise import abs, astype, broadcast_to, clip, exp, log, minimum, mul, sqrt, square, sum_to, where
from minidl.ops.indexing import checked_index, gather, one_hot, take
from minidl.ops.linalg import norm
from minidl.ops.normalization import normalize
from minidl.ops.reduction import amax, mean, per_count, sum
from minidl.ops.shape import moveaxis, reshape, squeeze, unsqueeze

_REDUCTIONS = ("mean", "sum", "none")


def _check_reduction(op: str, reduction: str, allowed: tuple[str, ...] = _REDUCTIONS) -> None:
    if reduction not in allowed:
        raise ValueError(f"{op}: reduction must be one of {', '.join(allowed)}; got {reduction!r}")


def _reduce(op: str, loss: Any, reduction: str) -> Any:
    _check_reduction(op, reduction)
    return mean(loss) if reduction == "mean" else sum(loss) if reduction == "sum" else loss


def _check_same_shape(op: str, x: Any, target: Any) -> None:
    if tuple(x.shape) != tuple(target.shape):
        raise ValueError(f"{op}: input {describe(x)} and target {describe(target)} must have the same shape")


def _host(a: Any) -> np.ndarray | None:
    """The values of ``a`` if they are in host memory (looking at a device's would wait for it)."""
    a = a.array if isinstance(a, Traced) else a
    return a if type(a) is np.ndarray else None


def _constant(a: Any) -> Any:
    return a.detach() if isinstance(a, Traced) else a


# Regression


def mse_loss(x, target, reduction="mean"):
    """(x - target)²."""
    _check_same_shape("mse_loss", x, target)
    return _reduce("mse_loss", square(x - target), reduction)


def l1_loss(x, target, reduction="mean"):
    """|x - target|."""
    _check_same_shape("l1_loss", x, target)
    return _reduce("l1_loss", abs(x - target), reduction)


@primitive(name="huber", promote="float", elementwise=True)
def _huber(x, *, delta):
    """x² / 2 for |x| up to ``delta``, delta (|x| - delta / 2) beyond."""
    xp = namespace(x)
    size = xp.abs(x)
    inner = xp.minimum(size, x.dtype.type(delta))
    return inner * (size - x.dtype.type(0.5) * inner)


_huber.defvjp(x=lambda g, x, delta: g * clip(x, min=-delta, max=delta))


def huber_loss(x, target, reduction="mean", delta=1.0):
    """Quadratic up to an error of ``delta``, linear beyond. Huber, 1964."""
    _check_same_shape("huber_loss", x, target)
    if not delta > 0:
        raise ValueError(f"huber_loss: delta must be positive, got {delta}")
    return _reduce("huber_loss", _huber(x - target, delta=delta), reduction)


def smooth_l1_loss(x, target, reduction="mean", beta=1.0):
    """The Huber loss with delta = beta, divided by beta; the L1 loss for beta 0. Girshick, "Fast R-CNN", 2015."""
    _check_same_shape("smooth_l1_loss", x, target)
    if beta < 0:
        raise ValueError(f"smooth_l1_loss: beta must not be negative, got {beta}")
    loss = _huber(x - target, delta=beta) / beta if beta > 0 else abs(x - target)
    return _reduce("smooth_l1_loss", loss, reduction)


# Probabilities


@primitive(name="bernoulli_nll", promote="float", elementwise=True)
def _bernoulli_nll(x, target):
    """-target log(x) - (1 - target) log(1 - x): the negative log-likelihood of each target, no logarithm below -100."""
    xp, least = namespace(x, target), x.dtype.type(-100)
    with np.errstate(divide="ignore"):
        return -target * xp.maximum(xp.log(x), least) - (1 - target) * xp.maximum(xp.log1p(-x), least)


_bernoulli_nll.defvjp(
    # the denominator is limited as PyTorch's: the gradient at x = 0 and x = 1 stays finite
    x=lambda g, x, target: g * (x - target) / clip(x * (1 - x), min=1e-12),
    target=lambda g, x: g * (clip(log(1 - x), min=-100) - clip(log(x), min=-100)),
)


def binary_cross_entropy(x, target, weight=None, reduction="mean"):
    """Cross-entropy of probabilities ``x`` with targets in [0, 1]; logarithms are limited to -100 (PyTorch).

    Raises ValueError for an ``x`` outside [0, 1].
    """
    _check_same_shape("binary_cross_entropy", x, target)
    values = _host(x)
    if values is not None and values.size and (values.min() < 0 or values.max() > 1):
        raise ValueError(
            f"binary_cross_entropy: expected probabilities in [0, 1], got values from {values.min()} to "
            f"{values.max()}; for raw scores use binary_cross_entropy_with_logits"
        )
    loss = _bernoulli_nll(x, target)
    return _reduce("binary_cross_entropy", loss if weight is None else loss * weight, reduction)


@primitive(name="bernoulli_nll_with_logits", promote="float", elementwise=True)
def _bernoulli_nll_with_logits(x, target, pos_weight=None):
    """pos_weight target softplus(-x) + (1 - target) softplus(x): two terms of one sign, so nothing cancels."""
    xp = namespace(x, target)
    zero = x.dtype.type(0)
    small = xp.log1p(xp.exp(-xp.abs(x)))
    positive = target * (small - xp.minimum(x, zero))
    if pos_weight is not None:
        positive = positive * pos_weight
    return positive + (1 - target) * (small + xp.maximum(x, zero))


def _times(a, b):
    return a if b is None else a * b


_bernoulli_nll_with_logits.defvjp(
    x=lambda g, x, target, pos_weight: g * ((1 - target) * sigmoid(x) - _times(target * sigmoid(-x), pos_weight)),
    target=lambda g, x, pos_weight: (
        g * (_times(softplus(-x, threshold=np.inf), pos_weight) - softplus(x, threshold=np.inf))
    ),
    pos_weight=lambda g, x, target, pos_weight_shape: sum_to(
        g * (target * softplus(-x, threshold=np.inf)), shape=pos_weight_shape
    ),
)


def binary_cross_entropy_with_logits(x, target, weight=None, reduction="mean", pos_weight=None):
    """Cross-entropy of sigmoid(x) with targets in [0, 1], computed from the raw scores so that it cannot overflow.

    ``pos_weight`` multiplies the term of the positive class; ``weight`` the whole loss. Both broadcast.
    """
    _check_same_shape("binary_cross_entropy_with_logits", x, target)
    loss = _bernoulli_nll_with_logits(x, target, pos_weight)
    return _reduce("binary_cross_entropy_with_logits", loss if weight is None else loss * weight, reduction)


def kl_div(x, target, reduction="mean", log_target=False):
    """Kullback-Leibler divergence target (log target - x), where ``x`` holds log-probabilities.

    ``target`` holds probabilities, or with ``log_target`` log-probabilities. Besides the usual reductions there is
    ``"batchmean"``: the sum divided by the length of the first axis, which is the divergence's definition.
    """
    _check_same_shape("kl_div", x, target)
    _check_reduction("kl_div", reduction, (*_REDUCTIONS, "batchmean"))
    if log_target:
        loss = exp(target) * (target - x)
    else:
        loss = target * log(where(eq(target, 0), 1.0, target)) - target * x
    if reduction == "batchmean":
        return sum(loss) / (x.shape[0] if x.ndim else 1)
    return _reduce("kl_div", loss, reduction)


# Classes


def _check_classes(op: str, x: Any, target: Any, weight: Any, ignore_index: int | None) -> None:
    """``x`` (N, C, ...) or (C,), ``target`` int (N, ...) or (), ``weight`` (C,) or None."""
    if x.ndim == 0 or tuple(target.shape) != (*x.shape[: min(1, x.ndim - 1)], *x.shape[2:]):
        raise ValueError(
            f"{op}: target {describe(target)} does not fit input {describe(x)}; expected class indices of shape "
            "(N, ...) for input (N, C, ...), or () for (C,)"
        )
    if target.dtype.kind not in "iu":
        raise TypeError(f"{op}: class indices must be integers, got target {describe(target)}")
    classes = x.shape[min(1, x.ndim - 1)]
    if weight is not None and tuple(weight.shape) != (classes,):
        raise ValueError(f"{op}: weight {describe(weight)} does not fit {classes} classes; expected shape ({classes},)")
    values = _host(target)
    if values is not None and values.size and (values.min() < 0 or values.max() >= classes):
        bad = values[(values < 0) | (values >= classes)]
        bad = bad if ignore_index is None else bad[bad != ignore_index]
        if bad.size:
            raise IndexError(
                f"{op}: target contains class {bad.flat[0]}, but input {describe(x)} has {classes} classes"
                + ("" if ignore_index is None else f" (ignore_index is {ignore_index})")
            )


def class_weights(target, weight, ignore_index, dtype, classes, op):
    """(target with ignored entries replaced by 0, the weight of each entry: its class's, 0 where ignored).

    Raises IndexError, beginning with ``op``, for a target that is none of the ``classes``.
    """
    valid = not_equal(target, ignore_index)
    safe = checked_index(where(valid, target, 0), size=classes, op=op)
    each = astype(valid, dtype=dtype)
    return safe, each if weight is None else mul(each, take(astype(weight, dtype=dtype), safe, axis=0))


def _at_class(x, classes, axis):
    """``x`` at the given class of each entry: ``axis``, where the classes are, is gone."""
    return squeeze(gather(x, unsqueeze(classes, axis), axis=axis), axis=axis)


def _per_class(weight, logits, axis):
    """The weight of each class, shaped to broadcast against ``logits``; 1 without any."""
    if weight is None:
        return 1.0
    return reshape(astype(weight, dtype=logits.dtype), shape=(-1,) + (1,) * (logits.ndim - 1 - axis))


@primitive(name="cross_entropy", composite=True, half=(0,))
def _cross_entropy(logits, target, weight=None, *, label_smoothing=0.0, ignore_index=-100, reduction="mean"):
    """The loss, and what its gradient needs: per entry the largest logit and the log of the sum of exponentials above
    it, and the sum of the entries' weights."""
    axis = min(1, logits.ndim - 1)
    safe, each = class_weights(target, weight, ignore_index, logits.dtype, logits.shape[axis], "cross_entropy")
    top = amax(_constant(logits), axis=axis, keepdims=True)
    shifted = logits - top
    logsum = log(sum(exp(shifted), axis=axis, keepdims=True))
    log_p = shifted - logsum
    loss = where(eq(each, 0), 0.0, -_at_class(log_p, safe, axis) * each)
    if label_smoothing:
        spread = sum(-log_p * _per_class(weight, logits, axis), axis=axis)
        spread = where(eq(target, ignore_index), 0.0, spread)
        loss = (1 - label_smoothing) * loss + (label_smoothing / logits.shape[axis]) * spread
    total = sum(each)
    if reduction != "none":
        loss = per_count(sum(loss), total) if reduction == "mean" else sum(loss)
    return loss, top, _constant(logsum), total


@primitive(differentiable=False, linear_in=("g",))
def cross_entropy_grad(
    g, logits, target, top, logsum, total, weight=None, *, label_smoothing=0.0, ignore_index=-100, reduction="mean"
):
    """d loss / d logits = softmax(logits) sum(q) - q with q the target distribution: each entry's weight at its class
    and, with label smoothing, a share of every class's weight. Without, that is (softmax(logits) - hit) times the
    weight, with hit 1 at the target and 0 elsewhere: written so, an infinite weight meets no 0 of another class."""
    axis = min(1, logits.ndim - 1)
    safe, each = class_weights(target, weight, ignore_index, logits.dtype, logits.shape[axis], "cross_entropy")
    hit = moveaxis(one_hot(safe, num_classes=logits.shape[axis], dtype=logits.dtype), -1, axis)
    p = exp(logits - top - logsum)
    g = where(total == 0, 0.0, g / total) if reduction == "mean" else g
    if not label_smoothing:
        return (p - hit) * unsqueeze(g * each, axis)
    g = g if g.ndim == 0 else unsqueeze(g, axis)
    counted = astype(unsqueeze(not_equal(target, ignore_index), axis), dtype=logits.dtype)
    share = label_smoothing / logits.shape[axis]
    q = (1 - label_smoothing) * hit * unsqueeze(each, axis) + share * _per_class(weight, logits, axis) * counted
    return (p * sum(q, axis=axis, keepdims=True) - q) * g


@_cross_entropy.defvjp_all
def _cross_entropy_grad(g, needs, logits, target, weight, out, label_smoothing, ignore_index, reduction):
    _, top, logsum, total = out
    grad = cross_entropy_grad(
        g[0], logits, target, top, logsum, total, weight,
        label_smoothing=label_smoothing, ignore_index=ignore_index, reduction=reduction,
    )  # fmt: skip
    return [grad, None, None]


def cross_entropy(logits, target, weight=None, ignore_index=-100, reduction="mean", label_smoothing=0.0):
    """Cross-entropy of softmax(logits) with the target classes.

    Parameters
    ----------
    logits:
        (N, C, ...), or (C,) for one example: raw scores, classes on axis 1.
    target:
        integers (N, ...) in [0, C), or probabilities of the shape and (any floating-point) dtype of ``logits``.
    weight:
        (C,): a factor for each class. A constant: it gets no gradient.
    ignore_index:
        targets of this value count for nothing (class indices only).
    reduction:
        ``"mean"`` divides by the sum of the weights of the targets (class indices), or by the number of examples
        (probabilities), as PyTorch does.
    label_smoothing:
        this share of the target is spread evenly over the classes. Szegedy et al., 2016.

    Raises
    ------
    ValueError, TypeError, IndexError
        for shapes that do not fit, a target of wrong dtype, a class that does not exist.

    >>> from minidl import Tensor, as_tensor, ops
    >>> ops.cross_entropy(as_tensor([[0.0, 0.0]]), as_tensor([1]))  # log 2
    tensor(0.6931...)
    """
    _check_reduction("cross_entropy", reduction)
    label_smoothing = float(label_smoothing)
    if not 0 <= label_smoothing <= 1:
        raise ValueError(f"cross_entropy: label_smoothing must be in [0, 1], got {label_smoothing}")
    if is_floating(target.dtype):
        if ignore_index is not None and ignore_index >= 0:
            raise ValueError(f"cross_entropy: ignore_index={ignore_index} is for class indices, not for probabilities")
        if not logits.ndim or not logits.shape[min(1, logits.ndim - 1)]:
            raise ValueError(f"cross_entropy: expected logits of at least one class, got {describe(logits)}")
        return _soft_cross_entropy(logits, target, weight, reduction, label_smoothing)
    _check_classes("cross_entropy", logits, target, weight, ignore_index)
    return _cross_entropy(
        logits, target, _constant(weight),
        label_smoothing=label_smoothing, ignore_index=ignore_index, reduction=reduction,
    )[0]  # fmt: skip


def _soft_cross_entropy(logits, target, weight, reduction, label_smoothing):
    if tuple(target.shape) != tuple(logits.shape):
        raise ValueError(
            f"cross_entropy: target {describe(target)} does not fit logits {describe(logits)}; expected probabilities "
            "of the same shape, or integer class indices"
        )
    axis = min(1, logits.ndim - 1)
    if label_smoothing:
        target = target * (1 - label_smoothing) + label_smoothing / logits.shape[axis]
    loss = -log_softmax(logits, axis=axis) * target
    if weight is not None:
        if tuple(weight.shape) != (logits.shape[axis],):
            raise ValueError(
                f"cross_entropy: weight {describe(weight)} does not fit logits {describe(logits)}; expected "
                f"shape ({logits.shape[axis]},)"
            )
        loss = loss * reshape(_constant(weight), shape=(-1,) + (1,) * (logits.ndim - 1 - axis))
    loss = sum(loss, axis=axis)
    return _reduce("cross_entropy", loss, reduction)


def nll_loss(log_p, target, weight=None, ignore_index=-100, reduction="mean"):
    """``-weight[target] * log_p[target]``: :func:`cross_entropy` for what is already log-probabilities.

    log_p (N, C, ...) or (C,), target integers (N, ...); ``"mean"`` divides by the sum of the targets' weights.
    """
    _check_reduction("nll_loss", reduction)
    _check_classes("nll_loss", log_p, target, weight, ignore_index)
    axis = min(1, log_p.ndim - 1)
    safe, each = class_weights(target, _constant(weight), ignore_index, log_p.dtype, log_p.shape[axis], "nll_loss")
    picked = _at_class(log_p, safe, axis)
    loss = where(eq(each, 0), 0.0, -picked * each)
    return per_count(sum(loss), sum(each)) if reduction == "mean" else _reduce("nll_loss", loss, reduction)


def focal_loss(logits, target, gamma=2.0, weight=None, ignore_index=-100, reduction="mean"):
    """``-(1 - p)^gamma log(p)`` with p the softmax probability of the target class.

    Shapes as for :func:`cross_entropy`; ``weight`` (C,) is the paper's alpha, and ``"mean"`` divides by the number of
    targets that are not ignored. Lin et al., "Focal loss for dense object detection", ICCV 2017, eq. 5.
    """
    _check_reduction("focal_loss", reduction)
    _check_classes("focal_loss", logits, target, weight, ignore_index)
    axis = min(1, logits.ndim - 1)
    safe, each = class_weights(target, _constant(weight), ignore_index, logits.dtype, logits.shape[axis], "focal_loss")
    log_p = _at_class(log_softmax(logits, axis=axis), safe, axis)
    loss = where(eq(target, ignore_index), 0.0, -_focus(1 - exp(log_p), gamma) * log_p * each)
    if reduction == "mean":
        return per_count(sum(loss), sum(astype(not_equal(target, ignore_index), dtype=loss.dtype)))
    return _reduce("focal_loss", loss, reduction)


def _focus(missing, gamma):
    """``missing ** gamma``, whose gradient stays finite where a sure prediction rounds ``missing`` to 0."""
    return clip(missing, min=float(np.finfo(np.float32).tiny)) ** gamma if gamma else 1.0


def sigmoid_focal_loss(x, target, alpha=0.25, gamma=2.0, reduction="none"):
    """Focal loss for independent binary targets in [0, 1] from raw scores ``x``; torchvision's function of this name.

    Positive targets are weighted by ``alpha`` and negative ones by 1 - alpha; a negative ``alpha`` means no weights.
    """
    _check_same_shape("sigmoid_focal_loss", x, target)
    missing = sigmoid(x) * (1 - target) + sigmoid(-x) * target
    loss = _bernoulli_nll_with_logits(x, target) * _focus(missing, gamma)
    if alpha >= 0:
        loss = loss * (alpha * target + (1 - alpha) * (1 - target))
    return _reduce("sigmoid_focal_loss", loss, reduction)


# Margins


def hinge_loss(x, target, margin=1.0, reduction="mean"):
    """max(0, margin - target x) for targets -1 and 1: the support vector machine's loss."""
    _check_same_shape("hinge_loss", x, target)
    _check_signs("hinge_loss", target)
    return _reduce("hinge_loss", relu(margin - target * x), reduction)


def _check_signs(op: str, target: Any) -> None:
    values = _host(target)
    if values is not None and not np.isin(values, (-1, 1)).all():
        raise ValueError(f"{op}: targets must be -1 or 1, got {describe(target)} with other values")


def hinge_embedding_loss(x, target, margin=1.0, reduction="mean"):
    """x where the target is 1, max(0, margin - x) where it is -1."""
    _check_same_shape("hinge_embedding_loss", x, target)
    _check_signs("hinge_embedding_loss", target)
    return _reduce("hinge_embedding_loss", where(eq(target, 1), x, relu(margin - x)), reduction)


def multi_margin_loss(x, target, p=1, margin=1.0, weight=None, reduction="mean"):
    """``sum over c != target of max(0, margin - x[target] + x[c])^p / C``: the multi-class hinge loss.

    x (N, C) or (C,), target integers (N,) or (), weight (C,) or None; ``p`` is 1 or 2.
    """
    if p not in (1, 2):
        raise ValueError(f"multi_margin_loss: p must be 1 or 2, got {p}")
    if x.ndim not in (1, 2):
        raise ValueError(f"multi_margin_loss: expected input (N, C) or (C,), got {describe(x)}")
    _check_classes("multi_margin_loss", x, target, weight, None)
    terms = relu(margin - gather(x, unsqueeze(target, -1), axis=-1) + x)
    if p == 2:
        terms = square(terms)
    if weight is not None:
        terms = terms * unsqueeze(take(_constant(weight), target, axis=0), -1)
    others = 1 - one_hot(target, num_classes=x.shape[-1], dtype=x.dtype)
    return _reduce("multi_margin_loss", sum(terms * others, axis=-1) / x.shape[-1], reduction)


def margin_ranking_loss(x1, x2, target, margin=0.0, reduction="mean"):
    """max(0, margin - target (x1 - x2)): target 1 wants x1 above x2, -1 below."""
    _check_same_shape("margin_ranking_loss", x1, x2)
    _check_same_shape("margin_ranking_loss", x1, target)
    return _reduce("margin_ranking_loss", relu(margin - target * (x1 - x2)), reduction)


def pairwise_distance(x1, x2, p=2.0, eps=1e-6, keepdims=False):
    """The p-norm (see :func:`norm`) of ``x1 - x2 + eps`` along the last axis."""
    return norm(x1 - x2 + eps, ord=p, axis=-1, keepdims=keepdims)


def triplet_margin_loss(anchor, positive, negative, margin=1.0, p=2.0, eps=1e-6, swap=False, reduction="mean"):
    """max(0, d(anchor, positive) - d(anchor, negative) + margin), with p-norm distances along the last axis.

    ``swap`` takes the smaller of d(anchor, negative) and d(positive, negative). Balntas et al., BMVC 2016.
    """
    _check_same_shape("triplet_margin_loss", anchor, positive)
    _check_same_shape("triplet_margin_loss", anchor, negative)
    if not margin > 0:
        raise ValueError(f"triplet_margin_loss: margin must be positive, got {margin}")
    near, far = pairwise_distance(anchor, positive, p, eps), pairwise_distance(anchor, negative, p, eps)
    if swap:
        far = minimum(far, pairwise_distance(positive, negative, p, eps))
    return _reduce("triplet_margin_loss", relu(near - far + margin), reduction)


def cosine_similarity(x1, x2, axis=1, eps=1e-8):
    """x1 · x2 / (|x1| |x2|) along ``axis`` of what both broadcast to; norms count as at least ``eps``."""
    shape = np.broadcast_shapes(x1.shape, x2.shape)
    x1, x2 = (x if x.shape == shape else broadcast_to(x, shape=shape) for x in (x1, x2))
    return sum(normalize(x1, 2, axis, eps) * normalize(x2, 2, axis, eps), axis=axis)


def cosine_embedding_loss(x1, x2, target, margin=0.0, reduction="mean"):
    """1 - cos(x1, x2) where the target is 1, max(0, cos(x1, x2) - margin) where it is -1.

    x1 and x2 (N, D) or (D,), target (N,) or ().
    """
    _check_same_shape("cosine_embedding_loss", x1, x2)
    if x1.ndim not in (1, 2) or tuple(target.shape) != tuple(x1.shape[:-1]):
        raise ValueError(
            f"cosine_embedding_loss: target {describe(target)} does not fit inputs {describe(x1)}; expected "
            "(N,) for (N, D), or () for (D,)"
        )
    _check_signs("cosine_embedding_loss", target)
    # PyTorch's: a tiny amount is added to the squared norms
    norms = sqrt((sum(square(x1), axis=-1) + 1e-12) * (sum(square(x2), axis=-1) + 1e-12))
    cosine = sum(x1 * x2, axis=-1) / norms
    loss = where(eq(target, 1), 1 - cosine, relu(cosine - margin))
    return _reduce("cosine_embedding_loss", loss, reduction)
