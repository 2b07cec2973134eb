"""Fused loops that end in reductions give what the references give, wherever the reduced axes lie."""

import numpy as np
import pytest

import minidl
from minidl import as_tensor, ops

pytest.importorskip("numba", reason="the kernels are written in Numba")

CHAINS = {
    "last axis": lambda x, b: (ops.exp(x * 0.1) + b).sum(axis=-1),
    "two of the last axis": lambda x, b: (x * x).mean(axis=-1, keepdims=True) + x.amax(axis=-1, keepdims=True),
    "all but the last": lambda x, b: (ops.relu(x) * b).sum(axis=tuple(range(x.ndim - 1))),
    "all": lambda x, b: (ops.tanh(x) * b).mean(),
    "last axis, and the values": lambda x, b: ((y := x * b), y.sum(axis=-1), y.amax(axis=-1)),
    "first axis, and the values": lambda x, b: ((y := x * b), y.sum(axis=0), y.amin(axis=0)),
    "one in the middle": lambda x, b: (x * b).sum(axis=x.ndim // 2),
    "all but one in the middle": lambda x, b: (x * b).sum(axis=tuple(k for k in range(x.ndim) if k != 1)),
    "softmax": lambda x, b: (e := ops.exp(x - x.amax(axis=-1, keepdims=True))) / e.sum(axis=-1, keepdims=True),
    "nothing before it": lambda x, b: (x.sum(axis=0), x.sum(), x.mean(axis=-1), x.min()),
    "permuted": lambda x, b: (ops.permute(x, axes=tuple(range(x.ndim))[::-1]) * 2).sum(axis=-1),
    "axis of length one": lambda x, b: (x[:1] * b).sum(axis=0),
}


def check(chain, x, b, rtol, atol):
    jitted = minidl.jit(chain)
    expected = chain(as_tensor(x), as_tensor(b))
    for _ in range(2):
        found = jitted(x, b)
    for got, want in zip(*(r if isinstance(r, tuple) else (r,) for r in (found, expected)), strict=True):
        assert got.shape == want.shape and got.dtype == want.dtype
        np.testing.assert_allclose(got.numpy(), want.numpy(), rtol=rtol, atol=atol)
    return jitted


@pytest.mark.parametrize("name", CHAINS)
@pytest.mark.parametrize("shape", [(3, 4), (40, 5000), (2, 3, 4, 5)], ids=str)
def test_reductions(name, shape):
    rng = np.random.default_rng(0)
    x, b = rng.normal(size=shape).astype(np.float32), rng.normal(size=shape[-1:]).astype(np.float32)
    with minidl.use_backend("numba"):
        check(CHAINS[name], x, b, rtol=1e-4, atol=2e-5 * x.size**0.5)


def test_float64_and_nan():
    x, b = np.random.default_rng(0).normal(size=(2, 30, 70))
    x[3, 5] = np.nan
    with minidl.use_backend("numba"):
        for name in ("last axis, and the values", "first axis, and the values", "nothing before it"):
            check(CHAINS[name], x, b[0], rtol=1e-12, atol=1e-12)


def test_nothing_is_left_to_python():
    """Loss and bias gradients of a chain are on the tape with it."""
    with minidl.use_backend("numba"):
        x, b = np.ones((50, 20), np.float32), np.ones(20, np.float32)
        jitted = check(lambda x, b: ((y := ops.relu(x + b)).square().mean(), (2 * y).sum(axis=0)), x, b, 1e-5, 1e-5)
        compiled = jitted.entries[0].run
        assert len(compiled.calls) == 1


@pytest.mark.parametrize("rows, columns", [(1_000_000, 1), (1, 1_000_000), (500_000, 2)])
def test_long_sums_keep_their_precision(rows, columns):
    x = np.random.default_rng(0).random((rows, columns), np.float32)
    with minidl.use_backend("numba"):
        f = minidl.jit(lambda x: x.sum(axis=0) if rows > 1 else x.sum(axis=1))
        f(x)
        np.testing.assert_allclose(f(x).numpy(), x.sum(axis=0 if rows > 1 else 1, dtype=np.float64), rtol=2e-6)


def test_a_parameter_read_after_its_update_has_its_old_value():
    """The loop that reads ``p`` runs at the place of its last step, after the optimizer's."""

    def trajectory(jitted):
        p = minidl.nn.Parameter(np.full(8, 2.0, np.float32))
        optimizer = minidl.optim.SGD([p], lr=0.1, momentum=0.9)

        def step(x):
            optimizer.zero_grad()
            before = p.detach() * 3
            loss = (p * x).square().mean()
            loss.backward()
            optimizer.step()
            return before + loss.detach()

        f = minidl.jit(step) if jitted else step
        return [f(np.arange(8, dtype=np.float32)).numpy().copy() for _ in range(4)]

    with minidl.use_backend("numba"):
        np.testing.assert_allclose(trajectory(True), trajectory(False), rtol=1e-5)


def test_copies_are_on_the_tape():
    def f(x):
        turned = ops.permute(x, axes=(1, 0, 2)).reshape(4, 30)
        return ops.stack([x, x * 2], axis=-2), ops.concat([turned, turned + 1, turned[:, :0]], axis=1)

    with minidl.use_backend("numba"):
        jitted = minidl.jit(f)
        x = np.arange(120, dtype=np.float32).reshape(5, 4, 6)
        for _ in range(2):
            found = jitted(x)
        for got, want in zip(found, f(as_tensor(x))):
            np.testing.assert_array_equal(got.numpy(), want.numpy())
        compiled = jitted.entries[0].run
        assert len(compiled.calls) == 1
