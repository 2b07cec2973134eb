import json
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minidl.data import (
    BPETokenizer,
    CharTokenizer,
    CorruptFileError,
    DataLoader,
    TextWindows,
    TinyShakespeare,
    Vocab,
    pad_sequences,
)

TEXT = "the cat sat on the mat; the rat sat on the cat. Ünïcödé 漢字 🙂\n" * 8


@given(st.text())
def test_char_round_trip(text):
    tokenizer = CharTokenizer(text)
    tokens = tokenizer.encode(text)
    assert tokens.dtype == np.int64 and tokens.shape == (len(text),)
    assert tokenizer.decode(tokens) == text and tokenizer.vocab_size == len(set(text))


def test_char_tokenizer(tmp_path):
    tokenizer = CharTokenizer("hello\n")
    assert tokenizer.chars == ["\n", "e", "h", "l", "o"]
    assert tokenizer.encode("hole").tolist() == [2, 4, 3, 1]
    with pytest.raises(ValueError, match="unknown character 'x' at position 2"):
        tokenizer.encode("hex")
    for tokens in ([5], [-1]):
        with pytest.raises(ValueError, match="0…4"):
            tokenizer.decode(tokens)
    CharTokenizer(TEXT).save(tmp_path / "chars.json")
    assert CharTokenizer.load(tmp_path / "chars.json").decode(CharTokenizer(TEXT).encode(TEXT)) == TEXT


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff",
        b"[1]",
        b'{"type": "other", "chars": []}',
        b'{"type": "minidl.CharTokenizer"}',
        b'{"type": "minidl.CharTokenizer", "chars": ["ab"]}',
        b'{"type": "minidl.CharTokenizer", "chars": ["a", "a"]}',
        b'{"type": "minidl.CharTokenizer", "chars": [1]}',
        b"[" * 100000,
    ],
)
def test_char_tokenizer_refuses_files(tmp_path, content):
    (tmp_path / "file.json").write_bytes(content)
    with pytest.raises(CorruptFileError, match=r"file\.json"):
        CharTokenizer.load(tmp_path / "file.json")


@pytest.fixture(scope="module")
def bpe():
    pytest.importorskip("tokenizers", reason="byte-pair encoding is done by the tokenizers library")
    return BPETokenizer.train(TEXT, 300, special_tokens=["<|end|>"])


def test_bpe(bpe, tmp_path):
    assert 257 < bpe.vocab_size <= 300
    tokens = bpe.encode("the cat sat")
    assert tokens.dtype == np.int64 and len(tokens) < len("the cat sat")
    assert bpe.encode("a<|end|>b").tolist().count(bpe.token_to_id("<|end|>")) == 1
    assert bpe.decode(bpe.encode("a<|end|>b")) == "a<|end|>b" and bpe.token_to_id("nothing") is None
    bpe.save(tmp_path / "bpe.json")
    loaded = BPETokenizer.load(tmp_path / "bpe.json")
    assert loaded.encode(TEXT).tolist() == bpe.encode(TEXT).tolist() and loaded.decode(bpe.encode(TEXT)) == TEXT


@given(text=st.text())
@settings(deadline=None)
def test_bpe_round_trips_any_text(bpe, text):
    tokens = bpe.encode(text)
    assert bpe.decode(tokens) == text
    assert all(0 <= token < bpe.vocab_size for token in tokens.tolist())


def test_bpe_refuses(bpe, tmp_path):
    with pytest.raises(ValueError, match="at least 256"):
        BPETokenizer.train(TEXT, 100)
    for content in (b"", b"{}", b"\xff\xfe", b'{"version": "1.0"}'):
        (tmp_path / "file.json").write_bytes(content)
        with pytest.raises(CorruptFileError, match=r"file\.json"):
            BPETokenizer.load(tmp_path / "file.json")
    with pytest.raises(FileNotFoundError):
        BPETokenizer.load(tmp_path / "nowhere.json")


def test_bpe_without_the_library(monkeypatch):
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(ImportError, match=r"minidl\[train\]"):
        BPETokenizer.train(TEXT)


def test_vocab(tmp_path):
    sentences = [["b", "a", "c"], ["b", "a", "<unk>"], ["b", "d"]]
    vocab = Vocab.build(sentences, min_freq=2)
    assert vocab.tokens == ["<pad>", "<unk>", "<bos>", "<eos>", "b", "a"]
    assert (vocab.pad, vocab.unk, vocab.bos, vocab.eos) == (0, 1, 2, 3) and len(vocab) == 6
    assert vocab.encode(["a", "c", "b"], bos=True, eos=True).tolist() == [2, 5, 1, 4, 3]
    assert vocab.decode([2, 5, 1, 4, 3]) == ["<bos>", "a", "<unk>", "b", "<eos>"]
    assert vocab.decode([2, 5, 1, 4, 3, 0], skip_specials=True) == ["a", "<unk>", "b"]
    assert "a" in vocab and "c" not in vocab and vocab["c"] == vocab.unk
    assert Vocab.build(sentences, max_size=1).tokens[4:] == ["b"]
    assert Vocab.build([["z", "y"]]).tokens[4:] == ["y", "z"]  # a tie goes by spelling
    plain = Vocab.build(sentences, pad=None, unk=None, bos=None, eos=None)
    assert plain.tokens == ["b", "a", "<unk>", "c", "d"]
    with pytest.raises(KeyError, match="'x'"):
        plain["x"]
    with pytest.raises(ValueError, match="no eos token"):
        plain.encode(["a"], eos=True)
    with pytest.raises(ValueError, match="0…5"):
        vocab.decode([6])
    with pytest.raises(ValueError, match="twice"):
        Vocab(["a", "<pad>"])
    for one in (vocab, plain):
        one.save(tmp_path / "vocab.json")
        loaded = Vocab.load(tmp_path / "vocab.json")
        assert loaded.tokens == one.tokens and loaded.specials == one.specials


@pytest.mark.parametrize(
    "change", [{"specials": None}, {"specials": {"pad": 3}}, {"tokens": ["<pad>"]}, {"tokens": "a"}]
)
def test_vocab_refuses_files(tmp_path, change):
    Vocab(["a"]).save(tmp_path / "vocab.json")
    content = json.loads((tmp_path / "vocab.json").read_text())
    (tmp_path / "vocab.json").write_text(json.dumps({**content, **change}))
    with pytest.raises(CorruptFileError, match=r"vocab\.json"):
        Vocab.load(tmp_path / "vocab.json")


def test_pad_sequences():
    rows = [[1, 2, 3], [], [4]]
    assert pad_sequences(rows).tolist() == [[1, 2, 3], [0, 0, 0], [4, 0, 0]]
    assert pad_sequences(rows, value=-1, padding="pre").tolist() == [[1, 2, 3], [-1, -1, -1], [-1, -1, 4]]
    assert pad_sequences(rows, maxlen=2).tolist() == [[1, 2], [0, 0], [4, 0]]
    assert pad_sequences(rows, maxlen=2, truncating="pre", padding="pre").tolist() == [[2, 3], [0, 0], [0, 4]]
    assert pad_sequences(rows, maxlen=0).shape == (3, 0)
    assert pad_sequences(rows).dtype == np.int64
    assert pad_sequences([np.ones(2, np.float32), np.ones(1, np.float32)]).dtype == np.float32
    assert pad_sequences(rows, dtype=np.int32).dtype == np.int32
    assert pad_sequences([np.ones((2, 5)), np.ones((3, 5))]).shape == (2, 3, 5)
    assert pad_sequences([]).shape == (0, 0) and pad_sequences([[], []]).shape == (2, 0)
    with pytest.raises(ValueError, match="differ in their length only"):
        pad_sequences([np.ones((2, 5)), np.ones((3, 4))])
    with pytest.raises(ValueError, match="'pre' or 'post'"):
        pad_sequences(rows, padding="left")


@given(n=st.integers(2, 60), length=st.integers(1, 20), stride=st.none() | st.integers(1, 20))
def test_text_windows(n, length, stride):
    tokens = np.arange(n, dtype=np.uint16)
    if n <= length:
        with pytest.raises(ValueError, match="too few"):
            TextWindows(tokens, length, stride)
        return
    windows = TextWindows(tokens, length, stride)
    step = stride or length
    starts = [s for s in range(0, n, step) if s + length + 1 <= n]
    assert len(windows) == len(starts)
    for i, start in enumerate(starts):
        inputs, targets = windows[i]
        assert inputs.dtype == targets.dtype == np.int64
        assert inputs.tolist() == list(range(start, start + length))
        assert targets.tolist() == list(range(start + 1, start + length + 1))
    assert windows[-1][0][0] == starts[-1]
    with pytest.raises(IndexError):
        windows[len(starts)]
    inputs, _ = next(iter(DataLoader(windows, 3)))
    assert inputs.shape == (min(3, len(starts)), length)


@pytest.mark.parametrize("arguments", [(np.zeros(9), 3), (np.zeros((9, 2), int), 3), (np.zeros(9, int), 0)])
def test_text_windows_refuses(arguments):
    with pytest.raises(ValueError, match="TextWindows"):
        TextWindows(*arguments)


@pytest.fixture
def small_corpus(monkeypatch):
    import hashlib

    monkeypatch.setattr(TinyShakespeare, "sha256", hashlib.sha256(b"To be, or not to be" * 20).hexdigest())
    return b"To be, or not to be" * 20


def test_shakespeare_places_and_split(small_corpus, tmp_path, no_data):
    with pytest.raises(FileNotFoundError) as info:
        TinyShakespeare()
    assert str(no_data / "tinyshakespeare.txt") in str(info.value)
    (tmp_path / "a").mkdir()
    for name in ("a/tinyshakespeare.txt", "a/x.txt"):
        (tmp_path / name).write_bytes(small_corpus)
    train, val = (TinyShakespeare(tmp_path / "a", train=part, length=8) for part in (True, False))
    assert len(train.text) == 342 and train.text + val.text == small_corpus.decode()
    assert val.tokenizer.vocab_size == train.tokenizer.vocab_size == len(set(small_corpus))
    assert train.tokenizer.decode(train[1][0]) == train.text[8:16]
    assert train.tokenizer.decode(train[1][1]) == train.text[9:17]
    assert TinyShakespeare(tmp_path / "a" / "x.txt", train=None).text == small_corpus.decode()


def test_shakespeare_download(small_corpus, tmp_path, no_data, monkeypatch):
    (tmp_path / "served.txt").write_bytes(small_corpus)
    monkeypatch.setattr(TinyShakespeare, "url", (tmp_path / "served.txt").as_uri())
    assert TinyShakespeare(download=True, length=8).text[:5] == "To be"
    assert (no_data / "tinyshakespeare.txt").read_bytes() == small_corpus
    (no_data / "tinyshakespeare.txt").write_bytes(small_corpus[:-1])
    with pytest.raises(CorruptFileError, match="379 bytes"):
        TinyShakespeare()


def test_real_shakespeare(real_data):
    train, val = TinyShakespeare(real_data), TinyShakespeare(real_data, train=False)
    assert len(train.text) == 1003854 and len(val.text) == 111540
    assert train.tokenizer.vocab_size == 65 and train.text.startswith("First Citizen:")


def test_imports_are_cheap():
    """Neither the optional libraries nor SciPy's image functions are imported before they are needed."""
    libraries = "'PIL', 'tokenizers', 'scipy.ndimage', 'sklearn'"
    code = f"import sys, minidl.data; print([m for m in ({libraries}) if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_every_public_name_exists():
    import minidl.data

    assert all(hasattr(minidl.data, name) for name in minidl.data.__all__)
