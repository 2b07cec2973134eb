"""What a computation ran on: the source, the libraries, the processor, the threads."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

#: The distributions that may have computed something, by the module that shows it.
_LIBRARIES = {
    "numpy": "numpy", "scipy": "scipy", "numba": "numba", "llvmlite": "llvmlite", "jax": "jax", "jaxlib": "jaxlib",
    "cupy": "cupy-cuda12x", "ml_dtypes": "ml_dtypes", "PIL": "pillow", "tokenizers": "tokenizers",
    "safetensors": "safetensors",
}  # fmt: skip
#: Environment variables that say how many threads compute.
_THREADS = (
    "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS", "NUMBA_THREADING_LAYER",
)  # fmt: skip


def processor() -> str:
    """Its name, as the operating system gives it."""
    path = Path("/proc/cpuinfo")
    if path.exists():
        for line in path.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def cores() -> int:
    """How many logical processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def commit(folder: Path = Path(__file__).parent) -> str | None:
    """The commit that ``folder`` is checked out at, by default minidl's own source, with a ``+`` if files were changed
    since; None if git does not track it."""

    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, check=True).stdout

    try:
        if not git("ls-files", "."):
            return None
        return git("rev-parse", "HEAD").strip() + ("+" if git("status", "--porcelain", "-uno").strip() else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def versions() -> dict[str, str]:
    """Of the libraries that this process has loaded and that may have computed something, and of NumPy's BLAS."""
    import numpy as np

    found = {}
    for module, name in _LIBRARIES.items():
        if module in sys.modules:
            version = getattr(sys.modules[module], "__version__", None)
            found[name] = str(version) if version else importlib.metadata.version(name)
    blas: Any = np.show_config(mode="dicts")
    blas = blas["Build Dependencies"]["blas"]
    return {**found, "blas": f"{blas['name']} {blas['version']}"}


def facts() -> dict[str, Any]:
    """Everything in this module, as JSON has it."""
    from minidl.version import __version__

    return {
        "minidl": __version__,
        "commit": commit(),
        "python": platform.python_version(),
        "versions": versions(),
        "processor": processor(),
        "cores": cores(),
        "threads": {name: os.environ[name] for name in _THREADS if name in os.environ},
        "system": platform.platform(),
    }
