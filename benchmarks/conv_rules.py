"""Which way of convolving is faster where: the measurements behind the size rules of the numba kernels.

Prints, for 3x3 kernels of many sizes, the time of Winograd's algorithm and how many times as long the direct way (and
PyTorch, with ``--torch``) takes: forward, gradient for the input, gradient for the weight. Runs of all are interleaved
and the medians compared. One thread unless asked::

    OPENBLAS_NUM_THREADS=1 NUMBA_NUM_THREADS=1 taskset -c 1 python benchmarks/conv_rules.py
"""

from __future__ import annotations

import argparse
import itertools
import os
import time
from collections.abc import Callable

import numpy as np

from minidl.backend import load

load("numba")

from minidl_kernels.numba import conv, winograd  # noqa: E402

BATCHES = (1, 4, 32)
CHANNELS = ((16, 16), (16, 64), (64, 16), (32, 32), (64, 64), (128, 128), (256, 256), (512, 512))
SIZES = (2, 4, 5, 7, 8, 14, 16, 28, 32, 56)


def medians(functions: list[Callable], seconds: float, clock: Callable[[], float]) -> list[float]:
    """Median time of each, from at least 5 interleaved runs and for about ``seconds``."""
    times: list[list[float]] = [[] for _ in functions]
    for f in functions:
        f()
    end = clock() + seconds
    while clock() < end or len(times[0]) < 5:
        for f, t in zip(functions, times):
            start = clock()
            f()
            t.append(clock() - start)
    return [float(np.median(t)) for t in times]


def cases(n: int, inputs: int, outputs: int, size: int, with_torch: bool) -> list[tuple[str, list[Callable]]]:
    """(primitive, [winograd, direct, PyTorch if asked]) for same-size convolution."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((n, inputs, size, size), dtype=np.float32)
    g = rng.standard_normal((n, outputs, size, size), dtype=np.float32)
    w = rng.standard_normal((outputs, inputs, 3, 3), dtype=np.float32)
    params = {"stride": (1, 1), "padding": (1, 1), "dilation": (1, 1), "groups": 1}
    ways = [
        (
            lambda m=m: m.convolve(x, w, None, **params),
            lambda m=m: m.input_grad(g, w, input_size=(size, size), **params),
            lambda m=m: m.weight_grad(g, x, kernel_size=(3, 3), **params),
        )
        for m in (winograd, conv)
    ]
    if with_torch:
        import torch

        torch.set_num_threads(int(os.environ.get("NUMBA_NUM_THREADS", os.cpu_count())))
        tx, tg, tw = map(torch.from_numpy, (x, g, w))

        def back(mask: list[bool]) -> None:
            torch.ops.aten.convolution_backward(tg, tx, tw, None, [1, 1], [1, 1], [1, 1], False, [0, 0], 1, mask)

        ways.append(
            (
                lambda: torch.nn.functional.conv2d(tx, tw, padding=1),
                lambda: back([True, False, False]),
                lambda: back([False, True, False]),
            )
        )
    return list(zip(("conv2d", "conv2d_input_grad", "conv2d_weight_grad"), zip(*ways)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--torch", action="store_true", help="PyTorch as well")
    parser.add_argument("--seconds", type=float, default=0.03, help="time for each measurement")
    parser.add_argument("--flops", type=float, default=3e9, help="leave out larger cases")
    args = parser.parse_args()
    # with one thread its own time is not disturbed by what else the machine does
    clock = time.thread_time if os.environ.get("NUMBA_NUM_THREADS") == "1" else time.perf_counter
    for (inputs, outputs), n, size in itertools.product(CHANNELS, BATCHES, SIZES):
        if 18 * n * inputs * outputs * size * size > args.flops:
            continue
        line = f"{n:3} x {inputs:3} -> {outputs:3}, {size:2} x {size:2}:"
        right = True
        for primitive, ways in cases(n, inputs, outputs, size, args.torch):
            first, *others = medians(list(ways), args.seconds, clock)
            line += f"  {1e3 * first:7.3f} ms" + "".join(f" {o / first:5.2f}" for o in others)
            shapes = (n, inputs, outputs, (size, size))
            right = right and winograd.faster(primitive, *shapes) == (others[0] > first)
        print(line + ("" if right else "  (the rule chooses otherwise)"), flush=True)


if __name__ == "__main__":
    main()
