"""RMSProp."""

from __future__ import annotations

from typing import Any

from minidl.ops.optimizer import rmsprop_update
from minidl.optim.optimizer import Optimizer, Rule
from minidl.optim.options import option
from minidl.ranges import at_least, fraction


class RMSprop(Optimizer):
    """RMSProp (:func:`minidl.ops.optimizer.rmsprop_update`); arguments as in PyTorch."""

    lr: float = option(at_least(0), default=1e-2)
    alpha: float = option(fraction, default=0.99)
    eps: float = option(at_least(0), default=1e-8)
    weight_decay: float = option(at_least(0), default=0.0)
    momentum: float = option(at_least(0), default=0.0)
    centered: bool = option(default=False)
    maximize: bool = option(default=False, kw_only=True)

    def rule(self, group: dict[str, Any]) -> Rule:
        mean = "grad_avg" if group["centered"] else None
        momentum = "momentum_buffer" if group["momentum"] else None
        return Rule.of(rmsprop_update, group, ("square_avg",), (mean, momentum))
