"""Adadelta."""

from __future__ import annotations

from typing import Any

from minidl.ops.optimizer import adadelta_update
from minidl.optim.optimizer import Optimizer, Params, Rule


class Adadelta(Optimizer):
    """Adadelta (:func:`minidl.ops.optimizer.adadelta_update`); arguments as in PyTorch."""

    def __init__(
        self,
        params: Params,
        lr: float = 1.0,
        rho: float = 0.9,
        eps: float = 1e-6,
        weight_decay: float = 0.0,
        *,
        maximize: bool = False,
    ) -> None:
        super().__init__(params, {"lr": lr, "rho": rho, "eps": eps, "weight_decay": weight_decay, "maximize": maximize})

    def rule(self, group: dict[str, Any]) -> Rule:
        constants = {k: group[k] for k in ("rho", "eps", "weight_decay", "maximize")}
        return Rule(adadelta_update, ("square_avg", "acc_delta"), (), constants)
