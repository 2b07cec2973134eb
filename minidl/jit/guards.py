"""What a captured step read of the world besides its arguments, and whether that is still as it was.

Before a step is captured, the code of its function (and of the functions that it can reach) says which globals and
closure variables it reads. Their values are noted: of a number or a string its type and bits, of a list, a dict or a
user's object its contents, of anything else its identity. Modules note changes of their attributes in one counter
(:data:`minidl.core.trace.world`), so that as long as nobody changes any, there is nothing to look at; after a change,
the attributes of the modules that took part are compared.
"""

from __future__ import annotations

import abc
import dis
import functools
import os
import random
import sys
import sysconfig
import types
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from minidl.core.errors import CaptureError
from minidl.core.graph import Traced
from minidl.core.trace import world

#: values that are compared at each call, at most
LIMIT = 4096
_LIBRARIES = {"minidl", "minidl_kernels", "numpy", "scipy", *sys.stdlib_module_names}
_INSTALLED = (sysconfig.get_path("purelib") + os.sep, sysconfig.get_path("platlib") + os.sep)
_MISSING = object()
_PYTHONS = {object, dict, list, tuple, set, abc.ABC, types.SimpleNamespace}
_NUMBERS = (bool, int, float, complex)
_CONSTANTS = (str, bytes, type(None), type, np.dtype, range, types.ModuleType, types.BuiltinFunctionType)


def _of_a_library(x: Any) -> bool:
    """Is this function or class part of minidl, of another installed package, or of Python? What such code reads, its
    own globals, is not followed."""
    name = getattr(x, "__module__", None) or ""
    return _is_installed(name) and not (name == "builtins" and isinstance(x, types.FunctionType))


@functools.cache
def _is_installed(module: str) -> bool:
    if module.split(".")[0] in _LIBRARIES:
        return True
    file = getattr(sys.modules.get(module), "__file__", None)
    return file is not None and file.startswith(_INSTALLED)


def _is_module(x: Any) -> bool:
    return getattr(type(x), "_is_module", False)


@functools.lru_cache(maxsize=4096)
def _names(code: types.CodeType) -> tuple[frozenset, frozenset, frozenset, frozenset]:
    """(globals read, closure variables read, attributes read, variables of either kind bound anew) of some code and
    the functions inside it; a global ``a`` of which ``a.b.c`` is read comes as ``("a", "b", "c")``, too."""
    read, free, attributes, bound = set(), set(), set(), set()
    chain: tuple = ()
    for at in dis.get_instructions(code):
        if at.opname in ("LOAD_GLOBAL", "LOAD_NAME"):
            chain = (at.argval,)
            read.add(chain)
        elif at.opname in ("LOAD_DEREF", "LOAD_CLASSDEREF", "LOAD_CLOSURE"):
            chain = ()
            free.add(at.argval)
        elif at.opname in ("LOAD_ATTR", "LOAD_METHOD"):
            attributes.add(at.argval)
            if chain:
                chain = (*chain, at.argval)
                read.add(chain)
        elif at.opname in ("STORE_GLOBAL", "STORE_DEREF"):
            bound.add(at.argval)
            chain = ()
        elif at.opname not in ("PRECALL", "CACHE"):
            chain = ()
    for inner in code.co_consts:
        if isinstance(inner, types.CodeType):
            r, f, a, b = _names(inner)
            read, free, attributes, bound = read | r, free | f, attributes | a, bound | b
    return frozenset(read), frozenset(free), frozenset(attributes), frozenset(bound)


class _Identity:
    """Equal where it stands for the same object, which it keeps alive."""

    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value

    def __eq__(self, other: object) -> bool:
        return type(other) is _Identity and other.value is self.value

    def __hash__(self) -> int:
        return id(self.value)


class Reading:
    """A place that was read: ``find()`` gives its value, ``name`` says where it is."""

    __slots__ = ("find", "name", "noted", "value")

    def __init__(self, name: str, find: Callable[[], Any]) -> None:
        self.name, self.find = name, find
        self.value: Any = _MISSING
        self.noted: Any = None


class World:
    """What a function can read: made before it is captured, and asked before each replay whether it :meth:`holds`."""

    def __init__(self, *functions: Any) -> None:
        self.readings: list[Reading] = []
        self.functions: dict[int, types.FunctionType] = {}
        self.attributes: set[str] = set()
        self.modules: dict[int, Any] = {}
        self.objects: dict[int, Any] = {}
        self.arrays: set[int] = set()  # of arrays and tensors that were there before the step
        self._budget = 0
        self._places: dict[Any, Reading] = {}
        for function in functions:
            self._reach(function)
            self._place(id(function), getattr(function, "__name__", "the step"), functools.partial(_itself, function))
        self._explore()
        for reading in self.readings:
            self._note(reading)
        self.random = _random_state()
        self.version = -1
        self.seen: list[tuple[Any, dict[str, Any]]] = []

    # Which code and which objects

    def _reach(self, x: Any) -> None:
        """Functions, and objects with methods, whose code may run."""
        if isinstance(x, functools.partial):
            for part in (x.func, *x.args, *x.keywords.values()):
                self._reach(part)
        elif isinstance(x, types.MethodType):
            self._reach(x.__func__)
            self._reach(x.__self__)
        elif isinstance(x, types.FunctionType):
            if not _of_a_library(x) and id(x) not in self.functions:
                self.functions[id(x)] = x
                self.attributes |= _names(x.__code__)[2]
                for d in (*(x.__defaults__ or ()), *(x.__kwdefaults__ or {}).values()):
                    self._reach(d)
                if hasattr(x, "__wrapped__"):
                    self._reach(x.__wrapped__)
        elif _is_module(x):
            self.add_module(x)
        elif hasattr(x, "function") and type(x).__name__ == "JitFunction":
            self._reach(x.function)
        elif _plain_object(x) and id(x) not in self.objects and len(self.objects) < LIMIT:
            self.objects[id(x)] = x
            if callable(x):
                self._reach(type(x).__call__)

    def add_module(self, module: Any) -> None:
        """A layer takes part, with all that is below it."""
        for m in module.modules():
            if id(m) in self.modules:
                continue
            self.modules[id(m)] = m
            self.attributes |= _attributes_of(type(m))  # type: ignore[arg-type]
            for cls in type(m).__mro__:
                if not _of_a_library(cls):
                    for f in vars(cls).values():
                        if isinstance(f, types.FunctionType):
                            self._reach(f)
            for value in m.__dict__.values():
                if isinstance(value, (types.FunctionType, functools.partial)):
                    self._reach(value)
            hooks = m.__dict__.get("_hooks")
            for hook in hooks.functions() if hooks is not None else ():
                self._reach(hook)

    def _explore(self) -> None:
        """Follow functions to what they name, and objects to the attributes that some function reads, to the end."""
        before = (-1, -1, -1)
        while before != (now := (len(self.functions), len(self.objects), len(self.attributes))):
            before = now
            for f in list(self.functions.values()):
                self._places_of(f)
            for reading in self.readings:
                self._reach_values(reading.find())
            for x in list(self.objects.values()):
                for cls in type(x).__mro__:
                    for name, f in vars(cls).items():
                        if isinstance(f, types.FunctionType) and name in self.attributes:
                            self._reach(f)
                for _, value in self._attributes(x):
                    self._reach_values(value)

    def _reach_values(self, value: Any) -> None:
        if isinstance(value, (list, tuple, set, frozenset)) and len(value) <= LIMIT:
            for x in value:
                self._reach(x)
        elif isinstance(value, dict) and len(value) <= LIMIT:
            for x in value.values():
                self._reach(x)
        else:
            self._reach(value)

    def _places_of(self, f: types.FunctionType) -> None:
        read, free, _, _ = _names(f.__code__)
        for chain in read:
            if chain[0] in f.__globals__ and (len(chain) == 1 or self._follows(f.__globals__[chain[0]])):
                self._place((id(f.__globals__), chain), ".".join(chain), _finder(f.__globals__, chain))
        for name, cell in zip(f.__code__.co_freevars, f.__closure__ or ()):
            if name in free:
                self._place(id(cell), name, functools.partial(_cell_contents, cell))

    @staticmethod
    def _follows(value: Any) -> bool:
        """Are attributes of this global noted one by one? Those of a user's Python module are."""
        return isinstance(value, types.ModuleType) and not _is_installed(value.__name__)

    def _place(self, key: Any, name: str, find: Callable[[], Any]) -> None:
        if key not in self._places:
            self._places[key] = reading = Reading(name, find)
            self.readings.append(reading)

    def _attributes(self, x: Any) -> Iterator[tuple[str, Any]]:
        """The attributes of a user's object that some function reads."""
        for name, value in getattr(x, "__dict__", {}).items():
            if name in self.attributes:
                yield name, value
        for cls in type(x).__mro__[:-1]:
            for name in getattr(cls, "__slots__", ()):
                if name in self.attributes and hasattr(x, name):
                    yield name, getattr(x, name)

    # What their values were

    def _note(self, reading: Reading) -> Any:
        self._budget = LIMIT
        reading.value = reading.find()
        try:
            reading.noted = self._frozen(reading.value, set())
        except _TooMuch:
            raise CaptureError(
                f"jit: {reading.name!r}, which the step reads, holds more than {LIMIT} values that may change between "
                "calls: pass what the step needs as an argument, or make it a tuple or an array"
            ) from None
        return reading.noted

    def _frozen(self, x: Any, path: set[int]) -> Any:
        """Something to compare with what ``x`` is later."""
        if x is _MISSING or isinstance(x, _CONSTANTS):
            return x if isinstance(x, (str, bytes)) else _Identity(x)
        if isinstance(x, _NUMBERS):
            return type(x), repr(x) if isinstance(x, (float, complex)) else x
        if isinstance(x, (np.ndarray, Traced)):
            self.arrays.add(id(x))
            if isinstance(x, Traced):
                self.arrays.add(id(x.array))
            return _Identity(x)
        if isinstance(x, functools.partial):
            return _Identity(x.func), tuple(self._frozen(v, path) for v in (x.func, *x.args, *x.keywords.values()))
        if isinstance(x, types.FunctionType) or _is_module(x):
            return _Identity(x)
        if isinstance(x, types.MethodType):
            return _Identity(x.__func__), self._frozen(x.__self__, path)
        if isinstance(x, np.random.Generator):
            return "generator", repr(x.bit_generator.state)
        if isinstance(x, random.Random):
            return "generator", x.getstate()
        if id(x) in path:
            return _Identity(x)
        if type(x) is tuple and all(v is None or isinstance(v, (*_NUMBERS, str, bytes)) for v in x):
            return _Identity(x) if len(x) > 64 else (tuple, repr(x))
        if isinstance(x, (list, tuple, set, frozenset, dict)):
            self._spend(len(x))
            path = path | {id(x)}
            if isinstance(x, dict):
                return type(x), tuple([(self._frozen(k, path), self._frozen(v, path)) for k, v in x.items()])
            if isinstance(x, (set, frozenset)):
                return type(x), frozenset(self._frozen(v, path) for v in x)
            return type(x), tuple([self._frozen(v, path) for v in x])
        if _plain_object(x):
            path = path | {id(x)}
            found = [(name, self._frozen(value, path)) for name, value in self._attributes(x)]
            self._spend(len(found))
            return _Identity(x), tuple(found)
        return _Identity(x)

    def _spend(self, n: int) -> None:
        self._budget -= n
        if self._budget < 0:
            raise _TooMuch

    # Whether that has changed

    def settle(self, called: dict[int, Any], changed: list) -> None:
        """The step has been captured; it called the modules ``called``, and changed the arrays ``changed`` in place,
        of which it made tensors. Raises CaptureError if it changed what it also reads, or drew random numbers that a
        replay would not draw."""
        before = {id(r): r.noted for r in self.readings}
        for module in called.values():
            self.add_module(module)
        self._explore()
        if _random_state() != self.random:
            raise CaptureError(
                "jit: the step drew from the global random numbers of Python or NumPy; replays would repeat them. "
                "Use minidl's (minidl.rand, minidl.randn, ...), or draw outside and pass the numbers as arguments"
            )
        bound = {name for f in self.functions.values() for name in _names(f.__code__)[3]}
        kept = []
        for reading in self.readings:
            now = self._note(reading)
            then = before.get(id(reading), now)
            if now == then:
                kept.append(reading)
            elif reading.name in bound or (type(now) is tuple and now[0] == "generator"):
                raise CaptureError(
                    f"jit: the step changes {reading.name!r}, which it also reads; a replay does neither. Pass it "
                    "as an argument and return its new value"
                )
            # else it is a list, say, that the step appends to: what Python does is done at the capture only
        self._refuse_unknown(changed)
        self.quick = [r for r in kept if _compares_by_identity(r.value)]
        self.slow = [r for r in kept if not _compares_by_identity(r.value)]
        for m in self.modules.values():
            for name, value in m.__dict__.items():
                if name in self.attributes and not _of_a_library(type(m)) and not _compares_by_identity(value):
                    reading = Reading(f"{type(m).__name__}.{name}", functools.partial(m.__dict__.get, name))
                    self._note(reading)
                    self.slow.append(reading)
        self.seen = [(m, self._module_state(m)) for m in self.modules.values()]
        self.version = world.version

    def _refuse_unknown(self, changed: list) -> None:
        """An array that the step made with NumPy is another one at each run, one that was there before is the same."""
        known = set(self.arrays)
        for m in self.modules.values():
            known.update(id(v.array) for v in m.__dict__.values() if isinstance(v, Traced))
        for array in changed:
            if id(array) not in known:
                raise CaptureError(
                    f"jit: an array of shape {array.shape} that was made with NumPy in the step, or comes from an "
                    "unknown place, is changed in place; make it with minidl.zeros, minidl.tensor, ..."
                )

    def _module_state(self, module: Any) -> dict[str, Any]:
        self._budget = LIMIT
        path: set[int] = set()
        # a layer derived from one of minidl's may read its attributes by names that no code shows
        whole = any(_of_a_library(c) for c in type(module).__mro__ if c.__name__ not in ("Module", "object"))
        try:
            state = {
                name: value.state() if name == "_hooks" and value is not None else self._frozen(value, path)
                for name, value in module.__dict__.items()
                if isinstance(value, Traced) or _is_module(value) or whole or name in self.attributes
            }
            state["training"] = module.training  # also where only the class has it
            return state
        except _TooMuch:
            raise CaptureError(
                f"jit: an attribute of a {type(module).__name__} holds more than {LIMIT} values that may change "
                "between calls; make it a tuple, an array or a buffer"
            ) from None

    def holds(self) -> bool:
        """Is all that was read as it was?"""
        for r in self.quick:
            value = r.find()
            if value is not r.value and (_differ(value, r.value)):
                return False
        for r in self.slow:
            self._budget = LIMIT
            try:
                if self._frozen(r.find(), set()) != r.noted:
                    return False
            except _TooMuch:
                return False
        if world.version != self.version:
            version = world.version
            try:
                if any(self._module_state(m) != state for m, state in self.seen):
                    return False
            except CaptureError:
                return False
            self.version = version
        return True


class _TooMuch(Exception):
    pass


def _plain_object(x: Any) -> bool:
    """An object of a user's class, whose attributes tell what it is. (Of a class derived from one of minidl's, such as
    an optimizer, it is minidl that knows what to look at.)"""
    if isinstance(x, (type, types.ModuleType, Traced, np.ndarray)):
        return False
    return not any(_of_a_library(c) and c not in _PYTHONS for c in type(x).__mro__)


def _compares_by_identity(x: Any) -> bool:
    return isinstance(x, (*_CONSTANTS, *_NUMBERS, np.ndarray, Traced, types.FunctionType)) or (
        not isinstance(
            x,
            (
                list,
                tuple,
                set,
                frozenset,
                dict,
                types.MethodType,
                functools.partial,
                np.random.Generator,
                random.Random,
            ),
        )
        and not _plain_object(x)
    )


def _differ(a: Any, b: Any) -> bool:
    """Do two values that are not one object differ? Numbers and strings may be equal all the same."""
    if type(a) is not type(b):
        return True
    if isinstance(a, (float, complex)):
        return repr(a) != repr(b)
    return a != b if isinstance(a, (int, str, bytes, np.dtype)) else True


def _finder(table: dict[str, Any], chain: tuple[str, ...]) -> Callable[[], Any]:
    def find() -> Any:
        value = table.get(chain[0], _MISSING)
        for name in chain[1:]:
            value = getattr(value, name, _MISSING)
        return value

    return functools.partial(table.get, chain[0], _MISSING) if len(chain) == 1 else find


def _itself(x: Any) -> Any:
    return x


def _cell_contents(cell: types.CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:
        return _MISSING


@functools.cache
def _attributes_of(cls: type) -> frozenset[str]:
    """The attributes that a layer's own methods read, those of minidl's classes included."""
    found: set[str] = set()
    for c in cls.__mro__:
        for f in vars(c).values():
            if isinstance(f, types.FunctionType):
                found |= _names(f.__code__)[2]
    return frozenset(found)


def _random_state() -> Any:
    state: Any = np.random.get_state(legacy=False)
    return random.getstate(), state["state"]["pos"], state["state"]["key"].tobytes()
