"""T5: an encoder that reads a text and a decoder that writes another, with Hugging Face's names.

Raffel et al., "Exploring the Limits of Transfer Learning with a Unified Text-to-Text Transformer", JMLR 2020. Positions
enter only as a learned number per head and distance, added to attention's scores; the scores are not scaled; norms have
neither mean nor bias. Version 1.1 (also FLAN-T5 and mT5) has a gated MLP and an output matrix of its own.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from minidl import ops
from minidl.core.context import no_grad
from minidl.core.registry import to_numpy
from minidl.core.tensor import Tensor, as_tensor
from minidl.models.family import ACTIVATIONS, Config, Family, check_ids, merge_heads, split_heads, visible_keys
from minidl.models.sampling import continue_tokens
from minidl.nn.attention import KVCache
from minidl.nn.container import ModuleList
from minidl.nn.dropout import Dropout
from minidl.nn.embedding import Embedding
from minidl.nn.linear import Linear
from minidl.nn.module import Module
from minidl.nn.normalization import RMSNorm
from minidl.random import Generator

#: the MLP's activation by ``feed_forward_proj``, where that is not its name
_GATED = {"gated-gelu": "gelu_new", "gated-silu": "silu", "gated-relu": "relu"}


@dataclasses.dataclass
class T5Config(Config):
    """Sizes and options of a :class:`T5`; the defaults are T5-small's."""

    vocab_size: int = 32128
    d_model: int = 512
    d_kv: int = 64
    d_ff: int = 2048
    num_layers: int = 6
    #: of the decoder; None: as many as the encoder has
    num_decoder_layers: int | None = None
    num_heads: int = 8
    relative_attention_num_buckets: int = 32
    relative_attention_max_distance: int = 128
    dropout_rate: float = 0.1
    layer_norm_epsilon: float = 1e-6
    feed_forward_proj: str = "relu"
    tie_word_embeddings: bool = True
    #: scale the decoder's output by 1 / √d_model, as version 1.0 does; None: if embedding and output are tied
    scale_decoder_outputs: bool | None = None
    #: the weights have an output matrix
    has_output_matrix: bool = True
    pad_token_id: int | None = 0
    eos_token_id: int | list[int] | None = 1
    decoder_start_token_id: int | None = None

    ONLY = {"feed_forward_proj": (*ACTIVATIONS, *_GATED)}

    def is_scaled(self) -> bool:
        """Is the decoder's output scaled?"""
        return self.tie_word_embeddings if self.scale_decoder_outputs is None else self.scale_decoder_outputs

    def is_tied(self) -> bool:
        """Are embedding and output one matrix? Newer files of version 1.1 say so in any case."""
        return self.is_scaled() or not self.has_output_matrix


def relative_buckets(distance: np.ndarray, bidirectional: bool, buckets: int, max_distance: int) -> np.ndarray:
    """The bucket of each ``distance``, a key's position minus its query's: section 2.1 of the paper.

    Half of the buckets are for one distance each, the others for ranges that grow exponentially up to ``max_distance``,
    beyond which all are alike. In an encoder (``bidirectional``) either direction has half of all; in a decoder, what
    comes later counts as distance 0.
    """
    first = np.zeros_like(distance)
    if bidirectional:
        buckets //= 2
        first = np.where(distance > 0, buckets, 0)
        distance = np.abs(distance)
    else:
        distance = np.maximum(-distance, 0)
    exact = buckets // 2
    # in single precision, as the models were trained: it decides on which side of a boundary a distance is
    ratio = np.log(np.maximum(distance, 1).astype(np.float32) / np.float32(exact)) / math.log(max_distance / exact)
    far = exact + (ratio * (buckets - exact)).astype(np.int64)
    return first + np.where(distance < exact, distance, np.minimum(far, buckets - 1))


class Attention(Module):
    """Multi-head attention without scale or bias vectors; the first of a stack has the table of relative positions."""

    def __init__(self, config: T5Config, has_positions: bool = False) -> None:
        super().__init__()
        inner = config.num_heads * config.d_kv
        self.q = Linear(config.d_model, inner, bias=False)
        self.k = Linear(config.d_model, inner, bias=False)
        self.v = Linear(config.d_model, inner, bias=False)
        self.o = Linear(inner, config.d_model, bias=False)
        if has_positions:
            self.relative_attention_bias = Embedding(config.relative_attention_num_buckets, config.num_heads)
        self.config = config

    def position_bias(self, past: int, end: int, bidirectional: bool) -> Tensor:
        """What is added to the scores of the steps past..end for the keys 0..end: (1, heads, end - past, end)."""
        config = self.config
        distance = np.arange(end) - np.arange(past, end)[:, None]
        most = config.relative_attention_max_distance
        table = relative_buckets(distance, bidirectional, config.relative_attention_num_buckets, most)
        return ops.transpose(self.relative_attention_bias(table), axes=(2, 0, 1))[None]

    def keys_and_values(self, source: Tensor) -> tuple[Tensor, Tensor]:
        heads = self.config.num_heads
        return split_heads(self.k(source), heads), split_heads(self.v(source), heads)

    def forward(self, x: Tensor, k: Tensor, v: Tensor, mask: Any) -> Tensor:
        q = split_heads(self.q(x), self.config.num_heads)
        dropout = self.config.dropout_rate if self.training else 0.0
        return self.o(merge_heads(ops.scaled_dot_product_attention(q, k, v, mask, dropout_p=dropout, scale=1.0)))


@dataclasses.dataclass
class LayerCache:
    """What a layer of the decoder keeps: keys and values of its own steps, and of what the encoder read."""

    steps: KVCache = dataclasses.field(default_factory=KVCache)
    memory: tuple[Tensor, Tensor] | None = None


class SelfAttention(Module):
    """x + attention(norm(x))."""

    def __init__(self, config: T5Config, has_positions: bool) -> None:
        super().__init__()
        self.SelfAttention = Attention(config, has_positions)
        self.layer_norm = RMSNorm(config.d_model, eps=config.layer_norm_epsilon)
        self.dropout = Dropout(config.dropout_rate)

    def forward(self, x: Tensor, mask: Any, cache: LayerCache | None) -> Tensor:
        normed = self.layer_norm(x)
        k, v = self.SelfAttention.keys_and_values(normed)
        if cache is not None:
            k, v = cache.steps.update(k, v)
        return x + self.dropout(self.SelfAttention(normed, k, v, mask))


class CrossAttention(Module):
    """x + attention(norm(x)), which looks at what the encoder read."""

    def __init__(self, config: T5Config) -> None:
        super().__init__()
        self.EncDecAttention = Attention(config)
        self.layer_norm = RMSNorm(config.d_model, eps=config.layer_norm_epsilon)
        self.dropout = Dropout(config.dropout_rate)

    def forward(self, x: Tensor, memory: Tensor, mask: Any, cache: LayerCache | None) -> Tensor:
        found = None if cache is None else cache.memory
        if found is None:
            found = self.EncDecAttention.keys_and_values(memory)
        if cache is not None:
            cache.memory = found
        return x + self.dropout(self.EncDecAttention(self.layer_norm(x), *found, mask))


class DenseReluDense(Module):
    """Two linear layers with an activation in between; in version 1.1 with a gate: wo(f(wi_0 x) · wi_1 x)."""

    def __init__(self, config: T5Config) -> None:
        super().__init__()
        self.gated = config.feed_forward_proj in _GATED
        if self.gated:
            self.wi_0 = Linear(config.d_model, config.d_ff, bias=False)
            self.wi_1 = Linear(config.d_model, config.d_ff, bias=False)
        else:
            self.wi = Linear(config.d_model, config.d_ff, bias=False)
        self.wo = Linear(config.d_ff, config.d_model, bias=False)
        self.dropout = Dropout(config.dropout_rate)
        self.activation = ACTIVATIONS[_GATED.get(config.feed_forward_proj, config.feed_forward_proj)]

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.activation(self.wi_0(x)) * self.wi_1(x) if self.gated else self.activation(self.wi(x))
        return self.wo(self.dropout(hidden))


class FeedForward(Module):
    """x + MLP(norm(x))."""

    def __init__(self, config: T5Config) -> None:
        super().__init__()
        self.DenseReluDense = DenseReluDense(config)
        self.layer_norm = RMSNorm(config.d_model, eps=config.layer_norm_epsilon)
        self.dropout = Dropout(config.dropout_rate)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.dropout(self.DenseReluDense(self.layer_norm(x)))


class Block(Module):
    """Self-attention, in a decoder attention to what was read, and an MLP."""

    def __init__(self, config: T5Config, is_decoder: bool, has_positions: bool) -> None:
        super().__init__()
        layers: list[Module] = [SelfAttention(config, has_positions)]
        if is_decoder:
            layers.append(CrossAttention(config))
        self.layer = ModuleList([*layers, FeedForward(config)])

    def forward(self, x: Tensor, mask: Any, memory: Any, memory_mask: Any, cache: LayerCache | None) -> Tensor:
        attention, *cross, feed_forward = self.layer.children()
        x = attention(x, mask, cache)
        for layer in cross:
            x = layer(x, memory, memory_mask, cache)
        return feed_forward(x)


class Stack(Module):
    """The encoder or the decoder: token numbers (N, T) to vectors (N, T, d_model)."""

    def __init__(self, config: T5Config, embedding: Embedding, is_decoder: bool) -> None:
        super().__init__()
        layers = config.num_decoder_layers if is_decoder and config.num_decoder_layers else config.num_layers
        self.embed_tokens = embedding
        self.block = ModuleList(Block(config, is_decoder, has_positions=i == 0) for i in range(layers))
        self.final_layer_norm = RMSNorm(config.d_model, eps=config.layer_norm_epsilon)
        self.dropout = Dropout(config.dropout_rate)
        self.is_decoder = is_decoder

    def forward(
        self,
        input_ids: Any,
        attention_mask: Any = None,
        memory: Tensor | None = None,
        memory_mask: Any = None,
        caches: list[LayerCache] | None = None,
    ) -> Tensor:
        ids = check_ids(self, input_ids)
        past = len(caches[0].steps) if caches else 0
        end = past + ids.shape[1]
        blocks: list[Any] = list(self.block.children())
        mask = self._bias(blocks[0].layer[0].SelfAttention, past, end, attention_mask)
        x = self.dropout(self.embed_tokens(ids))
        for i, block in enumerate(blocks):
            x = block(x, mask, memory, visible_keys(memory_mask), caches[i] if caches else None)
        return self.dropout(self.final_layer_norm(x))

    def _bias(self, attention: Attention, past: int, end: int, attention_mask: Any) -> Tensor:
        """Relative positions' part of the scores, -inf where a step must not look: for all layers."""
        bias = attention.position_bias(past, end, bidirectional=not self.is_decoder)
        if self.is_decoder and end - past > 1:
            bias = ops.where(np.arange(end) <= np.arange(past, end)[:, None], bias, -np.inf)
        keys = visible_keys(attention_mask)
        return bias if keys is None else ops.where(keys, bias, -np.inf)


class T5Encoder(Module):
    """Token numbers (N, T) to a vector for each token, (N, T, d_model)."""

    def __init__(self, config: T5Config) -> None:
        super().__init__()
        self.shared = Embedding(config.vocab_size, config.d_model)
        self.encoder = Stack(config, self.shared, is_decoder=False)
        self.config = config

    def forward(self, input_ids: Any, attention_mask: Any = None) -> Tensor:
        return self.encoder(input_ids, attention_mask)


class T5(Module):
    """Token numbers to read (N, S) and those written so far (N, T) to scores for the next, (N, T, vocab_size).

    >>> import numpy as np
    >>> from minidl.models.t5 import T5, T5Config
    >>> model = T5(T5Config(vocab_size=50, d_model=8, d_kv=4, d_ff=16, num_layers=1, num_heads=2))
    >>> model(np.zeros((3, 5), np.int64), np.zeros((3, 2), np.int64)).shape
    (3, 2, 50)
    """

    def __init__(self, config: T5Config) -> None:
        super().__init__()
        self.shared = Embedding(config.vocab_size, config.d_model)
        self.encoder = Stack(config, self.shared, is_decoder=False)
        self.decoder = Stack(config, self.shared, is_decoder=True)
        self.lm_head = Linear(config.d_model, config.vocab_size, bias=False)
        if config.is_tied():
            self.lm_head.weight = self.shared.weight
        self.config = config

    def forward(
        self, input_ids: Any, decoder_input_ids: Any, attention_mask: Any = None, decoder_attention_mask: Any = None
    ) -> Tensor:
        """The masks (N, S) and (N, T) are nonzero for tokens and zero for padding. To learn to write ``labels``, give
        ``decoder_input_ids=model.shifted(labels)``."""
        memory = self.encoder(input_ids, attention_mask)
        return self.decode(decoder_input_ids, memory, attention_mask, decoder_attention_mask)

    def decode(
        self,
        decoder_input_ids: Any,
        memory: Tensor,
        attention_mask: Any = None,
        decoder_attention_mask: Any = None,
        caches: list[LayerCache] | None = None,
    ) -> Tensor:
        """Scores, given what the encoder made of the text, ``memory`` (N, S, d_model). With ``caches``
        (:meth:`new_caches`), ``decoder_input_ids`` continues what they hold."""
        x = self.decoder(decoder_input_ids, decoder_attention_mask, memory, attention_mask, caches)
        if self.config.is_scaled():
            x = x * self.config.d_model**-0.5
        return self.lm_head(x)

    def start_token(self) -> int:
        """What the decoder's input begins with: ``decoder_start_token_id``, else ``pad_token_id``."""
        start = self.config.decoder_start_token_id
        return (self.config.pad_token_id or 0) if start is None else start

    def shifted(self, labels: Any) -> np.ndarray:
        """``labels`` (N, T) one step later, after the token that starts; ignored ones (-100) become padding."""
        labels = to_numpy(as_tensor(labels).array)
        start = np.full((len(labels), 1), self.start_token(), labels.dtype)
        return np.concatenate([start, np.where(labels < 0, self.config.pad_token_id or 0, labels)[:, :-1]], axis=1)

    def new_caches(self) -> list[LayerCache]:
        """Empty caches, one per layer of the decoder."""
        return [LayerCache() for _ in self.decoder.block.children()]

    @no_grad()
    def generate(
        self,
        input_ids: Any,
        max_new_tokens: int,
        temperature: float = 1.0,
        top_k: int | None = None,
        generator: Generator | None = None,
        attention_mask: Any = None,
        stop: Collection[int] | None = None,
    ) -> Tensor:
        """The text written for ``input_ids`` (N, S): int64 (N, 1 + t) with t at most ``max_new_tokens``, the starting
        token first. Options as in :meth:`Llama.generate <minidl.models.Llama.generate>`; rows may be padded on either
        side.
        """
        was_training = self.training
        self.eval()
        try:
            memory, caches = self.encoder(input_ids, attention_mask), self.new_caches()
        finally:
            self.train(was_training)

        def scores(tokens: np.ndarray, new: np.ndarray) -> Tensor:
            return self.decode(new, memory, attention_mask, caches=caches)

        start = np.full((memory.shape[0], 1), self.start_token())
        if stop is None:
            stop = self.config.eos_tokens()
        return continue_tokens(self, start, max_new_tokens, scores, temperature, top_k, generator, stop)


def _family(name: str, defaults: Mapping[str, Any], **implied: Any) -> Family:
    return Family(
        T5Config,
        {f"{name}ForConditionalGeneration": T5, f"{name}EncoderModel": T5Encoder},
        defaults=defaults,
        implied=implied,
        seen=lambda names: {"has_output_matrix": "lm_head.weight" in names},
        # the first files have a table that no layer uses
        unused=(r"decoder\.block\.0\.layer\.1\.EncDecAttention\.relative_attention_bias\.", r"decoder\.", r"lm_head\."),
    )


FAMILIES = {
    "t5": _family("T5", {}),
    "mt5": _family("MT5", {"feed_forward_proj": "gated-gelu"}, scale_decoder_outputs=False),
}
