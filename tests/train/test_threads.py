"""Two threads that train two models at once get what each gets alone, to the bit."""

import sys
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import numpy as np
import pytest

import minidl
from minidl import nn, ops, optim
from minidl.data import DataLoader, TensorDataset

STEPS = 12


def images(seed):
    """40 pictures of 8x8 and their classes: so small that BLAS does not split a product over its threads."""
    rng = np.random.default_rng(seed)
    return rng.standard_normal((40, 1, 8, 8), dtype=np.float32), rng.integers(0, 5, 40)


def convnet():
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Dropout(0.3), nn.Linear(64, 5),
    )  # fmt: skip


def mlp():
    return nn.Sequential(
        nn.Flatten(), nn.Linear(64, 32), nn.GELU(), nn.LayerNorm(32), nn.Dropout(0.1), nn.Linear(32, 5)
    )


TASKS = {"convnet": (convnet, optim.AdamW, 1), "mlp": (mlp, optim.SGD, 2)}
BACKENDS = [("numpy", "numpy"), ("numpy", "numba"), ("numba", "numba")]


def train(task, backend, jit, meet):
    """Losses of the steps, then the weights and buffers; ``meet()`` is called before every step."""
    make, optimizer_type, seed = TASKS[task]
    with minidl.use_backend(backend):
        minidl.manual_seed(seed)
        model = make()
        optimizer = optimizer_type(model.parameters(), lr=1e-2)
        batches = DataLoader(TensorDataset(*images(seed)), batch_size=8, shuffle=True, seed=seed)

        def step(x, y):
            optimizer.zero_grad()
            loss = ops.cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()
            return loss

        run = minidl.jit(step) if jit else step
        losses = []
        while len(losses) < STEPS:
            for x, y in batches:
                meet()
                losses.append(run(minidl.as_tensor(x), minidl.as_tensor(y)).item())
        assert minidl.get_backend().name == backend
        return [np.array(losses), *(a.numpy() for a in model.state_dict().values())]


@pytest.fixture
def quick_switching():
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


@pytest.mark.parametrize("captured", [(False, False), (True, False), (True, True)], ids=["eager", "one jit", "jit"])
@pytest.mark.parametrize("backends", BACKENDS, ids="-".join)
def test_two_trainings_at_once(backends, captured, quick_switching):
    if "numba" in backends:
        pytest.importorskip("numba", reason="one of the two backends")
    jobs = list(zip(TASKS, backends, captured))
    alone = [train(*job, lambda: None) for job in jobs]
    barrier = Barrier(2)
    for _ in range(3):
        with ThreadPoolExecutor(2) as pool:
            running = [pool.submit(train, *job, lambda: barrier.wait(60)) for job in jobs]
            together = [future.result() for future in running]
        for job, got, expected in zip(jobs, together, alone):
            for a, b in zip(got, expected, strict=True):
                np.testing.assert_array_equal(a, b, err_msg=str(job))
