"""Recurrent layers, cells and packed sequences against PyTorch."""

import numpy as np
import pytest

import minidl
from minidl import as_tensor, nn
from minidl.nn import recurrent as rec

torch = pytest.importorskip("torch", reason="the comparison is with PyTorch")
T, N, I, H = 5, 3, 4, 6  # noqa: E741


def twins(kind, *args, dtype=np.float64, **kwargs):
    """The same layer here and in PyTorch."""
    theirs = getattr(torch.nn, kind)(*args, **kwargs, dtype=torch.float64 if dtype == np.float64 else torch.float32)
    ours = getattr(rec, kind)(*args, **kwargs, dtype=dtype)
    ours.load_state_dict(theirs.state_dict())
    return ours, theirs


def flat(out):
    if isinstance(out, tuple) and not hasattr(out, "data"):
        return [a for o in out for a in flat(o)]
    return [out.data if hasattr(out, "batch_sizes") else out]


def compare(ours, theirs, ours_in, theirs_in, tol=1e-9):
    """Outputs, and gradients of a random combination of them, with respect to all inputs and parameters."""
    a, b = flat(ours(*ours_in)), flat(theirs(*theirs_in))
    assert len(a) == len(b)
    rng = np.random.default_rng(1)
    loss_a = loss_b = 0
    for x, y in zip(a, b):
        np.testing.assert_allclose(x.detach().numpy(), y.detach().numpy(), rtol=tol, atol=tol)
        w = rng.standard_normal(x.shape).astype(x.dtype)
        loss_a, loss_b = loss_a + (x * w).sum(), loss_b + (y * torch.from_numpy(w)).sum()
    loss_a.backward()
    loss_b.backward()
    for (name, p), (name_b, q) in zip(ours.named_parameters(), theirs.named_parameters()):
        assert name == name_b
        np.testing.assert_allclose(p.grad.numpy(), q.grad.numpy(), rtol=tol, atol=tol, err_msg=name)


def pair(rng, *shape, dtype=np.float64):
    a = rng.standard_normal(shape).astype(dtype)
    return as_tensor(a, requires_grad=True), torch.from_numpy(a.copy()).requires_grad_()


CONFIGS = [
    ("RNN", {}),
    ("RNN", {"nonlinearity": "relu", "bidirectional": True}),
    ("GRU", {}),
    ("GRU", {"num_layers": 2, "bidirectional": True, "batch_first": True}),
    ("LSTM", {}),
    ("LSTM", {"num_layers": 2, "bidirectional": True, "bias": False}),
    ("LSTM", {"num_layers": 2, "bidirectional": True, "proj_size": 2, "batch_first": True}),
]


@pytest.mark.parametrize(("kind", "options"), CONFIGS)
@pytest.mark.parametrize("given_state", [False, True])
def test_layers(kind, options, given_state):
    rng = np.random.default_rng(0)
    ours, theirs = twins(kind, I, H, **options)
    x, tx = pair(rng, *((N, T) if options.get("batch_first") else (T, N)), I)
    states, tstates = [], []
    if given_state:
        count = options.get("num_layers", 1) * (2 if options.get("bidirectional") else 1)
        widths = [options.get("proj_size") or H, H][: 2 if kind == "LSTM" else 1]
        both = [pair(rng, count, N, w) for w in widths]
        states, tstates = [s for s, _ in both], [s for _, s in both]
    wrap = (lambda s: [tuple(s)] if kind == "LSTM" else list(s)) if given_state else lambda s: []
    compare(ours, theirs, [x, *wrap(states)], [tx, *wrap(tstates)])
    for a, b in zip([x, *states], [tx, *tstates]):
        np.testing.assert_allclose(a.grad.numpy(), b.grad.numpy(), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("kind", "options"), CONFIGS)
@pytest.mark.parametrize("lengths", [[5, 3, 1], [2, 5, 4]])
def test_packed(kind, options, lengths):
    rng = np.random.default_rng(0)
    ours, theirs = twins(kind, I, H, **options)
    first = options.get("batch_first", False)
    x, tx = pair(rng, *((N, T) if first else (T, N)), I)
    sort = lengths == sorted(lengths, reverse=True)
    p = rec.pack_padded_sequence(x, lengths, batch_first=first, enforce_sorted=sort)
    q = torch.nn.utils.rnn.pack_padded_sequence(tx, torch.tensor(lengths), batch_first=first, enforce_sorted=sort)
    np.testing.assert_array_equal(p.data.detach().numpy(), q.data.detach().numpy())
    np.testing.assert_array_equal(p.batch_sizes, q.batch_sizes.numpy())

    def padded(layer, unpack):
        def run(packed):
            y, state = layer(packed)
            return unpack(y, batch_first=first, padding_value=-1.0)[0], state

        run.named_parameters = layer.named_parameters
        return run

    compare(padded(ours, rec.pad_packed_sequence), padded(theirs, torch.nn.utils.rnn.pad_packed_sequence), [p], [q])
    np.testing.assert_allclose(x.grad.numpy(), tx.grad.numpy(), rtol=1e-9, atol=1e-9)
    y, found = rec.pad_packed_sequence(ours(p)[0], total_length=7)
    assert y.shape[0] == 7
    assert found.tolist() == lengths


def test_packed_state_keeps_the_order_of_the_batch():
    rng = np.random.default_rng(0)
    ours, theirs = twins("LSTM", I, H)
    x, h, c = rng.standard_normal((T, N, I)), rng.standard_normal((1, N, H)), rng.standard_normal((1, N, H))
    p = rec.pack_padded_sequence(x, [1, 4, 2], enforce_sorted=False)
    q = torch.nn.utils.rnn.pack_padded_sequence(torch.from_numpy(x), [1, 4, 2], enforce_sorted=False)
    _, state = ours(p, (h, c))
    _, tstate = theirs(q, (torch.from_numpy(h), torch.from_numpy(c)))
    for a, b in zip(state, tstate):
        np.testing.assert_allclose(a.detach().numpy(), b.detach().numpy(), atol=1e-12)


def test_pack_sequence_and_pad_sequence():
    rng = np.random.default_rng(0)
    seqs = [rng.standard_normal((n, 2)) for n in (3, 1, 2)]
    tseqs = [torch.from_numpy(s) for s in seqs]
    for first in (False, True):
        for side in ("left", "right"):
            got = rec.pad_sequence(seqs, batch_first=first, padding_value=7.0, padding_side=side)
            want = torch.nn.utils.rnn.pad_sequence(tseqs, batch_first=first, padding_value=7.0, padding_side=side)
            np.testing.assert_array_equal(got.numpy(), want.numpy())
    got = rec.pack_sequence(seqs, enforce_sorted=False)
    want = torch.nn.utils.rnn.pack_sequence(tseqs, enforce_sorted=False)
    np.testing.assert_array_equal(got.data.numpy(), want.data.numpy())
    np.testing.assert_array_equal(got.unsorted_indices, want.unsorted_indices.numpy())


@pytest.mark.parametrize("kind", ["RNNCell", "GRUCell", "LSTMCell"])
@pytest.mark.parametrize("bias", [False, True])
def test_cells(kind, bias):
    rng = np.random.default_rng(0)
    ours, theirs = twins(kind, I, H, bias=bias)
    x, tx = pair(rng, N, I)
    compare(ours, theirs, [x], [tx])
    h, th = pair(rng, H)
    c, tc = pair(rng, H)
    x, tx = pair(rng, I)
    state, tstate = ((h, c), (th, tc)) if kind == "LSTMCell" else (h, th)
    compare(ours, theirs, [x, state], [tx, tstate])
    np.testing.assert_allclose(h.grad.numpy(), th.grad.numpy(), atol=1e-9)


@pytest.mark.parametrize("kind", ["RNN", "GRU", "LSTM"])
def test_unbatched_input_and_float32(kind):
    rng = np.random.default_rng(0)
    ours, theirs = twins(kind, I, H, bidirectional=True, dtype=np.float32)
    x, tx = pair(rng, T, I, dtype=np.float32)
    assert ours(x)[0].dtype == np.float32
    compare(ours, theirs, [x], [tx], tol=1e-5)


@pytest.mark.parametrize("kind", ["RNN", "GRU", "LSTM"])
def test_empty_batch_and_single_step(kind):
    layer = getattr(rec, kind)(I, H, num_layers=2)
    y, _ = layer(np.zeros((T, 0, I), np.float32))
    assert y.shape == (T, 0, H)
    y.sum().backward()
    assert all(not p.grad.numpy().any() for p in layer.parameters())
    y, _ = layer(np.zeros((1, N, I), np.float32))
    assert y.shape == (1, N, H)


def test_dropout_acts_between_layers_in_training_only():
    minidl.manual_seed(0)
    layer = rec.LSTM(I, H, num_layers=2, dropout=0.5)
    x = np.random.default_rng(0).standard_normal((T, N, I)).astype(np.float32)
    assert not np.allclose(layer(x)[0].detach().numpy(), layer(x)[0].detach().numpy())
    layer.eval()
    np.testing.assert_array_equal(layer(x)[0].detach().numpy(), layer(x)[0].detach().numpy())
    one = rec.LSTM(I, H, dropout=0.5)
    np.testing.assert_array_equal(one(x)[0].detach().numpy(), one(x)[0].detach().numpy())


def test_initial_values_are_within_the_bound():
    minidl.manual_seed(0)
    values = np.concatenate([p.detach().numpy().reshape(-1) for p in rec.LSTM(30, 25).parameters()])
    assert np.abs(values).max() <= 0.2
    assert abs(values.mean()) < 0.01
    assert abs(values.std() - 0.2 / 3**0.5) < 0.01


def test_errors():
    with pytest.raises(ValueError, match="expected an input of shape"):
        rec.LSTM(I, H)(np.zeros((T, N, I + 1), np.float32))
    with pytest.raises(ValueError, match="initial state"):
        rec.GRU(I, H)(np.zeros((T, N, I), np.float32), np.zeros((1, N, H + 1), np.float32))
    with pytest.raises(ValueError, match="do not decrease"):
        rec.pack_padded_sequence(np.zeros((T, N, I)), [1, 2, 3])
    with pytest.raises(ValueError, match="lengths"):
        rec.pack_padded_sequence(np.zeros((T, N, I)), [9, 2, 3], enforce_sorted=False)
    with pytest.raises(ValueError, match="nonlinearity"):
        nn.RNN(I, H, nonlinearity="sigmoid")
