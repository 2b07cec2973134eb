"""Containers: modules and parameters in a row, a list or a dictionary."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from minidl.nn.module import Module, Parameter


class _Row(Module):
    """What Sequential, ModuleList and ParameterList share: attributes of one kind, numbered ``"0"``, ``"1"``, …"""

    _kind: type = Module

    def _items(self) -> list:
        kind = self._kind
        return [v for v in self.__dict__.values() if isinstance(v, kind)]

    def __len__(self) -> int:
        return len(self._items())

    def __iter__(self) -> Iterator[Any]:
        return iter(self._items())

    def __getitem__(self, index: int | slice) -> Any:
        if isinstance(index, slice):
            kind: Any = type(self)
            return kind(self._items()[index])
        return self._items()[index]

    def _names(self) -> list[str]:
        return [k for k, v in self.__dict__.items() if isinstance(v, self._kind)]

    def __setitem__(self, index: int, value: Any) -> None:
        self._check(value)
        setattr(self, self._names()[index], value)

    def __delitem__(self, index: int) -> None:
        items = self._items()
        del items[index]
        for name in self._names():
            delattr(self, name)
        self.extend(items)

    def _check(self, value: Any) -> None:
        if not isinstance(value, self._kind):
            raise TypeError(f"{type(self).__name__}: expected a {self._kind.__name__}, got {type(value).__name__}")

    def append(self, value: Any) -> Any:
        """Add one at the end; returns the container."""
        self._check(value)
        setattr(self, str(len(self)), value)
        return self

    def extend(self, values: Iterable[Any]) -> Any:
        """Add several at the end; returns the container."""
        for value in values:
            self.append(value)
        return self

    def insert(self, index: int, value: Any) -> Any:
        """Insert one before position ``index``; returns the container."""
        self._check(value)
        items = self._items()
        items.insert(index, value)
        for name in self._names():
            delattr(self, name)
        return self.extend(items)


class Sequential(_Row):
    """Modules applied one after another: ``Sequential(Linear(4, 8), ReLU(), Linear(8, 2))``.

    Also takes one list of modules, or one dictionary of name to module.

    >>> from minidl import nn
    >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    >>> [name for name, _ in model.named_parameters()]
    ['0.weight', '0.bias', '2.weight', '2.bias']
    >>> model[1]
    ReLU()
    """

    def __init__(self, *layers: Any) -> None:
        super().__init__()
        if len(layers) == 1 and isinstance(layers[0], Mapping):
            for name, layer in layers[0].items():
                self._check(layer)
                self.add_module(name, layer)
        else:
            self.extend(layers[0] if len(layers) == 1 and isinstance(layers[0], (list, tuple)) else layers)

    def forward(self, x: Any) -> Any:
        for layer in self._items():
            x = layer(x)
        return x


class ModuleList(_Row):
    """A list of modules; the parameters of all of them belong to the module that holds it."""

    def __init__(self, modules: Iterable[Module] = ()) -> None:
        super().__init__()
        self.extend(modules)


class ParameterList(_Row):
    """A list of parameters that belong to the module that holds it; arrays and Tensors become Parameters."""

    _kind = Parameter

    def __init__(self, parameters: Iterable[Any] = ()) -> None:
        super().__init__()
        self.extend(parameters)

    def append(self, value: Any) -> ParameterList:
        return super().append(value if isinstance(value, Parameter) else Parameter(value))

    def extra_repr(self) -> str:
        return ", ".join(f"({i}): {p.dtype}{list(p.shape)}" for i, p in enumerate(self))


class ModuleDict(Module):
    """A dictionary of modules; the parameters of all of them belong to the module that holds it.

    Keys are strings without dots.
    """

    def __init__(self, modules: Mapping[str, Module] | Iterable[tuple[str, Module]] = ()) -> None:
        super().__init__()
        self.update(modules)

    def __getitem__(self, key: str) -> Module:
        found = self.__dict__.get(key)
        if not isinstance(found, Module):
            raise KeyError(key)
        return found

    def __setitem__(self, key: str, module: Module) -> None:
        if not isinstance(module, Module):
            raise TypeError(f"ModuleDict[{key!r}]: expected a Module, got {type(module).__name__}")
        self.add_module(key, module)

    def __delitem__(self, key: str) -> None:
        self[key]  # KeyError if there is none
        delattr(self, key)

    def __len__(self) -> int:
        return len(self.keys())

    def __iter__(self) -> Iterator[str]:
        return iter(self.keys())

    def __contains__(self, key: str) -> bool:
        return isinstance(self.__dict__.get(key), Module)

    def keys(self) -> list[str]:
        return [name for name, _ in self.named_children()]

    def values(self) -> list[Module]:
        return list(self.children())

    def items(self) -> list[tuple[str, Module]]:
        return list(self.named_children())

    def pop(self, key: str) -> Module:
        """Remove a module and return it."""
        module = self[key]
        delattr(self, key)
        return module

    def update(self, modules: Mapping[str, Module] | Iterable[tuple[str, Module]]) -> None:
        """Add or replace several."""
        for key, module in modules.items() if isinstance(modules, Mapping) else modules:
            self[key] = module
