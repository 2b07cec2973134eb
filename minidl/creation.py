"""New tensors: filled, evenly spaced, random.

All take ``dtype`` (default: the default dtype, unless stated otherwise), ``device`` (name of a backend; default:
the active one) and ``requires_grad``. Shapes may be given as ``zeros(2, 3)`` or ``zeros((2, 3))``. The random ones
also take a ``generator`` (:class:`minidl.random.Generator`; default: the one that ``manual_seed`` seeds).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from minidl.core.dtypes import default_dtype
from minidl.core.tensor import Tensor, as_tensor
from minidl.core.trace import made
from minidl.ops.random import random_integers, random_normal, random_permutation, random_uniform
from minidl.random import Generator, default_generator, normal_words, uniform_words


def _shape(op: str, shape: tuple) -> tuple[int, ...]:
    if len(shape) == 1 and isinstance(shape[0], (tuple, list)):
        shape = tuple(shape[0])
    for n in shape:
        if not isinstance(n, (int, np.integer)) or isinstance(n, bool):
            raise TypeError(f"{op}: lengths of a shape must be ints, got {shape!r}")
        if n < 0:
            raise ValueError(f"{op}: lengths of a shape must not be negative, got {shape}")
    return tuple(int(n) for n in shape)


def _new(array: Any, device: str | None, requires_grad: bool) -> Tensor:
    return as_tensor(made(np.asarray(array)), requires_grad=requires_grad, device=device)


def _drawn(array: Any, device: str | None, requires_grad: bool) -> Tensor:
    t = Tensor._from_node(array, None)
    t = t if device is None else t.to(device)
    return t.requires_grad_() if requires_grad else t


def _dtype(dtype: Any) -> np.dtype:
    return default_dtype() if dtype is None else np.dtype(dtype)


def zeros(*shape: Any, dtype: Any = None, device: str | None = None, requires_grad: bool = False) -> Tensor:
    """A tensor of zeros."""
    return _new(np.zeros(_shape("zeros", shape), _dtype(dtype)), device, requires_grad)


def ones(*shape: Any, dtype: Any = None, device: str | None = None, requires_grad: bool = False) -> Tensor:
    """A tensor of ones."""
    return _new(np.ones(_shape("ones", shape), _dtype(dtype)), device, requires_grad)


def empty(*shape: Any, dtype: Any = None, device: str | None = None, requires_grad: bool = False) -> Tensor:
    """A tensor whose values are whatever the memory held."""
    return _new(np.empty(_shape("empty", shape), _dtype(dtype)), device, requires_grad)


def full(
    shape: int | Sequence[int],
    fill_value: Any,
    *,
    dtype: Any = None,
    device: str | None = None,
    requires_grad: bool = False,
) -> Tensor:
    """A tensor of ``shape`` filled with ``fill_value``. The dtype follows the value: a bool gives bool, an int int64, a
    float the default dtype."""
    if dtype is None:
        dtype = as_tensor(fill_value).dtype
    return _new(np.full(_shape("full", (shape,)), fill_value, dtype), device, requires_grad)


def _like(array: np.ndarray, x: Any, device: str | None, requires_grad: bool) -> Tensor:
    if device is None and isinstance(x, Tensor):
        from minidl.core.registry import backend_of

        array = made(backend_of(x.array).asarray(array))
        t = Tensor._from_node(array, None, 0)
        return t.requires_grad_() if requires_grad else t
    return _new(array, device, requires_grad)


def zeros_like(x: Any, *, dtype: Any = None, device: str | None = None, requires_grad: bool = False) -> Tensor:
    """Zeros with the shape, dtype and device of ``x``."""
    return _like(np.zeros(np.shape(x), dtype or as_tensor(x).dtype), x, device, requires_grad)


def ones_like(x: Any, *, dtype: Any = None, device: str | None = None, requires_grad: bool = False) -> Tensor:
    """Ones with the shape, dtype and device of ``x``."""
    return _like(np.ones(np.shape(x), dtype or as_tensor(x).dtype), x, device, requires_grad)


def full_like(
    x: Any, fill_value: Any, *, dtype: Any = None, device: str | None = None, requires_grad: bool = False
) -> Tensor:
    """``fill_value`` with the shape, dtype and device of ``x``."""
    return _like(np.full(np.shape(x), fill_value, dtype or as_tensor(x).dtype), x, device, requires_grad)


def arange(
    start: float = 0,
    stop: float | None = None,
    step: float = 1,
    *,
    end: float | None = None,
    dtype: Any = None,
    device: str | None = None,
    requires_grad: bool = False,
) -> Tensor:
    """``start, start + step, ...`` up to, not including, ``stop``; ``arange(n)`` starts at 0. int64 if all are ints.
    ``end`` is PyTorch's name for ``stop``.

    >>> from minidl import arange
    >>> arange(3), arange(1, 2, 0.5)
    (tensor([0, 1, 2]), tensor([1. , 1.5]))
    """
    if step == 0:
        raise ValueError("arange: step must not be zero")
    if end is not None:
        stop = end
    if stop is None:
        start, stop = 0, start
    if dtype is not None and np.dtype(dtype).kind in "iu":
        start, stop, step = int(start), int(stop), int(step)
    if dtype is None:
        whole = all(isinstance(v, (int, np.integer)) for v in (start, stop, step))
        dtype = np.int64 if whole else default_dtype()
    return _new(np.arange(start, stop, step).astype(dtype), device, requires_grad)


def linspace(
    start: float, stop: float, num: int, *, dtype: Any = None, device: str | None = None, requires_grad: bool = False
) -> Tensor:
    """``num`` evenly spaced numbers from ``start`` to ``stop``, both included."""
    return _new(np.linspace(start, stop, num).astype(_dtype(dtype)), device, requires_grad)


def eye(
    n: int, m: int | None = None, *, dtype: Any = None, device: str | None = None, requires_grad: bool = False
) -> Tensor:
    """The n × m matrix (default: square) with ones on the diagonal."""
    return _new(np.eye(n, m, dtype=_dtype(dtype)), device, requires_grad)


def rand(
    *shape: Any,
    generator: Generator | None = None,
    dtype: Any = None,
    device: str | None = None,
    requires_grad: bool = False,
) -> Tensor:
    """Uniform on [0, 1)."""
    shape, dtype = _shape("rand", shape), _dtype(dtype)
    key, offset = (generator or default_generator()).reserve(uniform_words(math.prod(shape), dtype))
    return _drawn(random_uniform(key=key, offset=offset, shape=shape, dtype=dtype.name), device, requires_grad)


def randn(
    *shape: Any,
    generator: Generator | None = None,
    dtype: Any = None,
    device: str | None = None,
    requires_grad: bool = False,
) -> Tensor:
    """Normal with mean 0 and standard deviation 1."""
    shape, dtype = _shape("randn", shape), _dtype(dtype)
    key, offset = (generator or default_generator()).reserve(normal_words(math.prod(shape)))
    return _drawn(random_normal(key=key, offset=offset, shape=shape, dtype=dtype.name), device, requires_grad)


def randint(
    low: int,
    high: Any = None,
    size: Any = None,
    *,
    generator: Generator | None = None,
    dtype: Any = np.int64,
    device: str | None = None,
) -> Tensor:
    """Integers uniform on [low, high), of shape ``size``; ``randint(high, size)`` starts at 0."""
    if size is None:
        low, high, size = (low, None, high) if isinstance(high, (tuple, list)) else (low, high, ())
    if high is None:
        low, high = 0, low
    if high <= low:
        raise ValueError(f"randint: empty range [{low}, {high})")
    shape = _shape("randint", (size,))
    key, offset = (generator or default_generator()).reserve(2 * math.prod(shape))
    drawn = random_integers(key=key, offset=offset, shape=shape, low=int(low), high=int(high))
    return _drawn(drawn, device, False).astype(dtype)


def randperm(n: int, *, generator: Generator | None = None, dtype: Any = np.int64, device: str | None = None) -> Tensor:
    """A random order of 0, ..., n - 1."""
    key, offset = (generator or default_generator()).reserve(2 * n)
    return _drawn(random_permutation(key=key, offset=offset, n=n), device, False).astype(dtype)
