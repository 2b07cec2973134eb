"""The ``numba`` backend: NumPy's arrays, kernels compiled for the CPU. One file a family of primitives."""

from minidl_kernels.numba.backend import NumbaBackend

__all__ = ["NumbaBackend", "make_backend"]


def make_backend() -> NumbaBackend:
    """The backend with all its kernels registered (the entry point ``minidl.backends: numba``)."""
    return NumbaBackend()
