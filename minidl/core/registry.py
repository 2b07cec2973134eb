"""Who is there: primitives by name, backends with their kernels, and which backend is chosen.

A backend is an array type plus any kernels that it has. What it has no kernel for is served by its parent's kernel, and
only then by the primitive's formula: :func:`serving` lists the kernels in that order, and
:func:`minidl.core.dispatch.choose` takes the first one that accepts a call.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import importlib
import os
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from minidl.core.context import current, enter, process, using
from minidl.core.errors import BackendError

if TYPE_CHECKING:
    from minidl.core.primitive import Primitive

ENTRY_POINT_GROUP = "minidl.backends"


@dataclasses.dataclass(frozen=True, slots=True)
class Kernel:
    """One implementation of a primitive for one backend.

    ``function`` takes the same arguments as the primitive's reference. ``when(*arrays, **params)`` says whether it
    can serve a call; ``None`` means always. ``dtypes`` and ``note`` are for people: ``minidl kernels list`` prints
    them. With ``out``, the function also takes ``out=``, a tuple of arrays (one per output) to write into and return.
    ``tolerance`` declares less accuracy than the conformance suite asks for; see :mod:`minidl.testing.conformance`.
    """

    primitive: str
    backend: str
    function: Callable[..., Any]
    when: Callable[..., bool] | None = None
    dtypes: tuple[str, ...] = ()
    note: str = ""
    out: bool = False
    tolerance: dict[str, Any] | None = None

    @property
    def label(self) -> str:
        """Where the function is: module and name."""
        return f"{self.function.__module__}.{getattr(self.function, '__qualname__', repr(self.function))}"

    @property
    def condition(self) -> str:
        """The predicate in words: its docstring, else its name, else ``always``."""
        if self.when is None:
            return "always"
        return str(self.when.__doc__ or getattr(self.when, "__name__", "predicate")).strip().splitlines()[0]


class _Direct(dict):
    """Per primitive the function that serves every call of it on a backend; None where it depends on the call."""

    def __init__(self, backend: Backend) -> None:
        super().__init__()
        self.backend = backend

    def __missing__(self, prim: Primitive) -> Callable[..., Any] | None:
        found: Callable[..., Any] | None = None
        if self.backend.array_type is np.ndarray:
            kernels = serving(self.backend, prim.name)
            found = prim.reference if not kernels else kernels[0].function if kernels[0].when is None else None
        self[prim] = found
        return found


class Backend:
    """An array type and what minidl needs to know of it.

    Subclass it to add a device, and point an entry point of the group ``minidl.backends`` at a function that returns
    an instance. The base class is the NumPy backend.
    """

    name = "numpy"
    device = "cpu"
    array_type: type = np.ndarray
    #: further types of arrays that belong to this backend, such as a compiler's tracers
    array_types: tuple[type, ...] = ()
    #: the array namespace
    xp: Any = np
    #: the backend on the same arrays whose kernels serve what this one has none for
    parent: str | None = None
    #: can arrays be written to, and views of them share their memory?
    mutable = True
    #: used by ``auto``: the loadable backend with the highest priority is taken
    priority = 0
    #: a module that registers this backend's kernels when it is imported, which is done when the first is looked for
    package: str | None = None

    def __init__(self) -> None:
        self.kernels: dict[str, list[Kernel]] = {}
        self.serving: dict[str, tuple[Kernel, ...]] = {}
        self.direct = _Direct(self)

    def asarray(self, value: Any, dtype: Any = None) -> Any:
        """``value`` as an array of this backend; copies only if it must."""
        return np.asarray(value, dtype=dtype)

    def to_numpy(self, array: Any) -> np.ndarray:
        """A NumPy array with the values of ``array`` (waits for the device)."""
        return np.asarray(array)

    @functools.cached_property
    def special(self) -> Any:
        """The namespace of the special functions (``erf``, ``ndtr``) of ``xp``'s arrays: :mod:`scipy.special`."""
        import scipy.special  # takes longer to import than all of minidl

        return scipy.special

    @property
    def in_host_memory(self) -> bool:
        """Are the arrays in the host's memory, so that "cpu" means this backend where it is the active one?"""
        return self.device == "cpu"

    def synchronize(self) -> None:
        """Wait until all work given to the device is done."""

    def compile(self, program: Any) -> Callable[[list], list] | None:
        """A function that runs a captured program (:class:`minidl.jit.Program`) on the arrays of its inputs and
        returns those of its results; None to have it interpreted, kernel by kernel."""
        return None

    def compiled_for(self) -> Any:
        """What else a compiled program depends on, as something hashable: the devices in force, say."""
        return None

    def info(self) -> dict[str, Any]:
        """Device and memory facts for ``minidl backends``."""
        return {"device": self.device, "version": np.__version__}

    def __repr__(self) -> str:
        return f"<Backend {self.name} on {self.device}>"


#: every primitive by name
primitives: dict[str, Primitive] = {}
#: the backends loaded so far, by name
backends: dict[str, Backend] = {}
#: array types other than numpy.ndarray, each with the backend that owns it
device_types: dict[type, Backend] = {}
#: why a backend could not be loaded
failures: dict[str, str] = {}
#: kernels registered before their backend was loaded
_pending: dict[str, list[Kernel]] = {}


def serving(backend: Backend, name: str) -> tuple[Kernel, ...]:
    """The kernels that may serve the primitive ``name`` on ``backend``, its own before its parent's."""
    found = backend.serving.get(name)
    if found is None:
        _complete(backend)
        found = tuple(backend.kernels.get(name, ()))
        if backend.parent is not None:
            found += serving(load(backend.parent), name)
        backend.serving[name] = found
    return found


def _complete(backend: Backend) -> Backend:
    """``backend`` with the kernels of its package, if it has one that it has not been asked for before."""
    if backend.package is not None:
        importlib.import_module(backend.package)
    return backend


def changed() -> None:
    """Forget what was worked out from the kernels registered: call it after changing ``Backend.kernels``."""
    for backend in {*backends.values(), process.backend, current().backend}:
        backend.serving.clear()
        backend.direct.clear()


def register(backend: Backend) -> Backend:
    """Make a backend known under ``backend.name``; returns it."""
    backends[backend.name] = backend
    if backend.array_type is not np.ndarray:
        for cls in (backend.array_type, *backend.array_types):
            device_types[cls] = backend
    for k in _pending.pop(backend.name, []):
        _add(backend, k)
    changed()
    return backend


process.backend = backends["numpy"] = Backend()
process.backend.package = "minidl_kernels.numpy"
process.update()


def _entry_points() -> dict[str, Any]:
    import importlib.metadata  # slow to import, and needed only when another backend than numpy is asked for

    return {ep.name: ep for ep in importlib.metadata.entry_points(group=ENTRY_POINT_GROUP)}


def load(name: str) -> Backend:
    """The backend called ``name``, importing its package if need be.

    Raises :class:`BackendError` that lists what there is, or says why loading failed.
    """
    if name in backends:
        return _complete(backends[name])
    if name == "auto":
        return fastest_installed()
    points = _entry_points()
    if name not in points:
        raise BackendError(f"unknown backend {name!r}; known: {', '.join(sorted({*backends, *points}))}")
    # kernels registered before their backend is there come after (so: are asked before) those it brings itself
    waiting = _pending.pop(name, [])
    try:
        made = points[name].load()()
    except Exception as error:
        _pending[name] = [*waiting, *_pending.get(name, [])]
        failures[name] = f"{type(error).__name__}: {error}{_how_to_install(points[name], error)}"
        raise BackendError(f"backend {name!r} cannot be used here: {failures[name]}") from error
    register(made)
    for k in waiting:
        _add(made, k)
    return made


def _how_to_install(point: Any, error: Exception) -> str:
    """Where a module is missing and the package that offers the backend has an extra of its name: how to get that."""
    if not isinstance(error, ModuleNotFoundError) or point.dist is None:
        return ""
    extras = point.dist.metadata.get_all("Provides-Extra") or ()
    return f'; pip install "{point.dist.name}[{point.name}]"' if point.name in extras else ""


def available() -> dict[str, str]:
    """Every known backend with ``"ok"`` or the reason it cannot be used here."""
    result = {}
    for name in sorted({*backends, *_entry_points()}):
        try:
            load(name)
            result[name] = "ok"
        except BackendError as error:
            result[name] = str(error)
    return result


def fastest_installed() -> Backend:
    """What ``auto`` means: the loadable backend with the highest ``priority``."""
    usable = [load(name) for name, status in available().items() if status == "ok"]
    return max(usable, key=lambda b: b.priority)


def get_backend() -> Backend:
    """The backend on which new arrays are made."""
    return current().backend


def _choose(**fields: Any) -> None:
    """Set fields for the process and here; inside ``use_backend`` for the rest of its block only."""
    if not current().scoped:
        process.update(**fields)
    if current() is not process:
        enter(**fields)


def set_backend(name: str | Backend) -> Backend:
    """Choose the backend for new tensors and, for host arrays, whose kernels run.

    The choice holds for the whole process, except in ``use_backend`` blocks. Inside such a block it holds until the
    end of the block, and for the thread or task alone that runs it.
    """
    _choose(backend=name if isinstance(name, Backend) else load(name))
    return current().backend


@contextlib.contextmanager
def use_backend(name: str | Backend, strict: bool | None = None) -> Iterator[Backend]:
    """``set_backend`` for the length of a ``with`` block, in this thread or task; ``strict=True`` makes a fallback an
    error in it."""
    backend = name if isinstance(name, Backend) else load(name)
    with using(backend=backend, strict=current().strict if strict is None else strict, scoped=True):
        yield backend


def set_strict(strict: bool) -> None:
    """In strict mode, running a formula because a backend has no kernel for the call raises BackendError.

    Holds where :func:`set_backend` does.
    """
    _choose(strict=strict)


def _host_backend() -> Backend:
    active = current().backend
    return active if active.array_type is np.ndarray else backends["numpy"]


def backend_of(array: Any) -> Backend:
    """The backend that serves ``array``: its device's own, or the active one for host arrays."""
    cls = type(array)
    if cls is np.ndarray or not device_types:
        return _host_backend()
    for kind in cls.__mro__:
        if kind in device_types:
            return device_types[kind]
    for kind, backend in device_types.items():  # abstract array types, as jax.Array is
        if isinstance(array, kind):
            return backend
    return _host_backend()


_ndarray = np.ndarray


def namespace(*arrays: Any) -> Any:
    """The array namespace (``numpy``, ``cupy``, ``jax.numpy``) of the first array that is not a host array."""
    for a in arrays:
        if type(a) is not _ndarray and hasattr(a, "dtype") and not isinstance(a, np.generic):
            return backend_of(a).xp
    return np


def to_numpy(array: Any) -> np.ndarray:
    """Any backend's array as a NumPy array."""
    return array if type(array) is np.ndarray else backend_of(array).to_numpy(array)


def kernel(
    primitive: str,
    *,
    backend: str,
    when: Callable[..., bool] | None = None,
    dtypes: tuple[str, ...] = (),
    note: str = "",
    out: bool = False,
    tolerance: dict[str, Any] | None = None,
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Decorator: the function serves ``primitive`` on ``backend`` wherever ``when(*arrays, **params)`` is true.

    The kernel registered last is asked first, so a user's kernel overrides ours. The name need not belong to a
    primitive yet; ``minidl kernels check`` reports kernels that serve nothing.
    """

    def add(function: Callable[..., Any]) -> Callable[..., Any]:
        text = note or (function.__doc__ or "").strip().split("\n")[0]
        k = Kernel(primitive, backend, function, when, dtypes, text, out, tolerance)
        if backend in backends:
            _add(backends[backend], k)
        else:
            _pending.setdefault(backend, []).append(k)
        return function

    return add


def _add(backend: Backend, k: Kernel) -> None:
    _complete(backend)  # what a package registers comes before (so: is asked after) what others register
    backend.kernels.setdefault(k.primitive, []).insert(0, k)
    changed()


def unregister_kernel(function: Callable[..., Any]) -> None:
    """Take back every registration of ``function`` (tests and interactive work)."""
    for backend in backends.values():
        for name in list(backend.kernels):
            left = [k for k in backend.kernels[name] if k.function is not function]
            if left:
                backend.kernels[name] = left
            else:
                del backend.kernels[name]
    changed()


def explain(primitive: str | None = None, backend: str | None = None) -> list[dict[str, str]]:
    """Per primitive (all of them, or one), what serves it on ``backend`` (the active one) and under which condition.

    Returns rows with the keys ``primitive``, ``backend``, ``served_by``, ``dtypes``, ``when``, ``note``; the last
    row of each primitive is its formula, which serves whatever the kernels above it decline.
    """
    chosen = load(backend) if backend else current().backend
    names = [primitive] if primitive else sorted(primitives)
    rows = []
    for name in names:
        if name not in primitives:
            raise BackendError(f"no primitive is called {name!r}")
        kernels = serving(chosen, name)
        for k in kernels:
            rows.append(
                {
                    "primitive": name,
                    "backend": k.backend,
                    "served_by": k.label,
                    "dtypes": ", ".join(k.dtypes),
                    "when": k.condition,
                    "note": k.note,
                }
            )
        reason = "when no kernel above accepts the call" if kernels else "no kernel registered"
        rows.append(
            {
                "primitive": name,
                "backend": chosen.name,
                "served_by": f"reference ({chosen.xp.__name__})",
                "dtypes": "",
                "when": "otherwise" if kernels else "always",
                "note": reason if chosen.name != "numpy" or kernels else "the reference itself",
            }
        )
    return rows


def apply_environment() -> None:
    """Honour ``MINIDL_BACKEND`` and ``MINIDL_STRICT`` (called once, when :mod:`minidl` is imported)."""
    wanted = os.environ.get("MINIDL_BACKEND")
    if wanted and wanted != "numpy":
        set_backend(wanted)
    set_strict(os.environ.get("MINIDL_STRICT", "") not in ("", "0"))
