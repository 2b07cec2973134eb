"""Which way of convolving is faster where: the measurements behind the size rules of the numba kernels.

Prints, for 3x3 kernels of many sizes, the time of Winograd's algorithm and how many times as long the direct way (and
PyTorch, with ``--torch``) takes: forward, gradient for the input, gradient for the weight. With ``--strided`` it is the
direct way's time, for 1x1 and 3x3 kernels with stride 2, and how many times as long the reference takes, with columns
and BLAS. Runs of all are interleaved and the medians compared. One thread unless asked::

    OPENBLAS_NUM_THREADS=1 NUMBA_NUM_THREADS=1 taskset -c 1 python -m benchmarks.conv_rules
"""

from __future__ import annotations

import argparse
import itertools
import os
import time
from collections.abc import Callable

import numpy as np

from minidl.backend import load
from minidl.ops import primitives

load("numba")

from minidl_kernels.numba.kernels import conv, winograd  # noqa: E402

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


PRIMITIVES = ("conv2d", "conv2d_input_grad", "conv2d_weight_grad")


class Reference:
    """The references, under the names that the kernels have."""

    convolve, input_grad, weight_grad = (staticmethod(primitives[name].reference) for name in PRIMITIVES)


def cases(
    n: int, inputs: int, outputs: int, size: int, with_torch: bool, kernel: int = 3, stride: int = 1
) -> list[tuple[str, list[Callable]]]:
    """(primitive, ways): winograd and direct; with a stride direct and reference; and PyTorch if asked."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((n, inputs, size, size), dtype=np.float32)
    pad, out = kernel // 2, -(-size // stride)
    g = rng.standard_normal((n, outputs, out, out), dtype=np.float32)
    w = rng.standard_normal((outputs, inputs, kernel, kernel), dtype=np.float32)
    params = {"stride": (stride, stride), "padding": (pad, pad), "dilation": (1, 1), "groups": 1}
    ways = [
        (
            lambda m=m: m.convolve(x, w, None, **params),
            lambda m=m: m.input_grad(g, w, input_size=(size, size), **params),
            lambda m=m: m.weight_grad(g, x, kernel_size=(kernel, kernel), **params),
        )
        for m in ((winograd, conv) if stride == 1 else (conv, Reference))
    ]
    if with_torch:
        import torch

        torch.set_num_threads(int(os.environ.get("NUMBA_NUM_THREADS", os.cpu_count())))
        tx, tg, tw = map(torch.from_numpy, (x, g, w))

        def back(mask: list[bool]) -> None:
            torch.ops.aten.convolution_backward(
                tg, tx, tw, None, [stride] * 2, [pad] * 2, [1, 1], False, [0, 0], 1, mask
            )

        ways.append(
            (
                lambda: torch.nn.functional.conv2d(tx, tw, stride=stride, padding=pad),
                lambda: back([True, False, False]),
                lambda: back([False, True, False]),
            )
        )
    return list(zip(PRIMITIVES, zip(*ways)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--torch", action="store_true", help="PyTorch as well")
    parser.add_argument("--strided", action="store_true", help="the rule between the direct way and the reference")
    parser.add_argument("--seconds", type=float, default=0.03, help="time for each measurement")
    parser.add_argument("--flops", type=float, default=3e9, help="leave out larger cases")
    args = parser.parse_args()
    # with one thread its own time is not disturbed by what else the machine does
    clock = time.thread_time if os.environ.get("NUMBA_NUM_THREADS") == "1" else time.perf_counter
    kernels = ((1, 2), (3, 2)) if args.strided else ((3, 1),)
    for (inputs, outputs), n, size, (kernel, stride) in itertools.product(CHANNELS, BATCHES, SIZES, kernels):
        weights = inputs * outputs * kernel * kernel
        if 2 * weights * n * (size // stride) ** 2 > args.flops:
            continue
        line = f"{n:3} x {inputs:3} -> {outputs:3}, {size:2} x {size:2}, kernel {kernel}:"
        right = True
        for primitive, ways in cases(n, inputs, outputs, size, args.torch, kernel, stride):
            first, *others = medians(list(ways), args.seconds, clock)
            line += f"  {1e3 * first:7.3f} ms" + "".join(f" {o / first:5.2f}" for o in others)
            rule = (
                weights < conv.MANY_WEIGHTS
                if args.strided
                else winograd.faster(primitive, n, inputs, outputs, (size, size))
            )
            right = right and rule == (others[0] > first)
        print(line + ("" if right else "  (the rule chooses otherwise)"), flush=True)


if __name__ == "__main__":
    main()
