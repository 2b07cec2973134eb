"""How functions are compiled, and what of that is kept on disk for the next process.

:func:`compiled`, :func:`inlined` and :func:`entry` are Numba's decorators with the options of this package. What
Numba keeps of a function it keeps until the function's own file changes; but compiled code has in it what it calls
from other files. Here it is kept until one of the files of this package changes that the function's file imports,
directly or by way of others.
"""

from __future__ import annotations

import functools
import hashlib
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from numba import njit, types
from numba.core import sigutils
from numba.core.caching import FunctionCache, NullCache
from numba.core.ccallback import CFunc

#: Contraction to fused multiply-add and unsigned zeros are all that is allowed of fast mathematics: NaN and infinity
#: count. Loops that sum say so themselves, with :func:`~.vecmath.add_any_order`.
#: Such a loop must store nothing: LLVM would make two versions of it, with the sum in different orders, one for when
#: the arrays may overlap as far as it can tell, and results would depend on where the arrays lie.
FASTMATH = frozenset({"contract", "nsz"})

_PACKAGE = "minidl_kernels.numba"
_ROOT = Path(__file__).parent.parent
# a regular expression, as the ast module takes a tenth of a second for all files together
_IMPORTS = re.compile(
    rf"^\s*(?:from\s+({re.escape(_PACKAGE)}[\w.]*)\s+import\s+(\([^)]*\)|.*)|import\s+({re.escape(_PACKAGE)}[\w.]*))",
    re.MULTILINE,
)


def _imports(source: str) -> set[Path]:
    """The files of this package that a source imports."""
    found = set()
    for module, names, plain in _IMPORTS.findall(source):
        for name in ("", *re.findall(r"\w+", names)):
            parts = f"{module or plain}.{name}".removeprefix(_PACKAGE).strip(".").split(".")
            path = _ROOT.joinpath(*parts).with_suffix(".py")
            if path.is_file():
                found.add(path)
    return found


def digest(source: str) -> str:
    """A hash of a source and of all files of this package that go into what is compiled of it."""
    files: set[Path] = set()
    new = _imports(source)
    while new:
        files |= new
        new = set().union(*(_file(path)[1] for path in new)) - files
    texts = [source, *(f"{path.relative_to(_ROOT)}\n{_file(path)[0]}" for path in sorted(files))]
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()


@functools.cache
def _file(path: Path) -> tuple[str, set[Path]]:
    """The source, and what it imports."""
    source = path.read_text(encoding="utf-8")
    return source, _imports(source)


@functools.cache
def _stamp(path: Path) -> str:
    return digest(_file(path)[0])


class KernelCache(FunctionCache):
    """Numba's files for a compiled function, which are out of date when :func:`digest` differs.

    Files that cannot be read as what they should be are made anew. Where none can be written, that is a warning.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__(function)
        path = Path(function.__code__.co_filename)
        if path.is_file():  # in an archive, Numba's stamp is one for all files
            self._cache_file._source_stamp = _stamp(path)

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        try:
            return super().load_overload(sig, target_context)
        except Exception:  # a damaged pickle may raise anything
            try:
                self.flush()
            except OSError as error:
                self._give_up(error)
            return None

    def save_overload(self, sig: Any, data: Any) -> None:
        try:
            super().save_overload(sig, data)
        except OSError as error:
            self._give_up(error)

    def _give_up(self, error: OSError) -> None:
        self.disable()
        _warn(f"in {self.cache_path}: {error.strerror or error}")


def _warn(reason: str) -> None:
    message = f"compiled kernels are not kept for the next process {reason}; NUMBA_CACHE_DIR names another folder"
    warnings.warn(message, RuntimeWarning, stacklevel=3)


def _cache(function: Callable[..., Any]) -> Any:
    try:
        return KernelCache(function)
    except RuntimeError:  # Numba finds no folder that it can write to
        _warn("as no folder for them can be written")
        return NullCache()


def compiled(
    function: Callable[..., Any] | None = None,
    *,
    parallel: bool = False,
    fastmath: frozenset[str] = FASTMATH,
    signature: Any = None,
) -> Any:
    """Decorator: ``numba.njit`` without the GIL, with NumPy's division by zero, kept on disk.

    Args:
        parallel: ``prange`` runs on several threads.
        signature: compile for these types at once, and for no others.
    """
    if function is None:
        return functools.partial(compiled, parallel=parallel, fastmath=fastmath, signature=signature)
    options = {"nogil": True, "error_model": "numpy", "fastmath": set(fastmath), "parallel": parallel}
    dispatcher = njit(**options)(function)
    dispatcher._cache = _cache(function)
    if signature is not None:
        dispatcher.compile(signature)
        dispatcher.disable_compile()
    return dispatcher


#: what :func:`inlined` gives ``numba.njit``
INLINED: dict[str, Any] = {"forceinline": True, "error_model": "numpy", "fastmath": set(FASTMATH)}


def inlined(function: Callable[..., Any] | None = None, *, fastmath: frozenset[str] = FASTMATH) -> Any:
    """Decorator: ``numba.njit`` for a function that becomes part of those that call it."""
    if function is None:
        return functools.partial(inlined, fastmath=fastmath)
    return njit(**{**INLINED, "fastmath": set(fastmath)})(function)


class _Entry(CFunc):
    def enable_caching(self) -> None:
        self._cache = _cache(self._pyfunc)


def entry(function: Callable[[int], None]) -> Any:
    """Decorator: compile a ``void f(int64)`` that can be called by its ``address``; kept on disk."""
    made = _Entry(function, sigutils.normalize_signature(types.void(types.intp)), locals={}, options={})
    made.enable_caching()
    made.compile()
    return made
