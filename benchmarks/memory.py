"""Memory of a training step: ``python -m benchmarks.memory [--models …]``. Linux with glibc only.

Each implementation runs in a process of its own. It first trains the model on a batch of two, so that code is loaded
and compiled, and keeps it, so that no memory of it is used again. Then it builds the model anew, notes its resident
memory, trains, and notes by how much the peak lies above that: gradients, optimizer state, activations, workspaces. A
first step that is captured needs more than later ones, so these are given, too; and from another process, which only
trains the model, the whole peak, libraries and compiler included.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import multiprocessing
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import machine, models
from benchmarks.worker import PATIENCE, available_cores, environment

IMPLEMENTATIONS = ("torch", "minidl-numpy", "minidl-numba", "minidl-jit")
STEPS = 4


def _status(field: str) -> int:
    """Bytes of a field of /proc/self/status: VmRSS is the resident memory, VmHWM its peak."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise OSError(f"/proc/self/status has no {field}")


def _forget_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def _train(pipe: Any, implementation: str, workload: str, data: models.Arrays, warm: bool) -> None:
    try:
        x, y, weights = data
        if warm:
            first = models.build(implementation, workload, (x[:, :2], y[:, :2], weights))
            for _ in range(STEPS):
                first()
            gc.collect()
            ctypes.CDLL(None).malloc_trim(0)
        step = models.build(implementation, workload, data)
        before = _status("VmRSS")
        peaks = []
        for _ in range(2):
            if warm:
                _forget_peak()
            for _ in range(STEPS):
                step()
            peaks.append(_status("VmHWM"))
        pipe.send({"increase": max(peaks) - before, "later": peaks[1] - before, "process": max(peaks)})
    except Exception as error:
        pipe.send({"problem": f"{type(error).__name__}: {error}"})


def _in_process(implementation: str, *arguments: Any, threads: int) -> dict[str, Any]:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_train, args=(theirs, implementation, *arguments), daemon=True)
    with environment(threads, implementation):
        process.start()
    theirs.close()
    try:
        if not ours.poll(PATIENCE):
            return {"problem": f"no answer within {PATIENCE:.0f} s"}
        return ours.recv()
    except EOFError:
        process.join(5)
        return {"problem": f"the process ended with code {process.exitcode}"}
    finally:
        process.join(5)
        if process.is_alive():
            process.kill()


def _measure_one(implementation: str, workload: str, data: models.Arrays, threads: int) -> dict[str, Any]:
    result = _in_process(implementation, workload, data, True, threads=threads)
    if "problem" in result:
        return result
    alone = _in_process(implementation, workload, data, False, threads=threads)
    return {**result, "process": alone["process"]} if "process" in alone else alone


def measure(
    workloads: Sequence[str], implementations: Sequence[str] = IMPLEMENTATIONS, threads: int = 1, say: Any = print
) -> dict[str, Any]:
    """``{"workloads": {workload: {implementation: result}}}``; a result has "increase", "later" and "process" in bytes
    and the increase's "ratio" to the first implementation's, or "problem"."""
    found: dict[str, dict[str, Any]] = {}
    for w in workloads:
        data = models.arrays(w)
        found[w] = {}
        for name in implementations:
            say(f"{w}: {name} …")
            result = found[w][name] = _measure_one(name, w, data, threads)
            base = found[w][implementations[0]].get("increase", 0)
            if base > 0 and "increase" in result:
                result["ratio"] = result["increase"] / base
    return {"machine": machine.facts(threads), "workloads": found}


def _cell(result: dict[str, Any]) -> str:
    if "problem" in result:
        return "–"
    ratio = f", {result['ratio']:.2f}" if "ratio" in result else ""
    later, process = result["later"] / 2**20, result["process"] / 2**20
    return f"{result['increase'] / 2**20:.1f} MiB{ratio} (later steps {later:.1f}, process {process:.0f})"


def markdown(report: dict[str, Any]) -> str:
    """One row per implementation, one column per model: the increase, and its ratio to PyTorch's."""
    workloads = report["workloads"]
    names = list(dict.fromkeys(n for results in workloads.values() for n in results))
    lines = ["| | " + " | ".join(models.WORKLOADS[w].title for w in workloads) + " |"]
    lines.append("|---" * (len(workloads) + 1) + "|")
    for n in names:
        cells = [_cell(results[n]) for results in workloads.values()]
        lines.append(f"| {models.IMPLEMENTATIONS[n][0]} | " + " | ".join(cells) + " |")
    problems = [
        f"- {models.IMPLEMENTATIONS[n][0]}: {r['problem']} ({w})"
        for w, results in workloads.items()
        for n, r in results.items()
        if "problem" in r
    ]
    return "\n".join([*lines, "", *problems]).rstrip() + "\n"


def main(argv: Sequence[str] | None = None) -> None:
    p = argparse.ArgumentParser(prog="python -m benchmarks.memory", description=__doc__.split("\n")[0])
    p.add_argument("--models", nargs="+", choices=list(models.WORKLOADS), default=list(models.WORKLOADS))
    p.add_argument("--implementations", nargs="+", choices=list(models.IMPLEMENTATIONS), default=list(IMPLEMENTATIONS))
    p.add_argument("--threads", type=int, default=len(available_cores()), help="for every library (default: all cores)")
    p.add_argument("--json", type=Path, default=Path("build/benchmarks/memory.json"))
    arguments = p.parse_args(argv)
    report = measure(
        arguments.models, arguments.implementations, arguments.threads,
        say=lambda text: print(text, file=sys.stderr, flush=True),
    )  # fmt: skip
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    arguments.json.write_text(json.dumps(report, indent=1) + "\n")
    sys.stdout.write(markdown(report))


if __name__ == "__main__":
    main()
