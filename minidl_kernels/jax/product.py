"""Products of half-precision matrices as they are: tensor cores and matrix units add up in float32 by themselves."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from minidl.backend import kernel
from minidl.core.dtypes import HALVES

_DTYPES = ("float16", "bfloat16")


def _halves(x: Any, y: Any, bias: Any = None) -> bool:
    """half-precision arrays of one dtype"""
    return x.dtype in HALVES and x.dtype == y.dtype and (bias is None or bias.dtype == x.dtype)


@kernel("matmul", backend="jax", when=_halves, dtypes=_DTYPES, note="half precision, added up in float32")
def matmul(x: Any, y: Any) -> Any:
    return jnp.matmul(x, y, preferred_element_type=jnp.float32).astype(x.dtype)


@kernel("linear", backend="jax", when=_halves, dtypes=_DTYPES, note="half precision, added up in float32")
def linear(x: Any, weight: Any, bias: Any = None) -> Any:
    out = jnp.matmul(x, weight.T, preferred_element_type=jnp.float32)
    return (out if bias is None else out + bias).astype(x.dtype)
