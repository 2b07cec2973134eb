"""Second spellings of layers, as Keras users and older papers write them. Each is the very class it stands for."""

from minidl.nn.attention import MultiheadAttention
from minidl.nn.conv import Conv1d, Conv2d, Conv3d, ConvTranspose1d, ConvTranspose2d, ConvTranspose3d
from minidl.nn.dropout import Dropout1d, Dropout2d, Dropout3d
from minidl.nn.linear import Linear
from minidl.nn.normalization import (
    BatchNorm1d,
    BatchNorm2d,
    BatchNorm3d,
    InstanceNorm1d,
    InstanceNorm2d,
    InstanceNorm3d,
)
from minidl.nn.pooling import (
    AdaptiveAvgPool1d,
    AdaptiveAvgPool2d,
    AdaptiveAvgPool3d,
    AdaptiveMaxPool1d,
    AdaptiveMaxPool2d,
    AdaptiveMaxPool3d,
    AvgPool1d,
    AvgPool2d,
    AvgPool3d,
    GlobalAvgPool1d,
    GlobalAvgPool2d,
    GlobalAvgPool3d,
    GlobalMaxPool1d,
    GlobalMaxPool2d,
    GlobalMaxPool3d,
    MaxPool1d,
    MaxPool2d,
    MaxPool3d,
)

Dense = Linear
MultiHeadAttention = MultiheadAttention

Conv1D, Conv2D, Conv3D = Conv1d, Conv2d, Conv3d
ConvTranspose1D, ConvTranspose2D, ConvTranspose3D = ConvTranspose1d, ConvTranspose2d, ConvTranspose3d

Dropout1D, Dropout2D, Dropout3D = Dropout1d, Dropout2d, Dropout3d
BatchNorm1D, BatchNorm2D, BatchNorm3D = BatchNorm1d, BatchNorm2d, BatchNorm3d
InstanceNorm1D, InstanceNorm2D, InstanceNorm3D = InstanceNorm1d, InstanceNorm2d, InstanceNorm3d

MaxPool1D, MaxPool2D, MaxPool3D = MaxPool1d, MaxPool2d, MaxPool3d
AvgPool1D, AvgPool2D, AvgPool3D = AvgPool1d, AvgPool2d, AvgPool3d
AdaptiveMaxPool1D, AdaptiveMaxPool2D, AdaptiveMaxPool3D = AdaptiveMaxPool1d, AdaptiveMaxPool2d, AdaptiveMaxPool3d
AdaptiveAvgPool1D, AdaptiveAvgPool2D, AdaptiveAvgPool3D = AdaptiveAvgPool1d, AdaptiveAvgPool2d, AdaptiveAvgPool3d
GlobalMaxPool1D, GlobalMaxPool2D, GlobalMaxPool3D = GlobalMaxPool1d, GlobalMaxPool2d, GlobalMaxPool3d
GlobalAvgPool1D, GlobalAvgPool2D, GlobalAvgPool3D = GlobalAvgPool1d, GlobalAvgPool2d, GlobalAvgPool3d
