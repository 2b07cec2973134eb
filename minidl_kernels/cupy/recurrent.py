"""LSTM and GRU layers: cuBLAS for the products, and one kernel a time step for all that happens to the gates.

Not for half precision: what goes from step to step, and what is kept for the gradient, must be float32, and cuBLAS
would round products of halves before they are added up (to infinity from 65504 on). So it is widened as a whole.
"""

from __future__ import annotations

from typing import Any

import cupy
import numpy as np

from minidl.backend import kernel
from minidl.ops.recurrent import active_steps, order
from minidl_kernels.cupy.launch import contiguous, floats, launch, over_elements

_DTYPES = ("float32", "float64")


def _whole(first: Any, *others: Any) -> bool:
    return floats(first, *others) and first.dtype.itemsize >= 4


def _project(x: Any, w: Any, bias: Any) -> Any:
    """x Wᵀ + bias for all steps as one product: (T, N, I) -> (T, N, G)."""
    a = cupy.matmul(x.reshape(-1, x.shape[2]), w.T)
    if bias is not None:
        a += bias
    return a.reshape(x.shape[0], x.shape[1], w.shape[0])


def _input_grad(dz: Any, w_ih: Any) -> Any:
    return cupy.matmul(dz.reshape(-1, dz.shape[2]), w_ih).reshape(*dz.shape[:2], w_ih.shape[1])


def _weight_grad(dz: Any, inputs: Any) -> Any:
    """Sum over steps and batch of dz ⊗ inputs, as one matrix product: (T, N, G), (T, N, I) -> (G, I)."""
    return cupy.matmul(dz.reshape(-1, dz.shape[2]).T, inputs.reshape(-1, inputs.shape[2]))


def _previous(states: Any, initial: Any, active: Any, reverse: bool) -> Any:
    """The state that each step started from, (T, N, H), given those it ended with."""
    if not len(states):
        return states
    if not reverse:
        return cupy.concatenate([initial[None], states[:-1]])
    previous = cupy.concatenate([states[1:], initial[None]])
    if active is not None:  # a sequence's last step starts from the initial state, whatever padding follows it
        active = cupy.asarray(active)
        previous = cupy.where(cupy.concatenate([active[1:], active[:1]]), previous, initial)
    return previous


def _ends(lengths: tuple | None) -> Any:
    return None if lengths is None else cupy.asarray(np.array(lengths, np.int32))


def _lstm(x, h0, c0, w_ih, w_hh, b_ih=None, b_hh=None, w_hr=None, **params: Any) -> bool:
    """float32 or float64 arrays, not empty; no projection"""
    return w_hr is None and _whole(x, h0, c0, w_ih, w_hh, b_ih, b_hh) and c0.size > 0


@kernel("lstm", backend="cupy", when=_lstm, dtypes=_DTYPES, note="cuBLAS, and one kernel per step")
def lstm(
    x: Any, h0: Any, c0: Any, w_ih: Any, w_hh: Any, b_ih: Any = None, b_hh: Any = None, w_hr: Any = None, *,
    reverse: bool = False, lengths: tuple | None = None,
) -> tuple[Any, ...]:  # fmt: skip
    steps, batch, hidden = x.shape[0], *c0.shape
    gates = contiguous(_project(x, w_ih, None if b_ih is None else b_ih + b_hh))
    y, cells = cupy.empty((steps, batch, hidden), x.dtype), cupy.empty((steps, batch, hidden), x.dtype)
    recurrent, weight = cupy.empty((batch, 4 * hidden), x.dtype), w_hh.T
    h, c0 = contiguous(h0, c0)
    ends, before = _ends(lengths), -1
    for t in order(steps, reverse):
        cupy.matmul(h, weight, out=recurrent)
        state = None if ends is None else cupy.empty((batch, hidden), x.dtype)
        launch(
            "recurrent", "lstm_step<T>", x.dtype, *over_elements(batch * hidden), gates, recurrent,
            None if state is None else h, c0, ends, t, before, batch, hidden, cells, y, state,
        )  # fmt: skip
        h, before = y[t] if state is None else state, t
    return y, h.copy(), cells[before].copy(), gates, cells


def _lstm_backward(gy, gh, gc, x, h0, c0, w_ih, w_hh, w_hr, y, gates, cells, **params: Any) -> bool:
    """float32 or float64 arrays, not empty; no projection"""
    return w_hr is None and _whole(x, gy, gh, gc, h0, c0, w_ih, w_hh, y, gates, cells) and c0.size > 0


@kernel("lstm_backward", backend="cupy", when=_lstm_backward, dtypes=_DTYPES, note="cuBLAS, and one kernel per step")
def lstm_backward(
    gy: Any, gh: Any, gc: Any, x: Any, h0: Any, c0: Any, w_ih: Any, w_hh: Any, w_hr: Any, y: Any, gates: Any,
    cells: Any, *, reverse: bool, lengths: tuple | None,
) -> tuple[Any, ...]:  # fmt: skip
    steps, batch, hidden = x.shape[0], *c0.shape
    gy, dh, c0, gates, cells = contiguous(gy, gh, c0, gates, cells)
    dc = contiguous(gc).copy()
    dz = cupy.empty((steps, batch, 4 * hidden), x.dtype)
    active, ends = active_steps(len(x), lengths), _ends(lengths)
    waiting = None if active is None else cupy.asarray(~active)
    for t in order(steps, not reverse):
        before = t + 1 if reverse else t - 1
        launch(
            "recurrent", "lstm_step_grad<T>", x.dtype, *over_elements(batch * hidden), dh, gy, gates, cells, c0, ends,
            t, before if before < steps else -1, batch, hidden, dc, dz,
        )  # fmt: skip
        later, dh = dh, cupy.matmul(dz[t], w_hh)
        if waiting is not None:
            dh += later * waiting[t]  # past its end, a sequence's state only waits
    h_prev = _previous(y, h0, active, reverse)
    return (
        _input_grad(dz, w_ih), dh.copy(), dc, _weight_grad(dz, x), _weight_grad(dz, h_prev),
        dz.sum(axis=(0, 1)), cupy.zeros((0, hidden), x.dtype),
    )  # fmt: skip


def _gru(x, h0, w_ih, w_hh, b_ih=None, b_hh=None, **params: Any) -> bool:
    """float32 or float64 arrays, not empty"""
    return _whole(x, h0, w_ih, w_hh, b_ih, b_hh) and h0.size > 0


@kernel("gru", backend="cupy", when=_gru, dtypes=_DTYPES, note="cuBLAS, and one kernel per step")
def gru(
    x: Any, h0: Any, w_ih: Any, w_hh: Any, b_ih: Any = None, b_hh: Any = None, *, reverse: bool = False,
    lengths: tuple | None = None,
) -> tuple[Any, ...]:  # fmt: skip
    steps, batch, hidden = x.shape[0], *h0.shape
    gates = contiguous(_project(x, w_ih, b_ih))
    y, hn = cupy.empty((steps, batch, hidden), x.dtype), cupy.empty((steps, batch, hidden), x.dtype)
    recurrent, weight = cupy.empty((batch, 3 * hidden), x.dtype), w_hh.T
    h, b_hh = contiguous(h0, b_hh)
    ends, before = _ends(lengths), -1
    for t in order(steps, reverse):
        cupy.matmul(h, weight, out=recurrent)
        state = None if ends is None else cupy.empty((batch, hidden), x.dtype)
        launch(
            "recurrent", "gru_step<T>", x.dtype, *over_elements(batch * hidden), gates, recurrent, b_hh,
            h if before < 0 or state is not None else None, ends, t, before, batch, hidden, hn, y, state,
        )  # fmt: skip
        h, before = y[t] if state is None else state, t
    return y, h.copy(), gates, hn


def _gru_backward(gy, gh, x, h0, w_ih, w_hh, y, gates, hn, **params: Any) -> bool:
    """float32 or float64 arrays, not empty"""
    return _whole(x, gy, gh, h0, w_ih, w_hh, y, gates, hn) and h0.size > 0


@kernel("gru_backward", backend="cupy", when=_gru_backward, dtypes=_DTYPES, note="cuBLAS, and one kernel per step")
def gru_backward(
    gy: Any, gh: Any, x: Any, h0: Any, w_ih: Any, w_hh: Any, y: Any, gates: Any, hn: Any, *, reverse: bool,
    lengths: tuple | None,
) -> tuple[Any, ...]:  # fmt: skip
    steps, batch, hidden = x.shape[0], *h0.shape
    gy, dh, gates, hn = contiguous(gy, gh, gates, hn)
    h_prev = contiguous(_previous(y, h0, active_steps(len(x), lengths), reverse))
    dz_x, dz_h = (cupy.empty((steps, batch, 3 * hidden), x.dtype) for _ in range(2))
    ends = _ends(lengths)
    for t in order(steps, not reverse):
        direct = cupy.empty((batch, hidden), x.dtype)
        launch(
            "recurrent", "gru_step_grad<T>", x.dtype, *over_elements(batch * hidden), dh, gy, gates, hn, h_prev,
            ends, t, batch, hidden, dz_x, dz_h, direct,
        )  # fmt: skip
        dh = cupy.matmul(dz_h[t], w_hh)
        dh += direct
    return (
        _input_grad(dz_x, w_ih), dh.copy(), _weight_grad(dz_x, x), _weight_grad(dz_h, h_prev),
        dz_x.sum(axis=(0, 1)), dz_h.sum(axis=(0, 1)),
    )  # fmt: skip
