"""The conformance suite: does a kernel do what the primitive's reference does?

:func:`check` runs every kernel of a primitive on a backend over sample and generated inputs (shapes, dtypes, memory
layouts, broadcasting, zero-size, 0-d, NaN, Inf, large numbers) and looks at, in this order:

============  ==========================================================================================
predicate     ``when`` answers without an error, and where it says no the reference serves the call
raises        no error where the reference has none
outputs       number, array type, dtype and shape of the outputs are the reference's
values        they are close to the reference in float64, NaN and Inf in the same places
inputs        no input was written to, except those the primitive donates
aliasing      no output shares memory with an input or with another output
determinism   a second call gives the same bits
stale         what a call returned stays as it was when the kernel is called again, and the second call's
              result belongs to the second call's inputs
out           with ``out=``, the given arrays are filled and returned (kernels registered with ``out=True``)
gradient      gradients through the primitive's rule on this backend are those of the reference
threads       calls from several threads at once do not disturb each other
============  ==========================================================================================

How close is close: an element may be off by 64 units in the last place of its own and 16 of the largest output's, by
32 times what it changes when the inputs change by one unit in their last place (so that cancellation, which no
algorithm can help, is no failure), and by 8 times the largest error of the reference run in the same dtype.

A kernel that by design is less accurate says so where it is registered: ``kernel(..., tolerance={"float32": 1e-4})``
allows that much more, times the largest output. ``{"nonfinite": "may spread"}`` lets a NaN or Inf among the inputs make
more outputs non-finite than in the reference (never fewer); ``{"nonfinite": "may differ"}`` also fewer, for kernels
that skip what is masked out, where the reference has 0 * NaN. What is declared is printed with the result.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from minidl.core.dispatch import run
from minidl.core.errors import BackendError
from minidl.core.registry import Backend, Kernel, changed, load, use_backend
from minidl.ops import primitives
from minidl.testing import replay as replaying
from minidl.testing import strategies
from minidl.testing.replay import LAYOUTS, Case, is_float
from minidl.testing.strategies import cotangents_for, differentiable, gradients_of, plain

_THREADS = 4
# Inputs beyond this are for finding overflow: functions saturate there, and rounding decides what is left of a gradient
_LARGE = 30.0
# how a reference says that a generated call makes no sense; any other error is a mistake of ours and is let through
_REFUSALS = (ValueError, IndexError, NotImplementedError)
# LAPACK's iterations may not end when they meet NaN
_FINITE_ONLY = {"cholesky", "cofactor", "det", "eigh", "inv", "norm", "qr", "slogdet", "solve", "svd", "muon_update"}


class Mismatch(AssertionError):
    """A kernel failed the check named ``check``."""

    def __init__(self, check: str, message: str) -> None:
        super().__init__(f"{check}: {message}")
        self.check, self.message = check, message


@dataclasses.dataclass
class Report:
    """What the suite found about one kernel. ``str()`` of it is for people."""

    primitive: str
    backend: str
    kernel: str
    tolerance: dict[str, Any] | None = None
    cases: int = 0
    accepted: int = 0
    gradients: int = 0
    check: str = ""
    message: str = ""
    case: Case | None = None
    path: Path | None = None

    @property
    def ok(self) -> bool:
        return not self.check

    def __str__(self) -> str:
        head = f"{'ok    ' if self.ok else 'FAILED'} {self.primitive} on {self.backend}: {self.kernel}"
        lines = [f"{head} ({self.accepted} of {self.cases} cases accepted, {self.gradients} gradients)"]
        if self.tolerance:
            lines.append(f"       declared tolerance: {self.tolerance}")
        if not self.ok:
            lines.append(f"       {self.check}: {self.message}")
        if self.case is not None:
            lines.append(f"       smallest failing case: {self.case}")
            few = sum(a.size for a in self.case.arrays) <= 40
            for i, a in enumerate(self.case.args):
                if few and isinstance(a, np.ndarray) and a.size:
                    shown = np.array2string(a, precision=6).replace("\n", "\n" + " " * 16)
                    lines.append(f"         input {i}: {shown}")
        if self.path is not None:
            lines.append(f"       to replay: minidl kernels check --replay {self.path}")
        return "\n".join(lines)


def check(
    primitive: str,
    backend: str | Backend,
    *,
    kernels: Sequence[Kernel] | None = None,
    dtypes: Sequence[str] | None = None,
    max_examples: int = 60,
    save_to: str | Path | None = None,
    reference: bool = False,
) -> list[Report]:
    """Check every kernel that ``backend`` has for ``primitive`` (or just ``kernels``); one report each.

    ``dtypes`` are by default float32, float64 and what else the kernel was registered with. ``max_examples`` is the
    number of generated cases, besides the samples. The smallest failing case of a kernel is saved into the folder
    ``save_to``. With ``reference`` the reference itself is checked on the backend's arrays, as if it were a kernel.
    """
    backend = load(backend) if isinstance(backend, str) else backend
    kernels = list(backend.kernels.get(primitive, ())) if kernels is None else kernels
    if primitive not in primitives:
        why = f"there is no primitive {primitive!r} to serve"
        return [Report(primitive, backend.name, k.label, check="primitive", message=why) for k in kernels]
    if reference:
        kernels = [*kernels, Kernel(primitive, backend.name, primitives[primitive].reference)]
    return [_check_kernel(backend, k, dtypes, max_examples, save_to) for k in kernels]


def check_backend(backend: str | Backend, **options: Any) -> Iterator[Report]:
    """:func:`check` for every kernel of a backend, one after the other."""
    backend = load(backend) if isinstance(backend, str) else backend
    for name in sorted(backend.kernels):
        yield from check(name, backend, **options)


def replay(path: str | Path) -> list[Report]:
    """Run the saved case again, with the kernel that failed (or, if that is gone, all of the primitive's)."""
    case, facts = replaying.load(path)
    backend = load(facts["backend"])
    kernels = backend.kernels.get(case.primitive, [])
    if case.primitive not in primitives or not kernels:
        raise BackendError(f"backend {backend.name!r} has no kernel for {case.primitive!r} any more")
    reports = []
    for k in [k for k in kernels if k.label == facts["kernel"]] or kernels:
        report = Report(case.primitive, backend.name, k.label, k.tolerance)
        with _only(backend, k):
            _try(_Examiner(backend, k), case, report, threads=True)
        reports.append(report)
    return reports


def _check_kernel(
    backend: Backend, k: Kernel, dtypes: Sequence[str] | None, max_examples: int, save_to: str | Path | None
) -> Report:
    report = Report(k.primitive, backend.name, k.label, k.tolerance)
    names = list(dtypes or dict.fromkeys(["float32", "float64", *(d for d in k.dtypes if _is_float_name(d))]))
    wanted = [replaying._dtype(name) for name in names]
    with _only(backend, k):
        examiner = _Examiner(backend, k)
        largest = None
        for case in sample_cases(k.primitive, wanted):
            if not _try(examiner, case, report):
                break
            if examiner.accepted and (largest is None or case.size >= largest.size):
                largest = case
        _explore(examiner, report, wanted, max_examples)
        if report.ok:
            for i, case in enumerate(large_cases(k.primitive, wanted)):
                if not _try(examiner, case, report, threads=i == 0):
                    break
        if report.ok and largest is not None:
            _try(examiner, largest, report, threads=True)
    if report.ok and not report.accepted:
        report.check = "predicate"
        report.message = (
            f"the kernel accepted none of {report.cases} cases, so that nothing was checked; give it samples that it "
            "accepts with minidl.testing.samples.samples, or a strategy with minidl.testing.strategies.strategy"
        )
    if report.case is not None and save_to is not None:
        name = f"{k.primitive}-{backend.name}-{k.label}-{report.check}.npz".replace("<", "").replace(">", "")
        facts = {"backend": backend.name, "kernel": k.label, "check": report.check, "message": report.message}
        report.path = replaying.save(Path(save_to) / name, report.case, **facts)
    return report


def _is_float_name(name: str) -> bool:
    return name in ("float16", "bfloat16", "float32", "float64")


@contextmanager
def _only(backend: Backend, k: Kernel) -> Iterator[None]:
    """Inside, the backend is active and has this kernel alone for the primitive: a shadowed one is checked, too."""
    before = backend.kernels.get(k.primitive)
    backend.kernels[k.primitive] = [] if k.function is primitives[k.primitive].reference else [k]
    changed()
    try:
        with use_backend(backend, strict=False):
            yield
    finally:
        if before is None:
            del backend.kernels[k.primitive]
        else:
            backend.kernels[k.primitive] = before
        changed()


def _try(examiner: _Examiner, case: Case, report: Report, threads: bool = False) -> bool:
    """Examine a case and note the outcome; of failing cases the smallest is kept."""
    report.cases += 1
    try:
        examiner.examine(case)
        if threads and examiner.accepted:
            examiner.call_from_threads(case)
    except Mismatch as mismatch:
        if report.case is None or case.size < report.case.size:
            report.check, report.message, report.case = mismatch.check, mismatch.message, case
        return False
    report.accepted += examiner.accepted
    report.gradients += examiner.with_gradient
    return True


def _explore(examiner: _Examiner, report: Report, dtypes: list, max_examples: int) -> None:
    """Generated cases; on a failure Hypothesis looks for a smaller one."""
    generated = case_strategy(examiner.prim.name, dtypes)
    if generated is None or max_examples < 1:
        return
    hypothesis = strategies.hypothesis_library()

    @hypothesis.settings(
        max_examples=max_examples,
        derandomize=True,
        database=None,
        deadline=None,
        report_multiple_bugs=False,
        suppress_health_check=list(hypothesis.HealthCheck),
        verbosity=hypothesis.Verbosity.quiet,
    )
    @hypothesis.given(generated)
    def run(case: Case | None) -> None:
        if case is not None and not _try(examiner, case, report):
            raise AssertionError("the kernel fails on this case")

    try:
        run()
    except AssertionError:
        pass
    except hypothesis.errors.HypothesisException:  # a kernel that fails now and then
        if report.ok:
            raise


# Cases


def _floats(case: Case) -> list[int]:
    return [i for i, a in enumerate(case.args) if isinstance(a, np.ndarray) and is_float(a.dtype)]


def _free(case: Case) -> list[int]:
    """Floating-point inputs that can be given any value. A gradient primitive's others were kept from the forward
    pass and belong together."""
    floats = _floats(case)
    return floats[:1] if case.primitive.endswith(("_grad", "_backward")) else floats


def in_layout(case: Case, layout: str, which: str = "all") -> Case:
    """``case`` with its arrays (all, only the ``"first"``, or only the ``"others"``) in another memory layout."""
    prim = primitives[case.primitive]
    args, layouts = list(case.args), ["C"] * len(case.args)
    first = True
    for i, a in enumerate(args):
        if not isinstance(a, np.ndarray) or a.ndim == 0:
            continue
        chosen = which == "all" or first == (which == "first")
        first = False
        if not chosen:
            continue
        if layout == "broadcast":
            # repeats the first row; a donated array is memory of its own
            if i not in _free(case) or (i < len(prim.inputs) and prim.inputs[i] in prim.donated):
                continue
            args[i] = np.broadcast_to(a[:1], a.shape)
        layouts[i] = layout
    return Case(case.primitive, args, case.params, layouts)


def with_special(case: Case, special: str, seed: int = 0) -> Case:
    """``case`` with some values replaced by NaN (``"nan"``) or infinities (``"inf"``), or all made ``"large"``."""
    rng = np.random.default_rng(seed)
    args = list(case.args)
    for i in _free(case):
        a = args[i] = args[i].copy()
        if special == "large":
            a += np.sign(a) * a.dtype.type(2 * _LARGE) + a * a.dtype.type(100)
        elif a.size:
            flat = a.reshape(-1)
            for at in rng.integers(0, a.size, 1 + a.size // 16):
                flat[at] = np.nan if special == "nan" else rng.choice([np.inf, -np.inf])
    return case.with_args(args)


def sample_cases(name: str, dtypes: Sequence[np.dtype]) -> list[Case]:
    """The primitive's samples in every dtype, layout and with special values, the smallest first."""
    from minidl.testing.samples import SAMPLES

    if name not in SAMPLES:
        return []
    with plain():
        plain_cases = [Case(name, list(args), dict(params)) for args, params in SAMPLES[name](np.random.default_rng(0))]
    plain_cases.sort(key=lambda c: c.size)
    cases = [c.cast(dtype) for dtype in dtypes for c in plain_cases]
    for i, c in enumerate(plain_cases[:: -(-len(plain_cases) // 10)]):
        c = c.cast(dtypes[0])
        cases.append(in_layout(c, LAYOUTS[1 + i % (len(LAYOUTS) - 1)], ("all", "first", "others")[i % 3]))
        if name not in _FINITE_ONLY:
            cases += [with_special(c, special, i) for special in ("nan", "inf", "large")]
    for c in plain_cases[-2:]:
        cases += [in_layout(c.cast(dtype), layout) for dtype in dtypes for layout in LAYOUTS[1:]]
    return sorted(cases, key=lambda c: c.size)


def large_cases(name: str, dtypes: Sequence[np.dtype]) -> list[Case]:
    """The smallest case of the benchmark: large enough for kernels to tile, to block and to start threads."""
    from minidl.testing import bench

    if name not in bench.CASES:
        return []
    case = bench.inputs(name, bench.CASES[name][0])
    odd = [with_special(case, special) for special in ("nan", "inf", "large")] if name not in _FINITE_ONLY else []
    return [*(case.cast(dtype) for dtype in dtypes), *(c.cast(dtypes[0]) for c in [in_layout(case, "offset"), *odd])]


def case_strategy(name: str, dtypes: Sequence[np.dtype]) -> Any:
    """A Hypothesis strategy for cases (at times None) of the primitive; None if it has none."""
    base = name if name in strategies.STRATEGIES else strategies.parent_of(name)
    if base is None:
        return None
    st = strategies.hypothesis_library().strategies

    @st.composite
    def cases(draw: Any) -> Case | None:
        args, params = strategies.STRATEGIES[base](draw)
        dtype, seed = draw(st.sampled_from(list(dtypes))), draw(st.integers(0, 3))
        layout, which = draw(st.sampled_from(LAYOUTS)), draw(st.sampled_from(["all", "first", "others"]))
        special = draw(st.sampled_from(["", "", "nan", "inf", "large"]))
        case: Case | None = strategies.realize(base, args, params, seed, dtype)
        if special:
            case = with_special(case, special, seed)
        try:
            if base != name:
                case = strategies.call_in_gradient(name, case)
        except _REFUSALS:  # not a call that the forward primitive takes
            return None
        return case and in_layout(case, layout, which)

    return cases()


# Examination


def _tuple(out: Any) -> tuple:
    return out if isinstance(out, tuple) else (out,)


def _same_bits(a: np.ndarray, b: np.ndarray) -> bool:
    return a.shape == b.shape and a.dtype == b.dtype and a.tobytes() == b.tobytes()


@dataclasses.dataclass
class _Expected:
    """Results of a reference: in the case's own dtype, in float64, and in float64 with inputs a little off."""

    own: tuple
    exact: tuple
    shifted: list[tuple]
    #: for a case in float64 the same two in float32, which show what cancellation inside the reference does
    low: tuple[tuple, tuple] | None
    #: largest input
    scale: float


def _wide(case: Case) -> list[Any]:
    return [a.astype(np.float64) if isinstance(a, np.ndarray) and is_float(a.dtype) else a for a in case.args]


def _expected(case: Case, compute: Any, shifts: int) -> _Expected:
    """``compute(args)`` on the references, in all the ways that :class:`_Expected` has."""
    floats = _floats(case)
    wide = _wide(case)
    eps = max((_eps(case.args[i].dtype) for i in floats), default=0.0)
    rng = np.random.default_rng(1)
    shifted = []
    with plain():
        own = compute(case.args)
        exact = compute(wide) if floats else own
        low = None
        if floats and all(case.args[i].dtype == np.float64 for i in floats):
            single = case.cast(np.float32)
            low = compute(single.args), compute(_wide(single))
        for _ in range(shifts if floats else 0):
            off = [a * (1 + eps * rng.choice([-1.0, 1.0], a.shape)) if i in floats else a for i, a in enumerate(wide)]
            try:
                shifted.append(compute(off))
            except _REFUSALS:  # a function with a narrow domain, such as cholesky
                continue
    scale = max((float(np.max(np.abs(wide[i]), where=np.isfinite(wide[i]), initial=0.0)) for i in floats), default=0.0)
    return _Expected(own, exact, shifted, low, scale)


def _eps(dtype: np.dtype) -> float:
    if dtype.kind == "f":
        return float(np.finfo(dtype).eps)
    import ml_dtypes

    return float(ml_dtypes.finfo(dtype).eps)


def _compare(
    check: str,
    what: str,
    k: int,
    found: np.ndarray,
    expected: _Expected,
    declared: dict[str, Any],
    odd: bool = False,
    unit: float = 0.0,
) -> None:
    """Is ``found`` close enough to output ``k``? ``odd``: are there NaN or Inf among the inputs? What is declared is
    relative to the largest output, or to ``unit``, if that is larger."""
    own, exact = np.asarray(expected.own[k]), np.asarray(expected.exact[k])
    if not is_float(own.dtype):
        wrong = found != own
        if wrong.any():
            at = tuple(int(i) for i in np.argwhere(wrong)[0])
            raise Mismatch(check, f"{what} at {list(at)}: got {found[at]}, expected {own[at]}")
        return
    eps = _eps(own.dtype)
    differs = odd and declared.get("nonfinite") == "may differ"
    spreads = differs or (odd and declared.get("nonfinite") == "may spread")
    with np.errstate(all="ignore"):
        f, o = found.astype(np.float64), own.astype(np.float64)
        e = exact.astype(np.float64)
        rounded = e.astype(own.dtype).astype(np.float64)
        edge = np.isfinite(rounded) != np.isfinite(o)  # at the end of the dtype's range
        finite = np.isfinite(rounded)
        same = (f == rounded) | (np.isnan(f) & np.isnan(rounded))
        largest = float(np.max(np.abs(e), where=np.isfinite(e), initial=0.0))
        spread = np.zeros(e.shape)
        for other in expected.shifted:
            change = np.abs(np.asarray(other[k], np.float64) - e)
            spread = np.maximum(spread, np.where(np.isfinite(change), change, 0.0))
        much = 1e4 * eps * max(largest, expected.scale)
        jumps = spread > much
        slips = _slips(o, e, ~jumps)
        if expected.low is not None:
            low, ideal = (np.asarray(outs[k], np.float64) for outs in expected.low)
            slips = max(slips, _slips(low, ideal, ~jumps) * eps / _eps(np.dtype(np.float32)))
        if slips > much:  # nothing can be said: a singular matrix, say
            return
        few = 8 if own.dtype.itemsize < 4 else 64
        least = np.finfo(np.float32 if own.dtype.kind == "V" else own.dtype).tiny
        allowed = few * eps * np.abs(e) + few / 4 * eps * largest + 32 * np.where(jumps, 0, spread) + 8 * slips
        allowed = allowed + float(least) + declared.get(own.dtype.name, 0.0) * max(largest, unit)
        if expected.scale > _LARGE:
            allowed = allowed + 1e-3 * max(largest, 1.0)
        error = np.abs(f - e)
        close = (error <= allowed) | (jumps & (np.abs(f - o) <= allowed)) | (spreads & ~np.isfinite(f))
        good = np.where(finite, close, same | differs | (spreads & ~np.isfinite(f))) | edge
    if good.all():
        return
    at = tuple(int(i) for i in np.argwhere(~good)[np.argmax(np.nan_to_num(error[~good], nan=np.inf))])
    if finite[at] and np.isfinite(f[at]):
        detail = f"off by {error[at]:.3g}, allowed {allowed[at]:.3g}"
    else:
        detail = "NaN and Inf must be where the reference has them"
    wrong = int((~good).sum())
    count = f"; {wrong} of {good.size} elements are wrong" if good.size > 1 else ""
    raise Mismatch(check, f"{what} at {list(at)}: got {f[at]:.9g}, expected {e[at]:.9g} ({detail}{count})")


def _slips(found: np.ndarray, exact: np.ndarray, where: np.ndarray) -> float:
    """The largest of the reference's own rounding errors, which cancellation inside it may have made larger."""
    where = where & np.isfinite(found) & np.isfinite(exact)
    return float(np.max(np.abs(found - exact), where=where, initial=0.0))


class _Examiner:
    """Puts one kernel through the checks, case by case."""

    def __init__(self, backend: Backend, k: Kernel) -> None:
        self.backend, self.kernel, self.prim = backend, k, primitives[k.primitive]
        self.declared = dict(k.tolerance or {})
        self.donated = {i for i, name in enumerate(self.prim.inputs) if name in self.prim.donated}
        #: what the last case did
        self.accepted = self.with_gradient = False

    def examine(self, case: Case) -> None:
        """Raises :class:`Mismatch` at the first check that fails."""
        self.accepted = self.with_gradient = False

        def reference(args: list) -> tuple:
            return _tuple(self.prim.reference(*args, **case.params))

        try:
            expected = _expected(case, reference, shifts=4)
        except _REFUSALS:  # not a call that the primitive takes
            return
        own = [np.asarray(o) for o in expected.own]
        odd = _is_odd(case)
        args = self.place(case)
        if not self.accepts(args, case.params):
            self.check_fallback(case, args, expected, odd)
            return
        self.accepted = True
        first = self.call(args, case.params)
        self.check_outputs(first, own)
        self.check_values("values", first, expected, odd)
        self.check_inputs(case, args)
        self.check_aliasing(first, args, expected.own, case)
        before = [self.host(o).copy() for o in first]
        self.check_repeat(case, args, before)
        self.check_stale(case, first, before, reference, odd)
        if self.kernel.out:
            self.check_out(case, own, before)
        if not odd and expected.scale <= _LARGE:
            self.check_gradient(case, own)

    def place(self, case: Case) -> list:
        return case.place(self.backend.asarray)

    def host(self, array: Any) -> np.ndarray:
        return np.asarray(self.backend.to_numpy(array))

    def accepts(self, args: list, params: dict) -> bool:
        if self.kernel.when is None:
            return True
        try:
            return bool(self.kernel.when(*args, **params))
        except Exception as error:
            raise Mismatch("predicate", f"it raised {type(error).__name__}: {error}") from error

    def call(self, args: list, params: dict, **more: Any) -> tuple:
        try:
            with use_backend(self.backend, strict=False), np.errstate(all="ignore"):
                out = self.kernel.function(*args, **params, **more)
                self.backend.synchronize()
        except Exception as error:
            check = "out" if more else "raises"
            raise Mismatch(check, f"{type(error).__name__}: {error}, where the reference has no error") from error
        return _tuple(out)

    def check_fallback(self, case: Case, args: list, expected: _Expected, odd: bool) -> None:
        try:
            with use_backend(self.backend, strict=False), np.errstate(all="ignore"):
                found = _tuple(run(self.prim, args, dict(case.params)))
        except Exception as error:
            raise Mismatch("predicate", f"it said no, and then {type(error).__name__}: {error}") from error
        self.check_values("predicate", found, expected, odd)

    def check_outputs(self, outs: tuple, own: list[np.ndarray]) -> None:
        if len(outs) != len(own):
            raise Mismatch("outputs", f"got {len(outs)}, expected {len(own)}")
        for k, (o, r) in enumerate(zip(outs, own)):
            if not isinstance(o, (self.backend.array_type, np.generic)):
                expected = self.backend.array_type.__name__
                raise Mismatch("outputs", f"output {k} is a {type(o).__name__}, expected {expected}")
            if o.dtype != r.dtype:
                raise Mismatch("outputs", f"output {k} has dtype {o.dtype}, expected {r.dtype}")
            if tuple(o.shape) != r.shape:
                raise Mismatch("outputs", f"output {k} has shape {tuple(o.shape)}, expected {r.shape}")

    def check_values(self, check: str, outs: tuple, expected: _Expected, odd: bool) -> None:
        for k, o in enumerate(outs):
            _compare(check, f"output {k}", k, self.host(o), expected, self.declared, odd)

    def check_inputs(self, case: Case, args: list) -> None:
        for i, (a, given) in enumerate(zip(args, case.args)):
            if isinstance(given, np.ndarray) and i not in self.donated and not _same_bits(self.host(a), given):
                raise Mismatch("inputs", f"input {i} ({_name(self.prim, i)}) was written to")

    def check_aliasing(self, outs: tuple, args: list, own: tuple, case: Case) -> None:
        if self.backend.array_type is not np.ndarray:
            return
        # each with the reference's counterpart: where that is a view of an input, the kernel's output may be one
        others = [(f"input {i} ({_name(self.prim, i)})", a, case.args[i]) for i, a in enumerate(args)]
        others = [other for i, other in enumerate(others) if i not in self.donated]
        for k, (o, r) in enumerate(zip(outs, own)):
            if any(_share_memory(r, b) for _, _, b in others):
                continue
            for what, a, _ in others:
                if _share_memory(o, a):
                    raise Mismatch("aliasing", f"output {k} shares memory with {what}")
            others.append((f"output {k}", o, r))

    def again(self, case: Case, args: list) -> list:
        """The same arrays, but for the donated ones, which are new."""
        fresh = self.place(case) if self.donated else args
        return [fresh[i] if i in self.donated else a for i, a in enumerate(args)]

    def check_repeat(self, case: Case, args: list, before: list[np.ndarray]) -> None:
        for _ in range(2):
            for k, (o, b) in enumerate(zip(self.call(self.again(case, args), case.params), before)):
                if not _same_bits(self.host(o), b):
                    raise Mismatch("determinism", f"output {k} differs between two calls with the same inputs")

    def check_stale(self, case: Case, first: tuple, before: list, reference: Any, odd: bool) -> None:
        free = _free(case)
        other = case.with_args(
            [a * a.dtype.type(0.5) + a.dtype.type(0.25) if i in free else a for i, a in enumerate(case.args)]
        )
        try:
            expected = _expected(other, reference, shifts=4)
        except _REFUSALS:
            return
        args = self.place(other)
        if not self.accepts(args, case.params):
            return
        second = self.call(args, case.params)
        for k, (o, b) in enumerate(zip(first, before)):
            if not _same_bits(self.host(o), b):
                raise Mismatch("stale", f"output {k} of a call changed when the kernel was called again")
        self.check_outputs(second, [np.asarray(o) for o in expected.own])
        self.check_values("stale", second, expected, odd)

    def check_out(self, case: Case, own: list[np.ndarray], before: list[np.ndarray]) -> None:
        out = tuple(self.backend.asarray(np.full(o.shape, 77).astype(o.dtype)) for o in own)
        found = self.call(self.place(case), case.params, out=out)
        if len(found) != len(out) or any(f is not o for f, o in zip(found, out)):
            raise Mismatch("out", "the arrays given as out= are not what was returned")
        for k, (f, b) in enumerate(zip(found, before)):
            if not _same_bits(self.host(f), b):
                raise Mismatch("out", f"output {k} differs from what is returned without out=")

    def check_gradient(self, case: Case, own: list[np.ndarray]) -> None:
        wanted = differentiable(case)
        if not wanted:
            return
        cotangents = cotangents_for(tuple(own))
        wide = [g if g is None else g.astype(np.float64) for g in cotangents]

        def reference(args: list) -> tuple:
            as_wide = any(isinstance(a, np.ndarray) and a.dtype == np.float64 for a in args)
            return tuple(gradients_of(case, args, wide if as_wide else cotangents, wanted)[0])

        names: set[str] = set()
        try:
            if any(k.tolerance for kernels in self.backend.kernels.values() for k in kernels):
                with plain(), strategies.recording() as recorder:
                    reference(case.args)
                names = {name for name, _, _ in recorder.calls}
            expected = _expected(case, reference, shifts=3)
        except _REFUSALS:  # no gradient for some input, or not here: that of a singular matrix
            return
        args = self.place(case)
        sent = [g if g is None else self.backend.asarray(g) for g in cotangents]
        try:
            with use_backend(self.backend, strict=False), np.errstate(all="ignore"):
                found, _ = gradients_of(case, args, sent, wanted)
        except Exception as error:
            raise Mismatch("gradient", f"{type(error).__name__}: {error}, where the reference has no error") from error
        self.with_gradient = True
        declared = self.tolerance_of(names)
        unit = max((float(np.abs(g).max(initial=0.0)) for g in wide if g is not None), default=0.0)
        for j, (i, g) in enumerate(zip(wanted, found)):
            what = f"gradient of input {i} ({_name(self.prim, i)})"
            r = expected.own[j]
            if (g is None) != (r is None):
                raise Mismatch("gradient", f"{what} is {'missing' if g is None else 'there'}, unlike the reference's")
            if g is None:
                continue
            g = self.host(g)
            if g.dtype != r.dtype or g.shape != r.shape:
                raise Mismatch("gradient", f"{what} is {g.dtype}{list(g.shape)}, expected {r.dtype}{list(r.shape)}")
            _compare("gradient", what, j, g, expected, declared, unit=unit)

    def tolerance_of(self, names: Iterable[str]) -> dict[str, Any]:
        """The loosest of what this kernel and the backend's kernels for the primitives ``names`` declare."""
        loosest = dict(self.declared)
        for name in names:
            for k in self.backend.kernels.get(name, ()):
                for dtype, value in (k.tolerance or {}).items():
                    if isinstance(value, float):
                        loosest[dtype] = max(loosest.get(dtype, 0.0), value)
        return loosest

    def call_from_threads(self, case: Case) -> None:
        """Calls at once, each with inputs of its own, give what calls one by one give (to rounding: a library may
        split a contraction otherwise when it is busy)."""
        free = _free(case)
        cases = [
            case.with_args([a * a.dtype.type(1 - 0.1 * t) if i in free else a for i, a in enumerate(case.args)])
            for t in range(_THREADS)
        ]

        def reference(args: list) -> tuple:
            return _tuple(self.prim.reference(*args, **case.params))

        expected = [_expected(c, reference, shifts=4) for c in cases]
        rounds = 6
        placed = [[self.place(c) for _ in range(rounds)] for c in cases]

        def work(t: int) -> list:
            with np.errstate(all="ignore"):
                return [_tuple(self.kernel.function(*args, **case.params)) for args in placed[t]]

        try:
            with use_backend(self.backend, strict=False), ThreadPoolExecutor(_THREADS) as pool:
                found = list(pool.map(work, range(_THREADS)))
                self.backend.synchronize()
        except Exception as error:
            raise Mismatch("threads", f"{type(error).__name__}: {error}") from error
        for t, calls in enumerate(found):
            for outs in calls:
                try:
                    self.check_values("threads", outs, expected[t], _is_odd(case))
                except Mismatch as mismatch:
                    raise Mismatch("threads", f"called from {_THREADS} threads, {mismatch.message}") from mismatch


def _share_memory(a: Any, b: Any) -> bool:
    if not isinstance(a, np.ndarray) or not isinstance(b, np.ndarray):
        return False
    try:
        return np.shares_memory(a, b, max_work=10_000)
    except np.exceptions.TooHardError:
        return np.may_share_memory(a, b)


def _is_odd(case: Case) -> bool:
    return any(not np.isfinite(case.args[i].astype(np.float64)).all() for i in _floats(case))


def _name(prim: Any, i: int) -> str:
    return prim.inputs[i] if i < len(prim.inputs) else f"*{prim.variadic}"
