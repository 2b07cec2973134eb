"""Sample inputs for every primitive, for tests of gradients and of kernels.

``SAMPLES[name](rng)`` yields ``(args, params)`` pairs: float64 arrays (integer and boolean ones where the primitive
wants them), with broadcast, 0-d, zero-size and non-contiguous inputs among them, and small enough for finite
differences. Floating-point values keep away from kinks, poles and ties by being random.

A kernel package adds entries for primitives of its own with :func:`samples`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

Sample = tuple[tuple, dict[str, Any]]
#: primitive name -> function(rng) that yields (args, params)
SAMPLES: dict[str, Callable[[np.random.Generator], Iterable[Sample]]] = {}


def samples(*names: str) -> Callable[[Callable], Callable]:
    """Decorator: the generator function makes the samples of these primitives."""

    def add(function: Callable) -> Callable:
        for name in names:
            if name in SAMPLES:
                raise ValueError(f"samples for {name!r} exist already")
            SAMPLES[name] = function
        return function

    return add


def strided(x: np.ndarray) -> np.ndarray:
    """The values of ``x`` in memory with gaps: every second element of the last axis of a larger array, backwards."""
    view = np.full((*x.shape[:-1], 2 * x.shape[-1]), 7).astype(x.dtype)[..., ::-2]
    view[...] = x
    return view


def transposed(x: np.ndarray) -> np.ndarray:
    """The values of ``x`` in Fortran order."""
    return np.asfortranarray(x)


# at the end, because they use what is above
from minidl.testing.samples import basic, layers  # noqa: E402
