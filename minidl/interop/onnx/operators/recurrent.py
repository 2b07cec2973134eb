"""Recurrent layers with all their options: gates, peepholes, clipping, lengths, directions, layouts.

The settings that everybody uses run on minidl's fused operations; the others step by step.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from minidl import ops
from minidl.interop.onnx.registry import operator


class Options(NamedTuple):
    """What one direction of a recurrent layer runs with."""

    activations: list[Callable[[Any], Any]]
    names: list[str]
    clip: float | None
    reverse: bool
    lengths: np.ndarray | None


def _activation(name: str, alpha: float | None, beta: float | None) -> Callable[[Any], Any]:
    def given(a: float, b: float = 0.0) -> tuple[float, float]:
        return a if alpha is None else alpha, b if beta is None else beta

    table: dict[str, Callable[[Any], Any]] = {
        "relu": ops.relu, "tanh": ops.tanh, "sigmoid": ops.sigmoid, "softsign": ops.softsign,
        "softplus": ops.softplus,
        "affine": lambda x: given(1.0)[0] * x + given(1.0)[1],
        "leakyrelu": lambda x: ops.leaky_relu(x, negative_slope=given(0.01)[0]),
        "thresholdedrelu": lambda x: ops.where(x > given(1.0)[0], x, ops.zeros_like(x)),
        "scaledtanh": lambda x: given(1.0, 1.0)[0] * ops.tanh(given(1.0, 1.0)[1] * x),
        "hardsigmoid": lambda x: ops.clip(given(0.2, 0.5)[0] * x + given(0.2, 0.5)[1], 0.0, 1.0),
        "elu": lambda x: ops.elu(x, alpha=given(1.0)[0]),
    }  # fmt: skip
    if name.lower() not in table:
        raise NotImplementedError(f"the activation {name!r} of a recurrent layer")
    return table[name.lower()]


def _directions(
    direction: str, names: list[str], alphas: list | None, betas: list | None, clip: float | None, lengths: Any
) -> list[Options]:
    """One Options per direction; activations without numbers of their own do not use up any of the lists'."""
    count = 2 if direction == "bidirectional" else 1
    each = len(names) // count if len(names) > 1 and len(names) % count == 0 else len(names)
    alphas, betas = list(alphas or []), list(betas or [])
    takes_alpha = {"affine", "leakyrelu", "thresholdedrelu", "scaledtanh", "hardsigmoid", "elu"}
    takes_beta = {"affine", "scaledtanh", "hardsigmoid"}
    out = []
    for d in range(count):
        mine = names[d * each : (d + 1) * each] or names[:each]
        functions = []
        for name in mine:
            alpha = alphas.pop(0) if alphas and name.lower() in takes_alpha else None
            beta = betas.pop(0) if betas and name.lower() in takes_beta else None
            functions.append(_activation(name, alpha, beta))
        plain = [n.lower() for n in mine]
        out.append(Options(functions, plain, clip, direction == "reverse" or d == 1, lengths))
    return out


def _lengths(sequence_lens: Any, x: Any) -> np.ndarray | None:
    if sequence_lens is None or (np.asarray(sequence_lens) == x.shape[0]).all():
        return None
    return np.asarray(sequence_lens).astype(np.int64)


def _steps(x: Any, o: Options) -> Any:
    return range(len(x) - 1, -1, -1) if o.reverse else range(len(x))


def _clipped(a: Any, o: Options) -> Any:
    return a if o.clip is None else ops.clip(a, -o.clip, o.clip)


def _scan(x: Any, state: tuple, o: Options, step: Callable[..., tuple]) -> tuple:
    """(the first of the states after every step, the last states); past its end a sequence's states stay."""
    y: list[Any] = [None] * len(x)
    for t in _steps(x, o):
        new = step(x[t], *state)
        if o.lengths is not None:
            within = (t < o.lengths)[:, None]
            state = tuple(ops.where(within, n, s) for n, s in zip(new, state))
            y[t] = ops.where(within, new[0], 0.0)
        else:
            state, y[t] = new, new[0]
    return ops.stack(y), state


def _layer(
    x: Any, directions: list[Options], weights: tuple, states: tuple, layout: int, one: Callable[..., tuple]
) -> tuple:
    """(Y, Y_h, ...) of all directions; ``one`` runs a direction: (options, x, its weights, its states)."""
    if layout:
        x = ops.swapaxes(x, 0, 1)
        states = tuple(s if s is None else ops.swapaxes(s, 0, 1) for s in states)
    outs = []
    for d, o in enumerate(directions):
        mine = tuple(w if w is None else w[d] for w in weights)
        outs.append(one(o, x, mine, tuple(s if s is None else s[d] for s in states)))
    y = ops.stack([y for y, _ in outs], axis=1)
    last = [ops.stack([s[i] for _, s in outs]) for i in range(len(outs[0][1]))]
    if layout:
        return ops.transpose(y, (2, 0, 1, 3)), *(ops.swapaxes(s, 0, 1) for s in last)
    return y, *last


def _zero(x: Any, hidden: int) -> Any:
    return ops.zeros_like(ops.expand(x[0, :, :1], (x.shape[1], hidden))) if len(x) else None


def _biases(b: Any, gates: int) -> tuple[Any, Any]:
    return (None, None) if b is None else (b[: len(b) // 2], b[len(b) // 2 :])


@operator("RNN", since=7, host="sequence_lens")
def rnn(
    x, w, r, b=None, sequence_lens=None, initial_h=None, *, activation_alpha=None, activation_beta=None,
    activations=("Tanh", "Tanh"), clip=None, direction="forward", hidden_size=None, layout=0,
):  # fmt: skip
    """h' = f(W x + Wb + R h + Rb)."""
    time_first = ops.swapaxes(x, 0, 1) if layout else x
    directions = _directions(
        direction, list(activations)[: r.shape[0]], activation_alpha, activation_beta, clip,
        _lengths(sequence_lens, time_first),
    )  # fmt: skip

    def one(o, x, weights, states):
        w, r, b = weights
        b_ih, b_hh = _biases(b, 1)
        h = _zero(x, r.shape[-1]) if states[0] is None else states[0]
        if o.names[0] in ("tanh", "relu") and o.clip is None:
            lengths = None if o.lengths is None else tuple(o.lengths.tolist())
            y, last = ops.rnn(x, h, w, r, b_ih, b_hh, nonlinearity=o.names[0], reverse=o.reverse, lengths=lengths)
            return y, (last,)
        a = ops.linear(x, w, b_ih)
        return _scan(a, (h,), o, lambda a, h: (o.activations[0](_clipped(a + ops.linear(h, r, b_hh), o)),))

    return _layer(x, directions, (w, r, b), (initial_h,), layout, one)


@operator("GRU", since=7, host="sequence_lens")
def gru(
    x, w, r, b=None, sequence_lens=None, initial_h=None, *, activation_alpha=None, activation_beta=None,
    activations=None, clip=None, direction="forward", hidden_size=None, layout=0, linear_before_reset=0,
):  # fmt: skip
    """Gates in ONNX's order z, r, h; ``linear_before_reset`` as in PyTorch, else as Cho et al. 2014 have it."""
    time_first = ops.swapaxes(x, 0, 1) if layout else x
    names = list(activations or ["Sigmoid", "Tanh"] * r.shape[0])
    directions = _directions(
        direction, names, activation_alpha, activation_beta, clip, _lengths(sequence_lens, time_first)
    )

    def one(o, x, weights, states):
        w, r, b = weights
        hidden = r.shape[-1]
        h = _zero(x, hidden) if states[0] is None else states[0]
        b_ih, b_hh = _biases(b, 3)
        if linear_before_reset and o.names == ["sigmoid", "tanh"] and o.clip is None:
            order = np.concatenate(
                [np.arange(hidden, 2 * hidden), np.arange(hidden), np.arange(2 * hidden, 3 * hidden)]
            )
            w, r, b_ih, b_hh = (a if a is None else ops.take(a, order, axis=0) for a in (w, r, b_ih, b_hh))
            lengths = None if o.lengths is None else tuple(o.lengths.tolist())
            y, last = ops.gru(x, h, w, r, b_ih, b_hh, reverse=o.reverse, lengths=lengths)
            return y, (last,)
        f, g = o.activations[:2]
        bias = ops.zeros_like(r[:, 0]) if b_hh is None else b_hh

        def step(a, h):
            az, ar, ah = (a[:, i * hidden : (i + 1) * hidden] for i in range(3))
            rz, rr, rh = (r[i * hidden : (i + 1) * hidden] for i in range(3))
            bz, br, bh = (bias[i * hidden : (i + 1) * hidden] for i in range(3))
            z = f(_clipped(az + ops.linear(h, rz, bz), o))
            reset = f(_clipped(ar + ops.linear(h, rr, br), o))
            inner = reset * ops.linear(h, rh, bh) if linear_before_reset else ops.linear(reset * h, rh, bh)
            return ((1 - z) * g(_clipped(ah + inner, o)) + z * h,)

        return _scan(ops.linear(x, w, b_ih), (h,), o, step)

    return _layer(x, directions, (w, r, b), (initial_h,), layout, one)


@operator("LSTM", since=7, host="sequence_lens")
def lstm(
    x, w, r, b=None, sequence_lens=None, initial_h=None, initial_c=None, p=None, *, activation_alpha=None,
    activation_beta=None, activations=None, clip=None, direction="forward", hidden_size=None, input_forget=0, layout=0,
):  # fmt: skip
    """Gates in ONNX's order i, o, f, c; with peepholes ``p`` (Gers & Schmidhuber 2000) if they are given."""
    time_first = ops.swapaxes(x, 0, 1) if layout else x
    names = list(activations or ["Sigmoid", "Tanh", "Tanh"] * r.shape[0])
    directions = _directions(
        direction, names, activation_alpha, activation_beta, clip, _lengths(sequence_lens, time_first)
    )

    def one(o, x, weights, states):
        w, r, b, p = weights
        hidden = r.shape[-1]
        h, c = (_zero(x, hidden) if s is None else s for s in states)
        b_ih, b_hh = _biases(b, 4)
        common = p is None and o.clip is None and not input_forget and o.names == ["sigmoid", "tanh", "tanh"]
        if common:
            i = np.arange(hidden)
            order = np.concatenate([i, i + 2 * hidden, i + 3 * hidden, i + hidden])
            w, r, b_ih, b_hh = (a if a is None else ops.take(a, order, axis=0) for a in (w, r, b_ih, b_hh))
            lengths = None if o.lengths is None else tuple(o.lengths.tolist())
            y, last_h, last_c = ops.lstm(x, h, c, w, r, b_ih, b_hh, reverse=o.reverse, lengths=lengths)
            return y, (last_h, last_c)
        f, g, out = o.activations[:3]
        pi, po, pf = (0.0, 0.0, 0.0) if p is None else (p[k * hidden : (k + 1) * hidden] for k in range(3))

        def step(a, h, c):
            ai, ao, af, ac = ops.split(a + ops.linear(h, r, b_hh), hidden, axis=1)
            i = f(_clipped(ai + pi * c, o))
            forget = 1 - i if input_forget else f(_clipped(af + pf * c, o))
            c = forget * c + i * g(_clipped(ac, o))
            return f(_clipped(ao + po * c, o)) * out(c), c

        return _scan(ops.linear(x, w, b_ih), (h, c), o, step)

    return _layer(x, directions, (w, r, b, p), (initial_h, initial_c), layout, one)
