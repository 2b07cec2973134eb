"""What a measurement ran on."""

from __future__ import annotations

import datetime
import importlib.metadata
import platform
import subprocess
from pathlib import Path
from typing import Any

from minidl.machine import processor

#: what a measurement depends on, for git
CODE = (":/minidl", ":/minidl_kernels", ":/benchmarks/*.py")
LIBRARIES = ("numpy", "scipy", "numba", "torch", "jax", "autograd", "tinygrad")


def commit() -> str | None:
    """The commit that is checked out here, with a ``+`` if code was changed since; None outside of git."""
    folder = Path(__file__).parent

    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, check=True).stdout

    try:
        return git("rev-parse", "HEAD").strip() + ("+" if git("status", "--porcelain", "--", *CODE).strip() else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def facts(threads: int | None = None) -> dict[str, Any]:
    """Commit, time, processor, cores, threads, versions."""
    from benchmarks.worker import available_cores

    versions = {}
    for name in LIBRARIES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "commit": commit(),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="minutes"),
        "processor": processor(),
        "cores": len(available_cores()),
        "threads": threads,
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "versions": versions,
    }


def sentence(machine: dict[str, Any]) -> str:
    """The facts in one line of text."""
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    threads = f", {machine['threads']} thread{'s' * (machine['threads'] != 1)}" if machine["threads"] else ""
    cores = f"{machine['cores']} core{'s' * (machine['cores'] != 1)}"
    return f"{machine['processor']}, {cores}{threads}; Python {machine['python']}, {versions}; {machine['date'][:10]}"
