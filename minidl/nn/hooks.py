"""A module's hooks, and calling the module with them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from minidl.core.hooks import HookHandle
from minidl.core.primitive import primitive
from minidl.core.tensor import Tensor, as_tensor
from minidl.core.trace import world


class Hooks:
    """The hooks of one module, by kind, with the handles given out as keys. ``run`` calls the module with them."""

    def __init__(self) -> None:
        self.pre: dict[HookHandle, tuple[Callable, bool]] = {}
        self.forward: dict[HookHandle, tuple[Callable, bool]] = {}
        self.backward: dict[HookHandle, Callable] = {}

    def add(self, kind: str, hook: Any) -> HookHandle:
        """Add a hook of one kind: ``"pre"``, ``"forward"`` or ``"backward"``."""
        hooks = getattr(self, kind)
        handle = HookHandle(hooks)
        hooks[handle] = hook
        world.version += 1
        return handle

    def functions(self) -> list[Callable]:
        """All hooks, in the order of their kinds."""
        plain = [f for f, _ in (*self.pre.values(), *self.forward.values())]
        return [*plain, *self.backward.values()]

    def state(self) -> tuple:
        """Which hooks there are: the same as long as none is added or removed."""
        return tuple(tuple(map(id, hooks)) for hooks in (self.pre, self.forward, self.backward))

    def run(self, module: Any, args: tuple, kwargs: dict[str, Any]) -> Any:
        """``module.forward(*args, **kwargs)`` with the hooks before, around and after it."""
        for hook, with_kwargs in list(self.pre.values()):
            if with_kwargs:
                result = hook(module, args, kwargs)
                if result is not None:
                    args, kwargs = result
            else:
                result = hook(module, args)
                if result is not None:
                    args = result if isinstance(result, tuple) else (result,)
        if self.backward:
            output = _between_hook_points(module, list(self.backward.values()), args, kwargs)
        else:
            output = module.forward(*args, **kwargs)
        for hook, with_kwargs in list(self.forward.values()):
            result = hook(module, args, kwargs, output) if with_kwargs else hook(module, args, output)
            if result is not None:
                output = result
        return output


@primitive(name="hook_point")
def _hook_point(*xs: Any, callback: Callable[..., Any]) -> tuple:
    """The inputs, unchanged. In the backward pass ``callback`` sees their gradients together and may replace them."""
    return tuple(x.view() if type(x) is np.ndarray else x for x in xs)


@_hook_point.defvjp_all
def _hook_point_grad(g: Any, needs: Any, callback: Callable[..., Any]) -> Any:
    tensors = tuple(x if isinstance(x, Tensor) else as_tensor(x) for x in g)
    replaced = callback(tensors)
    if replaced is None:
        return g
    return [r if r is None or isinstance(g[0], Tensor) else getattr(r, "array", r) for r in replaced]


def _recorded(x: Any) -> bool:
    return isinstance(x, Tensor) and x.requires_grad


def _between_hook_points(module: Any, hooks: list[Callable], args: tuple, kwargs: dict[str, Any]) -> Any:
    """Run ``forward`` between two hook points: one sees the gradients of the outputs, the other of the inputs."""
    watched = [i for i, a in enumerate(args) if _recorded(a)]
    grad_output: tuple = ()

    def run(grad_input: tuple) -> tuple:
        for hook in hooks:
            replaced = hook(module, grad_input, grad_output)
            if replaced is not None:
                grad_input = replaced if isinstance(replaced, tuple) else (replaced,)
        return grad_input

    def at_output(g: tuple) -> None:
        nonlocal grad_output
        found = iter(g)
        grad_output = tuple(next(found) if _recorded(o) else None for o in outputs)
        if not watched:
            run((None,) * len(args))

    def at_input(g: tuple) -> list:
        found = dict(zip(watched, g))
        replaced = run(tuple(found.get(i) for i in range(len(args))))
        return [replaced[i] for i in watched]

    if watched:
        points = iter(_hook_point(*(args[i] for i in watched), callback=at_input))
        args = tuple(next(points) if i in watched else a for i, a in enumerate(args))
    output = module.forward(*args, **kwargs)
    outputs = output if isinstance(output, (tuple, list)) else (output,)
    if not any(map(_recorded, outputs)):
        return output
    points = iter(_hook_point(*filter(_recorded, outputs), callback=at_output))
    passed = [next(points) if _recorded(o) else o for o in outputs]
    if not isinstance(output, (tuple, list)):
        return passed[0]
    return output._make(passed) if hasattr(output, "_make") else type(output)(passed)
