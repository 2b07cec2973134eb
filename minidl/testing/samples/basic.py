"""Samples for elementwise operations, reductions, shape, indexing, linear algebra and random bits."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from minidl.testing.samples import Sample, samples, strided, transposed

# Elementwise

_UNARY_SHAPES = ((2, 3), (), (1,), (0, 3), (2, 1, 3))


def _unary(draw: Callable[[np.random.Generator, tuple], np.ndarray]) -> Callable:
    def make(rng: np.random.Generator) -> Iterator[Sample]:
        for shape in _UNARY_SHAPES:
            yield (np.asarray(draw(rng, shape)),), {}
        yield (strided(draw(rng, (2, 3))),), {}
        yield (transposed(draw(rng, (2, 3))),), {}

    return make


def _normal(rng: np.random.Generator, shape: tuple) -> np.ndarray:
    return rng.normal(size=shape)


def _positive(rng: np.random.Generator, shape: tuple) -> np.ndarray:
    return rng.uniform(0.2, 3, shape)


samples(
    "abs",
    "arctan",
    "ceil",
    "contiguous",
    "copy",
    "cos",
    "cosh",
    "erf",
    "exp",
    "expm1",
    "floor",
    "isfinite",
    "isnan",
    "neg",
    "ones_like",
    "positive",
    "round",
    "sign",
    "sin",
    "sinh",
    "square",
    "zeros_like",
)(_unary(_normal))
samples("log", "log1p", "log2", "rsqrt", "sqrt")(_unary(_positive))
samples("tan")(_unary(lambda rng, shape: rng.uniform(-1.2, 1.2, shape)))
samples("logical_not")(_unary(lambda rng, shape: rng.random(shape) < 0.5))

_BINARY_SHAPES = (
    ((2, 3), (2, 3)),
    ((2, 3), (3,)),
    ((2, 1), (1, 3)),
    ((3,), ()),
    ((), ()),
    ((0, 3), (1, 3)),
    ((1, 3), (0, 1)),
    ((2, 1, 3), (4, 1)),
)


def _binary(draw_x: Callable, draw_y: Callable, scalars: bool = True) -> Callable:
    def make(rng: np.random.Generator) -> Iterator[Sample]:
        for x_shape, y_shape in _BINARY_SHAPES:
            yield (np.asarray(draw_x(rng, x_shape)), np.asarray(draw_y(rng, y_shape))), {}
        yield (strided(draw_x(rng, (2, 3))), transposed(draw_y(rng, (2, 3)))), {}
        if scalars:
            yield (np.asarray(draw_x(rng, (2, 3))), 1.7), {}
            yield (0.6, np.asarray(draw_y(rng, (2, 3)))), {}
            yield (np.asarray(draw_x(rng, (2, 3))), 2), {}

    return make


def _away_from_zero(rng: np.random.Generator, shape: tuple) -> np.ndarray:
    return rng.uniform(0.5, 2, shape) * rng.choice([-1.0, 1.0], shape)


def _few_values(rng: np.random.Generator, shape: tuple) -> np.ndarray:
    return rng.integers(-2, 3, shape).astype(float)


samples("add", "sub", "mul", "maximum", "minimum")(_binary(_normal, _normal))
samples("div")(_binary(_normal, _away_from_zero))
samples("floor_divide", "remainder")(_binary(lambda rng, s: 3 * rng.normal(size=s), _away_from_zero))
samples("pow")(_binary(_positive, _normal))
samples("equal", "not_equal", "less", "less_equal", "greater", "greater_equal")(_binary(_few_values, _few_values))


@samples("logical_and", "logical_or", "logical_xor")
def _logic(rng: np.random.Generator) -> Iterator[Sample]:
    yield from _binary(lambda r, s: r.random(s) < 0.5, lambda r, s: r.random(s) < 0.5, scalars=False)(rng)
    yield (rng.integers(0, 8, (2, 3)), rng.integers(0, 8, 3)), {}


@samples("sum_to")
def _sum_to(rng: np.random.Generator) -> Iterator[Sample]:
    for shape, to in (
        ((2, 3), (3,)),
        ((2, 3), (2, 1)),
        ((4, 2, 3), (2, 1)),
        ((2, 3), ()),
        ((0, 3), (1, 3)),
        ((2,), (1,)),
    ):
        yield (rng.normal(size=shape),), {"shape": to}
    yield (strided(rng.normal(size=(2, 3))),), {"shape": (1, 3)}


@samples("broadcast_to")
def _broadcast_to(rng: np.random.Generator) -> Iterator[Sample]:
    for shape, to in (((3,), (2, 3)), ((2, 1), (2, 3)), ((), (2,)), ((1, 3), (0, 3)), ((2, 3), (2, 3))):
        yield (rng.normal(size=shape),), {"shape": to}
    yield (strided(rng.normal(size=(2, 3))),), {"shape": (2, 2, 3)}


@samples("astype")
def _astype(rng: np.random.Generator) -> Iterator[Sample]:
    yield (rng.normal(size=(2, 3)),), {"dtype": np.dtype(np.float64)}
    yield (strided(rng.normal(size=(2, 3))),), {"dtype": np.dtype(np.float64)}
    yield (5 * rng.normal(size=(2, 3)),), {"dtype": np.dtype(np.int64)}
    yield (rng.integers(0, 5, (2, 0)),), {"dtype": np.dtype(np.float64)}


@samples("clip")
def _clip(rng: np.random.Generator) -> Iterator[Sample]:
    for params in ({"min": -0.5, "max": 0.6}, {"min": 0.0}, {"max": 0.0}, {}):
        yield (rng.normal(size=(3, 4)),), params
    yield (strided(rng.normal(size=(2, 3))),), {"min": -0.5, "max": 0.6}
    yield (rng.normal(size=(0, 3)),), {"min": -0.5}


@samples("where")
def _where(rng: np.random.Generator) -> Iterator[Sample]:
    for c, x, y in (((2, 3), (2, 3), (2, 3)), ((2, 1), (3,), ()), ((3,), (2, 1), (2, 3)), ((0, 3), (3,), (1, 3))):
        yield (rng.random(c) < 0.5, np.asarray(rng.normal(size=x)), np.asarray(rng.normal(size=y))), {}
    yield (strided(rng.random((2, 3)) < 0.5), strided(rng.normal(size=(2, 3))), transposed(rng.normal(size=(2, 3)))), {}
    yield (rng.random((2, 3)) < 0.5, rng.normal(size=(2, 3)), 0.0), {}
    yield (rng.random((2, 3)) < 0.5, 1.0, rng.normal(size=(2, 3))), {}


# Reductions

_AXES = (
    ((2, 3), None),
    ((2, 3), 0),
    ((2, 3), -1),
    ((2, 3, 2), (0, 2)),
    ((2, 3, 2), (-1, 1)),
    ((), None),
    ((1, 3), 0),
    ((0, 3), 1),
)


def _reduction(draw: Callable, **extra: Any) -> Callable:
    def make(rng: np.random.Generator) -> Iterator[Sample]:
        for shape, axis in _AXES:
            for keepdims in (False, True):
                yield (np.asarray(draw(rng, shape)),), {"axis": axis, "keepdims": keepdims, **extra}
        yield (strided(draw(rng, (2, 3))),), {"axis": 1, **extra}
        yield (transposed(draw(rng, (2, 3))),), {"axis": 0, **extra}

    return make


samples("max", "min", "logsumexp")(_reduction(_normal))


@samples("sum", "mean", "prod")
def _over_nothing(rng: np.random.Generator) -> Iterator[Sample]:
    yield from _reduction(_normal)(rng)
    yield (rng.normal(size=(2, 0)),), {"axis": 1}


@samples("var")
def _var(rng: np.random.Generator) -> Iterator[Sample]:
    for correction in (0, 1):
        for shape, axis in (((2, 3), None), ((2, 3), 0), ((2, 3, 2), (0, 2)), ((0, 3), 1)):
            yield (rng.normal(size=shape),), {"axis": axis, "keepdims": correction == 1, "correction": correction}
    yield (strided(rng.normal(size=(2, 3))),), {"axis": 1}


@samples("any", "all")
def _any(rng: np.random.Generator) -> Iterator[Sample]:
    yield from _reduction(lambda r, s: r.random(s) < 0.5)(rng)
    yield (np.zeros((2, 0), bool),), {"axis": 1}


@samples("argmax", "argmin")
def _argmax(rng: np.random.Generator) -> Iterator[Sample]:
    for shape, axis in (((2, 3), None), ((2, 3), 0), ((2, 3), -1), ((2, 3, 4), 1), ((0, 3), 1), ((1,), 0)):
        yield (rng.normal(size=shape),), {"axis": axis, "keepdims": axis == 1}
    yield (_few_values(rng, (3, 5)),), {"axis": 1}
    yield (strided(rng.normal(size=(2, 3))),), {"axis": 1}


@samples("argsort")
def _argsort(rng: np.random.Generator) -> Iterator[Sample]:
    for descending in (False, True):
        yield (rng.normal(size=(2, 5)),), {"axis": 1, "descending": descending}
        yield (_few_values(rng, (6, 2)),), {"axis": 0, "descending": descending}
        yield (rng.normal(size=(0, 3)),), {"axis": 0, "descending": descending}
    yield (strided(rng.normal(size=(2, 3))),), {}


@samples("cumsum")
def _cumsum(rng: np.random.Generator) -> Iterator[Sample]:
    for shape, axis in (((4,), 0), ((2, 3), 1), ((2, 3, 2), -2), ((0, 3), 0), ((2, 0), 1)):
        yield (rng.normal(size=shape),), {"axis": axis}
    yield (strided(rng.normal(size=(2, 3))),), {"axis": 0}


@samples("exclusive_cumprod")
def _exclusive_cumprod(rng: np.random.Generator) -> Iterator[Sample]:
    for shape in ((4,), (2, 3), (1,), (0, 3), (2, 0)):
        yield (rng.normal(size=shape),), {}
    yield (np.array([1.5, 0.0, -2.0, 0.0]),), {}
    yield (strided(rng.normal(size=(2, 3))),), {}


# Shape


@samples("reshape")
def _reshape(rng: np.random.Generator) -> Iterator[Sample]:
    for shape, to in (((2, 6), (3, 4)), ((2, 3), (-1,)), ((), (1, 1)), ((0, 3), (3, 0)), ((1,), ())):
        yield (rng.normal(size=shape),), {"shape": to}
    yield (strided(rng.normal(size=(2, 3))),), {"shape": (3, 2)}
    yield (transposed(rng.normal(size=(2, 3))),), {"shape": (6,)}


@samples("permute")
def _permute(rng: np.random.Generator) -> Iterator[Sample]:
    for shape, axes in (((2, 3), (1, 0)), ((2, 3, 4), (2, 0, 1)), ((2, 3, 4), (-1, 0, -2)), ((), ()), ((0, 3), (1, 0))):
        yield (np.asarray(rng.normal(size=shape)),), {"axes": axes}
    yield (strided(rng.normal(size=(2, 3))),), {"axes": (1, 0)}


@samples("concat")
def _concat(rng: np.random.Generator) -> Iterator[Sample]:
    for shapes, axis in (
        (((2, 3), (1, 3)), 0),
        (((2, 3), (2, 1), (2, 2)), 1),
        (((2, 3), (0, 3)), 0),
        (((2, 1), (2, 2)), -1),
        (((3,),), 0),
    ):
        yield tuple(rng.normal(size=s) for s in shapes), {"axis": axis}
    yield (strided(rng.normal(size=(2, 3))), transposed(rng.normal(size=(2, 3)))), {"axis": 0}


@samples("stack")
def _stack(rng: np.random.Generator) -> Iterator[Sample]:
    for shape, count, axis in (((2, 3), 2, 0), ((2, 3), 3, 1), ((2, 3), 2, -1), ((), 2, 0), ((0, 3), 2, 1)):
        yield tuple(np.asarray(rng.normal(size=shape)) for _ in range(count)), {"axis": axis}
    yield (strided(rng.normal(size=(2, 3))), transposed(rng.normal(size=(2, 3)))), {"axis": 1}


@samples("unbind")
def _unbind(rng: np.random.Generator) -> Iterator[Sample]:
    for shape, axis in (((2, 3), 0), ((2, 3), 1), ((2, 3, 2), -2), ((3,), 0), ((2, 0), 0)):
        yield (rng.normal(size=shape),), {"axis": axis}
    yield (strided(rng.normal(size=(2, 3))),), {"axis": 0}


@samples("split")
def _split(rng: np.random.Generator) -> Iterator[Sample]:
    for shape, sizes, axis in (((4, 3), (1, 3), 0), ((2, 5), (2, 0, 3), 1), ((0, 2), (0,), 0), ((2, 2, 2), (1, 1), 2)):
        yield (rng.normal(size=shape),), {"sizes": sizes, "axis": axis}
    yield (strided(rng.normal(size=(2, 3))),), {"sizes": (2, 1), "axis": 1}


@samples("pad")
def _pad(rng: np.random.Generator) -> Iterator[Sample]:
    for widths, mode in (
        (((1, 2), (0, 1)), "constant"),
        (((-1, 1), (1, -2)), "constant"),
        (((0, 0), (0, 0)), "constant"),
        (((1, 1), (2, 1)), "reflect"),
        (((2, 1), (1, 3)), "edge"),
        (((1, 0), (3, 2)), "wrap"),
    ):
        yield (rng.normal(size=(3, 4)),), {"widths": widths, "mode": mode}
    yield (rng.normal(size=(2,)),), {"widths": ((1, 1),), "value": 2.5}
    yield (rng.normal(size=(0, 2)),), {"widths": ((1, 1), (0, 1))}
    yield (strided(rng.normal(size=(2, 3))),), {"widths": ((1, 0), (0, 1))}


@samples("flip")
def _flip(rng: np.random.Generator) -> Iterator[Sample]:
    for shape, axis in (((2, 3), 0), ((2, 3), (0, 1)), ((2, 3, 2), -1), ((0, 3), 0)):
        yield (rng.normal(size=shape),), {"axis": axis}
    yield (strided(rng.normal(size=(2, 3))),), {"axis": 1}


@samples("roll")
def _roll(rng: np.random.Generator) -> Iterator[Sample]:
    for shape, shift, axis in (((2, 3), 2, None), ((2, 3), -1, 1), ((2, 3), (1, 5), (0, 1)), ((0, 3), 1, 0)):
        yield (rng.normal(size=shape),), {"shift": shift, "axis": axis}
    yield (strided(rng.normal(size=(2, 3))),), {"shift": 1, "axis": 0}


# Indexing


def _indices() -> Iterator[tuple[tuple, tuple, list[np.ndarray]]]:
    """(shape, template, arrays)."""
    from minidl.ops.indexing import Slot

    rows, columns = np.array([0, 2, 0, -1]), np.array([1, 1, 1, 0])
    mask = np.array([True, False, True])
    yield (3, 4), (slice(1, None),), []
    yield (3, 4), (..., 1), []
    yield (3, 4), (None, 2, slice(None, None, -2)), []
    yield (3, 4), (), []
    yield (3, 4), (slice(2, 2),), []
    yield (3, 4), (Slot(0),), [rows]
    yield (3, 4), (Slot(0), Slot(1)), [rows, columns]
    yield (3, 4, 2), (slice(None), Slot(0), 1), [np.array([[0, 3], [3, 3]])]
    yield (3, 4, 2), (Slot(0), slice(None), Slot(1)), [rows, columns]
    yield (3, 4), (Slot(0),), [mask]
    yield (3, 4), (Slot(0), slice(1, 3)), [np.zeros(0, np.int64)]
    yield (2, 3), (Slot(0),), [np.array([[True, False, True], [False, False, True]])]


def _result_shape(shape: tuple, template: tuple, arrays: list) -> tuple:
    from minidl.ops.indexing import Slot

    full = tuple(arrays[p.position] if isinstance(p, Slot) else p for p in template)
    return np.empty(shape)[full].shape


@samples("getitem")
def _getitem(rng: np.random.Generator) -> Iterator[Sample]:
    for shape, template, arrays in _indices():
        yield (rng.normal(size=shape), *arrays), {"index": template}
        yield (strided(rng.normal(size=shape)), *arrays), {"index": template}


@samples("index_add")
def _index_add(rng: np.random.Generator) -> Iterator[Sample]:
    for shape, template, arrays in _indices():
        g = np.asarray(rng.normal(size=_result_shape(shape, template, arrays)))
        yield (g, *arrays), {"index": template, "shape": shape}


@samples("setitem")
def _setitem(rng: np.random.Generator) -> Iterator[Sample]:
    for shape, template, arrays in _indices():
        taken = _result_shape(shape, template, arrays)
        if any(a.dtype.kind == "i" and len(np.unique(a)) < a.size for a in arrays):
            continue  # which of several values stays is not defined
        yield (rng.normal(size=shape), np.asarray(rng.normal(size=taken)), *arrays), {"index": template}
        yield (strided(rng.normal(size=shape)), np.asarray(rng.normal(size=())), *arrays), {"index": template}
    yield (rng.normal(size=(3, 4)), 1.5), {"index": (slice(1, 2),)}


@samples("gather")
def _gather(rng: np.random.Generator) -> Iterator[Sample]:
    for shape, index_shape, axis in (
        ((3, 4), (2, 4), 0),
        ((3, 4), (3, 6), 1),
        ((2, 3, 2), (1, 3, 2), -3),
        ((3, 4), (0, 4), 0),
    ):
        yield (rng.normal(size=shape), rng.integers(0, shape[axis], index_shape)), {"axis": axis}
    yield (strided(rng.normal(size=(3, 4))), transposed(rng.integers(0, 3, (2, 4)))), {"axis": 0}


@samples("gather_grad")
def _gather_grad(rng: np.random.Generator) -> Iterator[Sample]:
    for shape, index_shape, axis in (
        ((3, 4), (2, 4), 0),
        ((3, 4), (3, 6), 1),
        ((2, 3, 2), (1, 3, 2), -3),
        ((3, 4), (0, 4), 0),
    ):
        index = rng.integers(0, shape[axis], index_shape)
        yield (rng.normal(size=index_shape), index), {"axis": axis, "shape": shape}
        yield (strided(rng.normal(size=index_shape)), index), {"axis": axis, "shape": shape}


@samples("take")
def _take(rng: np.random.Generator) -> Iterator[Sample]:
    yield (rng.normal(size=(4, 3)), np.array([0, 3, 3, -1])), {"axis": 0}
    yield (rng.normal(size=(2, 4, 2)), np.array([[0, 3], [1, 1]])), {"axis": 1}
    yield (rng.normal(size=(2, 4)), np.array(2)), {"axis": -1}
    yield (rng.normal(size=(2, 4)), np.zeros(0, np.int64)), {"axis": 1}
    yield (strided(rng.normal(size=(4, 3))), strided(np.array([0, 2]))), {"axis": 0}


@samples("scatter_add")
def _scatter_add(rng: np.random.Generator) -> Iterator[Sample]:
    yield (rng.normal(size=(4, 3)), np.array([0, 2, 2, 1])), {"axis": 0, "size": 5}
    yield (rng.normal(size=(2, 4, 2)), np.array([0, 0, 0, 0])), {"axis": 1, "size": 2}
    yield (rng.normal(size=(0, 3)), np.zeros(0, np.int64)), {"axis": 0, "size": 2}
    yield (strided(rng.normal(size=(4, 3))), np.array([0, 2, 2, 1])), {"axis": 0, "size": 3}


@samples("one_hot")
def _one_hot(rng: np.random.Generator) -> Iterator[Sample]:
    for shape in ((4,), (2, 3), (), (0, 2)):
        yield (np.asarray(rng.integers(0, 5, shape)),), {"num_classes": 5}


@samples("nonzero")
def _nonzero(rng: np.random.Generator) -> Iterator[Sample]:
    for shape in ((4,), (3, 4), (0, 2)):
        yield (_few_values(rng, shape),), {}


# Linear algebra


@samples("matmul")
def _matmul(rng: np.random.Generator) -> Iterator[Sample]:
    for x, y in (
        ((2, 3), (3, 4)),
        ((3,), (3,)),
        ((3,), (3, 2)),
        ((2, 3), (3,)),
        ((2, 2, 3), (2, 3, 2)),
        ((2, 2, 3), (3, 2)),
        ((2, 3), (2, 3, 2)),
        ((2, 1, 2, 3), (3, 3, 2)),
        ((3,), (2, 3, 2)),
        ((2, 2, 3), (3,)),
        ((2, 0), (0, 3)),
        ((0, 3), (3, 2)),
        ((0, 2, 3), (3, 2)),
    ):
        yield (rng.normal(size=x), rng.normal(size=y)), {}
    yield (strided(rng.normal(size=(2, 3))), transposed(rng.normal(size=(3, 2)))), {}


@samples("einsum")
def _einsum(rng: np.random.Generator) -> Iterator[Sample]:
    for subscripts, *shapes in (
        ("ij,jk->ik", (2, 3), (3, 2)),
        ("bij,bjk->bik", (2, 2, 3), (2, 3, 2)),
        ("ij->j", (2, 3)),
        ("ij->ji", (2, 3)),
        ("ij,ij->", (2, 3), (2, 3)),
        ("i,j->ij", (2,), (3,)),
        ("ij,kj->k", (2, 3), (2, 3)),
        ("ij,ij->i", (1, 3), (2, 1)),
        ("ij,jk,kl->il", (2, 2), (2, 3), (3, 2)),
        ("ij,jk->ik", (2, 0), (0, 3)),
        ("bhqd,bhkd->bhqk", (1, 2, 2, 3), (1, 2, 3, 3)),
    ):
        yield tuple(rng.normal(size=s) for s in shapes), {"subscripts": subscripts}
    yield (strided(rng.normal(size=(2, 3))), transposed(rng.normal(size=(3, 2)))), {"subscripts": "ij,jk->ik"}


@samples("tril", "triu")
def _triangle(rng: np.random.Generator) -> Iterator[Sample]:
    for shape, k in (((3, 3), 0), ((2, 3, 4), 1), ((4, 2), -1), ((0, 3), 0)):
        yield (rng.normal(size=shape),), {"k": k}
    yield (strided(rng.normal(size=(3, 3))),), {}


@samples("diagonal")
def _diagonal(rng: np.random.Generator) -> Iterator[Sample]:
    for shape, offset, a, b in (((3, 3), 0, 0, 1), ((2, 3, 4), 1, -2, -1), ((3, 2, 4), -1, 2, 0), ((2, 2), 5, 0, 1)):
        yield (rng.normal(size=shape),), {"offset": offset, "axis1": a, "axis2": b}
    yield (strided(rng.normal(size=(3, 3))),), {}


@samples("diagonal_grad")
def _diagonal_grad(rng: np.random.Generator) -> Iterator[Sample]:
    for g, offset, a, b, shape in (
        ((3,), 0, 0, 1, (3, 3)),
        ((2, 3), 1, -2, -1, (2, 3, 4)),
        ((2, 2), -1, 2, 0, (2, 2, 3)),
        ((0,), 2, 0, 1, (2, 2)),
    ):
        yield (rng.normal(size=g),), {"offset": offset, "axis1": a, "axis2": b, "shape": shape}


@samples("norm")
def _norm(rng: np.random.Generator) -> Iterator[Sample]:
    for ord in (2, 1, 0, 3, 1.5, -1, np.inf, -np.inf):
        yield (rng.normal(size=(2, 3)),), {"ord": ord, "axis": 1}
    yield (rng.normal(size=(2, 3, 2)),), {"axis": (0, 2), "keepdims": True}
    yield (rng.normal(size=(2, 3)),), {}
    yield (rng.normal(size=(0, 3)),), {"axis": 0}
    yield (strided(rng.normal(size=(2, 3))),), {"axis": 1}


def _matrices(rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Well-conditioned square matrices."""
    for shape in ((3, 3), (2, 2, 2), (1, 1), (0, 2, 2)):
        yield rng.normal(size=shape) + 2 * np.eye(shape[-1])
    yield strided(rng.normal(size=(3, 3)) + 2 * np.eye(3))
    yield transposed(rng.normal(size=(3, 3)) + 2 * np.eye(3))


@samples("inv", "det", "cofactor", "slogdet")
def _square(rng: np.random.Generator) -> Iterator[Sample]:
    for x in _matrices(rng):
        yield (x,), {}


@samples("cholesky", "eigh")
def _symmetric(rng: np.random.Generator) -> Iterator[Sample]:
    for x in _matrices(rng):
        yield (x @ np.swapaxes(x, -1, -2) + np.eye(x.shape[-1]),), {}


@samples("svd", "qr")
def _rectangular(rng: np.random.Generator) -> Iterator[Sample]:
    for shape in ((3, 3), (4, 2), (2, 3), (2, 3, 2), (0, 2, 2)):
        yield (rng.normal(size=shape),), {}
    yield (strided(rng.normal(size=(3, 3))),), {}


@samples("solve")
def _solve(rng: np.random.Generator) -> Iterator[Sample]:
    for a, b in (((3, 3), (3, 2)), ((3, 3), (3,)), ((2, 2, 2), (2, 1)), ((2, 2), (3, 2, 1)), ((2, 2, 2), (2,))):
        yield (rng.normal(size=a) + 2 * np.eye(a[-1]), rng.normal(size=b)), {}
    yield (strided(rng.normal(size=(3, 3)) + 2 * np.eye(3)), transposed(rng.normal(size=(3, 2)))), {}


# Random


@samples("random_bits")
def _random_bits(rng: np.random.Generator) -> Iterator[Sample]:
    for key, offset, size in ((0, 0, 4), (12345678901234567890, 3, 10), (7, 2**33, 5), (1, 0, 0), (5, 1, 100_000)):
        yield (), {"key": key, "offset": offset, "size": size}


@samples("keyed_dropout")
def _dropout(rng: np.random.Generator) -> Iterator[Sample]:
    for shape, p in (((3, 4), 0.5), ((2, 3), 0.0), ((2, 3), 1.0), ((), 0.3), ((0, 3), 0.5)):
        yield (np.asarray(rng.normal(size=shape)),), {"p": p, "key": 99, "offset": 5}
    yield (strided(rng.normal(size=(2, 3))),), {"p": 0.5, "key": 3, "offset": 0}
