"""The Backend object: jax.Array and jax.numpy."""

from __future__ import annotations

import functools
import importlib
from typing import Any

import jax
import jax.numpy as jnp
import jax.scipy.special
import numpy as np

from minidl.backend import Backend, register

#: kernel modules, one per family of primitives; importing one registers its kernels
FAMILIES: tuple[str, ...] = (
    "arrays", "attention", "checks", "conv", "pooling", "product", "random", "recurrent", "reduction",
)  # fmt: skip


class JaxBackend(Backend):
    """Arrays are ``jax.Array``: immutable, on JAX's default device.

    64-bit types are switched on (``jax_enable_x64``), since minidl's dtypes are NumPy's: labels are int64, and gradient
    checks need float64. Floats are float32 unless asked otherwise, as everywhere.
    """

    name = "jax"
    device = "jax"
    array_type = jax.Array
    xp = jnp
    mutable = False
    # slower than numba on a CPU unless whole steps are captured
    priority = 5

    def __init__(self) -> None:
        super().__init__()
        jax.config.update("jax_enable_x64", True)
        register(self)
        for family in FAMILIES:
            importlib.import_module(f"minidl_kernels.jax.{family}")

    def asarray(self, value: Any, dtype: Any = None) -> jax.Array:
        return jnp.asarray(value, dtype=dtype)

    @functools.cached_property
    def special(self) -> Any:
        return jax.scipy.special

    @functools.cached_property
    def in_host_memory(self) -> bool:  # type: ignore[override]
        return jax.default_backend() == "cpu"

    def to_numpy(self, array: Any) -> np.ndarray:
        return np.asarray(array)

    def synchronize(self) -> None:
        jax.block_until_ready([a for a in jax.live_arrays()])

    def info(self) -> dict[str, Any]:
        devices = jax.devices()
        return {
            "device": f"{len(devices)} x {devices[0].device_kind} ({devices[0].platform})",
            "version": jax.__version__,
        }

    def compiled_for(self) -> Any:
        """The mesh in force."""
        from minidl_kernels.jax.mesh import active_mesh

        return active_mesh()

    def compile(self, program: Any) -> Any:
        """One ``jax.jit`` function for a captured program; see :mod:`minidl_kernels.jax.program`."""
        from minidl_kernels.jax.program import LoweredProgram

        return LoweredProgram(program)


def make_backend() -> JaxBackend:
    """The entry point ``minidl.backends: jax``."""
    return JaxBackend()
