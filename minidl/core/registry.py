"""The registry behind :mod:`minidl.backend`: backends, their kernels, and the choice between them."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

ENTRY_POINT_GROUP = "minidl.backends"


class BackendError(RuntimeError):
    """A backend is unknown, cannot be loaded, or (in strict mode) has no kernel for a primitive."""


@dataclasses.dataclass(frozen=True, slots=True)
class Kernel:
    """One implementation of a primitive for one backend.

    ``function`` takes the same arguments as the primitive's reference. ``when(*arrays, **params)`` says whether it
    can serve a call; ``None`` means always. ``dtypes`` and ``note`` are for people: ``minidl kernels list`` prints
    them. With ``out``, the function also takes ``out=``, a tuple of arrays (one an output) to write into and return.
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
        return (self.when.__doc__ or getattr(self.when, "__name__", "predicate")).strip().splitlines()[0]


class Backend:
    """An array type and what minidl needs to know of it.

    Subclass it to add a device, and point an entry point of the group ``minidl.backends`` at a function that returns
    an instance. The base class is the NumPy backend.
    """

    name = "numpy"
    device = "cpu"
    array_type: type = np.ndarray
    xp: Any = np
    #: used by ``auto``: the loadable backend with the highest priority is taken
    priority = 0

    def __init__(self) -> None:
        self.kernels: dict[str, list[Kernel]] = {}

    def asarray(self, value: Any, dtype: Any = None) -> Any:
        """``value`` as an array of this backend; copies only if it must."""
        return np.asarray(value, dtype=dtype)

    def to_numpy(self, array: Any) -> np.ndarray:
        """A NumPy array with the values of ``array`` (waits for the device)."""
        return np.asarray(array)

    def synchronize(self) -> None:
        """Wait until all work given to the device is done."""

    def info(self) -> dict[str, Any]:
        """Device and memory facts for ``minidl backends``."""
        return {"device": self.device, "version": np.__version__}

    def __repr__(self) -> str:
        return f"<Backend {self.name} on {self.device}>"


class _State:
    active: Backend
    strict = False
    # collects the calls of primitives while minidl.jit captures a step
    tracer: Any = None
    backends: dict[str, Backend] = {}
    # array types other than numpy.ndarray, each with the backend that owns it
    device_types: dict[type, Backend] = {}
    failures: dict[str, str] = {}
    # kernels registered before their backend was loaded
    pending: dict[str, list[Kernel]] = {}
    # called whenever what serves a primitive may have changed
    on_change: list[Callable[[], None]] = []

    def __setattr__(self, name: str, value: Any) -> None:
        changed = getattr(self, name, None) is not value
        object.__setattr__(self, name, value)
        if changed:
            _changed()


def _changed() -> None:
    for notify in _State.on_change:
        notify()


state = _State()


def register(backend: Backend) -> Backend:
    """Make a backend known under ``backend.name``; returns it."""
    state.backends[backend.name] = backend
    if backend.array_type is not np.ndarray:
        state.device_types[backend.array_type] = backend
        for cls in getattr(backend, "extra_array_types", ()):
            state.device_types[cls] = backend
    for k in state.pending.pop(backend.name, []):
        _add(backend, k)
    _changed()
    return backend


state.active = register(Backend())


def _entry_points() -> dict[str, Any]:
    import importlib.metadata  # slow to import, and needed only when another backend than numpy is asked for

    return {ep.name: ep for ep in importlib.metadata.entry_points(group=ENTRY_POINT_GROUP)}


def load(name: str) -> Backend:
    """The backend called ``name``, importing its package if need be.

    Raises :class:`BackendError` that lists what there is, or says why loading failed.
    """
    if name in state.backends:
        return state.backends[name]
    if name == "auto":
        return fastest_installed()
    points = _entry_points()
    if name not in points:
        raise BackendError(f"unknown backend {name!r}; known: {', '.join(sorted({*state.backends, *points}))}")
    # kernels registered before their backend is there come after (so: are asked before) those it brings itself
    waiting = state.pending.pop(name, [])
    try:
        made = points[name].load()()
    except Exception as error:
        state.pending[name] = [*waiting, *state.pending.get(name, [])]
        state.failures[name] = f"{type(error).__name__}: {error}{_how_to_install(points[name], error)}"
        raise BackendError(f"backend {name!r} cannot be used here: {state.failures[name]}") from error
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
    for name in sorted({*state.backends, *_entry_points()}):
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
    return state.active


def set_backend(name: str | Backend) -> Backend:
    """Choose the backend for new tensors (and, for host arrays, whose kernels run)."""
    state.active = name if isinstance(name, Backend) else load(name)
    return state.active


@contextlib.contextmanager
def use_backend(name: str | Backend, strict: bool | None = None) -> Iterator[Backend]:
    """``set_backend`` for the length of a ``with`` block; ``strict=True`` makes a fallback an error in it."""
    before, before_strict = state.active, state.strict
    try:
        if strict is not None:
            state.strict = strict
        yield set_backend(name)
    finally:
        state.active, state.strict = before, before_strict


def set_strict(strict: bool) -> None:
    """In strict mode, running a reference because a backend has no kernel for the call raises BackendError."""
    state.strict = strict


def backend_of(array: Any) -> Backend:
    """The backend that serves ``array``: its device's own, or the active one for host arrays."""
    cls = type(array)
    if cls is np.ndarray or not state.device_types:
        return state.active if state.active.array_type is np.ndarray else state.backends["numpy"]
    for kind in cls.__mro__:
        if kind in state.device_types:
            return state.device_types[kind]
    for kind, backend in state.device_types.items():  # abstract array types, as jax.Array is
        if isinstance(array, kind):
            return backend
    return state.active if state.active.array_type is np.ndarray else state.backends["numpy"]


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
        if backend in state.backends:
            _add(state.backends[backend], k)
        else:
            state.pending.setdefault(backend, []).append(k)
        return function

    return add


def _add(backend: Backend, k: Kernel) -> None:
    backend.kernels.setdefault(k.primitive, []).insert(0, k)
    _changed()


def unregister_kernel(function: Callable[..., Any]) -> None:
    """Take back every registration of ``function`` (tests and interactive work)."""
    for backend in state.backends.values():
        for name in list(backend.kernels):
            left = [k for k in backend.kernels[name] if k.function is not function]
            if left:
                backend.kernels[name] = left
            else:
                del backend.kernels[name]
    _changed()


def explain(primitive: str | None = None, backend: str | None = None) -> list[dict[str, str]]:
    """Per primitive (all of them, or one), what serves it on ``backend`` (the active one) and under which condition.

    Returns rows with the keys ``primitive``, ``backend``, ``served_by``, ``dtypes``, ``when``, ``note``; the last
    row of each primitive is the reference, which serves whatever the kernels above it decline.
    """
    from minidl.ops import primitives

    chosen = load(backend) if backend else state.active
    names = [primitive] if primitive else sorted(primitives)
    rows = []
    for name in names:
        if name not in primitives:
            raise BackendError(f"no primitive is called {name!r}")
        for k in chosen.kernels.get(name, []):
            rows.append(
                {
                    "primitive": name,
                    "backend": chosen.name,
                    "served_by": k.label,
                    "dtypes": ", ".join(k.dtypes),
                    "when": k.condition,
                    "note": k.note,
                }
            )
        reason = "no kernel registered" if name not in chosen.kernels else "when no kernel above accepts the call"
        rows.append(
            {
                "primitive": name,
                "backend": chosen.name,
                "served_by": f"reference ({chosen.xp.__name__})",
                "dtypes": "",
                "when": "always" if name not in chosen.kernels else "otherwise",
                "note": reason if chosen.name != "numpy" else "the reference itself",
            }
        )
    return rows


def apply_environment() -> None:
    """Honour ``MINIDL_BACKEND`` (called once, when :mod:`minidl` is imported)."""
    wanted = os.environ.get("MINIDL_BACKEND")
    if wanted and wanted != "numpy":
        set_backend(wanted)
    state.strict = os.environ.get("MINIDL_STRICT", "") not in ("", "0")
