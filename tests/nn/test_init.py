"""Initializers: distributions, in place, reproducible."""

import math

import numpy as np
import pytest
from scipy import stats

import minidl
from minidl import Generator, as_tensor
from minidl.nn import init


def empty(*shape, dtype=np.float32):
    return as_tensor(np.full(shape, np.nan, dtype), requires_grad=True)


RANDOM = {
    "uniform_": lambda t, g: init.uniform_(t, -1, 2, generator=g),
    "normal_": lambda t, g: init.normal_(t, 1, 2, generator=g),
    "trunc_normal_": lambda t, g: init.trunc_normal_(t, generator=g),
    "xavier_uniform_": lambda t, g: init.xavier_uniform_(t, generator=g),
    "xavier_normal_": lambda t, g: init.xavier_normal_(t, generator=g),
    "kaiming_uniform_": lambda t, g: init.kaiming_uniform_(t, generator=g),
    "kaiming_normal_": lambda t, g: init.kaiming_normal_(t, generator=g),
    "orthogonal_": lambda t, g: init.orthogonal_(t, generator=g),
    "sparse_": lambda t, g: init.sparse_(t, 0.3, generator=g),
}


@pytest.mark.parametrize("name", RANDOM)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_in_place_unrecorded_and_reproducible(name, dtype):
    t = empty(6, 4, dtype=dtype)
    memory = t.array
    assert RANDOM[name](t, Generator(1)) is t
    assert t.array is memory and t.dtype == dtype and t.is_leaf and t.requires_grad
    first = t.detach().numpy().copy()
    assert np.isfinite(first).all()
    RANDOM[name](t, Generator(2))
    assert (t.detach().numpy() != first).any()
    RANDOM[name](t, Generator(1))
    np.testing.assert_array_equal(t.detach().numpy(), first)
    minidl.manual_seed(1)
    RANDOM[name](t, None)
    np.testing.assert_array_equal(t.detach().numpy(), first)


@pytest.mark.parametrize(
    "f, distribution",
    [
        (lambda t: init.uniform_(t, -1, 2), stats.uniform(-1, 3)),
        (lambda t: init.normal_(t, 1, 2), stats.norm(1, 2)),
        (lambda t: init.trunc_normal_(t, 0.5, 2.0, -1, 3), stats.truncnorm(-0.75, 1.25, 0.5, 2.0)),
        (lambda t: init.xavier_uniform_(t, 2.0), stats.uniform(-2 * math.sqrt(6 / 500), 4 * math.sqrt(6 / 500))),
        (lambda t: init.xavier_normal_(t), stats.norm(0, math.sqrt(2 / 500))),
        (lambda t: init.kaiming_normal_(t, nonlinearity="relu"), stats.norm(0, math.sqrt(2 / 200))),
        (lambda t: init.kaiming_normal_(t, mode="fan_out", nonlinearity="relu"), stats.norm(0, math.sqrt(2 / 300))),
        (
            lambda t: init.kaiming_uniform_(t, a=math.sqrt(5)),
            stats.uniform(-1 / math.sqrt(200), 2 / math.sqrt(200)),
        ),
    ],
)
def test_distribution(f, distribution):
    minidl.manual_seed(0)
    values = f(empty(300, 200)).detach().numpy().reshape(-1)
    assert stats.kstest(values, distribution.cdf).pvalue > 1e-3


def test_fans_of_a_convolution_weight():
    minidl.manual_seed(0)
    std = init.kaiming_normal_(empty(64, 32, 3, 3), nonlinearity="relu").detach().numpy().std()
    np.testing.assert_allclose(std, math.sqrt(2 / (32 * 9)), rtol=0.02)


def test_trunc_normal_stays_inside():
    values = init.trunc_normal_(empty(1000), 0.0, 1.0, -0.1, 0.3).detach().numpy()
    assert values.min() >= np.float32(-0.1) and values.max() <= np.float32(0.3)
    far = init.trunc_normal_(empty(1000), 0.0, 1.0, 6.0, 7.0).detach().numpy()
    assert np.isfinite(far).all() and far.min() >= 6
    with pytest.raises(ValueError, match="a < b"):
        init.trunc_normal_(empty(2), a=1, b=1)


@pytest.mark.parametrize("shape", [(5, 5), (3, 7), (7, 3), (4, 2, 3, 3)])
def test_orthogonal(shape):
    w = init.orthogonal_(empty(*shape, dtype=np.float64), gain=2.0).detach().numpy().reshape(shape[0], -1)
    gram = w @ w.T if w.shape[0] <= w.shape[1] else w.T @ w
    np.testing.assert_allclose(gram, 4 * np.eye(len(gram)), atol=1e-12)


def test_sparse():
    w = init.sparse_(empty(100, 8), 0.25, std=0.5).detach().numpy()
    assert ((w == 0).sum(0) == 25).all()
    assert not (w == 0).all(1).any()


def test_constants():
    assert init.constant_(empty(2), 3).tolist() == [3, 3]
    assert init.zeros_(empty(2)).tolist() == [0, 0]
    assert init.ones_(empty(2)).tolist() == [1, 1]
    assert init.eye_(empty(2, 3)).tolist() == [[1, 0, 0], [0, 1, 0]]


@pytest.mark.parametrize("shape, groups", [((3, 3, 3), 1), ((4, 2, 3, 3), 1), ((4, 2, 3, 3), 2), ((2, 2, 3, 3, 3), 1)])
def test_dirac_equals_pytorchs(shape, groups):
    torch = pytest.importorskip("torch", reason="compares with PyTorch")
    expected = torch.nn.init.dirac_(torch.empty(shape), groups).numpy()
    np.testing.assert_array_equal(init.dirac_(empty(*shape), groups).detach().numpy(), expected)


def test_gains_equal_pytorchs():
    torch = pytest.importorskip("torch", reason="compares with PyTorch")
    for name in ("linear", "conv2d", "sigmoid", "tanh", "relu", "leaky_relu", "selu"):
        assert init.calculate_gain(name) == pytest.approx(torch.nn.init.calculate_gain(name))
    assert init.calculate_gain("leaky_relu", 0.3) == pytest.approx(torch.nn.init.calculate_gain("leaky_relu", 0.3))


def test_bad_arguments():
    with pytest.raises(ValueError, match="unknown nonlinearity 'swish'"):
        init.calculate_gain("swish")
    for f in (init.xavier_uniform_, init.kaiming_normal_, init.orthogonal_):
        with pytest.raises(ValueError, match=f"{f.__name__}: expected a tensor with at least 2 axes, got shape"):
            f(empty(3))
    with pytest.raises(ValueError, match="mode must be"):
        init.kaiming_uniform_(empty(2, 2), mode="fan")
    for f, t in ((init.eye_, empty(2)), (init.dirac_, empty(2, 2)), (lambda t: init.sparse_(t, 0.1), empty(2))):
        with pytest.raises(ValueError, match="expected a tensor with"):
            f(t)
    with pytest.raises(ValueError, match="groups"):
        init.dirac_(empty(3, 2, 3), groups=2)


def test_aliases():
    assert init.he_uniform_ is init.kaiming_uniform_ and init.glorot_normal_ is init.xavier_normal_


def test_skipped_leaves_values_and_generators_alone():
    for initializer in (init.uniform_, init.zeros_, init.ones_, init.xavier_normal_, init.kaiming_uniform_):
        t = minidl.full((3, 2), 7.0)
        with init.skipped():
            assert initializer(t) is t
        np.testing.assert_array_equal(t.numpy(), np.full((3, 2), 7.0))
        initializer(t)
        assert not (t.numpy() == 7).any()
    generator = Generator(0)
    with init.skipped():
        init.normal_(t, generator=generator)
    np.testing.assert_array_equal(generator.normal((2,)), Generator(0).normal((2,)))
