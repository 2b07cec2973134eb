"""Layers, losses and initializers, with PyTorch's names, arguments and parameter layouts."""

from minidl.nn import init
from minidl.nn.container import ModuleDict, ModuleList, ParameterList, Sequential
from minidl.nn.linear import Bilinear, Dense, Flatten, Identity, Linear, Unflatten
from minidl.nn.module import Module, Parameter
