"""Kernels for minidl's primitives, one package a backend: ``numba`` (CPU), ``cupy`` (NVIDIA GPUs), ``jax`` (TPU and all
that JAX runs on). minidl finds them through the entry-point group ``minidl.backends``."""
