"""The table of strategies, and what the modules that fill it are written with."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from minidl.testing.case import Case


def hypothesis_library() -> Any:
    """The hypothesis module; ImportError that names the extra if it is not installed."""
    try:
        import hypothesis
    except ImportError as error:
        raise ImportError('checking kernels needs hypothesis: pip install "minidl[dev]"') from error
    return hypothesis


@dataclasses.dataclass(frozen=True)
class Floats:
    """An array of the checked dtype: normal deviates, or uniform numbers between ``low`` and ``high``."""

    shape: tuple[int, ...]
    low: float | None = None
    high: float = 1.0
    scale: float = 1.0

    def make(self, rng: np.random.Generator, dtype: np.dtype) -> np.ndarray:
        if self.low is None:
            return np.asarray(self.scale * rng.normal(size=self.shape)).astype(dtype)
        return np.asarray(rng.uniform(self.low, self.high, self.shape)).astype(dtype)


@dataclasses.dataclass(frozen=True)
class Ints:
    """An int64 array of numbers from ``low`` up to, not including, ``high``."""

    shape: tuple[int, ...]
    low: int
    high: int

    def make(self, rng: np.random.Generator, dtype: np.dtype) -> np.ndarray:
        return np.asarray(rng.integers(self.low, self.high, self.shape), np.int64)


@dataclasses.dataclass(frozen=True)
class Bools:
    """A boolean array."""

    shape: tuple[int, ...]

    def make(self, rng: np.random.Generator, dtype: np.dtype) -> np.ndarray:
        return np.asarray(rng.random(self.shape) < 0.6)


Strategy = Callable[[Callable], tuple[list, dict]]
STRATEGIES: dict[str, Strategy] = {}


def strategy(*names: str) -> Callable[[Strategy], Strategy]:
    """Decorator: the function makes calls of these primitives (a kernel package may add its own)."""

    def add(function: Strategy) -> Strategy:
        STRATEGIES.update(dict.fromkeys(names, function))
        return function

    return add


def realize(name: str, args: list, params: dict, seed: int, dtype: Any) -> Case:
    """The case with arrays made for the descriptions among ``args``."""
    rng = np.random.default_rng(seed)
    made = [a.make(rng, np.dtype(dtype)) if hasattr(a, "make") else a for a in args]
    return Case(name, made, params)


# Dimensions. Small ones shrink well; the large ones leave remainders after vector widths, tiles and blocks.


def st() -> Any:
    """``hypothesis.strategies``."""
    return hypothesis_library().strategies


def draw_dim(draw: Callable, least: int = 0, most: int = 5) -> int:
    return draw(st().integers(least, most))


def draw_long_dim(draw: Callable, least: int = 0) -> int:
    return draw(st().one_of(st().integers(least, 5), st().sampled_from([8, 15, 16, 17, 33, 63, 64, 65, 130, 257])))


def draw_shape(draw: Callable, least: int = 0, most: int = 3, min_side: int = 0) -> tuple[int, ...]:
    ndim = draw(st().integers(least, most))
    sides = [draw_dim(draw, min_side, 4) for _ in range(max(ndim - 1, 0))]
    return tuple(sides + ([draw_long_dim(draw, min_side)] if ndim else []))


def draw_axis(draw: Callable, ndim: int, with_none: bool = True, several: bool = True) -> Any:
    choices = [st().integers(-ndim, ndim - 1)] if ndim else []
    if with_none:
        choices.insert(0, st().none())
    if several and ndim:
        choices.append(st().sets(st().integers(0, ndim - 1), min_size=1).map(lambda s: tuple(sorted(s))))
    return draw(st().one_of(*choices))


# Gradient primitives

#: gradient primitive -> the primitive in whose gradient it is called; names that begin with its name need no entry
PARENTS = {
    "attention_backward": "scaled_dot_product_attention",
    "getitem_grad": "getitem",
    "max_pool_grad": "max_pool2d",
}


def parent_of(name: str) -> str | None:
    """The primitive in whose gradient the primitive ``name`` is called, if that has a strategy."""
    if name in PARENTS:
        return PARENTS[name] if PARENTS[name] in STRATEGIES else None
    for ending in ("_input_grad", "_weight_grad", "_grad", "_backward"):
        if name.endswith(ending) and name.removesuffix(ending) in STRATEGIES:
            return name.removesuffix(ending)
    return None
