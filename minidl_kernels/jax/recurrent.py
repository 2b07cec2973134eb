"""LSTM, GRU and plain recurrent layers as one loop of XLA's: the formulas, traced, would be as many steps as the
sequence is long, which takes minutes to compile."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp

from minidl.backend import kernel
from minidl.ops.recurrent import active_steps

_sigmoid = jax.nn.sigmoid
#: a loop is compiled once for its shapes
_compiled = functools.partial(jax.jit, static_argnames=("reverse", "lengths"))


def _linear(x: Any, weight: Any, bias: Any) -> Any:
    out = x @ weight.T
    return out if bias is None else out + bias


def _active(x: Any, lengths: tuple | None) -> Any:
    """bool (T, N, 1): is step t within sequence n?"""
    active = active_steps(len(x), lengths)
    return jnp.ones((*x.shape[:2], 1), bool) if active is None else jnp.asarray(active)


def _within(on: Any, a: Any) -> Any:
    """``a``, times 0 where not ``on``. (Of ``a * on`` XLA makes a selection: 0 where the formula has NaN.)"""
    return jnp.where(on, a, a * 0)


def _before(states: Any, initial: Any, active: Any, reverse: bool) -> Any:
    """The state that each step started from. A sequence's last step starts from the initial one."""
    if not reverse:
        return jnp.concatenate([initial[None], states[:-1]])
    later = jnp.concatenate([states[1:], initial[None]])
    return jnp.where(jnp.concatenate([active[1:], active[:1]]), later, initial)


def _weight_grad(dz: Any, inputs: Any) -> Any:
    return jnp.einsum("tng,tni->gi", dz, inputs)


def _has_steps(*args: Any, **params: Any) -> bool:
    """at least one step"""
    return len(next(a for a in args if a.ndim == 3)) > 0


def _no_projection(x: Any, h0: Any, c0: Any, w_ih: Any, w_hh: Any, b_ih: Any = None, b_hh: Any = None, w_hr: Any = None,
                   **params: Any) -> bool:  # fmt: skip
    """at least one step, no projection"""
    return w_hr is None and len(x) > 0


@kernel("lstm", backend="jax", when=_no_projection, note="one loop")
@_compiled
def lstm(x, h0, c0, w_ih, w_hh, b_ih=None, b_hh=None, w_hr=None, *, reverse=False, lengths=None):
    def step(carry, inputs):
        (h, c), (a, on) = carry, inputs
        i, f, g, o = jnp.split(a + _linear(h, w_hh, b_hh), 4, axis=1)
        i, f, g, o = _sigmoid(i), _sigmoid(f), jnp.tanh(g), _sigmoid(o)
        new_c = f * c + i * g
        new_h = o * jnp.tanh(new_c)
        c = jnp.where(on, new_c, c)
        made = _within(on, new_h), jnp.concatenate([i, f, g, o], axis=1), c
        return (jnp.where(on, new_h, h), c), made

    inputs = _linear(x, w_ih, b_ih), _active(x, lengths)
    (h, c), (y, gates, cells) = jax.lax.scan(step, (h0, c0), inputs, reverse=reverse)
    return y, h, c, gates, cells


def _backward_without(gy: Any, gh: Any, gc: Any, x: Any, h0: Any, c0: Any, w_ih: Any, w_hh: Any, w_hr: Any, y: Any,
                      gates: Any, cells: Any, **params: Any) -> bool:  # fmt: skip
    """at least one step, no projection"""
    return w_hr is None and len(x) > 0


@kernel("lstm_backward", backend="jax", when=_backward_without, note="one loop")
@_compiled
def lstm_backward(gy, gh, gc, x, h0, c0, w_ih, w_hh, w_hr, y, gates, cells, *, reverse, lengths):
    active, tanh_c = _active(x, lengths), jnp.tanh(cells)
    c_prev = jnp.concatenate([cells[1:], c0[None]] if reverse else [c0[None], cells[:-1]])

    def step(carry, inputs):
        dh, dc = carry
        gy_t, on, gate, t, c_before = inputs
        i, f, g, o = jnp.split(gate, 4, axis=1)
        dnew = dh + gy_t
        dcell = dc + _within(on, dnew * o * (1 - t * t))
        di, df = dcell * g * i * (1 - i), dcell * c_before * f * (1 - f)
        dg, do = dcell * i * (1 - g * g), dnew * t * o * (1 - o)
        dz = _within(on, jnp.concatenate([di, df, dg, do], axis=1))
        return (dz @ w_hh + _within(~on, dh), dcell * jnp.where(on, f, 1)), dz

    (dh, dc), dz = jax.lax.scan(step, (gh, gc), (gy, active, gates, tanh_c, c_prev), reverse=not reverse)
    h_prev = _before(y, h0, active, reverse)
    return dz @ w_ih, dh, dc, _weight_grad(dz, x), _weight_grad(dz, h_prev), dz.sum((0, 1)), jnp.zeros_like(c0[:0])


@kernel("gru", backend="jax", when=_has_steps, note="one loop")
@_compiled
def gru(x, h0, w_ih, w_hh, b_ih=None, b_hh=None, *, reverse=False, lengths=None):
    def step(h, inputs):
        a, on = inputs
        xr, xz, xn = jnp.split(a, 3, axis=1)
        hr, hz, hn = jnp.split(_linear(h, w_hh, b_hh), 3, axis=1)
        r, z = _sigmoid(xr + hr), _sigmoid(xz + hz)
        n = jnp.tanh(xn + r * hn)
        new = n + z * (h - n)
        return jnp.where(on, new, h), (_within(on, new), jnp.concatenate([r, z, n], axis=1), hn)

    h, (y, gates, hn) = jax.lax.scan(step, h0, (_linear(x, w_ih, b_ih), _active(x, lengths)), reverse=reverse)
    return y, h, gates, hn


@kernel("gru_backward", backend="jax", when=_has_steps, note="one loop")
@_compiled
def gru_backward(gy, gh, x, h0, w_ih, w_hh, y, gates, hn, *, reverse, lengths):
    active = _active(x, lengths)
    h_prev = _before(y, h0, active, reverse)

    def step(dh, inputs):
        gy_t, on, gate, hn_t, h = inputs
        r, z, n = jnp.split(gate, 3, axis=1)
        dnew = dh + _within(on, gy_t)
        dn = dnew * (1 - z) * (1 - n * n)
        dz, dr = dnew * (h - n) * z * (1 - z), dn * hn_t * r * (1 - r)
        dz_x = _within(on, jnp.concatenate([dr, dz, dn], axis=1))
        dz_h = _within(on, jnp.concatenate([dr, dz, dn * r], axis=1))
        return dz_h @ w_hh + dnew * jnp.where(on, z, 1), (dz_x, dz_h)

    dh, (dz_x, dz_h) = jax.lax.scan(step, gh, (gy, active, gates, hn, h_prev), reverse=not reverse)
    return (
        dz_x @ w_ih, dh, _weight_grad(dz_x, x), _weight_grad(dz_h, h_prev), dz_x.sum((0, 1)), dz_h.sum((0, 1)),
    )  # fmt: skip


@kernel("rnn", backend="jax", when=_has_steps, note="one loop")
@functools.partial(jax.jit, static_argnames=("reverse", "lengths", "nonlinearity"))
def rnn(x, h0, w_ih, w_hh, b_ih=None, b_hh=None, *, nonlinearity="tanh", reverse=False, lengths=None):
    act = jnp.tanh if nonlinearity == "tanh" else lambda a: jnp.maximum(a, 0)

    def step(h, inputs):
        a, on = inputs
        new = act(a + _linear(h, w_hh, b_hh))
        return jnp.where(on, new, h), _within(on, new)

    h, y = jax.lax.scan(step, h0, (_linear(x, w_ih, b_ih), _active(x, lengths)), reverse=reverse)
    return y, h


@kernel("rnn_backward", backend="jax", when=_has_steps, note="one loop")
@functools.partial(jax.jit, static_argnames=("reverse", "lengths", "nonlinearity"))
def rnn_backward(gy, gh, x, h0, w_ih, w_hh, y, *, nonlinearity, reverse, lengths):
    active = _active(x, lengths)
    slope = 1 - y * y if nonlinearity == "tanh" else (y > 0).astype(y.dtype)

    def step(dh, inputs):
        gy_t, on, s = inputs
        dz = _within(on, (dh + gy_t) * s)
        return dz @ w_hh + _within(~on, dh), dz

    dh, dz = jax.lax.scan(step, gh, (gy, active, slope), reverse=not reverse)
    h_prev = _before(y, h0, active, reverse)
    return dz @ w_ih, dh, _weight_grad(dz, x), _weight_grad(dz, h_prev), dz.sum((0, 1))
