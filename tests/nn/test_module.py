"""Module: finding parameters, state, modes, conversion, hooks, printing."""

import copy
import pickle

import numpy as np
import pytest

from minidl import as_tensor, nn, no_grad


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(3, 3)
        self.scale = nn.Parameter(np.ones(3, np.float32))
        self.register_buffer("mean", np.zeros(3, np.float32))
        self.register_buffer("cache", as_tensor([1.0]), persistent=False)
        self.register_buffer("count", np.array(0))
        self.nothing = None

    def forward(self, x):
        return self.fc(x) * self.scale + self.mean


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = Block()
        self.second = Block()
        self.head = nn.Linear(3, 2, bias=False)

    def forward(self, x):
        return self.head(self.second(self.first(x)))


X = np.arange(6, dtype=np.float32).reshape(2, 3)


def test_names_in_pytorchs_order():
    net = Net()
    block = ["scale", "fc.weight", "fc.bias"]
    assert [n for n, _ in net.named_parameters()] == [
        *(f"first.{n}" for n in block),
        *(f"second.{n}" for n in block),
        "head.weight",
    ]
    assert [n for n, _ in net.first.named_buffers()] == ["mean", "cache", "count"]
    assert list(net.first.state_dict()) == ["scale", "mean", "count", "fc.weight", "fc.bias"]
    assert [n for n, _ in net.named_children()] == ["first", "second", "head"]
    assert [n for n, _ in net.named_modules()] == ["", "first", "first.fc", "second", "second.fc", "head"]
    assert net.get_submodule("first.fc") is net.first.fc
    assert [n for n, _ in net.named_parameters(recurse=False)] == []
    assert list(net.head.state_dict(prefix="head.")) == ["head.weight"]


def test_shared_parameters_are_counted_once_but_stored_under_every_name():
    net = Net()
    net.second = net.first
    net.tied = net.head.weight
    assert len(list(net.parameters())) == 4
    assert len(list(net.named_parameters(remove_duplicate=False))) == 8
    assert {"first.scale", "second.scale", "tied", "head.weight"} <= set(net.state_dict())
    assert len(list(net.modules())) == 4


def test_replacing_and_deleting_attributes():
    net = Net()
    net.head = nn.Linear(3, 5)
    assert net(as_tensor(X)).shape == (2, 5)
    net.head = None
    assert "head.weight" not in net.state_dict()
    block = Block()
    del block.scale, block.mean
    assert list(block.state_dict()) == ["count", "fc.weight", "fc.bias"]
    block.count = as_tensor(np.array(4))
    assert block.state_dict()["count"].item() == 4


def test_a_parameter_cannot_be_replaced_by_a_tensor_unnoticed():
    block = Block()
    with pytest.raises(TypeError, match=r"Block\.scale is a Parameter"):
        block.scale = as_tensor([1.0, 1.0, 1.0])
    with pytest.raises(TypeError, match=r"Block\.mean is a buffer: expected a Tensor or None, got ndarray"):
        block.mean = np.zeros(3)


def test_bad_registrations():
    block = Block()
    for name in ("a.b", "", "forward", "mean"):
        with pytest.raises(KeyError):
            block.register_buffer(name, np.zeros(1))
        with pytest.raises(KeyError):
            block.register_parameter(name, nn.Parameter([1.0]))
        with pytest.raises(KeyError):
            block.add_module(name, nn.Identity())
    with pytest.raises(KeyError, match="scale"):
        block.register_buffer("scale", np.zeros(1))
    with pytest.raises(TypeError, match="expected a Parameter, got Tensor"):
        block.register_parameter("p", as_tensor([1.0]))
    with pytest.raises(TypeError, match="expected a Module, got int"):
        block.add_module("m", 3)
    block.register_parameter("none", None)
    assert block.none is None


def test_two_modules_do_not_share_registrations():
    a, b = nn.Module(), nn.Module()
    a.register_buffer("x", np.ones(1))
    assert list(b.buffers()) == [] and b.state_dict() == {}


def test_forward_must_be_defined():
    with pytest.raises(NotImplementedError, match="Module defines no forward"):
        nn.Module()(1)


# State


def test_state_dict_is_detached_and_shares_memory():
    block = Block()
    state = block.state_dict()
    assert not any(v.requires_grad for v in state.values())
    with no_grad():
        block.scale.assign_(7)
    assert state["scale"].tolist() == [7, 7, 7]


def test_load_state_dict_copies_in_place():
    a, b = Net(), Net()
    before = b.head.weight
    values = {k: v.numpy() for k, v in a.state_dict().items()}
    result = b.load_state_dict(values)
    assert result.missing_keys == [] and result.unexpected_keys == []
    assert b.head.weight is before and b.head.weight.requires_grad
    np.testing.assert_array_equal(b(as_tensor(X)).detach().numpy(), a(as_tensor(X)).detach().numpy())
    values["head.weight"][:] = 99
    assert not (b.head.weight.detach().numpy() == 99).any()


def test_load_state_dict_converts_the_dtype():
    a, b = Block().double(), Block()
    b.load_state_dict(a.state_dict())
    assert b.scale.dtype == np.float32
    np.testing.assert_array_equal(b.fc.weight.detach().numpy(), a.fc.weight.detach().numpy().astype(np.float32))


def test_load_state_dict_reports_everything_at_once_and_changes_nothing():
    block = Block()
    before = {k: v.numpy().copy() for k, v in block.state_dict().items()}
    bad = {
        "scale": np.full(3, 5.0),
        "mean": np.zeros(4),
        "count": np.array(1.5),
        "fc.weight": np.zeros((2, 3)),
        "stranger": np.zeros(1),
    }
    with pytest.raises(RuntimeError) as error:
        block.load_state_dict(bad)
    for part in (
        "load_state_dict for Block",
        "missing keys: fc.bias",
        "unexpected keys: stranger",
        "mean: shape (4,), expected (3,)",
        "fc.weight: shape (2, 3), expected (3, 3)",
        "count: dtype float64 does not fit int64",
    ):
        assert part in str(error.value)
    for name, value in block.state_dict().items():
        np.testing.assert_array_equal(value.numpy(), before[name])


def test_load_state_dict_not_strict():
    block = Block()
    found = block.load_state_dict({"scale": np.full(3, 5.0), "stranger": np.zeros(1)}, strict=False)
    assert found.missing_keys == ["mean", "count", "fc.weight", "fc.bias"]
    assert found.unexpected_keys == ["stranger"]
    assert block.scale.tolist() == [5, 5, 5]
    with pytest.raises(RuntimeError, match="scale: shape"):
        block.load_state_dict({"scale": np.zeros(2)}, strict=False)


def test_load_state_dict_from_pytorch():
    torch = pytest.importorskip("torch", reason="loads a state_dict of PyTorch")
    theirs = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 2))
    ours = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    ours.load_state_dict(theirs.state_dict())
    expected = theirs(torch.tensor(X)).detach().numpy()
    np.testing.assert_allclose(ours(as_tensor(X)).detach().numpy(), expected, rtol=1e-5, atol=1e-6)


def test_an_in_place_load_between_forward_and_backward_is_noticed():
    fc = nn.Linear(3, 2)
    out = fc(as_tensor(X, requires_grad=True)).sum()
    fc.load_state_dict(nn.Linear(3, 2).state_dict())
    with pytest.raises(RuntimeError, match=r"changed in\s+place"):
        out.backward()


# Modes and gradients


def test_train_and_eval_reach_everything():
    net = Net()
    assert all(m.training for m in net.modules())
    assert net.eval() is net
    assert not any(m.training for m in net.modules())
    net.train()
    assert all(m.training for m in net.modules())


def test_freeze_and_unfreeze():
    net = Net()
    net.first.freeze()
    net(as_tensor(X)).sum().backward()
    assert all(p.grad is None for p in net.first.parameters())
    assert all(p.grad is not None for p in net.second.parameters())
    net.unfreeze()
    assert all(p.requires_grad for p in net.parameters())


def test_zero_grad():
    net = Net()
    net(as_tensor(X)).sum().backward()
    net.zero_grad(set_to_none=False)
    assert all((p.grad.numpy() == 0).all() for p in net.parameters())
    net.zero_grad()
    assert all(p.grad is None for p in net.parameters())


def test_conversion_keeps_the_parameter_objects():
    net = Net()
    parameters = list(net.parameters())
    net(as_tensor(X)).sum().backward()
    net.double()
    assert list(map(id, net.parameters())) == list(map(id, parameters))
    assert {p.dtype for p in net.parameters()} == {p.grad.dtype for p in net.parameters()} == {np.dtype(np.float64)}
    assert net.first.mean.dtype == np.float64 and net.first.count.dtype == np.int64
    assert net(as_tensor(X.astype(np.float64))).dtype == np.float64
    assert net.half().head.weight.dtype == np.float16
    assert net.to("float32").head.weight.dtype == net.float().head.weight.dtype == np.float32
    assert net.to("numpy", np.float64).head.weight.dtype == np.float64
    with pytest.raises(TypeError, match=r"Net\.to: expected a floating-point dtype, got int32"):
        net.to(np.int32)


def test_apply_children_first():
    seen = []
    Net().apply(lambda m: seen.append(type(m).__name__))
    assert seen == ["Linear", "Block", "Linear", "Block", "Linear", "Net"]


def test_deepcopy_and_pickle_are_independent():
    net = Net()
    for other in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        np.testing.assert_array_equal(other(as_tensor(X)).detach().numpy(), net(as_tensor(X)).detach().numpy())
        assert isinstance(other.head.weight, nn.Parameter) and other.head.weight.requires_grad
        with no_grad():
            other.head.weight.assign_(0)
        assert (net.head.weight.detach().numpy() != 0).all()


def test_deepcopy_keeps_shared_parameters_shared():
    net = Net()
    net.tied = net.head.weight
    other = copy.deepcopy(net)
    assert other.tied is other.head.weight


# Hooks


def test_forward_hooks():
    fc = nn.Linear(3, 2)
    calls = []
    pre = fc.register_forward_pre_hook(lambda m, args: calls.append(("pre", m, args[0].shape)))
    post = fc.register_forward_hook(lambda m, args, out: calls.append(("post", m, out.shape)))
    fc(as_tensor(X))
    assert calls == [("pre", fc, (2, 3)), ("post", fc, (2, 2))]
    pre.remove()
    post.remove()
    fc(as_tensor(X))
    assert len(calls) == 2


def test_forward_hooks_replace_arguments_and_output():
    identity = nn.Identity()
    with identity.register_forward_pre_hook(lambda m, args: args[0] * 2):
        with identity.register_forward_hook(lambda m, args, out: out + args[0]):
            assert identity(as_tensor([1.0])).item() == 4
        assert identity(as_tensor([1.0])).item() == 2
    assert identity(as_tensor([1.0])).item() == 1


def test_forward_hooks_with_kwargs():
    class Scale(nn.Module):
        def forward(self, x, by=1):
            return x * by

    scale, seen = Scale(), []
    scale.register_forward_pre_hook(lambda m, args, kwargs: (args, {"by": kwargs["by"] + 1}), with_kwargs=True)
    scale.register_forward_hook(lambda m, args, kwargs, out: seen.append(kwargs), with_kwargs=True)
    assert scale(as_tensor([2.0]), by=2).item() == 6
    assert seen == [{"by": 3}]


def test_full_backward_hook_sees_and_replaces_gradients():
    fc, seen = nn.Linear(3, 2), []

    def hook(module, grad_input, grad_output):
        seen.append((module, grad_input[0].numpy().copy(), grad_output[0].numpy().copy()))
        return (grad_input[0] * 10,)

    handle = fc.register_full_backward_hook(hook)
    x = as_tensor(X, requires_grad=True)
    (fc(x) * 2).sum().backward()
    expected = 2 * fc.weight.detach().numpy().sum(0)
    (module, grad_input, grad_output) = seen[0]
    assert module is fc
    np.testing.assert_allclose(grad_input, [expected] * 2, rtol=1e-6)
    np.testing.assert_array_equal(grad_output, np.full((2, 2), 2))
    np.testing.assert_allclose(x.grad.numpy(), [10 * expected] * 2, rtol=1e-6)
    np.testing.assert_allclose(fc.weight.grad.numpy(), 2 * X.sum(0)[None].repeat(2, 0))
    handle.remove()
    fc(x).sum().backward()
    assert len(seen) == 1


def test_full_backward_hook_with_several_inputs_and_outputs():
    class Two(nn.Module):
        def forward(self, a, b, c):
            return a * b, b + c

    two, seen = Two(), []
    two.register_full_backward_hook(lambda m, gi, go: seen.append((gi, go)))
    a, b = as_tensor([2.0], requires_grad=True), as_tensor([3.0], requires_grad=True)
    p, q = two(a, b, as_tensor([1.0]))
    (p + 5 * q).backward()
    ((gi, go),) = seen
    assert [g if g is None else g.item() for g in gi] == [3, 7, None]
    assert [g.item() for g in go] == [1, 5]


def test_full_backward_hook_without_a_gradient_for_the_input():
    fc, seen = nn.Linear(3, 2), []
    fc.register_full_backward_hook(lambda m, gi, go: seen.append((gi, go[0].shape)))
    fc(as_tensor(X)).sum().backward()
    assert seen == [((None,), (2, 2))]
    with no_grad():
        fc(as_tensor(X))


def test_full_backward_hook_with_create_graph():
    from minidl.autograd.functional import grad

    class Cube(nn.Module):
        def forward(self, x):
            return x**3

    cube, seen = Cube(), []
    cube.register_full_backward_hook(lambda m, gi, go: seen.append(gi[0].item()))
    second = grad(lambda x: grad(lambda x: cube(x).sum())(x).sum())
    assert second(as_tensor([2.0])).item() == 12
    assert 12 in seen


def test_anomaly_and_user_line_skip_the_layers():
    from minidl import detect_anomaly
    from minidl.autograd import AnomalyError

    fc = nn.Linear(3, 2)
    with detect_anomaly(), pytest.raises(AnomalyError, match=r"test_module\.py"):
        fc(as_tensor(np.full((1, 3), np.nan, np.float32)))


# Printing


def test_repr():
    net = nn.Sequential(nn.Linear(3, 4, bias=False), nn.Sequential(nn.ReLU(), nn.Dropout(0.2)))
    assert repr(net) == (
        "Sequential(\n"
        "  (0): Linear(in_features=3, out_features=4, bias=False)\n"
        "  (1): Sequential(\n"
        "    (0): ReLU()\n"
        "    (1): Dropout(p=0.2)\n"
        "  )\n"
        ")"
    )
    assert repr(nn.Parameter([1.0])) == "Parameter containing:\ntensor([1.], requires_grad=True)"
