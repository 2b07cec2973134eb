"""Optimizer updates on numba."""

import numpy as np
import pytest

import minidl
from minidl.backend import load, use_backend
from minidl.ops import primitives
from minidl.testing.pytest_plugin import conformance_tests

pytest.importorskip("numba", reason="the numba backend needs numba (pip install 'minidl[numba]')")

test_conformance = conformance_tests("numba", module="minidl_kernels.numba.kernels.optimizer", max_examples=20)

SHAPES = [(), (0,), (3, 5), (250, 200)]  # the last with threads


def _arrays(rng, shape, dtype, count):
    p, g, *state = (np.asarray(rng.normal(size=shape), dtype) for _ in range(count))
    return [p, g, *(np.asarray(np.square(s)) for s in state)]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(
    "options",
    [{}, {"weight_decay": 0.1}, {"weight_decay": 0.1, "decoupled": True}, {"maximize": True, "beta1": 0.0}],
)
@pytest.mark.parametrize("amsgrad", [False, True])
def test_adam(agree, rng, amsgrad, options, shape, dtype):
    p, g, m, v, largest = _arrays(rng, shape, dtype, 5)
    agree("adam_update", p, g, m, v, 1e-2, 3, largest if amsgrad else None, **options)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"momentum": 0.9},
        {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1},
        {"momentum": 0.9, "dampening": 0.5, "maximize": True},
    ],
)
@pytest.mark.parametrize("step", [1, 2])
def test_sgd(agree, rng, step, options, shape, dtype):
    p, g, buf = _arrays(rng, shape, dtype, 3)
    agree("sgd_update", p, g, 0.1, step, buf if options else None, **options)


def test_numbers_may_be_0d_arrays(agree, rng):
    p, g, m, v = _arrays(rng, (4,), np.float64, 4)
    agree("adam_update", p, g, m, v, np.array(0.1), np.array(3))


def test_updates_are_in_place(rng):
    kernels = load("numba").kernels
    p, g, m, v = _arrays(rng, (4, 5), np.float32, 4)
    kept = g.copy()
    new = kernels["adam_update"][0].function(p, g, m, v, 0.1, 1)
    assert all(a is b for a, b in zip(new, (p, m, v)))
    (new,) = kernels["sgd_update"][0].function(p, g, 0.1, 1)
    assert new is p
    assert kernels["ema_update"][0].function(p, g, 0.9) is p
    np.testing.assert_array_equal(g, kept)


def test_arrays_that_cannot_be_written_to_are_left_to_the_reference(rng):
    kernels = load("numba").kernels
    p, g, m, v = _arrays(rng, (4, 5), np.float32, 4)
    assert kernels["adam_update"][0].when(p, g, m, v, 0.1, 1)
    v.flags.writeable = False
    assert not kernels["adam_update"][0].when(p, g, m, v, 0.1, 1)
    assert not kernels["sgd_update"][0].when(p.T, g.T, 0.1, 1)


@pytest.mark.parametrize("name", ["Adam", "AdamW", "SGD"])
def test_training_is_that_of_the_references(rng, name):
    x, y = rng.normal(size=(20, 3)), rng.normal(size=(20, 2))

    def train(backend):
        with use_backend(backend):
            w = minidl.tensor(np.zeros((2, 3)), requires_grad=True)
            options = {"momentum": 0.9} if name == "SGD" else {}
            optimizer = getattr(minidl.optim, name)([w], lr=0.01, **options)
            for _ in range(5):
                optimizer.zero_grad()
                loss = ((minidl.tensor(x) @ w.T - minidl.tensor(y)) ** 2).mean()
                loss.backward()
                optimizer.step()
            return w.array

    np.testing.assert_allclose(train("numba"), train("numpy"), rtol=1e-10)


def test_donated_inputs_are_what_the_kernels_write_to():
    assert {"p", "m", "v", "max_v"} <= set(primitives["adam_update"].donated)
    assert {"p", "buf"} <= set(primitives["sgd_update"].donated)


@pytest.mark.parametrize(
    "make",
    [
        lambda p: minidl.optim.SGD(p, lr=0.1),
        lambda p: minidl.optim.SGD(p, lr=0.1, momentum=0.9, dampening=0.1, weight_decay=0.01),
        lambda p: minidl.optim.AdamW(p, lr=0.1),
        lambda p: minidl.optim.Adam(p, lr=0.1, amsgrad=True, maximize=True),
        lambda p: minidl.optim.Adam([{"params": p[:2]}, {"params": p[2:], "lr": 0.01, "weight_decay": 0.1}], lr=0.1),
    ],
    ids=["sgd", "momentum", "adamw", "amsgrad", "groups"],
)
@pytest.mark.parametrize("apart", [False, True])
def test_a_captured_step_updates_all_at_once(make, apart, rng):
    """As many calls as groups; and right also where one parameter was updated more often than the others."""
    start = [rng.normal(size=s).astype(np.float32) for s in [(3,), (200, 300), (), (5, 7), (0, 3)]]
    target = [rng.normal(size=a.shape).astype(np.float32) for a in start]
    found = []

    def train(jitted):
        params = [minidl.nn.Parameter(a.copy()) for a in start]
        optimizer = make(params)
        if apart:
            params[1].grad = minidl.as_tensor(np.ones_like(start[1]))
            optimizer.step()

        def step():
            optimizer.zero_grad()
            loss = sum((p - t).square().sum() for p, t in zip(params, target))
            loss.backward()
            optimizer.step()
            return loss

        run = minidl.jit(step) if jitted else step
        for _ in range(4):
            run()
        found.append([np.array(p.detach()) for p in params])
        return run, len(optimizer.param_groups)

    with minidl.use_backend("numba"):
        train(False)
        run, groups = train(True)
        for a, b in zip(*found):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
        compiled = run.entries[0].run
        updates = [c for c in compiled.calls if "_end_updates" in getattr(c, "__qualname__", "")]
        assert len(updates) == groups
