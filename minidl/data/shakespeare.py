"""Tiny Shakespeare: the corpus of character-level language models."""

from __future__ import annotations

import hashlib
import os
from typing import Any

import numpy as np

from minidl import files
from minidl.data.text import CharTokenizer, TextWindows
from minidl.files import CorruptFileError


class TinyShakespeare(TextWindows):
    """1,115,394 characters of Shakespeare's plays (Karpathy, 2015), 65 different ones, as windows of tokens.

    Samples are (tokens, next tokens), both (length,) int64: see :class:`TextWindows`.

    Args:
        root: the text file, or a folder with it as ``tinyshakespeare.txt``, ``tinyshakespeare/input.txt`` or
            ``input.txt``. By default: the folder in ``MINIDL_DATA``, then ``~/.cache/minidl``.
        train: the first 90 % for training, or the last 10 % for validation, as nanoGPT splits it; None for
        all.
        length, stride: of the windows.
        tokenizer: by default a :class:`CharTokenizer` of the whole text, so that both parts share their
        numbers.
        download: fetch the file if it is not found, with its SHA-256 checked.

    Raises:
        FileNotFoundError: the file is nowhere; the message lists where it was looked for.
        CorruptFileError: a file is something else.

    Attributes:
        text: the part's characters; ``tokens`` their numbers; ``tokenizer`` what made them.
    """

    url = "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt"
    sha256 = "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"

    def __init__(
        self,
        root: str | os.PathLike | None = None,
        train: bool | None = True,
        length: int = 64,
        stride: int | None = None,
        tokenizer: Any = None,
        download: bool = False,
    ):
        bases = files.data_folders(root)
        names = ("tinyshakespeare.txt", "tinyshakespeare/input.txt", "input.txt")
        is_file = root is not None and bases[0].is_file()
        looked_at = bases if is_file else [base / name for base in bases for name in names]
        path = files.find(looked_at)
        if path is None:
            if not download:
                raise files.missing("tiny Shakespeare", looked_at, "or pass download=True")
            path = files.download(self.url, looked_at[0], sha256=self.sha256)
        content = path.read_bytes()
        digest = hashlib.sha256(content).hexdigest()
        if digest != self.sha256:
            raise CorruptFileError(
                f"{path}: not the tiny Shakespeare file: {len(content)} bytes with SHA-256 {digest}, "
                f"expected {self.sha256}"
            )
        text = content.decode("ascii")
        self.tokenizer = CharTokenizer(text) if tokenizer is None else tokenizer
        split = int(len(text) * 0.9)
        self.train = train
        self.text = text if train is None else text[:split] if train else text[split:]
        super().__init__(np.asarray(self.tokenizer.encode(self.text)), length, stride)

    def _part(self, tokens: slice) -> TinyShakespeare:
        part = super()._part(tokens)
        assert isinstance(part, TinyShakespeare)
        part.text = self.text[tokens]
        return part
