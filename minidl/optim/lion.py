"""Lion: the sign of an interpolated momentum."""

from __future__ import annotations

from typing import Any

from minidl.ops.optimizer import lion_update
from minidl.optim.optimizer import Optimizer, Params, Rule


class Lion(Optimizer):
    """Lion (:func:`minidl.ops.optimizer.lion_update`).

    Its steps have the size of ``lr`` in every coordinate, so ``lr`` is taken 3 to 10 times smaller than AdamW's.
    """

    def __init__(
        self,
        params: Params,
        lr: float = 1e-4,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.0,
        *,
        maximize: bool = False,
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "weight_decay": weight_decay, "maximize": maximize})

    def rule(self, group: dict[str, Any]) -> Rule:
        beta1, beta2 = group["betas"]
        constants = {"beta1": beta1, "beta2": beta2, **{k: group[k] for k in ("weight_decay", "maximize")}}
        return Rule(lion_update, ("exp_avg",), (), constants)
