"""Elementwise formulas as scalar code: a formula is run once on symbols, which note what it does.

A :class:`Symbol` stands for an array of known shape and dtype. NumPy's ufuncs, called on it by name or by operator,
append a line of code; so do primitives, whose own formulas are run on the symbols in turn, unless an expression is
registered for them. Whatever a symbol cannot do (give its values, look at its neighbours, be indexed) ends the attempt,
and the primitive is then called like any other: what is fused is right, or it is not fused.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.lib.mixins import NDArrayOperatorsMixin

from minidl.core.context import using
from minidl.core.trace import Live, Tracer
from minidl.jit.program import Step, Value
from minidl_kernels.numba.compiler.expressions import BOOLEANS, NUMBA_TYPES, UFUNCS, Expression, constant, numbers
from minidl_kernels.numba.compiler.memory import native
from minidl_kernels.numba.compiler.rules import EXPRESSIONS


class Refused(Exception):
    """The formula does what cannot be told element by element."""


def expression(step: Step) -> Expression | None:
    """One element of the step's output; None where the step is not elementwise, or its formula was refused."""
    if not step.prim.elementwise or step.prim.donated or len(step.outputs) != 1:
        return None
    if any(isinstance(p, (Live, np.ndarray)) for p in step.params.values()):
        return None
    code = _Code(len(step.inputs))
    try:
        inputs = [code.symbol(k, x) for k, x in enumerate(step.inputs)]
        with using(tracer=code):
            result = code.call(step.prim, inputs, step.params)
        return code.returned(result, step.outputs[0])
    except Exception:  # a formula may do anything with what is no array, and fail in any way
        return None


class _Code(Tracer):
    """The lines of an expression in the making."""

    def __init__(self, inputs: int) -> None:
        self.inputs = inputs
        self.lines: list[tuple[str, str]] = []

    def symbol(self, operand: int, x: Any) -> Any:
        """What stands for the input ``x`` of a step in its formula."""
        if isinstance(x, Value):
            return Symbol(self, operand, x.shape, native(x.dtype))
        return _Number(self, operand, int if isinstance(x, int) else float) if isinstance(x, Live) else x

    def line(self, shape: tuple[int, ...], dtype: np.dtype, text: str) -> Symbol:
        symbol = Symbol(self, self.inputs + len(self.lines), shape, dtype)
        self.lines.append((dtype.char, text))
        return symbol

    def returned(self, result: Any, out: Value) -> Expression:
        if type(result) is not Symbol or result.shape != out.shape or result.dtype != native(out.dtype):
            raise Refused
        if result.operand != self.inputs + len(self.lines) - 1:
            self.line(result.shape, result.dtype, f"{{{result.operand}}}")
        return Expression(tuple(self.lines))

    def run(self, prim: Any, arrays: Any, params: dict, compute: Callable[[Any, Any, dict], Any]) -> Any:
        if any(isinstance(a, _Operand) for a in arrays):
            return self.call(prim, arrays, params)
        return compute(prim, arrays, params)

    def call(self, prim: Any, inputs: Any, params: dict) -> Any:
        """A primitive: its registered expression, if that is for these dtypes, else its formula on the symbols."""
        if not prim.elementwise:
            raise Refused
        arrays = [x for x in inputs if isinstance(x, Symbol)]
        dtypes = {x.dtype for x in arrays}
        rule = EXPRESSIONS.get(prim.name)
        if rule is not None and len(dtypes) == 1 and arrays[0].dtype.char in "fd":
            dtype = dtypes.pop()
            text = rule(dtype.char, **{**prim.defaults, **params})
            if text is not None:
                shape = np.broadcast_shapes(*(x.shape for x in arrays))
                operands = [None if x is None else self.operand(x, dtype) for x in inputs]
                return self.line(shape, dtype, text.format(*operands, **numbers(dtype.char)))
        return prim.reference(*inputs, **params)

    def operand(self, x: Any, dtype: np.dtype) -> str:
        """The text of an operand in the dtype."""
        if isinstance(x, Symbol) and x.dtype == dtype:
            return f"{{{x.operand}}}"
        if isinstance(x, _Operand):
            return f"{NUMBA_TYPES[dtype.char]}({{{x.operand}}})"
        return constant(x, dtype.char)

    def ufunc(self, ufunc: np.ufunc, inputs: tuple) -> Symbol:
        kinds, text = UFUNCS.get(ufunc.__name__, ("", ""))
        arrays = [x for x in inputs if isinstance(x, Symbol)]
        if not arrays:
            raise Refused
        resolved = ufunc.resolve_dtypes((*map(_kind, inputs), None))
        first, out = resolved[0], resolved[-1]
        if first.kind == "b":
            text = BOOLEANS.get(ufunc.__name__, text)
        # NumPy compares int64 with uint64 by value, but the loops here compute in one dtype
        same = len({d.char for d in resolved[:-1]}) == 1
        if not text or first.kind.replace("b", "?") not in kinds or not same or out.char not in NUMBA_TYPES:
            raise Refused
        operands = [self.operand(x, d) for x, d in zip(inputs, resolved)]
        shape = np.broadcast_shapes(*(x.shape for x in arrays))
        return self.line(shape, out, text.format(*operands, **numbers(first.char)))


def _kind(x: Any) -> Any:
    """What decides of an operand's dtype: the dtype, or the type of a weak Python number."""
    if isinstance(x, _Number):
        return x.kind
    if isinstance(x, (Symbol, np.generic)):
        return x.dtype
    if isinstance(x, np.ndarray) and x.ndim == 0:
        return x.dtype
    if isinstance(x, bool):
        return np.dtype(bool)
    if isinstance(x, (int, float)):
        return int if isinstance(x, int) else float
    raise Refused


class _Operand(NDArrayOperatorsMixin):
    """What has no value yet."""

    code: _Code
    operand: int

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **options: Any) -> Any:
        out = options.pop("out", None)
        if method != "__call__" or options or ufunc.nout != 1:
            raise Refused
        result = self.code.ufunc(ufunc, inputs)
        if out is None:
            return result
        (target,) = out
        if type(target) is not Symbol or target.shape != result.shape:
            raise Refused
        target.operand = result.astype(target.dtype).operand
        return target

    def __array_function__(self, function: Any, types: Any, args: tuple, options: dict) -> Any:
        if function not in _FUNCTIONS:
            raise Refused
        return _FUNCTIONS[function](*args, **options)

    def __array__(self, *args: Any, **options: Any) -> Any:
        raise Refused

    def __bool__(self) -> bool:
        raise Refused

    __hash__ = object.__hash__


class _Number(_Operand):
    """A Python number that is read anew at each replay."""

    def __init__(self, code: _Code, operand: int, kind: type) -> None:
        self.code, self.operand, self.kind = code, operand, kind


class Symbol(_Operand):
    """An array of which one element at a time is known."""

    def __init__(self, code: _Code, operand: int, shape: tuple[int, ...], dtype: np.dtype) -> None:
        if dtype.char not in NUMBA_TYPES:
            raise Refused
        self.code, self.operand, self.shape, self.dtype = code, operand, shape, dtype

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def size(self) -> int:
        return int(np.prod(self.shape, dtype=np.int64))

    def __pow__(self, exponent: Any) -> Any:
        # the exponents for which NumPy's own operator takes another function
        if self.dtype.kind == "f" and isinstance(exponent, (int, float)) and exponent in (2, 0.5, -1):
            return {2: np.square, 0.5: np.sqrt, -1: np.reciprocal}[exponent](self)
        return super().__pow__(exponent)

    def astype(self, dtype: Any, copy: bool = True) -> Symbol:
        dtype = native(np.dtype(dtype))
        if dtype == self.dtype and not copy:
            return self
        return self.code.line(self.shape, dtype, self.code.operand(self, dtype))

    def copy(self) -> Symbol:
        return self.astype(self.dtype)

    def view(self) -> Symbol:
        return self

    def clip(self, min: Any = None, max: Any = None) -> Any:
        return _clip(self, min, max)


# NumPy's functions that are no ufuncs


def _where(condition: Any, x: Any, y: Any) -> Symbol:
    arrays = [a for a in (condition, x, y) if isinstance(a, Symbol)]
    code = arrays[0].code
    # the dtype of a sum is that of a choice, but for booleans, whose sum is one too
    dtype = np.add.resolve_dtypes((_kind(x), _kind(y), None))[-1]
    shape = np.broadcast_shapes(*(a.shape for a in arrays))
    chosen = code.operand(condition, np.dtype(bool))
    return code.line(shape, dtype, f"({code.operand(x, dtype)} if {chosen} else {code.operand(y, dtype)})")


def _clip(x: Any, a_min: Any = None, a_max: Any = None, *, min: Any = None, max: Any = None) -> Any:
    low, high = (a_min if min is None else min), (a_max if max is None else max)
    if low is not None:
        x = np.maximum(x, low)
    return x.copy() if low is None and high is None else x if high is None else np.minimum(x, high)


def _full_like(x: Symbol, fill_value: Any, dtype: Any = None) -> Symbol:
    dtype = x.dtype if dtype is None else native(np.dtype(dtype))
    return x.code.line(x.shape, dtype, x.code.operand(fill_value, dtype))


def _round(x: Symbol, decimals: int = 0) -> Symbol:
    if decimals != 0:
        raise Refused
    return np.rint(x)


_FUNCTIONS: dict[Any, Callable[..., Any]] = {
    np.where: _where,
    np.clip: _clip,
    np.round: _round,
    np.full_like: _full_like,
    np.zeros_like: lambda x, dtype=None: _full_like(x, 0, dtype),
    np.ones_like: lambda x, dtype=None: _full_like(x, 1, dtype),
    np.result_type: lambda *xs: np.result_type(*(x.dtype if isinstance(x, Symbol) else x for x in xs)),
}


def of_primitive(prim: Any, params: dict[str, Any], dtype: np.dtype) -> Expression | None:
    """One element of the output of ``prim`` where all inputs and the output are arrays of this dtype."""
    inputs = [Value(k, "input", (1,), dtype) for k in range(len(prim.inputs))]
    return expression(Step(prim, list(inputs), params, [Value(len(inputs), "computed", (1,), dtype)]))
