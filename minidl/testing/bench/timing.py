"""Timing what serves a primitive on each backend."""

from __future__ import annotations

import dataclasses
import itertools
import math
import statistics
import time
from collections.abc import Callable, Sequence

import numpy as np

from minidl.core.dispatch import choose
from minidl.core.registry import Backend, Kernel, available, load, use_backend
from minidl.ops import primitives
from minidl.testing.case import Case
from minidl.testing.conformance.accuracy import Expected, expected_of
from minidl.testing.conformance.candidate import Candidate, Trial
from minidl.testing.conformance.checks import check_inputs, check_outputs, check_raises, check_values
from minidl.testing.conformance.examine import apply
from minidl.testing.conformance.report import Mismatch
from minidl.testing.reference import formula
from minidl.testing.roofline import Roofline, larger_than_cache, roofline
from minidl.testing.sizes import CASES, BenchCase, inputs


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


class Contender:
    """What serves a case on a backend, and the arrays it is given."""

    def __init__(self, backend: Backend, case: Case, expected: Expected) -> None:
        self.backend, self.case = backend, case
        prim = primitives[case.primitive]
        args = case.place(backend.asarray)
        with use_backend(backend, strict=False):
            chosen = choose(prim, backend, args, case.params)
        self.is_reference = chosen is None
        self.label = "reference" if chosen is None else chosen.label
        self.candidate = Candidate(backend, chosen or Kernel(case.primitive, backend.name, prim.reference))
        self.trial = Trial(self.candidate, case, expected)
        self.times: list[float] = []
        self.number = 1

    def check(self) -> None:
        """Raises Mismatch if the output is wrong or an input was written to. Compiles, too, before it is timed."""
        self.trial.accepted = True
        apply((check_raises, check_outputs, check_values, check_inputs), self.candidate, self.trial)

    def fresh(self) -> list:
        """Arguments for one call: donated arrays are new, others were not written to."""
        donated = self.candidate.donated
        return [
            self.backend.asarray(a.copy()) if i in donated and isinstance(a, np.ndarray) else self.trial.args[i]
            for i, a in enumerate(self.case.args)
        ]

    def time(self, before: Callable[[], None]) -> None:
        function, params, synchronize = self.candidate.kernel.function, self.case.params, self.backend.synchronize
        calls = [self.fresh() for _ in range(self.number)]
        with use_backend(self.backend, strict=False), np.errstate(all="ignore"):
            before()
            synchronize()
            start = time.perf_counter()
            for args in calls:
                out = function(*args, **params)  # noqa: F841  (JAX only waits for arrays that somebody holds)
            synchronize()
            self.times.append((time.perf_counter() - start) / self.number)


class Flusher:
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
                most = (64 << 20) // max(1, sum(a.nbytes for a in case.arrays)) if c.candidate.donated else 1000
                c.number = max(1, min(int(1e-3 / max(c.times.pop(), 1e-7)), most))
            elif c.backend.device not in flushers:
                flushers[c.backend.device] = Flusher(c.backend, flush_bytes)
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
    expected = expected_of(case, formula(case), shifts=1)
    flops = bench_case.flops(list(bench_case.args), bench_case.params)
    nbytes = sum(a.nbytes for a in case.arrays) + sum(o.nbytes for o in expected.arrays)
    rows, contenders = [], []
    for backend in backends:
        c = Contender(backend, case, expected)
        row = Result(case.primitive, bench_case.label, backend.name, c.label, "ok", None, 0, flops, nbytes)
        row.roof_seconds = (roof or roofline(backend)).seconds(flops, nbytes)
        rows.append(row)
        host = [r for b, r in zip(backends, rows[:-1]) if b.array_type is np.ndarray]
        if c.is_reference and backend.array_type is np.ndarray and any(r.implementation == "reference" for r in host):
            row.status = "no kernel"  # the same as a row above
            continue
        try:
            c.check()
        except Mismatch as mismatch:
            row.status = f"wrong: {mismatch}"
            continue
        contenders.append((c, row))
    return rows, contenders


def installed() -> list[str]:
    """The backends that can be used here, numpy first."""
    names = [name for name, status in available().items() if status == "ok"]
    return sorted(names, key=lambda n: n != "numpy")
