"""Sequential, ModuleList, ModuleDict, ParameterList."""

import numpy as np
import pytest

from minidl import as_tensor, nn

X = as_tensor(np.ones((2, 3), np.float32))


def test_sequential():
    a, b, c = nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)
    for net in (nn.Sequential(a, b, c), nn.Sequential([a, b, c]), nn.Sequential({"a": a, "b": b, "c": c})):
        np.testing.assert_array_equal(net(X).detach().numpy(), c(b(a(X))).detach().numpy())
        assert len(net) == 3 and list(net) == [a, b, c] and net[-1] is c
    assert list(net.state_dict()) == ["a.weight", "a.bias", "c.weight", "c.bias"]
    assert net.a is a


def test_sequential_is_a_list():
    net = nn.Sequential(nn.Linear(3, 4), nn.ReLU())
    assert net.append(nn.Linear(4, 2)) is net
    assert list(net.state_dict()) == ["0.weight", "0.bias", "2.weight", "2.bias"]
    part = net[:2]
    assert isinstance(part, nn.Sequential) and part[0] is net[0] and part(X).shape == (2, 4)
    net.insert(1, nn.Tanh())
    assert [type(m).__name__ for m in net] == ["Linear", "Tanh", "ReLU", "Linear"]
    net[1] = nn.Identity()
    assert isinstance(net[1], nn.Identity) and len(net) == 4
    del net[1]
    assert [name for name, _ in net.named_children()] == ["0", "1", "2"]
    net.extend([nn.ReLU(), nn.ReLU()])
    assert len(net) == 5


def test_empty_sequential_is_the_identity():
    assert nn.Sequential()(X) is X


@pytest.mark.parametrize("bad", [3, lambda x: x, None])
def test_only_modules_are_taken(bad):
    with pytest.raises(TypeError, match="Sequential: expected a Module, got"):
        nn.Sequential(nn.ReLU(), bad)
    with pytest.raises(TypeError, match="ModuleList: expected a Module, got"):
        nn.ModuleList([bad])
    with pytest.raises(TypeError, match=r"ModuleDict\['a'\]: expected a Module, got"):
        nn.ModuleDict({"a": bad})


def test_index_out_of_range():
    with pytest.raises(IndexError):
        nn.ModuleList([nn.ReLU()])[1]


def test_module_list():
    layers = nn.ModuleList(nn.Linear(3, 3) for _ in range(3))
    assert len(list(layers.parameters())) == 6
    assert isinstance(layers[1:], nn.ModuleList) and len(layers[1:]) == 2
    assert [n for n, _ in layers.named_children()] == ["0", "1", "2"]


def test_more_than_ten_keep_their_order():
    layers = nn.ModuleList(nn.Linear(1, i + 1) for i in range(12))
    assert [layer.out_features for layer in layers] == list(range(1, 13))


def test_module_dict():
    heads = nn.ModuleDict({"a": nn.Linear(3, 1)})
    heads["b"] = nn.Linear(3, 2)
    heads.update([("c", nn.ReLU())])
    assert list(heads) == heads.keys() == ["a", "b", "c"] and len(heads) == 3
    assert "b" in heads and "d" not in heads and "training" not in heads
    assert heads.items()[1] == ("b", heads["b"]) and heads.values()[2] is heads["c"]
    assert list(heads.state_dict()) == ["a.weight", "a.bias", "b.weight", "b.bias"]
    heads["a"] = nn.Identity()
    assert heads.pop("b").out_features == 2
    del heads["c"]
    assert list(heads) == ["a"]
    with pytest.raises(KeyError):
        heads["c"]
    with pytest.raises(KeyError):
        heads["keys"] = nn.ReLU()
    with pytest.raises(KeyError):
        heads["a.b"] = nn.ReLU()


def test_parameter_list():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.weights = nn.ParameterList([nn.Parameter(np.ones(2)), np.zeros((1, 3))])

        def forward(self, x):
            return x * self.weights[0]

    net = Net()
    assert [n for n, _ in net.named_parameters()] == ["weights.0", "weights.1"]
    assert all(p.requires_grad for p in net.parameters())
    assert repr(net.weights) == "ParameterList((0): float64[2], (1): float64[1, 3])"
