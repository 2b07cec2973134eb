"""Sequential and functional models, and models from Keras' files."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from typing import Any

from minidl.core.tensor import as_tensor
from minidl.keras import layers as all_layers
from minidl.keras.engine import Call, InputLayer, KerasTensor, Layer, leaves, tree_map
from minidl.keras.files import load_model, load_weights
from minidl.nn.container import ModuleList

__all__ = ["Functional", "Model", "Sequential", "from_config", "load_model"]


class Model(Layer):
    """A model: ``Model(inputs, outputs)`` of symbolic tensors, or a subclass that defines ``call``."""

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        functional = len(args) == 2 or ("inputs" in kwargs and "outputs" in kwargs)
        return super().__new__(Functional if cls is Model and functional else cls)

    def inner_layers(self) -> list[Layer]:
        return [child for child in self.children() if isinstance(child, Layer)]

    @property
    def layers(self) -> list[Layer]:
        """The layers of which the model is made."""
        return self.inner_layers()

    def get_layer(self, name: str | None = None, index: int | None = None) -> Layer:
        """The layer of this name or number. Raises ValueError if there is none."""
        if index is not None:
            return self.layers[index]
        for layer in self.layers:
            if layer.name == name:
                return layer
        raise ValueError(f"no layer is called {name!r}; there are {', '.join(x.name for x in self.layers)}")

    def load_weights(self, path: Any) -> None:
        """Read the weights in a ``.weights.h5``, ``.h5`` or ``.keras`` file. Raises CorruptFileError if they do not
        fit."""
        load_weights(self, path)


def _with_mask(layer: Layer, args: tuple, kwargs: dict[str, Any], masks: dict[int, Any]) -> Any:
    """The layer's output; masks of values go in and, by ``id`` of the value, come out."""
    first = args[0] if len(args) == 1 or not isinstance(layer, all_layers.MultiHeadAttention) else list(args)
    given = tree_map(lambda v: masks.get(id(v)), first)
    mask = given if any(m is not None for m in leaves(given)) else None
    if mask is not None and "mask" in layer._takes and kwargs.get("mask") is None:
        kwargs = {**kwargs, "mask": mask}
    out = layer(*args, **kwargs)
    new = layer.compute_mask(first, mask)
    if new is not None:
        masks[id(leaves(out)[0])] = new
    return out


class Functional(Model):
    """A graph of layers from ``inputs`` to ``outputs``, both KerasTensors or lists or dicts of them."""

    def __init__(self, inputs: Any, outputs: Any, name: str | None = None, **options: Any) -> None:
        super().__init__(name, **options)
        self.inputs, self.outputs = inputs, outputs
        self.calls: list[Call] = []
        self._order(leaves(outputs))
        found: list[Layer] = [t.call.layer for t in leaves(inputs)]
        found += [call.layer for call in self.calls]
        self._layers = ModuleList(list(dict.fromkeys(found)))
        self.built = True

    def _order(self, outputs: list[KerasTensor]) -> None:
        """The calls that lead to the outputs, each behind those that it needs."""
        given, done = {id(t) for t in leaves(self.inputs)}, set()
        stack: list[tuple[Any, bool]] = [(t.call, False) for t in reversed(outputs) if id(t) not in given]
        while stack:
            call, ready = stack.pop()
            if id(call) in done:
                continue
            if ready:
                done.add(id(call))
                self.calls.append(call)
                continue
            if isinstance(call.layer, InputLayer):
                raise ValueError(f"{self.name}: the outputs need the input {call.layer.name!r}, which is not given")
            stack.append((call, True))
            needs = [t for t in leaves([call.args, call.kwargs]) if isinstance(t, KerasTensor) and id(t) not in given]
            stack += [(t.call, False) for t in reversed(needs)]

    def inner_layers(self) -> list[Layer]:
        return list(self._layers)

    @property
    def input_names(self) -> list[str]:
        """The names of the input layers."""
        return [t.call.layer.name for t in leaves(self.inputs)]

    def call(self, inputs: Any, mask: Any = None) -> Any:
        symbols = leaves(self.inputs)
        if isinstance(inputs, dict) and not isinstance(self.inputs, dict):
            inputs = [inputs[name] for name in self.input_names]
        values = leaves(inputs)
        if len(values) != len(symbols):
            raise TypeError(f"{self.name}: expected {len(symbols)} inputs, got {len(values)}")
        known: dict[tuple[int, int], Any] = {}
        direct = {id(s): as_tensor(v) for s, v in zip(symbols, values)}
        masks: dict[int, Any] = {}

        def value(leaf: Any) -> Any:
            if not isinstance(leaf, KerasTensor):
                return leaf
            return direct[id(leaf)] if id(leaf) in direct else known[id(leaf.call), leaf.index]

        for call in self.calls:
            args, kwargs = tree_map(value, [list(call.args), call.kwargs])
            out = _with_mask(call.layer, tuple(args), kwargs, masks)
            for i, leaf in enumerate(leaves(out)):
                known[id(call), i] = leaf
        return tree_map(value, self.outputs)


class Sequential(Model):
    """Layers in a row, each taking the output of the one before."""

    def __init__(
        self, layers: Sequence[Any] = (), name: str | None = None, trainable: bool = True, **options: Any
    ) -> None:
        super().__init__(name, trainable, **options)
        self._layers = ModuleList([])
        self.output: Any = None
        for layer in layers:
            self.add(layer)

    def add(self, layer: Any) -> None:
        """One more layer at the end; an ``Input`` builds the model."""
        if isinstance(layer, KerasTensor):
            layer = layer.call.layer  # type: ignore[union-attr]
        self._layers.append(layer)
        first = self._layers[0]
        if isinstance(first, InputLayer) and len(self._layers) > 1:
            self.output = layer(self.output)
            self.built = True
        elif isinstance(layer, InputLayer):
            self.output = layer.output

    def pop(self) -> Layer:
        """Take the last layer away."""
        raise NotImplementedError("Sequential.pop(); make a new Sequential of layers[:-1]")

    def inner_layers(self) -> list[Layer]:
        return [layer for layer in self._layers if not isinstance(layer, InputLayer)]

    @property
    def inputs(self) -> list[KerasTensor]:
        """The symbolic input, if the model begins with one."""
        return [layer.output for layer in self._layers if isinstance(layer, InputLayer)]

    def call(self, x: Any, mask: Any = None) -> Any:
        masks: dict[int, Any] = {} if mask is None else {id(x): mask}
        for layer in self._layers:
            x = _with_mask(layer, (x,), {}, masks)
        return x


# From the description that Keras writes

#: names that files have and :mod:`layers` has not
_CLASSES: dict[str, type[Layer]] = {"InputLayer": InputLayer}


def _class_of(kind: str, custom_objects: dict[str, Any]) -> type[Layer]:
    found = custom_objects.get(kind) or _CLASSES.get(kind) or getattr(all_layers, kind, None)
    if found is None or not (isinstance(found, type) and issubclass(found, Layer)):
        raise NotImplementedError(
            f"the layer {kind}; give its class in custom_objects={{{kind!r}: ...}}, a subclass of minidl.keras.Layer"
        )
    return found


def from_config(described: dict[str, Any], custom_objects: dict[str, Any] | None = None) -> Layer:
    """The layer or model that a dict with ``class_name`` and ``config`` describes.

    Raises NotImplementedError that names a layer that is not known.
    """
    custom = custom_objects or {}
    kind = described["class_name"].rpartition(">")[2]
    config = dict(described.get("config") or {})
    if kind == "Sequential":
        return _sequential(config, custom)
    if kind in ("Functional", "Model") and "layers" in config:
        return _functional(config, custom)
    if kind == "Lambda":
        raise NotImplementedError("a Lambda layer holds Python code, which is not run from files")
    cls = _class_of(kind, custom)
    if "layer" in config:
        config["layer"] = from_config(config["layer"], custom)
    if kind == "Bidirectional":
        if config.get("backward_layer") is None:
            again = dict(described["config"]["layer"])
            again["config"] = {**again["config"], "go_backwards": not again["config"].get("go_backwards", False)}
            config["backward_layer"] = again
        config["backward_layer"] = from_config(config["backward_layer"], custom)
    known = inspect.signature(cls.__init__).parameters
    open_ended = any(p.kind is p.VAR_KEYWORD for p in known.values())
    return cls(**{k: v for k, v in config.items() if open_ended or k in known})


def _sequential(config: dict[str, Any], custom: dict[str, Any]) -> Sequential:
    described = config["layers"]
    made = Sequential(name=config.get("name"))
    shape = config.get("build_input_shape") or described[0]["config"].get("batch_input_shape")
    if shape and described[0]["class_name"] != "InputLayer":
        made.add(InputLayer(batch_shape=shape, name=f"{made.name}_input"))
    for one in described:
        made.add(from_config(one, custom))
    return made


def _functional(config: dict[str, Any], custom: dict[str, Any]) -> Functional:
    found: dict[str, Layer] = {}
    outputs: dict[tuple[str, int], list[KerasTensor]] = {}
    waiting: list[tuple[str, int, Any]] = []
    for one in config["layers"]:
        name = one.get("name") or one["config"]["name"]
        layer = found[name] = from_config(one, custom)
        if isinstance(layer, InputLayer):
            outputs[name, 0] = [layer.output]
        waiting += [(name, i, node) for i, node in enumerate(one.get("inbound_nodes") or ())]

    def tensor(where: Sequence[Any]) -> KerasTensor:
        name, node, index = where[:3]
        return outputs[name, node][index]

    while waiting:
        later = []
        for name, i, node in waiting:
            if isinstance(found[name], InputLayer):
                continue
            if all(tuple(where[:2]) in outputs for where in _needs(node)):
                args, kwargs = _arguments(node, tensor)
                outputs[name, i] = leaves(found[name](*args, **kwargs))
            else:
                later.append((name, i, node))
        if len(later) == len(waiting):
            raise ValueError(f"the layer {later[0][0]!r} takes what no layer gives")
        waiting = later

    def ends(given: Any) -> Any:
        if isinstance(given, dict):
            return {k: ends(v) for k, v in given.items()}
        if given and isinstance(given[0], str):
            return tensor(given)
        return [ends(g) for g in given] if len(given) > 1 else ends(given[0])

    model = Functional(ends(config["input_layers"]), ends(config["output_layers"]), name=config.get("name"))
    used = set(map(id, model.layers))
    model._layers = ModuleList([layer for layer in found.values() if id(layer) in used])  # in the file's order
    return model


def _needs(node: Any) -> Iterator[Sequence[Any]]:
    """Where the inputs of a use of a layer come from: (layer, use, output)."""
    if isinstance(node, dict):
        if node.get("class_name") == "__keras_tensor__":
            yield node["config"]["keras_history"]
            return
        for v in node.values():
            yield from _needs(v)
    elif isinstance(node, (list, tuple)):
        if len(node) >= 3 and isinstance(node[0], str) and isinstance(node[1], int) and isinstance(node[2], int):
            yield node
            for v in node[3:]:
                yield from _needs(v)
            return
        for v in node:
            yield from _needs(v)


def _arguments(node: Any, tensor: Any) -> tuple[tuple, dict[str, Any]]:
    """Positional and named arguments of a use of a layer, as Keras 3 (a dict) or Keras 2 (a list) writes it."""
    if isinstance(node, dict):

        def decoded(value: Any) -> Any:
            if isinstance(value, dict):
                if value.get("class_name") == "__keras_tensor__":
                    return tensor(value["config"]["keras_history"])
                return {k: decoded(v) for k, v in value.items()}
            return [decoded(v) for v in value] if isinstance(value, list) else value

        return tuple(decoded(list(node["args"]))), decoded(node["kwargs"])
    rows = [node] if node and isinstance(node[0], str) else node
    kwargs = dict(rows[0][3]) if len(rows[0]) > 3 else {}
    for name, value in kwargs.items():
        if isinstance(value, list) and len(value) == 3 and isinstance(value[0], str):
            kwargs[name] = tensor(value)
    values = [tensor(row) for row in rows]
    return (values[0] if len(values) == 1 else values,), kwargs
