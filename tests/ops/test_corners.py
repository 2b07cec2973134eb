"""Shapes and dtypes in the corners: what PyTorch gives, or one clear error."""

import numpy as np
import pytest

import minidl
import minidl.nn.functional as F
from minidl import as_tensor, nn, ops

X = np.array([1.0, 2.0], np.float32)


@pytest.fixture(params=["numpy", "numba", "jax"])
def backend(request):
    pytest.importorskip(request.param, reason=f"{request.param} is not installed")
    with minidl.use_backend(request.param):
        yield request.param


@pytest.mark.parametrize("reps", [(2, 1, 2), (3,), (), (2, 0), (1, 1, 1, 2)])
def test_tile(reps):
    x = np.arange(6.0).reshape(2, 3)
    np.testing.assert_array_equal(ops.tile(as_tensor(x), reps).numpy(), np.tile(x, reps))


@pytest.mark.parametrize("reduce", [lambda a: a.sum(0), lambda a: a.mean(0), lambda a: a.amax(0), lambda a: a.prod(0)])
def test_reductions_of_a_number(reduce):
    a = as_tensor(np.float32(3), requires_grad=True)
    out = reduce(a)
    assert out.shape == () and out.item() == 3
    out.backward()
    assert a.grad.item() == 1


def test_logic_of_numbers(backend):
    a, b = as_tensor([1, 2, 0, 0]), as_tensor([2, 0, 4, 0])
    for name, function in (("and", np.logical_and), ("or", np.logical_or), ("xor", np.logical_xor)):
        for found in (getattr(ops, f"logical_{name}")(a, b), minidl.jit(getattr(ops, f"logical_{name}"))(a, b)):
            assert found.dtype == bool
            np.testing.assert_array_equal(found.numpy(), function(a.numpy(), b.numpy()))
        floats = getattr(ops, f"logical_{name}")(a.float(), b.float())
        np.testing.assert_array_equal(floats.numpy(), function(a.numpy(), b.numpy()))
    assert ops.logical_not(a).tolist() == [False, False, True, True]
    assert (a & b).tolist() == [0, 0, 0, 0] and (a | b).tolist() == [3, 2, 4, 0] and (~a).tolist() == [-2, -3, -1, -1]
    assert (a ^ 3).tolist() == [2, 1, 3, 3]


@pytest.mark.parametrize(
    "f",
    [
        lambda x, n: x.clamp(n), lambda x, n: ops.clip(x, max=n), lambda x, n: ops.where(x > 1, x, n),
        lambda x, n: ops.where(x > 1, n, x), lambda x, n: ops.masked_fill(x, x > 1, n), lambda x, n: x + n,
        lambda x, n: x ** n, lambda x, n: F.leaky_relu(x, n), lambda x, n: F.elu(x, n), lambda x, n: F.softplus(x, n),
        lambda x, n: ops.lerp(x, x, n), lambda x, n: F.huber_loss(x, 2 * x, delta=n),
        lambda x, n: F.cross_entropy(x.reshape(1, 2), as_tensor([1]), label_smoothing=n),
        lambda x, n: ops.clip(x, n, np.float64(1.5)), lambda x, n: F.layer_norm(x, (2,), eps=n),
    ],
)  # fmt: skip
def test_numpys_scalars_are_weak(backend, f):
    x = as_tensor(X)
    expected = f(x, 0.5)
    for found in (f(x, np.float64(0.5)), minidl.jit(f)(x, np.float64(0.5))):
        assert found.dtype == np.float32
        np.testing.assert_allclose(found.numpy(), expected.numpy(), rtol=1e-6)


def test_integers_with_float_bounds(backend):
    for f in (lambda x: x.clamp(1.5, 2.5), minidl.jit(lambda x: x.clamp(1.5, 2.5))):
        found = f(as_tensor([1, 2, 3]))
        assert found.dtype == np.float32 and found.tolist() == [1.5, 2, 2.5]
    assert as_tensor([1, 2, 3]).clamp(2, 2).dtype == np.int64


def test_padding_idx_from_the_end(backend):
    weight = as_tensor(np.ones((3, 2), np.float32), requires_grad=True)
    F.embedding(as_tensor([0, 2, 2]), weight, padding_idx=-1).sum().backward()
    assert weight.grad.tolist() == [[1, 1], [0, 0], [0, 0]]
    with pytest.raises(ValueError, match="padding_idx -4"):
        F.embedding(as_tensor([0]), weight, padding_idx=-4)


def test_reshape_takes_minus_one_only():
    with pytest.raises(ValueError, match="reshape"):
        as_tensor(np.ones((4, 3))).reshape(-2, 6)


@pytest.mark.parametrize("f", [lambda x, y: x // y, lambda x, y: x % y], ids=["floor_divide", "remainder"])
def test_integers_divided_by_zero(backend, f):
    x = as_tensor([7, -7, 5])
    jitted = minidl.jit(f)
    good = as_tensor([2, 2, 3])
    assert f(x, good).tolist() == jitted(x, good).tolist()
    for run in (f, jitted):
        with pytest.raises(ZeroDivisionError, match="divided by 0"):
            run(x, as_tensor([1, 0, 2]))
    with pytest.raises(ZeroDivisionError):
        f(x, 0)
    with np.errstate(all="ignore"):
        assert np.isnan(f(x.float(), 0.0 * good).numpy()).sum() + np.isinf(f(x.float(), 0.0 * good).numpy()).sum() == 3


def test_padding_larger_than_the_image():
    with pytest.raises(ValueError, match="pad"):
        nn.Conv1d(1, 1, 3, padding=6, padding_mode="reflect")(as_tensor(np.ones((1, 1, 4), np.float32)))
    with pytest.raises(ValueError, match="padding"):
        F.max_pool2d(as_tensor(np.ones((1, 1, 4, 4), np.float32)), 2, padding=3)


def test_integer_input_and_mixed_dtypes():
    assert nn.Linear(2, 3)(as_tensor([[1, 2]])).dtype == np.float32
    assert nn.Conv1d(1, 1, 1)(as_tensor([[[1, 2]]])).dtype == np.float32
    assert ops.matmul(as_tensor(np.ones((2, 2))), as_tensor(np.ones((2, 2), np.float32))).dtype == np.float64


def test_instance_norm_refuses_single_pixels():
    layer = nn.InstanceNorm1d(2, track_running_stats=True)
    layer(as_tensor(np.random.default_rng(0).normal(size=(3, 2, 5)).astype(np.float32)))
    assert layer.num_batches_tracked.item() == 0  # PyTorch's does not count
    mean = layer.running_mean.numpy().copy()
    with pytest.raises(ValueError, match="at least 2 pixels"):
        layer(as_tensor(np.ones((3, 2, 1), np.float32)))
    np.testing.assert_array_equal(layer.running_mean.numpy(), mean)
    assert layer.eval()(as_tensor(np.ones((3, 2, 1), np.float32))).shape == (3, 2, 1)
