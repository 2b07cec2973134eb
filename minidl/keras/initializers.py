"""Keras' initializers by name: each makes an array of a shape."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from minidl.creation import zeros
from minidl.nn import init


def _fans(shape: Sequence[int]) -> tuple[float, float]:
    """(inputs, outputs) of a kernel (..., in, out)."""
    if len(shape) < 2:
        return (shape[0], shape[0]) if shape else (1, 1)
    field = float(np.prod(shape[:-2]))
    return shape[-2] * field, shape[-1] * field


def _scaled(scale: float, mode: str, normal: bool) -> Callable[[Sequence[int]], np.ndarray]:
    """Glorot's, He's and LeCun's: variance ``scale`` / n, n the inputs, the outputs or their mean."""

    def make(shape: Sequence[int]) -> np.ndarray:
        fan_in, fan_out = _fans(shape)
        n = {"fan_in": fan_in, "fan_out": fan_out, "fan_avg": (fan_in + fan_out) / 2}[mode]
        if normal:  # cut off at two deviations, which makes the deviation smaller by the factor
            std = float(np.sqrt(scale / max(1.0, n))) / 0.87962566103423978
            return init.trunc_normal_(zeros(*shape), 0.0, std, -2 * std, 2 * std).numpy()
        limit = float(np.sqrt(3 * scale / max(1.0, n)))
        return init.uniform_(zeros(*shape), -limit, limit).numpy()

    return make


def _normal(mean: float = 0.0, stddev: float = 0.05, seed: Any = None) -> Callable[[Sequence[int]], np.ndarray]:
    return lambda shape: init.normal_(zeros(*shape), mean, stddev).numpy()


def _uniform(minval: float = -0.05, maxval: float = 0.05, seed: Any = None) -> Callable[[Sequence[int]], np.ndarray]:
    return lambda shape: init.uniform_(zeros(*shape), minval, maxval).numpy()


def _orthogonal(gain: float = 1.0, seed: Any = None) -> Callable[[Sequence[int]], np.ndarray]:
    return lambda shape: init.orthogonal_(zeros(*shape), gain).numpy()


def _constant(value: float = 0.0) -> Callable[[Sequence[int]], np.ndarray]:
    return lambda shape: np.full(shape, value, np.float32)


def _variance_scaling(
    scale: float = 1.0, mode: str = "fan_in", distribution: str = "truncated_normal", seed: Any = None
) -> Callable[[Sequence[int]], np.ndarray]:
    return _scaled(scale, mode, distribution != "uniform")


#: name -> function of the initializer's options
INITIALIZERS: dict[str, Callable[..., Callable[[Sequence[int]], np.ndarray]]] = {
    "zeros": lambda: _constant(0.0),
    "ones": lambda: _constant(1.0),
    "constant": _constant,
    "random_normal": _normal,
    "random_uniform": _uniform,
    "truncated_normal": _normal,
    "orthogonal": _orthogonal,
    "identity": lambda gain=1.0: lambda shape: (gain * np.eye(shape[0], shape[1])).astype(np.float32),
    "variance_scaling": _variance_scaling,
    "glorot_uniform": lambda seed=None: _scaled(1.0, "fan_avg", False),
    "glorot_normal": lambda seed=None: _scaled(1.0, "fan_avg", True),
    "he_uniform": lambda seed=None: _scaled(2.0, "fan_in", False),
    "he_normal": lambda seed=None: _scaled(2.0, "fan_in", True),
    "lecun_uniform": lambda seed=None: _scaled(1.0, "fan_in", False),
    "lecun_normal": lambda seed=None: _scaled(1.0, "fan_in", True),
}


def get(given: Any) -> Callable[[Sequence[int]], np.ndarray]:
    """An initializer from its name, from the dict that Keras writes, or a function of a shape."""
    if callable(given):
        return lambda shape: np.asarray(given(shape))
    options = {}
    if isinstance(given, dict):
        options = dict(given.get("config") or {})
        given = given["class_name"]
    name = _key(given)
    if name not in _BY_KEY:
        raise ValueError(f"unknown initializer {given!r}; known are {', '.join(INITIALIZERS)}")
    options = {k: v for k, v in options.items() if k not in ("dtype", "input_axes", "output_axes")}
    return INITIALIZERS[_BY_KEY[name]](**options)


def _key(name: str) -> str:
    return name.replace("_", "").lower()


_BY_KEY = {_key(name): name for name in INITIALIZERS}
