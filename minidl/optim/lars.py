"""LARS: momentum with a layer-wise learning rate, for large batches."""

from __future__ import annotations

from typing import Any

from minidl.ops.optimizer import lars_update
from minidl.optim.optimizer import Optimizer, Params, Rule


class LARS(Optimizer):
    """LARS (:func:`minidl.ops.optimizer.lars_update`).

    Biases and normalization weights usually go into a group with ``weight_decay=0`` and ``adapt=False``.
    """

    def __init__(
        self,
        params: Params,
        lr: float = 0.1,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        trust_coefficient: float = 1e-3,
        *,
        adapt: bool = True,
        maximize: bool = False,
    ) -> None:
        super().__init__(
            params,
            {
                "lr": lr,
                "momentum": momentum,
                "weight_decay": weight_decay,
                "trust_coefficient": trust_coefficient,
                "adapt": adapt,
                "maximize": maximize,
            },
        )

    def rule(self, group: dict[str, Any]) -> Rule:
        constants = {k: group[k] for k in ("momentum", "weight_decay", "trust_coefficient", "adapt", "maximize")}
        return Rule(lars_update, ("momentum_buffer",), (), constants)
