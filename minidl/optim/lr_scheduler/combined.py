"""Schedules made of other schedules."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from typing import Any

from minidl.core.trace import refuse
from minidl.optim.lr_scheduler.base import LRScheduler
from minidl.optim.lr_scheduler.plateau import ReduceLROnPlateau
from minidl.optim.optimizer import Optimizer


class _Composite(LRScheduler):
    """Schedulers made of others for the same optimizer."""

    def __init__(self, optimizer: Optimizer, schedulers: Sequence[LRScheduler]) -> None:
        self._attach(optimizer)
        who = type(self).__name__
        for i, s in enumerate(schedulers):
            if not isinstance(s, LRScheduler) or isinstance(s, ReduceLROnPlateau):
                raise TypeError(f"{who}: scheduler {i} is a {type(s).__name__}, which cannot be combined")
            if s.optimizer is not optimizer:
                raise ValueError(f"{who}: scheduler {i} is for another optimizer")
        if not schedulers:
            raise ValueError(f"{who}: got no scheduler")
        self._schedulers = list(schedulers)
        self.last_epoch = 0

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "schedulers": [s.state_dict() for s in self._schedulers]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        parts = state_dict["schedulers"]
        super().load_state_dict({k: v for k, v in state_dict.items() if k != "schedulers"})
        for s, part in zip(self._schedulers, parts, strict=True):
            s.load_state_dict(part)


class SequentialLR(_Composite):
    """One scheduler after another; number ``i`` starts, from the initial rates, at step ``milestones[i - 1]``.

    Raises ValueError unless there is one milestone fewer than schedulers.
    """

    def __init__(self, optimizer: Optimizer, schedulers: Sequence[LRScheduler], milestones: Sequence[int]) -> None:
        super().__init__(optimizer, schedulers)
        if len(milestones) != len(schedulers) - 1:
            raise ValueError(
                f"SequentialLR: got {len(milestones)} milestones for {len(schedulers)} schedulers; expected one fewer"
            )
        self.milestones = list(milestones)
        self.begin()

    def _start(self, scheduler: LRScheduler) -> None:
        self._set(self.base_lrs)
        scheduler.begin()

    def begin(self) -> None:
        self.last_epoch = 0
        self._start(self._schedulers[bisect_right(self.milestones, 0)])

    def step(self) -> None:
        refuse("a scheduler's step()", "call it after the step")
        self.last_epoch += 1
        i = bisect_right(self.milestones, self.last_epoch)
        if i > 0 and self.milestones[i - 1] == self.last_epoch:
            self._start(self._schedulers[i])
        else:
            self._schedulers[i].step()


class ChainedScheduler(_Composite):
    """All schedulers at once: each multiplies the learning rate that the previous one set."""

    def __init__(self, schedulers: Sequence[LRScheduler], optimizer: Optimizer | None = None) -> None:
        super().__init__(optimizer or schedulers[0].optimizer, schedulers)

    def begin(self) -> None:
        self.last_epoch = 0
        for s in self._schedulers:
            s.begin()

    def step(self) -> None:
        refuse("a scheduler's step()", "call it after the step")
        self.last_epoch += 1
        for s in self._schedulers:
            s.step()
