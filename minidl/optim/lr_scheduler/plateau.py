"""The schedule that waits for a metric to stop improving."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from minidl.core.trace import refuse
from minidl.optim.lr_scheduler.base import LRScheduler, per_group
from minidl.optim.optimizer import Optimizer
from minidl.ranges import at_least, below_one, one_of, whole


class ReduceLROnPlateau(LRScheduler):
    """Times ``factor`` once the value given to ``step(metrics)`` has not improved for more than ``patience`` steps.

    For ``mode="min"``, a value improves if it is below ``best * (1 - threshold)`` (``threshold_mode="rel"``) or below
    ``best - threshold`` (``"abs"``); NaN never does. After a reduction, ``cooldown`` steps do not count. The rate never
    goes below ``min_lr``, and does not change by less than ``eps``. Raises ValueError for options out of range.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        mode: str = "min",
        factor: float = 0.1,
        patience: int = 10,
        threshold: float = 1e-4,
        threshold_mode: str = "rel",
        cooldown: int = 0,
        min_lr: float | Sequence[float] = 0.0,
        eps: float = 1e-8,
    ) -> None:
        self._attach(optimizer)
        for name, allowed, value in (
            ("mode", one_of("min", "max"), mode),
            ("factor", below_one, factor),
            ("patience", whole(0), patience),
            ("threshold", at_least(0), threshold),
            ("threshold_mode", one_of("rel", "abs"), threshold_mode),
            ("cooldown", whole(0), cooldown),
            ("eps", at_least(0), eps),
        ):
            allowed.check(f"ReduceLROnPlateau: {name}", value)
        self.mode, self.threshold, self.threshold_mode = mode, threshold, threshold_mode
        self.reduction, self.patience, self.cooldown, self.eps = factor, patience, cooldown, eps
        self.min_lr = min_lr
        for low in per_group(min_lr, optimizer, "min_lr"):
            at_least(0).check("ReduceLROnPlateau: min_lr", low)
        self.last_epoch = 0
        self.best = math.inf if mode == "min" else -math.inf
        self.num_bad_epochs = 0
        self.cooldown_counter = 0

    def is_better(self, value: float) -> bool:
        """Whether ``value`` improves on the best so far by more than the threshold."""
        sign = 1 if self.mode == "max" else -1
        if self.threshold_mode == "rel":
            bound = self.best * (1 + sign * self.threshold)
        else:
            bound = self.best + sign * self.threshold
        return value > bound if self.mode == "max" else value < bound

    def step(self, metrics: Any) -> None:  # type: ignore[override]
        refuse("a scheduler's step()", "call it after the step")
        value = float(metrics)
        self.last_epoch += 1
        if self.is_better(value):
            self.best, self.num_bad_epochs = value, 0
        else:
            self.num_bad_epochs += 1
        if self.cooldown_counter > 0:
            self.cooldown_counter -= 1
            self.num_bad_epochs = 0
        if self.num_bad_epochs > self.patience:
            for group, low in zip(self.optimizer.param_groups, per_group(self.min_lr, self.optimizer, "min_lr")):
                lr = max(group["lr"] * self.reduction, low)
                if group["lr"] - lr > self.eps:
                    group["lr"] = lr
            self.cooldown_counter, self.num_bad_epochs = self.cooldown, 0
