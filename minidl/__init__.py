"""minidl: a deep-learning framework on plain NumPy, with kernels that plug in."""

__version__ = "0.1.0"

from minidl import ops
from minidl.backend import registry as _registry
from minidl.tensor import Tensor, as_tensor, from_dlpack, tensor

_registry.apply_environment()
