"""Tensor: an array, and, if it needs a gradient, the node of the graph that made it.

Its operators, and the methods that are operations, are in :mod:`minidl.ops.methods`; changes in place in
:mod:`minidl.core.views`.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from minidl.core import backward as engine
from minidl.core import shown, trace
from minidl.core.context import current
from minidl.core.device import backend_for
from minidl.core.device import device as as_device
from minidl.core.dtypes import default_dtype
from minidl.core.graph import Node, Traced, next_in_sequence
from minidl.core.hooks import HookHandle
from minidl.core.registry import Backend, backend_of, get_backend, to_numpy

if TYPE_CHECKING:
    from minidl.ops.methods import Methods
else:
    Methods = Traced

_ndarray = np.ndarray
_new = object.__new__


def as_device_array(out: Any) -> Any:
    """An array in place of a scalar that an array library returned."""
    return np.asarray(out) if isinstance(out, (np.generic, int, float, bool, complex)) else out


def base_array(array: Any) -> Any:
    """A plain ndarray on the memory of one that may be a subclass, as arrays are while a step is captured."""
    return array if type(array) is _ndarray else array.view(_ndarray)


class Size(tuple):
    """The lengths of a tensor's axes, as :meth:`Tensor.size` gives them."""

    def numel(self) -> int:
        """Their product."""
        return math.prod(self)

    def __repr__(self) -> str:
        return f"Size({list(self)})"


class Tensor(Methods):
    """An n-dimensional array that records what is done to it.

    Make one with :func:`tensor`, which copies, or :func:`as_tensor`, which shares an array's memory. Calling the class
    is PyTorch's older way: ``Tensor([1, 2])`` or ``Tensor(array)`` has the default dtype (float32) whatever the values
    are, and ``Tensor(2, 3)`` is an uninitialized tensor of that shape. Raises TypeError for another scalar.
    """

    # Slots are quicker than attributes with a class-level default; whoever makes a tensor sets all three.
    __slots__ = ("array", "requires_grad", "_node", "__dict__", "__weakref__")
    #: the array that holds the values, of its backend's type
    array: Any
    requires_grad: bool
    _node: Node | None

    _grad: Tensor | None = None
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

    def __init__(self, *data: Any, device: Any = None) -> None:
        value = data[0] if len(data) == 1 else data
        if all(isinstance(n, (int, np.integer)) for n in data):
            array = backend_for(device).asarray(np.empty(data if data else 0, default_dtype()))
        elif len(data) > 1 or (np.ndim(value) == 0 and not hasattr(value, "ndim")) or isinstance(value, np.generic):
            raise TypeError(
                f"Tensor: expected a sequence, an array or lengths of axes, got {data}; see minidl.tensor()"
            )
        else:
            array = array_of(value, default_dtype(), device)
        self.array, self.requires_grad, self._node = array, False, None

    @classmethod
    def _from_node(cls, array: Any, node: Node | None, index: int = 0, several: bool = False) -> Tensor:
        t = _new(Tensor)
        t.array, t.requires_grad, t._node = array if type(array) is _ndarray else as_device_array(array), False, None
        if node is not None and t.array.dtype.kind in "fcV":
            t._node, t.requires_grad = node, True
            if several:
                t._edge = (node, index)
        return t

    # What it is

    @property
    def shape(self) -> tuple[int, ...]:
        return self.array.shape

    @property
    def dtype(self) -> np.dtype:
        return self.array.dtype

    @property
    def ndim(self) -> int:
        return self.array.ndim

    def size(self, dim: int | None = None) -> Any:
        """The lengths of all axes, or of one: PyTorch's method. (:meth:`numel` counts the elements.)"""
        return Size(self.array.shape) if dim is None else self.array.shape[dim]

    def numel(self) -> int:
        """Number of elements."""
        return math.prod(self.array.shape)

    def dim(self) -> int:
        """Number of axes."""
        return self.ndim

    @property
    def nbytes(self) -> int:
        return self.numel() * self.dtype.itemsize

    @property
    def device(self) -> as_device:
        """Device of the backend that holds the array: ``cpu``, ``cuda`` or ``jax``."""
        return as_device(backend_of(self.array).device)

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
    def grad(self) -> Tensor | None:
        """The gradient that ``backward()`` has added up here; None if there is none."""
        tracer = current().tracer
        if tracer is not None:
            tracer.grad(self, False)
        return self._grad

    @grad.setter
    def grad(self, value: Any) -> None:
        tracer = current().tracer
        if tracer is not None:
            tracer.grad(self, True)
        self._grad = value

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
        trace.leaving("numpy()")
        if self.requires_grad:
            raise RuntimeError("numpy(): this tensor requires a gradient; use tensor.detach().numpy()")
        return to_numpy(self.array)

    def item(self) -> Any:
        """The only element, as a Python scalar."""
        trace.leaving("item()")
        if self.numel() != 1:
            raise ValueError(f"item: expected a tensor with one element, got shape {self.shape}")
        return to_numpy(self.array).item()

    def tolist(self) -> Any:
        """The values as nested lists of Python scalars."""
        trace.leaving("tolist()")
        return to_numpy(self.array).tolist()

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
            if self.numel() != 1:
                raise RuntimeError(
                    f"backward: a gradient argument is needed for a tensor of shape {self.shape}; "
                    "only a tensor with one element has the default 1"
                )
            return Tensor._from_node(backend_of(self.array).xp.ones(self.shape, self.dtype), None, 0)
        gradient = as_tensor(gradient)
        if gradient.shape != self.shape:
            raise ValueError(f"backward: gradient has shape {gradient.shape}, expected {self.shape}")
        return gradient if gradient.dtype == self.dtype else gradient.astype(self.dtype)

    @property
    def data(self) -> Tensor:
        """The same memory, cut off from the graph: what :meth:`detach` gives. Assigning a tensor (or an array) to it
        makes this tensor hold that memory, unrecorded."""
        return self.detach()

    @data.setter
    def data(self, value: Any) -> None:
        old, new = self.array, as_tensor(value).array
        trace.replaced(old, new, lambda: self.array, self._hold)
        self._hold(new)

    def _hold(self, array: Any) -> None:
        self.array = array
        self._bump()

    def _renew(self, array: Any) -> None:
        """Hold ``array``, which is nobody else's, as the new values of the same memory."""
        old, self.array = self.array, array
        self._bump()
        shown.spread(self, old)

    def detach(self) -> Tensor:
        """The same memory, cut off from the graph."""
        t = Tensor._from_node(self.array, None, 0)
        t._base = self if self._base is None else self._base
        if type(self.array) is not _ndarray and not backend_of(self.array).mutable:
            shown.link(t, self, lambda memory: memory)
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
            trace.world.version += 1
        else:
            if self._node.hooks is None:
                self._node.hooks = {}
            handle = HookHandle(self._node.hooks)
            self._node.hooks[handle] = (self._output_index, hook)
        return handle

    # Changes of the memory

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
        if self.numel() != 1:
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
        trace.leaving("np.asarray(tensor)")
        if self.requires_grad:
            raise RuntimeError("np.asarray(tensor): this tensor requires a gradient; use tensor.detach()")
        return np.array(to_numpy(self.array), dtype=dtype, copy=copy)

    def __dlpack__(self, **kwargs: Any) -> Any:
        if self.requires_grad:
            raise BufferError("__dlpack__: this tensor requires a gradient; use tensor.detach()")
        return self.array.__dlpack__(**kwargs)

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.array.__dlpack_device__()

    def __copy__(self) -> Tensor:
        return self.clone()

    def __deepcopy__(self, memo: dict) -> Tensor:
        if not self.is_leaf:
            raise RuntimeError("deepcopy: only leaf tensors can be copied deeply; use detach() or clone()")
        t = type(self).__new__(type(self))
        own = ("_hooks", "_base", "_version", "_changed_at", "_views")
        t.__dict__.update({k: v for k, v in self.__dict__.items() if k not in own})
        t.array, t.requires_grad, t._node = self.array.copy(), self.requires_grad, None
        t._grad = None if self._grad is None else self._grad.detach().clone()
        memo[id(self)] = t
        return t

    def __reduce__(self) -> Any:
        return _rebuild, (type(self), to_numpy(self.array), self.requires_grad and self.is_leaf)

    def __repr__(self) -> str:
        trace.leaving("printing a tensor")
        body = np.array2string(to_numpy(self.array), separator=", ", prefix="tensor(")
        extra = ""
        if self.dtype not in (default_dtype(), np.dtype(np.int64), np.dtype(bool)):
            extra += f", dtype={self.dtype}"
        if self.device != "cpu":
            extra += f", device={str(self.device)!r}"
        if self._node is not None:
            extra += f", grad_fn=<{self._node.prim.name}>"
        elif self.requires_grad:
            extra += ", requires_grad=True"
        return f"tensor({body}{extra})"

    def __format__(self, spec: str) -> str:
        return format(self.item(), spec) if self.ndim == 0 and spec else str(self)


def _rebuild(cls: type[Tensor], array: np.ndarray, requires_grad: bool) -> Tensor:
    t = cls.__new__(cls)
    t.array, t.requires_grad, t._node = array, requires_grad, None
    return t


def array_of(data: Any, dtype: Any = None, device: Any = None) -> Any:
    """An array on ``device`` (default: where ``data`` is, else the active backend's) of a Tensor, an array, or nested
    lists. An array is not copied, and keeps its dtype unless another is asked for."""
    backend = backend_for(device)
    if isinstance(data, Tensor):
        data = data.array
    elif (tracer := current().tracer) is not None and isinstance(data, _ndarray):
        tracer.wrapped(data)
    if type(data) is _ndarray and dtype is None and backend.array_type is _ndarray and data.dtype.kind in "fiubc":
        return data
    return _make_array(data, dtype, backend, device)


def _make_array(data: Any, dtype: Any, backend: Backend, device: Any) -> Any:
    """An array of ``backend`` from anything array-like; Python floats take the default dtype."""
    tracer = current().tracer
    if tracer is not None and dtype is None and device is None and tracer.knows(data):
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
        return trace.made(backend.asarray(array, dtype=dtype))
    home = backend if device is not None else backend_of(data)
    if home.array_type is _ndarray and not isinstance(data, _ndarray):
        data = to_numpy(data)  # of another device, or of a library that is no backend, such as PyTorch
    return home.asarray(data, dtype=dtype) if device is not None or dtype is not None else data


def _holds_float64(data: Any) -> bool:
    """Does a nested list contain NumPy float64 values, whose dtype is meant to be kept?"""
    while isinstance(data, (list, tuple)) and len(data):
        data = data[0]
    return isinstance(data, (_ndarray, np.generic)) and data.dtype == np.float64


def as_tensor(data: Any, dtype: Any = None, device: Any = None, requires_grad: bool = False) -> Tensor:
    """``data`` itself if it is such a Tensor already, else a Tensor of it: of nested lists, scalars, an array.

    Python floats become the default dtype (float32); an array keeps its own, and its memory is shared. With
    ``requires_grad``, a new leaf on the memory of ``data``.
    """
    if isinstance(data, Tensor) and not requires_grad:
        data = data if dtype is None else data.astype(dtype)
        return data if device is None else data.to(device)
    t = _new(Tensor)
    t.array, t.requires_grad, t._node = array_of(data, dtype, device), False, None
    return t.requires_grad_() if requires_grad else t


def tensor(
    data: Any, *, dtype: Any = None, device: Any = None, requires_grad: bool = False, pin_memory: bool = False
) -> Tensor:
    """A new tensor with a copy of ``data`` (see :func:`as_tensor`); ``pin_memory`` changes nothing."""
    if isinstance(data, (_ndarray, Tensor)):
        data = data.copy() if isinstance(data, _ndarray) else data.detach().clone()
    return as_tensor(data, dtype, device, requires_grad)


def from_dlpack(x: Any) -> Tensor:
    """A tensor on the memory of any object that speaks DLPack (PyTorch, CuPy, JAX, ...)."""
    backend = get_backend()
    device_type = x.__dlpack_device__()[0]
    if device_type == 1:
        return Tensor._from_node(np.from_dlpack(x), None, 0)
    return Tensor._from_node(backend.xp.from_dlpack(x), None, 0)
