"""Stochastic gradient descent."""

from __future__ import annotations

from typing import Any

from minidl.ops.optimizer import sgd_update
from minidl.optim.optimizer import Optimizer, Rule
from minidl.optim.options import option
from minidl.ranges import at_least


class SGD(Optimizer):
    """Gradient descent with momentum (:func:`minidl.ops.optimizer.sgd_update`); arguments as in PyTorch.

    Raises ValueError for ``nesterov`` without momentum or with dampening.
    """

    lr: float = option(at_least(0), default=1e-3)
    momentum: float = option(at_least(0), default=0.0)
    dampening: float = option(default=0.0)
    weight_decay: float = option(at_least(0), default=0.0)
    nesterov: bool = option(default=False)
    maximize: bool = option(default=False, kw_only=True)

    def check(self, group: dict[str, Any]) -> None:
        super().check(group)
        if group["nesterov"] and (group["momentum"] <= 0 or group["dampening"] != 0):
            raise ValueError("SGD: nesterov needs a momentum and no dampening")

    def rule(self, group: dict[str, Any]) -> Rule:
        return Rule.of(sgd_update, group, (), ("momentum_buffer" if group["momentum"] else None,))
