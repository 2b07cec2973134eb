"""Whole training steps, side by side: ``python -m benchmarks.training_steps [--models …] [--threads N]``.

Forward, backward and AdamW on one batch, from the same weights. An implementation whose first losses differ from the
reference's is reported as wrong and not timed. The others take turns, round by round, each in a process of its own with
the same number of threads; what counts is the median over the rounds, and the ratio to PyTorch within each round.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import machine
from benchmarks.models import IMPLEMENTATIONS, WORKLOADS, arrays
from benchmarks.worker import CLOCKS, Failed, Worker, available_cores

#: absolute, and relative to losses above 1
TOLERANCE = 1e-3
FIRST_LOSSES = 4
#: about how long one implementation's turn lasts
TURN_SECONDS = 0.5


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """First quartile, median, third quartile."""
    if len(values) == 1:
        return values[0], values[0], values[0]
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, middle, high


def disagreement(losses: Sequence[float], reference: Sequence[float]) -> float:
    """Largest difference, relative to losses above 1."""
    worst = max(abs(a - b) / max(1.0, abs(b)) for a, b in zip(losses, reference, strict=True))
    return math.inf if math.isnan(worst) else worst


def compare(
    workload: str, implementations: Sequence[str], rounds: int, threads: int, clock: str = "wall", say: Any = print
) -> dict[str, Any]:
    """Results by implementation: ``{"ms": [q1, median, q3], "ratio": [q1, median, q3] or None, "losses", "turns"}`` or
    ``{"problem": why}``. The reference, for numbers and for ratios, is the first implementation that can be built."""
    data = arrays(workload)
    workers: dict[str, Worker] = {}
    results: dict[str, dict[str, Any]] = {}
    base, reference = None, []
    try:
        for name in implementations:
            say(f"{workload}: {name} …")
            try:
                worker = Worker(name, workload, data, threads)
                losses = worker.losses(FIRST_LOSSES)
            except Failed as error:
                results[name] = {"problem": str(error)}
                continue
            workers[name] = worker
            if base is None:
                base, reference = name, losses
            results[name] = {"losses": losses}
            off = disagreement(losses, reference)
            if off > TOLERANCE:
                results[name]["problem"] = f"wrong: losses {losses}, {base} has {reference}"
                workers.pop(name).close()
        counts = {}
        for name in list(workers):
            try:
                counts[name] = max(1, min(200, round(TURN_SECONDS / workers[name].turn(2))))
            except Failed as error:
                results[name]["problem"] = str(error)
                workers.pop(name).close()
        times: dict[str, list[float]] = {name: [] for name in workers}
        for i in range(rounds):
            say(f"{workload}: round {i + 1} of {rounds}")
            # every other round backwards, so that nobody always comes after the same one
            for name in list(workers) if i % 2 == 0 else list(workers)[::-1]:
                times[name].append(workers[name].turn(counts[name], clock))
    finally:
        for worker in workers.values():
            worker.close()
    for name, turns in times.items():
        results[name]["ms"] = [1e3 * t for t in quartiles(turns)]
        results[name]["turns"] = turns
        ratios = [t / b for t, b in zip(turns, times.get(base, ()))]
        results[name]["ratio"] = list(quartiles(ratios)) if ratios else None
    return results


def _cell(result: dict[str, Any] | None) -> str:
    if result is None:
        return ""
    if "ms" not in result:
        return "wrong" if result["problem"].startswith("wrong") else "–"
    low, middle, high = result["ratio"] or (math.nan,) * 3
    return f"{result['ms'][1]:.3g} ms, {middle:.2f} ({low:.2f}–{high:.2f})"


def markdown(report: dict[str, Any]) -> str:
    """One row per implementation, one column per model; then why what is missing is missing."""
    workloads = report["workloads"]
    names = [n for n in IMPLEMENTATIONS if any(n in results for results in workloads.values())]
    lines = ["| | " + " | ".join(WORKLOADS[w].title for w in workloads) + " |", "|---" * (len(workloads) + 1) + "|"]
    for n in names:
        lines.append(f"| {IMPLEMENTATIONS[n][0]} | " + " | ".join(_cell(r.get(n)) for r in workloads.values()) + " |")
    reasons: dict[str, list[str]] = {}
    for w, results in workloads.items():
        for n, result in results.items():
            if "problem" in result:
                reasons.setdefault(f"{IMPLEMENTATIONS[n][0]}: {result['problem']}", []).append(w)
    lines += [""] + [f"- {reason} ({', '.join(where)})" for reason, where in reasons.items()]
    return "\n".join(lines).rstrip() + "\n"


def run(arguments: argparse.Namespace, say: Any) -> dict[str, Any]:
    workloads = {}
    for w in arguments.models:
        workloads[w] = compare(w, arguments.implementations, arguments.rounds, arguments.threads, arguments.clock, say)
    return {
        "machine": machine.facts(arguments.threads),
        "rounds": arguments.rounds,
        "clock": arguments.clock,
        "workloads": workloads,
    }


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(prog="python -m benchmarks.training_steps", description=__doc__.split("\n")[0])
    p.add_argument("--models", nargs="+", choices=list(WORKLOADS), default=list(WORKLOADS))
    p.add_argument(
        "--implementations", nargs="+", choices=list(IMPLEMENTATIONS), default=list(IMPLEMENTATIONS),
        help="the first is what the others are compared with (default: torch first)",
    )  # fmt: skip
    p.add_argument("--rounds", type=int, default=15)
    p.add_argument("--threads", type=int, default=len(available_cores()), help="for every library (default: all cores)")
    p.add_argument("--clock", choices=list(CLOCKS), default="wall", help="cpu: for a machine that others use, too")
    p.add_argument("--json", type=Path, default=Path("build/benchmarks/training_steps.json"))
    return p


def main(argv: Sequence[str] | None = None) -> None:
    arguments = parser().parse_args(argv)
    report = run(arguments, say=lambda text: print(text, file=sys.stderr, flush=True))
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    arguments.json.write_text(json.dumps(report, indent=1) + "\n")
    print(machine.sentence(report["machine"]), end="\n\n")
    print(markdown(report))


if __name__ == "__main__":
    main()
