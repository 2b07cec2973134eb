"""ONNX's operators, written with minidl's own, one family per file."""

from minidl.interop.onnx.operators import (
    attention,
    control,
    conv,
    detection,
    elementwise,
    estimators,
    features,
    indexing,
    linear,
    loss,
    normalization,
    pooling,
    quantized,
    random,
    recurrent,
    reduction,
    resize,
    sequence,
    shape,
    signal,
    text,
)

__all__ = [
    "attention", "control", "conv", "detection", "elementwise", "estimators", "features", "indexing", "linear", "loss",
    "normalization", "pooling", "quantized", "random", "recurrent", "reduction", "resize", "sequence", "shape",
    "signal", "text",
]  # fmt: skip
