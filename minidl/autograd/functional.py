"""Derivatives as functions of functions: grad, vjp, jvp, jacobian, hessian, and recomputation (checkpoint).

Every function here takes a Python function of Tensors and the point at which to differentiate it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from minidl import ops
from minidl.core.backward import backward
from minidl.core.context import current, enable_grad, using
from minidl.core.graph import Node, leaves, next_in_sequence
from minidl.core.tensor import Tensor, as_tensor
from minidl.random import default_generator


def _as_tuple(x: Any) -> tuple:
    return tuple(x) if isinstance(x, (tuple, list)) else (x,)


def gradients(
    outputs: Tensor | Sequence[Tensor],
    inputs: Tensor | Sequence[Tensor],
    grad_outputs: Tensor | Sequence[Tensor] | None = None,
    *,
    retain_graph: bool | None = None,
    create_graph: bool = False,
    allow_unused: bool = False,
) -> tuple[Tensor | None, ...]:
    """Gradients of ``sum(outputs * grad_outputs)`` for ``inputs``, without touching any ``.grad``.

    ``outputs`` without ``grad_outputs`` must have one element each. Raises RuntimeError for an input that the outputs
    do not depend on, unless ``allow_unused`` (then its gradient is ``None``).
    """
    outputs, inputs = _as_tuple(outputs), _as_tuple(inputs)
    gs = [None] * len(outputs) if grad_outputs is None else _as_tuple(grad_outputs)
    roots, starts = [], []
    for out, g in zip(outputs, gs, strict=True):
        if out.requires_grad:
            roots.append(out)
            starts.append(out._starting_grad(g))
    found = backward(roots, starts, inputs=inputs, retain_graph=retain_graph, create_graph=create_graph)
    assert found is not None  # as inputs were given
    if not allow_unused:
        for i, g in enumerate(found):
            if g is None:
                raise RuntimeError(
                    f"gradients: input {i} of shape {inputs[i].shape} was not used to compute the outputs (or does not "
                    "require a gradient); pass allow_unused=True to get None for it"
                )
    return tuple(found)


def _point(x: Any) -> Tensor:
    """A tensor with the values of ``x`` at which to differentiate: connected to ``x`` if that is being recorded."""
    t = as_tensor(x)
    return ops.positive(t) if t.requires_grad and current().recording else t.detach().requires_grad_()


def _arguments(args: Sequence[Any], nums: Sequence[int]) -> list:
    """The arguments for the function, arrays as Tensors, those numbered in ``nums`` as points."""
    nums = [n % len(args) for n in nums]
    return [_point(a) if i in nums else as_tensor(a) if isinstance(a, np.ndarray) else a for i, a in enumerate(args)]


def _call(op: str, f: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any], several: bool = False) -> Any:
    """``f(*args, **kwargs)``, recorded. Raises TypeError that names ``op`` unless a Tensor (or several) comes out."""
    with enable_grad():
        out = f(*args, **kwargs)
    for o in _as_tuple(out) if several else (out,):
        if not isinstance(o, Tensor):
            raise TypeError(f"{op}: expected a function that returns a Tensor, got a {type(o).__name__}")
    return out


def _one_element(op: str, value: Tensor) -> Tensor:
    if value.numel() != 1:
        raise ValueError(f"{op}: expected a function with one output element, got shape {value.shape}")
    return value


def _has_outer(outputs: Sequence[Tensor], points: Sequence[Tensor]) -> bool:
    """Do the outputs depend on a recorded tensor besides the points? Then derivatives are recorded as well, so that
    those of an outer function (or an outer ``backward()``) come out right.

    From here on nobody else differentiates with respect to the points.
    """
    for p in points:
        if p.is_leaf:
            p.requires_grad = False
    return current().recording and any(True for _ in leaves([o for o in outputs if o.requires_grad]))


def _zeros_like(x: Tensor) -> Tensor:
    return as_tensor(np.zeros(x.shape, x.dtype)) if type(x.array) is np.ndarray else as_tensor(x.array * 0)


def _zeros_for_unused(found: Sequence[Tensor | None], points: Sequence[Tensor]) -> tuple[Tensor, ...]:
    return tuple(_zeros_like(p) if g is None else g for g, p in zip(found, points))


def value_and_grad(f: Callable[..., Tensor], argnums: int | Sequence[int] = 0) -> Callable[..., tuple]:
    """``value_and_grad(f)(*args)`` is ``(f(*args), gradient for args[argnums])``; ``f`` must return one element.

    Like all functions here it nests: ``grad(grad(f))``, also where the inner function uses the outer one's variables.
    Where ``f`` depends on other tensors that require gradients (the parameters of a model, say), the results are
    recorded with respect to them; under ``no_grad()`` they are not.

    >>> from minidl import Tensor, value_and_grad
    >>> value_and_grad(lambda x: (x**3).sum())(as_tensor([1.0, 2.0]))
    (tensor(9.), tensor([ 3., 12.]))
    """
    nums = (argnums,) if isinstance(argnums, int) else tuple(argnums)

    @functools.wraps(f)
    def wrapped(*args: Any, **kwargs: Any) -> tuple:
        given = _arguments(args, nums)
        points = [given[i] for i in nums]
        value = _one_element("value_and_grad", _call("value_and_grad", f, given, kwargs))
        nested = _has_outer([value], points)
        found = gradients(value, points, create_graph=nested, allow_unused=True)
        found = _zeros_for_unused(found, points)
        return (value if nested else value.detach()), (found[0] if isinstance(argnums, int) else found)

    return wrapped


def grad(f: Callable[..., Tensor], argnums: int | Sequence[int] = 0) -> Callable[..., Any]:
    """The gradient of a scalar function as a function: ``grad(f)(x)``; see :func:`value_and_grad`.

    >>> from minidl import Tensor, grad
    >>> cube = lambda x: x**3
    >>> grad(cube)(as_tensor(2.0)), grad(grad(cube))(as_tensor(2.0))
    (tensor(12.), tensor(12.))
    """
    both = value_and_grad(f, argnums)

    @functools.wraps(f)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        return both(*args, **kwargs)[1]

    return wrapped


def vjp(f: Callable[..., Any], *primals: Any) -> tuple[Any, Callable[..., tuple]]:
    """``(f(*primals), pull)`` where ``pull(v)`` is the vector-Jacobian product, one Tensor per primal.

    >>> from minidl import Tensor, vjp
    >>> value, pull = vjp(lambda x: x * x, as_tensor([1.0, 2.0, 3.0]))
    >>> pull(as_tensor([1.0, 0.0, 1.0]))
    (tensor([2., 0., 6.]),)
    """
    points = [_point(p) for p in primals]
    out = _call("vjp", f, points, {}, several=True)
    nested = _has_outer(_as_tuple(out), points)

    def pull(*v: Any) -> tuple:
        vectors = [as_tensor(g) for g in (v[0] if len(v) == 1 and isinstance(v[0], (tuple, list)) else v)]
        record = current().recording and (nested or any(g.requires_grad for g in vectors))
        found = gradients(out, points, vectors, retain_graph=True, create_graph=record, allow_unused=True)
        return _zeros_for_unused(found, points)

    result = tuple(o if nested else o.detach() for o in _as_tuple(out))
    return result if isinstance(out, (tuple, list)) else result[0], pull


def jvp(f: Callable[..., Tensor], primals: Sequence[Any], tangents: Sequence[Any]) -> tuple[Tensor, Tensor]:
    """``(f(*primals), J @ tangents)``.

    The vector-Jacobian product is linear in its vector u, so differentiating it once more with respect to u gives the
    Jacobian-vector product: the "double backward" trick.

    >>> from minidl import Tensor, jvp
    >>> jvp(lambda x: x * x, [as_tensor([1.0, 2.0, 3.0])], [as_tensor([1.0, 0.0, 1.0])])
    (tensor([1., 4., 9.]), tensor([2., 0., 6.]))
    """
    primals, tangents = _as_tuple(primals), tuple(as_tensor(t) for t in _as_tuple(tangents))
    for i, (p, t) in enumerate(zip(primals, tangents, strict=True)):
        if np.shape(p) != t.shape:
            raise ValueError(f"jvp: primal {i} has shape {np.shape(p)} but its tangent has shape {t.shape}")
    points = [_point(p) for p in primals]
    out = _call("jvp", f, points, {})
    nested = _has_outer([out], points)
    record = current().recording and (nested or any(t.requires_grad for t in tangents))
    tangent = None
    if out.requires_grad:
        u = _zeros_like(out).requires_grad_()
        with enable_grad():
            pulled = gradients(out, points, u, create_graph=True, allow_unused=True)
        used = [(p, t) for p, t in zip(pulled, tangents) if p is not None and p.requires_grad]
        if used:
            outs, vectors = zip(*used)
            (tangent,) = gradients(outs, u, vectors, create_graph=record, allow_unused=True)
    return (out if nested else out.detach()), _zeros_like(out) if tangent is None else tangent


def jacobian(f: Callable[[Tensor], Tensor], x: Any) -> Tensor:
    """The Jacobian of ``f`` at ``x``: shape ``f(x).shape + x.shape``, by one vector-Jacobian product per output.

    >>> from minidl import Tensor, jacobian
    >>> jacobian(lambda x: x * x, as_tensor([1.0, 2.0]))
    tensor([[2., 0.],
            [0., 4.]])
    """
    point = _point(x)
    out = _call("jacobian", f, [point], {})
    nested = _has_outer([out], [point])
    rows: list[Tensor] = []
    for k in range(out.numel()):
        one = np.zeros(out.shape, out.dtype)
        one.flat[k] = 1
        found = gradients(out, point, as_tensor(one), retain_graph=True, create_graph=nested, allow_unused=True)
        rows += _zeros_for_unused(found, [point])
    if not rows:
        return as_tensor(np.zeros(out.shape + point.shape, out.dtype))
    return ops.reshape(ops.stack(rows), shape=out.shape + point.shape)


def hessian(f: Callable[[Tensor], Tensor], x: Any) -> Tensor:
    """The Hessian of a scalar function at ``x``: shape ``x.shape + x.shape`` (the Jacobian of the gradient).

    >>> from minidl import Tensor, hessian
    >>> hessian(lambda x: x[0] ** 2 * x[1], as_tensor([1.0, 2.0]))
    tensor([[4., 2.],
            [2., 0.]])
    """

    def gradient(point: Tensor) -> Tensor:
        value = _one_element("hessian", _call("hessian", f, [point], {}))
        return _zeros_for_unused(gradients(value, point, create_graph=True, allow_unused=True), [point])[0]

    return jacobian(gradient, x)


def checkpoint(f: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """``f(*args, **kwargs)`` whose intermediate values are recomputed in the backward pass instead of kept.

    Trades one more forward pass for memory (Chen et al., 2016, "Training Deep Nets with Sublinear Memory Cost",
    section 4). ``f`` must be deterministic given minidl's random state, which is restored for the second run.
    """
    if not current().recording:
        return f(*args, **kwargs)
    rng_state, begun = default_generator().get_state(), next_in_sequence()
    nodes: list[Node] = []
    with using(nodes=nodes):
        out = f(*args, **kwargs)
    outer = current().nodes
    if outer is not None:
        outer.extend(nodes)

    def recompute() -> None:
        for a in (*args, *kwargs.values()):
            if isinstance(a, Tensor) and a.changed_at > begun:
                raise RuntimeError(
                    f"checkpoint: an argument of shape {a.shape} was changed in place after the function used it, so "
                    "that it cannot be run again; clone() it first"
                )
        now = default_generator().get_state()
        default_generator().set_state(rng_state)
        again: list[Node] = []
        try:
            with using(nodes=again, recording=True):
                f(*args, **kwargs)
        finally:
            default_generator().set_state(now)
        if [n.prim for n in again] != [n.prim for n in nodes]:
            raise RuntimeError("checkpoint: the function recorded other operations when it was run again")
        for node, twin in zip(nodes, again):
            if twin.recompute is None:
                node.saved, node.out, node.recompute = twin.saved, twin.out, None
            else:  # made in a checkpoint within this one
                node.recompute = functools.partial(_borrow, node, twin)

    for node in nodes:
        node.saved = node.out = None
        node.recompute = recompute
    return out


def _borrow(node: Node, twin: Node) -> None:
    """Let ``node`` have what its ``twin`` of the second run keeps."""
    while twin.saved is None and twin.recompute is not None:
        twin.recompute()
    node.saved, node.out, node.recompute = twin.saved, twin.out, None
