"""Measures, keeps the figures, and writes the tables: ``python -m benchmarks.report [--parts …] [--runs DIR …]``.

Every measurement becomes a line in ``benchmarks/history/``. ``benchmarks/RESULTS.md`` is written from there: the newest
figures of each kind, and how minidl's changed. README.md gets a summary, between its marks ``benchmarks``; with
``--runs``, the results in those run folders replace what is between its marks ``recipes``. ``--parts`` with nothing
after it measures nothing and only writes the tables.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from benchmarks import gpu_steps, history, import_time, machine, memory, operations, overhead, training_steps
from benchmarks.models import IMPLEMENTATIONS, WORKLOADS
from benchmarks.worker import available_cores
from minidl.files import atomic_write

PARTS: dict[str, Any] = {
    "steps": training_steps, "overhead": overhead, "import": import_time, "memory": memory, "operations": operations,
}  # fmt: skip
TEXTS = {
    "steps": "## Training steps, {threads}\n\nForward, backward and AdamW on one batch, from equal weights, the first "
    "losses compared before anything is timed; {threads} for every library. Median of {rounds} rounds in which the "
    "libraries took turns; then the ratio to PyTorch in the same round (median and quartiles), below 1 where it is "
    "faster.",
    "overhead": "## Overhead\n\nOne operation on ten numbers (`matmul`: 3x3), with minidl's `numpy` backend, in "
    "microseconds, and the ratio to PyTorch; one thread.",
    "import": "## Import\n\nIn a fresh interpreter.",
    "memory": "## Memory\n\nBy how much the peak of a process rises when it trains, its ratio to PyTorch, the same for "
    "later steps only, and the peak of the whole process with all its libraries, in MiB.",
    "operations": "## Single operations, {threads}\n\nMedian time of a call, and its ratio to PyTorch's.",
}
#: those whose ratios to PyTorch README.md and the history table show
OURS = ("minidl-numpy", "minidl-numba", "minidl-jit")


def replace_section(text: str, name: str, content: str) -> str:
    """``text`` with ``content`` between the marks ``name:begin`` and ``name:end``. Raises ValueError if there are no
    such marks."""
    begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    if text.count(begin) != 1 or text.count(end) != 1 or text.index(begin) > text.index(end):
        raise ValueError(f"expected the marks {begin} and {end}, once each and in this order")
    before, rest = text.split(begin)
    return f"{before}{begin}\n{content.strip()}\n{end}{rest.split(end)[1]}"


def write(path: Path, text: str) -> None:
    with atomic_write(path) as file:
        file.write(text.encode())


def measure(part: str, arguments: argparse.Namespace, threads: int) -> dict[str, Any]:
    def say(text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    say(f"{part}, {threads} threads …")
    if part == "steps":
        options = ["--models", *arguments.models, "--threads", str(threads)]
        return training_steps.run(
            training_steps.parser().parse_args([*options, "--rounds", str(arguments.rounds)]), say
        )
    if part == "overhead":
        return overhead.measure(2 * arguments.rounds)
    if part == "import":
        return import_time.measure(arguments.rounds)
    if part == "memory":
        return memory.measure(arguments.models, threads=threads, say=say)
    return operations.measure(threads)


def entries(part: str, report: dict[str, Any]) -> list[dict[str, Any]]:
    """A report as lines of the history: one per model, or one for everything."""
    facts = {**report["machine"], **({"rounds": report["rounds"]} if "rounds" in report else {})}
    if "workloads" not in report:
        results = {k: v for k, v in report.items() if k != "machine"}
        return [{"what": part, **facts, "results": results}]
    return [
        {"what": w, **facts, "results": {n: {k: v for k, v in r.items() if k != "turns"} for n, r in results.items()}}
        for w, results in report["workloads"].items()
    ]


def table(part: str, measured: dict[str, dict[str, Any]]) -> str:
    """The part's table, from the newest line of each thing that was measured."""
    if part not in ("steps", "memory"):
        return PARTS[part].markdown(measured[part]["results"])
    in_order = [w for w in WORKLOADS if w in measured]
    return PARTS[part].markdown({"workloads": {w: measured[w]["results"] for w in in_order}})


def where(measured: Iterable[dict[str, Any]]) -> str:
    """What was measured on what."""
    facts = dict.fromkeys(f"{machine.sentence(m)}, commit {(m['commit'] or 'unknown')[:10]}" for m in measured)
    return "Measured on: " + "; and on: ".join(facts) + "."


def results_page(folder: Path) -> str:
    """All of RESULTS.md."""
    blocks = [
        "# Benchmarks",
        "Written by `python -m benchmarks.report` from the measurements in [`history/`](history); every figure is "
        "from the newest one of its kind. Compare within a table only.",
    ]
    for part in PARTS:
        for threads, measured in sorted(history.newest(history.read(part, folder)).items(), key=lambda i: i[0] or 0):
            told = {"rounds": next(iter(measured.values())).get("rounds"), "threads": _threads(threads)}
            blocks += [TEXTS[part].format(**told), where(measured.values()), table(part, measured)]
    on_a_gpu = history.read("gpu", folder)
    if on_a_gpu:
        blocks += [gpu_section(on_a_gpu[-1])]
    changes = _changes(history.read("steps", folder))
    if changes:
        blocks += [
            "## How the training steps changed",
            "Ratios to PyTorch in the same run, below 1 where minidl is faster.",
            changes,
        ]
    return "\n\n".join(b.strip() for b in blocks) + "\n"


def gpu_section(report: dict[str, Any]) -> str:
    """Training steps on a GPU, from a report of :mod:`benchmarks.gpu_steps`."""
    versions = ", ".join(f"{name} {v}" for name, v in report["versions"].items())
    rows = [gpu_steps.row(gpu_steps.MODELS[name].workload.title, result) for name, result in report["models"].items()]
    return "\n".join(
        [
            "## Training steps on a GPU",
            "",
            "Forward, backward and AdamW on one batch, eager, in float32"
            f"{'' if report['tf32'] else ' (TF32 off)'}, the first losses compared before anything is timed. Median of "
            f"{report['rounds']} rounds in which the libraries took turns; then the ratio to PyTorch.",
            "",
            f"Measured on: {report['device']}; {versions}; {report['date']}, commit {report['commit'][:10]}.",
            "",
            "| | PyTorch cuda | minidl cupy | ratio |",
            "|---|---|---|---|",
            *rows,
        ]
    )


def _threads(count: int | None) -> str:
    return f"{count} thread{'s' if count != 1 else ''}"


def _ratio(entry: dict[str, Any], implementation: str) -> str:
    result = entry["results"].get(implementation, {})
    return f"{result['ratio'][1]:.2f}" if result.get("ratio") else "–"


def _changes(entries: list[dict[str, Any]]) -> str:
    """The measurements of models that were measured more than once, oldest first."""
    lines = []
    for w in WORKLOADS:
        for threads in sorted({e["threads"] for e in entries}):
            same = [e for e in entries if e["what"] == w and e["threads"] == threads]
            for e in same if len(same) > 1 else ():
                ratios = " | ".join(_ratio(e, n) for n in OURS)
                title = WORKLOADS[w].title
                lines.append(f"| {title} | {threads} | {e['date'][:10]} | {(e['commit'] or '')[:10]} | {ratios} |")
    if not lines:
        return ""
    head = ["model", "threads", "date", "commit", *(IMPLEMENTATIONS[n][0] for n in OURS)]
    return "\n".join(["| " + " | ".join(head) + " |", "|---" * len(head) + "|", *lines])


def summary(folder: Path) -> str:
    """The table of README.md: minidl's ratios to PyTorch in training steps."""
    newest = history.newest(history.read("steps", folder))
    counts = sorted(c for c in newest if c is not None)
    models = [w for w in WORKLOADS if all(w in newest[c] for c in counts)]
    lines = ["| | " + " | ".join(WORKLOADS[w].title for w in models) + " |", "|---" * (len(models) + 1) + "|"]
    for n in OURS:
        cells = [", ".join(_ratio(newest[c][w], n) for c in counts) for w in models]
        lines.append(f"| {IMPLEMENTATIONS[n][0]} | " + " | ".join(cells) + " |")
    text = (
        "A training step's time (forward, backward, AdamW) over that of PyTorch eager in the same run, below 1 where "
        f"minidl is faster; with {', then '.join(_threads(c) for c in counts)}."
    )
    facts = where({**newest[c][w], "threads": None} for c in counts for w in models)
    return "\n\n".join([text, "\n".join(lines), facts])


def recipes_section(folders: Sequence[Path]) -> str:
    """One row per run, from its ``config.json`` and ``result.json``."""
    lines = ["| recipe | figure | target | backend | training | note |", "|---|---|---|---|---|---|"]
    for folder in folders:
        config = json.loads((folder / "config.json").read_text())
        result = json.loads((folder / "result.json").read_text())
        smaller = result["figure"].endswith("loss")
        show = (lambda v: f"{v:.3f}") if smaller else (lambda v: f"{100 * v:.2f} %")
        figure = f"{result['figure'].replace('_', ' ')} {show(result['value'])}"
        target = f"{'≤' if smaller else '≥'} {show(result['target'])} ({result['target_source']})"
        note = f"{result['epochs']} epochs. {result['note']}".strip()
        seconds = f"{result['training_seconds']:.0f} s"
        backend = config["backend"] + (", jit" if config.get("jit") else "")
        lines.append(f"| `{result['recipe']}` | {figure} | {target} | {backend} | {seconds} | {note} |")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> None:
    here = Path(__file__).parent
    p = argparse.ArgumentParser(prog="python -m benchmarks.report", description=__doc__.split("\n")[0])
    p.add_argument("--parts", nargs="*", choices=list(PARTS), default=list(PARTS), help="none: only write the tables")
    p.add_argument("--models", nargs="+", choices=list(WORKLOADS), default=list(WORKLOADS))
    p.add_argument("--rounds", type=int, default=15)
    p.add_argument(
        "--threads", nargs="+", type=int, default=sorted({1, len(available_cores())}),
        help="for every library: training steps are measured with each number, the rest with the first (default: one "
        "and as many as there are cores)",
    )  # fmt: skip
    p.add_argument("--runs", nargs="+", type=Path, metavar="DIR", default=[], help="folders that `minidl train` wrote")
    p.add_argument("--history", type=Path, default=history.FOLDER)
    p.add_argument("--results", type=Path, default=here / "RESULTS.md")
    p.add_argument("--readme", type=Path, default=here.parent / "README.md")
    arguments = p.parse_args(argv)
    recipes = recipes_section(arguments.runs)
    for name in ("recipes", "benchmarks"):  # what is wrong with a run or with README.md shows before hours of measuring
        replace_section(arguments.readme.read_text(encoding="utf-8"), name, "")
    for part, threads in ((p, t) for p in arguments.parts for t in arguments.threads[: None if p == "steps" else 1]):
        history.append(part, entries(part, measure(part, arguments, threads)), arguments.history)
    write(arguments.results, results_page(arguments.history))
    text = replace_section(arguments.readme.read_text(encoding="utf-8"), "benchmarks", summary(arguments.history))
    if arguments.runs:
        text = replace_section(text, "recipes", recipes)
    write(arguments.readme, text)


if __name__ == "__main__":
    main()
