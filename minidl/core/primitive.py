"""What a primitive is: a name, a NumPy reference, and a gradient (vector-Jacobian product) rule.

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

Rules are written with primitives and operators, so they run on plain arrays (an ordinary ``backward()``) and on
Tensors (``create_graph=True``) alike.
"""

from __future__ import annotations

import contextvars
import functools
import inspect
import re
import threading
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from minidl.core.registry import BackendError, backend_of, state

_NO_PARAMS: Mapping[str, Any] = {}
#: every primitive by name
primitives: dict[str, Primitive] = {}


def _refresh_all() -> None:
    for p in primitives.values():
        p.refresh()


state.on_change.append(_refresh_all)


class Traced:
    """Base class of Tensor: what makes a primitive record instead of just computing."""

    __slots__ = ()


class Rule:
    """A gradient rule with the list of things it wants: (kind, key) in the order of its parameters."""

    __slots__ = ("function", "wants")

    def __init__(self, prim: Primitive, function: Callable[..., Any]) -> None:
        self.function = function
        self.wants = [prim.classify(name, function) for name in inspect.signature(function).parameters]


class Primitive:
    """A named pure function on arrays. Call it with arrays, Tensors and Python scalars; see the module docstring."""

    #: set by :mod:`minidl.core.tensor`: how a call with Tensors among its inputs is computed and recorded
    record: Callable[[Primitive, tuple, dict], Any]
    #: the same for one input
    record_unary: Callable[[Primitive, Any, dict], Any]

    def __init__(
        self,
        reference: Callable[..., Any],
        name: str,
        promote: str | None,
        differentiable: bool,
        donated: tuple[str, ...] = (),
    ) -> None:
        self.name = name
        self.reference = reference
        self.promote = promote
        self.differentiable = differentiable
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
        self.donated = donated
        self.rules: dict[int, Rule] = {}
        self.joint: Rule | None = None
        self.composite: Callable[..., Any] | None = None
        self.plans: dict[int, tuple] = {}
        #: the reference, while a call on host arrays needs no choice of kernel; else None
        self.host: Callable[..., Any] | None = None
        self.refresh()

    def refresh(self) -> None:
        """Work out ``host`` again after a change of backend, kernels or strict mode."""
        active = state.active
        plain = active.array_type is np.ndarray and self.name not in active.kernels
        strict = state.strict and active.name != "numpy"
        self.host = self.reference if plain and not strict and state.tracer is None else None

    def __repr__(self) -> str:
        return f"<primitive {self.name}{self.__signature__}>"

    def __call__(self, *args: Any, **params: Any) -> Any:
        if self.variadic and args and type(args[0]) in (list, tuple) and not self.inputs:
            args = (*args[0], *self._surplus(args[1:], params, 0))
        elif not self.variadic and len(args) != len(self.inputs):
            args = self._bind(args, params)
        elif len(args) == 1 and isinstance(args[0], Traced):
            return Primitive.record_unary(self, args[0], params)
        for a in args:
            if isinstance(a, Traced):
                return Primitive.record(self, args, params)
        return self.run(args if self.promote is None else promote(self, args), params)

    def _surplus(self, extra: tuple, params: dict, start: int) -> tuple:
        if len(extra) > len(self.params) - start:
            raise TypeError(f"{self.name}{self.__signature__}: too many positional arguments")
        for name, value in zip(self.params[start:], extra):
            params[name] = value
        return ()

    def _bind(self, args: tuple, params: dict) -> tuple:
        """Positional arguments beyond the inputs are static parameters; inputs may be given by name or left out."""
        self._surplus(args[len(self.inputs) :], params, 0)
        args = list(args[: len(self.inputs)])
        for name in self.inputs[len(args) :]:
            default = self.__signature__.parameters[name].default
            if name not in params and default is inspect.Parameter.empty:
                raise TypeError(f"{self.name}{self.__signature__}: missing input {name!r}")
            args.append(params.pop(name, default))
        return tuple(args)

    def run(self, arrays: Any, params: dict) -> Any:
        """Compute on plain arrays, by the kernel of the arrays' backend that accepts the call, else the reference."""
        if state.tracer is not None:
            return state.tracer.run(self, arrays, params, self._run)
        return self._run(arrays, params)

    def _run(self, arrays: Any, params: dict) -> Any:
        backend = state.active
        if state.device_types:
            backend, arrays = _place(arrays)
        try:
            for k in backend.kernels.get(self.name, ()):
                if k.when is None or k.when(*arrays, **params):
                    return k.function(*arrays, **params)
            if not state.strict or backend.name == "numpy":
                return self.reference(*arrays, **params)
        except Exception as error:
            raise self.explain(error, arrays, params).with_traceback(error.__traceback__) from None
        raise BackendError(
            f"strict mode: backend {backend.name!r} has no kernel that accepts {self.name}"
            f"({', '.join(map(describe, arrays))}, {params}); see minidl.backend.explain({self.name!r})"
        )

    def explain(self, error: Exception, arrays: Any, params: Mapping[str, Any] = _NO_PARAMS) -> Exception:
        """The array library's complaint with the operation's name and what it was given; other errors, and those that
        begin with a name already, as they are."""
        message, kind = str(error), type(error)
        if kind.__module__.startswith("numpy") and isinstance(error, TypeError):
            kind = TypeError  # NumPy's own subclass is not made from a message
        if kind not in _COMPLAINTS or re.match(r"\w+: ", message):
            return error
        seen = ", ".join([*map(describe, arrays), *(f"{k}={v!r:.60}" for k, v in params.items())])
        if not all(a is None or hasattr(a, "dtype") or isinstance(a, _SCALARS) for a in arrays):
            return TypeError(f"{self.name}: expected arrays, Tensors or numbers, got {seen}")
        if type(error) is AttributeError:
            if any(a is error.obj for a in arrays if isinstance(a, _SCALARS)):
                return TypeError(f"{self.name}: expected an array or Tensor in place of a number; got {seen}")
            return error
        if "argument" in message and message.startswith(f"{self.reference.__name__}()"):
            return TypeError(f"{self.name}{self.__signature__}: {message.partition('() ')[2]}")
        if "broadcast" in message:
            return ValueError(f"{self.name}: shapes do not broadcast together: {seen}")
        return kind(f"{self.name}: {message}; got {seen}")

    def defvjp(self, **rules: Callable[..., Any]) -> None:
        """Give one gradient rule per input, by name."""
        for name, function in rules.items():
            self.rules[self.inputs.index(name)] = Rule(self, function)

    def defvjp_all(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Give one rule that returns the gradients of all inputs (``None`` where not needed). Usable as decorator."""
        self.joint = Rule(self, function)
        return function

    def defcomposite(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Give the same function in terms of other primitives; gradients of gradients are taken through it."""
        self.composite = function
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


def primitive(
    function: Callable[..., Any] | None = None,
    *,
    name: str | None = None,
    promote: str | None = None,
    differentiable: bool = True,
    donated: tuple[str, ...] = (),
) -> Any:
    """Decorator that makes a reference function a primitive, called ``name`` (default: the function's own name).

    ``promote`` says how inputs of different dtypes are brought together before the call: ``"same"`` to their common
    dtype, ``"float"`` likewise and to a floating-point one (the default dtype for integers), ``None`` not at all.
    Python's and NumPy's scalars are weak: beside an array they take its dtype (or the default dtype of their kind).
    ``differentiable=False`` is for comparisons, argmax and the like. ``donated`` names inputs that a kernel (never the
    reference) may overwrite and return: the caller must go on with what is returned.
    """

    def make(f: Callable[..., Any]) -> Primitive:
        p = Primitive(f, name or f.__name__, promote, differentiable, donated)
        if p.name in primitives:
            raise ValueError(f"a primitive called {p.name!r} exists already")
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


def _place(arrays: Any) -> tuple[Any, Any]:
    """The backend of a call whose arrays may live on a device; host constants are moved beside them."""
    for a in arrays:
        if type(a) is not np.ndarray and hasattr(a, "dtype") and not isinstance(a, np.generic):
            backend = backend_of(a)
            if backend.array_type is not np.ndarray:
                return backend, [backend.asarray(b) if isinstance(b, (np.ndarray, np.generic)) else b for b in arrays]
    return backend_of(None), arrays


_SCALARS = (int, float, bool, complex)
# what array libraries raise for arguments that do not fit
_COMPLAINTS = (ValueError, TypeError, IndexError, AttributeError, np.exceptions.AxisError)


def _dtype_of(a: Any) -> Any:
    """dtype of an array or Tensor; ``None`` for what has no say (Python scalars, None)."""
    return getattr(a, "dtype", None)


def promote(prim: Primitive, args: tuple) -> tuple:
    """Bring the arrays among ``args`` to one dtype by the rules that :func:`primitive` states."""
    first = None
    mixed = False
    for a in args:
        dt = _dtype_of(a)
        if dt is None:
            if type(a) is float:
                mixed = mixed or first is None or first.kind != "f"
            elif type(a) is list:
                mixed = True
        elif first is None:
            first = dt
            if dt.kind != "f":
                mixed = True
        elif dt != first:
            mixed = True
    return _promote_mixed(prim, args) if mixed else args


def _promote_mixed(prim: Primitive, args: tuple) -> tuple:
    from minidl.ops.elementwise import astype

    if list in map(type, args):
        args = [_array_of_list(a) if type(a) is list else a for a in args]
    if any(isinstance(a, np.generic) for a in args) and not all(isinstance(a, (*_SCALARS, np.generic)) for a in args):
        # beside an array, a NumPy scalar is as weak as Python's: 2 * np.sqrt(3) must not turn a model to float64
        args = [a.item() if isinstance(a, np.generic) else a for a in args]
    dtypes = [dt for dt in map(_dtype_of, args) if dt is not None]
    target = result_dtype(dtypes, [a for a in args if type(a) in _SCALARS], prim.promote == "float")
    out = []
    for a in args:
        dt = _dtype_of(a)
        if dt is None and not dtypes and type(a) in _SCALARS:
            out.append(np.asarray(a, dtype=target))
        elif dt is not None and dt != target:
            out.append(astype(a, dtype=target))
        else:
            out.append(a)
    return tuple(out)


def _array_of_list(values: list) -> np.ndarray:
    array = np.asarray(values)
    return array.astype(_default_dtype) if array.dtype == np.float64 else array


def result_dtype(dtypes: list, scalars: list, need_float: bool = False) -> np.dtype:
    """Common dtype, as PyTorch has it: the highest category (bool < int < float < complex) decides, and only the
    arrays of that category choose the width. So int64 with float32 is float32. Python scalars only raise the category.
    """
    rank = {"b": 0, "u": 1, "i": 1, "f": 2, "V": 2, "c": 3}
    scalar_rank = (
        max((0 if type(s) is bool else 1 if type(s) is int else 3 if type(s) is complex else 2) for s in scalars)
        if scalars
        else -1
    )
    ranks = [rank.get(d.kind, 4) for d in dtypes]
    top = max(ranks, default=-1)
    if need_float and max(top, scalar_rank) < 2:
        return default_dtype()
    if scalar_rank > top:
        return {1: np.dtype(np.int64), 2: default_dtype(), 0: np.dtype(bool)}.get(scalar_rank, np.dtype(np.complex64))
    chosen = [d for d, r in zip(dtypes, ranks) if r == top]
    common = chosen[0]
    for d in chosen[1:]:
        common = np.promote_types(common, d)
    return common


_default_dtype = np.dtype(np.float32)


def default_dtype() -> np.dtype:
    """The dtype of new floating-point tensors: float32 unless :func:`set_default_dtype` said otherwise."""
    return _default_dtype


def set_default_dtype(dtype: Any) -> None:
    """Set the dtype that Python floats and lists of floats become. Raises TypeError for a non-float dtype."""
    global _default_dtype
    dt = np.dtype(dtype)
    if dt.kind != "f":
        raise TypeError(f"set_default_dtype: expected a floating-point dtype, got {dt}")
    _default_dtype = dt


def describe(a: Any) -> str:
    """``float32[2, 3]`` for an array; used in error messages."""
    if hasattr(a, "shape") and hasattr(a, "dtype"):
        return f"{a.dtype}[{', '.join(map(str, a.shape))}]"
    return repr(a)
