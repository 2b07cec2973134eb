"""ONNX's own tests of backends: single operators, and small models from PyTorch."""

import warnings

import numpy as np
import pytest

onnx = pytest.importorskip("onnx", reason="reading ONNX files needs onnx (pip install 'minidl[onnx]')")

from onnx import numpy_helper  # noqa: E402

import minidl  # noqa: E402
from minidl.interop.onnx import from_proto  # noqa: E402
from minidl.interop.onnx.values import host  # noqa: E402

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from onnx.backend.test.loader import load_model_tests

    CASES = {case.name: case for kind in ("node", "simple", "pytorch-converted", "pytorch-operator")
             for case in load_model_tests(kind=kind)}  # fmt: skip
