"""Layers, losses and initializers, with PyTorch's names, arguments and parameter layouts."""

from minidl.nn import functional, init
from minidl.nn.activation import (
    ELU,
    GELU,
    GLU,
    SELU,
    Hardsigmoid,
    Hardswish,
    Hardtanh,
    LeakyReLU,
    LogSigmoid,
    LogSoftmax,
    Mish,
    PReLU,
    ReLU,
    ReLU6,
    Sigmoid,
    SiLU,
    Softmax,
    Softmin,
    Softplus,
    Softsign,
    Tanh,
)
from minidl.nn.attention import KVCache, MultiHeadAttention, MultiheadAttention
from minidl.nn.container import ModuleDict, ModuleList, ParameterList, Sequential
from minidl.nn.dropout import (
    AlphaDropout,
    Dropout,
    Dropout1D,
    Dropout1d,
    Dropout2D,
    Dropout2d,
    Dropout3D,
    Dropout3d,
)
from minidl.nn.embedding import Embedding
from minidl.nn.linear import Bilinear, Dense, Flatten, Identity, Linear, Unflatten
from minidl.nn.loss import (
    BCELoss,
    BCEWithLogitsLoss,
    CosineEmbeddingLoss,
    CrossEntropyLoss,
    CTCLoss,
    FocalLoss,
    HingeEmbeddingLoss,
    HingeLoss,
    HuberLoss,
    KLDivLoss,
    L1Loss,
    MarginRankingLoss,
    MSELoss,
    MultiMarginLoss,
    NLLLoss,
    SigmoidFocalLoss,
    SmoothL1Loss,
    TripletMarginLoss,
)
from minidl.nn.module import Module, Parameter
from minidl.nn.positional import LearnedPositionalEncoding, RotaryEmbedding, SinusoidalPositionalEncoding, apply_rotary
from minidl.nn.recurrent import (
    GRU,
    LSTM,
    RNN,
    GRUCell,
    LSTMCell,
    PackedSequence,
    RNNCell,
    pack_padded_sequence,
    pack_sequence,
    pad_packed_sequence,
    pad_sequence,
)
