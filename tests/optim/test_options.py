"""The declared options: constructors, inheritance, ranges."""

import inspect

import numpy as np
import pytest

from minidl import as_tensor, optim
from minidl.ops.optimizer import sgd_update
from minidl.optim.optimizer import Rule
from minidl.optim.options import option
from minidl.ranges import at_least, fraction, one_of

PYTORCHS = ["SGD", "Adam", "AdamW", "RMSprop", "Adagrad", "Adadelta", "NAdam", "RAdam"]


def weight():
    return as_tensor(np.ones((2, 2), np.float32), requires_grad=True)


@pytest.mark.parametrize("name", PYTORCHS)
def test_constructors_are_pytorchs(name):
    torch = pytest.importorskip("torch", reason="compares with PyTorch")
    ours = inspect.signature(getattr(optim, name)).parameters
    theirs = inspect.signature(getattr(torch.optim, name)).parameters
    shared = [n for n in theirs if n in ours]
    assert [n for n in ours if n in theirs] == shared
    assert {"params", "lr", "weight_decay", "maximize"} <= set(shared)
    for n in shared:
        assert ours[n].default == theirs[n].default, n
        # some of PyTorch's optimizers take these two by position, after options that we lack
        assert n in ("maximize", "decoupled_weight_decay") or ours[n].kind == theirs[n].kind, n


def test_a_constructor_shows_its_options():
    assert str(inspect.signature(optim.Lion)) == (
        "(params: 'Params', lr: 'float' = 0.0001, betas: 'tuple[float, float]' = (0.9, 0.99), "
        "weight_decay: 'float' = 0.0, *, maximize: 'bool' = False) -> 'None'"
    )


def test_options_by_position_by_name_and_by_default():
    optimizer = optim.SGD([weight()], 0.5, 0.9, nesterov=True)
    assert optimizer.defaults == {
        "lr": 0.5, "momentum": 0.9, "dampening": 0.0, "weight_decay": 0.0, "nesterov": True, "maximize": False,
    }  # fmt: skip
    assert optim.AdamW([weight()]).defaults["decoupled_weight_decay"] is True
    assert not hasattr(optimizer, "lr")


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: optim.SGD(), "SGD: missing a required argument: 'params'"),
        (lambda: optim.SGD([weight()], learning_rate=0.1), "SGD: got an unexpected keyword argument 'learning_rate'"),
        (lambda: optim.SGD([weight()], 0.1, 0.0, 0.0, 0.0, False, True), "SGD: too many positional arguments"),
        (lambda: optim.SGD([weight()], 0.1, lr=0.1), "SGD: multiple values for argument 'lr'"),
        (lambda: optim.AdamW([weight()], decoupled_weight_decay=False), "AdamW: got an unexpected keyword argument"),
    ],
)
def test_wrong_arguments(make, match):
    with pytest.raises(TypeError, match=match):
        make()


class Plain(optim.Optimizer):
    lr: float = option(at_least(0), default=0.1)
    share: float = option(fraction, default=0.5)
    kind: str = option(one_of("a", "b", "c"), default="a")
    flag: bool = option(default=False, kw_only=True)

    def rule(self, group):
        return Rule(sgd_update, (), (None,), {})


class Derived(Plain):
    share: float = option(fraction, default=0.25)
    more: int = option(default=3)
    flag: bool = option(default=True, init=False)


def test_a_subclass_inherits_overrides_and_adds():
    assert list(inspect.signature(Plain).parameters) == ["params", "lr", "share", "kind", "flag"]
    assert list(inspect.signature(Derived).parameters) == ["params", "lr", "share", "kind", "more"]
    assert Derived([weight()]).defaults == {"lr": 0.1, "share": 0.25, "kind": "a", "flag": True, "more": 3}
    assert Plain([weight()]).defaults == {"lr": 0.1, "share": 0.5, "kind": "a", "flag": False}


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"lr": -1.0}, r"Plain: lr must be at least 0, got -1\.0"),
        ({"lr": float("nan")}, "Plain: lr must be at least 0, got nan"),
        ({"share": 1.5}, r"Plain: share must be in \[0, 1\], got 1\.5"),
        ({"kind": "d"}, "Plain: kind must be 'a', 'b' or 'c', got 'd'"),
    ],
)
def test_ranges_hold_in_every_group(options, match):
    with pytest.raises(ValueError, match=match):
        Plain([weight()], **options)
    optimizer = Plain([weight()])
    with pytest.raises(ValueError, match=match):
        optimizer.add_param_group({"params": [weight()], **options})
    assert len(optimizer.param_groups) == 1


def test_an_optimizer_may_write_its_own_constructor():
    class Own(optim.Optimizer):
        def __init__(self, params, rate):
            super().__init__(params, {"lr": rate})

        def rule(self, group):
            return Rule(sgd_update, (), (None,), {})

    class Half(optim.SGD):
        def __init__(self, params):
            super().__init__(params, 0.5)

    for make in (lambda p: Own([p], 0.5), lambda p: Half([p])):
        p = weight()
        optimizer = make(p)
        p.grad = as_tensor(np.ones((2, 2), np.float32))
        optimizer.step()
        np.testing.assert_array_equal(p.array, 0.5)
