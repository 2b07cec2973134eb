"""Handles to take hooks of tensors and modules away again."""

from __future__ import annotations

from typing import Any

from minidl.core.trace import world


class HookHandle:
    """Takes a hook away again: ``handle.remove()``, or at the end of ``with handle:``."""

    def __init__(self, hooks: dict) -> None:
        self._hooks = hooks

    def remove(self) -> None:
        self._hooks.pop(self, None)
        world.version += 1

    def __enter__(self) -> HookHandle:
        return self

    def __exit__(self, *exc: Any) -> None:
        self.remove()
