"""GPT: the decoder-only Transformer of GPT-2 (Radford et al. 2019), in the form of nanoGPT.

Learned positions, normalization before each sublayer, GELU, and one matrix for embedding and output. Parameters are
named and laid out as in nanoGPT's ``GPT`` class, so that its state_dicts load by name; :func:`from_huggingface` maps
those of Hugging Face's GPT-2.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from minidl import ops
from minidl.core.registry import to_numpy
from minidl.core.tensor import Tensor, as_tensor
from minidl.models.family import Config, Family
from minidl.models.sampling import continue_tokens
from minidl.nn import init
from minidl.nn.attention import KVCache
from minidl.nn.container import ModuleDict, ModuleList
from minidl.nn.dropout import Dropout
from minidl.nn.embedding import Embedding
from minidl.nn.linear import Linear
from minidl.nn.module import Module
from minidl.nn.normalization import LayerNorm
from minidl.random import Generator


@dataclasses.dataclass
class GPTConfig:
    """Sizes and options of a :class:`GPT`; the defaults are GPT-2 small's.

    ``gelu`` is ``"none"`` (exact, nanoGPT) or ``"tanh"`` (GPT-2's own weights). ``attention_block`` makes attention's
    memory linear in the length (:func:`minidl.ops.scaled_dot_product_attention`).
    """

    block_size: int = 1024
    vocab_size: int = 50257
    n_layer: int = 12
    n_head: int = 12
    n_embd: int = 768
    dropout: float = 0.0
    bias: bool = True
    gelu: str = "none"
    attention_block: int | None = None


class CausalSelfAttention(Module):
    """Every step attends to itself and the steps before it."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        if config.n_embd % config.n_head:
            raise ValueError(f"GPT: n_embd {config.n_embd} is not divisible by n_head {config.n_head}")
        self.c_attn = Linear(config.n_embd, 3 * config.n_embd, bias=config.bias)
        self.c_proj = Linear(config.n_embd, config.n_embd, bias=config.bias)
        self.resid_dropout = Dropout(config.dropout)
        self.config = config

    def forward(self, x: Tensor, cache: KVCache | None = None) -> Tensor:
        n, steps, width = x.shape
        heads = self.config.n_head
        qkv = ops.reshape(self.c_attn(x), shape=(n, steps, 3, heads, width // heads))
        q, k, v = (ops.swapaxes(a, 1, 2) for a in ops.unbind(qkv, axis=2))  # (N, heads, steps, width / heads)
        past = 0
        if cache is not None:
            past = len(cache)
            k, v = cache.update(k, v)
        mask = None
        if past and steps > 1:
            mask = np.arange(past + steps) <= np.arange(past, past + steps)[:, None]
        y = ops.scaled_dot_product_attention(
            q, k, v, mask, dropout_p=self.config.dropout if self.training else 0.0, is_causal=not past,
            block_size=self.config.attention_block,
        )  # fmt: skip
        y = ops.reshape(ops.swapaxes(y, 1, 2), shape=(n, steps, width))
        return self.resid_dropout(self.c_proj(y))


class MLP(Module):
    """Two linear layers with GELU in between, where the width is four times as large."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.c_fc = Linear(config.n_embd, 4 * config.n_embd, bias=config.bias)
        self.c_proj = Linear(4 * config.n_embd, config.n_embd, bias=config.bias)
        self.dropout = Dropout(config.dropout)
        self.gelu = config.gelu

    def forward(self, x: Tensor) -> Tensor:
        return self.dropout(self.c_proj(ops.gelu(self.c_fc(x), approximate=self.gelu)))


class Block(Module):
    """x + attention(norm(x)), then x + MLP(norm(x))."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.ln_1 = LayerNorm(config.n_embd, bias=config.bias)
        self.attn = CausalSelfAttention(config)
        self.ln_2 = LayerNorm(config.n_embd, bias=config.bias)
        self.mlp = MLP(config)

    def forward(self, x: Tensor, cache: KVCache | None = None) -> Tensor:
        x = x + self.attn(self.ln_1(x), cache)
        return x + self.mlp(self.ln_2(x))


class GPT(Module):
    """Token numbers (N, T) to scores for the next token, (N, T, vocab_size).

    ``GPT(GPTConfig(...))`` or ``GPT(n_layer=4, ...)``. Initial values are GPT-2's: normal with standard deviation
    0.02, divided by sqrt(2 · n_layer) for the projections that end a residual branch; zero biases.

    >>> import numpy as np
    >>> from minidl.models import GPT
    >>> model = GPT(n_layer=2, n_head=2, n_embd=16, block_size=8, vocab_size=65)
    >>> model(np.zeros((3, 8), np.int64)).shape
    (3, 8, 65)
    >>> model.generate(np.zeros((1, 1), np.int64), max_new_tokens=4).shape
    (1, 5)
    """

    def __init__(self, config: GPTConfig | None = None, **options: Any) -> None:
        super().__init__()
        self.config = config = dataclasses.replace(config or GPTConfig(), **options)
        token_embedding = Embedding(config.vocab_size, config.n_embd)
        self.transformer = ModuleDict(
            {
                "wte": token_embedding,
                "wpe": Embedding(config.block_size, config.n_embd),
                "drop": Dropout(config.dropout),
                "h": ModuleList(Block(config) for _ in range(config.n_layer)),
                "ln_f": LayerNorm(config.n_embd, bias=config.bias),
            }
        )
        self.lm_head = Linear(config.n_embd, config.vocab_size, bias=False)
        self.lm_head.weight = token_embedding.weight  # tied (Press & Wolf 2017)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw new initial values."""
        for name, p in self.named_parameters():
            if name.endswith("bias"):
                init.zeros_(p)
            elif p.ndim > 1:
                ends_branch = name.endswith("c_proj.weight")
                init.normal_(p, std=0.02 / math.sqrt(2 * self.config.n_layer) if ends_branch else 0.02)

    def forward(self, idx: Any, caches: list[KVCache] | None = None) -> Tensor:
        """Scores for int (N, T). With ``caches`` (:meth:`new_caches`), ``idx`` continues what they hold.

        Raises ValueError for more than ``block_size`` steps, IndexError for a token outside the vocabulary.
        """
        idx = as_tensor(idx)
        if idx.ndim != 2:
            raise ValueError(f"GPT: expected token numbers of shape (N, T), got {idx.shape}")
        past = len(caches[0]) if caches else 0
        end = past + idx.shape[1]
        if end > self.config.block_size:
            raise ValueError(f"GPT: a sequence of {end} steps is longer than block_size {self.config.block_size}")
        body = self.transformer
        x = body["drop"](body["wte"](idx) + body["wpe"](np.arange(past, end)))
        for i, block in enumerate(body["h"].children()):
            x = block(x, caches[i] if caches else None)
        return self.lm_head(body["ln_f"](x))

    def new_caches(self) -> list[KVCache]:
        """Empty caches of keys and values, one per layer."""
        return [KVCache() for _ in range(self.config.n_layer)]

    def generate(
        self,
        idx: Any,
        max_new_tokens: int,
        temperature: float = 1.0,
        top_k: int | None = None,
        generator: Generator | None = None,
    ) -> Tensor:
        """``idx`` (N, T), T > 0, continued by ``max_new_tokens`` sampled tokens: int64 (N, T + max_new_tokens).

        Within ``block_size`` each new token costs one step, thanks to cached keys and values; beyond it, positions
        shift with every token and the last ``block_size`` tokens are run again, as in nanoGPT. ``temperature`` 0 takes
        the most probable token; ``top_k`` samples among the k most probable. The model is in evaluation mode meanwhile.
        """
        size, caches = self.config.block_size, self.new_caches()

        def scores(tokens: np.ndarray, new: np.ndarray) -> Tensor:
            nonlocal caches
            if len(caches[0]) + new.shape[1] > size:
                caches, new = self.new_caches(), tokens[:, -size:]
            return self(new, caches)

        return continue_tokens(self, idx, max_new_tokens, scores, temperature, top_k, generator)


def from_huggingface(state_dict: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """A Hugging Face GPT-2 ``state_dict`` with the names and layouts of :class:`GPT` (use ``gelu="tanh"``).

    Its ``Conv1D`` weights are (in, out) and are transposed; masks stored as buffers are left out; names may lack the
    ``transformer.`` prefix.
    """
    result: dict[str, np.ndarray] = {}
    for name, value in state_dict.items():
        if name.endswith((".attn.bias", ".attn.masked_bias")):
            continue
        if not name.startswith(("transformer.", "lm_head.")):
            name = f"transformer.{name}"
        array = to_numpy(value.array) if isinstance(value, Tensor) else np.asarray(value)
        if name.endswith(("c_attn.weight", "c_proj.weight", "c_fc.weight")):
            array = array.T
        result[name] = array
    if "transformer.wte.weight" in result:
        result.setdefault("lm_head.weight", result["transformer.wte.weight"])
    return result


@dataclasses.dataclass
class GPT2Config(Config):
    """GPT-2's settings in Hugging Face's folders; the defaults are GPT-2 small's."""

    vocab_size: int = 50257
    n_positions: int = 1024
    n_embd: int = 768
    n_layer: int = 12
    n_head: int = 12
    resid_pdrop: float = 0.1
    activation_function: str = "gelu_new"

    ONLY = {
        "activation_function": ("gelu_new", "gelu_pytorch_tanh", "gelu"),
        "layer_norm_epsilon": (1e-5,),
        "scale_attn_weights": (True,),
        "scale_attn_by_inverse_layer_idx": (False,),
        "add_cross_attention": (False,),
        "tie_word_embeddings": (True,),
    }

    def layers(self) -> int:
        return self.n_layer


def from_config(config: GPT2Config) -> GPT:
    """The :class:`GPT` that a Hugging Face folder describes."""
    return GPT(
        block_size=config.n_positions, vocab_size=config.vocab_size, n_layer=config.n_layer, n_head=config.n_head,
        n_embd=config.n_embd, dropout=config.resid_pdrop,
        gelu="none" if config.activation_function == "gelu" else "tanh",
    )  # fmt: skip


FAMILIES = {
    "gpt2": Family(
        GPT2Config,
        {"GPT2LMHeadModel": from_config, "GPT2Model": from_config},
        prefix="transformer.",
        unused=(r".*\.attn\.(masked_)?bias$",),
        convert=lambda name, array: from_huggingface({name: array})[name],
    )
}
