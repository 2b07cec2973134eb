"""Llama and its relatives Mistral, Qwen2 and Qwen3: decoder-only Transformers, with Hugging Face's names.

Touvron et al., "LLaMA: Open and Efficient Foundation Language Models", 2023. Against GPT-2 it has RMSNorm (Zhang and
Sennrich, 2019) for LayerNorm, rotary positions (Su et al., 2021) for learned ones, SwiGLU (Shazeer, 2020) for GELU,
and, since Llama 2, queries in groups that share keys and values (Ainslie et al., 2023). Mistral (Jiang et al., 2023)
looks back over a window only, Qwen2 has biases in three projections, Qwen3 normalizes queries and keys.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from minidl import ops
from minidl.core.registry import to_numpy
from minidl.core.tensor import Tensor, as_tensor
from minidl.models.family import ACTIVATIONS, Config, Family, check_ids, merge_heads, split_heads, visible_keys
from minidl.models.sampling import continue_tokens
from minidl.nn.attention import KVCache
from minidl.nn.container import ModuleDict, ModuleList
from minidl.nn.embedding import Embedding
from minidl.nn.linear import Linear
from minidl.nn.module import Module
from minidl.nn.normalization import RMSNorm
from minidl.nn.positional import apply_rotary
from minidl.random import Generator


@dataclasses.dataclass
class LlamaConfig(Config):
    """Sizes and options of a :class:`Llama`; the defaults are those of the first, with 7 billion parameters."""

    vocab_size: int = 32000
    hidden_size: int = 4096
    intermediate_size: int = 11008
    num_hidden_layers: int = 32
    num_attention_heads: int = 32
    #: heads of keys and values, each for a group of queries; None: as many as for queries
    num_key_value_heads: int | None = None
    #: width of a head; None: hidden_size / num_attention_heads
    head_dim: int | None = None
    hidden_act: str = "silu"
    rms_norm_eps: float = 1e-6
    attention_dropout: float = 0.0
    #: biases of all four projections of attention, of those of queries, keys and values alone (Qwen2), of the MLP
    attention_bias: bool = False
    qkv_bias: bool = False
    mlp_bias: bool = False
    #: normalize each head's queries and keys (Qwen3)
    qk_norm: bool = False
    #: see this many tokens, the present one included; None: all (Mistral)
    sliding_window: int | None = None
    tie_word_embeddings: bool = False
    rope_theta: float = 10000.0
    rope_scaling: dict | None = None
    #: the two above in the spelling of newer files: rope_theta and the scaling's settings in one
    rope_parameters: dict | None = None
    eos_token_id: int | list[int] | None = None

    ONLY = {
        "hidden_act": tuple(ACTIVATIONS),
        "use_sliding_window": (False, None),
        "partial_rotary_factor": (1, None),
    }

    def frequencies(self) -> np.ndarray:
        """The angle by which each pair of a head's features turns from one position to the next, float32.

        1 / rope_theta^(2i/width), and for contexts longer than trained on ``rope_scaling`` slows some of them down.
        Raises ValueError for a scaling that is not known.
        """
        rope = self.rope_parameters or {"rope_theta": self.rope_theta, **(self.rope_scaling or {})}
        kind = rope.get("rope_type", rope.get("type", "default"))
        width = self.head_dim or self.hidden_size // self.num_attention_heads
        theta = _number(rope, "rope_theta")
        frequency = (1.0 / theta ** (np.arange(0, width, 2, dtype=np.float32) / np.float32(width))).astype(np.float32)
        if kind == "default":
            return frequency
        if kind == "linear":
            return frequency / np.float32(_number(rope, "factor"))
        if kind == "llama3":
            return _slowed(frequency, rope)
        raise ValueError(f"rope_scaling of type {kind!r:.60}; known are default, linear and llama3")


def _number(rope: Mapping[str, Any], name: str) -> float:
    value = rope.get(name)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < math.inf:
        raise ValueError(f"rope_scaling: {name} is {value!r:.60}, expected a positive number")
    return value


def _slowed(frequency: np.ndarray, rope: Mapping[str, Any]) -> np.ndarray:
    """Llama 3.1's scaling. Waves longer than the text trained on over ``low_freq_factor`` are made ``factor`` times
    longer, those shorter than it over ``high_freq_factor`` stay, and in between it is a mixture."""
    length, factor = _number(rope, "original_max_position_embeddings"), _number(rope, "factor")
    low, high = _number(rope, "low_freq_factor"), _number(rope, "high_freq_factor")
    if low >= high:
        raise ValueError(f"rope_scaling: low_freq_factor {low} must be less than high_freq_factor {high}")
    waves = length * frequency / (2 * math.pi)  # how often each wave fits into the text trained on
    stays = np.clip((waves - low) / (high - low), 0, 1)
    return ((1 - stays) * frequency / factor + stays * frequency).astype(np.float32)


class Attention(Module):
    """Every token attends to itself and those before it; positions are in the rotation of queries and keys."""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        heads, kv_heads = config.num_attention_heads, config.num_key_value_heads or config.num_attention_heads
        if heads % kv_heads or (config.head_dim is None and config.hidden_size % heads):
            raise ValueError(
                f"Llama: num_attention_heads {heads} must divide hidden_size {config.hidden_size} and be divisible by "
                f"num_key_value_heads {kv_heads}"
            )
        head_dim = config.head_dim or config.hidden_size // heads
        bias = config.attention_bias or config.qkv_bias
        self.q_proj = Linear(config.hidden_size, heads * head_dim, bias=bias)
        self.k_proj = Linear(config.hidden_size, kv_heads * head_dim, bias=bias)
        self.v_proj = Linear(config.hidden_size, kv_heads * head_dim, bias=bias)
        self.o_proj = Linear(heads * head_dim, config.hidden_size, bias=config.attention_bias)
        if config.qk_norm:
            self.q_norm = RMSNorm(head_dim, eps=config.rms_norm_eps)
            self.k_norm = RMSNorm(head_dim, eps=config.rms_norm_eps)
        self.heads, self.kv_heads = heads, kv_heads
        self.config = config

    def forward(self, x: Tensor, rotation: tuple[Tensor, Tensor], mask: Any, cache: KVCache | None) -> Tensor:
        q, k = split_heads(self.q_proj(x), self.heads), split_heads(self.k_proj(x), self.kv_heads)
        v = split_heads(self.v_proj(x), self.kv_heads)
        if self.config.qk_norm:
            q, k = self.q_norm(q), self.k_norm(k)
        q, k = (apply_rotary(a, *rotation, interleaved=False) for a in (q, k))
        if cache is not None:
            k, v = cache.update(k, v)
        dropout = self.config.attention_dropout if self.training else 0.0
        y = ops.scaled_dot_product_attention(
            q, k, v, mask, dropout_p=dropout, is_causal=mask is None, enable_gqa=self.kv_heads != self.heads
        )
        return self.o_proj(merge_heads(y))


class MLP(Module):
    """SwiGLU: down(silu(gate(x)) · up(x))."""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        width, wide, bias = config.hidden_size, config.intermediate_size, config.mlp_bias
        self.gate_proj = Linear(width, wide, bias=bias)
        self.up_proj = Linear(width, wide, bias=bias)
        self.down_proj = Linear(wide, width, bias=bias)
        self.activation = ACTIVATIONS[config.hidden_act]

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(self.activation(self.gate_proj(x)) * self.up_proj(x))


class Layer(Module):
    """x + attention(norm(x)), then x + MLP(norm(x))."""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.self_attn = Attention(config)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.mlp = MLP(config)

    def forward(self, x: Tensor, rotation: tuple[Tensor, Tensor], mask: Any, cache: KVCache | None) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), rotation, mask, cache)
        return x + self.mlp(self.post_attention_layernorm(x))


class Llama(Module):
    """Token numbers (N, T) to scores for the next token, (N, T, vocab_size).

    >>> import numpy as np
    >>> from minidl.models.llama import Llama, LlamaConfig
    >>> model = Llama(LlamaConfig(vocab_size=50, hidden_size=8, intermediate_size=16, num_hidden_layers=1,
    ...                           num_attention_heads=4, num_key_value_heads=2))
    >>> model.generate(np.zeros((1, 3), np.int64), max_new_tokens=4).shape
    (1, 7)
    """

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        embedding = Embedding(config.vocab_size, config.hidden_size)
        self.model = ModuleDict(
            {
                "embed_tokens": embedding,
                "layers": ModuleList(Layer(config) for _ in range(config.num_hidden_layers)),
                "norm": RMSNorm(config.hidden_size, eps=config.rms_norm_eps),
            }
        )
        self.lm_head = Linear(config.hidden_size, config.vocab_size, bias=False)
        if config.tie_word_embeddings:
            self.lm_head.weight = embedding.weight
        self.frequencies = config.frequencies()
        self.config = config

    def forward(self, input_ids: Any, attention_mask: Any = None, caches: list[KVCache] | None = None) -> Tensor:
        """Scores for int (N, T). With ``caches`` (:meth:`new_caches`), ``input_ids`` continues what they hold.

        ``attention_mask`` (N, S), for all S tokens with those in the caches, is nonzero for tokens and zero for
        padding, which takes no position. Scores at padding mean nothing.
        """
        ids = check_ids(self, input_ids)
        past = len(caches[0]) if caches else 0
        end = past + ids.shape[1]
        x = self.model["embed_tokens"](ids)
        rotation = self._rotation(past, end, attention_mask, x.dtype)
        mask = self._mask(past, end, attention_mask)
        for i, layer in enumerate(self.model["layers"].children()):
            x = layer(x, rotation, mask, caches[i] if caches else None)
        return self.lm_head(self.model["norm"](x))

    def _rotation(self, past: int, end: int, attention_mask: Any, dtype: Any) -> tuple[Tensor, Tensor]:
        """Cosines and sines for the steps past..end: (T, head_dim / 2), or with a mask (N, 1, T, head_dim / 2)."""
        if attention_mask is None:
            angle = as_tensor(np.arange(past, end, dtype=np.float32)[:, None] * self.frequencies)
        else:
            seen = ops.astype(as_tensor(attention_mask) != 0, dtype=np.int64)
            position = ops.maximum(ops.cumsum(seen, axis=1) - 1, 0)[:, past:]
            angle = ops.astype(position, dtype=np.float32)[:, None, :, None] * self.frequencies
        return ops.astype(ops.cos(angle), dtype=dtype), ops.astype(ops.sin(angle), dtype=dtype)

    def _mask(self, past: int, end: int, attention_mask: Any) -> Any:
        """What the steps past..end may see of the steps 0..end, or None: all that came before."""
        window = self.config.sliding_window
        if attention_mask is None and not past and (window is None or end <= window):
            return None
        query, key = np.arange(past, end)[:, None], np.arange(end)
        mask = key <= query
        if window is not None:
            mask &= key > query - window
        keys = visible_keys(attention_mask)
        return as_tensor(mask) if keys is None else keys & mask

    def new_caches(self) -> list[KVCache]:
        """Empty caches of keys and values, one per layer."""
        return [KVCache() for _ in range(self.config.num_hidden_layers)]

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
        """``input_ids`` (N, T), T > 0, continued by at most ``max_new_tokens`` sampled tokens: int64 (N, T + t).

        Each costs one step, thanks to cached keys and values. ``temperature`` 0 takes the most probable token;
        ``top_k`` samples among the k most probable. Texts of different lengths are padded on the left, and
        ``attention_mask`` (N, T) is zero there. A row ends with a token of ``stop`` (default: the configuration's
        ``eos_token_id``), which then fills it up. The model is in evaluation mode meanwhile.
        """
        caches = self.new_caches()
        given = None if attention_mask is None else to_numpy(as_tensor(attention_mask).array) != 0

        def scores(tokens: np.ndarray, new: np.ndarray) -> Tensor:
            if given is None:
                return self(new, caches=caches)
            later = np.ones((len(tokens), tokens.shape[1] - given.shape[1]), np.bool_)
            return self(new, np.concatenate([given, later], axis=1), caches)

        if stop is None:
            stop = self.config.eos_tokens()
        return continue_tokens(self, input_ids, max_new_tokens, scores, temperature, top_k, generator, stop)


def _family(name: str, **implied: Any) -> Family:
    return Family(
        LlamaConfig,
        {f"{name}ForCausalLM": Llama},
        implied=implied,
        prefix="model.",
        unused=(r".*\.rotary_emb\.inv_freq$",),
    )


FAMILIES = {
    "llama": _family("Llama"),
    "mistral": dataclasses.replace(_family("Mistral"), defaults={"num_key_value_heads": 8, "sliding_window": 4096}),
    # their window is for layers that use_sliding_window turns on
    "qwen2": _family("Qwen2", qkv_bias=True, sliding_window=None),
    "qwen3": _family("Qwen3", qk_norm=True, sliding_window=None),
}
