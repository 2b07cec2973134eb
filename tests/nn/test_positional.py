"""Sinusoidal, learned and rotary positions."""

import numpy as np
import pytest

from minidl import as_tensor
from minidl.nn.positional import (
    LearnedPositionalEncoding,
    RotaryEmbedding,
    SinusoidalPositionalEncoding,
    apply_rotary,
    sinusoidal_table,
)
from minidl.testing import gradcheck


@pytest.mark.parametrize("dim", [6, 7])
def test_sinusoidal_table_is_the_formula(dim):
    table = sinusoidal_table(5, dim)
    for p in range(5):
        for j in range(dim):
            angle = p / 10000 ** ((j - j % 2) / (dim + dim % 2))
            assert table[p, j] == pytest.approx(np.cos(angle) if j % 2 else np.sin(angle))


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("kind", ["sinusoidal", "learned"])
def test_positions_are_added(kind, batch_first):
    if kind == "sinusoidal":
        layer = SinusoidalPositionalEncoding(6, max_len=10, batch_first=batch_first, dtype=np.float64)
        table = sinusoidal_table(10, 6)
        assert not layer.state_dict()
    else:
        layer = LearnedPositionalEncoding(6, 10, batch_first=batch_first, dtype=np.float64)
        table = layer.weight.detach().numpy()
    x = np.random.default_rng(0).standard_normal((2, 4, 6) if batch_first else (4, 2, 6))
    rows = table[3:7] if batch_first else table[3:7, None]
    np.testing.assert_allclose(layer(x, offset=3).detach().numpy(), x + rows, atol=1e-12)
    with pytest.raises(ValueError, match="max_len"):
        layer(x, offset=7)
    if kind == "learned":
        layer(x).sum().backward()
        np.testing.assert_array_equal(layer.weight.grad.numpy()[:, 0], [2] * 4 + [0] * 6)


@pytest.mark.parametrize("interleaved", [True, False])
def test_rotary_turns_pairs_and_products_depend_on_the_distance_alone(interleaved):
    rng = np.random.default_rng(0)
    layer = RotaryEmbedding(8, max_len=32, interleaved=interleaved, dtype=np.float64)
    q, k = rng.standard_normal((1, 8)), rng.standard_normal((1, 8))
    # as multiplication by e^(i p theta) of complex numbers made of the pairs
    pairs = (lambda a: a[..., 0::2] + 1j * a[..., 1::2]) if interleaved else (lambda a: a[..., :4] + 1j * a[..., 4:])
    turned = layer(q, offset=5).numpy()
    np.testing.assert_allclose(pairs(turned), pairs(q) * np.exp(1j * 5 * 10000.0 ** (-np.arange(4) / 4)), atol=1e-12)
    products = [float((layer(q, offset=p + 3) * layer(k, offset=p)).sum()) for p in (0, 7, 20)]
    np.testing.assert_allclose(products, products[0], atol=1e-12)
    gradcheck(lambda x: layer(x), rng.standard_normal((2, 3, 8)))


def test_errors():
    with pytest.raises(ValueError, match="even"):
        RotaryEmbedding(7)
    with pytest.raises(ValueError, match="even D"):
        apply_rotary(as_tensor(np.zeros((3, 7))), np.zeros((3, 3)), np.zeros((3, 3)))
    with pytest.raises(ValueError, match="max_len"):
        RotaryEmbedding(4, max_len=2)(np.zeros((3, 4), np.float32))
