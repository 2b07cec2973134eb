"""Affine maps: the linear layer as one primitive, and the bilinear form."""

from __future__ import annotations

import math

from minidl.core.errors import describe
from minidl.core.primitive import primitive
from minidl.core.registry import namespace
from minidl.ops.linalg import matmul
from minidl.ops.shape import permute, reshape, unsqueeze


@primitive(promote="same")
def linear(x, weight, bias=None):
    """``x @ weight.T + bias``: x (..., in), weight (out, in), bias (out,) or None; gives (..., out).

    Raises ValueError where the shapes do not fit.
    """
    if x.ndim == 0 or weight.ndim != 2 or x.shape[-1] != weight.shape[1]:
        raise ValueError(
            f"linear: shapes do not fit: x {describe(x)}, weight {describe(weight)}; expected (..., in) and (out, in)"
        )
    if bias is not None and bias.shape != weight.shape[:1]:
        raise ValueError(f"linear: bias {describe(bias)} does not fit weight {describe(weight)}; expected (out,)")
    # one large product: NumPy would run a batch of small ones for more than two axes
    rows = x.reshape(math.prod(x.shape[:-1]), x.shape[-1]) if x.ndim > 2 else x
    out = namespace(x, weight).matmul(rows, weight.T)
    if bias is not None:
        out += bias
    return out.reshape(*x.shape[:-1], weight.shape[0]) if x.ndim > 2 else out


@linear.defvjp_all
def _linear_grad(g, needs, x, weight, bias_shape):
    """dL/dX = G W, dL/dW = Gᵀ X with all leading axes as rows, dL/db = sum of G's rows."""
    grads = [None, None, None]
    rows = g if g.ndim == 2 else g.reshape((math.prod(g.shape[:-1]), g.shape[-1]))
    if needs[0]:
        grads[0] = rows @ weight
        if g.ndim != 2:
            grads[0] = grads[0].reshape((*g.shape[:-1], weight.shape[1]))
    if needs[1]:
        inputs = x if x.ndim == 2 else x.reshape((math.prod(x.shape[:-1]), x.shape[-1]))
        grads[1] = rows.T @ inputs
    if needs[2]:
        grads[2] = rows.sum(axis=0)
    return grads


def bilinear(x1, x2, weight, bias=None):
    """``out[..., o] = sum_ij x1[..., i] weight[o, i, j] x2[..., j] + bias[o]``.

    x1 (..., in1), x2 (..., in2) with the same leading axes, weight (out, in1, in2), bias (out,) or None.
    """
    if weight.ndim != 3 or x1.shape[-1:] != weight.shape[1:2] or x2.shape[-1:] != weight.shape[2:]:
        raise ValueError(
            f"bilinear: shapes do not fit: x1 {describe(x1)}, x2 {describe(x2)}, weight {describe(weight)}; "
            "expected (..., in1), (..., in2) and (out, in1, in2)"
        )
    out_features, in1, in2 = weight.shape
    left = matmul(x1, reshape(permute(weight, axes=(1, 0, 2)), shape=(in1, out_features * in2)))
    left = reshape(left, shape=(*x1.shape[:-1], out_features, in2))
    out = reshape(matmul(left, unsqueeze(x2, axis=-1)), shape=(*x1.shape[:-1], out_features))
    return out if bias is None else out + bias
