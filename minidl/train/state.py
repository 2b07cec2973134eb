"""Everything a Trainer needs in order to resume, as a checkpoint keeps it."""

from __future__ import annotations

import dataclasses
import os
import random
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from minidl.core.tensor import as_tensor
from minidl.random import default_generator

if TYPE_CHECKING:
    from minidl.train.trainer import Trainer


@dataclasses.dataclass
class Place:
    """Where training stands within its epoch."""

    #: an epoch has begun and is not recorded in the history yet
    mid_epoch: bool = False
    #: its batches are used up; validation may still be to come
    trained: bool = False
    #: batches taken from the loader in this epoch
    batches: int = 0
    #: time spent in this epoch, also before it was interrupted: by the clock, and by processors
    seconds: float = 0.0
    cpu_seconds: float = 0.0


class Clock:
    """Time since it was made, on top of what was spent before."""

    def __init__(self, seconds: float = 0.0, cpu_seconds: float = 0.0) -> None:
        self._wall, self._cpu = time.monotonic() - seconds, cpu_time() - cpu_seconds

    def read(self) -> tuple[float, float]:
        """Seconds by the clock, and of processor time."""
        return time.monotonic() - self._wall, cpu_time() - self._cpu


def cpu_time() -> float:
    """Processor time of this process, all its threads, and its children that have ended, in seconds."""
    times = os.times()
    return time.process_time() + times.children_user + times.children_system


def gather(trainer: Trainer, train_loader: Any) -> dict[str, Any]:
    """Everything but the model's own state: nested dicts and lists of numbers, strings and arrays."""
    return {
        "epoch": trainer.epoch,
        "step": trainer.step,
        **dataclasses.asdict(trainer.place),
        "started_at": trainer.started_at,
        "rates": trainer.rates,
        "should_stop": trainer.should_stop,
        "history": trainer.history,
        "metrics": {name: metric.state_dict() for name, metric in _numbered(trainer.running).items()},
        "carried": trainer.carried,
        "optimizer": trainer.optimizer.state_dict(),
        "scheduler": None if trainer.scheduler is None else trainer.scheduler.state_dict(),
        "ema": None if trainer.ema is None else trainer.ema.state_dict(),
        "loader": train_loader.state_dict() if hasattr(train_loader, "state_dict") else None,
        "callbacks": {name: s for name, c in _numbered(trainer.callbacks).items() if (s := c.state_dict())},
        "random": _random_state(),
    }


def restore(trainer: Trainer, model: dict[str, Any], training: dict[str, Any], train_loader: Any) -> None:
    """Take over what :func:`gather` made, and the model's state.

    Raises ValueError, KeyError, RuntimeError or TypeError if it is that of a trainer put together differently.
    """
    trainer.model.load_state_dict(model)
    trainer.optimizer.load_state_dict(training["optimizer"])
    for part, name in ((trainer.scheduler, "scheduler"), (trainer.ema, "ema")):
        if (part is None) != (training[name] is None):
            raise ValueError(f"it was saved {'without' if training[name] is None else 'with'} {name}")
        if part is not None:
            part.load_state_dict(training[name])
    if hasattr(train_loader, "load_state_dict") and training["loader"] is not None:
        train_loader.load_state_dict(training["loader"])
    for what, own in (("metrics", trainer.running), ("callbacks", trainer.callbacks)):
        named, saved = _numbered(own), training[what]
        if homeless := saved.keys() - named.keys():
            raise ValueError(f"it was saved with {what} that this Trainer lacks: {', '.join(homeless)}")
        for name, state in saved.items():
            named[name].load_state_dict(state)
    trainer.epoch, trainer.step = training["epoch"], training["step"]
    trainer.place = Place(**{field.name: training[field.name] for field in dataclasses.fields(Place)})
    epoch, step = training["started_at"]
    trainer.started_at = (epoch, step)
    trainer.rates, trainer.should_stop = training["rates"], training["should_stop"]
    trainer.history, trainer.carried = training["history"], map_leaves(as_tensor, training["carried"])
    _set_random_state(training["random"])


def map_leaves(function: Callable[[Any], Any], tree: Any) -> Any:
    """``function`` on every leaf of nested tuples, lists and dicts; lists become tuples, None stays None."""
    if tree is None:
        return None
    if isinstance(tree, (tuple, list)):
        return tuple(map_leaves(function, t) for t in tree)
    if isinstance(tree, dict):
        return {k: map_leaves(function, t) for k, t in tree.items()}
    return function(tree)


def _numbered(parts: Sequence[Any]) -> dict[str, Any]:
    """Metrics or callbacks by class name and number, so that their saved states find them."""
    count: dict[str, int] = {}
    named = {}
    for part in parts:
        name = type(part).__name__
        count[name] = count.get(name, -1) + 1
        named[f"{name}{count[name]}"] = part
    return named


def _random_state() -> dict[str, Any]:
    """Python's, NumPy's and minidl's default generators."""
    version, words, gauss = random.getstate()
    return {
        "minidl": default_generator().get_state(),
        "numpy": np.random.get_state(),
        "python": (version, np.array(words, np.uint32), gauss),
    }


def _set_random_state(state: dict[str, Any]) -> None:
    default_generator().set_state(state["minidl"])
    np.random.set_state(tuple(state["numpy"]))
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words.tolist()), gauss))
