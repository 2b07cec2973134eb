"""Texts to batches of token numbers, as a folder's ``tokenizer.json`` says."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from minidl.files import CorruptFileError
from minidl.models.pretrained import read_json

#: a declared longest text beyond this means that there is none (Hugging Face writes 10^30)
_NO_LIMIT = 10**7


class PretrainedTokenizer:
    """The tokenizer of a Hugging Face folder, run by the library ``tokenizers``.

    ``tokenizer(texts)`` gives what the models take, so that ``model(**tokenizer(texts))`` runs. Texts longer than
    ``max_length`` tokens (default: as the folder says) are cut off; shorter ones are padded to the longest of the batch
    and masked.

    Raises FileNotFoundError without a ``tokenizer.json``, CorruptFileError for a damaged one.
    """

    def __init__(self, folder: str | os.PathLike, max_length: int | None = None) -> None:
        try:
            import tokenizers
        except ImportError as error:
            raise ImportError('a tokenizer.json needs tokenizers: pip install "minidl[train]"') from error
        self.folder = Path(folder)
        path = self.folder / "tokenizer.json"
        read_json(path)
        try:
            self.tokenizer = tokenizers.Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises nothing more definite
            raise CorruptFileError(f"{path}: not a tokenizer ({error})") from error
        self.max_length = max_length or self._declared_length()
        self.pad_id = self._declared_padding()
        # the file may ask for padding and truncation of its own, to any length
        self.tokenizer.no_padding()
        self.tokenizer.no_truncation()

    def _settings(self, name: str) -> Mapping[str, Any]:
        path = self.folder / name
        return read_json(path) if path.exists() else {}

    def _declared_length(self) -> int | None:
        lengths = (
            self._settings("sentence_bert_config.json").get("max_seq_length"),
            self._settings("tokenizer_config.json").get("model_max_length"),
        )
        return next((n for n in lengths if isinstance(n, int) and 0 < n < _NO_LIMIT), None)

    def _declared_padding(self) -> int:
        if self.tokenizer.padding:
            return self.tokenizer.padding["pad_id"]
        token = self._settings("tokenizer_config.json").get("pad_token")
        if isinstance(token, dict):
            token = token.get("content")
        number = self.tokenizer.token_to_id(token) if isinstance(token, str) else None
        if number is None:
            number = self._settings("config.json").get("pad_token_id")
        return number if isinstance(number, int) and number >= 0 else 0  # masked, so that any will do

    @property
    def vocab_size(self) -> int:
        return self.tokenizer.get_vocab_size()

    def __call__(
        self,
        texts: str | Sequence[str],
        pairs: str | Sequence[str] | None = None,
        max_length: int | None = None,
        padding_side: str = "right",
    ) -> dict[str, np.ndarray]:
        """``input_ids`` and ``attention_mask`` (1 for tokens, 0 for padding), int64 (N, T).

        With ``pairs``, a second text for each, also ``token_type_ids``: 0 for tokens of the first, 1 for the second.
        Pad on the left for :meth:`generate <minidl.models.Llama.generate>`.
        """
        firsts = [texts] if isinstance(texts, str) else list(texts)
        if not firsts or padding_side not in ("left", "right"):
            raise ValueError(
                f"tokenizer: expected at least one text and left or right, got {len(firsts)} and {padding_side!r}"
            )
        inputs: list[Any] = list(firsts)
        if pairs is not None:
            seconds = [pairs] if isinstance(pairs, str) else list(pairs)
            if len(firsts) != len(seconds):
                raise ValueError(f"tokenizer: {len(firsts)} texts and {len(seconds)} to pair with them")
            inputs = list(zip(firsts, seconds))
        limit = max_length or self.max_length
        if limit is not None:
            self.tokenizer.enable_truncation(limit)
        else:
            self.tokenizer.no_truncation()
        encoded = self.tokenizer.encode_batch(inputs)
        longest = max(len(e.ids) for e in encoded)
        shape = (len(encoded), longest)
        batch = {"input_ids": np.full(shape, self.pad_id, np.int64), "attention_mask": np.zeros(shape, np.int64)}
        if pairs is not None:
            batch["token_type_ids"] = np.zeros(shape, np.int64)
        for row, e in enumerate(encoded):
            at = slice(longest - len(e.ids), None) if padding_side == "left" else slice(len(e.ids))
            batch["input_ids"][row, at] = e.ids
            batch["attention_mask"][row, at] = 1
            if pairs is not None:
                batch["token_type_ids"][row, at] = e.type_ids
        return batch

    def decode(self, ids: Iterable[int], skip_special_tokens: bool = True) -> str:
        """The text of a sequence of token numbers."""
        return self.tokenizer.decode(np.asarray(ids).tolist(), skip_special_tokens=skip_special_tokens)

    def token_to_id(self, token: str) -> int:
        """The number of a token, such as ``"[MASK]"``. Raises KeyError if there is none."""
        number = self.tokenizer.token_to_id(token)
        if number is None:
            raise KeyError(token)
        return number
