"""Connectionist temporal classification: the loss of a label sequence that is shorter than the input and unaligned.

A. Graves, S. Fernández, F. Gomez and J. Schmidhuber, "Connectionist temporal classification", ICML 2006; equation
numbers below are theirs. The labels are extended to l' = blank, l1, blank, l2, …, blank; alpha_t(s) sums the
probabilities of all ways to have read l'_1..s by time t. Everything is in log space and for the whole batch at once.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from minidl.core.errors import describe
from minidl.core.graph import Traced
from minidl.core.primitive import primitive
from minidl.core.registry import namespace, to_numpy
from minidl.core.trace import capturing
from minidl.ops.comparison import eq, less
from minidl.ops.elementwise import astype, exp, logaddexp, maximum, where, zeros_like
from minidl.ops.indexing import checked_index, gather, gather_grad
from minidl.ops.loss import _check_reduction, _host
from minidl.ops.reduction import logsumexp, mean, sum
from minidl.ops.shape import pad_nd, reshape, stack, unsqueeze


def _extend(targets, blank, xp):
    """l' (N, L = 2S + 1), and where a path may come from two places back: to a label that differs from the last."""
    n, s = targets.shape
    blanks = xp.full((n, s + 1), blank, targets.dtype)
    labels = xp.stack([blanks[:, :s], targets], axis=-1).reshape(n, 2 * s)
    labels = xp.concatenate([labels, blanks[:, :1]], axis=1)
    differs = xp.concatenate([xp.zeros((n, 2), bool), labels[:, 2:] != labels[:, :-2]], axis=1)[:, : 2 * s + 1]
    return labels, differs & (labels != blank)


def _ends(target_lengths, length, xp):
    """True at the last label of l' and at the blank after it: where a path may end (eq. 8)."""
    place, end = xp.arange(length), 2 * target_lengths[:, None]
    return (place == end) | (place == end - 1)


def _moved(a, by):
    """``a`` (N, L) moved ``by`` places along l', -inf coming in."""
    n = a.shape[1]
    k = min(abs(by), n)
    if by > 0:
        return pad_nd(a[:, : n - k], widths=((0, 0), (k, 0)), value=-np.inf)
    return pad_nd(a[:, k:], widths=((0, 0), (0, k)), value=-np.inf)


def _emissions(log_probs, labels, xp):
    """log y_t(l'_s): (T, N, L)."""
    return gather(log_probs, xp.broadcast_to(labels, (len(log_probs), *labels.shape)), axis=2)


@primitive(name="ctc_nll", composite=True, half=(0,))
def _ctc_nll(log_probs, targets, input_lengths, target_lengths, *, blank=0):
    """-log p(targets) for each of the batch (N,), and log alpha (T, N, L) for the gradient."""
    targets, input_lengths, target_lengths = (
        a.array if isinstance(a, Traced) else a for a in (targets, input_lengths, target_lengths)
    )
    xp = namespace(targets)
    steps, _, classes = log_probs.shape
    checked_index(input_lengths, size=steps + 1, op="ctc_loss: input_lengths")
    checked_index(target_lengths, size=targets.shape[1] + 1, op="ctc_loss: target_lengths")
    used = xp.arange(targets.shape[1]) < target_lengths[:, None]
    checked_index(xp.where(used & (targets == blank), -1, targets), size=classes, op="ctc_loss: labels (not the blank)")
    labels, may_skip = _extend(targets, blank, xp)
    length = labels.shape[1]
    emission = _emissions(log_probs, labels, xp)
    alpha = where(xp.arange(length) < 2, emission[0], -np.inf)  # a path starts with a blank or l1
    # no input at all: certain for an empty target, impossible otherwise
    last = where(input_lengths[:, None] == 0, where(xp.arange(length) == 0, zeros_like(alpha), -np.inf), alpha)
    alphas = [alpha]
    for t in range(1, len(log_probs)):  # eqs. 6 and 7
        skipped = where(may_skip, _moved(alpha, 2), -np.inf)
        alpha = logaddexp(logaddexp(alpha, _moved(alpha, 1)), skipped) + emission[t]
        last = where(input_lengths[:, None] == t + 1, alpha, last)
        alphas.append(alpha)
    loss = -logsumexp(where(_ends(target_lengths, length, xp), last, -np.inf), axis=1)
    return loss, stack(alphas)


@primitive(differentiable=False, linear_in=("g",))
def ctc_nll_grad(g, loss, alphas, log_probs, targets, input_lengths, target_lengths, *, blank=0):
    """d loss / d log y_t(k) = -P(at time t the path is at a place of l' that holds k | targets)."""
    xp = namespace(log_probs)
    labels, may_skip = _extend(targets, blank, xp)
    emission = _emissions(log_probs, labels, xp)
    ending = where(_ends(target_lengths, labels.shape[1], xp), xp.zeros(labels.shape, log_probs.dtype), -np.inf)
    # beta_t(s), without the emission at t: log probability of reading the rest from place s on (eqs. 9 to 11)
    beta = xp.full(labels.shape, -np.inf, log_probs.dtype)
    betas = [None] * len(log_probs)
    for t in reversed(range(len(log_probs))):
        if t + 1 < len(log_probs):
            flow = beta + emission[t + 1]
            skipped = _moved(where(may_skip, flow, -np.inf), -2)
            beta = logaddexp(logaddexp(flow, _moved(flow, -1)), skipped)

        beta = where(input_lengths[:, None] == t + 1, ending, beta)
        betas[t] = beta
    with np.errstate(invalid="ignore"):
        posterior = exp(alphas + stack(betas) + loss[:, None])  # eqs. 14 and 15
        flow = where(g[:, None] == 0, 0.0, -g[:, None] * posterior)
    return gather_grad(flow, xp.broadcast_to(labels, flow.shape), axis=2, shape=log_probs.shape)


@_ctc_nll.defvjp_all
def _ctc_nll_rule(g, needs, log_probs, targets, input_lengths, target_lengths, out, blank):
    grad = ctc_nll_grad(g[0], *out, log_probs, targets, input_lengths, target_lengths, blank=blank)
    return [grad, None, None, None]


def _lengths(name: str, value: Any, count: int, limit: int) -> Any:
    lengths = value if hasattr(value, "dtype") else np.asarray(value)
    lengths = reshape(lengths, shape=(1,)) if lengths.ndim == 0 else lengths
    if lengths.dtype.kind not in "iu" or tuple(lengths.shape) != (count,):
        raise ValueError(f"ctc_loss: expected {count} integers as {name}, got {describe(lengths)}")
    values = _host(lengths)
    if values is not None and values.size and (values.min() < 0 or values.max() > limit):
        raise ValueError(f"ctc_loss: {name} must be in [0, {limit}], got {values.min()} to {values.max()}")
    return lengths if lengths.dtype == np.int64 else astype(lengths, dtype=np.dtype(np.int64))


def _padded(labels: Any, lengths: Any, count: int) -> np.ndarray:
    """Sequences given one after another as (count, longest)."""
    if capturing():
        raise RuntimeError("ctc_loss: the shape of joined targets depends on values; in a jitted step give (N, S)")
    labels, lengths = (np.asarray(to_numpy(a.array if isinstance(a, Traced) else a)) for a in (labels, lengths))
    if len(labels) != lengths.sum():
        raise ValueError(
            f"ctc_loss: targets {describe(labels)} do not fit {count} sequences with lengths adding up to "
            f"{lengths.sum()}; expected (N, S) or (sum of target_lengths,)"
        )
    padded = np.zeros((count, int(lengths.max(initial=0))), np.int64)
    padded[np.arange(padded.shape[1]) < lengths[:, None]] = labels
    return padded


def ctc_loss(log_probs, targets, input_lengths, target_lengths, blank=0, reduction="mean", zero_infinity=False):
    """Connectionist temporal classification loss.

    Parameters
    ----------
    log_probs:
        (T, N, C), or (T, C) for one sequence: log-probabilities (of log_softmax) at each time.
    targets:
        integers (N, S), padded, or all sequences one after another, (sum of target_lengths,).
    input_lengths, target_lengths:
        (N,) integers: how much of each sequence counts.
    blank:
        the class that stands for no label; it may not be among the targets.
    reduction:
        ``"mean"`` divides each loss by its target's length and averages over the batch; ``"sum"``; ``"none"``.
    zero_infinity:
        a target that is too long for its input has an infinite loss; make it, and its gradient, 0.

    The gradient is that for ``log_probs`` as free variables; PyTorch's is the one for the logits before log_softmax.
    Raises ValueError, TypeError or IndexError for shapes, dtypes, lengths or labels that do not fit.
    """
    _check_reduction("ctc_loss", reduction)
    single = log_probs.ndim == 2
    if single:
        log_probs = log_probs[:, None]
    if log_probs.ndim != 3 or log_probs.shape[0] == 0:
        raise ValueError(f"ctc_loss: expected log_probs (T, N, C) with T > 0, got {describe(log_probs)}")
    steps, count, classes = log_probs.shape
    if not 0 <= blank < classes:
        raise ValueError(f"ctc_loss: blank {blank} is not one of the {classes} classes of {describe(log_probs)}")
    targets = targets if hasattr(targets, "dtype") else np.asarray(targets)
    if targets.dtype.kind not in "iu":
        raise TypeError(f"ctc_loss: targets must be integers, got {describe(targets)}")
    input_lengths = _lengths("input_lengths", input_lengths, count, steps)
    target_lengths = _lengths("target_lengths", target_lengths, count, targets.shape[-1] if targets.ndim else 0)
    if single and targets.ndim == 1:
        targets = reshape(targets, shape=(1, targets.shape[0]))
    elif targets.ndim == 1:
        targets = _padded(targets, target_lengths, count)
    if targets.ndim != 2 or targets.shape[0] != count:
        raise ValueError(
            f"ctc_loss: targets {describe(targets)} do not fit {count} sequences; expected (N, S) or "
            "(sum of target_lengths,)"
        )
    inside = less(np.arange(targets.shape[1]), unsqueeze(target_lengths, 1))
    targets = where(inside, targets, blank)
    loss = _ctc_nll(log_probs, targets, input_lengths, target_lengths, blank=blank)[0]
    if zero_infinity:
        loss = where(eq(loss, np.inf), 0.0, loss)
    if reduction == "mean":
        return mean(loss / astype(maximum(target_lengths, 1), dtype=log_probs.dtype))
    return sum(loss) if reduction == "sum" else loss[0] if single else loss
