"""What belongs to a thread or task rather than to the process: backend, strict mode, recording, generator, tracer.

Every choice of this kind is a field of one :class:`Context`, kept in a :class:`contextvars.ContextVar`. Contexts are
never changed but replaced, so that threads and asyncio tasks do not disturb each other; the exception is the process's
default, :data:`process`, in which every new thread starts.
"""

from __future__ import annotations

import contextlib
import contextvars
import functools
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from minidl.core.registry import Backend
    from minidl.core.trace import Tracer


class _Nothing(dict):
    """A table of direct functions (see ``Context.direct``) that knows none."""

    def __missing__(self, key: Any) -> None:
        return None


_NOTHING = _Nothing()


class Context:
    """The choices in force. Make another one with :meth:`replace`."""

    #: the backend on which new arrays are made and whose kernels serve host arrays
    backend: Backend
    #: is running a formula, or a parent's kernel, for want of a kernel an error?
    strict: bool
    #: inside a ``use_backend`` block, so that ``set_backend`` is for the rest of the block
    scoped: bool
    #: are operations on tensors that require gradients recorded?
    recording: bool
    #: the :class:`minidl.random.Generator` of whoever is given none
    generator: Any
    #: what is told of every primitive that runs, while a step is captured
    tracer: Tracer | None
    #: look for NaNs?
    anomaly: bool
    #: called as observer(prim, args, params, out) after every call with Tensors
    observer: Callable[..., None] | None
    #: called as visitor(node, gradient) before a node's gradient rule runs
    visitor: Callable[..., None] | None
    #: collects the nodes made inside ``checkpoint``
    nodes: list | None
    #: run gradient rules on Tensors even without ``create_graph``, so that an observer sees their operations
    trace_backward: bool
    #: may calls take the short way of :mod:`minidl.core.dispatch`?
    fast: bool
    # Those below follow from the others.
    #: the same with ``recording`` the other way, once it was asked for
    twin: Context | None
    #: any of anomaly, observer and nodes: one look tells the common case that there is nothing more to do
    special: bool
    #: per primitive, the function that serves it where nothing has to be chosen or watched, else None
    direct: Mapping[Any, Callable[..., Any] | None]

    def copy(self) -> Context:
        """Another one with the same fields."""
        new = Context.__new__(Context)
        new.__dict__.update(self.__dict__)
        new.twin = None
        return new

    def replace(self, **fields: Any) -> Context:
        """A copy with some fields changed."""
        new = self.copy()
        new.update(**fields)
        return new

    def update(self, **fields: Any) -> None:
        """Change this context itself: for :data:`process` only."""
        self.__dict__.update(fields)
        self.twin = None
        self.special = bool(self.anomaly or self.observer or self.nodes is not None)
        choosing = self.strict and self.backend.name != "numpy"
        plain = self.fast and self.tracer is None and not self.special and not choosing
        self.direct = self.backend.direct if plain else _NOTHING


#: the context of the process: where threads start, and what ``set_backend`` outside of any block changes.
#: :mod:`minidl.core.registry` puts the numpy backend in.
process = Context()
process.__dict__.update(
    backend=None, strict=False, scoped=False, recording=True, generator=None, tracer=None, anomaly=False, observer=None,
    visitor=None, nodes=None, trace_backward=False, fast=True, special=False, direct=_NOTHING, twin=None,
)  # fmt: skip

_variable: contextvars.ContextVar[Context] = contextvars.ContextVar("minidl", default=process)
#: the context in force
current: Callable[[], Context] = _variable.get


def enter(**fields: Any) -> None:
    """Replace the context in force by one with these fields changed, until the thread or task ends."""
    _variable.set(_variable.get().replace(**fields))


@contextlib.contextmanager
def using(**fields: Any) -> Iterator[Context]:
    """``enter`` for the length of a ``with`` block."""
    before = _variable.get()
    inside = before.replace(**fields)
    _variable.set(inside)
    try:
        yield inside
    finally:
        _leave(before, inside, fields)


def _leave(before: Context, inside: Context, fields: Mapping[str, Any]) -> None:
    """Take back what a block changed, but not what else was changed inside it for longer (``set_backend``)."""
    now = _variable.get()
    if now is not inside:
        restored = now.replace(**{name: getattr(before, name) for name in fields})
        if restored.__dict__ != before.__dict__:
            _variable.set(restored)
            return
    _variable.set(before)


class _set_recording(contextlib.ContextDecorator):
    """Context manager and decorator that switches recording; see no_grad and enable_grad."""

    value = True

    def __init__(self, function: Callable[..., Any] | None = None) -> None:
        self._before: list[tuple[Context, Context]] = []
        self._function = function
        if function is not None:
            functools.update_wrapper(self, function)

    def __enter__(self) -> None:
        before = _variable.get()
        inside = before
        if before.recording is not self.value:
            inside = before.twin  # type: ignore[assignment]
            if inside is None:
                inside = before.twin = before.copy()
                inside.recording, inside.twin = self.value, before
        _variable.set(inside)
        self._before.append((before, inside))

    def __exit__(self, *exc: Any) -> None:
        before, inside = self._before.pop()
        if _variable.get() is inside:
            _variable.set(before)
        else:
            _leave(before, inside, {"recording": None})

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self._function is None:
            return super().__call__(*args, **kwargs)
        with type(self)():
            return self._function(*args, **kwargs)

    def __get__(self, instance: Any, owner: Any = None) -> Any:
        return self if instance is None else functools.partial(self.__call__, instance)

    def _recreate_cm(self) -> _set_recording:
        return type(self)()  # a decorated function may run in several threads at once


class no_grad(_set_recording):
    """Operations inside are not recorded: ``with no_grad(): ...``, ``@no_grad()`` or ``@no_grad``."""

    value = False


class enable_grad(_set_recording):
    """Operations inside are recorded, also within :class:`no_grad`."""

    value = True


def is_grad_enabled() -> bool:
    """Whether operations on tensors that require gradients are being recorded here."""
    return _variable.get().recording


@contextlib.contextmanager
def detect_anomaly() -> Iterator[None]:
    """Inside, a NaN that a primitive or a gradient rule makes raises AnomalyError naming the forward line."""
    with using(anomaly=True):
        yield
