"""How captured steps multiply matrices: by BLAS on the tape, and the linear layer as a product and an addition."""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np

from minidl import ops
from minidl_kernels.numba.compiler.rules import lowering, rewrite


@rewrite("linear")
def linear(graph: Any, x: Any, weight: Any, bias: Any = None) -> Any:
    """A product, and an addition that can be fused with what follows."""
    rows, features = x, weight.shape[0]
    if len(x.shape) != 2:
        flat = (math.prod(x.shape[:-1]), x.shape[-1])
        rows = graph.step(ops.reshape, [x], flat, shape=flat)
    turned = graph.step(ops.permute, [weight], weight.shape[::-1], axes=(1, 0))
    product = graph.step(ops.matmul, [rows, turned], (rows.shape[0], features))
    if len(x.shape) != 2:
        whole = (*x.shape[:-1], features)
        product = graph.step(ops.reshape, [product], whole, shape=whole)
    return product if bias is None else graph.step(ops.add, [product, bias], product.shape)


@lowering("matmul")
def matmul(binder: Any, inputs: list, outs: list[np.ndarray]) -> bool:
    """One call of BLAS (or of our own product, see :meth:`.Tape.add_matmul`), else of ``np.matmul`` without a copy."""
    x, y = inputs
    (out,) = outs
    if x.dtype != y.dtype:
        return False
    if y.ndim == 2 and x.ndim > 2 and x.flags.c_contiguous and out.flags.c_contiguous and x.size:
        # one large product: NumPy would run a batch of small ones
        x, out = x.reshape(-1, x.shape[-1]), out.reshape(-1, y.shape[1])
    if not binder.tape.add_matmul(x, y, out):
        binder.call(functools.partial(np.matmul, x, y, out))
    return True
