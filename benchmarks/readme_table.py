"""Measures everything and writes the tables of README.md: ``python -m benchmarks.readme_table [--runs DIR …]``.

What was measured replaces the text between ``<!-- benchmarks:begin -->`` and ``<!-- benchmarks:end -->``; with
``--runs``, the results in those run folders replace the text between the marks ``recipes``. ``--reuse`` takes the JSON
files of earlier measurements, one a part, instead of measuring again.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import import_time, machine, memory, overhead, training_steps
from benchmarks.models import WORKLOADS
from benchmarks.worker import available_cores

PARTS = {"steps": training_steps, "overhead": overhead, "import": import_time, "memory": memory}
TEXTS = {
    "steps": "**Training steps**: forward, backward and AdamW on one batch, from equal weights, the first losses "
    "compared before anything is timed; {threads} for every library. Median of {rounds} rounds in which the libraries "
    "took turns; then the ratio to PyTorch in the same round (median and quartiles), below 1 where it is faster.",
    "overhead": "**Overhead**: one operation on ten numbers (`matmul`: 3x3), with minidl's `numpy` backend, in "
    "microseconds, and the ratio to PyTorch; one thread.",
    "import": "**Import** in a fresh interpreter.",
    "memory": "**Memory**: by how much the peak of a process rises when it trains, its ratio to PyTorch, the same for "
    "later steps only, and the peak of the whole process with all its libraries, in MiB.",
}


def replace_section(text: str, name: str, content: str) -> str:
    """``text`` with ``content`` between the marks ``name:begin`` and ``name:end``. Raises ValueError if there are no
    such marks."""
    begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    if text.count(begin) != 1 or text.count(end) != 1 or text.index(begin) > text.index(end):
        raise ValueError(f"expected the marks {begin} and {end}, once each and in this order")
    before, rest = text.split(begin)
    return f"{before}{begin}\n{content.strip()}\n{end}{rest.split(end)[1]}"


def write(path: Path, text: str) -> None:
    """Replace a file, whole or not at all."""
    with tempfile.NamedTemporaryFile("w", dir=path.parent, prefix=path.name, delete=False, encoding="utf-8") as f:
        f.write(text)
        f.flush()
        os.fsync(f.fileno())
    if path.exists():
        os.chmod(f.name, path.stat().st_mode)
    os.replace(f.name, path)


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
    return memory.measure(arguments.models, threads=threads, say=say)


def benchmarks_section(reports: list[tuple[str, dict[str, Any]]]) -> str:
    """Text and table of every part, under a line that says where and when it was measured."""
    facts = {machine.sentence({**r["machine"], "threads": None}) for _, r in reports}
    blocks = ["Measured on: " + "; and on: ".join(sorted(facts)) + "."]
    for part, report in reports:
        threads = report["machine"]["threads"]
        told = {"rounds": report.get("rounds"), "threads": f"{threads} thread{'s' if threads != 1 else ''}"}
        blocks.append(TEXTS[part].format(**told))
        blocks.append(PARTS[part].markdown(report))
    return "\n\n".join(b.strip() for b in blocks)


def recipes_section(folders: Sequence[Path]) -> str:
    """One row a run, from its ``config.json`` and ``result.json``."""
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
    p = argparse.ArgumentParser(prog="python -m benchmarks.readme_table", description=__doc__.split("\n")[0])
    p.add_argument("--parts", nargs="*", choices=list(PARTS), default=list(PARTS), help="none: leave them as they are")
    p.add_argument("--models", nargs="+", choices=list(WORKLOADS), default=list(WORKLOADS))
    p.add_argument("--rounds", type=int, default=15)
    p.add_argument(
        "--threads", nargs="+", type=int, default=sorted({1, len(available_cores())}),
        help="for every library: training steps are measured with each number, memory with the first (default: one "
        "and as many as there are cores)",
    )  # fmt: skip
    p.add_argument("--runs", nargs="+", type=Path, metavar="DIR", default=[], help="folders that `minidl train` wrote")
    p.add_argument("--reuse", action="store_true", help="tables of the last measurements")
    p.add_argument("--results", type=Path, default=Path("build/benchmarks"), help="folder of the JSON files")
    p.add_argument("--readme", type=Path, default=Path(__file__).parent.parent / "README.md")
    arguments = p.parse_args(argv)
    recipes = recipes_section(arguments.runs)
    for name in ("recipes", "benchmarks"):  # what is wrong with a run or with README.md shows before hours of measuring
        replace_section(arguments.readme.read_text(encoding="utf-8"), name, "")
    reports = []
    for part, threads in ((p, t) for p in arguments.parts for t in arguments.threads[: None if p == "steps" else 1]):
        path = arguments.results / f"{PARTS[part].__name__.rpartition('.')[2]}-{threads}.json"
        if not arguments.reuse:
            path.parent.mkdir(parents=True, exist_ok=True)
            write(path, json.dumps(measure(part, arguments, threads), indent=1) + "\n")
        reports.append((part, json.loads(path.read_text())))
    text = arguments.readme.read_text(encoding="utf-8")
    if reports:
        text = replace_section(text, "benchmarks", benchmarks_section(reports))
    if arguments.runs:
        text = replace_section(text, "recipes", recipes)
    write(arguments.readme, text)


if __name__ == "__main__":
    main()
