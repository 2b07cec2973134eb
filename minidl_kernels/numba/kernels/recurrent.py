"""Recurrent layers: the time loop is one compiled function, the gates of a step one pass over memory in the cache.

The weights that every step multiplies by are laid out once for :mod:`~.simd.gemm`. Rows of the batch do
not depend on each other, so threads take some rows each through all steps. The products over all steps at once (the
input's projection, the weight gradients) are BLAS's.

A row's loops are kept short, with few arrays each: LLVM vectorizes no loop that would need many checks for overlap.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import get_num_threads, prange

from minidl.backend import kernel
from minidl_kernels.numba.simd.common import FLOATS, PARALLEL_FROM
from minidl_kernels.numba.simd.compiled import compiled
from minidl_kernels.numba.simd.gemm import pack, pack_transposed, packed, packed_product
from minidl_kernels.numba.simd.vecmath import nan_max, sigmoid, tanh
from minidl_kernels.numba.simd.vectors import ROWS

_DTYPES = ("float32", "float64")


def _serves(*arrays: Any, w_hr: Any = None, **params: Any) -> bool:
    """host arrays of one dtype, float32 or float64, not empty; no projection of the state"""
    dtype = arrays[0].dtype
    return (
        w_hr is None
        and dtype in FLOATS
        and all(a is None or (type(a) is np.ndarray and a.dtype == dtype and a.size > 0) for a in arrays)
    )


def _lstm_serves(x: Any, h0: Any, c0: Any, w_ih: Any, w_hh: Any, b_ih: Any = None, b_hh: Any = None,
                 w_hr: Any = None, **params: Any) -> bool:  # fmt: skip
    """host arrays of one dtype, float32 or float64, not empty; no projection of the state"""
    return _serves(x, h0, c0, w_ih, w_hh, b_ih, b_hh, w_hr=w_hr)


def _lstm_backward_serves(gy: Any, gh: Any, gc: Any, x: Any, h0: Any, c0: Any, w_ih: Any, w_hh: Any, w_hr: Any,
                          *saved: Any, **params: Any) -> bool:  # fmt: skip
    """host arrays of one dtype, float32 or float64, not empty; no projection of the state"""
    return _serves(gy, gh, gc, x, h0, c0, w_ih, w_hh, *saved, w_hr=w_hr)


def _flat(a: np.ndarray) -> np.ndarray:
    """(T, N, K) as (T N, K), rows in one piece of memory."""
    return np.ascontiguousarray(a).reshape(-1, a.shape[2])


def _lengths(x: np.ndarray, lengths: tuple | None) -> np.ndarray:
    return np.full(x.shape[1], x.shape[0]) if lengths is None else np.asarray(lengths, np.int64)


def _project(x: np.ndarray, w_ih: np.ndarray, out: np.ndarray) -> None:
    np.matmul(_flat(x), w_ih.T, out=_flat(out))


def _packed(w: np.ndarray, steps: int, transposed: bool = False) -> np.ndarray:
    """``w`` (or its transpose) packed; for a single step, whose product is left to BLAS, nothing."""
    depth, width = w.shape[::-1] if transposed else w.shape
    if steps == 1:
        return packed(depth, 0, w.dtype)
    out, w = packed(depth, width, w.dtype), np.ascontiguousarray(w)
    if transposed:
        pack_transposed(w, out, w.dtype.type(1))
    else:
        pack(w, out)
    return out


def _bias(b: np.ndarray | None, like: np.ndarray) -> np.ndarray:
    return np.zeros(like.shape[0], like.dtype) if b is None else np.ascontiguousarray(b)


def _over_batch(serial: Any, parallel: Any, work: int, rows: int, *arguments: Any) -> None:
    """Run for all rows of the batch, on several threads where there are rows and work (numbers written) enough."""
    count = 1 if work < PARALLEL_FROM else min(get_num_threads(), -(-rows // ROWS))
    if count == 1:
        serial(*arguments, 0, rows)
    else:
        parallel(*arguments, count)


def _weight_grad(dz: np.ndarray, inputs: np.ndarray, out: np.ndarray) -> None:
    np.matmul(_flat(dz).T, _flat(inputs), out=out)


def _state_grad(dz: np.ndarray, y: np.ndarray, h0: np.ndarray, lengths: np.ndarray, reverse: bool, out: Any) -> None:
    """Sum over steps of dz ⊗ the state that the step started from."""
    if not reverse:
        first, later, before = dz[0], dz[1:], y[:-1]
    elif lengths.min() == len(y):
        first, later, before = dz[-1], dz[:-1], y[1:]
    else:  # a sequence's last step starts from the initial state, whatever padding follows it
        starts = np.arange(1, len(y) + 1)[:, None] >= lengths
        _weight_grad(dz, np.where(starts[..., None], h0, np.concatenate([y[1:], y[:1]])), out)
        return
    np.matmul(first.T, h0, out=out)
    if len(later):
        out += np.matmul(_flat(later).T, _flat(before))


@compiled
def _before(states, initial, t, n, length, reverse):
    """The state that step ``t`` of row ``n`` started from."""
    if reverse:
        return states[t + 1, n] if t + 1 < min(length, states.shape[0]) else initial[n]
    return states[t - 1, n] if t > 0 else initial[n]


@compiled
def _add_into(total, x):
    for j in range(total.size):
        total[j] += x[j]


@compiled
def _scale(x, factor):
    for j in range(x.size):
        x[j] *= factor


# Elman network


@compiled
def _rnn_steps(y, bias, w, h, relu, lengths, reverse, start, stop):
    steps, zero = y.shape[0], y.dtype.type(0)
    for s in range(steps):
        t = steps - 1 - s if reverse else s
        if w.size:
            packed_product(h[start:stop], w, y[t, start:stop], True)
        for n in range(start, stop):
            new = y[t, n]
            if relu:
                for j in range(new.size):
                    new[j] = nan_max(new[j] + bias[j], zero)
            else:
                for j in range(new.size):
                    new[j] = tanh(new[j] + bias[j])
            if t < lengths[n]:
                h[n] = new
            else:
                _scale(new, zero)


@compiled
def _rnn_steps_back(gy, dh, w, y, relu, dz, db, lengths, reverse, start, stop):
    steps = y.shape[0]
    zero, one = y.dtype.type(0), y.dtype.type(1)
    kept = dh[start:stop].copy()
    for s in range(steps):
        t = s if reverse else steps - 1 - s
        for n in range(start, stop):
            d, out, total = dz[t, n], y[t, n], dh[n]
            active = one if t < lengths[n] else zero
            if t >= lengths[n]:
                kept[n - start] = total
            _add_into(total, gy[t, n])
            if relu:
                for j in range(d.size):
                    d[j] = total[j] * (active if out[j] > zero else zero)
            else:
                for j in range(d.size):
                    d[j] = total[j] * ((one - out[j] * out[j]) * active)
            _add_into(db[n], d)
        if w.size:
            packed_product(dz[t, start:stop], w, dh[start:stop], False)
        else:
            dh[start:stop] = 0
        for n in range(start, stop):
            if t >= lengths[n]:
                _add_into(dh[n], kept[n - start])


@compiled(parallel=True)
def _rnn_parallel(y, bias, w, h, relu, lengths, reverse, count):
    for c in prange(count):
        n = h.shape[0]
        _rnn_steps(y, bias, w, h, relu, lengths, reverse, c * n // count, (c + 1) * n // count)


@compiled(parallel=True)
def _rnn_parallel_back(gy, dh, w, y, relu, dz, db, lengths, reverse, count):
    for c in prange(count):
        n = dh.shape[0]
        _rnn_steps_back(gy, dh, w, y, relu, dz, db, lengths, reverse, c * n // count, (c + 1) * n // count)


@kernel("rnn", backend="numba", when=_serves, dtypes=_DTYPES, note="time loop compiled", out=True)
def rnn(
    x: np.ndarray, h0: np.ndarray, w_ih: np.ndarray, w_hh: np.ndarray, b_ih: np.ndarray | None = None,
    b_hh: np.ndarray | None = None, *, nonlinearity: str = "tanh", reverse: bool = False,
    lengths: tuple | None = None, out: Any = None,
) -> tuple[np.ndarray, ...]:  # fmt: skip
    steps, rows, hidden = *x.shape[:2], h0.shape[1]
    y, h = out or (np.empty((steps, rows, hidden), x.dtype), np.empty(h0.shape, x.dtype))
    h[...] = h0
    _project(x, w_ih, y)
    if steps == 1:
        y[0] += np.matmul(h0, w_hh.T)
    bias = _bias(b_ih if b_ih is None else b_ih + b_hh, w_ih)
    _over_batch(
        _rnn_steps, _rnn_parallel, y.size, rows, y, bias, _packed(w_hh, steps, transposed=True), h,
        nonlinearity == "relu", _lengths(x, lengths), reverse,
    )  # fmt: skip
    return y, h


@kernel("rnn_backward", backend="numba", when=_serves, dtypes=_DTYPES, note="time loop compiled", out=True)
def rnn_backward(
    gy: np.ndarray, gh: np.ndarray, x: np.ndarray, h0: np.ndarray, w_ih: np.ndarray, w_hh: np.ndarray, y: np.ndarray,
    *, nonlinearity: str, reverse: bool, lengths: tuple | None, out: Any = None,
) -> tuple[np.ndarray, ...]:  # fmt: skip
    dx, dh, dw_ih, dw_hh, db = out or [
        np.empty(s, x.dtype) for s in (x.shape, h0.shape, w_ih.shape, w_hh.shape, w_ih.shape[:1])
    ]
    dh[...] = gh
    y, each = np.ascontiguousarray(y), _lengths(x, lengths)
    dz, sums = np.empty(y.shape, x.dtype), np.zeros(h0.shape, x.dtype)
    _over_batch(
        _rnn_steps_back, _rnn_parallel_back, dz.size, len(h0), np.ascontiguousarray(gy), dh,
        _packed(w_hh, len(x)), y, nonlinearity == "relu", dz, sums, each, reverse,
    )  # fmt: skip
    if len(x) == 1:
        dh += np.matmul(dz[0], w_hh)
    np.matmul(_flat(dz), w_ih, out=_flat(dx))
    _weight_grad(dz, x, dw_ih)
    _state_grad(dz, y, h0, each, reverse, dw_hh)
    np.sum(sums, axis=0, out=db)
    return dx, dh, dw_ih, dw_hh, db


# GRU


@compiled
def _gru_steps(gates, bias_x, bias_h, w, u, h, y, hn, lengths, reverse, start, stop):
    steps, hidden, zero = gates.shape[0], h.shape[1], h.dtype.type(0)
    for s in range(steps):
        t = steps - 1 - s if reverse else s
        if w.size:
            packed_product(h[start:stop], w, u[start:stop], False)
        for n in range(start, stop):
            a, v, state, new, inner = gates[t, n], u[n], h[n], y[t, n], hn[t, n]
            for j in range(2 * hidden):
                a[j] = sigmoid(a[j] + bias_x[j] + (v[j] + bias_h[j]))
            r, z, cand = a[:hidden], a[hidden : 2 * hidden], a[2 * hidden :]
            bias_n, v_n, b_n = bias_x[2 * hidden :], v[2 * hidden :], bias_h[2 * hidden :]
            for j in range(hidden):
                inner[j] = v_n[j] + b_n[j]
            for j in range(hidden):
                cand[j] = tanh(cand[j] + bias_n[j] + r[j] * inner[j])
            for j in range(hidden):
                new[j] = (state[j] - cand[j]) * z[j] + cand[j]
            if t < lengths[n]:
                h[n] = new
            else:
                _scale(new, zero)


@compiled
def _gru_steps_back(gy, dh, h0, w, y, gates, hn, dz_x, dz_h, db_x, db_h, lengths, reverse, start, stop):
    steps, hidden = y.shape[0], y.shape[2]
    zero, one = y.dtype.type(0), y.dtype.type(1)
    kept = dh[start:stop].copy()
    for s in range(steps):
        t = s if reverse else steps - 1 - s
        for n in range(start, stop):
            total, later = dh[n], kept[n - start]
            d_x, d_h, g = dz_x[t, n], dz_h[t, n], gy[t, n]
            active = one if t < lengths[n] else zero
            for j in range(hidden):
                total[j] += g[j] * active
            previous, inner = _before(y, h0, t, n, lengths[n], reverse), hn[t, n]
            r, z, cand = gates[t, n, :hidden], gates[t, n, hidden : 2 * hidden], gates[t, n, 2 * hidden :]
            d_r, d_z, d_n, d_nh = d_x[:hidden], d_x[hidden : 2 * hidden], d_x[2 * hidden :], d_h[2 * hidden :]
            for j in range(hidden):
                d_n[j] = total[j] * ((one - z[j]) * (one - cand[j] * cand[j]) * active)
            for j in range(hidden):
                d_nh[j] = d_n[j] * r[j]
            for j in range(hidden):
                d_r[j] = d_n[j] * inner[j] * (r[j] * (one - r[j]))
            for j in range(hidden):
                d_z[j] = total[j] * ((previous[j] - cand[j]) * (z[j] * (one - z[j])) * active)
            if t < lengths[n]:
                for j in range(hidden):
                    later[j] = total[j] * z[j]
            else:
                later[:] = total
            d_h[: 2 * hidden] = d_x[: 2 * hidden]
            _add_into(db_x[n], d_x)
            _add_into(db_h[n], d_h)
        if w.size:
            packed_product(dz_h[t, start:stop], w, dh[start:stop], False)
        else:
            dh[start:stop] = 0
        for n in range(start, stop):
            _add_into(dh[n], kept[n - start])


@compiled(parallel=True)
def _gru_parallel(gates, bias_x, bias_h, w, u, h, y, hn, lengths, reverse, count):
    for c in prange(count):
        n = h.shape[0]
        _gru_steps(gates, bias_x, bias_h, w, u, h, y, hn, lengths, reverse, c * n // count, (c + 1) * n // count)


@compiled(parallel=True)
def _gru_parallel_back(gy, dh, h0, w, y, gates, hn, dz_x, dz_h, db_x, db_h, lengths, reverse, count):
    for c in prange(count):
        n = dh.shape[0]
        _gru_steps_back(
            gy, dh, h0, w, y, gates, hn, dz_x, dz_h, db_x, db_h, lengths, reverse, c * n // count, (c + 1) * n // count
        )


@kernel("gru", backend="numba", when=_serves, dtypes=_DTYPES, note="time loop compiled, gates in one pass", out=True)
def gru(
    x: np.ndarray, h0: np.ndarray, w_ih: np.ndarray, w_hh: np.ndarray, b_ih: np.ndarray | None = None,
    b_hh: np.ndarray | None = None, *, reverse: bool = False, lengths: tuple | None = None, out: Any = None,
) -> tuple[np.ndarray, ...]:  # fmt: skip
    steps, rows, hidden = *x.shape[:2], h0.shape[1]
    y, h, gates, hn = out or [
        np.empty(s, x.dtype)
        for s in ((steps, rows, hidden), h0.shape, (steps, rows, 3 * hidden), (steps, rows, hidden))
    ]
    h[...] = h0
    _project(x, w_ih, gates)
    u = np.matmul(h0, w_hh.T) if steps == 1 else np.empty((rows, 3 * hidden), x.dtype)
    _over_batch(
        _gru_steps, _gru_parallel, gates.size, rows, gates, _bias(b_ih, w_ih), _bias(b_hh, w_hh),
        _packed(w_hh, steps, transposed=True), u, h, y, hn, _lengths(x, lengths), reverse,
    )  # fmt: skip
    return y, h, gates, hn


@kernel("gru_backward", backend="numba", when=_serves, dtypes=_DTYPES, note="time loop compiled", out=True)
def gru_backward(
    gy: np.ndarray, gh: np.ndarray, x: np.ndarray, h0: np.ndarray, w_ih: np.ndarray, w_hh: np.ndarray, y: np.ndarray,
    gates: np.ndarray, hn: np.ndarray, *, reverse: bool, lengths: tuple | None, out: Any = None,
) -> tuple[np.ndarray, ...]:  # fmt: skip
    dx, dh, dw_ih, dw_hh, db_ih, db_hh = out or [
        np.empty(s, x.dtype) for s in (x.shape, h0.shape, w_ih.shape, w_hh.shape, w_ih.shape[:1], w_hh.shape[:1])
    ]
    dh[...] = gh
    y, each = np.ascontiguousarray(y), _lengths(x, lengths)
    dz_x, dz_h = np.empty(gates.shape, x.dtype), np.empty(gates.shape, x.dtype)
    sums_x, sums_h = np.zeros(gates.shape[1:], x.dtype), np.zeros(gates.shape[1:], x.dtype)
    _over_batch(
        _gru_steps_back, _gru_parallel_back, gates.size, len(h0), np.ascontiguousarray(gy), dh,
        np.ascontiguousarray(h0), _packed(w_hh, len(x)), y, np.ascontiguousarray(gates), np.ascontiguousarray(hn),
        dz_x, dz_h, sums_x, sums_h, each, reverse,
    )  # fmt: skip
    if len(x) == 1:
        dh += np.matmul(dz_h[0], w_hh)
    np.matmul(_flat(dz_x), w_ih, out=_flat(dx))
    _weight_grad(dz_x, x, dw_ih)
    _state_grad(dz_h, y, h0, each, reverse, dw_hh)
    np.sum(sums_x, axis=0, out=db_ih)
    np.sum(sums_h, axis=0, out=db_hh)
    return dx, dh, dw_ih, dw_hh, db_ih, db_hh


# LSTM


@compiled
def _lstm_steps(gates, bias, w, h, c, y, cells, lengths, reverse, start, stop):
    steps, hidden, zero = gates.shape[0], h.shape[1], h.dtype.type(0)
    bias_g, bias_o = bias[2 * hidden : 3 * hidden], bias[3 * hidden :]
    for s in range(steps):
        t = steps - 1 - s if reverse else s
        if w.size:
            packed_product(h[start:stop], w, gates[t, start:stop], True)
        for n in range(start, stop):
            a, before, new, cell = gates[t, n], c[n], y[t, n], cells[t, n]
            i, f, g, o = a[:hidden], a[hidden : 2 * hidden], a[2 * hidden : 3 * hidden], a[3 * hidden :]
            for j in range(2 * hidden):
                a[j] = sigmoid(a[j] + bias[j])
            for j in range(hidden):
                g[j] = tanh(g[j] + bias_g[j])
            for j in range(hidden):
                o[j] = sigmoid(o[j] + bias_o[j])
            for j in range(hidden):
                cell[j] = f[j] * before[j] + i[j] * g[j]
            for j in range(hidden):
                new[j] = o[j] * tanh(cell[j])
            if t < lengths[n]:
                h[n], c[n] = new, cell
            else:
                cell[:] = before
                _scale(new, zero)


@compiled
def _lstm_steps_back(gy, dh, dc, c0, w, gates, cells, dz, db, lengths, reverse, start, stop):
    steps, hidden = cells.shape[0], cells.shape[2]
    zero, one = cells.dtype.type(0), cells.dtype.type(1)
    kept = dh[start:stop].copy()
    tanh_c = np.empty(hidden, cells.dtype)
    for s in range(steps):
        t = s if reverse else steps - 1 - s
        for n in range(start, stop):
            total, d_cell, d = dh[n], dc[n], dz[t, n]
            active = one if t < lengths[n] else zero
            if t >= lengths[n]:
                kept[n - start] = total
            before, cell = _before(cells, c0, t, n, lengths[n], reverse), cells[t, n]
            i, f = gates[t, n, :hidden], gates[t, n, hidden : 2 * hidden]
            g, o = gates[t, n, 2 * hidden : 3 * hidden], gates[t, n, 3 * hidden :]
            d_i, d_f, d_g, d_o = d[:hidden], d[hidden : 2 * hidden], d[2 * hidden : 3 * hidden], d[3 * hidden :]
            _add_into(total, gy[t, n])
            for j in range(hidden):
                tanh_c[j] = tanh(cell[j])
            for j in range(hidden):
                d_cell[j] += total[j] * (o[j] * (one - tanh_c[j] * tanh_c[j]) * active)
            for j in range(hidden):
                d_o[j] = total[j] * (tanh_c[j] * (o[j] * (one - o[j])) * active)
            for j in range(hidden):
                d_i[j] = d_cell[j] * (g[j] * (i[j] * (one - i[j])) * active)
            for j in range(hidden):
                d_g[j] = d_cell[j] * (i[j] * (one - g[j] * g[j]) * active)
            for j in range(hidden):
                d_f[j] = d_cell[j] * (before[j] * (f[j] * (one - f[j])) * active)
            if t < lengths[n]:
                for j in range(hidden):
                    d_cell[j] *= f[j]
            _add_into(db[n], d)
        if w.size:
            packed_product(dz[t, start:stop], w, dh[start:stop], False)
        else:
            dh[start:stop] = 0
        for n in range(start, stop):
            if t >= lengths[n]:
                _add_into(dh[n], kept[n - start])


@compiled(parallel=True)
def _lstm_parallel(gates, bias, w, h, c, y, cells, lengths, reverse, count):
    for k in prange(count):
        n = h.shape[0]
        _lstm_steps(gates, bias, w, h, c, y, cells, lengths, reverse, k * n // count, (k + 1) * n // count)


@compiled(parallel=True)
def _lstm_parallel_back(gy, dh, dc, c0, w, gates, cells, dz, db, lengths, reverse, count):
    for k in prange(count):
        n = dh.shape[0]
        _lstm_steps_back(
            gy, dh, dc, c0, w, gates, cells, dz, db, lengths, reverse, k * n // count, (k + 1) * n // count
        )


@kernel(
    "lstm", backend="numba", when=_lstm_serves, dtypes=_DTYPES, note="time loop compiled, gates in one pass", out=True
)
def lstm(
    x: np.ndarray, h0: np.ndarray, c0: np.ndarray, w_ih: np.ndarray, w_hh: np.ndarray,
    b_ih: np.ndarray | None = None, b_hh: np.ndarray | None = None, w_hr: None = None, *, reverse: bool = False,
    lengths: tuple | None = None, out: Any = None,
) -> tuple[np.ndarray, ...]:  # fmt: skip
    steps, rows, hidden = *x.shape[:2], h0.shape[1]
    y, h, c, gates, cells = out or [
        np.empty(s, x.dtype)
        for s in ((steps, rows, hidden), h0.shape, c0.shape, (steps, rows, 4 * hidden), (steps, rows, hidden))
    ]
    h[...], c[...] = h0, c0
    _project(x, w_ih, gates)
    if steps == 1:
        gates[0] += np.matmul(h0, w_hh.T)
    bias = _bias(b_ih if b_ih is None else b_ih + b_hh, w_ih)
    _over_batch(
        _lstm_steps, _lstm_parallel, gates.size, rows, gates, bias, _packed(w_hh, steps, transposed=True), h, c, y,
        cells, _lengths(x, lengths), reverse,
    )  # fmt: skip
    return y, h, c, gates, cells


@kernel(
    "lstm_backward", backend="numba", when=_lstm_backward_serves, dtypes=_DTYPES, note="time loop compiled", out=True
)
def lstm_backward(
    gy: np.ndarray, gh: np.ndarray, gc: np.ndarray, x: np.ndarray, h0: np.ndarray, c0: np.ndarray, w_ih: np.ndarray,
    w_hh: np.ndarray, w_hr: None, y: np.ndarray, gates: np.ndarray, cells: np.ndarray, *, reverse: bool,
    lengths: tuple | None, out: Any = None,
) -> tuple[np.ndarray, ...]:  # fmt: skip
    dx, dh, dc, dw_ih, dw_hh, db, dw_hr = out or [
        np.empty(s, x.dtype)
        for s in (x.shape, h0.shape, c0.shape, w_ih.shape, w_hh.shape, w_ih.shape[:1], (0, h0.shape[1]))
    ]
    dh[...], dc[...] = gh, gc
    each = _lengths(x, lengths)
    dz, sums = np.empty(gates.shape, x.dtype), np.zeros(gates.shape[1:], x.dtype)
    _over_batch(
        _lstm_steps_back, _lstm_parallel_back, gates.size, len(h0), np.ascontiguousarray(gy), dh, dc,
        np.ascontiguousarray(c0), _packed(w_hh, len(x)), np.ascontiguousarray(gates), np.ascontiguousarray(cells), dz,
        sums, each, reverse,
    )  # fmt: skip
    if len(x) == 1:
        dh += np.matmul(dz[0], w_hh)
    np.matmul(_flat(dz), w_ih, out=_flat(dx))
    _weight_grad(dz, x, dw_ih)
    _state_grad(dz, y, h0, each, reverse, dw_hh)
    np.sum(sums, axis=0, out=db)
    return dx, dh, dc, dw_ih, dw_hh, db, dw_hr
