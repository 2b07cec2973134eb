"""Samples for shape, indexing, linear algebra and random bits."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from minidl.testing.samples.registry import Sample, few_values, samples, strided, transposed

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


@samples("pad_nd")
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


@samples("getitem_grad")
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


@samples("take_grad")
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
        yield (few_values(rng, shape),), {}


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


@samples("checked_index")
def _checked_index(rng: np.random.Generator) -> Iterator[Sample]:
    for index, size, negative in ([0, 2, 1], 3, False), ([[-3, 2]], 3, True), ([], 0, False), (1, 2, False):
        yield (np.array(index, np.int64),), {"size": size, "negative": negative, "op": "test"}
    yield (np.array([0, 255], np.uint8),), {"size": 1000, "op": "test"}


@samples("random_bits")
def _random_bits(rng: np.random.Generator) -> Iterator[Sample]:
    for key, offset, size in ((0, 0, 4), (12345678901234567890, 3, 10), (7, 2**33, 5), (1, 0, 0), (5, 1, 100_000)):
        yield (), {"key": key, "offset": offset, "size": size}


_PLACES = ((0, 0), (12345678901234567890, 3), (7, 2**33))


@samples("random_uniform")
def _random_uniform(rng: np.random.Generator) -> Iterator[Sample]:
    for key, offset in _PLACES:
        for shape, low, high, dtype in (
            ((3, 4), 0.0, 1.0, "float32"),
            ((0, 2), -1.0, 3.0, "float64"),
            ((), 2.0, 5.0, "float64"),
        ):
            yield (), {"key": key, "offset": offset, "shape": shape, "low": low, "high": high, "dtype": dtype}
    yield (), {"key": 5, "offset": 1, "shape": (100_000,)}


@samples("random_normal")
def _random_normal(rng: np.random.Generator) -> Iterator[Sample]:
    for key, offset in _PLACES:
        for shape, mean, std, dtype in (
            ((3, 5), 0.0, 1.0, "float32"),
            ((0, 2), 1.0, 3.0, "float64"),
            ((), 2.0, 0.0, "float64"),
        ):
            yield (), {"key": key, "offset": offset, "shape": shape, "mean": mean, "std": std, "dtype": dtype}


@samples("random_integers")
def _random_integers(rng: np.random.Generator) -> Iterator[Sample]:
    for key, offset in _PLACES:
        for shape, low, high in (((3, 5), 0, 10), ((0,), -3, 3), ((), 0, 1), ((7,), -(2**62), 2**62)):
            yield (), {"key": key, "offset": offset, "shape": shape, "low": low, "high": high}


@samples("random_permutation")
def _random_permutation(rng: np.random.Generator) -> Iterator[Sample]:
    for key, offset in _PLACES:
        for n in (0, 1, 17):
            yield (), {"key": key, "offset": offset, "n": n}


@samples("keyed_dropout")
def _dropout(rng: np.random.Generator) -> Iterator[Sample]:
    for shape, p in (((3, 4), 0.5), ((2, 3), 0.0), ((2, 3), 1.0), ((), 0.3), ((0, 3), 0.5)):
        yield (np.asarray(rng.normal(size=shape)),), {"p": p, "key": 99, "offset": 5}
    yield (strided(rng.normal(size=(2, 3))),), {"p": 0.5, "key": 3, "offset": 0}
