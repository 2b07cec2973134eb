"""Activations as modules; the functions and their sources are in :mod:`minidl.ops.activation`."""

from __future__ import annotations

from typing import Any

import numpy as np

from minidl import ops
from minidl.core.dtypes import default_dtype
from minidl.nn.function import FunctionLayer
from minidl.nn.module import Module, Parameter


class _Plain(FunctionLayer):
    """An activation without settings."""

    def __init__(self) -> None:
        super().__init__()


class ReLU(_Plain):
    """max(x, 0)."""

    _function = ops.relu


class ReLU6(_Plain):
    """min(max(x, 0), 6)."""

    _function = ops.relu6


class SELU(_Plain):
    """The self-normalizing scaled ELU."""

    _function = ops.selu


class SiLU(_Plain):
    """x sigmoid(x)."""

    _function = ops.silu


class Mish(_Plain):
    """x tanh(softplus(x))."""

    _function = ops.mish


class Sigmoid(_Plain):
    """1 / (1 + exp(-x))."""

    _function = ops.sigmoid


class LogSigmoid(_Plain):
    """log(sigmoid(x))."""

    _function = ops.logsigmoid


class Tanh(_Plain):
    """Hyperbolic tangent."""

    _function = ops.tanh


class Softsign(_Plain):
    """x / (1 + |x|)."""

    _function = ops.softsign


class Hardswish(_Plain):
    """x hardsigmoid(x)."""

    _function = ops.hardswish


class Hardsigmoid(_Plain):
    """x / 6 + 1 / 2, limited to [0, 1]."""

    _function = ops.hardsigmoid


class LeakyReLU(FunctionLayer):
    """x where positive, ``negative_slope * x`` elsewhere."""

    _function = ops.leaky_relu

    def __init__(self, negative_slope: float = 0.01) -> None:
        super().__init__(negative_slope=negative_slope)


class ELU(FunctionLayer):
    """x where positive, alpha (exp(x) - 1) elsewhere."""

    _function = ops.elu

    def __init__(self, alpha: float = 1.0) -> None:
        super().__init__(alpha=alpha)


class GELU(FunctionLayer):
    """x times the normal distribution function; ``approximate`` is ``"none"`` or ``"tanh"``."""

    _function = ops.gelu

    def __init__(self, approximate: str = "none") -> None:
        super().__init__(approximate=approximate)


class Softplus(FunctionLayer):
    """log(1 + exp(beta x)) / beta, and x itself where beta x is above ``threshold``."""

    _function = ops.softplus

    def __init__(self, beta: float = 1.0, threshold: float = 20.0) -> None:
        super().__init__(beta=beta, threshold=threshold)


class Hardtanh(FunctionLayer):
    """x limited to [min_val, max_val]."""

    _function = ops.hardtanh

    def __init__(self, min_val: float = -1.0, max_val: float = 1.0) -> None:
        super().__init__(min_val=min_val, max_val=max_val)


class _AlongDim(FunctionLayer):
    """An activation along one axis, ``dim``."""

    def __init__(self, dim: int = -1) -> None:
        super().__init__(dim=dim)


class GLU(_AlongDim):
    """The first half along ``dim`` times the sigmoid of the second."""

    _function = ops.glu


class Softmax(_AlongDim):
    """exp(x) / sum(exp(x)) along ``dim``."""

    _function = ops.softmax


class LogSoftmax(_AlongDim):
    """log(softmax(x)) along ``dim``."""

    _function = ops.log_softmax


class Softmin(_AlongDim):
    """softmax(-x) along ``dim``."""

    _function = ops.softmin


class PReLU(Module):
    """x where positive, ``weight * x`` elsewhere, with one learned slope or one per channel (axis 1)."""

    def __init__(self, num_parameters: int = 1, init: float = 0.25, dtype: Any = None) -> None:
        super().__init__()
        self.num_parameters = num_parameters
        self.weight = Parameter(np.full(num_parameters, init, dtype or default_dtype()))

    def forward(self, x: Any) -> Any:
        return ops.prelu(x, self.weight)

    def extra_repr(self) -> str:
        return f"num_parameters={self.num_parameters}"
