"""Recurrent layers: one layer, one direction, all time steps in one primitive.

Shapes throughout: ``x`` (T, N, I) time first, ``h0`` (N, H), weights as in PyTorch with the gates stacked along the
first axis. The gradients are those of backpropagation through time (Werbos 1990): a loop over the steps, the last one
first, finds the gradient ``dz`` of what goes into the gates; the weights' gradients are sums over all steps.

``reverse=True`` runs from the last step to the first; outputs stay aligned with the inputs. ``lengths`` (one int per
sequence) makes the steps past a sequence's end leave its state alone and output zero, as a padded ``PackedSequence``
does in PyTorch; in reverse, a sequence then starts at its own last step.
"""

from __future__ import annotations

import operator
from typing import Any

import numpy as np

from minidl.core.errors import describe
from minidl.core.primitive import primitive
from minidl.core.registry import to_numpy
from minidl.ops.activation import relu, sigmoid, tanh
from minidl.ops.einsum import einsum
from minidl.ops.elementwise import astype, copy, mul, where, zeros_like
from minidl.ops.linalg import matmul
from minidl.ops.linear import linear
from minidl.ops.reduction import sum as sum_
from minidl.ops.shape import concat, split, stack


def order(steps: int, reverse: bool) -> range:
    """The numbers of the steps in the order in which they are taken."""
    return range(steps - 1, -1, -1) if reverse else range(steps)


def active_steps(steps: int, lengths: tuple[int, ...] | None) -> np.ndarray | None:
    """bool (T, N, 1): is step t within sequence n? None where all are."""
    return None if lengths is None else (np.arange(steps)[:, None] < np.asarray(lengths))[..., None]


def previous_states(states: Any, initial: Any, active: np.ndarray | None, reverse: bool) -> Any:
    """The state that each step started from, (T, N, H), given those it ended with."""
    if not len(states):
        return states
    if not reverse:
        return concat([initial[None], states[:-1]])
    previous = concat([states[1:], initial[None]])
    if active is not None:  # a sequence's last step starts from the initial state, whatever padding follows it
        previous = where(np.concatenate([active[1:], active[:1]]), previous, initial)
    return previous


def _at(t: int, active: np.ndarray | None, inside: Any, outside: Any) -> Any:
    """``inside`` for the sequences that step t is within, ``outside`` for the others."""
    return inside if active is None else where(active[t], inside, outside)


def _within(t: int, active: np.ndarray | None, a: Any) -> Any:
    """``a``, zero for the sequences that step t is past the end of."""
    return a if active is None else mul(a, active[t])


def _waiting(t: int, active: np.ndarray | None, dh: Any) -> Any:
    """``dh`` of the sequences that step t is past the end of: their states go on as they are."""
    return 0.0 if active is None else mul(dh, ~active[t])


def _all_steps(steps: list, like: Any) -> Any:
    """The steps' arrays, each shaped ``like``, as one (T, ...), even if there are none."""
    return stack(steps) if steps else like[None][:0]


def _weight_grad(dz: Any, inputs: Any) -> Any:
    """Of z = W inputs at each step, the gradient for W: (T, N, G), (T, N, I) -> (G, I)."""
    return einsum("tng,tni->gi", dz, inputs)


# Elman network: h' = act(W_ih x + b_ih + W_hh h + b_hh)


@primitive(name="rnn", promote="same", composite=True)
def _rnn(x, h0, w_ih, w_hh, b_ih=None, b_hh=None, *, nonlinearity="tanh", reverse=False, lengths=None):
    """h_t = act(W_ih x_t + b_ih + W_hh h_{t-1} + b_hh) (Elman 1990). Returns (y, h_n)."""
    active, act = active_steps(len(x), lengths), tanh if nonlinearity == "tanh" else relu
    a = linear(x, w_ih, b_ih)  # waits for no state: all steps at once
    h, y = h0, [None] * len(x)
    for t in order(len(x), reverse):
        new = act(a[t] + linear(h, w_hh, b_hh))
        h, y[t] = _at(t, active, new, h), _within(t, active, new)
    return _all_steps(y, h0), copy(h)


@primitive(differentiable=False)
def rnn_backward(gy, gh, x, h0, w_ih, w_hh, y, *, nonlinearity, reverse, lengths):
    """Gradients (dx, dh0, dw_ih, dw_hh, db) from those of ``y`` and ``h_n``."""
    active = active_steps(len(x), lengths)
    slope = 1 - y * y if nonlinearity == "tanh" else astype(y > 0, dtype=y.dtype)
    dh, dz = gh, [None] * len(x)
    for t in order(len(x), not reverse):
        dz[t] = _within(t, active, (dh + gy[t]) * slope[t])
        dh = dz[t] @ w_hh + _waiting(t, active, dh)
    dz = _all_steps(dz, h0)
    h_prev = previous_states(y, h0, active, reverse)
    return matmul(dz, w_ih), copy(dh), _weight_grad(dz, x), _weight_grad(dz, h_prev), sum_(dz, axis=(0, 1))


@_rnn.defvjp_all
def _rnn_grad(g, needs, x, h0, w_ih, w_hh, b_ih, out, nonlinearity, reverse, lengths):
    grads = rnn_backward(*g[:2], x, h0, w_ih, w_hh, out[0], nonlinearity=nonlinearity, reverse=reverse, lengths=lengths)
    return [*grads, copy(grads[-1])]  # both biases have the same gradient, each in memory of its own


# GRU


@primitive(name="gru", promote="same", composite=True, half=(0, 1))
def _gru(x, h0, w_ih, w_hh, b_ih=None, b_hh=None, *, reverse=False, lengths=None):
    """Gated recurrent unit. Returns (y, h_n, gates, hn), the last two kept for the backward pass.

    r = σ(W_ir x + b_ir + W_hr h + b_hr)
    z = σ(W_iz x + b_iz + W_hz h + b_hz)
    n = tanh(W_in x + b_in + r ⊙ (W_hn h + b_hn))
    h' = (1 - z) ⊙ n + z ⊙ h

    Cho et al. 2014, in the variant that resets after the matrix product (PyTorch's and cuDNN's). ``gates`` is
    (T, N, 3H) with r, z, n; ``hn`` (T, N, H) is W_hn h + b_hn.
    """
    active, hidden = active_steps(len(x), lengths), h0.shape[1]
    a = linear(x, w_ih, b_ih)
    h, y, gates, hn = h0, [None] * len(x), [None] * len(x), [None] * len(x)
    for t in order(len(x), reverse):
        xr, xz, xn = split(a[t], hidden, axis=1)
        hr, hz, hn[t] = split(linear(h, w_hh, b_hh), hidden, axis=1)
        r, z = sigmoid(xr + hr), sigmoid(xz + hz)
        n = tanh(xn + r * hn[t])
        new = n + z * (h - n)
        gates[t] = concat([r, z, n], axis=1)
        h, y[t] = _at(t, active, new, h), _within(t, active, new)
    return _all_steps(y, h0), copy(h), _all_steps(gates, concat([h0] * 3, axis=1)), _all_steps(hn, h0)


@primitive(differentiable=False)
def gru_backward(gy, gh, x, h0, w_ih, w_hh, y, gates, hn, *, reverse, lengths):
    """Gradients (dx, dh0, dw_ih, dw_hh, db_ih, db_hh) from those of ``y`` and ``h_n``."""
    active = active_steps(len(x), lengths)
    h_prev = previous_states(y, h0, active, reverse)
    r, z, n = split(gates, h0.shape[1], axis=2)
    dh, dz_x, dz_h = gh, [None] * len(x), [None] * len(x)  # of W_ih x + b_ih, and of W_hh h + b_hh
    for t in order(len(x), not reverse):
        dnew = dh + _within(t, active, gy[t])
        dn = dnew * (1 - z[t]) * (1 - n[t] * n[t])
        dz = dnew * (h_prev[t] - n[t]) * z[t] * (1 - z[t])
        dr = dn * hn[t] * r[t] * (1 - r[t])
        dz_x[t] = _within(t, active, concat([dr, dz, dn], axis=1))
        dz_h[t] = _within(t, active, concat([dr, dz, dn * r[t]], axis=1))
        dh = dz_h[t] @ w_hh + dnew * _at(t, active, z[t], 1.0)
    dz_x, dz_h = (_all_steps(dz, concat([h0] * 3, axis=1)) for dz in (dz_x, dz_h))
    return (
        matmul(dz_x, w_ih),
        copy(dh),
        _weight_grad(dz_x, x),
        _weight_grad(dz_h, h_prev),
        sum_(dz_x, axis=(0, 1)),
        sum_(dz_h, axis=(0, 1)),
    )


@_gru.defvjp_all
def _gru_grad(g, needs, x, h0, w_ih, w_hh, b_ih, out, reverse, lengths):
    y, _, gates, hn = out
    return gru_backward(*g[:2], x, h0, w_ih, w_hh, y, gates, hn, reverse=reverse, lengths=lengths)


# LSTM


@primitive(name="lstm", promote="same", composite=True, half=(0, 1, 2))
def _lstm(x, h0, c0, w_ih, w_hh, b_ih=None, b_hh=None, w_hr=None, *, reverse=False, lengths=None):
    """Long short-term memory. Returns (y, h_n, c_n, gates, cells), the last two kept for the backward pass.

    i, f, o = σ(W_i x + b_i + U_i h), σ(W_f x + b_f + U_f h), σ(W_o x + b_o + U_o h)
    g = tanh(W_g x + b_g + U_g h)
    c' = f ⊙ c + i ⊙ g
    h' = o ⊙ tanh(c'), or with a projection W_hr (o ⊙ tanh(c'))

    Hochreiter & Schmidhuber 1997 with the forget gate of Gers, Schmidhuber & Cummins 2000; the projection is Sak,
    Senior & Beaufays 2014. ``gates`` is (T, N, 4H) with i, f, g, o; ``cells`` (T, N, H) holds c'.
    """
    active, hidden = active_steps(len(x), lengths), c0.shape[1]
    a = linear(x, w_ih, b_ih)
    h, c = h0, c0
    y, gates, cells = [None] * len(x), [None] * len(x), [None] * len(x)
    for t in order(len(x), reverse):
        i, f, g, o = split(a[t] + linear(h, w_hh, b_hh), hidden, axis=1)
        i, f, g, o = sigmoid(i), sigmoid(f), tanh(g), sigmoid(o)
        new_c = f * c + i * g
        new_h = o * tanh(new_c)
        if w_hr is not None:
            new_h = linear(new_h, w_hr)
        c = cells[t] = _at(t, active, new_c, c)
        h, y[t] = _at(t, active, new_h, h), _within(t, active, new_h)
        gates[t] = concat([i, f, g, o], axis=1)
    return _all_steps(y, h0), copy(h), copy(c), _all_steps(gates, concat([c0] * 4, axis=1)), _all_steps(cells, c0)


@primitive(differentiable=False)
def lstm_backward(gy, gh, gc, x, h0, c0, w_ih, w_hh, w_hr, y, gates, cells, *, reverse, lengths):
    """Gradients (dx, dh0, dc0, dw_ih, dw_hh, db, dw_hr) from those of ``y``, ``h_n`` and ``c_n``.

    Without a projection (``w_hr`` None) the last one is an empty array.
    """
    active = active_steps(len(x), lengths)
    i, f, g, o = split(gates, c0.shape[1], axis=2)
    tanh_c = tanh(cells)
    h_prev, c_prev = previous_states(y, h0, active, reverse), previous_states(cells, c0, None, reverse)
    dh, dc = gh, gc
    dnews, dz = [None] * len(x), [None] * len(x)
    for t in order(len(x), not reverse):
        dnew = dh + gy[t]
        dnews[t] = _within(t, active, dnew)
        dout = dnew if w_hr is None else dnew @ w_hr  # of o ⊙ tanh(c')
        dcell = dc + _within(t, active, dout * o[t] * (1 - tanh_c[t] * tanh_c[t]))
        di = dcell * g[t] * i[t] * (1 - i[t])
        df = dcell * c_prev[t] * f[t] * (1 - f[t])
        dg = dcell * i[t] * (1 - g[t] * g[t])
        do = dout * tanh_c[t] * o[t] * (1 - o[t])
        dz[t] = _within(t, active, concat([di, df, dg, do], axis=1))
        dh, dc = dz[t] @ w_hh + _waiting(t, active, dh), dcell * _at(t, active, f[t], 1.0)
    dz = _all_steps(dz, concat([c0] * 4, axis=1))
    return (
        matmul(dz, w_ih),
        copy(dh),
        copy(dc),
        _weight_grad(dz, x),
        _weight_grad(dz, h_prev),
        sum_(dz, axis=(0, 1)),
        zeros_like(c0[:0]) if w_hr is None else _weight_grad(_all_steps(dnews, h0), o * tanh_c),
    )


@_lstm.defvjp_all
def _lstm_grad(g, needs, x, h0, c0, w_ih, w_hh, w_hr, out, reverse, lengths):
    y, _, _, gates, cells = out
    *grads, db, dw_hr = lstm_backward(
        *g[:3], x, h0, c0, w_ih, w_hh, w_hr, y, gates, cells, reverse=reverse, lengths=lengths
    )
    return [*grads, db, copy(db), dw_hr if needs[7] else None]


# Public functions: checks, and without the values kept for the backward pass


def _check(
    op: str, gates: int, x: Any, states: dict, w_ih: Any, w_hh: Any, b_ih: Any, b_hh: Any, w_hr: Any = None
) -> None:
    if x.ndim != 3:
        raise ValueError(f"{op}: expected an input of shape (T, N, I), got {describe(x)}")
    hidden = w_ih.shape[0] // gates
    out = hidden if w_hr is None else w_hr.shape[0]
    if w_ih.shape != (gates * hidden, x.shape[2]) or w_hh.shape != (gates * hidden, out):
        raise ValueError(
            f"{op}: weights {describe(w_ih)} and {describe(w_hh)} do not fit an input {describe(x)}; expected "
            f"[{gates}H, {x.shape[2]}] and [{gates}H, {'H' if w_hr is None else out}]"
        )
    if (b_ih is None) != (b_hh is None) or any(b is not None and b.shape != w_ih.shape[:1] for b in (b_ih, b_hh)):
        raise ValueError(
            f"{op}: expected both biases of shape {w_ih.shape[:1]} or neither, got {describe(b_ih)}, {describe(b_hh)}"
        )
    for name, s in states.items():
        expected = (x.shape[1], hidden if name == "c0" else out)
        if s.shape != expected:
            raise ValueError(f"{op}: {name} is {describe(s)}, expected shape {expected}")


def _lengths(op: str, lengths: Any, x: Any) -> tuple[int, ...] | None:
    if lengths is None:
        return None
    if not isinstance(lengths, (tuple, list)):
        lengths = to_numpy(getattr(lengths, "array", lengths) if not isinstance(lengths, np.ndarray) else lengths)
    result = tuple(operator.index(n) for n in lengths)
    if len(result) != x.shape[1] or any(not 0 <= n <= x.shape[0] for n in result):
        raise ValueError(f"{op}: expected {x.shape[1]} lengths from 0 to {x.shape[0]}, got {result}")
    return None if all(n == x.shape[0] for n in result) else result


def _without_padding(x: Any, lengths: tuple[int, ...] | None) -> Any:
    """``x``, zero past the sequences' ends: what padding holds, NaN perhaps, must not reach a gradient."""
    active = active_steps(len(x), lengths)
    return x if active is None else where(active, x, 0.0)


def rnn(x, h0, w_ih, w_hh, b_ih=None, b_hh=None, *, nonlinearity="tanh", reverse=False, lengths=None):
    """One direction of a plain recurrent layer: h_t = act(W_ih x_t + b_ih + W_hh h_{t-1} + b_hh).

    ``x`` (T, N, I), ``h0`` (N, H), ``w_ih`` (H, I), ``w_hh`` (H, H), biases (H,) both or neither; ``nonlinearity``
    ``"tanh"`` or ``"relu"``. Returns (y, h_n) of shapes (T, N, H) and (N, H). Raises ValueError where shapes or
    lengths do not fit.
    """
    if nonlinearity not in ("tanh", "relu"):
        raise ValueError(f"rnn: nonlinearity must be 'tanh' or 'relu', got {nonlinearity!r}")
    _check("rnn", 1, x, {"h0": h0}, w_ih, w_hh, b_ih, b_hh)
    lengths = _lengths("rnn", lengths, x)
    x = _without_padding(x, lengths)
    return _rnn(x, h0, w_ih, w_hh, b_ih, b_hh, nonlinearity=nonlinearity, reverse=reverse, lengths=lengths)


def gru(x, h0, w_ih, w_hh, b_ih=None, b_hh=None, *, reverse=False, lengths=None):
    """One direction of a GRU layer (Cho et al. 2014; reset applied after the matrix product).

    ``x`` (T, N, I), ``h0`` (N, H), ``w_ih`` (3H, I) and ``w_hh`` (3H, H) with the gates r, z, n, biases (3H,) both or
    neither. Returns (y, h_n) of shapes (T, N, H) and (N, H). Raises ValueError where shapes or lengths do not fit.
    """
    _check("gru", 3, x, {"h0": h0}, w_ih, w_hh, b_ih, b_hh)
    lengths = _lengths("gru", lengths, x)
    return _gru(_without_padding(x, lengths), h0, w_ih, w_hh, b_ih, b_hh, reverse=reverse, lengths=lengths)[:2]


def lstm(x, h0, c0, w_ih, w_hh, b_ih=None, b_hh=None, w_hr=None, *, reverse=False, lengths=None):
    """One direction of an LSTM layer (Hochreiter & Schmidhuber 1997; forget gate: Gers et al. 2000).

    ``x`` (T, N, I), ``h0`` (N, P), ``c0`` (N, H), ``w_ih`` (4H, I) and ``w_hh`` (4H, P) with the gates i, f, g, o,
    biases (4H,) both or neither, ``w_hr`` (P, H) the output projection; without it P = H. Returns (y, h_n, c_n) of
    shapes (T, N, P), (N, P) and (N, H). Raises ValueError where shapes or lengths do not fit.
    """
    _check("lstm", 4, x, {"h0": h0, "c0": c0}, w_ih, w_hh, b_ih, b_hh, w_hr)
    lengths = _lengths("lstm", lengths, x)
    x = _without_padding(x, lengths)
    return _lstm(x, h0, c0, w_ih, w_hh, b_ih, b_hh, w_hr, reverse=reverse, lengths=lengths)[:3]
