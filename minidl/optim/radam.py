"""RAdam: Adam with the variance of its early steps rectified."""

from __future__ import annotations

from typing import Any

from minidl.ops.optimizer import radam_update
from minidl.optim.optimizer import Optimizer, Params, Rule


class RAdam(Optimizer):
    """Rectified Adam (:func:`minidl.ops.optimizer.radam_update`); arguments as in PyTorch."""

    def __init__(
        self,
        params: Params,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        decoupled_weight_decay: bool = False,
        *,
        maximize: bool = False,
    ) -> None:
        super().__init__(
            params,
            {
                "lr": lr,
                "betas": betas,
                "eps": eps,
                "weight_decay": weight_decay,
                "decoupled_weight_decay": decoupled_weight_decay,
                "maximize": maximize,
            },
        )

    def rule(self, group: dict[str, Any]) -> Rule:
        beta1, beta2 = group["betas"]
        constants = {
            "beta1": beta1,
            "beta2": beta2,
            "eps": group["eps"],
            "weight_decay": group["weight_decay"],
            "decoupled": group["decoupled_weight_decay"],
            "maximize": group["maximize"],
        }
        return Rule(radam_update, ("exp_avg", "exp_avg_sq"), (), constants)
