"""RNN, GRU and LSTM: layers over sequences, their single-step cells, and batches of sequences of unequal length.

Arguments, parameter names and layouts are PyTorch's.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from minidl import ops
from minidl.core.dtypes import default_dtype
from minidl.core.registry import backend_of
from minidl.core.tensor import Tensor, as_tensor
from minidl.nn import init
from minidl.nn.module import Module, Parameter, check_sizes


class PackedSequence(NamedTuple):
    """Sequences of unequal length without padding: the first steps of all of them, longest first, then the second...

    ``data`` is (sum of lengths, ...); ``batch_sizes`` int64[longest] says how many sequences have a step t.
    ``sorted_indices`` int64[N] sorts the batch by decreasing length and ``unsorted_indices`` undoes that; both are None
    for a batch that was already sorted.
    """

    data: Tensor
    batch_sizes: np.ndarray
    sorted_indices: np.ndarray | None = None
    unsorted_indices: np.ndarray | None = None

    def lengths(self) -> np.ndarray:
        """int64[N], longest first."""
        return (self.batch_sizes[:, None] > np.arange(self.batch_sizes[0])).sum(axis=0)


def pack_padded_sequence(
    input: Any, lengths: Any, batch_first: bool = False, enforce_sorted: bool = True
) -> PackedSequence:
    """Pack a padded batch (T, N, ...) ((N, T, ...) if ``batch_first``) of sequences with the given ``lengths``.

    Raises ValueError unless there is one length in 1..T per sequence and, with ``enforce_sorted``, they decrease.
    """
    x = as_tensor(input)
    x = ops.swapaxes(x, 0, 1) if batch_first else x
    lengths = np.asarray(as_tensor(lengths).array, np.int64)
    steps, n = x.shape[:2]
    if lengths.shape != (n,) or n == 0 or lengths.min() < 1 or lengths.max() > steps:
        raise ValueError(f"pack_padded_sequence: expected {n} lengths in 1..{steps}, got {lengths.tolist()}")
    sorted_indices = unsorted_indices = None
    if enforce_sorted:
        if np.any(np.diff(lengths) > 0):
            raise ValueError(
                f"pack_padded_sequence: lengths {lengths.tolist()} do not decrease; pass enforce_sorted=False"
            )
    else:
        sorted_indices = np.argsort(-lengths, kind="stable")
        unsorted_indices = np.argsort(sorted_indices)
        lengths = lengths[sorted_indices]
        x = ops.take(x, sorted_indices, axis=1)
    batch_sizes = (lengths > np.arange(lengths[0])[:, None]).sum(axis=1)
    return PackedSequence(_pack(x, batch_sizes), batch_sizes, sorted_indices, unsorted_indices)


def _pack(x: Tensor, batch_sizes: np.ndarray) -> Tensor:
    """(T, N, ...) sorted by decreasing length -> (sum of lengths, ...)."""
    n = x.shape[1]
    where = np.flatnonzero(np.arange(n) < batch_sizes[:, None])
    flat = ops.reshape(x, shape=(x.shape[0] * n, *x.shape[2:]))
    return ops.take(flat, where, axis=0)


def _unpack(data: Tensor, batch_sizes: np.ndarray, steps: int, padding_value: float) -> Tensor:
    """The inverse of :func:`_pack`, with ``padding_value`` past the ends."""
    n = int(batch_sizes[0])
    present = np.zeros((steps, n), bool)
    present[: len(batch_sizes)] = np.arange(n) < batch_sizes[:, None]
    # an absent step points to a row of padding after the data
    where = np.full(steps * n, data.shape[0])
    where[present.reshape(-1)] = np.arange(data.shape[0])
    padding = as_tensor(np.full((1, *data.shape[1:]), padding_value, data.dtype), device=backend_of(data.array).name)
    rows = ops.take(ops.concat([data, padding], axis=0), where, axis=0)
    return ops.reshape(rows, shape=(steps, n, *data.shape[1:]))


def pad_packed_sequence(
    sequence: PackedSequence, batch_first: bool = False, padding_value: float = 0.0, total_length: int | None = None
) -> tuple[Tensor, np.ndarray]:
    """The padded batch (T, N, ...) ((N, T, ...) if ``batch_first``) and the lengths, in the batch's original order.

    ``total_length`` makes T larger than the longest sequence; raises ValueError if it is smaller.
    """
    longest = len(sequence.batch_sizes)
    if total_length is not None and total_length < longest:
        raise ValueError(f"pad_packed_sequence: total_length {total_length} is less than the longest, {longest}")
    x = _unpack(sequence.data, sequence.batch_sizes, total_length or longest, padding_value)
    lengths = sequence.lengths()
    if sequence.unsorted_indices is not None:
        x = ops.take(x, sequence.unsorted_indices, axis=1)
        lengths = lengths[sequence.unsorted_indices]
    return (ops.swapaxes(x, 0, 1) if batch_first else x), lengths


def pad_sequence(
    sequences: Sequence[Any], batch_first: bool = False, padding_value: float = 0.0, padding_side: str = "right"
) -> Tensor:
    """Sequences (T_i, ...) as one batch (T, N, ...) ((N, T, ...) if ``batch_first``), padded to the longest.

    >>> from minidl import tensor
    >>> pad_sequence([tensor([1, 2, 3]), tensor([4])], batch_first=True)
    tensor([[1, 2, 3],
            [4, 0, 0]])
    """
    if padding_side not in ("left", "right"):
        raise ValueError(f"pad_sequence: padding_side must be 'left' or 'right', got {padding_side!r}")
    sequences = [as_tensor(s) for s in sequences]
    longest = max(s.shape[0] for s in sequences)
    padded = []
    for s in sequences:
        gap = longest - s.shape[0]
        widths = ((gap, 0) if padding_side == "left" else (0, gap), *((0, 0),) * (s.ndim - 1))
        padded.append(ops.pad_nd(s, widths=widths, value=padding_value) if gap else s)
    return ops.stack(padded, axis=0 if batch_first else 1)


def pack_sequence(sequences: Sequence[Any], enforce_sorted: bool = True) -> PackedSequence:
    """Pack sequences (T_i, ...); see :func:`pack_padded_sequence`."""
    return pack_padded_sequence(pad_sequence(sequences), [len(s) for s in sequences], enforce_sorted=enforce_sorted)


def _draw_uniform(layer: Module, hidden_size: int) -> None:
    bound = 1 / math.sqrt(hidden_size)
    for p in layer.parameters():
        init.uniform_(p, -bound, bound)


class _Recurrent(Module):
    """What RNN, GRU and LSTM share: parameters, layers, directions, packing."""

    gates: int
    states = 1  # 2: a state is a pair (h, c)
    proj_size = 0

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        check_sizes(self, least=1, input_size=input_size, hidden_size=hidden_size, num_layers=num_layers)
        for name, flag in (("bias", bias), ("batch_first", batch_first)):
            if not isinstance(flag, bool):  # an int here is an argument that slipped: num_layers=1 is easily forgotten
                raise TypeError(f"{type(self).__name__}: {name} must be a bool, got {flag!r}")
        if not 0 <= dropout <= 1:
            raise ValueError(f"{type(self).__name__}: dropout must be in [0, 1], got {dropout}")
        self.input_size = input_size
        self.hidden_size = hidden_size
        self.num_layers = num_layers
        self.bias = bias
        self.batch_first = batch_first
        self.dropout = dropout
        self.bidirectional = bidirectional
        directions = 2 if bidirectional else 1
        rows, out = self.gates * hidden_size, self.proj_size or hidden_size
        for layer in range(num_layers):
            width = input_size if layer == 0 else out * directions
            shapes: dict[str, tuple[int, ...]] = {"weight_ih": (rows, width), "weight_hh": (rows, out)}
            if bias:
                shapes |= {"bias_ih": (rows,), "bias_hh": (rows,)}
            if self.proj_size:
                shapes["weight_hr"] = (out, hidden_size)
            for suffix in self._suffixes(layer):
                for name, shape in shapes.items():
                    self.register_parameter(name + suffix, Parameter(np.empty(shape, dtype or default_dtype())))
        self.reset_parameters()

    def _suffixes(self, layer: int) -> list[str]:
        return [f"_l{layer}", f"_l{layer}_reverse"][: 2 if self.bidirectional else 1]

    def reset_parameters(self) -> None:
        """Draw new initial values, uniform on ±1/sqrt(hidden_size)."""
        _draw_uniform(self, self.hidden_size)

    def _run(self, x: Tensor, states: list[Tensor], weights: list, reverse: bool, lengths: Any) -> tuple:
        """One layer in one direction: (y, final state, ...)."""
        raise NotImplementedError

    def _initial(self, x: Tensor, given: tuple | None, single: bool, packed: PackedSequence | None) -> list[Tensor]:
        """The initial states, each (layers · directions, N, width): zeros unless ``given``."""
        count = self.num_layers * (2 if self.bidirectional else 1)
        widths = [self.proj_size or self.hidden_size, self.hidden_size][: self.states]
        shapes = [(count, x.shape[1], width) for width in widths]
        if given is None:
            xp = backend_of(x.array).xp
            return [as_tensor(xp.zeros(shape, x.dtype)) for shape in shapes]
        states = [as_tensor(s) for s in given]
        states = [ops.unsqueeze(s, axis=1) for s in states] if single else states
        for s, shape in zip(states, shapes):
            if s.shape != shape:
                raise ValueError(f"{type(self).__name__}: expected an initial state of shape {shape}, got {s.shape}")
        if packed is not None and packed.sorted_indices is not None:
            states = [ops.take(s, packed.sorted_indices, axis=1) for s in states]
        return states

    def _forward(self, x: Any, initial: tuple | None) -> tuple[Any, list[Tensor]]:
        """(output, final states); each state is (layers · directions, N, width)."""
        packed = x if isinstance(x, PackedSequence) else None
        lengths = None
        if packed is not None:
            x = _unpack(packed.data, packed.batch_sizes, len(packed.batch_sizes), 0.0)
            lengths = tuple(packed.lengths().tolist())
        else:
            x = as_tensor(x)
        if x.ndim not in ((3,) if packed is not None else (2, 3)) or x.shape[-1] != self.input_size:
            raise ValueError(
                f"{type(self).__name__}: expected an input of shape "
                f"{'(N, T, ' if self.batch_first else '(T, N, '}{self.input_size}), got {x.shape}"
            )
        single = x.ndim == 2
        x = ops.unsqueeze(x, axis=1) if single else ops.swapaxes(x, 0, 1) if self.batch_first and not packed else x

        starts = self._initial(x, initial, single, packed)
        finals: list[list[Tensor]] = []
        for layer in range(self.num_layers):
            ys = []
            for direction, suffix in enumerate(self._suffixes(layer)):
                names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh", "weight_hr")
                weights = [self.__dict__.get(name + suffix) for name in names]
                y, *final = self._run(x, [s[len(finals)] for s in starts], weights, direction == 1, lengths)
                ys.append(y)
                finals.append(final)
            x = ops.concat(ys, axis=2) if len(ys) > 1 else ys[0]
            if self.dropout and layer < self.num_layers - 1:
                x = ops.dropout(x, self.dropout, self.training)

        states = [ops.stack(s, axis=0) for s in zip(*finals)]
        if packed is not None:
            if packed.unsorted_indices is not None:
                states = [ops.take(s, packed.unsorted_indices, axis=1) for s in states]
            return packed._replace(data=_pack(x, packed.batch_sizes)), states
        if single:
            return x[:, 0], [s[:, 0] for s in states]
        return (ops.swapaxes(x, 0, 1) if self.batch_first else x), states

    def forward(self, input: Any, hx: Any = None) -> tuple[Any, Any]:
        """(output, h_n) for an input and an initial state, ``hx`` or zeros; the class's docstring has the shapes."""
        output, (h_n,) = self._forward(input, None if hx is None else (hx,))
        return output, h_n

    def extra_repr(self) -> str:
        parts = [f"{self.input_size}, {self.hidden_size}"]
        for name, default in (
            ("num_layers", 1), ("nonlinearity", "tanh"), ("bias", True), ("batch_first", False), ("dropout", 0.0),
            ("bidirectional", False), ("proj_size", 0),
        ):  # fmt: skip
            if getattr(self, name, default) != default:
                parts.append(f"{name}={getattr(self, name)}")
        return ", ".join(parts)


class RNN(_Recurrent):
    """Plain recurrent layers: h_t = tanh(W_ih x_t + b_ih + W_hh h_{t-1} + b_hh) (or relu).

    Input (T, N, input_size), (N, T, input_size) if ``batch_first``, (T, input_size) for a single sequence, or a
    :class:`PackedSequence`; initial state (num_layers · directions, N, hidden_size), default zeros. Returns the last
    layer's outputs (T, N, directions · hidden_size), arranged like the input, and the final state. In training,
    ``dropout`` applies to the outputs of each layer but the last. Parameters: ``weight_ih_l0`` (hidden, input),
    ``weight_hh_l0`` (hidden, hidden), ``bias_ih_l0``, ``bias_hh_l0``, and the same with ``_reverse`` appended for the
    backward direction.
    """

    gates = 1

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        nonlinearity: str = "tanh",
        *args: Any,
        **kwargs: Any,
    ) -> None:
        if nonlinearity not in ("tanh", "relu"):
            raise ValueError(f"RNN: nonlinearity must be 'tanh' or 'relu', got {nonlinearity!r}")
        super().__init__(input_size, hidden_size, num_layers, *args, **kwargs)
        self.nonlinearity = nonlinearity

    def _run(self, x: Tensor, states: list, weights: list, reverse: bool, lengths: Any) -> tuple:
        return ops.rnn(x, *states, *weights[:4], nonlinearity=self.nonlinearity, reverse=reverse, lengths=lengths)


class GRU(_Recurrent):
    """Gated recurrent units (Cho et al. 2014; :func:`minidl.ops.gru` has the formulas). Shapes as in :class:`RNN`;
    the weights' rows are 3 · hidden_size: reset, update, new."""

    gates = 3

    def _run(self, x: Tensor, states: list, weights: list, reverse: bool, lengths: Any) -> tuple:
        return ops.gru(x, *states, *weights[:4], reverse=reverse, lengths=lengths)


class LSTM(_Recurrent):
    """Long short-term memory (Hochreiter & Schmidhuber 1997; :func:`minidl.ops.lstm` has the formulas).

    Shapes as in :class:`RNN`, except that the state is a pair (h, c) of shapes (num_layers · directions, N, P) and
    (..., hidden_size). ``proj_size`` P projects the output (and h); 0 means P = hidden_size. The weights' rows are
    4 · hidden_size: input, forget, cell, output; ``weight_hr_l0`` is (P, hidden_size).
    """

    gates = 4
    states = 2

    def __init__(self, *args: Any, proj_size: int = 0, **kwargs: Any) -> None:
        self.proj_size = proj_size
        super().__init__(*args, **kwargs)
        if not 0 <= proj_size < self.hidden_size:
            raise ValueError(f"LSTM: proj_size must be in [0, hidden_size={self.hidden_size}), got {proj_size}")

    def _run(self, x: Tensor, states: list, weights: list, reverse: bool, lengths: Any) -> tuple:
        return ops.lstm(x, *states, *weights, reverse=reverse, lengths=lengths)

    def forward(self, input: Any, hx: tuple[Any, Any] | None = None) -> tuple[Any, tuple[Tensor, Tensor]]:
        """(output, (h_n, c_n)) for an input and an initial state, ``hx = (h_0, c_0)`` or zeros."""
        output, (h_n, c_n) = self._forward(input, hx)
        return output, (h_n, c_n)


class _Cell(Module):
    """One step of a recurrent layer: parameters ``weight_ih``, ``weight_hh``, ``bias_ih``, ``bias_hh``."""

    gates: int

    def __init__(self, input_size: int, hidden_size: int, bias: bool = True, dtype: Any = None) -> None:
        super().__init__()
        check_sizes(self, input_size=input_size)
        check_sizes(self, least=1, hidden_size=hidden_size)
        self.input_size = input_size
        self.hidden_size = hidden_size
        rows, dtype = self.gates * hidden_size, dtype or default_dtype()
        self.weight_ih = Parameter(np.empty((rows, input_size), dtype))
        self.weight_hh = Parameter(np.empty((rows, hidden_size), dtype))
        self.bias_ih = Parameter(np.empty(rows, dtype)) if bias else None
        self.bias_hh = Parameter(np.empty(rows, dtype)) if bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw new initial values, uniform on ±1/sqrt(hidden_size)."""
        _draw_uniform(self, self.hidden_size)

    def _step(self, run: Any, input: Any, states: tuple | None, count: int = 1, **params: Any) -> tuple[Tensor, ...]:
        """The new states, each (N, hidden_size) or, for an input (input_size,), (hidden_size,)."""
        x = as_tensor(input)
        single = x.ndim == 1
        x = ops.reshape(x, shape=(1, 1, -1)) if single else ops.unsqueeze(x, axis=0)
        if states is None:
            zeros = backend_of(x.array).xp.zeros((x.shape[1], self.hidden_size), x.dtype)
            starts = [as_tensor(zeros)] * count
        else:
            starts = [ops.unsqueeze(as_tensor(s), axis=0) if single else as_tensor(s) for s in states]
        _, *finals = run(x, *starts, self.weight_ih, self.weight_hh, self.bias_ih, self.bias_hh, **params)
        return tuple(s[0] for s in finals) if single else tuple(finals)

    def extra_repr(self) -> str:
        return f"{self.input_size}, {self.hidden_size}, bias={self.bias_ih is not None}"


class RNNCell(_Cell):
    """One step of :class:`RNN`: (N, input_size), (N, hidden_size) -> (N, hidden_size)."""

    gates = 1

    def __init__(
        self, input_size: int, hidden_size: int, bias: bool = True, nonlinearity: str = "tanh", dtype: Any = None
    ) -> None:
        super().__init__(input_size, hidden_size, bias, dtype)
        self.nonlinearity = nonlinearity

    def forward(self, input: Any, hx: Any = None) -> Tensor:
        return self._step(ops.rnn, input, None if hx is None else (hx,), nonlinearity=self.nonlinearity)[0]


class GRUCell(_Cell):
    """One step of :class:`GRU`: (N, input_size), (N, hidden_size) -> (N, hidden_size)."""

    gates = 3

    def forward(self, input: Any, hx: Any = None) -> Tensor:
        return self._step(ops.gru, input, None if hx is None else (hx,))[0]


class LSTMCell(_Cell):
    """One step of :class:`LSTM`: (N, input_size), ((N, hidden_size), (N, hidden_size)) -> the new (h, c)."""

    gates = 4

    def forward(self, input: Any, hx: tuple[Any, Any] | None = None) -> tuple[Tensor, Tensor]:
        h, c = self._step(ops.lstm, input, hx, count=2)
        return h, c
