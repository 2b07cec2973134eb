"""Attention."""

from __future__ import annotations

from typing import Any

import numpy as np

from minidl import ops
from minidl.keras.engine import Layer
from minidl.keras.layers.core import without_penalties


def _weighted(scores: Any, value: Any, allowed: Any, rate: float, training: bool | None) -> tuple[Any, Any]:
    """(softmax(scores) value, the weights); where ``allowed`` is False the weight is 0."""
    if allowed is not None:
        scores = ops.where(allowed, scores, np.float32(-1e9))
    weights = ops.softmax(scores, axis=-1)
    return ops.matmul(ops.dropout(weights, rate, bool(training)) if rate else weights, value), weights


def _allowed(mask: Any, query: Any, key: Any, causal: bool) -> Any:
    """Which key each query may see, (N, queries, keys), from the masks [query, value, key] and causality."""
    found = None
    if mask is not None:
        kept = mask[2] if len(mask) > 2 and mask[2] is not None else mask[1] if len(mask) > 1 else None
        found = None if kept is None else ops.astype(kept, dtype="bool")[:, None, :]
    if causal:
        below = np.tril(np.ones((query.shape[1], key.shape[1]), bool))[None]
        found = below if found is None else ops.logical_and(found, below)
    return found


class _PlainAttention(Layer):
    """softmax(scores(query, key)) value; inputs [query, value] or [query, value, key]."""

    def __init__(self, dropout: float = 0.0, seed: Any = None, **options: Any) -> None:
        super().__init__(**options)
        self.dropout = dropout

    def call(
        self, inputs: Any, mask: Any = None, training: bool | None = None, return_attention_scores: bool = False,
        use_causal_mask: bool = False,
    ) -> Any:  # fmt: skip
        query, value, *key = inputs
        key = key[0] if key else value
        allowed = _allowed(mask, query, key, use_causal_mask)
        out, weights = _weighted(self.scores(query, key), value, allowed, self.dropout, training)
        if mask is not None and mask[0] is not None:
            out = out * ops.astype(mask[0], dtype=out.dtype)[..., None]
        return (out, weights) if return_attention_scores else out

    def scores(self, query: Any, key: Any) -> Any:
        raise NotImplementedError

    def compute_mask(self, inputs: Any, mask: Any) -> Any:
        return mask[0] if mask else None


class Attention(_PlainAttention):
    """Luong's dot-product attention; ``score_mode`` "dot" or "concat"."""

    def __init__(self, use_scale: bool = False, score_mode: str = "dot", dropout: float = 0.0, **options: Any) -> None:
        super().__init__(dropout, **options)
        self.use_scale, self.score_mode = use_scale, score_mode

    def build(self, input_shape: Any) -> None:
        if self.use_scale:
            self.add_weight((), "ones", "scale")
        if self.score_mode == "concat":
            self.add_weight((), "ones", "concat_score_weight")

    def scores(self, query: Any, key: Any) -> Any:
        scale = self.scale if self.use_scale else 1.0
        if self.score_mode == "dot":
            return ops.matmul(query, ops.swapaxes(key, 1, 2)) * scale
        both = ops.tanh(scale * (query[:, :, None] + key[:, None]))
        return self.concat_score_weight * ops.sum(both, axis=-1)


class AdditiveAttention(_PlainAttention):
    """Bahdanau's attention: sum(scale * tanh(query + key))."""

    def __init__(self, use_scale: bool = True, dropout: float = 0.0, **options: Any) -> None:
        super().__init__(dropout, **options)
        self.use_scale = use_scale

    def build(self, input_shape: Any) -> None:
        if self.use_scale:
            self.add_weight((input_shape[0][-1],), "glorot_uniform", "scale")

    def scores(self, query: Any, key: Any) -> Any:
        both = ops.tanh(query[:, :, None] + key[:, None])
        return ops.sum(self.scale * both if self.use_scale else both, axis=-1)


class Projection(Layer):
    """x (N, T, D) by a kernel (D, heads, size) to (N, heads, T, size); for the output, (heads, size, D) and back."""

    def __init__(self, shape: tuple[int, ...], bias_shape: tuple[int, ...] | None, initializer: Any) -> None:
        super().__init__()
        self.add_weight(shape, initializer, "kernel")
        if bias_shape is not None:
            self.add_weight(bias_shape, "zeros", "bias")
        self.use_bias, self.built = bias_shape is not None, True

    def call(self, x: Any) -> Any:
        y = ops.einsum("ntd,dhk->nthk", x, self.kernel)
        return ops.swapaxes(y + self.bias if self.use_bias else y, 1, 2)

    def merged(self, x: Any) -> Any:
        y = ops.einsum("nhtk,hkd->ntd", x, self.kernel)
        return y + self.bias if self.use_bias else y


class MultiHeadAttention(Layer):
    """Multi-head attention (Vaswani et al. 2017): ``layer(query, value)`` or ``layer(query, value, key)``."""

    supports_masking = True

    def __init__(
        self, num_heads: int, key_dim: int, value_dim: int | None = None, dropout: float = 0.0, use_bias: bool = True,
        output_shape: Any = None, attention_axes: Any = None, flash_attention: Any = None, use_gate: bool = False,
        kernel_initializer: Any = "glorot_uniform", bias_initializer: Any = "zeros", seed: Any = None,
        sliding_window: Any = None,
        query_shape: Any = None, value_shape: Any = None, key_shape: Any = None, **options: Any,
    ) -> None:  # fmt: skip
        super().__init__(**without_penalties(self, options))
        if attention_axes not in (None, [1], (1,)) or use_gate or sliding_window:
            raise NotImplementedError("MultiHeadAttention: attention_axes, use_gate and sliding_window")
        self.num_heads, self.key_dim, self.value_dim = num_heads, key_dim, value_dim or key_dim
        self.dropout, self.use_bias = dropout, use_bias
        self.out = output_shape if output_shape is None or isinstance(output_shape, int) else output_shape[0]
        self.kernel_initializer = kernel_initializer

    def build_from(self, query: Any, value: Any, key: Any) -> None:
        heads, size, out = self.num_heads, self.key_dim, self.out or query[-1]
        bias = lambda *shape: shape if self.use_bias else None
        make = lambda shape, bias: Projection(shape, bias, self.kernel_initializer)
        self.query_dense = make((query[-1], heads, size), bias(heads, size))
        self.key_dense = make((key[-1], heads, size), bias(heads, size))
        self.value_dense = make((value[-1], heads, self.value_dim), bias(heads, self.value_dim))
        self.output_dense = make((heads, self.value_dim, out), bias(out))
        self.built = True

    def inner_layers(self) -> list[Layer]:
        return [self.query_dense, self.key_dense, self.value_dense, self.output_dense] if self.built else []

    def __call__(self, query: Any, value: Any = None, key: Any = None, **kwargs: Any) -> Any:
        value = query if value is None else value
        if not self.built:
            self.build_from(query.shape, value.shape, (value if key is None else key).shape)
        return super().__call__(query, value, *(() if key is None else (key,)), **kwargs)

    def call(
        self, query: Any, value: Any, key: Any = None, query_mask: Any = None, value_mask: Any = None,
        key_mask: Any = None, attention_mask: Any = None, return_attention_scores: bool = False,
        training: bool | None = None, use_causal_mask: bool = False, mask: Any = None,
    ) -> Any:  # fmt: skip
        key = value if key is None else key
        allowed = _allowed([query_mask, value_mask, key_mask], query, key, use_causal_mask)
        if mask is not None:
            masks = list(mask) if isinstance(mask, (list, tuple)) else [mask, mask]
            allowed = _allowed(masks, query, key, use_causal_mask)
        if attention_mask is not None:
            given = ops.astype(attention_mask, dtype="bool")
            allowed = given if allowed is None else ops.logical_and(allowed, given)
        q, k, v = self.query_dense(query), self.key_dense(key), self.value_dense(value)
        if allowed is not None and allowed.ndim == 3:
            allowed = allowed[:, None]
        scores = ops.matmul(q, ops.swapaxes(k, -1, -2)) / float(np.sqrt(self.key_dim))
        out, weights = _weighted(scores, v, allowed, self.dropout, training)
        out = self.output_dense.merged(out)
        return (out, weights) if return_attention_scores else out

    def compute_mask(self, inputs: Any, mask: Any) -> Any:
        return mask[0] if isinstance(mask, (list, tuple)) else mask
