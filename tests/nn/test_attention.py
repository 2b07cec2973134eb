"""MultiheadAttention against PyTorch, grouped queries, rotary positions, and the cache of keys and values."""

import numpy as np
import pytest

import minidl
from minidl import as_tensor, nn
from minidl.nn.attention import KVCache, MultiheadAttention
from minidl.nn.positional import RotaryEmbedding

N, L, S, E, HEADS = 2, 4, 5, 12, 3


def masks(kind):
    rng = np.random.default_rng(2)
    padding = np.zeros((N, S), bool)
    padding[1, 3:] = True
    hidden = rng.random((L, S)) > 0.7
    hidden[:, 0] = False
    each = rng.random((N * HEADS, L, S)) > 0.6
    each[:, :, 0] = False
    return {
        "none": {},
        "padding": {"key_padding_mask": padding},
        "bool": {"attn_mask": hidden},
        "float": {"attn_mask": rng.standard_normal((L, S))},
        "per head": {"attn_mask": each},
        "both": {"attn_mask": hidden, "key_padding_mask": padding},
    }[kind]


@pytest.mark.parametrize("kind", ["none", "padding", "bool", "float", "per head", "both"])
@pytest.mark.parametrize("options", [{}, {"kdim": 7, "vdim": 5, "batch_first": True}, {"bias": False}])
@pytest.mark.parametrize("need_weights", [False, True])
def test_against_pytorch(kind, options, need_weights):
    torch = pytest.importorskip("torch", reason="the comparison is with PyTorch")
    rng = np.random.default_rng(0)
    theirs = torch.nn.MultiheadAttention(E, HEADS, **options, dtype=torch.float64)
    ours = MultiheadAttention(E, HEADS, **options, dtype=np.float64)
    ours.load_state_dict(theirs.state_dict())
    arrays = [
        rng.standard_normal((N, n, w)) for n, w in ((L, E), (S, options.get("kdim", E)), (S, options.get("vdim", E)))
    ]
    if not options.get("batch_first"):
        arrays = [a.swapaxes(0, 1).copy() for a in arrays]
    ins = [as_tensor(a, requires_grad=True) for a in arrays]
    tins = [torch.from_numpy(a.copy()).requires_grad_() for a in arrays]
    kw = masks(kind)
    out, w = ours(*ins, need_weights=need_weights, average_attn_weights=False, **kw)
    tkw = {k: torch.from_numpy(v) for k, v in kw.items()}
    tout, tw = theirs(*tins, need_weights=need_weights, average_attn_weights=False, **tkw)
    np.testing.assert_allclose(out.detach().numpy(), tout.detach().numpy(), atol=1e-12)
    if need_weights:
        np.testing.assert_allclose(w.detach().numpy(), tw.detach().numpy(), atol=1e-12)
    else:
        assert w is None
    g = rng.standard_normal(out.shape)
    out.backward(g)
    tout.backward(torch.from_numpy(g))
    for a, b in zip([*ins, *ours.parameters()], [*tins, *theirs.parameters()]):
        np.testing.assert_allclose(a.grad.numpy(), b.grad.numpy(), atol=1e-11)


def test_self_attention_averages_weights_and_takes_unbatched_input():
    torch = pytest.importorskip("torch", reason="the comparison is with PyTorch")
    rng = np.random.default_rng(0)
    theirs = torch.nn.MultiheadAttention(E, HEADS, dtype=torch.float64)
    ours = MultiheadAttention(E, HEADS, dtype=np.float64)
    ours.load_state_dict(theirs.state_dict())
    x = rng.standard_normal((L, E))
    t = torch.from_numpy(x)
    for a, b in zip(ours(x), theirs(t, t, t)):
        assert a.shape == tuple(b.shape)
        np.testing.assert_allclose(a.detach().numpy(), b.detach().numpy(), atol=1e-12)


def test_is_causal_masks_by_itself():
    layer = MultiheadAttention(E, HEADS, batch_first=True, dtype=np.float64)
    x = np.random.default_rng(0).standard_normal((N, L, E))
    later = np.triu(np.ones((L, L), bool), 1)
    a, _ = layer(x, is_causal=True, need_weights=False)
    b, w = layer(x, attn_mask=later)
    np.testing.assert_allclose(a.detach().numpy(), b.detach().numpy(), atol=1e-12)
    assert not w.detach().numpy()[:, later].any()


def test_query_that_sees_nothing_gets_zeros():
    layer = MultiheadAttention(E, HEADS, batch_first=True, bias=False, dtype=np.float64)
    x = as_tensor(np.random.default_rng(0).standard_normal((N, L, E)), requires_grad=True)
    padding = np.zeros((N, L), bool)
    padding[1] = True
    out, w = layer(x, key_padding_mask=padding)
    assert not out.detach().numpy()[1].any()
    assert not w.detach().numpy()[1].any()
    out.sum().backward()
    assert np.isfinite(x.grad.numpy()).all()


@pytest.mark.parametrize("kv_heads", [1, 2])
def test_grouped_queries_equal_repeated_heads(kv_heads):
    heads, width = 4, 8
    grouped = MultiheadAttention(width, heads, num_kv_heads=kv_heads, batch_first=True, dtype=np.float64)
    full = MultiheadAttention(width, heads, batch_first=True, dtype=np.float64)
    d, group = width // heads, heads // kv_heads
    w, b = grouped.in_proj_weight.detach().numpy(), grouped.in_proj_bias.detach().numpy()

    def repeated(a):
        q, k, v = np.split(a, [width, width + kv_heads * d])
        k, v = (np.repeat(m.reshape(kv_heads, d, *m.shape[1:]), group, 0).reshape(width, *m.shape[1:]) for m in (k, v))
        return np.concatenate([q, k, v])

    state = {**grouped.state_dict(), "in_proj_weight": repeated(w), "in_proj_bias": repeated(b)}
    full.load_state_dict(state)
    x = np.random.default_rng(0).standard_normal((N, L, width))
    for need in (False, True):
        a, b = grouped(x, need_weights=need)[0], full(x, need_weights=need)[0]
        np.testing.assert_allclose(a.detach().numpy(), b.detach().numpy(), atol=1e-12)


@pytest.mark.parametrize("chunks", [[1, 1, 1, 1, 1, 1], [3, 1, 2], [6]])
@pytest.mark.parametrize("options", [{}, {"num_kv_heads": 1, "rotary": True}])
def test_cache_gives_what_the_whole_sequence_gives(chunks, options):
    options = dict(options)
    if options.pop("rotary", False):
        options["rotary"] = RotaryEmbedding(E // HEADS, max_len=16, dtype=np.float64)
    layer = MultiheadAttention(E, HEADS, batch_first=True, dtype=np.float64, **options)
    x = np.random.default_rng(0).standard_normal((N, 6, E))
    whole = layer(x, is_causal=True, need_weights=False)[0].detach().numpy()
    cache = KVCache(capacity=2)  # small, so that it has to grow
    with minidl.no_grad():
        parts, at = [], 0
        for n in chunks:
            parts.append(layer(x[:, at : at + n], is_causal=True, need_weights=False, cache=cache)[0].numpy())
            at += n
    np.testing.assert_allclose(np.concatenate(parts, axis=1), whole, atol=1e-12)
    assert len(cache) == 6


def test_cache_refuses_gradients_and_other_shapes():
    layer = MultiheadAttention(E, HEADS, batch_first=True)
    x = np.zeros((N, L, E), np.float32)
    with pytest.raises(RuntimeError, match="no_grad"):
        layer(x, cache=KVCache())
    cache = KVCache()
    k = as_tensor(np.zeros((1, 2, 3, 4)))
    cache.update(k, k)
    other = as_tensor(np.zeros((2, 2, 1, 4)))
    with pytest.raises(ValueError, match="does not continue"):
        cache.update(other, other)
    cache.reset()
    assert len(cache) == 0


def test_dropout_in_training_only():
    minidl.manual_seed(0)
    layer = MultiheadAttention(E, HEADS, dropout=0.5)
    x = np.random.default_rng(0).standard_normal((L, N, E)).astype(np.float32)
    assert not np.array_equal(layer(x)[0].detach().numpy(), layer(x)[0].detach().numpy())
    layer.eval()
    np.testing.assert_array_equal(layer(x)[0].detach().numpy(), layer(x)[0].detach().numpy())


def test_errors():
    with pytest.raises(ValueError, match="divisible"):
        nn.MultiheadAttention(10, 3)
    with pytest.raises(ValueError, match="widths"):
        MultiheadAttention(E, HEADS)(np.zeros((L, N, E + 1), np.float32))
