"""CharLSTM against the same model in PyTorch, its state, and generation."""

import numpy as np
import pytest

import minidl
from minidl.models.char_lstm import CharLSTM
from minidl.random import Generator


def test_pytorch_weights_give_the_same_scores():
    torch = pytest.importorskip("torch", reason="the comparison is with PyTorch")
    nn = torch.nn
    theirs = nn.ModuleDict(
        {"embedding": nn.Embedding(9, 5), "lstm": nn.LSTM(5, 7, 2, batch_first=True), "head": nn.Linear(7, 9)}
    )
    ours = CharLSTM(9, 5, 7)
    ours.load_state_dict(theirs.state_dict())
    idx = np.random.default_rng(0).integers(0, 9, (3, 6))
    out, state = ours(idx)
    y, tstate = theirs["lstm"](theirs["embedding"](torch.from_numpy(idx)))
    np.testing.assert_allclose(out.detach().numpy(), theirs["head"](y).detach().numpy(), atol=1e-5)
    for a, b in zip(state, tstate):
        np.testing.assert_allclose(a.detach().numpy(), b.detach().numpy(), atol=1e-5)


def test_state_carries_on():
    minidl.manual_seed(0)
    model = CharLSTM(9, 5, 7)
    idx = np.random.default_rng(0).integers(0, 9, (3, 6))
    whole, _ = model(idx)
    first, state = model(idx[:, :4])
    second, _ = model(idx[:, 4:], model.detach(state))
    got = np.concatenate([first.detach().numpy(), second.detach().numpy()], axis=1)
    np.testing.assert_allclose(got, whole.detach().numpy(), atol=1e-6)
    assert not any(s.requires_grad for s in model.detach(state))


def test_generation_equals_running_everything_again():
    minidl.manual_seed(0)
    model = CharLSTM(9, 5, 7, dropout=0.5)
    for p in model.parameters():  # larger weights, so that the choice is not a toss-up
        p.assign_(p.array * 3)
    idx = np.array([[1, 2, 3], [4, 5, 6]])
    got = model.generate(idx, 6, temperature=0).numpy()
    assert model.training
    model.eval()
    want = idx
    for _ in range(6):
        want = np.concatenate([want, model(want)[0].detach().numpy()[:, -1].argmax(-1)[:, None]], axis=1)
    np.testing.assert_array_equal(got, want)
    a, b = (model.generate(idx, 6, generator=Generator(2)).numpy() for _ in range(2))
    np.testing.assert_array_equal(a, b)


def test_errors():
    model = CharLSTM(9, 5, 7, num_layers=1, dropout=0.1)
    with pytest.raises(IndexError, match=r"outside 0\.\.8"):
        model(np.array([[9]]))
    with pytest.raises(ValueError, match="T > 0"):
        model.generate(np.zeros((1, 0), np.int64), 1)
