"""Child processes, forked or spawned after minidl has computed: they compute what the parent does."""

import multiprocessing

import numpy as np
import pytest

import minidl
from minidl import nn, optim


def training(backend, jit):
    """Losses of some steps, large enough for kernels' own threads."""
    minidl.manual_seed(0)
    with minidl.use_backend(backend):
        model = nn.Sequential(nn.Linear(64, 256), nn.GELU(), nn.Dropout(0.2), nn.Linear(256, 10))
        optimizer = optim.Adam(model.parameters(), lr=0.01)
        x, y = minidl.randn(128, 64), minidl.randint(0, 10, (128,))

        def step(x, y):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()
            return loss

        step = minidl.jit(step) if jit else step
        return [step(x, y).item() for _ in range(4)]


def child(queue, backend, jit):
    queue.put(training(backend, jit))


@pytest.mark.parametrize("jit", [False, True])
@pytest.mark.parametrize("backend", ["numpy", "numba"])
@pytest.mark.parametrize("how", ["fork", "spawn"])
def test_children_compute_what_the_parent_does(how, backend, jit):
    if how == "fork" and backend == "numba":
        pytest.skip("Numba ends a forked child that uses its OpenMP threads after the parent has: spawn, or numpy")
    expected = training(backend, jit)
    context = multiprocessing.get_context(how)
    queue = context.Queue()
    process = context.Process(target=child, args=(queue, backend, jit))
    process.start()
    try:
        found = queue.get(timeout=120)
    finally:
        process.join(120)
    assert process.exitcode == 0
    np.testing.assert_array_equal(found, expected)
    assert training(backend, jit) == expected  # and the parent goes on
