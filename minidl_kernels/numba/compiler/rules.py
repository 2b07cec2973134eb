"""What a primitive's author may tell the compiler beyond the declared properties: registries by primitive name.

The compiler itself knows no primitive. What it needs to know of one is registered by the module that knows it, ours
(:mod:`minidl_kernels.numba.kernels`) or anybody's:

:func:`expression`
    one element of the output as a text, where that is better than what the formula says (a polynomial in place of
    a division by an exponential); without it, an elementwise primitive's text is taken from its formula,
:func:`rewrite`
    the same thing as other steps, of which some can be fused with their neighbours,
:func:`view`
    how to have a view where the formula makes a copy,
:func:`lowering`
    a call on the tape rather than from Python,
:func:`joint`
    one call in place of many calls of a kernel.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

EXPRESSIONS: dict[str, Callable[..., str | None]] = {}
REWRITES: dict[str, Callable[..., Any]] = {}
VIEWS: dict[str, Callable[..., Any]] = {}
LOWERINGS: dict[str, Callable[..., bool]] = {}
JOINTS: dict[Callable[..., Any], Callable[..., Any]] = {}


def expression(primitive: str, text: str | None = None) -> Any:
    """Register a text over the inputs ``{0}``, ``{1}`` … for inputs of one dtype, float32 or float64, and an output of
    the same. It must give the formula's values.

    In the text, ``{zero}`` and ``{one}`` are numbers of that dtype and ``{bits}`` is 32 or 64; it may use Python's
    operators and conditional, ``np``, ``math`` and ``vecmath`` (:mod:`minidl_kernels.numba.simd.vecmath`). Without
    ``text``, a decorator for a function of the dtype character and the static parameters (by keyword) that returns
    one, or None where it has none.
    """
    if text is None:
        return _adder(EXPRESSIONS, primitive)
    EXPRESSIONS[primitive] = lambda char, **params: text
    return None


def rewrite(primitive: str) -> Any:
    """Decorator: ``function(graph, *inputs, **params)`` replaces a step by those that it makes with ``graph.step``
    (:class:`~.lower.Graph`). It returns the Value with the result, made by the last of them; or None, having made
    none, to leave the step as it is."""
    return _adder(REWRITES, primitive)


def view(primitive: str) -> Any:
    """Decorator: ``function(x, **params)`` returns what the formula does as a view of the array ``x`` (or a tuple of
    views)."""
    return _adder(VIEWS, primitive)


def lowering(primitive: str) -> Any:
    """Decorator: ``function(binder, inputs, outs, **params)`` puts the step on ``binder`` (:class:`~.bind.Binder`),
    given the arrays to read and to write, or returns False, having put nothing there."""
    return _adder(LOWERINGS, primitive)


def joint(kernel: Callable[..., Any]) -> Any:
    """Decorator: ``function(updates, params)`` returns ``f(*numbers)`` that does at once what the calls of ``kernel``
    would do one by one. ``updates`` has the arrays of each call, all of one dtype and number; ``numbers`` are the other
    inputs. The kernel writes to arrays that it is given, and to no others."""

    def add(function: Callable[..., Any]) -> Callable[..., Any]:
        JOINTS[kernel] = function
        return function

    return add


def _adder(registry: dict[str, Any], primitive: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    def add(function: Callable[..., Any]) -> Callable[..., Any]:
        registry[primitive] = function
        return function

    return add
