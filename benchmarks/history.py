"""What was measured, when, and on what: ``benchmarks/history/PART.jsonl``, one measurement per line, the oldest first.

A line is a JSON object: ``what`` was measured (a model, or the part's name), the facts of :func:`machine.facts`
(commit, time, processor, threads, versions), and the ``results``, with four digits per number.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from minidl.files import atomic_write

FOLDER = Path(__file__).parent / "history"


def rounded(value: Any) -> Any:
    """``value`` with every float in it rounded to four digits."""
    if isinstance(value, dict):
        return {k: rounded(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [rounded(v) for v in value]
    return float(f"{value:.4g}") if isinstance(value, float) else value


def append(part: str, entries: list[dict[str, Any]], folder: Path = FOLDER) -> None:
    """Add measurements at the end."""
    path = folder / f"{part}.jsonl"
    before = path.read_bytes() if path.exists() else b""
    with atomic_write(path) as file:
        file.write(before)
        for entry in entries:
            file.write(json.dumps(rounded(entry), ensure_ascii=False).encode() + b"\n")


def read(part: str, folder: Path = FOLDER) -> list[dict[str, Any]]:
    """All measurements of a part."""
    path = folder / f"{part}.jsonl"
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


def newest(entries: list[dict[str, Any]]) -> dict[int | None, dict[str, dict[str, Any]]]:
    """By number of threads, and by what was measured, the last measurement."""
    found: dict[int | None, dict[str, dict[str, Any]]] = {}
    for entry in entries:
        found.setdefault(entry["threads"], {})[entry["what"]] = entry
    return found
