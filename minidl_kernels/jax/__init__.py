"""The ``jax`` backend: minidl on whatever JAX runs on (TPU, GPU, CPU). The references run on ``jax.numpy``; kernels are
few. ``minidl.jit`` lowers a captured step to one ``jax.jit`` function; :func:`use_mesh` spreads its batch over devices.
"""

from minidl_kernels.jax.backend import JaxBackend, make_backend
from minidl_kernels.jax.mesh import use_mesh

__all__ = ["JaxBackend", "make_backend", "use_mesh"]
