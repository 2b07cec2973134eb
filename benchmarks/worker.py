"""A process that runs one implementation of one workload, with its number of threads fixed before anything is imported.

Most libraries read their number of threads once, when they are loaded, and their idle threads may spin for a while. So
every implementation gets a process of its own, and the parent lets them take turns.
"""

from __future__ import annotations

import contextlib
import gc
import multiprocessing
import os
import statistics
import sys
import time
from collections.abc import Iterator
from typing import Any

from benchmarks import models

#: how long a process may take to import, build and compile, and to make one turn's steps
PATIENCE = 1800.0
#: seconds between turns, for the threads of the process before to fall asleep
PAUSE = 0.1
#: ``cpu`` adds up the time that all threads were running: on a busy machine, and with one thread, the better one
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


class Failed(Exception):
    """The process could not do what it was asked to; says why."""


def available_cores() -> list[int]:
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))


@contextlib.contextmanager
def environment(threads: int, implementation: str = "") -> Iterator[None]:
    """Processes started inside have ``threads`` threads and as many cores, whatever library they use."""
    names = "OMP", "OPENBLAS", "MKL", "BLIS", "NUMBA", "VECLIB_MAXIMUM"
    values = {f"{n}_NUM_THREADS": str(threads) for n in names}
    values["NUM_CPU_THREADS"] = str(threads)  # tinygrad
    values["DEV"] = "CPU"  # tinygrad
    values["JAX_PLATFORMS"] = "cpu"
    values["XLA_FLAGS"] = (
        f"--xla_cpu_multi_thread_eigen={'true' if threads > 1 else 'false'} intra_op_parallelism_threads={threads}"
    )
    if implementation.startswith("minidl"):  # as minidl does by itself where it is imported before NumPy
        values["OPENBLAS_THREAD_TIMEOUT"] = "10"
    before = {n: os.environ.get(n) for n in values}
    cores = available_cores()
    try:
        os.environ.update(values)
        if hasattr(os, "sched_setaffinity"):  # XLA takes a thread for every core it may use
            os.sched_setaffinity(0, cores[:threads])
        yield
    finally:
        if hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(0, cores)
        for n, v in before.items():
            if v is None:
                os.environ.pop(n, None)
            else:
                os.environ[n] = v


def _thread_counts() -> dict[str, int]:
    """What the libraries in this process say about their threads."""
    counts: dict[str, int] = {}
    with contextlib.suppress(ImportError):
        from threadpoolctl import threadpool_info

        for pool in threadpool_info():
            counts[f"{pool['internal_api']} ({os.path.basename(pool['filepath'])})"] = pool["num_threads"]
    if "torch" in sys.modules:
        counts["torch"] = sys.modules["torch"].get_num_threads()
    if "numba" in sys.modules:
        counts["numba"] = sys.modules["numba"].get_num_threads()
    return counts


def _serve(pipe: Any, implementation: str, workload: str, data: models.Arrays, threads: int) -> None:
    try:
        step = models.build(implementation, workload, data)
        wrong = {name: n for name, n in _thread_counts().items() if n != threads}
        if wrong:
            raise Failed(f"runs with other numbers of threads than {threads}: {wrong}")
        pipe.send(("ready", None))
        while True:
            what, count = pipe.recv()
            if what == "stop":
                return
            if what == "losses":
                pipe.send(("losses", [step() for _ in range(count)]))
            else:
                clock = CLOCKS[what]
                gc.collect()
                step()  # caches as in the middle of training
                times = []
                for _ in range(count):
                    start = clock()
                    step()
                    times.append(clock() - start)
                pipe.send(("times", times))
    except (models.NotDone, ImportError, Failed) as error:
        pipe.send(("failed", str(error)))
    except Exception as error:
        pipe.send(("failed", f"{type(error).__name__}: {error}"))


class Worker:
    """The parent's side. Raises Failed where the process cannot go on."""

    def __init__(self, implementation: str, workload: str, data: models.Arrays, threads: int) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        arguments = theirs, implementation, workload, data, threads
        self.process = context.Process(target=_serve, args=arguments, daemon=True)
        with environment(threads, implementation):
            self.process.start()
        theirs.close()
        self._answer()

    def _answer(self) -> Any:
        try:
            if not self.pipe.poll(PATIENCE):
                raise Failed(f"no answer within {PATIENCE:.0f} s")
            kind, value = self.pipe.recv()
        except EOFError:
            self.process.join(5)
            raise Failed(f"the process ended with code {self.process.exitcode}") from None
        if kind == "failed":
            raise Failed(value)
        return value

    def losses(self, count: int) -> list[float]:
        """Loss of the next ``count`` steps."""
        self.pipe.send(("losses", count))
        return self._answer()

    def turn(self, count: int, clock: str = "wall") -> float:
        """Median seconds of ``count`` steps, after an untimed one."""
        time.sleep(PAUSE)
        self.pipe.send((clock, count))
        return statistics.median(self._answer())

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self.pipe.send(("stop", None))
        self.process.join(5)
        if self.process.is_alive():
            self.process.kill()
        self.pipe.close()
