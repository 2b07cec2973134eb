"""What a primitive is: a name, a formula (its reference), and a gradient (vector-Jacobian product) rule.

A primitive is declared once, reference and gradient side by side::

    @primitive(promote="same")
    def mul(x, y):
        return x * y

    mul.defvjp(
        x=lambda g, y, x_shape: sum_to(g * y, x_shape),
        y=lambda g, x, y_shape: sum_to(g * x, y_shape),
    )

The positional parameters of the reference are its array inputs, the keyword-only ones its static parameters. A
gradient rule is a function whose parameter *names* say what it needs kept for the backward pass:

``g``
    the gradient of the loss with respect to the output (a tuple for a primitive with several outputs),
an input's name
    the value of that input,
``<input>_shape``
    only its shape (so that the value need not be kept),
``out``
    the primitive's output,
a static parameter's name
    its value,
``needs``
    (joint rules) one bool per input: is its gradient wanted?

Declared **properties** say what compilers may rely on (see :func:`primitive`): they ask for those, never for names.

Rules are written with primitives and operators, so they run on plain arrays (an ordinary ``backward()``) and on
Tensors (``create_graph=True``) alike.
"""

from __future__ import annotations

import contextvars
import functools
import inspect
import threading
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from minidl.core import dispatch
from minidl.core.graph import Traced
from minidl.core.registry import primitives
from minidl.core.spelling import spelled, stored


class Rule:
    """A gradient rule with the list of things it wants: (kind, key) in the order of its parameters."""

    __slots__ = ("function", "wants")

    def __init__(self, prim: Primitive, function: Callable[..., Any]) -> None:
        self.function = function
        self.wants = [prim.classify(name, function) for name in inspect.signature(function).parameters]


class Primitive:
    """A named pure function on arrays. Call it with arrays, Tensors and Python scalars; see the module docstring."""

    def __init__(
        self,
        reference: Callable[..., Any],
        name: str,
        *,
        promote: str | None = None,
        differentiable: bool = True,
        donated: tuple[str, ...] = (),
        elementwise: bool = False,
        view: bool = False,
        identity: bool | str = False,
        reduces: str | None = None,
        linear_in: tuple[str, ...] = (),
        random: bool = False,
        composite: bool = False,
        order: tuple[str, ...] | None = None,
        also: Mapping[str, Callable[..., Any]] | None = None,
        half: bool | tuple[int, ...] | None = None,
        dynamic: bool | Callable[[Any, dict], bool] = False,
    ) -> None:
        self.name = name
        self.reference = reference
        self.promote = promote
        self.differentiable = differentiable
        self.donated = donated
        self.elementwise = elementwise
        self.view = view
        self.identity = identity
        self.reduces = reduces
        self.linear_in = linear_in
        self.random = random
        self.composite = composite
        self.order = order
        self.also = dict(also or {})
        self.dynamic = dynamic
        self.half = not (view or identity) if half is None else half
        self.__doc__ = reference.__doc__
        self.__name__ = self.name
        self.__module__ = reference.__module__
        self.__wrapped__ = reference
        self.__signature__ = inspect.signature(reference)
        kinds = self.__signature__.parameters.values()
        self.inputs = [p.name for p in kinds if p.kind is p.POSITIONAL_OR_KEYWORD]
        self.variadic = next((p.name for p in kinds if p.kind is p.VAR_POSITIONAL), None)
        self.defaults = {p.name: p.default for p in kinds if p.kind is p.KEYWORD_ONLY}
        self.params = list(self.defaults)
        self.rules: dict[int, Rule] = {}
        self.joint: Rule | None = None
        self.plans: dict[Any, tuple[tuple[int, ...], bool, bool]] = {}

    def __repr__(self) -> str:
        return f"<primitive {self.name}{self.__signature__}>"

    def __call__(self, *args: Any, **params: Any) -> Any:
        if params and not params.keys() <= self.defaults.keys():
            return self._call_by_names(args, spelled(self.__signature__.parameters, params))
        if self.variadic and args and type(args[0]) in (list, tuple) and not self.inputs:
            args = (*args[0], *self._surplus(args[1:], params, 0))
        elif not self.variadic and len(args) != len(self.inputs):
            args = self._bind(args, params)
        if len(args) == 1 and isinstance(args[0], Traced) and not self.variadic:
            return dispatch.unary(self, args[0], params)
        for a in args:
            if isinstance(a, Traced):
                return dispatch.apply(self, args, params)
        return dispatch.run(self, args if self.promote is None else dispatch.promote(self, args), params)

    def _call_by_names(self, args: tuple, params: dict) -> Any:
        """A call with inputs given by name, or with keywords of PyTorch's that are no parameters of the formula."""
        if "out" in params:
            return stored(params.pop("out"), lambda: self(*args, **params))
        if self.variadic and self.variadic in params:
            args = (*args, *params.pop(self.variadic))
        elif any(name in params for name in self.inputs):
            args = self._bind(args, params)
        for keyword, serve in self.also.items():
            if keyword in params:
                value = params.pop(keyword)
                return serve(self, self._bind(args, params), params, value)
        if unknown := params.keys() - self.defaults.keys():
            known = [*self.__signature__.parameters, *self.also, "out"]
            raise TypeError(f"{self.name}: no argument is called {min(unknown)!r}; it takes {', '.join(known)}")
        return self(*args, **params)

    def _surplus(self, extra: tuple, params: dict, start: int) -> tuple:
        if len(extra) > len(self.params) - start:
            raise TypeError(f"{self.name}{self.__signature__}: too many positional arguments")
        for name, value in zip(self.params[start:], extra):
            params[name] = value
        return ()

    def _bind(self, args: tuple, params: dict) -> tuple:
        """The inputs, where some are given by name or left out, or static parameters follow them by position; these
        are put into ``params``."""
        names = self.order or (*self.inputs, *self.params)
        if len(args) > len(names):
            raise TypeError(f"{self.name}{self.__signature__}: too many positional arguments")
        for name, value in zip(names, args):
            if name in params:
                raise TypeError(f"{self.name}{self.__signature__}: got {name!r} twice")
            params[name] = value
        bound = []
        for name in self.inputs:
            default = self.__signature__.parameters[name].default
            if name not in params and default is inspect.Parameter.empty:
                raise TypeError(f"{self.name}{self.__signature__}: missing input {name!r}")
            bound.append(params.pop(name, default))
        return tuple(bound)

    def defvjp(self, **rules: Callable[..., Any]) -> None:
        """Give one gradient rule per input, by name."""
        for name, function in rules.items():
            self.rules[self.inputs.index(name)] = Rule(self, function)

    def defvjp_all(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Give one rule that returns the gradients of all inputs (``None`` where not needed). Usable as decorator."""
        self.joint = Rule(self, function)
        return function

    def classify(self, name: str, function: Callable[..., Any]) -> tuple[str, Any]:
        if name in ("g", "out", "needs"):
            return name, None
        if name in self.inputs:
            return "input", self.inputs.index(name)
        if name == self.variadic:
            return "inputs", len(self.inputs)
        if name in self.params:
            return "param", name
        if name.endswith("_shape") and name[:-6] in self.inputs:
            return "shape", self.inputs.index(name[:-6])
        if name.endswith("_shapes") and name[:-7] == self.variadic:
            return "shapes", len(self.inputs)
        raise TypeError(
            f"gradient rule of {self.name} at {function.__code__.co_filename}:{function.__code__.co_firstlineno} "
            f"asks for {name!r}; it may ask for g, out, needs, {self.inputs}, their *_shape, and {self.params}"
        )

    def plan(self, needs: int, count: int) -> tuple[tuple[int, ...], bool, bool]:
        """What a node must keep when the inputs in the bit mask ``needs`` want gradients.

        Returns (indices of the inputs whose values are kept, keep shapes?, keep the output?); ``count`` is the number
        of inputs in this call.
        """
        key = needs if self.variadic is None else (needs, count)
        found = self.plans.get(key)
        if found is None:
            rules = [self.joint] if self.joint else [r for i, r in self.rules.items() if needs >> i & 1]
            wants = [w for r in rules for w in r.wants]
            keep = {k for kind, k in wants if kind == "input"}
            for kind, first in wants:
                if kind == "inputs":
                    keep |= set(range(first, count))
            if self.composite:
                keep = set(range(count))
            found = self.plans[key] = (
                tuple(sorted(keep)),
                any(kind in ("shape", "shapes") for kind, _ in wants),
                any(kind == "out" for kind, _ in wants),
            )
        return found


def primitive(function: Callable[..., Any] | None = None, *, name: str | None = None, **properties: Any) -> Any:
    """Decorator that makes a formula a primitive, called ``name`` (default: the function's own name).

    How it is called:

    ``promote``
        how inputs of different dtypes are brought together before the call: ``"same"`` to their common dtype,
        ``"float"`` likewise and to a floating-point one (the default dtype for integers), ``None`` not at all.
        Python's and NumPy's scalars are weak: beside an array they take its dtype (or the default dtype of their kind).
    ``differentiable``
        ``False`` for comparisons, argmax and the like.
    ``composite``
        the formula is written with other primitives and takes Tensors, too: gradients of gradients are taken through
        it, and need no rule that can itself be differentiated.
    ``half``
        how half precision is computed with: ``True`` in float32, and all results are rounded back; a tuple of numbers:
        only those results are; ``False`` as it comes. The default is ``False`` for a view or an identity, which only
        moves values, and ``True`` for others.
    ``donated``
        inputs that a kernel (never the formula) may overwrite and return: the caller must go on with what is returned.

    ``order``
        the names of the positional arguments in PyTorch's order, where that is not inputs, then parameters: it holds
        for calls with more of them than there are inputs, or with an input given by name.
    ``also``
        further keywords of PyTorch's function, each with what serves it (:mod:`minidl.core.spelling`):
        ``also={"dtype": converted}``. (``out`` is taken by all.)

    What compilers may rely on:

    ``elementwise``
        the output at each position depends on the inputs at that (broadcast) position only.
    ``view``
        where arrays have strides, the output may share the input's memory.
    ``identity``
        the output has the first input's values: ``True`` always, ``"shape"`` where shape and dtype are the same.
    ``reduces``
        it is this reduction (``"sum"``, ``"mean"``, ``"max"``, ``"min"``, ``"prod"``) over ``axis``, with ``keepdims``.
    ``linear_in``
        the inputs in which it is linear.
    ``random``
        its result depends on the position of a random stream.
    ``dynamic``
        the shape of its result depends on values: ``True``, or a function of the arrays and the parameters that says
        whether it does in a call.
    """

    def make(f: Callable[..., Any]) -> Primitive:
        p = Primitive(f, name or f.__name__, **properties)
        if p.name in primitives:
            raise ValueError(f"a primitive called {p.name!r} already exists")
        primitives[p.name] = p
        return p

    return make if function is None else make(function)


class _Silence(threading.local):
    """``run(f, *args)`` of this thread: a call in a context where NumPy does not warn of floating-point errors."""

    def __init__(self) -> None:
        context = contextvars.Context()
        context.run(np.seterr, all="ignore")
        self.run = context.run


_silence = _Silence()


def quiet(reference: Callable[..., Any]) -> Callable[..., Any]:
    """Decorator of references: NumPy does not warn of overflow, division by zero or invalid values in there.

    Like ``@np.errstate(all="ignore")``, which takes longer than a small operation itself. A quiet function must not
    call another one.
    """

    @functools.wraps(reference)
    def run(*args: Any, **params: Any) -> Any:
        return _silence.run(reference, *args, **params)

    return run
