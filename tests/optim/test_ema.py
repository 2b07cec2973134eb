"""Exponential moving averages of weights."""

import numpy as np
import pytest

from minidl import as_tensor, nn, optim


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(np.ones((2, 2), np.float32))
        self.register_buffer("running", as_tensor(np.ones(2, np.float32)))
        self.register_buffer("count", as_tensor(np.array(0)))


def change(model, i):
    model.weight.assign_(np.full((2, 2), i, np.float32))
    model.running.assign_(np.full(2, 10 * i, np.float32))
    model.count.assign_(i)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("warmup", [False, True])
def test_formula(dtype, warmup):
    rng = np.random.default_rng(0)
    p = as_tensor(rng.normal(size=(3, 2)).astype(dtype), requires_grad=True)
    expected = p.array.astype(np.float64)
    ema = optim.ExponentialMovingAverage([p], decay=0.9, warmup=warmup)
    for n in range(1, 101):
        p.assign_(rng.normal(size=(3, 2)).astype(dtype))
        ema.update()
        decay = min(0.9, (1 + n) / (10 + n)) if warmup else 0.9
        expected = decay * expected + (1 - decay) * p.array
    found = ema.shadow["0"]
    assert found.dtype == dtype
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6 if dtype == np.float32 else 1e-14)


@pytest.mark.parametrize("buffers", [False, True])
def test_module_and_swap(buffers):
    model = Model()
    ema = optim.ExponentialMovingAverage(model, decay=0.5, buffers=buffers)
    assert set(ema.shadow) == ({"weight", "running", "count"} if buffers else {"weight"})
    change(model, 3)
    ema.update()
    memory = model.weight.array
    with ema.average_parameters():
        np.testing.assert_array_equal(model.weight.array, 2)
        np.testing.assert_array_equal(model.running.array, 15.5 if buffers else 30)
        assert model.count.item() == 3
    np.testing.assert_array_equal(model.weight.array, 3)
    np.testing.assert_array_equal(model.running.array, 30)
    assert model.weight.array is memory
    ema.copy_to()
    np.testing.assert_array_equal(model.weight.array, 2)


def test_weights_come_back_after_an_error():
    model = Model()
    ema = optim.ExponentialMovingAverage(model, decay=0.5)
    change(model, 3)
    with pytest.raises(ZeroDivisionError), ema.average_parameters():
        np.testing.assert_array_equal(model.weight.array, 1)
        raise ZeroDivisionError
    np.testing.assert_array_equal(model.weight.array, 3)


def test_resume_is_exact():
    model = Model()
    ema = optim.ExponentialMovingAverage(model, decay=0.99, warmup=True, buffers=True)
    for i in range(4):
        change(model, i)
        ema.update()
    again = optim.ExponentialMovingAverage(model, decay=0.5, buffers=True)
    again.load_state_dict(optim.join_arrays(*optim.split_arrays(ema.state_dict())))
    for i in range(4, 8):
        change(model, i)
        ema.update()
        again.update()
    for name in ema.shadow:
        np.testing.assert_array_equal(again.shadow[name], ema.shadow[name])


def test_errors():
    model = Model()
    with pytest.raises(ValueError, match="decay"):
        optim.ExponentialMovingAverage(model, decay=1.5)
    with pytest.raises(ValueError, match="empty"):
        optim.ExponentialMovingAverage([])
    ema = optim.ExponentialMovingAverage(model)
    state = ema.state_dict()
    with pytest.raises(ValueError, match="bias"):
        ema.load_state_dict({**state, "shadow": {**state["shadow"], "bias": np.zeros(2)}})
    with pytest.raises(ValueError, match="weight has shape"):
        ema.load_state_dict({**state, "shadow": {"weight": np.zeros(3)}})
