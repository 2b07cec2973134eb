"""Calls of the sizes that primitives are timed at, and how many operations each takes.

The first, and smallest, of each primitive is also the large case of the conformance suite.
"""

from __future__ import annotations

import dataclasses
import math
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np

from minidl.ops import primitives
from minidl.testing.case import Case
from minidl.testing.reference import call_in_gradient
from minidl.testing.strategies import STRATEGIES, Bools, Floats, Ints, parent_of, realize
from minidl.testing.strategies.elementwise import binary, division, positive, unary

#: operations as a function of the case's arguments and parameters
Flops = Callable[[list, dict], float]


@dataclasses.dataclass(frozen=True)
class BenchCase:
    """One size: arguments (described, as in a strategy) and parameters; with ``parent``, of the forward primitive in
    whose gradient the timed call is found."""

    label: str
    args: tuple
    params: dict[str, Any]
    flops: Flops
    parent: str | None = None


def inputs(name: str, case: BenchCase) -> Case:
    """The call, the same in every process. Its memory traffic is at least one pass over inputs and outputs."""
    seed = zlib.crc32(f"{name} {case.label}".encode())
    made = realize(case.parent or name, list(case.args), case.params, seed, np.float32)
    if case.parent is None:
        return made
    found = call_in_gradient(name, made)
    if found is None:
        raise LookupError(f"{name} is not called in the gradient of {case.parent} for {case.label}")
    return found


def _count(a: Any) -> int:
    return math.prod(a.shape)


def _per_element(n: float, which: int = 0) -> Flops:
    """``n`` operations for every element of input ``which``."""
    return lambda args, params: n * _count(args[which])


# the first leaves a remainder after vectors and blocks
_LENGTHS = ((1 << 16) + 5, 1 << 20, 1 << 24)


def _elementwise() -> dict[str, list[BenchCase]]:
    table: dict[str, list[BenchCase]] = {}
    counts = {unary: 1, positive: 1, binary: 2, division: 2}  # strategy -> its number of arrays
    for name, make in STRATEGIES.items():
        if make not in counts:
            continue
        low = (0.5, 2.0) if make in (positive, division) else (None, None)
        table[name] = [BenchCase(f"{n}", (Floats((n,), *low),) * counts[make], {}, _per_element(1)) for n in _LENGTHS]
    return table


def _no_flops(args: list, params: dict) -> float:
    return 0.0


def _matmul_flops(args: list, params: dict) -> float:
    return 2.0 * _count(args[0]) * args[1].shape[1]


def _linear_flops(args: list, params: dict) -> float:
    return 2.0 * _count(args[0]) * args[1].shape[0]


def _conv_flops(args: list, params: dict) -> float:
    """2 N O OH OW C/g KH KW."""
    x, w = args[:2]
    out = 1
    for n, k, s, p, d in zip(
        x.shape[2:], w.shape[2:], params["stride"], params["padding"], params["dilation"], strict=True
    ):
        out *= (n + 2 * p - d * (k - 1) - 1) // s + 1
    return 2.0 * x.shape[0] * out * _count(w)


def _conv(label: str, n: int, c: int, o: int, size: int, k: int, stride: int = 1, padding: int = 0) -> BenchCase:
    params = {"stride": (stride,) * 2, "padding": (padding,) * 2, "dilation": (1, 1), "groups": 1}
    return BenchCase(label, (Floats((n, c, size, size)), Floats((o, c, k, k)), None), params, _conv_flops)


def _pool(label: str, n: int, c: int, size: int, k: int) -> BenchCase:
    params = {"kernel_size": (k, k), "stride": (k, k), "padding": (0, 0), "dilation": (1, 1), "ceil_mode": False}
    return BenchCase(label, (Floats((n, c, size, size)),), params, _per_element(1))


def _lstm_flops(args: list, params: dict) -> float:
    """Two contractions, and about 10 operations per element of the four gates' quarter."""
    x, _, c0, w_ih, w_hh = args[:5]
    return 2.0 * x.shape[0] * x.shape[1] * (_count(w_ih) + _count(w_hh)) + 10 * x.shape[0] * _count(c0)


def _lstm(label: str, t: int, n: int, i: int, h: int) -> BenchCase:
    arrays = [Floats((t, n, i)), Floats((n, h)), Floats((n, h))]
    arrays += [Floats((4 * h, i), scale=h**-0.5), Floats((4 * h, h), scale=h**-0.5), Floats((4 * h,)), Floats((4 * h,))]
    return BenchCase(label, (*arrays, None), {"reverse": False, "lengths": None}, _lstm_flops)


def _attention_flops(args: list, params: dict) -> float:
    """Two contractions (half of them if causal) and 5 operations per score."""
    q, k, v = args[:3]
    scores = math.prod(q.shape[:3]) * k.shape[2] * (0.5 if params["is_causal"] else 1.0)
    return scores * (2.0 * q.shape[3] + 2.0 * v.shape[3] + 5)


def _attention(label: str, n: int, heads: int, length: int, e: int) -> BenchCase:
    params = {"dropout_p": 0.0, "is_causal": True, "scale": e**-0.5, "block_size": None, "key": 0, "offset": 0}
    return BenchCase(label, (*[Floats((n, heads, length, e))] * 3, None), params, _attention_flops)


def _rows(label: str, shape: tuple, params: dict, flops: float, *more: Any) -> BenchCase:
    return BenchCase(label, (Floats(shape), *more), params, _per_element(flops))


_CROSS_ENTROPY = {"label_smoothing": 0.0, "ignore_index": -100, "reduction": "mean"}


def _forward_cases() -> dict[str, list[BenchCase]]:
    matrices = ((512, 128), (4096, 1000), (49152, 64))
    images = ((8, 16, 16, 16), (32, 64, 32, 32), (32, 512, 4, 4))
    table = _elementwise()
    for name in ("softmax", "log_softmax"):
        table[name] = [_rows(f"{m}x{n}", (m, n), {"axis": -1}, 5) for m, n in matrices]
    table["cross_entropy"] = [
        _rows(f"{m}x{n}", (m, n), _CROSS_ENTROPY, 4, Ints((m,), 0, n), None) for m, n in ((1000, 100), *matrices[1:])
    ]
    for name, extra in (("layer_norm", 2), ("rms_norm", 1)):
        table[name] = [
            _rows(f"{m}x{n}", (m, n), {"normalized_shape": (n,), "eps": 1e-5}, 8, *[Floats((n,), 0.5, 1.5)] * extra)
            for m, n in matrices
        ]
    table["batch_norm"] = [
        _rows("x".join(map(str, s)), s, {"eps": 1e-5}, 8, *[Floats((s[1],), 0.5, 1.5)] * 2) for s in images
    ]
    table["sum"] = [_rows(f"{m}x{n}", (m, n), {"axis": -1}, 1) for m, n in matrices]
    table["matmul"] = [
        BenchCase(f"{n}x{n}x{n}", (Floats((n, n)), Floats((n, n))), {}, _matmul_flops) for n in (128, 512, 2048)
    ]
    table["linear"] = [
        BenchCase(f"{m}x{i}->{o}", (Floats((m, i)), Floats((o, i)), Floats((o,))), {}, _linear_flops)
        for m, i, o in ((64, 128, 64), (64, 784, 256), (768, 512, 2048))
    ]
    table["conv2d"] = [
        _conv("4x16x16x16, 16 of 3x3", 4, 16, 16, 16, 3, 1, 1),
        _conv("LeNet 64x6x14x14, 16 of 5x5", 64, 6, 16, 14, 5),
        _conv("ResNet 32x64x32x32, 64 of 3x3", 32, 64, 64, 32, 3, 1, 1),
        _conv("ResNet 32x256x8x8, 256 of 3x3", 32, 256, 256, 8, 3, 1, 1),
        _conv("1x1 32x64x32x32, 128", 32, 64, 128, 32, 1),
        _conv("stride 2 32x64x32x32, 128 of 3x3", 32, 64, 128, 32, 3, 2, 1),
    ]
    table["max_pool2d"] = [
        _pool("4x8x16x16, 2x2", 4, 8, 16, 2),
        _pool("64x6x28x28, 2x2", 64, 6, 28, 2),
        _pool("32x64x32x32, 2x2", 32, 64, 32, 2),
    ]
    table["lstm"] = [
        _lstm("T8 N4 32->64", 8, 4, 32, 64), _lstm("T64 N32 256->256", 64, 32, 256, 256),
        _lstm("T100 N1 128->512", 100, 1, 128, 512),
    ]  # fmt: skip
    table["scaled_dot_product_attention"] = [
        _attention("2x2x80x16", 2, 2, 80, 16), _attention("12x4x64x32", 12, 4, 64, 32),
        _attention("2x8x1024x64", 2, 8, 1024, 64),
    ]  # fmt: skip
    table["embedding"] = [
        BenchCase(f"{n} of {v}x{d}", (Ints((n,), 0, v), Floats((v, d))), {"padding_idx": None}, _no_flops)
        for n, v, d in ((1000, 300, 64), (2048, 65, 256), (32768, 30000, 256))
    ]
    table["keyed_dropout"] = [
        BenchCase(f"{n}", (Floats((n,)),), {"p": 0.1, "key": 5, "offset": 0}, _per_element(1)) for n in _LENGTHS
    ]
    table["adam_update"] = [
        BenchCase(f"{n}", (*[Floats((n,))] * 3, Floats((n,), 0.01, 1.0), 1e-3, 10, None), {}, _per_element(13))
        for n in _LENGTHS
    ]
    table["where"] = [
        BenchCase(f"{n}", (Bools((n,)), Floats((n,)), Floats((n,))), {}, _per_element(1)) for n in _LENGTHS
    ]
    return table


def _gradient_cases(forward: dict[str, list[BenchCase]]) -> dict[str, list[BenchCase]]:
    """The same sizes for gradient primitives; operations as multiples of the forward's."""
    times = {
        "conv2d_input_grad": 1, "conv2d_weight_grad": 1, "lstm_backward": 2, "attention_backward": 2.5,
        "softmax_grad": 0.8, "log_softmax_grad": 0.8, "cross_entropy_grad": 1, "layer_norm_backward": 1.5,
        "rms_norm_backward": 1.5, "batch_norm_backward": 1.5, "max_pool_grad": 1, "embedding_grad": 1,
    }  # fmt: skip
    table = {}
    for name in primitives:
        parent = parent_of(name)
        if parent not in forward or not (name in times or len(forward[parent][0].args) == 1):
            continue
        table[name] = [
            dataclasses.replace(c, parent=parent, flops=_times(times.get(name, 1), c.flops)) for c in forward[parent]
        ]
    for c in forward["embedding"]:  # one addition per element of g
        rows = c.args[0].shape[0] * c.args[1].shape[1]
        table["embedding_grad"] = [
            dataclasses.replace(d, flops=_always(float(rows))) if d.label == c.label else d
            for d in table["embedding_grad"]
        ]
    return table


def _always(flops: float) -> Flops:
    return lambda args, params: flops


def _times(factor: float, flops: Flops) -> Flops:
    return lambda args, params: factor * flops(args, params)


#: primitive -> its cases, the smallest first
CASES: dict[str, list[BenchCase]] = _forward_cases()
CASES.update(_gradient_cases(CASES))
