"""Recurrent layers: one layer, one direction, all time steps in one primitive.

Shapes throughout: ``x`` (T, N, I) time first, ``h0`` (N, H), weights as in PyTorch with the gates stacked along the
first axis. Only the product with the state has to wait for the step before it: the input's projection is one matrix
product over all steps on the way forward, and the weight gradients are one over all steps on the way back
(backpropagation through time, Werbos 1990).

``reverse=True`` runs from the last step to the first; outputs stay aligned with the inputs. ``lengths`` (one int a
sequence) makes the steps past a sequence's end leave its state alone and output zero, as a padded ``PackedSequence``
does in PyTorch; in reverse, a sequence then starts at its own last step.
"""

from __future__ import annotations

import operator
from typing import Any

import numpy as np

from minidl.core.errors import describe
from minidl.core.primitive import primitive
from minidl.core.registry import namespace, to_numpy
from minidl.ops.activation import tanh
from minidl.ops.elementwise import copy, maximum, where
from minidl.ops.linalg import matmul
from minidl.ops.shape import concat, split, stack, swapaxes


def _order(steps: int, reverse: bool) -> range:
    return range(steps - 1, -1, -1) if reverse else range(steps)


def _active(x: Any, lengths: tuple | None, xp: Any = np) -> Any:
    """bool (T, N, 1): is step t within sequence n? None where all are."""
    if lengths is None:
        return None
    return xp.asarray((np.arange(x.shape[0])[:, None] < np.asarray(lengths))[..., None])


def _immutable(x: Any) -> bool:
    """Do arrays like ``x`` refuse to be written to? Then the elementary composite stands in for the reference."""
    return namespace(x).__name__ == "jax.numpy"


def _set(array: Any, t: int, value: Any) -> Any:
    """``array`` with ``array[t] = value``, in place where arrays can be written to."""
    if _immutable(array):
        return array.at[t].set(value)
    array[t] = value
    return array


def _project(x: Any, w: Any, bias: Any, xp: Any) -> Any:
    """x Wᵀ + bias for all steps as one product: (T, N, I) -> (T, N, G)."""
    a = xp.matmul(x.reshape(-1, x.shape[2]), w.T)
    if bias is not None:
        a += bias
    return a.reshape(x.shape[0], x.shape[1], w.shape[0])


def _previous(states: Any, initial: Any, active: Any, reverse: bool, xp: Any) -> Any:
    """The state that each step started from, (T, N, H), given those it ended with."""
    if not len(states):
        return states
    if not reverse:
        return xp.concatenate([initial[None], states[:-1]])
    previous = xp.concatenate([states[1:], initial[None]])
    if active is not None:  # a sequence's last step starts from the initial state, whatever padding follows it
        previous = xp.where(xp.concatenate([active[1:], active[:1]]), previous, initial)
    return previous


def _weight_grad(dz: Any, inputs: Any, xp: Any) -> Any:
    """Sum over steps and batch of dz ⊗ inputs, as one matrix product: (T, N, G), (T, N, I) -> (G, I)."""
    return xp.matmul(dz.reshape(-1, dz.shape[2]).T, inputs.reshape(-1, inputs.shape[2]))


def _input_grad(dz: Any, w_ih: Any, xp: Any) -> Any:
    return xp.matmul(dz.reshape(-1, dz.shape[2]), w_ih).reshape(*dz.shape[:2], w_ih.shape[1])


def _half_for_sigmoids(gates: list, hidden: int, dtype: Any, xp: Any) -> tuple:
    """(scale, shift) that turn one tanh over all gates into what each needs, as σ(z) = tanh(z / 2) / 2 + 1 / 2.

    A vectorized tanh is several times as fast as any sigmoid that NumPy and SciPy have. ``scale`` goes into the
    weights, too.
    """
    scale = xp.asarray(np.repeat(np.array(gates, dtype), hidden))
    return scale, 1 - scale


# Elman network: h' = act(W_ih x + b_ih + W_hh h + b_hh)


@primitive(name="rnn", promote="same")
def _rnn(x, h0, w_ih, w_hh, b_ih=None, b_hh=None, *, nonlinearity="tanh", reverse=False, lengths=None):
    """h_t = act(W_ih x_t + b_ih + W_hh h_{t-1} + b_hh) (Elman 1990). Returns (y, h_n)."""
    if _immutable(x):
        return _rnn.composite(
            x, h0, w_ih, w_hh, b_ih, b_hh, nonlinearity=nonlinearity, reverse=reverse, lengths=lengths
        )
    xp = namespace(x)
    active = _active(x, lengths, xp)
    w_h = xp.ascontiguousarray(w_hh.T)
    y = _project(x, w_ih, None if b_ih is None else b_ih + b_hh, xp)
    h = h0
    for t in _order(len(x), reverse):
        new = y[t]
        new += xp.matmul(h, w_h)
        if nonlinearity == "tanh":
            xp.tanh(new, out=new)
        else:
            xp.maximum(new, 0, out=new)
        if active is not None:
            h = xp.where(active[t], new, h)
            new *= active[t]
        else:
            h = new
    return y, h.copy()


@primitive(differentiable=False)
def rnn_backward(gy, gh, x, h0, w_ih, w_hh, y, *, nonlinearity, reverse, lengths):
    """Gradients (dx, dh0, dw_ih, dw_hh, db) from those of ``y`` and ``h_n``."""
    xp = namespace(x)
    active = _active(x, lengths, xp)
    # dz starts as act'(z), for all steps at once
    dz = 1 - y * y if nonlinearity == "tanh" else (y > 0).astype(y.dtype)
    if active is not None:
        dz *= active
    dh = gh
    for t in _order(len(x), not reverse):
        later = dh
        d = dz[t] * (later + gy[t])
        dz = _set(dz, t, d)
        dh = xp.matmul(d, w_hh)
        if active is not None:
            dh += later * ~active[t]
    h_prev = _previous(y, h0, active, reverse, xp)
    db = dz.sum(axis=(0, 1))
    return _input_grad(dz, w_ih, xp), dh.copy(), _weight_grad(dz, x, xp), _weight_grad(dz, h_prev, xp), db


@_rnn.defvjp_all
def _rnn_grad(g, needs, x, h0, w_ih, w_hh, b_ih, out, nonlinearity, reverse, lengths):
    grads = rnn_backward(*g[:2], x, h0, w_ih, w_hh, out[0], nonlinearity=nonlinearity, reverse=reverse, lengths=lengths)
    return [*grads, copy(grads[-1])]  # both biases have the same gradient, each in memory of its own


@_rnn.defcomposite
def _rnn_composite(x, h0, w_ih, w_hh, b_ih=None, b_hh=None, *, nonlinearity="tanh", reverse=False, lengths=None):
    active = _active(x, lengths)
    a = matmul(x, swapaxes(w_ih, 0, 1))
    a = a if b_ih is None else a + b_ih + b_hh
    w_h = swapaxes(w_hh, 0, 1)
    h, ys = h0, [None] * len(x)
    for t in _order(len(x), reverse):
        z = a[t] + matmul(h, w_h)
        new = tanh(z) if nonlinearity == "tanh" else maximum(z, 0.0)
        h = new if active is None else where(active[t], new, h)
        ys[t] = new if active is None else new * active[t].astype(x.dtype)
    return (stack(ys) if ys else a), copy(h)


# GRU


@primitive(name="gru", promote="same")
def _gru(x, h0, w_ih, w_hh, b_ih=None, b_hh=None, *, reverse=False, lengths=None):
    """Gated recurrent unit. Returns (y, h_n, gates, hn), the last two kept for the backward pass.

    r = σ(W_ir x + b_ir + W_hr h + b_hr)
    z = σ(W_iz x + b_iz + W_hz h + b_hz)
    n = tanh(W_in x + b_in + r ⊙ (W_hn h + b_hn))
    h' = (1 - z) ⊙ n + z ⊙ h

    Cho et al. 2014, in the variant that resets after the matrix product (PyTorch's and cuDNN's). ``gates`` is
    (T, N, 3H) with r, z, n; ``hn`` (T, N, H) is W_hn h + b_hn.
    """
    if _immutable(x):
        return _gru.composite(x, h0, w_ih, w_hh, b_ih, b_hh, reverse=reverse, lengths=lengths)
    xp = namespace(x)
    steps, n, hidden = *x.shape[:2], h0.shape[1]
    active = _active(x, lengths, xp)
    scale, shift = _half_for_sigmoids([0.5, 0.5, 1], hidden, x.dtype, xp)
    w_h = xp.ascontiguousarray((w_hh * scale[:, None]).T)
    gates = _project(x, w_ih * scale[:, None], None if b_ih is None else b_ih * scale, xp)
    b_h = None if b_hh is None else b_hh * scale
    y = xp.empty((steps, n, hidden), x.dtype)
    hn = xp.empty((steps, n, hidden), x.dtype)
    u = xp.empty((n, 3 * hidden), x.dtype)
    h, rz = h0, slice(2 * hidden)
    for t in _order(steps, reverse):
        a, new = gates[t], y[t]
        r, z, cand = (a[:, k * hidden : (k + 1) * hidden] for k in range(3))
        xp.matmul(h, w_h, out=u)
        if b_h is not None:
            u += b_h
        hn[t] = u[:, 2 * hidden :]
        a[:, rz] += u[:, rz]
        xp.tanh(a[:, rz], out=a[:, rz])
        a[:, rz] *= scale[rz]
        a[:, rz] += shift[rz]
        cand += r * hn[t]
        xp.tanh(cand, out=cand)
        xp.subtract(h, cand, out=new)
        new *= z
        new += cand
        if active is not None:
            h = xp.where(active[t], new, h)
            new *= active[t]
        else:
            h = new
    return y, h.copy(), gates, hn


@primitive(differentiable=False)
def gru_backward(gy, gh, x, h0, w_ih, w_hh, y, gates, hn, *, reverse, lengths):
    """Gradients (dx, dh0, dw_ih, dw_hh, db_ih, db_hh) from those of ``y`` and ``h_n``."""
    xp = namespace(x)
    active = _active(x, lengths, xp)
    hidden = h0.shape[1]
    h_prev = _previous(y, h0, active, reverse, xp)
    r, z, n = (gates[..., k * hidden : (k + 1) * hidden] for k in range(3))
    # Each gate's gradient is dh times a factor that does not depend on later steps: the factors for all steps at once.
    # W_hn h + b_hn, which r multiplies, gets r times what W_in x + b_in gets.
    to_n = (1 - z) * (1 - n * n)
    dz_h = xp.concatenate([to_n * hn * (r * (1 - r)), (h_prev - n) * (z * (1 - z)), to_n * r], axis=-1)
    if active is not None:
        dz_h *= active
        to_n *= active
        z = xp.where(active, z, 1)
    dhs = xp.empty_like(y)
    dh = gh
    for t in _order(len(x), not reverse):
        total = dh + gy[t] if active is None else dh + gy[t] * active[t]
        dhs = _set(dhs, t, total)
        d = dz_h[t] * xp.concatenate([total, total, total], axis=1)
        dz_h = _set(dz_h, t, d)
        dh = xp.matmul(d, w_hh)
        dh += total * z[t]
    dz_x = xp.concatenate([dz_h[..., : 2 * hidden], to_n * dhs], axis=-1)
    return (
        _input_grad(dz_x, w_ih, xp),
        dh.copy(),
        _weight_grad(dz_x, x, xp),
        _weight_grad(dz_h, h_prev, xp),
        dz_x.sum(axis=(0, 1)),
        dz_h.sum(axis=(0, 1)),
    )


@_gru.defvjp_all
def _gru_grad(g, needs, x, h0, w_ih, w_hh, b_ih, out, reverse, lengths):
    y, _, gates, hn = out
    return gru_backward(*g[:2], x, h0, w_ih, w_hh, y, gates, hn, reverse=reverse, lengths=lengths)


def _sigmoid(z):
    return 0.5 * tanh(0.5 * z) + 0.5


@_gru.defcomposite
def _gru_composite(x, h0, w_ih, w_hh, b_ih=None, b_hh=None, *, reverse=False, lengths=None):
    active = _active(x, lengths)
    hidden = h0.shape[1]
    a = matmul(x, swapaxes(w_ih, 0, 1))
    a = a if b_ih is None else a + b_ih
    w_h = swapaxes(w_hh, 0, 1)
    h, ys, gates, hns = h0, [None] * len(x), [None] * len(x), [None] * len(x)
    for t in _order(len(x), reverse):
        u = matmul(h, w_h)
        u = u if b_hh is None else u + b_hh
        rz = _sigmoid(a[t][:, : 2 * hidden] + u[:, : 2 * hidden])
        r, z = rz[:, :hidden], rz[:, hidden:]
        hns[t] = u[:, 2 * hidden :]
        n = tanh(a[t][:, 2 * hidden :] + r * hns[t])
        new = n + z * (h - n)
        gates[t] = concat([r, z, n], axis=1)
        h = new if active is None else where(active[t], new, h)
        ys[t] = new if active is None else new * active[t].astype(x.dtype)
    if not ys:
        return a[..., :hidden], copy(h), a, a[..., :hidden]
    return stack(ys), copy(h), stack(gates), stack(hns)


# LSTM


@primitive(name="lstm", promote="same")
def _lstm(x, h0, c0, w_ih, w_hh, b_ih=None, b_hh=None, w_hr=None, *, reverse=False, lengths=None):
    """Long short-term memory. Returns (y, h_n, c_n, gates, cells), the last two kept for the backward pass.

    i, f, o = σ(W_i x + b_i + U_i h), σ(W_f x + b_f + U_f h), σ(W_o x + b_o + U_o h)
    g = tanh(W_g x + b_g + U_g h)
    c' = f ⊙ c + i ⊙ g
    h' = o ⊙ tanh(c'), or with a projection W_hr (o ⊙ tanh(c'))

    Hochreiter & Schmidhuber 1997 with the forget gate of Gers, Schmidhuber & Cummins 2000; the projection is Sak,
    Senior & Beaufays 2014. ``gates`` is (T, N, 4H) with i, f, g, o; ``cells`` (T, N, H) holds c'.
    """
    if _immutable(x):
        return _lstm.composite(x, h0, c0, w_ih, w_hh, b_ih, b_hh, w_hr, reverse=reverse, lengths=lengths)
    xp = namespace(x)
    steps, n, hidden = *x.shape[:2], c0.shape[1]
    active = _active(x, lengths, xp)
    scale, shift = _half_for_sigmoids([0.5, 0.5, 1, 0.5], hidden, x.dtype, xp)
    w_h = xp.ascontiguousarray((w_hh * scale[:, None]).T)
    gates = _project(x, w_ih * scale[:, None], None if b_ih is None else (b_ih + b_hh) * scale, xp)
    y = xp.empty((steps, n, h0.shape[1]), x.dtype)
    cells = xp.empty((steps, n, hidden), x.dtype)
    z = xp.empty((n, 4 * hidden), x.dtype)
    u = xp.empty((n, hidden), x.dtype)
    h, c = h0, c0
    for t in _order(steps, reverse):
        a = gates[t]
        a += xp.matmul(h, w_h, out=z)
        xp.tanh(a, out=a)
        a *= scale
        a += shift
        i, f, g, o = (a[:, k * hidden : (k + 1) * hidden] for k in range(4))
        before, c = c, xp.multiply(f, c, out=cells[t])
        c += xp.multiply(i, g, out=u)
        xp.tanh(c, out=u)
        if w_hr is None:
            new = xp.multiply(o, u, out=y[t])
        else:
            u *= o
            new = xp.matmul(u, w_hr.T, out=y[t])
        if active is not None:
            c[...] = xp.where(active[t], c, before)
            h = xp.where(active[t], new, h)
            new *= active[t]
        else:
            h = new
    return y, h.copy(), c.copy(), gates, cells


@primitive(differentiable=False)
def lstm_backward(gy, gh, gc, x, h0, c0, w_ih, w_hh, w_hr, y, gates, cells, *, reverse, lengths):
    """Gradients (dx, dh0, dc0, dw_ih, dw_hh, db, dw_hr) from those of ``y``, ``h_n`` and ``c_n``.

    Without a projection (``w_hr`` None) the last one is an empty array.
    """
    xp = namespace(x)
    active = _active(x, lengths, xp)
    hidden = c0.shape[1]
    i, f, g, o = (gates[..., k * hidden : (k + 1) * hidden] for k in range(4))
    tanh_c = xp.tanh(cells)
    c_prev = _previous(cells, c0, None, reverse, xp)
    # What does not depend on later steps, for all steps at once: dz starts as each gate's slope times the factor that
    # carries dc (for i, f, g) or dh (for o) to the gate; to_c carries dh to dc.
    dz = xp.concatenate([g * (i * (1 - i)), c_prev * (f * (1 - f)), i * (1 - g * g), tanh_c * (o * (1 - o))], axis=-1)
    to_c = o * (1 - tanh_c * tanh_c)
    if active is not None:
        dz *= active
        to_c *= active
        f = xp.where(active, f, 1)
    dhs = None if w_hr is None else xp.empty_like(y)
    dh, dc = gh, gc.copy()
    for t in _order(len(x), not reverse):
        later = dh
        total = later + gy[t]
        if w_hr is not None:
            dhs = _set(dhs, t, total if active is None else total * active[t])
            total = xp.matmul(total, w_hr)
        dc += total * to_c[t]
        d = dz[t] * xp.concatenate([dc, dc, dc, total], axis=1)
        dz = _set(dz, t, d)
        dc *= f[t]
        dh = xp.matmul(d, w_hh)
        if active is not None:
            dh += later * ~active[t]
    h_prev = _previous(y, h0, active, reverse, xp)
    return (
        _input_grad(dz, w_ih, xp),
        dh.copy(),
        dc,
        _weight_grad(dz, x, xp),
        _weight_grad(dz, h_prev, xp),
        dz.sum(axis=(0, 1)),
        xp.zeros((0, hidden), x.dtype) if w_hr is None else _weight_grad(dhs, o * tanh_c, xp),
    )


@_lstm.defvjp_all
def _lstm_grad(g, needs, x, h0, c0, w_ih, w_hh, w_hr, out, reverse, lengths):
    y, _, _, gates, cells = out
    *grads, db, dw_hr = lstm_backward(
        *g[:3], x, h0, c0, w_ih, w_hh, w_hr, y, gates, cells, reverse=reverse, lengths=lengths
    )
    return [*grads, db, copy(db), dw_hr if needs[7] else None]


@_lstm.defcomposite
def _lstm_composite(x, h0, c0, w_ih, w_hh, b_ih=None, b_hh=None, w_hr=None, *, reverse=False, lengths=None):
    active = _active(x, lengths)
    hidden = c0.shape[1]
    a = matmul(x, swapaxes(w_ih, 0, 1))
    a = a if b_ih is None else a + b_ih + b_hh
    w_h = swapaxes(w_hh, 0, 1)
    h, c = h0, c0
    ys, gates, cells = [None] * len(x), [None] * len(x), [None] * len(x)
    for t in _order(len(x), reverse):
        zi, zf, zg, zo = split(a[t] + matmul(h, w_h), hidden, axis=1)
        i, f, g, o = _sigmoid(zi), _sigmoid(zf), tanh(zg), _sigmoid(zo)
        gates[t] = concat([i, f, g, o], axis=1)
        new_c = f * c + i * g
        new = o * tanh(new_c)
        new = new if w_hr is None else matmul(new, swapaxes(w_hr, 0, 1))
        c = new_c if active is None else where(active[t], new_c, c)
        h = new if active is None else where(active[t], new, h)
        ys[t] = new if active is None else new * active[t].astype(x.dtype)
        cells[t] = c
    if not ys:
        return a[..., : h0.shape[1]], copy(h), copy(c), a, a[..., :hidden]
    return stack(ys), copy(h), copy(c), stack(gates), stack(cells)


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
        lengths = to_numpy(getattr(lengths, "data", lengths) if not isinstance(lengths, np.ndarray) else lengths)
    result = tuple(operator.index(n) for n in lengths)
    if len(result) != x.shape[1] or any(not 0 <= n <= x.shape[0] for n in result):
        raise ValueError(f"{op}: expected {x.shape[1]} lengths from 0 to {x.shape[0]}, got {result}")
    return None if all(n == x.shape[0] for n in result) else result


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
    return _rnn(x, h0, w_ih, w_hh, b_ih, b_hh, nonlinearity=nonlinearity, reverse=reverse, lengths=lengths)


def gru(x, h0, w_ih, w_hh, b_ih=None, b_hh=None, *, reverse=False, lengths=None):
    """One direction of a GRU layer (Cho et al. 2014; reset applied after the matrix product).

    ``x`` (T, N, I), ``h0`` (N, H), ``w_ih`` (3H, I) and ``w_hh`` (3H, H) with the gates r, z, n, biases (3H,) both or
    neither. Returns (y, h_n) of shapes (T, N, H) and (N, H). Raises ValueError where shapes or lengths do not fit.
    """
    _check("gru", 3, x, {"h0": h0}, w_ih, w_hh, b_ih, b_hh)
    return _gru(x, h0, w_ih, w_hh, b_ih, b_hh, reverse=reverse, lengths=_lengths("gru", lengths, x))[:2]


def lstm(x, h0, c0, w_ih, w_hh, b_ih=None, b_hh=None, w_hr=None, *, reverse=False, lengths=None):
    """One direction of an LSTM layer (Hochreiter & Schmidhuber 1997; forget gate: Gers et al. 2000).

    ``x`` (T, N, I), ``h0`` (N, P), ``c0`` (N, H), ``w_ih`` (4H, I) and ``w_hh`` (4H, P) with the gates i, f, g, o,
    biases (4H,) both or neither, ``w_hr`` (P, H) the output projection; without it P = H. Returns (y, h_n, c_n) of
    shapes (T, N, P), (N, P) and (N, H). Raises ValueError where shapes or lengths do not fit.
    """
    _check("lstm", 4, x, {"h0": h0, "c0": c0}, w_ih, w_hh, b_ih, b_hh, w_hr)
    lengths = _lengths("lstm", lengths, x)
    return _lstm(x, h0, c0, w_ih, w_hh, b_ih, b_hh, w_hr, reverse=reverse, lengths=lengths)[:3]
