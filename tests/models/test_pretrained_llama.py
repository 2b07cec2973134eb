"""Llama, Mistral, Qwen2 and Qwen3 from Hugging Face's folders give its library's numbers, and write its texts."""

import json

import numpy as np
import pytest

import minidl
from minidl import models, ops, optim
from minidl.models.llama import Llama, LlamaConfig

torch = pytest.importorskip("torch", reason="Hugging Face's models run on PyTorch")

SMALL = {
    "vocab_size": 41, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 64, "eos_token_id": None, "bos_token_id": None,
}  # fmt: skip
LLAMA3 = {
    "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16, "rope_theta": 50.0,
}  # fmt: skip
CASES = {
    "llama": ("Llama", {"tie_word_embeddings": False}),
    "biases": ("Llama", {"attention_bias": True, "mlp_bias": True, "num_key_value_heads": 4}),
    "head_dim": ("Llama", {"head_dim": 6, "rms_norm_eps": 1e-5, "hidden_act": "gelu"}),
    "tied": ("Llama", {"tie_word_embeddings": True}),
    "llama3": ("Llama", {"rope_parameters": LLAMA3}),
    "linear": ("Llama", {"rope_parameters": {"rope_type": "linear", "factor": 3.0, "rope_theta": 1000.0}}),
    "mistral": ("Mistral", {"sliding_window": 5}),
    "mistral without window": ("Mistral", {"sliding_window": None}),
    "qwen2": ("Qwen2", {"tie_word_embeddings": True}),
    "qwen3": ("Qwen3", {"head_dim": 8}),
}


@pytest.fixture
def pair(saved):
    """A function: Hugging Face's model and ours."""

    def make(case="llama", **options):
        name, special = CASES[case]
        theirs, folder = saved((f"{name}Config", f"{name}ForCausalLM"), **{**SMALL, **special, **options})
        return theirs, models.from_pretrained(folder)

    return make


def tokens(n=3, length=12):
    return np.random.default_rng(0).integers(0, 41, (n, length))


def close(ours, theirs, mask=True):
    ours, theirs = ours.detach().numpy(), theirs.detach().numpy()
    seen = np.broadcast_to(mask, ours.shape[:2]).astype(bool)
    np.testing.assert_allclose(ours[seen], theirs[seen], rtol=1e-5, atol=1e-5 * max(1, np.abs(theirs).max()))


@pytest.mark.parametrize("case", CASES)
def test_scores(pair, case):
    theirs, ours = pair(case)
    assert type(ours) is Llama and not ours.training
    ids = tokens()
    close(ours(ids), theirs(torch.from_numpy(ids)).logits)
    assert (ours.lm_head.weight is ours.model["embed_tokens"].weight) == ours.config.tie_word_embeddings


@pytest.mark.parametrize("case", CASES)
def test_padding_and_cache(pair, case):
    """Texts padded on the left, read in pieces, as in one."""
    theirs, ours = pair(case)
    ids, mask = tokens(), np.ones((3, 12), np.int64)
    mask[0, :3] = mask[2, :7] = 0
    positions = torch.from_numpy(np.maximum(mask.cumsum(1) - 1, 0))
    want = theirs(torch.from_numpy(ids), torch.from_numpy(mask), position_ids=positions).logits
    close(ours(ids, mask), want, mask)
    with minidl.no_grad():
        caches = ours.new_caches()
        parts = [ours(ids[:, a:b], mask[:, :b], caches) for a, b in ((0, 8), (8, 9), (9, 12))]
        close(ops.concat(parts, axis=1), want, mask)
        caches, plain = ours.new_caches(), theirs(torch.from_numpy(ids)).logits
        close(ops.concat([ours(ids[:, a:b], caches=caches) for a, b in ((0, 7), (7, 12))], axis=1), plain)


@pytest.mark.parametrize("case", ["llama", "llama3", "mistral", "qwen2", "qwen3"])
def test_the_same_text_is_written(pair, case):
    theirs, ours = pair(case)
    ids, mask = tokens(2, 5), np.array([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]])
    options = {"max_new_tokens": 20, "do_sample": False, "pad_token_id": 0}
    want = theirs.generate(torch.from_numpy(ids), attention_mask=torch.from_numpy(mask), **options)
    np.testing.assert_array_equal(ours.generate(ids, 20, temperature=0, attention_mask=mask).numpy(), want.numpy())
    everything = torch.ones(2, 5, dtype=torch.int64)
    want = theirs.generate(torch.from_numpy(ids), attention_mask=everything, **options)
    np.testing.assert_array_equal(ours.generate(ids, 20, temperature=0).numpy(), want.numpy())


def test_a_text_ends_where_it_says(pair):
    theirs, ours = pair()
    ids = tokens(2, 5)
    free = ours.generate(ids, 12, temperature=0).numpy()
    stop = int(free[0, 8])
    ended = ours.generate(ids, 12, temperature=0, stop=[stop]).numpy()
    at = 5 + list(free[0, 5:]).index(stop)
    np.testing.assert_array_equal(ended[0, : at + 1], free[0, : at + 1])
    assert (ended[0, at:] == stop).all()
    alone = ours.generate(ids[:1], 12, temperature=0, stop=[stop]).numpy()
    np.testing.assert_array_equal(alone[0], free[0, : at + 1])
    ours.config.eos_token_id = [stop]
    np.testing.assert_array_equal(ours.generate(ids[:1], 12, temperature=0).numpy(), alone)
    want = theirs.generate(torch.from_numpy(ids[:1]), max_new_tokens=12, do_sample=False, eos_token_id=stop)
    np.testing.assert_array_equal(alone, want.numpy())


@pytest.mark.parametrize("case", ["llama", "biases", "qwen3"])
def test_one_step_of_fine_tuning_is_pytorchs(pair, case):
    theirs, ours = pair(case)
    ids = tokens()
    tids = torch.from_numpy(ids)
    step, tstep = optim.AdamW(ours.train().parameters(), lr=1e-2), torch.optim.AdamW(theirs.parameters(), lr=1e-2)
    ops.cross_entropy(ops.reshape(ours(ids)[:, :-1], shape=(-1, 41)), ids[:, 1:].reshape(-1)).backward()
    theirs.train()(tids, labels=tids).loss.backward()
    named = dict(theirs.named_parameters())
    for n, p in ours.named_parameters():
        np.testing.assert_allclose(p.grad.numpy(), named[n].grad.numpy(), rtol=1e-4, atol=3e-6, err_msg=n)
    step.step(), tstep.step()
    close(ours(ids), theirs(tids).logits)


@pytest.mark.parametrize("backend", ["numpy", "numba", "jax"])
def test_backends_and_jit(pair, backend):
    if backend != "numpy":
        pytest.importorskip(backend, reason=f"the backend {backend} needs it")
    theirs, ours = pair("mistral")
    ids, mask = tokens(), np.ones((3, 12), np.int64)
    mask[0, :3] = 0
    want = theirs(torch.from_numpy(ids), torch.from_numpy(mask)).logits
    with minidl.use_backend(backend), minidl.no_grad():
        ours = ours.to(backend)
        inputs = minidl.tensor(ids), minidl.tensor(mask)
        close(ours(*inputs), want, mask)
        run = minidl.jit(ours)
        for _ in range(2):
            close(run(*inputs), want, mask)
        written = ours.generate(inputs[0], 3, temperature=0).numpy()
    everything = torch.ones(3, 12, dtype=torch.int64)
    want = theirs.generate(
        torch.from_numpy(ids), attention_mask=everything, max_new_tokens=3, do_sample=False, pad_token_id=0
    )
    np.testing.assert_array_equal(written, want.numpy())


def test_the_spelling_of_older_files(saved):
    """Before version 5, rope_theta and rope_scaling stood apart, with type for rope_type."""
    scaling = {k: v for k, v in LLAMA3.items() if k != "rope_theta"}
    theirs, folder = saved(("LlamaConfig", "LlamaForCausalLM"), **SMALL, rope_parameters=LLAMA3)
    path = folder / "config.json"
    settings = json.loads(path.read_text())
    del settings["rope_parameters"]
    scaling["type"] = scaling.pop("rope_type")
    path.write_text(json.dumps({**settings, "rope_theta": 50.0, "rope_scaling": scaling}))
    ids = tokens()
    close(models.from_pretrained(folder)(ids), theirs(torch.from_numpy(ids)).logits)


def test_what_is_not_known_is_refused(saved):
    _, folder = saved(("LlamaConfig", "LlamaForCausalLM"), **SMALL)
    for wrong, match in [
        (
            {"rope_parameters": {"rope_type": "yarn", "rope_theta": 1.0}},
            "of type 'yarn'; known are default, linear",
        ),
        ({"rope_parameters": {**LLAMA3, "factor": "8"}}, "factor is '8', expected a positive number"),
        ({"rope_parameters": {**LLAMA3, "rope_theta": None}}, "rope_theta is None, expected a positive number"),
        ({"rope_parameters": {**LLAMA3, "high_freq_factor": 1}}, "low_freq_factor 1.0 must be less than"),
        ({"num_key_value_heads": 3}, "num_attention_heads 4 must divide hidden_size 16 and be divisible by"),
        ({"use_sliding_window": True}, "use_sliding_window is True; written for False"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor is 0.5; written for 1"),
    ]:
        with pytest.raises(ValueError, match=match):
            models.from_pretrained(folder, **wrong)
    with pytest.raises(ValueError, match=r"expected token numbers of shape \(N, T\), got \(3,\)"):
        models.from_pretrained(folder)(np.arange(3))


def test_long_waves_are_slowed():
    config = LlamaConfig.from_dict({**SMALL, "eos_token_id": 3, "rope_parameters": LLAMA3})
    assert (config.eos_tokens(), config.layers()) == ([3], 2)
    plain = LlamaConfig.from_dict({**SMALL, "rope_theta": 50.0}).frequencies()
    slowed = config.frequencies()
    wavelength = 2 * np.pi / plain
    assert (slowed[wavelength < 4] == plain[wavelength < 4]).all()
    np.testing.assert_allclose(slowed[wavelength > 16], plain[wavelength > 16] / 8, rtol=1e-6)
