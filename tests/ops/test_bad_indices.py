"""An index that does not fit is refused by every operation that takes one: eager and captured, on every backend."""

import numpy as np
import pytest

import minidl
from minidl import as_tensor, ops

N = 4  # rows, classes
X = np.arange(12, dtype=np.float32).reshape(N, 3)
LOG_P = np.log(np.full((3, N), 0.25, np.float32))


def ctc(index):
    log_p = as_tensor(np.log(np.full((5, 3, N), 0.25, np.float32)))
    return ops.ctc_loss(log_p, index.reshape(3, 1), np.full(3, 5), np.full(3, 1))


#: each with a vector of three indices; what counts from the end is fine for some
OPERATIONS = {
    "getitem": lambda i: as_tensor(X)[i],
    "setitem": lambda i: ops.setitem(as_tensor(X), 0.5, (i,)),
    "take": lambda i: ops.take(as_tensor(X), i, axis=0),
    "index_select": lambda i: ops.index_select(as_tensor(X), 0, i),
    "index_add": lambda i: ops.index_add(as_tensor(X), 0, i, as_tensor(X[:3])),
    "index_copy": lambda i: ops.index_copy(as_tensor(X), 0, i, as_tensor(X[:3])),
    "index_fill": lambda i: ops.index_fill(as_tensor(X), 0, i, 1.0),
    "gather": lambda i: ops.gather(as_tensor(X), 0, i.reshape(1, 3)),
    "scatter": lambda i: ops.scatter(as_tensor(X), 0, i.reshape(1, 3), 1.0),
    "scatter_add": lambda i: ops.scatter_add(as_tensor(X), 0, i.reshape(1, 3), as_tensor(X[:1])),
    "embedding": lambda i: ops.embedding(i, as_tensor(X)),
    "one_hot": lambda i: ops.one_hot(i, num_classes=N),
    "cross_entropy": lambda i: ops.cross_entropy(as_tensor(LOG_P), i),
    "cross_entropy weighted": lambda i: ops.cross_entropy(as_tensor(LOG_P), i, as_tensor(np.ones(N, np.float32))),
    "cross_entropy smoothed": lambda i: ops.cross_entropy(as_tensor(LOG_P), i, label_smoothing=0.1),
    "nll_loss": lambda i: ops.nll_loss(as_tensor(LOG_P), i),
    "focal_loss": lambda i: ops.focal_loss(as_tensor(LOG_P), i),
    "multi_margin_loss": lambda i: ops.multi_margin_loss(as_tensor(LOG_P), i),
    "ctc_loss": ctc,
}
FROM_THE_END = {"getitem", "setitem", "take", "index_fill"}
BAD = {
    "one too many": np.array([0, N, 1]),
    "far": np.array([0, 1, 10**6]),
    "negative": np.array([0, -1, 1]),
    "too negative": np.array([0, -N - 1, 1]),
    "most negative": np.array([-(2**63), 0, 1]),
    "2^63 - 1": np.array([0, 2**63 - 1, 1]),
    "2^64 - 1": np.array([0, 2**64 - 1, 1], np.uint64),
    "int32": np.array([0, N, 1], np.int32),
    "uint8": np.array([0, 255, 1], np.uint8),
}
LAYOUTS = {
    "plain": lambda a: a,
    "strided": lambda a: np.repeat(a, 2)[::2],
    "backwards": lambda a: a[::-1].copy()[::-1],
    "foreign": lambda a: a.astype(a.dtype.newbyteorder()),
    "read-only": lambda a: (b := a.copy(), b.setflags(write=False))[0],
    "misaligned": lambda a: np.frombuffer(b"\0" + a.tobytes(), np.uint8)[1:].view(a.dtype),
}


@pytest.fixture(params=["numpy", "numba", "jax"])
def backend(request):
    pytest.importorskip(request.param, reason=f"{request.param} is not installed")
    with minidl.use_backend(request.param):
        yield request.param


def good(name):
    return np.array([1, 2, 1]) if name == "ctc_loss" else np.array([1, 0, 3])


@pytest.mark.parametrize("name", OPERATIONS)
def test_refused(backend, name):
    f = OPERATIONS[name]
    jitted = minidl.jit(f)
    expected = f(as_tensor(good(name))).numpy()
    np.testing.assert_allclose(jitted(good(name)).numpy(), expected, rtol=1e-5)
    for what, index in BAD.items():
        if what == "negative" and name in FROM_THE_END:
            assert f(as_tensor(index)).shape == jitted(index).shape
            continue
        for run in (f, jitted, jitted):
            with pytest.raises((IndexError, ValueError)) as error:
                run(as_tensor(index))
            assert str(error.value), (name, what)
    # and the program that refused is still right
    np.testing.assert_allclose(jitted(good(name)).numpy(), expected, rtol=1e-5)
    seen = as_tensor(good(name).astype(np.int32))
    np.testing.assert_allclose(jitted(seen).numpy(), expected, rtol=1e-5)
    bad = BAD["int32"]
    with pytest.raises((IndexError, ValueError)):
        jitted(bad)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", OPERATIONS)
def test_layouts(name, layout):
    """On NumPy's arrays, eager and captured, a layout changes neither values nor what is refused."""
    make, f = LAYOUTS[layout], OPERATIONS[name]
    expected = f(as_tensor(good(name))).numpy()
    for backend in ("numpy", "numba"):
        pytest.importorskip(backend, reason=f"{backend} is not installed")
        with minidl.use_backend(backend):
            for run in (f, minidl.jit(f)):
                for _ in range(2):
                    np.testing.assert_allclose(run(as_tensor(make(good(name)))).numpy(), expected, rtol=1e-5)
                with pytest.raises((IndexError, ValueError)):
                    run(as_tensor(make(BAD["one too many"])))


def test_a_refused_step_leaves_the_weights_as_they_were(backend):
    from minidl import nn, optim

    minidl.manual_seed(0)
    model = nn.Linear(3, N)
    optimizer = optim.SGD(model.parameters(), lr=0.1)

    @minidl.jit
    def step(x, y):
        optimizer.zero_grad()
        loss = ops.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        return loss

    x = as_tensor(X[:3])
    step(x, good(""))
    before = model.weight.detach().numpy().copy()
    with pytest.raises(IndexError):
        step(x, BAD["one too many"])
    np.testing.assert_array_equal(model.weight.detach().numpy(), before)
    step(x, good(""))
    assert (model.weight.detach().numpy() != before).any()
