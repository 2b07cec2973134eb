"""The checks that a kernel goes through on every case, each a function with a name.

A check takes the kernel (:class:`Candidate`) and the case (:class:`Trial`) and raises :class:`Mismatch` if the kernel
fails it. :data:`CHECKS` has them in the order in which they run; the first that fails ends the examination, because
those after it rely on those before.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from minidl.core.dispatch import run
from minidl.core.registry import use_backend
from minidl.testing.conformance.accuracy import LARGE, compare, expected_of
from minidl.testing.conformance.candidate import Candidate, Trial
from minidl.testing.conformance.report import Mismatch
from minidl.testing.reference import (
    REFUSALS,
    as_tuple,
    cotangents_for,
    differentiable,
    formula,
    gradients_of,
    plain,
    recording,
)

_THREADS = 4
_ROUNDS = 6


def check_predicate(candidate: Candidate, trial: Trial) -> None:
    """``when`` answers without an error, and where it says no, what serves the call instead is right."""
    trial.accepted = candidate.accepts(trial.args, trial.case.params)
    if trial.accepted:
        return
    try:
        with use_backend(candidate.backend, strict=False), np.errstate(all="ignore"):
            found = as_tuple(run(candidate.prim, trial.args, dict(trial.case.params)))
    except Exception as error:
        raise Mismatch(f"it said no, and then {type(error).__name__}: {error}") from error
    candidate.compare(found, trial.expected, trial.odd)


def check_raises(candidate: Candidate, trial: Trial) -> None:
    """No error where the formula has none."""
    _ = trial.outs


def check_outputs(candidate: Candidate, trial: Trial) -> None:
    """Number, array type, dtype and shape of the outputs are the formula's."""
    _check_kinds(candidate, trial.outs, trial.expected.arrays)


def check_values(candidate: Candidate, trial: Trial) -> None:
    """They are close to the formula in float64, with NaN and Inf in the same places."""
    candidate.compare(trial.outs, trial.expected, trial.odd)


def check_inputs(candidate: Candidate, trial: Trial) -> None:
    """No input was written to, except those that the primitive donates."""
    for i, (a, given) in enumerate(zip(trial.args, trial.case.args)):
        if isinstance(given, np.ndarray) and i not in candidate.donated and not _same_bits(candidate.host(a), given):
            raise Mismatch(f"{candidate.name_of(i)} was written to")


def check_aliasing(candidate: Candidate, trial: Trial) -> None:
    """No output shares memory with an input or with another output."""
    if candidate.backend.array_type is not np.ndarray:
        return
    # each with the formula's counterpart: where that is a view of an input, the kernel's output may be one
    others = [
        (candidate.name_of(i), a, trial.case.args[i]) for i, a in enumerate(trial.args) if i not in candidate.donated
    ]
    for k, (o, r) in enumerate(zip(trial.outs, trial.expected.own)):
        if any(_share_memory(r, b) for _, _, b in others):
            continue
        for what, a, _ in others:
            if _share_memory(o, a):
                raise Mismatch(f"output {k} shares memory with {what}")
        others.append((f"output {k}", o, r))


def check_determinism(candidate: Candidate, trial: Trial) -> None:
    """Further calls give the same bits."""
    kept = trial.kept
    for _ in range(2):
        # the same arrays, except that donated ones are new
        fresh = candidate.place(trial.case) if candidate.donated else trial.args
        args = [fresh[i] if i in candidate.donated else a for i, a in enumerate(trial.args)]
        for k, (o, b) in enumerate(zip(candidate.call(args, trial.case.params), kept)):
            if not _same_bits(candidate.host(o), b):
                raise Mismatch(f"output {k} differs between two calls with the same inputs")


def check_stale(candidate: Candidate, trial: Trial) -> None:
    """What a call returned stays as it was when the kernel is called again, and the second call's result belongs to the
    second call's inputs."""
    kept = trial.kept
    other = trial.case.changed(lambda a: a * a.dtype.type(0.5) + a.dtype.type(0.25))
    try:
        expected = expected_of(other, formula(other))
    except REFUSALS:
        return
    args = candidate.place(other)
    if not candidate.accepts(args, other.params):
        return
    second = candidate.call(args, other.params)
    for k, (o, b) in enumerate(zip(trial.outs, kept)):
        if not _same_bits(candidate.host(o), b):
            raise Mismatch(f"output {k} of a call changed when the kernel was called again")
    _check_kinds(candidate, second, expected.arrays)
    candidate.compare(second, expected, trial.odd)


def check_out(candidate: Candidate, trial: Trial) -> None:
    """With ``out=``, the given arrays are filled and returned (for kernels registered with ``out=True``)."""
    if not candidate.kernel.out:
        return
    kept = trial.kept
    out = tuple(candidate.backend.asarray(np.full(o.shape, 77).astype(o.dtype)) for o in trial.expected.arrays)
    found = candidate.call(candidate.place(trial.case), trial.case.params, out=out)
    if len(found) != len(out) or any(f is not o for f, o in zip(found, out)):
        raise Mismatch("the arrays given as out= are not what was returned")
    for k, (f, b) in enumerate(zip(found, kept)):
        if not _same_bits(candidate.host(f), b):
            raise Mismatch(f"output {k} differs from what is returned without out=")


def check_gradient(candidate: Candidate, trial: Trial) -> None:
    """Gradients through the primitive's rule on this backend are those of the formulas."""
    case = trial.case
    wanted = differentiable(case)
    if not wanted or trial.odd or trial.expected.scale > LARGE:
        return
    cotangents = cotangents_for(tuple(trial.expected.arrays))
    wide = [g if g is None else g.astype(np.float64) for g in cotangents]

    def reference(args: list) -> tuple:
        as_wide = any(isinstance(a, np.ndarray) and a.dtype == np.float64 for a in args)
        return tuple(gradients_of(case, args, wide if as_wide else cotangents, wanted)[0])

    names: set[str] = set()
    try:
        if any(k.tolerance for kernels in candidate.backend.kernels.values() for k in kernels):
            with plain(), recording() as recorder:
                reference(case.args)
            names = {name for name, _, _ in recorder.calls}
        expected = expected_of(case, reference, shifts=3)
    except REFUSALS:  # no gradient for some input, or not here: that of a singular matrix
        return
    args = candidate.place(case)
    sent = [g if g is None else candidate.backend.asarray(g) for g in cotangents]
    try:
        with use_backend(candidate.backend, strict=False), np.errstate(all="ignore"):
            found, _ = gradients_of(case, args, sent, wanted)
    except Exception as error:
        raise Mismatch(f"{type(error).__name__}: {error}, where the reference has no error") from error
    trial.with_gradient = True
    declared = candidate.tolerance_with(names)
    unit = max((float(np.abs(g).max(initial=0.0)) for g in wide if g is not None), default=0.0)
    for j, (i, g) in enumerate(zip(wanted, found)):
        what = f"gradient of {candidate.name_of(i)}"
        r = expected.own[j]
        if (g is None) != (r is None):
            raise Mismatch(f"{what} is {'missing' if g is None else 'there'}, unlike the reference's")
        if g is None:
            continue
        g = candidate.host(g)
        if g.dtype != r.dtype or g.shape != r.shape:
            raise Mismatch(f"{what} is {g.dtype}{list(g.shape)}, expected {r.dtype}{list(r.shape)}")
        compare(what, g, expected, j, declared, unit=unit)


def check_threads(candidate: Candidate, trial: Trial) -> None:
    """Calls at once, each with inputs of its own, give what calls one by one give (to rounding: a library may split a
    contraction otherwise when it is busy)."""
    params = trial.case.params
    cases = [trial.case.changed(_times(1 - 0.1 * t)) for t in range(_THREADS)]
    expected = [expected_of(c, formula(c)) for c in cases]
    placed = [[candidate.place(c) for _ in range(_ROUNDS)] for c in cases]

    def work(t: int) -> list:
        with use_backend(candidate.backend, strict=False), np.errstate(all="ignore"):
            return [as_tuple(candidate.kernel.function(*args, **params)) for args in placed[t]]

    try:
        with ThreadPoolExecutor(_THREADS) as pool:
            found = list(pool.map(work, range(_THREADS)))
            candidate.backend.synchronize()
    except Exception as error:
        raise Mismatch(f"{type(error).__name__}: {error}") from error
    for t, calls in enumerate(found):
        for outs in calls:
            try:
                candidate.compare(outs, expected[t], trial.odd)
            except Mismatch as mismatch:
                raise Mismatch(f"called from {_THREADS} threads, {mismatch.message}") from mismatch


Check = Callable[[Candidate, Trial], None]

#: for every case, in this order; where the predicate says no, the others have nothing to check
CHECKS: tuple[Check, ...] = (
    check_predicate,
    check_raises,
    check_outputs,
    check_values,
    check_inputs,
    check_aliasing,
    check_determinism,
    check_stale,
    check_out,
    check_gradient,
)
#: for a few large cases only, as they take long
RARE_CHECKS: tuple[Check, ...] = (check_threads,)


def _times(factor: float) -> Callable[[np.ndarray], np.ndarray]:
    return lambda a: a * a.dtype.type(factor)


def _check_kinds(candidate: Candidate, outs: tuple, own: list[np.ndarray]) -> None:
    if len(outs) != len(own):
        raise Mismatch(f"got {len(outs)}, expected {len(own)}")
    array_type: Any = candidate.backend.array_type
    for k, (o, r) in enumerate(zip(outs, own)):
        if not isinstance(o, (array_type, np.generic)):
            raise Mismatch(f"output {k} is a {type(o).__name__}, expected {array_type.__name__}")
        if o.dtype != r.dtype:
            raise Mismatch(f"output {k} has dtype {o.dtype}, expected {r.dtype}")
        if tuple(o.shape) != r.shape:
            raise Mismatch(f"output {k} has shape {tuple(o.shape)}, expected {r.shape}")


def _same_bits(a: np.ndarray, b: np.ndarray) -> bool:
    return a.shape == b.shape and a.dtype == b.dtype and a.tobytes() == b.tobytes()


def _share_memory(a: Any, b: Any) -> bool:
    if not isinstance(a, np.ndarray) or not isinstance(b, np.ndarray):
        return False
    try:
        return np.shares_memory(a, b, max_work=10_000)  # type: ignore[arg-type]  # NumPy's stub knows -1 and 0 only
    except np.exceptions.TooHardError:
        return np.may_share_memory(a, b)
