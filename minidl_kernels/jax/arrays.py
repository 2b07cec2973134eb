"""What the formulas do by writing into new arrays, by ``.at[...]``: JAX's arrays cannot be written to. Those that
``jax.numpy`` has under another name, too."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.special

from minidl.backend import kernel
from minidl.ops.indexing import along, fill


@kernel("contiguous", backend="jax", note="nothing to do")
def contiguous(x: Any) -> Any:
    return x


@kernel("argsort", backend="jax")
def argsort(x: Any, *, axis: int = -1, descending: bool = False) -> Any:
    return jnp.argsort(x, axis=axis, stable=True, descending=descending)


@kernel("getitem_grad", backend="jax")
def getitem_grad(g: Any, *arrays: Any, index: tuple, shape: tuple[int, ...]) -> Any:
    return jnp.zeros(shape, g.dtype).at[fill(index, arrays)].add(g)


@kernel("gather_grad", backend="jax")
def gather_grad(g: Any, index: Any, *, axis: int, shape: tuple[int, ...]) -> Any:
    return jnp.zeros(shape, g.dtype).at[along(index, axis, jnp)].add(g)


@kernel("take_grad", backend="jax")
def take_grad(x: Any, index: Any, *, axis: int = 0, size: int) -> Any:
    out = jnp.zeros((*x.shape[:axis], size, *x.shape[axis + 1 :]), x.dtype)
    return out.at[(slice(None),) * axis + (index,)].add(x)


@kernel("embedding_grad", backend="jax")
def embedding_grad(g: Any, index: Any, *, num_embeddings: int, padding_idx: int | None = None) -> Any:
    out = jnp.zeros((num_embeddings, g.shape[-1]), g.dtype).at[index].add(g)
    return out if padding_idx is None else out.at[padding_idx].set(0)


@kernel("diagonal_grad", backend="jax")
def diagonal_grad(g: Any, *, offset: int, axis1: int, axis2: int, shape: tuple[int, ...]) -> Any:
    axis1, axis2 = axis1 % len(shape), axis2 % len(shape)
    moved = (*(n for i, n in enumerate(shape) if i not in (axis1, axis2)), shape[axis1], shape[axis2])
    i = jnp.arange(g.shape[-1])
    out = jnp.zeros(moved, g.dtype).at[..., i + max(-offset, 0), i + max(offset, 0)].set(g)
    return jnp.moveaxis(out, (-2, -1), (axis1, axis2))


#: primitive -> function of SciPy's that jax.scipy lacks
_ON_THE_HOST = {
    "bessel_j0": "j0", "bessel_j1": "j1", "bessel_y0": "y0", "bessel_y1": "y1", "modified_bessel_k0": "k0",
    "modified_bessel_k1": "k1", "scaled_modified_bessel_k0": "k0e", "scaled_modified_bessel_k1": "k1e",
}  # fmt: skip


def _on_the_host(function: str) -> Any:
    def call(x: Any) -> Any:
        def compute(a: Any) -> np.ndarray:
            return np.asarray(getattr(scipy.special, function)(np.asarray(a)), x.dtype)

        return jax.pure_callback(compute, jax.ShapeDtypeStruct(x.shape, x.dtype), x)

    return call


for _name, _function in _ON_THE_HOST.items():
    kernel(_name, backend="jax", note="SciPy's, computed on the host")(_on_the_host(_function))


@kernel(
    "polygamma",
    backend="jax",
    when=lambda x, *, n: n > 0,
    note="SciPy's, as jax.scipy's is wrong below 0 and at infinity",
)
def polygamma(x: Any, *, n: int) -> Any:
    def compute(a: Any) -> np.ndarray:
        a = np.asarray(a)
        return np.asarray((-1) ** (n + 1) * scipy.special.gamma(n + 1.0) * scipy.special.zeta(n + 1.0, a), a.dtype)

    return jax.pure_callback(compute, jax.ShapeDtypeStruct(x.shape, x.dtype), x)
