"""Exponential moving average of weights."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from minidl.core.registry import backend_of, primitives, to_numpy
from minidl.core.tensor import Tensor
from minidl.core.trace import guard, live, replaced
from minidl.ops.optimizer import ema_update


class ExponentialMovingAverage:
    """Keeps ``average = decay * average + (1 - decay) * weight`` (Polyak and Juditsky, 1992), updated after each step.

    Parameters
    ----------
    model_or_params:
        a Module, Tensors, or ``(name, Tensor)`` pairs.
    decay:
        in [0, 1].
    warmup:
        start with a smaller decay, ``min(decay, (1 + n) / (10 + n))`` at update ``n``, to forget the first weights
        sooner.
    buffers:
        also average a Module's floating-point buffers, such as batch-norm statistics, and copy its other buffers.

    Raises ValueError for a decay out of range or an empty list of parameters.

    >>> from minidl import nn, optim
    >>> p = nn.Parameter([0.0])
    >>> ema = optim.ExponentialMovingAverage([("p", p)], decay=0.5)
    >>> _ = p.assign_([1.0])
    >>> ema.update()
    >>> with ema.average_parameters():
    ...     print(p.item())
    0.5
    >>> p.item()
    1.0
    """

    def __init__(
        self,
        model_or_params: Any,
        decay: float = 0.999,
        *,
        warmup: bool = False,
        buffers: bool = False,
    ) -> None:
        if not 0 <= decay <= 1:
            raise ValueError(f"ExponentialMovingAverage: decay must be in [0, 1], got {decay}")
        self.decay, self.warmup, self.num_updates = decay, warmup, 0
        self._model = model_or_params if hasattr(model_or_params, "named_parameters") else None
        self._with_buffers = buffers
        self._params = {} if self._model else _named(model_or_params)
        self.shadow = {name: t.array.copy() for name, t in self._tensors().items()}
        if not self.shadow:
            raise ValueError("ExponentialMovingAverage: got an empty list of parameters")

    def _tensors(self) -> dict[str, Tensor]:
        """What is averaged, by name. A Module is asked each time, because it may replace its buffers."""
        if self._model is None:
            return self._params
        named = dict(self._model.named_parameters())
        if self._with_buffers:
            named.update(self._model.named_buffers())
        return named

    def update(self) -> None:
        """Update the average with the current weights."""
        decay = live(self._next_decay, (lambda: self.num_updates, self._set_num_updates))
        tensors = self._tensors()
        guard(lambda: tuple(map(id, self._tensors().values())))
        for name, t in tensors.items():
            old = self.shadow[name]
            new = ema_update(old, t.array, decay) if t.dtype.kind in "fV" else primitives["copy"](t.array)
            self.shadow[name] = new
            replaced(old, new, functools.partial(self._shadow, name), functools.partial(self._put, name))

    def _next_decay(self) -> float:
        self.num_updates += 1
        n = self.num_updates
        return min(self.decay, (1 + n) / (10 + n)) if self.warmup else self.decay

    def _set_num_updates(self, n: int) -> None:
        self.num_updates = n

    def _shadow(self, name: str) -> Any:
        return self.shadow[name]

    def _put(self, name: str, array: Any) -> None:
        self.shadow[name] = array

    def copy_to(self) -> None:
        """Overwrite the weights with their average."""
        for name, t in self._tensors().items():
            t.assign_(self.shadow[name])

    @contextlib.contextmanager
    def average_parameters(self) -> Iterator[None]:
        """Use the average as weights inside the ``with`` block; restore the weights afterwards, also after an error."""
        kept = [(t, t.array.copy()) for t in self._tensors().values()]
        try:
            self.copy_to()
            yield
        finally:
            for t, array in kept:
                t.assign_(array)

    def state_dict(self) -> dict[str, Any]:
        """A snapshot; ``shadow`` holds the averages as NumPy copies."""
        return {
            "decay": self.decay,
            "warmup": self.warmup,
            "num_updates": self.num_updates,
            "shadow": {name: np.array(to_numpy(a)) for name, a in self.shadow.items()},
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned. Raises ValueError if names or shapes differ."""
        saved = state_dict["shadow"]
        if saved.keys() != self.shadow.keys():
            raise ValueError(
                f"ExponentialMovingAverage: names differ: {sorted(saved.keys() ^ self.shadow.keys())} on one side only"
            )
        shadow = {}
        for name, have in self.shadow.items():
            array = np.array(to_numpy(saved[name]), dtype=have.dtype)
            if array.shape != have.shape:
                raise ValueError(
                    f"ExponentialMovingAverage: saved {name} has shape {array.shape}, expected {have.shape}"
                )
            shadow[name] = backend_of(have).asarray(array)
        self.shadow = shadow
        self.decay, self.warmup = state_dict["decay"], state_dict["warmup"]
        self.num_updates = int(state_dict["num_updates"])


def _named(params: Iterable[Tensor] | Iterable[tuple[str, Tensor]]) -> dict[str, Tensor]:
    return dict(p if isinstance(p, tuple) else (str(i), p) for i, p in enumerate(params))
