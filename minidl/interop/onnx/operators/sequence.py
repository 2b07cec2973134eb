"""Sequences (lists of tensors) and optional values."""

from __future__ import annotations

from typing import Any

import numpy as np

from minidl import ops
from minidl.interop.onnx.operators.shape import reshape
from minidl.interop.onnx.registry import operator
from minidl.interop.onnx.values import ints


def _place(position: Any, default: int) -> int:
    return default if position is None else ints(position)[0]


@operator("SequenceEmpty")
def sequence_empty(*, dtype=1):
    return []


@operator("SequenceConstruct")
def sequence_construct(*xs):
    return list(xs)


@operator("SequenceAt", host="position")
def sequence_at(sequence, position):
    return sequence[_place(position, 0)]


@operator("SequenceInsert", host="position")
def sequence_insert(sequence, x, position=None):
    at = _place(position, len(sequence))
    at = at + len(sequence) if at < 0 else at
    return [*sequence[:at], x, *sequence[at:]]


@operator("SequenceErase", host="position")
def sequence_erase(sequence, position=None):
    at = _place(position, -1) % len(sequence)
    return sequence[:at] + sequence[at + 1 :]


@operator("SequenceLength")
def sequence_length(sequence):
    return np.array(len(sequence), np.int64)


@operator("SplitToSequence", host="split")
def split_to_sequence(x, split=None, *, axis=0, keepdims=1):
    n = x.shape[axis]
    if split is None:
        sizes = [1] * n
    elif split.ndim == 0:
        each = int(split)
        sizes = [min(each, n - i) for i in range(0, n, each)]
    else:
        sizes = ints(split)
    ends = np.cumsum(sizes)
    parts = [ops.narrow(x, axis, int(e - m), m) for e, m in zip(ends, sizes)]
    if split is None and not keepdims:
        parts = [reshape(p, [m for a, m in enumerate(p.shape) if a != axis % x.ndim], allowzero=1) for p in parts]
    return parts


@operator("ConcatFromSequence")
def concat_from_sequence(sequence, *, axis, new_axis=0):
    return ops.stack(sequence, axis=axis) if new_axis else ops.concat(sequence, axis=axis)


@operator("SequenceMap")
def sequence_map(sequence, *more, body, outputs):
    """``body`` for each element of the sequence (and of further ones; a tensor is the same for all)."""
    made = [body(x, *(m[i] if isinstance(m, list) else m for m in more)) for i, x in enumerate(sequence)]
    return tuple([m[k] for m in made] for k in range(outputs))


@operator("Optional")
def optional(x=None, *, type=None):
    return x


@operator("OptionalHasElement")
def optional_has_element(x=None):
    return np.array(x is not None)


@operator("OptionalGetElement")
def optional_get_element(x):
    if x is None:
        raise ValueError("OptionalGetElement: there is no element")
    return x
