"""Compiled programs on arrays of every kind, and called from several threads."""

import sys
import threading

import numpy as np
import pytest

pytest.importorskip("numba", reason="the compiler is Numba's")

import minidl
from minidl import as_tensor, nn, ops, optim


@pytest.fixture(autouse=True)
def numba_backend():
    with minidl.use_backend("numba"):
        yield


FLOATS = np.arange(12, dtype=np.float32).reshape(3, 4)
GAPS = np.zeros((3, 4), np.dtype([("a", "f4"), ("b", "u1")]))
GAPS["a"] = FLOATS
ODD = {
    "foreign byte order": FLOATS.astype(">f4"),
    "foreign byte order, float64": FLOATS.astype(">f8"),
    "foreign byte order, integers": FLOATS.astype(">i4"),
    "backwards": FLOATS[::-1, ::-1],
    "backwards, every other": FLOATS[:, ::-2],
    "in gaps of odd size": GAPS["a"],
    "not aligned": np.frombuffer(b"x" + FLOATS.tobytes(), np.float32, offset=1).reshape(3, 4),
    "repeated": np.broadcast_to(FLOATS[0], (3, 4)),
    "turned": np.ascontiguousarray(FLOATS.T).T,
}
FUNCTIONS = {
    "loop": lambda x: ops.tanh(x * 0.5) + x,
    "sum": lambda x: (x * 2).sum(axis=0),
    "product": lambda x: ops.matmul(x * 1.0, ops.permute(x, axes=(1, 0)) * 1.0),
    "views": lambda x: x.reshape(-1)[1:] + x.reshape(-1)[:-1],
    "kernel": lambda x: ops.softmax(x * 1.0, axis=-1),
    "nothing": lambda x: (x, x.reshape(-1), ops.permute(x, axes=(1, 0))),
    "side by side": lambda x: ops.concat([x, x], axis=1),
}


def leaves(result):
    return [t.detach().numpy() for t in (result if isinstance(result, tuple) else (result,))]


@pytest.mark.parametrize("what", FUNCTIONS)
@pytest.mark.parametrize("kind", ODD)
@pytest.mark.parametrize("captured", [False, True], ids=["argument", "captured"])
def test_odd_arrays(kind, what, captured):
    """As arguments, and as tensors from outside: their values, in the dtype that eager calls give."""
    function, x = FUNCTIONS[what], ODD[kind]
    expected = leaves(function(as_tensor(x)))
    outside = as_tensor(x)
    jitted = minidl.jit((lambda: function(outside)) if captured else function)
    for _ in range(3):
        found = leaves(jitted() if captured else jitted(x))
    for got, want in zip(found, expected, strict=True):
        assert got.dtype == want.dtype
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", ["foreign byte order", "backwards", "turned"])
def test_odd_arrays_are_updated(kind):
    """Parameters keep their arrays, whatever those are like."""
    found = []
    for jitted in (False, True):
        p = nn.Parameter(np.ones((3, 4), np.float32))
        p.array = ODD[kind].copy(order="K") if kind != "backwards" else ODD[kind].copy()[::-1, ::-1]
        optimizer = optim.SGD([p], lr=0.1, momentum=0.9)

        def step(x, p=p, optimizer=optimizer):
            optimizer.zero_grad()
            loss = (p * x).square().sum()
            loss.backward()
            optimizer.step()
            return loss

        run = minidl.jit(step) if jitted else step
        losses = [run(as_tensor(FLOATS * 0.01)).item() for _ in range(4)]
        found.append((losses, np.array(p.detach().numpy(), np.float64)))
    np.testing.assert_allclose(found[1][0], found[0][0], rtol=1e-5)
    np.testing.assert_allclose(found[1][1], found[0][1], rtol=1e-5)


def test_views_follow_an_array_that_was_replaced():
    """``reshape`` is a view of one array and a copy of the next."""
    outside = as_tensor(FLOATS.copy())
    jitted = minidl.jit(lambda: outside.reshape(-1) * 2)
    for array in (FLOATS.copy(), np.ascontiguousarray(FLOATS.T).T, FLOATS.copy()[::-1], FLOATS.astype(">f4")):
        outside.array = array
        for k in range(3):
            np.testing.assert_array_equal(jitted().numpy(), outside.array.reshape(-1) * 2)
            outside.array[...] = outside.array + k


def test_threads_share_a_program():
    """Two threads at once: each gets the results for its own arguments."""
    weight = as_tensor(np.linspace(-1, 1, 64 * 64, dtype=np.float32).reshape(64, 64))

    def f(x):
        h = ops.matmul(x, weight)
        return (ops.tanh(h) + x).square().mean(axis=-1), ops.softmax(h, axis=-1)

    jitted = minidl.jit(f)
    xs = [as_tensor(np.random.default_rng(k).normal(size=(8, 64)).astype(np.float32)) for k in range(4)]
    expected = [leaves(f(x)) for x in xs]
    jitted(xs[0])
    wrong = []

    def work(mine):
        with minidl.use_backend("numba"):
            for i in range(300):
                k = mine[i % 2]
                for got, want in zip(leaves(jitted(xs[k])), expected[k]):
                    if not np.allclose(got, want, rtol=1e-4, atol=1e-5):
                        wrong.append((k, np.abs(got - want).max()))

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        threads = [threading.Thread(target=work, args=(mine,)) for mine in ((0, 1), (2, 3))]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
    finally:
        sys.setswitchinterval(before)
    assert not wrong


def test_threads_train_models_of_their_own():
    """As one after the other: 300 steps of each model."""

    def make(seed):
        minidl.manual_seed(seed)
        model = nn.Sequential(nn.Linear(16, 300), nn.Tanh(), nn.Linear(300, 4))
        optimizer = optim.AdamW(model.parameters(), lr=1e-3)

        def step(x, y):
            optimizer.zero_grad()
            loss = ops.cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()
            return loss

        return minidl.jit(step)

    rng = np.random.default_rng(0)
    # enough rows for the product that has a workspace
    x, y = rng.normal(size=(1024, 16)).astype(np.float32), rng.integers(0, 4, 1024)
    expected = [[step(x, y).item() for _ in range(300)] for step in (make(0), make(1))]
    steps, found = [make(0), make(1)], [[], []]

    def work(k):
        with minidl.use_backend("numba"):
            found[k] += [steps[k](x, y).item() for _ in range(300)]

    threads = [threading.Thread(target=work, args=(k,)) for k in range(2)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    np.testing.assert_allclose(found, expected, rtol=1e-4)


HUGE = np.array([0, 2**64 - 1], np.uint64)
INDEXING = {
    "embedding": lambda i, w: ops.embedding(i, w),
    "take": lambda i, w: ops.take(w, i, axis=0),
    "gather": lambda i, w: ops.gather(w[:2, 0], i, axis=0),
    "take_grad": lambda i, w: ops.take_grad(w[:2], i, axis=0, size=3),
    "getitem": lambda i, w: w[i],
    "cross_entropy": lambda i, w: ops.cross_entropy(w[:2], i),
    "cross_entropy, ignored": lambda i, w: ops.cross_entropy(w[:2], i, ignore_index=-1),
}


@pytest.mark.parametrize("what", INDEXING)
def test_an_unsigned_index_does_not_count_from_the_end(what):
    def step(i):
        w = as_tensor(FLOATS, requires_grad=True)
        loss = INDEXING[what](i, w).sum()
        loss.backward()
        return loss, w.grad

    fitting = as_tensor(np.array([0, 1], np.uint64))
    expected = step(as_tensor(np.array([0, 1])))
    for run in (step, minidl.jit(step)):
        for _ in range(2):
            for got, want in zip(leaves(run(fitting)), leaves(expected), strict=True):
                np.testing.assert_array_equal(got, want)
        with pytest.raises(IndexError):
            run(as_tensor(HUGE))
