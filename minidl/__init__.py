"""minidl: a deep-learning framework on plain NumPy, with kernels that plug in.

Every operation of :mod:`minidl.ops` is also here (``minidl.exp``, ``minidl.concat``, ...), except where a maker of new
tensors has its name (``minidl.zeros_like``). Subpackages (``minidl.nn``, ``minidl.optim``, ...) are imported when first
used.
"""

from typing import Any

from minidl import autograd, ops
from minidl import blas as _blas
from minidl.core import registry as _registry
from minidl.core.context import detect_anomaly, enable_grad, is_grad_enabled, no_grad
from minidl.core.registry import get_backend, set_backend, use_backend
from minidl.core.tensor import Tensor, as_tensor, from_dlpack, tensor
from minidl.creation import (
    arange,
    empty,
    eye,
    full,
    full_like,
    linspace,
    ones,
    ones_like,
    rand,
    randint,
    randn,
    randperm,
    zeros,
    zeros_like,
)
from minidl.random import Generator, manual_seed
from minidl.version import __version__

_registry.apply_environment()

_SUBPACKAGES = {
    "backend",
    "cli",
    "data",
    "interop",
    "jit",
    "models",
    "nn",
    "onnx",
    "optim",
    "serialization",
    "special",
    "testing",
    "train",
    "viz",
}
_ELSEWHERE = {
    "load": "minidl.serialization",
    "save": "minidl.serialization",
    **dict.fromkeys(
        ["checkpoint", "grad", "gradients", "hessian", "jacobian", "jvp", "value_and_grad", "vjp"],
        "minidl.autograd.functional",
    ),
}


def __getattr__(name: str) -> Any:
    import importlib
    import types

    if name in _ELSEWHERE:
        value = getattr(importlib.import_module(_ELSEWHERE[name]), name)
    elif name in _SUBPACKAGES:
        try:
            return importlib.import_module(f"minidl.{name}")
        except ModuleNotFoundError as error:
            if error.name != f"minidl.{name}":
                raise
            raise AttributeError(f"module 'minidl' has no attribute {name!r}") from None
    else:
        value = getattr(ops, name, None)
        if value is None or name.startswith("_") or isinstance(value, types.ModuleType):
            raise AttributeError(f"module 'minidl' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    operations = (n for n, value in vars(ops).items() if n[0] != "_" and callable(value))
    return sorted({*globals(), *_ELSEWHERE, *_SUBPACKAGES, *operations})
