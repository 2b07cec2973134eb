"""Sampling the next token from a language model's scores."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

import numpy as np

from minidl.core.context import no_grad
from minidl.core.registry import to_numpy
from minidl.core.tensor import Tensor, as_tensor
from minidl.nn.module import Module
from minidl.random import Generator, default_generator
from minidl.ranges import at_least


def sample_tokens(
    logits: np.ndarray, temperature: float = 1.0, top_k: int | None = None, generator: Generator | None = None
) -> np.ndarray:
    """One token per row: int64[N] drawn from softmax(logits / temperature), ``logits`` float[N, V].

    ``temperature`` 0 takes the most probable; ``top_k`` leaves out all but the k most probable. Raises ValueError for
    a temperature that is negative, NaN or infinite, a ``top_k`` below one, and scores without a largest finite one.
    """
    at_least(0).check("sample: temperature", temperature)
    if top_k is not None and top_k < 1:
        raise ValueError(f"sample: top_k must be at least 1, got {top_k}")
    top = logits.max(axis=-1, keepdims=True)  # NaN if there is one
    if not np.isfinite(top).all():
        raise ValueError("sample: the scores hold NaN, +inf, or nothing but -inf")
    if temperature == 0:
        return logits.argmax(axis=-1)
    with np.errstate(over="ignore"):  # to -inf: at a tiny temperature only the largest is left
        z = (logits.astype(np.float64) - top) / temperature
    if top_k is not None and top_k < z.shape[-1]:
        smallest = np.partition(z, -top_k, axis=-1)[:, -top_k, None]
        z = np.where(z < smallest, -np.inf, z)
    z = np.exp(z)
    # inverts the distribution function at a uniform number, scaled so that rounding cannot put it past the end
    cumulative = np.cumsum(z, axis=-1)
    u = (generator or default_generator()).uniform((len(z), 1), dtype=np.float64) * cumulative[:, -1:]
    return (cumulative <= u).sum(axis=-1)


@no_grad()
def continue_tokens(
    model: Module,
    idx: Any,
    max_new_tokens: int,
    scores: Callable[[np.ndarray, np.ndarray], Tensor],
    temperature: float,
    top_k: int | None,
    generator: Generator | None,
    stop: Collection[int] = (),
) -> Tensor:
    """``idx`` (N, T), T > 0, continued by ``max_new_tokens`` sampled tokens: int64 (N, T + max_new_tokens).

    A row that has come to a token of ``stop`` repeats it; once all rows have, there are no more tokens.

    ``scores(tokens, new)`` gives the model's scores (N, t, V), the last of them for what follows all ``tokens``;
    ``new`` are those it was not given before. ``model`` is in evaluation mode meanwhile.
    """
    tokens = to_numpy(as_tensor(idx).array).astype(np.int64)
    if tokens.ndim != 2 or tokens.shape[1] == 0:
        raise ValueError(
            f"{type(model).__name__}.generate: expected a prompt of shape (N, T) with T > 0, got {tokens.shape}"
        )
    was_training = model.training
    model.eval()
    try:
        new = tokens
        ended = np.zeros(len(tokens), np.bool_)
        for _ in range(max_new_tokens):
            last = scores(tokens, new)[:, -1]
            sampled = sample_tokens(to_numpy(last.array), temperature, top_k, generator)
            new = np.where(ended, tokens[:, -1], sampled)[:, None]
            tokens = np.concatenate([tokens, new], axis=1)
            ended |= np.isin(new[:, 0], list(stop))
            if len(stop) and ended.all():
                break
    finally:
        model.train(was_training)
    return as_tensor(tokens)
