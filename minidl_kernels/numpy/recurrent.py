"""Recurrent layers: the time loops in place, and whatever need not wait for the step before it for all steps at once.

The input's projection is one matrix product over all steps on the way forward, and the weight gradients are one over
all steps on the way back.
"""

from __future__ import annotations

import numpy as np

from minidl.backend import kernel
from minidl.ops.recurrent import active_steps, order, previous_states

Array = np.ndarray


def _project(x: Array, w: Array, bias: Array | None) -> Array:
    """x Wᵀ + bias for all steps as one product: (T, N, I) -> (T, N, G)."""
    a = np.matmul(x.reshape(-1, x.shape[2]), w.T)
    if bias is not None:
        a += bias
    return a.reshape(x.shape[0], x.shape[1], w.shape[0])


def _weight_grad(dz: Array, inputs: Array) -> Array:
    """Sum over steps and batch of dz ⊗ inputs, as one matrix product: (T, N, G), (T, N, I) -> (G, I)."""
    return np.matmul(dz.reshape(-1, dz.shape[2]).T, inputs.reshape(-1, inputs.shape[2]))


def _input_grad(dz: Array, w_ih: Array) -> Array:
    return np.matmul(dz.reshape(-1, dz.shape[2]), w_ih).reshape(*dz.shape[:2], w_ih.shape[1])


def _half_for_sigmoids(gates: list, hidden: int, dtype: np.dtype) -> tuple[Array, Array]:
    """(scale, shift) that turn one tanh over all gates into what each needs, as σ(z) = tanh(z / 2) / 2 + 1 / 2.

    A vectorized tanh is several times as fast as any sigmoid that NumPy and SciPy have. ``scale`` goes into the
    weights, too.
    """
    scale = np.repeat(np.array(gates, dtype), hidden)
    return scale, 1 - scale


@kernel("rnn", backend="numpy", note="in place, the input's part for all steps at once")
def rnn(x, h0, w_ih, w_hh, b_ih=None, b_hh=None, *, nonlinearity="tanh", reverse=False, lengths=None):
    active = active_steps(len(x), lengths)
    w_h = np.ascontiguousarray(w_hh.T)
    y = _project(x, w_ih, None if b_ih is None else b_ih + b_hh)
    h = h0
    for t in order(len(x), reverse):
        new = y[t]
        new += np.matmul(h, w_h)
        if nonlinearity == "tanh":
            np.tanh(new, out=new)
        else:
            np.maximum(new, 0, out=new)
        if active is not None:
            h = np.where(active[t], new, h)
            new *= active[t]
        else:
            h = new
    return y, h.copy()


@kernel("rnn_backward", backend="numpy", note="in place, slopes for all steps at once")
def rnn_backward(gy, gh, x, h0, w_ih, w_hh, y, *, nonlinearity, reverse, lengths):
    active = active_steps(len(x), lengths)
    # dz starts as act'(z), for all steps at once
    dz = 1 - y * y if nonlinearity == "tanh" else (y > 0).astype(y.dtype)
    if active is not None:
        dz *= active
    dh = gh
    for t in order(len(x), not reverse):
        later = dh
        d = dz[t]
        d *= later + gy[t]
        dh = np.matmul(d, w_hh)
        if active is not None:
            dh += later * ~active[t]
    h_prev = previous_states(y, h0, active, reverse)
    db = dz.sum(axis=(0, 1))
    return _input_grad(dz, w_ih), dh.copy(), _weight_grad(dz, x), _weight_grad(dz, h_prev), db


@kernel("gru", backend="numpy", note="in place, one tanh for both gates")
def gru(x, h0, w_ih, w_hh, b_ih=None, b_hh=None, *, reverse=False, lengths=None):
    steps, n, hidden = *x.shape[:2], h0.shape[1]
    active = active_steps(len(x), lengths)
    scale, shift = _half_for_sigmoids([0.5, 0.5, 1], hidden, x.dtype)
    w_h = np.ascontiguousarray((w_hh * scale[:, None]).T)
    gates = _project(x, w_ih * scale[:, None], None if b_ih is None else b_ih * scale)
    b_h = None if b_hh is None else b_hh * scale
    y = np.empty((steps, n, hidden), x.dtype)
    hn = np.empty((steps, n, hidden), x.dtype)
    u = np.empty((n, 3 * hidden), x.dtype)
    h, rz = h0, slice(2 * hidden)
    for t in order(steps, reverse):
        a, new = gates[t], y[t]
        r, z, cand = (a[:, k * hidden : (k + 1) * hidden] for k in range(3))
        np.matmul(h, w_h, out=u)
        if b_h is not None:
            u += b_h
        hn[t] = u[:, 2 * hidden :]
        a[:, rz] += u[:, rz]
        np.tanh(a[:, rz], out=a[:, rz])
        a[:, rz] *= scale[rz]
        a[:, rz] += shift[rz]
        cand += r * hn[t]
        np.tanh(cand, out=cand)
        np.subtract(h, cand, out=new)
        new *= z
        new += cand
        if active is not None:
            h = np.where(active[t], new, h)
            new *= active[t]
        else:
            h = new
    return y, h.copy(), gates, hn


@kernel("gru_backward", backend="numpy", note="in place, slopes for all steps at once")
def gru_backward(gy, gh, x, h0, w_ih, w_hh, y, gates, hn, *, reverse, lengths):
    active = active_steps(len(x), lengths)
    hidden = h0.shape[1]
    h_prev = previous_states(y, h0, active, reverse)
    r, z, n = (gates[..., k * hidden : (k + 1) * hidden] for k in range(3))
    # Each gate's gradient is dh times a factor that does not depend on later steps: the factors for all steps at once.
    # W_hn h + b_hn, which r multiplies, gets r times what W_in x + b_in gets.
    to_n = (1 - z) * (1 - n * n)
    dz_h = np.concatenate([to_n * hn * (r * (1 - r)), (h_prev - n) * (z * (1 - z)), to_n * r], axis=-1)
    if active is not None:
        dz_h *= active
        to_n *= active
        z = np.where(active, z, 1)
    dhs = np.empty_like(y)
    dh = gh
    for t in order(len(x), not reverse):
        total = dh + gy[t] if active is None else dh + gy[t] * active[t]
        dhs[t] = total
        d = dz_h[t]
        d *= np.concatenate([total, total, total], axis=1)
        dh = np.matmul(d, w_hh)
        dh += total * z[t]
    dz_x = np.concatenate([dz_h[..., : 2 * hidden], to_n * dhs], axis=-1)
    return (
        _input_grad(dz_x, w_ih),
        dh.copy(),
        _weight_grad(dz_x, x),
        _weight_grad(dz_h, h_prev),
        dz_x.sum(axis=(0, 1)),
        dz_h.sum(axis=(0, 1)),
    )


@kernel("lstm", backend="numpy", note="in place, one tanh for all gates")
def lstm(x, h0, c0, w_ih, w_hh, b_ih=None, b_hh=None, w_hr=None, *, reverse=False, lengths=None):
    steps, n, hidden = *x.shape[:2], c0.shape[1]
    active = active_steps(len(x), lengths)
    scale, shift = _half_for_sigmoids([0.5, 0.5, 1, 0.5], hidden, x.dtype)
    w_h = np.ascontiguousarray((w_hh * scale[:, None]).T)
    gates = _project(x, w_ih * scale[:, None], None if b_ih is None else (b_ih + b_hh) * scale)
    y = np.empty((steps, n, h0.shape[1]), x.dtype)
    cells = np.empty((steps, n, hidden), x.dtype)
    z = np.empty((n, 4 * hidden), x.dtype)
    u = np.empty((n, hidden), x.dtype)
    h, c = h0, c0
    for t in order(steps, reverse):
        a = gates[t]
        a += np.matmul(h, w_h, out=z)
        np.tanh(a, out=a)
        a *= scale
        a += shift
        i, f, g, o = (a[:, k * hidden : (k + 1) * hidden] for k in range(4))
        before, c = c, np.multiply(f, c, out=cells[t])
        c += np.multiply(i, g, out=u)
        np.tanh(c, out=u)
        if w_hr is None:
            new = np.multiply(o, u, out=y[t])
        else:
            u *= o
            new = np.matmul(u, w_hr.T, out=y[t])
        if active is not None:
            c[...] = np.where(active[t], c, before)
            h = np.where(active[t], new, h)
            new *= active[t]
        else:
            h = new
    return y, h.copy(), c.copy(), gates, cells


@kernel("lstm_backward", backend="numpy", note="in place, slopes for all steps at once")
def lstm_backward(gy, gh, gc, x, h0, c0, w_ih, w_hh, w_hr, y, gates, cells, *, reverse, lengths):
    active = active_steps(len(x), lengths)
    hidden = c0.shape[1]
    i, f, g, o = (gates[..., k * hidden : (k + 1) * hidden] for k in range(4))
    tanh_c = np.tanh(cells)
    c_prev = previous_states(cells, c0, None, reverse)
    # What does not depend on later steps, for all steps at once: dz starts as each gate's slope times the factor that
    # carries dc (for i, f, g) or dh (for o) to the gate; to_c carries dh to dc.
    dz = np.concatenate([g * (i * (1 - i)), c_prev * (f * (1 - f)), i * (1 - g * g), tanh_c * (o * (1 - o))], axis=-1)
    to_c = o * (1 - tanh_c * tanh_c)
    if active is not None:
        dz *= active
        to_c *= active
        f = np.where(active, f, 1)
    dhs = None if w_hr is None else np.empty_like(y)
    dh, dc = gh, gc.copy()
    for t in order(len(x), not reverse):
        later = dh
        total = later + gy[t]
        if w_hr is not None:
            dhs[t] = total if active is None else total * active[t]
            total = np.matmul(total, w_hr)
        dc += total * to_c[t]
        d = dz[t]
        d *= np.concatenate([dc, dc, dc, total], axis=1)
        dc *= f[t]
        dh = np.matmul(d, w_hh)
        if active is not None:
            dh += later * ~active[t]
    h_prev = previous_states(y, h0, active, reverse)
    return (
        _input_grad(dz, w_ih),
        dh.copy(),
        dc,
        _weight_grad(dz, x),
        _weight_grad(dz, h_prev),
        dz.sum(axis=(0, 1)),
        np.zeros((0, hidden), x.dtype) if w_hr is None else _weight_grad(dhs, o * tanh_c),
    )
