"""Which function computes which ONNX operator, from which opset on.

An operator is a function: its positional parameters are the operator's inputs (``None`` where an optional one is
missing), its keyword-only ones the attributes with their defaults, by ONNX's names::

    @operator("Gemm")
    def gemm(a, b, c=None, *, alpha=1.0, beta=1.0, transA=0, transB=0):
        ...

Three further keyword-only names are filled in where a function has them: ``opset`` (the version of the operator set),
``outputs`` (how many outputs the node has) and, for the attributes that are graphs, a function that runs the graph. A
function returns its output, or a tuple of all of them.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np

from minidl.core.tensor import Tensor

Values = Tensor | np.ndarray | list | None
#: what "ai.onnx" and "" both mean
STANDARD = ""


class Operator:
    """A function with what the reader has to know of it.

    ``host`` names the inputs that are needed as NumPy arrays (shapes, axes, sizes), ``state`` those that are not
    learned although they are floating-point weights (running statistics, scales of quantization). ``random`` operators
    give other values at each call.
    """

    def __init__(
        self, function: Callable[..., Any], host: frozenset[str], state: frozenset[str], random: bool = False
    ) -> None:
        self.function = function
        parameters = inspect.signature(function).parameters.values()
        self.variadic = any(p.kind is p.VAR_POSITIONAL for p in parameters)
        self.inputs = [p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.VAR_POSITIONAL)]
        self.required = sum(p.kind is p.POSITIONAL_OR_KEYWORD and p.default is p.empty for p in parameters)
        self.attributes = {p.name for p in parameters if p.kind is p.KEYWORD_ONLY}
        self.host, self.state, self.random = host, state, random

    def name_of(self, i: int) -> str:
        """The name of the i-th input."""
        return self.inputs[min(i, len(self.inputs) - 1)] if self.inputs else ""


#: (domain, name) -> [(first opset, operator), ...], rising
_operators: dict[tuple[str, str], list[tuple[int, Operator]]] = {}


def operator(
    *names: str, since: int = 1, host: str = "", state: str = "", random: bool = False, domain: str = STANDARD
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Decorator: the function computes these operators from opset ``since`` on, until a later one takes over.

    ``host`` and ``state`` are names of inputs, separated by spaces; see :class:`Operator` for them and ``random``. Use
    it for operators of your own ``domain``, too.
    """

    def register(function: Callable[..., Any]) -> Callable[..., Any]:
        made = Operator(function, frozenset(host.split()), frozenset(state.split()), random)
        for name in names:
            versions = _operators.setdefault((domain, name), [])
            versions[:] = sorted([v for v in versions if v[0] != since] + [(since, made)], key=lambda v: v[0])
        return function

    return register


def find(domain: str, name: str, opset: int) -> Operator | None:
    """The operator that computes ``name`` in version ``opset`` of the operator set ``domain``."""
    found = [made for since, made in _operators.get((domain, name), ()) if since <= opset]
    return found[-1] if found else None


def supported() -> list[tuple[str, str]]:
    """(domain, name) of all operators there are."""
    return sorted(_operators)
