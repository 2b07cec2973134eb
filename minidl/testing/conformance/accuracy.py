"""How close is close: what the formula gives, how much of that is rounding, and the comparison with a kernel's outputs.

:mod:`minidl.testing.conformance` has the rule in words.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from minidl.testing.case import Case, is_float
from minidl.testing.conformance.report import Mismatch
from minidl.testing.reference import REFUSALS, plain

#: Inputs beyond this are for finding overflow: functions saturate there, and rounding decides what is left of a
#: gradient.
LARGE = 30.0


@dataclasses.dataclass
class Expected:
    """Results of a formula: in the case's own dtype, in float64, and in float64 with inputs a little off."""

    own: tuple
    exact: tuple
    shifted: list[tuple]
    #: for a case in float64 the same two in float32, which show what cancellation inside the formula does
    low: tuple[tuple, tuple] | None
    #: largest input
    scale: float

    @property
    def arrays(self) -> list[np.ndarray]:
        """The outputs in the case's own dtype, 0-d ones as arrays, too."""
        return [np.asarray(o) for o in self.own]


def expected_of(case: Case, compute: Callable[[list], tuple], shifts: int = 4) -> Expected:
    """``compute(args)`` with the formulas, in all the ways that :class:`Expected` has.

    Raises one of ``REFUSALS`` where the formula does not take the call.
    """
    floats = case.floats
    wide = _widened(case)
    eps = max((_eps(case.args[i].dtype) for i in floats), default=0.0)
    rng = np.random.default_rng(1)
    shifted = []
    with plain():
        own = compute(case.args)
        exact = compute(wide) if floats else own
        low = None
        if floats and all(case.args[i].dtype == np.float64 for i in floats):
            single = case.cast(np.float32)
            low = compute(single.args), compute(_widened(single))
        for _ in range(shifts if floats else 0):
            off = [a * (1 + eps * rng.choice([-1.0, 1.0], a.shape)) if i in floats else a for i, a in enumerate(wide)]
            try:
                shifted.append(compute(off))
            except REFUSALS:  # a function with a narrow domain, such as cholesky
                continue
    return Expected(own, exact, shifted, low, max((_largest(wide[i]) for i in floats), default=0.0))


def compare(
    what: str,
    found: np.ndarray,
    expected: Expected,
    k: int,
    declared: Mapping[str, Any],
    *,
    odd: bool = False,
    unit: float = 0.0,
) -> None:
    """Raise :class:`Mismatch` unless ``found`` is close enough to output ``k``.

    ``odd`` says that there are NaN or Inf among the inputs. The tolerance ``declared`` is relative to the largest
    output, or to ``unit``, if that is larger.
    """
    own = np.asarray(expected.own[k])
    if not is_float(own.dtype):
        wrong = found != own
        if wrong.any():
            at = tuple(int(i) for i in np.argwhere(wrong)[0])
            raise Mismatch(f"{what} at {list(at)}: got {found[at]}, expected {own[at]}")
        return
    differs = odd and declared.get("nonfinite") == "may differ"
    spreads = differs or (odd and declared.get("nonfinite") == "may spread")
    with np.errstate(all="ignore"):
        f, o, e = (np.asarray(a).astype(np.float64) for a in (found, own, expected.exact[k]))
        rounded = e.astype(own.dtype).astype(np.float64)
        edge = np.isfinite(rounded) != np.isfinite(o)  # at the end of the dtype's range
        finite = np.isfinite(rounded)
        same = (f == rounded) | (np.isnan(f) & np.isnan(rounded))
        margin = _margin(o, e, own.dtype, expected, k, declared, unit)
        if margin is None:
            return
        allowed, jumps = margin
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
    wrong_ones = int((~good).sum())
    count = f"; {wrong_ones} of {good.size} elements are wrong" if good.size > 1 else ""
    raise Mismatch(f"{what} at {list(at)}: got {f[at]:.9g}, expected {e[at]:.9g} ({detail}{count})")


def _margin(
    own: np.ndarray,
    exact: np.ndarray,
    dtype: np.dtype,
    expected: Expected,
    k: int,
    declared: Mapping[str, Any],
    unit: float,
) -> tuple[np.ndarray, np.ndarray] | None:
    """How far each element of output ``k`` may be off, and where the function jumps, so that the formula's own value
    is as good as the exact one; None where nothing can be said: of a singular matrix, say."""
    eps = _eps(dtype)
    largest = _largest(exact)
    spread = np.zeros(exact.shape)
    for other in expected.shifted:
        change = np.abs(np.asarray(other[k], np.float64) - exact)
        spread = np.maximum(spread, np.where(np.isfinite(change), change, 0.0))
    much = 1e4 * eps * max(largest, expected.scale)
    jumps = spread > much
    slips = _slips(own, exact, ~jumps)
    if expected.low is not None:
        low, ideal = (np.asarray(outs[k], np.float64) for outs in expected.low)
        slips = max(slips, _slips(low, ideal, ~jumps) * eps / _eps(np.dtype(np.float32)))
    if slips > much:
        return None
    few = 8 if dtype.itemsize < 4 else 64
    least = np.finfo(np.float32 if dtype.kind == "V" else dtype).tiny
    allowed = few * eps * np.abs(exact) + few / 4 * eps * largest + 32 * np.where(jumps, 0, spread) + 8 * slips
    allowed = allowed + float(least) + declared.get(dtype.name, 0.0) * max(largest, unit)
    if expected.scale > LARGE:
        allowed = allowed + 1e-3 * max(largest, 1.0)
    return allowed, jumps


def _slips(found: np.ndarray, exact: np.ndarray, where: np.ndarray) -> float:
    """The largest of the formula's own rounding errors, which cancellation inside it may have made larger."""
    where = where & np.isfinite(found) & np.isfinite(exact)
    return float(np.max(np.abs(found - exact), where=where, initial=0.0))


def _largest(array: np.ndarray) -> float:
    """The largest finite magnitude."""
    return float(np.max(np.abs(array), where=np.isfinite(array), initial=0.0))


def _widened(case: Case) -> list[Any]:
    """The arguments in float64."""
    return [a.astype(np.float64) if i in case.floats else a for i, a in enumerate(case.args)]


def _eps(dtype: np.dtype) -> float:
    if dtype.kind == "f":
        return float(np.finfo(dtype).eps)
    import ml_dtypes

    return float(ml_dtypes.finfo(dtype).eps)
