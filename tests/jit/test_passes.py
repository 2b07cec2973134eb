"""Passes over captured programs ask primitives for declared properties, not for names."""

import numpy as np
import pytest

import minidl
from minidl import as_tensor, ops
from minidl.core.primitive import primitive
from minidl.core.registry import primitives


@pytest.fixture
def declare():
    """``primitive``, whose primitives are forgotten after the test."""
    known = set(primitives)
    yield primitive
    for name in set(primitives) - known:
        del primitives[name]


def names(function, *arrays):
    """The primitives left in the program of ``function``, after a replay that was checked against the eager result."""
    with minidl.use_backend("numpy"):
        jitted = minidl.jit(function)
        for _ in range(2):
            found = jitted(*arrays)
        np.testing.assert_array_equal(found.numpy(), function(*map(as_tensor, arrays)).numpy())
        (program,) = jitted.programs
    return [step.prim.name for step in program.steps]


X = np.arange(6, dtype=np.float32).reshape(2, 3)


def test_always_an_identity(declare):
    @declare(identity=True)
    def same_values(x):
        return x + 0

    assert names(lambda x: same_values(ops.copy(same_values(x))) * 2, X) == ["mul"]


def test_an_identity_where_shape_and_dtype_stay(declare):
    @declare(identity="shape")
    def resized(x, *, shape):
        return np.resize(x, shape)

    assert names(lambda x: resized(x, shape=(2, 3)) * 2, X) == ["mul"]
    assert names(lambda x: resized(x, shape=(3, 2)) * 2, X) == ["resized", "mul"]
    assert names(lambda x: x.astype(np.float32).reshape(2, 3) * 2, X) == ["mul"]
    assert names(lambda x: x.astype(np.float64) * 2, X) == ["astype", "mul"]


def test_undeclared_primitives_stay(declare):
    @declare
    def perhaps(x):
        return x + 0

    assert names(lambda x: perhaps(x) * 2, X) == ["perhaps", "mul"]


def test_what_is_not_used_or_done_twice_is_dropped(declare):
    def f(x):
        ops.exp(x)
        return x * 3 + x * 3

    assert names(f, X) == ["mul", "add"]


def test_equal_steps_with_parameters_that_cannot_be_compared_stay(declare):
    @declare
    def added(x, *, what):
        return x + what

    assert names(lambda x: added(x, what=X) * added(x, what=X), X) == ["added", "added", "mul"]
