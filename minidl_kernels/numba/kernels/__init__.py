"""Kernels of the `numba` backend, one family of primitives per file."""
