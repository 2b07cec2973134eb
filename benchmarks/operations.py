"""Single operations by pytest-benchmark: what ``pytest benchmarks/test_primitives.py`` measures, as a table."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks import machine
from benchmarks.worker import environment

#: as test_primitives calls them: as tables do
LIBRARIES = {"torch": "PyTorch", "numpy": "minidl numpy", "numba": "minidl numba", "jax": "minidl jax"}


def measure(threads: int = 1, only: str = "") -> dict[str, Any]:
    """``{"operations": {operation: {library: seconds}}}``: medians. ``only`` selects, as pytest's ``-k`` does."""
    with tempfile.TemporaryDirectory() as folder, environment(threads, "minidl"):
        path = Path(folder) / "result.json"
        file = Path(__file__).with_name("test_primitives.py")
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:xdist", str(file), f"--benchmark-json={path}"]
        # in a process that pytest-xdist started, pytest-benchmark would only run, not measure
        environ = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_XDIST")}
        done = subprocess.run([*command, *(["-k", only] if only else [])], stdout=sys.stderr, env=environ)
        if done.returncode:
            raise RuntimeError(f"{file.name}: a result is wrong or could not be measured, see above")
        benchmarks = json.loads(path.read_text())["benchmarks"]
    found: dict[str, dict[str, float]] = {}
    for b in benchmarks:
        found.setdefault(b["group"], {})[b["params"]["lib"]] = b["stats"]["median"]
    return {"machine": machine.facts(threads), "operations": found}


def markdown(report: dict[str, Any]) -> str:
    """One row per operation: PyTorch's milliseconds, then each backend's and their ratio to PyTorch's."""
    lines = ["| | " + " | ".join(LIBRARIES.values()) + " |", "|---" * (len(LIBRARIES) + 1) + "|"]
    for operation, seconds in report["operations"].items():
        cells = []
        for name in LIBRARIES:
            s = seconds.get(name)
            ratio = f", {s / seconds['torch']:.2f}" if s is not None and name != "torch" else ""
            cells.append("–" if s is None else f"{1e3 * s:.3g} ms{ratio}")
        lines.append(f"| {operation} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"
