"""Linear algebra: matrix products, einsum, norms, triangles."""

from __future__ import annotations

from minidl.backend.registry import namespace
from minidl.ops.elementwise import sum_to
from minidl.ops.primitive import describe, primitive
from minidl.ops.shape import swapaxes


@primitive(promote="same")
def matmul(x, y):
    """Matrix product over the last two axes, broadcast over the others; 1-d inputs are vectors (NumPy's ``@``)."""
    try:
        return namespace(x, y).matmul(x, y)
    except ValueError as error:
        raise ValueError(
            f"matmul: shapes do not fit: {describe(x)} @ {describe(y)}; expected (..., n, k) @ (..., k, m)"
        ) from error


def _matmul_grad_x(g, x, y, x_shape):
    """dL/dX = G Yᵀ."""
    if y.ndim == 1:
        return sum_to(g[..., None] * y, shape=x_shape)
    if x.ndim == 1:
        return sum_to((y @ g[..., None])[..., 0], shape=x_shape)
    return sum_to(g @ swapaxes(y, -1, -2), shape=x_shape)


def _matmul_grad_y(g, x, y, y_shape):
    """dL/dY = Xᵀ G."""
    if x.ndim == 1:
        return sum_to(x[:, None] * g[..., None, :] if y.ndim > 1 else x * g, shape=y_shape)
    if y.ndim == 1:
        return sum_to((swapaxes(x, -1, -2) @ g[..., None])[..., 0], shape=y_shape)
    if y.ndim == 2 and x.ndim > 2:
        # one large product instead of a batch of small ones that are then added up
        return swapaxes(x.reshape(-1, x.shape[-1]), 0, 1) @ g.reshape(-1, g.shape[-1])
    return sum_to(swapaxes(x, -1, -2) @ g, shape=y_shape)


matmul.defvjp(x=_matmul_grad_x, y=_matmul_grad_y)


@primitive
def tril(x, *, k=0):
    """The lower triangle of the last two axes (up to diagonal ``k``); zero above."""
    return namespace(x).tril(x, k)


@primitive
def triu(x, *, k=0):
    """The upper triangle of the last two axes (from diagonal ``k`` on); zero below."""
    return namespace(x).triu(x, k)


tril.defvjp(x=lambda g, k: tril(g, k=k))
triu.defvjp(x=lambda g, k: triu(g, k=k))
