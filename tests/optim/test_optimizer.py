"""Parameter groups, errors, state saved and loaded, in-place updates."""

import copy
import json

import numpy as np
import pytest

import minidl
from minidl import as_tensor, nn, optim
from minidl.core.registry import kernel, unregister_kernel

ALL = {
    "SGD": {"lr": 0.1},
    "SGD momentum": {"lr": 0.05, "momentum": 0.9, "dampening": 0.2},
    "SGD nesterov": {"lr": 0.02, "momentum": 0.9, "nesterov": True},
    "Adam": {"lr": 0.05},
    "Adam amsgrad": {"lr": 0.05, "amsgrad": True},
    "AdamW": {"lr": 0.05},
    "RMSprop": {"lr": 0.02},
    "RMSprop centered": {"lr": 0.01, "centered": True, "momentum": 0.5},
    "Adagrad": {"lr": 0.5},
    "Adadelta": {"lr": 20.0},
    "NAdam": {"lr": 0.05},
    "RAdam": {"lr": 0.2},
    "LAMB": {"lr": 0.1},
    "LARS": {"lr": 0.5, "trust_coefficient": 0.05, "momentum": 0.8},
    "Lion": {"lr": 0.05},
    "Muon": {"lr": 0.05, "weight_decay": 0.0},
}


def make(case, params, **options):
    return getattr(optim, case.split()[0])(params, **{**ALL[case], **options})


def weights(*shapes, dtype=np.float32, seed=0):
    rng = np.random.default_rng(seed)
    return [as_tensor(rng.normal(size=s).astype(dtype), requires_grad=True) for s in shapes]


def give_gradients(params, seed):
    rng = np.random.default_rng(seed)
    for p in params:
        p.grad = as_tensor(rng.normal(size=p.shape).astype(p.dtype))


@pytest.mark.parametrize("case", ALL)
def test_least_squares_gets_solved(case):
    rng = np.random.default_rng(1)
    x, true = rng.normal(size=(64, 4)), rng.normal(size=(4, 2))
    y = x @ true
    w = as_tensor(np.ones((4, 2)), requires_grad=True)
    optimizer = make(case, [w])
    schedule = optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=300)

    def loss():
        optimizer.zero_grad()
        value = ((x @ w - y) ** 2).mean()
        value.backward()
        return value

    first = loss().item()
    for _ in range(300):
        last = optimizer.step(loss)
        schedule.step()
    assert last.item() < 1e-2 * first


@pytest.mark.parametrize("case", ALL)
def test_resume_is_bit_for_bit(case):
    params = weights((3, 4), (4, 2))
    optimizer = make(case, [{"params": params[:1]}, {"params": params[1:], "lr": 0.01}])
    for i in range(5):
        give_gradients(params, i)
        optimizer.step()

    arrays, rest = optim.split_arrays(optimizer.state_dict())
    assert all(type(a) is np.ndarray for a in arrays.values())
    rest = json.loads(json.dumps(rest))
    again = [as_tensor(p.array.copy(), requires_grad=True) for p in params]
    resumed = make(case, [{"params": again[:1]}, {"params": again[1:]}])
    resumed.load_state_dict(optim.join_arrays(arrays, rest))
    assert resumed.state_dict()["param_groups"] == optimizer.state_dict()["param_groups"]

    for i in range(5, 10):
        for group, o in ((params, optimizer), (again, resumed)):
            give_gradients(group, i)
            o.step()
    for p, q in zip(params, again):
        np.testing.assert_array_equal(p.array, q.array)


@pytest.mark.parametrize("case", ALL)
def test_float32_stays_float32_also_with_array_scalars(case):
    params, same = weights((3, 4)), weights((3, 4))
    by_number, by_array = make(case, params), make(case, same)
    by_array.param_groups[0]["lr"] = np.array(by_array.param_groups[0]["lr"])  # float64, as a compiled step has it
    for i in range(8):
        for p, o in ((params, by_number), (same, by_array)):
            give_gradients(p, i)
            o.step()
        if i == 0:
            by_array.state[same[0]]["step"] = np.array(1)
    for state in (by_number.state[params[0]], by_array.state[same[0]]):
        assert all(a.dtype == np.float32 for n, a in state.items() if n != "step")
    np.testing.assert_allclose(same[0].array, params[0].array, rtol=1e-5, atol=1e-6)
    assert by_array.state_dict()["state"][0]["step"] == 8


@pytest.mark.parametrize("case", [c for c in ALL if c != "Muon"])
@pytest.mark.parametrize("shape", [(), (0,), (0, 3)])
def test_scalars_and_empty_parameters(case, shape):
    (p,) = weights(shape)
    optimizer = make(case, [p])
    for i in range(3):
        give_gradients([p], i)
        optimizer.step()
    assert p.shape == shape
    assert p.dtype == np.float32
    assert np.isfinite(p.array).all()
    assert all(np.shape(a) in (shape, ()) for a in optimizer.state[p].values())
    optimizer.load_state_dict(optimizer.state_dict())


def test_the_update_happens_in_the_parameters_memory():
    array = np.ones((2, 3), np.float32)
    p = as_tensor(array, requires_grad=True)
    alias = p.detach()
    product = (p * p).sum()
    p.grad = as_tensor(np.ones((2, 3), np.float32))
    optim.SGD([p], lr=0.5).step()
    np.testing.assert_array_equal(array, 0.5)
    np.testing.assert_array_equal(alias.numpy(), 0.5)
    with pytest.raises(RuntimeError, match="changed in place"):
        product.backward()


def test_noncontiguous_parameter():
    base = np.ones((3, 2), np.float32)
    p = as_tensor(base.T, requires_grad=True)
    p.grad = as_tensor(np.arange(6, dtype=np.float32).reshape(2, 3))
    optim.SGD([p], lr=1.0).step()
    np.testing.assert_array_equal(base, 1 - np.arange(6).reshape(2, 3).T)


def test_a_kernel_may_update_in_place():
    @kernel("sgd_update", backend="numpy")
    def in_place(p, g, lr, step, buf=None, **options):
        p -= lr * g
        return (p,)

    try:
        (p,) = weights((2, 2))
        before, version = p.array.copy(), p.version
        p.grad = as_tensor(np.ones((2, 2), np.float32))
        optim.SGD([p], lr=0.5).step()
    finally:
        unregister_kernel(in_place)
    np.testing.assert_array_equal(p.array, before - np.float32(0.5))
    assert p.version > version


def test_parameters_without_gradient_are_skipped():
    a, b = weights((2,), (2,))
    frozen = b.array.copy()
    optimizer = optim.Adam([a, b], weight_decay=0.1)
    give_gradients([a], 0)
    optimizer.step()
    np.testing.assert_array_equal(b.array, frozen)
    assert b not in optimizer.state
    assert list(optimizer.state_dict()["state"]) == [0]


def test_zero_grad():
    (p,) = weights((2,))
    optimizer = optim.SGD([p])
    give_gradients([p], 0)
    optimizer.zero_grad(set_to_none=False)
    np.testing.assert_array_equal(p.grad.array, 0)
    optimizer.zero_grad()
    assert p.grad is None


def test_closure_runs_with_gradients_on():
    (p,) = weights((2,))
    optimizer = optim.SGD([p], lr=0.1)

    def closure():
        optimizer.zero_grad()
        loss = (p * p).sum()
        loss.backward()
        return loss

    before = (p.array**2).sum()
    with minidl.no_grad():
        loss = optimizer.step(closure)
    assert loss.item() == pytest.approx(before)
    assert (p.array**2).sum() < before


def test_groups_options_and_names():
    a, b, c = weights((2,), (3,), (4,))
    optimizer = optim.SGD([{"params": [("a", a)], "lr": 0.5}, {"params": b}], lr=0.1, momentum=0.9)
    optimizer.add_param_group({"params": [c], "momentum": 0.0})
    assert [g["lr"] for g in optimizer.param_groups] == [0.5, 0.1, 0.1]
    assert [g["momentum"] for g in optimizer.param_groups] == [0.9, 0.9, 0.0]
    assert optimizer.param_groups[0]["param_names"] == ["a"]
    assert [g["params"] for g in optimizer.state_dict()["param_groups"]] == [[0], [1], [2]]
    give_gradients([a, b, c], 0)
    optimizer.step()
    assert list(optimizer.state[a]) == ["step", "momentum_buffer"]
    assert list(optimizer.state[c]) == ["step"]
    text = repr(optimizer)
    assert "SGD" in text
    assert "lr=0.5" in text


def test_an_option_switched_on_later_gets_its_state():
    (p,) = weights((2,))
    optimizer = optim.SGD([p], lr=0.1)
    for momentum in (0.0, 0.9):
        optimizer.param_groups[0]["momentum"] = momentum
        give_gradients([p], 0)
        optimizer.step()
    np.testing.assert_array_equal(optimizer.state[p]["momentum_buffer"], p.grad.array)


@pytest.mark.parametrize(
    ("params", "error", "match"),
    [
        (lambda p: [], ValueError, "empty"),
        (lambda p: [{"params": []}], ValueError, "empty"),
        (lambda p: p, TypeError, "list"),
        (lambda p: nn.Linear(1, 1), TypeError, r"pass its \.parameters\(\)"),
        (lambda p: [p, p], ValueError, "twice"),
        (lambda p: [{"params": [p]}, {"params": [p]}], ValueError, "twice"),
        (lambda p: [p * 2], ValueError, "not a leaf: it was made by mul"),
        (lambda p: [np.ones(2)], TypeError, "ndarray"),
        (lambda p: [as_tensor(np.ones(2, np.int64))], TypeError, "int64"),
        (lambda p: [{"params": {p}}], TypeError, "set"),
        (lambda p: [{"lr": 0.1}], TypeError, "'params'"),
        (lambda p: [{"params": [p], "lr": -1.0}], ValueError, "lr must be at least 0, got -1.0"),
        (lambda p: [("weight", p * 2)], ValueError, "weight is not a leaf"),
    ],
)
def test_bad_parameters(params, error, match):
    (p,) = weights((2,))
    with pytest.raises(error, match=match):
        optim.SGD(params(p), lr=0.1)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("SGD", {"lr": -0.1}),
        ("SGD", {"lr": float("nan")}),
        ("SGD", {"momentum": -1.0}),
        ("SGD", {"nesterov": True}),
        ("SGD", {"nesterov": True, "momentum": 0.9, "dampening": 0.1}),
        ("Adam", {"betas": (0.9, 1.0)}),
        ("Adam", {"eps": -1e-8}),
        ("AdamW", {"weight_decay": -1.0}),
        ("RMSprop", {"alpha": 1.5}),
        ("Adagrad", {"lr_decay": -1.0}),
        ("Adadelta", {"rho": 1.5}),
        ("NAdam", {"momentum_decay": -1.0}),
        ("Lion", {"betas": (0.9,)}),
        ("Muon", {"adjust_lr_fn": "other"}),
        ("Muon", {"ns_steps": 100}),
    ],
)
def test_bad_options(name, options):
    with pytest.raises(ValueError, match=name):
        getattr(optim, name)(weights((2, 2)), **options)


def test_muon_wants_matrices():
    with pytest.raises(ValueError, match="use_muon=False"):
        optim.Muon(weights((2, 2), (3,)))


def test_state_dict_is_a_snapshot():
    (p,) = weights((2,))
    optimizer = optim.Adam([p])
    give_gradients([p], 0)
    optimizer.step()
    saved = optimizer.state_dict()
    kept = copy.deepcopy(saved)
    optimizer.state[p]["exp_avg"][...] = 7
    np.testing.assert_array_equal(saved["state"][0]["exp_avg"], kept["state"][0]["exp_avg"])
    optimizer.load_state_dict(saved)
    optimizer.state[p]["exp_avg"][...] = 7
    np.testing.assert_array_equal(saved["state"][0]["exp_avg"], kept["state"][0]["exp_avg"])


def test_state_that_does_not_fit_is_refused_and_changes_nothing():
    params = weights((2, 3), (3,))
    optimizer = optim.Adam(params)
    give_gradients(params, 0)
    optimizer.step()
    good = optimizer.state_dict()

    def broken(change):
        state = copy.deepcopy(good)
        change(state)
        return state

    cases = [
        broken(lambda s: s["param_groups"][0]["params"].append(2)),
        broken(lambda s: s["param_groups"].append(s["param_groups"][0])),
        broken(lambda s: s["state"][1].update(exp_avg=np.zeros(4))),
        broken(lambda s: s["state"].update({5: {}})),
        broken(lambda s: s["param_groups"][0].update(lr=-1.0)),
    ]
    for state in cases:
        with pytest.raises(ValueError, match="Adam"):
            optimizer.load_state_dict(state)
    after = optimizer.state_dict()
    assert after["param_groups"] == good["param_groups"]
    np.testing.assert_array_equal(after["state"][1]["exp_avg"], good["state"][1]["exp_avg"])


@pytest.mark.parametrize("case", [c for c in ALL if c.split()[0] not in ("LAMB", "LARS", "Lion", "Muon")])
def test_pytorchs_state_loads(case):
    torch = pytest.importorskip("torch", reason="loads a state_dict of PyTorch's")
    (p,) = weights((3, 2), dtype=np.float64)
    q = torch.tensor(p.array.copy(), requires_grad=True)
    name = case.split()[0]
    theirs = getattr(torch.optim, name)([q], **ALL[case])
    mine = make(case, [p], lr=0.5)
    for i in range(8):
        if i == 4:
            mine.load_state_dict(theirs.state_dict())
            p.assign_(q.detach().numpy())
        give_gradients([p], i)
        q.grad = torch.tensor(p.grad.array)
        theirs.step()
        if i >= 4:
            mine.step()
    # NAdam's running product is a float32 scalar in PyTorch
    np.testing.assert_allclose(p.array, q.detach().numpy(), rtol=1e-6 if name == "NAdam" else 1e-12)


def test_split_arrays_refuses_what_it_cannot_write():
    arrays, rest = optim.split_arrays({"a": [1, (np.float32(2), None)], "b": {3: np.arange(2)}, "t": as_tensor([1.0])})
    assert rest == {"a": [1, [2.0, None]], "b": {"3": {"$array": "b.3"}}, "t": {"$array": "t"}}
    assert sorted(arrays) == ["b.3", "t"]
    with pytest.raises(TypeError, match=r"x\.0 is a object"):
        optim.split_arrays({"x": [object()]})
    with pytest.raises(ValueError, match=r"two arrays are called 'a\.b'"):
        optim.split_arrays({"a": {"b": np.zeros(1)}, "a.b": np.zeros(1)})
    with pytest.raises(KeyError, match=r"b\.3"):
        optim.join_arrays({}, rest)


def test_a_captured_step_follows_a_switch_that_changes_the_state():
    def run(compiled):
        (p,) = weights((3, 2))
        optimizer = optim.Adam([p], lr=0.1)

        def step(x):
            optimizer.zero_grad()
            loss = ((x @ p) ** 2).sum()
            loss.backward()
            optimizer.step()
            return loss

        step = minidl.jit(step) if compiled else step
        x = as_tensor(np.ones((4, 3), np.float32))
        for i in range(6):
            optimizer.param_groups[0]["amsgrad"] = i >= 3
            step(x)
        return p.detach().numpy(), list(optimizer.state[p])

    (eager, names), (captured, same_names) = run(False), run(True)
    np.testing.assert_allclose(captured, eager, rtol=1e-6)
    assert names == same_names == ["step", "exp_avg", "exp_avg_sq", "max_exp_avg_sq"]
