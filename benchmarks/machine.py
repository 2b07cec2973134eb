"""What a measurement ran on."""

from __future__ import annotations

import datetime
import importlib.metadata
import platform
from pathlib import Path
from typing import Any

LIBRARIES = ("numpy", "scipy", "numba", "torch", "jax", "autograd", "tinygrad")


def processor() -> str:
    """Its name, as the operating system gives it."""
    path = Path("/proc/cpuinfo")
    if path.exists():
        for line in path.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def facts(threads: int | None = None) -> dict[str, Any]:
    """Processor, cores, threads, versions, date."""
    from benchmarks.worker import available_cores

    versions = {}
    for name in LIBRARIES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "processor": processor(),
        "cores": len(available_cores()),
        "threads": threads,
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "versions": versions,
        "date": datetime.date.today().isoformat(),
    }


def sentence(machine: dict[str, Any]) -> str:
    """The facts in one line of text."""
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    threads = f", {machine['threads']} thread{'s' * (machine['threads'] != 1)}" if machine["threads"] else ""
    cores = f"{machine['cores']} core{'s' * (machine['cores'] != 1)}"
    return f"{machine['processor']}, {cores}{threads}; Python {machine['python']}, {versions}; {machine['date']}"
