"""Optimizers that PyTorch lacks, against their papers' formulas in float64."""

import numpy as np
import pytest

from minidl import as_tensor, optim


def run(make, dtype, steps=100, shape=(5, 3)):
    """Trajectory with given gradients: ours, and (starting point, gradients) for the formula."""
    rng = np.random.default_rng(5)
    start = rng.normal(size=shape)
    gradients = rng.normal(size=(steps, *shape)) + 0.3
    p = as_tensor(start.astype(dtype), requires_grad=True)
    optimizer = make([p])
    for g in gradients:
        p.grad = as_tensor(g.astype(dtype))
        optimizer.step()
    assert p.dtype == dtype
    return p.array, start, gradients


def lamb(w, gradients, lr, b1, b2, eps, decay, adapt):
    m = v = 0.0
    for t, g in enumerate(gradients, 1):
        m = b1 * m + (1 - b1) * g
        v = b2 * v + (1 - b2) * g**2
        r = (m / (1 - b1**t)) / (np.sqrt(v / (1 - b2**t)) + eps) + decay * w
        ratio = np.linalg.norm(w) / np.linalg.norm(r) if adapt else 1.0
        w = w - lr * ratio * r
    return w


def lars(w, gradients, lr, momentum, decay, eta, adapt):
    velocity = 0.0
    for g in gradients:
        local = eta * np.linalg.norm(w) / (np.linalg.norm(g) + decay * np.linalg.norm(w)) if adapt else 1.0
        velocity = momentum * velocity + lr * local * (g + decay * w)
        w = w - velocity
    return w


def lion(w, gradients, lr, b1, b2, decay):
    m = 0.0
    for g in gradients:
        c = b1 * m + (1 - b1) * g
        w = w - lr * (np.sign(c) + decay * w)
        m = b2 * m + (1 - b2) * g
    return w


@pytest.fixture(params=[np.float32, np.float64])
def dtype(request):
    return request.param


def close(found, expected):
    rtol, atol = (1e-5, 1e-6) if found.dtype == np.float32 else (1e-12, 1e-13)
    np.testing.assert_allclose(found, expected, rtol=rtol, atol=atol)


@pytest.mark.parametrize("decay", [0.0, 0.05])
@pytest.mark.parametrize("adapt", [True, False])
def test_lamb(dtype, decay, adapt):
    found, start, gradients = run(
        lambda p: optim.LAMB(p, lr=0.01, betas=(0.8, 0.99), weight_decay=decay, adapt=adapt), dtype
    )
    close(found, lamb(start, gradients, 0.01, 0.8, 0.99, 1e-6, decay, adapt))


@pytest.mark.parametrize("decay", [0.0, 0.05])
@pytest.mark.parametrize("adapt", [True, False])
def test_lars(dtype, decay, adapt):
    found, start, gradients = run(
        lambda p: optim.LARS(p, lr=0.02, momentum=0.8, weight_decay=decay, trust_coefficient=0.5, adapt=adapt), dtype
    )
    close(found, lars(start, gradients, 0.02, 0.8, decay, 0.5, adapt))


@pytest.mark.parametrize("decay", [0.0, 0.05])
def test_lion(dtype, decay):
    found, start, gradients = run(lambda p: optim.Lion(p, lr=0.01, betas=(0.9, 0.95), weight_decay=decay), dtype)
    close(found, lion(start, gradients, 0.01, 0.9, 0.95, decay))


@pytest.mark.parametrize("make", [optim.LAMB, optim.LARS])
def test_zero_norms_give_a_plain_step(make):
    p = as_tensor(np.zeros((3, 2)), requires_grad=True)
    optimizer = make([p], lr=0.1)
    p.grad = as_tensor(np.zeros((3, 2)))
    optimizer.step()
    np.testing.assert_array_equal(p.array, 0)
    p.grad = as_tensor(np.ones((3, 2)))
    optimizer.step()
    assert np.isfinite(p.array).all()
    assert (p.array < 0).all()


@pytest.mark.parametrize("make", [optim.LAMB, optim.LARS, optim.Lion])
def test_maximize_is_descent_on_the_negated_gradient(make):
    up, down = (as_tensor(np.full((2, 2), 0.5), requires_grad=True) for _ in range(2))
    maximizer, minimizer = make([up], maximize=True, weight_decay=0.1), make([down], weight_decay=0.1)
    rng = np.random.default_rng(0)
    for _ in range(5):
        g = rng.normal(size=(2, 2))
        up.grad, down.grad = as_tensor(g), as_tensor(-g)
        maximizer.step()
        minimizer.step()
    np.testing.assert_array_equal(up.array, down.array)
