"""An ONNX graph as a list of steps, and how it is run."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Iterable, Iterator, Mapping, MutableMapping, Sequence
from pathlib import Path
from types import NoneType
from typing import Any, NamedTuple

import numpy as np
import onnx

from minidl.core.context import using
from minidl.core.trace import capturing
from minidl.interop.onnx.registry import STANDARD, Operator, find
from minidl.interop.onnx.values import array_of, host

Scope = MutableMapping[str, Any]


class Step(NamedTuple):
    """One node: what runs, on the values of which names, giving which names."""

    label: str
    compute: Operator | Graph
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: dict[str, Any]
    #: names that nothing after this step needs
    dead: tuple[str, ...] = ()

    def graphs(self) -> Iterator[Graph]:
        """The graphs among the attributes."""
        for value in self.attributes.values():
            if isinstance(value, Graph):
                yield value

    def uses(self) -> set[str]:
        """All names that the step reads, those read inside its graphs included."""
        return {n for n in self.inputs if n}.union(*(g.free() for g in self.graphs()))

    def run(self, scope: Scope) -> Any:
        """The outputs: one value, or a tuple."""
        op = self.compute
        if isinstance(op, Graph):
            return op.run([scope[n] if n else None for n in self.inputs])
        args = [scope[n] if n else None for n in self.inputs]
        if op.host:
            args = [host(a) if op.name_of(i) in op.host else a for i, a in enumerate(args)]
        attributes = {k: _runner(v, scope) for k, v in self.attributes.items()}
        known = all(isinstance(a, (np.ndarray, NoneType)) for a in args) and not any(map(callable, attributes.values()))
        if not capturing() or op.random or not known:
            return op.function(*args, **attributes)
        with using(tracer=None):  # what is made of constants alone is constant, in a captured step too
            return op.function(*args, **attributes)


def _runner(value: Any, scope: Scope) -> Any:
    """A graph among the attributes becomes a function, which sees the names around the node."""
    return (lambda *args: value.run(args, scope)) if isinstance(value, Graph) else value


class Graph:
    """A graph, a subgraph (a branch, the body of a loop) or a function of an ONNX file."""

    def __init__(
        self, inputs: Sequence[str], outputs: Sequence[str], constants: dict[str, np.ndarray], steps: list[Step]
    ) -> None:
        self.inputs, self.outputs, self.constants = list(inputs), list(outputs), constants
        self.steps: list[Step] = []
        needed = set(outputs)
        for step in reversed(steps):
            dead = {n for n in (*step.outputs, *step.uses()) if n and n not in needed}
            needed |= dead
            mine = {*self.inputs, *(n for s in steps for n in s.outputs)}
            self.steps.insert(0, step._replace(dead=tuple(dead & mine)))

    def free(self) -> set[str]:
        """Names that the graph takes from around it."""
        own = {*self.inputs, *self.constants, *(n for s in self.steps for n in s.outputs)}
        return (set(self.outputs) | {n for s in self.steps for n in s.uses()}) - own

    def run(self, args: Sequence[Any], around: Mapping[str, Any] | None = None) -> tuple:
        """The outputs for ``args``, the values of the inputs, where names of ``around`` are visible."""
        inner = {**self.constants, **dict(zip(self.inputs, args))}
        scope: Scope = inner if around is None else ChainMap(inner, around)  # type: ignore[arg-type]
        for step in self.steps:
            try:
                results = step.run(scope)
            except Exception as error:
                error.add_note(f"in the node {step.label}")
                raise
            for name, value in zip(step.outputs, results if isinstance(results, tuple) else (results,)):
                if name:
                    inner[name] = value
            for name in step.dead:
                inner.pop(name, None)
        return tuple(scope[n] if n else None for n in self.outputs)

    def roles(self, found: dict[str, set[str]] | None = None) -> dict[str, set[str]]:
        """How each name is used, anywhere: as ``host`` value, as ``state``, or as ``value``."""
        found = {} if found is None else found
        for step in self.steps:
            for i, name in enumerate(step.inputs):
                if isinstance(step.compute, Graph):
                    inner = step.compute.inputs[i] if i < len(step.compute.inputs) else ""
                    found.setdefault(name, set()).update(step.compute.roles().get(inner, ()))
                else:
                    parameter = step.compute.name_of(i)
                    role = "host" if parameter in step.compute.host else "state"
                    listed = parameter in step.compute.host or parameter in step.compute.state
                    found.setdefault(name, set()).add(role if listed else "value")
            for graph in step.graphs():
                graph.roles(found)
        return found

    def walk(self) -> Iterator[Step]:
        """All steps, those of graphs inside steps included."""
        for step in self.steps:
            yield step
            for graph in (*step.graphs(), *([step.compute] if isinstance(step.compute, Graph) else [])):
                yield from graph.walk()


class Reader:
    """Makes Graphs of the protocol buffers of a file, and collects what can't be run."""

    def __init__(self, model: onnx.ModelProto, folder: Path | None) -> None:
        self.folder = folder
        self.opsets = {_plain(o.domain): o.version for o in model.opset_import}
        self.functions = {(_plain(f.domain), f.name, f.overload): f for f in model.functions}
        #: operators that nothing computes -> labels of their nodes
        self.unsupported: dict[str, list[str]] = {}
        self.calls: list[tuple] = []

    def graph(self, proto: onnx.GraphProto, visible: set[str] = frozenset()) -> Graph:  # type: ignore[assignment]
        """The graph of a model, or with the names that are ``visible`` around it, of a branch or a body."""
        constants = {t.name: array_of(t, self.folder) for t in proto.initializer}
        constants.update((t.values.name, self._dense(t)) for t in proto.sparse_initializer)
        inputs = [i.name for i in proto.input if i.name not in constants]
        return self._graph(inputs, [o.name for o in proto.output], constants, proto.node, visible, {})

    def _graph(
        self,
        inputs: list[str],
        outputs: list[str],
        constants: dict[str, np.ndarray],
        nodes: Iterable[onnx.NodeProto],
        visible: Iterable[str],
        given: dict[str, Any],
    ) -> Graph:
        known = {*visible, *inputs, *constants}
        steps = []
        for node in nodes:
            label = _label(node)
            for name in node.input:
                if name and name not in known:
                    raise ValueError(f"{label} reads {name!r}, which nothing before it gives")
            attributes = dict(self._attributes(node, known, given))
            if node.op_type == "Constant" and not _plain(node.domain):
                constants[node.output[0]] = _constant(attributes, label)
            else:
                step = self._step(node, label, attributes)
                if step is not None:
                    steps.append(step)
            known.update(n for n in node.output if n)
        for name in outputs:
            if name and name not in known:
                raise ValueError(f"the output {name!r} is given by no node")
        return Graph(inputs, outputs, constants, steps)

    def _step(self, node: onnx.NodeProto, label: str, attributes: dict[str, Any]) -> Step | None:
        domain = _plain(node.domain)
        function = self.functions.get((domain, node.op_type, node.overload))
        opset = self.opsets.get(domain, 1)
        if function is None:
            op = find(domain, node.op_type, opset)
            if op is None:
                function = _schema_function(node, domain, opset)
            else:
                return Step(label, op, tuple(node.input), tuple(node.output), _checked(op, attributes, node, opset))
        if function is None:
            name = f"{domain}:{node.op_type}" if domain else f"{node.op_type} (opset {opset})"
            self.unsupported.setdefault(name, []).append(label)
            return None
        return Step(label, self._function(function, attributes), tuple(node.input), tuple(node.output), {})

    def _function(self, proto: onnx.FunctionProto, given: dict[str, Any]) -> Graph:
        key = (proto.domain, proto.name, proto.overload)
        if key in self.calls:
            raise ValueError(f"the function {proto.name!r} calls itself")
        defaults = {a.name: _attribute(a, self.folder) for a in proto.attribute_proto}
        before, self.opsets = self.opsets, {**self.opsets, **{_plain(o.domain): o.version for o in proto.opset_import}}
        self.calls.append(key)
        try:
            return self._graph(list(proto.input), list(proto.output), {}, proto.node, set(), {**defaults, **given})
        finally:
            self.opsets = before
            self.calls.pop()

    def _attributes(self, node: onnx.NodeProto, known: set[str], given: dict) -> Iterator[tuple[str, Any]]:
        for attribute in node.attribute:
            if attribute.ref_attr_name:
                if attribute.ref_attr_name in given:
                    yield attribute.name, given[attribute.ref_attr_name]
            elif attribute.type == onnx.AttributeProto.GRAPH:
                yield attribute.name, self.graph(attribute.g, known)
            elif attribute.type == onnx.AttributeProto.SPARSE_TENSOR:
                yield attribute.name, self._dense(attribute.sparse_tensor)
            else:
                yield attribute.name, _attribute(attribute, self.folder)

    def _dense(self, sparse: onnx.SparseTensorProto) -> np.ndarray:
        values, where = array_of(sparse.values, self.folder), array_of(sparse.indices, self.folder)
        full = np.zeros(tuple(sparse.dims), values.dtype)
        if where.ndim == 1:
            full.reshape(-1)[where] = values
        else:
            full[tuple(where.T)] = values
        return full


def _plain(domain: str) -> str:
    return STANDARD if domain == "ai.onnx" else domain


def _label(node: onnx.NodeProto) -> str:
    return f"{node.op_type} {node.name!r}" if node.name else f"{node.op_type} -> {', '.join(node.output)}"


def _attribute(proto: onnx.AttributeProto, folder: Path | None) -> Any:
    kind = onnx.AttributeProto
    if proto.type == kind.TENSOR:
        return array_of(proto.t, folder)
    if proto.type == kind.STRING:
        return proto.s.decode(errors="surrogateescape")
    if proto.type == kind.STRINGS:
        return [s.decode(errors="surrogateescape") for s in proto.strings]
    value = onnx.helper.get_attribute_value(proto)
    return list(value) if proto.type in (kind.INTS, kind.FLOATS, kind.TENSORS) else value


def _constant(attributes: dict[str, Any], label: str) -> np.ndarray:
    dtypes = {"value_float": np.float32, "value_floats": np.float32, "value_int": np.int64, "value_ints": np.int64}
    for name, value in attributes.items():
        if name in ("value", "sparse_value"):
            return value
        if name in dtypes:
            return np.array(value, dtypes[name])
        if name in ("value_string", "value_strings"):
            return np.array(value, object)
    raise ValueError(f"{label} has no value")


def _checked(op: Operator, attributes: dict[str, Any], node: onnx.NodeProto, opset: int) -> dict[str, Any]:
    """The attributes, with what the function wants to know besides; ValueError for those that it does not know."""
    if unknown := attributes.keys() - op.attributes:
        raise ValueError(f"{_label(node)} has unknown attributes {sorted(unknown)}")
    if not op.required <= len(node.input) and not op.variadic:
        raise ValueError(f"{_label(node)} has {len(node.input)} inputs, expected at least {op.required}")
    if len(node.input) > len(op.inputs) and not op.variadic:
        raise ValueError(f"{_label(node)} has {len(node.input)} inputs, expected at most {len(op.inputs)}")
    more = {"opset": opset, "outputs": len(node.output)}
    return attributes | {name: value for name, value in more.items() if name in op.attributes}


def _schema_function(node: onnx.NodeProto, domain: str, opset: int) -> onnx.FunctionProto | None:
    """The definition that ONNX itself gives of an operator by simpler ones, if it gives one."""
    try:
        schema = onnx.defs.get_schema(node.op_type, opset, domain)
    except onnx.defs.SchemaError:
        return None
    if not schema.has_function:  # type: ignore[attr-defined]
        return None
    body = onnx.FunctionProto()
    body.CopyFrom(schema.function_body)
    defaults = [a.default_value for a in schema.attributes.values() if a.default_value.name]
    body.attribute_proto.extend(defaults)
    if not any(_plain(o.domain) == STANDARD for o in body.opset_import):
        body.opset_import.append(onnx.helper.make_opsetid("", opset))
    return body
