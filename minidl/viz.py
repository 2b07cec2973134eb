"""Looking at computations: the recorded graph as text, Graphviz or SVG, and a step-by-step trace.

print(viz.text(loss))                   # the graph, indented
viz.graph(loss, model).save("loss.svg")  # a drawing; in a notebook it shows by itself
print(viz.trace(f, x, y))               # every operation, forward and backward, with small values
"""

from __future__ import annotations

import html
import inspect
import os
import shutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from minidl.core.backward import backward
from minidl.core.context import using
from minidl.core.errors import describe
from minidl.core.graph import Node, edge_of
from minidl.core.primitive import Primitive
from minidl.core.tensor import Tensor, as_tensor


def _names(params: Any) -> dict[int, str]:
    """id of tensor -> name, from a Module, a mapping from names to tensors, or pairs of name and tensor."""
    if params is None:
        return {}
    if hasattr(params, "named_parameters"):
        params = params.named_parameters()
    elif isinstance(params, Mapping):
        params = params.items()
    return {id(t): name for name, t in params}


def _static(prim: Primitive, params: dict) -> str:
    """The static parameters of a call that differ from their defaults, shortened."""
    shown = []
    for k, v in params.items():
        default = prim.defaults.get(k, inspect.Parameter.empty)
        if not (isinstance(v, type(default)) and v == default):
            text = repr(v)
            shown.append(f"{k}={text if len(text) <= 30 else text[:27] + '...'}")
    return ", ".join(shown)


class _Vertex:
    """A node of the graph, or a leaf tensor, with the vertices that it was computed from."""

    def __init__(self, label: str, detail: str, is_leaf: bool) -> None:
        self.label, self.detail, self.is_leaf = label, detail, is_leaf
        self.inputs: list[int] = []


def _vertices(root: Tensor, params: Any) -> list[_Vertex]:
    """The graph behind ``root``; vertex 0 is its last operation. Without recursion, for graphs of any depth."""
    if not isinstance(root, Tensor):
        raise TypeError(f"expected a Tensor, got {type(root).__name__}")
    names = _names(params)
    vertices: list[_Vertex] = []
    number: dict[int, int] = {}

    def visit(edge: Any) -> int:
        target = edge[0] if type(edge) is tuple else edge
        if id(target) not in number:
            number[id(target)] = len(vertices)
            if isinstance(target, Node):
                vertices.append(_Vertex(target.prim.name, _static(target.prim, target.params), False))
                stack.append(target)
            else:
                vertices.append(_Vertex(names.get(id(target), "tensor"), describe(target), True))
        return number[id(target)]

    stack: list[Node] = []
    visit(edge_of(root))
    while stack:
        node = stack.pop()
        own = vertices[number[id(node)]]
        own.inputs = [visit(e) for e in node.edges if e is not None]
    return vertices


def text(root: Tensor, params: Any = None, max_lines: int = 200) -> str:
    """The graph behind ``root`` as indented lines, results above what they were computed from.

    ``params`` (a Module, a dict or (name, tensor) pairs) gives leaves their names. What was shown before is
    referred to by its number.

    >>> from minidl import Tensor, viz
    >>> w = as_tensor([1.0, 2.0], requires_grad=True)
    >>> print(viz.text((w * w).sum(), {"w": w}))
    sum
    └─ mul
       ├─ w float32[2] #2
       └─ w (see #2)
    """
    vertices = _vertices(root, params)
    shared = [0] * len(vertices)
    for v in vertices:
        for i in v.inputs:
            shared[i] += 1
    lines: list[str] = []
    seen: set[int] = set()
    stack = [(0, "", "", "")]
    while stack:
        i, lead, branch, below = stack.pop()
        v = vertices[i]
        number = f" #{i}" if shared[i] > 1 else ""
        if len(lines) == max_lines:
            lines.append(f"... ({len(vertices)} vertices in all)")
            break
        if i in seen:
            lines.append(f"{lead}{branch}{v.label} (see #{i})")
            continue
        seen.add(i)
        detail = f" {v.detail}" if v.is_leaf else f"({v.detail})" if v.detail else ""
        lines.append(f"{lead}{branch}{v.label}{detail}{number}")
        for k, j in reversed(list(enumerate(v.inputs))):
            last = k == len(v.inputs) - 1
            stack.append((j, lead + below, "└─ " if last else "├─ ", "   " if last else "│  "))
    return "\n".join(lines)


class Graph:
    """A graph to look at: ``dot`` is its Graphviz source; notebooks draw it by themselves."""

    def __init__(self, vertices: list[_Vertex]) -> None:
        self._vertices = vertices

    @property
    def dot(self) -> str:
        """Graphviz source text."""
        lines = ["digraph {", "  rankdir=BT", '  node [shape=box, fontname="Helvetica", fontsize=11]']
        for i, v in enumerate(self._vertices):
            label = "\\n".join(s.replace("\\", "\\\\").replace('"', '\\"') for s in (v.label, v.detail) if s)
            style = ', style="filled,rounded", fillcolor="#dbeafe"' if v.is_leaf else ""
            lines.append(f'  n{i} [label="{label}"{style}]')
            lines += [f"  n{j} -> n{i}" for j in v.inputs]
        return "\n".join([*lines, "}"])

    def svg(self) -> str:
        """The drawing as SVG: laid out by Graphviz where that is installed, else in plain layers."""
        try:
            return self._render("svg").decode()
        except (ImportError, RuntimeError):  # the package or the program is missing
            return _layered_svg(self._vertices)

    def _render(self, format: str) -> bytes:
        try:
            import graphviz
        except ImportError:
            raise ImportError('drawing with Graphviz needs the package graphviz: pip install "minidl[viz]"') from None
        if not shutil.which("dot"):
            raise RuntimeError(f"a {format} drawing needs Graphviz' program `dot` on the PATH; .dot and .svg do not")
        return graphviz.Source(self.dot).pipe(format=format)

    def save(self, path: str | os.PathLike) -> Path:
        """Write ``.dot``, ``.svg``, ``.png`` or ``.pdf``, by the ending of ``path``; returns the path."""
        from minidl.files import atomic_write

        path = Path(path)
        kind = path.suffix.lower().removeprefix(".")
        if kind not in ("dot", "svg", "png", "pdf"):
            raise ValueError(f"save: expected a name ending in .dot, .svg, .png or .pdf, got {path.name!r}")
        data = self.dot.encode() if kind == "dot" else self.svg().encode() if kind == "svg" else self._render(kind)
        with atomic_write(path) as file:
            file.write(data)
        return path

    def _repr_svg_(self) -> str:
        return self.svg()

    def __repr__(self) -> str:
        return f"<Graph of {len(self._vertices)} vertices; .dot, .svg(), .save(path)>"


def graph(root: Tensor, params: Any = None) -> Graph:
    """The recorded graph behind ``root`` (a loss, say), from the leaves up to it.

    ``params`` (a Module, a dict or (name, tensor) pairs) gives leaves their names.
    """
    return Graph(_vertices(root, params))


def _layered_svg(vertices: list[_Vertex]) -> str:
    """A plain drawing in layers: the result on top, each vertex below everything that uses it."""
    layer = [0] * len(vertices)
    order = _users_first(vertices)
    for i in order:
        for j in vertices[i].inputs:
            layer[j] = max(layer[j], layer[i] + 1)
    rows: list[list[int]] = [[] for _ in range(max(layer) + 1)]
    for i in order:
        rows[layer[i]].append(i)
    users: dict[int, list[int]] = {i: [] for i in range(len(vertices))}
    for i, v in enumerate(vertices):
        for j in v.inputs:
            users[j].append(i)
    width, height = 150, 70
    x: dict[int, float] = {}
    for row in rows:  # each vertex as near to the mean of its users as the others let it
        row.sort(key=lambda i: sum(x[u] for u in users[i]) / len(users[i]) if users[i] else 0)
        left = -width * (len(row) - 1) / 2
        for k, i in enumerate(row):
            x[i] = left + k * width
    offset = min(x.values()) - width / 2
    w, h = max(x.values()) - offset + width / 2, height * len(rows)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{w:g}" height="{h:g}" viewBox="0 0 {w:g} {h:g}" '
        'font-family="Helvetica, Arial, sans-serif" font-size="11" text-anchor="middle">',
        '<defs><marker id="arrow" markerWidth="8" markerHeight="8" refX="7" refY="4" orient="auto">'
        '<path d="M0,0 L8,4 L0,8 z" fill="#555"/></marker></defs>',
    ]
    place = {i: (x[i] - offset, layer[i] * height + height / 2) for i in x}
    for i, v in enumerate(vertices):
        for j in v.inputs:
            (x1, y1), (x2, y2) = place[j], place[i]
            y1, y2 = y1 - 18, y2 + 18
            bend = (y1 - y2) / 2
            parts.append(
                f'<path d="M{x1:g},{y1:g} C{x1:g},{y1 - bend:g} {x2:g},{y2 + bend:g} {x2:g},{y2:g}" fill="none" '
                'stroke="#555" marker-end="url(#arrow)"/>'
            )
    for i, v in enumerate(vertices):
        cx, cy = place[i]
        fill, radius = ("#dbeafe", 9) if v.is_leaf else ("white", 0)
        detail = v.detail if len(v.detail) <= 22 else v.detail[:19] + "..."
        parts.append(
            f'<rect x="{cx - width / 2 + 8:g}" y="{cy - 18:g}" width="{width - 16}" height="36" rx="{radius}" '
            f'fill="{fill}" stroke="black"/>'
            f'<text x="{cx:g}" y="{cy - 3 if detail else cy + 4:g}">{html.escape(v.label)}</text>'
        )
        if detail:
            parts.append(f'<text x="{cx:g}" y="{cy + 11:g}" fill="#555" font-size="9">{html.escape(detail)}</text>')
    return "\n".join([*parts, "</svg>"])


def _users_first(vertices: list[_Vertex]) -> list[int]:
    """A topological order from the result to the leaves (Kahn, 1962)."""
    waiting = [0] * len(vertices)
    for v in vertices:
        for j in v.inputs:
            waiting[j] += 1
    order, ready = [], [0]
    while ready:
        i = ready.pop()
        order.append(i)
        for j in vertices[i].inputs:
            waiting[j] -= 1
            if waiting[j] == 0:
                ready.append(j)
    return order


class Trace:
    """What :func:`trace` saw: the value, the gradients (None where none flows), and, as ``str``, the text."""

    def __init__(self, value: Any, gradients: tuple, lines: list[str]) -> None:
        self.value, self.gradients, self.lines = value, gradients, lines

    def __str__(self) -> str:
        return "\n".join(self.lines)

    __repr__ = __str__


def trace(f: Callable[..., Tensor], *inputs: Any, max_values: int = 6) -> Trace:
    """Run ``f`` on ``inputs`` and back, and tell every step: the operation, what went in, what came out.

    Floating-point inputs become leaves that require gradients, named as the parameters of ``f``; results are named
    t1, t2, ... Where the result of ``f`` has several elements, the backward pass starts from ones. Arrays of up to
    ``max_values`` elements are shown with their values.
    """
    recorder = _Recorder(max_values)
    tensors = []
    for x in inputs:
        t = as_tensor(x)
        tensors.append(t.detach().requires_grad_() if t.dtype.kind == "f" else t)
    for name, t in zip(_parameter_names(f, len(inputs)), tensors):
        recorder.name(t, name)
        recorder.lines.append(f"  {name} = {recorder.show(t)}")
    recorder.lines.insert(0, "inputs")
    gradients: tuple = (None,) * len(tensors)
    with using(observer=recorder.observe):
        recorder.lines.append("forward")
        value = f(*tensors)
        if not isinstance(value, Tensor):
            raise TypeError(f"trace: the function must return a Tensor, got {type(value).__name__}")
        if value.requires_grad:
            start = as_tensor(np.ones(value.shape, value.dtype))
            recorder.name(start, "g")
            recorder.lines.append(f"backward, from g = {recorder.show(start)} for {recorder.named(value)}")
            recorder.indent, recorder.prefix, recorder.count = "      ", "d", 0
            wanted = [t for t in tensors if t.requires_grad]
            with using(visitor=recorder.visit, trace_backward=True):
                found = iter(backward([value], [start], inputs=wanted, retain_graph=True) or ())
            gradients = tuple(next(found) if t.requires_grad else None for t in tensors)
    recorder.lines.append("gradients")
    for t, g in zip(tensors, gradients):
        if t.requires_grad:
            recorder.lines.append(f"  of {recorder.named(t)}: {'none' if g is None else recorder.show(g)}")
    return Trace(value.detach(), gradients, recorder.lines)


def _parameter_names(f: Callable[..., Any], count: int) -> Iterable[str]:
    try:
        names = [p.name for p in inspect.signature(f).parameters.values() if p.kind is not p.VAR_POSITIONAL]
    except (TypeError, ValueError):
        names = []
    return [names[i] if i < len(names) else f"x{i + 1}" for i in range(count)]


class _Recorder:
    """Turns the calls that the engine reports into lines of text."""

    def __init__(self, max_values: int) -> None:
        self.max_values = max_values
        self.lines: list[str] = []
        self.indent, self.prefix, self.count = "  ", "t", 0
        # arrays and nodes are kept beside their names, so that no id is used again
        self._names: dict[int, tuple[str, Any]] = {}

    def name(self, tensor: Tensor, name: str) -> None:
        for key in (tensor.array, tensor._node):
            if key is not None:
                self._names.setdefault(id(key), (name, key))

    def named(self, value: Any) -> str:
        if isinstance(value, Tensor):
            value = value.array
        if id(value) in self._names:
            return self._names[id(value)][0]
        if isinstance(value, np.ndarray) or hasattr(value, "dtype"):
            return self.show(value)
        return repr(value)

    def show(self, value: Any) -> str:
        data = value.array if isinstance(value, Tensor) else value
        if np.size(data) > self.max_values:
            return describe(data)
        body = np.array2string(np.asarray(data), precision=4, separator=", ").replace("\n", "")
        return f"{describe(data)} {body}"

    def observe(self, prim: Primitive, args: tuple, params: dict, out: Any) -> None:
        inputs = ", ".join(self.named(a) for a in args)
        static = _static(prim, params)
        for k, o in enumerate(out if isinstance(out, tuple) else (out,)):
            if k == 0 or not isinstance(out, tuple):
                self.count += 1
            name = f"{self.prefix}{self.count}" + (f"[{k}]" if isinstance(out, tuple) else "")
            self.name(o, name)
            call = f"{prim.name}({inputs}{', ' if inputs and static else ''}{static})" if k == 0 else " ..."
            self.lines.append(f"{self.indent}{name} = {call} = {self.show(o)}")

    def visit(self, node: Node, g: Any) -> None:
        gradient = ", ".join(self.named(t) for t in (g if isinstance(g, tuple) else (g,)))
        result = self._names.get(id(node), (node.prim.name, None))[0].partition("[")[0]
        self.lines.append(f"  through {result} = {node.prim.name}(...), with {gradient}")
