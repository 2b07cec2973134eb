"""Linear, Bilinear, Flatten, Unflatten, and the operations below them."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minidl import as_tensor, nn, ops
from minidl.testing import gradcheck, gradgradcheck

torch = pytest.importorskip("torch", reason="these tests compare with PyTorch")


def rng(seed=0):
    return np.random.default_rng(seed)


@settings(max_examples=25, deadline=None)
@given(
    lead=st.lists(st.integers(0, 3), max_size=3).map(tuple),
    n=st.integers(0, 4),
    m=st.integers(0, 4),
    bias=st.booleans(),
)
def test_linear_of_any_shape(lead, n, m, bias):
    x, w, b = rng(1).normal(size=(*lead, n)), rng(2).normal(size=(m, n)), rng(3).normal(size=m)
    arrays = [x, w, b] if bias else [x, w]
    ours = [as_tensor(a, requires_grad=True) for a in arrays]
    theirs = [torch.tensor(a, requires_grad=True) for a in arrays]
    y, z = ops.linear(*ours), torch.nn.functional.linear(*theirs)
    assert y.shape == tuple(z.shape)
    np.testing.assert_allclose(y.detach().numpy(), z.detach().numpy(), rtol=1e-12, atol=1e-13)
    g = rng(4).normal(size=y.shape)
    y.backward(g)
    z.backward(torch.tensor(g))
    for a, b in zip(ours, theirs):
        np.testing.assert_allclose(a.grad.numpy(), b.grad.numpy(), rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("lead", [(), (2,), (2, 3), (1, 2, 2)])
def test_linear_derivatives(lead):
    arrays = rng().normal(size=(*lead, 4)), rng(1).normal(size=(3, 4)), rng(2).normal(size=3)
    gradcheck(ops.linear, *arrays)
    gradgradcheck(ops.linear, *arrays)
    gradcheck(ops.linear, *arrays[:2])


def test_linear_on_turned_arrays_leaves_its_inputs_alone():
    x, w, b = rng().normal(size=(4, 5)).T[:, ::2], rng(1).normal(size=(2, 3)), rng(2).normal(size=3)
    before = [a.copy() for a in (x, w, b)]
    found = ops.linear(as_tensor(x), as_tensor(w.T), as_tensor(b)).numpy()
    np.testing.assert_allclose(found, x @ w + b, rtol=1e-13)
    for a, old in zip((x, w, b), before):
        np.testing.assert_array_equal(a, old)


@pytest.mark.parametrize(
    "x, w, b, message",
    [
        ((2, 3), (4, 5), None, r"x float64\[2, 3\], weight float64\[4, 5\]; expected \(..., in\) and \(out, in\)"),
        ((2, 3), (3,), None, "linear: shapes do not fit"),
        ((), (3, 1), None, "linear: shapes do not fit"),
        ((2, 3), (4, 3), (3,), r"bias float64\[3\] does not fit weight float64\[4, 3\]"),
    ],
)
def test_linear_shapes_that_do_not_fit(x, w, b, message):
    with pytest.raises(ValueError, match=message):
        ops.linear(as_tensor(np.zeros(x)), as_tensor(np.zeros(w)), None if b is None else as_tensor(np.zeros(b)))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("bias", [True, False])
def test_linear_layer_equals_pytorchs(bias, dtype):
    theirs = torch.nn.Linear(5, 3, bias=bias).to(getattr(torch, np.dtype(dtype).name))
    ours = nn.Linear(5, 3, bias=bias, dtype=dtype)
    ours.load_state_dict(theirs.state_dict())
    x = rng().normal(size=(4, 5)).astype(dtype)
    y, z = ours(as_tensor(x)), theirs(torch.tensor(x))
    assert y.dtype == dtype
    np.testing.assert_allclose(y.detach().numpy(), z.detach().numpy(), rtol=1e-5, atol=1e-6)
    y.sum().backward()
    z.sum().backward()
    np.testing.assert_allclose(ours.weight.grad.numpy(), theirs.weight.grad.numpy(), rtol=1e-5, atol=1e-6)


def test_linear_starts_as_pytorchs():
    layer = nn.Linear(100, 2000)
    for p in (layer.weight, layer.bias):
        values = p.detach().numpy()
        assert values.dtype == np.float32 and np.abs(values).max() <= 0.1
        np.testing.assert_allclose(values.std(), 0.1 / np.sqrt(3), rtol=0.05)


def test_bilinear():
    theirs = torch.nn.Bilinear(4, 5, 3).double()
    ours = nn.Bilinear(4, 5, 3, dtype=np.float64)
    ours.load_state_dict(theirs.state_dict())
    for lead in [(2,), (2, 3)]:
        x1, x2 = rng().normal(size=(*lead, 4)), rng(1).normal(size=(*lead, 5))
        expected = theirs(torch.tensor(x1), torch.tensor(x2)).detach().numpy()
        np.testing.assert_allclose(ours(as_tensor(x1), as_tensor(x2)).detach().numpy(), expected, rtol=1e-12)
    w, b = rng(2).normal(size=(3, 4, 5)), rng(3).normal(size=3)
    gradcheck(ops.bilinear, rng().normal(size=(2, 4)), rng(1).normal(size=(2, 5)), w, b)
    with pytest.raises(ValueError, match="bilinear: shapes do not fit"):
        ours(as_tensor(x2), as_tensor(x1))


def test_flatten_and_unflatten():
    x = as_tensor(rng().normal(size=(2, 3, 4, 5)))
    assert nn.Flatten()(x).shape == (2, 60)
    assert nn.Flatten(0, 1)(x).shape == (6, 4, 5)
    assert nn.Unflatten(-1, (5, 1))(x).shape == (2, 3, 4, 5, 1)
    assert nn.Unflatten(1, (-1, 3))(nn.Flatten()(x)).shape == (2, 20, 3)
    np.testing.assert_array_equal(nn.Unflatten(1, (3, 4, 5))(nn.Flatten()(x)).numpy(), x.numpy())


def test_identity_takes_anything():
    x = as_tensor([1.0])
    assert nn.Identity(3, key="value")(x) is x


@pytest.mark.parametrize(
    ("layer", "arguments", "message"),
    [
        (nn.Linear, (-1, 2), "Linear: in_features must be an int of at least 0, got -1"),
        (nn.Linear, (2, 2.5), "Linear: out_features must be an int of at least 0, got 2.5"),
        (nn.Bilinear, (2, 2, -3), "Bilinear: out_features"),
        (nn.Embedding, (4, -2), "Embedding: embedding_dim"),
        (nn.Conv2d, (3, -4, 3), "Conv2d: out_channels"),
        (nn.LSTM, (2, 3, 0), "LSTM: num_layers must be an int of at least 1, got 0"),
        (nn.GRUCell, (2, 0), "GRUCell: hidden_size"),
        (nn.MultiheadAttention, (8, 0), "MultiheadAttention: num_heads"),
    ],
)
def test_sizes_that_make_no_layer(layer, arguments, message):
    with pytest.raises(ValueError, match=message):
        layer(*arguments)
