"""The ``numba`` backend: NumPy's arrays, kernels compiled for the CPU. One file per family of primitives."""

import contextlib
import importlib
import os

import numba
from llvmlite import binding as _llvm

from minidl.blas import environment_default


def _prefer_wide_vectors() -> None:
    """Let LLVM use 512-bit vectors where they do not slow the processor's clock: where there is AVX512-VBMI2.

    LLVM keeps to 256 bits for the sake of the first processors with AVX-512. Softmax and gelu gain a third.
    """
    features = _llvm.get_host_cpu_features()
    if numba.config.CPU_FEATURES is None and features.get("avx512vbmi2"):
        numba.config.CPU_FEATURES = features.flatten() + ",-prefer-256-bit"


def _spin_briefly() -> None:
    """Let Numba's idle OpenMP threads go to sleep within microseconds, where the user has not said otherwise.

    By default they spin for milliseconds, on cores that BLAS's own threads wait for: a training step of many small
    products and loops then takes several times as long. OpenMP reads the setting when Numba's pool is loaded.
    """
    if "OMP_WAIT_POLICY" in os.environ:
        return
    with environment_default("GOMP_SPINCOUNT", "3000"), contextlib.suppress(ImportError):
        importlib.import_module("numba.np.ufunc.omppool")  # without OpenMP, Numba uses another pool


_prefer_wide_vectors()
_spin_briefly()

from minidl_kernels.numba.backend import NumbaBackend  # noqa: E402

__all__ = ["FAMILIES", "NumbaBackend", "make_backend"]

#: Kernel modules, one per family of primitives. Importing one registers its kernels, of which the last is asked first;
#: all are imported here, so that their order is the same whichever of them a user names first.
FAMILIES: tuple[str, ...] = (
    "activation",
    "attention",
    "conv",
    "elementwise",
    "embedding",
    "linear",
    "loss",
    "normalization",
    "optimizer",
    "pooling",
    "random",
    "recurrent",
    "shape",
    "winograd",
)

for _family in FAMILIES:
    importlib.import_module(f"minidl_kernels.numba.kernels.{_family}")


def make_backend() -> NumbaBackend:
    """The backend with all its kernels registered (the entry point ``minidl.backends: numba``)."""
    return NumbaBackend()
