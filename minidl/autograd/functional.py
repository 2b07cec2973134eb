"""Derivatives as functions of functions: grad, vjp, jvp, jacobian, hessian, and recomputation (checkpoint).

Every function here takes a Python function of Tensors and the point at which to differentiate it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from minidl import ops
from minidl.autograd import engine
from minidl.autograd.engine import enable_grad, mode
from minidl.tensor import Tensor, as_tensor


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
    found = engine.backward(roots, starts, inputs=inputs, retain_graph=retain_graph, create_graph=create_graph)
    if not allow_unused:
        for i, g in enumerate(found):
            if g is None:
                raise RuntimeError(
                    f"gradients: input {i} of shape {inputs[i].shape} was not used to compute the outputs (or does not "
                    "require a gradient); pass allow_unused=True to get None for it"
                )
    return tuple(found)


def _fresh(x: Any, keep_graph: bool = False) -> Tensor:
    """A tensor with the values of ``x`` that is an independent point to differentiate at."""
    t = as_tensor(x)
    if keep_graph and t.requires_grad:
        return ops.positive(t)
    return t.detach().requires_grad_()


def value_and_grad(f: Callable[..., Tensor], argnums: int | Sequence[int] = 0) -> Callable[..., tuple]:
    """``value_and_grad(f)(*args)`` is ``(f(*args), gradient for args[argnums])``; ``f`` must return one element.

    The gradient is itself differentiable when an argument requires a gradient, so ``grad(grad(f))`` works.
    """
    many = not isinstance(argnums, int)
    nums = tuple(argnums) if many else (argnums,)

    @functools.wraps(f)
    def wrapped(*args: Any, **kwargs: Any) -> tuple:
        nested = any(isinstance(a, Tensor) and a.requires_grad for a in args) and mode.enabled
        args = list(args)
        for i in nums:
            args[i] = _fresh(args[i], keep_graph=nested)
        with enable_grad():
            value = f(*args, **kwargs)
        found = gradients(value, [args[i] for i in nums], create_graph=nested, allow_unused=True)
        found = tuple(_zeros_like(args[i]) if g is None else g for i, g in zip(nums, found))
        return (value if nested else value.detach()), (found if many else found[0])

    return wrapped


def grad(f: Callable[..., Tensor], argnums: int | Sequence[int] = 0) -> Callable[..., Any]:
    """The gradient of a scalar function as a function: ``grad(f)(x)``; see :func:`value_and_grad`."""
    both = value_and_grad(f, argnums)

    @functools.wraps(f)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        return both(*args, **kwargs)[1]

    return wrapped


def _zeros_like(x: Tensor) -> Tensor:
    return Tensor(np.zeros(x.shape, x.dtype)) if type(x.data) is np.ndarray else Tensor(x.data * 0)


def vjp(f: Callable[..., Any], *primals: Any) -> tuple[Any, Callable[..., tuple]]:
    """``(f(*primals), pull)`` where ``pull(v)`` is the vector-Jacobian product, one Tensor per primal."""
    xs = [_fresh(p) for p in primals]
    with enable_grad():
        out = f(*xs)

    def pull(*v: Any) -> tuple:
        gs = v[0] if len(v) == 1 and isinstance(v[0], (tuple, list)) else v
        found = gradients(out, xs, [as_tensor(g) for g in gs], retain_graph=True, allow_unused=True)
        return tuple(_zeros_like(x) if g is None else g for x, g in zip(xs, found))

    return (tuple(o.detach() for o in out) if isinstance(out, (tuple, list)) else out.detach()), pull


def jvp(f: Callable[..., Tensor], primals: Sequence[Any], tangents: Sequence[Any]) -> tuple[Tensor, Tensor]:
    """``(f(*primals), J @ tangents)``.

    The vector-Jacobian product is linear in its vector u, so differentiating it once more with respect to u gives the
    Jacobian-vector product: the "double backward" trick.
    """
    primals, tangents = _as_tuple(primals), _as_tuple(tangents)
    for i, (p, t) in enumerate(zip(primals, tangents, strict=True)):
        if np.shape(p) != np.shape(t):
            raise ValueError(f"jvp: primal {i} has shape {np.shape(p)} but its tangent has shape {np.shape(t)}")
    xs = [_fresh(p) for p in primals]
    with enable_grad():
        out = f(*xs)
        u = _zeros_like(out).requires_grad_()
        if not out.requires_grad:
            return out.detach(), _zeros_like(out)
        pulled = gradients(out, xs, u, create_graph=True, allow_unused=True)
        used = [(p, as_tensor(t)) for p, t in zip(pulled, tangents) if p is not None and p.requires_grad]
        if not used:
            return out.detach(), _zeros_like(out)
        (tangent,) = gradients([p for p, _ in used], u, [t for _, t in used], allow_unused=True)
    return out.detach(), _zeros_like(out) if tangent is None else tangent.detach()


def jacobian(f: Callable[[Tensor], Tensor], x: Any, create_graph: bool = False) -> Tensor:
    """The Jacobian of ``f`` at ``x``: shape ``f(x).shape + x.shape``, one vector-Jacobian product an output element."""
    point = _fresh(x, keep_graph=create_graph)
    with enable_grad():
        out = f(point)
        rows = []
        for k in range(out.size):
            one = np.zeros(out.shape, out.dtype)
            one.flat[k] = 1
            g = None
            if out.requires_grad:
                (g,) = gradients(
                    out, point, as_tensor(one), retain_graph=True, create_graph=create_graph, allow_unused=True
                )
            rows.append(_zeros_like(point) if g is None else g)
        if not rows:
            return as_tensor(np.zeros(out.shape + point.shape, out.dtype))
        return ops.reshape(ops.stack(rows), shape=out.shape + point.shape)


def hessian(f: Callable[[Tensor], Tensor], x: Any) -> Tensor:
    """The Hessian of a scalar function at ``x``: shape ``x.shape + x.shape`` (the Jacobian of the gradient)."""

    def gradient(point: Tensor) -> Tensor:
        value = f(point)
        if value.size != 1:
            raise ValueError(f"hessian: expected a function with one output element, got shape {value.shape}")
        if not value.requires_grad:
            return _zeros_like(point)
        (g,) = gradients(value, point, create_graph=True, allow_unused=True)
        return _zeros_like(point) if g is None else g

    return jacobian(gradient, x).detach()


def checkpoint(f: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """``f(*args, **kwargs)`` whose intermediate values are recomputed in the backward pass instead of kept.

    Trades one more forward pass for memory (Chen et al., 2016, "Training Deep Nets with Sublinear Memory Cost",
    section 4). ``f`` must be deterministic given minidl's random state, which is restored for the second run.
    """
    from minidl.random import default_generator

    if not mode.enabled:
        return f(*args, **kwargs)
    rng_state = default_generator().get_state()
    outer, mode.nodes = mode.nodes, []
    try:
        out = f(*args, **kwargs)
        nodes = mode.nodes
    finally:
        mode.nodes = outer
    if outer is not None:
        outer.extend(nodes)

    def recompute() -> None:
        now = default_generator().get_state()
        default_generator().set_state(rng_state)
        before, mode.nodes = mode.nodes, []
        try:
            with enable_grad():
                f(*args, **kwargs)
            again = mode.nodes
        finally:
            mode.nodes = before
            default_generator().set_state(now)
        if [n.prim for n in again] != [n.prim for n in nodes]:
            raise RuntimeError("checkpoint: the function recorded other operations when it was run again")
        for node, twin in zip(nodes, again):
            node.saved, node.out = twin.saved, twin.out
            node.recompute = None

    for node in nodes:
        node.saved = node.out = None
        node.recompute = recompute
    return out
