"""Loss scaling, against PyTorch's, and with float16 on the CPU."""

import json

import numpy as np
import pytest

from minidl import as_tensor, ops, optim
from minidl.optim import GradScaler


def parameter(values, grad=None):
    p = as_tensor(np.asarray(values, np.float32), requires_grad=True)
    if grad is not None:
        p.grad = as_tensor(np.asarray(grad, np.float32))
    return p


def test_scale_multiplies_and_widens():
    scaler = GradScaler(init_scale=2.0**16)
    loss = as_tensor(np.float16(3.0))
    assert scaler.scale(loss).item() == 3 * 2**16  # in float16 it would be infinite
    assert scaler.scale(loss).dtype == np.float32
    one, (two,) = scaler.scale([as_tensor(1.0), (as_tensor(2.0),)])
    assert (one.item(), two.item()) == (2**16, 2**17)
    assert scaler.scale(as_tensor(np.float64(1.0))).dtype == np.float64
    with pytest.raises(TypeError, match="expected a Tensor or a list of them, got float"):
        scaler.scale(1.0)


def test_unscale_then_step():
    p = parameter([1.0, 2.0], [8.0, 16.0])
    optimizer = optim.SGD([p], lr=1.0)
    scaler = GradScaler(init_scale=8.0)
    scaler.unscale_(optimizer)
    np.testing.assert_array_equal(p.grad.numpy(), [1, 2])
    scaler.step(optimizer)  # not divided again
    np.testing.assert_array_equal(p.array, [0, 0])
    scaler.update()
    assert scaler.get_scale() == 8


def test_step_unscales():
    p = parameter([1.0], [8.0])
    optimizer = optim.SGD([p], lr=1.0)
    scaler = GradScaler(init_scale=8.0)
    scaler.step(optimizer)
    assert p.item() == 0


@pytest.mark.parametrize("bad", [np.inf, -np.inf, np.nan])
def test_a_step_with_a_bad_gradient_is_skipped(bad):
    p, q = parameter([1.0, 2.0], [1.0, 1.0]), parameter([3.0], [bad])
    optimizer = optim.AdamW([p, q], lr=0.1)
    scaler = GradScaler(init_scale=4.0, growth_interval=2)
    assert scaler.step(optimizer) is None
    np.testing.assert_array_equal(p.array, [1, 2])
    assert not optimizer.state
    scaler.update()
    assert scaler.get_scale() == 2
    # one optimizer's bad gradients lower the scale for all, but only its own step is skipped
    r = parameter([5.0], [4.0])
    good = optim.SGD([r], lr=1.0)
    scaler.step(optimizer)
    scaler.step(good)
    scaler.update()
    np.testing.assert_array_equal(p.array, [1, 2])
    assert r.item() == 5 - 4 / 2
    assert scaler.get_scale() == 1


def test_growth():
    p = parameter([1.0])
    optimizer = optim.SGD([p], lr=0.0)
    scaler = GradScaler(init_scale=4.0, growth_factor=3.0, growth_interval=3)
    scales = []
    for step in range(8):
        p.grad = as_tensor(np.array([np.inf if step == 1 else 1.0], np.float32))
        scaler.step(optimizer)
        scaler.update()
        scales.append(scaler.get_scale())
    assert scales == [4, 2, 2, 2, 6, 6, 6, 18]  # the bad step starts the count again


def test_the_scale_does_not_grow_beyond_float32():
    p = parameter([1.0], [1.0])
    scaler = GradScaler(init_scale=2.0**127, growth_interval=1)
    scaler.step(optim.SGD([p], lr=0.0))
    scaler.update()
    assert scaler.get_scale() == 2.0**127


def test_set_by_hand():
    scaler = GradScaler()
    scaler.update(128.0)
    assert scaler.get_scale() == 128
    with pytest.raises(ValueError, match="positive and finite, got inf"):
        scaler.update(np.inf)


def test_a_gradient_that_two_parameters_share_is_divided_once():
    p, q = parameter([0.0]), parameter([0.0])
    p.grad = q.grad = as_tensor(np.array([8.0], np.float32))
    scaler = GradScaler(init_scale=8.0)
    scaler.step(optim.SGD([p, q], lr=1.0))
    assert p.item() == q.item() == -1


def test_calls_out_of_order():
    p = parameter([1.0], [1.0])
    optimizer = optim.SGD([p], lr=1.0)
    scaler = GradScaler()
    with pytest.raises(RuntimeError, match=r"update: there was no step"):
        scaler.update()
    scaler.unscale_(optimizer)
    with pytest.raises(RuntimeError, match=r"unscale_: called a second time"):
        scaler.unscale_(optimizer)
    scaler.step(optimizer)
    with pytest.raises(RuntimeError, match=r"step: called a second time"):
        scaler.step(optimizer)
    with pytest.raises(RuntimeError, match=r"unscale_: called after step"):
        scaler.unscale_(optimizer)
    scaler.update()
    scaler.step(optimizer)


def test_float16_gradients_are_refused():
    p = as_tensor(np.ones(2, np.float16), requires_grad=True)
    p.grad = as_tensor(np.ones(2, np.float16))
    with pytest.raises(ValueError, match=r"shape \(2,\) has a gradient in float16"):
        GradScaler().step(optim.SGD([p], lr=1.0))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"growth_factor": 1.0}, "growth_factor must be above 1"),
        ({"backoff_factor": 1.0}, "backoff_factor must be between 0 and 1"),
        ({"growth_interval": 0}, "growth_interval must be at least 1"),
        ({"init_scale": 0.0}, "the scale must be positive"),
    ],
)
def test_options(options, message):
    with pytest.raises(ValueError, match=message):
        GradScaler(**options)


def test_disabled():
    p = parameter([1.0], [np.inf])
    scaler = GradScaler(enabled=False)
    loss = as_tensor(2.0)
    assert scaler.scale(loss) is loss
    scaler.unscale_(None)
    scaler.step(optim.SGD([p], lr=1.0))
    scaler.update()
    assert p.item() == -np.inf
    assert scaler.get_scale() == 1 and scaler.state_dict() == {} and not scaler.is_enabled()
    scaler.load_state_dict({})


def test_state_dict():
    p = parameter([1.0], [1.0])
    optimizer = optim.SGD([p], lr=0.0)
    scaler = GradScaler(init_scale=4.0, growth_factor=3.0, backoff_factor=0.25, growth_interval=2)
    scaler.step(optimizer)
    scaler.update()
    state = json.loads(json.dumps(scaler.state_dict()))
    other = GradScaler()
    other.load_state_dict(state)
    assert other.state_dict() == scaler.state_dict()
    for s in (scaler, other):
        s.step(optimizer)
        s.update()
        assert s.get_scale() == 12
    with pytest.raises(ValueError, match="the state is empty"):
        other.load_state_dict({})
    with pytest.raises(KeyError):
        other.load_state_dict({"scale": 1.0})
    with pytest.raises(ValueError, match="growth_factor"):
        other.load_state_dict({**state, "growth_factor": 0.5})
    assert other.state_dict() == {**state, "scale": 12.0, "_growth_tracker": 0}


def test_as_pytorch():
    torch = pytest.importorskip("torch", reason="the scaler is compared with PyTorch's")
    rng = np.random.default_rng(0)
    ours, theirs = parameter([1.0, -1.0]), torch.tensor([1.0, -1.0], requires_grad=True)
    options = {"init_scale": 2.0**10, "growth_interval": 3}
    scaler, torch_scaler = GradScaler(**options), torch.amp.GradScaler("cpu", **options)
    optimizer, torch_optimizer = optim.Adam([ours], lr=0.1), torch.optim.Adam([theirs], lr=0.1)
    for _ in range(20):
        torch_scaler.scale(torch.tensor(1.0))  # it makes its state at the first call
        g = rng.normal(size=2).astype(np.float32)
        if rng.random() < 0.2:
            g[0] = np.inf
        ours.grad, theirs.grad = (
            as_tensor(g * np.float32(scaler.get_scale())),
            torch.tensor(g * torch_scaler.get_scale()),
        )
        scaler.step(optimizer)
        torch_scaler.step(torch_optimizer)
        scaler.update()
        torch_scaler.update()
        np.testing.assert_allclose(ours.array, theirs.detach().numpy(), rtol=1e-5)
        assert scaler.state_dict() == torch_scaler.state_dict()
    loaded = GradScaler()
    loaded.load_state_dict(torch_scaler.state_dict())
    assert loaded.state_dict() == scaler.state_dict()


def train(scaler, x, y, steps=60):
    """A linear model whose forward and backward pass are in float16, and whose gradients are tiny."""
    weight = parameter(np.zeros((1, 4)))
    optimizer = optim.SGD([weight], lr=2e6)
    for _ in range(steps):
        optimizer.zero_grad()
        out = ops.linear(x.astype("float16"), weight.astype("float16")).astype("float32")
        loss = ops.mse_loss(out, y) * 1e-7  # gradients below float16's smallest number
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
    return weight.array


def test_float16_training_needs_it():
    rng = np.random.default_rng(0)
    true = np.array([[1.0, -0.5, 0.25, 2.0]], np.float32)
    x = rng.normal(size=(64, 4)).astype(np.float32)
    y = as_tensor(x @ true.T)
    without = train(GradScaler(enabled=False), as_tensor(x), y)
    scaler = GradScaler(init_scale=2.0**24, growth_interval=10)
    found = train(scaler, as_tensor(x), y)
    assert np.abs(without - true).max() > 0.1
    np.testing.assert_allclose(found, true, atol=0.01)
