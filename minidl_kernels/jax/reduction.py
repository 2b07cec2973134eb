"""Largest and smallest elements. XLA's own reduction on CPUs loses NaN where it works on several rows at once."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from minidl.backend import kernel
from minidl.ops.reduction import over


def _nan_wins(best: Any, x: Any, axis: Any, keepdims: bool) -> Any:
    if not jnp.issubdtype(x.dtype, jnp.floating):
        return best
    return jnp.where(jnp.isnan(x).any(axis=axis, keepdims=keepdims), jnp.nan, best)


@kernel("amax", backend="jax", note="NaN wins")
def amax(x: Any, *, axis: Any = None, keepdims: bool = False) -> Any:
    axis = over(axis, x)
    return _nan_wins(x.max(axis=axis, keepdims=keepdims), x, axis, keepdims)


@kernel("amin", backend="jax", note="NaN wins")
def amin(x: Any, *, axis: Any = None, keepdims: bool = False) -> Any:
    axis = over(axis, x)
    return _nan_wins(x.min(axis=axis, keepdims=keepdims), x, axis, keepdims)
