"""Tensor's operators and methods: each calls the operation of the same meaning.

They are written down here, above the operations, and put on :class:`~minidl.core.tensor.Tensor` when this package is
imported.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from minidl import ops
from minidl.core import views
from minidl.core.context import current
from minidl.core.device import backend_for, is_device
from minidl.core.dispatch import binary, unary
from minidl.core.dtypes import is_dtype_name
from minidl.core.graph import Traced
from minidl.core.registry import backend_of
from minidl.core.spelling import both_spellings
from minidl.core.tensor import Tensor

_FAST = frozenset((Tensor, float, int, np.ndarray))
_FLAGS = (bool, np.bool_)
_OPERANDS = (Tensor, np.ndarray, int, float, bool, np.generic, complex)


def _operand(other: Any) -> bool:
    """Whether an operator takes ``other``; if not, Python may ask the other side, then raises TypeError."""
    return isinstance(other, _OPERANDS) or hasattr(other, "dtype") or isinstance(other, list)


def _left(prim: Any) -> Callable[[Any, Any], Any]:
    """The operator method ``tensor <op> other``; a NumPy array or a Python number may stand on the other side."""

    def operator(self: Any, other: Any) -> Any:
        return binary(prim, self, other) if type(other) in _FAST or _operand(other) else NotImplemented

    return operator


def _right(prim: Any) -> Callable[[Any, Any], Any]:
    """The operator method ``other <op> tensor``."""

    def operator(self: Any, other: Any) -> Any:
        return binary(prim, other, self) if type(other) in _FAST or _operand(other) else NotImplemented

    return operator


def _in_place(prim: Any, symbol: str) -> Callable[[Any, Any], Any]:
    """The operator method ``tensor <op>= other``."""

    def operator(self: Any, other: Any) -> Any:
        return views.become(self, prim(self, other), symbol)

    return operator


def _same_name(prim: Any) -> Callable[..., Any]:
    """A method that is the primitive itself."""

    def method(self: Any, *args: Any, **params: Any) -> Any:
        return prim(self, *args, **params) if args or params else unary(prim, self)

    method.__doc__ = prim.__doc__
    return method


def _reduction(prim: Any) -> Callable[..., Any]:
    """The method of a reduction: ``axis`` and ``keepdims`` take the short way."""

    def method(self: Any, axis: Any = None, keepdims: Any = False, **others: Any) -> Any:
        if others:
            given = {
                name: value
                for name, value in (("axis", axis), ("keepdims", keepdims))
                if value is not None and value is not False
            }
            return prim(self, **given, **others)
        if axis is None and not keepdims:
            return unary(prim, self)
        return unary(prim, self, {"axis": axis, "keepdims": keepdims})

    method.__doc__ = prim.__doc__
    return method


def _ints(values: tuple) -> tuple[int, ...]:
    """``f(2, 3)`` and ``f((2, 3))`` mean the same."""
    return tuple(values[0]) if len(values) == 1 and isinstance(values[0], (tuple, list)) else values


def _plain_index(index: Any) -> Any:
    if isinstance(index, tuple):
        return tuple(map(_plain_index, index))
    return index.array if isinstance(index, Tensor) else index


def _moved(x: Any, target: Any) -> Tensor:
    """``x`` converted to a dtype, or on a device."""
    if not is_device(target) and not (isinstance(target, str) and not is_dtype_name(target)):
        return x.astype(target)
    home = backend_for(target)
    if home.array_type is backend_of(x.array).array_type:
        return x
    t = Tensor._from_node(home.asarray(x.array), None, 0)
    t.requires_grad = x.requires_grad
    return t


class Methods(Traced):
    """What this file gives to Tensor."""

    __slots__ = ()

    if TYPE_CHECKING:  # what Tensor itself has, and the methods of one line

        def __getattr__(self, name: str) -> Any: ...

    # Operators

    __add__, __radd__, __iadd__ = _left(ops.add), _right(ops.add), _in_place(ops.add, "+=")
    __sub__, __rsub__, __isub__ = _left(ops.sub), _right(ops.sub), _in_place(ops.sub, "-=")
    __mul__, __rmul__, __imul__ = _left(ops.mul), _right(ops.mul), _in_place(ops.mul, "*=")
    __truediv__, __rtruediv__, __itruediv__ = _left(ops.div), _right(ops.div), _in_place(ops.div, "/=")
    __floordiv__, __rfloordiv__ = _left(ops.floor_divide), _right(ops.floor_divide)
    __mod__, __rmod__ = _left(ops.remainder), _right(ops.remainder)
    __pow__, __rpow__ = _left(ops.pow), _right(ops.pow)
    __matmul__, __rmatmul__ = _left(ops.matmul), _right(ops.matmul)
    __eq__, __ne__ = _left(ops.eq), _left(ops.not_equal)
    __lt__, __le__ = _left(ops.less), _left(ops.less_equal)
    __gt__, __ge__ = _left(ops.greater), _left(ops.greater_equal)
    __and__ = __rand__ = _left(ops.bitwise_and)
    __or__ = __ror__ = _left(ops.bitwise_or)
    __xor__ = __rxor__ = _left(ops.bitwise_xor)
    __neg__, __pos__ = _same_name(ops.neg), _same_name(ops.positive)
    __abs__, __invert__ = _same_name(ops.abs), _same_name(ops.bitwise_not)
    __hash__ = object.__hash__

    def __getitem__(self, index: Any) -> Tensor:
        return ops.getitem(self, index)

    def __setitem__(self: Any, index: Any, value: Any) -> None:
        here = current()
        recorded = here.recording and (self.requires_grad or getattr(value, "requires_grad", False))
        if not recorded and type(self.array) is np.ndarray and here.tracer is None:
            self.array[_plain_index(index)] = value.array if isinstance(value, Tensor) else value
            self._bump()
        else:
            views.become(self, ops.setitem(self, value, index), "index assignment")

    # Changes in place

    assign_ = copy_ = views.assign_

    def zero_(self: Any) -> Tensor:
        """Fill with zeros, in place and unrecorded."""
        return self.assign_(0)

    def fill_(self: Any, value: float) -> Tensor:
        """Fill with ``value``, in place and unrecorded."""
        return self.assign_(value)

    def add_(self: Any, other: Any, alpha: float = 1) -> Tensor:
        """Add ``alpha * other`` in place."""
        return views.become(self, ops.add(self, other if alpha == 1 else ops.mul(other, alpha)), "add_")

    def mul_(self: Any, other: Any) -> Tensor:
        """Multiply by ``other`` in place."""
        return views.become(self, ops.mul(self, other), "mul_")

    # Conversions

    def clone(self) -> Tensor:
        """A copy in memory of its own; gradients flow through it."""
        return ops.copy(self)

    copy = clone

    def astype(self: Any, dtype: Any) -> Tensor:
        """Convert to ``dtype``; gradients are converted back."""
        return self if self.dtype == np.dtype(dtype) else ops.astype(self, dtype=np.dtype(dtype))

    def float(self) -> Tensor:
        """Convert to float32."""
        return self.astype(np.float32)

    def double(self) -> Tensor:
        """Convert to float64."""
        return self.astype(np.float64)

    def half(self) -> Tensor:
        """Convert to float16."""
        return self.astype(np.float16)

    def long(self) -> Tensor:
        """Convert to int64."""
        return self.astype(np.int64)

    def int(self) -> Tensor:
        """Convert to int32."""
        return self.astype(np.int32)

    def bool(self) -> Tensor:
        """Convert to bool."""
        return self.astype(np.bool_)

    def to(
        self: Any, *targets: Any, device: Any = None, dtype: Any = None, non_blocking: Any = False,
        copy: Any = False, memory_format: Any = None,
    ) -> Tensor:  # fmt: skip
        """Convert to a dtype, move to a device or to the backend of that name (unrecorded), or both; or as another
        tensor is. The tensor itself where nothing is to be done, unless ``copy`` is true.

        ``non_blocking`` and ``memory_format`` are PyTorch's; here they change nothing.
        """
        flags = [t for t in targets if isinstance(t, _FLAGS)]
        copy = copy or any(flags[1:])  # PyTorch's order: non_blocking, copy
        result = self
        for target in (device, *(t for t in targets if not isinstance(t, _FLAGS)), dtype):
            if isinstance(target, Traced):
                result = result.to(target.device).astype(target.dtype)
            elif target is not None:
                result = _moved(result, target)
        return ops.copy(result) if copy and result is self else result

    def unfold(self: Any, axis: Any, size: Any, step: Any) -> Tensor:
        """All windows of ``size`` elements along ``axis``, ``step`` apart; their elements come as a last axis."""
        if self.ndim == 0:
            return ops.unsqueeze(self, axis=0)[:size]
        at = axis % self.ndim
        if not 0 <= size <= self.shape[at] or step < 1:
            raise ValueError(f"unfold: windows of {size}, {step} apart, do not fit axis {axis} of {ops.describe(self)}")
        index = np.arange(0, self.shape[at] - size + 1, step)[:, None] + np.arange(size)
        return ops.moveaxis(ops.take(self, index, axis=at), at + 1, -1)

    # Shapes

    def reshape(self, *shape: Any) -> Tensor:
        return ops.reshape(self, shape=_ints(shape))

    view = reshape

    def transpose(self, *axes: Any) -> Tensor:
        """``transpose(a, b)`` swaps two axes (PyTorch); ``transpose()`` reverses them and ``transpose(axes)`` permutes
        them (NumPy). NumPy's ``transpose(0, 1)`` of a matrix, which does nothing, is not meant by anybody."""
        if len(axes) == 2:
            return ops.swapaxes(self, *axes)
        axes = _ints(axes)
        return ops.permute(self, axes=axes or tuple(range(self.ndim))[::-1])

    def permute(self, *axes: Any) -> Tensor:
        return ops.permute(self, axes=_ints(axes))

    @property
    def T(self) -> Tensor:
        return ops.permute(self, axes=tuple(range(self.ndim))[::-1])

    @property
    def mT(self) -> Tensor:
        """The last two axes swapped."""
        return ops.swapaxes(self, -1, -2)

    def expand(self, *shape: Any) -> Tensor:
        return ops.expand(self, shape=_ints(shape))

    # Other argument orders than the function's

    def gather(self, axis: Any, index: Any) -> Tensor:
        return ops.gather(self, index, axis=axis)

    def matmul(self, other: Any) -> Tensor:
        return binary(ops.matmul, self, other)

    # Those that are their function: for functions that are not primitives, too

    flatten, squeeze, unsqueeze, swapaxes = ops.flatten, ops.squeeze, ops.unsqueeze, ops.swapaxes
    split, chunk = ops.split, ops.chunk
    contiguous = ops.contiguous
    masked_fill, pow = ops.masked_fill, ops.pow
    clip = clamp = ops.clamp
    sum, mean, prod, var, std = ops.sum, ops.mean, ops.prod, ops.var, ops.std
    max, min, amax, amin, argmax, argmin = ops.max, ops.min, ops.amax, ops.amin, ops.argmax, ops.argmin
    any, all = ops.any, ops.all
    cumsum, logsumexp, norm = ops.cumsum, ops.logsumexp, ops.norm
    exp, log, sqrt, abs, square, sin, cos = ops.exp, ops.log, ops.sqrt, ops.abs, ops.square, ops.sin, ops.cos
    tanh, sigmoid, relu, softmax, log_softmax = ops.tanh, ops.sigmoid, ops.relu, ops.softmax, ops.log_softmax


def _install() -> None:
    for name, value in vars(Methods).items():
        if name in (
            "__module__",
            "__slots__",
            "__doc__",
            "__annotations__",
            "__firstlineno__",
            "__static_attributes__",
        ):
            continue
        if callable(value) and not value.__doc__:
            value.__doc__ = getattr(ops, name, value).__doc__
        if isinstance(value, ops.Primitive):
            value = _reduction(value) if value.params[:2] == ["axis", "keepdims"] else _same_name(value)
        elif callable(value) and not name.startswith("__"):
            value = both_spellings(value)
        setattr(Tensor, name, value)


_install()
