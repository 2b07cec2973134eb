"""``minidl.onnx.load``: an ONNX file becomes a Module."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from minidl import nn
from minidl.core.tensor import as_tensor
from minidl.interop.onnx.graph import Graph, Reader
from minidl.interop.onnx.values import as_output, is_tensor_dtype


class OnnxModel(nn.Module):
    """A model read from an ONNX file: parameters by the file's names, and a forward that runs the file's graph.

    Floating-point weights are parameters, running statistics and scales of quantization are buffers. Names of the file
    with dots become attributes of attributes (``model.conv1.weight``); other characters that no Python name has become
    underscores. ``metadata`` holds what the file says about itself. Normalization and dropout do what the file says, in
    ``train()`` as in ``eval()``.
    """

    def __init__(self, graph: Graph, name: str = "", metadata: dict[str, str] | None = None) -> None:
        super().__init__()
        self.graph, self.name, self.metadata = graph, name, metadata or {}
        #: names of the inputs and outputs, in their order
        self.input_names, self.output_names = list(graph.inputs), list(graph.outputs)
        self._weights: list[tuple[str, nn.Module, str]] = []
        self._take(graph.constants, graph.roles())

    def _take(self, constants: dict[str, np.ndarray], roles: dict[str, set[str]]) -> None:
        """Make the weights among the constants of a graph parameters and buffers."""
        for name in list(constants):
            array, role = constants[name], roles.get(name, set())
            if array.dtype.kind != "f" or not is_tensor_dtype(array.dtype) or "host" in role or not role:
                continue
            owner, attribute = self._place(name)
            if role == {"value"} and array.ndim:
                owner.register_parameter(attribute, nn.Parameter(_own(array)))
            else:
                owner.register_buffer(attribute, as_tensor(_own(array)))
            self._weights.append((name, owner, attribute))
            del constants[name]

    def _place(self, name: str) -> tuple[nn.Module, str]:
        """The module and the attribute for a weight called ``name`` in the file."""
        *path, last = [re.sub(r"\W", "_", part) or "_" for part in name.split(".")]
        owner: nn.Module = self
        for part in path:
            while (part in vars(owner) and not isinstance(vars(owner)[part], _Part)) or hasattr(type(owner), part):
                part += "_"
            if part not in vars(owner):
                setattr(owner, part, _Part())
            owner = getattr(owner, part)
        while hasattr(owner, last):
            last += "_"
        return owner, last

    def forward(self, *args: Any, **named: Any) -> Any:
        """The outputs for the inputs, in the order of ``input_names`` or by name: one, or a tuple of several."""
        names = self.input_names
        if len(args) > len(names) or len(args) + len(named) != len(names) or not {*named} <= {*names[len(args) :]}:
            given = [*map(str, range(len(args))), *named]
            raise TypeError(f"{self.name}: expected the inputs {names}, got {', '.join(given) or 'none'}")
        given = [*args, *(named[n] for n in names[len(args) :])]
        weights = {name: getattr(owner, attribute) for name, owner, attribute in self._weights}
        out = self.graph.run([_as_input(a) for a in given], weights)
        out = tuple(as_output(a) for a in out)
        return out[0] if len(out) == 1 else out

    def extra_repr(self) -> str:
        count = Counter(step.label.partition(" ")[0] for step in self.graph.walk())
        operators = ", ".join(f"{name} x {n}" if n > 1 else name for name, n in count.most_common())
        return f"{self.name}: {', '.join(self.input_names)} -> {', '.join(self.output_names)}\n{operators}"


class _Part(nn.Module):
    """Holds the weights whose names begin alike."""


def _own(array: np.ndarray) -> np.ndarray:
    """An array that may be written to; one that is mapped from a file is copied where it is written only."""
    if isinstance(array, np.memmap):
        return np.memmap(str(array.filename), array.dtype, "c", array.offset, array.shape)
    return np.array(array, dtype=array.dtype.newbyteorder("="))


def _as_input(value: Any) -> Any:
    if isinstance(value, list):
        return [_as_input(v) for v in value]
    if value is None or (isinstance(value, np.ndarray) and not is_tensor_dtype(value.dtype)):
        return value
    return as_tensor(value)


def load(path: str | Path | bytes) -> OnnxModel:
    """Read a model from an ONNX file, or from the bytes of one.

    Weights that are kept in files of their own, in the same folder, are mapped into memory, not read. Needs the package
    ``onnx`` (``pip install 'minidl[onnx]'``).

    Raises ValueError for what is no ONNX model or is damaged, naming the part, and NotImplementedError that names
    all operators of the model that are not supported.
    """
    name, folder = ("model", None) if isinstance(path, bytes) else (str(path), Path(path).parent)
    proto = onnx.ModelProto()
    try:
        proto.ParseFromString(path if isinstance(path, bytes) else Path(path).read_bytes())
    except OSError:
        raise
    except Exception:
        raise ValueError(f"{name}: not an ONNX model") from None
    return from_proto(proto, folder, name)


def from_proto(proto: onnx.ModelProto, folder: Path | None = None, name: str = "model") -> OnnxModel:
    """A model from an ``onnx.ModelProto``; ``folder`` is where the files of its external weights are."""
    if not proto.opset_import or not proto.graph.output:
        raise ValueError(f"{name}: not an ONNX model: it has no {'outputs' if proto.opset_import else 'opset'}")
    reader = Reader(proto, folder)
    try:
        graph = reader.graph(proto.graph)
    except Exception as error:  # whatever a damaged file leads to
        raise ValueError(f"{name}: {error}") from error
    if reader.unsupported:
        lines = [
            f"{op}: {', '.join(nodes[:3])}{', ...' * (len(nodes) > 3)}" for op, nodes in reader.unsupported.items()
        ]
        raise NotImplementedError(f"{name}: operators that are not supported:\n  " + "\n  ".join(sorted(lines)))
    return OnnxModel(graph, proto.graph.name or Path(name).stem, {p.key: p.value for p in proto.metadata_props})
