"""What activations, losses and pooling layers share: they call one function with their settings."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

from minidl.nn.module import Module


class FunctionLayer(Module):
    """Calls ``_function(*inputs, **settings)``, where settings are attributes, read at each call."""

    _function: ClassVar[Callable[..., Any]]

    def __init__(self, **settings: Any) -> None:
        super().__init__()
        self._settings: tuple[str, ...] = ()
        for name, value in settings.items():
            self.add_setting(name, value)

    def add_setting(self, name: str, value: Any) -> None:
        """One more setting, kept as an attribute."""
        self._settings += (name,)
        setattr(self, name, value)

    def settings(self) -> dict[str, Any]:
        """The settings by name, as they are now."""
        return {name: getattr(self, name) for name in self._settings}

    def forward(self, *inputs: Any) -> Any:
        return type(self)._function(*inputs, **self.settings())

    def extra_repr(self) -> str:
        return ", ".join(f"{name}={value!r}" for name, value in self.settings().items() if value is not None)
