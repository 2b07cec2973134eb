"""LAMB: Adam with a layer-wise trust ratio, for large batches."""

from __future__ import annotations

from typing import Any

from minidl.ops.optimizer import lamb_update
from minidl.optim.optimizer import Optimizer, Params, Rule


class LAMB(Optimizer):
    """LAMB (:func:`minidl.ops.optimizer.lamb_update`).

    Biases and normalization weights usually go into a group with ``weight_decay=0`` and ``adapt=False``.
    """

    def __init__(
        self,
        params: Params,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
        weight_decay: float = 0.0,
        *,
        adapt: bool = True,
        maximize: bool = False,
    ) -> None:
        super().__init__(
            params,
            {
                "lr": lr,
                "betas": betas,
                "eps": eps,
                "weight_decay": weight_decay,
                "adapt": adapt,
                "maximize": maximize,
            },
        )

    def rule(self, group: dict[str, Any]) -> Rule:
        beta1, beta2 = group["betas"]
        constants = {k: group[k] for k in ("eps", "weight_decay", "adapt", "maximize")}
        return Rule(lamb_update, ("exp_avg", "exp_avg_sq"), (), {"beta1": beta1, "beta2": beta2, **constants})
