"""Matrix products and what is made of them."""

from __future__ import annotations

from minidl import ops
from minidl.interop.onnx.registry import operator


@operator("MatMul")
def matmul(a, b):
    return ops.matmul(a, b)


@operator("Gemm")
def gemm(a, b, c=None, *, alpha=1.0, beta=1.0, broadcast=1, transA=0, transB=0):
    """alpha A' B' + beta C."""
    out = ops.matmul(ops.transpose(a, (1, 0)) if transA else a, ops.transpose(b, (1, 0)) if transB else b)
    out = out if alpha == 1 else ops.astype(alpha * out, dtype=a.dtype)
    if c is None:
        return out
    return out + (c if beta == 1 else ops.astype(beta * c, dtype=a.dtype))


@operator("Einsum")
def einsum(*xs, equation):
    return ops.einsum(equation, *xs)


@operator("Det")
def det(x):
    return ops.det(x)
