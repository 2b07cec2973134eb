"""Structures of tensors: nested tuples, lists, dicts, named tuples and dataclasses, taken apart and rebuilt.

A structure is a tree (a *pytree*, as JAX calls it) whose leaves are Tensors and NumPy arrays. What is neither a leaf
nor a structure is *static*: a number, a string, a dtype, a module. Two static values are the same if their types and
their bits are: ``2`` is not ``2.0``, ``1`` not ``True``, ``0.0`` not ``-0.0``.
"""

from __future__ import annotations

import collections
import dataclasses
import enum
import types
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from minidl.core.graph import Traced

_LEAF = "leaf"
_SIMPLE = (type(None), bool, int, str, bytes, type(Ellipsis), type(NotImplemented), range)
#: of the user's types, each with what takes it apart and what rebuilds it
_registered: dict[type, tuple[Callable[[Any], tuple[Any, Any]], Callable[[Any, Any], Any]]] = {}


def register_pytree(cls: type, flatten: Callable[[Any], tuple[Any, Any]], unflatten: Callable[[Any, Any], Any]) -> type:
    """Let ``minidl.jit`` take and return objects of ``cls``.

    ``flatten(x)`` returns (children, rest): what holds tensors, as a tuple, and what else the object is made of, which
    must be hashable; ``unflatten(rest, children)`` makes the object again. Returns ``cls``. Named tuples and
    dataclasses need no registration.

    >>> from minidl.core.tree import register_pytree
    >>> class Pair:
    ...     def __init__(self, a, b):
    ...         self.a, self.b = a, b
    >>> _ = register_pytree(Pair, lambda p: ((p.a, p.b), None), lambda rest, children: Pair(*children))
    """
    _registered[cls] = flatten, unflatten
    return cls


def flatten(tree: Any, leaves: list, where: str, static: Callable[[Any], bool]) -> Any:
    """Put the leaves of ``tree`` into the list ``leaves``; returns its structure, which is hashable.

    Objects of which ``static`` says so are told apart by their identity. Raises TypeError, beginning with ``where``,
    for an object of a type that is not known.
    """
    kind = type(tree)
    if isinstance(tree, (Traced, np.ndarray)):
        if isinstance(tree, Traced) and hasattr(kind, "_is_parameter"):
            return kind, _Same(tree)
        leaves.append(tree)
        return _LEAF
    if kind in _SIMPLE:
        return kind, tree
    if kind is tuple or kind is list:
        return kind, tuple([flatten(x, leaves, where, static) for x in tree])
    if kind is float or kind is complex:
        return kind, repr(tree)  # tells 0.0 from -0.0, and finds NaN equal to itself
    if kind is dict or kind is collections.OrderedDict:
        keys = tuple((type(k), k) for k in tree)
        return kind, keys, tuple([flatten(x, leaves, where, static) for x in tree.values()])
    if kind in _registered:
        children, rest = _registered[kind][0](tree)
        return kind, rest, tuple([flatten(x, leaves, where, static) for x in children])
    if isinstance(tree, tuple) and hasattr(kind, "_fields"):
        return kind, tuple([flatten(x, leaves, where, static) for x in tree])
    if kind is slice:
        return kind, tuple([flatten(x, leaves, where, static) for x in (tree.start, tree.stop, tree.step)])
    if isinstance(tree, np.generic):
        return kind, tree.dtype.str, tree.tobytes()
    if isinstance(tree, (enum.Enum, np.dtype, type, types.FunctionType, types.BuiltinFunctionType)):
        return kind, _Same(tree)
    if dataclasses.is_dataclass(tree) and not isinstance(tree, type):
        values = [getattr(tree, f.name) for f in dataclasses.fields(tree)]
        return kind, tuple([flatten(x, leaves, where, static) for x in values])
    if static(tree):
        return kind, _Same(tree)
    known = "numbers, strings, tuples, lists, dicts, named tuples, dataclasses and modules"
    hint = "a set has no order; pass a list" if isinstance(tree, (set, frozenset)) else "minidl.jit.register_pytree"
    raise TypeError(
        f"{where}: a {kind.__name__} is neither a tensor nor a hashable or registered structure ({known}); see {hint}"
    )


class _Same:
    """Equal to another one of the same object."""

    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value

    def __eq__(self, other: object) -> bool:
        return type(other) is _Same and (
            other.value is self.value or (isinstance(self.value, np.dtype) and other.value == self.value)
        )

    def __hash__(self) -> int:
        return hash(self.value) if isinstance(self.value, np.dtype) else id(self.value)


def unflatten(structure: Any, leaves: Iterator[Any]) -> Any:
    """The reverse of :func:`flatten`: an object of the same types on other leaves."""
    if structure == _LEAF:
        return next(leaves)
    kind, *content = structure
    if kind in _SIMPLE:
        return content[0]
    if kind is tuple or kind is list:
        return kind([unflatten(s, leaves) for s in content[0]])
    if kind is float or kind is complex:
        return kind(content[0])
    if kind is dict or kind is collections.OrderedDict:
        return kind((k, unflatten(s, leaves)) for (_, k), s in zip(*content))
    if kind in _registered:
        return _registered[kind][1](content[0], tuple([unflatten(s, leaves) for s in content[1]]))
    if type(content[0]) is _Same:
        return content[0].value
    if issubclass(kind, tuple):
        return kind._make([unflatten(s, leaves) for s in content[0]])
    if kind is slice:
        return slice(*[unflatten(s, leaves) for s in content[0]])
    if issubclass(kind, np.generic):
        return np.frombuffer(content[1], content[0])[0]
    new = object.__new__(kind)
    for field, s in zip(dataclasses.fields(kind), content[0]):
        object.__setattr__(new, field.name, unflatten(s, leaves))
    return new
