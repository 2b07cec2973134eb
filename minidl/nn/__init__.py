"""Layers, losses and initializers, with PyTorch's names, arguments and parameter layouts."""

from minidl.nn.container import ModuleDict, ModuleList, ParameterList, Sequential
from minidl.nn.module import Module, Parameter
