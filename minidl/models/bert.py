"""BERT, RoBERTa and DistilBERT: Transformer encoders that read a whole text at once, with Hugging Face's names.

Devlin, Chang, Lee and Toutanova, "BERT: Pre-training of Deep Bidirectional Transformers for Language Understanding",
NAACL 2019. Liu et al., "RoBERTa", 2019, trains the same model longer; Sanh et al., "DistilBERT", 2019, has half as many
layers, trained to imitate it. MiniLM (Wang et al., NeurIPS 2020) is a small BERT made in the same way.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from minidl import ops
from minidl.core.tensor import Tensor
from minidl.models.family import (
    ACTIVATIONS,
    Config,
    Family,
    check_ids,
    merge_heads,
    split_heads,
    visible_keys,
)
from minidl.nn.container import ModuleDict, ModuleList
from minidl.nn.dropout import Dropout
from minidl.nn.embedding import Embedding
from minidl.nn.linear import Linear
from minidl.nn.module import Module
from minidl.nn.normalization import LayerNorm


@dataclasses.dataclass
class BertConfig(Config):
    """Sizes and options of a :class:`Bert`; the defaults are BERT-base's."""

    vocab_size: int = 30522
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: str = "gelu"
    hidden_dropout_prob: float = 0.1
    attention_probs_dropout_prob: float = 0.1
    max_position_embeddings: int = 512
    type_vocab_size: int = 2
    layer_norm_eps: float = 1e-12
    pad_token_id: int | None = 0
    tie_word_embeddings: bool = True
    num_labels: int = 2
    id2label: dict | None = None
    #: dropout before the classifier; None: as between the layers
    classifier_dropout: float | None = None
    #: what follows the first of the classifier's two layers
    pooler_act: str = "tanh"
    #: positions count from ``pad_token_id`` + 1 and leave out padding (RoBERTa)
    positions_after_padding: bool = False

    ONLY = {
        "hidden_act": tuple(ACTIVATIONS),
        "position_embedding_type": ("absolute", None),
        "is_decoder": (False,),
        "add_cross_attention": (False,),
        "sinusoidal_pos_embds": (False,),
    }
    #: DistilBERT's spelling
    ALIASES = {
        "dim": "hidden_size", "n_layers": "num_hidden_layers", "n_heads": "num_attention_heads",
        "hidden_dim": "intermediate_size", "activation": "hidden_act", "dropout": "hidden_dropout_prob",
        "attention_dropout": "attention_probs_dropout_prob", "seq_classif_dropout": "classifier_dropout",
    }  # fmt: skip


class Embeddings(Module):
    """The sum of a vector for each token, one for its position, and one for which of two texts it is in; normalized."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.word_embeddings = Embedding(config.vocab_size, config.hidden_size)
        self.position_embeddings = Embedding(config.max_position_embeddings, config.hidden_size)
        if config.type_vocab_size:
            self.token_type_embeddings = Embedding(config.type_vocab_size, config.hidden_size)
        self.LayerNorm = LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = Dropout(config.hidden_dropout_prob)
        self.config = config

    def positions(self, ids: Tensor) -> Any:
        """0, 1, 2, ...; or as RoBERTa counts them."""
        if not self.config.positions_after_padding:
            return np.arange(ids.shape[1])
        pad = self.config.pad_token_id or 0
        is_token = ops.astype(ids != pad, dtype=np.int64)
        return ops.cumsum(is_token, axis=1) * is_token + pad

    def forward(self, ids: Tensor, token_types: Any = None) -> Tensor:
        x = self.word_embeddings(ids) + self.position_embeddings(self.positions(ids))
        if self.config.type_vocab_size:
            x = x + self.token_type_embeddings(np.zeros(ids.shape, np.int64) if token_types is None else token_types)
        return self.dropout(self.LayerNorm(x))


class Attention(Module):
    """Every token attends to every other that the mask shows, then norm(x + what it found)."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        width = config.hidden_size
        if width % config.num_attention_heads:
            raise ValueError(
                f"Bert: hidden_size {width} is not divisible by num_attention_heads {config.num_attention_heads}"
            )
        self.self = ModuleDict({name: Linear(width, width) for name in ("query", "key", "value")})
        self.output = ModuleDict(
            {"dense": Linear(width, width), "LayerNorm": LayerNorm(width, eps=config.layer_norm_eps)}
        )
        self.dropout = Dropout(config.hidden_dropout_prob)
        self.config = config

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        config = self.config
        q, k, v = (split_heads(self.self[name](x), config.num_attention_heads) for name in ("query", "key", "value"))
        dropout = config.attention_probs_dropout_prob if self.training else 0.0
        found = merge_heads(ops.scaled_dot_product_attention(q, k, v, mask, dropout_p=dropout))
        return self.output["LayerNorm"](x + self.dropout(self.output["dense"](found)))


class Layer(Module):
    """Attention, then two linear layers with an activation in between: norm(x + MLP(x))."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        width, wide = config.hidden_size, config.intermediate_size
        self.attention = Attention(config)
        self.intermediate = ModuleDict({"dense": Linear(width, wide)})
        self.output = ModuleDict(
            {"dense": Linear(wide, width), "LayerNorm": LayerNorm(width, eps=config.layer_norm_eps)}
        )
        self.dropout = Dropout(config.hidden_dropout_prob)
        self.activation = ACTIVATIONS[config.hidden_act]

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        x = self.attention(x, mask)
        hidden = self.activation(self.intermediate["dense"](x))
        return self.output["LayerNorm"](x + self.dropout(self.output["dense"](hidden)))


class Bert(Module):
    """Token numbers (N, T) to a vector for each token, (N, T, hidden_size).

    >>> import numpy as np
    >>> from minidl.models.bert import Bert, BertConfig
    >>> model = Bert(BertConfig(vocab_size=50, hidden_size=8, num_hidden_layers=1, num_attention_heads=2))
    >>> model(np.zeros((3, 5), np.int64)).shape
    (3, 5, 8)
    """

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.embeddings = Embeddings(config)
        self.encoder = ModuleDict({"layer": ModuleList(Layer(config) for _ in range(config.num_hidden_layers))})
        self.config = config

    def forward(self, input_ids: Any, attention_mask: Any = None, token_type_ids: Any = None) -> Tensor:
        """``attention_mask`` (N, T) is nonzero for tokens and zero for padding, ``token_type_ids`` (N, T) says which
        of two texts a token is in (default: the first). Vectors of padding mean nothing.

        Raises ValueError for more than ``max_position_embeddings`` tokens, IndexError for one outside the vocabulary.
        """
        ids, most = check_ids(self, input_ids), self.config.max_position_embeddings
        if self.config.positions_after_padding:
            most -= (self.config.pad_token_id or 0) + 1
        if ids.shape[1] > most:
            raise ValueError(f"Bert: a text of {ids.shape[1]} tokens is longer than the {most} that have positions")
        mask = visible_keys(attention_mask)
        x = self.embeddings(ids, token_type_ids)
        for layer in self.encoder["layer"].children():
            x = layer(x, mask)
        return x


class PredictionHead(Module):
    """A vector for each token to scores for every word: linear, activation, norm, and the tokens' own vectors."""

    def __init__(self, config: BertConfig, embedding: Embedding) -> None:
        super().__init__()
        width = config.hidden_size
        self.transform = ModuleDict(
            {"dense": Linear(width, width), "LayerNorm": LayerNorm(width, eps=config.layer_norm_eps)}
        )
        self.decoder = Linear(width, config.vocab_size)
        if config.tie_word_embeddings:
            self.decoder.weight = embedding.weight
            self.bias = self.decoder.bias  # files have it under either name
        self.activation = ACTIVATIONS[config.hidden_act]

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.activation(self.transform["dense"](x))
        return self.decoder(self.transform["LayerNorm"](hidden))


class BertForMaskedLM(Module):
    """Token numbers (N, T), some of them ``[MASK]``, to scores for what stands there, (N, T, vocab_size)."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.bert = Bert(config)
        self.cls = ModuleDict({"predictions": PredictionHead(config, self.bert.embeddings.word_embeddings)})
        self.config = config

    def forward(self, input_ids: Any, attention_mask: Any = None, token_type_ids: Any = None) -> Tensor:
        return self.cls["predictions"](self.bert(input_ids, attention_mask, token_type_ids))


class BertForSequenceClassification(Module):
    """Token numbers (N, T) to scores (N, num_labels), from the vector of the first token."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.bert = Bert(config)
        self.pooler = ModuleDict({"dense": Linear(config.hidden_size, config.hidden_size)})
        self.classifier = Linear(config.hidden_size, config.num_labels)
        rate = config.classifier_dropout
        self.dropout = Dropout(config.hidden_dropout_prob if rate is None else rate)
        self.activation = ACTIVATIONS[config.pooler_act]
        self.config = config

    def forward(self, input_ids: Any, attention_mask: Any = None, token_type_ids: Any = None) -> Tensor:
        first = self.bert(input_ids, attention_mask, token_type_ids)[:, 0]
        return self.classifier(self.dropout(self.activation(self.pooler["dense"](first))))


def _family(name: str, renames: tuple[tuple[str, str], ...], **implied: Any) -> Family:
    """``name`` as in ``BertModel`` and the like."""
    return Family(
        BertConfig,
        {
            f"{name}Model": Bert,
            f"{name}ForMaskedLM": BertForMaskedLM,
            f"{name}ForPreTraining": BertForMaskedLM,
            f"{name}ForSequenceClassification": BertForSequenceClassification,
        },
        implied=implied,
        renames=(
            *renames,
            (r"^bert\.pooler\.", "pooler."),
            (r"LayerNorm\.gamma$", "LayerNorm.weight"),  # TensorFlow's names, in the first files
            (r"LayerNorm\.beta$", "LayerNorm.bias"),
        ),
        prefix="bert.",
        unused=(r"unused\.", r"cls\.", r"pooler\.", r"classifier\.", r".*\.position_ids$"),
    )


_ROBERTA = _family(
    "Roberta",
    (
        (r"^roberta\.", "bert."),
        (r"^lm_head\.dense\.", "cls.predictions.transform.dense."),
        (r"^lm_head\.layer_norm\.", "cls.predictions.transform.LayerNorm."),
        (r"^lm_head\.", "cls.predictions."),
        (r"^(bert\.)?pooler\.", "unused."),  # its classifier has a layer of its own in the pooler's place
        (r"^classifier\.dense\.", "pooler.dense."),
        (r"^classifier\.out_proj\.", "classifier."),
    ),
    positions_after_padding=True,
)

FAMILIES = {
    "bert": _family("Bert", ()),
    "roberta": _ROBERTA,
    "xlm-roberta": dataclasses.replace(
        _ROBERTA, architectures={f"XLM{name}": made for name, made in _ROBERTA.architectures.items()}
    ),
    "distilbert": _family(
        "DistilBert",
        (
            (r"^distilbert\.", "bert."),
            (r"\btransformer\.layer\.", "encoder.layer."),
            (r"\battention\.q_lin\.", "attention.self.query."),
            (r"\battention\.k_lin\.", "attention.self.key."),
            (r"\battention\.v_lin\.", "attention.self.value."),
            (r"\battention\.out_lin\.", "attention.output.dense."),
            (r"\bsa_layer_norm\.", "attention.output.LayerNorm."),
            (r"\bffn\.lin1\.", "intermediate.dense."),
            (r"\bffn\.lin2\.", "output.dense."),
            (r"\boutput_layer_norm\.", "output.LayerNorm."),
            (r"^vocab_transform\.", "cls.predictions.transform.dense."),
            (r"^vocab_layer_norm\.", "cls.predictions.transform.LayerNorm."),
            (r"^vocab_projector\.", "cls.predictions.decoder."),
            (r"^pre_classifier\.", "pooler.dense."),
        ),
        type_vocab_size=0,
        pooler_act="relu",
    ),
}
