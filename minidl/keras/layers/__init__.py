"""Keras' layers by Keras' names, one family per file. The batch is the first axis, channels are the last."""

from minidl.keras.engine import InputLayer, Layer
from minidl.keras.layers.activation import ELU, Activation, LeakyReLU, PReLU, ReLU, Softmax
from minidl.keras.layers.attention import AdditiveAttention, Attention, MultiHeadAttention
from minidl.keras.layers.conv import (
    Conv1D,
    Conv1DTranspose,
    Conv2D,
    Conv2DTranspose,
    Conv3D,
    Conv3DTranspose,
    DepthwiseConv1D,
    DepthwiseConv2D,
    SeparableConv1D,
    SeparableConv2D,
)
from minidl.keras.layers.core import Dense, Embedding, Identity, Masking
from minidl.keras.layers.merging import Add, Average, Concatenate, Dot, Maximum, Minimum, Multiply, Subtract
from minidl.keras.layers.normalization import (
    BatchNormalization,
    GroupNormalization,
    LayerNormalization,
    Normalization,
    Rescaling,
    UnitNormalization,
)
from minidl.keras.layers.pooling import (
    AveragePooling1D,
    AveragePooling2D,
    AveragePooling3D,
    GlobalAveragePooling1D,
    GlobalAveragePooling2D,
    GlobalAveragePooling3D,
    GlobalMaxPooling1D,
    GlobalMaxPooling2D,
    GlobalMaxPooling3D,
    MaxPooling1D,
    MaxPooling2D,
    MaxPooling3D,
)
from minidl.keras.layers.recurrent import GRU, LSTM, Bidirectional, SimpleRNN, TimeDistributed
from minidl.keras.layers.regularization import (
    Dropout,
    GaussianDropout,
    GaussianNoise,
    SpatialDropout1D,
    SpatialDropout2D,
    SpatialDropout3D,
)
from minidl.keras.layers.reshaping import (
    Cropping1D,
    Cropping2D,
    Cropping3D,
    Flatten,
    Permute,
    RepeatVector,
    Reshape,
    UpSampling1D,
    UpSampling2D,
    UpSampling3D,
    ZeroPadding1D,
    ZeroPadding2D,
    ZeroPadding3D,
)

__all__ = [name for name, value in list(globals().items()) if isinstance(value, type) and issubclass(value, Layer)]
