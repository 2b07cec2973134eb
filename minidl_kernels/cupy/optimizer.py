"""Optimizer updates in place: a parameter, its gradient and its state are read once and written once."""

from __future__ import annotations

import math
from typing import Any

from minidl.backend import kernel
from minidl_kernels.cupy.launch import FLOATS, contiguous, floats, kept, launch, over_elements, wide


def _in_place(p: Any, *states: Any) -> bool:
    return floats(p) and kept(p, *states) and all(a is None or a.flags.c_contiguous for a in (p, *states))


def _number(x: Any) -> bool:
    return isinstance(x, (int, float))


def _adam(p: Any, g: Any, m: Any, v: Any, lr: Any, step: Any, max_v: Any = None, **params: Any) -> bool:
    """floating-point arrays of one dtype (states also in float32), C-contiguous; lr and step Python numbers"""
    return _in_place(p, m, v, max_v) and floats(p, g) and _number(lr) and _number(step)


@kernel("adam_update", backend="cupy", when=_adam, dtypes=FLOATS, note="in place, one pass")
def adam_update(
    p: Any, g: Any, m: Any, v: Any, lr: float, step: int, max_v: Any = None, *, beta1: float = 0.9,
    beta2: float = 0.999, eps: float = 1e-8, weight_decay: float = 0.0, decoupled: bool = False, maximize: bool = False,
) -> tuple[Any, ...]:  # fmt: skip
    m, v, max_v = wide(m, v, max_v)
    launch(
        "optimizer", "adam<T>", p.dtype, *over_elements(p.size), p, contiguous(g), m, v, max_v, p.size,
        float(beta1), 1.0 - beta1, float(beta2), 1.0 - beta2, float(eps), lr / (1.0 - beta1**step),
        math.sqrt(1.0 - beta2**step), 1.0 - lr * weight_decay if decoupled else 1.0,
        0.0 if decoupled else float(weight_decay), bool(maximize),
    )  # fmt: skip
    return (p, m, v) if max_v is None else (p, m, v, max_v)


def _sgd(p: Any, g: Any, lr: Any, step: Any, buf: Any = None, **params: Any) -> bool:
    """floating-point arrays of one dtype (states also in float32), C-contiguous; lr and step Python numbers"""
    return _in_place(p, buf) and floats(p, g) and _number(lr) and _number(step)


@kernel("sgd_update", backend="cupy", when=_sgd, dtypes=FLOATS, note="in place, one pass")
def sgd_update(
    p: Any, g: Any, lr: float, step: int, buf: Any = None, *, momentum: float = 0.0, dampening: float = 0.0,
    nesterov: bool = False, weight_decay: float = 0.0, maximize: bool = False,
) -> tuple[Any, ...]:  # fmt: skip
    buf = wide(buf)
    launch(
        "optimizer", "sgd<T>", p.dtype, *over_elements(p.size), p, contiguous(g), buf, p.size, float(lr),
        float(momentum), 1.0 - dampening if step > 1 else 1.0, bool(nesterov), float(weight_decay), bool(maximize),
    )  # fmt: skip
    return (p,) if buf is None else (p, buf)
