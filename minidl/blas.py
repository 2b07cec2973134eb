"""Imports NumPy so that the idle threads of its BLAS go to sleep soon.

OpenBLAS's threads spin for some 30 ms after each product, on cores that the threads of Numba's kernels wait for: with
two threads on two cores a training step then takes up to twice as long. OpenBLAS reads the setting when it is loaded,
so this has no effect where NumPy was imported before minidl; and the setting need not stay in the environment.
"""

import os

_SETTING = "OPENBLAS_THREAD_TIMEOUT"  # its value is the binary logarithm of a number of cycles

if _SETTING in os.environ:
    import numpy
else:
    os.environ[_SETTING] = "10"
    try:
        import numpy  # noqa: F401
    finally:
        del os.environ[_SETTING]
