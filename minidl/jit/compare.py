"""Both ways at once: a replay and the step itself, and whether they did the same (``minidl.jit(f, check=True)``)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from minidl.core.errors import MismatchError
from minidl.core.registry import to_numpy
from minidl.core.tensor import Tensor
from minidl.core.tree import flatten

if TYPE_CHECKING:
    from minidl.jit.api import Entry

#: how far results may be apart, relative to the largest value: sums are added up in another order
TOLERANCE = {"float64": 1e-9, "float32": 1e-4, "float16": 2e-2, "bfloat16": 1e-1, "complex64": 1e-4, "complex128": 1e-9}


def _copy(array: Any) -> np.ndarray:
    return np.array(to_numpy(array))


def compare(name: str, entry: Entry, tensors: list[Tensor], eager: Callable[[], Any]) -> Any:
    """The replay's result, of which it is checked that it is the step's. The world is left as the step leaves it.

    Raises MismatchError that names the first result, tensor or gradient that differs, with both values.
    """
    captured = entry.captured
    watched = [p if isinstance(p, Tensor) else tensors[p] for p in (*captured.grads, *captured.cleared)]
    counters = [x.state for x in captured.lives if x.state is not None]
    arrays = [_copy(cell.get()) for _, cell in entry.cells]
    given = [_copy(t.array) for t in tensors]
    grads = [t._grad for t in watched]
    counts = [get() for get, _ in counters]

    replayed = entry(tensors)
    theirs = list(_state(entry, tensors, watched[: len(captured.grads)]))
    for (_, cell), array in zip(entry.cells, arrays):
        cell.put(array)
    for i in captured.arguments:
        tensors[i].assign_(given[i])
    for t, grad in zip(watched, grads):
        t._grad = grad
    for (_, put), count in zip(counters, counts):
        put(count)

    result = eager()
    ours = list(_state(entry, tensors, watched[: len(captured.grads)]))
    mine: list = []
    own: list = []
    where = f"jit: a result of {name}"
    if flatten(replayed, mine, where, lambda x: True) != flatten(result, own, where, lambda x: True):
        raise MismatchError(f"jit: {name}: the replay returned {replayed!r} and the step {result!r}")
    pairs = [(f"result {i}", a, b) for i, (a, b) in enumerate(zip(mine, own))]
    pairs += [(what, a, b) for (what, a), (_, b) in zip(theirs, ours)]
    for what, a, b in pairs:
        _same(name, what, _array(a), _array(b))
    for place in captured.cleared:
        (tensors[place] if isinstance(place, int) else place)._grad = None
    return replayed


def _array(x: Any) -> np.ndarray:
    return _copy(getattr(x, "array", x))


def _state(entry: Entry, tensors: list[Tensor], watched: list[Tensor]) -> Iterator[tuple[str, Any]]:
    changed = {v.number for v, _ in entry.program.updates}
    for v, cell in entry.cells:
        if v.number in changed:
            yield f"the tensor {v.typed()} from outside", _copy(cell.get())
    for i in entry.captured.arguments:
        yield f"argument {i}", _copy(tensors[i].array)
    for t in watched:
        yield f"the gradient of a tensor of shape {t.shape}", None if t._grad is None else _copy(t._grad.array)


def _same(name: str, what: str, replayed: np.ndarray, eager: np.ndarray) -> None:
    if replayed.shape != eager.shape or replayed.dtype != eager.dtype:
        raise MismatchError(
            f"jit: {name}: {what} is {replayed.dtype}{list(replayed.shape)} in the replay and "
            f"{eager.dtype}{list(eager.shape)} in the step"
        )
    if not eager.size or eager.dtype == object:
        return
    tolerance = TOLERANCE.get(eager.dtype.name)
    if tolerance is None:
        wrong = replayed != eager
    else:
        wide = np.complex128 if eager.dtype.kind == "c" else np.float64
        a, b = replayed.astype(wide), eager.astype(wide)
        atol = tolerance * max(np.abs(b[np.isfinite(b)]).max(initial=0.0), 0.05)
        wrong = ~np.isclose(a, b, rtol=tolerance, atol=atol, equal_nan=True)
    if wrong.any():
        at = tuple(int(i) for i in np.unravel_index(int(wrong.argmax()), wrong.shape))
        raise MismatchError(
            f"jit: {name}: {what} differs at {list(at)}: {replayed[at]} in the replay, {eager[at]} in the step "
            f"({int(wrong.sum())} of {wrong.size} elements differ)"
        )
