"""T5 of both versions and mT5 from Hugging Face's folders give its library's numbers, and write its texts."""

import json

import numpy as np
import pytest

import minidl
from minidl import models, ops, optim
from minidl.models.t5 import T5, T5Encoder, relative_buckets

torch = pytest.importorskip("torch", reason="Hugging Face's models run on PyTorch")

SMALL = {
    "vocab_size": 41, "d_model": 16, "d_kv": 6, "d_ff": 24, "num_layers": 2, "num_decoder_layers": 3, "num_heads": 2,
    "relative_attention_num_buckets": 8, "relative_attention_max_distance": 12, "decoder_start_token_id": 0,
}  # fmt: skip
CASES = {
    "1.0": ("T5", {"feed_forward_proj": "relu"}),
    "1.1": ("T5", {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}),
    "1.1 anew": ("T5", {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}),
    "gelu": ("T5", {"feed_forward_proj": "gelu"}),
    "mt5": ("MT5", {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}),
}

#: their cache cannot have more layers than the encoder
GREEDY = {"do_sample": False, "eos_token_id": None, "use_cache": False}


@pytest.fixture
def pair(saved, transformers):
    """A function: Hugging Face's model and ours."""

    def make(case="1.0", **options):
        name, special = CASES[case]
        theirs, folder = saved((f"{name}Config", f"{name}ForConditionalGeneration"), **{**SMALL, **special, **options})
        if case.startswith("1.1"):  # an output matrix of its own, and a configuration that says so: Google's files
            theirs.lm_head.weight = torch.nn.Parameter(torch.randn(41, 16))
            theirs.save_pretrained(folder)
            path = folder / "config.json"
            settings = json.loads(path.read_text())
            if case == "1.1":
                settings["tie_word_embeddings"] = False
                del settings["scale_decoder_outputs"]
            else:  # saved again by version 5 of the library
                assert settings["tie_word_embeddings"] and not settings["scale_decoder_outputs"]
            path.write_text(json.dumps(settings))
            theirs.config.scale_decoder_outputs = False
        return theirs, models.from_pretrained(folder)

    return make


def batch():
    """What is read, its mask, and what is written."""
    rng = np.random.default_rng(0)
    ids, mask, written = rng.integers(2, 41, (3, 20)), np.ones((3, 20), np.int64), rng.integers(2, 41, (3, 15))
    mask[1, 12:] = 0
    ids[mask == 0] = 0
    return ids, mask, written


def torched(*arrays):
    return tuple(torch.from_numpy(a) for a in arrays)


def close(ours, theirs):
    ours, theirs = ours.detach().numpy(), theirs.detach().numpy()
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5 * max(1, np.abs(theirs).max()))


@pytest.mark.parametrize("case", CASES)
def test_scores(pair, case):
    theirs, ours = pair(case)
    assert type(ours) is T5 and not ours.training
    assert (ours.lm_head.weight is ours.shared.weight) == (not case.startswith("1.1"))
    ids, mask, written = batch()
    tids, tmask, twritten = torched(ids, mask, written)
    close(ours(ids, written), theirs(tids, decoder_input_ids=twritten).logits)
    close(ours(ids, written, mask), theirs(tids, attention_mask=tmask, decoder_input_ids=twritten).logits)


@pytest.mark.parametrize("case", CASES)
def test_the_same_text_is_written(pair, case):
    theirs, ours = pair(case)
    ids, mask, _ = batch()
    tids, tmask = torched(ids, mask)
    want = theirs.generate(tids, attention_mask=tmask, max_new_tokens=14, **GREEDY).numpy()
    got = ours.train().generate(ids, 14, temperature=0, attention_mask=mask, stop=[]).numpy()
    np.testing.assert_array_equal(got, want)
    assert ours.training
    ours.config.eos_token_id = int(want[0, 5])
    at = list(want[0]).index(want[0, 5])
    np.testing.assert_array_equal(
        ours.generate(ids[:1], 14, temperature=0, attention_mask=mask[:1]).numpy()[0], want[0, : at + 1]
    )


def test_steps_with_and_without_caches_agree(pair):
    _, ours = pair()
    ids, mask, written = batch()
    with minidl.no_grad():
        memory, caches = ours.encoder(ids, mask), ours.new_caches()
        parts = [ours.decode(written[:, a:b], memory, mask, caches=caches) for a, b in ((0, 6), (6, 7), (7, 15))]
        close(ops.concat(parts, axis=1), ours(ids, written, mask))


def test_one_step_of_fine_tuning_is_pytorchs(pair):
    theirs, ours = pair("1.0", dropout_rate=0.0)
    ids, mask, labels = batch()
    labels[2, 9:] = -100
    tids, tmask, tlabels = torched(ids, mask, labels)
    step, tstep = optim.AdamW(ours.train().parameters(), lr=1e-2), torch.optim.AdamW(theirs.parameters(), lr=1e-2)
    scores = ops.reshape(ours(ids, ours.shifted(labels), mask), shape=(-1, 41))
    loss = ops.cross_entropy(scores, labels.reshape(-1), ignore_index=-100)
    loss.backward()
    tloss = theirs.train()(tids, attention_mask=tmask, labels=tlabels).loss
    tloss.backward()
    np.testing.assert_allclose(loss.item(), tloss.item(), rtol=1e-5)
    named = dict(theirs.named_parameters())
    assert set(named) == {n for n, _ in ours.named_parameters()}
    for n, p in ours.named_parameters():
        want = named[n].grad.numpy()
        np.testing.assert_allclose(p.grad.numpy(), want, rtol=1e-4, atol=1e-5 * np.abs(want).max(), err_msg=n)
    step.step(), tstep.step()
    close(ours(ids, ours.shifted(labels)), theirs(tids, labels=tlabels).logits)


# JAX compiles for twenty seconds; it runs each time for BERT, Llama and ViT
@pytest.mark.parametrize("backend", ["numpy", "numba", pytest.param("jax", marks=pytest.mark.slow)])
def test_backends_and_jit(pair, backend):
    if backend != "numpy":
        pytest.importorskip(backend, reason=f"the backend {backend} needs it")
    theirs, ours = pair("1.1")
    ids, mask, written = batch()
    tids, tmask, twritten = torched(ids, mask, written)
    want = theirs(tids, attention_mask=tmask, decoder_input_ids=twritten).logits
    with minidl.use_backend(backend), minidl.no_grad():
        inputs = [minidl.tensor(a) for a in (ids, written, mask)]
        run = minidl.jit(ours.to(backend))
        for _ in range(2):
            close(run(*inputs), want)
        text = ours.generate(inputs[0], 3, temperature=0, attention_mask=inputs[2], stop=[]).numpy()
    want = theirs.generate(tids, attention_mask=tmask, max_new_tokens=3, **GREEDY)
    np.testing.assert_array_equal(text, want.numpy())


def test_the_encoder_alone(saved, pair, transformers, tmp_path):
    theirs, _ = pair()
    ours = models.from_pretrained(tmp_path, "T5EncoderModel")
    assert type(ours) is T5Encoder
    ids, mask, _ = batch()
    tids, tmask = torched(ids, mask)
    seen = mask.astype(bool)
    np.testing.assert_allclose(
        ours(ids, mask).detach().numpy()[seen], theirs.encoder(tids, tmask)[0].detach().numpy()[seen], atol=1e-5
    )


@pytest.mark.parametrize("bidirectional", [True, False])
@pytest.mark.parametrize("buckets, most", [(32, 128), (8, 12), (64, 500)])
def test_buckets(transformers, bidirectional, buckets, most):
    from transformers.models.t5.modeling_t5 import T5Attention

    distance = np.arange(-1000, 1001)
    want = T5Attention._relative_position_bucket(torch.from_numpy(distance), bidirectional, buckets, most)
    np.testing.assert_array_equal(relative_buckets(distance, bidirectional, buckets, most), want.numpy())
