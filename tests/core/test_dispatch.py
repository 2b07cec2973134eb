"""The fast twins of dispatch do what the plain way does; one function chooses kernels."""

import operator
import random

import numpy as np
import pytest

import minidl
from minidl import Tensor, as_tensor, nn, ops
from minidl.backend import Backend, kernel, load, unregister_kernel, use_backend
from minidl.core import registry
from minidl.core.context import current, using
from minidl.core.dispatch import choose
from minidl.core.graph import Node

_BINARY = [
    operator.add,
    operator.sub,
    operator.mul,
    operator.truediv,
    operator.pow,
    operator.lt,
    operator.eq,
    ops.maximum,
]
_UNARY = [
    ops.exp, ops.tanh, ops.relu, ops.abs, operator.neg, Tensor.square, Tensor.sum, ops.sign, ops.isnan, ops.softmax,
    lambda x: x.mean(axis=0, keepdims=True), lambda x: ops.clip(x, min=-1.0, max=1.0), lambda x: x.T,
    lambda x: x[..., :2], lambda x: x.astype(np.float64), lambda x: x.reshape(-1), lambda x: x.detach(),
    lambda x: x @ x.mT if x.ndim == 2 else +x,
]  # fmt: skip


def _leaves(rng):
    arrays = [rng.normal(size=shape).astype(dtype) for shape in [(3, 3), (3,), (1, 3), ()] for dtype in ["f4", "f8"]]
    tensors = [as_tensor(a, requires_grad=i % 3 != 0) for i, a in enumerate(arrays)]
    return [
        *tensors,
        as_tensor(rng.integers(-3, 3, (3, 3))),
        2,
        -0.5,
        np.float32(1.5),
        arrays[0],
        as_tensor(np.zeros((0, 3))),
    ]


def _program(seed):
    """Values of a random program, run on fresh leaves drawn from the same seed."""
    leaves = _leaves(np.random.default_rng(seed))
    draw, pool, made = random.Random(seed), list(leaves), []
    for _ in range(12):
        try:
            if draw.random() < 0.5:
                out = draw.choice(_BINARY)(draw.choice(pool), draw.choice(pool))
            else:
                out = draw.choice(_UNARY)(draw.choice([p for p in pool if isinstance(p, Tensor)]))
        except (ValueError, TypeError, IndexError) as error:
            out = f"{type(error).__name__}: {error}"
        made.append(out)
        if isinstance(out, Tensor):
            pool.append(out)
    return leaves, made


def _described(leaves, made):
    """All there is to tell about the results, their graph, and the gradients that it gives."""
    numbers = {}

    def node(n):
        n = n[0] if type(n) is tuple else n
        if n is None or not isinstance(n, Node):
            return type(n).__name__
        kept = n.saved if type(n.saved) is dict else dict(enumerate(n.saved))
        return (
            n.prim.name, n.needs, dict(n.params), numbers.setdefault(id(n), len(numbers)),
            [numbers.get(id(e[0] if type(e) is tuple else e), type(e).__name__) for e in n.edges], sorted(kept),
            n.shapes and [tuple(s) for s in n.shapes], n.out is not None,
        )  # fmt: skip

    told = []
    for out in made:
        if isinstance(out, Tensor):
            told.append((str(out.dtype), out.shape, out.array.tobytes(), out.requires_grad, node(out._node)))
            told.append(out._base is not None)
        else:
            told.append(str(out))
    for out in made:
        if isinstance(out, Tensor) and out.requires_grad:
            ops.sum(out).backward(retain_graph=True)
    told += [x.grad.array.tobytes() for x in leaves if isinstance(x, Tensor) and x.grad is not None]
    return told


@pytest.mark.parametrize("start", range(0, 200, 20))
def test_the_fast_twins_do_what_the_plain_way_does(start):
    with np.errstate(all="ignore"):
        for seed in range(start, start + 20):
            fast = _described(*_program(seed))
            with using(fast=False):
                plain = _described(*_program(seed))
            assert fast == plain, f"program {seed}"


def test_the_short_way_is_taken_only_where_nothing_watches():
    def fast():
        return current().direct[ops.exp] is not None

    assert fast()
    with using(observer=print):
        assert not fast()
    with minidl.autograd.detect_anomaly():
        assert not fast()
    with use_backend("numpy", strict=True):
        assert fast()  # the formula is as good as NumPy has it
    assert fast()


def test_a_parents_kernel_comes_before_the_formula():
    class Child(Backend):
        name, parent = "child-for-this-test", "numpy"

    child = registry.register(Child())
    try:
        with use_backend(child):
            assert choose(ops.sin, child, [np.zeros(2)], {}) is None

            @kernel("sin", backend="numpy")
            def parents(x):
                return np.full_like(x, 1)

            assert choose(ops.sin, child, [np.zeros(2)], {}).function is parents
            assert ops.sin(as_tensor([0.0])).item() == ops.sin(np.zeros(1))[0] == 1

            @kernel("sin", backend=child.name, when=lambda x: x.size > 1)
            def own(x):
                return np.full_like(x, 2)

            assert ops.sin(as_tensor([0.0])).item() == 1 and ops.sin(as_tensor([0.0, 0.0]))[0].item() == 2
            labels = [row["served_by"] for row in minidl.backend.explain("sin")]
            assert [label.rpartition(".")[2] for label in labels[:2]] == ["own", "parents"]
            with use_backend(child, strict=True), pytest.raises(minidl.backend.BackendError, match="strict mode"):
                ops.sin(as_tensor([0.0]))
        assert load("numba").parent == "numpy"
    finally:
        unregister_kernel(parents)
        unregister_kernel(own)
        del registry.backends[child.name]
    assert ops.sin(as_tensor([0.0])).item() == 0


def test_both_spellings_everywhere():
    x = as_tensor(np.arange(6.0).reshape(2, 3))
    for call in (
        lambda **k: x.sum(**k), lambda **k: ops.mean(x, **k), lambda **k: x.std(**k), lambda **k: ops.logsumexp(x, **k),
        lambda **k: ops.var(x, **k), lambda **k: x.amax(**k),
    ):  # fmt: skip
        theirs, ours = call(dim=1, keepdim=True), call(axis=1, keepdims=True)
        assert theirs.shape == (2, 1) and np.array_equal(theirs.array, ours.array)
    for call in (
        lambda **k: x.softmax(**k),
        lambda **k: ops.squeeze(x, **k),
        lambda **k: nn.functional.softmax(x, **k),
    ):
        assert np.array_equal(call(dim=1).array, call(axis=1).array)
    assert ops.cat([x, x], dim=1).shape == (2, 6) and ops.stack([x, x], dim=2).shape == (2, 3, 2)
    assert x.split(1, dim=0)[1].shape == (1, 3) and x.flatten(start_dim=0).shape == (6,)
    assert np.array_equal(ops.add(input=x, other=x).array, 2 * x.array)
    with pytest.raises(TypeError, match=r"both 'dim' and 'axis'|both 'axis' and 'dim'"):
        ops.sum(x, dim=0, axis=1)
    with pytest.raises(TypeError, match="axle"):
        x.sum(axle=1)
