"""What Python costs per primitive: ``python -m benchmarks.overhead``.

Operations on arrays of ten numbers (matmul: three by three), where next to all the time is the library's own; minidl on
its ``numpy`` backend and PyTorch take turns in one process with one thread.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import machine
from benchmarks.training_steps import quartiles

OPERATIONS: dict[str, Callable[[Any, Any, Any], Callable[[], Any]]] = {
    "add": lambda x, y, m: lambda: x + y,
    "mul": lambda x, y, m: lambda: x * y,
    "mul by a number": lambda x, y, m: lambda: x * 2.0,
    "exp": lambda x, y, m: lambda: x.exp(),
    "relu": lambda x, y, m: lambda: x.relu(),
    "sum": lambda x, y, m: lambda: x.sum(),
    "matmul": lambda x, y, m: lambda: m @ m,
}
#: nodes of the graph through which backward() is timed
CHAIN = 100


def _pairs(grad: bool) -> dict[str, tuple[Callable[[], Any], Callable[[], Any]]]:
    """For each operation minidl's call and PyTorch's."""
    import torch

    import minidl

    made = []
    for make in (minidl.tensor, torch.tensor):
        vectors = [make(np.linspace(0.5, 1.5, 10, dtype=np.float32), requires_grad=grad) for _ in range(2)]
        made.append((*vectors, make(np.eye(3, dtype=np.float32), requires_grad=grad)))
    return {name: (f(*made[0]), f(*made[1])) for name, f in OPERATIONS.items()}


def _backward(make: Callable[..., Any]) -> Callable[[], Any]:
    x = make(np.ones(10, np.float32), requires_grad=True)
    c, g = make(np.ones(10, np.float32)), make(np.ones(10, np.float32))
    y = x
    for _ in range(CHAIN):
        y = y * c
    return lambda: y.backward(g, retain_graph=True)


def _microseconds(f: Callable[[], Any], calls: int, clock: Callable[[], float]) -> float:
    repeat = range(calls)
    start = clock()
    for _ in repeat:
        f()
    return (clock() - start) / calls * 1e6


def measure(rounds: int = 30, calls: int = 2000, clock: str = "wall") -> dict[str, Any]:
    """``{"rows": [{"what", "minidl", "torch": µs, "ratio": [q1, median, q3]}, …]}``."""
    import torch

    import minidl

    minidl.set_backend("numpy")
    torch.set_num_threads(1)
    read = time.thread_time if clock == "cpu" else time.perf_counter
    cases = {f"{name}, gradients {'on' if grad else 'off'}": (*pair, calls, 1)
             for grad in (True, False) for name, pair in _pairs(grad).items()}  # fmt: skip
    cases["backward, per node (mul)"] = (_backward(minidl.tensor), _backward(torch.tensor), max(1, calls // 50), CHAIN)
    rows = []
    gc.collect()
    gc.disable()
    try:
        for what, (ours, theirs, n, nodes) in cases.items():
            times = []
            for f in (ours, theirs):
                _microseconds(f, n, read)
            for i in range(rounds):
                order = (ours, theirs) if i % 2 == 0 else (theirs, ours)
                found = {f: _microseconds(f, n, read) / nodes for f in order}
                times.append((found[ours], found[theirs]))
            row = {"what": what, "ratio": list(quartiles([a / b for a, b in times]))}
            row["minidl"], row["torch"] = (statistics.median(t) for t in zip(*times))
            rows.append(row)
    finally:
        gc.enable()
    return {"machine": machine.facts(1), "clock": clock, "rows": rows}


def markdown(report: dict[str, Any]) -> str:
    lines = ["| | minidl | PyTorch | ratio |", "|---|---|---|---|"]
    for row in report["rows"]:
        low, middle, high = row["ratio"]
        lines.append(
            f"| {row['what']} | {row['minidl']:.2f} µs | {row['torch']:.2f} µs | {middle:.2f} ({low:.2f}–{high:.2f}) |"
        )
    return "\n".join(lines) + "\n"


def main(argv: Sequence[str] | None = None) -> None:
    p = argparse.ArgumentParser(prog="python -m benchmarks.overhead", description=__doc__.split("\n")[0])
    p.add_argument("--rounds", type=int, default=30)
    p.add_argument("--calls", type=int, default=2000, help="of one operation in a row")
    p.add_argument("--clock", choices=["wall", "cpu"], default="wall", help="cpu: for a machine that others use, too")
    p.add_argument("--json", type=Path, default=Path("build/benchmarks/overhead.json"))
    arguments = p.parse_args(argv)
    report = measure(arguments.rounds, arguments.calls, arguments.clock)
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    arguments.json.write_text(json.dumps(report, indent=1) + "\n")
    sys.stdout.write(markdown(report))


if __name__ == "__main__":
    main()
