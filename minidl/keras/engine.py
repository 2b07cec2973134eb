"""What all Keras layers share: weights made when the input's shape is known, and symbolic inputs."""

from __future__ import annotations

import contextlib
import contextvars
import inspect
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from minidl.autograd import no_grad
from minidl.core.tensor import Tensor, as_tensor
from minidl.keras import initializers
from minidl.nn.module import Module, Parameter

Shape = tuple[int | None, ...]

#: bytes of weights that may still be made while a file is read; None: any number
allowance: contextvars.ContextVar[list[int] | None] = contextvars.ContextVar("allowance", default=None)
_names: Counter[str] = Counter()


@contextlib.contextmanager
def at_most(size: int) -> Iterator[None]:
    """Within it, layers refuse to make more than ``size`` bytes of weights in all."""
    token = allowance.set([size])
    try:
        yield
    finally:
        allowance.reset(token)


def snake_case(name: str) -> str:
    """``"MaxPooling2D"`` as ``"max_pooling2d"``: how Keras names layers and groups in files."""
    name = re.sub(r"\W+", "", name)
    name = re.sub("(.)([A-Z][a-z]+)", r"\1_\2", name)
    return re.sub("([a-z])([A-Z])", r"\1_\2", name).lower()


def unique_name(kind: str) -> str:
    """``"dense"``, then ``"dense_1"`` …"""
    count = _names[kind]
    _names[kind] += 1
    return f"{kind}_{count}" if count else kind


class Call(NamedTuple):
    """One use of a layer in a functional model: the layer, and arguments in which KerasTensors stand for arrays."""

    layer: Layer
    args: tuple
    kwargs: dict[str, Any]


class KerasTensor:
    """A value of a functional model that is not there yet: its shape (None where it varies), dtype, and where it
    comes from."""

    def __init__(self, shape: Sequence[int | None], dtype: str = "float32", call: Call | None = None, index: int = 0):
        self.shape: Shape = tuple(shape)
        self.dtype, self.call, self.index = dtype, call, index

    @property
    def ndim(self) -> int:
        return len(self.shape)

    def __repr__(self) -> str:
        return f"KerasTensor(shape={self.shape}, dtype={self.dtype})"


def tree_map(function: Callable[[Any], Any], tree: Any) -> Any:
    """``function`` of each leaf of lists, tuples and dicts."""
    if isinstance(tree, dict):
        return {k: tree_map(function, v) for k, v in tree.items()}
    if isinstance(tree, (list, tuple)):
        return type(tree)(tree_map(function, v) for v in tree)
    return function(tree)


def leaves(tree: Any) -> list[Any]:
    """The leaves of lists, tuples and dicts, in order."""
    found: list[Any] = []
    tree_map(found.append, tree)
    return found


def _example(shape: Shape, dtype: str, batch: int, other: int) -> Tensor:
    sizes = [(batch if i == 0 else other) if n is None else n for i, n in enumerate(shape)]
    return as_tensor(np.zeros(sizes, "float32" if dtype == "string" else dtype))


#: options that say nothing here
_IGNORED = ("activity_regularizer", "autocast", "batch_input_shape", "input_shape", "quantization_config")


class Layer(Module):
    """A layer: subclasses define ``call(inputs)`` and, for weights, ``build(input_shape)``, which uses ``add_weight``.

    ``build`` runs at the first call, with the shape of the first argument (a list of shapes for a list). ``call`` may
    take ``training`` (a bool) and ``mask`` (which steps of a sequence count), which are filled in.
    """

    if TYPE_CHECKING:  # weights are attributes that add_weight makes

        def __getattr__(self, name: str) -> Any: ...

    #: does a mask of the input hold for the output, too?
    supports_masking = False

    def __init__(self, name: str | None = None, trainable: bool = True, dtype: Any = None, **unknown: Any) -> None:
        super().__init__()
        if unknown := {k: v for k, v in unknown.items() if k not in _IGNORED}:
            raise TypeError(f"{type(self).__name__}: unknown arguments {sorted(unknown)}")
        if isinstance(dtype, dict):  # how Keras 3 writes a policy
            dtype = dtype.get("config", {}).get("name")
        self.name = name or unique_name(snake_case(type(self).__name__))
        self.trainable, self.dtype = trainable, dtype or "float32"
        self.built = False
        self._variables: list[str] = []
        parameters = inspect.signature(self.call).parameters
        self._takes = {n for n in ("training", "mask") if n in parameters}

    def build(self, input_shape: Any) -> None:
        """Make the weights for inputs of this shape; without weights there is nothing to do."""

    def call(self, *args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError(f"{type(self).__name__} defines no call()")

    def compute_mask(self, inputs: Any, mask: Any) -> Any:
        """The mask of the output, from that of the input (None: all counts)."""
        return mask if self.supports_masking else None

    def add_weight(
        self, shape: Sequence[int] = (), initializer: Any = "glorot_uniform", name: str = "weight",
        trainable: bool = True, dtype: Any = None, **ignored: Any,
    ) -> Tensor:  # fmt: skip
        """A new weight, an attribute called ``name``: a Parameter, or a buffer if it is not ``trainable``."""
        shape = tuple(int(n) for n in shape)
        left = allowance.get()
        if left is not None:
            left[0] -= 4 * int(np.prod(shape, dtype=object))
            if left[0] < 0:
                raise ValueError(f"the layer {self.name!r} has weights of shape {shape}, more than the file holds")
        value = as_tensor(initializers.get(initializer)(shape).astype(dtype or self._weight_dtype()))
        if trainable:
            self.register_parameter(name, Parameter(value))
            getattr(self, name).requires_grad = self.trainable
        else:
            self.register_buffer(name, value)
        self._variables.append(name)
        return getattr(self, name)

    def _weight_dtype(self) -> str:
        return {"mixed_float16": "float32", "mixed_bfloat16": "float32"}.get(self.dtype, self.dtype)

    def ensure_built(self, input_shape: Any) -> None:
        if not self.built:
            self.build(input_shape)
            self.built = True

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if any(isinstance(leaf, KerasTensor) for leaf in leaves([args, kwargs])):
            return self._symbolic(args, kwargs)
        if args:
            args = (tree_map(as_tensor, args[0]), *args[1:])
            self.ensure_built(_shapes(args[0]))
        return super().__call__(*args, **kwargs)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        if "training" in self._takes and kwargs.get("training") is None:
            kwargs["training"] = self.training
        return self.call(*args, **kwargs)

    def _symbolic(self, args: tuple, kwargs: dict[str, Any]) -> Any:
        """Outputs as KerasTensors: their shapes are those for zeros, computed for two sizes of what varies."""
        self.ensure_built(tree_map(lambda t: t.shape if isinstance(t, KerasTensor) else None, args[0]))
        found = []
        mode = self.training
        self.eval()
        varying = any(None in t.shape[1:] for t in leaves([args, kwargs]) if isinstance(t, KerasTensor))
        try:
            for batch, other in ((1, 64), (2, 96)) if varying else ((1, 0), (2, 0)):
                given = tree_map(
                    lambda t: _example(t.shape, t.dtype, batch, other) if isinstance(t, KerasTensor) else t,  # noqa: B023
                    [list(args), kwargs],
                )
                with no_grad(), np.errstate(all="ignore"):
                    found.append(super().__call__(*given[0], **given[1]))
        finally:
            self.train(mode)
        call, count = Call(self, args, kwargs), iter(range(len(leaves(found[0]))))
        pairs = iter(zip(leaves(found[0]), leaves(found[1])))

        def symbol(_: Any) -> KerasTensor:
            one, two = next(pairs)
            shape = [a if a == b else None for a, b in zip(one.shape, two.shape)]
            return KerasTensor(shape, str(one.dtype), call, next(count))

        return tree_map(symbol, found[0])

    # Weights

    @property
    def variables(self) -> list[Tensor]:
        """This layer's own weights, in the order in which they were made, which is that of Keras' files."""
        return [getattr(self, name) for name in self._variables]

    def get_weights(self) -> list[np.ndarray]:
        """All weights, those of inner layers included, as NumPy arrays."""
        return [np.array(v.detach().numpy()) for v in self.all_variables()]

    def set_weights(self, weights: Sequence[Any]) -> None:
        """The opposite of :meth:`get_weights`. Raises ValueError if number or shapes differ."""
        variables = self.all_variables()
        if len(weights) != len(variables):
            raise ValueError(f"{self.name}: expected {len(variables)} weights, got {len(weights)}")
        for i, (variable, value) in enumerate(zip(variables, weights)):
            assign(variable, value, f"{self.name}: weight {i}")

    def inner_layers(self) -> list[Layer]:
        """The layers of which this one is made, in the order of Keras' files."""
        return []

    def all_variables(self) -> list[Tensor]:
        """This layer's weights and those of its inner layers."""
        return [*self.variables, *(v for layer in self.inner_layers() for v in layer.all_variables())]


def assign(variable: Tensor, value: Any, what: str) -> None:
    """Set a weight to values of the same shape; ValueError names ``what`` if it is another."""
    value = np.asarray(value)
    if value.shape != tuple(variable.shape):
        raise ValueError(f"{what} has the shape {value.shape}, expected {tuple(variable.shape)}")
    with no_grad():
        variable.assign_(as_tensor(value.astype(variable.dtype)))


def _shapes(inputs: Any) -> Any:
    return tree_map(lambda t: tuple(t.shape), inputs)


class InputLayer(Layer):
    """Where a model's input comes in: one of ``shape``, without the batch's axis, or of ``batch_shape``."""

    def __init__(
        self, shape: Any = None, batch_size: int | None = None, dtype: Any = None, name: str | None = None,
        batch_shape: Any = None, batch_input_shape: Any = None, input_shape: Any = None, sparse: Any = None,
        ragged: Any = None, optional: Any = None, trainable: bool = True,
    ) -> None:  # fmt: skip
        super().__init__(name, dtype=dtype)
        if shape is None and input_shape is not None:
            shape = input_shape
        self.batch_shape = tuple(batch_shape or batch_input_shape or (batch_size, *(shape or ())))
        self.output = KerasTensor(self.batch_shape, self.dtype, Call(self, (), {}))
        self.built = True

    def call(self, x: Any) -> Any:
        return x


def Input(
    shape: Sequence[int | None] | None = None, batch_size: int | None = None, dtype: str | None = None,
    name: str | None = None, batch_shape: Sequence[int | None] | None = None,
) -> KerasTensor:  # fmt: skip
    """A symbolic input of a functional model."""
    return InputLayer(shape, batch_size, dtype, name or unique_name("input_layer"), batch_shape).output
