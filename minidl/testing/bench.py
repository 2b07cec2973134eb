"""Timing kernels: every backend side by side, against the machine's roofline.

What is timed is one call of what serves the primitive on a backend, from arrays to finished arrays. For each case the
implementations take turns, round by round, and the median of the rounds counts. Inputs come from a seed that depends
on the primitive and the case alone; each output is compared with the reference before anything is timed; an input that
a kernel may overwrite is made anew for every call; and before every call the caches are emptied, unless ``warm``.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import statistics
import time
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from minidl.core.errors import BackendError
from minidl.core.registry import Backend, Kernel, load, use_backend
from minidl.ops import primitives
from minidl.testing import strategies
from minidl.testing.conformance import Mismatch, _Examiner, _expected, _tuple
from minidl.testing.replay import Case
from minidl.testing.roofline import Roofline, larger_than_cache, roofline
from minidl.testing.strategies import Bools, Floats, Ints

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
    made = strategies.realize(case.parent or name, list(case.args), case.params, seed, np.float32)
    if case.parent is None:
        return made
    found = strategies.call_in_gradient(name, made)
    if found is None:
        raise LookupError(f"{name} is not called in the gradient of {case.parent} for {case.label}")
    return found


# Cases. The first of each is small enough for the conformance suite to take it as its large one.


def _count(a: Any) -> int:
    return math.prod(a.shape)


def _per_element(n: float, which: int = 0) -> Flops:
    """``n`` operations for every element of input ``which``."""
    return lambda args, params: n * _count(args[which])


# the first leaves a remainder after vectors and blocks
_LENGTHS = ((1 << 16) + 5, 1 << 20, 1 << 24)


def _elementwise() -> dict[str, list[BenchCase]]:
    table: dict[str, list[BenchCase]] = {}
    for name, make in strategies.STRATEGIES.items():
        arrays = {strategies._unary: 1, strategies._positive: 1, strategies._binary: 2, strategies._div: 2}.get(make)
        if arrays is None:
            continue
        low = (0.5, 2.0) if make in (strategies._positive, strategies._div) else (None, None)
        table[name] = [BenchCase(f"{n}", (Floats((n,), *low),) * arrays, {}, _per_element(1)) for n in _LENGTHS]
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
    """Two contractions, and about 10 operations an element of the four gates' quarter."""
    x, _, c0, w_ih, w_hh = args[:5]
    return 2.0 * x.shape[0] * x.shape[1] * (_count(w_ih) + _count(w_hh)) + 10 * x.shape[0] * _count(c0)


def _lstm(label: str, t: int, n: int, i: int, h: int) -> BenchCase:
    arrays = [Floats((t, n, i)), Floats((n, h)), Floats((n, h))]
    arrays += [Floats((4 * h, i), scale=h**-0.5), Floats((4 * h, h), scale=h**-0.5), Floats((4 * h,)), Floats((4 * h,))]
    return BenchCase(label, (*arrays, None), {"reverse": False, "lengths": None}, _lstm_flops)


def _attention_flops(args: list, params: dict) -> float:
    """Two contractions (half of them if causal) and 5 operations a score."""
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
        parent = strategies.parent_of(name)
        if parent not in forward or not (name in times or len(forward[parent][0].args) == 1):
            continue
        table[name] = [
            dataclasses.replace(c, parent=parent, flops=_times(times.get(name, 1), c.flops)) for c in forward[parent]
        ]
    for c in forward["embedding"]:  # one addition an element of g
        rows = c.args[0].shape[0] * c.args[1].shape[1]
        table["embedding_grad"] = [
            dataclasses.replace(d, flops=lambda args, params, rows=rows: float(rows)) if d.label == c.label else d
            for d in table["embedding_grad"]
        ]
    return table


def _times(factor: float, flops: Flops) -> Flops:
    return lambda args, params: factor * flops(args, params)


#: primitive -> its cases, the smallest first
CASES: dict[str, list[BenchCase]] = _forward_cases()
CASES.update(_gradient_cases(CASES))


# Running


@dataclasses.dataclass
class Result:
    """One implementation on one case. ``seconds`` is None where it was not timed; ``status`` says why."""

    primitive: str
    case: str
    backend: str
    implementation: str
    status: str
    seconds: float | None = None
    rounds: int = 0
    flops: float = 0.0
    bytes: float = 0.0
    roof_seconds: float = 0.0

    @property
    def gflops(self) -> float:
        return self.flops / self.seconds / 1e9 if self.seconds else math.nan

    @property
    def gbs(self) -> float:
        return self.bytes / self.seconds / 1e9 if self.seconds else math.nan

    @property
    def share(self) -> float:
        """The roofline's time as a part of the time taken."""
        return self.roof_seconds / self.seconds if self.seconds else math.nan


class _Contender:
    """What serves a case on a backend, and the arrays it is given."""

    def __init__(self, backend: Backend, case: Case) -> None:
        self.backend, self.case, self.prim = backend, case, primitives[case.primitive]
        self.args = case.place(backend.asarray)
        with use_backend(backend, strict=False):
            kernels = backend.kernels.get(case.primitive, ())
            chosen = next((k for k in kernels if k.when is None or k.when(*self.args, **case.params)), None)
        self.is_reference = chosen is None
        self.kernel = chosen or Kernel(case.primitive, backend.name, self.prim.reference)
        self.label = "reference" if chosen is None else chosen.label
        self.examiner = _Examiner(backend, self.kernel)
        self.times: list[float] = []
        self.number = 1

    def check(self, expected: Any) -> None:
        """Raises Mismatch if the output is wrong or an input was written to. Compiles, too, before it is timed."""
        outs = self.examiner.call(self.args, self.case.params)
        self.examiner.check_outputs(outs, [np.asarray(o) for o in expected.own])
        self.examiner.check_values("values", outs, expected, False)
        self.examiner.check_inputs(self.case, self.args)

    def fresh(self) -> list:
        """Arguments for one call: donated arrays are new, others were not written to."""
        donated = self.examiner.donated
        return [
            self.backend.asarray(a.copy()) if i in donated and isinstance(a, np.ndarray) else self.args[i]
            for i, a in enumerate(self.case.args)
        ]

    def time(self, before: Callable[[], None]) -> None:
        function, params, synchronize = self.kernel.function, self.case.params, self.backend.synchronize
        calls = [self.fresh() for _ in range(self.number)]
        with use_backend(self.backend, strict=False), np.errstate(all="ignore"):
            before()
            synchronize()
            start = time.perf_counter()
            for args in calls:
                function(*args, **params)
            synchronize()
            self.times.append((time.perf_counter() - start) / self.number)


class _Flusher:
    """Empties the caches of a device by going over a buffer larger than they are."""

    def __init__(self, backend: Backend, size: int | None = None) -> None:
        self.backend = backend
        size = size or (larger_than_cache() if backend.array_type is np.ndarray else 256 << 20)
        self.buffer = backend.asarray(np.zeros(size // 4, np.float32))

    def __call__(self) -> None:
        if self.backend.array_type is np.ndarray:
            self.buffer += 1
        else:
            self.buffer = self.buffer + 1


def run(
    name: str,
    backends: Sequence[str],
    *,
    warm: bool = False,
    cases: Sequence[BenchCase] | None = None,
    seconds: float = 1.0,
    roof: Roofline | None = None,
    flush_bytes: int | None = None,
    report: Callable[[Result], None] = lambda result: None,
) -> list[Result]:
    """Time what serves the primitive ``name`` on each of ``backends``.

    Rounds go on until a case has taken about ``seconds``, but there are at least 5 and at most 100. Raises LookupError
    for a primitive without cases.
    """
    cases = CASES.get(name) if cases is None else cases
    if not cases:
        raise LookupError(f"no benchmark cases for {name!r}; there are some for: {', '.join(sorted(CASES))}")
    chosen = [load(b) for b in backends]
    flushers: dict[str, Callable[[], None]] = {}
    results = []
    for bench_case in cases:
        case = inputs(name, bench_case)
        rows, contenders = _contenders(case, bench_case, chosen, roof)
        for c, _ in contenders:
            if warm:
                c.time(lambda: None)
                # donated inputs need memory for every call
                most = (64 << 20) // max(1, sum(a.nbytes for a in case.arrays)) if c.examiner.donated else 1000
                c.number = max(1, min(int(1e-3 / max(c.times.pop(), 1e-7)), most))
            elif c.backend.device not in flushers:
                flushers[c.backend.device] = _Flusher(c.backend, flush_bytes)
        start = time.perf_counter()
        for turn in itertools.count():
            if turn >= 100 or (turn >= 5 and time.perf_counter() - start > seconds) or not contenders:
                break
            at = turn % len(contenders)
            for c, _ in contenders[at:] + contenders[:at]:
                c.time((lambda: None) if warm else flushers[c.backend.device])
        for c, row in contenders:
            row.seconds, row.rounds = statistics.median(c.times), len(c.times)
        for row in rows:
            report(row)
        results += rows
    return results


def _contenders(case: Case, bench_case: BenchCase, backends: list[Backend], roof: Roofline | None) -> tuple:
    """(a row for every backend, the pairs (contender, row) that are to be timed)."""
    prim = primitives[case.primitive]

    def reference(args: list) -> tuple:
        return _tuple(prim.reference(*args, **case.params))

    expected = _expected(case, reference, shifts=1)
    flops = bench_case.flops(list(bench_case.args), bench_case.params)
    nbytes = sum(a.nbytes for a in case.arrays) + sum(np.asarray(o).nbytes for o in expected.own)
    rows, contenders = [], []
    for backend in backends:
        c = _Contender(backend, case)
        row = Result(case.primitive, bench_case.label, backend.name, c.label, "ok", None, 0, flops, nbytes)
        row.roof_seconds = (roof or roofline(backend)).seconds(flops, nbytes)
        rows.append(row)
        host = [r for b, r in zip(backends, rows[:-1]) if b.array_type is np.ndarray]
        if c.is_reference and backend.array_type is np.ndarray and any(r.implementation == "reference" for r in host):
            row.status = "no kernel"  # the same as a row above
            continue
        try:
            c.check(expected)
        except Mismatch as mismatch:
            row.status = f"wrong: {mismatch}"
            continue
        contenders.append((c, row))
    return rows, contenders


# Showing


def table(results: Sequence[Result]) -> str:
    """The results as text, one line each."""
    head = ("primitive", "case", "backend", "ms", "GFLOP/s", "GB/s", "of roof", "served by")
    rows = [head]
    for r in results:
        if r.seconds is None:
            rows.append((r.primitive, r.case, r.backend, "-", "-", "-", "-", f"{r.status} ({r.implementation})"))
            continue
        figures = (f"{1e3 * r.seconds:.4g}", f"{r.gflops:.4g}", f"{r.gbs:.4g}", f"{100 * r.share:.0f} %")
        rows.append((r.primitive, r.case, r.backend, *figures, r.implementation))
    widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
    lines = []
    for row in rows:
        cells = [c.rjust(w) if 3 <= i <= 6 else c.ljust(w) for i, (c, w) in enumerate(zip(row, widths))]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def save(results: Sequence[Result], folder: str | Path, roofs: Sequence[Roofline], warm: bool) -> list[Path]:
    """Write ``results.json`` and, for every primitive, a roofline plot ``NAME.png`` into ``folder``."""
    from minidl.files import atomic_write

    folder = Path(folder)
    rows = [dataclasses.asdict(r) | {"gflops": r.gflops, "gbs": r.gbs, "share_of_roof": r.share} for r in results]
    rows = [{k: None if isinstance(v, float) and math.isnan(v) else v for k, v in row.items()} for row in rows]
    path = folder / "results.json"
    facts = {"caches": "warm" if warm else "cold", "rooflines": [dataclasses.asdict(r) for r in roofs]}
    with atomic_write(path) as file:
        file.write(json.dumps(facts | {"results": rows}, indent=1).encode())
    names = dict.fromkeys(r.primitive for r in results if r.seconds is not None)
    return [path, *(plot([r for r in results if r.primitive == n], folder / f"{n}.png", roofs, warm) for n in names)]


def plot(results: Sequence[Result], path: Path, roofs: Sequence[Roofline], warm: bool = False) -> Path:
    """A PNG: times by case on the left, the roofline with what was reached on the right."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError('plots need matplotlib: pip install "minidl[train]"') from error
    from minidl.files import atomic_write

    done = [r for r in results if r.seconds is not None]
    backends, labels = list(dict.fromkeys(r.backend for r in done)), list(dict.fromkeys(r.case for r in done))
    figure = Figure(figsize=(11, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    left.set(yscale="log", ylabel="ms a call", title=f"{done[0].primitive}, caches {'warm' if warm else 'cold'}")
    width = 0.8 / len(backends)
    for b, backend in enumerate(backends):
        own = [r for r in done if r.backend == backend]
        at = [labels.index(r.case) + (b - (len(backends) - 1) / 2) * width for r in own]
        left.bar(at, [1e3 * r.seconds for r in own], width, label=backend, color=f"C{b}")
        points = [r for r in own if r.flops]
        right.loglog([r.flops / r.bytes for r in points], [r.gflops for r in points], "o", color=f"C{b}", label=backend)
    for i, label in enumerate(labels):
        bound = min(1e3 * r.roof_seconds for r in done if r.case == label)
        left.plot([i - 0.45, i + 0.45], [bound, bound], "k--", linewidth=1, label="roofline" if i == 0 else None)
    left.set_xticks(range(len(labels)), labels, rotation=20, ha="right", fontsize=8)
    left.legend(fontsize=8)
    for roof in roofs:
        intensity = np.geomspace(0.02, 1000, 100)
        right.loglog(intensity, roof.attainable(intensity), "k-", linewidth=1)
        text = f"{roof.gflops:.0f} GFLOP/s, {roof.gbs:.0f} GB/s"
        right.annotate(text, (intensity[-1], roof.gflops), ha="right", va="bottom", fontsize=8)
    right.set(xlabel="operations a byte", ylabel="GFLOP/s", title="; ".join(r.device for r in roofs))
    right.title.set_fontsize(8)
    if any(r.flops for r in done):
        right.legend(fontsize=8)
    with atomic_write(path) as file:
        figure.savefig(file, format="png", dpi=110)
    return path


def installed() -> list[str]:
    """The backends that can be used here, numpy first."""
    from minidl.core.registry import available

    names = [name for name, status in available().items() if status == "ok"]
    return sorted(names, key=lambda n: n != "numpy")


__all__ = ["CASES", "BackendError", "BenchCase", "Result", "inputs", "installed", "plot", "run", "save", "table"]
