"""What this machine can do at best: the two numbers of the roofline model.

S. Williams, A. Waterman and D. Patterson, "Roofline: an insightful visual performance model for multicore
architectures", CACM 2009: a kernel that does ``flops`` operations on ``bytes`` of memory takes at least
``max(flops / peak, bytes / bandwidth)`` seconds. The peak here is that of float32 matrix multiplication, the bandwidth
that of copying arrays larger than the caches (bytes read and bytes written, both), each the best of several runs.
"""

from __future__ import annotations

import dataclasses
import json
import os
import platform
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from minidl.core.registry import Backend


@dataclasses.dataclass(frozen=True)
class Roofline:
    """``gflops``: peak of sgemm in 10^9 operations per second; ``gbs``: memory bandwidth in 10^9 bytes per second."""

    device: str
    gflops: float
    gbs: float

    def seconds(self, flops: float, nbytes: float) -> float:
        """The least time the machine needs."""
        return max(flops / self.gflops, nbytes / self.gbs) / 1e9

    def attainable(self, intensity: Any) -> Any:
        """GFLOP/s within reach at ``intensity`` operations per byte."""
        return np.minimum(self.gflops, intensity * self.gbs)


def roofline(backend: Backend | None = None, *, measure_again: bool = False, cache: Path | None = None) -> Roofline:
    """The roofline of the backend's device: measured once (about two seconds), then read from the cache folder."""
    backend = backend or Backend()
    key = device_key(backend)
    path = cache_file() if cache is None else cache
    known = _read(path)
    if key not in known or measure_again:
        known[key] = measure(backend)
        _write(path, known)
    return Roofline(key, **known[key])


def device_key(backend: Backend) -> str:
    """Names what was measured: the processor and its number of threads, or the backend's device."""
    if backend.array_type is np.ndarray:
        return f"{cpu_name()}, {available_cpus()} threads"
    facts = backend.info()
    return f"{backend.name}: {facts.get('device', backend.device)}"


def cpu_name() -> str:
    """The processor's model name."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        facts = {k.strip(): v.strip() for k, _, v in (line.partition(":") for line in lines)}
        model, family = facts["model name"], facts.get("cpu family", "?")
        return f"{model} (family {family}, model {facts.get('model', '?')})"
    except (OSError, KeyError):
        return platform.processor() or platform.machine()


def available_cpus() -> int:
    """Processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def last_level_cache() -> int:
    """Bytes of the largest cache; 64 MiB where the system does not say."""
    sizes = [0]
    for file in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size"):
        text = file.read_text().strip()
        unit = {"K": 1 << 10, "M": 1 << 20}.get(text[-1:])
        if unit:
            sizes.append(int(text[:-1]) * unit)
    return max(sizes) or 64 << 20


def larger_than_cache() -> int:
    """Bytes of a buffer that, once touched, has driven everything else out of the caches; at most 1 GiB."""
    return min(3 * last_level_cache() // 2, 1 << 30)


def measure(backend: Backend) -> dict[str, float]:
    """Peak and bandwidth of the backend's device, now."""
    return {"gflops": _sgemm(backend), "gbs": _host_copy() if backend.array_type is np.ndarray else _copy(backend)}


def _best(run: Callable[[], Any], finish: Callable[[], None], times: int = 6) -> float:
    best = float("inf")
    for _ in range(times):
        start = time.perf_counter()
        out = run()  # noqa: F841  (JAX only waits for arrays that somebody holds)
        finish()
        best = min(best, time.perf_counter() - start)
    return best


def _sgemm(backend: Backend) -> float:
    n = 1536 if backend.device == "cpu" else 8192
    a = backend.asarray(np.full((n, n), 0.5, np.float32))
    return 2 * n**3 / _best(lambda: backend.xp.matmul(a, a), backend.synchronize) / 1e9


def _host_copy() -> float:
    """All processors copy at once: one alone may not use all of the bandwidth."""
    workers = available_cpus()
    n = larger_than_cache() // 8 // workers  # what is read and what is written do not fit together
    pairs = [(np.ones(n, np.float32), np.zeros(n, np.float32)) for _ in range(workers)]
    with ThreadPoolExecutor(workers) as pool:
        seconds = _best(lambda: list(pool.map(lambda p: np.copyto(p[1], p[0]), pairs)), lambda: None)
    return 2 * 4 * n * workers / seconds / 1e9


def _copy(backend: Backend) -> float:
    x = backend.asarray(np.ones(1 << 26, np.float32))
    return 2 * 4 * (1 << 26) / _best(lambda: x + 1, backend.synchronize) / 1e9


def cache_file() -> Path:
    """Where measurements are kept."""
    from minidl.files import data_folders

    return data_folders()[-1] / "roofline.json"


def _read(path: Path) -> dict[str, dict[str, float]]:
    try:
        known = json.loads(path.read_text())
        return {k: {"gflops": float(v["gflops"]), "gbs": float(v["gbs"])} for k, v in known.items()}
    except (OSError, ValueError, TypeError, KeyError, AttributeError):  # absent or damaged: measure again
        return {}


def _write(path: Path, known: dict[str, dict[str, float]]) -> None:
    from minidl.files import atomic_write

    with atomic_write(path) as file:
        file.write(json.dumps(known, indent=1).encode())
