"""The decorator and its cache of programs."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from minidl.core.context import current
from minidl.core.registry import get_backend
from minidl.core.tensor import Tensor, as_tensor
from minidl.jit.capture import capture
from minidl.jit.interpreter import Interpreter
from minidl.jit.passes import simplify
from minidl.jit.program import Program


def flatten(tree: Any, leaves: list) -> Any:
    """Put the Tensors and arrays of nested tuples, lists and dicts into ``leaves``; returns the structure."""
    if isinstance(tree, (Tensor, np.ndarray)):
        leaves.append(tree if isinstance(tree, Tensor) else as_tensor(tree))
        return "leaf"
    if isinstance(tree, (tuple, list)):
        return type(tree).__name__, tuple(flatten(x, leaves) for x in tree)
    if isinstance(tree, dict):
        return "dict", tuple((k, flatten(v, leaves)) for k, v in tree.items())
    return "static", tree


def unflatten(structure: Any, leaves: Any) -> Any:
    """The reverse of :func:`flatten`, with ``leaves`` an iterator."""
    if structure == "leaf":
        return next(leaves)
    kind, content = structure
    if kind == "dict":
        return {k: unflatten(v, leaves) for k, v in content}
    if kind in ("tuple", "list"):
        items = [unflatten(s, leaves) for s in content]
        return tuple(items) if kind == "tuple" else items
    return content


#: programs kept for one set of shapes, where modes or constants change between calls
VARIANTS = 8


class JitFunction:
    """A step with its captured programs, one per shapes and dtypes of the arguments and per modes of the modules.

    ``programs`` lists the captured :class:`~minidl.jit.program.Program` objects; print one to see it.
    """

    __name__: str  # the step's

    def __init__(self, function: Callable[..., Any]) -> None:
        functools.update_wrapper(self, function)
        self.function = function
        self._cache: dict[Any, list[tuple]] = {}

    @property
    def programs(self) -> list[Program]:
        return [entry[0] for entries in self._cache.values() for entry in entries]

    def clear(self) -> None:
        """Forget all programs."""
        self._cache.clear()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        leaves: list[Tensor] = []
        structure = flatten((args, kwargs), leaves)
        backend = get_backend()
        key = (
            structure,
            tuple((t.shape, t.dtype.str, t.requires_grad) for t in leaves),
            current().recording,
            backend.name,
        )
        try:
            entries = self._cache.setdefault(key, [])
        except TypeError:
            raise TypeError(
                f"jit: the arguments of {self.__name__} that are no tensors must be hashable, they are part of what is "
                "captured"
            ) from None
        for entry in entries:
            if entry[0].holds():
                break
        else:
            return self._capture(entries, structure, leaves, backend)
        _, result_structure, run = entry
        outs = run([t.array for t in leaves])
        return unflatten(result_structure, iter([Tensor._from_node(o, None) for o in outs]))

    def _capture(self, entries: list, structure: Any, leaves: list[Tensor], backend: Any) -> Any:
        found: dict[str, Any] = {}

        def run() -> list[Tensor]:
            args, kwargs = unflatten(structure, iter(leaves))
            results: list[Tensor] = []
            found["value"] = self.function(*args, **kwargs)
            found["structure"] = flatten(found["value"], results)
            return results

        program, results = capture(run, leaves)
        program = simplify(program)
        compiled = backend.compile(program) or Interpreter(program)
        entries.insert(0, (program, found["structure"], compiled))
        del entries[VARIANTS:]
        return unflatten(found["structure"], iter([t.detach() for t in results]))


def jit(function: Callable[..., Any]) -> JitFunction:
    """Capture ``function``, a whole training step or any function of tensors, at its first call and replay it after.

    The step may use models, losses, ``backward()`` and optimizers as usual::

        @minidl.jit
        def step(x, y):
            optimizer.zero_grad()
            loss = criterion(model(x), y)
            loss.backward()
            optimizer.step()
            return loss

    A program is captured per shapes and dtypes of the tensors among the arguments and per value of the others; also
    anew when a module was switched between ``train()`` and ``eval()`` or an option of the optimizer other than ``lr``
    changed. Learning rates, step counts and random numbers stay live.

    What is captured is what *ran*: Python side effects (prints, appends) happen at capture only, and a branch is taken
    for good. Asking for a value (``item()``, ``bool()``, ``numpy()``) or giving a tensor's array to NumPy inside raises
    :class:`~minidl.jit.capture.CaptureError`. Results come without a graph. ``.grad`` is not kept up to date by
    replays: return a gradient to see it.
    """
    return JitFunction(function)
