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

A vector holds as many channels of one pixel, or of one position of a tile. What is transformed is used while it is in
the cache: where there are many tiles, a few of them (:data:`TILES`) are worked on at a time for all channels, where
there are many weights, a few channels for all tiles.
"""

from __future__ import annotations

import functools
import math
import os
from typing import Any

import numpy as np
from numba import get_thread_id, prange

from minidl.backend import kernel
from minidl_kernels.numba.kernels.conv import flat, host_floats, scratch, workspace, zeros
from minidl_kernels.numba.simd.compiled import compiled
from minidl_kernels.numba.simd.tiles import gather_columns, product, sandwich, scatter_columns
from minidl_kernels.numba.simd.vectors import ROWS, lanes

#: False turns these kernels off
enabled = os.environ.get("MINIDL_WINOGRAD", "1") not in ("0", "")

#: largest error as part of the largest output
ERROR = 5e-6

#: tiles whose transforms are in the cache together
TILES = 32

#: outputs, and inputs, along the side of a tile
_M, _N = 4, 6
_POSITIONS = _N * _N
_L = lanes(np.float32)
#: tasks into which work is cut if there is so much: enough for as many threads
_TASKS = 8
#: bytes of partial sums of the gradient of the weight
_PARTS_BYTES = 8 << 20
#: bytes of transformed tiles up to which they are kept all together for it
_TILES_BYTES = 32 << 20
# rows of the products that give the weight's gradient; a whole number of times in a vector
_WEIGHT_ROWS = max(4, _L // 2)


def matrices(points: tuple[float, ...], outputs: int, taps: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A.T, B.T, G of the algorithm of Toom and Cook that evaluates polynomials at ``points`` and at infinity."""
    n = outputs + taps - 1
    at = np.zeros((outputs, n))
    bt = np.zeros((n, n))
    g = np.zeros((n, taps))
    for j, p in enumerate(points):
        others = [q for q in points if q != p]
        at[:, j] = p ** np.arange(outputs)
        bt[j, : n - 1] = np.poly(others)[::-1]
        g[j] = p ** np.arange(taps) / np.prod([p - q for q in others])
    at[-1, -1] = g[-1, -1] = 1
    bt[-1] = np.poly(points)[::-1]
    return at, np.round(bt, 14), g  # zeros without rounding errors


# These points give a quarter of the error that 0, 1, -1, 2, -2 give.
_AT, _BT, _G = matrices((0.0, 0.5**0.5, -(0.5**0.5), 2**0.5, -(2**0.5)), _M, 3)

_transform_input = sandwich(_BT)
_transform_kernel = sandwich(_G)
_transform_turned_kernel = sandwich(_G[:, ::-1])
_transform_output = sandwich(_AT)
_transform_output_gradient = sandwich(_AT.T)
_transform_products = sandwich(_G.T)

_multiply = product(ROWS, row_step=_L, step=1, chunk=_L)
_multiply_weight, _multiply_add_weight = (
    product(_WEIGHT_ROWS, row_step=1, step=_L, chunk=ROWS, vector_step=ROWS * _L, add=add) for add in (False, True)
)


# Compiled. Flat arrays throughout; "vector" v of an array begins at v * _L.


@compiled
def _load_pixels(x, at, plane, first, end, place, shift, image):
    """Pixels first to end of _L channels, the first channel's at ``at``: pixel p becomes the vector that begins at
    place[p] - shift in ``image``."""
    if end - first < _L:
        for p in range(first, end):
            for c in range(_L):
                image[place[p] - shift + c] = x[at + c * plane + p]
        return
    for p in range(first, end, _L):
        q = min(p, end - _L)
        scatter_columns(x, at + q, plane, image, -shift, place, q)


@compiled
def _store_pixels(image, place, shift, first, end, bias, at_bias, out, at, plane):
    """The other way round, with a bias for each channel."""
    if end - first < _L:
        for p in range(first, end):
            for c in range(_L):
                out[at + c * plane + p] = image[place[p] - shift + c] + bias[at_bias + c]
        return
    for p in range(first, end, _L):
        q = min(p, end - _L)
        gather_columns(image, -shift, place, q, bias, at_bias, out, at + q, plane)


@compiled
def _transform_images(
    x, channels, size, padding, grid, first, end, low, high, place, gradient, image, tiles, at_tiles, step, chunks
):  # fmt: skip
    """Transform rows of tiles ``first`` to ``end`` (counted through all images) of channels ``low`` to ``high``.

    ``x`` is the input, or with ``gradient`` the output's gradient. ``tiles`` gets them from ``at_tiles`` on as
    [position][tile // ROWS][channel // _L][tile % ROWS][channel % _L], positions ``step`` apart, with ``chunks``
    vectors of channels. ``image`` is for the pixels of one image.
    """
    height, width = size
    overlap = 0 if gradient else _N - _M
    columns = grid[1] * _M + overlap
    row = first
    while row < end:
        n, top = row // grid[0], row % grid[0]
        rows = min(grid[0] - top, end - row)
        image[: (rows * _M + overlap) * columns * _L] = 0
        y = max(0, top * _M - padding[0])
        y_end = max(y, min(height, (top + rows) * _M + overlap - padding[0]))
        for c in range(low, high, _L):
            _load_pixels(
                x, (n * channels + c) * height * width, height * width, y * width, y_end * width, place,
                top * _M * columns * _L, image,
            )  # fmt: skip
            for i in range(rows):
                for j in range(grid[1]):
                    tile = (row - first + i) * grid[1] + j
                    to = at_tiles + ((tile // ROWS * chunks + (c - low) // _L) * ROWS + tile % ROWS) * _L
                    at = (i * columns + j) * _M * _L
                    if gradient:
                        _transform_output_gradient(image, at, columns * _L, _L, tiles, to, step)
                    else:
                        _transform_input(image, at, columns * _L, _L, tiles, to, step)
        row += rows


@compiled
def _zero_tiles(tiles, at_tiles, step, chunks, first):
    """Fill up the last panel of tiles, from tile ``first`` on."""
    if first % ROWS:
        for p in range(_POSITIONS):
            for c in range(chunks):
                at = at_tiles + p * step + (first // ROWS * chunks + c) * ROWS * _L
                tiles[at + first % ROWS * _L : at + ROWS * _L] = 0


@compiled
def _transform_kernels(weight, inputs, outputs, first, end, turned, vectors, scratch, kernels, to, step):
    """Kernels as [position][input][output % 2 _L] from ``to`` on, positions ``step`` apart, for one 2 _L of outputs.

    With ``turned`` they are those of the gradient for the input, for which inputs and outputs change places.
    """
    if end - first < 2 * _L:
        for p in range(_POSITIONS):
            kernels[to + p * step : to + p * step + 2 * _L * inputs] = 0
    for o in range(first, end, _L):
        for c in range(0, inputs, _L):
            if not turned:
                for k in range(9):
                    scatter_columns(weight, (o * inputs + c) * 9 + k * _L, inputs * 9, scratch, k * _L * _L, vectors, 0)
                for i in range(_L):
                    at = to + (c + i) * 2 * _L + o - first
                    _transform_kernel(scratch, i * 9 * _L, 3 * _L, _L, kernels, at, step)
            else:
                for i in range(_L):
                    start = ((c + i) * outputs + o) * 9
                    for k in range(9 * _L):
                        scratch[k] = weight[np.uintp(start + k)]
                    scatter_columns(scratch, 0, 9, scratch, 10 * _L, vectors, 0)
                    at = to + (c + i) * 2 * _L + o - first
                    _transform_turned_kernel(scratch, 10 * _L, 3 * _L, _L, kernels, at, step)


@compiled
def _multiply_block(
    tiles, at_tiles, step_tiles, kernels, at_kernels, step_kernels, inputs, outputs, group, begin, end, grid, out_size,
    place, pairs, bias, products, step_products, image, out,
):  # fmt: skip
    """2 _L output channels of rows of tiles ``begin`` to ``end``."""
    chunks = inputs // _L
    for p in range(_POSITIONS):
        for panel in range(((end - begin) * grid[1] + ROWS - 1) // ROWS):
            _multiply(
                tiles, at_tiles + p * step_tiles + panel * chunks * ROWS * _L, ROWS * _L,
                kernels, at_kernels + p * step_kernels, pairs, 0, chunks,
                products, p * step_products + panel * ROWS * 2 * _L, 2 * _L,
            )  # fmt: skip
    plane = out_size[0] * out_size[1]
    for o in range(group * 2 * _L, min(outputs, (group + 1) * 2 * _L), _L):
        for tile in range((end - begin) * grid[1]):
            _transform_output(
                products, tile * 2 * _L + o % (2 * _L), _N * step_products, step_products,
                image, tile * _M * _M * _L, _L,
            )  # fmt: skip
        row = begin
        while row < end:
            n, top = row // grid[0], row % grid[0]
            rows = min(grid[0] - top, end - row)
            _store_pixels(
                image, place, (top - (row - begin)) * grid[1] * _M * _M * _L, top * _M * out_size[1],
                min(out_size[0], (top + rows) * _M) * out_size[1], bias, o, out, (n * outputs + o) * plane, plane,
            )  # fmt: skip
            row += rows


@compiled(parallel=True)
def _convolve_by_tiles(
    x, weight, bias, out, samples, inputs, outputs, size, out_size, padding, grid, rows, parts, turned, place_in,
    place_out, vectors, pairs, kernels, buffers, shape,
):  # fmt: skip
    """``out`` (samples, outputs, *out_size), ``rows`` rows of tiles at a time. Kernels are transformed first.

    ``shape`` has the sizes of the parts of a buffer: of the image, of a position's tiles and of a position's products.
    """
    groups = (outputs + 2 * _L - 1) // (2 * _L)
    step = groups * inputs * 2 * _L
    for group in prange(groups):
        first = group * 2 * _L
        _transform_kernels(
            weight, inputs, outputs, first, min(outputs, first + 2 * _L), turned, vectors, buffers[get_thread_id()],
            kernels, first * inputs, step,
        )  # fmt: skip
    blocks = (samples * grid[0] + rows - 1) // rows
    for task in prange(blocks * parts):
        block, part = task // parts, task % parts
        buffer = buffers[get_thread_id()]
        image, tiles = buffer[: shape[0]], buffer[shape[0] : shape[0] + _POSITIONS * shape[1]]
        products = buffer[shape[0] + _POSITIONS * shape[1] :]
        begin, end = block * rows, min(samples * grid[0], (block + 1) * rows)
        _transform_images(
            x, inputs, size, padding, grid, begin, end, 0, inputs, place_in, False, image, tiles, 0, shape[1],
            inputs // _L,
        )  # fmt: skip
        for group in range(part * groups // parts, (part + 1) * groups // parts):
            _multiply_block(
                tiles, 0, shape[1], kernels, group * inputs * 2 * _L, step, inputs, outputs, group, begin, end, grid,
                out_size, place_out, pairs, bias, products, shape[2], image, out,
            )  # fmt: skip


@compiled(parallel=True)
def _convolve_by_outputs(
    x, weight, bias, out, samples, inputs, outputs, size, out_size, padding, grid, rows, turned, place_in, place_out,
    vectors, pairs, all_tiles, buffers, shape,
):  # fmt: skip
    """The same, 2 _L outputs at a time: kernels are used while they are in the cache. Tiles are transformed first.

    ``shape`` has the sizes of the image, of a position's tiles, of its products and of its kernels.
    """
    blocks = (samples * grid[0] + rows - 1) // rows
    chunks = inputs // _L
    for task in prange(blocks * chunks):
        block, chunk = task // chunks, task % chunks
        _transform_images(
            x, inputs, size, padding, grid, block * rows, min(samples * grid[0], (block + 1) * rows), chunk * _L,
            (chunk + 1) * _L, place_in, False, buffers[get_thread_id()],
            all_tiles, block * _POSITIONS * shape[1] + chunk * ROWS * _L, shape[1], chunks,
        )  # fmt: skip
    for group in prange((outputs + 2 * _L - 1) // (2 * _L)):
        buffer = buffers[get_thread_id()]
        image, kernels = buffer[: shape[0]], buffer[shape[0] : shape[0] + _POSITIONS * shape[3]]
        products = buffer[shape[0] + _POSITIONS * shape[3] :]
        first = group * 2 * _L
        _transform_kernels(
            weight, inputs, outputs, first, min(outputs, first + 2 * _L), turned, vectors, image, kernels, 0, shape[3]
        )
        for block in range(blocks):
            _multiply_block(
                all_tiles, block * _POSITIONS * shape[1], shape[1], kernels, 0, shape[3], inputs, outputs, group,
                block * rows, min(samples * grid[0], (block + 1) * rows), grid, out_size, place_out, pairs, bias,
                products, shape[2], image, out,
            )  # fmt: skip


@compiled
def _transform_back(products, at, step, zero, vectors, scratch, out, to):
    """The gradient of the kernels of _L inputs, (_L, 3, 3), from the 36 vectors of products that are ``step`` apart."""
    _transform_products(products, at, _N * step, step, scratch, 0, _L)
    # of _L columns 9 are meant; the next row is written over the others
    gather_columns(scratch, 0, vectors, 0, zero, 0, scratch, _L * _L, 9)
    for k in range(9 * _L):
        out[np.uintp(to + k)] = scratch[np.uintp(_L * _L + k)]


@compiled(parallel=True)
def _weight_grad_by_tiles(
    g, x, out, samples, inputs, outputs, size, out_size, padding, grid, rows, parts, groups, place_in, place_g, zero,
    vectors, offsets, sums, buffers, shape,
):  # fmt: skip
    """``out`` (outputs, inputs, 3, 3), ``rows`` rows of tiles at a time.

    The sum over tiles is cut into ``parts``, the outputs into ``groups``.
    """
    blocks = (samples * grid[0] + rows - 1) // rows
    columns = (inputs + 2 * _L - 1) // (2 * _L) * 2 * _L
    step = outputs * columns
    for task in prange(parts * groups):
        part, group = task // groups, task % groups
        low, high = group * (outputs // _L) // groups * _L, (group + 1) * (outputs // _L) // groups * _L
        chunks = (high - low) // _L
        buffer = buffers[get_thread_id()]
        image, tiles = buffer[: shape[0]], buffer[shape[0] : shape[0] + _POSITIONS * shape[1]]
        gradients = buffer[shape[0] + _POSITIONS * shape[1] :]
        for p in range(_POSITIONS):
            at = (part * _POSITIONS + p) * step
            sums[at + low * columns : at + high * columns] = 0
        if inputs < columns:
            tiles[:] = 0
        for block in range(part * blocks // parts, (part + 1) * blocks // parts):
            begin, end = block * rows, min(samples * grid[0], (block + 1) * rows)
            _transform_images(
                x, inputs, size, padding, grid, begin, end, 0, inputs, place_in, False, image, tiles, 0, shape[1],
                columns // _L,
            )  # fmt: skip
            _transform_images(
                g, outputs, out_size, (0, 0), grid, begin, end, low, high, place_g, True, image, gradients, 0, shape[2],
                chunks,
            )  # fmt: skip
            count = (end - begin) * grid[1]
            _zero_tiles(tiles, 0, shape[1], columns // _L, count)
            _zero_tiles(gradients, 0, shape[2], chunks, count)
            for p in range(_POSITIONS):
                at = (part * _POSITIONS + p) * step
                for c in range(0, inputs, 2 * _L):
                    for o in range(low, high, _WEIGHT_ROWS):
                        _multiply_add_weight(
                            gradients, p * shape[2] + (o - low) // _L * ROWS * _L + (o - low) % _L, chunks * ROWS * _L,
                            tiles, p * shape[1] + c * ROWS, offsets, 0, (count + ROWS - 1) // ROWS,
                            sums, at + o * columns + c, columns,
                        )  # fmt: skip
    for o in prange(outputs):
        buffer = buffers[get_thread_id()]
        scratch = buffer[_POSITIONS * _L :]
        for c in range(0, inputs, _L):
            for p in range(_POSITIONS):
                at = p * step + o * columns + c
                buffer[p * _L : (p + 1) * _L] = sums[at : at + _L]
                for part in range(1, parts):
                    for i in range(_L):
                        buffer[np.uintp(p * _L + i)] += sums[np.uintp(at + part * _POSITIONS * step + i)]
            _transform_back(buffer, 0, _L, zero, vectors, scratch, out, (o * inputs + c) * 9)


@compiled(parallel=True)
def _weight_grad_by_weights(
    g, x, out, samples, inputs, outputs, size, out_size, padding, grid, rows, groups, place_in, place_g, zero, vectors,
    offsets, tiles, gradients, buffers, shape,
):  # fmt: skip
    """The same, a part of the weights at a time. Tiles are transformed first."""
    blocks = (samples * grid[0] + rows - 1) // rows
    wide, chunks_g = (inputs + 2 * _L - 1) // (2 * _L) * 2, outputs // _L
    count = samples * grid[0] * grid[1]
    for task in prange(blocks * (wide + chunks_g)):
        block, chunk = task // (wide + chunks_g), task % (wide + chunks_g)
        begin, end = block * rows, min(samples * grid[0], (block + 1) * rows)
        buffer = buffers[get_thread_id()]
        panel = begin * grid[1] // ROWS * ROWS * _L
        if chunk < inputs // _L:
            _transform_images(
                x, inputs, size, padding, grid, begin, end, chunk * _L, (chunk + 1) * _L, place_in, False, buffer,
                tiles, panel * wide + chunk * ROWS * _L, shape[1], wide,
            )  # fmt: skip
        elif chunk >= wide:
            c = chunk - wide
            _transform_images(
                g, outputs, out_size, (0, 0), grid, begin, end, c * _L, (c + 1) * _L, place_g, True, buffer,
                gradients, panel * chunks_g + c * ROWS * _L, shape[2], chunks_g,
            )  # fmt: skip
        else:
            for p in range(_POSITIONS):
                for t in range(begin * grid[1], end * grid[1], ROWS):
                    at = p * shape[1] + (t // ROWS * wide + chunk) * ROWS * _L
                    tiles[at : at + ROWS * _L] = 0
    _zero_tiles(tiles, 0, shape[1], wide, count)
    _zero_tiles(gradients, 0, shape[2], chunks_g, count)
    for task in prange(wide // 2 * groups):
        pair, group = task // groups, task % groups
        low, high = group * chunks_g // groups * _L, (group + 1) * chunks_g // groups * _L
        buffer = buffers[get_thread_id()]
        scratch, products = buffer[: shape[0]], buffer[shape[0] :]
        step = (high - low) * 2 * _L + _L
        for p in range(_POSITIONS):
            for o in range(low, high, _WEIGHT_ROWS):
                _multiply_weight(
                    gradients, p * shape[2] + o // _L * ROWS * _L + o % _L, chunks_g * ROWS * _L,
                    tiles, p * shape[1] + pair * 2 * ROWS * _L, offsets, 0, (count + ROWS - 1) // ROWS,
                    products, p * step + (o - low) * 2 * _L, 2 * _L,
                )  # fmt: skip
        for o in range(low, high):
            for c in range(pair * 2 * _L, min(inputs, (pair + 1) * 2 * _L), _L):
                at = (o - low) * 2 * _L + c % (2 * _L)
                _transform_back(products, at, step, zero, vectors, scratch, out, (o * inputs + c) * 9)


# Plans: what of a call depends on shapes alone


def _grid(out_size: tuple[int, int]) -> tuple[int, int]:
    return -(-out_size[0] // _M), -(-out_size[1] // _M)


@functools.lru_cache(maxsize=256)
def _places(size: tuple, out_size: tuple, padding: tuple) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Where pixels of the input, the output and the output's gradient lie in the buffers of images."""
    _, columns = _grid(out_size)

    def pixels(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
        y, x = np.divmod(np.arange(height * width), width)
        return y, x

    y, x = pixels(*size)
    place_in = ((y + padding[0]) * (columns * _M + _N - _M) + x + padding[1]) * _L
    y, x = pixels(*out_size)
    place_out = (((y // _M) * columns + x // _M) * _M * _M + y % _M * _M + x % _M) * _L
    place_gradient = (y * columns * _M + x) * _L
    return place_in, place_out, place_gradient


#: places of vectors one after the other, as many as a block of 16 has columns
_VECTORS = np.arange(_L) * _L


@functools.lru_cache(maxsize=64)
def _pairs(channels: int) -> np.ndarray:
    return np.arange(channels) * (2 * _L)


@functools.lru_cache(maxsize=64)
def _tile_offsets(tiles: int, channels: int) -> np.ndarray:
    """Where tile t of a position begins among the tiles of ``channels`` channels."""
    t = np.arange(tiles)
    return (t // ROWS * (channels // _L) * ROWS + t % ROWS) * _L


def _wide(channels: int) -> int:
    """``channels`` in whole pairs of vectors."""
    return channels + -channels % (2 * _L)


def _panels(tiles: int) -> int:
    """``tiles`` in whole panels."""
    return tiles + -tiles % ROWS


def _rows(grid: tuple[int, int], n: int) -> int:
    """Rows of tiles that are worked on together."""
    most = max(1, TILES // grid[1])
    return -(-n * grid[0] // -(-n * grid[0] // most))


def _image(rows: int, grid: tuple[int, int]) -> int:
    """Size of the buffer for a channel's pixels under ``rows`` rows of tiles, and for other small things."""
    pixels = rows * (_M + 2) * (grid[1] * _M + 2)
    return max(pixels, _panels(rows * grid[1]) * _M * _M, 10 * _L + 10, _POSITIONS + 3 * _L) * _L


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
    groups = _wide(outputs) // (2 * _L)
    place_in, place_out, _ = _places(size, out_size, padding)
    # positions are a vector further apart than they need, so that they do not all fall into the same part of the cache
    shape = (_image(rows, grid), tiles * inputs + _L, tiles * 2 * _L + _L, inputs * 2 * _L + _L)
    first = (
        flat(x), flat(weight), zeros(outputs, dtype) if bias is None else flat(bias), out.reshape(-1), n, inputs,
        outputs, size, out_size, padding, grid, rows,
    )  # fmt: skip
    if blocks * tiles > outputs:
        parts = max(1, min(groups, -(-_TASKS // blocks)))
        _convolve_by_tiles(
            *first, parts, turned, place_in, place_out, _VECTORS, _pairs(inputs),
            scratch("transformed", _POSITIONS * _wide(outputs) * inputs, dtype),
            workspace(shape[0] + _POSITIONS * (shape[1] + shape[2]), dtype), shape,
        )  # fmt: skip
    else:
        _convolve_by_outputs(
            *first, turned, place_in, place_out, _VECTORS, _pairs(inputs),
            scratch("transformed", _POSITIONS * shape[1] * blocks, dtype),
            workspace(shape[0] + _POSITIONS * (shape[2] + shape[3]), dtype), shape,
        )  # fmt: skip


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
    first = (flat(dout), flat(x), result.reshape(-1), n, inputs, outputs, size, out_size, padding, grid)
    all_tiles = _panels(n * grid[0] * grid[1])
    if all_tiles <= 8 * min(inputs, outputs) and 4 * _POSITIONS * all_tiles * (inputs + outputs) <= _TILES_BYTES:
        # blocks begin with a panel
        rows = _rows(grid, n)
        rows += -rows % (ROWS // math.gcd(ROWS, grid[1]))
        groups = max(1, outputs // 64)
        high = -(-outputs // _L // groups) * _L
        shape = (_image(rows, grid), all_tiles * _wide(inputs) + _L, all_tiles * outputs + _L)
        both = scratch("transformed", _POSITIONS * (shape[1] + shape[2]), dtype)
        _weight_grad_by_weights(
            *first, rows, groups, place_in, place_g, zeros(_L, dtype), _VECTORS,
            _tile_offsets(all_tiles, _wide(inputs)), both[: _POSITIONS * shape[1]], both[_POSITIONS * shape[1] :],
            workspace(shape[0] + _POSITIONS * (high * 2 * _L + _L), dtype), shape,
        )  # fmt: skip
    else:
        rows = _rows(grid, n)
        blocks = -(-n * grid[0] // rows)
        tiles = _panels(rows * grid[1])
        sums = _POSITIONS * outputs * _wide(inputs)
        parts = max(1, min(blocks, _TASKS, _PARTS_BYTES // (4 * sums)))
        groups = max(1, min(outputs // _L, -(-_TASKS // parts)))
        high = -(-outputs // _L // groups) * _L
        shape = (_image(rows, grid), tiles * _wide(inputs) + _L, tiles * high + _L)
        _weight_grad_by_tiles(
            *first, rows, parts, groups, place_in, place_g, zeros(_L, dtype), _VECTORS,
            _tile_offsets(tiles, _wide(inputs)), scratch("transformed", parts * sums, dtype),
            workspace(shape[0] + _POSITIONS * (shape[1] + shape[2]), dtype), shape,
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
    return inputs % _L == 0 and outputs % _L == 0


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
