"""The ``numba`` backend: NumPy's arrays, kernels compiled for the CPU. One file a family of primitives."""

import numba
from llvmlite import binding as _llvm


def _prefer_wide_vectors() -> None:
    """Let LLVM use 512-bit vectors where they do not slow the processor's clock: where there is AVX512-VBMI2.

    LLVM keeps to 256 bits for the sake of the first processors with AVX-512. Softmax and gelu gain a third.
    """
    features = _llvm.get_host_cpu_features()
    if numba.config.CPU_FEATURES is None and features.get("avx512vbmi2"):
        numba.config.CPU_FEATURES = features.flatten() + ",-prefer-256-bit"


_prefer_wide_vectors()

from minidl_kernels.numba.backend import NumbaBackend  # noqa: E402

__all__ = ["NumbaBackend", "make_backend"]


def make_backend() -> NumbaBackend:
    """The backend with all its kernels registered (the entry point ``minidl.backends: numba``)."""
    return NumbaBackend()
