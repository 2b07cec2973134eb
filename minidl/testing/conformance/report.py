"""What the suite says about a kernel."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from minidl.testing.case import Case


class Mismatch(AssertionError):
    """A kernel failed a check; ``check`` is its name."""

    def __init__(self, message: str, check: str = "") -> None:
        super().__init__(message)
        self.message, self.check = message, check

    def __str__(self) -> str:
        return f"{self.check}: {self.message}" if self.check else self.message


@dataclasses.dataclass
class Report:
    """What the suite found about one kernel. ``str()`` of it is made to be read."""

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
