"""Adadelta."""

from __future__ import annotations

from typing import Any

from minidl.ops.optimizer import adadelta_update
from minidl.optim.optimizer import Optimizer, Rule
from minidl.optim.options import option
from minidl.ranges import at_least, fraction


class Adadelta(Optimizer):
    """Adadelta (:func:`minidl.ops.optimizer.adadelta_update`); arguments as in PyTorch."""

    lr: float = option(at_least(0), default=1.0)
    rho: float = option(fraction, default=0.9)
    eps: float = option(at_least(0), default=1e-6)
    weight_decay: float = option(at_least(0), default=0.0)
    maximize: bool = option(default=False, kw_only=True)

    def rule(self, group: dict[str, Any]) -> Rule:
        return Rule.of(adadelta_update, group, ("square_avg", "acc_delta"))
