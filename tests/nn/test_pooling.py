import numpy as np
import pytest

from minidl import nn
from minidl.core.tensor import as_tensor

LAYERS = [
    ("MaxPool", dict(kernel_size=3, stride=2, padding=1, dilation=1, ceil_mode=True)),
    ("MaxPool", dict(kernel_size=2)),
    ("AvgPool", dict(kernel_size=3, stride=2, padding=1, ceil_mode=True, count_include_pad=False)),
    ("AvgPool", dict(kernel_size=2)),
    ("AdaptiveMaxPool", dict(output_size=3)),
    ("AdaptiveAvgPool", dict(output_size=3)),
]


@pytest.mark.parametrize("n", [1, 2, 3])
@pytest.mark.parametrize(("kind", "arguments"), LAYERS)
def test_pooling_layers_equal_pytorchs(n, kind, arguments):
    torch = pytest.importorskip("torch", reason="PyTorch is the independent implementation compared with")
    if kind == "AvgPool":
        arguments = {k: (v,) * n if k in ("kernel_size", "stride", "padding") else v for k, v in arguments.items()}
    x = np.random.default_rng(n).standard_normal((2, 3) + (7, 5, 4)[:n], np.float32)
    a, b = as_tensor(x, requires_grad=True), torch.from_numpy(x.copy()).requires_grad_()
    out = getattr(nn, f"{kind}{n}d")(**arguments)(a)
    expected = getattr(torch.nn, f"{kind}{n}d")(**arguments)(b)
    np.testing.assert_allclose(out.detach(), expected.detach(), rtol=1e-5, atol=1e-6)
    (out * out).sum().backward()
    (expected * expected).sum().backward()
    np.testing.assert_allclose(a.grad, b.grad, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("n", [1, 2, 3])
def test_global_pooling_leaves_one_number_a_channel(n):
    x = np.random.default_rng(n).standard_normal((2, 3) + (4,) * n)
    axes = tuple(range(2, n + 2))
    np.testing.assert_allclose(getattr(nn, f"GlobalAvgPool{n}d")()(x), x.mean(axes))
    np.testing.assert_allclose(getattr(nn, f"GlobalMaxPool{n}d")(keepdims=True)(x), x.max(axes, keepdims=True))
    with pytest.raises(ValueError, match=rf"GlobalAvgPool{n}d: expected {n + 2} axes"):
        getattr(nn, f"GlobalAvgPool{n}d")()(x[0])


def test_indices_are_returned_on_request():
    x = np.arange(16.0).reshape(1, 1, 4, 4)
    out, index = nn.MaxPool2d(2, return_indices=True)(x)
    np.testing.assert_array_equal(x.reshape(-1)[index], out)
    out, index = nn.AdaptiveMaxPool2d(3, return_indices=True)(x)
    np.testing.assert_array_equal(x.reshape(-1)[index], out)


def test_both_spellings_and_a_readable_repr():
    assert (
        repr(nn.AvgPool2d(3, 2))
        == "AvgPool2d(kernel_size=3, stride=2, padding=0, ceil_mode=False, count_include_pad=True)"
    )
