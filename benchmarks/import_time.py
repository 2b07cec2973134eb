"""How long imports take in a fresh interpreter: ``python -m benchmarks.import_time``."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import machine
from benchmarks.training_steps import quartiles

MODULES = ("minidl", "numpy", "torch")
CLOCKS = {"wall": "perf_counter", "cpu": "process_time"}


def _seconds(module: str, clock: str) -> float | None:
    code = f"from time import {CLOCKS[clock]} as now; start = now(); import {module}; print(now() - start)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    return float(done.stdout) if done.returncode == 0 else None


def measure(rounds: int = 15, clock: str = "wall", modules: Sequence[str] = MODULES) -> dict[str, Any]:
    """``{"seconds": {module: [q1, median, q3]}, "ratios": {module: [q1, median, q3]}}``, minidl's time over the others.

    Modules that cannot be imported are left out. The first round, which may have to read the disk, does not count.
    """
    times: dict[str, list[float]] = {}
    for i in range(rounds + 1):
        for module in modules:
            seconds = _seconds(module, clock)
            if seconds is not None and i:
                times.setdefault(module, []).append(seconds)
    ours = times.pop("minidl")
    ratios = {m: list(quartiles([a / b for a, b in zip(ours, theirs)])) for m, theirs in times.items()}
    return {
        "machine": machine.facts(),
        "clock": clock,
        "seconds": {m: list(quartiles(t)) for m, t in {"minidl": ours, **times}.items()},
        "ratios": ratios,
    }


def markdown(report: dict[str, Any]) -> str:
    lines = ["| import | seconds | minidl's over it |", "|---|---|---|"]
    for module, (_, middle, _) in report["seconds"].items():
        ratio = "" if module == "minidl" else "{1:.2f} ({0:.2f}–{2:.2f})".format(*report["ratios"][module])
        lines.append(f"| {module} | {middle:.3f} | {ratio} |")
    return "\n".join(lines) + "\n"


def main(argv: Sequence[str] | None = None) -> None:
    p = argparse.ArgumentParser(prog="python -m benchmarks.import_time", description=__doc__)
    p.add_argument("--rounds", type=int, default=15)
    p.add_argument("--clock", choices=list(CLOCKS), default="wall", help="cpu: for a machine that others use, too")
    p.add_argument("--json", type=Path, default=Path("build/benchmarks/import_time.json"))
    arguments = p.parse_args(argv)
    report = measure(arguments.rounds, arguments.clock)
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    arguments.json.write_text(json.dumps(report, indent=1) + "\n")
    sys.stdout.write(markdown(report))


if __name__ == "__main__":
    main()
