"""LARS: momentum with a layer-wise learning rate, for large batches."""

from __future__ import annotations

from typing import Any

from minidl.ops.optimizer import lars_update
from minidl.optim.optimizer import Optimizer, Rule
from minidl.optim.options import option
from minidl.ranges import at_least


class LARS(Optimizer):
    """LARS (:func:`minidl.ops.optimizer.lars_update`).

    Biases and normalization weights usually go into a group with ``weight_decay=0`` and ``adapt=False``.
    """

    lr: float = option(at_least(0), default=0.1)
    momentum: float = option(at_least(0), default=0.9)
    weight_decay: float = option(at_least(0), default=0.0)
    trust_coefficient: float = option(at_least(0), default=1e-3)
    adapt: bool = option(default=True, kw_only=True)
    maximize: bool = option(default=False, kw_only=True)

    def rule(self, group: dict[str, Any]) -> Rule:
        return Rule.of(lars_update, group, ("momentum_buffer",))
