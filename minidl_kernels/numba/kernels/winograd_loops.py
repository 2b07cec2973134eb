"""The compiled loops of Winograd's convolution: transformations of tiles and kernels, and the products in between.

A vector holds as many channels of one pixel, or of one position of a tile. What is transformed is used while it is in
the cache: where there are many tiles, a few of them are worked on at a time for all channels, where there are many
weights, a few channels for all tiles.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import get_thread_id, prange

from minidl_kernels.numba.simd.compiled import compiled
from minidl_kernels.numba.simd.tiles import gather_columns, product, sandwich, scatter_columns
from minidl_kernels.numba.simd.vectors import ROWS, lanes

#: outputs, and inputs, along the side of a tile: F(4x4, 3x3)
M, N = 4, 6
POSITIONS = N * N
#: lanes of a vector
L = lanes(np.float32)
# rows of the products that give the weight's gradient; a whole number of times in a vector
_WEIGHT_ROWS = max(4, L // 2)


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
_AT, _BT, _G = matrices((0.0, 0.5**0.5, -(0.5**0.5), 2**0.5, -(2**0.5)), M, 3)

_transform_input = sandwich(_BT)
_transform_kernel = sandwich(_G)
_transform_turned_kernel = sandwich(_G[:, ::-1])
_transform_output = sandwich(_AT)
_transform_output_gradient = sandwich(_AT.T)
_transform_products = sandwich(_G.T)

_multiply = product(ROWS, row_step=L, step=1, chunk=L)
_multiply_weight, _multiply_add_weight = (
    product(_WEIGHT_ROWS, row_step=1, step=L, chunk=ROWS, vector_step=ROWS * L, add=add) for add in (False, True)
)


# Compiled. Flat arrays throughout; "vector" v of an array begins at v * L.


class Work(NamedTuple):
    """What depends on shapes alone: samples and channels, the output's height and width, the tiles of one image, and
    how many rows of tiles are worked on together."""

    samples: int
    inputs: int
    outputs: int
    height: int
    width: int
    tiles_down: int
    tiles_across: int
    rows: int


class Images(NamedTuple):
    """Images ``x`` (samples, channels, height, width), the padding above them, and for each pixel its place in a
    buffer. With ``gradient`` they are the output's gradient."""

    x: np.ndarray
    channels: int
    height: int
    width: int
    padding: int
    place: np.ndarray
    gradient: bool


class Tiles(NamedTuple):
    """Transformed tiles, from ``at`` on: [position][tile // ROWS][channel // L][tile % ROWS][channel % L], positions
    ``step`` apart, with ``chunks`` vectors of channels."""

    values: np.ndarray
    at: int
    step: int
    chunks: int


class _Kernels(NamedTuple):
    """Transformed kernels, from ``at`` on: [position][input][output % 2 L], positions ``step`` apart."""

    values: np.ndarray
    at: int
    step: int


class Weight(NamedTuple):
    """Kernels (outputs, inputs, 3, 3). With ``turned`` they are those of the gradient for the input, for which inputs
    and outputs change places. ``vectors`` are places of vectors one after the other."""

    values: np.ndarray
    turned: bool
    vectors: np.ndarray


class Result(NamedTuple):
    """The output, a bias for each channel, and for each pixel its place in a buffer."""

    out: np.ndarray
    bias: np.ndarray
    place: np.ndarray


class _Room(NamedTuple):
    """Scratch: an image's pixels, and products of which positions are ``step`` apart; ``pairs`` are places of pairs of
    vectors one after the other."""

    image: np.ndarray
    products: np.ndarray
    step: int
    pairs: np.ndarray


class Sizes(NamedTuple):
    """Sizes of the parts of a buffer: an image, and a position's tiles, products (or the gradient's tiles) and
    kernels."""

    image: int
    tiles: int
    products: int
    kernels: int


@compiled
def _load_pixels(x, at, plane, first, end, place, shift, image):
    """Pixels first to end of L channels, the first channel's at ``at``: pixel p becomes the vector that begins at
    place[p] - shift in ``image``."""
    if end - first < L:
        for p in range(first, end):
            for c in range(L):
                image[place[p] - shift + c] = x[at + c * plane + p]
        return
    for p in range(first, end, L):
        q = min(p, end - L)
        scatter_columns(x, at + q, plane, image, -shift, place, q)


@compiled
def _store_pixels(image, place, shift, first, end, bias, at_bias, out, at, plane):
    """The other way round, with a bias for each channel."""
    if end - first < L:
        for p in range(first, end):
            for c in range(L):
                out[at + c * plane + p] = image[place[p] - shift + c] + bias[at_bias + c]
        return
    for p in range(first, end, L):
        q = min(p, end - L)
        gather_columns(image, -shift, place, q, bias, at_bias, out, at + q, plane)


@compiled
def _transform_images(work, images, first, end, low, high, image, tiles):
    """Transform rows of tiles ``first`` to ``end`` (counted through all images) of channels ``low`` to ``high``.
    ``image`` is for the pixels of one image."""
    height, width, down, across = images.height, images.width, work.tiles_down, work.tiles_across
    overlap = 0 if images.gradient else N - M
    columns = across * M + overlap
    row = first
    while row < end:
        n, top = row // down, row % down
        rows = min(down - top, end - row)
        image[: (rows * M + overlap) * columns * L] = 0
        y = max(0, top * M - images.padding)
        y_end = max(y, min(height, (top + rows) * M + overlap - images.padding))
        for c in range(low, high, L):
            _load_pixels(
                images.x, (n * images.channels + c) * height * width, height * width, y * width, y_end * width,
                images.place, top * M * columns * L, image,
            )  # fmt: skip
            for i in range(rows):
                for j in range(across):
                    tile = (row - first + i) * across + j
                    to = tiles.at + ((tile // ROWS * tiles.chunks + (c - low) // L) * ROWS + tile % ROWS) * L
                    at = (i * columns + j) * M * L
                    if images.gradient:
                        _transform_output_gradient(image, at, columns * L, L, tiles.values, to, tiles.step)
                    else:
                        _transform_input(image, at, columns * L, L, tiles.values, to, tiles.step)
        row += rows


@compiled
def _zero_tiles(tiles, first):
    """Fill up the last panel of tiles, from tile ``first`` on."""
    if first % ROWS:
        for p in range(POSITIONS):
            for c in range(tiles.chunks):
                at = tiles.at + p * tiles.step + (first // ROWS * tiles.chunks + c) * ROWS * L
                tiles.values[at + first % ROWS * L : at + ROWS * L] = 0


@compiled
def _transform_kernels(weight, inputs, outputs, group, scratch, kernels):
    """The kernels of one 2 L of outputs."""
    first, end = group * 2 * L, min(outputs, (group + 1) * 2 * L)
    values, to, step = kernels
    if end - first < 2 * L:
        for p in range(POSITIONS):
            values[to + p * step : to + p * step + 2 * L * inputs] = 0
    for o in range(first, end, L):
        for c in range(0, inputs, L):
            if not weight.turned:
                for k in range(9):
                    start = (o * inputs + c) * 9 + k * L
                    scatter_columns(weight.values, start, inputs * 9, scratch, k * L * L, weight.vectors, 0)
                for i in range(L):
                    at = to + (c + i) * 2 * L + o - first
                    _transform_kernel(scratch, i * 9 * L, 3 * L, L, values, at, step)
            else:
                for i in range(L):
                    start = ((c + i) * outputs + o) * 9
                    for k in range(9 * L):
                        scratch[k] = weight.values[np.uintp(start + k)]
                    scatter_columns(scratch, 0, 9, scratch, 10 * L, weight.vectors, 0)
                    at = to + (c + i) * 2 * L + o - first
                    _transform_turned_kernel(scratch, 10 * L, 3 * L, L, values, at, step)


@compiled
def _multiply_block(work, tiles, kernels, group, begin, end, room, result):
    """2 L output channels of rows of tiles ``begin`` to ``end``."""
    down, across, outputs = work.tiles_down, work.tiles_across, work.outputs
    for p in range(POSITIONS):
        for panel in range(((end - begin) * across + ROWS - 1) // ROWS):
            _multiply(
                tiles.values, tiles.at + p * tiles.step + panel * tiles.chunks * ROWS * L, ROWS * L,
                kernels.values, kernels.at + p * kernels.step, room.pairs, 0, tiles.chunks,
                room.products, p * room.step + panel * ROWS * 2 * L, 2 * L,
            )  # fmt: skip
    plane = work.height * work.width
    for o in range(group * 2 * L, min(outputs, (group + 1) * 2 * L), L):
        for tile in range((end - begin) * across):
            _transform_output(
                room.products, tile * 2 * L + o % (2 * L), N * room.step, room.step,
                room.image, tile * M * M * L, L,
            )  # fmt: skip
        row = begin
        while row < end:
            n, top = row // down, row % down
            rows = min(down - top, end - row)
            _store_pixels(
                room.image, result.place, (top - (row - begin)) * across * M * M * L, top * M * work.width,
                min(work.height, (top + rows) * M) * work.width, result.bias, o, result.out,
                (n * outputs + o) * plane, plane,
            )  # fmt: skip
            row += rows


@compiled(parallel=True)
def convolve_by_tiles(work, images, weight, result, pairs, parts, all_kernels, buffers, sizes):
    """``result.out`` (samples, outputs, *out_size), some rows of tiles at a time. Kernels are transformed first."""
    inputs, down, rows = work.inputs, work.tiles_down, work.rows
    groups = (work.outputs + 2 * L - 1) // (2 * L)
    step = groups * inputs * 2 * L
    for group in prange(groups):
        _transform_kernels(
            weight, inputs, work.outputs, group, buffers[get_thread_id()],
            _Kernels(all_kernels, group * 2 * L * inputs, step),
        )  # fmt: skip
    blocks = (work.samples * down + rows - 1) // rows
    for task in prange(blocks * parts):
        block, part = task // parts, task % parts
        buffer = buffers[get_thread_id()]
        image = buffer[: sizes.image]
        tiles = Tiles(buffer[sizes.image : sizes.image + POSITIONS * sizes.tiles], 0, sizes.tiles, inputs // L)
        room = _Room(image, buffer[sizes.image + POSITIONS * sizes.tiles :], sizes.products, pairs)
        begin, end = block * rows, min(work.samples * down, (block + 1) * rows)
        _transform_images(work, images, begin, end, 0, inputs, image, tiles)
        for group in range(part * groups // parts, (part + 1) * groups // parts):
            kernels = _Kernels(all_kernels, group * inputs * 2 * L, step)
            _multiply_block(work, tiles, kernels, group, begin, end, room, result)


@compiled(parallel=True)
def convolve_by_outputs(work, images, weight, result, pairs, all_tiles, buffers, sizes):
    """The same, 2 L outputs at a time: kernels are used while they are in the cache. Tiles are transformed first."""
    inputs, down, rows = work.inputs, work.tiles_down, work.rows
    blocks = (work.samples * down + rows - 1) // rows
    chunks = inputs // L
    for task in prange(blocks * chunks):
        block, chunk = task // chunks, task % chunks
        to = block * POSITIONS * sizes.tiles + chunk * ROWS * L
        _transform_images(
            work, images, block * rows, min(work.samples * down, (block + 1) * rows), chunk * L, (chunk + 1) * L,
            buffers[get_thread_id()], Tiles(all_tiles, to, sizes.tiles, chunks),
        )  # fmt: skip
    for group in prange((work.outputs + 2 * L - 1) // (2 * L)):
        buffer = buffers[get_thread_id()]
        image = buffer[: sizes.image]
        kernels = _Kernels(buffer[sizes.image : sizes.image + POSITIONS * sizes.kernels], 0, sizes.kernels)
        room = _Room(image, buffer[sizes.image + POSITIONS * sizes.kernels :], sizes.products, pairs)
        _transform_kernels(weight, inputs, work.outputs, group, image, kernels)
        for block in range(blocks):
            tiles = Tiles(all_tiles, block * POSITIONS * sizes.tiles, sizes.tiles, chunks)
            begin, end = block * rows, min(work.samples * down, (block + 1) * rows)
            _multiply_block(work, tiles, kernels, group, begin, end, room, result)


@compiled
def _transform_back(products, at, step, back, scratch, out, to):
    """The gradient of the kernels of L inputs, (L, 3, 3), from the 36 vectors of products that are ``step`` apart."""
    _transform_products(products, at, N * step, step, scratch, 0, L)
    # of L columns 9 are meant; the next row is written over the others
    gather_columns(scratch, 0, back.vectors, 0, back.zero, 0, scratch, L * L, 9)
    for k in range(9 * L):
        out[np.uintp(to + k)] = scratch[np.uintp(L * L + k)]


class Back(NamedTuple):
    """For the gradient of the weight: no bias, places of vectors one after the other, and where a tile begins among
    those of a position."""

    zero: np.ndarray
    vectors: np.ndarray
    offsets: np.ndarray


@compiled(parallel=True)
def weight_grad_by_tiles(work, images, gradients, out, back, parts, groups, sums, buffers, sizes):
    """``out`` (outputs, inputs, 3, 3), some rows of tiles at a time.

    The sum over tiles is cut into ``parts``, the outputs into ``groups``.
    """
    inputs, outputs, rows = work.inputs, work.outputs, work.rows
    down, across = work.tiles_down, work.tiles_across
    blocks = (work.samples * down + rows - 1) // rows
    columns = (inputs + 2 * L - 1) // (2 * L) * 2 * L
    step = outputs * columns
    for task in prange(parts * groups):
        part, group = task // groups, task % groups
        low, high = group * (outputs // L) // groups * L, (group + 1) * (outputs // L) // groups * L
        chunks = (high - low) // L
        buffer = buffers[get_thread_id()]
        image = buffer[: sizes.image]
        cut = sizes.image + POSITIONS * sizes.tiles
        tiles = Tiles(buffer[sizes.image : cut], 0, sizes.tiles, columns // L)
        of_gradient = Tiles(buffer[cut:], 0, sizes.products, chunks)
        for p in range(POSITIONS):
            at = (part * POSITIONS + p) * step
            sums[at + low * columns : at + high * columns] = 0
        if inputs < columns:
            tiles.values[:] = 0
        for block in range(part * blocks // parts, (part + 1) * blocks // parts):
            begin, end = block * rows, min(work.samples * down, (block + 1) * rows)
            _transform_images(work, images, begin, end, 0, inputs, image, tiles)
            _transform_images(work, gradients, begin, end, low, high, image, of_gradient)
            count = (end - begin) * across
            _zero_tiles(tiles, count)
            _zero_tiles(of_gradient, count)
            for p in range(POSITIONS):
                at = (part * POSITIONS + p) * step
                for c in range(0, inputs, 2 * L):
                    for o in range(low, high, _WEIGHT_ROWS):
                        from_g = p * sizes.products + (o - low) // L * ROWS * L + (o - low) % L
                        _multiply_add_weight(
                            of_gradient.values, from_g, chunks * ROWS * L, tiles.values, p * sizes.tiles + c * ROWS,
                            back.offsets, 0, (count + ROWS - 1) // ROWS, sums, at + o * columns + c, columns,
                        )  # fmt: skip
    for o in prange(outputs):
        buffer = buffers[get_thread_id()]
        scratch = buffer[POSITIONS * L :]
        for c in range(0, inputs, L):
            for p in range(POSITIONS):
                at = p * step + o * columns + c
                buffer[p * L : (p + 1) * L] = sums[at : at + L]
                for part in range(1, parts):
                    for i in range(L):
                        buffer[np.uintp(p * L + i)] += sums[np.uintp(at + part * POSITIONS * step + i)]
            _transform_back(buffer, 0, L, back, scratch, out, (o * inputs + c) * 9)


@compiled(parallel=True)
def weight_grad_by_weights(work, images, gradients, out, back, groups, tiles, of_gradient, buffers, sizes):
    """The same, a part of the weights at a time. Tiles are transformed first, all of them."""
    inputs, down, across, rows = work.inputs, work.tiles_down, work.tiles_across, work.rows
    blocks = (work.samples * down + rows - 1) // rows
    wide, chunks_g = tiles.chunks, of_gradient.chunks
    count = work.samples * down * across
    for task in prange(blocks * (wide + chunks_g)):
        block, chunk = task // (wide + chunks_g), task % (wide + chunks_g)
        begin, end = block * rows, min(work.samples * down, (block + 1) * rows)
        buffer = buffers[get_thread_id()]
        panel = begin * across // ROWS * ROWS * L
        if chunk < inputs // L:
            to = Tiles(tiles.values, panel * wide + chunk * ROWS * L, tiles.step, wide)
            _transform_images(work, images, begin, end, chunk * L, (chunk + 1) * L, buffer, to)
        elif chunk >= wide:
            c = chunk - wide
            to = Tiles(of_gradient.values, panel * chunks_g + c * ROWS * L, of_gradient.step, chunks_g)
            _transform_images(work, gradients, begin, end, c * L, (c + 1) * L, buffer, to)
        else:
            for p in range(POSITIONS):
                for t in range(begin * across, end * across, ROWS):
                    at = p * tiles.step + (t // ROWS * wide + chunk) * ROWS * L
                    tiles.values[at : at + ROWS * L] = 0
    _zero_tiles(tiles, count)
    _zero_tiles(of_gradient, count)
    for task in prange(wide // 2 * groups):
        pair, group = task // groups, task % groups
        low, high = group * chunks_g // groups * L, (group + 1) * chunks_g // groups * L
        buffer = buffers[get_thread_id()]
        scratch, products = buffer[: sizes.image], buffer[sizes.image :]
        step = (high - low) * 2 * L + L
        for p in range(POSITIONS):
            for o in range(low, high, _WEIGHT_ROWS):
                _multiply_weight(
                    of_gradient.values, p * of_gradient.step + o // L * ROWS * L + o % L, chunks_g * ROWS * L,
                    tiles.values, p * tiles.step + pair * 2 * ROWS * L, back.offsets, 0, (count + ROWS - 1) // ROWS,
                    products, p * step + (o - low) * 2 * L, 2 * L,
                )  # fmt: skip
        for o in range(low, high):
            for c in range(pair * 2 * L, min(inputs, (pair + 1) * 2 * L), L):
                at = (o - low) * 2 * L + c % (2 * L)
                _transform_back(products, at, step, back, scratch, out, (o * inputs + c) * 9)
