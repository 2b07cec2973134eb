"""Einstein summation: ``einsum("bij,bjk->bik", x, y)``, and what is short to say with it."""

from __future__ import annotations

import functools
import math
import string
from typing import Any

import numpy as np

from minidl.core.errors import describe
from minidl.core.primitive import primitive
from minidl.core.registry import namespace
from minidl.ops.elementwise import broadcast_to, sum_to
from minidl.ops.reduction import sum as add_up
from minidl.ops.shape import reshape


def einsum(subscripts: Any, *operands: Any) -> Any:
    """Sum of products of elements, by NumPy's rules: ellipsis, implicit output, repeated labels (diagonals), sums over
    labels that the output lacks, and the form ``einsum(x, [0, 1], y, [1, 2], [0, 2])``.

    Each step is one (batched) matrix product; three and more operands are taken in the order that
    ``numpy.einsum_path`` finds. Raises ValueError for subscripts that do not fit the operands.

    >>> from minidl import Tensor, as_tensor, einsum
    >>> einsum("ij,j->i", as_tensor([[1.0, 2.0], [3.0, 4.0]]), as_tensor([1.0, 10.0]))
    tensor([21., 43.])
    """
    if not isinstance(subscripts, str):
        subscripts, operands = _from_lists((subscripts, *operands))
    arrays: list[Any] = [x if hasattr(x, "shape") else np.asarray(x) for x in operands]
    terms, out = _parse(subscripts, arrays)
    for i, term in enumerate(terms):
        arrays[i], terms[i] = _take_diagonals(arrays[i], term)
    return _einsum(*arrays, subscripts=f"{','.join(terms)}->{out}")


def _from_lists(args: tuple) -> tuple[str, tuple]:
    """``x, [0, 1], y, [1, 2], [0, 2]`` as subscripts and operands."""

    def letters(labels: Any) -> str:
        return "".join("..." if i is Ellipsis else string.ascii_letters[i] for i in labels)

    count = len(args) // 2
    left = ",".join(letters(args[2 * i + 1]) for i in range(count))
    return left + (f"->{letters(args[-1])}" if len(args) % 2 else ""), args[0 : 2 * count : 2]


def _parse(subscripts: str, operands: list) -> tuple[list[str], str]:
    """The labels of each operand and of the output, with ellipses written out."""

    def fail(why: str) -> ValueError:
        return ValueError(f"einsum: {why} in {subscripts!r} for {', '.join(map(describe, operands))}")

    left, arrow, out = subscripts.replace(" ", "").partition("->")
    terms = left.split(",")
    if len(terms) != len(operands):
        raise fail(f"{len(terms)} terms do not match {len(operands)} operands")
    unused = [c for c in string.ascii_letters if c not in subscripts]
    dots = ""
    for i, (term, x) in enumerate(zip(terms, operands)):
        free = x.ndim - len(term.replace("...", "", 1))
        if free < 0 or (free and "..." not in term):
            raise fail(f"term {term!r} does not match an operand with {x.ndim} axes")
        spelled = "".join(unused[:free])[::-1]  # the last axis of every ellipsis has the same label
        dots = max(dots, spelled, key=len)
        terms[i] = term.replace("...", spelled, 1)
    labels = "".join(terms)
    if not arrow:
        out = dots + "".join(c for c in sorted(set(labels) - set(dots)) if labels.count(c) == 1)
    elif dots and "..." not in out:
        raise fail("the output lacks the ellipsis")
    out = out.replace("...", dots, 1)
    if not all(c in string.ascii_letters for c in labels + out):
        raise fail("a label is not a letter")
    if len(set(out)) != len(out) or not set(out) <= set(labels):
        raise fail("a label of the output is repeated or not among the inputs'")
    lengths: dict[str, int] = {}
    for term, x in zip(terms, operands):
        for c, n in zip(term, x.shape):
            if lengths.setdefault(c, n) != n and n != 1:
                if lengths[c] != 1:
                    raise fail(f"label {c!r} stands for lengths {lengths[c]} and {n}")
                lengths[c] = n
    return terms, out


def _take_diagonals(x: Any, term: str) -> tuple[Any, str]:
    """Where a label is repeated in one operand, only the diagonal counts."""
    from minidl.ops.linalg import diagonal

    for c in term:
        while term.count(c) > 1:
            i = term.index(c)
            j = term.index(c, i + 1)
            if x.shape[i] != x.shape[j]:
                raise ValueError(f"einsum: label {c!r} stands for lengths {x.shape[i]} and {x.shape[j]}")
            x = diagonal(x, axis1=i, axis2=j)
            term = term[:i] + term[i + 1 : j] + term[j + 1 :] + c
    return x, term


@primitive(name="einsum", promote="same", linear_in=("xs",))
def _einsum(*xs, subscripts):
    """The sum of products for explicit subscripts without ellipses, whose terms have no label twice."""
    left, out = subscripts.split("->")
    terms, xs = left.split(","), list(xs)
    for chosen in _path(subscripts, tuple(x.shape for x in xs)) if len(xs) > 2 else ():
        i, j = sorted(chosen)
        rest = set(out).union(*(t for k, t in enumerate(terms) if k not in (i, j)))
        term = "".join(c for c in dict.fromkeys(terms[i] + terms[j]) if c in rest)
        y, ty, x, tx = xs.pop(j), terms.pop(j), xs.pop(i), terms.pop(i)
        xs.append(_pair(x, tx, y, ty, term))
        terms.append(term)
    if len(xs) == 2:
        return _pair(xs[0], terms[0], xs[1], terms[1], out)
    return _reorder(*_sum_labels(xs[0], terms[0], [c for c in terms[0] if c not in out]), out)


@functools.lru_cache(maxsize=256)
def _path(subscripts: str, shapes: tuple) -> list[tuple[int, int]]:
    """The pairs to contract, in order, until two operands are left."""
    stand_ins = [np.broadcast_to(np.float32(0), s) for s in shapes]
    path = np.einsum_path(subscripts, *stand_ins, optimize=("greedy", 1 << 62))[0][1:]
    pairs = []
    for step in path:  # a step may take three operands at once
        if len(step) == 2:
            pairs.append(step)
        else:
            return [(0, 1)] * (len(shapes) - 2)
    return pairs[:-1]


def _sum_labels(x: Any, term: str, labels: Any) -> tuple[Any, str]:
    if not labels:
        return x, term
    axes = tuple(term.index(c) for c in labels)
    return namespace(x).sum(x, axis=axes, dtype=x.dtype), "".join(c for c in term if c not in labels)


def _reorder(x: Any, term: str, out: str) -> Any:
    return x if term == out else namespace(x).transpose(x, [term.index(c) for c in out])


def _pair(x: Any, tx: str, y: Any, ty: str, out: str) -> Any:
    """The product of two operands as (batch, m, k) @ (batch, k, n): ``batch`` are the labels of both that stay, ``k``
    those of both that are summed over."""
    short = {c for c in tx if c in ty and c not in out and 1 in (x.shape[tx.index(c)], y.shape[ty.index(c)])}
    x, tx = _sum_labels(x, tx, [c for c in tx if c not in out and (c not in ty or c in short)])
    y, ty = _sum_labels(y, ty, [c for c in ty if c not in out and (c not in tx or c in short)])
    batch = [c for c in tx if c in ty and c in out]
    k = [c for c in tx if c in ty and c not in out]
    m = [c for c in tx if c not in ty]
    n = [c for c in ty if c not in tx]
    x, y = _reorder(x, tx, "".join(batch + m + k)), _reorder(y, ty, "".join(batch + k + n))
    b = len(batch)
    m_shape, k_shape, n_shape = x.shape[b : b + len(m)], x.shape[b + len(m) :], y.shape[b + len(k) :]
    inner = math.prod(k_shape)
    xp = namespace(x, y)
    z = xp.matmul(
        x.reshape(*x.shape[:b], math.prod(m_shape), inner), y.reshape(*y.shape[:b], inner, math.prod(n_shape))
    )
    z = z.reshape((*z.shape[:-2], *m_shape, *n_shape))
    return _reorder(z, "".join(batch + m + n), out)


@_einsum.defvjp_all
def _einsum_grad(g, needs, xs, subscripts):
    """The gradient for one operand is the einsum of g with the other operands, output labels exchanged."""
    left, out = subscripts.split("->")
    terms = left.split(",")
    grads = []
    for i, (need, x, term) in enumerate(zip(needs, xs, terms)):
        if not need:
            grads.append(None)
            continue
        others = [t for j, t in enumerate(terms) if j != i]
        known = set(out).union(*others)
        kept = "".join(c for c in term if c in known)
        r = _einsum(g, *(y for j, y in enumerate(xs) if j != i), subscripts=f"{','.join([out, *others])}->{kept}")
        # labels that only this operand has were summed away; lengths of 1 were broadcast
        lengths = dict(zip(kept, r.shape))
        r = reshape(r, shape=tuple(lengths.get(c, 1) for c in term))
        r = sum_to(r, shape=tuple(min(have, n) for have, n in zip(r.shape, x.shape)))
        grads.append(broadcast_to(r, shape=tuple(x.shape)))
    return grads


def outer(x: Any, y: Any) -> Any:
    """All products ``x[i] * y[j]`` of two vectors. Raises ValueError for inputs that are not 1-d."""
    _expect_vectors("outer", x, y)
    return x[:, None] * y[None, :]


def dot(x: Any, y: Any) -> Any:
    """The inner product of two vectors (PyTorch's dot). Raises ValueError for other shapes."""
    _expect_vectors("dot", x, y)
    if x.shape != y.shape:
        raise ValueError(f"dot: lengths differ: {describe(x)}, {describe(y)}")
    return _einsum(x, y, subscripts="a,a->")


def _expect_vectors(op: str, *xs: Any) -> None:
    if any(getattr(x, "ndim", None) != 1 for x in xs):
        raise ValueError(f"{op}: expected 1-d inputs, got {', '.join(map(describe, xs))}")


def tensordot(x: Any, y: Any, axes: Any = 2) -> Any:
    """Sum of products over ``axes``: the last and first n axes for an int n, or a pair of lists of axes."""
    if isinstance(axes, (int, np.integer)):
        axes = (range(x.ndim - axes, x.ndim), range(axes))
    x_axes, y_axes = ([a] if isinstance(a, (int, np.integer)) else list(a) for a in axes)
    if len(x_axes) != len(y_axes):
        raise ValueError(f"tensordot: {len(x_axes)} axes of x against {len(y_axes)} of y")
    tx = list(string.ascii_letters[: x.ndim])
    ty = list(string.ascii_letters[x.ndim : x.ndim + y.ndim])
    for a, b in zip(x_axes, y_axes):
        if x.shape[a] != y.shape[b] and 1 in (x.shape[a], y.shape[b]):  # one number meets them all: their sum
            x, y = (t if t.shape[c] == 1 else add_up(t, axis=c, keepdims=True) for t, c in ((x, a), (y, b)))
        if x.shape[a] != y.shape[b]:
            raise ValueError(f"tensordot: axis {a} of {describe(x)} and axis {b} of {describe(y)} differ in length")
        ty[b % y.ndim] = tx[a % x.ndim]
    out = [c for c in tx if c not in ty] + [c for c in ty if c not in tx]
    return einsum(f"{''.join(tx)},{''.join(ty)}->{''.join(out)}", x, y)
