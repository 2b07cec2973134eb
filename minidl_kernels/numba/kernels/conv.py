"""Convolution over one or two axes, forward and backward, for any kernel, stride, padding, dilation and groups.

The matrix product of im2col without its columns. A few samples are copied, padded, into a buffer that stays in the
cache; with a stride, pixels of the same remainder go into images of their own. Then the row of im2col that belongs to
channel c and kernel position k is a piece of the buffer as it stands, only begun elsewhere: what output pixel (y, x)
takes from it is at ``offset[c, k] + y * columns + x``. So the inner loop is that of a matrix product which looks up
where each row begins; what it computes for the columns of the padding is not used. (Georganas et al., "Anatomy of
high-performance deep learning convolutions on SIMD architectures", 2018, do without columns, too.)

- forward: rows of results are output channels, the sum is over input channels and kernel positions;
- gradient for the input: the same on the output's gradient. With a stride, pixels of each remainder meet only some
  kernel positions: one pass over the buffer for each;
- gradient for the weight: rows of the output's gradient times rows of the buffer, along pixels.

One axis counts as two, of which the first has length one. 3x3 kernels with stride 1 can do with fewer multiplications,
see :mod:`minidl_kernels.numba.kernels.winograd`.
"""

from __future__ import annotations

import functools
import itertools
import math
import threading
from typing import Any, NamedTuple

import numba
import numpy as np
from numba import get_thread_id, prange

from minidl.backend import kernel
from minidl_kernels.numba.simd.common import FLOATS
from minidl_kernels.numba.simd.compiled import compiled, inlined
from minidl_kernels.numba.simd.tiles import dot, product
from minidl_kernels.numba.simd.vectors import DOT_COLUMNS, DOT_ROWS, ROWS, lanes

#: tasks into which work is cut if there is so much: enough for as many threads
_TASKS = 8
#: pixels of a few samples that share a buffer, if the images are small; for the gradient of the weight
_PIXELS, _PIXELS_WEIGHT = 256, 1024
#: From so many weights (of a group) on, which are read again for each buffer, the reference's columns and BLAS are
#: faster, up to twice; below they are up to seven times slower (``python -m benchmarks.conv_rules --strided``).
MANY_WEIGHTS = 1 << 17
#: blocks of pixels (of two vectors) whose results are kept until they are written
_STRIP = 8
#: vectors of pixels that are added up in one go for the gradient of the weight
_LENGTH = 128
#: bytes of partial sums of the gradient of the weight
_PARTS_BYTES = 8 << 20

_product_full, _product_4, _product_2, _product_1 = (product(r, step=r) for r in (ROWS, 4, 2, 1))


class Images(NamedTuple):
    """How images lie in the buffer, [channel, row remainder, column remainder, sample, row, column], and come there.

    Row r of the buffer's image with remainder a holds row ``r * row_stride + a - top``, and so for columns; what is
    outside the image is 0. ``beyond`` more zeros follow the last image.
    """

    height: int
    width: int
    row_stride: int
    column_stride: int
    top: int
    left: int
    rows: int
    columns: int
    samples: int
    beyond: int


#: a pass computes pixels (first_row + i * row_step, first_column + j * column_step) from some kernel positions ("taps")
_PASS = np.dtype([(name, np.int64) for name in (
    "taps", "first_tap", "rows", "columns", "first_row", "first_column", "row_step", "column_step",
)])  # fmt: skip

_local = threading.local()


def scratch(name: str, size: int, dtype: Any) -> np.ndarray:
    """Memory to work in, not initialized, kept from call to call under ``name``; each Python thread has its own."""
    kept = _local.__dict__.setdefault("arrays", {})
    found = kept.get((name, dtype))
    if found is None or found.size < size:
        # the first element begins a cache line
        raw = np.empty(size * dtype.itemsize + 64, np.uint8)
        start = -raw.ctypes.data % 64
        found = kept[name, dtype] = raw[start : start + size * dtype.itemsize].view(dtype)
    return found[:size]


def workspace(size: int, dtype: Any) -> np.ndarray:
    """Such memory for each of Numba's threads: (threads, size or a little more)."""
    threads = numba.get_num_threads()
    return scratch("threads", threads * (size + -size % 64), dtype).reshape(threads, -1)


# Compiled


@inlined
def _copy(x, start, step, buffer, to, count):
    for i in range(count):
        buffer[np.uintp(to + i)] = x[np.uintp(start + i * step)]


@inlined
def _zero(buffer, to, count):
    for i in range(count):
        buffer[np.uintp(to + i)] = 0


@compiled
def _fill(x, all_channels, channel, channels, sample, samples, images, remainders, slack, buffer):
    """Copy ``images.samples`` samples, of which those from ``samples`` on are not there, into ``buffer``."""
    to = 0
    step = images.column_stride
    for c in range(channel, channel + channels):
        for i in range(remainders.shape[0]):
            row_remainder, column_remainder = remainders[i]
            begin = column_remainder - images.left
            low = min(images.columns, max(0, (-begin + step - 1) // step))
            stop = max(low, min(images.columns, (images.width - begin + step - 1) // step))
            for n in range(sample, sample + images.samples):
                for q in range(images.rows):
                    row = q * images.row_stride + row_remainder - images.top
                    if n >= samples or row < 0 or row >= images.height:
                        _zero(buffer, to, images.columns)
                    else:
                        _zero(buffer, to, low)
                        start = ((n * all_channels + c) * images.height + row) * images.width + begin + low * step
                        if step == 1:
                            _copy(x, start, 1, buffer, to + low, stop - low)
                        else:
                            _copy(x, start, step, buffer, to + low, stop - low)
                        _zero(buffer, to + stop, images.columns - stop)
                    to += images.columns
    _zero(buffer, to, images.beyond + slack)
    return to + images.beyond + slack


@compiled
def _pack(weight, at, row_step, channel_step, channels, taps, first, rows, packed, to):
    """Weights of a few rows of results, those of one channel and tap together."""
    for c in range(channels):
        for t in range(taps.size):
            start = at + c * channel_step + taps[t]
            for r in range(rows):
                packed[np.uintp(to + r)] = weight[np.uintp(start + r * row_step)]
            to += rows


@compiled
def _write(tile, width, rows, first, end, samples, images, run, bias, at_bias, out, at, sample_step, size):
    """Put results ``first`` to ``end`` of the buffer's pixels, with the bias, where they belong in ``out``."""
    columns = images.columns
    for line in range(first // columns, (end - 1) // columns + 1):
        n, y = line // images.rows, line % images.rows
        if y >= run.rows or n >= samples:
            continue
        low, stop = max(0, first - line * columns), min(run.columns, end - line * columns)
        to = at + n * sample_step + (y * run.row_step + run.first_row) * size[1] + run.first_column
        for r in range(rows):
            start = r * width + line * columns - first
            b = bias[at_bias + r]
            if run.column_step == 1:
                for i in range(low, stop):
                    out[np.uintp(to + i)] = tile[np.uintp(start + i)] + b
            else:
                for i in range(low, stop):
                    out[np.uintp(to + i * run.column_step)] = tile[np.uintp(start + i)] + b
            to += size[0] * size[1]


@compiled
def _convolve_block(
    buffer, tile, images, samples, run, packed, at_packed, offsets, at_offsets, inner, panels, bias, at_bias, out, at,
    sample_step, size, block,
):  # fmt: skip
    """One pass over a buffer for some panels of rows."""
    pixels = (samples - 1) * images.rows * images.columns + (run.rows - 1) * images.columns + run.columns
    width = _STRIP * block
    for first in range(0, pixels, width):
        end = min(pixels, first + width)
        for i in range(panels.shape[0]):
            row, rows = panels[i]
            a = at_packed + row * inner
            for p in range(first, end, block):
                to = p - first
                if rows == ROWS:
                    _product_full(packed, a, rows, buffer, p, offsets, at_offsets, inner, tile, to, width)
                elif rows == 4:
                    _product_4(packed, a, rows, buffer, p, offsets, at_offsets, inner, tile, to, width)
                elif rows == 2:
                    _product_2(packed, a, rows, buffer, p, offsets, at_offsets, inner, tile, to, width)
                else:
                    _product_1(packed, a, rows, buffer, p, offsets, at_offsets, inner, tile, to, width)
            _write(
                tile, width, rows, first, end, samples, images, run, bias, at_bias + row, out,
                at + row * size[0] * size[1], sample_step, size,
            )  # fmt: skip


@compiled(parallel=True)
def _convolve(
    x, weight, bias, out, samples, groups, channels, rows, steps, images, remainders, passes, taps, offsets, panels,
    parts, block, packed, buffers, size,
):  # fmt: skip
    """``out`` (samples, groups * rows, *size) from ``x`` (samples, groups * channels, height, width)."""
    count = panels.shape[0]
    for task in prange(groups * count):
        group, panel = task // count, task % count
        row, few = panels[panel]
        for i in range(passes.size):
            run = passes[i]
            inner = channels * run.taps
            to = groups * rows * channels * run.first_tap + (group * rows + row) * inner
            some = taps[run.first_tap : run.first_tap + run.taps]
            at = group * steps[0] + row * steps[1]
            _pack(weight, at, steps[1], steps[2], channels, some, run.first_tap, few, packed, to)
    blocks = (samples + images.samples - 1) // images.samples
    for task in prange(groups * blocks * parts):
        group, rest = task // (blocks * parts), task % (blocks * parts)
        sample, part = rest // parts * images.samples, rest % parts
        buffer = buffers[get_thread_id()]
        used = _fill(
            x, groups * channels, group * channels, channels, sample, samples, images, remainders, 2 * block, buffer
        )  # fmt: skip
        tile = buffer[used:]
        some = panels[part * count // parts : (part + 1) * count // parts]
        for i in range(passes.size):
            run = passes[i]
            inner = channels * run.taps
            _convolve_block(
                buffer, tile, images, min(images.samples, samples - sample), run, packed,
                groups * rows * channels * run.first_tap + group * rows * inner, offsets, channels * run.first_tap,
                inner, some, bias, group * rows, out, (sample * groups + group) * rows * size[0] * size[1],
                groups * rows * size[0] * size[1], size, block,
            )  # fmt: skip


@compiled
def _widen(g, all_rows, row, rows, sample, samples, images, size, length, wide, to):
    """Rows of the output's gradient as pixels of the buffer, with zeros between them; rows that are not there are 0."""
    plane = size[0] * size[1]
    for r in range(row, row + rows):
        _zero(wide, to, length)
        if r < all_rows[1]:
            for n in range(min(images.samples, samples - sample)):
                start = ((sample + n) * all_rows[0] * all_rows[1] + all_rows[2] * all_rows[1] + r) * plane
                for y in range(size[0]):
                    _copy(g, start + y * size[1], 1, wide, to + (n * images.rows + y) * images.columns, size[1])
        to += length


@compiled(parallel=True)
def _weight_grad(
    g, x, out, samples, groups, channels, rows, images, remainders, offsets, inner, sums, parts, row_parts, length,
    lanes, buffers, size,
):  # fmt: skip
    """``out`` (groups, rows, inner) from ``g`` (samples, groups * rows, *size); ``sums`` (parts, groups, rows, columns)
    for the sums over parts of the samples."""
    blocks = (samples + images.samples - 1) // images.samples
    columns = offsets.size
    panels = sums.shape[2] // DOT_ROWS
    total = sums.reshape(-1)
    for task in prange(groups * parts * row_parts):
        group, rest = task // (parts * row_parts), task % (parts * row_parts)
        part, row_part = rest // row_parts, rest % row_parts
        first, last = row_part * panels // row_parts, (row_part + 1) * panels // row_parts
        row, few = first * DOT_ROWS, (last - first) * DOT_ROWS
        at = ((part * groups + group) * panels * DOT_ROWS + row) * columns
        _zero(total, at, few * columns)
        buffer = buffers[get_thread_id()]
        for b in range(part * blocks // parts, (part + 1) * blocks // parts):
            sample = b * images.samples
            wide = _fill(
                x, groups * channels, group * channels, channels, sample, samples, images, remainders, 2 * lanes, buffer
            )  # fmt: skip
            _widen(g, (groups, rows, group), row, few, sample, samples, images, size, length, buffer, wide)
            for begin in range(0, length, _LENGTH * lanes):
                vectors = min(_LENGTH, (length - begin) // lanes)
                for k in range(0, columns, DOT_COLUMNS):
                    for r in range(0, few, DOT_ROWS):
                        dot(
                            buffer, wide + r * length + begin, length, buffer, begin, offsets, k, vectors,
                            total, at + r * columns + k, columns,
                        )  # fmt: skip
    for task in prange(groups * rows):
        group, r = task // rows, task % rows
        for k in range(inner):
            s = sums[0, group, r, k]
            for p in range(1, parts):
                s += sums[p, group, r, k]
            out[np.uintp(task * inner + k)] = s


# Plans: what of a call depends on shapes alone


class _Plan(NamedTuple):
    images: Images
    remainders: np.ndarray
    passes: np.ndarray
    taps: np.ndarray
    offsets: np.ndarray
    panels: np.ndarray
    parts: int


def _samples(n: int, pixels: int, target: int, least: int) -> int:
    """Samples that share a buffer: about ``target`` pixels together, but ``least`` buffers."""
    most = max(1, min(n // least, target // pixels))
    return -(-n // -(-n // most))


def _axis(size: int, stride: int, before: int, remainders: list[int], windows: int, length: int) -> tuple[int, int]:
    """(pitch, zeros shared) of an axis of ``length``, in which pixel 0 of ``size`` comes after ``before`` zeros.

    The zeros at the end of a row may be those at the beginning of the next one.
    """
    leads = [max(0, -((a - before) // stride)) for a in remainders]
    ends = [max(0, -((a - before - size) // stride)) for a in remainders]
    shared = max(0, min(*leads, *(length - e for e in ends), length - windows))
    return length - shared, shared


def _layout(
    n: int, groups: int, channels: int, size: tuple, kernel: tuple, stride: tuple, padding: tuple, dilation: tuple,
    out: tuple, target: int, least: int,
) -> tuple[Images, np.ndarray, np.ndarray]:  # fmt: skip
    """(images, remainders, offset for each channel and kernel position) for the convolution of an image of ``size``."""
    shifts = [[k * d for k in range(m)] for m, d in zip(kernel, dilation)]
    used = [sorted({a % s for a in axis}) for axis, s in zip(shifts, stride)]
    lengths = [o + max(axis) // s for o, axis, s in zip(out, shifts, stride)]
    (rows, low), (columns, right) = (
        _axis(m, s, p, u, o, length) for m, s, p, u, o, length in zip(size, stride, padding, used, out, lengths)
    )
    samples = _samples(n, rows * columns, target, least)
    images = Images(*size, *stride, *padding, rows, columns, samples, low * columns + right)
    remainders = list(itertools.product(*used))
    plane = rows * columns * samples
    offsets = np.array(
        [
            remainders.index((a % stride[0], b % stride[1])) * plane + a // stride[0] * columns + b // stride[1]
            for a, b in itertools.product(*shifts)
        ]
    )
    offsets = (np.arange(channels)[:, None] * (len(remainders) * plane) + offsets).reshape(-1)
    return images, np.array(remainders), offsets


def _parts(most: int, tasks: int) -> int:
    return max(1, min(most, -(-_TASKS // tasks)))


def _panels(rows: int) -> np.ndarray:
    """(first row, number of rows) of the panels into which rows are cut."""
    found, row = [], 0
    while row < rows:
        few = next(r for r in (ROWS, 4, 2, 1) if r <= rows - row)
        found.append((row, few))
        row += few
    return np.array(found)


@functools.lru_cache(maxsize=256)
def _forward_plan(x: tuple, weight: tuple, stride: tuple, padding: tuple, dilation: tuple, groups: int) -> _Plan:
    kernel = weight[2:]
    out = _output_size(x[2:], kernel, stride, padding, dilation)
    images, remainders, offsets = _layout(
        x[0], groups, weight[1], x[2:], kernel, stride, padding, dilation, out, _PIXELS,
        max(1, _TASKS // groups),
    )  # fmt: skip
    positions = math.prod(kernel)
    passes = np.array([(positions, 0, *out, 0, 0, 1, 1)], _PASS)
    panels = _panels(weight[0] // groups)
    parts = _parts(len(panels), groups * -(-x[0] // images.samples))
    return _Plan(images, remainders, passes, np.arange(positions), offsets, panels, parts)


@functools.lru_cache(maxsize=256)
def _input_plan(
    g: tuple, weight: tuple, size: tuple, stride: tuple, padding: tuple, dilation: tuple, groups: int
) -> _Plan:
    # Output pixel q met image pixel q * stride + k * dilation - padding: image pixels of each remainder (with the
    # padding counted) meet the kernel positions whose k * dilation has that remainder.
    axes = []
    for n, o, m, s, p, d in zip(size, g[2:], weight[2:], stride, padding, dilation):
        runs = []
        for a in range(s):
            first = max(0, -((a - p) // s))
            taps = [(k, first - (k * d - a) // s) for k in range(m) if (k * d - a) % s == 0]
            runs.append((first * s + a - p, max(0, -((first * s + a - p - n) // s)), taps))
        runs = [r for r in runs if r[1] and r[2]]
        before = max((-shift for _, _, taps in runs for _, shift in taps), default=0)
        length = max((count + before + shift for _, count, taps in runs for _, shift in taps), default=o)
        pitch, shared = _axis(o, 1, before, [0], max((count for _, count, _ in runs), default=o), length)
        axes.append((before, pitch, shared, runs))
    (top, rows, low, row_runs), (left, columns, right, column_runs) = axes
    samples = _samples(g[0], rows * columns, _PIXELS, max(1, _TASKS // groups))
    images = Images(*g[2:], 1, 1, top, left, rows, columns, samples, low * columns + right)
    plane = rows * columns * samples
    channels = g[1] // groups
    passes, positions, offsets = [], [], []
    for (y, count_y, taps_y), (x, count_x, taps_x) in itertools.product(row_runs, column_runs):
        passes.append((len(taps_y) * len(taps_x), len(positions), count_y, count_x, y, x, *stride))
        positions += [i * weight[3] + j for i, _ in taps_y for j, _ in taps_x]
        shifts = np.array([(top + q) * columns + left + r for _, q in taps_y for _, r in taps_x])
        offsets.append((np.arange(channels)[:, None] * plane + shifts).reshape(-1))
    panels = _panels(weight[1])
    parts = _parts(len(panels), groups * -(-g[0] // images.samples))
    return _Plan(
        images, np.zeros((1, 2), np.int64), np.array(passes, _PASS), np.array(positions, np.int64),
        np.concatenate([np.zeros(0, np.int64), *offsets]), panels, parts,
    )  # fmt: skip


@functools.lru_cache(maxsize=256)
def _weight_plan(
    g: tuple, x: tuple, kernel: tuple, stride: tuple, padding: tuple, dilation: tuple, groups: int
) -> tuple[Images, np.ndarray, np.ndarray, int, int]:
    images, remainders, offsets = _layout(
        x[0], groups, x[1] // groups, x[2:], kernel, stride, padding, dilation, g[2:], _PIXELS_WEIGHT,
        max(1, _TASKS // groups),
    )  # fmt: skip
    inner = offsets.size
    offsets = np.concatenate([offsets, np.zeros(-inner % DOT_COLUMNS, np.int64)])
    rows = g[1] // groups
    blocks = -(-x[0] // images.samples)
    parts = max(1, min(blocks, _TASKS // groups, _PARTS_BYTES // (4 * g[1] * inner)))
    row_parts = _parts(-(-rows // DOT_ROWS), groups * parts)
    return images, remainders, offsets, parts, row_parts


def _output_size(size: tuple, kernel: tuple, stride: tuple, padding: tuple, dilation: tuple) -> tuple[int, ...]:
    return tuple(
        (n + 2 * p - d * (k - 1) - 1) // s + 1 for n, k, s, p, d in zip(size, kernel, stride, padding, dilation)
    )


# Kernels


def _two(values: Any, first: int) -> tuple[int, int]:
    """One or two ints an axis as two."""
    return tuple(values) if len(values) == 2 else (first, *values)


def _planes(a: np.ndarray) -> tuple[int, int, int, int]:
    """The shape of (N, C, *size) with two axes of size."""
    return (*a.shape[:2], *_two(a.shape[2:], 1))


def flat(a: np.ndarray) -> np.ndarray:
    """``a`` in one axis, copied if it must be."""
    return np.ascontiguousarray(a).reshape(-1)


@functools.lru_cache(maxsize=64)
def zeros(n: int, dtype: Any) -> np.ndarray:
    """What an absent bias stands for; only to be read."""
    return np.zeros(n, dtype)


def _run(
    plan: _Plan, x: np.ndarray, weight: np.ndarray, bias: Any, groups: int, rows: int, steps: tuple, out: Any
) -> None:
    images, remainders, passes, taps, offsets, panels, parts = plan
    channels = x.shape[1] // groups
    block = 2 * lanes(x.dtype)
    size = len(remainders) * channels * images.samples * images.rows * images.columns
    size += images.beyond + (2 + ROWS * _STRIP) * block
    _convolve(
        flat(x), flat(weight), zeros(groups * rows, x.dtype) if bias is None else flat(bias), out.reshape(-1),
        x.shape[0], groups, channels, rows, steps, images, remainders, passes, taps, offsets, panels, parts, block,
        scratch("packed", weight.size, x.dtype), workspace(size, x.dtype), _two(out.shape[2:], 1),
    )  # fmt: skip


def convolve(
    x: np.ndarray, weight: np.ndarray, bias: np.ndarray | None = None, *, stride: tuple, padding: tuple,
    dilation: tuple, groups: int, out: Any = None,
) -> np.ndarray:  # fmt: skip
    kernel, params = _planes(weight), (_two(stride, 1), _two(padding, 0), _two(dilation, 1))
    plan = _forward_plan(_planes(x), kernel, *params, groups)
    if out is None:
        size = _output_size(x.shape[2:], weight.shape[2:], stride, padding, dilation)
        out = (np.empty((x.shape[0], weight.shape[0], *size), x.dtype),)
    positions = math.prod(kernel[2:])
    rows = weight.shape[0] // groups
    steps = (rows * kernel[1] * positions, kernel[1] * positions, positions)
    _run(plan, x, weight, bias, groups, rows, steps, out[0])
    return out[0]


def input_grad(
    dout: np.ndarray, weight: np.ndarray, *, input_size: tuple, stride: tuple, padding: tuple, dilation: tuple,
    groups: int, out: Any = None,
) -> np.ndarray:  # fmt: skip
    kernel, params = _planes(weight), (_two(stride, 1), _two(padding, 0), _two(dilation, 1))
    size = _two(input_size, 1)
    plan = _input_plan(_planes(dout), kernel, size, *params, groups)
    rows = weight.shape[1]
    result = np.empty((dout.shape[0], groups * rows, *input_size), dout.dtype) if out is None else out[0]
    if sum(plan.passes["rows"] * plan.passes["columns"]) < math.prod(size):  # some pixels met no kernel position
        result[...] = 0
    positions = math.prod(kernel[2:])
    steps = (weight.shape[0] // groups * rows * positions, positions, rows * positions)
    _run(plan, dout, weight, None, groups, rows, steps, result)
    return result


def weight_grad(
    dout: np.ndarray, x: np.ndarray, *, kernel_size: tuple, stride: tuple, padding: tuple, dilation: tuple,
    groups: int, out: Any = None,
) -> np.ndarray:  # fmt: skip
    kernel, params = _two(kernel_size, 1), (_two(stride, 1), _two(padding, 0), _two(dilation, 1))
    images, remainders, offsets, parts, row_parts = _weight_plan(_planes(dout), _planes(x), kernel, *params, groups)
    channels, rows = x.shape[1] // groups, dout.shape[1] // groups
    inner = channels * math.prod(kernel)
    result = np.empty((dout.shape[1], channels, *kernel_size), x.dtype) if out is None else out[0]
    size = _two(dout.shape[2:], 1)
    width = lanes(x.dtype)
    plane = images.rows * images.columns
    length = (images.samples - 1) * plane + (size[0] - 1) * images.columns + size[1]
    length += -length % width
    padded = rows + -rows % DOT_ROWS
    few = -(-padded // DOT_ROWS // row_parts) * DOT_ROWS
    used = len(remainders) * channels * images.samples * plane + images.beyond + 2 * width
    _weight_grad(
        flat(dout), flat(x), result.reshape(-1), x.shape[0], groups, channels, rows, images, remainders, offsets, inner,
        scratch("sums", parts * groups * padded * offsets.size, x.dtype).reshape(parts, groups, padded, -1), parts,
        row_parts, length, width,
        workspace(used + few * length, x.dtype), size,
    )  # fmt: skip
    return result


def host_floats(*arrays: Any) -> bool:
    """float32 or float64 arrays of one dtype, not empty; those that are None do not count."""
    first = arrays[0]
    if type(first) is not np.ndarray or first.dtype not in FLOATS:
        return False
    return all(a is None or (type(a) is np.ndarray and a.dtype == first.dtype and a.size > 0) for a in arrays)


def _few(weights: int, groups: int) -> bool:
    return weights < MANY_WEIGHTS * groups


def _forward_served(
    x: Any, weight: Any, bias: Any = None, *, stride: tuple, padding: tuple, dilation: tuple, groups: int
) -> bool:
    """float32 or float64, not empty, less than 131072 weights in a group"""
    size = _output_size(x.shape[2:], weight.shape[2:], stride, padding, dilation)
    return host_floats(x, weight, bias) and _few(weight.size, groups) and min(size) > 0


def _input_served(dout: Any, weight: Any, *, groups: int, **params: Any) -> bool:
    """float32 or float64, not empty, less than 131072 weights in a group"""
    return host_floats(dout, weight) and _few(weight.size, groups)


def _weight_served(dout: Any, x: Any, *, kernel_size: tuple, groups: int, **params: Any) -> bool:
    """float32 or float64, not empty, less than 131072 weights in a group"""
    return host_floats(dout, x) and _few(dout.shape[1] * x.shape[1] // groups * math.prod(kernel_size), groups)


for _n in (1, 2):
    _options = {
        "backend": "numba",
        "dtypes": ("float32", "float64"),
        "out": True,
        "note": "matrix product with rows of padded images, without columns",
    }
    kernel(f"conv{_n}d", when=_forward_served, **_options)(convolve)
    # zeros are multiplied, too, where the reference may leave them out
    _options["tolerance"] = {"nonfinite": "may spread"}
    kernel(f"conv{_n}d_input_grad", when=_input_served, **_options)(input_grad)
    kernel(f"conv{_n}d_weight_grad", when=_weight_served, **_options)(weight_grad)
