"""Products with something added, products of vectors, distances: PyTorch's names for what a few operations make."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from minidl.core.errors import describe
from minidl.ops.elementwise import abs as absolute
from minidl.ops.elementwise import add, mul, sub
from minidl.ops.linalg import matmul, mT, norm
from minidl.ops.reduction import normalize_axes
from minidl.ops.reduction import sum as add_up
from minidl.ops.shape import concat, moveaxis, normalize_axis, reshape, roll, unsqueeze


def _blend(op: str, ranks: tuple[int, int], x: Any, a: Any, b: Any, product: Any, beta: float, alpha: float) -> Any:
    if (a.ndim, b.ndim) != ranks:
        raise ValueError(f"{op}: expected {ranks[0]} and {ranks[1]} axes, got {describe(a)} and {describe(b)}")
    if x.dtype.kind in "iub":  # as in PyTorch, integers have whole factors
        beta, alpha = int(beta), int(alpha)
    out = product() if alpha == 1 else mul(product(), alpha)
    if beta == 0:  # then x is not looked at, not even where it is NaN
        return out
    return add(x if beta == 1 else mul(x, beta), out)


def addmm(x: Any, mat1: Any, mat2: Any, *, beta: float = 1, alpha: float = 1) -> Any:
    """beta * x + alpha * mat1 @ mat2: matrices (n, k) and (k, m), and ``x`` that broadcasts to (n, m)."""
    return _blend("addmm", (2, 2), x, mat1, mat2, lambda: matmul(mat1, mat2), beta, alpha)


def addmv(x: Any, mat: Any, vec: Any, *, beta: float = 1, alpha: float = 1) -> Any:
    """beta * x + alpha * mat @ vec: a matrix (n, k), a vector (k,), and ``x`` that broadcasts to (n,)."""
    return _blend("addmv", (2, 1), x, mat, vec, lambda: matmul(mat, vec), beta, alpha)


def addr(x: Any, vec1: Any, vec2: Any, *, beta: float = 1, alpha: float = 1) -> Any:
    """beta * x + alpha * (outer product of vec1 and vec2)."""
    return _blend("addr", (1, 1), x, vec1, vec2, lambda: mul(unsqueeze(vec1, 1), vec2), beta, alpha)


def baddbmm(x: Any, batch1: Any, batch2: Any, *, beta: float = 1, alpha: float = 1) -> Any:
    """beta * x + alpha * batch1 @ batch2: batches (b, n, k) and (b, k, m) of matrices."""
    return _blend("baddbmm", (3, 3), x, batch1, batch2, lambda: matmul(batch1, batch2), beta, alpha)


def addbmm(x: Any, batch1: Any, batch2: Any, *, beta: float = 1, alpha: float = 1) -> Any:
    """beta * x + alpha * (the sum of batch1 @ batch2 over the batch)."""
    total = lambda: add_up(matmul(batch1, batch2), axis=0)
    return _blend("addbmm", (3, 3), x, batch1, batch2, total, beta, alpha)


def inner(x: Any, y: Any) -> Any:
    """Sum of products over the last axes: (..., n) and (*others, n) give (..., *others); a number only scales."""
    if x.ndim == 0 or y.ndim == 0:
        return mul(x, y)
    if x.shape[-1] != y.shape[-1]:
        raise ValueError(f"inner: the last axes differ: {describe(x)} and {describe(y)}")
    flat = matmul(reshape(x, shape=(math.prod(x.shape[:-1]), x.shape[-1])), mT(reshape(y, shape=(-1, y.shape[-1]))))
    return reshape(flat, shape=(*x.shape[:-1], *y.shape[:-1]))


def cross(x: Any, y: Any, axis: int = -1) -> Any:
    """The cross product of vectors of length 3 along ``axis``; the other axes broadcast."""
    if x.ndim != y.ndim:
        raise ValueError(f"cross: expected as many axes of both, got {describe(x)} and {describe(y)}")
    axis = normalize_axis(axis, x.ndim, "cross")
    if x.shape[axis] != 3 or y.shape[axis] != 3:
        raise ValueError(f"cross: expected length 3 along axis {axis}, got {describe(x)} and {describe(y)}")
    turned = [roll(a, shift=-1, axis=axis) for a in (x, y)]
    return roll(sub(mul(x, turned[1]), mul(turned[0], y)), shift=-1, axis=axis)


def vecdot(x: Any, y: Any, axis: int = -1) -> Any:
    """Sum of products along ``axis``; the other axes broadcast."""
    return add_up(mul(x, y), axis=axis)


def kron(x: Any, y: Any) -> Any:
    """Kronecker's product: each element of ``x`` times all of ``y``."""
    n = max(x.ndim, y.ndim)
    a = (1,) * (n - x.ndim) + tuple(x.shape)
    b = (1,) * (n - y.ndim) + tuple(y.shape)
    wide = reshape(x, shape=tuple(m for length in a for m in (length, 1)))
    tall = reshape(y, shape=tuple(m for length in b for m in (1, length)))
    return reshape(mul(wide, tall), shape=tuple(i * j for i, j in zip(a, b)))


def dist(x: Any, y: Any, p: float = 2) -> Any:
    """The norm of x - y over all elements."""
    return norm(sub(x, y), ord=p)


def cdist(x: Any, y: Any, p: float = 2.0, compute_mode: str | None = None) -> Any:
    """The distance of order ``p`` of each of (..., n, d) to each of (..., m, d): shape (..., n, m).

    ``compute_mode`` changes nothing: differences are taken, which is accurate. Raises ValueError for a negative order.
    """
    if x.ndim < 2 or y.ndim < 2 or x.shape[-1] != y.shape[-1]:
        raise ValueError(f"cdist: expected (..., n, d) and (..., m, d), got {describe(x)} and {describe(y)}")
    if p < 0:
        raise ValueError(f"cdist: the order must not be negative, got {p}")
    differences = sub(unsqueeze(x, -2), unsqueeze(y, -3))
    if x.shape[-1] == 0:
        return add_up(absolute(differences), axis=-1)
    return norm(differences, ord=p, axis=-1)


def pdist(x: Any, p: float = 2.0) -> Any:
    """The distances of order ``p`` of each two rows i < j of (n, d), one after the other."""
    if x.ndim != 2:
        raise ValueError(f"pdist: expected (n, d), got {describe(x)}")
    rows, columns = np.triu_indices(x.shape[0], 1)
    differences = sub(x[rows], x[columns])
    return norm(differences, ord=p, axis=-1) if x.shape[-1] else add_up(differences, axis=-1)


def diff(x: Any, n: int = 1, axis: int = -1, prepend: Any = None, append: Any = None) -> Any:
    """The differences of neighbours along ``axis``, ``n`` times over, of ``prepend``, ``x`` and ``append`` joined."""
    from minidl.ops.comparison import bitwise_xor
    from minidl.ops.shape import narrow

    if n < 0:
        raise ValueError(f"diff: n must not be negative, got {n}")
    if x.ndim == 0:
        raise ValueError("diff: expected at least one axis, got a 0-d array")
    if n == 0:
        return x
    axis = normalize_axis(axis, x.ndim, "diff")
    parts = [a for a in (prepend, x, append) if a is not None]
    x = concat(parts, axis=axis) if len(parts) > 1 else x
    for _ in range(min(n, x.shape[axis])):
        later, earlier = (narrow(x, axis, start, x.shape[axis] - 1) for start in (1, 0))
        x = bitwise_xor(later, earlier) if x.dtype == np.bool_ else sub(later, earlier)
    return x


def renorm(x: Any, p: float, axis: int, maxnorm: float) -> Any:
    """``x`` whose slices along ``axis`` are scaled down to the norm ``maxnorm`` where theirs is larger."""
    from minidl.ops.elementwise import div, where

    if x.ndim < 2:
        raise ValueError(f"renorm: expected at least two axes, got {describe(x)}")
    others = tuple(a for a in normalize_axes(None, x.ndim) if a != normalize_axis(axis, x.ndim, "renorm"))
    size = norm(x, ord=p, axis=others, keepdims=True)
    return mul(x, where(size > maxnorm, div(maxnorm, add(size, 1e-7)), 1.0))


def hstack(tensors: Any) -> Any:
    """Joined along the second axis; vectors along their only one."""
    tensors = [reshape(t, shape=(1,)) if t.ndim == 0 else t for t in tensors]
    return concat(tensors, axis=0 if tensors[0].ndim == 1 else 1)


def vstack(tensors: Any) -> Any:
    """Joined along the first axis; vectors are rows."""
    return concat([t if t.ndim > 1 else reshape(t, shape=(1, -1)) for t in tensors], axis=0)


def dstack(tensors: Any) -> Any:
    """Joined along the third axis; what has fewer gets it."""
    shapes = {0: (1, 1, 1), 1: (1, -1, 1)}
    tensors = [t if t.ndim > 2 else reshape(t, shape=shapes.get(t.ndim, (*t.shape, 1))) for t in tensors]
    return concat(tensors, axis=2)


def column_stack(tensors: Any) -> Any:
    """Joined along the second axis; vectors are columns."""
    return concat([t if t.ndim > 1 else reshape(t, shape=(-1, 1)) for t in tensors], axis=1)


row_stack = vstack


def tensor_split(x: Any, indices_or_sections: Any, axis: int = 0) -> Any:
    """``x`` cut along ``axis`` into so many pieces, the first ones longer by one where it does not come out even, or
    before each of the given indices."""
    from minidl.ops.indexing import getitem

    axis = normalize_axis(axis, x.ndim, "tensor_split")
    n = x.shape[axis]
    if hasattr(indices_or_sections, "tolist"):
        indices_or_sections = indices_or_sections.tolist()
    if isinstance(indices_or_sections, int):
        if indices_or_sections <= 0:
            raise ValueError(f"tensor_split: expected a positive number of pieces, got {indices_or_sections}")
        short, longer = divmod(n, indices_or_sections)
        cuts = [i * short + min(i, longer) for i in range(1, indices_or_sections)]
    else:
        cuts = list(indices_or_sections)
    lead = (slice(None),) * axis
    return tuple(getitem(x, (*lead, slice(a, b))) for a, b in zip([0, *cuts], [*cuts, n]))


def rot90(x: Any, k: int = 1, dims: Any = (0, 1)) -> Any:
    """``x`` turned by 90 degrees ``k`` times, from the first of two axes towards the second."""
    from minidl.ops.shape import flip, swapaxes

    first, second = (normalize_axis(a, x.ndim, "rot90") for a in dims)
    if first == second:
        raise ValueError(f"rot90: expected two different axes, got {tuple(dims)}")
    k %= 4
    if k == 2:
        return flip(x, axis=(first, second))
    if k:
        x = swapaxes(flip(x, axis=second if k == 1 else first), first, second)
    return add(x, 0) if k == 0 and x.dtype != np.bool_ else x


def fliplr(x: Any) -> Any:
    """``x`` reversed along its second axis."""
    from minidl.ops.shape import flip

    return flip(x, axis=1)


def flipud(x: Any) -> Any:
    """``x`` reversed along its first axis."""
    from minidl.ops.shape import flip

    return flip(x, axis=0)


def ravel(x: Any) -> Any:
    """All elements along one axis."""
    return reshape(x, shape=(-1,))


def movedim(x: Any, source: Any, destination: Any) -> Any:
    """:func:`moveaxis`."""
    return moveaxis(x, source, destination)


def meshgrid(*tensors: Any, indexing: str = "ij") -> tuple:
    """Vectors of lengths n, m, ... as tensors of shape (n, m, ...) that vary along one axis each; "xy" exchanges the
    first two axes."""
    from minidl.ops.shape import expand

    if indexing not in ("ij", "xy"):
        raise ValueError(f"meshgrid: indexing must be 'ij' or 'xy', got {indexing!r}")
    vectors = list(tensors[0]) if len(tensors) == 1 and isinstance(tensors[0], (list, tuple)) else list(tensors)
    if any(v.ndim > 1 for v in vectors):
        raise ValueError(f"meshgrid: expected vectors, got {', '.join(map(describe, vectors))}")
    exchanged = indexing == "xy" and len(vectors) > 1
    if exchanged:
        vectors[:2] = vectors[1::-1]
    shape = tuple(math.prod(v.shape) for v in vectors)
    grids = [
        expand(reshape(v, shape=tuple(-1 if i == k else 1 for i in range(len(shape)))), shape=shape)
        for k, v in enumerate(vectors)
    ]
    if exchanged:
        grids[:2] = grids[1::-1]
    return tuple(grids)
