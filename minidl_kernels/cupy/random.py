"""Random bits and dropout, bit for bit the reference's."""

from __future__ import annotations

from typing import Any

import cupy
import numpy as np

from minidl.backend import kernel
from minidl_kernels.cupy.launch import FLOATS, MOST, accumulation, contiguous, floats, launch, over_elements


def _some(*, key: int, offset: int, size: int) -> bool:
    """1 to 2^30 words"""
    return 0 < size <= MOST


@kernel("random_bits", backend="cupy", when=_some, dtypes=("uint32",), note="a Philox block per thread")
def random_bits(*, key: int, offset: int, size: int) -> Any:
    out = cupy.empty(size, np.uint32)
    launch(
        "random", "random_bits", "float32", *over_elements(size // 4 + 2), out, size, np.uint64(key), np.uint64(offset)
    )
    return out


def _drops(x: Any, *, p: float, key: int, offset: int) -> bool:
    """floating-point array, not empty; p < 1"""
    return floats(x) and p < 1


@kernel("keyed_dropout", backend="cupy", when=_drops, dtypes=FLOATS, note="makes its mask as it goes")
def dropout(x: Any, *, p: float, key: int, offset: int) -> Any:
    x = contiguous(x)
    y = cupy.empty(x.shape, x.dtype)
    scale = float(accumulation(x.dtype).type(1 / (1 - p)))
    launch(
        "random", "dropout<T>", x.dtype, *over_elements(x.size // 4 + 2),
        x, y, x.size, np.uint64(key), np.uint64(offset), np.uint32(round(p * (1 << 24))), scale,
    )  # fmt: skip
    return y
