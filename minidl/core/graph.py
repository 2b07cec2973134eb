"""The graph: every recorded call of a primitive leaves a :class:`Node` that points to the nodes of its inputs."""

from __future__ import annotations

import itertools
import sys
import types
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from minidl.core.context import current
from minidl.core.registry import namespace

#: numbers nodes and in-place changes in the order in which they happen
_sequence = itertools.count(1)
_new = object.__new__
_NO_PARAMS: dict = {}


class Traced:
    """Base class of Tensor: what makes a primitive record instead of just computing."""

    __slots__ = ()

    if TYPE_CHECKING:
        array: Any
        requires_grad: bool

        def __getattr__(self, name: str) -> Any: ...


def next_in_sequence() -> int:
    """The sequence number of something that happens now."""
    return next(_sequence)


def user_line() -> str:
    """file:line and function of the innermost caller outside the engine, the ops and the layers."""
    frame: types.FrameType | None = sys._getframe(1)
    while frame is not None:
        module = frame.f_globals.get("__name__", "")
        if module.split(".")[0] not in ("minidl", "minidl_kernels"):
            return f"{frame.f_code.co_filename}:{frame.f_lineno} in {frame.f_code.co_name}"
        frame = frame.f_back
    return "<no line outside minidl>"


def has_nan(array: Any) -> bool:
    dt = getattr(array, "dtype", None)
    return dt is not None and dt.kind in "fcV" and bool(namespace(array).isnan(array).any())


class Node:
    """One recorded call: what the gradient rules of its primitive need, and where the gradients go."""

    __slots__ = ("edges", "needs", "out", "params", "prim", "saved", "seq", "shapes", "__dict__", "__weakref__")

    edges: Sequence[Any]
    shapes: Sequence[Any] | None
    saved: Any

    # Class-level defaults of what few nodes have.
    specs: list | None = None
    line: str | None = None
    clobbered = False
    recompute: Callable[[], None] | None = None
    retain: dict | None = None
    hooks: dict | None = None

    def __init__(self, prim: Any, args: Sequence[Any], params: dict, needs: int, out: Any) -> None:
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
        here = current()
        if here.special:
            self.line = user_line() if here.anomaly else None
            if here.nodes is not None:
                here.nodes.append(self)

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


def node_of_two(prim: Any, x: Any, y: Any, x_shape: tuple, y_shape: tuple, needs: int, out: Any) -> Node:
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


def node_of_one(prim: Any, x: Any, shape: tuple, params: dict, out: Any) -> Node:
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
