"""Tensor: an array, and, if it needs a gradient, the node of the graph that made it."""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from minidl import ops
from minidl.core import backward as engine
from minidl.core.backward import (
    AnomalyError,
    Node,
    has_nan,
    mode,
    next_in_sequence,
    node_of_one,
    node_of_two,
    special_threads,
    user_line,
)
from minidl.core.hooks import HookHandle
from minidl.core.primitive import Primitive, Traced, default_dtype, promote
from minidl.core.registry import backend_of, get_backend, load, state, to_numpy

_ndarray = np.ndarray
_NO_PARAMS: dict = {}


def apply(prim: Primitive, args: tuple, params: dict) -> Any:
    """Run a primitive whose inputs include Tensors; returns Tensor(s), recorded if a gradient may be wanted."""
    if prim.promote is not None:
        args = promote(prim, args)
    return _record(prim, args, params, prim.run([a.data if isinstance(a, Tensor) else a for a in args], params))


def _record(prim: Primitive, args: tuple, params: dict, out: Any) -> Any:
    """The array(s) ``out`` that a call made, as Tensor(s)."""
    needs = 0
    if mode.enabled and prim.differentiable:
        bit = 1
        for a in args:
            if isinstance(a, Tensor) and a.requires_grad:
                needs |= bit
            bit <<= 1
    if type(out) is tuple:
        out = tuple([o if type(o) is _ndarray else _as_device_array(o) for o in out])
        node = Node(prim, args, params, needs, out) if needs else None
        result = tuple([Tensor._from_node(o, node, i, True) for i, o in enumerate(out)])
        for o in result:
            if type(o.data) is _ndarray and o.data.base is not None:
                _link_view(o, args)
    else:
        if type(out) is not _ndarray:
            out = _as_device_array(out)
        result = _new(Tensor)
        result.data = out
        if needs and out.dtype.kind in "fcV":
            result._node = Node(prim, args, params, needs, out)
            result.requires_grad = True
        else:
            result._node = None
            result.requires_grad = False
        if isinstance(out, _ndarray) and out.base is not None:
            _link_view(result, args)
    if mode.special:
        _attend(prim, args, params, result)
    return result


def _apply_unary(prim: Primitive, x: Tensor, params: dict = _NO_PARAMS) -> Any:
    """:func:`apply` for one input, where nothing has to be chosen, converted or watched."""
    host, data = prim.host, x.data
    if host is None or type(data) is not _ndarray or data.dtype not in _FLOATS or special_threads:
        return apply(prim, (x,), dict(params))
    try:
        out = host(data, **params) if params else host(data)
    except Exception as error:
        raise prim.explain(error, (data,), params).with_traceback(error.__traceback__) from None
    if type(out) is not _ndarray:
        if type(out) is tuple:
            return _record(prim, (x,), params, out)
        out = _asarray(out)
    result = _new(Tensor)
    result.data = out
    if x.requires_grad and mode.enabled and prim.differentiable and (out.dtype in _FLOATS or out.dtype.kind in "fcV"):
        result._node = node_of_one(prim, x, data.shape, params, out)
        result.requires_grad = True
    else:
        result._node = None
        result.requires_grad = False
    if out.base is not None:
        _link_view(result, (x,))
    return result


def _reduce(prim: Primitive, x: Tensor, axis: Any, keepdims: bool) -> Any:
    if axis is None and not keepdims:
        return _apply_unary(prim, x)
    return _apply_unary(prim, x, {"axis": axis, "keepdims": keepdims})


def _apply_binary(prim: Primitive, x: Any, y: Any) -> Any:
    """:func:`apply` for the operators: two operands of one floating-point dtype, or one and a Python number."""
    host = prim.host
    needs = 0
    if isinstance(x, Tensor):
        xd = x.data
        if x.requires_grad:
            needs = 1
    else:
        xd = x
    if isinstance(y, Tensor):
        yd = y.data
        if y.requires_grad:
            needs |= 2
    else:
        yd = y
    tx, ty = type(xd), type(yd)
    if tx is _ndarray:
        dt = xd.dtype
        plain = dt in _FLOATS and (yd.dtype == dt if ty is _ndarray else ty is float or ty is int)
    else:
        plain = ty is _ndarray and yd.dtype in _FLOATS and (tx is float or tx is int)
    if not plain or host is None or special_threads:
        return apply(prim, (x, y), {})
    try:
        out = host(xd, yd)
    except Exception as error:
        raise prim.explain(error, (xd, yd)).with_traceback(error.__traceback__) from None
    if type(out) is not _ndarray:
        out = _asarray(out)
    result = _new(Tensor)
    result.data = out
    if needs and mode.enabled and prim.differentiable:
        result._node = node_of_two(
            prim, x, y, xd.shape if tx is _ndarray else (), yd.shape if ty is _ndarray else (), needs, out
        )
        result.requires_grad = True
    else:
        result._node = None
        result.requires_grad = False
    return result


Primitive.record = staticmethod(apply)
Primitive.record_unary = staticmethod(_apply_unary)

_new = object.__new__
_asarray = np.asarray
_FLOATS = frozenset((np.dtype(np.float32), np.dtype(np.float64)))


def _attend(prim: Primitive, args: tuple, params: dict, result: Any) -> None:
    if mode.anomaly:
        _check_anomaly(prim, args, result)
    if mode.observer is not None:
        mode.observer(prim, args, params, result)


def _as_device_array(out: Any) -> Any:
    return np.asarray(out) if isinstance(out, (np.generic, int, float, bool, complex)) else out


def _base_array(array: Any) -> Any:
    """A plain ndarray on the memory of one that may be a subclass, as arrays are while a step is captured."""
    return array if type(array) is _ndarray else array.view(_ndarray)


def _link_view(result: Tensor, args: tuple) -> None:
    """Views share a version counter with the tensor whose memory they show."""
    out = _base_array(result.data)
    for a in args:
        if isinstance(a, Tensor) and isinstance(a.data, _ndarray) and np.may_share_memory(out, _base_array(a.data)):
            base = result._base = a if a._base is None else a._base
            if not (base.requires_grad and base._node is None):
                base._note_view(result)
            return


def _refuse_stale_view(g: Any) -> Any:
    raise RuntimeError(
        "backward through a view of a tensor that was later changed in place: take the view again after the change, or "
        "clone() it before"
    )


_stale_view = Primitive(lambda x: x, "stale_view", None, True)
_stale_view.defvjp(x=_refuse_stale_view)


def _check_anomaly(prim: Primitive, args: tuple, result: Any) -> None:
    outs = result if isinstance(result, tuple) else (result,)
    if any(has_nan(o.data) for o in outs):
        came_in = any(has_nan(a.data) for a in args if isinstance(a, Tensor))
        origin = "passed on a NaN from its inputs" if came_in else "made a NaN"
        shapes = ", ".join(ops.describe(a) for a in args)
        raise AnomalyError(f"{prim.name}({shapes}) {origin} at {user_line()}")


class Tensor(Traced):
    """An n-dimensional array that records what is done to it.

    ``Tensor(value)`` takes nested lists, scalars, NumPy arrays or another tensor. Python floats become the default
    dtype (float32) and arrays keep theirs. An array is not copied: the tensor shares its memory.

    Parameters
    ----------
    data:
        the value.
    requires_grad:
        record operations on this tensor, so that ``backward()`` fills ``.grad``. Only floating-point tensors can.
    dtype:
        convert to this dtype.
    device:
        name of the backend (``"numpy"``, ``"cupy"``, ``"jax"``) to put it on; default: the active one.
    """

    # Slots are quicker than attributes with a class-level default; whoever makes a tensor sets all three.
    __slots__ = ("data", "requires_grad", "_node", "__dict__", "__weakref__")
    data: Any
    requires_grad: bool
    _node: Node | None

    grad: Tensor | None = None
    #: (node, output index) where the node has several outputs
    _edge: tuple[Node, int] | None = None
    _version = 0
    # when it was last changed in place, in the engine's count of nodes and changes
    _changed_at = 0
    _base: Tensor | None = None
    _hooks: dict | None = None
    _views: list | None = None

    #: makes ndarray's operators leave mixed expressions to Tensor's
    __array_ufunc__ = None
    __array_priority__ = 1000

    def __init__(self, data: Any, requires_grad: bool = False, dtype: Any = None, device: str | None = None) -> None:
        backend = get_backend() if device is None else load(device)
        if isinstance(data, Tensor):
            data = data.data
        if (
            type(data) is not _ndarray
            or backend.array_type is not _ndarray
            or dtype is not None
            or (data.dtype.kind not in "fiubc")
        ):
            data = _make_array(data, dtype, backend, device)
        self.data, self.requires_grad, self._node = data, False, None
        if requires_grad:
            self.requires_grad_()

    @classmethod
    def _from_node(cls, array: Any, node: Node | None, index: int = 0, several: bool = False) -> Tensor:
        t = _new(Tensor)
        t.data, t.requires_grad, t._node = array if type(array) is _ndarray else _as_device_array(array), False, None
        if node is not None and t.data.dtype.kind in "fcV":
            t._node, t.requires_grad = node, True
            if several:
                t._edge = (node, index)
        return t

    # What it is

    @property
    def shape(self) -> tuple[int, ...]:
        return self.data.shape

    @property
    def dtype(self) -> np.dtype:
        return self.data.dtype

    @property
    def ndim(self) -> int:
        return self.data.ndim

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.data.shape)

    def numel(self) -> int:
        """Number of elements."""
        return self.size

    def dim(self) -> int:
        """Number of axes."""
        return self.ndim

    @property
    def nbytes(self) -> int:
        return self.size * self.dtype.itemsize

    @property
    def device(self) -> str:
        """Device of the backend that holds the array: ``cpu``, ``cuda`` or ``jax``."""
        return backend_of(self.data).device

    @property
    def is_leaf(self) -> bool:
        """True for a tensor that no recorded operation made."""
        return self._node is None

    @property
    def grad_fn(self) -> Node | None:
        """The node that made this tensor."""
        return self._node

    @property
    def _output_index(self) -> int:
        return self._edge[1] if self._edge else 0

    @property
    def version(self) -> int:
        """How often the memory was changed in place (shared by all views of it)."""
        return self._version if self._base is None else self._base._version

    @property
    def changed_at(self) -> int:
        """The engine's sequence number of the last in-place change of the memory; 0 if there was none."""
        return self._changed_at if self._base is None else self._base._changed_at

    def numpy(self) -> np.ndarray:
        """The values as a NumPy array; shares memory where the backend does. Raises RuntimeError if a gradient is
        required (detach() first)."""
        if state.tracer is not None:
            state.tracer.leak("numpy()")
        if self.requires_grad:
            raise RuntimeError("numpy(): this tensor requires a gradient; use tensor.detach().numpy()")
        return to_numpy(self.data)

    def item(self) -> Any:
        """The only element, as a Python scalar."""
        if state.tracer is not None:
            state.tracer.leak("item()")
        if self.size != 1:
            raise ValueError(f"item: expected a tensor with one element, got shape {self.shape}")
        return to_numpy(self.data).item()

    def tolist(self) -> Any:
        """The values as nested lists of Python scalars."""
        if state.tracer is not None:
            state.tracer.leak("tolist()")
        return to_numpy(self.data).tolist()

    # Autograd

    def requires_grad_(self, requires_grad: bool = True) -> Tensor:
        """Set ``requires_grad`` in place and return the tensor."""
        if requires_grad and self.dtype.kind not in "fcV":
            raise TypeError(f"requires_grad: only floating-point tensors can require gradients, got {self.dtype}")
        if not self.is_leaf and not requires_grad:
            raise RuntimeError("requires_grad_(False) on a tensor that an operation made; use detach()")
        self.requires_grad = requires_grad
        return self

    def backward(self, gradient: Any = None, retain_graph: bool | None = None, create_graph: bool = False) -> None:
        """Add the gradient of this tensor with respect to every leaf to that leaf's ``.grad``.

        ``gradient`` (same shape) may be left out for a tensor with one element. Saved values are freed on the way
        unless ``retain_graph``; ``create_graph`` records the backward pass itself, for gradients of gradients.
        """
        if not self.requires_grad:
            raise RuntimeError("backward: this tensor does not require a gradient and no operation recorded it")
        engine.backward([self], [self._starting_grad(gradient)], retain_graph=retain_graph, create_graph=create_graph)

    def _starting_grad(self, gradient: Any) -> Tensor:
        if gradient is None:
            if self.size != 1:
                raise RuntimeError(
                    f"backward: a gradient argument is needed for a tensor of shape {self.shape}; "
                    "only a tensor with one element has the default 1"
                )
            return Tensor._from_node(backend_of(self.data).xp.ones(self.shape, self.dtype), None, 0)
        gradient = as_tensor(gradient)
        if gradient.shape != self.shape:
            raise ValueError(f"backward: gradient has shape {gradient.shape}, expected {self.shape}")
        return gradient if gradient.dtype == self.dtype else gradient.astype(self.dtype)

    def detach(self) -> Tensor:
        """The same memory, cut off from the graph."""
        t = Tensor._from_node(self.data, None, 0)
        t._base = self if self._base is None else self._base
        return t

    def retain_grad(self) -> Tensor:
        """Have ``backward()`` fill ``.grad`` of this tensor although it is not a leaf."""
        if not self.requires_grad:
            raise RuntimeError("retain_grad: this tensor does not require a gradient")
        if self._node is not None:
            if self._node.retain is None:
                self._node.retain = {}
            self._node.retain[self._output_index] = weakref.ref(self)
        return self

    def register_hook(self, hook: Callable[[Tensor], Tensor | None]) -> HookHandle:
        """Call ``hook(grad)`` when this tensor's gradient is known; what it returns, if anything, replaces the
        gradient. Returns a handle with ``remove()``."""
        if not self.requires_grad:
            raise RuntimeError("register_hook: this tensor does not require a gradient")
        if self._node is None:
            if self._hooks is None:
                self._hooks = {}
            handle = HookHandle(self._hooks)
            self._hooks[handle] = hook
        else:
            if self._node.hooks is None:
                self._node.hooks = {}
            handle = HookHandle(self._node.hooks)
            self._node.hooks[handle] = (self._output_index, hook)
        return handle

    # In-place changes

    def _bump(self) -> None:
        """Note that the memory changed: gradients that still need the old values will refuse to run."""
        now = next_in_sequence()
        for t in (self,) if self._base is None else (self, self._base):
            t._version += 1
            t._changed_at = now
            if t._node is not None:
                t._node.clobbered = True

    def _note_view(self, view: Tensor) -> None:
        """Remember a view, because an in-place change that is recorded makes its place in the graph wrong. (A leaf that
        requires a gradient cannot be changed so.)"""
        if self._views is None:
            self._views = []
        elif len(self._views) > 64:
            self._views = [r for r in self._views if r() is not None]
        self._views.append(weakref.ref(view))

    def assign_(self, value: Any) -> Tensor:
        """Take over the values of ``value`` (broadcast, cast to this dtype), in place and unrecorded."""
        array = value.data if isinstance(value, Tensor) else value
        if state.tracer is not None:
            state.tracer.assign(self, array)
        if isinstance(self.data, _ndarray):
            self.data[...] = to_numpy(array)
        else:
            backend = backend_of(self.data)
            array = backend.xp.broadcast_to(backend.asarray(array, dtype=self.dtype), self.shape)
            self.data = array
        self._bump()
        return self

    copy_ = assign_

    def zero_(self) -> Tensor:
        """Fill with zeros, in place and unrecorded."""
        return self.assign_(0)

    def fill_(self, value: float) -> Tensor:
        """Fill with ``value``, in place and unrecorded."""
        return self.assign_(value)

    def _become(self, new: Tensor, op: str) -> Tensor:
        """Make this tensor (same object, same memory) the result of a recorded operation on its old value."""
        if new.shape != self.shape:
            raise ValueError(f"{op}: result of shape {new.shape} does not fit in place into shape {self.shape}")
        if not np.can_cast(new.dtype, self.dtype, "same_kind"):
            raise TypeError(f"{op}: result of dtype {new.dtype} cannot be stored in place in {self.dtype}")
        if new.requires_grad:
            if self.is_leaf and self.requires_grad:
                raise RuntimeError(f"{op}: a leaf that requires a gradient cannot be changed in place; use no_grad()")
            if self._base is not None:
                raise RuntimeError(f"{op}: a view cannot be changed in place while gradients are recorded; clone() it")
            self._keep_old_value_for(new._node)
        array = new.data
        if state.tracer is not None:
            state.tracer.assign(self, array)
        if isinstance(self.data, _ndarray):
            self.data[...] = array
        else:
            self.data = array.astype(self.dtype)
        self._bump()
        if new.requires_grad:
            retained = self._node and self._node.retain and self._node.retain.pop(self._output_index, None)
            self._node, self._edge, self.requires_grad = new._node, new._edge, True
            if retained:
                self.retain_grad()
            for view in [v for r in self._views or () if (v := r()) is not None]:
                view._node, view._edge, view.requires_grad = Node(_stale_view, (self,), {}, 1, view.data), None, True
            self._views = None
        return self

    def _keep_old_value_for(self, node: Node) -> None:
        """Where ``node`` keeps this tensor, whose memory is about to change, let it keep a copy instead."""
        kept = node.saved if type(node.saved) is dict else dict(enumerate(node.saved))
        if any(t is self for t in kept.values()):
            old = ops.copy(self.detach())
            old._node, old._edge, old.requires_grad = self._node, self._edge, self.requires_grad
            node.saved = {i: old if t is self else t for i, t in kept.items()}

    def __iadd__(self, other: Any) -> Tensor:
        return self._become(ops.add(self, other), "+=")

    def __isub__(self, other: Any) -> Tensor:
        return self._become(ops.sub(self, other), "-=")

    def __imul__(self, other: Any) -> Tensor:
        return self._become(ops.mul(self, other), "*=")

    def __itruediv__(self, other: Any) -> Tensor:
        return self._become(ops.div(self, other), "/=")

    def add_(self, other: Any, alpha: float = 1) -> Tensor:
        """Add ``alpha * other`` in place."""
        return self._become(ops.add(self, other if alpha == 1 else ops.mul(other, alpha)), "add_")

    def mul_(self, other: Any) -> Tensor:
        """Multiply by ``other`` in place."""
        return self._become(ops.mul(self, other), "mul_")

    def __setitem__(self, index: Any, value: Any) -> None:
        recorded = mode.enabled and (self.requires_grad or getattr(value, "requires_grad", False))
        if not recorded and type(self.data) is _ndarray and state.tracer is None:
            self.data[_plain_index(index)] = value.data if isinstance(value, Tensor) else value
            self._bump()
            return
        self._become(ops.setitem(self, value, index), "index assignment")

    # Operators: a NumPy array or a Python scalar may stand on either side

    def __add__(self, other: Any) -> Tensor:
        return _apply_binary(ops.add, self, other) if type(other) in _FAST or _operand(other) else NotImplemented

    def __radd__(self, other: Any) -> Tensor:
        return _apply_binary(ops.add, other, self) if type(other) in _FAST or _operand(other) else NotImplemented

    def __sub__(self, other: Any) -> Tensor:
        return _apply_binary(ops.sub, self, other) if type(other) in _FAST or _operand(other) else NotImplemented

    def __rsub__(self, other: Any) -> Tensor:
        return _apply_binary(ops.sub, other, self) if type(other) in _FAST or _operand(other) else NotImplemented

    def __mul__(self, other: Any) -> Tensor:
        return _apply_binary(ops.mul, self, other) if type(other) in _FAST or _operand(other) else NotImplemented

    def __rmul__(self, other: Any) -> Tensor:
        return _apply_binary(ops.mul, other, self) if type(other) in _FAST or _operand(other) else NotImplemented

    def __truediv__(self, other: Any) -> Tensor:
        return _apply_binary(ops.div, self, other) if type(other) in _FAST or _operand(other) else NotImplemented

    def __rtruediv__(self, other: Any) -> Tensor:
        return _apply_binary(ops.div, other, self) if type(other) in _FAST or _operand(other) else NotImplemented

    def __floordiv__(self, other: Any) -> Tensor:
        return (
            _apply_binary(ops.floor_divide, self, other) if type(other) in _FAST or _operand(other) else NotImplemented
        )

    def __rfloordiv__(self, other: Any) -> Tensor:
        return (
            _apply_binary(ops.floor_divide, other, self) if type(other) in _FAST or _operand(other) else NotImplemented
        )

    def __mod__(self, other: Any) -> Tensor:
        return _apply_binary(ops.remainder, self, other) if type(other) in _FAST or _operand(other) else NotImplemented

    def __rmod__(self, other: Any) -> Tensor:
        return _apply_binary(ops.remainder, other, self) if type(other) in _FAST or _operand(other) else NotImplemented

    def __pow__(self, other: Any) -> Tensor:
        return _apply_binary(ops.pow, self, other) if type(other) in _FAST or _operand(other) else NotImplemented

    def __rpow__(self, other: Any) -> Tensor:
        return _apply_binary(ops.pow, other, self) if type(other) in _FAST or _operand(other) else NotImplemented

    def __matmul__(self, other: Any) -> Tensor:
        return _apply_binary(ops.matmul, self, other) if type(other) in _FAST or _operand(other) else NotImplemented

    def __rmatmul__(self, other: Any) -> Tensor:
        return _apply_binary(ops.matmul, other, self) if type(other) in _FAST or _operand(other) else NotImplemented

    def __neg__(self) -> Tensor:
        return _apply_unary(ops.neg, self)

    def __pos__(self) -> Tensor:
        return _apply_unary(ops.positive, self)

    def __abs__(self) -> Tensor:
        return _apply_unary(ops.abs, self)

    def __eq__(self, other: Any) -> Tensor:  # type: ignore[override]
        return _apply_binary(ops.equal, self, other) if type(other) in _FAST or _operand(other) else NotImplemented

    def __ne__(self, other: Any) -> Tensor:  # type: ignore[override]
        return _apply_binary(ops.not_equal, self, other) if type(other) in _FAST or _operand(other) else NotImplemented

    def __lt__(self, other: Any) -> Tensor:
        return _apply_binary(ops.less, self, other) if type(other) in _FAST or _operand(other) else NotImplemented

    def __le__(self, other: Any) -> Tensor:
        return _apply_binary(ops.less_equal, self, other) if type(other) in _FAST or _operand(other) else NotImplemented

    def __gt__(self, other: Any) -> Tensor:
        return _apply_binary(ops.greater, self, other) if type(other) in _FAST or _operand(other) else NotImplemented

    def __ge__(self, other: Any) -> Tensor:
        return (
            apply(ops.greater_equal, (self, other), {}) if type(other) in _FAST or _operand(other) else NotImplemented
        )

    def __and__(self, other: Any) -> Tensor:
        return (
            _apply_binary(ops.logical_and, self, other) if type(other) in _FAST or _operand(other) else NotImplemented
        )

    __rand__ = __and__

    def __or__(self, other: Any) -> Tensor:
        return _apply_binary(ops.logical_or, self, other) if type(other) in _FAST or _operand(other) else NotImplemented

    __ror__ = __or__

    def __xor__(self, other: Any) -> Tensor:
        return (
            _apply_binary(ops.logical_xor, self, other) if type(other) in _FAST or _operand(other) else NotImplemented
        )

    __rxor__ = __xor__

    def __invert__(self) -> Tensor:
        return _apply_unary(ops.logical_not, self)

    __hash__ = object.__hash__

    def __getitem__(self, index: Any) -> Tensor:
        return ops.getitem(self, index)

    # Protocols

    def __len__(self) -> int:
        if self.ndim == 0:
            raise TypeError("len() of a 0-d tensor")
        return self.shape[0]

    def __iter__(self) -> Iterator[Tensor]:
        if self.ndim == 0:
            raise TypeError("iteration over a 0-d tensor")
        return (self[i] for i in range(self.shape[0]))

    def __bool__(self) -> bool:
        if self.size != 1:
            raise ValueError(f"the truth value of a tensor of shape {self.shape} is ambiguous; use .any() or .all()")
        return bool(self.item())

    def __float__(self) -> float:
        return float(self.item())

    def __int__(self) -> int:
        return int(self.item())

    def __index__(self) -> int:
        if self.dtype.kind not in "iub":
            raise TypeError(f"only integer tensors with one element can be used as an index, got {self.dtype}")
        return int(self.item())

    def __contains__(self, value: Any) -> bool:
        return bool((self == value).any())

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        if state.tracer is not None:
            state.tracer.leak("np.asarray(tensor)")
        if self.requires_grad:
            raise RuntimeError("np.asarray(tensor): this tensor requires a gradient; use tensor.detach()")
        return np.array(to_numpy(self.data), dtype=dtype, copy=copy)

    def __dlpack__(self, **kwargs: Any) -> Any:
        if self.requires_grad:
            raise BufferError("__dlpack__: this tensor requires a gradient; use tensor.detach()")
        return self.data.__dlpack__(**kwargs)

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.data.__dlpack_device__()

    def __copy__(self) -> Tensor:
        return self.clone()

    def __deepcopy__(self, memo: dict) -> Tensor:
        if not self.is_leaf:
            raise RuntimeError("deepcopy: only leaf tensors can be copied deeply; use detach() or clone()")
        t = type(self).__new__(type(self))
        own = ("_hooks", "_base", "_version", "_changed_at", "_views")
        t.__dict__.update({k: v for k, v in self.__dict__.items() if k not in own})
        t.data, t.requires_grad, t._node = self.data.copy(), self.requires_grad, None
        t.grad = None if self.grad is None else self.grad.detach().clone()
        memo[id(self)] = t
        return t

    def __reduce__(self) -> Any:
        return _rebuild, (type(self), to_numpy(self.data), self.requires_grad and self.is_leaf)

    def __repr__(self) -> str:
        if state.tracer is not None:
            state.tracer.leak("printing a tensor")
        body = np.array2string(to_numpy(self.data), separator=", ", prefix="tensor(")
        extra = ""
        if self.dtype not in (default_dtype(), np.dtype(np.int64), np.dtype(bool)):
            extra += f", dtype={self.dtype}"
        if self.device != "cpu":
            extra += f", device={self.device!r}"
        if self._node is not None:
            extra += f", grad_fn=<{self._node.prim.name}>"
        elif self.requires_grad:
            extra += ", requires_grad=True"
        return f"tensor({body}{extra})"

    def __format__(self, spec: str) -> str:
        return format(self.item(), spec) if self.ndim == 0 and spec else str(self)

    # Conversions

    def clone(self) -> Tensor:
        """A copy in memory of its own; gradients flow through it."""
        return ops.copy(self)

    copy = clone

    def astype(self, dtype: Any) -> Tensor:
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

    def to(self, target: Any) -> Tensor:
        """Convert to a dtype, or move to the backend of that name (unrecorded)."""
        if isinstance(target, str):
            from_name = {"cpu": "numpy", "cuda": "cupy"}.get(target, target)
            if from_name in ("cupy", "jax", "numpy", "numba", "auto") or not is_dtype_name(target):
                array = load(from_name).asarray(self.data)
                if array is self.data:
                    return self
                t = Tensor._from_node(array, None, 0)
                t.requires_grad = self.requires_grad
                return t
        return self.astype(target)

    def contiguous(self) -> Tensor:
        return ops.contiguous(self)

    # Methods of the same name as their primitive

    def sum(self, axis: Any = None, keepdims: bool = False) -> Tensor:
        return _reduce(ops.sum, self, axis, keepdims)

    def mean(self, axis: Any = None, keepdims: bool = False) -> Tensor:
        return _reduce(ops.mean, self, axis, keepdims)

    def var(self, axis: Any = None, keepdims: bool = False, correction: float = 1) -> Tensor:
        return ops.var(self, axis=axis, keepdims=keepdims, correction=correction)

    def std(self, axis: Any = None, keepdims: bool = False, correction: float = 1) -> Tensor:
        return ops.std(self, axis=axis, keepdims=keepdims, correction=correction)

    def max(self, axis: Any = None, keepdims: bool = False) -> Tensor:
        return _reduce(ops.max, self, axis, keepdims)

    def min(self, axis: Any = None, keepdims: bool = False) -> Tensor:
        return _reduce(ops.min, self, axis, keepdims)

    def prod(self, axis: Any = None, keepdims: bool = False) -> Tensor:
        return _reduce(ops.prod, self, axis, keepdims)

    def logsumexp(self, axis: Any = None, keepdims: bool = False) -> Tensor:
        return ops.logsumexp(self, axis=axis, keepdims=keepdims)

    def norm(self, ord: Any = 2, axis: Any = None, keepdims: bool = False) -> Tensor:
        return ops.norm(self, ord=ord, axis=axis, keepdims=keepdims)

    def any(self, axis: Any = None, keepdims: bool = False) -> Tensor:
        return _reduce(ops.any, self, axis, keepdims)

    def all(self, axis: Any = None, keepdims: bool = False) -> Tensor:
        return _reduce(ops.all, self, axis, keepdims)

    def argmax(self, axis: Any = None, keepdims: bool = False) -> Tensor:
        return ops.argmax(self, axis=axis, keepdims=keepdims)

    def argmin(self, axis: Any = None, keepdims: bool = False) -> Tensor:
        return ops.argmin(self, axis=axis, keepdims=keepdims)

    def cumsum(self, axis: Any) -> Tensor:
        return ops.cumsum(self, axis=axis)

    def reshape(self, *shape: Any) -> Tensor:
        return ops.reshape(self, shape=_ints(shape))

    view = reshape

    def flatten(self, start_dim: Any = 0, end_dim: Any = -1) -> Tensor:
        return ops.flatten(self, start_dim, end_dim)

    def transpose(self, *axes: Any) -> Tensor:
        """``transpose(a, b)`` swaps two axes (PyTorch); ``transpose()`` reverses them and ``transpose(axes)`` permutes
        them (NumPy). NumPy's ``transpose(0, 1)`` of a matrix, which does nothing, is not meant by anybody."""
        if len(axes) == 2:
            return ops.swapaxes(self, *axes)
        axes = _ints(axes)
        return ops.permute(self, axes=axes or tuple(range(self.ndim))[::-1])

    def permute(self, *axes: Any) -> Tensor:
        return ops.permute(self, axes=_ints(axes))

    def swapaxes(self, axis1: Any, axis2: Any) -> Tensor:
        return ops.swapaxes(self, axis1, axis2)

    @property
    def T(self) -> Tensor:
        return ops.permute(self, axes=tuple(range(self.ndim))[::-1])

    @property
    def mT(self) -> Tensor:
        """The last two axes swapped."""
        return ops.swapaxes(self, -1, -2)

    def expand(self, *shape: Any) -> Tensor:
        return ops.expand(self, shape=_ints(shape))

    def squeeze(self, axis: Any = None) -> Tensor:
        return ops.squeeze(self, axis=axis)

    def unsqueeze(self, axis: Any) -> Tensor:
        return ops.unsqueeze(self, axis=axis)

    def split(self, sizes: Any, axis: Any = 0) -> tuple[Tensor, ...]:
        return ops.split(self, sizes, axis)

    def chunk(self, chunks: Any, axis: Any = 0) -> tuple[Tensor, ...]:
        return ops.chunk(self, chunks, axis)

    def gather(self, axis: Any, index: Any) -> Tensor:
        return ops.gather(self, index, axis=axis)

    def masked_fill(self, mask: Any, value: Any) -> Tensor:
        return ops.masked_fill(self, mask, value)

    def clip(self, min: Any = None, max: Any = None) -> Tensor:
        return ops.clip(self, min=min, max=max)

    clamp = clip

    def exp(self) -> Tensor:
        return _apply_unary(ops.exp, self)

    def log(self) -> Tensor:
        return _apply_unary(ops.log, self)

    def sqrt(self) -> Tensor:
        return _apply_unary(ops.sqrt, self)

    def abs(self) -> Tensor:
        return _apply_unary(ops.abs, self)

    def pow(self, exponent: Any) -> Tensor:
        return ops.pow(self, exponent)

    def square(self) -> Tensor:
        return _apply_unary(ops.square, self)

    def sin(self) -> Tensor:
        return _apply_unary(ops.sin, self)

    def cos(self) -> Tensor:
        return _apply_unary(ops.cos, self)

    def tanh(self) -> Tensor:
        return _apply_unary(ops.tanh, self)

    def sigmoid(self) -> Tensor:
        return _apply_unary(ops.sigmoid, self)

    def relu(self) -> Tensor:
        return _apply_unary(ops.relu, self)

    def softmax(self, axis: Any = -1) -> Tensor:
        return ops.softmax(self, axis=axis)

    def log_softmax(self, axis: Any = -1) -> Tensor:
        return ops.log_softmax(self, axis=axis)

    def matmul(self, other: Any) -> Tensor:
        return _apply_binary(ops.matmul, self, other)


for _name, _method in vars(Tensor).items():
    if callable(_method) and not _method.__doc__:
        _method.__doc__ = getattr(ops, _name, _method).__doc__

_FAST = frozenset((Tensor, float, int, _ndarray))
_OPERANDS = (Tensor, _ndarray, int, float, bool, np.generic, complex)


def _operand(other: Any) -> bool:
    """Whether an operator takes ``other``; if not, Python may ask the other side, then raises TypeError."""
    return isinstance(other, _OPERANDS) or hasattr(other, "dtype") or isinstance(other, list)


def _rebuild(cls: type, array: np.ndarray, requires_grad: bool) -> Tensor:
    t = cls.__new__(cls)
    t.data, t.requires_grad, t._node = array, requires_grad, None
    return t


def is_dtype_name(name: str) -> bool:
    """Is it a dtype's name, such as "float32", and not a device's?"""
    try:
        np.dtype(name)
    except TypeError:
        return False
    return True


def _ints(values: tuple) -> tuple[int, ...]:
    """``f(2, 3)`` and ``f((2, 3))`` mean the same."""
    return tuple(values[0]) if len(values) == 1 and isinstance(values[0], (tuple, list)) else values


def _plain_index(index: Any) -> Any:
    if isinstance(index, tuple):
        return tuple(_plain_index(i) for i in index)
    return index.data if isinstance(index, Tensor) else index


def _make_array(data: Any, dtype: Any, backend: Any, device: str | None) -> Any:
    """An array of ``backend`` from anything array-like; Python floats take the default dtype."""
    if state.tracer is not None and dtype is None and device is None and state.tracer.knows(data):
        return data
    if isinstance(data, (list, tuple)) and any(isinstance(x, Tensor) for x in data):
        data = [x.detach().numpy() if isinstance(x, Tensor) else x for x in data]
    if isinstance(data, (_ndarray, np.generic)) or not hasattr(data, "dtype"):
        try:
            array = np.asarray(data)
        except ValueError as error:
            raise ValueError(f"Tensor: the nested lists do not make an array ({error})") from None
        if array.dtype.kind not in "fiubcV":
            raise TypeError(f"Tensor: cannot make a tensor of {type(data).__name__} with dtype {array.dtype}")
        python_floats = array.dtype == np.float64 and not _holds_float64(data)
        if dtype is None and python_floats:
            dtype = default_dtype()
        return backend.asarray(array, dtype=dtype)
    home = backend if device is not None else backend_of(data)
    if home.array_type is _ndarray and not isinstance(data, _ndarray):
        data = to_numpy(data)  # of another device, or of a library that is no backend, such as PyTorch
    return home.asarray(data, dtype=dtype) if device is not None or dtype is not None else data


def _holds_float64(data: Any) -> bool:
    """Does a nested list contain NumPy float64 values, whose dtype is meant to be kept?"""
    while isinstance(data, (list, tuple)) and len(data):
        data = data[0]
    return isinstance(data, (_ndarray, np.generic)) and data.dtype == np.float64


def as_tensor(value: Any, dtype: Any = None) -> Tensor:
    """``value`` itself if it is a Tensor (of that dtype), else a Tensor of it."""
    if isinstance(value, Tensor):
        return value if dtype is None else value.astype(dtype)
    return Tensor(value, dtype=dtype)


def tensor(data: Any, dtype: Any = None, requires_grad: bool = False, device: str | None = None) -> Tensor:
    """A new tensor with a copy of ``data``."""
    if isinstance(data, (_ndarray, Tensor)):
        data = data.copy() if isinstance(data, _ndarray) else data.detach().clone()
    return Tensor(data, requires_grad=requires_grad, dtype=dtype, device=device)


def from_dlpack(x: Any) -> Tensor:
    """A tensor on the memory of any object that speaks DLPack (PyTorch, CuPy, JAX, ...)."""
    backend = get_backend()
    device_type = x.__dlpack_device__()[0]
    if device_type == 1:
        return Tensor._from_node(np.from_dlpack(x), None, 0)
    return Tensor._from_node(backend.xp.from_dlpack(x), None, 0)
