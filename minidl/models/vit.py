"""ViT: a Transformer encoder that reads an image as a sequence of patches, with Hugging Face's names.

Dosovitskiy et al., "An Image is Worth 16x16 Words: Transformers for Image Recognition at Scale", ICLR 2021.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from minidl import ops
from minidl.core.dtypes import default_dtype
from minidl.core.tensor import Tensor, as_tensor
from minidl.models.family import ACTIVATIONS, Config, Family, merge_heads, split_heads
from minidl.nn import init
from minidl.nn.container import ModuleDict, ModuleList
from minidl.nn.conv import Conv2d
from minidl.nn.dropout import Dropout
from minidl.nn.linear import Linear
from minidl.nn.module import Module, Parameter
from minidl.nn.normalization import LayerNorm


@dataclasses.dataclass
class ViTConfig(Config):
    """Sizes and options of a :class:`ViT`; the defaults are ViT-B/16's."""

    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: str = "gelu"
    hidden_dropout_prob: float = 0.0
    attention_probs_dropout_prob: float = 0.0
    layer_norm_eps: float = 1e-12
    image_size: int = 224
    patch_size: int = 16
    num_channels: int = 3
    qkv_bias: bool = True
    num_labels: int = 2
    id2label: dict | None = None

    ONLY = {"hidden_act": tuple(ACTIVATIONS)}


class Embeddings(Module):
    """An image cut into patches, each projected to a vector; a learned vector before them; positions added."""

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        width, patch = config.hidden_size, config.patch_size
        patches = (config.image_size // patch) ** 2
        self.cls_token = Parameter(np.empty((1, 1, width), default_dtype()))
        self.position_embeddings = Parameter(np.empty((1, patches + 1, width), default_dtype()))
        # patches do not overlap: a convolution whose stride is its size
        self.patch_embeddings = ModuleDict({"projection": Conv2d(config.num_channels, width, patch, stride=patch)})
        self.dropout = Dropout(config.hidden_dropout_prob)
        self.config = config
        init.trunc_normal_(self.cls_token, std=0.02)
        init.trunc_normal_(self.position_embeddings, std=0.02)

    def forward(self, images: Tensor) -> Tensor:
        config = self.config
        expected = (config.num_channels, config.image_size, config.image_size)
        if images.ndim != 4 or images.shape[1:] != expected:
            raise ValueError(f"ViT: expected images of shape (N, {', '.join(map(str, expected))}), got {images.shape}")
        patches = self.patch_embeddings["projection"](images)  # (N, width, rows, columns)
        n, width = patches.shape[:2]
        x = ops.swapaxes(ops.reshape(patches, shape=(n, width, -1)), 1, 2)
        x = ops.concat([ops.expand(self.cls_token, shape=(n, 1, width)), x], axis=1)
        return self.dropout(x + self.position_embeddings)


class Attention(Module):
    """Every patch attends to every other."""

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        width = config.hidden_size
        if width % config.num_attention_heads:
            raise ValueError(
                f"ViT: hidden_size {width} is not divisible by num_attention_heads {config.num_attention_heads}"
            )
        names = ("query", "key", "value")
        self.attention = ModuleDict({name: Linear(width, width, bias=config.qkv_bias) for name in names})
        self.output = ModuleDict({"dense": Linear(width, width)})
        self.config = config

    def forward(self, x: Tensor) -> Tensor:
        heads = self.config.num_attention_heads
        q, k, v = (split_heads(self.attention[name](x), heads) for name in ("query", "key", "value"))
        dropout = self.config.attention_probs_dropout_prob if self.training else 0.0
        return self.output["dense"](merge_heads(ops.scaled_dot_product_attention(q, k, v, dropout_p=dropout)))


class Layer(Module):
    """x + attention(norm(x)), then x + MLP(norm(x)): equations 2 and 3 of the paper."""

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        width, wide = config.hidden_size, config.intermediate_size
        self.layernorm_before = LayerNorm(width, eps=config.layer_norm_eps)
        self.attention = Attention(config)
        self.layernorm_after = LayerNorm(width, eps=config.layer_norm_eps)
        self.intermediate = ModuleDict({"dense": Linear(width, wide)})
        self.output = ModuleDict({"dense": Linear(wide, width)})
        self.dropout = Dropout(config.hidden_dropout_prob)
        self.activation = ACTIVATIONS[config.hidden_act]

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.dropout(self.attention(self.layernorm_before(x)))
        hidden = self.activation(self.intermediate["dense"](self.layernorm_after(x)))
        return x + self.dropout(self.output["dense"](hidden))


class ViT(Module):
    """Images (N, num_channels, image_size, image_size) to vectors (N, 1 + patches, hidden_size), the image's own first.

    >>> from minidl import zeros
    >>> from minidl.models.vit import ViT, ViTConfig
    >>> config = ViTConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=2, image_size=32)
    >>> ViT(config)(zeros(2, 3, 32, 32)).shape
    (2, 5, 8)
    """

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.embeddings = Embeddings(config)
        self.encoder = ModuleDict({"layer": ModuleList(Layer(config) for _ in range(config.num_hidden_layers))})
        self.layernorm = LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.config = config

    def forward(self, images: Any) -> Tensor:
        x = self.embeddings(as_tensor(images))
        for layer in self.encoder["layer"].children():
            x = layer(x)
        return self.layernorm(x)


class ViTForImageClassification(Module):
    """Images to scores (N, num_labels), from the image's own vector: equation 4 of the paper and a linear layer."""

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.vit = ViT(config)
        self.classifier = Linear(config.hidden_size, config.num_labels)
        self.config = config

    def forward(self, images: Any) -> Tensor:
        return self.classifier(self.vit(images)[:, 0])


FAMILIES = {
    "vit": Family(
        ViTConfig,
        {"ViTModel": ViT, "ViTForImageClassification": ViTForImageClassification},
        prefix="vit.",
        unused=(r"(vit\.)?pooler\.", r"classifier\.", r"(vit\.)?embeddings\.mask_token$"),
    )
}
