"""Examining kernels: all checks on all cases, the smallest failing case kept."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from minidl.core.errors import BackendError
from minidl.core.registry import Backend, Kernel, changed, load, use_backend
from minidl.ops import primitives
from minidl.testing import replay as replaying
from minidl.testing.case import Case, dtype_of
from minidl.testing.conformance.candidate import Candidate, Trial
from minidl.testing.conformance.cases import case_strategy, large_cases, sample_cases
from minidl.testing.conformance.checks import CHECKS, RARE_CHECKS, Check
from minidl.testing.conformance.report import Mismatch, Report
from minidl.testing.reference import REFUSALS
from minidl.testing.strategies import hypothesis_library


def name_of(check: Check) -> str:
    """``values`` for ``check_values``: what reports and saved cases call it."""
    return check.__name__.removeprefix("check_")


def apply(checks: Sequence[Check], candidate: Candidate, trial: Trial) -> None:
    """Run checks one after the other, as long as the kernel accepts the case; the Mismatch of the first that fails has
    its name."""
    for check in checks:
        try:
            check(candidate, trial)
        except Mismatch as mismatch:
            mismatch.check = name_of(check)
            raise
        if not trial.accepted:
            return


def examine(candidate: Candidate, case: Case, *, rarely: bool = False) -> Trial:
    """Put a kernel through all checks on one case; raises :class:`Mismatch` at the first that it fails.

    A case that the primitive itself does not take is left alone: the trial that is returned says what was done.
    ``rarely`` adds the checks that take long.
    """
    trial = Trial(candidate, case)
    try:
        _ = trial.expected
    except REFUSALS:
        return trial
    apply((*CHECKS, *RARE_CHECKS) if rarely else CHECKS, candidate, trial)
    return trial


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

    ``dtypes`` are by default float32, float64 and the other dtypes the kernel was registered with. ``max_examples`` is
    the number of generated cases, besides the samples. The smallest failing case of a kernel is saved into the folder
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


def is_defined_in(kernel: Kernel, *modules: str) -> bool:
    """Is the kernel's function defined in one of these modules or packages? Every kernel is if none is given."""
    where = kernel.function.__module__
    given = [m for m in modules if m]
    return not given or any(where == m or where.startswith(f"{m}.") for m in given)


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
            _try(Candidate(backend, k), case, report, rarely=True)
        reports.append(report)
    return reports


def _check_kernel(
    backend: Backend, k: Kernel, dtypes: Sequence[str] | None, max_examples: int, save_to: str | Path | None
) -> Report:
    report = Report(k.primitive, backend.name, k.label, k.tolerance)
    names = list(dtypes or dict.fromkeys(["float32", "float64", *(d for d in k.dtypes if _is_float_name(d))]))
    wanted = [dtype_of(name) for name in names]
    with _only(backend, k):
        candidate = Candidate(backend, k)
        largest = None
        for case in sample_cases(k.primitive, wanted):
            trial = _try(candidate, case, report)
            if trial is None:
                break
            if trial.accepted and (largest is None or case.size >= largest.size):
                largest = case
        _explore(candidate, report, wanted, max_examples)
        if report.ok:
            for i, case in enumerate(large_cases(k.primitive, wanted)):
                if _try(candidate, case, report, rarely=i == 0) is None:
                    break
        if report.ok and largest is not None:
            _try(candidate, largest, report, rarely=True)
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
    with use_backend(backend, strict=False):
        backend.kernels[k.primitive] = [k]
        changed()
        try:
            yield
        finally:
            if before is None:
                del backend.kernels[k.primitive]
            else:
                backend.kernels[k.primitive] = before
            changed()


def _try(candidate: Candidate, case: Case, report: Report, rarely: bool = False) -> Trial | None:
    """Examine a case and note the outcome; of failing cases, for which it returns None, the smallest is kept."""
    report.cases += 1
    try:
        trial = examine(candidate, case, rarely=rarely)
    except Mismatch as mismatch:
        if report.case is None or case.size < report.case.size:
            report.check, report.message, report.case = mismatch.check, mismatch.message, case
        return None
    report.accepted += trial.accepted
    report.gradients += trial.with_gradient
    return trial


def _explore(candidate: Candidate, report: Report, dtypes: list, max_examples: int) -> None:
    """Generated cases; on a failure Hypothesis looks for a smaller one."""
    generated = case_strategy(candidate.prim.name, dtypes)
    if generated is None or max_examples < 1:
        return
    hypothesis = hypothesis_library()

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
        if case is not None and _try(candidate, case, report) is None:
            raise AssertionError("the kernel fails on this case")

    try:
        run()
    except AssertionError:
        pass
    except hypothesis.errors.HypothesisException:  # a kernel that fails now and then
        if report.ok:
            raise
