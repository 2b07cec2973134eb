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
algorithm can help, is not a failure), and by 8 times the largest error of the reference run in the same dtype.

A kernel that by design is less accurate says so where it is registered: ``kernel(..., tolerance={"float32": 1e-4})``
allows that much more, times the largest output. ``{"nonfinite": "may spread"}`` lets a NaN or Inf among the inputs make
more outputs non-finite than in the reference (never fewer); ``{"nonfinite": "may differ"}`` also fewer, for kernels
that skip what is masked out, where the reference has 0 * NaN. What is declared is printed with the result.
"""

from minidl.testing.conformance.cases import case_strategy, in_layout, large_cases, sample_cases, with_special
from minidl.testing.conformance.checks import CHECKS, RARE_CHECKS
from minidl.testing.conformance.examine import check, check_backend, examine, is_defined_in, replay
from minidl.testing.conformance.report import Mismatch, Report

__all__ = [
    "CHECKS",
    "RARE_CHECKS",
    "Mismatch",
    "Report",
    "case_strategy",
    "check",
    "check_backend",
    "examine",
    "in_layout",
    "is_defined_in",
    "large_cases",
    "replay",
    "sample_cases",
    "with_special",
]
