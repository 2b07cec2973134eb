"""RMSProp."""

from __future__ import annotations

from typing import Any

from minidl.ops.optimizer import rmsprop_update
from minidl.optim.optimizer import Optimizer, Params, Rule


class RMSprop(Optimizer):
    """RMSProp (:func:`minidl.ops.optimizer.rmsprop_update`); arguments as in PyTorch."""

    def __init__(
        self,
        params: Params,
        lr: float = 1e-2,
        alpha: float = 0.99,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        momentum: float = 0.0,
        centered: bool = False,
        *,
        maximize: bool = False,
    ) -> None:
        super().__init__(
            params,
            {
                "lr": lr,
                "alpha": alpha,
                "eps": eps,
                "weight_decay": weight_decay,
                "momentum": momentum,
                "centered": centered,
                "maximize": maximize,
            },
        )

    def rule(self, group: dict[str, Any]) -> Rule:
        constants = {k: group[k] for k in ("alpha", "eps", "momentum", "weight_decay", "maximize")}
        optional = ("grad_avg" if group["centered"] else None, "momentum_buffer" if group["momentum"] else None)
        return Rule(rmsprop_update, ("square_avg",), optional, constants)


RMSProp = RMSprop
