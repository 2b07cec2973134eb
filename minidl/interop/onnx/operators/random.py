"""Random numbers: minidl's generator, or NumPy's where the file has a ``seed``."""

from __future__ import annotations

from typing import Any

import numpy as np

from minidl.core.dtypes import default_dtype
from minidl.creation import rand, randn
from minidl.interop.onnx.registry import operator
from minidl.interop.onnx.values import dtype_of, host


def _drawn(kind: str, shape: Any, dtype: Any, seed: float | None) -> np.ndarray:
    shape = tuple(int(n) for n in shape)
    if seed is not None:
        generator = np.random.default_rng(int(seed))
        numbers = generator.random(shape) if kind == "uniform" else generator.standard_normal(shape)
    else:
        numbers = host(rand(*shape) if kind == "uniform" else randn(*shape))
    return numbers.astype(dtype)


@operator("RandomUniform", random=True)
def random_uniform(*, dtype=1, high=1.0, low=0.0, seed=None, shape):
    return (low + (high - low) * _drawn("uniform", shape, np.float64, seed)).astype(dtype_of(dtype))


@operator("RandomNormal", random=True)
def random_normal(*, dtype=1, mean=0.0, scale=1.0, seed=None, shape):
    return (mean + scale * _drawn("normal", shape, np.float64, seed)).astype(dtype_of(dtype))


def _dtype_like(x: Any, dtype: int | None) -> np.dtype:
    return np.dtype(dtype_of(dtype) if dtype is not None else x.dtype if x.dtype.kind == "f" else default_dtype())


@operator("RandomUniformLike", random=True)
def random_uniform_like(x, *, dtype=None, high=1.0, low=0.0, seed=None):
    return (low + (high - low) * _drawn("uniform", x.shape, np.float64, seed)).astype(_dtype_like(x, dtype))


@operator("RandomNormalLike", random=True)
def random_normal_like(x, *, dtype=None, mean=0.0, scale=1.0, seed=None):
    return (mean + scale * _drawn("normal", x.shape, np.float64, seed)).astype(_dtype_like(x, dtype))


@operator("Bernoulli", host="x", random=True)
def bernoulli(x, *, dtype=None, seed=None):
    return (_drawn("uniform", x.shape, np.float64, seed) < x).astype(x.dtype if dtype is None else dtype_of(dtype))


@operator("Multinomial", host="x", random=True)
def multinomial(x, *, dtype=6, sample_size=1, seed=None):
    """Classes drawn with the probabilities softmax(x), by the Gumbel-max trick."""
    uniform = _drawn("uniform", (len(x), sample_size, x.shape[1]), np.float64, seed)
    return (x[:, None] - np.log(-np.log(np.maximum(uniform, 1e-300)))).argmax(-1).astype(dtype_of(dtype))
