"""Dense layers and embeddings."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np

from minidl import ops
from minidl.keras import activations
from minidl.keras.engine import Layer


def without_penalties(layer: Layer, options: dict[str, Any]) -> dict[str, Any]:
    """The options less regularizers and constraints, of which a warning says that training does without them."""
    kept = {}
    for name, value in options.items():
        if name.endswith(("_regularizer", "_constraint")):
            if value is not None:
                warnings.warn(f"{type(layer).__name__}: {name} is read and has no effect on training", stacklevel=4)
        else:
            kept[name] = value
    return kept


class Dense(Layer):
    """activation(x kernel + bias) along the last axis; ``kernel`` is (inputs, units)."""

    supports_masking = True

    def __init__(
        self, units: int, activation: Any = None, use_bias: bool = True, kernel_initializer: Any = "glorot_uniform",
        bias_initializer: Any = "zeros", lora_rank: Any = None, lora_alpha: Any = None, quantization_config: Any = None,
        **options: Any,
    ) -> None:  # fmt: skip
        super().__init__(**without_penalties(self, options))
        self.units, self.use_bias, self.activation = units, use_bias, activations.get(activation)
        self.kernel_initializer, self.bias_initializer = kernel_initializer, bias_initializer

    def build(self, input_shape: Any) -> None:
        self.add_weight((input_shape[-1], self.units), self.kernel_initializer, "kernel")
        if self.use_bias:
            self.add_weight((self.units,), self.bias_initializer, "bias")

    def call(self, x: Any) -> Any:
        y = ops.matmul(x, self.kernel)
        return self.activation(y + self.bias if self.use_bias else y)


class Embedding(Layer):
    """Row ``embeddings[i]`` for each integer i. With ``mask_zero``, 0 marks steps that do not count."""

    def __init__(
        self, input_dim: int, output_dim: int, embeddings_initializer: Any = "uniform", mask_zero: bool = False,
        input_length: Any = None, weights: Any = None, lora_rank: Any = None, lora_alpha: Any = None,
        sparse: Any = None, quantization_config: Any = None, **options: Any,
    ) -> None:  # fmt: skip
        options.pop("activity_regularizer", None)
        super().__init__(**without_penalties(self, options))
        self.input_dim, self.output_dim, self.mask_zero = input_dim, output_dim, mask_zero
        uniform = embeddings_initializer == "uniform"
        self.embeddings_initializer = "random_uniform" if uniform else embeddings_initializer

    def build(self, input_shape: Any) -> None:
        self.add_weight((self.input_dim, self.output_dim), self.embeddings_initializer, "embeddings")

    def call(self, x: Any) -> Any:
        return ops.embedding(ops.astype(x, dtype="int64"), self.embeddings)

    def compute_mask(self, inputs: Any, mask: Any) -> Any:
        return ops.not_equal(inputs, 0) if self.mask_zero else None


class Masking(Layer):
    """Steps in which every feature equals ``mask_value`` do not count, and become zero."""

    def __init__(self, mask_value: float = 0.0, **options: Any) -> None:
        super().__init__(**options)
        self.mask_value = mask_value

    def call(self, x: Any) -> Any:
        return x * ops.astype(self.compute_mask(x, None)[..., None], dtype=x.dtype)

    def compute_mask(self, inputs: Any, mask: Any) -> Any:
        return ops.any(ops.not_equal(inputs, np.asarray(self.mask_value, inputs.dtype)), axis=-1)


class Identity(Layer):
    """The input as it is."""

    supports_masking = True

    def call(self, x: Any) -> Any:
        return x
