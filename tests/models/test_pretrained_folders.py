"""Folders that are sharded, old, damaged or hostile: read rightly, or refused with one error saying where and why."""

import json
import pickle
import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import minidl
from minidl import models
from minidl.files import CorruptFileError
from minidl.models.bert import Bert, BertConfig
from minidl.models.pretrained import FAMILIES, UnknownModelError
from minidl.models.sentence import SentenceEncoder

SMALL = {
    "vocab_size": 11, "hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 12,
    "max_position_embeddings": 10,
}  # fmt: skip
IDS = np.arange(6).reshape(2, 3)


@pytest.fixture
def model():
    return Bert(BertConfig(**SMALL)).eval()


@pytest.fixture
def folder(model, tmp_path):
    """A folder as Hugging Face's library writes it."""
    write(tmp_path / "config.json", {**SMALL, "model_type": "bert", "architectures": ["BertModel"]})
    minidl.save(model, tmp_path / "model.safetensors")
    return tmp_path


def write(path, content):
    path.write_text(json.dumps(content), encoding="utf-8")


def settings(folder, **changed):
    path = folder / "config.json"
    write(path, {**json.loads(path.read_text()), **changed})


def shard(folder, parts=3):
    """Replace the weights by several files and their index."""
    state = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    where = {name: f"model-{i % parts + 1:05}-of-{parts:05}.safetensors" for i, name in enumerate(sorted(state))}
    for file in set(where.values()):
        save_file({n: a for n, a in state.items() if where[n] == file}, folder / file)
    write(folder / "model.safetensors.index.json", {"metadata": {}, "weight_map": where})
    return where


def same(ours, model):
    want = model.state_dict()
    got = ours.state_dict()
    assert set(got) == set(want)
    for name, value in got.items():
        np.testing.assert_array_equal(value.numpy(), want[name].numpy())


def refused(folder, match, kind=CorruptFileError, **options):
    with pytest.raises(kind, match=match) as caught:
        models.from_pretrained(folder, **options)
    assert str(folder) in str(caught.value)
    assert isinstance(caught.value, (ValueError, FileNotFoundError))


def test_one_file(folder, model):
    same(models.from_pretrained(folder), model)
    same(models.from_pretrained(str(folder)), model)


def test_several_files(folder, model):
    shard(folder)
    same(models.from_pretrained(folder), model)


def test_hugging_faces_own_shards(saved):
    import torch

    theirs, path = saved(("BertConfig", "BertModel"), **SMALL)
    (path / "model.safetensors").unlink()
    theirs.save_pretrained(path, max_shard_size="2KB")
    assert len(list(path.glob("model-*.safetensors"))) > 2
    got = models.from_pretrained(path)(IDS).detach().numpy()
    with torch.no_grad():
        np.testing.assert_allclose(got, theirs(torch.from_numpy(IDS))[0].numpy(), atol=1e-5)


@pytest.mark.parametrize("legacy", [False, True])
def test_pytorch_bin(folder, model, legacy):
    torch = pytest.importorskip("torch", reason="writes pytorch_model.bin")
    state = {name: torch.from_numpy(a) for name, a in load_file(folder / "model.safetensors").items()}
    (folder / "model.safetensors").unlink()
    torch.save(state, folder / "pytorch_model.bin", _use_new_zipfile_serialization=not legacy)
    same(models.from_pretrained(folder), model)
    (folder / "pytorch_model.bin").rename(folder / "pytorch_model-00001-of-00001.bin")
    index = {"weight_map": dict.fromkeys(state, "pytorch_model-00001-of-00001.bin")}
    write(folder / "pytorch_model.bin.index.json", index)
    same(models.from_pretrained(folder), model)


def test_no_code_is_run(folder, tmp_path):
    (folder / "model.safetensors").unlink()
    witness = tmp_path / "ran"

    class Hostile:
        def __reduce__(self):
            return witness.touch, ()

    (folder / "pytorch_model.bin").write_bytes(pickle.dumps({"embeddings.LayerNorm.bias": Hostile()}))
    refused(folder, "it names")
    (folder / "modeling_evil.py").write_text(f"open({str(witness)!r}, 'w')")
    settings(folder, auto_map={"AutoModel": "modeling_evil.Evil"}, trust_remote_code=True)
    refused(folder, "it names")
    assert not witness.exists()


# The settings


def test_unknown_models_are_named_along_with_what_is_known(folder):
    settings(folder, model_type="mamba")
    refused(folder, rf"config\.json: model_type is 'mamba'; known are {', '.join(sorted(FAMILIES))}", UnknownModelError)
    settings(folder, model_type=["bert"])
    refused(folder, "model_type is", UnknownModelError)
    settings(folder, model_type="bert", architectures=["BertForNextSentencePrediction"])
    refused(folder, "BertForNextSentencePrediction is not known for bert; known are BertModel, ", UnknownModelError)
    refused(folder, "Nonsense is not known for bert", UnknownModelError, architecture="Nonsense")
    settings(folder, architectures="BertModel")
    refused(folder, "architectures is 'BertModel', expected a list")


def test_the_architecture_may_be_absent(folder, model):
    settings(folder, architectures=None)
    same(models.from_pretrained(folder), model)


@pytest.mark.parametrize(
    "content, match",
    [
        ("", "not valid JSON"),
        ('{"model_type": "bert"', "not valid JSON"),
        ("[" * 100_000, "not valid JSON"),
        ('{"model_type": ' + "9" * 10_000 + "}", "not valid JSON"),
        ("[1]", "expected a dict, got a list"),
        ("\udcff", "not valid JSON"),
    ],
)
def test_damaged_settings(folder, content, match):
    (folder / "config.json").write_bytes(content.encode("utf-8", "surrogateescape"))
    refused(folder, rf"config\.json: {match}")


@pytest.mark.parametrize(
    "changed, match",
    [
        ({"hidden_size": "8"}, "hidden_size is '8', expected int"),
        ({"hidden_size": True}, "hidden_size is True, expected int"),
        ({"hidden_size": -8}, "hidden_size is -8, expected int"),
        ({"vocab_size": 1e3}, "vocab_size is 1000.0, expected int"),
        ({"layer_norm_eps": float("nan")}, "layer_norm_eps is nan, expected float"),
        ({"num_attention_heads": 0}, r"config\.json: "),
        ({"num_attention_heads": 3}, "hidden_size 8 is not divisible by num_attention_heads 3"),
        ({"hidden_act": "wiggle"}, "hidden_act is 'wiggle'; written for 'gelu'"),
        ({"is_decoder": True}, "is_decoder is True; written for False"),
        ({"hidden_dropout_prob": 3.0}, "p must be|probability|dropout"),
    ],
)
def test_wrong_settings(folder, changed, match):
    settings(folder, **changed)
    refused(folder, match)


@pytest.mark.parametrize(
    "huge", [{"hidden_size": 2**40}, {"vocab_size": 2**50}, {"intermediate_size": 2**62}, {"vocab_size": 10**30}]
)
def test_huge_sizes_take_no_memory(folder, huge):
    settings(folder, **huge)
    refused(folder, r"config\.json: ")


def test_large_sizes_take_no_memory(folder):
    """A size that the system would grant: nothing is written to it before the file's own shapes are looked at."""
    import resource

    settings(folder, vocab_size=2**27, intermediate_size=2**25)  # 4 GiB, and 3 of 1 GiB
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    refused(folder, r"config\.json: |shape \(11, 8\), expected \(134217728, 8\)")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200 * 1024


def test_no_more_layers_than_there_are_weights(folder):
    settings(folder, num_hidden_layers=10**9)
    refused(folder, "1000000000 layers are declared; there are only 37 arrays")


# The weights


def test_no_weights(folder):
    (folder / "model.safetensors").unlink()
    refused(folder, "there are no weights; looked for model.safetensors, ", FileNotFoundError)
    with pytest.raises(FileNotFoundError, match=r"config\.json"):
        models.from_pretrained(folder / "elsewhere")


@pytest.mark.parametrize("keep", [0, 4, 8, 100, 0.5, -1])
def test_truncated_weights(folder, keep):
    path = folder / "model.safetensors"
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * keep) if isinstance(keep, float) else keep])
    refused(folder, r"model\.safetensors: truncated, damaged, or not a safetensors file")


@pytest.mark.parametrize(
    "header",
    [
        b"{",
        b'{"x": {"dtype": "F32", "shape": [1099511627776], "data_offsets": [0, 4398046511104]}}',
        b'{"x": {"dtype": "F32", "shape": [2], "data_offsets": [8, 0]}}',
        b'{"x": {"dtype": "Q3", "shape": [2], "data_offsets": [0, 8]}}',
        b'{"x": {"dtype": "F32", "shape": [3], "data_offsets": [0, 8]}}',
    ],
)
def test_hostile_headers(folder, header):
    (folder / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(8))
    refused(folder, r"model\.safetensors: truncated, damaged, or not a safetensors file")


def test_a_header_of_a_declared_exabyte(folder):
    (folder / "model.safetensors").write_bytes((2**60).to_bytes(8, "little") + b"{}")
    refused(folder, r"model\.safetensors: truncated, damaged, or not a safetensors file")


def test_names_that_do_not_fit_are_listed_at_once(folder):
    path = folder / "model.safetensors"
    state = load_file(path)
    del state["encoder.layer.1.output.dense.bias"]
    state["encoder.layer.7.output.dense.bias"] = np.zeros(8, np.float32)
    state["embeddings.LayerNorm.bias"] = np.zeros(9, np.float32)
    state["embeddings.LayerNorm.weight"] = np.zeros(8, np.int64)
    save_file(state, path)
    refused(folder, r"(?s)model\.safetensors does not fit Bert.*unexpected: encoder\.layer\.7\.output\.dense\.bias.*"
                    r"missing: encoder\.layer\.1\.output\.dense\.bias")  # fmt: skip
    refused(folder, r"embeddings\.LayerNorm\.bias: shape \(9,\), expected \(8,\)")
    refused(folder, r"embeddings\.LayerNorm\.weight: dtype int64, expected float32")


def test_two_arrays_for_one_parameter(folder):
    path = folder / "model.safetensors"
    state = load_file(path)
    state["embeddings.LayerNorm.beta"] = state["embeddings.LayerNorm.bias"]
    save_file(state, path)
    refused(folder, r"and another array are both embeddings\.LayerNorm\.bias")


def test_tied_weights_that_differ(saved):
    _, path = saved(("BertConfig", "BertForMaskedLM"), **SMALL)
    state = load_file(path / "model.safetensors")
    state["cls.predictions.decoder.weight"] = state["bert.embeddings.word_embeddings.weight"].copy()
    save_file(state, path / "model.safetensors")
    models.from_pretrained(path)
    state["cls.predictions.decoder.weight"][3, 2] += 1
    save_file(state, path / "model.safetensors")
    refused(path, "are one parameter, but have different values")


def test_a_dtype_that_numpy_lacks(folder):
    torch = pytest.importorskip("torch", reason="writes 8-bit floating-point numbers")
    from safetensors.torch import save_file as save_torch

    state = {name: torch.from_numpy(a) for name, a in load_file(folder / "model.safetensors").items()}
    state["embeddings.LayerNorm.bias"] = state["embeddings.LayerNorm.bias"].to(torch.float8_e8m0fnu)
    save_torch(state, folder / "model.safetensors")
    refused(folder, r"model\.safetensors")


# The index


OUTSIDE = ["../secret.safetensors", "/etc/passwd", "sub/x", "..", ".", "", "..\\secret", "C:\\x", "a\0b", 3, None]


@pytest.mark.parametrize("name", OUTSIDE)
def test_no_path_leads_out_of_the_folder(folder, name):
    outside = folder.parent / "secret.safetensors"
    shutil.copy(folder / "model.safetensors", outside)
    where = shard(folder)
    first = sorted(where)[0]
    write(folder / "model.safetensors.index.json", {"weight_map": {**where, first: name}})
    refused(folder, r"index\.json: names the file .*, expected one in the same folder")


def test_an_index_that_does_not_fit(folder):
    where = shard(folder)
    path = folder / "model.safetensors.index.json"
    write(path, {"weight_map": {**where, "x": "model-00009.safetensors"}})
    refused(folder, r"index\.json: 'x' is in model-00009\.safetensors, which is not there")
    write(path, {"weight_map": {**where, "x": where["embeddings.LayerNorm.bias"]}})
    refused(folder, r"safetensors: lacks 'x', which model\.safetensors\.index\.json says is in it")
    for wrong in [], None, "x":
        write(path, {"weight_map": wrong})
        refused(folder, r"index\.json: weight_map is .*, expected an object of names and files")
    path.write_text("{")
    refused(folder, r"index\.json: not valid JSON")


# Tokenizers and sentences


@pytest.fixture
def sentences(folder):
    """The folder, with a tokenizer of single letters and what sentence-transformers adds."""
    tokenizers = pytest.importorskip("tokenizers", reason="tokenizer.json is read by this library")
    vocabulary = {"[PAD]": 0, "[UNK]": 1, **{c: i + 2 for i, c in enumerate("abcdefghi")}}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer.enable_padding(length=10**6)
    tokenizer.save(str(folder / "tokenizer.json"))
    write(folder / "tokenizer_config.json", {"model_max_length": 10**30, "pad_token": "[PAD]"})
    parts = [("Transformer", ""), ("Pooling", "1_Pooling"), ("Normalize", "2_Normalize")]
    write(folder / "modules.json", [{"type": f"sentence_transformers.models.{k}", "path": p} for k, p in parts])
    (folder / "1_Pooling").mkdir()
    write(folder / "1_Pooling" / "config.json", {"pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True})
    return folder


def test_batches(sentences):
    tokenizer = models.PretrainedTokenizer(sentences)
    batch = tokenizer(["a b c", "d", "x"])
    np.testing.assert_array_equal(batch["input_ids"], [[2, 3, 4], [5, 0, 0], [1, 0, 0]])
    np.testing.assert_array_equal(batch["attention_mask"], [[1, 1, 1], [1, 0, 0], [1, 0, 0]])
    left = tokenizer(["a b c", "d"], padding_side="left", max_length=2)
    np.testing.assert_array_equal(left["input_ids"], [[2, 3], [0, 5]])
    np.testing.assert_array_equal(left["attention_mask"], [[1, 1], [0, 1]])
    assert tokenizer("a b")["input_ids"].shape == (1, 2)
    assert (tokenizer.token_to_id("[PAD]"), tokenizer.vocab_size, tokenizer.pad_id) == (0, 11, 0)
    assert tokenizer.decode([2, 3]) == "a b"
    with pytest.raises(KeyError):
        tokenizer.token_to_id("[MASK]")
    with pytest.raises(ValueError, match="2 texts and 1 to pair"):
        tokenizer(["a", "b"], ["c"])
    with pytest.raises(ValueError, match="at least one text"):
        tokenizer([])


def test_damaged_tokenizers(sentences):
    path = sentences / "tokenizer.json"
    whole = path.read_text()
    for content in "", whole[: len(whole) // 2], "{}", "[]", '{"model": {"type": "BPE", "vocab": 3}}', "[" * 10**5:
        path.write_text(content)
        with pytest.raises(CorruptFileError, match=r"tokenizer\.json"):
            models.PretrainedTokenizer(sentences)
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r"tokenizer\.json"):
        models.PretrainedTokenizer(sentences)


@pytest.mark.parametrize("pooling", ["mean", "cls", "max"])
def test_pooling(model, pooling):
    encoder = SentenceEncoder(model, pooling, normalize=False)
    mask = np.array([[1, 1, 1], [1, 1, 0]])
    x = model(IDS, mask).detach().numpy()
    kept = [x[0], x[1, :2]]
    want = {"mean": [k.mean(0) for k in kept], "cls": [k[0] for k in kept], "max": [k.max(0) for k in kept]}[pooling]
    np.testing.assert_allclose(encoder(IDS, mask).detach().numpy(), want, atol=1e-6)
    unit = SentenceEncoder(model, pooling)(IDS, mask).detach().numpy()
    np.testing.assert_allclose(unit, want / np.linalg.norm(want, axis=1, keepdims=True), atol=1e-6)
    with pytest.raises(ValueError, match="pooling must be one of"):
        SentenceEncoder(model, "median")


def test_sentences(sentences):
    encoder = SentenceEncoder.from_pretrained(sentences)
    assert (encoder.pooling, encoder.normalize, encoder.training) == ("mean", True, False)
    texts = ["a", "b c d e", "f g", "a b"]
    one_by_one = np.stack([encoder.encode(t) for t in texts])
    np.testing.assert_allclose(encoder.encode(texts, batch_size=3), one_by_one, atol=1e-6)
    with pytest.raises(ValueError, match="there is no tokenizer"):
        SentenceEncoder(encoder.model).encode(texts)
    with pytest.raises(ValueError, match="got 0 and 32"):
        encoder.encode([])


def test_sentences_of_other_kinds(sentences):
    path = sentences / "modules.json"
    write(sentences / "1_Pooling" / "config.json", {"pooling_mode_weightedmean_tokens": True})
    with pytest.raises(
        UnknownModelError, match=r"1_Pooling.*pools by pooling_mode_weightedmean_tokens; known is one of"
    ):
        SentenceEncoder.from_pretrained(sentences)
    write(path, [{"type": "sentence_transformers.models.Transformer", "path": "../elsewhere"}])
    with pytest.raises(CorruptFileError, match=r"modules\.json: names the file '\.\./elsewhere'"):
        SentenceEncoder.from_pretrained(sentences)
    write(path, [{"type": "sentence_transformers.models.Dense", "path": "2_Dense"}])
    with pytest.raises(UnknownModelError, match="made of Dense; known are Transformer, Pooling and Normalize"):
        SentenceEncoder.from_pretrained(sentences)
    for wrong in ([3], [{}], {}):
        write(path, wrong)
        with pytest.raises(CorruptFileError, match=r"modules\.json"):
            SentenceEncoder.from_pretrained(sentences)
