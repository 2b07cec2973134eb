"""BERT, RoBERTa and DistilBERT from folders that Hugging Face's library wrote give its numbers, and learn as there."""

import os
from pathlib import Path

import numpy as np
import pytest

import minidl
from minidl import models, ops, optim
from minidl.models.bert import Bert, BertConfig
from minidl.models.sentence import SentenceEncoder

torch = pytest.importorskip("torch", reason="Hugging Face's models run on PyTorch")

BERT = {
    "vocab_size": 41, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 24,
    "max_position_embeddings": 20,
}  # fmt: skip
DISTILBERT = {"vocab_size": 41, "dim": 16, "n_layers": 2, "n_heads": 4, "hidden_dim": 24, "max_position_embeddings": 20}
FAMILIES = [
    ("Bert", BERT),
    ("Bert", {**BERT, "hidden_act": "gelu_new", "layer_norm_eps": 1e-5, "type_vocab_size": 3}),
    ("Roberta", {**BERT, "type_vocab_size": 1}),
    ("XLMRoberta", {**BERT, "type_vocab_size": 1, "pad_token_id": 2}),
    ("DistilBert", DISTILBERT),
]
TEXTS = ["a cat", "the dog barks at the cat again", "no"]


def batch(pad=0, length=9, vocab=41):
    """Token numbers and a mask, as NumPy arrays and as PyTorch's."""
    rng = np.random.default_rng(0)
    ids = rng.integers(5, vocab, (3, length))
    mask = np.ones_like(ids)
    mask[1, 6:] = 0
    ids[mask == 0] = pad
    return ids, mask, torch.from_numpy(ids), torch.from_numpy(mask)


def padding(theirs):
    return theirs.config.pad_token_id


def close(ours, theirs, mask=None):
    ours, theirs = ours.detach().numpy(), theirs.detach().numpy()
    seen = np.ones(ours.shape[:2], bool) if mask is None else mask.astype(bool)
    np.testing.assert_allclose(ours[seen], theirs[seen], rtol=1e-5, atol=1e-5 * max(1, np.abs(theirs).max()))


@pytest.mark.parametrize("name, options", FAMILIES)
def test_body(saved, name, options):
    theirs, folder = saved((f"{name}Config", f"{name}Model"), **options)
    ours = models.from_pretrained(folder)
    assert type(ours) is Bert and not ours.training
    ids, mask, tids, tmask = batch(padding(theirs))
    close(ours(ids, mask), theirs(tids, tmask)[0], mask)
    close(ours(ids), theirs(tids)[0])


def test_token_types(saved):
    theirs, folder = saved(("BertConfig", "BertModel"), **BERT)
    ours = models.from_pretrained(folder)
    ids, mask, tids, tmask = batch()
    types = np.repeat([[0, 0, 0, 0, 1, 1, 1, 1, 1]], 3, axis=0)
    close(ours(ids, mask, types), theirs(tids, tmask, torch.from_numpy(types))[0], mask)


@pytest.mark.parametrize("name, options", FAMILIES)
@pytest.mark.parametrize("tied", [True, False])
def test_masked_words(saved, name, options, tied):
    theirs, folder = saved((f"{name}Config", f"{name}ForMaskedLM"), tie_word_embeddings=tied, **options)
    ours = models.from_pretrained(folder)
    ids, mask, tids, tmask = batch(padding(theirs))
    close(ours(ids, mask), theirs(tids, tmask).logits, mask)
    head, body = ours.cls["predictions"].decoder.weight, ours.bert.embeddings.word_embeddings.weight
    assert (head is body) == tied


@pytest.mark.parametrize("name, options", FAMILIES)
def test_classes(saved, name, options):
    theirs, folder = saved((f"{name}Config", f"{name}ForSequenceClassification"), num_labels=5, **options)
    ours = models.from_pretrained(folder)
    ids, mask, tids, tmask = batch(padding(theirs))
    close(ours(ids, mask), theirs(tids, tmask).logits)


@pytest.mark.parametrize("name, options", FAMILIES)
def test_the_body_of_a_model_with_a_head(saved, name, options):
    theirs, folder = saved((f"{name}Config", f"{name}ForMaskedLM"), **options)
    ours = models.from_pretrained(folder, f"{name}Model")
    ids, mask, tids, tmask = batch(padding(theirs))
    close(ours(ids, mask), theirs.base_model(tids, tmask)[0], mask)


def test_a_head_on_a_body_starts_anew(saved):
    theirs, folder = saved(("BertConfig", "BertModel"), **BERT)
    ours = models.from_pretrained(folder, "BertForSequenceClassification", new=["classifier"], num_labels=7)
    assert ours(batch()[0]).shape == (3, 7)
    assert 0 < np.abs(ours.classifier.weight.detach().numpy()).max() <= 1 / 4
    np.testing.assert_array_equal(
        ours.pooler["dense"].weight.detach().numpy(), theirs.pooler.dense.weight.detach().numpy()
    )
    with pytest.raises(ValueError, match=r"missing: classifier\.weight, classifier\.bias"):
        models.from_pretrained(folder, "BertForSequenceClassification")


def test_one_step_of_fine_tuning_is_pytorchs(saved):
    theirs, folder = saved(
        ("BertConfig", "BertForSequenceClassification"), num_labels=3, **BERT, hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    ours = models.from_pretrained(folder).train()
    ids, mask, tids, tmask = batch()
    labels = np.array([0, 2, 1])
    step, tstep = optim.AdamW(ours.parameters(), lr=1e-2), torch.optim.AdamW(theirs.train().parameters(), lr=1e-2)
    ops.cross_entropy(ours(ids, mask), labels).backward()
    theirs(tids, tmask, labels=torch.from_numpy(labels)).loss.backward()
    named = {n.replace("bert.pooler", "pooler"): p for n, p in theirs.named_parameters()}
    assert set(named) == {n for n, _ in ours.named_parameters()}
    for n, p in ours.named_parameters():
        np.testing.assert_allclose(p.grad.numpy(), named[n].grad.numpy(), rtol=1e-4, atol=2e-6, err_msg=n)
    step.step(), tstep.step()
    close(ours(ids, mask), theirs(tids, tmask).logits)


def test_dropout_is_active_in_training(saved):
    ours = models.from_pretrained(saved(("BertConfig", "BertModel"), **BERT)[1])
    ids = batch()[0]
    still = ours(ids).detach().numpy()
    np.testing.assert_array_equal(still, ours(ids).detach().numpy())
    assert np.abs(ours.train()(ids).detach().numpy() - still).max() > 0.01


@pytest.mark.parametrize("backend", ["numpy", "numba", "jax"])
@pytest.mark.parametrize("name", ["Bert", "Roberta"])
def test_backends_and_jit(saved, backend, name):
    if backend != "numpy":
        pytest.importorskip(backend, reason=f"the backend {backend} needs it")
    theirs, folder = saved((f"{name}Config", f"{name}ForMaskedLM"), **BERT)
    ids, mask, tids, tmask = batch(padding(theirs))
    with minidl.use_backend(backend), minidl.no_grad():
        ours = models.from_pretrained(folder).to(backend)
        inputs = minidl.tensor(ids), minidl.tensor(mask)
        close(ours(*inputs), theirs(tids, tmask).logits, mask)
        run = minidl.jit(ours)
        for _ in range(2):
            close(run(*inputs), theirs(tids, tmask).logits, mask)


def test_bfloat16_is_widened_and_half_precision_kept_if_asked(saved, transformers):
    pytest.importorskip("ml_dtypes", reason="reads bfloat16")
    theirs, folder = saved(("BertConfig", "BertModel"), **BERT)
    theirs.bfloat16().save_pretrained(folder)
    ids, mask, tids, tmask = batch()
    ours = models.from_pretrained(folder)
    assert {p.dtype for p in ours.parameters()} == {np.dtype(np.float32)}
    close(ours(ids, mask), theirs.float()(tids, tmask)[0], mask)
    half = models.from_pretrained(folder, dtype=np.float16)
    assert {p.dtype for p in half.parameters()} == {np.dtype(np.float16)}
    np.testing.assert_allclose(half(ids).detach().numpy(), ours(ids).detach().numpy(), atol=0.02)


def test_names_of_the_first_files(saved):
    """bert-base-uncased was converted from TensorFlow: gamma and beta, heads of pretraining, a table of positions."""
    from safetensors.numpy import load_file, save_file

    theirs, folder = saved(("BertConfig", "BertForMaskedLM"), **BERT)
    state = load_file(folder / "model.safetensors")
    old = {
        n.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): a
        for n, a in state.items()
    }
    old["cls.seq_relationship.weight"] = np.ones((2, 16), np.float32)
    old["bert.pooler.dense.bias"] = np.ones(16, np.float32)
    old["bert.embeddings.position_ids"] = np.arange(20)[None]
    old["cls.predictions.decoder.weight"] = state["bert.embeddings.word_embeddings.weight"]
    save_file(old, folder / "model.safetensors")
    ids, mask, tids, tmask = batch()
    close(models.from_pretrained(folder)(ids, mask), theirs(tids, tmask).logits, mask)


def test_loading_leaves_random_numbers_alone(saved):
    folder = saved(("BertConfig", "BertModel"), **BERT)[1]
    minidl.manual_seed(3)
    want = minidl.rand(2).numpy()
    minidl.manual_seed(3)
    models.from_pretrained(folder)
    np.testing.assert_array_equal(minidl.rand(2).numpy(), want)


def test_settings():
    config = BertConfig.from_dict({"dim": 8, "id2label": {"0": "bad", "1": "good", "2": "so so"}, "other": 1})
    assert (config.hidden_size, config.num_labels) == (8, 3)
    with pytest.raises(ValueError, match=r"hidden_size is '8', expected int; .*relative_key.*; written for 'absolute'"):
        BertConfig.from_dict({"hidden_size": "8", "position_embedding_type": "relative_key"})
    with pytest.raises(ValueError, match="21 tokens is longer than the 20"):
        Bert(BertConfig(**BERT))(np.zeros((1, 21), np.int64))
    with pytest.raises(ValueError, match="Bert: hidden_size 16 is not divisible by num_attention_heads 3"):
        Bert(BertConfig(**{**BERT, "num_attention_heads": 3}))


# Sentences


@pytest.fixture(scope="module")
def minilm():
    """The folder of all-MiniLM-L6-v2, which a user fetches once."""
    folder = Path(os.environ.get("MINIDL_DATA", "")) / "all-MiniLM-L6-v2"
    if not folder.exists():
        pytest.skip("all-MiniLM-L6-v2 is not in the folder of MINIDL_DATA")
    return folder


SENTENCES = [
    "The cat sits on the mat.", "A kitten lies on a rug.", "Stocks fell sharply on Monday, and bonds rose.", "Ça va ?",
    "word " * 400,
]  # fmt: skip


def theirs_on(transformers, folder, tokenizer, texts):
    """Sentence vectors as all-MiniLM-L6-v2's documentation computes them with transformers and PyTorch."""
    model = transformers.AutoModel.from_pretrained(folder).eval()
    batch = {k: torch.from_numpy(v) for k, v in tokenizer(texts).items()}
    with torch.no_grad():
        x = model(**batch)[0]
    mask = batch["attention_mask"][..., None].float()
    return torch.nn.functional.normalize((x * mask).sum(1) / mask.sum(1).clamp(min=1e-9)).numpy()


def test_minilm(transformers, minilm):
    ours = SentenceEncoder.from_pretrained(minilm)
    want = theirs_on(transformers, minilm, ours.tokenizer, SENTENCES)
    np.testing.assert_allclose(ours.encode(SENTENCES), want, atol=1e-5)
    np.testing.assert_allclose(ours.encode(SENTENCES, batch_size=2), want, atol=1e-5)
    np.testing.assert_allclose(ours.encode(SENTENCES[0]), want[0], atol=1e-5)
    assert want[0] @ want[1] > 0.5 > want[0] @ want[2]


@pytest.mark.parametrize("backend", ["numba", "jax"])
def test_minilm_on_backends(transformers, minilm, backend):
    pytest.importorskip(backend, reason=f"the backend {backend} needs it")
    texts = SENTENCES[:3]
    with minidl.use_backend(backend), minidl.no_grad():
        ours = SentenceEncoder.from_pretrained(minilm).to(backend)
        want = theirs_on(transformers, minilm, ours.tokenizer, texts)
        inputs = [minidl.tensor(a) for a in ours.tokenizer(texts).values()]
        np.testing.assert_allclose(minidl.jit(ours)(*inputs).numpy(), want, atol=1e-5)


def test_minilms_tokenizer_is_theirs(transformers, minilm):
    ours = models.PretrainedTokenizer(minilm)
    theirs = transformers.AutoTokenizer.from_pretrained(minilm)
    for options in ({}, {"max_length": 8}):
        want = theirs(SENTENCES, padding=True, truncation=True, **({"max_length": 256} | options))
        got = ours(SENTENCES, **options)
        for name in ("input_ids", "attention_mask"):
            np.testing.assert_array_equal(got[name], np.array(want[name]))
    want = theirs(SENTENCES[:2], SENTENCES[1:3], padding=True)
    for name, value in ours(SENTENCES[:2], SENTENCES[1:3]).items():
        np.testing.assert_array_equal(value, np.array(want[name]))
    assert ours.decode(ours("Hello, world")["input_ids"][0]) == "hello, world"


def test_loading_takes_the_memory_of_one_model(minilm):
    """The peak of a process that loads is far less than without the model plus twice the file."""
    import subprocess
    import sys

    program = (
        "import resource, sys, minidl, minidl.models.pretrained as p, ml_dtypes, safetensors.numpy\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "model = p.from_pretrained(sys.argv[1])\n"
        "anonymous = sum(int(l.split()[1]) for l in open('/proc/self/smaps_rollup') if l.startswith('Anonymous'))\n"
        "print(before, anonymous)\n"
    )
    if not Path("/proc/self/smaps_rollup").exists():
        pytest.skip("the operating system does not tell a process's anonymous memory")
    run = [sys.executable, "-c", program, str(minilm)]
    before, anonymous = map(int, subprocess.run(run, check=True, capture_output=True, text=True).stdout.split())
    size = (minilm / "model.safetensors").stat().st_size / 1024
    assert anonymous < before + 1.3 * size
