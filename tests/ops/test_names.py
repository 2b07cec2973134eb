"""An operation and the primitive of its name are one: the function only checks and arranges what it is given."""

import inspect

import numpy as np
import pytest

from minidl import as_tensor, ops
from minidl.core.context import using
from minidl.core.registry import primitives

RNG = np.random.default_rng(0)


def x(*shape):
    return as_tensor(RNG.normal(size=shape))


INDEX = as_tensor(np.array([1, 0]))
CALLS = {
    "sum_to": lambda f: f(x(2, 3), (3,)),
    "where": lambda f: f(x(3) > 0, x(3), x(3)),
    "split": lambda f: f(x(4), 2),
    "var": lambda f: f(x(4)),
    "std": lambda f: f(x(4)),
    "scaled_dot_product_attention": lambda f: f(x(1, 2, 3, 4), x(1, 2, 3, 4), x(1, 2, 3, 4)),
    "einsum": lambda f: f("ij,jk->ik", x(2, 3), x(3, 4)),
    "getitem": lambda f: f(x(3), 1),
    "setitem": lambda f: f(x(3), 0.0, 1),
    "take": lambda f: f(x(3), INDEX, axis=0),
    "embedding": lambda f: f(INDEX, x(3, 2)),
    "polygamma": lambda f: f(1, x(3)),
    "cross_entropy": lambda f: f(x(2, 3), INDEX),
    "batch_norm": lambda f: f(x(4, 2)),
    "layer_norm": lambda f: f(x(4, 2), (2,)),
    "rms_norm": lambda f: f(x(4, 2), (2,)),
    "group_norm": lambda f: f(x(4, 2, 3), 2),
    "rnn": lambda f: f(x(3, 2, 4), x(2, 5), x(5, 4), x(5, 5)),
    "gru": lambda f: f(x(3, 2, 4), x(2, 5), x(15, 4), x(15, 5)),
    "lstm": lambda f: f(x(3, 2, 4), x(2, 5), x(2, 5), x(20, 4), x(20, 5)),
    **{f"conv{n}d": lambda f, n=n: f(x(1, 2, *(5,) * n), x(3, 2, *(3,) * n)) for n in (1, 2, 3)},
    **{f"max_pool{n}d": lambda f, n=n: f(x(1, 2, *(4,) * n), 2) for n in (1, 2, 3)},
    **{f"avg_pool{n}d": lambda f, n=n: f(x(1, 2, *(4,) * n), 2) for n in (1, 2, 3)},
    **{f"adaptive_max_pool{n}d": lambda f, n=n: f(x(1, 2, *(5,) * n), 2) for n in (1, 2, 3)},
}


def test_all_are_here():
    named = {n for n, p in primitives.items() if inspect.isfunction(getattr(ops, n, None))}
    assert named == set(CALLS)


@pytest.mark.parametrize("name", CALLS)
def test_a_function_computes_what_the_primitive_of_its_name_does(name):
    ran = []
    with using(observer=lambda prim, args, params, out: ran.append(prim.name)):
        CALLS[name](getattr(ops, name))
    # comparisons and conversions of what was given come before it, and nothing after
    assert ran[-1] == name, ran


def test_a_name_without_a_function_is_the_primitive():
    for name, primitive in primitives.items():
        assert getattr(ops, name, primitive) is primitive or name in CALLS
