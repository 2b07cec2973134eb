"""Generated sources and their modules, in a folder that keeps what Numba compiles of them for the next process."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import sys
import threading
from functools import cache
from types import ModuleType

from minidl.files import cache_folder
from minidl_kernels.numba.simd.compiled import digest

_HEADER = """# {stamp}
import math

import numpy as np
from numba import carray, prange, types

from minidl_kernels.numba.simd import vecmath
from minidl_kernels.numba.simd.compiled import compiled, entry
from minidl_kernels.numba.simd.words import number, pointer, word


"""

_modules: dict[str, ModuleType] = {}
_lock = threading.Lock()


@cache
def _stamp() -> str:
    """Two versions of this package that share a cache folder have sources of their own there."""
    return digest(_HEADER)[:16]


def with_header(source: str) -> str:
    """The source after the imports that all generated modules have."""
    return _HEADER.format(stamp=_stamp()) + source


def load_source(source: str) -> ModuleType:
    """The module of a generated source.

    It is written to the cache folder, atomically, if it is new. Where that folder cannot be used (read-only, full), the
    module is compiled in memory, for this process only.
    """
    name = "k" + hashlib.sha256(source.encode()).hexdigest()[:24]
    with _lock:
        if name not in _modules:
            try:
                _modules[name] = _from_file(name, source)
            except OSError:
                _modules[name] = _in_memory(name, source)
        return _modules[name]


def _from_file(name: str, source: str) -> ModuleType:
    folder = cache_folder() / "kernels"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.py"
    if not path.exists() or path.read_text() != source:
        temporary = path.with_suffix(f".{os.getpid()}.tmp")
        try:
            temporary.write_text(source)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
    spec = importlib.util.spec_from_file_location(f"minidl_generated_{name}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # Numba's cache finds a function again by its module
    spec.loader.exec_module(module)
    return module


def _in_memory(name: str, source: str) -> ModuleType:
    module = ModuleType(f"minidl_generated_{name}")
    sys.modules[module.__name__] = module
    exec(compile(source, f"<{name}>", "exec"), module.__dict__)
    return module
