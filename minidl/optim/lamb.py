"""LAMB: Adam with a layer-wise trust ratio, for large batches."""

from __future__ import annotations

from typing import Any

from minidl.ops.optimizer import lamb_update
from minidl.optim.optimizer import Optimizer, Rule
from minidl.optim.options import option
from minidl.ranges import at_least, decay_rates


class LAMB(Optimizer):
    """LAMB (:func:`minidl.ops.optimizer.lamb_update`).

    Biases and normalization weights usually go into a group with ``weight_decay=0`` and ``adapt=False``.
    """

    lr: float = option(at_least(0), default=1e-3)
    betas: tuple[float, float] = option(decay_rates, default=(0.9, 0.999))
    eps: float = option(at_least(0), default=1e-6)
    weight_decay: float = option(at_least(0), default=0.0)
    adapt: bool = option(default=True, kw_only=True)
    maximize: bool = option(default=False, kw_only=True)

    def rule(self, group: dict[str, Any]) -> Rule:
        return Rule.of(lamb_update, group, ("exp_avg", "exp_avg_sq"))
