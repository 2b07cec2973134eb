"""The Backend object: cupy.ndarray on one GPU, its memory pool, its streams."""

from __future__ import annotations

import contextlib
import functools
import importlib
from collections.abc import Iterator
from typing import Any

import cupy
import numpy as np

from minidl.backend import Backend, register

#: kernel modules, one per family of primitives; importing one registers its kernels
FAMILIES: tuple[str, ...] = (
    "activation", "attention", "conv", "embedding", "loss", "normalization", "optimizer", "pooling", "product",
    "random", "recurrent", "softmax",
)  # fmt: skip


class CupyBackend(Backend):
    """Arrays are ``cupy.ndarray`` on the current CUDA device."""

    name = "cupy"
    device = "cuda"
    array_type = cupy.ndarray
    xp = cupy
    priority = 20

    def __init__(self) -> None:
        super().__init__()
        # Kernels are registered by name; register first, so that they find their backend.
        register(self)
        for family in FAMILIES:
            importlib.import_module(f"minidl_kernels.cupy.{family}")

    def asarray(self, value: Any, dtype: Any = None) -> cupy.ndarray:
        """``value`` on the device.

        The copy is not waited for: CuPy writes the values into page-locked memory (or uses ``value``'s own, if that is
        page-locked, see :func:`pinned`; then it must not be written to before the copy is done) and queues the transfer
        on the current stream.
        """
        return cupy.asarray(value, dtype=dtype)

    @functools.cached_property
    def special(self) -> Any:
        return importlib.import_module("cupyx.scipy.special")

    def to_numpy(self, array: Any) -> np.ndarray:
        """The values on the host, once the work that makes them is done."""
        return cupy.asnumpy(array)

    def synchronize(self) -> None:
        """Wait for all streams of the device."""
        cupy.cuda.Device().synchronize()

    def info(self) -> dict[str, Any]:
        device = cupy.cuda.Device()
        name = cupy.cuda.runtime.getDeviceProperties(device.id)["name"].decode()
        free, total = device.mem_info
        return {
            "device": f"{name} (cuda:{device.id}, compute capability {device.compute_capability})",
            "version": cupy.__version__,
            "cuda runtime": cupy.cuda.runtime.runtimeGetVersion(),
            "memory": f"{free / 2**30:.1f} of {total / 2**30:.1f} GiB free",
            **self.memory(),
        }

    def memory(self) -> dict[str, int]:
        """Bytes of the memory pool: in use by arrays, held, and the limit (0: none)."""
        pool = cupy.get_default_memory_pool()
        return {"pool used": pool.used_bytes(), "pool held": pool.total_bytes(), "pool limit": pool.get_limit()}

    def set_memory_limit(self, size: int | None = None, fraction: float | None = None) -> None:
        """Let the memory pool grow to ``size`` bytes, or a ``fraction`` of the device's memory; neither: no limit.

        Raises ValueError for both. An allocation beyond the limit raises ``cupy.cuda.memory.OutOfMemoryError``.
        """
        if size is not None and fraction is not None:
            raise ValueError(f"set_memory_limit: give size or fraction, not both; got {size} and {fraction}")
        pool = cupy.get_default_memory_pool()
        if fraction is not None:
            pool.set_limit(fraction=fraction)
        else:
            pool.set_limit(size=size or 0)

    def free_memory(self) -> None:
        """Give what the pools hold and no array uses back to the device and the host."""
        cupy.get_default_memory_pool().free_all_blocks()
        cupy.get_default_pinned_memory_pool().free_all_blocks()


@contextlib.contextmanager
def stream() -> Iterator[cupy.cuda.Stream]:
    """Work given to the device inside the ``with`` block runs on a stream of its own, beside the work of other streams.

    It starts after what the surrounding stream had been given by then; and what that is given after the block waits for
    it. The host waits for nothing.
    """
    outside = cupy.cuda.get_current_stream()
    inside = cupy.cuda.Stream(non_blocking=True)
    inside.wait_event(outside.record())
    try:
        with inside:
            yield inside
    finally:
        outside.wait_event(inside.record())


def pinned(array: Any) -> np.ndarray:
    """A copy of a host array in page-locked memory, from which (and to which) the device copies without waiting."""
    array = np.asarray(array)
    if not array.size:
        return array.copy()
    memory = cupy.cuda.alloc_pinned_memory(array.nbytes)
    copy = np.frombuffer(memory, array.dtype, array.size).reshape(array.shape)
    copy[...] = array
    return copy


class HostCopy:
    """A copy from the device under way: :func:`copy_to_host`."""

    def __init__(self, array: cupy.ndarray) -> None:
        current = cupy.cuda.get_current_stream()
        # the device array and the page-locked memory must both outlive the transfer
        self._source = array if array.flags.c_contiguous else array.copy(order="C")
        self._values = pinned(np.empty(array.shape, array.dtype))
        self._source.get(stream=current, out=self._values, blocking=False)
        self._done = current.record()

    @property
    def done(self) -> bool:
        """Has the copy ended?"""
        return self._done.done

    def wait(self) -> np.ndarray:
        """The values; waits for the copy, not for what was given to the device after it."""
        self._done.synchronize()
        return self._values


def copy_to_host(array: cupy.ndarray) -> HostCopy:
    """Start copying ``array`` to the host without waiting, say the losses of a step while the next one runs."""
    return HostCopy(array)
