"""Text: tokenizers, vocabulary, padding, and windows over a token stream."""

from __future__ import annotations

import copy
import json
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from minidl.data.dataset import Dataset, digest
from minidl.files import CorruptFileError, atomic_write


def _save_json(path: str | os.PathLike, content: dict) -> None:
    with atomic_write(path) as file:
        file.write(json.dumps(content, ensure_ascii=False, indent=1).encode())


def _load_json(path: str | os.PathLike, kind: str, key: str) -> dict:
    """Read a JSON file that must be of ``kind`` and hold a list of distinct strings at ``key``."""
    try:
        with open(path, encoding="utf-8") as file:
            content = json.load(file)
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise CorruptFileError(f"{path}: not valid JSON ({error})") from error
    if not isinstance(content, dict) or content.get("type") != kind:
        raise CorruptFileError(f"{path}: not a {kind} file")
    strings = content.get(key)
    if not isinstance(strings, list) or not all(isinstance(item, str) for item in strings):
        raise CorruptFileError(f"{path}: {key!r} must be a list of strings")
    if len(set(strings)) != len(strings):
        raise CorruptFileError(f"{path}: {key!r} holds a string twice")
    return content


class CharTokenizer:
    """One token for each distinct character of a text, in code point order.

    Args:
        text: any text with the characters to know; 65 of them in tiny Shakespeare.

    >>> tokenizer = CharTokenizer("abracadabra")
    >>> tokenizer.encode("cab")
    array([2, 0, 1])
    >>> tokenizer.decode([2, 0, 1])
    'cab'
    """

    def __init__(self, text: str):
        self.chars = sorted(set(text))
        self._ids = {char: i for i, char in enumerate(self.chars)}

    @property
    def vocab_size(self) -> int:
        return len(self.chars)

    def encode(self, text: str) -> np.ndarray:
        """(len(text),) int64 token numbers. Raises ValueError for a character that is not known."""
        try:
            return np.fromiter((self._ids[char] for char in text), np.int64, len(text))
        except KeyError as error:
            raise ValueError(
                f"CharTokenizer: unknown character {error.args[0]!r} at position "
                f"{text.index(error.args[0])}; {self.vocab_size} characters are known"
            ) from None

    def decode(self, tokens: Iterable[int]) -> str:
        tokens = np.asarray(tokens).tolist()
        if any(not 0 <= token < len(self.chars) for token in tokens):
            raise ValueError(f"CharTokenizer: token numbers must be in 0…{len(self.chars) - 1}")
        return "".join(self.chars[token] for token in tokens)

    def save(self, path: str | os.PathLike) -> None:
        _save_json(path, {"type": "minidl.CharTokenizer", "chars": self.chars})

    @classmethod
    def load(cls, path: str | os.PathLike) -> CharTokenizer:
        chars = _load_json(path, "minidl.CharTokenizer", "chars")["chars"]
        if any(len(char) != 1 for char in chars):
            raise CorruptFileError(f"{path}: 'chars' must hold single characters")
        return cls("".join(chars))


class BPETokenizer:
    """Byte-level byte-pair encoding, as in GPT-2, through the ``tokenizers`` library.

    Any text can be encoded and comes back unchanged, as every byte is a token. Make one with :meth:`train` or
    :meth:`load`; files are in the JSON format of ``tokenizers``.
    """

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer

    @classmethod
    def train(
        cls,
        texts: str | Iterable[str],
        vocab_size: int = 1024,
        *,
        special_tokens: Sequence[str] = (),
        min_frequency: int = 2,
    ) -> BPETokenizer:
        """Learn up to ``vocab_size`` tokens, at least 256 bytes and the special tokens, from one or more
        texts."""
        library = _tokenizers()
        if vocab_size < 256 + len(special_tokens):
            raise ValueError(
                f"BPETokenizer: vocab_size must be at least 256 bytes + {len(special_tokens)} special "
                f"tokens, got {vocab_size}"
            )
        tokenizer = library.Tokenizer(library.models.BPE())
        tokenizer.pre_tokenizer = library.pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = library.decoders.ByteLevel()
        trainer = library.trainers.BpeTrainer(
            vocab_size=vocab_size,
            min_frequency=min_frequency,
            special_tokens=list(special_tokens),
            initial_alphabet=library.pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        tokenizer.train_from_iterator([texts] if isinstance(texts, str) else texts, trainer)
        return cls(tokenizer)

    @property
    def vocab_size(self) -> int:
        return self.tokenizer.get_vocab_size()

    def encode(self, text: str) -> np.ndarray:
        """(T,) int64 token numbers."""
        return np.array(self.tokenizer.encode(text).ids, dtype=np.int64)

    def decode(self, tokens: Iterable[int]) -> str:
        """The text of the tokens; bytes that are no UTF-8, as half a character, become U+FFFD."""
        return self.tokenizer.decode(np.asarray(tokens).tolist(), skip_special_tokens=False)

    def token_to_id(self, token: str) -> int | None:
        """Number of a token, for example a special one; None if there is no such token."""
        return self.tokenizer.token_to_id(token)

    def save(self, path: str | os.PathLike) -> None:
        with atomic_write(path) as file:
            file.write(self.tokenizer.to_str(pretty=True).encode())

    @classmethod
    def load(cls, path: str | os.PathLike) -> BPETokenizer:
        library = _tokenizers()
        with open(path, "rb") as file:
            content = file.read()
        try:
            return cls(library.Tokenizer.from_str(content.decode()))
        except Exception as error:  # the library raises plain Exception
            raise CorruptFileError(f"{path}: not a tokenizer file ({error})") from error


def _tokenizers() -> Any:
    try:
        import tokenizers
        import tokenizers.decoders
        import tokenizers.models
        import tokenizers.pre_tokenizers
        import tokenizers.trainers
    except ImportError as error:
        raise ImportError('byte-pair encoding needs the tokenizers library: pip install "minidl[train]"') from error
    return tokenizers


class Vocab:
    """Numbers for words: special tokens first, then by falling frequency, ties by spelling.

    Args:
        tokens: the words in number order, without the special ones. Mostly made by :meth:`build`.
        pad, unk, bos, eos: the special tokens; None leaves one out. Without ``unk``, an unknown word is an
        error.
    """

    def __init__(
        self,
        tokens: Sequence[str],
        *,
        pad: str | None = "<pad>",
        unk: str | None = "<unk>",
        bos: str | None = "<bos>",
        eos: str | None = "<eos>",
    ):
        self.specials = {"pad": pad, "unk": unk, "bos": bos, "eos": eos}
        special = [token for token in self.specials.values() if token is not None]
        self.tokens = [*special, *tokens]
        self._ids = {token: i for i, token in enumerate(self.tokens)}
        if len(self._ids) != len(self.tokens):
            raise ValueError("Vocab: a token occurs twice, or equals a special one")

    @classmethod
    def build(
        cls, sentences: Iterable[Iterable[str]], *, min_freq: int = 1, max_size: int | None = None, **specials: Any
    ) -> Vocab:
        """Count the words of tokenized sentences and keep those that occur ``min_freq`` times or more.

        ``max_size`` limits the number of words, special tokens not counted.

        >>> vocab = Vocab.build([["the", "cat"], ["the", "dog"]])
        >>> vocab.tokens
        ['<pad>', '<unk>', '<bos>', '<eos>', 'the', 'cat', 'dog']
        """
        counts = Counter(token for sentence in sentences for token in sentence)
        for special in cls((), **specials).tokens:
            counts.pop(special, None)
        ordered = sorted(
            (token for token, n in counts.items() if n >= min_freq), key=lambda token: (-counts[token], token)
        )
        return cls(ordered[:max_size], **specials)

    def __len__(self) -> int:
        return len(self.tokens)

    def __contains__(self, token: str) -> bool:
        return token in self._ids

    def __getitem__(self, token: str) -> int:
        """Number of a token; that of ``unk`` if it is unknown."""
        try:
            return self._ids[token]
        except KeyError:
            unknown = self.specials["unk"]
            if unknown is None:
                raise KeyError(f"unknown token {token!r}, and this vocabulary has no unk token") from None
            return self._ids[unknown]

    def _special(self, name: str) -> int:
        token = self.specials[name]
        if token is None:
            raise ValueError(f"this vocabulary has no {name} token")
        return self._ids[token]

    @property
    def pad(self) -> int:
        return self._special("pad")

    @property
    def unk(self) -> int:
        return self._special("unk")

    @property
    def bos(self) -> int:
        return self._special("bos")

    @property
    def eos(self) -> int:
        return self._special("eos")

    def encode(self, tokens: Iterable[str], *, bos: bool = False, eos: bool = False) -> np.ndarray:
        """(T,) int64 numbers, with ``bos`` in front and ``eos`` behind if asked."""
        ids = [self[token] for token in tokens]
        if bos:
            ids.insert(0, self.bos)
        if eos:
            ids.append(self.eos)
        return np.array(ids, dtype=np.int64)

    def decode(self, ids: Iterable[int], *, skip_specials: bool = False) -> list[str]:
        """The tokens of the numbers, without special ones (``unk`` stays) if asked."""
        skipped = {self.specials[name] for name in ("pad", "bos", "eos")} if skip_specials else set()
        ids = np.asarray(ids).tolist()
        if any(not 0 <= i < len(self) for i in ids):
            raise ValueError(f"Vocab: token numbers must be in 0…{len(self) - 1}")
        return [self.tokens[i] for i in ids if self.tokens[i] not in skipped]

    def save(self, path: str | os.PathLike) -> None:
        n = sum(token is not None for token in self.specials.values())
        _save_json(path, {"type": "minidl.Vocab", "specials": self.specials, "tokens": self.tokens[n:]})

    @classmethod
    def load(cls, path: str | os.PathLike) -> Vocab:
        content = _load_json(path, "minidl.Vocab", "tokens")
        specials = content.get("specials")
        if (
            not isinstance(specials, dict)
            or specials.keys() != {"pad", "unk", "bos", "eos"}
            or not all(token is None or isinstance(token, str) for token in specials.values())
        ):
            raise CorruptFileError(f"{path}: 'specials' must name pad, unk, bos and eos")
        try:
            return cls(content["tokens"], **specials)
        except ValueError as error:
            raise CorruptFileError(f"{path}: {error}") from error


def pad_sequences(
    sequences: Sequence,
    maxlen: int | None = None,
    value: float = 0,
    *,
    padding: str = "post",
    truncating: str = "post",
    dtype: Any = None,
) -> np.ndarray:
    """Sequences of different lengths as one (N, T, …) array, filled up with ``value``.

    Args:
        sequences: arrays or lists that differ in their first axis alone.
        maxlen: T; by default the longest length. Longer sequences are cut.
        padding, truncating: fill or cut at the end ("post") or at the start ("pre").
        dtype: by default that of the sequences; int64 if they are all empty lists.

    >>> pad_sequences([[1, 2, 3], [4]], padding="pre")
    array([[1, 2, 3],
           [0, 0, 4]])
    """
    for side in (padding, truncating):
        if side not in ("pre", "post"):
            raise ValueError(f"pad_sequences: padding and truncating must be 'pre' or 'post', got {side!r}")
    arrays = [np.asarray(sequence) for sequence in sequences]
    filled = [array for array in arrays if array.size] or [np.zeros(0, np.int64)]
    trailing = {array.shape[1:] for array in filled}
    if len(trailing) > 1 or any(array.ndim == 0 for array in arrays):
        raise ValueError(
            f"pad_sequences: sequences may differ in their length only, got shapes "
            f"{sorted({array.shape for array in arrays})}"
        )
    length = max((len(array) for array in arrays), default=0) if maxlen is None else maxlen
    result = np.full((len(arrays), length, *trailing.pop()), value, dtype or np.result_type(*filled))
    for row, array in zip(result, arrays, strict=True):
        n = min(len(array), length)
        if n:
            kept = array[:n] if truncating == "post" else array[len(array) - n :]
            row[slice(n) if padding == "post" else slice(length - n, None)] = kept
    return result


class TextWindows(Dataset):
    """Windows of ``length`` tokens and, as targets, the tokens that come next: pairs of (length,) int64
    arrays.

    Args:
        tokens: one-dimensional integer array.
        length: tokens in a window.
        stride: from one window's start to the next one's. The default, ``length``, cuts the text into
            successive windows; 1 gives every window there is.

    For windows at random places, as nanoGPT draws them, take stride 1 and ``sampler=RandomSampler(windows,
    replacement=True, num_samples=steps * batch_size)``; for truncated back-propagation through time, the
    default stride and ``batch_sampler=ContiguousBatchSampler(windows, batch_size)``.

    >>> windows = TextWindows(np.arange(10), length=3)
    >>> [(inputs.tolist(), targets.tolist()) for inputs, targets in (windows[0], windows[-1])]
    [([0, 1, 2], [1, 2, 3]), ([6, 7, 8], [7, 8, 9])]
    """

    def __init__(self, tokens: Any, length: int, stride: int | None = None):
        self.tokens = np.asarray(tokens)
        self.length, self.stride = length, length if stride is None else stride
        if self.tokens.ndim != 1 or not np.issubdtype(self.tokens.dtype, np.integer):
            raise ValueError(
                f"TextWindows: tokens must be a one-dimensional integer array, got {self.tokens.dtype} "
                f"of shape {self.tokens.shape}"
            )
        if self.length < 1 or self.stride < 1:
            raise ValueError(f"TextWindows: length and stride must be positive, got {length} and {stride}")
        if len(self.tokens) <= length:
            raise ValueError(
                f"TextWindows: {len(self.tokens)} tokens are too few for a window of {length} and its next token"
            )

    def split(self, share: float) -> tuple[TextWindows, TextWindows]:
        """The first ``share`` of the tokens, and the rest: no token is in windows of both.

        Raises ValueError if either is too short for a window.
        """
        if not 0 < share < 1:
            raise ValueError(f"TextWindows: the share must be between 0 and 1, got {share}")
        cut = int(len(self.tokens) * share)
        return self._part(slice(cut)), self._part(slice(cut, None))

    def _part(self, tokens: slice) -> TextWindows:
        part = copy.copy(self)
        TextWindows.__init__(part, self.tokens[tokens], self.length, self.stride)
        return part

    def __len__(self) -> int:
        return (len(self.tokens) - self.length - 1) // self.stride + 1

    def checksum(self) -> str | None:
        return digest(self.tokens, f"{self.length} {self.stride}")

    def __getitems__(self, indices: Any) -> Any:
        starts = np.asarray(indices, dtype=np.int64)
        if starts.size and not (starts.min() >= 0 and starts.max() < len(self)):
            raise IndexError(f"TextWindows: window numbers must be in 0…{len(self) - 1}")
        windows = self.tokens[starts[:, None] * self.stride + np.arange(self.length + 1)].astype(np.int64)
        return windows[:, :-1], windows[:, 1:]

    def __getitem__(self, index: Any) -> Any:
        inputs, targets = self.__getitems__([index + len(self) if index < 0 else index])
        return inputs[0], targets[0]
