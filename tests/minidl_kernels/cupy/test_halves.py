"""In half precision, kernels return the dtypes and the values of the formula (computed in float32 and rounded).

The primitive's ``half`` says which outputs are rounded; the others are float32, and come back so as inputs of the
gradient. Conformance's first four checks on a few calls of every kernel; the whole suite is with ``-m slow``.
"""

import dataclasses

import numpy as np
import pytest

from minidl.core.dtypes import HALVES, bfloat16
from minidl.testing.conformance import Mismatch, sample_cases
from minidl.testing.conformance.candidate import Candidate, Trial
from minidl.testing.conformance.checks import check_outputs, check_predicate, check_raises, check_values
from minidl.testing.conformance.examine import apply
from minidl.testing.reference import REFUSALS, call_in_gradient
from minidl.testing.strategies import parent_of
from tests.minidl_kernels.cupy.fake_cupy import backend, needs_compiler  # noqa: F401

pytestmark = needs_compiler

CHECKS = (check_predicate, check_raises, check_outputs, check_values)
#: calls of a kernel to look at: of the primitive's samples, and of those made while its parent is differentiated
FEW = 8
#: recurrent layers are widened as a whole
WIDENED = {"gru", "gru_backward", "lstm", "lstm_backward"}


def _spread(cases):
    """A few of the contiguous, finite ones, from small to large."""
    cases = [c for c in cases if c.finite and set(c.layouts) <= {"C"} and all(a.size for a in c.arrays)]
    return cases[:: -(-len(cases) // FEW)] if cases else []


def calls(name, dtype):
    """(calls with samples, calls in a gradient): the latter have float32 beside ``dtype`` where the formula has."""
    parent = parent_of(name)
    inner = [] if parent is None else [call_in_gradient(name, c) for c in _spread(sample_cases(parent, [dtype]))]
    return _spread(sample_cases(name, [dtype])), [c for c in inner if c is not None]


def accepted(candidate, cases):
    """How many of the cases the kernel takes; it passes the checks on these."""
    count = 0
    for case in cases:
        trial = Trial(candidate, case)
        try:
            _ = trial.expected
        except REFUSALS:
            continue
        apply(CHECKS, candidate, trial)
        count += trial.accepted
    return count


@pytest.mark.parametrize("dtype", [np.dtype(np.float16), bfloat16], ids=["float16", "bfloat16"])
def test_kernels_return_what_the_formula_does(backend, dtype):  # noqa: F811
    wrong, served = [], set()
    for name, kernels in backend.kernels.items():
        with_float16 = [k for k in kernels if "float16" in k.dtypes]
        samples, inner = calls(name, dtype) if with_float16 else ([], [])
        count = [0, 0]
        for k in with_float16:
            candidate = Candidate(backend, k)
            try:
                count[0] += accepted(candidate, samples)
                count[1] += accepted(candidate, inner)
            except Mismatch as mismatch:
                wrong.append(f"{k.label}: {mismatch}")
                count = [1, 1]
        if with_float16:
            served.add(name)
            if samples and not count[0]:
                wrong.append(f"{name}: takes none of its samples")
            if inner and not count[1]:
                wrong.append(f"{name}: takes no call in a gradient, which is what it is for")
    assert not wrong, "\n".join(wrong)
    assert set(backend.kernels) - served == {*WIDENED, "random_bits", "checked_index"}


@pytest.mark.parametrize(
    ("name", "dtype"), [("cross_entropy", np.float16), ("layer_norm_backward", np.float32)], ids=str
)
def test_the_checks_see_a_wrong_dtype(backend, name, dtype):  # noqa: F811
    """Kernels that round what stays float32, or leave what is rounded."""
    (k,) = backend.kernels[name]

    def function(*args, **params):
        first, second, *others = k.function(*args, **params)
        return first, second.astype(dtype), *others

    candidate = Candidate(backend, dataclasses.replace(k, function=function))
    with pytest.raises(Mismatch, match=f"output 1 has dtype {np.dtype(dtype)}"):
        accepted(candidate, calls(name, np.dtype(np.float16))[0])


def test_states_are_float32_beside_halves():
    """As optimizers keep them."""
    for name in ("adam_update", "sgd_update"):
        for dtype in HALVES:
            case = next(c for c in sample_cases(name, [dtype]) if sum(a.dtype.kind in "fV" for a in c.arrays) > 2)
            assert [a.dtype for a in case.arrays][:3] == [dtype, dtype, np.float32]
