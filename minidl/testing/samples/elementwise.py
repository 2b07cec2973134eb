"""Samples for elementwise operations and reductions."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from minidl.testing.samples.registry import Sample, few_values, samples, strided, transposed

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
    "arcsinh",
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
samples("arcsin", "arccos", "arctanh")(_unary(lambda rng, shape: rng.uniform(-0.95, 0.95, shape)))
samples("arccosh")(_unary(lambda rng, shape: rng.uniform(1.05, 5, shape)))
samples("tan")(_unary(lambda rng, shape: rng.uniform(-1.2, 1.2, shape)))
samples("logical_not", "bitwise_not")(_unary(lambda rng, shape: rng.random(shape) < 0.5))

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


samples("add", "sub", "mul", "maximum", "minimum", "logaddexp")(_binary(_normal, _normal))
samples("div")(_binary(_normal, _away_from_zero))


@samples("floor_divide", "remainder")
def _quotients(rng: np.random.Generator) -> Iterator[Sample]:
    """Floats, and integers of both signs and beyond 2^32."""
    yield from _binary(lambda rng, s: 3 * rng.normal(size=s), _away_from_zero)(rng)
    for x_shape, y_shape in _BINARY_SHAPES:
        yield (rng.integers(-50, 50, x_shape), rng.integers(1, 9, y_shape) * rng.choice([-1, 1], y_shape)), {}
    yield (rng.integers(-(1 << 60), 1 << 60, (5, 7)), rng.integers(1 << 33, 1 << 40, 7)), {}


samples("pow")(_binary(_positive, _normal))
samples("eq", "not_equal", "less", "less_equal", "greater", "greater_equal")(_binary(few_values, few_values))


@samples("logical_and", "logical_or", "logical_xor", "bitwise_and", "bitwise_or", "bitwise_xor")
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


samples("amax", "amin", "logsumexp")(_reduction(_normal))


@samples("sum", "mean", "prod")
def _over_nothing(rng: np.random.Generator) -> Iterator[Sample]:
    yield from _reduction(_normal)(rng)
    yield (rng.normal(size=(2, 0)),), {"axis": 1}


@samples("var", "std")
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
    yield (few_values(rng, (3, 5)),), {"axis": 1}
    yield (strided(rng.normal(size=(2, 3))),), {"axis": 1}


@samples("argsort")
def _argsort(rng: np.random.Generator) -> Iterator[Sample]:
    for descending in (False, True):
        yield (rng.normal(size=(2, 5)),), {"axis": 1, "descending": descending}
        yield (few_values(rng, (6, 2)),), {"axis": 0, "descending": descending}
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
