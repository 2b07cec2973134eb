"""Keras' activations by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from minidl import ops

#: name -> function
ACTIVATIONS: dict[str, Callable[[Any], Any]] = {
    "linear": lambda x: x,
    "relu": ops.relu,
    "relu6": ops.relu6,
    "leaky_relu": lambda x: ops.leaky_relu(x, negative_slope=0.2),
    "elu": ops.elu,
    "selu": ops.selu,
    "gelu": lambda x: ops.gelu(x),
    "silu": ops.silu,
    "swish": ops.silu,
    "sigmoid": ops.sigmoid,
    "hard_sigmoid": ops.hardsigmoid,
    "hard_silu": ops.hardswish,
    "hard_swish": ops.hardswish,
    "mish": ops.mish,
    "tanh": ops.tanh,
    "softmax": lambda x: ops.softmax(x, axis=-1),
    "log_softmax": lambda x: ops.log_softmax(x, axis=-1),
    "softplus": ops.softplus,
    "softsign": ops.softsign,
    "log_sigmoid": ops.logsigmoid,
    "exponential": ops.exp,
}


def get(given: Any) -> Callable[[Any], Any]:
    """An activation from its name, from what Keras writes, or a function. Raises ValueError for an unknown name."""
    if given is None:
        return ACTIVATIONS["linear"]
    if callable(given):
        return given
    if isinstance(given, dict):  # how Keras 3 writes a function
        given = given.get("config") if isinstance(given.get("config"), str) else given.get("class_name")
    if given not in ACTIVATIONS:
        raise ValueError(f"unknown activation {given!r}; known are {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[given]
