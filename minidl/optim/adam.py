"""Adam and AdamW."""

from __future__ import annotations

from typing import Any

from minidl.ops.optimizer import adam_update
from minidl.optim.optimizer import Optimizer, Params, Rule


class Adam(Optimizer):
    """Adam (:func:`minidl.ops.optimizer.adam_update`); arguments as in PyTorch.

    ``weight_decay`` is added to the gradient, or with ``decoupled_weight_decay`` applied to the parameter (AdamW).
    """

    def __init__(
        self,
        params: Params,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        amsgrad: bool = False,
        *,
        maximize: bool = False,
        decoupled_weight_decay: bool = False,
    ) -> None:
        super().__init__(
            params,
            {
                "lr": lr,
                "betas": betas,
                "eps": eps,
                "weight_decay": weight_decay,
                "amsgrad": amsgrad,
                "maximize": maximize,
                "decoupled_weight_decay": decoupled_weight_decay,
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
        largest = "max_exp_avg_sq" if group["amsgrad"] else None
        return Rule(adam_update, ("exp_avg", "exp_avg_sq"), (largest,), constants)


class AdamW(Adam):
    """Adam with decoupled weight decay (Loshchilov and Hutter, 2019); arguments as in PyTorch."""

    def __init__(
        self,
        params: Params,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        amsgrad: bool = False,
        *,
        maximize: bool = False,
    ) -> None:
        super().__init__(
            params, lr, betas, eps, weight_decay, amsgrad, maximize=maximize, decoupled_weight_decay=True
        )  # fmt: skip
