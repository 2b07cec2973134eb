"""The table of samples, and what the modules that fill it have in common."""

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
                raise ValueError(f"samples for {name!r} already exist")
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


def few_values(rng: np.random.Generator, shape: tuple) -> np.ndarray:
    """Small whole numbers, so that ties and equal pairs occur."""
    return rng.integers(-2, 3, shape).astype(float)
