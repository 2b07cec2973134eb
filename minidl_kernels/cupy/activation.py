"""Activation functions: one kernel each, forward and gradient."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import cupy

from minidl.backend import kernel
from minidl_kernels.cupy.launch import FLOATS, contiguous, floats, launch, over_elements


def _any(*arrays: Any, **params: Any) -> bool:
    """floating-point arrays of one dtype and shape, not empty"""
    return floats(*arrays) and all(a.shape == arrays[0].shape for a in arrays)


def _unary(name: str, function: str, constants: Callable[..., tuple] = lambda: (), when: Any = _any) -> None:
    """Register ``unary<function>`` for the primitive; ``constants(**params)`` are the formula's a and b."""

    @kernel(name, backend="cupy", when=when, dtypes=FLOATS, note="one pass")
    def run(x: Any, **params: Any) -> Any:
        x = contiguous(x)
        y = cupy.empty(x.shape, x.dtype)
        a, b = (*constants(**params), 0.0, 0.0)[:2]
        launch("activation", f"unary<{function}, T>", x.dtype, *over_elements(x.size), x, y, x.size, a, b)
        return y

    run.__name__ = run.__qualname__ = name


def _gradient(name: str, function: str, constants: Callable[..., tuple] = lambda: (), when: Any = _any) -> None:
    """Register ``gradient<function>`` likewise, from the gradient and the input (or output) that the primitive kept."""

    @kernel(name, backend="cupy", when=when, dtypes=FLOATS, note="one pass")
    def run(g: Any, x: Any, **params: Any) -> Any:
        g, x = contiguous(g, x)
        dx = cupy.empty(x.shape, x.dtype)
        a, b = (*constants(**params), 0.0, 0.0)[:2]
        launch("activation", f"gradient<{function}, T>", x.dtype, *over_elements(x.size), g, x, dx, x.size, a, b)
        return dx

    run.__name__ = run.__qualname__ = name


def _slope(*, negative_slope: float = 0.01) -> tuple:
    return (float(negative_slope),)


def _alpha(*, alpha: float = 1.0) -> tuple:
    return (float(alpha),)


def _beta(*, beta: float = 1.0, threshold: float = 20.0) -> tuple:
    return float(beta), float(threshold)


def _bounds(*, min_val: float = -1.0, max_val: float = 1.0) -> tuple:
    return float(min_val), float(max_val)


for _name, _function, _constants in (
    ("sigmoid", "Sigmoid", lambda: ()), ("leaky_relu", "LeakyRelu", _slope), ("elu", "Elu", _alpha),
    ("softplus", "Softplus", _beta), ("silu", "Silu", lambda: ()), ("mish", "Mish", lambda: ()),
    ("softsign", "Softsign", lambda: ()), ("hardswish", "Hardswish", lambda: ()),
):  # fmt: skip
    _unary(_name, _function, _constants)
    _gradient(f"{_name}_grad", f"{_function}Grad", _constants)
for _name, _function, _constants in (
    ("tanh", "Tanh", lambda: ()), ("relu", "Relu", lambda: ()), ("hardtanh", "Hardtanh", _bounds)
):  # fmt: skip
    _gradient(f"{_name}_grad", f"{_function}Grad", _constants)


def _exactly(x: Any, *others: Any, approximate: str = "none") -> bool:
    """floating-point arrays of one dtype and shape, not empty; approximate="none" """
    return _any(x, *others) and approximate == "none"


def _by_tanh(x: Any, *others: Any, approximate: str = "none") -> bool:
    """floating-point arrays of one dtype and shape, not empty; approximate="tanh" """
    return _any(x, *others) and approximate == "tanh"


for _function, _when in (("Gelu", _exactly), ("GeluTanh", _by_tanh)):
    _unary("gelu", _function, lambda approximate="none": (), _when)
    _gradient("gelu_grad", f"{_function}Grad", lambda approximate="none": (), _when)
