"""What all schedules share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from minidl.core.trace import refuse
from minidl.optim.optimizer import Optimizer


class LRScheduler:
    """Base class. A subclass sets its options, calls ``super().__init__`` last, and defines :meth:`factor`, or
    :meth:`get_lr` if its curve is not a factor.

    ``last_epoch`` is the number of steps taken. If given (not -1), the schedule starts one step after it, from the
    groups' ``initial_lr``; raises KeyError if a group has none.
    """

    #: what the factors are relative to: ``eta_min + (initial_lr - eta_min) * f(t)``
    eta_min = 0.0

    def __init__(self, optimizer: Optimizer, last_epoch: int = -1) -> None:
        self._attach(optimizer)
        for i, group in enumerate(optimizer.param_groups):
            if last_epoch == -1:
                group.setdefault("initial_lr", group["lr"])
            elif "initial_lr" not in group:
                raise KeyError(f"{type(self).__name__}: last_epoch={last_epoch}, but group {i} has no 'initial_lr'")
        if last_epoch == -1:
            self.begin()
        else:
            self.last_epoch = last_epoch + 1
            self._set(self.closed_form())

    def _attach(self, optimizer: Optimizer) -> None:
        if not isinstance(optimizer, Optimizer):
            raise TypeError(f"{type(self).__name__}: expected an Optimizer, got {type(optimizer).__name__}")
        self.optimizer = optimizer

    @property
    def base_lrs(self) -> list[float]:
        """The groups' learning rates before any schedule."""
        return [group.setdefault("initial_lr", group["lr"]) for group in self.optimizer.param_groups]

    def factor(self, t: int) -> float:
        """The curve: the factor of the initial learning rate after ``t`` steps."""
        raise NotImplementedError

    def closed_form(self) -> list[float]:
        """Learning rates at ``last_epoch`` if nothing else had changed them."""
        return [self.eta_min + (base - self.eta_min) * self.factor(self.last_epoch) for base in self.base_lrs]

    def get_lr(self) -> list[float]:
        """Learning rates at ``last_epoch``, from those of the step before."""
        now = self.factor(self.last_epoch)
        before = self.factor(self.last_epoch - 1) if self.last_epoch > 0 else 1.0
        lrs = [group["lr"] for group in self.optimizer.param_groups]
        if now == before:
            return lrs
        if before == 0:
            return [lr + (base - self.eta_min) * now for lr, base in zip(lrs, self.base_lrs)]
        return [self.eta_min + (lr - self.eta_min) * (now / before) for lr in lrs]

    def _set(self, lrs: Sequence[float]) -> None:
        for group, lr in zip(self.optimizer.param_groups, lrs, strict=True):
            group["lr"] = lr

    def begin(self) -> None:
        """Apply the curve's first value to the current learning rates."""
        self.last_epoch = 0
        self._set(self.get_lr())

    def step(self) -> None:
        """Advance one step along the curve."""
        refuse("a scheduler's step()", "call it after the step")
        self.last_epoch += 1
        self._set(self.get_lr())

    def get_last_lr(self) -> list[float]:
        """The groups' current learning rates."""
        return [group["lr"] for group in self.optimizer.param_groups]

    def state_dict(self) -> dict[str, Any]:
        """Everything except functions and the optimizer, whose own state holds the learning rates."""
        return {k: v for k, v in vars(self).items() if k not in ("optimizer", "lr_lambdas", "_schedulers")}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned. Raises ValueError for the state of another kind of scheduler."""
        differing = state_dict.keys() ^ LRScheduler.state_dict(self).keys()
        if differing:
            raise ValueError(f"{type(self).__name__}: the saved state is another scheduler's: {sorted(differing)}")
        vars(self).update(state_dict)


def per_group(value: Any, optimizer: Optimizer, name: str) -> list:
    """One value per parameter group, from one for all or from a list."""
    groups = len(optimizer.param_groups)
    if not isinstance(value, (list, tuple)):
        return [value] * groups
    if len(value) != groups:
        raise ValueError(f"{name}: got {len(value)} values for {groups} parameter groups")
    return list(value)
