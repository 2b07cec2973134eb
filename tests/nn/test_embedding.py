"""The Embedding layer."""

import numpy as np
import pytest

import minidl
from minidl import nn


def test_against_pytorch():
    torch = pytest.importorskip("torch", reason="the comparison is with PyTorch")
    theirs = torch.nn.Embedding(7, 3, padding_idx=-2)
    ours = nn.Embedding(7, 3, padding_idx=-2)
    assert ours.padding_idx == theirs.padding_idx == 5
    assert not ours.weight.detach().numpy()[5].any()
    ours.load_state_dict(theirs.state_dict())
    index = np.array([[0, 5, 2], [2, 2, 6]])
    g = np.random.default_rng(0).standard_normal((2, 3, 3)).astype(np.float32)
    out, tout = ours(index), theirs(torch.from_numpy(index))
    np.testing.assert_array_equal(out.detach().numpy(), tout.detach().numpy())
    out.backward(g)
    tout.backward(torch.from_numpy(g))
    np.testing.assert_allclose(ours.weight.grad.numpy(), theirs.weight.grad.numpy(), rtol=1e-6)


def test_from_pretrained_and_lists():
    rows = np.arange(6.0).reshape(3, 2)
    layer = nn.Embedding.from_pretrained(rows)
    assert not layer.weight.requires_grad
    np.testing.assert_array_equal(layer([2, 0]).numpy(), rows[[2, 0]])
    assert nn.Embedding.from_pretrained(rows, freeze=False).weight.requires_grad
    assert layer(np.zeros((2, 0), np.int64)).shape == (2, 0, 2)


def test_initial_values_are_standard_normal():
    minidl.manual_seed(0)
    values = nn.Embedding(200, 50).weight.detach().numpy()
    assert abs(values.mean()) < 0.05
    assert abs(values.std() - 1) < 0.05


def test_errors():
    with pytest.raises(IndexError, match=r"indices 0\.\.3 are outside 0\.\.2"):
        nn.Embedding(3, 2)([0, 3])
    with pytest.raises(TypeError, match="integer"):
        nn.Embedding(3, 2)([0.5])
    with pytest.raises(ValueError, match="padding_idx"):
        nn.Embedding(3, 2, padding_idx=3)
