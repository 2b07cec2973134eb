"""Imports NumPy so that the idle threads of its BLAS go to sleep soon.

OpenBLAS's threads spin for some 30 ms after each product, on cores that the threads of Numba's kernels wait for: with
two threads on two cores a training step then takes up to twice as long. OpenBLAS reads the setting when it is loaded,
so this has no effect where NumPy was imported before minidl.
"""

import contextlib
import os
from collections.abc import Iterator


@contextlib.contextmanager
def environment_default(name: str, value: str) -> Iterator[None]:
    """Inside, the environment has ``name``, with ``value`` unless the user has given it another.

    For libraries that read a setting when they are loaded, so that it need not stay.
    """
    if name in os.environ:
        yield
        return
    os.environ[name] = value
    try:
        yield
    finally:
        del os.environ[name]


with environment_default("OPENBLAS_THREAD_TIMEOUT", "10"):  # the binary logarithm of a number of cycles
    import numpy  # noqa: F401
