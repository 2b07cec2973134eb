"""Recurrent layers: x (N, steps, features) to the last output (N, units), or all of them (N, steps, units).

Kernels are (features, gates * units), with the gates in Keras' order: i, f, c, o in an LSTM, z, r, h in a GRU.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from minidl import ops
from minidl.creation import zeros
from minidl.keras import activations
from minidl.keras.engine import Layer
from minidl.keras.layers.core import without_penalties


class Cell(Layer):
    """One step's weights: ``kernel``, ``recurrent_kernel`` and ``bias``."""

    def __init__(self, shapes: dict[str, tuple[int, ...]], initializers: dict[str, Any]) -> None:
        super().__init__()
        for name, shape in shapes.items():
            self.add_weight(shape, initializers[name], name)
        self.built = True


class _Recurrent(Layer):
    gates = 1
    states = 1
    #: activations with which minidl's own, faster operation computes the layer
    fused = ("tanh", "sigmoid")

    def __init__(
        self, units: int, activation: Any = "tanh", recurrent_activation: Any = "sigmoid", use_bias: bool = True,
        kernel_initializer: Any = "glorot_uniform", recurrent_initializer: Any = "orthogonal",
        bias_initializer: Any = "zeros", dropout: float = 0.0, recurrent_dropout: float = 0.0, seed: Any = None,
        return_sequences: bool = False, return_state: bool = False, go_backwards: bool = False, stateful: bool = False,
        unroll: Any = None, use_cudnn: Any = None, zero_output_for_mask: bool = False, time_major: bool = False,
        implementation: Any = None, **options: Any,
    ) -> None:  # fmt: skip
        super().__init__(**without_penalties(self, options))
        if stateful or time_major:
            raise NotImplementedError(f"{type(self).__name__}: stateful and time_major; pass initial_state instead")
        self.units, self.use_bias = units, use_bias
        self.names = (_name(activation), _name(recurrent_activation))
        self.activation, self.recurrent_activation = map(activations.get, (activation, recurrent_activation))
        self.initializers = {
            "kernel": kernel_initializer, "recurrent_kernel": recurrent_initializer, "bias": bias_initializer
        }  # fmt: skip
        self.dropout, self.recurrent_dropout = dropout, recurrent_dropout
        self.return_sequences, self.return_state, self.go_backwards = return_sequences, return_state, go_backwards
        self.zero_output_for_mask = zero_output_for_mask

    def bias_shape(self) -> tuple[int, ...]:
        return (self.gates * self.units,)

    def build(self, input_shape: Any) -> None:
        shape = input_shape[0] if isinstance(input_shape[0], (tuple, list)) else input_shape
        width = self.gates * self.units
        shapes: dict[str, tuple[int, ...]] = {"kernel": (shape[-1], width), "recurrent_kernel": (self.units, width)}
        if self.use_bias:
            shapes["bias"] = self.bias_shape()
        self.cell = Cell(shapes, self.initializers)

    def inner_layers(self) -> list[Layer]:
        return [self.cell] if self.built else []

    def call(self, x: Any, initial_state: Any = None, mask: Any = None, training: bool | None = None) -> Any:
        if isinstance(x, (list, tuple)):  # Keras passes states so, too
            x, *initial_state = x
        if initial_state is None:
            initial_state = [zeros(x.shape[0], self.units, dtype=x.dtype) for _ in range(self.states)]
        states = list(initial_state) if isinstance(initial_state, (list, tuple)) else [initial_state]
        if training and self.recurrent_dropout:
            raise NotImplementedError(f"{type(self).__name__}: training with recurrent_dropout")
        if training and self.dropout:  # the same elements at each step
            x = x * ops.dropout(zeros(x.shape[0], 1, x.shape[2], dtype=x.dtype) + 1, self.dropout, True)
        x = ops.swapaxes(x, 0, 1)
        if self.go_backwards:
            x = ops.flip(x, axis=0)
            mask = None if mask is None else ops.flip(mask, axis=1)
        if mask is None and self.is_fused():
            y, states = self.all_steps(x, states)
        else:
            y, states = self.step_by_step(x, states, mask)
        out = ops.swapaxes(y, 0, 1) if self.return_sequences else y[-1] if mask is None else states[0]
        return (out, *states) if self.return_state else out

    def is_fused(self) -> bool:
        return self.names == self.fused

    def step_by_step(self, x: Any, states: list[Any], mask: Any) -> tuple[Any, list[Any]]:
        """The loop over steps. Where the mask is False, states stay and the output is the one before, or zero."""
        outputs, last = [], None
        for t in range(x.shape[0]):
            new = self.step(x[t], states)
            out = new[0]
            if mask is not None:
                counts = ops.astype(mask, dtype="bool")[:, t][:, None]
                before = ops.zeros_like(out) if last is None or self.zero_output_for_mask else last
                out = ops.where(counts, out, before)
                new = [ops.where(counts, n, s) for n, s in zip(new, states)]
            outputs.append(out)
            last, states = out, new
        return ops.stack(outputs, axis=0), states

    def step(self, x: Any, states: list[Any]) -> list[Any]:
        """The states after one step of inputs x (N, features); the first is the output."""
        raise NotImplementedError

    def all_steps(self, x: Any, states: list[Any]) -> tuple[Any, list[Any]]:
        """All steps by one of minidl's operations."""
        raise NotImplementedError

    def compute_mask(self, inputs: Any, mask: Any) -> Any:
        return mask if self.return_sequences else None

    def products(self, x: Any, h: Any) -> Any:
        z = ops.matmul(x, self.cell.kernel) + ops.matmul(h, self.cell.recurrent_kernel)
        return z + self.cell.bias if self.use_bias else z


def _name(activation: Any) -> Any:
    if isinstance(activation, dict):
        return activation["config"] if isinstance(activation.get("config"), str) else activation.get("class_name")
    return activation


def _biases(bias: Any) -> tuple[Any, Any]:
    """One bias as the two of minidl's operations."""
    return (None, None) if bias is None else (bias, ops.zeros_like(bias))


class SimpleRNN(_Recurrent):
    """h' = activation(x kernel + h recurrent_kernel + bias)."""

    def __init__(self, units: int, activation: Any = "tanh", **options: Any) -> None:
        super().__init__(units, activation, **options)

    def is_fused(self) -> bool:
        return self.names[0] in ("tanh", "relu")

    def step(self, x: Any, states: list[Any]) -> list[Any]:
        return [self.activation(self.products(x, states[0]))]

    def all_steps(self, x: Any, states: list[Any]) -> tuple[Any, list[Any]]:
        biases = _biases(self.cell.bias if self.use_bias else None)
        weights = self.cell.kernel.T, self.cell.recurrent_kernel.T
        y, h = ops.rnn(x, states[0], *weights, *biases, nonlinearity=self.names[0])
        return y, [h]


class LSTM(_Recurrent):
    """Long short-term memory (Hochreiter and Schmidhuber 1997); states h and c."""

    gates, states = 4, 2

    def __init__(
        self, units: int, activation: Any = "tanh", recurrent_activation: Any = "sigmoid", use_bias: bool = True,
        unit_forget_bias: bool = True, **options: Any,
    ) -> None:  # fmt: skip
        super().__init__(units, activation, recurrent_activation, use_bias, **options)
        if unit_forget_bias and use_bias:
            given = self.initializers["bias"]
            if given == "zeros" or (isinstance(given, dict) and given["class_name"] == "Zeros"):
                self.initializers["bias"] = lambda shape: np.repeat([0.0, 1.0, 0.0, 0.0], shape[0] // 4)

    def step(self, x: Any, states: list[Any]) -> list[Any]:
        h, c = states
        i, f, g, o = ops.split(self.products(x, h), self.units, axis=1)
        act, gate = self.activation, self.recurrent_activation
        c = gate(f) * c + gate(i) * act(g)
        return [gate(o) * act(c), c]

    def all_steps(self, x: Any, states: list[Any]) -> tuple[Any, list[Any]]:
        biases = _biases(self.cell.bias if self.use_bias else None)
        h, c = states
        y, h, c = ops.lstm(x, h, c, self.cell.kernel.T, self.cell.recurrent_kernel.T, *biases)
        return y, [h, c]


class GRU(_Recurrent):
    """Gated recurrent unit (Cho et al. 2014). ``reset_after`` (the default) resets after the matrix product."""

    gates = 3

    def __init__(
        self, units: int, activation: Any = "tanh", recurrent_activation: Any = "sigmoid", use_bias: bool = True,
        reset_after: bool = True, **options: Any,
    ) -> None:  # fmt: skip
        super().__init__(units, activation, recurrent_activation, use_bias, **options)
        self.reset_after = reset_after

    def bias_shape(self) -> tuple[int, ...]:
        return (2, 3 * self.units) if self.reset_after else (3 * self.units,)

    def is_fused(self) -> bool:
        return super().is_fused() and self.reset_after

    def step(self, x: Any, states: list[Any]) -> list[Any]:
        h, u = states[0], self.units
        kernel, recurrent = self.cell.kernel, self.cell.recurrent_kernel
        act, gate = self.activation, self.recurrent_activation
        a = ops.matmul(x, kernel)
        if self.use_bias:
            a = a + (self.cell.bias[0] if self.reset_after else self.cell.bias)
        az, ar, ah = ops.split(a, u, axis=1)
        if self.reset_after:
            b = ops.matmul(h, recurrent)
            bz, br, bh = ops.split(b + self.cell.bias[1] if self.use_bias else b, u, axis=1)
            z, r = gate(az + bz), gate(ar + br)
            new = act(ah + r * bh)
        else:
            bz, br = ops.split(ops.matmul(h, recurrent[:, : 2 * u]), u, axis=1)
            z, r = gate(az + bz), gate(ar + br)
            new = act(ah + ops.matmul(r * h, recurrent[:, 2 * u :]))
        return [z * h + (1 - z) * new]

    def all_steps(self, x: Any, states: list[Any]) -> tuple[Any, list[Any]]:
        def reordered(w: Any) -> Any:  # z, r, h to r, z, h
            z, r, h = ops.split(w, self.units, axis=-1)
            return ops.concat([r, z, h], axis=-1)

        biases = (reordered(self.cell.bias[0]), reordered(self.cell.bias[1])) if self.use_bias else (None, None)
        y, h = ops.gru(x, states[0], reordered(self.cell.kernel).T, reordered(self.cell.recurrent_kernel).T, *biases)
        return y, [h]


class Bidirectional(Layer):
    """A recurrent layer forwards and another backwards, joined by ``merge_mode``."""

    supports_masking = True

    def __init__(
        self, layer: Any, merge_mode: str | None = "concat", backward_layer: Any = None, weights: Any = None,
        **options: Any,
    ) -> None:  # fmt: skip
        super().__init__(**options)
        if merge_mode not in ("concat", "sum", "ave", "mul", None):
            raise ValueError(f"Bidirectional: merge_mode {merge_mode!r}")
        if backward_layer is None:
            raise ValueError("Bidirectional: give backward_layer, the same layer with go_backwards=True")
        self.forward_layer, self.backward_layer, self.merge_mode = layer, backward_layer, merge_mode
        self.return_sequences, self.return_state = layer.return_sequences, layer.return_state

    def build(self, input_shape: Any) -> None:
        self.forward_layer.ensure_built(input_shape)
        self.backward_layer.ensure_built(input_shape)

    def inner_layers(self) -> list[Layer]:
        return [self.forward_layer, self.backward_layer]

    def call(self, x: Any, initial_state: Any = None, mask: Any = None, training: bool | None = None) -> Any:
        half = None if initial_state is None else len(initial_state) // 2
        states = (None, None) if half is None else (initial_state[:half], initial_state[half:])
        found = [
            layer(x, initial_state=state, mask=mask)
            for layer, state in zip((self.forward_layer, self.backward_layer), states)
        ]
        (a, *state_a), (b, *state_b) = (f if self.return_state else (f,) for f in found)
        if self.return_sequences:
            b = ops.flip(b, axis=1)
        if self.merge_mode == "concat":
            out: Any = ops.concat([a, b], axis=-1)
        elif self.merge_mode is None:
            out = (a, b)
        else:
            out = a * b if self.merge_mode == "mul" else a + b
            out = out / 2 if self.merge_mode == "ave" else out
        return (out, *state_a, *state_b) if self.return_state else out

    def compute_mask(self, inputs: Any, mask: Any) -> Any:
        return mask if self.return_sequences else None


class TimeDistributed(Layer):
    """A layer for each step by itself."""

    supports_masking = True

    def __init__(self, layer: Any, **options: Any) -> None:
        super().__init__(**options)
        self.layer = layer

    def build(self, input_shape: Any) -> None:
        self.layer.ensure_built((input_shape[0], *input_shape[2:]))

    def inner_layers(self) -> list[Layer]:
        return [self.layer]

    def call(self, x: Any, mask: Any = None, training: bool | None = None) -> Any:
        n, steps = x.shape[:2]
        y = self.layer(ops.reshape(x, shape=(n * steps, *x.shape[2:])))
        return ops.reshape(y, shape=(n, steps, *y.shape[1:]))
