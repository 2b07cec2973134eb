"""Stochastic gradient descent."""

from __future__ import annotations

from typing import Any

from minidl.ops.optimizer import sgd_update
from minidl.optim.optimizer import Optimizer, Params, Rule


class SGD(Optimizer):
    """Gradient descent with momentum (:func:`minidl.ops.optimizer.sgd_update`); arguments as in PyTorch.

    Raises ValueError for ``nesterov`` without momentum or with dampening.
    """

    def __init__(
        self,
        params: Params,
        lr: float = 1e-3,
        momentum: float = 0.0,
        dampening: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
        *,
        maximize: bool = False,
    ) -> None:
        super().__init__(
            params,
            {
                "lr": lr,
                "momentum": momentum,
                "dampening": dampening,
                "weight_decay": weight_decay,
                "nesterov": nesterov,
                "maximize": maximize,
            },
        )

    def check(self, group: dict[str, Any]) -> None:
        super().check(group)
        if group["nesterov"] and (group["momentum"] <= 0 or group["dampening"] != 0):
            raise ValueError("SGD: nesterov needs a momentum and no dampening")

    def rule(self, group: dict[str, Any]) -> Rule:
        constants = {k: group[k] for k in ("momentum", "dampening", "nesterov", "weight_decay", "maximize")}
        return Rule(sgd_update, (), ("momentum_buffer" if group["momentum"] else None,), constants)
