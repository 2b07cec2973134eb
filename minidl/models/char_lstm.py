"""A character-level language model of LSTM layers (Graves 2013; Karpathy 2015, "char-rnn")."""

from __future__ import annotations

from typing import Any

import numpy as np

from minidl.core.tensor import Tensor
from minidl.models.sampling import continue_tokens
from minidl.nn.dropout import Dropout
from minidl.nn.embedding import Embedding
from minidl.nn.linear import Linear
from minidl.nn.module import Module
from minidl.nn.recurrent import LSTM
from minidl.random import Generator

State = tuple[Tensor, Tensor]


class CharLSTM(Module):
    """Token numbers (N, T) to scores for the next token, (N, T, vocab_size), and the state after them.

    ``embedding`` (vocab_size, embedding_dim), ``lstm`` (``num_layers`` of ``hidden_size``, dropout between them),
    dropout, ``head``.
    """

    def __init__(
        self,
        vocab_size: int,
        embedding_dim: int = 64,
        hidden_size: int = 256,
        num_layers: int = 2,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.vocab_size = vocab_size
        self.embedding = Embedding(vocab_size, embedding_dim)
        self.lstm = LSTM(
            embedding_dim, hidden_size, num_layers, batch_first=True, dropout=dropout if num_layers > 1 else 0.0
        )
        self.dropout = Dropout(dropout)
        self.head = Linear(hidden_size, vocab_size)

    def forward(self, x: Any, state: State | None = None) -> tuple[Tensor, State]:
        """(scores, state). Pass the state back to continue where the last call stopped; :meth:`detach` it between
        training steps, so that gradients stop there (truncated backpropagation through time)."""
        y, state = self.lstm(self.embedding(x), state)
        return self.head(self.dropout(y)), state

    @staticmethod
    def detach(state: State) -> State:
        """The state, detached from the graph that made it."""
        return state[0].detach(), state[1].detach()

    def generate(
        self,
        idx: Any,
        max_new_tokens: int,
        temperature: float = 1.0,
        top_k: int | None = None,
        generator: Generator | None = None,
    ) -> Tensor:
        """``idx`` (N, T), T > 0, continued by ``max_new_tokens`` sampled tokens: int64 (N, T + max_new_tokens).

        ``temperature`` 0 takes the most probable token; ``top_k`` samples among the k most probable. The model is in
        evaluation mode meanwhile.
        """
        state = None

        def scores(tokens: np.ndarray, new: np.ndarray) -> Tensor:
            nonlocal state
            logits, state = self(new, state)
            return logits

        return continue_tokens(self, idx, max_new_tokens, scores, temperature, top_k, generator)
