"""The walk back through the graph: reverse-mode automatic differentiation.

A node's sequence number is larger than those of its inputs, so taking nodes off a heap in descending order *is* reverse
topological order: no recursion, whatever the depth (Griewank and Walther, "Evaluating Derivatives", 2nd ed., 2008,
section 3.2).
"""

from __future__ import annotations

import functools
import heapq
from collections.abc import Sequence
from typing import Any

import numpy as np

from minidl.core.context import Context, current, enable_grad, no_grad
from minidl.core.dtypes import HALVES, half_among
from minidl.core.errors import AnomalyError
from minidl.core.graph import Node, Traced, _key, edge_of, has_nan
from minidl.core.registry import namespace, primitives

_FLOAT32 = np.dtype(np.float32)


def _vjp(node: Node, g: Any, on_tensors: bool, tensor_type: Any) -> Sequence[Any]:
    """Gradients for the inputs (a sequence as long as ``edges``), from ``g`` for the output(s)."""
    prim = node.prim
    while node.saved is None and node.recompute is not None:
        node.recompute()
    node.check_saved()
    if on_tensors and prim.composite and current().recording:
        return _composite_vjp(node, g)
    if prim.joint is not None:
        return _call(node, prim.joint, g, on_tensors, tensor_type)
    grads = [None] * len(node.edges)
    for i in range(len(grads)):
        if node.needs >> i & 1:
            rule = prim.rules.get(i)
            if rule is None:
                raise NotImplementedError(f"{prim.name} has no gradient for its input {prim.inputs[i]!r}")
            grads[i] = _call(node, rule, g, on_tensors, tensor_type)
    return grads


def _call(node: Node, rule: Any, g: Any, on_tensors: bool, tensor_type: Any) -> Any:
    values = []
    for kind, key in rule.wants:
        if kind == "g":
            v = g
        elif kind == "input":
            v = node.saved[key]
            if not on_tensors and isinstance(v, Traced):
                v = v.array
            elif on_tensors and isinstance(v, np.ndarray):
                v = tensor_type._from_node(v, None)
        elif kind == "shape":
            assert node.shapes is not None
            v = node.shapes[key]
        elif kind == "out":
            v = _outputs(node, tensor_type) if on_tensors else node.out
        elif kind == "param":
            v = node.params.get(key, node.prim.defaults[key])
        elif kind == "needs":
            v = [bool(node.needs >> i & 1) for i in range(len(node.edges))]
        elif kind == "inputs":
            v = [node.saved[i] for i in range(key, len(node.edges))]
            if not on_tensors:
                v = [a.array if isinstance(a, Traced) else a for a in v]
        else:
            assert node.shapes is not None
            v = node.shapes[key:]
        values.append(v)
    half = half_among(g if type(g) is tuple else (g,)) if node.prim.half is not False else None
    return rule.function(*values) if half is None else _in_float32(rule.function, values, half)


def _in_float32(function: Any, values: list, half: np.dtype) -> Any:
    """``function(*values)`` in half precision, computed in float32 as primitives are (:mod:`minidl.core.dtypes`)."""

    def cast(v: Any, of: Any, to: Any) -> Any:
        if type(v) in (list, tuple):
            return type(v)(cast(a, of, to) for a in v)
        return primitives["astype"](v, dtype=to) if getattr(v, "dtype", None) in of else v

    return cast(function(*cast(values, HALVES, _FLOAT32)), (_FLOAT32,), half)


def _outputs(node: Node, tensor_type: Any) -> Any:
    """The kept output as Tensors that belong to this node (kept as arrays, or node and tensor would be a cycle)."""
    if type(node.out) is tuple:
        return tuple(tensor_type._from_node(o, node, i, True) for i, o in enumerate(node.out))
    return tensor_type._from_node(node.out, node)


def _composite_vjp(node: Node, g: Any) -> list:
    """Gradients through the primitives that the formula is written with."""
    # each input gets a node of its own (+a), so that an input given twice, or made from another one, counts once
    inputs = [+node.saved[i] if node.needs >> i & 1 else node.saved[i] for i in range(len(node.edges))]
    formula = functools.partial(node.prim.reference, **node.params)
    half = half_among(inputs) if node.prim.half is not False else None
    out = formula(*inputs) if half is None else _in_float32(formula, inputs, half)
    wanted = [a for i, a in enumerate(inputs) if node.needs >> i & 1]
    pairs = zip(out, g) if isinstance(out, tuple) else [(out, g)]
    depending = [(o, s) for o, s in pairs if isinstance(o, Traced) and o.requires_grad]
    found = iter(backward([o for o, _ in depending], [s for _, s in depending], inputs=wanted, create_graph=True) or ())
    return [next(found) if node.needs >> i & 1 else None for i in range(len(inputs))]


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


class _Walk:
    """Gradients on their way through the graph: which wait for which node, and which have arrived."""

    __slots__ = (
        "arrived", "heap", "leaves", "needed", "on_tensors", "owned", "targets", "tensor_type", "waiting",
    )  # fmt: skip

    def __init__(self, tensor_type: Any, on_tensors: bool, targets: Any, needed: Any) -> None:
        self.tensor_type, self.on_tensors = tensor_type, on_tensors
        #: where gradients are asked for (keys of edges), if not at all leaves, and the nodes that lead there
        self.targets, self.needed = targets, needed
        #: per node's sequence number its gradients, one slot per output, and the order in which nodes are due
        self.waiting: dict[int, list] = {}
        self.heap: list[tuple[int, Node]] = []
        #: arrays (by id) that were made here by an addition, which may therefore be added to in place
        self.owned: dict[int, Any] = {}
        #: whole gradients at targets, and those of leaves that wait for their hooks
        self.arrived: dict[tuple, Any] = {}
        self.leaves: dict[tuple, Any] = {}

    def give(self, edge: Any, g: Any, fresh: bool) -> None:
        """Add ``g`` to what waits at the end of ``edge``; ``fresh``: nobody else holds the array."""
        index = 0
        if type(edge) is tuple:
            edge, index = edge
        elif type(edge) is not Node:
            self._give_leaf(edge, g, fresh)
            return
        if self.needed is not None and edge.seq not in self.needed and (id(edge), index) not in self.targets:
            return
        slots = self.waiting.get(edge.seq)
        if slots is None:
            slots = self.waiting[edge.seq] = [None] * (len(edge.specs) if edge.specs else 1)
            heapq.heappush(self.heap, (-edge.seq, edge))
        have = slots[index]
        if have is None:
            slots[index] = g
        elif not self.on_tensors and id(have) in self.owned:
            have += g
        else:
            slots[index] = total = have + g
            if type(total) is np.ndarray:
                self.owned[id(total)] = total

    def _give_leaf(self, leaf: Any, g: Any, fresh: bool) -> None:
        if self.targets is None and not leaf._hooks:
            if leaf.requires_grad:
                _accumulate(leaf, g, fresh, self.on_tensors)
            return
        key = (id(leaf), -1)
        if self.targets is None or key in self.targets:
            # hooks see the whole gradient, which is known only at the end
            self.leaves[key] = leaf
            self.arrived[key] = self.arrived[key] + g if key in self.arrived else g

    def arrive(self, node: Node, slots: list) -> bool:
        """The gradients of ``node`` are complete: run its hooks, keep what was asked for. Does the walk go on there?"""
        if node.hooks:
            _run_hooks(node, slots, self.on_tensors, self.tensor_type)
        if self.targets is None:
            for i, reference in (node.retain or {}).items():
                if slots[i] is not None and (tensor := reference()) is not None:
                    _accumulate(tensor, slots[i], False, self.on_tensors)
            return True
        for i, g in enumerate(slots):
            if g is not None and (id(node), i) in self.targets:
                self.arrived[id(node), i] = g
        return node.seq in self.needed

    def finish_leaves(self) -> None:
        """Run the hooks of leaves on their whole gradients."""
        for key, leaf in self.leaves.items():
            self.arrived[key] = _run_leaf_hooks(leaf, self.arrived[key], self.on_tensors)
            if self.targets is None:
                _accumulate(leaf, self.arrived[key], False, self.on_tensors)


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
    here = current()
    on_tensors = create_graph or here.trace_backward
    targets = needed = freed = None
    if inputs is not None:
        targets = {_key(edge_of(t)) for t in inputs}
        needed, freed = _needed([t._node for t in roots], targets, [t._node and t._node.seq for t in inputs])
    walk = _Walk(_tensor_type(roots[0]), on_tensors, targets, needed)
    with enable_grad() if create_graph else no_grad(), np.errstate(all="ignore"):
        for root, g in zip(roots, grads, strict=True):
            walk.give(edge_of(root), g if on_tensors else g.array, False)
        while walk.heap:
            _, node = heapq.heappop(walk.heap)
            slots = walk.waiting.pop(node.seq)
            walk.owned.clear()
            if (node.hooks or node.retain or targets is not None) and not walk.arrive(node, slots):
                continue
            _pass_on(walk, node, slots, here)
            if not retain_graph:
                node.release()
        walk.finish_leaves()
    return None if inputs is None else _at_inputs(walk, inputs, freed)


def _pass_on(walk: _Walk, node: Node, slots: list, here: Context) -> None:
    """Run the gradient rules of ``node`` and give what they return to the nodes and leaves before it."""
    on_tensors, tensor_type, edges = walk.on_tensors, walk.tensor_type, node.edges
    g = slots[0] if node.specs is None else _fill_zeros(slots, node.specs, on_tensors, tensor_type)
    if here.visitor is not None:
        here.visitor(node, g)
    for i, gi in enumerate(_vjp(node, g, on_tensors, tensor_type)):
        if gi is None or edges[i] is None:
            continue
        if here.anomaly and has_nan(gi.array if isinstance(gi, Traced) else gi):
            where = node.line or "an unknown line (turn anomaly mode on for the forward pass too)"
            raise AnomalyError(f"the gradient of {node.prim.name} for its input {i} is NaN; forward call at {where}")
        # A rule may hand its g straight on, or a view: such an array must not be written to by others.
        fresh = type(gi) is np.ndarray and gi.base is None and gi is not g
        if fresh and type(g) is tuple:
            fresh = all(gi is not s for s in g)
        walk.give(edges[i], gi, fresh)


def _at_inputs(walk: _Walk, inputs: Sequence[Any], freed: Node | None) -> list:
    """The gradients that arrived at ``inputs``, as Tensors; ``freed`` is a node that nobody knows the way from."""
    result = []
    for t in inputs:
        g = walk.arrived.get(_key(edge_of(t)))
        if g is None and freed is not None:
            freed.check_saved()
        result.append(g if g is None or isinstance(g, Traced) else walk.tensor_type._from_node(g, None))
    return result


def _fill_zeros(slots: list, specs: list, on_tensors: bool, tensor_type: Any) -> tuple:
    """The gradients of all outputs of a node, zeros for outputs that nothing depended on."""
    given = next(s for s in slots if s is not None)
    xp = namespace(given.array if on_tensors else given)
    result = []
    for g, (shape, dtype) in zip(slots, specs):
        if g is None:
            g = xp.zeros(shape, dtype)
            g = tensor_type._from_node(g, None) if on_tensors else g
        result.append(g)
    return tuple(result)


def _tensor_type(tensor: Any) -> Any:
    """Tensor itself, whatever subclass (Parameter) the instance has."""
    return _root_type(tensor.__class__)


@functools.cache
def _root_type(cls: Any) -> Any:
    return next(c for c in reversed(cls.__mro__) if issubclass(c, Traced) and c is not Traced)


def _run_leaf_hooks(leaf: Any, g: Any, on_tensors: bool) -> Any:
    for hook in list((leaf._hooks or {}).values()):
        replaced = hook(g if isinstance(g, Traced) else _tensor_type(leaf)._from_node(g, None))
        if replaced is not None:
            g = replaced if on_tensors else replaced.array
    return g


def _accumulate(tensor: Any, g: Any, fresh: bool, on_tensors: bool) -> None:
    """``tensor.grad += g``, never keeping an array that somebody else also holds."""
    dtype = tensor.array.dtype
    if on_tensors:
        grad = tensor.grad
        g = g.astype(dtype) if g.dtype != dtype else g
        tensor.grad = g.clone() if grad is None else grad + g
        return
    grad = tensor._grad
    if grad is None:
        if g.dtype != dtype:
            g, fresh = g.astype(dtype), True
        g = g if fresh or type(g) is not np.ndarray else g.copy()
        tensor._grad = _tensor_type(tensor)._from_node(g, None)
    elif type(grad.array) is np.ndarray and grad.array.flags.writeable and not grad.requires_grad:
        np.add(grad.array, g, out=grad.array, casting="same_kind")
        grad._bump()
    else:
        tensor._grad = _tensor_type(tensor)._from_node(grad.array + g, None)


def _run_hooks(node: Node, slots: list, on_tensors: bool, tensor_type: Any) -> None:
    for index, hook in list((node.hooks or {}).values()):
        g = slots[index]
        if g is None:
            continue
        replaced = hook(g if isinstance(g, Traced) else tensor_type._from_node(g, None))
        if replaced is not None:
            slots[index] = replaced if on_tensors else replaced.array
