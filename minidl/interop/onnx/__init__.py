"""ONNX files as Modules: ``model = minidl.onnx.load("model.onnx")``.

The operators are in :mod:`minidl.interop.onnx.operators`, one file per family; :func:`operator` adds more.
"""

from minidl.interop.onnx import operators
from minidl.interop.onnx.model import OnnxModel, from_proto, load
from minidl.interop.onnx.registry import operator, supported

__all__ = ["OnnxModel", "from_proto", "load", "operator", "operators", "supported"]
