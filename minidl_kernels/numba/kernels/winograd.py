"""Convolution with 3x3 kernels and stride 1 by Winograd's algorithm, forward and both gradients, in float32.

Winograd, "Arithmetic complexity of computations", 1980; for neural networks Lavin and Gray, "Fast algorithms for
convolutional neural networks", 2016. A tile of 4x4 outputs depends on 6x6 inputs d. With matrices A, B, G::

    y = A.T @ [ (G @ w @ G.T) * (B.T @ d @ B) ] @ A

gives it from the 3x3 kernel w with 36 multiplications instead of 144. Summed over channels, position (i, j) of the 6x6
products is a matrix product of its own: (tiles, input channels) by (input channels, output channels). So there are 36
matrix products, with a transformation of each tile before and after. The gradient for the input is the convolution of
the output's gradient with turned kernels; that for the weight is the transpose of the formula, ::

    dw = G.T @ [ (A @ dy @ A.T) * (B.T @ d @ B) ] @ G

summed over tiles: 36 matrix products (output channels, tiles) by (tiles, input channels).

The price is accuracy: numbers of different size are added and subtracted. The largest error, as part of the largest
output, is :data:`ERROR` at most, measured by ``tests/minidl_kernels/numba/kernels/test_winograd.py`` (a few times that
of the direct sum); infinities and NaN spread over their tile, and numbers so large that the
transformed ones overflow become such. ``minidl_kernels.numba.kernels.winograd.enabled = False``, or
``MINIDL_WINOGRAD=0`` in the environment, turns it off.

The loops are in :mod:`minidl_kernels.numba.kernels.winograd_loops`.
"""

from __future__ import annotations

import functools
import math
import os
from typing import Any

import numpy as np

from minidl.backend import kernel
from minidl_kernels.numba.kernels.conv import flat, host_floats, scratch, workspace, zeros
from minidl_kernels.numba.kernels.winograd_loops import (
    POSITIONS,
    Back,
    Images,
    L,
    M,
    N,
    Result,
    Sizes,
    Tiles,
    Weight,
    Work,
    convolve_by_outputs,
    convolve_by_tiles,
    weight_grad_by_tiles,
    weight_grad_by_weights,
)  # fmt: skip
from minidl_kernels.numba.simd.vectors import ROWS

#: False turns these kernels off
enabled = os.environ.get("MINIDL_WINOGRAD", "1") not in ("0", "")

#: largest error as part of the largest output
ERROR = 5e-6

#: tiles whose transforms are in the cache together
TILES = 32

#: tasks into which work is cut if there is so much: enough for as many threads
_TASKS = 8
#: bytes of partial sums of the gradient of the weight
_PARTS_BYTES = 8 << 20
#: bytes of transformed tiles up to which they are kept all together for it
_TILES_BYTES = 32 << 20


# Plans: what of a call depends on shapes alone


def _grid(out_size: tuple[int, int]) -> tuple[int, int]:
    return -(-out_size[0] // M), -(-out_size[1] // M)


@functools.lru_cache(maxsize=256)
def _places(size: tuple, out_size: tuple, padding: tuple) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Where pixels of the input, the output and the output's gradient lie in the buffers of images."""
    _, columns = _grid(out_size)

    def pixels(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
        y, x = np.divmod(np.arange(height * width), width)
        return y, x

    y, x = pixels(*size)
    place_in = ((y + padding[0]) * (columns * M + N - M) + x + padding[1]) * L
    y, x = pixels(*out_size)
    place_out = (((y // M) * columns + x // M) * M * M + y % M * M + x % M) * L
    place_gradient = (y * columns * M + x) * L
    return place_in, place_out, place_gradient


#: places of vectors one after the other, as many as a block of 16 has columns
_VECTORS = np.arange(L) * L


@functools.lru_cache(maxsize=64)
def _pairs(channels: int) -> np.ndarray:
    return np.arange(channels) * (2 * L)


@functools.lru_cache(maxsize=64)
def _tile_offsets(tiles: int, channels: int) -> np.ndarray:
    """Where tile t of a position begins among the tiles of ``channels`` channels."""
    t = np.arange(tiles)
    return (t // ROWS * (channels // L) * ROWS + t % ROWS) * L


def _wide(channels: int) -> int:
    """``channels`` in whole pairs of vectors."""
    return channels + -channels % (2 * L)


def _panels(tiles: int) -> int:
    """``tiles`` in whole panels."""
    return tiles + -tiles % ROWS


def _rows(grid: tuple[int, int], n: int) -> int:
    """Rows of tiles that are worked on together."""
    most = max(1, TILES // grid[1])
    return -(-n * grid[0] // -(-n * grid[0] // most))


def _image(rows: int, grid: tuple[int, int]) -> int:
    """Size of the buffer for a channel's pixels under ``rows`` rows of tiles, and for other small things."""
    pixels = rows * (M + 2) * (grid[1] * M + 2)
    return max(pixels, _panels(rows * grid[1]) * M * M, 10 * L + 10, POSITIONS + 3 * L) * L


def faster(primitive: str, n: int, inputs: int, outputs: int, out_size: tuple[int, int]) -> bool:
    """Is this faster than :mod:`minidl_kernels.numba.kernels.conv`?

    Measured by ``benchmarks/conv_rules.py``. It is nearly always, up to four times; kernels that are used for a few
    tiles only are not worth their transformation. On one AVX-512 core, time of the direct way by that of this one::

        n, channels  size   forward  input  weight
         1, 64 -> 64    4      1.4     1.2     2.0
         1, 256 -> 256  4      0.8     0.8     1.6
         1, 256 -> 256  5      0.9     0.9     1.9
         1, 256 -> 256  7      1.2     1.3     2.1
         4, 256 -> 256  2      0.9     0.9     2.0
         4, 256 -> 256  4      1.8     1.7     2.4
        32, 256 -> 256  8      2.9     2.9     3.3
        32, 64 -> 64   32      2.6     2.5     2.9
        32, 16 -> 16   32      1.2     1.2     1.4
    """
    return primitive == "conv2d_weight_grad" or n * out_size[0] * out_size[1] >= 36


# Kernels


def _convolve(
    x: np.ndarray, weight: np.ndarray, bias: Any, outputs: int, padding: tuple, turned: bool, out: np.ndarray
) -> None:
    (n, inputs), size, out_size, dtype = x.shape[:2], x.shape[2:], out.shape[2:], x.dtype
    grid = _grid(out_size)
    rows = _rows(grid, n)
    tiles = _panels(rows * grid[1])
    blocks = -(-n * grid[0] // rows)
    groups = _wide(outputs) // (2 * L)
    place_in, place_out, _ = _places(size, out_size, padding)
    # positions are a vector further apart than they need, so that they do not all fall into the same part of the cache
    sizes = Sizes(_image(rows, grid), tiles * inputs + L, tiles * 2 * L + L, inputs * 2 * L + L)
    call = (
        Work(n, inputs, outputs, *out_size, *grid, rows),
        Images(flat(x), inputs, *size, padding[0], place_in, False),
        Weight(flat(weight), turned, _VECTORS),
        Result(out.reshape(-1), zeros(outputs, dtype) if bias is None else flat(bias), place_out),
        _pairs(inputs),
    )
    if blocks * tiles > outputs:
        parts = max(1, min(groups, -(-_TASKS // blocks)))
        kernels = scratch("transformed", POSITIONS * _wide(outputs) * inputs, dtype)
        buffers = workspace(sizes.image + POSITIONS * (sizes.tiles + sizes.products), dtype)
        convolve_by_tiles(*call, parts, kernels, buffers, sizes)
    else:
        all_tiles = scratch("transformed", POSITIONS * sizes.tiles * blocks, dtype)
        buffers = workspace(sizes.image + POSITIONS * (sizes.products + sizes.kernels), dtype)
        convolve_by_outputs(*call, all_tiles, buffers, sizes)


def convolve(
    x: np.ndarray, weight: np.ndarray, bias: np.ndarray | None = None, *, stride: tuple, padding: tuple,
    dilation: tuple, groups: int, out: Any = None,
) -> np.ndarray:  # fmt: skip
    if out is None:
        size = tuple(n + 2 * p - 2 for n, p in zip(x.shape[2:], padding))
        out = (np.empty((x.shape[0], weight.shape[0], *size), x.dtype),)
    _convolve(x, weight, bias, weight.shape[0], tuple(padding), False, out[0])
    return out[0]


def input_grad(
    dout: np.ndarray, weight: np.ndarray, *, input_size: tuple, stride: tuple, padding: tuple, dilation: tuple,
    groups: int, out: Any = None,
) -> np.ndarray:  # fmt: skip
    if out is None:
        out = (np.empty((dout.shape[0], weight.shape[1], *input_size), dout.dtype),)
    _convolve(dout, weight, None, weight.shape[1], tuple(2 - p for p in padding), True, out[0])
    return out[0]


def weight_grad(
    dout: np.ndarray, x: np.ndarray, *, kernel_size: tuple, stride: tuple, padding: tuple, dilation: tuple,
    groups: int, out: Any = None,
) -> np.ndarray:  # fmt: skip
    (n, outputs), inputs, dtype = dout.shape[:2], x.shape[1], x.dtype
    result = np.empty((outputs, inputs, 3, 3), dtype) if out is None else out[0]
    size, out_size, padding = x.shape[2:], dout.shape[2:], tuple(padding)
    grid = _grid(out_size)
    place_in, _, place_g = _places(size, out_size, padding)
    images = Images(flat(x), inputs, *size, padding[0], place_in, False)
    gradients = Images(flat(dout), outputs, *out_size, 0, place_g, True)
    all_tiles, rows = _panels(n * grid[0] * grid[1]), _rows(grid, n)
    if all_tiles <= 8 * min(inputs, outputs) and 4 * POSITIONS * all_tiles * (inputs + outputs) <= _TILES_BYTES:
        # blocks begin with a panel
        rows += -rows % (ROWS // math.gcd(ROWS, grid[1]))
        groups = max(1, outputs // 64)
        high = -(-outputs // L // groups) * L
        sizes = Sizes(_image(rows, grid), all_tiles * _wide(inputs) + L, all_tiles * outputs + L, 0)
        both = scratch("transformed", POSITIONS * (sizes.tiles + sizes.products), dtype)
        cut = POSITIONS * sizes.tiles
        weight_grad_by_weights(
            Work(n, inputs, outputs, *out_size, *grid, rows), images, gradients, result.reshape(-1),
            Back(zeros(L, dtype), _VECTORS, _tile_offsets(all_tiles, _wide(inputs))), groups,
            Tiles(both[:cut], 0, sizes.tiles, _wide(inputs) // L),
            Tiles(both[cut:], 0, sizes.products, outputs // L),
            workspace(sizes.image + POSITIONS * (high * 2 * L + L), dtype), sizes,
        )  # fmt: skip
    else:
        blocks = -(-n * grid[0] // rows)
        tiles = _panels(rows * grid[1])
        sums = POSITIONS * outputs * _wide(inputs)
        parts = max(1, min(blocks, _TASKS, _PARTS_BYTES // (4 * sums)))
        groups = max(1, min(outputs // L, -(-_TASKS // parts)))
        high = -(-outputs // L // groups) * L
        sizes = Sizes(_image(rows, grid), tiles * _wide(inputs) + L, tiles * high + L, 0)
        weight_grad_by_tiles(
            Work(n, inputs, outputs, *out_size, *grid, rows), images, gradients, result.reshape(-1),
            Back(zeros(L, dtype), _VECTORS, _tile_offsets(tiles, _wide(inputs))), parts, groups,
            scratch("transformed", parts * sums, dtype),
            workspace(sizes.image + POSITIONS * (sizes.tiles + sizes.products), dtype), sizes,
        )  # fmt: skip
    return result


def _tiles_served(stride: tuple, padding: tuple, dilation: tuple, groups: int, *arrays: Any) -> bool:
    return (
        enabled
        and stride == (1, 1) == dilation
        and groups == 1
        and max(padding) <= 2
        and host_floats(*arrays)
        and arrays[0].dtype == np.float32
    )


def _forward_served(
    x: Any, weight: Any, bias: Any = None, *, stride: tuple, padding: tuple, dilation: tuple, groups: int
) -> bool:
    """float32, 3x3, stride 1, padding <= 2, whole vectors of channels, more than a few tiles"""
    if not _tiles_served(stride, padding, dilation, groups, x, weight, bias) or weight.shape[2:] != (3, 3):
        return False
    outputs, inputs = weight.shape[:2]
    size = tuple(n + 2 * p - 2 for n, p in zip(x.shape[2:], padding))
    return _whole(inputs, outputs) and min(size) > 0 and faster("conv2d", len(x), inputs, outputs, size)


def _input_served(
    dout: Any, weight: Any, *, input_size: tuple, stride: tuple, padding: tuple, dilation: tuple, groups: int
) -> bool:
    """float32, 3x3, stride 1, padding <= 2, whole vectors of channels, more than a few tiles"""
    if not _tiles_served(stride, padding, dilation, groups, dout, weight) or weight.shape[2:] != (3, 3):
        return False
    outputs, inputs = weight.shape[:2]
    return _whole(inputs, outputs) and faster("conv2d_input_grad", len(dout), outputs, inputs, input_size)


def _weight_served(
    dout: Any, x: Any, *, kernel_size: tuple, stride: tuple, padding: tuple, dilation: tuple, groups: int
) -> bool:
    """float32, 3x3, stride 1, padding <= 2, whole vectors of channels"""
    if not _tiles_served(stride, padding, dilation, groups, dout, x) or kernel_size != (3, 3):
        return False
    inputs, outputs = x.shape[1], dout.shape[1]
    return _whole(inputs, outputs) and faster("conv2d_weight_grad", len(x), inputs, outputs, dout.shape[2:])


def _whole(inputs: int, outputs: int) -> bool:
    return inputs % L == 0 and outputs % L == 0


for _name, _when, _function in (
    ("conv2d", _forward_served, convolve),
    ("conv2d_input_grad", _input_served, input_grad),
    ("conv2d_weight_grad", _weight_served, weight_grad),
):
    kernel(
        _name, backend="numba", when=_when, dtypes=("float32",), out=True,
        note=f"Winograd F(4x4, 3x3); error up to {ERROR:.0e} of the largest output; MINIDL_WINOGRAD=0 turns it off",
        tolerance={"float32": ERROR, "nonfinite": "may spread"},
    )(_function)  # fmt: skip
