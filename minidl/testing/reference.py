"""How the formulas of primitives, and their gradients, are computed for comparison with kernels."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from minidl.autograd.functional import gradients
from minidl.core.context import using
from minidl.core.dispatch import compute
from minidl.core.registry import Backend, use_backend
from minidl.core.tensor import as_tensor
from minidl.core.trace import Tracer
from minidl.ops import primitives
from minidl.testing.case import Case, is_float

#: how a formula says that a generated call makes no sense; any other error is a mistake of ours and is let through
REFUSALS = (ValueError, IndexError, NotImplementedError)


class Recorder(Tracer):
    """A tracer that only notes which primitives ran, with what."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, list, dict]] = []

    def run(self, prim: Any, arrays: Any, params: dict, compute: Callable[[Any, Any, dict], Any]) -> Any:
        self.calls.append((prim.name, list(arrays), dict(params)))
        return compute(prim, arrays, params)


@contextlib.contextmanager
def recording() -> Iterator[Recorder]:
    """Inside, every primitive that runs is noted in the recorder given."""
    recorder = Recorder()
    with using(tracer=recorder):
        yield recorder


_REFERENCES = Backend()


@contextlib.contextmanager
def plain() -> Iterator[None]:
    """Inside, host arrays are served by the references alone, and nothing warns of NaNs and overflows."""
    with use_backend(_REFERENCES, strict=False), np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def as_tuple(out: Any) -> tuple:
    """A primitive's result as the tuple of its outputs."""
    return out if isinstance(out, tuple) else (out,)


def formula(case: Case) -> Callable[[list], tuple]:
    """The outputs of the primitive's formula, with the parameters of ``case``, as a function of the arguments: half
    precision is computed in float32, as without kernels."""

    def run(args: list) -> tuple:
        with plain():
            return as_tuple(compute(primitives[case.primitive], args, case.params))

    return run


def differentiable(case: Case) -> list[int]:
    """The inputs of a call for which the primitive has a gradient."""
    prim = primitives[case.primitive]
    if not prim.differentiable:
        return []
    return [
        i
        for i, a in enumerate(case.args)
        if isinstance(a, np.ndarray) and is_float(a.dtype) and (prim.joint is not None or i in prim.rules)
    ]


def gradients_of(case: Case, args: list, cotangents: list, wanted: list[int]) -> tuple[list, tuple]:
    """The gradients for the inputs ``wanted`` (None where there is none), with ``args`` as the values of ``case``.

    Runs on the active backend; ``cotangents`` has the gradients for the outputs, None for those that have none.
    Returns also the outputs' data.
    """
    tensors = [as_tensor(a) if hasattr(a, "shape") else a for a in args]
    for i in wanted:
        tensors[i] = as_tensor(args[i], requires_grad=True)
    outs = as_tuple(primitives[case.primitive](*tensors, **case.params))
    pairs = [(o, as_tensor(g)) for o, g in zip(outs, cotangents) if g is not None and o.requires_grad]
    if not pairs:
        return [None] * len(wanted), tuple(o.array for o in outs)
    found = gradients([o for o, _ in pairs], [tensors[i] for i in wanted], [g for _, g in pairs], allow_unused=True)
    return [None if g is None else g.array for g in found], tuple(o.array for o in outs)


def cotangents_for(outs: tuple, seed: int = 0) -> list:
    """Random gradients for the floating-point outputs."""
    rng = np.random.default_rng(seed)
    return [np.asarray(rng.normal(size=o.shape)).astype(o.dtype) if is_float(o.dtype) else None for o in outs]


def call_in_gradient(name: str, parent: Case) -> Case | None:
    """The first call of the primitive ``name`` while ``parent`` is differentiated; None if there is none."""
    with plain(), recording() as recorder:
        outs = as_tuple(primitives[parent.primitive](*parent.args, **parent.params))
        gradients_of(parent, parent.args, cotangents_for(tuple(map(np.asarray, outs))), differentiable(parent))
    for called, args, params in recorder.calls:
        if called == name:
            return Case(name, [_host(a) for a in args], params)
    return None


def _host(a: Any) -> Any:
    return a.array if hasattr(a, "requires_grad") else a
