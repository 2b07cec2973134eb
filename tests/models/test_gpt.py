"""GPT against the same model in PyTorch, its weights' names and layouts, and generation."""

import math

import numpy as np
import pytest

import minidl
from minidl import ops
from minidl.models.gpt import GPT, GPTConfig, from_huggingface
from minidl.models.sampling import sample_tokens
from minidl.random import Generator

SMALL = {"block_size": 8, "vocab_size": 11, "n_layer": 2, "n_head": 2, "n_embd": 6}


@pytest.fixture
def torch():
    return pytest.importorskip("torch", reason="the comparison is with PyTorch")


def torch_gpt(torch, config):
    """The model of nanoGPT, written down again in a few lines, with its parameters' names."""
    nn = torch.nn
    d, bias = config.n_embd, config.bias

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.ln_1, self.ln_2 = nn.LayerNorm(d, bias=bias), nn.LayerNorm(d, bias=bias)
            self.attn = nn.ModuleDict({"c_attn": nn.Linear(d, 3 * d, bias=bias), "c_proj": nn.Linear(d, d, bias=bias)})
            self.mlp = nn.ModuleDict({"c_fc": nn.Linear(d, 4 * d, bias=bias), "c_proj": nn.Linear(4 * d, d, bias=bias)})

        def forward(self, x):
            n, t, _ = x.shape
            q, k, v = self.attn["c_attn"](self.ln_1(x)).split(d, dim=2)
            q, k, v = (a.view(n, t, config.n_head, -1).transpose(1, 2) for a in (q, k, v))
            scores = q @ k.transpose(2, 3) / math.sqrt(q.shape[-1])
            scores = scores.masked_fill(torch.triu(torch.ones(t, t, dtype=torch.bool), 1), -torch.inf)
            y = (scores.softmax(-1) @ v).transpose(1, 2).reshape(n, t, d)
            x = x + self.attn["c_proj"](y)
            h = nn.functional.gelu(self.mlp["c_fc"](self.ln_2(x)), approximate=config.gelu)
            return x + self.mlp["c_proj"](h)

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.transformer = nn.ModuleDict(
                {
                    "wte": nn.Embedding(config.vocab_size, d),
                    "wpe": nn.Embedding(config.block_size, d),
                    "h": nn.ModuleList(Block() for _ in range(config.n_layer)),
                    "ln_f": nn.LayerNorm(d, bias=bias),
                }
            )
            self.lm_head = nn.Linear(d, config.vocab_size, bias=False)
            self.lm_head.weight = self.transformer["wte"].weight

        def forward(self, idx):
            x = self.transformer["wte"](idx) + self.transformer["wpe"](torch.arange(idx.shape[1]))
            for block in self.transformer["h"]:
                x = block(x)
            return self.lm_head(self.transformer["ln_f"](x))

    torch.manual_seed(0)
    return Model()


@pytest.mark.parametrize("options", [{}, {"bias": False, "attention_block": 3}, {"gelu": "tanh"}])
def test_pytorch_weights_give_the_same_scores_loss_and_gradients(torch, options):
    config = GPTConfig(**SMALL, **options)
    theirs, ours = torch_gpt(torch, config), GPT(config)
    assert set(ours.state_dict()) == set(theirs.state_dict())
    ours.load_state_dict(theirs.state_dict())
    idx = np.random.default_rng(0).integers(0, 11, (3, 7))
    x, y = idx[:, :-1], idx[:, 1:]
    out, tout = ours(x), theirs(torch.from_numpy(x))
    np.testing.assert_allclose(out.detach().numpy(), tout.detach().numpy(), atol=1e-5)
    loss = -ops.log_softmax(out, axis=-1).gather(2, y[..., None]).mean()
    loss.backward()
    torch.nn.functional.cross_entropy(tout.flatten(0, 1), torch.from_numpy(y).flatten()).backward()
    grads = dict(ours.named_parameters())
    for name, p in theirs.named_parameters():
        np.testing.assert_allclose(grads[name].grad.numpy(), p.grad.numpy(), atol=1e-5, err_msg=name)


def test_huggingface_layout(torch):
    config = GPTConfig(**SMALL, gelu="tanh")
    theirs, ours = torch_gpt(torch, config), GPT(config)
    transposed = ("c_attn.weight", "c_proj.weight", "c_fc.weight")
    hf = {}
    for name, p in theirs.state_dict().items():
        if name != "lm_head.weight":
            hf[name.removeprefix("transformer.")] = p.T if name.endswith(transposed) else p
    hf["h.0.attn.bias"] = torch.ones(1, 1, 8, 8)
    ours.load_state_dict(from_huggingface(hf))
    idx = np.arange(8)[None]
    want = theirs(torch.from_numpy(idx)).detach().numpy()
    np.testing.assert_allclose(ours(idx).detach().numpy(), want, atol=1e-5)


def test_initial_values():
    minidl.manual_seed(0)
    model = GPT(block_size=8, vocab_size=64, n_layer=8, n_head=2, n_embd=64)
    values = {k: p.detach().numpy() for k, p in model.named_parameters()}
    for name, v in values.items():
        if name.endswith("bias"):
            assert not v.any()
        elif ".ln_" in name:
            assert (v == 1).all()
        else:
            expected = 0.02 / 4 if name.endswith("c_proj.weight") else 0.02
            assert abs(v.std() / expected - 1) < 0.15, name
    assert model.lm_head.weight is model.transformer["wte"].weight
    logits = model(np.zeros((1, 4), np.int64))
    assert np.abs(logits.detach().numpy()).max() < 1


def test_one_training_step_lowers_the_loss():
    minidl.manual_seed(0)
    model = GPT(**SMALL, dropout=0.1)
    idx = np.random.default_rng(0).integers(0, 11, (4, 9))

    def loss():
        return -ops.log_softmax(model(idx[:, :-1]), axis=-1).gather(2, idx[:, 1:, None]).mean()

    model.eval()
    before = loss()
    model.train()
    loss().backward()
    for p in model.parameters():
        p.assign_(p.array - 0.1 * p.grad.array)
    model.eval()
    assert loss().item() < before.item()


@pytest.mark.parametrize("chunks", [[1] * 8, [5, 1, 2], [8]])
def test_cached_steps_give_what_the_whole_sequence_gives(chunks):
    minidl.manual_seed(0)
    model = GPT(**SMALL)
    idx = np.random.default_rng(0).integers(0, 11, (2, 8))
    whole = model(idx).detach().numpy()
    caches, parts, at = model.new_caches(), [], 0
    with minidl.no_grad():
        for n in chunks:
            parts.append(model(idx[:, at : at + n], caches).numpy())
            at += n
        with pytest.raises(ValueError, match="block_size"):
            model(idx[:, :1], caches)
    np.testing.assert_allclose(np.concatenate(parts, axis=1), whole, atol=1e-6)


@pytest.mark.parametrize("prompt", [1, 5, 8, 12])
def test_generation_equals_running_the_window_again(prompt):
    minidl.manual_seed(1)
    model = GPT(**SMALL, dropout=0.5)
    for p in model.parameters():  # larger weights, so that the choice is not a toss-up
        p.assign_(p.array * 10)
    idx = np.random.default_rng(0).integers(0, 11, (2, prompt))
    got = model.generate(idx, 10, temperature=0).numpy()
    assert model.training
    model.eval()
    want = idx
    for _ in range(10):
        want = np.concatenate([want, model(want[:, -8:]).detach().numpy()[:, -1].argmax(-1)[:, None]], axis=1)
    np.testing.assert_array_equal(got, want)


def test_sampling_is_reproducible():
    model = GPT(**SMALL)
    a, b = (model.generate([[1, 2]], 20, top_k=5, generator=Generator(3)).numpy() for _ in range(2))
    np.testing.assert_array_equal(a, b)
    assert not np.array_equal(a, model.generate([[1, 2]], 20, generator=Generator(4)).numpy())


def test_sample_tokens_follows_the_distribution():
    p = np.array([0.5, 0.3, 0.2, 0.0])
    with np.errstate(divide="ignore"):
        logits = np.tile(np.log(p), (20000, 1))
    drawn = np.bincount(sample_tokens(logits, generator=Generator(0)), minlength=4) / 20000
    np.testing.assert_allclose(drawn, p, atol=0.015)
    sharp = np.bincount(sample_tokens(logits, temperature=0.5, generator=Generator(0)), minlength=4) / 20000
    np.testing.assert_allclose(sharp, p**2 / (p**2).sum(), atol=0.015)
    two = np.bincount(sample_tokens(logits, top_k=2, generator=Generator(0)), minlength=4) / 20000
    np.testing.assert_allclose(two, [0.625, 0.375, 0, 0], atol=0.015)
    assert set(sample_tokens(logits, temperature=0)) == {0}


def test_errors():
    with pytest.raises(ValueError, match="divisible"):
        GPT(**{**SMALL, "n_head": 4})
    model = GPT(**SMALL)
    with pytest.raises(IndexError, match=r"outside 0\.\.10"):
        model(np.array([[11]]))
    with pytest.raises(ValueError, match="T > 0"):
        model.generate(np.zeros((1, 0), np.int64), 1)
    with pytest.raises(ValueError, match="temperature"):
        model.generate([[1]], 1, temperature=-1)
    with pytest.raises(ValueError, match="top_k"):
        model.generate([[1]], 1, top_k=0)
