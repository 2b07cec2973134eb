"""Data parallelism: one captured step over several devices.

The batch (the first axis of every input of the step) is split over a mesh of devices, everything else is replicated.
XLA's partitioner does the rest: each device computes on its part and gradients are summed by an all-reduce.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

_active: list[Mesh] = []


@contextlib.contextmanager
def use_mesh(devices: Sequence[Any] | int | None = None) -> Iterator[Mesh]:
    """Steps captured by ``minidl.jit`` inside run data-parallel over ``devices`` (a number of them, or all).

    Raises ValueError if there are not that many. A step's inputs must have a first axis that the number of devices
    divides.
    """
    have = jax.devices()
    if isinstance(devices, int):
        if devices > len(have):
            raise ValueError(f"use_mesh: {devices} devices wanted, JAX has {len(have)}: {have}")
        devices = have[:devices]
    mesh = Mesh(np.array(list(devices or have)), ("data",))
    _active.append(mesh)
    try:
        yield mesh
    finally:
        _active.pop()


def active_mesh() -> Mesh | None:
    """The mesh of the innermost :func:`use_mesh`."""
    return _active[-1] if _active else None


def split_sharding(mesh: Mesh, shape: tuple[int, ...]) -> NamedSharding:
    """How an input of this shape is spread: its first axis over the mesh; what has no axes is replicated."""
    if not shape:
        return whole_sharding(mesh)
    if shape[0] % mesh.size:
        raise ValueError(f"use_mesh: a batch of {shape[0]} cannot be split evenly over {mesh.size} devices")
    return NamedSharding(mesh, PartitionSpec("data"))


def whole_sharding(mesh: Mesh) -> NamedSharding:
    """A copy on every device."""
    return NamedSharding(mesh, PartitionSpec())
