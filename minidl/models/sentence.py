"""A vector for a whole sentence, so that sentences of like meaning are close.

Reimers and Gurevych, "Sentence-BERT: Sentence Embeddings using Siamese BERT-Networks", EMNLP 2019.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from minidl import ops
from minidl.core.context import no_grad
from minidl.core.tensor import Tensor, as_tensor
from minidl.files import CorruptFileError
from minidl.models.pretrained import UnknownModelError, from_pretrained, member, read_json
from minidl.models.tokenizer import PretrainedTokenizer
from minidl.nn.module import Module

POOLINGS = ("mean", "cls", "max")


class SentenceEncoder(Module):
    """Token numbers (N, T) to a vector for each text, (N, hidden_size): its tokens' vectors from ``model``, pooled.

    ``pooling`` is ``"mean"`` or ``"max"`` over tokens, padding left out, or ``"cls"``, the first token's; ``normalize``
    makes the vectors' length 1, so that their products are cosines.
    """

    def __init__(
        self,
        model: Module,
        pooling: str = "mean",
        normalize: bool = True,
        tokenizer: PretrainedTokenizer | None = None,
    ) -> None:
        super().__init__()
        if pooling not in POOLINGS:
            raise ValueError(f"SentenceEncoder: pooling must be one of {', '.join(POOLINGS)}, got {pooling!r}")
        self.model = model
        self.pooling = pooling
        self.normalize = normalize
        self.tokenizer = tokenizer

    @classmethod
    def from_pretrained(cls, folder: str | os.PathLike, **settings: Any) -> SentenceEncoder:
        """The model in a folder as sentence-transformers writes it: ``modules.json`` names its parts.

        ``settings`` are those of :func:`~minidl.models.from_pretrained`, and so are the errors.
        """
        folder = Path(folder)
        source = folder / "modules.json"
        parts: dict[str, Path] = {}
        for entry in read_json(source, list):
            kind, path = (entry.get(k) if isinstance(entry, dict) else None for k in ("type", "path"))
            if not isinstance(kind, str):
                raise CorruptFileError(f"{source}: {entry!r:.100} has no type")
            parts[kind.rpartition(".")[2]] = folder if path == "" else member(folder, path, source)
        unknown = set(parts) - {"Transformer", "Pooling", "Normalize"}
        if unknown or "Transformer" not in parts:
            raise UnknownModelError(
                f"{source}: made of {', '.join(sorted(parts))}; known are Transformer, Pooling and Normalize"
            )
        pooling = _pooling(parts["Pooling"] / "config.json") if "Pooling" in parts else "mean"
        model = from_pretrained(parts["Transformer"], **settings)
        tokenizer = PretrainedTokenizer(parts["Transformer"])
        return cls(model, pooling, "Normalize" in parts, tokenizer).eval()  # type: ignore[return-value]

    def forward(self, input_ids: Any, attention_mask: Any = None, token_type_ids: Any = None) -> Tensor:
        x = self.model(input_ids, attention_mask, token_type_ids)
        if self.pooling == "cls":
            vectors = x[:, 0]
        else:
            mask = np.ones(x.shape[:2]) if attention_mask is None else attention_mask
            mask = ops.unsqueeze(as_tensor(mask) != 0, axis=-1)
            if self.pooling == "max":
                vectors = ops.amax(ops.where(mask, x, -np.inf), axis=1)
            else:
                weights = ops.astype(mask, dtype=x.dtype)
                vectors = ops.sum(x * weights, axis=1) / ops.maximum(ops.sum(weights, axis=1), 1e-9)
        return ops.normalize(vectors, axis=-1) if self.normalize else vectors

    @no_grad()
    def encode(self, texts: str | Sequence[str], batch_size: int = 32) -> np.ndarray:
        """The vectors of ``texts``, float (len(texts), hidden_size); of a single text, (hidden_size,).

        Texts of like length go into a batch together, so that little is computed for padding. The model is in
        evaluation mode meanwhile. Raises ValueError without a tokenizer.
        """
        if self.tokenizer is None:
            raise ValueError("SentenceEncoder.encode: there is no tokenizer; from_pretrained gives one")
        if isinstance(texts, str):
            return self.encode([texts], batch_size)[0]
        if batch_size < 1 or not texts:
            raise ValueError(
                f"SentenceEncoder.encode: expected texts and a positive batch_size, got {len(texts)} and {batch_size}"
            )
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        vectors: Any = [None] * len(texts)
        was_training = self.training
        self.eval()
        try:
            for start in range(0, len(order), batch_size):
                chosen = order[start : start + batch_size]
                batch = self.tokenizer([texts[i] for i in chosen])
                for i, vector in zip(chosen, self(**batch).numpy()):
                    vectors[i] = vector
        finally:
            self.train(was_training)
        return np.stack(vectors)


def _pooling(path: Path) -> str:
    """Which of :data:`POOLINGS` a ``Pooling`` module's settings ask for."""
    settings = read_json(path)
    modes = {"pooling_mode_mean_tokens": "mean", "pooling_mode_cls_token": "cls", "pooling_mode_max_tokens": "max"}
    chosen = [k for k, value in settings.items() if k.startswith("pooling_mode_") and value]
    if len(chosen) != 1 or chosen[0] not in modes:
        raise UnknownModelError(
            f"{path}: pools by {', '.join(chosen) or 'nothing'}; known is one of {', '.join(modes)}"
        )
    return modes[chosen[0]]
