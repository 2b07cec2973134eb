"""A table of a model: its layers with output shapes, parameters, operations and memory."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from minidl.core.context import no_grad, using
from minidl.core.primitive import Primitive
from minidl.core.tensor import Tensor, as_tensor

# Floating-point operations of one call, from (inputs, static parameters, outputs). A multiply-add counts as two.


def _numel(a: Any) -> int:
    return math.prod(a.shape)


def _per_output(count: Callable[[list, dict], int]) -> Callable[[list, dict, tuple], int]:
    return lambda inputs, params, outs: 2 * _numel(outs[0]) * count(inputs, params)


def _bias(inputs: list, outs: tuple) -> int:
    return _numel(outs[0]) if inputs[-1] is not None and inputs[-1].ndim == 1 else 0


def _recurrent(states: int) -> Callable[[list, dict, tuple], int]:
    """All weight matrices, at every step of every sequence; inputs are x (T, N, I), the states, the weights."""

    def count(inputs: list, params: dict, outs: tuple) -> int:
        steps = inputs[0].shape[0] * inputs[0].shape[1]
        return 2 * steps * sum(_numel(w) for w in inputs[1 + states :] if w is not None and w.ndim == 2)

    return count


def _attention(inputs: list, params: dict, outs: tuple) -> int:
    q, k, v = inputs[:3]
    return 2 * math.prod(q.shape[:-1]) * k.shape[-2] * (q.shape[-1] + v.shape[-1])


def _einsum(inputs: list, params: dict, outs: tuple) -> int:
    terms = params["subscripts"].split("->")[0].split(",")
    lengths: dict[str, int] = {}
    for term, x in zip(terms, inputs):
        for c, n in zip(term, x.shape):
            lengths[c] = max(n, lengths.get(c, 1))
    return max(len(inputs), 2) * math.prod(lengths.values())


_FLOPS: dict[str, Callable[[list, dict, tuple], int]] = {
    "matmul": _per_output(lambda inputs, params: inputs[0].shape[-1]),
    "linear": lambda i, p, o: 2 * _numel(o[0]) * i[1].shape[1] + _bias(i, o),
    "einsum": _einsum,
    "scaled_dot_product_attention": _attention,
    "rnn": _recurrent(1),
    "gru": _recurrent(1),
    "lstm": _recurrent(2),
    **{f"conv{n}d": lambda i, p, o: 2 * _numel(o[0]) * math.prod(i[1].shape[1:]) + _bias(i, o) for n in (1, 2, 3)},
    # the forward pass of a transposed convolution
    **{f"conv{n}d_input_grad": lambda i, p, o: 2 * _numel(i[0]) * math.prod(i[1].shape[1:]) for n in (1, 2, 3)},
    **{
        f"{kind}_pool{n}d": lambda i, p, o: _numel(o[0]) * math.prod(p["kernel_size"])
        for kind in ("max", "avg")
        for n in (1, 2, 3)
    },
}
_MOVES = {
    "astype", "broadcast_to", "concat", "contiguous", "copy", "embedding", "flip", "gather", "getitem", "hook_point",
    "one_hot", "ones_like", "pad_nd", "permute", "positive", "reshape", "roll", "setitem", "split", "stack", "take",
    "tril", "triu", "unbind", "where", "zeros_like",
}  # fmt: skip


def flops(prim: Primitive, args: tuple, params: dict, out: Any) -> int:
    """Floating-point operations of a call of ``prim``.

    Products, convolutions, attention and recurrent layers count two for each multiply-add, pooling one for each element
    of a window, what only moves data nothing, and everything else one for each element of its largest input or output.
    """
    outs = out if isinstance(out, tuple) else (out,)
    inputs = [a if hasattr(a, "shape") else None for a in args]
    if prim.name in _MOVES or not outs:
        return 0
    if prim.name in _FLOPS:
        return int(_FLOPS[prim.name](inputs, params, outs))
    return int(max([math.prod(a.shape) for a in inputs if a is not None] + [_numel(outs[0])]))


@dataclasses.dataclass
class Row:
    """One call of one module; ``flops`` and ``memory`` (bytes of the output) without those of the modules within it."""

    name: str
    kind: str
    depth: int
    output_shape: Any = None
    params: int = 0
    trainable: int = 0
    flops: int = 0
    memory: int = 0


class Summary:
    """The table (``print`` it) and its numbers: ``rows``, ``params``, ``trainable``, ``flops``, ``param_bytes`` and
    ``activation_bytes``."""

    def __init__(self, rows: list[Row], param_bytes: int) -> None:
        self.rows = rows
        self.params = sum(r.params for r in rows)
        self.trainable = sum(r.trainable for r in rows)
        self.flops = sum(r.flops for r in rows)
        self.param_bytes = param_bytes
        self.activation_bytes = sum(r.memory for r in rows)

    def __str__(self) -> str:
        header = ("Layer", "Output shape", "Parameters", "FLOPs", "Output memory")
        table = [
            (
                "  " * r.depth + (f"{r.name} ({r.kind})" if r.name else r.kind),
                str(r.output_shape),
                f"{r.params:,}" if r.params else "-",
                _short(r.flops) if r.flops else "-",
                _bytes(r.memory) if r.memory else "-",
            )
            for r in self.rows
        ]
        widths = [max(len(row[i]) for row in [header, *table]) for i in range(5)]

        def line(row: tuple) -> str:
            cells = [c.ljust(w) if i < 2 else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths))]
            return "  ".join(cells).rstrip()

        rule = "─" * (sum(widths) + 8)
        frozen = self.params - self.trainable
        return "\n".join(
            [
                line(header),
                rule,
                *map(line, table),
                rule,
                f"Parameters: {self.params:,}" + (f" ({frozen:,} frozen)" if frozen else ""),
                f"Memory of parameters: {_bytes(self.param_bytes)}, of outputs: {_bytes(self.activation_bytes)}",
                f"FLOPs of one forward pass: {_short(self.flops)}",
            ]
        )

    __repr__ = __str__


def _short(n: int) -> str:
    for unit, size in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if n >= size:
            return f"{n / size:.2f} {unit}"
    return str(n)


def _bytes(n: int) -> str:
    for unit, size in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if n >= size:
            return f"{n / size:.1f} {unit}"
    return f"{n} B"


def _tensors(output: Any) -> list[Tensor]:
    if isinstance(output, Tensor):
        return [output]
    if isinstance(output, dict):
        output = output.values()
    return [t for o in output for t in _tensors(o)] if isinstance(output, (tuple, list, type({}.values()))) else []


def _shapes(output: Any) -> Any:
    if isinstance(output, Tensor):
        return output.shape
    if isinstance(output, dict):
        return {k: _shapes(v) for k, v in output.items()}
    return tuple(_shapes(o) for o in output) if isinstance(output, (tuple, list)) else type(output).__name__


def summary(module: Any, *inputs: Any, dtype: Any = None) -> Summary:
    """Run ``module`` (a Module) once, without recording and as for evaluation, and tabulate what every layer does.

    Each of ``inputs`` is a whole input shape, batch axis included, for which zeros of ``dtype`` (default: that of the
    module's parameters) stand in, or an array or Tensor to be used itself (token indices, say).

    >>> from minidl import nn
    >>> print(nn.Sequential(nn.Linear(4, 8), nn.ReLU()).summary((2, 4)))
    Layer         Output shape  Parameters  FLOPs  Output memory
    ────────────────────────────────────────────────────────────
    Sequential    (2, 8)                 -      -              -
      0 (Linear)  (2, 8)                40    144           64 B
      1 (ReLU)    (2, 8)                 -     16           64 B
    ────────────────────────────────────────────────────────────
    Parameters: 40
    Memory of parameters: 160 B, of outputs: 128 B
    FLOPs of one forward pass: 160
    """
    if not inputs:
        raise TypeError("summary: expected at least one input shape or array")
    if dtype is None:
        dtype = next((p.dtype for p in module.parameters() if p.dtype.kind == "f"), np.dtype(np.float32))
    args = [
        as_tensor(np.zeros(x, dtype)) if isinstance(x, tuple) and all(isinstance(n, int) for n in x) else as_tensor(x)
        for x in inputs
    ]
    rows: list[Row] = []
    stack: list[Row] = []
    counted: set[int] = set()
    names = {id(m): name for name, m in module.named_modules()}

    def enter(m: Any, _: tuple) -> None:
        row = Row(names[id(m)], type(m).__name__, len(stack))
        for p in m.parameters(recurse=False):
            if id(p) not in counted:
                counted.add(id(p))
                row.params += p.numel()
                row.trainable += p.numel() if p.requires_grad else 0
        rows.append(row)
        stack.append(row)

    def leave(m: Any, _: tuple, output: Any) -> None:
        row = stack.pop()
        row.output_shape = _shapes(output)
        if not list(m.children()):
            row.memory = sum(t.nbytes for t in _tensors(output))

    def observe(prim: Primitive, args: tuple, params: dict, out: Any) -> None:
        if stack:
            stack[-1].flops += flops(prim, args, params, out)

    training = {id(m): m.training for m in module.modules()}
    handles = []
    for m in module.modules():
        handles += [m.register_forward_pre_hook(enter), m.register_forward_hook(leave)]
    try:
        module.eval()
        with no_grad(), using(observer=observe):
            module(*args)
    finally:
        for h in handles:
            h.remove()
        for m in module.modules():
            m.training = training[id(m)]
    return Summary(rows, sum(p.nbytes for p in module.parameters()))
