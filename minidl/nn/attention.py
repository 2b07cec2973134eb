"""Multi-head attention, and the cache of keys and values for decoding step by step."""

from __future__ import annotations

from typing import Any

import numpy as np

from minidl import ops
from minidl.core.context import is_grad_enabled
from minidl.core.dtypes import default_dtype
from minidl.core.registry import backend_of
from minidl.core.tensor import Tensor, as_tensor
from minidl.nn import init
from minidl.nn.linear import Linear
from minidl.nn.module import Module, Parameter, check_sizes
from minidl.ops.attention import scaled_dot_product_attention
from minidl.ops.linear import linear


class KVCache:
    """The keys and values of the steps so far, of one attention layer: (N, heads, steps, width).

    ``update`` appends and returns all of them, so that a new step costs one row of attention. For inference only:
    appending values that record gradients raises RuntimeError. The capacity doubles when it runs out.
    """

    def __init__(self, capacity: int = 64) -> None:
        self.capacity = capacity
        self.length = 0
        self._k: Tensor | None = None
        self._v: Tensor | None = None

    def __len__(self) -> int:
        return self.length

    def update(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Append ``k`` (N, heads, t, E) and ``v`` (N, heads, t, Ev); returns all keys and values."""
        if is_grad_enabled() and (k.requires_grad or v.requires_grad):
            raise RuntimeError("KVCache.update: the cache is for inference; call the model under no_grad()")
        end = self.length + k.shape[-2]
        self._k, self._v = self._store(self._k, k, end), self._store(self._v, v, end)
        self.length = end
        return self._k[..., :end, :], self._v[..., :end, :]

    def _store(self, buffer: Tensor | None, new: Tensor, end: int) -> Tensor:
        if buffer is not None and (buffer.shape[:-2], buffer.shape[-1]) != (new.shape[:-2], new.shape[-1]):
            raise ValueError(f"KVCache.update: shape {new.shape} does not continue the cached {buffer.shape}")
        if buffer is None or end > buffer.shape[-2]:
            room = max(self.capacity, end if buffer is None else max(end, 2 * buffer.shape[-2]))
            xp = backend_of(new.array).xp
            larger = as_tensor(xp.zeros((*new.shape[:-2], room, new.shape[-1]), new.dtype))
            if buffer is not None:
                larger[..., : self.length, :] = buffer[..., : self.length, :]
            buffer = larger
        buffer[..., self.length : end, :] = new
        return buffer

    def reset(self) -> None:
        """Forget all steps but keep the memory."""
        self.length = 0


class MultiheadAttention(Module):
    """Several attentions side by side, each on its own projection of the inputs (Vaswani et al. 2017, section 3.2.2).

    Parameters
    ----------
    embed_dim, num_heads:
        width of queries and output, and the number of heads it is divided among.
    dropout:
        probability of dropping an attention weight, in training.
    bias:
        add biases in the projections.
    add_bias_kv:
        one learned key and value more, ``bias_k`` and ``bias_v`` (1, 1, E), which no mask hides.
    add_zero_attn:
        one key and value of zeros more, which no mask hides.
    kdim, vdim:
        widths of keys and values, default ``embed_dim``.
    batch_first:
        inputs are (N, L, E), not (L, N, E).
    num_kv_heads:
        grouped-query attention (Ainslie et al. 2023): fewer heads for keys and values, a divisor of ``num_heads``.
    rotary:
        a :class:`~minidl.nn.RotaryEmbedding` of width embed_dim / num_heads, applied to queries and keys.
    block_size:
        attend in blocks, with memory linear in the length (:func:`minidl.ops.scaled_dot_product_attention`).

    Parameters are named and laid out as in PyTorch's MultiheadAttention: ``in_proj_weight`` (queries, keys and values
    stacked along the first axis), or ``q_proj_weight``, ``k_proj_weight``, ``v_proj_weight`` where widths differ;
    ``in_proj_bias``, ``out_proj.weight``, ``out_proj.bias``.
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        dropout: float = 0.0,
        bias: bool = True,
        add_bias_kv: bool = False,
        add_zero_attn: bool = False,
        kdim: int | None = None,
        vdim: int | None = None,
        batch_first: bool = False,
        *,
        num_kv_heads: int | None = None,
        rotary: Module | None = None,
        block_size: int | None = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        check_sizes(self, least=1, embed_dim=embed_dim, num_heads=num_heads)
        self.embed_dim = embed_dim
        self.num_heads = num_heads
        self.num_kv_heads = num_kv_heads or num_heads
        self.kdim = kdim or embed_dim
        self.vdim = vdim or embed_dim
        if embed_dim % num_heads or num_heads % self.num_kv_heads:
            raise ValueError(
                f"MultiheadAttention: embed_dim {embed_dim} must be divisible by num_heads {num_heads}, and that by "
                f"num_kv_heads {self.num_kv_heads}"
            )
        self.head_dim = embed_dim // num_heads
        self.dropout = dropout
        self.batch_first = batch_first
        self.rotary = rotary
        self.block_size = block_size
        kv_dim = self.num_kv_heads * self.head_dim
        dtype = dtype or default_dtype()
        self.in_proj_weight: Parameter | None = None
        if self.kdim == self.vdim == embed_dim:
            self.in_proj_weight = Parameter(np.empty((embed_dim + 2 * kv_dim, embed_dim), dtype))
        else:
            self.q_proj_weight = Parameter(np.empty((embed_dim, embed_dim), dtype))
            self.k_proj_weight = Parameter(np.empty((kv_dim, self.kdim), dtype))
            self.v_proj_weight = Parameter(np.empty((kv_dim, self.vdim), dtype))
        self.in_proj_bias = Parameter(np.empty(embed_dim + 2 * kv_dim, dtype)) if bias else None
        self.bias_k = Parameter(np.empty((1, 1, kv_dim), dtype)) if add_bias_kv else None
        self.bias_v = Parameter(np.empty((1, 1, kv_dim), dtype)) if add_bias_kv else None
        self.add_zero_attn = add_zero_attn
        self.out_proj = Linear(embed_dim, embed_dim, bias=bias, dtype=dtype)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw new initial values: Xavier-uniform input projections and zero biases, as in PyTorch."""
        for name in ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight"):
            if self.__dict__.get(name) is not None:
                init.xavier_uniform_(getattr(self, name))
        self.out_proj.reset_parameters()
        for bias in (self.in_proj_bias, self.out_proj.bias):
            if bias is not None:
                init.zeros_(bias)
        for row in (self.bias_k, self.bias_v):
            if row is not None:
                init.xavier_normal_(row)

    def _project(self, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        sizes = [self.embed_dim] + [self.num_kv_heads * self.head_dim] * 2
        if self.in_proj_weight is not None and query is key and key is value:
            qkv = linear(query, self.in_proj_weight, self.in_proj_bias)
            if self.num_kv_heads == self.num_heads:
                return ops.unbind(ops.reshape(qkv, shape=(*qkv.shape[:2], 3, self.embed_dim)), axis=2)
            return ops.split(qkv, sizes, axis=-1)
        if self.in_proj_weight is not None:
            weights = ops.split(self.in_proj_weight, sizes, axis=0)
        else:
            weights = (self.q_proj_weight, self.k_proj_weight, self.v_proj_weight)
        biases = (None,) * 3 if self.in_proj_bias is None else ops.split(self.in_proj_bias, sizes, axis=0)
        return tuple(linear(x, w, b) for x, w, b in zip((query, key, value), weights, biases))

    def _heads(self, x: Tensor) -> Tensor:
        """(N, L, heads · head_dim) -> (N, heads, L, head_dim)."""
        n, length, width = x.shape
        return ops.swapaxes(ops.reshape(x, shape=(n, length, width // self.head_dim, self.head_dim)), 1, 2)

    def _more_keys(self, x: Tensor, bias: Parameter | None) -> Tensor:
        """Keys or values (N, heads, S, head_dim) with those that ``add_bias_kv`` and ``add_zero_attn`` ask for."""
        shape = (*x.shape[:2], 1, self.head_dim)
        more = []
        if bias is not None:
            more.append(ops.expand(ops.reshape(bias, shape=(1, shape[1], 1, self.head_dim)), shape))
        if self.add_zero_attn:
            more.append(as_tensor(backend_of(x.array).xp.zeros(shape, x.dtype)))
        return ops.concatenate([x, *more], axis=2) if more else x

    def _mask(self, key_padding_mask: Any, attn_mask: Any, n: int, dtype: Any) -> Any:
        """PyTorch's two masks as one for scaled_dot_product_attention (there, True means take part)."""
        masks = []
        if attn_mask is not None:
            m = as_tensor(attn_mask)
            if m.ndim == 3:
                m = ops.reshape(m, shape=(n, self.num_heads, *m.shape[1:]))
            elif m.ndim != 2:
                raise ValueError(
                    f"MultiheadAttention: expected attn_mask of shape (L, S) or (N * num_heads, L, S), got {m.shape}"
                )
            masks.append(m)
        if key_padding_mask is not None:
            m = as_tensor(key_padding_mask)
            m = ops.unsqueeze(m, axis=0) if m.ndim == 1 else m
            masks.append(ops.reshape(m, shape=(m.shape[0], 1, 1, m.shape[1])))
        if not masks:
            return None
        if all(m.dtype.kind == "b" for m in masks):
            hidden = masks[0] if len(masks) == 1 else masks[0] | masks[1]
            return ~hidden
        total = None
        for m in masks:
            if m.dtype.kind == "b":
                m = ops.where(m, -np.inf, ops.astype(ops.zeros_like(m), dtype=dtype))
            total = m if total is None else total + m
        return total

    def forward(
        self,
        query: Any,
        key: Any = None,
        value: Any = None,
        key_padding_mask: Any = None,
        need_weights: bool = True,
        attn_mask: Any = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
        cache: KVCache | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """Attend from ``query`` (N, L, E) to ``key`` (N, S, kdim) and ``value`` (N, S, vdim), which default to it.

        (Unless ``batch_first``, (L, N, E) and so on; a single sequence has no batch axis.)

        Masks mean what they mean in PyTorch's class of this name: in ``key_padding_mask`` (N, S) and ``attn_mask``
        (L, S) or (N · num_heads, L, S), True *hides* a key, and floating-point values are added to the scores.
        ``is_causal`` needs no ``attn_mask`` to hide later keys. Where all keys are hidden, attention gives zeros
        (PyTorch: NaN).

        Returns (output, weights). The weights are (N, L, S), averaged over heads, or (N, num_heads, L, S) with
        ``average_attn_weights=False``; with ``need_weights=False``, which is faster, they are None. With a ``cache``,
        keys and values are appended to it, and the queries are its last steps.
        """
        query = as_tensor(query)
        key = query if key is None else as_tensor(key)
        value = key if value is None else as_tensor(value)
        q, k, v = self._batched(query, key, value)
        single = query.ndim == 2
        q, k, v = (self._heads(x) for x in self._project(q, k, v))
        past = 0 if cache is None else len(cache)
        if self.rotary is not None:
            q, k = self.rotary(q, past), self.rotary(k, past)
        if cache is not None:
            k, v = cache.update(k, v)
        n, _, length, _ = q.shape
        mask = self._mask(key_padding_mask, attn_mask, n, q.dtype)
        if is_causal and past and length > 1:
            # aligned at the last key: the queries come after the cached steps
            later = np.arange(k.shape[2]) > np.arange(past, past + length)[:, None]
            mask = self._mask(None, later, n, q.dtype) if mask is None else _both(mask, ~later)
        causal = is_causal and not past
        more = (self.bias_k is not None) + self.add_zero_attn
        if more:
            if cache is not None:
                raise ValueError("MultiheadAttention: a cache does not go with add_bias_kv or add_zero_attn")
            if causal:
                earlier = np.tril(np.ones((length, k.shape[2]), bool))
                mask, causal = as_tensor(earlier) if mask is None else _both(mask, earlier), False
            k, v = self._more_keys(k, self.bias_k), self._more_keys(v, self.bias_v)
            if mask is not None:
                mask = ops.pad(mask, (0, more), value=1 if mask.dtype.kind == "b" else 0.0)
        options = {
            "attn_mask": mask,
            "dropout_p": self.dropout if self.training else 0.0,
            "is_causal": causal,
            "enable_gqa": self.num_kv_heads != self.num_heads,
        }
        weights = None
        if need_weights:
            # attention applied to the identity gives the weights themselves
            eye = as_tensor(backend_of(k.array).xp.eye(k.shape[2], dtype=k.dtype))
            weights = scaled_dot_product_attention(q, k, ops.expand(eye, (*k.shape[:2], *eye.shape)), **options)
            if self.num_kv_heads != self.num_heads:
                v = ops.repeat_interleave(v, self.num_heads // self.num_kv_heads, axis=1)
            heads = weights @ v
            weights = weights.mean(axis=1) if average_attn_weights else weights
        else:
            heads = scaled_dot_product_attention(q, k, v, block_size=self.block_size, **options)
        out = self.out_proj(ops.reshape(ops.swapaxes(heads, 1, 2), shape=(n, length, self.embed_dim)))
        if single:
            return out[0], None if weights is None else weights[0]
        return (out if self.batch_first else ops.swapaxes(out, 0, 1)), weights

    def _batched(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """The inputs as (N, L, E). Inputs that are one object stay one object, so that one product can project them."""
        found: dict[int, Tensor] = {}
        for x, width in zip(inputs, (self.embed_dim, self.kdim, self.vdim)):
            if x.ndim not in (2, 3) or x.ndim != inputs[0].ndim or x.shape[-1] != width:
                raise ValueError(
                    f"MultiheadAttention: expected query, key, value of widths {self.embed_dim}, {self.kdim}, "
                    f"{self.vdim} with 3 axes (or 2) each, got shapes {[i.shape for i in inputs]}"
                )
            if id(x) not in found:
                found[id(x)] = (
                    ops.unsqueeze(x, axis=0) if x.ndim == 2 else x if self.batch_first else ops.swapaxes(x, 0, 1)
                )
        return tuple(found[id(x)] for x in inputs)

    def extra_repr(self) -> str:
        kv = "" if self.num_kv_heads == self.num_heads else f", num_kv_heads={self.num_kv_heads}"
        return f"{self.embed_dim}, {self.num_heads}{kv}, batch_first={self.batch_first}"


def _both(mask: Any, allowed: np.ndarray) -> Any:
    """A mask that also hides what ``allowed`` does not allow."""
    return mask & allowed if mask.dtype.kind == "b" else ops.where(allowed, mask, -np.inf)
