"""Half precision: every primitive computes in float32 and rounds once, so that long sums are right; float16 and
bfloat16, on every backend."""

import ml_dtypes
import numpy as np
import pytest

import minidl
import minidl.nn.functional as F
from minidl import as_tensor, nn, ops, optim
from minidl.autograd import gradients
from minidl.backend import use_backend
from minidl.core.registry import to_numpy

HALVES = [np.dtype(np.float16), np.dtype(ml_dtypes.bfloat16)]
# more than float16 counts to (2048), and a power of two, which both dtypes have
N = 4096


@pytest.fixture(params=["numpy", "numba", "jax"])
def backend(request):
    with use_backend(request.param):
        yield request.param


@pytest.fixture(params=HALVES, ids=str)
def half(request):
    return request.param


def filled(value, shape, dtype):
    return minidl.full(shape, value, dtype=dtype).requires_grad_()


def values(x):
    return to_numpy(x.data).astype(np.float64)


LONG = {
    "sum": (lambda x: ops.sum(x, axis=0), N),
    "mean": (lambda x: ops.mean(x, axis=0), 1),
    "sum_to": (lambda x: ops.elementwise.sum_to(x, (1, 2)), N),
    "norm": (lambda x: ops.norm(x, axis=0), 64),
    "norm of order 1": (lambda x: ops.norm(x, ord=1, axis=0), N),
    "std": (lambda x: ops.std(ops.concat([x, -x]), axis=0, correction=0), 1),
    "cumsum": (lambda x: ops.cumsum(x, axis=0)[-1], N),
    "softmax": (lambda x: ops.softmax(x, axis=0), 1 / N),
    "logsumexp": (lambda x: ops.logsumexp(x, axis=0), 1 + np.log(N)),
    "log_softmax": (lambda x: ops.log_softmax(x, axis=0), -np.log(N)),
    "matmul": (lambda x: x.T @ x, N),
    "einsum": (lambda x: ops.einsum("ni,nj->ij", x, x), N),
    "linear": (lambda x: F.linear(x.T, x.T), N),
    "conv1d": (lambda x: F.conv1d(x.T[None], x.T[None]), 2 * N),
    "avg_pool1d": (lambda x: F.avg_pool1d(x.T[None], N), 1),
    "layer_norm": (lambda x: F.layer_norm(ops.concat([x, -x]).T, (2 * N,))[..., 0], 1),
    "mse_loss": (lambda x: F.mse_loss(x, x * 0), 1),
    "l1_loss": (lambda x: F.l1_loss(x, x * 0, reduction="sum"), 2 * N),
    "cross_entropy": (lambda x: F.cross_entropy(x, np.zeros(N, np.int64), reduction="sum"), N * np.log(2)),
    "take_grad": (lambda x: ops.take_grad(x, np.zeros(N, np.int64), size=1), N),
}


@pytest.mark.parametrize("name", LONG)
def test_long_sums(name, half, backend):
    function, expected = LONG[name]
    out = function(filled(1, (N, 2), half))
    assert out.dtype == half
    np.testing.assert_allclose(values(out), expected, rtol=float(ml_dtypes.finfo(half).eps))


def test_gradients_that_are_long_sums(half, backend):
    x, weight, bias = filled(1, (N, 2), half), filled(1, (3, 2), half), filled(0, (3,), half)
    (g,) = gradients(ops.sum(F.linear(x, weight, bias)), (bias,))
    assert g.dtype == half and (values(g) == N).all()
    (g,) = gradients(ops.sum(x + filled(0, (2,), half) * x), (x,))
    assert g.dtype == half
    images, kernel, shift = filled(1, (N, 1, 1, 1), half), filled(1, (1, 1, 1, 1), half), filled(0, (1,), half)
    for g in gradients(ops.sum(F.conv2d(images, kernel, shift)), (kernel, shift)):
        assert g.dtype == half and (values(g) == N).all()
    table = filled(1, (2, 3), half)
    (g,) = gradients(ops.sum(F.embedding(np.ones(N, np.int64), table)), (table,))
    assert g.dtype == half and values(g).tolist() == [[0] * 3, [N] * 3]
    (g,) = gradients(ops.sum(table[np.ones(N, np.int64)]), (table,))
    assert g.dtype == half and values(g).tolist() == [[0] * 3, [N] * 3]
    row = filled(1, (2,), half)
    (g,) = gradients(ops.sum(ops.broadcast_to(row, shape=(N, 2))), (row,))
    assert g.dtype == half and (values(g) == N).all()


def test_gradients_of_equal_elements_are_counted_right(half, backend):
    x = filled(1, (N, 2), half)
    for f in (ops.amax, ops.amin):
        (g,) = gradients(ops.sum(f(x, axis=0)), (x,))
        assert g.dtype == half and (values(g) == 1 / N).all()
    (g,) = gradients(ops.sum(ops.norm(x, ord=np.inf, axis=0)), (x,))
    assert (values(g) == 1 / N).all()


def test_large_values_do_not_overflow_on_the_way(backend):
    x = filled(300, (10,), np.float16)  # 300² is beyond float16
    assert ops.norm(x).item() == np.float16(300 * np.sqrt(10))
    assert ops.std(ops.concat([x, -x]), correction=0).item() == 300
    (g,) = gradients(ops.norm(x), (x,))
    np.testing.assert_allclose(values(g), 1 / np.sqrt(10), rtol=1e-3)


@pytest.mark.parametrize(
    "f",
    [
        lambda x: 1.5 * x, lambda x: x + 0.1, lambda x: 2 - x, lambda x: x / 3, lambda x: x**2.5, lambda x: x**-1,
        ops.exp, ops.tanh, F.gelu, F.silu, F.mish, F.selu, F.hardswish, F.relu6, ops.rsqrt, ops.square, ops.log2,
        ops.abs, lambda x: ops.clip(x, 0.5, 1.5), lambda x: ops.where(x > 1, x, 0.0), lambda x: ops.maximum(x, 0.5),
        lambda x: F.max_pool1d(x[None, None], 2), lambda x: ops.var(x), lambda x: ops.prod(x),
        lambda x: ops.sort(x)[0], lambda x: ops.cumsum(x, axis=0), lambda x: F.normalize(x, axis=0),
    ],
)  # fmt: skip
def test_dtypes_stay_and_values_are_float32s(f, half, backend):
    data = np.linspace(0.3, 2, 8).astype(half)
    x, wide = as_tensor(data, requires_grad=True), as_tensor(data.astype(np.float32), requires_grad=True)
    out, right = f(x), f(wide)
    assert out.dtype == half and right.dtype == np.float32
    eps = float(ml_dtypes.finfo(half).eps)
    np.testing.assert_allclose(values(out), values(right), rtol=2 * eps, atol=eps)
    (g,), (expected,) = gradients(ops.sum(out), (x,)), gradients(ops.sum(right), (wide,))
    assert g.dtype == half
    np.testing.assert_allclose(values(g), values(expected), rtol=4 * eps, atol=4 * eps)


def test_half_precisions_have_float32_in_common(backend):
    a, b = (minidl.ones((2,), dtype=d) for d in HALVES)
    assert (a + b).dtype == np.float32
    assert (a + minidl.ones((2,), dtype=np.int64)).dtype == HALVES[0]
    assert (b * minidl.ones((2,), dtype=np.int64)).dtype == HALVES[1]


def test_second_derivatives(half):
    x = filled(0.5, (4,), half)
    (g,) = gradients(ops.sum(ops.tanh(x)), (x,), create_graph=True)
    (gg,) = gradients(ops.sum(g), (x,))
    assert g.dtype == gg.dtype == half
    t = np.tanh(0.5)
    np.testing.assert_allclose(values(gg), -2 * t * (1 - t * t), rtol=2e-2)
    logits = filled(0.5, (3, 4), half)
    (g,) = gradients(F.layer_norm(logits * logits, (4,)).sum(), (logits,), create_graph=True)
    assert gradients(g.sum(), (logits,))[0].dtype == half


def test_statistics_and_states_stay_in_float32(half):
    x = filled(1, (N, 3), half)
    out, mean, var = ops.batch_norm(x)
    assert out.dtype == half and mean.dtype == var.dtype == np.float32
    p, g, zero = np.ones(3, half), np.full(3, 300, half), np.zeros(3, np.float32)
    p, m, v = ops.adam_update(p, g, zero, zero, 0.1, 1)
    assert p.dtype == half and m.dtype == v.dtype == np.float32
    np.testing.assert_allclose(v, 90, rtol=1e-2)  # (1 - 0.999) 300², which is beyond float16
    np.testing.assert_allclose(p.astype(np.float32), 0.9, rtol=1e-2)


def test_a_module_in_half_precision(half, backend):
    net = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.LayerNorm(8), nn.Linear(8, 3)).to(half.name)
    x = as_tensor(np.random.default_rng(0).normal(size=(16, 4)).astype(half))
    out = net(x)
    assert out.dtype == half
    F.cross_entropy(out, np.arange(16) % 3).backward()
    assert all(p.grad.dtype == half and np.isfinite(values(p.grad)).all() for p in net.parameters())
    assert nn.Linear(2, 2).bfloat16().weight.dtype == HALVES[1]


@pytest.mark.parametrize("compiler", ["numpy", "numba", "jax"])
def test_compiled(half, compiler):
    """A captured step gives what the eager one gives, to a rounding at each of its primitives."""

    def step(x, w):
        out = F.softmax(F.layer_norm(x @ w, (8,)) * 1.5, axis=0)
        (g,) = gradients(ops.sum(out * out), (w,))
        return out, g

    rng = np.random.default_rng(0)
    with use_backend(compiler):
        x, w = (as_tensor(rng.normal(size=s).astype(half)) for s in ((64, 4), (4, 8)))
        w.requires_grad_()
        eager, compiled = step(x, w), minidl.jit(step)
        for out, expected in zip(compiled(x, w), eager):
            assert out.dtype == half
            tolerance = 8 * float(ml_dtypes.finfo(half).eps)
            np.testing.assert_allclose(values(out.detach()), values(expected), rtol=tolerance, atol=tolerance / 8)


def test_optimizers_and_clipping(half, backend):
    parameters = [nn.Parameter(minidl.zeros((3,), dtype=half).data) for _ in range(10)]
    for p in parameters:
        p.grad = minidl.full((3,), 300, dtype=half)  # 300² is beyond float16
    total = optim.clip_grad_norm_(parameters, 1.0)
    assert total.dtype == np.float32 and total.item() == pytest.approx(300 * np.sqrt(30), rel=1e-2)
    np.testing.assert_allclose(values(parameters[0].grad), 1 / np.sqrt(30), rtol=1e-2)
    for make in (optim.Adam, optim.NAdam, optim.Adagrad, optim.RMSprop):
        optimizer = make(parameters, lr=0.125)
        optimizer.step()
        optimizer.load_state_dict(optimizer.state_dict())
        optimizer.step()
        p = parameters[0]
        assert p.dtype == half
        states = [v for v in optimizer.state[p].values() if hasattr(v, "dtype")]
        assert states and all(v.dtype == np.float32 for v in states)
