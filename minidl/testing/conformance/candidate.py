"""What checks look at: a kernel on its backend, and what it makes of one case."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property
from typing import Any

import numpy as np

from minidl.core.registry import Backend, Kernel, use_backend
from minidl.ops import primitives
from minidl.testing.case import Case
from minidl.testing.conformance.accuracy import Expected, compare, expected_of
from minidl.testing.conformance.report import Mismatch
from minidl.testing.reference import as_tuple, formula


class Candidate:
    """A kernel that claims to do what a primitive's formula does."""

    def __init__(self, backend: Backend, kernel: Kernel) -> None:
        self.backend, self.kernel = backend, kernel
        self.prim = primitives[kernel.primitive]
        #: the tolerance with which it was registered
        self.declared: dict[str, Any] = dict(kernel.tolerance or {})
        #: positions of the inputs that it may overwrite
        self.donated = {i for i, name in enumerate(self.prim.inputs) if name in self.prim.donated}

    def place(self, case: Case) -> list[Any]:
        """The arguments of ``case`` on the backend, arrays freshly laid out."""
        return case.place(self.backend.asarray)

    def host(self, array: Any) -> np.ndarray:
        """``array`` as NumPy's."""
        return np.asarray(self.backend.to_numpy(array))

    def accepts(self, args: list, params: dict) -> bool:
        """What its predicate says."""
        if self.kernel.when is None:
            return True
        try:
            return bool(self.kernel.when(*args, **params))
        except Exception as error:
            raise Mismatch(f"it raised {type(error).__name__}: {error}") from error

    def call(self, args: list, params: dict, **more: Any) -> tuple:
        """The outputs, finished."""
        try:
            with use_backend(self.backend, strict=False), np.errstate(all="ignore"):
                out = self.kernel.function(*args, **params, **more)
                self.backend.synchronize()
        except Exception as error:
            raise Mismatch(f"{type(error).__name__}: {error}, where the reference has no error") from error
        return as_tuple(out)

    def name_of(self, i: int) -> str:
        """Input ``i``, for messages."""
        name = self.prim.inputs[i] if i < len(self.prim.inputs) else f"*{self.prim.variadic}"
        return f"input {i} ({name})"

    def compare(self, outs: tuple, expected: Expected, odd: bool) -> None:
        """Raise :class:`Mismatch` unless all outputs are as close to the expected ones as is asked of this kernel."""
        for k, o in enumerate(outs):
            compare(f"output {k}", self.host(o), expected, k, self.declared, odd=odd)

    def tolerance_with(self, names: Iterable[str]) -> dict[str, Any]:
        """The loosest of what this kernel and the backend's kernels for the primitives ``names`` declare."""
        loosest = dict(self.declared)
        for name in names:
            for k in self.backend.kernels.get(name, ()):
                for dtype, value in (k.tolerance or {}).items():
                    if isinstance(value, float):
                        loosest[dtype] = max(loosest.get(dtype, 0.0), value)
        return loosest


class Trial:
    """A candidate's first call on a case, and what the formula gives for it: what the checks share.

    Each part is worked out when it is first asked for. ``expected`` raises one of ``REFUSALS`` where the primitive does
    not take the call.
    """

    def __init__(self, candidate: Candidate, case: Case, expected: Expected | None = None) -> None:
        self.candidate, self.case = candidate, case
        #: are there NaN or Inf among the inputs?
        self.odd = not case.finite
        #: did the kernel accept the case, and was a gradient compared?
        self.accepted = self.with_gradient = False
        if expected is not None:
            self.expected = expected

    @cached_property
    def args(self) -> list[Any]:
        """The arguments of the first call."""
        return self.candidate.place(self.case)

    @cached_property
    def expected(self) -> Expected:
        """What the formula gives."""
        return expected_of(self.case, formula(self.case))

    @cached_property
    def outs(self) -> tuple:
        """The kernel's outputs."""
        return self.candidate.call(self.args, self.case.params)

    @cached_property
    def kept(self) -> list[np.ndarray]:
        """Copies of the kernel's outputs as they were when first asked for."""
        return [self.candidate.host(o).copy() for o in self.outs]
