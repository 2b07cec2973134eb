"""RAdam: Adam with the variance of its early steps rectified."""

from __future__ import annotations

from typing import Any

from minidl.ops.optimizer import radam_update
from minidl.optim.optimizer import Optimizer, Rule
from minidl.optim.options import option
from minidl.ranges import at_least, decay_rates


class RAdam(Optimizer):
    """Rectified Adam (:func:`minidl.ops.optimizer.radam_update`); arguments as in PyTorch."""

    lr: float = option(at_least(0), default=1e-3)
    betas: tuple[float, float] = option(decay_rates, default=(0.9, 0.999))
    eps: float = option(at_least(0), default=1e-8)
    weight_decay: float = option(at_least(0), default=0.0)
    decoupled_weight_decay: bool = option(default=False)
    maximize: bool = option(default=False, kw_only=True)

    def rule(self, group: dict[str, Any]) -> Rule:
        return Rule.of(radam_update, group, ("exp_avg", "exp_avg_sq"))
