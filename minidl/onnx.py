"""ONNX files: ``model = minidl.onnx.load("model.onnx")``. The face of :mod:`minidl.interop.onnx`."""

from minidl.interop.onnx import OnnxModel, from_proto, load, operator, supported

__all__ = ["OnnxModel", "from_proto", "load", "operator", "supported"]
