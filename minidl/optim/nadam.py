"""NAdam: Adam with Nesterov momentum."""

from __future__ import annotations

from typing import Any

from minidl.core.registry import namespace
from minidl.core.tensor import Tensor
from minidl.ops.optimizer import nadam_update
from minidl.optim.optimizer import Optimizer, Params, Rule


class NAdam(Optimizer):
    """NAdam (:func:`minidl.ops.optimizer.nadam_update`); arguments as in PyTorch."""

    def __init__(
        self,
        params: Params,
        lr: float = 2e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        momentum_decay: float = 4e-3,
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
                "momentum_decay": momentum_decay,
                "decoupled_weight_decay": decoupled_weight_decay,
                "maximize": maximize,
            },
        )

    def initial_state(self, name: str, p: Tensor, group: dict[str, Any]) -> Any:
        if name == "mu_product":
            return namespace(p.data).ones((), dtype=p.dtype)
        return super().initial_state(name, p, group)

    def rule(self, group: dict[str, Any]) -> Rule:
        beta1, beta2 = group["betas"]
        constants = {
            "beta1": beta1,
            "beta2": beta2,
            "eps": group["eps"],
            "momentum_decay": group["momentum_decay"],
            "weight_decay": group["weight_decay"],
            "decoupled": group["decoupled_weight_decay"],
            "maximize": group["maximize"],
        }
        return Rule(nadam_update, ("exp_avg", "exp_avg_sq", "mu_product"), (), constants)
