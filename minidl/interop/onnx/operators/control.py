"""Branches and loops. The conditions are read as the model runs."""

from __future__ import annotations

from typing import Any

import numpy as np

from minidl import ops
from minidl.interop.onnx.registry import operator
from minidl.interop.onnx.values import host


@operator("If", host="condition")
def if_(condition, *, then_branch, else_branch):
    return then_branch() if bool(np.ravel(condition)[0]) else else_branch()


@operator("Loop", host="most condition")
def loop(most, condition, *state, body, outputs):
    """The last states, then what each turn of the loop gave besides, stacked."""
    count = len(state)
    scanned: list[list[Any]] = [[] for _ in range(outputs - count)]
    go, turn = condition is None or bool(np.ravel(condition)[0]), 0
    while go and (most is None or turn < int(np.ravel(most)[0])):
        again, *out = body(np.array(turn, np.int64), np.array(True), *state)
        go = bool(np.ravel(host(again))[0])
        state = tuple(out[:count])
        for kept, value in zip(scanned, out[count:]):
            kept.append(value)
        turn += 1
    return *state, *(ops.stack(kept) if kept else np.zeros((0,), np.float32) for kept in scanned)


@operator("Scan")
def scan_8(lengths, *xs, body, num_scan_inputs, directions=None):
    """Opset 8: with an axis for the batch first, each sample by itself."""
    samples = [
        scan(*(x[i] for x in xs), body=body, num_scan_inputs=num_scan_inputs, scan_input_directions=directions)
        for i in range(xs[0].shape[0])
    ]
    return tuple(ops.stack([s[k] for s in samples]) for k in range(len(samples[0])))


@operator("Scan", since=9)
def scan(
    *xs, body, num_scan_inputs, scan_input_axes=None, scan_input_directions=None, scan_output_axes=None,
    scan_output_directions=None,
):  # fmt: skip
    """``body`` for each slice of the last ``num_scan_inputs`` inputs, carrying the states that come before them."""
    count = len(xs) - num_scan_inputs
    state, inputs = xs[:count], xs[count:]
    axes = scan_input_axes or [0] * num_scan_inputs
    backwards = scan_input_directions or [0] * num_scan_inputs
    inputs = [ops.moveaxis(x, a, 0) for x, a in zip(inputs, axes)]
    n, made = inputs[0].shape[0], []
    for t in range(n):
        out = body(*state, *(x[n - 1 - t if back else t] for x, back in zip(inputs, backwards)))
        state = out[:count]
        made.append(out[count:])
    outs = []
    for k in range(len(made[0]) if made else 0):
        back = scan_output_directions and scan_output_directions[k]
        steps = [m[k] for m in (made[::-1] if back else made)]
        outs.append(ops.stack(steps, axis=scan_output_axes[k] if scan_output_axes else 0))
    return *state, *outs
