"""Initializers: each fills a tensor in place, unrecorded, and returns it.

The random ones draw from ``generator``, by default :func:`minidl.random.default_generator`.
"""

from __future__ import annotations

import contextlib
import contextvars
import functools
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from minidl.core.tensor import Tensor
from minidl.random import Generator, default_generator


def calculate_gain(nonlinearity: str, param: float | None = None) -> float:
    """The factor by which to scale weights so that signals keep their variance through a nonlinearity.

    Known are linear (and identity, conv1d, …), sigmoid, tanh, relu, leaky_relu (``param`` is the slope, default 0.01)
    and selu; raises ValueError for other names. The values are PyTorch's.
    """
    if nonlinearity in ("linear", "identity", "sigmoid") or nonlinearity.startswith("conv"):
        return 1.0
    if nonlinearity == "tanh":
        return 5 / 3
    if nonlinearity == "relu":
        return math.sqrt(2)
    if nonlinearity == "leaky_relu":
        return math.sqrt(2 / (1 + (0.01 if param is None else param) ** 2))
    if nonlinearity == "selu":
        return 3 / 4
    raise ValueError(f"calculate_gain: unknown nonlinearity {nonlinearity!r}")


def _fans(tensor: Tensor, op: str) -> tuple[int, int]:
    """(fan_in, fan_out) of a weight laid out (out, in, *kernel)."""
    if tensor.ndim < 2:
        raise ValueError(f"{op}: expected a tensor with at least 2 axes, got shape {tensor.shape}")
    receptive = math.prod(tensor.shape[2:])
    return tensor.shape[1] * receptive, tensor.shape[0] * receptive


_skipping: contextvars.ContextVar[bool] = contextvars.ContextVar("skipping", default=False)


@contextlib.contextmanager
def skipped() -> Iterator[None]:
    """Inside, initializers do nothing: for a model whose values come from a file. Memory that nobody writes to is not
    used, and the random numbers stay where they are (PyTorch: ``torch.nn.utils.skip_init``)."""
    token = _skipping.set(True)
    try:
        yield
    finally:
        _skipping.reset(token)


def _skippable(initializer: Callable[..., Tensor]) -> Callable[..., Tensor]:
    @functools.wraps(initializer)
    def run(tensor: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return tensor if _skipping.get() else initializer(tensor, *args, **kwargs)

    return run


@_skippable
def uniform_(tensor: Tensor, a: float = 0.0, b: float = 1.0, generator: Generator | None = None) -> Tensor:
    """Uniform on [a, b)."""
    generator = generator or default_generator()
    return tensor.assign_(generator.uniform(tensor.shape, a, b, dtype=tensor.dtype))


@_skippable
def normal_(tensor: Tensor, mean: float = 0.0, std: float = 1.0, generator: Generator | None = None) -> Tensor:
    """Normal with the given mean and standard deviation."""
    generator = generator or default_generator()
    return tensor.assign_(generator.normal(tensor.shape, mean, std, dtype=tensor.dtype))


@_skippable
def trunc_normal_(
    tensor: Tensor,
    mean: float = 0.0,
    std: float = 1.0,
    a: float = -2.0,
    b: float = 2.0,
    generator: Generator | None = None,
) -> Tensor:
    """Normal, truncated to [a, b] (absolute bounds, not multiples of ``std``), by inverting its distribution."""
    if not a < b:
        raise ValueError(f"trunc_normal_: expected a < b, got a={a}, b={b}")
    from scipy import special  # takes longer to import than all of minidl

    generator = generator or default_generator()
    low, high = special.ndtr((a - mean) / std), special.ndtr((b - mean) / std)
    u = generator.uniform(tensor.shape, low, high, dtype=np.float64)
    return tensor.assign_(np.clip(mean + std * special.ndtri(u), a, b))


@_skippable
def constant_(tensor: Tensor, value: float) -> Tensor:
    """Every element ``value``."""
    return tensor.assign_(value)


@_skippable
def zeros_(tensor: Tensor) -> Tensor:
    """Every element 0."""
    return tensor.assign_(0)


@_skippable
def ones_(tensor: Tensor) -> Tensor:
    """Every element 1."""
    return tensor.assign_(1)


@_skippable
def eye_(tensor: Tensor) -> Tensor:
    """The identity matrix (ones on the diagonal of a 2-d tensor)."""
    if tensor.ndim != 2:
        raise ValueError(f"eye_: expected a tensor with 2 axes, got shape {tensor.shape}")
    rows, columns = tensor.shape
    return tensor.assign_(np.eye(rows, columns))


@_skippable
def dirac_(tensor: Tensor, groups: int = 1) -> Tensor:
    """A convolution weight (out, in, *kernel), with 3 to 5 axes, that passes each input channel on unchanged."""
    if not 3 <= tensor.ndim <= 5:
        raise ValueError(f"dirac_: expected a tensor with 3 to 5 axes, got shape {tensor.shape}")
    out, channels, *kernel = tensor.shape
    if out % groups:
        raise ValueError(f"dirac_: {out} output channels cannot be divided into {groups} groups")
    values = np.zeros(tensor.shape)
    middle = tuple(k // 2 for k in kernel)
    for group in range(groups):
        for c in range(min(out // groups, channels)):
            values[(group * (out // groups) + c, c, *middle)] = 1
    return tensor.assign_(values)


def xavier_uniform_(tensor: Tensor, gain: float = 1.0, generator: Generator | None = None) -> Tensor:
    """Uniform on ±gain sqrt(6 / (fan_in + fan_out)): Glorot and Bengio, AISTATS 2010, eq. 16."""
    bound = gain * math.sqrt(6 / sum(_fans(tensor, "xavier_uniform_")))
    return uniform_(tensor, -bound, bound, generator)


def xavier_normal_(tensor: Tensor, gain: float = 1.0, generator: Generator | None = None) -> Tensor:
    """Normal with variance gain² 2 / (fan_in + fan_out): Glorot and Bengio, AISTATS 2010."""
    return normal_(tensor, 0.0, gain * math.sqrt(2 / sum(_fans(tensor, "xavier_normal_"))), generator)


def _he_std(tensor: Tensor, a: float, mode: str, nonlinearity: str, op: str) -> float:
    fan_in, fan_out = _fans(tensor, op)
    if mode not in ("fan_in", "fan_out"):
        raise ValueError(f"{op}: mode must be 'fan_in' or 'fan_out', got {mode!r}")
    return calculate_gain(nonlinearity, a) / math.sqrt(max(fan_in if mode == "fan_in" else fan_out, 1))


def kaiming_uniform_(
    tensor: Tensor,
    a: float = 0.0,
    mode: str = "fan_in",
    nonlinearity: str = "leaky_relu",
    generator: Generator | None = None,
) -> Tensor:
    """Uniform with variance gain² / fan: He et al., ICCV 2015, section 2.2. ``a`` is the slope of a leaky ReLU."""
    bound = math.sqrt(3) * _he_std(tensor, a, mode, nonlinearity, "kaiming_uniform_")
    return uniform_(tensor, -bound, bound, generator)


def kaiming_normal_(
    tensor: Tensor,
    a: float = 0.0,
    mode: str = "fan_in",
    nonlinearity: str = "leaky_relu",
    generator: Generator | None = None,
) -> Tensor:
    """Normal with variance gain² / fan: He et al., ICCV 2015, eq. 10. ``a`` is the slope of a leaky ReLU."""
    return normal_(tensor, 0.0, _he_std(tensor, a, mode, nonlinearity, "kaiming_normal_"), generator)


he_uniform_ = kaiming_uniform_
he_normal_ = kaiming_normal_
glorot_uniform_ = xavier_uniform_
glorot_normal_ = xavier_normal_


@_skippable
def orthogonal_(tensor: Tensor, gain: float = 1.0, generator: Generator | None = None) -> Tensor:
    """A (semi-)orthogonal matrix times ``gain``, uniform over all of them: the rows, or if there are more rows than
    columns the columns, are orthonormal. Axes after the first count as columns. Saxe et al., ICLR 2014."""
    _fans(tensor, "orthogonal_")
    generator = generator or default_generator()
    rows, columns = tensor.shape[0], math.prod(tensor.shape[1:])
    z = generator.normal((max(rows, columns), min(rows, columns)), dtype=np.float64)
    q, r = np.linalg.qr(z)
    # QR leaves the signs open; a positive diagonal of R makes Q uniform (Mezzadri, Notices of the AMS, 2007)
    q *= np.where(np.diag(r) < 0, -1.0, 1.0)
    return tensor.assign_(gain * (q.T if rows < columns else q).reshape(tensor.shape))


@_skippable
def sparse_(tensor: Tensor, sparsity: float, std: float = 0.01, generator: Generator | None = None) -> Tensor:
    """Normal, with a fraction ``sparsity`` of each column of a 2-d tensor set to 0: Martens, ICML 2010."""
    if tensor.ndim != 2:
        raise ValueError(f"sparse_: expected a tensor with 2 axes, got shape {tensor.shape}")
    generator = generator or default_generator()
    values: Any = generator.normal(tensor.shape, 0.0, std, dtype=tensor.dtype)
    rows, columns = tensor.shape
    for c in range(columns):
        values[generator.permutation(rows)[: math.ceil(sparsity * rows)], c] = 0
    return tensor.assign_(values)
