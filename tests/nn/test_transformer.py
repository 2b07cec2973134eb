"""Transformer layers and stacks against PyTorch."""

import numpy as np
import pytest

from minidl import as_tensor, nn

torch = pytest.importorskip("torch", reason="the comparison is with PyTorch")
N, S, T, D, HEADS, FF = 2, 5, 4, 8, 2, 12


def compare(ours, theirs, inputs, kw=None, tkw=None):
    ours.load_state_dict(theirs.state_dict())
    assert [k for k, _ in ours.named_parameters()] == [k for k, _ in theirs.named_parameters()]
    ins = [as_tensor(a, requires_grad=True) for a in inputs]
    tins = [torch.from_numpy(a.copy()).requires_grad_() for a in inputs]
    out = ours(*ins, **(kw or {}))
    tkw = {k: torch.from_numpy(v) if isinstance(v, np.ndarray) else v for k, v in (tkw or kw or {}).items()}
    tout = theirs(*tins, **tkw)
    np.testing.assert_allclose(out.detach().numpy(), tout.detach().numpy(), atol=1e-10)
    g = np.random.default_rng(9).standard_normal(out.shape)
    out.backward(g)
    tout.backward(torch.from_numpy(g))
    for a, b in zip([*ins, *ours.parameters()], [*tins, *theirs.parameters()]):
        np.testing.assert_allclose(a.grad.numpy(), b.grad.numpy(), atol=1e-9)


def inputs(*lengths, batch_first):
    rng = np.random.default_rng(0)
    return [rng.standard_normal((N, n, D) if batch_first else (n, N, D)) for n in lengths]


OPTIONS = [
    {"batch_first": True},
    {"norm_first": True, "activation": "gelu"},
    {"batch_first": True, "norm_first": True, "bias": False},
]


def layers(kind, options):
    args = (D, HEADS, FF, 0.0)
    theirs = getattr(torch.nn, kind)(*args, **options, dtype=torch.float64)
    return getattr(nn, kind)(*args, **options, dtype=np.float64), theirs


PADDING = np.array([[False] * 5, [False, False, False, True, True]])
LATER = np.triu(np.ones((S, S), bool), 1)


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("masked", [False, True])
def test_encoder_layer(options, masked):
    ours, theirs = layers("TransformerEncoderLayer", options)
    kw = {"src_mask": LATER, "src_key_padding_mask": PADDING} if masked else {}
    compare(ours, theirs, inputs(S, batch_first=options.get("batch_first")), kw)


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("masked", [False, True])
def test_decoder_layer(options, masked):
    ours, theirs = layers("TransformerDecoderLayer", options)
    kw, tkw = {}, {}
    if masked:
        tkw = {"tgt_mask": np.triu(np.ones((T, T), bool), 1), "memory_key_padding_mask": PADDING}
        kw = {"tgt_is_causal": True, "memory_key_padding_mask": PADDING}
    compare(ours, theirs, inputs(T, S, batch_first=options.get("batch_first")), kw, tkw)


def test_stacks():
    ours, theirs = layers("TransformerEncoderLayer", {"batch_first": True})
    norms = nn.LayerNorm(D, dtype=np.float64), torch.nn.LayerNorm(D, dtype=torch.float64)
    compare(
        nn.TransformerEncoder(ours, 2, norms[0]),
        torch.nn.TransformerEncoder(theirs, 2, norms[1], enable_nested_tensor=False),
        inputs(S, batch_first=True),
        {"mask": LATER},
    )
    ours, theirs = layers("TransformerDecoderLayer", {"norm_first": True})
    compare(nn.TransformerDecoder(ours, 2), torch.nn.TransformerDecoder(theirs, 2), inputs(T, S, batch_first=False))


@pytest.mark.filterwarnings("ignore:enable_nested_tensor")
def test_transformer():
    args = (D, HEADS, 1, 2, FF, 0.0)
    compare(
        nn.Transformer(*args, batch_first=True, dtype=np.float64),
        torch.nn.Transformer(*args, batch_first=True, dtype=torch.float64),
        inputs(S, T, batch_first=True),
        {"tgt_is_causal": True},
        {"tgt_mask": np.triu(np.ones((T, T), bool), 1)},
    )


def test_dropout_in_training_only_and_copies_are_apart():
    layer = nn.TransformerEncoderLayer(D, HEADS, FF, 0.5)
    stack = nn.TransformerEncoder(layer, 2)
    x = np.random.default_rng(0).standard_normal((S, N, D)).astype(np.float32)
    assert not np.array_equal(stack(x).detach().numpy(), stack(x).detach().numpy())
    stack.eval()
    np.testing.assert_array_equal(stack(x).detach().numpy(), stack(x).detach().numpy())
    assert len(list(stack.parameters())) == 2 * len(list(layer.parameters()))


def test_activation_may_be_a_function():
    layer = nn.TransformerEncoderLayer(D, HEADS, activation=lambda x: x * 0)
    assert layer.activation is not None
    with pytest.raises(ValueError, match="activation"):
        nn.TransformerEncoderLayer(D, HEADS, activation="sine")
