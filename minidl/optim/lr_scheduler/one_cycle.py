"""The one-cycle schedule, of learning rate and momentum."""

from __future__ import annotations

import math
from collections.abc import Sequence

from minidl.optim.lr_scheduler.base import LRScheduler, per_group
from minidl.optim.optimizer import Optimizer
from minidl.ranges import above, at_least, fraction, one_of, whole


class OneCycleLR(LRScheduler):
    """Up from ``max_lr / div_factor`` to ``max_lr`` in the first ``pct_start`` of ``total_steps``, then down to
    ``max_lr / div_factor / final_div_factor``. Step it every batch (Smith and Topin, "Super-convergence", 2018).

    With ``three_phase`` it comes down as fast as it went up, and reaches the final rate in the remaining steps.
    ``cycle_momentum`` moves ``momentum`` (or the first of ``betas``) the opposite way, between ``max_momentum`` and
    ``base_momentum``. ``anneal_strategy`` is ``"cos"`` or ``"linear"``. Raises ValueError for options out of range, for
    an optimizer without momentum, and for a step beyond ``total_steps``.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        max_lr: float | Sequence[float],
        total_steps: int | None = None,
        epochs: int | None = None,
        steps_per_epoch: int | None = None,
        pct_start: float = 0.3,
        anneal_strategy: str = "cos",
        cycle_momentum: bool = True,
        base_momentum: float | Sequence[float] = 0.85,
        max_momentum: float | Sequence[float] = 0.95,
        div_factor: float = 25.0,
        final_div_factor: float = 1e4,
        three_phase: bool = False,
        last_epoch: int = -1,
    ) -> None:
        self._attach(optimizer)
        if total_steps is None and epochs is not None and steps_per_epoch is not None:
            total_steps = epochs * steps_per_epoch
        if total_steps is None:
            raise ValueError("OneCycleLR: give total_steps, or epochs and steps_per_epoch")
        whole(1).check("OneCycleLR: total_steps, or epochs * steps_per_epoch,", total_steps)
        fraction.check("OneCycleLR: pct_start", pct_start)
        one_of("cos", "linear").check("OneCycleLR: anneal_strategy", anneal_strategy)
        above(0).check("OneCycleLR: div_factor", div_factor)
        above(0).check("OneCycleLR: final_div_factor", final_div_factor)
        self.momentum_name = next((n for n in ("betas", "momentum") if n in optimizer.defaults), None)
        if cycle_momentum and self.momentum_name is None:
            raise ValueError(f"OneCycleLR: {type(optimizer).__name__} has no momentum to cycle; cycle_momentum=False?")
        self.total_steps, self.anneal_strategy, self.cycle_momentum = total_steps, anneal_strategy, cycle_momentum
        up = pct_start * total_steps - 1
        lrs, momenta = ["initial_lr", "max_lr", "min_lr"], ["max_momentum", "base_momentum", "max_momentum"]
        #: the step at which each level is reached, and the names of the levels
        self.knots = [0, up, total_steps - 1]
        if three_phase:
            lrs.insert(2, "initial_lr")
            momenta.append("max_momentum")
            self.knots.insert(2, 2 * pct_start * total_steps - 2)
        self.levels = list(zip(lrs, momenta))
        if last_epoch == -1:
            options = (max_lr, "max_lr"), (base_momentum, "base_momentum"), (max_momentum, "max_momentum")
            for group, top, low, high in zip(
                optimizer.param_groups, *(per_group(value, optimizer, name) for value, name in options)
            ):
                at_least(0).check("OneCycleLR: max_lr", top)
                initial = top / div_factor
                group.update(initial_lr=initial, max_lr=top, min_lr=initial / final_div_factor)
                if cycle_momentum:
                    group.update(base_momentum=low, max_momentum=high)
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float]:
        t = self.last_epoch
        if t > self.total_steps:
            raise ValueError(f"OneCycleLR: step {t} of a schedule of {self.total_steps} steps")
        phase = next((i for i, end in enumerate(self.knots[1:-1]) if t <= end), len(self.knots) - 2)
        start, end = self.knots[phase : phase + 2]
        done = (t - start) / (end - start) if end > start else 1.0
        if self.anneal_strategy == "cos":
            done = (1 - math.cos(math.pi * done)) / 2
        (lr_from, momentum_from), (lr_to, momentum_to) = self.levels[phase : phase + 2]
        lrs = []
        for group in self.optimizer.param_groups:
            lrs.append(group[lr_from] + (group[lr_to] - group[lr_from]) * done)
            if self.cycle_momentum:
                momentum = group[momentum_from] + (group[momentum_to] - group[momentum_from]) * done
                if self.momentum_name == "betas":
                    group["betas"] = (momentum, *group["betas"][1:])
                else:
                    group["momentum"] = momentum
        return lrs

    closed_form = get_lr
