"""The results of the bench for people and for files: a table, JSON, plots over the roofline."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from minidl.files import atomic_write
from minidl.testing.bench.timing import Result
from minidl.testing.roofline import Roofline


def table(results: Sequence[Result]) -> str:
    """The results as text, one line each."""
    head = ("primitive", "case", "backend", "ms", "GFLOP/s", "GB/s", "of roof", "served by")
    rows = [head]
    for r in results:
        if r.seconds is None:
            rows.append((r.primitive, r.case, r.backend, "-", "-", "-", "-", f"{r.status} ({r.implementation})"))
            continue
        figures = (f"{1e3 * r.seconds:.4g}", f"{r.gflops:.4g}", f"{r.gbs:.4g}", f"{100 * r.share:.0f} %")
        rows.append((r.primitive, r.case, r.backend, *figures, r.implementation))
    widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
    lines = []
    for row in rows:
        cells = [c.rjust(w) if 3 <= i <= 6 else c.ljust(w) for i, (c, w) in enumerate(zip(row, widths))]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def save(results: Sequence[Result], folder: str | Path, roofs: Sequence[Roofline], warm: bool) -> list[Path]:
    """Write ``results.json`` and, for every primitive, a roofline plot ``NAME.png`` into ``folder``."""
    folder = Path(folder)
    rows = [dataclasses.asdict(r) | {"gflops": r.gflops, "gbs": r.gbs, "share_of_roof": r.share} for r in results]
    rows = [{k: None if isinstance(v, float) and math.isnan(v) else v for k, v in row.items()} for row in rows]
    path = folder / "results.json"
    facts = {"caches": "warm" if warm else "cold", "rooflines": [dataclasses.asdict(r) for r in roofs]}
    with atomic_write(path) as file:
        file.write(json.dumps(facts | {"results": rows}, indent=1).encode())
    names = dict.fromkeys(r.primitive for r in results if r.seconds is not None)
    return [path, *(plot([r for r in results if r.primitive == n], folder / f"{n}.png", roofs, warm) for n in names)]


def plot(results: Sequence[Result], path: Path, roofs: Sequence[Roofline], warm: bool = False) -> Path:
    """A PNG: times by case on the left, the roofline with what was reached on the right."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError('plots need matplotlib: pip install "minidl[train]"') from error
    done = [r for r in results if r.seconds is not None]
    backends, labels = list(dict.fromkeys(r.backend for r in done)), list(dict.fromkeys(r.case for r in done))
    figure = Figure(figsize=(11, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    left.set(yscale="log", ylabel="ms per call", title=f"{done[0].primitive}, caches {'warm' if warm else 'cold'}")
    width = 0.8 / len(backends)
    for b, backend in enumerate(backends):
        own = [r for r in done if r.backend == backend]
        at = [labels.index(r.case) + (b - (len(backends) - 1) / 2) * width for r in own]
        left.bar(at, [1e3 * (r.seconds or 0.0) for r in own], width, label=backend, color=f"C{b}")
        points = [r for r in own if r.flops]
        right.loglog([r.flops / r.bytes for r in points], [r.gflops for r in points], "o", color=f"C{b}", label=backend)
    for i, label in enumerate(labels):
        bound = min(1e3 * r.roof_seconds for r in done if r.case == label)
        left.plot([i - 0.45, i + 0.45], [bound, bound], "k--", linewidth=1, label="roofline" if i == 0 else None)
    left.set_xticks(range(len(labels)), labels, rotation=20, ha="right", fontsize=8)
    left.legend(fontsize=8)
    for roof in roofs:
        intensity = np.geomspace(0.02, 1000, 100)
        right.loglog(intensity, roof.attainable(intensity), "k-", linewidth=1)
        text = f"{roof.gflops:.0f} GFLOP/s, {roof.gbs:.0f} GB/s"
        right.annotate(text, (intensity[-1], roof.gflops), ha="right", va="bottom", fontsize=8)
    right.set(xlabel="operations per byte", ylabel="GFLOP/s", title="; ".join(r.device for r in roofs))
    right.title.set_fontsize(8)
    if any(r.flops for r in done):
        right.legend(fontsize=8)
    with atomic_write(path) as file:
        figure.savefig(file, format="png", dpi=110)
    return path
