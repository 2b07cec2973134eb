"""The Backend object: NumPy arrays on the CPU, with this package's kernels."""

from __future__ import annotations

import os
from typing import Any

import numba
import numpy as np

from minidl.backend import Backend


class NumbaBackend(Backend):
    """Shares NumPy's arrays and device; differs in its kernels."""

    name = "numba"
    device = "cpu"
    parent = "numpy"
    priority = 10

    def info(self) -> dict[str, Any]:
        return {
            "device": "cpu",
            "version": numba.__version__,
            "numpy": np.__version__,
            "threads": numba.get_num_threads(),
            "threading layer": os.environ.get("NUMBA_THREADING_LAYER", numba.config.THREADING_LAYER),
            "cache": numba.config.CACHE_DIR or "beside the sources (NUMBA_CACHE_DIR moves it)",
        }

    def compile(self, program: Any) -> Any:
        """Fused, buffer-planned form of a captured program; see :mod:`minidl_kernels.numba.compiler.program`."""
        from minidl_kernels.numba.compiler.program import CompiledProgram

        return CompiledProgram(program)
