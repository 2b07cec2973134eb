"""How a call of a primitive is served: choose a kernel, compute on plain arrays, record what Tensors will need.

:func:`apply` is the plain way: bring the inputs to one dtype, :func:`run` on their arrays, and :func:`record` the
result. :func:`unary` and :func:`binary` are its fast twins for the commonest calls, one or two floating-point arrays
where nothing has to be chosen, converted or watched: they do the same in half the time. Within ``using(fast=False)``
everything goes the plain way.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from minidl.core.context import Context, current
from minidl.core.dtypes import default_dtype, half_among, result_dtype, rounded, widened
from minidl.core.errors import AnomalyError, BackendError, describe, explained
from minidl.core.graph import Node, has_nan, node_of_one, node_of_two, user_line
from minidl.core.registry import Backend, Kernel, _host_backend, backend_of, device_types, primitives, serving
from minidl.core.shown import link_shown
from minidl.core.tensor import Tensor, as_device_array, base_array

if TYPE_CHECKING:
    from minidl.core.primitive import Primitive

_ndarray = np.ndarray
_asarray = np.asarray
_new = object.__new__
_NO_PARAMS: dict = {}
_FLOATS = frozenset((np.dtype(np.float32), np.dtype(np.float64)))


# Computing on plain arrays


def choose(prim: Primitive, backend: Backend, arrays: Any, params: dict) -> Kernel | None:
    """The kernel that serves a call on ``backend``, the backend's own or its parent's; None: the formula does.

    In strict mode, raises BackendError unless it is one of the backend's own; the formula alone is as good where the
    backend has no parent and is NumPy's.
    """
    k = _first_accepting(serving(backend, prim.name), arrays, params)
    if current().strict and backend.name != "numpy" and (k is None or k.backend != backend.name):
        raise BackendError(
            f"strict mode: backend {backend.name!r} has no kernel that accepts {prim.name}"
            f"({', '.join(map(describe, arrays))}, {params}); see minidl.backend.explain({prim.name!r})"
        )
    return k


def _first_accepting(kernels: Iterable[Kernel], arrays: Any, params: dict) -> Kernel | None:
    for k in kernels:
        if k.when is None or k.when(*arrays, **params):
            return k
    return None


def compute(prim: Primitive, arrays: Any, params: dict) -> Any:
    """Compute on plain arrays, by the kernel of the arrays' backend that accepts the call, else by the formula."""
    backend, arrays = _place(arrays) if device_types else (current().backend, arrays)
    if params and backend.array_type is not _ndarray:  # other libraries take NumPy's scalars seriously
        params = {k: v.item() if isinstance(v, np.generic) else v for k, v in params.items()}
    if prim.half is not False and (half := half_among(arrays)) is not None:
        return _compute_half(prim, backend, arrays, params, half)
    try:
        k = choose(prim, backend, arrays, params)
        return (prim.reference if k is None else k.function)(*arrays, **params)
    except Exception as error:
        raise explained(prim, error, arrays, params).with_traceback(error.__traceback__) from None


def _compute_half(prim: Primitive, backend: Backend, arrays: Any, params: dict, half: np.dtype) -> Any:
    """Compute by a kernel that lists float16, which adds up in float32 by itself; else compute in float32, and round
    the results that ``prim.half`` names back to half precision."""
    k = _first_accepting((k for k in serving(backend, prim.name) if "float16" in k.dtypes), arrays, params)
    if k is not None:
        return k.function(*arrays, **params)
    out = compute(prim, [widened(a) for a in arrays], params)
    with np.errstate(over="ignore"):  # of what is too large for float16
        if type(out) is tuple:
            return tuple(
                rounded(o, half) if prim.half is True or (prim.half and i in prim.half) else o
                for i, o in enumerate(out)
            )
        return rounded(out, half) if prim.half else out


def run(prim: Primitive, arrays: Any, params: dict) -> Any:
    """:func:`compute`, in sight of the tracer if a step is being captured."""
    tracer = current().tracer
    return compute(prim, arrays, params) if tracer is None else tracer.run(prim, arrays, params, compute)


def _place(arrays: Any) -> tuple[Backend, Any]:
    """The backend of a call whose arrays may live on a device; host constants are moved beside them."""
    for a in arrays:
        if type(a) is not _ndarray and hasattr(a, "dtype") and not isinstance(a, np.generic):
            backend = backend_of(a)
            if backend.array_type is not _ndarray:
                return backend, [backend.asarray(b) if isinstance(b, (_ndarray, np.generic)) else b for b in arrays]
    return (_host_backend() if arrays else current().backend), arrays


# Bringing inputs to one dtype

_SCALARS = (int, float, bool, complex)


def promote(prim: Primitive, args: tuple) -> tuple:
    """Bring the arrays among ``args`` to one dtype by the rules that :func:`minidl.core.primitive.primitive` states."""
    first = None
    mixed = False
    for a in args:
        dt = getattr(a, "dtype", None)
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


def _promote_mixed(prim: Primitive, args: Any) -> tuple:
    if list in map(type, args):
        args = [_array_of_list(a) if type(a) is list else a for a in args]
    if any(isinstance(a, np.generic) for a in args) and not all(isinstance(a, (*_SCALARS, np.generic)) for a in args):
        # beside an array, a NumPy scalar is as weak as Python's: 2 * np.sqrt(3) must not turn a model to float64
        args = [a.item() if isinstance(a, np.generic) else a for a in args]
    dtypes = [a.dtype for a in args if hasattr(a, "dtype")]
    target = result_dtype(dtypes, [a for a in args if type(a) in _SCALARS], prim.promote == "float")
    out = []
    for a in args:
        dt = getattr(a, "dtype", None)
        if dt is None and not dtypes and type(a) in _SCALARS:
            out.append(np.asarray(a, dtype=target))
        elif dt is not None and dt != target:
            out.append(primitives["astype"](a, dtype=target))
        else:
            out.append(a)
    return tuple(out)


def _array_of_list(values: list) -> np.ndarray:
    array = np.asarray(values)
    return array.astype(default_dtype()) if array.dtype == np.float64 else array


# Tensors: the plain way


def apply(prim: Primitive, args: tuple, params: dict) -> Any:
    """Run a primitive whose inputs include Tensors; returns Tensor(s), recorded if a gradient may be wanted."""
    if prim.promote is not None:
        args = promote(prim, args)
    return record(prim, args, params, run(prim, [a.array if isinstance(a, Tensor) else a for a in args], params))


def record(prim: Primitive, args: tuple, params: dict, out: Any) -> Any:
    """The array(s) ``out`` that a call made, as Tensor(s) with the node that made them."""
    here = current()
    needs = 0
    if here.recording and prim.differentiable:
        for i, a in enumerate(args):
            if isinstance(a, Tensor) and a.requires_grad:
                needs |= 1 << i
    result: Any
    if type(out) is tuple:
        out = tuple(map(as_device_array, out))
        node = Node(prim, args, params, needs, out) if needs else None
        result = tuple([Tensor._from_node(o, node, i, True) for i, o in enumerate(out)])
    else:
        out = as_device_array(out)
        node = Node(prim, args, params, needs, out) if needs and out.dtype.kind in "fcV" else None
        result = Tensor._from_node(out, node)
    for i, t in enumerate(result if type(result) is tuple else (result,)):
        if isinstance(t.array, _ndarray):
            if t.array.base is not None:
                _link_view(t, args)
        elif prim.view and isinstance(args[0], Tensor) and not backend_of(t.array).mutable:
            link_shown(t, prim, args, params, i)
    if here.special:
        _attend(here, prim, args, params, result)
    return result


def _link_view(result: Tensor, args: tuple) -> None:
    """Views share a version counter with the tensor whose memory they show."""
    out = base_array(result.array)
    for a in args:
        if isinstance(a, Tensor) and isinstance(a.array, _ndarray) and np.may_share_memory(out, base_array(a.array)):
            base = result._base = a if a._base is None else a._base
            if not (base.requires_grad and base._node is None):
                base._note_view(result)
            return


def _attend(here: Context, prim: Primitive, args: tuple, params: dict, result: Any) -> None:
    if here.anomaly and any(has_nan(o.array) for o in (result if isinstance(result, tuple) else (result,))):
        came_in = any(has_nan(a.array) for a in args if isinstance(a, Tensor))
        origin = "passed on a NaN from its inputs" if came_in else "made a NaN"
        raise AnomalyError(f"{prim.name}({', '.join(map(describe, args))}) {origin} at {user_line()}")
    if here.observer is not None:
        here.observer(prim, args, params, result)


# Tensors: the fast twins


def unary(prim: Primitive, x: Any, params: dict = _NO_PARAMS) -> Any:
    """:func:`apply` for one input."""
    here = current()
    data = x.array
    function = here.direct[prim]
    if function is None or type(data) is not _ndarray or data.dtype not in _FLOATS:
        return apply(prim, (x,), dict(params))
    try:
        out = function(data, **params) if params else function(data)
    except Exception as error:
        raise explained(prim, error, (data,), params).with_traceback(error.__traceback__) from None
    if type(out) is not _ndarray:
        if type(out) is tuple:
            return record(prim, (x,), params, out)
        out = _asarray(out)
    result = _new(Tensor)
    result.array = out
    if x.requires_grad and here.recording and prim.differentiable and (out.dtype in _FLOATS or out.dtype.kind in "fcV"):
        result._node = node_of_one(prim, x, data.shape, params, out)
        result.requires_grad = True
    else:
        result._node = None
        result.requires_grad = False
    if out.base is not None:
        _link_view(result, (x,))
    return result


def binary(prim: Primitive, x: Any, y: Any) -> Any:
    """:func:`apply` for the operators: two operands of one floating-point dtype, or one and a Python number."""
    here = current()
    function = here.direct[prim]
    needs = 0
    if isinstance(x, Tensor):
        xd = x.array
        if x.requires_grad:
            needs = 1
    else:
        xd = x
    if isinstance(y, Tensor):
        yd = y.array
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
    if not plain or function is None:
        return apply(prim, (x, y), {})
    try:
        out = function(xd, yd)
    except Exception as error:
        raise explained(prim, error, (xd, yd), _NO_PARAMS).with_traceback(error.__traceback__) from None
    if type(out) is not _ndarray:
        out = _asarray(out)
    result = _new(Tensor)
    result.array = out
    if needs and here.recording and prim.differentiable:
        result._node = node_of_two(
            prim, x, y, xd.shape if tx is _ndarray else (), yd.shape if ty is _ndarray else (), needs, out
        )
        result.requires_grad = True
    else:
        result._node = None
        result.requires_grad = False
    return result
