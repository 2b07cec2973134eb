"""Backends: which array type a device uses, and which kernel serves a primitive on it.

A backend is an array type plus any kernels it has for the primitives of :mod:`minidl.ops`. Where a backend has no
kernel for a primitive (or the kernel's ``when`` predicate says no), the primitive's NumPy reference runs on the
backend's own array namespace. ``numpy`` is built in; every other backend is found through the entry-point group
``minidl.backends`` and loaded when it is first asked for.
"""

from minidl.core.errors import BackendError
from minidl.core.registry import (
    Backend,
    Kernel,
    available,
    backend_of,
    explain,
    fastest_installed,
    get_backend,
    kernel,
    load,
    namespace,
    register,
    set_backend,
    set_strict,
    to_numpy,
    unregister_kernel,
    use_backend,
)

__all__ = [
    "Backend",
    "BackendError",
    "Kernel",
    "available",
    "backend_of",
    "explain",
    "fastest_installed",
    "get_backend",
    "kernel",
    "load",
    "namespace",
    "register",
    "set_backend",
    "set_strict",
    "to_numpy",
    "unregister_kernel",
    "use_backend",
]
