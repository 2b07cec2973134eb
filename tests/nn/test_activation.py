"""Activation modules and dropout."""

import numpy as np
import pytest

import minidl
from minidl import as_tensor, nn, ops
from minidl.nn import functional as F

X = np.random.default_rng(0).normal(scale=2, size=(4, 6)).astype(np.float32)

MODULES = [
    ("ReLU", {}),
    ("ReLU6", {}),
    ("SELU", {}),
    ("SiLU", {}),
    ("Mish", {}),
    ("Sigmoid", {}),
    ("LogSigmoid", {}),
    ("Tanh", {}),
    ("Softsign", {}),
    ("Hardswish", {}),
    ("Hardsigmoid", {}),
    ("LeakyReLU", {"negative_slope": 0.2}),
    ("ELU", {"alpha": 0.7}),
    ("GELU", {}),
    ("GELU", {"approximate": "tanh"}),
    ("Softplus", {"beta": 2.0, "threshold": 5.0}),
    ("Hardtanh", {"min_val": -0.5, "max_val": 0.7}),
    ("GLU", {"dim": 1}),
    ("Softmax", {"dim": 0}),
    ("LogSoftmax", {"dim": -1}),
    ("Softmin", {"dim": 1}),
    ("PReLU", {}),
    ("PReLU", {"num_parameters": 6, "init": 0.1}),
]


@pytest.mark.parametrize("name, settings", MODULES)
def test_module_equals_pytorchs(name, settings):
    torch = pytest.importorskip("torch", reason="compares with PyTorch")
    ours, theirs = getattr(nn, name)(**settings), getattr(torch.nn, name)(**settings)
    y = ours(as_tensor(X))
    assert y.dtype == np.float32
    np.testing.assert_allclose(y.detach().numpy(), theirs(torch.tensor(X)).detach().numpy(), rtol=1e-5, atol=1e-6)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    assert repr(ours).startswith(f"{name}(")
    for key, value in settings.items():
        assert key == "init" or f"{key}={value!r}" in repr(ours)


def test_prelu_learns_its_slope():
    layer = nn.PReLU()
    layer(as_tensor(X)).sum().backward()
    np.testing.assert_allclose(layer.weight.grad.numpy(), [X[X < 0].sum()], rtol=1e-5)


def test_functional_has_the_names():
    for name in ("relu", "gelu", "cross_entropy", "linear", "dropout", "softmax", "conv2d", "ctc_loss", "layer_norm"):
        assert callable(getattr(F, name))
    assert minidl.nn.functional is F


# Dropout


def big(shape=(200, 100)):
    return as_tensor(np.ones(shape, np.float32), requires_grad=True)


def test_dropout_zeroes_a_share_and_scales_the_rest():
    minidl.manual_seed(0)
    x = big()
    y = nn.Dropout(0.3)(x)
    values = y.detach().numpy()
    assert y.dtype == np.float32
    np.testing.assert_allclose(np.unique(values), [0, 1 / 0.7], rtol=1e-6)
    assert abs((values == 0).mean() - 0.3) < 0.02
    y.sum().backward()
    np.testing.assert_array_equal(x.grad.numpy(), values)


def test_dropout_is_repeatable_and_different_each_time():
    layer, x = nn.Dropout(), big()
    minidl.manual_seed(3)
    first, second = layer(x).detach().numpy(), layer(x).detach().numpy()
    assert (first != second).any()
    minidl.manual_seed(3)
    np.testing.assert_array_equal(layer(x).detach().numpy(), first)


@pytest.mark.parametrize("layer", [nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout])
def test_dropout_rests_in_evaluation(layer):
    x = big((2, 3, 4, 5)) if layer in (nn.Dropout2d, nn.Dropout3d) else big((2, 3, 4))
    assert layer(0.5).eval()(x) is x
    assert layer(0.0)(x) is x
    assert (layer(1.0)(x).detach().numpy() == 0).all()
    for p in (-0.1, 1.1):
        with pytest.raises(ValueError, match=r"must be in \[0, 1\]"):
            layer(p)


@pytest.mark.parametrize("layer, spatial", [(nn.Dropout1d, 1), (nn.Dropout2d, 2), (nn.Dropout3d, 3)])
def test_channel_dropout_zeroes_whole_channels(layer, spatial):
    minidl.manual_seed(0)
    y = layer(0.25)(big((40, 50, *(3,) * spatial))).detach().numpy().reshape(40, 50, -1)
    assert (y == y[:, :, :1]).all()
    assert abs((y[:, :, 0] == 0).mean() - 0.25) < 0.05
    assert layer(0.25)(big((50, *(3,) * spatial))).shape == (50, *(3,) * spatial)
    with pytest.raises(ValueError, match=f"dropout{spatial}d: expected {spatial + 1} axes"):
        layer()(big((2,)))


def test_alpha_dropout_keeps_mean_and_variance():
    minidl.manual_seed(0)
    x = as_tensor(np.random.default_rng(0).normal(size=(400, 400)))
    y = nn.AlphaDropout(0.2)(x).numpy()
    np.testing.assert_allclose([y.mean(), y.var()], [0, 1], atol=0.02)
    assert (y != x.numpy()).all()


def test_dropout_draws_from_the_default_generator():
    minidl.manual_seed(5)
    key, offset = minidl.random.default_generator().reserve(24)
    expected = ops.keyed_dropout(as_tensor(X), p=0.5, key=key, offset=offset).numpy()
    minidl.manual_seed(5)
    np.testing.assert_array_equal(F.dropout(as_tensor(X)).numpy(), expected)


@pytest.mark.parametrize("layer", [nn.Dropout(), nn.Dropout1d(), nn.AlphaDropout()])
def test_a_captured_step_draws_anew(layer):
    x, step = as_tensor(np.ones((4, 8, 2), np.float32)), minidl.jit(layer)
    minidl.manual_seed(1)
    expected = [layer(x).numpy().copy() for _ in range(3)]
    minidl.manual_seed(1)
    for values in expected:
        np.testing.assert_array_equal(step(x).numpy(), values)


@pytest.mark.parametrize("name", [n for n in vars(F) if n[0] != "_"])
def test_functional_and_ops_are_one(name):
    assert getattr(F, name) is getattr(ops, name)


def test_functional_embedding_takes_the_index_first():
    weight = np.arange(6.0).reshape(3, 2)
    assert F.embedding(np.array([2, 0]), weight).tolist() == [[4, 5], [0, 1]]
