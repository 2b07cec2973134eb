"""Reverse-mode automatic differentiation: the graph, and the walk back through it.

Every recorded call of a primitive leaves a :class:`Node` that points to the nodes of its inputs. A node's sequence
number is larger than those of its inputs, so taking nodes off a heap in descending order *is* reverse topological
order: no recursion, whatever the depth (Griewank and Walther, "Evaluating Derivatives", 2nd ed., 2008, section 3.2).
"""

from __future__ import annotations

import contextlib
import functools
import heapq
import itertools
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from minidl.core.primitive import Primitive, Traced
from minidl.core.registry import namespace


class _Mode(threading.local):
    """What this thread is doing: recording or not, looking for NaNs, being observed."""

    enabled = True
    anomaly = False
    #: called as observer(prim, args, params, out) after every call with Tensors (tracing, summaries, capture)
    observer: Callable[..., None] | None = None
    #: called as visitor(node, gradient) before a node's gradient rule runs (tracing)
    visitor: Callable[..., None] | None = None
    #: collects the nodes made inside :func:`checkpoint`
    nodes: list | None = None
    #: run gradient rules on Tensors even without create_graph, so that an observer sees their operations
    trace_backward = False
    #: any of anomaly, observer and nodes: one look tells the common case that there is nothing more to do
    special = False

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        if name in ("anomaly", "observer", "nodes"):
            before, now = self.special, bool(self.anomaly or self.observer or self.nodes is not None)
            super().__setattr__("special", now)
            if now and not before:
                special_threads.append(threading.get_ident())
            elif before and not now:
                special_threads.remove(threading.get_ident())


#: those whose mode is special: to see whether the list is empty is quicker than to look into the mode
special_threads: list[int] = []
mode = _Mode()
#: numbers nodes and in-place changes in the order in which they happen
_sequence = itertools.count(1)
_new = object.__new__
_NO_PARAMS: dict = {}


def next_in_sequence() -> int:
    """The sequence number of something that happens now."""
    return next(_sequence)


class _set_enabled(contextlib.ContextDecorator):
    """Context manager and decorator that switches recording; see no_grad and enable_grad."""

    value = True

    def __init__(self, function: Callable[..., Any] | None = None) -> None:
        self._before: list[bool] = []
        self._function = function
        if function is not None:
            functools.update_wrapper(self, function)

    def __enter__(self) -> None:
        self._before.append(mode.enabled)
        mode.enabled = self.value

    def __exit__(self, *exc: Any) -> None:
        mode.enabled = self._before.pop()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self._function is None:
            return super().__call__(*args, **kwargs)
        with type(self)():
            return self._function(*args, **kwargs)

    def __get__(self, instance: Any, owner: Any = None) -> Any:
        return self if instance is None else functools.partial(self.__call__, instance)


class no_grad(_set_enabled):
    """Operations inside are not recorded: ``with no_grad(): ...``, ``@no_grad()`` or ``@no_grad``."""

    value = False


class enable_grad(_set_enabled):
    """Operations inside are recorded, also within :class:`no_grad`."""

    value = True


def is_grad_enabled() -> bool:
    """Whether operations on tensors that require gradients are being recorded in this thread."""
    return mode.enabled


class AnomalyError(RuntimeError):
    """A NaN appeared in a forward value or in a gradient while anomaly mode was on."""


@contextlib.contextmanager
def detect_anomaly() -> Iterator[None]:
    """Inside, a NaN that a primitive or a gradient rule makes raises AnomalyError naming the forward line."""
    before = mode.anomaly
    mode.anomaly = True
    try:
        yield
    finally:
        mode.anomaly = before


def user_line() -> str:
    """file:line and function of the innermost caller outside the engine, the ops and the layers."""
    frame = sys._getframe(1)
    while frame is not None:
        module = frame.f_globals.get("__name__", "")
        if module.split(".")[0] not in ("minidl", "minidl_kernels"):
            return f"{frame.f_code.co_filename}:{frame.f_lineno} in {frame.f_code.co_name}"
        frame = frame.f_back
    return "<no line outside minidl>"


def has_nan(array: Any) -> bool:
    dt = getattr(array, "dtype", None)
    return dt is not None and dt.kind in "fc" and bool(namespace(array).isnan(array).any())


class Node:
    """One recorded call: how to carry gradients from its outputs to its inputs."""

    __slots__ = ("edges", "needs", "out", "params", "prim", "saved", "seq", "shapes", "__dict__", "__weakref__")

    # Class-level defaults of what few nodes have.
    specs: list | None = None
    line: str | None = None
    clobbered = False
    recompute: Callable[[], None] | None = None
    retain: dict | None = None
    hooks: dict | None = None

    def __init__(self, prim: Primitive, args: Sequence[Any], params: dict, needs: int, out: Any) -> None:
        keep, shapes, keep_out = prim.plans.get(needs) or prim.plan(needs, len(args))
        self.prim = prim
        self.needs = needs
        self.params = params
        # An edge says where a gradient goes: a node, a leaf tensor, or (node, output index) where the node has several
        # outputs.
        self.edges = [(a._edge or a._node or a) if needs >> i & 1 else None for i, a in enumerate(args)]
        self.saved = () if not keep else args if len(keep) == len(args) else {i: args[i] for i in keep}
        self.shapes = [getattr(a, "shape", ()) for a in args] if shapes else None
        self.out = out if keep_out else None
        if type(out) is tuple:
            self.specs = [(o.shape, o.dtype) for o in out]
        self.seq = next(_sequence)
        if mode.special:
            self._attend()

    def _attend(self) -> None:
        self.line = user_line() if mode.anomaly else None
        if mode.nodes is not None:
            mode.nodes.append(self)

    def __repr__(self) -> str:
        return f"<Node {self.prim.name} #{self.seq}>"

    def release(self) -> None:
        """Drop what was kept for the backward pass, and the way to the inputs."""
        self.saved = self.out = None
        self.edges = ()

    def check_saved(self) -> None:
        if self.saved is None:
            raise RuntimeError(
                f"backward through {self.prim.name} a second time: its saved values were freed. "
                "Pass retain_graph=True to the first backward()."
            )
        for kept in self.saved.values() if type(self.saved) is dict else self.saved:
            if isinstance(kept, Traced) and kept.changed_at > self.seq:
                raise RuntimeError(
                    f"the gradient of {self.prim.name} needs an input of shape {tuple(kept.shape)} that was changed "
                    f"in place after it was used (it is at version {kept.version}); use an out-of-place operation, or "
                    "clone() it first"
                )
        if self.clobbered and self.out is not None:
            raise RuntimeError(
                f"the gradient of {self.prim.name} needs its output, which was changed in place; use an out-of-place "
                "operation, or clone() it first"
            )

    def vjp(self, g: Any, on_tensors: bool, tensor_type: Any) -> Sequence[Any]:
        """Gradients for the inputs (a sequence as long as ``edges``), from ``g`` for the output(s)."""
        prim = self.prim
        while self.saved is None and self.recompute is not None:
            self.recompute()
        self.check_saved()
        if on_tensors and prim.composite is not None and mode.enabled:
            return self._composite_vjp(g)
        if prim.joint is not None:
            return self._call(prim.joint, g, on_tensors, tensor_type)
        grads = [None] * len(self.edges)
        for i in range(len(grads)):
            if self.needs >> i & 1:
                rule = prim.rules.get(i)
                if rule is None:
                    raise NotImplementedError(f"{prim.name} has no gradient for its input {prim.inputs[i]!r}")
                grads[i] = self._call(rule, g, on_tensors, tensor_type)
        return grads

    def _call(self, rule: Any, g: Any, on_tensors: bool, tensor_type: Any) -> Any:
        values = []
        for kind, key in rule.wants:
            if kind == "g":
                v = g
            elif kind == "input":
                v = self.saved[key]
                if not on_tensors and isinstance(v, Traced):
                    v = v.data
                elif on_tensors and isinstance(v, np.ndarray):
                    v = tensor_type._from_node(v, None)
            elif kind == "shape":
                v = self.shapes[key]
            elif kind == "out":
                v = self._outputs(tensor_type) if on_tensors else self.out
            elif kind == "param":
                v = self.params.get(key, self.prim.defaults[key])
            elif kind == "needs":
                v = [bool(self.needs >> i & 1) for i in range(len(self.edges))]
            elif kind == "inputs":
                v = [self.saved[i] for i in range(key, len(self.edges))]
                if not on_tensors:
                    v = [a.data if isinstance(a, Traced) else a for a in v]
            else:
                v = self.shapes[key:]
            values.append(v)
        return rule.function(*values)

    def _outputs(self, tensor_type: Any) -> Any:
        """The kept output as Tensors that belong to this node (kept as arrays, or node and tensor would be a cycle)."""
        if type(self.out) is tuple:
            return tuple(tensor_type._from_node(o, self, i, True) for i, o in enumerate(self.out))
        return tensor_type._from_node(self.out, self)

    def _composite_vjp(self, g: Any) -> list:
        # each input gets a node of its own (+a), so that an input given twice, or made from another one, counts once
        inputs = [+self.saved[i] if self.needs >> i & 1 else self.saved[i] for i in range(len(self.edges))]
        out = self.prim.composite(*inputs, **self.params)
        wanted = [a for i, a in enumerate(inputs) if self.needs >> i & 1]
        outs, gs = (
            ([out], [g])
            if not isinstance(out, tuple)
            else (
                [o for o, s in zip(out, g) if s is not None and o.requires_grad],
                [s for o, s in zip(out, g) if s is not None and o.requires_grad],
            )
        )
        found = iter(backward(outs, gs, inputs=wanted, create_graph=True))
        return [next(found) if self.needs >> i & 1 else None for i in range(len(inputs))]


def node_of_two(prim: Primitive, x: Any, y: Any, x_shape: tuple, y_shape: tuple, needs: int, out: Any) -> Node:
    """What ``Node(prim, (x, y), {}, needs, out)`` makes, in less time: every operator comes this way."""
    keep, shapes, keep_out = prim.plans.get(needs) or prim.plan(needs, 2)
    node = _new(Node)
    node.prim = prim
    node.needs = needs
    node.params = _NO_PARAMS
    node.edges = (
        (x._edge or x._node or x) if needs & 1 else None,
        (y._edge or y._node or y) if needs & 2 else None,
    )
    node.saved = () if not keep else (x, y) if len(keep) == 2 else {0: x} if keep[0] == 0 else {1: y}
    node.shapes = (x_shape, y_shape) if shapes else None
    node.out = out if keep_out else None
    node.seq = next(_sequence)
    return node


def node_of_one(prim: Primitive, x: Any, shape: tuple, params: dict, out: Any) -> Node:
    """What ``Node(prim, (x,), params, 1, out)`` makes, in less time."""
    keep, shapes, keep_out = prim.plans.get(1) or prim.plan(1, 1)
    node = _new(Node)
    node.prim = prim
    node.needs = 1
    node.params = params
    node.edges = (x._edge or x._node or x,)
    node.saved = (x,) if keep else ()
    node.shapes = (shape,) if shapes else None
    node.out = out if keep_out else None
    node.seq = next(_sequence)
    return node


def _key(edge: Any) -> tuple[int, int]:
    """What an edge leads to, as something hashable: (id of node, output index) or (id of leaf, -1)."""
    if type(edge) is tuple:
        return id(edge[0]), edge[1]
    return id(edge), 0 if type(edge) is Node else -1


def edge_of(tensor: Any) -> Any:
    """The edge along which ``tensor`` receives its gradient."""
    return tensor._edge or tensor._node or tensor


def leaves(roots: Sequence[Any]) -> Iterator[Any]:
    """The tensors that require gradients, and that nothing recorded made, on which the tensors ``roots`` depend."""
    seen, stack = set(), [edge_of(r) for r in roots]
    while stack:
        e = stack.pop()
        e = e[0] if type(e) is tuple else e
        if e is None or id(e) in seen:
            continue
        seen.add(id(e))
        if type(e) is Node:
            stack.extend(e.edges)
        elif e.requires_grad:
            yield e


def _needed(roots: list, targets: set, seqs: list) -> tuple[set, Node | None]:
    """Nodes from which one of ``targets`` (edges) can be reached: only these need visiting when inputs are given.

    ``seqs`` are the sequence numbers of the targets' nodes, ``None`` for a leaf. Also returns a node, if one was met,
    that was freed, so that nobody knows where it led.
    """
    freed = None
    # nothing older than the oldest target leads to one
    oldest = min(seqs, default=-1) if None not in seqs else -1
    nodes, stack = {}, [r for r in roots if r is not None]
    while stack:
        node = stack.pop()
        if node.seq in nodes or node.seq < oldest:
            continue
        nodes[node.seq] = node
        if node.saved is None and node.recompute is None:
            freed = node
        for e in node.edges:
            if type(e) is tuple:
                e = e[0]
            if type(e) is Node:
                stack.append(e)
    needed = set()
    for seq in sorted(nodes):
        for e in nodes[seq].edges:
            if e is None:
                continue
            target = e[0] if type(e) is tuple else e
            if _key(e) in targets or (type(target) is Node and target.seq in needed):
                needed.add(seq)
                break
    return needed, freed


def backward(
    roots: Sequence[Any],
    grads: Sequence[Any],
    *,
    inputs: Sequence[Any] | None = None,
    retain_graph: bool | None = None,
    create_graph: bool = False,
) -> list | None:
    """Carry ``grads`` (Tensors shaped as ``roots``) back through the graph.

    Without ``inputs``, gradients are added to ``.grad`` of the leaves and ``None`` is returned. With ``inputs``, their
    gradients are returned in a list (``None`` where no path leads) and no ``.grad`` is touched.
    """
    if not roots:
        return [None] * len(inputs) if inputs is not None else None
    retain_graph = create_graph if retain_graph is None else retain_graph
    tensor_type = _tensor_type(roots[0])
    on_tensors = create_graph or mode.trace_backward
    anomaly = mode.anomaly
    found: dict[tuple, Any] = {}
    leaves: dict[tuple, Any] = {}
    targets = {_key(edge_of(t)) for t in inputs} if inputs is not None else None
    needed = freed = None
    if inputs is not None:
        needed, freed = _needed([t._node for t in roots], targets, [t._node and t._node.seq for t in inputs])

    # Gradients that wait for their node, one slot an output, and the order in which nodes are due. `owned` holds the
    # arrays (by id) that were made here by an addition, which may therefore be added to in place.
    waiting: dict[int, list] = {}
    heap: list[tuple[int, Node]] = []
    owned: dict[int, Any] = {}

    def give(edge: Any, g: Any, fresh: bool) -> None:
        index = 0
        if type(edge) is tuple:
            edge, index = edge
        elif type(edge) is not Node:
            key = (id(edge), -1)
            if targets is None and not edge._hooks:
                if edge.requires_grad:
                    _accumulate(edge, g, fresh, on_tensors)
            elif targets is None or key in targets:
                # hooks see the whole gradient, which is known only at the end
                leaves[key] = edge
                found[key] = found[key] + g if key in found else g
            return
        if needed is not None and edge.seq not in needed and (id(edge), index) not in targets:
            return
        slots = waiting.get(edge.seq)
        if slots is None:
            slots = waiting[edge.seq] = [None] * (len(edge.specs) if edge.specs else 1)
            heapq.heappush(heap, (-edge.seq, edge))
        have = slots[index]
        if have is None:
            slots[index] = g
        elif not on_tensors and id(have) in owned:
            have += g
        else:
            slots[index] = total = have + g
            if type(total) is np.ndarray:
                owned[id(total)] = total

    with enable_grad() if create_graph else no_grad(), np.errstate(all="ignore"):
        for root, g in zip(roots, grads, strict=True):
            give(edge_of(root), g if on_tensors else g.data, False)
        while heap:
            _, node = heapq.heappop(heap)
            slots = waiting.pop(node.seq)
            owned.clear()
            if node.hooks:
                _run_hooks(node, slots, on_tensors, tensor_type)
            if node.retain and inputs is None:
                for i, reference in node.retain.items():
                    if slots[i] is not None and (tensor := reference()) is not None:
                        _accumulate(tensor, slots[i], False, on_tensors)
            if needed is not None:
                for i, g in enumerate(slots):
                    if g is not None and (id(node), i) in targets:
                        found[id(node), i] = g
                if node.seq not in needed:
                    continue
            g = slots[0] if node.specs is None else _fill_zeros(slots, node.specs, on_tensors, tensor_type)
            edges = node.edges
            if mode.visitor is not None:
                mode.visitor(node, g)
            for i, gi in enumerate(node.vjp(g, on_tensors, tensor_type)):
                if gi is None or edges[i] is None:
                    continue
                if anomaly and has_nan(gi.data if isinstance(gi, Traced) else gi):
                    where = node.line or "an unknown line (turn anomaly mode on for the forward pass too)"
                    raise AnomalyError(
                        f"the gradient of {node.prim.name} for its input {i} is NaN; forward call at {where}"
                    )
                # A rule may hand its g straight on, or a view: such an array must not be written to by others.
                fresh = type(gi) is np.ndarray and gi.base is None and gi is not g
                if fresh and type(g) is tuple:
                    fresh = all(gi is not s for s in g)
                give(edges[i], gi, fresh)
            if not retain_graph:
                node.release()
        for key, leaf in leaves.items():
            found[key] = _run_leaf_hooks(leaf, found[key], on_tensors)
            if targets is None:
                _accumulate(leaf, found[key], False, on_tensors)
    if inputs is None:
        return None
    result = []
    for t in inputs:
        g = found.get(_key(edge_of(t)))
        if g is None and freed is not None:
            freed.check_saved()
        result.append(g if g is None or isinstance(g, Traced) else tensor_type._from_node(g, None))
    return result


def _fill_zeros(slots: list, specs: list, on_tensors: bool, tensor_type: type) -> tuple:
    """The gradients of all outputs of a node, zeros for outputs that nothing depended on."""
    given = next(s for s in slots if s is not None)
    xp = namespace(given.data if on_tensors else given)
    result = []
    for g, (shape, dtype) in zip(slots, specs):
        if g is None:
            g = xp.zeros(shape, dtype)
            g = tensor_type._from_node(g, None) if on_tensors else g
        result.append(g)
    return tuple(result)


def _tensor_type(tensor: Any) -> type:
    """Tensor itself, whatever subclass (Parameter) the instance has."""
    return _root_type(type(tensor))


@functools.cache
def _root_type(cls: type) -> type:
    return next(c for c in reversed(cls.__mro__) if issubclass(c, Traced) and c is not Traced)


def _run_leaf_hooks(leaf: Any, g: Any, on_tensors: bool) -> Any:
    for hook in list((leaf._hooks or {}).values()):
        replaced = hook(g if isinstance(g, Traced) else _tensor_type(leaf)._from_node(g, None))
        if replaced is not None:
            g = replaced if on_tensors else replaced.data
    return g


def _accumulate(tensor: Any, g: Any, fresh: bool, on_tensors: bool) -> None:
    """``tensor.grad += g``, never keeping an array that somebody else also holds."""
    grad, dtype = tensor.grad, tensor.data.dtype
    if on_tensors:
        g = g.astype(dtype) if g.dtype != dtype else g
        tensor.grad = g.clone() if grad is None else grad + g
        return
    if grad is None:
        if g.dtype != dtype:
            g, fresh = g.astype(dtype), True
        g = g if fresh or type(g) is not np.ndarray else g.copy()
        tensor.grad = _tensor_type(tensor)._from_node(g, None)
    elif type(grad.data) is np.ndarray and grad.data.flags.writeable and not grad.requires_grad:
        np.add(grad.data, g, out=grad.data, casting="same_kind")
        grad._bump()
    else:
        tensor.grad = _tensor_type(tensor)._from_node(grad.data + g, None)


def _run_hooks(node: Node, slots: list, on_tensors: bool, tensor_type: type) -> None:
    for index, hook in list(node.hooks.values()):
        g = slots[index]
        if g is None:
            continue
        replaced = hook(g if isinstance(g, Traced) else tensor_type._from_node(g, None))
        if replaced is not None:
            slots[index] = replaced if on_tensors else replaced.data
