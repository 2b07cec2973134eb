"""100 steps of every optimizer that PyTorch has, on a small nonlinear regression, equal PyTorch's to rounding."""

import numpy as np
import pytest

from minidl import as_tensor, ops, optim

torch = pytest.importorskip("torch", reason="trajectories are compared with PyTorch's")

torch.set_num_threads(1)  # the arrays are tiny
STEPS = 100
CASES = [
    ("SGD", {"lr": 0.05}),
    ("SGD", {"lr": 0.05, "weight_decay": 0.01, "maximize": True}),
    ("SGD", {"lr": 0.05, "momentum": 0.9, "dampening": 0.3}),
    ("SGD", {"lr": 0.02, "momentum": 0.9, "nesterov": True, "weight_decay": 0.01}),
    ("Adam", {"lr": 0.01}),
    ("Adam", {"lr": 0.01, "amsgrad": True, "weight_decay": 0.01, "betas": (0.8, 0.95), "eps": 1e-6}),
    ("Adam", {"lr": 0.01, "maximize": True, "decoupled_weight_decay": True, "weight_decay": 0.02}),
    ("AdamW", {"lr": 0.01}),
    ("AdamW", {"lr": 0.01, "weight_decay": 0.1, "amsgrad": True}),
    ("RMSprop", {"lr": 0.005}),
    ("RMSprop", {"lr": 0.002, "momentum": 0.8, "weight_decay": 0.01, "alpha": 0.9}),
    ("RMSprop", {"lr": 0.002, "centered": True, "eps": 1e-3}),
    ("RMSprop", {"lr": 0.002, "centered": True, "momentum": 0.5, "eps": 1e-3, "maximize": True}),
    ("Adagrad", {"lr": 0.05}),
    ("Adagrad", {"lr": 0.05, "lr_decay": 0.02, "weight_decay": 0.01, "initial_accumulator_value": 0.1}),
    ("Adadelta", {"lr": 1.0}),
    ("Adadelta", {"lr": 0.5, "rho": 0.95, "eps": 1e-5, "weight_decay": 0.01, "maximize": True}),
    ("NAdam", {"lr": 0.01}),
    ("NAdam", {"lr": 0.01, "weight_decay": 0.01, "momentum_decay": 0.01, "maximize": True}),
    ("NAdam", {"lr": 0.01, "weight_decay": 0.01, "decoupled_weight_decay": True}),
    ("RAdam", {"lr": 0.01}),
    ("RAdam", {"lr": 0.01, "betas": (0.9, 0.9), "weight_decay": 0.01}),
    ("RAdam", {"lr": 0.01, "weight_decay": 0.01, "decoupled_weight_decay": True, "maximize": True}),
]
IDS = [f"{name}-{'-'.join(k for k in options if k != 'lr') or 'plain'}" for name, options in CASES]


def problem(dtype):
    rng = np.random.default_rng(7)
    x, y = rng.normal(size=(32, 6)), rng.normal(size=(32, 2))
    shapes = [(6, 8), (8,), (8, 2), (2,)]
    weights = [0.5 * rng.normal(size=s) for s in shapes]
    return x.astype(dtype), y.astype(dtype), [w.astype(dtype) for w in weights]


def ours(make, dtype, steps=STEPS):
    x, y, weights = problem(dtype)
    params = [as_tensor(w.copy(), requires_grad=True) for w in weights]
    optimizer = make(params)
    sign = -1 if optimizer.defaults.get("maximize") else 1
    for _ in range(steps):
        optimizer.zero_grad()
        w1, b1, w2, b2 = params
        (sign * ops.mean(ops.square(ops.tanh(x @ w1 + b1) @ w2 + b2 - y))).backward()
        optimizer.step()
    return [p.array for p in params]


def theirs(make, dtype, steps=STEPS):
    x, y, weights = problem(dtype)
    x, y = torch.tensor(x), torch.tensor(y)
    params = [torch.tensor(w, requires_grad=True) for w in weights]
    optimizer = make(params)
    sign = -1 if optimizer.defaults.get("maximize") else 1
    for _ in range(steps):
        optimizer.zero_grad()
        w1, b1, w2, b2 = params
        (sign * ((torch.tanh(x @ w1 + b1) @ w2 + b2 - y) ** 2).mean()).backward()
        optimizer.step()
    return [p.detach().numpy() for p in params]


@pytest.fixture
def torch_default_dtype():
    """PyTorch keeps some scalars of its state in its default dtype."""
    before = torch.get_default_dtype()
    yield torch.set_default_dtype
    torch.set_default_dtype(before)


def assert_same_trajectory(found, expected, dtype):
    # Rounding of gradients grows over the steps: changing the start by two units in the last place moves PyTorch's own
    # float32 end points by up to 2e-5 (Adagrad, RMSprop, NAdam). In float64 that is 1e-13.
    rtol, atol = (1e-5, 5e-6) if dtype == np.float32 else (1e-10, 1e-12)
    for f, e in zip(found, expected, strict=True):
        assert f.dtype == e.dtype == dtype
        np.testing.assert_allclose(f, e, rtol=rtol, atol=atol)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("name", "options"), CASES, ids=IDS)
def test_trajectory_equals_pytorch(name, options, dtype, torch_default_dtype):
    torch_default_dtype(torch.float64 if dtype == np.float64 else torch.float32)
    found = ours(lambda params: getattr(optim, name)(params, **options), dtype)
    expected = theirs(lambda params: getattr(torch.optim, name)(params, **options), dtype)
    assert_same_trajectory(found, expected, dtype)
    start = problem(dtype)[2]
    assert all(np.abs(f - s).max() > 1e-3 for f, s in zip(found, start))


@pytest.mark.parametrize("name", ["SGD", "Adam", "AdamW", "RMSprop", "Adagrad", "NAdam", "RAdam", "Adadelta"])
def test_defaults_are_pytorchs(name):
    q = torch.zeros(2, 2, requires_grad=True)
    defaults = getattr(torch.optim, name)([q]).defaults
    mine = getattr(optim, name)([as_tensor(np.zeros((2, 2), np.float32), requires_grad=True)]).defaults
    assert mine == {k: defaults[k] for k in mine}


@pytest.mark.parametrize("name", ["SGD", "AdamW", "RMSprop"])
def test_parameter_groups(name):
    def groups(params):
        return [{"params": params[:2]}, {"params": params[2:], "lr": 0.001, "weight_decay": 0.0}]

    options = {"lr": 0.01, "weight_decay": 0.05}
    found = ours(lambda params: getattr(optim, name)(groups(params), **options), np.float64)
    expected = theirs(lambda params: getattr(torch.optim, name)(groups(params), **options), np.float64)
    assert_same_trajectory(found, expected, np.float64)


MUON_CASES = [
    {"lr": 0.02},
    {"lr": 0.02, "nesterov": False, "weight_decay": 0.0, "momentum": 0.8},
    {"lr": 0.01, "adjust_lr_fn": "match_rms_adamw", "ns_steps": 3},
    {"lr": 0.01, "adjust_lr_fn": "original", "ns_coefficients": (2.0, -1.5, 0.5)},
]


def muon_trajectory(module, options, dtype, steps):
    """Both with the same given gradients, on tall, wide and square matrices."""
    rng = np.random.default_rng(3)
    arrays = [rng.normal(size=s).astype(dtype) for s in [(12, 5), (4, 9), (6, 6)]]
    on_torch = module is torch
    params = [torch.tensor(a, requires_grad=True) if on_torch else as_tensor(a, requires_grad=True) for a in arrays]
    optimizer = module.optim.Muon(params, **options) if on_torch else module.Muon(params, **options)
    for _ in range(steps):
        for p in params:
            g = rng.normal(size=tuple(p.shape)).astype(dtype)
            p.grad = torch.tensor(g) if on_torch else as_tensor(g)
        optimizer.step()
    return [p.detach().numpy() for p in params]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("options", MUON_CASES)
def test_muon_equals_pytorchs_without_its_bfloat16(options, dtype, monkeypatch):
    monkeypatch.setattr(torch.Tensor, "bfloat16", lambda self: self.clone())
    found = muon_trajectory(optim, options, dtype, STEPS)
    expected = muon_trajectory(torch, options, dtype, STEPS)
    rtol, atol = (1e-4, 2e-5) if dtype == np.float32 else (1e-10, 1e-12)  # Newton-Schulz amplifies float32 rounding
    for f, e in zip(found, expected, strict=True):
        np.testing.assert_allclose(f, e, rtol=rtol, atol=atol)


def test_muon_is_near_pytorchs_bfloat16():
    found = muon_trajectory(optim, {"lr": 0.02}, np.float32, 20)
    expected = muon_trajectory(torch, {"lr": 0.02}, np.float32, 20)
    for f, e in zip(found, expected, strict=True):
        assert np.abs(f - e).max() < 0.02 * 20 * 0.02  # 2 % of the distance that 20 steps can go


def test_muon_leaves_other_parameters_to_adamw():
    options = {"lr": 0.01, "weight_decay": 0.1}

    def make(params):
        rest = {"params": params[1::2], "use_muon": False, "eps": 1e-8}
        return optim.Muon([{"params": params[::2], "lr": 0.0}, rest], **options)

    found = ours(make, np.float64)
    expected = theirs(
        lambda params: torch.optim.AdamW([{"params": params[::2], "lr": 0.0}, {"params": params[1::2]}], **options),
        np.float64,
    )
    assert_same_trajectory(found, expected, np.float64)
