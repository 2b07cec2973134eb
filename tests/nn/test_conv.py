import math

import numpy as np
import pytest

import minidl
from minidl import nn
from minidl.core.tensor import as_tensor

torch = pytest.importorskip("torch", reason="PyTorch is the independent implementation compared with")


def same(ours, theirs, x, tol=1e-5):
    """Load PyTorch's weights by name; compare output and all gradients. Returns nothing, raises AssertionError."""
    ours.load_state_dict({k: v.numpy() for k, v in theirs.state_dict().items()})
    a, b = as_tensor(x, requires_grad=True), torch.from_numpy(x.copy()).requires_grad_()
    out, expected = ours(a), theirs(b)
    np.testing.assert_allclose(out.detach(), expected.detach(), rtol=tol, atol=tol)
    (out * out).sum().backward()
    (expected * expected).sum().backward()
    np.testing.assert_allclose(a.grad, b.grad, rtol=tol, atol=10 * tol)
    grads = {k: p.grad for k, p in theirs.named_parameters()}
    assert grads.keys() == dict(ours.named_parameters()).keys()
    for k, p in ours.named_parameters():
        np.testing.assert_allclose(p.grad, grads[k], rtol=tol, atol=10 * tol, err_msg=k)


@pytest.mark.parametrize("n", [1, 2, 3])
@pytest.mark.parametrize("padding", [0, 1, "same", "valid"])
@pytest.mark.parametrize("mode", ["zeros", "reflect", "replicate", "circular"])
def test_convolutions_equal_pytorchs(n, padding, mode):
    kernel = (3, 5, 3)[:n]
    arguments = dict(kernel_size=kernel, padding=padding, padding_mode=mode, groups=2)
    if padding != "same":
        arguments.update(stride=2, bias=False)
    x = np.random.default_rng(n).standard_normal((2, 4) + (7, 6, 5)[:n], np.float32)
    same(getattr(nn, f"Conv{n}d")(4, 6, **arguments), getattr(torch.nn, f"Conv{n}d")(4, 6, **arguments), x)


@pytest.mark.parametrize("n", [1, 2, 3])
def test_transposed_convolutions_equal_pytorchs(n):
    arguments = dict(kernel_size=(3, 2, 3)[:n], stride=2, padding=1, output_padding=1, groups=2, dilation=2)
    x = np.random.default_rng(n).standard_normal((2, 4) + (3, 4, 3)[:n], np.float32)
    ours = getattr(nn, f"ConvTranspose{n}d")(4, 6, **arguments)
    theirs = getattr(torch.nn, f"ConvTranspose{n}d")(4, 6, **arguments)
    same(ours, theirs, x)
    size = tuple(m - 1 for m in ours(as_tensor(x)).shape[2:])
    got, expected = ours(as_tensor(x), output_size=size), theirs(torch.from_numpy(x), output_size=size)
    np.testing.assert_allclose(got.detach(), expected.detach(), rtol=1e-5, atol=1e-5)
    with pytest.raises(ValueError, match=r"output_size .* is impossible for size"):
        ours(as_tensor(x), output_size=(99,) * n)


def test_initial_values_are_uniform_on_one_over_the_root_of_fan_in():
    minidl.manual_seed(1)
    layer = nn.Conv2d(16, 64, 3, groups=2)
    bound = 1 / math.sqrt(8 * 9)
    for p in (layer.weight, layer.bias):
        values = np.abs(p.detach().numpy())
        assert 0.9 * bound < values.max() <= bound
    assert abs(layer.weight.detach().numpy().std() - bound / math.sqrt(3)) < 0.02 * bound


def test_a_readable_repr():
    text = "Conv2d(3, 8, kernel_size=(3, 3), stride=(2, 2), padding=(1, 1), groups=1, bias=False)".replace(
        ", groups=1", ""
    )
    assert repr(nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False)) == text


def test_dtype():
    layer = nn.Conv1d(2, 3, 3, dtype=np.float64)
    assert layer.weight.dtype == layer.bias.dtype == layer(np.zeros((1, 2, 5))).dtype == np.float64


def test_bad_arguments_are_refused():
    with pytest.raises(ValueError, match="Conv2d: in_channels=3 and out_channels=4 must both be multiples of groups=2"):
        nn.Conv2d(3, 4, 3, groups=2)
    with pytest.raises(ValueError, match="Conv2d: padding_mode must be one of zeros, reflect"):
        nn.Conv2d(3, 4, 3, padding_mode="mirror")
    with pytest.raises(ValueError, match="Conv2d: padding='full' is not known"):
        nn.Conv2d(3, 4, 3, padding="full")
    with pytest.raises(ValueError, match="Conv2d: padding='same' needs stride 1"):
        nn.Conv2d(3, 4, 3, padding="same", stride=2)
    with pytest.raises(ValueError, match="Conv1d: kernel_size must be an int or 1 ints"):
        nn.Conv1d(3, 4, (3, 3))
    with pytest.raises(ValueError, match="ConvTranspose2d: only padding_mode='zeros'"):
        nn.ConvTranspose2d(3, 4, 3, padding_mode="reflect")
    with pytest.raises(ValueError, match=r"conv2d: the input float32\[1, 4, 5, 5\] has 4 channels"):
        nn.Conv2d(3, 4, 3)(np.zeros((1, 4, 5, 5), np.float32))
